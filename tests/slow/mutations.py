"""GeoTIFFs as catalogues hold them, and what may happen to their bytes: seeded, each with a name and a kind.

tifffile says where the tags are, so that the code under test does not choose what is damaged.
"""

from __future__ import annotations

import io
import itertools
import random
import struct
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import imagecodecs
import numpy as np
import rasterio
import rasterio.shutil
import tifffile
from affine import Affine
from odc.geo.geobox import GeoBox

from eocube.model.scene import Asset

EDGE, BLOCK = 256, 128
TRANSFORM = Affine(10, 0, 600_000, 0, -10, 5_000_000)
GRID = GeoBox((EDGE, EDGE), TRANSFORM, "EPSG:32635")
OTHER_GRID = GeoBox((100, 100), Affine(23, 0, 600_104, 0, -23, 4_999_893), "EPSG:32635")
"""Lies inside ``GRID`` and on no pixel edge of it: GDAL warps."""

CHECKED = ("deflate",)
"""Codings with a checksum."""

MEMBER = "cogs/S2_L2A_romania_20191019/B08_10m.tif"

# ------------------------------------------------------------------------------------------------ base files


@dataclass(frozen=True, kw_only=True)
class Base:
    """A whole file, and what its item says of it."""

    name: str
    path: Path
    coding: str
    assets: tuple[Asset, ...]

    @cached_property
    def body(self) -> bytes:
        """Its bytes."""
        return self.path.read_bytes()

    @cached_property
    def pages(self) -> list[Page]:
        """Its directories."""
        with tifffile.TiffFile(self.path) as tiff:
            order = tiff.byteorder
            found = [page.aspage() for page in tiff.pages]
            return [Page(order, tiff.tiff.is_bigtiff, p.offset, _tags(p), p.dataoffsets, p.databytecounts) for p in found]

    @property
    def framed(self) -> bool:
        """Whether GDAL's COG driver wrote it."""
        return b"BLOCK_LEADER" in self.body[:300]

    @property
    def has_overviews(self) -> bool:
        """Whether another image repeats how this one is coded."""
        return sum(page.tags.get(254) is not None and self.value(page.tags[254]) == 1 for page in self.pages) > 0

    @cached_property
    def pixel_bytes(self) -> np.ndarray:
        """Which bytes belong to blocks of the full-resolution image."""
        inside = np.zeros(len(self.body), bool)
        for offset, count in zip(self.pages[0].offsets, self.pages[0].counts, strict=True):
            inside[offset : offset + count] = True
        return inside

    @cached_property
    def repeated_bytes(self) -> np.ndarray:
        """Which bytes end a block of the full-resolution image and stand once more behind it."""
        inside = np.zeros(len(self.body), bool)
        for offset, count in zip(self.pages[0].offsets, self.pages[0].counts, strict=True):
            inside[max(offset, offset + count - 4) : offset + count] = self.framed
        return inside

    @cached_property
    def structure_bytes(self) -> np.ndarray:
        """Which bytes belong to header, directories and values of tags."""
        inside = np.zeros(len(self.body), bool)
        inside[:16] = True
        for page in self.pages:
            inside[page.at : page.at + page.head + page.step * len(page.tags) + page.slot] = True
            for tag in page.tags.values():
                inside[tag.value_at : tag.value_at + tag.n_bytes] = True
        return inside

    def value(self, tag: Tag) -> int:
        """First value of a tag with a whole number."""
        return int.from_bytes(self.body[tag.value_at : tag.value_at + tag.n_bytes // tag.n], "little")


class Tag(NamedTuple):
    """An entry of a directory."""

    code: int
    kind: int
    n: int
    at: int
    value_at: int
    n_bytes: int


class Page(NamedTuple):
    """A directory."""

    order: str
    big: bool
    at: int
    tags: dict[int, Tag]
    offsets: Sequence[int]
    counts: Sequence[int]

    @property
    def head(self) -> int:
        """Bytes of the number of entries."""
        return 8 if self.big else 2

    @property
    def step(self) -> int:
        """Bytes of an entry."""
        return 20 if self.big else 12

    @property
    def slot(self) -> int:
        """Bytes of an offset."""
        return 8 if self.big else 4


def _tags(page: Any) -> dict[int, Tag]:
    return {t.code: Tag(t.code, int(t.dtype), t.count, t.offset, t.valueoffset, t.valuebytecount) for t in page.tags}


def texture() -> np.ndarray:
    """A band of the sample that ships, mirrored to the size of the base files."""
    archive = resources.files("eocube") / "corpora" / "data" / "sentinel2_romania.zip"
    with archive.open("rb") as stream, zipfile.ZipFile(stream) as members:
        (name,) = (n for n in members.namelist() if n.endswith(MEMBER))
        with rasterio.MemoryFile(members.read(name)) as memory, memory.open() as file:
            return np.pad(file.read(1), (0, EDGE - file.height), mode="symmetric")


def write(path: Path, pixels: np.ndarray, *, driver: str = "GTiff", tiled: bool = True, **options: Any) -> Path:
    """A file of ``pixels`` (y, x) or (band, y, x)."""
    bands = pixels if pixels.ndim == 3 else pixels[None]
    blocks = {"blocksize": BLOCK} if driver == "COG" else {"tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK}
    shape = {"count": len(bands), "height": EDGE, "width": EDGE, "dtype": str(bands.dtype)}
    given = {"crs": "EPSG:32635", "transform": TRANSFORM, **(blocks if tiled else {}), **options}
    with rasterio.open(path, "w", driver=driver, **shape, **given) as file:
        file.write(bands)
    return path


def write_masked(path: Path, pixels: np.ndarray, **options: Any) -> Path:
    """A COG with a mask inside."""
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.MemoryFile() as memory:
        shape = {"driver": "GTiff", "height": EDGE, "width": EDGE, "count": 1, "dtype": str(pixels.dtype)}
        with memory.open(crs="EPSG:32635", transform=TRANSFORM, **shape) as file:
            file.write(pixels, 1)
            file.write_mask(pixels > np.median(pixels))
        with memory.open() as source:
            rasterio.shutil.copy(source, path, driver="COG", blocksize=BLOCK, **options)
    return path


def write_tifffile(path: Path, pixels: np.ndarray, template: Path) -> Path:
    """The same grid, by tifffile."""
    geo = (33550, 34264, 33922, 34735, 34736, 34737, 42113)
    with tifffile.TiffFile(template) as tiff:
        tags = tiff.pages[0].aspage().tags
        extra = [(t.code, int(t.dtype), t.count, t.value, True) for t in tags if t.code in geo]
    tifffile.imwrite(path, pixels, tile=(BLOCK, BLOCK), compression="deflate", predictor=True, extratags=extra, metadata=None)
    return path


def make_bases(folder: Path) -> list[Base]:
    """One file of each kind that catalogues hold, and of those that GDAL reads for us."""
    dn = texture()
    bands = np.stack([dn, dn[::-1], dn.T])
    holes = dn.copy()
    holes[:BLOCK, BLOCK:] = 0
    scl = (dn % 12).astype("u1")
    deflate: dict[str, Any] = {"compress": "deflate", "predictor": 2}
    cog: dict[str, Any] = {"driver": "COG", "compress": "deflate", "predictor": "yes"}
    made: list[tuple[str, str, Path, float | None]] = []

    def add(name: str, coding: str, pixels: np.ndarray, how: Callable[..., Path] = write, **options: Any) -> Path:
        nodata = options.get("nodata")
        made.append((name, coding, how(folder / f"{name}.tif", pixels, **options), nodata))
        return made[-1][2]

    add("cog", "deflate", dn, nodata=0, **cog)
    add("cog masked", "deflate", dn, write_masked, compress="deflate", predictor="yes")
    add("cog sparse", "deflate", holes, nodata=0, sparse_ok=True, **cog)
    add("cog one block", "deflate", dn, nodata=0, **{**cog, "blocksize": EDGE})
    add("cog zstd", "zstd", dn, nodata=0, **{**cog, "compress": "zstd"})
    tiled = add("tiles", "deflate", dn, nodata=0, **deflate)
    add("tiles sparse", "deflate", holes, nodata=0, SPARSE_OK=True, **deflate)
    add("tiles bigtiff", "deflate", dn, nodata=0, BIGTIFF="YES", **deflate)
    add("tiles scl", "deflate", scl, nodata=0, compress="deflate")
    add("tiles int16", "deflate", dn.astype("i2") - 3000, nodata=-9999, **deflate)
    add("tiles float32", "deflate", dn.astype("f4") / 7, nodata=-9999, compress="deflate", predictor=3)
    add("tiles float32 plain", "deflate", dn.astype("f4") / 7, nodata=-9999, compress="deflate")
    add("tiles tifffile", "deflate", dn, write_tifffile, template=tiled)
    add("bands", "deflate", bands, nodata=0, interleave="pixel", **deflate)
    add("strips", "deflate", dn, tiled=False, nodata=0, **deflate)
    add("strips big-endian", "deflate", dn, tiled=False, nodata=0, ENDIANNESS="BIG", **deflate)
    add("tiles lzw", "lzw", dn, nodata=0, compress="lzw", predictor=2)
    add("tiles lzw sparse", "lzw", holes, nodata=0, SPARSE_OK=True, compress="lzw")
    add("tiles zstd", "zstd", dn, nodata=0, compress="zstd", predictor=2)
    add("tiles uncompressed", "none", dn, nodata=0)
    return [Base(name=name, path=path, coding=coding, assets=_assets(path)) for name, coding, path, _ in made]


def _assets(path: Path) -> tuple[Asset, ...]:
    """As an item with proj: and raster: fields states them."""
    with rasterio.open(path) as file:
        known = {"geobox": GRID, "dtype": file.dtypes[0], "nodata": file.nodata}
        return tuple(Asset(href=str(path), key=f"b{i}", bidx=i, **known) for i in file.indexes)


# ------------------------------------------------------------------------------------------------ mutations


class Mutation(NamedTuple):
    """A damaged file."""

    base: Base
    kind: str
    what: str
    body: bytes


Mutator = Callable[[Base, random.Random, Sequence[Base]], Iterator[tuple[str, bytes]]]


def patched(body: bytes, at: int, new: bytes) -> bytes:
    """``new`` over the bytes at a place, never beyond the end."""
    new = new[: max(0, len(body) - at)]
    return body[:at] + new + body[at + len(new) :]


def flipped(body: bytes, at: int, bit: int) -> bytes:
    """One bit turned round."""
    return patched(body, at, bytes([body[at] ^ (1 << bit)]))


def places(inside: np.ndarray, rng: random.Random, n: int) -> list[int]:
    """Bytes drawn from a part of the file."""
    found = np.flatnonzero(inside)
    return [int(found[rng.randrange(len(found))]) for _ in range(n)]


def bits_anywhere(base: Base, rng: random.Random, _: Sequence[Base]) -> Iterator[tuple[str, bytes]]:
    """One bit of the whole file."""
    for at in (rng.randrange(len(base.body)) for _ in range(8)):
        yield f"bit at {at}", flipped(base.body, at, rng.randrange(8))


def bits_of_structure(base: Base, rng: random.Random, _: Sequence[Base]) -> Iterator[tuple[str, bytes]]:
    """One bit of header, directories and values."""
    for at in places(base.structure_bytes, rng, 24):
        yield f"bit at {at}", flipped(base.body, at, rng.randrange(8))


def bytes_of_structure(base: Base, rng: random.Random, _: Sequence[Base]) -> Iterator[tuple[str, bytes]]:
    """One byte, or sixteen in a row, made anew."""
    for at in places(base.structure_bytes, rng, 8):
        yield f"byte at {at}", patched(base.body, at, bytes([rng.randrange(256)]))
    for at in places(base.structure_bytes, rng, 8):
        yield f"16 bytes at {at}", patched(base.body, at, rng.randbytes(16))


def bits_of_pixels(base: Base, rng: random.Random, _: Sequence[Base]) -> Iterator[tuple[str, bytes]]:
    """One bit of a block: GDAL reads past one in ten."""
    for at in places(base.pixel_bytes, rng, 12):
        yield f"bit at {at}", flipped(base.body, at, rng.randrange(8))


def bits_of_first_codes(base: Base, rng: random.Random, _: Sequence[Base]) -> Iterator[tuple[str, bytes]]:
    """The first three bytes of each block, where decoders set up their tables: of LZW every bit."""
    for i, offset in enumerate(base.pages[0].offsets):
        if base.pages[0].counts[i]:
            for bit in range(24) if base.coding == "lzw" else rng.sample(range(24), 3):
                yield f"block {i}, bit {bit}", flipped(base.body, offset + bit // 8, bit % 8)


def bits_of_last_codes(base: Base, rng: random.Random, _: Sequence[Base]) -> Iterator[tuple[str, bytes]]:
    """The last four bytes of each block, which a COG repeats behind it."""
    for i, (offset, count) in enumerate(zip(base.pages[0].offsets, base.pages[0].counts, strict=True)):
        if base.framed and count:
            for bit in rng.sample(range(32), 8):
                yield f"block {i}, bit {bit} from the end", flipped(base.body, offset + count - 1 - bit // 8, bit % 8)


def last_bytes(base: Base, rng: random.Random, _: Sequence[Base]) -> Iterator[tuple[str, bytes]]:
    """The end of the file, or something behind it."""
    for n in (1, 4, 9):
        yield f"last {n} bytes", patched(base.body, len(base.body) - n, rng.randbytes(n))
    yield "3 bytes behind", base.body + b"abc"


def tag_values(base: Base, rng: random.Random, _: Sequence[Base]) -> Iterator[tuple[str, bytes]]:
    """Every tag's first value: nothing, huge, negative, swapped, one more, twice, half, one bit."""
    for n, page in enumerate(base.pages):
        for tag in page.tags.values():
            size = max(1, tag.n_bytes // max(1, tag.n))
            old = base.body[tag.value_at : tag.value_at + size]
            number = int.from_bytes(old, "little" if page.order == "<" else "big")
            news = [b"\0" * size, b"\x7f" * size, b"\xff" * size, old[::-1]]
            numbers = (number + 1, number * 2, number // 2, number ^ (1 << rng.randrange(8 * size)), 1)
            news += [(v % (1 << (8 * size))).to_bytes(size, "little" if page.order == "<" else "big") for v in numbers]
            for new in rng.sample(news, 2):
                yield f"tag {tag.code} of directory {n}: {old!r} is {new!r}", patched(base.body, tag.value_at, new)


def tag_heads(base: Base, rng: random.Random, _: Sequence[Base]) -> Iterator[tuple[str, bytes]]:
    """Every tag's code, type and count, and the whole entry."""
    for n, page in enumerate(base.pages):
        for tag in page.tags.values():
            where = f"tag {tag.code} of directory {n}"
            yield f"{where}: gone", patched(base.body, tag.at, b"\0" * page.step)
            code, kind = struct.pack(f"{page.order}H", tag.code ^ (1 << rng.randrange(16))), rng.randrange(19)
            yield f"{where}: code {code!r}", patched(base.body, tag.at, code)
            yield f"{where}: type {kind}", patched(base.body, tag.at + 2, struct.pack(f"{page.order}H", kind))
            count = rng.choice((0, tag.n + 1, tag.n * 256, 0x7FFFFFFF))
            form = f"{page.order}{'Q' if page.big else 'I'}"
            yield f"{where}: count {count}", patched(base.body, tag.at + 4, struct.pack(form, count))


def predictors(base: Base, _: random.Random, __: Sequence[Base]) -> Iterator[tuple[str, bytes]]:
    """The predictor of the image, to each value that there is, and its entry made a tag of equal form."""
    tag, page = base.pages[0].tags.get(317), base.pages[0]
    if tag is None:
        return
    for value in (1, 2, 3):
        yield f"predictor {value}", patched(base.body, tag.value_at, struct.pack(f"{page.order}H", value))
    for bit in range(16):
        yield f"predictor's code, bit {bit}", patched(base.body, tag.at, struct.pack(f"{page.order}H", 317 ^ (1 << bit)))


def links(base: Base, rng: random.Random, _: Sequence[Base]) -> Iterator[tuple[str, bytes]]:
    """Where the first and the next directory are."""
    for n, page in enumerate(base.pages):
        at = page.at + page.head + page.step * len(page.tags)
        for target in (0, base.pages[0].at, rng.randrange(len(base.body)), page.at + page.step):
            form = f"{page.order}{'Q' if page.big else 'I'}"
            yield f"behind directory {n}: {target}", patched(base.body, at, struct.pack(form, target))
            yield f"first directory: {target}", patched(base.body, 8 if page.big else 4, struct.pack(form, target))


def index_entries(base: Base, rng: random.Random, _: Sequence[Base]) -> Iterator[tuple[str, bytes]]:
    """Where blocks are and how long: lost, copied, swapped, shifted."""
    page = base.pages[0]
    tiled = 324 in page.tags
    tags = [page.tags[c] for c in ((324, 325) if tiled else (273, 279))]
    old = list(zip(page.offsets, page.counts, strict=True))

    def written(new: Sequence[tuple[int, int]]) -> bytes:
        body = base.body
        for tag, values in zip(tags, zip(*new, strict=True), strict=True):
            form = {3: "H", 4: "I", 16: "Q"}[tag.kind]
            body = patched(body, tag.value_at, struct.pack(f"{page.order}{len(old)}{form}", *values))
        return body

    yield "all lost", written([(0, 0)] * len(old))
    pairs = [(i, j) for i in range(len(old)) for j in range(len(old)) if i != j]
    for i in rng.sample(range(len(old)), min(4, len(old))):
        (o, c), rest = old[i], lambda new, i=i: written([*old[:i], new, *old[i + 1 :]])
        yield f"offset {i} lost", rest((0, c))
        yield f"count {i} lost", rest((o, 0))
        yield f"block {i} lost", rest((0, 0))
        yield f"offset {i} + 1", rest((o + 1, c))
        yield f"count {i} - 1", rest((o, max(0, c - 1)))
        yield f"count {i} + 1", rest((o, min(c + 1, 65535)))
    for i, j in rng.sample(pairs, min(4, len(pairs))):
        yield f"offset {i} of {j}", written([*old[:i], (old[j][0], old[i][1]), *old[i + 1 :]])
        yield f"count {i} of {j}", written([*old[:i], (old[i][0], old[j][1]), *old[i + 1 :]])
        yield f"block {i} of {j}", written([*old[:i], old[j], *old[i + 1 :]])
        swapped = list(old)
        swapped[i], swapped[j] = old[j], old[i]
        yield f"blocks {i} and {j} swapped", written(swapped)
        swapped[i], swapped[j] = (old[j][0], old[i][1]), (old[i][0], old[j][1])
        yield f"offsets {i} and {j} swapped", written(swapped)


def zeros(base: Base, rng: random.Random, _: Sequence[Base]) -> Iterator[tuple[str, bytes]]:
    """Lost blocks of a disk, and runs of zeros anywhere."""
    size = len(base.body)
    for length, n in ((512, 8), (4096, 4)):
        for at in {rng.randrange(size) // length * length for _ in range(n)} | {0}:
            yield f"{length} zeros at {at}", patched(base.body, at, b"\0" * length)
    for length in (8, 100, 512, 4096):
        for at in (*places(base.structure_bytes, rng, 2), rng.randrange(size)):
            yield f"{length} zeros at {at}", patched(base.body, at, b"\0" * length)


def cuts(base: Base, rng: random.Random, _: Sequence[Base]) -> Iterator[tuple[str, bytes]]:
    """The file ends too early."""
    size = len(base.body)
    for n in (0, 3, 7, 8, 100, base.pages[0].at + 5, size // 2, size - 1, size - 4, *(rng.randrange(size) for _ in range(4))):
        yield f"cut to {n}", base.body[:n]


def shifts(base: Base, rng: random.Random, _: Sequence[Base]) -> Iterator[tuple[str, bytes]]:
    """Bytes more or fewer in the middle."""
    for n in (1, 2, 512):
        at = rng.randrange(len(base.body))
        yield f"{n} bytes more at {at}", base.body[:at] + rng.randbytes(n) + base.body[at:]
        yield f"{n} bytes fewer at {at}", base.body[:at] + base.body[at + n :]
        yield f"{n} bytes twice at {at}", base.body[:at] + base.body[max(0, at - n) : at] + base.body[at:]


def splices(base: Base, rng: random.Random, bases: Sequence[Base]) -> Iterator[tuple[str, bytes]]:
    """The head of this file and the tail of another."""
    for other in rng.sample([b for b in bases if b.name != base.name], 3):
        for at in (rng.randrange(len(base.body)), rng.randrange(len(base.body)) // 512 * 512):
            yield f"{other.name} from {at} on", base.body[:at] + other.body[at:]


def replacements(base: Base, rng: random.Random, _: Sequence[Base]) -> Iterator[tuple[str, bytes]]:
    """Something else under the same name."""
    page = b"<!DOCTYPE html><html><body><h1>404 Not Found</h1></body></html>"
    yield "nothing", b""
    yield "text", b"The requested file is not available.\n" * 40
    yield "HTML", page
    yield "JSON", b'{"code": "NotFound", "description": "no such key"}'
    yield "a header and HTML", base.body[:8] + page * 20
    yield "noise", rng.randbytes(5000)
    yield "a PNG", bytes(imagecodecs.png_encode(np.full((EDGE, EDGE), 7, "u2")))
    with rasterio.MemoryFile() as memory:
        place = {"crs": "EPSG:32635", "transform": TRANSFORM @ Affine.translation(EDGE, 0)}
        with memory.open(driver="GTiff", width=EDGE, height=EDGE, count=1, dtype="uint16", **place) as file:
            file.write(np.full((EDGE, EDGE), 7, "u2"), 1)
        yield "a GeoTIFF of the next place", bytes(memory.read())
    stream = io.BytesIO()
    np.save(stream, np.zeros((EDGE, EDGE), "u2"))
    yield "a NumPy file", stream.getvalue()


def several(base: Base, rng: random.Random, _: Sequence[Base]) -> Iterator[tuple[str, bytes]]:
    """Three bits at once, one of them in the pixels where those have a checksum."""
    for _again in range(8):
        ats = places(base.structure_bytes, rng, 2)
        ats += places(base.pixel_bytes if base.coding in CHECKED else base.structure_bytes, rng, 1)
        body = base.body
        for at in ats:
            body = flipped(body, at, rng.randrange(8))
        yield f"bits at {ats}", body


KINDS: tuple[Mutator, ...] = (
    bits_anywhere, bits_of_structure, bytes_of_structure, bits_of_pixels, bits_of_first_codes, bits_of_last_codes, last_bytes,
    tag_values, tag_heads, predictors, links, index_entries, zeros, cuts, shifts, splices, replacements, several,
)  # fmt: skip


def make_mutations(bases: Sequence[Base], seed: int = 1) -> Iterator[Mutation]:
    """Every kind on every base; each changes something."""
    for base, mutate in itertools.product(bases, KINDS):
        rng = random.Random(f"{seed} {base.name} {mutate.__name__}")  # noqa: S311 - no secret
        for what, body in mutate(base, rng, bases):
            if body != base.body:
                yield Mutation(base, mutate.__name__.replace("_", " "), what, body)
