"""Memory of one task: what the plan says and what a worker is measured to hold, a row for each kind of task.

Prints one JSON line a row. Each row is one task in a process of its own: a warm-up task (the same chain on a few pixels) loads
the libraries and compiles the kernels, then the process's high-water mark is cleared, the task runs, and ``measured_mb`` is the
mark less the process's size before the task, the middle of three times. The goal is that the plan is never below the highest of
them and at most half as much above the middle.

``python benchmarks/memory.py [NAME …]`` runs the rows whose names begin with one of the given texts; without any, all.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import rasterio
import rasterio.warp
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox

import eocube
from eocube.lazy.lift import lift
from eocube.model.recipe import step as eocube_step

sys.path.insert(0, str(Path(__file__).parent))  # run or imported, its neighbour is found
import _cogs
from _peak import Peak, in_new_process

BLOCK_PX = 1024
WIDE, DEEP = "wide", "deep"
SCENES = {WIDE: (4, 2048), DEEP: (16, 1024)}
"""Folder → scenes that are made, and their edge in pixels; a cube of more dates names their files several times. A chunk of the
layouts holds at most 16 dates, so that none sees a file twice."""

GOAL = "least_ratio >= 1 and ratio <= 1.5"
TIMES = 3
MORE_BANDS = ("rededge", "nir08", "swir16", "swir22", "coastal", "rededge2", "rededge3", "nir09")
Item = dict[str, Any]
Row = dict[str, Any]


# ------------------------------------------------------------------------------------------------ files


class Files(NamedTuple):
    """Scenes on disk."""

    folder: Path

    def items(
        self, dates: int, *, of: str = DEEP, bands: int = 4, scl: bool = False, kind: str = "dn", tiles: int = 1
    ) -> list[Item]:
        """Items of ``dates`` days with ``tiles`` each (western and eastern part), naming the same few files again and again."""
        scenes = _cogs.items_of(self.folder / of)
        return [
            _item(scenes[d % len(scenes)], d, part, bands=bands, scl=scl, kind=kind)
            for d in range(dates)
            for part in _parts(tiles)
        ]


def _item(scene: Item, day: int, part: str, *, bands: int, scl: bool, kind: str) -> Item:
    """A scene on another day, with as many bands as asked for and in files of the asked kind."""
    files = {a["eo:bands"][0]["common_name"]: a for a in scene["assets"].values()}
    first, *_ = files.values()
    # Pixels of other days, so that a chunk of many bands holds none of them twice.
    more = [
        {**a, "href": a["href"].replace(_day(scene), f"_{(int(_day(scene)[1:-1]) + n) % 4:02d}_")}
        for n in (1, 2)
        for a in files.values()
    ]
    files |= dict(zip(MORE_BANDS, more, strict=True))
    assets = {}
    for name, file in list(files.items())[:bands]:
        href = file["href"].replace(".tif", f"{part}{'_float' if kind == 'float' else ''}.tif")
        assets[name] = {**file, "href": href, "eo:bands": [{"name": name, "common_name": name}]}
        if kind == "float":
            assets[name]["raster:bands"] = [{"data_type": "float32", "nodata": "nan", "spatial_resolution": 10}]
    if scl:
        grid = {k: v for k, v in first.items() if k.startswith("proj:")}
        href = first["href"].replace("_B02.tif", "_SCL.tif")
        assets["scl"] = {**grid, "href": href, "raster:bands": [{"data_type": "uint8", "nodata": 0, "spatial_resolution": 10}]}
    when = np.datetime64("2024-01-01T09:30:00") + np.timedelta64(2 * day, "D")
    return {
        **scene,
        "id": f"{scene['id']}{part}_{day:03d}",
        "properties": {**scene["properties"], "datetime": f"{when}Z"},
        "assets": assets,
    }


def _day(scene: Item) -> str:
    return f"_{scene['id'][-2:]}_"


def _parts(tiles: int) -> Sequence[str]:
    return [""] if tiles == 1 else ["_W", "_E"]


def make_files(folder: Path) -> Files:
    """Write the scenes: digital numbers of four bands; of the deep ones also classes, halves, and reflectance in floats."""
    for name, (n, edge_px) in SCENES.items():
        (folder / name).mkdir(parents=True)
        _cogs.make_catalog(folder / name, dates=n, edge_px=edge_px, block_px=BLOCK_PX)
    classes = _classes(folder / DEEP / "sample")
    for i, item in enumerate(_cogs.items_of(folder / DEEP)):
        scl = _cogs._mosaic(classes, SCENES[DEEP][1], seed=i)[0].astype(np.uint8)  # noqa: SLF001 - of the very pieces of the bands
        _write(folder / DEEP / f"{item['id']}_SCL.tif", scl, 0)
        for asset in item["assets"].values():
            _write_variants(Path(asset["href"]))
    files = Files(folder)
    eocube.write_cube(eocube.load_stac(files.items(32, scl=True)), str(folder / "store"), executor="serial")
    return files


def _write_variants(path: Path) -> None:
    """Its western and eastern half (a little of both overlaps), and the whole as reflectance."""
    with rasterio.open(path) as file:
        dn = file.read(1)
    middle = dn.shape[1] // 2
    for part, empty in (("_W", slice(middle + 99, None)), ("_E", slice(0, middle))):
        half = dn.copy()
        half[:, empty] = 0
        _write(path.with_name(f"{path.stem}{part}.tif"), half, 0)
    reflectance = np.where(dn == 0, np.float32(np.nan), (dn.astype(np.float32) - 1000) * np.float32(1e-4))
    _write(path.with_name(f"{path.stem}_float.tif"), reflectance, np.nan)


def _write(path: Path, pixels: npt.NDArray[Any], nodata: float) -> None:
    """Tiled, coded for speed."""
    x, y = _cogs.CORNER_XY
    transform = Affine(_cogs.GSD_M, 0, x, 0, -_cogs.GSD_M, y)
    profile = {"driver": "GTiff", "dtype": pixels.dtype, "count": 1, "height": pixels.shape[0], "width": pixels.shape[1]}
    tiled = {"tiled": True, "blockxsize": BLOCK_PX, "blockysize": BLOCK_PX, "compress": "zstd", "zstd_level": 1}
    with rasterio.open(path, "w", crs=_cogs.CRS, transform=transform, nodata=nodata, **profile, **tiled) as file:
        file.write(pixels, 1)


def _classes(folder: Path) -> npt.NDArray[np.uint8]:
    """Scene classification of the sample, (date, 1, y, x)."""
    corpus = eocube.open_corpus("stac", folder / "sentinel2" / "catalog.json")
    scl: npt.NDArray[np.uint8] = corpus.cube(corpus.corpus.sites[0].name, "10m")["scl"].to_numpy()
    return scl[:, None]


# ------------------------------------------------------------------------------------------------ rows


class Case(NamedTuple):
    """One row: a lazy cube, and how it is written."""

    name: str
    cube: Callable[[Files], xr.Dataset]
    layout: str = "balanced"
    max_mb: int = 256


def _stac(dates: int, *, to: GeoBox | None = None, resampling: str = "nearest", **more: Any) -> Callable[[Files], xr.Dataset]:
    def load(files: Files) -> xr.Dataset:
        return eocube.load_stac(files.items(dates, **more), geobox=to, resampling=resampling)

    return load


def _stored(files: Files) -> xr.Dataset:
    """32 dates of a store, shards of 16."""
    return eocube.open_cube(str(files.folder / "store" / "cubes" / "cube" / "data"))


@eocube_step(arg_times="same", scratch=0.15)
def _filled(cube: xr.Dataset, other: xr.Dataset) -> xr.Dataset:
    """Where one cube has no data the other's."""
    values = lift(_where_empty, cube["data"], other["data"], dims=cube["data"].dims, dtype=cube["data"].dtype)
    return cube.assign(data=cube["data"].copy(data=values))


def _where_empty(data: npt.NDArray[Any], other: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.where(data == 0, other, data)


def _fill(cube: xr.Dataset) -> xr.Dataset:
    return _filled(eocube.mask_clouds(cube), cube)


def _then(load: Callable[[Files], xr.Dataset], *steps: Callable[[xr.Dataset], xr.Dataset]) -> Callable[[Files], xr.Dataset]:
    def chain(files: Files) -> xr.Dataset:
        cube = load(files)
        for step in steps:
            cube = step(cube)
        return cube

    return chain


def _monthly(cube: xr.Dataset) -> xr.Dataset:
    return eocube.composite(cube, "1MS", "median")


def _ndvi(cube: xr.Dataset) -> xr.Dataset:
    return eocube.spectral_index(cube, "ndvi")


def _three_by_three(cube: xr.Dataset) -> xr.Dataset:
    """Mean of the pixels around, a step with a halo."""
    values = cube["data"].to_numpy()
    out = values.astype(np.float32)
    for axis in (2, 3):
        before, after = (np.roll(out, n, axis) for n in (1, -1))
        out = (before + out + after) / np.float32(3)
    return cube.assign(data=(cube["data"].dims, out))


def _smooth(cube: xr.Dataset) -> xr.Dataset:
    return eocube.apply(cube, _three_by_three, halo_px=1, step_id="smooth")


x, y = _cogs.CORNER_XY
MOVED = GeoBox((1024, 1024), Affine(10, 0, x + 33, 0, -10, y - 37), _cogs.CRS)
"""The scenes' pixel size, a third of a pixel off."""

TURNED = GeoBox.from_bbox((x + 1500, y - 9000, x + 9000, y - 1500), _cogs.CRS, resolution=10).to_crs("EPSG:3035", resolution=10)
"""Another CRS."""

CASES = (
    Case("convert.map", _stac(1, of=WIDE), "map"),
    Case("convert.patch", _stac(4), "patch"),
    Case("convert.balanced", _stac(16)),
    Case("convert.series", _stac(64), "series"),
    Case("convert.scl", _stac(16, scl=True)),
    Case("convert.float32", _stac(16, kind="float")),
    Case("convert.12_bands", _stac(16, bands=12)),
    Case("convert.12_bands.map", _stac(1, of=WIDE, bands=12), "map"),
    Case("convert.32_mb", _stac(16), max_mb=32),
    Case("convert.4_mb", _stac(16), max_mb=4),
    Case("convert.moved", _stac(4, to=MOVED, resampling="bilinear"), "patch"),
    Case("convert.warped", _stac(4, to=TURNED, resampling="bilinear"), "patch"),
    Case("convert.mosaic", _stac(16, tiles=2)),
    Case("convert.mosaic.patch", _stac(4, tiles=2), "patch"),
    Case("reflectance", _then(_stac(16, scl=True), eocube.mask_clouds, eocube.to_reflectance)),
    Case("reflectance.32_mb", _then(_stac(16, scl=True), eocube.mask_clouds, eocube.to_reflectance), max_mb=32),
    Case("median", _then(_stac(48, scl=True), eocube.mask_clouds, _monthly), "map"),
    Case("median.balanced", _then(_stac(48, scl=True), eocube.mask_clouds, _monthly)),
    Case("median.float32", _then(_stac(48, scl=True), eocube.mask_clouds, eocube.to_reflectance, _monthly), "map"),
    Case("median.32_mb", _then(_stac(48, scl=True), eocube.mask_clouds, _monthly), "map", max_mb=32),
    Case("median.64_mb", _then(_stac(48, scl=True), eocube.mask_clouds, _monthly), "map", max_mb=64),
    Case("index", _then(_stac(16), _ndvi)),
    Case("halo", _then(_stac(8), _smooth)),
    Case("halo.32_mb", _then(_stac(8), _smooth), max_mb=32),
    Case("fill", _then(_stac(16, scl=True), _fill)),
    Case("stored", _stored),
    Case("stored.reflectance", _then(_stored, eocube.mask_clouds, eocube.to_reflectance)),
    Case("stored.median", _then(_stored, eocube.mask_clouds, _monthly), "map"),
)


# ------------------------------------------------------------------------------------------------ measuring


def _measure(sent: bytes) -> Row:
    """In a process of its own: warm up, run the task, say what it held."""
    import cloudpickle

    from eocube.exec.region import run_regions

    job, task, small, small_task = cloudpickle.loads(sent)
    run_regions(small, (small_task,))
    peak = Peak()
    with peak.watched():
        started = time.process_time()
        (done,) = run_regions(job, (task,))
        seconds = time.process_time() - started
    return {
        "measured_mb": peak.grown_mb,
        "how": peak.how,
        "cpu_s": seconds,
        "written_mb": done.bytes_written / 1e6,
        "base_mb": peak.before_mb,
    }


def measure(job: Any, store: str) -> Row:
    """What writing the first region of a job holds, in a fresh process."""
    import cloudpickle

    from eocube.exec.region import RegionTask
    from eocube.model.spec import Region

    job = replace(job, store_url=f"{store}/measured")
    cut = replace(job.spec, chunk_tyx=(1, 64, 64), shard_tyx=(1, 64, 64), cell_px=16)
    small = replace(job, spec=cut, store_url=f"{store}/warm")
    first = Region(0, 0, 0)
    tasks = [RegionTask(region=first, key="0" * 64, leaves={}) for _ in range(2)]
    row: Row = in_new_process(_measure, cloudpickle.dumps((job, tasks[0], small, tasks[1])))
    return row


def _measured(job: Any) -> Row:
    with tempfile.TemporaryDirectory() as store:
        return measure(job, store)


def _middle(rows: list[Row]) -> Row:
    """The measurement in the middle, and the highest beside it."""
    rows = sorted(rows, key=lambda row: float(row["measured_mb"]))
    return {**rows[len(rows) // 2], "most_mb": rows[-1]["measured_mb"]}


def row_of(case: Case, files: Files, times: int = 1) -> Row:
    """One row of the table: never below the highest of ``times`` measurements, at most half above the one in the middle."""
    from eocube.jobs.plan import Plan
    from eocube.jobs.write import WriteSettings, plan_cube

    settings = WriteSettings(layout=case.layout, max_bytes=case.max_mb * 1024 * 1024)  # type: ignore[arg-type]
    plan = plan_cube(case.cube(files), "unused", site="cube", product="data", settings=settings)
    stated = next(iter(Plan([plan]).head(1).rows()))
    found = _middle([_measured(plan.job) for _ in range(times)])
    planned, measured = stated["peak_bytes"] / 1e6, found["measured_mb"]
    ratio, least = planned / measured, planned / found["most_mb"]
    return {
        "bench": f"memory.{case.name}",
        "unit": "MB",
        "ours": round(measured, 1),
        "floor": None,
        "peers": {},
        "to_floor": None,
        "to_best_peer": None,
        "goal": GOAL,
        "met": least >= 1 and ratio <= 1.5,
        "peak_mb": round(measured, 1),
        "planned_mb": round(planned, 1),
        "measured_mb": round(measured, 1),
        "ratio": round(ratio, 3),
        "least_ratio": round(least, 3),
        "raw_mb": round(stated["bytes_out"] / 1e6, 1),
        **{k: v if isinstance(v, str) else round(v, 2) for k, v in found.items() if k != "measured_mb"},
    }


def main() -> None:
    """Print the rows."""
    chosen = [c for c in CASES if not sys.argv[1:] or c.name.startswith(tuple(sys.argv[1:]))]
    with tempfile.TemporaryDirectory() as folder:
        files = make_files(Path(folder))
        for case in chosen:
            print(json.dumps(row_of(case, files, TIMES)), flush=True)


if __name__ == "__main__":
    main()
