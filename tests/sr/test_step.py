"""Super-resolution as a step: any window, lazy or stored, holds the same bits, labels and recipe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

import cloudpickle
import numpy as np
import pytest
import xarray as xr

import eocube
from eocube.errors import ModelError
from eocube.exec.evaluate import Evaluation, evaluate, probe
from eocube.model.recipe import frame_of, recipe_of, whole
from eocube.model.spec import Layout
from eocube.model.window import Window
from eocube.sr import SrModel, load_model
from eocube.testing.contracts_step import StepContract
from eocube.testing.sources import make_cube, sources_of
from tests.sr.makers import make_network


class TestSuperresolve(StepContract):
    blank_where_masked: ClassVar[bool] = False
    """Said of pixels by their number, and these are of another size; see the test of nodata below."""

    stored_as: ClassVar[tuple[tuple[Layout, str], ...]] = (("balanced", "threads:2"),)

    @pytest.fixture(autouse=True)
    def _model(self, tmp_path: Path) -> None:
        self.model = make_network(tmp_path / "m", bands_in=("red", "nir", "green"), bands_out=("green", "red"), channels=4)

    def run(self, *cubes: xr.Dataset) -> xr.Dataset:
        fine: xr.Dataset = eocube.superresolve(cubes[0], self.model)
        return fine


class TestBicubicOfReflectance(StepContract):
    blank_where_masked: ClassVar[bool] = False
    stored_as: ClassVar[tuple[tuple[Layout, str], ...]] = (("map", "serial"),)

    def run(self, *cubes: xr.Dataset) -> xr.Dataset:
        model = load_model("bicubic", scale=3, bands=["nir", "red"])
        fine: xr.Dataset = eocube.superresolve(eocube.to_reflectance(eocube.mask_clouds(cubes[0])), model)
        return fine


@pytest.fixture
def network(tmp_path: Path) -> SrModel:
    return make_network(tmp_path / "m", bands_in=("red", "green"), bands_out=("red",), channels=4)


def test_windows_of_a_cube_of_several_tiles_are_its_pieces_bit_for_bit(network: SrModel) -> None:
    """The engine's way with its halo, and the way of lazy blocks, against the whole."""
    cube = make_cube(shape_yx=(70, 150), dates=("2020-01-01", "2020-01-06"), bands=("green", "red"))
    fine = eocube.superresolve(cube, network)
    recipe = recipe_of(fine)
    run = Evaluation(recipe.binding, {})
    everything = evaluate(recipe.node, whole(frame_of(recipe.node, recipe.binding)), run)["data"].values
    for y, x in (((0, 140), (128, 256)), ((127, 129), (0, 300)), ((100, 101), (255, 257)), ((138, 140), (298, 300))):
        window = Window((1,), y, x)
        piece = everything[1:, :, slice(*y), slice(*x)]
        np.testing.assert_array_equal(evaluate(recipe.node, window, run)["data"].values, piece)
        np.testing.assert_array_equal(fine["data"][1:, :, slice(*y), slice(*x)].values, piece)
        for extra_px in (1, 64):
            probe(recipe.node, window, run, extra_px=extra_px)
    np.testing.assert_array_equal(fine["data"].values, everything)


@pytest.mark.parametrize("nodata", [0, 65_535])
def test_what_lacks_data_in_a_band_of_the_model_has_none_and_nothing_else_does(network: SrModel, nodata: int) -> None:
    cube = eocube.mask_clouds(make_cube(bands=("blue", "green", "red"), nodata=nodata))
    lr = cube["data"].sel(band=["green", "red"]).values
    valid = (lr != nodata).all(axis=1)
    fine = eocube.superresolve(cube, network)["data"].values
    np.testing.assert_array_equal(fine[:, 0] != 0, np.repeat(np.repeat(valid, 2, axis=1), 2, axis=2))
    assert 0 < valid.mean() < 1


def test_the_recipe_names_the_model_by_digest_and_travels_small(network: SrModel) -> None:
    fine = eocube.superresolve(make_cube(), network)
    recipe = json.loads(fine.attrs["eocube_recipe"])
    assert recipe["steps"][0]["args"] == {"model": {"resource": network.model_id}}
    assert network.spec.kwargs_json not in fine.attrs["eocube_recipe"]
    step = recipe_of(fine).binding.steps[recipe["steps"][0]["step"]]
    assert len(cloudpickle.dumps(step)) < 1_000
    assert step.halo_px == 63 + network.halo_px


def test_two_models_with_different_halos_can_stand_in_one_chain(network: SrModel) -> None:
    cube = make_cube(dates=("2020-01-01",), shape_yx=(20, 24))
    bicubic = load_model("bicubic", scale=2, bands=["red"])
    fine = eocube.superresolve(eocube.superresolve(cube, network), bicubic)
    recipe = recipe_of(fine)
    assert sorted(s.halo_px for s in recipe.binding.steps.values()) == [63 + 2, 63 + network.halo_px]
    assert fine["data"].shape == (1, 1, 80, 96)
    whole_ = evaluate(recipe.node, whole(frame_of(recipe.node, recipe.binding)), Evaluation(recipe.binding, {}))
    np.testing.assert_array_equal(fine["data"].values, whole_["data"].values)


def test_a_mask_alone_does_not_run_the_network(network: SrModel) -> None:
    cube = make_cube()
    fine = eocube.superresolve(cube, network)
    scl = fine["scl"].compute()
    assert not network._host, "no weights were loaded"
    np.testing.assert_array_equal(scl.values, np.repeat(np.repeat(cube["scl"].values, 2, axis=1), 2, axis=2))


def test_bands_in_another_order_are_found_by_name(tmp_path: Path) -> None:
    model = make_network(tmp_path / "m", bands_in=("red", "green"), bands_out=("green",), channels=4)
    cube = make_cube(bands=("blue", "green", "red"), dates=("2020-01-01",))
    turned = eocube.superresolve(make_reordered(cube, ["red", "blue", "green"]), model)
    np.testing.assert_array_equal(turned["data"].values, eocube.superresolve(cube, model)["data"].values)


def make_reordered(cube: xr.Dataset, bands: list[str]) -> xr.Dataset:
    return cube.sel(band=bands)


def test_a_bare_array_gives_a_bare_array(network: SrModel) -> None:
    cube = make_cube(dates=("2020-01-01",))
    fine = eocube.superresolve(cube["data"], network)
    assert isinstance(fine, xr.DataArray)
    np.testing.assert_array_equal(fine.values, eocube.superresolve(cube, network)["data"].values)


def test_a_cube_in_memory_is_taken_too(network: SrModel) -> None:
    cube = make_cube(dates=("2020-01-01",))
    np.testing.assert_array_equal(
        eocube.superresolve(cube.load(), network)["data"].values,
        eocube.superresolve(make_cube(dates=("2020-01-01",)), network)["data"].values,
    )


def test_the_input_of_one_block_is_read_once_and_no_farther_than_its_tiles_see(network: SrModel) -> None:
    cube = make_cube(shape_yx=(64, 256), dates=("2020-01-01",), chunks={"time": 1, "y": 64, "x": 64})
    fine = eocube.superresolve(cube, network)
    fine["data"][..., 128:256].compute(scheduler="synchronous")
    (source,) = sources_of(fine)
    assert [(r.window.y, r.window.x) for r in source.log.reads] == [((0, 64), (64 - network.halo_px, 128 + network.halo_px))]


def test_a_model_that_does_not_fit_is_refused_before_any_pixel_is_read() -> None:
    cube = make_cube(flavour="forbidden", bands=("red",))
    for model, said in ((load_model("bicubic", scale=2, bands=["nir"]), "nir is missing"), ("bicubic", "load_model")):
        with pytest.raises(ModelError, match=said):
            eocube.superresolve(cube, model)
