"""leakage_report: what splits share, of whatever has footprints and splits: tables, corpora, stores, patch sets."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
from pyproj import CRS

from eocube.errors import ArgumentError, PatchError
from eocube.io.blobs import open_blobs
from eocube.jobs.open import OpenedCorpus, Store, open_store
from eocube.jobs.roots import address, root_kind
from eocube.patches import PatchDataset
from eocube.patches.ground import Ints, Objects
from eocube.patches.index import read_index
from eocube.patches.leakage import TOLERANCE_M2, Footprints, LeakageReport, find_leakage

__all__ = ["TOLERANCE_M2", "LeakageReport", "leakage_report"]

_CRS84 = "OGC:CRS84"
_STEP_M = 250.0
"""Longest edge of a projected footprint that is moved to degrees: 1.2 mm from its chord at 45°."""

_MOST_STEPS = 512
_AT_ONCE = 65_536


def leakage_report(
    source: Any,
    *,
    buffer_m: float = 0.0,
    tolerance_m2: float = TOLERANCE_M2,
    ignore_time: bool = True,
    storage_options: Mapping[str, Any] | None = None,
) -> LeakageReport:
    """Find ground that several splits share.

    Parameters
    ----------
    source
        One of: an opened corpus, a store or the URL of one, a :class:`PatchDataset` of all splits or the URL of a patch set, a
        GeoDataFrame, an Arrow table with WKB in ``geometry`` (any CRS that its metadata states; OGC:CRS84 where it states none).
        A table has a column ``split``, and may have ``patch_id``, ``site``, ``group`` and ``date``. Rows without a split are
        counted and left out, and so are those that ``dropped`` marks.
    buffer_m
        Report footprints that do not overlap too, if they are nearer than so many metres on the ground (less 0.1 %, since pixels
        of projected grids are not quite as long as they say). At most 100 km.
    tolerance_m2
        Overlaps of at most so many square metres are none. Whatever this is, none are those that are thinner than what is known
        of where edges lie: see :mod:`eocube.patches.ground`.
    ignore_time
        Ground is ground, whatever the dates; a scene of another year shows the same fields. False: only rows of one day (UTC,
        column ``date``) share anything, for splits that are by time alone.
    storage_options
        For a URL.

    Returns
    -------
    :class:`eocube.patches.leakage.LeakageReport`: ``ok``, ``counts``, ``pairs`` (a DataFrame), ``ids``, ``groups``,
    ``as_json()``; ``str()`` sums it up.

    Raises
    ------
    ArgumentError
        If there is nothing to compare (no split, no footprints), or footprints are no valid polygons, or lie around a pole.
    PatchError
        If a patch set is unfinished, or a dataset has one split only.
    StoreNotFoundError, DamagedStoreError, CubeError
        If a URL is neither a store nor a patch set.

    Notes
    -----
    A patch set whose ``SplitRule`` splits places and periods has no patch of a test block in training at any date, and the other
    way round: patches at a test place and a training date are of neither split. So it passes with ``ignore_time=True`` too, and
    what is found there are sites that overlap in different CRS (two UTM zones), whose blocks do not know of each other.

    A corpus may have mended its table before: WorldStrat's published split holds out tiles that its table puts into two splits.
    ``split_report`` of the corpus says so; give the table itself to see them here.
    """
    table, crs = _table_of(source, storage_options)
    rows = _footprints(table, crs, with_days=not ignore_time)
    return find_leakage(rows, buffer_m=buffer_m, tolerance_m2=tolerance_m2, ignore_time=ignore_time)


def _table_of(source: Any, options: Mapping[str, Any] | None) -> tuple[Any, Any]:
    """What has columns, and the CRS of its geometry."""
    if isinstance(source, str | os.PathLike):
        source = _at(address("source", source), options)
    if isinstance(source, PatchDataset):
        if source.split is not None:
            raise PatchError(
                f"The dataset was opened with split={source.split!r}, so there is nothing to compare it with. Open it without, "
                f"or pass its URL, {source.url}."
            )
        source = source.index
    elif isinstance(source, Store):
        source = source.index
    elif isinstance(source, OpenedCorpus):
        source = source.sites
    if isinstance(source, pa.Table):
        return source, _stated_crs(source)
    if isinstance(source, pd.DataFrame) and hasattr(source, "crs"):
        if source.crs is None:
            raise ArgumentError("The GeoDataFrame states no CRS, so where its footprints lie is not known. Set it: set_crs(…).")
        return source, source.crs
    raise ArgumentError(
        f"source is {str(source)[:80]!r} ({type(source).__name__}); expected an opened corpus, a store, a patch set, a URL of "
        "either, a GeoDataFrame, or an Arrow table with WKB in `geometry`."
    )


def _at(url: str, options: Mapping[str, Any] | None) -> Store | pa.Table:
    """The store at an address, or the index of the patch set there."""
    blobs = open_blobs(url, options)
    if root_kind(blobs) != "patches":
        return open_store(url, storage_options=options)
    table = read_index(blobs)
    return table if len(table) else PatchDataset(url, storage_options=options).index  # raises if the set is unfinished


def _stated_crs(table: pa.Table) -> Any:
    """CRS of an Arrow table's ``geometry``, by GeoParquet's or GeoArrow's metadata; ArgumentError where it says unknown."""
    stated: Any = {}
    if "geometry" in table.column_names:
        own = (table.schema.field("geometry").metadata or {}).get(b"ARROW:extension:metadata")
        whole = (table.schema.metadata or {}).get(b"geo")
        stated = json.loads(own) if own else json.loads(whole)["columns"].get("geometry", {}) if whole else {}
    crs = stated.get("crs", _CRS84)
    if crs is None:
        raise ArgumentError("The table's metadata says that the CRS of `geometry` is unknown, so where it lies is not known.")
    return crs


# ------------------------------------------------------------------------------------------------ columns


def _footprints(table: Any, crs: Any, *, with_days: bool) -> Footprints:
    columns = list(table.column_names if isinstance(table, pa.Table) else table.columns)
    for name, cure in (("geometry", ""), ("split", " Open the corpus with split=…, or convert it so (--split).")):
        if name not in columns and not (name == "geometry" and hasattr(table, "geometry")):
            raise ArgumentError(
                f"There is no column {name!r} to compare; there are {', '.join(map(str, columns)) or 'none'}.{cure}"
            )
    kept, n_dropped = np.ones(len(table), bool), 0
    if "dropped" in columns:
        kept = ~_column(table, "dropped").astype(bool)
        n_dropped = int((~kept).sum())
    named = {name: _column(table, name)[kept] for name in ("patch_id", "site", "group") if name in columns}
    labels = _labels(named)
    split = _column(table, "split")[kept]
    at, outlines = _distinct(table, kept & ~pd.isna(_column(table, "split")))
    return Footprints(
        outlines=_in_degrees(outlines, crs),
        at=at[kept],
        split=split,
        name=labels["id"] if "id" in labels else _row_names(table)[kept],
        labels=labels,
        day=_days(table)[kept] if with_days and "date" in columns else None,
        n_dropped=n_dropped,
    )


def _column(table: Any, name: str) -> Objects:
    column = table[name]
    values = column.to_numpy() if isinstance(column, pa.ChunkedArray) else column
    return np.asarray(values.astype(object), object)


def _labels(named: Mapping[str, Objects]) -> dict[str, Objects]:
    """An id is a patch's, else a site's; where patches have their own, a site is only where they lie."""
    own = "patch_id" if "patch_id" in named else "site"
    labels = {"id" if name == own else name: values for name, values in named.items()}
    return {kind: values for kind, values in labels.items() if not pd.isna(values).all()}


def _row_names(table: Any) -> Objects:
    index = pd.RangeIndex(len(table)) if isinstance(table, pa.Table) else table.index
    return np.array([str(name) for name in index], object)


def _days(table: Any) -> Ints:
    """Whole days of UTC since 1970-01-01 of ``date``."""
    found = pd.to_datetime(pd.Series(_column(table, "date")), utc=True)
    if found.isna().any():
        raise ArgumentError(
            f"{int(found.isna().sum()):,} of {len(found):,} rows have no `date`, and ignore_time=False compares them. Leave that "
            "out, or those rows."
        )
    return found.to_numpy("datetime64[D]").astype(np.int64)


def _distinct(table: Any, wanted: npt.NDArray[np.bool_]) -> tuple[Ints, Objects]:
    """Of each row the number of its footprint, -1 where it is not wanted; and the distinct ones, as polygons.

    They are told apart by their bytes before any becomes a polygon: a patch set has each as often as it has dates.
    """
    import shapely

    column = table["geometry"] if isinstance(table, pa.Table) else table.geometry
    at = np.full(len(table), -1, np.int64)
    if isinstance(column, pa.ChunkedArray):
        storage = column.cast(pa.binary()) if pa.types.is_large_binary(column.type) else column
        if not pa.types.is_binary(storage.type):
            raise ArgumentError(f"Column `geometry` has type {column.type}; expected binary, WKB as in GeoParquet.")
        wkb = storage.to_numpy()[wanted]
    else:
        wkb = shapely.to_wkb(np.asarray(column)[wanted])
    code, known = pd.factorize(wkb)
    if (code < 0).any():
        raise ArgumentError(
            f"{int((code < 0).sum()):,} rows have a split and no footprint. Give them the polygon of their ground, or take their "
            "split away."
        )
    at[wanted] = code
    return at, shapely.from_wkb(known)


# ------------------------------------------------------------------------------------------------ degrees


def _in_degrees(outlines: Objects, crs: Any) -> Objects:
    """Footprints in OGC:CRS84; sides of projected ones in pieces, since they are curves there."""
    import shapely
    from pyproj import Transformer

    given = CRS.from_user_input(crs)
    if given.equals(CRS.from_user_input(_CRS84), ignore_axis_order=True):
        return outlines
    step = None if given.is_geographic else _STEP_M / given.axis_info[0].unit_conversion_factor
    to_degrees = Transformer.from_crs(given, _CRS84, always_xy=True)
    out = outlines.copy()
    for start in range(0, len(out), _AT_ONCE):
        part = out[start : start + _AT_ONCE]
        if step is not None:
            part = shapely.segmentize(part, np.maximum(step, shapely.length(part) / _MOST_STEPS))
        at = shapely.get_coordinates(part)
        out[start : start + _AT_ONCE] = shapely.set_coordinates(part, np.stack(to_degrees.transform(*at.T), axis=1))
    return out
