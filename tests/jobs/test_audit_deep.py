"""``audit --deep`` decodes every chunk of a store; what is no shard, no marker and no metadata is named; nodata is no damage."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
import zarr

from eocube.errors import StoreNotFoundError
from eocube.io.blobs import open_blobs
from eocube.io.shards import ChunkIndex, assemble_shard, split_shard
from eocube.io.verify import StoredCube
from eocube.io.verify_metadata import open_stored
from eocube.jobs.audit import AuditReport, audit
from eocube.jobs.convert import convert
from eocube.jobs.open import open_corpus
from eocube.model.frame import Variable
from eocube.model.spec import SUMMARY, Region
from eocube.testing.stac import make_grid, make_series, write_items

EMPTY_DATES = (4, 5, 6, 7)
"""The second shard of four dates: a region in which every pixel is nodata."""

DEPTHS: dict[str, dict[str, Any]] = {"digests": {}, "deep": {"deep": True}, "quick": {"quick": True}}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine dates of 300 x 300 px, four dates a shard: up to 16 chunks a shard, one region all nodata."""
    folder = tmp_path_factory.mktemp("deep")
    scenes = make_series(9, grid=make_grid((300, 300)), zooms={"B04": 1, "B08": 1, "SCL": 1}, block=256)
    scenes = [replace(s, footprint=((0, 0), (0, 0))) if s.number in EMPTY_DATES else s for s in scenes]
    convert(open_corpus("stac", write_items(scenes, folder / "files")), str(folder / "store"), layout="patch", executor="serial")
    return folder / "store"


@pytest.fixture
def store(whole: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(whole, tmp_path / "store"))


def check(store: Path, **options: Any) -> AuditReport:
    return audit(str(store), executor="serial", **options)


def cube_of(store: Path) -> StoredCube:
    (folder,) = (p for p in store.glob("cubes/*/*") if p.is_dir())
    opened = open_stored(open_blobs(str(store)), folder.parent.name, folder.name)
    assert isinstance(opened, StoredCube)
    return opened


def shards_of(store: Path) -> Iterator[tuple[str, Region, Variable, dict[ChunkIndex, bytes]]]:
    """(key, region, variable, encoded chunks) of every shard that is there."""
    cube = cube_of(store)
    nt, ny, nx = cube.spec.chunks_per_shard
    for v in cube.spec.frame.variables:
        for path in sorted(p for p in (store / cube.folder / v.name / "c").rglob("*") if p.is_file()):
            t, *_, y, x = (int(i) for i in path.relative_to(store / cube.folder / v.name / "c").parts)
            chunks = split_shard(path.read_bytes(), (nt, 1, ny, nx) if v.banded else (nt, ny, nx))
            yield path.relative_to(store).as_posix(), Region(t, y, x), v, chunks


def marker_file(store: Path, region: Region) -> Path:
    (found,) = store.glob(f"markers/*/*/{region}/*.json")
    return found


def plant(store: Path, key: str, region: Region, body: bytes) -> None:
    """Write an object and let its marker vouch for exactly these bytes."""
    (store / key).write_bytes(body)
    path = marker_file(store, region)
    marker = json.loads(path.read_text())
    marker["shards"][key] = [len(body), xxhash.xxh3_128_hexdigest(body)]
    path.write_text(json.dumps(marker))


def cannot_decode(chunk: bytes) -> bytes:
    """The same chunk, whose Blosc header promises one byte more."""
    body = bytearray(chunk)
    body[4:8] = (int.from_bytes(body[4:8], "little") + 1).to_bytes(4, "little")
    return bytes(body)


def test_deep_finds_any_one_chunk_of_the_store_that_does_not_decode_under_a_right_digest(whole: Path, store: Path) -> None:
    """So it decodes every chunk: as many as zarr-python counts in the store."""
    planted = 0
    cube = cube_of(store)
    for key, region, variable, chunks in shards_of(whole):
        nt, ny, nx = cube.spec.chunks_per_shard
        for at in chunks:
            body = assemble_shard({**chunks, at: cannot_decode(chunks[at])}, (nt, 1, ny, nx) if variable.banded else (nt, ny, nx))
            assert body is not None
            plant(store, key, region, body)
            assert {(r.problem, r.key) for r in check(store, deep=True).rows} == {("undecodable", key)}, f"chunk {at}"
            planted += 1
        assert check(store).ok, "digests alone are right"
        plant(store, key, region, (whole / key).read_bytes())
    group: Any = zarr.open_group(str(store / cube.folder), mode="r")
    assert planted == sum(n_chunks(group[v.name]) for v in cube.spec.frame.variables) == 2 * 5 * 4
    assert check(store, deep=True).rows == ()


def n_chunks(array: Any) -> int:
    """Inner chunks with anything but fill, counted by reading them through zarr-python."""
    blocks = np.ndindex(*(-(-n // c) for n, c in zip(array.shape, array.chunks, strict=True)))
    cut = ([slice(i * c, (i + 1) * c) for i, c in zip(at, array.chunks, strict=True)] for at in blocks)
    return sum(bool((array[tuple(where)] != array.fill_value).any()) for where in cut)


def test_deep_decodes_what_stands_beside_a_missing_or_a_longer_shard(store: Path) -> None:
    cube = cube_of(store)
    found = {(r, v.name): (key, chunks) for key, r, v, chunks in shards_of(store)}
    for region, hurt in ((Region(0, 0, 0), None), (Region(2, 0, 0), b"x")):
        key, chunks = found[region, "scl"]
        at = next(iter(chunks))
        body = assemble_shard({**chunks, at: cannot_decode(chunks[at])}, cube.spec.chunks_per_shard)
        assert body is not None
        plant(store, key, region, body)
        data = store / found[region, "data"][0]
        data.unlink() if hurt is None else data.write_bytes(data.read_bytes() + hurt)
    assert check(store).counts == {"missing": 1, "size": 1}
    assert check(store, deep=True).counts == {"missing": 1, "size": 1, "undecodable": 2}


def test_deep_finds_a_chunk_that_decodes_to_other_pixels(store: Path) -> None:
    """A chunk of another shard in the place of the right one: it decodes, and counts differently."""
    cube = cube_of(store)
    (key, region, _, chunks), *_ = (s for s in shards_of(store) if s[2].name == "scl")
    first, *_, last = sorted(chunks)
    body = assemble_shard({**chunks, first: chunks[last]}, cube.spec.chunks_per_shard)
    assert body is not None
    plant(store, key, region, body)
    assert check(store).ok
    assert set(check(store, deep=True).counts) == {"counts"}


def test_a_clear_summary_that_does_not_decode_is_found(store: Path) -> None:
    key = f"{cube_of(store).folder}/{SUMMARY}/c/0/0/0"
    plant(store, key, Region(0, 0, 0), b"not zstd")
    assert check(store).ok
    assert {(r.problem, r.key) for r in check(store, deep=True).rows} == {("undecodable", key)}


@pytest.mark.parametrize("depth", DEPTHS)
def test_deleting_the_shards_of_an_all_nodata_region_is_not_reported(store: Path, depth: str) -> None:
    """They do not exist: there is nothing to delete, and the marker says so."""
    marker = json.loads(marker_file(store, Region(1, 0, 0)).read_text())
    assert (marker["valid"], set(marker["shards"].values())) == (0, {None})
    for key in marker["shards"]:
        assert not (store / key).exists()
        (store / key).unlink(missing_ok=True)
    assert check(store, **DEPTHS[depth]).rows == ()


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("variable", ["data", "scl", SUMMARY])
def test_a_deleted_shard_with_pixels_is_reported(store: Path, depth: str, variable: str) -> None:
    (path, *_) = sorted(p for p in (store / cube_of(store).folder / variable / "c/2").rglob("*") if p.is_file())
    path.unlink()
    found = {(r.problem, r.key) for r in check(store, **DEPTHS[depth]).rows}
    assert found == {("missing", path.relative_to(store).as_posix())}


STRAYS = [
    "cubes/notes.txt",
    "cubes/{cube}/notes.txt",
    "cubes/{cube}/{product}/notes.txt",
    "cubes/{cube}/{product}/data/c/0/0/0/7",
    "cubes/{cube}/{product}/scl/c/99/0/0",
    "markers/notes.json",
    "markers/{cube}/{product}/notes.json",
    "markers/{cube}/{product}/0.0/notes.json",
    "markers/{cube}/{product}/a.b.c/notes.json",
    "markers/{cube}/{product}/0.0.0/notes.txt",
    "markers/{cube}/{product}/0.0.0/.hidden.json",
]


@pytest.mark.parametrize("pattern", STRAYS)
def test_a_stray_object_is_named_and_hinders_nobody(store: Path, pattern: str) -> None:
    cube = cube_of(store)
    key = pattern.format(cube=cube.cube, product=cube.product)
    (store / key).parent.mkdir(parents=True, exist_ok=True)
    (store / key).write_bytes(b"x")
    report = check(store)
    assert {(r.problem, r.key) for r in report.rows} == {("unknown_object", key)}
    assert not report.ok


def test_a_store_that_is_not_there_is_an_error_of_the_deep_audit_too(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError):
        check(tmp_path / "nothing", deep=True)
