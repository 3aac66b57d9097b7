"""STAC JSON → plain asset descriptions: which file and band holds what, on which grid, in which numbers.

Understands STAC 1.0 (``eo:bands``, ``raster:bands``, ``proj:epsg``) and 1.1 (``bands``, ``proj:code``) side by side.
"""

from __future__ import annotations

import json
import math
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import urljoin, urlsplit

from affine import Affine
from odc.geo.geobox import GeoBox

from eocube.corpora.stac_check import MAX_HREF, MAX_SIDE_PX, Fields, check_item, shown, time_ms
from eocube.errors import CatalogError
from eocube.io.rasters import can_hold
from eocube.model.bands import SENTINEL2_BANDS, Band
from eocube.model.frame import crs_code, norm_geobox

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

INTEGERS = ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64")
FLOATS = ("float32", "float64")

_SCHEMES = {
    "file", "http", "https", "ftp", "s3", "s3a", "gs", "gcs", "az", "azure", "abfs", "abfss", "adl", "oss", "zip", "tar", "gzip",
}  # fmt: skip

_HEAD_BYTES = 65_536
_MAX_DOCUMENT_BYTES = 2**30
_MAX_ITEMS = 100_000_000
_MAX_DEPTH = 100
_MAX_WKT = 100_000
_TINY = 1e-30

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
    (dictionaries or pystac), or a pystac / pystac-client object. An item that comes twice counts once.

    CatalogError where it holds no item, where a document cannot be read or where an item cannot be used; it names which.
    """
    seen: dict[tuple[str | None, str], JsonItem] = {}
    for item in _iter_items(source, set()):
        check_item(item)
        known = seen.setdefault((item.get("collection"), item["id"]), item)
        if known is not item:
            _refuse_another(known, item)
    if not seen:
        raise CatalogError(f"No STAC item was found in {_shown(source)}. Check the address, or the filter that made the list.")
    return list(seen.values())


def _refuse_another(first: JsonItem, second: JsonItem) -> None:
    """Two items of one name must be one: dropping either would be a hole that nobody sees."""

    def hrefs(item: JsonItem) -> dict[str, str]:
        return {k: str(a.get("href")).partition("?")[0] for k, a in item["assets"].items()}

    for what, one, other in (("datetime", time_ms(first), time_ms(second)), ("hrefs", hrefs(first), hrefs(second))):
        if one != other:
            raise CatalogError(
                f"Item {first['id']!r} of collection {first.get('collection')!r} comes twice, with different {what}. Which of "
                "them counts is not for eocube to guess: give one of them another id, or leave it out."
            )


def _shown(source: Any) -> str:
    return source if isinstance(source, str) else type(source).__name__


def _iter_items(source: Any, read: set[str]) -> Iterator[JsonItem]:
    """Items of anything; ``read`` are the documents that were read already, so that links in a circle come to an end."""
    if hasattr(source, "__fspath__"):
        source = source.__fspath__()
    if isinstance(source, str):
        read.add(source)
        yield from _from_json(_load(source), source, read)
    elif isinstance(source, Mapping):
        yield from _from_json(source, "", read)
    elif hasattr(source, "items") and callable(source.items):  # pystac-client's ItemSearch
        yield from _iter_items(list(source.items()), read)
    elif hasattr(source, "get_items"):  # pystac's Catalog and Collection
        yield from _iter_items(list(source.get_items(recursive=True)), read)
    elif hasattr(source, "to_dict"):  # a pystac Item or ItemCollection
        home = source.get_self_href() if hasattr(source, "get_self_href") else ""
        yield from _from_json(source.to_dict(), home or "", read)
    elif isinstance(source, Iterable) and not isinstance(source, bytes):
        for one in source:
            yield from _iter_items(one, read)
    else:
        raise CatalogError(f"A {type(source).__name__} is not a STAC catalogue, item or list of items.")


def _load(href: str) -> Any:
    """The JSON document at an address."""
    import fsspec

    failed = f"The STAC document at {href} could not be read"
    try:
        with fsspec.open(href, "rb") as f:
            return json.loads(_begins_as_json(f.read(_HEAD_BYTES)) + f.read(_MAX_DOCUMENT_BYTES))
    except FileNotFoundError as e:
        # fsspec says so of whatever goes wrong on the way to a server.
        why = e.__cause__
        if not isinstance(why, FileNotFoundError) and (isinstance(why, OSError) or getattr(why, "status", 404) != 404):
            raise CatalogError(f"{failed}: {why}. Check the address and the network.") from e
        raise CatalogError(f"No STAC document at {href}: the file does not exist.") from e
    except IsADirectoryError as e:
        raise CatalogError(f"{failed}: it is a folder. Name the file in it, such as catalog.json.") from e
    except RecursionError as e:
        raise CatalogError(f"{failed}: its lists and objects are nested too deeply.") from e
    except Exception as e:  # of any of the file systems that fsspec knows
        raise CatalogError(f"{failed}: {type(e).__name__}: {e}") from e


def _begins_as_json(head: bytes) -> bytes:
    """``head``; ValueError where no JSON document begins so: the rest, which may never end, is then not read."""
    if head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] not in (b"{", b"["):
        raise ValueError("it is no JSON document")
    return head


def _from_json(doc: Any, href: str, read: set[str], depth: int = 0) -> Iterator[JsonItem]:
    kind = doc.get("type") if isinstance(doc, Mapping) else None
    fields = Fields(doc, href or "The given object") if kind else None
    if fields is None or kind not in ("Feature", "FeatureCollection", "Catalog", "Collection"):
        raise CatalogError(
            f"{href or 'The given object'} is not a STAC Item, ItemCollection, Catalog or Collection: its type is {shown(kind)}."
        )
    if kind == "Feature":
        yield _absolute(doc, href)
    elif kind == "FeatureCollection":
        for feature in fields.listed("features", "a list of items", most=_MAX_ITEMS):
            yield _absolute(feature, href)
    elif depth > _MAX_DEPTH:
        raise CatalogError(f"The catalogue at {href} lies more than {_MAX_DEPTH} links below the first one.")
    else:
        fields.text("license")
        for link in _links(fields):
            target = _join(href, link)
            if target not in read:
                read.add(target)
                for item in _from_json(_load(target), target, read, depth + 1):
                    yield _with_licence(item, doc)


def _links(catalog: Fields) -> Iterator[str]:
    """Addresses of what a catalogue holds."""
    for link in catalog.objects("links"):
        if link.get("rel") in ("child", "item", "items"):
            href = Fields(link, f"{catalog.where}, link to {link['rel']}").text("href", most=MAX_HREF)
            if not href or "::" in href:  # fsspec's chains could write copies to places of their own
                raise CatalogError(
                    f"{catalog.where} has a link to {link['rel']} with the href {shown(href)}; expected one path or URL. "
                    "Mend the catalogue."
                )
            yield href


def _with_licence(item: JsonItem, collection: Mapping[str, Any]) -> JsonItem:
    """An item inherits the licence that its collection states."""
    properties = item.get("properties")
    if not collection.get("license") or not isinstance(properties, Mapping):
        return item
    return {**item, "properties": {"license": collection["license"], **properties}}


def _absolute(item: Any, href: str) -> JsonItem:
    if not isinstance(item, Mapping) or not isinstance(item.get("assets"), Mapping):
        name = f"Item {shown(item.get('id'))}" if isinstance(item, Mapping) else f"An item ({shown(item)})"
        raise CatalogError(f"{name} in {href or 'the given list'} has no assets object.")
    base = href or _self_href(item)
    assets = {k: _at_home(a, base) for k, a in item["assets"].items()}
    return {**item, "assets": assets}


def _self_href(item: JsonItem) -> str:
    links = item.get("links")
    for link in links if isinstance(links, list | tuple) else ():
        if isinstance(link, Mapping) and link.get("rel") == "self" and isinstance(link.get("href"), str):
            return str(link["href"])
    return ""


def _at_home(asset: Any, base: str) -> Any:
    if not isinstance(asset, Mapping) or not isinstance(asset.get("href"), str) or not asset["href"]:
        return asset  # refused by name where it is used
    return {**asset, "href": _join(base, asset["href"])}


def _join(base: str, href: str) -> str:
    """``href`` of a document at ``base``; a path of this machine becomes absolute, since workers have folders of their own."""
    try:
        scheme = urlsplit(base).scheme
        if scheme in {"http", "https"}:
            return href if href.startswith("/vsi") else urljoin(base, href)
        if urlsplit(href).scheme or href.startswith("/"):
            return href
    except ValueError:  # brackets that are no IPv6 address
        return href
    prefix, mark, rest = base.rpartition("://")
    path = posixpath.join(posixpath.dirname(rest), href)
    return f"{prefix}{mark}{posixpath.normpath(path)}" if mark else posixpath.abspath(path)


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
    return kind in _RASTER_TYPES or (not kind and str(asset.get("href")).lower().endswith((".tif", ".tiff", ".jp2")))


def _bands_of_asset(item: JsonItem, key: str, asset: Mapping[str, Any]) -> list[BandOfFile]:
    where = f"Item {item['id']!r}, asset {key!r}"
    fields = Fields(asset, where)
    href = fields.text("href", most=MAX_HREF)
    if not href:
        raise fields.refusal("href", "the path or URL of a file")
    described, eo, raster = (fields.objects(name) for name in ("bands", "eo:bands", "raster:bands"))
    n = max(len(described), len(eo), len(raster), 1)
    grid = declared_grid(item, asset)
    out = []
    for i in range(n):
        merged: dict[str, Any] = {}
        for source in (asset, _at(raster, i), _at(eo, i), _at(described, i)):
            merged |= {
                k.removeprefix("raster:").removeprefix("eo:"): v
                for k, v in source.items()
                if v is not None and isinstance(k, str)
            }
        said = Fields(merged, where if n == 1 else f"{where}, band {i + 1}")
        name = said.text("name") if (described or eo) else None
        own = key if n == 1 else f"{key}_{i + 1}"
        is_scl = bool(_SCL_CLASSIFICATION.match(key) or _SCL_CLASSIFICATION.match(name or ""))
        dtype = _dtype(said)
        out.append(
            BandOfFile(
                key=key,
                href=href,
                bidx=i + 1,
                band=Band(name="scl") if is_scl else _band(item, name, said.text("common_name"), own),
                is_scl=is_scl,
                geobox=grid,
                dtype=dtype,
                nodata=possible_nodata(dtype, said.number("nodata", finite=False)),
                scale=_scale(said),
                offset=_offset(said),
                unnamed=not (described or eo or raster),
            )
        )
    return out


def _at(values: list[Mapping[str, Any]], i: int) -> Mapping[str, Any]:
    return values[i] if i < len(values) else {}


def _dtype(said: Fields) -> str | None:
    """NumPy's name of the data type, None where none of NumPy's is stated (``other``); the files tell then."""
    dtype = said.text("data_type")
    return None if dtype in (None, "other") else dtype


def is_integer(dtype: str | None) -> bool:
    """Whether a data type is one of NumPy's integers."""
    return dtype in INTEGERS


def unreadable(href: str) -> str | None:
    """Why an address is none of a raster file; None where it may be one.

    GDAL takes many a text for a description of data of its own (``<VRTDataset>…``, ``WMTS:…``), and may then fetch or keep what
    the item never spoke of.
    """
    scheme, mark, _ = href.partition(":")
    if href.startswith("/vsistd"):
        return "standard input and output are no files"
    if "<" in href or href.startswith("{"):
        return "this is no path or URL"
    if mark and "/" not in scheme and "\\" not in scheme and len(scheme) > 1 and not set(scheme.lower().split("+")) <= _SCHEMES:
        return f"files behind {shown(scheme + ':')} are not read; known are paths and {', '.join(sorted(_SCHEMES))}"
    return None


def possible_nodata(dtype: str | None, nodata: float | None) -> float | None:
    """``nodata``, None where no pixel of that type can have the value: it then says nothing, as a file's own tag would."""
    if nodata is None or not is_integer(dtype) or can_hold(str(dtype), nodata):
        return nodata
    return None


def _scale(said: Fields) -> float | None:
    scale = said.number("scale")
    if scale is not None and not _TINY < abs(scale) < 1 / _TINY:
        raise said.refusal("scale", f"a number between {_TINY:g} and {1 / _TINY:g}")
    return scale


def _offset(said: Fields) -> float | None:
    offset = said.number("offset")
    if offset is not None and abs(offset) > 1 / _TINY:
        raise said.refusal("offset", f"a number of at most {1 / _TINY:g}")
    return offset


def _band(item: JsonItem, name: str | None, common: str | None, key: str) -> Band:
    """Sentinel-2's own names give unique common names (``rededge071``); other sensors' bands take theirs, or their own name."""
    if is_sentinel2(item):
        for candidate in (name, key.split("_", maxsplit=1)[0], key):
            known = _SENTINEL2_NAMES.get(str(candidate).lower())
            if known is not None:
                return known
    own = name or key
    return Band(name=own if common in (None, "", "scl") else str(common), eo_name=own)


def declared_grid(item: JsonItem, asset: Mapping[str, Any]) -> GeoBox | None:
    """The grid that ``proj:`` fields give, on the asset or its item; None where they are incomplete.

    CatalogError where they are no grid, or name two CRSs.
    """
    both = Fields({**item["properties"], **{k: v for k, v in asset.items() if v is not None}}, f"Item {item['id']!r}")
    shape, transform = both.numbers("proj:shape", 2), both.numbers("proj:transform", 6)
    crs = _declared_crs(asset, both.where) or _declared_crs(item["properties"], both.where)
    if crs is None or shape is None or transform is None:
        return None
    reason: Any = "a side has no pixel, or more than 16,777,216"
    try:
        if len(shape) == 2 and all(1 <= n <= MAX_SIDE_PX and n == int(n) for n in shape):
            reason = "the pixels have no width or height"
            affine = Affine(*transform[:6])
            if affine.a and affine.e and math.isfinite((~affine).a):
                return norm_geobox(GeoBox((int(shape[0]), int(shape[1])), affine, crs))
    except Exception as e:  # noqa: BLE001 - whatever a CRS library says to a text that is none
        reason = e
    raise CatalogError(
        f"Item {item['id']!r} declares a grid that makes no sense: CRS {shown(crs)}, shape {shown(shape)}, transform "
        f"{shown(transform)}: {str(reason)[:200]}. Mend the metadata, or leave the item out."
    ) from (reason if isinstance(reason, Exception) else None)


def _declared_crs(values: Mapping[str, Any], where: str) -> str | None:
    """The CRS that one object states, as text; CatalogError where it states two."""
    fields = Fields(values, where)
    epsg, projjson = fields.number("proj:epsg"), values.get("proj:projjson")
    if epsg is not None and (epsg != int(epsg) or not 1 <= epsg < 2**31):
        raise fields.refusal("proj:epsg", "an EPSG code")
    if projjson is not None and not isinstance(projjson, Mapping):
        raise fields.refusal("proj:projjson", "an object")
    code, wkt2 = fields.text("proj:code"), values.get("proj:wkt2")
    if wkt2 is not None and (not isinstance(wkt2, str) or len(wkt2) > _MAX_WKT):
        raise fields.refusal("proj:wkt2", f"a text of at most {_MAX_WKT:,} characters")
    stated = {
        "proj:code": code or None,
        "proj:epsg": f"EPSG:{int(epsg)}" if epsg else None,
        "proj:wkt2": wkt2 or None,
        "proj:projjson": _json_text(projjson, fields) if projjson else None,
    }
    known = {name: text for name, text in stated.items() if text is not None}
    if len(known) > 1:
        _refuse_two_crs(known, where)
    return next(iter(known.values()), None)


def _json_text(projjson: Any, fields: Fields) -> str:
    try:
        text = json.dumps(projjson, sort_keys=True)
    except (TypeError, ValueError, RecursionError) as e:
        raise fields.refusal("proj:projjson", "JSON") from e
    if len(text) > _MAX_WKT:
        raise fields.refusal("proj:projjson", f"a text of at most {_MAX_WKT:,} characters")
    return text


def _refuse_two_crs(stated: Mapping[str, str], where: str) -> None:
    """CatalogError where the texts are of several coded CRSs; one without a code is not compared."""
    try:
        codes = {name: crs_code(text) for name, text in stated.items()}
    except Exception as e:  # whatever a CRS library says to a text that is none
        listed = "; ".join(f"{name} {shown(text)}" for name, text in stated.items())
        raise CatalogError(f"{where} declares a grid that makes no sense: {listed}: {str(e)[:200]}. Mend the metadata.") from e
    found = {name: code for name, code in codes.items() if code is not None}
    if len(set(found.values())) > 1:
        listed = ", ".join(f"{name} {code}" for name, code in found.items())
        raise CatalogError(
            f"{where} states two coordinate reference systems: {listed}. Mend the metadata: one of them is wrong, and so "
            "would the cube's place be."
        )


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
