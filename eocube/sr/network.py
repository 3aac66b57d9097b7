"""The residual network of eocube: what bicubic interpolation leaves out, added to it.

A module of its own because it is made of torch classes.
"""

# arch: imports torch at module level
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from eocube.kernels.resample import upsample_bicubic


class MaskedBicubic(nn.Module):
    """Cubic convolution as ``kernels.resample.upsample_bicubic`` has it, as one convolution that runs on any device.

    A missing neighbour takes the value of the pixel itself: the weighted sum of the valid neighbours, plus the pixel times the
    weight of the missing ones.
    """

    weight: torch.Tensor

    def __init__(self, scale: int):
        super().__init__()
        self.scale = scale
        impulses = np.eye(25, dtype=np.float32).reshape(25, 5, 5)
        answers = upsample_bicubic(impulses, scale)[:, 2 * scale : 3 * scale, 2 * scale : 3 * scale]
        weight = torch.from_numpy(np.ascontiguousarray(answers.reshape(5, 5, scale * scale).transpose(2, 0, 1)))
        self.register_buffer("weight", weight[:, None], persistent=False)

    def forward(self, x: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """``x`` (n, c, h, w), 0 where not valid; ``valid`` (n, 1, h, w) 0 or 1 → (n, c, h * scale, w * scale)."""
        n, c, h, w = x.shape
        known = functional.conv2d(x.reshape(n * c, 1, h, w), self.weight, padding=2).reshape(n, c, -1, h, w)
        share = functional.conv2d(valid, self.weight, padding=2)
        fine = known + x[:, :, None] * (1 - share)[:, None]
        return functional.pixel_shuffle(fine.reshape(n, -1, h, w), self.scale)


class ResidualBlock(nn.Module):
    """Two convolutions and a short cut; what is not valid stays 0 in between."""

    def __init__(self, channels: int):
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """(n, c, h, w) → the same."""
        return x + self.second(functional.relu(self.first(x)) * valid) * valid


class ResidualSr(nn.Module):
    """Bicubic plus a residual from ``blocks`` residual blocks and a pixel shuffle. Starts as bicubic: the last layer is 0.

    Features are 0 at pixels that are not valid, in every layer. So nodata, cloud that was masked and the image's edge are all
    the same to it, and an image inside an invalid margin gives what the image alone gives.

    Parameters
    ----------
    n_in
        Bands in.
    out_index
        Which of them come out, in order.
    scale
        Output pixels per input pixel, whole.
    channels, blocks
        Width and depth.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, *, n_in: int, out_index: Sequence[int], scale: int, channels: int, blocks: int):
        super().__init__()
        self.out_index = list(out_index)
        self.scale = scale
        self.base = MaskedBicubic(scale)
        self.head = nn.Conv2d(n_in, channels, 3, padding=1)
        self.blocks = nn.ModuleList([ResidualBlock(channels) for _ in range(blocks)])
        self.tail = nn.Conv2d(channels, channels, 3, padding=1)
        self.up = nn.Conv2d(channels, len(out_index) * scale * scale, 3, padding=1)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)  # type: ignore[arg-type]
        self.register_buffer("mean", torch.zeros(n_in))
        self.register_buffer("std", torch.ones(n_in))

    @property
    def halo_px(self) -> int:
        """Input pixels beyond which the output does not change: one for each convolution in a row, at least bicubic's two."""
        return max(2, 2 * len(self.blocks) + 3)

    def forward(self, lr: torch.Tensor, valid: torch.Tensor, days: Any = None) -> torch.Tensor:
        """``lr`` (n, 1, c, h, w) reflectance, 0 where not valid; ``valid`` (n, 1, h, w) → (n, c_out, h * scale, w * scale)."""
        x, known = lr[:, 0], valid[:, :1].to(lr.dtype)
        scaled = (x - self.mean[:, None, None]) / self.std[:, None, None] * known
        first = self.head(scaled.contiguous(memory_format=torch.channels_last)) * known
        features = first
        for block in self.blocks:
            features = block(features, known)
        features = first + self.tail(features) * known
        residual = functional.pixel_shuffle(self.up(features), self.scale) * self.std[self.out_index][:, None, None]
        return self.base(x[:, self.out_index], known) + residual
