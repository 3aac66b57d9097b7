"""Opening things: corpora, stores, cubes, STAC items."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xarray as xr
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox

from eocube.corpora.placed import Placed
from eocube.corpora.protocol import Corpus, LicensedProducts, TabledSites, TiledCorpus
from eocube.corpora.rapidai4eo import RapidAI4EOCorpus, RapidAI4EOOptions
from eocube.corpora.stac import StacCorpus, StacOptions, build_source, pixel_size
from eocube.corpora.stac_check import MAX_SIDE_PX
from eocube.corpora.stac_items import bands_of_item, read_items
from eocube.corpora.worldstrat import WorldStratCorpus, WorldStratOptions
from eocube.errors import ArgumentError, DamagedStoreError, EocubeError, GridError, UnknownNameError
from eocube.io.blobs import open_blobs
from eocube.io.cubes import CubeSource, Decode, cube_path
from eocube.io.index import INDEX, footprint
from eocube.io.index_reader import IndexReader, warm
from eocube.jobs.period import parse_period
from eocube.jobs.roots import address, require_store
from eocube.lazy.cube import default_chunks, lazy_cube
from eocube.model.recipe import Sited
from eocube.model.spec import SUMMARY, Place

MOSAICS = ("solar_day", "none")
CORPORA: dict[str, str] = {
    "stac": "static STAC catalogue, item or ItemCollection of GeoTIFFs (path, URL or object)",
    "rapidai4eo": "RapidAI4EO: its folder, or the URLs of copies of it in the order to try them; `public` names those known",
    "worldstrat": "WorldStrat, Zenodo v1, v1.1 or the Kaggle core: its folder, or .zip archives (path or URL)",
}


def one_or_many(names: Sequence[str] | None) -> list[str] | None:
    """``"red"`` → [red], as a text is no list of letters; None stays None."""
    return [names] if isinstance(names, str) else None if names is None else list(names)


def some_or_all(what: str, names: Sequence[str] | None) -> list[str] | None:
    """The names that are asked for, None for all; one name may stand alone.

    ArgumentError for no name at all, which a program may mean as "none" and a shell, of an unset variable, as "all".
    """
    try:
        found = one_or_many(names)
    except TypeError as e:
        raise ArgumentError(f"{what} is {names!r}; expected a list of names, or None for all.") from e
    if found is not None and not found:
        raise ArgumentError(f"{what} is an empty list, which chooses nothing. Pass names, or None for all. Nothing was changed.")
    return found


def licence_of(corpus: Corpus, product: str) -> dict[str, str | None]:
    """``license`` and ``attribution`` of one product, as the corpus states them."""
    if isinstance(corpus, LicensedProducts):
        return dict(zip(("license", "attribution"), corpus.licence(product), strict=True))
    return {"license": corpus.license, "attribution": "; ".join(corpus.attributions)}


class OpenedCorpus:
    """A corpus to look at: its sites, products, and any cube of it lazily over the original files."""

    def __init__(self, corpus: Corpus):
        self.corpus = corpus

    @property
    def sites(self) -> Any:
        """A GeoDataFrame, a row a site: name, products, CRS, shape, what else the corpus says; footprints in OGC:CRS84.

        RapidAI4EO's have a column a class of CORINE Land Cover 2018 (``clc_311``): share of the site's area, float32 0-1, NaN at
        sites without labels; no such columns where the corpus has no labels (its ``notes`` say so).
        """
        import geopandas as gpd

        if isinstance(self.corpus, TabledSites):
            import pandas as pd
            import shapely

            columns, corners = self.corpus.site_table()
            return gpd.GeoDataFrame(pd.DataFrame(columns), geometry=shapely.polygons(corners), crs="OGC:CRS84")
        rows = [
            {
                "site": s.name,
                "products": list(s.products),
                "crs": str(s.geobox.crs),
                "shape": list(map(int, s.geobox.shape)),
                **{k: v for k, v in (("split", s.split), ("group", s.group)) if v is not None},
                **s.properties,
            }
            for s in self.corpus.sites
        ]
        return gpd.GeoDataFrame(rows, geometry=[footprint(s.geobox) for s in self.corpus.sites], crs="OGC:CRS84")

    @property
    def products(self) -> tuple[str, ...]:
        """Every product that a site has, in order of first use."""
        if isinstance(self.corpus, TiledCorpus):
            return self.corpus.products
        return tuple(dict.fromkeys(p for s in self.corpus.sites for p in s.products))

    def cube(self, site: str, product: str, *, chunks: Mapping[str, int] | None = None) -> xr.Dataset:
        """One product at one site, lazily; no pixel is read before it is computed.

        UnknownNameError for a site or product that the corpus has not, or a product that the site has not.
        """
        source, node = self.corpus.source(site, product)
        if isinstance(source, Sited) and source.places is not None:
            if not source.places:
                having = [p for p in self.products if p != product]
                raise UnknownNameError("product", product, having, f"the files of site {site}")
            placed = Placed(inner=source, place=source.places[0])
            source, node = placed, placed.node(node)
        attrs = licence_of(self.corpus, product)
        cut = chunks or default_chunks(source.block_yx, source.frame())
        return lazy_cube(source, node, chunks=cut, attrs={k: v for k, v in attrs.items() if v})

    def __repr__(self) -> str:
        return f"<corpus {self.corpus.name}: {len(self.corpus.sites)} sites, products {', '.join(self.products)}>"


def open_corpus(name: str, root: Any, **options: Any) -> OpenedCorpus:
    """Original files as a corpus.

    Parameters
    ----------
    name
        ``stac``, ``worldstrat`` or ``rapidai4eo``.
    root
        Where the files are; for STAC a path, URL, dictionary, list of items or pystac object.
    options
        STAC: ``bands`` (common names, sensor names or asset keys), ``geobox`` (one area instead of tiles), ``area`` (its site's
        name); ``resampling``, ``mosaic`` and ``dn_offset`` as in :func:`load_stac`. WorldStrat: ``split`` (``published`` or
        ``leak_safe``), ``float32`` (keep reflectance as it is). RapidAI4EO: ``sites`` (ids, or a list of them at a path or URL),
        ``s2_bands`` (order of Sentinel-2's bands in the files), ``label_unit`` (``fraction`` or ``percent``: what shares of land
        cover are of; told by their sums otherwise). WorldStrat and RapidAI4EO: ``bbox`` (west, south, east, north in degrees:
        only sites that meet it), ``time`` (``FIRST/LAST``, ISO dates, both included).

    Raises
    ------
    UnknownNameError
        For a name that is no corpus, or an option that it has not.
    """
    if name not in CORPORA:
        raise UnknownNameError("corpus", name, CORPORA)
    for option in options:
        if option not in _OPTIONS[name]:
            raise UnknownNameError("option", option, _OPTIONS[name], f"open_corpus({name!r}, …)")
    if name != "stac" and "time" in options:
        options["time_ms"] = parse_period(options.pop("time"))
    if name == "rapidai4eo":
        return OpenedCorpus(RapidAI4EOCorpus.open(root, options=RapidAI4EOOptions(**options)))
    if name == "worldstrat":
        return OpenedCorpus(WorldStratCorpus.open(root, options=WorldStratOptions(**options)))
    return _open_stac(root, options)


def _open_stac(root: Any, options: dict[str, Any]) -> OpenedCorpus:
    pixels = {k: options.pop(k) for k in _STAC_PIXELS if k in options}
    if pixels:
        options["options"] = stac_options(**pixels)
    if (bands := some_or_all("bands", options.get("bands"))) is not None:
        options["bands"] = tuple(bands)
    if not isinstance(options.get("geobox"), GeoBox | None):
        raise ArgumentError(
            f"geobox is {str(options['geobox'])[:80]!r}; expected an odc.geo GeoBox, as an open cube's .odc.geobox."
        )
    return OpenedCorpus(StacCorpus.open(root, **options))


_STAC_PIXELS = ("resampling", "mosaic", "dn_offset")
_OPTIONS = {
    "stac": ("bands", "geobox", "area", *_STAC_PIXELS, "reader"),
    "rapidai4eo": ("sites", "s2_bands", "label_unit", "bbox", "time"),
    "worldstrat": ("split", "float32", "bbox", "time"),
}


def load_stac(
    items: Any,
    *,
    bands: Sequence[str] | None = None,
    geobox: GeoBox | None = None,
    bbox: tuple[float, float, float, float] | None = None,
    bounds: tuple[float, float, float, float] | None = None,
    crs: Any = None,
    resolution: float | None = None,
    resampling: str = "nearest",
    mosaic: str = "solar_day",
    dn_offset: int | None = None,
    chunks: Mapping[str, int] | None = None,
) -> xr.Dataset:
    """STAC items as one lazy cube.

    Parameters
    ----------
    items
        Catalogue path or URL, ItemCollection, item dictionaries, pystac objects, a pystac-client search.
    bands
        Common names (``red``), sensor names (``B04``) or asset keys; None: all bands of the finest pixel size.
    geobox
        The grid. Else ``bbox`` (west, south, east, north in degrees) or ``bounds`` (left, bottom, right, top in ``crs``) with
        ``crs`` and ``resolution`` (CRS units; default: the items' own). Without any of them the items' own grid, which must
        then be one.
    resampling
        For files off the grid: nearest, bilinear, cubic, average …; classes are always nearest.
    mosaic
        ``solar_day`` joins the items of one local day, the first with data winning; ``none`` keeps every item as a date.
    dn_offset
        Only for Sentinel-2 whose metadata does not tell its radiometric offset: 0 or -1000.
    chunks
        Dask chunks along time, y, x; default one date by about 1,024 pixels.

    Returns
    -------
    Dataset with ``data`` (time, band, y, x) in the files' dtype and, where the items have it, ``scl`` (time, y, x) uint8. Integer
    Sentinel-2 is always in numbers with offset -1000 (``dn_shift`` says what was added); :func:`eocube.to_reflectance` decodes.

    Raises
    ------
    CatalogError, UnknownNameError, GridError, RadiometryError
        Before any pixel is read.
    """
    options = stac_options(resampling=resampling, mosaic=mosaic, dn_offset=dn_offset)
    chosen = some_or_all("bands", bands)
    found = read_items(items)
    box = asked_grid(found, geobox=geobox, bbox=bbox, bounds=bounds, crs=crs, resolution=resolution)
    source = build_source(found, bands=chosen, geobox=box, options=options)
    return lazy_cube(source, source.node, chunks=chunks or default_chunks(source.block_yx, source.frame()))


def stac_options(*, resampling: str = "nearest", mosaic: str = "solar_day", dn_offset: int | None = None) -> StacOptions:
    """The options, checked: UnknownNameError or RadiometryError for a value that is none of them."""
    if mosaic not in MOSAICS:
        raise UnknownNameError("mosaic", mosaic, MOSAICS)
    return StacOptions(resampling=resampling, mosaic=mosaic, dn_offset=dn_offset)


def asked_grid(
    items: Any,
    *,
    geobox: GeoBox | None,
    bbox: tuple[float, float, float, float] | None,
    crs: Any,
    resolution: float | None,
    bounds: tuple[float, float, float, float] | None = None,
) -> GeoBox | None:
    """The grid that is asked for; None where none is. GridError where it is asked for twice, or by halves."""
    if geobox is not None:
        more = [k for k, v in {"bbox": bbox, "bounds": bounds, "crs": crs, "resolution": resolution}.items() if v is not None]
        if more:
            raise GridError(f"geobox is the whole grid, and {' and '.join(more)} came beside it; pass one or the other.")
        return geobox
    return _grid(items, bbox, bounds, crs, resolution)


def _grid(
    items: Any,
    bbox: tuple[float, float, float, float] | None,
    bounds: tuple[float, float, float, float] | None,
    crs: Any,
    resolution: float | None,
) -> GeoBox | None:
    """The grid that bbox or bounds ask for; None where neither is given."""
    if bbox is None and bounds is None:
        if crs is not None or resolution is not None:
            raise GridError("crs or resolution was given without an area. Pass bbox= (degrees), bounds= (in crs) or geobox=.")
        return None
    if bbox is not None and bounds is not None:
        raise GridError("Both bbox (degrees) and bounds (in crs) were given; pass one.")
    declared = [b.geobox for i in items for b in bands_of_item(i) if b.geobox is not None and not b.is_scl]
    if crs is None:
        if not declared:
            raise GridError("The items declare no grid; pass crs= and resolution=.")
        crs = declared[0].crs
    crs = norm_crs(crs)
    if resolution is None:
        same = [b for b in declared if b.crs == crs]
        if not same:
            raise GridError(f"No item lies in {crs}; pass resolution= in its units.")
        resolution = min(pixel_size(b) for b in same)
    if bbox is not None:
        from odc.geo.geom import box as geo_box

        corners = _corners("bbox", bbox, "west, south, east, north in degrees")
        bounds = geo_box(*corners, crs="EPSG:4326").to_crs(crs).boundingbox.bbox
    left, bottom, right, top = _corners("bounds", bounds, f"left, bottom, right, top in {crs}")
    longest = max(right - left, top - bottom)
    if not (isinstance(resolution, int | float) and resolution > 0 and longest / resolution <= MAX_SIDE_PX):
        raise GridError(
            f"resolution is {resolution!r} for an area of {right - left:g} × {top - bottom:g} in the units of {crs}: expected a "
            f"positive number that gives at most {MAX_SIDE_PX:,} pixels a side."
        )
    return GeoBox.from_bbox((left, bottom, right, top), crs=crs, resolution=resolution, anchor="edge")


def norm_crs(crs: Any) -> CRS:
    """A CRS from a code, WKT, PROJ text or object; GridError for anything else."""
    try:
        return CRS(crs)
    except Exception as e:  # whatever a CRS library says to what is none
        raise GridError(
            f"crs is {str(crs)[:80]!r}, which is no coordinate reference system ({e}). Give a code, EPSG:32635."
        ) from e


def _corners(name: str, given: Any, meaning: str) -> tuple[float, float, float, float]:
    """Four finite numbers in order; GridError otherwise."""
    try:
        left, bottom, right, top = (float(v) for v in given)
    except (TypeError, ValueError, OverflowError) as e:
        raise GridError(f"{name} is {str(given)[:80]!r}; expected four numbers: {meaning}.") from e
    if not (-math.inf < left < right < math.inf and -math.inf < bottom < top < math.inf):
        raise GridError(f"{name} {(left, bottom, right, top)} is no area; expected {meaning}, the smaller ones first.")
    return left, bottom, right, top


def open_cube(
    url: str,
    *,
    decode: Decode = "dn",
    chunks: str | Mapping[str, int] | None = "shard",
    storage_options: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """One stored cube, lazily.

    Parameters
    ----------
    url
        ``STORE/cubes/<cube>/<product>``.
    decode
        ``dn``: the stored numbers; ``reflectance``: float32 = number × scale + offset, NaN where there is no data. Never float64.
    chunks
        ``shard``: a Dask chunk a shard; a mapping of time, y, x; None: NumPy arrays in memory, read now.
    storage_options
        For the store.

    Returns
    -------
    Dataset: ``data`` (time, band, y, x), masks (time, y, x), CF attributes of scale and nodata as attributes (undecoded).
    Opening takes one request.

    Raises
    ------
    StoreNotFoundError, DamagedStoreError, UnknownNameError, ArgumentError
    """
    source = CubeSource.open(address("url", url), decode=decode, options=storage_options)
    return _lazily(source, chunks)


def open_places(
    url: str, places: Sequence[Place], *, storage_options: Mapping[str, Any] | None = None, **options: Any
) -> xr.Dataset:
    """One stored cube in which sites lie, lazily: what is made of it has regions at these sites only."""
    source = CubeSource.open(address("url", url), options=storage_options, places=tuple(places), **options)
    return _lazily(source, "shard")


def place_of_row(row: Mapping[str, Any]) -> Place:
    """Where the site of an index row lies in its cube."""
    y0, y1, x0, x1 = row["window"]
    return Place(row["site"], (y0, y1), (x0, x1))


_KEPT = ("license", "licenses", "attribution", "attributions", "Conventions")


def _lazily(source: CubeSource, chunks: str | Mapping[str, int] | None) -> xr.Dataset:
    st, sy, sx = source.spec.shard_tyx
    if isinstance(chunks, str) and chunks != "shard":
        raise UnknownNameError("chunks", chunks, ["shard", "a mapping of time, y, x", "None"], "open_cube")
    cut = chunks if isinstance(chunks, Mapping) else {"time": st, "y": sy, "x": sx}
    attrs = {k: v for k, v in source.attrs.items() if k in _KEPT}
    cube = lazy_cube(source, source.node, chunks=cut, attrs=attrs)
    return cube if chunks is not None else cube.load()


class Store:
    """A store: its index, and its cubes by site and product."""

    def __init__(self, url: str, storage_options: Mapping[str, Any] | None = None):
        self._blobs, self._options = open_blobs(address("url", url), storage_options), dict(storage_options or {})
        self.url = self._blobs.url
        require_store(self._blobs)
        self._reader: IndexReader | None = None

    @contextmanager
    def _read(self) -> Iterator[IndexReader]:
        """The index as it is now. DamagedStoreError where it cannot be read."""
        try:
            # The first time nothing is there to compare with, and asking would be a request.
            version = None if self._reader is None else self._blobs.version(INDEX)
            if self._reader is None or self._reader.version is None or self._reader.version != version:
                self._reader = warm(IndexReader(self._blobs, version=version))
            yield self._reader
        except EocubeError:
            raise
        except (pa.ArrowException, OSError, ValueError, KeyError) as e:
            raise DamagedStoreError(
                f"{INDEX} in {self.url} cannot be read ({e}). Cubes are not affected; `eocube index {self.url}` makes it again."
            ) from e

    @property
    def index(self) -> pa.Table:
        """A row a site × product, as an Arrow table; footprints WKB in ``geometry``. DamagedStoreError if it is damaged."""
        with self._read() as reader:
            return reader.table()

    def sites(
        self,
        *,
        bbox: tuple[float, float, float, float] | None = None,
        time: tuple[str, str] | None = None,
        split: str | None = None,
        product: str | None = None,
        where: Any = None,
    ) -> pa.Table:
        """Index rows that meet every condition.

        Parameters
        ----------
        bbox
            West, south, east, north in degrees: footprints whose box meets it.
        time
            First and last date (ISO): cubes with dates in between.
        split, product
            That split or product only. UnknownNameError for a product that no row has.
        where
            A ``pyarrow.compute`` expression on the index's columns.
        """
        conditions = [] if where is None else [where]
        if time is not None:
            first, end = parse_period("/".join(time))
            kind = pa.timestamp("ms", tz="UTC")
            if math.isfinite(end):
                conditions.append(pc.field("first_date") < pa.scalar(int(end), kind))
            if math.isfinite(first):
                conditions.append(pc.field("last_date") >= pa.scalar(int(first), kind))
        with self._read() as reader:
            chosen = np.ones(reader.n_rows, bool)
            if product is not None:
                known = sorted(reader.table(["product"])["product"].unique().to_pylist())
                if product not in known:
                    raise UnknownNameError("product", product, known, f"the index of {self.url}")
            for column, value in (("split", split), ("product", product)):
                if value is not None:
                    chosen &= reader.equal(column, value)
            if bbox is not None:
                chosen &= reader.meeting(bbox)
            table = reader.rows(chosen)
        for condition in conditions:
            table = table.filter(condition)
        return table

    def sites_frame(self, **conditions: Any) -> Any:
        """The rows of :meth:`sites` as a GeoDataFrame, columns as Arrow keeps them, footprints in OGC:CRS84."""
        import geopandas as gpd
        import pandas as pd
        import shapely

        table = self.sites(**conditions)
        columns = table.drop_columns(["geometry", "bbox"]).to_pandas(types_mapper=pd.ArrowDtype)
        return gpd.GeoDataFrame(columns, geometry=shapely.from_wkb(table["geometry"].to_numpy()), crs="OGC:CRS84")

    def cube(self, site: str, product: str, **options: Any) -> xr.Dataset:
        """The cube of one site and product; ``options`` as in :func:`open_cube`.

        Warns (UserWarning) where files of it could not be read (``errors="skip"``): their pixels are nodata until ``retry``.
        """
        row = self._row(site, product)
        chunks = options.pop("chunks", "shard")
        if row["unfinished_regions"]:
            warnings.warn(
                f"{row['unfinished_regions']} regions of {site}/{product} in {self.url} have files that could not be read; their "
                "pixels are nodata. Mend the files and run with retry (--retry).",
                UserWarning,
                stacklevel=2,
            )
        return _lazily(self._source(row, product, **options), chunks)

    def source(self, site: str, product: str) -> CubeSource:
        """What :meth:`cube` reads, for chains that a run replays. UnknownNameError where the index has no such row."""
        return self._source(self._row(site, product), product)

    def _source(self, row: Mapping[str, Any], product: str, **options: Any) -> CubeSource:
        url = f"{self.url}/{cube_path(row['cube'], product)}"
        return CubeSource.open(url, options=self._options, site=place_of_row(row), **options)

    def cube_url(self, site: str, product: str) -> str:
        """Address of a cube. UnknownNameError where the index has no such row."""
        return f"{self.url}/{cube_path(self._row(site, product)['cube'], product)}"

    def _row(self, site: str, product: str) -> dict[str, Any]:
        with self._read() as reader:
            chosen = reader.equal("site", site) & reader.equal("product", product)
            found: list[dict[str, Any]] = reader.rows(chosen).to_pylist()
            some = [] if found else reader.table(["site", "product"]).slice(0, 20).to_pylist()
        if not found:
            known = [f"{r['site']}/{r['product']}" for r in some]
            raise UnknownNameError("cube", f"{site}/{product}", known, f"the index of {self.url}")
        return found[0]

    def clear_summary(self, site: str, product: str) -> xr.DataArray:
        """Share of clear pixels, percent, (time, y_cell, x_cell) uint8; lazily."""
        import zarr

        row = self._row(site, product)
        source, url = self._source(row, product), self.cube_url(site, product)
        group = zarr.open_group(open_blobs(url, self._options).zarr_store(), mode="r", use_consolidated=True)
        import dask.array as da

        place = place_of_row(row)
        cells = (slice(low // source.spec.cell_px, -(-high // source.spec.cell_px)) for low, high in (place.y, place.x))
        array = da.from_array(group[SUMMARY], chunks=source.spec.summary_chunk)[:, *cells]
        return xr.DataArray(array, dims=("time", "y_cell", "x_cell"), coords={"time": source.frame().time}, name=SUMMARY)

    def __repr__(self) -> str:
        with self._read() as reader:
            names = reader.table(["site", "cube", "product"])
        cubes = names.group_by(["cube", "product"]).aggregate([]).num_rows
        lying = "" if cubes == len(names) else f" with {pc.count_distinct(names['site'])} sites"
        return f"<eocube store {self.url}: {cubes} cubes{lying}>"


def open_store(url: str, *, storage_options: Mapping[str, Any] | None = None) -> Store:
    """A store at a folder or URL. StoreNotFoundError where there is none, CubeError where a cube or a patch set is."""
    return Store(url, storage_options)
