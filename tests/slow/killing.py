"""What the kill suites share: commands as real processes, markers counted on disk, a Dask cluster of real processes.

Nothing here sleeps in the place of work: a moment is drawn as a number of markers and a jitter, and proved by the markers that
the dead process left.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from eocube.cli import app
from eocube.jobs.audit import audit
from eocube.testing.stac import SyntheticScene, make_grid, make_series, write_catalog

PATIENCE_S = 120
GATE = "import sys, eocube.cli, eocube.jobs.compose, eocube.jobs.convert; print('ready', flush=True); sys.stdin.readline(); "
"""Everything is imported, then one line on stdin lets the command go."""


# ------------------------------------------------------------------------------------------------ commands


@dataclass(frozen=True, kw_only=True)
class Work:
    """A command into a store, and what it leaves when nobody disturbs it."""

    verb: str
    source: Path
    """Catalogue or store to read."""

    undisturbed: Path
    options: tuple[str, ...] = ()
    corpus: str = "stac"
    """What ``convert`` reads."""

    def command(self, store: Path, cluster: str = "threads:1", *more: str) -> list[str]:
        """Arguments of ``eocube``."""
        kind = [self.corpus] if self.verb == "convert" else []
        return [self.verb, *kind, str(self.source), str(store), "--cluster", cluster, *self.options, *more]

    @property
    def total(self) -> int:
        """Regions of the whole store."""
        return len(finished_regions(self.undisturbed))


def start(args: Sequence[str], *, gate: bool = False) -> subprocess.Popen[str]:
    """``eocube …`` as the leader of a process group of its own; with ``gate`` it waits for :func:`let_go`."""
    code = f"{GATE if gate else ''}from eocube.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, *args],
        stdin=subprocess.PIPE if gate else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def let_go(processes: Sequence[subprocess.Popen[str]]) -> None:
    """Wait until every gated process is ready, then start all of them at the same moment."""
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for it; it must have come to its end. Returns what it said."""
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, output
    return output


def run(args: Sequence[str]) -> str:
    """One command to its end, in this process: nobody kills it, and everything is imported already. Returns what it said."""
    result = CliRunner().invoke(app, list(args))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def kill_group(process: subprocess.Popen[str]) -> bool:
    """SIGKILL to the command and every process that it started; whether it was still running."""
    alive = process.poll() is None
    if alive:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=PATIENCE_S)
    return alive and process.returncode == -signal.SIGKILL


# ------------------------------------------------------------------------------------------------ markers on disk


def marker_files(store: Path) -> list[Path]:
    """Whole markers in a folder as it is now."""
    return [p for p in (store / "markers").glob("*/*/*/*.json") if not p.name.endswith(".partial.json")]


def finished_regions(store: Path) -> set[str]:
    """``cube/product/t.y.x`` of every region that has a whole marker."""
    return {p.parent.relative_to(store / "markers").as_posix() for p in marker_files(store)}


Versions = dict[str, dict[str, tuple[int, int] | None]]
"""Region → each of its markers, and each object that one vouches for → (inode, time of writing); None where none is there."""


def versions(store: Path) -> Versions:
    """Finished regions as they are now: a file that is put again has another version, whatever is in it."""
    found: Versions = {}
    for marker in marker_files(store):
        region = found.setdefault(marker.parent.relative_to(store / "markers").as_posix(), {})
        for key in (marker.relative_to(store).as_posix(), *json.loads(marker.read_text())["shards"]):
            region[key] = _version(store / key)
    return found


def _version(path: Path) -> tuple[int, int] | None:
    with contextlib.suppress(FileNotFoundError):
        stat = path.stat()
        return stat.st_ino, stat.st_mtime_ns
    return None


def put_again(store: Path, before: Versions) -> set[str]:
    """Of the regions that were finished then, those of which anything was put or deleted since."""
    return {region for region, files in before.items() if any(_version(store / k) != v for k, v in files.items())}


@dataclass(kw_only=True)
class Watch:
    """Looks at a new store while it is being written: counts markers, and sees that none comes before its shards."""

    store: Path
    seen: set[Path] = field(default_factory=set)

    def look(self) -> int:
        """How many regions are finished; each new marker must vouch for objects that are there."""
        for path in set(marker_files(self.store)) - self.seen:
            self.seen.add(path)
            for key, said in json.loads(path.read_text())["shards"].items():
                have = (self.store / key).stat().st_size if (self.store / key).exists() else None
                assert have == (None if said is None else said[0]), f"{path.name} came before {key}: {have} bytes, not {said}"
        return len(self.seen)

    def until(self, n: int, process: subprocess.Popen[str]) -> int:
        """Wait until ``n`` regions are finished, or the command has ended."""
        deadline = time.monotonic() + PATIENCE_S
        while (have := self.look()) < n and process.poll() is None:
            assert time.monotonic() < deadline, f"{have} of {n} markers after {PATIENCE_S} s"
            time.sleep(0.001)
        return have


def draw_moment(moments: random.Random, total: int) -> tuple[int, float]:
    """(markers to wait for, seconds to wait then): somewhere in the first four fifths of the writing."""
    return moments.randint(1, total * 4 // 5), moments.uniform(0, 0.04)


def reports(store: Path) -> list[dict[str, Any]]:
    """Every run report of a store, oldest first."""
    found = [json.loads(p.read_text()) for p in (store / "runs").glob("*.json")]
    return sorted(found, key=lambda r: r["run_id"])


def vouched_for(store: Path) -> bool:
    """Whether every object that a marker vouches for is there with its digest, and none that no region has; or nothing yet."""
    if not (store / "zarr.json").exists():
        return True
    found = set(audit(str(store), executor="serial").counts)
    return found.isdisjoint({"missing", "size", "digest", "not_empty", "undecodable", "counts", "unknown_object"})


# ------------------------------------------------------------------------------------------------ what is written


MANY_DATES = make_series(24, every_days=15, grid=make_grid((384, 384)), zooms={"B04": 1, "B08": 1, "B11": 2, "SCL": 2}, block=256)
"""Two cubes (10 m and 20 m): 48 regions of one date; 24 monthly composites."""


def make_works(
    top: Path, scenes: Sequence[SyntheticScene] = MANY_DATES, *, layout: str = "map", freq: str = "1MS"
) -> dict[str, Work]:
    """``convert`` and ``compose`` of the same pixels, each run once undisturbed."""
    catalog = write_catalog(scenes, top / "catalog")
    converted = Work(verb="convert", source=catalog, undisturbed=top / "converted", options=("--layout", layout))
    steps = ("--layout", layout, "--freq", freq)
    composed = Work(verb="compose", source=top / "converted", undisturbed=top / "composed", options=steps)
    for work in (converted, composed):
        run(work.command(work.undisturbed))
    return {work.verb: work for work in (converted, composed)}


# ------------------------------------------------------------------------------------------------ a cluster


def free_port() -> int:
    """A port of this machine that nobody listens on now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


class RealCluster:
    """``dask scheduler`` and ``dask worker`` as processes on loopback, and a client of our own that looks on."""

    def __init__(self, home: Path):
        from distributed import Client

        self._home, self._n = home, count()
        self.scheduler = self._process("scheduler", "--host", "127.0.0.1", "--port", str(port := free_port()))
        self.address = f"tcp://127.0.0.1:{port}"
        self.workers: dict[str, subprocess.Popen[bytes]] = {}
        self.client = Client(self.address, set_as_default=False, timeout=60)

    def _process(self, kind: str, *args: str) -> subprocess.Popen[bytes]:
        with (self._home / f"{next(self._n)}.log").open("wb") as log:
            command = [sys.executable, "-m", f"distributed.cli.dask_{kind}", *args, "--no-dashboard"]
            return subprocess.Popen(command, stdout=log, stderr=log, cwd=self._home)

    def with_workers(self, n: int) -> dict[str, subprocess.Popen[bytes]]:
        """Start or end workers of one thread until exactly ``n`` are known to the scheduler: name → process."""
        while len(self.workers) > n:
            self.kill(next(iter(self.workers)))
        while len(self.workers) < n:
            name = f"w{next(self._n)}"
            more = ("--host", "127.0.0.1", "--nthreads", "1", "--name", name, "--no-nanny")
            self.workers[name] = self._process("worker", self.address, *more)
        deadline = time.monotonic() + PATIENCE_S
        while set(self._addresses()) != set(self.workers):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return self.workers

    def _addresses(self) -> dict[str, str]:
        """Name → address. Asked of the scheduler itself: ``scheduler_info`` may be overtaken by the client's own refresh."""
        scheduler: Any = self.client.scheduler
        identity = self.client.sync(scheduler.identity, n_workers=-1)
        return {str(w["name"]): address for address, w in identity["workers"].items()}

    def busy_one(self, names: Sequence[str], process: subprocess.Popen[str]) -> str | None:
        """Wait until one of these workers holds a task that the scheduler has not got back, or the command has ended.

        The first one that does; None where none did.
        """
        addresses, deadline = self._addresses(), time.monotonic() + PATIENCE_S
        while process.poll() is None:
            held = self.client.processing(workers=[addresses[n] for n in names])
            for name in names:
                if held[addresses[name]]:
                    return name
            assert time.monotonic() < deadline, f"none of {names} was given a task"
        return None

    def kill(self, name: str) -> None:
        """SIGKILL to one worker."""
        process = self.workers.pop(name)
        process.kill()
        process.wait()

    def stop(self, name: str) -> None:
        """SIGSTOP: every thread of the worker stands still in the middle of whatever it does."""
        process, deadline = self.workers[name], time.monotonic() + PATIENCE_S
        process.send_signal(signal.SIGSTOP)
        while os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOHANG) is None:
            assert time.monotonic() < deadline, f"worker {name} does not stand still"

    def go_on(self, name: str) -> None:
        """SIGCONT."""
        self.workers[name].send_signal(signal.SIGCONT)

    def let_end(self, name: str) -> None:
        """Wait until a worker has ended what it was doing: a task of ours has the only thread after it."""
        address = self._addresses()[name]
        self.client.submit(int, pure=False, workers=[address], priority=-1000).result(timeout=PATIENCE_S)

    def refusals(self, name: str) -> int:
        """How many tasks a worker has ended with StalePlanError, also those whose client is dead (nobody logs them)."""
        address = self._addresses()[name]

        def count_them(dask_worker: Any) -> int:  # inside, so that it travels by value
            failed = [e for e in dask_worker.state.stimulus_log if type(e).__name__ == "ExecuteFailureEvent"]
            return sum("StalePlanError" in e.exception_text for e in failed)

        return int(self.client.run(count_them, workers=[address])[address])

    def close(self) -> None:
        """End everything."""
        self.client.close()
        for process in [*self.workers.values(), self.scheduler]:
            process.kill()
            process.wait()


@contextlib.contextmanager
def real_cluster(home: Path) -> Iterator[RealCluster]:
    """A cluster without workers yet."""
    cluster = RealCluster(home)
    try:
        yield cluster
    finally:
        cluster.close()
