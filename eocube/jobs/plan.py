"""Plan: what a run will read and cost, a row a task, before anything is touched."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pyarrow as pa

from eocube.exec.drive import CubePlan, check_plan
from eocube.exec.region import CubeJob, peak_bytes, piece_chunks
from eocube.io.blobs import open_blobs
from eocube.jobs.remaining import Standing, standing
from eocube.model.recipe import Cost, frame_bytes, trace
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
    """Most memory that one task holds."""

    finished: int = 0
    """Regions that earlier runs finished; they are no tasks."""

    def __str__(self) -> str:
        return (
            f"{self.tasks} tasks, {self.requests} requests, {_mb(self.bytes_fetched)} fetched for "
            f"{_mb(self.bytes_used)} used (raw), "
            f"{_mb(self.bytes_out)} written (raw), at most {_mb(self.peak_bytes)} a task"
            + (f"; {self.finished} regions are finished" if self.finished else "")
        )


class Plan:
    """A stream of task rows with a known count."""

    def __init__(self, cubes: Sequence[CubePlan], *, first: int | None = None, left: _Left | None = None):
        self.cubes, self._first, self._left = list(cubes), first, left

    def __len__(self) -> int:
        n = sum(c.n_regions for c in self.cubes) if self._left is None else self._left.count(self.cubes)
        return n if self._first is None else min(n, self._first)

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
        return islice((_row(c, region) for i, c in enumerate(self.cubes) for region in self._regions(i)), self._first)

    def _regions(self, i: int) -> Iterator[Region]:
        regions = self.cubes[i].job.spec.regions()
        return regions if self._left is None else (r for r in regions if self._left.has(i, r))

    def table(self) -> pa.Table:
        """All rows as an Arrow table."""
        return pa.Table.from_pylist(list(self.rows()), schema=SCHEMA)

    def summary(self) -> PlanSummary:
        """Totals; draws every row once."""
        totals = dict.fromkeys(("requests", "bytes_fetched", "bytes_used", "bytes_out"), 0)
        tasks = peak = 0
        for row in self.rows():
            tasks += 1
            peak = max(peak, row["peak_bytes"])
            for k in totals:
                totals[k] += row[k]
        finished = 0 if self._left is None else sum(len(s.finished) for s in self._left.at)
        return PlanSummary(tasks=tasks, peak_bytes=peak, finished=finished, **totals)

    def __str__(self) -> str:
        return f"Plan: {self.summary()}"

    __repr__ = __str__


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


def _row(plan: CubePlan, region: Region) -> dict[str, Any]:
    job = plan.job
    pieces = list(job.spec.pieces(region, piece_chunks(job, region)))
    cost = sum((_cost(job, p.window) for p in pieces), Cost(0, 0, 0))
    written = frame_bytes(job.spec.frame, job.spec.window(region))
    return {
        "cube": job.cube,
        "product": job.product,
        "region": str(region),
        **cost._asdict(),
        "bytes_out": written,
        "peak_bytes": peak_bytes(job, region),
    }


def _cost(job: CubeJob, window: Window) -> Cost:
    """What evaluating one piece reads: pieces with a halo read their margins anew."""
    reads = trace(job.node, window, job.binding, job.frames)
    return sum((job.binding.sources[key].cost(inner) for key, inner in reads), Cost(0, 0, 0))


def _mb(n: int) -> str:
    return f"{n / 1e6:,.1f} MB"
