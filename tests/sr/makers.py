"""Small networks that do something, in folders."""

from __future__ import annotations

from pathlib import Path

import torch

from eocube.sr.folder import NetworkDescription, build, save_network
from eocube.sr.models import SrModel, load_model


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
