"""Reading a Zarr array in the thread that asks: no pool of threads between a task and its pixels, each with memory of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt


def chunks_at_once() -> int:
    """Chunks that zarr-python decodes before it puts the first of them in its place: its ``async.concurrency``."""
    import zarr

    return int(zarr.config.get("async.concurrency"))


class _AtOnce(ThreadPoolExecutor):
    """Calls what it is given, in the thread that gives it. An event loop takes no executor of another class."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(fn(*args, **kwargs))
        except Exception as e:  # noqa: BLE001 - whoever waits for it gets it
            done.set_exception(e)
        return done


def read_inline(array: Any, selection: tuple[slice, ...]) -> npt.NDArray[Any]:
    """Pixels of a ``zarr.Array``, as ``array[selection]`` gives them.

    zarr-python decodes chunks in a pool of its own, some threads more than there are processors, whatever number of tasks reads:
    what those hold differs by tens of MB from one run to the next. Tasks run side by side already, so each decodes for itself.
    Requests of a remote store are under way at the same time, as before. An fsspec file system belongs to the event loop in which
    it was opened, and a thread can run one loop only (a notebook's has its own): there zarr-python reads in its way.
    """
    if not _may_run(array.store):
        return np.asarray(array[selection])
    loop = asyncio.new_event_loop()
    try:
        loop.set_default_executor(_AtOnce(1))
        return np.asarray(loop.run_until_complete(array.async_array.getitem(selection)))
    finally:
        _end(loop)


def _end(loop: asyncio.AbstractEventLoop) -> None:
    """Close a loop; where a read failed, chunks beside the damaged one are still under way."""
    if pending := asyncio.all_tasks(loop):
        for task in pending:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
    loop.close()


def _may_run(store: Any) -> bool:
    """Whether this thread may run a loop of its own on a store."""
    from zarr.storage import LocalStore, ObjectStore

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return isinstance(store, LocalStore | ObjectStore)
    return False
