"""Which pixels are usable: class maps to masks, masks to blanks and shares."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from eocube.errors import GridError
from eocube.kernels.arrays import AnyArray, BoolArray, UInt8Array, nodata_of
from eocube.kernels.jit import compiled


def is_class(class_map: AnyArray, classes: Iterable[int]) -> BoolArray:
    """Tell which pixels of a class map belong to one of ``classes``.

    Parameters
    ----------
    class_map
        Whole numbers, any shape (a Sentinel-2 scene classification, say).
    classes
        Class values; values the map's dtype cannot hold match nothing, no classes match nothing.

    Returns
    -------
    True where the pixel's class is listed, same shape.
    """
    if class_map.dtype.kind not in "iu" or class_map.dtype.itemsize > 2:
        return np.isin(class_map, np.array(sorted(set(classes)), np.int64))
    # A table of every class is many times faster than a search; NumPy's take would make eight bytes of every pixel.
    bounds = np.iinfo(class_map.dtype)
    listed = np.zeros(bounds.max - bounds.min + 1, bool)
    listed[[c for c in set(classes) if bounds.min <= c <= bounds.max]] = True
    found = np.empty(class_map.shape, bool)
    native = np.ascontiguousarray(class_map, class_map.dtype.newbyteorder("="))
    _look_up(listed, native.reshape(-1).view(f"u{native.itemsize}"), found.reshape(-1))
    return found


def valid_of(data: AnyArray, nodata: float | None) -> BoolArray:
    """Tell which pixels are data.

    Parameters
    ----------
    data
        Any shape, any dtype.
    nodata
        The value of a pixel without data; None where every value is data. NaN in float data is never data, whatever
        ``nodata`` says, so that it cannot win a statistic.

    Returns
    -------
    True where the pixel is data, same shape.
    """
    if nodata is None or math.isnan(nodata):
        return ~np.isnan(data) if data.dtype.kind == "f" else np.ones(data.shape, bool)
    valid: BoolArray = data != nodata
    if data.dtype.kind == "f":
        valid &= ~np.isnan(data)
    return valid


def blank(data: AnyArray, bad: BoolArray, *, nodata: float) -> AnyArray:
    """Copy ``data`` with ``nodata`` at bad pixels.

    Parameters
    ----------
    data
        ``(time, band, y, x)`` or ``(time, y, x)``.
    bad
        True = take the pixel out, in every band: ``(time, y, x)``.
    nodata
        What bad pixels become; must fit the dtype of ``data``.

    Returns
    -------
    A new array, shape and dtype of ``data``.

    Raises
    ------
    GridError
        If ``bad`` has other dates, rows or columns than ``data``.
    RadiometryError
        If ``nodata`` does not fit the dtype.
    """
    if bad.ndim != 3 or data.ndim not in (3, 4) or data.shape[:1] + data.shape[-2:] != bad.shape:
        raise GridError(
            f"A mask of shape {bad.shape} was given for data of shape {data.shape}; it must be (time, y, x) of the data. "
            "Bring both onto the same dates and grid first."
        )
    out = np.empty(data.shape, data.dtype)
    fill = nodata_of(nodata, data.dtype)
    dates, pixels = data.shape[0], math.prod(data.shape[-2:])
    by_pixel = (dates, data.shape[1] if data.ndim == 4 else 1, pixels)
    whole_data, whole_bad = np.ascontiguousarray(data), np.ascontiguousarray(bad)
    _blank(whole_data.reshape(by_pixel), whole_bad.reshape(dates, pixels), fill, out.reshape(by_pixel))
    return out


def clear_percent(clear: BoolArray, cell_px: int) -> UInt8Array:
    """Share of clear pixels in square cells, in whole percent, rounded down.

    Parameters
    ----------
    clear
        True = usable pixel, ``(time, y, x)``.
    cell_px
        Edge of a cell in pixels. Cells start at pixel (0, 0); the last ones may stick out, and count only the pixels that
        exist.

    Returns
    -------
    uint8 0-100, ``(time, ceil(y / cell_px), ceil(x / cell_px))``. 100 means every pixel, never "nearly every".

    Notes
    -----
    A block gives the same cells as the whole image if it starts on a multiple of ``cell_px``.
    """
    ny, nx = clear.shape[-2:]
    cells_y, cells_x = -(-ny // cell_px), -(-nx // cell_px)
    percent = np.empty((clear.shape[0], cells_y, cells_x), np.uint8)
    _percent(np.ascontiguousarray(clear), cell_px, percent)
    return percent


@compiled
def _look_up(listed: BoolArray, classes: AnyArray, found: BoolArray) -> None:
    """Write into ``found`` what ``listed`` says of each class, a negative one counted from the end."""
    for i in range(classes.size):
        found[i] = listed[classes[i]]


@compiled
def _blank(data: AnyArray, bad: BoolArray, nodata: Any, out: AnyArray) -> None:
    """Write ``data`` (time, band, pixel) into ``out`` with ``nodata`` where ``bad`` (time, pixel)."""
    for t in range(data.shape[0]):
        for band in range(data.shape[1]):
            row = data[t, band]
            out_row = out[t, band]
            for x in range(row.size):
                value = row[x]
                out_row[x] = nodata if bad[t, x] else value


@compiled
def _percent(clear: BoolArray, cell_px: int, percent: UInt8Array) -> None:
    """Write the percentage of True of each cell of ``clear`` (time, y, x)."""
    dates, ny, nx = clear.shape
    counts = np.empty(percent.shape[2], np.int64)
    for t in range(dates):
        for cell_y in range(percent.shape[1]):
            first_y, stop_y = cell_y * cell_px, min(ny, (cell_y + 1) * cell_px)
            counts[:] = 0
            for y in range(first_y, stop_y):
                row = clear[t, y]
                for cell_x in range(counts.size):
                    n = 0
                    for x in range(cell_x * cell_px, min(nx, (cell_x + 1) * cell_px)):
                        n += row[x]
                    counts[cell_x] += n
            for cell_x in range(counts.size):
                pixels = (stop_y - first_y) * (min(nx, (cell_x + 1) * cell_px) - cell_x * cell_px)
                percent[t, cell_y, cell_x] = 100 * counts[cell_x] // pixels
