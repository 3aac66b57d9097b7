"""Small GeoTIFFs that are in memory as a whole: pixels, grid and nodata from their bytes.

A corpus of small files is read fastest with one read a file; GDAL then takes longer to open a file than its pixels take. Plain
files (numbers in strips or tiles; uncompressed, LZW, DEFLATE or ZSTD; with or without horizontal differencing; bands side by side
or one behind the other; on a WGS 84 UTM grid, in degrees, or without a grid) are decoded here. Everything else is left to GDAL,
:func:`decode_plain`, which is also the plain twin: both must give the same.

Strict, as :mod:`eocube.io.geotiff`: a file that contradicts itself is damaged, whoever decodes it. What no reader can know (a
changed number in a block without a checksum) is in docs/operations.md, "Damaged files".
"""

from __future__ import annotations

import math
import re
import struct
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from affine import Affine

from eocube.errors import AssetReadError, MissingDependencyError
from eocube.io.geotiff import check_blocks, decode_block, is_shown, read_block
from eocube.io.rasters import GDAL_OPTIONS, can_hold
from eocube.io.tiff import DEFLATE, DIFFERENCED, LZW, NONE, ZSTD, Tags, TiffDamageError, TiffImage, read_structure
from eocube.kernels.arrays import AnyArray
from eocube.kernels.differencing import undo_differencing
from eocube.kernels.jit import compiled

MOST_PIXEL_BYTES = 256 * 1024 * 1024
"""A chip of more is refused before memory is taken for it: WorldStrat's biggest has 9 MB, a damaged header may say anything."""


_SCALE, _TIEPOINT, _MATRIX, _KEYS, _KEY_NUMBERS, _KEY_TEXTS = 33550, 33922, 34264, 34735, 34736, 34737
_NODATA = 42113
_KINDS = {_SCALE: 12, _TIEPOINT: 12, _KEYS: 3, _KEY_NUMBERS: 12, _KEY_TEXTS: 2, _NODATA: 2, 42112: 2}
"""Type that a tag must have where nothing but TIFF itself is known of the file."""

_KNOWN = frozenset(_KINDS) | frozenset((
    254, 256, 257, 258, 259, 262, 266, 269, 270, 271, 272, 273, 274, 277, 278, 279, 282, 283, 284, 296, 305, 306, 315, 317, 322,
    323, 324, 325, 338, 339,
))  # fmt: skip
"""Tags that are understood here; with any other the file is left to GDAL."""

_TEXT = re.compile(rb"(-?\d{1,15}|nan)[ \0]*")
"""A nodata tag that means the same to everybody."""

_WARNINGS = threading.Lock()
_DAMAGED = {
    1: "it ends before its end mark",
    2: "it gives more bytes than the block has",
    3: "it does not begin with an empty table",
    4: "it names a text that it has not had yet",
    5: "its table is full and it goes on",
}
_MOST_PADDING_BYTES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Chip:
    """One small raster file, decoded."""

    pixels: npt.NDArray[Any]
    """(band, y, x), in the file's dtype; C-contiguous."""

    transform: Affine | None
    """Of the pixels' edges, in ``crs``; None where the file says none (WorldStrat's high-resolution files)."""

    crs: str | None
    """``EPSG:…`` where the file's CRS is one, else its WKT; None where the file says none."""

    nodata: float | None
    """What marks pixels without data, in every band; None where the file says none."""

    @property
    def dtype(self) -> str:
        """NumPy's name."""
        return str(self.pixels.dtype)


def decode_chip(body: bytes, href: str) -> Chip:
    """Pixels, grid and nodata of a whole GeoTIFF.

    Parameters
    ----------
    body
        All bytes of the file.
    href
        Where they are from, for the error.

    Raises
    ------
    AssetReadError
        The bytes are no TIFF, contradict themselves, lack something or cannot be decoded exactly.

    Notes
    -----
    TIFF Revision 6.0; OGC GeoTIFF 1.1 (19-008r4), sections 7 and 8; GDAL's tag 42113 is documented with its GTiff driver.
    """
    try:
        images, tags = _structure(body)
        chip = _decode_fast(body, images[0], tags) if len(images) == 1 else None
    except TiffDamageError as e:
        raise AssetReadError(href, "", "", str(e)) from e
    return chip if chip is not None else decode_plain(body, href)


def decode_plain(body: bytes, href: str) -> Chip:
    """The same through GDAL, for every GeoTIFF that it reads. Other formats are refused: some of them name other files."""
    try:
        images, tags = _structure(body)
        for image in images:
            if is_shown(image, images[0]):
                _check_image(body, image)
        return _through_gdal(body, located=_MATRIX in tags or _transform(tags) is not None)
    except TiffDamageError as e:
        raise AssetReadError(href, "", "", str(e)) from e


def _structure(body: bytes) -> tuple[list[TiffImage], Tags]:
    """All images of a TIFF, the first of which is small, and its tags."""
    images, tags = read_structure(body)
    if not images:
        found = "it is empty (0 bytes)" if not body else f"its {len(body)} bytes begin with {body[:8]!r}"
        raise TiffDamageError(f"it is no TIFF: {found}")
    first = images[0]
    n_bytes = math.prod(first.shape_yx) * first.samples * first.planes * -(-first.bits // 8)
    if max(n_bytes, first.block_bytes(0) * first.planes) > MOST_PIXEL_BYTES:
        raise TiffDamageError(
            f"it says that it holds {n_bytes} bytes of pixels, in blocks of {first.block_bytes(0)}; a chip, which is read as a "
            f"whole, may have {MOST_PIXEL_BYTES}"
        )
    return images, tags


# ---------------------------------------------------------------------------------------------------------- the fast path


def _decode_fast(body: bytes, image: TiffImage, tags: Tags) -> Chip | None:
    """A plain file; None where it is not, or where only GDAL knows what its tags mean."""
    if not (_is_plain(image) and _means_only_tiff(body, tags, image.samples * image.planes)):
        return None
    grid, nodata = _grid(tags), _nodata(tags, image.dtype)
    if grid is None or nodata is None:
        return None
    _check_counts(image)
    pixels = np.empty((image.samples * image.planes, *image.shape_yx), image.dtype)
    for target, rows in _planes(body, image, pixels):
        _put_rows(rows, image, target)
    transform, crs = grid
    return Chip(pixels=pixels, transform=transform, crs=crs, nodata=nodata[0])


def _is_plain(image: TiffImage) -> bool:
    """Whether all blocks are there, in a form and coding that is decoded here."""
    if not image.dtype or image.kind or 0 in image.counts:
        return False
    dtype = np.dtype(image.dtype)
    integer = dtype.kind in "iu" and dtype.itemsize <= 4
    coded = image.compression in (*DEFLATE, *ZSTD)
    return (
        (integer or dtype.itemsize >= 4)
        and (image.predictor == 1 or (image.predictor == DIFFERENCED and integer and image.compression != NONE))
        and (image.compression in (NONE, LZW) or (coded and find_spec("imagecodecs") is not None))
    )


def _means_only_tiff(body: bytes, tags: Tags, n_bands: int) -> bool:
    """Whether no tag says more than is understood here: little-endian, grey or red-green-blue, upright.

    A first directory without an image is GDAL's as well: the image that was found is another's.
    """

    def one(code: int, default: int) -> int:
        return int.from_bytes(tags[code][1], "little") if code in tags else default

    tiled, colours = 324 in tags or 322 in tags, 3 if one(262, 1) == 2 else 1
    kind, extra = tags.get(338, (3, b"\0\0" * (n_bands - colours)))
    return (
        body[:2] == b"II"
        and {256, 257, *((322, 323, 324, 325) if tiled else (273, 279))} <= tags.keys()
        and tags.keys() <= _KNOWN
        and all(tags[code][0] == kind for code, kind in _KINDS.items() if code in tags)
        and one(262, 1) in (1, 2)
        and kind == 3
        and len(extra) == 2 * (n_bands - colours)
        and set(extra[::2]) <= {0, 2}  # unspecified, alpha
        and not any(extra[1::2])
        and one(266, 1) == 1
        and one(274, 1) == 1
    )


def _check_counts(image: TiffImage) -> None:
    """Blocks that are not compressed have the bytes of their pixels; some writers pad the last strip."""
    whole = image.block_bytes(0)
    if image.compression != NONE or set(image.counts) == {whole}:
        return
    for i, count in enumerate(image.counts):
        if count not in (0, whole, image.block_bytes(i)):
            raise TiffDamageError(f"block {i} is not compressed and has {count} bytes instead of {image.block_bytes(i)}")


def _planes(body: bytes, image: TiffImage, pixels: npt.NDArray[Any]) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
    """(part of ``pixels`` (sample, y, x), the block's numbers (y, x, sample) that belong there, differenced or not)."""
    ny, nx = image.grid_yx
    (by, bx), (height, width) = image.block_yx, image.shape_yx
    for plane in range(image.planes):
        bands = pixels[plane * image.samples : (plane + 1) * image.samples]
        if (rows := _rows_at_once(body, image, plane)) is not None:
            yield bands, rows
            continue
        for i in range(plane * ny * nx, (plane + 1) * ny * nx):
            row, column = divmod(i % (ny * nx), nx)
            target = bands[:, row * by : min(height, (row + 1) * by), column * bx : min(width, (column + 1) * bx)]
            yield target, _block(body, image, i)


def _rows_at_once(body: bytes, image: TiffImage, plane: int) -> npt.NDArray[Any] | None:
    """All strips of a plane where they lie one behind the other as they are: GDAL writes a strip for each row or two."""
    n = image.grid_yx[0]
    offsets, counts = image.offsets[plane * n : plane * n + n], image.counts[plane * n : plane * n + n]
    if not image.striped or image.compression != NONE or image.framed:
        return None
    if any(low + count != high for (low, high), count in zip(pairwise(offsets), counts, strict=False)):
        return None
    height, width = image.shape_yx
    found = np.frombuffer(body, image.dtype, height * width * image.samples, offsets[0])
    return found.reshape(height, width, image.samples)


def _block(body: bytes, image: TiffImage, i: int) -> npt.NDArray[Any]:
    """The numbers of block ``i``, (y, x, sample), decoded and still differenced."""
    coded, length = read_block(body, image, i), image.block_bytes(i)
    if image.compression == NONE:
        numbers = np.frombuffer(coded, np.uint8)
    elif image.compression == LZW:
        numbers = _unpack_lzw(coded, image, i)
    else:
        numbers = np.empty(image.block_bytes(0), np.uint8)
        decode_block(coded, image, i, numbers)
    return numbers[:length].view(image.dtype).reshape(image.block_rows(i), image.block_yx[1], image.samples)


def _put_rows(rows: npt.NDArray[Any], image: TiffImage, out: npt.NDArray[Any]) -> None:
    """A block's numbers (y, x, sample), cut to the image, into ``out`` (sample, y, x)."""
    _, height, width = out.shape
    if image.predictor == DIFFERENCED:
        for sample in range(image.samples):
            undo_differencing(rows[:, :, sample], slice(0, height), slice(0, width), out[sample])
    elif image.samples == 1:
        out[0] = rows[:height, :width, 0]
    else:
        unsigned = f"u{out.dtype.itemsize}"
        _separate(rows.view(unsigned), out.view(unsigned))


@compiled
def _separate(rows: AnyArray, out: Any) -> None:
    """(y, x, sample) into (sample, y, x)."""
    n, height, width = out.shape
    for y in range(height):
        for sample in range(n):
            for x in range(width):
                out[sample, y, x] = rows[y, x, sample]


# ---------------------------------------------------------------------------------------------------------- LZW


def _unpack_lzw(coded: bytes | memoryview, image: TiffImage, i: int) -> npt.NDArray[np.uint8]:
    """The bytes of an LZW block; TiffDamageError where it does not give as many as it should, or breaks LZW's rules."""
    whole = image.block_bytes(0)
    space = np.empty(_LITERALS + whole + _SPARE, np.uint8)
    n, consumed, status = _lzw(np.frombuffer(coded, np.uint8), space)
    ended = status == 0 or (status == 1 and n in (image.block_bytes(i), whole))  # some writers leave the end mark out
    if not ended or n not in (image.block_bytes(i), whole) or len(coded) - consumed > _MOST_PADDING_BYTES:
        reason = _DAMAGED.get(
            status, f"it gives {n} bytes instead of {image.block_bytes(i)}, and {len(coded) - consumed} are left"
        )
        raise TiffDamageError(
            f"block {i} at byte {image.offsets[i]} does not decode as LZW: {reason}; the file is damaged, or, if other programs "
            "read it rightly, made by an old writer: copy it once with gdal_translate"
        )
    return space[_LITERALS : _LITERALS + n]


_LITERALS, _SPARE = 256, 4
_CLEAR, _END, _FIRST_BITS, _MOST_BITS = 256, 257, 9, 12


@compiled
def _lzw(coded: AnyArray, space: AnyArray) -> tuple[int, int, int]:  # noqa: C901, PLR0912 - one loop, its parts share ten numbers
    """Decode TIFF's LZW into ``space`` behind its first 256 bytes; (bytes written, bytes read, what was wrong or 0).

    A code's text is always somewhere in what was decoded already: the table holds where, and how long it is, the 256 single bytes
    standing before. Four bytes are copied whether the text has as many or not, hence four to spare at the end. Nothing is read
    but what was written before. TIFF Revision 6.0, section 13, with its early change of the code's width; libtiff 4.7, tif_lzw.c.
    """
    n_coded, room = coded.size, space.size - _SPARE
    starts, lengths = np.empty(1 << _MOST_BITS, np.int32), np.empty(1 << _MOST_BITS, np.int32)
    for i in range(_LITERALS):
        space[i], starts[i], lengths[i] = i, i, 1
    bits, n_bits, at, done = np.uint64(0), 0, 0, _LITERALS
    width, top, mask, free = _FIRST_BITS, (1 << _FIRST_BITS) - 1, np.uint64((1 << _FIRST_BITS) - 1), _END
    begun, last, last_length = False, -1, 0
    while True:
        if n_bits < width:
            if at + 4 <= n_coded:
                high = (np.uint64(coded[at]) << np.uint64(24)) | (np.uint64(coded[at + 1]) << np.uint64(16))
                low = (np.uint64(coded[at + 2]) << np.uint64(8)) | np.uint64(coded[at + 3])
                bits = (bits << np.uint64(32)) | high | low
                at, n_bits = at + 4, n_bits + 32
            else:
                while n_bits < width and at < n_coded:
                    bits = (bits << np.uint64(8)) | np.uint64(coded[at])
                    at, n_bits = at + 1, n_bits + 8
                if n_bits < width:
                    return done - _LITERALS, at, 1
        n_bits -= width
        code = np.int64((bits >> np.uint64(n_bits)) & mask)
        if code == _CLEAR:
            width, top, mask, free = _FIRST_BITS, (1 << _FIRST_BITS) - 1, np.uint64((1 << _FIRST_BITS) - 1), _END
            begun, last = True, -1
            continue
        if not begun:
            return done - _LITERALS, at, 3
        if code == _END:
            return done - _LITERALS, at - n_bits // 8, 0
        if free == starts.size:
            return done - _LITERALS, at, 5
        if last >= 0:
            starts[free], lengths[free] = last, last_length + 1
        free += 1  # after an empty table the first code makes no text: 257 becomes 258, the first that is free
        if code >= free:
            return done - _LITERALS, at, 4
        start, length = starts[code], lengths[code]
        if done + length > room:
            return done - _LITERALS, at, 2
        space[done] = space[start]  # one by one: a text may begin with the byte that was just written
        space[done + 1] = space[start + 1]
        space[done + 2] = space[start + 2]
        space[done + 3] = space[start + 3]
        for k in range(4, length):
            space[done + k] = space[start + k]
        last, last_length = done, length
        done += length
        if free == top and width < _MOST_BITS:
            width += 1
            top = (1 << width) - 1
            mask = np.uint64(top)


# ---------------------------------------------------------------------------------------------------------- tags


def _nodata(tags: Tags, dtype: str) -> tuple[float | None] | None:
    """The value of the nodata tag, wrapped; None where its text means something to GDAL alone."""
    if _NODATA not in tags:
        return (None,)
    found = _TEXT.fullmatch(tags[_NODATA][1])
    if found is None:
        return None
    value = float(found[1])
    if np.dtype(dtype).kind == "f":
        return (value,) if math.isnan(value) or float(np.dtype(dtype).type(value)) == value else None
    return (value,) if can_hold(dtype, value) else None


def _grid(tags: Tags) -> tuple[Affine | None, str | None] | None:
    """Transform and CRS, each None where the file says none; None alone where only GDAL knows."""
    if _KEYS in tags:
        crs = _crs(tags)
        if crs is None:
            return None
    elif {_KEY_NUMBERS, _KEY_TEXTS} & tags.keys():
        return None
    else:
        crs = None
    if not {_SCALE, _TIEPOINT} & tags.keys():
        return None, crs
    transform = _transform(tags)
    return None if transform is None else (transform, crs)


def _transform(tags: Tags) -> Affine | None:
    """A north-up grid from the pixel size and the place of the first pixel's corner."""
    scale, tie = (_doubles(tags, code) for code in (_SCALE, _TIEPOINT))
    if len(scale) != 3 or len(tie) != 6 or not all(map(math.isfinite, (*scale, *tie))) or min(scale[:2]) <= 0 or any(tie[:3]):
        return None
    return Affine(scale[0], 0.0, tie[3], 0.0, -scale[1], tie[4])


def _doubles(tags: Tags, code: int) -> tuple[float, ...]:
    found = tags[code][1] if code in tags else b""
    return struct.unpack_from(f"<{len(found) // 8}d", found)


def _crs(tags: Tags) -> str | None:
    """WGS 84, or one of its UTM zones, where all keys say just that; a text or a number of its own may mean another CRS."""
    keys = _geokeys(tags)
    if keys.pop(1025, None) != 1:  # a pixel is an area
        return None
    code = keys.pop(3072, None)
    if code is None:
        said = {1024: 2, 2048: 4326}
        code = 4326
    else:
        said = {1024: 1}
    if not isinstance(code, int) or any(keys.pop(key, None) != value for key, value in said.items()):
        return None
    known: dict[int, object] = {2049: "WGS 84|", 2054: 9102, 2057: 6378137.0, 2059: 298.257223563}
    if code != 4326:
        north, zone = code // 100 == 326, code % 100
        if code // 100 not in (326, 327) or not 1 <= zone <= 60:
            return None
        known = {1026: f"WGS 84 / UTM zone {zone}{'N' if north else 'S'}|", 2049: "WGS 84|", 2054: 9102, 3076: 9001}
    return f"EPSG:{code}" if all(known.get(key) == value for key, value in keys.items()) else None


def _geokeys(tags: Tags) -> dict[int, object]:
    """GeoTIFF's keys: whole numbers, texts with their closing bar, floats; none where their directory is not in order."""
    found = tags[_KEYS][1]
    numbers = struct.unpack(f"<{len(found) // 2}H", found)
    if len(numbers) < 4 or numbers[:2] != (1, 1) or numbers[2] not in (0, 1) or len(numbers) != 4 + 4 * numbers[3]:
        return {}
    texts, doubles = tags.get(_KEY_TEXTS, (2, b""))[1].decode("latin-1"), _doubles(tags, _KEY_NUMBERS)
    keys: dict[int, object] = {}
    for key, place, count, value in struct.iter_unpack("<4H", found[8:]):
        if place == 0 and count == 1:
            keys[key] = value
        elif place == _KEY_TEXTS:
            keys[key] = texts[value : value + count]
        else:
            keys[key] = doubles[value] if place == _KEY_NUMBERS and count == 1 and value < len(doubles) else None
    return keys if len(keys) == numbers[3] else {}


# ---------------------------------------------------------------------------------------------------------- through GDAL


def _check_image(body: bytes, image: TiffImage) -> None:
    """GDAL reads on past a wrong checksum, and past what an LZW block holds too much: its blocks are decoded here first."""
    height, width = image.shape_yx
    if image.plain or image.compression != NONE:
        _check_counts(image)
    if image.compression != LZW:
        if image.compression not in DEFLATE or find_spec("imagecodecs") is not None:
            check_blocks(body, image, (0, height), (0, width))
        return
    for i, count in enumerate(image.counts):
        if count:
            _unpack_lzw(read_block(body, image, i), image, i)


def _through_gdal(body: bytes, *, located: bool) -> Chip:
    try:
        import rasterio
        from rasterio._err import CPLE_BaseError
        from rasterio.errors import RasterioError
    except ImportError as e:
        raise MissingDependencyError("Reading raster files", "rasterio", "build") from e
    try:
        with rasterio.Env(**GDAL_OPTIONS), rasterio.MemoryFile(body) as file, _open(file, located=located) as src:
            if len(set(src.dtypes)) != 1:
                raise TiffDamageError(f"its bands have different types: {src.dtypes}")
            return Chip(
                pixels=src.read(),
                transform=None if src.transform.is_identity else src.transform,
                crs=None if src.crs is None else src.crs.to_string(),
                nodata=None if src.nodata is None else float(src.nodata),
            )
    except (RasterioError, CPLE_BaseError, OSError, ValueError) as e:
        raise e if isinstance(e, TiffDamageError) else TiffDamageError(str(e) or type(e).__name__) from e


def _open(file: Any, *, located: bool) -> Any:
    """Open as GeoTIFF and nothing else: other formats may name files of this machine.

    A file without a transform is nothing to warn of. Warnings are switched for the whole process: by one thread at a time, and
    not for files that surely have one.
    """
    if located:
        return file.open(driver="GTiff")
    with _WARNINGS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return file.open(driver="GTiff")
