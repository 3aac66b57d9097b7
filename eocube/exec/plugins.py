"""Plugins that keep memory in hand on a cluster. Imported only where one is (needs distributed)."""

from __future__ import annotations

from typing import Any

from distributed import Scheduler, SchedulerPlugin, Worker, WorkerPlugin

from eocube.io.heap import keep_heap

MOST_OF_A_SPAN = 1_000
"""Submissions that a span remembers, as many as distributed's own logs keep."""


class BoundedSpans(SchedulerPlugin):
    """Keeps short what the scheduler remembers of submissions: one entry each, as long as any task of their group is there.

    distributed never shortens it, and our groups live as long as a run: some 350 bytes a task.
    """

    name = "eocube-bounded-spans"
    idempotent = True

    def update_graph(self, scheduler: Scheduler, *, keys: set[Any], **_: Any) -> None:
        """After each submission."""
        spans: Any = scheduler.extensions.get("spans")
        for key in [] if spans is None else list(keys)[:1]:
            span = spans.spans.get(scheduler.tasks[key].group.span_id)
            # A private attribute; tests/slow/test_scale.py sees the scheduler grow where it is another one.
            known = (getattr(span, "_metadata", None) or {}).get("collections", [])
            if len(known) > MOST_OF_A_SPAN:
                del known[: -MOST_OF_A_SPAN // 2]


class KeptHeap(WorkerPlugin):
    """Settles the heap of each worker that has a nanny, now and later; see :mod:`eocube.io.heap`.

    A worker without one may be a thread of somebody's own process, and has no setting to make up for.
    """

    name = "eocube-kept-heap"
    idempotent = True

    def setup(self, worker: Worker) -> None:
        """Runs on each worker, before its first task of eocube."""
        if worker.nanny is not None:
            keep_heap()
