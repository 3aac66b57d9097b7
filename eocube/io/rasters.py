"""Raster files by windows, through rasterio (GDAL).

One dataset handle a read: handles are not shared between threads. GDAL's own retries do nothing under threads (GDAL#12426), so
failed reads are tried again here.
"""

from __future__ import annotations

import math
import os
import stat
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from odc.geo.geobox import GeoBox

from eocube.errors import AssetReadError, GridError, MissingDependencyError
from eocube.model.frame import norm_geobox
from eocube.model.scene import Asset

GDAL_OPTIONS: dict[str, Any] = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_HTTP_MULTIRANGE": "YES",
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "GDAL_HTTP_TIMEOUT": 60,
    "GDAL_NUM_THREADS": 1,
    "VSI_CACHE": False,
}
_FORGET = {"CPL_VSIL_CURL_NON_CACHED": "/vsicurl/:/vsis3/:/vsigs/:/vsiaz/:/vsiadls/"}
"""GDAL keeps in a process that a file could not be had: without this a second try asks nobody and fails as the first."""

_ALIGNED_PX = 1e-3
_EXACT_PX = 1e-9
"""Most that GDAL's approximate transform may be wrong, so that it is in fact exact; rasterio does not take 0."""
_T = TypeVar("_T")
CURL_CACHE_BYTES = 16 * 1024 * 1024
"""What GDAL keeps in a process of remote files that it has read (``CPL_VSIL_CURL_CACHE_SIZE``, its default)."""

_REMOTE = ("http://", "https://", "s3://", "gs://", "az://", "/vsi")
_NO_FILES = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}
_FIRST_BYTES = 64


class Reader(Protocol):
    """Pixels of some bands of one file on a grid."""

    def read(self, assets: Sequence[Asset], geobox: GeoBox, *, item_id: str, resampling: str) -> npt.NDArray[Any]:
        """Bands of one file on ``geobox``, (asset, y, x) in the file's dtype, nodata (else 0) outside it.

        ``assets`` share one href. Reading a part of a grid gives the same pixels as that part of reading the whole grid.
        AssetReadError where the file is missing, damaged or not what its metadata says.
        """

    def describe(self, href: str) -> RasterInfo:
        """Grid, dtypes, nodata and block of a file, from its header."""


class RasterInfo(NamedTuple):
    """What a file's header says."""

    geobox: GeoBox
    dtypes: tuple[str, ...]
    """One a band."""

    nodatas: tuple[float | None, ...]
    """One a band."""

    block_yx: tuple[int, int]

    @property
    def nodata(self) -> float | None:
        """The first band's."""
        return self.nodatas[0]


class RasterioReader:
    """Everything that GDAL reads, reprojecting where grids differ."""

    def __init__(self, *, retries: int = 3, backoff_s: float = 0.5):
        self.retries, self.backoff_s = retries, backoff_s

    def describe(self, href: str) -> RasterInfo:
        """See :class:`Reader`."""
        return self._with_file(href, "", "header", _info)

    def read(self, assets: Sequence[Asset], geobox: GeoBox, *, item_id: str, resampling: str) -> npt.NDArray[Any]:
        """See :class:`Reader`."""
        first = assets[0]

        def read(src: Any) -> npt.NDArray[Any]:
            info = _info(src)
            for asset in assets:
                check_asset(info, asset, item_id)
            return _read(src, info, assets, geobox, resampling)

        return self._with_file(first.href, item_id, first.key, read)

    def _with_file(self, href: str, item_id: str, asset: str, use: Callable[[Any], _T]) -> _T:
        """``use`` of the opened file; a remote one is tried again, past what GDAL remembers of the failure."""
        rasterio = _rasterio()
        remote = is_remote(href)
        tries = self.retries if remote else 1
        if not remote and (kind := _no_file(local_path(href))) is not None:
            raise AssetReadError(href, item_id, asset, f"it is {kind}, not a file")
        for n in range(tries):
            options = GDAL_OPTIONS if n == 0 else {**GDAL_OPTIONS, **_FORGET}
            try:
                with rasterio.Env(**options), rasterio.open(href) as src:
                    return use(src)
            except GridError as e:
                raise AssetReadError(href, item_id, asset, str(e)) from e
            except (rasterio.errors.RasterioError, OSError) as e:
                if isinstance(e, AssetReadError):
                    raise
                if n + 1 == tries:
                    reason = str(e) or type(e).__name__
                    raise AssetReadError(href, item_id, asset, reason if remote else _with_found(href, reason)) from e
                time.sleep(self.backoff_s * 2**n)
        raise AssertionError  # the loop returns or raises


def _rasterio() -> Any:
    try:
        import rasterio
        import rasterio.errors
    except ImportError as e:
        raise MissingDependencyError("Reading raster files", "rasterio", "build") from e
    return rasterio


def is_remote(href: str) -> bool:
    """Whether GDAL fetches the file."""
    return href.startswith(_REMOTE)


def local_path(href: str) -> str:
    """The path of a file of this machine."""
    return href.removeprefix("file://")


def _no_file(path: str) -> str | None:
    """What a path is if neither file nor folder: GDAL would wait for a pipe's writer, and no signal would end that."""
    try:
        return _NO_FILES.get(stat.S_IFMT(os.stat(path).st_mode))  # noqa: PTH116 - hot path
    except (OSError, ValueError):
        return None


def _with_found(href: str, reason: str) -> str:
    """GDAL's reason; where it recognises no format, after what a look at the place shows."""
    found = _seen(local_path(href)) if "not recognized" in reason else None
    return reason if found is None else f"{found} (GDAL: {reason.rstrip('. ')})"


def _seen(path: str) -> str | None:
    """What is at a path, where a look at the name and the first bytes tells: a folder, nothing, text."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - a name of GDAL's is no path
            first = file.read(_FIRST_BYTES)
    except IsADirectoryError:
        return "it is a folder, and not one that GDAL knows as a raster"
    except (OSError, ValueError):
        return None
    if not first:
        return "it is empty (0 bytes)"
    text = first.decode("utf-8", errors="ignore")
    if len(first) - len(text.encode()) > 3 or not all(c.isprintable() or c.isspace() for c in text):  # 3: a letter cut in two
        return None
    return f"it is text, beginning with {' '.join(text.split())!r}"


def _info(src: Any) -> RasterInfo:
    from affine import Affine

    a = src.transform
    box = norm_geobox(GeoBox((src.height, src.width), Affine(*list(a)[:6]), None if src.crs is None else src.crs.to_wkt()))
    nodatas = tuple(None if v is None else float(v) for v in src.nodatavals)
    height, width = src.block_shapes[0]
    return RasterInfo(box, tuple(src.dtypes), nodatas, (int(height), int(width)))


def check_asset(info: RasterInfo, asset: Asset, item_id: str) -> None:
    """A file must be what its metadata says: band count, dtype, grid, mark of empty pixels. AssetReadError where it is not."""
    reason = _band_differs(info, asset) or _grid_differs(info, asset) or _nodata_differs(info, asset)
    if reason is not None:
        raise AssetReadError(asset.href, item_id, asset.key, reason)


def _band_differs(info: RasterInfo, asset: Asset) -> str | None:
    if asset.bidx > len(info.dtypes):
        return f"band {asset.bidx} asked, the file has {len(info.dtypes)}"
    found = info.dtypes[asset.bidx - 1]
    return None if asset.dtype in (None, found) else f"its metadata says {asset.dtype}, the file holds {found}"


def _grid_differs(info: RasterInfo, asset: Asset) -> str | None:
    """Every corner must be where the metadata says: a pixel size that is a little wrong shows at the far ones."""
    if asset.geobox is None:
        return None
    declared, found = asset.geobox, info.geobox
    ny, nx = (int(n) for n in found.shape)
    corners = [(x, y) for x in (0.0, float(nx)) for y in (0.0, float(ny))]
    seen = [~declared.affine @ (found.affine @ corner) for corner in corners]
    if tuple(declared.shape) != (ny, nx) or not np.allclose(seen, corners, rtol=0, atol=_ALIGNED_PX):
        return (
            f"its metadata says grid {tuple(declared.shape)} {list(declared.affine)[:6]}, the file has {(ny, nx)} "
            f"{list(found.affine)[:6]}"
        )
    if declared.crs is not None and found.crs is not None and declared.crs != found.crs:
        return f"its metadata says {declared.crs}, the file has {found.crs}; mend whichever of the two is wrong"
    return None


def _nodata_differs(info: RasterInfo, asset: Asset) -> str | None:
    """A file that marks other pixels as empty than its asset: they would count as data. A tag no pixel can equal says nothing."""
    tag, dtype = info.nodatas[asset.bidx - 1], info.dtypes[asset.bidx - 1]
    if tag is None or not can_hold(dtype, tag) or (asset.nodata is not None and _same_number(dtype, tag, asset.nodata)):
        return None
    known = "its items know of none" if asset.nodata is None else f"its items say {asset.nodata:g}"
    return f"the file's own nodata tag is {tag:g}, {known}; state the file's nodata in the item's metadata"


def can_hold(dtype: str, value: float) -> bool:
    """Whether a pixel of that type can have the value."""
    kind = np.dtype(dtype).kind
    if kind not in "iu":
        return True
    limits = np.iinfo(dtype)
    return math.isfinite(value) and value == int(value) and int(limits.min) <= value <= int(limits.max)


def _same_number(dtype: str, one: float, other: float) -> bool:
    """As pixels of that type: float32's lowest is written with more or fewer digits. NaN equals NaN."""
    if np.dtype(dtype).kind != "f":
        return one == other
    with np.errstate(over="ignore"):
        return np.array_equal(np.array(one, dtype), np.array(other, dtype), equal_nan=True)


def _read(src: Any, info: RasterInfo, assets: Sequence[Asset], geobox: GeoBox, resampling: str) -> npt.NDArray[Any]:
    bands = [a.bidx for a in assets]
    fill = assets[0].nodata if assets[0].nodata is not None else info.nodata
    origin = aligned_origin(info.geobox, geobox)
    if origin is None:
        return _warp(src, info, bands, geobox, resampling, fill)
    return _window(src, bands, geobox, origin, fill)


def _window(src: Any, bands: list[int], geobox: GeoBox, origin: tuple[int, int], fill: float | None) -> npt.NDArray[Any]:
    from rasterio.windows import Window as RioWindow

    (y0, x0), (ny, nx) = origin, (int(n) for n in geobox.shape)
    ya, yb, xa, xb = max(0, y0), min(src.height, y0 + ny), max(0, x0), min(src.width, x0 + nx)
    inside = yb > ya and xb > xa
    whole: npt.NDArray[Any]
    if inside and (yb - ya, xb - xa) == (ny, nx):
        whole = src.read(bands, window=RioWindow(xa, ya, nx, ny))
        return whole
    whole = np.full((len(bands), ny, nx), fill or 0, src.dtypes[bands[0] - 1])
    if inside:
        whole[:, ya - y0 : yb - y0, xa - x0 : xb - x0] = src.read(bands, window=RioWindow(xa, ya, xb - xa, yb - ya))
    return whole


def _warp(src: Any, info: RasterInfo, bands: list[int], geobox: GeoBox, resampling: str, fill: float | None) -> npt.NDArray[Any]:
    from rasterio.enums import Resampling
    from rasterio.vrt import WarpedVRT

    if src.crs is None or geobox.crs is None:
        raise GridError(f"{src.name} has no CRS and cannot be put on another grid.")
    height, width = geobox.shape
    # GDAL approximates the transform and guesses the scale, both for each window anew: a part would differ from the whole.
    with WarpedVRT(
        src,
        crs=geobox.crs.to_wkt(),
        transform=geobox.affine,
        height=int(height),
        width=int(width),
        resampling=Resampling[resampling],
        src_nodata=fill,
        nodata=fill if fill is not None else 0,
        tolerance=_EXACT_PX,
        warp_mem_limit=64,
        UNIFIED_SRC_NODATA="NO",
        **_warp_scale(info.geobox, geobox),
    ) as vrt:
        pixels: npt.NDArray[Any] = vrt.read(bands)
        return pixels


def _warp_scale(inner: GeoBox, geobox: GeoBox) -> dict[str, str]:
    """GDAL's XSCALE and YSCALE, pixels of ``geobox`` a pixel of ``inner``, in the middle of ``inner``: equal for every window."""
    ny, nx = (int(n) for n in inner.shape)
    corners = [inner.affine @ (nx / 2 + dx, ny / 2 + dy) for dx, dy in ((0, 0), (1, 0), (0, 1))]
    if inner.crs is not None and geobox.crs is not None and inner.crs != geobox.crs:
        to_outer = inner.crs.transformer_to_crs(geobox.crs)
        corners = [to_outer(x, y) for x, y in corners]
    (x0, y0), (x1, y1), (x2, y2) = corners
    a = geobox.affine
    # Columns: one pixel of inner along x and y, in pixels of geobox. Its inverse says how far a pixel of geobox reaches in inner.
    jacobian = np.array([[(x1 - x0) / a.a, (x2 - x0) / a.a], [(y1 - y0) / a.e, (y2 - y0) / a.e]])
    if not np.isfinite(jacobian).all() or abs(np.linalg.det(jacobian)) < 1e-12:
        raise GridError(f"The middle of a file on {inner.crs} cannot be put on a grid in {geobox.crs}.")
    reach_x, reach_y = np.hypot.reduce(np.linalg.inv(jacobian), axis=1)
    return {"XSCALE": f"{1 / reach_x:.9g}", "YSCALE": f"{1 / reach_y:.9g}"}


def aligned_origin(inner: GeoBox, geobox: GeoBox) -> tuple[int, int] | None:
    """(y, x) pixel of ``inner`` at the corner of ``geobox`` where both lie on one pixel grid; else None."""
    a, b = inner.affine, geobox.affine
    if inner.crs != geobox.crs or (a.b, a.d) != (0, 0) or (b.b, b.d) != (0, 0):
        return None
    ny, nx = geobox.shape
    # Written out: a product of two transforms takes as long as reading a small block.
    x0, x1 = (b.c - a.c) / a.a, (b.c + nx * b.a - a.c) / a.a
    y0, y1 = (b.f - a.f) / a.e, (b.f + ny * b.e - a.f) / a.e
    near = (abs(v - round(v)) < _ALIGNED_PX for v in (x0, y0, x1, y1))
    if all(near) and (round(x1) - round(x0), round(y1) - round(y0)) == (nx, ny):
        return round(y0), round(x0)
    return None
