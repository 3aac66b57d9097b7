"""How many objects a store has, and how big they are, on SYNTHETIC files in the true layouts.

100 WorldStrat areas (16 revisits, every side file, every product) and 200 RapidAI4EO sites of two tiles (24 dates of Planet
Fusion and its QA, 12 months of Sentinel-2). Prints one JSON line a corpus.

``ours`` is objects a cube: those below ``cubes/`` with their markers and sources; of a tile, over its sites. The goal is the
design's budget: at most 16 variables a cube, at most 2 objects a variable and 2 more. Beside these every cube has one part of the
index, and every area one group (in ``kinds`` and ``objects``, which count everything but the reports of runs). ``files`` is how
many original files it was.
"""

from __future__ import annotations

import json
import resource
import shutil
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

AREAS, REVISITS = 100, 16
SITES, TILES, DATES = 200, 2, 24
VARIABLES, PER_VARIABLE, MORE = 16, 2, 2
"""Most variables a cube, objects a variable, and objects more."""

LABELS = ("time", "band", "y", "x", "angle", "time_bnds", "item_id", "n", "cloud_cover", "delta", "spatial_ref")
"""Arrays of a cube that hold no pixels."""

Row = dict[str, Any]


def kind_of(parts: tuple[str, ...]) -> str:
    """What an object is, by the parts of its key."""
    if parts[0] != "cubes":
        return parts[0] if parts[0] in ("markers", "sources", "index") else "root and whole index"
    if parts[-1] == "zarr.json":
        return "metadata"
    return "coordinates" if parts[3] in LABELS else "shards"


def objects(store: Path) -> Iterator[tuple[tuple[str, ...], int]]:
    """(parts of the key, bytes) of every object but the reports of runs."""
    for path in store.rglob("*"):
        parts = path.relative_to(store).parts
        if path.is_file() and parts[0] not in ("runs", "tmp"):
            yield parts, path.stat().st_size


def row_of(name: str, root: Path, store: Path) -> Row:
    """Convert a corpus, and count."""
    import eocube

    report = eocube.convert(eocube.open_corpus(name, str(root)), str(store), executor="threads:2")
    index = eocube.open_store(str(store)).index.num_rows
    files = sum(path.is_file() for path in root.rglob("*"))
    found = list(objects(store))
    if not report.ok or not index:
        sys.exit("the corpus was not converted")
    number, size = Counter[str](), Counter[str]()
    variables: dict[tuple[str, str], set[str]] = defaultdict(set)
    own = Counter[tuple[str, str]]()
    for parts, n_bytes in found:
        number[kind_of(parts)] += 1
        size[kind_of(parts)] += n_bytes
        if parts[0] in ("cubes", "markers", "sources") and len(parts) > 3 - (parts[0] == "sources"):
            own[parts[1], parts[2].removesuffix(".parquet")] += 1
        if parts[0] == "cubes" and len(parts) > 4:
            variables[parts[1], parts[2]].add(parts[3])
    sites = Counter(
        (r["cube"], r["product"]) for r in eocube.open_store(str(store)).index.select(["cube", "product"]).to_pylist()
    )
    most = max(map(len, variables.values()))
    over = [c for c, names in variables.items() if own[c] > sites[c] * (PER_VARIABLE * len(names) + MORE)]
    return {
        "bench": f"objects.{name}",
        "unit": "objects/cube",
        "ours": round(sum(own[c] for c in variables) / sum(sites.values()), 2),
        "floor": None,
        "peers": {},
        "to_floor": None,
        "to_best_peer": None,
        "goal": f"variables <= {VARIABLES} and objects <= {PER_VARIABLE} * variables + {MORE} of every cube",
        "met": most <= VARIABLES and not over,
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6, 1),
        "files": files,
        "cubes": len(variables),
        "sites": len({r["site"] for r in eocube.open_store(str(store)).index.select(["site"]).to_pylist()}),
        "objects": len(found),
        "mean_bytes": round(sum(size.values()) / len(found)),
        "most_variables": most,
        "most_objects": max(-(-own[c] // sites[c]) for c in variables),
        "kinds": {kind: {"objects": n, "mean_bytes": round(size[kind] / n)} for kind, n in sorted(number.items())},
    }


def main() -> None:
    """Print the rows."""
    from eocube.corpora.rapidai4eo_sample import write_rapidai4eo
    from eocube.corpora.worldstrat_sample import write_worldstrat

    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder)
        root = write_worldstrat(top / "worldstrat", sites=AREAS, revisits=REVISITS)
        print(json.dumps(row_of("worldstrat", root, top / "ws")), flush=True)
        shutil.rmtree(root)
        root = write_rapidai4eo(top / "rapidai4eo", sites=SITES, tiles=TILES, dates=DATES)
        print(json.dumps(row_of("rapidai4eo", root, top / "rapid")), flush=True)


if __name__ == "__main__":
    main()
