"""STAC items as cubes: products, sites, areas, days with several items, numbers; and what reading them touches."""

from __future__ import annotations

import math
import pickle
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import odc.geo.xr  # noqa: F401 - registers .odc
import pytest
import rasterio
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox

from eocube.corpora.protocol import Corpus
from eocube.corpora.stac import StacCorpus, StacSource, build_source, product_name, slug
from eocube.corpora.stac_items import read_items
from eocube.corpora.stac_source import StacOptions
from eocube.errors import AssetReadError, CatalogError, CubeError, GridError, RadiometryError, UnknownNameError
from eocube.io.rasters import RasterioReader
from eocube.jobs.open import load_stac, open_corpus
from eocube.model.recipe import Source, public_json, whole
from eocube.model.scene import Asset
from eocube.model.window import Window
from eocube.testing.stac import (
    CLEAR_AND_CLOUDY,
    SHIFT,
    CountingReader,
    SyntheticReader,
    SyntheticScene,
    across_baseline,
    expected_cube,
    item_dict,
    make_grid,
    make_series,
    write_catalog,
    write_files,
    write_items,
)

_corpus: type[Corpus] = StacCorpus
_source: type[Source] = StacSource

MIXED = {"B04": 1, "B08": 1, "B8A": 2, "B11": 2, "SCL": 2}


def source(scenes: list[SyntheticScene], *, options: StacOptions | None = None, **kwargs: Any) -> StacSource:
    """A source without files."""
    return build_source([item_dict(s) for s in scenes], reader=SyntheticReader(scenes), options=options, **kwargs)


def pixels(src: StacSource, name: str = "data") -> np.ndarray:
    return src.read(whole(src.frame()))[name]


# ------------------------------------------------------------------------------------------------ what a cube says


def test_the_frame_says_what_the_files_hold() -> None:
    frame = source(across_baseline(4)).frame()
    assert frame.band_names == ("red", "nir")
    assert [b.eo_name for b in frame.bands] == ["B04", "B08"]
    assert (frame.data.dtype, frame.data.nodata, frame.data.scale, frame.data.offset) == ("uint16", 0, 1e-4, -0.1)
    assert [(m.name, m.dtype, m.nodata) for m in frame.masks] == [("scl", "uint8", None)]
    assert {p.name: p.values for p in frame.per_time} == {
        "item_id": tuple(s.item_id for s in across_baseline(4)),
        "cloud_cover": (0.0, 10.0, 20.0, 30.0),
        "dn_shift": (1000, 1000, 0, 0),
        "baseline": ("03.01", "03.01", "04.00", "04.00"),
        "platform": ("sentinel-2a",) * 4,
    }


def test_pixels_are_in_one_numbering_on_both_sides_of_baseline_0400() -> None:
    scenes = across_baseline(4)
    np.testing.assert_array_equal(pixels(source(scenes)), expected_cube(scenes, ["B04", "B08"]), strict=True)
    np.testing.assert_array_equal(pixels(source(scenes), "scl"), expected_cube(scenes, ["SCL"]), strict=True)


@pytest.mark.parametrize("changes", [{"one_file": True}, {"stac_version": "1.0.0"}, {"declares_grid": False}], ids=str)
def test_every_dialect_gives_the_same_cube(tmp_path: Path, changes: dict[str, Any]) -> None:
    scenes = across_baseline(3, zooms={"B04": 1, "B08": 1, "SCL": 1})
    plain = source(scenes)
    other = build_source(read_items(write_items([replace(s, **changes) for s in scenes], tmp_path)))
    assert other.frame() == plain.frame()
    assert public_json(other.node) == public_json(plain.node)
    for name in ("data", "scl"):
        np.testing.assert_array_equal(pixels(other, name), pixels(plain, name), strict=True)


def test_a_source_reads_the_same_after_pickling_and_in_any_window() -> None:
    src = source(across_baseline(4))
    again: StacSource = pickle.loads(pickle.dumps(src))
    everything = pixels(src)
    window = Window((1, 3), (5, 20), (17, 50))
    np.testing.assert_array_equal(again.read(window)["data"], everything[[1, 3], :, 5:20, 17:50])
    assert (again.token(), again.ids(window), again.cost(window)) == (src.token(), src.ids(window), src.cost(window))


# ------------------------------------------------------------------------------------------------ bands


@pytest.mark.parametrize("bands", [["nir", "red"], ["B08", "B04"], ["B08", "red"]], ids=str)
def test_bands_come_in_the_order_asked_for_by_any_of_their_names(bands: list[str]) -> None:
    scenes = make_series(2)
    src = source(scenes, bands=bands)
    assert src.frame().band_names == ("nir", "red")
    np.testing.assert_array_equal(pixels(src), expected_cube(scenes, ["B08", "B04"]))


def test_an_unknown_band_is_refused_with_those_that_are_there() -> None:
    with pytest.raises(UnknownNameError, match=r"Unknown band 'rde' in 2 items; known: 'nir', 'red'") as caught:
        source(make_series(2), bands=["red", "rde"])
    assert (caught.value.kind, caught.value.name) == ("band", "rde")


def test_a_band_asked_for_twice_is_refused() -> None:
    with pytest.raises(CatalogError, match="'red' is asked for twice, the second time as 'B04'"):
        source(make_series(2), bands=["red", "B04"])


def test_two_bands_of_one_common_name_are_refused_naming_both() -> None:
    """Of sensors whose names are not known; Sentinel-2's three red edges have names of their own."""
    scenes = make_series(1, zooms={"B04": 1, "B08": 1}, properties={"constellation": None, "platform": "planet"}, nodata=None)
    item = item_dict(scenes[0])
    for key in ("B04", "B08"):
        item["assets"][key]["bands"][0]["eo:common_name"] = "rededge"
    for bands in (None, ["rededge"], ["B08"]):
        with pytest.raises(CatalogError, match=r"2 bands with the common name 'rededge': \['B04', 'B08'\]"):
            build_source([item], bands=bands, reader=SyntheticReader(scenes))


def test_a_band_that_some_items_lack_is_missed_when_it_is_read(tmp_path: Path) -> None:
    scenes = make_series(3)
    items = [item_dict(s) for s in scenes]
    del items[1]["assets"]["B08"]
    src = build_source(items, reader=SyntheticReader(scenes))
    with pytest.raises(AssetReadError, match=f"'nir' of item {scenes[1].item_id!r} .*no asset for 'nir'; it has .*'red', 'scl'"):
        src.read(Window((1,), (0, 4), (0, 4)))
    src.read(Window((0, 2), (0, 4), (0, 4)))


# ------------------------------------------------------------------------------------------------ pixel sizes and places


def test_pixel_sizes_are_products_each_with_its_bands(tmp_path: Path) -> None:
    scenes = make_series(2, zooms=MIXED)
    corpus = open_corpus("stac", write_catalog(scenes, tmp_path))
    (site,) = corpus.corpus.sites
    assert site.products == ("10m", "20m")
    assert tuple(map(int, site.geobox.shape)) == (48, 64)
    fine, coarse = (corpus.cube(site.name, p) for p in site.products)
    assert (list(fine["band"].values), list(coarse["band"].values)) == (["red", "nir"], ["nir08", "swir16"])
    np.testing.assert_array_equal(fine["data"], expected_cube(scenes, ["B04", "B08"]))
    np.testing.assert_array_equal(coarse["data"], expected_cube(scenes, ["B8A", "B11"]))
    np.testing.assert_array_equal(coarse["scl"], expected_cube(scenes, ["SCL"]))
    np.testing.assert_array_equal(fine["scl"], expected_cube(scenes, ["SCL"]).repeat(2, 1).repeat(2, 2))
    assert corpus.products == ("10m", "20m")
    with pytest.raises(UnknownNameError, match=r"product '60m' in site .*known: '10m', '20m'"):
        corpus.cube(site.name, "60m")
    with pytest.raises(UnknownNameError, match=r"site 'x' in this catalogue; known: 'EPSG32635_600000_5000040'"):
        corpus.cube("x", "10m")


def test_load_stac_puts_bands_of_all_pixel_sizes_on_the_finest_asked_for(tmp_path: Path) -> None:
    scenes = make_series(1, zooms=MIXED)
    items = write_items(scenes, tmp_path)
    cube = load_stac(items, bands=["red", "swir16"])
    np.testing.assert_array_equal(cube["data"].sel(band="red"), expected_cube(scenes, ["B04"])[:, 0])
    np.testing.assert_array_equal(cube["data"].sel(band="swir16"), expected_cube(scenes, ["B11"])[:, 0].repeat(2, 1).repeat(2, 2))
    assert load_stac(items, bands=["swir16"]).sizes["y"] == 24
    assert load_stac(items)["band"].values.tolist() == ["red", "nir"], "without names: those of the finest pixels"


def test_of_several_files_of_a_band_the_one_on_the_grid_is_taken(tmp_path: Path) -> None:
    """As in the Data Space: one band at two pixel sizes; the coarser copy here holds other numbers."""
    fine, coarse = make_series(1)[0], make_series(5, grid=make_grid((24, 32), resolution=20), zooms={"B04": 1})[4]
    for scene in (fine, coarse):
        write_files(scene, tmp_path / str(scene.number))
    item = item_dict(fine, folder=str(tmp_path / "0"))
    item["assets"]["B04_20m"] = item_dict(coarse, folder=str(tmp_path / "4"))["assets"]["B04"]
    corpus = StacCorpus.open([item])
    (site,) = corpus.sites
    assert site.products == ("10m", "20m")
    for product, scene in (("10m", fine), ("20m", coarse)):
        src, _ = corpus.source(site.name, product)
        np.testing.assert_array_equal(pixels(src)[0, src.frame().band_names.index("red")], scene.cube_pixels("B04"))


def test_several_tiles_are_sites_and_their_names_are_the_tile_grids(tmp_path: Path) -> None:
    east = make_grid((48, 64), corner_xy=(640_000.0, 5_000_040.0))
    scenes = [
        *make_series(2, properties={"grid:code": "MGRS-35TLK"}),
        *[replace(s, item_id=s.item_id + "E") for s in make_series(2, grid=east, properties={"grid:code": "MGRS-35TMK"})],
    ]
    corpus = open_corpus("stac", write_catalog(scenes, tmp_path))
    assert [s.name for s in corpus.corpus.sites] == ["35TLK", "35TMK"]
    frame = corpus.sites
    assert frame["site"].tolist() == ["35TLK", "35TMK"]
    assert frame.crs == "OGC:CRS84"
    for site, members in (("35TLK", scenes[:2]), ("35TMK", scenes[2:])):
        np.testing.assert_array_equal(corpus.cube(site, "10m")["data"], expected_cube(members, ["B04", "B08"]))
    assert "2 sites, products 10m" in repr(corpus)


def test_tiles_without_a_name_are_told_apart_by_crs_and_corner() -> None:
    boxes = [make_grid(), make_grid(corner_xy=(640_000.0, 5_000_040.0)), make_grid(crs="EPSG:32634")]
    scenes = [replace(s, grid=b, item_id=f"i{i}") for i, b in enumerate(boxes) for s in make_series(1)]
    corpus = StacCorpus(items=tuple(item_dict(s) for s in scenes), reader=SyntheticReader(scenes))
    assert [s.name for s in corpus.sites] == ["EPSG32634_600000_5000040", "EPSG32635_600000_5000040", "EPSG32635_640000_5000040"]


def test_files_whose_metadata_has_no_grid_lie_on_the_same_site(tmp_path: Path) -> None:
    """Their CRS comes as WKT out of a header; one CRS has one name."""
    told, silent = make_series(2)
    items = write_items([told, replace(silent, declares_grid=False)], tmp_path)
    (site,) = StacCorpus.open(items).sites
    assert site.name == "EPSG32635_600000_5000040"


def test_items_on_several_grids_are_one_cube_only_on_a_grid_that_is_given() -> None:
    scenes = [*make_series(1), replace(make_series(1)[0], item_id="other", grid=make_grid(corner_xy=(640_000.0, 5_000_040.0)))]
    with pytest.raises(GridError, match=r"2 grids .*EPSG:32635.*Pass geobox="):
        source(scenes)
    assert source(scenes, geobox=make_grid((30, 30))).frame().shape_yx == (30, 30)


def test_one_area_is_one_site_with_every_product_on_its_corner() -> None:
    scenes = make_series(2, zooms=MIXED)
    area = make_grid((20, 30), corner_xy=(600_040.0, 4_999_960.0))
    corpus = StacCorpus(items=tuple(item_dict(s) for s in scenes), geobox=area, area="my farm", reader=SyntheticReader(scenes))
    (site,) = corpus.sites
    assert (site.name, site.products) == ("my-farm", ("10m", "20m"))
    fine, coarse = (corpus.source(site.name, p)[0] for p in site.products)
    assert (fine.frame().geobox, coarse.frame().geobox) == (area, area.zoom_to(resolution=20))
    part = Window((0, 1), (0, 20), (0, 30))
    np.testing.assert_array_equal(
        fine.read(part, names=("data",))["data"], expected_cube(scenes, ["B04", "B08"])[..., 8:28, 4:34]
    )
    got = coarse.read(Window((0, 1), (0, 10), (0, 15)))
    np.testing.assert_array_equal(got["data"], expected_cube(scenes, ["B8A", "B11"])[..., 4:14, 2:17])
    np.testing.assert_array_equal(got["scl"], expected_cube(scenes, ["SCL"])[..., 4:14, 2:17])


# ------------------------------------------------------------------------------------------------ areas in other projections


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[SyntheticScene], list[dict[str, Any]]]:
    scenes = across_baseline(2, grid=make_grid((120, 150)), zooms={"B04": 1, "B08": 1, "SCL": 2}, block=32)
    return scenes, write_items(scenes, tmp_path_factory.mktemp("area"))


OTHER_GRID = GeoBox((60, 70), Affine(15.0, 0, 5_744_400, 0, -15.0, 2_623_800), "EPSG:3035")


@pytest.mark.parametrize("resampling", ["nearest", "bilinear"])
def test_an_area_in_another_projection_is_what_the_reader_warps_then_shifted(on_disk: Any, resampling: str) -> None:
    """tests/io/test_rasters.py compares the reader with rasterio.warp. Classes are nearest whatever is asked for."""
    _, items = on_disk
    cube = load_stac(items, geobox=OTHER_GRID, resampling=resampling)
    for t, item in enumerate(items):
        for name, key in (("red", "B04"), ("nir", "B08")):
            asset = Asset(href=item["assets"][key]["href"], key=key, nodata=0)
            raw = RasterioReader().read([asset], OTHER_GRID, item_id="i", resampling=resampling)[0]
            shifted = np.where(raw == 0, 0, raw.astype(int) + (SHIFT if t == 0 else 0))
            np.testing.assert_array_equal(cube["data"].isel(time=t).sel(band=name), shifted)
    assert set(np.unique(cube["scl"].values)) <= {0, *CLEAR_AND_CLOUDY}
    assert (cube["data"].values > 0).mean() > 0.5


@pytest.mark.parametrize("resampling", ["nearest", "bilinear", "average"])
def test_blocks_of_a_lazy_area_are_pieces_of_the_whole(on_disk: Any, resampling: str) -> None:
    _, items = on_disk
    whole_cube = load_stac(items, geobox=OTHER_GRID, resampling=resampling, chunks={})
    pieces = load_stac(items, geobox=OTHER_GRID, resampling=resampling, chunks={"time": 1, "y": 17, "x": 23})
    xr.testing.assert_equal(whole_cube.compute(), pieces.compute())


def test_bbox_is_in_degrees_and_bounds_are_in_the_crs(on_disk: Any) -> None:
    scenes, items = on_disk
    by_bounds = load_stac(items, bounds=(600_100.0, 4_999_500.0, 600_700.0, 4_999_900.0))
    np.testing.assert_array_equal(by_bounds["data"], expected_cube(scenes, ["B04", "B08"])[..., 14:54, 10:70])
    west, south, east, north = by_bounds.odc.geobox.geographic_extent.boundingbox.bbox
    by_bbox = load_stac(items, bbox=(west, south, east, north))
    assert by_bbox.odc.geobox.crs == by_bounds.odc.geobox.crs
    box, inner = by_bbox.odc.geobox.boundingbox, by_bounds.odc.geobox.boundingbox
    assert box.left <= inner.left
    assert box.right >= inner.right
    assert box.bottom <= inner.bottom
    assert box.top >= inner.top
    assert (box.left % 10, box.top % 10) == (0, 0), "on the lattice of the files: nothing is resampled"
    coarse = load_stac(items, bbox=(west, south, east, north), crs="EPSG:3035", resolution=30)
    assert (coarse.odc.geobox.crs, coarse.odc.geobox.resolution.x) == ("EPSG:3035", 30)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"bbox": (0, 0, 1, 1), "bounds": (0, 0, 1, 1)}, "Both bbox .* and bounds"),
        (
            {"geobox": make_grid(), "bbox": (0, 0, 1, 1), "resolution": 20},
            "whole grid, and bbox and resolution came",
        ),
        ({"crs": "EPSG:3035"}, "without an area"),
        ({"resolution": 10.0}, "without an area"),
        ({"bounds": (0, 0, 1, 1), "crs": "EPSG:4326"}, "No item lies in EPSG:4326; pass resolution="),
    ],
    ids=str,
)
def test_half_of_an_area_is_refused(on_disk: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(GridError, match=says):
        load_stac(on_disk[1], **options)


def test_options_are_refused_by_name(on_disk: Any) -> None:
    with pytest.raises(UnknownNameError, match="mosaic 'monthly'; known: 'solar_day', 'none'"):
        load_stac(on_disk[1], mosaic="monthly")
    with pytest.raises(UnknownNameError, match="corpus 'modis'; known: 'stac'"):
        open_corpus("modis", "x")


# ------------------------------------------------------------------------------------------------ several items of a day


def pair(**changes: Any) -> list[SyntheticScene]:
    """Two items of one day that share columns 20 to 40, the earlier one in the west."""
    west, east = make_series(1, footprint=((0, 48), (0, 40)))[0], make_series(1, footprint=((0, 48), (20, 64)))[0]
    east = replace(east, item_id="EAST", number=3, when="2021-01-03T09:30:14")
    return [replace(west, **changes), replace(east, **changes)]


def test_items_of_a_day_are_joined_and_the_first_with_data_wins() -> None:
    west, east = pair()
    for order in ([west, east], [east, west]):
        src = source(order)
        for name, bands in (("data", ["B04", "B08"]), ("scl", ["SCL"])):
            (first,), (second,) = expected_cube([west], bands), expected_cube([east], bands)
            np.testing.assert_array_equal(pixels(src, name)[0], np.where(first == 0, second, first))
    frame = source([west, east]).frame()
    assert frame.time_ms == (west.time_ms,)
    assert {p.name: p.values for p in frame.per_time}["item_id"] == (f"{west.item_id} EAST",)
    assert {p.name: p.values for p in frame.per_time}["cloud_cover"] == (15.0,)


def test_the_join_is_the_same_in_any_window() -> None:
    src = source(pair())
    everything = pixels(src)
    for window in (Window((0,), (0, 10), (0, 10)), Window((0,), (5, 9), (15, 45)), Window((0,), (0, 48), (41, 64))):
        np.testing.assert_array_equal(src.read(window)["data"], everything[..., slice(*window.y), slice(*window.x)])


def test_items_with_and_without_the_offset_join_in_one_numbering() -> None:
    west, east = pair()
    east = replace(east, file_offset=SHIFT, declared_offset=-0.1)
    first, second = expected_cube([west], ["B04", "B08"]), expected_cube([east], ["B04", "B08"])
    np.testing.assert_array_equal(pixels(source([west, east])), np.where(first == 0, second, first))


def test_a_day_is_local_to_the_grid() -> None:
    """At 175° east, 23:30 and 00:30 UTC are the same local noon; 11:30 and 12:30 are two days."""
    far = make_grid(crs="EPSG:32660")
    scenes = [replace(s, grid=far, item_id=f"i{i}", number=i) for i, s in enumerate(make_series(4))]
    times = ["2021-01-03T23:30:00", "2021-01-04T00:30:00", "2021-01-05T11:30:00", "2021-01-05T12:30:00"]
    frame = source([replace(s, when=t) for s, t in zip(scenes, times, strict=True)]).frame()
    assert [len(p.split()) for p in frame.per_time[0].values] == [2, 1, 1]


def test_without_mosaicking_every_item_is_a_date_and_equal_times_are_refused() -> None:
    west, east = pair()
    src = source([west, east], options=StacOptions(mosaic="none"))
    assert src.frame().time_ms == (west.time_ms, east.time_ms)
    np.testing.assert_array_equal(pixels(src), expected_cube([west, east], ["B04", "B08"]))
    with pytest.raises(CubeError, match="strictly increasing"):
        source([west, replace(east, when=west.when)], options=StacOptions(mosaic="none"))


@pytest.mark.parametrize("nodata", [-9999.0, math.nan], ids=str)
def test_float_files_keep_their_pixels_and_are_joined(tmp_path: Path, nodata: float) -> None:
    box, paths = make_grid((6, 8)), []
    values = [np.full((6, 8), nodata, "f4"), np.full((6, 8), nodata, "f4")]
    values[0][:, :5], values[1][:, 3:] = 0.25, 0.75
    for i, v in enumerate(values):
        paths.append(tmp_path / f"{i}.tif")
        with rasterio.open(
            paths[-1], "w", driver="GTiff", count=1, height=6, width=8, dtype="float32", crs="EPSG:32635",
            transform=box.affine, nodata=nodata,
        ) as file:  # fmt: skip
            file.write(v, 1)
    text = "nan" if math.isnan(nodata) else nodata
    items = [
        {
            "type": "Feature", "stac_version": "1.1.0", "id": f"f{i}", "properties": {"datetime": f"2021-01-03T09:30:{i:02d}Z"},
            "assets": {"ndvi": {"href": str(p), "type": "image/tiff", "bands": [{"name": "ndvi", "nodata": text}]}},
        }
        for i, p in enumerate(paths)
    ]  # fmt: skip
    cube = load_stac(items)
    assert (cube["data"].dtype, cube["data"].shape) == ("float32", (1, 1, 6, 8))
    np.testing.assert_array_equal(cube["data"].values[0, 0], np.where(np.arange(8) < 5, 0.25, 0.75) + np.zeros((6, 1)))
    assert '"kind":"stac"' in cube.attrs["eocube_recipe"]


# ------------------------------------------------------------------------------------------------ numbers


def test_other_sensors_stay_as_they_are_with_the_scale_they_declare() -> None:
    scenes = make_series(
        2, properties={"constellation": None, "platform": "landsat-9"}, declared_scale=2.75e-5, declared_offset=-0.2
    )
    data = source(scenes).frame().data
    assert (data.scale, data.offset, data.nodata) == (2.75e-5, -0.2, 0)
    np.testing.assert_array_equal(pixels(source(scenes)), np.stack([[s.dn(b) for b in ("B04", "B08")] for s in scenes]))


def test_numbers_without_a_declared_scale_stay_raw() -> None:
    scenes = make_series(
        1, properties={"constellation": None, "platform": "mine"}, declared_scale=None, declared_offset=None, nodata=None
    )
    data = source(scenes).frame().data
    assert (data.scale, data.offset, data.nodata) == (None, None, None)


def test_sentinel2_and_others_are_not_mixed() -> None:
    scenes = make_series(2)
    scenes[1] = replace(scenes[1], properties={"constellation": None, "platform": "landsat-9"}, collection="landsat-c2-l2")
    with pytest.raises(RadiometryError, match="mix Sentinel-2 with other sensors"):
        source(scenes)


@pytest.mark.parametrize(
    ("changes", "says"),
    [({"nodata": 7}, r"have nodata \['0.0', '7.0'\]"), ({"declared_scale": 1e-3}, "declares scale 0.001")],
    ids=str,
)
def test_items_that_disagree_are_refused(changes: dict[str, Any], says: str) -> None:
    scenes = make_series(2)
    with pytest.raises(RadiometryError, match=says):
        source([scenes[0], replace(scenes[1], **changes)])


# ------------------------------------------------------------------------------------------------ economy


def test_planning_opens_no_file_whose_metadata_is_complete() -> None:
    scenes = make_series(5)
    reader = CountingReader(SyntheticReader(scenes))
    src = build_source([item_dict(s) for s in scenes], reader=reader)
    assert (reader.reads, reader.described) == ([], [])
    src.cost(whole(src.frame()))
    assert len(reader.described) <= 1, "the block of one file"


def test_types_that_the_metadata_leaves_out_are_asked_once_an_asset() -> None:
    """As for Planetary Computer: grids are declared, data types are not."""
    scenes = make_series(5)
    items = [item_dict(s) for s in scenes]
    for item in items:
        for asset in item["assets"].values():
            for band in asset["bands"]:
                band.pop("data_type")
    reader = CountingReader(SyntheticReader(scenes))
    np.testing.assert_array_equal(pixels(build_source(items, reader=reader)), expected_cube(scenes, ["B04", "B08"]))
    assert len(reader.described) == 3


def test_a_window_opens_each_of_its_files_once_and_no_other() -> None:
    scenes = make_series(4, one_file=True)
    reader = CountingReader(SyntheticReader(scenes))
    src = build_source([item_dict(s) for s in scenes], reader=reader)
    src.read(Window((1, 2), (0, 10), (0, 10)))
    assert Counter(Path(p).name for p in reader.reads) == {
        scenes[t].file_name(key): 1 for t in (1, 2) for key in ("data_1", "SCL")
    }


def test_files_that_do_not_reach_a_window_are_not_opened_and_do_not_name_it() -> None:
    tiles = [make_grid(corner_xy=(x, 5_000_040.0)) for x in (600_000.0, 600_640.0, 601_280.0)]
    scenes = [replace(make_series(1)[0], item_id=f"t{i}", number=i, grid=g) for i, g in enumerate(tiles)]
    reader = CountingReader(SyntheticReader(scenes))
    area = make_grid((48, 192))
    src = build_source([item_dict(s) for s in scenes], geobox=area, reader=reader)
    for x, names in (((0, 64), {"t0"}), ((64, 128), {"t1"}), ((60, 70), {"t0", "t1"}), ((0, 192), {"t0", "t1", "t2"})):
        reader.reads.clear()
        window = Window((0,), (0, 48), x)
        got = src.read(window)["data"]
        assert {s.item_id for s in scenes if any(s.item_id in href for href in reader.reads)} == names
        assert {row[0] for row in src.ids(window)} == names
        np.testing.assert_array_equal(
            got[0], np.concatenate([expected_cube([s], ["B04", "B08"])[0] for s in scenes], -1)[..., slice(*x)]
        )
    assert src.ids(Window((0,), (0, 48), (128, 192))) == [["t2", scenes[2].time_ms, SHIFT]]


@pytest.mark.parametrize(
    "area",
    [
        pytest.param(make_grid((48, 64)), id="the files' own grid"),
        pytest.param(make_grid((20, 30), corner_xy=(600_050.0, 4_999_990.0)), id="a part, off the blocks"),
        pytest.param(make_grid((3, 3), corner_xy=(600_150.0, 4_999_890.0)), id="a few pixels on a corner of blocks"),
        pytest.param(make_grid((90, 90), corner_xy=(599_900.0, 5_000_140.0)), id="more than the files"),
        pytest.param(make_grid((24, 32), resolution=20), id="coarser"),
        pytest.param(make_grid((8, 8), resolution=20, corner_xy=(600_160.0, 4_999_880.0)), id="coarser, one block and its rim"),
        pytest.param(make_grid((70, 90), resolution=7, corner_xy=(600_003.0, 5_000_033.0)), id="finer, shifted"),
        pytest.param(GeoBox((30, 40), Affine(15.0, 0, 5_744_050, 0, -15.0, 2_623_900), "EPSG:3035"), id="another projection"),
    ],
)
def test_a_window_costs_at_least_the_blocks_that_gdal_reads(tmp_path: Path, area: GeoBox) -> None:
    """What is read is found out block by block: each is changed in turn, and the cube tells whether it matters."""
    scene = make_series(1, zooms={"B04": 1})[0]
    (item,) = write_items([scene], tmp_path)
    src = build_source([item], geobox=area, options=StacOptions(resampling="bilinear"))
    href = item["assets"]["B04"]["href"]
    before = pixels(src)
    touched = 0
    for y in range(0, 48, scene.block):
        for x in range(0, 64, scene.block):
            with rasterio.open(href, "r+") as file:
                kept = file.read(1)
                file.write(np.where(_block_mask(y, x, scene.block), 60_001, kept).astype("u2"), 1)
            touched += not np.array_equal(
                pixels(build_source([item], geobox=area, options=StacOptions(resampling="bilinear"))), before
            )
            with rasterio.open(href, "r+") as file:
                file.write(kept, 1)
    cost = src.cost(whole(src.frame()))
    assert touched > 0
    assert cost.bytes_fetched >= touched * scene.block**2 * 2
    assert cost.bytes_fetched <= (touched + 8) * scene.block**2 * 2, "and not many times more"
    assert cost.requests >= touched + 1
    assert cost.bytes_used == int(np.prod(area.shape)) * 2


def _block_mask(y: int, x: int, size: int) -> np.ndarray:
    mask = np.zeros((48, 64), bool)
    mask[y : y + size, x : x + size] = True
    return mask


def test_the_block_is_that_of_the_first_file_that_opens() -> None:
    scenes = make_series(3, block=32)
    scenes[0] = replace(scenes[0], missing=("B04", "B08"))
    assert source(scenes).block_yx == (32, 32)
    assert source([replace(s, missing=("B04", "B08", "SCL")) for s in scenes]).block_yx == (512, 512)


def test_equal_items_elsewhere_give_another_token_and_the_same_recipe() -> None:
    scenes = make_series(2)
    here, there = (
        build_source([item_dict(s, folder=f) for s in scenes], reader=SyntheticReader(scenes)) for f in ("/here", "/there")
    )
    assert here.token() != there.token()
    assert public_json(here.node) == public_json(there.node)
    assert here.ids(whole(here.frame())) == there.ids(whole(there.frame()))


# ------------------------------------------------------------------------------------------------ names


@pytest.mark.parametrize(
    ("box", "name"),
    [
        (make_grid(), "10m"),
        (make_grid(resolution=0.5), "0.5m"),
        (make_grid(resolution=1e-4, corner_xy=(24.5, 46.5), crs="EPSG:4326"), "0.0001deg"),
        (make_grid(resolution=10 / 3), "3.33333m"),
    ],
    ids=str,
)
def test_a_product_is_named_by_its_pixel_size(box: GeoBox, name: str) -> None:
    assert product_name(box) == name


def test_names_become_slugs() -> None:
    assert [slug(t) for t in ("MGRS 35T/LK", "a.b-c_d", "..", "é", "-x-")] == ["MGRS-35T-LK", "a.b-c_d", "x", "x", "x"]


def test_what_the_sources_licences_ask_for_comes_along(tmp_path: Path) -> None:
    corpus = open_corpus("stac", write_catalog(make_series(2, first="2020-12-29T10:00:00"), tmp_path))
    assert corpus.corpus.license == "CC0-1.0"
    assert corpus.corpus.attributions == ("Contains modified Copernicus Sentinel data 2020-2021",)
    (site,) = corpus.corpus.sites
    cube = corpus.cube(site.name, "10m")
    assert cube.attrs["license"] == "CC0-1.0"
    assert cube.attrs["attribution"] == "Contains modified Copernicus Sentinel data 2020-2021"
