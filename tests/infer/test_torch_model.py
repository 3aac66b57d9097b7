"""Torch modules behind the Model protocol, on the CPU."""

from __future__ import annotations

import sys
from fractions import Fraction
from typing import TypedDict

import numpy as np
import pytest
import torch

from eocube.errors import MissingDependencyError, ModelError
from eocube.infer.model import Model
from eocube.infer.torch_model import TorchModel, weights_digest
from eocube.testing.contracts_model import ModelContract

_: type[Model] = TorchModel


class Facts(TypedDict):
    bands_in: tuple[str, ...]
    bands_out: tuple[str, ...]
    scale: int
    halo_px: int
    device: str


class SmallNet(torch.nn.Module):
    """Three 3 x 3 convolutions, wide enough for the fast kernels, and a pixel shuffle: ×2 with a halo of 3."""

    def __init__(self, width=16):
        super().__init__()
        self.body = torch.nn.Sequential(
            torch.nn.Conv2d(2, width, 3, padding=1),
            torch.nn.ReLU(),
            torch.nn.Conv2d(width, width, 3, padding=1),
            torch.nn.ReLU(),
            torch.nn.Conv2d(width, 8, 3, padding=1),
            torch.nn.PixelShuffle(2),
        )

    def forward(self, x):
        return self.body(x)


class MeanOfRevisits(torch.nn.Module):
    """A multi-frame module: the mean of valid revisits, weighted by nearness in time, through one convolution."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(2, 1, 3, padding=1)

    def forward(self, lr, valid, days):
        weight = (valid / (1 + days.abs())[:, :, None, None])[:, :, None]
        return self.conv((lr * weight).sum(1) / weight.sum(1).clamp(min=1e-6))


def small_model(**kwargs):
    torch.manual_seed(0)
    return TorchModel(SmallNet(), bands_in=("red", "nir"), bands_out=("red", "nir"), scale=2, halo_px=3, device="cpu", **kwargs)


class TestSmallNet(ModelContract):
    halo_atol = size_atol = 1e-6

    def make_model(self):
        return small_model()


class TestMultiFrame(ModelContract):
    halo_atol = size_atol = 1e-6

    def make_model(self):
        torch.manual_seed(0)
        facts: Facts = {"bands_in": ("red", "nir"), "bands_out": ("ndvi",), "scale": 1, "halo_px": 1, "device": "cpu"}
        return TorchModel(MeanOfRevisits(), revisits=3, **facts)


class FirstRevisit(torch.nn.Module):
    """Gives a view of its input, which is the caller's memory."""

    def forward(self, lr, valid, days):
        return lr[:, 0]


class TestModuleThatPassesItsInputOn(ModelContract):
    def make_model(self):
        facts: Facts = {"bands_in": ("red",), "bands_out": ("red",), "scale": 1, "halo_px": 0, "device": "cpu"}
        return TorchModel(FirstRevisit(), revisits=1, **facts)


def one_batch(n=1, shape_yx=(12, 20), seed=0):
    rng = np.random.default_rng(seed)
    lr = rng.random((n, 1, 2, *shape_yx), dtype=np.float32)
    return lr, np.ones((n, 1, *shape_yx), bool), np.zeros((n, 1), np.float32)


def test_it_gives_what_the_bare_module_gives():
    torch.manual_seed(0)
    bare = SmallNet()
    lr, valid, days = one_batch(3)
    with torch.no_grad():
        expected = bare(torch.from_numpy(lr[:, 0])).numpy()
    out = small_model()(lr, valid=valid, days=days)
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-6)
    assert out.flags.c_contiguous


def test_a_module_in_training_mode_is_set_to_evaluation():
    net = torch.nn.Sequential(torch.nn.Conv2d(2, 2, 1), torch.nn.BatchNorm2d(2), torch.nn.Dropout(0.9))
    model = TorchModel(net.train(), bands_in=("a", "b"), bands_out=("a", "b"), scale=1, halo_px=0, device="cpu")
    lr, valid, days = one_batch(2)
    np.testing.assert_array_equal(model(lr, valid=valid, days=days), model(lr, valid=valid, days=days))


def test_a_module_in_double_precision_runs_in_single():
    model = TorchModel(torch.nn.Conv2d(2, 1, 1).double(), bands_in=("a", "b"), bands_out=("a",), scale=1, halo_px=0, device="cpu")
    lr, valid, days = one_batch()
    assert model(lr, valid=valid, days=days).dtype == np.float32


def test_no_gradient_is_kept():
    model = small_model()
    lr, valid, days = one_batch()
    model(lr, valid=valid, days=days)
    assert all(parameter.grad is None for parameter in model.module.parameters())


def test_read_only_memory_is_taken_without_a_warning():
    lr, valid, days = one_batch()
    expected = small_model()(lr, valid=valid, days=days)
    lr.flags.writeable = False
    np.testing.assert_array_equal(small_model()(lr, valid=valid, days=days), expected)


def test_threads_are_set_where_the_forward_runs():
    before = torch.get_num_threads()
    try:
        lr, valid, days = one_batch()
        small_model(threads=1)(lr, valid=valid, days=days)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_revisits_and_scale_are_stated_as_the_protocol_has_them():
    assert (small_model().revisits, small_model().scale) == (1, Fraction(2))
    assert TestMultiFrame().make_model().revisits == 3


def test_a_multi_frame_module_without_revisits_is_refused():
    with pytest.raises(ModelError, match="revisits=0"):
        TorchModel(MeanOfRevisits(), bands_in=("a",), bands_out=("a",), scale=1, halo_px=1, revisits=0)


@pytest.mark.parametrize("change", ["a weight", "the bands", "the scale", "the architecture"])
def test_whatever_decides_the_pixels_changes_the_id(change):
    torch.manual_seed(0)
    net: torch.nn.Module = SmallNet()
    facts: Facts = {"bands_in": ("red", "nir"), "bands_out": ("red", "nir"), "scale": 2, "halo_px": 3, "device": "cpu"}
    if change == "a weight":
        with torch.no_grad():
            net.get_parameter("body.4.bias")[3] += 1e-3
    elif change == "the bands":
        facts["bands_out"] = ("nir", "red")
    elif change == "the scale":
        facts["scale"] = 4
    else:
        net = torch.nn.Sequential(*net.children())
    assert TorchModel(net, **facts).model_id != small_model().model_id


def test_a_given_id_is_kept():
    assert small_model(model_id="worldstrat-srcnn").model_id == "worldstrat-srcnn"


def test_the_digest_of_weights_sees_names_shapes_and_types():
    def digest_of(**tensors):
        module = torch.nn.Module()
        for name, tensor in tensors.items():
            module.register_buffer(name, tensor)
        return weights_digest(module)

    zeros = torch.zeros(4)
    assert digest_of(a=zeros) == digest_of(a=zeros.clone())
    others = [digest_of(b=zeros), digest_of(a=zeros.reshape(2, 2)), digest_of(a=zeros.int()), digest_of(a=zeros + 1), digest_of()]
    assert digest_of(a=torch.tensor(3), b=torch.zeros(2).bfloat16())
    assert len({digest_of(a=zeros), *others}) == 6


def test_a_device_that_runs_out_of_memory_raises_memory_error():
    class Full(torch.nn.Module):
        def forward(self, x):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    model = TorchModel(Full(), bands_in=("a", "b"), bands_out=("a",), scale=1, halo_px=0, device="cpu")
    lr, valid, days = one_batch()
    with pytest.raises(MemoryError, match=r"2\.00 GiB"):
        model(lr, valid=valid, days=days)


def test_without_torch_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingDependencyError, match=r"eocube\[sr\]"):
        TorchModel(torch.nn.Identity(), bands_in=("a",), bands_out=("a",), scale=1, halo_px=0)
