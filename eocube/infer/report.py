"""What a pool run tells while it works, and what it did in the end: the sum of what it told."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True)
class ItemRead:
    """All tiles of an item were read."""

    name: str
    n_tiles: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class BatchDone:
    """The network ran over one batch of ``n_tiles`` tiles and ``n_padded`` empty places."""

    n_tiles: int
    n_padded: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class BatchHalved:
    """Memory ran out; from now on the network gets ``batch_size`` tiles at a time."""

    batch_size: int


@dataclass(frozen=True, kw_only=True)
class ItemWritten:
    """An item is finished."""

    name: str
    n_tiles: int
    seconds: float


Event = ItemRead | BatchDone | BatchHalved | ItemWritten


@dataclass(frozen=True, kw_only=True)
class PoolReport:
    """What a run did. Seconds are summed over the threads of a stage; ``forward_s / wall_s`` is the device's busy share."""

    n_items: int = 0
    n_tiles: int = 0
    n_batches: int = 0
    n_padded: int = 0
    """Empty places in batches: work of the network thrown away."""
    batch_size: int = 0
    """Tiles given to the network at once, after any halving."""
    peak_bytes_in_flight: int = 0
    """Most bytes of admitted items at any time: their tiles and their outputs."""
    staging_bytes: int = 0
    """Bytes of the batches that exist beside the items, whatever the bound."""
    read_s: float = 0.0
    forward_s: float = 0.0
    write_s: float = 0.0
    wall_s: float = 0.0


class Tally:
    """Folds events into a report and hands them on, one at a time."""

    def __init__(self, batch_size: int, on_event: Callable[[Event], None] | None):
        self._lock = threading.Lock()
        self._on_event = on_event
        self.report = PoolReport(batch_size=batch_size)

    def __call__(self, event: Event) -> None:
        """Count an event and tell the listener; called from any thread."""
        with self._lock:
            self.report = _counted(self.report, event)
            if self._on_event is not None:
                self._on_event(event)


def _counted(report: PoolReport, event: Event) -> PoolReport:
    match event:
        case ItemRead(seconds=seconds):
            return replace(report, read_s=report.read_s + seconds)
        case BatchDone(n_tiles=n_tiles, n_padded=n_padded, seconds=seconds):
            return replace(
                report,
                n_tiles=report.n_tiles + n_tiles,
                n_batches=report.n_batches + 1,
                n_padded=report.n_padded + n_padded,
                forward_s=report.forward_s + seconds,
            )
        case BatchHalved(batch_size=batch_size):
            return replace(report, batch_size=batch_size)
        case ItemWritten(seconds=seconds):
            return replace(report, n_items=report.n_items + 1, write_s=report.write_s + seconds)
