"""A region's task: what it holds in memory changes nothing of what it writes."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from eocube.exec import region
from eocube.io.blobs import LocalBlobs, open_blobs
from eocube.io.shards import Shelf
from eocube.jobs.convert import convert
from eocube.jobs.open import open_corpus
from eocube.testing.stac import make_grid, make_series, write_catalog
from eocube.testing.stores import tree


@pytest.mark.parametrize("most_bytes", [0, 3000], ids=["all laid by on disk", "some"])
def test_chunks_laid_by_on_disk_and_chunks_held_give_one_store(
    most_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenes = make_series(6, grid=make_grid((96, 96)), zooms={"B04": 1, "B08": 1, "SCL": 2}, block=32)
    corpus = open_corpus("stac", str(write_catalog(scenes, tmp_path / "catalog")))
    convert(corpus, str(tmp_path / "held"), executor="serial")
    monkeypatch.setattr(region, "Shelf", partial(Shelf, most_bytes=most_bytes))
    convert(corpus, str(tmp_path / "laid_by"), executor="serial")
    for part in ("cubes", "markers"):
        assert tree(tmp_path / "held" / part) == tree(tmp_path / "laid_by" / part) != {}
    assert tree(tmp_path / "laid_by" / "tmp") == {}


def test_a_shelf_gives_back_what_it_was_given_and_holds_no_more_than_it_may(tmp_path: Path) -> None:
    shelf = Shelf(LocalBlobs(str(tmp_path)), most_bytes=10)
    bodies = [bytes([i]) * n for i, n in enumerate((4, 7, 6, 1))]
    kept = [shelf.keep(body) for body in bodies]
    assert [shelf.body(k) for k in kept] == bodies
    assert sum(len(k.body or b"") for k in kept) <= 10
    assert kept[1].body is None
    shelf.close()


def test_a_store_that_is_no_folder_has_everything_held() -> None:
    shelf = Shelf(open_blobs("memory://nowhere"), most_bytes=0)
    assert shelf.body(shelf.keep(b"12")) == b"12"
