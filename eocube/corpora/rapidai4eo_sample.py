"""A small synthetic RapidAI4EO in the layout of the real one, with its known defects on request.

Nothing here is an observation, and README.txt in the folder begins with that. What is copied from the real corpus, and what is
not known of it:

=====================================================================  ==========================================================
fact                                                                   source
=====================================================================  ==========================================================
paths, ids, grids, dates                                               ``rapidai4eo_ids``
PF-SR: int16 (4, 200, 200) B, G, R, NIR × 10,000; one tile of          one real file: tag by tag, in its order; bands by
256 × 256, pixel-interleaved, LZW, predictor 2; no nodata, no scale    a loader's words and the means of that file
S2-SR: 12 bands of 60 × 60 px × 10,000, all at 10 m                    a third-party loader
S2-SR: uint16, that order of bands, how it is packed                   uncertain: derived, or by analogy with PF-SR
PF-QA: 9 bands                                                         DynamicEarthNet, which has the same product: uncertain here
PF-QA: uint8, what its numbers say                                     uncertain: made up, to be read back and not understood
labels of 44 classes as shares of one; the columns of all tables       uncertain: ``rapidai4eo_labels``
=====================================================================  ==========================================================

Pixels are the texture of the sample that ships (:mod:`eocube.corpora.texture`): one continuous ground a tile, so that sites
beside each other fit, Planet Fusion and Sentinel-2 of a site show the same places, and dates change smoothly with the season.
Labels are drawn by themselves and say nothing of the pixels.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from affine import Affine

from eocube.corpora.rapidai4eo_ids import (
    CELL_M,
    CELLS,
    GEOMETRIES,
    LABEL_MAPPINGS,
    LABELS,
    PF_TIMES_MS,
    PRODUCTS,
    S2_BOUNDS_MS,
    SiteId,
    image_path,
    label_path,
    parse_site,
    parse_sites,
    product_of,
    site_folder,
    site_geobox,
)
from eocube.corpora.rapidai4eo_labels import CLC_CLASSES, CLC_NAMES
from eocube.corpora.sample_files import whole_folder
from eocube.corpora.texture import Texture
from eocube.errors import ArgumentError, MissingDependencyError, UnknownNameError

NOTICE = "SYNTHETIC: made by eocube, not RapidAI4EO and not an observation"
RECORD = "synthetic.json"
"""File in the folder that lists its sites, and for each defect the files or ids that have it."""

PF_BANDS = ("BLUE", "GREEN", "RED", "NIR")
"""Order of bands in PF-SR, by the names of :mod:`eocube.corpora.texture`."""

S2_BANDS = ("B02", "B03", "B04", "B08", "B05", "B06", "B07", "B8A", "B11", "B12", "B01", "B09")
"""Order of bands in S2-SR: derived from the statistics of others' readers, so uncertain."""

S2_BANDS_PERMUTED = tuple(sorted(S2_BANDS, key=lambda band: band.replace("8A", "08.5")))
"""B01 to B12 as ESA counts them: what the defect ``band_order`` writes instead."""

FILL = -32768
"""What readers that reprojected Planet Fusion were seen to fill with; whether real files hold it is uncertain."""

QA_BANDS = 9

DEFECTS: Mapping[str, str] = {
    "missing_date": "one site has no PF-SR and no PF-QA of one date",
    "missing_month": "one site has no S2-SR of one month",
    "missing_qa": "one site has no folder PF-QA",
    "truncated": "one PF-SR ends in the middle",
    "wrong_transform": "one PF-SR lies one pixel east of where its id says",
    "wrong_size": "one PF-SR has 199 rows",
    "fill_pixels": "one PF-SR has a block of -32768 in all bands, without a nodata tag",
    "zero_pixels": "one PF-SR has a block of 0 in all bands",
    "band_order": "all S2-SR have their bands in ESA's order",
    "labels_percent": "all labels are shares of 100",
    "site_without_labels": "one site has no row and no file of labels",
    "site_without_images": "one site is listed and has no folder",
    "duplicate_id": "the table of geometries lists one site twice",
    "qa_two_bands": "all PF-QA have two bands of uint16, as those of the successor product",
    "stray_files": "names that belong to no site and to no date lie among the images",
}
"""Defects that can be asked for, by name."""

_IN_ONE_FILE = ("missing_date", "truncated", "wrong_transform", "wrong_size", "fill_pixels", "zero_pixels")
_EVERYWHERE: Mapping[str, Callable[[_Plan], list[str]]] = {
    "band_order": lambda _: [*S2_BANDS_PERMUTED],
    "labels_percent": lambda _: [LABELS, "labels"],
    "duplicate_id": lambda plan: [str(plan.sites[-1])],
    "qa_two_bands": lambda plan: [f"{site_folder(site)}/PF-QA" for site in plan.sites],
    "stray_files": lambda plan: _strays(plan.sites[0]),
}
"""Defects of the whole corpus → where they are."""

_NEEDS = {
    **dict.fromkeys(_IN_ONE_FILE, "pf_sr"),
    "missing_month": "s2_sr",
    "missing_qa": "pf_qa",
    "band_order": "s2_sr",
    "qa_two_bands": "pf_qa",
    "stray_files": "pf_sr",
}

_TILES = (
    "33N_15E-200N", "33N_16E-243N", "32N_18E-221N", "30N_18E-195N", "31N_17E-230N", "34N_16E-210N", "29N_21E-188N",
)  # fmt: skip
"""The first two are tiles of the real corpus; after these, more are drawn."""

_COMMON = {
    "clc_112": 6, "clc_121": 2, "clc_211": 25, "clc_221": 2, "clc_231": 12, "clc_242": 8, "clc_243": 6, "clc_311": 12,
    "clc_312": 14, "clc_313": 7, "clc_321": 4, "clc_322": 3, "clc_324": 6, "clc_333": 2, "clc_412": 3, "clc_512": 3, "clc_523": 1,
}  # fmt: skip
"""Rough weights of the classes that cover most of Europe; the others are drawn seldom."""

_MEAN_FILLED, _SPREAD = 48, 0.8
"""Sites a tile in the whole corpus (500,000 over some ten thousand tiles, 3 % of the cells), and how uneven they are drawn."""

_DAY_MS = 86_400_000
_BLOCK_PX = 256
_MONTHS = np.arange("2017-12", "2020-03", dtype="M8[M]").astype("M8[D]").astype("i8")
_MIDDLES: tuple[int, ...] = tuple(int(day) for day in (_MONTHS[:-1] + _MONTHS[1:]) // 2)
"""Middles of the months from December 2017 to January 2020, days since 1970-01-01."""


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What is written and what is wrong with it."""

    sites: tuple[SiteId, ...]
    steps: dict[str, int]
    """Product → number of its first steps."""

    files: dict[tuple[SiteId, int], str]
    """(site, step) of PF-SR → its defect."""

    whole: dict[str, SiteId]
    """Defect of one site → the site."""

    everywhere: frozenset[str]
    """Defects of the whole corpus."""

    seed: int


def write_rapidai4eo(
    folder: str | os.PathLike[str],
    *,
    sites: int,
    tiles: int = 1,
    dates: int = 146,
    months: int = 12,
    products: Collection[str] = tuple(PRODUCTS),
    defects: Collection[str] = (),
    seed: int = 0,
) -> Path:
    """Write a small corpus in the layout of the real one: imagery, labels, resources, and README.txt that says it is synthetic.

    Parameters
    ----------
    folder
        Becomes the corpus's root, whole or not at all. It must not exist, or be empty, or hold the same sample (which is left as
        it is).
    sites, tiles
        How many sites, scattered unevenly over how many tiles of 24 km. The first two tiles have real names.
    dates, months
        How many of the first dates of Planet Fusion (146 in all), and of the first months of Sentinel-2 (12 in all).
    products
        ``pf_sr``, ``pf_qa``, ``s2_sr``, or as the folders are called.
    defects
        Names of `DEFECTS`. Each of one file has a file of its own; ``synthetic.json`` in the folder says where each is.
    seed
        Another number gives other cells, ground, labels. Equal arguments give equal bytes.

    Returns
    -------
    The root.

    Raises
    ------
    UnknownNameError
        For a defect or a product that is none.
    ArgumentError
        If numbers are out of range, or a defect needs a product, a site or a date that is not written.
    StoreWriteError
        If something stands at the place already, or it cannot be written.
    MissingDependencyError
        Without rasterio.
    """
    plan = _plan(sites, tiles, {"pf_sr": dates, "pf_qa": dates, "s2_sr": months}, products, defects, seed)
    root = Path(folder)
    record = json.dumps(_record(plan), indent=1)
    if (root / RECORD).is_file() and (root / RECORD).read_text(encoding="utf-8") == record:
        return root
    with whole_folder(root, last=RECORD) as new:
        _write_all(new, plan, record)
    return root


def _write_all(root: Path, plan: _Plan, record: str) -> None:
    (root / "README.txt").write_text(_readme(plan), encoding="utf-8")
    _write_tables(root, plan)
    _write_images(root, plan)
    (root / RECORD).write_text(record, encoding="utf-8")


def write_geometries(path: str | os.PathLike[str], n: int, *, seed: int = 0) -> Path:
    """Write only a table of geometries, of ``n`` distinct sites over uneven tiles, for plans of the corpus's true size.

    GeoJSON as GDAL writes it: a feature a line, ``sample_id`` and the cell's square in longitude and latitude; packed with gzip
    where the name ends in ``.gz``.
    """
    if not 1 <= n <= 1_000_000:
        raise ArgumentError(f"{n} sites cannot be drawn: expected 1 to 1,000,000.")
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    _write_geojson(target, _drawn_ids(n, np.random.default_rng((seed, 1))))
    return target


# ----------------------------------------------------------------------------------------------------------------------- plan


def _plan(n: int, tiles: int, steps: dict[str, int], products: Collection[str], defects: Collection[str], seed: int) -> _Plan:
    for name in defects:
        if name not in DEFECTS:
            raise UnknownNameError("defect", name, DEFECTS, "a synthetic RapidAI4EO")
    chosen = {product_of(name).name for name in products}
    for name, most in (("pf_sr", len(PF_TIMES_MS)), ("s2_sr", len(S2_BOUNDS_MS))):
        if not 1 <= steps[name] <= most:
            raise ArgumentError(f"{steps[name]} steps of {name} cannot be written: expected 1 to {most}.")
    if not 1 <= tiles <= n <= CELLS * CELLS:
        raise ArgumentError(
            f"{n} sites over {tiles} tiles cannot be written: expected at least one a tile, at most 1,600 in all."
        )
    for name in defects:
        if name in _NEEDS and _NEEDS[name] not in chosen:
            raise ArgumentError(f"Defect {name!r} needs product {_NEEDS[name]}, which is not among {sorted(chosen)}.")
    sites = _scattered(n, tiles, np.random.default_rng((seed, 0)))
    whole = _defective_sites(sites, defects)
    return _Plan(
        sites=sites,
        steps={name: count for name, count in steps.items() if name in chosen},
        files=_defective_files([s for s in sites if s != whole.get("site_without_images")], steps["pf_sr"], defects),
        whole=whole,
        everywhere=frozenset(defects) & _EVERYWHERE.keys(),
        seed=seed,
    )


def _defective_sites(sites: Sequence[SiteId], defects: Collection[str]) -> dict[str, SiteId]:
    """Sites with a defect of their own, from the last one on; the first one keeps its images."""
    names = ("site_without_images", "site_without_labels", "missing_qa", "missing_month")
    if "site_without_images" in defects and len(sites) < 2:
        raise ArgumentError("Defect 'site_without_images' needs at least two sites: one with images.")
    order = [*sites[::-1]]
    out = {name: order[i % len(order)] for i, name in enumerate(names) if name in defects}
    bare = out.get("site_without_images")
    if bare is not None and bare in {out.get("missing_qa"), out.get("missing_month")}:
        out |= {name: sites[0] for name in ("missing_qa", "missing_month") if name in out}
    return out


def _defective_files(sites: Sequence[SiteId], dates: int, defects: Collection[str]) -> dict[tuple[SiteId, int], str]:
    """A file of PF-SR for each defect of one file: one a site, from the middle of the dates on."""
    names = [name for name in _IN_ONE_FILE if name in defects]
    if len(names) > len(sites) * dates:
        raise ArgumentError(
            f"{len(names)} defects of single files need as many files; {len(sites)} sites have {dates} dates each."
        )
    return {(sites[k % len(sites)], (dates // 2 + k // len(sites)) % dates): name for k, name in enumerate(names)}


def _scattered(n: int, tiles: int, rng: np.random.Generator) -> tuple[SiteId, ...]:
    """Distinct cells, in order of their ids; the first tiles have more of them."""
    cubes = [*_TILES[:tiles]]
    while len(cubes) < tiles:
        drawn = _drawn_tile(rng)
        cubes += [drawn] if drawn not in cubes else []
    share = 1 / np.arange(1, tiles + 1)
    counts = 1 + rng.multinomial(n - tiles, share / share.sum())
    ids = [_id(cube, cell) for cube, count in zip(cubes, counts, strict=True) for cell in rng.permutation(CELLS**2)[:count]]
    return tuple(parse_site(i) for i in sorted(ids))


def _drawn_tile(rng: np.random.Generator) -> str:
    """A tile of 24 km somewhere in Europe, or beside it."""
    return f"{rng.integers(29, 38)}N_{rng.integers(14, 28)}E-{rng.integers(166, 321)}N"


def _id(cube: str, cell: int) -> str:
    return f"{cube}_{cell // CELLS + 1:02d}_{cell % CELLS + 1:02d}"


def _drawn_ids(n: int, rng: np.random.Generator) -> list[str]:
    """Distinct ids over uneven tiles, in name order: half of the tiles there are, or fewer."""
    mean = max(_MEAN_FILLED, n / 9_000)
    ids: list[str] = []
    seen: set[str] = set()
    while len(ids) < n:
        cube = _drawn_tile(rng)
        if cube not in seen:
            seen.add(cube)
            count = min(CELLS**2, 1 + int(rng.lognormal(np.log(mean) - _SPREAD**2 / 2, _SPREAD)))
            ids += [_id(cube, cell) for cell in rng.choice(CELLS**2, count, replace=False).tolist()]
    return sorted(ids[:n])


# --------------------------------------------------------------------------------------------------------------------- tables


def _write_tables(root: Path, plan: _Plan) -> None:
    ids = [str(site) for site in plan.sites]
    _write_geojson(root / GEOMETRIES, ids + ids[-1:] if "duplicate_id" in plan.everywhere else ids)
    lines = ["class,name", *(f'{clc},"{name}"' for clc, name in CLC_NAMES.items())]
    (root / LABEL_MAPPINGS).write_text("\n".join([*lines, ""]), encoding="utf-8")
    labels = {site: row for site, row in _labels(plan) if site != plan.whole.get("site_without_labels")}
    with _packed(root / LABELS) as out:
        out.write(",".join(["sample_id", *CLC_CLASSES]).encode() + b"\n")
        for site, row in labels.items():
            out.write(",".join([str(site), *(repr(v) for v in row)]).encode() + b"\n")
    for site, row in labels.items():
        path = root / label_path(site)
        path.parent.mkdir(parents=True, exist_ok=True)
        feature = {
            "type": "Feature",
            "properties": {"sample_id": str(site), **dict(zip(CLC_CLASSES, row, strict=True))},
            "geometry": _square(parse_sites([str(site)]).corners_lonlat()[0]),
        }
        path.write_text(json.dumps(feature), encoding="utf-8")


def _labels(plan: _Plan) -> Iterator[tuple[SiteId, list[float]]]:
    """Shares of up to four classes, hundredths of a percent that sum to one."""
    whole = 100.0 if "labels_percent" in plan.everywhere else 1.0
    weights = np.array([_COMMON.get(name, 0.2) for name in CLC_CLASSES])
    for i, site in enumerate(plan.sites):
        rng = np.random.default_rng((plan.seed, 2, i))
        classes = rng.choice(len(CLC_CLASSES), rng.integers(1, 5), replace=False, p=weights / weights.sum())
        parts = np.sort(rng.choice(np.arange(1, 10_000), len(classes) - 1, replace=False))
        shares = np.zeros(len(CLC_CLASSES), "i8")
        shares[classes] = np.diff([0, *parts, 10_000])
        yield site, [round(int(s) / 10_000 * whole, 6) for s in shares]


def _square(corners: npt.NDArray[np.float64]) -> dict[str, Any]:
    """GeoJSON of a cell, counter-clockwise as RFC 7946 asks."""
    ring = [[round(float(x), 9), round(float(y), 9)] for x, y in corners[[0, 3, 2, 1, 0]]]
    return {"type": "Polygon", "coordinates": [ring]}


def _write_geojson(path: Path, ids: Sequence[str], block: int = 20_000) -> None:
    """A feature a line, some thousand at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _packed(path) if path.name.endswith(".gz") else path.open("wb") as out:
        out.write(b'{\n"type": "FeatureCollection",\n"name": "rapidai4eo_geometries",\n"features": [\n')
        for start in range(0, len(ids), block):
            part = ids[start : start + block]
            corners = parse_sites(part).corners_lonlat()[:, [0, 3, 2, 1, 0]].reshape(len(part), 10).tolist()
            text = ",\n".join(_FEATURE % (i, *xy) for i, xy in zip(part, corners, strict=True))
            out.write((text if start == 0 else ",\n" + text).encode())
        out.write(b"\n]\n}\n")


_POINT = "[ %.9f, %.9f ]"
_FEATURE = (
    '{ "type": "Feature", "properties": { "sample_id": "%s" }, "geometry": { "type": "Polygon", "coordinates": [ [ '
    + ", ".join([_POINT] * 5)
    + " ] ] } }"
)


def _packed(path: Path) -> BinaryIO:
    """A gzip file without a date or a name in it, so that equal content gives equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return _Gzip(path)  # type: ignore[return-value]


class _Gzip(gzip.GzipFile):
    """Closes its file with itself."""

    def __init__(self, path: Path):
        self._raw = path.open("wb")
        super().__init__(filename="", mode="wb", compresslevel=5, fileobj=self._raw, mtime=0)

    def close(self) -> None:
        try:
            super().close()
        finally:
            self._raw.close()


# --------------------------------------------------------------------------------------------------------------------- images


def _write_images(root: Path, plan: _Plan) -> None:
    texture = Texture()
    for path in _strays(plan.sites[0]) if "stray_files" in plan.everywhere else ():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"nothing")
    for site in plan.sites:
        if site == plan.whole.get("site_without_images"):
            continue
        for product, count in plan.steps.items():
            if product == "pf_qa" and site == plan.whole.get("missing_qa"):
                continue
            folder = (root / image_path(site, product, 0)).parent
            folder.mkdir(parents=True, exist_ok=True)
            for step, pixels in enumerate(_PIXELS[product](texture, site, count, plan)):
                defect = plan.files.get((site, step)) if product != "s2_sr" else None
                absent = product == "s2_sr" and site == plan.whole.get("missing_month") and step == count // 2
                if absent or defect == "missing_date":
                    continue
                body = _geotiff(site, product, pixels, defect if product == "pf_sr" else None)
                (root / image_path(site, product, step)).write_bytes(body)


def _strays(site: SiteId) -> list[str]:
    """Paths that follow no rule of the corpus: in a tile, and among the dates of a site."""
    return [f"imagery/{site.zone}/{site.tile}/catalog.json", f"{site_folder(site)}/PF-SR/2018-01-04.tif"]


def _ground(site: SiteId, plan: _Plan) -> dict[str, Any]:
    """The piece of its tile's ground that a site shows."""
    place = ((site.row - 1) * float(CELL_M), (site.column - 1) * float(CELL_M))
    tile = int.from_bytes(site.cube.encode(), "big") % 2**31
    return {"seed": tile + plan.seed, "span_yx_m": (float(CELL_M), float(CELL_M)), "origin_yx_m": place}


def _fusion(texture: Texture, site: SiteId, count: int, plan: _Plan) -> Iterator[npt.NDArray[np.int16]]:
    """PF-SR of the first dates, (4, 200, 200): straight lines in time between the grounds in the middle of months.

    There it shows the ground of Sentinel-2's mosaic of that month.
    """
    knots: dict[int, npt.NDArray[np.float32]] = {}
    for time_ms in PF_TIMES_MS[:count]:
        day = time_ms // _DAY_MS
        after = int(np.searchsorted(_MIDDLES, day, side="right"))
        for i in (after - 1, after):
            if i not in knots:
                knots[i] = _bands(texture, PF_BANDS, (200, 200), _MIDDLES[i], _ground(site, plan))
        share = np.float32((day - _MIDDLES[after - 1]) / (_MIDDLES[after] - _MIDDLES[after - 1]))
        now = knots[after - 1] + share * (knots[after] - knots[after - 1])
        yield np.rint(now * 10_000).clip(1, 32_767).astype(np.int16)
        knots = {i: value for i, value in knots.items() if i >= after - 1}


def _quality(texture: Texture, site: SiteId, count: int, plan: _Plan) -> Iterator[npt.NDArray[Any]]:
    """PF-QA of the first dates, (9, 200, 200), made up: 10 × band, and 1 more where a made-up cloud stood."""
    bands = 10 * np.arange(1, QA_BANDS + 1, dtype=np.uint8)[:, None, None]
    for step, time_ms in enumerate(PF_TIMES_MS[:count]):
        cover = (0.0, 0.3, 0.6, 0.9)[step % 4]
        cloud = texture.clouds((200, 200), day=time_ms // _DAY_MS, cover=cover, **_ground(site, plan))
        made = bands + (cloud > 0.5).astype(np.uint8)
        yield made[:2].astype(np.uint16) if "qa_two_bands" in plan.everywhere else made


def _mosaics(texture: Texture, site: SiteId, count: int, plan: _Plan) -> Iterator[npt.NDArray[np.uint16]]:
    """S2-SR of the first months, (12, 60, 60), of the ground in the middle of each."""
    order = S2_BANDS_PERMUTED if "band_order" in plan.everywhere else S2_BANDS
    for day in _MIDDLES[1 : count + 1]:
        now = _bands(texture, order, (60, 60), day, _ground(site, plan))
        yield np.rint(now * 10_000).clip(1, 65_535).astype(np.uint16)


_PIXELS: Mapping[str, Callable[[Texture, SiteId, int, _Plan], Iterator[npt.NDArray[Any]]]] = {
    "pf_sr": _fusion,
    "pf_qa": _quality,
    "s2_sr": _mosaics,
}


def _bands(
    texture: Texture, bands: Sequence[str], shape_yx: tuple[int, int], day: int, ground: Mapping[str, Any]
) -> npt.NDArray[np.float32]:
    return np.stack([texture.reflectance(band, shape_yx, day=day, **ground) for band in bands])


def _geotiff(site: SiteId, product: str, pixels: npt.NDArray[Any], defect: str | None) -> bytes:
    """One file as the real one is built, with its defect."""
    box = site_geobox(site, product)
    transform = box.affine
    if defect == "wrong_transform":
        transform = transform @ Affine.translation(1, 0)
    elif defect == "wrong_size":
        pixels = pixels[:, :-1]
    elif defect in ("fill_pixels", "zero_pixels"):
        pixels[:, 40:60, 100:130] = FILL if defect == "fill_pixels" else 0
    body = _encoded(pixels, transform, str(box.crs))
    return body[: len(body) // 2] if defect == "truncated" else body


def _encoded(pixels: npt.NDArray[Any], transform: Affine, crs: str) -> bytes:
    try:
        from rasterio.io import MemoryFile
    except ImportError as error:
        raise MissingDependencyError("Writing a synthetic corpus", "rasterio", "build") from error
    bands, height, width = pixels.shape
    layout = {"tiled": True, "blockxsize": _BLOCK_PX, "blockysize": _BLOCK_PX, "interleave": "pixel"}
    coding = {"compress": "lzw", "predictor": 2, "photometric": "minisblack"}
    shape = {"count": bands, "height": height, "width": width, "dtype": pixels.dtype.name}
    with MemoryFile() as memory:
        with memory.open(driver="GTiff", crs=crs, transform=transform, **shape, **layout, **coding) as target:
            target.write(pixels)
        return bytes(memory.getbuffer())


# ------------------------------------------------------------------------------------------------------------- what it says


def _record(plan: _Plan) -> dict[str, Any]:
    """Sites, and for each defect the paths or ids that have it."""
    places = {defect: [image_path(site, "pf_sr", step)] for (site, step), defect in plan.files.items()}
    if "missing_date" in places and "pf_qa" in plan.steps:
        places["missing_date"] += [path.replace("PF-SR", "PF-QA") for path in places["missing_date"]]
    for defect, site in plan.whole.items():
        months = plan.steps.get("s2_sr", 0)
        places[defect] = {
            "missing_month": [image_path(site, "s2_sr", months // 2)] if months else [],
            "missing_qa": [f"{site_folder(site)}/PF-QA"],
            "site_without_labels": [str(site)],
            "site_without_images": [str(site)],
        }[defect]
    for defect in plan.everywhere:
        places[defect] = _EVERYWHERE[defect](plan)
    return {
        "notice": NOTICE,
        "seed": plan.seed,
        "sites": [str(site) for site in plan.sites],
        "steps": plan.steps,
        "defects": places,
    }


def _readme(plan: _Plan) -> str:
    places = _record(plan)["defects"]
    lines = [
        f"{NOTICE}.",
        "",
        f"{len(plan.sites)} made-up sites in the layout of RapidAI4EO (doi 10.34911/rdnt.gcydkj), to try before a download.",
        "Paths, names, grids, sizes, dtypes and the structure of PF-SR files are those of the real corpus. How S2-SR and PF-QA",
        "are packed, the order of S2-SR's bands, everything in PF-QA and the columns of the tables are uncertain or made up.",
        "Pixels are turned and stretched pieces of a Sentinel-2 series of a forest in Romania, whatever the site's place;",
        "labels are drawn at random and say nothing of the pixels. Draw no conclusion about any place from this folder.",
        "",
        "Contains modified Copernicus Sentinel data 2015-2021; pixels from nrt 0.0.5 (EUPL-1.2). Nothing in here is Planet's:",
        "the real Planet Fusion images are CC BY-NC-SA 3.0, these are not.",
        "",
        "Defects that were asked for:" if places else "No defects were asked for.",
        *(f"- {defect}: {DEFECTS[defect]}: {', '.join(where)}" for defect, where in places.items()),
    ]
    return "\n".join([*lines, ""])
