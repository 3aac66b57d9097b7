"""Which pixels are usable: class maps to masks, masks to blanks and shares."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from eocube.errors import GridError
from eocube.kernels.arrays import AnyArray, BoolArray, Float64Array, UInt8Array, nodata_of


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
    return np.isin(class_map, np.array(sorted(set(classes)), np.int64))


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
    valid = ~np.isnan(data) if data.dtype.kind == "f" else np.ones(data.shape, bool)
    if nodata is not None and not math.isnan(nodata):
        valid &= data != nodata
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
    return np.where(bad[:, None] if data.ndim == 4 else bad, nodata_of(nodata, data.dtype), data)


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
    starts_y, starts_x = np.arange(0, ny, cell_px), np.arange(0, nx, cell_px)
    counts = np.add.reduceat(clear, starts_y, axis=-2, dtype=np.int32)
    counts = np.add.reduceat(counts, starts_x, axis=-1)
    existing = np.outer(np.minimum(cell_px, ny - starts_y), np.minimum(cell_px, nx - starts_x))
    return (100 * counts.astype(np.int64) // existing).astype(np.uint8)


def fraction(flags: BoolArray) -> Float64Array:
    """Share of True pixels of each date.

    Parameters
    ----------
    flags
        ``(time, y, x)``.

    Returns
    -------
    float64 0-1, ``(time,)``; NaN where the image has no pixels.
    """
    counts = np.count_nonzero(flags, axis=(-2, -1)).astype(np.float64)
    pixels = flags.shape[-2] * flags.shape[-1]
    return counts / pixels if pixels else np.full(counts.shape, np.nan)
