"""Compare a cube's objects with its markers, region by region; reads only.

What is compared: sizes, or also digests, or also pixels (every chunk decoded, valid and clear pixels counted again).
Memory is that of one region's encoded objects.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from eocube.errors import DamagedStoreError, StoreReadError
from eocube.io.blobs import Blobs, LocalBlobs
from eocube.io.cubes import CUBES, cube_path, spec_from_attrs
from eocube.io.markers import MARKERS, Marker, MarkerName, ObjectDigest, marker_folder, marker_path, parse_marker
from eocube.io.shards import decode_chunk, split_shard
from eocube.io.tally import fits, newest_marker
from eocube.io.template import EOCUBE_ATTR, ROOT
from eocube.kernels.masking import clear_percent, is_class
from eocube.model.frame import Variable
from eocube.model.spec import SUMMARY, CubeSpec, Place, Region

Depth = Literal["sizes", "digests", "pixels"]

Problem = Literal[
    "missing",
    "size",
    "digest",
    "not_empty",
    "undecodable",
    "counts",
    "no_marker",
    "unknown_object",
    "unfinished",
    "failed_asset",
    "marker",
    "metadata",
    "coordinate",
    "sources",
    "index",
    "unreadable",
    "staging",
]
"""``missing``, ``size``, ``digest``: an object is not what its marker says; ``not_empty``: there is one where the marker says
that every pixel is nodata; ``undecodable``, ``counts``: its bytes do not decode, or to other valid or clear pixels;
``no_marker``: an object of a region that no marker vouches for; ``unfinished``: a region without a marker; ``failed_asset``: a
region in which a file could not be read; ``marker``: a marker that is damaged, left over or does not fit its cube;
``metadata``, ``coordinate``, ``sources``, ``index``: these objects are missing or say something else than the cube's root;
``unreadable``: an object or folder that is there and cannot be read, so that nothing is known of what is in it;
``staging``: a file that a killed run left in the store's own folder for unfinished writes; harmless."""


class Finding(NamedTuple):
    """One thing that is not as it should be."""

    problem: Problem
    key: str
    """Object below the store."""

    detail: str
    """What was expected and what was found."""

    region: str = ""
    """Region ``t.y.x``; empty where it is about the whole cube."""


@dataclass(frozen=True, kw_only=True)
class RegionCheck:
    """What checking one region gave."""

    findings: list[Finding]
    objects: int
    """Objects read (or, by size only, listed)."""

    bytes_read: int
    pixels: int
    clear: int
    failed: list[dict[str, str]]
    """As the marker has them, as the next."""

    place: Place | None
    written: bool
    """Whether a marker says that the region is there."""


@dataclass(frozen=True, kw_only=True)
class StoredCube:
    """One cube of a store as its root describes it."""

    cube: str
    product: str
    attrs: Mapping[str, Any] = field(repr=False)

    @property
    def folder(self) -> str:
        """Its folder below the store."""
        return cube_path(self.cube, self.product)

    @property
    def site(self) -> str:
        """Name of the site that the whole cube is, where it is one."""
        return str(self.attrs[EOCUBE_ATTR].get("site", self.cube))

    @cached_property
    def spec(self) -> CubeSpec:
        """How it is cut."""
        return spec_from_attrs(self.attrs)


def can_list(url: str) -> bool:
    """Whether the objects below an address can be listed; over plain HTTP they cannot."""
    return not url.lower().startswith(("http://", "https://"))


def find_cubes(blobs: Blobs) -> list[tuple[str, str]]:
    """(cube, product) of everything that looks like a cube below ``cubes/``, whole or not, sorted; from one listing."""
    paths = (key.split("/") for key, _ in blobs.list(CUBES))
    return sorted({(p[1], p[2]) for p in paths if len(p) > 3})


class Survey(NamedTuple):
    """What stands below ``cubes/`` and ``markers/``."""

    cubes: list[tuple[str, str]]
    """(cube, product) of everything that looks like a cube, whole or not, sorted."""

    marked: set[tuple[str, str]]
    """(cube, product) of every cube that has a marker."""

    strays: list[str]
    """Keys that belong to no cube and are no marker, sorted."""

    hidden: list[Finding]
    """Folders that cannot be looked into."""


def survey(blobs: Blobs) -> Survey:
    """Look through the names of a store's objects: one listing of ``cubes/``, one of ``markers/``."""
    cubes, marked, strays = set(), set(), []
    below_cubes, below_markers = list_readable(blobs, CUBES), list_readable(blobs, MARKERS)
    for key in below_cubes.sizes:
        p = key.split("/")
        if len(p) > 3:
            cubes.add((p[1], p[2]))
        elif p[-1] != ROOT:
            strays.append(key)
    for key in below_markers.sizes:
        p = key.split("/")
        if len(p) == 5 and parse_marker(key) is not None:
            marked.add((p[1], p[2]))
        else:
            strays.append(key)
    return Survey(sorted(cubes), marked, sorted(strays), [*below_cubes.hidden, *below_markers.hidden])


# ------------------------------------------------------------------------------------------------ what cannot be read


class Listing(NamedTuple):
    """The objects below a folder, as far as it can be looked into."""

    sizes: dict[str, int]
    """Key below the store → bytes."""

    hidden: list[Finding]
    """What cannot be looked into: folders, and files whose size cannot be asked."""


def list_readable(blobs: Blobs, prefix: str) -> Listing:
    """As ``blobs.list``; in a folder of this machine what cannot be looked into is a finding, and the rest is listed.

    An object store lists all or nothing: StoreReadError there.
    """
    if not isinstance(blobs, LocalBlobs):
        return Listing(dict(blobs.list(prefix)), [])
    errors: list[OSError] = []
    sizes: dict[str, int] = {}
    for folder, _, files in os.walk(f"{blobs.url}/{prefix}", onerror=errors.append):
        for name in files:
            try:
                sizes[os.path.relpath(f"{folder}/{name}", blobs.url)] = os.stat(f"{folder}/{name}").st_size  # noqa: PTH116
            except OSError as e:
                errors.append(e)
    refused = [e for e in errors if not isinstance(e, FileNotFoundError | NotADirectoryError)]
    return Listing(sizes, [_unread(os.path.relpath(str(e.filename), blobs.url), e.strerror or str(e)) for e in refused])


def guarded(blobs: Blobs, check: Iterable[Finding]) -> Iterator[Finding]:
    """The findings of one object's check, the last one ``unreadable`` where the object cannot be read."""
    try:
        yield from check
    except StoreReadError as e:
        yield unreadable(blobs, e)


def unreadable(blobs: Blobs, error: StoreReadError) -> Finding:
    """The finding for one object that cannot be read; ``error`` again where the store as a whole does not answer."""
    try:
        blobs.get(ROOT)
    except StoreReadError:
        raise error from None
    return _unread(error.key, error.reason)


def _unread(key: str, reason: str) -> Finding:
    return Finding("unreadable", key, f"it is there and cannot be read: {reason}")


def is_below(key: str, folders: Iterable[str]) -> bool:
    """Whether a key is one of these or lies below one of them."""
    return any(key == folder or key.startswith(f"{folder}/") for folder in folders)


# ------------------------------------------------------------------------------------------------ regions


def region_objects(cube: StoredCube, region: Region) -> dict[str, Variable | None]:
    """Key below the store of each object that a region may have → its variable; None for ``clear_summary``."""
    t, y, x = region
    keys: dict[str, Variable | None] = {f"{cube.folder}/{cube.spec.shard_key(v, region)}": v for v in cube.spec.frame.variables}
    return {**keys, f"{cube.folder}/{SUMMARY}/c/{t}/{y}/{x}": None}


def regions_with_objects(cube: StoredCube, keys: Iterable[str]) -> set[Region]:
    """Regions of the cube's grid to which some of these keys below the store belong."""
    found: set[Region] = set()
    for key in keys:
        _, _, numbers = key.removeprefix(f"{cube.folder}/").partition("/c/")
        at = numbers.split("/")
        if len(at) >= 3 and all(n.isdecimal() for n in at):
            region = Region(int(at[0]), int(at[-2]), int(at[-1]))
            if all(i < n for i, n in zip(region, cube.spec.grid, strict=True)) and key in region_objects(cube, region):
                found.add(region)
    return found


def check_region(
    blobs: Blobs,
    cube: StoredCube,
    region: Region,
    names: Sequence[MarkerName],
    sizes: Mapping[str, int],
    *,
    depth: Depth,
) -> RegionCheck:
    """Compare one region with its marker.

    Parameters
    ----------
    names
        Its markers, as listed.
    sizes
        Its objects, as listed: key below the store → bytes.
    depth
        ``sizes``: nothing but the marker is read; ``digests``: every object; ``pixels``: every object is decoded too.
    """
    try:
        marker = newest_marker(blobs, cube.attrs, names, spec=cube.spec)
    except DamagedStoreError as e:
        return _unwritten(cube, region, sizes, [Finding("marker", marker_folder(cube.cube, cube.product, region), str(e))])
    except StoreReadError as e:
        return _unwritten(cube, region, {}, [unreadable(blobs, e)])
    if marker is None:
        lost = Finding("unfinished", marker_folder(cube.cube, cube.product, region), "no marker says that it is written")
        return _unwritten(cube, region, sizes, [lost])
    findings = list(_check_marker(cube, region, marker, names))
    objects, n_bytes = _check_objects(blobs, cube, region, marker, sizes, depth, findings)
    return RegionCheck(
        findings=[f._replace(region=str(region)) for f in findings],
        objects=objects,
        bytes_read=n_bytes,
        pixels=marker.pixels,
        clear=marker.clear,
        failed=marker.failed,
        place=marker.place,
        written=True,
    )


def _unwritten(cube: StoredCube, region: Region, sizes: Mapping[str, int], findings: list[Finding]) -> RegionCheck:
    where = f"region {region} of {cube.cube}/{cube.product} has no readable marker, so nothing vouches for it"
    findings = [*findings, *(Finding("no_marker", key, where) for key in sorted(sizes))]
    named = [f._replace(region=str(region)) for f in findings]
    return RegionCheck(findings=named, objects=0, bytes_read=0, pixels=0, clear=0, failed=[], place=None, written=False)


def _check_marker(cube: StoredCube, region: Region, marker: Marker, names: Sequence[MarkerName]) -> Iterator[Finding]:
    """The marker's own claims (its name, its keys, its number of pixels), and markers beside it."""
    own = MarkerName(region, marker.key, bool(marker.failed))
    key = marker_path(cube.cube, cube.product, own)
    for other in names:
        if other != own:
            beside = marker_path(cube.cube, cube.product, other)
            yield Finding("marker", beside, f"it stands beside {marker.key[:12]}, which replaces it; run the same command again")
    if own not in names:
        yield Finding("marker", key, "a marker says another name or state inside than its own name does")
    for row in marker.failed:
        detail = f"{row.get('item_id')} {row.get('asset')} {row.get('href')}: {row.get('error')}"
        yield Finding("failed_asset", key, detail)
    window = cube.spec.window(region)
    n = len(window.times) * window.shape_yx[0] * window.shape_yx[1]
    if set(marker.shards) != set(region_objects(cube, region)):
        yield Finding("marker", key, f"it vouches for other objects than the region's: {sorted(marker.shards)}")
    elif not marker.failed and (marker.pixels != n or not fits(cube.attrs, cube.spec, region, marker)):
        yield Finding(
            "marker",
            key,
            "its name or its number of pixels does not follow from its sources and the cube's root: one of them is damaged, or "
            "an append has begun and is not finished (run its command again)",
        )


def _check_objects(
    blobs: Blobs,
    cube: StoredCube,
    region: Region,
    marker: Marker,
    sizes: Mapping[str, int],
    depth: Depth,
    findings: list[Finding],
) -> tuple[int, int]:
    """Compare the region's objects; (objects, bytes) read. Findings are added to ``findings``."""
    bodies: dict[str, bytes] = {}
    objects = n_bytes = 0
    for key in region_objects(cube, region):
        said, size = marker.shards.get(key), sizes.get(key)
        differs = list(_check_size(key, said, size))
        findings += differs
        if said is None or differs:
            continue
        objects += 1
        try:
            body = None if depth == "sizes" else blobs.get(key)
        except StoreReadError as e:
            findings.append(unreadable(blobs, e))
            continue
        if body is not None:
            n_bytes += len(body)
            if depth == "pixels":
                bodies[key] = body
            findings += _check_digest(key, body, said[1])
        elif depth != "sizes":
            findings.append(Finding("missing", key, "it was listed and could not be read"))
    if depth == "pixels":
        complete = len(bodies) == sum(s is not None for s in marker.shards.values())
        findings += _check_pixels(cube, region, marker, bodies, complete=complete)
    return objects, n_bytes


def _check_size(key: str, said: Sequence[Any] | None, size: int | None) -> Iterator[Finding]:
    """What a marker says of an object against what was listed: bytes, None where there is none."""
    if said is None and size is not None:
        yield Finding("not_empty", key, f"the marker says that every pixel is nodata, {size} bytes are there")
    elif said is not None and size is None:
        yield Finding("missing", key, f"the marker says {said[0]} bytes, no object is there")
    elif said is not None and size != said[0]:
        yield Finding("size", key, f"the marker says {said[0]} bytes, {size} are there")


def _check_digest(key: str, body: bytes, said: str) -> Iterator[Finding]:
    found = ObjectDigest(body).hexdigest()
    if found != said:
        yield Finding("digest", key, f"the marker says XXH3-128 {said[:12]}…, the object has {found[:12]}…")


def _check_pixels(
    cube: StoredCube, region: Region, marker: Marker, bodies: Mapping[str, bytes], *, complete: bool
) -> Iterator[Finding]:
    """Decode everything that is there, and count again where it is all there is to count."""
    chunks: dict[str, dict[tuple[int, ...], bytes]] = {}
    for key, variable in region_objects(cube, region).items():
        try:
            if variable is None:
                summary_found = _decode_summary(cube.spec, bodies.get(key))
            else:
                chunks[variable.name] = _chunks_of(cube.spec, variable, bodies.get(key))
        except DamagedStoreError as e:
            complete = False
            yield Finding("undecodable", key, str(e))
    if not complete:
        return
    valid, clear, summary = _count(cube.spec, region, chunks)
    where = marker_path(cube.cube, cube.product, MarkerName(region, marker.key, bool(marker.failed)))
    if (valid, clear) != (marker.valid, marker.clear) and not marker.failed:
        said = f"the marker says {marker.valid} valid and {marker.clear} clear pixels, decoding gives {valid} and {clear}"
        yield Finding("counts", where, said)
    key = f"{cube.folder}/{SUMMARY}/c/{region.t}/{region.y}/{region.x}"
    if not np.array_equal(summary, summary_found):
        yield Finding("counts", key, "its shares of clear pixels are not those of the pixels")


def _chunks_of(spec: CubeSpec, variable: Variable, body: bytes | None) -> dict[tuple[int, ...], bytes]:
    """Encoded chunks of one shard, each decoded once to see that it does."""
    if body is None:
        return {}
    found = split_shard(body, spec.chunks_of(variable))
    for chunk in found.values():
        decode_chunk(chunk, spec.chunk_shape(variable), variable.dtype)
    return found


def _count(
    spec: CubeSpec, region: Region, chunks: Mapping[str, Mapping[tuple[int, ...], bytes]]
) -> tuple[int, int, npt.NDArray[np.uint8]]:
    """(valid, clear, summary) of a region from its encoded chunks, one chunk after the other."""
    window = spec.window(region)
    extent = (len(window.times), *window.shape_yx)
    cell, summary = spec.cell_px, np.zeros(spec.summary_chunk, np.uint8)
    valid = clear = 0
    for at in np.ndindex(*spec.chunks_per_shard):
        t0, y0, x0 = (i * c for i, c in zip(at, spec.chunk_tyx, strict=True))
        nt, ny, nx = (min(c, n - i) for c, n, i in zip(spec.chunk_tyx, extent, (t0, y0, x0), strict=True))
        if min(nt, ny, nx) <= 0:
            continue
        is_valid, is_clear = _flags(spec, chunks, (at[0], at[1], at[2]), (nt, ny, nx))
        valid, clear = valid + int(is_valid.sum()), clear + int(is_clear.sum())
        share = clear_percent(is_clear, cell)
        ys, xs = y0 // cell, x0 // cell
        summary[t0 : t0 + nt, ys : ys + share.shape[1], xs : xs + share.shape[2]] = share
    return valid, clear, summary


def _flags(
    spec: CubeSpec, chunks: Mapping[str, Mapping[tuple[int, ...], bytes]], at: tuple[int, int, int], shape: tuple[int, int, int]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """(valid, clear) of one chunk, cut to the part inside the cube: (time, y, x)."""

    def values(variable: Variable) -> npt.NDArray[Any]:
        full = spec.chunk_shape(variable)
        found = [chunks[variable.name].get(where) for where in spec.deep(variable, at)]
        layers = [
            np.full(full, variable.fill, variable.dtype) if body is None else decode_chunk(body, full, variable.dtype)
            for body in found
        ]
        whole = np.concatenate(layers, axis=1) if len(layers) > 1 else layers[0]
        return whole[: shape[0], ..., : shape[1], : shape[2]]

    data, rule = spec.frame.data, spec.clear_rule
    is_valid = np.asarray(data.valid(values(data)).all(axis=1))
    if rule["variable"] == "data":
        return is_valid, is_valid
    return is_valid, np.asarray(is_valid & is_class(values(spec.frame.variable(rule["variable"])), rule["clear_values"]))


def _decode_summary(spec: CubeSpec, body: bytes | None) -> npt.NDArray[np.uint8]:
    """``clear_summary`` of one region; DamagedStoreError where it does not decode."""
    from numcodecs.zstd import decompress

    if body is None:
        return np.zeros(spec.summary_chunk, np.uint8)
    try:
        return np.frombuffer(decompress(body), np.uint8).reshape(spec.summary_chunk)
    except (RuntimeError, ValueError) as e:
        raise DamagedStoreError(f"The {len(body)} bytes of {SUMMARY} do not decode to {spec.summary_chunk} uint8: {e}.") from e
