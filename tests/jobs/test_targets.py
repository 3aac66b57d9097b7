"""Where a run may write, and with what arguments: what cannot be is refused before anything is written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from eocube.corpora.stac import StacCorpus
from eocube.errors import (
    ArgumentError,
    AssetReadError,
    CubeError,
    DamagedStoreError,
    EocubeError,
    GridError,
    SettingsError,
    StoreNotFoundError,
    StoreWriteError,
    UnknownNameError,
)
from eocube.exec.drive import RunReport
from eocube.io.blobs import LocalBlobs
from eocube.jobs.audit import audit
from eocube.jobs.compose import compose
from eocube.jobs.convert import convert
from eocube.jobs.info import describe
from eocube.jobs.open import load_stac, open_corpus, open_cube, open_store
from eocube.jobs.patches import plan_patches
from eocube.jobs.roots import require_target, require_writable
from eocube.jobs.stac import open_stac, parse_geobox
from eocube.jobs.superres import superres
from eocube.jobs.write import write_cube
from eocube.model.patch_spec import PatchSpec
from eocube.patches.layout import ATTR
from eocube.sr import SrModel
from eocube.testing.stac import SyntheticReader, SyntheticScene, expected_cube, item_dict, make_series, write_items
from eocube.testing.stores import cubes_of, tree
from tests.patches.makers import make_store
from tests.sr.makers import make_network

SERIES = make_series(3)
SITE = "EPSG32635_600000_5000040"
Write = Callable[[str], RunReport]


def corpus_of(scenes: list[SyntheticScene], **options: Any) -> StacCorpus:
    """A corpus without files."""
    return StacCorpus(items=tuple(item_dict(s) for s in scenes), reader=SyntheticReader(scenes), **options)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_store(tmp_path_factory.mktemp("source"), lr_shape=(24, 24))


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> SrModel:
    return make_network(tmp_path_factory.mktemp("model"), bands_in=("red", "green", "nir"), bands_out=("red",), channels=4)


@pytest.fixture(params=["convert", "compose", "write_cube", "superres"])
def write(request: pytest.FixtureRequest, source: str, network: SrModel) -> Write:
    """Each writer on small inputs: ``write(out)``."""
    cube = next(Path(source).glob("cubes/*/20m"))
    writers: dict[str, Write] = {
        "convert": lambda out: convert(corpus_of(SERIES), out, executor="serial"),
        "compose": lambda out: compose(source, out, products=["20m"], mask=None, executor="serial"),
        "write_cube": lambda out: write_cube(open_cube(str(cube)), out, executor="serial"),
        "superres": lambda out: superres(source, out, network, product="20m", executor="serial"),
    }
    return writers[request.param]


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """A store of three dates in three regions."""
    convert(corpus_of(SERIES), str(tmp_path / "good"), layout="map", executor="serial")
    return tmp_path / "good"


def said_by(call: Callable[[], object], error: type[EocubeError] | tuple[type[EocubeError], ...]) -> str:
    with pytest.raises(error) as caught:
        call()
    return str(caught.value)


# ------------------------------------------------------------------------------------------------ what is not a store's place

FOREIGN = {
    "another group": b'{"zarr_format":3,"node_type":"group","attributes":{"mine":1}}',
    "no JSON": b"zarr",
    "emptied": b"",
    "a list": b"[]",
}


@pytest.mark.parametrize("body", FOREIGN.values(), ids=FOREIGN.keys())
def test_a_place_that_is_not_a_stores_is_refused_in_the_words_of_info(write: Write, tmp_path: Path, body: bytes) -> None:
    place = tmp_path / "full"
    place.mkdir()
    (place / "zarr.json").write_bytes(body)
    before = tree(place)
    told = said_by(lambda: describe(str(place)), DamagedStoreError)
    assert "holds a zarr.json, but not an eocube store's" in told
    assert said_by(lambda: write(str(place)), DamagedStoreError) == told
    assert tree(place) == before


@pytest.mark.parametrize("body", FOREIGN.values(), ids=FOREIGN.keys())
def test_a_damaged_root_is_made_anew_after_the_cure_that_the_error_names(good: Path, body: bytes) -> None:
    cubes, root = cubes_of(good), (good / "zarr.json").read_bytes()
    (good / "zarr.json").write_bytes(body)
    told = said_by(lambda: convert(corpus_of(SERIES), str(good), layout="map", executor="serial"), DamagedStoreError)
    assert f"delete that one file, {good}/zarr.json, and run the command that wrote the store again" in told
    assert said_by(lambda: audit(str(good), executor="serial"), DamagedStoreError) == told
    (good / "zarr.json").unlink()
    report = convert(corpus_of(SERIES), str(good), layout="map", executor="serial")
    assert (report.regions_done, report.regions_skipped) == (0, 3)
    assert (good / "zarr.json").read_bytes() == root
    assert cubes_of(good) == cubes
    assert audit(str(good), deep=True, executor="serial").ok


@pytest.mark.parametrize("where", ["cubes", f"cubes/{SITE}", f"cubes/{SITE}/10m", "cubes/new", "markers", "runs/a/b", "index"])
def test_no_store_is_written_inside_another_one(write: Write, good: Path, where: str) -> None:
    before = tree(good)
    said = said_by(lambda: write(f"{good}/{where}"), CubeError)
    assert "Nothing was changed." in said
    first, inside, _ = where.partition("/")
    if where != f"cubes/{SITE}/10m":
        assert f" {'lies in' if inside else 'is'} the folder of the {first} of a store, {good}." in said
    assert tree(good) == before


def test_a_patch_set_or_a_cube_holds_no_store(tmp_path: Path) -> None:
    for kind, attrs in {
        "a patch set": {ATTR: {}},
        "a cube of a store": {"eocube": {"format": 1, "cube": "c"}},
    }.items():
        (tmp_path / "zarr.json").write_text(json.dumps({"attributes": attrs}))
        assert f"which is {kind}" in said_by(lambda: require_target(f"{tmp_path}/a/b"), CubeError)


def test_beside_a_store_and_above_it_there_is_room(good: Path, tmp_path: Path) -> None:
    (good / "below").mkdir()
    (tmp_path / "link").symlink_to(good)
    (tmp_path / "deep").symlink_to(good / "cubes")
    for place in (
        f"{good}2",
        f"{good}/cubes/../mine",
        f"{good}/mine",
        f"{good}/mine/cubes",
        f"{good}/../beside",
        f"{good}/below/../../beside",
        str(tmp_path),
        str(good),
        f"{tmp_path}/link",
    ):
        require_target(place)
    for place in (f"{tmp_path}/link/cubes", f"{good}/below/../cubes/x", f"{tmp_path}/deep/x"):
        with pytest.raises(CubeError, match="of the cubes of a store"):
            require_target(place)


def test_no_store_is_written_inside_one_that_is_no_folder(good: Path) -> None:
    convert(corpus_of(SERIES[:1]), "memory://targets/good", executor="serial")
    memory = fsspec.filesystem("memory")
    before = sorted(memory.find("/targets"))
    for where in ("good/cubes", "good/cubes/x/y", "good/markers"):
        with pytest.raises(CubeError, match="A store cannot be written there"):
            convert(corpus_of(SERIES[:1]), f"memory://targets/{where}", executor="serial")
    assert sorted(memory.find("/targets")) == before
    require_target("memory://targets/other")


# ------------------------------------------------------------------------------------------------ what this user may not write


def test_a_path_that_can_be_no_folder_is_told_before_the_first_request(tmp_path: Path, write: Write) -> None:
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "file", tmp_path / "file/below/store", tmp_path / ("x" * 300)):
        said = said_by(partial(write, str(place)), StoreWriteError)
        assert f"could not be written below {place}: " in said
        with pytest.raises(StoreWriteError):
            require_writable(str(place))
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_what_is_said_of_a_place_is_what_writing_there_would_say(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    by_writing = said_by(lambda: LocalBlobs(str(tmp_path / "file")).put("zarr.json", b"12"), StoreWriteError)
    assert said_by(lambda: require_target(str(tmp_path / "file")), StoreWriteError) == by_writing.replace(" (2 bytes)", "")


def test_a_folder_that_may_be_written_passes(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "new/store"):
        require_writable(str(place))
    require_writable("memory://somewhere")
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------------ retry


def test_retry_where_no_store_is_makes_none(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError) as caught:
        convert(corpus_of(SERIES), str(tmp_path / "new"), retry=True, executor="serial")
    assert "leave it out to begin" in caught.value.__notes__[0]
    assert not list(tmp_path.iterdir())


def test_retry_says_how_much_it_leaves_out_and_makes_nothing_of_a_cube_that_is_not_there(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    whole = convert(corpus_of(SERIES), store, layout="map", executor="serial", limit=2)
    assert (whole.regions_left_out, whole.stopped_at_limit) == (0, True)
    retried = convert(corpus_of(SERIES), store, layout="map", executor="serial", retry=True)
    assert (retried.regions_done, retried.regions_skipped, retried.regions_left_out, retried.cubes) == (0, 2, 1, [])
    said = json.loads(Path(f"{store}/runs/{retried.run_id}.json").read_text())
    assert said["regions_left_out"] == 1

    before = cubes_of(store)
    area = corpus_of(SERIES, geobox=SERIES[0].grid, area="new")
    retried = convert(area, store, layout="map", executor="serial", retry=True)
    assert (retried.regions_done, retried.regions_left_out) == (0, 3)
    assert cubes_of(store) == before
    assert convert(area, store, layout="map", executor="serial").regions_done == 3


# ------------------------------------------------------------------------------------------------ arguments


@pytest.mark.parametrize("limit", [0, -1, "3", 1.5, True, [1]], ids=str)
def test_a_limit_that_cannot_be_is_refused_before_anything_is_written(
    limit: Any, source: str, network: SrModel, good: Path, tmp_path: Path
) -> None:
    out, before = str(tmp_path / "out"), tree(good)
    cube = open_cube(f"{good}/cubes/{SITE}/10m")
    calls: list[Callable[[], object]] = [
        lambda: convert(corpus_of(SERIES), out, limit=limit, executor="serial"),
        lambda: convert(corpus_of(SERIES), str(good), limit=limit, rebuild=[SITE], layout="map", executor="serial"),
        lambda: compose(str(good), out, mask=None, limit=limit, executor="serial"),
        lambda: superres(source, out, network, product="20m", limit=limit, executor="serial"),
        lambda: write_cube(cube, out, limit=limit, executor="serial"),
        lambda: write_cube(cube, out, max_bytes=limit, executor="serial"),
    ]
    for call in calls:
        assert f"is {limit!r}; expected a whole number" in said_by(call, ArgumentError)
    assert not Path(out).exists()
    assert tree(good) == before


def test_a_limit_may_be_any_whole_number(tmp_path: Path) -> None:
    done = convert(corpus_of(SERIES), str(tmp_path / "out"), layout="map", limit=np.int64(2), executor="serial")  # type: ignore[arg-type]
    assert done.regions_done == 2


@pytest.mark.parametrize("none", [[], (), ""], ids=repr)
def test_no_name_at_all_is_neither_all_nor_nothing(none: Any, source: str, network: SrModel, good: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    items = write_items(SERIES[:1], tmp_path / "items")
    calls: dict[str, Callable[[], object]] = {
        "sites 1": lambda: convert(corpus_of(SERIES), out, sites=none, executor="serial"),
        "products 1": lambda: convert(corpus_of(SERIES), out, products=none, executor="serial"),
        "sites 2": lambda: compose(str(good), out, sites=none, mask=None, executor="serial"),
        "products 2": lambda: compose(str(good), out, products=none, mask=None, executor="serial"),
        "sites 3": lambda: superres(source, out, network, product="20m", sites=none, executor="serial"),
        "sites 4": lambda: plan_patches(str(good), PatchSpec(lr_product="20m", hr_product="20m"), sites=none),
        "bands 1": lambda: open_corpus("stac", items, bands=none),
        "bands 2": lambda: open_stac(items, bands=none),
        "bands 3": lambda: load_stac(items, bands=none),
    }
    for what, call in calls.items():
        if isinstance(none, str):  # a name, which nothing has
            if what != "bands 1":  # those are looked for as the corpus is used
                said_by(call, UnknownNameError)
        else:
            assert said_by(call, ArgumentError).startswith(f"{what[:-2]} is an empty list")
    assert not Path(out).exists()


def test_a_number_is_no_list_of_names(tmp_path: Path) -> None:
    assert "sites is 5; expected a list" in said_by(lambda: convert(corpus_of(SERIES), str(tmp_path), sites=5), ArgumentError)  # type: ignore[arg-type]


@pytest.mark.parametrize("none", [None, 5, b"bytes", ["a"]], ids=repr)
def test_an_address_is_a_text_or_a_path(none: Any, source: str, network: SrModel, tmp_path: Path) -> None:
    cube = open_cube(str(next(Path(source).glob("cubes/*/20m"))))
    calls: dict[str, list[Callable[[], object]]] = {
        "store": [
            lambda: convert(corpus_of(SERIES), none),
            lambda: write_cube(cube, none),
            lambda: compose(none, str(tmp_path)),
            lambda: superres(none, str(tmp_path), network),
        ],
        "out": [lambda: compose(source, none), lambda: superres(source, none, network)],
        "url": [lambda: open_cube(none), lambda: open_store(none)],
    }
    for name, each in calls.items():
        for call in each:
            assert f"{name} is {str(none)!r} ({type(none).__name__}); expected an address" in said_by(call, ArgumentError)


def test_a_path_is_an_address(tmp_path: Path) -> None:
    there: Any = tmp_path / "as path"
    convert(corpus_of(SERIES), there, layout="map", executor="serial")
    assert open_store(there).index.num_rows == 1
    assert open_cube(there / f"cubes/{SITE}/10m").sizes["time"] == 3


def test_a_product_that_no_cube_has_is_named(good: Path) -> None:
    store = open_store(str(good))
    assert store.sites(product="10m").num_rows == 1
    assert "Unknown product '20m'" in said_by(lambda: store.sites(product="20m"), UnknownNameError)
    assert "known: '10m'" in said_by(lambda: store.sites(product="20m"), UnknownNameError)


def test_a_corpus_takes_the_options_of_its_pixels_and_names_others(tmp_path: Path) -> None:
    items = write_items(SERIES, tmp_path)
    opened = open_corpus("stac", items, mosaic="none", resampling="bilinear", dn_offset=-1000)
    same = open_stac(items, mosaic="none", resampling="bilinear", dn_offset=-1000)
    assert opened.corpus.source(SITE, "10m")[1] == same.corpus.source(SITE, "10m")[1]
    assert opened.corpus.source(SITE, "10m")[1] != open_corpus("stac", items).corpus.source(SITE, "10m")[1]
    wrong: dict[str, Any]
    for wrong in ({"mosaic": "best"}, {"resampling": "sharp"}, {"mosaick": "none"}, {"bbox": (1, 2, 3, 4)}):
        (name,) = wrong
        assert name in said_by(partial(open_corpus, "stac", items, **wrong), UnknownNameError)
    assert "expected an odc.geo GeoBox" in said_by(lambda: open_corpus("stac", items, geobox="10m"), ArgumentError)


# ------------------------------------------------------------------------------------------------ anew


def test_write_cube_writes_a_cube_of_other_settings_anew(good: Path, tmp_path: Path) -> None:
    cube, out = open_cube(f"{good}/cubes/{SITE}/10m"), str(tmp_path / "out")
    write_cube(cube, out, executor="serial")
    write_cube(cube, out, product="kept", executor="serial")
    before = tree(out)
    assert "rebuild=True in write_cube" in said_by(lambda: write_cube(cube, out, layout="map", executor="serial"), SettingsError)
    said_by(lambda: write_cube(cube, out, layout="map", rebuild=True, retry=True, executor="serial"), ArgumentError)
    said_by(lambda: write_cube(cube, out, layout="map", rebuild=True, executor="cloud"), UnknownNameError)
    assert {k: v for k, v in tree(out).items() if not k.startswith("runs")} == {
        k: v for k, v in before.items() if not k.startswith("runs")
    }
    report = write_cube(cube, out, layout="map", rebuild=True, executor="serial")
    assert (report.regions_done, report.cubes) == (3, ["cube/data"])
    write_cube(cube, str(tmp_path / "fresh"), layout="map", executor="serial")
    assert {k: v for k, v in cubes_of(out).items() if "/kept/" not in k} == cubes_of(tmp_path / "fresh")
    assert audit(out, deep=True, executor="serial").ok
    new = write_cube(cube, str(tmp_path / "new"), rebuild=True, executor="serial")
    assert new.cubes == ["cube/data"]


def test_a_cube_that_the_run_reads_is_not_deleted(good: Path) -> None:
    before, where = tree(good), {"site": SITE, "product": "10m"}
    cube = open_cube(f"{good}/cubes/{SITE}/10m")
    said = said_by(lambda: write_cube(cube, str(good), **where, rebuild=True, executor="serial"), ArgumentError)  # type: ignore[arg-type]
    assert "this run reads it" in said
    assert tree(good) == before


def test_a_rebuild_that_fails_says_to_go_on_without_it(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    bad = [*SERIES[:2], replace(SERIES[2], missing=("B08",))]
    convert(corpus_of(SERIES), store, layout="map", executor="serial")
    with pytest.raises(AssetReadError) as caught:
        convert(corpus_of(bad), store, layout="map", executor="serial", rebuild=[SITE])
    assert "Go on without --rebuild" in caught.value.__notes__[-1]
    done = convert(corpus_of(SERIES), store, layout="map", executor="serial")
    assert (done.regions_done, done.regions_skipped) == (1, 2)
    np.testing.assert_array_equal(
        open_cube(f"{store}/cubes/{SITE}/10m", chunks=None)["data"].values, expected_cube(SERIES, ["B04", "B08"])
    )
    with pytest.raises(AssetReadError) as caught:
        convert(corpus_of(bad), str(tmp_path / "other"), layout="map", executor="serial")
    assert not hasattr(caught.value, "__notes__")


# ------------------------------------------------------------------------------------------------ grids from files


def test_a_grid_comes_from_json_its_file_or_a_cube(good: Path, tmp_path: Path) -> None:
    cube = f"{good}/cubes/{SITE}/10m"
    box = parse_geobox(cube)
    text = json.dumps(
        {"proj:code": str(box.crs), "proj:transform": [float(v) for v in box.affine[:6]], "proj:shape": list(map(int, box.shape))}
    )
    for name in ("grid.json", "grid.txt"):
        (tmp_path / name).write_text(text)
        assert parse_geobox(str(tmp_path / name)) == parse_geobox(text) == box
    (tmp_path / "wrong.json").write_text("[1]")
    assert "is no grid" in said_by(lambda: parse_geobox(str(tmp_path / "wrong.json")), GridError)
    gone = str(tmp_path / "gone.json")
    assert f"No file was found at {gone}" in said_by(lambda: parse_geobox(gone), ArgumentError)
    shutil.rmtree(good)
    said_by(lambda: parse_geobox(cube), StoreNotFoundError)
