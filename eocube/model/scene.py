"""Scenes and assets: one observation, and one band of one file of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from odc.geo.geobox import GeoBox


@dataclass(frozen=True, kw_only=True)
class Asset:
    """One band of one file, as its metadata describes it."""

    href: str
    """Path or URL."""

    key: str
    """The asset's name in its item."""

    bidx: int = 1
    """Band of the file, from 1."""

    geobox: GeoBox | None = None
    """Declared grid; None where the metadata gives none."""

    dtype: str | None = None
    nodata: float | None = None
    scale: float | None = None
    offset: float | None = None
    dn_shift: int = 0
    """Added to every number with data on reading, so that one offset holds for the whole cube."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One observation: a STAC item or its like."""

    item_id: str
    time_ms: int
    """Acquisition, milliseconds since 1970-01-01 UTC."""

    assets: dict[str, Asset] = field(hash=False)
    """Band or mask name → asset."""

    properties: dict[str, Any] = field(default_factory=dict, hash=False)
    """Scalars that become per-date coordinates: cloud_cover, baseline, platform."""

    @property
    def identity(self) -> list[Any]:
        """What names this scene's pixels: id, time and the shifts of its assets."""
        return [self.item_id, self.time_ms, max((a.dn_shift for a in self.assets.values()), default=0)]


@dataclass(frozen=True, kw_only=True)
class Site:
    """A named place of a corpus; a cube of its own, or a window of one."""

    name: str
    """As the corpus has it."""

    cube: str = ""
    """The cube's name in a store, a slug ``[A-Za-z0-9_.-]``; empty: the site's name. Sites with one cube lie in it."""

    geobox: GeoBox
    """Its finest grid."""

    products: tuple[str, ...]
    split: str | None = None
    """``train``, ``val`` or ``test``, where the corpus has one."""

    group: str | None = None
    """What must not be torn apart by a split: tiles of one order."""

    properties: Mapping[str, Any] = field(default_factory=dict, hash=False, compare=False)
    """What else the corpus's tables say of it: classes, source, cloud cover."""
