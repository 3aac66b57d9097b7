"""A plan of what is left prices what a run would do now, and counts the rest as finished."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from eocube.corpora.stac import build_source
from eocube.errors import LateDateError, SettingsError, StalePlanError
from eocube.exec.drive import CubePlan
from eocube.jobs.plan import Plan
from eocube.jobs.remaining import regions_left
from eocube.jobs.write import WriteSettings, plan_node, run_plans
from eocube.model.recipe import Binding
from eocube.model.spec import Layout
from eocube.testing.stac import SyntheticReader, SyntheticScene, item_dict, make_grid, make_series
from eocube.testing.stores import cut_plan, tree

SERIES = make_series(7, grid=make_grid((8, 12)), zooms={"B04": 1, "SCL": 1})
BROKEN = [replace(s, missing=("B04",)) if i == 2 else s for i, s in enumerate(SERIES)]


def plan(
    scenes: list[SyntheticScene], store: Path, site: str = "a", *, errors: str = "raise", layout: Layout = "patch"
) -> CubePlan:
    """Four dates a shard, two regions side by side."""
    source = build_source([item_dict(s) for s in scenes], reader=SyntheticReader(scenes))
    settings = WriteSettings(layout=layout, errors=errors)  # type: ignore[arg-type]
    binding = Binding(sources={source.node["source"]: source})
    made = plan_node(source.node, binding, str(store), site=site, product="p", settings=settings, licence={})
    return cut_plan(made, chunk_tyx=(1, 8, 8), shard_tyx=(4, 8, 8))


def written(made: CubePlan, store: Path, limit: int | None = None, *, retry: bool = False) -> int:
    return run_plans(str(store), [made], executor="serial", limit=limit, retry=retry).regions_done


def regions(made: Plan) -> list[str]:
    assert len(list(made.rows())) == len(made) == made.summary().tasks
    return [f"{row['cube']} {row['region']}" for row in made.rows()]


def test_of_an_empty_store_everything_is_left(tmp_path: Path) -> None:
    whole = Plan([plan(SERIES, tmp_path), plan(SERIES, tmp_path, "b")])
    assert whole.remaining().table().equals(whole.table())
    assert whole.remaining().summary() == whole.summary()
    assert not list(tmp_path.iterdir())


def test_finished_regions_cost_nothing_and_are_counted(tmp_path: Path) -> None:
    made, other = plan(SERIES, tmp_path), plan(SERIES, tmp_path, "b")
    written(made, tmp_path, 3)
    left = Plan([made, other]).remaining()
    assert regions(left) == ["a 1.0.1", "b 0.0.0", "b 0.0.1", "b 1.0.0", "b 1.0.1"]
    assert regions(left.head(2)) == ["a 1.0.1", "b 0.0.0"]
    summary = left.summary()
    assert summary.finished == 3
    assert str(summary).endswith("a task; 3 regions are finished")
    rest = [row for row in Plan([made, other]).rows() if f"{row['cube']} {row['region']}" in regions(left)]
    assert summary.requests == sum(row["requests"] for row in rest) > 0
    assert written(made, tmp_path) == 1
    assert (regions(Plan([made]).remaining()), Plan([made]).remaining().summary().finished) == ([], 4)


def test_an_append_leaves_full_shards_finished(tmp_path: Path) -> None:
    written(plan(SERIES[:5], tmp_path), tmp_path)
    made = plan(SERIES, tmp_path)
    left = Plan([made]).remaining()
    assert (regions(left), left.summary().finished) == (["a 1.0.0", "a 1.0.1"], 2)
    assert written(made, tmp_path) == 2


@pytest.mark.parametrize("retry", [False, True])
def test_regions_with_unread_files_are_left(tmp_path: Path, *, retry: bool) -> None:
    written(plan(BROKEN, tmp_path, errors="skip"), tmp_path, 3)
    made = plan(SERIES, tmp_path)
    left = Plan([made]).remaining(retry=retry)
    assert regions(left) == (["a 0.0.0", "a 0.0.1"] if retry else ["a 0.0.0", "a 0.0.1", "a 1.0.1"])
    assert left.summary().finished == 1
    assert regions_left(made, retry=retry) == len(left) == written(made, tmp_path, retry=retry)


def test_cubes_to_be_made_anew_are_left_whole(tmp_path: Path) -> None:
    made = plan(SERIES, tmp_path)
    written(made, tmp_path)
    assert len(Plan([made]).remaining(rebuild=[("a", "p")])) == 4
    assert len(Plan([made]).remaining(rebuild=[("b", "p")])) == 0


def other_items(scenes: list[SyntheticScene]) -> list[SyntheticScene]:
    """The same dates from items of other names."""
    return [replace(s, item_id=f"{s.item_id}_B") for s in scenes]


@pytest.mark.parametrize(
    ("scenes", "layout", "error"),
    [
        pytest.param(SERIES[:3], "patch", StalePlanError, id="knows less"),
        pytest.param(SERIES, "patch", LateDateError, id="a date in between"),
        pytest.param([*SERIES[1:4], *SERIES[5:]], "map", SettingsError, id="another layout"),
        pytest.param(other_items([*SERIES[1:4], *SERIES[5:]]), "patch", StalePlanError, id="other items of the same dates"),
    ],
)
def test_a_plan_is_refused_as_its_run_would_be(
    tmp_path: Path, scenes: list[SyntheticScene], layout: Layout, error: type[Exception]
) -> None:
    written(plan([*SERIES[1:4], *SERIES[5:]], tmp_path), tmp_path)
    before = tree(tmp_path)
    made = plan(scenes, tmp_path, layout=layout)
    with pytest.raises(error) as planned:
        Plan([made]).remaining()
    assert tree(tmp_path) == before
    assert len(Plan([made]).remaining(rebuild=[("a", "p")])) == made.n_regions
    with pytest.raises(error) as ran:
        written(made, tmp_path)
    assert str(planned.value) == str(ran.value)
