"""The sample that ships: the pixels of its source, metadata that other loaders read, and an unpacking that is all or nothing."""

from __future__ import annotations

import json
import stat
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pystac
import pytest
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox
from pystac.validation import validate_dict

from eocube.corpora.sample import DIGEST_FILE, SAMPLES, sample_corpus, unpack_sample
from eocube.errors import CatalogError, StoreWriteError, UnknownNameError
from scripts import make_sample_sentinel2 as maker

GSDS_M = (10, 20)
BANDS = {10: ("B02", "B03", "B04", "B08", "SCL"), 20: ("B03", "B04", "B8A", "B11", "SCL")}
COMMON_NAMES = {"B02": "blue", "B03": "green", "B04": "red", "B08": "nir", "B8A": "nir08", "B11": "swir16"}
AFFINE_SAYS_PENDING = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")
"""odc-geo, odc-stac and stackstac still multiply affines with ``*``."""

LAST_TWO = ("S2_L2A_romania_20201222", "S2_L2A_romania_20210101")


@pytest.fixture(scope="module")
def catalog_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sample_corpus("sentinel2", tmp_path_factory.mktemp("samples"))


@pytest.fixture(scope="module")
def items(catalog_path: Path) -> list[pystac.Item]:
    catalog = pystac.Catalog.from_file(str(catalog_path))
    return sorted(catalog.get_items(recursive=True), key=lambda item: item.id)


@pytest.fixture(scope="module")
def last_two(items: list[pystac.Item]) -> list[pystac.Item]:
    chosen = [item.full_copy() for item in items if item.id in LAST_TWO]
    for item in chosen:
        item.make_asset_hrefs_absolute()
    return chosen


@pytest.fixture(scope="module")
def source_folder(test_data: Path) -> Path:
    return test_data / "sentinel2_romania"


def read_asset(item: pystac.Item, key: str) -> np.ndarray:
    with rasterio.open(item.assets[key].get_absolute_href()) as source:
        return source.read(1)


def asset_geobox(item: pystac.Item, key: str) -> GeoBox:
    fields = item.assets[key].extra_fields
    return GeoBox(fields["proj:shape"], Affine(*fields["proj:transform"]), item.properties["proj:code"])


# ---------------------------------------------------------------- what is in it


def test_the_archive_is_at_most_12_mb() -> None:
    archive = resources.files("eocube") / "corpora" / "data" / SAMPLES["sentinel2"].archive
    assert len(archive.read_bytes()) <= 12_000_000


def test_the_catalogue_lists_140_days_with_every_band_at_both_pixel_sizes(items: list[pystac.Item]) -> None:
    assert len({item.datetime for item in items}) == 140
    assert [item.id[-8:] for item in items] == [f"{item.datetime:%Y%m%d}" for item in items]
    assert (items[0].id[-8:], items[-1].id[-8:]) == ("20150801", "20210101")
    keys = {f"{band}_{gsd_m}m" for gsd_m in GSDS_M for band in BANDS[gsd_m]}
    assert all(set(item.assets) == keys for item in items)
    assert all(Path(asset.get_absolute_href() or "").is_file() for item in items for asset in item.assets.values())


def test_hrefs_are_relative_so_that_the_folder_can_be_moved(catalog_path: Path) -> None:
    for path in catalog_path.parent.rglob("*.json"):
        content = json.loads(path.read_text())
        hrefs = [asset["href"] for asset in content.get("assets", {}).values()]
        hrefs += [link["href"] for link in content["links"] if link["href"] != maker.LEGAL_NOTICE]
        assert all((path.parent / href).resolve().is_file() for href in hrefs)
        assert all(href.startswith(".") for href in hrefs)


def test_catalogue_collection_and_items_follow_the_core_stac_schemas(catalog_path: Path) -> None:
    paths = list(catalog_path.parent.rglob("*.json"))
    assert len(paths) == 142
    for path in paths:
        validate_dict(json.loads(path.read_text()), extensions=[])  # theirs would have to be fetched


@pytest.mark.parametrize("gsd_m", GSDS_M)
def test_bands_state_scale_offset_and_nodata_for_new_and_for_old_readers(items: list[pystac.Item], gsd_m: int) -> None:
    for item in items:
        assert item.common_metadata.constellation == "sentinel-2"
        for band, common_name in COMMON_NAMES.items():
            if band not in BANDS[gsd_m]:
                continue
            asset = item.assets[f"{band}_{gsd_m}m"]
            (new,), (old_eo,), (old_raster,) = (asset.extra_fields[key] for key in ("bands", "eo:bands", "raster:bands"))
            assert (new["name"], new["eo:common_name"]) == (old_eo["name"], old_eo["common_name"]) == (band, common_name)
            assert (new["data_type"], new["nodata"], new["raster:scale"], new["raster:offset"]) == ("uint16", 0, 0.0001, 0)
            assert [old_raster[key] for key in ("data_type", "nodata", "scale", "offset")] == ["uint16", 0, 0.0001, 0]
            assert asset.common_metadata.gsd == gsd_m


def test_the_scene_classification_has_no_scale(items: list[pystac.Item]) -> None:
    for fields in (item.assets[f"SCL_{gsd_m}m"].extra_fields for item in items for gsd_m in GSDS_M):
        assert fields["bands"] == [{"name": "SCL", "data_type": "uint8", "nodata": 0}]
        assert not {"scale", "offset"} & set(fields["raster:bands"][0])


@AFFINE_SAYS_PENDING
def test_the_two_grids_nest_two_to_one(items: list[pystac.Item]) -> None:
    hr, lr = asset_geobox(items[0], "B03_10m"), asset_geobox(items[0], "B03_20m")
    assert hr == lr.zoom_out(1 / 2)
    assert (hr.shape, lr.shape) == ((100, 100), (50, 50))


def test_every_file_is_a_cog_on_the_grid_its_item_states(items: list[pystac.Item]) -> None:
    for item in items:
        for key, asset in item.assets.items():
            with rasterio.open(asset.get_absolute_href()) as source:
                assert source.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
                assert source.block_shapes == [(128, 128)]
                assert (source.crs.to_epsg(), source.transform, source.shape) == (
                    3035,
                    Affine(*asset.extra_fields["proj:transform"]),
                    tuple(asset.extra_fields["proj:shape"]),
                )
                assert (source.dtypes, source.nodata) == (("uint8" if key.startswith("SCL") else "uint16",), 0)


def test_cloud_cover_is_the_share_of_classes_8_9_and_10(items: list[pystac.Item]) -> None:
    for item in items:
        scl = read_asset(item, "SCL_20m")
        cloudy = sum(int((scl == value).sum()) for value in (8, 9, 10))
        assert item.properties["eo:cloud_cover"] == pytest.approx(100 * cloudy / (scl != 0).sum(), abs=0.005)


def test_the_origin_and_the_terms_lie_in_the_sample(catalog_path: Path) -> None:
    attribution = (catalog_path.parent / "ATTRIBUTION.txt").read_text()
    assert "Contains modified Copernicus Sentinel data 2015-2021" in attribution
    assert "nrt 0.0.5" in attribution
    assert "EUROPEAN UNION PUBLIC LICENCE v. 1.2" in (catalog_path.parent / "EUPL-1.2.txt").read_text()
    for name in maker.LICENCE_FILES:  # they stand beside the archive too
        assert (maker.LICENCE_FOLDER / name).read_bytes() == (catalog_path.parent / name).read_bytes()


# ---------------------------------------------------------------- the same as its source


@pytest.mark.parametrize("gsd_m", GSDS_M)
def test_pixels_dates_and_corners_equal_the_source(items: list[pystac.Item], source_folder: Path, gsd_m: int) -> None:
    names = {"B02": "B2", "B03": "B3", "B04": "B4", "B08": "B8"}
    with netCDF4.Dataset(source_folder / f"sentinel2_cube_subset_romania_{gsd_m}m.nc") as source:
        source.set_auto_mask(False)
        days = np.datetime64("2015-08-01") + source["time"][:].astype("timedelta64[D]")
        assert source["time"].units == "days since 2015-08-01 00:00:00"
        assert [item.datetime.date() for item in items if item.datetime] == days.tolist()
        left, top = float(source["x"][0]) - gsd_m / 2, float(source["y"][0]) + gsd_m / 2
        assert asset_geobox(items[0], f"B03_{gsd_m}m").transform == Affine(gsd_m, 0, left, 0, -gsd_m, top)
        for band in BANDS[gsd_m]:
            expected = source[names.get(band, band)][:]
            got = np.stack([read_asset(item, f"{band}_{gsd_m}m") for item in items])
            np.testing.assert_array_equal(got, expected, err_msg=band)


def test_the_script_of_today_writes_the_metadata_that_ships(catalog_path: Path, source_folder: Path) -> None:
    fine, coarse = (maker.read_series(source_folder, gsd_m) for gsd_m in GSDS_M)
    expected = {"catalog.json": maker.build_catalog(), "collection.json": maker.build_collection(fine, coarse)}
    expected |= {f"{maker.item_id(day)}.json": maker.build_item(fine, coarse, t) for t, day in enumerate(fine.days)}
    shipped = {path.name: json.loads(path.read_text()) for path in catalog_path.parent.rglob("*.json")}
    assert shipped == expected


# ---------------------------------------------------------------- the script


def make_series(gsd_m: int, **changes: Any) -> maker.Series:
    """Two dates over 40 m of ground; every pixel tells its date, row and column."""
    size = 40 // gsd_m
    pixels = np.arange(1, 2 * size * size + 1, dtype="uint16").reshape(2, size, size)
    fields: dict[str, Any] = {
        "gsd_m": gsd_m,
        "days": (maker.datetime(2020, 1, 1), maker.datetime(2020, 1, 6)),
        "transform": Affine(gsd_m, 0, 5_000_000.125, 0, -gsd_m, 2_500_000.25),
        "shape_yx": (size, size),
        "pixels": {"B03": pixels, "SCL": (pixels % 12).astype("uint8")},
    }
    return maker.Series(**fields | changes)


def test_the_same_input_gives_the_same_bytes_whatever_the_order_of_members() -> None:
    members = dict(maker.iter_members(make_series(10), make_series(20)))
    again = dict(reversed(list(maker.iter_members(make_series(10), make_series(20)))))
    assert maker.pack(members) == maker.pack(again)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"transform": Affine(20, 0, 5_000_000.125, 0, -20, 2_500_010.25)}, "do not nest"),
        ({"days": make_series(10).days[:1]}, "same dates"),
    ],
    ids=["half-a-pixel-off", "a-date-less"],
)
def test_series_that_do_not_pair_are_refused(changes: dict[str, Any], message: str) -> None:
    maker.check_nested(make_series(10), make_series(20))
    with pytest.raises(ValueError, match=message):
        maker.check_nested(make_series(10), make_series(20, **changes))


def test_coordinates_are_read_as_pixel_centres() -> None:
    x, y = np.array([105.0, 115.0, 125.0]), np.array([95.0, 85.0])
    assert maker.edge_transform(x, y, 10) == Affine(10, 0, 100, 0, -10, 100)
    with pytest.raises(ValueError, match="y descending"):
        maker.edge_transform(x, y[::-1], 10)


def test_a_position_that_moves_betrays_another_crs() -> None:
    maker.check_crs(rasterio.CRS.from_epsg(3035).to_wkt(), (5_271_982.5, 2_533_004.2))
    with pytest.raises(ValueError, match="not in EPSG:3035"):
        maker.check_crs(rasterio.CRS.from_epsg(3034).to_wkt(), (5_271_982.5, 2_533_004.2))


# ---------------------------------------------------------------- read by other loaders


@AFFINE_SAYS_PENDING
@pytest.mark.filterwarnings("ignore:The 'shapely.ops.transform:DeprecationWarning")
@pytest.mark.parametrize(("gsd_m", "wanted"), [(10, ("blue", "nir")), (20, ("nir08", "swir16"))])
def test_odc_stac_loads_the_same_pixels_on_the_native_grid(
    last_two: list[pystac.Item], gsd_m: int, wanted: tuple[str, ...]
) -> None:
    import odc.stac

    keys = {name: f"{band}_{gsd_m}m" for band, name in COMMON_NAMES.items()}
    loaded = odc.stac.load(last_two, bands=[*wanted, f"SCL_{gsd_m}m"])
    assert loaded.odc.geobox == asset_geobox(last_two[0], f"SCL_{gsd_m}m")
    for name in loaded.data_vars:
        expected = np.stack([read_asset(item, keys.get(str(name), str(name))) for item in last_two])
        assert (loaded[name].dtype, loaded[name].attrs["nodata"]) == (expected.dtype, 0)
        np.testing.assert_array_equal(loaded[name], expected)


@AFFINE_SAYS_PENDING
@pytest.mark.parametrize("gsd_m", GSDS_M)
def test_stackstac_loads_the_same_reflectance_on_the_native_grid(last_two: list[pystac.Item], gsd_m: int) -> None:
    import stackstac

    keys = [f"{band}_{gsd_m}m" for band in ("B03", "B04")]
    grid = {"bounds": tuple(asset_geobox(last_two[0], keys[0]).boundingbox), "resolution": gsd_m, "snap_bounds": False}
    loaded = stackstac.stack([item.to_dict() for item in last_two], assets=keys, epsg=3035, **grid)
    expected = np.stack([[read_asset(item, key) for key in keys] for item in last_two])
    np.testing.assert_allclose(loaded, np.where(expected == 0, np.nan, expected * 0.0001), rtol=1e-12)


# ---------------------------------------------------------------- unpacking


def make_archive(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Content and time of the last change of every file below a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def contents(folder: Path) -> dict[str, bytes]:
    return {name: content for name, (content, _) in snapshot(folder).items()}


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return make_archive(tmp_path / "small.zip", {"catalog.json": b"{}", "items/one.json": b"[1]", "cogs/one/B.tif": b"II*"})


def test_unknown_samples_are_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"'sentinel3'.*'sentinel2'"):
        sample_corpus("sentinel3", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_sample_becomes_a_folder_of_its_name_in_one_that_may_be_new_or_in_use(tmp_path: Path) -> None:
    (tmp_path / "in_use.txt").write_text("mine")
    assert sample_corpus("sentinel2", tmp_path) == tmp_path / "sentinel2" / "catalog.json"
    assert sample_corpus("sentinel2", str(tmp_path / "a" / "b")) == tmp_path / "a" / "b" / "sentinel2" / "catalog.json"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "in_use.txt", "sentinel2"]


def test_a_second_call_touches_nothing(archive: Path, tmp_path: Path) -> None:
    unpack_sample(archive, tmp_path / "s")
    before = snapshot(tmp_path / "s")
    unpacked = {name: content for name, content in contents(tmp_path / "s").items() if name != DIGEST_FILE}
    assert unpacked == {"catalog.json": b"{}", "items/one.json": b"[1]", "cogs/one/B.tif": b"II*"}
    unpack_sample(archive, tmp_path / "s")
    assert snapshot(tmp_path / "s") == before


@pytest.mark.parametrize(
    "name", ["../evil.json", "items/../../evil.json", "/evil.json", "..\\evil.json", "C:/evil.json", "items/", "."]
)
def test_a_member_that_leads_out_of_the_folder_is_refused_before_anything_is_written(tmp_path: Path, name: str) -> None:
    changed = make_archive(tmp_path / "changed.zip", {"catalog.json": b"{}", name: b"gotcha"})
    with pytest.raises(CatalogError, match="Nothing was unpacked"):
        unpack_sample(changed, tmp_path / "in" / "s")
    assert [path.name for path in tmp_path.iterdir()] == ["changed.zip"]
    assert not Path("/evil.json").exists()


def test_a_symbolic_link_in_the_archive_is_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("items")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "changed.zip", "w") as changed:
        changed.writestr(link, "../elsewhere")
    with pytest.raises(CatalogError, match="not a plain file"):
        unpack_sample(tmp_path / "changed.zip", tmp_path / "s")


@pytest.mark.parametrize("damage", ["truncated", "bytes-changed"])
def test_a_damaged_archive_leaves_nothing_behind(archive: Path, tmp_path: Path, damage: str) -> None:
    content = bytearray(archive.read_bytes())
    if damage == "truncated":
        content = content[: len(content) // 2]
    else:
        content[content.index(b"B.tif") + 5] ^= 0xFF
    archive.write_bytes(content)
    with pytest.raises(CatalogError, match="is damaged"):
        unpack_sample(archive, tmp_path / "s")
    assert [path.name for path in tmp_path.iterdir()] == [archive.name]


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"I")], ids=["missing", "short"])
def test_a_file_that_went_missing_or_short_is_put_back(archive: Path, tmp_path: Path, damage: Callable[[Path], object]) -> None:
    unpack_sample(archive, tmp_path / "s")
    whole = contents(tmp_path / "s")
    damage(tmp_path / "s" / "cogs" / "one" / "B.tif")
    assert contents(tmp_path / "s") != whole
    unpack_sample(archive, tmp_path / "s")
    assert contents(tmp_path / "s") == whole


def test_the_sample_of_another_version_is_replaced_as_a_whole(archive: Path, tmp_path: Path) -> None:
    unpack_sample(archive, tmp_path / "expected")
    same_sizes = {"catalog.json": b"[]", "items/one.json": b"[0]", "cogs/one/B.tif": b"MM*", "gone.json": b"{}"}
    unpack_sample(make_archive(tmp_path / "older.zip", same_sizes), tmp_path / "s")
    unpack_sample(archive, tmp_path / "s")
    assert contents(tmp_path / "s") == contents(tmp_path / "expected")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["expected", "older.zip", "s", "small.zip"]


def test_a_folder_that_is_no_sample_is_left_as_it_is(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "thesis.txt").write_text("years of work")
    with pytest.raises(StoreWriteError, match="something else stands there"):
        unpack_sample(archive, tmp_path / "s")
    assert [path.name for path in (tmp_path / "s").iterdir()] == ["thesis.txt"]


def test_an_empty_folder_is_filled_and_a_file_is_not_overwritten(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    unpack_sample(archive, tmp_path / "s")
    assert (tmp_path / "s" / "catalog.json").is_file()
    (tmp_path / "file").write_text("mine")
    for target in (tmp_path / "file", tmp_path / "file" / "s"):
        with pytest.raises(StoreWriteError):
            unpack_sample(archive, target)
    assert (tmp_path / "file").read_text() == "mine"


def test_several_that_unpack_at_once_keep_the_first_whole_sample(archive: Path, tmp_path: Path) -> None:
    def unpack(_: int) -> int:
        unpack_sample(archive, tmp_path / "s")
        assert (tmp_path / "s" / "catalog.json").read_bytes() == b"{}"
        return (tmp_path / "s").stat().st_ino

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(unpack, range(24)))) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s", "small.zip"]
