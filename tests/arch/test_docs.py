"""What README and docs show runs as it stands: each page's Python blocks, in order, in one namespace, in an empty folder."""

from __future__ import annotations

import traceback
from pathlib import Path

import pytest

from tests.arch.markdown import BlockError, python_blocks, run_page

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("**/*.md"))]


@pytest.mark.parametrize("page", [pytest.param(page, id=str(page.relative_to(ROOT))) for page in PAGES])
def test_code_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_page(page, monkeypatch)


def write(folder: Path, text: str) -> Path:
    page = folder / "page.md"
    page.write_text(text, encoding="utf-8")
    return page


def test_a_block_that_raises_is_caught_with_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = write(tmp_path, "# Title\n\n```python\nx = 1\n1 / 0\n```\n")
    with pytest.raises(ZeroDivisionError) as caught:
        run_page(page, monkeypatch)
    assert traceback.extract_tb(caught.value.__traceback__)[-1].lineno == 5


def test_a_warning_in_a_block_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = write(tmp_path, "```python\nimport warnings\nwarnings.warn('old')\n```\n")
    with pytest.raises(UserWarning, match="old"):
        run_page(page, monkeypatch)


def test_blocks_of_a_page_share_one_namespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = write(tmp_path, "```python\nx = 1\n```\ntext\n- item\n  ```python\n  assert x == 1\n  ```\n")
    assert run_page(page, monkeypatch) == 2


def test_only_blocks_marked_python_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = write(tmp_path, "```python no-run\n1 / 0\n```\n```sh\nls\n```\n````md\n```python\n1 / 0\n```\n````\n```\ntext\n```\n")
    assert run_page(page, monkeypatch) == 0


@pytest.mark.parametrize("info", ["py", "python3", "python norun", "Python", "pycon", "{python}"])
def test_a_block_that_only_looks_like_python_is_caught(tmp_path: Path, info: str) -> None:
    with pytest.raises(BlockError, match=r"page\.md:1: write"):
        python_blocks(write(tmp_path, f"```{info}\n1 / 0\n```\n"))


def test_a_block_that_is_never_closed_is_caught(tmp_path: Path) -> None:
    with pytest.raises(BlockError, match=r"page\.md:2: .* never closed"):
        python_blocks(write(tmp_path, "text\n```python\nx = 1\n"))
