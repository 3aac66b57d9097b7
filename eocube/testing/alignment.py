"""Pairs of grids as the corpora have them, and how far off the pixels of one are when they are put on the other.

Every pixel says where on the ground its centre lies; where the pixels made of them say something else, that is the error.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import Transformer

from eocube.patches.align import Alignment, factor_for, refined

Floats = npt.NDArray[np.float64]


class Pair(NamedTuple):
    """An LR and an HR grid of one place."""

    lr: GeoBox
    hr: GeoBox


class PositionError(NamedTuple):
    """What was found in one direction of one pair."""

    pair: str
    to: str
    method: str
    ratio_yx: tuple[float, float]
    """Source pixels per target pixel."""

    error_yx: tuple[float, float]
    """Greatest distance from the true place in source pixels, over all pixels made."""

    made: int
    """Valid pixels."""

    missing: int
    """Pixels that lie inside the source and were not made, or lie outside and were."""


def utm(
    shape_yx: tuple[int, int], pixel_m: float, *, left: float = 500_000.0, top: float = 5_000_000.0, zone: int = 33
) -> GeoBox:
    """A north-up grid in a northern UTM zone."""
    return GeoBox(shape_yx, Affine(pixel_m, 0, left, 0, -pixel_m, top), f"EPSG:{32600 + zone}")


def degrees(shape_yx: tuple[int, int], pixel_yx: tuple[float, float], left: float, top: float) -> GeoBox:
    """A north-up grid in longitude and latitude."""
    return GeoBox(shape_yx, Affine(pixel_yx[1], 0, left, 0, -pixel_yx[0], top), "EPSG:4326")


def _over(inner: GeoBox, crs: str, pixel: float, edge_px: int) -> GeoBox:
    """A square grid in another CRS around the middle of ``inner``, its corner on no round number."""
    ny, nx = inner.shape
    east, north = inner.affine @ (nx / 2, ny / 2)
    x, y = Transformer.from_crs(str(inner.crs), crs, always_xy=True).transform(east, north)
    left, top = x - pixel * (edge_px / 2 - 0.37), y + pixel * (edge_px / 2 + 0.21)
    return GeoBox((edge_px, edge_px), Affine(pixel, 0, left, 0, -pixel, top), crs)


def _pairs() -> dict[str, Pair]:
    sn, ws = 2.7e-6, (0.0142 / 1054, 0.0201 / 1054)
    landsat, planet, turned = utm((80, 70), 30), utm((200, 200), 3), utm((60, 64), 10)
    tilt = Affine.translation(500_037.0, 4_999_921.0) @ Affine.rotation(7) @ Affine.scale(3, -3)
    vegas = degrees((650, 650), (sn, sn), -115.30716, 36.15234)
    return {
        "nested 2": Pair(utm((90, 100), 20), utm((180, 200), 10)),
        "RapidAI4EO 10/3": Pair(utm((60, 60), 10), planet),
        "SpaceNet-2 3.988": Pair(degrees((163, 163), (sn * 650 / 163,) * 2, -115.30716, 36.15234), vegas),
        "SpaceNet-2 off the chip": Pair(degrees((163, 163), (sn * 3.988,) * 2, -115.307161, 36.152342), vegas),
        "SpaceNet-3 4": Pair(degrees((130, 130), (sn * 4,) * 2, 2.2345, 48.8612), degrees((520, 520), (sn, sn), 2.2345, 48.8612)),
        "SpaceNet-6 2.00012": Pair(utm((300, 300), 1.00006, zone=31), utm((600, 600), 0.5, zone=31)),
        "WorldStrat 7.03 × 6.35": Pair(
            degrees((150, 166), (0.0142 / 150, 0.0201 / 166), 11.0321, 44.7718), degrees((1054, 1054), ws, 11.0321, 44.7718)
        ),
        "Landsat PAN half a pixel": Pair(landsat, utm((160, 140), 15, left=500_007.5, top=4_999_992.5)),
        "HR south-up": Pair(turned, GeoBox((200, 210), Affine(3, 0, 500_000, 0, 3, 4_999_400), "EPSG:32633")),
        "HR turned by 7°": Pair(turned, GeoBox((150, 160), tilt, "EPSG:32633")),
        "UTM 33 / UTM 32": Pair(utm((60, 64), 10), _over(utm((60, 64), 10), "EPSG:32632", 3.0, 200)),
        "UTM 33 / degrees": Pair(utm((90, 90), 1.2), _over(utm((90, 90), 1.2), "EPSG:4326", sn, 420)),
        "degrees / UTM 11": Pair(
            degrees((100, 100), (1.08e-5, 1.08e-5), -115.3068, 36.1520), _over(vegas, "EPSG:32611", 0.31, 640)
        ),
        "UTM 33 / Web Mercator": Pair(utm((120, 120), 10), _over(utm((120, 120), 10), "EPSG:3857", 4.777, 340)),
    }


PAIRS = _pairs()
"""By name. Sizes and pixels of the corpora; "off the chip": LR pixels stick out of the HR image by parts of a pixel."""

Direction = Literal["hr to refined lr", "hr to lr", "lr to refined lr"]
Method = Literal["area", "nearest"]
METHODS: tuple[Method, ...] = ("area", "nearest")
DIRECTIONS: tuple[Direction, ...] = ("hr to refined lr", "hr to lr", "lr to refined lr")


def grids(pair: Pair, direction: Direction) -> tuple[GeoBox, GeoBox]:
    """Source and target of one direction."""
    fine = refined(pair.lr, factor_for(pair.lr, pair.hr))
    return {"hr to refined lr": (pair.hr, fine), "hr to lr": (pair.hr, pair.lr), "lr to refined lr": (pair.lr, fine)}[direction]


def position_error(alignment: Alignment, *, true_source: GeoBox | None = None, pair: str = "", to: str = "") -> PositionError:
    """Put pixels that say where they are on the whole target, and compare with where they are.

    Parameters
    ----------
    alignment
        What is measured.
    true_source
        Where the source's pixels truly lie, if the alignment was told something else.
    pair, to
        Names, for the result.
    """
    source, target = true_source or alignment.source, alignment.target
    (ny, nx), (height, width) = source.shape, target.shape
    # Counted from the source's corner, in the units of its CRS; float32 would round whole UTM coordinates to centimetres.
    ground = np.stack(_ground(source, ny, nx, 0.5)) - _corner(source)
    said, valid = alignment.apply(ground, None, ((0, ny), (0, nx)), ((0, height), (0, width)))
    made = valid.all(axis=0)
    true = _on(source, target, 0.5)[:, :height, :width]
    error = np.abs(np.stack(_turn(source, *said)) - true)[:, made]
    corners = _on(source, target, 0)
    depth = np.min([_depth(corners[:, i : i + height, j : j + width], (ny, nx)) for i in (0, 1) for j in (0, 1)], axis=0)
    return PositionError(
        pair=pair,
        to=to,
        method=alignment.method,
        ratio_yx=(_length(corners, 1), _length(corners, 2)),
        error_yx=(float(error[0].max(initial=0)), float(error[1].max(initial=0))),
        made=int(made.sum()),
        missing=int(np.sum(np.where(made, depth < -1e-3, depth > 1e-3))),
    )


def alignment_table() -> Iterator[PositionError]:
    """Every pair in every direction: by area or interpolation, and by nearest."""
    for name, pair in PAIRS.items():
        for direction in DIRECTIONS:
            for method in METHODS:
                yield position_error(Alignment.between(*grids(pair, direction), method), pair=name, to=direction)


def _ground(grid: GeoBox, height: int, width: int, offset: float) -> tuple[Floats, Floats]:
    """Where on the ground, (east, north), the pixels of a grid lie: their corners (0) or centres (0.5)."""
    y, x = np.meshgrid(np.arange(height) + offset, np.arange(width) + offset, indexing="ij")
    a = grid.affine
    return a.a * x + a.b * y + a.c, a.d * x + a.e * y + a.f


def _corner(grid: GeoBox) -> Floats:
    """Where a grid starts."""
    return np.array([grid.affine.c, grid.affine.f])[:, None, None]


def _on(source: GeoBox, target: GeoBox, offset: float) -> Floats:
    """Source rows and columns of target pixels, and of one more each way."""
    height, width = target.shape
    east, north = _ground(target, height + 1, width + 1, offset)
    if source.crs != target.crs:
        east, north = Transformer.from_crs(str(target.crs), str(source.crs), always_xy=True).transform(east, north)
    return np.stack(_turn(source, *(np.stack([east, north]) - _corner(source))))


def _turn(grid: GeoBox, east: Floats, north: Floats) -> tuple[Floats, Floats]:
    """Rows and columns of what lies so far from a grid's corner."""
    a = grid.affine
    return (a.a * north - a.d * east) / a.determinant, (a.e * east - a.b * north) / a.determinant


def _depth(at: Floats, shape: tuple[int, int]) -> Floats:
    """How far inside an image its rows and columns lie; negative outside."""
    size = np.array(shape)[:, None, None]
    return np.minimum(at, size - at).min(axis=0)


def _length(corners: Floats, axis: int) -> float:
    """Length of a pixel along an axis, in the middle."""
    middle = np.diff(corners, axis=axis)
    return float(np.hypot(*middle[:, middle.shape[1] // 2, middle.shape[2] // 2]))
