"""Real areas of WorldStrat for synthetic copies: a table that ships, and the size of the low-resolution files over bounds.

Names, bounds, classes and published splits are WorldStrat's, CC BY 4.0 (``data/worldstrat_aois.ATTRIBUTION.txt``).
"""

from __future__ import annotations

import csv
import gzip
import io
from dataclasses import dataclass
from importlib import resources

from pyproj import Transformer

from eocube.corpora.worldstrat_tables import Bounds


@dataclass(frozen=True, kw_only=True)
class SampleArea:
    """A real area of WorldStrat, of the table that ships."""

    name: str
    """As the folders are called."""

    bounds: Bounds
    """Degrees; of a tile of an order: a ninth of the order's, derived."""

    source: str
    """``Landcover``, ``UNHCR``, ``ASMSpotter`` or ``Amnesty``."""

    ipcc: str
    """IPCC class; "" is snow or ice."""

    smod: int
    """GHS-SMOD class."""

    product_id: str
    """Airbus' number of the SPOT product."""

    published: tuple[str, ...]
    """Its splits in the rows of Zenodo v1's table; several where the tile is repeated."""


def read_sample_areas() -> tuple[SampleArea, ...]:
    """The areas that ship: some 260, all sources in turn, whole orders of tiles; the folder that is no area is the last.

    Names, bounds and classes are WorldStrat's, CC BY 4.0: ``data/worldstrat_aois.ATTRIBUTION.txt``.
    """
    content = (resources.files("eocube") / "corpora" / "data" / "worldstrat_aois.csv.gz").read_bytes()
    return tuple(
        SampleArea(
            name=row["name"],
            bounds=(float(row["west"]), float(row["south"]), float(row["east"]), float(row["north"])),
            source=row["source"],
            ipcc=row["ipcc"],
            smod=int(row["smod"]),
            product_id=row["product_id"],
            published=tuple(filter(None, row["published"].split("+"))),
        )
        for row in csv.DictReader(io.StringIO(gzip.decompress(content).decode()))
    )


def lr_shape_yx(bounds: Bounds) -> tuple[int, int]:
    """Pixels of the low-resolution files over ``bounds``: 10 m along the sides, measured in the UTM zone of the centre.

    worldstrat/worldstrat at 39fe223, ``dataset_generation/SentinelDownloader.py``, through sentinelhub's ``bbox_to_dimensions``.
    """
    west, south, east, north = bounds
    zone = int(((west + east) / 2 + 180) // 6) % 60 + 1
    crs = f"EPSG:326{zone:02d}"  # south of the equator too: only the false northing differs, which lengths do not have
    x, y = Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform([west, east], [south, north])
    return round((y[1] - y[0]) / 10), round((x[1] - x[0]) / 10)
