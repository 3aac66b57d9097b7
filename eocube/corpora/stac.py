"""The STAC corpus: items → sites, products and time steps."""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from odc.geo.geobox import GeoBox

from eocube.corpora.sentinel2_offset import OFFSET, SCALE, SHIFT, dn_shift_of
from eocube.corpora.stac_check import MAX_SIDE_PX, time_ms
from eocube.corpora.stac_headers import Described, describe_items, grid_key, pixel_size, zoomed
from eocube.corpora.stac_items import (
    FLOATS,
    INTEGERS,
    BandOfFile,
    JsonItem,
    is_integer,
    is_sentinel2,
    read_items,
    tile_name,
    unreadable,
)
from eocube.corpora.stac_source import StacOptions, StacSource
from eocube.errors import CatalogError, GridError, RadiometryError, UnknownNameError
from eocube.io.rasters import Reader
from eocube.model.bands import SCL_CLASSES, Band
from eocube.model.frame import Frame, PerTime, Variable
from eocube.model.hashing import digest
from eocube.model.recipe import Node
from eocube.model.scene import Asset, Scene, Site

_DAY_MS = 86_400_000
MAX_NAME = 150
"""Longest name of a site that comes from a tile's own, in characters: it names folders."""

MAX_CODE = 40
"""Longest CRS text that goes into a name; a longer one (WKT) goes by its digest."""

# ------------------------------------------------------------------------------------------------ building a source


def build_source(
    items: Sequence[JsonItem],
    *,
    bands: Sequence[str] | None = None,
    geobox: GeoBox | None = None,
    options: StacOptions | None = None,
    reader: Reader | None = None,
) -> StacSource:
    """A source over items.

    Parameters
    ----------
    items
        As :func:`eocube.corpora.stac_items.read_items` gives them.
    bands
        Common names, sensor names (``B04``) or asset keys, in the order wanted; None: every band of the grid's pixel size. The
        scene classification ``scl`` comes along where the items have it.
    geobox
        The grid; None: the items' own, which must then be one.
    options
        See :class:`StacOptions`.
    """
    return source_of(describe_items(items, reader, area=geobox), bands=bands, geobox=geobox, options=options, reader=reader)


def source_of(
    described: Sequence[Described],
    *,
    bands: Sequence[str] | None = None,
    geobox: GeoBox | None = None,
    options: StacOptions | None = None,
    reader: Reader | None = None,
) -> StacSource:
    """As :func:`build_source`, of items whose bands are described already."""
    options = options or StacOptions()
    if options.dn_offset is not None and not any(is_sentinel2(d.item) for d in described):
        raise RadiometryError(
            f"dn_offset is {options.dn_offset}, but none of the {len(described)} items is Sentinel-2: it has no meaning for "
            "other sensors. Leave it out; scale and offset come from the items' metadata."
        )
    box = geobox if geobox is not None else native_grid(described, bands)
    require_place(box)
    chosen = _choose_bands(described, bands, box, native=geobox is None)
    scl = any(b.is_scl for d in described for b in d.bands)
    scenes = [_scene(d, chosen, box, scl=scl, options=options) for d in described]
    steps = _time_steps(scenes, box) if options.mosaic == "solar_day" else [(s,) for s in scenes]
    return StacSource(_frame(described, steps, chosen, box, scl=scl), steps, options, reader)


def require_place(box: GeoBox) -> None:
    """GridError where a grid has more pixels a side than a cube may have, or lies nowhere on the Earth."""
    where = f"The grid {tuple(map(int, box.shape))} px, {list(box.affine)[:6]}, {str(box.crs)[:60]}"
    if max(box.shape) > MAX_SIDE_PX:
        raise GridError(f"{where} has more than {MAX_SIDE_PX:,} pixels a side. Choose a smaller area, or larger pixels.")
    try:
        extent = box.geographic_extent
        lies = extent.is_valid and not extent.is_empty and np.isfinite(extent.boundingbox.bbox).all()
    except Exception as e:  # whatever a projection says to coordinates that it does not know
        raise GridError(f"{where} cannot be put on the Earth: {e}. Mend the items' proj: fields, or give the grid.") from e
    if not lies:
        raise GridError(f"{where} lies nowhere on the Earth. Mend the items' proj: fields, or give the grid.")


def native_grid(described: Sequence[Described], bands: Sequence[str] | None) -> GeoBox:
    """The one grid of the finest of the asked bands; GridError where the items lie on several."""
    asked = [
        b for d in described for b in d.bands if not b.is_scl and b.geobox is not None and (bands is None or _matches(b, bands))
    ]
    if not asked:
        raise _no_band(bands, described)
    finest = min(pixel_size(b.geobox) for b in asked if b.geobox is not None)
    grids = {grid_key(b.geobox): b.geobox for b in asked if b.geobox is not None and math.isclose(pixel_size(b.geobox), finest)}
    if len(grids) > 1:
        first = {grid_key(b.geobox): d.item["id"] for d in reversed(described) for b in d.bands if b.geobox is not None}
        listed = "; ".join(sorted(f"{k[0][:60]} {k[1]} shape {k[2]}, item {first[k]!r} for one" for k in grids)[:4])
        raise GridError(
            f"The items lie on {len(grids)} grids ({listed}). Pass geobox= or bbox= with crs= and resolution=, "
            "or convert tile by tile."
        )
    return next(iter(grids.values()))


def _matches(b: BandOfFile, asked: Sequence[str]) -> bool:
    return bool({b.band.name, b.band.eo_name, b.key} & set(asked))


def _no_band(bands: Sequence[str] | None, described: Sequence[Described]) -> Exception:
    known = sorted({b.band.name for d in described for b in d.bands})
    if bands is None:
        return CatalogError(f"None of the {len(described)} items has a raster asset (GeoTIFF, COG or JP2 by type or file name).")
    return UnknownNameError("band", list(bands), known, f"{len(described)} items")


def _choose_bands(described: Sequence[Described], bands: Sequence[str] | None, box: GeoBox, *, native: bool) -> dict[str, Band]:
    """Band name → Band, in the order asked for, else in the order of the first item."""
    if bands is None:
        fits = [
            b
            for d in described
            for b in d.bands
            if b.geobox is not None and not b.is_scl and (not native or math.isclose(pixel_size(b.geobox), pixel_size(box)))
        ]
        if not fits:
            raise _no_band(bands, described)
        chosen = {b.band.name: b.band for b in fits}
        _refuse_shared_names(described, chosen)
        return chosen
    chosen = {}
    for name in bands:
        band = next((b.band for d in described for b in d.bands if not b.is_scl and _matches(b, [name])), None)
        if band is None:
            raise UnknownNameError(
                "band", name, sorted({b.band.name for d in described for b in d.bands if not b.is_scl}), f"{len(described)} items"
            )
        if band.name in chosen:
            raise CatalogError(f"Band {band.name!r} is asked for twice, the second time as {name!r}.")
        chosen[band.name] = band
    _refuse_shared_names(described, chosen)
    return chosen


def _refuse_shared_names(described: Sequence[Described], chosen: Mapping[str, Band]) -> None:
    """Two bands of one item with one common name would be one band of the cube: refuse, naming both."""
    for d in described:
        own: dict[str, set[str | None]] = {}
        for b in d.bands:
            own.setdefault(b.band.name, set()).add(b.band.eo_name)
        for name in chosen:
            if len(own.get(name, ())) > 1:
                raise CatalogError(
                    f"Item {d.item['id']!r} has {len(own[name])} bands with the common name {name!r}: "
                    f"{sorted(map(str, own[name]))}. A cube's bands have names of their own; leave this one out (bands=), or "
                    "mend the common names."
                )


def _best_file(candidates: Sequence[BandOfFile], box: GeoBox) -> BandOfFile | None:
    """Of several files with one band, the one on the grid, else the coarsest that is not coarser, else the finest."""

    def rank(b: BandOfFile) -> tuple[bool, bool, float]:
        size, want = pixel_size(b.geobox), pixel_size(box)  # type: ignore[arg-type]
        aligned = b.geobox is not None and b.geobox.crs == box.crs and math.isclose(size, want)
        coarser = size > want * 1.001
        return not aligned, coarser, size if coarser else -size

    return min(candidates, key=rank, default=None)


def _scene(d: Described, chosen: Mapping[str, Band], box: GeoBox, *, scl: bool, options: StacOptions) -> Scene:
    sentinel2 = is_sentinel2(d.item)
    assets: dict[str, Asset] = {}
    for name in chosen:
        b = _best_file([b for b in d.bands if not b.is_scl and b.band.name == name], box)
        if b is not None:
            _require_readable(d.item, b)
            assets[name] = _asset(b, _shift(d.item, b, options) if sentinel2 and is_integer(b.dtype) else 0)
    if scl:
        b = _best_file([b for b in d.bands if b.is_scl], box)
        if b is not None:
            _require_readable(d.item, b)
            assets["scl"] = _asset(b._replace(scale=None, offset=None), 0)
    p = d.item["properties"]
    kept = {"cloud_cover": p.get("eo:cloud_cover"), "baseline": p.get("s2:processing_baseline"), "platform": p.get("platform")}
    return Scene(item_id=d.item["id"], time_ms=time_ms(d.item), assets=assets, properties=kept)


def _require_readable(item: JsonItem, b: BandOfFile) -> None:
    if reason := unreadable(b.href):
        raise CatalogError(
            f"Asset {b.key!r} of item {item['id']!r} has the href {b.href[:80]!r}: {reason}. Mend the metadata, or leave it out."
        )


def _asset(b: BandOfFile, shift: int) -> Asset:
    return Asset(
        href=b.href,
        key=b.key,
        bidx=b.bidx,
        geobox=b.geobox,
        dtype=b.dtype,
        nodata=b.nodata,
        scale=b.scale,
        offset=b.offset,
        dn_shift=shift,
    )


def _shift(item: JsonItem, b: BandOfFile, options: StacOptions) -> int:
    if options.dn_offset is None:
        return dn_shift_of(item, key=b.key, scale=b.scale, offset=b.offset)
    return SHIFT + options.dn_offset


def _time_steps(scenes: Sequence[Scene], box: GeoBox) -> list[tuple[Scene, ...]]:
    """Scenes of one solar day (UTC shifted by the grid's longitude) as one date, ordered by time and id."""
    lon = float(box.geographic_extent.centroid.coords[0][0])
    shift_ms = round(lon / 360 * _DAY_MS)
    days: dict[int, list[Scene]] = {}
    for s in sorted(scenes, key=lambda s: (s.time_ms, s.item_id)):
        days.setdefault((s.time_ms + shift_ms) // _DAY_MS, []).append(s)
    return [tuple(days[d]) for d in sorted(days)]


def _frame(
    described: Sequence[Described], steps: Sequence[tuple[Scene, ...]], chosen: Mapping[str, Band], box: GeoBox, *, scl: bool
) -> Frame:
    used = [(s.item_id, s.assets[n]) for step in steps for s in step for n in chosen if n in s.assets]
    dtype = _one("dtype", used)
    _require_dtype(dtype, used)
    nodata = _one("nodata", used)
    kinds = {is_sentinel2(d.item) for d in described}
    if len(kinds) > 1:
        raise RadiometryError(
            "The items mix Sentinel-2 with other sensors; one cube has one scale and offset. Make a cube for each."
        )
    shifted = kinds == {True} and is_integer(dtype)
    scale = SCALE if shifted else _one("scale", used)
    offset = OFFSET if shifted else _one("offset", used)
    if shifted and nodata is None:
        nodata = 0
    data = Variable(
        name="data",
        dtype=str(dtype),
        banded=True,
        nodata=_plain(nodata, str(dtype)),
        scale=scale,
        offset=None if scale is None else offset or 0.0,
    )
    variables = [
        data,
        *(
            [Variable(name="scl", dtype="uint8", flags=SCL_CLASSES, attrs=(("long_name", "Sentinel-2 scene classification"),))]
            if scl
            else []
        ),
    ]
    return Frame(
        geobox=box,
        time_ms=tuple(step[0].time_ms for step in steps),
        bands=tuple(chosen.values()),
        variables=tuple(variables),
        per_time=_per_time(steps, shifted=shifted),
    )


def _one(what: str, used: Sequence[tuple[str, Asset]]) -> Any:
    """The one value that all assets have; RadiometryError names an asset for each of several."""
    first: dict[Any, tuple[Any, str, str]] = {}
    for item_id, asset in used:
        value = getattr(asset, what)
        first.setdefault("nan" if value != value else value, (value, asset.key, item_id))
    if len(first) > 1:
        listed = "; ".join(f"{value} in asset {key!r} of item {item!r}" for value, key, item in list(first.values())[:4])
        raise RadiometryError(
            f"The assets have {what} {sorted(map(str, first))}; one cube has one {what}. Found {listed}. Choose bands (--bands, "
            "bands=) or items that agree, or mend the metadata."
        )
    return next((value for value, _, _ in first.values()), None)


def _require_dtype(dtype: str | None, used: Sequence[tuple[str, Asset]]) -> None:
    if dtype not in INTEGERS + FLOATS:
        item_id, asset = used[0] if used else ("", None)
        raise RadiometryError(
            f"Asset {asset.key if asset else ''!r} of item {item_id!r} has the data type {dtype!r}; a cube holds one of "
            f"{', '.join(INTEGERS + FLOATS)}. Choose other bands (--bands, bands=), or mend the metadata."
        )


def _plain(nodata: float | None, dtype: str) -> int | float | None:
    """As JSON keeps it; RadiometryError for an infinite one, which it cannot."""
    if nodata is None:
        return None
    if math.isinf(nodata):
        raise RadiometryError(f"The assets have nodata {nodata}; a cube's nodata is a finite number or NaN. Mend the metadata.")
    return int(nodata) if is_integer(dtype) else float(nodata)


def _per_time(steps: Sequence[tuple[Scene, ...]], *, shifted: bool) -> tuple[PerTime, ...]:
    out = [PerTime(name="item_id", dtype="str", values=tuple(" ".join(s.item_id for s in g) for g in steps))]
    if any(s.properties["cloud_cover"] is not None for g in steps for s in g):
        cover = tuple(_mean([s.properties["cloud_cover"] for s in g]) for g in steps)
        out.append(PerTime(name="cloud_cover", dtype="float32", values=cover, attrs=(("units", "percent"),)))
    if shifted:
        shifts = tuple(max((a.dn_shift for s in g for a in s.assets.values()), default=0) for g in steps)
        note = (("long_name", "added to the provider's digital numbers, so that one offset holds"),)
        out.append(PerTime(name="dn_shift", dtype="int16", values=shifts, attrs=note))
    texts = [n for n in ("baseline", "platform") if any(s.properties[n] for g in steps for s in g)]
    out += [PerTime(name=n, dtype="str", values=tuple(str(g[0].properties[n] or "") for g in steps)) for n in texts]
    return tuple(out)


def _mean(values: Sequence[float | None]) -> float:
    """Plain mean of what is stated; -1 where nothing is (JSON has no NaN)."""
    stated = [float(v) for v in values if v is not None]
    return round(sum(stated) / len(stated), 4) if stated else -1.0


# ------------------------------------------------------------------------------------------------ the corpus


@dataclass(frozen=True, kw_only=True)
class StacCorpus:
    """A static catalogue or list of items as a corpus: one site a tile grid, or one area on a given grid."""

    items: tuple[JsonItem, ...] = field(hash=False)
    bands: tuple[str, ...] | None = None
    geobox: GeoBox | None = None
    """One area instead of tiles: everything is put on this grid, product by product at its own pixel size."""

    area: str = "area"
    """Name of the site when ``geobox`` is given."""

    options: StacOptions = field(default_factory=StacOptions)
    reader: Reader | None = field(default=None, hash=False, compare=False)
    """Of headers and pixels; None: GDAL."""

    name: str = "stac"

    @classmethod
    def open(cls, source: Any, **options: Any) -> StacCorpus:
        """Read the items of a catalogue (path, URL, dictionary, pystac object)."""
        return cls(items=tuple(read_items(source)), **options)

    @cached_property
    def _described(self) -> tuple[Described, ...]:
        return tuple(describe_items(self.items, self.reader, area=self.geobox))

    @property
    def attributions(self) -> tuple[str, ...]:
        """Attribution that the items ask for."""
        if any(is_sentinel2(i) for i in self.items):
            years = sorted(dt.datetime.fromtimestamp(time_ms(i) / 1000, dt.UTC).year for i in self.items)
            return (f"Contains modified Copernicus Sentinel data {years[0]}-{years[-1]}",)
        return ()

    @property
    def license(self) -> str | None:
        """Licence that the items state."""
        stated = {str(i["properties"]["license"]) for i in self.items if i["properties"].get("license")}
        return ", ".join(sorted(stated)) or None

    @cached_property
    def _tiles(self) -> dict[str, list[Described]]:
        """Site name → items whose finest grid has that tile."""
        tiles: dict[str, list[Described]] = {}
        names: dict[str, tuple[str, JsonItem]] = {}
        for d in self._described:
            grids = [b.geobox for b in d.bands if b.geobox is not None and not b.is_scl]
            if not grids:
                raise _no_band(None, [d])
            name = site_name(d.item, min(grids, key=pixel_size))
            _refuse_alike(names.setdefault(name.casefold(), (name, d.item)), name, d.item)
            tiles.setdefault(name, []).append(d)
        return tiles

    @cached_property
    def sites(self) -> tuple[Site, ...]:
        """See :class:`eocube.corpora.protocol.Corpus`."""
        if self.geobox is not None:
            return (Site(name=slug(self.area), geobox=self.geobox, products=self._products(self._described)),)
        found = []
        for name, members in sorted(self._tiles.items()):
            finest = min((b.geobox for d in members for b in d.bands if b.geobox is not None and not b.is_scl), key=pixel_size)
            found.append(Site(name=name, geobox=finest, products=self._products(members)))
        return tuple(found)

    def _products(self, members: Sequence[Described]) -> tuple[str, ...]:
        wanted = [b for d in members for b in d.bands if not b.is_scl and (self.bands is None or _matches(b, self.bands))]
        if not wanted:
            raise _no_band(self.bands, members)
        sizes = {product_name(b.geobox): pixel_size(b.geobox) for b in wanted if b.geobox is not None}
        return tuple(sorted(sizes, key=lambda p: sizes[p]))

    def source(self, site: str, product: str) -> tuple[StacSource, Node]:
        """See :class:`eocube.corpora.protocol.Corpus`."""
        place = next((s for s in self.sites if s.name == site), None)
        if place is None:
            raise UnknownNameError("site", site, [s.name for s in self.sites], "this catalogue")
        if product not in place.products:
            raise UnknownNameError("product", product, place.products, f"site {site!r}")
        members = list(self._described) if self.geobox is not None else self._tiles[site]
        kept = [
            Described(
                d.item, tuple(b for b in d.bands if b.geobox is not None and (b.is_scl or product_name(b.geobox) == product))
            )
            for d in members
        ]
        kept = [d for d in kept if any(not b.is_scl for b in d.bands)]
        names = None if self.bands is None else [n for n in self.bands if any(_matches(b, [n]) for d in kept for b in d.bands)]
        box = None if self.geobox is None else _at_pixel_size(self.geobox, kept, product)
        source = source_of(kept, bands=names, geobox=box, options=self.options, reader=self.reader)
        return source, source.node


def _refuse_alike(known: tuple[str, JsonItem], name: str, item: JsonItem) -> None:
    """Tiles with different names must have different folders, also where a file system knows no upper and lower case."""
    first, (known_name, known_item) = tile_name(known[1]), known
    if known_name != name or (first is not None and first != tile_name(item)):
        raise CatalogError(
            f"The tiles of items {known_item['id']!r} ({known_name if first is None else first!r}) and {item['id']!r} "
            f"({tile_name(item)!r}) would be one cube, {name!r}: their names differ only by case or by signs that no "
            "cube's name has. Mend grid:code, or convert them into stores of their own."
        )


def _at_pixel_size(area: GeoBox, members: Sequence[Described], product: str) -> GeoBox:
    """The area's grid at a product's own pixel size, same corner and CRS units; the area's own where units differ."""
    native = next(b.geobox for d in members for b in d.bands if b.geobox is not None and product_name(b.geobox) == product)
    if native.crs is None or area.crs is None or native.crs.geographic != area.crs.geographic:
        return area
    return zoomed(area, pixel_size(native))


def site_name(item: JsonItem, finest: GeoBox) -> str:
    """MGRS tile, or CRS and corner of the tile grid, as a slug."""
    tile = tile_name(item)
    if tile:
        name = slug(tile)
        if len(name) > MAX_NAME:
            raise CatalogError(
                f"The tile of item {item['id']!r} has a name of {len(tile):,} characters ({tile[:40]!r}…); a cube's has at most "
                f"{MAX_NAME}. Mend grid:code (or s2:mgrs_tile), or leave the item out."
            )
        return name
    a = finest.affine
    digits = 6 if finest.crs is not None and finest.crs.geographic else 0
    code = str(finest.crs)
    short = code.replace(":", "") if len(code) <= MAX_CODE else f"crs-{digest(code)[:8]}"
    return slug(f"{short}_{a.c:.{digits}f}_{a.f:.{digits}f}")


def product_name(box: GeoBox) -> str:
    """Pixel size as a product name: ``10m``, ``0.0001deg``."""
    unit = "deg" if box.crs is not None and box.crs.geographic else "m"
    return slug(f"{pixel_size(box):g}{unit}")


def slug(text: str) -> str:
    """``[A-Za-z0-9_.-]`` only; whatever else becomes ``-``."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("-.") or "x"
