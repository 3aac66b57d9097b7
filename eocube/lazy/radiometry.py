"""Steps on numbers: digital numbers to reflectance."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import xarray as xr

from eocube.errors import RadiometryError
from eocube.kernels.radiometry import dn_to_reflectance
from eocube.lazy.lift import by_band, data_variable, lift, with_data
from eocube.model.frame import BANDED_DIMS, Frame, Variable
from eocube.model.recipe import step


def reflectance_variable(v: Variable) -> Variable:
    """``v`` decoded: float32, NaN without data. RadiometryError where it has no scale, or is decoded already."""
    if v.scale is None:
        raise RadiometryError(
            f"The cube's data is {v.dtype} without a scale: it is reflectance already, or nothing says how to decode it. "
            "A cube of integers needs scale_factor and add_offset (attributes of data)."
        )
    return replace(v, dtype="float32", nodata=math.nan, scale=None, offset=None, attrs=(("units", "1"),))


def _frame(frame: Frame) -> Frame:
    decoded = reflectance_variable(frame.data)
    return frame.with_(variables=tuple(decoded if v.name == "data" else v for v in frame.variables))


@step(frame=_frame, changes=("data",))
@by_band
def to_reflectance(cube: xr.Dataset) -> xr.Dataset:
    """Decode digital numbers with the cube's own scale, offset and nodata.

    Parameters
    ----------
    cube
        ``data`` (time, band, y, x) of integers with CF ``scale_factor`` and ``add_offset``; masks come along.

    Returns
    -------
    The cube with ``data`` as float32 reflectance, about 0-1, negative values kept, NaN where there is no data.

    Raises
    ------
    RadiometryError
        If the cube has no scale.
    """
    v = data_variable(cube)
    decoded = reflectance_variable(v)
    kernel = partial(dn_to_reflectance, scale=v.scale or 1.0, offset=v.offset or 0.0, nodata=v.nodata)
    return with_data(cube, lift(kernel, cube["data"], dims=BANDED_DIMS, dtype="float32"), decoded)
