"""Tasks without a network stay off GPU workers while a cluster changes under a run."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, Nanny, Scheduler, SpecCluster, get_worker

import eocube
from eocube.errors import StoreWriteError
from eocube.exec.executors import DaskExecutor

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


def _worker(resources: dict[str, float]) -> dict[str, Any]:
    return {"cls": Nanny, "options": {"nthreads": 1, "resources": resources, "dashboard_address": None, "silence_logs": 40}}


def _where(_: Any, __: int) -> str:
    time.sleep(0.1)
    return str(get_worker().name)


@pytest.fixture
def cluster() -> Iterator[SpecCluster]:
    scheduler = {"cls": Scheduler, "options": {"dashboard_address": "127.0.0.1:0", "host": "127.0.0.1"}}
    workers = {"plain": _worker({}), "plain2": _worker({}), "gpu": _worker({"GPU": 1})}
    with SpecCluster(workers=workers, scheduler=scheduler, silence_logs=40) as running:
        yield running


def test_a_store_that_workers_do_not_share_is_no_finished_store(tmp_path: Path) -> None:
    catalog = eocube.sample_corpus("sentinel2", tmp_path)
    corpus = eocube.open_corpus("stac", catalog)

    with pytest.raises(StoreWriteError, match="do not see the same memory://"):
        eocube.convert(corpus, "memory://elsewhere", products=["20m"], executor="processes:1")

    assert eocube.open_store("memory://elsewhere").index.num_rows == 0


def test_workers_that_die_start_again_or_join_later_change_nothing_about_who_runs_what(cluster: SpecCluster) -> None:
    with Client(cluster, set_as_default=False) as client:
        client.wait_for_workers(3)
        executor = DaskExecutor(client)
        shared = executor.share({})
        ran: list[str] = []
        tasks = ((shared, i) for i in takewhile(lambda i: i < 40 or "late" not in ran, range(600)))
        for n, name in enumerate(executor.run(_where, tasks)):
            ran.append(name)
            if n == 5:
                pids = client.run(os.getpid)
                for address, w in client.scheduler_info(n_workers=-1)["workers"].items():
                    if w["name"] != "gpu":
                        os.kill(pids[address], signal.SIGKILL)
            if n == 8:
                cluster.worker_spec |= {"gpu2": _worker({"GPU": 1}), "late": _worker({})}
                cluster.sync(cluster._correct_state)
                client.wait_for_workers(5)

    assert 40 <= len(ran) < 600
    assert set(ran) <= {"plain", "plain2", "late"}
    assert "late" in ran
