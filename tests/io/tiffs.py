"""Small GeoTIFFs whose pixels say where they are, and the two ways to read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox

from eocube.io.geotiff import GeoTiffReader
from eocube.io.rasters import RasterInfo, RasterioReader
from eocube.io.tiff import TiffImage, read_images
from eocube.model.scene import Asset
from eocube.testing.stac import CountingReader

SHAPE_YX = (150, 201)
"""Not whole blocks along either axis."""

TRANSFORM = Affine(10, 0, 600_000, 0, -10, 5_000_000)
GRID = GeoBox(SHAPE_YX, TRANSFORM, "EPSG:32635")
DEFLATE: dict[str, Any] = {"compress": "deflate", "predictor": 2}


class NoGdal:
    """A reader whose headers come from GDAL, and that fails where pixels are asked for: the fast path must not need it."""

    def __init__(self) -> None:
        self.headers = CountingReader(RasterioReader())

    def describe(self, href: str) -> RasterInfo:
        """See :class:`eocube.io.rasters.Reader`."""
        return self.headers.describe(href)

    def read(self, assets: Any, geobox: GeoBox, *, item_id: str, resampling: str) -> Any:
        """See :class:`eocube.io.rasters.Reader`."""
        raise AssertionError(f"{assets[0].href} was left to GDAL")


def positions(dtype: str, shape_yx: tuple[int, int] = SHAPE_YX) -> np.ndarray:
    """Numbers that say where they are, over the whole range of the dtype."""
    values = np.arange(np.prod(shape_yx)).reshape(shape_yx) * 2_654_435_761
    return (values / 7).astype(dtype) if dtype.startswith("f") else values.astype(dtype)


def write(path: Path, pixels: np.ndarray, *, block: int = 64, driver: str = "GTiff", **options: Any) -> Path:
    """A tiled file of ``pixels`` (y, x) or (band, y, x)."""
    bands = pixels if pixels.ndim == 3 else pixels[None]
    tiles = {"blocksize": block} if driver == "COG" else {"tiled": True, "blockxsize": block, "blockysize": block}
    tiles = tiles if options.get("tiled", True) else {}
    shape = {"count": len(bands), "height": bands.shape[1], "width": bands.shape[2], "dtype": str(bands.dtype)}
    given = {"crs": "EPSG:32635", "transform": TRANSFORM, **tiles, **options}
    with rasterio.open(path, "w", driver=driver, **{**shape, **given}) as file:
        file.write(bands)
    return path


def cog(path: Path, edge: int = 256, **options: Any) -> Path:
    """A Cloud-Optimised GeoTIFF with one overview, as catalogues hold them."""
    rng = np.random.default_rng(3)
    pixels = (1000 + np.cumsum(rng.integers(-9, 10, (edge, edge)), axis=1)).astype("uint16")
    return write(path, pixels, block=128, driver="COG", compress="deflate", predictor="yes", nodata=0, **options)


def fast(path: Path, box: GeoBox = GRID, **changes: Any) -> np.ndarray:
    """Read without GDAL's pixels."""
    asset = Asset(href=str(path), key="a", **changes)
    return GeoTiffReader(NoGdal()).read([asset], box, item_id="i", resampling="nearest")[0]


def read_image(path: str) -> TiffImage | None:
    """The full-resolution image of a file."""
    with open(path, "rb") as file:  # noqa: PTH123 - a path as text
        return next(iter(read_images(file.fileno())), None)


def plain(path: Path, box: GeoBox = GRID, **changes: Any) -> np.ndarray:
    """The same through GDAL."""
    return RasterioReader().read([Asset(href=str(path), key="a", **changes)], box, item_id="i", resampling="nearest")[0]
