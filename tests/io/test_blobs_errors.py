"""What a place that cannot be read or written says: one sentence, an error of eocube, and the system's own number."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from eocube.errors import CubeError, StoreReadError, StoreWriteError, UnknownNameError
from eocube.io.blobs import open_blobs, reason_of
from eocube.jobs.open import open_store
from eocube.patches.layout import ATTR

DENIED = """Generic S3 error: Error performing PUT http://127.0.0.1:9/b/k in 6.8ms - Server returned non-2xx status code: \
403 Forbidden: <?xml version="1.0"?>
<Error><Code>AccessDenied</Code><Message>Access &amp; more denied.</Message><RequestId>3VP3</RequestId></Error>

Debug source:
Generic { store: "S3", source: RetryError(...) }"""
REFUSED = """Generic S3 error: Error performing GET http://127.0.0.1:9/b/k in 42.804µs - HTTP error: error sending request

Debug source:
Generic {
    inner: Os {
        code: 111,
        kind: ConnectionRefused,
        message: "Connection refused",
    },
}"""
PLAIN = (
    "Generic HTTP error: Error performing GET http://h/k in 1.2s - Server returned non-2xx status code: 500 Internal Server Error"
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param(DENIED, "the server answers 403 Forbidden: AccessDenied: Access & more denied", id="what the server says"),
        pytest.param(REFUSED, "no connection: Connection refused", id="what the system says"),
        pytest.param(PLAIN, "the server answers 500 Internal Server Error", id="only a status"),
        pytest.param("Generic S3 error: Missing region\n\nDebug source:\nx", "Missing region", id="the library's first line"),
        pytest.param("", "ValueError", id="nothing"),
        pytest.param("x" * 1_000, "x" * 300, id="too much"),
    ],
)
def test_of_a_librarys_error_only_what_happened_is_said(text: str, said: str) -> None:
    assert reason_of(ValueError(text)) == said


@pytest.mark.parametrize("act", ["put", "put_new", "delete", "get", "list"])
def test_a_place_that_the_system_refuses_is_an_error_of_eocube(tmp_path: Path, act: str) -> None:
    blobs, key = open_blobs(tmp_path), "x" * 300
    with pytest.raises((StoreReadError, StoreWriteError), match="File name too long"):
        {
            "put": lambda: blobs.put(key, b"1"),
            "put_new": lambda: blobs.put_new(key, b"1"),
            "delete": lambda: blobs.delete(key),
            "get": lambda: blobs.get(key),
            "list": lambda: list(blobs.list(key)),
        }[act]()
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_the_systems_number_stands_on_the_error(tmp_path: Path) -> None:
    with pytest.raises(StoreWriteError) as caught:
        open_blobs(tmp_path).put("x" * 300, b"1")
    assert caught.value.errno == errno.ENAMETOOLONG


@pytest.mark.parametrize("url", ["", "a\0b", "s3://b\0"])
def test_an_address_that_is_none_is_told(url: str) -> None:
    with pytest.raises(UnknownNameError, match="Unknown store address"):
        open_blobs(url)


def test_options_that_an_object_store_does_not_know_are_told() -> None:
    with pytest.raises(StoreReadError, match="the address or its options are not understood"):
        open_blobs("s3://bucket", {"no_such_option": "1"}).get("k")


def test_a_patch_set_or_a_cube_is_not_opened_as_a_store(tmp_path: Path) -> None:
    open_blobs(tmp_path).put("zarr.json", f'{{"attributes": {{"{ATTR}": {{}}}}}}'.encode())
    with pytest.raises(CubeError, match="is a patch set"):
        open_store(str(tmp_path))
    open_blobs(tmp_path).put("zarr.json", b'{"attributes": {"eocube": {"format": 1, "cube": "c"}}}')
    with pytest.raises(CubeError, match="is one cube, not a store"):
        open_store(str(tmp_path))
