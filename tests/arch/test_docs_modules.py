"""docs/architecture.md has a row for every module, and for none that is gone."""

from __future__ import annotations

import re
from pathlib import Path

from tests.arch.test_docs_links import DOCS, ROOT, prose

PACKAGE = ROOT / "eocube"


def unlisted_modules(page: Path, package: Path = PACKAGE) -> set[str]:
    """Modules that have no row in the page's table, and rows of modules that are gone."""
    rows = set(re.findall(r"^\| `([\w/]+\.py)` \|", prose(page), re.MULTILINE))
    files = {p.relative_to(package).as_posix() for p in package.rglob("*.py") if not re.fullmatch(r"__\w+__", p.stem)}
    return rows ^ files


def test_the_architecture_lists_every_module() -> None:
    """Modules differ from the table in docs/architecture.md: give each new one a row, and take out what is gone."""
    assert unlisted_modules(DOCS / "architecture.md") == set()


def test_a_module_without_a_row_and_a_row_without_a_module_are_caught(tmp_path: Path) -> None:
    (tmp_path / "new.py").touch()
    (tmp_path / "__init__.py").touch()
    page = tmp_path / "page.md"
    page.write_text("| module | what |\n|---|---|\n| `gone.py` | x |\n")
    assert unlisted_modules(page, tmp_path) == {"new.py", "gone.py"}
