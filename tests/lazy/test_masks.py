"""mask_clouds and clear_fraction: which classes stay, what is refused, and NumPy's numbers on real pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import eocube
from eocube.errors import CubeError, UnknownNameError
from eocube.lazy.masks import clear_classes
from eocube.model.bands import SCL_CLASSES
from eocube.testing.sources import make_cube, sources_of


def test_vegetation_bare_water_unclassified_and_snow_stay_by_default() -> None:
    cube = make_cube().compute()
    masked = eocube.mask_clouds(cube)
    stays = np.isin(cube["scl"].values, (4, 5, 6, 7, 11))[:, None]
    np.testing.assert_array_equal(masked["data"].values, np.where(stays, cube["data"].values, 0))
    xr.testing.assert_identical(masked["scl"], cube["scl"])
    assert masked["data"].attrs == cube["data"].attrs
    assert not np.shares_memory(masked["data"].values, cube["data"].values)


@pytest.mark.parametrize(
    ("clear", "classes"),
    [
        (("vegetation",), (4,)),
        (["water", 4, "vegetation", 6, np.uint8(11)], (4, 6, 11)),
        ("snow_or_ice", (11,)),
        (7, (7,)),
        (range(4, 8), (4, 5, 6, 7)),
        ({9, 8}, (8, 9)),
    ],
)
def test_classes_may_be_named_or_numbered(clear: Any, classes: tuple[int, ...]) -> None:
    assert clear_classes(clear) == classes
    cube = make_cube().compute()
    stays = np.isin(cube["scl"].values, classes)
    np.testing.assert_array_equal(
        (eocube.mask_clouds(cube, clear=clear)["data"].values != 0).any(axis=1), stays & (cube["scl"] != 0)
    )


def test_two_spellings_of_the_same_classes_are_one_recipe() -> None:
    by_name = eocube.mask_clouds(make_cube(), clear=("water", "vegetation"))
    by_number = eocube.mask_clouds(make_cube(), clear=[4, 6, 4])
    assert by_name.attrs["eocube_recipe"] == by_number.attrs["eocube_recipe"]


@pytest.mark.parametrize("clear", [(12,), (-1,), ("clouds",), (4.5,), (True,), (None,), (), [4, "grass"]])
def test_a_class_that_does_not_exist_is_refused_naming_all_that_do(clear: Any) -> None:
    with pytest.raises(UnknownNameError, match=r"vegetation"):
        eocube.mask_clouds(make_cube(flavour="forbidden"), clear=clear)
    with pytest.raises(UnknownNameError, match="scene class"):
        eocube.clear_fraction(make_cube(flavour="forbidden"), clear=clear)


def test_every_class_has_a_name_of_its_own() -> None:
    assert clear_classes([name for _, name in SCL_CLASSES]) == tuple(range(12))


@pytest.mark.parametrize("step", [eocube.mask_clouds, eocube.clear_fraction])
def test_other_methods_missing_masks_and_bare_arrays_are_refused(step: Any) -> None:
    cube = make_cube(flavour="forbidden")
    with pytest.raises(UnknownNameError, match=r"cloud mask method 'fmask'.*'scl'"):
        step(cube, method="fmask")
    with pytest.raises(UnknownNameError, match=r"mask 'scl'.*load the scene classification"):
        step(make_cube(scl=False, flavour="forbidden"))
    with pytest.raises(CubeError, match="Pass the Dataset"):
        step(cube["data"])


@pytest.mark.parametrize("step", [eocube.mask_clouds, eocube.clear_fraction])
def test_a_mask_that_is_no_class_map_is_refused(step: Any) -> None:
    cube = make_cube(flavour="forbidden")
    with pytest.raises(CubeError, match="whole numbers"):
        step(cube.assign(scl=cube["scl"].astype("float32")))
    with pytest.raises(CubeError, match="dims"):
        step(cube.assign(scl=cube["data"]))


def test_integers_without_nodata_have_no_place_for_clouds() -> None:
    with pytest.raises(CubeError, match=r"uint16.*to_reflectance.*_FillValue"):
        eocube.mask_clouds(make_cube(nodata=None, flavour="forbidden"))
    assert eocube.mask_clouds(make_cube(dtype="float32"))["data"].dtype == "float32"


def test_dims_in_any_order_mean_the_same() -> None:
    cube = make_cube()
    expected = eocube.mask_clouds(cube).compute()
    for moved in (cube.transpose("y", "x", "band", "time"), cube.compute().transpose("x", "band", "time", "y")):
        masked = eocube.mask_clouds(moved).compute()
        assert masked["data"].dims == ("time", "band", "y", "x")
        xr.testing.assert_equal(masked.transpose(*expected["data"].dims), expected)


def test_data_and_mask_in_other_chunks_and_kinds_fit() -> None:
    cube = make_cube()
    expected = eocube.mask_clouds(cube).compute()
    for mixed in (
        cube.assign(scl=cube["scl"].chunk({"time": 5, "y": 7, "x": -1})),
        cube.assign(scl=cube["scl"].compute()),
        cube.assign(data=cube["data"].compute()),
        cube.assign(data=cube["data"].chunk({"band": 2, "time": 1})),
    ):
        xr.testing.assert_equal(eocube.mask_clouds(mixed).compute(), expected)


def test_clear_fraction_is_lazy_and_what_numpy_counts(tmp_path: Path) -> None:
    corpus = eocube.open_corpus("stac", eocube.sample_corpus("sentinel2", tmp_path))
    cube = corpus.cube(corpus.sites["site"][0], "20m").isel(time=slice(0, 40))
    share = eocube.clear_fraction(cube)
    assert share.chunks
    assert share.dims == ("time",)
    expected = np.isin(cube["scl"].values, (4, 5, 6, 7, 11)).mean(axis=(1, 2))
    assert 0 < expected.mean() < 1
    np.testing.assert_array_equal(share.values, expected)
    assert share.dtype == np.float64
    np.testing.assert_array_equal(share["item_id"].values, cube["item_id"].values)
    np.testing.assert_array_equal(
        eocube.clear_fraction(cube, clear=["water"]).values, (cube["scl"].values == 6).mean(axis=(1, 2))
    )


def test_clear_fraction_reads_the_mask_alone() -> None:
    cube = make_cube(chunks={"time": 3, "y": 16, "x": 32})
    eocube.clear_fraction(cube).compute()
    assert {names for names, _ in sources_of(cube)[0].log.reads} == {("scl",)}
    assert set(sources_of(cube)[0].block_reads("scl").values()) == {1}
