"""Kernels on cubes: at once on NumPy, as one Blockwise layer on Dask."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import is_dask_collection

from eocube.errors import CubeError
from eocube.exec.labels import variable_attrs
from eocube.model.frame import BANDED_DIMS, MASK_DIMS, Variable

Kernel = Callable[..., Any]


def lift(
    kernel: Kernel,
    *arrays: xr.DataArray,
    dims: Sequence[str],
    dtype: Any,
    sizes: dict[str, int] | None = None,
    whole: Sequence[str] = (),
) -> Any:
    """``kernel`` over the blocks of labelled arrays.

    Parameters
    ----------
    kernel
        NumPy arrays in, one NumPy array of dims ``dims`` out. A picklable function. It gets each array with its dimensions in
        the order time, band, y, x, whatever order they came in.
    arrays
        Inputs; blocks are aligned by dimension name.
    dims, dtype
        Of the result.
    sizes
        Result dimensions whose length is not that of the input's block, or that are new: their length in each block.
    whole
        Dimensions that the kernel must see in one piece.

    Returns
    -------
    A NumPy array if every input is NumPy, else a Dask array of one Blockwise layer.
    """
    sizes = sizes or {}
    ordered = [a.transpose(*(d for d in BANDED_DIMS if d in a.dims)) for a in arrays]
    if not any(is_dask_collection(a.data) for a in ordered):
        return kernel(*(a.values for a in ordered))
    pairs: list[Any] = []
    for a in ordered:
        block = a.data if is_dask_collection(a.data) else da.from_array(a.values, chunks=-1)
        block = block.rechunk({i: -1 for i, d in enumerate(a.dims) if d in whole})
        pairs += [block, tuple(map(str, a.dims))]
    held = {d for a in ordered for d in a.dims}
    return da.blockwise(
        kernel,
        tuple(dims),
        *pairs,
        new_axes={d: n for d, n in sizes.items() if d not in held},
        adjust_chunks={d: n for d, n in sizes.items() if d in held},
        dtype=dtype,
        concatenate=True,
        meta=np.empty((0,) * len(dims), dtype),
    )


def by_band(fn: Callable[..., xr.Dataset]) -> Callable[..., xr.Dataset]:
    """Let a step take ``data`` (time, y, x) too: it gets one band on the way in and loses it on the way out."""

    @functools.wraps(fn)
    def run(cube: xr.Dataset, *args: Any, **kwargs: Any) -> xr.Dataset:
        if "data" not in cube.data_vars or set(cube["data"].dims) != set(MASK_DIMS):
            return fn(cube, *args, **kwargs)
        named = "band" in cube.coords  # a scalar, as .sel(band="red") leaves it
        data = cube["data"].expand_dims("band" if named else {"band": ["data"]}, axis=1)
        banded = cube.drop_vars(["data", "band"], errors="ignore").assign(data=data)
        return fn(banded, *args, **kwargs).squeeze("band", drop=not named)

    return run


def data_variable(cube: xr.Dataset) -> Variable:
    """What the attributes of ``data`` say: dtype, nodata, scale, offset. CubeError where there is no ``data``."""
    if "data" not in cube.data_vars or set(cube["data"].dims) != set(BANDED_DIMS):
        raise CubeError(
            "A step takes a cube with data (time, band, y, x); this one has "
            f"{[(str(k), v.dims) for k, v in cube.data_vars.items()]}. Rename its variable or dimensions, or give a bare array "
            "its band: array.expand_dims(band=['red'])."
        )
    data = cube["data"]
    empty = [str(d) for d, n in data.sizes.items() if n == 0 and d in ("time", "band")]
    if empty:
        raise CubeError(f"The cube has nothing along {empty}: its sizes are {dict(data.sizes)}.")
    dtype = np.dtype(data.dtype)
    a = data.attrs
    scale = a.get("scale_factor")
    nodata = float("nan") if dtype.kind == "f" else a.get("_FillValue")
    return Variable(
        name="data",
        dtype=str(dtype),
        banded=True,
        nodata=None if nodata is None else int(nodata) if dtype.kind in "iu" else float(nodata),
        scale=None if scale is None else float(scale),
        offset=None if scale is None else float(a.get("add_offset", 0.0)),
        attrs=tuple((str(k), v) for k, v in a.items() if k not in _CF and isinstance(v, str | int | float)),
    )


_CF = {"scale_factor", "add_offset", "_FillValue", "grid_mapping", "coordinates"}


def band_names(cube: xr.Dataset) -> list[str]:
    """Labels of the band axis; CubeError where it has none."""
    if "band" not in cube.coords:
        raise CubeError("The cube's bands have no names; cube.assign_coords(band=['red', …]) gives them.")
    return [str(b) for b in np.atleast_1d(cube["band"].values)]


def times_ms(cube: xr.Dataset) -> tuple[int, ...]:
    """Dates as milliseconds since 1970-01-01 UTC, in order; CubeError where there is none, or they are no dates or unsorted."""
    if "time" not in cube.coords or cube["time"].dtype.kind != "M" or not cube.sizes["time"]:
        found = f"{cube['time'].dtype} x {cube.sizes['time']}" if "time" in cube.coords else "no such coordinate"
        raise CubeError(f"The cube needs a time coordinate of datetime64 with at least one date; found {found}.")
    values = cube["time"].values
    if np.isnat(values).any() or (np.diff(values) < np.timedelta64(0)).any():
        raise CubeError("The cube's dates do not increase, or one is missing (NaT); cube.sortby('time') puts them in order.")
    return tuple(int(t) for t in values.astype("M8[ms]").astype("i8"))


def with_data(cube: xr.Dataset, values: Any, variable: Variable) -> xr.Dataset:
    """``cube`` with other numbers in ``data``, at its old place, and attributes that describe them."""
    return cube.assign(data=(BANDED_DIMS, values, variable_attrs(variable)))
