"""What a corpus is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from eocube.model.recipe import Node, Source
from eocube.model.scene import Site


class Corpus(Protocol):
    """Original files as sites and products."""

    @property
    def name(self) -> str:
        """``stac``, ``worldstrat`` …"""

    @property
    def attributions(self) -> tuple[str, ...]:
        """What the sources' licences ask to be said."""

    @property
    def license(self) -> str | None:
        """SPDX id or the source's own words; None where nothing is stated."""

    @property
    def sites(self) -> Sequence[Site]:
        """Every site, in an order of names."""

    def source(self, site: str, product: str) -> tuple[Source, Node]:
        """The pixels of one product at one site, and their entry in a recipe. UnknownNameError for other names."""


@runtime_checkable
class LicensedProducts(Protocol):
    """A corpus whose products have licences of their own."""

    def licence(self, product: str) -> tuple[str, str]:
        """Licence (SPDX id or the source's own words) and attribution of one product."""


@runtime_checkable
class Noted(Protocol):
    """A corpus that names what is odd about its copy, and goes on."""

    @property
    def file_notes(self) -> Sequence[object]:
        """What is odd about the files that pixels come from, each by name and as a text ``kind: …``; nothing is opened for them.

        There may be more of them after sources were asked for.
        """


@runtime_checkable
class TabledSites(Protocol):
    """A corpus that tells all of its sites at once, as columns: half a million are not made one by one for a table."""

    def site_table(self) -> tuple[Mapping[str, Any], npt.NDArray[np.float64]]:
        """Columns by name, a value a site in the order of ``sites``; and outlines, longitude and latitude, (site, corner, 2)."""


@runtime_checkable
class TiledCorpus(Corpus, Protocol):
    """One whose sites lie in bigger cubes, many in one: :attr:`eocube.model.scene.Site.cube` names it.

    ``sites`` may be made one by one as they are asked for: a corpus may have half a million.
    """

    @property
    def products(self) -> tuple[str, ...]:
        """Every product."""

    def tiles(self, names: Sequence[str] | None = None) -> Iterator[tuple[str, list[str]]]:
        """(cube, names of its sites) of each cube, in name order; ``names``: of these sites only."""

    def labels(self, cube: str) -> dict[str, str]:
        """``split`` and ``group`` of a cube, as far as it has them."""

    def tile_source(self, cube: str, sites: Sequence[str], product: str) -> tuple[Source, Node]:
        """As :meth:`source`, of a whole cube with some of its sites (see :class:`eocube.model.recipe.Sited`): those of them that
        have the product. None may be left.
        """
