"""The pipeline runs as it stands, with a limit, and takes up what it finds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import eocube as eo

PIPELINE = Path(__file__).parents[2] / "pipelines" / "sentinel2_stac.py"


def test_the_pipeline_goes_from_a_catalogue_to_super_resolved_cubes(tmp_path: Path) -> None:
    catalog = eo.sample_corpus("sentinel2", tmp_path)
    command = [sys.executable, str(PIPELINE), str(catalog), str(tmp_path / "out"), "--dates", "48", "--steps", "5"]

    first = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)

    assert first.returncode == 0, first.stderr
    scores = json.loads(first.stdout.splitlines()[-1])
    assert scores["test_pixels"] > 1000
    assert set(scores["psnr"]) == {"bicubic", "network"}
    store = eo.open_store(str(tmp_path / "out" / "store"))
    assert store.index["product"].to_pylist() == ["10m", "10m_median_QS-DEC", "20m"]
    made = eo.open_store(str(tmp_path / "out" / "sr")).index.to_pylist()[0]
    assert (made["shape"], made["bands"], made["n_dates"]) == ([100, 100], ["green", "red"], 48)
