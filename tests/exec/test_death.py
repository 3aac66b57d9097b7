"""A run may die before any write or delete: the same command again gives the undisturbed store, byte for byte."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace

import pytest

from eocube.corpora.stac import build_source
from eocube.errors import StalePlanError
from eocube.exec.drive import CubePlan
from eocube.io.blobs import open_blobs
from eocube.io.index import read_index
from eocube.jobs.write import WriteSettings, plan_node, run_plans
from eocube.model.recipe import Binding
from eocube.testing.stac import SyntheticReader, SyntheticScene, item_dict, make_grid, make_series
from eocube.testing.stores import MortalFileSystem, ProcessDiedError, cut_plan, register_mortal

STORE = "mortal://store"
SERIES = make_series(7, grid=make_grid((8, 12)), zooms={"B04": 1, "SCL": 1})
BROKEN = [replace(s, missing=("B04",)) if i == 2 else s for i, s in enumerate(SERIES)]

Content = dict[str, bytes]
Command = Callable[[], object]


@pytest.fixture(autouse=True)
def _mortal() -> None:
    register_mortal()
    MortalFileSystem.begin()


def plan(scenes: list[SyntheticScene], site: str, *, errors: str = "raise") -> CubePlan:
    """Four dates a shard, two regions side by side."""
    source = build_source([item_dict(s) for s in scenes], reader=SyntheticReader(scenes))
    binding = Binding(sources={source.node["source"]: source})
    settings = WriteSettings(layout="patch", errors=errors)  # type: ignore[arg-type]
    made = plan_node(source.node, binding, STORE, site=site, product="p", settings=settings, licence={})
    return cut_plan(made, chunk_tyx=(1, 8, 8), shard_tyx=(4, 8, 8))


def command(*scenes: list[SyntheticScene], errors: str = "raise", retry: bool = False) -> Command:
    """Write a cube for each list of scenes."""
    plans = [plan(s, f"site{i}", errors=errors) for i, s in enumerate(scenes)]
    return lambda: run_plans(STORE, plans, executor="serial", retry=retry)


def result(content: Content) -> tuple[Content, list[dict]]:
    """What must be equal: everything but runs' reports and the bytes of the index, of which the rows count."""
    kept = {k: v for k, v in content.items() if not k.startswith(("/store/runs", "/store/index"))}
    return kept, read_index(open_blobs(STORE)).to_pylist()


def after(*commands: Command, start: Content | None = None) -> Content:
    """The store after these commands, undisturbed."""
    MortalFileSystem.begin(start)
    for run in commands:
        run()
    return MortalFileSystem.content()


def deaths(run: Command, start: Content | None = None) -> list[int]:
    """Every number of writes after which that command may die."""
    after(run, start=start)
    return list(range(MortalFileSystem.writes))


def die(run: Command, writes_left: int, start: Content | None = None) -> None:
    MortalFileSystem.begin(start, writes_left=writes_left)
    with pytest.raises(ProcessDiedError):
        run()
    MortalFileSystem.writes_left = None


def test_a_first_run_of_two_cubes_may_die_anywhere() -> None:
    run = command(SERIES[:5], SERIES[2:6])
    undisturbed = result(after(run))
    at = deaths(run)
    assert len(at) > 60
    for n in at:
        die(run, n)
        run()
        assert result(MortalFileSystem.content()) == undisturbed, f"after dying before write {n}"


@pytest.mark.parametrize("gone", ["/store/cubes/site0/p/", "/store/cubes/site0/p/zarr.json"], ids=["the folder", "the root"])
def test_a_run_after_a_cube_was_deleted_by_hand_may_die_anywhere(gone: str) -> None:
    """Its markers are left over: beside a new root they would say that every region is written."""
    run = command(SERIES[:5])
    written = after(run)
    start, undisturbed = {k: v for k, v in written.items() if not k.startswith(gone)}, result(written)
    for n in deaths(run, start):
        die(run, n, start)
        run()
        assert result(MortalFileSystem.content()) == undisturbed, f"after dying before write {n}"


def test_an_append_may_die_anywhere_and_the_older_command_may_come_in_between() -> None:
    older, newer = command(SERIES[:5]), command(SERIES)
    start = after(older)
    undisturbed = result(after(older, newer))
    assert undisturbed == result(after(newer))
    for n in deaths(newer, start):
        die(newer, n, start)
        dead = MortalFileSystem.content()
        newer()
        assert result(MortalFileSystem.content()) == undisturbed, f"after dying before write {n}"
        MortalFileSystem.begin(dead)
        with contextlib.suppress(StalePlanError):
            older()
        newer()
        assert result(MortalFileSystem.content()) == undisturbed, f"after dying before write {n} and the older command"


def test_a_first_run_that_died_may_be_gone_on_with_by_one_of_more_dates() -> None:
    older, newer = command(SERIES[:5]), command(SERIES)
    undisturbed = result(after(newer))
    for n in deaths(older):
        die(older, n)
        newer()
        assert result(MortalFileSystem.content()) == undisturbed, f"after dying before write {n}"


def test_a_run_with_skipped_files_may_die_anywhere() -> None:
    run = command(BROKEN, errors="skip")
    undisturbed = result(after(run))
    for n in deaths(run):
        die(run, n)
        run()
        assert result(MortalFileSystem.content()) == undisturbed, f"after dying before write {n}"


@pytest.mark.parametrize("retry", [False, True])
def test_healing_may_die_anywhere(*, retry: bool) -> None:
    start, heal = after(command(BROKEN, errors="skip")), command(SERIES, retry=retry)
    undisturbed = result(after(command(SERIES)))
    for n in deaths(heal, start):
        die(heal, n, start)
        heal()
        assert result(MortalFileSystem.content()) == undisturbed, f"after dying before write {n}"


def test_a_run_that_a_task_ends_in_the_middle_is_gone_on_with() -> None:
    """With errors='raise' a broken file stops the run; what was finished stays, and is not done again."""
    from eocube.errors import AssetReadError

    with pytest.raises(AssetReadError):
        command(SERIES[:4], BROKEN)()
    assert [r["site"] for r in read_index(open_blobs(STORE)).to_pylist()] == [], "the run did not come to its end"
    report = run_plans(STORE, [plan(SERIES[:4], "site0"), plan(SERIES, "site1")], executor="serial")
    assert report.regions_skipped == 2
    stopped = result(MortalFileSystem.content())
    assert stopped == result(after(command(SERIES[:4], SERIES)))
