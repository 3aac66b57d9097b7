"""Items, readers and writers for the pool: pixels encode item, tile, revisit, band and position; bytes are counted."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

import numpy as np

from eocube.infer.model import batch_shape
from eocube.infer.pool import TileInput, run_overlapped
from eocube.testing.models import NearestModel

TILE_YX = (3, 4)
MODEL = NearestModel(2, bands=("red", "nir"), revisits=2)
TILE_BYTES = batch_shape(MODEL, tile_yx=TILE_YX, batch_size=1).tile_bytes


@dataclass(frozen=True)
class Shard:
    """``number`` is encoded in the pixels; ``n_tiles`` of at most ``planned`` are read."""

    number: int
    n_read: int
    planned: int | None = None
    revisits: int = 2

    @property
    def name(self):
        return f"shard-{self.number}"

    @property
    def n_tiles(self):
        return self.n_read if self.planned is None else self.planned


def tile_of(shard, index):
    """Tile ``index``: 1000 * shard + 12 * tile + position, plus a quarter for the second revisit, a half for the second band."""
    position = np.arange(12, dtype=np.float32).reshape(TILE_YX)
    revisit = np.arange(shard.revisits, dtype=np.float32)[:, None, None, None] / 4
    band = np.arange(2, dtype=np.float32)[:, None, None] / 2
    lr = 1000 * shard.number + 12 * index + position + band + revisit
    valid = np.ones((shard.revisits, *TILE_YX), bool)
    valid[0, 0] = False  # the first row comes from the second revisit, and is 0 without one
    return TileInput(("tile", index), lr * valid[:, None], valid, np.arange(shard.revisits, dtype=np.float32))


def read(shard):
    return [tile_of(shard, index) for index in range(shard.n_read)]


def expected_outputs(shard, model=MODEL):
    """The plain twin: each tile through the model by itself."""
    outputs = []
    for tile in read(shard):
        lr, valid, days = (np.zeros((1, model.revisits, *values.shape[1:]), values.dtype) for values in tile[1:])
        for full, values in ((lr, tile.lr), (valid, tile.valid), (days, tile.days)):
            full[0, : shard.revisits] = values
        outputs.append((tile.key, model(lr, valid=valid, days=days)[0]))
    return outputs


@dataclass
class Writer:
    """Keeps what it is given, and can be slow."""

    seconds: float = 0.0
    written: dict[str, list] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, shard, outputs):
        time.sleep(self.seconds)
        with self.lock:
            assert shard.name not in self.written, f"{shard.name} was written twice"
            self.written[shard.name] = outputs
            self.order.append(shard.name)


def assert_written(writer, shards, model=MODEL):
    """Each shard once, with exactly its tiles, in order, with the right pixels."""
    assert sorted(writer.written) == sorted(shard.name for shard in shards)
    for shard in shards:
        outputs, expected = writer.written[shard.name], expected_outputs(shard, model)
        assert [key for key, _ in outputs] == [key for key, _ in expected]
        for (_, out), (_, right) in zip(outputs, expected, strict=True):
            np.testing.assert_array_equal(out, right)


class Ledger:
    """Counts bytes from outside: a tile from when it is read, an output from when it is made, both until they are written."""

    def __init__(self):
        self.lock = threading.Lock()
        self.held = self.peak = 0

    def add(self, n_bytes):
        with self.lock:
            self.held += n_bytes
            self.peak = max(self.peak, self.held)


def run(shards, *, write, read=read, model=MODEL, batch_size=4, max_bytes_in_flight=1_000_000_000, **kwargs):
    """``run_overlapped`` with room for everything, unless told otherwise."""
    sizes = {"tile_yx": TILE_YX, "batch_size": batch_size, "max_bytes_in_flight": max_bytes_in_flight}
    return run_overlapped(shards, read=read, model=model, write=write, **sizes, **kwargs)
