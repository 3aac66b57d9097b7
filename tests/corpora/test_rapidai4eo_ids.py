"""What an id says: one form and no other, whole shards, the same for one id as for many, and what the one real file says."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import rasterio
from affine import Affine
from hypothesis import example, given
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from rasterio.warp import transform

from eocube.corpora import rapidai4eo_ids as ids
from eocube.errors import ArgumentError, GridError, UnknownNameError

SITES = st.builds(
    ids.SiteId,
    zone=st.integers(1, 60).map("{}N".format),
    tile=st.builds("{}E-{}N".format, st.integers(0, 41), st.integers(0, 416)),
    row=st.integers(1, 40),
    column=st.integers(1, 40),
)
REAL = "33N_15E-200N_01_09"
PRODUCTS = tuple(ids.PRODUCTS)


@given(SITES)
@example(ids.SiteId(zone="01N", tile="09E-005N", row=1, column=40))
def test_text_of_a_site_reads_back(site: ids.SiteId) -> None:
    assert ids.parse_site(str(site)) == site
    assert ids.parse_tile(site.cube) == site.tile_id
    assert site.tile_id.cube == site.cube
    assert re.fullmatch(r"[A-Za-z0-9_.-]+", site.cube)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "33N_15E-200N",
        f"{REAL} ",
        f"{REAL}\n",
        f"{REAL}.tif",
        f"../{REAL}",
        "33N_15E-200N_00_09",
        "33N_15E-200N_01_41",
        "33N_15E-200N_1_9",
        "33N_15E-200N_001_09",
        "33S_15E-200N_01_09",
        "33n_15E-200N_01_09",
        "61N_15E-200N_01_09",
        "0N_15E-200N_01_09",
        "33N_15W-200N_01_09",
        "33N_15E_200N_01_09",
        "33N_-5E-200N_01_09",
        "33N_42E-200N_01_09",
        "33N_15E-417N_01_09",
        "33N_15E-200N_0٣_09",
    ],
)
def test_any_other_form_is_refused_alone_and_among_many(text: str) -> None:
    with pytest.raises(ArgumentError, match=r"33N_15E-200N_01_09") as alone:
        ids.parse_site(text)
    assert repr(text) in str(alone.value)
    with pytest.raises(ArgumentError, match=r"\(row 1, the first of 2 such\)") as among:
        ids.parse_sites([REAL, text, text, REAL])
    assert repr(text) in str(among.value)


def test_a_null_among_ids_is_refused() -> None:
    with pytest.raises(ArgumentError, match="row 1"):
        ids.parse_sites(pa.array([REAL, None]))


@given(SITES, st.sampled_from(PRODUCTS))
def test_a_site_is_one_shard_of_its_tile(site: ids.SiteId, product: str) -> None:
    tile, alone = ids.tile_geobox(site.cube, product), ids.site_geobox(site, product)
    (y0, y1), (x0, x1) = ids.site_window(site, product)
    edge = {"pf_sr": 200, "pf_qa": 200, "s2_sr": 60}[product]
    assert tile[y0:y1, x0:x1] == alone
    assert (y0 % edge, y1 - y0, x0 % edge, x1 - x0) == (0, edge, 0, edge)
    assert tile.shape == ((8000, 8000) if edge == 200 else (2400, 2400))
    assert str(tile.crs) == f"EPSG:{32600 + int(site.zone[:-1])}"


@given(SITES)
def test_products_of_a_site_cover_the_same_ground(site: ids.SiteId) -> None:
    boxes = [ids.site_geobox(site, product).boundingbox for product in PRODUCTS]
    assert len({box.bbox for box in boxes}) == 1
    assert boxes[0].span_x == boxes[0].span_y == 600


def test_cells_of_a_tile_share_no_pixel_and_cover_it() -> None:
    covered = np.zeros((2400, 2400), np.uint8)
    for row in range(1, 41):
        for column in range(1, 41):
            y, x = ids.site_window(ids.SiteId(zone="33N", tile="15E-200N", row=row, column=column), "s2_sr")
            covered[slice(*y), slice(*x)] += 1
    assert (covered == 1).all()


@given(st.lists(SITES, max_size=30), st.sampled_from(PRODUCTS))
def test_many_ids_say_what_each_says_alone(sites: list[ids.SiteId], product: str) -> None:
    columns = ids.parse_sites([str(site) for site in sites])
    assert len(columns) == len(sites)
    assert columns.cubes == tuple(sorted({site.cube for site in sites}))
    assert [columns.cubes[i] for i in columns.cube_index] == [site.cube for site in sites]
    assert list(zip(columns.row.tolist(), columns.column.tolist(), strict=True)) == [(s.row, s.column) for s in sites]
    assert columns.epsg.tolist() == [site.tile_id.epsg for site in sites]
    assert columns.windows(product).tolist() == [[*y, *x] for y, x in (ids.site_window(site, product) for site in sites)]
    assert columns.bounds_m.tolist() == [list(map(int, ids.site_geobox(site, product).boundingbox)) for site in sites]


def test_chunked_sliced_and_large_arrays_of_ids_are_read_alike() -> None:
    texts = [REAL, "33N_16E-243N_39_05", "29N_20E-190N_40_40", "33N_15E-200N_02_01"]
    expected = ids.parse_sites(texts[1:]).bounds_m.tolist()
    array = pa.array(texts)
    for given_as in (
        array[1:],
        pa.chunked_array([texts[1:2], texts[2:]]),
        array[1:].cast(pa.large_string()),
        array[1:].dictionary_encode(),
    ):
        assert ids.parse_sites(given_as).bounds_m.tolist() == expected


def test_some_of_many_are_taken_in_the_asked_order() -> None:
    columns = ids.parse_sites([REAL, "33N_16E-243N_39_05", "29N_20E-190N_40_40"]).take(np.array([2, 0]))
    again = ids.parse_sites(["29N_20E-190N_40_40", REAL])
    assert columns.site.to_pylist() == again.site.to_pylist()
    assert columns.bounds_m.tolist() == again.bounds_m.tolist()


def test_corners_run_clockwise_from_the_upper_left_as_gdal_projects_them() -> None:
    texts = [REAL, "29N_20E-190N_40_40", "33N_16E-243N_39_05"]
    corners = ids.parse_sites(texts).corners_lonlat()
    assert corners.shape == (3, 4, 2)
    for text, found in zip(texts, corners, strict=True):
        box = ids.site_geobox(ids.parse_site(text), "pf_sr")
        left, bottom, right, top = box.boundingbox.bbox
        x, y = [left, right, right, left], [top, top, bottom, bottom]
        lonlat = np.array(transform(str(box.crs), "OGC:CRS84", x, y)).T
        np.testing.assert_allclose(found, lonlat, rtol=0, atol=1e-9)


def test_planet_fusion_has_146_dates_of_two_years_five_days_apart() -> None:
    times = np.array(ids.PF_TIMES_MS, "M8[ms]")
    assert len(times) == 146
    assert times[0] == np.datetime64("2018-01-03T10:30")
    assert times[-1] == np.datetime64("2019-12-29T10:30")
    assert (np.diff(times) == np.timedelta64(5, "D")).all()
    assert ids.product_of("PF-SR").stamps == tuple(str(t)[:10] for t in times)
    assert ids.product_of("pf_qa").stamps == ids.product_of("pf_sr").stamps


def test_months_of_sentinel2_follow_each_other_through_2018() -> None:
    bounds = np.array(ids.S2_BOUNDS_MS, "M8[ms]")
    assert bounds.shape == (12, 2)
    assert bounds[0, 0] == np.datetime64("2018-01-01")
    assert bounds[-1, 1] == np.datetime64("2019-01-01")
    assert (bounds[1:, 0] == bounds[:-1, 1]).all()
    assert ids.product_of("s2_sr").stamps == tuple(f"2018-{m:02d}" for m in range(1, 13))


def test_each_date_of_2018_lies_in_one_month_and_none_of_2019_does() -> None:
    within = [sum(low <= t < high for low, high in ids.S2_BOUNDS_MS) for t in ids.PF_TIMES_MS]
    assert within == [int(dt.datetime.fromtimestamp(t / 1000, dt.UTC).year == 2018) for t in ids.PF_TIMES_MS]


def test_files_of_a_site_lie_where_the_corpus_puts_them() -> None:
    site = ids.parse_site(REAL)
    paths = list(ids.site_paths(site))
    assert len(paths) == len(set(paths)) == 146 + 146 + 12 + 1
    assert ids.image_path(site, "pf_sr", 0) == f"imagery/33N/15E-200N/{REAL}/PF-SR/2018-01-03.tif"
    assert ids.image_path(site, "PF-QA", 145) == f"imagery/33N/15E-200N/{REAL}/PF-QA/2019-12-29.tif"
    assert ids.image_path(site, "s2_sr", 11) == f"imagery/33N/15E-200N/{REAL}/S2-SR/2018-12.tif"
    assert ids.label_path(site) == f"labels/33N/15E-200N/labels_{REAL}.geojson"
    assert {ids.image_path(site, "pf_sr", 0), ids.label_path(site)} <= set(paths)


@pytest.mark.parametrize("step", [-1, 12])
def test_a_step_outside_the_axis_is_refused(step: int) -> None:
    with pytest.raises(ArgumentError, match="expected 0 to 11"):
        ids.image_path(ids.parse_site(REAL), "s2_sr", step)


def test_an_unknown_product_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match="'pf_sr', 'pf_qa', 's2_sr'"):
        ids.product_of("hr_ps")


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (lambda g: GeoBox(g.shape, g.affine @ Affine.translation(1, 0), g.crs), "transform"),
        (lambda g: GeoBox(g.shape, g.affine @ Affine.translation(0, 0.01), g.crs), "transform"),
        (lambda g: GeoBox(g.shape, g.affine @ Affine.scale(1.001), g.crs), "transform"),
        (lambda g: GeoBox(g.shape, Affine(3, 0, g.affine.c, 0, 3, g.affine.f - 600), g.crs), "transform"),
        (lambda g: GeoBox((199, 200), g.affine, g.crs), "200 × 199 px instead of 200 × 200"),
        (lambda g: GeoBox(g.shape, g.affine, "EPSG:32634"), "CRS EPSG:32634 instead of EPSG:32633"),
        (lambda g: GeoBox(g.shape, g.affine, None), "CRS None instead"),
    ],
    ids=["one pixel", "a hundredth", "scaled", "upside down", "smaller", "other zone", "no CRS"],
)
def test_a_file_that_lies_elsewhere_than_its_id_says_is_refused(changed, says: str) -> None:
    site = ids.parse_site(REAL)
    told = ids.site_geobox(site, "pf_sr")
    ids.check_grid(site, "pf_sr", told, where="x.tif")
    ids.check_grid(site, "pf_sr", GeoBox(told.shape, told.affine @ Affine.translation(1e-9, 0), told.crs), where="x.tif")
    with pytest.raises(GridError, match=f"x.tif does not lie where its id {REAL} says: .*{says}"):
        ids.check_grid(site, "pf_sr", changed(told), where="x.tif")


def test_the_real_chip_lies_where_its_path_and_id_say(test_data: Path) -> None:
    root = test_data / "rapidai4eo"
    site = ids.parse_site(REAL)
    with rasterio.open(root / ids.image_path(site, "pf_sr", 0)) as chip:
        found = GeoBox(chip.shape, chip.transform, str(chip.crs))
    ids.check_grid(site, "pf_sr", found, where="the real chip")
    other = ids.parse_site("33N_15E-200N_09_01")
    with pytest.raises(GridError):
        ids.check_grid(other, "pf_sr", found, where="the real chip")
