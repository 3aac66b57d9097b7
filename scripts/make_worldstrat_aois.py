"""Make eocube/corpora/data/worldstrat_aois.csv.gz: a few hundred real areas of WorldStrat, for synthetic copies of the corpus.

    python scripts/make_worldstrat_aois.py FOLDER

FOLDER holds two files of WorldStrat (CC BY 4.0): dataset.csv, the list of what was ordered, with bounds, and
stratified_train_val_test_split.csv of Zenodo record 6810792, with the classes of each tile. All four sources are taken, whole
orders of 3 × 3 tiles, and the tiles that the published split repeats. Rows take turns, so that the first few hold every source.
Bounds of a tile of an order are a ninth of the order's bounds: derived, not published.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import sys
from collections import Counter
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

TARGET = Path(__file__).parents[1] / "eocube" / "corpora" / "data" / "worldstrat_aois.csv.gz"
COLUMNS = ("name", "west", "south", "east", "north", "source", "ipcc", "smod", "product_id", "published")
ORDERS = {
    "Amnesty": [8, 17, 10, 5, 18],  # tiles of these are in two splits
    "ASMSpotter": [1, 20, 21, 39],  # 1-2-3 and 39-2-2 are repeated, 1-1-1 is not on disk, 20 and 21 overlap
}
PER_SOURCE = 90
ORPHAN = "testing on one Amnesty POI"


def main() -> None:
    """Read the two tables, choose, write."""
    folder = Path(sys.argv[1])
    with (folder / "dataset.csv").open(newline="") as file:
        orders = {row["name"].replace("Micah", "Amnesty"): row for row in csv.DictReader(file)}
    with (folder / "stratified_train_val_test_split.csv").open(newline="") as file:
        split = list(csv.DictReader(file))
    lists = [own_areas(orders, split, source) for source in ("Landcover", "UNHCR")]
    lists += [tiles(orders, split, source) for source in ("Amnesty", "ASMSpotter")]
    rows = [row for row in chain.from_iterable(zip_longest(*lists)) if row is not None]
    rows.append(as_row(ORPHAN, box(orders[ORPHAN]), orders[ORPHAN], {"source": "Amnesty"}, ""))
    write(rows)


def own_areas(orders: dict[str, Any], split: list[dict[str, str]], source: str) -> list[tuple[Any, ...]]:
    """Areas that are orders of their own: the repeated ones, the northernmost and southernmost, and others by digest."""
    published = splits_of(split, source)
    classes = {row["tile"]: row for row in split}
    names = [name for name in published if name in orders]
    by_latitude = sorted(names, key=lambda name: float(orders[name]["lat"]))
    odd = [*(name for name in names if "+" in published[name]), *by_latitude[:2], *by_latitude[-2:]]
    by_digest = sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    chosen = list(dict.fromkeys([*by_digest[:8], *odd, *by_digest]))[:PER_SOURCE]
    return [as_row(name, box(orders[name]), orders[name], classes[name], published[name]) for name in chosen]


def tiles(orders: dict[str, Any], split: list[dict[str, str]], source: str) -> list[tuple[Any, ...]]:
    """Tiles of whole orders, those of one order after each other."""
    published = splits_of(split, source)
    classes = {row["tile"]: row for row in split}
    prefix = "Amnesty POI" if source == "Amnesty" else source
    rows = []
    for poi in ORDERS[source]:
        order = orders[f"{prefix}-{poi}"]
        west, south, east, north = box(order)
        dx, dy = (east - west) / 3, (north - south) / 3
        for i, j in sorted(((i, j) for i in (1, 2, 3) for j in (1, 2, 3)), key=lambda place: place == (1, 1)):
            name = f"{prefix}-{poi}-{i}-{j}"
            if name in classes:
                own = (west + (i - 1) * dx, south + (j - 1) * dy, west + i * dx, south + j * dy)
                rows.append(as_row(name, own, order, classes[name], published[name]))
    return rows


def splits_of(split: list[dict[str, str]], source: str) -> dict[str, str]:
    """Tile → its splits in the order of the rows, joined by +."""
    found: dict[str, list[str]] = {}
    for row in split:
        if row["source"] == source:
            found.setdefault(row["tile"], []).append(row["split"])
    return {tile: "+".join(splits) for tile, splits in found.items()}


def box(order: dict[str, str]) -> tuple[float, float, float, float]:
    """West, south, east, north of an order."""
    west, south, east, north = json.loads(order["bounds"])
    return west, south, east, north


def as_row(
    name: str, bounds: tuple[float, float, float, float], order: dict[str, str], known: dict[str, str], published: str
) -> tuple[Any, ...]:
    """One row of `COLUMNS`; classes of the tile where the split table knows it, else of the order."""
    ipcc, smod = known.get("IPCC Class", order["IPCC"]), known.get("SMOD", order["SMOD"])
    return (name, *map(repr, bounds), known["source"], ipcc, smod, order["product_id"], published)


def write(rows: list[tuple[Any, ...]]) -> None:
    """Equal input gives an equal file: no name and no time in its head."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *rows])
    TARGET.write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))
    print(f"{TARGET.name}: {len(rows)} areas, {TARGET.stat().st_size:,} bytes; {dict(Counter(row[5] for row in rows))}")


if __name__ == "__main__":
    main()
