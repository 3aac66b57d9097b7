"""The C library's heap where tasks run: kept from one array to the next, given back between tasks.

glibc takes an array beyond a threshold from the system by itself and gives it back as soon as it is free: every page of the next
one is then made anew, and zeroed. It raises that threshold as it sees such arrays go, up to 32 MiB, but not where one of its
settings is given, and Dask's nanny gives one to every worker (``distributed.nanny.pre-spawn-environ``). Converting then takes
nearly twice the processor time (``benchmarks/heap.py``). What that setting is for, that no worker holds what nobody uses, is done
between tasks instead.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from eocube.model.memory import MAPPED_BYTES

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""``M_TRIM_THRESHOLD`` and ``M_MMAP_THRESHOLD`` of glibc's ``malloc.h``. By itself the second goes up to 32 MiB (on 64 bits,
``DEFAULT_MMAP_THRESHOLD_MAX``)."""

_TOP_BYTES = 8 * 1024 * 1024
"""Most that stays at the top of a heap as it gets free: ``malloc_trim`` does not reach the top of a thread's own heap. Blocks of
files come and go below that; with half of it converting takes half as much time again."""

_OF_DASK = "65536"
"""What Dask's nanny sets ``MALLOC_TRIM_THRESHOLD_`` to, by its default."""

_LONG_S = 0.05
"""Tasks from here on are worth a look at what they left; it takes up to a millisecond."""

_T = TypeVar("_T")


class _Tasks:
    """What is known of the tasks of this process."""

    def __init__(self) -> None:
        self._n_at_work, self._left_something = 0, False
        self._lock = threading.Lock()

    def begin(self) -> None:
        """One more is under way."""
        with self._lock:
            self._n_at_work += 1

    def end(self, seconds: float) -> bool:
        """One has ended; whether none is under way now, and one that took long has ended since that was last so."""
        with self._lock:
            self._n_at_work -= 1
            self._left_something |= seconds >= _LONG_S
            alone = not self._n_at_work and self._left_something
            self._left_something &= not alone
        return alone


_tasks = _Tasks()
"""One for the process, as the heap is."""


def keep_heap(environ: Mapping[str, str] = os.environ) -> bool:
    """Let arrays below 32 MiB come from the heap, as glibc does by itself after a while. Whether that was done.

    At most 8 MiB stay at the top of one; by itself glibc would come to 64. Settings of the user's own stay
    (``MALLOC_MMAP_THRESHOLD_``, a ``MALLOC_TRIM_THRESHOLD_`` that is not Dask's, ``GLIBC_TUNABLES`` of ``malloc``), and so do
    other C libraries than glibc.
    """
    if _is_users(environ):
        return False
    with contextlib.suppress(AttributeError, OSError, TypeError):  # no such function; no library to ask (Windows)
        mallopt = ctypes.CDLL(None).mallopt
        return bool(mallopt(_MMAP_THRESHOLD, MAPPED_BYTES) and mallopt(_TRIM_THRESHOLD, _TOP_BYTES))
    return False


def _is_users(environ: Mapping[str, str]) -> bool:
    """Whether somebody has settled the heap on purpose."""
    own_trim = environ.get("MALLOC_TRIM_THRESHOLD_", _OF_DASK) != _OF_DASK
    return own_trim or "MALLOC_MMAP_THRESHOLD_" in environ or "glibc.malloc." in environ.get("GLIBC_TUNABLES", "")


def tidied(func: Callable[..., _T], *args: Any) -> _T:
    """What a task returns. In the end free pages go back to the system, where the user has not settled the heap himself.

    Not between its pieces: making their pages anew takes away much of what keeping them won. Not while tasks of other threads are
    under way: they would have to wait, and make theirs anew; the last one to end does it. And not after short tasks.
    """
    started = time.perf_counter()
    _tasks.begin()
    try:
        return func(*args)
    finally:
        if _tasks.end(time.perf_counter() - started) and not _is_users(os.environ):
            trim()


def trim() -> None:
    """Give the free pages of this process back to the system (glibc; elsewhere nothing happens)."""
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
