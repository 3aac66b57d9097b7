"""A model as users and tasks hold it: what must be known of it, and the means to load it once where it runs."""

from __future__ import annotations

import sys
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from eocube.errors import ModelError
from eocube.infer.load import ModelSpec, dask_host, holder_in
from eocube.infer.model import Model
from eocube.io.blobs import open_blobs
from eocube.kernels.arrays import BoolArray, Float32Array
from eocube.sr.baselines import BicubicSr, NearestSr
from eocube.sr.folder import read_description

BASELINES: dict[str, type[NearestSr | BicubicSr]] = {"nearest": NearestSr, "bicubic": BicubicSr}


@dataclass(frozen=True, kw_only=True)
class SrModel:
    """A super-resolution model by name: pickles small, loads its weights when it first runs, once a worker.

    It is itself a Model (``eocube.infer.model``): called with arrays it runs.
    """

    spec: ModelSpec
    """How to load it."""

    scale: Fraction
    halo_px: int
    bands_in: tuple[str, ...]
    bands_out: tuple[str, ...]
    model_id: str
    revisits: int = 1
    training: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """What is known of how it was made."""

    _host: MutableMapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_host": {}}

    @property
    def resource_id(self) -> str:
        """Name of the model in recipes."""
        return self.model_id

    def loaded(self) -> Model:
        """The model with its weights, kept by the Dask worker that runs this task, else by this object."""
        return holder_in(_worker() or self._host).get(self.spec)

    def __call__(self, lr: Float32Array, *, valid: BoolArray, days: Float32Array) -> Float32Array:
        """See ``Model``."""
        return self.loaded()(lr, valid=valid, days=days)


def _worker() -> MutableMapping[str, Any] | None:
    """What the Dask worker of this task keeps from task to task; None outside one."""
    if "distributed" not in sys.modules:
        return None
    try:
        return dask_host()
    except ValueError:
        return None


def load_model(
    name: str,
    *,
    scale: int | None = None,
    bands: Sequence[str] | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> SrModel:
    """A super-resolution model.

    Parameters
    ----------
    name
        Folder or URL that :func:`eocube.train` wrote, or ``nearest`` or ``bicubic``.
    scale, bands
        For ``nearest`` and ``bicubic``: output pixels per input pixel, and the bands to take and give.
    storage_options
        For the folder's URL.

    Returns
    -------
    The model; its weights are read when it first runs. No file is ever unpickled.

    Raises
    ------
    ModelError
        If no model is there, or ``scale`` and ``bands`` are missing or make no sense.
    """
    if name in BASELINES:
        return _baseline(name, scale, bands)
    if scale is not None or bands is not None:
        raise ModelError(f"The model at {name} knows its scale and bands; leave scale= and bands= away, or name a baseline.")
    options = dict(storage_options or {})
    blobs = open_blobs(name, options)
    described = read_description(blobs)
    kwargs: dict[str, Any] = {"url": blobs.url} | ({"options": options} if options else {})
    return SrModel(
        spec=ModelSpec.of("eocube.sr.folder:load_network", model_id=described.model_id, **kwargs),
        scale=Fraction(described.scale),
        halo_px=described.halo_px,
        bands_in=described.bands_in,
        bands_out=described.bands_out,
        model_id=described.model_id,
        training=described.training,
    )


def _baseline(name: str, scale: int | None, bands: Sequence[str] | None) -> SrModel:
    if scale is None or not bands or scale < 1 or int(scale) != scale:
        raise ModelError(
            f"load_model({name!r}) was given scale={scale} and bands={bands}; pass a whole number and some names, as in "
            f"load_model({name!r}, scale=2, bands=['green', 'red'])."
        )
    made = BASELINES[name](int(scale), list(bands))
    return SrModel(
        spec=ModelSpec.of(
            f"eocube.sr.baselines:{type(made).__name__}", model_id=made.model_id, scale=int(scale), bands=list(bands)
        ),
        scale=made.scale,
        halo_px=made.halo_px,
        bands_in=made.bands_in,
        bands_out=made.bands_out,
        model_id=made.model_id,
    )


_sr_model: type[Model] = SrModel
