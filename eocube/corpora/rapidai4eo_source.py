"""RapidAI4EO's pixels: one product of one 24 km tile, with some of its sites, from whole small files.

Nothing is opened to know where a site lies or which files it has: ids tell (:mod:`eocube.corpora.rapidai4eo_ids`). Every file's
own grid is compared with its id's before its pixels are used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from odc.geo.geobox import GeoBox

from eocube.corpora.rapidai4eo_ids import (
    PF_TIMES_MS,
    S2_BOUNDS_MS,
    SiteId,
    check_grid,
    image_path,
    parse_tile,
    product_of,
    site_window,
    tile_geobox,
)
from eocube.errors import AssetReadError, GridError
from eocube.io.chips import Chip, decode_chip
from eocube.io.trees import UNKNOWN_SIZE, StoredFile, TreeReader
from eocube.model.bands import Band
from eocube.model.frame import Frame, Variable
from eocube.model.hashing import digest
from eocube.model.recipe import Arrays, Cost, Node, OnError
from eocube.model.spec import Cut, Place
from eocube.model.window import Window

Used = TypeVar("Used")

PF_FILL = -32768
"""No tag says so: what tools that warp Planet Fusion were seen to write. Pixels that are 0 in every band become it too."""

PF_CHUNK_DATES, PF_SHARD_DATES = 12, 156
"""A chunk is a year's month of dates of one band, a shard all 146 dates of a site, in whole chunks."""

SCALE = 1e-4
"""Reflectance of one step: DN / 10,000, Sentinel-2's and Planet Fusion's (documented of its successor product)."""


@dataclass(frozen=True, kw_only=True)
class Layers:
    """What a product's files hold, in their order."""

    bands: tuple[Band, ...]
    dtype: str


@dataclass(frozen=True, kw_only=True)
class Roots:
    """Where the corpus lies: copies of one tree, of which the first that has a usable file counts."""

    urls: tuple[str, ...]
    reader: TreeReader

    def read(self, path: str, use: Callable[[bytes, str], Used]) -> Used:
        """What ``use`` makes of the bytes of a file and its address, at the first root where it can: a body that is cut off or an
        error page is passed over, as a host that does not answer is.

        AssetReadError where none has it, at the first root's address and with the reason of each.
        """
        met: list[tuple[str, str]] = []
        for url in self.urls:
            place = f"{url}/{path}"
            try:
                return use(self.reader.read_whole(StoredFile(path=path, size=UNKNOWN_SIZE, place=place)), place)
            except AssetReadError as e:
                met.append((e.href, e.reason))
            except GridError as e:
                met.append((place, str(e)))
        (href, reason), others = met[0], [f"{place}: {reason.rstrip('. ')}" for place, reason in met[1:]]
        raise AssetReadError(href, "", "", "; ".join([reason.rstrip(". "), *others]))


@dataclass(frozen=True, kw_only=True)
class TileSource:
    """See :class:`eocube.model.recipe.Source` and ``Sited``."""

    tile: str
    """``33N_15E-200N``."""

    product: str
    layers: Layers
    sites: tuple[SiteId, ...]
    present: Mapping[SiteId, tuple[int, ...]] | None
    """Site → steps of the time axis that it has a file of; None: all, as a remote tree is not listed."""

    roots: Roots

    def frame(self) -> Frame:
        """See :class:`eocube.model.recipe.Source`."""
        return frame_of_tile(self.tile, self.product, self.layers)

    @property
    def node(self) -> Node:
        """Its entry in a recipe."""
        bands = [b.name for b in self.layers.bands]
        return {"source": digest(["rapidai4eo", self.tile, self.product, bands]), "kind": "rapidai4eo", "product": self.product}

    @property
    def block_yx(self) -> tuple[int, int]:
        """See :class:`eocube.model.recipe.Source`: files are read whole."""
        edge = product_of(self.product).site_px
        return edge, edge

    @property
    def cut(self) -> Cut:
        """See :class:`eocube.model.recipe.Sited`: a site with all its dates is a shard."""
        edge, n = product_of(self.product).site_px, len(product_of(self.product).stamps)
        if self.product == "s2_sr":
            return Cut(chunk_tyx=(n, edge, edge), shard_tyx=(n, edge, edge))
        return Cut(chunk_tyx=(PF_CHUNK_DATES, edge, edge), shard_tyx=(PF_SHARD_DATES, edge, edge), bands_apart=True)

    @cached_property
    def places(self) -> tuple[Place, ...]:
        """See :class:`eocube.model.recipe.Sited`. Kept: asking whether a source is one asks for it."""
        return tuple(Place(str(site), *site_window(site, self.product)) for site in self.sites)

    def read(self, window: Window, *, names: tuple[str, ...] | None = None, on_error: OnError | None = None) -> Arrays:
        """See :class:`eocube.model.recipe.Source`."""
        if names is not None and "data" not in names:
            return {}
        frame = self.frame()
        out = np.full((len(window.times), len(frame.bands), *window.shape_yx), frame.data.fill, frame.data.dtype)
        for site, inside, outside in self._meeting(window):
            for i, t in enumerate(window.times):
                if not self._has(site, t):
                    continue
                try:
                    out[(i, slice(None), *outside)] = self._pixels(site, t)[(slice(None), *inside)]
                except AssetReadError as e:
                    if on_error is None:
                        raise
                    on_error(e)
        return {"data": out}

    def _meeting(self, window: Window) -> Iterator[tuple[SiteId, tuple[slice, slice], tuple[slice, slice]]]:
        """(site, its pixels in the window, where they go in the window) of each site that the window meets."""
        edge = product_of(self.product).site_px
        rows, columns = (range(a // edge, -(-b // edge)) for a, b in (window.y, window.x))
        cells = ((y, x) for y in rows for x in columns)
        for site in (self._by_cell[cell] for cell in cells if cell in self._by_cell):
            spans = list(zip(site_window(site, self.product), (window.y, window.x), strict=True))
            cut = [(max(a, c), min(b, d)) for (a, b), (c, d) in spans]
            if all(low < high for low, high in cut):
                at = zip(cut, spans, strict=True)
                inside, outside = zip(
                    *((slice(lo - own[0], hi - own[0]), slice(lo - w[0], hi - w[0])) for (lo, hi), (own, w) in at), strict=True
                )
                yield site, (inside[0], inside[1]), (outside[0], outside[1])

    def cost_class(self, window: Window) -> Hashable:
        """See :class:`eocube.model.recipe.Classed`: by the dates that a site has."""
        edge = product_of(self.product).site_px
        site = self._by_cell.get((window.y[0] // edge, window.x[0] // edge))
        if site is None or (window.y, window.x) != site_window(site, self.product):
            return window
        return window.times, None if self.present is None else self.present.get(site, ())

    @cached_property
    def _by_cell(self) -> Mapping[tuple[int, int], SiteId]:
        """Sites by row and column from 0."""
        return {(site.row - 1, site.column - 1): site for site in self.sites}

    def _has(self, site: SiteId, t: int) -> bool:
        return self.present is None or t in self.present.get(site, ())

    def _pixels(self, site: SiteId, t: int) -> npt.NDArray[Any]:
        """All bands of one file; AssetReadError says of which site, date and product."""

        def checked(body: bytes, place: str) -> Chip:
            chip = decode_chip(body, place)
            self._check(chip, site, place)
            return chip

        try:
            chip = self.roots.read(image_path(site, self.product, t), checked)
        except AssetReadError as e:
            raise AssetReadError(e.href, str(site), self._asset(t), e.reason) from e
        pixels = chip.pixels
        empty = ~pixels.any(axis=0)
        if self.product == "pf_sr" and empty.any():
            pixels[:, empty] = PF_FILL
        return pixels

    def _check(self, chip: Chip, site: SiteId, place: str) -> None:
        n = len(self.layers.bands)
        if chip.pixels.shape[0] != n or chip.dtype != self.layers.dtype:
            found = f"{chip.pixels.shape[0]} bands of {chip.dtype}"
            raise AssetReadError(place, "", "", f"it has {found}; {self.product} has {n} of {self.layers.dtype}")
        if chip.transform is None or chip.crs is None:
            raise AssetReadError(place, "", "", "it says no grid, so that its place cannot be compared with its id's")
        check_grid(site, self.product, GeoBox(chip.pixels.shape[1:], chip.transform, chip.crs), where=place)

    def _asset(self, t: int) -> str:
        found = product_of(self.product)
        return f"{found.folder}/{found.stamps[t]}"

    def ids(self, window: Window) -> list[list[Any]]:
        """See :class:`eocube.model.recipe.Source`: a row a site and date that it has a file of."""
        return [[f"{site}/{self._asset(t)}"] for site, _, _ in self._meeting(window) for t in window.times if self._has(site, t)]

    def cost(self, window: Window) -> Cost:
        """See :class:`eocube.model.recipe.Source`: one request a file, which is read whole."""
        pixel, edge = len(self.layers.bands) * np.dtype(self.layers.dtype).itemsize, product_of(self.product).site_px
        files = used = 0
        for site, inside, _ in self._meeting(window):
            n = len(window.times) if self.present is None else sum(self._has(site, t) for t in window.times)
            files += n
            used += n * math.prod(s.stop - s.start for s in inside) * pixel
        return Cost(files, files * edge * edge * pixel, used)

    def scratch_bytes(self, window: Window) -> int:
        """See :class:`eocube.model.recipe.Scratching`: one file's bytes, its pixels in blocks and as a whole."""
        n_bytes: int = 4 * math.prod(self.block_yx) * len(self.layers.bands) * np.dtype(self.layers.dtype).itemsize
        return n_bytes if window.times else 0

    def assets(self) -> list[dict[str, Any]]:
        """See :class:`eocube.model.recipe.Source`."""
        times = self.frame().time_ms
        return [
            {
                "item_id": str(site),
                "time": times[t],
                "asset": self._asset(t),
                "href": f"{self.roots.urls[0]}/{image_path(site, self.product, t)}",
                "dn_shift": None,
            }
            for site in self.sites
            for t in range(len(times))
            if self._has(site, t)
        ]

    def token(self) -> str:
        """See :class:`eocube.model.recipe.Source`."""
        present = None if self.present is None else [[str(s), list(self.present.get(s, ()))] for s in self.sites]
        return digest([self.node, list(self.roots.urls), [str(s) for s in self.sites], present])


def frame_of_tile(tile: str, product: str, layers: Layers) -> Frame:
    """The frame of a tile's product: its whole closed time axis, whatever files there are.

    PF-QA of integers has no nodata, as no number is known to be free: a date without a file is 0, as an observed 0 is. What was
    there is told by :meth:`TileSource.ids` and :meth:`TileSource.assets`, and by PF-SR, where an absent date is ``PF_FILL``.
    """
    kind = np.dtype(layers.dtype).kind
    nodata = {"pf_sr": PF_FILL, "s2_sr": 0}.get(product) if kind in "iu" else math.nan
    data = Variable(
        name="data",
        dtype=layers.dtype,
        banded=True,
        nodata=nodata,
        scale=None if product == "pf_qa" else SCALE,
        offset=None if product == "pf_qa" else 0.0,
    )
    monthly = product == "s2_sr"
    return Frame(
        geobox=tile_geobox(parse_tile(tile), product),
        time_ms=tuple(start for start, _ in S2_BOUNDS_MS) if monthly else PF_TIMES_MS,
        time_bnds_ms=S2_BOUNDS_MS if monthly else None,
        bands=layers.bands,
        variables=(data,),
    )
