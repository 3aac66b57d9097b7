"""Chips from bytes: the pixels, grid and nodata of GDAL for every kind of file, and damage ends in a reason."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import rasterio
import tifffile
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st

from eocube.errors import AssetReadError
from eocube.io import chips
from eocube.io.chips import Chip, decode_chip, decode_plain
from eocube.io.tiff import TiffDamageError, read_images, read_structure

GRID = Affine(10, 0, 600_000, 0, -10, 5_000_000)
DEGREES = Affine(1e-4, 0, 20.5, 0, -9e-5, 40.25)


def positions(dtype: str, shape: tuple[int, int, int] = (3, 37, 53)) -> np.ndarray:
    """Numbers (band, y, x) that say where they are, over the whole range of the dtype."""
    values = np.arange(np.prod(shape)).reshape(shape) * 2_654_435_761
    return (values / 7).astype(dtype) if dtype.startswith("f") else values.astype(dtype)


def made(pixels: np.ndarray, **options: Any) -> bytes:
    """A GeoTIFF as GDAL writes it."""
    shape = {"count": len(pixels), "height": pixels.shape[1], "width": pixels.shape[2], "dtype": str(pixels.dtype)}
    given = {"crs": "EPSG:32633", "transform": GRID, **options}
    without = warnings.catch_warnings(action="ignore", category=rasterio.errors.NotGeoreferencedWarning)
    with without if given["transform"] is None else nullcontext(), rasterio.MemoryFile() as memory:
        with memory.open(driver="GTiff", **shape, **{k: v for k, v in given.items() if v is not None}) as file:
            file.write(pixels)
        return bytes(memory.read())


def fast(body: bytes) -> Chip | None:
    """Without GDAL, or not at all."""
    images, tags = read_structure(body)
    return chips._decode_fast(body, images[0], tags) if len(images) == 1 else None


def same(one: Chip, other: Chip) -> bool:
    """Whether two chips are equal in everything, NaN included."""
    nan = one.pixels.dtype.kind == "f"
    return (
        one.dtype == other.dtype
        and np.array_equal(one.pixels, other.pixels, equal_nan=nan)
        and (one.transform, one.crs) == (other.transform, other.crs)
        and (one.nodata == other.nodata or (one.nodata != one.nodata and other.nodata != other.nodata))
    )


CODINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "lzw": {"compress": "lzw"},
    "lzw-2": {"compress": "lzw", "predictor": 2},
    "deflate": {"compress": "deflate"},
    "deflate-2": {"compress": "deflate", "predictor": 2},
    "zstd-2": {"compress": "zstd", "predictor": 2},
}
FORMS: dict[str, dict[str, Any]] = {
    "strips": {},
    "one-strip": {"blockysize": 37},
    "strips-of-5": {"blockysize": 5},
    "tiles": {"tiled": True, "blockxsize": 16, "blockysize": 32},
    "one-tile": {"tiled": True, "blockxsize": 64, "blockysize": 64},
}


@pytest.mark.parametrize("interleave", ["pixel", "band"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("coding", CODINGS)
def test_every_plain_file_is_decoded_without_gdal_and_gives_gdals_chip(coding: str, form: str, interleave: str) -> None:
    for dtype in ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"):
        if dtype.startswith("f") and CODINGS[coding].get("predictor"):
            continue
        pixels = positions(dtype)
        body = made(pixels, interleave=interleave, **CODINGS[coding], **FORMS[form])
        found = fast(body)
        assert found is not None
        assert (found.transform, found.crs, found.nodata, found.dtype) == (GRID, "EPSG:32633", None, dtype)
        assert np.array_equal(found.pixels, pixels)
        assert found.pixels.flags.c_contiguous
        assert found.pixels.flags.writeable
        assert same(decode_plain(body, "x"), found)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 37, 53), (12, 158, 158), (13, 5, 1), (4, 1, 200)])
def test_any_size_and_number_of_bands(shape: tuple[int, int, int]) -> None:
    for dtype, options in (("float32", {}), ("int16", {"compress": "lzw", "predictor": 2})):
        body = made(positions(dtype, shape), **options)
        found = fast(body)
        assert found is not None
        assert np.array_equal(found.pixels, positions(dtype, shape))
        assert same(decode_plain(body, "x"), found)


GRIDS: dict[str, dict[str, Any]] = {
    "utm-south": {"crs": "EPSG:32760"},
    "degrees": {"crs": "EPSG:4326", "transform": DEGREES},
    "no-transform": {"crs": "EPSG:4326", "transform": None},
    "no-crs": {"crs": None},
    "nothing": {"crs": None, "transform": None},
    "odd-scale": {"transform": Affine(1 / 3, 0, -0.1, 0, -1 / 7, 1e7)},
    "geotiff-1.1": {"GEOTIFF_VERSION": "1.1"},
}


@pytest.mark.parametrize("case", GRIDS)
def test_usual_grids_and_none_are_read_without_gdal(case: str) -> None:
    body = made(positions("uint16"), **GRIDS[case])
    found = fast(body)
    assert found is not None
    wanted = {"crs": "EPSG:32633", "transform": GRID, **GRIDS[case]}
    assert (found.crs, found.transform) == (wanted["crs"], wanted["transform"])
    assert same(decode_plain(body, "x"), found)


OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "jpeg": ("uint8", {"compress": "jpeg"}),
    "packbits": ("uint8", {"compress": "packbits"}),
    "lerc": ("float32", {"compress": "lerc"}),
    "floats-3": ("float32", {"compress": "deflate", "predictor": 3}),
    "floats-3-lzw": ("float32", {"compress": "lzw", "predictor": 3}),
    "int64-2": ("int64", {"compress": "deflate", "predictor": 2}),
    "complex": ("complex64", {}),
    "big-endian": ("uint16", {"ENDIANNESS": "BIG", "compress": "lzw", "predictor": 2}),
    "sparse": ("uint16", {"SPARSE_OK": True, "compress": "deflate", "nodata": 3}),
    "turned": ("uint16", {"transform": Affine(7, 7, 600_000, 7, -7, 5_000_000)}),
    "south-up": ("uint16", {"transform": Affine(10, 0, 600_000, 0, 10, 5_000_000)}),
    "lambert": ("uint16", {"crs": "EPSG:3035"}),
    "another-ellipsoid": ("uint16", {"crs": "+proj=utm +zone=33 +ellps=bessel +units=m"}),
    "own-crs": ("uint16", {"crs": "+proj=tmerc +lon_0=15.5 +k=0.9999 +datum=WGS84 +units=m"}),
    "feet": ("uint16", {"crs": "+proj=utm +zone=33 +datum=WGS84 +units=us-ft"}),
    "min-is-white": ("uint8", {"photometric": "MINISWHITE"}),
    "nodata-out-of-range": ("uint8", {"nodata": 255, "BIGTIFF": "YES"}),
}


@pytest.mark.parametrize("case", OTHERS)
def test_every_other_file_gives_gdals_chip(case: str) -> None:
    dtype, options = OTHERS[case]
    pixels = positions("uint16").astype(dtype) if dtype == "complex64" else positions(dtype)
    if case == "sparse":
        pixels[:, :9] = 3
    body = made(pixels, **options)
    found = decode_chip(body, "x")
    assert same(found, decode_plain(body, "x"))
    with rasterio.MemoryFile(body) as memory, memory.open() as src:
        assert np.array_equal(found.pixels, src.read())
        assert (found.transform, found.crs, found.nodata) == (src.transform, src.crs.to_string(), src.nodata)
    if case not in ("jpeg", "lerc"):
        assert np.array_equal(found.pixels, pixels)


@pytest.mark.parametrize(
    "tag", ["0", "7", "-1", "7.5", "-9999", "70000", "nan", "-0.6", "1e300", "16777217", "none", " 5", "5 ", ""]
)
@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "int32", "float32", "float64"])
def test_any_nodata_tag_means_what_it_means_to_gdal(tmp_path: Path, dtype: str, tag: str) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(made(positions(dtype), nodata=11))
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages[0].aspage().tags[42113].overwrite(tag)
    body = path.read_bytes()
    assert same(decode_chip(body, "x"), decode_plain(body, "x"))


def test_pixels_that_are_points_are_put_where_gdal_puts_them() -> None:
    with rasterio.MemoryFile() as memory:
        with memory.open(driver="GTiff", count=1, height=2, width=3, dtype="uint8", crs="EPSG:32633", transform=GRID) as file:
            file.write(positions("uint8", (1, 2, 3)))
            file.update_tags(AREA_OR_POINT="Point")
        body = bytes(memory.read())
    tags, of_areas = (read_structure(one)[1] for one in (body, made(positions("uint8", (1, 2, 3)))))
    assert tags[33922] != of_areas[33922]
    assert fast(body) is None
    assert decode_chip(body, "x").transform == GRID


def test_usual_nodata_needs_no_gdal() -> None:
    for dtype, value in (("uint8", 0.0), ("int16", -32768.0), ("uint16", 65535.0), ("float32", -9999.0), ("float32", np.nan)):
        found = fast(made(positions(dtype), nodata=value))
        assert found is not None
        assert np.array_equal(found.nodata, value, equal_nan=True)  # type: ignore[arg-type]


def test_tiffs_of_another_writer_give_gdals_chip(tmp_path: Path) -> None:
    for options in (
        {},
        {"tile": (32, 32)},
        {"compression": "lzw"},
        {"compression": "lzw", "predictor": True},
        {"compression": "zlib"},
    ):
        for planar in ("contig", "separate"):
            pixels = positions("uint16") if planar == "separate" else positions("uint16").transpose(1, 2, 0)
            tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", planarconfig=planar, metadata=None, **options)
            body = (tmp_path / "a.tif").read_bytes()
            found = decode_chip(body, "x")
            assert fast(body) is not None
            assert np.array_equal(found.pixels, positions("uint16"))
            assert same(decode_plain(body, "x"), found)


def test_a_second_image_is_left_alone(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(positions("uint16")[0], metadata=None)
        tiff.write(positions("uint16")[1], metadata=None)
    body = (tmp_path / "a.tif").read_bytes()
    assert fast(body) is None
    assert np.array_equal(decode_chip(body, "x").pixels, positions("uint16")[:1])


def test_the_real_chip_gives_gdals_chip(test_data: Path) -> None:
    (path,) = test_data.glob("rapidai4eo/imagery/33N/15E-200N/33N_15E-200N_01_09/PF-SR/*.tif")
    body = path.read_bytes()
    found = fast(body)
    assert found is not None
    assert (found.pixels.shape, found.dtype, found.crs, found.nodata) == ((4, 200, 200), "int16", "EPSG:32633", None)
    assert found.transform == Affine(3, 0, 364_800, 0, -3, 4_824_000)
    assert same(decode_plain(body, "x"), found)
    with rasterio.open(path) as src:
        assert np.array_equal(src.read(), found.pixels)


# ---------------------------------------------------------------------------------------------------------- LZW


@settings(max_examples=80, deadline=None)
@given(data=st.binary(min_size=1, max_size=600), times=st.sampled_from([1, 2, 40]))
def test_lzw_of_any_bytes_is_undone(data: bytes, times: int) -> None:
    assert unlzw(bytes(imagecodecs.lzw_encode(data * times)), len(data) * times) == (data * times, 0)


@pytest.mark.parametrize("n", [1, 2, 3, 255, 4096, 100_000, 3_000_000])
def test_lzw_of_one_byte_over_and_over_and_of_noise_is_undone(n: int) -> None:
    for data in (b"a" * n, np.random.default_rng(n).integers(0, 256, n, "u1").tobytes()):
        assert unlzw(bytes(imagecodecs.lzw_encode(data)), n) == (data, 0)


def unlzw(coded: bytes, n: int) -> tuple[bytes, int]:
    """What a block of ``n`` bytes decodes to, and what was wrong with it."""
    space = np.full(256 + n + 4, 0xEE, "u1")
    found, consumed, status = chips._lzw(np.frombuffer(coded, "u1"), space)
    assert 0 <= found <= n
    assert consumed <= len(coded)
    return space[256 : 256 + found].tobytes(), status


def codes(*numbers: int, bits: int = 9) -> bytes:
    """Codes of one width, as bytes."""
    text = "".join(f"{n:0{bits}b}" for n in numbers)
    return int(text.ljust(-(-len(text) // 8) * 8, "0"), 2).to_bytes(-(-len(text) // 8), "big")


@pytest.mark.parametrize(
    ("coded", "status"),
    [
        (codes(256, 65, 258, 258, 257), 0),
        (codes(256, 65, 66), 1),
        (b"", 1),
        (codes(256, 65, 66, 67, 68, 69, 70, 257), 2),
        (codes(65, 66, 257), 3),
        (codes(257), 3),
        (codes(256, 258, 257), 4),
        (codes(256, 65, 259, 257), 4),
        (codes(256, 65, 66, 256, 258, 257), 4),
    ],
)
def test_every_break_of_lzws_rules_is_told_apart(coded: bytes, status: int) -> None:
    assert unlzw(coded, 5)[1] == status
    assert unlzw(codes(256, 65, 258, 258, 257), 5) == (b"AAAAA", 0)


def test_lzw_whose_table_runs_over_is_refused() -> None:
    bits, width, free = "", 9, 258
    for i in range(5000):
        if i == 0:
            bits += f"{256:09b}"
        bits += f"{i % 256:0{width}b}"
        free += i > 0
        width = 10 if free == 511 else 11 if free == 1023 else 12 if free == 2047 else width
    coded = int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")
    assert unlzw(coded, 9000)[1] == 5


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=400))
def test_lzw_of_anything_stays_inside_its_space(coded: bytes) -> None:
    for start in (b"", codes(256)):
        assert unlzw(start + coded, 50)[1] in range(6)


# ---------------------------------------------------------------------------------------------------------- damage


def reason(body: bytes, decode: Callable[[bytes, str], Chip] = decode_chip) -> str:
    """Why bytes are refused."""
    with pytest.raises(AssetReadError) as caught:
        decode(body, "zip://a.tif::x.zip")
    assert (caught.value.href, caught.value.item_id, caught.value.asset) == ("zip://a.tif::x.zip", "", "")
    return caught.value.reason


@pytest.mark.parametrize("decode", [decode_chip, decode_plain])
def test_what_is_no_tiff_is_refused_also_where_gdal_knows_the_format(tmp_path: Path, decode: Any) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(made(positions("uint8")))
    vrt = '<VRTDataset rasterXSize="3" rasterYSize="3"><GeoTransform>0,2,0,0,0,-2</GeoTransform><VRTRasterBand dataType="Byte" '
    vrt += f'band="1"><SimpleSource><SourceFilename>{path}</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>'
    with rasterio.MemoryFile(vrt.encode()) as memory, memory.open() as src:
        assert src.read(1)[0, 1] == positions("uint8")[0, 0, 1]
    assert "it is no TIFF" in reason(vrt.encode(), decode)
    assert "it is empty" in reason(b"", decode)
    assert "begin with b'II" in reason(b"II*\0\0", decode)


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("form", ["strips", "one-tile"])
def test_a_file_that_is_cut_off_anywhere_is_refused(coding: str, form: str) -> None:
    body = made(positions("uint16"), **CODINGS[coding], **FORMS[form])
    for n in (*range(0, 300, 7), len(body) // 2, len(body) - 1):
        reason(body[:n])
        reason(body[:n], decode_plain)


def test_blocks_that_are_too_short_too_long_or_damaged_are_refused() -> None:
    for coding, at, says in (("deflate", 20, "does not decode"), ("zstd-2", 6, "does not decode")):
        body = bytearray(made(positions("uint16"), **CODINGS[coding], **FORMS["one-strip"]))
        image = read_images(bytes(body))[0]
        body[image.offsets[0] + at] ^= 0x41
        assert says in reason(bytes(body))
        assert coding != "deflate" or says in reason(bytes(body), decode_plain)
    floats = bytearray(made(positions("float32"), **OTHERS["floats-3"][1], **FORMS["one-strip"]))
    image = read_images(bytes(floats))[0]
    floats[image.offsets[0] + image.counts[0] - 1] ^= 1
    assert "does not decode" in reason(bytes(floats))
    lzw = made(positions("uint16"), **CODINGS["lzw"], **FORMS["one-strip"])
    image = read_images(lzw)[0]
    with pytest.raises(TiffDamageError, match="and 9 are left"):
        chips._unpack_lzw(lzw[image.offsets[0] : image.offsets[0] + image.counts[0]] + b"123456789", image, 0)
    with pytest.raises(TiffDamageError, match="does not begin with an empty table"):
        chips._unpack_lzw(b"\0" * 999, image, 0)
    with pytest.raises(TiffDamageError, match="ends before its end mark"):
        chips._unpack_lzw(lzw[image.offsets[0] : image.offsets[0] + image.counts[0] // 2], image, 0)


def test_an_uncompressed_block_of_another_length_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(made(positions("uint16")))
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tag = tiff.pages[0].aspage().tags[279]
        tag.overwrite([tag.value[0] - 2, *tag.value[1:]])
    assert "is not compressed and has" in reason(path.read_bytes())


def test_a_header_that_claims_too_much_is_refused_before_memory_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = made(positions("uint16"), SPARSE_OK=True)
    monkeypatch.setattr(chips, "MOST_PIXEL_BYTES", 1000)
    for decode in (decode_chip, decode_plain):
        assert "may have 1000" in reason(body, decode)


def test_without_imagecodecs_gdal_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    body = made(positions("uint16"), **CODINGS["deflate-2"])
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    monkeypatch.setattr(chips, "find_spec", lambda _: None)
    assert fast(body) is None
    assert np.array_equal(decode_chip(body, "x").pixels, positions("uint16"))


SMALL = positions("uint16", (2, 9, 11))
SEEDS = [
    made(SMALL, **options)
    for options in (
        {},
        CODINGS["lzw-2"],
        {**CODINGS["deflate"], "nodata": 0},
        {**CODINGS["lzw"], "interleave": "band", "crs": "EPSG:4326", "transform": DEGREES},
        {"tiled": True, "blockxsize": 16, "blockysize": 16, **CODINGS["zstd-2"]},
    )
]


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_damage_ends_in_a_reason_or_in_the_chip_that_gdal_gives(data: st.DataObject) -> None:
    body = bytearray(data.draw(st.sampled_from(SEEDS)))
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    changed = bytes(body)
    try:
        found = fast(changed)
    except TiffDamageError:
        return
    if found is not None:
        assert same(decode_plain(changed, "x"), found)


FLIPPING = """
import sys, random
from eocube.errors import AssetReadError
from eocube.io.chips import decode_chip
seeds = [bytes.fromhex(line) for line in sys.stdin.read().split()]
dice, good = random.Random(5), 0
for i in range(1500):
    body = bytearray(seeds[i % len(seeds)])
    for _ in range(dice.randint(1, 3)):
        body[dice.randrange(len(body))] = dice.randrange(256)
    if i % 5 == 0:
        del body[dice.randrange(len(body)):]
    try:
        decode_chip(bytes(body), "x")
        good += 1
    except AssetReadError:
        pass
print(good)
"""


def test_flipped_and_cut_files_end_no_process() -> None:
    seeds = "\n".join(seed.hex() for seed in SEEDS)
    done = subprocess.run([sys.executable, "-c", FLIPPING], input=seeds, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert 0 < int(done.stdout) < 1500
