"""Opening things: corpora, stores, cubes, STAC items."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import xarray as xr
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox

from eocube.corpora.protocol import Corpus
from eocube.corpora.stac import StacCorpus, StacOptions, build_source, pixel_size
from eocube.corpora.stac_check import MAX_SIDE_PX
from eocube.corpora.stac_items import bands_of_item, read_items
from eocube.errors import DamagedStoreError, EocubeError, GridError, UnknownNameError
from eocube.io.blobs import open_blobs
from eocube.io.cubes import CubeSource, Decode, cube_path
from eocube.io.index import INDEX, footprint, read_index
from eocube.jobs.period import parse_period
from eocube.jobs.roots import require_store
from eocube.lazy.cube import default_chunks, lazy_cube
from eocube.model.spec import SUMMARY

MOSAICS = ("solar_day", "none")
CORPORA: dict[str, str] = {"stac": "static STAC catalogue, item or ItemCollection of GeoTIFFs (path, URL or object)"}


def one_or_many(names: Sequence[str] | None) -> list[str] | None:
    """``"red"`` → [red], as a text is no list of letters; None stays None."""
    return [names] if isinstance(names, str) else None if names is None else list(names)


class OpenedCorpus:
    """A corpus to look at: its sites, products, and any cube of it lazily over the original files."""

    def __init__(self, corpus: Corpus):
        self.corpus = corpus

    @property
    def sites(self) -> Any:
        """A GeoDataFrame, a row a site: name, products, CRS, shape; footprints in OGC:CRS84."""
        import geopandas as gpd

        rows = [
            {"site": s.name, "products": list(s.products), "crs": str(s.geobox.crs), "shape": list(map(int, s.geobox.shape))}
            for s in self.corpus.sites
        ]
        return gpd.GeoDataFrame(rows, geometry=[footprint(s.geobox) for s in self.corpus.sites], crs="OGC:CRS84")

    @property
    def products(self) -> tuple[str, ...]:
        """Every product that a site has, in order of first use."""
        return tuple(dict.fromkeys(p for s in self.corpus.sites for p in s.products))

    def cube(self, site: str, product: str, *, chunks: Mapping[str, int] | None = None) -> xr.Dataset:
        """One product at one site, lazily; no pixel is read before it is computed."""
        source, node = self.corpus.source(site, product)
        attrs = {"license": self.corpus.license, "attribution": "; ".join(self.corpus.attributions)}
        cut = chunks or default_chunks(source.block_yx, source.frame())
        return lazy_cube(source, node, chunks=cut, attrs={k: v for k, v in attrs.items() if v})

    def __repr__(self) -> str:
        return f"<corpus {self.corpus.name}: {len(self.corpus.sites)} sites, products {', '.join(self.products)}>"


def open_corpus(name: str, root: Any, **options: Any) -> OpenedCorpus:
    """Original files as a corpus.

    Parameters
    ----------
    name
        ``stac``.
    root
        Where the files are; for STAC a path, URL, dictionary, list of items or pystac object.
    options
        ``bands`` (common names, sensor names or asset keys) and ``geobox`` (one area instead of tiles).

    Raises
    ------
    UnknownNameError
        For a name that is no corpus.
    """
    if name != "stac":
        raise UnknownNameError("corpus", name, CORPORA)
    return OpenedCorpus(StacCorpus.open(root, **options))


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
    found = read_items(items)
    box = geobox if geobox is not None else _grid(found, bbox, bounds, crs, resolution)
    source = build_source(found, bands=bands, geobox=box, options=options)
    return lazy_cube(source, source.node, chunks=chunks or default_chunks(source.block_yx, source.frame()))


def stac_options(*, resampling: str, mosaic: str, dn_offset: int | None) -> StacOptions:
    """The options, checked: UnknownNameError or RadiometryError for a value that is none of them."""
    if mosaic not in MOSAICS:
        raise UnknownNameError("mosaic", mosaic, MOSAICS)
    return StacOptions(resampling=resampling, mosaic=mosaic, dn_offset=dn_offset)


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
    StoreNotFoundError, DamagedStoreError, UnknownNameError
    """
    source = CubeSource.open(url, decode=decode, options=storage_options)
    st, sy, sx = source.spec.shard_tyx
    if isinstance(chunks, str) and chunks != "shard":
        raise UnknownNameError("chunks", chunks, ["shard", "a mapping of time, y, x", "None"], "open_cube")
    cut = chunks if isinstance(chunks, Mapping) else {"time": st, "y": sy, "x": sx}
    attrs = {k: v for k, v in source.attrs.items() if k in ("license", "attribution", "Conventions")}
    cube = lazy_cube(source, source.node, chunks=cut, attrs=attrs)
    return cube if chunks is not None else cube.load()


class Store:
    """A store: its index, and its cubes by site and product."""

    def __init__(self, url: str, storage_options: Mapping[str, Any] | None = None):
        self._blobs, self._options = open_blobs(url, storage_options), dict(storage_options or {})
        self.url = self._blobs.url
        require_store(self._blobs)

    @property
    def index(self) -> pa.Table:
        """A row a site × product, as an Arrow table; footprints WKB in ``geometry``. DamagedStoreError if it is damaged."""
        try:
            return read_index(self._blobs)
        except EocubeError:
            raise
        except (pa.ArrowException, OSError, ValueError, KeyError) as e:
            raise DamagedStoreError(
                f"{INDEX} in {self.url} cannot be read ({e}). Cubes are not affected; `eocube index {self.url}` makes it again."
            ) from e

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
            That split or product only.
        where
            A ``pyarrow.compute`` expression on the index's columns.
        """
        table = self.index
        conditions = [] if where is None else [where]
        if bbox is not None:
            west, south, east, north = bbox
            left, below, right, above = (pc.field(("bbox", k)) for k in ("xmin", "ymin", "xmax", "ymax"))
            conditions.append((left <= east) & (right >= west) & (below <= north) & (above >= south))
        if time is not None:
            first, end = parse_period("/".join(time))
            kind = pa.timestamp("ms", tz="UTC")
            if math.isfinite(end):
                conditions.append(pc.field("first_date") < pa.scalar(int(end), kind))
            if math.isfinite(first):
                conditions.append(pc.field("last_date") >= pa.scalar(int(first), kind))
        conditions += [pc.field(k) == v for k, v in (("split", split), ("product", product)) if v is not None]
        for condition in conditions:
            table = table.filter(condition)
        return table

    def cube(self, site: str, product: str, **options: Any) -> xr.Dataset:
        """The cube of one site and product; ``options`` as in :func:`open_cube`.

        Warns (UserWarning) where files of it could not be read (``errors="skip"``): their pixels are nodata until ``retry``.
        """
        row = self._row(site, product)
        if row["unfinished_regions"]:
            warnings.warn(
                f"{row['unfinished_regions']} regions of {site}/{product} in {self.url} have files that could not be read; their "
                "pixels are nodata. Mend the files and run with retry (--retry).",
                UserWarning,
                stacklevel=2,
            )
        return open_cube(f"{self.url}/{cube_path(row['cube'], product)}", storage_options=self._options, **options)

    def cube_url(self, site: str, product: str) -> str:
        """Address of a cube. UnknownNameError where the index has no such row."""
        return f"{self.url}/{cube_path(self._row(site, product)['cube'], product)}"

    def _row(self, site: str, product: str) -> dict[str, Any]:
        rows = self.index.select(["site", "product", "cube", "unfinished_regions"]).to_pylist()
        found: dict[str, Any] | None = next((r for r in rows if (r["site"], r["product"]) == (site, product)), None)
        if found is None:
            known = [f"{r['site']}/{r['product']}" for r in rows[:20]]
            raise UnknownNameError("cube", f"{site}/{product}", known, f"the index of {self.url}")
        return found

    def clear_summary(self, site: str, product: str) -> xr.DataArray:
        """Share of clear pixels, percent, (time, y_cell, x_cell) uint8; lazily."""
        import zarr

        source = CubeSource.open(self.cube_url(site, product), options=self._options)
        group = zarr.open_group(
            open_blobs(self.cube_url(site, product), self._options).zarr_store(), mode="r", use_consolidated=True
        )
        import dask.array as da

        array = da.from_array(group[SUMMARY], chunks=source.spec.summary_chunk)
        return xr.DataArray(array, dims=("time", "y_cell", "x_cell"), coords={"time": source.frame().time}, name=SUMMARY)

    def __repr__(self) -> str:
        return f"<eocube store {self.url}: {self.index.num_rows} cubes>"


def open_store(url: str, *, storage_options: Mapping[str, Any] | None = None) -> Store:
    """A store at a folder or URL. StoreNotFoundError where there is none, CubeError where a cube or a patch set is."""
    return Store(url, storage_options)
