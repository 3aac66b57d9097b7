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
from tests.slow.telling import Tell

pytestmark = pytest.mark.slow

LIMIT_MB = 250
"""Most memory by which a worker may grow."""

ADDRESSES_MB = 350
"""Most address space that the kernel gives a worker beyond what it has. Stacks of threads count, what was never touched, what a
heap gave back from between things that are still there. How much that is differs from run to run."""

DATES = 48


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> memory.Files:
    return memory.make_files(tmp_path_factory.mktemp("scenes"))


@pytest.mark.parametrize("case", memory.CASES, ids=[c.name for c in memory.CASES])
def test_the_plan_is_never_below_what_a_task_holds_and_at_most_half_above(
    case: memory.Case, files: memory.Files, tell: Tell
) -> None:
    row = memory.row_of(case, files, workers=2, tasks=2)
    tell(f"{row['bench']}: planned {row['planned_mb']} MB, measured {row['least_mb']} to {row['most_mb']} MB")
    assert row["how"] == "VmHWM", "samples miss short peaks"
    assert row["met"], (row["least_ratio"], row["most_ratio"])


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
    """In a worker: from now on the kernel refuses it more than ``ADDRESSES_MB`` beyond what it has. (process, size in MB)."""
    data = round((_peak.status_mb("VmData") + ADDRESSES_MB) * 1e6)
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
    assert raw_mb > 2 * 2 * ADDRESSES_MB, "twice what both workers have together"
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
        client.submit(bytearray, (ADDRESSES_MB + 50) * 10**6, pure=False).result()
