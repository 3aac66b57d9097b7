"""High-water mark of a process less its size before: what work makes it grow."""

from __future__ import annotations

import gc
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from eocube.io.heap import trim

_HUGE = "NUMPY_MADVISE_HUGEPAGE"


def status_mb(key: str) -> float:
    """A size of this process in MB (``VmRSS``, ``VmHWM``), from the kernel."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024 / 1e6
    raise AssertionError(key)


def cleared_mb() -> float:
    """Forget the high-water mark of this process, where the kernel lets us; its size now."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return status_mb("VmRSS")


class Peak:
    """Size of this process before, and the highest meanwhile."""

    def __init__(self) -> None:
        self.before_mb, self.mb, self.how = 0.0, 0.0, ""

    @property
    def grown_mb(self) -> float:
        """By how much it grew at most."""
        return self.mb - self.before_mb

    @contextmanager
    def watched(self) -> Iterator[Peak]:
        """Clear the kernel's high-water mark and read it afterwards; sample each millisecond where it cannot be cleared.

        Free pages go back first, as they do at the end of a bigger task under a nanny: what takes them again counts.
        """
        gc.collect()
        trim()
        self.before_mb = status_mb("VmRSS")
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            self.how = "sampled each ms"
            ended = threading.Event()
            sampler = threading.Thread(target=self._sample, args=(ended,))
            sampler.start()
            try:
                yield self
            finally:
                ended.set()
                sampler.join()
        else:
            self.how = "VmHWM"
            yield self
            self.mb = status_mb("VmHWM")

    def _sample(self, ended: threading.Event) -> None:
        while not ended.is_set():
            self.mb = max(self.mb, status_mb("VmRSS"))
            time.sleep(1e-3)


def in_new_process(act: Callable[..., Any], *args: Any) -> Any:
    """What a function returns in a process that nothing was done in yet."""
    here, there = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=_answer, args=(there, act, *args))
    with plain_memory():
        process.start()
    there.close()
    try:
        return here.recv()
    finally:
        process.join()


@contextmanager
def plain_memory() -> Iterator[None]:
    """Processes that start meanwhile have no settings of glibc's heap (Dask's nanny leaves its own behind) and no huge pages.

    NumPy asks for those. The kernel then fills free memory between arrays with them, whenever it comes to it.
    """
    found = {k: v for k, v in os.environ.items() if k.startswith(("MALLOC_", "GLIBC_TUNABLES", _HUGE))}
    for key in found:
        del os.environ[key]
    os.environ[_HUGE] = "0"
    try:
        yield
    finally:
        del os.environ[_HUGE]
        os.environ.update(found)


def _answer(there: Any, act: Callable[..., Any], *args: Any) -> None:
    there.send(act(*args))


def grown_mb(warm_up: Callable[[], object], work: Callable[[], object]) -> float:
    """By how much this process grows in some work, after other work that loads the libraries and compiles the kernels."""
    warm_up()
    with (peak := Peak()).watched():
        work()
    return round(peak.grown_mb, 1)
