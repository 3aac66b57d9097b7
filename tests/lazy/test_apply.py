"""apply: a user's function is tried on one window, recorded, and refused where its pixels depend on what else it sees."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import eocube
from eocube.errors import CubeError, GridError, StepContractError
from eocube.exec.evaluate import Evaluation, evaluate
from eocube.model.recipe import recipe_of, whole
from eocube.testing import steps
from eocube.testing.contracts_step import assert_same_cube, frame_of_result
from eocube.testing.sources import make_cube, sources_of


def test_it_is_the_function_on_the_whole_cube() -> None:
    cube = make_cube()
    found = eocube.apply(cube, steps.smoothed, halo_px=1, step_id="smoothed")
    expected = steps.smoothed(cube.compute())
    np.testing.assert_array_equal(found["data"].values, expected["data"].values)
    assert found["data"].dtype == np.float32
    xr.testing.assert_equal(found["scl"].compute(), cube["scl"].compute())


@pytest.mark.parametrize(
    ("function", "halo_px", "said"),
    [
        (steps.smoothed, 0, r"wider.*halo_px is too small"),
        (steps.centred, 0, r"wider.*statistic of the whole image"),
        (steps.centred, 8, r"wider"),
        (steps.numbered, 0, r"place in the array"),
        (steps.detrended, 0, r"date alone.*composite"),
        (steps.without_first_date, 0, r"must keep dates, rows and columns.*composite"),
    ],
)
@pytest.mark.parametrize("shape_yx", [(40, 56), (200, 300), (9, 64)])
def test_a_function_that_looks_beyond_its_window_is_refused(
    function: Any, halo_px: int, said: str, shape_yx: tuple[int, int]
) -> None:
    cube = make_cube(shape_yx=shape_yx, bands=("red", "nir"), scl=False)
    with pytest.raises(StepContractError, match=said) as caught:
        eocube.apply(cube, function, halo_px=halo_px, step_id="mine-v1")
    assert "mine-v1" in str(caught.value)


def test_the_window_it_is_tried_on_is_small_and_read_once() -> None:
    cube = make_cube(shape_yx=(400, 500), bands=("red",), dates=[f"2020-01-{d:02d}" for d in range(1, 29)])
    eocube.apply(cube, steps.smoothed, halo_px=1, step_id="smoothed")
    ((_, window),) = sources_of(cube)[0].log.reads
    assert len(window.times) == 4
    assert window.shape_yx == (64 + 2 * 65, 64 + 2 * 65)


def test_bands_dtype_and_masks_may_change() -> None:
    found = eocube.apply(make_cube(), steps.ratio, step_id="ratio")
    assert [str(b) for b in found["band"].values] == ["ratio"]
    assert found["data"].dtype == np.float32
    assert list(found.data_vars) == ["data"]
    assert np.isnan(frame_of_result(found).data.nodata or 0)


def test_new_variables_and_attributes_are_learnt() -> None:
    def with_haze(cube: xr.Dataset) -> xr.Dataset:
        haze = (cube["data"].max("band") > 40_000).astype("uint8")
        haze.attrs = {"long_name": "haze", "flag_values": [0, 1], "flag_meanings": "clear hazy"}
        return cube.assign(haze=haze)

    found = eocube.apply(make_cube(), with_haze, step_id="haze")
    assert list(found.data_vars) == ["data", "scl", "haze"]
    assert found["haze"].attrs["flag_meanings"] == "clear hazy"
    assert found["data"].attrs["scale_factor"] == 1e-4
    assert found["scl"].attrs == make_cube()["scl"].attrs
    assert 0 < int(found["haze"].sum()) < found["haze"].size


def test_a_function_may_change_what_it_is_given() -> None:
    """It gets a copy: the same window may be another step's input, or the user's own array."""
    cube = make_cube()
    found = eocube.apply(cube, steps.doubled_in_place, step_id="doubled")
    np.testing.assert_array_equal(found["data"].values, cube["data"].values * 2)
    mine = cube.compute()
    before = mine.copy(deep=True)
    again = eocube.apply(mine, steps.doubled_in_place, step_id="doubled")
    np.testing.assert_array_equal(again["data"].values, found["data"].values)
    xr.testing.assert_identical(mine, before)


def test_a_window_that_a_function_changed_is_still_whole_for_the_next_step() -> None:
    """A task computes a window once for all steps that need it."""
    cube = make_cube()
    found = steps.subtract_reference(eocube.apply(cube, steps.doubled_in_place, step_id="doubled"), cube)
    recipe = recipe_of(found)
    window = whole(frame_of_result(found))
    assert_same_cube(evaluate(recipe.node, window, Evaluation(recipe.binding, {})), found.compute())


def test_the_same_function_may_run_twice_in_a_chain() -> None:
    cube = make_cube()
    twice = cube
    for _ in range(2):
        twice = eocube.apply(twice, steps.smoothed, halo_px=1, step_id="smoothed")
    expected = steps.smoothed(steps.smoothed(cube.compute()))
    np.testing.assert_array_equal(twice["data"].values, expected["data"].values)
    assert [s["step"] for s in json.loads(recipe_of(twice))["steps"]] == ["apply:smoothed"] * 2


def test_two_functions_or_two_halos_of_one_name_are_refused() -> None:
    once = eocube.apply(make_cube(), steps.doubled, step_id="mine")
    with pytest.raises(StepContractError, match="own step_id"):
        eocube.apply(once, steps.smoothed, halo_px=1, step_id="mine")
    with pytest.raises(StepContractError, match="own step_id"):
        eocube.apply(once, steps.doubled, halo_px=3, step_id="mine")


def test_a_small_cube_of_the_users_own_may_be_applied_to_and_written(tmp_path: Path) -> None:
    mine = make_cube().compute() + 1
    mine.attrs = {}
    found = eocube.apply(mine, steps.smoothed, halo_px=1, step_id="smoothed")
    assert not recipe_of(found).binding.steps.keys() - {"apply:smoothed"}
    eocube.write_cube(found, str(tmp_path), executor="serial")
    assert_same_cube(eocube.open_cube(f"{tmp_path}/cubes/cube/data", chunks=None), found.compute())


def test_a_bare_array_comes_back_as_one() -> None:
    cube = make_cube()
    found = eocube.apply(cube["data"], steps.doubled, step_id="doubled")
    assert isinstance(found, xr.DataArray)
    np.testing.assert_array_equal(found.values, cube["data"].values * 2)


def test_what_it_records_is_what_it_gives_and_the_users_name() -> None:
    step = json.loads(recipe_of(eocube.apply(make_cube(), steps.ratio, step_id="ratio-v3")))["steps"][0]
    assert step["step"] == "apply:ratio-v3"
    assert step["args"]["halo_px"] == 0
    assert [b["name"] for b in step["args"]["gives"]["bands"]] == ["ratio"]
    assert [(v["name"], v["dtype"], v["nodata"]) for v in step["args"]["gives"]["variables"]] == [("data", "float32", "nan")]


def test_a_lambda_runs_on_other_processes(tmp_path: Path) -> None:
    found = eocube.apply(make_cube(), lambda c: c.assign(data=c["data"] // 2), step_id="half")
    np.testing.assert_array_equal(found["data"].values, make_cube()["data"].values // 2)
    import cloudpickle

    again = cloudpickle.loads(cloudpickle.dumps(found))
    np.testing.assert_array_equal(again["data"].values, found["data"].values)


@pytest.mark.parametrize("returned", [None, 5, np.zeros((3, 3))])
def test_something_else_than_xarray_is_refused(returned: Any) -> None:
    with pytest.raises(StepContractError, match="return a Dataset or a DataArray"):
        eocube.apply(make_cube(), lambda _: returned, step_id="mine")


def test_a_result_without_data_bands_or_names_is_refused() -> None:
    with pytest.raises(CubeError, match="give 'data'"):
        eocube.apply(make_cube(), lambda c: c.rename(data="values"), step_id="mine")
    with pytest.raises(CubeError, match="give 'data'"):
        eocube.apply(make_cube(), lambda c: c["data"].isel(band=0, drop=True), step_id="mine")
    with pytest.raises(CubeError, match="names"):
        eocube.apply(make_cube(), lambda c: c.drop_vars("band"), step_id="mine")
    with pytest.raises(CubeError, match="nothing"):
        eocube.apply(make_cube(), lambda c: c.isel(band=slice(0, 0)), step_id="mine")
    with pytest.raises(CubeError, match="repeat"):
        eocube.apply(make_cube(), lambda c: c.assign_coords(band=["a"] * 5), step_id="mine")


@pytest.mark.parametrize(("halo_px", "step_id"), [(-1, "mine"), (0.5, "mine"), (0, "")])
def test_halos_and_names_must_be_such(halo_px: Any, step_id: str) -> None:
    with pytest.raises(CubeError, match="whole pixels"):
        eocube.apply(make_cube(flavour="forbidden"), steps.doubled, halo_px=halo_px, step_id=step_id)


def test_an_error_of_the_users_function_is_their_own() -> None:
    def broken(_: xr.Dataset) -> xr.Dataset:
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        eocube.apply(make_cube(), broken, step_id="broken")


def test_a_cube_without_dates_or_a_crs_is_refused() -> None:
    with pytest.raises(CubeError, match="time"):
        eocube.apply(make_cube().isel(time=slice(0, 0)), steps.doubled, step_id="mine")
    with pytest.raises(GridError, match="spatial_ref"):
        eocube.apply(make_cube().drop_vars("spatial_ref"), steps.doubled, step_id="mine")


def test_a_tiny_cube_can_be_applied_to() -> None:
    cube = make_cube(shape_yx=(1, 1), dates=("2020-01-01",), chunks={"time": 1, "y": 1, "x": 1})
    np.testing.assert_array_equal(eocube.apply(cube, steps.doubled, step_id="doubled")["data"].values, cube["data"].values * 2)
