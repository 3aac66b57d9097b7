"""Memory of a task as the plan says it, measured; and a cube larger than the workers' memory, under a limit of the kernel."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
from distributed import Client, LocalCluster

import eocube
from benchmarks import _cogs, _peak, memory
from tests.slow.killing import Tell

pytestmark = pytest.mark.slow

LIMIT_MB = 400
"""Most by which a worker may grow, stacks of threads and memory asked for but never touched included."""

DATES = 48
MEASURED = (
    "convert.balanced",
    "convert.scl",
    "convert.4_mb",
    "reflectance.32_mb",
    "median",
    "index",
    "halo.32_mb",
    "stored.median",
)
"""Files and a store, one date and many at once, steps with and without a halo, little memory and much."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> memory.Files:
    return memory.make_files(tmp_path_factory.mktemp("scenes"))


@pytest.mark.parametrize("name", MEASURED)
def test_the_plan_is_never_below_what_a_task_holds_and_at_most_half_above(name: str, files: memory.Files, tell: Tell) -> None:
    (case,) = (c for c in memory.CASES if c.name == name)
    row = memory.row_of(case, files, memory.TIMES)
    tell(f"{row['bench']}: planned {row['planned_mb']} MB, measured {row['measured_mb']} MB, at most {row['most_mb']} MB")
    assert row["least_ratio"] >= 1
    assert row["ratio"] <= 1.5


@pytest.fixture
def client() -> Iterator[Client]:
    """Two processes of one thread; Dask itself neither spills, pauses nor restarts them."""
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, memory_limit=0, dashboard_address="127.0.0.1:0", host="127.0.0.1"
        ) as cluster,
        Client(cluster) as made,
    ):
        yield made


def limit_growth() -> tuple[int, float]:
    """In a worker: from now on the kernel refuses it more than ``LIMIT_MB`` beyond what it has. (process, size in MB)."""
    data = round((_peak.status_mb("VmData") + LIMIT_MB) * 1e6)
    resource.setrlimit(resource.RLIMIT_DATA, (data, data))
    Path("/proc/self/clear_refs").write_text("5")
    return os.getpid(), _peak.status_mb("VmRSS")


def highest() -> tuple[int, float]:
    """In a worker: (process, its high-water mark in MB)."""
    return os.getpid(), _peak.status_mb("VmHWM")


def test_a_cube_larger_than_the_workers_memory_converts_and_composes_within_it(
    client: Client, tmp_path: Path, tell: Tell
) -> None:
    _cogs.make_catalog(tmp_path / memory.WIDE, dates=2, edge_px=2048, block_px=memory.BLOCK_PX)
    items = memory.Files(tmp_path).items(DATES, of=memory.WIDE)
    raw_mb = DATES * 4 * 2048**2 * 2 / 1e6
    assert raw_mb > 2 * 2 * LIMIT_MB, "twice what both workers have together"
    warm = eocube.load_stac(items[:1]).isel(y=slice(0, 64), x=slice(0, 64))
    eocube.write_cube(warm, str(tmp_path / "warm"), executor=client, step_id="warm")
    before = client.run(limit_growth)
    store, corpus = str(tmp_path / "store"), eocube.open_corpus("stac", items)
    converted = eocube.convert(corpus, store, executor=client)
    composed = eocube.compose(store, str(tmp_path / "composed"), freq="1MS", mask=None, executor=client)
    assert converted.regions_done == 12
    assert composed.bytes_evaluated == 4 * 4 * 2048**2 * 2 + 4 * 2048**2 * 2, "four months, and their counts"
    after = client.run(highest)
    assert {w: pid for w, (pid, _) in after.items()} == {w: pid for w, (pid, _) in before.items()}, "no worker was restarted"
    grown = [after[w][1] - mb for w, (_, mb) in before.items()]
    tell(f"{raw_mb:.0f} MB converted and composed by two workers that grew by {max(grown):.0f} MB at most")
    assert max(grown) < LIMIT_MB


def test_the_limit_is_one(client: Client) -> None:
    client.run(limit_growth)
    with pytest.raises(MemoryError):
        client.submit(bytearray, (LIMIT_MB + 50) * 10**6, pure=False).result()
