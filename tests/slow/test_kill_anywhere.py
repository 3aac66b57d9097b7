"""``kill -9`` of the whole command or of one worker at random moments: the same command again ends in the undisturbed store.

A kill is *proved* to fall between the first and the last shard write by the markers that it left: some, and not all.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from eocube.testing.stores import same_store
from tests.slow.killing import (
    RealCluster,
    Tell,
    Watch,
    Work,
    draw_moment,
    finish,
    finished_regions,
    kill_group,
    reports,
    run,
    start,
    vouched_for,
)

pytestmark = pytest.mark.slow

COMMAND, WORKER = ("threads:1", "threads:2", "processes:2", "threads:1", "threads:2"), 5
"""Where each killed command runs, and how many kills are of one worker."""

MOST_ROUNDS = 20
"""On a busy machine a command may have ended before it is killed: that round is drawn again."""


@dataclass(frozen=True)
class Kill:
    """One kill that hit a living process."""

    what: str
    finished: int
    """Regions with a marker when the process was dead."""

    total: int

    @property
    def proved(self) -> bool:
        """Whether it fell between the first and the last shard write."""
        return 0 < self.finished < self.total

    def __str__(self) -> str:
        return f"{self.what} {self.finished}/{self.total}"


def kill_command(work: Work, store: Path, cluster: str, moments: random.Random) -> Kill | None:
    """Kill the whole command when a drawn number of regions is finished, and a moment later; None if it was over sooner."""
    n, jitter_s = draw_moment(moments, work.total)
    process, watch = start(work.command(store, cluster)), Watch(store=store)
    watch.until(n, process)
    time.sleep(jitter_s)
    return Kill("command", len(finished_regions(store)), work.total) if kill_group(process) else None


def goes_on(work: Work, store: Path) -> None:
    """The same command again does exactly what was not finished, and ends in the undisturbed store."""
    before = len(finished_regions(store))
    assert vouched_for(store)
    run(work.command(store))
    report = reports(store)[-1]
    assert (report["regions_done"], report["regions_skipped"]) == (work.total - before, before)
    assert same_store(store, work.undisturbed)


def kill_worker(work: Work, store: Path, cluster: RealCluster, moments: random.Random) -> Kill | None:
    """Kill one of two workers that holds tasks; the command itself comes to its end, and to the same store.

    None if no worker held any: the command was over sooner.
    """
    names = moments.sample(sorted(cluster.with_workers(2)), 2)
    n, jitter_s = draw_moment(moments, work.total)
    process, watch = start(work.command(store, cluster.address)), Watch(store=store)
    watch.until(n, process)
    time.sleep(jitter_s)
    doomed = cluster.busy_one(names, process)
    before = len(finished_regions(store))
    if doomed is not None:
        cluster.kill(doomed)
    after, over = watch.look(), process.poll() is not None
    finish(process)
    report = reports(store)[-1]
    assert (report["regions_done"], report["regions_skipped"], report["failed"]) == (work.total, 0, [])
    assert same_store(store, work.undisturbed)
    return None if doomed is None or over else Kill("worker", after if before else 0, work.total)


@pytest.mark.parametrize("verb", ["convert", "compose"])
def test_ten_kills_anywhere_change_no_byte(
    verb: str, works: dict[str, Work], cluster: RealCluster, tmp_path: Path, tell: Tell
) -> None:
    work, moments = works[verb], random.Random(f"kill {verb}")  # noqa: S311 - no secret
    hit = list[Kill]()
    wanted: list[str | None] = [*COMMAND, *[None] * WORKER]  # a command and where it runs, or a worker
    for store in (tmp_path / str(i) for i in range(MOST_ROUNDS)):
        kill = kill_command(work, store, wanted[0], moments) if wanted[0] else kill_worker(work, store, cluster, moments)
        if wanted[0]:
            goes_on(work, store)
        if kill is not None:
            hit.append(kill)
            wanted.pop(0)
        if not wanted:
            break
    proved = [k for k in hit if k.proved]
    of_workers = [sum(k.what == "worker" for k in kills) for kills in (hit, proved)]
    tell(
        f"{verb}: {len(hit)} kills ({of_workers[0]} of a worker), {len(proved)} proved between the first and the last shard "
        f"write ({of_workers[1]} of a worker); finished/all at each: {', '.join(map(str, hit))}"
    )
    assert len(hit) >= 10
    assert len(proved) >= 6
