"""Decision 0004: what Sentinel-2 metadata says decides the shift of an asset; its date never does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from eocube.corpora.sentinel2_offset import dn_shift_of
from eocube.errors import RadiometryError
from eocube.kernels.radiometry import dn_to_reflectance, shift_dn

FLAG, BASELINE = "earthsearch:boa_offset_applied", "s2:processing_baseline"


def shift(*, offset: float | None = None, **properties: Any) -> int:
    """The shift of an asset of one fixed date."""
    item = {"id": "S2_OLD_SCENE", "properties": {"datetime": "2018-07-01T10:00:00Z", **properties}}
    return dn_shift_of(item, key="red", scale=1e-4, offset=offset)


@pytest.mark.parametrize(
    ("readings", "added"),
    [
        pytest.param({BASELINE: "02.08"}, 1000, id="old baseline"),
        pytest.param({BASELINE: "05.00"}, 0, id="processed again"),
        pytest.param({"offset": 0.0}, 1000, id="offset 0 declared"),
        pytest.param({"offset": -0.1}, 0, id="offset -0.1 declared"),
        pytest.param({"offset": -0.1, BASELINE: "05.00"}, 0, id="offset and baseline agree"),
        pytest.param({"offset": -0.1, BASELINE: "05.00", FLAG: True}, 1000, id="the flag says it was taken away"),
    ],
)
def test_one_date_may_need_either_shift(readings: dict[str, Any], added: int) -> None:
    assert shift(**readings) == added


@pytest.mark.parametrize(
    "readings",
    [
        pytest.param({}, id="nothing said"),
        pytest.param({"offset": 0.0, BASELINE: "05.00"}, id="contradictory"),
        pytest.param({"offset": -0.05}, id="no offset of Sentinel-2"),
    ],
)
def test_what_is_not_known_is_refused_and_not_guessed(readings: dict[str, Any]) -> None:
    with pytest.raises(RadiometryError, match="S2_OLD_SCENE"):
        shift(**readings)


def test_one_offset_decodes_both_kinds_of_numbers() -> None:
    before, after = np.array([0, 1500], "uint16"), np.array([0, 2500], "uint16")
    stored = np.stack([shift_dn(before, shift=1000, nodata=0), after])
    reflectance = dn_to_reflectance(stored, scale=1e-4, offset=-0.1, nodata=0)
    np.testing.assert_allclose(reflectance, [[np.nan, 0.15]] * 2, rtol=1e-6)
