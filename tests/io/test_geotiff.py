"""Local GeoTIFFs block by block: the pixels of GDAL for every kind of file, and damage that GDAL reads on from is refused."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.shutil
import tifffile
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox

from eocube.errors import AssetReadError
from eocube.io import geotiff
from eocube.io.geotiff import GeoTiffReader
from eocube.io.rasters import RasterioReader
from eocube.kernels.differencing import undo_differencing
from eocube.model.scene import Asset
from eocube.testing.contracts import ReaderContract
from tests.io.tiffs import DEFLATE, GRID, SHAPE_YX, TRANSFORM, NoGdal, fast, plain, positions, read_image, write


class TestContract(ReaderContract):
    """The promises of every reader, on the synthetic catalogue's files."""

    def make_reader(self) -> GeoTiffReader:
        """See :class:`ReaderContract`."""
        return GeoTiffReader()


CODINGS = [
    pytest.param(options, id="-".join(map(str, options.values())) or "plain")
    for options in (
        {},
        DEFLATE,
        {"compress": "deflate"},
        {"compress": "zstd"},
        {"compress": "zstd", "predictor": 2},
        {"compress": "deflate", "BIGTIFF": "YES"},
        {"tiled": False},
        {"compress": "deflate", "predictor": 2, "tiled": False},
    )
]


@pytest.mark.parametrize("options", CODINGS)
@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"])
def test_every_coding_and_dtype_gives_gdals_pixels(tmp_path: Path, dtype: str, options: dict[str, Any]) -> None:
    if dtype.startswith("f") and options.get("predictor"):
        pytest.skip("TIFF differences whole numbers only")
    path = write(tmp_path / "a.tif", positions(dtype), **options)
    found = fast(path)
    assert found.dtype == dtype
    assert np.array_equal(found, plain(path))
    assert np.array_equal(found, positions(dtype))


@pytest.fixture(scope="module")
def differenced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of partial blocks on two sides."""
    return write(tmp_path_factory.mktemp("tiff") / "a.tif", positions("uint16"), nodata=0, **DEFLATE)


SPAN = st.tuples(st.integers(-80, 280), st.integers(1, 130))


@settings(deadline=None)
@given(y=SPAN, x=SPAN)
def test_any_window_inside_across_or_beside_the_file_is_gdals(differenced: Path, y: tuple[int, int], x: tuple[int, int]) -> None:
    box = GeoBox((y[1], x[1]), TRANSFORM @ Affine.translation(x[0], y[0]), GRID.crs)
    assert np.array_equal(fast(differenced, box, nodata=0.0), plain(differenced, box, nodata=0.0))


@settings(max_examples=60, deadline=None)
@given(data=st.data(), dtype=st.sampled_from(["u1", "i1", "u2", "i2", "u4", "i4"]))
def test_differences_are_summed_in_any_window_of_a_block(data: st.DataObject, dtype: str) -> None:
    ny, nx = data.draw(st.integers(1, 11)), data.draw(st.integers(1, 9))
    ya, xa = data.draw(st.integers(0, ny - 1)), data.draw(st.integers(0, nx - 1))
    yb, xb = data.draw(st.integers(ya + 1, ny)), data.draw(st.integers(xa + 1, nx))
    block = positions(dtype, (ny, nx))
    out = np.zeros((yb - ya, 2 * (xb - xa)), dtype)[:, ::2]
    undo_differencing(block, slice(ya, yb), slice(xa, xb), out)
    assert np.array_equal(out, np.cumsum(block, axis=1, dtype=dtype)[ya:yb, xa:xb])


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"compress": "jpeg"}, id="lossy"),
        pytest.param({"compress": "lzw"}, id="lzw"),
        pytest.param({"compress": "lzw", "predictor": 2, "dtype": "uint16"}, id="lzw-differenced"),
        pytest.param({"compress": "lzw", "tiled": False, "blockxsize": None, "blockysize": None}, id="lzw-strips"),
        pytest.param({"compress": "deflate", "predictor": 3, "dtype": "float32"}, id="differenced-floats"),
        pytest.param({"count": 2, "interleave": "pixel"}, id="bands-interleaved"),
        pytest.param({"nbits": 4}, id="4-bits"),
        pytest.param({"ENDIANNESS": "BIG"}, id="big-endian"),
    ],
)
def test_what_is_not_simply_tiled_is_left_to_gdal(tmp_path: Path, options: dict[str, Any]) -> None:
    options = dict(options)
    dtype, count = options.pop("dtype", "uint8"), options.pop("count", 1)
    pixels = np.stack([positions(dtype) // 16 if dtype == "uint8" else positions(dtype)] * count)
    kept = {k: v for k, v in {"tiled": True, "blockxsize": 64, "blockysize": 64, **options}.items() if v is not None}
    shape = {"count": count, "height": SHAPE_YX[0], "width": SHAPE_YX[1], "dtype": dtype}
    path = tmp_path / "a.tif"
    with rasterio.open(path, "w", driver="GTiff", crs="EPSG:32635", transform=TRANSFORM, **shape, **kept) as file:
        file.write(pixels)
    image = read_image(str(path))
    assert image is not None
    assert not image.plain
    found = GeoTiffReader().read([Asset(href=str(path), key="a")], GRID, item_id="i", resampling="nearest")[0]
    assert np.array_equal(found, plain(path))


def test_another_format_or_grid_is_left_to_gdal(tmp_path: Path, differenced: Path) -> None:
    tile = write(tmp_path / "a.tif", positions("uint8"))
    rasterio.shutil.copy(tile, tmp_path / "a.img", driver="HFA")
    turned = GeoBox((40, 40), Affine(20, 0, 600_005, 0, -20, 4_999_990), "EPSG:32636")
    for path, box, nodata in ((tmp_path / "a.img", GRID, None), (differenced, turned, 0.0)):
        asset = Asset(href=str(path), key="a", nodata=nodata)
        found = GeoTiffReader().read([asset], box, item_id="i", resampling="nearest")[0]
        assert np.array_equal(found, plain(path, box, nodata=nodata))


@pytest.mark.parametrize("nodata", [None, 7])
def test_blocks_that_were_not_written_are_nodata(tmp_path: Path, nodata: int | None) -> None:
    pixels = positions("uint16")
    pixels[:64, 64:128] = nodata or 0
    path = write(tmp_path / "a.tif", pixels, SPARSE_OK=True, nodata=nodata, **DEFLATE)
    layout = read_image(str(path))
    assert layout is not None
    assert layout.counts[1] == 0
    assert np.array_equal(fast(path, nodata=nodata), pixels)
    assert np.array_equal(plain(path, nodata=nodata), pixels)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32"])
@pytest.mark.parametrize("item", [None, 7.0, 200.0])
@pytest.mark.parametrize("shift", [0, 13, 100.5], ids=["whole", "across", "warped"])
def test_blocks_that_were_not_written_are_what_gdal_makes_of_them_whatever_the_item_says(
    tmp_path: Path, dtype: str, item: float | None, shift: float
) -> None:
    """Without a tag they are zeros; the item's nodata is only outside the image."""
    pixels = positions(dtype)
    pixels[:64, 64:128] = 0
    path = write(tmp_path / "a.tif", pixels, SPARSE_OK=True, **DEFLATE if dtype != "float32" else {"compress": "deflate"})
    layout = read_image(str(path))
    assert layout is not None
    assert layout.counts[1] == 0
    box = GeoBox(SHAPE_YX, TRANSFORM @ Affine.translation(shift, shift), GRID.crs)
    found = GeoTiffReader().read([Asset(href=str(path), key="a", nodata=item)], box, item_id="i", resampling="nearest")[0]
    assert np.array_equal(found, plain(path, box, nodata=item))
    if shift != 100.5:
        assert np.array_equal(fast(path, box, nodata=item), found)


@pytest.mark.parametrize("tag", ["0", "7", "7.5", "-9999", "70000", "nan", "-0.6", "1e300", "-1e300", "none", ""])
@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int32", "float32"])
def test_blocks_that_were_not_written_are_what_gdal_makes_of_any_tag(tmp_path: Path, dtype: str, tag: str) -> None:
    """A tag that no pixel can equal is clipped and rounded there."""
    pixels = positions(dtype)
    pixels[:64, 64:128] = 11
    path = write(tmp_path / "a.tif", pixels, SPARSE_OK=True, nodata=11, compress="deflate")
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages[0].aspage().tags[42113].overwrite(tag)
    info = RasterioReader().describe(str(path))
    asset = Asset(href=str(path), key="a", nodata=info.nodata)
    found, expected = (r.read([asset], GRID, item_id="i", resampling="nearest") for r in (GeoTiffReader(), RasterioReader()))
    assert np.array_equal(found, expected, equal_nan=dtype == "float32")


def test_without_imagecodecs_everything_is_left_to_gdal(
    tmp_path: Path, differenced: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    big = write(tmp_path / "a.tif", positions("uint16"), nodata=0, ENDIANNESS="BIG", **DEFLATE)
    for path in (differenced, big):
        found = GeoTiffReader().read([Asset(href=str(path), key="a", nodata=0.0)], GRID, item_id="i", resampling="nearest")[0]
        assert np.array_equal(found, positions("uint16"))
    with pytest.raises(AssertionError, match="was left to GDAL"):
        fast(differenced, nodata=0.0)


def test_a_folder_that_gdal_reads_is_left_to_it(tmp_path: Path) -> None:
    rasterio.shutil.copy(write(tmp_path / "a.tif", positions("uint16")), tmp_path / "a.zarr", driver="Zarr")
    assert (tmp_path / "a.zarr").is_dir()
    asset = Asset(href=str(tmp_path / "a.zarr"), key="a")
    found = GeoTiffReader().read([asset], GRID, item_id="i", resampling="nearest")[0]
    assert np.array_equal(found, positions("uint16"))


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["folder", "pipe"])
def test_what_is_no_file_is_not_opened_and_waits_for_nobody(tmp_path: Path, make: Any) -> None:
    make(tmp_path / "a.tif")
    assert geotiff._open(str(tmp_path / "a.tif")) is None


def test_a_file_is_described_once_and_again_when_it_changed(tmp_path: Path) -> None:
    inner = NoGdal()
    reader, path = GeoTiffReader(inner), write(tmp_path / "a.tif", positions("uint16"), **DEFLATE)
    asset = Asset(href=str(path), key="a")
    for _ in range(3):
        assert np.array_equal(reader.read([asset], GRID, item_id="i", resampling="nearest")[0], positions("uint16"))
    assert len(inner.headers.described) == 1
    path.unlink()
    write(path, positions("uint16")[::-1].copy(), **DEFLATE)
    assert np.array_equal(reader.read([asset], GRID, item_id="i", resampling="nearest")[0], positions("uint16")[::-1])
    assert len(inner.headers.described) == 2


def test_a_reader_keeps_a_bounded_number_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(geotiff, "MOST_FILES", 3)
    inner = NoGdal()
    reader = GeoTiffReader(inner)
    paths = [write(tmp_path / f"{i}.tif", positions("uint8")) for i in range(5)]
    for path in (*paths, paths[-1], paths[0]):
        reader.read([Asset(href=str(path), key="a")], GRID, item_id="i", resampling="nearest")
    assert inner.headers.described == [str(p) for p in (*paths, paths[0])]
    assert len(reader._files) == 3


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"dtype": "int16"}, "its metadata says int16, the file holds uint16"),
        ({"bidx": 2}, "band 2 asked, the file has 1"),
        ({"geobox": GRID[:100]}, "its metadata says grid (100, 201)"),
        ({"geobox": GeoBox(SHAPE_YX, TRANSFORM, "EPSG:32634")}, "its metadata says EPSG:32634, the file has EPSG:32635"),
        ({"nodata": 5.0}, "the file's own nodata tag is 0, its items say 5"),
    ],
)
def test_a_file_that_is_not_what_its_metadata_says_is_refused(differenced: Path, changes: dict[str, Any], says: str) -> None:
    asset = replace(Asset(href=str(differenced), key="a", nodata=0.0), **changes)
    for reader in (GeoTiffReader(), RasterioReader()):
        with pytest.raises(AssetReadError) as caught:
            reader.read([asset], GRID, item_id="i", resampling="nearest")
        assert says in str(caught.value)
