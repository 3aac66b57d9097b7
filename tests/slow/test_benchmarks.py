"""The benchmarks run: on little data, without a look at the times, up to their own comparison of results."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parents[2] / "benchmarks"
SMALL: dict[str, dict[str, Any]] = {
    "convert": {"DATES": 2, "EDGE_PX": 512, "BLOCK_PX": 256, "SHAPE": (2, 4, 512, 512), "REPEATS": 1},
    "overhead": {"ROUNDS": 1, "CLUSTER_ROUNDS": 1, "EDGE_CHUNKS": {"bare": 1, "four_steps": 3, "cluster": 2, "skip": 1}},
    "memory": {"BLOCK_PX": 256, "SCENES": {"wide": (1, 512), "deep": (16, 256)}, "WORKERS": 1, "TASKS": 1},
    "heap": {"ROUNDS": 1, "TASKS": 2},
    "plan": {"SITES": 3_000, "REPEATS": 1},
    "objects": {"AREAS": 2, "REVISITS": 1, "SITES": 2, "TILES": 1, "DATES": 2},
    "corpora": {"AREAS": 2, "REVISITS": 1, "SITES": 2, "DATES": 2, "REPEATS": 1},
}
ARGUMENTS = {"memory": ("convert.patch", "stored.median")}
"""Rows to make; without any, all."""

KEYS = {"bench", "unit", "ours", "floor", "peers", "to_floor", "to_best_peer", "goal", "met", "peak_mb"}


@pytest.fixture
def benchmark(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A benchmark's module with less to do."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(sys, "argv", [request.param, *ARGUMENTS.get(request.param, ())])
    module = importlib.import_module(request.param)
    for name, value in SMALL[request.param].items():
        assert hasattr(module, name)
        monkeypatch.setattr(module, name, value)
    yield module
    sys.modules.pop(request.param)


@pytest.mark.filterwarnings("ignore")  # of the peers
@pytest.mark.parametrize("benchmark", SMALL, indirect=True)
def test_a_benchmark_compares_results_and_prints_its_rows(benchmark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark.main()
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert rows
    for row in rows:
        assert row.keys() >= KEYS
        assert row["ours"] > 0


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("benchmark", ["convert"], indirect=True)
def test_other_pixels_end_a_benchmark(benchmark: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    written = benchmark.write_xarray
    monkeypatch.setattr(benchmark, "write_xarray", lambda store, loaded, codec: written(store, loaded + 1, codec))
    with pytest.raises(SystemExit, match="odc-stac wrote other pixels"):
        benchmark.main()
