"""Arrays of tasks come from memory that the process has already: few pages are made anew, also under Dask's nanny."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask
import numpy as np
import pytest

from eocube.exec import plugins
from eocube.exec.executors import executing
from eocube.io import heap
from eocube.io.heap import keep_heap, tidied

resource = pytest.importorskip("resource")
pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="thresholds of glibc")

ARRAYS, PAGES = 50, 768
"""Arrays made and freed one after the other, and pages of 4 KiB in each: beyond the 128 KiB from which glibc maps one, below the
4 MiB from which NumPy asks for huge pages."""

NANNY = {"MALLOC_TRIM_THRESHOLD_": "65536"}


def faults() -> int:
    """Pages that the kernel makes for this process while arrays come and go."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for n in range(ARRAYS):
        np.full(PAGES * 4096, n, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def faults_in_task(shared: None, task: int) -> int:
    return faults()


def in_new_process(code: str, environ: Mapping[str, str]) -> str:
    """What a fresh Python prints; glibc reads its settings as a process starts."""
    plain = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    args = [sys.executable, "-c", code]
    found = subprocess.run(args, env={**plain, **environ}, capture_output=True, text=True, check=True, timeout=60)
    return found.stdout.strip()


COUNT = "import tests.io.test_heap as t; {}; print(t.faults())"


def test_the_nanny_s_setting_makes_every_array_anew_and_a_kept_heap_does_not() -> None:
    anew = int(in_new_process(COUNT.format("pass"), NANNY))
    kept = int(in_new_process(COUNT.format("assert t.keep_heap()"), NANNY))
    assert 5 * kept < anew, "a kernel may make several pages at a fault"


def test_tasks_on_a_worker_under_a_nanny_keep_their_heap() -> None:
    with executing("processes:1") as executor:
        (found,) = executor.run(faults_in_task, [(executor.share(None), 0)])
    assert found < 3 * PAGES


@pytest.mark.parametrize(
    "own",
    [
        {"MALLOC_MMAP_THRESHOLD_": "1000000"},
        {"MALLOC_TRIM_THRESHOLD_": "1000000"},
        {"GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2:glibc.malloc.mmap_threshold=1000000"},
    ],
)
def test_a_setting_of_the_user_s_own_stays(own: dict[str, str]) -> None:
    assert not keep_heap(own)


def test_a_worker_without_a_nanny_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    settled = []
    monkeypatch.setattr(plugins, "keep_heap", lambda: settled.append(True))
    for nanny in (None, "tcp://127.0.0.1:1"):
        plugins.KeptHeap().setup(SimpleNamespace(nanny=nanny))  # type: ignore[arg-type]
    assert settled == [True]


def held_between(others: int) -> tuple[int, int]:
    """Bytes by which this process is bigger when arrays of 60 MB below others are free, in a task and after it.

    Meanwhile tasks are under way in some other threads.
    """
    before, kept = resident_bytes(), []

    def task() -> int:
        arrays = [np.ones(10_000_000, np.uint8) for _ in range(7)]
        kept.append(arrays.pop())
        arrays.clear()
        time.sleep(0.06)
        return resident_bytes() - before

    with tasks_elsewhere(others):
        return tidied(task), resident_bytes() - before


@contextmanager
def tasks_elsewhere(threads: int) -> Iterator[None]:
    started, ended = threading.Barrier(threads + 1), threading.Event()

    def task() -> None:
        started.wait(10)
        ended.wait(10)

    with ThreadPoolExecutor(threads + 1) as pool:
        for _ in range(threads):
            pool.submit(tidied, task)
        started.wait(10)
        yield
        ended.set()


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.parametrize("others", [0, 1])
def test_what_is_free_goes_back_unless_other_threads_have_tasks(others: int) -> None:
    """Though something lies above it; and Dask's setting, which it leaves in the process that started a nanny, says nothing."""
    code = f"import tests.io.test_heap as t; assert t.keep_heap(); print(*t.held_between({others}))"
    free, left = map(int, in_new_process(code, NANNY).split())
    assert free > 55_000_000
    assert left > 55_000_000 if others else left < 15_000_000


@pytest.fixture
def trims(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One for each time that pages are given back. Tasks count as long from 10 ms on."""
    found: list[int] = []
    monkeypatch.setattr(heap, "trim", lambda: found.append(1))
    monkeypatch.setattr(heap, "_LONG_S", 0.01)
    return found


def sleeping_task(shared: Any, seconds: float) -> float:
    time.sleep(seconds)
    if seconds == FAILS_S:
        raise ValueError
    return seconds


FAILS_S = 0.02


@pytest.mark.parametrize("kind", ["serial", "threads:1"])
def test_executors_give_pages_back_after_long_tasks_also_where_these_fail(kind: str, trims: list[int]) -> None:
    with executing(kind) as executor:
        assert list(executor.run(sleeping_task, [(None, 0.0), (None, 0.015), (None, 0.0), (None, 0.03)])) == [0, 0.015, 0, 0.03]
        assert len(trims) == 2
        with pytest.raises(ValueError, match=r"^$"):
            list(executor.run(sleeping_task, [(None, FAILS_S)]))
    assert len(trims) == 3


def test_what_a_long_task_left_goes_back_when_a_short_one_ends_last(trims: list[int]) -> None:
    with tasks_elsewhere(1):
        tidied(time.sleep, 0.02)
        assert trims == []
    assert trims == [1]


def test_a_heap_that_the_user_has_settled_is_not_trimmed(trims: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1000000000")
    tidied(time.sleep, 0.02)
    assert trims == []


def test_own_clusters_have_no_profiler_and_leave_the_settings_of_this_process_alone() -> None:
    with executing("processes:1") as executor:
        (found,) = executor.run(profiler_of_worker, [(executor.share(None), None)])
    assert found is False
    assert dask.config.get("distributed.worker.profile.enabled") is True


def profiler_of_worker(shared: None, task: None) -> bool:
    return bool(dask.config.get("distributed.worker.profile.enabled"))
