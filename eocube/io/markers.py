"""Markers: one small object for each finished region. Its name says what the region was made from, its body what was written.

``markers/<cube>/<product>/<t.y.x>/<region_key>.json`` is a finished region; ``<region_key>.partial.json`` is one in which an
asset failed: unfinished for every later run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import xxhash

from eocube.errors import DamagedStoreError
from eocube.io.blobs import Blobs
from eocube.model.hashing import canonical_json
from eocube.model.spec import Place, Region

MARKERS = "markers"
ObjectDigest = xxhash.xxh3_128
"""Names an object's bytes: tells a damaged one from a whole one, and one input of a chain from another. It sees no forgery."""
_PARTIAL = ".partial"
_NAME = re.compile(r".*/([0-9]+)\.([0-9]+)\.([0-9]+)/([^/.]+)(\.partial)?\.json", re.DOTALL)


class MarkerName(NamedTuple):
    """What a marker's key says."""

    region: Region
    key: str
    partial: bool


@dataclass(frozen=True, kw_only=True)
class Marker:
    """What was written for one region."""

    key: str
    shards: dict[str, list[Any] | None]
    """Key below the store → [bytes, XXH3-128], or None where every pixel is fill and no object exists."""

    pixels: int
    """Pixels × dates of the region."""

    valid: int
    """Of those, how many have data in every band."""

    clear: int
    """Of those, how many are clear by the cube's rule."""

    sources: dict[str, list[Any]]
    """Input name → rows of ``Source.ids``."""

    failed: list[dict[str, str]]
    """Assets that could not be read (errors='skip')."""

    place: Place | None = None
    """The site that the region belongs to; None where the whole cube is one."""


def marker_folder(cube: str, product: str, region: Region | None = None) -> str:
    """Folder of a cube's markers, or of one region's."""
    return f"{MARKERS}/{cube}/{product}" + ("" if region is None else f"/{region}")


def marker_path(cube: str, product: str, name: MarkerName) -> str:
    """Key of a marker below the store."""
    return f"{marker_folder(cube, product, name.region)}/{name.key}{_PARTIAL if name.partial else ''}.json"


def list_markers(blobs: Blobs, cube: str, product: str, region: Region | None = None) -> list[MarkerName]:
    """Every marker of a cube, or of one region, from one listing; what is no marker by its name is passed over.

    So is an empty one, as a machine that lost power may leave it: its region is then written again.
    """
    parsed = (parse_marker(key) for key, n_bytes in blobs.list(marker_folder(cube, product, region)) if n_bytes)
    return sorted(name for name in parsed if name is not None)


def parse_marker(key: str) -> MarkerName | None:
    """What the key of an object below ``markers/`` says; None where it is no marker's."""
    found = _NAME.fullmatch(key)
    if found is None:
        return None
    t, y, x, name, partial = found.groups()
    return MarkerName(Region(int(t), int(y), int(x)), name, partial is not None)


def is_finished(names: Sequence[MarkerName], key: str) -> bool:
    """Whether a region with these markers is finished as ``key``: that one marker, whole, and no other.

    A second one says that a run died while it replaced the first, or that a left-over worker wrote late: whose bytes are there
    is then not known, and the region is written again.
    """
    return len(names) == 1 and names[0].key == key and not names[0].partial


def put_marker(blobs: Blobs, cube: str, product: str, region: Region, marker: Marker) -> MarkerName:
    """Write a marker under the name that its content asks for."""
    name = MarkerName(region, marker.key, bool(marker.failed))
    blobs.put(marker_path(cube, product, name), canonical_json(asdict(marker)).encode())
    return name


def get_marker(blobs: Blobs, cube: str, product: str, name: MarkerName) -> Marker | None:
    """Read a marker; None where another run has replaced it meanwhile."""
    body = blobs.get(marker_path(cube, product, name))
    if body is None:
        return None
    try:
        said = json.loads(body)
        return Marker(**{**said, "place": _place(said.get("place"))})
    except (ValueError, TypeError) as e:
        raise DamagedStoreError(
            f"Marker {marker_path(cube, product, name)} in {blobs.url} is not readable: {e}. "
            "Delete it and run the same command again; its region is then redone."
        ) from e


def _place(said: Sequence[Any] | None) -> Place | None:
    if said is None:
        return None
    site, (y0, y1), (x0, x1) = said
    return Place(site, (y0, y1), (x0, x1))


def delete_markers(blobs: Blobs, cube: str, product: str, names: Iterable[MarkerName]) -> None:
    """Delete markers that a newer one replaces."""
    for name in names:
        blobs.delete(marker_path(cube, product, name))
