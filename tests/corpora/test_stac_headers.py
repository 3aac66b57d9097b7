"""What items leave out comes from their files' headers; a file that does not open is listed, and no hole stays silent."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eocube.corpora.stac import StacCorpus, StacSource, build_source
from eocube.errors import AssetReadError, CatalogError, GridError
from eocube.jobs.convert import convert
from eocube.jobs.open import load_stac
from eocube.model.recipe import whole
from eocube.testing.stac import (
    CountingReader,
    SyntheticReader,
    SyntheticScene,
    expected_cube,
    item_dict,
    make_grid,
    make_series,
    write_items,
)
from eocube.testing.stores import same_store

LANDSAT: dict[str, Any] = {"properties": {"constellation": None, "platform": "landsat-9"}, "collection": "landsat-c2-l2"}
HALF: dict[str, Any] = {"footprint": ((0, 48), (0, 40)), "zooms": {"B04": 1, "B08": 1}}


def untold(items: list[dict[str, Any]], *names: str) -> list[dict[str, Any]]:
    """Items whose assets do not say that."""
    for item in items:
        for asset in item["assets"].values():
            for band in (asset, *asset.get("bands", [])):
                for name in names:
                    band.pop(name, None)
    return items


def source(scenes: list[SyntheticScene], **kwargs: Any) -> StacSource:
    return build_source([item_dict(s) for s in scenes], reader=SyntheticReader(scenes), **kwargs)


# ------------------------------------------------------------------------------------------------ nodata


def test_a_nodata_that_only_the_files_tell_is_the_cubes(tmp_path: Path) -> None:
    items = untold(write_items(make_series(2, **LANDSAT, **HALF), tmp_path), "nodata")
    cube = load_stac(items)
    assert cube["data"].attrs["_FillValue"] == 0


def test_nodata_is_asked_once_an_asset_and_a_missing_file_does_not_hide_it() -> None:
    scenes = make_series(5, **LANDSAT, **HALF)
    scenes[0] = replace(scenes[0], missing=("B04",))
    reader = CountingReader(SyntheticReader(scenes))
    src = build_source(untold([item_dict(s) for s in scenes], "nodata"), reader=reader)
    assert src.frame().data.nodata == 0
    assert len(reader.described) == 3, "B04 of two items, B08 of one"


def test_sentinel2_without_a_stated_nodata_is_zero_and_opens_no_file() -> None:
    scenes = make_series(3)
    reader = CountingReader(SyntheticReader(scenes))
    src = build_source(untold([item_dict(s) for s in scenes], "nodata"), reader=reader)
    assert (src.frame().data.nodata, reader.described) == (0, [])
    assert {a.nodata for step in src._steps for s in step for a in s.assets.values()} == {0.0}


@pytest.mark.parametrize("kind", [LANDSAT, {}], ids=["landsat", "sentinel-2"])
def test_one_file_that_marks_other_pixels_as_empty_is_refused_and_never_data(tmp_path: Path, kind: dict[str, Any]) -> None:
    scenes = make_series(3, **kind, **HALF)
    scenes[2] = replace(scenes[2], nodata=9)
    cube = load_stac(untold(write_items(scenes, tmp_path), "nodata"))
    cube["data"].isel(time=slice(2)).compute()
    with pytest.raises(AssetReadError, match=rf"item {scenes[2].item_id!r} .*nodata tag is 9, its items say 0"):
        cube["data"].isel(time=2).compute()


# ------------------------------------------------------------------------------------------------ files that do not open


@pytest.mark.parametrize("lost", [("B08",), ("B04", "B08"), ("SCL",), ("B11",), ("B04", "B08", "B11", "SCL")], ids="+".join)
def test_with_skip_a_missing_file_whose_grid_only_headers_tell_is_listed_and_healed(
    tmp_path: Path, lost: tuple[str, ...]
) -> None:
    whole_scenes = make_series(3, declares_grid=False, zooms={"B04": 1, "B08": 1, "B11": 2, "SCL": 2})
    scenes = [replace(whole_scenes[0], missing=lost), *whole_scenes[1:]]
    run: dict[str, Any] = {"executor": "serial", "errors": "skip"}
    corpus, healthy = (
        StacCorpus(items=tuple(item_dict(s) for s in some), reader=SyntheticReader(some)) for some in (scenes, whole_scenes)
    )
    report = convert(corpus, str(tmp_path / "store"), **run)
    assert {(r["item_id"], r["asset"]) for r in report.failed} == {(scenes[0].item_id, key) for key in lost}
    convert(healthy, str(tmp_path / "store"), **run)
    convert(healthy, str(tmp_path / "once"), **run)
    assert same_store(tmp_path / "store", tmp_path / "once")


def test_of_a_single_item_the_other_bands_tell_where_a_missing_one_lies(tmp_path: Path) -> None:
    scenes = make_series(1, declares_grid=False, missing=("B04",))
    src = source(scenes)
    failed: list[AssetReadError] = []
    got = src.read(whole(src.frame()), on_error=failed.append)["data"]
    expected = expected_cube(scenes, ["B04", "B08"])
    expected[:, 0] = 0
    assert src.frame().band_names == ("red", "nir"), "in the item's order"
    np.testing.assert_array_equal(got, expected)
    assert [(e.item_id, e.asset) for e in failed] == [(scenes[0].item_id, "B04")]


@pytest.mark.parametrize("n", [1, 2], ids="{} items".format)
def test_a_grid_that_nothing_tells_is_refused_naming_the_asset_and_what_helps(n: int) -> None:
    """Two items: the other one lies on another tile."""
    scenes = make_series(n, declares_grid=False)
    tiles = [{"grid:code": f"MGRS-35T{'LM'[i]}K"} for i in range(n)]
    scenes = [replace(s, properties=t, grid=make_grid(corner_xy=(600_000.0 + 640 * i, 5_000_040.0))) for i, (s, t) in
              enumerate(zip(scenes, tiles, strict=True))]  # fmt: skip
    scenes[0] = replace(scenes[0], missing=("B04", "B08", "SCL"))
    with pytest.raises(
        GridError, match=rf"Asset 'B04' of item {scenes[0].item_id!r} .*No such file.*proj:code.*--geobox"
    ) as caught:
        source(scenes)
    assert "skip" not in str(caught.value)


def test_on_a_given_grid_a_file_that_nothing_places_is_listed() -> None:
    scenes = make_series(2, declares_grid=False)
    scenes[1] = replace(scenes[1], grid=make_grid(corner_xy=(640_000.0, 5_000_040.0)), properties={"grid:code": "MGRS-35TMK"})
    scenes[1] = replace(scenes[1], missing=("B04", "B08", "SCL"))
    src = source(scenes, geobox=make_grid((30, 30)))
    failed: list[AssetReadError] = []
    got = src.read(whole(src.frame()), on_error=failed.append)["data"]
    np.testing.assert_array_equal(got[0], expected_cube(scenes[:1], ["B04", "B08"])[0, :, :30, :30])
    assert {(e.item_id, e.asset) for e in failed} == {(scenes[1].item_id, k) for k in ("B04", "B08", "SCL")}


def test_a_data_type_that_no_file_tells_is_refused_naming_the_asset() -> None:
    scenes = make_series(2, missing=("B08",))
    items = untold([item_dict(s) for s in scenes], "data_type")
    with pytest.raises(CatalogError, match=rf"'B08' of item {scenes[0].item_id!r} declares no data type.*No such file"):
        build_source(items, reader=SyntheticReader(scenes))
