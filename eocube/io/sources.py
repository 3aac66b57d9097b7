"""The binding of a cube in a store: which files its inputs stand for. The only place in a store that holds addresses.

``sources/<cube>/<product>.parquet``; of a cube in which sites lie a part a run, ``sources/<cube>/<product>/<digest>.parquet``, so
that runs over other sites do not take each other's away.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from eocube.io.blobs import Blobs
from eocube.io.parquet import read_parquet

SOURCES = "sources"
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
    return f"{SOURCES}/{cube}/{product}.parquet"


def put_sources(blobs: Blobs, cube: str, product: str, rows: Iterable[dict[str, Any]], *, of_sites: bool = False) -> None:
    """Write the binding: rows of ``Source.assets`` with their input's name. ``of_sites``: of some of the sites in the cube."""
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows), schema=SCHEMA), sink, compression="zstd")
    body, whole = sink.getvalue(), sources_path(cube, product)
    part = f"{whole.removesuffix('.parquet')}/{hashlib.sha256(body).hexdigest()[:16]}.parquet"
    blobs.put(part if of_sites else whole, body)


def list_sources(blobs: Blobs, cube: str, product: str) -> list[str]:
    """Keys of the objects that hold the binding of a cube."""
    whole = sources_path(cube, product)
    parts = [key for key, _ in blobs.list(whole.removesuffix(".parquet"))]
    return sorted(parts) if blobs.size(whole) is None else [whole, *sorted(parts)]


def list_bound(blobs: Blobs) -> set[tuple[str, str]]:
    """(cube, product) of everything that a run began to write, from one listing of a few objects."""
    keys = (key.split("/") for key, _ in blobs.list(SOURCES))
    return {(cube, product.removesuffix(".parquet")) for _, cube, product, *_ in keys}


def read_sources(blobs: Blobs, cube: str, product: str) -> pa.Table:
    """The binding of a cube, each row once; empty where there is none."""
    bodies = (blobs.get(key) for key in list_sources(blobs, cube, product))
    table = pa.concat_tables([SCHEMA.empty_table(), *(read_parquet(body) for body in bodies if body is not None)])
    return table.group_by(SCHEMA.names, use_threads=False).aggregate([])
