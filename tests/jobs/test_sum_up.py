"""What a run would do is added up cube by cube: as a plan of all cubes says, with one of them in memory."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eocube.corpora.stac import build_source
from eocube.errors import SettingsError
from eocube.exec.drive import CubePlan
from eocube.jobs.plan import Plan, PlanSummary, sum_up
from eocube.jobs.write import WriteSettings, plan_node, run_plans
from eocube.model.recipe import Binding
from eocube.testing.stac import SyntheticReader, item_dict, make_grid, make_series
from eocube.testing.stores import cut_plan

SERIES = make_series(7, grid=make_grid((8, 12)), zooms={"B04": 1, "SCL": 1})


def plan(store: Path, site: str, *, broken: bool = False, layout: Any = "patch") -> CubePlan:
    """Four dates a shard, two regions side by side: four regions."""
    scenes = [replace(s, missing=("B04",)) if broken and i == 2 else s for i, s in enumerate(SERIES)]
    source = build_source([item_dict(s) for s in scenes], reader=SyntheticReader(scenes))
    settings = WriteSettings(layout=layout, errors="skip")
    binding = Binding(sources={source.node["source"]: source})
    made = plan_node(source.node, binding, str(store), site=site, product="p", settings=settings, licence={})
    return cut_plan(made, chunk_tyx=(1, 8, 8), shard_tyx=(4, 8, 8))


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """Of three cubes one has a file that was not read, one is half written, one is not there."""
    run_plans(str(tmp_path), [plan(tmp_path, "a", broken=True)], executor="serial", limit=3)
    run_plans(str(tmp_path), [plan(tmp_path, "b")], executor="serial", limit=2)
    return tmp_path


@pytest.mark.parametrize("limit", [None, 1, 3, 5, 100], ids="limit={}".format)
@pytest.mark.parametrize("more", [{}, {"retry": True}, {"rebuild": [("b", "p")]}], ids=["", "retry", "rebuild"])
def test_totals_are_those_of_a_plan_of_all_cubes(begun: Path, limit: int | None, more: dict[str, Any]) -> None:
    plans = [plan(begun, site) for site in "abc"]
    whole = Plan(plans).remaining(**more)
    some = whole if limit is None else whole.head(limit)
    found = sum_up(iter(plans), limit=limit, **more)
    assert found.summary == some.summary()
    assert found.cubes == 3
    assert found.summary.tasks == len(some) > 0
    all_left = sum(p.n_regions for p in plans) - found.summary.finished - len(whole)
    assert found.left_out == (all_left if "retry" in more else 0)
    assert (found.left_out > 0) == ("retry" in more)


def test_a_cube_that_a_run_would_refuse_is_refused(begun: Path) -> None:
    with pytest.raises(SettingsError):
        sum_up([plan(begun, "c"), plan(begun, "b", layout="map")])


def test_one_plan_at_a_time_is_in_memory(tmp_path: Path) -> None:
    alive: list[weakref.ref[CubePlan]] = []

    def drawn() -> Iterator[CubePlan]:
        for i in range(4):
            gc.collect()
            assert sum(ref() is not None for ref in alive[:-1]) == 0, "an earlier plan is kept"
            made = plan(tmp_path, f"c{i}")
            alive.append(weakref.ref(made))
            yield made
            del made

    assert sum_up(drawn()).cubes == 4


def test_what_is_not_known_of_one_cube_is_not_known_of_all() -> None:
    known, unknown = PlanSummary(1, 2, 3, 4, 5, 6), PlanSummary(10, 20, 30, 40, 50, 3, peak_known=False, finished=7)
    assert known + unknown == PlanSummary(11, 22, 33, 44, 55, 6, peak_known=False, finished=7)
