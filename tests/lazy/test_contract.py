"""Every shipped step, and steps like those that users write, keep the contract of steps."""

from __future__ import annotations

from typing import ClassVar

import pytest
import xarray as xr

import eocube
from eocube.model.spec import Layout
from eocube.testing import steps
from eocube.testing.contracts_step import CubeFactory, StepContract


class TestToReflectance(StepContract):
    def run(self, *cubes: xr.Dataset) -> xr.Dataset:
        return eocube.to_reflectance(cubes[0])


class TestMaskClouds(StepContract):
    stored_as: ClassVar[tuple[tuple[Layout, str], ...]] = (
        ("map", "threads:2"),
        ("patch", "serial"),
        ("balanced", "threads:3"),
        ("series", "serial"),
    )

    def run(self, *cubes: xr.Dataset) -> xr.Dataset:
        return eocube.mask_clouds(cubes[0])


class TestMaskSomeClasses(StepContract):
    def run(self, *cubes: xr.Dataset) -> xr.Dataset:
        return eocube.mask_clouds(cubes[0], clear=("vegetation", 6))


class TestCompositeOfClearPixels(StepContract):
    stored_as: ClassVar[tuple[tuple[Layout, str], ...]] = (("balanced", "serial"),)

    @pytest.fixture(params=["1MS", "QS-DEC", "16D", "W", "YS", "2MS", "MS"], autouse=True)
    def freq(self, request: pytest.FixtureRequest) -> str:
        self._freq: str = request.param
        return self._freq

    def run(self, *cubes: xr.Dataset) -> xr.Dataset:
        return eocube.composite(eocube.mask_clouds(cubes[0]), freq=self._freq)


class TestMeanCompositeOfReflectance(StepContract):
    def run(self, *cubes: xr.Dataset) -> xr.Dataset:
        return eocube.composite(eocube.to_reflectance(eocube.mask_clouds(cubes[0])), freq="QS-DEC", method="mean")


class TestMeanCompositeOfNumbers(StepContract):
    def run(self, *cubes: xr.Dataset) -> xr.Dataset:
        return eocube.composite(cubes[0], freq="MS", method="mean")


class TestCompositeOfDoubles(StepContract):
    def inputs(self, make: CubeFactory) -> tuple[xr.Dataset, ...]:
        return (make(dtype="float64"),)

    def run(self, *cubes: xr.Dataset) -> xr.Dataset:
        return eocube.composite(cubes[0], freq="YS")


class TestIndexOfNumbers(StepContract):
    stored_as: ClassVar[tuple[tuple[Layout, str], ...]] = (("balanced", "serial"),)

    @pytest.fixture(params=["ndvi", "evi", "ndwi", "NBR"], autouse=True)
    def index(self, request: pytest.FixtureRequest) -> str:
        self._index: str = request.param
        return self._index

    def run(self, *cubes: xr.Dataset) -> xr.Dataset:
        return eocube.spectral_index(cubes[0], self._index)


class TestIndexOfReflectance(StepContract):
    def run(self, *cubes: xr.Dataset) -> xr.Dataset:
        return eocube.spectral_index(eocube.to_reflectance(cubes[0]), "evi")


class TestAllFourSteps(StepContract):
    def run(self, *cubes: xr.Dataset) -> xr.Dataset:
        reflectance = eocube.to_reflectance(eocube.mask_clouds(cubes[0]))
        return eocube.composite(eocube.spectral_index(reflectance, "ndvi"), freq="MS")


class TestCompositeOfComposite(StepContract):
    def run(self, *cubes: xr.Dataset) -> xr.Dataset:
        return eocube.composite(eocube.composite(cubes[0], freq="MS"), freq="YS", method="mean")


class TestAppliedPixelFunction(StepContract):
    tries_first = True
    blank_where_masked = False

    def run(self, *cubes: xr.Dataset) -> xr.Dataset:
        return eocube.apply(cubes[0], steps.doubled, step_id="doubled-v1")


class TestAppliedNeighbourhood(StepContract):
    tries_first = True
    blank_where_masked = False

    def run(self, *cubes: xr.Dataset) -> xr.Dataset:
        return eocube.apply(cubes[0], steps.smoothed, halo_px=1, step_id="smoothed-v1")


class TestAppliedOtherBands(StepContract):
    tries_first = True
    blank_where_masked = False

    def run(self, *cubes: xr.Dataset) -> xr.Dataset:
        return eocube.apply(cubes[0], steps.ratio, step_id="ratio-v1")


class TestStepsAfterApply(StepContract):
    tries_first = True
    blank_where_masked = False

    def run(self, *cubes: xr.Dataset) -> xr.Dataset:
        return eocube.composite(eocube.apply(cubes[0], steps.smoothed, halo_px=1, step_id="smoothed-v1"), freq="QS-DEC")


class TestTwoCubes(StepContract):
    def inputs(self, make: CubeFactory) -> tuple[xr.Dataset, ...]:
        coarse = {"pixel_m": 20.0, "shape_yx": (19, 30), "name": "reference", "dates": ("2018-06-01", "2018-07-01", "2019-01-05")}
        return make(), make(**coarse)

    def run(self, *cubes: xr.Dataset) -> xr.Dataset:
        return steps.subtract_reference(cubes[0], eocube.mask_clouds(cubes[1]))


class TestTwoCubesFinerReference(StepContract):
    def inputs(self, make: CubeFactory) -> tuple[xr.Dataset, ...]:
        fine = {"pixel_m": 5.0, "shape_yx": (80, 112), "name": "reference", "dates": ("2018-06-01", "2019-01-05")}
        return make(), make(**fine)

    def run(self, *cubes: xr.Dataset) -> xr.Dataset:
        return steps.subtract_reference(eocube.composite(eocube.mask_clouds(cubes[0]), freq="MS"), cubes[1])
