"""Models without weights, that every network is measured against: nearest neighbour and bicubic."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from eocube.infer.model import Model
from eocube.kernels.arrays import BoolArray, Float32Array
from eocube.kernels.resample import BICUBIC_HALO_PX, upsample_bicubic, upsample_nearest
from eocube.model.hashing import digest


class _Resampled:
    """What both have in common: bands out are the bands in."""

    def __init__(self, name: str, scale: int, bands: Sequence[str], halo_px: int):
        self.scale, self.halo_px, self.revisits = Fraction(scale), halo_px, 1
        self.bands_in = self.bands_out = tuple(bands)
        self.model_id = digest([name, scale, list(bands)])


class NearestSr(_Resampled):
    """Each output pixel is the input pixel it lies in; 0 where that is not valid."""

    def __init__(self, scale: int, bands: Sequence[str]):
        super().__init__("nearest", scale, bands, 0)

    def __call__(self, lr: Float32Array, *, valid: BoolArray, days: Float32Array) -> Float32Array:
        """See ``Model``."""
        known = np.where(valid[:, 0, None], lr[:, 0], np.float32(0))
        out: Float32Array = upsample_nearest(known, (int(self.scale), int(self.scale)))
        return out


class BicubicSr(_Resampled):
    """Cubic convolution between valid pixels (``kernels.resample``); 0 where the input pixel is not valid.

    A neighbour that is not valid or lies beyond the image takes the value of the pixel itself, so that an image and the same
    image with an invalid margin give the same.
    """

    def __init__(self, scale: int, bands: Sequence[str]):
        super().__init__("bicubic", scale, bands, BICUBIC_HALO_PX)

    def __call__(self, lr: Float32Array, *, valid: BoolArray, days: Float32Array) -> Float32Array:
        """See ``Model``."""
        halo, scale = BICUBIC_HALO_PX, int(self.scale)
        known = np.where(valid[:, 0, None], lr[:, 0], np.float32(np.nan))
        framed = np.pad(known, ((0, 0), (0, 0), (halo, halo), (halo, halo)), constant_values=np.nan)
        edge = halo * scale
        fine = upsample_bicubic(framed, scale)[..., edge:-edge, edge:-edge]
        out: Float32Array = np.nan_to_num(fine, nan=0.0)
        return out


_nearest: type[Model] = NearestSr
_bicubic: type[Model] = BicubicSr
