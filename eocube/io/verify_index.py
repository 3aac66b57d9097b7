"""Compare the index of a store, and the parts it was made of, with the rows that its cubes and markers ask for; reads only."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from eocube.errors import StoreReadError
from eocube.io.blobs import Blobs
from eocube.io.cubes import cube_path
from eocube.io.index import INDEX, PARTS, SCHEMA, read_index
from eocube.io.markers import marker_folder
from eocube.io.parquet import read_parquet
from eocube.io.verify import Finding, is_below, list_readable, unreadable


def cube_of_part(key: str) -> tuple[str, str]:
    """``index/<cube>/<product>.<digest>.parquet`` → (cube, product)."""
    *_, cube, name = key.split("/")
    return cube, name.removesuffix(".parquet").rpartition(".")[0]


class IndexCheck:
    """Rows of ``index.parquet`` and of its parts, to compare with."""

    def __init__(self, blobs: Blobs):
        self._blobs = blobs
        self._damaged: Finding | None = None
        try:
            self._table = read_index(blobs)
            keys = self._table.select(["cube", "product"]).to_pylist()
        except StoreReadError as e:
            self._table, keys, self._damaged = SCHEMA.empty_table(), [], unreadable(blobs, e)
        except (pa.ArrowException, OSError, KeyError) as e:
            damaged = Finding("index", INDEX, f"it cannot be read: {e}; `eocube index` makes it again")
            self._table, keys, self._damaged = SCHEMA.empty_table(), [], damaged
        self._at: dict[tuple[str, str], list[int]] = {}
        for i, k in enumerate(keys):
            self._at.setdefault((k["cube"], k["product"]), []).append(i)
        self._parts: dict[tuple[str, str], list[str]] = {}
        listed = list_readable(blobs, PARTS)
        self._hidden = listed.hidden
        for key in listed.sizes:
            self._parts.setdefault(cube_of_part(key), []).append(key)

    def check(self, cube: str, product: str, rows: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
        """The rows of a cube's finished sites, against the index and the cube's part."""
        at = self._at.get((cube, product), [])
        if not self._damaged:
            yield from _compare(INDEX, self._table.take(pa.array(at, pa.int64())).to_pylist(), rows)
        if not rows:
            return
        parts = self._parts.get((cube, product), [])
        if not parts and not is_below(f"{PARTS}/{cube}", (f.key for f in self._hidden)):
            yield Finding("index", PARTS, "this finished cube has no part of the index; `eocube index` makes it again")
        for key in parts:
            try:
                part = read_parquet(self._blobs.get(key) or b"").to_pylist()
            except StoreReadError as e:
                yield unreadable(self._blobs, e)
            except (pa.ArrowException, OSError) as e:
                yield Finding("index", key, f"it cannot be read: {e}; `eocube index` makes it again")
            else:
                yield from _compare(key, part, rows)

    def lost_sites(self, cube: str, product: str, known: Collection[str], told: Collection[tuple[int, int]]) -> Iterator[Finding]:
        """Sites in a cube of which the index has a row, and no region a marker.

        Nothing is said of ``known`` sites, nor of those that begin at one of the pixels ``told`` (y, x): their regions are.
        """
        at = self._at.get((cube, product), [])
        for row in self._table.take(pa.array(at, pa.int64())).select(["site", "window"]).to_pylist():
            site, (y0, _, x0, _) = row["site"], row["window"]
            if site in known or (y0, x0) in told:
                continue
            where = marker_folder(cube, product)
            yield Finding("unfinished", where, f"{INDEX} has site {site!r}, and no marker says that it is written")

    def rows_without_cube(self, cubes: Collection[tuple[str, str]], hidden: Collection[str] = ()) -> Iterator[Finding]:
        """Rows and parts of cubes that are not there, and an index that cannot be read.

        ``hidden`` are folders that cannot be looked into: nothing is said of cubes there.
        """
        if self._damaged:
            yield self._damaged
        yield from self._hidden
        gone = {name for name in {*self._at, *self._parts} - set(cubes) if not is_below(cube_path(*name), hidden)}
        for name in sorted(gone & set(self._at)):
            yield Finding("index", INDEX, f"it has a row of {'/'.join(name)}, which is not there; `eocube index` makes it again")
        for name in sorted(gone & set(self._parts)):
            for key in self._parts[name]:
                yield Finding("index", key, "a part of a cube that is not there; `eocube index` deletes it")


def _compare(key: str, found: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Rows of one cube in the index or a part, against those that it should have, site by site."""
    have = {row["site"]: row for row in found}
    for row in rows:
        if row["site"] in have:
            yield from _compare_rows(key, have.pop(row["site"]), row)
        else:
            yield Finding("index", key, f"it has no row of the finished site {row['site']!r}; `eocube index` makes it again")


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
