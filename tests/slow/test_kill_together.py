"""Two commands started on one store at the same moment leave the store of one."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from eocube.testing.stores import same_store, tree
from tests.slow.killing import (
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
from tests.slow.telling import Tell

pytestmark = pytest.mark.slow

ROUNDS = 2
MOST_ROUNDS = 6
"""On a busy machine one may have ended before the other begins: that round proves little, and is drawn again."""


@pytest.mark.parametrize("verb", ["convert", "compose"])
def test_two_at_once_equal_one(verb: str, works: dict[str, Work], tmp_path: Path, tell: Tell) -> None:
    work, both = works[verb], list[int]()
    for store in (tmp_path / str(i) for i in range(MOST_ROUNDS)):
        pair = [start(work.command(store, cluster), gate=True) for cluster in ("threads:1", "threads:2")]
        let_go(pair)
        for process in pair:
            finish(process)
        assert same_store(store, work.undisturbed)
        assert tree(store / "tmp") == {}
        done = [r["regions_done"] for r in reports(store)]
        if min(done) > 0:
            both.append(sum(done) - work.total)
        if len(both) == ROUNDS:
            break
    tell(f"{verb}: {ROUNDS} rounds of two at once; regions of {work.total} written by both: {', '.join(map(str, both))}")
    assert len(both) == ROUNDS, "one had ended before the other began, again and again"


@pytest.mark.parametrize("verb", ["convert", "compose"])
def test_one_of_two_at_once_is_killed_and_the_other_ends_in_the_undisturbed_store(
    verb: str, works: dict[str, Work], tmp_path: Path
) -> None:
    work, moments = works[verb], random.Random(f"two {verb}")  # noqa: S311 - no secret
    for store in (tmp_path / str(i) for i in range(MOST_ROUNDS)):
        pair, watch = [start(work.command(store), gate=True) for _ in range(2)], Watch(store=store)
        let_go(pair)
        watch.until(draw_moment(moments, work.total)[0], pair[0])
        proved = kill_group(pair[0]) and 0 < len(finished_regions(store)) < work.total
        finish(pair[1])
        assert same_store(store, work.undisturbed)
        if proved:
            return
    pytest.fail("the command had ended before it was killed, again and again")
