"""Compare a cube's metadata and coordinates with its root; reads only.

The root (the group's ``zarr.json``) holds axes, recipe and the metadata of every array inline; the other objects repeat parts of
it. Values are compared, not bytes: a cube written with another version of zarr-python is no damage.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from eocube.errors import EocubeError
from eocube.io.blobs import Blobs, open_blobs
from eocube.io.cubes import CUBES, cube_path, root_attrs
from eocube.io.geozarr import group_attrs
from eocube.io.parquet import read_parquet
from eocube.io.sources import sources_path
from eocube.io.template import EOCUBE_ATTR, ROOT, frame_json
from eocube.io.verify import Finding, StoredCube
from eocube.model.frame import Frame
from eocube.model.recipe import RECIPE_ATTR
from eocube.model.spec import FORMAT, SUMMARY, CubeSpec, settings_id


def check_groups(blobs: Blobs, cubes: Collection[tuple[str, str]]) -> Iterator[Finding]:
    """The groups above the cubes, so that the store is one Zarr hierarchy."""
    plain = {"zarr_format": 3, "node_type": "group", "attributes": {}}
    for key in sorted({CUBES, *(f"{CUBES}/{cube}" for cube, _ in cubes)}) if cubes else ():
        if _json(blobs.get(f"{key}/{ROOT}")) != plain:
            yield Finding("metadata", f"{key}/{ROOT}", f"it is not the plain Zarr group {json.dumps(plain)}")
    root = _json(blobs.get(ROOT))
    said = root.get("attributes") if isinstance(root, Mapping) else None
    known = isinstance(said, Mapping) and isinstance(said.get(EOCUBE_ATTR), Mapping) and said[EOCUBE_ATTR].get("format") == FORMAT
    if not known or {k: root[k] for k in plain if k in root} != {**plain, "attributes": said}:
        yield Finding("metadata", ROOT, f"it is not a Zarr v3 group that says eocube format {FORMAT}")


def open_stored(blobs: Blobs, cube: str, product: str) -> StoredCube | Finding:
    """The cube as its root describes it, or what is the matter with the root."""
    key = f"{cube_path(cube, product)}/{ROOT}"
    body = blobs.get(key)
    if body is None:
        return Finding("metadata", key, "objects of a cube are there, its root is not: the cube cannot be opened")
    try:
        stored = StoredCube(cube=cube, product=product, attrs=root_attrs(body, key))
        grid = stored.spec.grid
    except (EocubeError, LookupError, TypeError, ValueError) as e:
        return Finding("metadata", key, f"the root cannot be understood: {e}")
    return stored if min(grid) >= 0 else Finding("metadata", key, f"the root states {grid} regions")


def check_metadata(blobs: Blobs, stored: StoredCube, *, storage_options: Mapping[str, Any] | None = None) -> Iterator[Finding]:
    """The root against itself, the arrays' metadata and the coordinates against the root, and the binding."""
    key = f"{stored.folder}/{ROOT}"
    root = json.loads(blobs.get(key) or b"{}")
    inline = root.get("consolidated_metadata", {}).get("metadata", {})
    yield from (Finding("metadata", key, detail) for detail in _contradictions(stored, stored.spec, inline))
    for name, said in sorted(inline.items()):
        where = f"{stored.folder}/{name}/{ROOT}"
        found = _json(blobs.get(where))
        if found is None:
            yield Finding("metadata", where, "it is missing or no JSON; the root has it inline")
        elif found != said:
            yield Finding("metadata", where, f"it differs from what the root has inline in {_differing(found, said)}")
    yield from _check_axes(blobs, stored, storage_options)
    yield from _check_sources(blobs, stored)


def _contradictions(stored: StoredCube, spec: CubeSpec, inline: Mapping[str, Any]) -> Iterator[str]:
    """What the root says twice and differently."""
    attrs, e, frame = stored.attrs, stored.attrs[EOCUBE_ATTR], spec.frame
    if (e.get("cube"), e.get("product")) != (stored.cube, stored.product):
        yield f"it says that it is {e.get('cube')}/{e.get('product')}"
    if e.get("settings_id") != settings_id(str(attrs.get(RECIPE_ATTR)), spec):
        yield "its settings_id does not follow from its recipe, variables, layout and chunks"
    grid = {k: v for k, v in group_attrs(frame.geobox).items() if k != "proj:wkt2"}  # its wording is PROJ's
    derived = {**grid, EOCUBE_ATTR: {**e, **frame_json(frame)}}
    said = {k: attrs.get(k) for k in derived}
    if said != json.loads(json.dumps(derived)):
        yield f"axes or grid contradict each other in {_differing(said, derived)}"
    shapes: dict[str, tuple[Any, ...]] = {v.name: (v.dtype, frame.shape(v.name), spec.shard_shape(v)) for v in frame.variables}
    shapes |= {SUMMARY: ("uint8", spec.summary_shape, spec.summary_chunk)}
    shapes |= dict.fromkeys(axes_of(frame), ())
    if set(inline) != set(shapes):
        yield f"it has the arrays {sorted(inline)} inline, its frame asks for {sorted(shapes)}"
    for name in sorted(set(inline) & set(shapes)):
        if shapes[name] and _shape_of(inline[name]) != shapes[name]:
            yield f"array {name!r} is {_shape_of(inline[name])} (dtype, shape, shard), the frame asks for {shapes[name]}"


def _shape_of(metadata: Mapping[str, Any]) -> tuple[Any, ...]:
    chunk = metadata.get("chunk_grid", {}).get("configuration", {}).get("chunk_shape", [])
    return metadata.get("data_type"), tuple(metadata.get("shape", [])), tuple(chunk)


def axes_of(frame: Frame) -> dict[str, Any]:
    """Every coordinate array that a cube of this frame has, by name: NumPy arrays, lists of text."""
    y, x = frame.yx
    axes: dict[str, Any] = {"time": np.array(frame.time_ms, "i8"), "band": list(frame.band_names), "y": y, "x": x}
    axes["spatial_ref"] = np.array(0, "i4")
    if frame.time_bnds_ms is not None:
        axes["time_bnds"] = np.array(frame.time_bnds_ms, "i8").reshape(-1, 2)
    return axes | {p.name: list(p.values) if p.dtype == "str" else np.array(p.values, p.dtype) for p in frame.per_time}


def _check_axes(blobs: Blobs, stored: StoredCube, storage_options: Mapping[str, Any] | None) -> Iterator[Finding]:
    """Coordinates decode, as any Zarr reader would, to the root's axes."""
    import zarr

    store = open_blobs(f"{blobs.url}/{stored.folder}", storage_options).zarr_store()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr 3.1: notes on the "string" dtype
        try:
            group: Any = zarr.open_group(store, mode="r", zarr_format=3, use_consolidated=True)
        except Exception as e:  # noqa: BLE001 - zarr raises whatever its parsers raise
            yield Finding("metadata", f"{stored.folder}/{ROOT}", f"zarr cannot open it: {type(e).__name__}: {e}")
            return
        found = {name: _decoded(group, name) for name in axes_of(stored.spec.frame)}
    for name, wanted in axes_of(stored.spec.frame).items():
        values, key = found[name], f"{stored.folder}/{name}"
        if isinstance(values, str):
            yield Finding("coordinate", key, f"it does not decode: {values}")
        elif not (values.tolist() == wanted if isinstance(wanted, list) else np.array_equal(values, wanted)):
            yield Finding("coordinate", key, f"it decodes to {_ends(values)}, the root says {_ends(np.array(wanted))}")


def _decoded(group: Any, name: str) -> Any:
    """Values of one array, or as text what went wrong."""
    try:
        return np.asarray(group[name][...])
    except Exception as e:  # noqa: BLE001 - damaged bytes raise whatever the codec raises
        return f"{type(e).__name__}: {e}"


def _ends(values: Any) -> str:
    flat = np.asarray(values).ravel()
    return f"{flat.tolist()}" if flat.size < 5 else f"{flat.size} values from {flat[0]} to {flat[-1]}"


def _check_sources(blobs: Blobs, stored: StoredCube) -> Iterator[Finding]:
    import pyarrow as pa

    key = sources_path(stored.cube, stored.product)
    body = blobs.get(key)
    try:
        if body is None:
            yield Finding("sources", key, "it is missing: which files the cube came from is not known any more")
        else:
            read_parquet(body)
    except (pa.ArrowException, OSError) as e:
        yield Finding("sources", key, f"it cannot be read: {e}")


def check_names(stored: StoredCube, leftover: Collection[str]) -> Iterator[Finding]:
    """What stands in the cube's folder and belongs neither to a region nor to its metadata."""
    frame = stored.spec.frame
    known = {f"{stored.folder}/{ROOT}"}
    known |= {f"{stored.folder}/{n}/{ROOT}" for n in (*(v.name for v in frame.variables), SUMMARY, *axes_of(frame))}
    folders = tuple(f"{stored.folder}/{n}/c" for n in axes_of(frame))
    for key in sorted(leftover):
        if key not in known and not key.startswith(folders):
            yield Finding(
                "unknown_object", key, "no region of the cube has this object, nor does its metadata; it can be deleted"
            )


def _json(body: bytes | None) -> Any:
    try:
        return None if body is None else json.loads(body)
    except ValueError:
        return None


def _differing(a: Any, b: Any) -> str:
    if not (isinstance(a, Mapping) and isinstance(b, Mapping)):
        return "type"
    return ", ".join(sorted(str(k) for k in {*a, *b} if a.get(k) != b.get(k)))
