"""The shell commands that README and docs show exist, with these flags."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from tests.arch.markdown import iter_blocks

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("**/*.md"))]
SHELLS = ("sh", "bash", "console")


def commands(page: Path) -> Iterator[tuple[int, list[str]]]:
    """(line, words) of each call of eocube in the page's shell blocks; continued lines are joined."""
    for block in iter_blocks(page):
        if block.info in SHELLS:
            text = block.code.replace("\\\n", " ")
            for number, line in enumerate(text.splitlines(), start=block.line):
                words = shlex.split(line.removeprefix("$ "), comments=True)
                if words and words[0].rpartition("/")[2] == "eocube":
                    yield number, words[1:]


def unknown(page: Path) -> list[str]:
    """Verbs and flags that the command line does not have."""
    from eocube.cli import app

    verbs = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    found = []
    for line, words in commands(page):
        verb, *rest = words
        if verb not in verbs:
            found.append(f"{page.name}:{line}: no verb {verb!r}")
            continue
        flags = {name for parameter in verbs[verb].params for name in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}
        used = {w.partition("=")[0] for w in rest if w.startswith("-") and not w.lstrip("-").isdigit()}
        found += [f"{page.name}:{line}: {verb} has no flag {flag}" for flag in sorted(used - flags)]
    return found


@pytest.mark.parametrize("page", [pytest.param(page, id=str(page.relative_to(ROOT))) for page in PAGES])
def test_shown_commands_exist(page: Path) -> None:
    assert not unknown(page)


def test_a_verb_or_flag_that_does_not_exist_is_caught(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```sh\n.venv/bin/eocube info STORE --json\neocube nothing # --x\neocube audit S \\\n  --shallow\nls --all\n```\n"
    )
    assert unknown(page) == ["page.md:3: no verb 'nothing'", "page.md:4: audit has no flag --shallow"]
