"""Train the residual network on a patch set: one plain loop."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from eocube.errors import MissingDependencyError, PatchError, UnknownNameError
from eocube.patches.dataset import Patch, PatchDataset
from eocube.sr.folder import NetworkDescription, build, save_network
from eocube.sr.models import SrModel, load_model

if TYPE_CHECKING:
    import torch

Loss = Literal["l1", "l2"]

WARM_UP = 0.05
"""Share of the run in which the learning rate rises; it then falls along half a cosine."""


@dataclass(frozen=True, kw_only=True)
class TrainProgress:
    """Where a training run stands after a step."""

    step: int
    steps: int | None
    """How many there will be; None where time decides."""

    share: float
    """Of the run, 0-1."""

    loss: float


def train(
    patches: str | PatchDataset,
    out: str,
    *,
    steps: int | None = None,
    seconds: float | None = None,
    seed: int = 0,
    bands_in: Sequence[str] | None = None,
    bands_out: Sequence[str] | None = None,
    channels: int = 32,
    blocks: int = 4,
    batch_size: int = 16,
    learning_rate: float = 2e-3,
    loss: Loss = "l1",
    threads: int = 1,
    storage_options: Mapping[str, Any] | None = None,
    on_step: Callable[[TrainProgress], None] | None = None,
) -> SrModel:
    """Train a residual network on the training patches of a set, and save it as a folder.

    Parameters
    ----------
    patches
        URL of the set, or a dataset to take patches from as it is (its split and augmentation). A URL means the ``train`` split
        with all eight symmetries.
    out
        Folder or URL of the model.
    steps, seconds
        How long, one of the two. With ``steps`` equal arguments on equal machines give equal weights.
    seed
        Of the weights, the order of the patches and their symmetries.
    bands_in
        Bands of ``lr`` that the network sees; None: all.
    bands_out
        Bands that it gives, each of them in ``lr`` and in ``hr``; None: all that are in both.
    channels, blocks
        Width and depth.
    batch_size
        Patches of a step.
    learning_rate
        At its highest: it rises in the first twentieth of the run and falls along half a cosine.
    loss
        ``l1``: mean absolute error, ``l2``: mean squared error; of reflectance, over valid HR pixels. On the shipped sample
        ``l1`` came out ahead in PSNR too: it heeds dark dates more.
    threads
        CPU threads of a step. The steps of a small network are too short to share: two threads gain little on an idle machine,
        and lose most of their time waiting for each other on a busy one. A wide network on many cores wants more.
    storage_options
        For both URLs.
    on_step
        Called after each step.

    Returns
    -------
    The model, ready for :func:`eocube.superresolve`; :func:`eocube.load_model` opens the folder later.

    Raises
    ------
    PatchError
        If the set has no patch to train on, or both or none of ``steps`` and ``seconds`` are given.
    UnknownNameError
        For bands that are not there, or another loss.
    MissingDependencyError
        Without torch.

    Notes
    -----
    The network starts as bicubic interpolation. Its input is scaled by mean and standard deviation of each band over the
    training patches.
    """
    if (steps is None) == (seconds is None):
        raise PatchError(f"train was given steps={steps} and seconds={seconds}; pass one of them.")
    if loss not in _LOSSES:
        raise UnknownNameError("loss", loss, _LOSSES, "train")
    data = (
        PatchDataset(patches, split="train", augment=True, seed=seed, storage_options=storage_options)
        if isinstance(patches, str)
        else patches
    )
    if not len(data):
        raise PatchError(f"The patch set at {data.url} has no patch of split {data.split!r} to train on.")
    bands = _Bands.of(data, bands_in, bands_out)
    mean, std = _normalisation(data, bands.lr)
    described = NetworkDescription(
        bands_in=bands.names_in,
        bands_out=bands.names_out,
        scale=data.spec.scale,
        channels=channels,
        blocks=blocks,
        halo_px=0,
        normalisation={"mean": mean.tolist(), "std": std.tolist()},
    )
    with _seeded(seed):
        module = build(described)
    run = _Run(module, data, bands, batch_size=batch_size, learning_rate=learning_rate, loss=loss)
    run.set_normalisation(mean, std)
    with _on_threads(threads):
        n_steps, last = run.run(steps=steps, seconds=seconds, on_step=on_step)
    training = {
        "patches": data.layout.layout_id,
        "spec": json.loads(data.spec.to_json()),
        "split": data.split,
        "n_patches": len(data),
        "steps": n_steps,
        "seed": seed,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "loss": loss,
        "last_loss": last,
        **data.licence,
    }
    save_network(out, module, replace(described, halo_px=module.halo_px, training=training), storage_options or {})
    return load_model(out, storage_options=storage_options)


@dataclass(frozen=True, kw_only=True)
class _Bands:
    """Which bands of a patch set a network takes and gives."""

    names_in: tuple[str, ...]
    names_out: tuple[str, ...]
    lr: list[int]
    hr: list[int]

    @classmethod
    def of(cls, data: PatchDataset, bands_in: Sequence[str] | None, bands_out: Sequence[str] | None) -> _Bands:
        names_in = tuple(bands_in or data.lr_bands)
        for band in names_in:
            if band not in data.lr_bands:
                raise UnknownNameError("band", band, data.lr_bands, "lr of the patch set")
        names_out = tuple(bands_out or (b for b in data.hr_bands if b in names_in))
        if not names_out:
            raise PatchError(f"No band of hr ({', '.join(data.hr_bands)}) is among those that the network takes: {names_in}.")
        for band in names_out:
            if band not in data.hr_bands:
                raise UnknownNameError("band", band, data.hr_bands, "hr of the patch set")
            if band not in names_in:
                raise UnknownNameError("band", band, names_in, "the network's input: what it gives it must also take")
        return cls(
            names_in=names_in,
            names_out=names_out,
            lr=[data.lr_bands.index(b) for b in names_in],
            hr=[data.hr_bands.index(b) for b in names_out],
        )


def _normalisation(data: PatchDataset, bands: list[int]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Mean and standard deviation of each LR band over the valid pixels of every patch."""
    n = 0
    total, squares = np.zeros(len(bands)), np.zeros(len(bands))
    for batch in data.batches(256):
        valid = batch["lr_valid"][:, 0]
        pixels = batch["lr"][:, 0][:, bands].astype(np.float64).transpose(1, 0, 2, 3)[:, valid]
        n += pixels.shape[1]
        total += pixels.sum(axis=1)
        squares += (pixels**2).sum(axis=1)
    mean = total / max(n, 1)
    std = np.sqrt(np.maximum(squares / max(n, 1) - mean**2, 1e-8))
    return mean.astype(np.float32), std.astype(np.float32)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Torch's random numbers from ``seed`` inside, and as they were afterwards."""
    try:
        import torch
    except ImportError as e:
        raise MissingDependencyError("Training a network", "torch", "sr") from e
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@contextmanager
def _on_threads(n: int) -> Iterator[None]:
    """Torch computes with ``n`` CPU threads inside, and with as many as before afterwards."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Run:
    """The loop and what it needs."""

    def __init__(
        self, module: torch.nn.Module, data: PatchDataset, bands: _Bands, *, batch_size: int, learning_rate: float, loss: Loss
    ):
        import torch

        self._data, self._bands, self._batch_size, self._peak_rate, self._loss = data, bands, batch_size, learning_rate, loss
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._module: Any = module.to(self._device)
        self._optimizer = torch.optim.Adam(module.parameters(), lr=learning_rate)

    def set_normalisation(self, mean: npt.NDArray[np.float32], std: npt.NDArray[np.float32]) -> None:
        """Put the input's statistics into the network."""
        import torch

        self._module.mean.copy_(torch.from_numpy(mean))
        self._module.std.copy_(torch.from_numpy(std))
        self._unit = float(std[[self._bands.names_in.index(b) for b in self._bands.names_out]].mean())

    def run(
        self, *, steps: int | None, seconds: float | None, on_step: Callable[[TrainProgress], None] | None
    ) -> tuple[int, float]:
        """Train; (steps done, loss of the last one)."""
        import torch

        started, step, last = time.perf_counter(), 0, float("nan")
        self._module.train()
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            for batch in self._endless():
                share = step / steps if steps is not None else (time.perf_counter() - started) / (seconds or 1e-9)
                if share >= 1:
                    break
                last = self._step(batch, share)
                step += 1
                if on_step is not None:
                    on_step(TrainProgress(step=step, steps=steps, share=min(1.0, step / steps if steps else share), loss=last))
        self._module.eval()
        return step, last

    def _endless(self) -> Iterator[Patch]:
        """Shuffled batches, epoch after epoch; the short last one of an epoch is left out where there are full ones."""
        epoch, full = 0, len(self._data) >= self._batch_size
        while True:
            yield from self._data.batches(self._batch_size, shuffle=True, epoch=epoch, drop_last=full)
            epoch += 1

    def _step(self, batch: Patch, share: float) -> float:
        """One step of the optimiser; the loss in units of the bands' standard deviation."""
        import torch

        rising = min(1.0, (share + 1e-3) / WARM_UP)
        for group in self._optimizer.param_groups:
            group["lr"] = self._peak_rate * rising * (0.505 + 0.495 * float(np.cos(np.pi * share)))
        lr, lr_valid, hr, hr_valid = (
            torch.from_numpy(np.ascontiguousarray(v)).to(self._device)
            for v in (batch["lr"][:, :, self._bands.lr], batch["lr_valid"], batch["hr"][:, self._bands.hr], batch["hr_valid"])
        )
        scale = self._data.spec.scale
        used = hr_valid & lr_valid[:, 0].repeat_interleave(scale, dim=1).repeat_interleave(scale, dim=2)
        error = (self._module(lr, lr_valid, None) - hr) / self._unit * used[:, None]
        loss = _LOSSES[self._loss](error, used.sum() * hr.shape[1])
        self._optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._module.parameters(), 1.0)
        self._optimizer.step()
        return float(loss.detach())


def _l1(error: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
    return error.abs().sum() / n.clamp(min=1)


def _l2(error: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
    return error.square().sum() / n.clamp(min=1)


_LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {"l1": _l1, "l2": _l2}
"""(error (n, band, y, x) in standard deviations and 0 where not used, values used in all) → scalar."""
