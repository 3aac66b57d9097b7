"""Turn the Sentinel-2 series of the package nrt into the sample that ships with eocube: a static STAC catalogue of COGs.

    python scripts/make_sample_sentinel2.py FOLDER eocube/corpora/data/sentinel2_romania.zip

FOLDER holds ``sentinel2_cube_subset_romania_10m.nc`` and ``…_20m.nc`` (nrt 0.0.5 on PyPI, EUPL-1.2). The archive is a zip
of ``catalog.json`` → ``sentinel2_romania/collection.json`` → ``sentinel2_romania/items/*.json`` and one single-band COG for
each date, band and pixel size, with relative hrefs, so that it works wherever it is unpacked. Equal input and equal versions
of GDAL, PROJ and zlib give equal bytes: names are sorted, times fixed.

The metadata is written for new and old readers at once. Bands stand twice: as STAC 1.1 ``bands`` (``eo:common_name``,
``raster:scale`` …) and as ``eo:bands`` and ``raster:bands``. The item declares versions 1.1 of both extensions because the
schemas of their versions 2 forbid the old fields, while those of 1.1 leave ``bands`` alone.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import rasterio
import rasterio.transform
import rasterio.warp
from affine import Affine
from numpy.typing import NDArray

from eocube.model.bands import SCL_CLASSES, SENTINEL2_BANDS

CRS = "EPSG:3035"
SOURCE_NAMES = {
    10: {"B02": "B2", "B03": "B3", "B04": "B4", "B08": "B8", "SCL": "SCL"},
    20: {"B03": "B3", "B04": "B4", "B8A": "B8A", "B11": "B11", "SCL": "SCL"},
}
"""ESA's band name → variable of the netCDF file, by pixel size in metres."""

CLOUD_CLASSES = (8, 9, 10)
"""SCL: cloud of medium and of high probability, thin cirrus."""

COLLECTION = "sentinel2_romania"
LICENCE_FOLDER = Path(__file__).resolve().parent.parent / "eocube" / "corpora" / "data"
LICENCE_FILES = ("ATTRIBUTION.txt", "EUPL-1.2.txt")
ATTRIBUTION = "Contains modified Copernicus Sentinel data 2015-2021"
LEGAL_NOTICE = "https://sentinels.copernicus.eu/documents/247904/690755/Sentinel_Data_Legal_Notice"
EXTENSIONS = {
    "eo": "https://stac-extensions.github.io/eo/v1.1.0/schema.json",
    "raster": "https://stac-extensions.github.io/raster/v1.1.0/schema.json",
    "projection": "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
    "classification": "https://stac-extensions.github.io/classification/v2.0.0/schema.json",
}
COG_TYPE = "image/tiff; application=geotiff; profile=cloud-optimized"
ZIP_TIME = (1980, 1, 1, 0, 0, 0)
"""The earliest time a zip can hold: the same for all members, so that the bytes depend on the content alone."""

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Series:
    """One netCDF file: all dates at one pixel size."""

    gsd_m: int
    """Pixel size in metres."""

    days: tuple[datetime, ...]
    """The dates, ascending, at midnight: the source knows no hours."""

    transform: Affine
    """From pixel edges to CRS coordinates."""

    shape_yx: tuple[int, int]
    """Rows and columns."""

    pixels: dict[str, NDArray[Any]]
    """Band → (time, y, x); digital numbers uint16, SCL uint8; 0 is no data."""

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """West, south, east, north in the CRS."""
        return rasterio.transform.array_bounds(*self.shape_yx, self.transform)


def edge_transform(x: NDArray[np.float64], y: NDArray[np.float64], gsd_m: int) -> Affine:
    """Affine of the pixel edges from coordinates of pixel centres, x ascending and y descending by ``gsd_m`` metres.

    Raises
    ------
    ValueError
        If the coordinates are not such a regular grid.
    """
    if not (np.all(np.diff(x) == gsd_m) and np.all(np.diff(y) == -gsd_m)):
        raise ValueError(f"Coordinates are not pixel centres {gsd_m} m apart, x ascending and y descending.")
    return Affine(gsd_m, 0.0, float(x[0]) - gsd_m / 2, 0.0, -gsd_m, float(y[0]) + gsd_m / 2)


def check_crs(wkt: str, xy: tuple[float, float]) -> None:
    """Refuse a CRS that is not EPSG:3035 in all but name: a position keeps its coordinates to a tenth of a millimetre.

    PROJ does not recognise the source's WKT by its numbers (axes east, north and a TOWGS84 of zeros), so positions decide.
    """
    (x,), (y,) = rasterio.warp.transform(rasterio.CRS.from_wkt(wkt), CRS, [xy[0]], [xy[1]])
    if max(abs(x - xy[0]), abs(y - xy[1])) > 1e-4:
        raise ValueError(f"The source is not in {CRS}: {xy} there is {(x, y)} in {CRS}. Its CRS is {wkt}.")


def read_days(time: netCDF4.Variable) -> tuple[datetime, ...]:
    """Give the dates of a CF time axis; refuses hours, repeats and disorder (the items are named by day)."""
    stamps = np.asarray(netCDF4.num2date(time[:], time.units, time.calendar, only_use_cftime_datetimes=False))
    days = tuple(datetime.fromisoformat(str(stamp)) for stamp in stamps)
    if any((d.hour, d.minute, d.second, d.microsecond) != (0, 0, 0, 0) for d in days):
        raise ValueError("The time axis has hours; items are named by day.")
    if any(b <= a for a, b in itertools.pairwise(days)):
        raise ValueError("The time axis does not ascend strictly.")
    return days


def read_band(variable: netCDF4.Variable, band: str) -> NDArray[Any]:
    """Read (time, y, x) as stored; SCL is narrowed to uint8, every other band must be uint16 with fill value 0."""
    values: NDArray[Any] = variable[:]
    if values.dtype != np.uint16 or variable._FillValue != 0:  # noqa: SLF001 - netCDF4's name of the attribute
        raise ValueError(f"{band}: expected uint16 with _FillValue 0, found {values.dtype} with {variable._FillValue}.")  # noqa: SLF001
    if band != "SCL":
        return values
    if values.max() > SCL_CLASSES[-1][0]:
        raise ValueError(f"SCL: class {values.max()} does not exist.")
    return values.astype(np.uint8)


def read_series(folder: Path, gsd_m: int) -> Series:
    """Read one of the two netCDF files, unscaled and unmasked."""
    with netCDF4.Dataset(folder / f"sentinel2_cube_subset_romania_{gsd_m}m.nc") as source:
        source.set_auto_maskandscale(False)
        transform = edge_transform(source["x"][:], source["y"][:], gsd_m)
        check_crs(source["spatial_ref"].spatial_ref, (transform.c, transform.f))
        return Series(
            gsd_m=gsd_m,
            days=read_days(source["time"]),
            transform=transform,
            shape_yx=(source.dimensions["y"].size, source.dimensions["x"].size),
            pixels={band: read_band(source[name], band) for band, name in SOURCE_NAMES[gsd_m].items()},
        )


def check_nested(fine: Series, coarse: Series) -> None:
    """Refuse two series that are not on the same dates and the same ground, pixel edge on pixel edge."""
    if fine.days != coarse.days:
        raise ValueError("The two files do not have the same dates.")
    if fine.bounds != coarse.bounds or coarse.gsd_m % fine.gsd_m:
        raise ValueError(f"The two grids do not nest: {fine.transform} {fine.shape_yx}, {coarse.transform} {coarse.shape_yx}.")


def encode_cog(pixels: NDArray[Any], transform: Affine) -> bytes:
    """Encode one band (y, x) as a COG: DEFLATE with the horizontal predictor, which every TIFF reader knows."""
    profile = {"count": 1, "dtype": pixels.dtype, "height": pixels.shape[0], "width": pixels.shape[1]}
    profile |= {"crs": CRS, "transform": transform, "nodata": 0}
    options = {"compress": "DEFLATE", "level": 9, "predictor": "YES", "blocksize": 128, "overviews": "NONE"}
    with rasterio.MemoryFile() as memory:
        with memory.open(driver="COG", **profile, **options) as target:
            target.write(pixels, 1)
        return bytes(memory.getbuffer())


def item_id(day: datetime) -> str:
    """``S2_L2A_romania_20150801``."""
    return f"S2_L2A_romania_{day:%Y%m%d}"


def asset_key(band: str, gsd_m: int) -> str:
    """``B02_10m``."""
    return f"{band}_{gsd_m}m"


def band_fields(band: str, gsd_m: int) -> Json:
    """Describe what the pixels of one single-band asset mean, in STAC 1.1's words and in those of older readers."""
    if band == "SCL":
        stored = {"data_type": "uint8", "nodata": 0}
        return {"bands": [{"name": "SCL", **stored}], "raster:bands": [{**stored, "spatial_resolution": gsd_m}]}
    known = SENTINEL2_BANDS[band]
    stored = {"data_type": "uint16", "nodata": 0}
    optics = {"common_name": known.name, "center_wavelength": known.wavelength_um}
    return {
        "bands": [
            {"name": band, **stored, **{f"eo:{k}": v for k, v in optics.items()}, "raster:scale": 0.0001, "raster:offset": 0}
        ],
        "eo:bands": [{"name": band, **optics}],
        "raster:bands": [{**stored, "spatial_resolution": gsd_m, "scale": 0.0001, "offset": 0}],
    }


def asset_fields(band: str, gsd_m: int) -> Json:
    """Give the fields of an asset that are the same on every date."""
    what = "Scene classification" if band == "SCL" else f"Surface reflectance, {SENTINEL2_BANDS[band].name}"
    roles = ["data"] if band == "SCL" else ["data", "reflectance"]
    return {"title": f"{what} ({band}), {gsd_m} m", "type": COG_TYPE, "roles": roles, "gsd": gsd_m, **band_fields(band, gsd_m)}


def item_assets(series: Series, day: datetime) -> Json:
    """Build the assets of one date at one pixel size; hrefs are relative to the item's file."""
    grid = {"proj:shape": list(series.shape_yx), "proj:transform": list(series.transform)[:6]}
    return {
        asset_key(band, series.gsd_m): {
            "href": f"../cogs/{item_id(day)}/{asset_key(band, series.gsd_m)}.tif",
            **asset_fields(band, series.gsd_m),
            **grid,
        }
        for band in series.pixels
    }


def cloud_cover(scl: NDArray[np.uint8]) -> float:
    """Share of cloudy pixels among those that were observed, per cent with two decimals."""
    observed = scl != 0
    return round(100.0 * float(np.isin(scl, CLOUD_CLASSES).sum()) / float(observed.sum()), 2)


def footprint(series: Series) -> tuple[Json, list[float]]:
    """Footprint of the grid in longitude and latitude, as a GeoJSON polygon and its bounding box."""
    west, south, east, north = series.bounds
    ring = [(west, south), (east, south), (east, north), (west, north), (west, south)]
    lonlat = rasterio.warp.transform_geom(CRS, "EPSG:4326", {"type": "Polygon", "coordinates": [ring]}, precision=7)
    lon, lat = zip(*lonlat["coordinates"][0], strict=True)
    polygon = {"type": "Polygon", "coordinates": [[list(p) for p in zip(lon, lat, strict=True)]]}
    return polygon, [min(lon), min(lat), max(lon), max(lat)]


def build_item(fine: Series, coarse: Series, time: int) -> Json:
    """Build the STAC item of one date with the assets of both pixel sizes."""
    day = fine.days[time]
    geometry, bbox = footprint(fine)
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [EXTENSIONS[name] for name in ("eo", "raster", "projection")],
        "id": item_id(day),
        "collection": COLLECTION,
        "geometry": geometry,
        "bbox": bbox,
        "properties": {
            "datetime": f"{day:%Y-%m-%dT%H:%M:%SZ}",
            "constellation": "sentinel-2",
            "instruments": ["msi"],
            "gsd": fine.gsd_m,
            "eo:cloud_cover": cloud_cover(coarse.pixels["SCL"][time]),
            "proj:code": CRS,
        },
        "links": [
            {"rel": "root", "href": "../../catalog.json", "type": "application/json"},
            {"rel": "parent", "href": "../collection.json", "type": "application/json"},
            {"rel": "collection", "href": "../collection.json", "type": "application/json"},
        ],
        "assets": item_assets(fine, day) | item_assets(coarse, day),
    }


def build_collection(fine: Series, coarse: Series) -> Json:
    """Build the STAC collection over all dates; the meaning of the SCL classes stands in its ``item_assets``."""
    interval = [f"{day:%Y-%m-%dT%H:%M:%SZ}" for day in (fine.days[0], fine.days[-1])]
    templates = {asset_key(b, s.gsd_m): asset_fields(b, s.gsd_m) for s in (fine, coarse) for b in s.pixels}
    for gsd_m in (fine.gsd_m, coarse.gsd_m):
        templates[asset_key("SCL", gsd_m)]["classification:classes"] = [
            {"value": value, "name": name, "title": name.replace("_", " ").capitalize(), "nodata": value == 0}
            for value, name in SCL_CLASSES
        ]
    return {
        "type": "Collection",
        "stac_version": "1.1.0",
        "stac_extensions": [EXTENSIONS[name] for name in ("eo", "raster", "classification")],
        "id": COLLECTION,
        "title": "Sentinel-2 L2A over a managed forest in Romania",
        "description": (
            f"Sentinel-2 L2A surface reflectance and scene classification, {len(fine.days)} dates on 1 km² of managed forest "
            "in Romania, at 10 m and at 20 m on exactly the same ground. Stored numbers / 10000 = reflectance on every date "
            "(all before processing baseline 04.00, so no offset); 0 is no data. Dates are days without an hour. "
            f"{ATTRIBUTION}; see ATTRIBUTION.txt."
        ),
        "keywords": ["sentinel-2", "time series", "forest", "super-resolution"],
        "license": "EUPL-1.2",
        "providers": [
            {"name": "ESA", "roles": ["producer"], "url": "https://sentinels.copernicus.eu"},
            {"name": "Joint Research Centre", "roles": ["processor"], "url": "https://pypi.org/project/nrt/0.0.5/"},
        ],
        "extent": {"spatial": {"bbox": [footprint(fine)[1]]}, "temporal": {"interval": [interval]}},
        "summaries": {"constellation": ["sentinel-2"], "instruments": ["msi"], "gsd": [fine.gsd_m, coarse.gsd_m]},
        "item_assets": templates,
        "links": [
            {"rel": "root", "href": "../catalog.json", "type": "application/json"},
            {"rel": "parent", "href": "../catalog.json", "type": "application/json"},
            {"rel": "license", "href": "../EUPL-1.2.txt", "type": "text/plain"},
            {"rel": "license", "href": LEGAL_NOTICE, "title": ATTRIBUTION},
            *({"rel": "item", "href": f"./items/{item_id(day)}.json", "type": "application/geo+json"} for day in fine.days),
        ],
    }


def build_catalog() -> Json:
    """Build the STAC catalogue at the top."""
    return {
        "type": "Catalog",
        "stac_version": "1.1.0",
        "id": "eocube-sample-sentinel2",
        "title": "The Sentinel-2 sample of eocube",
        "description": f"{ATTRIBUTION}; see ATTRIBUTION.txt.",
        "links": [
            {"rel": "root", "href": "./catalog.json", "type": "application/json"},
            {"rel": "child", "href": f"./{COLLECTION}/collection.json", "type": "application/json"},
        ],
    }


def encode_json(value: Json) -> bytes:
    """Encode as readable UTF-8."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def iter_members(fine: Series, coarse: Series) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of every file of the archive."""
    yield "catalog.json", encode_json(build_catalog())
    yield f"{COLLECTION}/collection.json", encode_json(build_collection(fine, coarse))
    for name in LICENCE_FILES:
        yield name, (LICENCE_FOLDER / name).read_bytes()
    for time, day in enumerate(fine.days):
        yield f"{COLLECTION}/items/{item_id(day)}.json", encode_json(build_item(fine, coarse, time))
        for series in (fine, coarse):
            for band, pixels in series.pixels.items():
                name = f"{COLLECTION}/cogs/{item_id(day)}/{asset_key(band, series.gsd_m)}.tif"
                yield name, encode_cog(pixels[time], series.transform)


def pack(members: dict[str, bytes]) -> bytes:
    """Zip members by sorted name, with fixed times and modes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in sorted(members.items()):
            info = zipfile.ZipInfo(name, ZIP_TIME)
            info.create_system = 3  # Unix, wherever the script runs
            info.external_attr = 0o644 << 16
            archive.writestr(info, content, zipfile.ZIP_DEFLATED, compresslevel=9)
    return buffer.getvalue()


def main(arguments: list[str] | None = None) -> None:
    """Write the archive and print its size."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="folder of the two netCDF files")
    parser.add_argument("archive", type=Path, help="zip file to write")
    asked = parser.parse_args(arguments)
    fine, coarse = read_series(asked.folder, 10), read_series(asked.folder, 20)
    check_nested(fine, coarse)
    content = pack(dict(iter_members(fine, coarse)))
    asked.archive.write_bytes(content)
    print(f"{asked.archive}: {len(fine.days)} dates, {len(content) / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
