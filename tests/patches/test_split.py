"""Who may learn from what: no test ground and no test date was trained on, and nothing near them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eocube.model.patch_spec import PatchSpec, SplitRule
from eocube.patches.split import EITHER, NEITHER, TEST, TRAIN, Blocks, date_codes, join
from tests.patches.makers import DAY_MS, geobox, nested_pair

rules = st.builds(
    SplitRule,
    block_px=st.integers(6, 15),
    blocks_yx=st.sampled_from([(2, 2), (1, 2), (3, 1), (2, 3)]),
    buffer_px=st.integers(0, 4),
    period_days=st.integers(1, 90),
    periods=st.integers(2, 4),
    gap_days=st.floats(0, 40),
)
corners = st.tuples(st.integers(29_990, 30_010), st.integers(249_990, 250_010)).map(lambda p: (20.0 * p[0], 20.0 * p[1]))


def blocks_of(rule: SplitRule, corner_xy: tuple[float, float], seed: int, shape: tuple[int, int] = (40, 56)) -> Blocks:
    return Blocks(geobox(shape, 20.0, corner_xy), rule, seed)


def painted(codes: np.ndarray, y: np.ndarray, x: np.ndarray, size: int, code: int, margin: int) -> np.ndarray:
    """Pixels under patches of a code, on a canvas with a margin of 10 px; each patch grown by ``margin``."""
    canvas = np.zeros((60, 76), bool)
    for i, j in zip(*np.nonzero(codes == code), strict=True):
        canvas[10 + y[i] - margin : 10 + y[i] + size + margin, 10 + x[j] - margin : 10 + x[j] + size + margin] = True
    return canvas


@given(rule=rules, corner=corners, seed=st.integers(0, 5), size=st.integers(1, 6), stride=st.integers(1, 5))
def test_training_patches_keep_the_buffer_from_every_test_patch(
    rule: SplitRule, corner: tuple[float, float], seed: int, size: int, stride: int
) -> None:
    blocks = blocks_of(rule, corner, seed)
    y, x = np.arange(0, 40 - size + 1, stride), np.arange(0, 56 - size + 1, stride)
    codes = blocks.codes(y, x, size)
    train = painted(codes, y, x, size, TRAIN, rule.buffer_px)
    assert not (train & painted(codes, y, x, size, TEST, 0)).any()
    for rows, columns in blocks.test_areas((0, 40), (0, 56)):
        assert not train[10 + rows[0] : 10 + rows[1], 10 + columns[0] : 10 + columns[1]].any()


@given(rule=rules, first=corners, second=corners, seed=st.integers(0, 5))
def test_overlapping_sites_in_one_crs_agree(
    rule: SplitRule, first: tuple[float, float], second: tuple[float, float], seed: int
) -> None:
    def ground(corner: tuple[float, float]) -> dict[tuple[int, int], int]:
        codes = blocks_of(rule, corner, seed).codes(np.arange(40), np.arange(56), 1)
        column, row = round(corner[0] / 20), round(corner[1] / 20)
        return {(row - i, column + j): int(codes[i, j]) for i in range(40) for j in range(56)}

    a, b = ground(first), ground(second)
    assert all(b[at] == code for at, code in a.items() if at in b)


def test_exactly_one_block_of_each_group_is_for_testing() -> None:
    rule = SplitRule(block_px=5, blocks_yx=(2, 3), buffer_px=0)
    blocks = blocks_of(rule, (600_000.0, 5_000_000.0), 0, (40, 60))  # the corner is one of a group: 600 km = 6000 blocks of 100 m
    assert blocks.is_test.shape == (8, 12)
    groups = blocks.is_test.reshape(4, 2, 4, 3).sum(axis=(1, 3))
    np.testing.assert_array_equal(groups, np.ones((4, 4)))


def test_another_seed_draws_other_blocks_and_periods() -> None:
    rule = SplitRule(block_px=5, period_days=7)
    drawn = {blocks_of(rule, (600_000.0, 5_000_000.0), seed).is_test.tobytes() for seed in range(4)}
    dates = {date_codes(tuple(range(0, 365 * DAY_MS, DAY_MS)), rule, seed).tobytes() for seed in range(4)}
    assert len(drawn) == 4
    assert len(dates) == 4


def test_test_areas_cover_the_test_blocks_once_and_nothing_else() -> None:
    blocks = blocks_of(SplitRule(block_px=7, buffer_px=2), (600_020.0, 5_000_060.0), 1)
    canvas = np.zeros((40, 56), int)
    for y, x in blocks.test_areas((3, 38), (0, 56)):
        canvas[slice(*y), slice(*x)] += 1
    expected = blocks.codes(np.arange(40), np.arange(56), 1) == TEST
    expected[:3] = expected[38:] = False
    np.testing.assert_array_equal(canvas, expected)
    assert expected.any()


def test_blocks_whose_edges_lie_between_pixels_give_their_torn_pixels_to_nobody() -> None:
    rule = SplitRule(block_px=7, buffer_px=0)
    codes = blocks_of(rule, (600_010.0, 5_000_010.0), 0).codes(np.arange(40), np.arange(56), 1)
    assert (codes == NEITHER).any()
    assert (codes == TEST).any()


@given(rule=rules, seed=st.integers(0, 5), hour=st.integers(0, 23))
def test_training_dates_keep_the_gap_from_every_test_date(rule: SplitRule, seed: int, hour: int) -> None:
    """Dates every day at one hour, so that some lie just within the gap."""
    ms = np.arange(0, 500 * DAY_MS, DAY_MS) + hour * DAY_MS // 24
    codes = date_codes(tuple(ms.tolist()), rule, seed)
    train, test = (ms[codes == c] for c in (TRAIN, TEST))
    if len(train) and len(test):
        assert np.abs(train[:, None] - test[None]).min() >= rule.gap_days * DAY_MS


@given(rule=rules, seed=st.integers(0, 5), days=st.lists(st.integers(0, 2000), min_size=2, max_size=30, unique=True))
def test_further_dates_change_no_date_that_was_there(rule: SplitRule, seed: int, days: list[int]) -> None:
    ms = tuple(d * DAY_MS for d in sorted(days))
    np.testing.assert_array_equal(date_codes(ms[:-1], rule, seed), date_codes(ms, rule, seed)[:-1])


def test_one_period_in_each_run_is_for_testing() -> None:
    rule = SplitRule(period_days=10, periods=3, gap_days=0)
    codes = date_codes(tuple(d * DAY_MS for d in range(0, 300, 10)), rule, 0)
    np.testing.assert_array_equal((codes == TEST).reshape(10, 3).sum(axis=1), np.ones(10))
    assert not (codes == NEITHER).any()


@pytest.mark.parametrize(
    ("place", "date", "patch"),
    [
        (TRAIN, TRAIN, TRAIN),
        (TEST, TEST, TEST),
        (TRAIN, TEST, NEITHER),
        (TEST, TRAIN, NEITHER),
        (TEST, NEITHER, NEITHER),
        (NEITHER, NEITHER, NEITHER),
        (TEST, EITHER, TEST),
        (EITHER, TRAIN, TRAIN),
        (NEITHER, EITHER, NEITHER),
        (EITHER, EITHER, TRAIN),
    ],
)
def test_a_patch_is_what_its_place_and_its_date_agree_on(place: int, date: int, patch: int) -> None:
    assert join(np.array(place), np.array(date)) == patch


@given(rule=rules, seed=st.integers(0, 3))
def test_no_test_place_and_no_test_date_is_trained_on(rule: SplitRule, seed: int) -> None:
    """The claim of the whole plan, from its rows."""
    spec = PatchSpec(lr_product="20m", hr_product="10m", lr_px=5, stride_px=4, split=rule, seed=seed)
    pair = nested_pair(spec)
    slots = [pair.slots(region) for region, _ in pair.regions()]
    code = np.concatenate([np.zeros(0, np.uint8), *(s.split for s in slots)])
    t, y, x = (np.concatenate([np.zeros(0, int), *(s[i] for s in slots)]) for i in (0, 2, 3))
    assert not set(t[code == TRAIN]) & set(t[code == TEST])
    ground = {c: {(i + di, j + dj) for i, j in zip(y[code == c], x[code == c], strict=True) for di in range(5) for dj in range(5)}
              for c in (TRAIN, TEST)}  # fmt: skip
    assert not ground[TRAIN] & ground[TEST]
