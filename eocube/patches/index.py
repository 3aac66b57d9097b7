"""The index of a patch set: GeoParquet, a row a patch, made of one part a task."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from odc.geo.geobox import GeoBox

from eocube.errors import DamagedStoreError
from eocube.io.blobs import Blobs
from eocube.io.parquet import read_parquet

INDEX = "index.parquet"
PARTS = "index"

_BOX = ("xmin", "ymin", "xmax", "ymax")
_BBOX = pa.struct([(k, pa.float64()) for k in _BOX])
_MS = pa.timestamp("ms", tz="UTC")
SCHEMA = pa.schema(
    [
        ("patch_id", pa.string()),
        ("patch", pa.int64()),
        ("split", pa.string()),
        ("site", pa.string()),
        ("date", _MS),
        ("lr_date", _MS),
        ("days", pa.float32()),
        ("lr_yx", pa.list_(pa.int64(), 2)),
        ("hr_yx", pa.list_(pa.int64(), 2)),
        ("lr_clear", pa.float32()),
        ("hr_clear", pa.float32()),
        ("dropped", pa.bool_()),
        ("why", pa.string()),
        ("bbox", _BBOX),
        ("geometry", pa.binary()),
    ]
)
"""``patch`` is the place on the patch axis; ``lr_yx`` and ``hr_yx`` are upper left pixels in the cubes; ``geometry`` is the
footprint in OGC:CRS84, WKB, and ``bbox`` its box."""


def footprints(lr: GeoBox, corners: Sequence[tuple[int, int]], size_px: int) -> list[dict[str, Any]]:
    """``geometry`` and ``bbox`` of the patches of ``size_px`` LR pixels with these upper left pixels (y, x)."""
    import shapely
    from pyproj import Transformer

    at = np.array(corners, np.float64).reshape(-1, 2)
    y = at[:, :1] + size_px * np.array([0, 0, 1, 1, 0])
    x = at[:, 1:] + size_px * np.array([0, 1, 1, 0, 0])
    a = lr.affine
    east, north = a.a * x + a.b * y + a.c, a.d * x + a.e * y + a.f
    if lr.crs is not None:
        east, north = Transformer.from_crs(lr.crs.proj, "OGC:CRS84", always_xy=True).transform(east, north)
    outlines = shapely.to_wkb(shapely.polygons(np.stack([east, north], axis=-1)))
    boxes = np.stack([east.min(1), north.min(1), east.max(1), north.max(1)], axis=1).tolist()
    return [{"geometry": bytes(g), "bbox": dict(zip(_BOX, b, strict=True))} for g, b in zip(outlines, boxes, strict=True)]


def put_part(blobs: Blobs, key: str, rows: Iterable[dict[str, Any]]) -> None:
    """Leave a task's rows under ``key``."""
    blobs.put(key, _geoparquet(pa.Table.from_pylist(list(rows), schema=SCHEMA)))


def join_parts(blobs: Blobs, keys: Iterable[str]) -> pa.Table:
    """Join the parts of all tasks to ``index.parquet``, in the order of the patches. DamagedStoreError where one is missing."""
    tables = []
    for key in keys:
        body = blobs.get(key)
        if body is None:
            raise DamagedStoreError(
                f"{blobs.url} lacks {key}, which a finished task had left there. Delete the set's markers/ and run again."
            )
        tables.append(read_parquet(body).cast(SCHEMA))
    table = pa.concat_tables(tables).sort_by("patch") if tables else SCHEMA.empty_table()
    blobs.put(INDEX, _geoparquet(table))
    return table


def read_index(blobs: Blobs) -> pa.Table:
    """The index of a patch set, geometry as WKB; empty while the set is unfinished."""
    body = blobs.get(INDEX)
    return SCHEMA.empty_table() if body is None else read_parquet(body)


def _geoparquet(table: pa.Table) -> bytes:
    column = {
        "encoding": "WKB",
        "geometry_types": ["Polygon"],
        "covering": {"bbox": {k: ["bbox", k] for k in _BOX}},
    }
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
    sink = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({"geo": json.dumps(geo)}), sink, compression="zstd")
    return sink.getvalue()
