"""A corpus in memory whose sites lie in bigger cubes, a few of many cells filled; pixels say where they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt
from affine import Affine
from odc.geo.geobox import GeoBox

from eocube.errors import AssetReadError, UnknownNameError
from eocube.model.bands import Band
from eocube.model.frame import Axis, Frame, Variable
from eocube.model.hashing import digest
from eocube.model.memory import frame_bytes
from eocube.model.recipe import Arrays, Cost, Node, OnError
from eocube.model.scene import Site
from eocube.model.spec import Cut, Place
from eocube.model.window import Window

CELLS, SITE_PX, DATES = 40, 6, 5
"""Cells along an edge of a tile, pixels along one of a site, dates of the closed axis."""

DAY_MS = 86_400_000
NODATA = -32768
ANGLES = Axis(name="angle", labels=("zenith", "azimuth"))


def tile_frame(tile: str) -> Frame:
    """A tile's frame: two bands in int16, two angles in float32, a mask."""
    edge, east = CELLS * SITE_PX, 1 + sum(map(ord, tile)) % 40
    return Frame(
        geobox=GeoBox((edge, edge), Affine(3, 0, east * 24_000.0, 0, -3, 5_000_000.0), "EPSG:32633"),
        time_ms=tuple(17_500 * DAY_MS + n * 5 * DAY_MS for n in range(DATES)),
        bands=(Band(name="red"), Band(name="nir")),
        variables=(
            Variable(name="data", dtype="int16", banded=True, nodata=NODATA, scale=1e-4, offset=0.0),
            Variable(name="angles", dtype="float32", axis=ANGLES, nodata=float("nan")),
            Variable(name="valid", dtype="uint8", flags=((0, "no_data"), (1, "data"))),
        ),
    )


def place_of(site: str) -> Place:
    """Where ``<tile>_<row>_<column>`` lies, both from 0."""
    _, row, column = site.rsplit("_", 2)
    y, x = (int(i) * SITE_PX for i in (row, column))
    return Place(site, (y, y + SITE_PX), (x, x + SITE_PX))


def site_pixels(site: str, variable: str) -> npt.NDArray[Any]:
    """Every pixel of a site: (time, band or angle, y, x), of the mask (time, y, x)."""
    _, row, column = site.rsplit("_", 2)
    t, b, y, x = np.indices((DATES, 2, SITE_PX, SITE_PX))
    data = 7 * int(row) + 11 * int(column) + 1000 * t + 100 * b + 10 * y + x
    if variable == "valid":
        return np.ones((DATES, SITE_PX, SITE_PX), "u1")
    return data.astype("f4") / 8 if variable == "angles" else data.astype("i2")


class TileSource:
    """One tile with some of its sites. See :class:`eocube.model.recipe.Source` and ``Sited``."""

    def __init__(self, tile: str, sites: Sequence[str], *, missing: Sequence[tuple[str, int]] = (), broken: Sequence[str] = ()):
        self.tile, self.sites = tile, tuple(sorted(sites))
        self.missing, self.broken = frozenset(missing), frozenset(broken)

    def frame(self) -> Frame:
        """See :class:`eocube.model.recipe.Source`."""
        return tile_frame(self.tile)

    @property
    def cut(self) -> Cut:
        """See :class:`eocube.model.recipe.Sited`: a site is a shard with all its dates, each band has chunks of its own."""
        return Cut(chunk_tyx=(2, SITE_PX, SITE_PX), shard_tyx=(6, SITE_PX, SITE_PX), bands_apart=True)

    @property
    def places(self) -> tuple[Place, ...]:
        """See :class:`eocube.model.recipe.Sited`."""
        return tuple(map(place_of, self.sites))

    @property
    def block_yx(self) -> tuple[int, int]:
        """See :class:`eocube.model.recipe.Source`."""
        return SITE_PX, SITE_PX

    def read(self, window: Window, *, names: tuple[str, ...] | None = None, on_error: OnError | None = None) -> Arrays:
        """See :class:`eocube.model.recipe.Source`."""
        frame, out = self.frame(), Arrays()
        for v in frame.variables:
            if names is not None and v.name not in names:
                continue
            whole = np.full(frame.shape(v.name), v.fill, v.dtype)
            for place in self._meeting(window):
                self._fill(whole[..., slice(*place.y), slice(*place.x)], place.site, v, on_error)
            out[v.name] = whole[list(window.times)][..., slice(*window.y), slice(*window.x)]
        return out

    def _fill(self, out: npt.NDArray[Any], site: str, v: Variable, on_error: OnError | None) -> None:
        if site in self.broken:
            error = AssetReadError(f"memory:{site}", site, v.name, "it is broken")
            if on_error is None:
                raise error
            on_error(error)
            return
        there = [t for t in range(DATES) if (site, t) not in self.missing]
        out[there] = site_pixels(site, v.name)[there]

    def _meeting(self, window: Window) -> list[Place]:
        (y0, y1), (x0, x1) = window.y, window.x
        return [p for p in self.places if p.y[0] < y1 and y0 < p.y[1] and p.x[0] < x1 and x0 < p.x[1]]

    def ids(self, window: Window) -> list[list[Any]]:
        """See :class:`eocube.model.recipe.Source`: a row a site and date that is there."""
        return [[f"{p.site}/{t}"] for p in self._meeting(window) for t in window.times if (p.site, t) not in self.missing]

    def cost(self, window: Window) -> Cost:
        """See :class:`eocube.model.recipe.Source`: a request a site and date."""
        n = frame_bytes(self.frame(), window)
        return Cost(len(self.ids(window)), n, n)

    def assets(self) -> list[dict[str, Any]]:
        """See :class:`eocube.model.recipe.Source`."""
        return [
            {"item_id": site, "time": ms, "asset": "data", "href": f"memory:{site}/{t}", "dn_shift": 0}
            for site in self.sites
            for t, ms in enumerate(self.frame().time_ms)
        ]

    def token(self) -> str:
        """See :class:`eocube.model.recipe.Source`."""
        return digest(["tile", self.tile, list(self.sites), sorted(self.missing), sorted(self.broken)])


class TileCorpus:
    """Sites ``<tile>_<row>_<column>`` of tiles. See :class:`eocube.corpora.protocol.TiledCorpus`."""

    name, attributions, license = "tiles", ("Made up",), "CC0-1.0"

    def __init__(self, *sites: str, **told: Any):
        self._names, self._told = tuple(sorted(sites)), told

    @property
    def sites(self) -> tuple[Site, ...]:
        """See :class:`eocube.corpora.protocol.Corpus`."""
        return tuple(Site(name=s, cube=_tile(s), geobox=_box(s), products=("pf",)) for s in self._names)

    @property
    def products(self) -> tuple[str, ...]:
        """See :class:`eocube.corpora.protocol.TiledCorpus`."""
        return ("pf",)

    def tiles(self, names: Sequence[str] | None = None) -> Iterator[tuple[str, list[str]]]:
        """See :class:`eocube.corpora.protocol.TiledCorpus`."""
        for tile, found in groupby(sorted(self._names if names is None else names), key=_tile):
            yield tile, list(found)

    def labels(self, cube: str) -> dict[str, str]:
        """See :class:`eocube.corpora.protocol.TiledCorpus`."""
        return {"split": "train", "group": cube}

    def source(self, site: str, product: str) -> tuple[TileSource, Node]:
        """See :class:`eocube.corpora.protocol.Corpus`."""
        return self.tile_source(_tile(site), [site], product)

    def tile_source(self, cube: str, sites: Sequence[str], product: str) -> tuple[TileSource, Node]:
        """See :class:`eocube.corpora.protocol.TiledCorpus`."""
        if product != "pf":
            raise UnknownNameError("product", product, ["pf"], "this corpus")
        source = TileSource(cube, sites, **self._told)
        return source, {"source": digest(["tile", cube, product]), "kind": "tiles"}


def _tile(site: str) -> str:
    return site.rsplit("_", 2)[0]


def _box(site: str) -> GeoBox:
    place = place_of(site)
    return tile_frame(_tile(site)).geobox[slice(*place.y), slice(*place.x)]
