"""Hostile items by the thousand, by seeds of their own; prints what came of them."""

from __future__ import annotations

import pytest

from tests.corpora.hostile import try_items

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("seed", range(4))
def test_thousands_of_changed_items_give_a_plan_or_an_error_of_eocube(seed: int) -> None:
    found = try_items(600, seed=seed)
    print(f"seed {seed}: {found}")  # noqa: T201 - the counts are what is asked for
    assert not found.escaped, found.escaped[:5]
    assert found.planned > 60
