"""Each kind of damage: the cure that the audit names, done as it says, leaves the store as an undisturbed run left it."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest

from eocube.errors import ArgumentError, StoreReadError
from eocube.io.blobs import LocalBlobs
from eocube.io.verify import Problem
from eocube.jobs.audit import AuditReport, audit, index
from eocube.jobs.convert import convert
from eocube.jobs.cures import _CURES, advice
from eocube.jobs.open import OpenedCorpus, open_corpus
from eocube.testing.stac import make_series, write_items
from eocube.testing.stores import tree
from tests.jobs.test_audit import (
    CUBE,
    DAMAGE,
    FULL_DATE,
    OTHER,
    SITE,
    change_root,
    check,
    corpus_of,
    edit_json,
    flip_at,
    marker_file,
    problems,
    put,
    remove,
)

NAME = CUBE.removeprefix("cubes/")
SHARD = f"{CUBE}/data/c/{FULL_DATE}/0/0/0"


class Whole:
    """A store as an undisturbed run leaves it, and the command that made it."""

    def __init__(self, folder: Path):
        self.corpus: OpenedCorpus = corpus_of(folder / "files")
        self.store = folder / "store"
        self.run(self.store)
        self.objects = objects(self.store)

    def run(self, store: Path, **options: Any) -> None:
        convert(self.corpus, str(store), layout="map", executor="serial", **options)


def objects(store: Path) -> dict[str, str]:
    """Digests of everything but what runs say of themselves."""
    return {k: v for k, v in tree(store).items() if not k.startswith(("runs/", "tmp/"))}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return Whole(tmp_path_factory.mktemp("cures"))


@pytest.fixture
def store(whole: Whole, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(whole.store, tmp_path / "store"))


# ------------------------------------------------------------------------------------------------ the cures, as they are told


def run_again(whole: Whole, store: Path, said: str) -> None:
    assert "run" in said
    whole.run(store)


def delete_its_marker_and_run(whole: Whole, store: Path, said: str) -> None:
    (folder,) = re.findall(r"here (markers/\S+/)\)", said)
    shutil.rmtree(store / folder)
    whole.run(store)


def run_then_delete_and_run(whole: Whole, store: Path, said: str) -> None:
    (key,) = re.findall(r"here (\S+)\)", said)
    whole.run(store)
    if (store / key).exists():
        remove(store, key)
        whole.run(store)


def rebuild(whole: Whole, store: Path, said: str) -> None:
    assert f"--rebuild {NAME}" in said
    whole.run(store, rebuild=[NAME])


def delete_what_is_named(_: Whole, store: Path, said: str) -> None:
    (key,) = re.findall(r"delete it: (\S+)\.$", said)
    remove(store, key)


def make_the_index(_: Whole, store: Path, said: str) -> None:
    assert "eocube index" in said
    index(str(store))


def write_what_the_row_says(_: Whole, store: Path, said: str) -> None:
    assert "write into it what its row says" in said
    for row in check(store).rows:
        put(store, row.key, row.detail.partition("write this into it: ")[2].encode())


def delete_the_top_and_run(whole: Whole, store: Path, said: str) -> None:
    assert "delete it and run" in said
    remove(store, "zarr.json")
    whole.run(store)


Cure = Callable[[Whole, Path, str], None]
CURES: dict[str, Cure] = {
    "a shard where the marker says nodata": delete_its_marker_and_run,
    "a shard outside the grid": delete_what_is_named,
    "a file of somebody else": delete_what_is_named,
    "a marker is gone": run_again,
    "a marker under another name": run_then_delete_and_run,
    "a marker with another source": run_then_delete_and_run,
    "a marker that is no JSON": run_then_delete_and_run,
    "markers without a cube": run_then_delete_and_run,
    "array metadata is gone": rebuild,
    "array metadata is another": rebuild,
    "array metadata is no JSON": rebuild,
    "the group is no JSON": write_what_the_row_says,
    "the root says another grid": run_again,
    "the root says another recipe": run_again,
    "the root is no JSON": rebuild,
    "the root is gone": run_again,
    "a coordinate is gone": rebuild,
    "a coordinate is another": rebuild,
    "a text coordinate does not decode": rebuild,
    "the binding is gone": delete_its_marker_and_run,
    "the binding is no parquet": delete_its_marker_and_run,
    "the index is gone": make_the_index,
    "the index is no parquet": make_the_index,
    "the parts are gone": make_the_index,
    "a part without a cube": make_the_index,
}
MORE: dict[str, tuple[str, Callable[[Path], Any], Cure]] = {
    "a shard is gone": ("missing", lambda s: remove(s, SHARD), delete_its_marker_and_run),
    "a shard is longer": ("size", lambda s: put(s, SHARD, (s / SHARD).read_bytes() + b"x"), delete_its_marker_and_run),
    "a byte of a shard is another": ("digest", lambda s: flip_at(s, SHARD, 50), delete_its_marker_and_run),
    "a marker counts other pixels": (
        "counts",
        lambda s: edit_json(marker_file(s, "1.0.0"), lambda m: m.update(valid=m["valid"] - 1)),
        delete_its_marker_and_run,
    ),
    "the dates are gone": ("coordinate", lambda s: remove(s, f"{CUBE}/time/c/0"), rebuild),
    "the group of a site is gone": ("metadata", lambda s: remove(s, f"cubes/{SITE}/zarr.json"), write_what_the_row_says),
    "the store's root is another": (
        "metadata",
        lambda s: put(s, "zarr.json", b'{"zarr_format": 2, "attributes": {"eocube": {"format": 1}}}'),
        delete_the_top_and_run,
    ),
}
ALL = {name: (*DAMAGE[name], cure) for name, cure in CURES.items()} | MORE


def test_each_damage_of_the_audits_own_tests_has_a_cure() -> None:
    assert set(CURES) == set(DAMAGE)


def test_each_kind_of_problem_has_a_cure_or_comes_with_one_that_has() -> None:
    assert {kind for cure in _CURES for kind in cure.kinds} == set(get_args(Problem)) - {"no_marker"}


@pytest.mark.parametrize("name", ALL)
def test_the_cure_that_is_told_heals(whole: Whole, store: Path, name: str) -> None:
    problem, damage, cure = ALL[name]
    damage(store)
    found = check(store, deep=True)
    told = [text for text in found.advice if problem in text.partition(":")[0]]
    assert told, found.rows
    cure(whole, store, told[0])
    assert check(store, deep=True).rows == ()
    assert check(store).advice == ()
    healed = objects(store)
    differ = {k for k in {*healed, *whole.objects} if healed.get(k) != whole.objects.get(k)}
    if cure is write_what_the_row_says:  # the same JSON with other blanks
        differ = {k for k in differ if json.loads((store / k).read_text()) != json.loads((whole.store / k).read_text())}
    assert differ == set()


def test_only_what_was_found_is_told_and_no_kind_twice(store: Path) -> None:
    remove(store, SHARD)
    flip_at(store, f"{CUBE}/scl/c/1/0/0", 9)
    remove(store, "index.parquet")
    told = check(store).advice
    assert [text.partition(":")[0] for text in told] == ["missing, digest", "index"]
    assert check(store).as_json()["advice"] == list(told)


def test_of_many_cubes_the_first_are_named(store: Path) -> None:
    for n in range(5):
        shutil.copytree(store / CUBE, store / f"cubes/{SITE}/copy{n}")
    (told,) = (text for text in check(store).advice if "zarr.json is not what a run wrote" in text)
    assert told.endswith(f"--rebuild {SITE}/copy0 --rebuild {SITE}/copy1 --rebuild {SITE}/copy2 --rebuild ….")


# ------------------------------------------------------------------------------------------------ which of two was changed


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda r: inline_scale(r, 5), id="what it has inline"),
        pytest.param(lambda r: [change(r, 5) for change in (inline_scale, scale)], id="both that and its own variables"),
        pytest.param(lambda r: scale(r, 5), id="its own variables"),
    ],
)
def test_an_edited_root_is_named_and_not_the_array_and_a_run_heals_it(
    whole: Whole, store: Path, change: Callable[[dict[str, Any]], Any]
) -> None:
    key = change_root(store, change)
    assert problems(check(store)) == {("metadata", key)}
    whole.run(store)
    assert check(store, deep=True).rows == ()
    assert objects(store) == whole.objects


def inline_scale(root: dict[str, Any], value: float) -> None:
    root["consolidated_metadata"]["metadata"]["data"]["attributes"]["scale_factor"] = value


def scale(root: dict[str, Any], value: float) -> None:
    root["attributes"]["eocube"]["variables"][0]["scale"] = value


# ------------------------------------------------------------------------------------------------ what cannot be read


class Locked:
    """Makes keys of a store unreadable for this process: the tests may run as root, whom no permission bit stops."""

    def __init__(self, patch: pytest.MonkeyPatch, store: Path):
        self._store, self._keys = store, set[str]()
        get, scandir = LocalBlobs.get, os.scandir

        def guarded_get(blobs: LocalBlobs, key: str) -> bytes | None:
            if self._is_locked(key):
                raise StoreReadError(blobs.url, key, "Permission denied")
            return get(blobs, key)

        def guarded_scandir(path: Any = ".") -> Any:
            if self._is_locked(os.path.relpath(path, store)):
                raise PermissionError(13, "Permission denied", str(path))
            return scandir(path)

        patch.setattr(LocalBlobs, "get", guarded_get)
        patch.setattr(os, "scandir", guarded_scandir)

    def add(self, key: str) -> None:
        assert (self._store / key).exists()
        self._keys.add(key)

    def _is_locked(self, key: str) -> bool:
        return any(key == k or key.startswith(f"{k}/") for k in self._keys)


@pytest.fixture
def locked(monkeypatch: pytest.MonkeyPatch, store: Path) -> Locked:
    return Locked(monkeypatch, store)


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(SHARD, id="a shard"),
        pytest.param(f"{CUBE}/data/c/{FULL_DATE}", id="a folder of shards"),
        pytest.param(CUBE, id="a cube"),
        pytest.param(f"cubes/{SITE}", id="a site"),
        pytest.param(f"{CUBE}/zarr.json", id="a root"),
        pytest.param(f"{CUBE}/scl/zarr.json", id="array metadata"),
        pytest.param(f"markers/{NAME}", id="a cube's markers"),
        pytest.param(f"markers/{NAME}/1.0.0", id="a region's markers"),
        pytest.param("MARKER", id="a marker"),
        pytest.param(f"sources/{NAME}.parquet", id="the binding"),
        pytest.param("index.parquet", id="the index"),
        pytest.param(f"index/{SITE}", id="parts of the index"),
        pytest.param("tmp", id="staging"),
    ],
)
def test_what_cannot_be_read_is_one_finding_and_all_else_is_audited(store: Path, locked: Locked, key: str) -> None:
    """One region of the other site is damaged, and found too."""
    (store / "tmp").mkdir(exist_ok=True)
    other = remove(store, f"{OTHER}/data/c/1/0/0/0")
    key = marker_file(store, "1.0.0").relative_to(store).as_posix() if key == "MARKER" else key
    locked.add(key)
    report = check(store, deep=True)
    assert problems(report) == {("unreadable", key), ("missing", other)}
    assert not report.ok
    assert report.advice[0].startswith("unreadable: ")
    assert "Permission denied" in next(r.detail for r in report.rows if r.problem == "unreadable")


def test_a_file_that_the_system_does_not_open_is_a_finding(store: Path) -> None:
    """A link onto itself: no user can read that."""
    (store / SHARD).unlink()
    (store / SHARD).symlink_to(store / SHARD)
    assert problems(check(store)) == {("unreadable", SHARD)}


def test_a_store_that_does_not_answer_is_an_error_and_no_finding(store: Path, locked: Locked) -> None:
    locked.add("zarr.json")
    with pytest.raises(StoreReadError, match="permissions") as caught:
        check(store)
    assert "credentials" not in str(caught.value)
    assert "credentials" in str(StoreReadError("s3://bucket/store", "zarr.json", "403"))


# ------------------------------------------------------------------------------------------------ appends, arguments


def test_what_an_append_has_written_is_not_called_unknown(tmp_path: Path) -> None:
    """Deleted, it would be missing when the append is finished: its markers say that it is there."""
    items = write_items(make_series(6), tmp_path / "files")
    where = tmp_path / "store"
    convert(open_corpus("stac", items[:2]), str(where), layout="map", executor="serial")
    convert(open_corpus("stac", items), str(where), layout="map", executor="serial", limit=2)
    report: AuditReport = check(where)
    assert report.counts == {"marker": 2}
    assert "finishes an append" in report.advice[0]
    convert(open_corpus("stac", items), str(where), layout="map", executor="serial")
    assert check(where, deep=True).rows == ()


def test_deep_and_quick_together_are_refused(store: Path) -> None:
    with pytest.raises(ArgumentError, match="give one"):
        audit(str(store), deep=True, quick=True)


def test_advice_names_every_damaged_region_and_one_is_enough_for_lost_addresses() -> None:
    rows = [SimpleNamespace(cube="a", product="10m", region=f"{n}.0.0", key=f"k{n}", problem="digest") for n in range(5)]
    (damage,) = advice(rows, {"digest"})
    assert "here markers/a/10m/0.0.0/, markers/a/10m/1.0.0/, markers/a/10m/2.0.0/ …)" in damage
    (lost,) = advice([SimpleNamespace(**{**vars(row), "problem": "sources"}) for row in rows], {"sources"})
    assert "(here markers/a/10m/0.0.0/)" in lost
