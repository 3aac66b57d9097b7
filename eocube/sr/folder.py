"""A trained network as a folder: tensors as safetensors, everything else as JSON. Reading one never runs code of its maker."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from eocube.errors import MissingDependencyError, ModelError
from eocube.infer.model import Model
from eocube.io.blobs import Blobs, open_blobs
from eocube.model.hashing import digest

if TYPE_CHECKING:
    import torch

DESCRIPTION, WEIGHTS = "model.json", "weights.safetensors"
FORMAT = 1
KIND = "eocube.residual"


@dataclass(frozen=True, kw_only=True)
class NetworkDescription:
    """What is known of a network without its tensors."""

    bands_in: tuple[str, ...]
    bands_out: tuple[str, ...]
    """Some of ``bands_in``."""

    scale: int
    channels: int
    blocks: int
    halo_px: int
    weights_sha256: str = ""
    normalisation: Mapping[str, Any] = field(default_factory=dict)
    """``mean`` and ``std`` of each band in, reflectance; the tensors hold them too."""

    training: Mapping[str, Any] = field(default_factory=dict)
    """Provenance: patch set, steps, seed, loss, what the sources' licences ask to be said."""

    @property
    def model_id(self) -> str:
        """Digest of what decides the output: architecture, bands and weights; not how they came about."""
        parts = [KIND, list(self.bands_in), list(self.bands_out), self.scale, self.channels, self.blocks, self.weights_sha256]
        return digest(parts)


def build(described: NetworkDescription) -> Any:
    """The torch module of a description, with fresh weights. MissingDependencyError without torch."""
    try:
        from eocube.sr.network import ResidualSr
    except ImportError as e:
        raise MissingDependencyError("A super-resolution network", "torch", "sr") from e
    return ResidualSr(
        n_in=len(described.bands_in),
        out_index=[described.bands_in.index(b) for b in described.bands_out],
        scale=described.scale,
        channels=described.channels,
        blocks=described.blocks,
    )


def save_network(url: str, module: torch.nn.Module, described: NetworkDescription, options: Mapping[str, Any]) -> None:
    """Write a folder: the tensors, then the description that makes it a model."""
    from safetensors.torch import save

    tensors = {k: v.detach().cpu().contiguous() for k, v in sorted(module.state_dict().items())}
    body: bytes = save(tensors)
    blobs = open_blobs(url, options)
    blobs.put(WEIGHTS, body)
    stated = {"format": FORMAT, "kind": KIND, **asdict(described), "weights_sha256": hashlib.sha256(body).hexdigest()}
    blobs.put(DESCRIPTION, json.dumps(stated, indent=1, sort_keys=True, allow_nan=False).encode())


def read_description(blobs: Blobs) -> NetworkDescription:
    """The description in a folder; ModelError where there is none or it is not of this kind."""
    body = blobs.get(DESCRIPTION)
    if body is None:
        raise ModelError(
            f"No model is at {blobs.url}: no {DESCRIPTION} was found there. Check the address, or make one with eocube.train."
        )
    try:
        stated = json.loads(body)
        kind = stated.pop("format"), stated.pop("kind")
        bands_in, bands_out = tuple(stated.pop("bands_in")), tuple(stated.pop("bands_out"))
        described = NetworkDescription(bands_in=bands_in, bands_out=bands_out, **stated)
        known = kind == (FORMAT, KIND) and set(described.bands_out) <= set(described.bands_in)
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise ModelError(f"{DESCRIPTION} at {blobs.url} does not describe a network of eocube: {e!r}.") from e
    if not known:
        raise ModelError(
            f"{DESCRIPTION} at {blobs.url} describes format and kind {kind} from {described.bands_in} to {described.bands_out}; "
            f"this eocube reads {(FORMAT, KIND)} with bands out that are among the bands in."
        )
    return described


def load_network(url: str, options: Mapping[str, Any] | None = None, threads: int | None = None) -> Model:
    """The network in a folder, ready to run. Only tensors are read; nothing is unpickled.

    Raises
    ------
    ModelError
        If description and tensors are missing, damaged or do not belong together.
    MissingDependencyError
        Without torch or safetensors.
    """
    blobs = open_blobs(url, options)
    described = read_description(blobs)
    module = build(described)
    _fill(module, blobs, described)
    from eocube.infer.torch_model import TorchModel

    return TorchModel(
        module,
        bands_in=described.bands_in,
        bands_out=described.bands_out,
        scale=Fraction(described.scale),
        halo_px=described.halo_px,
        revisits=1,
        threads=threads,
        model_id=described.model_id,
    )


def _fill(module: Any, blobs: Blobs, described: NetworkDescription) -> None:
    """Put the folder's tensors into ``module``."""
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load
    except ImportError as e:
        raise MissingDependencyError("Reading a model", "safetensors", "sr") from e
    body = blobs.get(WEIGHTS)
    if body is None or hashlib.sha256(body).hexdigest() != described.weights_sha256:
        found = "missing" if body is None else "another file"
        raise ModelError(f"{WEIGHTS} at {blobs.url} is {found} than the one {DESCRIPTION} describes. Copy the folder again.")
    try:
        module.load_state_dict(load(body))
    except (SafetensorError, RuntimeError, ValueError, TypeError) as e:
        raise ModelError(f"{WEIGHTS} at {blobs.url} does not hold the tensors of the network described there: {e}.") from e
    if module.halo_px > described.halo_px:
        raise ModelError(f"{DESCRIPTION} at {blobs.url} states a halo of {described.halo_px}; the network has {module.halo_px}.")
