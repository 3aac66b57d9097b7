"""Sources in memory whose pixels say where they are, and which know what was read of them; and cubes on top of them.

Numbers count up along x, y, band and time, so that a pixel's shift shows. About every fourth pixel is cloudy, one block is cloudy
on every date, a corner has no data.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox

from eocube.errors import EocubeError
from eocube.lazy.cube import lazy_cube
from eocube.model.bands import SCL_CLASSES, SCL_CLEAR, SENTINEL2_BANDS, Band
from eocube.model.frame import Frame, PerTime, Variable
from eocube.model.hashing import digest
from eocube.model.recipe import Arrays, Cost, Node, OnError
from eocube.model.window import Span, Window

NODATA = 0
DATES = (
    "2019-11-28",
    "2019-12-03",
    "2019-12-31",
    "2020-01-01",
    "2020-01-11",
    "2020-01-26",
    "2020-02-29",
    "2020-03-01",
    "2020-03-02",
    "2020-05-17",
    "2020-05-22",
    "2020-05-31",
)
"""Irregular: an empty month, dates on both sides of month, season and year, a leap day, odd and even counts."""

BANDS = ("blue", "green", "red", "nir", "swir22")
ALWAYS_CLOUDY = (slice(4, 9), slice(6, 12))
"""Rows and columns that are cloudy on every date."""

EDGE = (slice(0, 3), slice(0, 5))
"""Rows and columns without data on every date, as beyond the edge of a swath."""

Flavour = Literal["plain", "poisoned", "forbidden"]


class ReadForbiddenError(EocubeError, AssertionError):
    """A pixel was asked for where none may be."""


class Read(NamedTuple):
    """One call of ``read``."""

    names: tuple[str, ...]
    window: Window


@dataclass
class ReadLog:
    """What was read of a source; safe under threads, stays behind when the source is pickled."""

    reads: list[Read] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def clear(self) -> None:
        """Forget everything."""
        with self.lock:
            self.reads.clear()


class ArraySource:
    """NumPy arrays as a source. See :class:`eocube.model.recipe.Source`.

    Parameters
    ----------
    frame
        Of the arrays.
    arrays
        Variable name → array of the frame's shape.
    name
        Names the content: two sources of one name are one source.
    block_yx
        Unit that counts as decoded at once.
    forbidden
        Refuse every read, for claims of laziness.
    """

    def __init__(
        self,
        frame: Frame,
        arrays: Mapping[str, npt.NDArray[Any]],
        *,
        name: str,
        block_yx: tuple[int, int] = (16, 16),
        forbidden: bool = False,
    ):
        self._frame, self.arrays, self.name, self._block, self.forbidden = frame, dict(arrays), name, block_yx, forbidden
        for v in frame.variables:
            assert self.arrays[v.name].shape == frame.shape(v.name), v.name
            assert str(self.arrays[v.name].dtype) == v.dtype, v.name
        self.log = ReadLog()

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "log"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.log = ReadLog()

    @property
    def node(self) -> Node:
        """Its entry in a recipe."""
        return {"source": digest(["array", self.name]), "kind": "array"}

    def frame(self) -> Frame:
        """See :class:`eocube.model.recipe.Source`."""
        return self._frame

    @property
    def block_yx(self) -> tuple[int, int]:
        """See :class:`eocube.model.recipe.Source`."""
        return self._block

    def read(self, window: Window, *, names: tuple[str, ...] | None = None, on_error: OnError | None = None) -> Arrays:
        """See :class:`eocube.model.recipe.Source`."""
        if self.forbidden:
            raise ReadForbiddenError(f"{window} of source {self.name!r} was read where nothing may be.")
        wanted = tuple(v.name for v in self._frame.variables if names is None or v.name in names)
        with self.log.lock:
            self.log.reads.append(Read(wanted, window))
        at = (..., slice(*window.y), slice(*window.x))
        return {n: self.arrays[n][list(window.times)][at] for n in wanted}

    def ids(self, window: Window) -> list[list[Any]]:
        """See :class:`eocube.model.recipe.Source`: a row a date."""
        return [[f"{self.name}-{self._frame.time_ms[t]}", self._frame.time_ms[t]] for t in window.times]

    def assets(self) -> list[dict[str, Any]]:
        """See :class:`eocube.model.recipe.Source`."""
        return [
            {"item_id": f"{self.name}-{t}", "time": t, "asset": "array", "href": f"memory:{self.name}", "dn_shift": None}
            for t in self._frame.time_ms
        ]

    def token(self) -> str:
        """See :class:`eocube.model.recipe.Source`."""
        return digest(["array", self.name, list(self._frame.time_ms), self.forbidden])

    def cost(self, window: Window) -> Cost:
        """See :class:`eocube.model.recipe.Source`: a request a date, block and variable."""
        return self._cost(window, tuple(v.name for v in self._frame.variables))

    def _cost(self, window: Window, names: Sequence[str]) -> Cost:
        blocks = [_blocks(span, size) for span, size in zip((window.y, window.x), self._block, strict=True)]
        n, (height, width) = len(blocks[0]) * len(blocks[1]), window.shape_yx
        total = Cost(0, 0, 0)
        for v in (self._frame.variable(k) for k in names):
            deep = self._frame.pixel_bytes(v) * len(window.times)
            total += Cost(len(window.times) * n, n * self._block[0] * self._block[1] * deep, height * width * deep)
        return total

    # ------------------------------------------------------------------------------------ what was read

    def spent(self) -> Cost:
        """What all reads so far cost, by the formula of :meth:`cost`."""
        total = Cost(0, 0, 0)
        for names, window in self.log.reads:
            total += self._cost(window, names)
        return total

    def block_reads(self, name: str = "data") -> Counter[tuple[int, int, int]]:
        """How often each (date, block row, block column) of a variable was read."""
        out: Counter[tuple[int, int, int]] = Counter()
        for names, window in self.log.reads:
            if name in names:
                rows, columns = (_blocks(s, n) for s, n in zip((window.y, window.x), self._block, strict=True))
                out.update((t, y, x) for t in window.times for y in rows for x in columns)
        return out


def _blocks(span: Span, size: int) -> range:
    return range(span[0] // size, -(-span[1] // size)) if span[1] > span[0] else range(0)


# ------------------------------------------------------------------------------------------------ pixels


def position_dn(shape: tuple[int, int, int, int], *, start: int = 1001) -> npt.NDArray[np.uint16]:
    """(time, band, y, x) uint16 that counts up along x, y, band and time from ``start``, wrapping at 60,000."""
    counted = np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape)
    dn: npt.NDArray[np.uint16] = (start + counted * 7 % (60_000 - start)).astype(np.uint16)
    return dn


def position_scl(shape: tuple[int, int, int]) -> npt.NDArray[np.uint8]:
    """Scene classes (time, y, x): clear ones in turn, every fourth pixel or so one of the others; ``ALWAYS_CLOUDY``, ``EDGE``."""
    counted = np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape)
    clear = np.array(SCL_CLEAR, np.uint8)[counted % len(SCL_CLEAR)]
    cloudy = np.array([2, 3, 8, 9, 10, 1], np.uint8)[counted // 13 % 6]
    scl: npt.NDArray[np.uint8] = np.where(counted % 13 % 4 == 3, cloudy, clear)
    scl[:, ALWAYS_CLOUDY[0], ALWAYS_CLOUDY[1]] = 9
    scl[:, EDGE[0], EDGE[1]] = 0
    return scl


def make_bands(names: Sequence[str]) -> tuple[Band, ...]:
    """Sentinel-2's bands of those common names; a band of its own for any other name."""
    known = {b.name: b for b in SENTINEL2_BANDS.values()}
    return tuple(known.get(n, Band(name=n)) for n in names)


def time_ms(dates: Sequence[str]) -> tuple[int, ...]:
    """ISO dates as milliseconds since 1970-01-01."""
    return tuple(int(t) for t in pd.to_datetime(list(dates)).values.astype("M8[ms]").astype("i8"))


def make_source(
    *,
    dates: Sequence[str] = DATES,
    bands: Sequence[str] = BANDS,
    shape_yx: tuple[int, int] = (40, 56),
    pixel_m: float = 10.0,
    dtype: str = "uint16",
    nodata: float | None = NODATA,
    scl: bool = True,
    name: str = "synthetic",
    flavour: Flavour = "plain",
    block_yx: tuple[int, int] = (16, 16),
) -> ArraySource:
    """A Sentinel-2-like source of known pixels.

    Parameters
    ----------
    dates, bands, shape_yx, pixel_m, scl, name, block_yx
        What it holds. The upper left corner is always the same, so that cubes of other pixel sizes lie on one another.
    dtype
        ``uint16``: digital numbers, scale 0.0001, offset -0.1. A float: the same, decoded, NaN without data.
    nodata
        Of an integer cube.
    flavour
        ``poisoned``: every pixel that the scene classification does not call clear holds a huge number. ``forbidden``: reading
        raises.
    """
    grid = GeoBox(shape_yx, Affine(pixel_m, 0, 600_000, 0, -pixel_m, 5_000_000), "EPSG:32635")
    when = time_ms(dates)
    classes = position_scl((len(when), *shape_yx))
    data = _data((len(when), len(bands), *shape_yx), classes, dtype, nodata, poisoned=flavour == "poisoned")
    integer = data.dtype.kind in "iu"
    variables = (
        Variable(
            name="data",
            dtype=dtype,
            banded=True,
            nodata=nodata if integer else float("nan"),
            scale=1e-4 if integer else None,
            offset=-0.1 if integer else None,
            attrs=(("long_name", "synthetic surface"),),
        ),
        Variable(name="scl", dtype="uint8", flags=SCL_CLASSES),
    )
    ids = PerTime(name="item_id", dtype="str", values=tuple(f"{name}-{i}" for i in range(len(when))))
    frame = Frame(
        geobox=grid, time_ms=when, bands=make_bands(bands), variables=variables if scl else variables[:1], per_time=(ids,)
    )
    arrays: dict[str, npt.NDArray[Any]] = {"data": data, "scl": classes}
    return ArraySource(frame, arrays, name=name, block_yx=block_yx, forbidden=flavour == "forbidden")


def _data(
    shape: tuple[int, int, int, int], classes: npt.NDArray[np.uint8], dtype: str, nodata: float | None, *, poisoned: bool
) -> npt.NDArray[Any]:
    dn = position_dn(shape)
    without = np.broadcast_to((classes == 0)[:, None], shape)
    bad = np.broadcast_to(~np.isin(classes, SCL_CLEAR)[:, None], shape)
    kind = np.dtype(dtype)
    if kind.kind in "iu":
        values = dn.astype(kind)
        values[without] = 0 if nodata is None else nodata
        values[bad & poisoned] = np.iinfo(kind).max - 1
        return values
    reflectance = (dn.astype(np.float32) * np.float32(1e-4) + np.float32(-0.1)).astype(kind)
    reflectance[without] = np.nan
    reflectance[bad & poisoned] = np.array(1e30, kind)
    return reflectance


def make_cube(*, chunks: Mapping[str, int] | None = None, **changes: Any) -> xr.Dataset:
    """A lazy recorded cube of :func:`make_source`; ``chunks`` along time, y, x (default 3 × 16 × 24)."""
    source = make_source(**changes)
    return lazy_cube(source, source.node, chunks=chunks or {"time": 3, "y": 16, "x": 24})


def sources_of(cube: xr.Dataset) -> list[ArraySource]:
    """The counting sources below a recorded cube."""
    from eocube.model.recipe import recipe_of

    return [s for s in recipe_of(cube).binding.sources.values() if isinstance(s, ArraySource)]
