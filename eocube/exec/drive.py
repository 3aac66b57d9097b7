"""The resume driver: cubes → claims → one bounded stream of region tasks → publish → index.

Tasks of all cubes run in one stream, so a store of many small sites keeps every worker busy; memory is that of the tasks in
flight, whatever the length of the stream.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import importlib.metadata
import json
import platform
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

from eocube.errors import StalePlanError, StoreWriteError
from eocube.exec.claim import ClaimKind, CubeMeta, add_licences, claim, ensure_store, publish, relate
from eocube.exec.executors import Executor, Resource
from eocube.exec.region import CubeJob, RegionDone, RegionTask, run_regions
from eocube.io.blobs import Blobs, LocalBlobs, open_blobs
from eocube.io.cubes import CubeSource
from eocube.io.index import compact, cube_stem, has_evidence, list_parts, put_part
from eocube.io.markers import MarkerName, get_marker, is_finished
from eocube.io.sources import put_sources
from eocube.io.tally import Tally, by_region, finished_rows, markers_by_region, newest_marker, row_evidence, settled_key
from eocube.model.hashing import canonical_json
from eocube.model.licences import of_store
from eocube.model.spec import Region

_PACKAGES = ("eocube", "numpy", "zarr", "numcodecs", "xarray", "dask", "rasterio", "torch")
Progress = Callable[[RegionDone], None]
Runner = Callable[[CubeJob, tuple[RegionTask, ...]], list[RegionDone]]


@dataclass(frozen=True, kw_only=True)
class CubePlan:
    """One cube to write: the job of its tasks, its metadata, its index labels. Pure values; nothing has been written."""

    job: CubeJob
    meta: CubeMeta
    site: str

    @property
    def n_regions(self) -> int:
        """How many regions the cube has."""
        return self.job.spec.n_regions


@dataclass(kw_only=True)
class RunReport:
    """What a run did. Also written to ``runs/`` in the store, the only place in it with times of runs."""

    run_id: str
    store: str
    started: str = ""
    """ISO time, UTC."""

    host: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    """Of Python and of the packages that pixels and bytes go through, on the machine that drives the run."""

    cubes: list[str] = field(default_factory=list)
    """Cubes whose every region is written."""

    regions_done: int = 0
    regions_skipped: int = 0
    """Regions that an earlier run had finished."""

    bytes_evaluated: int = 0
    """Raw bytes of the pixels made."""

    bytes_written: int = 0
    seconds: float = 0.0
    failed: list[dict[str, str]] = field(default_factory=list)
    """A row for each asset that could not be read: cube, product, region, item_id, asset, href, error."""

    stopped_at_limit: bool = False
    regions_left_out: int = 0
    """Regions that are not written and were passed over, as no file of theirs had failed (``retry``); a run without it writes
    them. Those behind a ``limit`` are not counted."""

    error: str | None = None
    """What ended the run, if it did not end well."""

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return not self.failed


@dataclass(kw_only=True)
class _CubeState:
    plan: CubePlan
    kind: ClaimKind
    have: dict[Region, list[MarkerName]]
    done: dict[Region, str] = field(default_factory=dict)
    """Keys of the regions that this run wrote: some 200 bytes each, the one thing that grows with a cube."""

    tally: Tally = field(default_factory=Tally)
    """Sums over them."""

    pending: int = 0
    exhausted: bool = False
    """Whether its last task is drawn."""

    left_out: bool = False
    """Whether regions that are not finished were passed over (``retry``): the cube is then not finished either."""

    shared: Any = None

    counted: bool | None = None
    """Whether sites lie in the cube and its index part counted all that were there when the run began; None: not asked yet."""

    def note(self, done: RegionDone) -> None:
        """Take in what a task reports."""
        self.pending -= 1
        self.done[done.region] = done.marker.key
        self.tally.add(done)


def drive(
    store_url: str,
    plans: Iterable[CubePlan],
    executor: Executor,
    *,
    storage_options: dict[str, Any] | None = None,
    store_attrs: dict[str, object] | None = None,
    limit: int | None = None,
    retry: bool = False,
    resource: Resource = "CPU",
    run: Runner = run_regions,
    group: int = 1,
    on_done: Progress | None = None,
) -> RunReport:
    """Write cubes into a store; run again after anything, and it goes on where it was.

    Parameters
    ----------
    limit
        Write at most that many regions; an unfinished cube is then not published.
    retry
        Only regions in which an asset failed; of a cube that is not in the store nothing is made.
    resource
        ``GPU`` for tasks that run a network.
    run, group
        What a task does with up to ``group`` regions of one cube.
    on_done
        Hears of every region as it is finished.
    """
    blobs = open_blobs(store_url, storage_options)
    if isinstance(blobs, LocalBlobs):
        blobs.sweep_staging()
    ensure_store(blobs, store_attrs or {})
    started = time.perf_counter()
    report = _new_report(blobs.url)
    states: dict[tuple[str, str], _CubeState] = {}
    parts = list_parts(blobs)
    draw = _Draw(limit=limit, retry=retry, resource=resource, group=group)
    known = _Run(states=states, parts=parts, report=report, licences=of_store([store_attrs or {}]))
    stream = _stream(blobs, plans, executor, known, draw)
    try:
        for done in (d for batch in executor.run(run, stream, resource=resource) for d in batch):
            state = states[done.cube, done.product]
            state.note(done)
            _note(report, done)
            if on_done is not None:
                on_done(done)
            if state.exhausted and not state.pending:
                _finish(blobs, states.pop((done.cube, done.product)), parts, report)
        for state in [s for s in states.values() if not s.pending]:
            _finish(blobs, state, parts, report)
        compact(blobs, trust_index=True)
        add_licences(blobs, known.licences)
    except BaseException as e:
        report.error = f"{type(e).__name__}: {e}"
        report.seconds = time.perf_counter() - started
        with contextlib.suppress(StoreWriteError):  # the target may be what failed
            _put_report(blobs, report)
        raise
    report.seconds = time.perf_counter() - started
    _put_report(blobs, report)
    return report


@dataclass(frozen=True, kw_only=True)
class _Run:
    """What a run knows."""

    states: dict[tuple[str, str], _CubeState]
    """Cubes under way."""

    parts: dict[str, list[str]]
    """Parts of the index as the run began, by the cube they are of."""

    report: RunReport
    licences: dict[str, list[str]]
    """What the store's root lists of the sources, as far as this run knows."""


@dataclass(frozen=True, kw_only=True)
class _Draw:
    """How tasks are drawn from the plans."""

    limit: int | None
    retry: bool
    resource: Resource
    group: int


def _stream(
    blobs: Blobs,
    plans: Iterable[CubePlan],
    executor: Executor,
    known: _Run,
    draw: _Draw,
) -> Iterator[tuple[Any, tuple[RegionTask, ...]]]:
    """(shared job, regions) for each task, cube by cube; says of a cube when its last task is drawn."""
    n, waiting, states, report = 0, iter(plans), known.states, known.report
    for plan in waiting:
        if draw.retry and relate(blobs, plan.meta) == "new":
            report.regions_left_out += plan.n_regions
            continue
        state = _start(blobs, plan)
        states[plan.job.cube, plan.job.product] = state
        _list_licences(blobs, known, plan.meta)
        tasks = _tasks(blobs, state, report, retry=draw.retry)
        while batch := tuple(islice(tasks, draw.group if draw.limit is None else min(draw.group, draw.limit - n))):
            if state.shared is None:
                _put_binding(blobs, plan.job)
                state.shared = executor.share(plan.job, resource=draw.resource)
            _withdraw_row(blobs, state, batch, known.parts)
            n += len(batch)
            state.pending += len(batch)
            yield state.shared, batch
        if draw.limit is not None and n >= draw.limit:
            state.exhausted = next(tasks, None) is None
            report.stopped_at_limit = not state.exhausted or next(waiting, None) is not None
            return
        state.exhausted = True
        if not state.pending:
            _finish(blobs, states.pop((plan.job.cube, plan.job.product)), known.parts, report)


def check_plan(blobs: Blobs, plan: CubePlan, *, anew: bool = False) -> None:
    """Raise what :func:`drive` would raise of a plan before its first task; nothing is written.

    ``anew``: the stored cube is to be deleted first, so only the inputs are looked at.
    """
    _require_inputs(plan)
    if not anew:
        relate(blobs, plan.meta)


def _require_inputs(plan: CubePlan) -> None:
    for source in plan.job.binding.sources.values():
        if isinstance(source, CubeSource):
            source.require_finished()


def _start(blobs: Blobs, plan: CubePlan) -> _CubeState:
    _require_inputs(plan)
    kind, names = claim(blobs, plan.meta)
    return _CubeState(plan=plan, kind=kind, have=by_region(names))


def _list_licences(blobs: Blobs, known: _Run, meta: CubeMeta) -> None:
    """Let the store's root list what a cube's attributes say of its sources; nothing is asked where this run has done so."""
    grown = of_store([known.licences, meta.attrs])
    if grown != known.licences:
        add_licences(blobs, grown)
        known.licences.update(grown)


def _put_binding(blobs: Blobs, job: CubeJob) -> None:
    """Write ``sources/``: before the first task, and not before the plan has something to write that the store lacks."""
    rows = ({"input": job.input_names[key], **row} for key, source in job.binding.sources.items() for row in source.assets())
    put_sources(blobs, job.cube, job.product, rows, of_sites=job.spec.places is not None)


def _tasks(blobs: Blobs, state: _CubeState, report: RunReport, *, retry: bool) -> Iterator[RegionTask]:
    job = state.plan.job
    for region in job.spec.regions():
        known = state.have.get(region, [])
        leaves = job.leaves(job.spec.window(region))
        key = job.region_key(region, leaves)
        if is_finished(known, key):
            report.regions_skipped += 1
            continue
        for old in known:
            if old.key != key:
                refuse_fewer(blobs, job, old, leaves)
        if retry and not any(m.partial for m in known):
            state.left_out = True
            report.regions_left_out += 1
            continue
        yield RegionTask(region=region, key=key, leaves=leaves, replaces=tuple(known))


def refuse_fewer(blobs: Blobs, job: CubeJob, old: MarkerName, leaves: Mapping[str, list[Any]]) -> None:
    """StalePlanError where a finished region holds sources that this plan does not know: writing it would take dates away."""
    marker = get_marker(blobs, job.cube, job.product, old)
    if marker is None:
        return
    now = {(name, _identity(row)) for name, rows in leaves.items() for row in rows}
    gone = [row for name, rows in marker.sources.items() for row in rows if (name, _identity(row)) not in now]
    if gone:
        raise StalePlanError(
            f"Region {old.region} of {job.cube}/{job.product} in {job.store_url} holds {len(gone)} sources that this run "
            f"does not know, {gone[0]} the first. A run never takes dates away; nothing was changed."
        )


def _identity(row: list[Any]) -> str:
    """What a source row is about, without the version of its content."""
    return canonical_json(row[0])


def _withdraw_row(blobs: Blobs, state: _CubeState, batch: Iterable[RegionTask], parts: dict[str, list[str]]) -> None:
    """Before regions are written again under the keys that they had: delete the part that follows from those keys.

    Killed after the last of them, this run would otherwise leave a part whose name says that it counts them, and which does not.
    The part of a cube that an append makes longer stays: it is true of the older cube, which is there until the append is whole.
    So does the part of a cube to which sites come, if it counts all that are there: readers find those meanwhile.
    """
    stem = cube_stem(state.plan.job.cube, state.plan.job.product)
    found = [key for key in parts.get(stem, []) if has_evidence(key)]
    if not found or state.kind == "grow":
        return
    if state.counted is None:
        evidence = _evidence(state, state.have)
        state.counted = state.plan.job.spec.places is not None and all(has_evidence(key, evidence or "") for key in found)
    again = any((not task.replaces and not state.counted) or any(m.key == task.key for m in task.replaces) for task in batch)
    if again:
        for key in found:
            blobs.delete(key)
        parts[stem] = [key for key in parts[stem] if key not in found]


def _finish(blobs: Blobs, state: _CubeState, parts: Mapping[str, list[str]], report: RunReport) -> None:
    """Publish an append and leave the index part, if every region of the cube is written; of sites that lie in it, of each."""
    job, meta = state.plan.job, state.plan.meta
    whole = state.exhausted and not state.left_out
    if not whole and job.spec.places is None:
        return
    evidence = _evidence(state, state.have)
    found = parts.get(cube_stem(job.cube, job.product), [])
    if evidence is not None and not state.done and state.kind != "grow" and [has_evidence(k, evidence) for k in found] == [True]:
        report.cubes.append(f"{job.cube}/{job.product}")  # whole, and said so: no marker is read
        return
    now = _refuse_unseen(blobs, state)
    have: Mapping[Region, list[MarkerName]] = state.have
    if job.spec.places is not None:
        have, evidence = now, _evidence(state, now)  # with the sites that other runs have meanwhile put beside
    others = (newest_marker(blobs, meta.attrs, have.get(r, [])) for r in _regions(job, have) if r not in state.done)
    if job.spec.places is not None:
        others = (marker for marker in others if marker is not None)  # its site is then not whole
    rows = finished_rows(meta.attrs, others, site=state.plan.site, so_far=state.tally)
    if not rows:
        return
    if state.kind == "grow":
        _refuse_overtaken(blobs, state)
        publish(blobs, meta)
    put_part(blobs, rows, evidence=evidence, replaces=found)
    if whole and not any(row["unfinished_regions"] for row in rows):
        report.cubes.append(f"{job.cube}/{job.product}")


def _regions(job: CubeJob, have: Mapping[Region, list[MarkerName]]) -> Iterable[Region]:
    """Of a cube that is one site all, else those of sites that this or another run has written."""
    return job.spec.regions() if job.spec.places is None else sorted(have)


def _evidence(state: _CubeState, have: Mapping[Region, list[MarkerName]]) -> str | None:
    """See :func:`eocube.io.tally.row_evidence`; None too where this run could not read a file."""
    keys = (state.done.get(r) or settled_key(have.get(r, [])) for r in _regions(state.plan.job, have))
    return None if state.tally.unfinished else row_evidence(state.plan.meta.attrs, keys, site=state.plan.site)


def _refuse_unseen(blobs: Blobs, state: _CubeState) -> Mapping[Region, list[MarkerName]]:
    """What the workers say they wrote must be there for this process too. The markers as they are now."""
    job = state.plan.job
    if not state.done:
        return state.have
    have = markers_by_region(blobs, job.cube, job.product)
    unseen = state.done.keys() - have.keys()
    if unseen:
        raise StoreWriteError(
            f"{len(unseen)} regions of {job.cube}/{job.product} were written by workers that do not see the same {blobs.url} as "
            "this process (memory:// belongs to a process, a folder to a machine). Use a store that all of them share."
        )
    return have


def _refuse_overtaken(blobs: Blobs, state: _CubeState) -> None:
    """Another run has meanwhile finished regions from sources that this one lacks: its axes must not be taken back."""
    job = state.plan.job
    for region, names in markers_by_region(blobs, job.cube, job.product).items():
        if job.spec.places is not None and not job.spec.has(region):
            continue
        known = {m.key for m in state.have.get(region, [])} | {state.done.get(region)}
        if not known.issuperset(m.key for m in names):
            raise StalePlanError(
                f"Region {region} of {job.cube}/{job.product} in {job.store_url} was meanwhile finished by a newer plan. This "
                "run knows less than the store holds, so its dates and labels were not published; run the newer command."
            )


def _new_report(store: str) -> RunReport:
    now = dt.datetime.now(dt.UTC)
    return RunReport(
        run_id=f"{now:%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:8]}",
        store=store,
        started=now.isoformat(timespec="seconds"),
        host=platform.node(),
        versions={"python": platform.python_version(), **{p: v for p in _PACKAGES if (v := _version(p)) is not None}},
    )


def _version(package: str) -> str | None:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return None


def _note(report: RunReport, done: RegionDone) -> None:
    report.regions_done += 1
    report.bytes_evaluated += done.bytes_evaluated
    report.bytes_written += done.bytes_written
    where = {"cube": done.cube, "product": done.product, "region": str(done.region)}
    report.failed += [{**where, **row} for row in done.failed]


def _put_report(blobs: Blobs, report: RunReport) -> None:
    blobs.put(f"runs/{report.run_id}.json", json.dumps(asdict(report), indent=1).encode())
