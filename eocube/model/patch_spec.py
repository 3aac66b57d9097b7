"""What an LR/HR patch set is to hold: which products, how big, how clear, and who may learn from what."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

from eocube.errors import PatchError
from eocube.model.hashing import canonical_json, digest

Split = Literal["train", "test"]


@dataclass(frozen=True, kw_only=True)
class SplitRule:
    """Blocks of ground times periods of time: a test patch lies in both a test block and a test period, a training patch in
    neither, and whatever is left is used for nothing.

    Blocks count from the origin of the CRS and periods from 1970-01-01, so that the split of a place and date never changes:
    not with other sites, more dates or another extent. Two sites in one CRS that overlap agree on every block; sites in
    different CRS (two UTM zones) do not know of each other.
    """

    block_px: int = 64
    """Edge of a block in LR pixels."""

    blocks_yx: tuple[int, int] = (2, 2)
    """Of each group of so many neighbouring blocks exactly one, drawn by the seed, is for testing."""

    buffer_px: int = 4
    """LR pixels between any training patch and any test block."""

    period_days: int | None = 120
    """Length of a period; None: time is not split, and a test patch is one of a test block at any date."""

    periods: int = 4
    """Of each run of so many periods exactly one, drawn by the seed, is for testing."""

    gap_days: float = 10
    """Days between any training date and any test period."""

    def __post_init__(self) -> None:
        sizes = (self.block_px, *self.blocks_yx, 1 if self.period_days is None else self.period_days, self.periods)
        if min(sizes) < 1 or self.buffer_px < 0 or not self.gap_days >= 0:
            raise PatchError(f"{self} has a size below 1 or a negative distance; blocks, periods and groups count from 1.")
        if self.blocks_yx == (1, 1) or (self.period_days is not None and self.periods == 1):
            raise PatchError(f"{self} makes every block or every period a test one, so nothing is left to train on.")


@dataclass(frozen=True, kw_only=True)
class PatchSpec:
    """An LR/HR patch set. Equal specs on equal stores give equal patches, with the same ids, in the same order."""

    lr_product: str
    """Product of the store with the coarse cube, the network's input."""

    hr_product: str
    """Product with the fine cube, what the network is to give."""

    lr_bands: tuple[str, ...] = ()
    """Bands of ``lr`` in order; empty: all of the cube."""

    hr_bands: tuple[str, ...] = ()
    """Bands of ``hr`` in order; empty: all of the cube."""

    scale: int = 2
    """HR pixels per LR pixel along both axes. The grids must nest: one CRS, corners of LR pixels on corners of HR pixels."""

    lr_px: int = 32
    """Edge of an LR patch; the HR patch has ``lr_px * scale``."""

    stride_px: int = 32
    """LR pixels from one patch to the next; less than ``lr_px``: patches overlap."""

    min_clear: float = 0.9
    """Least share of clear pixels of a patch, in LR and in HR; clear by the scene classification, else by having data."""

    time_tolerance_days: float = 0.5
    """An HR date is paired with the nearest LR date at most so many days away."""

    split: SplitRule | None = field(default_factory=SplitRule)
    """Who may learn from what; None: every patch is a training patch."""

    seed: int = 0
    """Draws test blocks and periods."""

    def __post_init__(self) -> None:
        if min(self.scale, self.lr_px, self.stride_px) < 1 or not 0 <= self.min_clear <= 1 or not self.time_tolerance_days >= 0:
            raise PatchError(
                f"Patches of {self.lr_px} px every {self.stride_px} px at scale {self.scale}, at least {self.min_clear} clear, "
                f"dates within {self.time_tolerance_days} days: sizes count from 1, shares lie in 0-1, days are not negative."
            )
        if self.split is not None and self.split.block_px < self.lr_px:
            raise PatchError(
                f"Blocks of {self.split.block_px} px hold no patch of {self.lr_px} px, so there would be no test patch. "
                "Make block_px a few times lr_px."
            )
        for bands in (self.lr_bands, self.hr_bands):
            if len(set(bands)) != len(bands):
                raise PatchError(f"Bands {bands} repeat a name.")

    @property
    def hr_px(self) -> int:
        """Edge of an HR patch."""
        return self.lr_px * self.scale

    def to_json(self) -> str:
        """The spec as canonical JSON; :meth:`from_json` is the inverse."""
        return canonical_json(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The spec that ``text`` describes; PatchError where a field is unknown or missing."""
        try:
            fields: dict[str, Any] = json.loads(text)
            rule = fields.pop("split", None)
            return cls(**_tuples(fields), split=None if rule is None else SplitRule(**_tuples(rule)))
        except (TypeError, ValueError, AttributeError) as e:
            if isinstance(e, PatchError):
                raise
            raise PatchError(f"{text[:200]!r} does not describe a patch set: {e}.") from e

    @property
    def spec_id(self) -> str:
        """Digest of the spec."""
        return digest(json.loads(self.to_json()))


def _tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
