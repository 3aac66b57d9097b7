"""Periods: which bin of a pandas frequency each date falls into."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from eocube.errors import UnknownNameError

_ANCHORED_AT_END = ("ME", "QE", "YE", "BME", "BQE", "BYE", "SME", "CBME")


class Bins(NamedTuple):
    """Periods that hold a date, and where each date goes."""

    start_ms: tuple[int, ...]
    """Start of each period, increasing."""

    bounds_ms: tuple[tuple[int, int], ...]
    """Half-open [start, end) of each period."""

    bin_of: tuple[int, ...]
    """For each input date the index of its period."""


@lru_cache(maxsize=64)
def bins(time_ms: tuple[int, ...], freq: str, origin: str) -> Bins:
    """Put dates into the periods of ``freq``, counted from ``origin``.

    Parameters
    ----------
    time_ms
        Dates, milliseconds since 1970-01-01 UTC, increasing.
    freq
        A pandas alias that starts periods: ``D``, ``16D``, ``W``, ``MS``, ``1MS``, ``QS``, ``QS-DEC``, ``YS`` …
    origin
        ISO date from which periods are counted, so that a later start of the series does not move them.

    Raises
    ------
    UnknownNameError
        For something that is no frequency, or one that marks the ends of periods.
    """
    offset = _offset(freq)
    first, last = (pd.Timestamp(t, unit="ms") for t in (time_ms[0], time_ms[-1]))
    edges = _edges(offset, pd.Timestamp(origin), first, last)
    at = np.searchsorted(edges, np.array(time_ms, "i8"), side="right") - 1
    used = np.unique(at)
    return Bins(
        start_ms=tuple(int(edges[i]) for i in used),
        bounds_ms=tuple((int(edges[i]), int(edges[i + 1])) for i in used),
        bin_of=tuple(int(i) for i in np.searchsorted(used, at)),
    )


def _offset(freq: str) -> pd.tseries.offsets.BaseOffset:
    known = ["1D", "16D", "W", "1MS", "QS", "QS-DEC", "YS"]
    try:
        offset = pd.tseries.frequencies.to_offset(freq)
    except ValueError as e:
        raise UnknownNameError("freq", freq, known, "pandas' frequency aliases") from e
    if offset is None or offset.n < 1 or offset.name.split("-")[0] in _ANCHORED_AT_END:
        raise UnknownNameError("freq", freq, known, "frequencies that start periods (MS, not ME)")
    return offset


def _edges(offset: Any, origin: pd.Timestamp, first: pd.Timestamp, last: pd.Timestamp) -> np.ndarray:
    """Starts of periods from the one that holds ``first`` to the one after ``last``, ms since 1970."""
    if isinstance(offset, pd.offsets.Tick):
        step = int(pd.Timedelta(offset).total_seconds() * 1000)
        zero = int(origin.timestamp() * 1000)
        low = (int(first.timestamp() * 1000) - zero) // step
        high = (int(last.timestamp() * 1000) - zero) // step + 1
        return zero + np.arange(low, high + 1, dtype="i8") * step
    anchor = (offset.base if offset.n > 1 else offset).rollback(origin)
    start = min(anchor, first - offset - offset)
    if start < anchor:  # series older than the origin: whole steps back, so that the count from the origin holds
        back = anchor
        while back > first:
            back = back - offset
        start = back
    return pd.date_range(start, last + offset + offset, freq=offset).values.astype("M8[ms]").astype("i8")
