"""Ground that several splits share is found, measured in true metres, and nothing else is taken for it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pyproj import Geod, Transformer
from shapely.affinity import translate
from shapely.geometry import MultiPolygon, Polygon

from eocube.errors import ArgumentError
from eocube.model.patch_spec import SplitRule
from eocube.patches.ground import Candidates, Ground, Shared
from eocube.patches.index import footprints
from eocube.patches.leakage import COLUMNS, Footprints, LeakageReport, find_leakage
from eocube.patches.split import NEITHER, TEST, TRAIN, Blocks
from tests.patches.makers import geobox

GEOD = Geod(ellps="WGS84")
EQUAL_AREA = Transformer.from_crs("OGC:CRS84", "EPSG:6933", always_xy=True)
Box = tuple[float, float, float, float]


def rows(polygons: Sequence[Any], splits: Sequence[str | None], **more: Any) -> Footprints:
    """A row a polygon, called ``p0``, ``p1`` …"""
    names = np.array([f"p{i}" for i in range(len(polygons))], object)
    outlines = np.array([*polygons, None], object)[:-1]
    given = {"at": np.arange(len(polygons)), "name": names, **more}
    return Footprints(outlines=outlines, split=np.array([*splits, None], object)[:-1], **given)


def report(polygons: Sequence[Any], splits: Sequence[str | None], **options: Any) -> LeakageReport:
    return find_leakage(rows(polygons, splits), **options)


def found(of: LeakageReport) -> dict[frozenset[tuple[str, str]], tuple[float, float]]:
    """Pair → (area, distance), whichever of the two comes first."""
    pairs = of.pairs.to_dict("records")
    return {frozenset([(p["a"], p["split_a"]), (p["b"], p["split_b"])]): (p["shared_m2"], p["distance_m"]) for p in pairs}


def box_area_m2(box: Box) -> float:
    """Of a box of longitude and latitude, through PROJ's equal-area grid."""
    x, y = EQUAL_AREA.transform([0, box[2] - box[0]], box[1::2])
    return float((x[1] - x[0]) * (y[1] - y[0]))


# ------------------------------------------------------------------------------------------------ overlaps

STEP = 0.001
corners = st.tuples(st.integers(0, 12), st.integers(0, 12), st.integers(1, 5), st.integers(1, 5))


@st.composite
def labelled_boxes(draw: st.DrawFn) -> tuple[list[Box], list[str | None]]:
    """Boxes on a lattice of 0.001°, so that many touch and some are equal, anywhere but at the poles."""
    west, south = draw(st.sampled_from([(10.0, -0.006), (-70.0, 59.9), (179.995, -33.0), (20.0, 79.0)]))
    some = draw(st.lists(corners, min_size=2, max_size=14))
    boxes = [(west + x * STEP, south + y * STEP, west + (x + w) * STEP, south + (y + h) * STEP) for x, y, w, h in some]
    names = st.sampled_from(["train", "test", "val", None])
    splits = draw(st.lists(names, min_size=len(boxes), max_size=len(boxes)).filter(any))
    return boxes, splits


@settings(deadline=None)
@given(labelled_boxes())
def test_exactly_the_boxes_of_different_splits_that_overlap_are_found_with_their_areas(
    given_boxes: tuple[list[Box], list[str | None]],
) -> None:
    boxes, splits = given_boxes
    expected = {}
    for i, j in combinations(range(len(boxes)), 2):
        (a, b), (s, t) = (boxes[i], boxes[j]), (splits[i], splits[j])
        both = max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])
        if s and t and s != t and both[2] - both[0] > STEP / 2 and both[3] - both[1] > STEP / 2:
            expected[frozenset([(f"p{i}", s), (f"p{j}", t)])] = box_area_m2(both)
    result = report([shapely.box(*b) for b in boxes], splits)
    areas = {pair: area for pair, (area, _) in found(result).items()}
    assert areas == pytest.approx(expected, rel=1e-6)
    assert result.ok == (not expected)
    assert sum(c.overlapping for c in result.counts) == len(expected)
    assert result.without_split == splits.count(None)


@settings(deadline=None, max_examples=60)
@given(labelled_boxes(), st.permutations(["train", "test", "val"]), st.floats(0, 300))
def test_new_names_of_splits_and_another_order_of_rows_change_nothing(
    given_boxes: tuple[list[Box], list[str | None]], names: list[str], buffer_m: float
) -> None:
    boxes, splits = given_boxes
    renamed = dict(zip(["train", "test", "val"], names, strict=True))
    polygons = [shapely.box(*b) for b in boxes]
    first = report(polygons, splits, buffer_m=buffer_m)
    backward = rows(polygons[::-1], [s and renamed[s] for s in splits[::-1]])
    second = find_leakage(Footprints(**{**backward.__dict__, "name": backward.name[::-1]}), buffer_m=buffer_m)
    expected = {frozenset((p, renamed[s]) for p, s in pair): shared for pair, shared in found(first).items()}
    assert set(found(second)) == set(expected)
    for pair, shared in expected.items():
        assert found(second)[pair] == pytest.approx(shared, rel=1e-6, abs=1e-3)


def test_touching_edges_and_corners_are_no_overlap() -> None:
    result = report([shapely.box(10, 50, 11, 51), shapely.box(11, 50, 12, 51), shapely.box(11, 51, 12, 52)], ["a", "b", "c"])
    assert result.ok
    assert result.too_thin == 0
    assert list(result.pairs.columns) == list(COLUMNS)


def test_a_share_is_of_the_smaller_footprint() -> None:
    result = report([shapely.box(10, 0, 11, 1), shapely.box(10.5, 0.25, 10.75, 0.5)], ["train", "test"])
    (pair,) = result.pairs.to_dict("records")
    assert pair["share"] == pytest.approx(1)
    assert pair["split_a"] == "test"
    assert pair["shared_m2"] == pytest.approx(box_area_m2((10.5, 0.25, 10.75, 0.5)), rel=1e-9)


@pytest.mark.parametrize(("latitude", "off"), [(0.0, 1e-7), (45.0, 1e-7), (-80.0, 1e-6), (89.0, 1e-5)])
def test_areas_are_those_of_the_ellipsoid(latitude: float, off: float) -> None:
    """A polygon of 2 km with no side along a parallel, against geodesic areas of the same edges drawn fine."""
    lon, lat = 0.01 / np.cos(np.radians(latitude)), 0.01
    drawn = np.array([(7, latitude - lat), (7 + lon, latitude), (7, latitude + lat), (7 - lon, latitude)])
    polygon = Polygon(drawn)
    fine = shapely.segmentize(polygon, lat / 200)
    expected = abs(GEOD.geometry_area_perimeter(fine)[0])
    result = report([polygon, polygon], ["a", "b"])
    assert result.pairs["shared_m2"][0] == pytest.approx(expected, rel=off)


def test_revisits_of_one_place_are_one_footprint() -> None:
    """Ten thousand dates of two equal patches are one pair, and patches of one split are never compared."""
    polygon = shapely.box(10, 50, 10.01, 50.01)
    at = np.zeros(20_000, int)
    names = np.array([f"p{i}" for i in range(20_000)], object)
    splits = np.array(["train", "test"] * 10_000, object)
    result = find_leakage(Footprints(outlines=np.array([polygon], object), at=at, split=splits, name=names))
    (pair,) = result.pairs.to_dict("records")
    assert (pair["a"], pair["b"], pair["rows_a"], pair["rows_b"]) == ("p1", "p0", 10_000, 10_000)
    assert result.rows == {"test": 10_000, "train": 10_000}
    assert result.footprints == {"test": 1, "train": 1}


def test_candidates_are_of_different_splits_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """300 footprints of one split that all overlap, and one of another: 300 candidates, not 45,150."""
    seen = []
    measure = Ground.measure

    def counted(self: Ground, pairs: Candidates) -> Shared:
        seen.append(len(pairs.a))
        return measure(self, pairs)

    monkeypatch.setattr(Ground, "measure", counted)
    polygons = [shapely.box(10 + k * 1e-6, 50, 10.01, 50.01) for k in range(301)]
    assert len(report(polygons, ["train"] * 300 + ["test"]).pairs) == 300
    assert sum(seen) == 300


def test_the_parts_of_a_multipolygon_are_one_footprint() -> None:
    parts = [shapely.box(10, 50, 11, 51), shapely.box(12, 50, 13, 51)]
    result = report([MultiPolygon(parts), shapely.box(10.5, 50, 12.5, 51)], ["a", "b"])
    (pair,) = result.pairs.to_dict("records")
    assert pair["shared_m2"] == pytest.approx(2 * box_area_m2((10.5, 50, 11, 51)), rel=1e-9)
    assert pair["share"] == pytest.approx(0.5)


# ------------------------------------------------------------------------------------------------ grids cut by blocks

rules = st.builds(
    SplitRule,
    block_px=st.integers(8, 15),
    blocks_yx=st.sampled_from([(2, 2), (1, 2), (2, 3)]),
    buffer_px=st.integers(0, 4),
    period_days=st.none(),
)
PLACES = {"within a zone": (600_000.0, 5_000_000.0), "at its edge": (833_000.0, 1_000.0), "far north": (350_000.0, 8_600_000.0)}


def cut(
    rule: SplitRule, corner_xy: tuple[float, float], *, size: int, stride: int, pixel_m: float = 20.0
) -> tuple[list[Any], list[str], list[tuple[int, int]]]:
    """Patches of a grid that blocks cut: footprints as a patch set has them, splits, and upper left pixels."""
    grid = geobox((60, 60), pixel_m, corner_xy)
    y = x = np.arange(0, 60 - size + 1, stride)
    codes = Blocks(grid, rule, 0).codes(y, x, size)
    at = [(int(y[i]), int(x[j])) for i, j in np.argwhere(codes != NEITHER)]
    outlines = [shapely.from_wkb(f["geometry"]) for f in footprints(grid, at, size)]
    kept = codes[codes != NEITHER]
    return outlines, ["test" if c == TEST else "train" for c in kept], at


@settings(deadline=None, max_examples=60)
@given(rules, st.sampled_from(sorted(PLACES)), st.integers(1, 8), st.integers(1, 6), st.sampled_from([1.5, 20.0, 400.0]))
@example(SplitRule(block_px=8, buffer_px=1, period_days=None), "far north", 6, 1, 400.0)  # chords come nearer by half a metre
def test_blocks_share_no_ground_and_keep_their_buffer(
    rule: SplitRule, place: str, size: int, stride: int, pixel_m: float
) -> None:
    """Patches of up to 3.2 km whose edges meet in T, drawn by their four corners: chords overlap by up to some square metres."""
    outlines, splits, _ = cut(rule, PLACES[place], size=size, stride=stride, pixel_m=pixel_m)
    if splits:
        assert report(outlines, splits, buffer_m=rule.buffer_px * pixel_m).ok


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(sorted(PLACES)), st.data())
def test_one_pixel_of_a_test_patch_in_training_is_found(place: str, data: st.DataObject) -> None:
    """A training patch is put on a corner of a test patch, so that one pixel is in both."""
    rule = SplitRule(block_px=12, buffer_px=0, period_days=None)
    outlines, splits, at = cut(rule, PLACES[place], size=6, stride=6)
    test = data.draw(st.sampled_from([i for i, s in enumerate(splits) if s == TEST_NAME]))
    y, x = np.array(at[test]) + data.draw(st.sampled_from([(5, 5), (-5, 5), (5, -5), (-5, -5)]))
    grid = geobox((60, 60), 20.0, PLACES[place])
    planted = shapely.from_wkb(footprints(grid, [(int(y), int(x))], 6)[0]["geometry"])
    result = report([*outlines, planted], [*splits, "train"])
    pixels = {
        f"p{i}": int(np.maximum(0, 6 - np.abs(np.array(at[i]) - (y, x))).prod()) for i, s in enumerate(splits) if s == TEST_NAME
    }
    assert dict(zip(result.pairs["a"], result.pairs["shared_m2"], strict=True)) == pytest.approx(
        {name: n * 400 for name, n in pixels.items() if n}, rel=0.02
    )
    assert set(result.pairs["b"]) == {f"p{len(outlines)}"}
    assert pixels[f"p{test}"] == 1


TEST_NAME = "test"


def test_two_zones_do_not_know_of_each_others_blocks() -> None:
    """What SplitRule says it cannot see: the same ground, cut in two CRS."""
    assert (TRAIN, TEST) == (0, 1)
    rule = SplitRule(block_px=12, buffer_px=2, period_days=None)
    outlines, splits, _ = cut(rule, PLACES["within a zone"], size=6, stride=6)
    turned = [translate(o, 0.0002, 0.0001) for o in outlines]
    swapped = ["test" if s == "train" else "train" for s in splits]
    assert report(outlines, splits).ok
    assert not report([*outlines, *turned], [*splits, *swapped]).ok


# ------------------------------------------------------------------------------------------------ distances


@pytest.mark.parametrize("latitude", [0.0, 50.0, -75.0])
@pytest.mark.parametrize("gap_m", [3.0, 700.0, 40_000.0])
@pytest.mark.parametrize("turn", [(1.0, 0.0), (0.0, 1.0), (0.8, -0.8)], ids=["east", "north", "south-east"])
def test_distances_are_geodesics(latitude: float, gap_m: float, turn: tuple[float, float]) -> None:
    """Against the nearest of many points along both outlines."""
    metre = 1 / 111_195
    half = np.array([500 * metre / np.cos(np.radians(latitude)), 500 * metre])
    away = np.array([gap_m + 1400, gap_m + 1400]) * turn * metre / (np.cos(np.radians(latitude)), 1)
    here = np.array([30.0, latitude])
    a, b = (shapely.box(*(c - half), *(c + half)) for c in (here, here + away))
    many = [shapely.get_coordinates(shapely.segmentize(p.exterior, half[1] / 20)) for p in (a, b)]
    lines = np.broadcast_arrays(many[0][:, None], many[1][None])
    expected = GEOD.inv(*lines[0].reshape(-1, 2).T, *lines[1].reshape(-1, 2).T)[2].min()
    result = report([a, b], ["train", "test"], buffer_m=1.01 * expected + 0.01)
    assert result.pairs["distance_m"][0] == pytest.approx(expected, rel=3e-4)
    assert result.counts[0].near == 1
    assert report([a, b], ["train", "test"], buffer_m=0.999 * expected).ok


def test_touching_footprints_are_near_at_no_distance() -> None:
    result = report([shapely.box(10, 50, 10.01, 50.01), shapely.box(10.01, 50, 10.02, 50.01)], ["a", "b"], buffer_m=1)
    assert result.pairs[["shared_m2", "distance_m"]].to_numpy().tolist() == [[0.0, 0.0]]
    assert (result.counts[0].overlapping, result.counts[0].near) == (0, 1)
    assert not result.ok


# ------------------------------------------------------------------------------------------------ the ends of the map

ACROSS = {
    "beyond 180": shapely.box(179.99, 10, 180.01, 10.01),
    "below -180": shapely.box(-180.01, 10, -179.99, 10.01),
    "corners on both sides": Polygon([(179.99, 10), (-179.99, 10), (-179.99, 10.01), (179.99, 10.01)]),
    "cut in two": MultiPolygon([shapely.box(179.99, 10, 180, 10.01), shapely.box(-180, 10, -179.99, 10.01)]),
}


@pytest.mark.parametrize("a", ACROSS)
@pytest.mark.parametrize("b", ACROSS)
def test_the_antimeridian_is_no_edge(a: str, b: str) -> None:
    result = report([ACROSS[a], ACROSS[b], shapely.box(-180, 10, -179.995, 10.01)], ["a", "b", "c"])
    expected = {
        frozenset(["a", "b"]): box_area_m2((10, 10, 10.02, 10.01)),
        frozenset(["a", "c"]): box_area_m2((10, 10, 10.005, 10.01)),
        frozenset(["b", "c"]): box_area_m2((10, 10, 10.005, 10.01)),
    }
    areas = {frozenset([p.split_a, p.split_b]): p.shared_m2 for p in result.pairs.itertuples()}
    assert areas == pytest.approx(expected, rel=1e-6)


def test_what_lies_beside_the_antimeridian_is_near_to_what_lies_on_its_other_side() -> None:
    boxes = [shapely.box(179.98, 10, 179.999, 10.01), shapely.box(-179.999, 10, -179.98, 10.01)]
    expected = GEOD.inv(179.999, 10.01, -179.999, 10.01)[2]
    for order in (boxes, boxes[::-1]):
        result = report(order, ["train", "test"], buffer_m=300)
        assert result.pairs["distance_m"].tolist() == pytest.approx([expected], rel=1e-6)
    assert report(boxes, ["train", "test"], buffer_m=0.999 * expected).ok


def test_a_footprint_around_a_pole_is_refused() -> None:
    ring = Polygon([(lon, 89.9) for lon in (0, 90, 180, -90)])
    with pytest.raises(ArgumentError, match="lies around a pole"):
        report([ring, shapely.box(0, 0, 1, 1)], ["a", "b"])


def test_a_buffer_around_a_pole_is_refused_and_a_footprint_beside_it_is_not() -> None:
    wedges = [shapely.box(0, 89.9, 1, 89.95), shapely.box(0.5, 89.9, 1.5, 89.95)]
    assert len(report(wedges, ["a", "b"]).pairs) == 1
    assert len(report(wedges, ["a", "b"], buffer_m=400).pairs) == 1
    with pytest.raises(ArgumentError, match="too wide so near a pole"):
        report(wedges, ["a", "b"], buffer_m=1_000)


# ------------------------------------------------------------------------------------------------ names and dates


def far(n: int) -> list[Any]:
    """Boxes far from each other."""
    return [shapely.box(k, 0, k + 0.5, 0.5) for k in range(n)]


def test_ids_and_groups_in_several_splits_are_named() -> None:
    labels = {
        "id": np.array(["t1", "t2", "t1", "t3", "t2", None], object),
        "group": np.array(["o1", "o2", "t1", "o1", "o2", "o2"], object),
    }
    result = find_leakage(rows(far(6), ["train", "train", "test", "val", "train", None], labels=labels))
    assert result.ids == {"t1": ("test", "train")}
    assert result.groups == {"o1": ("train", "val")}
    assert result.pairs.empty
    assert not result.ok
    assert "Ids in several splits: 1: t1 (test, train)" in str(result)


def test_sites_that_blocks_cut_apart_are_named_and_no_fault() -> None:
    result = find_leakage(rows(far(2), ["train", "test"], labels={"site": np.array(["s", "s"], object)}))
    assert result.sites == {"s": ("test", "train")}
    assert result.ok


def test_dates_count_where_they_are_asked_for() -> None:
    """Train on days 1 and 2, test on day 3 on the first place, and on day 2 on the second."""
    polygons = [shapely.box(0, 0, 1, 1), shapely.box(0, 0, 1, 1), shapely.box(0.5, 0, 1.5, 1), shapely.box(0.7, 0, 1.7, 1)]
    labels = {"id": np.array(["s", "s", "s", "t"], object)}
    dated = rows(polygons, ["train", "train", "test", "test"], labels=labels, day=np.array([1, 2, 3, 2]))
    whatever, same = find_leakage(dated), find_leakage(dated, ignore_time=False)
    assert {(p.a, p.b) for p in whatever.pairs.itertuples()} == {("p2", "p0"), ("p2", "p1"), ("p3", "p0"), ("p3", "p1")}
    assert {(p.a, p.b) for p in same.pairs.itertuples()} == {("p3", "p1")}
    assert (set(whatever.ids), set(same.ids)) == ({"s"}, set())
    one = Footprints(**{**dated.__dict__, "outlines": dated.outlines[[0, 2, 3]], "at": np.array([0, 0, 1, 2])})
    assert {(p.a, p.b) for p in find_leakage(one, ignore_time=False).pairs.itertuples()} == {("p3", "p0")}
    with pytest.raises(ArgumentError, match="no `date` column"):
        report(polygons, ["train", "train", "test", "test"], ignore_time=False)


def test_a_report_of_many_splits_is_a_few_lines() -> None:
    """Ten folds that all overlap: 45 pairs of splits, the worst first."""
    polygons = [shapely.box(0, 0, 1 + k / 10, 1) for k in range(10)]
    lines = str(report(polygons, [f"f{k}" for k in range(10)])).splitlines()
    assert len(lines) == 8
    assert lines[1].startswith("f8 and f9: 1 pairs overlap, p8 and p9 most: ")
    assert "… and 40 more pairs of splits" in lines[6]


def test_one_split_is_said_to_be_one() -> None:
    result = report(far(2), ["train", None])
    assert result.ok
    assert "There is one split" in str(result)
    assert "1 without a split" in str(result)


@pytest.mark.parametrize(
    ("polygons", "splits", "options", "said"),
    [
        (far(2), [None, None], {}, "expected 1 to 100"),
        (far(101), [f"s{k}" for k in range(101)], {}, "holds ids, it seems"),
        ([shapely.Point(0, 0), *far(1)], ["a", "b"], {}, "no polygons, the first is 'POINT"),
        ([Polygon(), *far(1)], ["a", "b"], {}, "no polygons"),
        ([shapely.box(600_000, 0, 600_010, 10), *far(1)], ["a", "b"], {}, "no longitude and latitude"),
        ([Polygon([(0, 0), (1, 1), (1, 0), (0, 1)]), *far(1)], ["a", "b"], {}, "not valid.*Self-intersection"),
        (far(2), ["a", "b"], {"buffer_m": -1}, "buffer_m is -1"),
        (far(2), ["a", "b"], {"buffer_m": 1e6}, "buffer_m is 1000000"),
        (far(2), ["a", "b"], {"tolerance_m2": float("nan")}, "tolerance_m2 is nan"),
    ],
)
def test_what_cannot_be_compared_is_refused(polygons: list[Any], splits: list[Any], options: dict[str, float], said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        report(polygons, splits, **options)


def test_too_many_pairs_end_in_an_error_and_not_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eocube.patches.leakage.MAX_PAIRS", 3)
    polygons = [shapely.box(0, 0, 1 + k / 10, 1) for k in range(4)]
    with pytest.raises(ArgumentError, match="leaks everywhere"):
        report(polygons, ["a", "b", "a", "b"])
    assert len(report(polygons[:3], ["a", "b", "a"]).pairs) == 2
