"""leakage_report takes whatever has footprints and splits, and says of each what its table says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import shapely
from typer.testing import CliRunner

import eocube
from eocube.cli import app
from eocube.corpora.worldstrat_areas import read_sample_areas
from eocube.corpora.worldstrat_files import order_of
from eocube.corpora.worldstrat_sample import planted_defects, write_worldstrat
from eocube.corpora.worldstrat_tables import SplitRow, leak_safe_split, published_split
from eocube.errors import ArgumentError, CubeError, PatchError, StoreNotFoundError
from eocube.jobs.patches import extract_patches
from eocube.patches import PatchDataset
from tests.patches.makers import SPEC, make_store

AREAS = read_sample_areas()[:-1]
"""The real areas of WorldStrat that ship; the last one is no area."""


def table(tiles: list[tuple[str, str]]) -> pa.Table:
    """(tile, split), row by row, with the real bounds and orders of the tiles."""
    bounds = {area.name: area.bounds for area in AREAS}
    wkb = [shapely.to_wkb(shapely.box(*bounds[tile])) for tile, _ in tiles]
    columns = {"site": [t for t, _ in tiles], "split": [s for _, s in tiles], "group": [order_of(t) for t, _ in tiles]}
    return pa.table({**columns, "geometry": pa.array(wkb, pa.binary())})


# ------------------------------------------------------------------------------------------------ WorldStrat

PUBLISHED = [(area.name, split) for area in AREAS for split in area.published]


def test_the_published_table_of_worldstrat_leaks_what_it_says() -> None:
    """Repeated tiles, orders over several splits, and orders whose images overlap: the last are in no column of the table."""
    _, known = published_split([SplitRow(tile=tile, split=split) for tile, split in PUBLISHED])
    report = eocube.leakage_report(table(PUBLISHED))
    assert report.ids == dict(known.leaking)
    assert report.groups == {order: tuple(splits) for order, splits in known.split_orders.items()}
    assert len(report.ids) == 11
    named = {frozenset([p["a"], p["b"]]): p for p in report.pairs.to_dict("records")}
    assert {min(pair) for pair in named if len(pair) == 1} == set(known.leaking)
    assert set(filter(lambda pair: len(pair) == 2, named)) == {
        frozenset(["ASMSpotter-20-1-2", "ASMSpotter-21-3-1"]),
        frozenset(["ASMSpotter-20-1-2", "ASMSpotter-21-3-2"]),
        frozenset(["ASMSpotter-20-1-3", "ASMSpotter-21-3-3"]),
    }
    first = named[frozenset(["ASMSpotter-20-1-2", "ASMSpotter-21-3-1"])]
    assert (first["split_a"], first["split_b"]) == ("test", "train")
    assert 0 < first["share"] < 0.5
    assert not report.ok


def test_the_leak_safe_split_of_the_same_tiles_leaks_nothing() -> None:
    from eocube.corpora.worldstrat_tables import AreaFacts

    chosen, _ = leak_safe_split([AreaFacts(name=a.name, bounds=a.bounds, source=a.source) for a in AREAS])
    report = eocube.leakage_report(table(list(chosen.items())))
    assert report.ok
    assert len(report.rows) == 3
    assert sum(report.rows.values()) == len(AREAS)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> str:
    """As `eocube sample worldstrat` writes it, of one product."""
    folder = tmp_path_factory.mktemp("ws") / "c"
    defects = ("split-repeats",)
    write_worldstrat(folder, sites=14, revisits=1, products=("hr_rgbn",), side_files=(), defects=defects)
    return str(folder)


def test_a_corpus_is_looked_at_with_the_split_that_it_was_opened_with(sample: str) -> None:
    assert "Amnesty POI-8-2-1" in planted_defects(sample)["split-repeats"]
    published = eocube.open_corpus("worldstrat", sample, split="published")
    report = eocube.leakage_report(published)
    assert report.groups == {"ASMSpotter-1": ("train", "val"), "Amnesty POI-8": ("train", "val")}
    assert published.corpus.split_report.leaking == {"Amnesty POI-8-2-1": ("train", "val")}  # type: ignore[attr-defined]
    assert report.pairs.empty  # that tile is held out: the corpus has each once
    assert eocube.leakage_report(published, buffer_m=100).counts != report.counts  # tiles of one order adjoin
    assert eocube.leakage_report(eocube.open_corpus("worldstrat", sample, split="leak_safe")).ok
    with pytest.raises(ArgumentError, match=r"no column 'split'.*split="):
        eocube.leakage_report(eocube.open_corpus("worldstrat", sample))


def test_a_store_and_its_url_say_the_same_as_the_corpus(sample: str, tmp_path: Path) -> None:
    for split in ("published", "leak_safe"):
        corpus = eocube.open_corpus("worldstrat", sample, split=split)
        eocube.convert(corpus, str(tmp_path / split), products=["hr_rgbn"], executor="serial")
        expected = eocube.leakage_report(corpus).as_json()
        assert eocube.leakage_report(str(tmp_path / split)).as_json() == expected
        store = eocube.open_store(str(tmp_path / split))
        assert eocube.leakage_report(store).as_json() == expected
        assert eocube.leakage_report(store.sites_frame()).as_json() == expected
    run = CliRunner().invoke(app, ["leakage", str(tmp_path / "published")])
    assert run.exit_code == 3
    assert "Groups in several splits: 2: ASMSpotter-1 (train, val)" in run.stdout
    run = CliRunner().invoke(app, ["leakage", str(tmp_path / "published"), "--buffer-m", "100", "--json"])
    assert run.exit_code == 3
    assert json.loads(run.stdout)["pairs"][0]["distance_m"] == 0
    assert CliRunner().invoke(app, ["leakage", str(tmp_path / "leak_safe")]).exit_code == 0


# ------------------------------------------------------------------------------------------------ patch sets


@pytest.fixture(scope="module")
def patches(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("patches")
    extract_patches(make_store(folder, sites=("a", "b")), str(folder / "set"), SPEC, executor="serial")
    return str(folder / "set")


def test_a_patch_set_shares_no_ground_at_any_date(patches: str) -> None:
    """Places and periods are split: a test patch's ground is in training at no date, and its edge keeps the buffer of 20 m."""
    report = eocube.leakage_report(patches, buffer_m=20)
    assert report.ok
    assert set(report.rows) == {"test", "train"}
    assert report.footprints["train"] < report.rows["train"]
    assert report.dropped > 0
    assert set(report.sites) == {"a", "b"}
    assert not eocube.leakage_report(patches, buffer_m=65).ok
    assert eocube.leakage_report(patches, buffer_m=65, ignore_time=False).ok
    assert eocube.leakage_report(PatchDataset(patches)).rows == report.rows


def test_a_training_patch_on_test_ground_is_found_in_a_patch_set(patches: str) -> None:
    index = PatchDataset(patches).index
    rows = index.to_pylist()
    test = next(i for i, row in enumerate(rows) if row["split"] == "test")
    train = next(i for i, row in enumerate(rows) if row["split"] == "train")
    geometry = index["geometry"].to_pylist()
    geometry[train] = geometry[test]
    planted = index.set_column(index.schema.get_field_index("geometry"), "geometry", pa.array(geometry, pa.binary()))
    report = eocube.leakage_report(planted)
    assert report.pairs["share"].max() == pytest.approx(1)
    assert report.pairs["shared_m2"].max() == pytest.approx((6 * 20) ** 2, rel=2e-3)
    assert set(report.pairs["b"]) == {rows[train]["patch_id"]}
    assert not report.ok
    assert eocube.leakage_report(planted, ignore_time=False).ok == (rows[test]["date"].date() != rows[train]["date"].date())


def test_half_of_a_patch_set_cannot_be_compared(patches: str) -> None:
    with pytest.raises(PatchError, match=r"opened with split='train'.*pass its URL"):
        eocube.leakage_report(PatchDataset(patches, split="train"))


def test_an_unfinished_patch_set_is_refused(tmp_path: Path) -> None:
    extract_patches(make_store(tmp_path), str(tmp_path / "set"), replace(SPEC, min_clear=0.0), executor="serial", limit=1)
    with pytest.raises(PatchError, match="unfinished"):
        eocube.leakage_report(str(tmp_path / "set"))


# ------------------------------------------------------------------------------------------------ tables


def frame(crs: Any = "EPSG:32635", **more: Any) -> gpd.GeoDataFrame:
    """Two boxes of 1 km that share a strip of 10 m, and one far away."""
    boxes = [shapely.box(x, 5_000_000, x + 1000, 5_001_000) for x in (600_000, 600_990, 700_000)]
    columns = {"split": ["train", "test", "test"], **more}
    return gpd.GeoDataFrame(pd.DataFrame(columns, index=["p", "q", "r"]), geometry=boxes, crs=crs)


@pytest.mark.parametrize("crs", ["EPSG:32635", "EPSG:4326", "OGC:CRS84", "EPSG:3035", "EPSG:4258"])
def test_footprints_of_any_crs_are_moved_to_one(crs: str) -> None:
    report = eocube.leakage_report(frame().to_crs(crs))
    (pair,) = report.pairs.to_dict("records")
    assert pair["shared_m2"] == pytest.approx(10_000, rel=2e-3)
    assert (pair["a"], pair["b"]) == ("q", "p")
    json.dumps(report.as_json())


def test_a_pixel_wide_strip_between_scenes_of_110_km_is_found() -> None:
    """Their sides are curves in degrees, up to 300 m from the chord; tiles that only touch, in T, share nothing."""
    sides = [(600_000, 6_600_000), (709_790, 6_600_000), (655_000, 6_709_800)]
    boxes = [shapely.box(x, y, x + 109_800, y + 109_800) for x, y in sides]
    report = eocube.leakage_report(gpd.GeoDataFrame({"split": ["a", "b", "c"]}, geometry=boxes, crs="EPSG:32635"))
    (pair,) = report.pairs.to_dict("records")
    assert (pair["split_a"], pair["split_b"]) == ("a", "b")
    assert pair["shared_m2"] == pytest.approx(10 * 109_800, rel=5e-3)


def test_arrow_tables_say_where_their_footprints_lie() -> None:
    """GeoParquet's metadata, GeoArrow's, and none, which is OGC:CRS84."""
    expected = eocube.leakage_report(frame()).pairs["shared_m2"][0]
    geoarrow = pa.table(frame().to_arrow(geometry_encoding="WKB"))
    assert eocube.leakage_report(geoarrow).pairs["shared_m2"][0] == pytest.approx(expected)
    plain = pa.table({"split": ["train", "test", "test"], "geometry": frame().to_crs("OGC:CRS84").to_wkb()["geometry"].tolist()})
    assert eocube.leakage_report(plain).pairs["shared_m2"][0] == pytest.approx(expected, rel=1e-3)
    unknown = {"columns": {"geometry": {"encoding": "WKB", "crs": None}}}
    with pytest.raises(ArgumentError, match="unknown"):
        eocube.leakage_report(plain.replace_schema_metadata({"geo": json.dumps(unknown)}))
    large = plain.set_column(1, "geometry", plain["geometry"].cast(pa.large_binary()))
    assert eocube.leakage_report(large).pairs["shared_m2"][0] == pytest.approx(expected, rel=1e-3)


def test_dates_count_by_the_day_in_utc() -> None:
    dates = pd.to_datetime(["2020-01-01T23:00Z", "2020-01-02T01:00Z", "2020-01-01T00:00Z"])
    assert not eocube.leakage_report(frame(date=dates)).ok
    assert eocube.leakage_report(frame(date=dates), ignore_time=False).ok
    assert not eocube.leakage_report(frame(date=dates.tz_convert("Europe/Paris").floor("D")), ignore_time=False).ok
    with pytest.raises(ArgumentError, match="1 of 3 rows have no `date`"):
        eocube.leakage_report(frame(date=dates.where(dates != dates[0])), ignore_time=False)


def test_rows_without_a_split_need_no_footprint_and_are_counted() -> None:
    given = frame(split=["train", None, "test"])
    given.loc["q", "geometry"] = None
    report = eocube.leakage_report(given)
    assert report.without_split == 1
    assert report.ok
    given.loc["p", "geometry"] = None
    with pytest.raises(ArgumentError, match="1 rows have a split and no footprint"):
        eocube.leakage_report(given)


def test_dropped_rows_are_counted_and_left_out() -> None:
    report = eocube.leakage_report(frame(dropped=[True, False, False]))
    assert (report.dropped, report.rows, report.ok) == (1, {"test": 2}, True)


def test_an_id_is_a_patchs_and_else_a_sites() -> None:
    both = eocube.leakage_report(frame(site=["s", "t", "s"], patch_id=["1", "2", "3"]))
    assert (both.ids, both.sites) == ({}, {"s": ("test", "train")})
    assert both.pairs["a"].tolist() == ["2"]
    site = eocube.leakage_report(frame(site=["s", "t", "s"], group=["g", "h", None]))
    assert (site.ids, site.sites, site.groups) == ({"s": ("test", "train")}, {}, {})


def test_what_has_no_footprints_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="states no CRS"):
        eocube.leakage_report(frame(crs=None))
    with pytest.raises(ArgumentError, match="no column 'geometry'"):
        eocube.leakage_report(pa.table({"split": ["a"]}))
    with pytest.raises(ArgumentError, match="has type string; expected binary"):
        eocube.leakage_report(pa.table({"split": ["a"], "geometry": ["POINT (0 0)"]}))
    for nothing in (pd.DataFrame({"split": ["a"]}), np.zeros(3), None):
        with pytest.raises(ArgumentError, match="expected an opened corpus"):
            eocube.leakage_report(nothing)
    with pytest.raises(StoreNotFoundError):
        eocube.leakage_report(str(tmp_path))
    cube = next((Path(make_store(tmp_path)) / "cubes").glob("*/*"))
    with pytest.raises(CubeError, match="is one cube"):
        eocube.leakage_report(cube)
    assert CliRunner().invoke(app, ["leakage", str(tmp_path / "nowhere")]).exit_code == 1
