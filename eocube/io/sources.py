"""The binding of a cube in a store: which files its inputs stand for. The only place in a store that holds addresses."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from eocube.io.blobs import Blobs
from eocube.io.parquet import read_parquet

SCHEMA = pa.schema(
    [
        ("input", pa.string()),
        ("item_id", pa.string()),
        ("time", pa.timestamp("ms", tz="UTC")),
        ("asset", pa.string()),
        ("href", pa.string()),
        ("dn_shift", pa.int32()),
    ]
)


def sources_path(cube: str, product: str) -> str:
    """Key of a cube's binding below the store."""
    return f"sources/{cube}/{product}.parquet"


def put_sources(blobs: Blobs, cube: str, product: str, rows: Iterable[dict[str, Any]]) -> None:
    """Write the binding: rows of ``Source.assets`` with their input's name."""
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows), schema=SCHEMA), sink, compression="zstd")
    blobs.put(sources_path(cube, product), sink.getvalue())


def read_sources(blobs: Blobs, cube: str, product: str) -> pa.Table:
    """The binding of a cube; empty where there is none."""
    body = blobs.get(sources_path(cube, product))
    return SCHEMA.empty_table() if body is None else read_parquet(body)
