"""info: what a store, a cube or a patch set is, as plain values; from roots, indexes and listings, never from pixels."""

from __future__ import annotations

import datetime as dt
import json
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from eocube.corpora.sample import SAMPLES, SYNTHETIC
from eocube.errors import CubeError, DamagedStoreError, UnknownNameError
from eocube.io.blobs import Blobs, open_blobs
from eocube.io.cubes import CUBES, CubeSource, split_cube_url
from eocube.io.index import gsd_m
from eocube.io.markers import MarkerName
from eocube.io.sources import list_bound
from eocube.io.tally import fits, known_regions, markers_by_region, newest_marker
from eocube.io.template import EOCUBE_ATTR
from eocube.io.verify import Finding, can_list, find_cubes
from eocube.io.verify_metadata import open_stored
from eocube.jobs.open import CORPORA, Store, open_store
from eocube.jobs.roots import require_store, root_kind
from eocube.model.recipe import RECIPE_ATTR
from eocube.model.spec import CubeSpec, Region
from eocube.patches.index import read_index as read_patch_index
from eocube.patches.layout import read_layout, read_licence

MAX_LOOKED_AT = 200
"""Most cubes of a store whose markers are looked at for an append that has begun: a root and a listing each."""

_LOOKS_AT_ONCE = 16


def describe(url: str, *, storage_options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A store, a cube (``STORE/cubes/<cube>/<product>``) or a patch set as one JSON object.

    Its ``kind`` is ``store``, ``cube`` or ``patches``.

    Raises
    ------
    StoreNotFoundError, DamagedStoreError
        If nothing of eocube is there, or it cannot be understood.
    CubeError
        For ``STORE/cubes/<cube>``: says which products that cube has.
    """
    if is_cube_url(url):
        return describe_cube(url, storage_options=storage_options)
    blobs = open_blobs(url, storage_options)
    if root_kind(blobs) == "patches":
        return describe_patches(blobs)
    _refuse_half_address(url, storage_options)
    require_store(blobs)
    return describe_store(url, storage_options=storage_options)


def is_cube_url(url: str) -> bool:
    """Whether an address has the form of a cube's."""
    try:
        split_cube_url(url)
    except CubeError:
        return False
    return True


def _refuse_half_address(url: str, options: Mapping[str, Any] | None) -> None:
    """CubeError where ``url`` is ``STORE/cubes`` or ``STORE/cubes/<cube>`` of a store: it lists what may follow."""
    parts = url.rstrip("/").split("/")
    at = next((i for i in (-1, -2) if len(parts) > -i and parts[i] == CUBES), None)
    if at is None or root_kind(open_blobs("/".join(parts[:at]), options)) != "store":
        return
    store = open_store("/".join(parts[:at]), storage_options=options)
    known: list[dict[str, Any]] = [*_index_rows(store), *_under_way(store, options)]
    names = [(r["cube"], r["product"]) for r in known or _not_indexed(store, options, [])]
    if at == -1:
        raise CubeError(f"{url} is the folder of the cubes of a store; `eocube info {store.url}` lists them.")
    products = sorted(product for cube, product in names if cube == parts[-1])
    if not products:
        raise UnknownNameError("cube", parts[-1], sorted({cube for cube, _ in names})[:20], store.url)
    raise CubeError(
        f"{url} names a cube but no product; expected STORE/cubes/<cube>/<product>. Products of {parts[-1]}: "
        f"{', '.join(products)}. Try `eocube info {url.rstrip('/')}/{products[0]}`."
    )


def describe_corpora() -> dict[str, Any]:
    """The kinds of original files that eocube reads (name → what they are), and the samples that ship with it."""
    return {"corpora": dict(CORPORA), "samples": sorted([*SAMPLES, *SYNTHETIC])}


def describe_store(url: str, *, storage_options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The index of a store, a row a site × product, without footprints; and the cubes that are not in it yet.

    The rows are in ``cubes``; many sites may lie in one cube, so ``n_cubes`` and ``n_sites`` say how many there are of each.
    ``under_way`` has a row (``cube``, ``product``, ``regions_done``, ``regions``) for each cube that a run began and did not
    finish, and for each of the index that has lost markers; ``appends_under_way`` one (``cube``, ``product``) for each cube to
    which a run began to add dates. They are None at an address that cannot list its objects (plain HTTP), the second also in a
    store of more than 200 cubes, and lost markers are not looked for there: ``describe_cube`` and ``audit`` tell it.
    ``not_indexed`` has a row (``cube``, ``product``) for each cube that is there and that neither names; they are looked for
    where the index has no cube.
    """
    store = open_store(url, storage_options=storage_options)
    rows = _index_rows(store)
    cubes = list(dict.fromkeys((r["cube"], r["product"]) for r in rows))
    found: dict[str, Any] = {"under_way": None, "appends_under_way": None, "not_indexed": None}
    if can_list(url):
        under_way = _under_way(store, storage_options)
        if len(cubes) <= MAX_LOOKED_AT:
            looks = _look_at(store, storage_options, cubes)
            under_way += [look.standing for look in looks if look.standing["regions_done"] < look.standing["regions"]]
            found["appends_under_way"] = [look.name for look in looks if look.append_begun]
        not_indexed = [] if rows else _not_indexed(store, storage_options, under_way)
        found |= {"under_way": under_way, "not_indexed": not_indexed}
    counts = {"n_cubes": len(cubes), "n_sites": len({r["site"] for r in rows})}
    return {"kind": "store", "url": store.url, **counts, "cubes": rows, **found}


class _Look(NamedTuple):
    """How a cube of the index stands by its markers."""

    name: dict[str, str]
    standing: dict[str, Any]
    append_begun: bool


def _look_at(store: Store, options: Mapping[str, Any] | None, cubes: list[tuple[str, str]]) -> list[_Look]:
    """Cubes of the index that have a root: root and listing of markers of each."""
    blobs = open_blobs(store.url, options)

    def look(named: tuple[str, str]) -> _Look | None:
        stored = open_stored(blobs, *named)
        if isinstance(stored, Finding):
            return None
        names = markers_by_region(blobs, stored.cube, stored.product)
        name = {"cube": stored.cube, "product": stored.product}
        standing = {**name, "regions_done": _n_done(stored.spec, names), "regions": len(known_regions(stored.spec, names))}
        return _Look(name, standing, _append_begun(blobs, stored.attrs, stored.spec, names))

    with ThreadPoolExecutor(_LOOKS_AT_ONCE) as pool:
        return [found for found in pool.map(look, cubes) if found is not None]


def _n_done(spec: CubeSpec, names: Mapping[Region, list[MarkerName]]) -> int:
    """Regions of a cube that have a marker; those that an append has begun are not its own yet."""
    return sum(all(i < n for i, n in zip(region, spec.grid, strict=True)) for region in names)


def _not_indexed(store: Store, options: Mapping[str, Any] | None, under_way: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Cubes that are there, and not under way: one listing of ``cubes/``. Nothing over plain HTTP."""
    if not can_list(store.url):
        return []
    known = {(r["cube"], r["product"]) for r in under_way}
    found = find_cubes(open_blobs(store.url, options))
    return [{"cube": cube, "product": product} for cube, product in found if (cube, product) not in known]


def _append_begun(blobs: Blobs, attrs: Mapping[str, Any], spec: CubeSpec, names: Mapping[Region, list[MarkerName]]) -> bool:
    """Whether regions are written for dates that the root does not have yet.

    Those that the cube will have are seen in the listing; the last ones that it has, part-filled, are written again, and their
    markers do not follow from the root then.
    """
    if any(i >= n for region in names for i, n in zip(region, spec.grid, strict=True)):
        return True
    last = {r: found for r, found in names.items() if r.t == spec.grid[0] - 1} if _part_filled(spec) else {}
    return any(_goes_further(blobs, attrs, spec, region, found) for region, found in last.items())


def _part_filled(spec: CubeSpec) -> bool:
    return len(spec.frame.time_ms) % spec.shard_tyx[0] != 0


def _goes_further(blobs: Blobs, attrs: Mapping[str, Any], spec: CubeSpec, region: Region, names: list[MarkerName]) -> bool:
    """Whether the marker of a region follows from other dates than the root's."""
    try:
        marker = newest_marker(blobs, attrs, names, spec=spec)
    except DamagedStoreError:  # audit tells of it
        return False
    return marker is not None and not fits(attrs, spec, region, marker)


def _index_rows(store: Store) -> list[dict[str, Any]]:
    rows = store.index.drop_columns(["geometry"]).to_pylist()
    return [{k: _plain(v) for k, v in row.items()} for row in rows]


def _under_way(store: Store, options: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Cubes with a binding and without a row of the index: one listing, then root and markers of each of them."""
    if not can_list(store.url):
        return []
    blobs = open_blobs(store.url, options)
    indexed = {(r["cube"], r["product"]) for r in store.index.select(["cube", "product"]).to_pylist()}
    rows = []
    for cube, product in sorted(list_bound(blobs) - indexed):
        stored = open_stored(blobs, cube, product)
        if not isinstance(stored, Finding):
            names = markers_by_region(blobs, cube, product)
            n_regions = len(known_regions(stored.spec, names))
            rows.append({"cube": cube, "product": product, "regions_done": _n_done(stored.spec, names), "regions": n_regions})
    return rows


def describe_patches(blobs: Blobs) -> dict[str, Any]:
    """A patch set: patches by split, what was dropped, bands, sizes and spec. Two requests.

    ``finished`` is False, and the counts are 0, while the set has no index.
    """
    layout = read_layout(blobs)
    index = read_patch_index(blobs).select(["split", "dropped"]).to_pylist()
    kept = Counter(row["split"] for row in index if not row["dropped"])
    return {
        "kind": "patches",
        "url": blobs.url,
        "finished": bool(index),
        "patches": dict(sorted(kept.items())),
        "dropped": len(index) - kept.total(),
        "lr_bands": list(layout.lr_bands),
        "hr_bands": list(layout.hr_bands),
        "lr_px": layout.spec.lr_px,
        "hr_px": layout.spec.hr_px,
        "spec": json.loads(layout.spec.to_json()),
        **read_licence(blobs),
    }


def describe_cube(url: str, *, storage_options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """One cube: axes, bands, variables, how it is cut, how far it is written (unless over plain HTTP), and its recipe."""
    source = CubeSource.open(url, options=storage_options)
    spec, attrs = source.spec, source.attrs
    frame, box = spec.frame, spec.frame.geobox
    regions: dict[str, int | None] = {"all": None if spec.places is not None else spec.n_regions}
    begun = None
    if can_list(url):
        blobs = open_blobs(source.store_url, storage_options)
        found = markers_by_region(blobs, source.cube, source.product)
        known = known_regions(spec, found)
        names = [found[r] for r in known if r in found]
        failed = sum(any(m.partial for m in each) for each in names)
        regions |= {"all": len(known), "finished": len(names) - failed, "failed": failed}
        begun = len(names) == len(known) and _append_begun(blobs, attrs, spec, found)
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
        "append_under_way": begun,
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
