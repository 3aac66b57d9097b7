"""The tiles of super-resolution: one shape, on one grid from the cube's first pixel, whatever piece of the cube is asked for.

A pixel is always computed in the same tile with the same context, so that a store, a lazy block and any window hold the same
bits. What lies beyond the cube is not valid, as if it were nodata.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from eocube.errors import ModelError
from eocube.infer.model import Model, band_indices, check_output
from eocube.infer.pool import TileInput
from eocube.kernels.arrays import AnyArray, BoolArray, Float32Array, UInt16Array
from eocube.kernels.radiometry import dn_to_reflectance, reflectance_to_dn
from eocube.model.bands import Band
from eocube.model.frame import Frame, Variable
from eocube.model.window import Span

CORE_PX = 64
"""LR pixels of a tile's core along each axis."""

BATCH_TILES = 8
"""Tiles of a batch. One number for every run: float32 convolutions differ in the last bits between batch sizes."""

SCALE, OFFSET, NODATA = 1e-4, -0.1, 0
"""Reflectance = stored number × scale + offset; 0 means no data."""

SR_DATA = Variable(
    name="data",
    dtype="uint16",
    banded=True,
    nodata=NODATA,
    scale=SCALE,
    offset=OFFSET,
    attrs=(("long_name", "reflectance, super-resolved"),),
)
"""What a super-resolved cube holds, whatever its input was: the numbers of Sentinel-2 L2A since baseline 04.00. Reflectance
below -0.0999 and above 6.4535 is set to these ends."""

LOST_SCALARS = ("dn_shift",)
"""Scalars of a date that speak of the input's numbers."""


class Inputs(NamedTuple):
    """Pixels of the LR cube around what is asked for."""

    lr: Float32Array
    """(date, band, y, x) reflectance in the model's bands and order, 0 where not valid."""
    valid: BoolArray
    """(date, y, x): every band has data."""
    origin_yx: tuple[int, int]
    """Place of the first pixel in the cube."""


class Key(NamedTuple):
    """A tile: which date of the input, and where its core starts in the cube."""

    t: int
    y: int
    x: int


def sr_frame(frame: Frame, model: Any) -> Frame:
    """The frame of the super-resolved cube; ModelError where the model does not fit this one."""
    scale = check_model(frame, model)
    box = frame.geobox
    ny, nx = frame.shape_yx
    known = {b.name: b for b in frame.bands}
    return frame.with_(
        geobox=type(box)((ny * scale, nx * scale), box.affine @ type(box.affine).scale(1 / scale), box.crs),
        bands=tuple(known.get(name, Band(name=name)) for name in model.bands_out),
        variables=tuple(SR_DATA if v.name == "data" else v for v in frame.variables),
        per_time=tuple(p for p in frame.per_time if p.name not in LOST_SCALARS),
    )


def check_model(frame: Frame, model: Any) -> int:
    """The model's scale, if it can run over a cube like this: else ModelError says what does not fit."""
    if not hasattr(model, "bands_in"):
        raise ModelError(f"{model!r} is not a model. Pass what eocube.load_model gives for a folder, 'bicubic' or 'nearest'.")
    band_indices(model, frame.band_names)
    if model.scale.denominator != 1 or model.scale < 1:
        raise ModelError(
            f"The model gives {model.scale} output pixels per input pixel; over cubes only whole numbers from 1 run so far, "
            "because the output grid must nest in the input's."
        )
    if model.revisits != 1:
        raise ModelError(f"The model takes {model.revisits} revisits; over cubes only single-frame models run so far.")
    data = frame.data
    if np.dtype(data.dtype).kind in "iu" and data.scale is None:
        raise ModelError(
            f"The model takes reflectance and the cube holds {data.dtype} numbers without a scale, so they cannot be decoded. "
            "Give the cube's data scale_factor and add_offset, or decode it first."
        )
    return int(model.scale)


def tile_edge(model: Model) -> int:
    """LR pixels of a tile along each axis: core and halo."""
    return CORE_PX + 2 * model.halo_px


def cores(span: Span) -> range:
    """Where the cores that touch a span of LR pixels start."""
    return range(span[0] // CORE_PX * CORE_PX, span[1], CORE_PX)


def context(span: Span, size: int, model: Model) -> Span:
    """The LR pixels that the tiles of a span see: whole cores and the halo, as far as the cube of ``size`` pixels goes."""
    starts = cores(span)
    if not starts:
        return span
    return max(0, starts[0] - model.halo_px), min(size, starts[-1] + CORE_PX + model.halo_px)


def decoded(data: AnyArray, variable: Variable, bands: tuple[int, ...], origin_yx: tuple[int, int]) -> Inputs:
    """Inputs out of ``data`` (date, band, y, x) as a cube holds it."""
    chosen = data[:, list(bands)]
    if chosen.dtype.kind in "iu":
        chosen = dn_to_reflectance(chosen, scale=variable.scale or 1.0, offset=variable.offset or 0.0, nodata=variable.nodata)
    valid = np.asarray(np.isfinite(chosen).all(axis=1))
    lr = np.where(valid[:, None], chosen, 0).astype(np.float32, copy=False)
    return Inputs(lr, valid, origin_yx)


def iter_tiles(inputs: Inputs, y: Span, x: Span, model: Model) -> Iterator[TileInput]:
    """The tiles whose cores touch LR pixels (y, x), date by date; those without a valid pixel there are left out."""
    days = np.zeros(1, np.float32)
    for t in range(len(inputs.lr)):
        for y0 in cores(y):
            for x0 in cores(x):
                wanted = _within(inputs, (y0, y0 + CORE_PX), y, 0), _within(inputs, (x0, x0 + CORE_PX), x, 1)
                if inputs.valid[t][wanted].any():
                    lr, valid = (_cut(a[t], inputs.origin_yx, y0, x0, model) for a in (inputs.lr, inputs.valid))
                    yield TileInput(Key(t, y0, x0), lr[None], valid[None], days)


def _within(inputs: Inputs, core: Span, asked: Span, axis: int) -> slice:
    """The part of a core that is asked for, in pixels of the inputs."""
    origin = inputs.origin_yx[axis]
    return slice(max(core[0], asked[0]) - origin, min(core[1], asked[1]) - origin)


def _cut(values: npt.NDArray[Any], origin_yx: tuple[int, int], y0: int, x0: int, model: Model) -> npt.NDArray[Any]:
    """One tile out of (…, y, x); 0 where there are no pixels."""
    edge = tile_edge(model)
    tile = np.zeros((*values.shape[:-2], edge, edge), values.dtype)
    first = y0 - model.halo_px - origin_yx[0], x0 - model.halo_px - origin_yx[1]
    y, x = (slice(max(0, f), max(0, min(n, f + edge))) for f, n in zip(first, values.shape[-2:], strict=True))
    tile[..., y.start - first[0] : y.stop - first[0], x.start - first[1] : x.stop - first[1]] = values[..., y, x]
    return tile


class Canvas:
    """The super-resolved numbers of LR pixels (y, x): filled tile by tile, nodata elsewhere."""

    def __init__(self, valid: BoolArray, y: Span, x: Span, model: Model):
        """``valid`` (date, y, x) is that of the LR pixels (y, x)."""
        self._valid, self._y, self._x, self._halo_px, self._scale = valid, y, x, model.halo_px, int(model.scale)
        height, width = (s[1] - s[0] for s in (y, x))
        shape = (len(valid), len(model.bands_out), height * self._scale, width * self._scale)
        self.dn: UInt16Array = np.full(shape, NODATA, np.uint16)
        """(date, band, y, x)."""

    def put(self, key: Key, out: Float32Array) -> None:
        """Take the core out of a tile's result (band, y, x) reflectance."""
        (ly, oy), (lx, ox) = self._place(key.y, self._y), self._place(key.x, self._x)
        s = self._scale
        valid = np.repeat(np.repeat(self._valid[key.t, ly, lx], s, axis=0), s, axis=1)
        core = np.where(valid, out[:, oy, ox], np.nan)
        at = (key.t, slice(None), _times(ly, s), _times(lx, s))
        self.dn[at] = reflectance_to_dn(core, scale=SCALE, offset=OFFSET, dtype="uint16", nodata=NODATA, out_of_range="clip")

    def _place(self, core: int, asked: Span) -> tuple[slice, slice]:
        """Of one axis: LR pixels of the canvas, and output pixels of the tile."""
        start, stop = max(core, asked[0]), min(core + CORE_PX, asked[1])
        first = start - core + self._halo_px
        return slice(start - asked[0], stop - asked[0]), _times(slice(first, first + stop - start), self._scale)


def _times(s: slice, scale: int) -> slice:
    return slice(s.start * scale, s.stop * scale)


def predict(model: Model, inputs: Inputs, y: Span, x: Span) -> UInt16Array:
    """The super-resolved numbers of LR pixels (y, x), (date, band, y, x); in this thread, batch by batch."""
    oy, ox = inputs.origin_yx
    canvas = Canvas(inputs.valid[:, y[0] - oy : y[1] - oy, x[0] - ox : x[1] - ox], y, x, model)
    for batch in _batched(iter_tiles(inputs, y, x, model)):
        out = _forward(model, batch)
        for tile, values in zip(batch, out, strict=False):
            assert isinstance(tile.key, Key)  # noqa: S101 - as iter_tiles made it
            canvas.put(tile.key, values)
    return canvas.dn


def _batched(tiles: Iterable[TileInput]) -> Iterator[list[TileInput]]:
    batch: list[TileInput] = []
    for tile in tiles:
        batch.append(tile)
        if len(batch) == BATCH_TILES:
            yield batch
            batch = []
    if batch:
        yield batch


def _forward(model: Model, batch: list[TileInput]) -> Float32Array:
    """A batch of the one shape; what it lacks is padded, as the pool does."""
    n_pad = BATCH_TILES - len(batch)
    lr = _padded([t.lr for t in batch], n_pad)
    valid, days = _padded([t.valid for t in batch], n_pad), _padded([t.days for t in batch], n_pad)
    out = model(lr, valid=valid, days=days)
    edge = tile_edge(model) * math.floor(model.scale)
    check_output(out, (BATCH_TILES, len(model.bands_out), edge, edge))
    return out


def _padded(values: list[Any], n: int) -> npt.NDArray[Any]:
    """Stacked, with ``n`` more of 0."""
    return np.concatenate([np.stack(values), np.zeros((n, *values[0].shape), values[0].dtype)])
