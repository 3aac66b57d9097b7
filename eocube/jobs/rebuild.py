"""Delete cubes from a store, so that they can be written anew."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from eocube.errors import UnknownNameError
from eocube.exec.drive import CubePlan
from eocube.io.blobs import Blobs, open_blobs
from eocube.io.cubes import cube_path
from eocube.io.index import PARTS, compact
from eocube.io.markers import marker_folder
from eocube.io.sources import sources_path
from eocube.io.template import ROOT
from eocube.io.verify_index import cube_of_part

CubeName = tuple[str, str]
"""(cube, product)."""


def choose_cubes(names: Iterable[str], plans: Sequence[CubePlan]) -> list[CubeName]:
    """The planned cubes that ``names`` (``cube`` or ``cube/product``) mean. UnknownNameError for a name that means none."""
    planned = [(p.job.cube, p.job.product) for p in plans]
    chosen: dict[CubeName, None] = {}
    for name in names:
        meant = [c for c in planned if name in (c[0], "/".join(c))]
        if not meant:
            raise UnknownNameError("cube to rebuild", name, ["/".join(c) for c in planned[:20]], "what this command would write")
        chosen |= dict.fromkeys(meant)
    return list(chosen)


def delete_cubes(store: str, cubes: Iterable[CubeName], *, storage_options: Mapping[str, Any] | None = None) -> None:
    """Delete cubes with their index parts, markers and bindings; nothing happens where there is none.

    Killed anywhere, what is left is no cube that a later run would take for finished: the row of the index goes first, then the
    markers, then the pixels, and the root last, so that until then another plan is refused and the same one redoes every region.
    """
    blobs = open_blobs(store, storage_options)
    for cube, product in cubes:
        parts = [key for key, _ in blobs.list(f"{PARTS}/{cube}") if cube_of_part(key) == (cube, product)]
        _delete(blobs, parts)
        if parts:
            compact(blobs, trust_index=True)
        _delete(blobs, [key for key, _ in blobs.list(marker_folder(cube, product))])
        root = f"{cube_path(cube, product)}/{ROOT}"
        _delete(blobs, [key for key, _ in blobs.list(cube_path(cube, product)) if key != root])
        _delete(blobs, [sources_path(cube, product), root])


def _delete(blobs: Blobs, keys: Iterable[str]) -> None:
    for key in keys:
        blobs.delete(key)
