"""Input that is not what it says, through the command line: a clear error, its exit code, and a store that is right after it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from typer.testing import Result

from eocube.jobs.audit import audit
from eocube.jobs.convert import convert
from eocube.jobs.open import open_corpus
from eocube.testing.stac import make_grid, make_series, write_catalog, write_files
from eocube.testing.stores import cubes_of, index_rows, markers_of, same_store
from tests.cli.conftest import SITE, Catalog, Invoke, parsed

RUN = ("--layout", "map", "--cluster", "serial")


def items_of(folder: Path) -> list[Path]:
    """The item documents of a catalogue, by date."""
    return sorted(p for p in folder.rglob("*.json") if p.name not in ("catalog.json", "collection.json"))


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change a JSON document in place."""
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def refused(result: Result, *parts: str, code: int = 1) -> str:
    """The one line that a refused command says, which must hold all parts."""
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    (line,) = [x for x in result.stderr.splitlines() if not x.startswith(("convert:", "compose:"))]
    assert line.startswith("Error: ")
    assert line.isprintable()
    for part in parts:
        assert part in line, line
    return line


def check_nothing_is_taken_for_complete(store: Path) -> None:
    """After a refused run: no cube in the index, none that an audit takes for whole."""
    if not (store / "zarr.json").exists():
        assert not list(store.rglob("markers/*")) if store.exists() else True
        return
    assert index_rows(store) == []
    report = audit(str(store), deep=True, executor="serial")
    assert set(report.counts) <= {"unfinished"}


# ------------------------------------------------------------------------------------------------ files and their metadata


def on_grid(path: Path, **changes: Any) -> None:
    """Write a file's pixels anew with another CRS, transform, or fewer rows."""
    with rasterio.open(path) as src:
        pixels, profile = src.read(), {**src.profile, "driver": "GTiff"}
    path.unlink()
    pixels = pixels[:, : changes.pop("rows", None)]
    with rasterio.open(path, "w", **{**profile, **changes, "height": pixels.shape[1]}) as out:
        out.write(pixels)


FILE_FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "another zone": ({"crs": "EPSG:32634"}, "EPSG:32635"),
    "ten metres off": ({"transform": make_grid(corner_xy=(600_010.0, 5_000_040.0)).affine}, "600010"),
    "other pixels": ({"transform": make_grid(resolution=20.0).affine}, "20.0"),
    "fewer rows": ({"rows": 32}, "(32, 64)"),
}


@pytest.mark.parametrize("stac_version", ["1.0.0", "1.1.0"])
@pytest.mark.parametrize("fault", FILE_FAULTS)
def test_a_file_on_another_grid_than_its_item_says_stops_the_run(
    eocube: Invoke, tmp_path: Path, fault: str, stac_version: str
) -> None:
    changes, said = FILE_FAULTS[fault]
    scenes = make_series(3, stac_version=stac_version)
    catalog, store = write_catalog(scenes, tmp_path / "files"), tmp_path / "store"
    (broken,) = (tmp_path / "files").rglob(f"{scenes[1].item_id}_B08.tif")
    on_grid(broken, **changes)
    command = ("convert", "stac", catalog, store, *RUN)
    refused(eocube(*command), "Asset 'B08'", scenes[1].item_id, str(broken), said, "Mend the file")
    check_nothing_is_taken_for_complete(store)
    skipped = eocube(*command, "--errors", "skip", "--json")
    assert skipped.exit_code == 3
    assert [(f["region"], f["item_id"], f["asset"]) for f in parsed(skipped)["failed"]] == [("1.0.0", scenes[1].item_id, "B08")]
    write_files(scenes[1], broken.parent)
    assert eocube(*command, "--retry").exit_code == 0
    eocube("convert", "stac", catalog, tmp_path / "undisturbed", *RUN)
    assert same_store(store, tmp_path / "undisturbed")


CRS_FIELDS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "proj:code": lambda crs: {"proj:code": str(crs)},
    "proj:epsg": lambda crs: {"proj:epsg": int(str(crs).removeprefix("EPSG:"))},
    "proj:wkt2": lambda crs: {"proj:wkt2": crs.to_wkt()},
    "proj:projjson": lambda crs: {"proj:projjson": crs.proj.to_json_dict()},
}


@pytest.mark.parametrize("field", CRS_FIELDS)
def test_each_way_to_state_a_crs_is_compared_with_the_file(eocube: Invoke, catalog: Catalog, tmp_path: Path, field: str) -> None:
    def state(crs: Any) -> None:
        def change(item: dict[str, Any]) -> None:
            for asset in item["assets"].values():
                asset.pop("proj:code", None)
            item["properties"] = {k: v for k, v in item["properties"].items() if k not in CRS_FIELDS} | CRS_FIELDS[field](crs)

        for path in items_of(catalog.folder):
            edit(path, change)

    command = ("convert", "stac", catalog.path, tmp_path / "store", *RUN)
    state(make_grid(crs="EPSG:32634").crs)
    refused(eocube(*command), "Asset 'B04'", "EPSG:32634", "Mend the file")
    check_nothing_is_taken_for_complete(tmp_path / "store")
    state(make_grid().crs)
    assert eocube("convert", "stac", catalog.path, tmp_path / "a", *RUN).exit_code == 0
    catalog.write()
    eocube("convert", "stac", catalog.path, tmp_path / "b", *RUN)
    assert cubes_of(tmp_path / "a") == cubes_of(tmp_path / "b")


def test_two_crs_in_one_object_are_refused_and_an_assets_own_counts_before_its_items(
    eocube: Invoke, catalog: Catalog, store: Path
) -> None:
    command = ("convert", "stac", catalog.path, store, *RUN)
    first = items_of(catalog.folder)[0]
    edit(first, lambda item: item["assets"]["B04"].update({"proj:epsg": 32634}))
    refused(eocube(*command), catalog.scenes[0].item_id, "two coordinate reference systems", "EPSG:32635", "EPSG:32634", "Mend")
    assert not store.exists()
    edit(first, lambda item: (item["assets"]["B04"].pop("proj:epsg"), item["properties"].update({"proj:epsg": 32634})))
    assert eocube(*command).exit_code == 0


# ------------------------------------------------------------------------------------------------ data types


def test_a_band_with_another_data_type_is_refused_naming_both_assets(eocube: Invoke, catalog: Catalog, store: Path) -> None:
    edit(items_of(catalog.folder)[2], lambda item: item["assets"]["B08"]["bands"][0].update({"data_type": "int16"}))
    command = ("convert", "stac", catalog.path, store, *RUN)
    refused(
        eocube(*command),
        "dtype ['int16', 'uint16']",
        f"uint16 in asset 'B04' of item {catalog.scenes[0].item_id!r}",
        f"int16 in asset 'B08' of item {catalog.scenes[2].item_id!r}",
        "--bands",
    )
    check_nothing_is_taken_for_complete(store)
    assert eocube(*command, "--bands", "red").exit_code == 0


def test_a_file_of_another_data_type_than_its_metadata_stops_the_run(eocube: Invoke, catalog: Catalog, store: Path) -> None:
    (path,) = catalog.folder.rglob(f"{catalog.scenes[2].item_id}_B08.tif")
    with rasterio.open(path) as src:
        pixels, profile = src.read().astype("i2"), {**src.profile, "dtype": "int16"}
    with rasterio.open(path, "w", **profile) as out:
        out.write(pixels)
    command = ("convert", "stac", catalog.path, store, *RUN)
    refused(eocube(*command), "Asset 'B08'", catalog.scenes[2].item_id, "metadata says uint16, the file holds int16")
    check_nothing_is_taken_for_complete(store)


@pytest.mark.parametrize("dtype", ["cint16", "complex64", "object", "M8[ns]"])
def test_a_data_type_that_no_cube_holds_is_named(eocube: Invoke, catalog: Catalog, store: Path, dtype: str) -> None:
    for path in items_of(catalog.folder):
        edit(path, lambda item: item["assets"]["B08"]["bands"][0].update({"data_type": dtype}))
    command = ("convert", "stac", catalog.path, store, *RUN)
    refused(eocube(*command, "--bands", "nir"), "Asset 'B08'", repr(dtype), "uint16")
    assert eocube(*command, "--bands", "red").exit_code == 0


@pytest.mark.parametrize("nodata", [float("nan"), "nan", -9999, 65536, 0.5], ids=repr)
def test_a_nodata_that_no_integer_can_have_says_nothing(eocube: Invoke, catalog: Catalog, tmp_path: Path, nodata: Any) -> None:
    """As a file's own tag does: the files tell then, or for Sentinel-2 its rule."""
    eocube("convert", "stac", catalog.path, tmp_path / "a", *RUN)
    for path in items_of(catalog.folder):
        edit(path, lambda item: [b.update({"nodata": nodata}) for a in item["assets"].values() for b in a["bands"]])
    result = eocube("convert", "stac", catalog.path, tmp_path / "b", *RUN)
    assert result.exit_code == 0, result.stderr
    assert cubes_of(tmp_path / "a") == cubes_of(tmp_path / "b")


# ------------------------------------------------------------------------------------------------ dates

DATES: dict[str, tuple[dict[str, Any], str]] = {
    "none": ({"datetime": None}, "found None"),
    "no field": ({}, "found None"),
    "a number": ({"datetime": 20210103}, "found 20210103"),
    "no date": ({"datetime": "soon"}, "found 'soon'"),
    "empty": ({"datetime": ""}, "found ''"),
    "year 0": ({"datetime": "0000-01-01T00:00:00Z"}, "found '0000-"),
    "year 9999": ({"datetime": "9999-12-31T23:59:59Z"}, "from 1678 to 2261"),
    "an object": ({"datetime": {"$date": 1}}, "found an object"),
    "ends first": ({"datetime": None, "start_datetime": "2021-02-01T00:00:00Z", "end_datetime": "2021-01-01T00:00:00Z"}, "after"),
    "bad end": ({"datetime": None, "start_datetime": "2021-02-01T00:00:00Z", "end_datetime": "never"}, "'never'"),
}


@pytest.mark.parametrize("fault", DATES)
def test_an_item_without_a_usable_date_is_refused_by_name(eocube: Invoke, catalog: Catalog, store: Path, fault: str) -> None:
    properties, said = DATES[fault]
    edit(items_of(catalog.folder)[1], lambda item: (item["properties"].pop("datetime"), item["properties"].update(properties)))
    line = refused(eocube("convert", "stac", catalog.path, store, *RUN), catalog.scenes[1].item_id, "no usable datetime", said)
    assert "Mend the metadata" in line
    assert not store.exists()


def test_a_period_counts_from_its_start_and_a_time_without_zone_is_utc(eocube: Invoke, catalog: Catalog, tmp_path: Path) -> None:
    eocube("convert", "stac", catalog.path, tmp_path / "a", *RUN)
    first, second, *_ = items_of(catalog.folder)
    when = catalog.scenes[0].when
    span = {"datetime": None, "start_datetime": f"{when}Z", "end_datetime": "2021-01-31T00:00:00Z"}
    edit(first, lambda item: item["properties"].update(span))
    edit(second, lambda item: item["properties"].update({"datetime": catalog.scenes[1].when}))
    assert eocube("convert", "stac", catalog.path, tmp_path / "b", *RUN).exit_code == 0
    assert cubes_of(tmp_path / "a") == cubes_of(tmp_path / "b")


# ------------------------------------------------------------------------------------------------ nothing there


def empty_catalogue(folder: Path) -> tuple[Path, str]:
    (folder / "c.json").write_text('{"type": "Catalog", "id": "c", "links": []}')
    return folder / "c.json", "No STAC item was found in"


def empty_item_collection(folder: Path) -> tuple[Path, str]:
    (folder / "c.json").write_text('{"type": "FeatureCollection", "features": []}')
    return folder / "c.json", "No STAC item was found in"


def catalogue_without_its_items(folder: Path) -> tuple[Path, str]:
    path = write_catalog(make_series(1), folder / "files")
    items_of(folder / "files")[0].unlink()
    return path, "does not exist"


def circle_of_catalogues(folder: Path) -> tuple[Path, str]:
    for own, other in (("a", "b"), ("b", "a")):
        links = [{"rel": "child", "href": f"./{other}.json"}, {"rel": "child", "href": f"./{own}.json"}]
        (folder / f"{own}.json").write_text(json.dumps({"type": "Catalog", "id": own, "links": links}))
    return folder / "a.json", "No STAC item was found in"


def folder_itself(folder: Path) -> tuple[Path, str]:
    write_catalog(make_series(1), folder / "files")
    return folder / "files", "it is a folder. Name the file in it"


def endless_file(folder: Path) -> tuple[Path, str]:
    return Path("/dev/zero"), "no JSON document"


def item_without_a_raster(folder: Path) -> tuple[Path, str]:
    path = write_catalog(make_series(1), folder / "files")
    edit(items_of(folder / "files")[0], lambda item: item.update({"assets": {"page": {"href": "x.html", "type": "text/html"}}}))
    return path, "None of the 1 items has a raster asset"


@pytest.mark.parametrize(
    "make",
    [
        empty_catalogue,
        empty_item_collection,
        catalogue_without_its_items,
        circle_of_catalogues,
        folder_itself,
        endless_file,
        item_without_a_raster,
    ],
    ids=lambda f: f.__name__,
)
def test_a_catalogue_with_nothing_to_convert_is_told(
    eocube: Invoke, tmp_path: Path, make: Callable[[Path], tuple[Path, str]]
) -> None:
    path, said = make(tmp_path)
    refused(eocube("convert", "stac", path, tmp_path / "store"), said)
    assert not (tmp_path / "store").exists()


def test_links_in_a_circle_with_items_give_each_item_once(eocube: Invoke, catalog: Catalog, tmp_path: Path) -> None:
    eocube("convert", "stac", catalog.path, tmp_path / "a", *RUN)
    (collection,) = catalog.folder.rglob("collection.json")
    edit(
        collection,
        lambda c: c["links"].extend(
            [{"rel": "child", "href": "../catalog.json"}, {"rel": "child", "href": "x/../collection.json"}]
        ),
    )
    result = eocube("convert", "stac", catalog.path, tmp_path / "b", *RUN)
    assert result.exit_code == 0, result.stderr
    assert same_store(tmp_path / "a", tmp_path / "b")


# ------------------------------------------------------------------------------------------------ other settings

OTHER_SETTINGS = {
    "layout": (["--layout", "patch"], "layout: stored map, asked patch"),
    "bands": (["--bands", "red"], "bands: stored red, nir, asked red"),
    "band order": (["--bands", "nir,red"], "bands: stored red, nir, asked nir, red"),
    "resampling": (["--resampling", "cubic"], "resampling: stored nearest, asked cubic"),
    "mosaic": (["--mosaic", "none"], "mosaic: stored solar_day, asked none"),
}


@pytest.mark.parametrize("setting", OTHER_SETTINGS)
def test_other_settings_than_the_cubes_are_named_and_change_nothing(
    eocube: Invoke, catalog: Catalog, store: Path, setting: str
) -> None:
    options, said = OTHER_SETTINGS[setting]
    command = ("convert", "stac", catalog.path, store)
    assert eocube(*command, *RUN).exit_code == 0
    before = cubes_of(store)
    refused(eocube(*command, *RUN, *options), f"{SITE}/10m", said, "--rebuild", "another store or product")
    assert cubes_of(store) == before
    assert audit(str(store), deep=True, executor="serial").ok
    assert eocube(*command, *RUN).exit_code == 0
    assert cubes_of(store) == before


COMPOSED = ("--layout", "map", "--freq", "10D", "--suffix", "mine", "--cluster", "serial")
"""The product has a name of the user's own, so that other steps mean the same cube."""

OTHER_STEPS: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "layout": (["--layout", "patch"], ("layout: stored map, asked patch",)),
    "freq": (["--freq", "MS"], ("recipe: stored", "freq=10D", "freq=MS")),
    "method": (["--method", "mean"], ("recipe: stored", "method=median", "method=mean")),
    "mask": (["--mask", "none"], ("recipe: stored", "mask_clouds(")),
    "reflectance": (["--reflectance"], ("variables: stored data uint16", "asked data float32", "to_reflectance(")),
    "index": (["--index", "ndvi"], ("bands: stored red, nir, asked ndvi",)),
}


@pytest.mark.parametrize("setting", OTHER_STEPS)
def test_other_settings_than_the_composites_are_named_and_change_nothing(
    eocube: Invoke, catalog: Catalog, store: Path, tmp_path: Path, setting: str
) -> None:
    options, said = OTHER_STEPS[setting]
    assert eocube("convert", "stac", catalog.path, store, *RUN).exit_code == 0
    out = tmp_path / "out"
    command = ("compose", store, out, *COMPOSED)
    assert eocube(*command).exit_code == 0
    before = cubes_of(out), markers_of(out), index_rows(out)
    where = (f"{SITE}/10m_mine", str(out), "another store or product", "--rebuild")
    refused(eocube(*command, *options), *said, *where)
    refused(eocube(*command, *options, "--plan"), *said, *where)
    assert (cubes_of(out), markers_of(out), index_rows(out)) == before
    assert audit(str(out), deep=True, executor="serial").ok
    again = eocube(*command, "--json")
    assert (again.exit_code, parsed(again)["regions_done"]) == (0, 0)
    assert parsed(eocube(*command, *options, "--rebuild", SITE, "--json"))["regions_done"] > 0
    assert cubes_of(out) != before[0]


def test_another_codec_is_named(eocube: Invoke, catalog: Catalog, store: Path) -> None:
    """A store of a version whose default codec was another one: level 3 in the metadata, another id of the settings."""
    command = ("convert", "stac", catalog.path, store, *RUN)
    eocube(*command)
    root = store / "cubes" / SITE / "10m" / "zarr.json"
    text = root.read_text()
    assert '"clevel": 1' in text
    text = re.sub(r'"settings_id": "\w+"', '"settings_id": "of-another-version"', text.replace('"clevel": 1', '"clevel": 3'))
    root.write_text(text)
    refused(eocube(*command), "codec: stored", "clevel=3", "asked", "clevel=1")


def test_an_item_of_a_stored_day_that_comes_before_its_first_is_a_late_date(
    eocube: Invoke, catalog: Catalog, tmp_path: Path
) -> None:
    """The date of a day is that of its first item, so that this one would change a date that is there."""
    command = ("convert", "stac", catalog.path, tmp_path / "a", *RUN)
    assert eocube(*command).exit_code == 0
    before = cubes_of(tmp_path / "a")
    earlier = replace(catalog.scenes[3], item_id="SYN_earlier", when="2021-01-18T09:20:00", number=9)
    catalog.scenes.append(earlier)
    catalog.write()
    refused(eocube(*command), "2021-01-18T09:20:00", "only appended", f"--rebuild {SITE}/10m")
    assert cubes_of(tmp_path / "a") == before
    assert eocube(*command, "--rebuild", SITE).exit_code == 0
    eocube("convert", "stac", catalog.path, tmp_path / "b", *RUN)
    assert same_store(tmp_path / "a", tmp_path / "b")


# ------------------------------------------------------------------------------------------------ where nothing can be written


def below_a_file(folder: Path) -> Path:
    (folder / "file").write_text("")
    return folder / "file" / "store"


def below_proc(folder: Path) -> Path:
    return Path("/proc/eocube-store")


def too_long_a_name(folder: Path) -> Path:
    return folder / ("x" * 300)


@pytest.mark.parametrize("place", [below_a_file, below_proc, too_long_a_name], ids=lambda f: f.__name__)
@pytest.mark.parametrize("errors", ["raise", "skip"])
def test_a_store_that_cannot_be_written_is_told(
    eocube: Invoke, catalog: Catalog, tmp_path: Path, place: Callable[[Path], Path], errors: str
) -> None:
    """Also as root, whom no permission stops."""
    store = place(tmp_path)
    line = refused(eocube("convert", "stac", catalog.path, store, *RUN, "--errors", errors), str(store), "run the same command")
    assert "could not be" in line
    found = parsed(eocube("convert", "stac", catalog.path, store, *RUN, "--json"))
    assert found["error"]["type"] in {"StoreWriteError", "StoreReadError"}


def test_nothing_is_deleted_for_a_rebuild_that_cannot_run(eocube: Invoke, catalog: Catalog, store: Path) -> None:
    command = ("convert", "stac", catalog.path, store)
    eocube(*command, *RUN)
    before = cubes_of(store)
    assert eocube(*command, "--rebuild", SITE, "--layout", "map", "--cluster", "cloud").exit_code == 2
    with pytest.raises(LookupError, match="Unknown executor"):
        convert(open_corpus("stac", str(catalog.path)), str(store), rebuild=[SITE], layout="map", executor="cloud")
    assert cubes_of(store) == before


# ------------------------------------------------------------------------------------------------ wrong usage


@pytest.mark.parametrize(
    ("words", "said"),
    [
        pytest.param(["--time", "soon"], "--time: 'soon'", id="no date"),
        pytest.param(["--time", "2021-02/2021-01"], "ends before it begins", id="backwards"),
        pytest.param(["--geobox", "{}"], "--geobox: '{}' is no grid", id="grid"),
        pytest.param(["--mosaic", "best"], "Unknown mosaic 'best'", id="mosaic"),
        pytest.param(["--resampling", "sharp"], "Unknown resampling 'sharp'", id="resampling"),
        pytest.param(["--dn-offset", "5"], "--dn-offset: dn_offset is 5", id="offset"),
        pytest.param(["--cluster", "cloud"], "Unknown executor 'cloud'", id="cluster"),
        pytest.param(["--cluster", "threads:0"], "Unknown executor 'threads:0'", id="no threads"),
        pytest.param(["--bbox", "28.27,45.14,28.28,45.15", "--crs", "EPSG:0"], "--crs: crs is 'EPSG:0'", id="CRS"),
    ],
)
def test_a_wrong_value_of_convert_is_exit_code_2(
    eocube: Invoke, catalog: Catalog, store: Path, words: list[str], said: str
) -> None:
    refused(eocube("convert", "stac", catalog.path, store, *words), said, code=2)
    assert parsed(eocube("convert", "stac", catalog.path, store, *words, "--json"))["error"]["message"]
    assert not store.exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        pytest.param(["--method", "best"], "Unknown composite method 'best'", id="method"),
        pytest.param(["--freq", "fortnight"], "Unknown freq 'fortnight'", id="freq"),
        pytest.param(["--freq", "ME"], "Unknown freq 'ME'", id="ends of periods"),
        pytest.param(["--cluster", "cloud"], "Unknown executor 'cloud'", id="cluster"),
        pytest.param(["--index", "nothing"], "Unknown spectral index 'nothing'", id="index"),
    ],
)
def test_a_wrong_value_of_compose_is_exit_code_2(
    eocube: Invoke, catalog: Catalog, store: Path, tmp_path: Path, words: list[str], said: str
) -> None:
    eocube("convert", "stac", catalog.path, store, *RUN)
    refused(eocube("compose", store, tmp_path / "out", *words), said, code=2)
    assert not (tmp_path / "out").exists()


def test_audit_with_an_unknown_executor_is_exit_code_2(eocube: Invoke, catalog: Catalog, store: Path) -> None:
    eocube("convert", "stac", catalog.path, store, *RUN)
    refused(eocube("audit", store, "--cluster", "cloud"), "Unknown executor 'cloud'", code=2)


def test_messages_of_any_origin_are_one_line_without_escapes(eocube: Invoke, tmp_path: Path) -> None:
    refused(eocube("convert", "stac", tmp_path / "a\x1b[31m\nb.json", tmp_path / "store"), r"a\x1b[31m b.json", "does not exist")


def test_pixels_are_right_where_a_value_stands_only_where_it_may(eocube: Invoke, catalog: Catalog, store: Path) -> None:
    """The plain catalogue of these tests: what they break is whole before."""
    assert eocube("convert", "stac", catalog.path, store, *RUN).exit_code == 0
    assert np.all([r["n_dates"] == 4 for r in index_rows(store)])
