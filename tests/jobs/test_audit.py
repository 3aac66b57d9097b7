"""audit finds what was planted and nothing else; index rebuilds what the runs left."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
import xxhash

from eocube.errors import CubeError, DamagedStoreError, StoreNotFoundError
from eocube.io.blobs import open_blobs
from eocube.io.index import read_index
from eocube.jobs import audit as audit_module
from eocube.jobs.audit import AuditReport, audit, index
from eocube.jobs.convert import convert
from eocube.jobs.open import OpenedCorpus, open_corpus
from eocube.model.spec import Layout
from eocube.testing.stac import across_baseline, make_grid, make_series, write_items
from eocube.testing.stores import tree

SITE = "EPSG32635_600000_5000040"
CUBE = f"cubes/{SITE}/10m"
OTHER = "cubes/EPSG32635_700000_5000040/10m"
EMPTY_DATE, FULL_DATE = 2, 4


def corpus_of(folder: Path, n: int = 5, *, shape_yx: tuple[int, int] = (48, 64)) -> OpenedCorpus:
    """A small series of two tiles, one date without any data."""
    tiles = [make_grid(shape_yx), make_grid(shape_yx, corner_xy=(700_000.0, 5_000_040.0))]
    scenes = [replace(s, grid=g, item_id=f"{s.item_id}_{i}") for i, g in enumerate(tiles) for s in across_baseline(n)]
    scenes = [replace(s, footprint=((0, 0), (0, 0))) if s.number == EMPTY_DATE else s for s in scenes]
    return open_corpus("stac", write_items(scenes, folder))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of two sites and five dates, a region a date, one date all nodata."""
    folder = tmp_path_factory.mktemp("audit")
    convert(corpus_of(folder / "files"), str(folder / "store"), layout="map", executor="serial")
    return folder / "store"


@pytest.fixture
def store(whole: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(whole, tmp_path / "store"))


def check(store: Path, **options: Any) -> AuditReport:
    return audit(str(store), executor="serial", **options)


def problems(report: AuditReport) -> set[tuple[str, str]]:
    """(problem, key) of every row."""
    return {(r.problem, r.key) for r in report.rows}


def flip(path: Path, at: int) -> None:
    body = bytearray(path.read_bytes())
    body[at] ^= 0x10
    path.write_bytes(bytes(body))


def edit_json(path: Path, change: Callable[[dict], None]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def marker_file(store: Path, region: str) -> Path:
    (found,) = (store / "markers" / CUBE.removeprefix("cubes/") / region).iterdir()
    return found


# ------------------------------------------------------------------------------------------------ whole stores


@pytest.mark.parametrize("options", [{}, {"deep": True}, {"quick": True}], ids=["digests", "deep", "quick"])
def test_a_whole_store_is_silent_also_about_its_all_nodata_shards(whole: Path, options: dict) -> None:
    assert not (whole / CUBE / f"data/c/{EMPTY_DATE}/0/0/0").exists()
    report = check(whole, **options)
    assert report.ok
    assert report.rows == ()
    assert (report.cubes, report.regions) == (2, 10)
    assert report.objects == 2 * 4 * 3
    assert report.bytes_read == (0 if options.get("quick") else sum(_shard_sizes(whole)))


def _shard_sizes(store: Path) -> Iterator[int]:
    for name in ("data", "scl", "clear_summary"):
        yield from (p.stat().st_size for p in store.glob(f"cubes/*/*/{name}/c/**/*") if p.is_file())


@pytest.mark.parametrize("layout", ["patch", "balanced", "series"])
def test_every_layout_and_ragged_edges_pass_the_deep_audit(tmp_path: Path, layout: Layout) -> None:
    corpus = corpus_of(tmp_path / "files", 6, shape_yx=(70, 45))
    convert(corpus, str(tmp_path / "store"), layout=layout, executor="serial")
    assert check(tmp_path / "store", deep=True).rows == ()


def test_a_cube_without_a_cloud_mask_or_nodata_passes_the_deep_audit(tmp_path: Path) -> None:
    scenes = make_series(
        3, zooms={"B04": 1}, nodata=None, properties={"constellation": "none", "platform": "none"}, collection="plain"
    )
    convert(open_corpus("stac", write_items(scenes, tmp_path / "files")), str(tmp_path / "store"), executor="serial")
    assert check(tmp_path / "store", deep=True).rows == ()


def test_the_sample_that_ships_passes_the_deep_audit(tmp_path: Path) -> None:
    from eocube import sample_corpus

    corpus = open_corpus("stac", str(sample_corpus("sentinel2", tmp_path)))
    convert(corpus, str(tmp_path / "store"), products=["20m"])
    assert audit(str(tmp_path / "store"), deep=True, executor="threads:2").rows == ()


class PicklingExecutor:
    """Sends function, shared value, task and result through pickle, as a cluster would."""

    def share(self, value: object, *, resource: str = "CPU") -> bytes:
        return cloudpickle.dumps(value)

    def run(self, func: Callable, tasks: Iterator, *, resource: str = "CPU") -> Iterator:
        for shared, task in tasks:
            body = cloudpickle.dumps((func, task))
            again, same = cloudpickle.loads(body)
            yield cloudpickle.loads(cloudpickle.dumps(again(cloudpickle.loads(shared), same)))

    def close(self) -> None:
        pass


def test_tasks_travel_to_other_processes(store: Path) -> None:
    flip(store / CUBE / f"scl/c/{FULL_DATE}/0/0", 9)
    assert audit(str(store), executor=PicklingExecutor()) == check(store)
    assert not check(store).ok


def test_audit_writes_nothing(store: Path) -> None:
    flip(store / CUBE / f"scl/c/{FULL_DATE}/0/0", 9)
    before = tree(store)
    check(store, deep=True)
    assert tree(store) == before


def test_no_store_is_an_error(tmp_path: Path) -> None:
    for job in (audit, index):
        with pytest.raises(StoreNotFoundError, match="nothing-here"):
            job(str(tmp_path / "nothing-here"))


@pytest.mark.parametrize(
    ("attributes", "error", "said"),
    [
        pytest.param({"eocube_patches": {}}, CubeError, "patch set.*PatchDataset", id="patch set"),
        pytest.param({"eocube": {"format": 1, "cube": "a"}}, CubeError, "one cube", id="cube"),
        pytest.param({"title": "mine"}, DamagedStoreError, "not an eocube store's", id="somebody else's"),
    ],
)
def test_what_is_no_store_is_refused_and_stays_as_it_is(
    tmp_path: Path, attributes: dict[str, Any], error: type[Exception], said: str
) -> None:
    put(tmp_path, "zarr.json", json.dumps({"zarr_format": 3, "node_type": "group", "attributes": attributes}).encode())
    put(tmp_path, "index/part.parquet")
    put(tmp_path, "index.parquet")
    before = tree(tmp_path)
    for job in (audit, index):
        with pytest.raises(error, match=said):
            job(str(tmp_path))
    assert tree(tmp_path) == before


# ------------------------------------------------------------------------------------------------ damaged stores


def test_one_flipped_bit_is_found_in_any_shard(store: Path) -> None:
    shards = [p for n in ("data", "scl", "clear_summary") for p in store.glob(f"cubes/*/*/{n}/c/**/*") if p.is_file()]
    assert len(shards) == 2 * 4 * 3
    chosen = random.Random(0)  # noqa: S311
    for path in shards:
        flip(path, chosen.randrange(path.stat().st_size))
    report = check(store)
    assert problems(report) == {("digest", p.relative_to(store).as_posix()) for p in shards}
    assert report.counts == {"digest": len(shards)}


def test_a_deleted_full_shard_is_found_by_every_depth(store: Path) -> None:
    key = f"{CUBE}/data/c/{FULL_DATE}/0/0/0"
    (store / key).unlink()
    for options in ({}, {"deep": True}, {"quick": True}):
        report = check(store, **options)
        (row,) = report.rows
        assert (row.problem, row.key, row.region, row.cube) == ("missing", key, f"{FULL_DATE}.0.0", SITE)
        assert not report.ok


def test_quick_sees_sizes_and_not_bits(store: Path) -> None:
    key = f"{CUBE}/data/c/{FULL_DATE}/0/0/0"
    flip(store / key, 100)
    assert check(store, quick=True).ok
    with (store / key).open("ab") as f:
        f.write(b"x")
    assert problems(check(store, quick=True)) == {("size", key)}


def damage_marker_name(store: Path) -> str:
    path = marker_file(store, "1.0.0")
    path.rename(path.with_name("0" * 32 + ".json"))
    return path.with_name("0" * 32 + ".json").relative_to(store).as_posix()


def damage_marker_source(store: Path) -> str:
    path = marker_file(store, "1.0.0")
    edit_json(path, lambda m: m["sources"]["in0"][0].__setitem__(0, "another item"))
    return path.relative_to(store).as_posix()


def damage_marker_json(store: Path) -> str:
    path = marker_file(store, "1.0.0")
    path.write_text(path.read_text()[:-5])
    return path.parent.relative_to(store).as_posix()


def put(store: Path, key: str, body: bytes = b"x") -> str:
    (store / key).parent.mkdir(parents=True, exist_ok=True)
    (store / key).write_bytes(body)
    return key


def remove(store: Path, key: str) -> str:
    path = store / key
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    return key


def change_root(store: Path, change: Callable[[dict], None]) -> str:
    edit_json(store / CUBE / "zarr.json", change)
    return f"{CUBE}/zarr.json"


def flip_at(store: Path, key: str, at: int) -> str:
    flip(store / key, at)
    return key


DAMAGE: dict[str, tuple[str, Callable[[Path], str]]] = {
    "a shard where the marker says nodata": ("not_empty", lambda s: put(s, f"{CUBE}/data/c/{EMPTY_DATE}/0/0/0")),
    "a shard outside the grid": ("unknown_object", lambda s: put(s, f"{CUBE}/data/c/99/0/0/0")),
    "a file of somebody else": ("unknown_object", lambda s: put(s, f"{CUBE}/notes.txt")),
    "a marker is gone": ("unfinished", lambda s: remove(s, f"markers/{CUBE.removeprefix('cubes/')}/1.0.0")),
    "a marker under another name": ("marker", damage_marker_name),
    "a marker with another source": ("marker", damage_marker_source),
    "a marker that is no JSON": ("marker", damage_marker_json),
    "markers without a cube": ("marker", lambda s: put(s, "markers/gone/10m/0.0.0/" + "0" * 32 + ".json").rsplit("/", 2)[0]),
    "array metadata is gone": ("metadata", lambda s: remove(s, f"{CUBE}/data/zarr.json")),
    "array metadata is another": ("metadata", lambda s: put(s, f"{CUBE}/scl/zarr.json", b'{"shape": [1]}')),
    "array metadata is no JSON": ("metadata", lambda s: put(s, f"{CUBE}/time/zarr.json", b"{")),
    "the group is no JSON": ("metadata", lambda s: put(s, "cubes/zarr.json", b"{")),
    "the root says another grid": ("metadata", lambda s: change_root(s, lambda r: r["attributes"]["spatial:bbox"].reverse())),
    "the root says another recipe": (
        "metadata",
        lambda s: change_root(s, lambda r: r["attributes"].update(eocube_recipe='{"inputs":{},"steps":[]}')),
    ),
    "the root is no JSON": ("metadata", lambda s: put(s, f"{CUBE}/zarr.json", b"{")),
    "the root is gone": ("metadata", lambda s: remove(s, f"{CUBE}/zarr.json")),
    "a coordinate is gone": ("coordinate", lambda s: remove(s, f"{CUBE}/x/c/0").rsplit("/", 2)[0]),
    "a coordinate is another": (
        "coordinate",
        lambda s: str(shutil.copy(s / CUBE / "y/c/0", s / CUBE / "x/c/0")) and f"{CUBE}/x",
    ),
    "a text coordinate does not decode": ("coordinate", lambda s: put(s, f"{CUBE}/item_id/c/0", b"12345678").rsplit("/", 2)[0]),
    "the binding is gone": ("sources", lambda s: remove(s, f"sources/{CUBE.removeprefix('cubes/')}.parquet")),
    "the binding is no parquet": ("sources", lambda s: put(s, f"sources/{CUBE.removeprefix('cubes/')}.parquet")),
    "the index is gone": ("index", lambda s: remove(s, "index.parquet")),
    "the index is no parquet": ("index", lambda s: put(s, "index.parquet")),
    "the parts are gone": ("index", lambda s: remove(s, "index")),
    "a part without a cube": ("index", lambda s: put(s, "index/gone/10m.0123456789abcdef.parquet")),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_found_where_it_is(store: Path, name: str) -> None:
    problem, damage = DAMAGE[name]
    key = damage(store)
    report = check(store)
    assert (problem, key) in problems(report), report.rows
    assert not report.ok
    assert sum(report.counts.values()) == len(report.rows)


def test_a_region_without_a_marker_names_its_objects(store: Path) -> None:
    remove(store, f"markers/{CUBE.removeprefix('cubes/')}/1.0.0")
    report = check(store)
    assert report.counts == {"no_marker": 3, "unfinished": 1}
    assert {r.region for r in report.rows} == {"1.0.0"}


def test_leftover_staging_is_listed_and_harms_nobody(store: Path) -> None:
    put(store, "tmp/0123", b"half")
    report = check(store)
    assert problems(report) == {("staging", "tmp/0123")}
    assert report.ok


def test_deep_counts_pixels_again(store: Path) -> None:
    edit_json(marker_file(store, "1.0.0"), lambda m: m.update(valid=m["valid"] - 1))
    assert check(store).ok
    report = check(store, deep=True)
    assert report.counts == {"counts": 1}
    assert "decoding gives" in report.rows[0].detail


def test_deep_decodes_what_a_marker_vouches_for(store: Path) -> None:
    """A shard that never decoded, and a marker that vouches for exactly those bytes."""
    key = f"{CUBE}/scl/c/{FULL_DATE}/0/0"
    flip(store / key, 20)
    body = (store / key).read_bytes()
    digest = xxhash.xxh3_128_hexdigest(body)
    edit_json(marker_file(store, f"{FULL_DATE}.0.0"), lambda m: m["shards"].update({key: [len(body), digest]}))
    assert check(store).ok
    assert set(check(store, deep=True).counts) & {"undecodable", "counts"}


def test_deep_compares_the_clear_summary_with_the_pixels(store: Path) -> None:
    from eocube.exec.region import encode_summary

    key = f"{CUBE}/clear_summary/c/{FULL_DATE}/0/0"
    body = encode_summary(np.full((1, 3, 4), 7, np.uint8))
    assert body is not None
    (store / key).write_bytes(body)
    digest = xxhash.xxh3_128_hexdigest(body)
    edit_json(marker_file(store, f"{FULL_DATE}.0.0"), lambda m: m["shards"].update({key: [len(body), digest]}))
    assert check(store).ok
    assert problems(check(store, deep=True)) == {("counts", key)}


def test_more_findings_than_rows_are_still_counted(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_module, "MAX_ROWS", 2)
    shutil.rmtree(store / "markers")
    report = check(store)
    assert len(report.rows) == 2
    assert report.counts["unfinished"] == 10


# ------------------------------------------------------------------------------------------------ runs on their way


def test_a_run_stopped_at_its_limit_is_unfinished_and_nothing_else(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path / "files")
    convert(corpus, str(tmp_path / "store"), layout="map", executor="serial", sites=[SITE], limit=3)
    report = check(tmp_path / "store")
    assert report.counts == {"unfinished": 2}
    convert(corpus, str(tmp_path / "store"), layout="map", executor="serial", sites=[SITE])
    assert check(tmp_path / "store", deep=True).rows == ()


def test_failed_assets_are_listed_until_they_are_healed(tmp_path: Path) -> None:
    scenes = make_series(4)
    broken = [replace(s, missing=("B08",)) if s.number == 1 else s for s in scenes]
    items = write_items(broken, tmp_path / "files")
    where = str(tmp_path / "store")
    convert(open_corpus("stac", items), where, layout="map", executor="serial", errors="skip")
    report = check(tmp_path / "store", deep=True)
    assert report.counts == {"failed_asset": 1}
    assert report.rows[0].region == "1.0.0"
    assert "B08" in report.rows[0].detail
    write_items(scenes, tmp_path / "files")
    convert(open_corpus("stac", items), where, layout="map", executor="serial", retry=True)
    assert check(tmp_path / "store", deep=True).rows == ()


def test_an_append_that_is_not_published_is_told(tmp_path: Path) -> None:
    scenes = make_series(6)
    items = write_items(scenes, tmp_path / "files")
    where = str(tmp_path / "store")
    convert(open_corpus("stac", items[:3]), where, layout="patch", executor="serial")
    convert(open_corpus("stac", items), where, layout="patch", executor="serial", limit=1)
    report = check(tmp_path / "store")
    assert set(report.counts) == {"marker"}
    assert "append" in report.rows[0].detail
    convert(open_corpus("stac", items), where, layout="patch", executor="serial")
    assert check(tmp_path / "store", deep=True).rows == ()


def test_an_append_with_a_file_that_cannot_be_read_is_told_until_it_is_healed(tmp_path: Path) -> None:
    """The older dates of the region stay as they were, with their marker beside the new, partial one."""
    scenes = make_series(6)
    items = write_items([replace(s, missing=("B08",)) if s.number == 3 else s for s in scenes], tmp_path / "files")
    where = str(tmp_path / "store")
    convert(open_corpus("stac", items[:3]), where, layout="patch", executor="serial")
    convert(open_corpus("stac", items), where, layout="patch", executor="serial", errors="skip")
    report = check(tmp_path / "store", deep=True)
    assert report.counts["failed_asset"] == 1
    assert set(report.counts) <= {"failed_asset", "marker", "index"}
    write_items(scenes, tmp_path / "files")
    convert(open_corpus("stac", items), where, layout="patch", executor="serial", retry=True)
    assert check(tmp_path / "store", deep=True).rows == ()


# ------------------------------------------------------------------------------------------------ index


def test_index_rebuilds_the_rows_that_the_run_left_byte_for_byte(store: Path) -> None:
    before = {k: v for k, v in tree(store).items() if k.startswith("index")}
    shutil.rmtree(store / "index")
    (store / "index.parquet").unlink()
    table = index(str(store))
    assert table.num_rows == 2
    assert {k: v for k, v in tree(store).items() if k.startswith("index")} == before
    assert check(store).ok


def test_index_rebuilds_rows_of_cubes_with_failed_assets(tmp_path: Path) -> None:
    scenes = [replace(s, missing=("B04",)) if s.number == 1 else s for s in make_series(3)]
    where = str(tmp_path / "store")
    convert(open_corpus("stac", write_items(scenes, tmp_path / "files")), where, layout="map", executor="serial", errors="skip")
    before = read_index(open_blobs(where))
    assert before["unfinished_regions"].to_pylist() == [1]
    assert index(where).equals(before)


def test_index_drops_rows_of_cubes_that_are_gone_or_unfinished(store: Path) -> None:
    shutil.rmtree(store / OTHER)
    remove(store, f"markers/{CUBE.removeprefix('cubes/')}/1.0.0")
    assert index(str(store)).num_rows == 0
    assert not list((store / "index").rglob("*.parquet"))


def test_index_refuses_a_damaged_root_by_name(store: Path) -> None:
    put(store, f"{CUBE}/zarr.json", b"{")
    with pytest.raises(DamagedStoreError, match=f"{CUBE}/zarr.json"):
        index(str(store))


def test_a_stale_row_of_the_index_is_found_and_rebuilt(store: Path) -> None:
    edit_json(marker_file(store, "1.0.0"), lambda m: m.update(clear=m["clear"] + 5))
    report = check(store)
    assert report.counts == {"index": 2}
    assert all("clear_fraction" in r.detail for r in report.rows)
    index(str(store))
    assert check(store).ok
