"""A small WorldStrat in its true layout, SYNTHETIC but on real bounds, with its known defects on request.

====================================================================  ===========================================================
fact that is copied                                                   source
====================================================================  ===========================================================
paths, names, bands and their order, dtypes (masks are float32),      the package worldstrat/worldstrat at 39fe223:
HR without geotransform, LR with one, CRS EPSG:4326,                  ``dataset_generation/SentinelDownloader.py`` and
HR 1054² and 263² px, keys of ``.metadata``                           ``SPOTDownloader.py``
LR 150 to 166 px a side: 10 m in the UTM zone of the centre           the same; checked on 3,389 real bounds
L2A only, at most 8 revisits and ``12bit/`` on Kaggle                 a walk over that copy
names, bounds, classes, published splits of the areas                 two tables of WorldStrat (CC BY 4.0)
pixels                                                                `texture`: real Sentinel-2 pixels of another place
====================================================================  ===========================================================

Uncertain, and chosen here: files are not compressed; members of archives are named as they are unpacked; the order of the columns
of ``metadata.csv``, which has no LCCS here; which angles are missing on Kaggle. Dates, cloud covers and angles are made up.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from eocube.corpora.sample_files import FileSink, raster_bytes, whole_folder
from eocube.corpora.texture import Texture
from eocube.corpora.worldstrat_areas import SampleArea, lr_shape_yx, read_sample_areas
from eocube.corpora.worldstrat_files import METADATA_CSV, ORPHAN, SIDE_KINDS, SPLIT_CSV, order_of, tile_place
from eocube.corpora.worldstrat_tables import Bounds
from eocube.errors import ArgumentError, UnknownNameError

Release = Literal["zenodo-v1", "zenodo-v1.1", "kaggle"]
Float32Array = npt.NDArray[np.float32]

PRODUCTS = ("l2a", "l1c", "hr_ps", "hr_pan", "hr_rgbn", "hr_rgb")
"""All that a release may hold; Kaggle has no ``l1c``."""

L2A_BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
L1C_BANDS = (*L2A_BANDS[:10], "B10", *L2A_BANDS[10:])
HR_BANDS = ("RED", "GREEN", "BLUE", "NIR")

HR_PX = {"hr_ps": 1054, "hr_pan": 1054, "hr_rgbn": 263, "hr_rgb": 1054}
SIDE_M = math.sqrt(2.5) * 1000
"""Of every area: 2.5 km²."""

DEFECTS: Mapping[str, str] = {
    "hr-without-lr": "ASMSpotter-1-1-1 has no low resolution, as in Zenodo v1",
    "lr-without-hr": "an area has no high resolution",
    "missing-tile": "an area is in the tables and not on disk",
    "orphan-folder": f"hr_dataset has a folder {ORPHAN!r}, which is no area",
    "names-with-spaces": "an area's name has a space (Amnesty)",
    "black-bars": "zeros along the north and west edge of an area's HR: 1 px on rgbn, 4 px on pan, ps and rgb",
    "missing-hr-file": "an area has no pan",
    "duplicate-file": "an area's HR stands in hr_dataset and in hr_dataset/12bit",
    "truncated-file": "the second half of a revisit's bands is cut off",
    "empty-file": "a CLP has no bytes",
    "missing-side-files": "a revisit has no CLM and no angles",
    "missing-revisit": "a revisit has no files at all",
    "revisit-without-data": "a revisit has side files but no bands",
    "off-grid-value": "one value of the bands is half a step of 1e-4 off",
    "clm-255": "a CLM says 255, no decision, in its first 16 × 16 pixels",
    "no-data-pixels": "a dataMask is 0 in the last 10 columns, and the bands are 0 there",
    "bad-json": "a .metadata file is no JSON",
    "date-conflict": "a .metadata file is two days after metadata.csv",
    "no-json": "a revisit has no .metadata file",
    "bright-values": "one pixel of an area's HR is far above 10,000: 20,877 on ps, 17,090 on pan, 13,836 on rgbn",
    "unknown-file": "files that belong to nothing lie about",
    "misnamed-file": "a CLM is called after another area than its folder",
    "other-deliveries": "an 8-bit copy of an area's HR and the original delivery lie beside it",
    "not-in-split": "the split table leaves an area out",
    "split-repeats": "the split table repeats tiles, some in two splits, as in Zenodo v1",
    "no-bounds": "metadata.csv has no column of bounds",
    "bounds-off": "bounds of an area in metadata.csv lie 0.001 degrees east of its files'",
}
"""Name → what is done. The first three each take an area of their own, from the end of the list."""

_OF_AREAS = ("black-bars", "missing-hr-file", "duplicate-file", "bounds-off", "bright-values")
_OF_REVISITS = (
    *("truncated-file", "empty-file", "missing-side-files", "missing-revisit", "revisit-without-data"),
    *("off-grid-value", "clm-255", "no-data-pixels", "bad-json", "date-conflict", "no-json"),
)
_BRIGHT = {"hr_ps": 20_877, "hr_pan": 17_090, "hr_rgbn": 13_836}
"""Greatest numbers that were seen in the files of the Kaggle copy."""

_SMOD_CLASSES = {
    10: "Water", 11: "Rural: Very Low Dens", 12: "Rural: Low Dens", 13: "Rural: Cluster", 21: "Suburban",
    22: "Urban: Semi-dense", 23: "Urban: Dense", 30: "Urban: Centre",
}  # fmt: skip
_ANGLES = SIDE_KINDS[3:]
_REVISITS = {"zenodo-v1": 16, "zenodo-v1.1": 16, "kaggle": 8}
_TABLE_REVISITS = 16
_README = "README.txt"
_SETTINGS, _PLANTED = "settings: ", "planted: "


def write_worldstrat(
    folder: str | os.PathLike[str],
    *,
    sites: int,
    revisits: int = 16,
    release: Release = "zenodo-v1.1",
    products: Collection[str] = PRODUCTS,
    side_files: Collection[str] = SIDE_KINDS,
    defects: Collection[str] = (),
    zipped: bool = False,
    seed: int = 0,
) -> Path:
    """Write a small synthetic WorldStrat; equal arguments write equal files.

    Parameters
    ----------
    folder
        Where the corpus shall stand; must not exist, or be empty, or hold the same sample (which is left as it is).
    sites
        Areas, the first of `read_sample_areas` (four hold all sources); some defects put others in their place.
    revisits
        Sentinel-2 dates of an area; Kaggle has at most 8. ``metadata.csv`` always has 16.
    release
        Layout. Zenodo v1 and v1.1 differ in the tables only.
    products, side_files
        What to write of `PRODUCTS` and `worldstrat_files.SIDE_KINDS`; leaving L1C and side files out saves most of the time.
    defects
        Names of `DEFECTS`; `planted_defects` says what each spoilt.
    zipped
        Write archives: ``hr_dataset.zip``, ``lr_dataset_l1c.zip`` and ``lr_dataset_l2a.zip`` beside the tables (v1.1), or all in
        ``archive.zip`` (Kaggle). v1 was published as tar.gz, which has no random access: refused.
    seed
        Another seed is other ground, dates and clouds on the same bounds.

    Returns
    -------
    ``folder``, made whole or not at all. ``README.txt`` in it says that it is synthetic.

    Raises
    ------
    ArgumentError
        If a count is out of bounds, or the defects need more areas, revisits, products or side files.
    UnknownNameError
        For a product, side file, defect or release that does not exist.
    StoreWriteError
        If something else stands at ``folder``, or it cannot be written.
    """
    target = Path(folder)
    _check(sites=sites, revisits=revisits, release=release, products=products, side_files=side_files, defects=defects)
    if zipped and release == "zenodo-v1":
        raise ArgumentError("Zenodo v1 came as tar.gz, which has no random access; ask for zipped='zenodo-v1.1' or 'kaggle'.")
    settings = {
        "format": 1,
        "sites": sites,
        "revisits": min(revisits, _REVISITS[release]),
        "release": release,
        "products": sorted(products),
        "side_files": sorted(side_files),
        "defects": sorted(defects),
        "zipped": zipped,
        "seed": seed,
    }
    line = _SETTINGS + json.dumps(settings, sort_keys=True)
    if (target / _README).is_file() and line in (target / _README).read_text().splitlines():
        return target
    with whole_folder(target, last=_README) as new:
        _Writer(new, settings).write(line)
    return target


def planted_defects(folder: str | os.PathLike[str]) -> dict[str, list[str]]:
    """What was spoilt in a sample: defect → paths, or names of areas, as its ``README.txt`` lists them."""
    found: dict[str, list[str]] = {}
    for line in (Path(folder) / _README).read_text().splitlines():
        if line.startswith(_PLANTED):
            name, place = line.removeprefix(_PLANTED).split(": ", 1)
            found.setdefault(name, []).append(place)
    return found


def _check(
    *, sites: int, revisits: int, release: str, products: Collection[str], side_files: Collection[str], defects: Collection[str]
) -> None:
    for kind, names, known in (
        ("release", [release], get_args(Release)),
        ("product", products, PRODUCTS),
        ("side file", side_files, SIDE_KINDS),
        ("defect", defects, tuple(DEFECTS)),
    ):
        for name in names:
            if name not in known:
                raise UnknownNameError(kind, name, known, "the synthetic WorldStrat")
    most = len(read_sample_areas()) - 1
    if not (1 <= sites <= most and 1 <= revisits <= _TABLE_REVISITS):
        raise ArgumentError(
            f"A sample has 1 to {most} sites and 1 to {_TABLE_REVISITS} revisits; asked were {sites} and {revisits}."
        )


@dataclass(frozen=True, kw_only=True)
class _Date:
    """One revisit."""

    n: int
    acquired: datetime
    cloud_cover: float
    delta: int


@dataclass(frozen=True, kw_only=True)
class _Site:
    """One area as it shall be written."""

    area: SampleArea
    seed: int
    origin_yx_m: tuple[float, float]
    """Tiles of one order lie side by side on one ground."""
    hr_day: date
    dates: tuple[_Date, ...]
    spoilt: frozenset[tuple[str, int]] = field(default_factory=frozenset)
    """Defect and revisit; 0 is the whole area."""

    def has(self, defect: str, n: int = 0) -> bool:
        return (defect, n) in self.spoilt


def _site(area: SampleArea, seed: int) -> _Site:
    i, j = tile_place(area.name) or (1, 3)
    hr_day = date(2017, 6, 1) + timedelta(days=int(1600 * _unit(seed, order_of(area.name), "day")))
    return _Site(
        area=area,
        seed=int(2**32 * _unit(seed, order_of(area.name))),
        origin_yx_m=((3 - j) * SIDE_M, (i - 1) * SIDE_M),
        hr_day=hr_day,
        dates=_ranked(area, hr_day, seed),
    )


def _ranked(area: SampleArea, hr_day: date, seed: int) -> tuple[_Date, ...]:
    """Sixteen dates five days apart around the SPOT image, ranked as WorldStrat did: by distance in time and by cloud."""
    west, _, east, _ = area.bounds
    hour = 10.5 - (west + east) / 30
    phase = int(5 * _unit(seed, area.name, "phase"))
    found = []
    for k in range(-8, 8):
        noon = datetime(hr_day.year, hr_day.month, hr_day.day, tzinfo=UTC) + timedelta(days=5 * k + phase)
        acquired = noon + timedelta(hours=hour, seconds=int(600 * _unit(seed, area.name, k, "second")))
        acquired = acquired.replace(microsecond=0)
        cover = round(100 * _unit(seed, area.name, k, "cover") ** 8, 2)
        found.append(_Date(n=0, acquired=acquired, cloud_cover=cover, delta=(acquired.date() - hr_day).days))
    near = sorted(found, key=lambda one: (abs(one.delta), one.acquired))
    clear = sorted(found, key=lambda one: (one.cloud_cover, one.acquired))
    ranked = sorted(found, key=lambda one: (near.index(one) + clear.index(one), one.acquired))
    return tuple(replace(one, n=n) for n, one in enumerate(ranked, start=1))


class _Writer:
    """One sample on its way to disk."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]):
        self._settings = settings
        self._defects: list[str] = [name for name in DEFECTS if name in settings["defects"]]
        self._planted: list[tuple[str, str]] = []
        self._texture = Texture()
        self._out = FileSink(folder, self._archive_of if settings["zipped"] else lambda _: None)
        self._kaggle = settings["release"] == "kaggle"
        self._hr_root = "hr_dataset/12bit" if self._kaggle else "hr_dataset"

    def write(self, line: str) -> None:
        """All files, ``README.txt`` last."""
        sites = self._sites()
        with self._out:
            for site in sites:
                if not site.has("missing-tile"):
                    self._write_site(site)
            if "orphan-folder" in self._defects:
                self._write_orphan()
            if "unknown-file" in self._defects:
                self._plant("unknown-file", f"{self._hr_root}/Thumbs.db", b"nothing")
                self._plant("unknown-file", f"lr_dataset/{sites[0].area.name}/.DS_Store", b"nothing")
            if "misnamed-file" in self._defects:
                folder = f"lr_dataset/{sites[0].area.name}/L2A"
                self._plant("misnamed-file", f"{folder}/Landcover-1-1-CLM.tiff", b"nothing")
            if "other-deliveries" in self._defects:
                name = sites[0].area.name
                self._plant("other-deliveries", f"hr_dataset/8bit/{name}/{name}_ps_8bit.tiff", b"nothing")
                self._plant("other-deliveries", f"hr_dataset_raw/{name}/PROD_SPOT7_001/IMG_R1C1.JP2", b"nothing")
            self._out.put(METADATA_CSV, _csv(self._metadata_rows(sites)))
            self._out.put(SPLIT_CSV, _csv(self._split_rows(sites)))
            unspoilt = set(self._defects) - {name for name, _ in self._planted}
            if unspoilt:
                raise ArgumentError(
                    f"Defects {sorted(unspoilt)} spoil what is not written; asked were {self._settings['products']} and "
                    f"{self._settings['side_files']}. Ask for more products or side files, or leave those defects out."
                )
            listed = "".join(f"{_PLANTED}{name}: {place}\n" for name, place in self._planted)
            self._out.put(_README, (_README_TEXT + line + "\n" + listed).encode())

    def _archive_of(self, path: str) -> str | None:
        """Zenodo has an archive a product and the tables beside them; Kaggle gives all in one."""
        if path == _README:
            return None
        if self._kaggle:
            return "archive.zip"
        top, *rest = path.split("/")
        if top == "lr_dataset":
            return "lr_dataset_l1c.zip" if "L1C" in rest else "lr_dataset_l2a.zip"
        return "hr_dataset.zip" if top == "hr_dataset" else None

    def _plant(self, defect: str, path: str, content: bytes | None = None) -> None:
        """Remember what was spoilt, and where."""
        self._planted.append((defect, path))
        if content is not None:
            self._out.put(path, content)

    def _sites(self) -> list[_Site]:
        """The areas, each with the defects that hit it."""
        seed, count = self._settings["seed"], self._settings["sites"]
        whole: list[str] = [name for name in ("missing-tile", "lr-without-hr", "hr-without-lr") if name in self._defects]
        areas = self._areas(count, whole)
        spoilt: list[set[tuple[str, int]]] = [set() for _ in areas]
        for area, its, name in zip(areas[-len(whole) :], spoilt[-len(whole) :], whole, strict=False):
            its.add((name, 0))
            self._plant(name, area.name)
        rest = range(count - len(whole))
        for at, name in enumerate(name for name in _OF_AREAS if name in self._defects):
            spoilt[rest[at % len(rest)]].add((name, 0))
        numbers = range(1, self._settings["revisits"] + 1)
        free = iter((k, n) for n, k in product(reversed(numbers), rest))
        for name in (name for name in _OF_REVISITS if name in self._defects):
            k, n = next(free, (-1, 0))
            if k < 0:
                raise ArgumentError(f"Defects {self._defects} need more sites or revisits than {count} and {len(numbers)}.")
            spoilt[k].add((name, n))
        return [replace(_site(area, seed), spoilt=frozenset(its)) for area, its in zip(areas, spoilt, strict=True)]

    def _areas(self, count: int, whole: Sequence[str]) -> list[SampleArea]:
        """The first areas of the table; those that a defect needs take the place of others."""
        known = read_sample_areas()[:-1]
        by_name = {area.name: area for area in known}
        wanted = [by_name["ASMSpotter-1-1-1"]] if "hr-without-lr" in whole else []
        head = []
        if "split-repeats" in self._defects:  # one repeated within its split, one in two splits
            twice = [area for area in known if len(area.published) > 1]
            head += [next(area for area in twice if len(set(area.published)) == n) for n in (1, 2)]
        if "names-with-spaces" in self._defects:
            head.append(next(area for area in known if " " in area.name))
            self._plant("names-with-spaces", head[-1].name)
        chosen = list({area.name: area for area in (*head, *known) if area not in wanted}.values())
        chosen = [*chosen[: count - len(wanted)], *wanted]
        if len(whole) >= count or len(head) + len(whole) > count:
            raise ArgumentError(
                f"Defects {self._defects} need {max(len(whole) + 1, len(head) + len(whole))} sites; asked were {count}."
            )
        return chosen

    def _write_site(self, site: _Site) -> None:
        if not site.has("lr-without-hr"):
            for path, content in self._hr_files(site, self._hr_root):
                self._out.put(path, content)
                if site.has("duplicate-file"):
                    other = "hr_dataset" if self._kaggle else "hr_dataset/12bit"
                    self._plant("duplicate-file", path.replace(self._hr_root, other, 1), content)
        if not site.has("hr-without-lr"):
            levels = [level for level in ("l2a", "l1c") if level in self._settings["products"]]
            for level in levels:
                if not (self._kaggle and level == "l1c"):
                    self._write_lr(site, level, is_spoilt=level == levels[0])

    def _write_orphan(self) -> None:
        orphan = _site(read_sample_areas()[-1], self._settings["seed"])
        self._planted.append(("orphan-folder", f"{self._hr_root}/{ORPHAN}"))
        for path, content in self._hr_files(orphan, self._hr_root):
            self._out.put(path, content)

    def _hr_files(self, site: _Site, root: str) -> Iterator[tuple[str, bytes]]:
        """High resolution: uint16 DN, reflectance × 10000, CRS but no geotransform; the preview 8-bit RGB."""
        name = site.area.name
        bands = {"hr_ps": HR_BANDS, "hr_pan": ("PAN",), "hr_rgbn": HR_BANDS, "hr_rgb": HR_BANDS[:3]}
        planes: dict[tuple[str, int], Float32Array] = {}
        for kind in (kind for kind in bands if kind in self._settings["products"]):
            path = f"{root}/{name}/{name}_{kind.removeprefix('hr_')}.{'png' if kind == 'hr_rgb' else 'tiff'}"
            if kind == "hr_pan" and site.has("missing-hr-file"):
                self._plant("missing-hr-file", path)
                continue
            for band in bands[kind]:
                if (band, HR_PX[kind]) not in planes:
                    planes[band, HR_PX[kind]] = self._hr_plane(site, band, HR_PX[kind])
            dn = np.stack([planes[band, HR_PX[kind]] for band in bands[kind]])
            if site.has("black-bars"):
                width = 1 if kind == "hr_rgbn" else 4
                dn[:, :width] = dn[:, :, :width] = 0
                self._plant("black-bars", path)
            if site.has("bright-values") and kind in _BRIGHT:
                dn[:, -2, -3] = _BRIGHT[kind]
                self._plant("bright-values", path)
            if kind == "hr_rgb":
                yield path, raster_bytes(np.minimum(dn / 3000 * 255, 255).astype(np.uint8), driver="PNG", ZLEVEL=1)
            else:
                yield path, raster_bytes(dn.astype(np.uint16), crs="EPSG:4326")

    def _hr_plane(self, site: _Site, band: str, px: int) -> Float32Array:
        found = self._texture.reflectance(band, (px, px), **_place(site, site.hr_day))
        return np.rint(found * np.float32(10_000))

    def _write_lr(self, site: _Site, level: str, *, is_spoilt: bool) -> None:
        for one in site.dates[: self._settings["revisits"]]:
            for path, content in self._lr_files(site, level, one):
                kind = path.rsplit("-", 1)[1]
                defect = _spoilt_by(site, one.n, kind) if is_spoilt else None
                if defect is None:
                    self._out.put(path, content)
                elif defect == "truncated-file":
                    self._plant(defect, path, content[: len(content) // 2])
                else:
                    self._plant(defect, path, {"empty-file": b"", "bad-json": b"{'datetime': "}.get(defect))

    def _lr_files(self, site: _Site, level: str, one: _Date) -> Iterator[tuple[str, bytes]]:
        """Files of one revisit: float32 all, EPSG:4326 over the bounds; bands are multiples of 1e-4 as float32 can hold them."""
        from rasterio.transform import from_bounds

        name, shape = site.area.name, lr_shape_yx(site.area.bounds)
        place = f"lr_dataset/{name}/{level.upper()}/{name}-{one.n}"
        profile = {"crs": "EPSG:4326", "transform": from_bounds(*site.area.bounds, shape[1], shape[0])}
        where = _place(site, one.acquired.date())
        probability = self._texture.clouds(shape, cover=one.cloud_cover / 100, **where)
        cloud = np.clip((probability - np.float32(0.3)) / np.float32(0.5), 0, 1)
        bands = self._lr_bands(level, shape, cloud, where)
        sides = _sides(probability, site.area.bounds, one)
        self._spoil_pixels(site, one.n, f"{place}-", bands, sides)
        yield f"{place}-{level.upper()}_data.tiff", raster_bytes(bands, **profile)
        for kind in SIDE_KINDS:
            if kind in self._settings["side_files"] and not self._is_absent(name, one.n, kind):
                yield f"{place}-{kind}.tiff", raster_bytes(sides[kind][None], **profile)
        yield f"{place}.metadata", _json(one, site.hr_day, shift_days=2 * site.has("date-conflict", one.n))

    def _lr_bands(self, level: str, shape: tuple[int, int], cloud: Float32Array, where: Mapping[str, Any]) -> Float32Array:
        if level == "l2a":
            found = self._texture.stack(L2A_BANDS, shape, cloud=cloud, **where)
        else:
            found = self._texture.stack(L1C_BANDS, shape, level="toa", cloud=cloud, **where)
        return (np.rint(found.astype(np.float64) * 10_000) / 10_000).astype(np.float32)

    def _spoil_pixels(self, site: _Site, n: int, place: str, bands: Float32Array, sides: Mapping[str, Float32Array]) -> None:
        if site.has("off-grid-value", n):
            bands[3, 5, 7] = (round(float(bands[3, 5, 7]) * 10_000) + 0.5) / 10_000
        if site.has("clm-255", n):
            sides["CLM"][:16, :16] = 255
        if site.has("no-data-pixels", n):
            sides["dataMask"][:, -10:] = 0
            bands[:, :, -10:] = 0
        for defect in ("off-grid-value", "clm-255", "no-data-pixels", "date-conflict"):
            if site.has(defect, n) and (defect, place[:-1]) not in self._planted:
                self._planted.append((defect, place[:-1]))

    def _is_absent(self, name: str, n: int, kind: str) -> bool:
        """Kaggle has 5.4 rasters of 8 a revisit: here one angle always, and another one for two revisits of five."""
        chosen = _ANGLES[0], *((_ANGLES[1],) if _unit(name, n) < 0.4 else ())
        return self._kaggle and kind in _ANGLES and kind not in chosen

    def _metadata_rows(self, sites: Sequence[_Site]) -> Iterator[Sequence[object]]:
        first = "tile" if self._settings["release"] == "zenodo-v1.1" else ""
        head = [first, "n", "lowres_date", "highres_date", "cloud_cover", "delta", "area", "bounds", "lon", "lat", "SMOD"]
        head += ["IPCC Class", "SMOD Class", "source"]
        drop = head.index("bounds") if "no-bounds" in self._defects else None
        if drop is not None:
            self._planted.append(("no-bounds", METADATA_CSV))
        yield _without(head, drop)
        for site in sites:
            area, (west, south, east, north) = site.area, site.area.bounds
            if site.has("bounds-off"):
                west, east = west + 0.001, east + 0.001
                self._planted.append(("bounds-off", area.name))
            for one in site.dates:
                row = [area.name, one.n, one.acquired.date(), site.hr_day, one.cloud_cover, one.delta, 2.5]
                row += [[west, south, east, north], (west + east) / 2, (south + north) / 2, area.smod, area.ipcc]
                yield _without([*row, _SMOD_CLASSES[area.smod], area.source], drop)

    def _split_rows(self, sites: Sequence[_Site]) -> Iterator[Sequence[object]]:
        yield "", "tile", "IPCC Class", "SMOD", "source", "joint_class", "split"
        left_out = next((s for s in sites if len(s.area.published) < 2 and not s.has("missing-tile")), sites[0])
        for k, site in enumerate(sites):
            area = site.area
            if site is left_out and "not-in-split" in self._defects:
                self._planted.append(("not-in-split", area.name))
                continue
            repeats = "split-repeats" in self._defects and len(area.published) > 1
            if repeats:
                self._planted.append(("split-repeats", area.name))
            for split in area.published if repeats else area.published[:1]:
                joint = f"{area.source}/{area.ipcc or 'nan'}/{area.smod}"
                yield k * _TABLE_REVISITS, area.name, area.ipcc, area.smod, area.source, joint, split


def _spoilt_by(site: _Site, n: int, kind: str) -> str | None:
    """The defect that takes, cuts or empties a file of revisit ``n``; ``kind`` is the last piece of its name."""
    is_data, is_json = kind.endswith("_data.tiff"), kind.endswith(".metadata")
    hit = {
        "missing-revisit": True,
        "truncated-file": is_data,
        "revisit-without-data": is_data,
        "empty-file": kind == "CLP.tiff",
        "missing-side-files": kind == "CLM.tiff" or kind.removesuffix(".tiff") in _ANGLES,
        "bad-json": is_json,
        "no-json": is_json,
    }
    return next((name for name, does in hit.items() if does and site.has(name, n)), None)


def _sides(probability: Float32Array, bounds: Bounds, one: _Date) -> dict[str, Float32Array]:
    """Side files of a revisit, float32 (y, x): CLM 0/1 in blocks of 160 m, CLP 0-252, dataMask 1, angles in degrees."""
    height, width = probability.shape
    coarse = np.where(probability[::16, ::16] > 0.4, np.float32(1), np.float32(0))
    clm = coarse.repeat(16, axis=0).repeat(16, axis=1)[:height, :width]
    slope = np.linspace(-0.05, 0.05, width, dtype=np.float32)
    latitude = math.radians((bounds[1] + bounds[3]) / 2)
    declination = math.radians(-23.44) * math.cos(2 * math.pi * (one.acquired.timetuple().tm_yday + 10) / 365.25)
    cosine = math.sin(latitude) * math.sin(declination) + math.cos(latitude) * math.cos(declination) * math.cos(
        math.radians(22.5)
    )
    sun = math.degrees(math.acos(max(-0.99, min(0.99, cosine))))
    degrees = {
        "viewZenithMean": 2 + 8 * _unit(bounds, one.n, "view"),
        "viewAzimuthMean": 105.0 if one.n % 2 else 285.0,
        "sunAzimuthAngles": 150.0 if latitude > 0 else 40.0,
        "sunZenithAngles": sun,
    }
    angles = {kind: np.tile(np.float32(value) + slope, (height, 1)) for kind, value in degrees.items()}
    clp = np.rint(probability * np.float32(252))
    return {"CLM": clm, "CLP": clp, "dataMask": np.ones_like(clp), **angles}


def _json(one: _Date, hr_day: date, *, shift_days: int) -> bytes:
    stamp = (one.acquired + timedelta(days=shift_days)).isoformat(sep=" ")
    found = {"cloud_cover": one.cloud_cover, "target_date": str(hr_day), "delta": one.delta, "area": 2.5, "datetime": stamp}
    return json.dumps(found).encode()


def _csv(rows: Iterator[Sequence[object]]) -> bytes:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue().encode()


def _without(row: Sequence[object], drop: int | None) -> Sequence[object]:
    return row if drop is None else [cell for k, cell in enumerate(row) if k != drop]


def _place(site: _Site, day: date) -> dict[str, Any]:
    """The ground of a site on a day, as arguments of `Texture`."""
    days = (day - date(1970, 1, 1)).days
    return {"seed": site.seed, "day": days, "span_yx_m": (SIDE_M, SIDE_M), "origin_yx_m": site.origin_yx_m}


def _unit(*key: object) -> float:
    """A number in [0, 1) that only the key decides."""
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:6], "big") / 2**48


_README_TEXT = """\
SYNTHETIC. This is not WorldStrat: eocube made these files, in WorldStrat's layout, to try programs on.

No pixel here was seen at the place that its file names. The pixels are pieces of real Sentinel-2 images of a forest in Romania,
turned, joined, recoloured and resampled; bands that those lack, detail finer than 10 m, clouds, atmosphere, dates and angles are
made up. Names, bounds, classes and published splits of the areas are WorldStrat's. Train nothing on it that shall be used.

Contains modified Copernicus Sentinel data 2015-2021; pixels from the PyPI package nrt 0.0.5, Copyright (C) 2022 European Union
(Joint Research Centre), EUPL-1.2. Tables: WorldStrat by J. Cornebise, I. Orsolic and F. Kalaitzis, CC BY 4.0, changed.

"""
