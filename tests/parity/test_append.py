"""Appending: dates in two runs equal dates in one, byte for byte; whoever knows less than the store changes nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from eocube.corpora.sample import sample_corpus
from eocube.corpora.stac import build_source
from eocube.errors import CubeError, EocubeError, LateDateError, StalePlanError
from eocube.exec.drive import CubePlan, RunReport
from eocube.exec.region import RegionTask, run_regions
from eocube.io.blobs import open_blobs
from eocube.io.cubes import CubeSource
from eocube.io.markers import list_markers
from eocube.jobs.convert import convert
from eocube.jobs.open import open_corpus
from eocube.jobs.write import WriteSettings, plan_node, run_plans
from eocube.lazy.composite import composite
from eocube.lazy.cube import lazy_cube
from eocube.model.recipe import Binding, recipe_of, whole
from eocube.model.spec import SHARD_DATES, Layout
from eocube.testing.stac import SyntheticReader, SyntheticScene, expected_cube, item_dict, make_grid, make_series
from eocube.testing.stores import cubes_of, cut_plan, index_rows, markers_of, same_store, tree

LAYOUTS: list[Layout] = ["map", "patch", "balanced", "series"]
GRID = make_grid((20, 24))
SERIES = make_series(140, grid=GRID)


def plan(scenes: list[SyntheticScene], store: Path, *, layout: Layout = "balanced", cut: bool = False) -> CubePlan:
    """The plan of converting scenes, without files; ``cut`` makes 2 × 2 regions in space."""
    source = build_source([item_dict(s) for s in scenes], reader=SyntheticReader(scenes))
    binding = Binding(sources={source.node["source"]: source})
    made = plan_node(source.node, binding, str(store), site="s", product="p", settings=WriteSettings(layout=layout), licence={})
    dates = made.job.spec.shard_tyx[0]
    return cut_plan(made, chunk_tyx=(1, 8, 8), shard_tyx=(dates, 16, 16)) if cut else made


def write(scenes: list[SyntheticScene], store: Path, *, limit: int | None = None, **options: Any) -> RunReport:
    return run_plans(str(store), [plan(scenes, store, **options)], executor="serial", limit=limit)


def everything(store: Path) -> dict[str, str]:
    """The whole store but for the reports of runs."""
    return {k: v for k, v in tree(store).items() if not k.startswith("runs/")}


# ------------------------------------------------------------------------------------------------ equal bytes


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_hundred_dates_then_forty_equal_all_at_once(tmp_path: Path, layout: Layout) -> None:
    write(SERIES, tmp_path / "once", layout=layout)
    write(SERIES[:100], tmp_path / "twice", layout=layout)
    report = write(SERIES, tmp_path / "twice", layout=layout)
    assert same_store(tmp_path / "once", tmp_path / "twice")
    kept = 100 // SHARD_DATES[layout]
    assert report.regions_skipped == kept, "full shards of the first run are not touched"


@pytest.mark.parametrize("steps", [(1, 2, 3), (16, 17), (3, 16, 20), (15, 16, 32)], ids=str)
def test_any_cuts_of_the_series_give_the_same_store(tmp_path: Path, steps: tuple[int, ...]) -> None:
    n = 33
    write(SERIES[:n], tmp_path / "once", cut=True)
    for upto in (*steps, n):
        write(SERIES[:upto], tmp_path / "steps", cut=True)
    assert same_store(tmp_path / "once", tmp_path / "steps")


def test_the_real_sample_in_two_runs_equals_it_in_one(tmp_path: Path) -> None:
    import pystac

    catalog = pystac.Catalog.from_file(str(sample_corpus("sentinel2", tmp_path)))
    catalog.make_all_asset_hrefs_absolute()
    items = sorted((i.to_dict() for i in catalog.get_items(recursive=True)), key=lambda i: i["properties"]["datetime"])
    assert len(items) == 140
    everywhen, first = open_corpus("stac", items), open_corpus("stac", items[:100])
    convert(everywhen, str(tmp_path / "once"), executor="threads", products=["20m"])
    convert(first, str(tmp_path / "twice"), executor="threads", products=["20m"])
    convert(everywhen, str(tmp_path / "twice"), executor="threads", products=["20m"])
    assert same_store(tmp_path / "once", tmp_path / "twice")


def test_an_appended_cube_opens_plainly_with_every_date(tmp_path: Path) -> None:
    write(SERIES[:5], tmp_path)
    write(SERIES[:21], tmp_path)
    cube = xr.open_zarr(str(tmp_path / "cubes/s/p"), zarr_format=3, consolidated=True, mask_and_scale=False)
    np.testing.assert_array_equal(cube["data"].values, expected_cube(SERIES[:21], ["B04", "B08"]))
    assert list(cube["time"].values.astype("M8[ms]").astype("i8")) == [s.time_ms for s in SERIES[:21]]
    assert list(cube["item_id"].values) == [s.item_id for s in SERIES[:21]]


def test_dates_with_hours_keep_their_milliseconds(tmp_path: Path) -> None:
    odd = [
        replace(SERIES[0], when="2021-01-03T09:30:00.123", item_id="a"),
        replace(SERIES[1], when="2021-01-08T23:59:59.999", item_id="b"),
    ]
    write(odd[:1], tmp_path)
    write(odd, tmp_path)
    cube = xr.open_zarr(str(tmp_path / "cubes/s/p"), zarr_format=3, consolidated=True)
    assert [str(t)[:23] for t in cube["time"].values] == ["2021-01-03T09:30:00.123", "2021-01-08T23:59:59.999"]


# ------------------------------------------------------------------------------------------------ refusals


def refused(store: Path, scenes: list[SyntheticScene], error: type[EocubeError], match: str, **options: Any) -> EocubeError:
    """Writing is refused so, and nothing in the store but the run's report is other than before."""
    before = everything(store)
    with pytest.raises(error, match=match) as caught:
        write(scenes, store, **options)
    assert everything(store) == before
    return caught.value


def test_a_late_date_is_refused_by_name(tmp_path: Path) -> None:
    without = SERIES[:4] + SERIES[5:10]
    write(without, tmp_path)
    error = refused(tmp_path, SERIES[:10], LateDateError, "2021-01-23T09:30:00.* older than the last date 2021-02-17T09:30:00")
    assert isinstance(error, LateDateError)
    assert (error.cube, error.date) == ("s/p", "2021-01-23T09:30:00+00:00")


def test_a_late_date_is_refused_also_beside_a_new_one(tmp_path: Path) -> None:
    write(SERIES[:4] + SERIES[5:10], tmp_path)
    refused(tmp_path, SERIES[:12], LateDateError, "2021-01-23")


def test_fewer_dates_after_an_append_change_nothing(tmp_path: Path) -> None:
    write(SERIES[:10], tmp_path)
    write(SERIES[:21], tmp_path)
    refused(tmp_path, SERIES[:10], StalePlanError, "holds 21 dates, this run knows 10 of them")
    refused(tmp_path, SERIES[3:21], StalePlanError, "holds 21 dates, this run knows 18 of them")


def test_fewer_dates_together_with_newer_ones_change_nothing(tmp_path: Path) -> None:
    write(SERIES[:10], tmp_path)
    refused(tmp_path, SERIES[4:12], StalePlanError, "holds 10 dates, this run knows 6 of them")


def test_fewer_dates_before_the_append_is_published_change_nothing(tmp_path: Path) -> None:
    write(SERIES[:10], tmp_path, cut=True)
    write(SERIES[:14], tmp_path, cut=True, limit=2)
    refused(tmp_path, SERIES[:10], StalePlanError, "sources that this run does not know", cut=True)


def test_the_same_command_again_changes_nothing_at_all(tmp_path: Path) -> None:
    write(SERIES[:21], tmp_path)
    before = everything(tmp_path)
    report = write(SERIES[:21], tmp_path)
    assert (report.regions_done, report.regions_skipped, report.bytes_written) == (0, 2, 0)
    assert everything(tmp_path) == before


def test_fewer_sites_than_the_store_has_change_nothing(tmp_path: Path) -> None:
    scenes = [replace(s, properties={"grid:code": f"MGRS-35T{tile}"}) for s in SERIES[:3] for tile in ("LK", "MK")]
    scenes = [replace(s, item_id=f"{s.item_id}_{i}", number=i) for i, s in enumerate(scenes)]
    plans = {t: [s for s in scenes if s.properties["grid:code"].endswith(t)] for t in ("LK", "MK")}

    def site_plan(name: str) -> CubePlan:
        source = build_source([item_dict(s) for s in plans[name]], reader=SyntheticReader(scenes))
        binding = Binding(sources={source.node["source"]: source})
        return plan_node(source.node, binding, str(tmp_path), site=name, product="p", settings=WriteSettings(), licence={})

    run_plans(str(tmp_path), [site_plan("LK"), site_plan("MK")], executor="serial")
    before = everything(tmp_path)
    run_plans(str(tmp_path), [site_plan("LK")], executor="serial")
    assert everything(tmp_path) == before
    assert [r["site"] for r in index_rows(tmp_path)] == ["LK", "MK"]


# ------------------------------------------------------------------------------------------------ workers left over


def task_of(made: CubePlan, region: Any) -> RegionTask:
    """What a worker of this plan would be handed for a region, knowing the markers that are there now."""
    job = made.job
    leaves = job.leaves(job.spec.window(region))
    known = list_markers(open_blobs(job.store_url), job.cube, job.product, region)
    return RegionTask(region=region, key=job.region_key(region, leaves), leaves=leaves, replaces=tuple(known))


@pytest.mark.parametrize("had_begun", [False, True], ids=["before the first run", "after the first run"])
def test_an_older_worker_let_loose_after_an_append_stops(tmp_path: Path, *, had_begun: bool) -> None:
    old = plan(SERIES[:10], tmp_path, cut=True)
    if had_begun:
        write(SERIES[:10], tmp_path, cut=True)
    tasks = [task_of(old, region) for region in old.job.spec.regions()]
    write(SERIES[:10], tmp_path, cut=True)
    write(SERIES[:14], tmp_path, cut=True)
    before = everything(tmp_path)
    for task in tasks:
        with pytest.raises(StalePlanError, match=f"Region {task.region} of s/p .* newer plan"):
            run_regions(old.job, (task,))
    assert everything(tmp_path) == before


def test_an_older_worker_does_no_harm_to_shards_that_an_append_left_alone(tmp_path: Path) -> None:
    old = plan(SERIES[:20], tmp_path, cut=True)
    tasks = [task_of(old, region) for region in old.job.spec.regions() if region.t == 0]
    write(SERIES[:20], tmp_path, cut=True)
    write(SERIES[:24], tmp_path, cut=True)
    before = everything(tmp_path)
    run_regions(old.job, tuple(tasks))
    assert everything(tmp_path) == before


def test_a_run_that_began_before_an_append_was_published_does_not_publish_its_older_axis(tmp_path: Path) -> None:
    """Its tasks are done first, then the other run appends and publishes, and only then the first comes to its end."""
    write(SERIES[:10], tmp_path, cut=True)
    plans = [plan(SERIES[:12], tmp_path, cut=True)]
    done = 0

    def append_meanwhile(_: object) -> None:
        nonlocal done
        done += 1
        if done == plans[0].n_regions:
            write(SERIES[:14], tmp_path, cut=True)

    with pytest.raises(StalePlanError, match=r"meanwhile finished by a newer plan.*were not published"):
        run_plans(str(tmp_path), plans, executor="serial", on_done=append_meanwhile)
    write(SERIES[:14], tmp_path / "once", cut=True)
    assert cubes_of(tmp_path) == cubes_of(tmp_path / "once")
    assert markers_of(tmp_path) == markers_of(tmp_path / "once")
    assert index_rows(tmp_path) == index_rows(tmp_path / "once")


# ------------------------------------------------------------------------------------------------ left-over markers


def read_on(store: Path) -> None:
    """Plan a cube from the stored one: its regions must be finished."""
    source = CubeSource.open(str(store / "cubes/s/p"))
    source.ids(whole(source.frame()))


def test_a_marker_left_beside_its_successor_is_taken_away_and_does_not_count(tmp_path: Path) -> None:
    """A run killed between a new marker and the removal of the one it replaces leaves both."""
    write(SERIES[:14], tmp_path / "once", cut=True)
    write(SERIES[:10], tmp_path / "store", cut=True)
    old = {p.relative_to(tmp_path / "store"): p.read_bytes() for p in (tmp_path / "store/markers").rglob("*.json")}
    write(SERIES[:14], tmp_path / "store", cut=True)
    for name, body in old.items():
        (tmp_path / "store" / name).write_bytes(body)
    (tmp_path / "store/index.parquet").unlink()
    for part in (tmp_path / "store/index").rglob("*.parquet"):
        part.unlink()
    with pytest.raises(CubeError, match=r"Region .* is not finished"):
        read_on(tmp_path / "store")
    report = write(SERIES[:14], tmp_path / "store", cut=True)
    assert report.regions_done == 4, "whose bytes are there is not known, so the four regions of the last shard are redone"
    read_on(tmp_path / "store")
    assert same_store(tmp_path / "store", tmp_path / "once")


# ------------------------------------------------------------------------------------------------ same day, same bin


def test_a_second_item_of_a_day_that_is_there_renews_that_day(tmp_path: Path) -> None:
    west = [replace(s, footprint=((0, 20), (0, 12))) for s in SERIES[:4]]
    east = replace(SERIES[3], item_id="EAST", when="2021-01-18T09:30:14", number=50, footprint=((0, 20), (12, 24)))
    write(west, tmp_path / "twice")
    write([*west, east], tmp_path / "twice")
    write([*west, east], tmp_path / "once")
    assert same_store(tmp_path / "twice", tmp_path / "once")
    refused(tmp_path / "twice", west, StalePlanError, "does not know")


def compose(scenes: list[SyntheticScene], store: Path) -> RunReport:
    """Monthly medians of the scenes."""
    source = build_source([item_dict(s) for s in scenes], reader=SyntheticReader(scenes))
    recipe = recipe_of(composite(lazy_cube(source, source.node, chunks={"time": 4}), freq="1MS"))
    settings = WriteSettings(layout="patch")
    made = plan_node(recipe.node, recipe.binding, str(store), site="s", product="p", settings=settings, licence={})
    return run_plans(str(store), [made], executor="serial")


@pytest.mark.parametrize("first", [8, 10, 13, 20, 26, 31])
def test_a_composite_of_more_dates_renews_its_last_bins(tmp_path: Path, first: int) -> None:
    compose(SERIES[:first], tmp_path / "twice")
    compose(SERIES[:33], tmp_path / "twice")
    compose(SERIES[:33], tmp_path / "once")
    assert same_store(tmp_path / "twice", tmp_path / "once")


def test_a_late_date_inside_a_bin_renews_the_composite(tmp_path: Path) -> None:
    compose(SERIES[:7] + SERIES[8:20], tmp_path / "twice")
    compose(SERIES[:20], tmp_path / "twice")
    compose(SERIES[:20], tmp_path / "once")
    assert same_store(tmp_path / "twice", tmp_path / "once")
    before = everything(tmp_path / "twice")
    with pytest.raises(StalePlanError):
        compose(SERIES[:7] + SERIES[8:20], tmp_path / "twice")
    assert everything(tmp_path / "twice") == before
