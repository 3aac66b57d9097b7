"""Grids of the corpora put on each other: where pixels come to lie, which are read, windows, masks and what is refused."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from pyproj import Transformer

from eocube.errors import GridError
from eocube.patches.align import Alignment, _Turned, factor_for, refined
from eocube.testing.alignment import DIRECTIONS, METHODS, PAIRS, degrees, grids, position_error, utm

TURNED = ("HR turned by 7°", "UTM 33 / UTM 32", "UTM 33 / degrees", "degrees / UTM 11", "UTM 33 / Web Mercator")
"""Pairs whose axes do not run along each other."""

PARTIAL = ("SpaceNet-2 off the chip", "SpaceNet-6 2.00012", "Landsat PAN half a pixel", "HR south-up", *TURNED)
"""Pairs where LR reaches beyond HR."""


def whole(grid):
    return tuple((0, n) for n in grid.shape)


def moved(grid, y, x):
    return GeoBox(grid.shape, grid.affine @ Affine.translation(x, y), grid.crs)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("name", PAIRS)
def test_pixels_lie_where_they_say(name, direction, method):
    source, target = grids(PAIRS[name], direction)
    found = position_error(Alignment.between(source, target, method))
    # Nearest is half a pixel off at most; 1e-3 is what positions between nodes, and float32, may add.
    assert max(found.error_yx) <= (0.01 if method == "area" else 0.501)
    assert found.missing == 0
    assert found.made > 0
    if name not in PARTIAL or direction == "lr to refined lr":
        assert found.made == target.shape[0] * target.shape[1]


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("name", PAIRS)
def test_half_a_pixel_of_error_shows(name, axis):
    source, target = grids(PAIRS[name], "hr to lr")
    wrong = moved(source, *(0.5 * (axis == i) for i in (0, 1)))
    found = position_error(Alignment.between(wrong, target), true_source=source)
    assert found.error_yx[axis] == pytest.approx(0.5, abs=0.01)
    assert found.error_yx[1 - axis] < 0.01


@pytest.mark.parametrize("name", TURNED)
def test_positions_between_nodes_are_exact_to_a_thousandth(name):
    for direction in DIRECTIONS[:2]:
        source, target = grids(PAIRS[name], direction)
        way = Alignment.between(source, target)._way
        assert isinstance(way, _Turned)
        (ny, nx), a = target.shape, target.affine
        y, x = np.meshgrid(np.arange(ny + 1), np.arange(nx + 1), indexing="ij")
        east, north = a.a * x + a.b * y + a.c, a.d * x + a.e * y + a.f
        if source.crs != target.crs:
            east, north = Transformer.from_crs(str(target.crs), str(source.crs), always_xy=True).transform(east, north)
        b = ~source.affine
        exact = np.stack([b.d * east + b.e * north + b.f, b.a * east + b.b * north + b.c])
        grid = way._control((0, ny), (0, nx))
        for i, j in zip(range(0, ny, 3), (k * 7 % nx for k in range(ny)), strict=False):
            corners = np.stack(grid.corners((i, i + 1), (j, j + 1)))[:, [0, 0, -1, -1], [0, -1, 0, -1]]
            assert np.hypot(*(corners - exact[:, [i, i, i + 1, i + 1], [j, j + 1, j, j + 1]])).max() < 1e-3


def pictures(shape_yx, seed=0):
    rng = np.random.default_rng(seed)
    values = rng.integers(1, 9000, (2, 3, *shape_yx), dtype="uint16")
    return values, rng.random((2, 1, *shape_yx)) > 0.002


@pytest.fixture(scope="module")
def made_whole():
    """Whole images by name and options, each made once."""
    made = {}

    def make(name, direction, method, mtf):
        key = name, direction, method, mtf
        if key not in made:
            way = Alignment.between(*grids(PAIRS[name], direction), method, mtf)
            values, valid = pictures(way.source.shape)
            made[key] = way, values, valid, *way.apply(values, valid, whole(way.source), whole(way.target))
        return made[key]

    return make


WINDOWED = ("RapidAI4EO 10/3", "Landsat PAN half a pixel", "HR south-up", "HR turned by 7°", "UTM 33 / UTM 32")


@settings(max_examples=50, deadline=None)
@given(
    st.sampled_from(WINDOWED),
    st.sampled_from([("hr to lr", "area", None), ("hr to lr", "area", 0.25), ("hr to lr", "nearest", None)])
    | st.sampled_from([("hr to refined lr", "area", None), ("lr to refined lr", "area", None)]),
    st.data(),
)
def test_windows_give_the_bits_of_the_whole(made_whole, name, options, data):
    way, values, valid, pixels, good = made_whole(name, *options)
    y, x = (sorted(data.draw(st.tuples(*[st.integers(0, n)] * 2))) for n in way.target.shape)
    spans = (y[0], y[1]), (x[0], x[1])
    read = way.source_window(*spans)
    cut = ..., slice(*read[0]), slice(*read[1])
    part, part_good = way.apply(values[cut], valid[cut], read, spans)
    at = ..., slice(*spans[0]), slice(*spans[1])
    assert part.tobytes() == pixels[at].tobytes()
    assert (part_good == good[at]).all()
    # A larger window changes nothing.
    (y0, y1), (x0, x1) = ((max(0, s[0] - 3), min(n, s[1] + 5)) for s, n in zip(read, way.source.shape, strict=True))
    again, _ = way.apply(values[..., y0:y1, x0:x1], valid[..., y0:y1, x0:x1], ((y0, y1), (x0, x1)), spans)
    assert again.tobytes() == part.tobytes()


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(WINDOWED), st.sampled_from(DIRECTIONS), st.data())
def test_covered_is_what_is_made_of_a_valid_image(name, direction, data):
    way = Alignment.between(*grids(PAIRS[name], direction))
    first = [data.draw(st.integers(0, n - 1)) for n in way.target.shape]
    y, x = ((s, data.draw(st.integers(s + 1, min(n, s + 12)))) for s, n in zip(first, way.target.shape, strict=True))
    spans = y, x
    read = way.source_window(*spans)
    _, good = way.apply(np.ones([b - a for a, b in read], "uint8"), None, read, spans)
    assert good.all() == way.covers(*spans)


@pytest.mark.parametrize("mtf", [None, 0.3])
@pytest.mark.parametrize("name", ["RapidAI4EO 10/3", "UTM 33 / UTM 32", "UTM 33 / degrees"])
@pytest.mark.parametrize("direction", ["hr to lr", "hr to refined lr"])
def test_invalid_pixels_do_not_leak(name, direction, mtf):
    if mtf and direction != "hr to lr":
        mtf = None
    way = Alignment.between(*grids(PAIRS[name], direction), mtf=mtf)
    values, valid = pictures(way.source.shape)
    runs = [
        way.apply(np.where(valid, values, rubbish).astype("float32"), valid, whole(way.source), whole(way.target))
        for rubbish in (np.nan, 1e30)
    ]
    assert runs[0][0].tobytes() == runs[1][0].tobytes()
    pixels, good = runs[0]
    assert (np.isnan(pixels) == ~good).all()
    assert 0.1 < good.mean() < 0.995
    # Spoil one valid target pixel's own place: it goes, with its near neighbours only.
    y, x = (int(i[0]) for i in np.nonzero(good[0, 0]))
    (y0, y1), (x0, x1) = way.source_window((y, y + 1), (x, x + 1))
    spoilt = valid.copy()
    spoilt[..., (y0 + y1) // 2, (x0 + x1) // 2] = False
    _, left = way.apply(values, spoilt, whole(way.source), whole(way.target))
    assert not left[0, 0, y, x]
    assert 1 <= (good & ~left)[0, 0].sum() <= (150 if mtf else 40)


def test_on_turned_grids_slopes_and_areas_are_those_of_parallel_ones():
    # Turned by 1e-4: 0.02 pixels at the far end.
    source = utm((120, 120), 3)
    rng = np.random.default_rng(0)
    values = rng.random(source.shape).cumsum(0).cumsum(1) / 120
    for pixel, near in ((10.0, 2e-3), (3.1, 2e-2), (1.0, 2e-2)):
        n = int(350 / pixel)
        straight = Affine(pixel, 0, 500_003, 0, -pixel, 4_999_997)
        made = [
            Alignment.between(source, GeoBox((n, n), straight @ Affine.rotation(angle), source.crs)).apply(
                values, None, whole(source), ((0, n // 2), (0, n // 2))
            )
            for angle in (0, 0.002)
        ]
        assert made[0][1].all()
        assert made[1][1][1:, 1:].all()
        assert np.nanmax(np.abs(made[0][0] - made[1][0])) < near


def test_the_blur_works_on_turned_grids():
    source, angle = utm((400, 400), 3), np.deg2rad(7)
    target = GeoBox((80, 80), Affine.translation(500_100, 4_999_850) @ Affine.rotation(7) @ Affine.scale(10, -10), source.crs)
    rows, columns = np.meshgrid(np.arange(400) + 0.5, np.arange(400) + 0.5, indexing="ij")
    # A wave across the source's columns, at the Nyquist frequency of pixels as long as the target's are along them.
    ratio = 10 / 3 * np.hypot(np.cos(angle), np.sin(angle))
    wave = np.stack([np.cos(np.pi / ratio * columns), np.sin(np.pi / ratio * columns)]) + 0 * rows
    plain, blurred = (
        Alignment.between(source, target, mtf=mtf).apply(wave, None, whole(source), whole(target)) for mtf in (None, 0.3)
    )
    both = plain[1].all(0) & blurred[1].all(0)
    assert both.mean() > 0.5
    share = np.hypot(*blurred[0])[both].mean() / np.hypot(*plain[0])[both].mean()
    assert share == pytest.approx(0.3, rel=0.01)


def test_refined_grids_divide_each_pixel():
    lr = degrees((50, 7), (1.08e-5, 1.1e-5), -115.30716, 36.15234)
    for factor in (1, 3, 49):
        fine = refined(lr, factor)
        assert fine.shape == (50 * factor, 7 * factor)
        assert fine.crs == lr.crs
        for y, x in np.ndindex(51, 8):
            assert fine.affine @ (x * factor, y * factor) == pytest.approx(lr.affine @ (x, y), rel=1e-15)
    assert refined(lr, 1) == lr
    assert refined(utm((1, 3), 10), 49).shape == (49, 147) != utm((1, 3), 10).zoom_out(1 / 49).shape
    with pytest.raises(GridError, match="cannot be refined by 0"):
        refined(lr, 0)


@pytest.mark.parametrize(
    ("name", "factor"),
    [
        ("RapidAI4EO 10/3", 3),
        ("SpaceNet-2 3.988", 4),
        ("SpaceNet-6 2.00012", 2),
        ("WorldStrat 7.03 × 6.35", 7),
        ("Landsat PAN half a pixel", 2),
        ("HR south-up", 3),
        ("UTM 33 / UTM 32", 3),
        ("UTM 33 / Web Mercator", 3),
    ],
)
def test_the_factor_follows_from_the_grids(name, factor):
    assert factor_for(*PAIRS[name]) == factor


def test_the_factor_may_be_asked_for():
    lr, hr = utm((60, 60), 10), utm((200, 200), 3)
    assert factor_for(lr, hr, scale=5) == 5
    assert factor_for(lr, hr, gsd_m=2.5) == factor_for(lr, hr, gsd_m=4) + 1 == 4
    # 2.7e-6 degrees at 36° north: 0.300 m by 0.243 m.
    assert factor_for(PAIRS["SpaceNet-2 3.988"].lr, hr, gsd_m=0.27) == 4
    for wrong, message in (({"scale": 0}, "hold 0 pixels"), ({"gsd_m": 25}, "hold 0.4 pixels"), ({"gsd_m": -1}, "more than 0")):
        with pytest.raises(GridError, match=message):
            factor_for(lr, hr, **wrong)
    with pytest.raises(GridError, match="pass one of them"):
        factor_for(lr, hr, scale=2, gsd_m=5)
    with pytest.raises(GridError, match=r"hold 0.3 pixels.*Exchange"):
        factor_for(hr, lr)


def test_an_alignment_is_a_value():
    way = Alignment.between(*grids(PAIRS["UTM 33 / UTM 32"], "hr to lr"), mtf=0.3)
    again = pickle.loads(pickle.dumps(way))
    assert again == way
    assert hash(again) == hash(way)
    assert again.source_window((3, 9), (2, 8)) == way.source_window((3, 9), (2, 8))


@pytest.mark.parametrize("name", ["RapidAI4EO 10/3", "UTM 33 / UTM 32"])
def test_windows_that_do_not_fit_are_refused(name):
    way = Alignment.between(*grids(PAIRS[name], "hr to lr"))
    target = (20, 25), (30, 33)
    (y0, y1), x = way.source_window(*target)
    with pytest.raises(GridError, match="source_window names"):
        way.apply(np.zeros((y1 - y0 - 1, x[1] - x[0])), None, ((y0 + 1, y1), x), target)
    with pytest.raises(GridError, match="were given for source rows and columns"):
        way.apply(np.zeros((y1 - y0 - 1, x[1] - x[0])), None, ((y0, y1), x), target)
    with pytest.raises(GridError, match="does not fit pixels"):
        way.apply(np.zeros((y1 - y0, x[1] - x[0])), np.ones((2, 2, 2), bool), ((y0, y1), x), target)
    for call in (way.source_window, way.covers):
        with pytest.raises(GridError, match="does not lie in a target"):
            call((0, 61), (0, 3))


@pytest.mark.parametrize("mtf", [None, 0.3])
@pytest.mark.parametrize("crs", ["EPSG:32633", "EPSG:32632"])
def test_grids_that_do_not_meet_cover_nothing(crs, mtf):
    way = Alignment.between(GeoBox((50, 50), Affine(3, 0, 700_000, 0, -3, 5_500_000), crs), utm((20, 20), 10), mtf=mtf)
    read = way.source_window((0, 20), (0, 20))
    assert not way.covers((0, 1), (0, 1))
    pixels, valid = way.apply(np.zeros([b - a for a, b in read]), None, read, ((0, 20), (0, 20)))
    assert pixels.shape == (20, 20)
    assert not valid.any()
    assert np.isnan(pixels).all()


def test_what_makes_no_sense_is_refused():
    lr, hr = utm((60, 60), 10), utm((200, 200), 3)
    for options, message in (
        ({"method": "cubic"}, "Method 'cubic' is unknown"),
        ({"mtf": 1.0}, "between 0 and 1"),
        ({"mtf": 0.3, "method": "nearest"}, "of areas"),
    ):
        with pytest.raises(GridError, match=message):
            Alignment.between(hr, lr, **options)
    with pytest.raises(GridError, match="coarser target"):
        Alignment.between(lr, hr, mtf=0.3)
    with pytest.raises(GridError, match="give both a CRS"):
        Alignment.between(hr, GeoBox(lr.shape, lr.affine, None))
    with pytest.raises(GridError, match="both must have some"):
        Alignment.between(hr, GeoBox((0, 3), lr.affine, lr.crs))
    tiny = GeoBox((2, 2), Affine(1000, 0, 499_000, 0, -1000, 5_001_000), "EPSG:32632")
    way = Alignment.between(GeoBox((2, 2), tiny.affine @ Affine.rotation(10), "EPSG:32633"), lr)
    with pytest.raises(GridError, match="at least 3 each way"):
        way.apply(np.zeros((2, 2)), None, ((0, 2), (0, 2)), ((0, 1), (0, 1)))


def test_a_seam_of_a_projection_is_refused():
    # Longitude jumps from 180 to -180 inside this grid.
    across = GeoBox((200, 200), Affine(10_000, 0, 2_339_584, 0, -10_000, 1_000_000), "EPSG:3832")
    world = degrees((180, 360), (1.0, 1.0), -180.0, 90.0)
    with pytest.raises(GridError, match="seam of a projection"):
        Alignment.between(world, across).covers(*whole(across))
