"""CubeSpec: how a cube is cut into chunks, shards and regions, and the names that decide what is finished.

A *region* is what one task writes: the same shard index in every variable. Layouts fix the shard's length in time, so that
an append touches only the last, part-filled shards.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np

from eocube.errors import UnknownNameError
from eocube.model.bands import SCL_CLEAR
from eocube.model.frame import Frame, Variable
from eocube.model.hashing import digest
from eocube.model.window import Span, Window

FORMAT = 2
"""Version of the store format; raised when a store written before can no longer be read."""

Layout = Literal["map", "patch", "balanced", "series"]
SHARD_DATES: dict[str, int] = {"map": 1, "patch": 4, "balanced": 16, "series": 64}
CHUNK_DATES: dict[str, int] = {"map": 1, "patch": 1, "balanced": 1, "series": 16}
CHUNK_EDGE_PX = 256
MIN_CHUNK_BYTES = 256 * 1024
MAX_CHUNK_BYTES = 2 * 1024 * 1024
MAX_SHARD_BYTES = 64 * 1024 * 1024
SUMMARY = "clear_summary"
CELL_PX = 16
CODEC = {"name": "blosc", "cname": "zstd", "clevel": 1, "shuffle": "bitshuffle", "checksum": "crc32c"}
"""Blosc zstd level 1 with bitshuffle and one block a chunk: on 16-bit imagery it encodes about twice as fast as level 3 with
automatic blocks, and comes out smaller (benchmarks/codec.py). Each chunk ends with its CRC-32C, which every
Zarr reader checks."""


class Region(NamedTuple):
    """Index of a shard along time, y and x: the piece that one task writes."""

    t: int
    y: int
    x: int

    def __str__(self) -> str:
        return f"{self.t}.{self.y}.{self.x}"


class Piece(NamedTuple):
    """A sub-window of a region: whole inner chunks, evaluated and encoded at once."""

    window: Window
    chunk: tuple[int, int, int]
    """Index of its first inner chunk inside the region, along time, y and x."""


@dataclass(frozen=True, kw_only=True)
class CubeSpec:
    """How one cube is stored."""

    frame: Frame
    layout: Layout
    chunk_tyx: tuple[int, int, int]
    """Inner (read) chunk along time, y, x; all bands are in one chunk."""

    shard_tyx: tuple[int, int, int]
    """Write unit, whole chunks."""

    cell_px: int
    """Edge of a ``clear_summary`` cell; no cell belongs to two regions."""

    @cached_property
    def grid(self) -> tuple[int, int, int]:
        """Number of regions along time, y and x."""
        ny, nx = self.frame.shape_yx
        st, sy, sx = self.shard_tyx
        return math.ceil(len(self.frame.time_ms) / st), math.ceil(ny / sy), math.ceil(nx / sx)

    def regions(self) -> Iterator[Region]:
        """Every region, time slowest."""
        return (Region(*i) for i in np.ndindex(*self.grid))

    def window(self, region: Region) -> Window:
        """The pixels of a region, clipped at the cube."""
        st, sy, sx = self.shard_tyx
        ny, nx = self.frame.shape_yx
        times = range(region.t * st, min(len(self.frame.time_ms), (region.t + 1) * st))
        y: Span = (region.y * sy, min(ny, (region.y + 1) * sy))
        x: Span = (region.x * sx, min(nx, (region.x + 1) * sx))
        return Window(tuple(times), y, x)

    def pieces(self, region: Region, chunks_tyx: tuple[int, int, int]) -> Iterator[Piece]:
        """The region cut into sub-windows of at most ``chunks_tyx`` inner chunks, in C order."""
        whole = self.window(region)
        spans = ((0, len(whole.times)), whole.y, whole.x)
        counts = [math.ceil((b - a) / c) for (a, b), c in zip(spans, self.chunk_tyx, strict=True)]
        for first in np.ndindex(*(math.ceil(n / k) for n, k in zip(counts, chunks_tyx, strict=True))):
            start = tuple(i * k for i, k in zip(first, chunks_tyx, strict=True))
            cut = [
                (a + s * c, min(b, a + (s + k) * c))
                for (a, b), s, k, c in zip(spans, start, chunks_tyx, self.chunk_tyx, strict=True)
            ]
            yield Piece(Window(whole.times[slice(*cut[0])], cut[1], cut[2]), (start[0], start[1], start[2]))

    @property
    def chunks_per_shard(self) -> tuple[int, int, int]:
        """Inner chunks of a shard along time, y, x."""
        (ct, cy, cx), (st, sy, sx) = self.chunk_tyx, self.shard_tyx
        return st // ct, sy // cy, sx // cx

    def chunk_shape(self, variable: Variable) -> tuple[int, ...]:
        """Inner chunk of a variable."""
        return self._with_bands(variable, self.chunk_tyx)

    def shard_shape(self, variable: Variable) -> tuple[int, ...]:
        """Shard of a variable."""
        return self._with_bands(variable, self.shard_tyx)

    def _with_bands(self, variable: Variable, tyx: tuple[int, int, int]) -> tuple[int, ...]:
        return (tyx[0], len(self.frame.bands), *tyx[1:]) if variable.banded else tyx

    @property
    def summary_shape(self) -> tuple[int, int, int]:
        """Shape of ``clear_summary``: dates, cells along y, cells along x."""
        ny, nx = self.frame.shape_yx
        return len(self.frame.time_ms), math.ceil(ny / self.cell_px), math.ceil(nx / self.cell_px)

    @property
    def summary_chunk(self) -> tuple[int, int, int]:
        """Chunk of ``clear_summary``: one a region."""
        st, sy, sx = self.shard_tyx
        return st, math.ceil(sy / self.cell_px), math.ceil(sx / self.cell_px)

    @property
    def clear_rule(self) -> dict[str, Any]:
        """How a pixel counts as clear: by SCL class where the cube has ``scl``, else by having data."""
        if any(v.name == "scl" for v in self.frame.variables):
            return {"variable": "scl", "clear_values": list(SCL_CLEAR)}
        return {"variable": "data", "clear": "valid"}


def choose_spec(frame: Frame, *, layout: Layout = "balanced", block_yx: tuple[int, int] = (1, 1)) -> CubeSpec:
    """Cut a cube by its declared use.

    Parameters
    ----------
    frame
        The cube to store.
    layout
        ``map`` (shards of 1 date), ``patch`` (4), ``balanced`` (16) or ``series`` (64).
    block_yx
        Block of the source; a shard covers at least one, up to 1,024 pixels.

    Returns
    -------
    Inner chunks of 256 px (less for a smaller cube) and 0.25-2 MB raw; square shards of whole chunks up to 64 MiB raw.
    Nothing depends on the number of dates, so that appending never changes the cut.
    """
    if layout not in SHARD_DATES:
        raise UnknownNameError("layout", layout, SHARD_DATES)
    ny, nx = frame.shape_yx
    deep = sum(np.dtype(v.dtype).itemsize * (len(frame.bands) if v.banded else 1) for v in frame.variables if v.name == "data")
    shard_t, chunk_t, edge = SHARD_DATES[layout], CHUNK_DATES[layout], CHUNK_EDGE_PX
    while chunk_t * deep * edge * edge > MAX_CHUNK_BYTES and edge > 64:
        edge //= 2
    cy, cx = min(edge, ny), min(edge, nx)
    while chunk_t * 2 <= shard_t and chunk_t * deep * cy * cx < MIN_CHUNK_BYTES:
        chunk_t *= 2
    shard = edge
    while shard_t * deep * (2 * shard) ** 2 <= MAX_SHARD_BYTES or shard < min(max(block_yx), 1024):
        shard *= 2
    sy, sx = (_cover(min(shard, math.ceil(n / c) * c), c) for n, c in ((ny, cy), (nx, cx)))
    cut = [c for n, c in ((ny, cy), (nx, cx)) if c < n]
    return CubeSpec(
        frame=frame,
        layout=layout,
        chunk_tyx=(chunk_t, cy, cx),
        shard_tyx=(shard_t, sy, sx),
        # Cells must not straddle chunks; along an axis of one chunk the last may stick out of the cube.
        cell_px=_largest_divisor(math.gcd(*cut), CELL_PX) if cut else CELL_PX,
    )


def _cover(size: int, unit: int) -> int:
    return math.ceil(size / unit) * unit


def _largest_divisor(n: int, most: int) -> int:
    return max(d for d in range(1, most + 1) if n % d == 0)


def settings_id(recipe: str, spec: CubeSpec) -> str:
    """Name of everything but which sources, where and how many: it must match to write into a cube that exists."""
    frame = spec.frame
    return digest(
        {
            "format": FORMAT,
            "recipe": recipe,
            "bands": list(frame.band_names),
            "variables": [[v.name, v.dtype, repr(v.nodata), repr(v.scale), repr(v.offset)] for v in frame.variables],
            "layout": spec.layout,
            "chunk_dates": spec.chunk_tyx[0],
            "cell_px": spec.cell_px,
            "codec": CODEC,
        }
    )


def region_key(sid: str, cube: str, product: str, spec: CubeSpec, region: Region, leaves: Mapping[str, list[Any]]) -> str:
    """Name of one region's content: settings, place, output dates, and per input what its pixels come from.

    ``leaves`` are the sorted rows of ``Source.ids`` by input name. Whatever run made it, a region with this key has these bytes.
    """
    window, box = spec.window(region), spec.frame.geobox
    return digest(
        [
            sid,
            cube,
            product,
            list(region),
            str(box.crs),
            list(box.affine)[:6],
            window.y,
            window.x,
            [spec.frame.time_ms[i] for i in window.times],
            leaves,
        ]
    )
