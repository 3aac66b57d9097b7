"""A cube stays in its split: no later run takes it out, or puts it into another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

import eocube
from eocube.corpora.worldstrat_sample import write_worldstrat
from eocube.errors import SettingsError
from eocube.testing.stores import index_rows, tree


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_worldstrat(tmp_path_factory.mktemp("ws"), sites=2, revisits=1))


def convert(root: str, store: Path, split: str | None, *, rebuild: Sequence[str] = ()) -> None:
    options = {} if split is None else {"split": split}
    eocube.convert(
        eocube.open_corpus("worldstrat", root, **options), str(store), products=["hr_rgbn"], rebuild=rebuild, executor="serial"
    )


def test_a_run_without_a_split_does_not_take_a_cube_out_of_its_own(root: str, tmp_path: Path) -> None:
    convert(root, tmp_path, "leak_safe")
    before, splits = tree(tmp_path), [r["split"] for r in index_rows(tmp_path)]
    assert None not in splits
    with pytest.raises(SettingsError, match=r"split: stored \w+, asked None"):
        convert(root, tmp_path, None)
    assert {k: v for k, v in tree(tmp_path).items() if not k.startswith("runs/")} == {
        k: v for k, v in before.items() if not k.startswith("runs/")
    }
    convert(root, tmp_path, "leak_safe")
    assert [r["split"] for r in index_rows(tmp_path)] == splits


def test_a_split_comes_to_cubes_that_have_none(root: str, tmp_path: Path) -> None:
    convert(root, tmp_path, None)
    assert [r["split"] for r in index_rows(tmp_path)] == [None, None]
    convert(root, tmp_path, "leak_safe")
    assert None not in [r["split"] for r in index_rows(tmp_path)]


def test_rebuilding_may_take_it_away(root: str, tmp_path: Path) -> None:
    convert(root, tmp_path, "leak_safe")
    convert(root, tmp_path, None, rebuild=[f"{r['cube']}/hr_rgbn" for r in index_rows(tmp_path)])
    assert [r["split"] for r in index_rows(tmp_path)] == [None, None]
