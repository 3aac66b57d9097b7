"""Zip archives built by hand, so that they can lie."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

from eocube.io.archives import Fetch


@dataclass(frozen=True)
class Entry:
    """A member as its two headers describe it; what is None is told as it is."""

    name: bytes
    body: bytes = b""
    method: int = 8
    flags: int = 0
    mode: int = 0o100644
    size: int | None = None
    packed_bytes: int | None = None
    crc: int | None = None
    offset: int | None = None
    extra: bytes = b""
    local_name: bytes | None = None
    local_flags: int | None = None
    local_method: int | None = None
    local_crc: int | None = None
    data: bytes | None = None
    """Packed bytes, where they are not those of ``body``."""

    def packed(self) -> bytes:
        """The bytes behind the local header."""
        if self.data is not None:
            return self.data
        return deflated(self.body) if self.method == 8 else self.body

    def sizes(self) -> tuple[int, int, int]:
        """CRC, packed and unpacked bytes as claimed."""
        crc = zlib.crc32(self.body) if self.crc is None else self.crc
        packed = len(self.packed()) if self.packed_bytes is None else self.packed_bytes
        return crc, packed, len(self.body) if self.size is None else self.size

    def local(self) -> bytes:
        """Local header and data."""
        name = self.name if self.local_name is None else self.local_name
        flags = self.flags if self.local_flags is None else self.local_flags
        method = self.method if self.local_method is None else self.local_method
        crc, packed, size = self.sizes()
        crc = crc if self.local_crc is None else self.local_crc
        head = struct.pack("<4s5H3I2H", b"PK\3\4", 20, flags, method, 0, 33, crc, packed, size, len(name), len(self.extra))
        return head + name + self.extra + self.packed()

    def central(self, offset: int) -> bytes:
        """Entry of the directory."""
        crc, packed, size = self.sizes()
        fields = (0x0314, 20, self.flags, self.method, 0, 33, crc, packed, size, len(self.name), 0, 0, 0, 0, self.mode << 16)
        at = offset if self.offset is None else self.offset
        return struct.pack("<4s6H3I5HII", b"PK\1\2", *fields, at) + self.name


def deflated(body: bytes) -> bytes:
    """A raw DEFLATE stream."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(body) + packer.flush()


def build(*entries: Entry, count: int | None = None) -> bytes:
    """An archive of them, one behind the other."""
    body, directory = b"", b""
    for entry in entries:
        directory += entry.central(len(body))
        body += entry.local()
    n = len(entries) if count is None else count
    return body + directory + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, n, n, len(directory), len(body), 0)


def fifield(n: int = 50, size: int = 100_000) -> bytes:
    """Members that all end with the same packed bytes: each local header is quoted by a stored block of the one before."""
    kernel = deflated(b"\0" * size)
    names = [b"%04d" % i for i in range(n)]
    template = Entry(names[-1], b"\0" * size, data=kernel)
    parts, tail, bodies = [template], template.local(), [b"\0" * size]
    for name in reversed(names[:-1]):
        quoted = tail[: 30 + 4]
        data = struct.pack("<BHH", 0, len(quoted), 0xFFFF ^ len(quoted)) + tail
        whole = quoted + bodies[0]
        entry = Entry(name, whole, data=data)
        parts.insert(0, entry)
        bodies.insert(0, whole)
        tail = entry.local()
    at, directory = 0, b""
    for entry in parts:
        directory += entry.central(at)
        at += 30 + 4 + 5
    return tail + directory + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, n, n, len(directory), len(tail), 0)


def fetching(archive: bytes, log: list[tuple[int, int]] | None = None) -> Fetch:
    """Bytes of an archive in memory; every call is put down in ``log``."""

    def fetch(start: int, stop: int) -> bytes:
        assert 0 <= start <= stop <= len(archive)
        if log is not None:
            log.append((start, stop))
        return archive[start:stop]

    return fetch


def write(path: Path, *entries: Entry) -> Path:
    """The same as a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(build(*entries))
    return path
