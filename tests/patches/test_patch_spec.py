"""A patch spec is a value: it travels as JSON and refuses what makes no sense."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from eocube.errors import PatchError
from eocube.model.patch_spec import PatchSpec, SplitRule

SPECS = [
    pytest.param(PatchSpec(lr_product="20m", hr_product="10m"), id="defaults"),
    pytest.param(PatchSpec(lr_product="20m", hr_product="10m", split=None, seed=3), id="no split"),
    pytest.param(
        PatchSpec(
            lr_product="a",
            hr_product="b",
            lr_bands=("red", "green"),
            hr_bands=("red",),
            scale=4,
            lr_px=9,
            stride_px=3,
            min_clear=0.5,
            time_tolerance_days=3.5,
            split=SplitRule(block_px=20, blocks_yx=(1, 3), buffer_px=0, period_days=None, gap_days=0),
        ),
        id="everything else",
    ),
]


@pytest.mark.parametrize("spec", SPECS)
def test_a_spec_comes_back_from_json_and_pickle_equal_and_with_its_id(spec: PatchSpec) -> None:
    for again in (PatchSpec.from_json(spec.to_json()), pickle.loads(pickle.dumps(spec))):
        assert again == spec
        assert hash(again) == hash(spec)
        assert again.spec_id == spec.spec_id


def test_every_field_changes_the_id() -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"lr_product": "x"},
        {"hr_product": "x"},
        {"lr_bands": ("x",)},
        {"hr_bands": ("x",)},
        {"scale": 3},
        {"lr_px": 8},
        {"stride_px": 8},
        {"min_clear": 0.1},
        {"time_tolerance_days": 1},
        {"split": None},
        {"split": SplitRule(gap_days=11)},
        {"seed": 1},
    ]
    ids = [PatchSpec(**{"lr_product": "20m", "hr_product": "10m", **change}).spec_id for change in changes]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize(
    "change",
    [
        {"scale": 0},
        {"lr_px": 0},
        {"stride_px": 0},
        {"min_clear": 1.1},
        {"min_clear": -0.1},
        {"min_clear": float("nan")},
        {"time_tolerance_days": -1},
        {"lr_bands": ("red", "red")},
        {"lr_px": 65},
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(PatchError):
        PatchSpec(**{"lr_product": "20m", "hr_product": "10m", **change})


@pytest.mark.parametrize(
    "change",
    [{"block_px": 0}, {"buffer_px": -1}, {"period_days": 0}, {"periods": 1}, {"blocks_yx": (1, 1)}, {"gap_days": float("nan")}],
    ids=str,
)
def test_a_split_that_leaves_nothing_or_means_nothing_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(PatchError):
        SplitRule(**change)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"lr_product":"a","hr_product":"b","colour":1}', '{"split":{"x":1}}'])
def test_text_that_is_no_spec_is_refused_with_the_text(text: str) -> None:
    with pytest.raises(PatchError, match="does not describe a patch set"):
        PatchSpec.from_json(text)
