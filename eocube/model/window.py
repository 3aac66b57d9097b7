"""Windows of a frame, and how an output window is traced back to the input it needs."""

from __future__ import annotations

import math
from typing import NamedTuple

from odc.geo.geobox import GeoBox

from eocube.errors import GridError

Span = tuple[int, int]
"""Half-open range of pixels, (start, stop)."""

_SNAP_PX = 1e-6
"""Edges this close to a whole pixel count as on it: two affines of one grid differ in their last bits."""


class Window(NamedTuple):
    """A piece of one frame: some dates, a rectangle of pixels, all bands."""

    times: tuple[int, ...]
    """Indices into the frame's dates, increasing."""

    y: Span
    x: Span

    @property
    def shape_yx(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.y[1] - self.y[0], self.x[1] - self.x[0]


def back_window(inner: GeoBox, outer: GeoBox, y: Span, x: Span, *, halo_px: int) -> tuple[Span, Span]:
    """The rectangle of ``inner`` that covers rectangle (y, x) of ``outer``, padded by ``halo_px`` and clipped to ``inner``.

    Goes through world coordinates, so pixel size and origin may differ freely; ``halo_px`` counts pixels of ``inner``.
    Raises GridError where the CRS differ: a step that reprojects reads through its source.
    """
    if inner.crs != outer.crs:
        raise GridError(
            f"A window in {outer.crs} cannot be traced to a cube in {inner.crs}. "
            "Load both on one grid (load_stac(..., geobox=other.odc.geobox)) before you combine them."
        )
    if inner != outer:
        to_inner = ~inner.affine @ outer.affine
        corners = [to_inner @ (float(cx), float(cy)) for cx in x for cy in y]
        x = _cover(min(c[0] for c in corners), max(c[0] for c in corners))
        y = _cover(min(c[1] for c in corners), max(c[1] for c in corners))
    ny, nx = inner.shape
    return _pad(y, halo_px, int(ny)), _pad(x, halo_px, int(nx))


def offset_yx(inner: GeoBox, outer: GeoBox, y0: int, x0: int) -> tuple[int, int]:
    """Where pixel corner (y0, x0) of ``inner`` lies in ``outer``, in whole pixels of ``outer``.

    Raises GridError where it does not lie on a corner of ``outer`` within 1e-3 px.
    """
    if inner == outer:
        return y0, x0
    px, py = (~outer.affine @ inner.affine) @ (float(x0), float(y0))
    if abs(px - round(px)) > 1e-3 or abs(py - round(py)) > 1e-3:
        raise GridError(f"Corner (y={y0}, x={x0}) lies at ({py}, {px}) of the other grid, between its pixels.")
    return round(py), round(px)


def _cover(low: float, high: float) -> Span:
    return math.floor(low + _SNAP_PX), math.ceil(high - _SNAP_PX)


def _pad(span: Span, halo_px: int, size: int) -> Span:
    start, stop = max(0, span[0] - halo_px), min(size, span[1] + halo_px)
    return (start, max(start, stop)) if start < size else (size, size)
