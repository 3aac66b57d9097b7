"""What every step must do. Subclass ``StepContract`` as ``TestMyStep``, give ``run``, and pytest runs the rest."""

# ruff: noqa: D102 - the name of a test is its claim
from __future__ import annotations

import itertools
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import cloudpickle
import numpy as np
import pytest
import xarray as xr

from eocube.exec.drive import CubePlan, RunReport
from eocube.exec.evaluate import Evaluation, evaluate, probe
from eocube.exec.labels import coords_of, variable_attrs
from eocube.io.template import cube_template
from eocube.jobs.open import open_cube
from eocube.jobs.write import WriteSettings, plan_cube, run_plans
from eocube.lazy.masks import mask_clouds
from eocube.model.frame import Frame
from eocube.model.recipe import Recipe, frame_of, public_json, recipe_of, whole
from eocube.model.spec import CELL_PX, CubeSpec, Layout, settings_id
from eocube.model.window import Window
from eocube.testing.sources import ALWAYS_CLOUDY, EDGE, make_cube, sources_of

CubeFactory = Callable[..., xr.Dataset]


class StepContract(ABC):
    """The promises of a step from cube to cube as tests.

    What a step is tried on comes from :func:`eocube.testing.sources.make_cube`: irregular dates, pixels that say where they
    are, clouds, an edge without data.
    """

    stored_as: ClassVar[tuple[tuple[Layout, str], ...]] = (("patch", "threads:3"), ("series", "serial"))
    """Layouts and executors with which the result is stored, one after the other."""

    tries_first: ClassVar[bool] = False
    """Whether a small window is read when the step is declared (``apply``)."""

    blank_where_masked: ClassVar[bool] = True
    """Whether a pixel without a clear observation has no data in the result."""

    def inputs(self, make: CubeFactory) -> tuple[xr.Dataset, ...]:
        """The cubes that ``run`` gets, each made by ``make`` (keyword arguments of ``make_source``)."""
        return (make(),)

    @abstractmethod
    def run(self, *cubes: xr.Dataset) -> xr.Dataset:
        """The step, or a chain with it."""

    # ------------------------------------------------------------------------------------ fixtures

    @pytest.fixture
    def cubes(self) -> tuple[xr.Dataset, ...]:
        return self.inputs(make_cube)

    @pytest.fixture
    def result(self, cubes: tuple[xr.Dataset, ...]) -> xr.Dataset:
        return self.run(*cubes)

    @pytest.fixture
    def recipe(self, result: xr.Dataset) -> Recipe:
        return recipe_of(result)

    # ------------------------------------------------------------------------------------ windows

    def test_a_wider_window_gives_the_same_pixels(self, recipe: Recipe) -> None:
        frame = frame_of(recipe.node, recipe.binding)
        for window in windows_of(frame):
            for extra_px in (1, 7, 64):
                probe(recipe.node, window, Evaluation(recipe.binding, {}), extra_px=extra_px)

    def test_each_window_is_that_piece_of_the_whole(self, recipe: Recipe) -> None:
        frame, run = frame_of(recipe.node, recipe.binding), Evaluation(recipe.binding, {})
        everything = evaluate(recipe.node, whole(frame), run)
        for window in windows_of(frame):
            piece = everything.isel(time=list(window.times), y=slice(*window.y), x=slice(*window.x))
            assert_same_cube(evaluate(recipe.node, window, run), piece)

    def test_the_lazy_result_is_the_evaluated_one_whatever_its_chunks(self, recipe: Recipe) -> None:
        frame = frame_of(recipe.node, recipe.binding)
        everything = evaluate(recipe.node, whole(frame), Evaluation(recipe.binding, {}))
        for chunks in ({"time": 1, "y": 40, "x": 56}, {"time": -1, "y": 7, "x": 11}, {"time": 5, "y": -1, "x": 16}):
            lazy = self.run(*self.inputs(partial(make_cube, chunks=chunks)))
            assert_same_cube(lazy.compute(scheduler="synchronous"), everything)

    # ------------------------------------------------------------------------------------ known before any pixel

    def test_nothing_is_read_before_compute(self) -> None:
        result = self._unread()
        plan_cube(result, "memory:nowhere", site="cube", product="data", settings=WriteSettings())
        assert not any(s.log.reads for s in sources_of(result))

    def _unread(self) -> xr.Dataset:
        """The lazy result, of sources that refuse to be read where that is possible."""
        result = self.run(*self.inputs(partial(make_cube, flavour="plain" if self.tries_first else "forbidden")))
        for source in sources_of(result):
            assert len(source.log.reads) <= int(self.tries_first)
            source.log.clear()
        return result

    def test_the_frame_is_what_the_lazy_result_turns_out_to_be(self) -> None:
        result = self._unread()
        recipe = recipe_of(result)
        frame = frame_of(recipe.node, recipe.binding)
        assert [str(k) for k in result.data_vars] == [v.name for v in frame.variables]
        for v in frame.variables:
            found = result[v.name]
            assert (found.dims, found.shape, str(found.dtype)) == (v.dims, frame.shape(v.name), v.dtype)
            assert dict(found.attrs) == variable_attrs(v)
        labels = xr.Dataset(coords=coords_of(frame, whole(frame)))
        assert set(result.coords) == set(labels.coords)
        for name, coord in labels.coords.items():
            np.testing.assert_array_equal(result[name].values, coord.values, err_msg=str(name), strict=True)
            assert result[name].dims == coord.dims
            assert result[name].attrs == coord.attrs, name

    def test_no_chunk_holds_what_its_dims_do_not_say(self, result: xr.Dataset) -> None:
        """Dask trusts what a step says of its blocks; a wrong dtype or shape shows up far away."""
        for name, v in result.data_vars.items():
            blocks = v.data.to_delayed().ravel()
            sizes = itertools.product(*v.data.chunks)
            for block, size in zip(blocks, sizes, strict=True):
                values = block.compute(scheduler="synchronous")
                assert (values.shape, values.dtype) == (size, v.dtype), name

    # ------------------------------------------------------------------------------------ recipe

    def test_the_recipe_is_stable_json(self, recipe: Recipe) -> None:
        again = recipe_of(self.run(*self.inputs(partial(make_cube, chunks={"time": 1, "y": -1, "x": 9}))))
        assert str(again) == str(recipe)
        assert json.loads(recipe)["steps"]
        assert public_json(json.loads(json.dumps(recipe.node))) == str(recipe)

    def test_a_replayed_pickle_gives_the_same_pixels(self, result: xr.Dataset) -> None:
        recipe = recipe_of(result)
        node, binding = cloudpickle.loads(cloudpickle.dumps((recipe.node, recipe.binding)))
        window = windows_of(frame_of(node, binding))[-1]
        assert_same_cube(
            evaluate(node, window, Evaluation(binding, {})), evaluate(recipe.node, window, Evaluation(recipe.binding, {}))
        )
        other = cloudpickle.loads(cloudpickle.dumps(result))
        assert str(recipe_of(other)) == str(recipe)

    def test_a_recorded_result_replayed_from_json_arguments_is_the_same(self, recipe: Recipe) -> None:
        node = json.loads(json.dumps(recipe.node))
        window = windows_of(frame_of(node, recipe.binding))[0]
        run = Evaluation(recipe.binding, {})
        assert_same_cube(evaluate(node, window, run), evaluate(recipe.node, window, Evaluation(recipe.binding, {})))

    # ------------------------------------------------------------------------------------ masked pixels

    def test_masked_pixels_have_no_influence(self) -> None:
        results = []
        for flavour in ("plain", "poisoned"):
            first, *others = self.inputs(partial(make_cube, flavour=flavour))
            results.append(self.run(mask_clouds(first), *map(mask_clouds, others)).compute())
        assert_same_cube(results[1], results[0])

    def test_a_pixel_that_is_never_clear_has_no_data_and_not_zero(self) -> None:
        if not self.blank_where_masked:
            pytest.skip("this step may give data where there was none")
        for nodata in (0, 65_535):
            first, *others = self.inputs(partial(make_cube, nodata=nodata))
            result = self.run(mask_clouds(first), *others).compute()
            frame = frame_of_result(self.run(mask_clouds(first), *others))
            for rows, columns in (ALWAYS_CLOUDY, EDGE):
                values = result["data"].values[..., rows, columns]
                assert values.size
                assert not frame.data.valid(values).any(), frame.data
                if math.isfinite(frame.data.nodata or 0):
                    assert (values == frame.data.nodata).all()

    # ------------------------------------------------------------------------------------ stored

    def test_a_store_holds_what_compute_gives(self, result: xr.Dataset, tmp_path: Path) -> None:
        computed = result.compute()
        for layout, executor in self.stored_as:
            store = tmp_path / layout
            report = write_small(result, store, layout=layout, executor=executor)
            assert report.ok
            stored = open_cube(f"{store}/cubes/cube/data", chunks=None)
            assert_same_cube(stored, computed)
            for name in computed.data_vars:
                assert stored[name].attrs == computed[name].attrs

    # ------------------------------------------------------------------------------------ economy

    def test_variables_that_it_does_not_change_are_its_input_s_own(self, recipe: Recipe) -> None:
        name = recipe.node["step"]
        declared = recipe.binding.steps[name]
        if declared.changes is None:
            pytest.skip("this step makes all variables of its result")
        seen = []

        def noted(given: xr.Dataset, **args: Any) -> xr.Dataset:
            seen.append((given, declared.fn(given, **args)))
            return seen[-1][1]

        binding = replace(recipe.binding, steps={**recipe.binding.steps, name: replace(declared, fn=noted)})
        evaluate(recipe.node, whole(frame_of(recipe.node, binding)), Evaluation(binding, {}))
        ((given, result),) = seen
        for other in set(map(str, result.data_vars)) - set(declared.changes):
            assert np.shares_memory(result[other].values, given[other].values), other

    def test_writing_reads_no_more_than_the_plan_says(self, tmp_path: Path) -> None:
        result = self.run(*self.inputs(make_cube))
        sources = sources_of(result)
        plan = small_plan(plan_cube(result, str(tmp_path / "s"), site="cube", product="data", settings=WriteSettings()))
        from eocube.jobs.plan import Plan

        promised = Plan([plan]).summary()
        for source in sources:
            source.log.clear()
        run_plans(str(tmp_path / "s"), [plan], executor="serial")
        assert sum(s.spent().bytes_used for s in sources) <= promised.bytes_used
        assert sum(s.spent().bytes_fetched for s in sources) <= promised.bytes_fetched


# ------------------------------------------------------------------------------------------------ helpers


def windows_of(frame: Frame) -> list[Window]:
    """Windows of a frame: the whole, its corners, a middle piece, single pixels; all dates, one, every other one."""
    ny, nx = frame.shape_yx
    n = len(frame.time_ms)
    times = (tuple(range(n)), (n - 1,), tuple(range(0, n, 2)), (0,))
    spans = (
        ((0, min(9, ny)), (0, min(11, nx))),
        ((max(0, ny - 5), ny), (max(0, nx - 7), nx)),
        ((0, 1), (nx - 1, nx)),
        ((ny // 3, ny // 3 + max(1, ny // 3)), (nx // 4, nx // 4 + max(1, nx // 2))),
        ((ny - 1, ny), (0, nx)),
    )
    return [Window(t, y, x) for t, (y, x) in zip(itertools.cycle(times), spans, strict=False)]


def frame_of_result(cube: xr.Dataset) -> Frame:
    """The frame of a recorded cube."""
    recipe = recipe_of(cube)
    return frame_of(recipe.node, recipe.binding)


def assert_same_cube(found: xr.Dataset, expected: xr.Dataset) -> None:
    """Same variables, coordinates, dims, dtypes and bits (NaN equals NaN); attributes of the cube are not looked at."""
    assert set(found.variables) == set(expected.variables)
    for name, v in expected.variables.items():
        assert found[name].dims == v.dims, name
        np.testing.assert_array_equal(found[name].values, v.values, err_msg=str(name), strict=True)


def small_plan(plan: CubePlan, *, chunk_px: int = 16, chunks_per_shard: int = 2) -> CubePlan:
    """``plan`` with chunks and shards so small that a test's cube has many regions, some of them cut off."""
    job, spec = plan.job, plan.job.spec
    shard_px = chunk_px * chunks_per_shard
    cut: CubeSpec = replace(
        spec,
        chunk_tyx=(spec.chunk_tyx[0], chunk_px, chunk_px),
        shard_tyx=(spec.shard_tyx[0], shard_px, shard_px),
        cell_px=math.gcd(chunk_px, CELL_PX),
    )
    recipe = public_json(job.node)
    sid = settings_id(recipe, cut)
    template = cube_template(cut, cube=job.cube, product=job.product, recipe=recipe, sid=sid, licence={})
    return replace(plan, job=replace(job, spec=cut, sid=sid), meta=replace(plan.meta, template=template))


def write_small(
    cube: xr.Dataset, store: Path | str, *, layout: Layout = "balanced", executor: Any = "serial", max_bytes: int = 1 << 20
) -> RunReport:
    """Write a cube in many small shards; ``max_bytes`` small enough cuts each into pieces."""
    settings = WriteSettings(layout=layout, max_bytes=max_bytes)
    plan = small_plan(plan_cube(cube, str(store), site="cube", product="data", settings=settings))
    return run_plans(str(store), [plan], executor=executor)
