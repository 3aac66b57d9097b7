"""Cloud-Optimised GeoTIFFs with the texture of real Sentinel-2 pixels, as a static STAC catalogue.

SYNTHETIC scenes: each is a mosaic of 1 km² pieces of the sample that ships, every piece drawn from another date and turned or
mirrored, so that no piece comes twice in a file and a compressor finds no repeats that real scenes lack. Numbers are those of
processing baseline 04.00 and later (DN + 1000, 0 is no data).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from affine import Affine

import eocube

BANDS = {"B02": "blue", "B03": "green", "B04": "red", "B08": "nir"}
CRS = "EPSG:32634"
CORNER_XY = (600_000, 5_100_000)
GSD_M = 10
OFFSET_DN = 1000


def make_catalog(folder: Path, *, dates: int, edge_px: int, block_px: int) -> Path:
    """Write ``dates`` scenes of ``edge_px`` squared with tiles of ``block_px``; the path of the catalogue."""
    pieces = _pieces(folder / "sample")
    for i in range(dates):
        item = _item(i, edge_px)
        for name, pixels in zip(BANDS, _mosaic(pieces, edge_px, seed=i), strict=True):
            _write_cog(folder / f"{item['id']}_{name}.tif", pixels, block_px)
        (folder / f"{item['id']}.json").write_text(json.dumps(item))
    links = [{"rel": "item", "href": f"./S2_SYNTHETIC_{i:02d}.json"} for i in range(dates)]
    catalog = {"type": "Catalog", "stac_version": "1.1.0", "id": "mosaics", "description": __doc__, "links": links}
    path = folder / "catalog.json"
    path.write_text(json.dumps(catalog))
    return path


def items_of(folder: Path) -> list[dict[str, Any]]:
    """The items of :func:`make_catalog`, with absolute hrefs."""
    items = [json.loads(p.read_text()) for p in sorted(folder.glob("S2_SYNTHETIC_*.json"))]
    for item in items:
        for asset in item["assets"].values():
            asset["href"] = str(folder / asset["href"])
    return items


def _pieces(folder: Path) -> npt.NDArray[np.uint16]:
    """The 10 m bands of the sample, (date, band, y, x), as baseline 04.00 would have stored them."""
    corpus = eocube.open_corpus("stac", eocube.sample_corpus("sentinel2", folder))
    cube = corpus.cube(corpus.corpus.sites[0].name, "10m")
    dn: npt.NDArray[np.uint16] = cube["data"].sel(band=list(BANDS.values())).to_numpy()
    return dn


def _mosaic(pieces: npt.NDArray[np.uint16], edge_px: int, *, seed: int) -> npt.NDArray[np.uint16]:
    """(band, y, x) of different pieces side by side."""
    n_dates, n_bands, height, width = pieces.shape
    across, down = -(-edge_px // width), -(-edge_px // height)
    drawn = np.random.default_rng(seed).choice(n_dates * 8, across * down, replace=False)
    out = np.empty((n_bands, down * height, across * width), np.uint16)
    for k, pick in enumerate(drawn):
        date, symmetry = divmod(int(pick), 8)
        piece = np.rot90(pieces[date], symmetry % 4, axes=(1, 2))
        y, x = divmod(k, across)
        out[:, y * height : (y + 1) * height, x * width : (x + 1) * width] = piece[:, :, ::-1] if symmetry > 3 else piece
    return np.ascontiguousarray(out[:, :edge_px, :edge_px])


def _write_cog(path: Path, pixels: npt.NDArray[np.uint16], block_px: int) -> None:
    transform = Affine(GSD_M, 0, CORNER_XY[0], 0, -GSD_M, CORNER_XY[1])
    profile = {"driver": "COG", "dtype": "uint16", "count": 1, "height": pixels.shape[0], "width": pixels.shape[1]}
    options = {"compress": "deflate", "predictor": "yes", "blocksize": block_px, "overview_resampling": "average"}
    with rasterio.open(path, "w", crs=CRS, transform=transform, nodata=0, **profile, **options) as file:
        file.write(pixels, 1)


def _item(number: int, edge_px: int) -> dict[str, Any]:
    item_id = f"S2_SYNTHETIC_{number:02d}"
    x, y = CORNER_XY
    (west, east), (south, north) = rasterio.warp.transform(CRS, "EPSG:4326", [x, x + 10 * edge_px], [y - 10 * edge_px, y])
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    grid = {"proj:code": CRS, "proj:epsg": int(CRS[5:]), "proj:shape": [edge_px, edge_px]}
    grid["proj:transform"] = [GSD_M, 0, x, 0, -GSD_M, y]
    raster = {"data_type": "uint16", "nodata": 0, "scale": 1e-4, "offset": -OFFSET_DN * 1e-4, "spatial_resolution": GSD_M}
    assets = {
        name: {
            "href": f"{item_id}_{name}.tif",
            "type": "image/tiff; application=geotiff; profile=cloud-optimized",
            "roles": ["data"],
            "eo:bands": [{"name": name, "common_name": common}],
            "raster:bands": [raster],
            **grid,
        }
        for name, common in BANDS.items()
    }
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": [
            f"https://stac-extensions.github.io/{name}/schema.json"
            for name in ("eo/v1.1.0", "raster/v1.1.0", "projection/v1.1.0")
        ],
        "id": item_id,
        "collection": "synthetic-mosaics",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "bbox": [west, south, east, north],
        "properties": {
            "datetime": f"2024-01-{1 + 2 * number:02d}T09:30:00Z",
            "platform": "sentinel-2a",
            "s2:processing_baseline": "05.10",
            **grid,
        },
        "links": [],
        "assets": assets,
    }
