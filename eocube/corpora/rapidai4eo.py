"""RapidAI4EO as a corpus: 500,000 places of 600 m in Europe, Planet Fusion every five days, Sentinel-2 every month.

A 24 km tile is one cube in which its sites lie. Ids tell grids, dates and files, so that nothing is opened or listed to plan; in
a local tree what is not there is absent. Several roots are copies of one tree, tried in order.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from eocube.corpora.rapidai4eo_ids import (
    GEOMETRIES,
    PF_TIMES_MS,
    PRODUCTS,
    S2_BOUNDS_MS,
    SiteColumns,
    SiteId,
    image_path,
    parse_site,
    parse_sites,
    product_of,
    site_folder,
    site_geobox,
)
from eocube.corpora.rapidai4eo_labels import CLC_CLASSES, Labels, Unit, find_labels
from eocube.corpora.rapidai4eo_source import Layers, Roots, TileSource
from eocube.corpora.rapidai4eo_tables import distinct_sites, present_dates, present_sites, read_site_ids, split_of
from eocube.errors import AssetReadError, CatalogError, RadiometryError, UnknownNameError
from eocube.io.blobs import absolute, is_folder
from eocube.io.chips import Chip, decode_chip
from eocube.io.trees import TreeReader
from eocube.model.bands import SENTINEL2_BANDS, Band
from eocube.model.recipe import Node
from eocube.model.scene import Site

MIRRORS = ("https://radiantearth.blob.core.windows.net/mlhub/rapidai4eo", "https://data.source.coop/planet/rapidai4eo")
"""Public copies of the corpus, as its pages name them. Whether they answer today is not known here."""

PUBLIC = "public"
_MAX_EXAMPLES = 3
"""Files of a product that are tried for its bands."""

_MAX_POOLED, _MAX_LOOKED_AT = 5, 60
"""Sites whose first files are compared with the order of Sentinel-2's bands, and names among which they are looked for: a site
has twelve."""

PF = (
    Band(name="blue", eo_name="B02", wavelength_um=0.4924),
    Band(name="green", eo_name="B03", wavelength_um=0.5598),
    Band(name="red", eo_name="B04", wavelength_um=0.6646),
    Band(name="nir08", eo_name="B8A", wavelength_um=0.8647),
)
"""Bands of PF-SR, by position, as the Sentinel-2 bands that they are harmonised to. That the last is B8A is documented of the
successor product: uncertain here."""

S2_ORDER = ("B02", "B03", "B04", "B08", "B05", "B06", "B07", "B8A", "B11", "B12", "B01", "B09")
"""Bands of S2-SR by position: the first four are a loader's words, the others follow from others' statistics. Uncertain, so they
are compared with ``S2_MEANS`` and can be given."""

S2_MEANS: Mapping[str, float] = dict(
    zip(S2_ORDER, (564, 759, 790, 2341, 1164, 1954, 2227, 2425, 1818, 1213, 455, 2434), strict=True)
)
"""Mean of each band over the corpus, DN: statistics of FoMo-Bench, put in order."""

LICENCES: Mapping[str, tuple[str, str]] = {
    **dict.fromkeys(
        ("pf_sr", "pf_qa"), ("CC-BY-NC-SA-3.0", "RapidAI4EO, Planet Fusion: Planet Labs PBC, doi:10.34911/rdnt.gcydkj")
    ),
    "s2_sr": (
        "Copernicus Sentinel data terms",
        "Contains modified Copernicus Sentinel data 2018; RapidAI4EO, doi:10.34911/rdnt.gcydkj",
    ),
}
CORINE = "CORINE Land Cover 2018: European Union, Copernicus Land Monitoring Service (Regulation (EU) No 1159/2013)"


@dataclass(frozen=True, kw_only=True)
class RapidAI4EOOptions:
    """What a user may choose."""

    sites: Any = None
    """Which sites there are: ids, or the path or URL of a list (see
    :func:`eocube.corpora.rapidai4eo_tables.read_site_ids`). None: the corpus's own table; without one a local tree's folders."""

    bbox: tuple[float, float, float, float] | None = None
    """Only sites that meet it: west, south, east, north in degrees."""

    time_ms: tuple[float, float] | None = None
    """Only files from the first to before the second, milliseconds since 1970-01-01 UTC. The time axis stays whole."""

    label_unit: Unit | None = None
    """Whether shares of CORINE classes are of one (``fraction``) or of a hundred (``percent``) in the files. None: told by their
    sums."""

    s2_bands: tuple[str, ...] | None = None
    """Bands of S2-SR by position, ``B01`` to ``B12``, instead of ``S2_ORDER``; then nothing is compared."""


class RapidAI4EOCorpus:
    """See :class:`eocube.corpora.protocol.TiledCorpus`."""

    name = "rapidai4eo"

    def __init__(
        self,
        roots: Roots,
        columns: SiteColumns,
        options: RapidAI4EOOptions,
        *,
        absent: Sequence[str] = (),
        repeated: Sequence[str] = (),
        strangers: Sequence[str] = (),
    ):
        self.roots, self.columns, self.options = roots, columns, options
        self.absent = tuple(absent)
        """Sites that are listed, and have no folder in the local tree."""

        self.repeated = tuple(repeated)
        """Sites that are listed more than once; each is one."""

        self._strangers = dict.fromkeys(strangers)
        self._unchecked: list[str] = []

    @classmethod
    def open(cls, root: str | os.PathLike[str] | Sequence[str], *, options: RapidAI4EOOptions | None = None) -> RapidAI4EOCorpus:
        """The corpus at a folder, a URL, or several copies of it in the order in which to try them; ``public``: ``MIRRORS``.

        Raises CatalogError where no site is known.
        """
        options = options or RapidAI4EOOptions()
        given = MIRRORS if root == PUBLIC else [os.fspath(root)] if isinstance(root, str | os.PathLike) else root
        urls = tuple(absolute(url).rstrip("/") for url in given)
        roots = Roots(urls=urls, reader=TreeReader())
        ids, repeated = distinct_sites(_listed(urls[0], options.sites))
        there = present_sites(urls[0]) if is_folder(urls[0]) else None
        here = None if there is None else set(there.sites.to_pylist())
        known = ids.to_pylist()
        found = known if here is None else [i for i in known if i in here]
        if not found:
            raise CatalogError(
                f"No site of RapidAI4EO is known at {urls[0]}: {len(known)} are listed, none of them is there. Expected "
                f"imagery/<zone>/<tile>/<site>/PF-SR/<date>.tif, and {GEOMETRIES} or sites=."
            )
        columns = parse_sites(pa.array(found))
        if options.bbox is not None:
            columns = _meeting(columns, options.bbox)
        absent, strangers = sorted(set(known) - set(found)), () if there is None else there.strangers
        return cls(roots, columns, options, absent=absent, repeated=repeated, strangers=strangers)

    @property
    def attributions(self) -> tuple[str, ...]:
        """See :class:`eocube.corpora.protocol.Corpus`."""
        return (*dict.fromkeys(text for _, text in LICENCES.values()), CORINE)

    @property
    def license(self) -> str:
        """See :class:`eocube.corpora.protocol.Corpus`."""
        return "; ".join(dict.fromkeys(name for name, _ in LICENCES.values()))

    def licence(self, product: str) -> tuple[str, str]:
        """See :class:`eocube.corpora.protocol.LicensedProducts`."""
        return LICENCES[product]

    @property
    def is_local(self) -> bool:
        """Whether the first root is a folder, where what is not there is absent."""
        return is_folder(self.roots.urls[0])

    @cached_property
    def products(self) -> tuple[str, ...]:
        """See :class:`eocube.corpora.protocol.TiledCorpus`: in a local tree those that some site has. Looked for once: one that
        few sites have costs a look into each site's folder.
        """
        return tuple(p for p in PRODUCTS if not self.is_local or next(self._examples(p), None) is not None)

    @property
    def sites(self) -> Sequence[Site]:
        """See :class:`eocube.corpora.protocol.Corpus`, made one by one as they are asked for."""
        return _Sites(self)

    def site_of(self, name: str) -> Site:
        """One site; its labels are in :attr:`land_cover`."""
        site, cube = parse_site(name), parse_site(name).cube
        return Site(
            name=name,
            cube=cube,
            geobox=site_geobox(site, "pf_sr"),
            products=self.products,
            split=split_of(cube),
            group=cube,
        )

    @property
    def land_cover(self) -> Labels | None:
        """Shares of CORINE Land Cover classes at the sites that have labels; read once. None where the corpus has no table and,
        in a local tree, no files of them (:attr:`notes` says so). CatalogError where they are there and cannot be used.
        """
        return self._labels[0]

    @property
    def file_notes(self) -> tuple[str, ...]:
        """See :class:`eocube.corpora.protocol.Noted`: of sites' folders, what was met in those that were looked into so far."""
        said = (
            ("are listed and have no folder", self.absent),
            ("are listed more than once, and taken once", self.repeated),
        )
        notes = [f"Sites: {len(names):,} {what}: {_shortened(names)}." for what, names in said if names]
        if self._strangers:
            found = _shortened(tuple(self._strangers))
            notes.append(f"Files: {len(self._strangers):,} names belong to no site, product or date, and are left out: {found}.")
        return (*notes, *self._unchecked)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is missing of this copy, or odd, in sentences: :attr:`file_notes`, and what is to be said of the labels."""
        return (*self.file_notes, *self._labels[1])

    @cached_property
    def _labels(self) -> tuple[Labels | None, tuple[str, ...]]:
        return find_labels(self.roots.urls, self.columns.site, unit=self.options.label_unit)

    def site_table(self) -> tuple[Mapping[str, Any], npt.NDArray[np.float64]]:
        """See :class:`eocube.corpora.protocol.TabledSites`: as :attr:`sites` tells, and ``clc_111`` … ``clc_523``, share of the
        site's area of each class of CORINE Land Cover 2018 at level 3, float32 0-1, NaN of sites without labels; no such column
        where :attr:`land_cover` is None.
        """
        n, edge, of_cube = len(self.columns), product_of("pf_sr").site_px, self.columns.cube_index
        crs = {e: f"EPSG:{e}" for e in np.unique(self.columns.epsg).tolist()}
        found: dict[str, Any] = {
            "site": self.columns.site.to_numpy(zero_copy_only=False),
            "products": _same(self.products, n),
            "crs": np.array([crs[e] for e in self.columns.epsg.tolist()], object),
            "shape": _same((edge, edge), n),
            "split": np.array([split_of(cube) for cube in self.columns.cubes], object)[of_cube],
            "group": np.array(self.columns.cubes, object)[of_cube],
        }
        if self.land_cover is not None:
            shares = self.land_cover.rows_of(self.columns.site)
            found |= dict(zip(CLC_CLASSES, shares.T, strict=True))
        return found, self.columns.corners_lonlat()

    def tiles(self, names: Sequence[str] | None = None) -> Iterator[tuple[str, list[str]]]:
        """See :class:`eocube.corpora.protocol.TiledCorpus`."""
        columns = self.columns if names is None else parse_sites(pa.array(list(names)))
        order = np.argsort(columns.cube_index, kind="stable")
        ids = columns.site.take(pa.array(order)).to_pylist()
        edges = np.searchsorted(columns.cube_index[order], np.arange(len(columns.cubes) + 1))
        for cube, start, stop in zip(columns.cubes, edges[:-1], edges[1:], strict=True):
            if stop > start:
                yield cube, ids[start:stop]

    def labels(self, cube: str) -> dict[str, str]:
        """See :class:`eocube.corpora.protocol.TiledCorpus`: a tile is in one split, and its own group."""
        return {"split": split_of(cube), "group": cube}

    # ------------------------------------------------------------------------------------------------ sources

    def source(self, site: str, product: str) -> tuple[TileSource, Node]:
        """See :class:`eocube.corpora.protocol.Corpus`."""
        return self.tile_source(parse_site(site).cube, [site], product)

    def tile_source(self, cube: str, sites: Sequence[str], product: str) -> tuple[TileSource, Node]:
        """See :class:`eocube.corpora.protocol.TiledCorpus`."""
        if product not in PRODUCTS:
            raise UnknownNameError("product", product, PRODUCTS, "RapidAI4EO")
        found = tuple(parse_site(name) for name in sites)
        steps, present = self._steps(product), None
        if self.is_local or len(steps) < len(product_of(product).stamps):
            present = {site: self._present(site, product, steps) for site in found}
            found = tuple(site for site in found if present[site])
        source = TileSource(
            tile=cube, product=product, layers=self.layers(product), sites=found, present=present, roots=self.roots
        )
        return source, source.node

    def _steps(self, product: str) -> tuple[int, ...]:
        """Steps of a product's time axis that are asked for."""
        times = [start for start, _ in S2_BOUNDS_MS] if product == "s2_sr" else PF_TIMES_MS
        first, end = self.options.time_ms or (-math.inf, math.inf)
        return tuple(t for t, ms in enumerate(times) if first <= ms < end)

    def _present(self, site: SiteId, product: str, steps: tuple[int, ...]) -> tuple[int, ...]:
        """Those that a site has; a remote tree is not listed and taken to have all."""
        if not self.is_local:
            return steps
        there = present_dates(self.roots.urls[0], site, product)
        folder = f"{site_folder(site)}/{product_of(product).folder}"
        self._strangers |= dict.fromkeys(f"{folder}/{name}" for name in there.strangers)
        return tuple(t for t in there.steps if t in steps)

    def layers(self, product: str) -> Layers:
        """Bands and dtype of a product; of those that are uncertain as its first file has them, read once."""
        if product == "pf_sr":
            return Layers(bands=PF, dtype="int16")
        return self._layers[product]

    @cached_property
    def _layers(self) -> Mapping[str, Layers]:
        return _Lazily(self._found_layers)

    def _found_layers(self, product: str) -> Layers:
        """As an example file has them, the first that can be read of some."""
        tried = []
        for path in islice(self._examples(product), _MAX_EXAMPLES):
            try:
                chip, place = self.roots.read(path, _decoded)
            except AssetReadError as e:
                tried.append(f"{e.href}: {e.reason}")
            else:
                return self._layers_of(product, chip, path, place)
        if not tried:
            raise UnknownNameError("product", product, self.products, f"{self.roots.urls[0]} (no site has a file of it)")
        raise CatalogError(
            f"Product {product!r} of RapidAI4EO needs an example: its bands and their type are documented nowhere, so they are "
            f"taken from a file of {product_of(product).folder}. None of {len(tried)} that were tried could be read "
            f"({'; '.join(tried)}). Check the address, mend the files, or leave the product out: --products (products=) "
            f"{' '.join(p for p in PRODUCTS if p != product)}."
        )

    def _layers_of(self, product: str, chip: Chip, path: str, place: str) -> Layers:
        """What one file, of this path and read from ``place``, says of its product."""
        n = chip.pixels.shape[0]
        if product == "pf_qa":
            return Layers(bands=tuple(Band(name=f"qa{i + 1}") for i in range(n)), dtype=chip.dtype)
        order = self.options.s2_bands or S2_ORDER
        if len(order) != n or not set(order) <= set(SENTINEL2_BANDS):
            raise RadiometryError(f"{place} has {n} bands; s2_bands is {order}. Give {n} different names of B01 to B12.")
        if self.options.s2_bands is None:
            self._unchecked += _check_order([chip.pixels, *self._more_examples(product, path, n)], place)
        return Layers(bands=tuple(SENTINEL2_BANDS[name] for name in order), dtype=chip.dtype)

    def _more_examples(self, product: str, known: str, n: int) -> Iterator[npt.NDArray[Any]]:
        """Pixels of the first files of the first few sites but ``known``: those that can be read and have as many bands."""
        first_of_site = {path.rsplit("/", 2)[0]: path for path in (*islice(self._examples(product), _MAX_LOOKED_AT),)[::-1]}
        for path in sorted(first_of_site.values())[:_MAX_POOLED]:
            if path == known:
                continue
            with suppress(AssetReadError):
                chip, _ = self.roots.read(path, _decoded)
                if chip.pixels.shape[0] == n:
                    yield chip.pixels

    def _examples(self, product: str) -> Iterator[str]:
        """Paths of files of a product: those that a local tree has, or the first date of each site of one that is not listed."""
        if not self.is_local:
            step = next(iter(self._steps(product)), 0)
            yield from (image_path(parse_site(name.as_py()), product, step) for name in self.columns.site)
            return
        for name in self.columns.site.to_pylist():
            site = parse_site(name)
            yield from (image_path(site, product, t) for t in present_dates(self.roots.urls[0], site, product).steps)


def _decoded(body: bytes, place: str) -> tuple[Chip, str]:
    return decode_chip(body, place), place


def _shortened(names: Sequence[str]) -> str:
    """The first of some names, and how many more there are."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5:,} more" if len(names) > 5 else "")


def _same(value: tuple[Any, ...], n: int) -> npt.NDArray[np.object_]:
    """A column of one value, which is in memory once."""
    out = np.empty(n, object)
    out[:] = [value] * n if n else []
    return out


def _listed(root: str, sites: Any) -> Any:
    """Ids as the user, the corpus's table or the folders of a local tree have them."""
    if isinstance(sites, str | os.PathLike):
        return read_site_ids(sites)
    if sites is not None:
        return pa.array(list(sites), pa.string())
    if not is_folder(root):
        return read_site_ids(f"{root}/{GEOMETRIES}")
    from pathlib import Path

    table = Path(root) / GEOMETRIES
    return read_site_ids(str(table)) if table.exists() else present_sites(root).sites


def _meeting(columns: SiteColumns, bbox: tuple[float, float, float, float]) -> SiteColumns:
    """The sites that meet a box in degrees; CatalogError where none does."""
    corners, (west, south, east, north) = columns.corners_lonlat(), bbox
    (x0, y0), (x1, y1) = corners.min(axis=1).T, corners.max(axis=1).T
    found = np.flatnonzero((x0 < east) & (west < x1) & (y0 < north) & (south < y1))
    if not len(found):
        raise CatalogError(f"None of {len(columns)} sites of RapidAI4EO meets {bbox} (west, south, east, north in degrees).")
    return columns.take(found)


def _check_order(examples: Sequence[npt.NDArray[Any]], place: str) -> list[str]:
    """RadiometryError where the bands' means fit ESA's order of bands better than the one that is taken for theirs.

    A band's mean is the median of its means in the files, of pixels over 0. Distances are of logarithms of means, less their own
    mean: a dark or a bright place is neither. A note where a band has no such pixel, so that nothing can be compared.
    """
    lit = [[float(pixels[b][pixels[b] > 0].mean()) for pixels in examples if (pixels[b] > 0).any()] for b in range(len(S2_ORDER))]
    dark = [str(b + 1) for b, found in enumerate(lit) if not found]
    if dark:
        note = (
            f"Bands: the order of s2_sr was not checked, as band {', '.join(dark)} has no pixel over 0 in {len(examples)} files, "
            f"{place} the first. It is taken to be {', '.join(S2_ORDER)}; s2_bands= (--s2-bands) says another."
        )
        return [note]
    means = [float(np.median(found)) for found in lit]
    esa = sorted(S2_ORDER, key=lambda b: b.replace("8A", "08.5"))
    if _distance(means, esa) < _distance(means, S2_ORDER):
        others = f" and {len(examples) - 1} more files" if len(examples) > 1 else ""
        raise RadiometryError(
            f"The bands of {place}{others} have the means {[round(m) for m in means]}, which fit ESA's order B01 to B12 "
            f"better than {', '.join(S2_ORDER)}, which this corpus is taken to have. Look at the file, and say the order: "
            f"s2_bands=({', '.join(map(repr, esa))})."
        )
    return []


def _distance(means: Sequence[float], order: Sequence[str]) -> float:
    found = np.log(means) - np.mean(np.log(means))
    known = np.log([S2_MEANS[b] for b in order])
    return float(np.square(found - (known - known.mean())).sum())


class _Lazily(dict[str, Layers]):
    """What a function says of a name, asked once."""

    def __init__(self, ask: Any):
        super().__init__()
        self._ask = ask

    def __missing__(self, name: str) -> Layers:
        self[name] = self._ask(name)
        return self[name]


class _Sites(Sequence[Site]):
    """Half a million sites without half a million objects."""

    def __init__(self, corpus: RapidAI4EOCorpus):
        self._corpus = corpus

    def __len__(self) -> int:
        return len(self._corpus.columns)

    def __getitem__(self, i: Any) -> Any:
        names = self._corpus.columns.site
        if isinstance(i, slice):
            return [self._corpus.site_of(name) for name in names.to_pylist()[i]]
        return self._corpus.site_of(names[int(i)].as_py())
