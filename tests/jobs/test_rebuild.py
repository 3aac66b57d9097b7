"""A deletion, a rebuilt index or a run may die before any write: nothing is then taken for whole that is not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from eocube.corpora.stac import build_source
from eocube.errors import ArgumentError, EocubeError, LateDateError, UnknownNameError
from eocube.exec.drive import CubePlan
from eocube.io.blobs import open_blobs
from eocube.io.index import read_index
from eocube.jobs.audit import audit, index
from eocube.jobs.rebuild import choose_cubes, delete_cubes, delete_for_rebuild, refuse_retry_with_rebuild, stored_cubes
from eocube.jobs.remaining import regions_left
from eocube.jobs.write import WriteSettings, plan_node, run_plans
from eocube.model.recipe import Binding
from eocube.testing.stac import SyntheticReader, SyntheticScene, item_dict, make_grid, make_series
from eocube.testing.stores import MortalFileSystem, ProcessDiedError, cut_plan, register_mortal

STORE = "mortal://store"
SERIES = make_series(6, grid=make_grid((8, 12)), zooms={"B04": 1, "SCL": 1})
LATE, ALL = SERIES[1:], SERIES

Content = dict[str, bytes]


@pytest.fixture(autouse=True)
def _mortal() -> None:
    register_mortal()
    MortalFileSystem.begin()


def plan(scenes: list[SyntheticScene], site: str) -> CubePlan:
    """Four dates a shard, two regions side by side."""
    source = build_source([item_dict(s) for s in scenes], reader=SyntheticReader(scenes))
    binding = Binding(sources={source.node["source"]: source})
    settings = WriteSettings(layout="patch")
    made = plan_node(source.node, binding, STORE, site=site, product="p", settings=settings, licence={})
    return cut_plan(made, chunk_tyx=(1, 8, 8), shard_tyx=(4, 8, 8))


PLANS = {len(scenes): [plan(scenes, "site"), plan(LATE, "other")] for scenes in (LATE, ALL)}


def write(scenes: list[SyntheticScene]) -> None:
    """Two sites; only the first has the given scenes."""
    run_plans(STORE, PLANS[len(scenes)], executor="serial")


def result() -> tuple[Content, list[dict]]:
    """What must be equal: everything but runs' reports and the bytes of the index, of which the rows count."""
    content = MortalFileSystem.content()
    kept = {k: v for k, v in content.items() if not k.startswith(("/store/runs", "/store/index"))}
    return kept, read_index(open_blobs(STORE)).to_pylist()


def written(scenes: list[SyntheticScene]) -> tuple[Content, tuple[Content, list[dict]]]:
    """(content, result) of a fresh store."""
    MortalFileSystem.begin()
    write(scenes)
    return MortalFileSystem.content(), result()


def deaths(command: Callable[[], object], start: Content) -> range:
    MortalFileSystem.begin(start)
    command()
    return range(MortalFileSystem.writes)


def die(command: Callable[[], object], writes_left: int, start: Content) -> None:
    MortalFileSystem.begin(start, writes_left=writes_left)
    with pytest.raises(ProcessDiedError):
        command()
    MortalFileSystem.writes_left = None


def whole() -> bool:
    return audit(STORE, deep=True, executor="serial").ok


def delete() -> None:
    delete_cubes(STORE, [("site", "p")])


def test_a_deleted_cube_leaves_no_object_and_the_others_as_they_were() -> None:
    write(LATE)
    before = MortalFileSystem.content()
    delete()
    left = MortalFileSystem.content()
    assert {k: v for k, v in left.items() if not k.startswith("/store/index.parquet")} == {
        k: v for k, v in before.items() if "/site/p" not in k and not k.startswith("/store/index.parquet")
    }
    assert [r["site"] for r in read_index(open_blobs(STORE)).to_pylist()] == ["other"]
    assert whole()
    delete()
    assert MortalFileSystem.content() == left


def test_a_deletion_may_die_anywhere() -> None:
    """Then the same run makes the cube whole, another plan is refused or makes its own cube whole, and audit is not fooled."""
    start, late = written(LATE)
    _, full = written(ALL)
    at = deaths(delete, start)
    assert len(at) > 25
    for n in at[1:]:
        die(delete, n, start)
        dead = MortalFileSystem.content()
        assert not whole(), f"audit did not see that a deletion died before write {n}"
        write(LATE)
        assert result() == late, f"the same run after dying before write {n}"
        MortalFileSystem.begin(dead)
        try:
            write(ALL)
        except LateDateError:
            delete()
            write(ALL)
        assert result() == full, f"another run after dying before write {n}"


def test_an_audit_calls_no_store_whole_in_which_a_run_died_unless_it_is() -> None:
    _, complete = written(ALL)
    at = deaths(lambda: write(ALL), {})
    n_whole = 0
    for n in at[1:]:
        die(lambda: write(ALL), n, {})
        if "/store/zarr.json" in MortalFileSystem.content() and whole():
            n_whole += 1
            assert result() == complete or sites_without_row(), f"died before write {n}"
    assert n_whole < 6


def sites_without_row() -> bool:
    """Whether the store is whole as far as it goes: a cube that no object was written of yet is not missed."""
    cubes = {k.split("/")[3] for k in MortalFileSystem.content() if k.startswith("/store/cubes/") and k.count("/") > 4}
    return cubes == {r["site"] for r in read_index(open_blobs(STORE)).to_pylist()}


def test_rebuilding_the_index_may_die_anywhere() -> None:
    start, complete = written(ALL)
    start = {k: v for k, v in start.items() if not k.startswith("/store/index")}
    start["/store/index/gone/p.0123456789abcdef.parquet"] = b"x"
    for n in deaths(lambda: index(STORE), start):
        die(lambda: index(STORE), n, start)
        index(STORE)
        assert result() == complete
        assert whole()


def test_cubes_are_chosen_by_site_or_site_and_product() -> None:
    plans = [plan(ALL, "site"), plan(ALL, "other")]
    assert choose_cubes(["site/p", "other", "site"], plans) == [("site", "p"), ("other", "p")]
    with pytest.raises(UnknownNameError, match=r"'site/q'.*'site/p', 'other/p'"):
        choose_cubes(["site/q"], plans)


def test_regions_left_are_those_that_a_run_would_write() -> None:
    made = plan(ALL, "site")
    assert regions_left(made) == made.n_regions == 4
    report = run_plans(STORE, [made], executor="serial", limit=3)
    assert (report.regions_done, regions_left(made)) == (3, 1)
    run_plans(STORE, [made], executor="serial")
    assert regions_left(made) == regions_left(made, retry=True) == 0
    MortalFileSystem.begin()
    run_plans(STORE, [plan(SERIES[:5], "site")], executor="serial")
    grown = plan(ALL, "site")
    left = regions_left(grown)
    assert run_plans(STORE, [grown], executor="serial").regions_done == left == 2


def test_nothing_is_deleted_where_another_cube_of_the_run_would_be_refused() -> None:
    write(LATE)
    before = MortalFileSystem.content()
    refused = [plan(LATE, "site"), plan(ALL, "other")]  # the other one has a late date
    with pytest.raises(LateDateError, match="other/p"):
        delete_for_rebuild(STORE, iter(refused), ["site"])
    assert MortalFileSystem.content() == before
    assert stored_cubes(STORE, [("site", "p"), ("third", "p"), ("other", "p")]) == [("site", "p"), ("other", "p")]
    assert delete_for_rebuild(STORE, iter(refused), ["site", "other"]) == refused
    assert not stored_cubes(STORE, [("site", "p"), ("other", "p")])


def test_retry_and_rebuild_contradict_each_other() -> None:
    refuse_retry_with_rebuild(retry=True, rebuild=())
    refuse_retry_with_rebuild(retry=False, rebuild=["site"])
    with pytest.raises(ArgumentError, match="--rebuild site deletes") as caught:
        refuse_retry_with_rebuild(retry=True, rebuild=["site"])
    assert isinstance(caught.value, EocubeError)
