"""Array types by meaning, and whether a nodata value fits a dtype."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from eocube.errors import RadiometryError

AnyArray = npt.NDArray[Any]
BoolArray = npt.NDArray[np.bool_]
Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
UInt8Array = npt.NDArray[np.uint8]
UInt16Array = npt.NDArray[np.uint16]


def nodata_of(nodata: float, dtype: np.dtype[Any]) -> Any:
    """``nodata`` as a scalar of ``dtype``; RadiometryError if that dtype cannot hold it."""
    if dtype.kind in "iu":
        bounds = np.iinfo(dtype)
        if not float(nodata).is_integer() or not bounds.min <= nodata <= bounds.max:
            raise RadiometryError(
                f"Nodata {nodata!r} was asked for {dtype} pixels, which hold whole numbers from {bounds.min} to {bounds.max}. "
                "Pass a nodata value inside that range, or convert the pixels to a float dtype first."
            )
        return dtype.type(int(nodata))
    return dtype.type(nodata)
