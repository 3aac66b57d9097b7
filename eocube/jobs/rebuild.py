"""Delete cubes from a store, so that they can be written anew."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from eocube.errors import ArgumentError, UnknownNameError
from eocube.exec.drive import CubePlan, check_plan
from eocube.io.blobs import Blobs, open_blobs
from eocube.io.cubes import CubeSource, cube_path
from eocube.io.index import PARTS, compact
from eocube.io.markers import marker_folder
from eocube.io.sources import list_sources
from eocube.io.template import ROOT
from eocube.io.verify_index import cube_of_part
from eocube.jobs.roots import require_target

_CHECKS_AT_ONCE = 16

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


def refuse_retry_with_rebuild(*, retry: bool, rebuild: Sequence[str]) -> None:
    """ArgumentError where both are asked for: a cube that is deleted has no region that failed, so nothing would be written."""
    if retry and rebuild:
        raise ArgumentError(
            f"--retry (retry=True) writes only regions in which a file could not be read, and --rebuild {', '.join(rebuild)} "
            "deletes the cube with all of them. Give one: --retry to mend, --rebuild to write anew. Nothing was changed."
        )


AFTER_REBUILD = (
    "The cubes to rebuild are deleted, and what is written of them since is kept. Go on without --rebuild (rebuild=): with it "
    "the same command would delete that again."
)


@contextmanager
def rebuilding(rebuild: Sequence[str]) -> Iterator[None]:
    """What ends a run inside, after cubes were deleted, also says how to go on; nothing where none was."""
    try:
        yield
    except BaseException as e:  # whatever ends it: a worker's death, too little memory, Ctrl-C
        if rebuild:
            e.add_note(AFTER_REBUILD)
        raise


def stored_cubes(store: str, cubes: Iterable[CubeName], *, storage_options: Mapping[str, Any] | None = None) -> list[CubeName]:
    """Those of the cubes that are in the store."""
    blobs = open_blobs(store, storage_options)
    return [(cube, product) for cube, product in cubes if blobs.get(f"{cube_path(cube, product)}/{ROOT}") is not None]


def delete_for_rebuild(
    store: str, plans: Iterable[CubePlan], rebuild: Iterable[str], *, storage_options: Mapping[str, Any] | None = None
) -> list[CubePlan]:
    """The same plans, after those cubes are deleted that ``rebuild`` means.

    Every plan is compared with the store first: where a run would be refused (SettingsError, GridError, LateDateError,
    StalePlanError, CubeError, ArgumentError), nothing is deleted.
    """
    require_target(store, storage_options)
    planned = list(plans)
    chosen = choose_cubes(rebuild, planned)
    blobs, anew = open_blobs(store, storage_options), set(chosen)
    _refuse_own_input(blobs, planned, anew)
    with ThreadPoolExecutor(_CHECKS_AT_ONCE) as pool:
        checks = [pool.submit(check_plan, blobs, p, anew=(p.job.cube, p.job.product) in anew) for p in planned]
        try:
            for check in checks:
                check.result()
        finally:
            pool.shutdown(cancel_futures=True)
    delete_cubes(store, chosen, storage_options=storage_options)
    return planned


def _refuse_own_input(blobs: Blobs, plans: Iterable[CubePlan], anew: Collection[CubeName]) -> None:
    """ArgumentError where a cube that is to be deleted is one that the run reads."""
    read = (s for p in plans for s in p.job.binding.sources.values() if isinstance(s, CubeSource) and (s.cube, s.product) in anew)
    for source in read:
        if open_blobs(source.store_url).url == blobs.url:
            raise ArgumentError(
                f"{source.cube}/{source.product} in {blobs.url} is to be deleted and written anew, and this run reads it. Write "
                "to another product or store. Nothing was changed."
            )


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
        _delete(blobs, [*list_sources(blobs, cube, product), root])


def _delete(blobs: Blobs, keys: Iterable[str]) -> None:
    for key in keys:
        blobs.delete(key)
