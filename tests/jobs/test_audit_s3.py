"""audit, index and rebuild on an object store (moto's S3 over HTTP): listings, deletions and keys are not those of a folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eocube.io.blobs import open_blobs
from eocube.jobs.audit import audit, index
from eocube.jobs.convert import convert
from eocube.jobs.open import open_corpus
from eocube.testing.stac import make_series, write_items

pytestmark = pytest.mark.slow
STORE = "s3://bucket/a/store"


@pytest.fixture
def options() -> Iterator[dict[str, Any]]:
    import boto3  # type: ignore[import-untyped]
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    url = "http://127.0.0.1:{1}".format(*server.get_host_and_port())
    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b"}
    boto3.client("s3", endpoint_url=url, region_name="us-east-1", **keys).create_bucket(Bucket="bucket")
    plain = {"allow_http": True}
    yield {**keys, "endpoint": url, "region": "us-east-1", "virtual_hosted_style_request": False, "client_options": plain}
    server.stop()


def test_damage_on_s3_is_found_and_a_rebuilt_cube_is_whole(tmp_path: Path, options: dict[str, Any]) -> None:
    corpus = open_corpus("stac", write_items(make_series(4), tmp_path))
    convert(corpus, STORE, layout="map", storage_options=options, executor="threads:2")
    assert audit(STORE, deep=True, storage_options=options, executor="threads:2").rows == ()
    blobs = open_blobs(STORE, options)
    before = blobs.get("index.parquet")
    key = next(k for k, _ in blobs.list("cubes") if "/data/c/2/" in k)
    blobs.delete(key)
    blobs.delete("index.parquet")
    report = audit(STORE, storage_options=options, executor="serial")
    assert {(r.problem, r.key) for r in report.rows} == {("missing", key), ("index", "index.parquet")}
    assert index(STORE, storage_options=options).num_rows == 1
    assert blobs.get("index.parquet") == before
    convert(corpus, STORE, layout="map", storage_options=options, executor="serial", rebuild=[corpus.corpus.sites[0].name])
    assert audit(STORE, deep=True, storage_options=options, executor="serial").ok
