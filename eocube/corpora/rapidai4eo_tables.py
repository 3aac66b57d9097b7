"""The lists of RapidAI4EO: which sites there are, what of them lies in a local tree, which split a tile is in.

``resources/rapidai4eo_geometries.geojson.gz`` maps ``sample_id`` to a polygon (the corpus's tutorial; whether in longitude and
latitude is not said: uncertain, both are understood). The geometry of a site follows from its id, so tables are read for their
ids; some of their geometries are compared with them. Labels: :mod:`eocube.corpora.rapidai4eo_labels`.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import os
import re
import zlib
from codecs import getincrementaldecoder
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from eocube.corpora.rapidai4eo_ids import SiteId, parse_site, parse_sites, parse_tile, product_of, site_folder
from eocube.errors import ArgumentError, CatalogError
from eocube.io.blobs import is_folder, open_blobs

Split = Literal["train", "val", "test"]

_ID = re.compile(r"[0-9]{1,2}N_[0-9]{1,2}E-[0-9]{1,3}N_[0-9]{2}_[0-9]{2}")
_ID_NAMES = ("sample_id", "id", "site")
"""Names of the property or column that holds the id, the first found counts (``site`` is eocube's own); else, but in a CSV,
whatever holds ids is taken."""

_GZIP = b"\x1f\x8b"
_CHUNK_BYTES = 1 << 20
_MAX_FEATURE_BYTES = 64 << 20
_FEATURES = re.compile(r'"features"\s*:\s*\[')
_BETWEEN = re.compile(r"[\s,\x1e]*")
_CHECK_FIRST, _CHECK_EVERY = 16, 5000
"""Which features are compared with their ids: the first ones, then one in so many."""

_MAX_OFF_M = 30.0
_M_PER_DEGREE = 111_195.0
DAMAGED: tuple[type[Exception], ...] = (
    OSError, EOFError, zlib.error, UnicodeDecodeError, pa.ArrowException, csv.Error, RecursionError,
)  # fmt: skip
"""What other packages raise at a table that is cut off, garbled or nested without end."""


class Table:
    """One file, wherever it lies, opened from its start as often as asked; gzip is undone by content, not by name."""

    def __init__(self, path: str | os.PathLike[str]):
        self.path = os.fspath(path)
        self._body = None if is_folder(self.path) else self._fetched()

    def _fetched(self) -> bytes:
        folder, _, name = self.path.rpartition("/")
        body = open_blobs(folder).get(name)
        if body is None:
            raise CatalogError(f"No table is at {self.path}. Check the address.")
        return body

    def open(self) -> BinaryIO:
        """The file's plain bytes."""
        try:
            if self._body is not None:
                packed = self._body.startswith(_GZIP)
                return cast("BinaryIO", gzip.GzipFile(fileobj=io.BytesIO(self._body)) if packed else io.BytesIO(self._body))
            path = Path(self.path.removeprefix("file://"))
            with path.open("rb") as file:
                packed = file.read(len(_GZIP)) == _GZIP
            return cast("BinaryIO", gzip.open(path) if packed else path.open("rb"))
        except OSError as error:
            raise CatalogError(f"Table {self.path} cannot be opened: {error.strerror or error}. Check the path.") from error

    def open_text(self) -> io.TextIOWrapper:
        """The file's plain text, line ends as they are."""
        return io.TextIOWrapper(self.open(), "utf-8-sig", newline="")

    def error(self, reason: object) -> CatalogError:
        """The error for a table that cannot be used."""
        return CatalogError(f"Table {self.path} cannot be used: {str(reason).rstrip('. ')}. Fetch it again, or name another.")


# ---------------------------------------------------------------------------------------------------------------------- sites


def read_site_ids(path: str | os.PathLike[str], *, check_geometry: bool = True) -> Any:
    """Ids of every site that a table lists, in its order, repeated ones repeated (see `distinct_sites`).

    Parameters
    ----------
    path
        The corpus's ``resources/rapidai4eo_geometries.geojson.gz``, the same unpacked, a STAC ItemCollection or GeoJSON lines,
        Parquet (GeoParquet item lists too), a CSV with a column sample_id, id or site, or a text with one id a line (``#`` begins
        a comment).
        Path or URL. What it is shows in its bytes. JSON is read feature by feature, so its size needs no memory.
    check_geometry
        Whether the centres of some of the geometries (longitude and latitude, or metres of the id's zone) are compared with
        those that their ids give.

    Returns
    -------
    A pyarrow string array.

    Raises
    ------
    CatalogError
        If the table cannot be read, lists nothing, has an entry without an id, or geometries lie elsewhere than ids say.
    """
    table = Table(path)
    try:
        with table.open() as file:
            head = file.read(4096)
        begins = head.lstrip(b"\xef\xbb\xbf \t\r\n\x1e")[:1]
        if begins == b"[":
            raise table.error("it is a JSON array; expected a FeatureCollection, as an ItemCollection is, or a feature a line")
        is_json = begins == b"{"
        ids, centres = (_of_parquet if head.startswith(b"PAR1") else _of_json if is_json else _of_text)(table)
        if not len(ids):
            raise table.error("it lists no site")
        parse_sites(ids)
        if check_geometry:
            _check_centres(table, centres)
    except ArgumentError as error:
        raise CatalogError(f"Table {table.path}: {error}") from error
    except DAMAGED as error:
        raise table.error(error) from error
    return ids


def distinct_sites(ids: Any) -> tuple[Any, tuple[str, ...]]:
    """Every id once, in order of first mention, and those that were mentioned more than once."""
    counted = pc.value_counts(ids)
    values, counts = counted.field("values"), counted.field("counts")
    return values, tuple(values.filter(pc.greater(counts, 1)).to_pylist())


Centre = tuple[str, float, float]
"""Id, and x and y of its geometry's centre."""


def _of_json(table: Table) -> tuple[Any, list[Centre]]:
    ids, centres = [], []
    for i, feature in enumerate(iter_features(table)):
        sample_id = _feature_id(table, feature, i)
        ids.append(sample_id)
        if i < _CHECK_FIRST or i % _CHECK_EVERY == 0:
            centres += _centre(sample_id, feature.get("geometry"))
    return pa.array(ids, pa.string()), centres


def iter_features(table: Table) -> Iterator[dict[str, Any]]:
    """Features of a collection, of lines, or the one that the file is; one at a time in memory.

    Each is decoded where the text so far holds all of it; otherwise more is read.
    """
    decode, to_text = json.JSONDecoder().raw_decode, getincrementaldecoder("utf-8")()
    with table.open() as file:
        text = to_text.decode(file.read(_CHUNK_BYTES)).lstrip("\ufeff")
        start = _FEATURES.search(text)
        at, ended = start.end() if start else 0, False
        while True:
            at = _BETWEEN.match(text, at).end()  # type: ignore[union-attr]
            if text.startswith("]", at) and start:
                return
            try:
                feature, at = decode(text, at)
            except json.JSONDecodeError as error:
                if ended:
                    if at == len(text) and not start:
                        return
                    raise table.error(f"its JSON ends or breaks within a feature ({error.msg})") from None
                if len(text) - at > _MAX_FEATURE_BYTES:
                    raise table.error(f"one of its features has more than {_MAX_FEATURE_BYTES} characters") from None
                more = file.read(_CHUNK_BYTES)
                text, at, ended = text[at:] + to_text.decode(more, final=not more), 0, not more
                continue
            if not isinstance(feature, dict):
                raise table.error(f"one of its features is {str(feature)[:50]!r}")
            yield feature


def _feature_id(table: Table, feature: Mapping[str, Any], i: int) -> str:
    """The id of one feature or STAC item: ``sample_id``, else what looks like one in an id or another property."""
    properties = feature.get("properties") or {}
    told = properties.get("sample_id")
    if isinstance(told, str):
        return told
    for value in (properties.get("id"), feature.get("id"), *properties.values()):
        found = _ID.findall(value) if isinstance(value, str) else []
        if found:
            return str(found[-1])
    if feature.get("type") in ("Catalog", "Collection"):
        raise table.error(f"it is a STAC {feature['type']}, which links to items and lists none; expected an ItemCollection")
    named = f" ({feature['id']!r})" if isinstance(feature.get("id"), str) else ""
    raise table.error(
        f"feature {i}{named} has no sample_id, and no site's id in its id or its properties {sorted(properties)[:10]}"
    )


def _centre(sample_id: str, geometry: Any) -> list[Centre]:
    """Middle of the geometry's box; nothing where there is no geometry."""
    if not geometry:
        return []
    if isinstance(geometry, bytes):
        from shapely import from_wkb

        low_x, low_y, high_x, high_y = from_wkb(geometry).bounds
        return [(sample_id, (low_x + high_x) / 2, (low_y + high_y) / 2)]
    numbers = re.findall(r"\[([-+0-9.eE]+), ([-+0-9.eE]+)", json.dumps(geometry.get("coordinates")))
    points = np.array(numbers, "f8").reshape(-1, 2)
    if not len(points):
        return []
    x, y = (points.min(axis=0) + points.max(axis=0)) / 2
    return [(sample_id, float(x), float(y))]


def _check_centres(table: Table, centres: list[Centre]) -> None:
    """Compare where geometries lie with where their ids say."""
    if not centres:
        return
    columns = parse_sites([c[0] for c in centres])
    found = np.array([c[1:] for c in centres])
    lonlat = columns.corners_lonlat().mean(axis=1)
    degrees = found - lonlat
    degrees[:, 0] *= np.cos(np.radians(lonlat[:, 1]))
    metres = found - (columns.bounds_m[:, :2] + columns.bounds_m[:, 2:]) / 2
    is_degrees = (np.abs(found) <= (180, 90)).all(axis=1)
    off_m = np.hypot(*np.where(is_degrees[:, None], degrees * _M_PER_DEGREE, metres).T)
    if (off_m > _MAX_OFF_M).any():
        worst = int(off_m.argmax())
        raise CatalogError(
            f"Table {table.path}: {int((off_m > _MAX_OFF_M).sum())} of {len(found)} geometries that were looked at do not lie "
            f"where their ids say; that of {centres[worst][0]} is centred on {centres[worst][1:]}, {off_m[worst]:.0f} m away. "
            "Grids would come from the ids. Use the corpus's own table; read_site_ids(check_geometry=False) leaves this out."
        )


def _of_parquet(table: Table) -> tuple[Any, list[Centre]]:
    """The id column of a Parquet file; of its geometries only those that are looked at."""
    with table.open() as file, parquet.ParquetFile(file, pre_buffer=False) as source:
        schema = source.schema_arrow
        texts = [f.name for f in schema if _holds_text(f.type)]
        ids = None
        for name in sorted(texts, key=lambda n: _ID_NAMES.index(n) if n in _ID_NAMES else len(_ID_NAMES)):
            column = source.read([name], use_threads=False).column(0).cast(pa.string()).combine_chunks()
            found = pc.struct_field(pc.extract_regex(column, f"(?P<id>{_ID.pattern})[^_]*$"), "id")
            if found.null_count < len(found):
                ids = found if name != "sample_id" else column
                break
        if ids is None:
            raise table.error(f"none of its columns {schema.names[:20]} holds sample ids")
        if "geometry" not in schema.names or not pa.types.is_binary(schema.field("geometry").type):
            return ids, []
        batch = next(source.iter_batches(_CHECK_FIRST, columns=["geometry"], use_threads=False))
        shapes = batch.column(0).to_pylist()
        return ids, [*chain.from_iterable(_centre(i.as_py(), shape) for i, shape in zip(ids, shapes, strict=False))]


def _holds_text(kind: Any) -> bool:
    """Whether a column's type is one of Arrow's for text, repeated texts once (a dictionary) too."""
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    return any(is_text(plain) for is_text in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))


def _of_text(table: Table) -> tuple[Any, list[Centre]]:
    """A CSV's id column, or one id a line."""
    names = csv_columns(table)
    if not names or names[0].startswith("#") or (len(names) == 1 and names[0] not in _ID_NAMES):
        with table.open_text() as text:
            lines = (line.split("#", 1)[0].strip() for line in text)
            return pa.array([line for line in lines if line], pa.string()), []
    name = id_column(table, names)
    place = names.index(name)
    with table.open_text() as text:
        rows = (row for row in csv.reader(text) if row)
        next(rows)
        return pa.array([_cell(table, row, place, len(names)) for row in rows], pa.string()), []


def _cell(table: Table, row: list[str], place: int, n_columns: int) -> str:
    if len(row) != n_columns:
        raise table.error(f"a row has {len(row)} cells, the first one {n_columns}: {row[:5]}")
    return row[place]


def csv_columns(table: Table) -> list[str]:
    """Names in the first line of a CSV."""
    with table.open_text() as file:
        head = file.readline(_CHUNK_BYTES)
    return [name.strip() for name in next(csv.reader([head]), [])]


def id_column(table: Table, names: list[str]) -> str:
    """``sample_id`` or ``id``, or the nameless first column that pandas writes."""
    for name in (*_ID_NAMES, "", "Unnamed: 0"):
        if name in names:
            return name
    raise table.error(f"it has no column sample_id; its columns are {names[:20]}")


# ---------------------------------------------------------------------------------------------------------------------- split


def split_of(tile: str, *, val: float = 0.1, test: float = 0.1, seed: int = 0) -> Split:
    """The split of a tile of 24 km and so of all its sites: neighbours within a tile never part.

    The corpus publishes none, so this one is ours: a digest of the tile's name. It depends on nothing else, so a subset or a
    growing store keeps it. ``val`` and ``test`` are shares of tiles, not of sites, which are spread unevenly.

    Parameters
    ----------
    tile
        Name of the tile's cube, ``33N_15E-200N``; ArgumentError for anything else.
    val, test
        Shares, 0-1 together.
    seed
        Another number gives another split.
    """
    name = parse_tile(tile).cube
    if not (0 <= val <= 1 and 0 <= test <= 1 and val + test <= 1):
        raise ArgumentError(f"Shares val={val} and test={test} of tiles are not within 0 to 1 together.")
    place = int.from_bytes(hashlib.sha256(f"rapidai4eo split {seed} {name}".encode()).digest()[:8], "big") / 2**64
    return "test" if place < test else "val" if place < test + val else "train"


# ----------------------------------------------------------------------------------------------------------------- local tree


class PresentSites(NamedTuple):
    """What lies under ``imagery/``."""

    sites: Any
    """Ids in name order, a pyarrow string array."""

    strangers: tuple[str, ...]
    """Paths below the root that are no site's folder, or lie in the wrong tile's: to be reported, not read."""


class PresentDates(NamedTuple):
    """Which files of a product a site has."""

    steps: tuple[int, ...]
    """Places on the product's time axis, increasing."""

    strangers: tuple[str, ...]
    """Other names in the folder: to be reported, not read."""


def present_sites(root: str | os.PathLike[str]) -> PresentSites:
    """Sites of a local tree, by the names of their folders; CatalogError without a folder ``imagery``."""
    base = Path(root)
    if not (base / "imagery").is_dir():
        raise CatalogError(f"No folder 'imagery' is in {base}. The root of RapidAI4EO holds imagery, labels and resources.")
    found: list[str] = []
    strangers: list[str] = []
    for tile_path in _subfolders(base, _subfolders(base, ["imagery"], strangers), strangers):
        for name, is_folder_ in _entries(base / tile_path):
            fits = is_folder_ and _ID.fullmatch(name) is not None and _lies_in(name, tile_path)
            (found if fits else strangers).append(name if fits else f"{tile_path}/{name}")
    return PresentSites(pa.array(sorted(found), pa.string()), tuple(strangers))


def _lies_in(sample_id: str, tile_path: str) -> bool:
    """Whether a sample's folder belongs there."""
    try:
        return site_folder(parse_site(sample_id)) == f"{tile_path}/{sample_id}"
    except ArgumentError:
        return False


def _subfolders(base: Path, paths: Iterable[str], strangers: list[str]) -> Iterator[str]:
    """Paths of the folders in each of some folders; what is no folder is a stranger."""
    for path in paths:
        for name, is_folder_ in _entries(base / path):
            if is_folder_:
                yield f"{path}/{name}"
            else:
                strangers.append(f"{path}/{name}")


def _entries(folder: Path) -> list[tuple[str, bool]]:
    """Names in a folder in order, and whether each is a folder itself."""
    with os.scandir(folder) as entries:
        return sorted((entry.name, entry.is_dir()) for entry in entries)


def present_dates(root: str | os.PathLike[str], site: SiteId, product: str) -> PresentDates:
    """Steps of a product that a site's folder has a file for. What is not there is absent, also the whole folder."""
    found = product_of(product)
    folder = Path(root) / site_folder(site) / found.folder
    places = {f"{stamp}.tif": step for step, stamp in enumerate(found.stamps)}
    names = [name for name, is_folder_ in _entries(folder) if not is_folder_] if folder.is_dir() else []
    steps = sorted(places[name] for name in names if name in places)
    return PresentDates(tuple(steps), tuple(name for name in names if name not in places))
