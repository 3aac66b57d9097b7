"""A worker left over from a dead client: it stands still in the middle of a task and goes on while, or after, others write.

The client is killed with SIGKILL; its worker is stopped with SIGSTOP before, and goes on with SIGCONT at a drawn moment: it holds
its tasks for as long as the round asks. Beside the same command it may be stopped anywhere, also in the middle of its put. Beside
a longer command that is the one gap: a worker that has looked for newer markers, and then stood still, may put old over new. It
is not closed by design; what it leaves is found by ``audit`` and healed by what docs/operations.md says.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from eocube.jobs.audit import audit
from eocube.model.spec import SUMMARY
from eocube.testing.stac import SyntheticScene, make_grid, make_series
from eocube.testing.stores import same_store
from tests.slow.killing import (
    PATIENCE_S,
    RealCluster,
    Watch,
    Work,
    draw_moment,
    finish,
    finished_regions,
    kill_group,
    make_works,
    marker_files,
    put_again,
    reports,
    run,
    start,
    versions,
)
from tests.slow.telling import Tell

pytestmark = pytest.mark.slow

N_SITES = 12
FEW, ALL = 9, 12
"""Dates of the shorter and of the longer command: both end inside one shard of 16, so that every region differs."""

MOST_TRIES = 8
"""Of killing a client in the middle, with its worker at the wanted place."""

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


# ------------------------------------------------------------------------------------------------ leave a worker behind


@dataclass(frozen=True, kw_only=True)
class Running:
    """A command on a cluster of one worker."""

    work: Work
    store: Path
    cluster: RealCluster
    name: str
    client: subprocess.Popen[str]
    moments: random.Random

    def until(self, share: float) -> None:
        """Wait until a drawn number of regions is finished, at most that share of all."""
        Watch(store=self.store).until(self.moments.randint(1, int(self.work.total * share)), self.client)

    def stop(self) -> bool:
        """Stop the worker as soon as it holds a task; whether it ever did."""
        held = self.cluster.busy_one([self.name], self.client) is not None
        if held:
            self.cluster.stop(self.name)
        return held

    def go_on(self) -> None:
        """The worker, not the client."""
        self.cluster.go_on(self.name)


Stop = Callable[[Running], bool]
"""Stops the worker at a moment of its kind; whether it stands still."""


def at_any_moment(running: Running) -> bool:
    """In the middle of whatever it does."""
    running.until(0.8)
    time.sleep(running.moments.uniform(0, 0.04))
    return running.stop()


def before_its_put(running: Running) -> bool:
    """Just after a marker, so that the next put is far away, and not while anything is under way."""
    running.until(0.8)
    while running.stop():
        if not unvouched(running.store):
            return True
        running.go_on()
    return False


def unvouched(store: Path) -> bool:
    """Whether objects are there, or on their way, that no marker vouches for yet."""
    return any((store / "tmp").iterdir()) or "no_marker" in audit(str(store), quick=True, executor="serial").counts


def in_its_put(running: Running) -> bool:
    """Between the first and the last object of a region; not every put is noticed in time, so there must be many left."""
    running.until(0.25)
    objects = objects_of(running.work)
    while running.client.poll() is None:
        if half_put(running.store, objects) is not None:
            running.cluster.stop(running.name)
            if half_put(running.store, objects) is not None:
                return True
            running.go_on()
    return False


def objects_of(work: Work) -> dict[str, tuple[str, str]]:
    """Region → the keys of the first and of the last object that a worker puts for it."""
    found = {}
    for marker in marker_files(work.undisturbed):
        keys = [key for key, said in json.loads(marker.read_text())["shards"].items() if said is not None]
        (first,), (last,) = ([k for k in keys if f"/{name}/c/" in k] for name in ("data", SUMMARY))
        found[marker.parent.relative_to(work.undisturbed / "markers").as_posix()] = first, last
    return found


def half_put(store: Path, objects: Mapping[str, tuple[str, str]]) -> str | None:
    """A region whose first object is there and whose last is not. Asked without pause, and Path costs ten times as much."""
    exists = os.path.exists
    keys = ((region, f"{store}/{first}", f"{store}/{last}") for region, (first, last) in objects.items())
    return next((region for region, first, last in keys if exists(first) and not exists(last)), None)


def leave_behind(
    work: Work, top: Path, cluster: RealCluster, moments: random.Random, stop: Stop = at_any_moment
) -> tuple[str, Path]:
    """Kill a client mid-run; the name of its worker, which stands still in the middle of a task, and the store."""
    for store in (top / f"try{i}" for i in range(MOST_TRIES)):
        (name,) = cluster.with_workers(1)
        client = start(work.command(store, cluster.address))
        running = Running(work=work, store=store, cluster=cluster, name=name, client=client, moments=moments)
        stopped = stop(running)
        if kill_group(client) and stopped and 0 < len(finished_regions(store)) < work.total:
            return name, store
        cluster.kill(name)
    pytest.fail("the command had ended before it was killed, again and again")


def until_half(work: Work, store: Path, process: subprocess.Popen[str], moments: random.Random) -> None:
    """Wait until the second command has finished some of what the first left."""
    have = len(finished_regions(store))
    Watch(store=store).until(moments.randint(have + 1, work.total), process)


# ------------------------------------------------------------------------------------------------ the same command


@pytest.mark.parametrize("stop", [at_any_moment, in_its_put])
@pytest.mark.parametrize("verb", ["convert", "compose"])
def test_a_left_over_worker_that_wakes_up_beside_the_same_command_does_no_harm(
    verb: str, stop: Stop, shorter: dict[str, Work], cluster: RealCluster, tmp_path: Path
) -> None:
    work, moments = shorter[verb], random.Random(f"beside {verb}")  # noqa: S311 - no secret
    name, store = leave_behind(work, tmp_path, cluster, moments, stop)
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
        again = len(put_again(store, before))
        if again:
            break
    tell(f"{verb}: a left-over worker wrote {again} regions again after the same command had ended")
    assert again, "it never held a task"


@pytest.mark.parametrize("verb", ["convert", "compose"])
def test_a_left_over_worker_stopped_in_its_put_ends_it_after_the_same_command_with_the_same_bytes(
    verb: str, shorter: dict[str, Work], cluster: RealCluster, tmp_path: Path
) -> None:
    work, moments = shorter[verb], random.Random(f"put {verb}")  # noqa: S311 - no secret
    name, store = leave_behind(work, tmp_path, cluster, moments, in_its_put)
    region = half_put(store, objects_of(work))
    run(work.command(store))
    before = versions(store)
    cluster.go_on(name)
    cluster.let_end(name)
    assert region in put_again(store, before)
    assert same_store(store, work.undisturbed)


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


# ------------------------------------------------------------------------------------------------ a longer command


@pytest.mark.parametrize("verb", ["convert", "compose"])
def test_a_left_over_worker_never_takes_dates_away_from_a_longer_run_that_has_ended(
    verb: str, shorter: dict[str, Work], longer: dict[str, Work], cluster: RealCluster, tmp_path: Path, tell: Tell
) -> None:
    moments, refused = random.Random(f"longer {verb}"), 0  # noqa: S311 - no secret
    for top in (tmp_path / str(i) for i in range(MOST_ROUNDS)):
        cluster.with_workers(0)
        name, store = leave_behind(shorter[verb], top, cluster, moments, before_its_put)
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
    name, store = leave_behind(shorter[verb], tmp_path, cluster, moments, before_its_put)
    process = start(longer[verb].command(store))
    until_half(longer[verb], store, process, moments)
    cluster.go_on(name)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0 or "newer plan" in output, output
    cluster.let_end(name)
    tell(f"{verb}: a longer run beside a left-over worker {'ended well' if process.returncode == 0 else 'was stopped by it'}")
    run(longer[verb].command(store))
    assert same_store(store, longer[verb].undisturbed)


# ------------------------------------------------------------------------------------------------ the gap of one put


@pytest.mark.parametrize("verb", ["convert", "compose"])
def test_a_left_over_worker_that_ends_its_put_after_a_longer_run_is_found_and_the_longer_command_heals_it(
    verb: str, shorter: dict[str, Work], longer: dict[str, Work], cluster: RealCluster, tmp_path: Path, tell: Tell
) -> None:
    """It puts its marker too, beside the newer one: the region counts as unfinished."""
    moments = random.Random(f"gap {verb}")  # noqa: S311 - no secret
    name, store = leave_behind(shorter[verb], tmp_path, cluster, moments, in_its_put)
    region = half_put(store, objects_of(shorter[verb]))
    run(longer[verb].command(store))
    assert same_store(store, longer[verb].undisturbed)
    before = versions(store)
    cluster.go_on(name)
    cluster.let_end(name)
    assert put_again(store, before) == {region}, "every other region is refused"
    found = audit(str(store), executor="serial")
    assert "marker" in found.counts
    assert {f"{r.cube}/{r.product}/{r.region}" for r in found.rows if r.region} == {region}
    tell(f"{verb}: a left-over worker ended its put after a longer run; audit found {dict(found.counts)}")
    run(longer[verb].command(store))
    assert same_store(store, longer[verb].undisturbed)
    assert audit(str(store), executor="serial").ok


@pytest.mark.parametrize("verb", ["convert", "compose"])
def test_a_left_over_worker_that_dies_in_its_put_after_a_longer_run_is_found_and_the_region_is_healed_by_hand(
    verb: str, shorter: dict[str, Work], longer: dict[str, Work], cluster: RealCluster, tmp_path: Path, tell: Tell
) -> None:
    """Old objects lie over new ones and the newer marker is alone: no run looks at the region again, but audit does."""
    moments = random.Random(f"dies {verb}")  # noqa: S311 - no secret
    name, store = leave_behind(shorter[verb], tmp_path, cluster, moments, in_its_put)
    region = str(half_put(store, objects_of(shorter[verb])))
    run(longer[verb].command(store))
    before = versions(store)
    cluster.go_on(name)
    deadline = time.monotonic() + PATIENCE_S
    while not put_again(store, {region: before[region]}):
        assert time.monotonic() < deadline
    cluster.kill(name)
    for marker in set(marker_files(store)) - {store / key for key in before[region]}:
        if marker.parent == store / "markers" / region:
            marker.unlink()  # it came as far as this: die one put earlier
    found = audit(str(store), executor="serial")
    tell(f"{verb}: a left-over worker died in its put after a longer run; audit found {dict(found.counts)}")
    damaged = {f"{r.cube}/{r.product}/{r.region}" for r in found.rows if r.problem in {"digest", "size"}}
    assert damaged == {region}
    shutil.rmtree(store / "markers" / region)
    run(longer[verb].command(store))
    assert same_store(store, longer[verb].undisturbed)
    assert audit(str(store), executor="serial").ok
