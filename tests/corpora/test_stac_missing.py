"""An item that lacks a band is a cube's date with a hole that is told, never a crash while planning."""

from __future__ import annotations

from pathlib import Path

import pytest

import eocube
from eocube.corpora.stac_items import read_items
from eocube.errors import AssetReadError


def test_an_item_without_any_asked_band_fails_when_it_is_read_and_not_before(tmp_path: Path) -> None:
    first, second, *_ = read_items(str(eocube.sample_corpus("sentinel2", tmp_path)))
    items = [
        {**first, "assets": {"B04_10m": first["assets"]["B04_10m"]}},
        {**second, "assets": {"B03_10m": second["assets"]["B03_10m"]}},
    ]

    cube = eocube.load_stac(items, bands=["red"])

    assert cube["dn_shift"].values.tolist() == [1000, 0]
    assert (cube["data"].isel(time=0).values > 0).any()
    with pytest.raises(AssetReadError, match=r"only 1 of 2 items have it"):
        cube["data"].isel(time=1).compute()
