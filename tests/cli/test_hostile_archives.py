"""Archives that mean harm, through the command line: one clear line, and nothing is written outside the store."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import rasterio
from affine import Affine
from typer.testing import CliRunner, Result

from eocube.cli import app
from eocube.corpora.worldstrat_sample import write_worldstrat
from eocube.jobs.audit import audit
from eocube.testing.stores import index_rows
from tests.io.test_archives import HOSTILE
from tests.io.zips import Entry, build, fifield

LIED = "L2A_data.tiff"
"""End of the name of the member that lies: a revisit's bands."""


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> list[Entry]:
    """Members of an archive of one area with one revisit, its tables among them."""
    root = write_worldstrat(tmp_path_factory.mktemp("ws") / "c", sites=1, revisits=1, products=("l2a",), side_files=("CLM",))
    files = sorted(p for p in root.rglob("*") if p.is_file())
    return [Entry(str(p.relative_to(root)).encode(), p.read_bytes()) for p in files]


def lying(members: list[Entry], lie: Callable[[Entry], Entry]) -> bytes:
    """The archive, in which the bands' member is told otherwise."""
    return build(*(lie(m) if m.name.decode().endswith(LIED) else m for m in members))


def below(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder; a file with its bytes."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


def converted(tmp_path: Path, archive: bytes, monkeypatch: pytest.MonkeyPatch) -> str:
    """What ``convert`` says of an archive that it has to refuse; that it wrote nowhere but into the store is looked at."""
    home = tmp_path / "a" / "b" / "home"
    home.mkdir(parents=True)
    monkeypatch.chdir(home)
    (tmp_path / "x.zip").write_bytes(archive)
    before = below(tmp_path)
    result: Result = CliRunner().invoke(app, ["convert", "worldstrat", str(tmp_path / "x.zip"), "store"])
    after = below(tmp_path)
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 1, result.output
    own = str((home / "store").relative_to(tmp_path))
    assert {k: v for k, v in after.items() if k != own and not k.startswith(f"{own}/")} == before
    assert result.stderr.splitlines()[-1].startswith("Error: "), result.stderr
    assert "Traceback" not in result.output
    assert str(tmp_path / "x.zip") in result.stderr
    assert len(result.stderr) < 2_000
    return result.stderr


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_member_ends_the_run_by_name_before_there_is_a_store(
    honest: list[Entry], case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry, says = HOSTILE[case]
    said = converted(tmp_path, build(*honest, entry), monkeypatch)
    assert says in said
    assert repr(entry.name.decode("cp437")) in said
    assert not Path("store").exists()


@pytest.mark.parametrize(
    ("made", "says"),
    [
        pytest.param(lambda whole: whole[: len(whole) // 2], "cut off", id="the second half is missing"),
        pytest.param(lambda whole: whole[:-1], "cut off", id="the last byte is missing"),
        pytest.param(lambda _: b"", "cut off, damaged or no zip", id="empty"),
        pytest.param(lambda _: b"<html>not found</html>" * 99, "cut off, damaged or no zip", id="an error page"),
        pytest.param(lambda _: fifield(), "needs", id="members that overlap: 10 kB that claim 250 times as much"),
        pytest.param(lambda _: build(), "No WorldStrat area was found", id="nothing in it"),
    ],
)
def test_an_archive_that_is_none_ends_the_run_before_there_is_a_store(
    honest: list[Entry], made: Callable[[bytes], bytes], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert says in converted(tmp_path, made(build(*honest)), monkeypatch)
    assert not Path("store").exists()


def test_two_names_on_one_members_bytes_are_refused(honest: list[Entry], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    again = replace(honest[-1], name=b"lr_dataset/again.tiff", local_name=honest[-1].name, offset=0)
    assert "what comes behind it begins" in converted(tmp_path, build(*honest, again), monkeypatch)
    assert not Path("store").exists()


LIES: dict[str, tuple[Callable[[Entry], Entry], str]] = {
    "another name in its own header": (lambda m: replace(m, local_name=b"../" * 4 + m.name[12:]), "its header calls it"),
    "more bytes than it claims": (lambda m: replace(m, size=len(m.body) - 1), "gives more"),
    "a gigabyte behind a kilobyte": (lambda m: replace(m, body=b"\0" * 50_000_000, size=1_000), "gives more"),
    "a claim of more than is inflated": (lambda m: replace(m, data=b"\0" * 1_100_000, size=1_100_000_000), "at most 268435456"),
    "another checksum": (lambda m: replace(m, crc=1, local_crc=1), "do not have the checksum"),
    "a stream that ends early": (lambda m: replace(m, data=m.packed()[:-9]), "not as many"),
    "no stream at all": (lambda m: replace(m, data=b"\xff" * 3_000), "Error -3"),
    "another way of packing": (lambda m: replace(m, method=12, data=m.packed()), "packed by method 12"),
    "a link's target for pixels": (lambda m: replace(m, body=b"/etc/passwd"), "TIFF"),
    "a GDAL description for pixels": (lambda m: replace(m, body=b'<VRTDataset rasterXSize="1" rasterYSize="1"/>'), "TIFF"),
}


@pytest.mark.parametrize("case", LIES)
def test_a_member_that_lies_about_itself_ends_the_run_by_name_and_finishes_nothing(
    honest: list[Entry], case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lie, says = LIES[case]
    said = converted(tmp_path, lying(honest, lie), monkeypatch)
    assert says in said
    assert LIED in said
    if Path("store").exists():
        report = audit("store", executor="serial")
        assert not report.ok or not report.regions, "a region was taken for written"
        assert not list(Path("store").glob("cubes/*/*/data/c/**/*[0-9]"))


def test_errors_skip_lists_a_member_that_lies(honest: list[Entry], tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(lying(honest, LIES["another checksum"][0]))
    words = ["convert", "worldstrat", str(tmp_path / "x.zip"), str(tmp_path / "store"), "--errors", "skip", "--json"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 3, result.output
    (row,) = json.loads(result.stdout)["failed"]
    assert row["href"].startswith("zip://lr_dataset/")
    assert row["href"].endswith(f"{LIED}::{tmp_path}/x.zip")
    assert "do not have the checksum" in row["error"]


def test_a_process_ends_with_one_line_and_code_1_on_a_bomb(honest: list[Entry], tmp_path: Path) -> None:
    """As a shell sees it."""
    (tmp_path / "x.zip").write_bytes(lying(honest, LIES["a gigabyte behind a kilobyte"][0]))
    words = [sys.executable, "-m", "eocube", "convert", "worldstrat", "x.zip", "store", "--cluster", "serial"]
    ended = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 1, ended.stderr
    assert "Traceback" not in ended.stderr + ended.stdout
    assert [line for line in ended.stderr.splitlines() if "gives more" in line]
    assert {p.name for p in tmp_path.iterdir()} == {"x.zip", "store"}


def renamed(members: list[Entry], new: str) -> bytes:
    """The archive, in which the area has another name."""
    old = next(m.name.decode().split("/")[1] for m in members if m.name.startswith(b"lr_dataset/"))
    named = [replace(m, name=m.name.replace(old.encode(), new.encode()), flags=0x0800) for m in members]
    quoted = f'"{new}"'.encode()
    return build(*(replace(m, body=m.body.replace(old.encode(), quoted)) if m.name.endswith(b".csv") else m for m in named))


@pytest.mark.parametrize("name", ["~root", "a..", "%2e%2e", "a b;rm -rf $HOME", "été"])
def test_an_area_of_any_name_is_a_plain_folder_below_the_store(
    honest: list[Entry], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.zip").write_bytes(renamed(honest, name))
    result = CliRunner().invoke(app, ["convert", "worldstrat", "x.zip", "store"])
    assert result.exit_code == 0, result.output
    assert sorted(p.name for p in Path().iterdir()) == ["store", "x.zip"]
    (cube,) = [p.name for p in Path("store/cubes").iterdir() if p.is_dir()]
    assert re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*", cube)
    assert [row["site"] for row in index_rows("store")] == [name]


def test_an_area_whose_name_makes_no_folder_is_told(honest: list[Entry], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.zip").write_bytes(renamed(honest, "é" * 100))
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["convert", "worldstrat", "x.zip", "store"])
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit)
    assert "too long" in result.stderr.lower()
    assert sorted(p.name for p in Path().iterdir()) == ["store", "x.zip"]


def test_an_image_that_is_bigger_than_memory_is_refused_from_its_header(
    honest: list[Entry], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GeoTIFF of a few kilobytes may claim any number of pixels, in blocks that are not there."""
    shape = {"width": 60_000, "height": 60_000, "count": 12, "dtype": "float32"}
    blocks = {"tiled": True, "blockxsize": 16_384, "blockysize": 16_384, "SPARSE_OK": True}
    place = {"crs": "EPSG:4326", "transform": Affine(1e-4, 0, 1, 0, -1e-4, 1)}
    with rasterio.MemoryFile() as memory:
        with memory.open(driver="GTiff", **shape, **blocks, **place):
            pass
        body = bytes(memory.read())
    assert len(body) < 10_000
    said = converted(tmp_path, lying(honest, lambda m: replace(m, body=body)), monkeypatch)
    assert LIED in said
    assert "172800000000 bytes of pixels" in said
