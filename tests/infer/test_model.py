"""Facts that a caller checks before the first pixel, and the contract on the models that ship with the tests."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from eocube.errors import ModelError
from eocube.infer.model import band_indices, batch_shape, check_output
from eocube.testing.contracts_model import ModelContract
from eocube.testing.models import NearestModel


class TestNearest(ModelContract):
    def make_model(self):
        return NearestModel(2)


class TestNearestOfTenThirds(ModelContract):
    def make_model(self):
        return NearestModel("10/3", bands=("red", "green", "nir"), revisits=4)


class TestNearestOfTwentyFiveEighths(ModelContract):
    def make_model(self):
        return NearestModel(Fraction(25, 8))


class TestNearestDownwards(ModelContract):
    def make_model(self):
        return NearestModel("1/2", bands=("red",))


class Planted(NearestModel):
    """A correct model for subclasses to spoil."""

    def __init__(self):
        super().__init__(2, revisits=2)

    def __call__(self, lr, *, valid, days):
        return self.spoil(super().__call__(lr, valid=valid, days=days), lr, valid)

    def spoil(self, out, lr, valid):
        return out


class LiesAboutItsHalo(Planted):
    def spoil(self, out, lr, valid):
        return out + np.roll(out, 2, axis=-1)


class SeesTheWholeTile(Planted):
    def spoil(self, out, lr, valid):
        return out - out.mean(axis=(-2, -1), keepdims=True)


class NormalisesByTheBatch(Planted):
    def spoil(self, out, lr, valid):
        return out / (out.max() + 1)


class DependsOnThePlace(Planted):
    def spoil(self, out, lr, valid):
        return out + np.arange(len(out), dtype=np.float32)[:, None, None, None]


class SpoilsItsInput(Planted):
    def spoil(self, out, lr, valid):
        lr *= 0
        return out


class SpoilsItsMask(Planted):
    def spoil(self, out, lr, valid):
        valid[...] = True
        return out


class UsesOneBuffer(Planted):
    buffer = None

    def spoil(self, out, lr, valid):
        self.buffer = out if self.buffer is None or self.buffer.shape != out.shape else self.buffer
        self.buffer[...] = out
        return self.buffer


class GivesDoubles(Planted):
    def spoil(self, out, lr, valid):
        return out.astype(np.float64)


class TurnsTiles(Planted):
    def spoil(self, out, lr, valid):
        return out.swapaxes(-2, -1)


class DividesByTheNumberOfValid(Planted):
    def spoil(self, out, lr, valid):
        with np.errstate(invalid="ignore", divide="ignore"):
            return out / valid.sum(axis=(1, 2, 3), dtype=np.float32)[:, None, None, None]


class IsRandom(Planted):
    def __init__(self):
        super().__init__()
        self.model_id = str(id(self))

    def spoil(self, out, lr, valid):
        return out + np.random.default_rng().random(dtype=np.float32)


@pytest.mark.parametrize(
    ("spoiled", "claim"),
    [
        (LiesAboutItsHalo, "test_the_core_does_not_see_beyond_the_halo"),
        (SeesTheWholeTile, "test_tiles_give_what_the_whole_image_gives"),
        (NormalisesByTheBatch, "test_a_sample_does_not_depend_on_the_others_nor_on_its_place"),
        (NormalisesByTheBatch, "test_a_sample_alone_gives_what_it_gives_in_a_batch"),
        (DependsOnThePlace, "test_a_sample_does_not_depend_on_the_others_nor_on_its_place"),
        (SpoilsItsInput, "test_inputs_are_left_as_they_were"),
        (SpoilsItsMask, "test_inputs_are_left_as_they_were"),
        (UsesOneBuffer, "test_a_later_call_leaves_an_earlier_result_alone"),
        (GivesDoubles, "test_output_has_the_promised_shape_and_dtype_for_tiles_that_are_not_square"),
        (TurnsTiles, "test_output_has_the_promised_shape_and_dtype_for_tiles_that_are_not_square"),
        (DividesByTheNumberOfValid, "test_masked_revisits_give_finite_numbers"),
        (IsRandom, "test_the_same_input_gives_the_same_bytes"),
        (IsRandom, "test_two_equal_models_have_one_id"),
    ],
)
def test_the_contract_refuses_a_model_that_breaks_it(spoiled, claim):
    class Contract(ModelContract):
        def make_model(self):
            return spoiled()

    with pytest.raises(AssertionError):
        getattr(Contract(), claim)(spoiled())


def test_nearest_repeats_each_pixel():
    lr = np.arange(6, dtype=np.float32).reshape(1, 1, 1, 2, 3)
    out = NearestModel(2, bands=("red",))(lr, valid=np.ones((1, 1, 2, 3), bool), days=np.zeros((1, 1), np.float32))
    assert out[0, 0].tolist() == [[0, 0, 1, 1, 2, 2], [0, 0, 1, 1, 2, 2], [3, 3, 4, 4, 5, 5], [3, 3, 4, 4, 5, 5]]


def test_nearest_takes_the_pixel_in_which_the_centre_lies():
    lr = np.arange(3, dtype=np.float32).reshape(1, 1, 1, 1, 3).repeat(3, axis=3)
    out = NearestModel("5/3", bands=("red",))(lr, valid=np.ones((1, 1, 3, 3), bool), days=np.zeros((1, 1), np.float32))
    assert out[0, 0, 0].tolist() == [0, 0, 1, 2, 2]  # centres at 0.3, 0.9, 1.5, 2.1, 2.7 input pixels


def test_nearest_takes_the_first_valid_revisit_and_zero_without_one():
    lr = np.array([1, 2], np.float32).reshape(1, 2, 1, 1, 1).repeat(3, axis=4)
    valid = np.array([[[[True, False, False]], [[True, True, False]]]])
    out = NearestModel(1, bands=("red",), revisits=2)(lr, valid=valid, days=np.zeros((1, 2), np.float32))
    assert out[0, 0, 0].tolist() == [1, 2, 0]


def test_bytes_of_a_batch_are_those_of_its_arrays():
    model = NearestModel("10/3", bands=("a", "b", "c"), revisits=4)
    shape = batch_shape(model, tile_yx=(6, 9), batch_size=5)
    assert shape.lr == (5, 4, 3, 6, 9)
    assert shape.out == (5, 3, 20, 30)
    arrays = (np.zeros(shape.lr, "f4"), np.zeros((5, 4, 6, 9), bool), np.zeros((5, 4), "f4"), np.zeros(shape.out, "f4"))
    assert shape.batch_bytes == sum(array.nbytes for array in arrays) == 5 * shape.tile_bytes


def test_a_tile_that_gives_no_whole_pixels_is_refused_naming_the_multiple():
    with pytest.raises(ModelError, match=r"\(6, 10\).*10/3.*multiples of 3"):
        batch_shape(NearestModel("10/3"), tile_yx=(6, 10), batch_size=1)


@pytest.mark.parametrize(("tile_yx", "batch_size"), [((4, 4), 0), ((0, 4), 1), ((4, -1), 1)])
def test_a_batch_without_pixels_is_refused(tile_yx, batch_size):
    with pytest.raises(ModelError, match="at least 1"):
        batch_shape(NearestModel(), tile_yx=tile_yx, batch_size=batch_size)


def test_bands_are_found_in_the_order_of_the_model():
    assert band_indices(NearestModel(bands=("red", "nir08")), ["blue", "green", "nir08", "red"]) == (3, 2)


def test_a_missing_band_is_named_with_what_there_is():
    with pytest.raises(ModelError, match=r"takes the bands red, nir08; cube X has red, nir, so nir08 is missing"):
        band_indices(NearestModel(bands=("red", "nir08")), ["red", "nir"], where="cube X")


@pytest.mark.parametrize("out", [np.zeros((1, 2, 8, 8), "f8"), np.zeros((1, 2, 8, 9), "f4")])
def test_output_of_another_shape_or_dtype_is_refused_with_both(out):
    with pytest.raises(ModelError, match=rf"promised \(1, 2, 8, 8\).*gave .*{out.dtype}"):
        check_output(out, (1, 2, 8, 8))
