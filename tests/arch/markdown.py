"""Find and run the Python blocks of a Markdown page."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>`{3,})(?P<info>[^`]*)$")
RUN, NO_RUN = "python", "python no-run"


class BlockError(AssertionError):
    """A block cannot be used as it stands: the page and line are in the message."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """One fenced block."""

    page: Path
    line: int
    """Line number of the first line of code, from 1."""
    info: str
    code: str


def iter_blocks(page: Path) -> Iterator[Block]:
    """Fenced blocks of ``page`` in order; a fence that is never closed is an error."""
    opened: re.Match[str] | None = None
    first, body = 0, [""]
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        fence = FENCE.match(line)
        if opened is None and fence:
            opened, first, body = fence, number + 1, []
        elif opened is not None and fence and not fence["info"].strip() and len(fence["ticks"]) >= len(opened["ticks"]):
            yield Block(page=page, line=first, info=opened["info"].strip(), code="\n".join(body))
            opened = None
        elif opened is not None:
            body.append(line.removeprefix(opened["indent"]))
    if opened is not None:
        raise BlockError(f"{page}:{first - 1}: the block that opens here is never closed")


def python_blocks(page: Path) -> list[Block]:
    """Blocks to run. Anything else that looks like Python must say ``python no-run``, so that a typing slip hides nothing."""
    blocks = list(iter_blocks(page))
    for block in blocks:
        if re.match(r"(py|\{)", block.info, re.IGNORECASE) and block.info not in {RUN, NO_RUN}:
            raise BlockError(f"{page}:{block.line - 1}: write ```{RUN} or ```{NO_RUN}, not ```{block.info}")
    return [block for block in blocks if block.info == RUN]


def run_page(page: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run the page's blocks from top to bottom in one namespace; give how many there were. Errors point at the page's lines."""
    blocks = python_blocks(page)
    module = ModuleType("docs_page")  # a real module: dataclasses and pickles of the page find their names in it
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for block in blocks:
        code = compile("\n" * (block.line - 1) + block.code, str(page), "exec")
        exec(code, module.__dict__)  # noqa: S102  the project's own pages
    return len(blocks)
