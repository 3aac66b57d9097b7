"""A recorded node as a source: its lazy blocks are evaluations."""

from __future__ import annotations

from typing import Any

from eocube.exec.evaluate import Evaluation, evaluate
from eocube.model.frame import Frame
from eocube.model.hashing import digest
from eocube.model.recipe import Arrays, Binding, Cost, Node, OnError, frame_of, trace
from eocube.model.window import Window


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
