"""apply: a user's own function as a recorded step."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr

from eocube.errors import CubeError, StepContractError
from eocube.exec.evaluate import Evaluation, evaluate
from eocube.exec.labels import labelled
from eocube.lazy.graph_source import as_cube, frame_of_dataset, node_of
from eocube.model.bands import Band
from eocube.model.frame import Frame, Variable
from eocube.model.hashing import digest
from eocube.model.recipe import Arrays, Binding, Node, Step, frame_of, same_times, whole, with_recipe
from eocube.model.window import Span, Window

PROBE_PX = 64
PROBE_DATES = 4
_OBJECT_BYTES = 256 * 1024
"""What the objects round the arrays of a window take: nothing, in a window of true size."""

UserFunction = Callable[[xr.Dataset], xr.Dataset | xr.DataArray]


def apply(cube: xr.Dataset, func: UserFunction, *, halo_px: int = 0, step_id: str) -> xr.Dataset:
    """Run a function of your own over a cube of any size, lazily and recorded.

    Parameters
    ----------
    cube
        A cube of eocube, or a small one of your own.
    func
        NumPy-backed Dataset of a window (``data`` and masks, labelled; a copy, which it may change) → Dataset, or DataArray for
        ``data``, with the same dates, rows and columns; bands, dtype and masks may change. It must give the same pixels
        whatever window and whatever dates it sees them with.
    halo_px
        Pixels of context around a pixel beyond which its result no longer changes.
    step_id
        Your name for what the function does, with a version (``"my-smoothing-v2"``). A store made with another name is not mixed
        with.

    Returns
    -------
    The lazy cube. One small window is read at once, to learn the result's bands and dtype and to check that a wider window and
    other dates give the same pixels.

    Raises
    ------
    StepContractError
        If the function's result depends on the window or on other dates, or does not have the window's dates and size.
    CubeError, GridError
        If the cube, or what the function returns, is no cube.
    """
    if isinstance(cube, xr.DataArray):
        lone: xr.Dataset = apply(cube.to_dataset(name="data"), func, halo_px=halo_px, step_id=step_id)
        return lone["data"]
    if halo_px < 0 or int(halo_px) != halo_px or not step_id:
        raise CubeError(f"apply got halo_px={halo_px!r} and step_id={step_id!r}: whole pixels from 0, and a name of your own.")
    node, binding = node_of(cube)
    name = f"apply:{step_id}"
    fn: Any = _Applied(func, int(halo_px))
    if name in binding.steps and binding.steps[name].fn == fn:
        fn = binding.steps[name].fn  # the same function once more; an object of its own would count as another one
    trial = _Trial(node, binding, fn, int(halo_px), step_id)
    shown = trial.frame()
    grown: Node = {"step": name, "rev": 1, "args": {"halo_px": int(halo_px), "gives": _stated(shown)}, "in": node}
    declared = Step(
        name=name,
        rev=1,
        fn=fn,
        halo_px=int(halo_px),
        frame=_frame,
        times=same_times,
        arg_times="all",
        scratch=trial.scratch,
        by_name=False,
    )
    bound = binding.merged(Binding(steps={name: declared}))
    attrs = {k: v for k, v in cube.attrs.items() if not str(k).startswith("eocube_")}
    return _lazy_node(grown, bound, cube, attrs)


class _Applied:
    """A user's function as the function of a step. Two of them are equal if their functions and halos are."""

    def __init__(self, func: UserFunction, halo_px: int):
        self.func, self.halo_px = func, halo_px

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Applied) and (self.func, self.halo_px) == (other.func, other.halo_px)

    def __hash__(self) -> int:
        return hash((self.func, self.halo_px))

    def __call__(self, cube: xr.Dataset, **_: Any) -> xr.Dataset:
        result = self.func(cube.copy(deep=True))  # what it was given may be another step's input too
        if isinstance(result, xr.DataArray):
            result = result.to_dataset(name="data")
        if not isinstance(result, xr.Dataset):
            raise StepContractError(
                f"The function given to apply returned {type(result).__name__}; return a Dataset or a DataArray."
            )
        return result


# ------------------------------------------------------------------------------------------------ what a function gives


def _stated(frame: Frame) -> dict[str, Any]:
    """Bands and variables of a frame as arguments of a step."""
    variables = [asdict(v) | {"nodata": "nan" if v.nodata != v.nodata else v.nodata} for v in frame.variables]
    return {"bands": [asdict(b) for b in frame.bands], "variables": variables}


def _frame(frame: Frame, halo_px: int, gives: Mapping[str, Any]) -> Frame:  # noqa: ARG001 - a frame rule takes every argument
    """Frame rule of an applied function: bands, variables and dtypes as one window showed them."""
    return frame.with_(bands=tuple(Band(**b) for b in gives["bands"]), variables=tuple(map(_variable, gives["variables"])))


def _variable(stated: Mapping[str, Any]) -> Variable:
    tuples = {k: tuple((a, b) for a, b in stated[k]) for k in ("flags", "attrs")}
    nodata = math.nan if stated["nodata"] == "nan" else stated["nodata"]
    return Variable(**{**stated, **tuples, "nodata": nodata})


_WIDER = (
    f"its window is {PROBE_PX} px wider: its halo_px is too small, or it uses a statistic of the whole image (make that a fit_* "
    "pass) or a pixel's place in the array"
)
_ALONE = "it sees a date alone: it must treat each date by itself (composite makes statistics over time)"


class _Trial:
    """One small window of the input, read once, on which the function is tried in several cuts."""

    def __init__(self, node: Node, binding: Binding, fn: _Applied, halo_px: int, step_id: str):
        self.fn, self.step_id, self.scratch = fn, step_id, 0.0
        inner = frame_of(node, binding)
        n, (ny, nx) = len(inner.time_ms), inner.shape_yx
        if not n:
            raise CubeError("The cube has no date; there is nothing to apply a function to.")
        times = tuple(sorted({i * n // PROBE_DATES for i in range(min(PROBE_DATES, n))}))
        self._core = _middle(ny), _middle(nx)
        self._near = tuple(_widened(s, halo_px, size) for s, size in zip(self._core, (ny, nx), strict=True))
        self._far = tuple(_widened(s, halo_px + PROBE_PX, size) for s, size in zip(self._core, (ny, nx), strict=True))
        self._given = evaluate(node, Window(times, *self._far), Evaluation(binding, {}))

    def frame(self) -> Frame:
        """The frame of the function's result; StepContractError where it depends on what else it sees."""
        first = self._run(self._near)
        shown = frame_of_dataset(as_cube(first).assign_coords(spatial_ref=self._given["spatial_ref"]))
        core = self._core_of(first, self._near)
        self._compare(core, self._core_of(self._run_watched(), self._far), _WIDER)
        for t in {0, self._given.sizes["time"] - 1}:
            one = slice(t, t + 1)
            self._compare(core.isel(time=one), self._core_of(self._run(self._near, one), self._near), _ALONE)
        return shown

    def _run(self, spans: tuple[Span, ...], times: slice = slice(None)) -> xr.Dataset:
        (y0, y1), (x0, x1) = spans
        top, left = self._far[0][0], self._far[1][0]
        given = self._given.isel(time=times, y=slice(y0 - top, y1 - top), x=slice(x0 - left, x1 - left))
        result = self.fn(given)
        want = {d: int(given.sizes[d]) for d in ("time", "y", "x")}
        found = {d: int(result.sizes.get(d, 0)) for d in want}
        if found != want:
            raise StepContractError(
                f"The function of step {self.step_id!r} got {want} and returned {found}: it must keep dates, rows and columns. "
                "Use composite for statistics over time."
            )
        if "data" not in result or "band" not in result["data"].dims:
            dims = {str(k): v.dims for k, v in result.data_vars.items()}
            raise CubeError(f"The function of step {self.step_id!r} returned {dims}; give 'data' (time, band, y, x).")
        return result

    def _run_watched(self) -> xr.Dataset:
        """The widest window; what NumPy held meanwhile beside what went in and came out is noted as ``scratch``."""
        tracing = tracemalloc.is_tracing()
        if not tracing:
            tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        try:
            result = self._run(self._far)
            _, most = tracemalloc.get_traced_memory()
        finally:
            if not tracing:
                tracemalloc.stop()
        both = self._given.nbytes + result.nbytes
        self.scratch = round(max(0, most - before - result.nbytes - _OBJECT_BYTES) / both, 2)
        return result

    def _core_of(self, result: xr.Dataset, spans: tuple[Span, ...]) -> xr.Dataset:
        ((y0, y1), (x0, x1)), ((top, _), (left, _)) = self._core, spans
        return result.isel(y=slice(y0 - top, y1 - top), x=slice(x0 - left, x1 - left))

    def _compare(self, a: xr.Dataset, b: xr.Dataset, why: str) -> None:
        for name in a.data_vars:
            p, q = a[name].values, b[name].transpose(*a[name].dims).values if name in b else None
            if q is None or p.dtype != q.dtype or p.shape != q.shape:
                raise StepContractError(
                    f"The function of step {self.step_id!r} gives {name!r} another dtype or shape when {why}."
                )
            n = int((~((p == q) | ((p != p) & (q != q)))).sum())
            if n:
                raise StepContractError(
                    f"The function of step {self.step_id!r} gives {n} of {p.size} pixels of {name!r} other values when {why}."
                )


def _middle(n: int) -> Span:
    """A span in the middle with room around it, where there is room at all."""
    size = min(PROBE_PX, max(1, n // 2))
    return (n - size) // 2, (n - size) // 2 + size


def _widened(span: Span, by: int, size: int) -> Span:
    return max(0, span[0] - by), min(size, span[1] + by)


# ------------------------------------------------------------------------------------------------ lazily


def _lazy_node(node: Node, binding: Binding, cube: xr.Dataset, attrs: Mapping[str, Any]) -> xr.Dataset:
    """The recorded result of ``node``, in the blocks of ``cube``; each block is evaluated once for all its variables."""
    frame = frame_of(node, binding)
    shape = (len(frame.time_ms), *frame.shape_yx)
    old = dict(zip(map(str, cube["data"].dims), cube["data"].chunks or [], strict=False))
    chunks = tuple(old.get(d, (n,)) for d, n in zip(("time", "y", "x"), shape, strict=True))
    token = digest([node, {k: s.token() for k, s in binding.sources.items()}])
    blocks = da.from_array(
        _Blocks(node, binding, shape),
        chunks=chunks,
        name=f"eocube-node-{token}-{digest([list(map(int, c)) for c in chunks])}",
        asarray=False,
        fancy=False,
        inline_array=False,  # a task names the source, which goes to each worker once: a thousand items are megabytes
        meta=np.empty((0, 0, 0), object),
    )
    arrays = {v.name: _variable_of(blocks, v, len(frame.bands)) for v in frame.variables}
    lazy = labelled(frame, whole(frame), arrays)
    lazy.attrs = dict(attrs)
    recorded: xr.Dataset = with_recipe(lazy, node, binding)
    return recorded


def _variable_of(blocks: da.Array, v: Variable, n_bands: int) -> da.Array:
    return da.blockwise(
        partial(_pick, name=v.name),
        v.dims,
        blocks,
        ("time", "y", "x"),
        new_axes={"band": n_bands} if v.banded else {},
        dtype=v.dtype,
        meta=np.empty((0,) * len(v.dims), v.dtype),
    )


def _pick(block: Any, *, name: str) -> npt.NDArray[Any]:
    """One variable of an evaluated block; Dask hands a block without a contraction over as it is."""
    values: npt.NDArray[Any] = block[name]
    return values


class _Blocks:
    """A recorded node with NumPy's slicing, for Dask; what comes out is a mapping of variables to arrays."""

    def __init__(self, node: Node, binding: Binding, shape: tuple[int, ...]):
        self._node, self._binding = node, binding
        self.shape, self.dtype, self.ndim = shape, np.dtype(object), len(shape)

    def __getitem__(self, key: tuple[slice, ...]) -> Arrays:
        times, y, x = (range(*k.indices(n)) for k, n in zip(key, self.shape, strict=True))
        window = Window(tuple(times), (y.start, y.stop), (x.start, x.stop))
        cube = evaluate(self._node, window, Evaluation(self._binding, {}))
        return {str(k): v.values for k, v in cube.data_vars.items()}
