"""Models: what they promise, and that opening one never runs its maker's code."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eocube.errors import ModelError
from eocube.infer.model import Model
from eocube.kernels.resample import upsample_bicubic, upsample_nearest
from eocube.sr import SrModel, load_model
from eocube.sr.baselines import BicubicSr, NearestSr
from eocube.sr.folder import DESCRIPTION, WEIGHTS, load_network
from eocube.testing.contracts_model import ModelContract
from tests.sr.makers import make_network


class TestNearest(ModelContract):
    def make_model(self) -> Model:
        return NearestSr(3, ["red", "nir"])


class TestBicubic(ModelContract):
    def make_model(self) -> Model:
        return BicubicSr(2, ["red", "nir"])


class TestNetwork(ModelContract):
    halo_atol = 1e-5
    size_atol = 1e-5

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path / "model"
        make_network(self.folder)

    def make_model(self) -> Model:
        return load_network(str(self.folder))


class TestModelByName(TestNetwork):
    """What ``load_model`` gives is a Model too, before and after its weights are there."""

    def make_model(self) -> Model:
        return load_model(str(self.folder))


def test_nearest_and_bicubic_are_the_kernels(tmp_path: Path) -> None:
    lr = np.random.default_rng(0).random((2, 1, 2, 12, 9), dtype=np.float32)
    valid, days = np.ones((2, 1, 12, 9), bool), np.zeros((2, 1), np.float32)
    nearest, bicubic = (load_model(n, scale=2, bands=["red", "nir"]) for n in ("nearest", "bicubic"))
    np.testing.assert_array_equal(nearest(lr, valid=valid, days=days), upsample_nearest(lr[:, 0], (2, 2)))
    inner = (..., slice(4, -4), slice(4, -4))
    np.testing.assert_array_equal(bicubic(lr, valid=valid, days=days)[inner], upsample_bicubic(lr[:, 0], 2)[inner])


def test_bicubic_takes_an_invalid_margin_for_the_end_of_the_image() -> None:
    rng = np.random.default_rng(1)
    lr, valid, days = rng.random((1, 1, 1, 5, 6), dtype=np.float32), np.ones((1, 1, 5, 6), bool), np.zeros((1, 1), np.float32)
    model = BicubicSr(2, ["red"])
    framed, known = np.zeros((1, 1, 1, 11, 12), np.float32), np.zeros((1, 1, 11, 12), bool)
    framed[..., 3:8, 3:9], known[..., 3:8, 3:9] = lr, True
    alone = model(lr, valid=valid, days=days)
    np.testing.assert_array_equal(model(framed, valid=known, days=days)[..., 6:16, 6:18], alone)


# ------------------------------------------------------------------------------------------------ folders


def test_a_model_states_what_it_is_without_its_weights(tmp_path: Path) -> None:
    made = make_network(tmp_path / "m", blocks=2)
    assert (made.scale, made.halo_px, made.revisits) == (2, 7, 1)
    assert (made.bands_in, made.bands_out) == (("green", "red", "nir"), ("green", "red"))
    assert made.resource_id == made.model_id == load_network(str(tmp_path / "m")).model_id
    (tmp_path / "m" / WEIGHTS).unlink()
    assert load_model(str(tmp_path / "m")) == made


def test_the_id_follows_the_weights_and_not_the_folder(tmp_path: Path) -> None:
    first, again, other = (make_network(tmp_path / str(i), seed=s) for i, s in enumerate((0, 0, 1)))
    assert first.model_id == again.model_id
    assert first.model_id != other.model_id
    assert (tmp_path / "0" / WEIGHTS).read_bytes() == (tmp_path / "1" / WEIGHTS).read_bytes()


def test_a_model_travels_small_and_loads_once(tmp_path: Path) -> None:
    made = make_network(tmp_path / "m", channels=64, blocks=2)
    made.loaded()
    body = pickle.dumps(made)
    assert len(body) < 2_000 < (tmp_path / "m" / WEIGHTS).stat().st_size
    again = pickle.loads(body)
    assert again == made
    assert again.loaded() is again.loaded()


def test_weights_exchanged_after_planning_are_noticed(tmp_path: Path) -> None:
    made = make_network(tmp_path / "m")
    make_network(tmp_path / "m", seed=9)
    with pytest.raises(ModelError, match="weights were exchanged"):
        made.loaded()


class Bomb:
    """Unpickling it makes a folder."""

    def __init__(self, folder: str):
        self.folder = folder

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("made_by", ["pickle", "torch.save"])
def test_a_malicious_file_is_refused_and_runs_nothing(tmp_path: Path, made_by: str) -> None:
    """The description even vouches for it: its digest fits."""
    import hashlib

    make_network(tmp_path / "m")
    trap, weights, description = tmp_path / "sprung", tmp_path / "m" / WEIGHTS, tmp_path / "m" / DESCRIPTION
    bomb = {"head.weight": Bomb(str(trap))}
    if made_by == "pickle":
        weights.write_bytes(pickle.dumps(bomb))
    else:
        torch.save(bomb, weights)
    stated = json.loads(description.read_text())
    stated["weights_sha256"] = hashlib.sha256(weights.read_bytes()).hexdigest()
    description.write_text(json.dumps(stated))
    with pytest.raises(ModelError, match="does not hold the tensors"):
        load_model(str(tmp_path / "m")).loaded()
    assert not trap.exists()
    pickle.loads(pickle.dumps(bomb))
    assert trap.exists(), "the bomb works"


def change(**fields: Any) -> Any:
    """Exchange fields of the description."""

    def apply(folder: Path) -> None:
        path = folder / DESCRIPTION
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

    return apply


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        pytest.param(lambda f: (f / DESCRIPTION).unlink(), "no model.json was found", id="no description"),
        pytest.param(lambda f: (f / DESCRIPTION).write_text("{"), "does not describe", id="half a description"),
        pytest.param(change(colour="blue"), "does not describe", id="an unknown field"),
        pytest.param(change(format=99), "99", id="a later format"),
        pytest.param(change(bands_out=["blue"]), "blue", id="a band from nowhere"),
        pytest.param(lambda f: (f / WEIGHTS).unlink(), "missing", id="no weights"),
        pytest.param(lambda f: (f / WEIGHTS).write_bytes(b""), "another file", id="other weights"),
        pytest.param(change(channels=16), "does not hold the tensors", id="another width"),
        pytest.param(change(halo_px=3), "the network has 5", id="a halo too small"),
    ],
)
def test_a_damaged_folder_is_named(tmp_path: Path, damage: Any, said: str) -> None:
    make_network(tmp_path / "m")
    damage(tmp_path / "m")
    with pytest.raises(ModelError, match=said):
        load_model(str(tmp_path / "m")).loaded()


@pytest.mark.parametrize(
    "kwargs", [{}, {"scale": 2}, {"bands": ["red"]}, {"scale": 0, "bands": ["red"]}, {"scale": 2, "bands": []}], ids=str
)
def test_a_baseline_needs_scale_and_bands(kwargs: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="pass a whole number and some names"):
        load_model("bicubic", **kwargs)


def test_a_folder_knows_its_own_scale(tmp_path: Path) -> None:
    make_network(tmp_path / "m")
    with pytest.raises(ModelError, match="knows its scale"):
        load_model(str(tmp_path / "m"), scale=2)


def test_baselines_are_named_by_what_they_do() -> None:
    ids = {load_model(n, scale=s, bands=b).model_id for n in ("nearest", "bicubic") for s in (2, 3) for b in (["red"], ["nir"])}
    assert len(ids) == 8
    assert isinstance(load_model("nearest", scale=2, bands=["red"]), SrModel)
