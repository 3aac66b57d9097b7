"""Damage that GDAL reads on from is refused; what looks like it and is none is read."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import rasterio
import rasterio.shutil
import tifffile
from affine import Affine
from odc.geo.geobox import GeoBox

from eocube.errors import AssetReadError
from eocube.io.geotiff import GeoTiffReader
from eocube.io.rasters import RasterInfo, RasterioReader
from eocube.io.tiff import TiffDamageError
from eocube.model.scene import Asset
from tests.io.tiffs import DEFLATE, GRID, TRANSFORM, cog, fast, plain, positions, read_image, write


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
    layout = read_image(str(path))
    assert layout is not None
    assert (layout.framed, layout.predictor, len(layout.offsets)) == (True, 2, 4)
    box = GeoBox((256, 256), TRANSFORM, GRID.crs)
    assert np.array_equal(fast(path, box, nodata=0.0), plain(path, box, nodata=0.0))


def masked_cog(path: Path, pixels: np.ndarray) -> Path:
    """A COG with a mask inside, and both at half the size."""
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
            rasterio.shutil.copy(source, path, driver="COG", blocksize=128, compress="deflate")
    return path


def test_a_cog_with_a_mask_or_without_blocks_here_and_there_is_whole(tmp_path: Path) -> None:
    pixels = np.ones((256, 256), "uint16")
    pixels[:128] = 0
    sparse = write(tmp_path / "sparse.tif", pixels, block=128, driver="COG", compress="deflate", nodata=0, sparse_ok=True)
    assert np.array_equal(fast(sparse, GeoBox((256, 256), TRANSFORM, GRID.crs), nodata=0.0), pixels)
    masked = masked_cog(tmp_path / "masked.tif", pixels)
    assert np.array_equal(fast(masked, GeoBox((256, 256), TRANSFORM, GRID.crs)), pixels)


def test_one_flipped_bit_of_the_pixels_is_found(tmp_path: Path) -> None:
    path = cog(tmp_path / "a.tif")
    layout = read_image(str(path))
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


BOX = GeoBox((256, 256), TRANSFORM, GRID.crs)
TURNED = GeoBox((80, 80), Affine(23, 0, 600_104, 0, -23, 4_999_893), GRID.crs)
"""Inside a file of 256 pixels, on no edge of them."""


def tiles(path: Path, pixels: np.ndarray | None = None, **options: Any) -> Path:
    """A tiled file of two by two blocks that nothing frames."""
    texture = (1000 + np.cumsum(np.random.default_rng(3).integers(-9, 10, (256, 256)), axis=1)).astype("uint16")
    return write(path, texture if pixels is None else pixels, block=128, nodata=0, **options)


def put_index(path: Path, entries: dict[int, tuple[int, int]]) -> None:
    """Change (offset, count) of some blocks."""
    for name, which in (("TileOffsets", 0), ("TileByteCounts", 1)):
        tag = tag_of(path, name)
        form = {3: "<H", 4: "<I"}[tag.dtype]
        for i, entry in entries.items():
            patch(path, tag.valueoffset + i * struct.calcsize(form), struct.pack(form, entry[which]))


def index_of(path: Path) -> list[tuple[int, int]]:
    """(offset, count) of each block."""
    image = read_image(str(path))
    assert image is not None
    return list(zip(image.offsets, image.counts, strict=True))


@pytest.mark.parametrize("code", [316, 319, 285, 309, 33_085, 0], ids=["text", "ratios", "name", "unknown", "private", "nothing"])
def test_a_tag_that_turned_into_another_is_found(tmp_path: Path, code: int) -> None:
    """One bit makes another public tag of the predictor, which comes between the same neighbours."""
    path = tiles(tmp_path / "a.tif", **DEFLATE)
    patch(path, tag_of(path, "Predictor").offset, struct.pack("<H", code))
    assert gdal_takes_it(path)
    assert f"tag {code}" in refused(path)


def test_tags_that_are_public_private_or_many_are_no_damage(tmp_path: Path) -> None:
    template = tiles(tmp_path / "a.tif")
    with tifffile.TiffFile(template) as tiff:
        tags = tiff.pages[0].aspage().tags
        geo = [(t.code, int(t.dtype), t.count, t.value, True) for t in tags if t.code in (33550, 33922, 34735, 34737, 42113)]
    more = [
        (316, 2, 4, "host", True),
        (301, 3, 512, tuple(range(512)), True),
        (40_000, 7, 3, b"abc", True),
        (700, 1, 3, b"xmp", True),
    ]
    path, pixels = tmp_path / "b.tif", positions("uint16", (256, 256))
    tifffile.imwrite(
        path, pixels, tile=(128, 128), compression="deflate", predictor=True, extratags=[*geo, *more], description="d"
    )
    assert np.array_equal(fast(path, BOX, nodata=0.0), pixels)


@pytest.mark.parametrize(
    ("name", "value"),
    [("SamplesPerPixel", 9), ("SampleFormat", 0), ("PlanarConfiguration", 3), ("Predictor", 4), ("TileWidth", 0)],
)
def test_an_image_that_tiff_does_not_know_is_refused_before_gdal_opens_it(tmp_path: Path, name: str, value: int) -> None:
    path = tiles(tmp_path / "a.tif", **DEFLATE)
    patch(path, tag_of(path, name).valueoffset, struct.pack("<H", value))
    assert "do not describe an image" in refused(path)


def test_directories_in_a_circle_are_damage(tmp_path: Path) -> None:
    path = tiles(tmp_path / "a.tif")
    with tifffile.TiffFile(path) as tiff:
        first, n = tiff.pages[0].aspage().offset, len(tiff.pages[0].aspage().tags)
    patch(path, first + 2 + 12 * n, struct.pack("<I", first))
    assert "go in a circle" in refused(path)


@pytest.mark.parametrize("coding", [{}, DEFLATE, {"compress": "lzw"}, {"compress": "zstd"}], ids=str)
def test_a_block_that_only_the_index_lost_is_found(tmp_path: Path, coding: dict[str, Any]) -> None:
    path = tiles(tmp_path / "a.tif", **coding)
    put_index(path, {1: (0, 0)})
    assert gdal_takes_it(path)
    assert "a block that its index does not list" in refused(path)
    put_index(path, dict.fromkeys(range(4), (0, 0)))
    assert "a block that its index does not list" in refused(path)


def test_a_cog_that_lost_its_only_block_is_found(tmp_path: Path) -> None:
    path = cog(tmp_path / "a.tif", 100)
    put_index(path, {0: (0, 0)})
    with pytest.raises(TiffDamageError, match="does not list"):
        read_image(str(path))


def test_a_sparse_file_whose_directory_or_blocks_moved_is_whole(tmp_path: Path) -> None:
    pixels = positions("uint16", (256, 256)) // 64
    pixels[:128, :128] = 0
    path = tiles(tmp_path / "a.tif", pixels, SPARSE_OK=True, **DEFLATE)
    with rasterio.open(path, "r+") as file:
        file.update_tags(WHAT="more than fits " * 50)
    pixels[128:] = positions("uint16", (256, 256))[128:]
    with rasterio.open(path, "r+") as file:
        file.write(pixels[128:], 1, window=((128, 256), (0, 256)))
    assert (0, 0) in index_of(path)
    assert np.array_equal(fast(path, BOX, nodata=0.0), pixels)


@pytest.mark.parametrize("coding", ["none", "deflate", "lzw", "zstd"])
def test_a_sparse_file_that_was_written_in_any_order_and_again_is_whole(tmp_path: Path, coding: str) -> None:
    """What grew left whole blocks behind, where nothing is missing."""
    pixels, edge = np.zeros((640, 640), "uint16"), 128
    path = write(tmp_path / "a.tif", pixels, block=edge, SPARSE_OK=True, compress=coding)
    rng = np.random.default_rng(1)
    for most in (9, 60_000):
        with rasterio.open(path, "r+") as file:
            for y, x in ((256, 256), (0, 0), (256, 128)):
                pixels[y : y + edge, x : x + edge] = rng.integers(1, most, (edge, edge))
                file.write(pixels[y : y + edge, x : x + edge], 1, window=((y, y + edge), (x, x + edge)))
    assert (0, 0) in index_of(path)
    box = GeoBox((640, 640), TRANSFORM, GRID.crs)
    assert np.array_equal(read_anew(str(path), box), pixels)


def test_an_entry_that_repeats_another_is_found(tmp_path: Path) -> None:
    path = tiles(tmp_path / "a.tif", **DEFLATE)
    put_index(path, {1: index_of(path)[2]})
    assert gdal_takes_it(path)
    assert "lists one block more than once" in refused(path)


def test_equal_blocks_that_are_kept_once_are_no_damage(tmp_path: Path) -> None:
    pixels = np.tile(positions("uint16", (128, 128)), (2, 2))
    path = tiles(tmp_path / "a.tif", pixels, **DEFLATE)
    first = index_of(path)[0]
    put_index(path, dict.fromkeys(range(4), first))
    os.truncate(path, sum(first))
    assert np.array_equal(fast(path, BOX, nodata=0.0), pixels)


def test_blocks_that_overlap_are_damage(tmp_path: Path) -> None:
    path = tiles(tmp_path / "a.tif", **DEFLATE)
    entries = index_of(path)
    put_index(path, {1: (entries[0][0], entries[1][1] + entries[0][1])})
    assert "belong to two blocks" in refused(path)


def flipped_past_gdal(path: Path, box: GeoBox) -> None:
    """Flip a bit of the pixels that GDAL does not see but shows, as about one in ten."""
    body, whole = path.read_bytes(), plain(path, box, nodata=0.0)
    image = read_image(str(path))
    assert image is not None
    for n in range(200):
        at = image.offsets[0] + image.counts[0] // 2 + n
        patch(path, at, bytes([body[at] ^ 64]))
        try:
            if not np.array_equal(plain(path, box, nodata=0.0), whole):
                return
        except AssetReadError:
            pass
        patch(path, at, body[at : at + 1])
    raise AssertionError("GDAL sees every one")


@pytest.mark.parametrize("options", [DEFLATE, {**DEFLATE, "ENDIANNESS": "BIG"}, {**DEFLATE, "tiled": False}], ids=str)
@pytest.mark.parametrize("box", [BOX, TURNED], ids=["aligned", "warped"])
def test_deflates_checksum_holds_for_what_gdal_reads_too(tmp_path: Path, options: dict[str, Any], box: GeoBox) -> None:
    path = tiles(tmp_path / "a.tif", **options)
    asset = Asset(href=str(path), key="a", nodata=0.0)
    found = GeoTiffReader().read([asset], box, item_id="i", resampling="bilinear")[0]
    assert np.array_equal(found, RasterioReader().read([asset], box, item_id="i", resampling="bilinear")[0])
    flipped_past_gdal(path, box)
    with pytest.raises(AssetReadError, match=r"block 0 at byte \d+ does not decode"):
        GeoTiffReader().read([asset], box, item_id="i", resampling="bilinear")


def test_only_blocks_that_a_window_needs_are_looked_at(tmp_path: Path) -> None:
    """A bad block elsewhere in a file stops nobody who does not read it, warped or not."""
    path = tiles(tmp_path / "a.tif", **DEFLATE)
    patch(path, sum(index_of(path)[3]) - 40, b"\0" * 20)
    asset, corner = Asset(href=str(path), key="a", nodata=0.0), TURNED[:40, :40]
    for box in (BOX[:128], corner):
        GeoTiffReader().read([asset], box, item_id="i", resampling="bilinear")
    with pytest.raises(AssetReadError, match="block 3"):
        GeoTiffReader().read([asset], TURNED, item_id="i", resampling="bilinear")


READ_UNKNOWN_CODES = """
import os, sys
import numpy as np, rasterio
from odc.geo.geobox import GeoBox
from rasterio.transform import from_origin
from eocube.errors import AssetReadError
from eocube.io.geotiff import GeoTiffReader
from eocube.io.rasters import RasterioReader
from eocube.io.tiff import read_images
from eocube.model.scene import Asset
path, edge = sys.argv[1], 1024
place = dict(crs="EPSG:32632", transform=from_origin(5e5, 5e6, 10, 10), width=edge, height=edge, count=1, dtype="uint16")
with rasterio.open(path, "w", driver="GTiff", tiled=True, blockxsize=512, blockysize=512, compress="lzw", **place) as file:
    file.write(np.random.default_rng(0).integers(0, 3000, (1, edge, edge)).astype("u2"))
fd = os.open(path, os.O_RDWR)
for offset in read_images(fd)[0].offsets:
    os.pwrite(fd, bytes([os.pread(fd, 1, offset + 1)[0] ^ 0x40]), offset + 1)
with rasterio.open(path) as file:
    box = GeoBox(file.shape, file.transform, file.crs.to_wkt())
for reader in (RasterioReader(), GeoTiffReader()):  # GDAL leaves memory behind that is not zero
    for _ in range(5):
        try:
            print(reader.read([Asset(key="a", href=path)], box, item_id="i", resampling="nearest").sum(), flush=True)
        except AssetReadError:
            print("refused", flush=True)
"""


def read_anew(path: str, box: GeoBox) -> np.ndarray:
    """Read by a reader that has seen nothing."""
    return GeoTiffReader().read([Asset(href=path, key="a", nodata=0.0)], box, item_id="i", resampling="nearest")[0]


def test_an_unknown_code_at_the_start_of_lzw_does_not_end_the_process(tmp_path: Path) -> None:
    """A code behind the one that empties the table, and not in it: imagecodecs followed it into memory of others."""
    command = [sys.executable, "-c", READ_UNKNOWN_CODES, str(tmp_path / "a.tif")]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "refused\n" * 10), done.stderr


@pytest.mark.parametrize("bit", range(24))
def test_a_bit_of_the_first_codes_of_lzw_gives_what_gdal_makes_of_it(tmp_path: Path, bit: int) -> None:
    path = tiles(tmp_path / "a.tif", compress="lzw", predictor=2)
    offset, body = index_of(path)[0][0], path.read_bytes()
    patch(path, offset + bit // 8, bytes([body[offset + bit // 8] ^ 1 << bit % 8]))
    if gdal_takes_it(path):
        assert np.array_equal(read_anew(str(path), BOX), plain(path, BOX, nodata=0.0))
    else:
        with pytest.raises(AssetReadError):
            read_anew(str(path), BOX)


def test_nothing_is_decoded_to_look_for_blocks_of_lzw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes that no index lists may be anything."""
    pixels = np.random.default_rng(5).integers(0, 9**4, (256, 256), "uint16")
    pixels[:128, :128] = 0
    path = tiles(tmp_path / "a.tif", pixels, SPARSE_OK=True, compress="lzw")
    with rasterio.open(path, "r+") as file:
        file.update_tags(WHAT="more than fits " * 50)
    monkeypatch.delattr(imagecodecs, "lzw_decode")
    assert (0, 0) in index_of(path)
    assert np.array_equal(read_anew(str(path), BOX), pixels)


def test_a_pixel_size_that_is_a_little_wrong_shows_at_the_far_corner(tmp_path: Path) -> None:
    path = tiles(tmp_path / "a.tif", **DEFLATE)
    asset = Asset(href=str(path), key="a", nodata=0.0, geobox=BOX)
    for wrong, far in ((1e-9, False), (0.002, True)):
        patch(path, tag_of(path, "ModelPixelScaleTag").valueoffset, struct.pack("<d", 10 + wrong))
        if not far:
            GeoTiffReader().read([asset], BOX, item_id="i", resampling="nearest")
            continue
        with pytest.raises(AssetReadError, match="its metadata says grid"):
            GeoTiffReader().read([asset], BOX, item_id="i", resampling="nearest")


def test_a_file_without_a_crs_is_the_assets_fault(tmp_path: Path) -> None:
    path = tiles(tmp_path / "a.tif", crs=None)
    with pytest.raises(AssetReadError, match="has no CRS"):
        GeoTiffReader().read([Asset(href=str(path), key="a", nodata=0.0)], TURNED, item_id="i", resampling="nearest")


class Replacing:
    """GDAL, and somebody who puts another file in the place of the one that is being looked at."""

    def __init__(self, other: Path, during: str):
        self.other, self.during, self.gdal = other, during, RasterioReader()

    def _replace(self, href: str, name: str) -> None:
        if name == self.during:
            self.other.replace(href)

    def describe(self, href: str) -> RasterInfo:
        """See :class:`eocube.io.rasters.Reader`."""
        self._replace(href, "describe")
        return self.gdal.describe(href)

    def read(self, assets: Any, geobox: GeoBox, *, item_id: str, resampling: str) -> Any:
        """See :class:`eocube.io.rasters.Reader`."""
        self._replace(assets[0].href, "read")
        return self.gdal.read(assets, geobox, item_id=item_id, resampling=resampling)


@pytest.mark.parametrize(("during", "box"), [("describe", BOX), ("read", TURNED)])
def test_a_file_that_is_replaced_while_it_is_read_is_refused(tmp_path: Path, during: str, box: GeoBox) -> None:
    path, other = tiles(tmp_path / "a.tif"), tiles(tmp_path / "b.tif", positions("uint16", (256, 256)))
    with pytest.raises(AssetReadError, match="changed while it was read"):
        GeoTiffReader(Replacing(other, during)).read(
            [Asset(href=str(path), key="a", nodata=0.0)], box, item_id="i", resampling="cubic"
        )


def test_a_mask_that_is_none_any_more_is_found_though_only_gdal_looks_at_it(tmp_path: Path) -> None:
    """Without its mask a file has the same pixels and other warped ones."""
    pixels = positions("uint16", (256, 256))
    path = masked_cog(tmp_path / "a.tif", pixels)
    kind = tag_of(path, "NewSubfileType", page=1)
    for value in (0, 5):
        patch(path, kind.valueoffset, struct.pack("<I", value))
        assert gdal_takes_it(path)
        assert "does not hold images of the kinds" in refused(path)


def test_a_mask_whose_bytes_are_damaged_is_found_before_gdal_uses_it(tmp_path: Path) -> None:
    path = masked_cog(tmp_path / "a.tif", positions("uint16", (256, 256)))
    with tifffile.TiffFile(path) as tiff:
        mask = tiff.pages[1].aspage()
        at = mask.dataoffsets[3] + mask.databytecounts[3] // 2
    patch(path, at, bytes([path.read_bytes()[at] ^ 255]))
    with pytest.raises(AssetReadError, match="block 3 at byte"):
        GeoTiffReader().read([Asset(href=str(path), key="a")], TURNED, item_id="i", resampling="bilinear")


def test_the_frame_round_a_block_is_compared_with_it(tmp_path: Path) -> None:
    """Without a checksum the repeated last bytes and the repeated size are all there is."""
    pixels = positions("uint16", (256, 256))
    path = write(tmp_path / "a.tif", pixels, block=128, driver="COG", compress="none", nodata=0)
    assert np.array_equal(fast(path, BOX, nodata=0.0), pixels)
    offset, count = index_of(path)[1]
    for at in (offset - 4, offset + count - 1, offset + count):
        body = path.read_bytes()
        patch(path, at, bytes([body[at] ^ 1]))
        assert "block 1 at byte" in refused(path)
        path.write_bytes(body)


def test_a_block_that_decodes_to_fewer_bytes_than_its_size_says_is_damage(tmp_path: Path) -> None:
    path = cog(tmp_path / "a.tif", 100)
    patch(path, tag_of(path, "TileWidth").valueoffset, struct.pack("<H", 256))
    with pytest.raises(AssetReadError, match=r"decodes to \d+ bytes instead of \d+"):
        fast(path, BOX[:100, :100], nodata=0.0)


def test_directories_that_nothing_leads_to_any_more_leave_blocks_behind(tmp_path: Path) -> None:
    path = masked_cog(tmp_path / "a.tif", positions("uint16", (256, 256)))
    with tifffile.TiffFile(path) as tiff:
        first, n = tiff.pages[0].aspage().offset, len(tiff.pages[0].aspage().tags)
    patch(path, first + 2 + 12 * n, struct.pack("<I", 0))
    assert gdal_takes_it(path)
    assert "lie blocks that its index does not list" in refused(path)


def test_a_file_that_was_cut_off_is_refused_where_its_whole_blocks_are_read_too(tmp_path: Path) -> None:
    path = tiles(tmp_path / "a.tif", **DEFLATE)
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(AssetReadError, match="cut off"):
        fast(path, BOX[:128], nodata=0.0)


def test_numbers_that_fit_no_file_are_damage(tmp_path: Path) -> None:
    path = tiles(tmp_path / "a.tif", BIGTIFF="YES")
    for name in ("TileOffsets", "ImageWidth", "GeoKeyDirectoryTag"):
        tag, body = tag_of(path, name), path.read_bytes()
        at = tag.valueoffset if name == "TileOffsets" else tag.offset + 4
        patch(path, at, b"\xff" * 8)
        with pytest.raises(TiffDamageError):
            read_image(str(path))
        path.write_bytes(body)


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
        read_image(str(path))


def test_a_plain_block_of_the_wrong_size_is_damage(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", positions("uint16"))
    counts = tag_of(path, "TileByteCounts")
    patch(path, counts.valueoffset, struct.pack("<H" if counts.dtype == 3 else "<I", 100))
    with pytest.raises(TiffDamageError, match="has 100 bytes instead of 8192"):
        read_image(str(path))
