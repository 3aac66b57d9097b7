"""Hostile items by the thousand, by seeds of their own; tells what came of them."""

from __future__ import annotations

import pytest

from tests.corpora.hostile import try_items
from tests.slow.killing import Tell

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("seed", range(4))
def test_thousands_of_changed_items_give_a_plan_or_an_error_of_eocube(seed: int, tell: Tell) -> None:
    found = try_items(600, seed=seed)
    tell(f"hostile items, seed {seed}: {found.planned} planned, refused {dict(found.refused)}, {len(found.escaped)} escaped")
    assert not found.escaped, found.escaped[:5]
    assert found.planned > 60
