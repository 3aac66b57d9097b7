"""Items changed at random: the only ways out are a plan and an error of eocube. Thousands more in tests/slow."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest

from eocube.corpora.stac_check import shown
from eocube.corpora.stac_items import read_items
from eocube.errors import CatalogError, EocubeError
from eocube.jobs.open import load_stac
from eocube.testing.stac import item_dict
from tests.corpora.hostile import SCENES, VALUES, nested, try_items


def test_the_items_that_are_changed_are_fine_before() -> None:
    assert try_items(5, seed=0, at_most=0).planned == 5


def test_changed_items_give_a_plan_or_an_error_of_eocube() -> None:
    found = try_items(150, seed=20_260_101)
    assert not found.escaped, found.escaped[:3]
    assert found.planned > 15
    assert len(found.refused) > 1


def test_the_search_finds_what_is_planted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check that is taken out shows as something else than an error of eocube."""
    monkeypatch.setattr("eocube.corpora.stac_items.check_item", lambda _: None)
    assert try_items(80, seed=20_260_101).escaped


def test_memory_for_a_hostile_item_stays_bounded() -> None:
    item = item_dict(SCENES[0], folder="/nowhere")
    item["assets"]["B04"] |= {"proj:shape": [2**24, 2**24], "proj:transform": [1e-3, 0, 6e5, 0, -1e-3, 5e6]}
    tracemalloc.start()
    try:
        for value in ([10**9, 10**9], [2**24 + 1, 1]):
            changed = {**item, "assets": {**item["assets"], "B04": {**item["assets"]["B04"], "proj:shape": value}}}
            with pytest.raises(EocubeError, match="more than 16,777,216"):
                load_stac([changed], bands=["red"])
        assert tracemalloc.get_traced_memory()[1] < 50_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("n", range(len(VALUES)))
def test_any_value_can_be_shown_in_a_few_printable_characters(n: int) -> None:
    text = shown(VALUES[n])
    assert len(text) < 700
    assert text.isprintable()


@pytest.mark.parametrize("kind", [list, dict])
def test_fields_that_nobody_reads_may_hold_anything(kind: type) -> None:
    item = item_dict(SCENES[0], folder="/nowhere") | {"geometry": nested(5_000, kind), "x": float("nan")}
    assert len(read_items([item])) == 1


@pytest.mark.parametrize(
    "links", [None, 5, "x", [None], [{"rel": "self", "href": 5}], [{"rel": ["self"]}], {"self": 1}], ids=repr
)
def test_links_of_an_item_are_only_looked_at(links: Any) -> None:
    assert len(read_items([item_dict(SCENES[0], folder="/nowhere") | {"links": links}])) == 1


@pytest.mark.parametrize(
    ("links", "said"),
    [
        (5, "links is 5, expected a list of objects"),
        ([5], "entry 0 of links is 5"),
        ([{"rel": "item"}], "with the href None"),
        ([{"rel": "child", "href": ["x"]}], "expected a text"),
        ([{"rel": "child", "href": "\x00"}], "control characters"),
    ],
    ids=str,
)
def test_links_of_a_catalogue_must_lead_somewhere(links: Any, said: str) -> None:
    with pytest.raises(CatalogError) as caught:
        read_items({"type": "Catalog", "id": "c", "links": links})
    assert said in str(caught.value)
