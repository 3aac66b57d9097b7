"""info: what a store or a cube is, as plain values; reads the index, or one root and one listing of markers."""

from __future__ import annotations

import datetime as dt
import json
import math
from collections.abc import Mapping
from typing import Any

from eocube.corpora.sample import SAMPLES
from eocube.errors import CubeError
from eocube.io.blobs import open_blobs
from eocube.io.cubes import CubeSource, split_cube_url
from eocube.io.index import gsd_m
from eocube.io.tally import markers_by_region
from eocube.io.template import EOCUBE_ATTR
from eocube.io.verify import can_list
from eocube.jobs.open import CORPORA, open_store
from eocube.model.recipe import RECIPE_ATTR


def describe(url: str, *, storage_options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A store or a cube (``STORE/cubes/<cube>/<product>``) as one JSON object with ``kind`` ``store`` or ``cube``.

    Raises
    ------
    StoreNotFoundError, DamagedStoreError
        If nothing of eocube is there, or it cannot be understood.
    """
    try:
        split_cube_url(url)
    except CubeError:
        return describe_store(url, storage_options=storage_options)
    return describe_cube(url, storage_options=storage_options)


def describe_corpora() -> dict[str, Any]:
    """The kinds of original files that eocube reads (name → what they are), and the samples that ship with it."""
    return {"corpora": dict(CORPORA), "samples": sorted(SAMPLES)}


def describe_store(url: str, *, storage_options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The index of a store: a row a site × product, without footprints."""
    store = open_store(url, storage_options=storage_options)
    rows = store.index.drop_columns(["geometry"]).to_pylist()
    return {"kind": "store", "url": store.url, "cubes": [{k: _plain(v) for k, v in row.items()} for row in rows]}


def describe_cube(url: str, *, storage_options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """One cube: axes, bands, variables, how it is cut, how far it is written (unless over plain HTTP), and its recipe."""
    source = CubeSource.open(url, options=storage_options)
    spec, attrs = source.spec, source.attrs
    frame, box = spec.frame, spec.frame.geobox
    regions = {"all": math.prod(spec.grid)}
    if can_list(url):
        names = markers_by_region(open_blobs(source.store_url, storage_options), source.cube, source.product).values()
        failed = sum(any(m.partial for m in found) for found in names)
        regions |= {"finished": len(names) - failed, "failed": failed}
    recipe = json.loads(attrs[RECIPE_ATTR])
    return {
        "kind": "cube",
        "url": url,
        "cube": source.cube,
        "product": source.product,
        "dims": dict(zip(("time", "band", "y", "x"), frame.shape("data"), strict=True)),
        "bands": [{"name": b.name, "eo_name": b.eo_name, "wavelength_um": b.wavelength_um} for b in frame.bands],
        "variables": [
            {
                "name": v.name,
                "dims": list(v.dims),
                "dtype": v.dtype,
                "nodata": _plain(v.nodata),
                "scale": v.scale,
                "offset": v.offset,
            }
            for v in frame.variables
        ],
        "per_time": [p.name for p in frame.per_time],
        "dates": [_iso(ms) for ms in frame.time_ms],
        "crs": str(box.crs),
        "transform": [float(v) for v in list(box.affine)[:6]],
        "gsd_m": list(gsd_m(box)),
        "bounds": [float(v) for v in box.boundingbox.bbox],
        "layout": spec.layout,
        "chunk_tyx": list(spec.chunk_tyx),
        "shard_tyx": list(spec.shard_tyx),
        "regions": regions,
        "settings_id": attrs[EOCUBE_ATTR]["settings_id"],
        "recipe": recipe,
        "license": attrs.get("license"),
        "attribution": attrs.get("attribution"),
    }


def _iso(ms: int) -> str:
    return dt.datetime.fromtimestamp(ms / 1000, dt.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _plain(value: Any) -> Any:
    """A value that JSON has; NaN as text."""
    if isinstance(value, dt.datetime):
        return _iso(round(value.timestamp() * 1000))
    return "nan" if isinstance(value, float) and value != value else value
