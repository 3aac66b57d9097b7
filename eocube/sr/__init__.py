"""Super-resolution: models, their training, and tiled inference over cubes."""

from __future__ import annotations

from eocube.sr.models import SrModel as SrModel
from eocube.sr.models import load_model as load_model
from eocube.sr.train import train as train
