"""STAC JSON in all its dialects becomes the same plain descriptions; what cannot be used is refused by name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pystac
import pytest

from eocube.corpora.stac_items import bands_of_item, declared_grid, is_sentinel2, read_items, tile_name, time_ms
from eocube.errors import CatalogError
from eocube.testing.stac import SyntheticScene, item_dict, make_grid, make_series, write_catalog, write_items
from eocube.testing.stores import counting_server

SERIES = make_series(3)


def described(item: dict[str, Any]) -> list[tuple[Any, ...]]:
    return [(b.key, b.bidx, b.band.name, b.is_scl, b.geobox, b.dtype, b.nodata, b.scale, b.offset) for b in bands_of_item(item)]


# ------------------------------------------------------------------------------------------------ dialects


@pytest.mark.parametrize("one_file", [False, True], ids=["a file a band", "one file"])
def test_stac_10_and_11_describe_the_same_bands(*, one_file: bool) -> None:
    zooms = {"B04": 1, "B8A": 2, "B05": 2, "SCL": 2}
    old, new = (SyntheticScene(**_scene(v, one_file), zooms=zooms) for v in ("1.0.0", "1.1.0"))
    assert "eo:bands" in json.dumps(item_dict(old))
    assert "eo:bands" not in json.dumps(item_dict(new))
    assert described(item_dict(old)) == described(item_dict(new))
    assert [d[2] for d in described(item_dict(new))] == ["red", "nir08", "rededge071", "scl"]
    assert [d[5:] for d in described(item_dict(new))][::3] == [("uint16", 0.0, 1e-4, 0.0), ("uint8", 0.0, None, None)]


def _scene(version: str, one_file: bool) -> dict[str, Any]:  # noqa: FBT001 - a helper of one test
    return {"item_id": "i", "when": "2021-06-01T10:00:00", "number": 1, "stac_version": version, "one_file": one_file}


def earth_search() -> dict[str, Any]:
    """An Earth Search v1 ``sentinel-2-l2a`` item, cut to what matters (S2B_33UUP_20220103_0_L2A, fields as served in 2024)."""
    grids = {
        n: {"proj:shape": [s, s], "proj:transform": [r, 0, 300000, 0, -r, 5900040]}
        for n, r, s in ((10, 10, 10980), (20, 20, 5490))
    }
    cog = "image/tiff; application=geotiff; profile=cloud-optimized"
    raster = {"nodata": 0, "data_type": "uint16", "bits_per_sample": 15, "spatial_resolution": 10, "scale": 1e-4, "offset": -0.1}

    def asset(name: str, common: str, gsd: int) -> dict[str, Any]:
        eo = {"name": name, "common_name": common, "center_wavelength": 0.665, "full_width_half_max": 0.038}
        return {
            "href": f"https://example.com/{name}.tif", "type": cog, "roles": ["data", "reflectance"], "gsd": gsd,
            "eo:bands": [eo], "raster:bands": [{**raster, "spatial_resolution": gsd}], **grids[gsd],
        }  # fmt: skip

    fine = {n: asset(n, n, 10) for n in ("blue", "green", "red", "nir")}
    edges = {f"rededge{i}": asset(f"rededge{i}", "rededge", 20) for i in (1, 2, 3)}
    coarse = {n: asset(n, n, 20) for n in ("nir08", "swir16", "swir22")}
    extra = {
        n: {"href": f"https://example.com/{n}.tif", "type": cog, "roles": ["data", "reflectance"], **grids[20],
            "raster:bands": [{**raster, "scale": 0.001, "offset": 0}]}
        for n in ("aot", "wvp")
    }  # fmt: skip
    scl = {"href": "https://example.com/SCL.tif", "type": cog, "roles": ["data", "reflectance"], **grids[20],
           "raster:bands": [{"nodata": 0, "data_type": "uint8", "spatial_resolution": 20}]}  # fmt: skip
    visual = {"href": "https://example.com/TCI.tif", "type": cog, "roles": ["visual"], **grids[10],
              "eo:bands": [{"name": c, "common_name": c} for c in ("red", "green", "blue")]}  # fmt: skip
    twins = {
        f"{n}-jp2": {**a, "href": f"s3://sentinel-s2-l2a/{n}.jp2", "type": "image/jp2"} for n, a in {**fine, **edges}.items()
    }
    return {
        "type": "Feature", "stac_version": "1.0.0", "id": "S2B_33UUP_20220103_0_L2A", "collection": "sentinel-2-l2a",
        "properties": {
            "datetime": "2022-01-03T10:08:54.000000Z", "platform": "sentinel-2b", "constellation": "sentinel-2",
            "eo:cloud_cover": 91.5, "proj:epsg": 32633, "mgrs:utm_zone": 33, "mgrs:latitude_band": "U", "mgrs:grid_square": "UP",
            "grid:code": "MGRS-33UUP", "s2:processing_baseline": "03.01", "earthsearch:boa_offset_applied": False,
        },
        "assets": {
            "visual": visual, **extra, **fine, **edges, **coarse, "scl": scl, **twins,
            "thumbnail": {"href": "https://example.com/preview.jpg", "type": "image/jpeg", "roles": ["thumbnail"]},
            "granule_metadata": {"href": "https://example.com/metadata.xml", "type": "application/xml", "roles": ["metadata"]},
        },
    }  # fmt: skip


def planetary_computer() -> dict[str, Any]:
    """A Planetary Computer ``sentinel-2-l2a`` item, cut to what matters: sensor names, no ``raster:bands``, no offset."""
    cog = "image/tiff; application=geotiff; profile=cloud-optimized"

    def asset(key: str, gsd: int, eo: list[dict[str, Any]] | None = None) -> dict[str, Any]:
        size = 109_800 // gsd
        out = {"href": f"https://example.com/{key}.tif", "type": cog, "roles": ["data"], "gsd": gsd,
               "proj:shape": [size, size], "proj:transform": [gsd, 0, 300000, 0, -gsd, 5900040]}  # fmt: skip
        return {**out, "eo:bands": eo} if eo else out

    bands = {
        k: asset(k, g, [{"name": k, "common_name": c}])
        for k, g, c in (("B02", 10, "blue"), ("B05", 20, "rededge"), ("B8A", 20, "rededge"))
    }
    visual = asset("visual", 10, [{"name": n, "common_name": c} for n, c in (("B04", "red"), ("B03", "green"), ("B02", "blue"))])
    return {
        "type": "Feature", "stac_version": "1.0.0", "id": "S2B_MSIL2A_20220103", "collection": "sentinel-2-l2a",
        "properties": {"datetime": "2022-01-03T10:08:54.024Z", "platform": "Sentinel-2B", "constellation": "Sentinel 2",
                       "proj:epsg": 32633, "s2:mgrs_tile": "33UUP", "s2:processing_baseline": "04.00"},
        "assets": {"AOT": asset("AOT", 10), "visual": visual, **bands, "SCL": asset("SCL", 20), "WVP": asset("WVP", 10),
                   "preview": asset("preview", 343)},
    }  # fmt: skip


def data_space() -> dict[str, Any]:
    """A Copernicus Data Space ``sentinel-2-l2a`` item, cut to what matters: STAC 1.1, a key a band and pixel size."""

    def asset(key: str, gsd: int, bands: list[dict[str, Any]]) -> dict[str, Any]:
        size = 109_800 // gsd
        return {"href": f"s3://eodata/{key}.jp2", "type": "image/jp2", "roles": ["data", "reflectance"], "bands": bands,
                "proj:code": "EPSG:32633", "proj:shape": [size, size], "proj:transform": [gsd, 0, 300000, 0, -gsd, 5900040],
                "data_type": "uint16", "nodata": 0, "raster:scale": 1e-4, "raster:offset": -0.1}  # fmt: skip

    keys = {f"B02_{g}m": asset(f"B02_{g}m", g, [{"name": "B02", "eo:common_name": "blue"}]) for g in (10, 20, 60)}
    scl = {"SCL_20m": {**asset("SCL_20m", 20, []), "data_type": "uint8"}}
    tci = {"TCI_10m": {**asset("TCI_10m", 10, [{"name": n} for n in ("B04", "B03", "B02")]), "data_type": "uint8"}}
    return {
        "type": "Feature", "stac_version": "1.1.0", "id": "S2B_CDSE", "collection": "sentinel-2-l2a",
        "properties": {"datetime": "2022-01-03T10:08:54.024Z", "platform": "sentinel-2b", "constellation": "sentinel-2",
                       "grid:code": "MGRS-33UUP", "processing:version": "05.11"},
        "assets": {**tci, **keys, "AOT_10m": asset("AOT_10m", 10, []), **scl},
    }  # fmt: skip


def test_earth_search_has_thirteen_names_and_no_aerosol() -> None:
    found = bands_of_item(earth_search())
    cogs = [b for b in found if not b.key.endswith("-jp2")]
    assert [b.band.name for b in cogs] == [
        "blue", "green", "red", "nir", "rededge071", "rededge075", "rededge078", "nir08", "swir16", "swir22", "scl",
    ]  # fmt: skip
    assert {b.band.eo_name for b in found if b.key.startswith("rededge2")} == {"B06"}
    assert {str(b.geobox.crs) for b in cogs if b.geobox} == {"EPSG:32633"}
    assert {(b.scale, b.offset) for b in cogs if not b.is_scl} == {(1e-4, -0.1)}


def test_planetary_computer_has_sensor_names_and_states_no_types() -> None:
    found = bands_of_item(planetary_computer())
    assert [(b.key, b.band.name, b.dtype) for b in found] == [
        ("B02", "blue", None), ("B05", "rededge071", None), ("B8A", "nir08", None), ("SCL", "scl", None),
    ]  # fmt: skip


def test_the_data_space_has_a_band_at_three_pixel_sizes() -> None:
    found = bands_of_item(data_space())
    assert [(b.key, b.band.name, b.is_scl) for b in found] == [
        ("B02_10m", "blue", False), ("B02_20m", "blue", False), ("B02_60m", "blue", False), ("SCL_20m", "scl", True),
    ]  # fmt: skip
    assert {(b.dtype, b.nodata, b.scale, b.offset) for b in found[:3]} == {("uint16", 0.0, 1e-4, -0.1)}
    assert [b.geobox.affine.a for b in found if b.geobox] == [10, 20, 60, 20]


def test_other_sensors_keep_their_own_names() -> None:
    """HLS calls Landsat's near infrared B05, which is a red edge of Sentinel-2."""
    item = earth_search()
    item["properties"] |= {"platform": "landsat-8", "constellation": None}
    item["collection"] = "HLSL30"
    item["assets"] = {
        "B05": {**item["assets"]["nir08"], "eo:bands": [{"name": "B05", "common_name": "nir08"}]},
        "fmask": {**item["assets"]["scl"], "eo:bands": []},
        "two": {"href": "two.tif", "raster:bands": [{"data_type": "uint8"}, {"data_type": "uint8"}]},
    }
    assert [(b.band.name, b.band.eo_name, b.bidx) for b in bands_of_item(item)] == [
        ("nir08", "B05", 1), ("fmask", "fmask", 1), ("two_1", "two_1", 1), ("two_2", "two_2", 2),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("properties", "collection", "expected"),
    [
        ({"constellation": "sentinel-2"}, "x", True),
        ({"constellation": "Sentinel 2"}, "sentinel-2-l2a", True),
        ({"platform": "Sentinel-2A"}, None, True),
        ({"platform": "sentinel-2c"}, "mine", True),
        ({"platform": "S2B"}, "mine", True),
        ({}, "sentinel2-l2a-eopf", True),
        ({"platform": "landsat-9", "constellation": "landsat"}, "landsat-c2-l2", False),
        ({"platform": "sentinel-1a", "constellation": "sentinel-1"}, "sentinel-1-grd", False),
        ({}, "drones-of-s2abc-street", False),
        ({}, None, False),
    ],
    ids=str,
)
def test_sentinel2_is_recognised_by_constellation_platform_or_collection(
    properties: Any, collection: Any, *, expected: bool
) -> None:
    assert is_sentinel2({"id": "i", "properties": properties, "collection": collection}) is expected


@pytest.mark.parametrize(
    ("properties", "name"),
    [
        ({"grid:code": "MGRS-33UUP"}, "33UUP"),
        ({"s2:mgrs_tile": "33UUP"}, "33UUP"),
        ({"mgrs:utm_zone": 3, "mgrs:latitude_band": "U", "mgrs:grid_square": "UP"}, "03UUP"),
        ({"mgrs:utm_zone": "33", "mgrs:latitude_band": "U", "mgrs:grid_square": "UP"}, "33UUP"),
        ({"s2:tile_id": "S2A_OPER_MSI_L2A_TL_VGS4_20210908T170430_A032449_T32TQM_N03.01"}, "32TQM"),
        ({"s2:tile_id": "something else each time"}, None),
        ({"grid:code": "WRS2-192027"}, "WRS2-192027"),
        ({}, None),
    ],
    ids=str,
)
def test_a_tile_is_named_by_its_tile_grid(properties: dict[str, Any], name: str | None) -> None:
    assert tile_name({"id": "i", "properties": properties}) == name


def test_a_grid_may_stand_on_the_asset_or_the_item_and_its_crs_in_three_ways() -> None:
    box = make_grid((4, 5))
    where = {"proj:shape": [4, 5], "proj:transform": list(box.affine)}
    assert box.crs is not None
    for crs in ({"proj:code": "EPSG:32635"}, {"proj:epsg": 32635}, {"proj:wkt2": box.crs.to_wkt()}):
        assert declared_grid({"id": "i", "properties": crs}, where) == box
        assert declared_grid({"id": "i", "properties": {**crs, **where}}, {}) == box
        assert declared_grid({"id": "i", "properties": {"proj:epsg": None, **crs}}, where) == box
    assert declared_grid({"id": "i", "properties": {"proj:epsg": None}}, where) is None
    with pytest.raises(CatalogError, match=r"'i' declares a grid that makes no sense.*EPSG:99999999"):
        declared_grid({"id": "i", "properties": {"proj:code": "EPSG:99999999"}}, where)
    with pytest.raises(CatalogError, match=r"'i': proj:shape is \[4\], expected a list of 2 finite numbers"):
        declared_grid({"id": "i", "properties": {"proj:code": "EPSG:32635"}}, {**where, "proj:shape": [4]})


# ------------------------------------------------------------------------------------------------ where items come from


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    scenes = [*SERIES[:2], replace(SERIES[2], collection="another")]
    return write_catalog(scenes, tmp_path_factory.mktemp("catalog"))


def ids(source: Any) -> list[str]:
    return sorted(i["id"] for i in read_items(source))


EXPECTED = sorted(s.item_id for s in SERIES)


def test_a_nested_catalogue_is_followed_and_relative_hrefs_become_absolute(catalog: Path) -> None:
    items = read_items(str(catalog))
    assert sorted(i["id"] for i in items) == EXPECTED
    for item in items:
        assert all(Path(a["href"]).is_file() for a in item["assets"].values())
        assert item["properties"]["license"] == "CC0-1.0"
    assert ids(catalog) == EXPECTED, "a Path is as good as its text"
    assert ids(catalog.parent / "another" / "collection.json") == [SERIES[2].item_id]
    assert ids(next(catalog.parent.glob(f"*/{SERIES[0].item_id}/*.json"))) == [SERIES[0].item_id]


def test_a_catalogue_over_http_and_a_url_with_a_scheme(catalog: Path) -> None:
    with counting_server(catalog.parent) as server:
        items = read_items(f"{server.url}/catalog.json")
        assert sorted(i["id"] for i in items) == EXPECTED
        assert all(a["href"].startswith(server.url) for i in items for a in i["assets"].values())
    (item,) = [i for i in read_items(f"file://{catalog}") if i["id"] == EXPECTED[0]]
    assert next(iter(item["assets"].values()))["href"].startswith("file:///")


def test_pystac_objects_dictionaries_and_searches_are_taken(catalog: Path) -> None:
    pystac_catalog = pystac.Catalog.from_file(str(catalog))
    items = list(pystac_catalog.get_items(recursive=True))

    class Search:
        """pystac-client's ItemSearch has ``items()``."""

        def items(self) -> Iterator[pystac.Item]:
            return iter(items)

    collection = pystac.ItemCollection(items)
    for source in (pystac_catalog, items, collection, collection.to_dict(), Search(), [i.to_dict() for i in items], iter(items)):
        assert ids(source) == EXPECTED, type(source)
    for item in read_items(pystac_catalog):
        assert all(Path(a["href"]).is_file() for a in item["assets"].values())
    assert ids(items[0]) == [items[0].id]
    assert ids(items[0].to_dict()) == [items[0].id]


def test_an_item_given_twice_counts_once_and_the_first_wins() -> None:
    first, second = item_dict(SERIES[0]), item_dict(SERIES[0])
    second["properties"]["title"] = "the second"
    assert [i["properties"]["title"] for i in read_items([first, second])] == [first["properties"]["title"]]
    other = {**item_dict(SERIES[0]), "collection": "another"}
    assert len(read_items([first, other])) == 2


@pytest.mark.parametrize(
    ("source", "says"),
    [
        pytest.param([], "No STAC item was found in list", id="an empty list"),
        pytest.param({"type": "FeatureCollection", "features": []}, "No STAC item", id="an empty ItemCollection"),
        pytest.param({"type": "Catalog", "id": "c", "links": []}, "No STAC item", id="an empty catalogue"),
        pytest.param({"type": "Point", "coordinates": [0, 0]}, "its type is 'Point'", id="other GeoJSON"),
        pytest.param({}, "its type is None", id="no type"),
        pytest.param(3, "A int is not a STAC", id="no object"),
        pytest.param({"type": "Feature", "id": "x", "properties": {}}, "no assets", id="no assets"),
        pytest.param({**item_dict(SERIES[0]), "id": ""}, "has id ''", id="no id"),
        pytest.param({**item_dict(SERIES[0]), "properties": None}, "no properties", id="no properties"),
    ],
)
def test_what_holds_no_usable_item_is_refused(source: Any, says: str) -> None:
    with pytest.raises(CatalogError, match=says):
        read_items(source)


def test_a_missing_document_is_named(tmp_path: Path, catalog: Path) -> None:
    with pytest.raises(CatalogError, match=r"gone\.json.*does not exist"):
        read_items(str(tmp_path / "gone.json"))
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(CatalogError, match=r"broken\.json could not be read: JSONDecodeError"):
        read_items(str(tmp_path / "broken.json"))
    with pytest.raises(CatalogError, match="could not be read"):
        read_items(str(tmp_path))
    document = json.loads(catalog.read_text())
    document["links"].append({"rel": "item", "href": "./lost.json"})
    (catalog.parent / "hole.json").write_text(json.dumps(document))
    with pytest.raises(CatalogError, match=r"lost\.json.*does not exist"):
        read_items(str(catalog.parent / "hole.json"))


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        ({"datetime": "2021-06-01T10:20:30Z"}, 1_622_542_830_000),
        ({"datetime": "2021-06-01T12:20:30.024+02:00"}, 1_622_542_830_024),
        ({"datetime": "2021-06-01T10:20:30.024000Z"}, 1_622_542_830_024),
        ({"datetime": "2021-06-01T10:20:30"}, 1_622_542_830_000),
        ({"datetime": None, "start_datetime": "2021-06-01T10:20:30Z", "end_datetime": "2021-07-01T00:00:00Z"}, 1_622_542_830_000),
        ({"datetime": "1969-12-31T23:59:59Z"}, -1_000),
    ],
    ids=str,
)
def test_times_are_milliseconds_in_utc(properties: dict[str, Any], expected: int) -> None:
    assert time_ms({"id": "i", "properties": properties}) == expected


@pytest.mark.parametrize("value", [None, "", "yesterday", 20210601, "2021-13-01T00:00:00Z"], ids=str)
def test_an_item_without_a_time_is_refused_by_name(value: Any) -> None:
    item = item_dict(SERIES[0])
    item["properties"]["datetime"] = value
    with pytest.raises(CatalogError, match=f"Item {SERIES[0].item_id!r} has no usable datetime: found"):
        read_items([item])


def test_items_without_absolute_hrefs_are_resolved_against_their_self_link(tmp_path: Path) -> None:
    (item,) = write_items(SERIES[:1], tmp_path)
    relative = item_dict(SERIES[0]) | {"links": [{"rel": "self", "href": str(tmp_path / "item.json")}]}
    found = {k: a["href"] for k, a in read_items(relative)[0]["assets"].items()}
    assert found == {k: a["href"] for k, a in item["assets"].items()}
