"""One pool task: some regions of a super-resolved cube through one loaded network, reading and writing beside it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from eocube.exec.evaluate import Evaluation
from eocube.exec.region import CubeJob, RegionDone, RegionTask, RegionWriter
from eocube.infer.model import Model, batch_shape
from eocube.infer.pool import Outputs, TileInput, run_overlapped
from eocube.model.recipe import Arrays
from eocube.model.spec import Piece, Region
from eocube.sr.step import SrPiece
from eocube.sr.tiles import BATCH_TILES, Canvas, Inputs, Key, cores, iter_tiles, tile_edge

N_READERS = 2
ITEMS_IN_FLIGHT = 4
"""Pieces that fit into the job's ``max_bytes`` together: two being read, one in the network, one being written."""


REGIONS_A_TASK = 8
"""Regions that one pool task gets: enough to keep reading, network and writing busy beside each other."""


@dataclass(eq=False, kw_only=True)
class _Region:
    """One region on its way."""

    task: RegionTask
    writer: RegionWriter
    sr: SrPiece
    n_left: int
    """Pieces that are not written yet."""


@dataclass(eq=False, kw_only=True)
class _Piece:
    """One piece of a region: the pool's item."""

    region: _Region
    piece: Piece
    n_tiles: int
    inputs: Inputs | None = None
    masks: Arrays = field(default_factory=dict)

    @property
    def name(self) -> str:
        """For errors and events."""
        w = self.piece.window
        return f"region {self.region.task.region}, dates {w.times[0]}-{w.times[-1]}, rows {w.y}, columns {w.x}"


def run_superres(job: CubeJob, tasks: tuple[RegionTask, ...]) -> list[RegionDone]:
    """Write regions of a cube whose last step is super-resolution. Equal tasks give equal bytes whenever and wherever they run.

    Batches are filled across dates, pieces and regions; each region has one owner, who puts its shards and then its marker.
    """
    done: list[RegionDone] = []
    sr = SrPiece(job.node, Evaluation(job.binding, job.frames))
    model = sr.model.loaded()
    edge = tile_edge(model)
    run_overlapped(
        _items(job, tasks, model),
        read=_read,
        model=model,
        write=lambda item, outputs: _write(item, outputs, done),
        tile_yx=(edge, edge),
        batch_size=BATCH_TILES,
        max_bytes_in_flight=job.max_bytes,
        n_readers=N_READERS,
        n_writers=1,
    )
    return done


def _items(job: CubeJob, tasks: tuple[RegionTask, ...], model: Model) -> Iterator[_Piece]:
    for task in tasks:
        writer = RegionWriter(job, task)
        sr = SrPiece(job.node, Evaluation(job.binding, job.frames, writer.on_error if job.errors == "skip" else None))
        pieces = list(job.spec.pieces(task.region, _piece_chunks(job, task.region, sr, model)))
        region = _Region(task=task, writer=writer, sr=sr, n_left=len(pieces))
        for piece in pieces:
            yield _Piece(region=region, piece=piece, n_tiles=_n_tiles(piece, sr))


def _n_tiles(piece: Piece, sr: SrPiece) -> int:
    y, x = sr.spans(piece.window)
    return len(piece.window.times) * len(cores(y)) * len(cores(x))


def _piece_chunks(job: CubeJob, region: Region, sr: SrPiece, model: Model) -> tuple[int, int, int]:
    """Inner chunks along time, y, x of one piece, so that a few pieces fit into ``max_bytes``: fewer dates first, then pixels."""
    edge = tile_edge(model)
    tile_bytes = batch_shape(model, tile_yx=(edge, edge), batch_size=1).tile_bytes
    n = list(job.spec.chunks_per_shard)
    while True:
        first = next(job.spec.pieces(region, (n[0], n[1], n[2])))
        if _n_tiles(first, sr) * tile_bytes * ITEMS_IN_FLIGHT <= job.max_bytes or n == [1, 1, 1]:
            return n[0], n[1], n[2]
        axis = 0 if n[0] > 1 else max((1, 2), key=lambda i: n[i])
        n[axis] = math.ceil(n[axis] / 2)


def _read(item: _Piece) -> Iterator[TileInput]:
    sr, window = item.region.sr, item.piece.window
    item.inputs, item.masks = sr.read(window)
    return iter_tiles(item.inputs, *sr.spans(window), sr.model)


def _write(item: _Piece, outputs: Outputs, done: list[RegionDone]) -> None:
    sr, window, inputs = item.region.sr, item.piece.window, item.inputs
    assert inputs is not None  # noqa: S101 - the pool reads an item before it writes it
    (y, x), (oy, ox) = sr.spans(window), inputs.origin_yx
    canvas = Canvas(inputs.valid[:, y[0] - oy : y[1] - oy, x[0] - ox : x[1] - ox], y, x, sr.model)
    for key, values in outputs:
        canvas.put(_key(key), values)
    arrays = sr.finished(window, canvas.dn, item.masks)
    item.inputs, item.masks = None, {}
    item.region.writer.add(item.piece, arrays)
    item.region.n_left -= 1
    if not item.region.n_left:
        done.append(item.region.writer.finish())


def _key(key: Any) -> Key:
    assert isinstance(key, Key)  # noqa: S101 - as iter_tiles made it
    return key
