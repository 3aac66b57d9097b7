"""Windows of stored cubes, read in the task's own thread and some dates after the other: the pixels that zarr-python gives."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from eocube.errors import DamagedStoreError
from eocube.io import cubes
from eocube.io.blobs import open_blobs
from eocube.io.cubes import CubeSource
from eocube.io.inline import read_inline
from eocube.jobs.convert import convert
from eocube.jobs.open import open_corpus
from eocube.model.window import Window
from eocube.testing.stac import make_grid, make_series, write_catalog

EVERYTHING = slice(None)
WINDOWS = (
    Window(tuple(range(20)), (0, 64), (0, 64)),
    Window((0, 1, 2, 5, 17, 18), (3, 40), (33, 64)),
    Window((7,), (0, 1), (0, 1)),
    Window((), (0, 8), (0, 8)),
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 dates in shards of 16."""
    top = tmp_path_factory.mktemp("reads")
    catalog = write_catalog(make_series(20, grid=make_grid((64, 64)), zooms={"B04": 1, "B08": 1, "SCL": 1}), top / "files")
    convert(open_corpus("stac", catalog), str(top / "store"), layout="balanced", executor="serial")
    return top / "store"


def address_of(store: Path) -> str:
    (folder,) = store.glob("cubes/*/10m")
    return str(folder)


def array_of(store: Path, name: str) -> Any:
    return zarr.open_array(f"{address_of(store)}/{name}", mode="r")


@pytest.mark.parametrize("window", WINDOWS, ids=["whole", "some dates", "one pixel", "no date"])
@pytest.mark.parametrize("read_bytes", [1, 20_000, cubes.READ_BYTES])
def test_a_window_is_what_zarr_python_gives_however_many_dates_are_read_at_once(
    store: Path, window: Window, read_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cubes, "READ_BYTES", read_bytes)
    for name, values in CubeSource.open(address_of(store)).read(window).items():
        whole = array_of(store, name)[:]
        assert np.array_equal(values, whole[list(window.times)][..., slice(*window.y), slice(*window.x)])
        assert values.dtype == whole.dtype


def test_fewer_bytes_at_once_are_fewer_dates_and_never_part_of_a_chunk(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = CubeSource.open(address_of(store))
    data, room = source.spec.frame.data, []
    for read_bytes in (1, cubes.READ_BYTES):
        monkeypatch.setattr(cubes, "READ_BYTES", read_bytes)
        room.append(source.scratch_bytes(WINDOWS[0]))
        ct = source.spec.chunk_tyx[0]
        assert all(a % ct == 0 for a, _ in source._runs(data, WINDOWS[0]))
    assert room[0] < room[1]


def test_more_chunks_at_once_in_zarr_are_more_room(store: Path) -> None:
    rooms = []
    for n in (1, 4):
        with zarr.config.set({"async.concurrency": n}):
            rooms.append(CubeSource.open(address_of(store)).scratch_bytes(WINDOWS[0]))
    assert rooms[0] < rooms[1]


def test_a_read_starts_no_thread(store: Path) -> None:
    array, seen = array_of(store, "data"), set[str]()
    watching = threading.Thread.start

    def note(thread: threading.Thread) -> None:
        seen.add(thread.name)
        watching(thread)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading.Thread, "start", note)
        read_inline(array, (EVERYTHING,) * 4)
    assert seen == set()


def test_within_a_running_loop_zarr_python_reads_in_its_way(store: Path) -> None:
    array = array_of(store, "data")

    async def notebook() -> Any:
        return read_inline(array, (EVERYTHING,) * 4)

    assert np.array_equal(asyncio.run(notebook()), array[:])


def test_an_fsspec_store_is_read_in_the_loop_that_it_belongs_to(store: Path) -> None:
    blobs = open_blobs("memory://reads")
    for key, _ in open_blobs(address_of(store)).list(""):
        blobs.put(key, (Path(address_of(store)) / key).read_bytes())
    array: Any = zarr.open_group(blobs.zarr_store(), mode="r")["data"]
    assert np.array_equal(read_inline(array, (EVERYTHING,) * 4), array_of(store, "data")[:])
    for key, _ in list(blobs.list("")):
        blobs.delete(key)


def test_a_damaged_chunk_ends_a_read_and_leaves_nothing_under_way(store: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = CubeSource.open(address_of(store))
    shard = min((Path(address_of(store)) / "data/c").rglob("*"), key=lambda p: (p.is_dir(), str(p)))
    whole = shard.read_bytes()
    shard.write_bytes(bytes(255 - b for b in whole[:3000]) + whole[3000:])
    try:
        with caplog.at_level(logging.DEBUG, "asyncio"), pytest.raises(DamagedStoreError):
            source.read(WINDOWS[0])
        gc.collect()
    finally:
        shard.write_bytes(whole)
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]
