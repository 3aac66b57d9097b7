"""Load once: a worker reads a network's weights one time, however many tasks it runs."""

from __future__ import annotations

import importlib
import json
import threading
from collections import OrderedDict
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any, cast

from eocube.errors import ModelError, UnknownNameError
from eocube.infer.model import Model
from eocube.model.hashing import canonical_json, digest


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Which network, by name: small enough for every task, equal and hashable wherever it travels.

    >>> ModelSpec.of("eocube.testing.models:NearestModel", scale="2").load().scale
    Fraction(2, 1)
    """

    loader: str
    """``module:function`` (or class) that returns the Model. Only names from one's own plan: importing runs code."""
    kwargs_json: str = "{}"
    """Its keyword arguments, as canonical JSON."""
    model_id: str = ""
    """The ``model_id`` that must come out, or "" for any: a file exchanged between plan and task is then noticed."""

    @classmethod
    def of(cls, loader: str, *, model_id: str = "", **kwargs: Any) -> ModelSpec:
        """The spec of ``loader(**kwargs)``; the arguments must be JSON."""
        return cls(loader=loader, kwargs_json=canonical_json(kwargs), model_id=model_id)

    @property
    def digest(self) -> str:
        """Name of this spec: equal for equal loader, arguments and expected model."""
        return digest([self.loader, json.loads(self.kwargs_json), self.model_id])

    def load(self) -> Model:
        """Import the loader and call it.

        Raises
        ------
        UnknownNameError
            If the loader is not ``module:name`` or its module has no such name.
        ModelError
            If another model came out than the one expected.
        """
        model = cast("Model", _imported(self.loader)(**json.loads(self.kwargs_json)))
        if self.model_id and model.model_id != self.model_id:
            raise ModelError(
                f"{self.loader} with {self.kwargs_json} was planned as model {self.model_id} and is now {model.model_id}: its "
                "weights were exchanged. Plan the run anew, into another product."
            )
        return model


def _imported(name: str) -> Any:
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise UnknownNameError("model loader", name, ["module:function"])
    module = importlib.import_module(module_name)
    if not hasattr(module, attribute):
        known = [known for known in vars(module) if not known.startswith("_")]
        raise UnknownNameError("model loader", attribute, known, where=f"module {module_name}")
    return getattr(module, attribute)


class ModelHolder:
    """The loaded networks of one worker. Threads that ask for one model at the same time load it once.

    Parameters
    ----------
    max_models
        How many stay loaded; the one unused for longest is let go first.
    """

    def __init__(self, max_models: int = 2):
        self._max_models = max_models
        self._lock = threading.Lock()
        self._models: OrderedDict[str, _Once] = OrderedDict()

    def get(self, spec: ModelSpec) -> Model:
        """The model of ``spec``, loaded by the first who asks; a load that failed is tried again by the next."""
        with self._lock:
            once = self._models.setdefault(spec.digest, _Once())
            self._models.move_to_end(spec.digest)
            while len(self._models) > self._max_models:
                self._models.popitem(last=False)
        return once.get(spec)


class _Once:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._model: Model | None = None

    def get(self, spec: ModelSpec) -> Model:
        with self._lock:
            if self._model is None:
                self._model = spec.load()
            return self._model


_KEY = "_eocube_models"


def holder_in(host: MutableMapping[str, Any]) -> ModelHolder:
    """The holder that lives in ``host``, put there on first use; it goes when its host goes.

    A host is what a worker keeps from task to task: ``dask_host()`` on a Dask worker, any dict elsewhere.
    """
    return cast("ModelHolder", host.setdefault(_KEY, ModelHolder()))  # dict.setdefault is atomic: one holder wins


def dask_host() -> MutableMapping[str, Any]:
    """The attributes of the Dask worker that runs this task, as a host for ``holder_in``.

    Call it in the task's own thread: with several workers in one process, Dask knows the worker by the thread.

    Raises
    ------
    ValueError
        Outside a Dask task (raised by ``distributed.get_worker``).
    """
    from distributed import get_worker

    return vars(get_worker())
