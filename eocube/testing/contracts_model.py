"""What every Model must do. Subclass ``ModelContract`` as ``TestMyModel``, give ``make_model``, and pytest runs the rest."""

# ruff: noqa: D102 - the name of a test is its claim
from __future__ import annotations

from abc import ABC, abstractmethod
from fractions import Fraction

import numpy as np
import pytest

from eocube.infer.model import Model
from eocube.kernels.arrays import BoolArray, Float32Array

Batch = tuple[Float32Array, BoolArray, Float32Array]


class ModelContract(ABC):
    """The promises of ``eocube.infer.model.Model`` as tests."""

    halo_atol: float = 0.0
    """How far a core pixel may move when context beyond the halo does. Above 0 for fast convolutions (Winograd, FFT), which
    mix an output pixel's neighbourhood into it and cancel it again, up to rounding."""

    size_atol: float = 0.0
    """How far a pixel may move with the size of the batch. Above 0 for float32 convolutions."""

    @abstractmethod
    def make_model(self) -> Model:
        """A new model, the same at every call."""

    @pytest.fixture
    def model(self) -> Model:
        """The model under test."""
        return self.make_model()

    def test_it_states_what_it_is(self, model: Model) -> None:
        assert isinstance(model.scale, Fraction)
        assert model.scale > 0
        assert model.halo_px >= 0
        assert model.revisits >= 1
        for bands in (model.bands_in, model.bands_out):
            assert isinstance(bands, tuple)
            assert bands
            assert len(set(bands)) == len(bands)

    def test_two_equal_models_have_one_id(self, model: Model) -> None:
        assert model.model_id
        assert model.model_id == self.make_model().model_id

    def test_output_has_the_promised_shape_and_dtype_for_tiles_that_are_not_square(self, model: Model) -> None:
        for shape_yx in (self._tile_yx(model), self._tile_yx(model)[::-1]):
            lr, valid, days = self._batch(model, n=2, shape_yx=shape_yx)
            out = model(lr, valid=valid, days=days)
            assert out.shape == (2, len(model.bands_out), *(int(edge * model.scale) for edge in shape_yx))
            assert out.dtype == np.float32
            assert np.isfinite(out).all()

    def test_a_sample_does_not_depend_on_the_others_nor_on_its_place(self, model: Model) -> None:
        lr, valid, days = self._batch(model, n=4)
        out = model(lr, valid=valid, days=days)
        order = np.array([2, 0, 3, 1])
        np.testing.assert_array_equal(model(lr[order], valid=valid[order], days=days[order]), out[order])
        for values in (lr, valid, days):
            values[1:] = 0  # the padding of a last batch
        np.testing.assert_array_equal(model(lr, valid=valid, days=days)[0], out[0])

    def test_a_sample_alone_gives_what_it_gives_in_a_batch(self, model: Model) -> None:
        lr, valid, days = self._batch(model, n=3)
        whole = model(lr, valid=valid, days=days)
        alone = [model(lr[i : i + 1], valid=valid[i : i + 1], days=days[i : i + 1])[0] for i in range(3)]
        np.testing.assert_allclose(alone, whole, rtol=0, atol=self.size_atol)

    def test_the_core_does_not_see_beyond_the_halo(self, model: Model) -> None:
        """Pixels farther than ``halo_px`` from the core are exchanged; the core must not move."""
        step, halo = model.scale.denominator, model.halo_px
        before = -(-(halo + 1) // step) * step  # a tile origin is a multiple of the denominator
        core_y, core_x = slice(before, before + step), slice(before, before + 2 * step)
        shape_yx = (2 * before + step, 2 * before + 2 * step)
        lr, valid, days = self._batch(model, n=1, shape_yx=shape_yx)
        other_lr, other_valid, _ = self._batch(model, n=1, shape_yx=shape_yx, seed=1)
        near = tuple(slice(core.start - halo, core.stop + halo) for core in (core_y, core_x))
        other_lr[..., near[0], near[1]] = lr[..., near[0], near[1]]
        other_valid[..., near[0], near[1]] = valid[..., near[0], near[1]]
        core = (..., _scaled(model, core_y.start, core_y.stop), _scaled(model, core_x.start, core_x.stop))
        out = model(lr, valid=valid, days=days)[core]
        other = model(other_lr, valid=other_valid, days=days)[core]
        np.testing.assert_allclose(other, out, rtol=0, atol=self.halo_atol)

    def test_tiles_give_what_the_whole_image_gives(self, model: Model) -> None:
        """Origins at multiples of the scale's denominator; the halo is read and dropped."""
        step = model.scale.denominator
        margin = -(-model.halo_px // step) * step
        edge = 2 * margin + step
        lr, valid, days = self._batch(model, n=1, shape_yx=(edge + step, edge + 2 * step))
        whole = model(lr, valid=valid, days=days)
        inside = _scaled(model, margin, margin + step)
        for y, x in ((0, 0), (0, step), (0, 2 * step), (step, 0), (step, step), (step, 2 * step)):
            window = (..., slice(y, y + edge), slice(x, x + edge))
            tile = model(lr[window].copy(), valid=valid[window].copy(), days=days)
            core_y, core_x = (_scaled(model, origin + margin, origin + margin + step) for origin in (y, x))
            atol = max(self.halo_atol, self.size_atol)
            np.testing.assert_allclose(tile[..., inside, inside], whole[..., core_y, core_x], rtol=0, atol=atol)

    def test_inputs_are_left_as_they_were(self, model: Model) -> None:
        batch = self._batch(model, n=2)
        before = [values.copy() for values in batch]
        model(batch[0], valid=batch[1], days=batch[2])
        for values, expected in zip(batch, before, strict=True):
            np.testing.assert_array_equal(values, expected)

    def test_a_later_call_leaves_an_earlier_result_alone(self, model: Model) -> None:
        lr, valid, days = self._batch(model, n=2)
        out = model(lr, valid=valid, days=days)
        kept = out.copy()
        model(lr * np.float32(0.5), valid=valid, days=days)
        lr[...] = 0  # the batch's memory is used again
        np.testing.assert_array_equal(out, kept)

    def test_the_same_input_gives_the_same_bytes(self, model: Model) -> None:
        lr, valid, days = self._batch(model, n=2)
        out = model(lr, valid=valid, days=days)
        np.testing.assert_array_equal(model(lr, valid=valid, days=days), out)
        np.testing.assert_array_equal(self.make_model()(lr, valid=valid, days=days), out)

    def test_masked_revisits_give_finite_numbers(self, model: Model) -> None:
        lr, valid, days = self._batch(model, n=2)
        valid[:, -1] = False
        valid[1] = False
        lr = np.where(valid[:, :, None], lr, np.float32(0))
        assert np.isfinite(model(lr, valid=valid, days=days)).all()

    @staticmethod
    def _tile_yx(model: Model) -> tuple[int, int]:
        step = model.scale.denominator
        return step * (-(-2 * model.halo_px // step) + 2), step * (-(-2 * model.halo_px // step) + 5)

    def _batch(self, model: Model, *, n: int, shape_yx: tuple[int, int] | None = None, seed: int = 0) -> Batch:
        """Random reflectance with about a tenth of the pixels invalid, and 0 there."""
        rng = np.random.default_rng(seed)
        shape_yx = shape_yx or self._tile_yx(model)
        valid = rng.random((n, model.revisits, *shape_yx)) > 0.1
        lr = rng.random((n, model.revisits, len(model.bands_in), *shape_yx), dtype=np.float32) * valid[:, :, None]
        days = np.sort(rng.integers(-60, 60, (n, model.revisits))).astype(np.float32)
        return lr, valid, days


def _scaled(model: Model, start: int, stop: int) -> slice:
    """The output pixels of input pixels ``start:stop``, both multiples of the scale's denominator."""
    return slice(int(start * model.scale), int(stop * model.scale))
