"""How far an estimated image is from a reference: errors, PSNR and SSIM over valid pixels."""

from __future__ import annotations

import math

import numpy as np

from eocube.errors import GridError, RadiometryError
from eocube.kernels.arrays import AnyArray, BoolArray, Float64Array
from eocube.kernels.masking import valid_of

SSIM_SIGMA_PX = 1.5
"""Standard deviation of the window's Gaussian."""

SSIM_RADIUS_PX = 5
"""Window radius, 3.5 standard deviations: windows are 11 × 11 pixels."""


def bias(reference: AnyArray, estimate: AnyArray, *, valid: BoolArray | None = None) -> float:
    """Mean of estimate - reference, in their unit.

    Parameters
    ----------
    reference, estimate
        The same shape, any numbers; NaN in either takes the pixel out.
    valid
        True = compare this pixel, a shape that broadcasts to theirs; None = every pixel.

    Returns
    -------
    A number computed in float64; NaN if no pixel is valid.

    Raises
    ------
    GridError
        If shapes do not fit.
    """
    return _mean(_errors(reference, estimate, valid))


def mae(reference: AnyArray, estimate: AnyArray, *, valid: BoolArray | None = None) -> float:
    """Mean absolute error, in the unit of the images; arguments as in :func:`bias`."""
    return _mean(np.abs(_errors(reference, estimate, valid)))


def rmse(reference: AnyArray, estimate: AnyArray, *, valid: BoolArray | None = None) -> float:
    """Root of the mean squared error, in the unit of the images; arguments as in :func:`bias`."""
    return math.sqrt(_mean(_errors(reference, estimate, valid) ** 2))


def psnr(reference: AnyArray, estimate: AnyArray, *, valid: BoolArray | None = None, data_range: float = 1.0) -> float:
    """Peak signal-to-noise ratio in decibels: 20 log10(data_range / rmse).

    Parameters
    ----------
    reference, estimate, valid
        As in :func:`bias`.
    data_range
        The peak: what a full-scale signal spans in the unit of the images (1 for reflectance).

    Returns
    -------
    Decibels over all valid pixels together, infinite for equal images; NaN if no pixel is valid.

    Raises
    ------
    GridError
        If shapes do not fit.
    RadiometryError
        If ``data_range`` is not positive.
    """
    _check_range(data_range)
    error = rmse(reference, estimate, valid=valid)
    return math.inf if error == 0 else 20 * math.log10(data_range / error)


def ssim(reference: AnyArray, estimate: AnyArray, *, valid: BoolArray | None = None, data_range: float = 1.0) -> float:
    """Mean structural similarity over the windows that hold valid pixels only.

    Parameters
    ----------
    reference, estimate
        ``(..., y, x)`` of one shape, any numbers; NaN in either makes the pixel invalid.
    valid
        True = may be compared, a shape that broadcasts to theirs; None = every pixel. A window that touches an invalid pixel
        or sticks out of the image is left out, so that neither fill values nor edges are judged.
    data_range
        As in :func:`psnr`.

    Returns
    -------
    At most 1 (equal images), the mean over all windows of all leading axes; NaN if no window is whole, as in images of less
    than 11 pixels. Computed in float64.

    Raises
    ------
    GridError
        If shapes do not fit.
    RadiometryError
        If ``data_range`` is not positive.

    Notes
    -----
    Z. Wang, A. C. Bovik, H. R. Sheikh, E. P. Simoncelli, "Image quality assessment: from error visibility to structural
    similarity", IEEE Transactions on Image Processing 13 (4), 2004, equation 13: 11 × 11 Gaussian windows with a standard
    deviation of 1.5 pixels, K1 = 0.01, K2 = 0.03, population covariances.
    """
    _check_range(data_range)
    use = _compared(reference, estimate, valid)
    total, windows = 0.0, 0
    for index in np.ndindex(use.shape[:-2]):
        whole = _whole_windows(use[index])
        a, b = (np.where(use[index], image[index], 0).astype(np.float64) for image in (reference, estimate))
        similarity = _similarity(a, b, data_range)
        total += float(similarity[whole].sum())
        windows += int(whole.sum())
    return total / windows if windows else math.nan


def _compared(reference: AnyArray, estimate: AnyArray, valid: BoolArray | None) -> BoolArray:
    """Which pixels are compared."""
    mask = np.ones((), bool) if valid is None else valid
    try:
        fits = reference.shape == estimate.shape == np.broadcast_shapes(reference.shape, mask.shape)
    except ValueError:
        fits = False
    if not fits:
        raise GridError(
            f"A reference of shape {reference.shape} cannot be compared with an estimate of shape {estimate.shape} under a mask "
            f"of shape {mask.shape}; bring all onto one grid first."
        )
    return valid_of(reference, None) & valid_of(estimate, None) & mask


def _errors(reference: AnyArray, estimate: AnyArray, valid: BoolArray | None) -> Float64Array:
    """Estimate - reference of the valid pixels, in a row."""
    use = _compared(reference, estimate, valid)
    errors: Float64Array = estimate[use].astype(np.float64) - reference[use]
    return errors


def _mean(values: Float64Array) -> float:
    """Mean, or NaN of nothing."""
    return float(values.mean()) if values.size else math.nan


def _check_range(data_range: float) -> None:
    """Refuse a peak that is none."""
    if not data_range > 0 or math.isinf(data_range):
        raise RadiometryError(f"A data_range of {data_range} was given; it is what a full-scale signal spans, more than 0.")


def _similarity(a: Float64Array, b: Float64Array, data_range: float) -> Float64Array:
    """SSIM of each window that fits into the image (y - 10, x - 10)."""
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    mean_a, mean_b = _smooth(a), _smooth(b)
    var_a, var_b = _smooth(a * a) - mean_a**2, _smooth(b * b) - mean_b**2
    covariance = _smooth(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure: Float64Array = luminance * (2 * covariance + c2) / (var_a + var_b + c2)
    return structure


def _smooth(image: Float64Array) -> Float64Array:
    """Gaussian mean of each window that fits into the image."""
    offsets = np.arange(-SSIM_RADIUS_PX, SSIM_RADIUS_PX + 1)
    weights = np.exp(-0.5 * (offsets / SSIM_SIGMA_PX) ** 2)
    weights /= weights.sum()
    ny, nx = (max(0, n - 2 * SSIM_RADIUS_PX) for n in image.shape)
    rows = sum((w * image[k : k + ny] for k, w in enumerate(weights)), np.zeros((ny, image.shape[1])))
    return sum((w * rows[:, k : k + nx] for k, w in enumerate(weights)), np.zeros((ny, nx)))


def _whole_windows(use: BoolArray) -> BoolArray:
    """True where each pixel of the window is used (y - 10, x - 10)."""
    side = 2 * SSIM_RADIUS_PX + 1
    ny, nx = (max(0, n - side + 1) for n in use.shape)
    if not ny or not nx:
        return np.zeros((ny, nx), bool)
    rows = np.logical_and.reduce([use[k : k + ny] for k in range(side)])
    whole: BoolArray = np.logical_and.reduce([rows[:, k : k + nx] for k in range(side)])
    return whole
