"""Texture for synthetic corpora: pieces of the real Sentinel-2 pixels that ship, laid out as new ground.

A **ground** is named by a seed. It is an endless plane made of the sample's 100 × 100 pixels of 10 m: turned, mirrored at its
edges, shifted, and joined with a second turn of itself along a wandering border, all by the seed. Whatever looks at one ground
(any band, day, pixel size, product) sees the same places; positions are metres east and south of the ground's origin.

What is real and what is made up:

===========================================  =====================================================================================
real                                         B02, B03, B04, B08 at 10 m and B8A, B11 at 20 m: reflectance of a forest in Romania
                                             on a clear date of the asked season; the shape of clouds (SCL of a cloudy date)
made up                                      every other band (`MIXES`: weighted means of the real ones), all top-of-atmosphere
                                             values (`PATHS`), detail finer than 10 m (the same pixels at a quarter of their
                                             size, as contrast), the gain of a site, cloud probabilities
===========================================  =====================================================================================

Equal arguments give equal bytes, in any process: no random generator, only digests, and sums in a fixed order. (Another build
of NumPy may round a sine otherwise, and so a last bit.)
"""

from __future__ import annotations

import hashlib
import json
import math
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from importlib import resources
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from eocube.errors import MissingDependencyError, UnknownNameError

Float32Array = npt.NDArray[np.float32]
Int64Array = npt.NDArray[np.int64]

ARCHIVE = "sentinel2_romania.zip"
TILE_PX, TILE_M = 100, 10.0
"""The sample: pixels per side, and their size."""

REAL: Mapping[str, str] = {
    "B02": "B02_10m", "B03": "B03_10m", "B04": "B04_10m", "B08": "B08_10m", "B8A": "B8A_20m", "B11": "B11_20m",
}  # fmt: skip
"""Bands that the sample has → asset."""

MIXES: Mapping[str, Mapping[str, float]] = {
    **{band: {band: 1.0} for band in REAL},
    "B01": {"B02": 0.9},
    "B05": {"B04": 0.7, "B08": 0.2},
    "B06": {"B04": 0.2, "B08": 0.65},
    "B07": {"B8A": 0.92},
    "B09": {"B8A": 0.9, "B08": 0.05},
    "B10": {"B11": 0.004},
    "B12": {"B11": 0.5, "B04": 0.2},
    "PAN": {"B02": 0.3, "B03": 0.35, "B04": 0.35},  # SPOT 6/7 panchromatic spans blue to red
    "BLUE": {"B02": 1.0},
    "GREEN": {"B03": 1.0},
    "RED": {"B04": 1.0},
    "NIR": {"B08": 0.8, "B8A": 0.2},
}
"""Band → weights of the sample's bands. Those that are not one real band alone are SYNTHETIC, not modelled spectra."""

PATHS: Mapping[str, tuple[float, float]] = {
    "B01": (0.11, 0.80), "B02": (0.075, 0.85), "B03": (0.045, 0.88), "B04": (0.03, 0.90), "B05": (0.025, 0.91),
    "B06": (0.02, 0.92), "B07": (0.017, 0.93), "B08": (0.013, 0.93), "B8A": (0.012, 0.94), "B09": (0.008, 0.40),
    "B10": (0.001, 0.50), "B11": (0.003, 0.95), "B12": (0.002, 0.95),
}  # fmt: skip
"""Band → (path reflectance, transmission) of the made-up top-of-atmosphere values."""

CLOUD_PROBABILITY: Mapping[int, float] = {3: 0.08, 8: 0.7, 9: 0.97, 10: 0.4}
"""SCL class → made-up cloud probability; every other class has 0.02."""

CLOUD_REFLECTANCE: Mapping[str, float] = {"B09": 0.35, "B10": 0.05, "B11": 0.4, "B12": 0.3}
"""Reflectance of thick cloud where it is not 0.75."""

_DETAIL_M = TILE_M / 4
_DETAIL_GAIN = 0.6
_CLEAR_SHARE = 0.995
_BORDER_M = ((1900.0, 0.3), (1170.0, 2.1), (760.0, 1.2))
"""Wavelength and direction of the waves that the border of two pieces follows."""


class Texture:
    """The sample's pixels, decoded once each, as reflectance and cloud fields of any ground.

    Raises
    ------
    MissingDependencyError
        Without rasterio, which decodes the sample.

    Notes
    -----
    Contains modified Copernicus Sentinel data 2015-2021; pixels from nrt 0.0.5 (EUPL-1.2), ``data/ATTRIBUTION.txt``.
    """

    def __init__(self) -> None:
        place = resources.files("eocube") / "corpora" / "data" / ARCHIVE
        with place.open("rb") as file, zipfile.ZipFile(file) as archive:
            self._files = {name: archive.read(name) for name in archive.namelist()}
        self._planes: dict[tuple[str, str], Float32Array] = {}
        self._scl: dict[str, npt.NDArray[np.uint8]] = {}
        covers = (json.loads(self._files[name])["properties"] for name in sorted(self._files) if "/items/" in name)
        self._covers = {item["datetime"][:10]: float(item["eo:cloud_cover"]) for item in covers}
        # Up to 2016 the sample's dark bands reach 0 here and there; from 2017 on they do not.
        self._clear = [day for day, cover in self._covers.items() if cover == 0 and day >= "2017" and self._is_clear(day)]

    def reflectance(
        self,
        band: str,
        shape_yx: tuple[int, int],
        *,
        seed: int,
        day: int,
        span_yx_m: tuple[float, float],
        origin_yx_m: tuple[float, float] = (0.0, 0.0),
        level: Literal["surface", "toa"] = "surface",
        cloud: Float32Array | None = None,
    ) -> Float32Array:
        """Reflectance of one band over a piece of ground.

        Parameters
        ----------
        band
            A name of `MIXES`: Sentinel-2's, ``PAN``, or ``BLUE``, ``GREEN``, ``RED``, ``NIR`` of SPOT and Planet.
        shape_yx
            Pixels. The pixel size is ``span_yx_m / shape_yx``; finer than 10 m, made-up detail is added that averages to
            nothing over 10 m.
        seed
            Which ground.
        day
            Days since 1970-01-01. Picks the sample's clear date that is nearest in the season; days of one date give equal
            ground, apart from a gain within 3 %.
        span_yx_m, origin_yx_m
            Size, and the upper left corner (south, east of the ground's origin), in metres.
        level
            ``"toa"`` adds a made-up atmosphere.
        cloud
            Cloud probability 0-1 in ``shape_yx``, of `clouds`: the pixels become as bright as cloud by it.

        Returns
        -------
        ``shape_yx``, unitless, from 0.0001 up; no nodata.

        Raises
        ------
        UnknownNameError
            If no mix is known for the band.
        """
        return self.stack(
            (band,), shape_yx, seed=seed, day=day, span_yx_m=span_yx_m, origin_yx_m=origin_yx_m, level=level, cloud=cloud
        )[0]

    def stack(
        self,
        bands: Sequence[str],
        shape_yx: tuple[int, int],
        *,
        seed: int,
        day: int,
        span_yx_m: tuple[float, float],
        origin_yx_m: tuple[float, float] = (0.0, 0.0),
        level: Literal["surface", "toa"] = "surface",
        cloud: Float32Array | None = None,
    ) -> Float32Array:
        """Several bands at once, (band, y, x): as `reflectance` of each, the ground laid out once."""
        for band in bands:
            if band not in MIXES:
                raise UnknownNameError("band", band, MIXES, "synthetic texture")
        ground, found = _Ground(seed), self._date_of(day)
        window = (shape_yx, span_yx_m, origin_yx_m)
        base = _Sampler(ground, TILE_M, *window)
        is_fine = max(span_yx_m[0] / shape_yx[0], span_yx_m[1] / shape_yx[1]) < TILE_M * 0.95
        detail = _Sampler(ground, _DETAIL_M, *window) if is_fine else None
        daily = 0.97 + 0.06 * _unit("day", seed, day)
        out = np.empty((len(bands), *shape_yx), np.float32)
        for k, band in enumerate(bands):
            plane = self._mixed(found, band)
            seen = base(plane)
            if detail is not None:
                seen *= 1 + np.float32(_DETAIL_GAIN) * detail(_contrast(plane))
            seen *= np.float32(ground.gain(band) * daily)
            if level == "toa":
                path, transmission = PATHS[band]
                seen = np.float32(path) + np.float32(transmission) * seen
            if cloud is not None:
                seen += cloud * (np.float32(CLOUD_REFLECTANCE.get(band, 0.75)) - seen)
            np.maximum(seen, np.float32(1e-4), out=out[k])
        return out

    def clouds(
        self,
        shape_yx: tuple[int, int],
        *,
        seed: int,
        day: int,
        cover: float,
        span_yx_m: tuple[float, float],
        origin_yx_m: tuple[float, float] = (0.0, 0.0),
    ) -> Float32Array:
        """A made-up cloud probability whose shapes are those of a real scene classification.

        ``cover`` (0-1) picks the sample's date with about that share of clouds, ``day`` which of them and where its clouds
        stand; the piece asked for may have more or less. Probability 0-1, ``shape_yx``; 0 everywhere for ``cover`` 0.
        """
        if cover <= 0:
            return np.zeros(shape_yx, np.float32)
        near = sorted(self._covers, key=lambda found: (abs(self._covers[found] / 100 - cover), found))[:4]
        scl = self._read_scl(near[int(4 * _unit("cloud", seed, day))])
        probability = np.full(256, 0.02, np.float32)
        for value, share in CLOUD_PROBABILITY.items():
            probability[value] = share
        field = _Sampler(_Ground(seed, drift=day), TILE_M, shape_yx, span_yx_m, origin_yx_m)(_smooth(probability[scl]))
        return np.clip(field, 0, 1)

    def _date_of(self, day: int) -> str:
        """The clear date nearest in the season, whatever the year; the earlier of two that are as near."""
        asked = datetime.fromtimestamp(day * 86_400, UTC).timetuple().tm_yday

        def distance(found: str) -> tuple[int, str]:
            days = abs(date.fromisoformat(found).timetuple().tm_yday - asked)
            return min(days, 366 - days), found

        return min(self._clear, key=distance)

    def _mixed(self, found: str, band: str) -> Float32Array:
        """Band of one date at 10 m, (100, 100) reflectance."""
        out = np.zeros((TILE_PX, TILE_PX), np.float32)
        for real, weight in MIXES[band].items():
            out += np.float32(weight) * self._plane(found, real)
        return out

    def _plane(self, found: str, band: str) -> Float32Array:
        key = (found, band)
        if key not in self._planes:
            dn = self._decode(found, REAL[band]).astype(np.float32) / np.float32(10_000)
            if dn.shape[0] != TILE_PX:  # 20 m: nested 2:1 in the 10 m pixels
                dn = _smooth(dn.repeat(2, axis=0).repeat(2, axis=1))
            self._planes[key] = dn
        return self._planes[key]

    def _read_scl(self, found: str) -> npt.NDArray[np.uint8]:
        if found not in self._scl:
            self._scl[found] = self._decode(found, "SCL_10m")
        return self._scl[found]

    def _is_clear(self, found: str) -> bool:
        return float(np.isin(self._read_scl(found), (4, 5)).mean()) >= _CLEAR_SHARE

    def _decode(self, found: str, asset: str) -> npt.NDArray[Any]:
        try:
            from rasterio.io import MemoryFile
        except ImportError as error:
            raise MissingDependencyError("Texture of a synthetic corpus", "rasterio", "build") from error
        name = f"sentinel2_romania/cogs/S2_L2A_romania_{found.replace('-', '')}/{asset}.tif"
        with MemoryFile(self._files[name]) as memory, memory.open() as source:
            return source.read(1)


class _Ground:
    """How the sample's square is laid out for one seed (and, for clouds, one day)."""

    def __init__(self, seed: int, drift: int | None = None):
        self._seed, self._key = seed, ("ground", seed) if drift is None else ("drift", seed, drift)

    def gain(self, band: str) -> float:
        """How bright the site is; visible and infrared bands apart, so that sites differ in colour."""
        low, high = (0.7, 1.1) if band in {"B06", "B07", "B08", "B8A", "B09", "NIR"} else (0.9, 2.6)
        kind = "infrared" if high < 2 else "visible"
        return low + (high - low) * _unit(kind, self._seed)

    def pieces(self, rows: range, columns: range) -> Iterator[tuple[int, bool, tuple[Any, ...]]]:
        """For each of the two pieces: quarter turns, whether it is flipped, and the index of a turned plane."""
        for k in range(2):
            # Multiples of 4: detail keeps its blocks of four pixels, which average to nothing, on the pixels of 10 m.
            y, x = (4 * int(TILE_PX * _unit(*self._key, k, axis)) for axis in "yx")
            index = np.ix_(_mirrored(np.arange(rows.start, rows.stop) + y), _mirrored(np.arange(columns.start, columns.stop) + x))
            yield int(4 * _unit(*self._key, k, "turn")), _unit(*self._key, k, "flip") < 0.5, index

    def border(self, pixel_m: float, rows: range, columns: range) -> Float32Array:
        """Share of the first piece: 0 or 1 but for a few pixels along a wandering border."""
        y = (np.arange(rows.start, rows.stop) + 0.5)[:, None] * pixel_m
        x = (np.arange(columns.start, columns.stop) + 0.5) * pixel_m
        waves = np.zeros((len(rows), len(columns)))
        for k, (length, turn) in enumerate(_BORDER_M):
            angle = turn + 0.7 * _unit(*self._key, "angle", k)
            phase = 2 * math.pi * _unit(*self._key, "phase", k)
            waves += _wave(y * (2 * math.pi / length * math.sin(angle)), x * (2 * math.pi / length * math.cos(angle)), phase)
        return np.clip(0.5 + 8 * waves, 0, 1).astype(np.float32)


def _wave(y: npt.NDArray[Any], x: npt.NDArray[Any], phase: float) -> npt.NDArray[Any]:
    """sin(y + x + phase) on a grid, from sines along its sides."""
    return np.sin(y + phase) * np.cos(x) + np.cos(y + phase) * np.sin(x)


class _Sampler:
    """A ground on another grid, for any plane of pixels of ``pixel_m``: Keys' cubic, widened where pixels grow."""

    def __init__(
        self,
        ground: _Ground,
        pixel_m: float,
        shape_yx: tuple[int, int],
        span_yx_m: tuple[float, float],
        origin_yx_m: tuple[float, float],
    ):
        (rows, self._y_weights), (columns, self._x_weights) = (
            _taps(origin_yx_m[axis] / pixel_m, span_yx_m[axis] / pixel_m / shape_yx[axis], shape_yx[axis]) for axis in range(2)
        )
        y_range, x_range = (range(int(index.min()), int(index.max()) + 1) for index in (rows, columns))
        self._rows, self._columns = rows - y_range.start, columns - x_range.start
        self._pieces = tuple(ground.pieces(y_range, x_range))
        self._border = ground.border(pixel_m, y_range, x_range)

    def __call__(self, plane: Float32Array) -> Float32Array:
        """Values of a (100, 100) plane on the grid."""
        first, second = (_turned(plane, turns, is_flipped=flipped)[index] for turns, flipped, index in self._pieces)
        source = second + self._border * (first - second)
        across = _weighted(np.ascontiguousarray(source.T), self._columns, self._x_weights)
        return _weighted(np.ascontiguousarray(across.T), self._rows, self._y_weights)


def _turned(plane: Float32Array, turns: int, *, is_flipped: bool) -> Float32Array:
    turned = np.rot90(plane, turns)
    return turned.T if is_flipped else turned


def _taps(start_px: float, step_px: float, n: int) -> tuple[Int64Array, Float32Array]:
    """Source pixels (n, taps) and their weights, which sum to 1, for ``n`` pixels of ``step_px`` from ``start_px`` on."""
    centre = start_px + (np.arange(n) + 0.5) * step_px - 0.5
    width = max(1.0, step_px)
    index = np.floor(centre - 2 * width).astype(np.int64)[:, None] + 1 + np.arange(math.ceil(4 * width))
    distance = np.abs(index - centre[:, None]) / width
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weights = np.where(distance < 1, near, np.where(distance < 2, far, 0.0))
    return index, (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _weighted(source: Float32Array, index: Int64Array, weights: Float32Array) -> Float32Array:
    """Rows of ``source`` summed by weight: (n, taps) → (n, width); tap by tap, so that the order of the sum is fixed."""
    out = source[index[:, 0]] * weights[:, :1]
    for tap in range(1, index.shape[1]):
        out += source[index[:, tap]] * weights[:, tap, None]
    return out


def _mirrored(position: Int64Array) -> Int64Array:
    """Index into the sample's side: forth, back, forth …"""
    turn = position % (2 * TILE_PX)
    return np.minimum(turn, 2 * TILE_PX - 1 - turn)


def _contrast(plane: Float32Array) -> Float32Array:
    """Each pixel over the mean of its 4 × 4 block, less 1: its blocks average to nothing."""
    blocks = plane.reshape(TILE_PX // 4, 4, TILE_PX // 4, 4)
    mean = np.maximum(blocks.mean(axis=(1, 3), keepdims=True), np.float32(1e-4))
    return (blocks / mean - 1).reshape(plane.shape)


def _smooth(plane: Float32Array) -> Float32Array:
    """Mean of 3 × 3 pixels, edges repeated."""
    padded = np.pad(plane, 1, mode="edge")
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    return (rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) / np.float32(9)


def _unit(*key: object) -> float:
    """A number in [0, 1) that only the key decides, on any machine."""
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:6], "big") / 2**48
