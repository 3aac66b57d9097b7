"""Any ``torch.nn.Module`` as a Model. torch is imported when one is made, not before."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from eocube.errors import MissingDependencyError, ModelError
from eocube.kernels.arrays import BoolArray, Float32Array
from eocube.model.hashing import digest

if TYPE_CHECKING:
    import torch


class TorchModel:
    """A ``torch.nn.Module`` with a description of its bands, scale and halo, run in float32 in one way on every device.

    Parameters
    ----------
    module
        Taken over: moved to ``device``, set to evaluation, float32 and (single-frame) ``channels_last``. A single-frame module
        takes ``(n, c, h, w)`` reflectance; a multi-frame one takes what ``Model.__call__`` takes, as tensors in that order.
    bands_in, bands_out
        Names along its channel axes.
    scale
        Output pixels per input pixel.
    halo_px
        Input pixels of context beyond which its output no longer changes: half its receptive field, rounded up.
    revisits
        Length of the revisit axis it is given; None for a single-frame module, whose only revisit is taken off.
    device
        As torch names it; None for the first CUDA device, or else the CPU.
    threads
        CPU threads of one forward, torch's own choice if None.
    model_id
        Digest of architecture and weights; made from the module's class, tensors and this description if "".

    Raises
    ------
    MissingDependencyError
        If torch is not installed.
    ModelError
        If ``revisits`` is below 1.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        *,
        bands_in: Sequence[str],
        bands_out: Sequence[str],
        scale: Fraction | int,
        halo_px: int,
        revisits: int | None = None,
        device: str | None = None,
        threads: int | None = None,
        model_id: str = "",
    ):
        torch = _torch()
        if revisits is not None and revisits < 1:
            raise ModelError(
                f"A multi-frame network was given revisits={revisits}; pass 1 or more, or None for a single-frame one."
            )
        self.scale, self.halo_px = Fraction(scale), halo_px
        self.bands_in, self.bands_out = tuple(bands_in), tuple(bands_out)
        self.revisits, self._multi_frame = revisits or 1, revisits is not None
        self.threads = threads
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._layout = torch.contiguous_format if self._multi_frame else torch.channels_last
        self.model_id = model_id or self._made_id(module)
        self.module = module.to(self.device, torch.float32).to(memory_format=self._layout).eval()  # type: ignore[call-overload]

    def __call__(self, lr: Float32Array, *, valid: BoolArray, days: Float32Array) -> Float32Array:
        """See ``Model``. A CUDA device that runs out of memory frees its cache and raises MemoryError."""
        import torch

        if self.threads is not None and torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)  # kept per calling thread by OpenMP, so not in the constructor
        try:
            with torch.inference_mode(), _exact_float32():
                out = self._forward(lr, valid, days)
                result: Float32Array = out.to("cpu", torch.float32, memory_format=torch.contiguous_format).numpy()
                return result.copy() if np.may_share_memory(result, lr) else result  # a module that passes its input on
        except torch.OutOfMemoryError as error:
            message = str(error)
        torch.cuda.empty_cache()  # outside the handler: the traceback kept the failed call's tensors alive
        raise MemoryError(message)

    def _forward(self, lr: Float32Array, valid: BoolArray, days: Float32Array) -> torch.Tensor:
        if self._multi_frame:
            return self.module(*(_tensor(values).to(self.device) for values in (lr, valid, days)))
        return self.module(_tensor(lr[:, 0]).to(self.device, memory_format=self._layout))

    def _made_id(self, module: torch.nn.Module) -> str:
        name = f"{type(module).__module__}.{type(module).__qualname__}"
        described = [name, list(self.bands_in), list(self.bands_out), str(self.scale), self.revisits, self._multi_frame]
        return digest([*described, weights_digest(module)])


def weights_digest(module: torch.nn.Module) -> str:
    """Digest of every tensor of a module: names, dtypes, shapes and values; the same on every device."""
    sha = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        values = tensor.detach().cpu().contiguous()
        sha.update(f"{name}:{values.dtype}:{tuple(values.shape)}:".encode())
        sha.update(values.flatten().view(_torch().uint8).numpy().tobytes())
    return sha.hexdigest()[:32]


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise MissingDependencyError("TorchModel", "torch", "sr") from error
    return torch


def _tensor(values: np.ndarray[Any, Any]) -> torch.Tensor:
    import torch

    return torch.from_numpy(values if values.flags.writeable else values.copy())  # torch warns of read-only memory


def _exact_float32() -> AbstractContextManager[None]:
    """Float32 means float32, and one algorithm: cuDNN's default may take TF32 and choose algorithms by timing them."""
    import torch

    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
