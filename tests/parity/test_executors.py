"""Serial, threads, two processes, any order, any piece size: the same store, byte for byte."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from eocube.corpora.sample import sample_corpus
from eocube.exec.executors import connect
from eocube.jobs.convert import convert
from eocube.jobs.open import load_stac, open_corpus
from eocube.jobs.write import WriteSettings, plan_cube, run_plans
from eocube.testing.stac import across_baseline, expected_cube, write_catalog, write_items
from eocube.testing.stores import ShuffledExecutor, cubes_of, cut_plan, index_rows, markers_of, same_store, tree

SCENES = across_baseline(10)


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return write_items(SCENES, tmp_path_factory.mktemp("items"))


@pytest.fixture(scope="module")
def two_processes() -> Iterator[Any]:
    executor = connect("processes:2")
    yield executor
    executor.close()


def write(items: list[dict[str, Any]], store: Path, executor: Any, *, max_bytes: int = 1 << 28) -> None:
    """Ten dates of 48 × 64 px as 3 × 2 × 2 regions."""
    settings = WriteSettings(max_bytes=max_bytes)
    plan = plan_cube(load_stac(items), str(store), site="s", product="p", settings=settings)
    run_plans(str(store), [cut_plan(plan, chunk_tyx=(1, 16, 16), shard_tyx=(4, 32, 32))], executor=executor)


@pytest.fixture(scope="module")
def serial(items: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("serial")
    write(items, store, "serial")
    return store


def test_the_serial_store_holds_the_pixels_of_the_files(serial: Path) -> None:
    cube = xr.open_zarr(str(serial / "cubes/s/p"), zarr_format=3, consolidated=True, mask_and_scale=False)
    np.testing.assert_array_equal(cube["data"].values, expected_cube(SCENES, ["B04", "B08"]), strict=True)
    np.testing.assert_array_equal(cube["scl"].values, expected_cube(SCENES, ["SCL"]), strict=True)
    assert len([k for k in cubes_of(serial) if "/data/c/" in k]) == 3 * 2 * 2


@pytest.mark.parametrize(
    "executor",
    ["threads:1", "threads:4", ShuffledExecutor(1), ShuffledExecutor(2, handful=100)],
    ids=["threads:1", "threads:4", "shuffled", "shuffled in one"],
)
def test_threads_and_any_order_give_the_serial_store(
    serial: Path, items: list[dict[str, Any]], tmp_path: Path, executor: Any
) -> None:
    write(items, tmp_path, executor)
    assert cubes_of(tmp_path) == cubes_of(serial)
    assert markers_of(tmp_path) == markers_of(serial)
    assert index_rows(tmp_path) == index_rows(serial)


def test_two_processes_give_the_serial_store(
    serial: Path, items: list[dict[str, Any]], tmp_path: Path, two_processes: Any
) -> None:
    write(items, tmp_path, two_processes)
    assert same_store(tmp_path, serial)


@pytest.mark.parametrize("max_bytes", [1, 5_000, 20_000])
def test_the_memory_bound_changes_no_byte(serial: Path, items: list[dict[str, Any]], tmp_path: Path, max_bytes: int) -> None:
    write(items, tmp_path, "serial", max_bytes=max_bytes)
    assert same_store(tmp_path, serial)


def test_nothing_but_finished_objects_is_left(serial: Path) -> None:
    assert {p.name for p in serial.iterdir()} == {
        "zarr.json",
        "cubes",
        "markers",
        "sources",
        "index",
        "index.parquet",
        "runs",
        "tmp",
    }
    assert tree(serial / "tmp") == {}


def test_the_sample_that_ships_is_the_same_in_processes_and_threads(tmp_path: Path, two_processes: Any) -> None:
    corpus = open_corpus("stac", sample_corpus("sentinel2", tmp_path))
    convert(corpus, str(tmp_path / "threads"), executor="threads:2", products=["20m"])
    convert(corpus, str(tmp_path / "processes"), executor=two_processes, products=["20m"])
    assert same_store(tmp_path / "threads", tmp_path / "processes")


def test_two_equal_stores_that_differ_in_one_byte_are_told_apart(serial: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(serial, tmp_path / "copy")
    assert same_store(serial, tmp_path / "copy")
    shard = next((tmp_path / "copy/cubes").rglob("data/c/0/0/0/0"))
    body = bytearray(shard.read_bytes())
    body[0] ^= 1
    shard.write_bytes(bytes(body))
    assert not same_store(serial, tmp_path / "copy")


def test_a_catalogue_of_files_and_its_items_as_dictionaries_give_one_cube(serial: Path, tmp_path: Path) -> None:
    corpus = open_corpus("stac", write_catalog(SCENES, tmp_path / "catalog"))
    (site,) = corpus.corpus.sites
    cube = corpus.cube(site.name, "10m")
    np.testing.assert_array_equal(cube["data"].values, expected_cube(SCENES, ["B04", "B08"]))
