"""Frames: what a cube is without its pixels; hashable, picklable, with one name for one CRS."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import numpy as np
import pytest
import rasterio.crs
from affine import Affine
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox

from eocube.errors import CubeError, UnknownNameError
from eocube.model.bands import SCL_CLASSES, SCL_CLEAR, SENTINEL2_BANDS, Band
from eocube.model.frame import Frame, PerTime, Variable, crs_code, norm_geobox
from eocube.testing.stac import make_grid

DATA = Variable(name="data", dtype="uint16", banded=True, nodata=0, scale=1e-4, offset=-0.1)
SCL = Variable(name="scl", dtype="uint8", flags=SCL_CLASSES)


def make_frame(**changes: Any) -> Frame:
    given: dict[str, Any] = {
        "geobox": make_grid((4, 6)),
        "time_ms": (0, 86_400_000),
        "bands": (Band(name="red"), Band(name="nir")),
        "variables": (DATA, SCL),
        "per_time": (PerTime(name="n", dtype="int16", values=(1, 2)),),
    }
    return Frame(**{**given, **changes})


def test_a_frame_says_shapes_and_names() -> None:
    frame = make_frame()
    assert frame.shape() == (2, 2, 4, 6)
    assert frame.shape("scl") == (2, 4, 6)
    assert (frame.shape_yx, frame.band_names, frame.data, frame.masks) == ((4, 6), ("red", "nir"), DATA, (SCL,))
    with pytest.raises(UnknownNameError, match=r"variable 'qa' in this cube; known: 'data', 'scl'"):
        frame.shape("qa")


def test_coordinates_are_pixel_centres_and_y_descends() -> None:
    y, x = make_frame().yx
    assert (y[0], y[-1], x[0], x[-1]) == (5_000_035, 5_000_005, 600_005, 600_055)


def test_times_have_nanoseconds_as_plain_xarray_gives_them() -> None:
    assert make_frame().time.dtype == "M8[ns]"
    assert str(make_frame().time[1]) == "1970-01-02T00:00:00.000000000"


def test_equal_frames_are_equal_hash_equal_and_survive_copies() -> None:
    frame = make_frame()
    for other in (make_frame(), pickle.loads(pickle.dumps(frame)), copy.deepcopy(frame), frame.with_()):
        assert other == frame
        assert hash(other) == hash(frame)
    assert frame.with_(time_ms=(0, 1)) != frame
    assert frame.with_variable("data", dtype="float32").data.dtype == "float32"
    assert frame.with_variable("data", dtype="float32").masks == (SCL,)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"bands": (Band(name="red"), Band(name="red"))}, r"repeat: \['red', 'red'\]"),
        ({"time_ms": (5, 5)}, "strictly increasing"),
        ({"time_ms": (5, 4)}, "strictly increasing"),
        ({"per_time": tuple(PerTime(name=f"n{i}", dtype="int8", values=(0, 0)) for i in range(7))}, "at most six"),
    ],
    ids=["a band twice", "a date twice", "dates backwards", "seven scalars"],
)
def test_a_frame_that_cannot_be_a_cube_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(CubeError, match=says):
        make_frame(**changes)


def test_a_turned_grid_has_no_coordinates() -> None:
    turned = GeoBox((4, 6), Affine.rotation(10) @ Affine(10, 0, 0, 0, -10, 0), "EPSG:32635")
    with pytest.raises(CubeError, match=r"rotated or sheared.*reproject"):
        _ = make_frame(geobox=turned).yx


# ------------------------------------------------------------------------------------------------ variables


def test_numbers_carry_their_scale_and_classes_their_meaning_but_no_fill() -> None:
    assert DATA.cf_attrs() == {"scale_factor": 1e-4, "add_offset": -0.1, "_FillValue": 0}
    attrs = SCL.cf_attrs()
    assert "_FillValue" not in attrs
    assert attrs["flag_values"] == list(range(12))
    assert len(attrs["flag_meanings"].split()) == 12
    assert Variable(name="data", dtype="float32", nodata=math.nan).cf_attrs() == {}


@pytest.mark.parametrize(
    ("variable", "values", "valid", "fill"),
    [
        (DATA, np.array([0, 1], "u2"), [False, True], 0),
        (SCL, np.array([0, 1], "u1"), [True, True], 0),
        (Variable(name="a", dtype="float32", nodata=math.nan), np.array([np.nan, 0], "f4"), [False, True], math.nan),
        (Variable(name="a", dtype="int16", nodata=-1), np.array([-1, 0], "i2"), [False, True], -1),
    ],
    ids=["numbers", "classes", "floats", "signed"],
)
def test_valid_is_what_is_not_nodata(variable: Variable, values: Any, valid: list[bool], fill: float) -> None:
    assert variable.valid(values).tolist() == valid
    assert variable.fill == fill or (math.isnan(fill) and math.isnan(variable.fill))


def test_sentinel2_bands_have_names_of_their_own() -> None:
    names = [b.name for b in SENTINEL2_BANDS.values()]
    assert len(set(names)) == len(names) == 13
    assert all(b.eo_name == key for key, b in SENTINEL2_BANDS.items())
    assert set(SCL_CLEAR) <= {value for value, _ in SCL_CLASSES}


# ------------------------------------------------------------------------------------------------ one name for one CRS


@pytest.mark.parametrize("code", ["EPSG:32635", "EPSG:3035", "EPSG:4326", "EPSG:2263", "ESRI:54009"])
def test_a_crs_has_one_name_however_it_was_made(code: str) -> None:
    rasterio_crs = rasterio.crs.CRS.from_user_input(code)
    for text in (code, CRS(code).to_wkt(), rasterio_crs.to_wkt(), rasterio_crs.to_wkt(version="WKT2_2019")):
        box = GeoBox((2, 2), Affine(10, 0, 0, 0, -10, 0), text)
        assert str(norm_geobox(box).crs) == code
        assert str(make_frame(geobox=box).geobox.crs) == code
        assert norm_geobox(box).affine == box.affine


@pytest.mark.parametrize(
    "text",
    [
        "+proj=utm +zone=32 +ellps=intl +units=m +no_defs",  # looks like ED50, 23032, which lies a hundred metres off
        "+proj=utm +zone=35 +ellps=GRS80 +units=m +no_defs",
        "+proj=sinu +lon_0=0 +x_0=0 +y_0=0 +R=6371007.181 +units=m",
    ],
)
def test_a_crs_that_only_resembles_a_coded_one_keeps_its_definition(text: str) -> None:
    box = GeoBox((2, 2), Affine(10, 0, 0, 0, -10, 0), text)
    assert crs_code(str(box.crs)) is None
    assert norm_geobox(box) is box


def test_a_grid_without_crs_stays_without() -> None:
    box = GeoBox((2, 2), Affine(10, 0, 0, 0, -10, 0), None)
    assert norm_geobox(box) is box
