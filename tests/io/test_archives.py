"""Zip archives: what honest ones hold is read exactly, with one fetch a member; every lie ends in an error that names it."""

from __future__ import annotations

import io
import pickle
import random
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eocube.errors import AssetReadError, CatalogError, EocubeError
from eocube.io import archives
from eocube.io.archives import Member, read_directory, read_member
from tests.io.zips import Entry, build, deflated, fetching, fifield

NAME = "hr_dataset/Amnesty POI-1-2-3/a.tiff"
BODY = random.Random(3).randbytes(3000) * 2  # noqa: S311 - no secret


def listed(archive: bytes) -> dict[str, Member]:
    """Members by name."""
    return {m.name: m for m in read_directory(fetching(archive), len(archive), "x.zip")}


def contents(archive: bytes) -> dict[str, bytes]:
    """Everything that is in an archive."""
    return {name: read_member(fetching(archive), m, "x.zip") for name, m in listed(archive).items()}


def made(members: dict[str, bytes], *, method: int = zipfile.ZIP_DEFLATED, comment: bytes = b"", zip64: bool = False) -> bytes:
    """An archive as the standard library writes it."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, body in members.items():
            with archive.open(name, "w", force_zip64=zip64) as file:
                file.write(body)
        archive.comment = comment
    return out.getvalue()


@settings(max_examples=40, deadline=None)
@given(
    members=st.dictionaries(st.text("abcé- _/", min_size=1, max_size=9), st.binary(max_size=300), max_size=5),
    method=st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]),
    comment=st.binary(max_size=40),
    zip64=st.booleans(),
)
def test_what_the_standard_library_packs_is_unpacked(
    members: dict[str, bytes],
    method: int,
    comment: bytes,
    zip64: bool,  # noqa: FBT001
) -> None:
    given = {"/".join(p for p in f"m{k}".split("/") if p): body for k, body in members.items()}
    assert contents(made(given, method=method, comment=comment.replace(b"PK", b""), zip64=zip64)) == given


def test_a_streamed_archive_whose_sizes_follow_the_data_is_unpacked() -> None:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def tell(self) -> int:
            raise io.UnsupportedOperation

    out = Pipe()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(NAME, BODY)
        archive.writestr("b", b"b")
    assert contents(out.getvalue()) == {NAME: BODY, "b": b"b"}


def test_folders_are_left_out_and_an_archive_of_nothing_is_empty() -> None:
    assert contents(build(Entry(b"hr_dataset/", mode=0o40755, method=0), Entry(b"hr_dataset/a", b"x"))) == {"hr_dataset/a": b"x"}
    assert contents(build()) == {}


def test_more_than_65535_members_are_all_listed() -> None:
    archive = made({f"d/{i}": b"" for i in range(65_600)}, method=zipfile.ZIP_STORED)
    assert listed(archive).keys() == {f"d/{i}" for i in range(65_600)}


def test_bytes_before_an_archive_shift_nothing() -> None:
    assert contents(b"#!/bin/sh\n" * 9 + made({"a": BODY})) == {"a": BODY}


@pytest.mark.parametrize("extra", [0, 28, 256, 5000, 65_000])
def test_a_member_takes_one_fetch_and_nothing_beyond_its_room_unless_there_is_a_gap_and_a_long_extra_field(extra: int) -> None:
    archive = build(Entry(b"a", BODY, extra=b"\0" * extra), Entry(b"b", b"b"))
    member, log = listed(archive)["a"], []
    assert read_member(fetching(archive, log), member, "x.zip") == BODY
    assert len(log) == (1 if extra <= 256 else 2)
    assert sum(stop - start for start, stop in log) == min(member.room, 30 + 1 + max(256, extra) + member.packed_bytes)


def test_a_small_archives_directory_takes_one_fetch_and_a_big_one_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    for n, most in ((3, 1), (4000, 9)):
        archive, log = made({f"{'d' * 60}/{i}": b"" for i in range(n)}), []
        monkeypatch.setattr(archives, "_PIECE_BYTES", 100_000)
        assert len(read_directory(fetching(archive, log), len(archive), "x.zip")) == n
        assert len(log) <= most
        assert max(stop - start for start, stop in log) <= max(100_000, archives._TAIL_BYTES)


def test_a_member_is_small_when_pickled() -> None:
    assert len(pickle.dumps(listed(build(Entry(NAME.encode(), BODY)))[NAME])) < 300


HOSTILE = {
    "absolute": (Entry(b"/etc/passwd", b"x"), "begins outside"),
    "drive": (Entry(b"C:/x", b"x"), "begins outside"),
    "drive-relative": (Entry(b"c:x", b"x"), "begins outside"),
    "network-share": (Entry(b"\\\\host\\x", b"x"), "begins outside"),
    "up": (Entry(b"../x", b"x"), "'..'"),
    "up-inside": (Entry(b"a/../../x", b"x"), "'..'"),
    "up-folder": (Entry(b"a/../", mode=0o40755), "'..'"),
    "up-at-the-end": (Entry(b"a/..", b"x"), "'..'"),
    "here": (Entry(b"a/./x", b"x"), "'..'"),
    "empty-part": (Entry(b"a//x", b"x"), "empty parts"),
    "no-name": (Entry(b"", b"x"), "empty parts"),
    "backslash": (Entry(b"a\\..\\x", b"x"), "backslashes"),
    "nul": (Entry(b"a\0/../x", b"x"), "cannot be shown"),
    "newline": (Entry(b"a\nb", b"x"), "cannot be shown"),
    "chain": (Entry(b"aa::b", b"x"), "'::'"),
    "link": (Entry(b"a", b"/etc/passwd", mode=0o120777), "link or a device"),
    "pipe": (Entry(b"a", mode=0o010644), "link or a device"),
    "encrypted": (Entry(b"a", b"x", flags=1), "encrypted"),
    "strongly-encrypted": (Entry(b"a", b"x", flags=0x41), "encrypted"),
    "ratio": (Entry(b"a", b"x", size=10**9), "cannot hold"),
    "stored-and-bigger": (Entry(b"a", b"xxx", method=0, size=4), "is not packed"),
    "longer-than-the-archive": (Entry(b"a", b"x", packed_bytes=10**6), "needs 1000031 bytes"),
    "4-GiB-claim": (Entry(b"a", b"x", packed_bytes=2**32 - 2, size=2**32 - 2), "needs"),
    "behind-the-directory": (Entry(b"a", b"x", offset=10**6), "needs"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_an_archive_with_a_hostile_member_is_refused_by_name(case: str) -> None:
    entry, says = HOSTILE[case]
    archive = build(Entry(b"good", b"x"), entry)
    with pytest.raises(CatalogError) as caught:
        read_directory(fetching(archive), len(archive), "s/x.zip")
    assert says in str(caught.value)
    assert "s/x.zip" in str(caught.value)
    assert repr(entry.name.decode("cp437")) in str(caught.value)


def test_a_name_that_comes_twice_is_refused() -> None:
    with pytest.raises(CatalogError, match="'a' is in it twice"):
        listed(build(Entry(b"a", b"x"), Entry(b"a", b"y")))


def test_members_that_share_bytes_are_refused() -> None:
    bomb = fifield()
    with zipfile.ZipFile(io.BytesIO(bomb)) as archive:  # the standard library of some versions unpacks it
        assert sum(info.file_size for info in archive.infolist()) > 100 * len(bomb)
    with pytest.raises(CatalogError, match="member '0000' needs"):
        listed(bomb)
    twice = build(Entry(b"a", BODY), Entry(b"b", BODY, offset=0, local_name=b"a"))
    with pytest.raises(CatalogError, match="what comes behind it begins"):
        listed(twice)


def test_a_count_that_is_not_the_directorys_is_refused() -> None:
    with pytest.raises(CatalogError, match="says that it has 3 members, and its directory lists 2"):
        listed(build(Entry(b"a", b"x"), Entry(b"b", b"x"), count=3))


@pytest.mark.parametrize("cut", [1, 22, 30, 100, 2000])
def test_an_archive_that_is_cut_off_is_refused(cut: int) -> None:
    with pytest.raises(CatalogError, match=r"x\.zip \(\d+ bytes\) cannot be read as a zip archive"):
        listed(build(Entry(b"a", BODY), Entry(b"b", BODY))[:-cut])


@pytest.mark.parametrize("body", [b"", b"PK", b"not a zip", b"\0" * 10**5], ids=["empty", "two", "text", "zeros"])
def test_what_is_no_archive_is_refused(body: bytes) -> None:
    with pytest.raises(CatalogError, match="cut off, damaged or no zip"):
        listed(body)


def test_a_directory_of_too_many_bytes_is_not_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MOST_DIRECTORY_BYTES", 200_000)
    archive = made({f"{'d' * 60}/{i}": b"" for i in range(4000)})
    with pytest.raises(CatalogError, match="at most 200000 are read"):
        listed(archive)


LYING = {
    "another-name": (Entry(b"a", BODY, local_name=b"b"), "its header calls it 'b'"),
    "another-method": (Entry(b"a", BODY, local_method=0), "packed by method 0"),
    "another-checksum": (Entry(b"a", BODY, local_crc=1), "another checksum"),
    "wrong-checksum": (Entry(b"a", BODY, crc=1), "do not have the checksum"),
    "encrypted-there": (Entry(b"a", BODY, local_flags=1), "encrypted, which the directory does not say"),
    "claims-less": (Entry(b"a", BODY, size=5999), "claims 5999 bytes and gives more"),
    "claims-nothing": (Entry(b"a", BODY, size=0), "claims 0 bytes and gives more"),
    "claims-more": (Entry(b"a", BODY, size=6001), "not as many"),
    "left-behind": (Entry(b"a", BODY, data=deflated(BODY) + b"more"), "left behind"),
    "cut-stream": (Entry(b"a", BODY, data=deflated(BODY)[:-9]), "not as many"),
    "no-stream": (Entry(b"a", BODY, data=b"\xff" * 3000), "Error -3"),
    "bzip2": (Entry(b"a", BODY, method=12), "packed by method 12"),
    "deflate64": (Entry(b"a", BODY, method=9), "packed by method 9"),
    "not-there": (Entry(b"a", BODY), "no member begins"),
    "long-extra": (Entry(b"a", b"x"), "the next member begins after"),
}


@pytest.mark.parametrize("case", LYING)
def test_a_lying_member_is_refused_when_it_is_read_and_the_others_are_read(case: str) -> None:
    entry, says = LYING[case]
    archive = build(entry, Entry(b"good", b"x"))
    if case == "not-there":
        archive = archive.replace(b"PK\3\4", b"PK\3\5", 1)
    if case == "long-extra":
        archive = archive[:28] + b"\xff\xff" + archive[30:]
    members = listed(archive)
    with pytest.raises(AssetReadError) as caught:
        read_member(fetching(archive), members[entry.name.decode()], "s/x.zip")
    assert says in str(caught.value)
    assert caught.value.href == f"zip://{entry.name.decode()}::s/x.zip"
    assert read_member(fetching(archive), members["good"], "s/x.zip") == b"x"


def test_a_member_over_the_bound_is_not_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    archive, log = build(Entry(b"a", BODY)), []
    monkeypatch.setattr(archives, "MOST_MEMBER_BYTES", 5999)
    with pytest.raises(AssetReadError, match="claims 6000 bytes, and at most 5999"):
        read_member(fetching(archive, log), listed(archive)["a"], "x.zip")
    assert not log


def test_inflating_makes_no_more_than_what_is_claimed() -> None:
    archive = build(Entry(b"a", b"\0" * 50_000_000, size=1000))
    member = listed(archive)["a"]
    tracemalloc.start()
    try:
        with pytest.raises(AssetReadError, match="gives more"):
            read_member(fetching(archive), member, "x.zip")
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_nothing_is_written_to_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for entry, _ in (*HOSTILE.values(), *LYING.values()):
        archive = build(entry)
        try:
            contents(archive)
        except EocubeError:
            continue
    assert not list(tmp_path.rglob("*"))


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_changed_byte_or_a_cut_gives_the_right_bytes_or_an_error_that_names_the_archive(data: st.DataObject) -> None:
    whole = build(Entry(b"d/a", BODY[:300]), Entry(b"d/b", b"bb" * 40, method=0), Entry(b"c", b""))
    expected = {"d/a": zlib.crc32(BODY[:300]), "d/b": zlib.crc32(b"bb" * 40), "c": 0}
    body = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    changed = bytes(body[: data.draw(st.sampled_from([len(body), len(body), len(body) - 1, len(body) // 2]))])
    try:
        found = contents(changed)
    except (CatalogError, AssetReadError) as e:
        found, said = {}, str(e)
    else:
        said = "x.zip"
    assert "x.zip" in said
    assert {zlib.crc32(value) for value in found.values()} <= set(expected.values())


@pytest.mark.parametrize("n", [65_534, 65_535, 65_536, 65_600])
def test_an_archive_of_very_many_members_is_counted_too(n: int) -> None:
    """From 65,535 on the count stands in the end record of Zip64, as in WorldStrat's L2A archive."""
    archive = made({str(i): b"" for i in range(n)}, method=zipfile.ZIP_STORED)
    assert len(read_directory(fetching(archive), len(archive), "x.zip")) == n
    at = archive.rfind(b"PK\6\6")
    if at >= 0:
        lying = archive[: at + 32] + (n + 1).to_bytes(8, "little") + archive[at + 40 :]
        with pytest.raises(CatalogError, match=f"says that it has {n + 1} members, and its directory lists {n}"):
            read_directory(fetching(lying), len(lying), "x.zip")
    assert (at >= 0) == (n > 65_535)
