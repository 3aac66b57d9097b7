"""The contract of steps fails for steps that break it: a planted error for each promise."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import eocube
from eocube.errors import EocubeError
from eocube.lazy.lift import data_variable, lift, with_data
from eocube.model.frame import BANDED_DIMS, Frame
from eocube.model.recipe import recipe_of, step
from eocube.testing import steps
from eocube.testing.contracts_step import StepContract
from eocube.testing.sources import ArraySource, make_cube

WINDOWS = "test_a_wider_window_gives_the_same_pixels"
PIECES = "test_each_window_is_that_piece_of_the_whole"
LAZY = "test_the_lazy_result_is_the_evaluated_one_whatever_its_chunks"
UNREAD = "test_nothing_is_read_before_compute"
FRAME = "test_the_frame_is_what_the_lazy_result_turns_out_to_be"
CHUNKS = "test_no_chunk_holds_what_its_dims_do_not_say"
JSON = "test_the_recipe_is_stable_json"
PICKLE = "test_a_replayed_pickle_gives_the_same_pixels"
POISON = "test_masked_pixels_have_no_influence"
BLANK = "test_a_pixel_that_is_never_clear_has_no_data_and_not_zero"
STORE = "test_a_store_holds_what_compute_gives"
OWN = "test_variables_that_it_does_not_change_are_its_input_s_own"
READS = "test_writing_reads_no_more_than_the_plan_says"


def planted(kernel: Callable[..., Any], **declared: Any) -> Any:
    """A step that runs ``kernel`` on each block of the data."""

    def blocks(cube: xr.Dataset) -> xr.Dataset:
        return with_data(cube, lift(kernel, cube["data"], dims=BANDED_DIMS, dtype="uint16"), data_variable(cube))

    return step(**declared)(blocks)


def shifted(block: np.ndarray) -> np.ndarray:
    return np.roll(block, 1, axis=-1)


def minus_mean(block: np.ndarray) -> np.ndarray:
    return block - block.mean(axis=(-2, -1), keepdims=True).astype(block.dtype)


def nodata_to_zero(block: np.ndarray) -> np.ndarray:
    return np.where(block == 65_535, 0, block).astype(block.dtype)


def to_float(block: np.ndarray) -> np.ndarray:
    return block / 2


def noisy(block: np.ndarray) -> np.ndarray:
    return (block + np.random.default_rng().integers(0, 9, block.shape)).astype(block.dtype)


@step()
def eager(cube: xr.Dataset) -> xr.Dataset:
    return cube.assign(data=cube["data"].where(cube["data"] < int(cube["data"].max()), 0).assign_attrs(cube["data"].attrs))


@step()
def renamed(cube: xr.Dataset) -> xr.Dataset:
    return cube.assign(data=cube["data"].assign_attrs(long_name="something else"))


def _frame_without_scl(frame: Frame) -> Frame:
    return frame.with_(variables=(frame.data,))


@step(frame=_frame_without_scl)
def keeps_scl(cube: xr.Dataset) -> xr.Dataset:
    return cube.assign()


@step(changes=("data",))
def copies_scl(cube: xr.Dataset) -> xr.Dataset:
    return cube.assign(scl=cube["scl"].copy())


NUMBERS = itertools.count()


def numbered(cube: xr.Dataset) -> xr.Dataset:
    return eocube.composite(cube, origin=f"{1970 + next(NUMBERS)}-01-01")


def under_the_clouds(cube: xr.Dataset) -> xr.Dataset:
    """Looks at the source's pixels behind the mask's back."""
    (source,) = recipe_of(cube).binding.sources.values()
    assert isinstance(source, ArraySource)
    top = int(source.arrays["data"].max())
    return eocube.apply(cube, lambda c: c.assign(data=(c["data"] + top).astype("uint32")), step_id="top")


CASES: dict[str, tuple[Callable[..., xr.Dataset], str]] = {
    "undeclared halo": (planted(shifted), WINDOWS),
    "whole-image mean, wider window": (planted(minus_mean), WINDOWS),
    "whole-image mean, piece": (planted(minus_mean), PIECES),
    "whole-image mean, chunks": (planted(minus_mean), LAZY),
    "whole-image mean, store": (planted(minus_mean), STORE),
    "zero for nodata": (planted(nodata_to_zero), BLANK),
    "another dtype in the blocks": (planted(to_float), CHUNKS),
    "another dtype when evaluated": (planted(to_float), PIECES),
    "noise, chunks": (planted(noisy), LAZY),
    "noise, replayed": (planted(noisy), PICKLE),
    "reads at once": (eager, UNREAD),
    "attributes the frame does not know": (renamed, FRAME),
    "a variable the frame does not know": (keeps_scl, FRAME),
    "a mask that is said to come along, copied": (copies_scl, OWN),
    "nothing recorded": (lambda c: c * 2, JSON),
    "other arguments each time": (numbered, JSON),
    "pixels under clouds": (under_the_clouds, POISON),
    "an argument nobody recorded": (lambda c: steps.subtract_reference(c, c.isel(time=[0])), UNREAD),
}


class Contract(StepContract):
    """The contract for one function; not collected by pytest."""

    def __init__(self, function: Callable[..., xr.Dataset]):
        self.function = function

    def run(self, *cubes: xr.Dataset) -> xr.Dataset:
        return self.function(*cubes)

    def check(self, name: str, tmp_path: Path) -> None:
        """Run one test as pytest would."""
        test = getattr(self, name)
        wanted = test.__code__.co_varnames[1 : test.__code__.co_argcount]
        given: dict[str, Any] = {"tmp_path": tmp_path}
        if {"result", "recipe"} & set(wanted):
            given["result"] = self.run(*self.inputs(make_cube))
            given["recipe"] = recipe_of(given["result"])
        test(**{k: given[k] for k in wanted})


@pytest.mark.parametrize("case", CASES)
def test_a_step_that_breaks_its_word_is_caught(case: str, tmp_path: Path) -> None:
    function, test = CASES[case]
    with pytest.raises((AssertionError, EocubeError)):
        Contract(function).check(test, tmp_path)


def test_a_source_that_is_read_twice_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = ArraySource.read

    def twice(self: ArraySource, *args: Any, **options: Any) -> Any:
        original(self, *args, **options)
        return original(self, *args, **options)

    monkeypatch.setattr(ArraySource, "read", twice)
    with pytest.raises(AssertionError):
        Contract(eocube.mask_clouds).check(READS, tmp_path)


def test_an_honest_step_passes_each_of_them(tmp_path: Path) -> None:
    tests = {name for name in dir(Contract) if name.startswith("test_")}
    assert tests >= {test for _, test in CASES.values()} | {READS}
    for name in sorted(tests):
        (tmp_path / name).mkdir()
        Contract(eocube.mask_clouds).check(name, tmp_path / name)
