"""Cloud-Optimised GeoTIFFs to a sharded Zarr array: eocube against the floor, odc-stac and stackstac, on the same files.

12 dates × 4 bands × 2048² uint16 with the texture of the sample that ships (SYNTHETIC mosaics of it, see ``_cogs.py``), on two
cores, everything imported and warm. Prints one JSON line a row:

- ``convert.default``: eocube as it is; the floor and the peers write Blosc zstd level 3 with bitshuffle and automatic blocks.
- ``convert.same_codec``: everybody writes eocube's codec.

The floor is the work without a framework: each shard's windows read with rasterio and written with zarr-python, by two processes
that stand already. odc-stac and stackstac load as their documentation shows, in Dask chunks of a shard, and write with
``Dataset.to_zarr`` on Dask's threads (a ``LocalCluster`` of two processes took longer for both). All write the same chunks and
shards, those that eocube chooses. Every array is read back with zarr-python and compared with rasterio's pixels before times are
taken. ``peak_mb`` is by how much a process of its own grows while ours runs in it the second time. Files and arrays lie in a
temporary folder (``TMPDIR``); nothing is synced to disk.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import dask
import numpy as np
import odc.stac
import pystac
import rasterio
import stackstac
import xarray as xr
import zarr
from _cogs import BANDS, CRS, GSD_M, items_of, make_catalog
from _peak import grown_mb, in_new_process
from rasterio.windows import Window
from zarr.codecs import BloscCodec

import eocube
from eocube.io.shards import chunk_codecs
from eocube.jobs.write import explain

DATES, EDGE_PX, BLOCK_PX = 12, 2048, 512
SHAPE = (DATES, len(BANDS), EDGE_PX, EDGE_PX)
CHUNK, SHARD = (1, 4, 256, 256), (16, 4, 512, 512)
WORKERS = 2
REPEATS = 7
MOST_FETCHED = 1.3
CODECS = {
    "default": BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle", typesize=2),
    "same_codec": chunk_codecs("uint16", CHUNK),
}
GOALS = {"default": 1.8, "same_codec": 1.4}
PEERS = ("odc-stac", "stackstac")
Encoding = dict[str, Any]
Write = Callable[[Path], object]


def encoding(codec: Any) -> Encoding:
    """How an array is stored, in the words of zarr and xarray."""
    return {"chunks": CHUNK, "shards": SHARD, "compressors": codec}


def write_ours(store: Path, catalog: Path) -> None:
    """The whole job: catalogue, claim, regions, markers, index."""
    eocube.convert(eocube.open_corpus("stac", catalog), str(store), executor=f"threads:{WORKERS}")


def write_floor(store: Path, hrefs: list[list[str]], pool: ProcessPoolExecutor, codec: Any) -> None:
    """Rasterio and zarr-python, nothing else."""
    zarr.create_array(store, name="data", shape=SHAPE, dtype="uint16", fill_value=0, **encoding(codec))
    edge = SHARD[-1]
    corners = [(y, x) for y in range(0, EDGE_PX, edge) for x in range(0, EDGE_PX, edge)]
    list(pool.map(partial(write_shard, str(store), hrefs), corners))


def write_shard(store: str, hrefs: list[list[str]], corner: tuple[int, int]) -> None:
    """One shard of the floor's array."""
    (y, x), edge = corner, SHARD[-1]
    pixels = np.empty((len(hrefs), len(hrefs[0]), edge, edge), "uint16")
    for date, row in enumerate(hrefs):
        for band, href in enumerate(row):
            with rasterio.open(href) as file:
                file.read(1, window=Window(x, y, edge, edge), out=pixels[date, band])
    zarr.open_array(store, path="data", mode="r+")[:, :, y : y + edge, x : x + edge] = pixels


def write_odc(store: Path, items: list[pystac.Item], codec: Any) -> None:
    """odc-stac, a Dask chunk a shard."""
    edge = SHARD[-1]
    loaded = odc.stac.load(items, bands=list(BANDS), chunks={"time": DATES, "x": edge, "y": edge})
    write_xarray(store, loaded.to_array("band").transpose("time", "band", "y", "x"), codec)


def write_stackstac(store: Path, items: list[pystac.Item], bounds: tuple[float, ...], codec: Any) -> None:
    """Stackstac, a Dask chunk a shard's footprint."""
    raw = {"dtype": np.dtype("uint16"), "fill_value": np.uint16(0), "rescale": False}
    where = {"epsg": int(CRS[5:]), "resolution": GSD_M, "bounds": bounds, "chunksize": SHARD[-1]}
    write_xarray(store, stackstac.stack(items, assets=list(BANDS), **where, **raw), codec)


def write_xarray(store: Path, loaded: xr.DataArray, codec: Any) -> None:
    """A lazy array through ``Dataset.to_zarr``."""
    edge = SHARD[-1]
    bare = xr.DataArray(loaded.data, dims=("time", "band", "y", "x"), name="data").chunk(time=-1, band=-1, y=edge, x=edge)
    with dask.config.set(scheduler="threads", num_workers=WORKERS):
        bare.to_dataset().to_zarr(store, zarr_format=3, consolidated=False, encoding={"data": encoding(codec)})


def folder_of(store: Path) -> Path:
    """The array that was written, ours too."""
    return next(store.glob("cubes/*/*/data"), store / "data")


def check(name: str, store: Path, hrefs: list[list[str]]) -> None:
    """End the benchmark where the pixels or the layout are not the files'."""
    array: Any = zarr.open_array(folder_of(store), mode="r")
    if (array.shape, array.chunks, array.shards) != (SHAPE, CHUNK, SHARD):
        sys.exit(f"{name} wrote {array.shape} in chunks {array.chunks} and shards {array.shards}")
    for date, row in enumerate(hrefs):
        for band, href in enumerate(row):
            with rasterio.open(href) as file:
                if not np.array_equal(array[date, band], file.read(1)):
                    sys.exit(f"{name} wrote other pixels than {href} holds")


def megabytes(store: Path) -> float:
    """Size of the array's shards."""
    return round(sum(f.stat().st_size for f in (folder_of(store) / "c").rglob("*") if f.is_file()) / 1e6, 1)


def timed(write: Write, store: Path) -> float:
    """Seconds of one run onto a new place; the old one is removed beforehand, and not timed."""
    shutil.rmtree(store, ignore_errors=True)
    start = time.perf_counter()
    write(store)
    return time.perf_counter() - start


def all_works(catalog: Path, items: list[dict[str, Any]], pool: ProcessPoolExecutor) -> dict[str, Write]:
    """Everything that is timed, by name: ``ours``, then each codec's floor and peers."""
    hrefs, stac = hrefs_of(items), [pystac.Item.from_dict(item) for item in items]
    x, y = items[0]["properties"]["proj:transform"][2::3]
    bounds = (x, y - EDGE_PX * GSD_M, x + EDGE_PX * GSD_M, y)
    works: dict[str, Write] = {"ours": partial(write_ours, catalog=catalog)}
    for name, codec in CODECS.items():
        works[f"{name}.floor"] = partial(write_floor, hrefs=hrefs, pool=pool, codec=codec)
        works[f"{name}.odc-stac"] = partial(write_odc, items=stac, codec=codec)
        works[f"{name}.stackstac"] = partial(write_stackstac, items=stac, bounds=bounds, codec=codec)
    return works


def hrefs_of(items: list[dict[str, Any]]) -> list[list[str]]:
    """Files by date and band."""
    return [[item["assets"][band]["href"] for band in BANDS] for item in items]


def fetched_to_used(catalog: Path) -> float:
    """What the plan says of reading whole blocks."""
    corpus = eocube.open_corpus("stac", catalog)
    site = corpus.corpus.sites[0]
    plan = explain(corpus.cube(site.name, site.products[0])).summary()
    return round(plan.bytes_fetched / plan.bytes_used, 3)


def grown_by_ours(catalog: Path, out: Path) -> float:
    """MB by which this process grows while ours runs the second time."""
    work = partial(timed, partial(write_ours, catalog=catalog), out)
    return grown_mb(work, work)


def row(bench: str, taken: dict[str, list[float]], sizes: dict[str, float], fetched: float, peak_mb: float) -> dict[str, Any]:
    """One line of results: MB of raw pixels a second, medians."""
    mb = math.prod(SHAPE) * 2 / 1e6
    key = {name: name if name == "ours" else f"{bench}.{name}" for name in ("ours", "floor", *PEERS)}
    seconds = {name: statistics.median(taken[k]) for name, k in key.items()}
    to = {name: round(s / seconds["ours"], 2) for name, s in seconds.items()}
    return {
        "bench": f"convert.{bench}",
        "unit": "MB/s",
        "ours": round(mb / seconds["ours"], 1),
        "floor": round(mb / seconds["floor"], 1),
        "peers": {name: round(mb / seconds[name], 1) for name in PEERS},
        "to_floor": to["floor"],
        "to_best_peer": min(to[name] for name in PEERS),
        "to_peer": {name: to[name] for name in PEERS},
        "goal": f"to_floor >= {GOALS[bench]} and fetched_to_used <= {MOST_FETCHED}",
        "met": to["floor"] >= GOALS[bench] and fetched <= MOST_FETCHED,
        "fetched_to_used": fetched,
        "peak_mb": peak_mb,
        "mb_out": {name: sizes[k] for name, k in key.items()},
    }


def main() -> None:
    """Print the rows."""
    warnings.filterwarnings("ignore", module="stackstac|odc|zarr")
    os.environ["GDAL_DISABLE_READDIR_ON_OPEN"] = "EMPTY_DIR"  # for all; GDAL would list the folder for every file it opens
    with tempfile.TemporaryDirectory() as top, ProcessPoolExecutor(WORKERS, multiprocessing.get_context("spawn")) as pool:
        folder, out = Path(top) / "cogs", Path(top) / "out"
        folder.mkdir()
        catalog = make_catalog(folder, dates=DATES, edge_px=EDGE_PX, block_px=BLOCK_PX)
        items = items_of(folder)
        works, sizes = all_works(catalog, items, pool), {}
        for name, write in works.items():  # also warms everything up
            timed(write, out)
            check(name, out, hrefs_of(items))
            sizes[name] = megabytes(out)
        taken: dict[str, list[float]] = {name: [] for name in works}
        for _ in range(REPEATS):
            for name, write in works.items():
                taken[name].append(timed(write, out))
        peak_mb, fetched = in_new_process(grown_by_ours, catalog, out), fetched_to_used(catalog)
        for bench in CODECS:
            print(json.dumps(row(bench, taken, sizes, fetched, peak_mb)))


if __name__ == "__main__":
    main()
