"""What lies at an address, by its root ``zarr.json``: nothing is done to a place that is not what it is taken for."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from eocube.errors import ArgumentError, CubeError, DamagedStoreError, EocubeError, StoreNotFoundError, StoreWriteError
from eocube.io.blobs import STAGING, Blobs, LocalBlobs, open_blobs
from eocube.io.cubes import CUBES
from eocube.io.scratch import unwritten
from eocube.io.template import EOCUBE_ATTR, ROOT
from eocube.patches.layout import ATTR as PATCHES_ATTR

RootKind = Literal["nothing", "store", "cube", "patches", "other"]
_HELD = {"store": "a store", "cube": "a cube of a store", "patches": "a patch set"}
_SOURCES = "sources"
"""A folder of a few objects that nothing but a run of eocube into a store makes."""

_STORES_OWN = (CUBES, "markers", _SOURCES, "index", "runs", STAGING)
"""Folders of a store that nobody else may write to."""

_MAX_ABOVE = 4
"""Folders above a new store that are looked at; a region's markers and a cube's arrays lie so deep in a store."""


def address(name: str, value: object) -> str:
    """The address of a store or cube as text. ArgumentError for what is none; ``name`` is the argument."""
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(text, str):
        raise ArgumentError(
            f"{name} is {str(value)[:80]!r} ({type(value).__name__}); expected an address: a folder or URL, as text."
        )
    return text


def root_kind(blobs: Blobs) -> RootKind:
    """What the root says that it is; ``other``: a group that eocube did not write, or no JSON. One request."""
    body = blobs.get(ROOT)
    if body is None:
        return "nothing"
    try:
        attrs = json.loads(body)["attributes"]
        if PATCHES_ATTR in attrs:
            return "patches"
        stated = attrs.get(EOCUBE_ATTR, {})
        if "format" not in stated:
            return "other"
    except (ValueError, KeyError, TypeError, AttributeError):
        return "other"
    return "cube" if "cube" in stated else "store"


def require_store(blobs: Blobs) -> None:
    """Pass where a store of eocube is.

    Raises
    ------
    StoreNotFoundError
        If there is no ``zarr.json``.
    CubeError
        If a patch set or a single cube is there.
    DamagedStoreError
        If the group there was not written by eocube, or is damaged.
    """
    kind = root_kind(blobs)
    if kind == "nothing":
        raise StoreNotFoundError(blobs.url)
    _require_store_or_nothing(blobs, kind)


def _require_store_or_nothing(blobs: Blobs, kind: RootKind) -> None:
    """Errors as of :func:`require_store`, but for a place where nothing is."""
    if kind == "patches":
        raise CubeError(
            f"{blobs.url} is a patch set, not a store of cubes; open it with eocube.PatchDataset. Nothing was changed."
        )
    if kind == "cube":
        raise CubeError(
            f"{blobs.url} is one cube, not a store; pass the folder above its cubes/: STORE of STORE/cubes/<cube>/<product>. "
            "Nothing was changed."
        )
    if kind == "other":
        raise DamagedStoreError(
            f"{blobs.url} holds a zarr.json, but not an eocube store's (no {EOCUBE_ATTR}.format in its attributes). "
            f"{_cure(blobs)} Nothing was changed."
        )


def _cure(blobs: Blobs) -> str:
    """What to do where the root is none of eocube's: a store's cubes may lie below it, and nothing of them is in that file."""
    try:
        below = next(iter(blobs.list(_SOURCES)), None) is not None
    except EocubeError:  # plain HTTP has no listings
        below = False
    if not below:
        return "Check the address, or write to a place of its own."
    return (
        "Below it lies what runs of eocube leave, so it is a store whose zarr.json was damaged: delete that one file, "
        f"{blobs.url}/{ROOT}, and run the command that wrote the store again. It makes the file anew and keeps the cubes."
    )


# ------------------------------------------------------------------------------------------------ where a store is to be written


def require_target(store: str, storage_options: Mapping[str, Any] | None = None, *, retry: bool = False) -> None:
    """Pass where a run may write a store: one is there, or nothing, and no other store's folder. Nothing is touched.

    One request where a store is; where a new one is to be made, also one for each of the next folders above.

    Raises
    ------
    CubeError, DamagedStoreError
        If something else is there, as :func:`require_store` says it, or the place lies in a store's own folders or a patch set.
    StoreNotFoundError
        If nothing is there, and only failed regions (``retry``) of an earlier run are to be written.
    StoreWriteError
        If a folder of this machine cannot be there: its path leads through a file, its name is too long.
    """
    blobs = open_blobs(store, storage_options)
    if isinstance(blobs, LocalBlobs):
        _existing(blobs.url)
    kind = root_kind(blobs)
    if kind in ("nothing", "other"):
        _refuse_inside(blobs, storage_options)
    if kind == "nothing" and retry:
        error = StoreNotFoundError(blobs.url)
        error.add_note(
            "--retry (retry=True) writes regions in which an earlier run could not read a file; leave it out to begin."
        )
        raise error
    if kind != "nothing":
        _require_store_or_nothing(blobs, kind)


def require_writable(store: str) -> None:
    """StoreWriteError where this user may not write the folder of a store; nothing is touched.

    An object store says it only to who writes.
    """
    blobs = open_blobs(store)
    if not isinstance(blobs, LocalBlobs):
        return
    found = _existing(blobs.url)
    if not os.access(found, os.W_OK | os.X_OK):
        read_only = os.statvfs(found).f_flag & os.ST_RDONLY
        raise _unwritable(blobs.url, errno.EROFS if read_only else errno.EACCES)


def _existing(folder: str) -> Path:
    """The nearest folder that is there: itself, or one above. StoreWriteError where the path cannot be one of a folder."""
    for path in (Path(folder), *Path(folder).parents):
        try:
            mode = path.stat().st_mode
        except FileNotFoundError:
            continue
        except OSError as e:
            raise _unwritable(folder, e.errno or errno.EIO) from e
        if not stat.S_ISDIR(mode):
            raise _unwritable(folder, errno.ENOTDIR)
        return path
    return Path("/")


def _unwritable(folder: str, code: int) -> StoreWriteError:
    """What a run says whose first object cannot be put."""
    return unwritten(f"Object {ROOT!r} could not be written below {folder}", OSError(code, os.strerror(code)))


def _refuse_inside(blobs: Blobs, options: Mapping[str, Any] | None) -> None:
    """CubeError where a place lies in a folder that a store keeps for its own, in a cube or in a patch set.

    Other folders inside a store are their owner's to use.
    """
    for above, below in _above(blobs):
        try:
            kind = root_kind(open_blobs(above, options))
        except (EocubeError, ValueError, NotImplementedError):  # a place above that may not be read, or is no address
            continue
        if kind not in _HELD or (kind == "store" and below[0] not in _STORES_OWN):
            continue
        held = f"lies inside {above}, which is {_HELD[kind]}"
        if kind == "store":
            held = f"{'is' if len(below) == 1 else 'lies in'} the folder of the {below[0]} of a store, {above}"
        raise CubeError(
            f"{blobs.url} {held}. A store cannot be written there: name that store itself, or a place outside it. "
            "Nothing was changed."
        )


def _above(blobs: Blobs) -> Iterator[tuple[str, list[str]]]:
    """(address, names below it) of the next folders above, the nearest first; of a local one without links and ``..``."""
    local = isinstance(blobs, LocalBlobs)
    start, sep, rest = ("", "", str(Path(blobs.url).resolve())) if local else blobs.url.partition("://")
    parts = rest.rstrip("/").split("/")
    for n in range(len(parts) - 1, max(0, len(parts) - 1 - _MAX_ABOVE), -1):
        yield f"{start}{sep}{'/'.join(parts[:n])}" or "/", parts[n:]
