"""extract_patches: the pixels that the plan promised, whole shards, the same bytes by every road."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import geopandas as gpd
import numpy as np
import pyarrow.parquet as pq
import pytest
import xarray as xr
from distributed import get_task_stream

from eocube.errors import CubeError, DamagedStoreError, PatchError, SettingsError, UnknownNameError
from eocube.exec.executors import connect
from eocube.io.blobs import open_blobs
from eocube.jobs.open import open_store
from eocube.jobs.patches import extract_patches, plan_patches
from eocube.model.hooks import HOOK_ENV
from eocube.patches import PatchDataset
from eocube.testing.stores import MortalFileSystem, ShuffledExecutor, counting_server, tree
from tests.patches.makers import CORNER_XY, DAYS, SPEC, geobox, ground_dn, make_store, values_of


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_store(tmp_path_factory.mktemp("patches"))


@pytest.fixture(scope="module")
def out(store: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("set") / "set")
    extract_patches(store, folder, SPEC, executor="serial")
    return folder


def content(folder: str | Path) -> dict[str, str]:
    """What must not depend on how a set was made: everything but staging."""
    return {k: v for k, v in tree(folder).items() if not k.startswith("tmp/")}


@pytest.mark.parametrize(
    "margin", [0, 6, 7], ids=["same corner", "HR begins earlier", "HR begins half an LR pixel off the LR grid"]
)
def test_each_patch_holds_the_ground_that_its_row_names(tmp_path: Path, margin: int) -> None:
    """Pixels are computed from the row's footprint in world coordinates, for LR and HR by themselves."""
    store = make_store(tmp_path, hr_margin_px=margin)
    spec = replace(SPEC, split=None, min_clear=0.0, lr_bands=("red", "green"))
    extract_patches(store, str(tmp_path / "set"), spec, executor="serial")
    data = PatchDataset(str(tmp_path / "set"))
    rows = data.index.to_pylist()
    assert len(data) == len(rows) == len(DAYS) * 9 * 11
    days = [int(d * 86_400_000) for d in DAYS]
    lr_whole, hr_whole = (ground_dn(geobox(s, m), DAYS, ("green", "red")) for s, m in (((30, 36), 20.0), ((60, 72), 10.0)))
    raw = xr.open_zarr(str(tmp_path / "set"), zarr_format=3, consolidated=True)
    lr_raw, hr_raw = raw["lr"].values, raw["hr"].values
    for row in rows:
        t, (y, x), at = days.index(int(row["date"].timestamp() * 1000)), row["lr_yx"], row["patch"]
        lr = values_of(lr_whole[t, ::-1, y : y + 6, x : x + 6])
        hr = values_of(hr_whole[t, :, 2 * y : 2 * y + 12, 2 * x : 2 * x + 12])
        if t == 1:
            lr[..., : max(0, 3 - x)], hr[..., : max(0, 6 - 2 * x)] = np.nan, np.nan
            hr[..., : max(0, 6 - margin - 2 * x)] = np.nan
        np.testing.assert_array_equal(lr_raw[at, 0], lr)
        known = np.isfinite(hr) & np.isfinite(hr_raw[at])
        np.testing.assert_array_equal(hr_raw[at][known], hr[known])
        assert np.isfinite(hr_raw[at]).mean() >= np.isfinite(hr).mean()


def test_cloudy_slots_are_dropped_with_a_reason_and_never_read(store: str, out: str) -> None:
    data, rows = PatchDataset(out), plan_patches(store, SPEC)
    index = gpd.read_parquet(f"{out}/index.parquet")
    assert len(index) == len(rows)
    dropped = index[index["dropped"]]
    assert 0 < len(dropped) < len(index)
    assert (dropped[["lr_clear", "hr_clear"]].min(axis=1) < 0.6).all()
    assert (index[~index["dropped"]][["lr_clear", "hr_clear"]].min(axis=1) >= 0.6).all()
    assert dropped["why"].str.contains("clear; at least 0.6 asked").all()
    assert index[~index["dropped"]]["why"].isna().all()
    assert len(data) == (~index["dropped"]).sum()
    raw = xr.open_zarr(out, zarr_format=3, consolidated=True)
    for place in dropped["patch"]:
        assert np.isnan(raw["hr"][place]).all()
        assert not raw["hr_valid"][place].any()
    assert (dropped["date"] == index["date"].max()).any(), "the date that is all cloud is dropped"


def test_valid_means_data_in_every_band_and_clear(out: str) -> None:
    data = PatchDataset(out)
    raw = xr.open_zarr(out, zarr_format=3, consolidated=True)
    for patch, row in zip(data, data.index.to_pylist(), strict=True):  # type: ignore[call-overload]
        assert patch["lr_valid"].mean() == pytest.approx(row["lr_clear"])
        assert patch["hr_valid"].mean() == pytest.approx(row["hr_clear"])
        assert (patch["hr"][:, ~patch["hr_valid"]] == 0).all()
        assert not np.isnan(raw["hr"][row["patch"]].values[:, patch["hr_valid"]]).any()
    assert min(row["hr_clear"] for row in data.index.to_pylist()) < 1, "some patches hold cloud or nodata"


def test_the_index_is_geoparquet_with_the_footprint_of_each_patch(out: str) -> None:
    index = gpd.read_parquet(f"{out}/index.parquet")
    assert index.crs == "OGC:CRS84"
    projected = index.to_crs("EPSG:32635")
    for row in projected.itertuples():
        y, x = row.lr_yx
        west, north = CORNER_XY[0] + 20 * x, CORNER_XY[1] - 20 * y
        np.testing.assert_allclose(row.geometry.bounds, (west, north - 120, west + 120, north), atol=1e-3)
    boxes = pq.read_table(f"{out}/index.parquet")["bbox"].to_pylist()
    assert [[b[k] for k in ("xmin", "ymin", "xmax", "ymax")] for b in boxes] == pytest.approx(index.geometry.bounds.to_numpy())


def test_the_same_bytes_serial_threads_processes_and_in_any_order(store: str, out: str, tmp_path: Path) -> None:
    extract_patches(store, str(tmp_path / "threads"), SPEC, executor="threads:2")
    extract_patches(store, str(tmp_path / "shuffled"), SPEC, executor=ShuffledExecutor(3))
    extract_patches(store, str(tmp_path / "bounded"), SPEC, executor="serial", max_bytes=1)
    assert content(tmp_path / "threads") == content(out)
    assert content(tmp_path / "shuffled") == content(out)
    assert content(tmp_path / "bounded") == content(out)


def test_on_a_cluster_the_bytes_are_the_same_and_no_task_runs_on_a_gpu_worker(store: str, out: str, tmp_path: Path) -> None:
    executor: Any = connect("processes:1", gpu_workers=1)
    try:
        with get_task_stream(client=executor.client) as stream:
            extract_patches(store, str(tmp_path / "set"), SPEC, executor=executor)
        workers = executor.client.scheduler_info(n_workers=-1)["workers"]
    finally:
        executor.close()
    used = {address for task in stream.data for address in [task["worker"]] if "run_extract" in task["key"]}
    assert used == {a for a, w in workers.items() if "GPU" not in w["resources"]}
    assert content(tmp_path / "set") == content(out)


@pytest.mark.parametrize("limit", [1, 3])
def test_a_limited_run_is_unfinished_until_a_later_one_ends_it(store: str, out: str, tmp_path: Path, limit: int) -> None:
    folder = str(tmp_path / "set")
    report = extract_patches(store, folder, SPEC, executor="serial", limit=limit)
    assert report.stopped_at_limit
    assert report.tasks_done == limit
    with pytest.raises(PatchError, match="unfinished"):
        PatchDataset(folder)
    rest = extract_patches(store, folder, SPEC, executor="serial")
    assert rest.tasks_skipped == limit
    assert content(folder) == content(out)


def test_a_second_run_does_nothing(store: str, out: str) -> None:
    before = content(out)
    report = extract_patches(store, out, SPEC, executor="serial")
    assert (report.tasks_done, report.bytes_written) == (0, 0)
    assert report.tasks_skipped == len(list(plan_patches(store, SPEC).tasks()))
    assert report.patches == dict(Counter(PatchDataset(out).index["split"].to_pylist()))
    assert content(out) == before


KILLED = """
import sys
from eocube.jobs.patches import extract_patches
from eocube.model.patch_spec import PatchSpec
extract_patches(sys.argv[1], sys.argv[2], PatchSpec.from_json(sys.argv[3]), executor="serial")
"""


def test_a_killed_run_is_finished_by_the_same_call(store: str, out: str, tmp_path: Path) -> None:
    """The process dies after the shards of its first task, before its index part and marker."""
    folder = str(tmp_path / "set")
    command = [sys.executable, "-c", KILLED, store, folder, SPEC.to_json()]
    ended = subprocess.run(command, env={**os.environ, HOOK_ENV: "after_shard"}, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert [k for k in tree(folder) if k.startswith("hr/c")]
    assert not [k for k in tree(folder) if k.startswith("markers/")]
    report = extract_patches(store, folder, SPEC, executor="serial")
    assert report.tasks_skipped == 0
    assert content(folder) == content(out)


class CountedFileSystem(MortalFileSystem):
    """``counted://``: a file system in memory that remembers which bytes of which object were asked for."""

    protocol = "counted"
    asked: ClassVar[Counter[tuple[str, int | None, int | None]]] = Counter()

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        """As in memory, and counted."""
        self.asked[path, start, end] += 1
        body: bytes = super().cat_file(path, start=start, end=end, **kwargs)
        return body

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.replace("counted://", "mortal://"))


def test_a_task_decodes_each_chunk_below_it_once(tmp_path: Path) -> None:
    """Patches overlap by half, on several dates; still no byte of a shard is asked for twice."""
    fsspec.register_implementation("counted", CountedFileSystem, clobber=True)
    CountedFileSystem.begin()
    store = make_store("counted:/")
    spec = replace(SPEC, split=None, min_clear=0.0)
    CountedFileSystem.asked.clear()
    extract_patches(store, str(tmp_path / "set"), spec, executor="serial", limit=1)
    pixels = {k: n for k, n in CountedFileSystem.asked.items() if "/c/" in k[0]}
    assert {path.split("/")[4] for path, _, _ in pixels} == {"10m", "20m"}
    assert set(pixels.values()) == {1}
    for product in ("10m", "20m"):  # the shard that the task owns: whole, in one request
        assert [k for k in pixels if k[0] == f"/store/cubes/a/{product}/data/c/0/0/0/0"] == [
            (f"/store/cubes/a/{product}/data/c/0/0/0/0", None, None)
        ]


def test_another_spec_is_refused_and_changes_nothing(store: str, out: str) -> None:
    before = content(out)
    with pytest.raises(SettingsError):
        extract_patches(store, out, replace(SPEC, seed=SPEC.seed + 1), executor="serial")
    assert content(out) == before


def test_a_store_is_not_overwritten_by_a_patch_set(store: str) -> None:
    with pytest.raises(DamagedStoreError, match="not a patch set"):
        extract_patches(store, store, SPEC, executor="serial")


def test_an_unfinished_source_region_is_no_patch(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    for key, _ in list(open_blobs(store).list("markers/a/10m/0.0.0")):
        open_blobs(store).delete(key)
    with pytest.raises(CubeError, match="not finished"):
        extract_patches(store, str(tmp_path / "set"), SPEC, executor="serial")


def test_a_rebuilt_input_is_cut_anew_and_the_set_is_unfinished_meanwhile(tmp_path: Path) -> None:
    store, out = make_store(tmp_path), str(tmp_path / "set")
    n = extract_patches(store, out, SPEC, executor="serial").tasks_done
    blobs = open_blobs(store)
    for key, _ in list(blobs.list("markers/a/10m")):
        marker = json.loads(blobs.get(key) or b"")
        marker["shards"] = {k: v and [v[0], "0" * 64] for k, v in marker["shards"].items()}  # other pixels from the same items
        blobs.put(key, json.dumps(marker).encode())

    assert extract_patches(store, out, SPEC, executor="serial", limit=1).tasks_done == 1
    with pytest.raises(PatchError, match="unfinished"):
        PatchDataset(out)
    assert extract_patches(store, out, SPEC, executor="serial").tasks_done == n - 1
    assert len(PatchDataset(out)) > 0
    assert extract_patches(store, out, SPEC, executor="serial").tasks_skipped == n


def test_a_head_of_a_plan_is_a_small_set(store: str, tmp_path: Path) -> None:
    plan = plan_patches(store, SPEC).head(5)
    extract_patches(store, str(tmp_path / "set"), plan, executor="serial")
    index = gpd.read_parquet(tmp_path / "set" / "index.parquet")
    assert index["patch_id"].tolist() == [row["patch_id"] for row in plan.rows()]


def test_several_sites_follow_each_other(tmp_path: Path) -> None:
    store = make_store(tmp_path, sites=("b", "a"))
    extract_patches(store, str(tmp_path / "set"), SPEC, executor="threads:2")
    index = gpd.read_parquet(tmp_path / "set" / "index.parquet")
    assert index["site"].is_monotonic_increasing
    assert index["site"].value_counts().nunique() == 1
    only = plan_patches(store, SPEC, sites=["b"])
    assert {row["site"] for row in only.rows()} == {"b"}


@pytest.mark.parametrize(
    ("change", "known"),
    [
        ({"lr_product": "60m"}, "'10m', '20m'"),
        ({"hr_product": "1m"}, "'10m', '20m'"),
        ({"hr_bands": ("blue",)}, "'green', 'red'"),
    ],
    ids=str,
)
def test_what_the_store_lacks_is_named(store: str, change: dict[str, Any], known: str) -> None:
    with pytest.raises(UnknownNameError, match=known):
        plan_patches(store, replace(SPEC, **change))


def test_an_unknown_site_is_named(store: str) -> None:
    with pytest.raises(UnknownNameError, match="site 'z'"):
        plan_patches(open_store(store), SPEC, sites=["z"])


def test_a_plan_without_a_patch_is_refused(store: str, tmp_path: Path) -> None:
    with pytest.raises(PatchError, match="nothing to extract"):
        extract_patches(
            store, str(tmp_path / "set"), replace(SPEC, lr_px=12, stride_px=100, time_tolerance_days=0, seed=2), sites=["a"]
        )


def test_planning_reads_no_pixel(store: str) -> None:
    with counting_server(store) as server:
        plan = plan_patches(server.url, SPEC)
        assert plan.summary()["patches"] == len(list(plan.rows()))
        assert sorted(server.paths) == ["/cubes/a/10m/zarr.json", "/cubes/a/20m/zarr.json", "/index.parquet", "/zarr.json"]


def test_a_set_names_no_folder_and_no_time_of_making(out: str, store: str) -> None:
    root = Path(out, "zarr.json").read_text()
    assert json.loads(root)["attributes"]["licenses"] == ["CC0-1.0"]
    for path in Path(out).rglob("*.json"):
        assert str(Path(store).parent) not in path.read_text()
