"""20,000 tasks through a real scheduler and two workers: what the scheduler holds and everybody's memory do not grow."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

import cloudpickle
import numpy as np
import psutil  # type: ignore[import-untyped]  # comes with distributed, without types
import pytest
from distributed import Client

from eocube.exec.drive import CubePlan
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
from tests.slow.killing import Tell, real_cluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1_200)]

EDGE_PX = 4
REGIONS_YX = (100, 200)
TASKS = 20_000
IN_FLIGHT = 6
"""Three for each of the two worker threads."""

MOST_ON_SCHEDULER = 2 * IN_FLIGHT + 4
"""Tasks in flight, what they share, and results that the client has let go of but the scheduler has not yet heard of."""

GROWTH_MB = {"scheduler": 12, "driver": 24, "worker": 12}
"""Most growth between a quarter of the run and its end: 15,000 tasks. The driver keeps a key a region."""


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


class Sample(NamedTuple):
    """The state of a run at one moment; sizes in MB."""

    done: int
    tasks: int
    scheduler: float
    driver: float
    worker: float
    """The bigger of the two."""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[str, dict[str, list[psutil.Process]]]]:
    """A scheduler and two workers of one thread each, as processes of their own: the address, and who they are."""
    with real_cluster(tmp_path) as running:
        workers = [psutil.Process(p.pid) for p in running.with_workers(2).values()]
        yield (
            running.address,
            {"scheduler": [psutil.Process(running.scheduler.pid)], "worker": workers, "driver": [psutil.Process()]},
        )


class Watch:
    """Takes samples of a cluster while a run goes on."""

    def __init__(self, address: str, processes: dict[str, list[psutil.Process]]):
        self._address, self._processes = address, processes
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
                sizes = {kind: max(p.memory_info().rss for p in them) / 1e6 for kind, them in self._processes.items()}
                self.samples.append(Sample(done=self.done, tasks=tasks, **sizes))


def tiny_plan(store: Path) -> CubePlan:
    source, node = CountingSource(), {"source": "counting", "kind": "counting"}
    binding = Binding(sources={"counting": source})
    made = plan_node(node, binding, str(store), site="c", product="p", settings=WriteSettings(layout="map"), licence={})
    return cut_plan(made, chunk_tyx=(1, EDGE_PX, EDGE_PX), shard_tyx=(1, EDGE_PX, EDGE_PX))


def worker_here(shared: Any, task: int) -> str:
    from distributed import get_worker

    return get_worker().address


def test_short_tasks_that_share_a_value_are_spread_over_all_workers(
    cluster: tuple[str, dict[str, list[psutil.Process]]],
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


def test_the_scheduler_and_all_memory_stay_flat_over_20_000_tasks(
    cluster: tuple[str, dict[str, list[psutil.Process]]], tmp_path: Path, tell: Tell
) -> None:
    address, processes = cluster
    plan = tiny_plan(tmp_path / "store")
    assert plan.n_regions == TASKS
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers cannot import this file
    try:
        with Client(address, set_as_default=False) as client, Watch(address, processes) as watch:
            client.wait_for_workers(2, timeout=120)
            executor = DaskExecutor(client)
            report = run_plans(str(tmp_path / "store"), [plan], executor=executor, on_done=watch.note)
    finally:
        cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    assert (report.regions_done, report.cubes) == (TASKS, ["c/p"])
    assert read_index(open_blobs(str(tmp_path / "store"))).num_rows == 1

    under_way = [s for s in watch.samples if 0 < s.done < TASKS]
    late = [s for s in under_way if s.done >= TASKS // 4]
    assert len(late) > 40, "too few samples to say anything"
    most = max(s.tasks for s in under_way)
    growth = {kind: max(getattr(s, kind) for s in late) - getattr(late[0], kind) for kind in GROWTH_MB}
    grew = ", ".join(f"{kind} {mb:.1f} MB" for kind, mb in growth.items())
    tell(f"{TASKS} tasks, {report.seconds / TASKS * 1e3:.1f} ms each; most on the scheduler {most}; growth {grew}")
    assert most <= MOST_ON_SCHEDULER
    for kind, most_mb in GROWTH_MB.items():
        assert growth[kind] < most_mb, f"{kind} grew by {growth[kind]:.1f} MB"
