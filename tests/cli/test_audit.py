"""eocube audit: what is wrong with a store, at each depth, as exit codes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from tests.cli.conftest import SITE, Catalog, Invoke, parsed

CUBE = f"cubes/{SITE}/10m"
OK, FOUND = 0, 3


@pytest.fixture
def filled(eocube: Invoke, catalog: Catalog, store: Path) -> Path:
    assert eocube("convert", "stac", catalog.path, store, "--layout", "map").exit_code == OK
    return store


def codes(eocube: Invoke, store: Path) -> tuple[int, int, int]:
    """Exit codes of ``--quick``, of the plain audit and of ``--deep``."""
    quick, plain, deep = (eocube("audit", store, *options).exit_code for options in (["--quick"], [], ["--deep"]))
    return quick, plain, deep


def test_one_flipped_byte_is_found_by_digest_and_by_decoding(eocube: Invoke, filled: Path) -> None:
    path = filled / CUBE / "data/c/1/0/0/0"
    body = bytearray(path.read_bytes())
    body[60] ^= 0xFF
    path.write_bytes(bytes(body))
    assert codes(eocube, filled) == (OK, FOUND, FOUND)
    report = parsed(eocube("audit", filled, "--json"))
    assert report["counts"] == {"digest": 1}
    assert [(r["key"], r["region"]) for r in report["rows"]] == [(f"{CUBE}/data/c/1/0/0/0", "1.0.0")]


def test_one_deleted_full_shard_is_found_at_every_depth(eocube: Invoke, filled: Path) -> None:
    (filled / CUBE / "data/c/2/0/0/0").unlink()
    assert codes(eocube, filled) == (FOUND, FOUND, FOUND)
    assert parsed(eocube("audit", filled, "--json"))["counts"] == {"missing": 1}


def test_a_shard_that_cannot_be_decoded_under_a_right_digest_is_found_by_deep_alone(eocube: Invoke, filled: Path) -> None:
    key = f"{CUBE}/scl/c/0/0/0"
    body = bytearray((filled / key).read_bytes())
    body[4] ^= 1  # Blosc's header: how many bytes it decodes to
    (filled / key).write_bytes(bytes(body))
    (path,) = (filled / f"markers/{SITE}/10m/0.0.0").iterdir()
    marker = json.loads(path.read_text())
    marker["shards"][key] = [len(body), hashlib.sha256(bytes(body)).hexdigest()]
    path.write_text(json.dumps(marker))
    assert codes(eocube, filled) == (OK, OK, FOUND)
    assert "undecodable" in eocube("audit", filled, "--deep").stdout


def test_a_stray_object_is_found_at_every_depth(eocube: Invoke, filled: Path) -> None:
    (filled / CUBE / "data/c/77").write_bytes(b"x")
    assert codes(eocube, filled) == (FOUND, FOUND, FOUND)
    (filled / CUBE / "data/c/77").unlink()
    assert codes(eocube, filled) == (OK, OK, OK)
