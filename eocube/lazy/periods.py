"""Periods: which bin of a pandas frequency each date falls into.

Plain arithmetic on days and months, counted from an origin: pandas counts several months from the first date it sees, so that a
longer series would have other bins, and its aliases change from one version to the next.
"""

from __future__ import annotations

import datetime as dt
import re
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from eocube.errors import CubeError, UnknownNameError

KNOWN = ("D", "16D", "12h", "W", "W-WED", "MS", "2MS", "QS", "QS-DEC", "YS", "YS-OCT")
"""Examples of frequencies, for error messages."""

_ALIAS = re.compile(r"(\d*)(D|h|min|W|MS|QS|YS)(?:-([A-Z]{3}))?")
_WEEKDAYS = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")
_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_DAY_MS = 86_400_000
_UNIT_MS = {"D": _DAY_MS, "h": 3_600_000, "min": 60_000, "W": 7 * _DAY_MS}
_UNIT_MONTHS = {"MS": 1, "QS": 3, "YS": 12}


class Bins(NamedTuple):
    """Periods that hold a date, and where each date goes."""

    start_ms: tuple[int, ...]
    """Start of each period, increasing."""

    bounds_ms: tuple[tuple[int, int], ...]
    """Half-open [start, end) of each period."""

    bin_of: tuple[int, ...]
    """For each input date the index of its period."""


def bins(time_ms: tuple[int, ...], freq: str, origin: str = "1970-01-01") -> Bins:
    """Put dates into the periods of ``freq``, counted from ``origin``.

    Parameters
    ----------
    time_ms
        Dates, milliseconds since 1970-01-01 UTC, increasing.
    freq
        A pandas alias that starts periods, with a number in front if you like: ``D``, ``h``, ``min``; ``W`` (from Sunday) or
        ``W-WED``; ``MS``; ``QS`` (from January) or ``QS-DEC``; ``YS`` or ``YS-OCT``.
    origin
        ISO date, or date and time for ``D``, ``h`` and ``min``, from which periods are counted. ``16D`` starts there; ``W``,
        ``MS``, ``QS`` and ``YS`` start with the period that holds it, which matters where there is a number in front.

    Raises
    ------
    UnknownNameError
        For anything else, frequencies that mark the ends of periods (``ME``) among it.
    CubeError
        For an origin that is no date.
    """
    count, unit, anchor = _parsed(freq)
    times = np.array(time_ms, "M8[ms]")
    zero = _origin(origin, whole_days=unit not in ("D", "h", "min"))
    if unit in _UNIT_MS:
        length = count * _UNIT_MS[unit]
        first = zero.astype(np.int64) if anchor is None else _weekday_before(zero, anchor).astype(np.int64)
        at = (times.astype(np.int64) - first) // length
        edges = first + np.stack([at, at + 1], axis=-1) * length
    else:
        length = count * _UNIT_MONTHS[unit]
        month = zero.astype("M8[M]").astype(np.int64)
        first = month if anchor is None else month - (month - anchor) % _UNIT_MONTHS[unit]
        at = (times.astype("M8[M]").astype(np.int64) - first) // length
        edges = (first + np.stack([at, at + 1], axis=-1) * length).astype("M8[M]").astype("M8[ms]").astype(np.int64)
    _, where, bin_of = np.unique(at, return_index=True, return_inverse=True)
    bounds = tuple((int(a), int(b)) for a, b in edges[where].reshape(-1, 2))
    return Bins(start_ms=tuple(a for a, _ in bounds), bounds_ms=bounds, bin_of=tuple(int(i) for i in bin_of))


def _parsed(freq: str) -> tuple[int, str, int | None]:
    """Number, unit, and day of the week (0 = Monday) or month (0 = January) at which periods start; None where it is free."""
    found = _ALIAS.fullmatch(freq) if isinstance(freq, str) else None
    if found is None:
        raise UnknownNameError("freq", freq, KNOWN, "pandas' aliases that start periods (MS, not ME)")
    number, unit, anchor = found.groups()
    names = {"W": _WEEKDAYS, "QS": _MONTHS, "YS": _MONTHS}.get(unit, ())
    count = int(number or 1)
    if count < 1 or (anchor is not None and anchor not in names):
        raise UnknownNameError("freq", freq, KNOWN, "pandas' aliases that start periods (MS, not ME)")
    if not names:
        return count, unit, None
    return count, unit, names.index(anchor) if anchor else names.index("SUN" if unit == "W" else "JAN")


def _origin(origin: str, *, whole_days: bool) -> np.datetime64:
    try:
        when = dt.datetime.fromisoformat(origin)
    except (ValueError, TypeError) as e:
        raise CubeError(f"Origin {origin!r} of the periods is no ISO date, such as '1970-01-01'.") from e
    if when.tzinfo is not None or (whole_days and when.time() != dt.time()):
        raise CubeError(
            f"Origin {origin!r} of the periods must be a plain date (UTC, without a time of day), such as '1970-01-01'."
        )
    return np.datetime64(when, "ms")


def _weekday_before(day: np.datetime64, weekday: int) -> np.datetime64:
    """The last day of that name that is not after ``day``; 1970-01-01 was a Thursday."""
    number = int(day.astype("M8[D]").astype(np.int64))
    return np.datetime64(number - (number + 3 - weekday) % 7, "D").astype("M8[ms]")


def lengths(periods: Bins) -> npt.NDArray[np.int64]:
    """Number of dates in each period."""
    return np.bincount(np.array(periods.bin_of, np.int64), minlength=len(periods.start_ms))
