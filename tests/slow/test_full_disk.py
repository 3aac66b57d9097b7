"""Disks that are full or read-only: small mounts of this test's own, file size limits, a bucket that may only be read."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eocube.errors import StoreWriteError
from eocube.io.blobs import open_blobs
from eocube.jobs.audit import audit
from eocube.jobs.convert import convert
from eocube.jobs.open import open_corpus, open_store
from eocube.testing.stac import make_grid, make_series, write_catalog
from eocube.testing.stores import cubes_of, index_rows, same_store
from tests.conftest import find_binary, skip_or_fail
from tests.slow.killing import Tell

pytestmark = pytest.mark.slow

N = 8
SERIES = make_series(N, grid=make_grid((1024, 1024)), block=256)
RUN = ("--layout", "map", "--cluster", "threads:2")


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_catalog(SERIES, tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def undisturbed(catalog: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("undisturbed") / "store"
    convert(open_corpus("stac", str(catalog)), str(store), layout="map", executor="serial")
    return store


def command(catalog: Path, store: Path, *words: str, run: tuple[str, ...] = RUN) -> list[str]:
    return [sys.executable, "-m", "eocube", "convert", "stac", str(catalog), str(store), *run, *words]


def call(words: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=120, **options)


def check_refused(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    assert done.returncode == 1, done.stderr
    (line,) = [x for x in done.stderr.splitlines() if x.startswith("Error: ")]
    assert all(part in line for part in parts), line
    said = done.stderr.partition("distributed.worker - ERROR")[0]  # a cluster's workers keep a log of their own
    assert "Traceback" not in said


# ------------------------------------------------------------------------------------------------ mounts

MOUNTED = """
set -e
mount -t tmpfs -o size={size},mode=0777 tmpfs {folder}
trap 'umount -l {folder}' EXIT
{script}
"""


def in_namespace(script: str) -> subprocess.CompletedProcess[str]:
    """A script as root of its own mounts, which end with it."""
    return call(["unshare", "-rm", "bash", "-c", script])


@pytest.fixture(scope="module")
def may_mount(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("mount")
    try:
        tried = in_namespace(MOUNTED.format(size="1m", folder=folder, script="true"))
    except FileNotFoundError:
        skip_or_fail("unshare (util-linux) is not installed: no mount of this test's own.")
    if tried.returncode:
        skip_or_fail(f"This user may not mount, not even in a namespace of its own: {tried.stderr.strip()[:120]}")


def shell(words: list[str]) -> str:
    return " ".join(f"'{w}'" for w in words)


@pytest.mark.parametrize("kilobytes", [16, 120, 500, 900], ids=lambda k: f"{k} kB")
def test_a_full_disk_is_told_and_the_same_command_finishes_with_room(
    may_mount: None, catalog: Path, undisturbed: Path, tmp_path: Path, kilobytes: int, tell: Tell
) -> None:
    """The disk fills in the metadata, or in the first or a later shard; then it is made larger under the same store."""
    folder, kept = tmp_path / "disk", tmp_path / "kept"
    folder.mkdir()
    store = folder / "store"
    again = shell(command(catalog, store, "--json"))
    script = f"""
{shell(command(catalog, store))} || echo "code $?" >&2
cp -r {folder} {kept}-full
find {folder} -name '*.json' -path '*markers*' | wc -l
mount -o remount,size=50m {folder}
{again}
cp -r {folder} {kept}
"""
    done = in_namespace(MOUNTED.format(size=f"{kilobytes}k", folder=folder, script=script))
    assert "code 1" in done.stderr, done.stderr
    (line,) = [x for x in done.stderr.splitlines() if x.startswith("Error: ")]
    for part in ("could not be written below", "No space left on device", "Make free space", "same command", "are kept"):
        assert part in line, line
    assert "Traceback" not in done.stderr
    marked, _, report = done.stdout.partition("\n")
    finished = json.loads(report)
    assert finished["regions_skipped"] == int(marked)  # what was finished is kept, and is not written again
    assert finished["regions_done"] == N - int(marked)
    full = Path(f"{kept}-full") / "store"
    if (full / "zarr.json").exists():
        assert not index_rows(full)
        # Without a marker: shards whose marker found no room. The next run writes them again.
        assert set(audit(str(full), deep=True, executor="serial").counts) <= {"unfinished", "no_marker"}
    assert not list((kept / "store" / "tmp").iterdir())
    assert same_store(kept / "store", undisturbed)
    tell(f"full disk, {kilobytes} kB: {marked} of {N} regions were finished on it; the rest came with room")


def test_a_disk_without_inodes_is_told(may_mount: None, catalog: Path, tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    script = MOUNTED.format(size="20m,nr_inodes=12", folder=folder, script=shell(command(catalog, folder / "store")))
    check_refused(in_namespace(script), "No space left on device")


def test_a_read_only_mount_is_told_and_nothing_of_it_changes(
    may_mount: None, catalog: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """An empty disk, and one with half a store, both mounted read-only: nobody may write there, root neither."""
    folder = tmp_path / "disk"
    folder.mkdir()
    script = f"mount -o remount,ro {folder}\n{shell(command(catalog, folder / 'store'))}"
    check_refused(in_namespace(MOUNTED.format(size="20m", folder=folder, script=script)), "Read-only file system", "name another")
    half = tmp_path / "half"
    assert call(command(catalog, half, "--limit", "3")).returncode == 0
    before = cubes_of(half)
    bound = f"mount --bind {half} {half}\nmount -o remount,ro,bind {half}\n"
    for words in (command(catalog, half), [*command(catalog, half), "--rebuild", "EPSG32635_600000_5000040"]):
        check_refused(in_namespace(bound + shell(words)), "Read-only file system", "read-only for this user")
    assert cubes_of(half) == before
    read = in_namespace(f"{bound}{sys.executable} -m eocube audit {half} --json")
    assert json.loads(read.stdout)["counts"] == {"unfinished": N - 3}
    assert call(command(catalog, half)).returncode == 0
    assert same_store(half, undisturbed)


# ------------------------------------------------------------------------------------------------ limits


@pytest.mark.parametrize(
    ("executor", "most_bytes"),
    [("threads:2", 0), ("threads:2", 2_000), ("threads:2", 40_000), ("processes:1", 40_000)],  # a cluster's own files need 40 kB
    ids=lambda v: f"{v} bytes a file" if isinstance(v, int) else v,
)
def test_a_limit_on_the_size_of_files_is_an_error_and_no_silent_death(
    catalog: Path, undisturbed: Path, tmp_path: Path, most_bytes: int, executor: str
) -> None:
    """SIGXFSZ would end a process without a word; Python ignores it, and the write fails."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))

    store, run = tmp_path / "store", ("--layout", "map", "--cluster", executor)
    check_refused(call(command(catalog, store, run=run), preexec_fn=limit), "File too large", "raise the limit")
    if (store / "zarr.json").exists():
        assert not index_rows(store)
        assert set(audit(str(store), deep=True, executor="serial").counts) <= {"unfinished"}
    assert call(command(catalog, store)).returncode == 0
    assert same_store(store, undisturbed)


def test_a_folder_without_permission_is_told(catalog: Path, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    words = [*as_any_user(), *command(catalog, tmp_path / "closed" / "store")]
    check_refused(call(words), "Permission denied", "read-only for this user")


def as_any_user() -> list[str]:
    """Words that take from root what lets it write into any folder; none for others, who are never let."""
    if os.geteuid():
        return []
    return [str(find_binary("setpriv")), "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"]


# ------------------------------------------------------------------------------------------------ credentials


@pytest.fixture
def bucket() -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Options that may write, and options that may only read, of a server that looks at who asks."""
    import boto3  # type: ignore[import-untyped]
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    url = "http://127.0.0.1:{1}".format(*server.get_host_and_port())
    owner = {"endpoint_url": url, "region_name": "us-east-1", "aws_access_key_id": "a", "aws_secret_access_key": "b"}
    boto3.client("s3", **owner).create_bucket(Bucket="bucket")
    iam = boto3.client("iam", **owner)
    keys = {}
    for name, actions in (("writer", ["s3:*"]), ("reader", ["s3:GetObject", "s3:ListBucket"])):
        iam.create_user(UserName=name)
        policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": actions, "Resource": "*"}]}
        iam.put_user_policy(UserName=name, PolicyName="p", PolicyDocument=json.dumps(policy))
        keys[name] = iam.create_access_key(UserName=name)["AccessKey"]
    import requests

    requests.post(f"{url}/moto-api/reset-auth", data="0", timeout=10)

    def options(name: str) -> dict[str, Any]:
        key = keys[name]
        return {
            "aws_access_key_id": key["AccessKeyId"],
            "aws_secret_access_key": key["SecretAccessKey"],
            "endpoint": url,
            "region": "us-east-1",
            "virtual_hosted_style_request": False,
            "client_options": {"allow_http": True},
        }

    yield options("writer"), options("reader")
    requests.post(f"{url}/moto-api/reset-auth", data="inf", timeout=10)
    server.stop()


def test_credentials_that_may_only_read_are_told_and_change_nothing(
    bucket: tuple[dict[str, Any], dict[str, Any]], catalog: Path
) -> None:
    writer, reader = bucket
    corpus, url = open_corpus("stac", str(catalog)), "s3://bucket/store"
    said = r"could not be written to s3://bucket/store: the server answers 403 Forbidden: AccessDenied.*credentials may write"
    with pytest.raises(StoreWriteError, match=said) as caught:
        convert(corpus, url, layout="map", executor="serial", storage_options=reader)
    for noise in ("<", "Debug source", "http://127", "RequestId", "\n", "ms -"):
        assert noise not in str(caught.value)
    convert(corpus, url, layout="map", executor="serial", storage_options=writer, limit=3)
    before = sorted(open_blobs(url, writer).list(""))
    with pytest.raises(StoreWriteError, match=said):
        convert(corpus, url, layout="map", executor="threads:2", storage_options=reader)
    assert sorted(open_blobs(url, writer).list("")) == before
    assert open_store(url, storage_options=reader).index.num_rows == 0
    assert audit(url, executor="serial", storage_options=reader).counts == {"unfinished": N - 3}
    report = convert(corpus, url, layout="map", executor="serial", storage_options=writer)
    assert (report.regions_skipped, report.regions_done) == (3, N - 3)
