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

from eocube.errors import GridError, UnknownNameError
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
CLEAR_VALUES = {"scl": SCL_CLEAR, "clm": (0,), "valid": (1,)}
"""Mask → its values that count as clear: scene classes, a cloud mask (0 clear, 1 cloudy), a mask of data (1 valid)."""

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


class Place(NamedTuple):
    """A site that is a window of a cube, in whole shards."""

    site: str
    y: Span
    x: Span


@dataclass(frozen=True, kw_only=True)
class Cut:
    """How a corpus has its cubes cut: its time axis is closed, or its sites lie on a grid of their own."""

    chunk_tyx: tuple[int, int, int]
    shard_tyx: tuple[int, int, int]
    bands_apart: bool = False
    """See :class:`CubeSpec`, as the other two."""


class Piece(NamedTuple):
    """A sub-window of a region: whole inner chunks, evaluated and encoded at once."""

    window: Window
    chunk: tuple[int, int, int]
    """Index of its first inner chunk inside the region, along time, y and x."""


@dataclass(frozen=True, kw_only=True)
class CubeSpec:
    """How one cube is stored."""

    frame: Frame
    layout: str
    """The declared use (:data:`Layout`), or ``corpus``: as the corpus has it."""

    chunk_tyx: tuple[int, int, int]
    """Inner (read) chunk along time, y, x."""

    shard_tyx: tuple[int, int, int]
    """Write unit, whole chunks."""

    cell_px: int
    """Edge of a ``clear_summary`` cell; no cell belongs to two regions."""

    bands_apart: bool = False
    """Whether each band of ``data`` has chunks of its own; else a chunk holds all of them."""

    places: tuple[Place, ...] | None = None
    """The sites that lie in the cube: it has regions where they are, and nothing elsewhere. None: the whole cube is one site."""

    def __post_init__(self) -> None:
        (ny, nx), (_, sy, sx) = self.frame.shape_yx, self.shard_tyx
        for site, y, x in self.places or ():
            inside = 0 <= y[0] < y[1] <= ny and 0 <= x[0] < x[1] <= nx
            whole = all(edge % s == 0 or edge == n for span, s, n in ((y, sy, ny), (x, sx, nx)) for edge in span)
            if not (inside and whole):
                raise GridError(
                    f"Site {site!r} lies at rows {y}, columns {x} of a cube of {ny} x {nx} pixels with shards of {sy} x {sx}: a "
                    "site is a window of whole shards."
                )

    @cached_property
    def grid(self) -> tuple[int, int, int]:
        """Number of regions along time, y and x."""
        ny, nx = self.frame.shape_yx
        st, sy, sx = self.shard_tyx
        return math.ceil(len(self.frame.time_ms) / st), math.ceil(ny / sy), math.ceil(nx / sx)

    def regions(self) -> Iterator[Region]:
        """Every region that the cube has, time slowest."""
        if self.places is None:
            return (Region(*i) for i in np.ndindex(*self.grid))
        return (Region(t, y, x) for t in range(self.grid[0]) for y, x in sorted(self._cells))

    @property
    def n_regions(self) -> int:
        """How many regions the cube has."""
        return math.prod(self.grid) if self.places is None else self.grid[0] * len(self._cells)

    def has(self, region: Region) -> bool:
        """Whether the cube has that region."""
        inside = all(0 <= i < n for i, n in zip(region, self.grid, strict=True))
        return inside and (self.places is None or (region.y, region.x) in self._cells)

    def place_of(self, region: Region) -> Place | None:
        """The site that a region belongs to; None where the whole cube is one."""
        return None if self.places is None else self._cells[region.y, region.x]

    @cached_property
    def _cells(self) -> dict[tuple[int, int], Place]:
        return {cell: place for place in self.places or () for cell in self.cells_of(place)}

    def cells_of(self, place: Place) -> list[tuple[int, int]]:
        """Index along y and x of each shard of a site."""
        (_, sy, sx), (y, x) = self.shard_tyx, place[1:]
        return [(i, j) for i in range(y[0] // sy, -(-y[1] // sy)) for j in range(x[0] // sx, -(-x[1] // sx))]

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
        depth = self.frame.depth(variable)
        return (self.chunk_tyx[0], *(n // self.deep_chunks(variable) for n in depth), *self.chunk_tyx[1:])

    def shard_shape(self, variable: Variable) -> tuple[int, ...]:
        """Shard of a variable."""
        return (self.shard_tyx[0], *self.frame.depth(variable), *self.shard_tyx[1:])

    def deep_chunks(self, variable: Variable) -> int:
        """How many chunks lie along the bands."""
        return len(self.frame.bands) if variable.banded and self.bands_apart else 1

    def deep(self, variable: Variable, at: tuple[int, int, int]) -> list[tuple[int, ...]]:
        """Indices inside a shard of a variable's chunks at a place along time, y and x: one, or one a band."""
        if not self.frame.depth(variable):
            return [at]
        return [(at[0], n, *at[1:]) for n in range(self.deep_chunks(variable))]

    def chunks_of(self, variable: Variable) -> tuple[int, ...]:
        """Inner chunks of a shard of a variable along each of its dimensions."""
        nt, ny, nx = self.chunks_per_shard
        return (nt, *(self.deep_chunks(variable) for _ in self.frame.depth(variable)), ny, nx)

    def shard_key(self, variable: Variable, region: Region) -> str:
        """Where a region's shard of a variable lies below its cube."""
        t, y, x = region
        return f"{variable.name}/c/{t}/0/{y}/{x}" if self.frame.depth(variable) else f"{variable.name}/c/{t}/{y}/{x}"

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
        """How a pixel counts as clear: by the first of ``scl``, ``clm`` and ``valid`` that the cube has, else by having data."""
        for name, clear in CLEAR_VALUES.items():
            if any(v.name == name for v in self.frame.variables):
                return {"variable": name, "clear_values": list(clear)}
        return {"variable": "data", "clear": "valid"}


def choose_spec(
    frame: Frame,
    *,
    layout: Layout | None = None,
    block_yx: tuple[int, int] = (1, 1),
    cut: Cut | None = None,
    places: tuple[Place, ...] | None = None,
) -> CubeSpec:
    """Cut a cube by its declared use, or as its corpus has it.

    Parameters
    ----------
    frame
        The cube to store.
    layout
        ``map`` (shards of 1 date), ``patch`` (4), ``balanced`` (16) or ``series`` (64). None: as ``cut`` says, else balanced.
    block_yx
        Block of the source; a shard covers at least one, up to 1,024 pixels.
    cut
        What the corpus declares; along y and x it holds whatever the layout is.
    places
        The sites in the cube.

    Returns
    -------
    Inner chunks of 256 px (less for a smaller cube) and 0.25-2 MB raw; square shards of whole chunks up to 64 MiB raw.
    Nothing depends on the number of dates, so that appending never changes the cut.
    """
    if layout not in (None, *SHARD_DATES):
        raise UnknownNameError("layout", layout, SHARD_DATES)
    if cut is not None:
        return _as_declared(frame, layout, cut, places)
    layout = layout or "balanced"
    ny, nx = frame.shape_yx
    deep = frame.pixel_bytes(frame.data)
    shard_t, chunk_t, edge = SHARD_DATES[layout], CHUNK_DATES[layout], CHUNK_EDGE_PX
    while chunk_t * deep * edge * edge > MAX_CHUNK_BYTES and edge > 64:
        edge //= 2
    cy, cx = min(edge, ny), min(edge, nx)
    chunk_t = _chunk_dates(chunk_t, shard_t, deep * cy * cx)
    shard = edge
    while shard_t * deep * (2 * shard) ** 2 <= MAX_SHARD_BYTES or shard < min(max(block_yx), 1024):
        shard *= 2
    sy, sx = (_cover(min(shard, math.ceil(n / c) * c), c) for n, c in ((ny, cy), (nx, cx)))
    return CubeSpec(
        frame=frame,
        layout=layout,
        chunk_tyx=(chunk_t, cy, cx),
        shard_tyx=(shard_t, sy, sx),
        cell_px=_cell_px(frame, (cy, cx)),
        places=places,
    )


def _as_declared(frame: Frame, layout: Layout | None, cut: Cut, places: tuple[Place, ...] | None) -> CubeSpec:
    """As the corpus has it; with a layout only along y and x, so that a composite's shards are its sites' too."""
    (ct, cy, cx), (st, sy, sx) = cut.chunk_tyx, cut.shard_tyx
    if layout is not None:
        st = SHARD_DATES[layout]
        ct = _chunk_dates(CHUNK_DATES[layout], st, frame.pixel_bytes(frame.data) * cy * cx)
    return CubeSpec(
        frame=frame,
        layout=layout or "corpus",
        chunk_tyx=(ct, cy, cx),
        shard_tyx=(st, sy, sx),
        cell_px=_cell_px(frame, (cy, cx)),
        bands_apart=cut.bands_apart and layout is None,
        places=places,
    )


def _chunk_dates(least: int, most: int, bytes_a_date: int) -> int:
    """Dates of a chunk: doubled until it is big enough to be worth a request."""
    while least * 2 <= most and least * bytes_a_date < MIN_CHUNK_BYTES:
        least *= 2
    return least


def _cell_px(frame: Frame, chunk_yx: tuple[int, int]) -> int:
    """Cells must not straddle chunks; along an axis of one chunk the last may stick out of the cube."""
    cut = [c for n, c in zip(frame.shape_yx, chunk_yx, strict=True) if c < n]
    return _largest_divisor(math.gcd(*cut), CELL_PX) if cut else CELL_PX


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
            **({"bands_apart": True} if spec.bands_apart else {}),
            **({"sited": True} if spec.places is not None else {}),
            **({"axes": [[a.name, list(a.labels)] for a in frame.axes]} if frame.axes else {}),
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
