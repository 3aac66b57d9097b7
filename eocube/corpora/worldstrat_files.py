"""What the files of a WorldStrat copy are: products, side files and revisits of which area, by their names alone.

Accepted are Zenodo v1 and v1.1, the Kaggle core, folders one level deeper or higher, a separate ``lr_dataset_l2a``, and members
of archives: a file is known by its own name and the one or two folders that hold it, whatever stands above them. Nothing is
opened, and nothing that looks odd is fatal: it becomes a `Note`.

======================================================================  =========================================================
file                                                                    what it is
======================================================================  =========================================================
``<AOI>/<AOI>_{ps,pan,rgbn}.tiff``, ``<AOI>_rgb.png``                   high resolution, below ``hr_dataset`` or
                                                                        ``hr_dataset/12bit``
``<AOI>/{L2A,L1C}/<AOI>-<n>-{L2A,L1C}_data.tiff``                       bands of revisit n, not zero padded
``<AOI>/{L2A,L1C}/<AOI>-<n>-{CLM,CLP,dataMask,…}.tiff``                 side files, each optional
``<AOI>/{L2A,L1C}/<AOI>-<n>.metadata``                                  JSON
======================================================================  =========================================================

Sources: the package worldstrat/worldstrat at 39fe223 (``src/datasets.py``, ``dataset_generation/SentinelDownloader.py`` and
``SPOTDownloader.py``), its issues 9 and 12, and a walk over the Kaggle copy: 3,929 HR folders, one of them
``testing on one Amnesty POI``, and 3,928 LR folders with 5.4 of up to 8 rasters a revisit.
"""

from __future__ import annotations

import bisect
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Generic, Literal, Protocol, TypeVar

HR_PRODUCTS: Mapping[str, str] = {"ps": "hr_ps", "pan": "hr_pan", "rgbn": "hr_rgbn", "rgb": "hr_rgb"}
"""Suffix of a file name → product; ``hr_rgb`` is the 8-bit preview."""

LR_PRODUCTS: Mapping[str, str] = {"L2A": "l2a", "L1C": "l1c"}
"""Folder → product."""

SIDE_KINDS = ("CLM", "CLP", "dataMask", "viewZenithMean", "viewAzimuthMean", "sunAzimuthAngles", "sunZenithAngles")
"""Side files of a revisit as they are named on disk."""

ORPHAN = "testing on one Amnesty POI"
"""A folder of every release that is no area: an early try, without low resolution."""

METADATA_CSV = "metadata.csv"
SPLIT_CSV = "stratified_train_val_test_split.csv"

NoteKind = Literal[
    "orphan-folder", "hr-without-lr", "lr-without-hr", "missing-tile", "tile-not-in-tables", "duplicate-file", "misnamed-file",
    "empty-file", "missing-revisit", "revisit-without-data", "missing-side-file", "missing-hr-file", "unknown-name",
    "tile-without-split", "unplaced-area", "date-conflict", "unreadable-metadata", "unreadable-cell",
    "repeated-tile", "leaking-tile", "split-order", "conflicting-row",
]  # fmt: skip
"""What was found odd; `NOTE_MEANINGS` says each in a sentence."""

NOTE_MEANINGS: Mapping[NoteKind, str] = {
    "orphan-folder": "a folder of the release that is no area; left out",
    "hr-without-lr": "areas with high resolution only; their low-resolution products are absent",
    "lr-without-hr": "areas with low resolution only; their high-resolution products are absent",
    "missing-tile": "named in the tables, not on disk",
    "tile-not-in-tables": "on disk, not in the tables",
    "duplicate-file": "found at two places; the first place named is used",
    "misnamed-file": "named after another area than its folder; not used",
    "empty-file": "of no bytes; reading it fails",
    "missing-revisit": "revisits whose files are not there, while other areas have as many",
    "revisit-without-data": "revisits with side files but no bands; left out",
    "missing-side-file": "side files that only some revisits of the area have",
    "missing-hr-file": "areas with some of the high-resolution rasters but not all",
    "unknown-name": "areas whose names follow none of the corpus's patterns; used as they are",
    "tile-without-split": "on disk, not in the split table; without a split where that is taken as published",
    "unplaced-area": "areas whose place neither metadata.csv nor a low-resolution file tells; left out",
    "date-conflict": "the .metadata file and metadata.csv differ by a day or more; the .metadata file is used",
    "unreadable-metadata": ".metadata files that are broken; the day comes from metadata.csv",
    "unreadable-cell": "cells of a table that are no number or date; taken as unknown",
    "repeated-tile": "tiles in several rows of the split table",
    "leaking-tile": "tiles in several splits",
    "split-order": "orders (adjoining tiles of one image) that are spread over several splits",
    "conflicting-row": "rows of one area that contradict each other; the first is used",
}


class AnyFile(Protocol):
    """A file below the root: of a folder, a bucket or an archive."""

    @property
    def path(self) -> str:
        """POSIX, below the root."""
        ...

    @property
    def size(self) -> int:
        """Bytes."""
        ...


F = TypeVar("F", bound=AnyFile)


@dataclass(frozen=True, kw_only=True)
class Note:
    """Something odd, by kind and name."""

    kind: NoteKind
    """See `NOTE_MEANINGS`."""

    names: tuple[str, ...]
    """Areas, tiles or paths, sorted naturally."""

    area: str = ""
    """The area that the names belong to, where there is one."""

    def __str__(self) -> str:
        shown = ", ".join(self.names[:5]) + (f" and {len(self.names) - 5:,} more" if len(self.names) > 5 else "")
        return f"{self.kind}: {self.area + ': ' if self.area else ''}{shown} ({NOTE_MEANINGS[self.kind]})"


@dataclass(frozen=True, kw_only=True)
class Revisit(Generic[F]):
    """The files of one Sentinel-2 date of one area and product."""

    n: int
    """Rank of the revisit, 1 is best: by distance in time and cloud, not in the order of time."""

    data: F
    """The bands."""

    sides: Mapping[str, F] = field(default_factory=dict)
    """Kind of `SIDE_KINDS` → file; any may be absent."""

    metadata: F | None = None
    """JSON, see `worldstrat_tables.read_revisit_json`."""


@dataclass(frozen=True, kw_only=True)
class Area(Generic[F]):
    """One area of interest with its files."""

    name: str
    """As the folders are called, spaces included."""

    hr: Mapping[str, F] = field(default_factory=dict)
    """Product (`HR_PRODUCTS`) → file."""

    lr: Mapping[str, tuple[Revisit[F], ...]] = field(default_factory=dict)
    """Product (``l2a``, ``l1c``) → revisits, ascending in n."""

    @property
    def slug(self) -> str:
        """Name of its cube, see `slug_of`."""
        return slug_of(self.name)

    @property
    def order(self) -> str:
        """The order that it is a tile of, see `order_of`."""
        return order_of(self.name)


@dataclass(frozen=True, kw_only=True)
class WorldStratFiles(Generic[F]):
    """All that was found below a root."""

    areas: Mapping[str, Area[F]]
    """Name → area, in natural order of names."""

    tables: Mapping[str, F]
    """``metadata.csv`` and the split table, by file name; the one nearest to the root."""

    notes: tuple[Note, ...]
    """What is odd, in the order of `NOTE_MEANINGS`."""

    counts: Mapping[str, int]
    """Files by product or kind; ``8bit`` and ``raw`` are left aside, ``unknown`` could not be placed."""

    unknown: tuple[str, ...]
    """Paths of the first hundred unknown files."""


_LR_FILE = re.compile(r"(?P<aoi>.+)-(?P<n>\d+)(?:-(?P<kind>[A-Za-z0-9_]+)\.tiff?|(?P<json>\.metadata))")
_HR_FILE = re.compile(r"(?P<aoi>.+)_(?:(?P<kind>ps|pan|rgbn)\.tiff?|(?P<rgb>rgb)\.png)")
_HR_8BIT = re.compile(r".+_(?:ps|pan|rgbn|rgb)_8bit\.(?:tiff?|png)")
_AREA = re.compile(r"Landcover-\d+|UNHCR-[A-Z]{3}s\d{6}|UNHCR-\d+|ASMSpotter-\d+-[1-3]-[1-3]|Amnesty POI-\d+-[1-3]-[1-3]")
_ORDERED = re.compile(r"(?P<order>(?:ASMSpotter|Amnesty POI|Micah POI)-\d+)-(?P<i>[1-3])-(?P<j>[1-3])")
_MANY = 100


def find_files(files: Iterable[F]) -> WorldStratFiles[F]:
    """Sort files into areas, products and revisits.

    Parameters
    ----------
    files
        All files below the root, in any order; read once. Paths are POSIX and need no common beginning.

    Returns
    -------
    The areas and everything odd. Of two files for one purpose the one with the shorter path is used (``hr_dataset/X`` before
    ``hr_dataset/12bit/X``), then the one first in the alphabet: the result does not depend on the order of ``files``.
    """
    found: _Found[F] = _Found()
    for file in files:
        found.take(file)
    return found.result()


def slug_of(name: str) -> str:
    """The name of an area's cube: ``[A-Za-z0-9_.-]``, from which `name_of` gives the name back.

    Letters, digits, ``-`` and a ``.`` that is not the first stay; every other byte of the UTF-8 name becomes ``_`` and two hex
    digits.

    >>> slug_of("Amnesty POI-8-2-1")
    'Amnesty_20POI-8-2-1'
    """
    kept = re.sub(rb"[^A-Za-z0-9.-]", lambda found: b"_%02X" % found[0][0], name.encode())
    return ("_2E" + kept[1:].decode()) if kept.startswith(b".") else kept.decode()


def name_of(slug: str) -> str:
    """The name that a slug of `slug_of` stands for."""
    return re.sub(rb"_([0-9A-F]{2})", lambda found: bytes([int(found[1], 16)]), slug.encode()).decode()


def order_of(name: str) -> str:
    """The order that a tile was cut from, or the name itself.

    ``ASMSpotter-<poi>-<i>-<j>`` and ``Amnesty POI-<poi>-<i>-<j>`` are 3 × 3 adjoining tiles of one image of 22.5 km².

    >>> order_of("Amnesty POI-8-2-1"), order_of("Landcover-770572")
    ('Amnesty POI-8', 'Landcover-770572')
    """
    found = _ORDERED.fullmatch(name)
    return found["order"] if found else name


def tile_place(name: str) -> tuple[int, int] | None:
    """Column i (1 west to 3 east) and row j (1 south to 3 north) of a tile within its order; None for an area of its own."""
    found = _ORDERED.fullmatch(name)
    return (int(found["i"]), int(found["j"])) if found else None


def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """A sorting key: runs of digits count as numbers."""
    return tuple((0, int(part), part) if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name) if part)


def compare_with_tables(areas: Iterable[str], tiles: Iterable[str]) -> tuple[Note, ...]:
    """What is on disk but not in the tables, and the other way round (``ASMSpotter-1-1-1`` of Zenodo v1).

    Give tiles of all tables together: the split table of v1 leaves 38 tiles out that ``metadata.csv`` has.
    """
    on_disk, in_tables = set(areas), set(tiles)
    return (
        *note_of("missing-tile", in_tables - on_disk),
        *note_of("tile-not-in-tables", on_disk - in_tables),
    )


def note_of(kind: NoteKind, names: Iterable[str], area: str = "") -> tuple[Note, ...]:
    """One note of those names, in natural order; none of no name."""
    listed = tuple(sorted(names, key=natural))
    return (Note(kind=kind, names=listed, area=area),) if listed else ()


class _Found(Generic[F]):
    """Files as they come, by purpose."""

    def __init__(self) -> None:
        self._hr: dict[str, dict[str, F]] = defaultdict(dict)
        self._lr: dict[tuple[str, str], dict[int, dict[str, F]]] = defaultdict(lambda: defaultdict(dict))
        self._tables: dict[str, F] = {}
        self._odd: dict[NoteKind, set[str]] = defaultdict(set)
        self._counts: Counter[str] = Counter()
        self._unknown: list[str] = []
        self._most: Counter[str] = Counter()

    def take(self, file: F) -> None:
        """Place one file."""
        parts = file.path.rsplit("/", 3)
        name = parts[-1]
        if name.startswith("."):  # a copy's own leavings, "._X.tiff" among them
            self._take_other(file, name)
        elif name in {METADATA_CSV, SPLIT_CSV}:
            self._counts[name] += 1
            self._keep(self._tables, name, file)
        elif len(parts) > 2 and parts[-2] in LR_PRODUCTS and (found := _LR_FILE.fullmatch(name)):
            self._take_lr(file, parts[-3], parts[-2], found)
        elif len(parts) > 1 and (found := _HR_FILE.fullmatch(name)):
            self._take_hr(file, parts[-2], found)
        else:
            self._take_other(file, name)

    def _take_lr(self, file: F, area: str, level: str, found: re.Match[str]) -> None:
        kind = "metadata" if found["json"] else str(found["kind"])
        is_data = kind == f"{level}_data"
        if not (is_data or found["json"] or kind in SIDE_KINDS):
            self._take_other(file, found[0])
        elif found["aoi"] != area:
            self._odd["misnamed-file"].add(file.path)
        else:
            product = LR_PRODUCTS[level]
            self._counts[product if is_data else f"{product} {kind}"] += 1
            self._keep(self._lr[area, product][int(found["n"])], kind, file)

    def _take_hr(self, file: F, folder: str, found: re.Match[str]) -> None:
        if found["aoi"] != folder:
            self._odd["misnamed-file"].add(file.path)
            return
        product = HR_PRODUCTS[found["kind"] or found["rgb"]]
        self._counts[product] += 1
        self._keep(self._hr[folder], product, file)

    def _take_other(self, file: F, name: str) -> None:
        if _HR_8BIT.fullmatch(name):
            self._counts["8bit"] += 1
        elif "hr_dataset_raw/" in f"/{file.path}":
            self._counts["raw"] += 1
        else:
            self._counts["unknown"] += 1
            bisect.insort(self._unknown, file.path)
            del self._unknown[_MANY:]

    def _keep(self, where: dict[str, F], key: str, file: F) -> None:
        """Keep the better of two files for one purpose."""
        if file.size == 0:
            self._odd["empty-file"].add(file.path)
        if key in where:
            best, other = sorted((where[key], file), key=lambda one: (len(one.path), one.path))
            self._odd["duplicate-file"].add(other.path)
            where[key] = best
        else:
            where[key] = file

    def result(self) -> WorldStratFiles[F]:
        """All that was taken, in order, with notes."""
        has_lr = {area for area, _ in self._lr}
        names = sorted({*self._hr, *has_lr}, key=natural)
        orphans = {name for name in names if name == ORPHAN and name not in has_lr}
        names = [name for name in names if name not in orphans]
        notes = [note for kind, paths in self._odd.items() for note in note_of(kind, paths)]
        notes += note_of("orphan-folder", orphans)
        for (_, product), by_n in self._lr.items():
            self._most[product] = max(self._most[product], *by_n)
        areas = {name: self._area(name, notes) for name in names}
        if any(area.lr for area in areas.values()):  # a root of high resolution alone is no defect of each area
            notes += note_of("hr-without-lr", (name for name, area in areas.items() if not area.lr))
        if any(area.hr for area in areas.values()):
            notes += note_of("lr-without-hr", (name for name, area in areas.items() if not area.hr))
        notes += note_of("unknown-name", (name for name in names if not _AREA.fullmatch(name)))
        rank = {kind: k for k, kind in enumerate(NOTE_MEANINGS)}
        return WorldStratFiles(
            areas=areas,
            tables=self._tables,
            notes=tuple(sorted(notes, key=lambda note: (rank[note.kind], natural(note.area), note.names))),
            counts=dict(sorted(self._counts.items())),
            unknown=tuple(self._unknown),
        )

    def _area(self, name: str, notes: list[Note]) -> Area[F]:
        hr = {product: self._hr[name][product] for product in HR_PRODUCTS.values() if product in self._hr.get(name, {})}
        # Whole products may be left undownloaded; what counts as missing is a raster that other areas have.
        missing = [p for p in HR_PRODUCTS.values() if hr and p not in hr and self._counts[p]]
        notes += note_of("missing-hr-file", missing, name)
        lr = {}
        for product in LR_PRODUCTS.values():
            if (name, product) in self._lr:
                revisits = self._revisits(name, product, notes)
                if revisits:
                    lr[product] = revisits
        return Area(name=name, hr=hr, lr=lr)

    def _revisits(self, area: str, product: str, notes: list[Note]) -> tuple[Revisit[F], ...]:
        level = product.upper()
        by_n = self._lr[area, product]
        whole = {n: kinds for n, kinds in sorted(by_n.items()) if f"{level}_data" in kinds}
        label = f"{area} {level}"
        notes += note_of("revisit-without-data", (str(n) for n in by_n.keys() - whole.keys()), label)
        notes += note_of("missing-revisit", (str(n) for n in range(1, self._most[product] + 1) if n not in by_n), label)
        common = {kind for kinds in whole.values() for kind in kinds} - {f"{level}_data"}
        gaps = (f"{area}-{n}-{kind}" for n, kinds in whole.items() for kind in common - kinds.keys())
        notes += note_of("missing-side-file", gaps, label)
        return tuple(
            Revisit(
                n=n,
                data=kinds[f"{level}_data"],
                sides={kind: kinds[kind] for kind in SIDE_KINDS if kind in kinds},
                metadata=kinds.get("metadata"),
            )
            for n, kinds in whole.items()
        )
