"""Between pixel sizes that divide each other: nearest and bicubic up, area mean down.

Grids nest: the outer edges coincide, so the centre of fine pixel i lies at coarse pixel (i + 0.5) / scale - 0.5.
"""

from __future__ import annotations

import numpy as np

from eocube.errors import GridError
from eocube.kernels.arrays import AnyArray, BoolArray, Float32Array, Float64Array
from eocube.kernels.masking import valid_of

BICUBIC_HALO_PX = 2
"""Coarse pixels on each side beyond which an upsampled pixel no longer changes."""


def upsample_nearest(a: AnyArray, scale_yx: tuple[int, int]) -> AnyArray:
    """Repeat each pixel.

    Parameters
    ----------
    a
        ``(..., y, x)``, any dtype.
    scale_yx
        Fine pixels per pixel along y and x.

    Returns
    -------
    ``(..., y * scale_y, x * scale_x)`` in the dtype of ``a``.

    Raises
    ------
    GridError
        If a scale is less than 1.
    """
    scale_y, scale_x = scale_yx
    _check_scale(min(scale_yx))
    return np.repeat(np.repeat(a, scale_y, axis=-2), scale_x, axis=-1)


def upsample_bicubic(a: Float32Array, scale: int, *, keys_a: float = -0.5) -> Float32Array:
    """Interpolate between pixel centres by cubic convolution.

    Parameters
    ----------
    a
        float32 ``(..., y, x)``, NaN where there is no data.
    scale
        Fine pixels per pixel, along both axes.
    keys_a
        Slope of the kernel at one pixel from its centre: -0.5 reproduces quadratics (Keys' choice), PyTorch has -0.75.

    Returns
    -------
    float32 ``(..., y * scale, x * scale)``. NaN where the pixel that contains the fine pixel is NaN, and nowhere else: other
    missing neighbours take the value of that pixel. Beyond the edge of the image its outermost pixels are repeated.

    Raises
    ------
    GridError
        If ``scale`` is less than 1.

    Notes
    -----
    R. G. Keys, "Cubic convolution interpolation for digital image processing", IEEE Transactions on Acoustics, Speech, and
    Signal Processing 29 (6), 1981, equation 15 for -0.5. Missing neighbours are not left out with the other weights rescaled,
    because some weights are negative: what is left can add up to zero.

    Windows read with ``BICUBIC_HALO_PX`` give the bits of the whole image: x is interpolated first, then y, in float32.
    """
    _check_scale(scale)
    *lead, ny, nx = a.shape
    if a.size == 0:
        return np.empty((*lead, ny * scale, nx * scale), np.float32)
    halo = BICUBIC_HALO_PX
    padded = np.pad(a.astype(np.float32, copy=False), [(0, 0)] * len(lead) + [(halo, halo)] * 2, mode="edge")
    starts, weights = _cubic_taps(scale, keys_a)
    wide = np.empty((*lead, ny + 2 * halo, nx, scale), np.float32)
    for phase, start in enumerate(starts):
        wide[..., phase] = _weighted([padded[..., start + k : start + k + nx] for k in range(4)], weights[phase])
    wide = wide.reshape(*lead, ny + 2 * halo, nx * scale)
    fine = np.empty((*lead, ny, scale, nx * scale), np.float32)
    for phase, start in enumerate(starts):
        fine[..., phase, :] = _weighted([wide[..., start + k : start + k + ny, :] for k in range(4)], weights[phase])
    fine = fine.reshape(*lead, ny * scale, nx * scale)
    _mend(fine, padded, starts, weights)
    return fine


def block_mean(a: AnyArray, factor: int, valid: BoolArray | None = None) -> AnyArray:
    """Average square blocks of valid pixels: the coarse pixel that covers them.

    Parameters
    ----------
    a
        ``(..., y, x)``, integers or floats; height and width are multiples of ``factor``.
    factor
        Pixels per block along both axes.
    valid
        True = may be used, a shape that broadcasts to ``a``; None = every pixel. NaN is never used.

    Returns
    -------
    ``(..., y / factor, x / factor)``, float64 for float64, else float32; NaN where no pixel of a block is valid. Added up in
    float64, row by row of a block, so that windows give the bits of the whole.

    Raises
    ------
    GridError
        If blocks do not fill the image, or ``valid`` does not fit.
    """
    _check_scale(factor)
    *lead, ny, nx = a.shape
    if ny % factor or nx % factor:
        raise GridError(f"Blocks of {factor} pixels do not fill an image of {(ny, nx)}; crop it to a multiple first.")
    use = valid_of(a, None) & _spread(valid, a.shape)
    total = np.zeros((*lead, ny // factor, nx // factor), np.float64)
    count = np.zeros(total.shape, np.int64)
    for i in range(factor):
        for j in range(factor):
            used = use[..., i::factor, j::factor]
            total += np.where(used, a[..., i::factor, j::factor], 0)
            count += used
    mean = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return mean.astype(np.float64 if a.dtype == np.float64 else np.float32, copy=False)


def _check_scale(scale: int) -> None:
    """Refuse what is not at least one pixel per pixel."""
    if scale < 1:
        raise GridError(f"A scale of {scale} was asked for; it is a whole number of fine pixels per pixel, 1 or more.")


def _spread(valid: BoolArray | None, shape: tuple[int, ...]) -> BoolArray:
    """``valid`` for every pixel."""
    mask = np.ones((), bool) if valid is None else valid
    try:
        return np.broadcast_to(mask, shape)
    except ValueError:
        raise GridError(f"A mask of shape {mask.shape} does not fit pixels of shape {shape}; bring both onto one grid.") from None


def _cubic_taps(scale: int, keys_a: float) -> tuple[list[int], Float32Array]:
    """For each of the ``scale`` fine pixels of a pixel: its first of four neighbours in the padded image, and their weights."""
    centres = (np.arange(scale) + 0.5) / scale - 0.5
    before = np.floor(centres)
    distances = np.abs(centres[:, None] - before[:, None] - np.arange(-1, 3))
    return [BICUBIC_HALO_PX + int(n) - 1 for n in before], keys_kernel(distances, keys_a).astype(np.float32)


def keys_kernel(x: Float64Array, a: float) -> Float64Array:
    """Cubic convolution kernel at distances ``x`` of 0 to 2 pixels."""
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * (x**3 - 5 * x**2 + 8 * x - 4)
    return np.where(x <= 1, near, far)


def _weighted(taps: list[Float32Array], weights: Float32Array) -> Float32Array:
    """Sum of four arrays times four weights, from first to last."""
    total = taps[0] * weights[..., 0]
    for k in range(1, 4):
        total += taps[k] * weights[..., k]
    return total


def _mend(fine: Float32Array, padded: Float32Array, starts: list[int], weights: Float32Array) -> None:
    """Compute anew, in place, the fine pixels that a missing neighbour made NaN, with the pixel itself in its place.

    Which pixels those are depends on their own neighbours alone, and so do their bits.
    """
    scale, halo = len(starts), BICUBIC_HALO_PX
    present = ~np.isnan(padded[..., halo:-halo, halo:-halo])
    *lead, y, x = np.nonzero(np.isnan(fine) & upsample_nearest(present, (scale, scale)))
    centre = padded[(*lead, y // scale + halo, x // scale + halo)]
    first = np.array(starts)
    first_y, first_x = y // scale + first[y % scale], x // scale + first[x % scale]

    def row(j: int) -> Float32Array:
        taps = [padded[(*lead, first_y + j, first_x + k)] for k in range(4)]
        return _weighted([np.where(np.isnan(tap), centre, tap) for tap in taps], weights[x % scale])

    fine[(*lead, y, x)] = _weighted([row(j) for j in range(4)], weights[y % scale])
