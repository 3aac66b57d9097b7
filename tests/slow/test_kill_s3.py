"""``kill -9`` of ``convert`` onto S3 (moto over HTTP): there is no rename and no staging there, and the end is the same.

The bucket keeps every version of an object, so an object that is put again has one more, whatever is in it.
"""

from __future__ import annotations

import json
import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3  # type: ignore[import-untyped]
import pytest

from eocube.io.blobs import Blobs, open_blobs
from eocube.io.index import read_index
from eocube.testing.stac import make_grid, make_series, write_catalog
from eocube.testing.stores import index_rows, tree
from tests.slow.killing import PATIENCE_S, Work, draw_moment, kill_group, run, start
from tests.slow.telling import Tell

pytestmark = pytest.mark.slow

KILLS, MOST_ROUNDS = 3, 8
KEYS = {"aws_access_key_id": "a", "aws_secret_access_key": "b"}


@pytest.fixture
def options() -> Iterator[dict[str, Any]]:
    """Storage options of an empty bucket with versions."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    url = "http://127.0.0.1:{1}".format(*server.get_host_and_port())
    client = boto3.client("s3", endpoint_url=url, region_name="us-east-1", **KEYS)
    client.create_bucket(Bucket="bucket")
    client.put_bucket_versioning(Bucket="bucket", VersioningConfiguration={"Status": "Enabled"})
    plain = {"allow_http": True}
    yield {**KEYS, "endpoint": url, "region": "us-east-1", "virtual_hosted_style_request": False, "client_options": plain}
    server.stop()


@pytest.fixture
def work(tmp_path: Path) -> Work:
    """24 regions of one date, and the folder that they make."""
    scenes = make_series(24, every_days=15, grid=make_grid((256, 256)), zooms={"B04": 1, "B08": 1, "SCL": 1}, block=256)
    catalog = write_catalog(scenes, tmp_path / "catalog")
    made = Work(verb="convert", source=catalog, undisturbed=tmp_path / "folder", options=("--layout", "map"))
    run(made.command(made.undisturbed))
    return made


def command(work: Work, url: str, options: dict[str, Any]) -> list[str]:
    """The same command onto S3."""
    pairs = [f"{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in options.items()]
    given = [word for pair in pairs for word in ("--storage-option", pair)]
    return [w if w != "STORE" else url for w in work.command(Path("STORE"), "threads:1", "--json", *given)]


def markers(blobs: Blobs) -> list[str]:
    """Keys of whole markers."""
    return [key for key, _ in blobs.list("markers") if key.endswith(".json") and not key.endswith(".partial.json")]


def vouched_for(blobs: Blobs) -> set[str]:
    """Every whole marker, and every object that one vouches for."""
    found = markers(blobs)
    return {*found, *(key for marker in found for key in json.loads(blobs.get(marker) or b"")["shards"])}


def versions(store: str, options: dict[str, Any]) -> set[tuple[str, str]]:
    """(key below the store, version) of everything that was ever put or deleted there."""
    client = boto3.client("s3", endpoint_url=options["endpoint"], region_name="us-east-1", **KEYS)
    pages = client.get_paginator("list_object_versions").paginate(Bucket="bucket", Prefix=f"{store}/")
    rows = [row for page in pages for kind in ("Versions", "DeleteMarkers") for row in page.get(kind, [])]
    return {(row["Key"].removeprefix(f"{store}/"), row["VersionId"]) for row in rows}


def kill(work: Work, blobs: Blobs, args: list[str], moments: random.Random) -> int | None:
    """Kill the command at a drawn number of markers; how many it left. None if it was over sooner."""
    n, jitter_s = draw_moment(moments, work.total)
    process: subprocess.Popen[str] = start(args)
    deadline = time.monotonic() + PATIENCE_S
    while len(markers(blobs)) < n and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(jitter_s)
    return len(markers(blobs)) if kill_group(process) else None


def test_convert_onto_s3_killed_at_random_moments_ends_in_the_objects_of_a_folder(
    work: Work, options: dict[str, Any], tell: Tell
) -> None:
    moments, left = random.Random("s3"), list[int]()  # noqa: S311 - no secret
    for i in range(MOST_ROUNDS):
        url = f"s3://bucket/store{i}"
        blobs, args = open_blobs(url, options), command(work, url, options)
        if (n := kill(work, blobs, args, moments)) is None:
            continue
        left.append(n)
        finished, before = vouched_for(blobs), versions(f"store{i}", options)
        output = run(args)
        put = {key for key, _ in versions(f"store{i}", options) - before}
        assert put.isdisjoint(finished)
        assert put.issuperset(vouched_for(blobs) - finished)
        report = json.loads(output[output.index("{") :])
        assert (report["regions_done"], report["regions_skipped"]) == (work.total - left[-1], left[-1])
        stored = {key: blobs.get(key) for part in ("cubes", "markers") for key, _ in blobs.list(part)}
        assert stored == {
            k: (work.undisturbed / k).read_bytes() for k in tree(work.undisturbed) if k.startswith(("cubes/", "markers/"))
        }
        assert read_index(blobs).to_pylist() == index_rows(work.undisturbed)
        if len(left) == KILLS:
            break
    proved = sum(0 < n < work.total for n in left)
    tell(f"convert onto S3: {len(left)} kills of the command, {proved} proved; finished of {work.total} at each: {left}")
    assert len(left) == KILLS
    assert proved >= 2
