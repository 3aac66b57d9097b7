"""The radiometric offset of Sentinel-2: what each provider says, what is stored, and what is refused with all readings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eocube.corpora.sentinel2_offset import dn_shift_of, offset_readings
from eocube.corpora.stac import build_source
from eocube.errors import RadiometryError
from eocube.jobs.open import load_stac
from eocube.jobs.write import write_cube
from eocube.testing.stac import SyntheticReader, item_dict, make_series, write_items

FLAG, BASELINE, VERSION = "earthsearch:boa_offset_applied", "s2:processing_baseline", "processing:version"


def shift(properties: dict[str, Any], *, scale: float | None = 1e-4, offset: float | None = None) -> int:
    return dn_shift_of({"id": "scene", "properties": properties}, key="red", scale=scale, offset=offset)


PROVIDERS: dict[str, tuple[dict[str, Any], float | None, int]] = {
    # What the files hold decides: 1000 is added to numbers that hold no offset.
    "Earth Search v1, offset taken away, and said so twice": ({FLAG: True, BASELINE: "04.00"}, 0.0, 1000),
    "Earth Search v1, flag right, band metadata wrong (earth-search#9)": ({FLAG: True, BASELINE: "05.09"}, -0.1, 1000),
    "Earth Search v1, taken away, no band metadata": ({FLAG: True, BASELINE: "04.00"}, None, 1000),
    "Earth Search v1, before 04.00": ({FLAG: False, BASELINE: "03.01"}, 0.0, 1000),
    "Earth Search v1, before 04.00, no band metadata": ({FLAG: False, BASELINE: "02.14"}, None, 1000),
    "Earth Search Collection 1": ({FLAG: False, VERSION: "05.00"}, -0.1, 0),
    "Earth Search Collection 1 of an older date": ({FLAG: False, BASELINE: "05.00", "datetime": "2016-07-01T00:00:00Z"}, -0.1, 0),
    "Planetary Computer, since 04.00": ({BASELINE: "04.00"}, None, 0),
    "Planetary Computer, before 04.00": ({BASELINE: "03.00"}, None, 1000),
    "Planetary Computer, 02.12 on a date after January 2022": (
        {BASELINE: "02.12", "datetime": "2022-06-01T00:00:00Z"},
        None,
        1000,
    ),
    "Copernicus Data Space, since 04.00": ({VERSION: "05.11"}, -0.1, 0),
    "Copernicus Data Space, before 04.00": ({VERSION: "02.08"}, 0.0, 1000),
    "only the band's offset": ({}, -0.1, 0),
    "only the band's offset, zero": ({}, 0.0, 1000),
    "a baseline that is a number": ({BASELINE: 4.0}, None, 0),
}
REFUSED: dict[str, tuple[dict[str, Any], float | None, str]] = {
    "nothing is said": ({}, None, "not stated: {'declared scale': 0.0001}"),
    "the flag alone, not applied": ({FLAG: False}, None, "not stated"),
    "baseline and band contradict": ({BASELINE: "04.00"}, 0.0, "contradictory.*'declared offset': 0.*baseline': 4.0"),
    "the same the other way round": ({BASELINE: "03.01"}, -0.1, "contradictory.*-1000.*3.01"),
    "earth-search#66: the flag says not applied, the band says no offset": (
        {FLAG: False, BASELINE: "04.00"},
        0.0,
        "contradictory",
    ),
    "an offset of another size": ({}, -0.2, "-2000"),
    "an offset in DN where reflectance is meant": ({}, -1000.0, "-10000000"),
    "a positive offset": ({}, 0.1, "1000"),
    "a baseline that is no number": ({BASELINE: "N/A"}, None, "not stated"),
    "not a number at all": ({BASELINE: "nan"}, None, "not stated"),
}


@pytest.mark.parametrize("case", PROVIDERS)
def test_each_provider_says_it_in_its_own_way(case: str) -> None:
    properties, offset, expected = PROVIDERS[case]
    assert shift(properties, offset=offset) == expected


@pytest.mark.parametrize("case", REFUSED)
def test_unknown_or_contradictory_is_refused_with_all_readings(case: str) -> None:
    properties, offset, says = REFUSED[case]
    with pytest.raises(RadiometryError, match=says) as caught:
        shift(properties, offset=offset)
    assert "'red'" in str(caught.value)
    assert "'scene'" in str(caught.value)
    assert "dn_offset" in str(caught.value)


def test_a_date_proves_nothing() -> None:
    for when in ("2015-07-04", "2021-12-31", "2022-01-25", "2026-01-01"):
        assert shift({BASELINE: "04.00", "datetime": when}) == 0
        assert shift({BASELINE: "03.01", "datetime": when}) == 1000


def test_another_scale_than_sentinel2s_is_refused() -> None:
    with pytest.raises(RadiometryError, match=r"declares scale 0\.001; expected 0\.0001"):
        shift({BASELINE: "04.00"}, scale=0.001)


def test_no_scale_is_sentinel2s_scale() -> None:
    assert shift({BASELINE: "04.00"}, scale=None, offset=-0.1) == 0


def test_readings_are_in_digital_numbers() -> None:
    item = {"id": "i", "properties": {FLAG: "yes", BASELINE: "04.00"}}
    assert offset_readings(item, scale=1e-4, offset=-0.1) == {"declared offset": -1000, "declared scale": 1e-4, BASELINE: 4.0}


# ------------------------------------------------------------------------------------------------ on files


def test_numbers_too_high_to_be_shifted_are_refused_by_name(tmp_path: Path) -> None:
    """64,535 + 1,000 is the last number that fits uint16."""
    import rasterio

    items = write_items(make_series(1), tmp_path)
    with rasterio.open(items[0]["assets"]["B04"]["href"], "r+") as file:
        pixels = file.read(1)
        pixels[5, 7] = 64_535
        file.write(pixels, 1)
    assert load_stac(items)["data"].sel(band="red").values[0, 5, 7] == 65_535
    with rasterio.open(items[0]["assets"]["B04"]["href"], "r+") as file:
        pixels[5, 7] = 64_536
        file.write(pixels, 1)
    with pytest.raises(RadiometryError, match=r"'B04' of item 'SYN_20210103_000'.*64536.*64535"):
        write_cube(load_stac(items), str(tmp_path / "store"), executor="serial")


def test_an_override_is_what_the_files_hold(tmp_path: Path) -> None:
    scenes = make_series(2, declared_offset=None)
    items, reader = [item_dict(s) for s in scenes], SyntheticReader(scenes)
    with pytest.raises(RadiometryError, match="not stated"):
        build_source(items, reader=reader)
    files = write_items(scenes, tmp_path)
    raw = np.stack([[s.dn(b) for b in ("B04", "B08")] for s in scenes])
    np.testing.assert_array_equal(load_stac(files, dn_offset=0)["data"].values, raw + 1000)
    np.testing.assert_array_equal(load_stac(files, dn_offset=-1000)["data"].values, raw)
    with pytest.raises(RadiometryError, match="dn_offset is 1000"):
        load_stac(files, dn_offset=1000)
