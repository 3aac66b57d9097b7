"""The engine's own time a task: pixels out of nothing, tiny shards, one shard a task.

Prints one JSON line a row; ``ours`` and ``floor`` are tasks a second (``skip``: regions), ``ms`` milliseconds a task.
The floor does by hand what a task of that kind cannot do without: ``bare`` encodes the same arrays and puts the same objects into
the same folders; ``four_steps`` besides labels one Dataset a step as a user would, by
``xr.Dataset(…, coords=…)``, and runs no step; ``cluster`` sends a function that returns at once through ``client.map``.
``memory`` in ``ms`` is ours on ``memory://``: what is left without files. Rounds of ours and of the floor take turns, each into
a folder of its own, and nothing is deleted before the end: a file system that has just deleted many files makes new ones slowly.

Every row is a median over rounds of the time of a whole run divided by its tasks. In it is everything from the first look at an
empty store to a finished one: the claim and the metadata, the keys of the regions, the tasks, the listing of their markers at the
end, the part of the index, the index and the run's report. The plan itself is made before. The rows of one thread count CPU time,
the system's on files included, so a busy machine disturbs them less; what the clock on the wall says, which waiting for files
and for other programs is in, stands beside it as ``wall`` and ``floor_wall``. ``cluster`` is wall time, and on a machine that
does other things only its ``to_floor`` says something.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import fsspec
import numpy as np
import xarray as xr
from _peak import Peak, cleared_mb, status_mb
from windows import EDGE_PX, PositionSource, smooth, source_cube

from eocube.exec.drive import CubePlan
from eocube.exec.executors import DaskExecutor, connect
from eocube.exec.labels import coords_of
from eocube.io.shards import assemble_shard, encode_chunk
from eocube.jobs.write import WriteSettings, plan_cube, run_plans
from eocube.lazy.composite import composite
from eocube.lazy.masks import mask_clouds
from eocube.lazy.radiometry import to_reflectance
from eocube.model.frame import Frame
from eocube.model.recipe import recipe_of
from eocube.testing.stores import cut_plan

ROUNDS = 5
CLUSTER_ROUNDS = 3
EDGE_CHUNKS = {"bare": 5, "four_steps": 14, "cluster": 10, "skip": 10}
"""Chunks along y and along x. Ten dates make ten times their square of tasks, their monthly composite one time."""

GOALS_MS = {"bare": 3.0, "four_steps": 12.0, "cluster": 6.6, "skip": 0.4}
"""Most milliseconds a task; ``skip``: a region."""

Row = dict[str, Any]


class Taken(NamedTuple):
    """Milliseconds a task."""

    cpu: float
    """Of this process with all its threads, its system calls included."""

    wall: float


@dataclass
class Stopwatch:
    """Times a block."""

    _cpu: float = 0.0
    _wall: float = 0.0

    def __enter__(self) -> Self:
        self._cpu, self._wall = time.process_time(), time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self._cpu, self._wall = time.process_time() - self._cpu, time.perf_counter() - self._wall

    def per(self, tasks: int) -> Taken:
        """The block's time, divided by the tasks in it."""
        return Taken(self._cpu / tasks * 1e3, self._wall / tasks * 1e3)


def four_steps(cube: xr.Dataset) -> xr.Dataset:
    """Mask, decode, 3 × 3 mean (a halo of one pixel), monthly median."""
    monthly: xr.Dataset = composite(smooth(to_reflectance(mask_clouds(cube))), freq="1MS")
    return monthly


def planned(store: str, cube: xr.Dataset) -> CubePlan:
    """One chunk a shard, one shard a region."""
    plan = plan_cube(cube, store, site="c", product="p", settings=WriteSettings(layout="map"))
    edge = (1, EDGE_PX, EDGE_PX)
    return cut_plan(plan, chunk_tyx=edge, shard_tyx=edge, cell_px=EDGE_PX)


def ours_ms(store: str, cube: xr.Dataset, executor: Any = "serial") -> Taken:
    """A run of the engine from nothing to a finished cube."""
    plan = planned(store, cube)
    with Stopwatch() as watch:
        report = run_plans(store, [plan], executor=executor)
    if (report.regions_done, report.cubes) != (plan.n_regions, ["c/p"]):
        sys.exit(f"{report.regions_done} of {plan.n_regions} regions were written, and these cubes finished: {report.cubes}")
    return watch.per(plan.n_regions)


def check(store: str, cube: xr.Dataset) -> None:
    """The store holds what the lazy cube computes, in its first region."""
    at = {"time": [0], "y": slice(0, EDGE_PX), "x": slice(0, EDGE_PX)}
    written = xr.open_zarr(f"{store}/cubes/c/p", zarr_format=3, consolidated=True, mask_and_scale=False)["data"].isel(at)
    if not np.array_equal(written.to_numpy(), cube["data"].isel(at).to_numpy(), equal_nan=cube["data"].dtype.kind == "f"):
        sys.exit("the store holds other pixels than the cube")


def skip_ms(store: str, cube: xr.Dataset) -> Taken:
    """A run over a finished cube; milliseconds a region."""
    plan = planned(store, cube)
    with Stopwatch() as watch:
        report = run_plans(store, [plan], executor="serial")
    if (report.regions_done, report.regions_skipped) != (0, plan.n_regions):
        sys.exit("a finished region was written again")
    return watch.per(plan.n_regions)


# ------------------------------------------------------------------------------------------------ floors


def put(folder: Path, key: str, body: bytes) -> None:
    """Stage and move, as the engine does on a local folder."""
    staged, target = folder / "tmp" / uuid.uuid4().hex, folder / key
    staged.write_bytes(body)
    target.parent.mkdir(parents=True, exist_ok=True)
    staged.replace(target)


def floor_ms(folder: Path, cube: xr.Dataset, n_labelled: int) -> Taken:
    """Encode and put what the tasks of this cube do, and label ``n_labelled`` Datasets; nothing is planned or checked."""
    (folder / "tmp").mkdir(parents=True)
    plan = planned(str(folder), cube)
    frame, pixels = plan.job.spec.frame, PositionSource(source_frame(cube))
    with Stopwatch() as watch:
        for window in map(plan.job.spec.window, plan.job.spec.regions()):
            arrays = {v.name: pixels_like(frame, v.name, pixels.read(window)) for v in frame.variables}
            for _ in range(n_labelled):
                xr.Dataset({v.name: (v.dims, arrays[v.name]) for v in frame.variables}, coords=coords_of(frame, window))
            put_region(folder, frame, arrays, f"{window.times[0]}.{window.y[0]}.{window.x[0]}")
    return watch.per(plan.n_regions)


def source_frame(cube: xr.Dataset) -> Frame:
    """The frame of the cube's one source."""
    (source,) = recipe_of(cube).binding.sources.values()
    return source.frame()


def pixels_like(frame: Frame, name: str, arrays: dict[str, Any]) -> np.ndarray[Any, Any]:
    """Pixels of the dtype and shape of a variable, out of the source's."""
    v = frame.variable(name)
    values: np.ndarray[Any, Any] = arrays["data" if v.banded else "scl"].astype(v.dtype)
    return values


def put_region(folder: Path, frame: Frame, arrays: dict[str, np.ndarray[Any, Any]], where: str) -> None:
    """A shard a variable, a summary and a marker with their digests."""
    digests = {}
    for v in frame.variables:
        values = arrays[v.name]
        chunk = encode_chunk(values, values.shape, v)
        body = b"" if chunk is None else assemble_shard({(0,) * values.ndim: chunk}, (1,) * values.ndim) or b""
        put(folder, f"cubes/{v.name}/{where.replace('.', '/')}", body)
        digests[v.name] = [len(body), hashlib.sha256(body).hexdigest()]
    put(folder, f"cubes/summary/{where.replace('.', '/')}", b"summary")
    put(folder, f"markers/{where}/key.json", json.dumps(digests).encode())


def nothing(_: Any, i: int) -> int:
    """The task that does nothing."""
    return i


def empty_ms(executor: DaskExecutor, tasks: int) -> Taken:
    """Tasks that do nothing, through the same client at once: what the scheduler and the wire take."""
    with Stopwatch() as watch:
        futures = executor.client.map(nothing, [None] * tasks, range(tasks), pure=False)
        executor.client.gather(futures)
    return watch.per(tasks)


# ------------------------------------------------------------------------------------------------ rows


def median(taken: list[Taken]) -> Taken:
    """Of each clock by itself."""
    return Taken(*(statistics.median(clock) for clock in zip(*taken, strict=True)))


def row(name: str, ours: list[float], floor: list[float] | None, peak_mb: float, **ms: float) -> Row:
    """One line of results out of milliseconds a task; ``ms`` are further ones to show."""
    mine, least = statistics.median(ours), None if floor is None else statistics.median(floor)
    return {
        "bench": f"engine.{name}",
        "unit": "regions/s" if name == "skip" else "tasks/s",
        "ours": round(1e3 / mine, 3),
        "floor": None if least is None else round(1e3 / least, 3),
        "peers": {},
        "to_floor": None if least is None else round(least / mine, 3),
        "to_best_peer": None,
        "goal": f"1e3 / ours <= {GOALS_MS[name]}",
        "met": mine <= GOALS_MS[name],
        "peak_mb": round(peak_mb, 1),
        "ms": {k: round(v, 3) for k, v in {"ours": mine, **({} if least is None else {"floor": least}), **ms}.items()},
    }


def serial_row(name: str, chain: Callable[[xr.Dataset], xr.Dataset], folder: Path, n_labelled: int) -> Row:
    """One thread, one task after the other."""
    cube = chain(source_cube(EDGE_CHUNKS[name]))
    ours, floor, memory, grown = [], [], [], []
    for i in range(-1, ROUNDS):  # the first round warms up
        with (peak := Peak()).watched():
            ours.append(ours_ms(str(folder / f"{name}{i}"), cube))
        grown.append(peak.grown_mb)
        check(str(folder / f"{name}{i}"), cube)
        floor.append(floor_ms(folder / f"{name}-floor{i}", cube, n_labelled))
        memory.append(ours_ms("memory://overhead", cube))
        fsspec.filesystem("memory").rm("/overhead", recursive=True)  # it looks through all that it holds at every listing
    cpu, floor_cpu = ([t.cpu for t in taken[1:]] for taken in (ours, floor))
    more = {"memory": median(memory[1:]).cpu, "wall": median(ours[1:]).wall, "floor_wall": median(floor[1:]).wall}
    return row(name, cpu, floor_cpu, max(grown[1:]), **more)


def cluster_row(folder: Path) -> Row:
    """Two worker processes of one thread each."""
    cube = source_cube(EDGE_CHUNKS["cluster"])
    executor = connect("processes:2")
    if not isinstance(executor, DaskExecutor):
        sys.exit("processes:2 is no cluster")
    ours, floor = [], []
    try:
        executor.client.run(sys.path.insert, 0, str(Path(__file__).parent))
        before = executor.client.run(status_mb, "VmRSS")
        for i in range(-1, CLUSTER_ROUNDS):
            if i == 0:  # warm
                before = executor.client.run(cleared_mb)
            ours.append(ours_ms(str(folder / f"cluster{i}"), cube, executor).wall)
            floor.append(empty_ms(executor, planned(str(folder), cube).n_regions).wall)
        after = executor.client.run(status_mb, "VmHWM")
    finally:
        executor.close()
    return row("cluster", ours[1:], floor[1:], max(after[w] - before[w] for w in before))


def skip_row(folder: Path) -> Row:
    """Finished regions of a cube from its source, and of the chain; the slower of the two in each round."""
    taken: dict[str, list[Taken]] = {}
    grown = []
    n = EDGE_CHUNKS["skip"]
    for name, cube in (("bare", source_cube(n)), ("four_steps", four_steps(source_cube(2 * n)))):
        store = str(folder / f"skip-{name}")
        run_plans(store, [planned(store, cube)], executor="serial")
        with (peak := Peak()).watched():
            taken[name] = [skip_ms(store, cube) for _ in range(ROUNDS)]
        grown.append(peak.grown_mb)
    slower = [max(one.cpu, other.cpu) for one, other in zip(*taken.values(), strict=True)]
    each = {name: median(times) for name, times in taken.items()}
    walls = {f"{name}_wall": t.wall for name, t in each.items()}
    return row("skip", slower, None, max(grown), **{name: t.cpu for name, t in each.items()}, **walls)


def rows() -> Iterator[Row]:
    """Every row, as it is measured."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        yield serial_row("bare", lambda cube: cube, folder, 0)
        yield serial_row("four_steps", four_steps, folder, 5)
        yield skip_row(folder)
        yield cluster_row(folder)


def main() -> None:
    """Print the rows."""
    for line in rows():
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
