"""From one axis-aligned grid to another whose pixels do not nest with it: area means down, cubic convolution up.

Each axis has a table of taps: which source pixels make a target pixel, and with which weights. It follows from the two grids and
the target pixel's own number alone, so a window read with what it needs gives the bits of the whole image.

Source coordinates count pixels from the outer edge of the source's first pixel: pixel j covers j to j + 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from eocube.errors import GridError
from eocube.kernels.arrays import AnyArray, BoolArray, Float32Array, Float64Array
from eocube.kernels.jit import compiled
from eocube.kernels.resample import keys_kernel
from eocube.model.window import Span

IntArray = npt.NDArray[np.int64]

SNAP_PX = 1e-6
"""Positions this close to a whole source pixel count as on it: affines of nested grids differ in their last bits."""

NO_WEIGHT = 1e-12
"""Weights up to this are rounding errors of zero, and their pixels are not touched."""

KEYS_A = -0.5
"""Slope of the cubic kernel at one pixel from its centre; this one reproduces quadratics."""


class AxisTaps(NamedTuple):
    """Source pixels and weights of some consecutive target pixels along one axis."""

    first: IntArray
    """(n,) first source pixel of each target pixel."""

    counts: IntArray
    """(n,) how many there are; 0 = the target pixel does not lie wholly inside the source."""

    weights: Float64Array
    """(n, most) their weights, which add up to 1; zeros after ``counts``."""

    @property
    def span(self) -> Span:
        """Source pixels that are touched; (0, 0) where none is."""
        used = self.counts > 0
        if not used.any():
            return 0, 0
        return int(self.first[used].min()), int((self.first + self.counts)[used].max())

    def inside(self, window: Span) -> AxisTaps:
        """The same taps, counted from the start of a window of the source.

        Raises
        ------
        GridError
            If the window leaves out a pixel that is needed.
        """
        first, stop = self.span
        if first < stop and not window[0] <= first < stop <= window[1]:
            raise GridError(
                f"Source pixels {window[0]} to {window[1]} were given where {first} to {stop} are needed; read the window that "
                "source_window names."
            )
        return self._replace(first=np.where(self.counts > 0, self.first - window[0], 0))


@dataclass(frozen=True, kw_only=True)
class AxisMap:
    """Where the pixels of a target axis lie on a source axis, and how they are made from it.

    Target pixels of one source pixel or more are second-order conservative means: of the parts of source pixels that they cover,
    each with the slope between its two neighbours. On nested grids that is the plain mean. Smaller ones are cubic convolution at
    their centre (Keys, a = -0.5). Both hold linear ramps exactly. Beyond the ends of the source the image goes on as its own
    reflection through the centre of its last pixel, so that a ramp holds there too; the slope there is one-sided.

    Notes
    -----
    P. W. Jones, "First- and second-order conservative remapping schemes for grids in spherical coordinates", Monthly Weather
    Review 127 (9), 1999. R. G. Keys, IEEE Transactions on Acoustics, Speech, and Signal Processing 29 (6), 1981, equation 15.
    """

    size: int
    """Source pixels along the axis, of the whole image."""

    origin: float
    """Source coordinate of the start of target pixel 0."""

    step: float
    """Source pixels per target pixel; negative where the axes run against each other."""

    nearest: bool = False
    """Take the source pixel that holds the centre instead; on the edge between two, the later one."""

    blur: float = 0.0
    """Variance in source pixels squared of a Gaussian that goes first (``mtf_variance``); 0 = none."""

    def edges(self, span: Span) -> tuple[Float64Array, Float64Array]:
        """Source coordinates between which each target pixel of ``span`` lies, low and high."""
        at = self.origin + np.arange(span[0], span[1] + 1) * self.step
        at = np.where(np.abs(at - np.rint(at)) <= SNAP_PX, np.rint(at), at)
        return np.minimum(at[:-1], at[1:]), np.maximum(at[:-1], at[1:])

    def covers(self, span: Span) -> bool:
        """Tell whether the target pixels of ``span`` lie wholly inside the source."""
        low, high = self.edges(span)
        return bool(np.all((low >= 0) & (high <= self.size)))

    def taps(self, span: Span) -> AxisTaps:
        """Source pixels and weights of the target pixels of ``span``."""
        low, high = self.edges(span)
        inside = (low >= 0) & (high <= self.size)
        if self.nearest:
            start, weights = _whole(_centres(self, span)), np.ones((len(low), 1))
        elif abs(self.step) >= 1 - SNAP_PX:
            start, weights = _area(low, high, math.ceil(abs(self.step) - SNAP_PX) + 1)
        else:
            start, weights = _cubic(_centres(self, span) - 0.5)
        if self.blur:
            start, weights = _blurred(start, weights, gaussian(self.blur))
        return _trimmed(*_folded(start[inside], weights[inside], self.size), inside)


def regrid(values: AnyArray, valid: BoolArray | None, y: AxisTaps, x: AxisTaps) -> tuple[Float32Array, BoolArray]:
    """Put an image on another grid, an axis at a time.

    Parameters
    ----------
    values
        ``(..., y, x)``, integers or floats.
    valid
        True = may be used, a shape that broadcasts to ``values``; None = every pixel. NaN is never used.
    y, x
        Taps of the rows and columns of the result, counted from the first row and column of ``values``.

    Returns
    -------
    float32 ``(..., Y, X)``, NaN where not valid, and bool of the same shape: True where every source pixel that has a weight
    exists and is valid. Added up in float64, columns of a row first, so that windows give the bits of the whole.

    Raises
    ------
    GridError
        If ``valid`` does not fit, or ``values`` ends before a pixel that is needed.
    """
    for taps, size, name in ((y, values.shape[-2], "rows"), (x, values.shape[-1], "columns")):
        first, stop = taps.span
        if first < 0 or stop > size:
            raise GridError(f"Source {name} {first} to {stop} are needed of an image that has {size}; read a larger window.")
    lead, shape_yx = values.shape[:-2], (len(y.first), len(x.first))
    pixels = np.empty((*lead, *shape_yx), np.float32)
    _weighted(as_planes(values), y, x, as_planes(pixels))
    good = ~np.isnan(pixels)
    mask = None if valid is None else as_mask(valid, values.shape)
    if mask is not None and not mask.all():
        clean = np.empty((*mask.shape[:-2], *shape_yx), bool)
        _all_valid(as_planes(mask), y, x, as_planes(clean))
        good &= clean
        pixels[~good] = np.nan
    return pixels, good


def mtf_variance(mtf: float, ratio: float) -> float:
    """Variance of the Gaussian that leaves ``mtf`` of a wave at the target's Nyquist frequency.

    Parameters
    ----------
    mtf
        The sensor's modulation transfer there, between 0 and 1.
    ratio
        Source pixels per target pixel, 1 or more.

    Returns
    -------
    Variance in source pixels squared, for ``gaussian``. Large ratios tend to ``(ratio / pi)**2 * -2 * log(mtf)``.

    Notes
    -----
    B. Aiazzi, L. Alparone, S. Baronti, A. Garzelli and M. Selva, "MTF-tailored multiscale fusion of high-resolution MS and Pan
    imagery", Photogrammetric Engineering & Remote Sensing 72 (5), 2006: a Gaussian matched to the transfer at Nyquist. Theirs is
    continuous; sampled at whole pixels it would be far too narrow at small ratios (0.994 instead of 0.9 at ratio 2), so the
    variance is that of the discrete Gaussian, whose transfer is ``exp(-variance * (1 - cos(w)))``.
    """
    return -math.log(mtf) / (1 - math.cos(math.pi / ratio))


def gaussian(variance: float) -> Float64Array:
    """Weights of the discrete Gaussian of that variance, truncated at 4 standard deviations and normalised; odd length.

    T. Lindeberg, "Scale-space for discrete signals", IEEE Transactions on Pattern Analysis and Machine Intelligence 12 (3), 1990.
    """
    reach = math.ceil(4 * math.sqrt(variance))
    n = 1 << max(6, (8 * reach).bit_length())
    half = np.fft.irfft(np.exp(-variance * (1 - np.cos(2 * np.pi * np.arange(n // 2 + 1) / n))), n)[: reach + 1]
    weights: Float64Array = np.concatenate([half[:0:-1], half])
    weights /= weights.sum()
    return weights


def as_planes(a: AnyArray) -> AnyArray:
    """``(..., y, x)`` as native, contiguous ``(plane, y, x)`` of a dtype that kernels know; a view where it is that already."""
    dtype = np.dtype(np.float32) if a.dtype == np.float16 else a.dtype.newbyteorder("=")
    return np.ascontiguousarray(a, dtype).reshape(math.prod(a.shape[:-2]), *a.shape[-2:])


def as_mask(valid: BoolArray, shape: tuple[int, ...]) -> BoolArray:
    """``valid`` with full rows and columns, its leading axes as they are; GridError where it does not fit pixels of ``shape``."""
    try:
        np.broadcast_to(valid, shape)
    except ValueError:
        raise GridError(
            f"A mask of shape {valid.shape} does not fit pixels of shape {shape}; read both for one window."
        ) from None
    return np.broadcast_to(valid, (*valid.shape[:-2], *shape[-2:]))


def _centres(axis: AxisMap, span: Span) -> Float64Array:
    """Source coordinates of the centres of target pixels."""
    return axis.origin + (np.arange(span[0], span[1], dtype=np.float64) + 0.5) * axis.step


def _whole(at: Float64Array) -> IntArray:
    """The whole number at or below each, or just above it."""
    return np.floor(at + SNAP_PX).astype(np.int64)


def _area(low: Float64Array, high: Float64Array, cells: int) -> tuple[IntArray, Float64Array]:
    """Second-order conservative weights of the ``cells`` source pixels from ``low`` on, and of one more on each side."""
    start = np.floor(low).astype(np.int64)
    weights = np.zeros((len(low), cells + 2))
    for m in range(cells):
        cell = start + m
        left, right = np.maximum(low, cell), np.minimum(high, cell + 1)
        share = np.maximum(right - left, 0) / (high - low)
        slope = share * ((left + right) / 2 - (cell + 0.5)) / 2
        weights[:, m] -= slope
        weights[:, m + 1] += share
        weights[:, m + 2] += slope
    return start - 1, weights


def _cubic(at: Float64Array) -> tuple[IntArray, Float64Array]:
    """Weights of the four source pixels around each position; ``at`` counts from the centre of the first source pixel."""
    start = _whole(at)
    past = at - start
    past = np.where(np.abs(past) <= SNAP_PX, 0, past)
    return start - 1, np.stack([keys_kernel(np.abs(past - k), KEYS_A) for k in (-1, 0, 1, 2)], axis=-1)


def _blurred(start: IntArray, weights: Float64Array, kernel: Float64Array) -> tuple[IntArray, Float64Array]:
    """The weights that make of the source what ``weights`` make of the source filtered by ``kernel``."""
    reach, width = len(kernel) // 2, weights.shape[1]
    wide = np.zeros((len(weights), width + 2 * reach))
    for k, value in enumerate(kernel):
        wide[:, k : k + width] += value * weights
    return start - reach, wide


def _folded(start: IntArray, weights: Float64Array, size: int) -> tuple[IntArray, Float64Array]:
    """Give weights of pixels beyond the ends to those inside: pixel -k is twice pixel 0 less pixel k, the other end alike."""
    n, width = weights.shape
    wide = min(size, 3 * width)
    base = np.clip(start - width, 0, size - wide)
    out = np.zeros((n, wide))
    rows = np.broadcast_to(np.arange(n)[:, None], weights.shape)
    at = start[:, None] + np.arange(width)
    last = size - 1
    while np.any(beyond := (at < 0) | (at > last)):
        end = np.where(at < 0, 0, last)
        if last == 0:
            at = np.zeros_like(at)
            continue
        np.add.at(out, (rows[beyond], (end - base[:, None])[beyond]), 2 * weights[beyond])
        at, weights = np.where(beyond, 2 * end - at, at), np.where(beyond, -weights, weights)
    np.add.at(out, (rows, at - base[:, None]), weights)
    return base, out


def _trimmed(base: IntArray, weights: Float64Array, inside: BoolArray) -> AxisTaps:
    """Taps without zeros at either end, for every target pixel; those not ``inside`` have none."""
    n = len(inside)
    first, count = np.zeros(n, np.int64), np.zeros(n, np.int64)
    if not inside.any():
        return AxisTaps(first, count, np.zeros((n, 1)))
    used = np.abs(weights) > NO_WEIGHT
    skip = used.argmax(axis=1)
    length = used.shape[1] - used[:, ::-1].argmax(axis=1) - skip
    most = int(length.max())
    at = np.minimum(skip[:, None] + np.arange(most), used.shape[1] - 1)
    kept = np.where((np.arange(most) < length[:, None]) & np.take_along_axis(used, at, 1), np.take_along_axis(weights, at, 1), 0)
    out = np.zeros((n, most))
    first[inside], count[inside], out[inside] = base + skip, length, kept
    return AxisTaps(first, count, out)


@compiled
def _weighted(values: AnyArray, y: AxisTaps, x: AxisTaps, out: Float32Array) -> None:
    """Write into ``out`` (plane, Y, X) the weighted sums of ``values`` (plane, y, x); NaN where there are no taps."""
    row = np.empty(values.shape[2], np.float64)
    for p in range(values.shape[0]):
        for i in range(out.shape[1]):
            if y.counts[i] == 0:
                out[p, i, :] = np.nan
                continue
            w = y.weights[i, 0]
            source = values[p, y.first[i]]
            for c in range(row.size):
                row[c] = w * source[c]
            for k in range(1, y.counts[i]):
                w = y.weights[i, k]
                source = values[p, y.first[i] + k]
                for c in range(row.size):
                    row[c] += w * source[c]
            for j in range(out.shape[2]):
                if x.counts[j] == 0:
                    out[p, i, j] = np.nan
                    continue
                # The first product starts the sum, so that a single tap is a copy, of -0.0 too.
                total = x.weights[j, 0] * row[x.first[j]]
                for k in range(1, x.counts[j]):
                    total += x.weights[j, k] * row[x.first[j] + k]
                out[p, i, j] = total


@compiled
def _all_valid(valid: BoolArray, y: AxisTaps, x: AxisTaps, out: BoolArray) -> None:
    """Write into ``out`` (plane, Y, X) whether all source pixels of a target pixel are valid, and there are some."""
    row = np.empty(valid.shape[2], np.bool_)
    for p in range(valid.shape[0]):
        for i in range(out.shape[1]):
            row[:] = y.counts[i] > 0
            for k in range(y.counts[i]):
                source = valid[p, y.first[i] + k]
                for c in range(row.size):
                    row[c] &= source[c]
            for j in range(out.shape[2]):
                good = x.counts[j] > 0
                for k in range(x.counts[j]):
                    good &= row[x.first[j] + k]
                out[p, i, j] = good
