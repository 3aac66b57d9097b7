"""Decision 0002: two writers of one Zarr shard lose pixels in silence; writers with shards of their own do not."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dask.array as da
import numpy as np
import xarray as xr
import zarr
from zarr.core.buffer import Buffer
from zarr.storage import MemoryStore, WrapperStore

WIDTH = 8
LEFT, RIGHT = slice(0, WIDTH // 2), slice(WIDTH // 2, WIDTH)


class MeetingStore(WrapperStore[MemoryStore]):
    """Holds back every write until two are ready, as if two processes had read the shard at the same moment."""

    def __init__(self, store: MemoryStore):
        super().__init__(store)
        self._waiting, self._both = 0, asyncio.Event()

    async def set(self, key: str, value: Buffer) -> None:
        self._waiting += 1
        if self._waiting == 2:
            self._both.set()
        await asyncio.wait_for(self._both.wait(), timeout=20)
        await super().set(key, value)


def write_both_halves_at_once(*, shard_width: int) -> np.ndarray:
    """What is stored after two writers wrote 1 into the left and the right half, each into inner chunks of its own."""
    memory = MemoryStore()
    half = WIDTH // 2
    zarr.create_array(memory, shape=(WIDTH, WIDTH), chunks=(half, half), shards=(WIDTH, shard_width), dtype="u2", fill_value=0)
    array = zarr.open_array(MeetingStore(memory), mode="r+")

    def write(columns: slice) -> None:
        array[:, columns] = 1

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, [LEFT, RIGHT]))
    return np.asarray(zarr.open_array(memory, mode="r")[:])


def test_two_writers_of_different_chunks_in_one_shard_lose_one_half_without_an_error() -> None:
    stored = write_both_halves_at_once(shard_width=WIDTH)
    assert sorted([stored[:, LEFT].mean(), stored[:, RIGHT].mean()]) == [0, 1]


def test_two_writers_with_a_shard_each_lose_nothing() -> None:
    assert (write_both_halves_at_once(shard_width=WIDTH // 2) == 1).all()


def test_dask_chunks_smaller_than_the_shard_lose_pixels_without_an_error(tmp_path: Path) -> None:
    """dask/dask#12583. Sixteen tasks write four shards from several threads."""
    pixels = np.arange(1, 64 * 64 + 1, dtype="u4").reshape(64, 64)
    lost = 0
    for n in range(4):
        url = str(tmp_path / f"{n}.zarr")
        da.from_array(pixels, chunks=16).to_zarr(url, chunks=(8, 8), shards=(32, 32))
        lost += not np.array_equal(zarr.open_array(url, mode="r")[:], pixels)
    assert lost


def test_xarray_lets_a_numpy_backed_region_split_a_shard(tmp_path: Path) -> None:
    """Nothing warns the two writers of the first test when they come through xarray."""
    url = str(tmp_path / "cube.zarr")
    whole = xr.Dataset({"data": (("y", "x"), np.zeros((WIDTH, WIDTH), "u2"))})
    whole.to_zarr(url, encoding={"data": {"chunks": (4, 4), "shards": (8, 8)}}, zarr_format=3, consolidated=False)
    xr.Dataset({"data": (("y", "x"), np.ones((WIDTH, 4), "u2"))}).to_zarr(
        url, region={"y": slice(0, WIDTH), "x": LEFT}, zarr_format=3, consolidated=False
    )
    stored = xr.open_zarr(url, consolidated=False)["data"].to_numpy()
    assert stored.sum() == WIDTH * 4
