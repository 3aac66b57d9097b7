"""convert: a catalogue into a store; what cannot be read is refused or listed, and never taken for complete."""

from __future__ import annotations

import datetime as dt
import json
import os
import platform
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest
import xarray as xr

from eocube.corpora.stac import StacCorpus
from eocube.errors import (
    NO_HREF,
    ArgumentError,
    AssetReadError,
    CatalogError,
    CubeError,
    StoreNotFoundError,
    StoreWriteError,
    UnknownNameError,
)
from eocube.exec.drive import RunReport
from eocube.io.blobs import open_blobs
from eocube.io.cubes import CubeSource
from eocube.io.sources import read_sources
from eocube.jobs.convert import convert, plan_convert
from eocube.jobs.open import load_stac, open_corpus, open_cube, open_store
from eocube.jobs.plan import Plan
from eocube.jobs.stac import open_stac
from eocube.jobs.write import WriteSettings, plan_cube
from eocube.model.recipe import whole
from eocube.testing.stac import (
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
)
from eocube.testing.stores import index_rows, same_store, tree

MIXED = {"B04": 1, "B08": 1, "B11": 2, "SCL": 2}
SITE = "EPSG32635_600000_5000040"


def corpus_of(scenes: list[SyntheticScene], **options: Any) -> StacCorpus:
    """A corpus without files."""
    return StacCorpus(items=tuple(item_dict(s) for s in scenes), reader=SyntheticReader(scenes), **options)


def run(scenes: list[SyntheticScene], store: Path, **options: Any) -> RunReport:
    return convert(corpus_of(scenes), str(store), **{"executor": "serial", **options})


# ------------------------------------------------------------------------------------------------ a catalogue in, a store out


def test_a_catalogue_becomes_a_cube_a_site_and_product(tmp_path: Path) -> None:
    scenes = across_baseline(4, zooms=MIXED)
    report = convert(open_corpus("stac", write_catalog(scenes, tmp_path / "in")), str(tmp_path / "store"), executor="threads:2")
    assert report.ok
    assert sorted(report.cubes) == [f"{SITE}/10m", f"{SITE}/20m"]
    store = open_store(str(tmp_path / "store"))
    for product, bands in (("10m", ["B04", "B08"]), ("20m", ["B11"])):
        np.testing.assert_array_equal(store.cube(SITE, product)["data"].values, expected_cube(scenes, bands))
    assert [(r["site"], r["product"], r["n_dates"], r["bands"]) for r in index_rows(tmp_path / "store")] == [
        (SITE, "10m", 4, ["red", "nir"]),
        (SITE, "20m", 4, ["swir16"]),
    ]


def test_the_store_says_where_it_comes_from_and_the_cubes_do_not(tmp_path: Path) -> None:
    scenes = across_baseline(2)
    catalog = write_catalog(scenes, tmp_path / "in")
    convert(open_corpus("stac", catalog), str(tmp_path / "store"), executor="serial")
    root = json.loads((tmp_path / "store/zarr.json").read_text())["attributes"]
    assert root["corpus"] == "stac"
    assert root["licenses"] == ["CC0-1.0"]
    assert root["attributions"] == ["Contains modified Copernicus Sentinel data 2021-2021"]
    table = read_sources(open_blobs(str(tmp_path / "store")), SITE, "10m")
    assert table.num_rows == 2 * 3
    assert set(table["input"].to_pylist()) == {"in0"}
    rows = {(r["item_id"], r["asset"]): r for r in table.to_pylist()}
    assert rows[scenes[0].item_id, "B04"]["dn_shift"] == 1000
    assert rows[scenes[1].item_id, "B04"]["dn_shift"] == 0
    assert Path(rows[scenes[1].item_id, "B04"]["href"]).is_file()
    for path in (tmp_path / "store/cubes").rglob("*"):
        assert not path.is_file() or str(tmp_path).encode() not in path.read_bytes()


def test_times_host_and_versions_stand_in_the_runs_report_and_nowhere_else(tmp_path: Path) -> None:
    run(make_series(2), tmp_path)
    (path,) = (tmp_path / "runs").glob("*.json")
    report = json.loads(path.read_text())
    assert report["host"] == platform.node()
    assert {"python", "eocube", "zarr", "numcodecs"} <= set(report["versions"])
    assert report["started"][:4] == f"{dt.datetime.now(dt.UTC):%Y}"
    for part in ("cubes", "markers", "index", "sources"):
        for file in (tmp_path / part).rglob("*.*"):
            body = file.read_bytes() if file.is_file() else b""
            assert not any(
                word.encode() in body for word in (report["host"] or "-", report["run_id"], report["versions"]["zarr"])
            )


def test_the_catalogue_may_move(tmp_path: Path) -> None:
    """Addresses are no part of what is finished: the same items from elsewhere find the same markers."""
    scenes = make_series(3)
    for place in ("here", "there"):
        report = convert(open_corpus("stac", write_catalog(scenes, tmp_path / place)), str(tmp_path / "store"), executor="serial")
    assert (report.regions_done, report.regions_skipped) == (0, 1)


def test_sites_and_products_are_chosen_by_name(tmp_path: Path) -> None:
    east = make_grid(corner_xy=(640_000.0, 5_000_040.0))
    west_scenes, east_scenes = make_series(2, zooms=MIXED), make_series(2, zooms=MIXED, grid=east)
    scenes = [*west_scenes, *(replace(s, item_id=f"E{s.item_id}") for s in east_scenes)]
    one = run(scenes, tmp_path, sites=[SITE, SITE], products=["20m"])
    assert one.cubes == [f"{SITE}/20m"]
    rest = run(scenes, tmp_path)
    assert len(rest.cubes) == 4
    run(scenes, tmp_path / "once")
    assert same_store(tmp_path, tmp_path / "once")
    for options, says in (({"sites": ["x"]}, "site 'x' in this corpus"), ({"products": ["60m"]}, "product '60m'.*'10m', '20m'")):
        with pytest.raises(UnknownNameError, match=says):
            run(scenes, tmp_path, **options)


def test_a_corpus_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="no site"):
        convert(StacCorpus(items=()), str(tmp_path / "store"), executor="serial")
    assert not (tmp_path / "store").exists()


def test_the_index_counts_clear_pixels_by_scene_class(tmp_path: Path) -> None:
    scenes = make_series(3, footprint=((8, 40), (0, 64)))
    run(scenes, tmp_path)
    data, scl = expected_cube(scenes, ["B04", "B08"]), expected_cube(scenes, ["SCL"])
    clear = (data > 0).all(1) & np.isin(scl, [4, 5, 6, 7, 11])
    assert index_rows(tmp_path)[0]["clear_fraction"] == clear.sum() / clear.size
    summary = open_store(str(tmp_path)).clear_summary(SITE, "10m")
    assert summary.dims == ("time", "y_cell", "x_cell")
    expected = clear.reshape(3, 3, 16, 4, 16).sum((2, 4)) * 100 // 256
    np.testing.assert_array_equal(summary.values, expected)


# ------------------------------------------------------------------------------------------------ what cannot be read


def broken(where: str, scenes: list[SyntheticScene], *, which: tuple[int, ...] = (2,)) -> list[SyntheticScene]:
    changes: dict[str, Any] = {where: ("B08",)}
    return [replace(s, **changes) if i in which else s for i, s in enumerate(scenes)]


@pytest.mark.parametrize("where", ["missing", "truncated"])
def test_a_broken_file_stops_the_run_and_leaves_nothing_that_looks_complete(tmp_path: Path, where: str) -> None:
    scenes = broken(where, make_series(6))
    corpus = open_corpus("stac", write_catalog(scenes, tmp_path / "in"))
    with pytest.raises(AssetReadError, match=rf"Asset 'B08' of item '{scenes[2].item_id}'.*{scenes[2].file_name('B08')}.*skip"):
        convert(corpus, str(tmp_path / "store"), executor="threads:2", layout="map")
    store = tmp_path / "store"
    assert open_store(str(store)).index.num_rows == 0
    assert not list(store.glob("markers/*/*/2.0.0/*"))
    source = CubeSource.open(str(store / f"cubes/{SITE}/10m"))
    with pytest.raises(CubeError, match=r"Region 2\.0\.0 .* not finished"):
        source.ids(whole(source.frame()))
    (report,) = [json.loads(p.read_text()) for p in (store / "runs").glob("*.json")]
    assert report["cubes"] == []
    assert "AssetReadError" in report["error"]


@pytest.mark.parametrize("where", ["missing", "truncated"])
@pytest.mark.parametrize("retry", [True, False], ids=["retry", "the same command"])
def test_with_skip_a_broken_file_is_listed_and_healed_later(tmp_path: Path, where: str, *, retry: bool) -> None:
    whole_scenes = make_series(6)
    corpus = open_corpus("stac", write_catalog(broken(where, whole_scenes), tmp_path / "in"))
    store = tmp_path / "store"
    report = convert(corpus, str(store), executor="threads:2", layout="map", errors="skip")
    with pytest.warns(UserWarning, match=r"regions of .* could not be read"):
        open_store(str(store)).cube(*open_store(str(store)).index.select(["site", "product"]).to_pylist()[0].values())
    assert not report.ok
    (row,) = report.failed
    assert (row["cube"], row["product"], row["region"], row["asset"]) == (SITE, "10m", "2.0.0", "B08")
    assert row["item_id"] == whole_scenes[2].item_id
    assert row["href"].endswith(whole_scenes[2].file_name("B08"))
    assert row["error"]
    assert index_rows(store)[0]["unfinished_regions"] == 1
    assert [p.name.endswith(".partial.json") for p in store.glob(f"markers/{SITE}/10m/2.0.0/*")] == [True]

    cube = open_cube(str(store / f"cubes/{SITE}/10m"))
    expected = expected_cube(whole_scenes, ["B04", "B08"])
    expected[2, 1] = 0
    np.testing.assert_array_equal(cube["data"].values, expected)

    with pytest.raises(AssetReadError):
        convert(corpus, str(store), executor="serial", layout="map")
    again = convert(corpus, str(store), executor="serial", layout="map", errors="skip")
    assert (again.regions_done, again.regions_skipped, len(again.failed)) == (1, 5, 1), "unfinished on every later run"

    home = tmp_path / "in" / whole_scenes[2].collection / whole_scenes[2].item_id
    write_files(whole_scenes[2], home)
    healed = convert(corpus, str(store), executor="serial", layout="map", retry=retry)
    assert (healed.regions_done, healed.ok) == (1, True)
    undisturbed = open_corpus("stac", write_catalog(whole_scenes, tmp_path / "whole"))
    convert(undisturbed, str(tmp_path / "once"), executor="serial", layout="map")
    assert same_store(store, tmp_path / "once")


@pytest.mark.parametrize("first", [16, 18], ids=["dates of a new shard", "dates of a part-filled shard"])
def test_retry_leaves_unwritten_regions_and_appended_dates_alone(tmp_path: Path, first: int) -> None:
    """It heals what failed; it neither goes on with a run that was cut short nor publishes dates it has not written."""
    healed = make_series(20)
    run(broken("missing", healed)[:first], tmp_path, layout="patch", errors="skip")
    report = run(healed, tmp_path, layout="patch", retry=True)
    assert (report.regions_done, report.cubes) == (1, [])
    cube = open_cube(str(tmp_path / f"cubes/{SITE}/10m"))
    np.testing.assert_array_equal(cube["data"].values, expected_cube(healed[:first], ["B04", "B08"]))
    report = run(healed, tmp_path, layout="patch")
    assert (report.regions_done, report.cubes) == (1, [f"{SITE}/10m"])
    run(healed, tmp_path / "once", layout="patch")
    assert same_store(tmp_path, tmp_path / "once")


def test_every_file_broken_is_a_cube_of_holes_that_says_so(tmp_path: Path) -> None:
    scenes = [replace(s, missing=("B04", "B08", "SCL")) for s in make_series(2)]
    report = run(scenes, tmp_path, errors="skip")
    assert {(r["item_id"], r["asset"]) for r in report.failed} == {(s.item_id, b) for s in scenes for b in ("B04", "B08", "SCL")}
    assert index_rows(tmp_path)[0]["unfinished_regions"] == 1
    run(make_series(2), tmp_path)
    run(make_series(2), tmp_path / "once")
    assert same_store(tmp_path, tmp_path / "once")


def test_a_file_of_a_mosaic_that_fails_leaves_the_others_pixels(tmp_path: Path) -> None:
    west = make_series(1, footprint=((0, 48), (0, 40)))[0]
    east = replace(west, item_id="EAST", number=3, when="2021-01-03T09:30:14", footprint=((0, 48), (20, 64)))
    report = run([replace(west, missing=("B04", "B08")), east], tmp_path, errors="skip")
    assert {r["item_id"] for r in report.failed} == {west.item_id}
    cube = open_cube(str(tmp_path / f"cubes/{SITE}/10m"))
    np.testing.assert_array_equal(cube["data"].values, expected_cube([east], ["B04", "B08"]))
    run([west, east], tmp_path)
    run([west, east], tmp_path / "once")
    assert same_store(tmp_path, tmp_path / "once")


def test_a_target_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file where a folder should be")
    with pytest.raises(StoreWriteError, match="could not be written below"):
        run(make_series(1), tmp_path / "store")


def test_a_store_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError, match=r"No eocube store at .*nowhere"):
        open_store(str(tmp_path / "nowhere"))
    with pytest.raises(StoreNotFoundError, match=r"No eocube cube at .*10m"):
        open_cube(str(tmp_path / "cubes/a/10m"))
    with pytest.raises(CubeError, match="not the address of a cube"):
        open_cube(str(tmp_path))


# ------------------------------------------------------------------------------------------------ economy


@pytest.mark.parametrize("layout", ["map", "balanced"])
def test_a_task_opens_each_of_its_files_once(tmp_path: Path, layout: Any) -> None:
    scenes = make_series(5, zooms=MIXED, one_file=True)
    reader = CountingReader(SyntheticReader(scenes))
    corpus = StacCorpus(items=tuple(item_dict(s) for s in scenes), reader=reader)
    plans = list(plan_convert(corpus, str(tmp_path), products=["20m"]))
    planned = Plan(plans).summary()
    assert reader.reads == [], "planning reads no pixels"
    convert(corpus, str(tmp_path), executor="serial", products=["20m"], layout=layout)
    assert len(reader.reads) == len(set(reader.reads)) == 5 * 2
    assert planned.bytes_fetched >= sum(nbytes for *_, nbytes in reader.windows)
    assert planned.bytes_used == sum(nbytes for *_, nbytes in reader.windows)
    assert planned.requests >= len(reader.reads)


def test_workers_get_paths_that_do_not_depend_on_a_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    catalog = write_catalog(make_series(2), tmp_path / "in")
    monkeypatch.chdir(tmp_path)
    corpus = open_corpus("stac", os.path.relpath(catalog, tmp_path))
    for plan in plan_convert(corpus, "store"):
        assert plan.job.store_url == str(tmp_path / "store")
        hrefs = [row["href"] for source in plan.job.binding.sources.values() for row in source.assets()]
        assert hrefs
        assert all(Path(href).is_absolute() and Path(href).is_file() for href in hrefs)
    convert(corpus, "store", executor="serial")
    assert CubeSource.open(f"store/cubes/{SITE}/10m").store_url == str(tmp_path / "store")


def test_a_plan_says_at_least_where_not_every_source_says_what_it_holds(tmp_path: Path) -> None:
    plans = list(plan_convert(corpus_of(make_series(2)), str(tmp_path)))
    assert "at most" in str(Plan(plans))
    convert(corpus_of(make_series(2)), str(tmp_path), executor="serial")
    part = open_cube(f"{tmp_path}/cubes/{SITE}/10m").isel(x=slice(0, 8))
    cut = plan_cube(part, str(tmp_path), site="cut", product="10m", settings=WriteSettings())
    assert "at least" in str(Plan([cut]))


def test_an_item_without_an_asset_is_to_be_completed_and_a_file_mended() -> None:
    assert "Complete the item and run again" in str(AssetReadError(NO_HREF, "item", "B04", "it has none"))
    assert "Mend the file and run again" in str(AssetReadError("a.tif", "item", "B04", "cut off"))


def test_a_second_run_reads_no_pixels(tmp_path: Path) -> None:
    scenes = make_series(5)
    run(scenes, tmp_path)
    reader = CountingReader(SyntheticReader(scenes))
    convert(StacCorpus(items=tuple(item_dict(s) for s in scenes), reader=reader), str(tmp_path), executor="serial")
    assert reader.reads == []


# ------------------------------------------------------------------------------------------------ the store's door


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two places, 300 km apart; the western ends in January, the eastern begins in March."""
    east = make_grid(corner_xy=(300_000.0, 5_000_040.0), crs="EPSG:32637")
    west_scenes = make_series(4, zooms=MIXED, properties={"grid:code": "MGRS-35TLK"})
    east_scenes = make_series(4, zooms=MIXED, grid=east, first="2021-03-01T08:00:00", properties={"grid:code": "MGRS-37TCK"})
    top = tmp_path_factory.mktemp("two-places")
    run([*west_scenes, *east_scenes], top)
    return top


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({}, ["35TLK/10m", "35TLK/20m", "37TCK/10m", "37TCK/20m"]),
        ({"product": "20m"}, ["35TLK/20m", "37TCK/20m"]),
        ({"bbox": (28, 45, 28.3, 45.2)}, ["35TLK/10m", "35TLK/20m"]),
        ({"bbox": (0, 0, 1, 1)}, []),
        ({"time": ("2021-01-01", "2021-01-31")}, ["35TLK/10m", "35TLK/20m"]),
        ({"time": ("2021-03-16T08:00", "2022-01-01")}, ["37TCK/10m", "37TCK/20m"]),
        ({"where": pc.field("n_dates") > 4}, []),
        ({"split": "test"}, []),
        ({"product": "10m", "bbox": (20, 40, 60, 60), "where": pc.field("crs") == "EPSG:32637"}, ["37TCK/10m"]),
    ],
    ids=str,
)
def test_sites_are_found_by_place_time_and_columns(store: Path, query: dict[str, Any], found: list[str]) -> None:
    rows = open_store(str(store)).sites(**query).to_pylist()
    assert [f"{r['site']}/{r['product']}" for r in rows] == found


def test_a_cube_is_opened_by_site_and_product(store: Path) -> None:
    opened = open_store(str(store))
    xr.testing.assert_identical(
        opened.cube("35TLK", "10m", decode="reflectance").compute(),
        open_cube(opened.cube_url("35TLK", "10m"), decode="reflectance").compute(),
    )
    with pytest.raises(UnknownNameError, match=r"'35TLK/60m' in the index of .*known: '35TLK/10m'"):
        opened.cube("35TLK", "60m")
    assert repr(opened) == f"<eocube store {store}: 4 cubes>"


def test_the_index_is_geoparquet_that_geopandas_reads(store: Path) -> None:
    import geopandas as gpd

    frame = gpd.read_parquet(store / "index.parquet")
    assert frame.crs == "OGC:CRS84"
    assert len(frame) == 4
    assert frame.geometry.geom_type.unique().tolist() == ["Polygon"]
    west, south, east, north = frame.geometry.iloc[0].bounds
    assert 28.27 < west < east < 28.29
    assert 45.14 < south < north < 45.15
    row = index_rows(store)[0]
    assert [row["bbox"][k] for k in ("xmin", "ymin", "xmax", "ymax")] == [west, south, east, north]
    assert (row["gsd_m"], row["shape"], row["window"]) == ([10, 10], [48, 64], [0, 48, 0, 64])
    assert len(tree(store / "index")) == 4


@pytest.mark.parametrize("options", [{"products": "10m"}, {"sites": SITE, "rebuild": SITE}], ids="+".join)
def test_one_name_is_a_name_and_no_list_of_letters(tmp_path: Path, options: dict[str, Any]) -> None:
    assert run(make_series(1), tmp_path, **options).cubes == [f"{SITE}/10m"]


def test_one_band_is_a_name_and_no_list_of_letters(tmp_path: Path) -> None:
    catalog = write_catalog(make_series(1), tmp_path)
    assert load_stac(catalog, bands="red").band.values.tolist() == ["red"]
    for opened in (open_corpus("stac", catalog, bands="red"), open_stac(catalog, bands="red")):
        assert opened.cube(SITE, "10m").band.values.tolist() == ["red"]


def test_what_is_no_corpus_is_told_how_to_be_opened(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"given str 'catalog\.json'.*open_corpus\('stac'"):
        convert("catalog.json", str(tmp_path / "store"))  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_retry_and_rebuild_are_refused_together_before_anything_is_deleted(tmp_path: Path) -> None:
    run(make_series(1), tmp_path)
    before = tree(tmp_path)
    with pytest.raises(ArgumentError, match="--rebuild"):
        run(make_series(1), tmp_path, rebuild=[SITE], retry=True)
    assert tree(tmp_path) == before
