"""The index of a store: GeoParquet, a row a site × product, made of immutable parts.

Each finished cube leaves one part, ``index/<cube>/<product>.<evidence><rows>.parquet``, with a row for each of its sites. It is
named by two digests: of what its rows follow from, and of the rows themselves, so that parts of one name say the same. Compaction
joins the parts into ``index.parquet`` (put, list again, repeat until nothing changed), so that any number of runs may finish at
once.
"""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from odc.geo.geobox import GeoBox

from eocube.errors import DamagedStoreError
from eocube.io.blobs import Blobs
from eocube.io.parquet import read_parquet
from eocube.model.frame import Frame
from eocube.model.hashing import digest
from eocube.model.hooks import kill_hook
from eocube.model.spec import Place

INDEX = "index.parquet"
PARTS = "index"
PART = "part"
"""Column of ``index.parquet`` beside those of ``SCHEMA``: the part that a row came from, so that a run reads new parts only."""

ROW = 1
"""Raised when a row says other things of an unchanged cube: parts are then made anew."""

ROWS_OF_GROUP = 32_768
"""Rows that are decoded together: sites beside each other in name order are near each other in most corpora."""

_DIGITS = 16
"""Of each of the two digests in a part's name."""

_NO_EVIDENCE = "0" * _DIGITS
_NAMED = re.compile(rf".*\.([0-9a-f]{{{_DIGITS}}})[0-9a-f]{{{_DIGITS}}}\.parquet", re.DOTALL)
_READS_AT_ONCE = 16

_BBOX = pa.struct([(k, pa.float64()) for k in ("xmin", "ymin", "xmax", "ymax")])
SCHEMA = pa.schema(
    [
        ("site", pa.string()),
        ("product", pa.string()),
        ("cube", pa.string()),
        ("window", pa.list_(pa.int64(), 4)),
        ("crs", pa.string()),
        ("gsd_m", pa.list_(pa.float64(), 2)),
        ("shape", pa.list_(pa.int64(), 2)),
        ("bands", pa.list_(pa.string())),
        ("dtype", pa.string()),
        ("first_date", pa.timestamp("ms", tz="UTC")),
        ("last_date", pa.timestamp("ms", tz="UTC")),
        ("n_dates", pa.int64()),
        ("clear_fraction", pa.float64()),
        ("unfinished_regions", pa.int64()),
        ("split", pa.string()),
        ("group", pa.string()),
        ("license", pa.string()),
        ("bbox", _BBOX),
        ("geometry", pa.binary()),
    ]
)
"""Columns of the index. ``window`` is y0, y1, x0, x1 in the cube; ``gsd_m`` and ``shape`` are (y, x); ``geometry`` is the
footprint in OGC:CRS84, WKB; ``bbox`` its box, for pruning row groups."""


def index_row(
    frame: Frame,
    *,
    place: Place,
    cube: str,
    product: str,
    counts: tuple[int, int],
    unfinished: int,
    licence: str | None,
    split: str | None = None,
    group: str | None = None,
) -> dict[str, Any]:
    """One row: what a site is in a cube, without where its files came from.

    ``counts`` are (clear, all) pixels × dates; ``clear_fraction`` is their quotient.
    """
    box = frame.geobox[slice(*place.y), slice(*place.x)]
    outline = footprint(box)
    left, bottom, right, top = outline.bounds
    return {
        "site": place.site,
        "product": product,
        "cube": cube,
        "window": [*place.y, *place.x],
        "crs": str(box.crs),
        "gsd_m": list(gsd_m(box)),
        "shape": list(map(int, box.shape)),
        "bands": list(frame.band_names),
        "dtype": frame.data.dtype,
        "first_date": frame.time_ms[0] if frame.time_ms else None,
        "last_date": frame.time_ms[-1] if frame.time_ms else None,
        "n_dates": len(frame.time_ms),
        "clear_fraction": counts[0] / counts[1] if counts[1] else None,
        "unfinished_regions": unfinished,
        "split": split,
        "group": group,
        "license": licence,
        "bbox": {"xmin": left, "ymin": bottom, "xmax": right, "ymax": top},
        "geometry": outline.wkb,
    }


def footprint(geobox: GeoBox) -> Any:
    """The grid's outline in OGC:CRS84, a shapely polygon, each side in four pieces: projected sides are curves there."""
    import shapely
    from pyproj import Transformer

    ny, nx = (int(n) for n in geobox.shape)
    part = np.arange(4) / 4
    zero, one = np.zeros(4), np.ones(4)
    x = nx * np.concatenate([part, one, 1 - part, zero])
    y = ny * np.concatenate([zero, part, one, 1 - part])
    a = geobox.affine
    east, north = a.a * x + a.b * y + a.c, a.d * x + a.e * y + a.f
    if geobox.crs is not None:
        east, north = Transformer.from_crs(geobox.crs.proj, "OGC:CRS84", always_xy=True).transform(east, north)
    return shapely.polygons(np.stack([east, north], axis=-1))


def gsd_m(geobox: GeoBox) -> tuple[float, float]:
    """Ground sample distance in metres along y and x; for degrees, the geodesic size of the grid's middle pixel (WGS 84)."""
    a = geobox.affine
    if geobox.crs is None:
        return abs(a.e), abs(a.a)
    if not geobox.crs.geographic:
        metre = float(geobox.crs.proj.axis_info[0].unit_conversion_factor)
        return abs(a.e) * metre, abs(a.a) * metre
    from pyproj import Geod

    ny, nx = geobox.shape
    lon, lat = a @ (nx / 2, ny / 2)
    geod = Geod(ellps="WGS84")
    return abs(geod.inv(lon, lat, lon, lat + a.e)[2]), abs(geod.inv(lon, lat, lon + a.a, lat)[2])


def put_part(blobs: Blobs, rows: Sequence[dict[str, Any]], *, evidence: str | None = None, replaces: Iterable[str] = ()) -> None:
    """Leave the rows of a cube's sites as an immutable part; parts of the same cube that know no more go after it.

    Where another run has meanwhile left one that knows more, this one goes instead; where it knows as much, the names decide, so
    that two runs never take away each other's.

    Parameters
    ----------
    evidence
        A digest of what the rows follow from, so that a later run can tell by its name that the part is there.
    replaces
        Parts that were there before anything that the rows follow from was looked at: they go whatever they say.
    """
    name = part_path(rows, evidence)
    for key in replaces:
        if key != name:
            blobs.delete(key)  # before the put: who sees the new part does not take one of these for the newer
    blobs.put(
        name, write_index(pa.Table.from_pylist(list(rows), schema=SCHEMA))
    )  # equal bytes do no harm, and mend a damaged part
    there = _parts_of(blobs, rows[0]["cube"], part_stem(name))  # after the put: of two runs at once, one sees the other's
    for key in there if name in there else ():  # if not, another run has replaced it
        if key != name:
            others = [table.to_pylist() for table in _read_parts(blobs, [key]).values()]
            blobs.delete(name if any((_rank(other), key) > (_rank(rows), name) for other in others) else key)


def part_path(rows: Sequence[Mapping[str, Any]], evidence: str | None) -> str:
    """Key of the part with these rows, all of one cube."""
    said = digest([{**row, "geometry": row["geometry"].hex()} for row in rows])
    return f"{cube_stem(rows[0]['cube'], rows[0]['product'])}.{(evidence or _NO_EVIDENCE)[:_DIGITS]}{said[:_DIGITS]}.parquet"


def cube_stem(cube: str, product: str) -> str:
    """What the parts of one cube's product have in common."""
    return f"{PARTS}/{cube}/{product}"


def part_stem(key: str) -> str:
    """The :func:`cube_stem` of a part: a product's name may have dots itself, digests have none."""
    return key.rsplit(".", 2)[0]


def has_evidence(key: str, evidence: str | None = None) -> bool:
    """Whether a part's name says what its row follows from; with ``evidence``: whether from that."""
    named = _NAMED.fullmatch(key)
    return named is not None and named[1] != _NO_EVIDENCE and (evidence is None or named[1] == evidence[:_DIGITS])


def list_parts(blobs: Blobs) -> dict[str, list[str]]:
    """Every part, by its :func:`cube_stem`."""
    out: dict[str, list[str]] = {}
    for key, _ in blobs.list(PARTS):
        out.setdefault(part_stem(key), []).append(key)
    return out


def part_rows(blobs: Blobs, cube: str, product: str) -> list[dict[str, Any]]:
    """The rows of a cube's sites, from its parts: a listing and a few requests, however big the store is."""
    names = _parts_of(blobs, cube, cube_stem(cube, product))
    rows: list[dict[str, Any]] = join_parts(_read_parts(blobs, names))[0].to_pylist()
    return rows


def _parts_of(blobs: Blobs, cube: str, stem: str) -> list[str]:
    return [key for key, _ in blobs.list(f"{PARTS}/{cube}") if part_stem(key) == stem]


def _rank(rows: Sequence[Mapping[str, Any]]) -> tuple[int, int, int]:
    """Of two parts of one cube the higher knows more: more sites, then more dates, then fewer unfinished regions."""
    return len(rows), sum(row["n_dates"] for row in rows), -sum(row["unfinished_regions"] for row in rows)


def compact(blobs: Blobs, *, trust_index: bool = False) -> pa.Table:
    """Join all parts into ``index.parquet``, sorted by site and product; repeated until no part came or went meanwhile.

    ``trust_index``: take rows of parts that the index was made of from there. A part is named by its row, so they are the same,
    unless the index was damaged; pages of it that do not fit their checksum are not taken.
    """
    read = _rows_of_index(blobs) if trust_index else {}
    before: list[str] | None = None
    table = SCHEMA.empty_table()
    while (names := sorted(key for key, _ in blobs.list(PARTS))) != before:
        read = {n: read[n] for n in names if n in read}
        read |= _read_parts(blobs, [n for n in names if n not in read])
        table, made_of = join_parts(read)
        kill_hook("index")
        blobs.put(INDEX, write_index(table.append_column(PART, pa.array(made_of, pa.string()))))
        before = names
    return table


def _rows_of_index(blobs: Blobs) -> dict[str, pa.Table]:
    """Part → its rows, of parts that the index has wholly; nothing where it cannot be read or is of another form."""
    body = blobs.get(INDEX)
    try:
        table = read_parquet(body or b"")
        names = table.column(PART).to_pylist()
        rows = table.select(SCHEMA.names)
        rows.cast(SCHEMA)
    except (pa.ArrowException, OSError, KeyError, ValueError):
        return {}
    at: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        at.setdefault(name, []).append(i)
    # Of several parts of one cube each may have lost rows to another.
    beside = Counter(map(part_stem, at))
    return {name: rows.take(found) for name, found in at.items() if beside[part_stem(name)] == 1}


def _read_parts(blobs: Blobs, names: Sequence[str]) -> dict[str, pa.Table]:
    """Part → its rows; a part that was replaced since the listing is left out. DamagedStoreError for one that cannot be read."""
    with ThreadPoolExecutor(_READS_AT_ONCE) as pool:
        bodies = zip(names, pool.map(blobs.get, names), strict=True)
        return {name: _read_part(blobs, name, body) for name, body in bodies if body is not None}


def _read_part(blobs: Blobs, name: str, body: bytes) -> pa.Table:
    try:
        return read_parquet(body)
    except (pa.ArrowException, OSError) as e:
        raise DamagedStoreError(
            f"{name} in {blobs.url}, a part of the index, cannot be read ({e}). Run `eocube index {blobs.url}`: it makes every "
            "part anew from the cubes and their markers."
        ) from e


def join_parts(parts: Mapping[str, pa.Table]) -> tuple[pa.Table, list[str]]:
    """One row a site × product (the one with most dates, then fewest unfinished regions), sorted; and the part of each."""
    if not parts:
        return SCHEMA.empty_table(), []
    rows = pa.concat_tables(t.replace_schema_metadata(None) for t in parts.values()).cast(SCHEMA).combine_chunks()
    names = [name for name, table in parts.items() for _ in range(len(table))]
    order = [("site", "ascending"), ("product", "ascending"), ("n_dates", "descending"), ("unfinished_regions", "ascending")]
    at = pc.sort_indices(rows, sort_keys=order).to_pylist()  # stable: of equals the first counts
    places = list(zip(rows["site"].to_pylist(), rows["product"].to_pylist(), strict=True))
    kept = [i for n, i in enumerate(at) if not n or places[i] != places[at[n - 1]]]
    return rows.take(kept), [names[i] for i in kept]


def read_index(blobs: Blobs) -> pa.Table:
    """The compacted index as an Arrow table (empty where nothing is finished yet); geometry stays WKB."""
    body = blobs.get(INDEX)
    return SCHEMA.empty_table() if body is None else read_parquet(body, columns=SCHEMA.names)


def write_index(table: pa.Table) -> bytes:
    """The table as GeoParquet."""
    geo = {
        "version": "1.1.0",
        "primary_column": "geometry",
        "columns": {
            "geometry": {
                "encoding": "WKB",
                "geometry_types": ["Polygon", "MultiPolygon"],
                "covering": {"bbox": {k: ["bbox", k] for k in ("xmin", "ymin", "xmax", "ymax")}},
            }
        },
    }
    sink = io.BytesIO()
    pq.write_table(
        table.replace_schema_metadata({"geo": json.dumps(geo)}),
        sink,
        compression="zstd",
        write_page_checksum=True,
        row_group_size=ROWS_OF_GROUP,
    )
    return sink.getvalue()
