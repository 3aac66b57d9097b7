"""The part of a cube that is one site, as a source of its own: to look at a site of a corpus whose cubes hold many."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from eocube.model.frame import Frame
from eocube.model.hashing import digest
from eocube.model.recipe import Arrays, Cost, Node, OnError, Scratching, Source
from eocube.model.spec import Place
from eocube.model.window import Window


@dataclass(frozen=True, kw_only=True)
class Placed:
    """See :class:`eocube.model.recipe.Source`."""

    inner: Source
    """Of the whole cube."""

    place: Place

    def node(self, inner: Node) -> Node:
        """Its entry in a recipe, from that of the whole cube."""
        return {**inner, "source": digest([inner["source"], self.place.site])}

    def frame(self) -> Frame:
        """See :class:`eocube.model.recipe.Source`: the site's pixels only."""
        whole = self.inner.frame()
        return replace(whole, geobox=whole.geobox[slice(*self.place.y), slice(*self.place.x)])

    def read(self, window: Window, *, names: tuple[str, ...] | None = None, on_error: OnError | None = None) -> Arrays:
        """See :class:`eocube.model.recipe.Source`."""
        return self.inner.read(self._inside(window), names=names, on_error=on_error)

    def _inside(self, window: Window) -> Window:
        (y0, y1), (x0, x1) = window.y, window.x
        up, left = self.place.y[0], self.place.x[0]
        return Window(window.times, (up + y0, up + y1), (left + x0, left + x1))

    def ids(self, window: Window) -> list[list[Any]]:
        """See :class:`eocube.model.recipe.Source`."""
        return self.inner.ids(self._inside(window))

    def cost(self, window: Window) -> Cost:
        """See :class:`eocube.model.recipe.Source`."""
        return self.inner.cost(self._inside(window))

    def scratch_bytes(self, window: Window) -> int:
        """See :class:`eocube.model.recipe.Scratching`."""
        return self.inner.scratch_bytes(self._inside(window)) if isinstance(self.inner, Scratching) else 0

    def assets(self) -> list[dict[str, Any]]:
        """See :class:`eocube.model.recipe.Source`."""
        return self.inner.assets()

    def token(self) -> str:
        """See :class:`eocube.model.recipe.Source`."""
        return digest([self.inner.token(), list(self.place)])

    @property
    def block_yx(self) -> tuple[int, int]:
        """See :class:`eocube.model.recipe.Source`."""
        return self.inner.block_yx
