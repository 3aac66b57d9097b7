"""``kill -9`` of a conversion of WorldStrat and of RapidAI4EO: the same command again ends in the undisturbed store."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from eocube.corpora.rapidai4eo_sample import write_rapidai4eo
from eocube.corpora.worldstrat_sample import write_worldstrat
from eocube.testing.stores import same_store
from tests.slow.killing import Watch, Work, draw_moment, finish, finished_regions, kill_group, let_go, run, start
from tests.slow.telling import Tell
from tests.slow.test_kill_anywhere import goes_on

pytestmark = pytest.mark.slow

KILLS, PROVED, MOST_ROUNDS = 4, 3, 10


def make_corpus(name: str, folder: Path) -> Path:
    if name == "worldstrat":
        return write_worldstrat(folder, sites=4, revisits=3, products=("l2a", "l1c", "hr_ps", "hr_rgbn"))
    return write_rapidai4eo(folder, sites=10, tiles=2, dates=12, months=1, products=("pf_sr", "s2_sr"))


@pytest.fixture(scope="module", params=["worldstrat", "rapidai4eo"])
def work(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Work:
    folder = tmp_path_factory.mktemp(request.param)
    source = make_corpus(request.param, folder / "c")
    made = Work(verb="convert", source=source, undisturbed=folder / "undisturbed", corpus=request.param)
    run(made.command(made.undisturbed))
    return made


def test_a_conversion_killed_at_random_moments_ends_in_the_undisturbed_store(work: Work, tmp_path: Path, tell: Tell) -> None:
    moments, left = random.Random(f"corpora {work.corpus}"), list[int]()  # noqa: S311 - no secret
    for store in (tmp_path / str(i) for i in range(MOST_ROUNDS)):
        n, jitter_s = draw_moment(moments, work.total)
        process, watch = start(work.command(store, moments.choice(("threads:1", "threads:2")))), Watch(store=store)
        watch.until(n, process)
        time.sleep(jitter_s)
        if kill_group(process):
            left.append(len(finished_regions(store)))
        goes_on(work, store)
        if len(left) == KILLS:
            break
    proved = sum(0 < n < work.total for n in left)
    tell(f"{work.corpus}: {len(left)} kills, {proved} proved; finished of {work.total} at each: {left}")
    assert len(left) == KILLS
    assert proved >= PROVED


def test_two_conversions_at_once_end_in_the_undisturbed_store(work: Work, tmp_path: Path) -> None:
    both = [start(work.command(tmp_path), gate=True) for _ in range(2)]
    let_go(both)
    for process in both:
        finish(process)
    assert same_store(tmp_path, work.undisturbed)
