"""From a cube's markers to its row of the index: the one way, whoever asks (a run at its end, or a rebuild of the index)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from eocube.io.blobs import Blobs
from eocube.io.cubes import spec_from_attrs
from eocube.io.index import ROW, index_row
from eocube.io.markers import Marker, MarkerName, get_marker, list_markers
from eocube.io.template import EOCUBE_ATTR, frame_from_attrs
from eocube.model.hashing import digest
from eocube.model.spec import CubeSpec, Region, region_key


class Counted(Protocol):
    """What is known of one written region: a marker, or a task's report."""

    @property
    def pixels(self) -> int:
        """Pixels × dates."""

    @property
    def clear(self) -> int:
        """Of those, how many are clear."""

    @property
    def failed(self) -> list[dict[str, str]]:
        """Assets that could not be read."""


@dataclass(kw_only=True)
class Tally:
    """Sums over the written regions of a cube."""

    regions: int = 0
    pixels: int = 0
    clear: int = 0
    unfinished: int = 0
    """Regions in which a file could not be read."""

    def add(self, region: Counted) -> None:
        """Count one region."""
        self.regions += 1
        self.pixels += region.pixels
        self.clear += region.clear
        self.unfinished += bool(region.failed)


def cube_row(attrs: Mapping[str, Any], tally: Tally, *, site: str) -> dict[str, Any]:
    """The index row of a cube, from the attributes of its group and its sums. Equal arguments give equal rows."""
    return index_row(
        frame_from_attrs(attrs),
        site=site,
        cube=attrs[EOCUBE_ATTR]["cube"],
        product=attrs[EOCUBE_ATTR]["product"],
        counts=(tally.clear, tally.pixels),
        unfinished=tally.unfinished,
        licence=None if attrs.get("license") is None else str(attrs["license"]),
    )


def finished_row(
    attrs: Mapping[str, Any], regions: Iterable[Counted | None], *, site: str, so_far: Tally | None = None
) -> dict[str, Any] | None:
    """As :func:`cube_row` over what is known of each region; None where one is unwritten.

    ``regions`` is drawn to its end or to the first None; ``so_far`` holds the sums over those that are not among them.
    """
    tally = Tally() if so_far is None else replace(so_far)
    for region in regions:
        if region is None:
            return None
        tally.add(region)
    return cube_row(attrs, tally, site=site)


def row_evidence(attrs: Mapping[str, Any], keys: Iterable[str | None], *, site: str) -> str | None:
    """A name for what a cube's row follows from: its metadata and the keys of its regions, in order, of each the whole one.

    What is counted in a region may change under its key when it is redone: a run takes back the part with this name first.
    None where a key is None: a region is unwritten, or its key does not say what was counted in it, because files of it failed
    or two runs were there.
    """
    listed = list(keys)
    return None if None in listed else digest([ROW, site, attrs, listed])


def settled_key(names: Sequence[MarkerName]) -> str | None:
    """The key of a region with these markers; None but for one whole marker."""
    return names[0].key if len(names) == 1 and not names[0].partial else None


def markers_by_region(blobs: Blobs, cube: str, product: str) -> dict[Region, list[MarkerName]]:
    """Every marker of a cube, from one listing."""
    return by_region(list_markers(blobs, cube, product))


def by_region(names: Iterable[MarkerName]) -> dict[Region, list[MarkerName]]:
    """Markers by their region."""
    out: dict[Region, list[MarkerName]] = {}
    for name in names:
        out.setdefault(name.region, []).append(name)
    return out


def newest_marker(
    blobs: Blobs, attrs: Mapping[str, Any], names: Sequence[MarkerName], *, spec: CubeSpec | None = None
) -> Marker | None:
    """Of several markers of one region of the cube with these attributes the one to believe; None where there is none.

    Usually there is one. A run killed before it deleted the marker that it replaced leaves two, and so does an append in which
    a file could not be read. Most sources first, because a run never takes dates away; then a whole one that fits the cube.
    """
    e = attrs[EOCUBE_ATTR]
    found = [(name, get_marker(blobs, e["cube"], e["product"], name)) for name in names]
    present = [(name, marker) for name, marker in found if marker is not None]
    if len(present) < 2:
        return present[0][1] if present else None
    spec = spec or spec_from_attrs(attrs)
    return max(present, key=lambda p: _rank(p[0], p[1], attrs, spec))[1]


def _rank(name: MarkerName, marker: Marker, attrs: Mapping[str, Any], spec: CubeSpec) -> tuple[int, bool, bool, str]:
    n_sources = sum(len(rows) for rows in marker.sources.values())
    return n_sources, not name.partial and fits(attrs, spec, name.region, marker), name.partial, name.key


def fits(attrs: Mapping[str, Any], spec: CubeSpec, region: Region, marker: Marker) -> bool:
    """Whether a marker's name follows from its own sources and the cube's attributes (grid, dates, settings)."""
    e = attrs[EOCUBE_ATTR]
    return marker.key == region_key(e["settings_id"], e["cube"], e["product"], spec, region, marker.sources)
