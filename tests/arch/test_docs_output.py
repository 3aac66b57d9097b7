"""What the docs say a Python block prints is what it prints.

A ```` ```text ```` block right after a ```` ```python ```` block is its output; ``...`` in it stands for anything, and blanks
count as one.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest

from tests.arch.markdown import RUN, Block, iter_blocks

ROOT = Path(__file__).parents[2]
OUTPUT = "text"


def shown(page: Path) -> dict[int, Block]:
    """First line of a Python block → the block that shows its output."""
    lines = page.read_text(encoding="utf-8").splitlines()
    return {
        block.line: after
        for block, after in pairwise(iter_blocks(page))
        if (block.info, after.info) == (RUN, OUTPUT) and not "".join(lines[_end(block) : after.line - 2]).strip()
    }


def _end(block: Block) -> int:
    """Number of the line with the closing fence."""
    return block.line + block.code.count("\n") + 1


PAGES = [page for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))) if shown(page)]


def check_page(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a page's blocks in one namespace and compare what they print with what the page shows."""
    module, expected = ModuleType("docs_page"), shown(page)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for block in iter_blocks(page):
        if block.info != RUN:
            continue
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile("\n" * (block.line - 1) + block.code, str(page), "exec"), module.__dict__)  # noqa: S102  our own pages
        if block.line in expected:
            compare(f"{page}:{expected[block.line].line}", expected[block.line].code, printed.getvalue())


def compare(where: str, want: str, got: str) -> None:
    """AssertionError with a diff where ``got`` is not what ``want`` says."""
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    checker, example = doctest.OutputChecker(), doctest.Example("", want + "\n")
    assert checker.check_output(want + "\n", got, flags), f"{where}\n{checker.output_difference(example, got, flags)}"


@pytest.mark.parametrize("page", [pytest.param(page, id=str(page.relative_to(ROOT))) for page in PAGES])
def test_blocks_print_what_the_page_shows(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_page(page, monkeypatch)


def test_another_output_than_shown_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text("```python\nprint(1 + 1)\n```\n\n```text\n3\n```\n")
    with pytest.raises(AssertionError, match="Expected"):
        check_page(page, monkeypatch)


def test_blanks_and_dots_are_free_and_text_further_away_is_no_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```python\nprint('a   b', 0.25)\n```\n```text\na b 0...\n```\n```python\nx = 1\n```\nwords\n```text\nno\n```\n"
    )
    check_page(page, monkeypatch)
