"""Errors, PSNR and SSIM against scikit-image and numbers worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from eocube.errors import GridError, RadiometryError
from eocube.kernels.metrics import bias, mae, psnr, rmse, ssim

METRICS = pytest.mark.parametrize("metric", [bias, mae, rmse, psnr, ssim])


def pair(*shape, seed=0):
    """A textured image and a noisy copy, both about 0-1."""
    rng = np.random.default_rng(seed)
    reference = np.cumsum(rng.standard_normal(shape), axis=-1)
    reference = (reference - reference.min()) / np.ptp(reference)
    return reference, reference + 0.05 * rng.standard_normal(shape)


def skimage_ssim(reference, estimate, **options):
    return structural_similarity(
        reference,
        estimate,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        **{"data_range": 1.0, **options},
    )


def plain_ssim(reference, estimate, valid):
    """The twin: one window after the other."""
    line = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    weights = np.outer(line, line) / np.outer(line, line).sum()
    found = []
    for y in range(reference.shape[0] - 10):
        for x in range(reference.shape[1] - 10):
            window = np.s_[y : y + 11, x : x + 11]
            if not valid[window].all():
                continue
            a, b = reference[window], estimate[window]
            mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
            var_a, var_b = (weights * (a - mean_a) ** 2).sum(), (weights * (b - mean_b) ** 2).sum()
            covariance = (weights * (a - mean_a) * (b - mean_b)).sum()
            c1, c2 = 0.01**2, 0.03**2
            found.append(
                (2 * mean_a * mean_b + c1) * (2 * covariance + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
            )
    return np.mean(found)


def test_errors_by_hand():
    reference, estimate = np.array([1.0, 2.0, 3.0, 4.0]), np.array([2.0, 2.0, 1.0, 1.0])
    assert bias(reference, estimate) == -1.0  # (1 + 0 - 2 - 3) / 4
    assert mae(reference, estimate) == 1.5  # (1 + 0 + 2 + 3) / 4
    assert rmse(reference, estimate) == math.sqrt(3.5)  # (1 + 0 + 4 + 9) / 4


def test_bias_is_positive_where_the_estimate_is_too_high():
    assert bias(np.zeros(3), np.ones(3)) == 1


def test_a_tenth_of_the_range_is_20_decibels():
    assert psnr(np.zeros((2, 2)), np.full((2, 2), 0.1)) == pytest.approx(20)
    assert psnr(np.zeros((2, 2)), np.full((2, 2), 100.0), data_range=1000) == pytest.approx(20)


def test_psnr_equals_scikit_image():
    reference, estimate = pair(3, 20, 30)
    assert psnr(reference, estimate, data_range=0.7) == pytest.approx(
        peak_signal_noise_ratio(reference, estimate, data_range=0.7), abs=1e-12
    )


def test_equal_images_have_infinite_psnr_and_ssim_one():
    reference, _ = pair(20, 20)
    assert psnr(reference, reference) == math.inf
    assert ssim(reference, reference) == pytest.approx(1, abs=1e-14)


@pytest.mark.parametrize("shape", [(11, 11), (11, 30), (40, 25)])
@pytest.mark.parametrize("data_range", [1.0, 0.3, 255.0])
def test_ssim_equals_scikit_image_where_everything_is_valid(shape, data_range):
    reference, estimate = pair(*shape)
    expected = skimage_ssim(reference, estimate, data_range=data_range)
    assert ssim(reference, estimate, data_range=data_range) == pytest.approx(expected, abs=1e-10)


def test_ssim_of_bands_is_the_mean_over_bands():
    reference, estimate = pair(4, 24, 20)
    assert ssim(reference, estimate) == pytest.approx(skimage_ssim(reference, estimate, channel_axis=0), abs=1e-10)


def test_ssim_is_computed_in_float64_for_float32_images():
    reference, estimate = (a.astype("float32") for a in pair(30, 30))
    expected = skimage_ssim(reference.astype("float64"), estimate.astype("float64"))
    assert ssim(reference, estimate) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_ssim_leaves_out_each_window_that_touches_an_invalid_pixel(seed):
    reference, estimate = pair(26, 30, seed=seed)
    valid = np.random.default_rng(seed).random(reference.shape) > 0.003
    assert not valid.all()
    assert ssim(reference, estimate, valid=valid) == pytest.approx(plain_ssim(reference, estimate, valid), abs=1e-10)


@METRICS
def test_poison_in_invalid_pixels_never_shows(metric):
    reference, estimate = pair(2, 26, 30)
    valid = np.ones((26, 30), bool)
    valid[3, 4] = valid[20, 29] = False
    clean = metric(reference, estimate, valid=valid)
    for poison in (np.nan, np.inf, -1e300):
        poisoned = np.where(valid, estimate, poison)
        assert metric(reference, poisoned, valid=valid) == clean
        assert metric(np.where(valid, reference, poison), estimate, valid=valid) == clean


@METRICS
def test_nan_in_either_image_is_an_invalid_pixel(metric):
    reference, estimate = pair(26, 30)
    valid = np.ones((26, 30), bool)
    valid[3, 4] = valid[20, 29] = False
    holes_a, holes_b = reference.copy(), estimate.copy()
    holes_a[3, 4] = holes_b[20, 29] = np.nan
    assert metric(holes_a, holes_b) == metric(reference, estimate, valid=valid)


@METRICS
def test_one_mask_serves_every_band(metric):
    reference, estimate = pair(3, 26, 30)
    valid = np.ones((26, 30), bool)
    valid[:2] = False
    assert metric(reference, estimate, valid=valid) == metric(reference, estimate, valid=np.stack([valid] * 3))


@METRICS
@pytest.mark.parametrize("shape", [(0, 20, 20), (2, 0, 20), (20, 0)])
def test_nothing_to_compare_is_nan(metric, shape):
    assert math.isnan(metric(np.zeros(shape), np.zeros(shape)))


@METRICS
def test_no_valid_pixel_is_nan(metric):
    assert math.isnan(metric(np.zeros((20, 20)), np.ones((20, 20)), valid=np.zeros((20, 20), bool)))


@pytest.mark.parametrize("shape", [(1, 1), (10, 40), (40, 10), (5, 5)])
def test_an_image_smaller_than_a_window_has_no_ssim(shape):
    assert math.isnan(ssim(np.eye(*shape), np.ones(shape)))


@METRICS
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16"])
def test_integers_are_compared_without_wrapping(metric, dtype):
    reference = np.arange(400).reshape(20, 20) % 100
    estimate = reference[::-1]
    assert metric(reference.astype(dtype), estimate.astype(dtype)) == metric(
        reference.astype("float64"), estimate.astype("float64")
    )


@METRICS
def test_shapes_that_do_not_fit_are_refused_and_never_broadcast(metric):
    a = np.zeros((2, 12, 12))
    for reference, estimate, valid in [
        (a, a[0], None),
        (a[:1], a, None),
        (a, a, np.ones((3, 12, 12), bool)),
        (a[0], a[0], a > 1),
    ]:
        with pytest.raises(GridError, match="12, 12"):
            metric(reference, estimate, valid=valid)


@pytest.mark.parametrize("metric", [psnr, ssim])
@pytest.mark.parametrize("data_range", [0, -1, math.nan, math.inf])
def test_a_data_range_that_is_none_is_refused(metric, data_range):
    with pytest.raises(RadiometryError, match="data_range"):
        metric(np.zeros((12, 12)), np.zeros((12, 12)), data_range=data_range)
