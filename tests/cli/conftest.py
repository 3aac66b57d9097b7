"""A small catalogue of synthetic Sentinel-2, and eocube called in this process."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from eocube.cli import app
from eocube.testing.stac import SyntheticScene, make_series, write_catalog

SITE = "EPSG32635_600000_5000040"

Invoke = Callable[..., Result]


@pytest.fixture
def eocube() -> Invoke:
    """Call the command line in this process: ``eocube("info", store).exit_code``."""

    def invoke(*words: object) -> Result:
        result = CliRunner().invoke(app, [str(w) for w in words])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return invoke


class Catalog:
    """A static catalogue of four dates, whose files can be broken and mended."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.scenes: list[SyntheticScene] = make_series(4)
        self.path = self.write()

    def write(self, damage: str = "", files: Mapping[int, tuple[str, ...]] | None = None) -> Path:
        """Write it anew; ``"missing", {1: ("B08",)}`` leaves out that file of scene 1, ``"truncated"`` cuts it in the middle."""
        broken = files or {}
        missing, truncated = (broken if damage == name else {} for name in ("missing", "truncated"))
        changed = [replace(s, missing=missing.get(s.number, ()), truncated=truncated.get(s.number, ())) for s in self.scenes]
        for old in self.folder.rglob("*.tif"):
            old.unlink()
        return write_catalog(changed, self.folder)


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return Catalog(tmp_path / "files")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def parsed(result: Result) -> dict:
    """Stdout as the one JSON object that it must be."""
    found = json.loads(result.stdout)
    assert isinstance(found, dict)
    return found
