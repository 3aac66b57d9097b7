"""Grids that do not nest, axis by axis: taps by hand, ramps, sums, masks, windows, and GDAL's average beside it."""

from __future__ import annotations

import numpy as np
import pytest
from affine import Affine
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from rasterio.warp import Resampling, reproject

from eocube.errors import GridError
from eocube.kernels.regrid import AxisMap, gaussian, mtf_variance, regrid
from eocube.kernels.resample import BICUBIC_HALO_PX, block_mean, upsample_bicubic

STEPS = {
    "nested 2": (2.0, 0.0),
    "10/3": (10 / 3, 0.0),
    "3.988": (3.988, 0.31),
    "2.00012": (2.00012, 0.0),
    "6.35": (1054 / 166, 0.0),
    "half a pixel": (1.0, 0.5),
    "a little more than 1": (1.0038, 0.2),
    "up 0.97": (0.97, 0.4),
    "up 1/3": (1 / 3, 0.0),
    "flipped": (-10 / 3, 200.0),
}


def across(size, step, origin=0.0, **options):
    """A map, and all target pixels that lie inside the source."""
    axis = AxisMap(size=size, origin=origin, step=step, **options)
    far = int((size + abs(origin)) / abs(step)) + 2
    inside = [i for i in range(far) if axis.covers((i, i + 1))]
    return axis, (inside[0], inside[-1] + 1) if inside else (0, 0)


def matrix(taps, size):
    """The twin of the tables: what each target pixel makes of each source pixel alone."""
    pixels, _ = regrid(np.eye(size), None, AxisMap(size=size, origin=0, step=1).taps((0, size)), taps)
    return pixels.T


axes = st.builds(
    lambda size, step, up, flip, origin, nearest, blur: AxisMap(
        size=size,
        origin=origin + (size if flip else 0),
        step=(1 / step if up else step) * (-1 if flip else 1),
        nearest=nearest,
        blur=0.0 if nearest else blur,
    ),
    st.integers(1, 24),
    st.floats(1, 7) | st.sampled_from([1.0, 2.0, 3.0, 10 / 3, 4.0]),
    st.booleans(),
    st.booleans(),
    st.floats(-3, 3) | st.sampled_from([0.0, 0.5, 1.0]),
    st.booleans(),
    st.sampled_from([0.0, 0.3, 2.0]),
)


def test_ten_thirds_by_hand():
    # Pixel 0 covers 0 to 3.333 of 200: three whole pixels, and the first third of pixel 3, whose middle lies 1/3 before its
    # centre; a third of a pixel is a tenth of the whole, and the slope is half of what lies between pixels 2 and 4.
    taps = AxisMap(size=200, origin=0, step=10 / 3).taps((0, 1))
    assert (taps.first[0], taps.counts[0]) == (0, 5)
    assert taps.weights[0] == pytest.approx([0.3, 0.3, 0.3 + 1 / 60, 0.1, -1 / 60])


def test_half_a_pixel_between_whole_pixels_by_hand():
    # Half of each of two pixels, with slopes: what Keys' cubic has half-way, too.
    area = AxisMap(size=9, origin=0.5, step=1).taps((3, 4))
    assert area.first[0] == 2
    assert area.weights[0] == pytest.approx(np.array([-1, 9, 9, -1]) / 16)


def test_beyond_the_first_pixel_the_image_is_reflected_through_it():
    # Centre at 0.25, a quarter before that of pixel 0: Keys at -1.25, -0.25, 0.75, 1.75 of pixels -2, -1 … with pixel -1 twice
    # pixel 0 less pixel 1, and pixel -2 twice pixel 0 less pixel 2.
    taps = AxisMap(size=9, origin=0, step=0.5).taps((0, 1))
    w = np.array([-3, 29, 111, -9]) / 128  # pixels -2, -1, 0, 1
    assert taps.weights[0] == pytest.approx([w[2] + 2 * w[0] + 2 * w[1], w[3] - w[1], -w[0]])


@pytest.mark.parametrize("name", STEPS)
def test_a_constant_stays_the_same_bits(name):
    step, origin = STEPS[name]
    axis, span = across(200, step, origin)
    pixels, valid = regrid(np.full((200, 200), 1234, "uint16"), None, axis.taps(span), axis.taps(span))
    assert valid.all()
    assert np.unique(pixels).tolist() == [1234]


@settings(max_examples=150, deadline=None)
@given(axes)
def test_ramps_hold_to_the_last_pixel(axis):
    assume(axis.size > 1 and not axis.nearest)
    span = (0, 40)
    taps = axis.taps(span)
    centres = (taps.first[:, None] + np.arange(taps.weights.shape[1]) + 0.5) * taps.weights
    made = taps.counts > 0
    at = axis.origin + (np.arange(*span) + 0.5) * axis.step
    assert centres.sum(axis=1)[made] == pytest.approx(at[made], abs=3e-6)
    assert taps.weights.sum(axis=1)[made] == pytest.approx(1)
    assert made.tolist() == [axis.covers((i, i + 1)) for i in range(*span)]


@pytest.mark.parametrize("dtype", ["uint8", "int16", ">u2", "int32", "float16", "float32", "float64"])
def test_where_nothing_moves_pixels_are_copied(dtype):
    a = (np.random.default_rng(0).random((2, 7, 9)) * 200 - (0 if "u" in dtype else 100)).astype(dtype)
    a[0, 0, 0] = -0.0
    # The last bits of an affine are not a shift.
    y = AxisMap(size=7, origin=3e-9, step=1 + 1e-10).taps((0, 7))
    x = AxisMap(size=9, origin=-2e-9, step=1 - 1e-10).taps((0, 9))
    pixels, valid = regrid(a, None, y, x)
    assert pixels.tobytes() == a.astype("float32").tobytes()
    assert valid.all()


@pytest.mark.parametrize("factor", [2, 3, 4, 5, 7])
@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_on_nested_grids_it_is_the_block_mean(factor, dtype):
    a = (np.random.default_rng(factor).random((3, 30 * factor, 20 * factor)) * 9000).astype(dtype)
    # Grids in degrees: the edges of blocks are whole numbers only up to rounding.
    pixel, left = 2.7e-6, -115.30716
    y, x = (
        AxisMap(size=n * factor, origin=(left - left) / pixel + 4e-9, step=(pixel * factor) / pixel + 1e-12).taps((0, n))
        for n in (30, 20)
    )
    assert y.weights.shape == (30, factor)
    pixels, _ = regrid(a, None, y, x)
    np.testing.assert_allclose(pixels, block_mean(a, factor), rtol=1e-7)


def test_sums_are_kept():
    a = np.random.default_rng(0).random((200, 200))
    axis, span = across(200, 10 / 3)
    assert span == (0, 60)
    pixels, _ = regrid(a, None, axis.taps(span), axis.taps(span))
    assert pixels.sum(dtype="float64") * (10 / 3) ** 2 == pytest.approx(a.sum(), rel=1e-6)


def waves(size, step, start=0.0):
    """Exact means of a smooth scene over square pixels of ``step``."""
    at = start + np.arange(size) * step
    mean = [(np.sin(f * (at + step)) - np.sin(f * at)) / (f * step) for f in (0.31, 0.13, 0.05)]
    return sum(np.outer(a, b) for a in mean for b in mean)


def test_gdals_average_is_the_same_to_first_order():
    a, truth = waves(200, 1), waves(60, 10 / 3)
    axis, span = across(200, 10 / 3)
    ours, _ = regrid(a, None, axis.taps(span), axis.taps(span))
    theirs = np.empty((60, 60))
    reproject(
        a,
        theirs,
        src_transform=Affine(3, 0, 5e5, 0, -3, 5e6),
        dst_transform=Affine(10, 0, 5e5, 0, -10, 5e6),
        src_crs="EPSG:32633",
        dst_crs="EPSG:32633",
        resampling=Resampling.average,
    )
    near, far = (np.sqrt(np.mean((b - truth) ** 2)) / truth.std() for b in (ours, theirs))
    # First order leaves out the slopes within cut pixels, second order the curvature.
    assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.999
    assert ours.mean() == pytest.approx(theirs.mean(), abs=1e-4 * truth.std())
    assert near < 0.002
    assert far > 0.01


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_enlarging_nested_grids_is_bicubic(scale):
    a = np.random.default_rng(0).random((12, 15), np.float32)
    y, x = (AxisMap(size=n, origin=0, step=1 / scale).taps((0, n * scale)) for n in a.shape)
    pixels, valid = regrid(a, None, y, x)
    assert valid.all()
    # upsample_bicubic repeats pixels beyond the edge, so that positions do not hold there.
    inner = slice(BICUBIC_HALO_PX * scale, -BICUBIC_HALO_PX * scale)
    np.testing.assert_allclose(pixels[inner, inner], upsample_bicubic(a, scale)[inner, inner], atol=1e-6)


def test_nearest_takes_the_pixel_that_holds_the_centre():
    classes = np.arange(20, dtype="uint8")[None].repeat(20, axis=0)
    axis, span = across(20, 10 / 3, nearest=True)
    pixels, _ = regrid(classes, None, axis.taps(span), axis.taps(span))
    assert pixels[0].tolist() == [1, 5, 8, 11, 15, 18]  # centres at 1.67, 5, 8.33 …; 5.0 is an edge: the later pixel
    doubled = AxisMap(size=20, origin=1e-9, step=2, nearest=True).taps((0, 3))
    assert doubled.first.tolist() == [1, 3, 5]


@pytest.mark.parametrize("ratio", [2, 10 / 3, 4, 1054 / 166])
@pytest.mark.parametrize("mtf", [0.15, 0.3, 0.9])
def test_the_blur_leaves_the_asked_share_of_a_wave_at_nyquist(ratio, mtf):
    size = 400
    wave = np.exp(1j * np.pi * (np.arange(size) + 0.5) / ratio)
    plain, blurred = (across(size, ratio, blur=blur) for blur in (0.0, mtf_variance(mtf, ratio)))
    middle = slice(12, -12)
    rows = AxisMap(size=2, origin=0, step=1).taps((0, 2))
    parts = np.stack([wave.real, wave.imag])
    box, both = (regrid(parts, None, rows, axis.taps(span))[0][:, middle].astype("float64") for axis, span in (plain, blurred))
    share = np.hypot(*both).mean() / np.hypot(*box).mean()
    assert share == pytest.approx(mtf, rel=0.01)


def test_the_gaussian_tends_to_the_continuous_one():
    variance, sigma = mtf_variance(0.3, 40), 40 / np.pi * np.sqrt(-2 * np.log(0.3))
    assert np.sqrt(variance) == pytest.approx(sigma, rel=1e-3)
    weights = gaussian(variance)
    n = np.arange(len(weights)) - len(weights) // 2
    assert weights == pytest.approx(np.exp(-(n**2) / 2 / sigma**2) / sigma / np.sqrt(2 * np.pi), rel=0.02, abs=1e-5)


@settings(max_examples=120, deadline=None)
@given(axes, axes, st.integers(0, 2**32 - 1), st.floats(0, 0.3))
def test_no_invalid_pixel_leaks_and_none_is_lost(y, x, seed, share):
    rng = np.random.default_rng(seed)
    values = rng.random((2, y.size, x.size), np.float32)
    valid = rng.random((y.size, x.size)) >= share
    taps = y.taps((0, 30)), x.taps((0, 30))
    results = []
    for rubbish in (np.nan, np.inf, -1e30, 0):
        pixels, good = regrid(np.where(valid, values, rubbish).astype("float32"), valid, *taps)
        assert (np.isnan(pixels) == ~good).all()
        results.append(pixels.tobytes())
    assert len(set(results)) == 1
    # NaN alone says as much as a mask.
    assert regrid(np.where(valid, values, np.nan), None, *taps)[0].tobytes() == results[0]
    # By hand: every pixel between the first and the last that has a weight is valid.
    weights_y, weights_x = matrix(taps[0], y.size) != 0, matrix(taps[1], x.size) != 0
    bad = np.einsum("iy,yx,jx->ij", weights_y.astype(int), (~valid).astype(int), weights_x.astype(int))
    inside = taps[0].counts[:, None] * taps[1].counts > 0
    assert (good == (inside & (bad == 0))).all()


@settings(max_examples=120, deadline=None)
@given(axes, axes, st.integers(0, 2**32 - 1), st.data())
def test_windows_give_the_bits_of_the_whole(y, x, seed, data):
    rng = np.random.default_rng(seed)
    values = rng.random((2, y.size, x.size))
    valid = rng.random(values.shape) > 0.05
    whole, whole_valid = regrid(values, valid, y.taps((0, 30)), x.taps((0, 30)))
    start_y, start_x = data.draw(st.integers(0, 29)), data.draw(st.integers(0, 29))
    spans = (start_y, data.draw(st.integers(start_y, 30))), (start_x, data.draw(st.integers(start_x, 30)))
    taps = [axis.taps(span) for axis, span in zip((y, x), spans, strict=True)]
    reads = [t.span for t in taps]
    cut = (slice(None), *(slice(*r) for r in reads))
    part, part_valid = regrid(values[cut], valid[cut], *(t.inside(r) for t, r in zip(taps, reads, strict=True)))
    at = (slice(None), *(slice(*s) for s in spans))
    assert part.tobytes() == whole[at].tobytes()
    assert (part_valid == whole_valid[at]).all()


def test_pixels_that_stick_out_are_not_made():
    taps = AxisMap(size=10, origin=-1, step=2).taps((0, 7))
    assert (taps.counts > 0).tolist() == [False, True, True, True, True, False, False]
    assert taps.span == (1, 9)
    assert AxisMap(size=10, origin=40, step=2).taps((0, 3)).span == (0, 0)
    pixels, valid = regrid(
        np.ones((3, 4, 0)), None, AxisMap(size=4, origin=0, step=2).taps((0, 2)), AxisMap(size=10, origin=40, step=2).taps((0, 3))
    )
    assert pixels.shape == valid.shape == (3, 2, 3)
    assert not valid.any()


def test_a_mask_counts_for_every_band():
    values, valid = np.arange(48.0).reshape(3, 4, 4), np.ones((4, 4), bool)
    valid[0, 0] = False
    axis = AxisMap(size=4, origin=0, step=2)
    pixels, good = regrid(values, valid, axis.taps((0, 2)), axis.taps((0, 2)))
    assert np.isnan(pixels[:, 0, 0]).all()
    assert good.sum() == 9
    assert pixels[1, 1, 1] == values[1, 2:, 2:].mean()


def test_no_planes_and_one_pixel():
    taps = AxisMap(size=1, origin=0, step=1 / 3).taps((0, 3))
    assert regrid(np.zeros((0, 1, 1)), None, taps, taps)[0].shape == (0, 3, 3)
    assert regrid(np.full((1, 1), 7, "int16"), None, taps, taps)[0].tolist() == [[7] * 3] * 3


def test_what_does_not_fit_is_refused():
    taps = AxisMap(size=9, origin=0, step=3).taps((0, 3))
    with pytest.raises(GridError, match="Source columns 0 to 9 are needed of an image that has 8"):
        regrid(np.zeros((9, 8)), None, taps, taps)
    with pytest.raises(GridError, match=r"mask of shape \(3, 9\) does not fit"):
        regrid(np.zeros((9, 9)), np.ones((3, 9), bool), taps, taps)
    with pytest.raises(GridError, match="0 to 8 were given where 0 to 9 are needed"):
        taps.inside((0, 8))
