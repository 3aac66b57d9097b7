"""Compare a cube's metadata and coordinates with its root; reads only.

The root (the group's ``zarr.json``) holds axes, recipe and the metadata of every array inline; the other objects repeat parts of
it. Values are compared, not bytes: a cube written with another version of zarr-python is no damage.
"""

from __future__ import annotations

import errno
import json
import warnings
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from eocube.errors import EocubeError, StoreReadError
from eocube.io.blobs import Blobs, open_blobs
from eocube.io.cubes import CUBES, cube_path, root_attrs
from eocube.io.geozarr import group_attrs
from eocube.io.parquet import read_parquet
from eocube.io.sources import list_sources, sources_path
from eocube.io.template import EOCUBE_ATTR, ROOT, cube_template, frame_json
from eocube.io.verify import Finding, StoredCube, guarded, unreadable
from eocube.model.frame import Frame
from eocube.model.recipe import RECIPE_ATTR
from eocube.model.spec import FORMAT, SUMMARY, CubeSpec, settings_id


def check_groups(blobs: Blobs, cubes: Collection[tuple[str, str]]) -> Iterator[Finding]:
    """The groups above the cubes, so that the store is one Zarr hierarchy."""
    for key in sorted({CUBES, *(f"{CUBES}/{cube}" for cube, _ in cubes)}) if cubes else ():
        yield from guarded(blobs, _check_group(blobs, f"{key}/{ROOT}"))
    yield from guarded(blobs, _check_top(blobs))


PLAIN_GROUP: dict[str, Any] = {"zarr_format": 3, "node_type": "group", "attributes": {}}


def _check_group(blobs: Blobs, key: str) -> Iterator[Finding]:
    if _json(blobs.get(key)) != PLAIN_GROUP:
        yield Finding("metadata", key, f"it is not the plain Zarr group; write this into it: {json.dumps(PLAIN_GROUP)}")


def _check_top(blobs: Blobs) -> Iterator[Finding]:
    root = _json(blobs.get(ROOT))
    said = root.get("attributes") if isinstance(root, Mapping) else None
    known = isinstance(said, Mapping) and isinstance(said.get(EOCUBE_ATTR), Mapping) and said[EOCUBE_ATTR].get("format") == FORMAT
    if not known or {k: root[k] for k in PLAIN_GROUP if k in root} != {**PLAIN_GROUP, "attributes": said}:
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
    yield from guarded(blobs, _check_root(blobs, stored))
    yield from _check_axes(blobs, stored, storage_options)
    yield from guarded(blobs, _check_sources(blobs, stored))


def _check_root(blobs: Blobs, stored: StoredCube) -> Iterator[Finding]:
    """The root, and the metadata of every array that it has inline."""
    key = f"{stored.folder}/{ROOT}"
    root = json.loads(blobs.get(key) or b"{}")
    inline = root.get("consolidated_metadata", {}).get("metadata", {})
    contradictions = list(_contradictions(stored, stored.spec, inline))
    yield from (Finding("metadata", key, detail) for detail in contradictions)
    for name, said in sorted(inline.items()):
        yield from guarded(blobs, _check_array(blobs, stored, name, said, suspect=bool(contradictions)))


def _check_array(blobs: Blobs, stored: StoredCube, name: str, said: Any, *, suspect: bool) -> Iterator[Finding]:
    """One array's own metadata against what the root has inline; where they differ, the one that was changed is named.

    That is the root where it contradicts itself (``suspect``), or where its attributes ask for what the array has.
    """
    where = f"{stored.folder}/{name}/{ROOT}"
    found = _json(blobs.get(where))
    if found is None:
        yield Finding("metadata", where, "it is missing or no JSON; the root has it inline")
    elif found != said:
        differs = f"in {_differing(found, said)}"
        if suspect or found == _asked(stored, name):
            yield Finding(
                "metadata", f"{stored.folder}/{ROOT}", f"what it has inline of {name!r} is not the array's own {differs}"
            )
        else:
            yield Finding("metadata", where, f"it differs from what the root has inline {differs}")


def _asked(stored: StoredCube, name: str) -> Any:
    """The metadata of an array as it follows from the root's attributes; None where it does not."""
    e, recipe = stored.attrs[EOCUBE_ATTR], str(stored.attrs.get(RECIPE_ATTR))
    try:
        made = cube_template(
            stored.spec, cube=stored.cube, product=stored.product, recipe=recipe, sid=e["settings_id"], licence={}
        )
    except (EocubeError, LookupError, TypeError, ValueError):
        return None
    return made.root_json["consolidated_metadata"]["metadata"].get(name)


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
    axes |= {a.name: list(a.labels) for a in frame.axes}
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
        if isinstance(values, OSError):
            yield unreadable(blobs, StoreReadError(blobs.url, key, values.strerror or str(values)))
        elif isinstance(values, str):
            yield Finding("coordinate", key, f"it does not decode: {values}")
        elif not (values.tolist() == wanted if isinstance(wanted, list) else np.array_equal(values, wanted)):
            yield Finding("coordinate", key, f"it decodes to {_ends(values)}, the root says {_ends(np.array(wanted))}")


def _decoded(group: Any, name: str) -> Any:
    """Values of one array, or as text what went wrong; the error itself where it may not be read."""
    try:
        return np.asarray(group[name][...])
    except OSError as e:
        # A disk's or a right's; what has no such number is a codec's.
        return e if e.errno not in (None, errno.ENOENT) else f"{type(e).__name__}: {e}"
    except Exception as e:  # noqa: BLE001 - damaged bytes raise whatever the codec raises
        return f"{type(e).__name__}: {e}"


def _ends(values: Any) -> str:
    flat = np.asarray(values).ravel()
    return f"{flat.tolist()}" if flat.size < 5 else f"{flat.size} values from {flat[0]} to {flat[-1]}"


def _check_sources(blobs: Blobs, stored: StoredCube) -> Iterator[Finding]:
    keys = list_sources(blobs, stored.cube, stored.product)
    if not keys:
        missing = "it is missing: which files the cube came from is not known any more"
        yield Finding("sources", sources_path(stored.cube, stored.product), missing)
    for key in keys:
        yield from guarded(blobs, _check_part(blobs, key))


def _check_part(blobs: Blobs, key: str) -> Iterator[Finding]:
    import pyarrow as pa

    body = blobs.get(key)
    try:
        read_parquet(body or b"")
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
