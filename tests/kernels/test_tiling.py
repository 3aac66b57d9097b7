"""Tiles: cores, halos and the crop between them."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from eocube.errors import GridError
from eocube.kernels.tiling import Tile, tiles


def spans(tile):
    """((core rows), (core columns)), ((window rows), (window columns))."""
    return [[(s.start, s.stop) for s in pair] for pair in (tile.core, tile.window)]


def test_one_row_of_tiles_by_hand():
    found = [spans(t) for t in tiles((4, 10), core_px=4, halo_px=2)]
    assert found == [
        [[(0, 4), (0, 4)], [(0, 4), (0, 6)]],
        [[(0, 4), (4, 8)], [(0, 4), (2, 10)]],
        [[(0, 4), (8, 10)], [(0, 4), (6, 10)]],
    ]


def test_tiles_come_row_by_row():
    starts = [(t.core[0].start, t.core[1].start) for t in tiles((5, 5), core_px=3, halo_px=0)]
    assert starts == [(0, 0), (0, 3), (3, 0), (3, 3)]


def test_an_image_smaller_than_a_core_is_one_tile_without_halo():
    (tile,) = tiles((3, 2), core_px=64, halo_px=8)
    assert tile.window == tile.core == (slice(0, 3), slice(0, 2))
    assert tile.shape_yx == (3, 2)


@pytest.mark.parametrize("shape_yx", [(0, 0), (0, 5), (5, 0)])
def test_an_image_without_pixels_has_no_tiles(shape_yx):
    assert not list(tiles(shape_yx, core_px=4, halo_px=1))


def test_crop_takes_the_core_out_of_the_window():
    image = np.arange(70).reshape(7, 10)
    for tile in tiles(image.shape, core_px=3, halo_px=2):
        assert np.array_equal(image[tile.window][tile.crop()], image[tile.core])


def test_crop_scales_to_a_finer_result():
    tile = Tile(core=(slice(4, 8), slice(0, 4)), window=(slice(2, 10), slice(0, 6)))
    assert tile.crop(4) == (slice(8, 24), slice(0, 16))


def test_windows_grow_to_the_alignment():
    # A halo of 5 reaches back from 16 to 11 and on from 32 to 37; on a grid of 8 that is 8 and 40.
    tile = list(tiles((1, 64), core_px=16, halo_px=5, align_px=8))[1]
    assert tile.window[1] == slice(8, 40)


@pytest.mark.parametrize("scale", [Fraction(25, 8), Fraction(10, 3)])
def test_a_fractional_scale_crops_whole_pixels_when_aligned(scale):
    n = scale.denominator
    cut = [t.crop(scale)[1] for t in tiles((n, 6 * n), core_px=2 * n, halo_px=1, align_px=n)]
    assert [c.stop - c.start for c in cut] == [2 * scale.numerator] * 3
    assert [c.start for c in cut] == [0, scale.numerator, scale.numerator]


def test_a_fractional_scale_without_alignment_is_refused_and_names_the_remedy():
    with pytest.raises(GridError, match="align_px=3"):
        [t.crop(Fraction(10, 3)) for t in tiles((8, 8), core_px=4, halo_px=1)]


def test_a_window_between_two_result_pixels_is_refused_though_its_halo_is_whole():
    tile = Tile(core=(slice(4, 7), slice(4, 7)), window=(slice(1, 9), slice(1, 9)))
    with pytest.raises(GridError, match="window at 1"):
        tile.crop(Fraction(10, 3))


@pytest.mark.parametrize(("core_px", "halo_px", "align_px"), [(0, 0, 1), (4, -1, 1), (4, 0, 0), (4, 0, 3), (-4, 0, 1)], ids=str)
def test_sizes_that_cut_nothing_are_refused(core_px, halo_px, align_px):
    with pytest.raises(GridError, match=f"core_px={core_px}"):
        tiles((8, 8), core_px=core_px, halo_px=halo_px, align_px=align_px)


def test_a_million_tiles_are_not_made_before_they_are_asked_for():
    first = next(tiles((1_000_000, 1_000_000), core_px=1000, halo_px=8))
    assert first.window == (slice(0, 1008), slice(0, 1008))
