"""Local tiled GeoTIFFs, block by block: the fast path of reading, and the strict one.

A block is read with one system call, decoded straight into memory and put in its place, all of it without the GIL and without
GDAL's block cache; GDAL opens each file once, for its grid and types. tifffile reads the structure. What the structure does not
allow, and every file that is not simply tiled, is left to GDAL, which is also the plain twin: both must give the same pixels.

Strict: a Cloud-Optimised GeoTIFF says several things twice (the size of a block before and in the index, its last bytes after it,
the coding of the image and of its overviews, the order of its blocks), and DEFLATE carries a checksum. GDAL reads on
where they disagree; here that is damage.
"""

from __future__ import annotations

import os
import struct
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from odc.geo.geobox import GeoBox

from eocube.errors import AssetReadError
from eocube.io.rasters import RasterInfo, RasterioReader, Reader, aligned_origin, check_asset
from eocube.kernels.differencing import undo_differencing
from eocube.model.scene import Asset

if TYPE_CHECKING:
    from tifffile import TiffPage

MOST_FILES = 4096
"""Files whose structure a reader keeps: about 10 kB each for a Sentinel-2 band."""

_MOST_BLOCK_BYTES = 64 * 1024 * 1024
_HEAD_BYTES = 512
_GHOST = b"GDAL_STRUCTURAL_METADATA_SIZE="
_GHOST_SAYS = (b"BLOCK_LEADER=SIZE_AS_UINT4", b"BLOCK_TRAILER=LAST_4_BYTES_REPEATED", b"KNOWN_INCOMPATIBLE_EDITION=NO")
_LEADER_BYTES = 4
_REDUCED, _MASK = 1, 4
_DEFLATE, _LZW, _ZSTD, _NONE, _DIFFERENCED = (8, 32946), (5,), (50000, 34926), 1, 2


class TileLayout(NamedTuple):
    """Where the blocks of a file's full-resolution image lie, and how they are coded."""

    shape_yx: tuple[int, int]
    block_yx: tuple[int, int]
    dtype: str
    compression: int
    """TIFF's number of it."""

    differenced: bool
    """Predictor 2."""

    offsets: tuple[int, ...]
    """First byte of each block, row by row; 0 with count 0: a block without data that was not written."""

    counts: tuple[int, ...]
    framed: bool
    """Whether four bytes before a block repeat its size and four behind it its end, as GDAL's COG driver writes them."""


class TiffDamageError(ValueError):
    """A file that contradicts itself or lacks bytes. Its text is a reason, for :class:`eocube.errors.AssetReadError`."""


class GeoTiffReader:
    """Files of this machine block by block; remote files, other formats and other grids through GDAL."""

    def __init__(self, gdal: Reader | None = None):
        self._gdal = gdal or RasterioReader()
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
        try:
            fd = os.open(first.href.removeprefix("file://"), os.O_RDONLY)
        except (OSError, ValueError):  # not a path of this machine, or nothing there: GDAL reads it, or says why not
            return self._gdal.read(assets, geobox, item_id=item_id, resampling=resampling)
        try:
            file = self._file(fd, assets, item_id)
            origin = aligned_origin(file.info.geobox, geobox)
            if origin is None or file.layout is None:
                return self._gdal.read(assets, geobox, item_id=item_id, resampling=resampling)
            fill = first.nodata if first.nodata is not None else file.info.nodata
            return _window(fd, file.layout, origin, (int(geobox.shape[0]), int(geobox.shape[1])), len(assets), fill or 0)
        except AssetReadError as e:
            raise AssetReadError(first.href, item_id, e.asset if e.item_id else first.key, e.reason) from e
        except (TiffDamageError, OSError) as e:
            raise AssetReadError(first.href, item_id, first.key, str(e)) from e
        finally:
            os.close(fd)

    def _file(self, fd: int, assets: Sequence[Asset], item_id: str) -> _File:
        """Structure and header of a file, looked at again when the file changed; its assets checked against the header once."""
        href, now = assets[0].href, os.fstat(fd)
        stamp = (now.st_ino, now.st_size, now.st_mtime_ns)
        file = self._files.get(href)
        if file is None or file.stamp != stamp:
            file = _File(stamp, self._gdal.describe(href), _layout_of(fd, now.st_size))
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

    stamp: tuple[int, int, int]
    info: RasterInfo
    layout: TileLayout | None
    checked: list[Asset] = field(default_factory=list)
    """Assets that agree with ``info``, the objects themselves: comparing them would cost more than checking."""


# ---------------------------------------------------------------------------------------------------------- structure


def read_layout(path: str) -> TileLayout | None:
    """Where the blocks of a TIFF are; None where the file is not simply tiled (GDAL then reads it).

    Simply tiled: little-endian classic or BigTIFF, one sample a pixel, 8, 16 or 32 bits of integer or 32 or 64 of float, coded
    with DEFLATE, LZW, Zstandard or not at all, differenced or not.

    Raises
    ------
    TiffDamageError
        The structure contradicts itself or the size of the file.
    """
    fd = os.open(path, os.O_RDONLY)
    try:
        return _layout_of(fd, os.fstat(fd).st_size)
    finally:
        os.close(fd)


def _layout_of(fd: int, size: int) -> TileLayout | None:
    pages = _pages(fd)
    if not pages or not _is_simple(pages[0]):
        return None
    layout = _layout(pages[0], framed=_is_framed(os.pread(fd, _HEAD_BYTES, 0)))
    same = [layout, *_overviews(pages, layout)]
    for one in same:
        _check_bytes(one, size)
    if layout.framed and not any(page.subfiletype & _MASK for page in pages):
        _check_order(fd, same, size)
    return layout


def _pages(fd: int) -> list[TiffPage]:
    """The images of a little-endian TIFF; none of anything else."""
    import tifffile

    try:
        with os.fdopen(os.dup(fd), "rb") as file, tifffile.TiffFile(file, name="asset.tif") as tiff:
            if tiff.byteorder != "<" or sys.byteorder != "little":
                return []
            return [page for page in tiff.pages if isinstance(page, tifffile.TiffPage)]
    except Exception:  # noqa: BLE001 - tifffile raises many kinds on what is no TIFF; GDAL then says what it is
        return []


def _is_simple(page: TiffPage) -> bool:
    """Whether a block is a rectangle of plain numbers in a coding that is known here."""
    dtype = page.dtype
    integer = dtype is not None and dtype.kind in "iu" and dtype.itemsize <= 4
    plain = dtype is not None and dtype.kind == "f" and dtype.itemsize >= 4
    return (
        page.is_tiled
        and page.samplesperpixel == 1
        and page.imagedepth == 1
        and page.tiledepth == 1
        and page.fillorder == 1
        and dtype is not None
        and (integer or plain)
        and page.bitspersample == 8 * dtype.itemsize
        and (page.predictor == 1 or (page.predictor == _DIFFERENCED and integer))
        and page.compression in (_NONE, *_DEFLATE, *_LZW, *_ZSTD)
        and 0 < page.tilelength * page.tilewidth * dtype.itemsize <= _MOST_BLOCK_BYTES
    )


def _layout(page: TiffPage, *, framed: bool) -> TileLayout:
    shape_yx, block_yx = (page.imagelength, page.imagewidth), (page.tilelength, page.tilewidth)
    n_blocks = -(-shape_yx[0] // block_yx[0]) * -(-shape_yx[1] // block_yx[1])
    if not len(page.dataoffsets) == len(page.databytecounts) == n_blocks:
        raise TiffDamageError(
            f"an image of {shape_yx} in blocks of {block_yx} has {n_blocks} blocks; its index lists {len(page.dataoffsets)} "
            f"offsets and {len(page.databytecounts)} sizes"
        )
    return TileLayout(
        shape_yx=shape_yx,
        block_yx=block_yx,
        dtype=str(page.dtype),
        compression=int(page.compression),
        differenced=page.predictor == _DIFFERENCED,
        offsets=tuple(page.dataoffsets),
        counts=tuple(page.databytecounts),
        framed=framed,
    )


def _is_framed(head: bytes) -> bool:
    """Whether GDAL's COG driver wrote the file and nobody edited it since (the "ghost area" behind the TIFF header)."""
    ghost = head[8:] if head[8:].startswith(_GHOST) else head[16:]
    return ghost.startswith(_GHOST) and all(text in ghost for text in _GHOST_SAYS)


def _overviews(pages: Sequence[TiffPage], image: TileLayout) -> Iterator[TileLayout]:
    """The overviews, which writers code as the image: one damaged byte of a header shows in the difference."""
    for page in pages[1:]:
        if not page.subfiletype & _REDUCED or page.subfiletype & _MASK or not _is_simple(page):
            continue
        overview = _layout(page, framed=image.framed)
        if overview.compression != image.compression:
            continue  # overviews may be coded otherwise on purpose
        for name in ("dtype", "differenced"):
            if getattr(overview, name) != getattr(image, name):
                raise TiffDamageError(
                    f"its image and overviews disagree: {name} is {getattr(image, name)} in the image and "
                    f"{getattr(overview, name)} in an overview of equal compression"
                )
        yield overview


def _check_bytes(layout: TileLayout, size: int) -> None:
    """Every block must lie inside the file and be somewhere."""
    plain = layout.block_yx[0] * layout.block_yx[1] * np.dtype(layout.dtype).itemsize
    for i, (offset, count) in enumerate(zip(layout.offsets, layout.counts, strict=True)):
        if (offset == 0) != (count == 0):
            raise TiffDamageError(f"block {i} is said to be at byte {offset} with {count} bytes")
        if offset + count > size:
            raise TiffDamageError(f"block {i} ends at byte {offset + count} of a file of {size}: the file is cut off or damaged")
        if layout.compression == _NONE and count not in (0, plain):
            raise TiffDamageError(f"block {i} is not compressed and has {count} bytes instead of {plain}")


def _check_order(fd: int, layouts: Sequence[TileLayout], size: int) -> None:
    """GDAL writes the blocks of a COG row by row, smallest overview first; every block between two listed ones is listed too.

    A gap is no damage: a block written anew in its old place may be shorter. A gap of whole framed blocks is what the index lost.
    """
    smallest_first = sorted(layouts, key=lambda one: one.shape_yx)
    blocks = [(o, n) for one in smallest_first for o, n in zip(one.offsets, one.counts, strict=True) if n]
    ends = [offset + count + 2 * _LEADER_BYTES for offset, count in blocks]
    for end, start in zip(ends, [*(offset for offset, _ in blocks[1:]), size + _LEADER_BYTES], strict=True):
        if start < end:
            raise TiffDamageError(
                f"a block starts at byte {start}, before the one ahead of it ends ({end}): its index is damaged"
            )
        if start > end and _holds_blocks(fd, end, start):
            raise TiffDamageError(
                f"between bytes {end} and {start} lie blocks that its index does not list: its index is damaged"
            )


def _holds_blocks(fd: int, low: int, high: int) -> bool:
    """Whether framed blocks fill the bytes between two places where a block may start."""
    while low < high:
        leader = os.pread(fd, _LEADER_BYTES, low - _LEADER_BYTES)
        count = struct.unpack("<I", leader)[0] if len(leader) == _LEADER_BYTES else 0
        tail = os.pread(fd, 2 * _LEADER_BYTES, low + count - _LEADER_BYTES)
        if count < _LEADER_BYTES or len(tail) < 2 * _LEADER_BYTES or tail[:_LEADER_BYTES] != tail[_LEADER_BYTES:]:
            return False
        low += count + 2 * _LEADER_BYTES
    return low == high


# ---------------------------------------------------------------------------------------------------------- pixels


def _window(
    fd: int, layout: TileLayout, origin: tuple[int, int], shape_yx: tuple[int, int], n: int, fill: float
) -> npt.NDArray[Any]:
    """``shape_yx`` pixels from ``origin`` (y, x) on, n times; ``fill`` outside the image and where a block was not written."""
    (y0, x0), (ny, nx), (height, width) = origin, shape_yx, layout.shape_yx
    ya, yb, xa, xb = max(0, y0), min(height, y0 + ny), max(0, x0), min(width, x0 + nx)
    inside = ya < yb and xa < xb
    out = np.empty((n, ny, nx), layout.dtype)
    if not inside or (yb - ya, xb - xa) != (ny, nx):
        out[:] = fill
    if inside:
        target = out[0, ya - y0 : yb - y0, xa - x0 : xb - x0]
        by, bx = layout.block_yx
        scratch = np.empty(layout.block_yx, layout.dtype)
        for row in range(ya // by, -(-yb // by)):
            for column in range(xa // bx, -(-xb // bx)):
                y, x = _overlap(row * by, by, ya, yb), _overlap(column * bx, bx, xa, xb)
                part = target[
                    row * by + y.start - ya : row * by + y.stop - ya, column * bx + x.start - xa : column * bx + x.stop - xa
                ]
                _put_block(fd, layout, row * -(-width // bx) + column, (y, x), part, scratch, fill)
    out[1:] = out[0]
    return out


def _overlap(start: int, length: int, low: int, high: int) -> slice:
    """The part of a block's rows (or columns) that is asked for."""
    return slice(max(0, low - start), min(length, high - start))


def _put_block(
    fd: int, layout: TileLayout, i: int, yx: tuple[slice, slice], part: npt.NDArray[Any], scratch: npt.NDArray[Any], fill: float
) -> None:
    """Block ``i``, cut to ``yx``, into ``part``."""
    if layout.counts[i] == 0:
        part[:] = fill
        return
    block = _decoded(_body(fd, layout, i), layout, i, scratch)
    if layout.differenced:
        undo_differencing(block, *yx, part)
    else:
        part[:] = block[yx]


def _body(fd: int, layout: TileLayout, i: int) -> bytes:
    """The coded bytes of a block, compared with what stands before and behind them."""
    offset, count = layout.offsets[i], layout.counts[i]
    pad = _LEADER_BYTES if layout.framed else 0
    found = os.pread(fd, count + 2 * pad, offset - pad)
    if len(found) != count + 2 * pad:
        raise TiffDamageError(f"block {i} at byte {offset} has {len(found) - 2 * pad} bytes left of {count}: the file is cut off")
    if not layout.framed:
        return found
    body = found[pad:-pad]
    if struct.unpack("<I", found[:pad])[0] != count or (count >= pad and found[-pad:] != body[-pad:]):
        raise TiffDamageError(f"block {i} at byte {offset} is not framed by its size and its last bytes: the file is damaged")
    return body


def _decoded(body: bytes, layout: TileLayout, i: int, scratch: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The numbers of a block as stored, (y, x); in ``scratch`` unless the block is not compressed."""
    if layout.compression == _NONE:
        return np.frombuffer(body, layout.dtype).reshape(layout.block_yx)
    flat = scratch.reshape(-1).view(np.uint8)
    try:
        found = _decoder(layout.compression)(body, out=flat)
    except (RuntimeError, ValueError) as e:
        raise TiffDamageError(f"block {i} at byte {layout.offsets[i]} does not decode ({e}): the file is damaged") from e
    if len(found) != flat.size:
        raise TiffDamageError(f"block {i} at byte {layout.offsets[i]} decodes to {len(found)} bytes instead of {flat.size}")
    return scratch


def _decoder(compression: int) -> Callable[..., Any]:
    import imagecodecs

    if compression in _DEFLATE:
        return imagecodecs.deflate_decode
    return imagecodecs.lzw_decode if compression in _LZW else imagecodecs.zstd_decode
