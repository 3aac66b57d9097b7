"""Masks: classes, blanks, shares of clear pixels."""

from __future__ import annotations

import numpy as np
import pytest

from eocube.errors import GridError, RadiometryError
from eocube.kernels.masking import blank, clear_percent, is_class, valid_of


def positions(shape, dtype="uint16"):
    """Pixels that hold 1 + their place in C order."""
    return np.arange(1, 1 + np.prod(shape), dtype=dtype).reshape(shape)


def test_listed_classes_are_true_and_others_false():
    scl = np.array([[0, 3, 4], [8, 9, 11]], "uint8")
    assert is_class(scl, (3, 8, 9, 10)).tolist() == [[False, True, False], [True, True, False]]


def test_no_classes_match_nothing():
    assert not is_class(np.arange(12, dtype="uint8"), ()).any()


@pytest.mark.parametrize("asked", [256, 260, -252])
def test_a_class_the_map_cannot_hold_matches_nothing_even_modulo_256(asked):
    assert not is_class(np.arange(256).astype("uint8"), (asked,)).any()


def test_every_class_of_a_byte_is_told_apart():
    scl = np.arange(256).astype("uint8")
    for value in range(256):
        assert np.flatnonzero(is_class(scl, [value])).tolist() == [value]


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", ">i2", ">u2", "int32", "int64"])
def test_classes_equal_numpy_for_every_dtype(dtype):
    bounds = np.iinfo(dtype)
    classes = [-128, -3, 0, 5, 127, 200, 32767, 65535, bounds.min, bounds.max]
    class_map = np.array([c for c in range(-300, 300) if bounds.min <= c <= bounds.max] + [bounds.min, bounds.max], dtype)[::-1]
    expected = [int(c) in classes for c in class_map]
    assert is_class(class_map, classes).tolist() == expected


def test_classes_may_come_from_an_iterator():
    assert is_class(np.array([1, 2], "int16"), iter([2])).tolist() == [False, True]


def test_is_class_keeps_an_empty_shape():
    assert is_class(np.zeros((0, 3, 2), "uint8"), (1,)).shape == (0, 3, 2)


def test_nodata_is_not_valid():
    assert valid_of(np.array([0, 1, 0, 65535], "uint16"), 0).tolist() == [False, True, False, True]


def test_without_nodata_every_integer_is_valid():
    assert valid_of(np.array([0, 255], "uint8"), None).all()


@pytest.mark.parametrize("nodata", [None, np.nan, -9999.0])
def test_nan_is_never_valid_whatever_nodata_says(nodata):
    values = np.array([np.nan, -9999.0, 0.5], "float32")
    assert valid_of(values, nodata).tolist() == [False, nodata != -9999.0, True]


def test_bad_pixels_are_blanked_in_every_band_of_their_date_only():
    data = positions((2, 3, 2, 2))
    bad = np.zeros((2, 2, 2), bool)
    bad[1, 0, 1] = True
    out = blank(data, bad, nodata=0)
    assert (out[1, :, 0, 1] == 0).all()
    assert (out != data).sum() == 3
    assert out.dtype == data.dtype


def test_blank_leaves_its_input_alone():
    data = positions((1, 1, 2, 2))
    before = data.copy()
    out = blank(data, np.zeros((1, 2, 2), bool), nodata=0)
    out[:] = 7
    assert np.array_equal(data, before)


def test_blank_takes_data_without_a_band_axis():
    data = positions((3, 2, 2))
    bad = data == 5
    assert blank(data, bad, nodata=65535)[bad].tolist() == [65535]


@pytest.mark.parametrize(("dtype", "nodata"), [("uint8", 255), ("int16", -32768), ("float32", np.nan), ("float64", -1.5)])
def test_blank_keeps_the_dtype_and_writes_the_exact_nodata(dtype, nodata):
    out = blank(np.ones((1, 1, 1, 1), dtype), np.ones((1, 1, 1), bool), nodata=nodata)
    assert out.dtype == dtype
    assert np.array_equal(out[0, 0, 0, 0], nodata, equal_nan=True)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32", "float64"])
def test_blanking_strided_data_equals_the_numpy_twin(dtype):
    data = positions((3, 4, 6, 10), dtype).transpose(0, 1, 3, 2)[..., ::-1]
    bad = np.random.default_rng(0).random((3, 10, 6))[:, ::-1] < 0.4
    assert np.array_equal(blank(data, bad, nodata=7), np.where(bad[:, None], np.array(7, dtype), data))


@pytest.mark.parametrize("nodata", [np.nan, np.inf, -1, 65536, 0.5])
def test_a_nodata_that_does_not_fit_the_dtype_is_refused(nodata):
    with pytest.raises(RadiometryError, match="0 to 65535"):
        blank(positions((1, 1, 1, 1)), np.ones((1, 1, 1), bool), nodata=nodata)


@pytest.mark.parametrize("shape", [(1, 2, 3), (2, 2, 1), (2, 1, 3), (1, 2, 2, 3), (2, 3)])
def test_a_mask_of_other_dates_or_pixels_is_refused_and_never_broadcast(shape):
    with pytest.raises(GridError, match=r"\(2, 4, 2, 3\)"):
        blank(positions((2, 4, 2, 3)), np.zeros(shape, bool), nodata=0)


@pytest.mark.parametrize("shape", [(2, 3), (2, 1, 1, 2, 3)])
def test_data_with_too_few_or_too_many_axes_are_refused(shape):
    with pytest.raises(GridError, match="time, y, x"):
        blank(np.ones(shape, "uint16"), np.zeros((2, 2, 3), bool), nodata=0)


def test_no_dates_blank_to_no_dates():
    assert blank(np.zeros((0, 4, 3, 2), "uint16"), np.zeros((0, 3, 2), bool), nodata=0).shape == (0, 4, 3, 2)


def test_clear_percent_rounds_down_and_counts_only_existing_pixels():
    # 5 x 3 pixels in cells of 2: the last row of cells is 1 pixel high, the last column 1 pixel wide.
    clear = np.array(
        [[1, 1, 0], [1, 0, 1], [0, 0, 1], [0, 0, 1], [1, 0, 1]],
        bool,
    )[None]
    assert clear_percent(clear, 2)[0].tolist() == [[75, 50], [0, 100], [50, 100]]


def test_one_cloudy_pixel_of_a_large_cell_is_not_a_hundred_percent():
    clear = np.ones((1, 16, 16), bool)
    clear[0, 3, 7] = False
    assert clear_percent(clear, 16).tolist() == [[[99]]]


def test_two_thirds_are_66_percent():
    assert clear_percent(np.array([[[1, 1, 0]]], bool), 3).tolist() == [[[66]]]


def test_a_cell_larger_than_the_image_is_one_cell():
    clear = np.zeros((2, 3, 3), bool)
    clear[1, 0, :] = True
    assert clear_percent(clear, 16).tolist() == [[[0]], [[33]]]


def test_percent_of_cells_beyond_16_bit_counts_is_exact():
    assert clear_percent(np.ones((1, 300, 300), bool), 300).tolist() == [[[100]]]


def test_clear_percent_of_one_pixel_cells_is_the_mask():
    clear = np.eye(3, dtype=bool)[None]
    out = clear_percent(clear, 1)
    assert out.dtype == np.uint8
    assert np.array_equal(out, 100 * clear)


def test_cells_of_a_strided_mask_are_its_own():
    clear = np.random.default_rng(0).random((2, 9, 14)) < 0.5
    assert np.array_equal(clear_percent(clear[:, ::-1, 1:], 4), clear_percent(np.ascontiguousarray(clear[:, ::-1, 1:]), 4))


@pytest.mark.parametrize("shape", [(2, 0, 3), (2, 3, 0)])
def test_no_pixels_have_no_cells(shape):
    assert clear_percent(np.zeros(shape, bool), 2).size == 0


def test_clear_percent_of_no_dates_has_the_shape_of_cells():
    assert clear_percent(np.zeros((0, 5, 3), bool), 2).shape == (0, 3, 2)
