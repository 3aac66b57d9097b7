"""Digital numbers and reflectance."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from eocube.errors import RadiometryError
from eocube.kernels.radiometry import dn_to_reflectance, reflectance_to_dn, shift_dn

S2: dict[str, Any] = {"scale": 0.0001, "offset": -0.1}


def test_sentinel2_numbers_become_reflectance_by_hand():
    dn = np.array([0, 1, 1000, 1500, 11000], "uint16")
    out = dn_to_reflectance(dn, **S2, nodata=0)
    assert out.dtype == np.float32
    assert np.isnan(out[0])
    assert out[1:] == pytest.approx([-0.0999, 0.0, 0.05, 1.0], abs=1e-7)


def test_negative_reflectance_is_kept():
    assert dn_to_reflectance(np.array([900], "uint16"), **S2, nodata=0)[0] < 0


def every_number(dtype):
    """Each value of a small integer dtype, many of a large one, in no order, as a strided view that starts inside its buffer."""
    rng = np.random.default_rng(0)
    if np.dtype(dtype).kind == "f":
        values = (rng.standard_normal(40_000) * 1e4).astype(dtype)
    else:
        bounds = np.iinfo(dtype)
        values = rng.permutation(np.linspace(bounds.min, bounds.max, 1 << min(16, 8 * np.dtype(dtype).itemsize)).astype(dtype))
    return np.stack([values, values[::-1]]).reshape(2, -1, 16)[:, 1:, ::-1]


def plain_decode(dn, scale, offset, nodata):
    """The twin, in NumPy."""
    reflectance = dn.astype("float32") * np.float32(scale)
    reflectance = reflectance + np.float32(offset)
    return np.where((dn == nodata) | np.isnan(dn), np.float32(np.nan), reflectance)


def plain_encode(reflectance, scale, offset, span, nodata, dtype):
    """The twin with clipping, in NumPy."""
    dn = np.clip(np.rint((reflectance.astype("float64") - offset) / scale), *span)
    return np.where(np.isnan(dn), nodata, dn).astype(dtype)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "uint16", "int32", "uint32", "float32", "float64"])
@pytest.mark.parametrize("nodata", [None, 7])
def test_decoding_equals_the_numpy_twin_bit_for_bit(dtype, nodata):
    dn = every_number(dtype)
    out = dn_to_reflectance(dn, scale=0.0001, offset=-0.1, nodata=nodata)
    assert out.dtype == np.float32
    assert np.array_equal(out, plain_decode(dn, 0.0001, -0.1, nodata), equal_nan=True)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("target", "nodata", "span"), [("uint16", 0, (1, 65535)), ("int16", -32768, (-32767, 32767)), ("uint8", 255, (0, 254))]
)
def test_encoding_equals_the_numpy_twin(dtype, target, nodata, span):
    reflectance = every_number(dtype) * np.dtype(dtype).type(3e-4)
    reflectance[0, 5] = np.nan
    out = reflectance_to_dn(reflectance, scale=0.0001, offset=-0.1, dtype=target, nodata=nodata, out_of_range="clip")
    assert np.array_equal(out, plain_encode(reflectance, 0.0001, -0.1, span, nodata, target))


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32"])
def test_shifting_equals_the_numpy_twin(dtype):
    bounds = np.iinfo(dtype)
    dn = np.clip(every_number(dtype), bounds.min + 100, bounds.max - 100)
    dn[0, 3:9] = bounds.max
    expected = np.where(dn == bounds.max, bounds.max, dn.astype("int64") + 99).astype(dtype)
    assert np.array_equal(shift_dn(dn, shift=99, nodata=bounds.max), expected)
    with pytest.raises(RadiometryError, match="no data"):
        shift_dn(dn, shift=100, nodata=bounds.max)


@pytest.mark.parametrize("nodata", [None, np.nan, -9999.0])
def test_nan_stays_nan(nodata):
    out = dn_to_reflectance(np.array([np.nan, 1.0], "float32"), scale=2, offset=0, nodata=nodata)
    assert np.isnan(out[0])
    assert out[1] == 2


def test_without_nodata_zero_is_a_number():
    assert dn_to_reflectance(np.array([0], "uint16"), scale=1, offset=5, nodata=None).tolist() == [5.0]


def test_decoding_leaves_its_input_alone():
    dn = np.array([0.0, 7.0], "float32")
    dn_to_reflectance(dn, scale=2, offset=1, nodata=0)
    assert dn.tolist() == [0.0, 7.0]


@pytest.mark.parametrize(("scale", "offset"), [(0, 0), (np.nan, 0), (np.inf, 0), (1, np.nan), (1, np.inf)])
def test_a_scale_or_offset_that_decodes_nothing_is_refused(scale, offset):
    with pytest.raises(RadiometryError, match="finite"):
        dn_to_reflectance(np.zeros(1, "uint16"), scale=scale, offset=offset, nodata=None)
    with pytest.raises(RadiometryError, match="finite"):
        reflectance_to_dn(np.zeros(1, "float32"), scale=scale, offset=offset, dtype="uint16", nodata=0)


def test_every_16_bit_number_survives_the_round_trip():
    dn = np.arange(65536).astype("uint16")
    assert np.array_equal(reflectance_to_dn(dn_to_reflectance(dn, **S2, nodata=0), **S2, dtype="uint16", nodata=0), dn)


def test_encoding_rounds_half_to_even():
    halves = np.array([0.5, 1.5, 2.5, 3.5], "float64")
    assert reflectance_to_dn(halves, scale=1, offset=0, dtype="int16", nodata=-1).tolist() == [0, 2, 2, 4]


def test_reflectance_that_does_not_fit_is_refused_and_names_the_range():
    with pytest.raises(RadiometryError, match="1 to 65535"):
        reflectance_to_dn(np.array([0.2, 7.0], "float32"), **S2, dtype="uint16", nodata=0)


def test_clipping_never_makes_data_into_nodata():
    out = reflectance_to_dn(np.array([-3, -0.1, 7, np.nan], "float32"), **S2, dtype="uint16", nodata=0, out_of_range="clip")
    assert out.tolist() == [1, 1, 65535, 0]
    out = reflectance_to_dn(np.array([-1, 9e9], "float32"), scale=1, offset=0, dtype="uint16", nodata=65535, out_of_range="clip")
    assert out.tolist() == [0, 65534]


def test_data_that_would_become_an_inner_nodata_are_refused():
    with pytest.raises(RadiometryError, match="no data"):
        reflectance_to_dn(np.array([7.2], "float32"), scale=1, offset=0, dtype="int16", nodata=7)


def test_infinite_reflectance_is_out_of_range():
    with pytest.raises(RadiometryError):
        reflectance_to_dn(np.array([np.inf], "float32"), **S2, dtype="uint16", nodata=0)


def test_shift_adds_to_data_and_leaves_nodata():
    out = shift_dn(np.array([[0, 1], [64535, 250]], "uint16"), shift=1000, nodata=0)
    assert out.dtype == np.uint16
    assert out.tolist() == [[0, 1001], [65535, 1250]]


def test_a_number_above_64535_is_refused_by_a_shift_of_1000():
    with pytest.raises(RadiometryError, match=r"64536.*64535"):
        shift_dn(np.array([1, 64536], "uint16"), shift=1000, nodata=0)


def test_a_high_nodata_does_not_count_as_too_high():
    assert shift_dn(np.array([65535, 3], "uint16"), shift=1000, nodata=65535).tolist() == [65535, 1003]


def test_a_downward_shift_stops_at_the_bottom_of_the_dtype():
    with pytest.raises(RadiometryError, match=r"999.*1000"):
        shift_dn(np.array([0, 999, 5000], "uint16"), shift=-1000, nodata=0)


@pytest.mark.parametrize(("value", "shift", "nodata"), [(1000, -1000, 0), (64535, 1000, 65535)])
def test_data_that_would_land_on_nodata_are_refused(value, shift, nodata):
    with pytest.raises(RadiometryError, match="no data"):
        shift_dn(np.array([value], "uint16"), shift=shift, nodata=nodata)


def test_without_nodata_every_number_is_shifted():
    assert shift_dn(np.array([0, 1], "uint8"), shift=9, nodata=None).tolist() == [9, 10]


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32"])
def test_the_whole_range_is_reached_and_not_passed(dtype):
    bounds = np.iinfo(dtype)
    room = min(100, bounds.max // 2)
    assert shift_dn(np.array([bounds.max - room], dtype), shift=room, nodata=None)[0] == bounds.max
    assert shift_dn(np.array([bounds.min + room], dtype), shift=-room, nodata=None)[0] == bounds.min
    with pytest.raises(RadiometryError):
        shift_dn(np.array([bounds.max - room + 1], dtype), shift=room, nodata=None)
    with pytest.raises(RadiometryError):
        shift_dn(np.array([bounds.min + room - 1], dtype), shift=-room, nodata=None)


def test_a_shift_of_zero_changes_nothing():
    dn = np.array([0, 1, 65535], "uint16")
    assert np.array_equal(shift_dn(dn, shift=0, nodata=0), dn)


def test_shift_leaves_its_input_alone():
    dn = np.array([5], "uint16")
    shift_dn(dn, shift=1, nodata=0)
    assert dn.tolist() == [5]


@pytest.mark.parametrize("shape", [(0,), (0, 4, 3, 2)])
def test_nothing_shifts_to_nothing(shape):
    assert shift_dn(np.zeros(shape, "uint16"), shift=1000, nodata=0).shape == shape


def test_an_image_without_data_takes_any_shift():
    assert shift_dn(np.zeros(3, "uint16"), shift=70_000, nodata=0).tolist() == [0, 0, 0]


@pytest.mark.parametrize("dtype", ["float32", "int64", "uint64"])
def test_floats_and_64_bit_integers_are_neither_shifted_nor_encoded(dtype):
    with pytest.raises(RadiometryError, match="32 bits"):
        shift_dn(np.zeros(1, dtype), shift=1000, nodata=0)
    with pytest.raises(RadiometryError, match="32 bits"):
        reflectance_to_dn(np.zeros(1, "float32"), **S2, dtype=dtype, nodata=0)


def test_a_single_number_without_axes_is_converted():
    assert dn_to_reflectance(np.array(1500, "uint16"), **S2, nodata=0) == pytest.approx(0.05)
    assert shift_dn(np.array(5, "uint16"), shift=1000, nodata=0) == 1005
    assert reflectance_to_dn(np.array(0.05, "float32"), **S2, dtype="uint16", nodata=0) == 1500


def test_a_negative_scale_is_undone_too():
    assert reflectance_to_dn(np.array([-3.0]), scale=-1, offset=2, dtype="uint8", nodata=0).tolist() == [5]
