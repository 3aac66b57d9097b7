"""Steps for tests: one of two cubes at once, and user functions that keep or break their word."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from eocube.errors import UnknownNameError
from eocube.kernels.composite import mean_over_time
from eocube.lazy.graph_source import geobox_of
from eocube.lazy.lift import data_variable, lift, with_data
from eocube.model.frame import BANDED_DIMS, Frame, Variable
from eocube.model.recipe import step

ANOMALY = Variable(
    name="data", dtype="float32", banded=True, nodata=float("nan"), attrs=(("units", "1"), ("long_name", "anomaly"))
)


def _anomaly_frame(frame: Frame, reference: Frame) -> Frame:
    for band in frame.band_names:
        if band not in reference.band_names:
            raise UnknownNameError("band", band, reference.band_names, "the reference")
    return frame.with_(variables=tuple(ANOMALY if v.name == "data" else v for v in frame.variables))


@step(frame=_anomaly_frame, arg_times="all")
def subtract_reference(cube: xr.Dataset, reference: xr.Dataset) -> xr.Dataset:
    """Take the mean of a reference cube off every date.

    Parameters
    ----------
    cube
        ``data`` (time, band, y, x).
    reference
        The same bands and more, on other dates and pixels of another size. A pixel's reference is the pixel in which its
        centre lies.

    Returns
    -------
    ``data`` float32, NaN where either cube has no data. Masks come along.
    """
    bands = [str(b) for b in cube["band"].values]
    other = reference["data"].transpose(*BANDED_DIMS).isel(band=[list(reference["band"].values).index(b) for b in bands])
    mean = lift(_Mean(data_variable(reference).nodata), other, dims=("band", "y", "x"), dtype="float32", whole=("time", "band"))
    rows, columns = _pixels_below(cube, reference)
    if not mean.size:  # a window beside the reference
        mean = np.full((len(bands), 1, 1), np.nan, np.float32)
    lying = xr.DataArray(mean, dims=("band", "y", "x")).isel(y=np.maximum(rows, 0), x=np.maximum(columns, 0))
    lying = lying.where(xr.DataArray(rows >= 0, dims="y") & xr.DataArray(columns >= 0, dims="x"))
    values = lift(
        _Subtract(data_variable(cube).nodata), cube["data"].transpose(*BANDED_DIMS), lying, dims=BANDED_DIMS, dtype="float32"
    )
    return with_data(cube, values, ANOMALY)


def _pixels_below(cube: xr.Dataset, reference: xr.Dataset) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Row and column of the reference in which each row and column of the cube has its centre; -1 where there is none."""
    (ny, nx) = reference.sizes["y"], reference.sizes["x"]
    if not ny * nx:
        return np.full(cube.sizes["y"], -1), np.full(cube.sizes["x"], -1)
    a = geobox_of(reference).affine
    rows = np.floor((cube["y"].values - a.f) / a.e).astype(int)
    columns = np.floor((cube["x"].values - a.c) / a.a).astype(int)
    return np.where((rows >= 0) & (rows < ny), rows, -1), np.where((columns >= 0) & (columns < nx), columns, -1)


class _Mean:
    def __init__(self, nodata: float | None):
        self.nodata = nodata

    def __call__(self, values: npt.NDArray) -> npt.NDArray[np.float32]:
        mean = mean_over_time(_floats(values, self.nodata), nodata=float("nan"))
        return mean.astype(np.float32)


class _Subtract:
    def __init__(self, nodata: float | None):
        self.nodata = nodata

    def __call__(self, values: npt.NDArray, reference: npt.NDArray) -> npt.NDArray[np.float32]:
        return _floats(values, self.nodata) - reference


def _floats(values: npt.NDArray, nodata: float | None) -> npt.NDArray[np.float32]:
    out = values.astype(np.float32)
    if nodata is not None:
        out[values == nodata] = np.nan
    return out


# ------------------------------------------------------------------------------------------------ functions for apply


def doubled(cube: xr.Dataset) -> xr.Dataset:
    """A function of the pixel alone."""
    return cube.assign(data=(cube["data"].dims, cube["data"].values * np.array(2, cube["data"].dtype), cube["data"].attrs))


def smoothed(cube: xr.Dataset) -> xr.Dataset:
    """Mean of the 3 × 3 neighbours that exist: needs a halo of one pixel."""
    values = cube["data"].values.astype(np.float32)
    padded = np.pad(values, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=np.nan)
    ny, nx = values.shape[-2:]
    total, count = np.zeros_like(values), np.zeros_like(values)
    for dy in range(3):
        for dx in range(3):
            part = padded[..., dy : dy + ny, dx : dx + nx]
            total += np.nan_to_num(part)
            count += ~np.isnan(part)
    return cube.assign(data=(cube["data"].dims, total / count))


def centred(cube: xr.Dataset) -> xr.Dataset:
    """Breaks its word: takes off the mean of the whole image."""
    values = cube["data"].values.astype(np.float64)
    return cube.assign(data=(cube["data"].dims, values - values.mean(axis=(-2, -1), keepdims=True)))


def detrended(cube: xr.Dataset) -> xr.Dataset:
    """Breaks its word: takes off the mean over the dates that it happens to see."""
    values = cube["data"].values.astype(np.float64)
    return cube.assign(data=(cube["data"].dims, values - values.mean(axis=0, keepdims=True)))


def numbered(cube: xr.Dataset) -> xr.Dataset:
    """Breaks its word: looks at its pixels' place in the array."""
    ny, nx = cube.sizes["y"], cube.sizes["x"]
    place = np.arange(ny * nx, dtype=np.float64).reshape(ny, nx)
    return cube.assign(data=(cube["data"].dims, cube["data"].values + place))


def without_first_date(cube: xr.Dataset) -> xr.Dataset:
    """Breaks its word: drops a date."""
    return cube.isel(time=slice(1, None))


def ratio(cube: xr.Dataset) -> xr.DataArray:
    """Other bands, another dtype, a DataArray: near infrared over red."""
    data = cube["data"].astype("float32")
    with np.errstate(divide="ignore", invalid="ignore"):
        out = data.sel(band="nir", drop=True) / data.sel(band="red", drop=True)
    return out.expand_dims(band=["ratio"], axis=1)


def doubled_in_place(cube: xr.Dataset) -> xr.Dataset:
    """Changes what it is given."""
    cube["data"] *= 2
    return cube
