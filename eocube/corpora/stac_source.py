"""Time steps of STAC scenes as a source: files put on one grid, several of a day joined, and what that costs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from odc.geo.geobox import GeoBox

from eocube.corpora.sentinel2_offset import SHIFT
from eocube.errors import NO_HREF, AssetReadError, RadiometryError, UnknownNameError
from eocube.io.geotiff import GeoTiffReader
from eocube.io.rasters import CURL_CACHE_BYTES, RasterInfo, Reader, is_remote
from eocube.kernels.radiometry import shift_dn
from eocube.model.frame import Frame, Variable
from eocube.model.hashing import digest
from eocube.model.recipe import Arrays, Cost, Node, OnError
from eocube.model.scene import Asset, Scene
from eocube.model.window import Window

RESAMPLINGS = (
    "nearest", "bilinear", "cubic", "cubic_spline", "lanczos", "average", "mode",
    "max", "min", "med", "q1", "q3", "sum", "rms",
)  # fmt: skip
"""GDAL's names for warping; rasterio's ``Resampling`` has one more, which is for overviews only."""

_DEFAULT_BLOCK = (512, 512)
_BLOCK_TRIES = 8
_SNAP_PX = 1e-3
_GDAL_BLOCKS = 3
"""Blocks that GDAL holds beside those that it keeps: one coded, one decoded, and one that was looked at before."""

WARP_COPIES = 3
"""Pixels of a window that GDAL's warper holds at most, for each that it gives."""

_KERNEL_PX = 3
"""Widest half of a resampling kernel (Lanczos), in pixels of the coarser grid."""


@dataclass(frozen=True, kw_only=True)
class StacOptions:
    """What changes the pixels of a cube, beside its items: part of its recipe."""

    resampling: str = "nearest"
    """For files that do not lie on the cube's grid: nearest, bilinear, cubic, average … (GDAL's names). Classes: nearest."""

    mosaic: str = "solar_day"
    """``solar_day``: items of one local day are one date, the first with data wins; ``none``: every item is a date."""

    dn_offset: int | None = None
    """Override for Sentinel-2 whose metadata does not tell: what the files hold, 0 or -1000 DN."""

    def __post_init__(self) -> None:
        if self.resampling not in RESAMPLINGS:
            raise UnknownNameError("resampling", self.resampling, RESAMPLINGS)
        if self.dn_offset not in (None, 0, -SHIFT):
            raise RadiometryError(f"dn_offset is {self.dn_offset}; Sentinel-2 files hold 0 or -1000, and others have none.")


class Box(NamedTuple):
    """A rectangle of pixels, in fractions."""

    y0: float
    y1: float
    x0: float
    x1: float

    def meets(self, other: Box) -> bool:
        """Whether both have area in common."""
        return self.y0 < other.y1 and other.y0 < self.y1 and self.x0 < other.x1 and other.x0 < self.x1

    def padded(self, n: float) -> Box:
        """Wider by ``n`` pixels on every side."""
        return Box(self.y0 - n, self.y1 + n, self.x0 - n, self.x1 + n)


_EVERYWHERE = Box(-math.inf, math.inf, -math.inf, math.inf)
_GridKey = tuple[str, tuple[float, ...], tuple[int, ...]]


def _grid_key(box: GeoBox) -> _GridKey:
    """Equal for equal grids; a GeoBox's own hash writes its CRS out as WKT each time."""
    return str(box.crs), tuple(box.affine), tuple(box.shape)


def box_on(inner: GeoBox, outer: GeoBox) -> Box:
    """The rectangle of ``inner``, in pixels of ``outer``, that covers ``outer``'s view of it; curved sides are followed."""
    (ny, nx), a = inner.shape, ~outer.affine @ inner.affine
    if outer.crs is None or inner.crs == outer.crs:
        corners = [a @ (x, y) for x in (0.0, float(nx)) for y in (0.0, float(ny))]
    else:
        bounds = inner.extent.to_crs(outer.crs, resolution=_longest(inner) / 16).boundingbox
        corners = [~outer.affine @ (x, y) for x in (bounds.left, bounds.right) for y in (bounds.bottom, bounds.top)]
    if not np.isfinite(corners).all():  # beyond what the projection can say: better everywhere than nowhere
        return _EVERYWHERE
    xs, ys = zip(*corners, strict=True)
    return Box(min(ys), max(ys), min(xs), max(xs))


def _longest(box: GeoBox) -> float:
    bounds = box.boundingbox
    return float(max(bounds.right - bounds.left, bounds.top - bounds.bottom))


class StacSource:
    """Time steps of scenes, read on one grid. See :class:`eocube.model.recipe.Source`."""

    def __init__(self, frame: Frame, steps: Sequence[tuple[Scene, ...]], options: StacOptions, reader: Reader | None = None):
        self._frame, self._steps, self._options = frame, tuple(steps), options
        self._reader = reader or GeoTiffReader()

    @cached_property
    def node(self) -> Node:
        """The source's entry in a recipe."""
        data = self._frame.data
        return {
            "source": self.token(),
            "kind": "stac",
            "bands": list(self._frame.band_names),
            "masks": [v.name for v in self._frame.masks],
            "scale": data.scale,
            "offset": data.offset,
            "nodata": "nan" if data.nodata is not None and math.isnan(data.nodata) else data.nodata,
            "resampling": self._options.resampling,
            "mosaic": self._options.mosaic,
        }

    def frame(self) -> Frame:
        """See :class:`eocube.model.recipe.Source`."""
        return self._frame

    @cached_property
    def block_yx(self) -> tuple[int, int]:
        """See :class:`eocube.model.recipe.Source`: the block of the first file that can be opened, read from its header."""
        return _DEFAULT_BLOCK if self._header is None else self._header.block_yx

    @cached_property
    def _header(self) -> RasterInfo | None:
        """Of the first file that can be opened."""
        files = dict.fromkeys(a.href for a in self._files())
        for _, href in zip(range(_BLOCK_TRIES), files, strict=False):
            try:
                return self._reader.describe(href)
            except AssetReadError:
                continue
        return None

    def __getstate__(self) -> dict[str, Any]:
        return {k: self.__dict__[k] for k in ("_frame", "_steps", "_options", "_reader")}

    @cached_property
    def _token(self) -> str:
        steps = [
            [[s.item_id, s.time_ms, {k: [a.href, a.key, a.bidx, a.dn_shift] for k, a in s.assets.items()}] for s in g]
            for g in self._steps
        ]
        grid = [str(self._frame.geobox.crs), list(self._frame.geobox.affine)[:6], list(self._frame.shape_yx)]
        return digest([steps, grid, [repr(v) for v in self._frame.variables], list(self._frame.band_names), repr(self._options)])

    def token(self) -> str:
        """See :class:`eocube.model.recipe.Source`."""
        return self._token

    # ------------------------------------------------------------------------------------ which files a window needs

    @cached_property
    def _placed(self) -> list[list[tuple[Scene, list[Box]]]]:
        """For each date its scenes with where their files reach on the cube's grid, room for a kernel included.

        A scene without a file could lie anywhere: it is read, and fails, rather than be taken for elsewhere.
        """
        reach: dict[_GridKey, Box] = {}

        def box_of(grid: GeoBox | None) -> Box:
            if grid is None:
                return _EVERYWHERE
            key = _grid_key(grid)
            if key not in reach:
                box = box_on(grid, self._frame.geobox)
                reach[key] = box.padded(_kernel_px(box, grid))
            return reach[key]

        def boxes_of(scene: Scene) -> list[Box]:
            return list({box_of(a.geobox) for a in scene.assets.values()}) or [_EVERYWHERE]

        return [[(s, boxes_of(s)) for s in step] for step in self._steps]

    def _scenes(self, t: int, window: Window) -> Iterator[Scene]:
        """Scenes of a date with a file that reaches into the window, by the files' declared grids."""
        asked = Box(*map(float, (*window.y, *window.x)))
        return (scene for scene, boxes in self._placed[t] if any(b.meets(asked) for b in boxes))

    def ids(self, window: Window) -> list[list[Any]]:
        """See :class:`eocube.model.recipe.Source`."""
        return [scene.identity for t in window.times for scene in self._scenes(t, window)]

    def assets(self) -> list[dict[str, Any]]:
        """See :class:`eocube.model.recipe.Source`."""
        return [
            {"item_id": s.item_id, "time": s.time_ms, "asset": a.key, "href": a.href, "dn_shift": a.dn_shift}
            for step in self._steps
            for s in step
            for a in s.assets.values()
        ]

    def cost(self, window: Window) -> Cost:
        """See :class:`eocube.model.recipe.Source`: whole blocks of every file; one request a block and one a header."""
        blocks: dict[_GridKey | None, tuple[int, int]] = {}
        height, width = window.shape_yx
        cost = Cost(0, 0, 0)
        for t in window.times:
            for scene in self._scenes(t, window):
                for name, asset in scene.assets.items():
                    v = self._frame.data if name in self._frame.band_names else self._frame.variable(name)
                    size = np.dtype(v.dtype).itemsize
                    key = None if asset.geobox is None else _grid_key(asset.geobox)
                    if key not in blocks:
                        blocks[key] = self._blocks(asset.geobox, window)
                    n, pixels = blocks[key]
                    cost += Cost(1 + n, n * pixels * size, height * width * size)
        return cost

    def _blocks(self, grid: GeoBox | None, window: Window) -> tuple[int, int]:
        """(number of a file's blocks that a window touches, pixels of one)."""
        part = self._frame.geobox[slice(*window.y), slice(*window.x)]
        grid = self._frame.geobox if grid is None else grid
        (ny, nx), box = map(int, grid.shape), box_on(part, grid)
        box = box.padded(_kernel_px(box, part))
        by, bx = min(self.block_yx[0], ny), min(self.block_yx[1], nx)
        return _touched(box.y0, box.y1, by, ny) * _touched(box.x0, box.x1, bx, nx), by * bx

    def scratch_bytes(self, window: Window) -> int:
        """See :class:`eocube.model.recipe.Scratching`.

        One file's pixels, once more to shift them, what decoding it takes, and flags of pixels that a later scene may fill.
        """
        pixels = math.prod(window.shape_yx)
        size = max(np.dtype(v.dtype).itemsize for v in self._frame.variables)
        file = pixels * size * self._bands_a_file * (2 if any(a.dn_shift for a in self._files()) else 1)
        flags = pixels * len(self._frame.bands) if any(len(step) > 1 for step in self._steps) else 0
        looking = 3 * flags if self._frame.data.dtype.startswith("float") else flags
        decoding = max((self._decoding_bytes(grid, window, size) for grid in self._grids), default=0)
        return max(looking, flags + file + decoding)

    def _decoding_bytes(self, grid: GeoBox | None, window: Window, size: int) -> int:
        """A block as it is coded and decoded; where GDAL reads, every block that is needed, and on another grid its buffers.

        GDAL keeps the blocks of an open file, of all its bands where they lie pixel by pixel, and what it fetched.
        """
        aligned = grid is not None and not _kernel_px(box_on(grid, self._frame.geobox), grid)
        if aligned and not self._fetched and self._samples == 1:
            return 2 * size * math.prod(self.block_yx)
        n, block = self._blocks(grid, window)
        warping = 0 if aligned else WARP_COPIES * math.prod(window.shape_yx)
        coded = _GDAL_BLOCKS * block * self._samples if aligned or self._samples > 1 else 0
        fetched = CURL_CACHE_BYTES + size * n * block * self._samples if self._fetched else 0
        return size * (n * block * self._samples + coded + warping) + fetched

    @cached_property
    def _fetched(self) -> bool:
        """Whether GDAL fetches any file."""
        return any(is_remote(a.href) for a in self._files())

    @cached_property
    def _samples(self) -> int:
        """Most bands that a file is known to have: of which any is used, and of the first that can be opened all."""
        used = max((a.bidx for a in self._files()), default=1)
        return used if self._header is None else max(used, len(self._header.dtypes))

    @cached_property
    def _grids(self) -> list[GeoBox | None]:
        """Every grid that files lie on; None for one that is not stated."""
        found = {None if a.geobox is None else _grid_key(a.geobox): a.geobox for a in self._files()}
        return list(found.values())

    @cached_property
    def _bands_a_file(self) -> int:
        """Most bands of a scene that come from one file."""
        counts = (Counter(a.href for a in s.assets.values()) for step in self._steps for s in step)
        return max((max(c.values(), default=1) for c in counts), default=1)

    def _files(self) -> Iterator[Asset]:
        return (a for step in self._steps for s in step for a in s.assets.values())

    # ------------------------------------------------------------------------------------ pixels

    def read(self, window: Window, *, names: tuple[str, ...] | None = None, on_error: OnError | None = None) -> Arrays:
        """See :class:`eocube.model.recipe.Source`."""
        box = self._frame.geobox[slice(*window.y), slice(*window.x)]
        out: Arrays = {}
        for v in self._frame.variables:
            if names is not None and v.name not in names:
                continue
            layers = self._frame.band_names if v.banded else (v.name,)
            pixels = np.empty((len(window.times), len(layers), *window.shape_yx), v.dtype)
            for i, t in enumerate(window.times):
                self._read_step(tuple(self._scenes(t, window)), layers, box, v, pixels[i], on_error)
            out[v.name] = pixels if v.banded else pixels[:, 0]
        return out

    def _read_step(
        self,
        step: tuple[Scene, ...],
        layers: tuple[str, ...],
        box: GeoBox,
        v: Variable,
        out: npt.NDArray[Any],
        on_error: OnError | None,
    ) -> None:
        """One date of some layers: the first scene with data wins, pixel by pixel."""
        unread = set(range(len(layers)))
        for n, scene in enumerate(step):
            open_px = _is_fill(out, v.fill) if n else None
            if open_px is not None and not open_px.any():
                return
            for rows, pixels in self._read_scene(scene, layers, box, v, on_error):
                for row, values in zip(rows, pixels, strict=True):
                    np.copyto(out[row], values, where=True if open_px is None else open_px[row])
                unread -= set(rows)
                del pixels, values  # else they would stay while the next file is read
            if open_px is None:
                out[sorted(unread)] = v.fill
        if not step:
            out[:] = v.fill

    def _read_scene(
        self, scene: Scene, layers: tuple[str, ...], box: GeoBox, v: Variable, on_error: OnError | None
    ) -> Iterable[tuple[list[int], npt.NDArray[Any]]]:
        """(layer rows, their pixels) file by file, each opened once."""
        files: dict[str, list[int]] = {}
        for row, name in enumerate(layers):
            asset = scene.assets.get(name)
            if asset is None:
                _fail(AssetReadError(NO_HREF, scene.item_id, name, self._lack(scene, name)), on_error)
            else:
                files.setdefault(asset.href, []).append(row)
        for rows in files.values():
            assets = [scene.assets[layers[r]] for r in rows]
            try:
                resampling = self._options.resampling if v.banded else "nearest"
                pixels = self._reader.read(assets, box, item_id=scene.item_id, resampling=resampling)
            except AssetReadError as e:
                _fail(e, on_error)
                continue
            pixels = _shifted(pixels, assets[0], scene, v)
            yield rows, pixels
            del pixels

    def _lack(self, scene: Scene, name: str) -> str:
        """Why an item has no asset for a band or mask, and what to do."""
        items = [s for step in self._steps for s in step]
        having = sum(name in s.assets for s in items)
        text = f"the item has no asset for {name!r}; it has {sorted(scene.assets)}; only {having} of {len(items)} items have it"
        banded = name in self._frame.band_names
        return f"{text}. Name the bands that all of them have (--bands, bands=)" if banded else text


def _shifted(pixels: npt.NDArray[Any], asset: Asset, scene: Scene, v: Variable) -> npt.NDArray[Any]:
    if not asset.dn_shift:
        return pixels
    try:
        return shift_dn(pixels, shift=asset.dn_shift, nodata=int(v.fill))
    except RadiometryError as e:
        raise RadiometryError(f"Asset {asset.key!r} of item {scene.item_id!r} ({asset.href}): {e}") from e


def _is_fill(values: npt.NDArray[Any], fill: float) -> npt.NDArray[np.bool_]:
    """Where a later scene of the day may still put its pixels; NaN is never data."""
    open_px: npt.NDArray[np.bool_] = values == fill
    return open_px | np.isnan(values) if values.dtype.kind == "f" else open_px


def _kernel_px(box: Box, grid: GeoBox) -> float:
    """How much wider than ``box`` (where ``grid`` lies on another) a resampling reaches: nothing where pixels coincide."""
    (ny, nx), height, width = map(int, grid.shape), box.y1 - box.y0, box.x1 - box.x0
    if all(math.isfinite(v) and abs(v - round(v)) < _SNAP_PX for v in box) and (round(height), round(width)) == (ny, nx):
        return 0.0
    return _KERNEL_PX * max(1.0, height / ny, width / nx) + 1


def _touched(low: float, high: float, block: int, size: int) -> int:
    """How many blocks of a file of ``size`` pixels the range touches."""
    if not math.isfinite(low + high):
        return -(-size // block)
    first, last = max(0, math.floor(low + _SNAP_PX)), min(size, math.ceil(high - _SNAP_PX))
    return -(-last // block) - first // block if last > first else 0


def _fail(error: AssetReadError, on_error: OnError | None) -> None:
    if on_error is None:
        raise error
    on_error(error)
