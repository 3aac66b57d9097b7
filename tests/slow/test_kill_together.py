"""Two commands started on one store at the same moment leave the store of one."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from eocube.testing.stores import same_store, tree
from tests.slow.killing import (
    Tell,
    Watch,
    Work,
    draw_moment,
    finish,
    finished_regions,
    kill_group,
    let_go,
    reports,
    start,
)

pytestmark = pytest.mark.slow

ROUNDS = 2


@pytest.mark.parametrize("verb", ["convert", "compose"])
def test_two_at_once_equal_one(verb: str, works: dict[str, Work], tmp_path: Path, tell: Tell) -> None:
    work, both = works[verb], []
    for i in range(ROUNDS):
        store = tmp_path / str(i)
        pair = [start(work.command(store, cluster), gate=True) for cluster in ("threads:1", "threads:2")]
        let_go(pair)
        for process in pair:
            finish(process)
        assert same_store(store, work.undisturbed)
        assert tree(store / "tmp") == {}
        done = [r["regions_done"] for r in reports(store)]
        assert min(done) > 0, "one had ended before the other began"
        both.append(sum(done) - work.total)
    tell(f"{verb}: {ROUNDS} rounds of two at once; regions of {work.total} written by both: {', '.join(map(str, both))}")


@pytest.mark.parametrize("verb", ["convert", "compose"])
def test_one_of_two_at_once_is_killed_and_the_other_ends_in_the_undisturbed_store(
    verb: str, works: dict[str, Work], tmp_path: Path
) -> None:
    work, moments = works[verb], random.Random(f"two {verb}")  # noqa: S311 - no secret
    pair, watch = [start(work.command(tmp_path), gate=True) for _ in range(2)], Watch(store=tmp_path)
    let_go(pair)
    watch.until(draw_moment(moments, work.total)[0], pair[0])
    assert kill_group(pair[0])
    assert 0 < len(finished_regions(tmp_path)) < work.total
    finish(pair[1])
    assert same_store(tmp_path, work.undisturbed)
