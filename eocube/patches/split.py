"""Which blocks of ground and which periods of time are for testing, and what may be trained on beside them."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from odc.geo.geobox import GeoBox

from eocube.model.hashing import digest
from eocube.model.patch_spec import SplitRule
from eocube.model.window import Span

TRAIN, TEST, NEITHER, EITHER = 0, 1, 2, 3
"""Codes of a place, a date or a patch. ``EITHER``: this axis is not split."""

NAMES = ("train", "test", "buffer")
"""What the codes of a patch are called."""

Codes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]

DAY_MS = 86_400_000
_SNAP = 1e-6
"""Of a block: an edge so near to a block's edge lies on it."""


def join(place: Codes, date: Codes) -> Codes:
    """The code of patches at places and dates: both must agree, and an axis that is not split agrees with anything."""
    both = np.where(place == EITHER, date, np.where((date == EITHER) | (date == place), place, NEITHER))
    return np.where(both == EITHER, TRAIN, both).astype(np.uint8)


def date_codes(time_ms: tuple[int, ...], rule: SplitRule | None, seed: int) -> Codes:
    """``TRAIN``, ``TEST`` or ``NEITHER`` of each date (milliseconds since 1970-01-01)."""
    if rule is None or rule.period_days is None:
        return np.full(len(time_ms), EITHER, np.uint8)
    gap_ms = math.ceil(rule.gap_days * DAY_MS)
    return np.array([_date_code(t, rule, seed, gap_ms) for t in time_ms], np.uint8)


def _date_code(t: int, rule: SplitRule, seed: int, gap_ms: int) -> int:
    length = (rule.period_days or 1) * DAY_MS
    if _is_test_period(t // length, rule.periods, seed):
        return TEST
    near = range((t - gap_ms) // length, (t + gap_ms) // length + 1)
    return NEITHER if any(_is_test_period(p, rule.periods, seed) for p in near) else TRAIN


def _is_test_period(period: int, periods: int, seed: int) -> bool:
    return _draw(["period", seed, period // periods], periods) == period % periods


def _test_blocks(y: Span, x: Span, blocks_yx: tuple[int, int], crs: str, seed: int) -> npt.NDArray[np.bool_]:
    """Whether each of the blocks in rows ``y`` and columns ``x`` is for testing; one draw a group."""
    ny, nx = blocks_yx
    is_test = np.zeros((y[1] - y[0], x[1] - x[0]), bool)
    for gy in range(y[0] // ny, -(-y[1] // ny)):
        for gx in range(x[0] // nx, -(-x[1] // nx)):
            row, column = divmod(_draw(["block", seed, crs, gy, gx], ny * nx), nx)
            at_y, at_x = gy * ny + row, gx * nx + column
            if y[0] <= at_y < y[1] and x[0] <= at_x < x[1]:
                is_test[at_y - y[0], at_x - x[0]] = True
    return is_test


def _draw(what: list[object], n: int) -> int:
    """One of ``n``, by name: the same wherever and whenever it is asked."""
    return int(digest(what)[:12], 16) % n


class Blocks:
    """The blocks that a grid touches, and which of them are for testing."""

    def __init__(self, lr: GeoBox, rule: SplitRule, seed: int):
        self._rule, a = rule, lr.affine
        self._axes = (_Axis(a.f, a.e, rule.block_px), _Axis(a.c, a.a, rule.block_px))
        ny, nx = (int(n) for n in lr.shape)
        margin = rule.buffer_px
        y, x = self._axes[0].blocks(-margin, ny + margin), self._axes[1].blocks(-margin, nx + margin)
        self._first = y[0], x[0]
        self.is_test = _test_blocks(y, x, rule.blocks_yx, str(lr.crs), seed)
        """(block row, block column) of every block that the grid or its buffer touches."""
        self._sums = np.pad(self.is_test.cumsum(0).cumsum(1), ((1, 0), (1, 0)))

    def codes(self, y: Ints, x: Ints, size_px: int) -> Codes:
        """Codes of the patches of ``size_px`` LR pixels whose corners are rows ``y`` × columns ``x``: (rows, columns)."""
        n_test, n = self._count(y, x, size_px, 0)
        near, _ = self._count(y, x, size_px, self._rule.buffer_px)
        return np.where(n_test == n, TEST, np.where(near == 0, TRAIN, NEITHER)).astype(np.uint8)

    def test_areas(self, y: Span, x: Span) -> list[tuple[Span, Span]]:
        """The part of each test block inside LR rows ``y`` and columns ``x``, as whole pixels; in order."""
        rows, columns = (axis.members(s) for axis, s in zip(self._axes, (y, x), strict=True))
        found = []
        for by, bx in zip(*np.nonzero(self.is_test), strict=True):
            spans = rows.get(int(by) + self._first[0]), columns.get(int(bx) + self._first[1])
            if spans[0] and spans[1]:
                found.append((spans[0], spans[1]))
        return sorted(found)

    def _count(self, y: Ints, x: Ints, size_px: int, margin_px: int) -> tuple[Ints, Ints]:
        """(test blocks, all blocks) that each patch touches with a margin."""
        (ya, yb), (xa, xb) = (
            self._spans(axis, first, starts - margin_px, starts + size_px + margin_px)
            for axis, first, starts in zip(self._axes, self._first, (y, x), strict=True)
        )
        s = self._sums
        n_test = s[np.ix_(yb, xb)] - s[np.ix_(ya, xb)] - s[np.ix_(yb, xa)] + s[np.ix_(ya, xa)]
        return n_test, np.multiply.outer(yb - ya, xb - xa)

    @staticmethod
    def _spans(axis: _Axis, first: int, starts: Ints, stops: Ints) -> tuple[Ints, Ints]:
        pairs = [axis.blocks(int(a), int(b)) for a, b in zip(starts, stops, strict=True)]
        spans = np.array(pairs, np.int64).reshape(-1, 2) - first
        return spans[:, 0], spans[:, 1]


class _Axis:
    """One axis of a grid against the blocks of its CRS."""

    def __init__(self, origin: float, step: float, block_px: int):
        self._origin_blocks, self._step = origin / (abs(step) * block_px), math.copysign(1 / block_px, step)

    def blocks(self, start_px: int, stop_px: int) -> Span:
        """The blocks, as a half-open range, that pixels ``start_px:stop_px`` touch."""
        ends = [self._origin_blocks + self._step * p for p in (start_px, stop_px)]
        return math.floor(min(ends) + _SNAP), math.ceil(max(ends) - _SNAP)

    def members(self, span: Span) -> dict[int, Span]:
        """Block → those pixels of ``span`` that lie in it whole; blocks without one are left out."""
        out: dict[int, Span] = {}
        for p in range(*span):
            first, stop = self.blocks(p, p + 1)
            if stop - first == 1:
                out[first] = (out.get(first, (p, p))[0], p + 1)
        return out
