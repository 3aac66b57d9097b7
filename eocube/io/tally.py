"""From a cube's markers to its rows of the index: the one way, whoever asks (a run at its end, or a rebuild of the index)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from eocube.io.blobs import Blobs
from eocube.io.cubes import spec_from_attrs
from eocube.io.index import ROW, index_row
from eocube.io.markers import Marker, MarkerName, get_marker, list_markers
from eocube.io.template import EOCUBE_ATTR
from eocube.model.hashing import digest
from eocube.model.spec import CubeSpec, Place, Region, region_key


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

    @property
    def place(self) -> Place | None:
        """The site that it belongs to; None where the whole cube is one."""


@dataclass(kw_only=True)
class Sums:
    """Over the written regions of one site."""

    regions: int = 0
    pixels: int = 0
    clear: int = 0
    unfinished: int = 0
    """Regions in which a file could not be read."""


@dataclass(kw_only=True)
class Tally:
    """Sums over the written regions of a cube, site by site."""

    sites: dict[Place | None, Sums] = field(default_factory=dict)
    """None: the whole cube."""

    def add(self, region: Counted) -> None:
        """Count one region."""
        s = self.sites.setdefault(region.place, Sums())
        s.regions += 1
        s.pixels += region.pixels
        s.clear += region.clear
        s.unfinished += bool(region.failed)

    @property
    def unfinished(self) -> int:
        """Regions in which a file could not be read, of all sites."""
        return sum(s.unfinished for s in self.sites.values())

    def copy(self) -> Tally:
        """One that is counted on by itself."""
        return Tally(sites={place: replace(s) for place, s in self.sites.items()})


def cube_rows(attrs: Mapping[str, Any], tally: Tally, *, site: str) -> list[dict[str, Any]]:
    """The index rows of a cube, from the attributes of its group and its sums; of sites whose every region is counted.

    ``site`` names the whole cube, where it is one. Equal arguments give equal rows.
    """
    spec = spec_from_attrs(attrs)
    (ny, nx), dates = spec.frame.shape_yx, spec.grid[0]
    rows = []
    for place, s in sorted(tally.sites.items(), key=lambda p: p[0] or ()):
        n_cells = spec.grid[1] * spec.grid[2] if place is None else len(spec.cells_of(place))
        if s.regions == dates * n_cells:
            row = index_row(
                spec.frame,
                place=place or Place(site, (0, ny), (0, nx)),
                cube=attrs[EOCUBE_ATTR]["cube"],
                product=attrs[EOCUBE_ATTR]["product"],
                counts=(s.clear, s.pixels),
                unfinished=s.unfinished,
                licence=None if attrs.get("license") is None else str(attrs["license"]),
                split=attrs[EOCUBE_ATTR].get("split"),
                group=attrs[EOCUBE_ATTR].get("group"),
            )
            rows.append(row)
    return rows


def finished_rows(
    attrs: Mapping[str, Any], regions: Iterable[Counted | None], *, site: str, so_far: Tally | None = None
) -> list[dict[str, Any]]:
    """As :func:`cube_rows` over what is known of each region; nothing where one is unwritten.

    ``regions`` is drawn to its end or to the first None; ``so_far`` holds the sums over those that are not among them.
    """
    tally = Tally() if so_far is None else so_far.copy()
    for region in regions:
        if region is None:
            return []
        tally.add(region)
    return cube_rows(attrs, tally, site=site)


def row_evidence(attrs: Mapping[str, Any], keys: Iterable[str | None], *, site: str) -> str | None:
    """A name for what a cube's rows follow from: its metadata and the keys of its regions, in order, of each the whole one.

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


def known_regions(spec: CubeSpec, names: Iterable[Region]) -> list[Region]:
    """Regions that a stored cube has: all of its grid; of one in which sites lie those with a marker."""
    if spec.places is None:
        return list(spec.regions())
    return sorted(r for r in names if all(i < n for i, n in zip(r, spec.grid, strict=True)))


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
