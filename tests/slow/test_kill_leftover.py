"""A worker left over from a dead client: it stands still in the middle of a task and goes on while, or after, others write.

The client is killed with SIGKILL; its worker is stopped with SIGSTOP before, and goes on with SIGCONT at a drawn moment: it holds
its tasks for as long as the round asks. It is never stopped between the first byte of its put and its marker: that gap of one put
is not closed by design (tests/parity/test_append.py has what heals it).
"""

from __future__ import annotations

import random
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from eocube.jobs.audit import audit
from eocube.testing.stac import SyntheticScene, make_grid, make_series
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
    make_works,
    marker_files,
    reports,
    run,
    start,
)

pytestmark = pytest.mark.slow

N_SITES = 12
FEW, ALL = 9, 12
"""Dates of the shorter and of the longer command: both end inside one shard of 16, so that every region differs."""

MOST_ROUNDS = 4
"""A worker that is stopped just between two tasks, or after the last, holds none and proves nothing: another round."""


def scenes(n_dates: int) -> list[SyntheticScene]:
    """``n_dates`` of many small places."""
    grids = [make_grid((256, 256), corner_xy=(600_000.0 + 10_000 * i, 5_000_040.0)) for i in range(N_SITES)]
    series = make_series(n_dates, every_days=5, zooms={"B04": 1, "B08": 1, "SCL": 1}, block=256)
    return [replace(s, grid=g, item_id=f"{s.item_id}_{i}") for i, g in enumerate(grids) for s in series]


@pytest.fixture(scope="module")
def shorter(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Work]:
    """The commands that leave a worker behind."""
    return make_works(tmp_path_factory.mktemp("few"), scenes(FEW), layout="balanced", freq="5D")


@pytest.fixture(scope="module")
def longer(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Work]:
    """The same commands when more dates have come."""
    return make_works(tmp_path_factory.mktemp("all"), scenes(ALL), layout="balanced", freq="5D")


def leave_behind(work: Work, top: Path, cluster: RealCluster, moments: random.Random) -> tuple[str, Path]:
    """Kill a client mid-run; the name of its worker, which stands still in the middle of a task, and the store."""
    for store in (top / f"try{i}" for i in range(MOST_ROUNDS)):
        (name,) = cluster.with_workers(1)
        if _leave_behind(work, store, cluster, moments, name):
            return name, store
        cluster.kill(name)
    pytest.fail("the command had ended before it was killed, again and again")


def _leave_behind(work: Work, store: Path, cluster: RealCluster, moments: random.Random, name: str) -> bool:
    """Whether it was killed in the middle."""
    client, watch = start(work.command(store, cluster.address)), Watch(store=store)
    n, jitter_s = draw_moment(moments, work.total)
    watch.until(n, client)
    time.sleep(jitter_s)
    while cluster.busy_one([name], client):
        cluster.stop(name)
        if not in_its_put(store):
            break
        cluster.go_on(name)
    return kill_group(client) and 0 < len(finished_regions(store)) < work.total


def in_its_put(store: Path) -> bool:
    """Whether objects are there, or on their way, that no marker vouches for yet."""
    return any((store / "tmp").iterdir()) or "no_marker" in audit(str(store), quick=True, executor="serial").counts


def versions(store: Path) -> dict[str, int]:
    """Marker → inode: another one where it was put again."""
    return {p.relative_to(store).as_posix(): p.stat().st_ino for p in marker_files(store)}


def until_half(work: Work, store: Path, process: subprocess.Popen[str], moments: random.Random) -> None:
    """Wait until the second command has finished some of what the first left."""
    have = len(finished_regions(store))
    Watch(store=store).until(moments.randint(have + 1, work.total), process)


@pytest.mark.parametrize("verb", ["convert", "compose"])
def test_a_left_over_worker_that_wakes_up_beside_the_same_command_does_no_harm(
    verb: str, shorter: dict[str, Work], cluster: RealCluster, tmp_path: Path
) -> None:
    work, moments = shorter[verb], random.Random(f"beside {verb}")  # noqa: S311 - no secret
    name, store = leave_behind(work, tmp_path, cluster, moments)
    second = start(work.command(store))
    until_half(work, store, second, moments)
    cluster.go_on(name)
    finish(second)
    cluster.let_end(name)
    assert same_store(store, work.undisturbed)


@pytest.mark.parametrize("verb", ["convert", "compose"])
def test_a_left_over_worker_that_wakes_up_after_the_same_command_writes_the_same_bytes(
    verb: str, shorter: dict[str, Work], cluster: RealCluster, tmp_path: Path, tell: Tell
) -> None:
    work, moments, again = shorter[verb], random.Random(f"after {verb}"), 0  # noqa: S311 - no secret
    for top in (tmp_path / str(i) for i in range(MOST_ROUNDS)):
        name, store = leave_behind(work, top, cluster, moments)
        run(work.command(store))
        assert same_store(store, work.undisturbed)
        before = versions(store)
        cluster.go_on(name)
        cluster.let_end(name)
        assert same_store(store, work.undisturbed)
        again = sum(before[k] != inode for k, inode in versions(store).items())
        if again:
            break
    tell(f"{verb}: a left-over worker wrote {again} regions again after the same command had ended")
    assert again, "it never held a task"


def test_the_same_command_on_the_same_cluster_goes_on_beside_tasks_of_a_dead_client(
    shorter: dict[str, Work], cluster: RealCluster, tmp_path: Path
) -> None:
    """Nobody stops the worker here; the scheduler gives it tasks of both clients."""
    work, moments = shorter["convert"], random.Random("same cluster")  # noqa: S311 - no secret
    for store in (tmp_path / str(i) for i in range(MOST_ROUNDS)):
        (name,) = cluster.with_workers(1)
        first, second = start(work.command(store, cluster.address)), start(work.command(store, cluster.address), gate=True)
        Watch(store=store).until(draw_moment(moments, work.total)[0], first)
        proved = cluster.busy_one([name], first) and kill_group(first)
        output, _ = second.communicate("\n", timeout=120)
        assert second.returncode == 0, output
        assert same_store(store, work.undisturbed)
        if proved:
            break
    assert proved, "the first command had ended before it was killed, again and again"
    assert reports(store)[-1]["regions_skipped"] > 0


@pytest.mark.parametrize("verb", ["convert", "compose"])
def test_a_left_over_worker_never_takes_dates_away_from_a_longer_run_that_has_ended(
    verb: str, shorter: dict[str, Work], longer: dict[str, Work], cluster: RealCluster, tmp_path: Path, tell: Tell
) -> None:
    moments, refused = random.Random(f"longer {verb}"), 0  # noqa: S311 - no secret
    for top in (tmp_path / str(i) for i in range(MOST_ROUNDS)):
        cluster.with_workers(0)
        name, store = leave_behind(shorter[verb], top, cluster, moments)
        run(longer[verb].command(store))
        assert same_store(store, longer[verb].undisturbed)
        before = versions(store)
        cluster.go_on(name)
        cluster.let_end(name)
        assert versions(store) == before
        assert same_store(store, longer[verb].undisturbed)
        refused = cluster.refusals(name)
        if refused:
            break
    tell(f"{verb}: a left-over worker was refused {refused} regions that a longer run had finished")
    assert refused, "it never held a task"


@pytest.mark.parametrize("verb", ["convert", "compose"])
def test_a_left_over_worker_that_wakes_up_beside_a_longer_run_takes_no_dates_away(
    verb: str, shorter: dict[str, Work], longer: dict[str, Work], cluster: RealCluster, tmp_path: Path, tell: Tell
) -> None:
    """Where it finishes a region first, the longer run may stop and name it; the longer command again goes on."""
    moments = random.Random(f"longer beside {verb}")  # noqa: S311 - no secret
    name, store = leave_behind(shorter[verb], tmp_path, cluster, moments)
    process = start(longer[verb].command(store))
    until_half(longer[verb], store, process, moments)
    cluster.go_on(name)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0 or "newer plan" in output, output
    cluster.let_end(name)
    tell(f"{verb}: a longer run beside a left-over worker {'ended well' if process.returncode == 0 else 'was stopped by it'}")
    run(longer[verb].command(store))
    assert same_store(store, longer[verb].undisturbed)
