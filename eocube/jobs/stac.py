"""A part of a STAC catalogue as a corpus: by area, by time, by bands."""

from __future__ import annotations

import datetime as dt
import json
import math
import os
from collections.abc import Sequence
from typing import Any

from odc.geo.geobox import GeoBox

from eocube.corpora.stac import StacCorpus, require_place
from eocube.corpora.stac_check import time_ms
from eocube.corpora.stac_items import JsonItem, bands_of_item, read_items
from eocube.errors import ArgumentError, CatalogError, GridError, UnknownNameError
from eocube.io.blobs import open_blobs
from eocube.io.cubes import CubeSource
from eocube.jobs.open import OpenedCorpus, asked_grid, some_or_all, stac_options
from eocube.jobs.period import parse_period

Bbox = tuple[float, float, float, float]


def open_stac(
    catalog: Any,
    *,
    bands: Sequence[str] | None = None,
    geobox: GeoBox | None = None,
    bbox: Bbox | None = None,
    crs: Any = None,
    resolution: float | None = None,
    area: str = "area",
    time: str | None = None,
    resampling: str = "nearest",
    mosaic: str = "solar_day",
    dn_offset: int | None = None,
) -> OpenedCorpus:
    """Part of a catalogue as a corpus.

    Parameters
    ----------
    catalog
        As the root of :func:`eocube.open_corpus`.
    bands
        Common names, sensor names or asset keys; every one must be in some item.
    geobox
        One area on this grid instead of one site a tile.
    bbox, crs, resolution
        The same by west, south, east, north in degrees; ``crs`` and ``resolution`` default to the items' own.
    area
        Name of the one site when an area is given.
    time
        ``FIRST/LAST``, ISO years, months, dates or times, both included; ``..`` or nothing leaves an end open; one alone is that
        year, month or day.
    resampling, mosaic, dn_offset
        As in :func:`eocube.load_stac`.

    Raises
    ------
    CatalogError, UnknownNameError, GridError
        Before any pixel is read.
    """
    options, bands = stac_options(resampling=resampling, mosaic=mosaic, dn_offset=dn_offset), some_or_all("bands", bands)
    period = None if time is None else parse_period(time)
    items = read_items(catalog)
    if period is not None:
        items = _within(items, period, str(time))
    _check_bands(items, bands)
    box = asked_grid(items, geobox=geobox, bbox=bbox, crs=crs, resolution=resolution)
    if box is not None:
        items = _near(items, box)
    chosen = None if bands is None else tuple(bands)
    return OpenedCorpus(StacCorpus(items=tuple(items), bands=chosen, geobox=box, area=area, options=options))


def _check_bands(items: Sequence[JsonItem], bands: Sequence[str] | None) -> None:
    held = {(b.band.name, b.band.eo_name, b.key) for i in items for b in bands_of_item(i) if not b.is_scl}
    for name in bands or ():
        if not any(name in three for three in held):
            known = sorted({n for common, own, _ in held for n in (common, own) if n})
            raise UnknownNameError("band", name, known, f"{len(items)} items")


def _within(items: Sequence[JsonItem], period: tuple[float, float], time: str) -> list[JsonItem]:
    start, end = period
    kept = [i for i in items if start <= time_ms(i) < end]
    if not kept:
        days = sorted(dt.datetime.fromtimestamp(time_ms(i) / 1000, dt.UTC).date().isoformat() for i in items)
        raise CatalogError(f"No item lies in the time {time!r}; the {len(items)} items are from {days[0]} to {days[-1]}.")
    return kept


def _near(items: Sequence[JsonItem], box: GeoBox) -> list[JsonItem]:
    """Items whose stated box meets the area; those without one, or across the antimeridian, are kept."""
    west, south, east, north = box.geographic_extent.boundingbox.bbox
    kept, stated = [], []
    for item in items:
        corners = _corners(item.get("bbox"))
        if corners is None or corners[0] > corners[2]:
            kept.append(item)
            continue
        stated.append(corners)
        left, below, right, above = corners
        if left <= east and right >= west and below <= north and above >= south:
            kept.append(item)
    if not kept:
        asked = (west, south, east, north)
        found = tuple(pick(c[i] for c in stated) for i, pick in enumerate((min, min, max, max)))
        raise CatalogError(
            f"None of the {len(items)} items meets the area {_degrees(asked)} (west, south, east, north); they lie within "
            f"{_degrees(found)}. Mind the order of the four numbers."
        )
    return kept


def _degrees(box: Sequence[float]) -> str:
    return ", ".join(f"{v:.4f}" for v in box)


def _corners(bbox: Any) -> Bbox | None:
    """West, south, east, north of a STAC bbox with or without heights; None where it is none."""
    if not isinstance(bbox, list | tuple) or len(bbox) not in (4, 6):
        return None
    try:
        numbers = [float(v) for v in bbox]
    except (TypeError, ValueError, OverflowError):
        return None
    if not all(map(math.isfinite, numbers)):
        return None
    n = len(numbers) // 2
    return numbers[0], numbers[1], numbers[n], numbers[n + 1]


def parse_geobox(text: str) -> GeoBox:
    """A grid from the address of an eocube cube, or from JSON with STAC's ``proj:code``, ``proj:transform``, ``proj:shape``.

    The JSON may stand in a file, whose path is given then. The transform has six numbers in rasterio's order (pixel width, 0,
    left, 0, minus pixel height, top); the shape is (y, x).

    Raises
    ------
    ArgumentError
        If there is no such file.
    GridError
        If the JSON is no grid.
    StoreNotFoundError, CubeError
        If no cube is at an address.
    """
    if is_grid_file(text):
        text = _read(text)
    elif not text.lstrip().startswith("{"):
        return CubeSource.open(text).frame().geobox
    try:
        from affine import Affine

        grid = json.loads(text)
        ny, nx = (int(n) for n in grid["proj:shape"])
        box = GeoBox((ny, nx), Affine(*(float(v) for v in grid["proj:transform"][:6])), str(grid["proj:code"]))
        require_place(box)
    except Exception as e:
        raise GridError(
            f"{text[:300]!r} is no grid: {type(e).__name__}: {e}. Give the address of an eocube cube, or (or in a file) "
            '{"proj:code": "EPSG:32635", "proj:transform": [10, 0, 600000, 0, -10, 5000000], "proj:shape": [1000, 1000]}.'
        ) from e
    return box


def is_grid_file(text: str) -> bool:
    """Whether a grid is given by the path of a JSON file; a cube is a folder."""
    return not text.lstrip().startswith("{") and (text.lower().endswith(".json") or os.path.isfile(text))  # noqa: PTH113


def _read(path: str) -> str:
    folder, name = os.path.split(path)
    body = open_blobs(folder or ".").get(name)
    if body is None:
        raise ArgumentError(
            f"No file was found at {path}. Give a file of JSON with proj: fields, such JSON itself, or the address of an eocube "
            "cube: STORE/cubes/<cube>/<product>."
        )
    return body.decode(errors="replace")
