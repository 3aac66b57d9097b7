"""eocube audit: what is wrong with a store, at each depth, as exit codes."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest
import xxhash

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
    marker["shards"][key] = [len(body), xxhash.xxh3_128_hexdigest(bytes(body))]
    path.write_text(json.dumps(marker))
    assert codes(eocube, filled) == (OK, OK, FOUND)
    assert "undecodable" in eocube("audit", filled, "--deep").stdout


def test_a_stray_object_is_found_at_every_depth(eocube: Invoke, filled: Path) -> None:
    (filled / CUBE / "data/c/77").write_bytes(b"x")
    assert codes(eocube, filled) == (FOUND, FOUND, FOUND)
    (filled / CUBE / "data/c/77").unlink()
    assert codes(eocube, filled) == (OK, OK, OK)


def test_the_way_to_mend_one_damaged_region_is_said_and_works(eocube: Invoke, catalog: Catalog, filled: Path) -> None:
    path = filled / CUBE / "data/c/1/0/0/0"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    shown = eocube("audit", filled).stdout
    assert f"--rebuild {SITE}/10m" in shown
    marker = f"markers/{SITE}/10m/1.0.0/"
    assert marker in shown
    for file in (filled / marker).iterdir():
        file.unlink()
    again = parsed(eocube("convert", "stac", catalog.path, filled, "--layout", "map", "--json"))
    assert (again["regions_done"], again["regions_skipped"]) == (1, 3)
    assert path.read_bytes() == whole
    assert codes(eocube, filled) == (OK, OK, OK)


def test_a_problem_that_many_regions_share_is_a_few_rows_and_a_count(eocube: Invoke, filled: Path, tmp_path: Path) -> None:
    from eocube.testing.stac import make_series, write_catalog

    files = write_catalog(make_series(9), tmp_path / "nine")
    store = tmp_path / "nine_store"
    eocube("convert", "stac", files, store, "--layout", "map", "--limit", 1)
    shown = eocube("audit", store).stdout
    assert shown.count("no marker says") == 5
    assert "unfinished  8" in shown
    assert "--json lists them all" in shown
    assert "--rebuild" not in shown
    assert len(parsed(eocube("audit", store, "--json"))["rows"]) == 8
    (filled / CUBE / "data/c/2/0/0/0").unlink()
    assert "--json" not in eocube("audit", filled).stdout


def test_left_over_staging_is_told_to_be_harmless_and_the_first_run_a_day_later_removes_it(
    eocube: Invoke, catalog: Catalog, filled: Path
) -> None:
    left = filled / "tmp/0123456789"
    left.parent.mkdir(exist_ok=True)
    left.write_bytes(b"half")
    assert codes(eocube, filled) == (OK, OK, OK)
    shown = eocube("audit", filled).stdout
    for part in ("staging", "tmp/0123456789", "Everything else is as its markers say.", "harmless", "a day later removes it"):
        assert part in shown
    assert parsed(eocube("audit", filled, "--json"))["ok"]
    command = ("convert", "stac", catalog.path, filled, "--layout", "map")
    eocube(*command)
    assert left.exists(), "a run under way may be writing it"
    os.utime(left, times=(time.time() - 90_000,) * 2)
    eocube(*command)
    assert not left.exists()
    assert "Everything is as its markers say." in eocube("audit", filled).stdout


def test_the_advice_is_of_the_kinds_that_were_found(eocube: Invoke, filled: Path) -> None:
    (filled / CUBE / "time/c/0").unlink()
    shown = eocube("audit", filled).stdout
    assert f"coordinate: no run puts them again. Write the cube anew with the same command and --rebuild {SITE}/10m." in shown
    for other in ("unfinished", "Everything", "markers/", "eocube index"):
        assert other not in shown
    shutil.rmtree(filled / "sources")
    shown = eocube("audit", filled).stdout
    assert f"(here markers/{SITE}/10m/0.0.0/)" in shown
    assert [told.partition(":")[0] for told in parsed(eocube("audit", filled, "--json"))["advice"]] == ["sources", "coordinate"]
