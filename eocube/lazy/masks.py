"""Steps on masks: clouds out, and how much is clear."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from eocube.errors import CubeError, UnknownNameError
from eocube.kernels.masking import blank, is_class
from eocube.lazy.lift import by_band, data_variable, lift, with_data
from eocube.model.bands import SCL_CLASSES, SCL_CLEAR
from eocube.model.frame import BANDED_DIMS, MASK_DIMS, Frame
from eocube.model.recipe import step

METHODS = ("scl",)
Classes = Sequence[int | str]


def mask_clouds(cube: xr.Dataset, method: str = "scl", clear: Classes = SCL_CLEAR) -> xr.Dataset:
    """Take out what is not clear ground: nodata in every band.

    Parameters
    ----------
    cube
        ``data`` (time, band, y, x) with a nodata value, and the mask that ``method`` reads.
    method
        ``scl``: Sentinel-2 scene classification, variable ``scl`` (time, y, x).
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
        If the data has no nodata value to put there, or there is no Dataset to find the mask in.
    """
    _mask_name(cube, method)
    masked: xr.Dataset = _mask_clouds(cube, method=method, clear=clear_classes(clear))
    return masked


def _frame(frame: Frame, method: str, clear: Sequence[int]) -> Frame:  # noqa: ARG001 - a frame rule takes every argument
    frame.variable(method)
    _require_nodata(frame.data.nodata, frame.data.dtype)
    return frame


@step(frame=_frame, scratch_px=1, changes=("data",))
@by_band
def _mask_clouds(cube: xr.Dataset, method: str, clear: Sequence[int]) -> xr.Dataset:
    v = data_variable(cube)
    kernel = partial(_keep_classes, classes=tuple(clear), nodata=_require_nodata(v.nodata, v.dtype))
    return with_data(cube, lift(kernel, cube["data"], cube[method], dims=BANDED_DIMS, dtype=v.dtype), v)


def clear_fraction(cube: xr.Dataset, method: str = "scl", clear: Classes = SCL_CLEAR) -> xr.DataArray:
    """Share of clear pixels of each date, over all pixels of the cube, those without data among them.

    Parameters
    ----------
    cube, method, clear
        As in :func:`mask_clouds`.

    Returns
    -------
    float64 0-1 (time), lazy as the cube is.

    Raises
    ------
    UnknownNameError, CubeError
        As in :func:`mask_clouds`.
    """
    mask = cube[_mask_name(cube, method)]
    flags = lift(partial(is_class, classes=clear_classes(clear)), mask, dims=MASK_DIMS, dtype=bool)
    coords = {k: c for k, c in mask.coords.items() if c.dims == ("time",)}
    share = xr.DataArray(flags, dims=MASK_DIMS, coords=coords).mean(("y", "x"))
    share.attrs = {"long_name": "share of clear pixels", "units": "1"}
    return share.rename("clear_fraction")


def clear_classes(clear: Classes) -> tuple[int, ...]:
    """Class numbers of the scene classification, in order; UnknownNameError for a class that does not exist."""
    by_name = {name: number for number, name in SCL_CLASSES}
    out = {_class_number(c, by_name) for c in ([clear] if isinstance(clear, str | int) else clear)}
    if not out:
        raise UnknownNameError("scene class", clear, by_name, "the Sentinel-2 scene classification (at least one must stay)")
    return tuple(sorted(out))


def _class_number(c: Any, by_name: dict[str, int]) -> int:
    if isinstance(c, str) and c in by_name:
        return by_name[c]
    if isinstance(c, int | np.integer) and not isinstance(c, bool) and int(c) in by_name.values():
        return int(c)
    known = [f"{number} {name}" for name, number in by_name.items()]
    raise UnknownNameError("scene class", c, known, "the Sentinel-2 scene classification")


def _mask_name(cube: xr.Dataset, method: str) -> str:
    """The variable that a method reads."""
    if method not in METHODS:
        raise UnknownNameError("cloud mask method", method, METHODS, "mask_clouds")
    if not isinstance(cube, xr.Dataset):
        raise CubeError(
            f"Clouds are masked with variable {method!r} beside the data; this is a {type(cube).__name__}. Pass the Dataset."
        )
    if method not in cube.data_vars:
        masks = [str(k) for k in cube.data_vars if k != "data"]
        raise UnknownNameError("mask", method, masks, "this cube; load the scene classification with it")
    if set(cube[method].dims) != set(MASK_DIMS):
        raise CubeError(f"Mask {method!r} has dims {cube[method].dims}; it must be (time, y, x).")
    if cube[method].dtype.kind not in "iu":
        raise CubeError(
            f"Mask {method!r} is {cube[method].dtype}, and its classes are whole numbers. A mask opened with a _FillValue "
            "becomes floats: open it with mask_and_scale=False, or convert it."
        )
    return method


def _require_nodata(nodata: float | None, dtype: str) -> float:
    if nodata is None:
        raise CubeError(
            f"The cube's data ({dtype}) has no nodata value to put under clouds: use to_reflectance first (NaN), or state one "
            "(data.attrs['_FillValue'])."
        )
    return nodata


def _keep_classes(data: npt.NDArray, classes_map: npt.NDArray, *, classes: tuple[int, ...], nodata: float) -> npt.NDArray:
    bad = is_class(classes_map, classes)
    np.logical_not(bad, out=bad)
    return blank(data, bad, nodata=nodata)
