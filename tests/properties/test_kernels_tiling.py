"""What tiling means: cores partition the image, and a tiled local operation equals the whole one."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from eocube.kernels.resample import BICUBIC_HALO_PX, upsample_bicubic
from eocube.kernels.tiling import tiles

sizes = st.tuples(st.integers(0, 30), st.integers(0, 30))
scales = st.sampled_from([Fraction(s) for s in ("1", "2", "4", "10/3", "25/8", "3/2")])


@given(sizes, st.integers(1, 6), st.integers(0, 9), st.integers(1, 5))
def test_cores_cover_each_pixel_once_and_windows_hold_their_halo(shape_yx, cores, halo_px, align_px):
    seen = np.zeros(shape_yx, int)
    for tile in tiles(shape_yx, core_px=cores * align_px, halo_px=halo_px, align_px=align_px):
        seen[tile.core] += 1
        for core, window, size in zip(tile.core, tile.window, shape_yx, strict=True):
            assert core.start % align_px == window.start % align_px == 0
            assert window.stop % align_px == 0 or window.stop == size
            assert 0 <= window.start <= max(0, core.start - halo_px)
            assert size >= window.stop >= min(size, core.stop + halo_px)
            # Not more than the alignment asks for.
            assert window.start > core.start - halo_px - align_px
            assert window.stop < core.stop + halo_px + align_px
    assert (seen == 1).all()


@given(sizes, st.integers(1, 3), st.integers(0, 9), scales)
def test_scaled_cores_cover_each_fine_pixel_once(shape_yx, cores, halo_px, scale):
    """The window's pixels encode their place in the fine image, as a model with this scale would give them."""
    fine_shape = [int(n * scale) for n in shape_yx]
    places = np.arange(np.prod(fine_shape, dtype=int)).reshape(fine_shape)
    found = []
    for tile in tiles(shape_yx, core_px=cores * scale.denominator, halo_px=halo_px, align_px=scale.denominator):
        start_y, start_x = (int(w.start * scale) for w in tile.window)
        height, width = (int(n * scale) for n in tile.shape_yx)
        result = places[start_y : start_y + height, start_x : start_x + width]
        found.extend(result[tile.crop(scale)].ravel())
    assert sorted(found) == list(range(places.size))


@given(st.tuples(st.integers(1, 20), st.integers(1, 20)), st.integers(1, 7), st.integers(1, 4), st.integers(0, 99))
def test_tiled_bicubic_gives_the_bits_of_the_whole(shape_yx, core_px, scale, seed):
    rng = np.random.default_rng(seed)
    image = rng.random(shape_yx, np.float32)
    image[rng.random(shape_yx) < 0.1] = np.nan
    whole = upsample_bicubic(image, scale)
    for tile in tiles(shape_yx, core_px=core_px, halo_px=BICUBIC_HALO_PX):
        part = upsample_bicubic(image[tile.window], scale)[tile.crop(scale)]
        y, x = (slice(c.start * scale, c.stop * scale) for c in tile.core)
        assert np.ascontiguousarray(part).tobytes() == np.ascontiguousarray(whole[y, x]).tobytes()
