"""WorldStrat as a corpus: areas of 2.5 km² with 8 or 16 Sentinel-2 revisits and one SPOT image.

Zenodo v1 and v1.1 and the Kaggle core, unpacked or in their .zip archives, local or over HTTP. What is odd about a copy is named
(:attr:`WorldStratCorpus.notes`) and ends nothing.
"""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from affine import Affine
from odc.geo.geobox import GeoBox

from eocube.corpora.worldstrat_areas import lr_shape_yx
from eocube.corpora.worldstrat_files import (
    HR_PRODUCTS,
    METADATA_CSV,
    SPLIT_CSV,
    Area,
    Note,
    NoteKind,
    Revisit,
    WorldStratFiles,
    compare_with_tables,
    find_files,
    note_of,
)
from eocube.corpora.worldstrat_source import HR_VARIABLES, WorldStratSource, lr_variables
from eocube.corpora.worldstrat_tables import (
    AreaFacts,
    Bounds,
    RevisitFacts,
    SplitReport,
    SplitRow,
    leak_safe_split,
    merge_revisit,
    published_split,
    read_metadata,
    read_revisit_json,
    read_split,
)
from eocube.errors import AssetReadError, CatalogError, GridError, UnknownNameError
from eocube.io.chips import decode_chip
from eocube.io.trees import StoredFile, TreeReader
from eocube.model.bands import SENTINEL2_BANDS, Band
from eocube.model.frame import Frame, PerTime
from eocube.model.recipe import Node
from eocube.model.scene import Site

Split = Literal["published", "leak_safe"]
SPLITS = ("published", "leak_safe")
CRS = "EPSG:4326"
L2A = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
L1C = (*L2A[:10], "B10", *L2A[10:])
"""Bands of the files, in their order: ``set_bands`` of ``dataset_generation/SentinelDownloader.py``, worldstrat/worldstrat at
39fe223; that B10 stands between B09 and B11 is Sentinel Hub's order."""

_SPOT = {"red": 0.66, "green": 0.56, "blue": 0.485, "nir": 0.825}
SPOT_BANDS = tuple(Band(name=name, wavelength_um=um) for name, um in _SPOT.items())
"""Red, green, blue, near infrared, as the files have them; wavelengths are the middle of SPOT 6's bands."""

BANDS: Mapping[str, tuple[Band, ...]] = {
    "l2a": tuple(SENTINEL2_BANDS[name] for name in L2A),
    "l1c": tuple(SENTINEL2_BANDS[name] for name in L1C),
    "hr_ps": SPOT_BANDS,
    "hr_pan": (Band(name="pan", wavelength_um=0.598),),
    "hr_rgbn": SPOT_BANDS,
}
PRODUCTS = tuple(BANDS)
HR_PX: Mapping[str, int] = {"hr_ps": 1054, "hr_pan": 1054, "hr_rgbn": 263}
"""Edge of the high-resolution images: 2.5 km² at 1.5 m and at 6 m."""

_SENTINEL2 = "Contains modified Copernicus Sentinel data"
_SPOT_CREDIT = "SPOT imagery: Airbus DS, through the WorldStrat dataset (Cornebise, Oršolić, Kalaitzis, NeurIPS 2022)"
LICENCES: Mapping[str, tuple[str, str]] = {
    "l2a": ("CC-BY-4.0", f"{_SENTINEL2}; WorldStrat"),
    "l1c": ("CC-BY-4.0", f"{_SENTINEL2}; WorldStrat"),
    **dict.fromkeys(("hr_ps", "hr_pan", "hr_rgbn"), ("CC-BY-NC-4.0", _SPOT_CREDIT)),
}
"""Product → licence and attribution: Sentinel-2 and tables under CC BY 4.0, SPOT under CC BY-NC 4.0."""


@dataclass(frozen=True, kw_only=True)
class WorldStratOptions:
    """What a user may choose."""

    split: Split | None = None
    """``published``: as the table has it, with its faults; ``leak_safe``: ours, see
    :func:`eocube.corpora.worldstrat_tables.leak_safe_split`. None: no split."""

    float32: bool = False
    """Keep reflectance as float32 instead of whole steps of 0.0001."""

    bbox: Bounds | None = None
    """Only areas that meet it: west, south, east, north in degrees."""

    time_ms: tuple[float, float] | None = None
    """Only images from the first to before the second, milliseconds since 1970-01-01 UTC; of SPOT images the day's beginning
    counts. An area has only the products that have an image then."""

    def __post_init__(self) -> None:
        if self.split not in (None, *SPLITS):
            raise UnknownNameError("split", self.split, SPLITS, "WorldStrat")


class WorldStratCorpus:
    """See :class:`eocube.corpora.protocol.Corpus`."""

    name = "worldstrat"

    def __init__(self, files: WorldStratFiles[StoredFile], reader: TreeReader, options: WorldStratOptions):
        self.files, self.options, self._reader = files, options, reader
        self._met: dict[NoteKind, set[str]] = {}
        box = options.bbox
        self._areas = {name: area for name, area in files.areas.items() if box is None or self._meets(area, box)}

    @classmethod
    def open(cls, root: str | os.PathLike[str] | Sequence[str], *, options: WorldStratOptions | None = None) -> WorldStratCorpus:
        """The areas below a folder, archive or several of them (see :func:`eocube.io.trees.list_tree`).

        Raises CatalogError where there is none.
        """
        reader = TreeReader()
        found = find_files(reader.list_tree(os.fspath(root) if isinstance(root, os.PathLike) else root))
        if not found.areas:
            raise CatalogError(
                f"No WorldStrat area was found below {root}: expected hr_dataset/<AOI>/<AOI>_ps.tiff or "
                "lr_dataset/<AOI>/L2A/<AOI>-1-L2A_data.tiff, in folders or .zip archives. "
                f"{sum(found.counts.values())} other files are there, {', '.join(found.unknown[:3]) or 'none of them known'}."
            )
        return cls(found, reader, options or WorldStratOptions())

    @property
    def attributions(self) -> tuple[str, ...]:
        """See :class:`eocube.corpora.protocol.Corpus`."""
        return tuple(dict.fromkeys(text for _, text in LICENCES.values()))

    @property
    def license(self) -> str:
        """See :class:`eocube.corpora.protocol.Corpus`."""
        return "; ".join(dict.fromkeys(name for name, _ in LICENCES.values()))

    def _meets(self, area: Area[StoredFile], bbox: Bounds) -> bool:
        try:
            west, south, east, north = self._bounds(area)
        except GridError:
            self._met.setdefault("unplaced-area", set()).add(area.name)
            return False
        return west < bbox[2] and bbox[0] < east and south < bbox[3] and bbox[1] < north

    def licence(self, product: str) -> tuple[str, str]:
        """See :class:`eocube.corpora.protocol.LicensedProducts`."""
        return LICENCES[product]

    # ------------------------------------------------------------------------------------------------ tables

    @cached_property
    def _metadata(self) -> tuple[dict[str, AreaFacts], tuple[Note, ...]]:
        file = self.files.tables.get(METADATA_CSV)
        return ({}, ()) if file is None else read_metadata(self._table(file), where=file.href)

    def _table(self, file: StoredFile) -> bytes:
        try:
            return self._reader.read_whole(file)
        except AssetReadError as e:
            raise CatalogError(f"Table {file.href} could not be read: {e.reason}. Fetch it again, or take it away.") from e

    @cached_property
    def _split_rows(self) -> tuple[SplitRow, ...]:
        file = self.files.tables.get(SPLIT_CSV)
        return () if file is None else read_split(self._table(file), where=file.href)

    @cached_property
    def _splits(self) -> tuple[dict[str, str], SplitReport | None]:
        """Area → split."""
        if self.options.split is None:
            return {}, None
        rows = self._split_rows
        if self.options.split == "published":
            if SPLIT_CSV not in self.files.tables:
                raise CatalogError(f"There is no {SPLIT_CSV}, which the published split is. Fetch it, or use split='leak_safe'.")
            return published_split(rows)
        facts = {row.tile: row for row in reversed(rows)} | self._metadata[0]
        # Of all that is known, not of what is chosen or downloaded: else an area would change its split with the others.
        return leak_safe_split([*facts.values(), *(AreaFacts(name=name) for name in self.files.areas if name not in facts)])

    @property
    def split_report(self) -> SplitReport | None:
        """What the chosen split repeats and leaks; None without a split."""
        return self._splits[1]

    @property
    def file_notes(self) -> tuple[Note, ...]:
        """See :class:`eocube.corpora.protocol.Noted`."""
        return self.notes

    @property
    def notes(self) -> tuple[Note, ...]:
        """Everything that is odd about this copy, by kind and name; of ``.metadata`` files what was met in those read so far."""
        in_split = {row.tile for row in self._split_rows}
        tables = set(self._metadata[0]) | in_split
        missing = compare_with_tables(self.files.areas, tables) if tables else ()
        lacking = note_of("tile-without-split", self._areas.keys() - in_split if in_split else ())
        shown = self.split_report.notes if self.split_report is not None else ()
        met = (note for kind, names in self._met.items() for note in note_of(kind, names))
        return (*self.files.notes, *missing, *lacking, *shown, *self._metadata[1], *met)

    # ------------------------------------------------------------------------------------------------ sites

    @cached_property
    def sites(self) -> tuple[Site, ...]:
        """See :class:`eocube.corpora.protocol.Corpus`: every area whose place is known, in natural order of names.

        The others are noted; GridError where no area is left.
        """
        found, refused = [], []
        for area in self._areas.values():
            try:
                found.append(self._site(area))
            except GridError as e:
                refused.append(e)
                self._met.setdefault("unplaced-area", set()).add(area.name)
        sites = tuple(site for site in found if site is not None)
        if refused and not sites:
            raise refused[0]
        return sites

    def _site(self, area: Area[StoredFile]) -> Site | None:
        products = self._products(area)
        if not products:
            return None
        facts, px = self._facts(area.name), max((HR_PX[p] for p in products if p in HR_PX), default=0)
        bounds = self._bounds(area)
        shape = (px, px) if px else lr_shape_yx(bounds)
        told = {"ipcc": facts.ipcc, "smod": facts.smod, "source": facts.source or None, "cloud_cover": _least_cloud(facts)}
        return Site(
            name=area.name,
            cube=area.slug,
            geobox=_box(bounds, shape),
            products=products,
            split=self._splits[0].get(area.name),
            group=area.order,
            properties=told,
        )

    def _products(self, area: Area[StoredFile]) -> tuple[str, ...]:
        """Those on disk; with a time those that have a date in it, for which ``.metadata`` files are read."""
        return tuple(p for p in PRODUCTS if (p in area.lr or p in area.hr) and self._has_date(area, p))

    def _has_date(self, area: Area[StoredFile], product: str) -> bool:
        if self.options.time_ms is None:
            return True
        if product in HR_PX:
            return self._in_time(self._hr_time(area))
        return any(self._in_time(_ms(facts)) for _, facts in self._dated(area, product))

    def _facts(self, name: str) -> AreaFacts:
        return self._metadata[0].get(name) or AreaFacts(name=name)

    def _bounds(self, area: Area[StoredFile]) -> Bounds:
        """Of the tables, else of a low-resolution file: both resolutions cover exactly the area."""
        bounds = self._facts(area.name).bounds
        if bounds is not None:
            return bounds
        files = (revisit.data for images in area.lr.values() for revisit in images)
        errors = []
        for file in files:
            try:
                return self._bounds_of(file)
            except AssetReadError as e:
                errors.append(str(e))
        raise GridError(
            f"Where area {area.name!r} lies is not known: {METADATA_CSV} has no bounds of it, and no low-resolution file tells "
            f"({errors[0] if errors else 'there is none'}). High-resolution files have no geotransform. Put {METADATA_CSV} "
            "beside the data."
        )

    def _bounds_of(self, file: StoredFile) -> Bounds:
        chip = decode_chip(self._reader.read_whole(file), file.href)
        if chip.transform is None or chip.crs != CRS:
            raise AssetReadError(file.href, "", "", f"it has no geotransform in {CRS}")
        ny, nx = chip.pixels.shape[1:]
        (west, north), (east, south) = chip.transform @ (0.0, 0.0), chip.transform @ (float(nx), float(ny))
        return west, south, east, north

    # ------------------------------------------------------------------------------------------------ sources

    def source(self, site: str, product: str) -> tuple[WorldStratSource, Node]:
        """See :class:`eocube.corpora.protocol.Corpus`."""
        area = self._areas.get(site)
        if area is None:
            raise UnknownNameError("site", site, list(self._areas)[:20], "this copy of WorldStrat")
        there = [p for p in PRODUCTS if p in area.lr or p in area.hr]
        if product not in there or not self._has_date(area, product):
            within = "" if self.options.time_ms is None else " within the time asked for"
            raise UnknownNameError("product", product, self._products(area), f"area {site!r}{within}")
        source = self._revisits(area, product) if product in area.lr else self._image(area, product)
        return source, source.node

    def _revisits(self, area: Area[StoredFile], product: str) -> WorldStratSource:
        dated = sorted((d for d in self._dated(area, product) if self._in_time(_ms(d[1]))), key=lambda d: (d[1].acquired, d[0].n))
        times = _distinct([_ms(facts) for _, facts in dated])
        images = tuple(revisit for revisit, _ in dated)
        kinds = frozenset(kind for revisit in images for kind in revisit.sides)
        bounds = self._bounds(area)
        per_time = (
            PerTime(name="item_id", dtype="str", values=tuple(f"{area.name}-{r.n}-{product.upper()}" for r in images)),
            PerTime(name="n", dtype="int16", values=tuple(r.n for r in images), attrs=(("long_name", "rank of the revisit"),)),
            *_cloud_cover([f.cloud_cover for _, f in dated]),
            *_delta([f.delta_days for _, f in dated]),
        )
        frame = Frame(
            geobox=_box(bounds, lr_shape_yx(bounds)),
            time_ms=times,
            bands=BANDS[product],
            variables=lr_variables(kinds, float32=self.options.float32),
            per_time=per_time,
        )
        return WorldStratSource(
            area=area.name, product=product, cube_frame=frame, images=images, located=True, reader=self._reader
        )

    def _in_time(self, ms: int) -> bool:
        return self.options.time_ms is None or self.options.time_ms[0] <= ms < self.options.time_ms[1]

    def _dated(self, area: Area[StoredFile], product: str) -> Iterator[tuple[Revisit[StoredFile], RevisitFacts]]:
        """Revisits with what is known of them: the ``.metadata`` file's second, else the table's day."""
        known = self._facts(area.name).revisits
        for revisit in area.lr[product]:
            facts, differs = merge_revisit(known.get(revisit.n), self._own_facts(revisit, known.get(revisit.n)))
            if differs:
                self._met.setdefault("date-conflict", set()).add(f"{area.name}-{revisit.n}")
            if facts is None or facts.acquired is None:
                raise CatalogError(
                    f"When revisit {revisit.n} of area {area.name!r} was taken is not known: it has no readable .metadata file, "
                    f"and {METADATA_CSV} does not tell. Put {METADATA_CSV} beside the data."
                )
            yield revisit, facts

    def _own_facts(self, revisit: Revisit[StoredFile], table: RevisitFacts | None) -> RevisitFacts | None:
        """What its ``.metadata`` file says; None where there is none, or it is broken and the table knows the day."""
        if revisit.metadata is None:
            return None
        try:
            return read_revisit_json(self._reader.read_whole(revisit.metadata), revisit.n, where=revisit.metadata.href)
        except (CatalogError, AssetReadError):
            if table is None or table.acquired is None:
                raise
            self._met.setdefault("unreadable-metadata", set()).add(revisit.metadata.path)
            return None

    def _image(self, area: Area[StoredFile], product: str) -> WorldStratSource:
        px = HR_PX[product]
        suffix = next(suffix for suffix, name in HR_PRODUCTS.items() if name == product)
        frame = Frame(
            geobox=_box(self._bounds(area), (px, px)),
            time_ms=(self._hr_time(area),),
            bands=BANDS[product],
            variables=HR_VARIABLES,
            per_time=(PerTime(name="item_id", dtype="str", values=(f"{area.name}_{suffix}",)),),
        )
        images = (Revisit(n=0, data=area.hr[product]),)
        return WorldStratSource(
            area=area.name, product=product, cube_frame=frame, images=images, located=False, reader=self._reader
        )

    def _hr_time(self, area: Area[StoredFile]) -> int:
        """Day of the SPOT image: of the tables, else a revisit's date less its distance in days."""
        day = self._facts(area.name).hr_date
        if day is not None:
            return round(dt.datetime(day.year, day.month, day.day, tzinfo=dt.UTC).timestamp() * 1000)
        for product in area.lr:
            for _, facts in self._dated(area, product):
                if facts.acquired is not None and facts.delta_days is not None:
                    near = facts.acquired - dt.timedelta(days=facts.delta_days)
                    return round(dt.datetime(near.year, near.month, near.day, tzinfo=dt.UTC).timestamp() * 1000)
        raise CatalogError(
            f"When the high-resolution image of area {area.name!r} was taken is not known: {METADATA_CSV} has no highres_date of "
            f"it, and no .metadata file a delta. Put {METADATA_CSV} beside the data."
        )


def _box(bounds: Bounds, shape_yx: tuple[int, int]) -> GeoBox:
    west, south, east, north = bounds
    ny, nx = shape_yx
    return GeoBox(shape_yx, Affine((east - west) / nx, 0, west, 0, (south - north) / ny, north), CRS)


def _ms(facts: RevisitFacts) -> int:
    assert facts.acquired is not None  # noqa: S101 - _dated lets no other through
    return round(facts.acquired.timestamp() * 1000)


def _distinct(times_ms: Sequence[int]) -> tuple[int, ...]:
    """The same, in order, with a millisecond between two of one time: days without hours repeat."""
    out: list[int] = []
    for ms in times_ms:
        out.append(max(ms, out[-1] + 1) if out else ms)
    return tuple(out)


def _cloud_cover(values: Sequence[float | None]) -> tuple[PerTime, ...]:
    """Percent, where it is known of all revisits: any number for the others would pass for a cover."""
    known = tuple(v for v in values if v is not None)
    attrs = (("units", "percent"), ("long_name", "of the whole Sentinel-2 product"))
    found = PerTime(name="cloud_cover", dtype="float32", values=known, attrs=attrs)
    return (found,) if len(known) == len(values) else ()


def _delta(values: Sequence[float | None]) -> tuple[PerTime, ...]:
    """Days, where they are known of all revisits."""
    known = tuple(v for v in values if v is not None)
    attrs = (("units", "days"), ("long_name", "from the high-resolution image to the revisit"))
    return (PerTime(name="delta", dtype="float32", values=known, attrs=attrs),) if len(known) == len(values) else ()


def _least_cloud(facts: AreaFacts) -> float | None:
    return min((r.cloud_cover for r in facts.revisits.values() if r.cloud_cover is not None), default=None)
