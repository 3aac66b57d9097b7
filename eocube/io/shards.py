"""Zarr v3 shards made by hand: chunks are encoded as they come and joined in zarr-python's order.

Whole-array writes through zarr-python would hold a whole decoded shard and encode it twice over; this keeps encoded chunks only,
and of them only so many in memory. zarr-python stays the byte-exact twin (tests/parity).
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from eocube.errors import DamagedStoreError
from eocube.io.blobs import Blobs
from eocube.io.scratch import Scratch
from eocube.model.frame import Variable
from eocube.model.spec import CODEC

_ABSENT = 2**64 - 1
_CHECKSUM_BYTES = 4
HELD_BYTES = 4 * 1024 * 1024
"""Most bytes of encoded chunks that a task holds until their shards are put; the rest waits in a nameless file."""

ChunkIndex = tuple[int, ...]


def chunk_codecs(variable_dtype: str, chunk_shape: tuple[int, ...]) -> list[dict[str, Any]]:
    """What a chunk goes through behind the ``bytes`` codec, in Zarr's words: Blosc with one block a chunk, and a checksum.

    zarr-python takes the list as ``compressors=``.
    """
    itemsize = np.dtype(variable_dtype).itemsize
    config = {
        "typesize": itemsize,
        "cname": CODEC["cname"],
        "clevel": CODEC["clevel"],
        "shuffle": CODEC["shuffle"],
        "blocksize": int(np.prod(chunk_shape)) * itemsize,
    }
    return [{"name": CODEC["name"], "configuration": config}, {"name": CODEC["checksum"]}]


def encode_chunk(values: npt.NDArray[Any], chunk_shape: tuple[int, ...], variable: Variable) -> bytes | None:
    """One inner chunk as bytes; None where every pixel is fill. An edge chunk (smaller) is padded with fill.

    Single-threaded Blosc: with several threads the same chunk gave different bytes from run to run.
    """
    from numcodecs import blosc

    fill = variable.fill
    if is_all_fill(values, fill):
        return None
    if values.shape != chunk_shape:
        padded = np.full(chunk_shape, fill, variable.dtype)
        padded[tuple(slice(0, n) for n in values.shape)] = values
        values = padded
    contiguous = np.ascontiguousarray(values, variable.dtype)
    blosc.use_threads = False
    body: bytes = blosc.compress(contiguous, b"zstd", int(str(CODEC["clevel"])), blosc.BITSHUFFLE, contiguous.nbytes)
    return body + _checksum(body)


def _checksum(body: bytes | memoryview) -> bytes:
    """CRC-32C as Zarr's ``crc32c`` codec puts it behind the bytes."""
    import google_crc32c

    return struct.pack("<I", google_crc32c.value(body))


def is_all_fill(values: npt.NDArray[Any], fill: float) -> bool:
    """Whether an absent chunk would read the same, bit for bit: minus zero is not zero."""
    if fill != fill:
        return bool(np.isnan(values).all())
    if values.flat[0] != fill or np.any(values != fill):
        return False
    return values.dtype.kind != "f" or fill != 0 or not np.signbit(values).any()


def assemble_shard(chunks: Mapping[ChunkIndex, bytes], chunks_per_shard: tuple[int, ...]) -> bytes | None:
    """Join encoded chunks (index inside the shard → bytes) to a shard with its index and CRC-32C at the end; None if empty."""
    if not chunks:
        return None
    order, tail = shard_order({at: len(body) for at, body in chunks.items()}, chunks_per_shard)
    return b"".join([*(chunks[at] for at in order), tail])


def shard_order(sizes: Mapping[ChunkIndex, int], chunks_per_shard: tuple[int, ...]) -> tuple[Sequence[ChunkIndex], bytes]:
    """In which order chunks of ``sizes`` bytes follow each other in a shard, and what comes behind them: index and CRC-32C."""
    index = np.full((*chunks_per_shard, 2), _ABSENT, "<u8")
    order, offset = [], 0
    for at in morton_order(chunks_per_shard):
        size = sizes.get(at)
        if size is not None:
            index[at] = offset, size
            order.append(at)
            offset += size
    tail = index.tobytes()
    return order, tail + _checksum(tail)


class Kept(NamedTuple):
    """An encoded chunk on a shelf."""

    n_bytes: int
    body: bytes | None
    """None: in the scratch file."""

    offset: int


class Shelf:
    """Encoded chunks until they are put: the first ``HELD_BYTES`` in memory, the rest in a nameless file (:class:`Scratch`)."""

    def __init__(self, blobs: Blobs, *, most_bytes: int = HELD_BYTES):
        self._blobs, self._most_bytes = blobs, most_bytes
        self._held_bytes = 0
        self._scratch: Scratch | None = None

    def keep(self, body: bytes) -> Kept:
        """Lay a chunk by."""
        if self._held_bytes + len(body) <= self._most_bytes:
            self._held_bytes += len(body)
            return Kept(len(body), body, 0)
        self._scratch = self._scratch or self._blobs.scratch()
        return Kept(len(body), None, self._scratch.append(body))

    def body(self, kept: Kept) -> bytes:
        """What was laid by."""
        if kept.body is not None:
            return kept.body
        assert self._scratch is not None  # noqa: S101 - keep() put it there
        return self._scratch.read(kept.offset, kept.n_bytes)

    def close(self) -> None:
        """Let go of the scratch file."""
        if self._scratch is not None:
            self._scratch.close()


def split_shard(body: bytes, chunks_per_shard: tuple[int, ...]) -> dict[ChunkIndex, bytes]:
    """The encoded chunks of a shard; DamagedStoreError where the index or its checksum is wrong."""
    n = int(np.prod(chunks_per_shard)) * 16
    tail = body[-n - 4 : -4]
    if len(tail) != n or _checksum(tail) != body[-4:]:
        raise DamagedStoreError(f"The shard index ({n} bytes at the end of {len(body)}) does not match its checksum.")
    index = np.frombuffer(tail, "<u8").reshape(*chunks_per_shard, 2)
    found: dict[ChunkIndex, bytes] = {}
    for at in np.ndindex(*chunks_per_shard):
        start, size = (int(v) for v in index[at])
        if start != _ABSENT:
            if start + size > len(body) - n - 4:
                raise DamagedStoreError(f"Chunk {at} lies outside its shard (bytes {start}:{start + size} of {len(body)}).")
            found[at] = body[start : start + size]
    return found


def decode_chunk(body: bytes, chunk_shape: tuple[int, ...], dtype: str) -> npt.NDArray[Any]:
    """The inverse of :func:`encode_chunk` (still padded).

    DamagedStoreError where its checksum is wrong, or it does not decode to that size.
    """
    from numcodecs import blosc

    blosc.use_threads = False
    if _checksum(body[:-_CHECKSUM_BYTES]) != body[-_CHECKSUM_BYTES:]:
        raise DamagedStoreError(f"A chunk of {len(body)} bytes does not match its checksum.")
    try:
        raw = blosc.decompress(body[:-_CHECKSUM_BYTES])
        return np.frombuffer(raw, dtype).reshape(chunk_shape)
    except (RuntimeError, ValueError) as e:
        raise DamagedStoreError(f"A chunk of {len(body)} bytes does not decode to {chunk_shape} {dtype}: {e}.") from e


@lru_cache(maxsize=64)
def morton_order(shape: tuple[int, ...]) -> tuple[ChunkIndex, ...]:
    """Indices of a grid along the compressed Morton curve (dimensions run out of bits one by one): zarr-python's order."""
    bits = [(n - 1).bit_length() for n in shape]

    def code(at: ChunkIndex) -> int:
        out = shift = 0
        for bit in range(max(bits, default=0)):
            for i, n_bits in zip(at, bits, strict=True):
                if bit < n_bits:
                    out |= (i >> bit & 1) << shift
                    shift += 1
        return out

    return tuple(sorted(itertools.product(*map(range, shape)), key=code))
