"""WorldStrat and RapidAI4EO to sharded Zarr: eocube against the floor, on the same SYNTHETIC files in the true layouts.

30 WorldStrat areas (16 revisits, every side file, every product) and 45 RapidAI4EO sites of one tile (24 dates of Planet Fusion
and its QA, 12 months of Sentinel-2), on two cores, everything imported and warm. Prints one JSON line a corpus.

The floor is the work without a framework: the same files read with rasterio, the same numbers (reflectance in whole steps, masks
as bytes), the same chunks and shards, and eocube's codec, written with zarr-python by two processes that stand already; a task is
an area's product or a site. Ours runs on a local cluster of two workers that stands already. Every array of the two is compared
before times are taken. Runs take turns; medians. ``whole_reads`` says how many times faster a whole file is decoded from one read
than opened and read with rasterio, on each corpus's most common file.
"""

from __future__ import annotations

import json
import multiprocessing
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
import zarr
from rasterio.errors import NotGeoreferencedWarning

sys.path.insert(0, str(Path(__file__).parent))  # run or imported, its neighbour is found
from _peak import grown_mb, in_new_process

import eocube
from eocube.io.chips import decode_chip
from eocube.io.shards import chunk_codecs
from eocube.jobs.convert import plan_convert
from eocube.model.frame import Variable
from eocube.model.spec import CubeSpec

AREAS, REVISITS = 30, 16
SITES, DATES = 45, 24
WORKERS, REPEATS = 2, 3
GOAL = 1.3
ANGLES = ("viewZenithMean", "viewAzimuthMean", "sunAzimuthAngles", "sunZenithAngles")
SIDES = {"CLM": "clm", "CLP": "clp", "dataMask": "valid"}
Row = dict[str, Any]


def write_ours(store: Path, name: str, root: str, executor: Any) -> None:
    """The whole job: listing, plan, claims, regions, markers, index."""
    eocube.convert(eocube.open_corpus(name, root), str(store), executor=executor)


# ------------------------------------------------------------------------------------------------ the floor


def write_floor(store: Path, plans: list[Any], pool: ProcessPoolExecutor) -> None:
    """Arrays, then every shard of every one of them."""
    for cube, product, spec, _ in plans:
        group = zarr.open_group(store / cube / product, mode="w")
        for v in spec.frame.variables:
            how = {"chunks": spec.chunk_shape(v), "shards": spec.shard_shape(v)}
            group.create_array(
                v.name,
                shape=spec.frame.shape(v.name),
                dtype=v.dtype,
                fill_value=v.fill,
                compressors=chunk_codecs(v.dtype, spec.chunk_shape(v)),
                **how,
            )
    tasks = [(str(store), cube, product, spec, job) for cube, product, spec, jobs in plans for job in jobs]
    list(pool.map(write_site, tasks))


def write_site(task: tuple[str, str, str, CubeSpec, Any]) -> None:
    """One shard of each variable: files read one after the other with rasterio."""
    store, cube, product, spec, (window, files) = task
    group = zarr.open_group(Path(store) / cube / product, mode="r+")
    rows, columns = (slice(*span) for span in window)
    shape_yx = window[0][1] - window[0][0], window[1][1] - window[1][0]
    arrays = {v.name: empty(spec, v, shape_yx) for v in spec.frame.variables}
    for t, kind, path in files:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path) as file:
                put(arrays, t, kind, file.read(), product)
    for name, values in arrays.items():
        group[name][..., rows, columns] = values


def empty(spec: CubeSpec, v: Variable, shape_yx: tuple[int, int]) -> npt.NDArray[Any]:
    """A variable of one site, of nothing."""
    start = 255 if v.name == "clm" else 1 if v.name == "valid" else v.fill
    return np.full((len(spec.frame.time_ms), *spec.frame.depth(v), *shape_yx), start, v.dtype)


def put(arrays: dict[str, npt.NDArray[Any]], t: int, kind: str, pixels: npt.NDArray[Any], product: str) -> None:
    """One file's pixels into the site's arrays."""
    if kind == "data":
        whole = np.rint(pixels.astype("f8") * 10_000).astype("u2") if product in ("l2a", "l1c") else pixels
        arrays["data"][t] = whole
        if product.startswith("hr_"):
            arrays["valid"][t] = pixels.any(axis=0)
    elif kind in SIDES:
        arrays[SIDES[kind]][t] = pixels[0].astype("u1")
    else:
        arrays["angles"][t, ANGLES.index(kind)] = pixels[0]


def floor_plans(name: str, root: str) -> list[Any]:
    """(cube, product, spec, [(window, [(date, kind, path)])]) of each cube, as eocube's own plan has them."""
    out = []
    for plan in plan_convert(eocube.open_corpus(name, root), "nowhere"):
        (source,) = plan.job.binding.sources.values()
        ny, nx = plan.job.spec.frame.shape_yx
        places = source.places or [("", (0, ny), (0, nx))]  # type: ignore[attr-defined]
        out.append((plan.job.cube, plan.job.product, plan.job.spec, [((y, x), list(files_of(source, s))) for s, y, x in places]))
    return out


def files_of(source: Any, site: str) -> Iterator[tuple[int, str, str]]:
    """(date, kind, path) of every file of a site."""
    times = {ms: t for t, ms in enumerate(source.frame().time_ms)}
    for row in source.assets():
        if not site or row["item_id"] == site:
            yield times[row["time"]], row["asset"] if not site else "data", row["href"]


# ------------------------------------------------------------------------------------------------ comparing, timing


def check(plans: list[Any], ours: Path, floor: Path) -> None:
    """End the benchmark where the pixels of the two differ."""
    for cube, product, spec, jobs in plans:
        a, b = (zarr.open_group(f, mode="r") for f in (ours / "cubes" / cube / product, floor / cube / product))
        for v in spec.frame.variables:
            for (y, x), _ in jobs:
                at = (..., slice(*y), slice(*x))
                if not np.array_equal(a[v.name][at], b[v.name][at], equal_nan=v.dtype == "float32"):
                    sys.exit(f"{v.name} of {cube}/{product} differs at {y}, {x}")


def timed(write: Callable[[Path], object], store: Path) -> float:
    """Seconds of one run onto a new place."""
    shutil.rmtree(store, ignore_errors=True)
    start = time.perf_counter()
    write(store)
    return time.perf_counter() - start


def whole_reads(paths: list[str]) -> float:
    """How many times faster than rasterio a file is decoded from one read; medians of turns."""

    def by_rasterio(path: str) -> object:
        with rasterio.open(path) as file:
            return file.read(), file.crs, file.transform

    taken: dict[str, list[float]] = {"ours": [], "rasterio": []}
    works: dict[str, Callable[[str], object]] = {
        "ours": lambda path: decode_chip(Path(path).read_bytes(), path),
        "rasterio": by_rasterio,
    }
    for work in works.values():
        work(paths[0])
    for path in paths:
        for name, work in works.items():
            start = time.perf_counter()
            work(path)
            taken[name].append(time.perf_counter() - start)
    return round(statistics.median(taken["rasterio"]) / statistics.median(taken["ours"]), 2)


def grown_by_ours(name: str, root: str, out: Path) -> float:
    """MB by which this process grows in one thread while ours runs the second time."""

    def work() -> None:
        shutil.rmtree(out, ignore_errors=True)
        eocube.convert(eocube.open_corpus(name, root), str(out), executor="serial", limit=20)

    return grown_mb(work, work)


def row_of(name: str, root: str, files: str, top: Path, pool: ProcessPoolExecutor, executor: Any) -> Row:
    """One corpus."""
    plans = floor_plans(name, root)
    ours_work = partial(write_ours, name=name, root=root, executor=executor)
    works = {"ours": ours_work, "floor": partial(write_floor, plans=plans, pool=pool)}
    for kind, work in works.items():  # also warms everything up
        timed(work, top / kind)
    check(plans, top / "ours", top / "floor")
    taken: dict[str, list[float]] = {kind: [] for kind in works}
    for _ in range(REPEATS):
        for kind, work in works.items():
            taken[kind].append(timed(work, top / kind))
    ours, floor = (statistics.median(taken[kind]) for kind in ("ours", "floor"))
    n_files = sum(len(found) for *_, jobs in plans for _, found in jobs)
    paths = [str(p) for p in sorted(Path(root).glob(files))[:100]]
    for kind in works:
        shutil.rmtree(top / kind, ignore_errors=True)
    return {
        "bench": f"corpora.{name}",
        "unit": "files/s",
        "ours": round(n_files / ours, 1),
        "floor": round(n_files / floor, 1),
        "peers": {},
        "to_floor": round(floor / ours, 2),
        "to_best_peer": None,
        "goal": f"to_floor >= {GOAL}",
        "met": floor / ours >= GOAL,
        "peak_mb": in_new_process(grown_by_ours, name, root, top / "grown"),
        "files": n_files,
        "whole_reads": whole_reads(paths),
    }


def main() -> None:
    """Print the rows."""
    from eocube.corpora.rapidai4eo_sample import write_rapidai4eo
    from eocube.corpora.worldstrat_sample import write_worldstrat

    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(WORKERS, multiprocessing.get_context("spawn")) as pool,
        closing(eocube.connect(f"processes:{WORKERS}")) as executor,
    ):
        top = Path(folder)
        root = write_worldstrat(top / "worldstrat", sites=AREAS, revisits=REVISITS)
        print(json.dumps(row_of("worldstrat", str(root), "lr_dataset/*/L2A/*_data.tiff", top, pool, executor)), flush=True)
        shutil.rmtree(root)
        root = write_rapidai4eo(top / "rapidai4eo", sites=SITES, dates=DATES)
        print(json.dumps(row_of("rapidai4eo", str(root), "imagery/*/*/*/PF-SR/*.tif", top, pool, executor)), flush=True)


if __name__ == "__main__":
    main()
