"""audit: does a store hold what its markers say? index: rebuild the index from cubes and markers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import chain
from typing import Any, NamedTuple

import pyarrow as pa

from eocube.errors import ArgumentError, DamagedStoreError, StoreReadError, UnknownNameError
from eocube.exec.executors import Executor, executing
from eocube.io.blobs import STAGING, Blobs, open_blobs
from eocube.io.cubes import cube_path
from eocube.io.index import compact, cube_stem, list_parts, put_part
from eocube.io.markers import MarkerName, marker_folder, parse_marker
from eocube.io.tally import (
    Tally,
    by_region,
    cube_rows,
    finished_rows,
    known_regions,
    markers_by_region,
    newest_marker,
    row_evidence,
    settled_key,
)
from eocube.io.verify import (
    Depth,
    Finding,
    Problem,
    RegionCheck,
    StoredCube,
    Survey,
    can_list,
    check_region,
    find_cubes,
    is_below,
    list_readable,
    region_objects,
    regions_with_objects,
    survey,
    unreadable,
)
from eocube.io.verify_index import IndexCheck
from eocube.io.verify_metadata import check_groups, check_metadata, check_names, open_stored
from eocube.jobs.cures import advice
from eocube.jobs.roots import require_store
from eocube.model.spec import Region

MAX_ROWS = 10_000
"""Most rows that a report keeps; its counts go on."""


@dataclass(frozen=True, kw_only=True)
class AuditRow:
    """One thing that is not as it should be."""

    cube: str
    product: str
    region: str
    """``t.y.x``; empty where it is about a whole cube or the store."""

    key: str
    """Object below the store."""

    problem: Problem
    """See :data:`eocube.io.verify.Problem`."""

    detail: str


@dataclass(frozen=True, kw_only=True)
class AuditReport:
    """What an audit found."""

    store: str
    rows: tuple[AuditRow, ...]
    """At most 10,000, in order of cube, product, region and key."""

    counts: Mapping[str, int]
    """Problem → how often it was found."""

    cubes: int
    regions: int
    objects: int
    """Shards compared."""

    bytes_read: int

    @property
    def ok(self) -> bool:
        """Whether the store is whole; leftover staging of a killed run harms nobody."""
        return not set(self.counts) - {"staging"}

    @property
    def advice(self) -> tuple[str, ...]:
        """What heals the kinds of problems that were found, a sentence or two each, in the order in which to do it."""
        return advice(self.rows, self.counts)

    def as_json(self) -> dict[str, Any]:
        """The report as one JSON object."""
        return {"ok": self.ok, **asdict(self), "advice": list(self.advice)}


def audit(
    store: str,
    *,
    deep: bool = False,
    quick: bool = False,
    storage_options: Mapping[str, Any] | None = None,
    executor: Any = None,
    on_checked: Callable[[], None] | None = None,
) -> AuditReport:
    """Compare every cube of a store with its markers, its root and the index; nothing is written.

    Parameters
    ----------
    deep
        Decode every chunk too, and count valid and clear pixels again.
    quick
        Compare sizes only, from one listing; shards are not read.
    storage_options
        For the store.
    executor
        As in :func:`eocube.write_cube`; a task is one region.
    on_checked
        Called after each region.

    Returns
    -------
    Everything that is missing, damaged, unreadable, unfinished or left over. An all-nodata shard has no object and is no finding.

    Raises
    ------
    ArgumentError
        If both ``deep`` and ``quick`` are asked for.
    StoreReadError
        If the store as a whole cannot be read; a single object that cannot is a finding.
    StoreNotFoundError, UnknownNameError
        If no store is there, or at an address that cannot list its objects (plain HTTP).
    CubeError, DamagedStoreError
        If something else is there: a patch set, one cube, a group that eocube did not write. Nothing is changed.

    Notes
    -----
    Memory is that of the listing and the marker names of the cubes in flight, of the index, and of one region's encoded objects
    a task.
    """
    if deep and quick:
        raise ArgumentError("deep=True decodes every chunk and quick=True reads none; give one of them.")
    options = dict(storage_options or {})
    blobs = _open(store, options)
    walk = _Walk(blobs, options, "pixels" if deep else "sizes" if quick else "digests")
    walk.note(check_groups(blobs, walk.cubes))
    walk.note(_lost_markers(walk.survey, walk.hidden))
    with executing(executor) as running:
        for done in running.run(_check, walk.tasks(running)):
            walk.take(done)
            if on_checked is not None and done.check is not None:
                on_checked()
    walk.note(walk.index.rows_without_cube(walk.cubes, walk.hidden))
    walk.note(_staged(blobs))
    return walk.report()


def _staged(blobs: Blobs) -> Iterator[Finding]:
    listed = list_readable(blobs, STAGING)
    yield from listed.hidden
    for key, n in listed.sizes.items():
        yield Finding("staging", key, f"{n} bytes that a killed run left, or that a run under way is writing")


def index(store: str, *, storage_options: Mapping[str, Any] | None = None) -> pa.Table:
    """Rebuild ``index.parquet`` from cubes and markers: the rows that the runs left; returns it.

    A cube with an unwritten region has no row, as while it is being written. Parts of cubes that are gone are deleted.

    Raises
    ------
    StoreNotFoundError, UnknownNameError
        If no store is there, or at an address that cannot list its objects (plain HTTP).
    CubeError
        If a patch set or one cube is there; nothing is changed.
    DamagedStoreError
        If a root or marker cannot be read (``eocube audit`` lists them all), or eocube did not write the group there.
    """
    blobs = _open(store, dict(storage_options or {}))
    old = list_parts(blobs)  # before any marker is looked at: what a run adds meanwhile stays
    for cube, product in find_cubes(blobs):
        stored = open_stored(blobs, cube, product)
        if isinstance(stored, Finding):
            raise DamagedStoreError(
                f"{stored.key} in {blobs.url}: {stored.detail}. `eocube audit` lists everything of this kind."
            )
        names = markers_by_region(blobs, cube, product)
        rows = _rows_of(blobs, stored, names)
        if rows:
            keys = (settled_key(names.get(r, [])) for r in known_regions(stored.spec, names))
            evidence = row_evidence(stored.attrs, keys, site=stored.site)
            put_part(blobs, rows, evidence=evidence, replaces=old.pop(cube_stem(cube, product), []))
    for key in chain.from_iterable(old.values()):
        blobs.delete(key)
    return compact(blobs)


def _open(store: str, options: Mapping[str, Any]) -> Blobs:
    blobs = open_blobs(store, options)
    if not can_list(store):
        known = ["a folder", "s3://…", "gs://…", "az://…", "memory://…", "any other fsspec URL with listings"]
        raise UnknownNameError("address of a store to audit or index", store, known, "plain HTTP, which cannot list objects")
    require_store(blobs)
    return blobs


def _rows_of(blobs: Blobs, stored: StoredCube, names: Mapping[Region, list[MarkerName]]) -> list[dict[str, Any]]:
    """The index rows of a stored cube with these markers: of its sites whose every region is written."""
    regions = known_regions(stored.spec, names)
    markers = (newest_marker(blobs, stored.attrs, names.get(r, []), spec=stored.spec) for r in regions)
    return finished_rows(stored.attrs, markers, site=stored.site)


def _lost_markers(found: Survey, hidden: Iterable[str]) -> Iterator[Finding]:
    """Markers without a cube, and what is neither a marker nor of any cube."""
    for cube, product in sorted(found.marked - set(found.cubes)):
        where = marker_folder(cube, product)
        if is_below(cube_path(cube, product), hidden):
            continue
        yield Finding("marker", where, "markers of a cube that is not there; delete them, or a later run takes them for pixels")
    for key in found.strays:
        yield Finding("unknown_object", key, "it is no marker and belongs to no cube; it can be deleted")


# ------------------------------------------------------------------------------------------------ the walk over a store


@dataclass(frozen=True, kw_only=True)
class _Job:
    """What the tasks of one cube share."""

    store_url: str
    storage_options: Mapping[str, Any]
    cube: StoredCube
    depth: Depth


class _Task(NamedTuple):
    """One region to compare; None: the cube's metadata."""

    region: Region | None
    names: list[MarkerName]
    sizes: dict[str, int]


class _Done(NamedTuple):
    """What a task found."""

    cube: str
    product: str
    region: Region | None
    findings: list[Finding]
    check: RegionCheck | None


def _check(job: _Job, task: _Task) -> _Done:
    """One region, or the metadata, of one cube, on a worker."""
    blobs = open_blobs(job.store_url, job.storage_options)
    if task.region is None:
        found = list(check_metadata(blobs, job.cube, storage_options=job.storage_options))
        return _Done(job.cube.cube, job.cube.product, None, found, None)
    check = check_region(blobs, job.cube, task.region, task.names, task.sizes, depth=job.depth)
    return _Done(job.cube.cube, job.cube.product, task.region, check.findings, check)


@dataclass(kw_only=True)
class _State:
    """One cube on its way."""

    stored: StoredCube
    tally: Tally = field(default_factory=Tally)
    unwritten: set[Region] = field(default_factory=set)
    pending: int = 0
    exhausted: bool = False


class _Walk:
    """The stream of tasks over every cube, and what they found."""

    def __init__(self, blobs: Blobs, options: dict[str, Any], depth: Depth):
        self._blobs, self._options, self._depth = blobs, options, depth
        self.survey = survey(blobs)
        self.cubes = self.survey.cubes
        self.hidden: set[str] = set()
        """Folders that cannot be looked into: of what is below them nothing is said."""

        self.index = IndexCheck(blobs)
        self._states: dict[tuple[str, str], _State] = {}
        self._rows: list[AuditRow] = []
        self._counts: Counter[str] = Counter()
        self._read: Counter[str] = Counter()
        self._hide(self.survey.hidden)

    def _hide(self, found: Iterable[Finding]) -> None:
        """Note, once, what cannot be looked into."""
        for f in found:
            _, *name = f.key.split("/")[:3]  # cubes/<cube>/<product>/…, markers/<cube>/<product>/…
            self.note([f], *(name if len(name) == 2 else ()))
            self.hidden.add(f.key)

    def note(self, found: Iterable[Finding], cube: str = "", product: str = "") -> None:
        """Keep findings: all of them counted, the first ones as rows."""
        for f in found:
            if is_below(f.key, self.hidden):
                continue
            self._counts[f.problem] += 1
            if len(self._rows) < MAX_ROWS:
                row = AuditRow(cube=cube, product=product, region=f.region, key=f.key, problem=f.problem, detail=f.detail)
                self._rows.append(row)

    def tasks(self, executor: Executor) -> Iterator[tuple[Any, _Task]]:
        """(shared job, task) for the metadata and each region of every cube that can be opened."""
        for cube, product in self.cubes:
            stored = self._open(cube, product)
            if isinstance(stored, Finding):
                self.note([stored], cube, product)
                continue
            job = _Job(store_url=self._blobs.url, storage_options=self._options, cube=stored, depth=self._depth)
            state = self._states[cube, product] = _State(stored=stored)
            shared = executor.share(job)
            for task in self._tasks(stored):
                state.pending += 1
                yield shared, task
            state.exhausted = True
            self._end(state)

    def _open(self, cube: str, product: str) -> StoredCube | Finding:
        try:
            return open_stored(self._blobs, cube, product)
        except StoreReadError as e:
            return unreadable(self._blobs, e)

    def _tasks(self, stored: StoredCube) -> Iterator[_Task]:
        marked = list_readable(self._blobs, marker_folder(stored.cube, stored.product))
        there = list_readable(self._blobs, stored.folder)
        self._hide([*marked.hidden, *there.hidden])
        sizes = there.sizes
        parsed = (parse_marker(key) for key, n in marked.sizes.items() if n)
        names = by_region(sorted(name for name in parsed if name is not None))
        yield _Task(None, [], {})
        regions = known_regions(stored.spec, names)
        if stored.spec.places is not None:  # and those of which a run that was killed, or is under way, has put objects only
            regions = sorted({*regions, *regions_with_objects(stored, sizes)})
        for region in regions:
            own = {key: sizes.pop(key) for key in region_objects(stored, region) if key in sizes}
            if not is_below(marker_folder(stored.cube, stored.product, region), self.hidden):
                yield _Task(region, names.pop(region, []), own)
        # What an append has written already is known by its markers; deleted, it would be missing when the append is finished.
        begun = {key for region in names for key in region_objects(stored, region)}
        self.note(check_names(stored, sizes.keys() - begun), stored.cube, stored.product)
        self.note((_outside(stored, region) for region in names), stored.cube, stored.product)

    def take(self, done: _Done) -> None:
        """Keep what a task found; after the last one of a cube compare its index row."""
        self.note(done.findings, done.cube, done.product)
        state = self._states[done.cube, done.product]
        state.pending -= 1
        if done.check is not None and done.region is not None:
            self._read.update(regions=1, objects=done.check.objects, bytes_read=done.check.bytes_read)
            if done.check.written:
                state.tally.add(done.check)
            else:
                state.unwritten.add(done.region)
        self._end(state)

    def _end(self, state: _State) -> None:
        stored = state.stored
        if state.pending or not state.exhausted or self._states.pop((stored.cube, stored.product), None) is None:
            return
        rows = cube_rows(stored.attrs, state.tally, site=stored.site)
        self.note(self.index.check(stored.cube, stored.product, rows), stored.cube, stored.product)
        if stored.spec.places is not None:
            known = [place.site for place in state.tally.sites if place is not None]
            told = {(w.y[0], w.x[0]) for w in map(stored.spec.window, state.unwritten)}
            self.note(self.index.lost_sites(stored.cube, stored.product, known, told), stored.cube, stored.product)

    def report(self) -> AuditReport:
        """Everything so far."""
        return AuditReport(
            store=self._blobs.url,
            rows=tuple(sorted(self._rows, key=lambda r: (r.cube, r.product, _region_order(r.region), r.key, r.problem))),
            counts=dict(sorted(self._counts.items())),
            cubes=len(self.cubes),
            regions=self._read["regions"],
            objects=self._read["objects"],
            bytes_read=self._read["bytes_read"],
        )


def _region_order(text: str) -> list[int]:
    return [int(i) for i in text.split(".")] if text else []


def _outside(stored: StoredCube, region: Region) -> Finding:
    where = marker_folder(stored.cube, stored.product, region)
    said = f"a marker of a region that the cube ({stored.spec.grid} regions along time, y, x) does not have: an append has begun"
    return Finding("marker", where, f"{said} and is not finished (run its command again)", str(region))
