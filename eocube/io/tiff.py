"""How TIFF files are built, read strictly: directories, images, where their blocks lie, and what contradicts itself in that.

GDAL reads on where a file contradicts itself; here that is damage. What is looked at:

=============================================================  ==================================================================
what a writer must do                                          source
=============================================================  ==================================================================
entries of a directory ascend; each has a known type           TIFF Revision 6.0, section 2
public tags have the type and count that is theirs             the same, sections 2 to 22
an index lists every block of its image, inside the file       the same, sections 3 and 15
no two blocks and no directory share bytes                     follows from writing them; writers that keep equal blocks once
                                                               leave no bytes without an owner, damage does
a block that is not in the index was not written               GDAL, GTiff driver, SPARSE_OK: then its bytes are nowhere
a COG's blocks are framed and lie row by row, small images     GDAL, COG driver, "Header ghost area"
first, masks beside their images, all of them with one block
overviews are coded as their image                             GDAL, GTiff and COG drivers, where their compression is equal
=============================================================  ==================================================================

What no reader can know is in docs/operations.md, "Damaged files".
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np

NONE, DEFLATE, ZSTD = 1, (8, 32946), (50000, 34926)
"""TIFF's numbers of the codings that are decoded here."""

LZW = 5
"""Left to GDAL: imagecodecs follows a code of a table that it has not filled, into memory that is not the block's."""

DIFFERENCED = 2
"""Predictor of whole numbers."""

_LZW_BEGINS = b"\x80"
"""First eight bits of the code that empties its table, which each block begins with."""

LEADER_BYTES = 4
"""Before a framed block its size, and behind it once more its last bytes."""

REDUCED, MASK = 1, 4
_MOST_IMAGES = 1024
_MOST_BLOCK_BYTES = 64 * 1024 * 1024
_HEAD_BYTES = 16 * 1024
_PADDING_BYTES = 64
_GHOST = b"GDAL_STRUCTURAL_METADATA_SIZE="
_GHOST_SAYS = (b"BLOCK_LEADER=SIZE_AS_UINT4", b"BLOCK_TRAILER=LAST_4_BYTES_REPEATED", b"KNOWN_INCOMPATIBLE_EDITION=NO")

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8, 129: 1}
"""Type of an entry → bytes of a value."""

_COUNTING = {3: "H", 4: "I", 16: "Q"}
"""Types of the entries that are read here."""

_TEXT = frozenset((269, 270, 271, 272, 285, 305, 306, 315, 316, 333, 337))
_RATIO = frozenset((282, 283, 286, 287, 318, 319, 529, 532))
_ONE = frozenset(
    (254, 255, 256, 257, 259, 262, 263, 264, 265, 266, 274, 277, 278, 284, 290, 292, 293, 296, 300, 317, 322, 323, 332)
)
_MORE = frozenset((297, 301, 320, 321, 336))
_ANY = frozenset((
    258, 273, 279, 280, 281, 288, 289, 291, 324, 325, 326, 327, 328, 330, 334, 338, 339, 340, 341, 342, 343, 344,
    345, 346, 347, 351, 400, 401, 402, 403, 404, 405, 433, 434, 435, 437, 512, 513, 514, 515, 517, 518, 519, 520,
    521, 530, 531, 559, 700, 769, 770, 771, 800, 907, 999, 18246, 18247, 18248, 18249,
))  # fmt: skip
_FIRST_PRIVATE = 32768
_FORMS = {1: "u", 2: "i", 3: "f", 4: "u", 5: "V", 6: "V"}
"""SampleFormat → NumPy's kind."""

_ALL_KINDS = 7
_NODATA = 42113


Source = int | bytes
"""A file: a descriptor that is open for reading, or all its bytes."""

Tags = dict[int, tuple[int, bytes]]
"""Tag → type, and values as they stand in the file."""


class TiffDamageError(ValueError):
    """A file that contradicts itself or lacks bytes. Its text is a reason, for :class:`eocube.errors.AssetReadError`."""


class TiffImage(NamedTuple):
    """One image of a file: where its blocks lie, and how they are coded. A strip is a block as wide as the image."""

    kind: int
    """Bits: 1 an overview, 4 a mask."""

    shape_yx: tuple[int, int]
    block_yx: tuple[int, int]
    striped: bool
    """The last strip ends with the image; tiles are always whole."""

    samples: int
    """Numbers a pixel that lie together in a block."""

    planes: int
    """How many times the blocks are repeated, one sample a pixel each."""

    bits: int
    dtype: str
    """NumPy's, or empty where it has none."""

    compression: int
    predictor: int
    offsets: tuple[int, ...]
    """First byte of each block, plane by plane and row by row; 0 with count 0: a block without data that was not written."""

    counts: tuple[int, ...]
    framed: bool
    """Whether four bytes before a block repeat its size and four behind it its end, as GDAL's COG driver writes them."""

    marked: bool
    """Whether a tag names a value for pixels without data."""

    plain: bool
    """Whether a block is a rectangle of numbers in a coding that is decoded here."""

    @property
    def grid_yx(self) -> tuple[int, int]:
        """Blocks along y and x."""
        return -(-self.shape_yx[0] // self.block_yx[0]), -(-self.shape_yx[1] // self.block_yx[1])

    def block_rows(self, i: int) -> int:
        """Rows that block ``i`` holds."""
        ny, nx = self.grid_yx
        row = i % (ny * nx) // nx
        return min(self.block_yx[0], self.shape_yx[0] - row * self.block_yx[0]) if self.striped else self.block_yx[0]

    def block_bytes(self, i: int) -> int:
        """Bytes of block ``i`` when decoded."""
        return self.block_rows(i) * -(-self.block_yx[1] * self.samples * self.bits // 8)


def pread(source: Source, n: int, at: int) -> bytes:
    """``n`` bytes from byte ``at`` on, fewer where the file ends before."""
    return source[at : at + n] if isinstance(source, bytes) else os.pread(source, n, at)


def read_images(source: Source) -> list[TiffImage]:
    """The images of a TIFF, the full-resolution one first; none where the file is no TIFF.

    Raises
    ------
    TiffDamageError
        The structure contradicts itself or the size of the file.
    """
    return _images(_File(source))[0]


def read_structure(source: Source) -> tuple[list[TiffImage], Tags]:
    """The images of a TIFF, as :func:`read_images` has them, and the tags of its first directory; none where it is no TIFF."""
    file = _File(source)
    images, directories = _images(file)
    entries = directories[0].entries if directories else {}
    return images, {code: (entry.kind, file.take(entry.at, _SIZES[entry.kind] * entry.n)) for code, entry in entries.items()}


def _images(file: _File) -> tuple[list[TiffImage], list[_Directory]]:
    directories = list(_directories(file))
    if not directories:
        return [], []
    framed = _is_framed(file.take(0, min(512, file.size)))
    images = [image for d in directories if (image := _image(file, d, framed=framed)) is not None]
    for image in images:
        _check_bytes(image, file.size)
    if images:
        owned = [(0, file.header_bytes), *(extent for d in directories for extent in d.extents)]
        _check_owners(images, owned, file.size)
        _check_overviews(images)
        if framed:
            _check_order(file.source, images, file.size)
        _check_lost(file.source, images, owned, file.size)
    return images, directories


# ---------------------------------------------------------------------------------------------------------- directories


class _Entry(NamedTuple):
    kind: int
    n: int
    at: int
    """Where its values are."""


class _Directory(NamedTuple):
    entries: dict[int, _Entry]
    extents: list[tuple[int, int]]
    """(first byte, byte behind the last) of itself and of values that lie elsewhere."""


class _File:
    """Bytes of an open file, asked for by place; its first few thousand are fetched at once."""

    def __init__(self, source: Source):
        self.source, self.size = source, len(source) if isinstance(source, bytes) else os.fstat(source).st_size
        self._head = pread(source, _HEAD_BYTES, 0)
        self.order = {b"II": "<", b"MM": ">"}.get(self._head[:2], "")
        version = struct.unpack(f"{self.order}H", self._head[2:4])[0] if self.order and len(self._head) >= 8 else 0
        self.is_tiff, self.big = version in (42, 43), version == 43
        self.header_bytes = 16 if self.big else 8

    def take(self, at: int, n: int) -> bytes:
        """Exactly ``n`` bytes."""
        if at + n > self.size:
            raise TiffDamageError(f"its structure names bytes {at} to {at + n} of a file of {self.size}")
        return self._head[at : at + n] if at + n <= len(self._head) else pread(self.source, n, at)

    def number(self, at: int, kind: str) -> int:
        """One whole number."""
        return int(struct.unpack(f"{self.order}{kind}", self.take(at, struct.calcsize(f"{self.order}{kind}")))[0])


def _directories(file: _File) -> Iterator[_Directory]:
    """Every directory of the chain; none where the file is no TIFF."""
    if not file.is_tiff:
        return
    at, seen = file.number(8, "Q") if file.big else file.number(4, "I"), set[int]()
    while at or not seen:
        if at in seen or len(seen) >= _MOST_IMAGES:
            raise TiffDamageError(f"its directories go in a circle, or on for more than {_MOST_IMAGES}")
        if at < file.header_bytes:
            raise TiffDamageError(f"a directory is said to be at byte {at}")
        seen.add(at)
        directory, at = _directory(file, at)
        yield directory


def _directory(file: _File, at: int) -> tuple[_Directory, int]:
    """A directory and where the next one is."""
    n = file.number(at, "Q" if file.big else "H")
    first, step, slot = (at + 8, 20, 8) if file.big else (at + 2, 12, 4)
    body = file.take(first, min(n * step, file.size))
    entries, extents = {}, [(at, first + n * step + slot)]
    last = 0
    for i, (code, kind, count) in enumerate(struct.iter_unpack(f"{file.order}HH{'Q' if file.big else 'I'}{slot}x", body)):
        if code < last or (code == last and code not in _TEXT):  # tifffile writes two descriptions
            raise TiffDamageError(f"the directory at byte {at} has tag {code} behind tag {last}, where tags must ascend")
        _check_entry(code, kind, count)
        length, place = _SIZES[kind] * count, first + i * step + step - slot
        if length > slot:
            place = file.number(place, "Q" if file.big else "I")
            extents.append((place, place + length))
            if place + length > file.size or place < file.header_bytes:
                raise TiffDamageError(f"tag {code} has {length} bytes at byte {place} of a file of {file.size}")
        entries[code], last = _Entry(kind, count, place), code
    return _Directory(entries, extents), file.number(first + n * step, "Q" if file.big else "I")


def _check_entry(code: int, kind: int, count: int) -> None:
    """Whether a public tag is one, and of its type and count: one damaged byte makes a tag that means nothing of another."""
    fits = kind in _SIZES and (
        code >= _FIRST_PRIVATE
        or (code in _TEXT and kind in (1, 2, 7, 129))
        or (code in _RATIO and kind in (5, 10, 11, 12))
        or (code in _ONE and kind in _COUNTING and count == 1)
        or (code in _MORE and kind in _COUNTING and count > 1)
        or code in _ANY
    )
    if not fits:
        raise TiffDamageError(
            f"it has a tag {code} of type {kind} with {count} values, which TIFF does not know; if other "
            "programs read the file rightly, copy it once with gdal_translate"
        )


def _values(file: _File, directory: _Directory, code: int, default: int) -> tuple[int, ...]:
    """Whole numbers of a tag."""
    entry = directory.entries.get(code)
    if entry is None:
        return (default,)
    if entry.kind not in _COUNTING or not entry.n:
        raise TiffDamageError(f"tag {code} has {entry.n} values of type {entry.kind}, and should be whole numbers")
    return struct.unpack(f"{file.order}{entry.n}{_COUNTING[entry.kind]}", file.take(entry.at, _SIZES[entry.kind] * entry.n))


# ---------------------------------------------------------------------------------------------------------- images


def _image(file: _File, directory: _Directory, *, framed: bool) -> TiffImage | None:
    """The image of a directory; None where it lists no blocks."""
    tags = directory.entries
    tiled = 324 in tags or 322 in tags
    if not {256, 257, *((322, 323, 324, 325) if tiled else (273, 279))} <= set(tags):
        return None

    one = partial(_one, file, directory)
    _check_form(tags, one, 322 if tiled else 278)
    shape_yx = one(257, 0), one(256, 0)
    samples, apart, bits = one(277, 1), one(284, 1) == 2, one(258, 1)
    dtype = f"{_FORMS[one(339, 1)]}{bits // 8}"
    image = TiffImage(
        kind=one(254, 0),
        shape_yx=shape_yx,
        block_yx=(one(323, 0), one(322, 0)) if tiled else (min(one(278, shape_yx[0]), shape_yx[0]), shape_yx[1]),
        striped=not tiled,
        samples=1 if apart else samples,
        planes=samples if apart else 1,
        bits=bits,
        dtype=str(np.dtype(dtype)) if dtype in _NUMBERS and bits % 8 == 0 else "",
        compression=one(259, 1),
        predictor=one(317, 1),
        offsets=_values(file, directory, 324 if tiled else 273, 0),
        counts=_values(file, directory, 325 if tiled else 279, 0),
        framed=framed,
        marked=_NODATA in tags,
        plain=False,
    )
    if one(32997, 1) * one(32998, 1) > 1:
        return image
    _check_length(image)
    return image._replace(plain=_is_plain(image) and file.order == "<")


def _one(file: _File, directory: _Directory, code: int, default: int) -> int:
    """The number of a tag, which must be one for all bands."""
    first, *others = _values(file, directory, code, default)
    if any(other != first for other in others):
        raise TiffDamageError(f"tag {code} differs between bands: {sorted({first, *others})}")
    return first


def _check_form(tags: dict[int, _Entry], one: Callable[[int, int], int], block: int) -> None:
    """An image must be described by numbers that TIFF knows; ``block`` is the tag of a block's size along one axis."""
    bits = one(258, 1)
    if not (
        all((one(256, 0), one(257, 0), one(277, 1), bits, one(32997, 1), one(32998, 1), one(block, 1), one(323, 1)))
        and one(254, 0) <= _ALL_KINDS
        and one(266, 1) in (1, 2 if bits == 1 else 1)
        and one(284, 1) in (1, 2)
        and one(339, 1) in _FORMS
        and one(317, 1) in (1, DIFFERENCED, 3)
        and all(tags[code].n == one(277, 1) for code in (258, 339) if code in tags)
    ):
        shown = (254, 256, 257, 258, 266, 277, 284, 317, 322, 323, 339, 278)
        said = ", ".join(f"{code}: {one(code, 0)}" for code in shown if code in tags)
        raise TiffDamageError(f"its tags do not describe an image that TIFF knows ({said})")


def _check_length(image: TiffImage) -> None:
    """The index must list as many blocks as the image has."""
    n_blocks = image.grid_yx[0] * image.grid_yx[1] * image.planes
    if not len(image.offsets) == len(image.counts) == n_blocks:
        raise TiffDamageError(
            f"an image of {image.shape_yx} in blocks of {image.block_yx} has {n_blocks} blocks; its index lists "
            f"{len(image.offsets)} offsets and {len(image.counts)} sizes"
        )


_NUMBERS = frozenset(f"{kind}{size}" for kind in "uif" for size in (1, 2, 4, 8)) - {"f1"}


def _is_plain(image: TiffImage) -> bool:
    """Whether a block is a rectangle of plain numbers in a coding that is decoded here."""
    if not image.dtype:
        return False
    dtype = np.dtype(image.dtype)
    integer = dtype.kind in "iu" and dtype.itemsize <= 4
    return (
        image.samples == image.planes == 1
        and (integer or (dtype.kind == "f" and dtype.itemsize >= 4))
        and (image.predictor == 1 or (image.predictor == DIFFERENCED and integer))
        and image.compression in (NONE, *DEFLATE, *ZSTD)
        and image.block_bytes(0) <= _MOST_BLOCK_BYTES
    )


def _is_framed(head: bytes) -> bool:
    """Whether GDAL's COG driver wrote the file and nobody edited it since (the "ghost area" behind the TIFF header)."""
    ghost = head[8:] if head[8:].startswith(_GHOST) else head[16:]
    return ghost.startswith(_GHOST) and all(text in ghost for text in _GHOST_SAYS)


# ---------------------------------------------------------------------------------------------------------- contradictions


def _check_bytes(image: TiffImage, size: int) -> None:
    """Every block must lie inside the file and be somewhere."""
    whole = image.block_bytes(0)
    for i, (offset, count) in enumerate(zip(image.offsets, image.counts, strict=False)):
        if (offset == 0) != (count == 0):
            raise TiffDamageError(f"block {i} is said to be at byte {offset} with {count} bytes")
        if offset + count > size:
            raise TiffDamageError(f"block {i} ends at byte {offset + count} of a file of {size}: the file is cut off or damaged")
        if image.compression == NONE and image.plain and count not in (0, whole) and count != image.block_bytes(i):
            raise TiffDamageError(f"block {i} is not compressed and has {count} bytes instead of {image.block_bytes(i)}")


def _extents(images: Sequence[TiffImage]) -> list[tuple[int, int]]:
    """(first byte, byte behind the last) of every written block, frame included."""
    pad = LEADER_BYTES if images[0].framed else 0
    return [(o - pad, o + n + pad) for image in images for o, n in zip(image.offsets, image.counts, strict=False) if n]


def _check_owners(images: Sequence[TiffImage], owned: Sequence[tuple[int, int]], size: int) -> None:
    """No byte may be in two blocks, or in a block and in a directory."""
    blocks = _extents(images)
    once = set(blocks)
    places = sorted([*once, *_merged(owned)])
    gap = size - places[-1][1]
    for (low, high), (following, end) in pairwise(places):
        if following < high:
            raise TiffDamageError(
                f"bytes {low} to {high} and {following} to {end} belong to two blocks, or to a block and a directory: its "
                "index is damaged"
            )
        gap = max(gap, following - high)
    if len(once) < len(blocks) and gap > _PADDING_BYTES:
        raise TiffDamageError(
            f"its index lists one block more than once, and {gap} bytes of the file are in no index: its index is damaged"
        )


def _merged(extents: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same bytes as extents that do not overlap: directories may share values."""
    out: list[tuple[int, int]] = []
    for low, high in sorted(extents):
        if out and low <= out[-1][1]:
            out[-1] = out[-1][0], max(out[-1][1], high)
        else:
            out.append((low, high))
    return out


def _check_overviews(images: Sequence[TiffImage]) -> None:
    """Overviews are coded as the image, and masks as masks: one damaged byte of a header shows in the difference."""
    image = images[0]
    masks = [other for other in images[1:] if other.kind & MASK]
    overviews = [other for other in images[1:] if other.kind == REDUCED and other.compression == image.compression]
    names = ["dtype", "predictor", "samples", "planes", "bits", *(("block_yx",) if image.framed else ())]
    for one, others, name in (
        *((image, overviews, name) for name in names),
        *((mask, masks, name) for mask in masks[:1] for name in (*names, "compression")),
    ):
        for other in others:
            if getattr(one, name) != getattr(other, name):
                raise TiffDamageError(
                    f"its image and overviews disagree: {name} is {getattr(one, name)} here and {getattr(other, name)} there"
                )
    alone = sum(not other.kind & MASK for other in images) != len(masks) > 0
    kinds = ({MASK} if other.shape_yx == image.shape_yx else {REDUCED, REDUCED | MASK} for other in images[1:])
    if image.framed and (alone or not all(other.kind in known for other, known in zip(images[1:], kinds, strict=True))):
        raise TiffDamageError(f"a Cloud-Optimised GeoTIFF does not hold images of the kinds {[other.kind for other in images]}")


def _check_order(source: Source, images: Sequence[TiffImage], size: int) -> None:
    """A COG's blocks lie row by row, smallest image first, masks beside their images; none lies between two that are listed.

    A gap is no damage: a block written anew in its old place may be shorter. A gap of whole framed blocks is what the index lost.
    """
    blocks = [(o, n) for level in _levels(images) for o, n in level if n]
    ends = [offset + count + 2 * LEADER_BYTES for offset, count in blocks]
    for end, start in zip(ends, [*(offset for offset, _ in blocks[1:]), size + LEADER_BYTES], strict=bool(ends)):
        if start < end:
            raise TiffDamageError(
                f"a block starts at byte {start}, before the one ahead of it ends ({end}): its index is damaged"
            )
        if start > end and _holds_blocks(source, end, start):
            raise TiffDamageError(
                f"between bytes {end} and {start} lie blocks that its index does not list: its index is damaged"
            )


def _levels(images: Sequence[TiffImage]) -> Iterator[list[tuple[int, int]]]:
    """(offset, count) of the blocks of images of one size, the smallest size first: an image's block, then its mask's."""
    for shape in sorted({image.shape_yx for image in images}):
        level = sorted((one for one in images if one.shape_yx == shape), key=lambda one: one.kind & MASK)
        indexes = [list(zip(one.offsets, one.counts, strict=False)) for one in level]
        if len({len(index) for index in indexes}) == 1:
            yield [block for together in zip(*indexes, strict=True) for block in together]
        else:
            yield [block for index in indexes for block in index]


def _holds_blocks(source: Source, low: int, high: int) -> bool:
    """Whether framed blocks fill the bytes between two places where a block may start."""
    while low < high:
        leader = pread(source, LEADER_BYTES, low - LEADER_BYTES)
        count = struct.unpack("<I", leader)[0] if len(leader) == LEADER_BYTES else 0
        tail = pread(source, 2 * LEADER_BYTES, low + count - LEADER_BYTES)
        if count < LEADER_BYTES or len(tail) < 2 * LEADER_BYTES or tail[:LEADER_BYTES] != tail[LEADER_BYTES:]:
            return False
        low += count + 2 * LEADER_BYTES
    return low == high


def _check_lost(source: Source, images: Sequence[TiffImage], owned: Sequence[tuple[int, int]], size: int) -> None:
    """A block that is not in the index must not be in the file, where its neighbours leave room for it.

    Bytes without an owner are no damage in themselves: a directory or a block that grew was written anew at the end.
    """
    image = images[0]
    if 0 not in image.counts or image.compression not in (NONE, LZW, *DEFLATE, *ZSTD):
        return
    places = _merged([*owned, *_extents(images)])
    for (_, low), (high, _) in pairwise([*places, (size, size)]):
        if high - low > _PADDING_BYTES and _is_missing(image, low) and _holds_a_block(source, image, low, high):
            raise TiffDamageError(
                f"between bytes {low} and {high} lies a block that its index does not list: its index is damaged; if other "
                "pixels were written into the file on purpose, copy it once with gdal_translate"
            )


def _is_missing(image: TiffImage, at: int) -> bool:
    """Whether the blocks that lie at a place of the file, if all are written in order, are missing, every one of them.

    Where one of them was written elsewhere, the bytes may be what it left behind.
    """
    written = sorted((o, i) for i, (o, n) in enumerate(zip(image.offsets, image.counts, strict=True)) if n)
    before = [i for o, i in written if o < at]
    behind = [i for o, i in written if o >= at]
    between = image.counts[before[-1] + 1 if before else 0 : behind[0] if behind else None]
    return bool(between) and not any(between)


def _holds_a_block(source: Source, image: TiffImage, low: int, high: int) -> bool:
    """Whether the bytes hold a whole block in the image's coding; of LZW, whether they begin as each block does."""
    length = image.block_bytes(0)
    if image.compression == NONE:
        return high - low >= length
    found = pread(source, min(high - low, 2 * length + _HEAD_BYTES), low)
    if image.compression in ZSTD:
        return b"\x28\xb5\x2f\xfd" in found
    if image.compression == LZW:
        return _LZW_BEGINS in found[:2]
    return any(_inflated_length(found[at:], length) for at in _all(found, b"\x78"))


def _all(found: bytes, mark: bytes, most: int = 4096) -> Iterator[int]:
    """Where a mark stands."""
    at = found.find(mark)
    while at >= 0 and most:
        yield at
        at, most = found.find(mark, at + 1), most - 1


def _inflated_length(found: bytes, length: int) -> bool:
    """Whether a whole DEFLATE stream of ``length`` bytes starts here, by its checksum."""
    inflate = zlib.decompressobj()
    try:
        return len(inflate.decompress(found, length + 1)) == length and inflate.eof
    except zlib.error:
        return False
