"""A part of a STAC catalogue as a corpus: by area, by time, by bands."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Sequence
from typing import Any

from odc.geo.geobox import GeoBox

from eocube.corpora.stac import StacCorpus, StacOptions
from eocube.corpora.stac_items import JsonItem, bands_of_item, read_items, time_ms
from eocube.errors import CatalogError, GridError, UnknownNameError
from eocube.io.cubes import CubeSource
from eocube.jobs.open import OpenedCorpus, _grid

_DAY_MS = 86_400_000
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
    if mosaic not in ("solar_day", "none"):
        raise UnknownNameError("mosaic", mosaic, ["solar_day", "none"])
    items = read_items(catalog)
    if time is not None:
        items = _within(items, time)
    _check_bands(items, bands)
    box = geobox if geobox is not None else _grid(items, bbox, None, crs, resolution)
    if box is not None:
        items = _near(items, box)
    options = StacOptions(resampling=resampling, mosaic=mosaic, dn_offset=dn_offset)
    chosen = None if bands is None else tuple(bands)
    return OpenedCorpus(StacCorpus(items=tuple(items), bands=chosen, geobox=box, area=area, options=options))


def _check_bands(items: Sequence[JsonItem], bands: Sequence[str] | None) -> None:
    held = {(b.band.name, b.band.eo_name, b.key) for i in items for b in bands_of_item(i) if not b.is_scl}
    for name in bands or ():
        if not any(name in three for three in held):
            known = sorted({n for common, own, _ in held for n in (common, own) if n})
            raise UnknownNameError("band", name, known, f"{len(items)} items")


def parse_period(text: str) -> tuple[float, float]:
    """``FIRST/LAST`` → half-open [start, end) in ms since 1970-01-01 UTC; a date without a time means its whole day, and so on.

    CatalogError where an end is no ISO date or the first is after the last.
    """
    first, slash, last = text.partition("/")
    start = -float("inf") if first in ("", "..") and slash else _moment(first, text)[0]
    end = float("inf") if last in ("", "..") and slash else _moment(last if slash else first, text)[1]
    if start >= end:
        raise CatalogError(f"The time {text!r} ends before it begins; write FIRST/LAST.")
    return start, end


def _moment(text: str, whole: str) -> tuple[float, float]:
    """(start, end) in ms of what a text names: a year, a month, a day, or one millisecond."""
    part = re.fullmatch(r"(\d{4})(?:-(\d\d))?", text)
    try:
        if part is not None:
            year, month = int(part[1]), int(part[2] or 1)
            months = 12 * year + month - 1 + (1 if part[2] else 12)
            return _ms(dt.datetime(year, month, 1)), _ms(dt.datetime(months // 12, months % 12 + 1, 1))  # noqa: DTZ001
        when = dt.datetime.fromisoformat(text)
    except ValueError as e:
        raise CatalogError(f"{text!r} in time {whole!r} is no ISO date; write FIRST/LAST as in 2019-04-01/2019-09-30.") from e
    start = _ms(when)
    return start, start + (_DAY_MS if re.fullmatch(r"[\dW-]+", text) else 1)


def _ms(when: dt.datetime) -> int:
    return round((when if when.tzinfo else when.replace(tzinfo=dt.UTC)).timestamp() * 1000)


def _within(items: Sequence[JsonItem], time: str) -> list[JsonItem]:
    start, end = parse_period(time)
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
    except (TypeError, ValueError):
        return None
    n = len(numbers) // 2
    return numbers[0], numbers[1], numbers[n], numbers[n + 1]


def parse_geobox(text: str) -> GeoBox:
    """A grid from the address of an eocube cube, or from JSON with STAC's ``proj:code``, ``proj:transform``, ``proj:shape``.

    The transform has six numbers in rasterio's order (pixel width, 0, left, 0, minus pixel height, top); the shape is (y, x).
    """
    if not text.lstrip().startswith("{"):
        return CubeSource.open(text).frame().geobox
    try:
        from affine import Affine

        grid = json.loads(text)
        ny, nx = (int(n) for n in grid["proj:shape"])
        return GeoBox((ny, nx), Affine(*(float(v) for v in grid["proj:transform"][:6])), str(grid["proj:code"]))
    except Exception as e:
        raise GridError(
            f"{text!r} is no grid: {type(e).__name__}: {e}. Give the address of an eocube cube, or "
            '{"proj:code": "EPSG:32635", "proj:transform": [10, 0, 600000, 0, -10, 5000000], "proj:shape": [1000, 1000]}.'
        ) from e
