"""Cutting an image into tiles: a core that is kept, and a halo of context around it that is thrown away."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from eocube.errors import GridError


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One tile of an image, in its pixels."""

    core: tuple[slice, slice]
    """Rows and columns (y, x) that this tile answers for; the cores of all tiles cover each pixel once."""

    window: tuple[slice, slice]
    """Rows and columns (y, x) to read: core and halo, clipped at the image."""

    @property
    def shape_yx(self) -> tuple[int, int]:
        """Height and width of the window."""
        y, x = self.window
        return y.stop - y.start, x.stop - x.start

    def crop(self, scale: Fraction | int = 1) -> tuple[slice, slice]:
        """Rows and columns of the core inside a result of the window.

        Parameters
        ----------
        scale
            Result pixels per pixel. Where an end falls between two result pixels (only the edge of an image may), the part
            of a pixel is left out.

        Raises
        ------
        GridError
            If the core starts between two result pixels: cut with ``align_px`` = the denominator of ``scale``.
        """
        y, x = (_scaled(core, window, Fraction(scale)) for core, window in zip(self.core, self.window, strict=True))
        return y, x


def tiles(shape_yx: tuple[int, int], *, core_px: int, halo_px: int, align_px: int = 1) -> Iterator[Tile]:
    """Cut an image into tiles, row by row.

    Parameters
    ----------
    shape_yx
        Height and width of the image; an image without pixels has no tiles.
    core_px
        Edge of a core; the last ones of a row or column are as small as what is left.
    halo_px
        Context on each side, fewer pixels where the image ends.
    align_px
        Cores and windows start on multiples of this many pixels, and windows end on one or at the image's edge. A model with
        25/8 output pixels per input pixel needs 8, so that no output pixel belongs to two tiles. Halos grow to keep it.

    Yields
    ------
    Tiles whose cores cover each pixel of the image once.

    Raises
    ------
    GridError
        If a size is out of range, or ``core_px`` is not a multiple of ``align_px``.
    """
    if core_px < 1 or halo_px < 0 or align_px < 1 or core_px % align_px or min(shape_yx) < 0:
        raise GridError(
            f"Tiles of core_px={core_px} with halo_px={halo_px} and align_px={align_px} were asked for an image of {shape_yx}; "
            "core_px must be a positive multiple of align_px and nothing negative."
        )
    rows, columns = (list(_spans(size, core_px, halo_px, align_px)) for size in shape_yx)
    return (Tile(core=(y, x), window=(wy, wx)) for y, wy in rows for x, wx in columns)


def _spans(size: int, core_px: int, halo_px: int, align_px: int) -> Iterator[tuple[slice, slice]]:
    """Cores along one axis, and the window of each."""
    for start in range(0, size, core_px):
        stop = min(start + core_px, size)
        window_start = max(0, start - halo_px) // align_px * align_px
        window_stop = min(size, -(-(stop + halo_px) // align_px) * align_px)
        yield slice(start, stop), slice(window_start, window_stop)


def _scaled(core: slice, window: slice, scale: Fraction) -> slice:
    """The core's place in a result that starts where the window starts."""
    start, stop = (core.start - window.start) * scale, (core.stop - window.start) * scale
    if start.denominator != 1 or (window.start * scale).denominator != 1:
        raise GridError(
            f"A tile with its core at pixel {core.start} and its window at {window.start} starts between two pixels of a result "
            f"with {scale} pixels per pixel; cut the tiles with align_px={scale.denominator}."
        )
    return slice(int(start), int(stop))
