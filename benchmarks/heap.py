"""What keeping the heap is worth on a worker: the task of ``memory.py convert.balanced`` under Dask's nanny, with and without.

Prints one JSON line: ``ours`` and ``floor`` are tasks a second of processor time, on workers of a real cluster that eocube's
plugin settled and on others that it did not (both give free pages back after a task); ``faults`` and ``faults_floor`` the pages
that the kernel made for a task. Fresh workers take turns; medians of their second and later tasks.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # run or imported, its neighbour is found
import memory
from _peak import plain_memory
from distributed import Client, LocalCluster

from eocube.exec.executors import DaskExecutor
from eocube.exec.region import run_regions
from eocube.io.heap import tidied
from eocube.jobs.write import WriteSettings, plan_cube

CASE = "convert.balanced"
ROUNDS, TASKS = 3, 4
Spent = tuple[float, int]


def _spent(sent: bytes, tasks: int) -> list[Spent]:
    """(seconds of processor time, pages made) of each task but the first, in a worker."""
    import resource

    import cloudpickle

    job, task, _ = cloudpickle.loads(sent)
    out = []
    for _ in range(tasks):
        started, faults = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        tidied(run_regions, job, (task,))
        out.append((time.process_time() - started, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults))
    return out[1:]


def by_a_fresh_worker(sent: bytes, *, settled: bool) -> list[Spent]:
    """What tasks cost on one, with or without eocube's plugins."""
    local: dict[str, Any] = {"dashboard_address": "127.0.0.1:0", "host": "127.0.0.1"}
    with (
        plain_memory(),
        LocalCluster(n_workers=1, threads_per_worker=1, memory_limit=0, **local) as cluster,
        Client(cluster) as client,
    ):
        if settled:
            DaskExecutor(client).share(None)
        found: list[Spent] = client.submit(_spent, sent, TASKS, pure=False).result()
    return found


def main() -> None:
    """Print the row."""
    (case,) = (c for c in memory.CASES if c.name == CASE)
    spent: dict[bool, list[Spent]] = {True: [], False: []}
    with tempfile.TemporaryDirectory() as folder:
        files = memory.make_files(Path(folder) / "files")
        settings = WriteSettings(layout=case.layout)  # type: ignore[arg-type]
        job = plan_cube(case.cube(files), f"{folder}/store", site="cube", product="data", settings=settings).job
        for _ in range(ROUNDS):
            for settled in (True, False):
                spent[settled] += by_a_fresh_worker(memory.work_of(job), settled=settled)
    ours, floor = (1 / statistics.median(s for s, _ in spent[settled]) for settled in (True, False))
    row = {
        "bench": "heap.worker",
        "unit": "tasks/s of processor time",
        "ours": round(ours, 3),
        "floor": round(floor, 3),
        "peers": {},
        "to_floor": round(ours / floor, 2),
        "to_best_peer": None,
        "goal": "to_floor >= 1.5",
        "met": ours / floor >= 1.5,
        "peak_mb": None,
        "faults": round(statistics.median(n for _, n in spent[True])),
        "faults_floor": round(statistics.median(n for _, n in spent[False])),
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main()
