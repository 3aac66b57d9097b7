"""Local GeoTIFFs block by block: the pixels of GDAL for every kind of file, and damage that GDAL reads on from is refused."""

from __future__ import annotations

import os
import struct
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
from eocube.io.geotiff import GeoTiffReader, TiffDamageError, read_layout
from eocube.io.rasters import RasterInfo, RasterioReader
from eocube.kernels.differencing import undo_differencing
from eocube.model.scene import Asset
from eocube.testing.contracts import ReaderContract
from eocube.testing.stac import CountingReader

SHAPE_YX = (150, 201)
"""Not whole blocks along either axis."""

TRANSFORM = Affine(10, 0, 600_000, 0, -10, 5_000_000)
GRID = GeoBox(SHAPE_YX, TRANSFORM, "EPSG:32635")
DEFLATE: dict[str, Any] = {"compress": "deflate", "predictor": 2}


class NoGdal:
    """A reader whose headers come from GDAL, and that fails where pixels are asked for: the fast path must not need it."""

    def __init__(self) -> None:
        self.headers = CountingReader(RasterioReader())

    def describe(self, href: str) -> RasterInfo:
        """See :class:`eocube.io.rasters.Reader`."""
        return self.headers.describe(href)

    def read(self, assets: Any, geobox: GeoBox, *, item_id: str, resampling: str) -> Any:
        """See :class:`eocube.io.rasters.Reader`."""
        raise AssertionError(f"{assets[0].href} was left to GDAL")


class TestContract(ReaderContract):
    """The promises of every reader, on the synthetic catalogue's files."""

    def make_reader(self) -> GeoTiffReader:
        """See :class:`ReaderContract`."""
        return GeoTiffReader()


def positions(dtype: str, shape_yx: tuple[int, int] = SHAPE_YX) -> np.ndarray:
    """Numbers that say where they are, over the whole range of the dtype."""
    values = np.arange(np.prod(shape_yx)).reshape(shape_yx) * 2_654_435_761
    return (values / 7).astype(dtype) if dtype.startswith("f") else values.astype(dtype)


def write(path: Path, pixels: np.ndarray, *, block: int = 64, driver: str = "GTiff", **options: Any) -> Path:
    """A tiled file of ``pixels`` (y, x) or (band, y, x)."""
    bands = pixels if pixels.ndim == 3 else pixels[None]
    tiles = {"blocksize": block} if driver == "COG" else {"tiled": True, "blockxsize": block, "blockysize": block}
    shape = {"count": len(bands), "height": bands.shape[1], "width": bands.shape[2], "dtype": str(bands.dtype)}
    given = {"crs": "EPSG:32635", "transform": TRANSFORM, **tiles, **options}
    with rasterio.open(path, "w", driver=driver, **shape, **given) as file:
        file.write(bands)
    return path


def cog(path: Path, edge: int = 256, **options: Any) -> Path:
    """A Cloud-Optimised GeoTIFF with one overview, as catalogues hold them."""
    rng = np.random.default_rng(3)
    pixels = (1000 + np.cumsum(rng.integers(-9, 10, (edge, edge)), axis=1)).astype("uint16")
    return write(path, pixels, block=128, driver="COG", compress="deflate", predictor="yes", nodata=0, **options)


def fast(path: Path, box: GeoBox = GRID, **changes: Any) -> np.ndarray:
    """Read without GDAL's pixels."""
    asset = Asset(href=str(path), key="a", **changes)
    return GeoTiffReader(NoGdal()).read([asset], box, item_id="i", resampling="nearest")[0]


def plain(path: Path, box: GeoBox = GRID, **changes: Any) -> np.ndarray:
    """The same through GDAL."""
    return RasterioReader().read([Asset(href=str(path), key="a", **changes)], box, item_id="i", resampling="nearest")[0]


CODINGS = [
    pytest.param(options, id="-".join(map(str, options.values())) or "plain")
    for options in (
        {},
        DEFLATE,
        {"compress": "deflate"},
        {"compress": "lzw"},
        {"compress": "lzw", "predictor": 2},
        {"compress": "zstd"},
        {"compress": "zstd", "predictor": 2},
        {"compress": "deflate", "BIGTIFF": "YES"},
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
        pytest.param({"compress": "deflate", "predictor": 3, "dtype": "float32"}, id="differenced-floats"),
        pytest.param({"tiled": False, "blockxsize": None, "blockysize": None}, id="strips"),
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
    assert read_layout(str(path)) is None
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
    layout = read_layout(str(path))
    assert layout is not None
    assert layout.counts[1] == 0
    assert np.array_equal(fast(path, nodata=nodata), pixels)
    assert np.array_equal(plain(path, nodata=nodata), pixels)


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


# ---------------------------------------------------------------------------------------------------------- damage


def tag_of(path: Path, name: str, page: int = 0) -> Any:
    """A tag of a file, with the offset of its value."""
    with tifffile.TiffFile(path) as tiff:
        return tiff.pages[page].aspage().tags[name]


def patch(path: Path, at: int, body: bytes) -> None:
    """Overwrite bytes."""
    with path.open("r+b") as file:
        file.seek(at)
        file.write(body)


def refused(path: Path) -> str:
    """The reason for which a file is refused."""
    box = GeoBox((256, 256), TRANSFORM, GRID.crs)
    with pytest.raises(AssetReadError) as caught:
        fast(path, box, nodata=0.0)
    return str(caught.value)


def gdal_takes_it(path: Path) -> bool:
    """Whether GDAL reads the file as if nothing were wrong."""
    try:
        plain(path, GeoBox((256, 256), TRANSFORM, GRID.crs), nodata=0.0)
    except AssetReadError:
        return False
    return True


def test_a_whole_cog_is_framed_and_read(tmp_path: Path) -> None:
    path = cog(tmp_path / "a.tif")
    layout = read_layout(str(path))
    assert layout is not None
    assert (layout.framed, layout.differenced, len(layout.offsets)) == (True, True, 4)
    box = GeoBox((256, 256), TRANSFORM, GRID.crs)
    assert np.array_equal(fast(path, box, nodata=0.0), plain(path, box, nodata=0.0))


def test_a_cog_with_a_mask_or_without_blocks_here_and_there_is_whole(tmp_path: Path) -> None:
    pixels = np.ones((256, 256), "uint16")
    pixels[:128] = 0
    sparse = write(tmp_path / "sparse.tif", pixels, block=128, driver="COG", compress="deflate", nodata=0, sparse_ok=True)
    assert np.array_equal(fast(sparse, GeoBox((256, 256), TRANSFORM, GRID.crs), nodata=0.0), pixels)
    masked = tmp_path / "masked.tif"
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.MemoryFile() as memory,
        memory.open(
            driver="GTiff", height=256, width=256, count=1, dtype="uint16", crs="EPSG:32635", transform=TRANSFORM
        ) as file,
    ):
        file.write(pixels, 1)
        file.write_mask(pixels > 0)
        file.close()
        with memory.open() as source:
            rasterio.shutil.copy(source, masked, driver="COG", blocksize=128, compress="deflate")
    assert np.array_equal(fast(masked, GeoBox((256, 256), TRANSFORM, GRID.crs)), pixels)


def test_one_flipped_bit_of_the_pixels_is_found(tmp_path: Path) -> None:
    path = cog(tmp_path / "a.tif")
    layout = read_layout(str(path))
    assert layout is not None
    at = layout.offsets[2] + layout.counts[2] // 2
    body = path.read_bytes()
    patch(path, at, bytes([body[at] ^ 1]))
    assert "block 2 at byte" in refused(path)


def test_a_predictor_that_the_overviews_lack_is_found(tmp_path: Path) -> None:
    path = cog(tmp_path / "a.tif")
    tag = tag_of(path, "Predictor")
    patch(path, tag.valueoffset, struct.pack("<H", 1))
    assert gdal_takes_it(path)
    assert "image and overviews disagree" in refused(path)


def test_an_index_that_points_at_another_block_is_found(tmp_path: Path) -> None:
    path = cog(tmp_path / "a.tif")
    offsets, counts = tag_of(path, "TileOffsets"), tag_of(path, "TileByteCounts")
    patch(path, offsets.valueoffset, struct.pack("<I", offsets.value[3]))
    size = "<H" if counts.dtype == 3 else "<I"
    patch(path, counts.valueoffset, struct.pack(size, counts.value[3]))
    assert "index is damaged" in refused(path)


def test_an_index_that_forgot_a_block_is_found(tmp_path: Path) -> None:
    path = cog(tmp_path / "a.tif")
    offsets, counts = tag_of(path, "TileOffsets"), tag_of(path, "TileByteCounts")
    patch(path, offsets.valueoffset + 4, struct.pack("<I", 0))
    assert "is said to be at byte 0 with" in refused(path)
    size = "<H" if counts.dtype == 3 else "<I"
    patch(path, counts.valueoffset + struct.calcsize(size), struct.pack(size, 0))
    assert gdal_takes_it(path)
    assert "index is damaged" in refused(path)


@pytest.mark.parametrize("lost", [1, 100, 5000, 20_000])
def test_a_file_that_was_cut_off_is_found(tmp_path: Path, lost: int) -> None:
    path = cog(tmp_path / "a.tif")
    os.truncate(path, path.stat().st_size - lost)
    refused(path)


@pytest.mark.parametrize(
    "pixels", [np.full((256, 256), 77, "uint16"), np.random.default_rng(1).integers(1, 9**4, (256, 256), "uint16")]
)
def test_a_cog_whose_blocks_were_written_anew_is_no_damage(tmp_path: Path, pixels: np.ndarray) -> None:
    """Shorter blocks leave gaps, longer ones go to the end."""
    path = cog(tmp_path / "a.tif")
    with rasterio.open(path, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as file:
        file.write(pixels, 1)
    assert np.array_equal(fast(path, GeoBox((256, 256), TRANSFORM, GRID.crs), nodata=0.0), pixels)


def test_structure_that_contradicts_itself_is_damage(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", positions("uint16"))
    width = tag_of(path, "ImageWidth")
    patch(path, width.valueoffset, struct.pack("<H", 900))
    with pytest.raises(TiffDamageError, match="in blocks of"):
        read_layout(str(path))


def test_a_plain_block_of_the_wrong_size_is_damage(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", positions("uint16"))
    counts = tag_of(path, "TileByteCounts")
    patch(path, counts.valueoffset, struct.pack("<H" if counts.dtype == 3 else "<I", 100))
    with pytest.raises(TiffDamageError, match="has 100 bytes instead of 8192"):
        read_layout(str(path))
