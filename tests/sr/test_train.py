"""Training: deterministic, learns, and takes nothing that is not valid."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eocube.errors import PatchError, UnknownNameError
from eocube.jobs.patches import extract_patches
from eocube.patches import PatchDataset
from eocube.patches.dataset import Patch
from eocube.sr import load_model, train
from eocube.sr.train import TrainProgress
from tests.patches.makers import SPEC, make_store
from tests.sr.makers import make_network

SMALL: dict[str, Any] = {"channels": 4, "blocks": 1, "batch_size": 4}


@pytest.fixture(scope="module")
def patches(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("train")
    extract_patches(make_store(folder), str(folder / "set"), SPEC, executor="serial")
    return str(folder / "set")


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def test_equal_steps_and_seed_give_equal_files(patches: str, tmp_path: Path) -> None:
    state = torch.get_rng_state()
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        train(patches, str(tmp_path / name), steps=5, seed=seed, **SMALL)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert files(tmp_path / "a") != files(tmp_path / "c")
    assert torch.equal(torch.get_rng_state(), state), "the caller's random numbers are left alone"


def test_the_folder_says_how_it_came_about(patches: str, tmp_path: Path) -> None:
    model = train(patches, str(tmp_path / "m"), steps=2, bands_in=["red", "nir", "green"], bands_out=["red"], **SMALL)
    assert load_model(str(tmp_path / "m")) == model
    assert (model.bands_in, model.bands_out, model.scale, model.halo_px) == (("red", "nir", "green"), ("red",), 2, 5)
    stated = json.loads((tmp_path / "m" / "model.json").read_text())
    data = PatchDataset(patches, split="train")
    assert stated["training"]["patches"] == data.layout.layout_id
    assert stated["training"]["n_patches"] == len(data)
    assert stated["training"]["licenses"] == ["CC0-1.0"]
    assert (stated["training"]["steps"], stated["training"]["seed"], stated["training"]["split"]) == (2, 0, "train")
    valid = np.concatenate([p["lr"][0][[1, 0, 2]][:, p["lr_valid"][0]] for p in (data[i] for i in range(len(data)))], axis=1)
    np.testing.assert_allclose(stated["normalisation"]["mean"], valid.mean(axis=1), rtol=1e-5)
    np.testing.assert_allclose(stated["normalisation"]["std"], valid.std(axis=1), rtol=1e-4)
    assert str(tmp_path) not in json.dumps(stated)


def test_steps_are_counted_and_the_loss_falls(tmp_path: Path) -> None:
    """The HR pixels are noise around what bicubic gives, the same in every patch: it can be learned, and nothing else can."""
    heard: list[TrainProgress] = []
    train(Made(n=16), str(tmp_path / "m"), steps=60, on_step=heard.append, learning_rate=1e-2, **SMALL)  # type: ignore[arg-type]
    assert [p.step for p in heard] == list(range(1, 61))
    assert heard[-1].share == 1
    assert np.mean([p.loss for p in heard[-5:]]) < 0.5 * heard[0].loss


def test_seconds_bound_the_run_too(patches: str, tmp_path: Path) -> None:
    model = train(patches, str(tmp_path / "m"), seconds=0.3, **SMALL)
    assert model.training["steps"] > 0


class Made:
    """Patches made up here, with the face of a PatchDataset."""

    lr_bands = hr_bands = ("red",)
    split, url = "train", "memory"
    licence: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, n: int, *, poison: float = 0.0):
        rng = np.random.default_rng(0)
        self.spec = replace(SPEC, lr_px=6)
        self.layout = type("Layout", (), {"layout_id": "made"})
        lr = rng.random((n, 1, 1, 6, 6), dtype=np.float32)
        hr = np.repeat(np.repeat(lr[:, 0], 2, axis=-1), 2, axis=-2) + np.float32(0.3) * (np.indices((12, 12)).sum(0) % 2)
        self._all = {
            "lr": lr,
            "hr": hr.astype(np.float32),
            "lr_valid": np.ones((n, 1, 6, 6), bool),
            "hr_valid": np.ones((n, 12, 12), bool),
            "days": np.zeros((n, 1), np.float32),
        }
        self._all["hr_valid"][:, 2:5, 3:9] = False
        self._all["lr_valid"][:, 0, 4, 4] = False
        self._all["hr"][:, :, 2:5, 3:9] = poison
        self._all["hr"][:, :, 8:10, 8:10] = poison
        self._all["lr"][:, 0, :, 4, 4] = 0

    def __len__(self) -> int:
        return len(self._all["lr"])

    def batches(self, batch_size: int, **_: Any) -> Any:
        for first in range(0, len(self), batch_size):
            batch: Patch = {k: v[first : first + batch_size] for k, v in self._all.items()}
            yield batch


def test_what_is_not_valid_teaches_nothing(tmp_path: Path) -> None:
    """HR pixels that are not valid, and those above an LR pixel that is not, hold 0 or 1,000: the same network comes out."""
    for name, poison in (("plain", 0.0), ("poisoned", 1000.0)):
        train(Made(8, poison=poison), str(tmp_path / name), steps=4, **SMALL)  # type: ignore[arg-type]
    assert files(tmp_path / "plain") == files(tmp_path / "poisoned")


@pytest.mark.parametrize("kwargs", [{}, {"steps": 1, "seconds": 1.0}], ids=["neither", "both"])
def test_how_long_is_said_in_one_way(patches: str, tmp_path: Path, kwargs: dict[str, Any]) -> None:
    with pytest.raises(PatchError, match="pass one of them"):
        train(patches, str(tmp_path / "m"), **kwargs)


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"bands_in": ["blue"]}, "band 'blue' in lr of the patch set"),
        ({"bands_out": ["nir"]}, "band 'nir' in hr of the patch set"),
        ({"bands_in": ["nir", "red"], "bands_out": ["green", "red"]}, "what it gives it must also take"),
        ({"loss": "l3"}, "loss 'l3'"),
    ],
    ids=str,
)
def test_unknown_names_are_told_before_training(patches: str, tmp_path: Path, kwargs: dict[str, Any], said: str) -> None:
    with pytest.raises(UnknownNameError, match=said):
        train(patches, str(tmp_path / "m"), steps=1, **kwargs)
    assert not (tmp_path / "m").exists()


def test_a_set_without_a_training_patch_is_refused(tmp_path: Path) -> None:
    extract_patches(make_store(tmp_path), str(tmp_path / "set"), replace(SPEC, split=None), executor="serial")
    data = PatchDataset(str(tmp_path / "set"), split="test")
    with pytest.raises(PatchError, match="no patch of split 'test'"):
        train(data, str(tmp_path / "m"), steps=1)


def test_a_fresh_network_is_bicubic_and_a_trained_one_is_not(patches: str, tmp_path: Path) -> None:
    lr = np.random.default_rng(0).random((1, 1, 3, 8, 8), dtype=np.float32)
    valid, days = np.ones((1, 1, 8, 8), bool), np.zeros((1, 1), np.float32)
    trained = train(patches, str(tmp_path / "m"), steps=1, **SMALL)
    bicubic = load_model("bicubic", scale=2, bands=["green", "red"])(lr[:, :, [2, 1]], valid=valid, days=days)
    found = trained(lr, valid=valid, days=days)
    assert not np.allclose(found, bicubic, atol=1e-4)
    np.testing.assert_allclose(found, bicubic, atol=0.5)
    assert make_network(tmp_path / "n").model_id != trained.model_id
