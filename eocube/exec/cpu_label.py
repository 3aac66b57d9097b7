"""The label that keeps tasks without a network off GPU workers, put on every other worker of a cluster, now and later.

A list of addresses would not do: a worker that starts again has another address, and a task bound to one that is gone waits for
ever. The scheduler must know the label when it takes a worker in, because only then does it look at tasks that wait for one; the
worker must know it before its first task. Hence two plugins.
"""

from __future__ import annotations

from distributed import Scheduler, SchedulerPlugin, Worker, WorkerPlugin

_CARRIES = {"GPU", "CPU"}


class CpuLabelOnScheduler(SchedulerPlugin):
    """A worker that carries neither ``GPU`` nor ``CPU`` counts as carrying ``CPU``, as many as it has threads."""

    name = "eocube-cpu-label-scheduler"
    idempotent = True

    async def start(self, scheduler: Scheduler) -> None:
        """Label the workers that are there."""
        for address in list(scheduler.workers):
            self.add_worker(scheduler, address)

    def add_worker(self, scheduler: Scheduler, worker: str) -> None:
        """Label one that joins."""
        state = scheduler.workers[worker]
        if not _CARRIES & state.resources.keys():
            scheduler.add_resources(worker=worker, resources={"CPU": state.nthreads})


class CpuLabelOnWorker(WorkerPlugin):
    """The same, in the worker's own books."""

    name = "eocube-cpu-label-worker"
    idempotent = True

    def setup(self, worker: Worker) -> None:
        """Runs on each worker, before its first task."""
        state = worker.state
        if not _CARRIES & state.total_resources.keys():
            state.total_resources["CPU"] = state.available_resources["CPU"] = state.nthreads
