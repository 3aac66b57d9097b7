"""LR/HR training patches: planned without pixels, cut once into a sharded set, read back in batches."""

from __future__ import annotations

from eocube.model.patch_spec import PatchSpec as PatchSpec
from eocube.model.patch_spec import SplitRule as SplitRule
from eocube.patches.dataset import PatchDataset as PatchDataset
