"""Evaluate a recipe on one window: windows go back to the sources, NumPy-backed cubes come forward through the steps."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import xarray as xr

from eocube.errors import StepContractError
from eocube.exec.labels import crop, keeps_labels, labelled
from eocube.model.recipe import Binding, Frames, Node, OnError, frame_of, is_cube_arg, needs, shared_nodes
from eocube.model.window import Window, offset_yx


class Evaluation(NamedTuple):
    """What one task shares between its windows: the binding, frames made so far, and who hears of failed reads."""

    binding: Binding
    frames: Frames
    on_error: OnError | None = None


class Memo:
    """Results that one evaluation needs again: of nodes that a recipe uses more than once, by (node, window).

    Everything else is let go of as soon as the step that asked for it is done.
    """

    def __init__(self, node: Node):
        self._shared = shared_nodes(node)
        self.found: dict[tuple[int, Window], xr.Dataset] = {}

    def keeps(self, node: Node) -> bool:
        """Whether the node is used more than once."""
        return id(node) in self._shared


def evaluate(node: Node, window: Window, run: Evaluation, memo: Memo | None = None) -> xr.Dataset:
    """The window of a node's result as a NumPy-backed Dataset, labels from the whole frame.

    Identical (node, window) pairs are computed once per ``memo``.
    """
    memo = Memo(node) if memo is None else memo
    key = (id(node), window)
    if key in memo.found:
        return memo.found[key]
    if "source" in node:
        arrays = run.binding.sources[node["source"]].read(window, on_error=run.on_error)
        result = labelled(frame_of(node, run.binding, run.frames), window, arrays)
    else:
        result = _run_step(node, window, run, memo, extra_px=0)
    if memo.keeps(node):
        memo.found[key] = result
    return result


def _run_step(node: Node, window: Window, run: Evaluation, memo: Memo, *, extra_px: int) -> xr.Dataset:
    declared = run.binding.steps[node["step"]]
    outer, inner = frame_of(node, run.binding, run.frames), frame_of(node["in"], run.binding, run.frames)
    main, others = needs(node, window, run.binding, run.frames, extra_px=extra_px)
    args = {k: run.binding.replayed(v) for k, v in node["args"].items() if not is_cube_arg(v)}
    args |= {k: evaluate(need.node, need.window, run, memo) for k, need in others.items()}
    given = evaluate(main.node, main.window, run, memo)
    result: xr.Dataset = declared.fn(given, **args)
    if main.window == window and keeps_labels(given, result, inner, outer):
        return result
    origin = offset_yx(inner.geobox, outer.geobox, main.window.y[0], main.window.x[0])
    return crop(result, outer, window, origin_yx=origin, step=declared.name)


def probe(node: Node, window: Window, run: Evaluation, *, extra_px: int = 64) -> None:
    """Window invariance of the last step: with its halo and with ``extra_px`` more it must give equal bytes.

    StepContractError names the variable that differs: the declared halo is too small, or the step looks at the whole image.
    """
    narrow = _run_step(node, window, run, Memo(node), extra_px=0)
    wide = _run_step(node, window, run, Memo(node), extra_px=extra_px)
    for name in narrow.data_vars:
        a, b = narrow[name].values, wide[name].values
        if not np.array_equal(a, b, equal_nan=a.dtype.kind == "f"):
            n = int((~((a == b) | ((a != a) & (b != b)))).sum())
            raise StepContractError(
                f"Step {node['step']!r} gives {n} other pixels in {name!r} when its window is {extra_px} px wider: its halo_px "
                f"({run.binding.steps[node['step']].halo_px}) is too small, or it uses a statistic of the whole image "
                "(make that a fit_* pass)."
            )
