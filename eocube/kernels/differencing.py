"""Undo TIFF's horizontal differencing (Predictor 2): each number of a row was stored as its difference from the one before."""

from __future__ import annotations

from typing import Any

from eocube.kernels.arrays import AnyArray
from eocube.kernels.jit import compiled


def undo_differencing(stored: AnyArray, rows: slice, columns: slice, out: AnyArray) -> None:
    """Write a window of a differenced block into ``out``.

    Parameters
    ----------
    stored
        The block as stored, ``(y, x)``, one sample a pixel, integers of 1, 2 or 4 bytes in this machine's byte order.
    rows, columns
        Window of the block, with start and stop.
    out
        Array of the window's shape and of the block's dtype, changed in place; strided views are fine.

    Notes
    -----
    TIFF Revision 6.0, section 14, "Differencing Predictor": sums wrap around within the sample's bits.
    """
    unsigned = f"u{stored.dtype.itemsize}"
    block, target = stored.view(unsigned), out.view(unsigned)
    _sum_rows(block[rows, : columns.stop], columns.start, target)


@compiled
def _sum_rows(block: AnyArray, first_x: int, out: Any) -> None:
    """Running sums along x, four rows at a time: one row alone would wait for each sum before the next."""
    height, width = block.shape
    whole = height - height % 4
    zero = block.dtype.type(0)
    for y in range(0, whole, 4):
        a, b, c, d = zero, zero, zero, zero
        for x in range(width):
            a += block[y, x]
            b += block[y + 1, x]
            c += block[y + 2, x]
            d += block[y + 3, x]
            if x >= first_x:
                out[y, x - first_x] = a
                out[y + 1, x - first_x] = b
                out[y + 2, x - first_x] = c
                out[y + 3, x - first_x] = d
    for y in range(whole, height):
        a = zero
        for x in range(width):
            a += block[y, x]
            if x >= first_x:
                out[y, x - first_x] = a
