"""What a run asks of an object store: so much a region, whatever the size of the cube, and no more than its objects need."""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from eocube.corpora.stac import build_source
from eocube.exec.drive import CubePlan
from eocube.jobs.write import WriteSettings, plan_node, run_plans
from eocube.model.recipe import Binding
from eocube.testing.stac import SyntheticReader, item_dict, make_grid, make_series
from eocube.testing.stores import cut_plan

STORE = "counted://store"


class Counted(MemoryFileSystem):
    """``counted://``: a file system in memory that counts what a server would be asked for."""

    protocol = "counted"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    asked: ClassVar[Counter[str]] = Counter()

    def cat_file(self, path: str, *args: Any, **kwargs: Any) -> Any:
        """As in memory, counted."""
        self.asked["get"] += 1
        return super().cat_file(path, *args, **kwargs)

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        """As in memory, counted."""
        self.asked["put"] += 1
        super().pipe_file(path, value, mode=mode, **kwargs)

    def find(self, path: str, *args: Any, **kwargs: Any) -> Any:
        """As in memory, counted."""
        self.asked["list"] += 1
        return super().find(path, *args, **kwargs)

    def info(self, path: str, **kwargs: Any) -> Any:
        """As in memory, counted where nothing else asks: the size of one object."""
        self.asked["size"] += 1
        return super().info(path, **kwargs)

    def rm_file(self, path: str) -> None:
        """As in memory, counted."""
        self.asked["delete"] += 1
        super().rm_file(path)

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return f"/{path.removeprefix('counted://').strip('/')}".rstrip("/")


@pytest.fixture(autouse=True)
def _empty() -> None:
    fsspec.register_implementation("counted", Counted, clobber=True)
    Counted.store.clear()
    Counted.pseudo_dirs[:] = [""]


def plan(n_dates: int) -> CubePlan:
    """Two regions a date, each with data, classes and their summary."""
    scenes = make_series(n_dates, grid=make_grid((8, 12)), zooms={"B04": 1, "SCL": 1})
    source = build_source([item_dict(s) for s in scenes], reader=SyntheticReader(scenes))
    binding = Binding(sources={source.node["source"]: source})
    made = plan_node(source.node, binding, STORE, site="s", product="p", settings=WriteSettings(layout="map"), licence={})
    return cut_plan(made, chunk_tyx=(1, 8, 8), shard_tyx=(1, 8, 8))


def asked(n_dates: int, *, again: bool = False) -> Counter[str]:
    """The requests of a run into an empty store, or of the next one."""
    Counted.store.clear()
    made = plan(n_dates)
    assert made.n_regions == 2 * n_dates
    for _ in range(1 + again):
        Counted.asked.clear()
        assert run_plans(STORE, [made], executor="serial").cubes == ["s/p"]
    return Counter(Counted.asked)


def a_region(few: Counter[str], many: Counter[str], regions: int) -> dict[str, float]:
    """By how much the requests of a kind grow with each region."""
    return {kind: (many[kind] - few[kind]) / regions for kind in few | many if many[kind] != few[kind]}


def test_a_region_costs_a_put_for_each_of_its_objects_and_one_listing() -> None:
    """Two shards, the summary and the marker; the listing tells whether a newer plan was here meanwhile."""
    few, many = asked(6), asked(30)
    assert a_region(few, many, 48) == {"put": 4.0, "list": 1.0}
    assert few["get"] < 10, "claim, binding, index: not by region"


def test_a_finished_region_costs_no_request() -> None:
    few, many = asked(6, again=True), asked(30, again=True)
    assert few.total() > 0
    assert a_region(few, many, 48) == {}
