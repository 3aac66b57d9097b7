"""Floats that came from integers, back to those integers, and how far they were from any."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from eocube.kernels.arrays import Float32Array
from eocube.kernels.jit import compiled


def to_integers(values: Float32Array, steps: float, *, most: int, fill: int) -> tuple[npt.NDArray[np.uint16], float]:
    """``values × steps`` as whole numbers.

    Parameters
    ----------
    values
        float32, any shape; NaN where there is no data.
    steps
        How many make one: 10,000 for reflectance in steps of 0.0001.
    most
        Greatest number that is data.
    fill
        What NaN becomes.

    Returns
    -------
    uint16 of that shape, and the greatest distance of a product from the number that it became, in steps: infinite where one is
    negative by more than half a step, beyond ``most``, or infinite itself.
    """
    out = np.empty(values.shape, np.uint16)
    off = _to_integers(np.ascontiguousarray(values).reshape(-1), float(steps), most, fill, out.reshape(-1))
    return out, off


@compiled
def _to_integers(values: Float32Array, steps: float, most: int, fill: int, out: npt.NDArray[np.uint16]) -> float:
    worst = 0.0
    for i in range(values.size):
        value = values[i]
        if value != value:
            out[i] = fill
            continue
        product = value * steps
        whole = np.rint(product)
        if not 0.0 <= whole <= most:
            worst = math.inf
            out[i] = fill
            continue
        off = abs(product - whole)
        worst = max(worst, off)
        out[i] = np.uint16(whole)
    return worst
