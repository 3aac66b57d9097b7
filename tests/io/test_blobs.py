"""Object stores: get, put, put-if-absent, list, delete mean the same in a folder and in memory; S3 is in tests/slow."""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import obstore
import pytest
from obstore.store import MemoryStore

from eocube.errors import StoreReadError, StoreWriteError, UnknownNameError
from eocube.io.blobs import PART_BYTES, STAGING, Blobs, FsspecBlobs, LocalBlobs, ObstoreBlobs, open_blobs
from eocube.testing.stores import counting_server, tree

_: tuple[type[Blobs], ...] = (LocalBlobs, ObstoreBlobs, FsspecBlobs)


@pytest.fixture(params=["folder", "file URL", "memory", "objects"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    if request.param == "objects":
        objects = ObstoreBlobs("s3://bucket", {})
        objects.__dict__["_store"] = MemoryStore()  # what a bucket's client would be
        return objects
    url = {"folder": str(tmp_path / "s"), "file URL": f"file://{tmp_path}/s", "memory": f"memory://{tmp_path.name}/s"}[
        request.param
    ]
    return open_blobs(url)


def test_what_is_put_is_got_listed_and_deleted(blobs: Blobs) -> None:
    assert blobs.get("a/b/c") is None
    assert list(blobs.list("a")) == []
    blobs.put("a/b/c", b"one")
    blobs.put("a/b/d", b"")
    blobs.put("a/b/c", b"three")
    assert (blobs.get("a/b/c"), blobs.get("a/b/d"), blobs.get("a/b"), blobs.get("a/b/c/d")) == (b"three", b"", None, None)
    assert sorted(blobs.list("a")) == [("a/b/c", 5), ("a/b/d", 0)]
    blobs.delete("a/b/c")
    blobs.delete("a/b/c")
    assert list(blobs.list("a/b")) == [("a/b/d", 0)]


def test_a_listing_is_of_a_folder_not_of_a_prefix(blobs: Blobs) -> None:
    for key in ("m/10m/x", "m/10m.5/x", "m/10/x"):
        blobs.put(key, b"1")
    assert [k for k, _ in blobs.list("m/10m")] == ["m/10m/x"]


def test_put_if_absent_keeps_what_is_there(blobs: Blobs) -> None:
    assert blobs.put_new("k", b"first")
    assert not blobs.put_new("k", b"second")
    assert blobs.get("k") == b"first"
    blobs.delete("k")
    assert blobs.put_new("k", b"third")


def test_a_pickled_store_is_the_same_store(blobs: Blobs) -> None:
    if isinstance(blobs, ObstoreBlobs):
        assert pickle.loads(pickle.dumps(blobs)).url == blobs.url  # nobody else sees what lies in memory
        return
    blobs.put("k", b"1")
    assert pickle.loads(pickle.dumps(blobs)).get("k") == b"1"


def test_of_many_writers_exactly_one_creates_a_local_object(tmp_path: Path) -> None:
    blobs = LocalBlobs(str(tmp_path))
    with ThreadPoolExecutor(8) as pool:
        for i in range(40):
            won = list(pool.map(lambda n, i=i: blobs.put_new(f"folder/{i}", str(n).encode()), range(8)))
            assert sum(won) == 1
            assert blobs.get(f"folder/{i}") == str(won.index(True)).encode()
    assert tree(tmp_path / STAGING) == {}


def test_a_reader_never_sees_half_an_object(tmp_path: Path) -> None:
    blobs, bodies = LocalBlobs(str(tmp_path)), {bytes([i]) * 200_000 for i in range(4)}
    blobs.put("k", min(bodies))

    def write(body: bytes) -> None:
        for _ in range(25):
            blobs.put("k", body)

    with ThreadPoolExecutor(5) as pool:
        writing = [pool.submit(write, b) for b in bodies]
        while not all(f.done() for f in writing):
            assert blobs.get("k") in bodies
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["k"]


def test_staging_older_than_a_day_is_swept_and_younger_is_not(tmp_path: Path) -> None:
    blobs = LocalBlobs(str(tmp_path))
    blobs.sweep_staging()
    for name, age_h in (("old", 25), ("young", 23)):
        blobs.put(f"{STAGING}/{name}", b"")
        when = time.time() - age_h * 3600
        os.utime(tmp_path / STAGING / name, (when, when))
    blobs.sweep_staging()
    assert list(tree(tmp_path / STAGING)) == ["young"]


def test_a_place_that_cannot_be_written_is_named_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for blobs, key in ((LocalBlobs(str(tmp_path / "file")), "a"), (LocalBlobs(str(tmp_path)), "file/a")):
        for put in (blobs.put, blobs.put_new):
            with pytest.raises(StoreWriteError, match=rf"'{key}' \(4 bytes\) could not be written below .*free space"):
                put(key, b"four")


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("relative/folder", LocalBlobs),
        ("/absolute", LocalBlobs),
        ("~/store", LocalBlobs),
        ("file:///absolute", LocalBlobs),
        ("s3://bucket/store", ObstoreBlobs),
        ("gs://bucket/store", ObstoreBlobs),
        ("az://container/store", ObstoreBlobs),
        ("https://example.com/store", ObstoreBlobs),
        ("memory://store", FsspecBlobs),
    ],
)
def test_an_address_says_what_kind_of_store_it_is(url: str, kind: type) -> None:
    assert type(open_blobs(url)) is kind


def test_a_local_address_is_absolute() -> None:
    assert open_blobs("x").url == str(Path.cwd() / "x")
    assert open_blobs("~/x").url == str(Path.home() / "x")
    assert open_blobs(Path("/a/b")).url == "/a/b"


def test_an_unknown_scheme_is_refused_with_those_that_are_known(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"Unknown URL scheme 'nonsense://x'; known: .*'memory', .*'s3'"):
        open_blobs("nonsense://x").get("k")


def test_http_reads_and_finds_nothing_without_an_error(tmp_path: Path) -> None:
    LocalBlobs(str(tmp_path)).put("a/b", b"1")
    with counting_server(tmp_path) as server:
        blobs = open_blobs(server.url)
        assert (blobs.get("a/b"), blobs.get("a/c")) == (b"1", None)
        with pytest.raises(StoreWriteError, match="could not be written"):
            blobs.put("a/c", b"2")
        server.clear()
        with pytest.raises(StoreReadError, match=r"no listings.*s3://"):
            list(blobs.list("a"))
        assert server.requests == [], "asked for at once, without a dozen tries"


@pytest.mark.parametrize("make", [str, lambda p: f"memory://{p.name}"], ids=["folder", "memory"])
def test_zarr_reads_the_same_objects(tmp_path: Path, make: Callable[[Path], str]) -> None:
    import zarr

    from eocube.exec.claim import group_json

    blobs = open_blobs(make(tmp_path))
    blobs.put("zarr.json", group_json({"a": 1}))
    assert dict(zarr.open_group(blobs.zarr_store(), mode="r").attrs) == {"a": 1}
    if make is not str:
        fsspec.filesystem("memory").rm(f"/{tmp_path.name}", recursive=True)


def test_an_object_may_come_in_pieces(blobs: Blobs) -> None:
    blobs.put_parts("k", iter([b"12", b"", b"345"]), n_bytes=5)
    assert blobs.get("k") == b"12345"


@pytest.mark.parametrize("part", [b"123", b"12345"], ids=["too short", "too long"])
def test_an_object_that_is_not_as_long_as_announced_is_not_put(blobs: Blobs, part: bytes) -> None:
    blobs.put("k", b"old")
    with pytest.raises(StoreWriteError, match=r"'k' came as \d bytes and not as 4: nothing was put"):
        blobs.put_parts("k", iter([part]), n_bytes=4)
    assert blobs.get("k") == b"old"
    assert [key for key, _ in blobs.list("")] == ["k"]


def test_a_big_object_comes_in_pieces_and_is_whole_or_not_there(blobs: Blobs) -> None:
    part = bytes(range(256)) * 4096  # 1 MiB
    blobs.put_parts("big", (part for _ in range(12)), n_bytes=12 * len(part))
    assert blobs.get("big") == part * 12
    for n in (11, 13):
        with pytest.raises(StoreWriteError, match=rf"'big' came as {n * len(part)} bytes and not as {12 * len(part)}"):
            blobs.put_parts("big", (part + b"" for _ in range(n)), n_bytes=12 * len(part))
    assert blobs.get("big") == part * 12
    assert [key for key, _ in blobs.list("")] == ["big"]


@pytest.mark.parametrize(("n_bytes", "several"), [(PART_BYTES, False), (PART_BYTES + 1, True)])
def test_a_big_object_goes_to_an_object_store_in_parts(n_bytes: int, *, several: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """One long request would run into its time limit; a conditional one has no parts."""
    blobs, asked = ObstoreBlobs("s3://bucket", {}), []
    blobs.__dict__["_store"] = MemoryStore()
    put = obstore.put

    def noted(*args: Any, **how: Any) -> Any:
        asked.append(how["use_multipart"])
        return put(*args, **how)

    monkeypatch.setattr(obstore, "put", noted)
    blobs.put("whole", bytes(n_bytes))
    blobs.put_parts("pieces", iter([bytes(n_bytes)]), n_bytes=n_bytes)
    assert blobs.put_new("new", bytes(n_bytes))
    assert asked == [several, several, False]
    assert {size for _, size in blobs.list("")} == {n_bytes}


def test_a_scratch_file_that_gives_less_than_was_laid_by_is_refused(tmp_path: Path) -> None:
    scratch = LocalBlobs(str(tmp_path)).scratch()
    scratch.append(b"12345")
    with pytest.raises(StoreWriteError, match=r"came as 2 bytes and not as 4"):
        scratch.read(3, 4)
    scratch.close()


def test_a_scratch_file_has_no_name_and_gives_back_what_was_laid_by(tmp_path: Path) -> None:
    scratch = LocalBlobs(str(tmp_path)).scratch()
    places = [scratch.append(bytes([i]) * n) for i, n in enumerate((3, 0, 100_000))]
    assert [scratch.read(at, 2) for at in places] == [b"\0\0", b"\2\2", b"\2\2"]
    assert tree(tmp_path / STAGING) == {}
    scratch.close()


def test_a_full_disk_under_a_scratch_file_is_said_with_what_to_do(tmp_path: Path) -> None:
    scratch = LocalBlobs(str(tmp_path)).scratch()
    scratch.append(b"1")
    scratch.close()
    scratch._file = open("/dev/full", "wb", buffering=0)  # noqa: SIM115, PTH123
    with pytest.raises(StoreWriteError, match="free space"):
        scratch.append(b"2")
    scratch.close()
