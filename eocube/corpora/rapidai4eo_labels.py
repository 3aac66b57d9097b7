"""The labels of RapidAI4EO: which share of a site is which class of CORINE Land Cover 2018.

======================================================  =========================================================================
fact                                                    source
======================================================  =========================================================================
``labels_{id}.geojson`` is one Feature whose            FoMo-Bench, datasets/RapidAI4EODataset.py
properties are ``clc_111`` … ``clc_523``
``sample_id`` indexes the bulk table                    the corpus's tutorial
44 classes and their names                              CORINE Land Cover nomenclature, level 3 (EEA)
shares are of 1 or of 100                               uncertain: told by their sums, or by the caller
columns of the bulk table and of the mappings           uncertain: found by what they hold
======================================================  =========================================================================
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from eocube.corpora.rapidai4eo_ids import LABELS, SiteId, label_path, parse_site, parse_sites
from eocube.corpora.rapidai4eo_tables import DAMAGED, Table, csv_columns, distinct_sites, id_column, iter_features
from eocube.errors import ArgumentError, CatalogError, StoreReadError, UnknownNameError
from eocube.io.blobs import is_folder

Unit = Literal["fraction", "percent"]

CLC_NAMES: dict[str, str] = {
    "clc_111": "Continuous urban fabric",
    "clc_112": "Discontinuous urban fabric",
    "clc_121": "Industrial or commercial units",
    "clc_122": "Road and rail networks and associated land",
    "clc_123": "Port areas",
    "clc_124": "Airports",
    "clc_131": "Mineral extraction sites",
    "clc_132": "Dump sites",
    "clc_133": "Construction sites",
    "clc_141": "Green urban areas",
    "clc_142": "Sport and leisure facilities",
    "clc_211": "Non-irrigated arable land",
    "clc_212": "Permanently irrigated land",
    "clc_213": "Rice fields",
    "clc_221": "Vineyards",
    "clc_222": "Fruit trees and berry plantations",
    "clc_223": "Olive groves",
    "clc_231": "Pastures",
    "clc_241": "Annual crops associated with permanent crops",
    "clc_242": "Complex cultivation patterns",
    "clc_243": "Land principally occupied by agriculture, with significant areas of natural vegetation",
    "clc_244": "Agro-forestry areas",
    "clc_311": "Broad-leaved forest",
    "clc_312": "Coniferous forest",
    "clc_313": "Mixed forest",
    "clc_321": "Natural grasslands",
    "clc_322": "Moors and heathland",
    "clc_323": "Sclerophyllous vegetation",
    "clc_324": "Transitional woodland-shrub",
    "clc_331": "Beaches, dunes, sands",
    "clc_332": "Bare rocks",
    "clc_333": "Sparsely vegetated areas",
    "clc_334": "Burnt areas",
    "clc_335": "Glaciers and perpetual snow",
    "clc_411": "Inland marshes",
    "clc_412": "Peat bogs",
    "clc_421": "Salt marshes",
    "clc_422": "Salines",
    "clc_423": "Intertidal flats",
    "clc_511": "Water courses",
    "clc_512": "Water bodies",
    "clc_521": "Coastal lagoons",
    "clc_522": "Estuaries",
    "clc_523": "Sea and ocean",
}
"""The 44 classes of CORINE Land Cover at level 3, by the corpus's names for them."""

CLC_CLASSES: tuple[str, ...] = tuple(CLC_NAMES)
"""Order of the columns of :class:`Labels`."""

_PLACE = {name: i for i, name in enumerate(CLC_CLASSES)}
_CLC = re.compile(r"(?:clc[_-]?)?([0-9]{3})", re.IGNORECASE)
_UNITS: dict[Unit, float] = {"fraction": 1.0, "percent": 100.0}
_NEAR = (0.9, 1.02)
"""Median of the classes' sum, over the unit's whole, that counts as this unit."""

_OFF = 0.02


@dataclass(frozen=True, kw_only=True, eq=False)
class Labels:
    """Shares of CORINE classes at many sites. A site may have several classes; most have."""

    sites: Any = field(repr=False)
    """Ids, a pyarrow string array, each once."""

    fractions: npt.NDArray[np.float32] = field(repr=False)
    """Share of the site's area, 0-1, (site, class) in the order of `CLC_CLASSES`."""

    unit: Unit
    """How the files have them: shares of one, or of a hundred."""

    stated: str
    """How the unit is known, in a sentence."""

    repeated: tuple[str, ...] = ()
    """Sites that were listed more than once; the first row counts."""

    uneven: tuple[str, ...] = ()
    """Sites whose shares do not sum to one within 0.02."""

    missing_classes: tuple[str, ...] = ()
    """Classes that no file has; their share is 0 everywhere."""

    def __len__(self) -> int:
        return len(self.sites)

    def of(self, sample_id: str) -> dict[str, float]:
        """Classes of a site by falling share; empty where it has no labels."""
        row = pc.index(self.sites, sample_id).as_py()
        if row < 0:
            return {}
        shares = self.fractions[row]
        return {CLC_CLASSES[i]: float(shares[i]) for i in np.argsort(-shares, kind="stable") if shares[i] > 0}

    def rows_of(self, sites: Any) -> npt.NDArray[np.float32]:
        """Shares at many sites (a pyarrow string array), (site, class) in the order of `CLC_CLASSES`; NaN where it has none."""
        out = np.full((len(sites), len(CLC_CLASSES)), np.nan, np.float32)
        rows = pc.index_in(sites, value_set=self.sites)
        labelled = rows.is_valid().to_numpy(zero_copy_only=False)
        out[labelled] = self.fractions[rows.drop_null().to_numpy()]
        return out

    def having(self, clc: str, at_least: float = 0.0) -> Any:
        """Ids of the sites where a class has more than nothing and at least that share; UnknownNameError for no class."""
        shares = self.fractions[:, _PLACE[_class_of(clc)]]
        return self.sites.filter(pa.array((shares > 0) & (shares >= at_least)))


def _class_of(name: str) -> str:
    """``clc_311`` for ``clc_311``, ``CLC_311`` or ``311``."""
    match = _CLC.fullmatch(name.strip())
    if match is None or f"clc_{match[1]}" not in _PLACE:
        raise UnknownNameError("class", name, CLC_CLASSES, "CORINE Land Cover level 3")
    return f"clc_{match[1]}"


def _is_class(name: str) -> bool:
    match = _CLC.fullmatch(name.strip())
    return match is not None and f"clc_{match[1]}" in _PLACE


def read_labels(path: str | os.PathLike[str] | Table, *, unit: Unit | None = None) -> Labels:
    """The bulk table ``resources/rapidai4eo_labels.csv.gz``: a row a site, a column a class.

    Parameters
    ----------
    path
        Path or URL of the CSV, packed with gzip or not. Columns: ``sample_id`` (or ``id``) and ``clc_111`` … ``clc_523`` in any
        order; a class without a column has share 0 everywhere, other columns are left alone.
    unit
        Whether shares are of one or of a hundred; None tells by their sums, and refuses where these say neither.

    Raises
    ------
    CatalogError
        If the table cannot be read, has no id or class columns, or the sums of its shares are near neither 1 nor 100.
    """
    table = path if isinstance(path, Table) else Table(path)
    try:
        ids, shares, known = _read_wide(table)
        parse_sites(ids)
    except ArgumentError as error:
        raise CatalogError(f"Table {table.path}: {error}") from error
    except DAMAGED as error:
        raise table.error(error) from error
    return _labels(ids, shares, unit, table.path, known)


def _read_wide(table: Table) -> tuple[Any, npt.NDArray[np.float32], set[str]]:
    """Ids, shares as they stand (site, class) and the classes that have a column; block by block."""
    names = csv_columns(table)
    id_name, classes = id_column(table, names), {name: _class_of(name) for name in names if _is_class(name)}
    if not classes:
        raise table.error(f"it has no column clc_111 … clc_523; its columns are {names[:20]}")
    types = {id_name: pa.string(), **dict.fromkeys(classes, pa.float32())}
    options = arrow_csv.ConvertOptions(include_columns=list(types), column_types=types)
    ids, parts = [], []
    with table.open() as file, arrow_csv.open_csv(file, convert_options=options) as reader:
        for batch in reader:
            ids.append(batch.column(0))
            part = np.zeros((len(batch), len(CLC_CLASSES)), np.float32)
            for i, name in enumerate(classes.values(), start=1):
                part[:, _PLACE[name]] = batch.column(i).fill_null(0).to_numpy()
            parts.append(part)
    shares = np.concatenate(parts) if parts else np.zeros((0, len(CLC_CLASSES)), np.float32)
    return pa.chunked_array(ids, pa.string()).combine_chunks(), shares, set(classes.values())


def find_labels(urls: Sequence[str], sites: Any, *, unit: Unit | None = None) -> tuple[Labels | None, tuple[str, ...]]:
    """The labels that a corpus has, and what is to be said of them.

    The bulk table of the first copy that has one; without any, in a local tree, the sites' own files. Those of a remote tree are
    not asked for: half a million requests.

    Parameters
    ----------
    urls
        Copies of the corpus in the order in which to try them.
    sites
        Ids, a pyarrow string array: whose own files are read.
    unit
        See `read_labels`.

    Returns
    -------
    The labels, None where there are none; and sentences that name what is missing or odd. A copy that does not answer is one of
    them: sites are known without labels.

    Raises
    ------
    CatalogError
        If labels are there and cannot be used.
    """
    said = []
    for url in urls:
        try:
            table = _bulk_table(url)
        except StoreReadError as error:
            said.append(f"Labels: {error}")
            continue
        if table is not None:
            found = read_labels(table, unit=unit)
            return found, (*said, *_notes(found, sites, table.path))
    if is_folder(urls[0]):
        found = read_site_labels(urls[0].removeprefix("file://"), map(parse_site, sites.to_pylist()), unit=unit)
        if len(found):
            return found, (*said, *_notes(found, sites, f"{urls[0]}/labels"))
    where = f"{LABELS} is not" + (", nor is any labels/<zone>/<tile>/labels_<site>.geojson," if is_folder(urls[0]) else "")
    return None, (*said, f"Labels: {where} at {', '.join(urls)}: sites have no columns {CLC_CLASSES[0]} … {CLC_CLASSES[-1]}.")


def _bulk_table(url: str) -> Table | None:
    """The bulk table of one copy; None where it has none. StoreReadError where it does not answer."""
    path = f"{url}/{LABELS}"
    if is_folder(url):
        return Table(path) if Path(path.removeprefix("file://")).exists() else None
    try:
        return Table(path)
    except CatalogError:  # all that opening says: nothing is there
        return None


def _notes(labels: Labels, sites: Any, where: str) -> Iterator[str]:
    """What is odd about labels, a sentence each."""
    lacking = sites.filter(pc.invert(pc.is_in(sites, value_set=labels.sites))).to_pylist()
    for names, what in (
        (lacking, "no shares, NaN in the columns,"),
        (labels.repeated, "more than one row, of which the first counts,"),
        (labels.uneven, f"shares that do not sum to one within {_OFF}"),
    ):
        if names:
            shown = ", ".join(names[:5]) + (f" and {len(names) - 5:,} more" if len(names) > 5 else "")
            yield f"Labels of {where}: {what} of {len(names):,} site{'' if len(names) == 1 else 's'}: {shown}."
    if labels.missing_classes:
        yield f"Labels of {where}: no site has {', '.join(labels.missing_classes)}; their share is 0."


def read_site_labels(root: str | os.PathLike[str], sites: Iterable[SiteId], *, unit: Unit | None = None) -> Labels:
    """The labels of some sites from their own files, ``labels/{zone}/{tile}/labels_{id}.geojson``, in a local tree.

    A site whose file is not there has no row. The unit is told over all of them; see `read_labels`.

    Raises
    ------
    CatalogError
        If a file is damaged, holds no class or a share that is no number.
    """
    ids, rows = [], []
    known: set[str] = set()
    for site in sites:
        path = Path(root) / label_path(site)
        if path.is_file():
            row, classes = _read_one(Table(path))
            known |= classes
            ids.append(str(site))
            rows.append(row)
    shares = np.array(rows, np.float32).reshape(-1, len(CLC_CLASSES))
    return _labels(pa.array(ids, pa.string()), shares, unit, f"{os.fspath(root)}/labels", known)


def _read_one(table: Table) -> tuple[npt.NDArray[np.float32], set[str]]:
    try:
        properties = next(iter_features(table)).get("properties") or {}
    except StopIteration:
        raise table.error("it holds no feature") from None
    except DAMAGED as error:
        raise table.error(error) from error
    row, classes = np.zeros(len(CLC_CLASSES), np.float32), set()
    for name, value in properties.items():
        if _is_class(name):
            if not isinstance(value, (int, float, type(None))):
                raise table.error(f"its {name} is {value!r}, no share of an area")
            row[_PLACE[_class_of(name)]] = value or 0
            classes.add(_class_of(name))
    if not classes:
        raise table.error(f"it has no property clc_111 … clc_523; it has {sorted(properties)[:10]}")
    return row, classes


def _labels(ids: Any, shares: npt.NDArray[np.float32], unit: Unit | None, where: str, known: set[str]) -> Labels:
    """Shares as fractions, with what was odd about them."""
    distinct, repeated = distinct_sites(ids)
    if repeated:
        places = np.unique(ids.dictionary_encode().indices.to_numpy(), return_index=True)[1]
        shares = shares[places]
    if not (np.isfinite(shares).all() and (shares >= 0).all()):
        row = int(np.flatnonzero(~(shares >= 0).all(axis=1) | ~np.isfinite(shares).all(axis=1))[0])
        raise CatalogError(f"Labels of {where}: a share of site {distinct[row].as_py()} is negative or no number. Mend the row.")
    sums = shares.sum(axis=1, dtype="f8")
    unit, stated = (unit, "given by the caller") if unit else _unit_of(sums[sums > 0], where)
    whole = _UNITS[unit]
    uneven = distinct.filter(pa.array(np.abs(sums / whole - 1) > _OFF)).to_pylist()
    shares /= np.float32(whole)  # in place: they are read for this, and may be big
    return Labels(
        sites=distinct,
        fractions=shares,
        unit=unit,
        stated=stated,
        repeated=repeated,
        uneven=tuple(uneven),
        missing_classes=tuple(c for c in CLC_CLASSES if c not in known) if len(distinct) else (),
    )


def _unit_of(sums: npt.NDArray[np.float64], where: str) -> tuple[Unit, str]:
    """The unit that the median of the sums over classes is near."""
    if not len(sums):
        return "fraction", "no site has a label"
    median = float(np.median(sums))
    for unit, whole in _UNITS.items():
        if _NEAR[0] <= median / whole <= _NEAR[1]:
            return unit, f"the classes of {len(sums)} sites sum to {median:.4g} in the median"
    raise CatalogError(
        f"Labels of {where}: the classes of a site sum to {median:.4g} in the median of {len(sums)} sites, so they are shares "
        "neither of 1 nor of 100. Say which with unit='fraction' or unit='percent'."
    )


def read_label_mappings(path: str | os.PathLike[str]) -> dict[str, dict[str, str]]:
    """``resources/rapidai4eo_label_mappings.csv`` as it is: class → the other columns of its row.

    Which columns there are is uncertain; the one whose every cell is a class (``clc_311`` or ``311``) is the key. Names that do
    not depend on it are `CLC_NAMES`. CatalogError where no column holds classes.
    """
    table = Table(path)
    try:
        with table.open_text() as file:
            rows = list(csv.DictReader(file))
    except DAMAGED as error:
        raise table.error(error) from error
    names = list(rows[0]) if rows else []
    keys = [name for name in names if all(_is_class(row[name] or "") for row in rows)]
    if not keys:
        raise table.error(f"none of its columns {names} holds CORINE classes of level 3")
    return {_class_of(row[keys[0]]): {name: row[name] for name in names if name not in (keys[0], None)} for row in rows}
