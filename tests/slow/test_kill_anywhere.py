"""``kill -9`` of the whole command or of one worker at random moments: the same command again ends in the undisturbed store.

A kill is *proved* to fall between the first and the last shard write by the markers that it left: some, and not all. That what
was finished is left alone is seen on the files: no marker, and no object that one vouched for, is put a second time.
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
    Watch,
    Work,
    draw_moment,
    finish,
    finished_regions,
    kill_group,
    put_again,
    reports,
    run,
    start,
    versions,
    vouched_for,
)
from tests.slow.telling import Tell

pytestmark = pytest.mark.slow

COMMAND, WORKER = ("threads:1", "threads:2", "processes:2", "threads:1", "threads:2"), 5
"""Where each killed command runs, and how many kills are of one worker."""

ANY_MOMENT = 3
"""Kills at moments between the first import of a command and its last row of the index."""

AGAIN = 3
"""Kills of one command on one store, each further than the one before."""

IN_FLIGHT = 7
"""Tasks of two workers that the cluster knows of at once (three each, and the one whose result is looked at): those that were
finished on a worker that dies are done again, whether their marker is there or not."""

MOST_ROUNDS = 20
"""On a busy machine a command may have ended before it is killed: that round is drawn again."""


@dataclass(frozen=True)
class Kill:
    """One kill that hit a living process."""

    what: str
    finished: int
    """Regions with a marker when the process was dead."""

    total: int
    again: int = 0
    """Regions that were finished before, and done again because they were in flight."""

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
    """The same command again does exactly what was not finished, touches nothing else, and ends in the undisturbed store."""
    before = versions(store)
    assert vouched_for(store)
    run(work.command(store))
    assert put_again(store, before) == set()
    report = reports(store)[-1]
    assert (report["regions_done"], report["regions_skipped"]) == (work.total - len(before), len(before))
    assert same_store(store, work.undisturbed)


def kill_worker(work: Work, store: Path, cluster: RealCluster, moments: random.Random) -> Kill | None:
    """Kill one of two workers that holds tasks; the command itself comes to its end, and to the same store.

    What was finished before is left alone, but for the tasks that were in flight. None if no worker held any: the command was
    over sooner.
    """
    names = moments.sample(sorted(cluster.with_workers(2)), 2)
    n, jitter_s = draw_moment(moments, work.total)
    process, watch = start(work.command(store, cluster.address)), Watch(store=store)
    watch.until(n, process)
    time.sleep(jitter_s)
    before = versions(store)
    doomed = cluster.busy_one(names, process)
    if doomed is not None:
        cluster.kill(doomed)
    after, over = watch.look(), process.poll() is not None
    finish(process)
    report = reports(store)[-1]
    assert (report["regions_done"], report["regions_skipped"], report["failed"]) == (work.total, 0, [])
    again = len(put_again(store, before))
    assert again <= IN_FLIGHT
    assert same_store(store, work.undisturbed)
    return None if doomed is None or over else Kill("worker", after if before else 0, work.total, again)


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
        f"write ({of_workers[1]} of a worker), {sum(k.again for k in hit)} finished regions done again after a worker's death; "
        f"finished/all at each: {', '.join(map(str, hit))}"
    )
    assert len(hit) >= 10
    assert len(proved) >= 6


@pytest.mark.parametrize("verb", ["convert", "compose"])
def test_a_command_killed_at_any_moment_of_its_life_goes_on(
    verb: str, works: dict[str, Work], tmp_path: Path, tell: Tell
) -> None:
    work, moments = works[verb], random.Random(f"any moment {verb}")  # noqa: S311 - no secret
    started = time.monotonic()
    finish(start(work.command(tmp_path / "whole")))
    life_s, hit = time.monotonic() - started, list[Kill]()
    for store in (tmp_path / str(i) for i in range(MOST_ROUNDS)):
        process = start(work.command(store))
        time.sleep(moments.uniform(0, life_s))
        if kill_group(process):
            hit.append(Kill("command", len(finished_regions(store)), work.total))
        goes_on(work, store)
        if len(hit) == ANY_MOMENT:
            break
    tell(f"{verb}: {len(hit)} kills at any moment of its life; finished/all at each: {', '.join(map(str, hit))}")
    assert len(hit) == ANY_MOMENT


def kill_again_and_again(work: Work, store: Path, moments: random.Random) -> list[int]:
    """Kill the same command on the same store ``AGAIN`` times, and let it finish; how many regions each kill left finished.

    Fewer kills if the command was over sooner.
    """
    left = list[int]()
    while len(left) < AGAIN:
        before = versions(store)
        process, watch = start(work.command(store, moments.choice(("threads:1", "threads:2")))), Watch(store=store)
        watch.until(len(before) + moments.randint(1, work.total // 6), process)
        time.sleep(moments.uniform(0, 0.02))
        hit = kill_group(process)
        assert put_again(store, before) == set()
        assert vouched_for(store)
        if not hit:
            break
        left.append(len(finished_regions(store)))
        assert left[-1] > len(before)
    goes_on(work, store)
    return left


@pytest.mark.parametrize("verb", ["convert", "compose"])
def test_a_command_killed_again_and_again_on_one_store_goes_further_each_time(
    verb: str, works: dict[str, Work], tmp_path: Path, tell: Tell
) -> None:
    work, moments = works[verb], random.Random(f"again {verb}")  # noqa: S311 - no secret
    for store in (tmp_path / str(i) for i in range(MOST_ROUNDS)):
        left = kill_again_and_again(work, store, moments)
        if len(left) == AGAIN and left[-1] < work.total:
            break
    tell(f"{verb}: {len(left)} kills on one store; finished of {work.total} at each: {', '.join(map(str, left))}")
    assert len(left) == AGAIN
    assert left[-1] < work.total
