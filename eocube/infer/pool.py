"""One pool task: many items through one network, with reading, batching, forward and writing overlapped in threads.

::

    items → admit → read (n_readers) → fill → forward → route → write (n_writers)
              ↑                          ↑                 │            │
              │                          └── 3 batches ────┘            │
              └───────────────── bytes in flight ───────────────────────┘

An item is one output shard made of tiles. Items are admitted in order while their bytes fit under the bound, read in
parallel, and their tiles are put into batches of one shape strictly in order of item and tile, across items. So which tile
stands where in which batch follows from the items alone and not from the threads' timing; the last batch is padded. A batch
goes out early, padded, only when the next item could not be admitted beside the items of the open batch: waiting for more
tiles would then be waiting for ever.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np

from eocube.errors import ModelError
from eocube.infer.channels import ByteGate, Channel, StoppedError, Switch
from eocube.infer.model import BatchShape, Model, batch_shape, check_output
from eocube.infer.report import BatchDone, BatchHalved, Event, ItemRead, ItemWritten, PoolReport, Tally
from eocube.kernels.arrays import BoolArray, Float32Array

logger = logging.getLogger(__name__)

N_SLOTS = 3
"""Batches that exist at once: one being filled, one in the network, one being handed out."""

_MAX_WAITING = 64
"""Bound of the channels between stages; it only matters for items without tiles, which the byte gate does not hold back."""


class Item(Protocol):
    """One piece of work with one owner: as a rule an output shard. Whatever else it carries is for ``read`` and ``write``."""

    @property
    def name(self) -> str:
        """What errors and events call it."""

    @property
    def n_tiles(self) -> int:
        """At most so many tiles will be read for it; its bytes in flight are counted from this."""


ItemT = TypeVar("ItemT", bound=Item)


class TileInput(NamedTuple):
    """One tile as read, core and halo.

    It has the run's ``tile_yx``, except for what an image smaller than a tile does not have, and as many revisits as the model
    takes, or fewer: what is missing at the end of an axis is given to the model as 0 and not valid.
    """

    key: Hashable
    """Handed back beside the tile's output."""
    lr: Float32Array
    """``(revisit, band, y, x)`` float32, 0 where not valid."""
    valid: BoolArray
    """``(revisit, y, x)``, True where usable."""
    days: Float32Array
    """``(revisit,)`` days from the target date."""


Outputs = list[tuple[Hashable, Float32Array]]
"""An item's tiles in the order they were read: key, and ``(band, y * scale, x * scale)`` for the whole ``tile_yx``."""


def run_overlapped(
    items: Iterable[ItemT],
    *,
    read: Callable[[ItemT], Iterable[TileInput]],
    model: Model,
    write: Callable[[ItemT, Outputs], None],
    tile_yx: tuple[int, int],
    batch_size: int,
    max_bytes_in_flight: int,
    n_readers: int = 1,
    n_writers: int = 1,
    on_event: Callable[[Event], None] | None = None,
) -> PoolReport:
    """Run ``model`` over all tiles of all items, and write each item once, when its last tile is done.

    Parameters
    ----------
    items
        In the order in which they are worked on; taken one by one, as room comes free.
    read
        The tiles of an item that need the network, in a fixed order; a generator may read them one by one. An item without
        tiles is written with no outputs. Called in ``n_readers`` threads.
    model
        Called in one thread.
    write
        Gets an item and its outputs; they are its own to keep. Called in ``n_writers`` threads.
    tile_yx
        Input pixels of every tile, core and halo together.
    batch_size
        Tiles in a batch. When memory runs out (MemoryError, torch's OutOfMemoryError) it is halved for the rest of the run.
    max_bytes_in_flight
        Bound on the tiles and outputs of items that are admitted and not yet written; an item counts in full, with
        ``n_tiles`` tiles and outputs, from before it is read until it is written. An item above the bound runs alone.
        Stages overlap across items, so make room for ``n_readers + n_writers + 1`` of them. ``N_SLOTS`` batches exist besides.
    on_event
        Told of each step, one call at a time, from the pool's threads.

    Returns
    -------
    What was done. The same items, model, ``tile_yx``, ``batch_size`` and bound make the same batches.

    Raises
    ------
    ValueError
        If there is no reader or no writer thread.
    ModelError
        If a tile does not fit the model and ``tile_yx``, an item has more tiles than planned, or the model gives another shape
        than promised.
    Exception
        Whatever ``items``, ``read``, ``model``, ``write`` or ``on_event`` raised first, with a note that names the item.
        By then all threads have ended; none took on a further item after the error.
    """
    if n_readers < 1 or n_writers < 1:
        raise ValueError(f"{n_readers} reader and {n_writers} writer threads were asked for; each must be at least 1.")
    shape = batch_shape(model, tile_yx=tile_yx, batch_size=batch_size)
    run = _Run(read, model, write, shape, max_bytes_in_flight, Tally(batch_size, on_event))
    return run.run(items, n_readers, n_writers)


@dataclass(eq=False, kw_only=True)
class _Owner(Generic[ItemT]):
    """An item on its way. ``tiles`` is filled by a reader and emptied by the filler; the rest belongs to the router."""

    item: ItemT
    n_bytes: int
    tiles: Channel[TileInput]
    outputs: Outputs = field(default_factory=list)
    n_tiles: int | None = None  # None until its last tile is in a batch


class _Slot:
    """The memory of one batch, used again and again."""

    def __init__(self, shape: BatchShape):
        self.shape = shape
        self.lr = np.zeros(shape.lr, dtype=np.float32)
        self.valid = np.zeros((shape.n, shape.revisits, *shape.tile_yx), dtype=np.bool_)
        self.days = np.zeros((shape.n, shape.revisits), dtype=np.float32)
        self.rows: list[tuple[_Owner[Any], Hashable]] = []

    @property
    def full(self) -> bool:
        return len(self.rows) == self.shape.n

    @property
    def owners_bytes(self) -> int:
        """Bytes of the items that cannot be written before this batch is done."""
        return sum(owner.n_bytes for owner in {id(owner): owner for owner, _ in self.rows}.values())

    def add(self, owner: _Owner[Any], tile: TileInput) -> None:
        for buffer, values in ((self.lr, tile.lr), (self.valid, tile.valid), (self.days, tile.days)):
            place = buffer[len(self.rows)]
            if place.shape != values.shape:
                place[...] = 0
            place[tuple(slice(n) for n in values.shape)] = values
        self.rows.append((owner, tile.key))

    def pad(self) -> None:
        """Empty the places after the last tile, which hold an older batch."""
        for buffer in (self.lr, self.valid, self.days):
            buffer[len(self.rows) :] = 0


class _Forwarded(NamedTuple):
    """A batch that went through the network."""

    slot: _Slot
    out: Float32Array


class _Ended(NamedTuple):
    """All tiles of an item are in batches."""

    owner: _Owner[Any]
    n_tiles: int


class _Run(Generic[ItemT]):
    """The threads of one run and what they share. A method per stage; every wait ends when the switch is thrown."""

    def __init__(
        self,
        read: Callable[[ItemT], Iterable[TileInput]],
        model: Model,
        write: Callable[[ItemT, Outputs], None],
        shape: BatchShape,
        max_bytes: int,
        tally: Tally,
    ):
        self._read, self._model, self._write, self._shape, self._tally = read, model, write, shape, tally
        self._batch_size = shape.n
        self._switch = Switch()
        self._error: BaseException | None = None
        self._gate = ByteGate(self._switch, max_bytes)
        self._announced: Channel[_Owner[ItemT]] = Channel(self._switch, _MAX_WAITING)
        self._to_read: Channel[_Owner[ItemT]] = Channel(self._switch, _MAX_WAITING)
        self._free: Channel[_Slot] = Channel(self._switch)
        self._filled: Channel[_Slot] = Channel(self._switch)
        self._to_route: Channel[_Forwarded | _Ended] = Channel(self._switch, _MAX_WAITING)
        self._to_write: Channel[_Owner[ItemT]] = Channel(self._switch, _MAX_WAITING)

    def run(self, items: Iterable[ItemT], n_readers: int, n_writers: int) -> PoolReport:
        """All threads have ended when this returns or raises."""
        start = time.perf_counter()
        stages = [
            *[self._read_all] * n_readers,
            self._fill_all,
            self._forward_all,
            self._route_all,
            *[self._write_all] * n_writers,
        ]
        threads = [
            threading.Thread(target=self._guarded, args=(stage,), name=f"pool{stage.__name__}", daemon=True) for stage in stages
        ]
        self._guarded(partial(self._start_and_admit, threads, items))
        self._join([thread for thread in threads if thread.ident is not None])
        if self._error is not None:
            first_error, self._error = self._error, None
            try:
                raise first_error
            finally:
                del first_error  # its traceback holds this frame and the run: without a cycle they go with the error
        return replace(
            self._tally.report,
            peak_bytes_in_flight=self._gate.peak_bytes,
            staging_bytes=N_SLOTS * self._shape.batch_bytes,
            wall_s=time.perf_counter() - start,
        )

    def _start_and_admit(self, threads: list[threading.Thread], items: Iterable[ItemT]) -> None:
        for thread in threads:
            thread.start()
        self._admit_all(items)

    def _join(self, threads: list[threading.Thread]) -> None:
        try:
            for thread in threads:
                thread.join()
        except BaseException as error:  # noqa: BLE001 - a KeyboardInterrupt while waiting: stop, wait, then raise it
            self._stop(error)
            for thread in threads:
                thread.join()

    def _guarded(self, stage: Callable[[], None]) -> None:
        try:
            stage()
        except StoppedError:
            pass
        except BaseException as error:  # noqa: BLE001 - every error crosses to the caller's thread
            self._stop(error)

    def _stop(self, error: BaseException) -> None:
        with self._switch.lock:
            self._error = error if self._error is None else self._error
        self._switch.stop()

    def _admit_all(self, items: Iterable[ItemT]) -> None:
        """Announce, then admit: the filler must know of an item that waits at the gate (see ``_fill_all``)."""
        for item in items:
            owner = _Owner(item=item, n_bytes=item.n_tiles * self._shape.tile_bytes, tiles=Channel(self._switch))
            self._announced.put(owner)
            self._gate.admit(owner.n_bytes)
            self._to_read.put(owner)
        self._announced.close()
        self._to_read.close()

    def _read_all(self) -> None:
        for owner in self._to_read:
            start = time.perf_counter()
            with _naming("reading", owner.item.name):
                n_tiles = self._read_item(owner)
            self._tally(ItemRead(name=owner.item.name, n_tiles=n_tiles, seconds=time.perf_counter() - start))

    def _read_item(self, owner: _Owner[ItemT]) -> int:
        n_tiles = 0
        for n_tiles, tile in enumerate(self._read(owner.item), start=1):
            _check_tile(tile, self._shape, n_tiles, owner.item)
            owner.tiles.put(tile)
        owner.tiles.close()
        return n_tiles

    def _fill_all(self) -> None:
        """Put tiles into batches, in order of item and tile.

        Before it waits for an item's tiles, the open batch goes out if that item cannot be admitted beside those in the batch.
        All items that hold bytes and are not in the open batch are then on their way to being written, so the wait ends.
        """
        for _ in range(N_SLOTS):
            self._free.put(_Slot(self._shape))
        open_slot: _Slot | None = None
        for owner in self._announced:
            if open_slot is not None and open_slot.owners_bytes + owner.n_bytes > self._gate.max_bytes:
                self._send(open_slot)
                open_slot = None
            open_slot = self._fill_from(owner, open_slot)
        if open_slot is not None:
            self._send(open_slot)
        self._filled.close()

    def _fill_from(self, owner: _Owner[ItemT], open_slot: _Slot | None) -> _Slot | None:
        """Put one item's tiles into batches; gives the batch that is still open."""
        n_tiles = 0
        for tile in owner.tiles:
            n_tiles += 1
            open_slot = open_slot or self._free.take()
            open_slot.add(owner, tile)
            if open_slot.full:
                self._send(open_slot)
                open_slot = None
        self._to_route.put(_Ended(owner, n_tiles))
        return open_slot

    def _send(self, slot: _Slot) -> None:
        slot.pad()
        self._filled.put(slot)

    def _forward_all(self) -> None:
        for slot in self._filled:
            start = time.perf_counter()
            with _naming("running the model over tiles of", *dict.fromkeys(owner.item.name for owner, _ in slot.rows)):
                out = self._forward(slot)
            n_tiles = len(slot.rows)
            self._tally(BatchDone(n_tiles=n_tiles, n_padded=slot.shape.n - n_tiles, seconds=time.perf_counter() - start))
            self._to_route.put(_Forwarded(slot, out))
            del out
        self._to_route.close()

    def _forward(self, slot: _Slot) -> Float32Array:
        """Run the model over the rows in use, ``_batch_size`` at a time.

        The last part slides back over rows already done, so that all parts have one shape.
        """
        joined: Float32Array | None = None
        done = 0
        while done < len(slot.rows):
            first = min(done, slot.shape.n - self._batch_size)
            part = slice(first, first + self._batch_size)
            out = self._forward_or_halve(slot, part)
            if out is None:
                continue
            if self._batch_size == slot.shape.n:
                return out
            joined = np.zeros(slot.shape.out, dtype=np.float32) if joined is None else joined
            joined[part] = out
            done = part.stop
        assert joined is not None  # noqa: S101 - a batch is only sent with at least one tile
        return joined

    def _forward_or_halve(self, slot: _Slot, part: slice) -> Float32Array | None:
        """The output of a part; None, and half the batch size, if memory ran out. The failed call's frames are gone by then."""
        try:
            out = self._model(slot.lr[part], valid=slot.valid[part], days=slot.days[part])
        except Exception as error:
            if self._batch_size == 1 or not _is_out_of_memory(error):
                raise
        else:
            check_output(out, (self._batch_size, *self._shape.out[1:]))
            return out
        self._batch_size //= 2
        logger.warning("out of memory: batches of %s tiles from here on", self._batch_size)
        self._tally(BatchHalved(batch_size=self._batch_size))
        return None

    def _route_all(self) -> None:
        """Hand outputs to their owners; copies, because a batch outlives some of its owners and not others."""
        for message in self._to_route:
            if isinstance(message, _Ended):
                message.owner.n_tiles = message.n_tiles
                self._pass_on_if_done(message.owner)
                continue
            slot, out = message
            for row, (owner, key) in enumerate(slot.rows):
                owner.outputs.append((key, out[row].copy()))
                self._pass_on_if_done(owner)
            slot.rows = []
            self._free.put(slot)
            del message, out
        self._to_write.close()

    def _pass_on_if_done(self, owner: _Owner[ItemT]) -> None:
        if len(owner.outputs) == owner.n_tiles:
            self._to_write.put(owner)

    def _write_all(self) -> None:
        for owner in self._to_write:
            start = time.perf_counter()
            outputs, owner.outputs = owner.outputs, []
            n_tiles = len(outputs)
            with _naming("writing", owner.item.name):
                self._write(owner.item, outputs)
            del outputs
            self._gate.release(owner.n_bytes)
            self._tally(ItemWritten(name=owner.item.name, n_tiles=n_tiles, seconds=time.perf_counter() - start))


class _naming:  # noqa: N801 - reads as a verb
    """Adds what was being done, and with which items, to an error that passes."""

    def __init__(self, doing: str, *names: str):
        self._note = f"While {doing} {', '.join(map(repr, names))}."

    def __enter__(self) -> None:
        return None

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        if error is not None and not isinstance(error, StoppedError):
            error.add_note(self._note)


def _check_tile(tile: TileInput, shape: BatchShape, n_tiles: int, item: Item) -> None:
    revisits, bands, *yx = tile.lr.shape if tile.lr.ndim == 4 else (0, 0, 0, 0)
    found = (tile.lr.shape, tile.valid.shape, tile.days.shape)
    whole = found == ((revisits, bands, *yx), (revisits, *yx), (revisits,)) and bands == shape.bands_in
    if not whole or any(n > most for n, most in zip((revisits, *yx), (shape.revisits, *shape.tile_yx), strict=True)):
        raise ModelError(
            f"Tile {tile.key!r} of item {item.name!r} has lr, valid, days of shapes {found}; this run takes lr (revisit, band, "
            f"y, x) of {(shape.revisits, shape.bands_in, *shape.tile_yx)} or with fewer revisits, rows or columns, and valid "
            "(revisit, y, x) and days (revisit,) to match. Make read cut its tiles with tiles_for, in the model's band order."
        )
    if n_tiles > item.n_tiles:
        raise ModelError(
            f"Item {item.name!r} was planned with at most {item.n_tiles} tiles, and read gave more. Its memory is counted from "
            "n_tiles: state the true number."
        )


def _is_out_of_memory(error: Exception) -> bool:
    """MemoryError, or a class called OutOfMemoryError (torch's and cupy's), known by name so that neither is imported."""
    return isinstance(error, MemoryError) or any(cls.__name__ == "OutOfMemoryError" for cls in type(error).__mro__)
