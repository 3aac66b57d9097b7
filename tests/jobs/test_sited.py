"""Cubes in which sites lie: tasks, shards, rows and findings are those of the sites, whatever else the tile could hold."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import xarray as xr

import eocube
from eocube.errors import CubeError, GridError, PatchError
from eocube.io.blobs import open_blobs
from eocube.io.index import INDEX
from eocube.io.sources import read_sources
from eocube.jobs.convert import plan_convert
from eocube.jobs.plan import Plan
from eocube.model.spec import Cut, Place, choose_spec
from eocube.testing.stores import index_rows, same_store, tree
from eocube.testing.tiles import CELLS, DATES, SITE_PX, TileCorpus, site_pixels, tile_frame

SITES = ("A_01_02", "A_01_03", "A_39_00")


def convert(store: Path, *sites: str, **told: Any) -> Any:
    corpus_options = {k: told.pop(k) for k in ("missing", "broken") if k in told}
    return eocube.convert(TileCorpus(*sites, **corpus_options), str(store), executor="serial", **told)


def shards(store: Path, product: str = "pf") -> list[str]:
    return sorted(key for key in tree(store / "cubes" / "A" / product) if key.startswith("data/c/"))


def test_three_of_sixteen_hundred_cells_are_three_tasks_and_three_shards(tmp_path: Path) -> None:
    (plan,) = plan_convert(TileCorpus(*SITES), str(tmp_path))
    assert CELLS**2 == 1600
    assert (plan.n_regions, len(Plan([plan])), Plan([plan]).summary().tasks) == (3, 3, 3)
    report = convert(tmp_path, *SITES)
    assert (report.regions_done, report.cubes) == (3, ["A/pf"])
    assert shards(tmp_path) == ["data/c/0/0/1/2", "data/c/0/0/1/3", "data/c/0/0/39/0"]
    assert [r["site"] for r in index_rows(tmp_path)] == list(SITES)


def test_a_site_is_read_back_as_it_was_and_as_any_zarr_reader_reads_it(tmp_path: Path) -> None:
    convert(tmp_path, *SITES)
    plain = xr.open_zarr(tmp_path / "cubes" / "A" / "pf", consolidated=True, mask_and_scale=False)
    for site in SITES:
        cube = eocube.open_store(str(tmp_path)).cube(site, "pf")
        y, x = (slice(int(i) * SITE_PX, (int(i) + 1) * SITE_PX) for i in site.split("_")[1:])
        for name in ("data", "angles", "valid"):
            np.testing.assert_array_equal(cube[name], site_pixels(site, name))
            np.testing.assert_array_equal(plain[name][..., y, x], site_pixels(site, name))
        assert cube["angles"].dims == ("time", "angle", "y", "x")
        assert list(cube["angle"].values) == ["zenith", "azimuth"]
        np.testing.assert_array_equal(cube["x"], plain["x"][x])
    empty = plain["data"].isel(y=slice(60, 66), x=slice(60, 66))
    assert (empty == -32768).all()


def test_rows_say_where_each_site_lies_and_what_is_clear_there(tmp_path: Path) -> None:
    convert(tmp_path, *SITES, missing=[(SITES[0], 1)])
    first, second, third = index_rows(tmp_path)
    assert (first["cube"], first["window"], first["shape"]) == ("A", [6, 12, 12, 18], [6, 6])
    assert third["window"] == [39 * 6, 40 * 6, 0, 6]
    assert (first["clear_fraction"], second["clear_fraction"]) == (1 - 1 / DATES, 1.0)
    assert first["bbox"]["xmax"] == pytest.approx(second["bbox"]["xmin"], abs=1e-4), "neighbours"


def test_adding_a_site_touches_no_shard_of_another_and_gives_the_store_of_all_at_once(tmp_path: Path) -> None:
    convert(tmp_path / "grown", *SITES[:2])
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "grown" / "cubes").rglob("*") if p.is_file()}
    report = convert(tmp_path / "grown", SITES[2])
    assert report.regions_done == 1
    after = {p: p.stat().st_mtime_ns for p in before}
    assert after == before
    assert [r["site"] for r in index_rows(tmp_path / "grown")] == list(SITES)
    convert(tmp_path / "once", *SITES)
    assert same_store(tmp_path / "grown", tmp_path / "once")
    assert len(list((tmp_path / "grown" / "index" / "A").iterdir())) == 1, "the part of two is replaced by the part of three"


def test_the_same_command_again_does_nothing(tmp_path: Path) -> None:
    convert(tmp_path, *SITES)
    before = tree(tmp_path / "cubes"), tree(tmp_path / "markers"), tree(tmp_path / "index")
    report = convert(tmp_path, *SITES)
    assert (report.regions_done, report.regions_skipped, report.cubes) == (0, 3, ["A/pf"])
    assert (tree(tmp_path / "cubes"), tree(tmp_path / "markers"), tree(tmp_path / "index")) == before


def test_runs_over_other_sites_at_once_lose_none(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: convert(tmp_path / "all", f"A_{n:02d}_07", f"A_{n:02d}_08"), range(8)))
    convert(tmp_path / "once", *(f"A_{n:02d}_{c:02d}" for n in range(8) for c in (7, 8)))
    assert sorted(r["site"] for r in index_rows(tmp_path / "all")) == [r["site"] for r in index_rows(tmp_path / "once")]
    eocube.index(str(tmp_path / "all"))
    assert same_store(tmp_path / "all", tmp_path / "once")


def test_sites_that_are_there_stay_in_the_index_while_others_come(tmp_path: Path) -> None:
    convert(tmp_path, *SITES[:2])
    seen: list[list[str]] = []
    convert(tmp_path, SITES[2], "A_20_20", on_done=lambda _: seen.append(parts_of(tmp_path)))
    assert seen == [list(SITES[:2])] * 2
    assert parts_of(tmp_path) == sorted([*SITES, "A_20_20"])


def parts_of(store: Path) -> list[str]:
    """Sites in the parts of the index."""
    return sorted(site for part in (store / "index").rglob("*.parquet") for site in pq.read_table(part)["site"].to_pylist())


def test_a_site_whose_marker_is_lost_is_not_in_the_index_while_it_is_written_again(tmp_path: Path) -> None:
    convert(tmp_path, *SITES)
    (marker,) = (tmp_path / "markers" / "A" / "pf" / "0.39.0").iterdir()
    marker.unlink()
    seen: list[list[str]] = []
    convert(tmp_path, *SITES, on_done=lambda _: seen.append(parts_of(tmp_path)))
    assert seen == [[]]
    assert parts_of(tmp_path) == list(SITES)


def test_a_summary_is_that_of_the_site(tmp_path: Path) -> None:
    convert(tmp_path, *SITES, missing=[(SITES[1], 4)])
    for site in SITES:
        summary = eocube.open_store(str(tmp_path)).clear_summary(site, "pf").compute()
        assert summary.shape[0] == DATES
        assert summary.shape[1:] == (1, 1)
        assert [bool((date == 100).all()) for date in summary] == [not (site == SITES[1] and t == 4) for t in range(DATES)]


def test_patches_of_sites_in_bigger_cubes_are_refused(tmp_path: Path) -> None:
    convert(tmp_path, *SITES)
    spec = eocube.PatchSpec(lr_product="pf", hr_product="pf", lr_px=2, scale=1)
    with pytest.raises(PatchError, match=r"lie in bigger cubes \(A\).*write_cube"):
        eocube.plan_patches(str(tmp_path), spec)


def test_a_limit_leaves_rows_of_the_sites_that_are_done(tmp_path: Path) -> None:
    report = convert(tmp_path, *SITES, limit=2)
    assert report.stopped_at_limit
    assert report.cubes == []
    assert [r["site"] for r in index_rows(tmp_path)] == list(SITES[:2])
    convert(tmp_path, *SITES)
    assert [r["site"] for r in index_rows(tmp_path)] == list(SITES)


def test_dates_that_come_later_renew_their_site_only(tmp_path: Path) -> None:
    convert(tmp_path / "later", *SITES, missing=[(SITES[1], 4)])
    assert convert(tmp_path / "later", *SITES).regions_done == 1
    convert(tmp_path / "once", *SITES)
    assert same_store(tmp_path / "later", tmp_path / "once")


def test_a_broken_site_is_listed_and_healed_alone(tmp_path: Path) -> None:
    report = convert(tmp_path / "s", *SITES, broken=[SITES[1]], errors="skip")
    assert {row["item_id"] for row in report.failed} == {SITES[1]}
    assert [r["unfinished_regions"] for r in index_rows(tmp_path / "s")] == [0, 1, 0]
    assert convert(tmp_path / "s", *SITES, retry=True).regions_done == 1
    convert(tmp_path / "once", *SITES)
    assert same_store(tmp_path / "s", tmp_path / "once")


def test_audit_looks_at_sites_only_and_finds_what_is_lost_of_them(tmp_path: Path) -> None:
    convert(tmp_path, *SITES)
    report = eocube.audit(str(tmp_path), deep=True, executor="serial")
    assert (report.ok, report.regions) == (True, 3)
    (tmp_path / "cubes" / "A" / "pf" / "data" / "c" / "0" / "0" / "1" / "3").unlink()
    assert eocube.audit(str(tmp_path), executor="serial").counts == {"missing": 1}
    for marker in (tmp_path / "markers" / "A" / "pf" / "0.39.0").iterdir():
        marker.unlink()
    counts = eocube.audit(str(tmp_path), executor="serial").counts
    assert counts["unfinished"] == 1, "the index has the site, no marker is there"


def test_what_a_killed_run_put_of_a_site_without_its_marker_is_no_stranger(tmp_path: Path) -> None:
    convert(tmp_path / "s", *SITES[:2])
    convert(tmp_path / "once", *SITES)
    late = [key for key in tree(tmp_path / "once") if key.startswith("cubes/A/pf/") and key.endswith("/39/0")]
    for key in late:  # as it stands between a region's objects and its marker
        (tmp_path / "s" / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "s" / key).write_bytes((tmp_path / "once" / key).read_bytes())
    outside = tmp_path / "s" / "cubes" / "A" / "pf" / "data" / "c" / "0" / "0" / "40" / "0"
    outside.parent.mkdir(parents=True)
    outside.write_bytes(b"x")
    report = eocube.audit(str(tmp_path / "s"), executor="serial")
    assert {(r.problem, r.region, r.key) for r in report.rows} == {
        *(("no_marker", "0.39.0", key) for key in late),
        ("unfinished", "0.39.0", "markers/A/pf/0.39.0"),
        ("unknown_object", "", outside.relative_to(tmp_path / "s").as_posix()),
    }
    assert any(text.startswith("unfinished") and "run again" in text for text in report.advice)
    outside.unlink()
    convert(tmp_path / "s", *SITES)
    assert eocube.audit(str(tmp_path / "s"), executor="serial").ok
    assert len(late) > 1


def test_the_index_is_made_again_from_the_markers(tmp_path: Path) -> None:
    convert(tmp_path, *SITES)
    rows, parts = index_rows(tmp_path), tree(tmp_path / "index")
    (tmp_path / INDEX).unlink()
    for part in (tmp_path / "index" / "A").iterdir():
        part.unlink()
    eocube.index(str(tmp_path))
    assert index_rows(tmp_path) == rows
    assert tree(tmp_path / "index") == parts


def test_the_files_of_every_run_stay_known(tmp_path: Path) -> None:
    convert(tmp_path, *SITES[:2])
    convert(tmp_path, *SITES[1:])
    table = read_sources(open_blobs(str(tmp_path)), "A", "pf")
    assert sorted(set(table["item_id"].to_pylist())) == list(SITES)
    assert table.num_rows == 3 * DATES


def test_compose_makes_the_sites_of_its_input_and_no_others(tmp_path: Path) -> None:
    convert(tmp_path / "in", *SITES)
    report = eocube.compose(
        str(tmp_path / "in"), str(tmp_path / "out"), mask=None, freq="1MS", method="median", executor="serial"
    )
    n_months = len(eocube.open_store(str(tmp_path / "out")).cube(SITES[0], "pf_median_1MS")["time"])
    assert report.regions_done == 3 * n_months
    assert [(r["site"], r["window"]) for r in index_rows(tmp_path / "out")] == [
        (r["site"], r["window"]) for r in index_rows(tmp_path / "in")
    ]
    assert len(shards(tmp_path / "out", "pf_median_1MS")) == 3 * n_months
    for site in SITES:
        lazily = eocube.composite(eocube.open_store(str(tmp_path / "in")).cube(site, "pf"), "1MS", "median")
        stored = eocube.open_store(str(tmp_path / "out")).cube(site, "pf_median_1MS")
        np.testing.assert_array_equal(stored["data"], lazily["data"])
    assert eocube.audit(str(tmp_path / "out"), deep=True, executor="serial").ok


def test_compose_of_one_site_is_one_task_a_month(tmp_path: Path) -> None:
    convert(tmp_path / "in", *SITES)
    report = eocube.compose(
        str(tmp_path / "in"), str(tmp_path / "out"), sites=[SITES[2]], mask=None, freq="1YS", executor="serial"
    )
    assert report.regions_done == 1
    assert [r["site"] for r in index_rows(tmp_path / "out")] == [SITES[2]]


def test_a_chain_on_one_site_is_a_cube_of_its_own(tmp_path: Path) -> None:
    convert(tmp_path / "in", *SITES)
    cube = eocube.to_reflectance(eocube.open_store(str(tmp_path / "in")).cube(SITES[1], "pf"))
    eocube.write_cube(cube, str(tmp_path / "out"), site="mine", product="refl", executor="serial")
    stored = eocube.open_store(str(tmp_path / "out")).cube("mine", "refl")
    np.testing.assert_allclose(stored["data"], site_pixels(SITES[1], "data") * np.float32(1e-4), rtol=1e-6)


def test_a_tile_opened_plainly_knows_its_sites(tmp_path: Path) -> None:
    convert(tmp_path / "in", *SITES)
    tile = eocube.open_cube(str(tmp_path / "in" / "cubes" / "A" / "pf"))
    report = eocube.write_cube(eocube.to_reflectance(tile), str(tmp_path / "out"), site="A", product="refl", executor="serial")
    assert report.regions_done == 3
    assert [r["site"] for r in index_rows(tmp_path / "out")] == list(SITES)


def test_a_tile_without_a_finished_site_is_refused(tmp_path: Path) -> None:
    convert(tmp_path / "in", *SITES, limit=1, broken=SITES, errors="skip")
    for part in (tmp_path / "in" / "index" / "A").iterdir():
        part.unlink()
    with pytest.raises(CubeError, match="No site of A/pf"):
        eocube.write_cube(
            eocube.to_reflectance(eocube.open_cube(str(tmp_path / "in" / "cubes" / "A" / "pf"))),
            str(tmp_path / "out"),
            executor="serial",
        )


@pytest.mark.parametrize("span", [(0, 7), (3, 9), (234, 246)])
def test_a_site_that_is_no_window_of_whole_shards_is_refused(span: tuple[int, int]) -> None:
    cut = Cut(chunk_tyx=(1, SITE_PX, SITE_PX), shard_tyx=(1, SITE_PX, SITE_PX))
    with pytest.raises(GridError, match="whole shards"):
        choose_spec(tile_frame("A"), cut=cut, places=(Place("s", span, (0, SITE_PX)),))
