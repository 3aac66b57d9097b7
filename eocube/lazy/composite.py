"""Composites: one picture a period out of the clear observations of its dates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from dask.base import is_dask_collection

from eocube.errors import CubeError, UnknownNameError
from eocube.exec.labels import variable_attrs
from eocube.kernels.composite import DTYPES, count_valid, mean_over_time, median_over_time
from eocube.lazy.lift import by_band, data_variable, lift, times_ms
from eocube.lazy.periods import bins, lengths
from eocube.model.frame import BANDED_DIMS, MASK_DIMS, Frame, Variable
from eocube.model.recipe import step

KERNELS = {"median": median_over_time, "mean": mean_over_time}
N_CLEAR = Variable(name="n_clear", dtype="uint16", attrs=(("long_name", "number of clear observations"), ("units", "1")))


def _frame(frame: Frame, freq: str, method: str, origin: str) -> Frame:
    _check(method, frame.data)
    if not frame.time_ms:
        raise CubeError("A cube without dates cannot be composited.")
    periods = bins(frame.time_ms, freq, origin)
    return frame.with_(time_ms=periods.start_ms, time_bnds_ms=periods.bounds_ms, variables=(frame.data, N_CLEAR), per_time=())


def _times(inner: Frame, outer: Frame, times: tuple[int, ...], args: Mapping[str, Any]) -> tuple[int, ...]:
    periods = bins(inner.time_ms, args["freq"], args["origin"])
    wanted = {outer.time_ms[i] for i in times}
    return tuple(i for i, b in enumerate(periods.bin_of) if periods.start_ms[b] in wanted)


@step(frame=_frame, times=_times)
@by_band
def composite(cube: xr.Dataset, freq: str = "1MS", method: str = "median", origin: str = "1970-01-01") -> xr.Dataset:
    """One picture for each period with a date in it.

    Parameters
    ----------
    cube
        ``data`` (time, band, y, x), nodata where not clear (:func:`eocube.mask_clouds`).
    freq
        A pandas alias that starts periods: ``1MS`` (months), ``QS-DEC`` (seasons), ``16D``, ``W``, ``YS`` …
    method
        ``median`` (of an even number the mean of the two middle ones) or ``mean``, of the clear observations of a pixel, band
        by band.
    origin
        ISO date from which periods are counted, so that a series that begins later has the same ones.

    Returns
    -------
    ``data`` (period, band, y, x) in the cube's dtype (integers rounded half to even; nodata where nothing was clear) with its
    scale, and ``n_clear`` (period, y, x) uint16, the number of dates with data in every band. ``time`` is the start of the
    period, ``time_bnds`` its half-open bounds. Per-date scalars and masks do not come along.

    Raises
    ------
    UnknownNameError
        For another method or frequency.
    CubeError
        If the data has no nodata value, or the cube no date, or dates out of order.
    """
    v = data_variable(cube)
    nodata = _check(method, v)
    periods = bins(times_ms(cube), freq, origin)
    dates = [int(n) for n in lengths(periods)]
    data = cube["data"].transpose(*BANDED_DIMS)
    coords = {k: c for k, c in cube.coords.items() if "time" not in c.dims}
    ns = np.array(periods.start_ms, "M8[ms]").astype("M8[ns]")
    bounds = np.array(periods.bounds_ms, "M8[ms]").astype("M8[ns]").reshape(-1, 2)
    if is_dask_collection(data.data):
        # A block a period, of whole dates. Both results come from these blocks, so each pixel is read once; never by way of
        # the p2p shuffle, which a client with a big graph would choose.
        data = data.copy(data=data.data.rechunk({0: tuple(dates), 1: -1}, method="tasks"))
        dates = []
    statistic = partial(_statistic, kernel=KERNELS[method], nodata=nodata, dates=dates)
    count = partial(_count, nodata=nodata, dates=dates)
    sizes = {"time": 1}
    return xr.Dataset(
        {
            "data": (BANDED_DIMS, lift(statistic, data, dims=BANDED_DIMS, dtype=v.dtype, sizes=sizes), variable_attrs(v)),
            "n_clear": (MASK_DIMS, lift(count, data, dims=MASK_DIMS, dtype="uint16", sizes=sizes), variable_attrs(N_CLEAR)),
        },
        coords={**coords, "time": ("time", ns, {"standard_name": "time"}), "time_bnds": (("time", "bnds"), bounds)},
        attrs=dict(cube.attrs),
    )


def _check(method: str, data: Variable) -> float:
    if method not in KERNELS:
        raise UnknownNameError("composite method", method, KERNELS, "composite")
    if data.dtype not in DTYPES:
        raise CubeError(f"Data of dtype {data.dtype} cannot be composited; convert it to one of {', '.join(DTYPES)} first.")
    if data.nodata is None:
        raise CubeError(
            f"The cube's data ({data.dtype}) has no nodata value, so nothing says which observations to leave out: use "
            "to_reflectance first (NaN), or state one (data.attrs['_FillValue'])."
        )
    return data.nodata


def _statistic(block: npt.NDArray, *, kernel: Any, nodata: float, dates: Sequence[int]) -> npt.NDArray:
    parts = _by_period(block, dates)
    if len(parts) == 1:
        return kernel(block, nodata=nodata)[None]
    out = np.empty((len(parts), *block.shape[1:]), block.dtype)
    for i, part in enumerate(parts):
        out[i] = kernel(part, nodata=nodata)
    return out


def _count(block: npt.NDArray, *, nodata: float, dates: Sequence[int]) -> npt.NDArray:
    return np.stack([count_valid(part, nodata=nodata) for part in _by_period(block, dates)])


def _by_period(block: npt.NDArray, dates: Sequence[int]) -> list[npt.NDArray]:
    """``block`` cut along time into pieces of that many dates; whole where ``dates`` is empty."""
    return np.split(block, np.cumsum(dates)[:-1]) if len(dates) else [block]
