"""Up and down between nested grids, against torch, Pillow, scikit-image and numbers worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.transform import downscale_local_mean

from eocube.errors import GridError
from eocube.kernels.resample import BICUBIC_HALO_PX, block_mean, upsample_bicubic, upsample_nearest


def noise(*shape, seed=0):
    return np.random.default_rng(seed).random(shape, np.float32)


def plain_bicubic(a, scale, keys_a):
    """The twin: one fine pixel at a time in float64, straight from the definition."""
    ny, nx = a.shape

    def weight(d):
        d = abs(d)
        if d <= 1:
            return (keys_a + 2) * d**3 - (keys_a + 3) * d**2 + 1
        return keys_a * (d**3 - 5 * d**2 + 8 * d - 4) if d < 2 else 0

    out = np.full((ny * scale, nx * scale), np.nan)
    for y, x in np.ndindex(out.shape):
        centre = a[y // scale, x // scale]
        if np.isnan(centre):
            continue
        cy, cx = (y + 0.5) / scale - 0.5, (x + 0.5) / scale - 0.5
        total = 0.0
        for j in range(int(np.floor(cy)) - 1, int(np.floor(cy)) + 3):
            for i in range(int(np.floor(cx)) - 1, int(np.floor(cx)) + 3):
                value = a[min(max(j, 0), ny - 1), min(max(i, 0), nx - 1)]
                total += weight(cy - j) * weight(cx - i) * float(centre if np.isnan(value) else value)
        out[y, x] = total
    return out


def test_nearest_repeats_each_pixel_along_each_axis():
    a = np.array([[1, 2], [3, 4]], "uint8")
    out = upsample_nearest(a, (1, 3))
    assert out.dtype == a.dtype
    assert out.tolist() == [[1, 1, 1, 2, 2, 2], [3, 3, 3, 4, 4, 4]]
    assert upsample_nearest(a, (2, 1)).tolist() == [[1, 2], [1, 2], [3, 4], [3, 4]]


def test_nearest_leaves_other_axes_alone():
    assert upsample_nearest(np.zeros((5, 0, 2, 3)), (2, 4)).shape == (5, 0, 4, 12)


def test_bicubic_by_hand():
    # Twice as many pixels: fine pixels lie a quarter pixel off. Keys at 1.25, 0.25, 0.75, 1.75 for a = -0.5:
    # -9/128, 111/128, 29/128, -3/128.
    row = np.array([[0, 0, 128, 0, 0]], "float32")
    assert upsample_bicubic(row, 2)[0].tolist() == [0, -3, -9, 29, 111, 111, 29, -9, -3, 0]


@pytest.mark.parametrize("scale", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("holes", [0, 0.2])
@pytest.mark.parametrize("keys_a", [-0.5, -0.75])
def test_bicubic_equals_the_definition(scale, holes, keys_a):
    a = noise(9, 7, seed=scale)
    a[noise(9, 7, seed=99) < holes] = np.nan
    assert np.allclose(upsample_bicubic(a, scale, keys_a=keys_a), plain_bicubic(a, scale, keys_a), atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_bicubic_equals_torch_at_its_slope(scale):
    a = noise(2, 3, 20, 31)
    expected = torch.nn.functional.interpolate(torch.from_numpy(a), scale_factor=scale, mode="bicubic", align_corners=False)
    assert np.abs(upsample_bicubic(a, scale, keys_a=-0.75) - expected.numpy()).max() < 5e-6


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_bicubic_equals_pillow_away_from_the_edge(scale):
    """Pillow has Keys' slope too, but at an edge leaves neighbours out instead of repeating the last one."""
    a = noise(20, 24)
    expected = np.asarray(Image.fromarray(a).resize((24 * scale, 20 * scale), Image.Resampling.BICUBIC))
    inner = np.s_[2 * scale : -2 * scale, 2 * scale : -2 * scale]
    assert np.abs(upsample_bicubic(a, scale)[inner] - expected[inner]).max() < 1e-6


@pytest.mark.parametrize("scale", [2, 3])
def test_bicubic_reproduces_a_parabola_with_keys_slope_only(scale):
    y, x = np.mgrid[0:12, 0:12].astype("float64")
    fine_y, fine_x = ((n + 0.5) / scale - 0.5 for n in np.mgrid[0 : 12 * scale, 0 : 12 * scale])
    a = (0.01 * y * y + 0.02 * x * x - 0.03 * x * y + 0.1 * x).astype("float32")
    expected = 0.01 * fine_y**2 + 0.02 * fine_x**2 - 0.03 * fine_x * fine_y + 0.1 * fine_x
    inner = np.s_[2 * scale : -2 * scale, 2 * scale : -2 * scale]
    assert np.abs(upsample_bicubic(a, scale)[inner] - expected[inner]).max() < 1e-5
    assert np.abs(upsample_bicubic(a, scale, keys_a=-0.75)[inner] - expected[inner]).max() > 1e-4


def test_scale_one_gives_the_same_bits():
    a = noise(4, 5)
    a[1, 2] = np.nan
    assert upsample_bicubic(a, 1).tobytes() == a.tobytes()


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_nan_stays_in_its_own_pixel(scale):
    a = noise(7, 7)
    a[3, 4] = np.nan
    expected = np.zeros((7, 7), bool)
    expected[3, 4] = True
    assert np.array_equal(np.isnan(upsample_bicubic(a, scale)), upsample_nearest(expected, (scale, scale)))


def test_a_lonely_pixel_between_missing_ones_keeps_its_value():
    a = np.full((5, 5), np.nan, "float32")
    a[2, 2] = 0.3
    out = upsample_bicubic(a, 4)[8:12, 8:12]
    assert np.abs(out - np.float32(0.3)).max() < 1e-7


def test_a_constant_with_holes_stays_constant():
    a = np.where(noise(12, 12) < 0.5, np.nan, np.float32(0.7)).astype("float32")
    out = upsample_bicubic(a, 3)
    assert np.nanmax(np.abs(out - np.float32(0.7))) < 3e-7


def test_one_pixel_is_repeated():
    assert upsample_bicubic(np.array([[0.5]], "float32"), 3) == pytest.approx(np.full((3, 3), 0.5), abs=1e-7)


@pytest.mark.parametrize("shape", [(0, 4, 5), (2, 0, 5), (2, 4, 0)])
def test_nothing_is_upsampled_to_nothing(shape):
    out = upsample_bicubic(np.zeros(shape, "float32"), 2)
    assert out.shape == (shape[0], shape[1] * 2, shape[2] * 2)
    assert out.dtype == np.float32


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("holes", [0, 0.1])
def test_a_window_with_its_halo_gives_the_bits_of_the_whole(scale, holes):
    a = noise(2, 24, 37)
    a[noise(2, 24, 37, seed=5) < holes] = np.nan
    halo = BICUBIC_HALO_PX
    part = upsample_bicubic(a[:, 6 - halo : 17 + halo, 9 - halo : 30 + halo], scale)
    inner = np.s_[:, halo * scale : -halo * scale, halo * scale : -halo * scale]
    whole = upsample_bicubic(a, scale)[:, 6 * scale : 17 * scale, 9 * scale : 30 * scale]
    assert np.ascontiguousarray(part[inner]).tobytes() == np.ascontiguousarray(whole).tobytes()


def test_one_pixel_of_halo_would_not_be_enough():
    a = noise(9, 9)
    assert not np.array_equal(upsample_bicubic(a[3:], 2)[2:], upsample_bicubic(a, 2)[8:])


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32", "float64"])
def test_block_means_equal_scikit_image(dtype):
    a = (noise(6, 8, seed=3) * 200).astype(dtype)
    out = block_mean(a, 2)
    assert out.dtype == (np.float64 if dtype == "float64" else np.float32)
    assert np.allclose(out, downscale_local_mean(a.astype("float64"), (2, 2)), rtol=1e-6)


def test_block_mean_leaves_invalid_and_missing_pixels_out():
    a = np.array([[1, 3, 9, 9], [np.nan, 5, 9, 9]], "float32")
    valid = np.array([[1, 1, 0, 0], [1, 0, 0, 0]], bool)
    out = block_mean(a, 2, valid)
    assert out[0, 0] == 2
    assert np.isnan(out[0, 1])


def test_one_mask_serves_every_band():
    a = np.arange(8, dtype="uint16").reshape(2, 2, 2)
    assert block_mean(a, 2, np.array([[True, False], [False, True]])).ravel().tolist() == [1.5, 5.5]


def test_poison_in_invalid_pixels_never_shows():
    a, valid = noise(8, 8), noise(8, 8, seed=1) < 0.5
    for poison in (np.nan, np.inf, 1e38):
        poisoned = np.where(valid, a, np.float32(poison))
        assert block_mean(poisoned, 4, valid).tobytes() == block_mean(a, 4, valid).tobytes()


def test_large_numbers_do_not_overflow():
    assert block_mean(np.full((64, 64), 65535, "uint16"), 64).tolist() == [[65535.0]]


def test_block_mean_undoes_nearest():
    a = noise(3, 4, 5)
    assert np.array_equal(block_mean(upsample_nearest(a, (3, 3)), 3), a)


def test_no_blocks_give_no_pixels():
    assert block_mean(np.zeros((0, 4, 4)), 2).shape == (0, 2, 2)


def test_blocks_that_do_not_fill_the_image_are_refused():
    with pytest.raises(GridError, match=r"\(4, 5\)"):
        block_mean(np.zeros((4, 5)), 2)


def test_a_mask_that_does_not_fit_is_refused():
    with pytest.raises(GridError, match=r"\(3, 3\)"):
        block_mean(np.zeros((4, 4)), 2, np.ones((3, 3), bool))


@pytest.mark.parametrize("scale", [0, -2])
def test_a_scale_below_one_is_refused(scale):
    a = np.zeros((2, 2), "float32")
    for call in (lambda: upsample_bicubic(a, scale), lambda: upsample_nearest(a, (1, scale)), lambda: block_mean(a, scale)):
        with pytest.raises(GridError, match=str(scale)):
            call()
