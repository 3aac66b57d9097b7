"""composite: NumPy's medians and means by hand, whatever the array's kind, chunks and order."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import eocube
from eocube.errors import CubeError, UnknownNameError
from eocube.lazy.periods import bins
from eocube.testing.sources import DATES, make_cube, time_ms

FREQS = ("MS", "QS-DEC", "16D", "W", "YS", "2MS", "D")


def by_numpy(values: np.ndarray, valid: np.ndarray, method: str) -> np.ndarray:
    """Statistic over the first axis of the valid values, float64, NaN where there is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        clear = np.where(valid, values.astype(np.float64), np.nan)
        return np.asarray(np.nanmedian(clear, axis=0) if method == "median" else np.nanmean(clear, axis=0))


@pytest.mark.parametrize("freq", FREQS)
@pytest.mark.parametrize("method", ["median", "mean"])
@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32", "float64"])
def test_each_period_is_numpys_statistic_of_its_clear_dates(freq: str, method: str, dtype: str) -> None:
    cube = eocube.mask_clouds(make_cube(dtype=dtype, shape_yx=(12, 15)))
    found = eocube.composite(cube, freq=freq, method=method).compute()
    values = cube["data"].values
    valid = ~np.isnan(values) if dtype.startswith("float") else values != 0
    periods = bins(time_ms(DATES), freq)
    assert found["data"].dtype == dtype
    for i in range(len(periods.start_ms)):
        dates = [t for t, b in enumerate(periods.bin_of) if b == i]
        expected = by_numpy(values[dates], valid[dates], method)
        np.testing.assert_array_equal(found["n_clear"].values[i], valid[dates].all(axis=1).sum(axis=0))
        if dtype.startswith("float"):
            np.testing.assert_allclose(found["data"].values[i], expected.astype(dtype), rtol=1e-6)
        else:
            whole = np.where(np.isnan(expected), 0, np.rint(expected)).astype(dtype)  # half to even
            np.testing.assert_array_equal(found["data"].values[i], whole)


def test_time_is_the_start_of_the_period_and_its_bounds_are_half_open() -> None:
    found = eocube.composite(make_cube(), freq="QS-DEC")
    assert [str(t)[:10] for t in found["time"].values] == ["2019-09-01", "2019-12-01", "2020-03-01"]
    assert [str(t)[:10] for t in found["time_bnds"].values[:, 1]] == ["2019-12-01", "2020-03-01", "2020-06-01"]
    assert found["time_bnds"].dims == ("time", "bnds")
    assert found["time"].dtype == found["time_bnds"].dtype == np.dtype("M8[ns]")


def test_scale_and_labels_stay_and_what_belongs_to_single_dates_goes() -> None:
    cube = make_cube()
    found = eocube.composite(cube)
    assert found["data"].attrs == cube["data"].attrs
    assert list(found.data_vars) == ["data", "n_clear"]
    assert set(found.coords) == {"time", "time_bnds", "band", "y", "x", "spatial_ref"}
    assert "_FillValue" not in found["n_clear"].attrs


def test_an_empty_month_has_no_picture() -> None:
    months = [str(t)[:7] for t in eocube.composite(make_cube(), freq="MS")["time"].values]
    assert months == ["2019-11", "2019-12", "2020-01", "2020-02", "2020-03", "2020-05"]


@settings(deadline=None, max_examples=25)
@given(
    days=st.lists(st.integers(-2_000, 20_000), min_size=1, max_size=12, unique=True).map(sorted),
    freq=st.sampled_from(FREQS),
    chunk=st.integers(1, 13),
)
def test_irregular_dates_in_any_chunks_give_what_numpy_gives_period_by_period(days: list[int], freq: str, chunk: int) -> None:
    dates = [str(np.datetime64(d, "D")) for d in days]
    cube = make_cube(dates=dates, shape_yx=(3, 5), bands=("red", "nir"), chunks={"time": chunk, "y": 2, "x": -1})
    lazy = eocube.composite(cube, freq=freq).compute(scheduler="synchronous")
    xr.testing.assert_identical(lazy.drop_attrs(), eocube.composite(cube.compute(), freq=freq).drop_attrs())
    periods = bins(time_ms(dates), freq)
    values = cube["data"].values
    for i in range(len(periods.start_ms)):
        members = values[[t for t, b in enumerate(periods.bin_of) if b == i]]
        expected = by_numpy(members, members != 0, "median")
        np.testing.assert_array_equal(lazy["data"].values[i], np.where(np.isnan(expected), 0, np.rint(expected)))


def test_dims_in_any_order_mean_the_same() -> None:
    cube = make_cube()
    expected = eocube.composite(cube, freq="MS").compute()
    for moved in (cube.transpose("y", "x", "band", "time"), cube.compute().transpose("x", "band", "time", "y")):
        xr.testing.assert_equal(eocube.composite(moved, freq="MS").compute(), expected)


def test_several_scenes_of_one_moment_are_all_used() -> None:
    """Not mosaicked: allowed in a cube of the user's own."""
    cube = make_cube(dates=("2020-01-01", "2020-01-02", "2020-01-03"), shape_yx=(12, 15)).compute()
    same = cube.assign_coords(time=np.array(["2020-01-01"] * 3, "M8[ns]"))
    np.testing.assert_array_equal(
        eocube.composite(same, freq="D")["data"].values, eocube.composite(cube, freq="MS")["data"].values
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"method": "mode"}, r"composite method 'mode'.*'median', 'mean'"),
        ({"freq": "ME"}, r"freq 'ME'.*MS, not ME"),
        ({"freq": None}, r"freq None"),
        ({"origin": "1970"}, r"Origin '1970'"),
    ],
)
def test_unknown_words_are_refused_before_a_pixel_is_read(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises((UnknownNameError, CubeError), match=said):
        eocube.composite(make_cube(flavour="forbidden"), **arguments)


def test_dates_out_of_order_missing_or_no_dates_at_all_are_refused() -> None:
    cube = make_cube(flavour="forbidden")
    with pytest.raises(CubeError, match="sortby"):
        eocube.composite(cube.isel(time=[3, 1, 2]))
    with pytest.raises(CubeError, match=r"nothing along.*time"):
        eocube.composite(cube.isel(time=slice(0, 0)))
    with pytest.raises(CubeError, match="no such coordinate"):
        eocube.composite(cube.drop_vars("time"))
    with pytest.raises(CubeError, match="int64 x 12"):
        eocube.composite(cube.assign_coords(time=np.arange(12)))
    times = cube["time"].values.copy()
    times[4] = np.datetime64("NaT")
    with pytest.raises(CubeError, match="NaT"):
        eocube.composite(cube.assign_coords(time=times))


def test_numbers_without_nodata_and_dtypes_that_cannot_be_sorted_are_refused() -> None:
    with pytest.raises(CubeError, match=r"no nodata value.*to_reflectance"):
        eocube.composite(make_cube(nodata=None, flavour="forbidden"))
    cube = make_cube(flavour="forbidden")
    with pytest.raises(CubeError, match="int64 cannot be composited"):
        eocube.composite(cube.assign(data=cube["data"].astype("int64")))


def test_n_clear_counts_dates_with_every_band() -> None:
    cube = make_cube(shape_yx=(12, 15)).compute()
    cube["data"].values[2:5, 3, 10:, 10:] = 0
    found = eocube.composite(cube, freq="YS")
    np.testing.assert_array_equal(found["n_clear"].values[:, 10:, 10:], np.array([2, 7])[:, None, None] * np.ones((1, 2, 5)))
    np.testing.assert_array_equal(found["n_clear"].values[:, 9, 9], [3, 9])


def test_nodata_at_the_other_end_of_the_dtype_is_nodata() -> None:
    low = eocube.composite(eocube.mask_clouds(make_cube(nodata=0)), freq="MS").compute()
    high = eocube.composite(eocube.mask_clouds(make_cube(nodata=65_535)), freq="MS").compute()
    empty = low["data"].values == 0
    assert empty.any()
    assert (high["data"].values[empty] == 65_535).all()
    np.testing.assert_array_equal(high["data"].values[~empty], low["data"].values[~empty])
