"""Where a sample was written can be opened as it is given back: a Path."""

from __future__ import annotations

from pathlib import Path

import pytest

import eocube


@pytest.mark.parametrize("name", ["worldstrat", "rapidai4eo"])
def test_a_sample_opens_from_the_path_that_writing_it_gives(tmp_path: Path, name: str) -> None:
    root = eocube.sample_corpus(name, tmp_path / "c", sites=1, dates=1)
    assert isinstance(root, Path)
    assert list(eocube.open_corpus(name, root).sites.site) == list(eocube.open_corpus(name, str(root)).sites.site)
