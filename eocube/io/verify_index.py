"""Compare the index of a store, and the parts it was made of, with the rows that its cubes and markers ask for; reads only."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import pyarrow as pa

from eocube.io.blobs import Blobs
from eocube.io.index import INDEX, PARTS, SCHEMA, read_index
from eocube.io.parquet import read_parquet
from eocube.io.verify import Finding


def cube_of_part(key: str) -> tuple[str, str]:
    """``index/<cube>/<product>.<digest>.parquet`` → (cube, product)."""
    *_, cube, name = key.split("/")
    return cube, name.removesuffix(".parquet").rpartition(".")[0]


class IndexCheck:
    """Rows of ``index.parquet`` and of its parts, to compare with."""

    def __init__(self, blobs: Blobs):
        self._blobs = blobs
        self._damaged: str | None = None
        try:
            self._table = read_index(blobs)
            keys = self._table.select(["cube", "product"]).to_pylist()
        except (pa.ArrowException, OSError, KeyError) as e:
            self._table, keys, self._damaged = SCHEMA.empty_table(), [], f"it cannot be read: {e}; `eocube index` makes it again"
        self._at = {(k["cube"], k["product"]): i for i, k in enumerate(keys)}
        self._parts: dict[tuple[str, str], list[str]] = {}
        for key, _ in blobs.list(PARTS):
            self._parts.setdefault(cube_of_part(key), []).append(key)

    def check(self, row: Mapping[str, Any]) -> Iterator[Finding]:
        """A finished cube's row, against the index and its part."""
        name = row["cube"], row["product"]
        at = self._at.get(name)
        if at is None:
            yield Finding("index", INDEX, "it has no row of this finished cube; `eocube index` makes it again")
        else:
            yield from _compare_rows(INDEX, self._table.slice(at, 1).to_pylist()[0], row)
        if name not in self._parts:
            yield Finding("index", PARTS, "this finished cube has no part of the index; `eocube index` makes it again")
        for key in self._parts.get(name, []):
            try:
                part = read_parquet(self._blobs.get(key) or b"").to_pylist()[0]
            except (pa.ArrowException, OSError, IndexError) as e:
                yield Finding("index", key, f"it cannot be read: {e}; `eocube index` makes it again")
            else:
                yield from _compare_rows(key, part, row)

    def rows_without_cube(self, cubes: Collection[tuple[str, str]]) -> Iterator[Finding]:
        """Rows and parts of cubes that are not there, and an index that cannot be read."""
        if self._damaged:
            yield Finding("index", INDEX, self._damaged)
        for name in sorted(set(self._at) - set(cubes)):
            yield Finding("index", INDEX, f"it has a row of {'/'.join(name)}, which is not there; `eocube index` makes it again")
        for name in sorted(set(self._parts) - set(cubes)):
            for key in self._parts[name]:
                yield Finding("index", key, "a part of a cube that is not there; `eocube index` deletes it")


def _compare_rows(key: str, found: Mapping[str, Any], row: Mapping[str, Any]) -> Iterator[Finding]:
    """Columns that differ; footprints up to a millionth of a degree, because PROJ's last digits move between versions."""
    wanted = pa.Table.from_pylist([dict(row)], schema=SCHEMA).to_pylist()[0]
    differ = [k for k in wanted if not _same(k, found.get(k), wanted[k])]
    if differ:
        shown = "; ".join(f"{k} {found.get(k)!r} instead of {wanted[k]!r}" for k in differ if k != "geometry")
        yield Finding("index", key, f"its row is stale in {', '.join(differ)} ({shown}); `eocube index` makes it again")


def _same(column: str, a: Any, b: Any) -> bool:
    if column == "geometry" and a is not None:
        import shapely

        return bool(shapely.equals_exact(shapely.from_wkb(a, on_invalid="ignore"), shapely.from_wkb(b), 1e-6))
    if column == "bbox" and a is not None:
        return all(math.isclose(a[k], b[k], abs_tol=1e-6) for k in b)
    if column == "gsd_m" and a is not None:
        return all(math.isclose(v, w, rel_tol=1e-9) for v, w in zip(a, b, strict=True))
    return bool(a == b)
