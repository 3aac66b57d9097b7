"""Ground that several splits share: footprints that overlap or lie too near, and ids and groups that are in several splits.

Only pairs of different splits are ever formed: each split has a search tree of its own, over its distinct footprints. What an
overlap and a distance are is in :mod:`eocube.patches.ground`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from eocube.errors import ArgumentError
from eocube.patches.ground import AT_ONCE, MAX_BUFFER_M, Ground, Ints, Objects, Shared, ranges

COLUMNS = ("a", "b", "split_a", "split_b", "shared_m2", "share", "distance_m", "rows_a", "rows_b")
"""Of ``LeakageReport.pairs``."""

TOLERANCE_M2 = 0.01
"""A square of 10 cm: less than one pixel of any sensor, more than rounding leaves."""

MAX_PAIRS = 5_000_000
"""More pairs than this are an error: about half a gigabyte of them says no more than that the split leaks everywhere."""

MAX_SPLITS = 100
SHOWN = 5
"""Pairs of splits that ``str()`` of a report names."""

LISTED = 1_000
"""Pairs, ids and groups of each kind that :meth:`LeakageReport.as_json` lists."""


@dataclass(frozen=True, kw_only=True)
class Footprints:
    """Rows of a table, each with a footprint and, most of them, a split."""

    outlines: Objects
    """Distinct footprints: shapely polygons and multipolygons in OGC:CRS84."""

    at: Ints
    """Of each row, its footprint."""

    split: Objects
    """Of each row, its split; None, NaN or NA: it has none, and is left out."""

    name: Objects
    """Of each row, what it is called in the report."""

    labels: Mapping[str, Objects] = field(default_factory=dict)
    """``id``, ``group``, ``site`` of each row, as far as they are known."""

    day: Ints | None = None
    """Of each row, its date in whole days of UTC since 1970-01-01."""

    n_dropped: int = 0
    """Rows that were left out before."""


class PairCount(NamedTuple):
    """What two splits share."""

    split_a: str
    split_b: str
    overlapping: int
    """Pairs of footprints that overlap."""

    near: int
    """Pairs that do not, and are nearer than the buffer."""

    shared_m2: float
    """Sum over the pairs: ground that several pairs share counts each time."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LeakageReport:
    """What the splits of a set of footprints share. ``str()`` of it says what to do."""

    rows: Mapping[str, int]
    """Split → rows."""

    footprints: Mapping[str, int]
    """Split → distinct footprints; many rows may lie on one (dates of a patch, products of a site)."""

    without_split: int
    """Rows without a split: not looked at."""

    dropped: int
    """Patches that are in no split because they were too cloudy: not looked at."""

    counts: tuple[PairCount, ...]
    """Each pair of splits, also those that share nothing."""

    pairs: pd.DataFrame
    """A row a pair of distinct footprints of different splits, the most shared ground first: ``a``, ``b`` (names of the first
    rows on them), ``split_a``, ``split_b``, ``shared_m2``, ``share`` (of the smaller footprint, 0-1), ``distance_m`` (0 where
    they overlap), ``rows_a``, ``rows_b`` (how many rows lie on each)."""

    ids: Mapping[str, tuple[str, ...]]
    """Id (``patch_id``, else ``site``) → splits, where one id is in several."""

    groups: Mapping[str, tuple[str, ...]]
    """``group`` → splits, where one is in several; not those that are such ids themselves."""

    sites: Mapping[str, tuple[str, ...]]
    """Of tables with ``patch_id``: site → splits, where one is in several. No fault by itself: blocks cut sites apart."""

    too_thin: int
    """Pairs whose overlap is too thin or too small to be one (see :mod:`eocube.patches.ground`)."""

    buffer_m: float
    tolerance_m2: float
    ignore_time: bool

    @property
    def ok(self) -> bool:
        """Whether no footprints overlap or are too near, and no id and no group is in several splits."""
        return self.pairs.empty and not self.ids and not self.groups

    def __str__(self) -> str:
        return "\n".join(_told(self))

    def as_json(self) -> dict[str, Any]:
        """The report in plain values; of pairs, ids, groups and sites the first thousand each, ``n_…`` counts them all."""
        named = {kind: getattr(self, kind) for kind in ("ids", "groups", "sites")}
        return {
            "ok": self.ok,
            "rows": dict(self.rows),
            "footprints": dict(self.footprints),
            "without_split": self.without_split,
            "dropped": self.dropped,
            "buffer_m": self.buffer_m,
            "tolerance_m2": self.tolerance_m2,
            "ignore_time": self.ignore_time,
            "too_thin": self.too_thin,
            "counts": [count._asdict() for count in self.counts],
            "n_pairs": len(self.pairs),
            "pairs": self.pairs.head(LISTED).to_dict("records"),
            **{f"n_{kind}": len(found) for kind, found in named.items()},
            **{kind: {k: list(v) for k, v in list(found.items())[:LISTED]} for kind, found in named.items()},
        }


def _told(report: LeakageReport) -> Iterator[str]:
    sizes = ", ".join(
        f"{split} {n:,}" + (f" on {report.footprints[split]:,} footprints" if report.footprints[split] != n else "")
        for split, n in report.rows.items()
    )
    left_out = {"without a split": report.without_split, "dropped": report.dropped}
    yield f"Rows: {sizes}" + "".join(f"; {n:,} {what}" for what, n in left_out.items() if n)
    if len(report.rows) == 1:
        yield "There is one split: nothing that it could share ground with."
        return
    sharing = sorted((c for c in report.counts if c.overlapping or c.near), key=lambda c: (-c.shared_m2, -c.near))
    for count in sharing[:SHOWN]:
        near = f"; {count.near:,} more nearer than {report.buffer_m:g} m" if report.buffer_m else ""
        yield f"{count.split_a} and {count.split_b}: {count.overlapping:,} pairs overlap{near}{_worst(report, count)}"
    if len(sharing) > SHOWN:
        yield f"… and {len(sharing) - SHOWN:,} more pairs of splits (`counts`)"
    for what, found in (("Ids", report.ids), ("Groups", report.groups)):
        if found:
            some = "; ".join(f"{name} ({', '.join(splits)})" for name, splits in list(found.items())[:3])
            yield f"{what} in several splits: {len(found):,}: {some}{' …' if len(found) > 3 else ''}"
    if report.too_thin:
        yield f"Taken for edges that touch: {report.too_thin:,} pairs that overlap by less than is known of edges, or tolerated"
    if report.ok:
        yield "Splits share no ground" + (f" and are {report.buffer_m:g} m apart." if report.buffer_m else ".")
    else:
        yield (
            "Rows that share ground belong into one split: draw it by group or by blocks of ground, or take them out of "
            "training. `pairs`, `ids` and `groups` of the report name them all."
        )


def _worst(report: LeakageReport, count: PairCount) -> str:
    of_these = (report.pairs["split_a"] == count.split_a) & (report.pairs["split_b"] == count.split_b)
    first = report.pairs[of_these].iloc[0]
    if not count.overlapping:
        return f", {first['a']} and {first['b']} at {first['distance_m']:,.1f} m first"
    return f", {first['a']} and {first['b']} most: {first['shared_m2']:,.0f} m², {first['share']:.1%} of the smaller"


# ------------------------------------------------------------------------------------------------ the report


def find_leakage(
    rows: Footprints, *, buffer_m: float = 0.0, tolerance_m2: float = TOLERANCE_M2, ignore_time: bool = True
) -> LeakageReport:
    """Find what splits share; see :func:`eocube.leakage_report`, which takes what users have.

    Raises
    ------
    ArgumentError
        If no row has a split, or there are more than 100 splits; a footprint is no valid polygon, or lies around a pole; the
        buffer is negative, longer than 100 km or reaches near a pole; dates are asked for and there are none; or there are more
        than five million pairs.
    """
    if not 0 <= buffer_m <= MAX_BUFFER_M:
        raise ArgumentError(f"buffer_m is {buffer_m!r}; expected metres from 0 to {MAX_BUFFER_M:,.0f}.")
    if not 0 <= tolerance_m2 < math.inf:
        raise ArgumentError(f"tolerance_m2 is {tolerance_m2!r}; expected square metres, 0 or more.")
    if not ignore_time and rows.day is None:
        raise ArgumentError("ignore_time=False compares dates, and there is no `date` column. Leave it out, or add the column.")
    code, names = _split_codes(rows.split)
    day = None if ignore_time else rows.day
    ground = Ground(rows.outlines, np.unique(rows.at[code >= 0]), buffer_m)
    sides = [_Side.of(rows, code == k, day) for k in range(len(names))]
    tables, counts, too_thin = [], [], 0
    for k, m in combinations(range(len(names)), 2):
        found, thin = _shared(ground, sides[k], sides[m], tolerance_m2)
        too_thin += thin
        overlapping = int((found.shared_m2 > 0).sum())
        counts.append(PairCount(names[k], names[m], overlapping, len(found.a) - overlapping, float(found.shared_m2.sum())))
        tables.append(_table(found, ground, (sides[k], sides[m]), (names[k], names[m]), rows.name))
        _refuse_too_many(sum(len(t) for t in tables))
    several = {kind: _in_several(values, code, names, day) for kind, values in rows.labels.items()}
    ids = several.get("id", {})
    return LeakageReport(
        rows={name: int((code == k).sum()) for k, name in enumerate(names)},
        footprints={name: len(side.outlines) for name, side in zip(names, sides, strict=True)},
        without_split=int((code < 0).sum()),
        dropped=rows.n_dropped,
        counts=tuple(counts),
        pairs=_sorted(tables),
        ids=ids,
        groups={name: splits for name, splits in several.get("group", {}).items() if name not in ids},
        sites=several.get("site", {}),
        too_thin=too_thin,
        buffer_m=float(buffer_m),
        tolerance_m2=float(tolerance_m2),
        ignore_time=ignore_time,
    )


def _split_codes(split: Objects) -> tuple[Ints, list[str]]:
    """Code of each row's split, -1 without one, and the names in order."""
    code, found = pd.factorize(split)
    names = [str(name) for name in found]
    if not 1 <= len(names) <= MAX_SPLITS:
        raise ArgumentError(
            f"{len(split):,} rows are in {len(names)} splits; expected 1 to {MAX_SPLITS}. "
            + ("`split` holds ids, it seems." if names else "Give them a split first, as with open_corpus(…, split='leak_safe').")
        )
    order = sorted(range(len(names)), key=lambda k: names[k])
    rank = np.empty(len(names) + 1, np.int64)
    rank[order], rank[-1] = np.arange(len(names)), -1
    return rank[code], [names[k] for k in order]


def _refuse_too_many(n: int) -> None:
    if n > MAX_PAIRS:
        raise ArgumentError(
            f"More than {MAX_PAIRS:,} pairs of footprints share ground: this split leaks everywhere. Look at a part of it (one "
            "site, one area), and draw the split by blocks of ground."
        )


def _in_several(values: Objects, code: Ints, names: Sequence[str], day: Ints | None) -> dict[str, tuple[str, ...]]:
    """Value → splits, of those that several splits have; with days, that several have on one day."""
    value, known = pd.factorize(values)
    table = pd.DataFrame({"value": value, "day": 0 if day is None else day, "split": code})
    table = table[(table["value"] >= 0) & (table["split"] >= 0)].drop_duplicates()
    table = table[table.duplicated(["value", "day"], keep=False)]
    splits = table.drop_duplicates(["value", "split"]).sort_values(["value", "split"]).groupby("value")["split"]
    found = {str(known[int(value)]): tuple(names[k] for k in codes) for value, codes in splits}  # type: ignore[arg-type]
    return dict(sorted(found.items()))


def _table(found: Shared, ground: Ground, sides: tuple[_Side, _Side], names: tuple[str, str], row_names: Objects) -> pd.DataFrame:
    (first_a, rows_a), (first_b, rows_b) = (side.rows_of(at) for side, at in zip(sides, (found.a, found.b), strict=True))
    smaller = np.minimum(ground.area_m2[found.a], ground.area_m2[found.b])
    values = (
        *(row_names[first_a], row_names[first_b], *(np.full(len(found.a), name, object) for name in names)),
        *(found.shared_m2, np.minimum(found.shared_m2 / smaller, 1.0), found.distance_m, rows_a, rows_b),
    )
    return pd.DataFrame(dict(zip(COLUMNS, values, strict=True)))


def _sorted(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """All pairs, the most shared ground first, then the nearest."""
    some = [table for table in tables if len(table)]
    if not some:
        return pd.DataFrame({name: pd.Series(dtype=object if i < 4 else float) for i, name in enumerate(COLUMNS)})
    order = ["shared_m2", "distance_m", "a", "b"]
    return pd.concat(some).sort_values(order, ascending=[False, True, True, True], kind="stable", ignore_index=True)


# ------------------------------------------------------------------------------------------------ pairs


@dataclass(frozen=True, kw_only=True)
class _Side:
    """One split's footprints."""

    outlines: Ints
    """Its distinct footprints, ascending."""

    first: Ints
    n: Ints
    """First row on each, and how many there are."""

    dated: Ints | None
    """Footprint and day of each row as one number, ascending."""

    @classmethod
    def of(cls, rows: Footprints, chosen: npt.NDArray[np.bool_], day: Ints | None) -> _Side:
        where = np.flatnonzero(chosen)
        outlines, first, n = np.unique(rows.at[where], return_index=True, return_counts=True)
        dated = None if day is None else np.unique(_dated(rows.at[where], day[where]))
        return cls(outlines=outlines, first=where[first], n=n, dated=dated)

    def rows_of(self, outlines: Ints) -> tuple[Ints, Ints]:
        at = np.searchsorted(self.outlines, outlines)
        return self.first[at], self.n[at]

    def days_of(self, outlines: Ints) -> tuple[Ints, Ints]:
        """(place in ``outlines``, day) of each day of each footprint."""
        assert self.dated is not None  # noqa: S101 - for the type checker: only asked with days
        edges = (np.searchsorted(self.dated, outline * _DAYS) for outline in (outlines, outlines + 1))
        place, at = ranges(*edges)
        return place, self.dated[at] % _DAYS - _DAYS // 2


_DAYS = 1 << 24


def _dated(outlines: Ints, day: Ints) -> Ints:
    return outlines * _DAYS + day + _DAYS // 2


def _shared(ground: Ground, a: _Side, b: _Side, tolerance_m2: float) -> tuple[Shared, int]:
    """Pairs of two splits that overlap or are nearer than the buffer, and how many overlaps were too thin or too small."""
    found, n_found = [], 0
    for pairs in ground.candidates(a.outlines, b.outlines):
        found.append(ground.measure(pairs))
        n_found += len(found[-1].a)
        _refuse_too_many(n_found)
    joined = pd.DataFrame(Shared.joined(found)._asdict())
    # Parts of one multipolygon, and of one footprint on both sides of the antimeridian, are one pair.
    summed = joined.groupby(["a", "b"], as_index=False).agg({"shared_m2": "sum", "distance_m": "min", "meet": "sum"})
    whole = Shared(**{name: summed[name].to_numpy() for name in Shared._fields})
    overlap = whole.shared_m2 > tolerance_m2
    small = (whole.meet > 0) & ~overlap
    whole = whole._replace(shared_m2=np.where(overlap, whole.shared_m2, 0.0))
    chosen = whole.where(overlap | ground.is_near(whole.distance_m))
    if a.dated is not None:
        chosen = chosen.where(_on_one_day(a, b, chosen))
    return chosen, int(small.sum())


def _on_one_day(a: _Side, b: _Side, pairs: Shared) -> npt.NDArray[np.bool_]:
    """Whether each pair has rows of one day."""
    out = np.zeros(len(pairs.a), bool)
    for start in range(0, len(out), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        place, day = a.days_of(pairs.a[part])
        asked = _dated(pairs.b[part][place], day)
        assert b.dated is not None  # noqa: S101 - as in days_of
        at = np.minimum(np.searchsorted(b.dated, asked), len(b.dated) - 1)
        out[part] = np.bincount(place, b.dated[at] == asked, minlength=len(pairs.a[part])) > 0
    return out
