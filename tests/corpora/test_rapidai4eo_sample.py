"""The synthetic RapidAI4EO: built as the real file is, smooth on the ground and in time, and each defect where it says."""

from __future__ import annotations

import gzip
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import tifffile
from odc.geo.geobox import GeoBox

from eocube.corpora import rapidai4eo_sample as sample
from eocube.corpora import rapidai4eo_tables as tables
from eocube.corpora.rapidai4eo_ids import (
    GEOMETRIES,
    LABEL_MAPPINGS,
    LABELS,
    PRODUCTS,
    SiteId,
    check_grid,
    image_path,
    label_path,
    parse_site,
    site_window,
)
from eocube.corpora.rapidai4eo_labels import CLC_NAMES, read_label_mappings, read_labels, read_site_labels
from eocube.errors import ArgumentError, GridError, StoreWriteError, UnknownNameError

REAL = "imagery/33N/15E-200N/33N_15E-200N_01_09/PF-SR/2018-01-03.tif"
SMALL: dict[str, Any] = {"sites": 4, "tiles": 2, "dates": 3, "months": 2}


def record(root: Path) -> dict[str, Any]:
    return json.loads((root / sample.RECORD).read_text())


def sites_of(root: Path) -> list[SiteId]:
    return [parse_site(i) for i in record(root)["sites"]]


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        return file.read()


def grid(path: Path) -> GeoBox:
    with rasterio.open(path) as file:
        return GeoBox(file.shape, file.transform, str(file.crs))


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sample.write_rapidai4eo(tmp_path_factory.mktemp("rapidai4eo") / "plain", **SMALL)


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rapidai4eo") / "broken"
    return sample.write_rapidai4eo(folder, **SMALL, defects=tuple(sample.DEFECTS))


# -------------------------------------------------------------------------------------------------------------- as it should be


def test_the_folder_says_first_of_all_that_it_is_synthetic(plain: Path) -> None:
    text = (plain / "README.txt").read_text()
    assert text.startswith("SYNTHETIC")
    assert "Copernicus Sentinel data" in text
    assert "No defects" in text
    assert record(plain)["notice"].startswith("SYNTHETIC")


def test_every_file_of_a_site_lies_where_its_id_says_and_nothing_else_is_there(plain: Path) -> None:
    expected = {"README.txt", sample.RECORD, GEOMETRIES, LABELS, LABEL_MAPPINGS}
    for site in sites_of(plain):
        expected |= {image_path(site, p, step) for p, n in (("pf_sr", 3), ("pf_qa", 3), ("s2_sr", 2)) for step in range(n)}
        expected.add(label_path(site))
    assert set(files(plain)) == expected
    assert len(sites_of(plain)) == 4
    assert len({site.cube for site in sites_of(plain)}) == 2
    assert tables.present_sites(plain) == (tables.read_site_ids(plain / GEOMETRIES), ())
    assert tables.present_dates(plain, sites_of(plain)[0], "s2_sr") == ((0, 1), ())


@pytest.mark.parametrize(
    ("product", "shape", "dtype"),
    [("pf_sr", (4, 200, 200), "int16"), ("pf_qa", (9, 200, 200), "uint8"), ("s2_sr", (12, 60, 60), "uint16")],
)
def test_images_have_the_true_size_and_grid_and_say_nothing_of_nodata_or_scale(plain: Path, product, shape, dtype) -> None:
    for site in sites_of(plain):
        for step in tables.present_dates(plain, site, product).steps:
            path = plain / image_path(site, product, step)
            check_grid(site, product, grid(path), where=str(path))
            with rasterio.open(path) as file:
                assert (file.count, *file.shape) == shape
                assert set(file.dtypes) == {dtype}
                assert file.nodata is None
                assert set(file.scales) == {1.0}
                assert file.descriptions == (None,) * shape[0]


def test_planet_fusion_is_built_tag_by_tag_as_the_real_file_is(plain: Path, test_data: Path) -> None:
    free = {"TileByteCounts", "ModelTiepointTag", "GeoKeyDirectoryTag", "GeoAsciiParamsTag"}

    def structure(path: Path) -> tuple[list[Any], int, tuple[int, ...]]:
        with tifffile.TiffFile(path) as file:
            page = file.pages.first
            tags = [(t.code, t.name, t.dtype, t.count, None if t.name in free else str(t.value)) for t in page.tags]
            return tags, page.offset, page.dataoffsets

    ours = plain / image_path(sites_of(plain)[0], "pf_sr", 0)
    assert structure(ours) == structure(test_data / "rapidai4eo" / REAL)
    assert 150_000 < ours.stat().st_size < 300_000


def test_pixels_are_reflectance_of_land_in_the_order_of_bands(plain: Path) -> None:
    for site in sites_of(plain):
        blue, green, red, nir = read(plain / image_path(site, "pf_sr", 1)).reshape(4, -1)
        assert 100 < blue.mean() < green.mean() < nir.mean() < 6000
        assert blue.mean() < red.mean()
        fusion = np.stack([blue, green, red, nir])
        assert fusion.min() >= 1
        assert fusion.std(axis=1).min() > 30


def test_sentinel2_and_planet_fusion_show_the_same_ground(plain: Path) -> None:
    """Blocks of 30 m nest in both; 2018-01-13 is near the middle of January."""
    for site in sites_of(plain):
        fusion = read(plain / image_path(site, "pf_sr", 2))[:3].reshape(3, 20, 10, 20, 10).mean(axis=(2, 4))
        mosaic = read(plain / image_path(site, "s2_sr", 0))[:3].reshape(3, 20, 3, 20, 3).mean(axis=(2, 4))
        for band in range(3):
            assert np.corrcoef(fusion[band].ravel(), mosaic[band].ravel())[0, 1] > 0.97
            assert fusion[band].mean() == pytest.approx(mosaic[band].mean(), rel=0.1)
        assert np.corrcoef(fusion[0].ravel(), np.flipud(mosaic[0]).ravel())[0, 1] < 0.9


def test_sites_beside_each_other_fit_and_dates_change_smoothly(plain: Path) -> None:
    from eocube.corpora.texture import Texture

    plan = sample._plan(1, 1, {"pf_sr": 12, "pf_qa": 1, "s2_sr": 1}, ["pf_sr"], (), 0)
    left, right = (SiteId(zone="33N", tile="15E-200N", row=7, column=column) for column in (11, 12))
    texture = Texture()
    west, east = (list(sample._fusion(texture, site, 12, plan)) for site in (left, right))
    seam = np.abs(west[0][:, :, -1].astype(int) - east[0][:, :, 0])
    inside = np.abs(np.diff(west[0].astype(int), axis=2))
    assert seam.mean() < 2 * inside.mean()
    means = [float(pixels.mean()) for pixels in west]
    assert len({pixels.tobytes() for pixels in west}) == 12
    assert max(abs(a - b) for a, b in pairwise(means)) < 0.12 * np.mean(means)
    assert site_window(left, "pf_sr")[1][1] == site_window(right, "pf_sr")[1][0]


def test_quality_bands_can_be_told_apart_and_pretend_nothing_else(plain: Path) -> None:
    seen = set()
    for step in range(3):
        pixels = read(plain / image_path(sites_of(plain)[0], "pf_qa", step))
        assert (pixels // 10 == np.arange(1, 10)[:, None, None]).all()
        seen |= set(np.unique(pixels % 10).tolist())
    assert seen == {0, 1}


def test_tables_and_files_of_labels_agree_and_sum_to_one(plain: Path) -> None:
    bulk = read_labels(plain / LABELS)
    alone = read_site_labels(plain, sites_of(plain))
    assert bulk.sites.to_pylist() == alone.sites.to_pylist() == record(plain)["sites"]
    assert (bulk.fractions == alone.fractions).all()
    np.testing.assert_allclose(bulk.fractions.sum(axis=1), 1, atol=1e-6)
    assert bulk.unit == "fraction"
    assert (bulk.uneven, bulk.repeated, bulk.missing_classes) == ((), (), ())
    assert max((bulk.fractions > 0).sum(axis=1)) > 1
    assert {c: row["name"] for c, row in read_label_mappings(plain / LABEL_MAPPINGS).items()} == CLC_NAMES


def test_equal_arguments_give_equal_bytes_and_another_seed_other_sites(plain: Path, tmp_path: Path) -> None:
    assert files(sample.write_rapidai4eo(tmp_path / "again", **SMALL)) == files(plain)
    few: dict[str, Any] = {"sites": 4, "dates": 1, "months": 1, "products": ("s2_sr",)}
    other = sample.write_rapidai4eo(tmp_path / "other", **few, seed=1)
    assert record(other)["sites"] != record(sample.write_rapidai4eo(tmp_path / "same", **few))["sites"]


def test_only_asked_products_are_written(tmp_path: Path) -> None:
    root = sample.write_rapidai4eo(tmp_path / "a" / "b", sites=1, dates=1, months=1, products=["S2-SR"])
    (site,) = sites_of(root)
    assert [tables.present_dates(root, site, p).steps for p in PRODUCTS] == [(), (), (0,)]


# --------------------------------------------------------------------------------------------------------------------- defects


def test_every_defect_is_told_with_its_place(broken: Path, plain: Path) -> None:
    assert set(record(broken)["defects"]) == set(sample.DEFECTS)
    text = (broken / "README.txt").read_text()
    assert all(f"- {name}: " in text for name in sample.DEFECTS)
    assert record(plain)["defects"] == {}


def test_files_without_a_defect_are_as_without_defects(broken: Path, plain: Path) -> None:
    hurt = [p for places in record(broken)["defects"].values() for p in places]
    sound = {
        path: body
        for path, body in files(broken).items()
        if path.startswith("imagery") and "S2-SR" not in path and not any(path.startswith(p) for p in hurt)
    }
    assert len(sound) >= 3, "all of S2-SR and PF-QA is changed"
    assert sound.items() <= files(plain).items()


def test_what_is_missing_is_not_there_and_its_neighbours_are(broken: Path) -> None:
    defects = record(broken)["defects"]
    for path in (*defects["missing_date"], *defects["missing_month"], *defects["missing_qa"]):
        assert not (broken / path).exists()
        assert any((broken / path).parent.iterdir())
    (without,) = defects["site_without_images"]
    assert without not in tables.present_sites(broken).sites.to_pylist()
    assert without in tables.read_site_ids(broken / GEOMETRIES).to_pylist()
    (unlabelled,) = defects["site_without_labels"]
    for labels in (read_labels(broken / LABELS), read_site_labels(broken, sites_of(broken))):
        assert sorted([*labels.sites.to_pylist(), unlabelled]) == record(broken)["sites"]


def test_damaged_files_are_damaged_in_the_told_way_and_no_other(broken: Path, plain: Path) -> None:
    defects = record(broken)["defects"]
    path = {name: defects[name][0] for name in sample._IN_ONE_FILE}
    assert len(set(path.values())) == len(path)
    whole = (plain / path["truncated"]).read_bytes()
    assert (broken / path["truncated"]).read_bytes() == whole[: len(whole) // 2]
    for name, says in (("wrong_transform", "transform"), ("wrong_size", "199 px")):
        site = parse_site(path[name].split("/")[3])
        with pytest.raises(GridError, match=says):
            check_grid(site, "pf_sr", grid(broken / path[name]), where=path[name])
    assert (read(broken / path["wrong_transform"]) == read(plain / path["wrong_transform"])).all()
    assert (read(broken / path["wrong_size"]) == read(plain / path["wrong_size"])[:, :199]).all()
    for name, value in (("fill_pixels", -32768), ("zero_pixels", 0)):
        pixels, sound = read(broken / path[name]), read(plain / path[name])
        bad = (pixels == value).all(axis=0)
        assert bad.sum() == 600
        assert (pixels[:, ~bad] == sound[:, ~bad]).all()


def test_permuted_bands_of_sentinel2_are_the_same_bands_in_esas_order(broken: Path, plain: Path) -> None:
    assert record(broken)["defects"]["band_order"] == [
        "B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12",
    ]  # fmt: skip
    path = image_path(sites_of(broken)[0], "s2_sr", 0)
    order = [sample.S2_BANDS.index(band) for band in sample.S2_BANDS_PERMUTED]
    assert (read(broken / path) == read(plain / path)[order]).all()


def test_labels_in_percent_and_repeated_ids_are_found_by_the_tables_readers(broken: Path, plain: Path) -> None:
    percent, fraction = read_labels(broken / LABELS), read_labels(plain / LABELS)
    assert (percent.unit, fraction.unit) == ("percent", "fraction")
    assert all(percent.of(i) == pytest.approx(fraction.of(i)) for i in percent.sites.to_pylist())
    _, repeated = tables.distinct_sites(tables.read_site_ids(broken / GEOMETRIES))
    assert list(repeated) == record(broken)["defects"]["duplicate_id"]


@pytest.mark.parametrize("name", [n for n in sample.DEFECTS if n != "site_without_images"])
def test_one_site_is_enough_for_each_defect_but_one(tmp_path: Path, name: str) -> None:
    plan = sample._plan(1, 1, {"pf_sr": 1, "pf_qa": 1, "s2_sr": 1}, tuple(PRODUCTS), [name], 0)
    assert list(sample._record(plan)["defects"]) == [name]
    assert all(sample._record(plan)["defects"][name])


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"defects": ["cloudy"]}, UnknownNameError, "missing_date"),
        ({"products": ["hr_ps"]}, UnknownNameError, "pf_sr"),
        ({"dates": 147}, ArgumentError, "expected 1 to 146"),
        ({"months": 0}, ArgumentError, "expected 1 to 12"),
        ({"sites": 1, "tiles": 2}, ArgumentError, "at least one a tile"),
        ({"sites": 1601}, ArgumentError, "1,600"),
        ({"defects": ["band_order"], "products": ["pf_sr"]}, ArgumentError, "needs product s2_sr"),
        ({"defects": ["site_without_images"], "sites": 1}, ArgumentError, "at least two sites"),
        ({"defects": sample._IN_ONE_FILE, "sites": 2, "dates": 2}, ArgumentError, "6 defects of single files"),
    ],
)
def test_what_cannot_be_written_is_refused_before_anything_is(tmp_path: Path, changes, error, says: str) -> None:
    with pytest.raises(error, match=says):
        sample.write_rapidai4eo(tmp_path / "x", **{"sites": 2, **changes})
    assert not (tmp_path / "x").exists()


def test_the_same_sample_is_left_as_it_is_and_another_one_is_refused(tmp_path: Path) -> None:
    few: dict[str, Any] = {"sites": 2, "dates": 1, "months": 1, "products": ("s2_sr",)}
    root = sample.write_rapidai4eo(tmp_path / "x", **few)
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*")}
    assert sample.write_rapidai4eo(root, **few) == root
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*")} == before
    for other in ({"seed": 1}, {"months": 2}, {"sites": 3}, {"defects": ["labels_percent"]}):
        with pytest.raises(StoreWriteError, match="something else stands there"):
            sample.write_rapidai4eo(root, **(few | other))


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sample, "_write_images", full)
    with pytest.raises(StoreWriteError, match="No space left"):
        sample.write_rapidai4eo(tmp_path / "x", sites=1, dates=1, months=1)
    assert not list(tmp_path.iterdir())


def test_the_folder_one_stands_in_can_become_the_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few: dict[str, Any] = {"sites": 1, "dates": 1, "months": 1}
    monkeypatch.chdir(tmp_path)
    sample.write_rapidai4eo(".", **few)
    assert {p.name for p in tmp_path.iterdir()} == {"README.txt", "imagery", "labels", "resources", sample.RECORD}
    sample.write_rapidai4eo(".", **few)


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("")
    for place in (tmp_path, tmp_path / "mine"):
        with pytest.raises(StoreWriteError, match="something else stands there"):
            sample.write_rapidai4eo(place, sites=1, dates=1, months=1)
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]


# --------------------------------------------------------------------------------------------------------- geometries alone


def test_a_drawn_table_is_the_same_each_time_packed_or_not(tmp_path: Path) -> None:
    packed = sample.write_geometries(tmp_path / "a" / "g.geojson.gz", 500, seed=3)
    again = sample.write_geometries(tmp_path / "g.geojson.gz", 500, seed=3)
    text = sample.write_geometries(tmp_path / "g.geojson", 500, seed=3)
    assert packed.read_bytes() == again.read_bytes()
    assert gzip.decompress(packed.read_bytes()) == text.read_bytes()
    assert len(json.loads(text.read_bytes())["features"]) == 500
    assert (
        tables.read_site_ids(text).to_pylist()
        != tables.read_site_ids(sample.write_geometries(tmp_path / "h.geojson", 500, seed=4)).to_pylist()
    )


def test_written_in_blocks_or_at_once_a_table_is_the_same(tmp_path: Path) -> None:
    ids = sample._drawn_ids(100, np.random.default_rng(0))
    for block in (1, 7, 100, 20_000):
        sample._write_geojson(tmp_path / f"{block}.geojson", ids, block)
    assert len({(tmp_path / f"{block}.geojson").read_bytes() for block in (1, 7, 100, 20_000)}) == 1


@pytest.mark.parametrize("n", [0, 1_000_001])
def test_a_table_of_no_or_too_many_sites_is_refused(tmp_path: Path, n: int) -> None:
    with pytest.raises(ArgumentError, match="1 to 1,000,000"):
        sample.write_geometries(tmp_path / "g.geojson", n)


def test_defects_of_single_sites_are_on_sites_of_their_own(tmp_path: Path) -> None:
    root = sample.write_rapidai4eo(tmp_path / "c", sites=4, dates=1, months=1, defects=("missing_qa", "missing_month"))
    sites = sorted(p.name for p in root.glob("imagery/*/*/*"))
    without_qa = [p.name for p in root.glob("imagery/*/*/*") if not any(p.glob("PF-QA/*.tif"))]
    without_months = [p.name for p in root.glob("imagery/*/*/*") if not any(p.glob("S2-SR/*.tif"))]
    assert (without_qa, without_months) == ([sites[1]], [sites[0]])
