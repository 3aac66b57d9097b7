"""What lies at an address, by its root ``zarr.json``: nothing is done to a place that is not what it is taken for."""

from __future__ import annotations

import json
from typing import Literal

from eocube.errors import CubeError, DamagedStoreError, StoreNotFoundError
from eocube.io.blobs import Blobs
from eocube.io.template import EOCUBE_ATTR, ROOT
from eocube.patches.layout import ATTR as PATCHES_ATTR

RootKind = Literal["nothing", "store", "cube", "patches", "other"]


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
        If the group there was not written by eocube.
    """
    kind = root_kind(blobs)
    if kind == "nothing":
        raise StoreNotFoundError(blobs.url)
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
            "Check the address. Nothing was changed."
        )
