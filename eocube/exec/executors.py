"""Executors: where tasks run. All keep a bounded number of tasks in flight and yield results as they finish.

A task that needs a network is submitted with ``resource="GPU"``, every other with ``resource="CPU"``. On a Dask cluster GPU
tasks run only on workers that carry ``GPU``, and CPU tasks never do; annotations on array layers are not used, because graph
optimisation loses them (docs/decisions/0003).
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, Protocol

from eocube.errors import EocubeError, PlacementError, UnknownNameError, alone
from eocube.io.heap import keep_heap, tidied

if TYPE_CHECKING:
    from distributed import Client

Resource = Literal["CPU", "GPU"]
logger = logging.getLogger(__name__)


_PATIENCE_S = 60
"""How long a run waits for the first worker of a cluster."""

_SILENT = 50
"""Level of Dask's own logging in clusters that live for one run: every error of a task is raised here, so it is said once."""

PROFILER_OFF = {"distributed.worker.profile.enabled": False}
"""Dask's setting for workers that do not keep, second by second, what they were seen at: busy ones grow by it."""

_SPECS = ("serial", "threads[:n]", "processes[:n]", "tcp://host:port", "tls://…", "module:function")


class Executor(Protocol):
    """Runs tasks. ``share`` hands over once what all tasks of a cube have in common."""

    def share(self, value: Any, *, resource: Resource = "CPU") -> Any:
        """A token for ``value`` that :meth:`run` turns back into it inside each task; shipped to a worker, not with each task."""

    def run(
        self, func: Callable[[Any, Any], Any], tasks: Iterable[tuple[Any, Any]], *, resource: Resource = "CPU"
    ) -> Iterator[Any]:
        """``func(shared, task)`` for each (token, task), drawn lazily; results in order of completion.

        The first exception of a task is raised here, after the running tasks have ended.
        """

    def close(self) -> None:
        """Release what the executor opened itself."""


class SerialExecutor:
    """One task after the other, in this thread."""

    def share(self, value: Any, *, resource: Resource = "CPU") -> Any:
        """See :class:`Executor`."""
        return value

    def run(
        self, func: Callable[[Any, Any], Any], tasks: Iterable[tuple[Any, Any]], *, resource: Resource = "CPU"
    ) -> Iterator[Any]:
        """See :class:`Executor`."""
        for shared, task in tasks:
            yield tidied(func, shared, task)

    def close(self) -> None:
        """See :class:`Executor`."""


class ThreadExecutor:
    """A pool of threads in this process; kernels and codecs release the GIL."""

    def __init__(self, n_threads: int | None = None):
        self.n_threads = n_threads or os.cpu_count() or 1

    def share(self, value: Any, *, resource: Resource = "CPU") -> Any:
        """See :class:`Executor`."""
        return value

    def run(
        self, func: Callable[[Any, Any], Any], tasks: Iterable[tuple[Any, Any]], *, resource: Resource = "CPU"
    ) -> Iterator[Any]:
        """See :class:`Executor`."""
        waiting = iter(tasks)
        with ThreadPoolExecutor(self.n_threads, thread_name_prefix="eocube") as pool:
            running: set[Future[Any]] = {pool.submit(tidied, func, s, t) for s, t in islice(waiting, 2 * self.n_threads)}
            try:
                while running:
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        yield future.result()
                        running |= {pool.submit(tidied, func, s, t) for s, t in islice(waiting, 1)}
            finally:
                for future in running:
                    future.cancel()

    def close(self) -> None:
        """See :class:`Executor`."""


class DaskExecutor:
    """A ``distributed`` cluster. The scheduler holds a bounded number of tasks whatever the size of the run."""

    def __init__(self, client: Client, *, owned: Iterable[Any] = (), in_flight_per_thread: int = 3):
        self.client, self._owned, self._per_thread = client, list(owned), in_flight_per_thread
        self._minded = self._labelled = False

    def share(self, value: Any, *, resource: Resource = "CPU") -> Any:
        """See :class:`Executor`. A task of its own, so that the scheduler can make it again when its worker dies."""
        import cloudpickle

        return self.client.submit(_unpack, cloudpickle.dumps(value), pure=False, priority=10, **self._placed(resource))

    def run(
        self, func: Callable[[Any, Any], Any], tasks: Iterable[tuple[Any, Any]], *, resource: Resource = "CPU"
    ) -> Iterator[Any]:
        """See :class:`Executor`."""
        from distributed import as_completed

        placed, waiting = self._placed(resource), iter(tasks)
        in_flight = max(2, self._per_thread * self._threads(resource))
        spread = _Spread(self.client, after=in_flight, workers=partial(self._of, resource))

        def submit(pair: tuple[Any, Any]) -> Any:
            spread.count(pair[0])
            return self.client.submit(_run_task, func, *pair, key=f"{_name(func)}-{uuid.uuid4()}", pure=False, **placed)

        running = as_completed([submit(p) for p in islice(waiting, in_flight)], loop=self.client.loop)
        try:
            for future in running:
                yield future.result()
                for pair in islice(waiting, 1):
                    running.add(submit(pair))
        finally:
            self.client.cancel(list(running.futures), force=True)

    def _workers(self) -> dict[str, Any]:
        # Asked of the scheduler itself: `client.scheduler_info` may give what a refresh in the background left, without workers.
        scheduler: Any = self.client.scheduler
        identity = self.client.sync(scheduler.identity, n_workers=-1)
        workers: dict[str, Any] = identity["workers"]
        return workers

    def _of(self, resource: Resource) -> dict[str, Any]:
        """Workers on which tasks of a kind run, by address."""
        return {at: w for at, w in self._workers().items() if (resource == "GPU") == ("GPU" in w["resources"])}

    def _threads(self, resource: Resource) -> int:
        return sum(1 if resource == "GPU" else int(w["nthreads"]) for w in self._of(resource).values())

    def _placed(self, resource: Resource) -> dict[str, Any]:
        """Keyword arguments of ``client.submit`` that put a task where it may run."""
        if not self._workers():
            self._await_worker()
        self._mind_memory()
        workers = self._workers()
        if resource == "GPU":
            if not any("GPU" in w["resources"] for w in workers.values()):
                raise PlacementError(
                    f"A task that runs a network needs a worker with the resource GPU; the {len(workers)} workers of this "
                    "cluster carry none. Start one with `dask worker … --nthreads 1 --resources GPU=1` (a machine without a "
                    "GPU may carry it too)."
                )
            return {"resources": {"GPU": 1}}
        self._label_cpu_workers()
        workers = self._workers()
        if any({"CPU", "GPU"} <= w["resources"].keys() for w in workers.values()):
            raise PlacementError(
                "A worker of this cluster carries both CPU and GPU, so a task without a network could land on a GPU. Give each "
                "worker one of them (workers that carry neither are taken for CPU)."
            )
        if not any("CPU" in w["resources"] for w in workers.values()):
            raise PlacementError(
                f"All {len(workers)} workers of this cluster carry the resource GPU, and a task without a network never runs "
                "there. Start at least one worker without it, or pass executor='threads'."
            )
        return {"resources": {"CPU": 1}}

    def _await_worker(self) -> None:
        address = self.client.scheduler_info(n_workers=0)["address"]
        logger.warning("The scheduler at %s has no worker yet; waiting for one.", address)
        try:
            self.client.wait_for_workers(1, timeout=_PATIENCE_S)
        except TimeoutError as e:
            raise PlacementError(
                f"The scheduler at {address} has no worker, and none came in {_PATIENCE_S} s. Start one with "
                f"`dask worker {address} --nthreads 4` (cluster.scale(n) where a cluster makes its own), or pass 'processes' or "
                "'threads'."
            ) from e

    def _mind_memory(self) -> None:
        from eocube.exec.plugins import BoundedSpans, KeptHeap

        if not self._minded:
            self.client.register_plugin(BoundedSpans())
            self.client.register_plugin(KeptHeap())
            self._minded = True

    def _label_cpu_workers(self) -> None:
        from eocube.exec.cpu_label import CpuLabelOnScheduler, CpuLabelOnWorker

        if not self._labelled:
            self.client.register_plugin(CpuLabelOnWorker())
            self.client.register_plugin(CpuLabelOnScheduler())
            self._labelled = True

    def close(self) -> None:
        """See :class:`Executor`."""
        for thing in self._owned:
            with contextlib.suppress(TimeoutError, OSError):
                thing.close()
        self._owned = []


class _Spread:
    """Has every worker fetch a shared value that many tasks need, by tasks that do nothing with it.

    The scheduler sends a task to a worker that holds what it depends on, and lets others steal only tasks of more than 5 ms:
    a value that lies on one worker keeps all short tasks there. It drops copies that nobody waits for, so this is done again.
    ``Client.replicate`` would fetch it beside a worker's own fetching, and unpack it a second time.
    """

    again_every = 200
    """Tasks between two times; on a big cluster ten rounds of what is in flight there."""

    def __init__(self, client: Client, *, after: int, workers: Callable[[], Iterable[str]]):
        self._client, self._after, self._workers = client, after, workers
        self._token: Any = None
        self._n = 0
        self._fetching: list[Any] = []

    def count(self, token: Any) -> None:
        """A task with this value is submitted; tasks of one value come one after the other."""
        self._token, self._n = token, self._n + 1 if token is self._token else 1
        more = self._n - self._after
        if more > 0 and more % max(self.again_every, 10 * self._after) == 1 and hasattr(token, "key"):
            # Kept until the next time: the scheduler forgets a task that no future stands for.
            self._fetching = [
                self._client.submit(_hold, token, workers=[address], pure=False, priority=10) for address in self._workers()
            ]


def _hold(shared: Any) -> None:
    """Depends on a shared value, so that a worker has it."""


def _run_task(func: Callable[[Any, Any], Any], shared: Any, task: Any) -> Any:
    """A task on a worker; an error of eocube comes back as what it is."""
    try:
        return tidied(func, shared, task)
    except EocubeError as e:
        raise alone(e) from None


def _name(func: Callable[..., Any]) -> str:
    """What the dashboard calls a task."""
    return str(getattr(func, "__name__", "task")).strip("_")


def _unpack(body: bytes) -> Any:
    import cloudpickle

    return cloudpickle.loads(body)


def connect(spec: str | None = None, *, gpu_workers: int = 0) -> Executor:
    """An executor from a short description.

    Parameters
    ----------
    spec
        ``serial``; ``threads`` or ``threads:n``; ``processes`` or ``processes:n`` (a local Dask cluster of n workers with one
        thread each, closed by ``close()``); ``tcp://…``, ``tls://…`` or ``ws(s)://…`` (a scheduler's address);
        ``module:function`` (called, must give a ``distributed.Client`` or an Executor). None: the active Dask client if there is
        one, else threads.
    gpu_workers
        With ``processes``: that many further local workers that carry ``GPU`` and run networks; the others then carry ``CPU``.

    Raises
    ------
    UnknownNameError
        For anything else.
    """
    if spec is None:
        client = _active_client()
        return ThreadExecutor() if client is None else DaskExecutor(client)
    kind, _, rest = spec.partition(":")
    if spec == "serial":
        return SerialExecutor()
    n_given = not rest or (rest.isdecimal() and int(rest) > 0)
    if kind == "threads" and n_given:
        return ThreadExecutor(int(rest) if rest else None)
    if kind == "processes" and n_given:
        return _local_cluster(int(rest) if rest else os.cpu_count() or 1, gpu_workers)
    if kind in {"tcp", "tls", "ws", "wss", "ucx"} and rest.startswith("//"):
        return _client_at(spec)
    if kind not in {"serial", "threads", "processes"} and all(map(str.isidentifier, [*kind.split("."), rest])):
        return as_executor(_function_at(kind, rest)())
    raise UnknownNameError("executor", spec, _SPECS)


def _function_at(module: str, name: str) -> Callable[[], Any]:
    try:
        function: Callable[[], Any] = getattr(importlib.import_module(module), name)
    except (ModuleNotFoundError, AttributeError) as e:
        if isinstance(e, ModuleNotFoundError) and e.name != module:
            raise  # the module is there, and lacks something itself
        raise UnknownNameError("executor", f"{module}:{name}", _SPECS, f"the modules of this Python ({e})") from e
    return function


def settle_own_process() -> None:
    """What a process that runs nothing but eocube does before its tasks: see :func:`eocube.io.heap.keep_heap`."""
    keep_heap()


def as_executor(value: Any) -> Executor:
    """None, a description, a ``distributed.Client`` or an Executor, as an Executor."""
    if value is None or isinstance(value, str):
        return connect(value)
    if hasattr(value, "run") and hasattr(value, "share"):
        return value  # type: ignore[no-any-return]
    if hasattr(value, "scheduler_info") and hasattr(value, "submit"):
        return DaskExecutor(value)
    raise UnknownNameError("executor", value, ["None", "str (see connect)", "distributed.Client", "Executor"])


@contextlib.contextmanager
def executing(value: Any) -> Iterator[Executor]:
    """The executor for ``value``; closed at the end if it was made here."""
    executor = as_executor(value)
    try:
        yield executor
    finally:
        if value is None or isinstance(value, str):
            executor.close()


def _active_client() -> Any:
    import sys

    if "distributed" not in sys.modules:
        return None
    from distributed import get_client

    try:
        return get_client()
    except ValueError:
        return None


def _local_cluster(n_workers: int, gpu_workers: int) -> DaskExecutor:
    from distributed import Client, Nanny, Scheduler, SpecCluster

    def worker(resources: dict[str, float]) -> dict[str, Any]:
        return {
            "cls": Nanny,
            "options": {
                "nthreads": 1,
                "resources": resources,
                "dashboard_address": None,
                "silence_logs": _SILENT,
                "config": PROFILER_OFF,
            },
        }

    workers = {f"cpu-{i}": worker({"CPU": 1} if gpu_workers else {}) for i in range(n_workers)}
    workers |= {f"gpu-{i}": worker({"GPU": 1}) for i in range(gpu_workers)}
    scheduler = {"cls": Scheduler, "options": {"dashboard_address": "127.0.0.1:0", "host": "127.0.0.1"}}
    cluster = SpecCluster(workers=workers, scheduler=scheduler, name="eocube", silence_logs=_SILENT)
    client = Client(cluster, set_as_default=False)
    client.wait_for_workers(len(workers), timeout=120)
    return DaskExecutor(client, owned=[client, cluster])


def _client_at(address: str) -> DaskExecutor:
    from distributed import Client

    try:
        client = Client(address, set_as_default=False)
    except OSError as e:
        raise PlacementError(
            f"No Dask scheduler answers at {address} ({e}). Start one with `dask scheduler`, or pass 'processes' or 'threads'."
        ) from e
    return DaskExecutor(client, owned=[client])
