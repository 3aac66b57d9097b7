"""Small networks that do something, in folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from eocube.infer.load import ModelSpec
from eocube.kernels.arrays import BoolArray, Float32Array
from eocube.sr.folder import NetworkDescription, build, save_network
from eocube.sr.models import SrModel, load_model
from eocube.testing.models import NearestModel


def make_network(
    folder: Path | str,
    *,
    bands_in: tuple[str, ...] = ("green", "red", "nir"),
    bands_out: tuple[str, ...] = ("green", "red"),
    scale: int = 2,
    channels: int = 8,
    blocks: int = 1,
    seed: int = 0,
) -> SrModel:
    """A network with random weights, its last layer too, so that it is far from bicubic."""
    described = NetworkDescription(
        bands_in=bands_in, bands_out=bands_out, scale=scale, channels=channels, blocks=blocks, halo_px=2 * blocks + 3
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = build(described)
        torch.nn.init.normal_(module.up.weight, std=0.05)
        module.mean.fill_(0.2)
        module.std.fill_(0.1)
    save_network(str(folder), module, described, {})
    return load_model(str(folder))


class CountingModel(NearestModel):
    """Nearest neighbour that remembers how many valid tiles each of its batches held."""

    def __init__(self, bands: Sequence[str]):
        super().__init__(2, bands)
        self.tiles: list[int] = []

    def __call__(self, lr: Float32Array, *, valid: BoolArray, days: Float32Array) -> Float32Array:
        """See ``Model``."""
        self.tiles.append(int(valid.any(axis=(1, 2, 3)).sum()))
        return super().__call__(lr, valid=valid, days=days)


def make_counting(bands: tuple[str, ...] = ("green", "red")) -> SrModel:
    """By name, as a task gets it; ``.loaded()`` is the CountingModel."""
    made = CountingModel(bands)
    return SrModel(
        spec=ModelSpec.of("tests.sr.makers:CountingModel", bands=list(bands)),
        scale=made.scale,
        halo_px=made.halo_px,
        bands_in=made.bands_in,
        bands_out=made.bands_out,
        model_id=made.model_id,
    )
