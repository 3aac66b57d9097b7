"""WorldStrat's tables: ``metadata.csv``, the ``.metadata`` file of a revisit, the split table; and a split that does not leak.

What leaks: a tile in two splits (11 of v1), tiles of one order in several, and areas that overlap (31 pairs of dataset.csv do).

====================================================  ==========================================================================
fact                                                  source
====================================================  ==========================================================================
``metadata.csv``: a row per area and revisit; the     users' code and torchgeo's data set class; only area, ``n`` and
area stands in an unnamed column (v1) or in           the dates are certain, so every other column may be missing
``tile`` (v1.1)
split table of v1: 3,928 rows, 3,890 tiles, 38        the published file (md5 745035835d835280aa0298a9dc1996d1)
twice, 11 of them in two splits
an empty IPCC class is snow or ice                    the same; its ``joint_class`` says ``nan``
``.metadata``: JSON with cloud_cover, target_date,    worldstrat/worldstrat at 39fe223,
delta, area, datetime                                 ``dataset_generation/SentinelDownloader.py``, save_metadata_alt
====================================================  ==========================================================================

Uncertain: how ``bounds`` is written in ``metadata.csv`` (any text with four numbers, or a polygon's, is taken), and the form of
``datetime`` in the JSON (whatever ``datetime.fromisoformat`` reads; without a zone it is taken for UTC).
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from typing import Any, TypeVar

from eocube.corpora.worldstrat_files import METADATA_CSV, SPLIT_CSV, Note, natural, note_of, order_of, tile_place
from eocube.errors import ArgumentError, CatalogError

T = TypeVar("T")

Bounds = tuple[float, float, float, float]
"""Longitude and latitude in degrees, WGS 84: west, south, east, north."""

_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "name": ("tile", "aoi", "name", ""),
    "n": ("n",),
    "lowres_date": ("lowres_date",),
    "highres_date": ("highres_date",),
    "cloud_cover": ("cloud_cover",),
    "delta": ("delta",),
    "area": ("area",),
    "bounds": ("bounds",),
    "ipcc": ("ipcc class", "ipcc"),
    "smod": ("smod",),
    "source": ("source",),
    "split": ("split",),
    "product_id": ("product_id",),
}
"""Ours → theirs, in lower case; the first that a table has."""


@dataclass(frozen=True, kw_only=True)
class RevisitFacts:
    """What the tables know of one revisit; None is unknown."""

    n: int
    """Rank, 1 is best."""

    acquired: datetime | None = None
    """UTC. Midnight where only the day is known (`is_day`)."""

    is_day: bool = True
    """Whether only the day is known: ``metadata.csv`` has days, the ``.metadata`` file has seconds."""

    cloud_cover: float | None = None
    """Percent of the whole Sentinel-2 product, not of the area."""

    delta_days: float | None = None
    """Days from the high-resolution image to the revisit; negative is before."""

    area_km2: float | None = None
    """What the product covers of the area."""


@dataclass(frozen=True, kw_only=True)
class AreaFacts:
    """What the tables know of one area; None or "" is unknown."""

    name: str
    """As in the tables."""

    bounds: Bounds | None = None
    """Both resolutions cover exactly this."""

    source: str = ""
    """``Landcover``, ``UNHCR``, ``ASMSpotter`` or ``Amnesty``."""

    ipcc: str | None = None
    """IPCC land class; "" is snow or ice."""

    smod: int | None = None
    """GHS-SMOD class of settlement, 10 to 30."""

    hr_date: date | None = None
    """Day of the SPOT image."""

    product_id: str = ""
    """Airbus' number of the SPOT product, from the list of orders."""

    revisits: Mapping[int, RevisitFacts] = field(default_factory=dict)
    """n → facts."""

    @property
    def joint_class(self) -> str:
        """``source/IPCC/SMOD`` as the split table writes it."""
        return f"{self.source}/{self.ipcc or 'nan'}/{self.smod if self.smod is not None else 'nan'}"


@dataclass(frozen=True, kw_only=True)
class SplitRow:
    """One row of the split table."""

    tile: str
    """Area."""

    split: str
    """``train``, ``val`` or ``test``."""

    source: str = ""
    """See `AreaFacts`."""

    ipcc: str | None = None
    """See `AreaFacts`."""

    smod: int | None = None
    """See `AreaFacts`."""


def read_metadata(content: bytes, *, where: str = METADATA_CSV) -> tuple[dict[str, AreaFacts], tuple[Note, ...]]:
    """Read ``metadata.csv`` of any release, or a list of areas without revisits (``dataset.csv``).

    Parameters
    ----------
    content
        The file.
    where
        Its address, for messages.

    Returns
    -------
    Area → facts, in natural order, and what was odd: cells that cannot be read (kind ``unreadable-cell``), repeated revisits
    that differ (``conflicting-row``).

    Raises
    ------
    CatalogError
        If it is no such table: not CSV, or no column names the areas.
    """
    rows = _Rows(content, where, needed=("name",))
    areas: dict[str, AreaFacts] = {}
    odd: set[str] = set()
    for k, name in enumerate(rows.text("name")):
        if name is None:
            rows.unreadable.add(f"{where} row {k + 2}, area")
            continue
        found = _area_facts(rows, k, name)
        known = areas.setdefault(name, found)
        if known is found:
            continue
        if replace(known, revisits={}) != replace(found, revisits={}):
            odd.add(name)
        for n, facts in found.revisits.items():
            if known.revisits.get(n, facts) != facts:
                odd.add(name)
            known.revisits.setdefault(n, facts)  # type: ignore[attr-defined]
    ordered = {name: areas[name] for name in sorted(areas, key=natural)}
    return ordered, (*note_of("unreadable-cell", rows.unreadable), *note_of("conflicting-row", odd))


def read_revisit_json(content: bytes, n: int, *, where: str) -> RevisitFacts:
    """Read the ``.metadata`` file of revisit ``n``.

    Raises
    ------
    CatalogError
        If it is no JSON object, or its ``datetime`` is no time.
    """
    try:
        found = json.loads(content)
        stamp = found["datetime"] if isinstance(found, dict) else None
        acquired = None if stamp is None else _utc(str(stamp))
    except (ValueError, KeyError, RecursionError) as error:
        raise CatalogError(
            f"{where} is no .metadata file of WorldStrat: {error!r}. Expected is a JSON object with a datetime. "
            "Fetch the file again, or delete it: the day then comes from metadata.csv."
        ) from error
    if acquired is None:
        raise CatalogError(
            f"{where} is no JSON object. Fetch the file again, or delete it: the day then comes from metadata.csv."
        )
    numbers = {ours: _number_or_none(found.get(key)) for ours, key in _JSON_NUMBERS.items()}
    return RevisitFacts(n=n, acquired=acquired, is_day=False, **numbers)


_JSON_NUMBERS = {"cloud_cover": "cloud_cover", "delta_days": "delta", "area_km2": "area"}


def merge_revisit(table: RevisitFacts | None, own: RevisitFacts | None) -> tuple[RevisitFacts | None, bool]:
    """Join what ``metadata.csv`` and the ``.metadata`` file say of a revisit; the latter counts, and fills no gap with a guess.

    Returns
    -------
    The facts, None if neither is known, and whether the two name days that are a day or more apart.
    """
    if table is None or own is None:
        return own or table, False
    filled = {
        name: getattr(own, name) if getattr(own, name) is not None else getattr(table, name)
        for name in ("cloud_cover", "delta_days", "area_km2")
    }
    acquired, is_day = (own.acquired, own.is_day) if own.acquired else (table.acquired, table.is_day)
    differs = bool(own.acquired and table.acquired and abs((own.acquired.date() - table.acquired.date()).days) >= 1)
    return RevisitFacts(n=own.n, acquired=acquired, is_day=is_day, **filled), differs


def read_split(content: bytes, *, where: str = SPLIT_CSV) -> tuple[SplitRow, ...]:
    """Read the split table of any release, row by row, repeats included.

    Raises
    ------
    CatalogError
        If tile or split are missing.
    """
    rows = _Rows(content, where, needed=("name", "split"))
    found = []
    for k, (tile, split) in enumerate(zip(rows.text("name"), rows.text("split"), strict=True)):
        if tile is None or split is None:
            raise CatalogError(f"{where} row {k + 2} names no tile or no split. Fetch the table again.")
        facts = _area_facts(rows, k, tile)
        found.append(SplitRow(tile=tile, split=split, source=facts.source, ipcc=facts.ipcc, smod=facts.smod))
    return tuple(found)


def _area_facts(rows: _Rows, k: int, name: str) -> AreaFacts:
    """Facts of one row."""
    n = rows.cell("n", k, int)
    day = rows.cell("lowres_date", k, _utc)
    source = (rows.cell("source", k, str) or "").removeprefix("Random Sampling/")
    revisits = {}
    if n is not None:
        revisits[n] = RevisitFacts(
            n=n,
            acquired=day and day.replace(hour=0, minute=0, second=0, microsecond=0),
            cloud_cover=rows.cell("cloud_cover", k, float),
            delta_days=rows.cell("delta", k, _days),
            area_km2=rows.cell("area", k, float),
        )
    hr = rows.cell("highres_date", k, _utc)
    return AreaFacts(
        name=name,
        bounds=rows.cell("bounds", k, read_bounds),
        source=source or name.split("-", 1)[0].removesuffix(" POI"),
        ipcc=(rows.cell("ipcc", k, str) or "") if rows.has("ipcc") else None,
        smod=rows.cell("smod", k, _whole),
        hr_date=hr.date() if hr else None,
        product_id=rows.cell("product_id", k, str) or "",
        revisits=revisits,
    )


def _read_csv(content: bytes) -> tuple[list[str], list[list[str]]]:
    """Names and columns of a CSV; ValueError where it is none.

    Not through Arrow, whose pools of threads abort one process in some ten that ends soon afterwards (:mod:`eocube.io.parquet`).
    """
    rows = [row for row in csv.reader(io.StringIO(content.decode("utf-8-sig"), newline="")) if row]
    if not rows:
        raise ValueError("it is empty")
    head, *body = rows
    for n, row in enumerate(body, start=2):
        if len(row) != len(head):
            raise ValueError(f"row {n} has {len(row)} cells, the first one {len(head)}")
    return head, [list(column) for column in zip(*body, strict=True)] or [[] for _ in head]


class _Rows:
    """A CSV as columns of text, under our names; cells that cannot be read are remembered."""

    def __init__(self, content: bytes, where: str, needed: Sequence[str]):
        self._where = where
        self.unreadable: set[str] = set()
        try:
            head, columns = _read_csv(content)
        except (csv.Error, ValueError) as error:
            raise CatalogError(f"{where} cannot be read as CSV: {error}. Fetch the table again.") from error
        theirs = {name.strip().lower(): k for k, name in reversed(list(enumerate(head)))}
        self._columns: dict[str, list[str]] = {}
        for ours, names in _COLUMNS.items():
            known = next((theirs[name] for name in names if name in theirs), None)
            if known is not None:
                self._columns[ours] = columns[known]
        missing = [name for name in needed if name not in self._columns]
        if missing or (self._columns["name"] and all(name.isdecimal() for name in self._columns["name"])):
            raise CatalogError(
                f"{where} has no column for {' and '.join(missing or ['the name of the area'])}; it has {head}. "
                f"Known are {[name for ours in missing or ['name'] for name in _COLUMNS[ours]]}. Is it WorldStrat's table?"
            )

    def has(self, name: str) -> bool:
        return name in self._columns

    def text(self, name: str) -> list[str | None]:
        return [value.strip() or None for value in self._columns[name]]

    def cell(self, name: str, k: int, read: Callable[[str], T]) -> T | None:
        """One cell, or None if it is empty, not there, or cannot be read (then it is remembered)."""
        value = self._columns[name][k].strip() if name in self._columns else ""
        if value.lower() in {"", "nan", "nat", "none", "null"}:
            return None
        try:
            return read(value)
        except ValueError:
            self.unreadable.add(f"{self._where} row {k + 2}, {name}: {value[:40]!r}")
            return None


def read_bounds(text: str) -> Bounds:
    """West, south, east, north from any text that holds them: a list, a tuple, or a polygon's corners.

    Raises
    ------
    ValueError
        If the numbers are no box on the globe.
    """
    numbers = [float(found) for found in re.findall(r"[-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?", text)]
    if len(numbers) >= 6 and len(numbers) % 2 == 0:
        x, y = numbers[::2], numbers[1::2]
        numbers = [min(x), min(y), max(x), max(y)]
    if len(numbers) != 4:
        raise ValueError(f"{text!r} holds no box of west, south, east, north in degrees.")
    west, south, east, north = numbers
    if not (-180 <= west < east <= 180 and -90 <= south < north <= 90):
        raise ValueError(f"{text!r} holds no box of west, south, east, north in degrees.")
    return west, south, east, north


def _utc(text: str) -> datetime:
    found = datetime.fromisoformat(text.strip())
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


def _days(text: str) -> float:
    """``-3``, ``-3.5``, ``-3 days``, ``-3 days +00:00:00`` (a difference of dates that pandas wrote)."""
    return float(re.sub(r" days?\b.*", "", text))


def _whole(text: str) -> int:
    value = float(text)
    if value != int(value):
        raise ValueError(text)
    return int(value)


def _number_or_none(value: Any) -> float | None:
    """A number of the JSON, written as one or as text."""
    try:
        return None if value is None else _days(str(value))
    except ValueError:
        return None


SHARES: Mapping[str, float] = {"train": 0.8, "val": 0.1, "test": 0.1}
"""What the published split aims at."""

HELD_OUT = ("test", "val", "train")
"""A tile that the published table puts in several splits is in the first of these: never trained on what is tested on."""

_OVERLAP_DEG = 1e-6
"""Boxes that share less (about 0.1 m) only touch."""


@dataclass(frozen=True, kw_only=True)
class SplitReport:
    """What is wrong with a split, by name."""

    n_rows: int
    """Rows of the table it was made from."""

    sizes: Mapping[str, int]
    """Split → tiles."""

    repeated: Mapping[str, int]
    """Tile → rows, where it has several."""

    leaking: Mapping[str, tuple[str, ...]]
    """Tile → splits, where it is in several."""

    split_orders: Mapping[str, Mapping[str, int]]
    """Order → split → tiles, where one order's adjoining tiles are in several splits."""

    @property
    def notes(self) -> tuple[Note, ...]:
        """The same as notes."""
        return (
            *note_of("repeated-tile", self.repeated),
            *note_of("leaking-tile", (f"{tile} ({' and '.join(splits)})" for tile, splits in self.leaking.items())),
            *note_of("split-order", self.split_orders),
        )

    def __str__(self) -> str:
        sizes = ", ".join(f"{split} {n:,}" for split, n in self.sizes.items())
        return (
            f"{self.n_rows:,} rows, {sum(self.sizes.values()):,} tiles ({sizes}); {len(self.repeated):,} tiles repeated, "
            f"{len(self.leaking):,} in several splits, {len(self.split_orders):,} orders spread over several splits"
        )


def published_split(table: Sequence[SplitRow]) -> tuple[dict[str, str], SplitReport]:
    """The split as it was published, each tile once, and what it repeats and leaks.

    Returns
    -------
    Tile → split, in natural order. A tile in several splits is held out (`HELD_OUT`); a name of a split that is not known there
    counts as the first. The report counts what the table says, before that choice.
    """
    splits: dict[str, list[str]] = {}
    for row in table:
        splits.setdefault(row.tile, []).append(row.split)
    rank = {split: k for k, split in enumerate(HELD_OUT)}
    chosen = {tile: min(splits[tile], key=lambda split: (rank.get(split, -1), split)) for tile in sorted(splits, key=natural)}
    several = {tile: tuple(sorted(set(found))) for tile, found in splits.items() if len(set(found)) > 1}
    report = SplitReport(
        n_rows=len(table),
        sizes=_sizes(chosen),
        repeated={tile: len(found) for tile, found in splits.items() if len(found) > 1},
        leaking=several,
        split_orders=_split_orders({(row.tile, row.split) for row in table}),
    )
    return chosen, report


def leak_safe_split(
    areas: Iterable[AreaFacts | SplitRow], *, shares: Mapping[str, float] = SHARES, salt: str = ""
) -> tuple[dict[str, str], SplitReport]:
    """Split unique tiles so that ground is never in two splits, with the published split's shares of classes.

    Tiles of one order stay together, and so do areas whose bounds overlap (where ``areas`` know their bounds). Groups of
    several tiles go, largest first, where their source lacks most tiles; single tiles are dealt in turn along a list sorted by
    source, IPCC and SMOD, so that every such class has its shares but for less than two tiles. Which tile goes where follows
    from a digest of the group's name: equal input gives an equal split on any machine, in whatever order it comes.

    Parameters
    ----------
    areas
        Facts by tile; the first of a repeated tile counts.
    shares
        Split → share; they sum to 1.
    salt
        Another text is another split.

    Returns
    -------
    Tile → split, in natural order, and the report (which finds nothing repeated, leaking or spread).

    Raises
    ------
    ArgumentError
        If the shares are not positive numbers that sum to 1.
    """
    if not shares or min(shares.values()) <= 0 or abs(sum(shares.values()) - 1) > 1e-9:
        raise ArgumentError(f"Shares {dict(shares)} are not positive numbers that sum to 1, as {dict(SHARES)} do.")
    unique: dict[str, AreaFacts | SplitRow] = {}
    for area in areas:
        unique.setdefault(_name(area), area)
    groups = _groups(unique, salt)
    chosen = _deal_groups([group for group in groups if len(group.tiles) > 1], unique, shares)
    chosen |= _deal_singles([group for group in groups if len(group.tiles) == 1], unique, shares)
    chosen = {tile: chosen[tile] for tile in sorted(chosen, key=natural)}
    return chosen, SplitReport(
        n_rows=len(chosen), sizes=_sizes(chosen), repeated={}, leaking={}, split_orders=_split_orders(chosen.items())
    )


@dataclass(frozen=True, kw_only=True)
class _Group:
    """Tiles that stay together."""

    key: str
    """A digest: the order in which equals are dealt."""

    tiles: tuple[str, ...]


def _groups(unique: Mapping[str, AreaFacts | SplitRow], salt: str) -> list[_Group]:
    """Tiles joined by order and by overlap, sorted by digest."""
    names = sorted(unique)
    parent = dict(zip(names, names, strict=True))

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    first: dict[str, str] = {}
    for name in names:
        parent[root(name)] = root(first.setdefault(order_of(name), name))
    for one, other in _overlapping({name: unique[name] for name in names}):
        parent[root(one)] = root(other)
    members: dict[str, list[str]] = {}
    for name in names:
        members.setdefault(root(name), []).append(name)
    groups = (
        _Group(key=hashlib.sha256(f"{salt}\n{order_of(tiles[0])}".encode()).hexdigest(), tiles=tuple(tiles))
        for tiles in members.values()
    )
    return sorted(groups, key=lambda group: (group.key, group.tiles))


def _overlapping(areas: Mapping[str, AreaFacts | SplitRow]) -> Iterator[tuple[str, str]]:
    """Pairs whose boxes share ground, by a sweep from west to east."""
    boxes = sorted((area.bounds, name) for name, area in areas.items() if isinstance(area, AreaFacts) and area.bounds)
    open_boxes: list[tuple[Bounds, str]] = []
    for box, name in boxes:
        open_boxes = [(other, its) for other, its in open_boxes if other[2] - box[0] > _OVERLAP_DEG]
        for other, its in open_boxes:
            if min(box[3], other[3]) - max(box[1], other[1]) > _OVERLAP_DEG:
                yield name, its
        open_boxes.append((box, name))


def _deal_groups(
    groups: Sequence[_Group], areas: Mapping[str, AreaFacts | SplitRow], shares: Mapping[str, float]
) -> dict[str, str]:
    """Largest first, each where its sources and classes lack most tiles."""
    wanted = Counter(label for group in groups for tile in group.tiles for label in _labels(areas[tile]))
    have: Counter[tuple[str, str]] = Counter()
    chosen: dict[str, str] = {}
    for group in sorted(groups, key=lambda group: -len(group.tiles)):
        labels = Counter(label for tile in group.tiles for label in _labels(areas[tile]))

        def lack(split: str, labels: Counter[str] = labels) -> float:
            return sum(n * (shares[split] * wanted[label] - have[split, label]) for label, n in sorted(labels.items()))

        best = max(shares, key=lack)
        have.update({(best, label): n for label, n in labels.items()})
        chosen |= dict.fromkeys(group.tiles, best)
    return chosen


def _labels(area: AreaFacts | SplitRow) -> tuple[str, str]:
    """Source and joint class: both should have their shares."""
    return f"source {area.source}", f"class {_class(area)}"


def _deal_singles(
    groups: Sequence[_Group], areas: Mapping[str, AreaFacts | SplitRow], shares: Mapping[str, float]
) -> dict[str, str]:
    """In turn along classes, always to the split that is furthest behind its share."""
    credit = dict.fromkeys(shares, 0.0)
    chosen: dict[str, str] = {}
    for group in sorted(groups, key=lambda group: _class(areas[group.tiles[0]])):  # stable: by digest within a class
        credit = {split: have + shares[split] for split, have in credit.items()}
        best = max(credit, key=lambda split: credit[split])
        credit[best] -= 1
        chosen[group.tiles[0]] = best
    return chosen


def _class(area: AreaFacts | SplitRow) -> tuple[str, str, int]:
    return area.source, area.ipcc or "", -1 if area.smod is None else area.smod


def _name(area: AreaFacts | SplitRow) -> str:
    return area.name if isinstance(area, AreaFacts) else area.tile


def _sizes(chosen: Mapping[str, str]) -> dict[str, int]:
    counts = Counter(chosen.values())
    return {split: counts[split] for split in sorted(counts, key=lambda split: (-counts[split], split))}


def _split_orders(pairs: Iterable[tuple[str, str]]) -> dict[str, dict[str, int]]:
    orders: dict[str, Counter[str]] = {}
    for tile, split in pairs:
        if tile_place(tile):
            orders.setdefault(order_of(tile), Counter())[split] += 1
    return {
        order: dict(sorted(counts.items()))
        for order, counts in sorted(orders.items(), key=lambda found: natural(found[0]))
        if len(counts) > 1
    }
