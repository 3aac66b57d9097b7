"""README and docs hold together: links and named files exist, tables are whole, every page can be found from the first one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [*(ROOT / n for n in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")), *sorted(DOCS.glob("**/*.md"))]

FENCE = re.compile(r"^ *(`{3,}).*?^ *\1`*\s*?$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)|(?:src|href)=\"([^\"]+)\"")
NAMED = re.compile(r"`((?:eocube|tests|benchmarks|scripts|docs|pipelines|notebooks|requirements)/[\w./-]+)`")
HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*$", re.MULTILINE)


def prose(page: Path) -> str:
    """The page without its fenced blocks, line for line."""
    return FENCE.sub(lambda m: "\n" * m.group().count("\n"), page.read_text(encoding="utf-8"))


def slugs(page: Path) -> set[str]:
    """The anchors that a page's headings give on GitHub."""
    seen: dict[str, int] = {}
    out = set()
    for title in HEADING.findall(prose(page)):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).replace("`", "").lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        n = seen.get(slug, 0)
        seen[slug] = n + 1
        out.add(f"{slug}-{n}" if n else slug)
    return out


def links(page: Path) -> Iterator[tuple[Path, str]]:
    """(file, anchor) of every link that leads to a place in the repository."""
    for match in LINK.finditer(prose(page)):
        target = match.group(1) or match.group(2)
        if not re.match(r"[a-z][a-z0-9+.-]*:", target, re.IGNORECASE):
            path, _, anchor = target.partition("#")
            yield (page.parent / path).resolve() if path else page, anchor


def dead_links(page: Path) -> list[str]:
    """Links of a page that lead nowhere."""
    return [
        f"{page.name} → {path.name}#{anchor}"
        for path, anchor in links(page)
        if not path.exists() or (anchor and path.suffix == ".md" and anchor not in slugs(path))
    ]


def missing_files(page: Path, root: Path = ROOT) -> list[str]:
    """Files and folders that a page names in back ticks and that are not in the repository."""
    return [name for name in NAMED.findall(prose(page)) if "NNNN" not in name and not (root / name).exists()]


def broken_tables(page: Path) -> list[str]:
    """Table rows with another number of cells than the head of their table."""
    found, width = [], 0
    for number, line in enumerate(prose(page).splitlines(), start=1):
        cells = re.sub(r"\\\||`[^`]*`", "x", line).strip()
        if not cells.startswith("|"):
            width = 0
            continue
        n = cells.strip("|").count("|") + 1 if cells.endswith("|") else -1
        width = width or n
        if n != width:
            found.append(f"{page.name}:{number}: {n} cells, the head has {width}: {line.strip()}")
    return found


pages = pytest.mark.parametrize("page", [pytest.param(page, id=str(page.relative_to(ROOT))) for page in PAGES])


@pages
def test_links_lead_somewhere(page: Path) -> None:
    assert not dead_links(page)


@pages
def test_named_files_exist(page: Path) -> None:
    assert not missing_files(page)


@pages
def test_tables_are_whole(page: Path) -> None:
    assert not broken_tables(page)


def test_every_page_can_be_reached_from_the_first_one() -> None:
    reached, waiting = set(), [DOCS / "index.md"]
    while waiting:
        page = waiting.pop()
        if page not in reached:
            reached.add(page)
            waiting += [path for path, _ in links(page) if path.suffix == ".md" and path.is_relative_to(DOCS) and path.exists()]
    assert set(DOCS.glob("**/*.md")) - reached == set()


# Each check finds a planted mistake.


def test_a_dead_link_or_anchor_is_caught(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A title, `code` & more\n[up](#a-title-code--more) [x](gone.md) ![y](gone.png) [z](page.md#no) <http://x.y>\n"
    )
    assert dead_links(page) == ["page.md → gone.md#", "page.md → gone.png#", "page.md → page.md#no"]


def test_links_inside_code_are_no_links(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```python\nx = [1](gone)\n```\ntext\n````md\n```\n[x](gone.md)\n```\n````\n")
    assert dead_links(page) == []


def test_a_named_file_that_is_not_there_is_caught(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("`eocube/model/frame.py` and `eocube/model/gone.py`")
    assert missing_files(page) == ["eocube/model/gone.py"]


def test_a_table_row_with_a_cell_too_many_is_caught(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("| a | b |\n|---|---|\n| `x | y` | 2 |\n| 1 | 2 | 3 |\n\n| c |\n|---|\n| open\n")
    assert [line.partition(" cells")[0] for line in broken_tables(page)] == ["page.md:4: 3", "page.md:8: -1"]
