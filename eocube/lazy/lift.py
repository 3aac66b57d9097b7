"""Kernels on cubes: at once on NumPy, as one Blockwise layer on Dask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import is_dask_collection

from eocube.errors import CubeError
from eocube.exec.labels import variable_attrs
from eocube.model.frame import BANDED_DIMS, Variable

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
        NumPy arrays in, one NumPy array of dims ``dims`` out. A picklable function.
    arrays
        Inputs; blocks are aligned by dimension name.
    dims, dtype
        Of the result.
    sizes
        Length of result dimensions that differ from the inputs' or are new.
    whole
        Dimensions that the kernel must see in one piece.

    Returns
    -------
    A NumPy array if every input is NumPy, else a Dask array of one Blockwise layer.
    """
    sizes = sizes or {}
    if not any(is_dask_collection(a.data) for a in arrays):
        return kernel(*(a.data for a in arrays))
    pairs: list[Any] = []
    for a in arrays:
        block = a.data if is_dask_collection(a.data) else da.from_array(a.data, chunks=-1)
        block = block.rechunk({i: -1 for i, d in enumerate(a.dims) if d in whole or d in sizes})
        pairs += [block, tuple(map(str, a.dims))]
    held = {d for a in arrays for d in a.dims}
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


def data_variable(cube: xr.Dataset) -> Variable:
    """What the attributes of ``data`` say: dtype, nodata, scale, offset. CubeError where there is no ``data``."""
    if "data" not in cube.data_vars or set(cube["data"].dims) != set(BANDED_DIMS):
        raise CubeError(
            "A step takes a cube with data (time, band, y, x); this one has "
            f"{[(str(k), v.dims) for k, v in cube.data_vars.items()]}."
        )
    data = cube["data"]
    dtype = np.dtype(data.dtype)
    a = data.attrs
    scale = a.get("scale_factor")
    nodata = float("nan") if dtype.kind == "f" else a.get("_FillValue")
    kept = tuple((str(k), v) for k, v in a.items() if k in ("units", "long_name"))
    return Variable(
        name="data",
        dtype=str(dtype),
        banded=True,
        nodata=nodata,
        scale=None if scale is None else float(scale),
        offset=None if scale is None else float(a.get("add_offset", 0.0)),
        attrs=kept,
    )


def with_data(cube: xr.Dataset, values: Any, variable: Variable) -> xr.Dataset:
    """``cube`` with other numbers in ``data`` and attributes that describe them."""
    return cube.assign(data=(BANDED_DIMS, values, variable_attrs(variable)))
