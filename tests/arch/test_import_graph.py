"""The rooms know only what they may: the table of docs/architecture.md, kept true."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.arch import graph

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "eocube"

SPINE = ("errors", "model", "kernels", "io")
MAY_IMPORT = {
    "errors": (),
    "model": ("errors",),
    "kernels": ("errors", "model"),
    "io": ("errors", "model", "kernels"),
    "corpora": SPINE,
    "exec": SPINE,
    "infer": (*SPINE, "exec"),
    "lazy": (*SPINE, "exec", "infer"),
    "patches": (*SPINE, "exec", "infer"),
    "sr": (*SPINE, "exec", "infer", "patches"),
    "jobs": (*SPINE, "corpora", "exec", "infer", "lazy", "patches", "sr"),
    "": (*SPINE, "corpora", "exec", "infer", "lazy", "patches", "sr", "jobs"),
    "cli": ("errors", "model", "exec", "jobs", ""),
    "__main__": ("cli",),
    "testing": (*SPINE, "corpora", "exec", "infer", "lazy", "patches", "sr", "jobs", "cli", ""),
}
"""Who may import whom, beside itself; ``""`` is ``eocube/__init__.py``."""

PLAIN = {"errors": (), "model": ("numpy", "odc"), "kernels": ("numpy", "numba")}
"""Third-party packages of the rooms that a test can feed with ``np.arange``."""


@pytest.fixture(scope="module")
def modules() -> list[graph.Module]:
    return graph.read_package(PACKAGE)


def lines(violations: list[str]) -> str:
    return "\n".join(violations)


def test_the_table_itself_goes_one_way() -> None:
    assert graph.table_cycle(MAY_IMPORT) == []


def test_rooms_import_only_what_the_table_allows(modules: list[graph.Module]) -> None:
    violations = graph.room_violations(modules, MAY_IMPORT)
    assert not violations, lines(violations)


def test_no_modules_import_each_other_in_a_circle(modules: list[graph.Module]) -> None:
    violations = graph.cycle_violations(modules)
    assert not violations, lines(violations)


def test_plain_rooms_need_neither_dask_nor_files(modules: list[graph.Module]) -> None:
    violations = graph.plain_violations(modules, PLAIN)
    assert not violations, lines(violations)


def test_torch_is_loaded_only_where_it_is_used(modules: list[graph.Module]) -> None:
    violations = graph.torch_violations(modules)
    assert not violations, lines(violations)


def test_only_tests_import_testing(modules: list[graph.Module]) -> None:
    scripts = [module for folder in ("pipelines", "scripts") for module in graph.read_package(ROOT / folder)]
    violations = graph.testing_violations(modules) + [
        f"{script.path}:{imported.line} imports {imported.target}; only tests import testing"
        for script in scripts
        for imported in script.imports
        if imported.target.startswith("eocube.testing")
    ]
    assert not violations, lines(violations)


def test_no_file_is_longer_than_can_be_told_in_order() -> None:
    folders = ("eocube", "pipelines", "benchmarks", "scripts", "tests")
    violations = graph.length_violations([path for folder in folders for path in (ROOT / folder).rglob("*.py")])
    assert not violations, lines(violations)


# Each check catches a planted violation: small made-up packages of two rooms, `low` under `high`.

LOW_HIGH = {"": ("low", "high"), "low": (), "high": ("low",)}


def plant(folder: Path, files: dict[str, str]) -> list[graph.Module]:
    """Write a package ``pkg`` of the given files and read it."""
    for name, text in files.items():
        path = folder / "pkg" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return graph.read_package(folder / "pkg")


@pytest.mark.parametrize(
    ("source", "target"),
    [
        pytest.param("import pkg.high.a", "pkg.high.a", id="plain import"),
        pytest.param("from pkg.high import a", "pkg.high.a", id="from a room"),
        pytest.param("from pkg.high.a import x", "pkg.high.a", id="a name of a module"),
        pytest.param("from ..high import a", "pkg.high.a", id="relative"),
        pytest.param("def f():\n    from pkg.high import a\n", "pkg.high.a", id="inside a function"),
        pytest.param("if TYPE_CHECKING:\n    from pkg.high.a import x\n", "pkg.high.a", id="for types only"),
        pytest.param("import importlib\nimportlib.import_module('pkg.high.a')", "pkg.high.a", id="by string"),
        pytest.param("from pkg import anything", "pkg", id="through the package"),
    ],
)
def test_an_import_upwards_is_caught(tmp_path: Path, source: str, target: str) -> None:
    modules = plant(tmp_path, {"low/b.py": source, "high/a.py": "x = 1", "__init__.py": "from pkg.high.a import x"})
    violations = graph.room_violations(modules, LOW_HIGH)
    assert len(violations) == 1
    assert "pkg.low.b" in violations[0]
    assert f"imports {target};" in violations[0]


def test_an_import_downwards_is_allowed(tmp_path: Path) -> None:
    modules = plant(tmp_path, {"high/a.py": "from pkg.low.b import x\nfrom . import c", "high/c.py": "", "low/b.py": "x = 1"})
    assert graph.room_violations(modules, LOW_HIGH) == []


def test_a_file_in_no_room_is_caught(tmp_path: Path) -> None:
    assert "'utils' is no room" in graph.room_violations(plant(tmp_path, {"utils.py": ""}), LOW_HIGH)[0]


def test_a_table_with_a_circle_is_caught() -> None:
    assert set(graph.table_cycle({"a": ("b",), "b": ("a",)})) == {"a", "b"}


@pytest.mark.parametrize("source", ["from pkg.low import c", "def f():\n    import pkg.low.c"], ids=["at load", "deferred"])
def test_a_circle_of_modules_is_caught(tmp_path: Path, source: str) -> None:
    modules = plant(tmp_path, {"low/b.py": source, "low/c.py": "from pkg.low.b import x"})
    (violation,) = graph.cycle_violations(modules)
    assert "pkg.low.b" in violation
    assert "pkg.low.c" in violation


def test_a_child_that_imports_its_own_package_for_a_name_is_a_circle(tmp_path: Path) -> None:
    modules = plant(tmp_path, {"low/__init__.py": "from pkg.low.b import x", "low/b.py": "from pkg.low import y"})
    assert graph.cycle_violations(modules)


def test_modules_without_a_circle_pass(tmp_path: Path) -> None:
    modules = plant(tmp_path, {"low/__init__.py": "from pkg.low.b import x", "low/b.py": "import pkg.low.c", "low/c.py": ""})
    assert graph.cycle_violations(modules) == []


@pytest.mark.parametrize("package", ["dask", "distributed", "zarr", "torch", "fsspec", "rasterio", "xarray", "pandas"])
def test_a_heavy_import_in_a_plain_room_is_caught_even_when_deferred(tmp_path: Path, package: str) -> None:
    modules = plant(tmp_path, {"low/b.py": f"import numpy as np\ndef f():\n    import {package}.part\n"})
    violations = graph.plain_violations(modules, {"low": ("numpy",)})
    assert len(violations) == 1
    assert f"imports {package}.part" in violations[0]


@pytest.mark.parametrize(
    "files",
    [
        pytest.param({"low/b.py": "import torch"}, id="at module level"),
        pytest.param({"low/b.py": "try:\n    from torch import nn\nexcept ImportError:\n    nn = None"}, id="in a try"),
        pytest.param({"low/b.py": "class A:\n    import torch"}, id="in a class body"),
        pytest.param({"low/b.py": f"{graph.TORCH_MARKER}\nimport torch"}, id="marked in a wrong room"),
        pytest.param(
            {"sr/n.py": f"{graph.TORCH_MARKER}\nimport torch", "sr/m.py": "from pkg.sr import n"}, id="through a marked one"
        ),
    ],
)
def test_torch_at_load_time_is_caught(tmp_path: Path, files: dict[str, str]) -> None:
    assert len(graph.torch_violations(plant(tmp_path, files))) == 1


@pytest.mark.parametrize(
    "files",
    [
        pytest.param({"low/b.py": "def f():\n    import torch"}, id="in a function"),
        pytest.param({"low/b.py": "if TYPE_CHECKING:\n    import torch"}, id="for types only"),
        pytest.param({"sr/n.py": f"{graph.TORCH_MARKER}\nimport torch"}, id="marked in sr"),
        pytest.param(
            {"infer/n.py": f"{graph.TORCH_MARKER}\nimport torch", "sr/m.py": "def f():\n    from pkg.infer import n"},
            id="a marked one, deferred",
        ),
    ],
)
def test_torch_where_it_belongs_passes(tmp_path: Path, files: dict[str, str]) -> None:
    assert graph.torch_violations(plant(tmp_path, files)) == []


def test_an_import_of_testing_is_caught(tmp_path: Path) -> None:
    modules = plant(tmp_path, {"low/b.py": "from pkg.testing import fakes", "testing/fakes.py": "import pkg.testing.corpora"})
    assert [line.partition(":")[0] for line in graph.testing_violations(modules)] == ["pkg.low.b"]


def test_a_long_file_is_caught(tmp_path: Path) -> None:
    path = tmp_path / "long.py"
    path.write_text("x = 1\n" * 601, encoding="utf-8")
    assert "601 lines" in graph.length_violations([path])[0]
    path.write_text("x = 1\n" * 600, encoding="utf-8")
    assert graph.length_violations([path]) == []
