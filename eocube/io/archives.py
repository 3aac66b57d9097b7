"""Zip archives read where they lie, member by member, and never believed: nothing is unpacked, nothing is written.

A zip says each thing twice (directory and local headers) and may say anything. What is looked at:

===========================================================  ====================================================================
what an archive must be                                      source
===========================================================  ====================================================================
a directory of as many entries as its end says               APPNOTE.TXT 6.3.10, sections 4.3.12 to 4.3.16; Zip64 included
names are relative, POSIX, inside the archive, each once     the same, 4.4.17.1
members are files or folders, not links, not encrypted       the same, 4.4.4 and 4.4.15
members lie one behind the other and share no bytes          D. Fifield, "A better zip bomb", WOOT 2019: 281 TB from 10 MB
a claimed size can come of so many packed bytes              RFC 1951: 258 bytes need two bits, 1032 a byte
a member's own header says what the directory says           APPNOTE.TXT, 4.3.7
a member gives just its bytes, and their CRC-32              the same, 4.4.7 and 4.4.9
===========================================================  ====================================================================

What makes an archive's structure a lie is a CatalogError when it is listed; what is wrong with one member, an AssetReadError when
that is read.
"""

from __future__ import annotations

import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NoReturn

from eocube.errors import AssetReadError, CatalogError

MOST_DIRECTORY_BYTES = 256 * 1024 * 1024
"""A bigger directory is refused: half a million members (WorldStrat's L2A archive) take about 100 MB."""

MOST_MEMBER_BYTES = 256 * 1024**2
"""A bigger member is not inflated: those of the corpora have up to some tens of megabytes."""

STORED, DEFLATED = 0, 8
_MOST_TIMES_SMALLER = 1032
_HEADER, _HEADER_BYTES = "<4s5H3I2H", 30
_EXTRA_BYTES = 256
"""Room for a local header's extra field that is fetched with it: usual ones (Zip64, times, owners) have up to 60 bytes."""

_TAIL_BYTES = 128 * 1024
"""Fetched first: holds the end record with the longest comment, and the whole directory of a small archive."""

_PIECE_BYTES = 8 * 1024 * 1024
_ENCRYPTED = 0x0001 | 0x0040 | 0x2000
_SIZES_FOLLOW, _UTF8 = 0x0008, 0x0800
_IN_ZIP64 = 0xFFFFFFFF
_ELSEWHERE = re.compile(r"[/\\]|[A-Za-z]:")

Fetch = Callable[[int, int], bytes]
"""(first byte, byte behind the last) → those bytes, all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A file in an archive: where it is, and what the directory says of it."""

    name: str
    """POSIX path inside the archive."""

    offset: int
    """First byte of its local header."""

    room: int
    """Bytes from there to the next member, or to the directory."""

    packed_bytes: int
    size: int
    """Bytes unpacked, as claimed."""

    method: int
    """0 stored, 8 deflate."""

    crc: int


def read_directory(fetch: Fetch, size: int, archive: str) -> list[Member]:
    """The files of an archive of ``size`` bytes, in no order; folders are left out.

    Raises
    ------
    CatalogError
        It is no zip archive, is cut off, or contradicts itself.
    """
    source = _Source(fetch, size, archive)
    try:
        with zipfile.ZipFile(source) as found:
            infos, end = found.infolist(), found.start_dir
        _check_count(source, infos, archive)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, LookupError, EOFError, OverflowError, struct.error) as e:
        if isinstance(e, CatalogError):
            raise
        reason = str(e) or type(e).__name__
        raise CatalogError(
            f"{archive} ({size} bytes) cannot be read as a zip archive: {reason}. It is cut off, damaged or no zip; compare its "
            "size and checksum with the publisher's, and download it again."
        ) from e
    rooms = _rooms(infos, end, archive)
    seen = set[str]()
    members = []
    for info in infos:
        _check_claims(info, archive)
        if info.orig_filename in seen:
            _refuse(archive, info, "is in it twice")
        seen.add(info.orig_filename)
        if not info.orig_filename.endswith("/"):
            members.append(_member(info, rooms[id(info)]))
    return members


def read_member(fetch: Fetch, member: Member, archive: str) -> bytes:
    """The bytes of a member, unpacked and checked; usually with one call of ``fetch``.

    Raises
    ------
    AssetReadError
        Its headers disagree, or it is packed by an unknown method, too big, cut off, or not what its checksum says.
    """
    href = f"zip://{member.name}::{archive}"
    if member.method not in (STORED, DEFLATED):
        raise AssetReadError(href, "", "", f"it is packed by method {member.method}; stored (0) and deflate (8) are understood")
    if max(member.size, member.packed_bytes) > MOST_MEMBER_BYTES:
        raise AssetReadError(href, "", "", f"it claims {member.size} bytes, and at most {MOST_MEMBER_BYTES} are unpacked")
    try:
        body = _unpacked(_packed(fetch, member), member)
    except (_DamageError, zlib.error) as e:
        raise AssetReadError(href, "", "", f"{e}; the archive is damaged, or was made to deceive") from e
    return body


class _DamageError(ValueError):
    """What is wrong with a member."""


class _Source:
    """An archive as the standard library reads it, a seekable file; its end is fetched once."""

    def __init__(self, fetch: Fetch, size: int, archive: str):
        self._fetch, self._size, self._archive, self._at = fetch, size, archive, 0
        self._tail_start = max(0, size - _TAIL_BYTES)
        self.tail = fetch(self._tail_start, size) if size else b""

    def seekable(self) -> bool:
        """It can."""
        return True

    def tell(self) -> int:
        """Where the next byte is read."""
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        """As of a file; OSError before its start, which the library takes for a file that is too short."""
        at = offset + (0, self._at, self._size)[whence]
        if at < 0:
            raise OSError(22, "before the start")
        self._at = at
        return at

    def read(self, n: int = -1) -> bytes:
        """As of a file; CatalogError for more than a directory may have."""
        start, stop = self._at, self._size if n < 0 else min(self._size, self._at + n)
        if stop - start > MOST_DIRECTORY_BYTES:
            raise CatalogError(
                f"{self._archive} says that its directory has {stop - start} bytes; at most {MOST_DIRECTORY_BYTES} are read. It "
                "is damaged or was made to deceive."
            )
        self._at = max(start, stop)
        if start >= self._tail_start:
            return self.tail[start - self._tail_start : max(start, stop) - self._tail_start]
        pieces = range(start, stop, _PIECE_BYTES)
        return b"".join(self._fetch(at, min(stop, at + _PIECE_BYTES)) for at in pieces)


def _check_count(source: _Source, infos: list[zipfile.ZipInfo], archive: str) -> None:
    """The library stops where the directory ends, and asks nobody whether all entries were there."""
    at = source.tail.rfind(b"PK\5\6")
    claimed, of_zip64 = struct.unpack_from("<H", source.tail, at + 10)[0], source.tail.rfind(b"PK\6\6", 0, at)
    if claimed == 0xFFFF and of_zip64 >= 0:
        claimed = struct.unpack_from("<Q", source.tail, of_zip64 + 32)[0]
    if claimed not in (len(infos), len(infos) % 0x10000):
        raise CatalogError(
            f"{archive} says that it has {claimed} members, and its directory lists {len(infos)}. It is damaged or was made to "
            "deceive; download it again."
        )


def _rooms(infos: list[zipfile.ZipInfo], end: int, archive: str) -> dict[int, int]:
    """Entry → bytes up to the next one. The name and extra field before a member's data may be longer than is known here."""
    ordered = sorted(infos, key=lambda info: info.header_offset)
    rooms = {}
    starts = [*(info.header_offset for info in ordered), end]
    for info, (start, stop) in zip(ordered, pairwise(starts), strict=True):
        needed = _HEADER_BYTES + len(info.filename) + info.compress_size
        if start < 0 or start + needed > stop:
            _refuse(archive, info, f"needs {needed} bytes from byte {start} on, and what comes behind it begins at byte {stop}")
        rooms[id(info)] = stop - start
    return rooms


def _check_claims(info: zipfile.ZipInfo, archive: str) -> None:
    """What the directory says of a member must be possible and harmless."""
    name, kind = info.orig_filename, stat.S_IFMT(info.external_attr >> 16)
    if reason := _name_reason(name):
        _refuse(archive, info, reason)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        _refuse(archive, info, "is a link or a device, not a file")
    if info.flag_bits & _ENCRYPTED:
        _refuse(archive, info, "is encrypted")
    if info.compress_type == STORED and info.file_size != info.compress_size:
        _refuse(archive, info, f"is not packed, has {info.compress_size} bytes and claims {info.file_size}")
    if info.compress_type == DEFLATED and info.file_size > _MOST_TIMES_SMALLER * info.compress_size:
        _refuse(archive, info, f"has {info.compress_size} packed bytes, which cannot hold the {info.file_size} that it claims")


def _name_reason(name: str) -> str | None:
    """What is wrong with a member's name, if anything."""
    parts = name.removesuffix("/").split("/")
    if _ELSEWHERE.match(name):
        return "has a name that begins outside the archive"
    if "\\" in name or "::" in name or not name.isprintable():
        return "has a name with backslashes, '::' or characters that cannot be shown"
    if {"", ".", ".."} & set(parts):
        return "has a name with empty parts, '.' or '..'"
    return None


def _refuse(archive: str, info: zipfile.ZipInfo, reason: str) -> NoReturn:
    raise CatalogError(
        f"Zip archive {archive}: member {info.orig_filename[:200]!r} {reason}. The archive is damaged or was made to deceive: "
        "nothing of it is read. Compare its checksum with the publisher's."
    )


def _member(info: zipfile.ZipInfo, room: int) -> Member:
    return Member(
        name=info.orig_filename,
        offset=info.header_offset,
        room=room,
        packed_bytes=info.compress_size,
        size=info.file_size,
        method=info.compress_type,
        crc=info.CRC,
    )


# ---------------------------------------------------------------------------------------------------------- one member


def _packed(fetch: Fetch, member: Member) -> bytes:
    """The packed bytes, fetched with the local header before them, which must say what the directory says."""
    expected = _HEADER_BYTES + len(member.name.encode()) + _EXTRA_BYTES + member.packed_bytes
    found = fetch(member.offset, member.offset + min(member.room, expected))
    fields = struct.unpack_from(_HEADER, found)
    start = _HEADER_BYTES + fields[9] + fields[10]
    stop = start + member.packed_bytes
    if fields[0] != b"PK\3\4":
        raise _DamageError("no member begins where the directory says")
    if stop > member.room:
        raise _DamageError(f"its header and data have {stop} bytes, and the next member begins after {member.room}")
    if stop > len(found):
        found += fetch(member.offset + len(found), member.offset + stop)
    _check_header(fields, found[_HEADER_BYTES : _HEADER_BYTES + fields[9]], member)
    return found[start:stop]


def _check_header(fields: tuple[Any, ...], name: bytes, member: Member) -> None:
    _, _, flags, method, _, _, crc, packed_bytes, size, _, _ = fields
    if flags & _ENCRYPTED:
        raise _DamageError("it is encrypted, which the directory does not say")
    called = name.decode("utf-8" if flags & _UTF8 else "cp437", errors="replace")
    if (called, method) != (member.name, member.method):
        raise _DamageError(f"its header calls it {called!r}, packed by method {method}, other than the directory")
    sizes_agree = packed_bytes in (member.packed_bytes, _IN_ZIP64) and size in (member.size, _IN_ZIP64)
    if not flags & _SIZES_FOLLOW and not (crc == member.crc and sizes_agree):
        raise _DamageError("its header says other sizes or another checksum than the directory")


def _unpacked(packed: bytes, member: Member) -> bytes:
    """The bytes of a member; never more than a byte over the claimed size is made, to see that there is no more."""
    body = packed if member.method == STORED else _inflated(packed, member.size)
    if zlib.crc32(body) != member.crc:
        raise _DamageError(f"its {len(body)} bytes do not have the checksum that the directory says")
    return body


def _inflated(packed: bytes, size: int) -> bytes:
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    body = inflate.decompress(packed, size + 1)
    if len(body) != size or not inflate.eof or inflate.unused_data:
        more = "more" if len(body) > size else "not as many, or has bytes left behind them"
        raise _DamageError(f"it claims {size} bytes and gives {more}")
    return body
