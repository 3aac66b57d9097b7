"""A real scheduler and real workers on loopback: the store comes out as from one thread, also when a worker is killed."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import Client

from eocube.errors import PlacementError
from eocube.exec.executors import DaskExecutor, connect
from eocube.jobs.convert import convert
from eocube.jobs.open import open_corpus
from eocube.testing.contracts import ExecutorContract, Luggage
from eocube.testing.stac import make_grid, make_series, write_catalog
from eocube.testing.stores import same_store

pytestmark = pytest.mark.slow

Start = Callable[..., "subprocess.Popen[bytes]"]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Start ``dask …`` processes; they end with the tests."""
    started: list[subprocess.Popen[bytes]] = []
    home = tmp_path_factory.mktemp("dask")

    def run(*args: str) -> subprocess.Popen[bytes]:
        log = (home / f"{len(started)}.log").open("wb")
        command = [sys.executable, "-m", f"distributed.cli.dask_{args[0]}", *args[1:]]
        started.append(subprocess.Popen(command, stdout=log, stderr=log, cwd=home))
        log.close()
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def scheduler(start: Start) -> str:
    port = free_port()
    start("scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard")
    return f"tcp://127.0.0.1:{port}"


def add_worker(start: Start, scheduler: str, name: str, resources: str = "") -> subprocess.Popen[bytes]:
    more = ["--resources", resources] if resources else []
    return start(
        "worker", scheduler, "--host", "127.0.0.1", "--nthreads", "1", "--name", name, "--no-dashboard", "--no-nanny", *more
    )


@pytest.fixture(scope="module")
def executor(start: Start, scheduler: str) -> Iterator[DaskExecutor]:
    """Two plain workers and one that carries GPU."""
    for name, resources in (("a", ""), ("b", ""), ("gpu", "GPU=1")):
        add_worker(start, scheduler, name, resources)
    made = connect(scheduler)
    assert isinstance(made, DaskExecutor)
    made.client.wait_for_workers(3, timeout=60)
    yield made
    made.close()


class TestAddress(ExecutorContract):
    most_in_flight = 6

    @pytest.fixture
    def executor(self, executor):
        return executor


def name_here(shared: Any, task: int) -> str:
    from distributed import get_worker

    time.sleep(0.01)
    return str(get_worker().name)


def test_tasks_of_each_kind_stay_on_workers_of_their_kind(executor: DaskExecutor) -> None:
    for resource, names in (("CPU", {"a", "b"}), ("GPU", {"gpu"})):
        token = executor.share(Luggage(0), resource=resource)  # type: ignore[arg-type]
        assert set(executor.run(name_here, ((token, i) for i in range(60)), resource=resource)) <= names  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    series = make_series(60, grid=make_grid((40, 40)))
    return write_catalog(series, tmp_path_factory.mktemp("catalog"))


@pytest.fixture(scope="module")
def serial(catalog: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("serial")
    convert(open_corpus("stac", catalog), str(store), layout="map", executor="serial")
    return store


def test_an_address_given_as_text_gives_the_serial_store(
    executor: DaskExecutor, scheduler: str, catalog: Path, serial: Path, tmp_path: Path
) -> None:
    convert(open_corpus("stac", catalog), str(tmp_path), layout="map", executor=scheduler)
    assert same_store(tmp_path, serial)
    assert executor.client.status == "running"


def test_a_client_of_the_users_gives_the_serial_store(
    executor: DaskExecutor, scheduler: str, catalog: Path, serial: Path, tmp_path: Path
) -> None:
    with Client(scheduler, set_as_default=False) as client:
        convert(open_corpus("stac", catalog), str(tmp_path), layout="map", executor=client)
        assert client.status == "running"
    assert same_store(tmp_path, serial)


def test_a_worker_that_is_killed_costs_nothing_but_time(
    executor: DaskExecutor, start: Start, scheduler: str, catalog: Path, serial: Path, tmp_path: Path
) -> None:
    doomed, done = add_worker(start, scheduler, "doomed"), 0
    executor.client.wait_for_workers(4, timeout=60)

    def kill_soon(_: Any) -> None:
        nonlocal done
        done += 1
        if done == 10:
            doomed.kill()
            doomed.wait()

    convert(open_corpus("stac", catalog), str(tmp_path), layout="map", executor=executor, on_done=kill_soon)
    assert doomed.poll() is not None
    assert same_store(tmp_path, serial)


def test_an_address_where_nobody_answers_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import dask

    address = f"tcp://127.0.0.1:{free_port()}"
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        pytest.raises(PlacementError, match=f"{address}.*dask scheduler"),
    ):
        connect(address)
