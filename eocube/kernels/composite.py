"""Statistics over time of masked pixels.

The median sorts all dates of a few hundred neighbouring pixels at once with a sorting network: a fixed list of
compare-and-swap steps that does not depend on the values, so that each step is one vector minimum and one vector maximum
over the pixels. Masked observations become the largest value of the dtype and end up behind the clear ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from eocube.errors import CubeError, GridError
from eocube.kernels.arrays import AnyArray, BoolArray, Float64Array, UInt16Array, nodata_of
from eocube.kernels.jit import compiled
from eocube.kernels.masking import valid_of

DTYPES = ("uint8", "uint16", "int16", "float32", "float64")
"""Dtypes that can be composited."""

MAX_DATES = 65_535
"""Most dates in one composite: the largest count that uint16 holds."""

_LANES = 512
"""Pixels sorted side by side, where dates are not many: 60 dates of uint16 are 61 kB, about a first-level cache."""

_BUFFER_BYTES = 1 << 20
"""Most bytes sorted at a time, about a second-level cache; never fewer than 16 pixels (8 MiB at ``MAX_DATES``)."""

_SLAB_BYTES = 8 << 20
"""Most bytes of a strided input that are copied into one piece at a time."""


def median_over_time(data: AnyArray, valid: BoolArray | None = None, *, nodata: float) -> AnyArray:
    """Median over the clear dates of each pixel.

    Parameters
    ----------
    data
        ``(time, band, y, x)`` of one of ``DTYPES``, at most ``MAX_DATES`` dates.
    valid
        True = may be used, ``(time, band, y, x)`` or ``(time, 1, y, x)``; None = every observation with data. An observation
        that is ``nodata`` or NaN is never used, whatever ``valid`` says.
    nodata
        Value of an observation without data, and of a pixel without a clear date; must fit the dtype.

    Returns
    -------
    ``(band, y, x)`` in the dtype of ``data``. Of an even number of dates the two middle values a, b are averaged: floats as
    ``(a + b) * 0.5`` in their own dtype, integers exactly and then rounded half to even. Negative zero counts as zero.

    Raises
    ------
    CubeError
        If the dtype is not in ``DTYPES`` or there are too many dates.
    GridError
        If ``valid`` does not fit ``data``.
    RadiometryError
        If ``nodata`` does not fit the dtype.

    Notes
    -----
    One thread, without the interpreter lock; needs memory for a few results and a small buffer. A pixel's result depends on
    that pixel alone, so blocks give the bits of the whole.

    The network is Batcher's odd-even merge sort (K. E. Batcher, "Sorting networks and their applications", AFIPS Spring Joint
    Computing Conference 1968), cut to the number of dates.
    """
    fill = _check(data, valid, nodata)
    median = np.empty(data.shape[1:], data.dtype)
    steps = _network(data.shape[0])
    top = data.dtype.type(np.inf if data.dtype.kind == "f" else np.iinfo(data.dtype).max)
    for rows, part, part_valid in _pieces(data, valid):
        found = np.empty(part.shape[1:], data.dtype)
        for some in _runs(*part.shape[1:]):
            lower, upper = _middle_pair(part, part_valid, fill, top, steps, (some.start, some.stop))
            found[:, some] = _average(lower, upper)
        median[:, rows] = found.reshape(median[:, rows].shape)
    return median


def mean_over_time(data: AnyArray, valid: BoolArray | None = None, *, nodata: float) -> AnyArray:
    """Mean over the clear dates of each pixel.

    Parameters
    ----------
    data, valid, nodata
        As in :func:`median_over_time`.

    Returns
    -------
    ``(band, y, x)`` in the dtype of ``data``. Values are added in float64 in the order of the dates and divided by their
    number; integers are then rounded half to even.

    Raises
    ------
    CubeError, GridError, RadiometryError
        As in :func:`median_over_time`.
    """
    fill = _check(data, valid, nodata)
    mean = np.empty(data.shape[1:], data.dtype)
    for rows, part, part_valid in _pieces(data, valid):
        found = np.empty(part.shape[1:], data.dtype)
        for some in _runs(*part.shape[1:]):
            total = np.zeros((part.shape[1], some.stop - some.start), np.float64)
            count = np.zeros(total.shape, np.uint16)
            _total(part, part_valid, fill, some.start, total, count)
            found[:, some] = _quotient(total, count, fill)
        mean[:, rows] = found.reshape(mean[:, rows].shape)
    return mean


def count_valid(data: AnyArray, valid: BoolArray | None = None, *, nodata: float) -> UInt16Array:
    """Number of dates on which every band of a pixel can be used.

    Parameters
    ----------
    data, valid, nodata
        As in :func:`median_over_time`.

    Returns
    -------
    uint16 ``(y, x)``; 0 for data without dates.

    Raises
    ------
    CubeError, GridError, RadiometryError
        As in :func:`median_over_time`.
    """
    fill = _check(data, valid, nodata)
    count = np.zeros(data.shape[2:], np.uint16)
    for t in range(data.shape[0]):
        usable = valid_of(data[t], fill)
        if valid is not None:
            usable &= valid[t]
        count += usable.all(axis=0)
    return count


def _check(data: AnyArray, valid: BoolArray | None, nodata: float) -> Any:
    """Refuse what the kernels cannot take; give nodata as a scalar of the dtype."""
    if data.ndim != 4:
        raise CubeError(f"Data of shape {data.shape} cannot be composited; the dims are time, band, y, x.")
    if data.dtype.name not in DTYPES:
        raise CubeError(f"Data of dtype {data.dtype} cannot be composited; convert to one of {', '.join(DTYPES)} first.")
    if data.shape[0] > MAX_DATES:
        raise CubeError(f"{data.shape[0]} dates in one composite are more than {MAX_DATES}; choose a shorter period.")
    if valid is not None and (valid.dtype != bool or valid.shape not in (data.shape, (data.shape[0], 1, *data.shape[2:]))):
        raise GridError(
            f"A {valid.dtype} mask of shape {valid.shape} was given for data of shape {data.shape}; it must be bool with the "
            "dates, rows and columns of the data and all of its bands or one."
        )
    return nodata_of(nodata, data.dtype)


def _pieces(data: AnyArray, valid: BoolArray | None) -> Iterator[tuple[slice, AnyArray, BoolArray]]:
    """Rows, their data ``(time, band, pixel)`` in one piece, and their mask, with no band at all where there is none.

    Contiguous input is passed on as it is; of strided input a few rows at a time are copied.
    """
    dates, bands, ny, nx = data.shape
    mask = np.empty((dates, 0, ny, nx), bool) if valid is None else valid
    whole = data.flags.c_contiguous and mask.flags.c_contiguous
    row_bytes = max(1, dates * nx * (bands * data.itemsize + mask.shape[1]))
    step = max(1, ny if whole else _SLAB_BYTES // row_bytes)
    for start in range(0, ny, step):
        rows = slice(start, min(start + step, ny))
        pixels = (rows.stop - rows.start) * nx
        part = np.ascontiguousarray(data[:, :, rows]).reshape(dates, bands, pixels)
        yield rows, part, np.ascontiguousarray(mask[:, :, rows]).reshape(dates, mask.shape[1], pixels)


def _runs(bands: int, pixels: int) -> Iterator[slice]:
    """Pixels some at a time: what a statistic holds on its way is wider than its result."""
    step = max(_LANES, _BUFFER_BYTES // (8 * max(1, bands)))
    return (slice(start, min(start + step, pixels)) for start in range(0, pixels, step))


def _average(lower: AnyArray, upper: AnyArray) -> AnyArray:
    """Middle of two middle values, in their dtype."""
    if lower.dtype.kind == "f":
        with np.errstate(over="ignore", invalid="ignore"):
            # Equal values stay: so does a nodata value whose double is not a number of the dtype.
            return np.where(lower == upper, lower, (lower + upper) * lower.dtype.type(0.5))
    total = lower.astype(np.int32) + upper
    half = total >> 1
    return (half + (total & half & 1)).astype(lower.dtype)


def _quotient(total: Float64Array, count: UInt16Array, fill: Any) -> AnyArray:
    """Mean in the dtype of ``fill``, which stands where there was nothing to count."""
    mean = total / np.maximum(count, 1)
    if fill.dtype.kind != "f":
        mean = np.rint(mean)
    return np.where(count > 0, mean.astype(fill.dtype), fill)


@compiled
def _network(n: int) -> npt.NDArray[np.int32]:
    """Batcher's odd-even merge sort of ``n`` values: rows (i, j), i < j, put the smaller value at i and the larger at j.

    The network for the next power of two, without the comparisons that touch a value beyond ``n``: those would sit at the
    end as infinities and never move.
    """
    size = 1
    doublings = 0
    while size < n:
        size *= 2
        doublings += 1
    # doublings * (doublings + 1) / 2 rounds, in each of which a value is compared at most once.
    steps = np.empty((n * doublings * (doublings + 1) // 4, 2), np.int32)
    k = 0
    merged = 1
    while merged < size:
        gap = merged
        while gap >= 1:
            for first in range(gap % merged, size - gap, 2 * gap):
                for i in range(first, min(first + gap, n - gap)):
                    if i // (2 * merged) == (i + gap) // (2 * merged):
                        steps[k, 0] = i
                        steps[k, 1] = i + gap
                        k += 1
            gap //= 2
        merged *= 2
    return steps[:k].copy()


@compiled
def _usable(row: AnyArray, mask: BoolArray, nodata: Any, use: BoolArray) -> None:
    """Write into ``use`` which values of a row of pixels may be used; an empty ``mask`` says nothing."""
    for x in range(row.size):
        use[x] = (row[x] != nodata) & (not np.isnan(row[x]))
    if mask.size > 0:
        for x in range(row.size):
            use[x] &= mask[x]


@compiled
def _mask_row(valid: BoolArray, t: int, band: int, start: int, stop: int) -> BoolArray:
    """Pixels of the mask of one date, which has every band, one for all, or none (then there are no pixels)."""
    if valid.shape[1] == 0:
        nothing: BoolArray = valid[t].reshape(0)
        return nothing
    row: BoolArray = valid[t, min(band, valid.shape[1] - 1), start:stop]
    return row


@compiled
def _sort_lanes(values: AnyArray, steps: npt.NDArray[np.int32], lanes: int) -> None:
    """Sort each of the first ``lanes`` columns of ``values`` (date, lane), all in step."""
    for k in range(steps.shape[0]):
        low = values[steps[k, 0]]
        high = values[steps[k, 1]]
        for x in range(lanes):
            a = low[x]
            b = high[x]
            swap = b < a
            low[x] = b if swap else a
            high[x] = a if swap else b


@compiled
def _middle_pair(
    data: AnyArray, valid: BoolArray, nodata: Any, top: Any, steps: npt.NDArray[np.int32], span: tuple[int, int]
) -> tuple[AnyArray, AnyArray]:
    """Find the two middle clear values of the pixels of ``span``, each (band, pixel); both ``nodata`` where no date is clear.

    ``data`` is (time, band, pixel), ``valid`` the same or with one band or none, ``top`` a value that nothing exceeds. A
    clear value equal to ``top`` is harmless: it ties with the masked ones, and only values among the first n are picked.
    """
    dates, bands, _ = data.shape
    first, end = span
    zero = data.dtype.type(0)
    lower = np.empty((bands, end - first), data.dtype)
    upper = np.empty((bands, end - first), data.dtype)
    lanes = max(16, min(_LANES, _BUFFER_BYTES // (max(dates, 1) * data.itemsize)))
    values = np.empty((dates, lanes), data.dtype)
    use = np.empty(lanes, np.bool_)
    count = np.empty(lanes, np.uint16)
    for start in range(first, end, lanes):
        stop = min(start + lanes, end)
        for band in range(bands):
            count[:] = 0
            for t in range(dates):
                row = data[t, band, start:stop]
                _usable(row, _mask_row(valid, t, band, start, stop), nodata, use)
                value_row = values[t]
                for x in range(stop - start):
                    value = row[x] + zero
                    value_row[x] = value if use[x] else top
                    count[x] += np.uint16(use[x])
            _sort_lanes(values, steps, stop - start)
            for x in range(stop - start):
                n = np.int64(count[x])
                lower[band, start - first + x] = values[(n - 1) // 2, x] if n > 0 else nodata
                upper[band, start - first + x] = values[n // 2, x] if n > 0 else nodata
    return lower, upper


@compiled
def _total(data: AnyArray, valid: BoolArray, nodata: Any, first: int, total: Float64Array, count: UInt16Array) -> None:
    """Add the clear values of pixels from ``first`` on to ``total`` and their number to ``count``, both (band, pixel).

    Date by date.
    """
    dates, bands, _ = data.shape
    end = first + total.shape[1]
    use = np.empty(_LANES, np.bool_)
    for start in range(first, end, _LANES):
        stop = min(start + _LANES, end)
        for band in range(bands):
            sums = total[band, start - first : stop - first]
            counts = count[band, start - first : stop - first]
            for t in range(dates):
                row = data[t, band, start:stop]
                _usable(row, _mask_row(valid, t, band, start, stop), nodata, use)
                for x in range(stop - start):
                    value = np.float64(row[x])
                    sums[x] += value if use[x] else 0.0
                    counts[x] += np.uint16(use[x])
