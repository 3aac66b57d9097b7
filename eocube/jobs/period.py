"""Periods as users write them: ``FIRST/LAST`` in ISO dates."""

from __future__ import annotations

import datetime as dt
import re

from eocube.errors import CatalogError

_DAY_MS = 86_400_000


def parse_period(text: str) -> tuple[float, float]:
    """``FIRST/LAST`` → half-open [start, end) in ms since 1970-01-01 UTC; a date without a time means its whole day, and so on.

    CatalogError where an end is no ISO date or the first is after the last.
    """
    first, slash, last = text.partition("/")
    start = -float("inf") if first in ("", "..") and slash else _moment(first, text)[0]
    end = float("inf") if last in ("", "..") and slash else _moment(last if slash else first, text)[1]
    if start >= end:
        raise CatalogError(f"The time {text!r} ends before it begins; write FIRST/LAST.")
    return start, end


def _moment(text: str, whole: str) -> tuple[float, float]:
    """(start, end) in ms of what a text names: a year, a month, a day, or one millisecond."""
    part = re.fullmatch(r"(\d{4})(?:-(\d\d))?", text)
    try:
        if part is not None:
            year, month = int(part[1]), int(part[2] or 1)
            months = 12 * year + month - 1 + (1 if part[2] else 12)
            return _ms(dt.datetime(year, month, 1)), _ms(dt.datetime(months // 12, months % 12 + 1, 1))  # noqa: DTZ001
        when = dt.datetime.fromisoformat(text)
    except ValueError as e:
        raise CatalogError(f"{text!r} in time {whole!r} is no ISO date; write FIRST/LAST as in 2019-04-01/2019-09-30.") from e
    start = _ms(when)
    return start, start + (_DAY_MS if re.fullmatch(r"[\dW-]+", text) else 1)


def _ms(when: dt.datetime) -> int:
    return round((when if when.tzinfo else when.replace(tzinfo=dt.UTC)).timestamp() * 1000)
