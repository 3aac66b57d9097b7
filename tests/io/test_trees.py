"""Files of a corpus: folders and archives list alike, in one order, and are read with one read or one request."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eocube.errors import AssetReadError, CatalogError
from eocube.io.trees import UNKNOWN_SIZE, StoredFile, TreeReader, list_tree, read_whole
from eocube.testing.stores import CountingServer, counting_server
from tests.io.zips import Entry, write

FILES = {
    "hr_dataset/Amnesty POI-1-1-1/Amnesty POI-1-1-1_ps.tiff": b"ps" * 500,
    "hr_dataset/A-1/A-1_pan.tiff": b"pan" * 500,
    "lr_dataset/A-1/L2A/A-1-1-L2A_data.tiff": b"one" * 900,
    "lr_dataset/A-1/L2A/A-1-10-L2A_data.tiff": b"ten",
    "lr_dataset/A-1/L2A/A-1-2-L2A_data.tiff": b"",
    "metadata.csv": b"a,b\n",
}
READER = TreeReader(backoff_s=0)


def unpacked(folder: Path, files: dict[str, bytes] = FILES) -> Path:
    """A folder of files."""
    for path, body in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(body)
    return folder


def packed(path: Path, files: dict[str, bytes] = FILES, *, method: int = zipfile.ZIP_DEFLATED) -> Path:
    """An archive of files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, body in files.items():
            archive.writestr(name, body)
    return path


def contents(root: object) -> dict[str, bytes]:
    """Everything below a root; listed sizes are the true ones."""
    found = {}
    for file in READER.list_tree(root if isinstance(root, list) else str(root)):
        assert file.path not in found
        found[file.path] = READER.read_whole(file)
        assert file.size == len(found[file.path])
    return found


def paths(root: Path) -> list[str]:
    """Paths in the order of the listing."""
    return [file.path for file in list_tree(str(root))]


def test_a_folder_an_archive_in_it_and_the_archive_alone_list_and_read_alike(tmp_path: Path) -> None:
    half = dict(list(FILES.items())[:3])
    rest = dict(list(FILES.items())[3:])
    roots = [
        unpacked(tmp_path / "folder"),
        packed(tmp_path / "zipped" / "all.zip"),
        tmp_path / "zipped",
        packed(tmp_path / "stored.ZIP", method=zipfile.ZIP_STORED),
        packed(unpacked(tmp_path / "both", half) / "hr_dataset.zip", rest).parent,
    ]
    for root in roots:
        assert contents(root) == FILES
        assert paths(root) == sorted(FILES, key=lambda path: path.split("/"))
    assert contents(f"file://{roots[0]}") == FILES


def test_an_archive_lists_in_the_order_of_a_folder_whatever_sorts_before_a_slash(tmp_path: Path) -> None:
    files = {"d/a-b/f": b"1", "d/a/f": b"2", "d/a b": b"3", "d.e": b"4", "d/A-1-10": b"5", "d/A-1-2": b"6"}
    ordered = ["d/A-1-10", "d/A-1-2", "d/a/f", "d/a b", "d/a-b/f", "d.e"]
    assert paths(packed(tmp_path / "x.zip", files)) == ordered
    assert paths(unpacked(tmp_path / "folder", files)) == ordered


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_split_between_folders_and_archives_lists_in_one_order(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    names = data.draw(
        st.lists(st.text("ab-_ ", min_size=1, max_size=3).map(lambda s: f"{s}x"), min_size=1, max_size=9, unique=True)
    )
    everything = {f"d/{a}/{b}": f"{a}/{b}".encode() for a in names[::2] for b in names[1::2] or ["x"]}
    places = {path: data.draw(st.sampled_from(["", "1.zip", "2.zip", "d/3.zip"])) for path in everything}
    root = tmp_path_factory.mktemp("tree")
    unpacked(root, {p: b for p, b in everything.items() if not places[p]})
    for name in {place for place in places.values() if place}:
        cut = 2 if name.startswith("d/") else 0
        packed(root / name, {p[cut:]: b for p, b in everything.items() if places[p] == name})
    assert contents(root) == everything
    assert paths(root) == sorted(everything, key=lambda path: path.split("/"))


def test_the_plain_file_wins_and_equal_archives_are_one(tmp_path: Path) -> None:
    root = unpacked(tmp_path, {"d/a": b"plain"})
    for name in ("1.zip", "2.zip"):
        packed(root / name, {"d/a": b"packed", "d/b": b"packed"})
    packed(root / "d" / "3.zip", {"a": b"deeper"})
    assert contents(root) == {"d/a": b"plain", "d/b": b"packed"}
    assert next(f.place for f in list_tree(str(root)) if f.path == "d/b") == str(root / "1.zip")


def test_archives_that_hold_different_files_under_one_path_are_refused(tmp_path: Path) -> None:
    packed(tmp_path / "1.zip", {"d/a": b"one"})
    packed(tmp_path / "2.zip", {"d/a": b"two"})
    with pytest.raises(CatalogError, match=r"'d/a' is in .*1\.zip and, with other bytes, in .*2\.zip"):
        contents(tmp_path)


def test_of_several_roots_the_first_one_wins(tmp_path: Path) -> None:
    one = packed(tmp_path / "one.zip", {"a": b"1", "b": b"1"})
    two = unpacked(tmp_path / "two", {"b": b"2", "c": b"2"})
    assert contents([str(one), str(two)]) == {"a": b"1", "b": b"1", "c": b"2"}
    assert contents([]) == {}


def test_hidden_files_are_left_out_and_an_archive_inside_an_archive_is_a_file(tmp_path: Path) -> None:
    hidden = {".DS_Store": b"x", "d/.hidden/a": b"x", "__MACOSX/d/._a": b"x"}
    inner = packed(tmp_path / "inner.zip", {"x": b"x"}).read_bytes()
    kept = {"d/a": b"a", "d/inner.zip": inner}
    root = unpacked(tmp_path / "root", {**hidden, "d/c": b"c"})
    packed(root / "z.zip", {**hidden, **kept})
    (root / ".broken.zip").write_bytes(b"no archive")
    assert contents(root) == {**kept, "d/c": b"c"}


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    outside = unpacked(tmp_path / "outside", {"x/y": b"y"})
    root = unpacked(tmp_path / "root", {"a/f": b"f", "b/g": b"g"})
    (root / "linked").symlink_to(outside)
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "b").symlink_to(root / "b")
    (root / "b" / "a").symlink_to(root / "a")
    (outside / "x" / "back").symlink_to(root)
    (root / "self").symlink_to("self")
    (root / "nowhere").symlink_to("nothing")
    listed = {f.path: f for f in list_tree(str(root))}
    assert sorted(listed) == ["a/b/g", "a/f", "b/a/f", "b/g", "linked/x/y", "nowhere", "self"]
    for broken in ("self", "nowhere"):
        with pytest.raises(AssetReadError):
            read_whole(listed[broken])


def test_a_pipe_is_listed_and_waits_for_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.tif")
    (file,) = list_tree(str(tmp_path))
    with pytest.raises(AssetReadError, match="it is not a file"):
        read_whole(file)


def test_what_is_no_root_is_refused_before_anything_is_listed(tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(b"x")
    os.mkfifo(tmp_path / "pipe.zip")
    known = "A root is a folder, a .zip, or the http"
    for root in ("", f"{tmp_path}/none", f"{tmp_path}/a.tar.gz", f"{tmp_path}/pipe.zip", "s3://b/c.zip", "http://h/a.tar"):
        with pytest.raises(CatalogError, match=known):
            list_tree(root)


@pytest.mark.parametrize("name", ["../up", "/etc/x", "a/../../b"])
def test_a_hostile_archive_in_a_folder_stops_the_listing_and_writes_nothing(tmp_path: Path, name: str) -> None:
    root = tmp_path / "root"
    write(root / "x.zip", Entry(b"a", b"a"), Entry(name.encode(), b"x"))
    with pytest.raises(CatalogError, match=r"x\.zip"):
        list(list_tree(str(root)))
    assert [p.name for p in tmp_path.rglob("*")] == ["root", "x.zip"]


def test_an_archive_that_is_cut_off_stops_the_listing(tmp_path: Path) -> None:
    path = packed(tmp_path / "x.zip")
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(CatalogError, match=r"x\.zip .* cut off"):
        list(list_tree(str(tmp_path)))


def test_hrefs_are_paths_or_fsspecs_chains(tmp_path: Path) -> None:
    import fsspec

    root = packed(unpacked(tmp_path, {"d/a": b"plain"}) / "d" / "x.zip", {"e/b": b"packed"}).parent.parent
    plain, member = list_tree(str(root))
    assert plain.href == f"{root}/d/a"
    assert (member.path, member.href) == ("d/e/b", f"zip://e/b::{root}/d/x.zip")
    with fsspec.open(member.href) as file:
        assert file.read() == b"packed"


def test_files_and_readers_pickle_small(tmp_path: Path) -> None:
    packed(tmp_path / "x.zip")
    for file in list_tree(str(tmp_path)):
        assert pickle.loads(pickle.dumps(file)) == file
        assert len(pickle.dumps(file)) < 600
    assert pickle.loads(pickle.dumps(TreeReader(retries=7))).retries == 7


@pytest.mark.parametrize("change", [b"longer" * 99, b"", None], ids=["longer", "shorter", "gone"])
def test_a_plain_file_that_changed_since_it_was_listed_is_refused(tmp_path: Path, change: bytes | None) -> None:
    (file,) = list_tree(str(unpacked(tmp_path, {"a": b"short"})))
    Path(file.place).unlink() if change is None else Path(file.place).write_bytes(change)
    with pytest.raises(AssetReadError, match="No such file" if change is None else "listed with 5 bytes") as caught:
        read_whole(file)
    assert (caught.value.href, caught.value.item_id, caught.value.asset) == (str(tmp_path / "a"), "", "")


def test_a_damaged_or_replaced_archive_is_refused_when_a_member_is_read(tmp_path: Path) -> None:
    path = packed(tmp_path / "x.zip", {"a": b"abcdefgh" * 50}, method=zipfile.ZIP_STORED)
    (file,) = list_tree(str(tmp_path))
    body = bytearray(path.read_bytes())
    body[100] ^= 1
    path.write_bytes(body)
    with pytest.raises(AssetReadError, match="checksum") as caught:
        read_whole(file)
    assert caught.value.href == f"zip://a::{path}"
    for other in (body[:200], b""):
        path.write_bytes(other)
        with pytest.raises(AssetReadError, match="cut off"):
            read_whole(file)


def test_a_file_of_unknown_size_is_read_whole(tmp_path: Path) -> None:
    unpacked(tmp_path, {"a": b"abc"})
    assert read_whole(StoredFile(path="a", size=UNKNOWN_SIZE, place=str(tmp_path / "a"))) == b"abc"


# ---------------------------------------------------------------------------------------------------------- HTTP


@pytest.fixture
def served(tmp_path: Path) -> Iterator[CountingServer]:
    """A folder with a space in its name: small and big archives."""
    folder = tmp_path / "a folder"
    packed(folder / "one.zip")
    packed(folder / "two.zip", {"lr_dataset/B/x": b"x" * 100_000})
    packed(folder / "big.zip", {f"{'d' * 50}/{i:05}": b"%d" % i for i in range(3000)})
    with counting_server(tmp_path) as server:
        yield server


def url(server: CountingServer, name: str) -> str:
    """Address of an archive."""
    return f"{server.url}/{quote('a folder')}/{name}"


def test_a_remote_archive_is_listed_with_two_requests_and_a_member_read_with_one(served: CountingServer) -> None:
    files = list(READER.list_tree(url(served, "one.zip")))
    assert [f.path for f in files] == sorted(FILES, key=lambda path: path.split("/"))
    assert [method for method, _ in served.requests] == ["HEAD", "GET"]
    served.clear()
    for file in files:
        assert READER.read_whole(file) == FILES[file.path]
        assert file.href == f"zip://{file.path}::{url(served, 'one.zip')}"
    assert [method for method, _ in served.requests] == ["GET"] * len(files)


def test_a_big_remote_directory_takes_one_request_more_and_no_member(served: CountingServer) -> None:
    files = list(READER.list_tree(url(served, "big.zip")))
    assert len(files) == 3000
    assert len(served.requests) == 3
    served.clear()
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(READER.read_whole, files[:40])) == [b"%d" % i for i in range(40)]
    assert len(served.requests) == 40


def test_several_remote_archives_are_one_tree(served: CountingServer) -> None:
    found = contents([url(served, "one.zip"), url(served, "two.zip")])
    assert found == {**FILES, "lr_dataset/B/x": b"x" * 100_000}


def test_a_plain_remote_file_is_one_request(served: CountingServer) -> None:
    body = READER.read_whole(StoredFile(path="x", size=UNKNOWN_SIZE, place=url(served, "one.zip")))
    assert body[:4] == b"PK\3\4"
    assert len(served.requests) == 1
    with pytest.raises(AssetReadError, match="listed with 3 bytes"):
        READER.read_whole(StoredFile(path="x", size=3, place=url(served, "one.zip")))


def test_a_server_that_fails_now_and_then_is_asked_again_and_one_that_always_fails_is_named(served: CountingServer) -> None:
    files = list(READER.list_tree(url(served, "one.zip")))
    served.clear()
    served.fault = lambda n: 503 if n < 2 else None
    assert READER.read_whole(files[0]) == FILES[files[0].path]
    assert len(served.requests) == 3
    served.fault = lambda n: 503
    with pytest.raises(AssetReadError, match="503 Service Unavailable") as caught:
        READER.read_whole(files[0])
    assert caught.value.href == files[0].href
    with pytest.raises(CatalogError, match=r"one\.zip could not be read: .*503"):
        list(READER.list_tree(url(served, "one.zip")))


def test_what_the_server_does_not_have_is_asked_for_once(served: CountingServer) -> None:
    with pytest.raises(CatalogError, match=r"the server has nothing at .*none\.zip"):
        list(READER.list_tree(url(served, "none.zip")))
    assert len(served.requests) == 1
    with pytest.raises(AssetReadError, match="the server has nothing"):
        READER.read_whole(StoredFile(path="x", size=1, place=url(served, "none.tif")))
    assert len(served.requests) == 2


def test_nobody_at_the_address_is_an_error_soon() -> None:
    with pytest.raises(CatalogError, match="could not be read: no connection"):
        list(READER.list_tree("http://127.0.0.1:9/x.zip"))


class _Whole(BaseHTTPRequestHandler):
    """Sends the whole file whatever is asked for."""

    body = b""

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.body)))
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        self.wfile.write(self.body)

    def log_message(self, *_: object) -> None:
        pass


def test_a_server_without_ranges_is_refused_and_its_query_goes_with_each_request(tmp_path: Path) -> None:
    asked: list[str] = []

    class Handler(_Whole):
        body = packed(tmp_path / "x.zip", {"a": b"x" * 300_000}, method=zipfile.ZIP_STORED).read_bytes()

        def do_HEAD(self) -> None:
            asked.append(self.path)
            super().do_HEAD()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        with pytest.raises(CatalogError, match="must know byte ranges"):
            list(READER.list_tree(f"http://127.0.0.1:{server.server_address[1]}/x.zip?sig=a%2Bb"))
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert set(asked) == {"/x.zip?sig=a%2Bb"}
