"""Small Parquet tables in memory, read in the caller's thread.

``pyarrow.parquet.read_table`` goes through Arrow's dataset machinery and its thread pools. A process that ended soon afterwards
was aborted in one of ten runs, its work done ("terminate called without an active exception").
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq


def read_parquet(body: bytes, *, columns: Sequence[str] | None = None) -> pa.Table:
    """The table in ``body``; pyarrow.ArrowInvalid or OSError where it is none, or a page does not fit its checksum."""
    with pq.ParquetFile(io.BytesIO(body), page_checksum_verification=True, pre_buffer=False) as file:
        return file.read(columns=None if columns is None else list(columns), use_threads=False)
