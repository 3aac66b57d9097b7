"""Cubes that did not come from eocube, or that something else has changed: steps work on them, small ones can be written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import eocube
from eocube.errors import CubeError, EocubeError, GridError, UnrecordedError
from eocube.jobs.write import WriteSettings, plan_cube
from eocube.model.recipe import UNRECORDED_ATTR, recipe_of
from eocube.testing import steps
from eocube.testing.contracts_step import assert_same_cube, write_small
from eocube.testing.sources import make_cube


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The synthetic cube in a store; returns the cube's folder."""
    store = tmp_path_factory.mktemp("stored")
    write_small(make_cube(), store)
    return store / "cubes" / "cube" / "data"


def plain(cube: Path, **options: Any) -> xr.Dataset:
    """What somebody without eocube sees."""
    return xr.open_zarr(str(cube), zarr_format=3, consolidated=True, **options)


def test_a_plainly_opened_cube_goes_through_mask_and_composite_lazily(stored: Path) -> None:
    opened = plain(stored, mask_and_scale=False)
    found = eocube.composite(eocube.mask_clouds(opened), freq="MS")
    assert found["data"].chunks
    assert "recipe" in str(found.attrs[UNRECORDED_ATTR])
    expected = eocube.composite(eocube.mask_clouds(make_cube()), freq="MS").compute()
    for name in ("data", "n_clear"):
        np.testing.assert_array_equal(found[name].values, expected[name].values, strict=True)


def test_decoded_by_xarray_it_is_reflectance_and_gives_the_same_index(stored: Path) -> None:
    opened = plain(stored)
    assert opened["data"].dtype.kind == "f"
    expected = eocube.spectral_index(make_cube(), "ndvi").compute()
    np.testing.assert_allclose(
        eocube.spectral_index(opened, "ndvi")["data"].values, expected["data"].values, rtol=1e-3, atol=1e-5
    )
    with pytest.raises(EocubeError, match="reflectance already"):
        eocube.to_reflectance(opened)


@pytest.mark.parametrize("layout", ["map", "balanced"])
def test_a_small_plain_cube_and_chains_on_it_can_be_written(stored: Path, tmp_path: Path, layout: Any) -> None:
    opened = plain(stored, mask_and_scale=False)
    for n, cube in enumerate((opened, eocube.mask_clouds(opened), eocube.composite(eocube.mask_clouds(opened), freq="QS-DEC"))):
        write_small(cube, tmp_path / str(n), layout=layout)
        written = eocube.open_cube(f"{tmp_path}/{n}/cubes/cube/data", chunks=None)
        for name, v in cube.data_vars.items():
            if name != "clear_summary":
                np.testing.assert_array_equal(written[name].values, v.values, err_msg=str(name), strict=True)
    assert "time_bnds" in written.coords
    assert written["data"].attrs["scale_factor"] == 1e-4


def test_a_plainly_opened_composite_can_be_written_with_its_bounds(tmp_path: Path) -> None:
    write_small(eocube.composite(make_cube(), freq="MS"), tmp_path / "a")
    opened = plain(tmp_path / "a" / "cubes" / "cube" / "data", mask_and_scale=False)
    write_small(opened, tmp_path / "b")
    first, second = (eocube.open_cube(f"{tmp_path}/{s}/cubes/cube/data", chunks=None) for s in "ab")
    assert_same_cube(second, first)


CHANGES = {
    "arithmetic": lambda c: c * 2,
    "isel": lambda c: c.isel(y=slice(3, 30), time=slice(2, None)),
    "map_blocks": lambda c: c.map_blocks(lambda b: b + 1, template=c),
    "where": lambda c: c.where(c["scl"] == 4, 0),
    "rechunked": lambda c: c.chunk({"time": 2}),
    "loaded": lambda c: c.load(),
    "other labels": lambda c: c.assign_coords(band=["a", "b", "c", "d", "e"]),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_cube_is_written_as_changed_and_never_as_recorded(tmp_path: Path, change: Any) -> None:
    cube = change(make_cube())
    with pytest.raises(UnrecordedError):
        recipe_of(cube)
    for n, chained in enumerate((cube, eocube.mask_clouds(cube))):
        write_small(chained, tmp_path / str(n))
        written = eocube.open_cube(f"{tmp_path}/{n}/cubes/cube/data", chunks=None)
        for name, v in chained.data_vars.items():
            np.testing.assert_array_equal(written[name].values, v.values, err_msg=str(name), strict=True)
        assert list(written["band"].values) == list(cube["band"].values)


def test_above_2000_chunks_a_changed_cube_is_refused_naming_apply() -> None:
    cube = make_cube(chunks={"time": 1, "y": 2, "x": 4}, flavour="forbidden") * 2
    with pytest.raises(UnrecordedError, match=r"chunks.*eocube\.apply"):
        plan_cube(cube, "memory:nowhere", site="cube", product="data", settings=WriteSettings())


# ------------------------------------------------------------------------------------------------ bare arrays


@pytest.mark.parametrize(
    "step",
    [
        eocube.to_reflectance,
        lambda a: eocube.composite(a, freq="MS"),
        lambda a: eocube.apply(a, steps.doubled, step_id="doubled"),
    ],
    ids=["to_reflectance", "composite", "apply"],
)
def test_an_array_gives_an_array(step: Any) -> None:
    cube = make_cube()
    for array in (cube["data"], cube["data"].compute()):
        found = step(array)
        assert isinstance(found, xr.DataArray)
        np.testing.assert_array_equal(found.values, step(cube)["data"].values, strict=True)
        assert not any("recipe" in str(k) for k in found.attrs)


@pytest.mark.parametrize("step", [eocube.to_reflectance, lambda a: eocube.composite(a, freq="MS")])
def test_an_array_without_bands_gives_one_without_bands(step: Any) -> None:
    cube = make_cube()
    for drop in (False, True):
        one = cube["data"].isel(band=2, drop=drop)
        found = step(one)
        assert found.dims == ("time", "y", "x")
        np.testing.assert_array_equal(found.values, step(cube)["data"].values[:, 2], strict=True)
        assert ("band" in found.coords) is not drop
    whole = step(cube.isel(band=2))
    assert whole["data"].dims == ("time", "y", "x")


def test_an_index_of_an_array_without_bands_is_refused() -> None:
    with pytest.raises(CubeError, match="no names"):
        eocube.spectral_index(make_cube()["data"].isel(band=2, drop=True), "ndvi")


# ------------------------------------------------------------------------------------------------ no cubes

STEPS = {
    "to_reflectance": eocube.to_reflectance,
    "mask_clouds": eocube.mask_clouds,
    "composite": eocube.composite,
    "spectral_index": lambda c: eocube.spectral_index(c, "ndvi"),
    "apply": lambda c: eocube.apply(c, steps.doubled, step_id="doubled"),
    "write_cube": lambda c: plan_cube(c, "memory:nowhere", site="cube", product="data", settings=WriteSettings()),
}
NO_CUBES = {
    "no data": lambda c: c.drop_vars("data"),
    "other name": lambda c: c.rename(data="reflectance"),
    "other dims": lambda c: c.rename(y="latitude"),
    "a variable a band": lambda c: c["data"].to_dataset("band"),
    "no date": lambda c: c.isel(time=slice(0, 0)),
    "no band": lambda c: c.isel(band=slice(0, 0)),
}


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
@pytest.mark.parametrize("spoil", NO_CUBES.values(), ids=NO_CUBES)
def test_what_is_no_cube_is_refused_before_a_pixel_is_read(step: Any, spoil: Any) -> None:
    with pytest.raises(EocubeError):
        step(spoil(make_cube(flavour="forbidden")))


@pytest.mark.parametrize("name", ["write_cube", "apply", "spectral_index"])
def test_bands_without_names_are_refused(name: str) -> None:
    with pytest.raises(CubeError, match="no names"):
        STEPS[name](make_cube(flavour="forbidden").drop_vars("band"))


@pytest.mark.parametrize("name", ["write_cube", "apply"])
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda c: c.drop_vars("time"), "no such coordinate"),
        (lambda c: c.assign_coords(time=np.arange(12)), "datetime64"),
        (lambda c: c.isel(time=slice(None, None, -1)), "sortby"),
        (lambda c: c.drop_vars("y"), "no coordinates along"),
        (lambda c: c.drop_vars("spatial_ref"), "no spatial_ref"),
        (lambda c: c.isel(x=[0, 1, 5]), "not evenly spaced"),
        (lambda c: c.isel(y=slice(0, 0)), "nothing along"),
        (lambda c: c.assign(extra=c["data"].mean("y")), "neither data"),
        (lambda c: c.assign_coords(time=c["time"].values[[0, 0, *range(2, 12)]]), "strictly increasing"),
    ],
)
def test_a_cube_that_cannot_be_placed_in_time_and_space_is_refused(name: str, spoil: Any, said: str) -> None:
    with pytest.raises((CubeError, GridError), match=said):
        STEPS[name](spoil(make_cube(flavour="forbidden")))
