"""What an id of RapidAI4EO says: which cell of which tile, on which grid, with which dates, in which files.

Nothing is opened here. Tiles are squares of 24 km on the UTM grid, cut into 40 × 40 cells of 600 m; a sample is one cell.

====================================================================  ===========================================================
fact                                                                  source
====================================================================  ===========================================================
id ``{zone}_{E}E-{N}N_{row}_{column}``, tree ``imagery/zone/tile/id``  rapidai4eo.py of the corpus's tutorial
146 dates, every 5 days from 2018-01-03T10:30Z; 12 months of 2018     the same: ``pd.date_range(…, freq="5D")`` and ``"1M"``
``labels/zone/tile/labels_{id}.geojson``                              FoMo-Bench, datasets/RapidAI4EODataset.py
rows count down from the tile's top edge, columns from its left       derived from Planet's UTM grid, and right on the one real
                                                                      file at hand: uncertain, so :func:`check_grid` compares
                                                                      with each file that is opened
====================================================================  ===========================================================
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from affine import Affine
from odc.geo.geobox import GeoBox

from eocube.errors import ArgumentError, GridError, UnknownNameError
from eocube.model.window import Span

TILE_M = 24_000
"""Edge of a tile in metres."""

CELL_M = 600
"""Edge of a cell, which is one site, in metres."""

CELLS = TILE_M // CELL_M
"""Cells along an edge of a tile: 40."""

_TILE = r"([1-9]|0[1-9]|[1-5][0-9]|60)N_([0-9]{1,2})E-([0-9]{1,3})N"
_CELL = r"(0[1-9]|[1-3][0-9]|40)"
_SITE = rf"{_TILE}_{_CELL}_{_CELL}"
_TILE_RE, _SITE_RE = re.compile(_TILE), re.compile(_SITE)
_EXPECTED_TILE = "a UTM zone 1N to 60N, then the tile's column and row of 24 km from the CRS origin, as in 33N_15E-200N"
_EXPECTED = f"{_EXPECTED_TILE}, then its cell's row and column, 01 to 40 each, as in 33N_15E-200N_01_09"
_MAX_EAST, _MAX_NORTH = 1_000_000 // TILE_M, 10_000_000 // TILE_M
"""UTM gives no easting beyond 1,000 km and no northing beyond 10,000 km."""

_TOLERANCE_PX = 1e-3

GEOMETRIES = "resources/rapidai4eo_geometries.geojson.gz"
LABELS = "resources/rapidai4eo_labels.csv.gz"
LABEL_MAPPINGS = "resources/rapidai4eo_label_mappings.csv"


def _ms(moment: dt.datetime) -> int:
    return round(moment.replace(tzinfo=dt.UTC).timestamp() * 1000)


_PF_TIMES = tuple(dt.datetime(2018, 1, 3, 10, 30) + dt.timedelta(days=5 * i) for i in range(146))  # noqa: DTZ001 - UTC in _ms
_MONTH_STARTS = tuple(dt.datetime(2018 + i // 12, i % 12 + 1, 1) for i in range(13))  # noqa: DTZ001 - UTC in _ms

PF_TIMES_MS: tuple[int, ...] = tuple(_ms(t) for t in _PF_TIMES)
"""Dates of Planet Fusion: 146, from 2018-01-03T10:30Z every 5 days to 2019-12-29T10:30Z. The axis is closed."""

S2_BOUNDS_MS: tuple[tuple[int, int], ...] = tuple((_ms(start), _ms(end)) for start, end in pairwise(_MONTH_STARTS))
"""Half-open [start, end) of the 12 monthly mosaics of Sentinel-2, January to December 2018."""


@dataclass(frozen=True, kw_only=True)
class Product:
    """One kind of image: a folder of every site, one file a step of its time axis."""

    name: str
    """``pf_sr``, ``pf_qa``, ``s2_sr``."""

    folder: str
    """As the corpus writes it: ``PF-SR``."""

    gsd_m: int
    """Metres a pixel, along both axes."""

    stamps: tuple[str, ...]
    """Names of the files without ``.tif``, in time order."""

    @property
    def site_px(self) -> int:
        """Pixels along an edge of a site, and of a shard."""
        return CELL_M // self.gsd_m

    @property
    def tile_px(self) -> int:
        """Pixels along an edge of a tile."""
        return TILE_M // self.gsd_m


_PF_STAMPS = tuple(f"{t:%Y-%m-%d}" for t in _PF_TIMES)
PRODUCTS: dict[str, Product] = {
    p.name: p
    for p in (
        Product(name="pf_sr", folder="PF-SR", gsd_m=3, stamps=_PF_STAMPS),
        Product(name="pf_qa", folder="PF-QA", gsd_m=3, stamps=_PF_STAMPS),
        Product(name="s2_sr", folder="S2-SR", gsd_m=10, stamps=tuple(f"{t:%Y-%m}" for t in _MONTH_STARTS[:12])),
    )
}
"""Name → product. PF-SR and PF-QA share grid and dates."""


def product_of(name: str) -> Product:
    """The product of that name (``pf_sr``) or folder (``PF-SR``); UnknownNameError for others."""
    found = PRODUCTS.get(name) or PRODUCTS.get(name.lower().replace("-", "_"))
    if found is None:
        raise UnknownNameError("product", name, PRODUCTS, "RapidAI4EO")
    return found


# ----------------------------------------------------------------------------------------------------------- tiles and sites


@dataclass(frozen=True, kw_only=True)
class TileId:
    """A square of 24 km, which becomes one sparse cube."""

    zone: str
    """UTM zone as the corpus writes it: ``33N``."""

    tile: str
    """``15E-200N``: column and row of 24 km from the origin of the CRS."""

    @property
    def cube(self) -> str:
        """Name of the tile's cube, ``33N_15E-200N``; :func:`parse_tile` reads it back."""
        return f"{self.zone}_{self.tile}"

    @property
    def epsg(self) -> int:
        """Code of the zone's CRS, 32601 to 32660."""
        return 32_600 + int(self.zone[:-1])

    @property
    def left_top_m(self) -> tuple[int, int]:
        """Easting of the left edge and northing of the top edge, in metres."""
        east, north = self.tile.split("-")
        return int(east[:-1]) * TILE_M, (int(north[:-1]) + 1) * TILE_M


@dataclass(frozen=True, kw_only=True)
class SiteId:
    """A sample: one cell of 600 m of a tile."""

    zone: str
    """UTM zone as the corpus writes it: ``33N``."""

    tile: str
    """``15E-200N``."""

    row: int
    """1 to 40, counted down from the tile's top edge."""

    column: int
    """1 to 40, counted right from the tile's left edge."""

    @property
    def cube(self) -> str:
        """Name of the tile's cube, ``33N_15E-200N``."""
        return f"{self.zone}_{self.tile}"

    @property
    def tile_id(self) -> TileId:
        """The tile it lies in."""
        return TileId(zone=self.zone, tile=self.tile)

    @property
    def left_top_m(self) -> tuple[int, int]:
        """Easting of the left edge and northing of the top edge, in metres."""
        left, top = self.tile_id.left_top_m
        return left + (self.column - 1) * CELL_M, top - (self.row - 1) * CELL_M

    def __str__(self) -> str:
        return f"{self.cube}_{self.row:02d}_{self.column:02d}"


def parse_tile(name: str) -> TileId:
    """The tile of a cube's name, ``33N_15E-200N``; ArgumentError for anything else."""
    match = _TILE_RE.fullmatch(name)
    if match is None or int(match[2]) > _MAX_EAST or int(match[3]) > _MAX_NORTH:
        raise ArgumentError(f"{name!r} is no tile of RapidAI4EO. Expected {_EXPECTED_TILE}.")
    zone, tile = name.split("_")
    return TileId(zone=zone, tile=tile)


def parse_site(sample_id: str) -> SiteId:
    """The parts of a sample's id, ``33N_15E-200N_01_09``; ``str()`` of them is the id again.

    Raises
    ------
    ArgumentError
        If the id has another form, a cell outside 1 to 40 or a tile outside UTM.
    """
    match = _SITE_RE.fullmatch(sample_id)
    if match is None or int(match[2]) > _MAX_EAST or int(match[3]) > _MAX_NORTH:
        raise _no_site(sample_id)
    zone, tile, row, column = sample_id.split("_")
    return SiteId(zone=zone, tile=tile, row=int(row), column=int(column))


def _no_site(sample_id: object, more: str = "") -> ArgumentError:
    return ArgumentError(f"{sample_id!r} is no sample id of RapidAI4EO{more}. Expected {_EXPECTED}.")


# --------------------------------------------------------------------------------------------------------------------- grids


def tile_geobox(tile: TileId | str, product: str) -> GeoBox:
    """Grid of a tile's cube: 8000 × 8000 px of 3 m for Planet Fusion, 2400 × 2400 px of 10 m for Sentinel-2."""
    tile = parse_tile(tile) if isinstance(tile, str) else tile
    found = product_of(product)
    return _geobox(tile.left_top_m, tile.epsg, found.gsd_m, found.tile_px)


def site_geobox(site: SiteId, product: str) -> GeoBox:
    """Grid of one site's files: 200 × 200 px of 3 m, or 60 × 60 px of 10 m."""
    found = product_of(product)
    return _geobox(site.left_top_m, site.tile_id.epsg, found.gsd_m, found.site_px)


def _geobox(left_top_m: tuple[int, int], epsg: int, gsd_m: int, edge_px: int) -> GeoBox:
    left, top = (float(v) for v in left_top_m)
    return GeoBox((edge_px, edge_px), Affine(gsd_m, 0.0, left, 0.0, -gsd_m, top), f"EPSG:{epsg}")


def site_window(site: SiteId, product: str) -> tuple[Span, Span]:
    """Rows and columns of a site in its tile's grid, half-open: one whole shard."""
    edge = product_of(product).site_px
    return ((site.row - 1) * edge, site.row * edge), ((site.column - 1) * edge, site.column * edge)


def check_grid(site: SiteId, product: str, found: GeoBox, *, where: str) -> None:
    """Compare a file's own grid with the one that its id says; GridError names what differs and the file ``where``.

    That ids give grids is derived, not documented, so the first file of a site has to agree before pixels are placed by it.
    """
    told = site_geobox(site, product)
    if found.shape != told.shape:
        problem = f"{found.shape[1]} × {found.shape[0]} px instead of {told.shape[1]} × {told.shape[0]}"
    elif found.crs != told.crs:
        problem = f"CRS {found.crs} instead of {told.crs}"
    elif not _same_place(found.affine, told.affine, told.shape[0]):
        problem = f"transform {tuple(found.affine)[:6]} instead of {tuple(told.affine)[:6]}"
    else:
        return
    raise GridError(
        f"{where} does not lie where its id {site} says: {problem}. Its pixels were not used. Fetch the file again; if all files "
        "of a tile differ alike, this copy of the corpus follows another grid than eocube knows: report it."
    )


def _same_place(one: Affine, other: Affine, edge_px: int) -> bool:
    """Whether all corners of two grids agree within a thousandth of a pixel."""
    tolerance = _TOLERANCE_PX * abs(other.a)
    corners = [(x, y) for x in (0.0, float(edge_px)) for y in (0.0, float(edge_px))]
    return all(max(abs(a - b) for a, b in zip(one @ c, other @ c, strict=True)) <= tolerance for c in corners)


# --------------------------------------------------------------------------------------------------------------------- files


def site_folder(site: SiteId) -> str:
    """Folder of a site's images below the root."""
    return f"imagery/{site.zone}/{site.tile}/{site}"


def image_path(site: SiteId, product: str, step: int) -> str:
    """Path below the root of the file at place ``step`` of the product's time axis (0 to 145, or 0 to 11)."""
    found = product_of(product)
    if not 0 <= step < len(found.stamps):
        raise ArgumentError(f"Step {step} is not on the axis of {found.folder}: expected 0 to {len(found.stamps) - 1}.")
    return f"{site_folder(site)}/{found.folder}/{found.stamps[step]}.tif"


def label_path(site: SiteId) -> str:
    """Path of a site's own labels below the root."""
    return f"labels/{site.zone}/{site.tile}/labels_{site}.geojson"


def site_paths(site: SiteId) -> Iterator[str]:
    """Every file that a complete site has below the root: 146 + 146 + 12 images and its labels."""
    for product in PRODUCTS.values():
        yield from (image_path(site, product.name, step) for step in range(len(product.stamps)))
    yield label_path(site)


# ----------------------------------------------------------------------------------------------------------------- many ids


@dataclass(frozen=True, kw_only=True, eq=False)
class SiteColumns:
    """What many ids say, as columns; row ``i`` is id ``i``."""

    site: Any = field(repr=False)
    """The ids, a pyarrow string array."""

    cubes: tuple[str, ...] = field(repr=False)
    """Distinct tiles by the names of their cubes, in name order."""

    cube_index: npt.NDArray[np.int32] = field(repr=False)
    """Place of each site's tile in ``cubes``."""

    row: npt.NDArray[np.int32] = field(repr=False)
    """1 to 40, counted down."""

    column: npt.NDArray[np.int32] = field(repr=False)
    """1 to 40, counted right."""

    epsg: npt.NDArray[np.int32] = field(repr=False)
    """Code of each site's CRS."""

    left_m: npt.NDArray[np.int32] = field(repr=False)
    """Easting of the left edge, metres in the CRS of ``epsg``."""

    top_m: npt.NDArray[np.int32] = field(repr=False)
    """Northing of the top edge, metres in the CRS of ``epsg``."""

    def __len__(self) -> int:
        return len(self.site)

    @property
    def bounds_m(self) -> npt.NDArray[np.int32]:
        """Left, bottom, right, top of every site, (n, 4) metres in the CRS of ``epsg``."""
        return np.stack([self.left_m, self.top_m - CELL_M, self.left_m + CELL_M, self.top_m], axis=1)

    def windows(self, product: str) -> npt.NDArray[np.int32]:
        """First row, row behind the last, first column, column behind the last in the tile's grid, (n, 4) pixels."""
        edge = np.int32(product_of(product).site_px)
        y, x = (self.row - 1) * edge, (self.column - 1) * edge
        return np.stack([y, y + edge, x, x + edge], axis=1)

    def corners_lonlat(self) -> npt.NDArray[np.float64]:
        """Longitude and latitude (WGS 84) of the corners, (n, 4, 2): upper left, upper right, lower right, lower left.

        One projection a zone; a cell's edges are straight in its CRS, and bend by millimetres in longitude and latitude.
        """
        from pyproj import Transformer

        left, bottom, right, top = self.bounds_m.T.astype("f8")
        x, y = np.stack([left, right, right, left], axis=1), np.stack([top, top, bottom, bottom], axis=1)
        out = np.empty((len(self), 4, 2))
        for epsg in np.unique(self.epsg):
            here = self.epsg == epsg
            to_lonlat = Transformer.from_crs(int(epsg), 4326, always_xy=True)
            out[here, :, 0], out[here, :, 1] = to_lonlat.transform(x[here], y[here])
        return out

    def take(self, indices: npt.NDArray[np.integer[Any]]) -> Self:
        """The rows at those places, in that order; ``cubes`` stays whole."""
        columns = ("cube_index", "row", "column", "epsg", "left_m", "top_m")
        return type(self)(
            site=self.site.take(pa.array(indices)), cubes=self.cubes, **{name: getattr(self, name)[indices] for name in columns}
        )


def parse_sites(ids: Any) -> SiteColumns:
    """What :func:`parse_site` says of each id, as columns: a second's work for all 500,000 of the corpus.

    Parameters
    ----------
    ids
        A pyarrow string array or any sequence of str. Repeated ids stay repeated.

    Raises
    ------
    ArgumentError
        If one of them is none; it names the first and says how many.
    """
    ids = _string_array(ids)
    good = pc.match_substring_regex(ids, rf"\A{_SITE}\z").to_numpy(zero_copy_only=False)
    if not bool(np.all(good == True)):  # noqa: E712 - a null is None here
        raise _first_bad(ids, good)
    tiles = pc.utf8_slice_codeunits(ids, start=0, stop=-6).dictionary_encode()
    names = tiles.dictionary.to_pylist()
    order = sorted(range(len(names)), key=names.__getitem__)
    rank = np.empty(len(names), "i4")
    rank[order] = np.arange(len(names), dtype="i4")
    cubes = tuple(names[i] for i in order)
    index = rank[tiles.indices.to_numpy()] if len(ids) else np.empty(0, "i4")
    left_top, epsg = _tile_numbers(cubes, index, ids)
    row, column = _two_digits(ids, -5, -3), _two_digits(ids, -2, None)
    return SiteColumns(
        site=ids,
        cubes=cubes,
        cube_index=index,
        row=row,
        column=column,
        epsg=epsg[index],
        left_m=left_top[index, 0] + (column - 1) * CELL_M,
        top_m=left_top[index, 1] - (row - 1) * CELL_M,
    )


def _string_array(ids: Any) -> Any:
    """One contiguous pyarrow string array."""
    if isinstance(ids, pa.ChunkedArray):
        ids = ids.combine_chunks()
    elif not isinstance(ids, pa.Array):
        ids = pa.array(list(ids), pa.string())
    return ids if ids.type == pa.string() else ids.cast(pa.string())


def _first_bad(ids: Any, good: npt.NDArray[Any]) -> ArgumentError:
    bad = np.flatnonzero(good != True)  # noqa: E712 - a null is None here
    return _no_site(ids[int(bad[0])].as_py(), f" (row {bad[0]}, the first of {len(bad)} such)" if len(ids) > 1 else "")


def _tile_numbers(
    cubes: tuple[str, ...], index: npt.NDArray[np.int32], ids: Any
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Left and top edge of each tile, (tiles, 2), and its CRS code."""
    left_top, epsg = np.empty((len(cubes), 2), "i4"), np.empty(len(cubes), "i4")
    for i, cube in enumerate(cubes):
        try:
            tile = parse_tile(cube)
        except ArgumentError:
            raise _first_bad(ids, index != i) from None
        left_top[i], epsg[i] = tile.left_top_m, tile.epsg
    return left_top, epsg


def _two_digits(ids: Any, start: int, stop: int | None) -> npt.NDArray[np.int32]:
    column: npt.NDArray[np.int32] = pc.utf8_slice_codeunits(ids, start=start, stop=stop).cast(pa.int32()).to_numpy()
    return column
