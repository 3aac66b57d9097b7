"""Composites: one picture a period out of the clear observations of its dates."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr
from dask.base import is_dask_collection

from eocube.errors import CubeError, UnknownNameError
from eocube.exec.labels import variable_attrs
from eocube.kernels.composite import count_valid, mean_over_time, median_over_time
from eocube.lazy.lift import data_variable, lift
from eocube.lazy.periods import bins
from eocube.model.frame import BANDED_DIMS, MASK_DIMS, Frame, Variable
from eocube.model.recipe import step

KERNELS = {"median": median_over_time, "mean": mean_over_time}
N_CLEAR = Variable(name="n_clear", dtype="uint16", attrs=(("long_name", "number of clear observations"), ("units", "1")))


def _frame(frame: Frame, freq: str, method: str, origin: str) -> Frame:
    _check(method, frame.data)
    periods = bins(frame.time_ms, freq, origin)
    return frame.with_(time_ms=periods.start_ms, time_bnds_ms=periods.bounds_ms, variables=(frame.data, N_CLEAR), per_time=())


def _times(inner: Frame, outer: Frame, times: tuple[int, ...], args: Mapping[str, Any]) -> tuple[int, ...]:
    periods = bins(inner.time_ms, args["freq"], args["origin"])
    wanted = {outer.time_ms[i] for i in times}
    return tuple(i for i, b in enumerate(periods.bin_of) if periods.start_ms[b] in wanted)


@step(frame=_frame, times=_times)
def composite(cube: xr.Dataset, freq: str = "1MS", method: str = "median", origin: str = "1970-01-01") -> xr.Dataset:
    """One picture for each period with a date in it.

    Parameters
    ----------
    cube
        ``data`` (time, band, y, x), nodata where not clear (:func:`eocube.mask_clouds`).
    freq
        A pandas alias that starts periods: ``1MS`` (months), ``QS-DEC`` (seasons), ``16D`` …
    method
        ``median`` (of an even number the mean of the two middle ones) or ``mean``, of the clear observations of a pixel, band
        by band.
    origin
        ISO date from which periods are counted.

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
        If the data has no nodata value, or the cube no date.
    """
    v = data_variable(cube)
    nodata = _check(method, v)
    time_ms = tuple(int(t) for t in cube["time"].values.astype("M8[ms]").astype("i8"))
    if not time_ms:
        raise CubeError("A cube without dates cannot be composited.")
    periods = bins(time_ms, freq, origin)
    data, counts = [], []
    for b in range(len(periods.start_ms)):
        part = cube["data"].transpose(*BANDED_DIMS).isel(time=[i for i, at in enumerate(periods.bin_of) if at == b])
        one = {"time": 1}
        data.append(lift(partial(_statistic, method=method, nodata=nodata), part, dims=BANDED_DIMS, dtype=v.dtype, sizes=one))
        counts.append(lift(partial(_count, nodata=nodata), part, dims=MASK_DIMS, dtype="uint16", sizes=one, whole=("band",)))
    coords = {k: c for k, c in cube.coords.items() if "time" not in c.dims}
    ns = np.array(periods.start_ms, "M8[ms]").astype("M8[ns]")
    bounds = np.array(periods.bounds_ms, "M8[ms]").astype("M8[ns]").reshape(-1, 2)
    return xr.Dataset(
        {
            "data": (BANDED_DIMS, _concatenate(data), variable_attrs(v)),
            "n_clear": (MASK_DIMS, _concatenate(counts), variable_attrs(N_CLEAR)),
        },
        coords={**coords, "time": ("time", ns, {"standard_name": "time"}), "time_bnds": (("time", "bnds"), bounds)},
        attrs=dict(cube.attrs),
    )


def _check(method: str, data: Variable) -> float:
    if method not in KERNELS:
        raise UnknownNameError("composite method", method, KERNELS, "composite")
    if data.nodata is None:
        raise CubeError(f"The cube's data ({data.dtype}) has no nodata value; use to_reflectance or mask_clouds first.")
    return data.nodata


def _statistic(block: npt.NDArray, *, method: str, nodata: float) -> npt.NDArray:
    return KERNELS[method](block, nodata=nodata)[None]


def _count(block: npt.NDArray, *, nodata: float) -> npt.NDArray:
    return count_valid(block, nodata=nodata)[None]


def _concatenate(parts: list[Any]) -> Any:
    return da.concatenate(parts) if is_dask_collection(parts[0]) else np.concatenate(parts)
