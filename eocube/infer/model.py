"""What a network is to eocube: arrays in, arrays out, and the few facts that a caller must know before the first pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

from eocube.errors import ModelError
from eocube.kernels.arrays import BoolArray, Float32Array


class Model(Protocol):
    """A network on plain arrays. Options are bound in the constructor; the call is the same for every network.

    The members are read-only properties here so that frozen dataclasses and plain attributes both conform.
    """

    @property
    def scale(self) -> Fraction:
        """Output pixels per input pixel; tile origins are multiples of its denominator (25/8 → 8, 10/3 → 3)."""

    @property
    def halo_px(self) -> int:
        """Input pixels of context beyond which the output no longer changes."""

    @property
    def revisits(self) -> int:
        """Length of the revisit axis of every call: 1 for single-frame networks; a missing revisit is given masked."""

    @property
    def bands_in(self) -> tuple[str, ...]:
        """Names of the bands the network takes, in the order of its band axis (STAC EO ``common_name``)."""

    @property
    def bands_out(self) -> tuple[str, ...]:
        """Names of the bands it gives, in order."""

    @property
    def model_id(self) -> str:
        """What decides the output pixels (architecture and weights), as one digest: the model in a cube's provenance."""

    def __call__(self, lr: Float32Array, *, valid: BoolArray, days: Float32Array) -> Float32Array:
        """Run the network on one batch.

        Parameters
        ----------
        lr
            Reflectance, ``(n, revisit, band, y, x)`` float32, finite everywhere: 0 where not ``valid``.
        valid
            ``(n, revisit, y, x)``; True where a pixel is usable. A missing revisit is False everywhere.
        days
            ``(n, revisit)`` float32, days of each revisit from the target date (before: negative).

        Returns
        -------
        ``(n, band, y * scale, x * scale)`` float32. The inputs are left as they were, and a later call leaves an earlier
        result as it was. A sample's output depends neither on the other samples nor on its place in the batch.
        """


@dataclass(frozen=True, kw_only=True)
class BatchShape:
    """The one shape of every batch of a run. Equal bytes need it: float32 convolutions differ between batch shapes."""

    n: int
    """Tiles in a batch."""
    revisits: int
    bands_in: int
    bands_out: int
    tile_yx: tuple[int, int]
    """Input pixels of a tile, core and halo together."""
    out_yx: tuple[int, int]
    """Output pixels of a tile: ``tile_yx * scale``."""

    @property
    def lr(self) -> tuple[int, int, int, int, int]:
        """Shape of the input, ``(n, revisit, band, y, x)``."""
        return (self.n, self.revisits, self.bands_in, *self.tile_yx)

    @property
    def out(self) -> tuple[int, int, int, int]:
        """Shape of the output, ``(n, band, y, x)``."""
        return (self.n, self.bands_out, *self.out_yx)

    @property
    def tile_bytes(self) -> int:
        """Bytes of one tile: its pixels, masks and days, and its output."""
        height, width = self.tile_yx
        out_height, out_width = self.out_yx
        inputs = self.revisits * (height * width * (4 * self.bands_in + 1) + 4)
        return inputs + 4 * self.bands_out * out_height * out_width

    @property
    def batch_bytes(self) -> int:
        """Bytes of one batch with its output."""
        return self.n * self.tile_bytes


def batch_shape(model: Model, *, tile_yx: tuple[int, int], batch_size: int) -> BatchShape:
    """Shape of the batches of ``batch_size`` tiles of ``tile_yx`` input pixels that ``model`` takes.

    Raises
    ------
    ModelError
        If a tile does not become a whole number of output pixels, or a size is not positive.
    """
    if batch_size < 1 or min(tile_yx) < 1:
        raise ModelError(f"A batch of {batch_size} tiles of {tile_yx} (y, x) pixels was asked for; both must be at least 1.")
    height, width = (edge * model.scale for edge in tile_yx)
    if height.denominator != 1 or width.denominator != 1:
        raise ModelError(
            f"Tiles of {tile_yx} (y, x) pixels at scale {model.scale} give {height} x {width} output pixels, not whole ones. "
            f"Make both edges multiples of {model.scale.denominator}."
        )
    return BatchShape(
        n=batch_size,
        revisits=model.revisits,
        bands_in=len(model.bands_in),
        bands_out=len(model.bands_out),
        tile_yx=tile_yx,
        out_yx=(int(height), int(width)),
    )


def band_indices(model: Model, bands: Sequence[str], *, where: str = "the cube") -> tuple[int, ...]:
    """Where each band the model takes stands in ``bands``, so that ``data[..., indices, :, :]`` is in the model's order.

    Raises
    ------
    ModelError
        If a band is missing from ``bands``.
    """
    missing = [band for band in model.bands_in if band not in bands]
    if missing:
        raise ModelError(
            f"The model takes the bands {', '.join(model.bands_in)}; {where} has {', '.join(bands)}, so {', '.join(missing)} "
            "is missing. Choose a cube that has it, or a model that does without."
        )
    return tuple(list(bands).index(band) for band in model.bands_in)


def check_output(out: Float32Array, expected: tuple[int, ...]) -> None:
    """Refuse what a model gave unless it is float32 of the shape it promised.

    Raises
    ------
    ModelError
        Naming both shapes and dtypes.
    """
    if out.shape != expected or out.dtype != "float32":
        raise ModelError(
            f"The model promised {expected} (n, band, y, x) float32 and gave {out.shape} {out.dtype}. "
            "Its scale or bands_out do not describe its network; subclass eocube.testing's ModelContract to find out which."
        )
