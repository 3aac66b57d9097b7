"""eocube info, audit, index, compose, corpora, sample."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from eocube.jobs.audit import audit
from eocube.testing.stores import counting_server, index_rows, tree
from tests.cli.conftest import SITE, Catalog, Invoke, parsed

CUBE = f"cubes/{SITE}/10m"


@pytest.fixture
def filled(eocube: Invoke, catalog: Catalog, store: Path) -> Path:
    assert eocube("convert", "stac", catalog.path, store, "--layout", "map").exit_code == 0
    return store


# ------------------------------------------------------------------------------------------------ info


def test_info_of_a_store_is_a_table_of_its_index(eocube: Invoke, filled: Path) -> None:
    shown = eocube("info", filled).stdout
    for part in ("1 cube", SITE, "10m", "2021-01-03", "2021-01-18", "48 × 64", "red nir", "uint16", "EPSG:32635"):
        assert part in shown
    (row,) = parsed(eocube("info", filled, "--json"))["cubes"]
    assert (row["site"], row["n_dates"], row["first_date"]) == (SITE, 4, "2021-01-03T09:30:00Z")
    assert "geometry" not in row


def test_info_of_a_cube_tells_axes_cut_and_recipe(eocube: Invoke, filled: Path) -> None:
    shown = eocube("info", filled / CUBE).stdout
    for part in ("time 4, band 2, y 48, x 64", "red (B04), nir (B08)", "map: chunks [1, 48, 64]", "4 of 4 finished", "CC0-1.0"):
        assert part in shown
    found = parsed(eocube("info", filled / CUBE, "--json"))
    assert found["kind"] == "cube"
    assert found["dims"] == {"time": 4, "band": 2, "y": 48, "x": 64}
    assert len(found["dates"]) == 4
    assert found["regions"] == {"all": 4, "finished": 4, "failed": 0}
    assert found["recipe"]["inputs"]["in0"]["kind"] == "stac"


def test_info_of_a_composed_cube_lists_its_steps(eocube: Invoke, filled: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert eocube("compose", filled, out, "--freq", "10D", "--method", "mean", "--index", "ndvi").exit_code == 0
    (row,) = index_rows(out)
    found = parsed(eocube("info", out / "cubes" / SITE / row["product"], "--json"))
    assert [s["step"] for s in found["recipe"]["steps"]] == ["mask_clouds", "spectral_index", "composite"]
    assert "composite(" in eocube("info", out / "cubes" / SITE / row["product"]).stdout
    assert [v["nodata"] for v in found["variables"] if v["name"] == "data"] == ["nan"]


@pytest.mark.parametrize("verb", ["info", "audit", "index"])
def test_a_folder_that_is_no_store_is_told(eocube: Invoke, tmp_path: Path, verb: str) -> None:
    result = eocube(verb, tmp_path)
    assert result.exit_code == 1
    assert str(tmp_path) in result.stderr
    assert parsed(eocube(verb, tmp_path, "--json"))["error"]["type"] == "StoreNotFoundError"
    assert eocube("info", tmp_path / "cubes" / "a" / "b").exit_code == 1


def test_a_root_that_is_no_json_is_told(eocube: Invoke, filled: Path) -> None:
    (filled / CUBE / "zarr.json").write_text("{")
    result = eocube("info", filled / CUBE)
    assert result.exit_code == 1
    assert "not a cube written by eocube" in result.stderr


def test_info_lists_a_cube_that_is_not_finished(eocube: Invoke, catalog: Catalog, store: Path) -> None:
    command = ("convert", "stac", catalog.path, store, "--layout", "map")
    assert eocube(*command, "--limit", 3).exit_code == 0
    found = parsed(eocube("info", store, "--json"))
    assert found["cubes"] == []
    assert found["under_way"] == [{"cube": SITE, "product": "10m", "regions_done": 3, "regions": 4}]
    shown = eocube("info", store).stdout
    for part in ("1 cube under way", f"{SITE}/10m", "3 of 4 regions written", "run again"):
        assert part in shown
    assert eocube(*command).exit_code == 0
    assert parsed(eocube("info", store, "--json"))["under_way"] == []
    assert "under way" not in eocube("info", store).stdout


def test_info_of_a_cube_without_its_product_lists_the_products(eocube: Invoke, filled: Path) -> None:
    for address in (filled / "cubes" / SITE, f"{filled}/cubes/{SITE}/"):
        result = eocube("info", address)
        assert result.exit_code == 1
        assert f"Products of {SITE}: 10m." in result.stderr
        assert f"eocube info {filled}/{CUBE}" in result.stderr
    assert f"known: '{SITE}'" in eocube("info", filled / "cubes" / "elsewhere").stderr
    assert "lists them" in eocube("info", filled / "cubes").stderr


@pytest.mark.parametrize("columns", [80, 200])
def test_info_breaks_no_word(eocube: Invoke, filled: Path, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setattr("eocube.cli.show.WIDE", columns)
    shown = eocube("info", filled).stdout
    assert max(len(line) for line in shown.splitlines()[1:]) <= columns
    for part in (SITE, "10m", "2021-01-03", "2021-01-18", "48 × 64", "red nir", "uint16", "EPSG:32635"):
        assert part in shown


def test_a_patch_set_is_described_and_neither_audited_nor_indexed(eocube: Invoke, tmp_path: Path) -> None:
    from eocube.jobs.patches import extract_patches
    from tests.patches.makers import SPEC, make_store

    cubes, out = make_store(tmp_path), tmp_path / "set"
    extract_patches(cubes, str(out), SPEC, executor="serial", limit=1)
    assert "unfinished" in eocube("info", out).stdout
    report = extract_patches(cubes, str(out), SPEC, executor="serial")
    found = parsed(eocube("info", out, "--json"))
    assert (found["kind"], found["finished"]) == ("patches", True)
    assert (found["patches"], found["dropped"]) == (report.patches, report.dropped)
    assert report.patches
    shown = eocube("info", out).stdout
    for part in (*(f"{n:,} {split}" for split, n in report.patches.items()), SPEC.lr_product, SPEC.hr_product, "PatchDataset"):
        assert part in shown
    before = tree(out)
    for verb in ("audit", "index"):
        result = eocube(verb, out)
        assert result.exit_code == 1
        assert "patch set" in result.stderr
    assert tree(out) == before


# ------------------------------------------------------------------------------------------------ audit and index


def test_audit_of_a_whole_store_is_exit_code_0(eocube: Invoke, filled: Path) -> None:
    for options in ([], ["--deep"], ["--quick"]):
        result = eocube("audit", filled, *options)
        assert result.exit_code == 0
        assert "Everything is as its markers say." in result.stdout
    report = parsed(eocube("audit", filled, "--json"))
    assert (report["ok"], report["rows"], report["regions"]) == (True, [], 4)


def test_audit_lists_what_is_wrong_with_exit_code_3(eocube: Invoke, filled: Path) -> None:
    path = filled / CUBE / "data/c/1/0/0/0"
    body = bytearray(path.read_bytes())
    body[40] ^= 1
    path.write_bytes(bytes(body))
    (filled / CUBE / "scl/c/2/0/0").unlink()
    result = eocube("audit", filled)
    assert result.exit_code == 3
    for part in ("digest", "data/c/1/0/0/0", "missing", "scl/c/2/0/0", "2.0.0"):
        assert part in result.stdout
    report = parsed(eocube("audit", filled, "--json", "--cluster", "serial"))
    assert report["counts"] == {"digest": 1, "missing": 1}
    assert eocube("audit", filled, "--quick", "--json").exit_code == 3
    assert eocube("audit", filled, "--deep", "--quick").exit_code == 2


def test_index_is_made_again(eocube: Invoke, filled: Path) -> None:
    before = tree(filled)
    (filled / "index.parquet").unlink()
    assert eocube("audit", filled).exit_code == 3
    result = eocube("index", filled)
    assert result.exit_code == 0
    assert "1 cube in the index" in result.stdout
    assert parsed(eocube("index", filled, "--json"))["cubes"] == 1
    assert tree(filled) == before


# ------------------------------------------------------------------------------------------------ compose


def test_compose_goes_on_where_it_was(eocube: Invoke, filled: Path, tmp_path: Path) -> None:
    command = ("compose", filled, tmp_path / "out", "--freq", "10D")
    assert "2 tasks" in eocube(*command, "--plan").stdout
    assert not (tmp_path / "out").exists()
    assert parsed(eocube(*command, "--limit", 1, "--json"))["stopped_at_limit"]
    rest = parsed(eocube(*command, "--json"))
    assert (rest["regions_done"], rest["regions_skipped"], rest["ok"]) == (1, 1, True)
    assert audit(str(tmp_path / "out"), deep=True, executor="serial").ok


def test_compose_rebuilds_a_cube(eocube: Invoke, filled: Path, tmp_path: Path) -> None:
    command = ("compose", filled, tmp_path / "out", "--freq", "10D")
    eocube(*command)
    before = tree(tmp_path / "out")
    assert parsed(eocube(*command, "--rebuild", SITE, "--json"))["regions_done"] == 2
    again = tree(tmp_path / "out")
    assert {k: v for k, v in again.items() if "runs/" not in k} == {k: v for k, v in before.items() if "runs/" not in k}
    assert json.loads((tmp_path / "out/zarr.json").read_text())["attributes"]["licenses"] == ["CC0-1.0"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        pytest.param(["--method", "best"], "best", id="method"),
        pytest.param(["--mask", "magic"], "magic", id="mask"),
        pytest.param(["--index", "nope"], "nope", id="index"),
        pytest.param(["--freq", "sometimes"], "sometimes", id="freq"),
        pytest.param(["--products", "5m"], "5m", id="product"),
    ],
)
def test_compose_names_what_it_does_not_know(eocube: Invoke, filled: Path, tmp_path: Path, options: list[str], said: str) -> None:
    result = eocube("compose", filled, tmp_path / "out", *options)
    assert result.exit_code == 2
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out" / "cubes").exists()


def test_steps_can_be_left_out(eocube: Invoke, filled: Path, tmp_path: Path) -> None:
    assert eocube("compose", filled, tmp_path / "out", "--mask", "none", "--freq", "none", "--reflectance").exit_code == 0
    (row,) = index_rows(tmp_path / "out")
    assert (row["n_dates"], row["dtype"]) == (4, "float32")


# ------------------------------------------------------------------------------------------------ what ships


def test_corpora_are_listed_with_the_samples(eocube: Invoke) -> None:
    shown = eocube("corpora").stdout
    assert "stac" in shown
    assert "sentinel2" in shown
    assert parsed(eocube("corpora", "--json"))["samples"] == ["rapidai4eo", "sentinel2", "worldstrat"]


def test_the_sample_that_ships_is_unpacked_converted_and_whole(eocube: Invoke, tmp_path: Path) -> None:
    path = eocube("sample", "sentinel2", tmp_path).stdout.strip()
    assert json.loads(Path(path).read_text())["type"] == "Catalog"
    assert parsed(eocube("sample", "sentinel2", tmp_path, "--json"))["path"] == path
    store = tmp_path / "store"
    command = ("convert", "stac", path, store, "--products", "20m", "--time", "2017-04/2018-06", "--bands", "green,swir16")
    assert eocube(*command).exit_code == 0
    report = parsed(eocube("audit", store, "--deep", "--json"))
    assert report["ok"]
    assert report["objects"] > 0


def test_an_unknown_sample_is_told_with_those_that_ship(eocube: Invoke, tmp_path: Path) -> None:
    result = eocube("sample", "mars", tmp_path)
    assert result.exit_code == 2
    assert "'mars'" in result.stderr
    assert "'sentinel2'" in result.stderr


def test_over_plain_http_a_cube_is_shown_and_what_needs_a_listing_is_refused(eocube: Invoke, filled: Path) -> None:
    with counting_server(filled) as server:
        assert SITE in eocube("info", server.url).stdout
        found = parsed(eocube("info", f"{server.url}/{CUBE}", "--json"))
        assert found["regions"] == {"all": 4}
        assert "time 4" in eocube("info", f"{server.url}/{CUBE}").stdout
        server.clear()
        for verb in ("audit", "index"):
            result = eocube(verb, server.url)
            assert result.exit_code == 1
            assert "cannot list objects" in result.stderr
        assert server.requests == []


def test_a_damaged_index_is_told_and_made_again(eocube: Invoke, filled: Path, tmp_path: Path) -> None:
    rows = index_rows(filled)
    whole = (filled / "index.parquet").read_bytes()
    for broken in (b"", whole[: len(whole) // 2], b"no parquet"):
        (filled / "index.parquet").write_bytes(broken)
        for words in (("info", filled), ("compose", filled, tmp_path / "out")):
            result = eocube(*words)
            assert (result.exit_code, result.stdout) == (1, "")
            assert f"eocube index {filled}" in result.stderr
            assert result.stderr.startswith("Error: index.parquet")
        assert parsed(eocube("info", filled, "--json"))["error"]["type"] == "DamagedStoreError"
        assert set(audit(str(filled), executor="serial").counts) == {"index"}
        assert eocube("index", filled).exit_code == 0
        assert index_rows(filled) == rows


@pytest.mark.parametrize("layout", [pytest.param("map", id="new regions"), pytest.param("patch", id="a part-filled one again")])
def test_info_tells_of_an_append_that_was_killed(eocube: Invoke, catalog: Catalog, store: Path, layout: str) -> None:
    command = ("convert", "stac", catalog.path, store, "--layout", layout)
    eocube(*command, "--time", "../2021-01-08")
    assert parsed(eocube("info", store, "--json"))["appends_under_way"] == []
    assert parsed(eocube("info", store / CUBE, "--json"))["append_under_way"] is False
    root = store / CUBE / "zarr.json"
    before = root.read_bytes()
    assert eocube(*command).exit_code == 0
    root.write_bytes(before)  # as if killed before the new dates were shown
    assert parsed(eocube("info", store, "--json"))["appends_under_way"] == [{"cube": SITE, "product": "10m"}]
    assert "An append to 1 cube has begun" in eocube("info", store).stdout
    cube = parsed(eocube("info", store / CUBE, "--json"))
    n = 2 if layout == "map" else 1
    assert (cube["append_under_way"], cube["regions"]) == (True, {"all": n, "finished": n, "failed": 0})
    assert "an append has begun" in eocube("info", store / CUBE).stdout
    assert eocube(*command).exit_code == 0
    assert "has begun" not in eocube("info", store).stdout + eocube("info", store / CUBE).stdout


def test_compose_of_a_cube_without_classes_says_how_to_leave_the_mask_out(eocube: Invoke, tmp_path: Path) -> None:
    from eocube.testing.stac import make_grid, make_series, write_catalog

    files = write_catalog(make_series(2, grid=make_grid((16, 16)), zooms={"B04": 1}), tmp_path / "files")
    eocube("convert", "stac", files, tmp_path / "store")
    result = eocube("compose", tmp_path / "store", tmp_path / "out", "--freq", "MS")
    assert result.exit_code == 1
    assert "--mask none" in result.stderr
    assert eocube("compose", tmp_path / "store", tmp_path / "out", "--freq", "MS", "--mask", "none").exit_code == 0


@pytest.mark.parametrize("columns", [80, 200])
def test_info_tells_of_a_cube_that_has_lost_markers(
    eocube: Invoke, catalog: Catalog, filled: Path, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setattr("eocube.cli.show.WIDE", columns)
    shutil.rmtree(filled / f"markers/{SITE}/10m/1.0.0")
    shutil.rmtree(filled / f"markers/{SITE}/10m/2.0.0")
    found = parsed(eocube("info", filled, "--json"))
    assert found["under_way"] == [{"cube": SITE, "product": "10m", "regions_done": 2, "regions": 4}]
    assert (len(found["cubes"]), found["appends_under_way"], found["not_indexed"]) == (1, [], [])
    shown = eocube("info", filled).stdout
    assert "2 of 4 regions written" in shown
    assert "2 regions unfinished" in shown or shown.splitlines()[2].split()[-1] == "2"
    assert "2 of 4 finished" in eocube("info", filled / CUBE).stdout
    eocube("convert", "stac", catalog.path, filled, "--layout", "map")
    assert parsed(eocube("info", filled, "--json"))["under_way"] == []
    assert "under way" not in eocube("info", filled).stdout


@pytest.mark.parametrize("also", [(), ("sources",)], ids=["the index", "the index and the bindings"])
def test_info_names_the_cubes_of_a_store_whose_index_is_gone(eocube: Invoke, filled: Path, also: tuple[str, ...]) -> None:
    for name in ("index", *also):
        shutil.rmtree(filled / name)
    (filled / "index.parquet").unlink()
    shown = eocube("info", filled).stdout
    assert f"cubes/ has 1 cube that the index does not have; `eocube index {filled}` makes it:" in shown
    assert f"{SITE}/10m" in shown
    assert "under way" not in shown
    assert f"Products of {SITE}: 10m." in eocube("info", filled / "cubes" / SITE).stderr
    found = parsed(eocube("info", filled, "--json"))
    assert (found["not_indexed"] == [{"cube": SITE, "product": "10m"}]) is bool(also)
    assert eocube("index", filled).exit_code == 0
    assert "does not have" not in eocube("info", filled).stdout
    assert "1 cube in" in eocube("info", filled).stdout


def test_info_of_an_empty_store_names_no_cube(eocube: Invoke, filled: Path) -> None:
    for name in ("index", "sources", "cubes", "markers"):
        shutil.rmtree(filled / name)
    (filled / "index.parquet").unlink()
    shown = eocube("info", filled).stdout
    assert "0 cubes in" in shown
    assert "eocube index" not in shown
