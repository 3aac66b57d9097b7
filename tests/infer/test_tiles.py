"""Tiles of one shape: cores cover the region, and through the pool they give what the whole image gives."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eocube.errors import ModelError
from eocube.infer.pool import TileInput, run_overlapped
from eocube.infer.tiles import tiles_for
from eocube.kernels.tiling import tiles
from eocube.testing.models import NearestModel
from tests.infer.test_torch_model import one_batch, small_model


class CrossModel(NearestModel):
    """Nearest, after adding to each pixel four at a distance: a halo of 3 in whole numbers; beyond the image there is 7."""

    halo_px = 3

    def __call__(self, lr, *, valid, days):
        _, _, _, height, width = lr.shape
        padded = np.pad(lr, ((0, 0),) * 3 + ((3, 3), (3, 3)), constant_values=7)
        moved = [padded[..., 3 + y : 3 + y + height, 3 + x : 3 + x + width] for y, x in ((3, 0), (-3, 0), (0, 3), (0, -3))]
        return super().__call__(lr + sum(moved), valid=valid, days=days)


@dataclass(frozen=True)
class Region:
    """An output shard of an image."""

    yx: tuple[slice, slice]
    tiles: tuple

    @property
    def name(self):
        return str(self.yx)

    @property
    def n_tiles(self):
        return len(self.tiles)


def regions_of(model, shape_yx, tile_px, shard_px):
    for y in range(0, shape_yx[0], shard_px):
        for x in range(0, shape_yx[1], shard_px):
            yx = (slice(y, min(y + shard_px, shape_yx[0])), slice(x, min(x + shard_px, shape_yx[1])))
            yield Region(yx, tuple(tiles_for(model, yx, shape_yx=shape_yx, tile_px=tile_px)))


def through_the_pool(model, lr, valid, days, *, tile_px, shard_px, **kwargs):
    """The whole image (1, revisit, band, y, x), shard by shard."""
    shape_yx = lr.shape[-2:]
    out = np.full((len(model.bands_out), *(int(n * model.scale) for n in shape_yx)), np.nan, np.float32)

    def read(region):
        for tile in region.tiles:
            yield TileInput(tile, lr[0, ..., *tile.window], valid[0, ..., *tile.window], days[0])

    def write(region, outputs):
        for tile, pixels in outputs:
            place = tuple(slice(int(core.start * model.scale), int(core.stop * model.scale)) for core in tile.core)
            crop = tile.crop(model.scale)
            assert np.isnan(out[:, *place]).all(), "two tiles gave one pixel"
            out[:, *place] = pixels[:, *crop]

    regions = regions_of(model, shape_yx, tile_px, shard_px)
    run_overlapped(regions, read=read, model=model, write=write, tile_yx=(tile_px, tile_px), **kwargs)
    return out


def image(model, shape_yx):
    lr = np.arange(np.prod(shape_yx), dtype=np.float32).reshape(1, 1, 1, *shape_yx)
    return lr, np.ones((1, 1, *shape_yx), bool), np.zeros((1, 1), np.float32)


@settings(max_examples=150, deadline=None)
@given(
    scale=st.sampled_from([Fraction(1), Fraction(2), Fraction(3, 2), Fraction(10, 3), Fraction(25, 8)]),
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    cores=st.integers(1, 3),
    shard=st.integers(1, 4),
    halo_px=st.sampled_from([0, 1, 3]),
)
def test_cores_cover_each_pixel_once_and_windows_have_one_shape(scale, height, width, cores, shard, halo_px):
    model = NearestModel(scale)
    model.halo_px = halo_px
    step = scale.denominator
    margin = -(-halo_px // step) * step
    tile_px = 2 * margin + cores * step
    seen = np.zeros((height, width), int)
    for region in regions_of(model, (height, width), tile_px, shard * step):
        for tile in region.tiles:
            seen[tile.core] += 1
            for core, window, size in zip(tile.core, tile.window, (height, width), strict=True):
                assert window.start % step == core.start % step == 0
                assert max(0, core.start - margin) >= window.start >= 0
                assert min(size, core.stop + margin) <= window.stop <= size
                assert min(tile_px, size) - step < window.stop - window.start <= tile_px
                if size % step == 0:
                    assert window.stop - window.start == min(tile_px, size)
    assert (seen == 1).all()


@settings(max_examples=60, deadline=None)
@given(
    scale=st.sampled_from([Fraction(1), Fraction(2), Fraction(3, 2), Fraction(10, 3)]),
    steps_y=st.integers(1, 25),
    steps_x=st.integers(1, 25),
    cores=st.integers(1, 4),
    shard=st.integers(1, 12),
    batch_size=st.integers(1, 7),
    bound=st.sampled_from([0, 20_000, 10**9]),
)
def test_through_the_pool_an_image_equals_one_whole_forward(scale, steps_y, steps_x, cores, shard, batch_size, bound):
    """For any size at least as large as a tile, tile, shard and batch, to the last bit: no seam, and the true edge."""
    model, step = CrossModel(scale, bands=("red",)), scale.denominator
    tile_px = (2 * -(-3 // step) + cores) * step
    shape_yx = (max(steps_y * step, tile_px), max(steps_x * step, tile_px))
    lr, valid, days = image(model, shape_yx)
    sizes = {"tile_px": tile_px, "shard_px": shard * step, "batch_size": batch_size, "max_bytes_in_flight": bound}
    np.testing.assert_array_equal(through_the_pool(model, lr, valid, days, **sizes), model(lr, valid=valid, days=days)[0])


@pytest.mark.parametrize("shape_yx", [(1, 1), (1, 40), (5, 9), (13, 40)])
def test_an_image_smaller_than_a_tile_is_the_corner_of_one_filled_up_with_nothing(shape_yx):
    model = CrossModel(2, bands=("red",))
    lr, valid, days = image(model, shape_yx)
    filled = [max(n, 20) for n in shape_yx]
    whole_lr, whole_valid = np.zeros((1, 1, 1, *filled), "f4"), np.zeros((1, 1, *filled), bool)
    whole_lr[..., : shape_yx[0], : shape_yx[1]], whole_valid[..., : shape_yx[0], : shape_yx[1]] = lr, valid
    expected = model(whole_lr, valid=whole_valid, days=days)[0, :, : 2 * shape_yx[0], : 2 * shape_yx[1]]
    out = through_the_pool(model, lr, valid, days, tile_px=20, shard_px=16, batch_size=3, max_bytes_in_flight=10**9)
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize(("shape_yx", "tile_px", "shard_px"), [((40, 56), 16, 20), ((33, 47), 20, 64), ((16, 90), 16, 7)])
def test_a_torch_network_tiled_through_the_pool_equals_its_whole_forward(shape_yx, tile_px, shard_px):
    model = small_model()
    lr, valid, days = one_batch(shape_yx=shape_yx)
    sizes = {"tile_px": tile_px, "shard_px": shard_px, "max_bytes_in_flight": 200_000}
    whole = model(lr, valid=valid, days=days)[0]
    out = through_the_pool(model, lr, valid, days, batch_size=5, **sizes)
    np.testing.assert_allclose(out, whole, rtol=0, atol=1e-6)
    again = through_the_pool(model, lr, valid, days, batch_size=5, n_readers=3, n_writers=2, **sizes)
    np.testing.assert_array_equal(again, out)


def test_a_halo_too_small_by_a_pixel_shows_as_a_seam():
    """The test above can fail."""
    model = small_model()
    lr, valid, days = one_batch(shape_yx=(40, 56))
    whole = model(lr, valid=valid, days=days)[0]
    model.halo_px = 2
    out = through_the_pool(model, lr, valid, days, tile_px=16, shard_px=20, batch_size=5, max_bytes_in_flight=10**9)
    assert np.abs(out - whole).max() > 1e-5


def test_a_torch_network_on_windows_clipped_at_the_image_equals_its_whole_forward():
    """The plain twin: a call per tile, of whatever shape, with the tiles of the kernels."""
    model, shape_yx = small_model(), (33, 47)
    lr, valid, days = one_batch(shape_yx=shape_yx)
    whole = model(lr, valid=valid, days=days)[0]
    for tile in tiles(shape_yx, core_px=10, halo_px=model.halo_px):
        out = model(lr[..., *tile.window].copy(), valid=valid[..., *tile.window].copy(), days=days)[0]
        y, x = (slice(2 * core.start, 2 * core.stop) for core in tile.core)
        np.testing.assert_allclose(out[:, *tile.crop(2)], whole[:, y, x], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("tile_px", "start", "why"),
    [(6, 0, "no core left beside a halo of 3"), (6, 3, "as above"), (13, 0, "not a multiple of 2"), (16, 5, "starts between")],
)
def test_tiles_that_cannot_be_are_refused(tile_px, start, why):
    model = CrossModel("3/2")
    with pytest.raises(ModelError, match=r"halo of 4 pixels .* multiples of 2\. Choose a multiple of 2 above 8"):
        list(tiles_for(model, (slice(start, 20), slice(0, 20)), shape_yx=(20, 20), tile_px=tile_px))
