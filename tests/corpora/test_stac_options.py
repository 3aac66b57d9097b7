"""What is asked of a STAC cube and cannot be: refused before any pixel is read, or said with what to do."""

from __future__ import annotations

import pytest
from rasterio.enums import Resampling

from eocube.corpora.stac import build_source
from eocube.corpora.stac_source import RESAMPLINGS, StacOptions
from eocube.errors import AssetReadError, RadiometryError, UnknownNameError
from eocube.jobs.open import load_stac
from eocube.jobs.stac import open_stac
from eocube.model.window import Window
from eocube.testing.stac import SyntheticReader, item_dict, make_series


@pytest.mark.parametrize("opened", [load_stac, open_stac])
def test_an_unknown_resampling_or_offset_is_refused_before_anything_is_planned(opened: object) -> None:
    items = [item_dict(s) for s in make_series(1)]
    with pytest.raises(UnknownNameError, match="resampling 'foo'; known: 'nearest', 'bilinear', 'cubic', 'cubic_spline'"):
        opened(items, resampling="foo")  # type: ignore[operator]
    with pytest.raises(RadiometryError, match="dn_offset is 5; Sentinel-2 files hold 0 or -1000, and others have none"):
        opened(items, dn_offset=5)  # type: ignore[operator]


@pytest.mark.parametrize("dn_offset", [0, -1000])
def test_an_offset_of_sentinel2_is_refused_for_other_sensors(dn_offset: int) -> None:
    scenes = make_series(1, properties={"constellation": None, "platform": "landsat-9"}, collection="landsat-c2-l2")
    items, reader = [item_dict(s) for s in scenes], SyntheticReader(scenes)
    with pytest.raises(RadiometryError, match="none of the 1 items is Sentinel-2: it has no meaning for other sensors"):
        build_source(items, reader=reader, options=StacOptions(dn_offset=dn_offset))


def test_every_way_of_resampling_is_one_that_gdal_warps_with() -> None:
    assert set(RESAMPLINGS) == {r.name for r in Resampling} - {"gauss"}


def test_a_band_of_few_items_is_said_to_be_one_with_what_to_do() -> None:
    scenes = make_series(3)
    items = [item_dict(s) for s in scenes]
    del items[0]["assets"]["B08"], items[1]["assets"]["B08"], items[1]["assets"]["SCL"]
    src = build_source(items, reader=SyntheticReader(scenes))
    with pytest.raises(AssetReadError, match=r"only 1 of 3 items have it.*--bands, bands="):
        src.read(Window((0,), (0, 4), (0, 4)))
    with pytest.raises(AssetReadError, match=r"'scl'; .*only 2 of 3 items have it\.") as caught:
        src.read(Window((1,), (0, 4), (0, 4)), names=("scl",))
    assert "--bands" not in str(caught.value), "classes come along whatever bands are named"
