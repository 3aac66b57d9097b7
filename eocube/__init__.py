"""Earth-observation corpora in, chunked Zarr datacubes (time × band × y × x) out, and everything its users do next on them.

Names are imported when they are first used: ``import eocube`` loads neither torch nor distributed nor GDAL.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_WHERE = {
    "EocubeError": "eocube.errors",
    "PatchDataset": "eocube.patches",
    "PatchSpec": "eocube.patches",
    "Plan": "eocube.jobs.plan",
    "RunReport": "eocube.exec.drive",
    "SplitRule": "eocube.patches",
    "Store": "eocube.jobs.open",
    "apply": "eocube.lazy.apply",
    "audit": "eocube.jobs.audit",
    "clear_fraction": "eocube.lazy.masks",
    "compose": "eocube.jobs.compose",
    "composite": "eocube.lazy.composite",
    "connect": "eocube.exec.executors",
    "convert": "eocube.jobs.convert",
    "demo": "eocube.jobs.demo",
    "evaluate": "eocube.jobs.evaluate",
    "explain": "eocube.jobs.write",
    "extract_patches": "eocube.jobs.patches",
    "index": "eocube.jobs.audit",
    "leakage_report": "eocube.jobs.leakage",
    "load_model": "eocube.sr",
    "load_stac": "eocube.jobs.open",
    "mask_clouds": "eocube.lazy.masks",
    "open_corpus": "eocube.jobs.open",
    "open_cube": "eocube.jobs.open",
    "open_store": "eocube.jobs.open",
    "plan_patches": "eocube.jobs.patches",
    "sample_corpus": "eocube.corpora.sample",
    "spectral_index": "eocube.lazy.index",
    "superres": "eocube.jobs.superres",
    "superresolve": "eocube.jobs.superres",
    "to_reflectance": "eocube.lazy.radiometry",
    "train": "eocube.sr",
    "write_cube": "eocube.jobs.write",
}

__all__ = ["__version__", *_WHERE]  # noqa: PLE0604 - all strings

if TYPE_CHECKING:
    from eocube.corpora.sample import sample_corpus as sample_corpus
    from eocube.errors import EocubeError as EocubeError
    from eocube.exec.drive import RunReport as RunReport
    from eocube.exec.executors import connect as connect
    from eocube.jobs.convert import convert as convert
    from eocube.jobs.open import Store as Store
    from eocube.jobs.open import load_stac as load_stac
    from eocube.jobs.open import open_corpus as open_corpus
    from eocube.jobs.open import open_cube as open_cube
    from eocube.jobs.open import open_store as open_store
    from eocube.jobs.plan import Plan as Plan
    from eocube.jobs.write import explain as explain
    from eocube.jobs.write import write_cube as write_cube


def __getattr__(name: str) -> Any:
    where = _WHERE.get(name)
    if where is None:
        msg = f"module 'eocube' has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(importlib.import_module(where), name)


def __dir__() -> list[str]:
    return sorted(__all__)
