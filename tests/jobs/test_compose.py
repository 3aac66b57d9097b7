"""compose: every cube of a store, store to store, resumable, and nothing silently left out or put in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import eocube
from eocube.corpora.stac_items import read_items
from eocube.errors import ArgumentError, CatalogError, CubeError, LateDateError, StoreNotFoundError, UnknownNameError
from eocube.jobs.compose import chain, plan_compose
from eocube.testing.contracts_step import assert_same_cube
from eocube.testing.stores import cubes_of, index_rows, markers_of, same_store

SITE = "EPSG3035_5271983_2533004"


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The 140 items of the shipped sample, by date."""
    found = read_items(eocube.sample_corpus("sentinel2", tmp_path_factory.mktemp("sample")))
    return sorted(map(dict, found), key=lambda i: i["properties"]["datetime"])


@pytest.fixture(scope="module")
def few(items: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of the first 30 dates, both products."""
    store = tmp_path_factory.mktemp("few") / "store"
    eocube.convert(eocube.open_corpus("stac", items[:30]), str(store), executor="threads:2")
    return store


def products(store: Path) -> list[str]:
    return [r["product"] for r in index_rows(store)]


# ------------------------------------------------------------------------------------------------ what it makes


def test_a_store_of_composites_holds_what_the_lazy_chain_computes(few: Path, tmp_path: Path) -> None:
    report = eocube.compose(str(few), str(tmp_path / "out"), executor="threads:2")
    assert report.ok
    assert products(tmp_path / "out") == ["10m_median_1MS", "20m_median_1MS"]
    for product in ("10m", "20m"):
        lazy = chain(eocube.open_store(str(few)).cube(SITE, product))
        stored = eocube.open_store(str(tmp_path / "out")).cube(SITE, f"{product}_median_1MS")
        assert_same_cube(stored.compute(), lazy.compute())
        assert stored.attrs["license"] == lazy.attrs["license"]


@pytest.mark.parametrize(
    ("steps", "product"),
    [
        ({"freq": None}, "20m_scl"),
        ({"index": "ndvi", "freq": "QS-DEC"}, "20m_ndvi_median_QS-DEC"),
        ({"reflectance": True, "freq": "YS", "method": "mean"}, "20m_refl_mean_YS"),
        ({"mask": None, "freq": None, "reflectance": True}, "20m_refl"),
    ],
)
def test_products_are_named_by_their_steps(few: Path, tmp_path: Path, steps: dict[str, Any], product: str) -> None:
    eocube.compose(str(few), str(tmp_path / "out"), products=["20m"], executor="serial", **steps)
    assert products(tmp_path / "out") == [product]
    lazy = chain(eocube.open_store(str(few)).cube(SITE, "20m"), **steps)
    assert_same_cube(eocube.open_store(str(tmp_path / "out")).cube(SITE, product).compute(), lazy.compute())


def test_a_store_may_take_its_own_composites_and_they_are_not_composed_again(few: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    _copy(few, store)
    originals = cubes_of(store)
    made = ["10m", "10m_median_1MS", "20m", "20m_median_1MS"]
    for _ in range(2):
        eocube.compose(str(store), str(store), executor="serial")
        assert products(store) == made
    seasons = [f"{p}_median_QS" for p in ("10m", "20m")]
    eocube.compose(str(store), str(store), executor="serial", freq="QS")
    assert products(store) == sorted([*made, *seasons])
    now = cubes_of(store)
    assert {k: now[k] for k in originals} == originals


def test_composites_of_composites_are_made_when_they_are_named_and_only_once(few: Path, tmp_path: Path) -> None:
    months, years = tmp_path / "months", {"mask": None, "freq": "YS", "method": "mean"}
    eocube.compose(str(few), str(months), products=["20m"], executor="serial")
    for _ in range(2):
        eocube.compose(str(months), str(months), executor="serial", **years)
        assert products(months) == ["20m_median_1MS", "20m_median_1MS_mean_YS"]
    eocube.compose(str(months), str(tmp_path / "named"), products=["20m_median_1MS"], executor="serial", **years)
    assert products(tmp_path / "named") == ["20m_median_1MS_mean_YS"]


# ------------------------------------------------------------------------------------------------ same bytes


@pytest.mark.parametrize("executor", ["threads:3", pytest.param("processes:2", marks=pytest.mark.slow)])
def test_every_executor_gives_the_bytes_of_the_serial_one(few: Path, tmp_path: Path, executor: str) -> None:
    for where, how in (("serial", "serial"), ("other", executor)):
        eocube.compose(str(few), str(tmp_path / where), executor=how, products=["20m"], freq="QS-DEC")
    assert same_store(tmp_path / "serial", tmp_path / "other")


def test_a_second_run_does_nothing(few: Path, tmp_path: Path) -> None:
    first = eocube.compose(str(few), str(tmp_path / "out"), executor="serial", freq="YS")
    before = cubes_of(tmp_path / "out")
    again = eocube.compose(str(few), str(tmp_path / "out"), executor="serial", freq="YS")
    assert (again.regions_done, again.regions_skipped) == (0, first.regions_done)
    assert cubes_of(tmp_path / "out") == before


def test_late_dates_inside_a_period_renew_it_and_the_store_is_that_of_all_dates_at_once(
    items: list[dict[str, Any]], tmp_path: Path
) -> None:
    """38 dates end inside a month that the 39th goes on with; 44 dates begin further months."""
    days = [i["properties"]["datetime"][:7] for i in items]
    cut = next(n for n in range(36, 60) if days[n] == days[n - 1])
    grown, whole = tmp_path / "grown", tmp_path / "whole"
    done = []
    for n in (cut, cut + 6):
        corpus = eocube.open_corpus("stac", items[:n], bands=["red", "nir08"])
        eocube.convert(corpus, f"{grown}-in", executor="serial", layout="patch", products=["20m"])
        done.append(eocube.compose(f"{grown}-in", str(grown), executor="serial"))
    corpus = eocube.open_corpus("stac", items[: cut + 6], bands=["red", "nir08"])
    eocube.convert(corpus, f"{whole}-in", executor="serial", layout="patch", products=["20m"])
    eocube.compose(f"{whole}-in", str(whole), executor="serial")
    assert same_store(f"{grown}-in", f"{whole}-in")
    assert same_store(grown, whole)
    months = [len(set(days[:n])) for n in (cut, cut + 6)]
    assert done[0].regions_done == months[0]
    assert months[1] - months[0] < done[1].regions_done < months[1]  # the new months and the touched ones, not all


@pytest.mark.slow
def test_100_dates_then_40_equal_140_at_once(items: list[dict[str, Any]], tmp_path: Path) -> None:
    for n, name in ((100, "grown"), (140, "grown"), (140, "whole")):
        eocube.convert(eocube.open_corpus("stac", items[:n]), str(tmp_path / f"{name}-in"), executor="threads:2")
        eocube.compose(str(tmp_path / f"{name}-in"), str(tmp_path / name), executor="threads:2")
    assert same_store(tmp_path / "grown", tmp_path / "whole")


RUN = "import sys, eocube; eocube.compose(sys.argv[1], sys.argv[2], executor=sys.argv[3], freq='QS-DEC')"


@pytest.mark.slow
@pytest.mark.parametrize("where", ["after_shard", "template", "index"])
@pytest.mark.parametrize("executor", ["serial", "threads:2"])
def test_killed_and_run_again_it_is_an_undisturbed_run(few: Path, tmp_path: Path, where: str, executor: str) -> None:
    eocube.compose(str(few), str(tmp_path / "whole"), executor="serial", freq="QS-DEC")
    command = [sys.executable, "-c", RUN, str(few), str(tmp_path / "killed"), executor]
    died = subprocess.run(command, env={**os.environ, "EOCUBE_KILL_AT": where}, capture_output=True, check=False)
    assert died.returncode == -9, died.stderr.decode()
    subprocess.run(command, check=True)
    assert same_store(tmp_path / "whole", tmp_path / "killed")


def test_a_period_that_came_late_is_put_in_by_rebuilding(items: list[dict[str, Any]], tmp_path: Path) -> None:
    grown, whole = tmp_path / "grown", tmp_path / "whole"
    without = [i for i in items[:8] if not i["properties"]["datetime"].startswith("2016-03")]
    assert without[0] is items[0]
    assert without[-1] is items[7]
    for chosen, out, again in ((without, grown, ()), (items[:8], grown, (SITE,)), (items[:8], whole, ())):
        corpus = eocube.open_corpus("stac", chosen, bands=["red", "nir08"])
        eocube.convert(corpus, f"{out}-in", executor="serial", products=["20m"], rebuild=again)
        if again:
            with pytest.raises(LateDateError):
                eocube.compose(f"{out}-in", str(out), executor="serial")
        eocube.compose(f"{out}-in", str(out), executor="serial", rebuild=again)
    assert same_store(grown, whole)


def test_a_new_store_says_where_its_pixels_come_from(few: Path, tmp_path: Path) -> None:
    eocube.compose(str(few), str(tmp_path / "out"), executor="serial", products=["20m"], freq="YS")
    old, new = (json.loads((s / "zarr.json").read_text())["attributes"] for s in (few, tmp_path / "out"))
    assert new["attributions"] == old["attributions"] != []
    assert new["licenses"] == old["licenses"]


# ------------------------------------------------------------------------------------------------ refused


@pytest.fixture
def untouched(tmp_path: Path) -> Path:
    """A place where nothing may be written."""
    return tmp_path / "untouched"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"sites": [SITE, "elsewhere"]}, "Unknown site 'elsewhere'"),
        ({"products": ["20m", "60m"]}, "Unknown product '60m'"),
        ({"mask": "qa60"}, "Unknown cloud mask method 'qa60'"),
        ({"index": "nvdi"}, "Unknown spectral index 'nvdi'"),
        ({"index": "evi"}, "Unknown band 'blue'"),  # 10 m has it, 20 m has not: nothing is written of either
        ({"freq": "1ME"}, "Unknown freq '1ME'"),
        ({"method": "mode"}, "Unknown composite method 'mode'"),
        ({"layout": "flat"}, "Unknown layout 'flat'"),
    ],
)
def test_unknown_names_are_refused_before_anything_is_written(
    few: Path, untouched: Path, arguments: dict[str, Any], said: str
) -> None:
    with pytest.raises(UnknownNameError, match=said):
        eocube.compose(str(few), str(untouched), executor="serial", **arguments)
    assert not untouched.exists()


def test_the_error_says_which_cube_it_is_about(few: Path, untouched: Path) -> None:
    with pytest.raises(UnknownNameError) as caught:
        eocube.compose(str(few), str(untouched), index="evi")
    assert any(f"{SITE}/20m" in note for note in caught.value.__notes__)


def test_no_step_no_store_and_no_cube_are_refused(few: Path, untouched: Path) -> None:
    with pytest.raises(CubeError, match="no step"):
        eocube.compose(str(few), str(untouched), mask=None, freq=None)
    with pytest.raises(StoreNotFoundError):
        eocube.compose(str(untouched), str(untouched))
    with pytest.raises(ArgumentError, match="sites is an empty list"):
        eocube.compose(str(few), str(untouched), sites=[])
    assert not untouched.exists()


def test_a_store_whose_conversion_is_not_finished_has_no_cube_yet(
    items: list[dict[str, Any]], tmp_path: Path, untouched: Path
) -> None:
    eocube.convert(eocube.open_corpus("stac", items[:20]), str(tmp_path / "in"), executor="serial", limit=1)
    with pytest.raises(CatalogError, match=r"index has 0 cubes.*finish convert"):
        eocube.compose(str(tmp_path / "in"), str(untouched))
    assert not untouched.exists()


def test_a_run_that_was_limited_goes_on_where_it_stopped(few: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"executor": "serial", "freq": "QS-DEC", "products": ["20m"]}
    first = eocube.compose(str(few), str(tmp_path / "out"), limit=2, **options)
    assert (first.regions_done, first.stopped_at_limit) == (2, True)
    second = eocube.compose(str(few), str(tmp_path / "out"), **options)
    assert second.regions_skipped == 2
    eocube.compose(str(few), str(tmp_path / "whole"), **options)
    assert same_store(tmp_path / "out", tmp_path / "whole")


def test_one_site_may_be_named_without_a_list(few: Path, untouched: Path) -> None:
    assert len(list(plan_compose(str(few), str(untouched), sites=SITE, products="20m", steps={"freq": "YS"}))) == 1


def test_a_cube_with_a_missing_file_is_refused_until_it_is_healed(items: list[dict[str, Any]], tmp_path: Path) -> None:
    six = [json.loads(json.dumps(i)) for i in items[:6]]
    broken = next(a for a in six[2]["assets"].values() if "B11" in Path(a["href"]).name)
    right, broken["href"] = broken["href"], str(tmp_path / "later.tif")
    store, out = str(tmp_path / "store"), tmp_path / "out"
    options: dict[str, Any] = {"products": ["20m"], "executor": "serial"}
    report = eocube.convert(eocube.open_corpus("stac", six), store, errors="skip", **options)
    assert len(report.failed) == 1
    with pytest.raises(CubeError, match=r"silent holes: .*20m \(1 regions\)"):
        eocube.compose(store, str(out), **options)
    assert not out.exists()
    (tmp_path / "later.tif").write_bytes(Path(right).read_bytes())
    eocube.convert(eocube.open_corpus("stac", six), store, retry=True, **options)
    assert eocube.compose(store, str(out), **options).ok


def test_a_region_unfinished_since_the_index_was_made_is_refused(few: Path, tmp_path: Path) -> None:
    """A marker that is gone stands for a run that is under way; the index does not know of it."""
    store = tmp_path / "store"
    _copy(few, store)
    next((store / "markers" / SITE / "20m" / "1.0.0").iterdir()).unlink()
    with pytest.raises(CubeError, match="not finished: its pixels would be a silent hole"):
        eocube.compose(str(store), str(tmp_path / "out"), executor="serial", products=["20m"])
    assert not markers_of(tmp_path / "out")
    assert not index_rows(tmp_path / "out")
    assert not (tmp_path / "out" / "cubes").exists()


# ------------------------------------------------------------------------------------------------ numbers


def test_monthly_medians_of_the_real_sample_are_numpys(few: Path, tmp_path: Path) -> None:
    eocube.compose(str(few), str(tmp_path / "out"), executor="serial", products=["10m"])
    made = eocube.open_cube(f"{tmp_path}/out/cubes/{SITE}/10m_median_1MS", chunks=None)
    plain = xr.open_zarr(f"{few}/cubes/{SITE}/10m", zarr_format=3, consolidated=True, mask_and_scale=False).load()
    values = plain["data"].values.astype(np.float64)
    clear = np.isin(plain["scl"].values, (4, 5, 6, 7, 11))
    values[np.broadcast_to(~clear[:, None], values.shape) | (values == 0)] = np.nan
    months = plain["time"].values.astype("M8[M]")
    assert list(made["time"].values.astype("M8[M]")) == sorted(set(months))
    for i, month in enumerate(sorted(set(months))):
        members = values[months == month]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "All-NaN slice encountered")
            median = np.rint(np.nanmedian(members, axis=0))  # to even, as the kernel rounds
        expected = np.where(np.isnan(median), 0, median).astype(np.uint16)
        np.testing.assert_array_equal(made["data"].values[i], expected)
        np.testing.assert_array_equal(made["n_clear"].values[i], (~np.isnan(members)).all(axis=1).sum(axis=0))


def _copy(source: Path, target: Path) -> None:
    import shutil

    shutil.copytree(source, target)
