"""Super-resolution as a step on cubes: what the engine needs to evaluate any window of it."""

from __future__ import annotations

import numpy as np
import xarray as xr

from eocube.errors import CubeError
from eocube.exec.evaluate import Evaluation, evaluate
from eocube.infer.model import Model, band_indices
from eocube.kernels.arrays import AnyArray
from eocube.kernels.resample import upsample_nearest
from eocube.model.frame import Frame, Variable
from eocube.model.recipe import Arrays, Binding, Node, Step, frame_of, same_times
from eocube.model.window import Span, Window, back_window
from eocube.sr.models import SrModel
from eocube.sr.tiles import CORE_PX, SR_DATA, Inputs, context, decoded, predict, sr_frame

NAME = "superresolve"
REV = 1
"""Raised when the same model gives other pixels."""


def sr_node(inner: Node, binding: Binding, model: SrModel) -> tuple[Node, Binding]:
    """The node of ``model`` run over ``inner``, and what its names stand for. The recipe names the model by digest."""
    step = sr_step(model)
    node: Node = {"step": step.name, "rev": REV, "args": {"model": {"resource": model.resource_id}}, "in": inner}
    return node, binding.merged(Binding(steps={step.name: step}, resources={model.resource_id: model}))


def is_superresolved(node: Node) -> bool:
    """Whether the last step of a node is a super-resolution, so that the pool can run it."""
    return str(node.get("step", "")).startswith(f"{NAME}:")


def sr_step(model: SrModel) -> Step:
    """The step of one model. Named after it, because its halo is the model's: the rest of a core, and the halo of a tile."""
    return Step(
        name=f"{NAME}:{model.resource_id[:12]}",
        rev=REV,
        fn=superresolve_window,
        halo_px=CORE_PX - 1 + model.halo_px,
        frame=sr_frame,
        times=same_times,
        arg_times="all",
        by_name=False,
    )


def superresolve_window(cube: xr.Dataset, model: SrModel) -> xr.Dataset:
    """Super-resolve a NumPy-backed window that has the step's halo; the engine crops and labels it.

    Tiles that start before the window are not asked for by anyone: the halo reaches to the start of every core that is.
    """
    data = cube["data"].transpose("time", "band", "y", "x")
    bands = band_indices(model, [str(b) for b in np.atleast_1d(cube["band"].values)])
    inputs = decoded(data.values, _variable(data), bands, _origin_yx(cube))
    y, x = (_asked(o, n, model.halo_px) for o, n in zip(inputs.origin_yx, data.shape[-2:], strict=True))
    scale = int(model.scale)
    dn = np.zeros((data.shape[0], len(model.bands_out), *(n * scale for n in data.shape[-2:])), SR_DATA.dtype)
    rows, columns = (slice((s[0] - o) * scale, (s[1] - o) * scale) for s, o in zip((y, x), inputs.origin_yx, strict=True))
    dn[..., rows, columns] = predict(model, inputs, y, x)
    masks = {
        str(name): (("time", "y", "x"), upsample_nearest(v.transpose("time", "y", "x").values, (scale, scale)))
        for name, v in cube.data_vars.items()
        if name != "data"
    }
    return xr.Dataset({"data": (("time", "band", "y", "x"), dn), **masks}, coords={"time": cube["time"]})


def _asked(origin: int, size: int, halo_px: int) -> Span:
    """The part of a window along one axis that anyone can ask for: from the first core whose tile is inside, or the edge."""
    stop = origin + size
    if origin == 0:
        return 0, stop
    first = -(-(origin + halo_px) // CORE_PX) * CORE_PX
    return min(first, stop), stop


def _variable(data: xr.DataArray) -> Variable:
    """Scale, offset and nodata from the CF attributes."""
    a = data.attrs
    return Variable(
        name="data",
        dtype=str(data.dtype),
        banded=True,
        nodata=a.get("_FillValue"),
        scale=a.get("scale_factor"),
        offset=a.get("add_offset"),
    )


def _origin_yx(cube: xr.Dataset) -> tuple[int, int]:
    """Place of a window's first pixel in its cube: its coordinates against the cube's GeoTransform."""
    stated = str(cube["spatial_ref"].attrs.get("GeoTransform", "")) if "spatial_ref" in cube.coords else ""
    if not stated:
        raise CubeError("The cube has no spatial_ref coordinate with a GeoTransform, so the place of a window is not known.")
    c, dx, _, f, _, dy = (float(v) for v in stated.split())
    y, x = float(cube["y"].values[0]), float(cube["x"].values[0])
    return round((y - f) / dy - 0.5), round((x - c) / dx - 0.5)


# ------------------------------------------------------------------------------------------------ any piece, without waste


class SrPiece:
    """Reads the LR pixels that one piece of a super-resolved cube needs, exactly, and finishes the piece.

    The engine's way (:func:`superresolve_window` with its halo) gives the same bits; this one reads no whole core too much.
    """

    def __init__(self, node: Node, run: Evaluation):
        self.inner: Node = node["in"]
        self._run = run
        self.frame: Frame = frame_of(self.inner, run.binding, run.frames)
        self._outer: Frame = frame_of(node, run.binding, run.frames)
        self.model: SrModel = run.binding.resources[node["args"]["model"]["resource"]]
        self._bands = band_indices(self.model, self.frame.band_names)

    def spans(self, window: Window) -> tuple[Span, Span]:
        """The LR pixels below an output window (y, x)."""
        return back_window(self.frame.geobox, self._outer.geobox, window.y, window.x, halo_px=0)

    def read(self, window: Window) -> tuple[Inputs, Arrays]:
        """Pixels around an output window for the model, and the masks below it."""
        y, x = self.spans(window)
        size_y, size_x = self.frame.shape_yx
        wide = Window(window.times, context(y, size_y, self.model), context(x, size_x, self.model))
        cube = evaluate(self.inner, wide, self._run)
        origin = wide.y[0], wide.x[0]
        inputs = decoded(cube["data"].values, self.frame.data, self._bands, origin)
        below = (..., slice(y[0] - origin[0], y[1] - origin[0]), slice(x[0] - origin[1], x[1] - origin[1]))
        return inputs, {v.name: cube[v.name].values[below] for v in self.frame.masks}

    def finished(self, window: Window, data: AnyArray, masks: Arrays) -> Arrays:
        """The arrays of the output window: data as it is, masks enlarged."""
        scale = int(self.model.scale)
        y, x = self.spans(window)
        cut = (
            ...,
            slice(window.y[0] - y[0] * scale, window.y[1] - y[0] * scale),
            slice(window.x[0] - x[0] * scale, window.x[1] - x[0] * scale),
        )
        arrays = {"data": data, **{name: upsample_nearest(v, (scale, scale)) for name, v in masks.items()}}
        return {name: values[cut] for name, values in arrays.items()}

    def evaluate(self, window: Window) -> Arrays:
        """Everything of one output window, in this thread."""
        inputs, masks = self.read(window)
        return self.finished(window, predict(self._loaded, inputs, *self.spans(window)), masks)

    def evaluate_masks(self, window: Window) -> Arrays:
        """The masks of one output window; the model does not run."""
        y, x = self.spans(window)
        cube = evaluate(self.inner, Window(window.times, y, x), self._run)
        arrays = self.finished(window, np.empty((0, 0)), {v.name: cube[v.name].values for v in self.frame.masks})
        return {name: values for name, values in arrays.items() if name != "data"}

    @property
    def _loaded(self) -> Model:
        return self.model.loaded()
