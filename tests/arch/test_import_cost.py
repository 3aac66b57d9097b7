"""``import eocube`` is cheap: nothing heavy comes along, and who only reads cubes needs no extra."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest

HEAVY = ("torch", "distributed", "rasterio", "osgeo", "zarr")
BUDGET_S = 0.5
"""Seconds that ``import eocube`` may cost more than ``import xarray``."""

OPTIONAL = (
    *("rasterio", "rioxarray", "osgeo", "pystac", "pystac_client", "stackstac", "geopandas", "spyndex"),
    *("torch", "safetensors", "matplotlib", "s3fs", "adlfs", "gcsfs"),
)
"""What the extras bring; the core is everything else."""


def fresh(code: str, *, folder: Path | None = None) -> str:
    """Run ``code`` in a new interpreter that also finds modules in ``folder``; give what it printed."""
    path = os.pathsep.join(filter(None, [str(folder or ""), os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def loaded_by(statement: str, names: tuple[str, ...] = HEAVY, *, folder: Path | None = None) -> list[str]:
    """Which of ``names`` stand in ``sys.modules`` after ``statement`` in a fresh process."""
    code = f"import sys, json\n{statement}\nprint(json.dumps([n for n in {names!r} if n in sys.modules]))"
    return json.loads(fresh(code, folder=folder))


def import_seconds(package: str, *, repeats: int = 3, folder: Path | None = None) -> float:
    """Median processor time of importing ``package`` in a fresh process; other work on the machine does not count."""
    code = f"import time\nbefore = time.process_time()\nimport {package}\nprint(time.process_time() - before)"
    return median(float(fresh(code, folder=folder)) for _ in range(repeats))


def test_import_eocube_loads_nothing_heavy() -> None:
    assert loaded_by("import eocube") == []


@pytest.mark.parametrize("name", HEAVY[:3] + HEAVY[4:])
def test_a_heavy_import_would_be_noticed(tmp_path: Path, name: str) -> None:
    (tmp_path / f"{name}.py").write_text("")
    (tmp_path / "planted.py").write_text(f"def f(): pass\nimport {name}")
    assert loaded_by("import planted", folder=tmp_path) == [name]


def test_import_eocube_costs_little_more_than_xarray() -> None:
    import_seconds("xarray, eocube", repeats=1)  # bytecode is written once
    xarray_s, eocube_s = import_seconds("xarray"), import_seconds("eocube")
    assert eocube_s < xarray_s + BUDGET_S, f"import eocube takes {eocube_s:.2f} s, import xarray {xarray_s:.2f} s"


def test_a_slow_import_would_be_noticed(tmp_path: Path) -> None:
    busy = "import time\nend = time.process_time() + 0.6\nwhile time.process_time() < end: pass"
    (tmp_path / "planted.py").write_text(busy)
    assert import_seconds("planted", repeats=1, folder=tmp_path) > BUDGET_S


BLOCKER = f"""
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {OPTIONAL!r}:
            raise ImportError(f"{{name}} is blocked")
sys.meta_path.insert(0, Blocker())
"""


def names_that_need_extras(package: str, *, folder: Path | None = None) -> list[str]:
    """Public names of ``package`` that fail, in an environment without the extras, other than by naming the extra."""
    code = f"""{BLOCKER}
import json, {package}
def fails(name):
    try:
        getattr({package}, name)
    except Exception as error:
        return type(error).__name__ != "MissingDependencyError"
    return False
print(json.dumps([n for n in getattr({package}, "__all__", ()) if fails(n)]))"""
    return json.loads(fresh(code, folder=folder))


def test_without_extras_every_public_name_is_there_or_says_which_extra_it_needs() -> None:
    assert names_that_need_extras("eocube") == []


def test_a_public_name_that_needs_an_extra_without_saying_so_would_be_noticed(tmp_path: Path) -> None:
    (tmp_path / "planted.py").write_text(
        "__all__ = ['f', 'g']\nf = 1\ndef __getattr__(name):\n    import torch\n    raise AttributeError(name)"
    )
    assert names_that_need_extras("planted", folder=tmp_path) == ["g"]
