"""Which tiles of one shape a region of an image needs for a model."""

from __future__ import annotations

from collections.abc import Iterator

from eocube.errors import ModelError
from eocube.infer.model import Model
from eocube.kernels.tiling import Tile


def tiles_for(model: Model, region_yx: tuple[slice, slice], *, shape_yx: tuple[int, int], tile_px: int) -> Iterator[Tile]:
    """Cut a region (an output shard, say) into tiles whose windows all have ``tile_px`` pixels on a side.

    At the image's edge a window is moved inward and not cut, so that the network meets the true edge in a tile of the usual
    shape: tiles then give what the whole image gives. Only an image smaller than a tile has smaller windows, and one whose
    size is no multiple of the scale's denominator has last windows shorter by less than it; the pool fills them up.

    Parameters
    ----------
    model
        Its halo, and the denominator of its scale, of which window and core origins are multiples.
    region_yx
        Rows and columns of the image; they start on a multiple of the denominator.
    shape_yx
        Height and width of the image, from which context beyond the region is read.
    tile_px
        Edge of core and halo together, a multiple of the denominator: the pool's ``tile_yx`` is ``(tile_px, tile_px)``.

    Yields
    ------
    Tiles, row by row, whose cores cover the region once. ``tile.crop(model.scale)`` is the core in the tile's output.

    Raises
    ------
    ModelError
        If the halo leaves no room for a core, or an edge stands between two output pixels.
    """
    step = model.scale.denominator
    margin_px = -(-model.halo_px // step) * step
    core_px = tile_px - 2 * margin_px
    if core_px < 1 or tile_px % step or any(axis.start % step for axis in region_yx):
        raise ModelError(
            f"Tiles of {tile_px} pixels were asked for rows {region_yx[0].start}:{region_yx[0].stop}, columns "
            f"{region_yx[1].start}:{region_yx[1].stop}; this model needs a halo of {margin_px} pixels on each side and origins "
            f"at multiples of {step}. Choose a multiple of {step} above {2 * margin_px}, and a region that starts on one."
        )
    rows, columns = (
        list(_spans(region, size, core_px, margin_px, step)) for region, size in zip(region_yx, shape_yx, strict=True)
    )
    return (Tile(core=(y, x), window=(window_y, window_x)) for y, window_y in rows for x, window_x in columns)


def _spans(region: slice, size: int, core_px: int, margin_px: int, step: int) -> Iterator[tuple[slice, slice]]:
    """Cores along one axis, and the window of each: as far back as the last one that still reaches the image's end."""
    tile_px = core_px + 2 * margin_px
    last_start = max(0, -(-(size - tile_px) // step) * step)
    for start in range(region.start, region.stop, core_px):
        window_start = min(max(0, start - margin_px), last_start)
        yield slice(start, min(start + core_px, region.stop)), slice(window_start, min(window_start + tile_px, size))
