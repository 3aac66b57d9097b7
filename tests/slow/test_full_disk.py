"""Disks that are full or read-only: small mounts of this test's own, file size limits, a bucket that may only be read.

``convert`` and ``compose`` write to them; what ``compose`` reads lies elsewhere and is whole. ``audit`` must not write at all.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from eocube.errors import StoreWriteError
from eocube.io.blobs import open_blobs
from eocube.jobs.audit import audit, index
from eocube.jobs.compose import compose
from eocube.jobs.convert import convert
from eocube.jobs.open import open_corpus, open_store
from eocube.testing.stac import make_grid, make_series
from eocube.testing.stores import index_rows, same_store, tree
from tests.conftest import find_binary, skip_or_fail
from tests.slow.killing import Work, finished_regions, make_works
from tests.slow.telling import Tell

pytestmark = pytest.mark.slow

SERIES = make_series(8, grid=make_grid((1024, 1024)), block=256)
"""A date every five days: as many regions of five days as of dates."""

SITE = "EPSG32635_600000_5000040"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Work]:
    """``convert`` and ``compose`` with the stores that they leave undisturbed, 8 regions of some 100 kB each."""
    works = make_works(tmp_path_factory.mktemp("works"), SERIES, freq="5D")
    assert {w.total for w in works.values()} == {len(SERIES)}
    return works


@pytest.fixture(params=["convert", "compose"])
def work(request: pytest.FixtureRequest, made: dict[str, Work]) -> Work:
    """Each of them."""
    return made[request.param]


def eocube(*words: object) -> list[str]:
    return [sys.executable, "-m", "eocube", *map(str, words)]


def command(work: Work, store: Path, *words: str, cluster: str = "threads:2") -> list[str]:
    return eocube(*work.command(store, cluster, *words))


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


def shell(words: Sequence[str]) -> str:
    return " ".join(f"'{w}'" for w in words)


def read_only(folder: Path) -> str:
    """Shell that shows a folder of this machine as a read-only mount."""
    return f"mount --bind {folder} {folder}\nmount -o remount,ro,bind {folder}\n"


@pytest.mark.parametrize("kilobytes", [16, 120, 500, 900], ids=lambda k: f"{k} kB")
def test_a_full_disk_is_told_and_the_same_command_finishes_with_room(
    may_mount: None, work: Work, tmp_path: Path, kilobytes: int, tell: Tell
) -> None:
    """The disk fills in the metadata, or in the first or a later shard; then it is made larger under the same store."""
    folder, kept = tmp_path / "disk", tmp_path / "kept"
    folder.mkdir()
    store = folder / "store"
    again = shell(command(work, store, "--json"))
    script = f"""
{shell(command(work, store))} || echo "code $?" >&2
cp -r {folder} {kept}-full
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
    full = Path(f"{kept}-full") / "store"
    marked, finished = len(finished_regions(full)), json.loads(done.stdout)
    assert finished["regions_skipped"] == marked  # what was finished is kept, and is not written again
    assert finished["regions_done"] == work.total - marked
    if (full / "zarr.json").exists():
        assert not index_rows(full)
        # Without a marker: shards whose marker found no room. The next run writes them again.
        assert set(audit(str(full), deep=True, executor="serial").counts) <= {"unfinished", "no_marker"}
    assert not list((kept / "store" / "tmp").iterdir())
    assert same_store(kept / "store", work.undisturbed)
    told = f"{marked} of {work.total} regions were finished on it; the rest came with room"
    tell(f"{work.verb} on a full disk, {kilobytes} kB: {told}")


def test_a_disk_without_inodes_is_told(may_mount: None, work: Work, tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    script = MOUNTED.format(size="20m,nr_inodes=12", folder=folder, script=shell(command(work, folder / "store")))
    check_refused(in_namespace(script), "No space left on device")


def test_a_read_only_mount_is_told_and_nothing_of_it_changes(may_mount: None, work: Work, tmp_path: Path) -> None:
    """An empty disk, and one with half a store, both mounted read-only: nobody may write there, root neither."""
    folder = tmp_path / "disk"
    folder.mkdir()
    script = f"mount -o remount,ro {folder}\n{shell(command(work, folder / 'store'))}"
    check_refused(in_namespace(MOUNTED.format(size="20m", folder=folder, script=script)), "Read-only file system", "name another")
    half = tmp_path / "half"
    assert call(command(work, half, "--limit", "3")).returncode == 0
    before = tree(half)
    for words in (command(work, half), command(work, half, "--rebuild", SITE)):
        check_refused(in_namespace(read_only(half) + shell(words)), "Read-only file system", "read-only for this user")
    read = in_namespace(read_only(half) + shell(eocube("audit", half, "--json")))
    assert json.loads(read.stdout)["counts"] == {"unfinished": work.total - 3}
    assert tree(half) == before
    assert call(command(work, half)).returncode == 0
    assert same_store(half, work.undisturbed)


def test_a_store_on_a_read_only_mount_is_read_and_audited_and_its_index_cannot_be_made_again(
    may_mount: None, made: dict[str, Work], tmp_path: Path
) -> None:
    """One that is whole, and one without its index, which is why somebody would make that again."""
    store = tmp_path / "store"
    shutil.copytree(made["compose"].undisturbed, store)
    verbs = [("info", store), ("audit", store), ("audit", store, "--deep")]
    verbs += [("compose", store, tmp_path / "out", "--mask", "none", "--freq", "10D")]  # what it reads may be read-only
    done = in_namespace(f"set -e\n{read_only(store)}" + "\n".join(shell(eocube(*words)) for words in verbs))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Everything is as its markers say.") == 2
    into_itself = ("compose", store, store, "--products", "10m_median_5D", "--mask", "none", "--freq", "10D")
    check_refused_and_nothing_changed(store, ("index", store), into_itself)
    (store / "index.parquet").unlink()
    audited = in_namespace(read_only(store) + shell(eocube("audit", store, "--json")))
    assert (audited.returncode, json.loads(audited.stdout)["counts"]) == (3, {"index": 1})
    check_refused_and_nothing_changed(store, ("index", store))
    assert call(eocube("index", store)).returncode == 0
    assert same_store(store, made["compose"].undisturbed)


def check_refused_and_nothing_changed(store: Path, *commands: tuple[object, ...]) -> None:
    before = tree(store)
    for words in commands:
        done = in_namespace(read_only(store) + shell(eocube(*words)))
        check_refused(done, "Read-only file system", str(store), "read-only for this user", "run the same command")
    assert tree(store) == before


# ------------------------------------------------------------------------------------------------ limits


@pytest.mark.parametrize(
    ("executor", "most_bytes"),
    [("threads:2", 0), ("threads:2", 2_000), ("threads:2", 40_000), ("processes:1", 40_000)],  # a cluster's own files need 40 kB
    ids=lambda v: f"{v} bytes a file" if isinstance(v, int) else v,
)
def test_a_limit_on_the_size_of_files_is_an_error_and_no_silent_death(
    work: Work, tmp_path: Path, most_bytes: int, executor: str
) -> None:
    """SIGXFSZ would end a process without a word; Python ignores it, and the write fails."""
    store = tmp_path / "store"
    check_refused(limited(command(work, store, cluster=executor), most_bytes), "File too large", "raise the limit")
    if (store / "zarr.json").exists():
        assert not index_rows(store)
        assert set(audit(str(store), deep=True, executor="serial").counts) <= {"unfinished"}
    assert call(command(work, store)).returncode == 0
    assert same_store(store, work.undisturbed)


def limited(words: list[str], most_bytes: int) -> subprocess.CompletedProcess[str]:
    """A command no file of which may have more bytes."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))

    return call(words, preexec_fn=limit)


def test_an_index_that_may_not_be_written_stays_as_it_was(made: dict[str, Work], tmp_path: Path) -> None:
    """``audit`` needs no room for a file; ``index`` of a whole store does."""
    store = tmp_path / "store"
    shutil.copytree(made["convert"].undisturbed, store)
    before = tree(store)
    assert limited(eocube("audit", store, "--cluster", "serial"), 0).returncode == 0
    check_refused(limited(eocube("index", store), 2_000), "File too large", str(store), "raise the limit")
    assert tree(store) == before


def test_a_folder_without_permission_is_told(work: Work, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    words = [*as_any_user(), *command(work, tmp_path / "closed" / "store")]
    check_refused(call(words), "Permission denied", "read-only for this user")


def test_a_store_without_permission_is_audited_and_neither_indexed_nor_composed_into(
    made: dict[str, Work], tmp_path: Path
) -> None:
    store = tmp_path / "store"
    shutil.copytree(made["convert"].undisturbed, store)
    before, folders = tree(store), [store, *(p for p in store.rglob("*") if p.is_dir())]
    for folder in folders:
        folder.chmod(0o500)
    try:
        audited = call([*as_any_user(), *eocube("audit", store, "--deep")])
        assert audited.returncode == 0, audited.stderr
        for words in (eocube("index", store), command(made["compose"], store), command(made["convert"], store)):
            check_refused(call([*as_any_user(), *words]), "Permission denied", str(store), "read-only for this user")
    finally:
        for folder in folders:
            folder.chmod(0o700)
    assert tree(store) == before


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
    bucket: tuple[dict[str, Any], dict[str, Any]], made: dict[str, Work]
) -> None:
    writer, reader = bucket
    corpus, url, n = open_corpus("stac", str(made["convert"].source)), "s3://bucket/store", made["convert"].total
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
    assert audit(url, executor="serial", storage_options=reader).counts == {"unfinished": n - 3}
    report = convert(corpus, url, layout="map", executor="serial", storage_options=writer)
    assert (report.regions_skipped, report.regions_done) == (3, n - 3)
    before = sorted(open_blobs(url, writer).list(""))
    assert audit(url, deep=True, executor="serial", storage_options=reader).ok
    for write in (lambda: index(url, storage_options=reader), lambda: compose(url, url, freq="5D", storage_options=reader)):
        with pytest.raises(StoreWriteError, match=said):
            write()
    assert sorted(open_blobs(url, writer).list("")) == before
