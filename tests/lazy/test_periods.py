"""Periods are pandas' own, but counted from a fixed origin."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from eocube.errors import CubeError, UnknownNameError
from eocube.lazy.periods import Bins, bins, lengths

FREQS = ("D", "16D", "12h", "90min", "W", "W-WED", "2W", "MS", "1MS", "2MS", "QS", "QS-DEC", "QS-FEB", "YS", "YS-OCT", "2YS")

instants = st.datetimes(dt.datetime(1900, 1, 1), dt.datetime(2100, 1, 1)).map(lambda d: d.replace(microsecond=0))  # noqa: DTZ001


decades = st.datetimes(dt.datetime(1955, 1, 1), dt.datetime(1985, 1, 1)).map(lambda d: d.replace(microsecond=0))  # noqa: DTZ001
"""Near 1970: pandas makes every period between two dates."""


def ms(dates: list[dt.datetime]) -> tuple[int, ...]:
    return tuple(int(t) for t in np.array(sorted(set(dates)), "M8[ms]").astype("i8"))


def stamps(time_ms: tuple[int, ...]) -> pd.DatetimeIndex:
    return pd.to_datetime(list(time_ms), unit="ms")


@settings(deadline=None, max_examples=60)
@given(st.lists(instants, min_size=1, max_size=30), st.sampled_from(FREQS))
def test_every_date_is_in_its_half_open_bounds_and_periods_do_not_overlap(dates: list[dt.datetime], freq: str) -> None:
    time_ms = ms(dates)
    found = bins(time_ms, freq)
    for t, b in zip(time_ms, found.bin_of, strict=True):
        start, end = found.bounds_ms[b]
        assert start <= t < end
    assert found.start_ms == tuple(a for a, _ in found.bounds_ms)
    assert all(end <= start for (_, end), (start, _) in zip(found.bounds_ms, found.bounds_ms[1:], strict=False))
    assert sorted(set(found.bin_of)) == list(range(len(found.start_ms)))
    assert list(found.bin_of) == sorted(found.bin_of)
    assert list(lengths(found)) == [found.bin_of.count(b) for b in range(len(found.start_ms))]


@settings(deadline=None, max_examples=60)
@given(st.lists(instants, min_size=2, max_size=30), st.sampled_from(FREQS), st.integers(1, 20))
def test_a_series_that_starts_later_has_the_same_periods(dates: list[dt.datetime], freq: str, drop: int) -> None:
    time_ms = ms(dates)
    assume(drop < len(time_ms))
    whole, part = bins(time_ms, freq), bins(time_ms[drop:], freq)
    assert [part.bounds_ms[b] for b in part.bin_of] == [whole.bounds_ms[b] for b in whole.bin_of[drop:]]


@settings(deadline=None, max_examples=60)
@given(st.lists(instants, min_size=1, max_size=30), st.sampled_from(["MS", "QS", "QS-DEC", "QS-FEB", "YS", "YS-OCT", "D"]))
def test_calendar_periods_are_those_of_pandas(dates: list[dt.datetime], freq: str) -> None:
    _same_as_pandas(ms(dates), freq, pd.Grouper(freq=freq))


@settings(deadline=None, max_examples=60)
@given(st.lists(decades, min_size=1, max_size=30), st.sampled_from(["W", "W-WED"]))
def test_weeks_are_those_of_pandas_from_one_named_day_to_the_next(dates: list[dt.datetime], freq: str) -> None:
    _same_as_pandas(ms(dates), freq, pd.Grouper(freq=freq, closed="left", label="left"))


@settings(deadline=None, max_examples=60)
@given(
    st.lists(instants, min_size=1, max_size=12),
    st.sampled_from(["16D", "5D", "12h", "90min"]),
    st.datetimes(dt.datetime(1960, 1, 1), dt.datetime(2020, 1, 1)).map(lambda d: d.replace(microsecond=0)),  # noqa: DTZ001
)
def test_fixed_lengths_are_those_of_pandas_from_the_same_origin(dates: list[dt.datetime], freq: str, origin: dt.datetime) -> None:
    spread = pd.Timedelta(days=2_000)  # pandas makes every period in between
    kept = [d for d in dates if d - min(dates) < spread]
    _same_as_pandas(ms(kept), freq, pd.Grouper(freq=freq, origin=pd.Timestamp(origin)), origin.isoformat())


def _same_as_pandas(time_ms: tuple[int, ...], freq: str, grouper: pd.Grouper, origin: str = "1970-01-01") -> None:
    found = bins(time_ms, freq, origin)
    counts = pd.Series(1, index=stamps(time_ms)).groupby(grouper).sum()
    counts = counts[counts > 0]
    assert list(stamps(found.start_ms)) == list(counts.index)
    assert list(lengths(found)) == list(counts)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(instants, min_size=1, max_size=30),
    st.sampled_from([("2MS", "MS", 2), ("3YS", "YS", 3), ("3QS-DEC", "QS-DEC", 3), ("2YS-OCT", "YS-OCT", 2)]),
)
def test_several_months_are_counted_from_the_period_that_holds_the_origin(
    dates: list[dt.datetime], freq: tuple[str, str, int]
) -> None:
    several, one, n = freq
    time_ms = ms(dates)
    singles = pd.date_range("1890-01-01", "2110-01-01", freq=one)
    number = np.searchsorted(singles, stamps(time_ms), side="right") - 1
    zero = int(np.searchsorted(singles, stamps((0,)), side="right")[0]) - 1
    expected = [singles[zero + (k - zero) // n * n] for k in number]
    found = bins(time_ms, several)
    assert [stamps((found.start_ms[b],))[0] for b in found.bin_of] == expected


def test_dates_before_1970_and_on_the_edges_fall_where_a_calendar_says() -> None:
    dates = ["1969-11-30T23:59:59", "1969-12-01", "1970-01-01", "1970-02-28T23:59:59.999", "1970-03-01"]
    found = bins(tuple(int(np.datetime64(d, "ms").astype("i8")) for d in dates), "QS-DEC")
    assert found.bin_of == (0, 1, 1, 1, 2)
    assert [str(np.datetime64(t, "ms"))[:10] for t in found.start_ms] == ["1969-09-01", "1969-12-01", "1970-03-01"]


def test_no_dates_have_no_periods() -> None:
    assert bins((), "MS") == Bins((), (), ())


@pytest.mark.parametrize(
    "freq",
    ["ME", "1ME", "QE", "QE-DEC", "YE", "SME", "BME", "M", "Q", "Y", "A", "H", "T", "ms", "m", "month", "", "0MS", "-1MS", "1.5D",
     "MS-JAN", "D-MON", "W-JAN", "QS-MON", "YS-XYZ", "1D12h", "BMS", "WOM-1MON", 5, None, pd.offsets.MonthBegin()],
)  # fmt: skip
def test_ends_of_periods_and_nonsense_are_refused_naming_known_frequencies(freq: object) -> None:
    with pytest.raises(UnknownNameError, match=r"Unknown freq .*'MS'.*'QS-DEC'"):
        bins((0,), freq)  # type: ignore[arg-type]


@pytest.mark.parametrize("origin", ["yesterday", "", "NaT", "1970-01-01T00:00:00Z", "1970-13-01", None, 0])
def test_an_origin_that_is_no_date_is_refused(origin: object) -> None:
    with pytest.raises(CubeError, match="Origin"):
        bins((0,), "D", origin)  # type: ignore[arg-type]


@pytest.mark.parametrize("freq", ["W", "MS", "QS", "YS"])
def test_an_origin_with_a_time_of_day_is_refused_where_periods_are_whole_days(freq: str) -> None:
    with pytest.raises(CubeError, match="time of day"):
        bins((0,), freq, "1970-01-01T12:00")
    assert bins((0,), "D", "1970-01-01T12:00").start_ms == (-43_200_000,)


def test_a_later_origin_shifts_periods_that_are_counted_from_it() -> None:
    day = int(np.datetime64("2020-03-05", "ms").astype("i8"))
    assert [str(np.datetime64(bins((day,), f, "2020-02-03").start_ms[0], "ms"))[:10] for f in ("16D", "2MS", "2W", "MS")] == [
        "2020-02-19",
        "2020-02-01",
        "2020-03-01",
        "2020-03-01",
    ]
