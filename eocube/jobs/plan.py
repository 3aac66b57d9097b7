"""Plan: what a run will read and cost, a row a task, before anything is touched."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pyarrow as pa

from eocube.exec.drive import CubePlan, check_plan
from eocube.exec.region import CubeJob, peak_bytes, piece_chunks
from eocube.io.blobs import open_blobs
from eocube.jobs.remaining import Standing, standing
from eocube.model.memory import frame_bytes
from eocube.model.recipe import Classed, Cost, Scratching, trace
from eocube.model.spec import Region
from eocube.model.window import Window

SCHEMA = pa.schema(
    [
        ("cube", pa.string()),
        ("product", pa.string()),
        ("region", pa.string()),
        ("requests", pa.int64()),
        ("bytes_fetched", pa.int64()),
        ("bytes_used", pa.int64()),
        ("bytes_out", pa.int64()),
        ("peak_bytes", pa.int64()),
    ]
)


_SUMS = ("requests", "bytes_fetched", "bytes_used", "bytes_out")


@dataclass(frozen=True)
class PlanSummary:
    """Totals of a plan."""

    tasks: int
    requests: int
    bytes_fetched: int
    """Raw bytes of source blocks to decode; compressed files are smaller."""

    bytes_used: int
    """Raw bytes of the pixels that are used of them."""

    bytes_out: int
    """Raw bytes of the pixels written, before compression."""

    peak_bytes: int
    """Most memory that one task holds; least, where it is not known of every source."""

    peak_known: bool = True
    """False where a source does not say what reading it holds: a cube that is written from its own Dask graph, a source of a
    user's own."""

    finished: int = 0
    """Regions that earlier runs finished; they are no tasks."""

    def __add__(self, other: PlanSummary) -> PlanSummary:
        """Both plans as one."""
        sums = {k: getattr(self, k) + getattr(other, k) for k in (*_SUMS, "tasks", "finished")}
        peak_bytes, peak_known = max(self.peak_bytes, other.peak_bytes), self.peak_known and other.peak_known
        return PlanSummary(**sums, peak_bytes=peak_bytes, peak_known=peak_known)

    def __str__(self) -> str:
        return (
            f"{self.tasks} tasks, {self.requests} requests, {_mb(self.bytes_fetched)} fetched for "
            f"{_mb(self.bytes_used)} used (raw), "
            f"{_mb(self.bytes_out)} written (raw), at {'most' if self.peak_known else 'least'} {_mb(self.peak_bytes)} a task"
            + (f"; {self.finished} regions are finished" if self.finished else "")
        )


class Plan:
    """A stream of task rows with a known count."""

    def __init__(self, cubes: Sequence[CubePlan], *, first: int | None = None, left: _Left | None = None):
        self.cubes, self._first, self._left = list(cubes), first, left

    def __len__(self) -> int:
        return self.n_left if self._first is None else min(self.n_left, self._first)

    @property
    def n_left(self) -> int:
        """How many tasks there are, those behind the first ones (:meth:`head`) too."""
        return sum(c.n_regions for c in self.cubes) if self._left is None else self._left.count(self.cubes)

    def head(self, n: int) -> Plan:
        """The first ``n`` tasks as a plan of its own."""
        return Plan(self.cubes, first=n if self._first is None else min(n, self._first), left=self._left)

    def remaining(self, *, retry: bool = False, rebuild: Collection[tuple[str, str]] = ()) -> Plan:
        """The tasks that a run would do now: none of regions that earlier runs finished. A listing of markers for each cube.

        ``retry``: only regions in which a file could not be read. ``rebuild``: (cube, product) of cubes that are made anew.

        Raises SettingsError, GridError, LateDateError, StalePlanError or CubeError where the run would: the store holds another
        cube of that name, or one that knows more, or an input is not finished.
        """
        at = [_anew(c) if (c.job.cube, c.job.product) in rebuild else standing(c, checked=True) for c in self.cubes]
        return Plan(self.cubes, first=self._first, left=_Left(at=at, retry=retry))

    def rows(self) -> Iterator[dict[str, Any]]:
        """A row a task, made as it is drawn."""
        for job, region, costs in self._priced():
            yield {"cube": job.cube, "product": job.product, "region": str(region), **costs}

    def _priced(self) -> Iterator[tuple[CubeJob, Region, dict[str, int]]]:
        """Each task with what it costs."""
        known: dict[Hashable, dict[str, int]] = {}
        tasks = ((c.job, *found) for i, c in enumerate(self.cubes) for found in _costs(c, self._regions(i), known))
        return islice(tasks, self._first)

    def _regions(self, i: int) -> Iterator[Region]:
        regions = self.cubes[i].job.spec.regions()
        return regions if self._left is None else (r for r in regions if self._left.has(i, r))

    def table(self) -> pa.Table:
        """All rows as an Arrow table."""
        return pa.Table.from_pylist(list(self.rows()), schema=SCHEMA)

    def summary(self) -> PlanSummary:
        """Totals; draws every row once."""
        totals = dict.fromkeys(_SUMS, 0)
        tasks = peak = 0
        for _, _, costs in self._priced():
            tasks += 1
            peak = max(peak, costs["peak_bytes"])
            for k in totals:
                totals[k] += costs[k]
        finished = 0 if self._left is None else sum(len(s.finished) for s in self._left.at)
        sources = (s for c in self.cubes for s in c.job.binding.sources.values())
        known = all(isinstance(s, Scratching) for s in sources)
        return PlanSummary(tasks=tasks, peak_bytes=peak, peak_known=known, finished=finished, **totals)

    def __str__(self) -> str:
        return f"Plan: {self.summary()}"

    __repr__ = __str__


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What a run would do, as totals."""

    cubes: int
    """Cubes that are planned, finished ones too."""

    summary: PlanSummary
    left_out: int
    """Regions that ``retry`` passes by though they are not finished; 0 without it."""


def sum_up(
    plans: Iterable[CubePlan], *, retry: bool = False, rebuild: Collection[tuple[str, str]] = (), limit: int | None = None
) -> Outlook:
    """What ``Plan(list(plans)).remaining(…).head(limit).summary()`` says, with one cube's plan in memory at a time.

    Half a million sites in tens of thousands of cubes are planned in the memory of one. Errors are those of
    :meth:`Plan.remaining`, at the first cube that a run would refuse.
    """
    cubes = left_out = 0
    total = PlanSummary(0, 0, 0, 0, 0, 0)
    for cube in plans:
        left = Plan([cube], first=None if limit is None else max(0, limit - total.tasks)).remaining(retry=retry, rebuild=rebuild)
        one = left.summary()
        cubes += 1
        total += one
        if retry:
            left_out += cube.n_regions - one.finished - left.n_left
    return Outlook(cubes=cubes, summary=total, left_out=left_out)


def _anew(plan: CubePlan) -> Standing:
    check_plan(open_blobs(plan.job.store_url, plan.job.storage_options), plan, anew=True)
    return Standing()


@dataclass(frozen=True, kw_only=True)
class _Left:
    """Which regions of each cube of a plan are still to be done."""

    at: Sequence[Standing]
    retry: bool

    def has(self, i: int, region: Region) -> bool:
        return region in self.at[i].partial if self.retry else region not in self.at[i].finished

    def count(self, cubes: Sequence[CubePlan]) -> int:
        if self.retry:
            return sum(len(s.partial) for s in self.at)
        return sum(c.n_regions - len(s.finished) for c, s in zip(cubes, self.at, strict=True))


def _costs(
    plan: CubePlan, regions: Iterable[Region], known: dict[Hashable, dict[str, int]]
) -> Iterator[tuple[Region, dict[str, int]]]:
    """What tasks of one cube cost; ``known`` keeps it of those that others cost the same as."""
    job = plan.job
    source = job.binding.sources[job.node["source"]] if "source" in job.node else None
    if not isinstance(source, Classed):
        yield from ((region, _counted(job, region)) for region in regions)
        return
    for region in regions:
        same = (job.sid, job.max_bytes, source.cost_class(job.spec.window(region)))
        if same not in known:
            known[same] = _counted(job, region)
        yield region, known[same]


def _counted(job: CubeJob, region: Region) -> dict[str, int]:
    pieces = list(job.spec.pieces(region, piece_chunks(job, region)))
    cost = sum((_cost(job, p.window) for p in pieces), Cost(0, 0, 0))
    written = frame_bytes(job.spec.frame, job.spec.window(region))
    return {**cost._asdict(), "bytes_out": written, "peak_bytes": peak_bytes(job, region)}


def _cost(job: CubeJob, window: Window) -> Cost:
    """What evaluating one piece reads: pieces with a halo read their margins anew."""
    reads = trace(job.node, window, job.binding, job.frames)
    return sum((job.binding.sources[key].cost(inner) for key, inner in reads), Cost(0, 0, 0))


def _mb(n: int) -> str:
    return f"{n / 1e6:,.1f} MB"
