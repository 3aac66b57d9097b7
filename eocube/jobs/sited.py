"""How a cube is cut where a corpus says so, and which sites lie in it: taken over from what a chain begins with."""

from __future__ import annotations

import math

from odc.geo.geobox import GeoBox

from eocube.errors import GridError
from eocube.model.frame import Frame
from eocube.model.recipe import Binding, Node, Sited, input_names
from eocube.model.spec import Cut, Place
from eocube.model.window import Span

_SNAP_PX = 1e-6
"""Edges this close to a whole pixel lie on it: two affines of one grid differ in their last bits."""


def laid_out(node: Node, binding: Binding, frame: Frame) -> tuple[Cut | None, tuple[Place, ...] | None]:
    """The cut and the sites of a chain's result, from the source that it begins with; ``frame`` is the result's.

    A source's own cube is cut as it says. The result of steps on one in which sites lie has shards for the same sites, though its
    pixels may be of another size; of other chains the layout decides.

    Raises GridError where sites do not lie on whole pixels of the result.
    """
    first = next(iter(input_names(node)))
    source = binding.sources[first]
    if not isinstance(source, Sited):
        return None, None
    cut, places = source.cut, source.places
    if "source" in node or places is None or cut is None:
        return (cut if "source" in node else None), places
    inner, outer = source.frame().geobox, frame.geobox
    if inner.crs != outer.crs:
        raise GridError(
            f"The sites of the cube lie in {inner.crs}, what is made of it in {outer.crs}: write each site by itself "
            "(Store.cube(site, product))."
        )
    moved = [Place(p.site, _moved(inner, outer, p.y, axis="y"), _moved(inner, outer, p.x, axis="x")) for p in places]
    (ct, *chunk_yx), (st, *shard_yx) = cut.chunk_tyx, cut.shard_tyx
    scale = (inner.affine.e / outer.affine.e, inner.affine.a / outer.affine.a)
    cy, cx, sy, sx = (_whole(n * s) for n, s in zip((*chunk_yx, *shard_yx), scale * 2, strict=True))
    return Cut(chunk_tyx=(ct, cy, cx), shard_tyx=(st, sy, sx), bands_apart=cut.bands_apart), tuple(moved)


def _moved(inner: GeoBox, outer: GeoBox, span: Span, *, axis: str) -> Span:
    """A range of rows or columns on another grid."""
    to_outer = ~outer.affine @ inner.affine
    low, high = ((to_outer @ ((float(n), 0.0) if axis == "x" else (0.0, float(n))))[axis == "y"] for n in span)
    return _whole(low), _whole(high)


def _whole(edge_px: float) -> int:
    if not math.isclose(edge_px, round(edge_px), abs_tol=_SNAP_PX):
        raise GridError(
            f"A site's edge lies at {edge_px:g} px of what is made of its cube, not on a whole pixel. Choose a pixel size that "
            "divides the sites."
        )
    return round(edge_px)
