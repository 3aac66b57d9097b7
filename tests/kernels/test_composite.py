"""Statistics over time, against NumPy twins and numbers worked by hand."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import bottleneck
import numpy as np
import pytest
import xarray as xr

from eocube.errors import CubeError, GridError, RadiometryError
from eocube.kernels import composite
from eocube.kernels.composite import count_valid, mean_over_time, median_over_time
from eocube.model.bands import SCL_CLEAR

NODATA = {"uint8": 255, "uint16": 0, "int16": -32768, "float32": np.nan, "float64": -9999.0}
STATISTICS = pytest.mark.parametrize("statistic", [median_over_time, mean_over_time], ids=["median", "mean"])
EVERY_DTYPE = pytest.mark.parametrize("dtype", NODATA)


def series(*values, dtype="uint16"):
    """One pixel, one band, a value a date."""
    return np.array(values, dtype).reshape(-1, 1, 1, 1)


def noise(shape, dtype, seed=0, clear=0.6):
    """Random values over the whole range of the dtype, and a mask with one band."""
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        data = (rng.standard_normal(shape) * 1e4).astype(dtype)
    else:
        bounds = np.iinfo(dtype)
        data = rng.integers(bounds.min, bounds.max, shape, dtype, endpoint=True)
    return data, rng.random((shape[0], 1, *shape[2:])) < clear


def usable(data, valid, nodata):
    """What the statistics may use, spelled out."""
    ok = np.ones(data.shape, bool) if valid is None else np.broadcast_to(valid, data.shape).copy()
    ok &= ~np.isnan(data)
    return ok if np.isnan(nodata) else ok & (data != np.array(nodata, data.dtype))


def to_dtype(values, some, dtype, nodata):
    """Round where integers are asked for, and put nodata where there is nothing."""
    rounded = np.rint(values) if np.dtype(dtype).kind in "iu" else values
    return np.where(some, np.where(some, rounded, 0).astype(dtype), np.array(nodata, dtype))


def plain_median(data, valid, nodata):
    """The twin: np.nanmedian, on float64 for integers (both middles and their mean are exact there)."""
    ok = usable(data, valid, nodata)
    work = data if data.dtype.kind == "f" else data.astype("float64")
    work = np.where(ok, work + work.dtype.type(0), np.nan)
    some = ok.any(axis=0)
    median = np.zeros(data.shape[1:], work.dtype)
    median[some] = np.nanmedian(work[:, some], axis=0) if some.any() else 0
    return to_dtype(median, some, data.dtype, nodata)


def plain_mean(data, valid, nodata):
    """The twin: one date after the other in float64."""
    ok = usable(data, valid, nodata)
    total = np.zeros(data.shape[1:])
    for image, use in zip(data, ok, strict=True):
        total += np.where(use, image, 0).astype("float64")
    return to_dtype(total / np.maximum(ok.sum(axis=0), 1), ok.any(axis=0), data.dtype, nodata)


def assert_same_bits(a, b):
    """Equal shape, dtype and bits (NaN equals NaN; zero and negative zero differ)."""
    assert (a.shape, a.dtype) == (b.shape, b.dtype)
    assert np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    assert np.array_equal(np.signbit(a), np.signbit(b)) or a.dtype.kind != "f"


def test_the_median_of_an_odd_number_is_the_middle_value():
    assert median_over_time(series(30, 10, 20), nodata=0).tolist() == [[[20]]]


@pytest.mark.parametrize(("values", "median"), [((1, 2), 2), ((2, 3), 2), ((3, 4), 4), ((10, 13), 12), ((65535, 65534), 65534)])
def test_two_middle_integers_are_averaged_and_halves_go_to_even(values, median):
    assert median_over_time(series(*values), nodata=0).item() == median


@pytest.mark.parametrize(
    ("values", "median"), [((-1, -2), -2), ((-2, -3), -2), ((-3, -4), -4), ((-1, 0), 0), ((-32767, -32766), -32766)]
)
def test_negative_halves_go_to_even_too(values, median):
    assert median_over_time(series(*values, dtype="int16"), nodata=-32768).item() == median


def test_floats_are_averaged_in_their_own_dtype():
    a, b = np.float32(0.1), np.float32(0.2)
    assert median_over_time(series(a, b, dtype="float32"), nodata=np.nan).item() == (a + b) * np.float32(0.5)


def test_masked_dates_and_nodata_take_no_part():
    valid = np.array([True, False, True, True]).reshape(4, 1, 1, 1)
    assert median_over_time(series(7, 60000, 0, 9), valid, nodata=0).item() == 8
    assert mean_over_time(series(7, 60000, 0, 10), valid, nodata=0).item() == 8


@pytest.mark.parametrize(("values", "mean"), [((1, 2), 2), ((2, 3), 2), ((1, 1, 2), 1), ((1, 2, 2), 2), ((65535,) * 3, 65535)])
def test_means_of_integers_are_rounded_half_to_even(values, mean):
    assert mean_over_time(series(*values), nodata=0).item() == mean


def test_means_of_float32_are_added_in_float64():
    data = np.full((1000, 1, 1, 1), 0.1, "float32")
    assert mean_over_time(data, nodata=np.nan).item() == np.float32(0.1)


@STATISTICS
@EVERY_DTYPE
def test_a_pixel_without_a_clear_date_is_nodata(statistic, dtype):
    data = np.ones((3, 2, 1, 2), dtype)
    valid = np.ones((3, 1, 1, 2), bool)
    valid[..., 1] = False
    out = statistic(data, valid, nodata=NODATA[dtype])
    assert out.dtype == dtype
    assert (out[..., 0] == 1).all()
    assert np.array_equal(out[..., 1], np.full((2, 1), NODATA[dtype], dtype), equal_nan=out.dtype.kind == "f")


@STATISTICS
@EVERY_DTYPE
def test_no_dates_give_nodata_everywhere(statistic, dtype):
    out = statistic(np.ones((0, 2, 3, 4), dtype), nodata=NODATA[dtype])
    assert np.array_equal(out, np.full((2, 3, 4), NODATA[dtype], dtype), equal_nan=out.dtype.kind == "f")


@STATISTICS
@pytest.mark.parametrize("shape", [(3, 0, 2, 2), (3, 2, 0, 2), (3, 2, 2, 0)], ids=["no bands", "no rows", "no columns"])
def test_no_pixels_give_no_pixels(statistic, shape):
    assert statistic(np.ones(shape, "uint16"), nodata=0).shape == shape[1:]


@STATISTICS
@EVERY_DTYPE
def test_one_date_is_itself(statistic, dtype):
    data, _ = noise((1, 2, 5, 7), dtype)
    assert_same_bits(statistic(data, nodata=NODATA[dtype]), data[0])


@EVERY_DTYPE
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("dates", [1, 2, 3, 5, 8, 13, 16, 17, 33])
def test_the_median_equals_the_numpy_twin_bit_for_bit(dtype, dates, masked):
    data, valid = noise((dates, 2, 9, 61), dtype, seed=dates)
    valid = valid if masked else None
    assert_same_bits(median_over_time(data, valid, nodata=NODATA[dtype]), plain_median(data, valid, NODATA[dtype]))


@EVERY_DTYPE
@pytest.mark.parametrize("dates", [1, 2, 7, 40])
def test_the_mean_equals_the_numpy_twin_bit_for_bit(dtype, dates):
    data, valid = noise((dates, 2, 9, 61), dtype, seed=dates)
    assert_same_bits(mean_over_time(data, valid, nodata=NODATA[dtype]), plain_mean(data, valid, NODATA[dtype]))


@STATISTICS
@EVERY_DTYPE
def test_a_mask_for_each_band_is_kept_apart(statistic, dtype):
    data, _ = noise((6, 3, 4, 5), dtype)
    valid = np.random.default_rng(1).random(data.shape) < 0.5
    plain = plain_median if statistic is median_over_time else plain_mean
    assert_same_bits(statistic(data, valid, nodata=NODATA[dtype]), plain(data, valid, NODATA[dtype]))


@pytest.mark.parametrize("dates", [365, 9000], ids=["full lanes", "few lanes"])
def test_long_series_equal_bottleneck(dates):
    data, valid = noise((dates, 1, 4, 60), "float32")
    expected = bottleneck.nanmedian(np.where(valid, data, np.float32(np.nan)), axis=0)
    assert np.array_equal(median_over_time(data, valid, nodata=np.nan), expected, equal_nan=True)


@STATISTICS
@EVERY_DTYPE
def test_poison_in_masked_pixels_never_shows(statistic, dtype):
    data, valid = noise((9, 2, 8, 50), dtype)
    clean = statistic(data, valid, nodata=NODATA[dtype])
    kind = np.dtype(dtype).kind
    poisons = [np.nan, np.inf, -np.inf, np.finfo(dtype).max] if kind == "f" else [np.iinfo(dtype).max, np.iinfo(dtype).min]
    for poison in poisons:
        poisoned = np.where(valid, data, np.array(poison, dtype))
        assert_same_bits(statistic(poisoned, valid, nodata=NODATA[dtype]), clean)


def test_clear_values_equal_to_the_sentinel_count():
    assert (
        median_over_time(series(65535, 5, 65535, 9), np.array([1, 1, 1, 0], bool).reshape(4, 1, 1, 1), nodata=0).item() == 65535
    )
    assert median_over_time(series(np.inf, 1, np.inf, dtype="float32"), nodata=np.nan).item() == np.inf


@STATISTICS
def test_a_huge_float_nodata_comes_out_as_it_is(statistic):
    lowest = np.finfo("float32").min
    out = statistic(series(lowest, lowest, dtype="float32"), nodata=lowest)
    assert out.item() == lowest


@STATISTICS
def test_nan_is_not_used_when_nodata_is_a_number(statistic):
    assert statistic(series(np.nan, 4, -9999, 6, dtype="float32"), nodata=-9999).item() == 5


@STATISTICS
@pytest.mark.parametrize(
    "values", [(-0.0,), (-0.0, -0.0), (0.0, -0.0), (-0.0, 0.0), (0.0, -0.0, -0.0), (-0.0, -0.0, 0.0)], ids=str
)
def test_negative_zero_counts_as_zero(statistic, values):
    out = statistic(series(*values, dtype="float32"), nodata=np.nan)
    assert out.item() == 0
    assert not np.signbit(out).any()


@STATISTICS
@EVERY_DTYPE
@pytest.mark.parametrize("window", [np.s_[2:7, 13:300], np.s_[0:1, 0:1], np.s_[1:2, 200:204]], ids=["middle", "corner", "lanes"])
def test_a_window_gives_the_bits_of_the_whole(statistic, dtype, window):
    data, valid = noise((12, 2, 9, 310), dtype)
    whole = statistic(data, valid, nodata=NODATA[dtype])
    part = statistic(data[(..., *window)], valid[(..., *window)], nodata=NODATA[dtype])
    assert_same_bits(part, whole[(..., *window)])


@STATISTICS
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (1, 0, 3, 2)], ids=str)
def test_strided_input_gives_the_bits_of_contiguous_input(statistic, order, monkeypatch):
    monkeypatch.setattr(composite, "_SLAB_BYTES", 4000)  # several slabs of rows
    data, valid = noise((7, 3, 20, 31), "uint16")
    strided = np.ascontiguousarray(data.transpose(order)).transpose(np.argsort(order))[..., ::-1]
    assert_same_bits(statistic(strided, valid[..., ::-1], nodata=0), statistic(data, valid, nodata=0)[..., ::-1])


@pytest.mark.parametrize("masked", [True, False])
def test_strided_input_is_copied_a_few_rows_at_a_time(masked, monkeypatch):
    monkeypatch.setattr(composite, "_SLAB_BYTES", 4000)
    data, valid = noise((7, 3, 20, 31), "uint16")
    pieces = list(composite._pieces(data[..., ::-1], valid if masked else None))
    assert [y for rows, *_ in pieces for y in range(20)[rows]] == list(range(20))
    assert max(part.nbytes + mask.nbytes for _, part, mask in pieces) <= 4000
    for rows, part, mask in pieces:
        assert np.array_equal(part, data[:, :, rows, ::-1].reshape(7, 3, -1))
        assert np.array_equal(mask, valid[:, :, rows].reshape(7, 1, -1)) if masked else not mask.size


def test_contiguous_input_is_not_copied():
    data, valid = noise((7, 3, 20, 31), "uint16")
    ((rows, part, mask),) = composite._pieces(data, valid)
    assert rows == slice(0, 20)
    assert np.shares_memory(part, data)
    assert np.shares_memory(mask, valid)


@STATISTICS
def test_threads_side_by_side_give_the_same_bits(statistic):
    """The executor supplies threads; the kernels keep no state between calls and let other threads run."""
    data, valid = noise((30, 2, 40, 300), "uint16")
    expected = statistic(data, valid, nodata=0)
    with ThreadPoolExecutor(4) as pool:
        for out in pool.map(lambda _: statistic(data, valid, nodata=0), range(12)):
            assert_same_bits(out, expected)


@pytest.mark.parametrize("kernel", [composite._middle_pair, composite._total, composite._network])
def test_kernels_are_serial_and_leave_the_interpreter_lock(kernel):
    assert kernel.targetoptions["nogil"]
    assert not kernel.targetoptions.get("parallel")
    assert not kernel.targetoptions.get("fastmath")


@STATISTICS
def test_a_read_only_mask_spread_over_bands_is_taken(statistic):
    data, valid = noise((5, 3, 4, 6), "uint16")
    spread = np.broadcast_to(valid, data.shape)
    assert_same_bits(statistic(data, spread, nodata=0), statistic(data, valid, nodata=0))


@STATISTICS
def test_statistics_leave_their_input_alone(statistic):
    data, valid = noise((5, 1, 4, 6), "float32")
    before = data.copy(), valid.copy()
    data.setflags(write=False)
    statistic(data, valid, nodata=0)
    assert np.array_equal(data, before[0])
    assert np.array_equal(valid, before[1])


@pytest.mark.parametrize("n", range(11))
def test_the_network_sorts_every_pattern_of_zeros_and_ones(n):
    """A comparison network that sorts all 0-1 inputs sorts everything (Knuth, TAOCP vol. 3, 5.3.4, theorem Z)."""
    values = np.array(list(product((0, 1), repeat=n)), "uint8").reshape(2**n, n).T.copy()
    for i, j in composite._network(n):
        values[[i, j]] = np.sort(values[[i, j]], axis=0)
    assert (np.diff(values.astype(int), axis=0) >= 0).all()


@pytest.mark.parametrize("n", [60, 97, 365, 1000])
def test_long_networks_sort_random_values_and_stay_inside(n):
    steps = composite._network(n)
    assert steps.min() >= 0
    assert steps.max() < n
    values = np.random.default_rng(n).integers(0, n, (n, 50), dtype="uint16")
    expected = np.sort(values, axis=0)
    for i, j in steps:
        low, high = np.minimum(values[i], values[j]), np.maximum(values[i], values[j])
        values[i], values[j] = low, high
    assert np.array_equal(values, expected)


def test_a_date_counts_only_where_every_band_has_data():
    data = np.ones((3, 2, 1, 2), "uint16")
    data[0, 1, 0, 0] = 0
    out = count_valid(data, nodata=0)
    assert out.dtype == np.uint16
    assert out.tolist() == [[2, 3]]
    valid = np.ones((3, 1, 1, 2), bool)
    valid[2] = False
    assert count_valid(data, valid, nodata=0).tolist() == [[1, 2]]


def test_nan_in_one_band_takes_the_date_out_of_the_count():
    data = np.ones((2, 2, 1, 1), "float32")
    data[0, 0] = np.nan
    assert count_valid(data, nodata=np.nan).tolist() == [[1]]


def test_no_dates_count_as_none():
    assert count_valid(np.ones((0, 2, 1, 1), "uint16"), nodata=0).tolist() == [[0]]


@pytest.mark.parametrize("statistic", [median_over_time, mean_over_time, count_valid])
def test_what_cannot_be_composited_is_refused(statistic):
    with pytest.raises(CubeError, match="int64"):
        statistic(np.zeros((1, 1, 1, 1), "int64"), nodata=0)
    with pytest.raises(CubeError, match="time, band, y, x"):
        statistic(np.zeros((1, 1, 1), "uint16"), nodata=0)
    with pytest.raises(CubeError, match="65536 dates"):
        statistic(np.zeros((65536, 1, 1, 1), "uint8"), nodata=0)
    with pytest.raises(RadiometryError):
        statistic(np.zeros((1, 1, 1, 1), "uint16"), nodata=np.nan)


@pytest.mark.parametrize("statistic", [median_over_time, mean_over_time, count_valid])
@pytest.mark.parametrize("shape", [(4, 5, 6), (4, 2, 5, 6), (1, 1, 5, 6), (4, 1, 5, 1), (4, 3, 5, 7)])
def test_a_mask_of_another_shape_is_refused_and_never_broadcast(statistic, shape):
    with pytest.raises(GridError, match=r"\(4, 3, 5, 6\)"):
        statistic(np.zeros((4, 3, 5, 6), "uint16"), np.ones(shape, bool), nodata=0)


def test_a_mask_that_is_not_bool_is_refused():
    with pytest.raises(GridError, match="uint8"):
        median_over_time(np.zeros((1, 1, 1, 1), "uint16"), np.ones((1, 1, 1, 1), "uint8"), nodata=0)


def test_a_real_series_gives_bottlenecks_median():
    """140 dates of Sentinel-2 over Romania, with the clouds of its scene classification taken out."""
    folder = os.environ.get("EOCUBE_TEST_DATA")
    if not folder:
        pytest.skip("EOCUBE_TEST_DATA does not name a folder with sentinel2_romania")
    path = Path(folder, "sentinel2_romania", "sentinel2_cube_subset_romania_10m.nc")
    with xr.open_dataset(path, engine="netcdf4", mask_and_scale=False) as cube:
        data = np.stack([cube[band].values for band in ("B2", "B3", "B4", "B8")], axis=1).astype("uint16")
        clear = np.isin(cube["SCL"].values, SCL_CLEAR)[:, None]
    expected = bottleneck.nanmedian(np.where(clear & (data != 0), data, np.nan), axis=0)
    assert np.isfinite(expected).all()
    assert np.array_equal(median_over_time(data, clear, nodata=0), np.rint(expected))
