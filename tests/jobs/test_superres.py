"""superres: the same bytes by every road, tasks only where they may run, finished after any death."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import get_task_stream

import eocube
from eocube.errors import ModelError, PlacementError, UnknownNameError
from eocube.exec.drive import RunReport
from eocube.exec.executors import SerialExecutor, connect
from eocube.exec.region import run_regions
from eocube.jobs.superres import plan_superres, superres, superresolve
from eocube.jobs.write import WriteSettings, run_plans
from eocube.model.hooks import HOOK_ENV
from eocube.sr import SrModel, load_model
from eocube.sr.pool import run_superres
from eocube.testing.stores import ShuffledExecutor, cubes_of, cut_plan, index_rows, markers_of
from eocube.testing.tiles import SITE_PX, TileCorpus
from tests.patches.makers import DAYS, make_store
from tests.sr.makers import make_counting, make_network


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Seven dates of 70 × 50 LR pixels: two tiles a date where regions do not cut them, two shards of dates."""
    return make_store(tmp_path_factory.mktemp("store"), lr_shape=(70, 50))


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> SrModel:
    return make_network(
        tmp_path_factory.mktemp("model"), bands_in=("red", "green", "nir"), bands_out=("green", "red"), channels=4
    )


def write(
    store: str,
    out: Path | str,
    model: SrModel,
    *,
    executor: Any = "serial",
    max_bytes: int = 1 << 28,
    run: Any = run_superres,
    group: int = 3,
    limit: int | None = None,
) -> RunReport:
    """The store's 20 m cube as 2 × 3 × 2 regions of 4 dates and 64 × 64 pixels, in chunks of a date and 32 × 32."""
    settings = WriteSettings(layout="patch", max_bytes=max_bytes)
    plans = plan_superres(store, str(out), model, product="20m", settings=settings)
    cut = [cut_plan(p, chunk_tyx=(1, 32, 32), shard_tyx=(4, 64, 64)) for p in plans]
    return run_plans(str(out), cut, executor=executor, resource="GPU", run=run, group=group, limit=limit)


@pytest.fixture(scope="module")
def serial(store: str, network: SrModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("serial")
    report = write(store, out, network)
    assert (report.ok, report.regions_done) == (True, 12)
    return out


def same(a: Path, b: Path) -> bool:
    return cubes_of(a) == cubes_of(b) and markers_of(a) == markers_of(b) and index_rows(a) == index_rows(b)


# ------------------------------------------------------------------------------------------------ bytes


def test_the_store_holds_what_the_lazy_cube_computes(store: str, network: SrModel, serial: Path) -> None:
    lazy = superresolve(eocube.open_cube(f"{store}/cubes/a/20m"), network)
    stored = eocube.open_cube(f"{serial}/cubes/a/sr", chunks=None)
    for name in ("data", "scl"):
        np.testing.assert_array_equal(stored[name].values, lazy[name].values, strict=True)
    assert stored["data"].shape == (len(DAYS), 2, 140, 100)
    assert (stored["data"].values == 0).any(), "the strip without data has none"


def test_the_pool_writes_what_the_plain_engine_writes(store: str, network: SrModel, serial: Path, tmp_path: Path) -> None:
    """The twin: every region evaluated by itself, window by window, without the pool."""
    write(store, tmp_path, network, run=run_regions)
    assert same(tmp_path, serial)


@pytest.mark.parametrize(
    "executor", ["threads:2", ShuffledExecutor(1), ShuffledExecutor(2)], ids=["threads", "order 1", "order 2"]
)
def test_threads_and_any_order_give_the_same_bytes(
    store: str, network: SrModel, serial: Path, tmp_path: Path, executor: Any
) -> None:
    write(store, tmp_path, network, executor=executor)
    assert same(tmp_path, serial)


@pytest.mark.parametrize(
    ("max_bytes", "group"),
    [(1, 3), (1 << 28, 1), (3_000_000, 12)],
    ids=["one piece at a time", "one region a task", "all regions in one task"],
)
def test_pieces_and_groups_change_nothing(
    store: str, network: SrModel, serial: Path, tmp_path: Path, max_bytes: int, group: int
) -> None:
    write(store, tmp_path, network, max_bytes=max_bytes, group=group)
    assert same(tmp_path, serial)


def test_superres_is_one_call(store: str, network: SrModel, serial: Path, tmp_path: Path) -> None:
    heard = []
    report = superres(store, str(tmp_path / "sr"), network, executor="serial", on_done=heard.append)
    assert report.cubes == ["a/sr"]
    assert len(heard) == report.regions_done == 1
    one, many = (eocube.open_cube(f"{s}/cubes/a/sr", chunks=None) for s in (tmp_path / "sr", serial))
    np.testing.assert_array_equal(one["data"].values, many["data"].values)
    again = superres(store, str(tmp_path / "sr"), network, executor="serial")
    assert (again.regions_done, again.regions_skipped) == (0, 1)


def test_batches_are_filled_across_dates_pieces_and_regions(store: str, tmp_path: Path) -> None:
    """12 regions in tasks of 3: up to 4 dates × 1 tile each. One batch a region would be 12."""
    model = make_counting()
    write(store, tmp_path, model)
    tiles = model.loaded().tiles  # type: ignore[attr-defined]
    assert sum(tiles) == 3 * 2 * len(DAYS)
    assert len(tiles) == math.ceil(12 / 8) * 2 + math.ceil(9 / 8) * 2
    tiles.clear()
    write(store, tmp_path / "small", model, max_bytes=2_000_000, group=12)
    assert sum(tiles) == 42
    assert tiles[:-1] == [8] * (len(tiles) - 1), "only the last batch of a task is padded"


# ------------------------------------------------------------------------------------------------ places


def test_networks_run_on_gpu_workers_and_nothing_else_does(store: str, network: SrModel, serial: Path, tmp_path: Path) -> None:
    """A cluster of one plain worker and one that carries GPU: conversion beside super-resolution."""
    executor: Any = connect("processes:1", gpu_workers=1)
    try:
        workers = executor.client.scheduler_info(n_workers=-1)["workers"]
        gpu = {a for a, w in workers.items() if "GPU" in w["resources"]}
        with get_task_stream(client=executor.client) as stream:
            eocube.write_cube(eocube.open_cube(f"{store}/cubes/a/20m"), str(tmp_path / "copy"), executor=executor)
            write(store, tmp_path / "sr", network, executor=executor)
    finally:
        executor.close()
    placed: dict[str, set[str]] = {"run_superres": set(), "run_regions": set()}
    for task in stream.data:
        for name, found in placed.items():
            if name in task["key"]:
                found.add(task["worker"])
    assert len(gpu) == 1
    assert placed == {"run_superres": gpu, "run_regions": set(workers) - gpu}
    assert same(tmp_path / "sr", serial)


class SpyExecutor(SerialExecutor):
    """Notes which function runs where."""

    def __init__(self) -> None:
        self.ran: set[tuple[str, str]] = set()

    def run(self, func, tasks, *, resource="CPU"):
        self.ran.add((func.__name__, resource))
        return super().run(func, tasks, resource=resource)


def test_a_written_chain_with_a_network_in_it_asks_for_gpu_workers(store: str, network: SrModel, tmp_path: Path) -> None:
    cube = eocube.open_cube(f"{store}/cubes/a/20m")
    made = eocube.superresolve(cube, network)
    ends, goes_on, plain = SpyExecutor(), SpyExecutor(), SpyExecutor()

    eocube.write_cube(made, str(tmp_path / "ends"), executor=ends)
    eocube.write_cube(eocube.to_reflectance(made), str(tmp_path / "goes on"), executor=goes_on)
    eocube.write_cube(cube, str(tmp_path / "plain"), executor=plain)

    assert ends.ran == {("run_superres", "GPU")}
    assert goes_on.ran == {("run_regions", "GPU")}
    assert plain.ran == {("run_regions", "CPU")}
    written = eocube.open_cube(str(tmp_path / "ends" / "cubes" / "cube" / "data"), chunks=None)
    assert np.array_equal(written["data"].values, made["data"].values)


def test_a_cluster_without_a_gpu_worker_is_told_how_to_get_one(store: str, network: SrModel, tmp_path: Path) -> None:
    executor = connect("processes:1")
    try:
        with pytest.raises(PlacementError, match="--resources GPU=1"):
            superres(store, str(tmp_path / "sr"), network, executor=executor)
    finally:
        executor.close()


# ------------------------------------------------------------------------------------------------ death


KILLED = """
import sys
from tests.jobs.test_superres import write
from eocube.sr import load_model
write(sys.argv[1], sys.argv[2], load_model(sys.argv[3]), group=12)
"""


def test_a_killed_run_is_finished_by_the_same_command(store: str, network: SrModel, serial: Path, tmp_path: Path) -> None:
    """The process dies after the shards of its first region, with other regions of the same task in flight."""
    folder = str(network.spec.kwargs_json).split('"')[3]
    command = [sys.executable, "-c", KILLED, store, str(tmp_path / "sr"), folder]
    ended = subprocess.run(command, env={**os.environ, HOOK_ENV: "after_shard"}, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert [k for k in cubes_of(tmp_path / "sr") if "/data/c/" in k]
    assert markers_of(tmp_path / "sr") == {}
    write(store, tmp_path / "sr", network)
    assert same(tmp_path / "sr", serial)


def test_a_limited_run_is_taken_up_where_it_stopped(store: str, network: SrModel, serial: Path, tmp_path: Path) -> None:
    first = write(store, tmp_path, network, limit=5)
    assert (first.regions_done, first.stopped_at_limit) == (5, True)
    rest = write(store, tmp_path, network)
    assert (rest.regions_done, rest.regions_skipped) == (7, 5)
    assert same(tmp_path, serial)


# ------------------------------------------------------------------------------------------------ what does not fit


def test_the_product_is_the_only_one_with_the_models_bands(store: str, tmp_path: Path) -> None:
    nir = load_model("nearest", scale=2, bands=["nir"])
    (plan,) = plan_superres(store, str(tmp_path), nir)
    assert plan.job.spec.frame.shape_yx == (140, 100)
    with pytest.raises(ModelError, match=r"2 products .*10m: green, red; 20m: green, nir, red.*product="):
        plan_superres(store, str(tmp_path), load_model("nearest", scale=2, bands=["red"]))
    with pytest.raises(ModelError, match="which 0 products"):
        plan_superres(store, str(tmp_path), load_model("nearest", scale=2, bands=["swir16"]))


@pytest.mark.parametrize(
    ("model", "kwargs", "error", "said"),
    [
        (("nearest", ["nir"]), {"product": "10m"}, ModelError, "nir is missing"),
        (("nearest", ["red"]), {"product": "60m"}, UnknownNameError, "'10m', '20m'"),
        (("nearest", ["red"]), {"product": "10m", "sites": ["z"]}, UnknownNameError, "site 'z'"),
    ],
    ids=["band", "product", "site"],
)
def test_what_does_not_fit_leaves_nothing_behind(
    store: str, tmp_path: Path, model: tuple[str, list[str]], kwargs: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        superres(store, str(tmp_path / "sr"), load_model(model[0], scale=2, bands=model[1]), executor="serial", **kwargs)
    assert not [p for p in (tmp_path / "sr").rglob("*") if "cubes" in p.parts]


def test_weights_that_changed_since_the_plan_stop_the_run(store: str, tmp_path: Path) -> None:
    model = make_network(tmp_path / "m", bands_in=("nir", "red"), bands_out=("red",), channels=4)
    make_network(tmp_path / "m", bands_in=("nir", "red"), bands_out=("red",), channels=4, seed=1)
    with pytest.raises(ModelError, match="weights were exchanged"):
        superres(store, str(tmp_path / "sr"), model, executor="serial")
    assert markers_of(tmp_path / "sr") == {}


def test_another_network_is_not_mixed_into_a_cube(store: str, network: SrModel, tmp_path: Path) -> None:
    superres(store, str(tmp_path), load_model("bicubic", scale=2, bands=["green", "red"]), product="20m", executor="serial")
    before = cubes_of(tmp_path)
    with pytest.raises(eocube.EocubeError, match=r"other settings.*recipe: stored cube .* → superresolve"):
        superres(store, str(tmp_path), network, executor="serial")
    assert cubes_of(tmp_path) == before


def test_each_site_of_a_bigger_cube_becomes_a_cube_of_its_own(tmp_path: Path) -> None:
    eocube.convert(TileCorpus("A_01_02", "A_39_00"), str(tmp_path / "s"), executor="serial")
    model = make_network(tmp_path / "model", bands_in=("red", "nir"), bands_out=("red",), channels=4)
    report = superres(str(tmp_path / "s"), str(tmp_path / "out"), model, product="pf", executor="serial")
    assert report.cubes == ["A_01_02/sr", "A_39_00/sr"]
    for site in ("A_01_02", "A_39_00"):
        fine = eocube.open_store(str(tmp_path / "out")).cube(site, "sr")
        lazily = superresolve(eocube.open_store(str(tmp_path / "s")).cube(site, "pf"), model)
        assert fine.sizes["x"] == SITE_PX * model.scale
        np.testing.assert_array_equal(fine["data"], lazily["data"])
