"""Memory of one task: what the plan says and what a worker is measured to hold, a row for each kind of task.

Prints one JSON line a row. A process does a warm-up task (the same chain on a few pixels) in a thread that ends, which loads the
libraries and compiles the kernels, and gives its free pages back, as longer tasks do in the end; then its high-water mark is
cleared, it does the row's task three times, and what is measured is the mark less its size before the first. Three processes are
workers of a Dask cluster under their nannies (``measured_mb`` is the middle one), one is a plain Python (``alone_mb``), where a
thread does the tasks with other settings of the heap. Dask's statistical profiler is off: it keeps what it sees second by second,
and a worker grows by that while it works, whatever the work is. NumPy's huge pages are off too: the kernel makes them of free
memory when it comes to it. The goal is that the plan is never below the highest of the four and at most half above the lowest.

``python benchmarks/memory.py [NAME …]`` runs the rows whose names begin with one of the given texts; without any, all.
"""

from __future__ import annotations

import json
import logging
import statistics
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import rasterio
import rasterio.warp
import requests
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox

import eocube
from eocube.exec.executors import PROFILER_OFF, DaskExecutor
from eocube.io.heap import tidied
from eocube.lazy.lift import lift
from eocube.model.recipe import step as eocube_step
from eocube.testing.stores import counting_server

sys.path.insert(0, str(Path(__file__).parent))  # run or imported, its neighbour is found
import _cogs
from _peak import Peak, in_new_process, plain_memory

BLOCK_PX = 1024
WIDE, DEEP = "wide", "deep"
SCENES = {WIDE: (4, 2048), DEEP: (16, 1024)}
"""Folder → scenes that are made, and their edge in pixels; a cube of more dates names their files several times. A chunk of the
layouts holds at most 16 dates, so that none sees a file twice."""

GOAL = "least_ratio >= 1 and most_ratio <= 1.5"
WORKERS, TASKS = 3, 3
MORE_BANDS = ("rededge", "nir08", "swir16", "swir22", "coastal", "rededge2", "rededge3", "nir09")
Item = dict[str, Any]
Row = dict[str, Any]


# ------------------------------------------------------------------------------------------------ files


class Files(NamedTuple):
    """Scenes on disk."""

    folder: Path
    url: str = ""
    """Where a server on loopback has them."""

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
        href = file["href"].replace(".tif", f"{part}{'' if kind == 'dn' else f'_{kind}'}.tif")
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
        _write_many(sorted(folder.glob(f"{DEEP}/{item['id']}_B0?.tif")), folder / DEEP / f"{item['id']}_many.tif")
        scl = _cogs._mosaic(classes, SCENES[DEEP][1], seed=i)[0].astype(np.uint8)  # noqa: SLF001 - of the very pieces of the bands
        _write(folder / DEEP / f"{item['id']}_SCL.tif", scl, 0)
        for asset in item["assets"].values():
            _write_variants(Path(asset["href"]))
    files = Files(folder)
    eocube.write_cube(eocube.load_stac(files.items(32, scl=True)), str(folder / "store"), executor="serial")
    return files


def _write_variants(path: Path) -> None:
    """Its western and eastern half (a little of both overlaps), the whole as reflectance, and noise."""
    with rasterio.open(path) as file:
        dn = file.read(1)
    middle = dn.shape[1] // 2
    for part, empty in (("", slice(0, 0)), ("_W", slice(middle + 99, None)), ("_E", slice(0, middle))):
        some = dn.copy()
        some[:, empty] = 0
        if part:
            _write(path.with_name(f"{path.stem}{part}.tif"), some, 0)
        reflectance = np.where(some == 0, np.float32(np.nan), (some.astype(np.float32) - 1000) * np.float32(1e-4))
        _write(path.with_name(f"{path.stem}{part}_float.tif"), reflectance, np.nan)
    noise = np.random.default_rng(zlib.crc32(path.name.encode())).integers(1, 60_000, dn.shape, np.uint16)
    _write(path.with_name(f"{path.stem}_noise.tif"), noise, 0)


def _write_many(bands: Sequence[Path], path: Path) -> None:
    """Four files as one of eight bands, pixel by pixel."""
    pixels = []
    for band in bands:
        with rasterio.open(band) as file:
            pixels.append(file.read(1))
    _write(path, np.stack([*pixels, *(p[::-1] for p in pixels)]), 0, block_px=512)


def _write(path: Path, pixels: npt.NDArray[Any], nodata: float, *, block_px: int = BLOCK_PX) -> None:
    """Tiled, coded for speed."""
    x, y = _cogs.CORNER_XY
    transform = Affine(_cogs.GSD_M, 0, x, 0, -_cogs.GSD_M, y)
    layers = pixels if pixels.ndim == 3 else pixels[None]
    profile = {"driver": "GTiff", "dtype": pixels.dtype, "crs": _cogs.CRS, "transform": transform, "nodata": nodata}
    profile |= dict(zip(("count", "height", "width"), layers.shape, strict=True))
    tiled = {"tiled": True, "blockxsize": block_px, "blockysize": block_px, "compress": "zstd", "zstd_level": 1}
    with rasterio.open(path, "w", **profile, **tiled, interleave="pixel") as file:
        file.write(layers)


def _classes(folder: Path) -> npt.NDArray[np.uint8]:
    """Scene classification of the sample, (date, 1, y, x)."""
    corpus = eocube.open_corpus("stac", folder / "sentinel2" / "catalog.json")
    scl: npt.NDArray[np.uint8] = corpus.cube(corpus.corpus.sites[0].name, "10m")["scl"].to_numpy()
    return scl[:, None]


# ------------------------------------------------------------------------------------------------ rows


class Case(NamedTuple):
    """One row: a lazy cube, and how and where it is written."""

    name: str
    cube: Callable[[Files], xr.Dataset]
    layout: str = "balanced"
    max_mb: int = 256
    store: str = "folder"
    """``folder``, ``s3`` (moto, in the process that measures nothing) or ``fsspec`` (its own local file system)."""


def _stac(dates: int, *, to: GeoBox | None = None, resampling: str = "nearest", **more: Any) -> Callable[[Files], xr.Dataset]:
    def load(files: Files) -> xr.Dataset:
        return eocube.load_stac(files.items(dates, **more), geobox=to, resampling=resampling)

    return load


def _remote(dates: int, **more: Any) -> Callable[[Files], xr.Dataset]:
    """Over HTTP."""

    def load(files: Files) -> xr.Dataset:
        items = files.items(dates, **more)
        for item in items:
            item["assets"] = {
                k: {**a, "href": a["href"].replace(str(files.folder), files.url)} for k, a in item["assets"].items()
            }
        return eocube.load_stac(items)

    return load


def _many_bands(files: Files) -> xr.Dataset:
    """Scenes of one file each, with eight bands pixel by pixel."""
    names = ["blue", "green", "red", "nir", *MORE_BANDS[:4]]
    items = files.items(16)
    for item in items:
        first, *_ = item["assets"].values()
        bands = {"eo:bands": [{"name": n, "common_name": n} for n in names]}
        href = first["href"].replace("_B02.tif", "_many.tif")
        item["assets"] = {"data": {**first, **bands, "href": href, "raster:bands": first["raster:bands"] * len(names)}}
    return eocube.load_stac(items)


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
    Case("convert.mosaic.float32", _stac(16, tiles=2, kind="float")),
    Case("reflectance", _then(_stac(16, scl=True), eocube.mask_clouds, eocube.to_reflectance)),
    Case("reflectance.32_mb", _then(_stac(16, scl=True), eocube.mask_clouds, eocube.to_reflectance), max_mb=32),
    Case("median", _then(_stac(48, scl=True), eocube.mask_clouds, _monthly), "map"),
    Case("median.balanced", _then(_stac(48, scl=True), eocube.mask_clouds, _monthly)),
    Case("median.float32", _then(_stac(48, scl=True), eocube.mask_clouds, eocube.to_reflectance, _monthly), "map"),
    Case("median.32_mb", _then(_stac(48, scl=True), eocube.mask_clouds, _monthly), "map", max_mb=32),
    Case("median.64_mb", _then(_stac(48, scl=True), eocube.mask_clouds, _monthly), "map", max_mb=64),
    Case("index", _then(_stac(16), _ndvi)),
    Case("1_band.scl", _stac(16, scl=True, bands=1)),
    Case("1_band.scl.patch", _stac(4, scl=True, bands=1), "patch"),
    Case("1_band.mask", _then(_stac(16, scl=True, bands=1), eocube.mask_clouds)),
    Case("1_band.reflectance", _then(_stac(16, scl=True, bands=1), eocube.mask_clouds, eocube.to_reflectance)),
    Case("1_band.median", _then(_stac(48, scl=True, bands=1), eocube.mask_clouds, _monthly), "map"),
    Case("2_bands.mask", _then(_stac(16, scl=True, bands=2), eocube.mask_clouds)),
    Case("halo", _then(_stac(8), _smooth)),
    Case("halo.32_mb", _then(_stac(8), _smooth), max_mb=32),
    Case("fill", _then(_stac(16, scl=True), _fill)),
    Case("noise", _stac(16, kind="noise")),
    Case("s3", _stac(16), store="s3"),
    Case("s3.noise", _stac(16, kind="noise"), store="s3"),
    Case("s3.patch", _stac(4), "patch", store="s3"),
    Case("s3.median", _then(_stac(48, scl=True), eocube.mask_clouds, _monthly), "map", store="s3"),
    Case("fsspec", _stac(16), store="fsspec"),
    Case("fsspec.noise", _stac(16, kind="noise"), store="fsspec"),
    Case("remote", _remote(16)),
    Case("remote.map", _remote(1, of=WIDE), "map"),
    Case("8_bands_a_file", _many_bands),
    Case("1_date", _stac(1)),
    Case("stored", _stored),
    Case("stored.reflectance", _then(_stored, eocube.mask_clouds, eocube.to_reflectance)),
    Case("stored.median", _then(_stored, eocube.mask_clouds, _monthly), "map"),
)


# ------------------------------------------------------------------------------------------------ measuring


def _run(sent: bytes, tasks: int) -> Row:
    """Warm up, run the task some times, say what the process held."""
    import cloudpickle

    from eocube.exec.region import run_regions

    job, task, small = cloudpickle.loads(sent)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(run_regions, small, (task,)).result()  # what it leaves at the top of its heap, no other thread uses
    with (peak := Peak()).watched():
        for _ in range(tasks):
            (done,) = tidied(run_regions, job, (task,))
    return {"mb": peak.grown_mb, "how": peak.how, "written_mb": done.bytes_written / 1e6, "base_mb": peak.before_mb}


def _run_in_a_thread(sent: bytes, tasks: int) -> Row:
    """As the executor of threads does."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(_run, sent, tasks).result()


def work_of(job: Any) -> bytes:
    """The first region of a job, and a small job of the same kind."""
    import cloudpickle

    from eocube.exec.region import RegionTask
    from eocube.model.spec import Region

    cut = replace(job.spec, chunk_tyx=(1, 64, 64), shard_tyx=(1, 64, 64), cell_px=16)
    small = replace(job, spec=cut, store_url=f"{job.store_url}/warm")
    sent: bytes = cloudpickle.dumps((job, RegionTask(region=Region(0, 0, 0), key="0" * 64, leaves={}), small))
    return sent


def measured_by_workers(sent: bytes, workers: int, tasks: int) -> list[Row]:
    """What each of some fresh workers of a cluster holds."""
    import dask
    from distributed import Client, LocalCluster

    local = {"dashboard_address": "127.0.0.1:0", "host": "127.0.0.1"}
    with (
        dask.config.set(PROFILER_OFF),
        plain_memory(),
        LocalCluster(n_workers=workers, threads_per_worker=1, memory_limit=0, **local) as cluster,
        Client(cluster) as client,
    ):
        DaskExecutor(client).share(None)  # eocube's plugins, as in a run
        rows: list[Row] = client.gather([client.submit(_run, sent, tasks, workers=[at], pure=False) for at in client.nthreads()])
    return rows


@contextmanager
def target(kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(URL, storage options) of an empty store."""
    with tempfile.TemporaryDirectory() as folder:
        if kind == "s3":
            with _bucket() as endpoint:
                keys = {"aws_access_key_id": "any", "aws_secret_access_key": "any", "region": "us-east-1"}
                yield "s3://bucket/store", {**keys, "endpoint": endpoint, "client_options": {"allow_http": True}}
        elif kind == "fsspec":
            yield f"local://{folder}/store", {"auto_mkdir": True}
        else:
            yield f"{folder}/store", {}


@contextmanager
def _bucket() -> Iterator[str]:
    """The address of an S3 service on loopback with an empty ``bucket``."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        for way, path in (("POST", "moto-api/reset"), ("PUT", "bucket")):
            requests.request(way, f"{endpoint}/{path}", timeout=10).raise_for_status()
        yield endpoint
    finally:
        server.stop()


def row_of(case: Case, files: Files, *, workers: int, tasks: int) -> Row:
    """One row of the table: the plan is never below the highest measurement, at most half above the lowest."""
    from eocube.jobs.plan import Plan
    from eocube.jobs.write import WriteSettings, plan_cube

    with target(case.store) as (url, options), counting_server(files.folder) as server:
        files = files._replace(url=server.url)
        size = case.max_mb * 1024 * 1024
        settings = WriteSettings(layout=case.layout, max_bytes=size, storage_options=options)  # type: ignore[arg-type]
        plan = plan_cube(case.cube(files), url, site="cube", product="data", settings=settings)
        stated = next(iter(Plan([plan]).head(1).rows()))
        sent = work_of(plan.job)
        _run(sent, 1)  # kernels of this row's arrays that nobody compiled yet are kept on disk for the others
        worker, alone = measured_by_workers(sent, workers, tasks), in_new_process(_run_in_a_thread, sent, tasks)
    planned, found = stated["peak_bytes"] / 1e6, [row["mb"] for row in (*worker, alone)]
    most, least = planned / min(found), planned / max(found)
    measured = statistics.median(row["mb"] for row in worker)
    return {
        "bench": f"memory.{case.name}",
        "unit": "MB",
        "ours": round(measured, 1),
        "floor": None,
        "peers": {},
        "to_floor": None,
        "to_best_peer": None,
        "goal": GOAL,
        "met": least >= 1 and most <= 1.5,
        "peak_mb": round(measured, 1),
        "planned_mb": round(planned, 1),
        "measured_mb": round(measured, 1),
        "alone_mb": round(alone["mb"], 1),
        "least_mb": round(min(found), 1),
        "most_mb": round(max(found), 1),
        "most_ratio": round(most, 3),
        "least_ratio": round(least, 3),
        "raw_mb": round(stated["bytes_out"] / 1e6, 1),
        "written_mb": round(worker[0]["written_mb"], 1),
        "base_mb": round(worker[0]["base_mb"], 1),
        "how": worker[0]["how"],
    }


def main() -> None:
    """Print the rows."""
    chosen = [c for c in CASES if not sys.argv[1:] or c.name.startswith(tuple(sys.argv[1:]))]
    with tempfile.TemporaryDirectory() as folder:
        files = make_files(Path(folder))
        for case in chosen:
            print(json.dumps(row_of(case, files, workers=WORKERS, tasks=TASKS)), flush=True)


if __name__ == "__main__":
    main()
