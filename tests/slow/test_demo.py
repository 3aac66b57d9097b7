"""The demo as a user runs it: numbers on stdout, pictures in the folder, the promised gain."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import eocube as eo

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess]:
    folder = tmp_path_factory.mktemp("demo")
    command = [sys.executable, "-m", "eocube", "demo", str(folder), "--json"]
    return folder, subprocess.run(command, capture_output=True, text=True, timeout=580, check=False)


def test_the_demo_prints_one_object_and_its_network_gains_two_decibels(ran) -> None:
    _, process = ran

    assert process.returncode == 0, process.stderr
    result = json.loads(process.stdout)
    assert set(result) == {"psnr", "ssim", "test_pixels", "seconds"}
    assert set(result["psnr"]) == set(result["ssim"]) == {"nearest", "bicubic", "network"}
    assert result["psnr"]["nearest"] < result["psnr"]["bicubic"]
    assert result["psnr"]["network"] >= result["psnr"]["bicubic"] + 2
    assert result["ssim"]["network"] > result["ssim"]["bicubic"]
    assert result["test_pixels"] > 10_000
    assert result["seconds"] < 180


def test_the_demo_leaves_pictures_and_whole_stores(ran) -> None:
    folder, _ = ran

    for name in ("clear_fraction.png", "composite.png", "superres.png"):
        assert (folder / name).stat().st_size > 10_000
    assert eo.audit(str(folder / "store"), deep=True).ok
    assert eo.audit(str(folder / "sr"), deep=True).ok
    products = eo.open_store(str(folder / "store")).index["product"].to_pylist()
    assert {"10m", "20m", "10m_median_1MS", "10m_median_QS-DEC", "20m_median_1MS", "20m_median_QS-DEC"} <= set(products)
