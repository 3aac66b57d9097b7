"""apply: a user's own function as a recorded step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import xarray as xr

from eocube.errors import CubeError, StepContractError, UnrecordedError
from eocube.exec.evaluate import Evaluation, evaluate, probe
from eocube.lazy.cube import lazy_cube
from eocube.lazy.graph_source import frame_of_dataset, graph_source
from eocube.model.frame import Frame
from eocube.model.hashing import digest
from eocube.model.recipe import (
    Arrays,
    Binding,
    Cost,
    Node,
    OnError,
    Step,
    frame_of,
    recipe_of,
    same_times,
    trace,
    with_recipe,
)
from eocube.model.window import Window

PROBE_PX = 64
PROBE_DATES = 4

UserFunction = Callable[[xr.Dataset], xr.Dataset | xr.DataArray]


def apply(cube: xr.Dataset, func: UserFunction, *, halo_px: int = 0, step_id: str) -> xr.Dataset:
    """Run a function of your own over a cube of any size, lazily and recorded.

    Parameters
    ----------
    cube
        A cube of eocube, or a small one of your own.
    func
        NumPy-backed Dataset of a window (``data`` and masks, labelled) → Dataset or DataArray with the same dates, rows and
        columns; bands, dtype and masks may change. It must give the same pixels whatever window it sees them in.
    halo_px
        Pixels of context around a pixel beyond which its result no longer changes.
    step_id
        Your name for what the function does, with a version (``"my-smoothing-v2"``). A store made with another name is not mixed
        with.

    Returns
    -------
    The lazy cube. One small window is read at once, to learn the result's bands and dtype and to check that a wider window gives
    the same pixels.

    Raises
    ------
    StepContractError
        If the function's result depends on the window, or does not have the window's dates and size.
    """
    try:
        recipe = recipe_of(cube)
        node, binding = recipe.node, recipe.binding
    except UnrecordedError as e:
        source = graph_source(cube, step_id=None, why=str(e))
        node, binding = source.node, Binding(sources={source.node["source"]: source})
    inner = frame_of(node, binding)
    name = f"apply:{step_id}"
    window = _probe_window(inner)
    rule = _FrameOf(_learn(func, evaluate(node, window, Evaluation(binding, {})), step_id))
    declared = Step(
        name=name, rev=1, fn=_Normalised(func), halo_px=halo_px, frame=rule, times=same_times, arg_times="all", by_name=False
    )
    grown: Node = {"step": name, "rev": 1, "args": {"halo_px": halo_px}, "in": node}
    bound = binding.merged(Binding(steps={name: declared}))
    probe(grown, window, Evaluation(bound, {}))
    chunks = (
        {str(d): int(c[0]) for d, c in zip(cube["data"].dims, cube["data"].chunks, strict=True)} if cube["data"].chunks else {}
    )
    chunks.pop("band", None)
    attrs = {k: v for k, v in cube.attrs.items() if not str(k).startswith("eocube_")}
    lazy = lazy_cube(NodeSource(grown, bound), {"source": "node", "kind": "node"}, chunks=chunks, attrs=attrs)
    return with_recipe(lazy, grown, bound)


class _Normalised:
    """``func`` with a Dataset as its result and no further argument."""

    __qualname__ = "apply"

    def __init__(self, func: UserFunction):
        self.func = func

    def __call__(self, cube: xr.Dataset, halo_px: int = 0) -> xr.Dataset:
        result = self.func(cube.copy())
        if isinstance(result, xr.DataArray):
            result = result.to_dataset(name="data")
        if not isinstance(result, xr.Dataset):
            raise StepContractError(
                f"The function given to apply returned {type(result).__name__}; return a Dataset or a DataArray."
            )
        return result


class _FrameOf:
    """Frame rule of an applied function: bands, variables and dtypes as one window showed them."""

    def __init__(self, shown: Frame):
        self.bands, self.variables = shown.bands, shown.variables

    def __call__(self, frame: Frame, **_: Any) -> Frame:
        return frame.with_(bands=self.bands, variables=self.variables)


def _probe_window(frame: Frame) -> Window:
    """A few dates spread over the series, and pixels around the middle."""
    ny, nx = frame.shape_yx

    def middle(n: int) -> tuple[int, int]:
        size = min(n, PROBE_PX)
        return (n - size) // 2, (n - size) // 2 + size

    n = len(frame.time_ms)
    return Window(tuple(sorted({i * n // PROBE_DATES for i in range(min(PROBE_DATES, n))})), middle(ny), middle(nx))


def _learn(func: UserFunction, given: xr.Dataset, step_id: str) -> Frame:
    """The frame of the function's result on one window."""
    shown = _Normalised(func)(given)
    want = {d: int(given.sizes[d]) for d in ("time", "y", "x")}
    found = {d: int(shown.sizes.get(d, 0)) for d in want}
    if found != want:
        raise StepContractError(
            f"The function of step {step_id!r} got {want} and returned {found}: it must keep dates, rows and columns. "
            "Use composite for statistics over time."
        )
    if "data" not in shown or "band" not in shown["data"].dims:
        found_dims = {str(k): v.dims for k, v in shown.data_vars.items()}
        raise CubeError(f"The function of step {step_id!r} returned {found_dims}; give 'data' (time, band, y, x).")
    return frame_of_dataset(shown.assign_coords(spatial_ref=given["spatial_ref"]))


class NodeSource:
    """A recorded node as a source of lazy blocks: each block is one evaluation. See :class:`eocube.model.recipe.Source`."""

    def __init__(self, node: Node, binding: Binding):
        self._node, self._binding = node, binding

    def frame(self) -> Frame:
        """See :class:`eocube.model.recipe.Source`."""
        return frame_of(self._node, self._binding)

    @property
    def block_yx(self) -> tuple[int, int]:
        """See :class:`eocube.model.recipe.Source`."""
        return max(s.block_yx for s in self._binding.sources.values())

    def read(self, window: Window, *, names: tuple[str, ...] | None = None, on_error: OnError | None = None) -> Arrays:
        """See :class:`eocube.model.recipe.Source`."""
        cube = evaluate(self._node, window, Evaluation(self._binding, {}, on_error))
        return {str(k): v.values for k, v in cube.data_vars.items() if names is None or k in names}

    def ids(self, window: Window) -> list[list[Any]]:
        """See :class:`eocube.model.recipe.Source`."""
        return [[key, self._binding.sources[key].ids(w)] for key, w in trace(self._node, window, self._binding)]

    def assets(self) -> list[dict[str, Any]]:
        """See :class:`eocube.model.recipe.Source`."""
        return [row for s in self._binding.sources.values() for row in s.assets()]

    def token(self) -> str:
        """See :class:`eocube.model.recipe.Source`."""
        return digest([self._node, {k: s.token() for k, s in self._binding.sources.items()}])

    def cost(self, window: Window) -> Cost:
        """See :class:`eocube.model.recipe.Source`."""
        total = Cost(0, 0, 0)
        for key, w in trace(self._node, window, self._binding):
            total += self._binding.sources[key].cost(w)
        return total
