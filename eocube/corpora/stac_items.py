"""STAC JSON → plain asset descriptions: which file and band holds what, on which grid, in which numbers.

Understands STAC 1.0 (``eo:bands``, ``raster:bands``, ``proj:epsg``) and 1.1 (``bands``, ``proj:code``) side by side.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import urljoin, urlsplit

from affine import Affine
from odc.geo.geobox import GeoBox

from eocube.errors import CatalogError
from eocube.model.bands import SENTINEL2_BANDS, Band
from eocube.model.frame import norm_geobox

JsonItem = Mapping[str, Any]
_RASTER_TYPES = ("image/tiff", "image/jp2", "image/vnd.stac.geotiff")
_PICTURE = re.compile(r"^(visual|tci|preview|overview|thumbnail|pvi)\b|^(visual|tci|preview|overview)[_-]", re.IGNORECASE)
"""Assets that are pictures of a scene, whatever their roles say."""

_SENTINEL2_NAMES: dict[str, Band] = {
    **{eo_name.lower(): band for eo_name, band in SENTINEL2_BANDS.items()},
    **{band.name: band for band in SENTINEL2_BANDS.values()},
    # Earth Search v1 and its "-jp2" twins call the three red edges so.
    **{f"rededge{i}": SENTINEL2_BANDS[eo_name] for i, eo_name in enumerate(("B05", "B06", "B07"), start=1)},
}
"""What providers call Sentinel-2's bands, in lower case."""

_TILE_ID = re.compile(r"_T(\d\d[A-Z]{3})_")
"""The tile in ``s2:tile_id``, which is otherwise different for every scene."""

_SCL_CLASSIFICATION = re.compile(r"^scl\b|^scl[_-]", re.IGNORECASE)


class BandOfFile(NamedTuple):
    """One band of one asset, as the item describes it."""

    key: str
    href: str
    bidx: int
    band: Band
    is_scl: bool
    geobox: GeoBox | None
    dtype: str | None
    nodata: float | None
    scale: float | None
    offset: float | None
    unnamed: bool = False
    """Whether the metadata does not say what bands the file has."""


def read_items(source: Any) -> list[JsonItem]:
    """Items as dictionaries with absolute hrefs.

    ``source`` is a path or URL of a catalogue, collection, item or ItemCollection, such a dictionary, an iterable of items
    (dictionaries or pystac), or a pystac / pystac-client object. CatalogError where it holds no item.
    """
    items = list(_iter_items(source))
    if not items:
        raise CatalogError(f"No STAC item was found in {_shown(source)}. Check the address, or the filter that made the list.")
    seen: dict[str, JsonItem] = {}
    for item in items:
        check_item(item)
        seen.setdefault(f"{item.get('collection')}/{item['id']}", item)
    return list(seen.values())


def _shown(source: Any) -> str:
    return source if isinstance(source, str) else type(source).__name__


def _iter_items(source: Any) -> Iterator[JsonItem]:
    if hasattr(source, "__fspath__"):
        source = source.__fspath__()
    if isinstance(source, str):
        yield from _from_json(_load(source), source)
    elif isinstance(source, Mapping):
        yield from _from_json(source, "")
    elif hasattr(source, "items") and callable(source.items):  # pystac-client's ItemSearch
        yield from _iter_items(list(source.items()))
    elif hasattr(source, "get_items"):  # pystac's Catalog and Collection
        yield from _iter_items(list(source.get_items(recursive=True)))
    elif hasattr(source, "to_dict"):  # a pystac Item or ItemCollection
        home = source.get_self_href() if hasattr(source, "get_self_href") else ""
        yield from _from_json(source.to_dict(), home or "")
    elif isinstance(source, Iterable):
        for one in source:
            yield from _iter_items(one)
    else:
        raise CatalogError(f"A {type(source).__name__} is not a STAC catalogue, item or list of items.")


def _load(href: str) -> Any:
    import fsspec

    try:
        with fsspec.open(href, "rt", encoding="utf-8") as f:
            return json.load(f)
    except FileNotFoundError as e:
        raise CatalogError(f"No STAC document at {href}: the file does not exist.") from e
    except (ValueError, OSError) as e:
        raise CatalogError(f"The STAC document at {href} could not be read: {type(e).__name__}: {e}") from e


def _from_json(doc: Any, href: str) -> Iterator[JsonItem]:
    kind = doc.get("type") if isinstance(doc, Mapping) else None
    if kind == "Feature":
        yield _absolute(doc, href)
    elif kind == "FeatureCollection":
        for feature in doc.get("features", []):
            yield _absolute(feature, href)
    elif kind in {"Catalog", "Collection"}:
        for link in doc.get("links", []):
            if link.get("rel") in {"child", "item", "items"}:
                target = _join(href, str(link.get("href")))
                for item in _from_json(_load(target), target):
                    yield _with_licence(item, doc)
    else:
        raise CatalogError(
            f"{href or 'The given object'} is not a STAC Item, ItemCollection, Catalog or Collection: its type is {kind!r}."
        )


def _with_licence(item: JsonItem, collection: Mapping[str, Any]) -> JsonItem:
    """An item inherits the licence that its collection states."""
    properties = item.get("properties")
    if not collection.get("license") or not isinstance(properties, Mapping):
        return item
    return {**item, "properties": {"license": collection["license"], **properties}}


def _absolute(item: Any, href: str) -> JsonItem:
    if not isinstance(item, Mapping) or not isinstance(item.get("assets"), Mapping):
        raise CatalogError(f"An item in {href or 'the given list'} has no assets object.")
    base = href or next((str(x.get("href")) for x in item.get("links", []) if x.get("rel") == "self"), "")
    assets = {k: {**a, "href": _join(base, str(a.get("href", "")))} for k, a in item["assets"].items() if isinstance(a, Mapping)}
    return {**item, "assets": assets}


def _join(base: str, href: str) -> str:
    if urlsplit(href).scheme or href.startswith("/") or not base:
        return href
    if urlsplit(base).scheme in {"http", "https"}:
        return urljoin(base, href)
    from posixpath import join, normpath

    scheme, mark, rest = base.rpartition("://")
    return f"{scheme}{mark}{normpath(join(rest.rpartition('/')[0], href))}"


def check_item(item: JsonItem) -> None:
    """CatalogError where id, properties or datetime are missing or of another type."""
    name = item.get("id")
    if not isinstance(name, str) or not name:
        raise CatalogError(f"A STAC item has id {name!r}; an id must be a non-empty text.")
    if not isinstance(item.get("properties"), Mapping):
        raise CatalogError(f"Item {name!r} has no properties object.")
    time_ms(item)


def time_ms(item: JsonItem) -> int:
    """Acquisition time in ms: ``datetime``, or ``start_datetime`` where that is null. CatalogError where neither is a time."""
    p = item["properties"]
    text: Any = p.get("datetime") or p.get("start_datetime")
    try:
        when = dt.datetime.fromisoformat(text)
    except (ValueError, TypeError) as e:
        raise CatalogError(
            f"Item {item['id']!r} has no usable datetime: found {text!r}. A cube needs a date for every item."
        ) from e
    when = when if when.tzinfo else when.replace(tzinfo=dt.UTC)
    return round(when.timestamp() * 1000)


def bands_of_item(item: JsonItem) -> list[BandOfFile]:
    """Every raster band that the item's assets hold; of Sentinel-2 the reflectances and the scene classification."""
    found = [b for key, asset in item["assets"].items() if _is_raster(key, asset) for b in _bands_of_asset(item, key, asset)]
    if is_sentinel2(item):  # aerosol, water vapour, cloud shares: neither reflectance nor classes, with scales of their own
        found = [b for b in found if b.is_scl or b.band in _SENTINEL2_NAMES.values()]
    return found


def _is_raster(key: str, asset: Mapping[str, Any]) -> bool:
    kind = str(asset.get("type") or "").lower().split(";")[0]
    roles = set(asset.get("roles") or [])
    if roles & {"thumbnail", "overview", "metadata", "visual"} or _PICTURE.match(key):
        return False
    return kind in _RASTER_TYPES or (not kind and str(asset["href"]).lower().endswith((".tif", ".tiff", ".jp2")))


def _bands_of_asset(item: JsonItem, key: str, asset: Mapping[str, Any]) -> list[BandOfFile]:
    described = asset.get("bands") or []
    eo, raster = asset.get("eo:bands") or [], asset.get("raster:bands") or []
    n = max(len(described), len(eo), len(raster), 1)
    grid = declared_grid(item, asset)
    out = []
    for i in range(n):
        merged: dict[str, Any] = {}
        for source in (asset, _at(raster, i), _at(eo, i), _at(described, i)):
            merged |= {k.removeprefix("raster:").removeprefix("eo:"): v for k, v in source.items() if v is not None}
        name = merged.get("name") if (described or eo) else None
        own = key if n == 1 else f"{key}_{i + 1}"
        is_scl = bool(_SCL_CLASSIFICATION.match(key) or _SCL_CLASSIFICATION.match(str(name or "")))
        out.append(
            BandOfFile(
                key=key,
                href=str(asset["href"]),
                bidx=i + 1,
                band=Band(name="scl") if is_scl else _band(item, name, merged.get("common_name"), own),
                is_scl=is_scl,
                geobox=grid,
                dtype=merged.get("data_type"),
                nodata=_number(merged.get("nodata")),
                scale=_number(merged.get("scale")),
                offset=_number(merged.get("offset")),
                unnamed=not (described or eo or raster),
            )
        )
    return out


def _at(values: list[Any], i: int) -> Mapping[str, Any]:
    return values[i] if i < len(values) and isinstance(values[i], Mapping) else {}


def _band(item: JsonItem, name: str | None, common: str | None, key: str) -> Band:
    """Sentinel-2's own names give unique common names (``rededge071``); other sensors' bands take theirs, or their own name."""
    if is_sentinel2(item):
        for candidate in (name, key.split("_", maxsplit=1)[0], key):
            known = _SENTINEL2_NAMES.get(str(candidate).lower())
            if known is not None:
                return known
    own = name or key
    return Band(name=str(common or own), eo_name=str(own))


def _number(value: Any) -> float | None:
    if value is None or isinstance(value, bool):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def declared_grid(item: JsonItem, asset: Mapping[str, Any]) -> GeoBox | None:
    """The grid that ``proj:`` fields give, on the asset or its item; None where they are incomplete."""
    p = item["properties"]

    def field(name: str) -> Any:
        return asset.get(name) if asset.get(name) is not None else p.get(name)

    epsg = field("proj:epsg")
    crs = field("proj:code") or (f"EPSG:{epsg}" if epsg else None) or field("proj:wkt2")
    shape, transform = field("proj:shape"), field("proj:transform")
    if crs is None or shape is None or transform is None:
        return None
    try:
        ny, nx = (int(n) for n in shape)
        return norm_geobox(GeoBox((ny, nx), Affine(*(float(v) for v in list(transform)[:6])), str(crs)))
    except Exception as e:
        raise CatalogError(
            f"Item {item['id']!r} declares a grid that makes no sense: {crs}, shape {shape}, transform {transform}: {e}"
        ) from e


def tile_name(item: JsonItem) -> str | None:
    """The tile grid's own name for where an item lies (MGRS), None where it gives none."""
    p = item["properties"]
    code = p.get("grid:code") or p.get("s2:mgrs_tile")
    if not code and p.get("mgrs:utm_zone"):
        code = f"{int(p['mgrs:utm_zone']):02d}{p.get('mgrs:latitude_band', '')}{p.get('mgrs:grid_square', '')}"
    if not code and (named := _TILE_ID.search(str(p.get("s2:tile_id", "")))):
        code = named.group(1)
    return str(code).removeprefix("MGRS-") if code else None


def is_sentinel2(item: JsonItem) -> bool:
    """Whether an item is Sentinel-2: by constellation, platform or a known collection."""
    p = item["properties"]
    said = f"{p.get('constellation', '')} {p.get('platform', '')} {item.get('collection', '')}".lower()
    return bool(re.search(r"sentinel-?2|\bs2[abc]\b", said))
