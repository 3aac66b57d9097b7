"""Labelled cubes: pixels of a window plus the labels of the whole frame."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from eocube.errors import StepContractError
from eocube.io.geozarr import spatial_ref_attrs
from eocube.io.template import axis_attrs, band_attrs
from eocube.model.frame import Frame, Variable
from eocube.model.window import Window


def labelled(frame: Frame, window: Window, arrays: Mapping[str, Any]) -> xr.Dataset:
    """A Dataset of ``arrays`` (variable name → array of the window's shape) with coordinates cut out of the whole frame."""
    variables = {v.name: (v.dims, arrays[v.name], variable_attrs(v)) for v in frame.variables if v.name in arrays}
    return xr.Dataset(variables, coords=coords_of(frame, window))


def variable_attrs(variable: Variable) -> dict[str, Any]:
    """CF attributes as an unscaled cube carries them, and the name of the grid mapping."""
    return {**variable.cf_attrs(), "grid_mapping": "spatial_ref"}


def coords_of(frame: Frame, window: Window) -> dict[str, Any]:
    """Coordinates of a window: time, band, y, x, spatial_ref, per-date scalars, time bounds."""
    (y, x), axes = frame.yx, axis_attrs(frame)
    times = list(window.times)
    coords: dict[str, Any] = {
        "time": ("time", frame.time[times], {"standard_name": "time"}),
        "band": ("band", np.array(frame.band_names, np.dtypes.StringDType()), band_attrs(frame.bands)),
        "y": ("y", y[slice(*window.y)], axes["y"]),
        "x": ("x", x[slice(*window.x)], axes["x"]),
        "spatial_ref": ((), np.int32(0), spatial_ref_attrs(frame.geobox)),
    }
    if frame.time_bnds_ms is not None:
        bounds = np.array([frame.time_bnds_ms[i] for i in times], "M8[ms]").astype("M8[ns]").reshape(-1, 2)
        coords["time_bnds"] = (("time", "bnds"), bounds)
    for a in frame.axes:
        coords[a.name] = (a.name, np.array(a.labels, np.dtypes.StringDType()), dict(a.attrs))
    for p in frame.per_time:
        kept = [p.values[i] for i in times]
        coords[p.name] = ("time", np.array(kept, np.dtypes.StringDType() if p.dtype == "str" else p.dtype), dict(p.attrs))
    return coords


def keeps_labels(given: xr.Dataset, result: xr.Dataset, inner: Frame, outer: Frame) -> bool:
    """Whether a step's result needs no cropping and no labels: same frames but for dtypes, and the very labels it got.

    Making a Dataset's indexes costs more than most kernels on one block. Labels are the same where they are the same objects:
    a copy of a Dataset shares pandas' indexes and the arrays of its other coordinates, and whatever changes one makes a new one.
    """
    if (inner.geobox, inner.time_ms, inner.bands, inner.per_time) != (outer.geobox, outer.time_ms, outer.bands, outer.per_time):
        return False
    if inner.time_bnds_ms != outer.time_bnds_ms or result.data_vars.keys() != {v.name for v in outer.variables}:
        return False
    had, has, before, now = given.variables, result.variables, given.xindexes, result.xindexes
    if result.coords.keys() != given.coords.keys() or now.keys() != before.keys():
        return False
    for name in result.coords:
        old, new = (had[name].data, has[name].data) if name not in now else (_labels(before[name]), _labels(now[name]))
        if old is not new or had[name].dims != has[name].dims or not _same_values(had[name].attrs, has[name].attrs):
            return False
    return all(has[v.name].dtype == v.dtype and has[v.name].dims == v.dims for v in outer.variables)


def _labels(index: xr.Index) -> object:
    """What an index stands on; an index of another kind than xarray's default stands for itself."""
    return getattr(index, "index", index)


def _same_values(had: Mapping[Any, Any], has: Mapping[Any, Any]) -> bool:
    """Whether attributes are the very same objects: they may be arrays, whose == is no answer."""
    return had.keys() == has.keys() and all(had[k] is has[k] for k in had)


def crop(cube: xr.Dataset, frame: Frame, window: Window, *, origin_yx: tuple[int, int], step: str) -> xr.Dataset:
    """Cut ``window`` of ``frame`` out of a step's result whose first pixel is ``origin_yx`` of the frame, and label it.

    StepContractError where the result lacks a date, a variable, a dtype or the pixels that the step's frame promises.
    """
    times = frame.time[list(window.times)]
    made = cube.variables  # cube[name] would put coordinates on, which costs more than the cut
    have = made["time"].values.astype("M8[ns]")
    at = np.searchsorted(have, times)
    if len(have) == 0 or (at >= len(have)).any() or not np.array_equal(have[at], times):
        raise StepContractError(
            f"Step {step!r} was to give the dates {times.tolist()[:3]} … and gave {have.tolist()[:3]} …: its times rule is wrong."
        )
    in_order = np.array_equal(at, np.arange(len(have)))  # every date: a cut then is a view, and no copy
    y0, x0 = window.y[0] - origin_yx[0], window.x[0] - origin_yx[1]
    height, width = window.shape_yx
    arrays = {}
    for v in frame.variables:
        if v.name not in made:
            raise StepContractError(f"Step {step!r} promised variable {v.name!r} and gave {list(cube.data_vars)}.")
        values = made[v.name].transpose(*v.dims).values
        if values.dtype != np.dtype(v.dtype):
            raise StepContractError(f"Step {step!r} promised {v.name!r} as {v.dtype} and gave {values.dtype}.")
        values = (values if in_order else values[at])[..., y0 : y0 + height, x0 : x0 + width]
        if values.shape[1:] != (*frame.depth(v), height, width):
            raise StepContractError(
                f"Step {step!r} gave {v.name!r} as {values.shape}; {frame.depth(v) or ''} {height} x {width} px are needed."
            )
        arrays[v.name] = values
    return labelled(frame, window, arrays)
