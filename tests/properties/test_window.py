"""Tracing windows back: what is read covers what is asked, and hardly more."""

from __future__ import annotations

import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox

from eocube.errors import GridError
from eocube.model.window import Window, back_window, offset_yx
from eocube.testing.stac import make_grid


@st.composite
def grids(draw: st.DrawFn) -> GeoBox:
    """Grids of any pixel size, shape and shift around one place."""
    size = draw(st.sampled_from([2.5, 5.0, 10.0, 10.0, 20.0, 10 / 3, 7.0]))
    shift_x, shift_y = (draw(st.integers(-40, 40)) * draw(st.sampled_from([size, 1.0, 0.3])) for _ in "xy")
    shape = draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    return GeoBox(shape, Affine(size, 0, 600_000 + shift_x, 0, -size, 5_000_000 + shift_y), "EPSG:32635")


@st.composite
def spans(draw: st.DrawFn, size: int) -> tuple[int, int]:
    start = draw(st.integers(0, size - 1))
    return start, draw(st.integers(start + 1, size))


@given(grids(), grids(), st.data(), st.integers(0, 5))
def test_the_window_covers_what_is_asked_with_its_halo_and_hardly_more(
    inner: GeoBox, outer: GeoBox, data: st.DataObject, halo_px: int
) -> None:
    y, x = (data.draw(spans(int(n))) for n in outer.shape)
    found = back_window(inner, outer, y, x, halo_px=halo_px)
    to_inner = ~inner.affine @ outer.affine
    (x0, y0), (x1, y1) = to_inner @ (float(x[0]), float(y[0])), to_inner @ (float(x[1]), float(y[1]))
    for (start, stop), low, high, size in ((found[0], y0, y1, int(inner.shape[0])), (found[1], x0, x1, int(inner.shape[1]))):
        assert 0 <= start <= stop <= size
        first, last = max(0.0, low - halo_px), min(float(size), high + halo_px)
        if last - first > 2e-6:
            assert start <= first + 1e-5
            assert stop >= last - 1e-5
            assert start > first - 1 - 1e-5, "no row more than needed"
            assert stop < last + 1 + 1e-5


@given(grids(), st.data(), st.integers(0, 5))
def test_on_its_own_grid_a_window_is_itself_and_its_halo(grid: GeoBox, data: st.DataObject, halo_px: int) -> None:
    y, x = (data.draw(spans(int(n))) for n in grid.shape)
    found = back_window(grid, grid, y, x, halo_px=halo_px)
    for (start, stop), asked, size in zip(found, (y, x), map(int, grid.shape), strict=True):
        assert (start, stop) == (max(0, asked[0] - halo_px), min(size, asked[1] + halo_px))


@given(grids(), grids(), st.data())
def test_a_part_needs_no_more_than_the_whole(inner: GeoBox, outer: GeoBox, data: st.DataObject) -> None:
    y, x = (data.draw(spans(int(n))) for n in outer.shape)
    part = back_window(inner, outer, y, x, halo_px=2)
    everything = back_window(inner, outer, (0, int(outer.shape[0])), (0, int(outer.shape[1])), halo_px=2)
    for (a, b), (c, d) in zip(part, everything, strict=True):
        assert a == b or (c <= a and b <= d)


def test_edges_that_differ_in_their_last_bits_take_no_row_more() -> None:
    """0.1 + 0.2 of a degree is not 0.3: an affine made in another way must not cost a block."""
    fine = GeoBox((30, 30), Affine(0.1, 0, 24.0, 0, -0.1, 46.0), "EPSG:4326")
    coarse = GeoBox((10, 10), Affine(0.1 + 0.2, 0, 24.0, 0, -(0.1 + 0.2), 46.0), "EPSG:4326")
    for i in range(10):
        assert back_window(fine, coarse, (i, i + 1), (i, i + 1), halo_px=0) == ((3 * i, 3 * i + 3), (3 * i, 3 * i + 3))


def test_another_crs_is_refused_saying_what_to_do() -> None:
    with pytest.raises(GridError, match=r"EPSG:32635.*EPSG:32634.*load_stac"):
        back_window(make_grid(crs="EPSG:32634"), make_grid(), (0, 1), (0, 1), halo_px=0)


@pytest.mark.parametrize(
    ("inner", "outer", "at", "found"),
    [
        pytest.param(make_grid(), make_grid(), (3, 5), (3, 5), id="one grid"),
        pytest.param(make_grid((24, 32), resolution=20), make_grid(), (3, 5), (6, 10), id="twice as fine"),
        pytest.param(make_grid(corner_xy=(599_980.0, 5_000_070.0)), make_grid(), (3, 5), (0, 3), id="shifted"),
        pytest.param(make_grid(), make_grid((24, 32), resolution=20), (4, 6), (2, 3), id="half as fine"),
    ],
)
def test_a_corner_of_one_grid_is_found_on_the_other(
    inner: GeoBox, outer: GeoBox, at: tuple[int, int], found: tuple[int, int]
) -> None:
    assert offset_yx(inner, outer, *at) == found


def test_a_corner_between_pixels_is_refused() -> None:
    coarse = make_grid((24, 32), resolution=20, corner_xy=(600_020.0, 5_000_060.0))
    with pytest.raises(GridError, match=r"\(y=3, x=5\) lies at \(2\.5, 1\.5\) .* between its pixels"):
        offset_yx(make_grid(), coarse, 3, 5)


def test_a_window_knows_its_size() -> None:
    assert Window((0, 2), (3, 7), (1, 2)).shape_yx == (4, 1)
