"""What a STAC item must be before anything is made of it: every field that is used, of its type and within bounds.

Items come from anywhere. A wrong type, a number that no float holds or a name that could not be printed is refused here, with the
item, the asset and the field in the message, so that nothing behind has to expect it.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Mapping
from typing import Any

from eocube.errors import CatalogError

MAX_TEXT = 1_024
"""Longest id, name or code, in characters."""

MAX_HREF = 8_192
MAX_BANDS = 65_535
"""Most bands that a file can have (TIFF's own limit)."""

MAX_SIDE_PX = 2**24
"""Longest side of a grid: the Earth's equator at 2.4 m. Coordinates of a longer one would not fit into memory."""

FIRST_YEAR, LAST_YEAR = 1678, 2261
"""Whole years that xarray's nanosecond dates can hold."""

_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, line ends, reversals of writing, halves of characters: they forge messages, or cannot be written."""

_TEXTS = (
    "constellation", "platform", "license", "grid:code", "s2:mgrs_tile", "s2:tile_id",
    "mgrs:latitude_band", "mgrs:grid_square",
)  # fmt: skip
_VERSIONS = ("s2:processing_baseline", "processing:version")
_ROLE = "a list of texts"
_MEND = "Mend the metadata, or leave the item out."


def shown(value: Any) -> str:
    """A value in a few printable characters, whatever it is."""
    if isinstance(value, str):
        return repr(value) if len(value) <= 80 else f"{value[:60]!r}… ({len(value):,} characters)"
    if isinstance(value, int) and value.bit_length() > 100:
        return f"an integer of {value.bit_length():,} bits"
    if isinstance(value, Mapping):
        return f"an object of {len(value):,} fields"
    if isinstance(value, list | tuple):
        short = len(value) <= 9 and not any(isinstance(v, Mapping | list | tuple) for v in value)
        return f"[{', '.join(map(shown, value))}]" if short else f"a list of {len(value):,}"
    return repr(value) if value is None or isinstance(value, bool | int | float) else f"a {type(value).__name__}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


class Fields:
    """The fields of one JSON object of an item, each taken as what it must be; CatalogError where it is not. null is absent."""

    def __init__(self, values: Mapping[str, Any], where: str):
        self.values, self.where = values, where

    def refusal(self, name: str, expected: str) -> CatalogError:
        """The error for a field that is something else."""
        return CatalogError(f"{self.where}: {name} is {shown(self.values.get(name))}, expected {expected}. {_MEND}")

    def text(self, name: str, most: int = MAX_TEXT) -> str | None:
        """A printable text of at most so many characters."""
        value = self.values.get(name)
        if value is None:
            return None
        if not isinstance(value, str):
            raise self.refusal(name, "a text")
        if len(value) > most:
            raise self.refusal(name, f"at most {most:,} characters")
        if _UNPRINTABLE.search(value):
            raise self.refusal(name, "a text without control characters")
        return value

    def number(self, name: str, *, finite: bool = True) -> float | None:
        """A number that a float holds; a text that spells one counts (``"nan"`` is how JSON says NaN)."""
        value = self.values.get(name)
        if value is None:
            return None
        try:
            found = float("none" if isinstance(value, bool) else value)
        except (TypeError, ValueError, OverflowError) as e:
            raise self.refusal(name, "a number") from e
        if finite and not math.isfinite(found):
            raise self.refusal(name, "a finite number")
        return found

    def listed(self, name: str, expected: str = "a list", most: int = MAX_BANDS) -> list[Any]:
        """A list; empty where there is none."""
        value = self.values.get(name)
        if value is None:
            return []
        if not isinstance(value, list | tuple):
            raise self.refusal(name, expected)
        if len(value) > most:
            raise self.refusal(name, f"at most {most:,} entries")
        return list(value)

    def objects(self, name: str) -> list[Mapping[str, Any]]:
        """A list of objects."""
        found = self.listed(name, "a list of objects")
        for n, value in enumerate(found):
            if not isinstance(value, Mapping):
                raise CatalogError(f"{self.where}: entry {n} of {name} is {shown(value)}, expected an object. {_MEND}")
        return found

    def numbers(self, name: str, least: int) -> list[float] | None:
        """A list of at least so many finite numbers."""
        found = self.listed(name, f"a list of {least} numbers")
        if self.values.get(name) is None:
            return None
        try:
            numbers = [float(v) for v in found if _is_number(v)]
        except OverflowError as e:
            raise self.refusal(name, "numbers that a float holds") from e
        if len(numbers) != len(found) or len(found) < least or not all(map(math.isfinite, numbers)):
            raise self.refusal(name, f"a list of {least} finite numbers")
        return numbers


def check_item(item: Mapping[str, Any]) -> None:
    """CatalogError where a field that eocube uses is missing, of another type, or out of bounds; it names item and field."""
    name = item.get("id")
    if not isinstance(name, str) or not name or len(name) > MAX_TEXT or _UNPRINTABLE.search(name):
        raise CatalogError(
            f"A STAC item has id {shown(name)}; an id must be a non-empty text of at most {MAX_TEXT:,} characters, without "
            f"control characters. {_MEND}"
        )
    where = f"Item {shown(name)}"
    Fields(item, where).text("collection")
    if not isinstance(item.get("properties"), Mapping):
        raise CatalogError(f"{where} has no properties object: found {shown(item.get('properties'))}.")
    _check_properties(Fields(item["properties"], where))
    time_ms(item)
    for key, asset in item["assets"].items():
        _check_asset(where, key, asset)


def _check_properties(p: Fields) -> None:
    for name in _TEXTS:
        p.text(name)
    for name in _VERSIONS:
        if not _is_number(p.values.get(name)):
            p.text(name)
    cover = p.number("eo:cloud_cover")
    if cover is not None and abs(cover) > 1e6:
        raise p.refusal("eo:cloud_cover", "a percentage")
    zone = p.number("mgrs:utm_zone")
    if zone is not None and zone not in range(1, 61):
        raise p.refusal("mgrs:utm_zone", "a number from 1 to 60")
    if not isinstance(p.values.get("earthsearch:boa_offset_applied"), bool | None):
        raise p.refusal("earthsearch:boa_offset_applied", "true or false")


def _check_asset(where: str, key: Any, asset: Any) -> None:
    if not isinstance(key, str) or not key or len(key) > MAX_TEXT or _UNPRINTABLE.search(key):
        raise CatalogError(
            f"{where} has an asset named {shown(key)}; a name must be a non-empty text of at most {MAX_TEXT:,} characters, "
            "without control characters."
        )
    here = f"{where}, asset {shown(key)}"
    if not isinstance(asset, Mapping):
        raise CatalogError(
            f"{here} is {shown(asset)}, expected an object with an href. Mend the metadata, or leave the item out."
        )
    fields = Fields(asset, here)
    fields.text("type")
    if not all(isinstance(role, str) for role in fields.listed("roles", _ROLE)):
        raise fields.refusal("roles", _ROLE)


def time_ms(item: Mapping[str, Any]) -> int:
    """Acquisition time in ms: ``datetime``, or ``start_datetime`` where that is null; without a time zone it is UTC.

    CatalogError where neither is a time, where the item ends before it starts, or where xarray's dates do not reach.
    """
    p, name = item["properties"], shown(item["id"])
    first = "datetime" if p.get("datetime") is not None else "start_datetime"
    when = _moment(p.get(first), name)
    if first == "start_datetime" and p.get("end_datetime") is not None and _moment(p["end_datetime"], name) < when:
        raise CatalogError(
            f"Item {name} has no usable datetime: found start_datetime {shown(p[first])} after end_datetime "
            f"{shown(p['end_datetime'])}. {_MEND}"
        )
    return when


def _moment(text: Any, name: str) -> int:
    try:
        when = dt.datetime.fromisoformat(text)
    except (ValueError, TypeError) as e:
        raise CatalogError(
            f"Item {name} has no usable datetime: found {shown(text)}. A cube needs a date for every item: datetime, or "
            f"start_datetime where that is null. {_MEND}"
        ) from e
    if not FIRST_YEAR <= when.year <= LAST_YEAR:
        raise CatalogError(
            f"Item {name} has no usable datetime: found {shown(text)}, and the dates of a cube are from {FIRST_YEAR} to "
            f"{LAST_YEAR}. {_MEND}"
        )
    when = when if when.tzinfo else when.replace(tzinfo=dt.UTC)
    return round(when.timestamp() * 1000)
