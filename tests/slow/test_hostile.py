"""Hostile items by the thousand, by seeds of their own, planned and some of them written; tells what came of them."""

from __future__ import annotations

import copy
import random
import shutil
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from eocube.corpora.stac import StacCorpus
from eocube.errors import EocubeError, StoreNotFoundError
from eocube.io.geotiff import GeoTiffReader
from eocube.io.rasters import RasterioReader
from eocube.jobs.audit import audit
from eocube.jobs.convert import convert
from eocube.jobs.open import open_store
from eocube.testing.stac import write_items
from eocube.testing.stores import index_rows
from tests.corpora.hostile import SCENES, SLUG, changed, try_items
from tests.slow.telling import Tell

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("seed", range(4))
def test_thousands_of_changed_items_give_a_plan_or_an_error_of_eocube(seed: int, tell: Tell) -> None:
    found = try_items(600, seed=seed)
    tell(f"hostile items, seed {seed}: {found.planned} planned, refused {dict(found.refused)}, {len(found.escaped)} escaped")
    assert not found.escaped, found.escaped[:5]
    assert found.planned > 60


def surroundings(folder: Path, stores: Path) -> dict[str, tuple[int, int, int]]:
    """Everything below a folder but what lies in ``stores``, with kind, size and time of its last change."""
    found = {p: p.lstat() for p in folder.rglob("*") if stores not in (p, *p.parents)}
    return {str(p): (s.st_mode, s.st_size, s.st_mtime_ns) for p, s in found.items()}


def written(items: list[dict[str, Any]], store: Path, *, skip: bool) -> str:
    """What came of writing the items."""
    reader = GeoTiffReader(RasterioReader(backoff_s=0))
    try:
        corpus = StacCorpus.open(items, reader=reader)
        report = convert(corpus, str(store), layout="map", executor="serial", errors="skip" if skip else "raise")
    except EocubeError as e:
        return f"refused: {type(e).__name__}"
    return "written" if report.ok else "written, with failures listed"


def check_store(store: Path) -> str:
    """A store is not there, or opens, holds cubes of plain names alone, and an audit finds no damage."""
    if not (store / "zarr.json").exists():
        with pytest.raises(StoreNotFoundError):
            open_store(str(store))
        return "absent"
    opened = open_store(str(store))
    for row in index_rows(store):
        assert set(row["cube"]) <= SLUG
        assert not row["cube"].startswith(".")
        with pytest.warns(UserWarning, match="could not be read") if row["unfinished_regions"] else nullcontext():
            assert opened.cube(row["site"], row["product"]).sizes["time"] == row["n_dates"]
    found = audit(str(store), deep=True, executor="serial")
    assert set(found.counts) <= {"unfinished", "failed_asset", "index"}  # index: a run that stopped leaves no row
    return "whole" if found.ok else "unfinished"


def test_changed_items_that_are_written_leave_a_store_that_opens_or_none_and_nothing_beside_it(
    tmp_path: Path, tell: Tell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store and the run's own folder lie deep, so that what climbs out of them still lands where it is looked for."""
    home = tmp_path / "a" / "b" / "c" / "d"
    stores = home / "e" / "f"
    stores.mkdir(parents=True)
    monkeypatch.chdir(home)
    valid = [{k: v for k, v in item.items() if k != "geometry"} for item in write_items(SCENES, tmp_path / "files")]
    rng, counts = random.Random(7), Counter[tuple[str, str]]()  # noqa: S311 - a seeded test
    before = surroundings(tmp_path, stores)
    for n in range(150):
        items, store = copy.deepcopy(valid), stores / f"store{n}"
        for at in rng.sample(range(len(items)), rng.choice((1, 1, 2))):
            items[at] = changed(items[at], rng)
        said = written(items, store, skip=n % 2 == 0)
        counts[said, check_store(store)] += 1
        assert surroundings(tmp_path, stores) == before, (n, said)
        assert {p.name for p in stores.iterdir()} <= {store.name}, (n, said)
        shutil.rmtree(store, ignore_errors=True)
    told = {f"{said}, store {there}": value for (said, there), value in sorted(counts.items())}
    tell(f"hostile items written: {told}")
    assert counts["written", "whole"] > 20
    assert all(said != "written" for said, there in counts if there != "whole")
    assert all(there == "unfinished" for said, there in counts if said.endswith("listed"))
    assert sum(value for (said, _), value in counts.items() if said.startswith("refused")) > 20
