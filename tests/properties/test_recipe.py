"""Recipes: the same text wherever the pixels lie, another for every other chain; arguments come back as they were."""

from __future__ import annotations

import copy
import json
import math
import pickle
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from eocube.errors import StepContractError, UnrecordedError
from eocube.io.geozarr import group_attrs
from eocube.io.template import EOCUBE_ATTR, frame_from_attrs, frame_json
from eocube.model.bands import Band
from eocube.model.frame import Frame, PerTime, Variable
from eocube.model.hashing import canonical_json, digest
from eocube.model.memory import window_bytes
from eocube.model.recipe import (
    MAX_INLINE_BYTES,
    Binding,
    Node,
    Recipe,
    frame_of,
    input_names,
    public_json,
    recipe_of,
    record_value,
    replay_value,
    step,
    trace,
    whole,
)
from eocube.model.window import Window
from eocube.testing.sources import make_cube, make_source
from eocube.testing.stac import make_grid

SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-(2**53), 2**53), st.floats(), st.text(max_size=5))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1, max_size=3), inner, max_size=3),
    max_leaves=8,
)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float) and math.isnan(a):
        return math.isnan(b)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return type(a) is type(b) and a == b


@given(VALUES)
def test_a_recorded_argument_is_json_and_comes_back(value: Any) -> None:
    recorded = json.loads(canonical_json(record_value(value)))
    assert same(value, replay_value(recorded))


@pytest.mark.parametrize(
    "value", [np.arange(6, dtype="i2").reshape(2, 3), np.array([True, False]), np.array(1.5), np.zeros((0, 3), "f4")], ids=str
)
def test_a_small_array_comes_back_with_its_dtype(value: np.ndarray) -> None:
    np.testing.assert_array_equal(replay_value(json.loads(canonical_json(record_value(value)))), value, strict=True)


def test_an_array_with_nan_comes_back() -> None:
    value = np.array([np.nan, np.inf, -np.inf, 0.1], "f4")
    np.testing.assert_array_equal(replay_value(json.loads(canonical_json(record_value(value)))), value, strict=True)


@pytest.mark.parametrize(
    "value",
    [
        object(),
        {1, 2},
        b"x",
        np.zeros(MAX_INLINE_BYTES // 8 + 1),
        np.array(["a"]),
        np.array("2020", "M8[D]"),
        xr.DataArray(1),
        1j,
    ],
    ids=lambda v: f"{type(v).__name__}-{getattr(v, 'dtype', '')}",
)
def test_an_argument_that_is_no_json_is_refused(value: Any) -> None:
    with pytest.raises(UnrecordedError, match="cannot be recorded"):
        record_value(value)


@pytest.mark.parametrize("key", ["array", "float", "cube", "resource"])
def test_a_dictionary_that_would_be_taken_for_something_else_is_refused(key: str) -> None:
    with pytest.raises(UnrecordedError, match=f"without the keys .*{key}"):
        record_value({key: "1.5", "other": 2})


@pytest.mark.parametrize("value", [[1.0, math.nan], {"a": [math.inf]}, np.float64("nan"), np.float32("-inf")], ids=str)
def test_numbers_that_json_lacks_come_back_from_any_depth(value: Any) -> None:
    expected = value.item() if isinstance(value, np.generic) else value
    assert same(expected, replay_value(json.loads(canonical_json(record_value(value)))))


def test_numbers_of_numpy_are_recorded_as_pythons() -> None:
    assert (record_value(np.int16(3)), record_value(np.float64(0.5)), record_value((1, 2)), record_value(range(2))) == (
        3, 0.5, [1, 2], [0, 1],
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------ texts


def source_node(key: str, **options: Any) -> Node:
    return {"source": key, "kind": "stac", **options}


def step_node(name: str, inner: Node, **args: Any) -> Node:
    return {"step": name, "rev": 1, "args": args, "in": inner}


@st.composite
def chains(draw: st.DrawFn, keys: tuple[str, ...] = ("k0", "k1", "k2")) -> Node:
    """Chains over up to three sources, with cubes as arguments."""
    nodes: list[Node] = [source_node(k, bands=[k[-1]]) for k in keys]
    for i in range(draw(st.integers(0, 5))):
        args: dict[str, Any] = {"n": draw(st.integers(0, 1))}
        if draw(st.booleans()):
            args["other"] = {"cube": draw(st.sampled_from(nodes))}
        nodes.append(step_node(f"s{i % 2}", draw(st.sampled_from(nodes)), **args))
    return nodes[-1]


def rebound(node: Node, names: dict[str, str]) -> Node:
    """The same chain over sources of other keys."""
    text = json.dumps(node)
    for old, new in names.items():
        text = text.replace(f'"source": "{old}"', f'"source": "{new}"')
    return json.loads(text)


@given(chains())
def test_the_text_does_not_depend_on_what_its_sources_are_bound_to(node: Node) -> None:
    text = public_json(node)
    assert public_json(rebound(node, {"k0": "zz", "k1": "aa", "k2": "k0"})) == text
    assert not any(k in text for k in ('"k0"', '"k1"', '"k2"', '"source"'))


@given(chains())
def test_inputs_are_numbered_in_order_of_first_use_and_each_once(node: Node) -> None:
    found = json.loads(public_json(node))
    assert list(found["inputs"]) == [f"in{i}" for i in range(len(found["inputs"]))]
    assert sorted(input_names(node).values()) == sorted(found["inputs"])
    seen = list(found["inputs"])
    for entry in found["steps"]:
        assert entry["in"] in seen
        assert all(v["cube"] in seen for v in entry["args"].values() if isinstance(v, dict))
        seen.append(entry["id"])
    assert len(set(seen)) == len(seen)


@given(chains(), chains())
def test_other_chains_have_other_texts(a: Node, b: Node) -> None:
    assert (public_json(a) == public_json(b)) == (canonical_json(a) == canonical_json(b)) or _same_up_to_names(a, b)


def _same_up_to_names(a: Node, b: Node) -> bool:
    """Chains that differ only in which of several equal sources they use."""
    return {v: k for k, v in input_names(a).items()}.keys() == {v: k for k, v in input_names(b).items()}.keys()


def test_two_inputs_exchanged_are_another_recipe() -> None:
    a, b = source_node("a", bands=["red"]), source_node("b", bands=["red"])
    one = step_node("join", a, other={"cube": step_node("blur", b)})
    two = step_node("join", step_node("blur", b), other={"cube": a})
    assert public_json(one) != public_json(two)
    assert public_json(step_node("join", a, other={"cube": a})) != public_json(step_node("join", a, other={"cube": b}))


@given(chains())
def test_a_recipe_survives_copies_and_pickles(node: Node) -> None:
    binding = Binding(resources={"x": 1})
    recipe = Recipe(node, binding, "fingerprint")
    for again in (copy.copy(recipe), copy.deepcopy(recipe), pickle.loads(pickle.dumps(recipe))):
        assert isinstance(again, Recipe)
        assert (str(again), again.node, again.fingerprint, again.binding.resources) == (
            str(recipe),
            node,
            "fingerprint",
            {"x": 1},
        )


# ------------------------------------------------------------------------------------------------ steps


@step(halo_px=2)
def widen(cube: xr.Dataset, k: int = 1) -> xr.Dataset:
    return cube.assign(data=cube["data"] + k)


@step(arg_times="all")
def join(cube: xr.Dataset, other: Any = None) -> xr.Dataset:
    return cube


@step(arg_times="same")
def pair(cube: xr.Dataset, other: Any = None) -> xr.Dataset:
    return cube


def test_a_step_is_recorded_with_its_defaults_and_leaves_its_input_alone() -> None:
    cube = make_cube(shape_yx=(10, 12))
    before = str(recipe_of(cube))
    (entry,) = json.loads(str(recipe_of(widen(cube))))["steps"]
    assert entry == {"id": "s0", "step": "widen", "rev": 1, "in": "in0", "args": {"k": 1}}
    assert str(recipe_of(cube)) == before
    assert str(recipe_of(widen(cube, 1))) == str(recipe_of(widen(cube, k=1))) != str(recipe_of(widen(cube, 2)))


def test_a_step_that_hands_back_its_input_leaves_that_as_it_was() -> None:
    cube = make_cube(shape_yx=(10, 12))
    before = str(recipe_of(cube))
    made = join(cube, other=cube)
    assert json.loads(str(recipe_of(made)))["steps"]
    join(cube, other=object())
    assert str(recipe_of(cube)) == before


def test_windows_go_back_through_halos_and_times() -> None:
    cube, other = make_cube(shape_yx=(40, 56), name="a"), make_cube(shape_yx=(40, 56), name="b")
    window = Window((3,), (10, 20), (0, 8))
    keys = {k: recipe_of(c).node["source"] for k, c in (("a", cube), ("b", other))}

    def traced(made: xr.Dataset) -> list[tuple[str, Window]]:
        return trace(recipe_of(made).node, window, recipe_of(made).binding)

    assert traced(widen(widen(cube))) == [(keys["a"], Window((3,), (6, 24), (0, 12)))]
    assert traced(join(cube, other=widen(other))) == [
        (keys["a"], window), (keys["b"], Window(tuple(range(12)), (8, 22), (0, 10))),
    ]  # fmt: skip
    assert traced(pair(cube, other=other)) == [(keys["a"], window), (keys["b"], window)]
    assert traced(join(cube, other=cube)) == [(keys["a"], window), (keys["a"], Window(tuple(range(12)), (10, 20), (0, 8)))]
    both = pair(cube, other=cube)
    assert traced(both) == [(keys["a"], window)], "one window is read once"
    recipe = recipe_of(both)
    assert window_bytes(recipe.node, window, recipe.binding, {}).working == 2 * 80 * (5 * 2 + 1), "the input once, and the result"


def test_what_waits_is_held_while_another_input_is_read() -> None:
    cube, other = make_cube(shape_yx=(40, 56), name="a"), make_cube(shape_yx=(40, 56), name="b")
    recipe, one = recipe_of(pair(cube, other=other)), 80 * (5 * 2 + 1)
    found = window_bytes(recipe.node, Window((3,), (10, 20), (0, 8)), recipe.binding, {})
    assert found == (2 * one, 3 * one, 0), "two inputs while the second is read, and the result beside them"


@step(changes=("data",))
def repaint(cube: xr.Dataset) -> xr.Dataset:
    return cube.assign(data=cube["data"] + 1)


def test_what_a_step_makes_and_the_gaps_that_the_one_before_left_are_counted() -> None:
    cube, data, mask = make_cube(shape_yx=(40, 56)), 80 * 5 * 2, 80

    def working(made: xr.Dataset) -> int:
        recipe = recipe_of(made)
        return window_bytes(recipe.node, Window((3,), (10, 20), (0, 8)), recipe.binding, {}).working

    assert working(pair(cube)) == 2 * (data + mask)
    assert working(pair(pair(cube))) == 2 * (data + mask) + mask, "no new array but a smaller one fits where the first mask was"
    assert working(repaint(cube)) == 2 * data + mask, "the mask is passed on"
    assert working(repaint(repaint(cube))) == 2 * data + mask, "the result fits where the first data was"


def test_an_unrecorded_argument_makes_the_result_unrecorded_and_says_why() -> None:
    cube = make_cube(shape_yx=(10, 12))
    made = join(cube, other=cube * 2)
    with pytest.raises(UnrecordedError, match=r"cannot be replayed.*changed by something"):
        recipe_of(made)


def test_two_functions_of_one_name_in_one_chain_are_refused() -> None:
    def make(k: int) -> Any:
        @step()
        def mine(cube: xr.Dataset) -> xr.Dataset:
            return cube.assign(data=cube["data"] + k)

        return mine

    cube = make_cube(shape_yx=(10, 12))
    with pytest.raises(StepContractError, match=r"Two different functions .* 'mine'"):
        make(2)(make(1)(cube))


def test_the_frame_of_a_chain_needs_no_pixels() -> None:
    source = make_source(flavour="forbidden", shape_yx=(10, 12))
    node = {"step": "widen", "rev": 1, "args": {"k": 1}, "in": source.node}
    binding = Binding(sources={source.node["source"]: source}, steps={"widen": widen.step})  # type: ignore[attr-defined]
    assert frame_of(node, binding) == source.frame()
    assert whole(source.frame()) == Window(tuple(range(12)), (0, 10), (0, 12))


# ------------------------------------------------------------------------------------------------ JSON


@given(st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=3), max_size=4))
def test_one_value_has_one_text_and_one_digest(value: dict[str, Any]) -> None:
    other = dict(reversed(list(value.items())))
    assert canonical_json(value) == canonical_json(other)
    assert digest(value) == digest(other)
    assert len(digest(value)) == 32
    with pytest.raises(ValueError, match=r"not JSON compliant"):
        canonical_json([math.nan])


TIMES = st.lists(st.integers(-(10**13), 10**13), min_size=1, max_size=6, unique=True).map(lambda t: tuple(sorted(t)))


@st.composite
def frames(draw: st.DrawFn) -> Frame:
    """Frames of every kind that the store format has to hold."""
    times = draw(TIMES)
    names = draw(st.lists(st.text("abcé ", min_size=1, max_size=4), min_size=1, max_size=4, unique=True))
    integer = draw(st.booleans())
    data = Variable(
        name="data",
        dtype=draw(st.sampled_from(["uint16", "int16"])) if integer else "float32",
        banded=True,
        nodata=draw(st.sampled_from([None, 0, -1])) if integer else draw(st.sampled_from([None, math.nan, -9999.0])),
        scale=draw(st.sampled_from([None, 1e-4])),
        offset=-0.1,
        attrs=(("units", "1"), ("n", 3)),
    )
    mask = Variable(name="qa", dtype="uint8", flags=((1, "a"), (2, "b")))
    kinds = {"str": st.text(max_size=3), "float32": st.floats(-9, 9, width=32), "int16": st.integers(-9, 9)}
    n = len(times)
    per_time = tuple(
        PerTime(name=f"p_{dtype}", dtype=dtype, values=tuple(draw(st.lists(values, min_size=n, max_size=n))))
        for dtype, values in kinds.items()
    )
    shape = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    return Frame(
        geobox=make_grid(shape, resolution=draw(st.sampled_from([10.0, 10 / 3, 0.1]))),
        time_ms=times,
        bands=tuple(Band(name=n, eo_name=draw(st.sampled_from([None, "B1"])), wavelength_um=0.5) for n in names),
        variables=(data, mask),
        per_time=per_time,
        time_bnds_ms=draw(st.sampled_from([None, tuple((t, t + 5) for t in times)])),
    )


@given(frames())
def test_a_frame_comes_back_out_of_its_json(frame: Frame) -> None:
    attrs = json.loads(json.dumps({**group_attrs(frame.geobox), EOCUBE_ATTR: frame_json(frame)}, allow_nan=False))
    back = frame_from_attrs(attrs)
    assert repr(back) == repr(frame)
    assert frame_json(back) == frame_json(frame)
