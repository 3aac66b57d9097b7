"""spectral_index: the numbers of spyndex, its names, and what a cube must have."""

from __future__ import annotations

import json
import re
import warnings
from typing import Any

import numpy as np
import pytest
import spyndex
import xarray as xr

import eocube
from eocube.errors import RadiometryError, UnknownNameError
from eocube.lazy.index import SYMBOLS
from eocube.model.bands import SENTINEL2_BANDS
from eocube.model.recipe import recipe_of
from eocube.testing.sources import make_cube

ALL_BANDS = tuple(b.name for b in SENTINEL2_BANDS.values() if b.name != "cirrus")
CONSTANTS = {str(k) for k in spyndex.constants if spyndex.constants[k].default is not None}


def reflectance_of(cube: xr.Dataset) -> xr.DataArray:
    data: xr.DataArray = eocube.to_reflectance(cube)["data"].compute()
    return data


def by_spyndex(name: str, data: xr.DataArray, constants: dict[str, float]) -> np.ndarray:
    bands = {s: data.sel(band=next(b for b in names if b in data["band"].values)) for s, names in SYMBOLS.items()}
    wanted = {s: v.values.astype(np.float64) for s, v in bands.items() if s in spyndex.indices[name].bands}
    with np.errstate(all="ignore"):
        found = spyndex.computeIndex(name, params={**wanted, **constants})
    return np.asarray(found)


@pytest.mark.parametrize("name", ["NDVI", "EVI", "NDWI", "NBR", "SAVI", "ND705", "BI", "MNDWI", "ARVI"])
@pytest.mark.parametrize("decoded", [False, True])
def test_the_numbers_are_those_of_spyndex(name: str, decoded: bool) -> None:  # noqa: FBT001
    cube = make_cube(bands=ALL_BANDS, shape_yx=(5, 7), scl=False)
    given = eocube.to_reflectance(cube) if decoded else cube
    found = eocube.spectral_index(given, name.lower())
    constants = json.loads(recipe_of(found))["steps"][-1]["args"]["constants"]
    expected = by_spyndex(name, reflectance_of(cube), constants)
    np.testing.assert_allclose(found["data"].values[:, 0], expected, rtol=1e-3, atol=1e-5)
    assert found["data"].dtype == np.float32
    assert [str(b) for b in found["band"].values] == [name.lower()]
    assert found["data"].attrs["units"] == "1"
    assert "scale_factor" not in found["data"].attrs


def test_every_index_of_the_catalogue_is_computed_or_refused_before_a_pixel_is_read() -> None:
    given = make_cube(bands=ALL_BANDS, dates=("2020-01-01",), shape_yx=(2, 3), scl=False)
    forbidden = make_cube(bands=ALL_BANDS, dates=("2020-01-01",), shape_yx=(2, 3), scl=False, flavour="forbidden")
    data, done = reflectance_of(given), 0
    for name in spyndex.indices:
        beyond = set(spyndex.indices[name].bands) - set(SYMBOLS) - CONSTANTS
        if beyond:
            with pytest.raises(UnknownNameError, match=f"symbol '{'|'.join(beyond)}' in {re.escape(name)} ="):
                eocube.spectral_index(forbidden, name)
            continue
        found = eocube.spectral_index(given, name)
        constants = json.loads(recipe_of(found))["steps"][-1]["args"]["constants"]
        expected = by_spyndex(name, data, constants)
        size = np.where(np.isfinite(expected), np.abs(expected), 1) + 1
        np.testing.assert_allclose(found["data"].values[:, 0] / size, expected / size, atol=2e-3, err_msg=name)
        done += 1
    assert done > 200


def test_formula_bands_and_constants_are_recorded() -> None:
    step = json.loads(recipe_of(eocube.spectral_index(make_cube(), "EVI")))["steps"][0]
    assert step["step"] == "spectral_index"
    assert step["args"]["formula"].replace(" ", "") == spyndex.indices["EVI"].formula.replace(" ", "")
    assert step["args"]["bands"] == {"B": "blue", "R": "red", "N": "nir"}
    assert step["args"]["constants"] == {"g": 2.5, "C1": 6.0, "C2": 7.5, "L": 1.0}
    assert step["args"]["name"] == "evi"


def test_the_narrow_near_infrared_stands_in_and_the_recipe_says_so() -> None:
    cube = make_cube(bands=("red", "nir08"))
    assert json.loads(recipe_of(eocube.spectral_index(cube, "ndvi")))["steps"][0]["args"]["bands"]["N"] == "nir08"


def test_a_missing_band_and_an_unknown_index_are_named() -> None:
    cube = make_cube(bands=("green", "nir"), flavour="forbidden")
    with pytest.raises(UnknownNameError, match=r"Unknown band 'red'.*NDVI needs it.*'green', 'nir'"):
        eocube.spectral_index(cube, "ndvi")
    with pytest.raises(UnknownNameError, match=r"spectral index 'ndv1'.*'NDVI'"):
        eocube.spectral_index(cube, "ndv1")
    with pytest.raises(UnknownNameError, match="spectral index"):
        eocube.spectral_index(cube, "")


def test_names_that_differ_only_in_case_must_be_spelt() -> None:
    cube = make_cube(bands=ALL_BANDS, flavour="forbidden")
    with pytest.raises(UnknownNameError, match=r"'BAI', 'BaI'|'BaI', 'BAI'"):
        eocube.spectral_index(cube, "bai")
    formulas = {json.loads(recipe_of(eocube.spectral_index(cube, n)))["steps"][0]["args"]["formula"] for n in ("BAI", "BaI")}
    assert len(formulas) == 2


def test_a_symbol_that_no_cube_can_have_is_refused_before_it_is_computed() -> None:
    cube = make_cube(bands=ALL_BANDS, flavour="forbidden")
    with pytest.raises(UnknownNameError, match=r"symbol 'T' in NBRT1 = .*'S2'"):
        eocube.spectral_index(cube, "NBRT1")


def test_division_by_zero_and_missing_bands_of_a_pixel_are_nan_without_a_warning() -> None:
    cube = make_cube(dtype="float32", bands=("red", "nir"), dates=("2020-01-01",), shape_yx=(2, 2), scl=False).compute()
    cube["data"].values[0] = [[[0.0, 0.2], [np.nan, -0.3]], [[0.0, 0.6], [0.5, 0.3]]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = eocube.spectral_index(cube, "ndvi")["data"].values[0, 0]
    np.testing.assert_allclose(found, [[np.nan, 0.5], [np.nan, np.nan]], rtol=1e-6)


def test_masks_dates_and_bounds_come_along_in_their_old_order() -> None:
    cube = make_cube()
    found = eocube.spectral_index(cube, "ndvi")
    assert list(found.data_vars) == ["data", "scl"]
    assert set(found.coords) == set(cube.coords)
    seasons = eocube.spectral_index(eocube.composite(cube, freq="QS-DEC"), "ndvi")
    assert list(seasons.data_vars) == ["data", "n_clear"]
    assert "time_bnds" in seasons.coords


def test_integers_without_a_scale_are_refused() -> None:
    cube = make_cube(flavour="forbidden")
    del cube["data"].attrs["scale_factor"]
    with pytest.raises(RadiometryError, match="without a scale"):
        eocube.spectral_index(cube, "ndvi")


@pytest.mark.parametrize("step", [lambda c: eocube.spectral_index(c, "ndvi")])
def test_bands_split_into_chunks_are_joined(step: Any) -> None:
    cube = make_cube()
    split = cube.assign(data=cube["data"].chunk({"band": 1}))
    xr.testing.assert_equal(step(split).compute(), step(cube).compute())
