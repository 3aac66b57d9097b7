"""The pipelines of WorldStrat and RapidAI4EO run as they stand, on synthetic copies, and take up what they find."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import eocube as eo

PIPELINES = Path(__file__).parents[2] / "pipelines"


@pytest.mark.parametrize(("name", "dates", "made", "rows"), [("worldstrat", 3, "yearly", 2), ("rapidai4eo", 6, "seasons", 2)])
def test_a_pipeline_ends_in_stores_that_are_whole(tmp_path: Path, name: str, dates: int, made: str, rows: int) -> None:
    root = eo.sample_corpus(name, tmp_path / "c", sites=2, dates=dates)
    command = [sys.executable, str(PIPELINES / f"{name}.py"), str(root), str(tmp_path / "out"), "--cluster", "threads:2"]
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count(", whole") == 2
    assert "regions_done=0" in done.stdout, "the second time there is nothing left to do"
    assert eo.open_store(str(tmp_path / "out" / made)).index.num_rows == rows
