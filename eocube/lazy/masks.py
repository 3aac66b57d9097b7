"""Steps on masks: clouds out, and how much is clear."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import xarray as xr

from eocube.errors import CubeError, UnknownNameError
from eocube.kernels.masking import blank, is_class
from eocube.lazy.lift import data_variable, lift, with_data
from eocube.model.bands import SCL_CLASSES, SCL_CLEAR
from eocube.model.frame import BANDED_DIMS, MASK_DIMS, Frame
from eocube.model.recipe import step

METHODS = ("scl",)


def _frame(frame: Frame, method: str, clear: Sequence[int | str]) -> Frame:
    _mask_name(method, [v.name for v in frame.masks])
    clear_classes(clear)
    _require_nodata(frame.data.nodata, frame.data.dtype)
    return frame


@step(frame=_frame)
def mask_clouds(cube: xr.Dataset, method: str = "scl", clear: Sequence[int | str] = SCL_CLEAR) -> xr.Dataset:
    """Take out what is not clear ground: nodata in every band.

    Parameters
    ----------
    cube
        ``data`` (time, band, y, x) with a nodata value, and the mask that ``method`` reads.
    method
        ``scl``: Sentinel-2 scene classification, variable ``scl``.
    clear
        Classes that stay, by number or name. Default: vegetation, not_vegetated, water, unclassified and snow_or_ice
        (4, 5, 6, 7, 11); no data, defective, dark area, shadow, clouds and cirrus (0-3, 8-10) go.

    Returns
    -------
    The cube; dtype and masks unchanged.

    Raises
    ------
    UnknownNameError
        For another method, a class that does not exist, or a cube without the mask.
    CubeError
        If the data has no nodata value to put there.
    """
    mask = _mask_name(method, [str(k) for k in cube.data_vars])
    v = data_variable(cube)
    nodata = _require_nodata(v.nodata, v.dtype)
    kernel = partial(_keep_classes, classes=clear_classes(clear), nodata=nodata)
    return with_data(cube, lift(kernel, cube["data"], cube[mask], dims=BANDED_DIMS, dtype=v.dtype), v)


def clear_fraction(cube: xr.Dataset, method: str = "scl", clear: Sequence[int | str] = SCL_CLEAR) -> xr.DataArray:
    """Share of clear pixels of each date, over all pixels of the cube.

    Parameters
    ----------
    cube, method, clear
        As in :func:`mask_clouds`.

    Returns
    -------
    float64 0-1 (time), lazy as the cube is.
    """
    mask = _mask_name(method, [str(k) for k in cube.data_vars])
    flags = lift(partial(is_class, classes=clear_classes(clear)), cube[mask], dims=MASK_DIMS, dtype=bool)
    share = xr.DataArray(flags, dims=MASK_DIMS, coords={"time": cube["time"]}).mean(("y", "x"))
    share.attrs = {"long_name": "share of clear pixels", "units": "1"}
    return share.rename("clear_fraction")


def clear_classes(clear: Sequence[int | str]) -> tuple[int, ...]:
    """Class numbers of the scene classification; UnknownNameError for a class that does not exist."""
    by_name = {name: number for number, name in SCL_CLASSES}
    out = []
    for c in clear:
        number = by_name.get(c) if isinstance(c, str) else int(c)
        if number is None or number not in by_name.values():
            raise UnknownNameError("scene class", c, by_name, "the Sentinel-2 scene classification")
        out.append(number)
    return tuple(sorted(set(out)))


def _mask_name(method: str, variables: Sequence[str]) -> str:
    if method not in METHODS:
        raise UnknownNameError("cloud mask method", method, METHODS, "mask_clouds")
    if method not in variables:
        raise UnknownNameError("mask", method, variables, "this cube; load the scene classification with it")
    return method


def _require_nodata(nodata: float | None, dtype: str) -> float:
    if nodata is None:
        raise CubeError(f"The cube's data ({dtype}) has no nodata value to put under clouds; use to_reflectance first (NaN).")
    return nodata


def _keep_classes(data: npt.NDArray, classes_map: npt.NDArray, *, classes: tuple[int, ...], nodata: float) -> npt.NDArray:
    bad: npt.NDArray[np.bool_] = ~is_class(classes_map, classes)
    return blank(data, bad, nodata=nodata)
