"""20,000 tasks through a real scheduler and two workers: what the scheduler holds and everybody's memory do not grow."""

from __future__ import annotations

import multiprocessing
import os
import statistics
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Self

import cloudpickle
import dask
import numpy as np
import psutil  # type: ignore[import-untyped]  # comes with distributed, without types
import pytest
from distributed import Client

from eocube.exec.drive import CubePlan, RunReport
from eocube.exec.executors import DaskExecutor
from eocube.io.blobs import open_blobs
from eocube.io.index import read_index
from eocube.jobs.write import WriteSettings, plan_node, run_plans
from eocube.model.bands import Band
from eocube.model.frame import Frame, Variable
from eocube.model.recipe import Arrays, Binding, Cost, OnError
from eocube.model.window import Window
from eocube.testing.stac import make_grid
from eocube.testing.stores import cut_plan
from tests.slow.killing import real_cluster
from tests.slow.telling import Tell

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1_200)]

EDGE_PX = 4
REGIONS_YX = (100, 200)
TASKS = 20_000
IN_FLIGHT = 6
"""Three for each of the two worker threads."""

MOST_ON_SCHEDULER = 2 * IN_FLIGHT + 4
"""Tasks in flight, what they share, and results that the client has let go of but the scheduler has not yet heard of."""

MOST_BYTES = {"scheduler": 100, "workers": 200, "driver": 350}
"""Most resident memory that each may gain with a task; the workers together. Measured: scheduler 13, workers 9, driver 184, which
keeps a key a region; a list that takes 200 bytes with each task is 240 more."""

PARTS = 8
"""Of the last three quarters of a run. What leaks with every task does so in each; a worker's late import does in one."""

BOUNDED = {
    "distributed.worker.profile.enabled": False,
    "distributed.admin.low-level-log-length": 100,
    "distributed.admin.system-monitor.log-length": 100,
}
"""distributed keeps a profile a second for 1,000 seconds, the last 1,000 messages of each link and an hour of half seconds of the
machine's state: bounds that a run of minutes does not reach. Lower ones are reached before we measure."""


class CountingSource:
    """Pixels that say where they are, out of nothing. See :class:`eocube.model.recipe.Source`."""

    block_yx = (EDGE_PX, EDGE_PX)

    def frame(self) -> Frame:
        """See :class:`eocube.model.recipe.Source`."""
        ny, nx = REGIONS_YX
        return Frame(
            geobox=make_grid((ny * EDGE_PX, nx * EDGE_PX)),
            time_ms=(0,),
            bands=(Band(name="red"),),
            variables=(Variable(name="data", dtype="uint16", banded=True, nodata=0),),
        )

    def read(self, window: Window, *, names: tuple[str, ...] | None = None, on_error: OnError | None = None) -> Arrays:
        """See :class:`eocube.model.recipe.Source`."""
        y, x = np.arange(*window.y, dtype="uint16")[:, None], np.arange(*window.x, dtype="uint16")
        return {"data": (y + x + np.uint16(1))[None, None]}

    def ids(self, window: Window) -> list[list[Any]]:
        """See :class:`eocube.model.recipe.Source`."""
        return [["only", 0]]

    def cost(self, window: Window) -> Cost:
        """See :class:`eocube.model.recipe.Source`."""
        return Cost(0, 0, 0)

    def assets(self) -> list[dict[str, Any]]:
        """See :class:`eocube.model.recipe.Source`."""
        return []

    def token(self) -> str:
        """See :class:`eocube.model.recipe.Source`."""
        return "counting"


Sizes = dict[str, float]
"""Bytes of the scheduler, of the workers together, of the driver."""


class Sample(NamedTuple):
    """The state of a run at one moment."""

    done: int
    tasks: int
    """On the scheduler."""

    memory: Sizes


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, dict[str, list[int]]]]:
    """A scheduler and two workers of one thread each, as processes of their own: the address, and who they are."""
    for name, value in BOUNDED.items():
        monkeypatch.setenv("DASK_" + name.upper().replace(".", "__").replace("-", "_"), str(value))
    with dask.config.set(BOUNDED), real_cluster(tmp_path) as running:
        yield (
            running.address,
            {"workers": [p.pid for p in running.with_workers(2).values()], "scheduler": [running.scheduler.pid]},
        )


def fill_caches() -> None:
    """Dask remembers to which group each of the last 100,000 keys belongs: that many, of the length of ours."""
    import uuid

    from dask.utils import key_split

    for _ in range(key_split.cache_info().maxsize or 0):
        key_split(f"run_regions-{uuid.uuid4()}")


class Watch:
    """Takes samples of a cluster while a run goes on."""

    def __init__(self, address: str, pids: dict[str, list[int]]):
        self._address = address
        self._processes = {kind: [psutil.Process(pid) for pid in them] for kind, them in pids.items()}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.done, self.samples = 0, list[Sample]()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def note(self, _: Any) -> None:
        self.done += 1

    def _watch(self) -> None:
        with Client(self._address, set_as_default=False) as client:
            while not self._over.wait(0.25):
                tasks = client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks))
                memory = {kind: sum(p.memory_info().rss for p in them) for kind, them in self._processes.items()}
                self.samples.append(Sample(self.done, tasks, memory))


def gains(samples: list[Sample]) -> Sizes:
    """Bytes that each gains with a task: the median over parts of the run of the least-squares slope in each."""
    parts = [samples[i * len(samples) // PARTS : (i + 1) * len(samples) // PARTS] for i in range(PARTS)]

    def slope(part: list[Sample], kind: str) -> float:
        return float(np.polyfit([s.done for s in part], [s.memory[kind] for s in part], 1)[0])

    return {kind: statistics.median(slope(part, kind) for part in parts) for kind in samples[0].memory}


def test_what_leaks_with_every_task_is_a_gain_and_one_step_is_none() -> None:
    leaking = [
        Sample(n, 9, {"scheduler": 1e8 + 200 * n + (2.4e7 if n > 9_000 else 0), "driver": 1e8}) for n in range(5_000, TASKS, 40)
    ]
    assert gains(leaking) == {"scheduler": pytest.approx(200), "driver": pytest.approx(0, abs=1e-3)}


def tiny_plan(store: Path) -> CubePlan:
    source, node = CountingSource(), {"source": "counting", "kind": "counting"}
    binding = Binding(sources={"counting": source})
    made = plan_node(node, binding, str(store), site="c", product="p", settings=WriteSettings(layout="map"), licence={})
    return cut_plan(made, chunk_tyx=(1, EDGE_PX, EDGE_PX), shard_tyx=(1, EDGE_PX, EDGE_PX))


def worker_here(shared: Any, task: int) -> str:
    from distributed import get_worker

    return get_worker().address


def test_short_tasks_that_share_a_value_are_spread_over_all_workers(
    cluster: tuple[str, dict[str, list[int]]],
) -> None:
    """By itself the scheduler keeps tasks of less than 5 ms on the worker that holds what they depend on."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    try:
        with Client(cluster[0], set_as_default=False) as client:
            client.wait_for_workers(2, timeout=120)
            executor = DaskExecutor(client)
            token = executor.share({"of": "all"})
            on = Counter(executor.run(worker_here, ((token, i) for i in range(2_000))))
    finally:
        cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    assert len(on) == 2
    assert min(on.values()) > 500, on


def drive_watched(address: str, pids: dict[str, list[int]], store: str) -> tuple[RunReport, list[Sample]]:
    """Write all regions from this process, the driver, on a cluster: what was done, and what was seen meanwhile."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers cannot import this file
    pids = {**pids, "driver": [os.getpid()]}
    with dask.config.set(BOUNDED), Client(address, set_as_default=False) as client, Watch(address, pids) as watch:
        client.wait_for_workers(2, timeout=120)
        client.run_on_scheduler(fill_caches)
        client.run(fill_caches)
        report = run_plans(store, [tiny_plan(Path(store))], executor=DaskExecutor(client), on_done=watch.note)
    return report, watch.samples


def test_the_scheduler_and_all_memory_stay_flat_over_20_000_tasks(
    cluster: tuple[str, dict[str, list[int]]], tmp_path: Path, tell: Tell
) -> None:
    """The driver is a process of its own: each task leaves cycles in it (distributed's, 1.6 kB), and Python looks for those when
    a quarter as many objects are new as are old, which in a process with an hour of other tests behind it is not in this run."""
    address, pids = cluster
    store = str(tmp_path / "store")
    assert tiny_plan(tmp_path / "store").n_regions == TASKS
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        report, samples = pool.submit(drive_watched, address, pids, store).result()
    assert (report.regions_done, report.cubes) == (TASKS, ["c/p"])
    assert read_index(open_blobs(store)).num_rows == 1

    under_way = [s for s in samples if 0 < s.done < TASKS]
    late = [s for s in under_way if s.done >= TASKS // 4]
    assert len(late) > 40, "too few samples to say anything"
    most, gained = max(s.tasks for s in under_way), gains(late)
    told = ", ".join(f"{kind} {n_bytes:.0f} bytes" for kind, n_bytes in gained.items())
    tell(f"{TASKS} tasks, {report.seconds / TASKS * 1e3:.1f} ms each; most on the scheduler {most}; gained with each: {told}")
    assert most <= MOST_ON_SCHEDULER
    assert all(gained[kind] < MOST_BYTES[kind] for kind in gained), told
