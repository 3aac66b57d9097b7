"""Plans: every patch that fits, once, in an order that only store and spec decide; no pixel is touched."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eocube.errors import GridError, PatchError, UnknownNameError
from eocube.model.patch_spec import PatchSpec, SplitRule
from eocube.patches.plan import PatchPair, PatchPlan, pair_dates
from tests.patches.makers import DAY_MS, DAYS, SPEC, cube_spec, frame_of, geobox, nested_pair

ALL = PatchSpec(lr_product="20m", hr_product="10m", lr_px=6, stride_px=6, split=None)


def plan_of(*pairs: PatchPair) -> PatchPlan:
    return PatchPlan(spec=pairs[0].spec, pairs=pairs)


@given(
    hr=st.lists(st.integers(0, 400), unique=True, max_size=12).map(sorted),
    lr=st.lists(st.integers(0, 400), unique=True, max_size=12).map(sorted),
    tolerance=st.floats(0, 30),
)
def test_each_hr_date_gets_the_nearest_lr_date_within_the_tolerance(hr: list[int], lr: list[int], tolerance: float) -> None:
    at, with_ = pair_dates(tuple(d * DAY_MS for d in hr), tuple(d * DAY_MS for d in lr), tolerance)
    expected = {
        i: min(range(len(lr)), key=lambda j: (abs(lr[j] - h), lr[j]))
        for i, h in enumerate(hr)
        if lr and min(abs(d - h) for d in lr) <= tolerance
    }
    assert dict(zip(at.tolist(), with_.tolist(), strict=True)) == expected


@given(
    size=st.integers(1, 9),
    stride=st.integers(1, 9),
    scale=st.integers(1, 4),
    shard=st.integers(5, 40),
    split=st.sampled_from([None, SPEC.split]),
)
def test_the_regions_hold_every_patch_that_fits_once(
    size: int, stride: int, scale: int, shard: int, split: SplitRule | None
) -> None:
    spec = replace(ALL, lr_px=size, stride_px=stride, scale=scale, split=split)
    pair = nested_pair(spec, lr_shape=(20, 27), shard_tyx=(4, shard, shard))
    found = []
    for region, n in pair.regions():
        slots = pair.slots(region)
        assert len(slots.y) == n
        assert set(slots.hr_t // 4) == {region.t}
        assert set(slots.y * scale // shard) == {region.y}
        assert set(slots.x * scale // shard) == {region.x}
        found += list(zip(slots.hr_t.tolist(), slots.y.tolist(), slots.x.tolist(), strict=True))
    everything = {
        (t, y, x) for t in range(len(DAYS)) for y in range(0, 20 - size + 1, stride) for x in range(0, 27 - size + 1, stride)
    }
    assert len(found) == len(set(found)) == sum(n for k, n in pair.count().items() if k != "buffer")
    assert set(found) <= everything
    assert sum(pair.count().values()) == len(everything)
    if split is None:
        assert set(found) == everything


def test_rows_have_unique_ids_and_places_of_their_own_shards() -> None:
    plan = plan_of(nested_pair(SPEC, site="a"), nested_pair(SPEC, site="b"))
    rows = list(plan.rows())
    places = [row["patch"] for row in rows]
    assert len(rows) == len(plan) == plan.summary()["patches"] > 0
    assert len({row["patch_id"] for row in rows}) == len(rows)
    assert places == sorted(set(places))
    assert max(places) < plan.n_places
    shards = [set(range(task.first_shard, task.first_shard - (-task.n_slots // plan.shard_patches))) for _, task in plan.tasks()]
    assert sum(map(len, shards)) == len(set().union(*shards)) == plan.n_places // plan.shard_patches


def test_ids_and_order_follow_from_spec_and_sites_alone() -> None:
    first, again = (plan_of(nested_pair(SPEC, site="a", shard_tyx=(4, 32, 32))) for _ in range(2))
    assert list(first.rows()) == list(again.rows())
    other_shards = plan_of(nested_pair(SPEC, site="a", shard_tyx=(2, 16, 16)))
    assert {r["patch_id"] for r in other_shards.rows()} == {r["patch_id"] for r in first.rows()}


def test_the_splits_of_a_site_do_not_change_when_it_grows() -> None:
    """Blocks and periods are the world's and not the cube's: later dates and a larger grid keep every patch where it is."""
    small = plan_of(nested_pair(SPEC, lr_shape=(24, 24), days=(100.0, 110.0)))
    grown = plan_of(nested_pair(SPEC, lr_shape=(40, 56), days=(100.0, 110.0, 250.0, 400.0)))
    splits = {r["patch_id"]: r["split"] for r in grown.rows()}
    assert {r["patch_id"]: r["split"] for r in small.rows()}.items() <= splits.items()


@pytest.mark.parametrize("n", [0, 1, 7, 50, 10_000])
def test_head_is_the_beginning_of_the_plan(n: int) -> None:
    plan = plan_of(nested_pair(ALL, site="a"), nested_pair(ALL, site="b"))
    head = plan.head(n)
    assert len(head) == min(n, len(plan))
    keep = ("patch_id", "split", "lr_yx")
    assert [[r[k] for k in keep] for r in head.rows()] == [[r[k] for k in keep] for r in list(plan.rows())[:n]]
    assert head.summary()["patches"] == len(head)
    assert plan.head(n).head(n + 1).first == n


def test_the_hr_patch_is_found_by_world_coordinates_and_not_by_index() -> None:
    """The HR cube begins 3 HR pixels further west and 5 further north, and ends inside the LR cube."""
    spec = replace(ALL, lr_px=4, stride_px=1)
    lr = cube_spec(frame_of(geobox((20, 20), 20.0), (1.0,), ("red",)))
    corner = (600_000.0 - 30, 5_000_000.0 + 50)
    hr = cube_spec(frame_of(geobox((30, 31), 10.0, corner), (1.0,), ("red",)))
    pair = PatchPair(site="s", lr_cube="s", hr_cube="s", lr=lr, hr=hr, spec=spec)
    assert pair.hr_span(0, 0) == (5, 3)
    assert pair.cover == ((0, 12), (0, 14))
    y, x = pair.corners
    assert (y.min(), y.max(), x.min(), x.max()) == (0, 8, 0, 10)


def test_an_hr_cube_that_begins_inside_the_lr_cube_leaves_its_margin_out() -> None:
    spec = replace(ALL, lr_px=4, stride_px=3)
    lr = cube_spec(frame_of(geobox((20, 20), 20.0), (1.0,), ("red",)))
    hr = cube_spec(frame_of(geobox((20, 21), 10.0, (600_000.0 + 50, 5_000_000.0 - 30)), (1.0,), ("red",)))
    pair = PatchPair(site="s", lr_cube="s", hr_cube="s", lr=lr, hr=hr, spec=spec)
    assert pair.cover == ((2, 11), (3, 13))
    assert [v.tolist() for v in pair.corners] == [[3, 6], [3, 6, 9]]


@pytest.mark.parametrize(
    ("pixel", "corner"),
    [
        pytest.param(9.0, (600_000.0, 5_000_000.0), id="not 2 to 1"),
        pytest.param(10.0, (600_005.0, 5_000_000.0), id="half a pixel off"),
        pytest.param(20.0, (600_000.0, 5_000_000.0), id="1 to 1"),
    ],
)
def test_grids_that_do_not_nest_are_refused(pixel: float, corner: tuple[float, float]) -> None:
    lr = cube_spec(frame_of(geobox((20, 20), 20.0), (1.0,), ("red",)))
    hr = cube_spec(frame_of(geobox((40, 40), pixel, corner), (1.0,), ("red",)))
    with pytest.raises(GridError):
        PatchPair(site="s", lr_cube="s", hr_cube="s", lr=lr, hr=hr, spec=ALL)


def test_an_unknown_band_is_refused_when_planning() -> None:
    with pytest.raises(UnknownNameError, match="known: 'green', 'red'"):
        nested_pair(replace(ALL, lr_bands=("swir",)))


def test_sites_with_different_bands_are_refused_unless_they_are_named() -> None:
    first = nested_pair(ALL, site="a")
    other = replace(first, lr=cube_spec(frame_of(first.lr.frame.geobox, (100.0,), ("red", "nir"))), site="b")
    with pytest.raises(PatchError, match="different bands"):
        plan_of(first, other)


def test_a_chunk_holds_a_power_of_two_and_a_shard_whole_chunks() -> None:
    plan = plan_of(nested_pair(replace(ALL, lr_px=16, stride_px=1)))
    assert plan.chunk_patches == 32  # 2 bands × 32 × 32 × 4 bytes are 8 KiB of the 256
    assert plan.shard_patches % plan.chunk_patches == 0
    assert np.prod([plan.shard_patches, 2, 32, 32, 4]) <= 64 * 1024 * 1024
