"""What a corpus is."""

from __future__ import annotations

from typing import Protocol

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
    def sites(self) -> tuple[Site, ...]:
        """Every site, in name order."""

    def source(self, site: str, product: str) -> tuple[Source, Node]:
        """The pixels of one product at one site, and their entry in a recipe. UnknownNameError for other names."""
