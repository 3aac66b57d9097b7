"""Planning half a million sites, and opening an index of one and a half million rows. Each in a fresh process.

Prints one JSON line a row:

- ``plan.sites``: ``eocube convert rapidai4eo URL STORE --site-list … --plan``, imports included, for every site of a geometries
  file (SYNTHETIC ids, distinct, over uneven tiles): all three products, 152 million files. The address has one file a site of
  PF-QA and S2-SR, whose bands are documented nowhere: one and five are read. ``ours`` is seconds, ``peak_mb`` the whole process.
- ``plan.index``: an index of three products at each of those sites. ``ours`` is seconds to open the store and look for a box in
  which nothing is, ``sites_ms`` a box of half a degree after that, ``frame_s`` all of it as a GeoDataFrame.
"""

from __future__ import annotations

import io
import itertools
import json
import resource
import shutil
import statistics
import sys
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # run or imported, its neighbour is found
from _peak import in_new_process

SITES, REPEATS = 500_000, 3
EXAMPLES, READ = 60, 6
"""Sites that have files, and files that planning may read, whatever the number of sites."""

PRODUCTS = ("pf_qa", "pf_sr", "s2_sr")
GOALS = {"sites": "ours <= 60 and peak_mb <= 1073", "index": "ours <= 1 and sites_ms <= 100 and frame_s <= 5"}
Row = dict[str, Any]


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def planned(geometries: str, url: str) -> Row:
    """Plan every site with the command line, in this process."""
    started = time.perf_counter()
    from eocube.cli import app

    with tempfile.TemporaryDirectory() as store, redirect_stdout(out := io.StringIO()):
        app(["convert", "rapidai4eo", url, f"{store}/new", "--site-list", geometries, "--plan", "--json"], standalone_mode=False)
    found = json.loads(out.getvalue())["plan"]
    return {"s": time.perf_counter() - started, "tasks": found["tasks"], "requests": found["requests"], "peak_mb": _peak_mb()}


def make_examples(geometries: str, root: str) -> None:
    """A file of PF-QA and one of S2-SR at their places of each of the first sites of the list."""
    from eocube.corpora.rapidai4eo_ids import image_path, parse_site
    from eocube.corpora.rapidai4eo_sample import write_rapidai4eo
    from eocube.corpora.rapidai4eo_tables import read_site_ids

    sites = [parse_site(name.as_py()) for name in read_site_ids(geometries)[:EXAMPLES]]
    with tempfile.TemporaryDirectory() as folder:
        made = write_rapidai4eo(f"{folder}/made", sites=1, dates=1, months=1)
        for site, product in itertools.product(sites, ("pf_qa", "s2_sr")):
            target = Path(root) / image_path(site, product, 0)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(next(made.rglob("/".join(target.parts[-2:]))), target)


def make_index(geometries: str, store: str) -> int:
    """A store with nothing but an index; the number of its rows."""
    import numpy as np
    import pyarrow as pa
    import shapely

    from eocube.corpora.rapidai4eo_ids import parse_sites
    from eocube.corpora.rapidai4eo_tables import distinct_sites, read_site_ids, split_of
    from eocube.exec.claim import ensure_store
    from eocube.io.blobs import open_blobs
    from eocube.io.index import INDEX, PART, SCHEMA, write_index

    columns = parse_sites(distinct_sites(read_site_ids(geometries))[0])
    corners = columns.corners_lonlat()
    # Sides in four pieces, as the index has them.
    sides = [
        corners[:, k, None] + (corners[:, (k + 1) % 4, None] - corners[:, k, None]) * (np.arange(4) / 4)[:, None]
        for k in range(4)
    ]
    wkb = shapely.to_wkb(shapely.polygons(np.concatenate(sides, axis=1)))
    low, high = corners.min(axis=1), corners.max(axis=1)
    boxes = pa.StructArray.from_arrays([low[:, 0], low[:, 1], high[:, 0], high[:, 1]], ["xmin", "ymin", "xmax", "ymax"])
    cubes = pa.array(columns.cubes).take(pa.array(columns.cube_index))
    splits = pa.array([split_of(c) for c in columns.cubes]).take(pa.array(columns.cube_index))
    n, tables = len(columns), []
    for product in PRODUCTS:
        same = {"product": product, "dtype": "int16", "n_dates": 146, "clear_fraction": 1.0, "unfinished_regions": 0}
        same |= {
            "license": "CC-BY-NC-SA-3.0",
            "bands": ["blue", "green", "red", "nir08"],
            "gsd_m": [3.0, 3.0],
            "shape": [200, 200],
        }
        same |= {"first_date": 1_514_975_400_000, "last_date": 1_577_615_400_000}
        windows = pa.FixedSizeListArray.from_arrays(pa.array(columns.windows("pf_sr").ravel().astype("i8")), 4)
        own = {"site": columns.site, "cube": cubes, "group": cubes, "split": splits, "window": windows, "bbox": boxes}
        own |= {"geometry": pa.array(wkb, pa.binary()), "crs": pa.array([f"EPSG:{e}" for e in columns.epsg])}
        arrays = [own.get(f.name) if f.name in own else pa.repeat(pa.scalar(same.get(f.name), f.type), n) for f in SCHEMA]
        tables.append(pa.Table.from_arrays([a.cast(f.type) for a, f in zip(arrays, SCHEMA, strict=True)], schema=SCHEMA))
    table = pa.concat_tables(tables).sort_by([("site", "ascending"), ("product", "ascending")])
    blobs = open_blobs(store)
    ensure_store(blobs, {})
    blobs.put(INDEX, write_index(table.append_column(PART, pa.repeat("", len(table)))))
    return len(table)


def opened(store: str) -> Row:
    """Open the store, look for a box, take all of it, in this process."""
    import eocube.jobs.open  # before the clock starts

    started = time.perf_counter()
    found = eocube.open_store(store)
    first = found.sites(bbox=(0, 0, 0.1, 0.1))
    open_s = time.perf_counter() - started
    box = found.sites(bbox=tuple(v + d for v, d in zip(_somewhere(found), (0, 0, 0.5, 0.5), strict=True)))
    started = time.perf_counter()
    box = found.sites(bbox=tuple(v + d for v, d in zip(_somewhere(found), (0.5, 0.5, 1.0, 1.0), strict=True)))
    sites_ms = 1e3 * (time.perf_counter() - started)
    started = time.perf_counter()
    frame = found.sites_frame()
    frame_s = time.perf_counter() - started
    if len(first) or not len(box):
        sys.exit("a box that holds nothing has rows, or one that holds some has none")
    return {"open_s": open_s, "sites_ms": sites_ms, "frame_s": frame_s, "rows": len(frame), "peak_mb": _peak_mb()}


def _somewhere(store: Any) -> tuple[float, float, float, float]:
    with store._read() as reader:  # noqa: SLF001 - a place where sites are
        box = reader.table(["bbox"])["bbox"][reader.n_rows // 2].as_py()
    return box["xmin"] - 0.75, box["ymin"] - 0.75, box["xmin"] - 0.75, box["ymin"] - 0.75


def row(bench: str, ours: float, *, met: bool, peak_mb: float, **more: Any) -> Row:
    """One line."""
    same = {"floor": None, "peers": {}, "to_floor": None, "to_best_peer": None}
    told = {"bench": f"plan.{bench}", "unit": "s", "ours": round(ours, 4), **same, "goal": GOALS[bench], "met": met}
    return {**told, "peak_mb": round(peak_mb, 1), **more}


def main() -> None:
    """Print the rows."""
    from eocube.corpora.rapidai4eo_sample import write_geometries
    from eocube.testing.stores import counting_server

    with tempfile.TemporaryDirectory() as folder:
        geometries = f"{folder}/geometries.geojson.gz"
        write_geometries(geometries, SITES)
        make_examples(geometries, f"{folder}/corpus")
        with counting_server(f"{folder}/corpus") as server:
            runs = [in_new_process(planned, geometries, server.url) for _ in range(REPEATS)]
            if len(server.requests) != READ * REPEATS:
                sys.exit(f"planning asks for other files than a few examples: {server.paths[:20]}")
        if {r["tasks"] for r in runs} != {SITES * len(PRODUCTS)}:
            sys.exit("a site has no task in a product")
        ours, peak_mb = statistics.median(r["s"] for r in runs), max(r["peak_mb"] for r in runs)
        met = ours <= 60 and peak_mb <= 1073
        print(json.dumps(row("sites", ours, met=met, peak_mb=peak_mb, requests=runs[0]["requests"])), flush=True)
        in_new_process(make_index, geometries, f"{folder}/store")
        found = [in_new_process(opened, f"{folder}/store") for _ in range(REPEATS)]
        open_s, sites_ms, frame_s = (statistics.median(r[k] for r in found) for k in ("open_s", "sites_ms", "frame_s"))
        met = open_s <= 1 and sites_ms <= 100 and frame_s <= 5
        more = {"sites_ms": round(sites_ms, 1), "frame_s": round(frame_s, 2), "rows": found[0]["rows"]}
        print(json.dumps(row("index", open_s, met=met, peak_mb=max(r["peak_mb"] for r in found), **more)), flush=True)


if __name__ == "__main__":
    main()
