"""What a chain costs before and while it is computed: tasks, graph layers, reads, bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cloudpickle
import dask.base
import dask.config
import numpy as np
import pytest
import xarray as xr

import eocube
from eocube.jobs.plan import Plan
from eocube.jobs.write import WriteSettings, plan_cube, run_plans
from eocube.model.spec import Layout
from eocube.testing import steps
from eocube.testing.contracts_step import small_plan
from eocube.testing.sources import ArraySource, make_cube, sources_of

Chain = Callable[[xr.Dataset], xr.Dataset]
ALIGNED = {"time": 1, "y": 16, "x": 16}


def monthly_ndvi(cube: xr.Dataset) -> xr.Dataset:
    return eocube.composite(eocube.spectral_index(eocube.to_reflectance(eocube.mask_clouds(cube)), "ndvi"), freq="MS")


CHAINS: dict[str, Chain] = {
    "mask": eocube.mask_clouds,
    "reflectance": lambda c: eocube.to_reflectance(eocube.mask_clouds(c)),
    "median": lambda c: eocube.composite(eocube.mask_clouds(c), freq="MS"),
    "four steps": monthly_ndvi,
    "applied": lambda c: eocube.apply(eocube.mask_clouds(c), steps.doubled, step_id="doubled"),
}


def one_source(cube: xr.Dataset) -> ArraySource:
    (source,) = sources_of(cube)
    source.log.clear()
    return source


@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
def test_each_block_is_read_once_for_all_variables(chain: Chain) -> None:
    result = chain(make_cube(chunks=ALIGNED))
    source = one_source(result)
    result.compute(scheduler="synchronous")
    for name in ("data", "scl"):
        assert set(source.block_reads(name).values()) == {1}, name


@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
def test_tasks_of_a_block_are_few_and_do_not_grow_with_the_cube(chain: Chain) -> None:
    def per_block(shape_yx: tuple[int, int], years: int) -> float:
        dates = [f"{2000 + y}-{m:02d}-{d}" for y in range(years) for m in range(1, 13) for d in ("04", "20")]
        result = chain(make_cube(chunks=ALIGNED, shape_yx=shape_yx, dates=dates, bands=("red", "nir")))
        (optimized,) = dask.base.optimize(result)
        blocks = len(dates) * (shape_yx[0] // 16) * (shape_yx[1] // 16)
        return len(dict(optimized.__dask_graph__())) / blocks

    small, wide, long = per_block((16, 16), 1), per_block((96, 128), 1), per_block((32, 32), 6)
    assert small <= 8
    assert wide <= small
    assert long <= small


@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
def test_layers_do_not_grow_with_the_number_of_dates(chain: Chain) -> None:
    def layers(n: int) -> int:
        dates = [str(np.datetime64("2000-01-03") + 9 * i) for i in range(n)]
        return len(chain(make_cube(chunks=ALIGNED, dates=dates, shape_yx=(16, 16))).__dask_graph__().layers)

    assert layers(60) == layers(6) <= 14


def test_one_block_of_a_composite_reads_its_own_pixels_of_its_own_dates() -> None:
    """No all-to-all: nothing but the block's place, over the dates of its period."""
    dates = [f"2020-{m:02d}-{d:02d}" for m in range(1, 7) for d in range(1, 29, 3)]
    result = CHAINS["median"](make_cube(chunks=ALIGNED, dates=dates, shape_yx=(64, 64)))
    source = one_source(result)
    result.isel(time=2, y=slice(16, 32), x=slice(48, 64)).compute(scheduler="synchronous")
    assert set(source.block_reads()) == {(t, 1, 3) for t in range(20, 30)}
    assert set(source.block_reads().values()) == {1}


def test_rechunking_over_time_does_not_become_a_shuffle_when_a_client_is_there() -> None:
    with dask.config.set({"array.rechunk.method": "p2p"}):
        result = CHAINS["median"](make_cube(chunks=ALIGNED))
    assert not [k for k in result.__dask_graph__().layers if "p2p" in k]


def test_a_chain_is_built_without_touching_pixels_and_pickles_small() -> None:
    result = monthly_ndvi(make_cube(flavour="forbidden", chunks=ALIGNED))
    source = sources_of(result)[0]
    pixels = sum(a.nbytes for a in source.arrays.values())
    assert len(cloudpickle.dumps(result)) - pixels < 200_000


def test_the_graph_of_a_chain_is_the_same_in_another_session() -> None:
    """Equal names: a scheduler that holds one result needs not compute it again."""
    first, second = (monthly_ndvi(make_cube()) for _ in range(2))
    assert first["data"].data.name == second["data"].data.name
    assert monthly_ndvi(make_cube(name="other"))["data"].data.name != first["data"].data.name


@pytest.mark.parametrize("layout", ["map", "series"])
@pytest.mark.parametrize(
    ("halo", "max_bytes"),
    [
        pytest.param(False, 1 << 28, id="points"),
        pytest.param(True, 1 << 28, id="halo"),
        pytest.param(False, 60_000, id="points in pieces"),
        pytest.param(True, 60_000, id="halo in pieces"),
    ],
)
def test_the_engine_reads_no_more_than_the_plan_says_and_evaluates_each_pixel_once(
    tmp_path: Path, layout: Layout, *, halo: bool, max_bytes: int
) -> None:
    cube = make_cube(chunks=ALIGNED, block_yx=(8, 8))
    if halo:
        cube = eocube.apply(cube, steps.smoothed, halo_px=1, step_id="smoothed")
    result = eocube.composite(cube, freq="MS") if halo else monthly_ndvi(cube)
    settings = WriteSettings(layout=layout, max_bytes=max_bytes)
    plan = small_plan(plan_cube(result, str(tmp_path / "s"), site="cube", product="data", settings=settings))
    promised = Plan([plan]).summary()
    source = one_source(result)
    report = run_plans(str(tmp_path / "s"), [plan], executor="serial")
    assert report.bytes_evaluated == promised.bytes_out
    spent = source.spent()
    assert spent.bytes_fetched <= promised.bytes_fetched
    assert spent.requests <= promised.requests
    assert spent.bytes_used <= promised.bytes_used or halo


def test_a_task_shipped_to_a_worker_is_small() -> None:
    """A task names its source, which is shipped once: the items of a long series are megabytes."""
    result = monthly_ndvi(make_cube(chunks=ALIGNED))
    (optimized,) = dask.base.optimize(result)
    sizes = sorted((len(cloudpickle.dumps(task)) for task in dict(optimized.__dask_graph__()).values()), reverse=True)
    assert sizes[1] > 100_000  # the sources of data and of scl
    assert sizes[2] < 4_000
