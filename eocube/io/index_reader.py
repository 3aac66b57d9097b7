"""Reading the index of a store of millions of sites: columns when they are asked for, rows by the groups that they lie in."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from eocube.io.blobs import Blobs
from eocube.io.index import INDEX, SCHEMA

Bbox = tuple[float, float, float, float]


class IndexReader:
    """One state of ``index.parquet``, read in the caller's thread (see :mod:`eocube.io.parquet`).

    pyarrow's errors and OSError come through where it is damaged.
    """

    def __init__(self, blobs: Blobs, *, version: str | None = None):
        self.version = version
        """What :meth:`Blobs.version` said before it was read; None where it was not asked."""

        self._body = blobs.get(INDEX)
        self._columns: dict[str, pa.ChunkedArray] = {}

    @cached_property
    def _file(self) -> pq.ParquetFile:
        return pq.ParquetFile(io.BytesIO(self._body or b""), page_checksum_verification=True, pre_buffer=False)

    @property
    def n_rows(self) -> int:
        """How many rows there are."""
        return 0 if self._body is None else int(self._file.metadata.num_rows)

    def table(self, columns: Sequence[str] = SCHEMA.names) -> pa.Table:
        """All rows of some columns."""
        if self._body is None:
            return SCHEMA.empty_table().select(columns)
        lacking = [c for c in columns if c not in self._columns]
        if lacking:
            found = self._file.read(columns=lacking, use_threads=False)
            self._columns |= {c: found.column(c) for c in lacking}
        return pa.table({c: self._columns[c] for c in columns})

    @cached_property
    def _bbox(self) -> dict[str, npt.NDArray[np.float64]]:
        boxes = self.table(["bbox"])["bbox"].combine_chunks()
        return {k: boxes.field(k).to_numpy(zero_copy_only=False) for k in ("xmin", "ymin", "xmax", "ymax")}

    def meeting(self, bbox: Bbox) -> npt.NDArray[np.bool_]:
        """Which rows' boxes meet west, south, east, north in degrees."""
        west, south, east, north = bbox
        b = self._bbox
        return np.asarray((b["xmin"] <= east) & (b["xmax"] >= west) & (b["ymin"] <= north) & (b["ymax"] >= south))

    def equal(self, column: str, value: str) -> npt.NDArray[np.bool_]:
        """Which rows have that value."""
        found = pc.fill_null(pc.equal(self.table([column])[column], value), fill_value=False)
        return np.asarray(found.to_numpy(), bool)

    def rows(self, chosen: npt.NDArray[np.bool_]) -> pa.Table:
        """Every column of the rows that are chosen; only groups of rows that have one are decoded."""
        if self._body is None or not chosen.any():
            return SCHEMA.empty_table()
        sizes = (self._file.metadata.row_group(i).num_rows for i in range(self._file.metadata.num_row_groups))
        edges = [0, *itertools.accumulate(sizes)]
        groups = [i for i, (a, b) in enumerate(itertools.pairwise(edges)) if chosen[a:b].any()]
        kept = np.concatenate([chosen[edges[i] : edges[i + 1]] for i in groups])
        found = self._file.read_row_groups(groups, columns=SCHEMA.names, use_threads=False)
        return found.filter(pa.array(kept))


def warm(reader: IndexReader, columns: Iterable[str] = ("bbox",)) -> IndexReader:
    """Read the columns that are asked for most."""
    if reader.n_rows:
        reader.table(list(columns))
    return reader
