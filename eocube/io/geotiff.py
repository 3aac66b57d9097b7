"""Local GeoTIFFs, block by block: the fast path of reading, and the strict one.

A block is read with one system call, decoded straight into memory and put in its place, all of it without the GIL and without
GDAL's block cache; GDAL opens each file once, for its grid and types. :mod:`eocube.io.tiff` reads the structure. Every file that
is not simply made of plain numbers, every other grid and every remote file is left to GDAL, which is also the plain twin: both
must give the same pixels. Without imagecodecs everything is left to GDAL.

Strict: what a file contradicts itself in is damage, whoever reads its pixels. GDAL reads on there, past DEFLATE's checksum too:
the blocks that GDAL needs of a local file are decoded here first. A file that is changed while it is read is refused as well: one
read never mixes two files.
"""

from __future__ import annotations

import math
import os
import stat
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from odc.geo.geobox import GeoBox

from eocube.errors import AssetReadError, GridError
from eocube.io.rasters import RasterInfo, RasterioReader, Reader, aligned_origin, can_hold, check_asset, local_path
from eocube.io.tiff import DEFLATE, DIFFERENCED, LEADER_BYTES, MASK, NONE, Source, TiffDamageError, TiffImage, pread, read_images
from eocube.kernels.differencing import undo_differencing
from eocube.model.scene import Asset

MOST_FILES = 4096
"""Files whose structure a reader keeps: about 10 kB each for a Sentinel-2 band."""

_KERNEL_PX = 4
"""Widest half of a resampling kernel and one, in pixels of the coarser grid."""

_MOST_TIMES_SMALLER = 1040
"""DEFLATE can make nothing smaller than by this."""

_Span = tuple[int, int]
_Stamp = tuple[int, int, int]


class GeoTiffReader:
    """Files of this machine block by block; remote files, other formats and other grids through GDAL."""

    def __init__(self, gdal: Reader | None = None):
        self._gdal = gdal or RasterioReader()
        self._decodes = find_spec("imagecodecs") is not None
        self._files: dict[str, _File] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[GeoTiffReader], tuple[Reader]]:
        return type(self), (self._gdal,)

    def describe(self, href: str) -> RasterInfo:
        """See :class:`eocube.io.rasters.Reader`."""
        return self._gdal.describe(href)

    def read(self, assets: Sequence[Asset], geobox: GeoBox, *, item_id: str, resampling: str) -> npt.NDArray[Any]:
        """See :class:`eocube.io.rasters.Reader`."""
        first = assets[0]
        opened = _open(first.href) if self._decodes else None
        if opened is None:
            return self._gdal.read(assets, geobox, item_id=item_id, resampling=resampling)
        fd, stamp = opened
        try:
            file = self._file(fd, stamp, assets, item_id)
            pixels = self._pixels(fd, file, assets, geobox, item_id, resampling)
            _check_unchanged(os.fstat(fd), file.stamp)
        except AssetReadError as e:
            raise AssetReadError(first.href, item_id, e.asset if e.item_id else first.key, e.reason) from e
        except (TiffDamageError, GridError, OSError) as e:
            raise AssetReadError(first.href, item_id, first.key, str(e)) from e
        else:
            return pixels
        finally:
            os.close(fd)

    def _pixels(
        self, fd: int, file: _File, assets: Sequence[Asset], geobox: GeoBox, item_id: str, resampling: str
    ) -> npt.NDArray[Any]:
        """Block by block where that can be done; else through GDAL, when the blocks that it needs are whole."""
        origin = aligned_origin(file.info.geobox, geobox)
        if file.plain is not None and origin is not None:
            out = np.empty((len(assets), *map(int, geobox.shape)), file.plain.dtype)
            outside = assets[0].nodata if assets[0].nodata is not None else file.info.nodata
            _put_window(fd, file.plain, origin, out[0], outside=outside or 0, unwritten=file.unwritten or 0)
            out[1:] = out[0]
            return out
        for image in file.images:
            check_blocks(fd, image, *_reach(file.info.geobox, geobox, origin))
        pixels = self._gdal.read(assets, geobox, item_id=item_id, resampling=resampling)
        _check_unchanged(_status(assets[0].href), file.stamp)
        return pixels

    def _file(self, fd: int, stamp: _Stamp, assets: Sequence[Asset], item_id: str) -> _File:
        """Structure and header of a file, looked at again when the file changed; its assets checked against the header once."""
        href = assets[0].href
        file = self._files.get(href)
        if file is None or file.stamp != stamp:
            images = read_images(fd)
            file = _File(stamp, self._gdal.describe(href), [one for one in images if is_shown(one, images[0])])
            _check_unchanged(_status(href), stamp)
            with self._lock:
                self._files.pop(href, None)
                while len(self._files) >= MOST_FILES:
                    del self._files[next(iter(self._files))]
                self._files[href] = file
        for asset in assets:
            if not any(asset is known for known in file.checked):
                check_asset(file.info, asset, item_id)
                file.checked.append(asset)
        return file


@dataclass
class _File:
    """What a reader keeps of a file."""

    stamp: _Stamp
    info: RasterInfo
    images: list[TiffImage]
    """The full-resolution image and its mask; none where the file is no TIFF."""

    checked: list[Asset] = field(default_factory=list)
    """Assets that agree with ``info``, the objects themselves: comparing them would cost more than checking."""

    @cached_property
    def plain(self) -> TiffImage | None:
        """The image where it is plain numbers, and GDAL takes it for the same."""
        says = (self.info.dtypes[0], *map(int, self.info.geobox.shape))
        image = next((one for one in self.images[:1] if one.plain and (one.dtype, *one.shape_yx) == says), None)
        return None if image is None or (0 in image.counts and self.unwritten is None) else image

    @property
    def unwritten(self) -> float | None:
        """Pixels of blocks that were not written: the file's nodata, else 0, whatever items say; None where only GDAL knows."""
        tag = self.info.nodata
        if tag is None:
            return None if self.images[0].marked else 0
        return tag if can_hold(self.info.dtypes[0], tag) else None


def is_shown(image: TiffImage, first: TiffImage) -> bool:
    """Whether GDAL looks at it to make the pixels of the first."""
    return image is first or (image.shape_yx == first.shape_yx and bool(image.kind & MASK))


def _stamp(status: os.stat_result) -> _Stamp:
    """What changes with a file's bytes."""
    return status.st_ino, status.st_size, status.st_mtime_ns


def _open(href: str) -> tuple[int, _Stamp] | None:
    """A file of this machine, and its stamp. None where there is none, or a folder or a pipe: GDAL's reader says why not."""
    try:
        fd = os.open(local_path(href), os.O_RDONLY | os.O_NONBLOCK)
    except (OSError, ValueError):
        return None
    status = os.fstat(fd)
    if stat.S_ISREG(status.st_mode):
        return fd, _stamp(status)
    os.close(fd)
    return None


def _status(href: str) -> os.stat_result:
    return Path(local_path(href)).stat()


def _check_unchanged(status: os.stat_result, stamp: _Stamp) -> None:
    """GDAL opens files by name: what it read must be the file that was looked at."""
    if _stamp(status) != stamp:
        raise TiffDamageError("it was changed while it was read; when nobody writes it any more, run again")


# ---------------------------------------------------------------------------------------------------------- blocks


def _touched(image: TiffImage, rows: _Span, columns: _Span) -> Iterator[tuple[int, int, int]]:
    """(number, row, column) of the first plane's blocks that have pixels of a window."""
    by, bx = image.block_yx
    for row in range(rows[0] // by, -(-rows[1] // by)):
        for column in range(columns[0] // bx, -(-columns[1] // bx)):
            yield row * image.grid_yx[1] + column, row, column


def _reach(inner: GeoBox, geobox: GeoBox, origin: tuple[int, int] | None) -> tuple[_Span, _Span]:
    """Rows and columns of ``inner`` that pixels of ``geobox`` are made of, room for a resampling kernel included."""
    (height, width), (ny, nx) = map(int, inner.shape), map(int, geobox.shape)
    if origin is not None:
        return _clip(origin[0], origin[0] + ny, height), _clip(origin[1], origin[1] + nx, width)
    if inner.crs is None or geobox.crs is None:
        return (0, height), (0, width)
    outline = geobox.extent
    if inner.crs != geobox.crs:
        longest = max(outline.boundingbox.span_x, outline.boundingbox.span_y)
        outline = outline.to_crs(inner.crs, resolution=longest / 16)
    box = outline.boundingbox
    xs, ys = zip(*(~inner.affine @ (x, y) for x in (box.left, box.right) for y in (box.bottom, box.top)), strict=True)
    pad_y, pad_x = (_KERNEL_PX * max(1, (max(v) - min(v)) / n) for v, n in ((ys, ny), (xs, nx)))
    return _clip(min(ys) - pad_y, max(ys) + pad_y, height), _clip(min(xs) - pad_x, max(xs) + pad_x, width)


def _clip(low: float, high: float, size: int) -> _Span:
    """Whole pixels inside ``size``; all of them where a projection gives no number."""
    if not math.isfinite(low + high):
        return 0, size
    return max(0, math.floor(low)), max(0, min(size, math.ceil(high)))


def check_blocks(source: Source, image: TiffImage, rows: _Span, columns: _Span) -> None:
    """The blocks that GDAL is about to read must be framed as they should be, and fit DEFLATE's checksum."""
    if not image.framed and image.compression not in DEFLATE:
        return
    n = image.grid_yx[0] * image.grid_yx[1]
    for first, _, _ in _touched(image, rows, columns):
        for i in range(first, n * image.planes, n):
            if image.counts[i]:
                body = read_block(source, image, i)
                if image.compression in DEFLATE:
                    decode_block(body, image, i, None)


# ---------------------------------------------------------------------------------------------------------- pixels


def _put_window(
    fd: int, image: TiffImage, origin: tuple[int, int], out: npt.NDArray[Any], *, outside: float, unwritten: float
) -> None:
    """Pixels from ``origin`` (y, x) on into ``out`` (y, x), with a value for outside the image and one for unwritten blocks."""
    (y0, x0), (ny, nx), (height, width) = origin, out.shape, image.shape_yx
    ya, yb, xa, xb = max(0, y0), min(height, y0 + ny), max(0, x0), min(width, x0 + nx)
    inside = ya < yb and xa < xb
    if not inside or (yb - ya, xb - xa) != (ny, nx):
        out[:] = outside
    if inside:
        target = out[ya - y0 : yb - y0, xa - x0 : xb - x0]
        by, bx = image.block_yx
        scratch = np.empty(image.block_yx, image.dtype)
        for i, row, column in _touched(image, (ya, yb), (xa, xb)):
            y, x = _overlap(row * by, by, ya, yb), _overlap(column * bx, bx, xa, xb)
            part = target[
                row * by + y.start - ya : row * by + y.stop - ya, column * bx + x.start - xa : column * bx + x.stop - xa
            ]
            if image.counts[i]:
                _put_block(fd, image, i, (y, x), part, scratch)
            else:
                part[:] = unwritten


def _overlap(start: int, length: int, low: int, high: int) -> slice:
    """The part of a block's rows (or columns) that is asked for."""
    return slice(max(0, low - start), min(length, high - start))


def _put_block(
    fd: int, image: TiffImage, i: int, yx: tuple[slice, slice], part: npt.NDArray[Any], scratch: npt.NDArray[Any]
) -> None:
    """Block ``i``, cut to ``yx``, into ``part``."""
    body = read_block(fd, image, i)
    if image.compression == NONE:
        block = np.frombuffer(body, image.dtype).reshape(-1, image.block_yx[1])
    else:
        decode_block(body, image, i, scratch.reshape(-1).view(np.uint8))
        block = scratch
    if image.predictor == DIFFERENCED:
        undo_differencing(block, *yx, part)
    else:
        part[:] = block[yx]


def read_block(source: Source, image: TiffImage, i: int) -> bytes | memoryview:
    """The coded bytes of a block, compared with what stands before and behind them."""
    offset, count = image.offsets[i], image.counts[i]
    pad = LEADER_BYTES if image.framed else 0
    found = pread(source, count + 2 * pad, offset - pad)
    if len(found) != count + 2 * pad:
        raise TiffDamageError(f"block {i} at byte {offset} has {len(found) - 2 * pad} bytes left of {count}: the file is cut off")
    if not image.framed:
        return found
    body = memoryview(found)[pad:-pad]
    if struct.unpack("<I", found[:pad])[0] != count or (count >= pad and found[-pad:] != body[-pad:]):
        raise TiffDamageError(f"block {i} at byte {offset} is not framed by its size and its last bytes: the file is damaged")
    return body


def decode_block(body: bytes | memoryview, image: TiffImage, i: int, out: npt.NDArray[np.uint8] | None) -> None:
    """Decode a DEFLATE or ZSTD block, into ``out`` if there is one.

    TiffDamageError where it does not give as many bytes as it should; some writers pad the last strip.
    """
    length, whole = image.block_bytes(i), image.block_bytes(0)
    where = f"block {i} at byte {image.offsets[i]}"
    if image.compression in DEFLATE and length > _MOST_TIMES_SMALLER * len(body):
        raise TiffDamageError(f"{where} has {len(body)} bytes, which cannot hold {length}: the file is damaged")
    try:
        found = len(_decoder(image.compression)(body, out=whole if out is None else out))
    except (RuntimeError, ValueError) as e:
        raise TiffDamageError(f"{where} does not decode ({e}): the file is damaged") from e
    if found not in (length, whole):
        raise TiffDamageError(f"{where} decodes to {found} bytes instead of {length}: the file is damaged")


def _decoder(compression: int) -> Callable[..., Any]:
    import imagecodecs

    return imagecodecs.deflate_decode if compression in DEFLATE else imagecodecs.zstd_decode
