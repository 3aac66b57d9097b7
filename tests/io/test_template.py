"""A cube's metadata: equal bytes for equal cubes, read rightly by plain xarray and rioxarray, in few requests and objects."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import odc.geo.xr  # noqa: F401 - registers .odc
import pytest
import rioxarray  # noqa: F401 - registers .rio
import xarray as xr
import zarr
from affine import Affine
from dask.base import compute
from odc.geo.geobox import GeoBox

from eocube.io.cubes import spec_from_attrs
from eocube.io.template import EOCUBE_ATTR, ROOT, Template, cube_template, frame_from_attrs, frame_json
from eocube.jobs.open import load_stac, open_cube
from eocube.jobs.write import write_cube
from eocube.lazy.cube import lazy_cube
from eocube.model.bands import SCL_CLASSES, Band
from eocube.model.frame import Frame, PerTime, Variable
from eocube.model.spec import FORMAT, SUMMARY, choose_spec
from eocube.testing.sources import ArraySource
from eocube.testing.stac import SyntheticScene, across_baseline, expected_cube, make_grid, write_items
from eocube.testing.stores import CountingServer, counting_server, tree

DAY_MS = 86_400_000


def make_frame(**changes: Any) -> Frame:
    """Three dates, two bands, scl, scalars of every kind."""
    frame = Frame(
        geobox=make_grid((20, 30)),
        time_ms=(0, 5 * DAY_MS + 123, 20_000 * DAY_MS),
        bands=(Band(name="red", eo_name="B04", wavelength_um=0.6646), Band(name="nir", eo_name="B08", wavelength_um=0.8328)),
        variables=(
            Variable(name="data", dtype="uint16", banded=True, nodata=0, scale=1e-4, offset=-0.1, attrs=(("units", "1"),)),
            Variable(name="scl", dtype="uint8", flags=SCL_CLASSES),
        ),
        per_time=(
            PerTime(name="item_id", dtype="str", values=("a", "ä b", "")),
            PerTime(name="cloud_cover", dtype="float32", values=(0.5, -1.0, 100.0), attrs=(("units", "percent"),)),
            PerTime(name="dn_shift", dtype="int16", values=(0, 1000, 0)),
        ),
    )
    return frame.with_(**changes)


def template(frame: Frame, **changes: Any) -> Template:
    named = {"cube": "c", "product": "p", "recipe": '{"inputs":{}}', "sid": "s", "licence": {"license": "CC0-1.0"}}
    return cube_template(choose_spec(frame), **{**named, **changes})


def write_template(frame: Frame, folder: Path) -> str:
    for key, body in template(frame).items():
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / key).write_bytes(body)
    return str(folder)


def open_plain(url: str, **options: Any) -> xr.Dataset:
    return xr.open_zarr(url, zarr_format=3, consolidated=True, **options)


FRAMES = {
    "Sentinel-2": make_frame(),
    "one pixel": make_frame(geobox=make_grid((1, 1))),
    "one row": make_frame(geobox=make_grid((1, 7))),
    "degrees": make_frame(geobox=make_grid((5, 7), resolution=1e-4, corner_xy=(24.5, 46.5), crs="EPSG:4326")),
    "no authority": make_frame(
        geobox=make_grid((5, 7), crs="+proj=laea +lat_0=47 +lon_0=25 +x_0=0 +y_0=0 +ellps=GRS80 +units=m +no_defs")
    ),
    "feet": make_frame(geobox=make_grid((5, 7), crs="EPSG:2263")),
    "oblong pixels": make_frame(geobox=GeoBox((5, 7), Affine(10, 0, 300_000, 0, -20, 5_000_000), "EPSG:32635")),
    "at the origin": make_frame(geobox=make_grid((1, 1), resolution=2, corner_xy=(-1.0, 1.0))),
    "composite": make_frame(
        time_ms=(0, 31 * DAY_MS),
        time_bnds_ms=((0, 31 * DAY_MS), (31 * DAY_MS, 59 * DAY_MS)),
        per_time=(),
        variables=(
            Variable(name="data", dtype="float32", banded=True, nodata=math.nan),
            Variable(name="n_clear", dtype="uint16"),
        ),
    ),
    "one date": make_frame(time_ms=(0,), per_time=(PerTime(name="item_id", dtype="str", values=("x",)),)),
    "many dates": make_frame(
        time_ms=tuple(range(0, 300 * DAY_MS, DAY_MS)),
        per_time=(PerTime(name="n", dtype="int32", values=tuple(range(300))),),
    ),
}


@pytest.fixture(params=FRAMES, ids=list(FRAMES))
def frame(request: pytest.FixtureRequest) -> Frame:
    return FRAMES[request.param]


# ------------------------------------------------------------------------------------------------ bytes


def test_equal_cubes_have_equal_bytes(frame: Frame) -> None:
    assert template(frame) == template(replace(frame))


def test_another_process_makes_the_same_bytes() -> None:
    """Hash seeds and the order of sets differ between processes; the template does not."""
    code = (
        "from tests.io.test_template import FRAMES, template; from eocube.model.hashing import digest;"
        "print(digest({n: {k: v.hex() for k, v in template(f).items()} for n, f in FRAMES.items()}))"
    )
    found = {subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout}
    from eocube.model.hashing import digest

    assert found == {digest({n: {k: v.hex() for k, v in template(f).items()} for n, f in FRAMES.items()}) + "\n"}


def test_metadata_in_the_root_is_that_of_each_array(frame: Frame) -> None:
    objects = template(frame)
    inline = json.loads(objects[ROOT])["consolidated_metadata"]["metadata"]
    assert inline == {k.removesuffix("/zarr.json"): json.loads(v) for k, v in objects.items() if k.endswith("/zarr.json")}


def test_metadata_is_strict_json_without_clock_host_or_version(frame: Frame) -> None:
    for key, body in template(frame).items():
        if key.endswith(ROOT):
            text = body.decode()
            json.loads(text, parse_constant=pytest.fail)
            assert not any(word in text.lower() for word in ("hostname", "created", "zarr-python", "xarray", "eocube_version"))


def test_a_frame_comes_back_out_of_the_root(frame: Frame) -> None:
    attrs = json.loads(template(frame)[ROOT])["attributes"]
    back = frame_from_attrs(attrs)
    assert frame_json(back) == frame_json(frame)
    assert repr(back.variables) == repr(frame.variables)
    assert back.geobox == frame.geobox
    assert back.with_(variables=()) == frame.with_(variables=())
    assert spec_from_attrs(attrs).shard_tyx == choose_spec(frame).shard_tyx


def test_no_more_objects_than_the_design_allows(frame: Frame) -> None:
    """At most 16 variables, two objects each, and two more for a small cube; its shards and summary are one object a variable."""
    objects = template(frame)
    variables = {k.partition("/")[0] for k in objects} - {ROOT}
    with_pixels = len(frame.variables) + 1
    assert len(variables) <= 16
    assert len(objects) + with_pixels <= 2 * len(variables) + 2


# ------------------------------------------------------------------------------------------------ plain xarray


def test_plain_xarray_reads_labels_as_they_are(frame: Frame, tmp_path: Path) -> None:
    cube = open_plain(write_template(frame, tmp_path))
    y, x = frame.yx
    np.testing.assert_array_equal(cube["y"], y)
    np.testing.assert_array_equal(cube["x"], x)
    np.testing.assert_array_equal(cube["time"], frame.time)
    assert list(cube["band"].values) == list(frame.band_names)
    for p in frame.per_time:
        np.testing.assert_array_equal(cube[p.name].values, np.array(p.values, None if p.dtype == "str" else p.dtype))
        assert p.dtype == "str" or cube[p.name].dtype == p.dtype
    assert cube["data"].dims == ("time", "band", "y", "x")
    if frame.time_bnds_ms is not None:
        assert cube["time_bnds"].values.astype("M8[ms]").astype("i8").tolist() == [list(b) for b in frame.time_bnds_ms]


def test_plain_xarray_keeps_class_maps_whole_numbers(frame: Frame, tmp_path: Path) -> None:
    cube = open_plain(write_template(frame, tmp_path))
    for v in frame.masks:
        assert cube[v.name].dtype == v.dtype
    assert cube[SUMMARY].dtype == "uint8"
    for v in frame.variables:
        names = set(cube[v.name].encoding["coordinates"].split()) | set(cube[v.name].coords)
        assert names >= {"spatial_ref", *(p.name for p in frame.per_time)}


def test_rioxarray_finds_crs_and_transform_of_every_variable(frame: Frame, tmp_path: Path) -> None:
    cube = open_plain(write_template(frame, tmp_path))
    assert frame.geobox.crs is not None
    for name in ("data", *(m.name for m in frame.masks)):
        # A set of variables asked for alone keeps its coordinates: without `coordinates` in the attributes the CRS is lost.
        alone = cube[name]
        assert alone.rio.crs is not None
        assert frame.geobox.crs.proj.equals(alone.rio.crs.to_wkt()) or frame.geobox.crs == str(alone.rio.crs)
        np.testing.assert_allclose(list(alone.rio.transform())[:6], list(frame.geobox.affine)[:6], rtol=0, atol=1e-12)
    assert cube.odc.geobox is not None


def test_the_summary_says_where_its_cells_lie() -> None:
    """Sides of 300 and 500 px in cells of 16: the last ones stick out, and the transform says so."""
    frame = make_frame(geobox=make_grid((300, 500)))
    attrs = json.loads(template(frame)[f"{SUMMARY}/zarr.json"])["attributes"]
    assert attrs["cell_px"] == 16
    assert attrs["spatial:transform"] == [160, 0, 600_000, 0, -160, 5_000_040]
    assert attrs["spatial:shape"] == [19, 32]
    assert attrs["spatial:dimensions"] == ["y_cell", "x_cell"]
    assert json.loads(attrs["rule"]) == {"variable": "scl", "clear_values": [4, 5, 6, 7, 11]}


def test_the_group_follows_geozarr() -> None:
    attrs = json.loads(template(make_frame())[ROOT])["attributes"]
    assert attrs["proj:code"] == "EPSG:32635"
    assert attrs["spatial:transform"] == [10, 0, 600_000, 0, -10, 5_000_040]
    assert attrs["spatial:shape"] == [20, 30]
    assert attrs["spatial:bbox"] == [600_000, 4_999_840, 600_300, 5_000_040]
    assert {c["name"] for c in attrs["zarr_conventions"]} == {"proj:", "spatial:"}
    assert attrs["license"] == "CC0-1.0"


def test_a_crs_without_a_code_is_written_out() -> None:
    attrs = json.loads(template(FRAMES["no authority"])[ROOT])["attributes"]
    assert "proj:code" not in attrs
    assert "Lambert Azimuthal" in attrs["proj:wkt2"]


# ------------------------------------------------------------------------------------------------ decoded pixels


@pytest.fixture(scope="module")
def scenes() -> list[SyntheticScene]:
    return across_baseline(6, footprint=((4, 48), (0, 60)))


@pytest.fixture(scope="module")
def store(scenes: list[SyntheticScene], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cube that crosses baseline 04.00."""
    top = tmp_path_factory.mktemp("baseline")
    write_cube(load_stac(write_items(scenes, top / "items")), str(top / "store"), executor="serial")
    return top / "store"


@pytest.fixture(scope="module")
def reflectance(scenes: list[SyntheticScene]) -> np.ndarray:
    """What the surface reflects, from the numbers before any offset; NaN without data."""
    dn = np.stack([[s.dn(b) for b in ("B04", "B08")] for s in scenes]).astype(float)
    return np.where(dn == 0, np.nan, dn / 10_000)


def test_plain_xarray_decodes_both_sides_of_baseline_0400(store: Path, reflectance: np.ndarray) -> None:
    cube = open_plain(str(store / "cubes/cube/data"))
    np.testing.assert_allclose(cube["data"].values, reflectance, atol=1e-6)
    assert cube["dn_shift"].values.tolist() == [1000] * 3 + [0] * 3
    assert cube["baseline"].values.tolist() == ["03.01"] * 3 + ["04.00"] * 3


def test_open_cube_gives_numbers_as_they_are_stored(store: Path, scenes: list[SyntheticScene]) -> None:
    cube = open_cube(str(store / "cubes/cube/data"))
    assert (cube["data"].dtype, cube["scl"].dtype) == ("uint16", "uint8")
    np.testing.assert_array_equal(cube["data"].values, expected_cube(scenes, ["B04", "B08"]), strict=True)
    np.testing.assert_array_equal(cube["scl"].values, expected_cube(scenes, ["SCL"]), strict=True)


def test_open_cube_gives_reflectance_as_float32(store: Path, reflectance: np.ndarray) -> None:
    cube = open_cube(str(store / "cubes/cube/data"), decode="reflectance")
    assert (cube["data"].dtype, cube["scl"].dtype) == ("float32", "uint8")
    assert "scale_factor" not in cube["data"].attrs
    np.testing.assert_allclose(cube["data"].values, reflectance, atol=1e-6)


@pytest.mark.parametrize("decode", ["dn", "reflectance"])
@pytest.mark.parametrize("chunks", ["shard", {"time": 1, "y": 13}, None], ids=str)
def test_chunks_change_no_pixel(store: Path, decode: Any, chunks: Any) -> None:
    url = str(store / "cubes/cube/data")
    cube, whole = open_cube(url, decode=decode, chunks=chunks), open_cube(url, decode=decode).load()
    assert (cube["data"].chunks is None) == (chunks is None)
    xr.testing.assert_equal(cube.load(), whole)


def test_a_chunk_of_shards_is_a_shard(store: Path) -> None:
    spec = spec_from_attrs(json.loads((store / "cubes/cube/data/zarr.json").read_text())["attributes"])
    cube = open_cube(str(store / "cubes/cube/data"))
    assert [c[0] for c in cube["data"].chunks or ()] == [min(6, spec.shard_tyx[0]), 2, *spec.shard_tyx[1:]]


def test_users_own_to_zarr_of_an_opened_cube_is_right_or_raises(store: Path, tmp_path: Path) -> None:
    cube = open_cube(str(store / "cubes/cube/data"))
    cube.drop_attrs().to_zarr(tmp_path / "own.zarr", zarr_format=3, consolidated=False)
    again = xr.open_zarr(tmp_path / "own.zarr", zarr_format=3, consolidated=False, mask_and_scale=False)
    np.testing.assert_array_equal(again["data"].values, cube["data"].values)


# ------------------------------------------------------------------------------------------------ requests


@pytest.fixture
def server(store: Path) -> Iterator[CountingServer]:
    with counting_server(store) as running:
        yield running


def test_open_cube_takes_at_most_three_requests_and_no_listing(server: CountingServer) -> None:
    cube = open_cube(f"{server.url}/cubes/cube/data")
    assert cube.sizes["time"] == 6
    assert len(server.requests) <= 3
    assert server.listings == []


def test_plain_open_zarr_takes_at_most_seven_requests_and_one_a_scalar(server: CountingServer) -> None:
    cube = open_plain(f"{server.url}/cubes/cube/data")
    assert len(server.requests) <= 7
    scalars = [n for n, c in cube.coords.items() if c.dims == ("time",) and n != "time"]
    assert len(scalars) == 5
    compute(*(cube[n].variable.data for n in scalars))
    assert len(server.requests) <= 7 + len(scalars)
    assert server.listings == []


def test_one_pixel_costs_an_index_and_a_chunk(server: CountingServer) -> None:
    cube = open_cube(f"{server.url}/cubes/cube/data", chunks={"time": 1, "y": 8, "x": 8})
    server.clear()
    cube["data"].isel(time=0, y=5, x=5).compute()
    assert set(server.paths) == {"/cubes/cube/data/zarr.json", "/cubes/cube/data/data/c/0/0/0/0"}
    assert len(server.requests) <= 3
    assert server.listings == []


def test_zarr_python_opens_the_store_as_one_hierarchy(store: Path) -> None:
    group: Any = zarr.open_group(store, mode="r", zarr_format=3)
    assert sorted(group["cubes/cube/data"].array_keys())[:2] == ["band", "baseline"]
    assert group["cubes"].attrs.asdict() == {}
    assert group.attrs[EOCUBE_ATTR]["format"] == FORMAT


def test_a_cube_of_pixels_without_data_has_no_shard(tmp_path: Path) -> None:
    frame = make_frame()
    arrays = {v.name: np.zeros(frame.shape(v.name), v.dtype) for v in frame.variables}
    source = ArraySource(frame, arrays, name="empty")
    write_cube(lazy_cube(source, source.node, chunks={"time": 1}), str(tmp_path), executor="serial")
    assert not [k for k in tree(tmp_path / "cubes/cube/data") if k.startswith(("data/c/", "scl/c/", f"{SUMMARY}/c/"))]
    cube = open_plain(str(tmp_path / "cubes/cube/data"))
    assert np.isnan(cube["data"].values).all()
    assert (cube["scl"].values == 0).all()


def test_axes_have_the_units_of_the_crs(tmp_path: Path) -> None:
    units = {n: open_plain(write_template(FRAMES[n], tmp_path / n))["x"].attrs["units"] for n in ("one row", "degrees", "feet")}
    assert units == {"one row": "metre", "degrees": "degrees_east", "feet": "US_survey_foot"}


@pytest.mark.parametrize("name", ["Sentinel-2", "degrees"])
def test_a_lazy_cube_has_the_axis_attributes_of_a_stored_one(name: str, tmp_path: Path) -> None:
    frame = FRAMES[name]
    source = ArraySource(frame, {v.name: np.zeros(frame.shape(v.name), v.dtype) for v in frame.variables}, name="attributes")
    lazy, plain = lazy_cube(source, source.node, chunks={}), open_plain(write_template(frame, tmp_path))
    for axis in ("y", "x", "band"):
        assert lazy[axis].attrs == plain[axis].attrs
