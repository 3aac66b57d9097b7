"""Footprints on the globe: which of two groups overlap or lie near each other, how much they share, how far they are apart.

====================  ==========================================================================================================
areas                 Lambert's cylindrical equal-area projection of the WGS 84 ellipsoid (Snyder 1987, USGS PP 1395, eq. 3-12 and
                      10-14 to 10-16, as EPSG:6933 but for its scale), in which parallels and meridians stay straight
distances             the nearest points on a plane about the pair, then the geodesic between them (WGS 84)
edges of footprints   straight in longitude and latitude, as in GeoParquet (``edges: planar``)
====================  ==========================================================================================================

An edge between two corners may have been a parallel, a geodesic or a line of some projection, which differ by up to
L² (tan φ + ¼) / 8R in the middle: 4 mm for a patch of 320 m at 60° N, 6 cm for one of 1,280 m. Overlaps that are thinner than
that, or than a millimetre, cannot be told from edges that touch, and are none; and two footprints are near if they are so by more
than that.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from eocube.errors import ArgumentError

Objects = npt.NDArray[np.object_]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

MAX_BUFFER_M = 100_000.0

_GRID_SCALE = 1e-3
"""A pair is near if it is nearer than the buffer by more than this share: distances in UTM are longer than those on the ground by
up to as much (scale 0.9996 to 1.001), and patches that keep a buffer of some pixels shall keep it here."""

_A, _F = 6_378_137.0, 1 / 298.257223563
_E2 = _F * (2 - _F)
_THIN_M = 1e-3
_QUERIED = 2_048
AT_ONCE = 65_536
"""Footprints that are looked for, and candidates that are computed, at a time: memory does not grow with the candidates."""


class Shared(NamedTuple):
    """Pairs of footprints."""

    a: Ints
    b: Ints
    shared_m2: Floats
    distance_m: Floats
    meet: Ints
    """More than 0 where they share some area, however thin."""

    @classmethod
    def joined(cls, found: Sequence[Shared]) -> Shared:
        """All of them."""
        none = np.zeros(0, np.int64)
        several = [cls(none, none, np.zeros(0), np.zeros(0), none), *found]
        return cls(**{name: np.concatenate([getattr(one, name) for one in several]) for name in cls._fields})

    def where(self, chosen: npt.NDArray[np.bool_]) -> Shared:
        """Some of them."""
        return Shared(**{name: getattr(self, name)[chosen] for name in self._fields})


class Ground:
    """Distinct footprints as polygons on the globe, and what pairs of them share."""

    def __init__(self, outlines: Objects, used: Ints, buffer_m: float):
        import shapely

        self.buffer_m = buffer_m
        _refuse_odd(outlines[used])
        parts, owner = outlines[used], used
        if (shapely.get_type_id(parts) != 3).any():
            parts, index = shapely.get_parts(parts, return_index=True)
            owner = used[index]
        self._owner: Ints = owner
        """Of each part, its footprint; ascending."""
        self._parts = _continuous(parts)
        self._boxes: Floats = shapely.bounds(self._parts)
        _refuse_odd_parts(self._parts, self._boxes, buffer_m)
        self._slack_m = _slack_m(self._parts)
        areas = np.concatenate([np.zeros(0), *(_area_m2(self._parts[part]) for part in slices(len(parts), AT_ONCE))])
        self.area_m2 = np.bincount(owner, areas, minlength=len(outlines))
        self._grown = _grown(self._boxes, buffer_m)
        self._reach = max(0.0, self._boxes[:, 2].max() - 180, self._grown[:, 2].max() - 180, -180 - self._grown[:, 0].min())
        """Degrees by which any of them goes beyond the antimeridian."""

    def is_near(self, distance_m: Floats) -> npt.NDArray[np.bool_]:
        """Whether that is nearer than the buffer."""
        return distance_m < self.buffer_m * (1 - _GRID_SCALE)

    def candidates(self, a: Ints, b: Ints) -> Iterator[Candidates]:
        """Parts of footprints ``a`` and ``b`` whose boxes meet, or are about as near as the buffer."""
        import shapely

        asking, asked = self._parts_of(a), self._parts_of(b)
        swap = len(asking) > len(asked)
        if swap:
            asking, asked = asked, asking
        at, turn = self._turned(asked)
        tree = shapely.STRtree(_moved(self._parts[at], turn))
        for part in slices(len(asking), _QUERIED):
            i, j = tree.query(shapely.box(*self._grown[asking[part]].T))
            for some in slices(len(i), AT_ONCE):
                p, q, t = asking[part][i[some]], at[j[some]], turn[j[some]]
                yield Candidates(q, p, -t) if swap else Candidates(p, q, t)

    def measure(self, pairs: Candidates) -> Shared:
        """What each pair of candidates shares; pairs that share nothing and are not near are left out."""
        a, b = self._parts[pairs.a], _moved(self._parts[pairs.b], pairs.turn)
        slack = np.maximum(self._slack_m[pairs.a], self._slack_m[pairs.b])
        shared, meet = _overlap_m2(a, b, slack)
        distance = np.where(meet > 0, 0.0, np.inf)
        if self.buffer_m:
            apart = np.flatnonzero(meet == 0)
            distance[apart] = _distance_m(a[apart], b[apart])
        found = Shared(self._owner[pairs.a], self._owner[pairs.b], shared, distance, meet)
        return found.where((meet > 0) | self.is_near(distance + slack))

    def _parts_of(self, outlines: Ints) -> Ints:
        start, stop = (np.searchsorted(self._owner, outlines, side=side) for side in ("left", "right"))
        return ranges(start, stop)[1]

    def _turned(self, parts: Ints) -> tuple[Ints, Floats]:
        """Parts as they are, and again a turn of the globe away where they may meet something across the antimeridian."""
        back, on = parts[self._boxes[parts, 2] >= 180 - self._reach], parts[self._boxes[parts, 0] <= -180 + self._reach]
        turn = np.repeat([0.0, -360.0, 360.0], [len(parts), len(back), len(on)])
        return np.concatenate([parts, back, on]), turn


def _grown(boxes: Floats, buffer_m: float) -> Floats:
    """Boxes in degrees with a buffer around them: what lies so near on a sphere, and one per cent more."""
    west, south, east, north = boxes.T
    angle = buffer_m / _A * 1.01
    lon = np.degrees(np.arcsin(np.minimum(1, math.sin(angle) / np.cos(np.radians(np.maximum(-south, north))))))
    lat = math.degrees(angle)
    return np.stack([west - lon, south - lat, east + lon, north + lat], axis=1)


class Candidates(NamedTuple):
    """Pairs of parts; ``turn``: degrees by which ``b`` is to be moved east."""

    a: Ints
    b: Ints
    turn: Floats


def ranges(start: Ints, stop: Ints) -> tuple[Ints, Ints]:
    """(which range, number) of all numbers in half-open ranges."""
    n = stop - start
    which = np.repeat(np.arange(len(n)), n)
    return which, np.arange(len(which)) - np.repeat(np.cumsum(n) - n, n) + start[which]


def slices(n: int, size: int) -> Iterator[slice]:
    """Places 0 to ``n``, so many at a time."""
    return (slice(start, start + size) for start in range(0, n, size))


def _moved(polygons: Objects, turn: Floats) -> Objects:
    """The same, some of them moved east by a turn."""
    import shapely

    away = np.flatnonzero(turn)
    if not len(away):
        return polygons
    out, moved = polygons.copy(), polygons[away].copy()
    at, index = shapely.get_coordinates(moved, return_index=True)
    at[:, 0] += turn[away][index]
    out[away] = shapely.set_coordinates(moved, at)
    return out


def _refuse_odd(outlines: Objects) -> None:
    """ArgumentError for what is no polygon, or has numbers that are no degrees."""
    import shapely

    wrong = np.flatnonzero(~np.isin(shapely.get_type_id(outlines), (3, 6)) | shapely.is_empty(outlines))
    if len(wrong):
        raise ArgumentError(
            f"{len(wrong):,} of {len(outlines):,} footprints are no polygons, the first is {str(outlines[wrong[0]])[:80]!r}. "
            "Give every row that has a split the polygon of its ground, or take its split away."
        )
    for part in slices(len(outlines), AT_ONCE):
        at, index = shapely.get_coordinates(outlines[part], return_index=True)
        outside = ~((np.abs(at[:, 0]) <= 540) & (np.abs(at[:, 1]) <= 90))
        if outside.any():
            first = outlines[part][index[outside.argmax()]]
            raise ArgumentError(
                f"A footprint has coordinates that are no longitude and latitude in degrees: {str(first)[:120]}. State the CRS "
                "that it is in, and take out what lies where that CRS is not defined."
            )


def _continuous(parts: Objects) -> Objects:
    """Polygons whose edges are the short way round the globe, moved by turns to begin in -180 … 180.

    An edge of more than 180° crosses the antimeridian: so do projected footprints whose corners lie on both sides.
    """
    import shapely

    out = parts.copy()
    west, _, east, _ = shapely.bounds(out).T
    for i in np.flatnonzero(east - west > 180):
        out[i] = _unwound(out[i])
    west = shapely.bounds(out)[:, 0]
    return _moved(out, -360 * np.floor((west + 180) / 360))


def _unwound(polygon: Any) -> Any:
    import shapely

    rings: list[Floats] = []
    for ring in shapely.get_rings(polygon):
        at = shapely.get_coordinates(ring)
        at[1:, 0] -= 360 * np.round(np.diff(at[:, 0]) / 360).cumsum()
        if rings:  # a hole lies inside the outline
            at[:, 0] += 360 * np.round((rings[0][:, 0].mean() - at[:, 0].mean()) / 360)
        if at[0, 0] != at[-1, 0]:
            raise ArgumentError(
                f"A footprint lies around a pole: {str(polygon)[:120]}. Longitude and latitude cannot hold it; cut it along a "
                "meridian, or leave it out."
            )
        rings.append(at)
    return shapely.Polygon(rings[0], rings[1:])


def _refuse_odd_parts(parts: Objects, boxes: Floats, buffer_m: float) -> None:
    """ArgumentError for polygons that are not valid, and for a buffer that goes round a pole."""
    import shapely

    wrong = np.flatnonzero(~shapely.is_valid(parts))
    if len(wrong):
        raise ArgumentError(
            f"{len(wrong):,} footprints are not valid, the first is {str(parts[wrong[0]])[:120]} "
            f"({shapely.is_valid_reason(parts[wrong[0]])}). Mend them (shapely.make_valid), or take their rows out."
        )
    highest = float(np.abs(boxes[:, [1, 3]]).max(initial=0))
    if buffer_m and highest + math.degrees(10 * buffer_m / _A) >= 90:
        raise ArgumentError(
            f"A footprint reaches latitude {highest:.3f}°, and a buffer of {buffer_m:g} m is too wide so near a pole: it must be "
            "less than a tenth of the way there. Use a shorter one, or 0."
        )


# ------------------------------------------------------------------------------------------------ numbers in metres


def _metres_per_degree(latitude: Floats) -> tuple[Floats, Floats]:
    """East and north, on the WGS 84 ellipsoid."""
    phi = np.radians(latitude)
    w = 1 - _E2 * np.sin(phi) ** 2
    return np.radians(_A * np.cos(phi) / np.sqrt(w)), np.radians(_A * (1 - _E2) / w**1.5)


def _equal_area(lonlat: Floats) -> Floats:
    """Longitude and latitude in degrees → metres east and north of the cylindrical equal-area projection."""
    e = math.sqrt(_E2)
    sine = np.sin(np.radians(lonlat[:, 1]))
    q = (1 - _E2) * (sine / (1 - _E2 * sine**2) + np.arctanh(e * sine) / e)
    return np.stack([_A * np.radians(lonlat[:, 0]), _A / 2 * q], axis=1)


def _area_m2(polygons: Objects) -> Floats:
    """Areas on the ellipsoid."""
    import shapely

    flat = shapely.set_coordinates(polygons.copy(), _equal_area(shapely.get_coordinates(polygons)))
    return np.asarray(shapely.area(flat), np.float64)


def _slack_m(polygons: Objects) -> Floats:
    """How far the edges of each may lie from where they are drawn (see above); those along parallels and meridians do not."""
    import shapely

    out = np.full(len(polygons), _THIN_M)
    for part in slices(len(polygons), AT_ONCE):
        at, index = shapely.get_coordinates(shapely.get_exterior_ring(polygons[part]), return_index=True)
        step, same = np.diff(at, axis=0), index[1:] == index[:-1]
        middle = (at[1:, 1] + at[:-1, 1]) / 2
        east, north = _metres_per_degree(middle)
        length2 = np.where(same & (step != 0).all(axis=1), (step[:, 0] * east) ** 2 + (step[:, 1] * north) ** 2, 0)
        slope = np.tan(np.radians(np.minimum(np.abs(middle), 89.9)))
        np.maximum.at(out[part], index[1:], length2 * (slope + 0.25) / (8 * _A))
    return out


def _overlap_m2(a: Objects, b: Objects, slack_m: Floats) -> tuple[Floats, Ints]:
    """Area that each pair shares in pieces that are wider than ``slack_m``, and how many pieces of any width it shares."""
    import shapely

    pieces, index = shapely.get_parts(shapely.intersection(a, b), return_index=True)
    flat = (shapely.get_type_id(pieces) == 3) & ~shapely.is_empty(pieces)
    pieces, index = pieces[flat], index[flat]
    lonlat, of = shapely.get_coordinates(pieces, return_index=True)
    _, south, _, north = shapely.bounds(pieces).T
    east_m, north_m = _metres_per_degree((south + north) / 2)
    area = _area_m2(pieces)
    local = shapely.set_coordinates(pieces, lonlat * np.stack([east_m[of], north_m[of]], axis=1))
    width = 2 * area / np.maximum(shapely.length(local), 1e-12)
    wide = width > slack_m[index]
    shared: Floats = np.bincount(index[wide], weights=area[wide], minlength=len(a)).astype(np.float64)
    return shared, np.bincount(index, minlength=len(a)).astype(np.int64)


def _distance_m(a: Objects, b: Objects) -> Floats:
    """Metres between polygons that do not overlap: the nearest points on a plane, then the geodesic between them.

    The plane is sinusoidal about the place where they face each other, so that meridians meet towards the poles; once more about
    the points found, for polygons that are long.
    """
    import shapely
    from pyproj import Geod

    boxes_a, boxes_b = shapely.bounds(a), shapely.bounds(b)
    # Of each axis the middle of what both have, or of what lies between them.
    about = (np.maximum(boxes_a[:, :2], boxes_b[:, :2]) + np.minimum(boxes_a[:, 2:], boxes_b[:, 2:])) / 2
    best, geod = np.full(len(a), np.inf), Geod(ellps="WGS84")
    for _ in range(2):
        ends = shapely.get_coordinates(shapely.shortest_line(_on_plane(a, about), _on_plane(b, about))).reshape(-1, 2, 2)
        lat = ends[:, :, 1] / _metres_per_degree(about[:, 1:])[1]
        lon = ends[:, :, 0] / _metres_per_degree(lat)[0] + about[:, :1]
        best = np.minimum(best, geod.inv(lon[:, 0], lat[:, 0], lon[:, 1], lat[:, 1])[2])
        about = np.stack([lon.mean(1), lat.mean(1)], axis=1)
    return best


def _on_plane(polygons: Objects, about: Floats) -> Objects:
    """Polygons in metres on sinusoidal planes about a longitude and latitude each."""
    import shapely

    lonlat, index = shapely.get_coordinates(polygons, return_index=True)
    east = (lonlat[:, 0] - about[index, 0]) * _metres_per_degree(lonlat[:, 1])[0]
    north = lonlat[:, 1] * _metres_per_degree(about[:, 1])[1][index]
    return np.asarray(shapely.set_coordinates(polygons.copy(), np.stack([east, north], axis=1)), object)
