"""Ground made of the sample's real pixels: the same places in every product, other places for another seed."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from datetime import date

import numpy as np
import pytest

from eocube.corpora import texture
from eocube.corpora.texture import MIXES, PATHS, REAL, Texture
from eocube.errors import UnknownNameError

JULY = (date(2018, 7, 1) - date(1970, 1, 1)).days
MARCH = (date(2018, 3, 20) - date(1970, 1, 1)).days
SPAN = (1580.0, 1580.0)


@pytest.fixture(scope="module")
def real() -> Texture:
    return Texture()


def block_mean(a, factor):
    return a.reshape(a.shape[0] // factor, factor, a.shape[1] // factor, factor).mean(axis=(1, 3))


@pytest.mark.parametrize("band", ["B04", "B08"])
def test_on_its_own_grid_the_ground_is_made_of_real_digital_numbers(real, band):
    found = real.reflectance(band, (158, 158), seed=5, day=JULY, span_yx_m=SPAN)
    gain = texture._Ground(5).gain(band) * (0.97 + 0.06 * texture._unit("day", 5, JULY))
    dn = found / gain * 10_000
    is_real = (np.abs(dn - dn.round()) < 0.01) & np.isin(dn.round(), real._decode(real._date_of(JULY), REAL[band]))
    assert is_real.mean() > 0.8, "only the border of two pieces mixes"


def test_high_and_low_resolution_see_the_same_ground(real):
    where = {"seed": 5, "day": JULY, "span_yx_m": SPAN}
    lr, hr = real.reflectance("B04", (158, 158), **where), real.reflectance("RED", (1580, 1580), **where)
    mean = block_mean(hr, 10)
    assert np.corrcoef(mean.ravel(), lr.ravel())[0, 1] > 0.98
    assert abs(mean.mean() / lr.mean() - 1) < 0.01
    assert np.corrcoef(np.roll(mean, 2, axis=1).ravel(), lr.ravel())[0, 1] < 0.9, "a shift of 20 m is seen"


def test_pixels_finer_than_ten_metres_have_detail_that_bicubic_upsampling_has_not(real):
    where = {"seed": 5, "day": JULY, "span_yx_m": (150.0, 150.0)}
    hr = real.reflectance("RED", (100, 100), **where)
    sampler = texture._Sampler(texture._Ground(5), 10.0, (100, 100), (150.0, 150.0), (0, 0))
    plain = sampler(real._mixed(real._date_of(JULY), "RED"))
    edges = [np.abs(np.diff(a / a.mean(), axis=1)).mean() for a in (hr, plain)]
    assert edges[0] > 1.5 * edges[1]


def test_a_window_of_the_ground_is_the_ground_there(real):
    where = {"seed": 9, "day": JULY}
    whole = real.reflectance("B03", (60, 80), span_yx_m=(600, 800), **where)
    part = real.reflectance("B03", (20, 30), span_yx_m=(200, 300), origin_yx_m=(100, 400), **where)
    np.testing.assert_allclose(part, whole[10:30, 40:70], rtol=1e-5)


def test_the_sample_is_mirrored_at_its_edges():
    assert texture._mirrored(np.array([-3, -1, 0, 99, 100, 101, 199, 200, 201])).tolist() == [2, 0, 0, 99, 99, 98, 0, 0, 1]


def test_sites_differ_and_days_of_one_site_do_not_move(real):
    where = {"day": JULY, "span_yx_m": SPAN}
    one, other = (real.reflectance("B04", (158, 158), seed=seed, **where) for seed in (1, 2))
    later = real.reflectance("B04", (158, 158), seed=1, day=JULY + 30, span_yx_m=SPAN)
    assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.5
    assert np.corrcoef(one.ravel(), later.ravel())[0, 1] > 0.8
    assert not np.array_equal(one, later)


def test_the_season_is_that_of_the_day(real):
    where = {"seed": 1, "span_yx_m": SPAN}
    ndvi = []
    for day in (JULY, MARCH):
        red, nir = (real.reflectance(band, (50, 50), day=day, **where) for band in ("B04", "B08"))
        ndvi.append(float(((nir - red) / (nir + red)).mean()))
    assert ndvi[0] > ndvi[1] + 0.05


def test_equal_arguments_give_equal_bytes_in_another_process(real):
    code = (
        "import hashlib; from eocube.corpora.texture import Texture; t = Texture();"
        "c = t.clouds((40, 50), seed=3, day=17700, cover=0.4, span_yx_m=(400, 500));"
        "r = t.reflectance('B05', (40, 50), seed=3, day=17700, span_yx_m=(400, 500), level='toa', cloud=c);"
        "print(hashlib.sha256(r.tobytes()).hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    cloud = real.clouds((40, 50), seed=3, day=17700, cover=0.4, span_yx_m=(400, 500))
    here = real.reflectance("B05", (40, 50), seed=3, day=17700, span_yx_m=(400, 500), level="toa", cloud=cloud)
    assert hashlib.sha256(here.tobytes()).hexdigest() == other


@pytest.mark.parametrize("band", sorted(MIXES))
def test_every_band_is_plausible_reflectance(real, band):
    found = real.reflectance(band, (50, 60), seed=4, day=JULY, span_yx_m=(500, 600))
    assert found.shape == (50, 60)
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    assert found.min() >= np.float32(1e-4)
    assert found.max() < 1.5


def test_the_atmosphere_brightens_the_blue_and_dims_water_vapour(real):
    where = {"seed": 4, "day": JULY, "span_yx_m": (500, 500)}
    both = {
        band: [real.reflectance(band, (50, 50), level=level, **where).mean() for level in ("surface", "toa")] for band in PATHS
    }
    assert both["B02"][1] > both["B02"][0] + 0.03
    assert both["B09"][1] < both["B09"][0]


def test_clouds_follow_the_asked_cover_move_with_the_day_and_brighten_the_ground(real):
    where = {"seed": 4, "span_yx_m": SPAN}
    clear, some, full = (real.clouds((158, 158), day=JULY, cover=cover, **where) for cover in (0.0, 0.4, 1.0))
    assert clear.max() == 0
    assert full.mean() > 0.6 > some.mean() > 0.1
    assert not np.array_equal(some, real.clouds((158, 158), day=JULY + 5, cover=0.4, **where))
    assert some.min() >= 0
    assert some.max() <= 1
    ground = real.reflectance("B02", (158, 158), day=JULY, **where)
    seen = real.reflectance("B02", (158, 158), day=JULY, cloud=some, **where)
    assert (seen[some > 0.9] > 0.5).all()
    assert np.array_equal(real.reflectance("B02", (158, 158), day=JULY, cloud=clear, **where), ground)


def test_an_unknown_band_is_refused_by_name(real):
    with pytest.raises(UnknownNameError, match="B99"):
        real.reflectance("B99", (5, 5), seed=0, day=0, span_yx_m=(50, 50))


def test_a_stack_is_each_band_by_itself(real):
    where = {"seed": 4, "day": JULY, "span_yx_m": (300, 300), "level": "toa", "cloud": np.full((70, 80), 0.25, np.float32)}
    stack = real.stack(("B02", "B8A", "B10"), (70, 80), **where)
    for k, band in enumerate(("B02", "B8A", "B10")):
        assert np.array_equal(stack[k], real.reflectance(band, (70, 80), **where))
