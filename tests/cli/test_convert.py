"""eocube convert: what it writes, refuses and reports, and how it goes on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from eocube.jobs.audit import audit
from eocube.jobs.open import open_cube
from eocube.testing.stac import expected_cube
from eocube.testing.stores import cubes_of, index_rows, same_store, tree
from tests.cli.conftest import SITE, Catalog, Invoke, parsed

CUBE = f"cubes/{SITE}/10m"


def pixels(store: Path) -> np.ndarray:
    return open_cube(f"{store}/{CUBE}", chunks=None)["data"].values


def test_convert_writes_the_pixels_of_the_catalogue(eocube: Invoke, catalog: Catalog, store: Path) -> None:
    result = eocube("convert", "stac", catalog.path, store, "--cluster", "serial", "--layout", "map")
    assert result.exit_code == 0
    assert "4 regions written" in result.stdout
    assert f"{SITE}/10m" in result.stdout
    assert "convert: 4 of 4" in result.stderr
    np.testing.assert_array_equal(pixels(store), expected_cube(catalog.scenes, ["B04", "B08"]))
    assert audit(str(store), deep=True, executor="serial").ok


def test_json_is_the_run_report_and_nothing_else(eocube: Invoke, catalog: Catalog, store: Path) -> None:
    result = eocube("convert", "stac", catalog.path, store, "--json", "--layout", "map")
    report = parsed(result)
    assert report["ok"]
    assert (report["regions_done"], report["regions_skipped"], report["failed"]) == (4, 0, [])
    assert report["cubes"] == [f"{SITE}/10m"]


def test_the_same_command_again_has_nothing_to_do(eocube: Invoke, catalog: Catalog, store: Path) -> None:
    eocube("convert", "stac", catalog.path, store)
    before = cubes_of(store)
    result = eocube("convert", "stac", catalog.path, store, "--json")
    assert (parsed(result)["regions_done"], result.exit_code) == (0, 0)
    assert result.stderr == ""
    assert cubes_of(store) == before


def test_limit_writes_so_many_regions_and_the_next_run_the_rest(eocube: Invoke, catalog: Catalog, tmp_path: Path) -> None:
    command = ("convert", "stac", catalog.path, tmp_path / "a", "--layout", "map")
    result = eocube(*command, "--limit", 3)
    assert "3 regions written" in result.stdout
    assert "--limit" in result.stdout
    assert "3 of 3" in result.stderr
    result = eocube(*command)
    assert "1 region written, 3 were finished before" in result.stdout
    assert "1 of 1" in result.stderr
    eocube("convert", "stac", catalog.path, tmp_path / "b", "--layout", "map")
    assert same_store(tmp_path / "a", tmp_path / "b")


def test_plan_prints_the_cost_and_writes_nothing(eocube: Invoke, catalog: Catalog, store: Path) -> None:
    command = ("convert", "stac", catalog.path, store, "--layout", "map", "--plan")
    result = eocube(*command)
    assert "1 cube: 4 tasks" in result.stdout
    assert "MB" in result.stdout
    assert parsed(eocube(*command, "--json", "--limit", 2))["plan"]["tasks"] == 2
    assert not store.exists()


def test_plan_of_a_store_under_way_prices_what_is_left(eocube: Invoke, catalog: Catalog, store: Path) -> None:
    command = ("convert", "stac", catalog.path, store, "--layout", "map")
    eocube(*command, "--limit", 3)
    result = eocube(*command, "--plan")
    assert "1 cube: 1 tasks" in result.stdout
    assert "3 regions are finished" in result.stdout
    plan = parsed(eocube(*command, "--plan", "--json"))["plan"]
    assert (plan["tasks"], plan["finished"]) == (1, 3)
    assert parsed(eocube(*command, "--plan", "--json", "--rebuild", f"{SITE}/10m"))["plan"]["tasks"] == 4


@pytest.mark.parametrize(
    ("options", "bands", "n"),
    [
        pytest.param(["--bands", "nir"], ["nir"], 4, id="common name"),
        pytest.param(["--bands", "B08,red"], ["nir", "red"], 4, id="sensor name, order asked"),
        pytest.param(["--bands", "B08", "--bands", "B04"], ["nir", "red"], 4, id="repeated"),
        pytest.param(["--time", "2021-01-04/.."], ["red", "nir"], 3, id="from"),
        pytest.param(["--time", "../2021-01-08"], ["red", "nir"], 2, id="to, whole day"),
        pytest.param(["--time", "2021-01-08"], ["red", "nir"], 1, id="one day"),
        pytest.param(["--time", "2021-01"], ["red", "nir"], 4, id="a month"),
        pytest.param(["--time", "2020/2021"], ["red", "nir"], 4, id="years"),
        pytest.param(["--time", "2021-01-08T09:30:00Z/2021-01-13T09:30:00Z"], ["red", "nir"], 2, id="moments, both included"),
    ],
)
def test_bands_and_dates_are_chosen(
    eocube: Invoke, catalog: Catalog, store: Path, options: list[str], bands: list[str], n: int
) -> None:
    assert eocube("convert", "stac", catalog.path, store, "--plan", *options).exit_code == 0
    eocube("convert", "stac", catalog.path, store, *options)
    (row,) = index_rows(store)
    assert (row["bands"], row["n_dates"]) == (bands, n)


def test_an_area_in_degrees_becomes_one_site(eocube: Invoke, catalog: Catalog, store: Path) -> None:
    west, south, east, north = catalog.scenes[0].grid.geographic_extent.boundingbox.bbox
    x, y = (west + east) / 2, (south + north) / 2
    result = eocube("convert", "stac", catalog.path, store, "--bbox", f"{west},{south},{x},{y}", "--area", "corner")
    assert result.exit_code == 0, result.stderr
    (row,) = index_rows(store)
    assert row["site"] == "corner"
    assert 20 < row["shape"][0] < 32


@pytest.mark.parametrize("kind", ["json", "cube"])
def test_an_exact_grid_is_taken_from_json_or_from_a_cube(eocube: Invoke, catalog: Catalog, tmp_path: Path, kind: str) -> None:
    grid = '{"proj:code": "EPSG:32635", "proj:transform": [10, 0, 600100, 0, -10, 5000000], "proj:shape": [20, 30]}'
    eocube("convert", "stac", catalog.path, tmp_path / "a", "--geobox", grid)
    if kind == "cube":
        grid = f"{tmp_path}/a/cubes/area/10m"
    result = eocube("convert", "stac", catalog.path, tmp_path / "b", "--geobox", grid)
    assert result.exit_code == 0, result.stderr
    found = open_cube(f"{tmp_path}/b/cubes/area/10m", chunks=None)["data"].values
    np.testing.assert_array_equal(found, expected_cube(catalog.scenes, ["B04", "B08"])[:, :, 4:24, 10:40])


# ------------------------------------------------------------------------------------------------ wrong input


@pytest.mark.parametrize(
    ("words", "said", "code"),
    [
        pytest.param(["nope", "X", "S"], ["Unknown corpus 'nope'", "known: 'stac'"], 2, id="corpus"),
        pytest.param(
            ["stac", "CATALOG", "S", "--bands", "red,green"], ["Unknown band 'green'", "'nir'", "4 items"], 2, id="band"
        ),
        pytest.param(["stac", "CATALOG", "S", "--sites", "here"], ["Unknown site 'here'", SITE], 2, id="site"),
        pytest.param(["stac", "CATALOG", "S", "--products", "5m"], ["Unknown product '5m'", "'10m'"], 2, id="product"),
        pytest.param(["stac", "no-file.json", "S"], ["no-file.json", "does not exist"], 1, id="catalogue"),
        pytest.param(["stac", "CATALOG", "S", "--time", "2019/2020"], ["2019/2020", "2021-01-03 to 2021-01-18"], 1, id="time"),
        pytest.param(["stac", "CATALOG", "S", "--bbox", "1,1,2,2"], ["None of the 4 items", "they lie within 28."], 1, id="area"),
        pytest.param(["stac", "CATALOG", "S", "--rebuild", "x"], ["Unknown cube to rebuild 'x'", f"{SITE}/10m"], 2, id="rebuild"),
    ],
)
def test_a_name_or_place_that_is_not_there_is_told_with_what_is(
    eocube: Invoke, catalog: Catalog, store: Path, words: list[str], said: list[str], code: int
) -> None:
    told = [str({"CATALOG": catalog.path, "S": store}.get(w, w)) for w in words]
    result = eocube("convert", *told)
    assert result.exit_code == code
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert all(part in result.stderr for part in said), result.stderr
    assert "Traceback" not in result.stderr
    assert not (store / "cubes").exists()
    error = parsed(eocube("convert", *told, "--json"))
    assert error["ok"] is False
    assert said[0] in error["error"]["message"]


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["stac", "CATALOG"], id="no store"),
        pytest.param(["stac", "CATALOG", "S", "--errors", "ignore"], id="errors"),
        pytest.param(["stac", "CATALOG", "S", "--layout", "cube"], id="layout"),
        pytest.param(["stac", "CATALOG", "S", "--limit", "0"], id="limit"),
        pytest.param(["stac", "CATALOG", "S", "--bbox", "1,2,3"], id="three numbers"),
        pytest.param(["stac", "CATALOG", "S", "--bbox", "2,1,1,2"], id="east of west"),
        pytest.param(["stac", "CATALOG", "S", "--storage-option", "novalue"], id="storage option"),
        pytest.param(["stac", "CATALOG", "S", "--unheard"], id="unknown flag"),
        pytest.param(["stac", "CATALOG", "S", "--resolution", "20"], id="resolution without an area"),
        pytest.param(["stac", "CATALOG", "S", "--crs", "EPSG:32635"], id="crs without an area"),
    ],
)
def test_wrong_usage_is_exit_code_2(eocube: Invoke, catalog: Catalog, store: Path, words: list[str]) -> None:
    told = [str({"CATALOG": catalog.path, "S": store}.get(w, w)) for w in words]
    result = eocube("convert", *told)
    assert result.exit_code == 2, result.stderr
    assert not store.exists()


# ------------------------------------------------------------------------------------------------ files that cannot be read


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_a_broken_file_stops_the_run_and_nothing_is_taken_for_complete(
    eocube: Invoke, catalog: Catalog, tmp_path: Path, damage: str
) -> None:
    catalog.write(damage, {2: ("B08",)})
    command = ("convert", "stac", catalog.path, tmp_path / "a", "--layout", "map", "--cluster", "serial")
    result = eocube(*command)
    assert result.exit_code == 1
    for part in ("Asset 'B08'", catalog.scenes[2].item_id, f"{catalog.scenes[2].item_id}_B08.tif", "--errors skip", "run again"):
        assert part in result.stderr
    assert "Traceback" not in result.stderr
    assert index_rows(tmp_path / "a") == []
    assert audit(str(tmp_path / "a"), executor="serial").counts == {"unfinished": 2}
    catalog.write()
    assert eocube(*command).exit_code == 0
    eocube("convert", "stac", catalog.path, tmp_path / "b", "--layout", "map")
    assert same_store(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_skip_lists_what_failed_and_retry_heals_just_that(eocube: Invoke, catalog: Catalog, tmp_path: Path, damage: str) -> None:
    catalog.write(damage, {1: ("B08",), 3: ("B04", "B08")})
    command = ("convert", "stac", catalog.path, tmp_path / "a", "--layout", "map")
    result = eocube(*command, "--errors", "skip")
    assert result.exit_code == 3
    assert "3 files could not be read" in result.stdout
    assert "complete cube" not in result.stdout
    assert all(part in result.stdout for part in (SITE, "B08", catalog.scenes[1].item_id, "1.0.0", "--retry"))
    (row,) = index_rows(tmp_path / "a")
    assert row["unfinished_regions"] == 2

    again = eocube(*command, "--errors", "skip", "--json")
    assert again.exit_code == 3
    assert parsed(again)["ok"] is False
    assert {(f["region"], f["asset"]) for f in parsed(again)["failed"]} == {("1.0.0", "B08"), ("3.0.0", "B04"), ("3.0.0", "B08")}
    assert (parsed(again)["regions_done"], parsed(again)["regions_skipped"]) == (2, 2)
    assert "2 of 2" in again.stderr
    assert "3 failed reads" in again.stderr
    assert eocube(*command).exit_code == 1

    catalog.write()
    healed = eocube(*command, "--retry", "--json")
    assert healed.exit_code == 0
    assert parsed(healed)["cubes"] == [f"{SITE}/10m"]
    assert "complete cube" in eocube(*command).stdout
    assert parsed(healed)["regions_done"] == 2
    eocube("convert", "stac", catalog.path, tmp_path / "b", "--layout", "map")
    assert same_store(tmp_path / "a", tmp_path / "b")


def test_retry_with_nothing_failed_does_nothing(eocube: Invoke, catalog: Catalog, store: Path) -> None:
    eocube("convert", "stac", catalog.path, store)
    result = eocube("convert", "stac", catalog.path, store, "--retry", "--json")
    assert (result.exit_code, parsed(result)["regions_done"], result.stderr) == (0, 0, "")


# ------------------------------------------------------------------------------------------------ other dates


def test_later_dates_are_appended_and_fewer_are_refused(eocube: Invoke, catalog: Catalog, tmp_path: Path) -> None:
    short = ("convert", "stac", catalog.path, tmp_path / "a", "--time", "../2021-01-08", "--layout", "patch")
    assert eocube(*short).exit_code == 0
    assert eocube("convert", "stac", catalog.path, tmp_path / "a", "--layout", "patch").exit_code == 0
    eocube("convert", "stac", catalog.path, tmp_path / "b", "--layout", "patch")
    assert same_store(tmp_path / "a", tmp_path / "b")
    before = cubes_of(tmp_path / "a")
    result = eocube(*short)
    assert result.exit_code == 1
    assert "never takes dates away" in result.stderr
    assert cubes_of(tmp_path / "a") == before


def test_rebuild_puts_in_an_older_date_that_is_refused_without_it(eocube: Invoke, catalog: Catalog, tmp_path: Path) -> None:
    late = ("--time", "2021-01-04/..")
    eocube("convert", "stac", catalog.path, tmp_path / "a", *late)
    refused = eocube("convert", "stac", catalog.path, tmp_path / "a")
    assert refused.exit_code == 1
    assert f"--rebuild {SITE}/10m" in refused.stderr
    assert eocube("convert", "stac", catalog.path, tmp_path / "a", "--rebuild", f"{SITE}/10m", "--plan").exit_code == 0
    assert index_rows(tmp_path / "a")[0]["n_dates"] == 3
    assert eocube("convert", "stac", catalog.path, tmp_path / "a", "--rebuild", SITE).exit_code == 0
    eocube("convert", "stac", catalog.path, tmp_path / "b")
    assert same_store(tmp_path / "a", tmp_path / "b")
    assert {k for k in tree(tmp_path / "a") if not k.startswith("runs/")} == {
        k for k in tree(tmp_path / "b") if not k.startswith("runs/")
    }


def test_rebuild_leaves_other_cubes_alone(eocube: Invoke, catalog: Catalog, store: Path) -> None:
    """Products whose names begin alike: their index parts and markers do, too."""
    from eocube.jobs.rebuild import delete_cubes

    eocube("convert", "stac", catalog.path, store)
    for suffix in ("x", "x.y"):
        command = ("compose", store, store, "--products", "10m", "--suffix", suffix, "--freq", "10D")
        assert eocube(*command).exit_code == 0
    before = cubes_of(store)
    delete_cubes(str(store), [(SITE, "10m_x")])
    assert {r["product"] for r in index_rows(store)} == {"10m", "10m_x.y"}
    assert cubes_of(store) == {k: v for k, v in before.items() if f"{SITE}/10m_x/" not in k}
    assert audit(str(store), executor="serial").ok


@pytest.mark.parametrize("plan", [(), ("--plan",)], ids=["run", "plan"])
def test_retry_with_rebuild_is_wrong_usage_and_deletes_nothing(
    eocube: Invoke, catalog: Catalog, store: Path, plan: tuple[str, ...]
) -> None:
    command = ("convert", "stac", catalog.path, store, "--cluster", "serial")
    eocube(*command)
    before = tree(store)
    result = eocube(*command, "--retry", "--rebuild", SITE, *plan)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Error: --retry" in result.stderr
    assert tree(store) == before
    assert parsed(eocube(*command, "--retry", "--rebuild", SITE, "--json"))["error"]["type"] == "ArgumentError"


def test_a_plan_says_what_a_rebuild_deletes_and_what_a_run_would_refuse(eocube: Invoke, catalog: Catalog, store: Path) -> None:
    command = ("convert", "stac", catalog.path, store, "--plan", "--rebuild", SITE)
    assert "Nothing to delete" in eocube(*command).stdout
    eocube("convert", "stac", catalog.path, store, "--time", "2021-01-04/..")
    before = tree(store)
    assert f"Deleted first: {SITE}/10m" in eocube(*command).stdout
    assert parsed(eocube(*command, "--json"))["deleted_first"] == [f"{SITE}/10m"]
    late = eocube("convert", "stac", catalog.path, store, "--plan")
    assert (late.exit_code, late.stdout) == (1, "")
    assert "is older than the last date" in late.stderr
    other = eocube("convert", "stac", catalog.path, store, "--time", "2021-01-04/..", "--layout", "map", "--plan", "--json")
    assert parsed(other)["error"]["type"] == "SettingsError"
    assert tree(store) == before


def test_an_option_of_an_area_without_one_is_told_in_the_words_of_the_command_line(
    eocube: Invoke, catalog: Catalog, store: Path
) -> None:
    result = eocube("convert", "stac", catalog.path, store, "--resolution", 20)
    said = " ".join(result.stderr.replace("│", " ").split())
    assert "--resolution alone has no area" in said
    assert "--bbox W,S,E,N" in said
    twice = eocube("convert", "stac", catalog.path, store, "--geobox", "grid.json", "--resolution", 20)
    assert twice.exit_code == 2
    assert "--geobox is the whole grid, and --resolution came beside it" in " ".join(twice.stderr.replace("│", " ").split())


def test_a_server_that_does_not_answer_is_no_missing_file(eocube: Invoke, store: Path) -> None:
    result = eocube("convert", "stac", "http://127.0.0.1:9/c.json", store)
    assert result.exit_code == 1
    assert "could not be read: Cannot connect to host 127.0.0.1:9" in result.stderr
    assert "does not exist" not in result.stderr


def test_a_process_of_our_own_keeps_its_heap(
    eocube: Invoke, catalog: Catalog, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled = []
    monkeypatch.setattr("eocube.exec.executors.keep_heap", lambda: settled.append(True))
    assert eocube("convert", "stac", catalog.path, store, "--plan").exit_code == 0
    assert settled == [], "a plan makes no pixels"
    assert eocube("convert", "stac", catalog.path, store).exit_code == 0
    assert settled == [True]
