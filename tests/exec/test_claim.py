"""Claims: who may write what into a cube that is there, and what is put when."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eocube.errors import DamagedStoreError, GridError, LateDateError, SettingsError, StalePlanError
from eocube.exec.claim import CubeMeta, claim, publish, relate
from eocube.io.blobs import Blobs, LocalBlobs, open_blobs
from eocube.io.markers import Marker, MarkerName, list_markers, put_marker
from eocube.io.template import ROOT, cube_template
from eocube.model.bands import Band
from eocube.model.frame import Frame, PerTime, Variable
from eocube.model.hooks import HOOK_ENV
from eocube.model.spec import Region, choose_spec
from eocube.testing.stac import make_grid
from eocube.testing.stores import tree

DAY_MS = 86_400_000


def meta(*days: int, sid: str = "settings", labels: tuple[int, ...] | None = None, **changes: Any) -> CubeMeta:
    """Metadata of a cube with these dates; ``cut`` changes its spec, everything else its frame."""
    cut = changes.pop("cut", {})
    frame = Frame(
        geobox=make_grid((40, 50)),
        time_ms=tuple(d * DAY_MS for d in days),
        bands=(Band(name="red"),),
        variables=(Variable(name="data", dtype="uint16", banded=True, nodata=0),),
        per_time=(PerTime(name="n", dtype="int16", values=labels or days),),
    ).with_(**changes)
    spec = dataclasses.replace(choose_spec(frame), **cut)
    return CubeMeta(cube="c", product="p", template=cube_template(spec, cube="c", product="p", recipe="r", sid=sid, licence={}))


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return open_blobs(str(tmp_path))


def test_a_first_claim_puts_the_whole_template_and_the_groups_above(blobs: Blobs, tmp_path: Path) -> None:
    assert claim(blobs, meta(1, 2))[0] == "new"
    made = meta(1, 2)
    assert {k: (tmp_path / "cubes/c/p" / k).read_bytes() for k in made.template} == made.template
    assert {"cubes/zarr.json", "cubes/c/zarr.json"} <= set(tree(tmp_path))
    assert claim(blobs, meta(1, 2))[0] == "same"


def test_a_claim_that_died_in_the_template_is_made_good(blobs: Blobs, tmp_path: Path) -> None:
    claim(blobs, meta(1, 2))
    whole = tree(tmp_path / "cubes")
    for key in meta(1, 2).template:
        if key != ROOT:
            (tmp_path / "cubes/c/p" / key).unlink()
    assert claim(blobs, meta(1, 2))[0] == "same"
    assert tree(tmp_path / "cubes") == whole


def test_markers_of_a_run_that_claims_at_the_same_time_are_not_taken_for_left_over(tmp_path: Path) -> None:
    """Between the look for a root and the listing of markers another run claims the cube and finishes a region."""
    body = Marker(key="k", shards={}, pixels=1, valid=1, clear=1, sources={}, failed=[])

    class Meanwhile(LocalBlobs):
        def list(self, prefix: str) -> Iterator[tuple[str, int]]:
            other = LocalBlobs(self.url)
            if other.get(f"cubes/c/p/{ROOT}") is None:
                claim(other, meta(1, 2))
                put_marker(other, "c", "p", Region(0, 0, 0), body)
            return super().list(prefix)

    marker = MarkerName(Region(0, 0, 0), "k", partial=False)
    assert claim(Meanwhile(str(tmp_path)), meta(1, 2)) == ("same", [marker])
    assert list_markers(open_blobs(str(tmp_path)), "c", "p") == [marker]


def test_a_longer_plan_changes_nothing_before_it_is_published(blobs: Blobs, tmp_path: Path) -> None:
    claim(blobs, meta(1, 2))
    before = tree(tmp_path)
    longer = meta(1, 2, 3)
    assert claim(blobs, longer)[0] == "grow"
    assert tree(tmp_path) == before
    publish(blobs, longer)
    assert claim(blobs, longer)[0] == "same"
    once = open_blobs(str(tmp_path / "once"))
    claim(once, longer)
    assert tree(tmp_path / "cubes") == tree(tmp_path / "once/cubes")


def test_other_labels_of_the_same_dates_are_published_like_dates(blobs: Blobs, tmp_path: Path) -> None:
    claim(blobs, meta(1, 2))
    relabelled = meta(1, 2, labels=(7, 8))
    assert claim(blobs, relabelled)[0] == "grow"
    publish(blobs, relabelled)
    assert claim(blobs, relabelled)[0] == "same"


REFUSED: dict[str, tuple[CubeMeta, type[Exception], str]] = {
    "other settings": (meta(1, 2, sid="others"), SettingsError, "settings: stored settings, asked others"),
    "another CRS": (meta(1, 2, geobox=make_grid((40, 50), crs="EPSG:32634")), GridError, r"proj:code EPSG:32635.*EPSG:32634"),
    "another corner": (meta(1, 2, geobox=make_grid((40, 50), corner_xy=(0, 0))), GridError, "spatial:transform"),
    "another size": (meta(1, 2, geobox=make_grid((40, 51))), GridError, r"spatial:shape \[40, 50\].*\[40, 51\]"),
    "other chunks": (meta(1, 2, cut={"chunk_tyx": (1, 20, 50), "shard_tyx": (16, 40, 50)}), GridError, "chunk_tyx"),
    "other shards, and longer": (meta(1, 2, 3, cut={"shard_tyx": (32, 40, 50)}), GridError, r"shard_tyx \[16, 40, 50\].*\[32"),
    "other cells": (meta(1, 2, cut={"cell_px": 10}), GridError, "cell_px"),
    "fewer dates": (meta(1), StalePlanError, "holds 2 dates, this run knows 1 of them"),
    "fewer and later dates": (meta(2, 3), StalePlanError, "holds 2 dates, this run knows 1 of them"),
    "other dates": (meta(3, 4), StalePlanError, "knows 0 of them"),
    "a date before": (meta(0, 1, 2), LateDateError, r"1970-01-01T00:00:00.* older than the last date 1970-01-03"),
    "a date before, and a later one": (meta(0, 1, 2, 3), LateDateError, "1970-01-01"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_plan_that_does_not_fit_is_refused_and_writes_nothing(blobs: Blobs, tmp_path: Path, case: str) -> None:
    planned, error, says = REFUSED[case]
    claim(blobs, meta(1, 2))
    before = tree(tmp_path)
    for attempt in (claim, publish):
        with pytest.raises(error, match=says) as caught:
            attempt(blobs, planned)
        assert "c/p" in str(caught.value)
    assert tree(tmp_path) == before


def test_a_group_that_is_no_cube_is_refused(blobs: Blobs) -> None:
    for body in (b"{}", b"no JSON", b'{"zarr_format": 3, "node_type": "group", "attributes": {}}'):
        blobs.put(f"cubes/c/p/{ROOT}", body)
        with pytest.raises(DamagedStoreError, match="cubes/c/p is a Zarr group but not a cube"):
            claim(blobs, meta(1, 2))


def test_the_hooks_of_the_kill_suites_are_in_the_code() -> None:
    """A hook that is renamed would leave a kill suite that kills nothing."""
    import eocube

    package = Path(eocube.__file__).parent
    code = "".join(p.read_text() for room in ("exec", "io") for p in (package / room).glob("*.py"))
    assert {h for h in ("after_shard", "template", "index", "append") if f'kill_hook("{h}")' in code} == {
        "after_shard", "template", "index", "append",
    }  # fmt: skip
    assert HOOK_ENV == "EOCUBE_KILL_AT"


def test_a_comparison_says_what_a_claim_would_and_writes_nothing(blobs: Blobs, tmp_path: Path) -> None:
    assert relate(blobs, meta(1, 2)) == "new"
    assert not tree(tmp_path)
    claim(blobs, meta(1, 3))
    before = tree(tmp_path)
    assert (relate(blobs, meta(1, 3)), relate(blobs, meta(1, 3, 4))) == ("same", "grow")
    for other, error in ((meta(1), StalePlanError), (meta(1, 2, 3), LateDateError), (meta(1, 3, sid="x"), SettingsError)):
        with pytest.raises(error):
            relate(blobs, other)
    assert tree(tmp_path) == before
