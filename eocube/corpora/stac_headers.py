"""Items with their bands; what their metadata leaves out comes from the headers of their files."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from odc.geo.geobox import GeoBox

from eocube.corpora.stac_check import MAX_SIDE_PX, time_ms
from eocube.corpora.stac_items import (
    BandOfFile,
    JsonItem,
    bands_of_item,
    is_integer,
    is_sentinel2,
    possible_nodata,
    tile_name,
    unreadable,
)
from eocube.errors import AssetReadError, CatalogError, GridError
from eocube.io.rasters import RasterInfo, RasterioReader, Reader
from eocube.model.bands import Band

_HEADERS_AT_ONCE = 16
_HEADER_TRIES = 8
"""Files that are tried for what one asset leaves out in all items; a missing one must not hide what the others say."""

Header = RasterInfo | AssetReadError
_Kind = tuple[object, str]


class Described(NamedTuple):
    """An item with its bands."""

    item: JsonItem
    bands: tuple[BandOfFile, ...]


def describe_items(items: Sequence[JsonItem], reader: Reader | None = None, *, area: GeoBox | None = None) -> list[Described]:
    """Items with their bands, by time and id; what the metadata leaves out comes from the files' headers.

    Dtype and nodata of an asset are asked once for all items of a collection (many catalogues state none); grids are asked of
    every file, several at once. A file that cannot be opened takes its grid from the other files of its item and place, so that
    reading it fails, and not planning.

    Parameters
    ----------
    area
        The cube's grid where one is given: then a file that nothing places may lie anywhere on it.

    Raises
    ------
    GridError, CatalogError
        Where a grid or a data type can be had from neither metadata nor any file.
    """
    reader = reader or RasterioReader()
    found = [Described(i, tuple(bands_of_item(i))) for i in sorted(items, key=lambda i: (time_ms(i), i["id"]))]
    with ThreadPoolExecutor(_HEADERS_AT_ONCE) as pool:
        hrefs = list(dict.fromkeys(b.href for d in found for b in d.bands if b.geobox is None))
        headers = dict(zip(hrefs, pool.map(lambda href: _header(reader, [href]), hrefs), strict=True))
        asked = _files_to_ask(found)
        kinds = dict(zip(asked, pool.map(lambda files: _header(reader, files), asked.values()), strict=True))
    known = [
        Described(d.item, tuple(c for b in d.bands for c in _completed(d.item, b, headers.get(b.href) or kinds.get(_kind(d, b)))))
        for d in found
    ]
    return _placed(found, known, headers, area)


def grid_key(box: GeoBox) -> tuple[str, tuple[float, ...], tuple[int, int]]:
    """Equal for equal grids."""
    return str(box.crs), tuple(round(float(v), 9) for v in list(box.affine)[:6]), (int(box.shape[0]), int(box.shape[1]))


def pixel_size(box: GeoBox) -> float:
    """Pixel width in CRS units."""
    return abs(float(box.affine.a))


def zoomed(area: GeoBox, resolution: float) -> GeoBox:
    """The area's grid at another pixel size; GridError where that has more pixels than a cube may have."""
    ny, nx = area.shape
    longest = max(int(ny) * abs(float(area.affine.e)), int(nx) * pixel_size(area))
    if not longest / resolution <= MAX_SIDE_PX:
        raise GridError(
            f"The area {area.boundingbox} in {area.crs} at a pixel size of {resolution:g} would have more than {MAX_SIDE_PX:,} "
            "pixels a side. Choose a smaller area, or other bands; mind the order of the four numbers."
        )
    return area.zoom_to(resolution=resolution)


def _kind(d: Described, b: BandOfFile) -> _Kind:
    return d.item.get("collection"), b.key


def _header(reader: Reader, hrefs: Iterable[str]) -> Header:
    """Of the first file that opens, else the first failure."""
    failure = None
    for href in hrefs:
        try:
            return _describe(reader, href)
        except AssetReadError as e:
            failure = failure or e
    assert failure is not None  # noqa: S101 - there is a file
    return failure


def _describe(reader: Reader, href: str) -> RasterInfo:
    if reason := unreadable(href):
        raise AssetReadError(href, "", "header", reason)
    return reader.describe(href)


def _files_to_ask(found: Sequence[Described]) -> dict[_Kind, list[str]]:
    """For each asset whose metadata has a grid, but leaves out dtype or nodata: some files that tell."""
    asked: dict[_Kind, list[str]] = {}
    for d in found:
        for b in d.bands:
            if b.geobox is not None and (b.dtype is None or (b.nodata is None and not _zero_is_empty(d.item, b))):
                files = asked.setdefault(_kind(d, b), [])
                if b.href not in files and len(files) < _HEADER_TRIES:
                    files.append(b.href)
    return asked


def _zero_is_empty(item: JsonItem, b: BandOfFile) -> bool:
    """In Sentinel-2's numbers and classes 0 means no data, said or not."""
    return b.is_scl or (is_integer(b.dtype) and is_sentinel2(item))


def _completed(item: JsonItem, band: BandOfFile, header: Header | None) -> list[BandOfFile]:
    """Fill in what the metadata leaves out; a file that it says nothing of shows all its bands, an unplaced one none."""
    if isinstance(header, AssetReadError):
        if band.geobox is None:
            return []
        if band.dtype is None:
            raise CatalogError(
                f"Asset {band.key!r} of item {item['id']!r} declares no data type, and none of the files that could tell opens "
                f"({header.href}: {header.reason}). Mend the file, or state data_type in the metadata."
            )
        header = None
    if header is None:
        return [_with_empty(item, band)]
    if band.bidx > len(header.dtypes):
        raise CatalogError(
            f"Asset {band.key!r} of item {item['id']!r} declares band {band.bidx}, but {band.href} has {len(header.dtypes)}. "
            "Mend the metadata, or leave the item out."
        )
    alone = not band.unnamed or len(header.dtypes) == 1 or (band.geobox is not None and band.dtype is not None)
    found = []
    for i in [band.bidx] if alone else range(1, len(header.dtypes) + 1):
        dtype = band.dtype or header.dtypes[i - 1]
        stated, tag = possible_nodata(dtype, band.nodata), possible_nodata(dtype, header.nodata)
        one = band._replace(
            bidx=i,
            geobox=band.geobox or header.geobox,
            dtype=dtype,
            nodata=stated if stated is not None else tag,
            band=band.band if alone else Band(name=f"{band.key}_{i}", eo_name=f"{band.key}_{i}"),
        )
        found.append(_with_empty(item, one))
    return found


def _with_empty(item: JsonItem, b: BandOfFile) -> BandOfFile:
    return b._replace(nodata=0.0) if b.nodata is None and _zero_is_empty(item, b) else b


# ------------------------------------------------------------------------------------------------ files that do not open


def _placed(
    found: Sequence[Described], known: Sequence[Described], headers: dict[str, Header], area: GeoBox | None
) -> list[Described]:
    """``known`` with the bands of the files that nobody could open, on the grid where they must lie."""
    if not any(isinstance(h, AssetReadError) for h in headers.values()):
        return list(known)
    mates: dict[_Kind, list[Described]] = {}
    for d in known:
        for kind in dict.fromkeys(_kind(d, b) for b in d.bands):
            mates.setdefault(kind, []).append(d)
    out = []
    for before, now in zip(found, known, strict=True):
        bands = list(now.bands)
        for b in before.bands:
            header = headers.get(b.href)
            if b.geobox is None and isinstance(header, AssetReadError):
                bands += _place(b, now, mates.get(_kind(before, b), []), header, area)
        out.append(Described(now.item, _in_order(before, bands)))
    return out


def _in_order(before: Described, bands: Sequence[BandOfFile]) -> tuple[BandOfFile, ...]:
    """As the item lists its assets."""
    keys = [b.key for b in before.bands]
    return tuple(sorted(bands, key=lambda b: (keys.index(b.key), b.bidx)))


def _place(
    b: BandOfFile, d: Described, mates: Sequence[Described], header: AssetReadError, area: GeoBox | None
) -> list[BandOfFile]:
    """The bands of a file that does not open: like that asset's in other items (``mates``), else like the item's other bands."""
    alike = [(m, c) for m in mates for c in m.bands if c.key == b.key and (b.unnamed or c.bidx == b.bidx)]
    box = _likely_grid(b, d, alike, area)
    patterns = [c for c in alike[0][0].bands if c.key == b.key] if alike and b.unnamed else [c for _, c in alike[:1]]
    if not alike and not b.is_scl:
        patterns = [b._replace(dtype=o.dtype, nodata=o.nodata) for o in d.bands if not o.is_scl][:1]
    patterns = patterns or [b]
    if box is None or any(b.dtype is None and c.dtype is None and not b.is_scl for c in patterns):
        raise _unknown_grid(b, d, header, area)
    return [
        _with_empty(
            d.item,
            c._replace(
                href=b.href,
                geobox=box,
                dtype=b.dtype or c.dtype,
                nodata=c.nodata if b.nodata is None else b.nodata,
                scale=b.scale,
                offset=b.offset,
                band=c.band if b.unnamed else b.band,
            ),
        )
        for c in patterns
    ]


def _likely_grid(
    b: BandOfFile, d: Described, alike: Sequence[tuple[Described, BandOfFile]], area: GeoBox | None
) -> GeoBox | None:
    """The one grid that the item's other files of that pixel size have, else that asset's at the same place; None: not known."""
    sizes = [pixel_size(c.geobox) for _, c in alike if c.geobox is not None]
    fits = [
        o.geobox
        for o in d.bands
        if o.geobox is not None
        and (any(math.isclose(pixel_size(o.geobox), s) for s in sizes) if sizes else b.is_scl or not o.is_scl)
    ]
    here = [c.geobox for m, c in alike if c.geobox is not None and _same_place(d, m)]
    for boxes in (fits, here):
        one = {grid_key(box): box for box in boxes}
        if len(one) == 1:
            return boxes[0]
    if area is None or not sizes or area.crs is None:
        return area
    native = next(c.geobox for _, c in alike if c.geobox is not None)
    same_units = native.crs is not None and native.crs.geographic == area.crs.geographic
    return zoomed(area, min(sizes)) if same_units else None


def _same_place(one: Described, other: Described) -> bool:
    if tile_name(one.item) != tile_name(other.item):
        return False
    own, theirs = ({grid_key(b.geobox) for b in d.bands if b.geobox is not None} for d in (one, other))
    return not own or bool(own & theirs)


def _unknown_grid(b: BandOfFile, d: Described, header: AssetReadError, area: GeoBox | None) -> GridError:
    given = "" if area is not None else ", pass the grid (--geobox, geobox=)"
    return GridError(
        f"Asset {b.key!r} of item {d.item['id']!r} cannot be placed: its metadata lacks proj: fields, its file {b.href} does not "
        f"open ({header.reason}), and no other file tells its grid and data type. Put proj:code, proj:shape, proj:transform and "
        f"data_type into the item's metadata{given}, mend the file, or leave the item out."
    )
