"""A source as a lazy cube: Dask arrays whose blocks read windows, labels from the frame, the recipe in the attributes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from eocube.errors import CubeError, EocubeError, alone
from eocube.exec.labels import labelled
from eocube.model.frame import Frame
from eocube.model.recipe import Binding, Node, Source, whole, with_recipe
from eocube.model.window import Window

Chunks = Mapping[str, int]


def lazy_cube(source: Source, node: Node, *, chunks: Chunks, attrs: Mapping[str, Any] | None = None) -> xr.Dataset:
    """A Dask-backed Dataset over ``source``; no pixel is read until it is computed.

    Parameters
    ----------
    source, node
        The pixels and their entry in the recipe.
    chunks
        Length of a Dask chunk along ``time``, ``y`` and ``x`` (-1 for all); bands are never split.
    """
    frame = source.frame()
    arrays = {v.name: _dask_array(source, frame, v.name, chunks) for v in frame.variables}
    cube = labelled(frame, whole(frame), arrays)
    cube.attrs = dict(attrs or {})
    recorded: xr.Dataset = with_recipe(cube, node, Binding(sources={node["source"]: source}))
    return recorded


def _dask_array(source: Source, frame: Frame, name: str, chunks: Chunks) -> da.Array:
    shape = frame.shape(name)
    dims = frame.variable(name).dims
    unknown = set(chunks) - {"time", "y", "x"}
    if unknown:
        raise CubeError(f"Chunks along {sorted(unknown)} make no sense here; give time, y and x (bands stay together).")
    cut = tuple(n if chunks.get(d, -1) == -1 else min(chunks[d], max(n, 1)) for d, n in zip(dims, shape, strict=True))
    reader = SourceArray(source, name, shape, frame.variable(name).dtype)
    return da.from_array(
        reader,
        chunks=cut,
        name=f"eocube-{name}-{source.token()}-{'x'.join(map(str, cut))}",
        asarray=False,
        fancy=False,
        inline_array=False,  # a task names the source, which goes to each worker once: a thousand items are megabytes
        meta=np.empty((0,) * len(shape), frame.variable(name).dtype),
    )


class SourceArray:
    """One variable of a source with NumPy's slicing, for Dask."""

    def __init__(self, source: Source, name: str, shape: tuple[int, ...], dtype: str):
        self.source, self.name, self.shape, self.dtype, self.ndim = source, name, shape, np.dtype(dtype), len(shape)

    def __getitem__(self, key: tuple[slice, ...]) -> np.ndarray[Any, Any]:
        spans = [range(*k.indices(n)) for k, n in zip(key, self.shape, strict=True)]
        window = Window(tuple(spans[0]), _span(spans[-2]), _span(spans[-1]))
        try:
            values = self.source.read(window, names=(self.name,))[self.name]
        except EocubeError as e:  # it may be on a worker
            raise alone(e) from None
        return values[:, spans[1].start : spans[1].stop] if len(spans) == 4 else values


def _span(r: range) -> tuple[int, int]:
    if r.step != 1:
        raise CubeError("Only whole runs of pixels can be sliced out of a source.")
    return r.start, r.stop


def default_chunks(block_yx: tuple[int, int], frame: Frame, *, edge_px: int = 1024) -> dict[str, int]:
    """One date by about ``edge_px``, in whole blocks of the source."""
    return {
        "time": 1,
        "y": max(1, math.ceil(edge_px / max(1, block_yx[0]))) * min(block_yx[0], edge_px) if frame.shape_yx[0] > edge_px else -1,
        "x": max(1, math.ceil(edge_px / max(1, block_yx[1]))) * min(block_yx[1], edge_px) if frame.shape_yx[1] > edge_px else -1,
    }
