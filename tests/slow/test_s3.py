"""S3 (moto over HTTP): the same objects as in a folder, conditional claims, resume, and processes that write at once."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3  # type: ignore[import-untyped]
import numpy as np
import pytest
import requests

from eocube.errors import EocubeError, StoreNotFoundError
from eocube.exec.executors import connect
from eocube.io.blobs import open_blobs
from eocube.jobs.convert import convert
from eocube.jobs.open import open_corpus, open_cube, open_store
from eocube.testing.stac import expected_cube, make_series, write_catalog
from eocube.testing.stores import tree

pytestmark = pytest.mark.slow

STORE = "s3://bucket/a/store"
SERIES = make_series(20)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    yield "http://127.0.0.1:{1}".format(*running.get_host_and_port())
    running.stop()


@pytest.fixture
def options(server: str) -> Iterator[dict[str, Any]]:
    """Storage options of an empty bucket: moto keeps what other modules of this process left, so it is cleared first."""
    requests.post(f"{server}/moto-api/reset", timeout=10).raise_for_status()
    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b"}
    client = boto3.client("s3", endpoint_url=server, region_name="us-east-1", **keys)
    client.create_bucket(Bucket="bucket")
    http = {"allow_http": True}
    yield {**keys, "endpoint": server, "region": "us-east-1", "virtual_hosted_style_request": False, "client_options": http}
    bucket = boto3.resource("s3", endpoint_url=server, region_name="us-east-1", **keys).Bucket("bucket")
    bucket.objects.all().delete()
    bucket.delete()


def test_a_big_object_is_put_in_parts_and_an_upload_that_was_not_completed_is_no_object(
    server: str, options: dict[str, Any]
) -> None:
    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b"}
    client, blobs = boto3.client("s3", endpoint_url=server, region_name="us-east-1", **keys), open_blobs(STORE, options)
    parts = [bytes([i]) * 3_000_000 for i in range(4)]
    blobs.put_parts("big", iter(parts), n_bytes=12_000_000)
    assert blobs.get("big") == b"".join(parts)
    assert client.head_object(Bucket="bucket", Key="a/store/big")["ETag"].strip('"').endswith("-3")
    begun = client.create_multipart_upload(Bucket="bucket", Key="a/store/big")["UploadId"]
    client.upload_part(Bucket="bucket", Key="a/store/big", UploadId=begun, PartNumber=1, Body=b"other")
    assert blobs.get("big") == b"".join(parts)
    assert list(blobs.list("")) == [("big", 12_000_000)]
    client.abort_multipart_upload(Bucket="bucket", Key="a/store/big", UploadId=begun)


@pytest.fixture(scope="module")
def catalogs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    top = tmp_path_factory.mktemp("catalogs")
    return write_catalog(SERIES[:14], top / "first"), write_catalog(SERIES, top / "all")


@pytest.fixture(scope="module")
def folder(catalogs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("folder")
    convert(open_corpus("stac", catalogs[1]), str(store), layout="patch", executor="serial")
    return store


def objects(options: dict[str, Any]) -> dict[str, bytes]:
    """Everything that must be equal: cubes and markers."""
    blobs = open_blobs(STORE, options)
    return {k: blobs.get(k) or b"" for part in ("cubes", "markers") for k, _ in blobs.list(part)}


def same(folder: Path, options: dict[str, Any]) -> bool:
    here = {k: (folder / k).read_bytes() for part in ("cubes", "markers") for k in (f"{part}/{n}" for n in tree(folder / part))}
    return here == objects(options)


def test_get_put_list_and_delete_mean_the_same_as_in_a_folder(options: dict[str, Any]) -> None:
    blobs = open_blobs(STORE, options)
    assert (blobs.get("a/b"), list(blobs.list("a"))) == (None, [])
    for key in ("a/b/c", "a/b.c", "a/bc"):
        blobs.put(key, key.encode())
    assert [k for k, _ in blobs.list("a/b")] == ["a/b/c"]
    assert blobs.get("a/b.c") == b"a/b.c"
    blobs.delete("a/b/c")
    blobs.delete("a/b/c")
    assert list(blobs.list("a/b")) == []


def test_of_many_writers_exactly_one_creates_an_object(options: dict[str, Any]) -> None:
    blobs = open_blobs(STORE, options)
    with ThreadPoolExecutor(8) as pool:
        for i in range(10):
            won = list(pool.map(lambda n, i=i: blobs.put_new(f"k/{i}", str(n).encode()), range(8)))
            assert sum(won) == 1
            assert blobs.get(f"k/{i}") == str(won.index(True)).encode()


def test_a_big_object_goes_up_in_parts_and_comes_back_whole(options: dict[str, Any]) -> None:
    blobs, body = open_blobs(STORE, options), np.random.default_rng(0).bytes(12_000_000)
    blobs.put("big", body)
    assert blobs.get("big") == body


def test_a_store_on_s3_has_the_objects_of_a_folder(catalogs: tuple[Path, Path], folder: Path, options: dict[str, Any]) -> None:
    for catalog, executor in zip(catalogs, ("threads:2", "serial"), strict=True):
        report = convert(open_corpus("stac", catalog), STORE, layout="patch", executor=executor, storage_options=options)
    assert report.regions_skipped == 3
    assert same(folder, options)
    store = open_store(STORE, storage_options=options)
    site = store.index["site"][0].as_py()
    cube = open_cube(store.cube_url(site, "10m"), storage_options=options)
    np.testing.assert_array_equal(cube["data"].values, expected_cube(SERIES, ["B04", "B08"]))


def test_processes_that_write_at_once_make_one_store(catalogs: tuple[Path, Path], folder: Path, options: dict[str, Any]) -> None:
    executor = connect("processes:2")
    try:
        with ThreadPoolExecutor(2) as pool:
            runs = [
                pool.submit(
                    convert, open_corpus("stac", catalogs[1]), STORE, layout="patch", executor=executor, storage_options=options
                )
                for _ in range(2)
            ]
            assert all(r.result().ok for r in runs)
    finally:
        executor.close()
    assert same(folder, options)


def test_no_secret_is_written_into_the_store(catalogs: tuple[Path, Path], options: dict[str, Any]) -> None:
    secret = {**options, "aws_secret_access_key": "a-very-secret-word"}
    convert(open_corpus("stac", catalogs[0]), STORE, layout="patch", executor="serial", storage_options=secret)
    blobs = open_blobs(STORE, options)
    bodies = [blobs.get(k) or b"" for k, _ in blobs.list("")]
    assert len(bodies) > 20
    assert not any(b"a-very-secret-word" in body for body in bodies)


def test_a_place_without_a_store_or_bucket_is_named(options: dict[str, Any]) -> None:
    with pytest.raises(StoreNotFoundError, match=r"No eocube store at s3://bucket/nothing"):
        open_store("s3://bucket/nothing", storage_options=options)
    with pytest.raises(EocubeError, match="s3://no-such-bucket"):
        open_store("s3://no-such-bucket/x", storage_options=options)
