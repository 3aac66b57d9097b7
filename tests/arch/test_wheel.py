"""The wheel carries what an installed eocube needs, and nothing of the repository around it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return ZipFile(wheel).namelist()


def test_the_wheel_holds_every_module_the_types_marker_and_the_licence(wheel_names: list[str]) -> None:
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "eocube").rglob("*.py")}
    assert modules | {"eocube/py.typed"} <= set(wheel_names)
    assert any(name.endswith("licenses/LICENSE") for name in wheel_names)


def test_the_wheel_holds_nothing_but_the_package(wheel_names: list[str]) -> None:
    assert {name.partition("/")[0].partition("-")[0] for name in wheel_names} == {"eocube"}
