"""Synthetic Sentinel-2 in the layout of a static STAC catalogue: tiny GeoTIFFs whose pixels say where and when they are.

Nothing here is an observation; catalogue, items and files say so. What is copied from real catalogues, and from where:

====================================================  ==========================================================================
fact                                                  source
====================================================  ==========================================================================
Catalog → Collection → Item links, relative hrefs     STAC 1.0/1.1 best practices, "relative published catalog"
``eo:bands``/``raster:bands``/``proj:epsg`` (1.0),    STAC extensions eo 1.1, raster 1.1, projection 1.1;
``bands`` with ``eo:common_name``, ``proj:code``      STAC 1.1 common metadata, eo 2.0, projection 2.0
(1.1)
10 m and 20 m assets on one tile, SCL at 20 m         Sentinel-2 Products Specification Document, L2A
``BOA_ADD_OFFSET`` -1000 from baseline 04.00 on       the same, "Radiometric offset"
====================================================  ==========================================================================

A pixel's number is built from decimal digits, so that a wrong one can be read: the column of the world grid (mod 100), 100 × its
row (mod 100), 10,000 × a digit (0-5) of scene and band; scene and band also shift columns and rows, so that scenes six apart
differ. The world grid starts at the CRS origin: two files that overlap agree on what column and row mean.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from affine import Affine
from odc.geo.geobox import GeoBox

from eocube.errors import AssetReadError
from eocube.io.rasters import RasterInfo, Reader, aligned_origin
from eocube.model.bands import SENTINEL2_BANDS
from eocube.model.scene import Asset

NOTICE = "SYNTHETIC: made by eocube.testing.stac, not an observation"
SHIFT = 1000
CLEAR_AND_CLOUDY = (4, 8, 5, 9, 6, 3, 7, 11)
"""Scene classes that the synthetic SCL takes turns with, in bands of four rows."""


def make_grid(
    shape_yx: tuple[int, int] = (48, 64),
    *,
    resolution: float = 10.0,
    corner_xy: tuple[float, float] = (600_000.0, 5_000_040.0),
    crs: str = "EPSG:32635",
) -> GeoBox:
    """A small grid with its upper left corner at ``corner_xy``, in CRS units."""
    return GeoBox(shape_yx, Affine(resolution, 0, corner_xy[0], 0, -resolution, corner_xy[1]), crs)


@dataclass(frozen=True, kw_only=True)
class SyntheticScene:
    """One STAC item to be made: what it claims, and what its files really hold."""

    item_id: str
    when: str
    """ISO time of acquisition, UTC."""

    number: int
    """Which scene this is, for the pixels."""

    grid: GeoBox = field(default_factory=make_grid)
    """Grid of the assets with zoom 1."""

    zooms: Mapping[str, int] = field(default_factory=lambda: {"B04": 1, "B08": 1, "SCL": 1})
    """Sensor band name → how many pixels of ``grid`` one of its pixels is wide."""

    footprint: tuple[tuple[int, int], tuple[int, int]] | None = None
    """Rows and columns of ``grid`` with data; everything else is nodata. None: all of it."""

    file_offset: int = 0
    """What was added to the numbers in the files: 0 or 1000 (baseline 04.00)."""

    declared_offset: float | None = 0.0
    """Offset in the asset's metadata, reflectance; None: not stated."""

    declared_scale: float | None = 1e-4
    nodata: int | None = 0
    properties: Mapping[str, Any] = field(default_factory=dict)
    """Further properties of the item; None takes one of ours away."""

    collection: str = "synthetic-s2-l2a"
    stac_version: str = "1.1.0"
    """1.0.0 writes ``eo:bands``, ``raster:bands``, ``proj:epsg``; 1.1.0 writes ``bands``, ``proj:code``."""

    declares_grid: bool = True
    """Whether ``proj:`` fields and data types are in the metadata, or only in the files."""

    one_file: bool = False
    """All bands of one zoom but SCL in one file."""

    missing: tuple[str, ...] = ()
    """Asset keys whose file is not written."""

    truncated: tuple[str, ...] = ()
    """Asset keys whose file loses its second half."""

    block: int = 16
    """Tile edge of the files."""

    @property
    def time_ms(self) -> int:
        """Acquisition, milliseconds since 1970-01-01 UTC."""
        return round(dt.datetime.fromisoformat(self.when).replace(tzinfo=dt.UTC).timestamp() * 1000)

    def grid_of(self, eo_name: str) -> GeoBox:
        """Grid of one band."""
        zoom = self.zooms[eo_name]
        (ny, nx), a = self.grid.shape, self.grid.affine
        return GeoBox((int(ny) // zoom, int(nx) // zoom), Affine(a.a * zoom, 0, a.c, 0, a.e * zoom, a.f), self.grid.crs)

    def asset_of(self, eo_name: str) -> tuple[str, int]:
        """(asset key, band of its file) of one band."""
        if not self.one_file or eo_name == "SCL":
            return eo_name, 1
        mates = [b for b, z in self.zooms.items() if b != "SCL" and z == self.zooms[eo_name]]
        return f"data_{self.zooms[eo_name]}", 1 + mates.index(eo_name)

    @property
    def files(self) -> dict[str, list[str]]:
        """Asset key → bands in its file, in order."""
        out: dict[str, list[str]] = {}
        for b in self.zooms:
            out.setdefault(self.asset_of(b)[0], []).append(b)
        return out

    def file_name(self, key: str) -> str:
        """File of an asset, beside its item."""
        return f"{self.item_id}_{key}.tif"

    def dn(self, eo_name: str) -> npt.NDArray[Any]:
        """What a band means: numbers with offset 0, 0 = no data, uint16 (y, x); SCL: classes, uint8."""
        box = self.grid_of(eo_name)
        inside = self._inside(eo_name)
        if eo_name == "SCL":
            rows = np.arange(int(box.shape[0]))[:, None] // 4 + self.number
            return np.where(inside, np.array(CLEAR_AND_CLOUDY, "u1")[rows % len(CLEAR_AND_CLOUDY)], 0).astype("u1")
        band = list(SENTINEL2_BANDS).index(eo_name)
        return np.where(inside, world_dn(box, scene=self.number, band=band), 0).astype("u2")

    def _inside(self, eo_name: str) -> npt.NDArray[np.bool_]:
        box, zoom = self.grid_of(eo_name), self.zooms[eo_name]
        inside = np.ones(tuple(map(int, box.shape)), bool)
        if self.footprint is not None:
            (y0, y1), (x0, x1) = self.footprint
            inside[:] = False
            inside[y0 // zoom : y1 // zoom, x0 // zoom : x1 // zoom] = True
        return inside

    def file_pixels(self, eo_name: str) -> npt.NDArray[Any]:
        """What stands in the file: ``dn`` plus the file's offset where there is data."""
        dn = self.dn(eo_name)
        return dn if eo_name == "SCL" else np.where(dn == 0, 0, dn + self.file_offset).astype("u2")

    def cube_pixels(self, eo_name: str) -> npt.NDArray[Any]:
        """What a cube of eocube must hold: numbers with offset -1000, whatever the file's."""
        dn = self.dn(eo_name)
        return dn if eo_name == "SCL" else np.where(dn == 0, 0, dn + SHIFT).astype("u2")


def world_dn(box: GeoBox, *, scene: int, band: int) -> npt.NDArray[np.int64]:
    """Numbers 1-60,000 that say column and row of the world grid, scene and band."""
    a, (ny, nx) = box.affine, box.shape
    columns = round(a.c / a.a) + np.arange(int(nx)) + 13 * scene
    rows = round(a.f / a.e) + np.arange(int(ny))[:, None] + 29 * band
    return 1 + columns % 100 + 100 * (rows % 100) + 10_000 * ((scene + 2 * band) % 6)


def make_series(n: int, *, first: str = "2021-01-03T09:30:00", every_days: int = 5, **changes: Any) -> list[SyntheticScene]:
    """``n`` scenes of one place, some days apart; ``changes`` go to every scene."""
    start = dt.datetime.fromisoformat(first)
    times = [start + dt.timedelta(days=every_days * i) for i in range(n)]
    return [
        SyntheticScene(item_id=f"SYN_{t:%Y%m%d}_{i:03d}", when=t.isoformat(), number=i, **changes) for i, t in enumerate(times)
    ]


def across_baseline(n: int = 6, **changes: Any) -> list[SyntheticScene]:
    """A series whose second half has processing baseline 04.00: 1000 more in the files, and said in the metadata."""
    series = make_series(n, **changes)
    late = {"file_offset": SHIFT, "declared_offset": -0.1, "properties": {"s2:processing_baseline": "04.00"}}
    early = {"properties": {"s2:processing_baseline": "03.01"}}
    return [replace(s, **(late if i >= n // 2 else early)) for i, s in enumerate(series)]


def expected_cube(scenes: Sequence[SyntheticScene], bands: Sequence[str]) -> npt.NDArray[Any]:
    """Pixels of a cube on the scenes' own grid, one scene a date: (time, band, y, x), or (time, y, x) for ``["SCL"]``."""
    if list(bands) == ["SCL"]:
        return np.stack([s.cube_pixels("SCL") for s in scenes])
    return np.stack([[s.cube_pixels(b) for b in bands] for s in scenes])


# ------------------------------------------------------------------------------------------------ items and files


def item_dict(scene: SyntheticScene, *, folder: str = "") -> dict[str, Any]:
    """The item as a dictionary; hrefs are relative, or below ``folder``."""
    bbox, outline = _footprint(scene.grid)
    defaults: dict[str, Any] = {
        "datetime": f"{scene.when}Z",
        "title": NOTICE,
        "constellation": "sentinel-2",
        "platform": "sentinel-2a",
        "eo:cloud_cover": float(scene.number % 7 * 10),
        "license": "CC0-1.0",
    }
    properties = {k: v for k, v in {**defaults, **scene.properties}.items() if v is not None or k == "datetime"}
    return {
        "type": "Feature",
        "stac_version": scene.stac_version,
        "id": scene.item_id,
        "collection": scene.collection,
        "bbox": list(bbox),
        "geometry": json.loads(outline),
        "properties": properties,
        "links": [],
        "assets": {key: _asset(scene, key, bands, folder) for key, bands in scene.files.items()},
    }


@lru_cache(maxsize=64)
def _footprint(grid: GeoBox) -> tuple[tuple[float, ...], str]:
    """(bounding box, GeoJSON outline) in degrees."""
    extent = grid.geographic_extent
    return tuple(extent.boundingbox.bbox), json.dumps(extent.geom.__geo_interface__)


def _asset(scene: SyntheticScene, key: str, bands: Sequence[str], folder: str) -> dict[str, Any]:
    box = scene.grid_of(bands[0])
    asset: dict[str, Any] = {
        "href": f"{folder}/{scene.file_name(key)}" if folder else f"./{scene.file_name(key)}",
        "type": "image/tiff; application=geotiff; profile=cloud-optimized",
        "roles": ["data"],
    }
    if scene.declares_grid:
        asset |= {"proj:shape": list(map(int, box.shape)), "proj:transform": list(box.affine)[:6]}
        old = scene.stac_version < "1.1"
        asset |= {"proj:epsg": int(str(box.crs).removeprefix("EPSG:"))} if old else {"proj:code": str(box.crs)}
    if scene.stac_version < "1.1":
        asset["eo:bands"] = [_eo_band(b, common="common_name") for b in bands]
        asset["raster:bands"] = [_raster_band(scene, b) for b in bands]
    else:
        asset["bands"] = [
            _eo_band(b, common="eo:common_name") | {_prefixed(k): v for k, v in _raster_band(scene, b).items()} for b in bands
        ]
    return asset


def _prefixed(name: str) -> str:
    """STAC 1.1 has ``nodata`` and ``data_type`` as common metadata; scale and offset stay in the raster extension."""
    return f"raster:{name}" if name in {"scale", "offset"} else name


def _eo_band(eo_name: str, *, common: str) -> dict[str, Any]:
    if eo_name == "SCL":
        return {"name": "SCL"}
    return {"name": eo_name, common: SENTINEL2_BANDS[eo_name].name}


def _raster_band(scene: SyntheticScene, eo_name: str) -> dict[str, Any]:
    if eo_name == "SCL":
        return {"data_type": "uint8", "nodata": 0} if scene.declares_grid else {}
    stated = {
        "data_type": "uint16" if scene.declares_grid else None,
        "nodata": scene.nodata,
        "scale": scene.declared_scale,
        "offset": scene.declared_offset,
    }
    return {k: v for k, v in stated.items() if v is not None}


def write_files(scene: SyntheticScene, folder: Path) -> None:
    """The scene's GeoTIFFs in ``folder``, but for those that are to be missing; truncated ones end in the middle."""
    import rasterio

    folder.mkdir(parents=True, exist_ok=True)
    for key, bands in scene.files.items():
        if key in scene.missing:
            continue
        pixels = np.stack([scene.file_pixels(b) for b in bands])
        box, path = scene.grid_of(bands[0]), folder / scene.file_name(key)
        path.unlink(missing_ok=True)  # GDAL would try to open what is there
        with rasterio.open(
            path,
            "w",
            driver="GTiff",
            count=len(bands),
            height=pixels.shape[1],
            width=pixels.shape[2],
            dtype=pixels.dtype,
            crs=str(box.crs),
            transform=box.affine,
            nodata=scene.nodata,
            tiled=True,
            blockxsize=scene.block,
            blockysize=scene.block,
            compress="deflate",
        ) as file:
            file.write(pixels)
            file.update_tags(NOTICE=NOTICE)
        if key in scene.truncated:
            os.truncate(path, path.stat().st_size // 2)


def write_items(scenes: Iterable[SyntheticScene], folder: Path) -> list[dict[str, Any]]:
    """Files of all scenes in one folder, and their items with absolute hrefs."""
    found = []
    for scene in scenes:
        write_files(scene, folder)
        found.append(item_dict(scene, folder=str(folder)))
    return found


def write_catalog(scenes: Sequence[SyntheticScene], folder: Path) -> Path:
    """A static catalogue with relative hrefs: ``catalog.json``, a folder a collection, in it a folder an item with its files."""
    by_collection: dict[str, list[SyntheticScene]] = {}
    for scene in scenes:
        by_collection.setdefault(scene.collection, []).append(scene)
    version = max((s.stac_version for s in scenes), default="1.1.0")
    for name, members in by_collection.items():
        for scene in members:
            home = folder / name / scene.item_id
            write_files(scene, home)
            links = [_link("root", "../../catalog.json"), _link("parent", "../collection.json")]
            _dump(home / f"{scene.item_id}.json", {**item_dict(scene), "links": links})
        _dump(folder / name / "collection.json", _collection(name, members, version))
    children = [_link("child", f"./{name}/collection.json") for name in by_collection]
    root = {"type": "Catalog", "stac_version": version, "id": "synthetic", "title": NOTICE, "description": NOTICE}
    path = folder / "catalog.json"
    _dump(path, {**root, "links": [_link("root", "./catalog.json"), *children]})
    return path


def _collection(name: str, members: Sequence[SyntheticScene], version: str) -> dict[str, Any]:
    boxes = np.array([list(s.grid.geographic_extent.boundingbox.bbox) for s in members])
    times = sorted(s.when for s in members)
    return {
        "type": "Collection",
        "stac_version": version,
        "id": name,
        "title": NOTICE,
        "description": NOTICE,
        "license": "CC0-1.0",
        "extent": {
            "spatial": {"bbox": [[*map(float, boxes.min(0)[:2]), *map(float, boxes.max(0)[2:])]]},
            "temporal": {"interval": [[f"{times[0]}Z", f"{times[-1]}Z"]]},
        },
        "links": [
            _link("root", "../catalog.json"),
            _link("parent", "../catalog.json"),
            *(_link("item", f"./{s.item_id}/{s.item_id}.json") for s in members),
        ],
    }


def _link(rel: str, href: str) -> dict[str, str]:
    return {"rel": rel, "href": href, "type": "application/geo+json" if rel == "item" else "application/json"}


def _dump(path: Path, document: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1), encoding="utf-8")


# ------------------------------------------------------------------------------------------------ a reader without files


class SyntheticReader:
    """A Reader whose files are the scenes themselves: no disk, no GDAL. Off the files' grid, but in their CRS: nearest only."""

    def __init__(self, scenes: Iterable[SyntheticScene]):
        self.scenes = tuple(scenes)
        self._files = {s.file_name(key): (s, key) for s in self.scenes for key in s.files}
        self._pixels: dict[str, npt.NDArray[Any]] = {}

    def __reduce__(self) -> tuple[type[SyntheticReader], tuple[tuple[SyntheticScene, ...]]]:
        return type(self), (self.scenes,)

    def _find(self, href: str, item_id: str, asset: str) -> tuple[SyntheticScene, list[str]]:
        found = self._files.get(href.rpartition("/")[2])
        if found is None or found[1] in found[0].missing:
            raise AssetReadError(href, item_id, asset, "No such file")
        return found[0], found[0].files[found[1]]

    def read(self, assets: Sequence[Asset], geobox: GeoBox, *, item_id: str, resampling: str) -> npt.NDArray[Any]:
        """See :class:`eocube.io.rasters.Reader`."""
        scene, bands = self._find(assets[0].href, item_id, assets[0].key)
        if assets[0].key in scene.truncated:
            raise AssetReadError(assets[0].href, item_id, assets[0].key, "the file is truncated")
        grid = scene.grid_of(bands[0])
        if grid.crs != geobox.crs or (resampling != "nearest" and aligned_origin(grid, geobox) is None):
            raise AssetReadError(assets[0].href, item_id, assets[0].key, f"SyntheticReader does not resample {resampling}")
        name = assets[0].href.rpartition("/")[2]
        if name not in self._pixels:
            self._pixels[name] = np.stack([scene.file_pixels(b) for b in bands])
        pixels = self._pixels[name][[a.bidx - 1 for a in assets]]
        return _nearest(pixels, grid, geobox, int(assets[0].nodata or 0))

    def describe(self, href: str) -> RasterInfo:
        """See :class:`eocube.io.rasters.Reader`."""
        scene, bands = self._find(href, "", "header")
        dtypes = tuple(str(scene.file_pixels(b).dtype) for b in bands)
        nodata = None if scene.nodata is None else float(scene.nodata)
        return RasterInfo(scene.grid_of(bands[0]), dtypes, (nodata,) * len(dtypes), (scene.block, scene.block))


def _nearest(pixels: npt.NDArray[Any], grid: GeoBox, geobox: GeoBox, fill: int) -> npt.NDArray[Any]:
    """The pixel of ``grid`` in which each pixel centre of ``geobox`` lies, ``fill`` outside."""
    a, (ny, nx) = ~grid.affine @ geobox.affine, map(int, geobox.shape)
    columns = np.floor(a.c + a.a * (np.arange(nx) + 0.5) + 1e-6).astype(int)
    rows = np.floor(a.f + a.e * (np.arange(ny) + 0.5) + 1e-6).astype(int)
    inside = ((rows >= 0) & (rows < pixels.shape[1]))[:, None] & (columns >= 0) & (columns < pixels.shape[2])
    found = pixels[:, rows.clip(0, pixels.shape[1] - 1)[:, None], columns.clip(0, pixels.shape[2] - 1)]
    return np.where(inside, found, fill).astype(pixels.dtype)


class CountingReader:
    """A Reader that counts what another one is asked for, file by file."""

    def __init__(self, inner: Reader):
        self.inner = inner
        self.reads: list[str] = []
        """Address of each file, once a read."""

        self.windows: list[tuple[str, GeoBox, int, int]] = []
        """(address, grid asked for, bands, bytes given) of each read."""

        self.described: list[str] = []
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[CountingReader], tuple[Reader]]:
        return type(self), (self.inner,)

    def read(self, assets: Sequence[Asset], geobox: GeoBox, *, item_id: str, resampling: str) -> npt.NDArray[Any]:
        """See :class:`eocube.io.rasters.Reader`."""
        pixels = self.inner.read(assets, geobox, item_id=item_id, resampling=resampling)
        with self._lock:
            self.reads.append(assets[0].href)
            self.windows.append((assets[0].href, geobox, len(assets), pixels.nbytes))
        return pixels

    def describe(self, href: str) -> RasterInfo:
        """See :class:`eocube.io.rasters.Reader`."""
        with self._lock:
            self.described.append(href)
        return self.inner.describe(href)


_: tuple[type[Reader], ...] = (SyntheticReader, CountingReader)
