"""Real processes, killed with SIGKILL at the four hooks and at random, and two writers at once: the store comes out the same."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from eocube.jobs.convert import convert
from eocube.jobs.open import open_corpus
from eocube.model.hooks import HOOK_ENV
from eocube.testing.stac import make_grid, make_series, write_catalog
from eocube.testing.stores import cubes_of, index_rows, markers_of, same_store, tree

pytestmark = pytest.mark.slow

SERIES = make_series(40, grid=make_grid((40, 40)), zooms={"B04": 1, "B08": 1, "B11": 2, "SCL": 2})

CONVERT = """
import sys
from eocube.jobs.convert import convert
from eocube.jobs.open import open_corpus
convert(open_corpus("stac", sys.argv[1]), sys.argv[2], layout="patch", executor=sys.argv[3])
"""


def start(catalog: Path, store: Path, *, kill_at: str = "", executor: str = "threads:1") -> subprocess.Popen[str]:
    """A process that converts, and kills itself where ``kill_at`` says."""
    env = {**os.environ, HOOK_ENV: kill_at}
    command = [sys.executable, "-c", CONVERT, str(catalog), str(store), executor]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def run(catalog: Path, store: Path) -> None:
    """The same, undisturbed: in this process, where everything is imported already."""
    convert(open_corpus("stac", str(catalog)), str(store), layout="patch", executor="threads:1")


def finish(process: subprocess.Popen[str]) -> None:
    """Wait for it; it must have come to its end."""
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output


def die(process: subprocess.Popen[str]) -> None:
    """Wait for it; it must have killed itself."""
    output, _ = process.communicate(timeout=240)
    assert process.returncode == -signal.SIGKILL, output


@pytest.fixture(scope="module")
def catalogs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """28 dates, and all 40 of them; the files are the same."""
    top = tmp_path_factory.mktemp("catalogs")
    return write_catalog(SERIES[:28], top / "first"), write_catalog(SERIES, top / "all")


@pytest.fixture(scope="module")
def undisturbed(catalogs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Stores of the first dates and of all, each written undisturbed."""
    stores = tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("all")
    for catalog, store in zip(catalogs, stores, strict=True):
        run(catalog, store)
    return stores


@pytest.mark.parametrize("hook", ["template", "after_shard", "index"])
def test_a_first_run_killed_at_a_hook_is_gone_on_with(
    hook: str, catalogs: tuple[Path, Path], undisturbed: tuple[Path, Path], tmp_path: Path
) -> None:
    die(start(catalogs[0], tmp_path, kill_at=hook))
    assert not same_store(tmp_path, undisturbed[0])
    run(catalogs[0], tmp_path)
    assert same_store(tmp_path, undisturbed[0])


@pytest.mark.parametrize("hook", ["after_shard", "append", "index"])
def test_an_append_killed_at_a_hook_is_gone_on_with(
    hook: str, catalogs: tuple[Path, Path], undisturbed: tuple[Path, Path], tmp_path: Path
) -> None:
    run(catalogs[0], tmp_path)
    die(start(catalogs[1], tmp_path, kill_at=hook))
    assert not same_store(tmp_path, undisturbed[1])
    run(catalogs[1], tmp_path)
    assert same_store(tmp_path, undisturbed[1])


def test_runs_killed_at_random_moments_come_to_the_same_end(
    catalogs: tuple[Path, Path], undisturbed: tuple[Path, Path], tmp_path: Path
) -> None:
    moments, kills = random.Random(5), 0  # noqa: S311 - no secret
    for _ in range(8):
        process = start(catalogs[1], tmp_path)
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("markers/*")) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.25))
        if process.poll() is None:
            process.kill()
            kills += 1
        process.communicate()
        for part in tmp_path.rglob("*.json"):
            assert part.stat().st_size > 0
        if index_rows(tmp_path) == index_rows(undisturbed[1]):
            break
    run(catalogs[1], tmp_path)
    assert kills > 0
    assert same_store(tmp_path, undisturbed[1])


def test_two_converters_at_once_equal_one(catalogs: tuple[Path, Path], undisturbed: tuple[Path, Path], tmp_path: Path) -> None:
    for process in [start(catalogs[0], tmp_path) for _ in range(2)]:
        finish(process)
    assert same_store(tmp_path, undisturbed[0])
    for process in [start(catalogs[1], tmp_path) for _ in range(2)]:
        finish(process)
    assert same_store(tmp_path, undisturbed[1])
    assert tree(tmp_path / "tmp") == {}


def test_a_shorter_and_a_longer_run_at_once_leave_the_longer(
    catalogs: tuple[Path, Path], undisturbed: tuple[Path, Path], tmp_path: Path
) -> None:
    """The shorter may end well or stop as stale; one more run of the longer command mends what little they raced for."""
    for process in [start(catalogs[0], tmp_path), start(catalogs[1], tmp_path)]:
        output, _ = process.communicate(timeout=240)
        assert process.returncode == 0 or "StalePlanError" in output, output
    run(catalogs[1], tmp_path)
    assert cubes_of(tmp_path) == cubes_of(undisturbed[1])
    assert markers_of(tmp_path) == markers_of(undisturbed[1])
    assert index_rows(tmp_path) == index_rows(undisturbed[1])
