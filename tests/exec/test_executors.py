"""Executors: one contract for all, and on a Dask cluster the place where each kind of task may run."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from distributed import Client, LocalCluster, get_worker

from eocube.errors import PlacementError, UnknownNameError
from eocube.exec import executors
from eocube.exec.cpu_label import CpuLabelOnScheduler
from eocube.exec.executors import DaskExecutor, Executor, SerialExecutor, ThreadExecutor, as_executor, connect, executing
from eocube.testing.contracts import ExecutorContract, Luggage

_: tuple[type[Executor], ...] = (SerialExecutor, ThreadExecutor, DaskExecutor)


class TestSerial(ExecutorContract):
    most_in_flight = 1

    @pytest.fixture
    def executor(self):
        return connect("serial")


class TestThreads(ExecutorContract):
    most_in_flight = 6  # twice the threads

    @pytest.fixture
    def executor(self):
        return connect("threads:3")


@pytest.fixture(scope="module")
def cluster() -> Iterator[DaskExecutor]:
    """One worker for tasks without a network, one that carries GPU."""
    executor = connect("processes:1", gpu_workers=1)
    assert isinstance(executor, DaskExecutor)
    yield executor
    executor.close()


class TestDaskCpu(ExecutorContract):
    most_in_flight = 3  # three a thread

    @pytest.fixture
    def executor(self, cluster):
        return cluster


class TestDaskGpu(TestDaskCpu):
    resource = "GPU"


def resources_here(shared: object, task: int) -> frozenset[str]:
    return frozenset(get_worker().state.total_resources)


@pytest.mark.parametrize("resource", ["CPU", "GPU"])
def test_each_kind_of_task_runs_only_on_workers_of_its_kind(cluster: DaskExecutor, resource) -> None:
    token = cluster.share(None, resource=resource)
    seen = set(cluster.run(resources_here, ((token, i) for i in range(24)), resource=resource))
    assert seen == {frozenset({resource})}


class FakeClient:
    """Of a client only what placement asks: the scheduler's list of workers."""

    def __init__(self, *resources: dict[str, float]):
        self.workers = {f"tcp://{i}": {"resources": r, "nthreads": 2} for i, r in enumerate(resources)}

    @property
    def scheduler(self) -> FakeClient:
        return self

    def identity(self, n_workers: int = 5) -> dict:
        assert n_workers == -1, "the default lists five workers only"
        return {"workers": self.workers}

    def sync(self, func, *args, **kwargs) -> dict:
        return func(*args, **kwargs)

    def submit(self, *args, **placed) -> dict:
        return placed

    def register_plugin(self, plugin: object) -> None:
        if isinstance(plugin, CpuLabelOnScheduler):
            for worker in self.workers.values():
                if not worker["resources"]:
                    worker["resources"] = {"CPU": worker["nthreads"]}


@pytest.mark.parametrize(
    ("resources", "resource", "placed"),
    [
        pytest.param([{}, {}], "CPU", {"resources": {"CPU": 1}}, id="nobody carries anything: all are labelled"),
        pytest.param([{}, {"GPU": 1}], "CPU", {"resources": {"CPU": 1}}, id="unlabelled workers beside GPU ones are labelled"),
        pytest.param([{"CPU": 4}, {"GPU": 1}], "CPU", {"resources": {"CPU": 1}}, id="labelled workers"),
        pytest.param([{}, {"GPU": 1}], "GPU", {"resources": {"GPU": 1}}, id="a network goes to GPU"),
    ],
)
def test_placement_follows_what_the_workers_carry(resources, resource, placed) -> None:
    assert DaskExecutor(FakeClient(*resources))._placed(resource) == placed  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("resources", "resource", "says"),
    [
        pytest.param([{}, {"CPU": 1}], "GPU", r"--resources GPU=1", id="no worker for networks"),
        pytest.param([{"GPU": 1}, {"GPU": 1}], "CPU", r"2 workers .* carry the resource GPU", id="none but those for networks"),
        pytest.param([{"CPU": 2, "GPU": 1}], "CPU", r"both CPU and GPU", id="one for both"),
    ],
)
def test_a_cluster_without_a_fitting_worker_is_refused_at_once(resources, resource, says) -> None:
    executor = DaskExecutor(FakeClient(*resources))  # type: ignore[arg-type]
    with pytest.raises(PlacementError, match=says):
        executor.share(None, resource=resource)
    with pytest.raises(PlacementError, match=says):
        list(executor.run(resources_here, [(None, 1)], resource=resource))


def test_a_scheduler_without_any_worker_is_named_with_how_to_start_one(monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    monkeypatch.setattr(executors, "_PATIENCE_S", 0.2)
    with (
        LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0", host="127.0.0.1") as made,
        Client(made, set_as_default=False) as client,
        pytest.raises(PlacementError, match=rf"at {made.scheduler_address} has no worker.*`dask worker tcp://"),
    ):
        DaskExecutor(client).share(None)
    assert "no worker yet; waiting" in caplog.text


def test_connect_knows_its_short_forms(cluster: DaskExecutor) -> None:
    assert isinstance(connect("serial"), SerialExecutor)
    assert isinstance(connect("threads"), ThreadExecutor)
    assert connect("threads").n_threads == os.cpu_count()  # type: ignore[attr-defined]
    assert connect("threads:5").n_threads == 5  # type: ignore[attr-defined]
    assert isinstance(connect(None), ThreadExecutor)


@pytest.mark.parametrize(
    "spec", ["", "thread", "threads:x", "processes:-1", "serial:1", "threads:0", "tcp", "nonsense:", "no such:function"]
)
def test_connect_refuses_anything_else_and_lists_what_it_knows(spec: str) -> None:
    with pytest.raises(UnknownNameError, match=r"Unknown executor .*threads\[:n\].*tcp://"):
        connect(spec)


def make_executor() -> SerialExecutor:
    return SerialExecutor()


def make_nothing() -> int:
    return 3


def test_connect_calls_a_function_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    import types

    module = types.ModuleType("a_site_of_mine")
    module.make_executor = make_executor  # type: ignore[attr-defined]
    module.make_nothing = make_nothing  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "a_site_of_mine", module)
    assert isinstance(connect("a_site_of_mine:make_executor"), SerialExecutor)
    with pytest.raises(UnknownNameError, match="executor 3"):
        connect("a_site_of_mine:make_nothing")
    with pytest.raises(UnknownNameError, match=r"a_site_of_mine:missing.* has no attribute"):
        connect("a_site_of_mine:missing")
    with pytest.raises(UnknownNameError, match=r"no_such_module_here:function.*No module named"):
        connect("no_such_module_here:function")


def test_a_client_is_taken_as_it_is_and_stays_open(cluster: DaskExecutor) -> None:
    with executing(cluster.client) as executor:
        token = executor.share(Luggage(1))
        assert list(executor.run(resources_here, [(token, 0)])) == [frozenset({"CPU"})]
    assert cluster.client.status == "running"


def test_the_active_client_is_used_where_none_is_named(cluster: DaskExecutor) -> None:
    with cluster.client.as_current():
        executor = as_executor(None)
    assert isinstance(executor, DaskExecutor)
    assert executor.client is cluster.client
