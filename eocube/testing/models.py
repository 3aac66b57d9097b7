"""Models without a network: nearest neighbour, and wrappers that are slow or run out of memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from eocube.infer.model import Model
from eocube.kernels.arrays import BoolArray, Float32Array
from eocube.model.hashing import digest


class NearestModel:
    """Every output pixel is the input pixel it lies in, of the first revisit that is valid there; 0 where none is.

    Parameters
    ----------
    scale
        Anything ``Fraction`` takes, so that it can come from JSON: 2, "10/3".
    bands
        Names of the bands, in and out.
    revisits
        Length of the revisit axis.
    """

    halo_px = 0

    def __init__(self, scale: Fraction | int | str = 2, bands: Sequence[str] = ("red", "nir"), revisits: int = 1):
        self.scale = Fraction(scale)
        self.bands_in = self.bands_out = tuple(bands)
        self.revisits = revisits
        self.model_id = digest(["nearest", str(self.scale), list(bands), revisits])

    def __call__(self, lr: Float32Array, *, valid: BoolArray, days: Float32Array) -> Float32Array:
        """See ``Model``."""
        first = np.asarray(valid.argmax(axis=1))[:, None, None]
        composite = np.take_along_axis(lr, first, axis=1)[:, 0] * np.asarray(valid.any(axis=1))[:, None]
        rows, columns = (self._nearest(n) for n in composite.shape[-2:])
        out: Float32Array = composite[:, :, rows[:, None], columns]
        return out

    def _nearest(self, n: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """The input pixel in which the centre of each output pixel lies, in whole numbers: exact for any fraction."""
        n_out = int(n * self.scale)
        return (2 * np.arange(n_out) + 1) * self.scale.denominator // (2 * self.scale.numerator)


class _Wrapped:
    """A model with the facts of another."""

    def __init__(self, model: Model):
        self.model = model
        self.scale, self.halo_px, self.revisits = model.scale, model.halo_px, model.revisits
        self.bands_in, self.bands_out, self.model_id = model.bands_in, model.bands_out, model.model_id


class SleepingModel(_Wrapped):
    """Another model that takes ``seconds`` a call, with the interpreter free meanwhile; remembers its calls.

    Attributes
    ----------
    batch_sizes
        Number of samples of each call, in order.
    threads
        Names of the threads that called.
    """

    def __init__(self, model: Model, *, seconds: float = 0.05):
        super().__init__(model)
        self.seconds = seconds
        self.batch_sizes: list[int] = []
        self.threads: set[str] = set()

    def __call__(self, lr: Float32Array, *, valid: BoolArray, days: Float32Array) -> Float32Array:
        """See ``Model``."""
        self.batch_sizes.append(lr.shape[0])
        self.threads.add(threading.current_thread().name)
        time.sleep(self.seconds)
        return self.model(lr, valid=valid, days=days)


class SmallMemoryModel(_Wrapped):
    """Another model that runs out of memory above ``max_batch`` samples; remembers the sizes it was asked for."""

    def __init__(self, model: Model, *, max_batch: int):
        super().__init__(model)
        self.max_batch = max_batch
        self.batch_sizes: list[int] = []

    def __call__(self, lr: Float32Array, *, valid: BoolArray, days: Float32Array) -> Float32Array:
        """See ``Model``."""
        self.batch_sizes.append(lr.shape[0])
        if lr.shape[0] > self.max_batch:
            raise MemoryError(f"{lr.shape[0]} samples are more than {self.max_batch}")
        return self.model(lr, valid=valid, days=days)


_nearest: type[Model] = NearestModel
_sleeping: type[Model] = SleepingModel
_small_memory: type[Model] = SmallMemoryModel
