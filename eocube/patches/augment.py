"""The eight symmetries of the square, the same on every array of a patch."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

N_SYMMETRIES = 8


def turned(values: npt.NDArray[Any], k: int) -> npt.NDArray[Any]:
    """Symmetry ``k`` (0 to 7; 0 leaves all as it is) of ``(..., y, x)`` with y = x: mirrored in x, in y, then transposed."""
    if k & 1:
        values = values[..., ::-1]
    if k & 2:
        values = values[..., ::-1, :]
    return np.swapaxes(values, -1, -2) if k & 4 else values


def symmetry_of(seed: int, epoch: int, patch: npt.NDArray[np.int64] | int) -> npt.NDArray[np.uint64]:
    """Which symmetry each patch is shown in: from seed, epoch and its place alone, whatever the order or the worker."""
    mixed = np.asarray(patch, np.uint64) + np.uint64((seed * 1_000_003 + epoch) & 0xFFFF_FFFF) * np.uint64(0x9E37_79B9)
    for shift, factor in ((30, 0xBF58_476D_1CE4_E5B9), (27, 0x94D0_49BB_1331_11EB)):  # SplitMix64's finalizer
        with np.errstate(over="ignore"):
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return (mixed ^ (mixed >> np.uint64(31))) % np.uint64(N_SYMMETRIES)
