"""Claim a cube in a store: the root metadata, put if absent, says who may write what.

Everything else is put by anyone whose root is equal. An append writes shards and markers first, then coordinates and array
metadata, and the root last: a reader sees the old cube or the new one.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from eocube.errors import GridError, LateDateError, SettingsError, StalePlanError
from eocube.io.blobs import Blobs
from eocube.io.cubes import CUBES, cube_path, root_attrs
from eocube.io.markers import MarkerName, delete_markers, list_markers
from eocube.io.template import EOCUBE_ATTR, ROOT, Template
from eocube.model.hooks import kill_hook
from eocube.model.licences import merged, of_store
from eocube.model.recipe import RECIPE_ATTR
from eocube.model.spec import FORMAT

_DAY_MS = 86_400_000
ClaimKind = Literal["new", "same", "grow"]


@dataclass(frozen=True, kw_only=True)
class CubeMeta:
    """What a plan says of a cube's metadata."""

    cube: str
    product: str
    template: Template

    @property
    def root(self) -> bytes:
        """The planned root."""
        return self.template.root

    @property
    def attrs(self) -> dict[str, Any]:
        """Attributes of the planned root."""
        attrs: dict[str, Any] = self.template.root_json["attributes"]
        return attrs

    @property
    def folder(self) -> str:
        """Folder of the cube below its store."""
        return cube_path(self.cube, self.product)


def claim(blobs: Blobs, meta: CubeMeta) -> tuple[ClaimKind, list[MarkerName]]:
    """Make the cube's metadata, or find out that it is there (``same``) or that the plan's goes further (``grow``).

    ``grow`` is more dates, or the same dates with other labels: more items of a day that is there, another cloud cover. Whether
    a plan with other labels knows less than the store is told by the regions' sources. The second value are the cube's markers.

    Raises SettingsError, GridError, LateDateError or StalePlanError where the plan does not fit what is there; nothing is
    written then. A cube stays in its split: what was trained on would else be tested on.
    """
    root_key = f"{meta.folder}/{ROOT}"
    stored = blobs.get(root_key) or _sweep_markers(blobs, meta)
    if stored is None:
        ensure_groups(blobs, meta.cube)
        if blobs.put_new(root_key, meta.root):
            put_template(blobs, meta)
            return "new", []
        stored = blobs.get(root_key) or b""
    kind = compare(stored, meta, where=f"{blobs.url}/{meta.folder}")
    names = list_markers(blobs, meta.cube, meta.product)
    if kind == "same" and not names:
        put_template(blobs, meta)  # a run may have died inside the template; equal bytes do no harm
    return kind, names


def _sweep_markers(blobs: Blobs, meta: CubeMeta) -> bytes | None:
    """Delete the markers of a cube deleted by hand, before there is a root with which they would say that all is written.

    The root always goes first: markers listed while none is there belong to nothing. The root, if another run has put it by now.
    """
    left = list_markers(blobs, meta.cube, meta.product)
    stored = blobs.get(f"{meta.folder}/{ROOT}") if left else None  # after the listing: it may be of that run's own markers
    if stored is None:
        delete_markers(blobs, meta.cube, meta.product, left)
    return stored


def relate(blobs: Blobs, meta: CubeMeta) -> ClaimKind:
    """What :func:`claim` would say and raise; nothing is written."""
    stored = blobs.get(f"{meta.folder}/{ROOT}")
    return "new" if stored is None else compare(stored, meta, where=f"{blobs.url}/{meta.folder}")


def compare(stored: bytes, meta: CubeMeta, *, where: str) -> ClaimKind:
    """How a stored root relates to the planned one."""
    old, new = root_attrs(stored, where), meta.attrs
    name = f"{meta.cube}/{meta.product}"
    have, want = old[EOCUBE_ATTR]["time_ms"], new[EOCUBE_ATTR]["time_ms"]
    if old[EOCUBE_ATTR]["settings_id"] != new[EOCUBE_ATTR]["settings_id"]:
        codecs = {"codec": (_codec(stored), _codec(meta.root))} if _codec(stored) != _codec(meta.root) else {}
        raise SettingsError(f"Cube {name!r} in {where}", _differences(old, new) or codecs or _ids(old, new))
    was, is_now = (attrs[EOCUBE_ATTR].get("split") for attrs in (old, new))
    if was not in (None, is_now):
        raise SettingsError(f"Cube {name!r} in {where}", {"split": (was, is_now)})
    for key, stands, asked in _fixed(old, new):
        if stands != asked:
            raise GridError(f"Cube {name!r} in {where} has {key} {stands}, this run asks for {asked}. Write another product.")
    if not set(have) <= set(want):
        _refuse_earlier_item(name, have, want)
        raise StalePlanError(
            f"Cube {name!r} in {where} holds {len(have)} dates, this run knows {len(set(have) & set(want))} of them. A run never "
            f"takes dates away; nothing was changed. Run with all dates, or with --rebuild {name} "
            "(rebuild=True in write_cube) to begin anew."
        )
    if want[: len(have)] != have:
        raise LateDateError(name, _iso(min(set(want) - set(have))), _iso(have[-1]))
    # Parsed, not as bytes: making those costs more than all the rest of passing a finished cube by.
    return "same" if json.loads(stored) == meta.template.root_json else "grow"


def _refuse_earlier_item(name: str, have: list[int], want: list[int]) -> None:
    """LateDateError where a day that is there begins earlier now: a day's date is that of its first item."""
    gone, new = sorted(set(have) - set(want)), sorted(set(want) - set(have))
    earlier = [next((n for n in new if 0 < g - n < _DAY_MS), None) for g in gone]
    if len(want) >= len(have) and all(n is not None for n in earlier):
        raise LateDateError(name, _iso(min(n for n in earlier if n is not None)), _iso(have[-1]))


def _differences(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[object, object]]:
    """What of the settings differs: name → (stored, planned); nothing where only the codec does."""
    a, b = old[EOCUBE_ATTR], new[EOCUBE_ATTR]

    def named(e: dict[str, Any]) -> dict[str, Any]:
        data = next(v for v in e["variables"] if v["name"] == "data")
        return {
            "bands": ", ".join(band[0] for band in e["bands"]),
            "variables": ", ".join(f"{v['name']} {v['dtype']}" for v in e["variables"]),
            "scale, offset, nodata": [data["scale"], data["offset"], data["nodata"]],
            "layout": e["layout"],
            "format": e["format"],
        }

    both = zip(named(a).items(), named(b).values(), strict=True)
    found = {name: (stored, asked) for (name, stored), asked in both if stored != asked}
    known, wanted = (_inputs(attrs.get(RECIPE_ATTR)) for attrs in (old, new))
    found |= {name: (known.get(name), wanted.get(name)) for name in {**known, **wanted} if known.get(name) != wanted.get(name)}
    if old.get(RECIPE_ATTR) != new.get(RECIPE_ATTR) and (
        not found or _steps(old.get(RECIPE_ATTR)) != _steps(new.get(RECIPE_ATTR))
    ):
        found["recipe"] = (_steps(old.get(RECIPE_ATTR)), _steps(new.get(RECIPE_ATTR)))
    return found


def _ids(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[object, object]]:
    return {"settings": (old[EOCUBE_ATTR]["settings_id"], new[EOCUBE_ATTR]["settings_id"])}


def _codec(root: bytes) -> str:
    """The codecs of the chunks of ``data``, in a few words; nothing where the root does not tell."""
    try:
        (outer,) = json.loads(root)["consolidated_metadata"]["metadata"]["data"]["codecs"]
        told = ((c["name"], c.get("configuration", {})) for c in outer["configuration"]["codecs"])
        return ", ".join(" ".join([name, *(f"{k}={v}" for k, v in how.items())]) for name, how in told)
    except (KeyError, TypeError, ValueError):
        return ""


def _inputs(recipe: str | None) -> dict[str, object]:
    """What a recipe says of how its inputs are read, beside their bands and numbers: resampling, mosaic, decode …"""
    try:
        told = json.loads(recipe or "{}").get("inputs", {})
    except (ValueError, AttributeError):
        return {}
    skipped = {"kind", "settings", "bands", "masks", "scale", "offset", "nodata"}
    return {k: v for one in told.values() for k, v in one.items() if k not in skipped}


def _steps(recipe: str | None) -> str:
    """A recipe in a few words: its inputs and steps with their arguments."""
    told = json.loads(recipe or "{}")
    inputs = [f"{i.get('kind')} {i.get('settings', '')[:8]}".strip() for i in told.get("inputs", {}).values()]
    steps = [f"{s['step']}({', '.join(f'{k}={v}' for k, v in s['args'].items())})" for s in told.get("steps", [])]
    return " → ".join([*inputs, *steps]) or "none"


def _fixed(old: dict[str, Any], new: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """(name, stored, planned) of what no run changes: where the pixels lie, and in which shards."""
    for key in ("proj:code", "proj:wkt2", "spatial:transform", "spatial:shape"):
        yield key, old.get(key), new.get(key)
    for key in ("chunk_tyx", "shard_tyx", "cell_px"):
        yield key, old[EOCUBE_ATTR].get(key), new[EOCUBE_ATTR].get(key)


def _iso(ms: int) -> str:
    return dt.datetime.fromtimestamp(ms / 1000, dt.UTC).isoformat(timespec="seconds")


def put_template(blobs: Blobs, meta: CubeMeta) -> None:
    """Put every object of the template but the root."""
    for n, (key, body) in enumerate(sorted(meta.template.items())):
        if n == len(meta.template) // 2:
            kill_hook("template")
        if key != ROOT:
            blobs.put(f"{meta.folder}/{key}", body)


def publish(blobs: Blobs, meta: CubeMeta) -> None:
    """Make an append visible: coordinates and array metadata, then the root, after reading it once more."""
    compare(blobs.get(f"{meta.folder}/{ROOT}") or b"", meta, where=f"{blobs.url}/{meta.folder}")
    put_template(blobs, meta)
    kill_hook("append")
    compare(blobs.get(f"{meta.folder}/{ROOT}") or b"", meta, where=f"{blobs.url}/{meta.folder}")
    blobs.put(f"{meta.folder}/{ROOT}", meta.root)


def ensure_groups(blobs: Blobs, cube: str) -> None:
    """The groups above a cube, so that the store is one Zarr hierarchy."""
    for key in (CUBES, f"{CUBES}/{cube}"):
        blobs.put_new(f"{key}/{ROOT}", group_json({}))


def group_json(attributes: dict[str, object]) -> bytes:
    """A Zarr v3 group's metadata."""
    return json.dumps({"zarr_format": 3, "node_type": "group", "attributes": attributes}, indent=1).encode()


def ensure_store(blobs: Blobs, attributes: Mapping[str, object]) -> None:
    """The store's own root, put if absent; to one that is there its licences and attributions are added."""
    if not blobs.put_new(ROOT, group_json({EOCUBE_ATTR: {"format": FORMAT}, **attributes})):
        add_licences(blobs, attributes)


def add_licences(blobs: Blobs, found: Mapping[str, Any]) -> None:
    """Add to the lists of a store's or patch set's root what they lack of ``found``'s; the root is put only where they do.

    Two runs that add others in the same moment may undo each other's, so :func:`eocube.exec.drive.drive` adds its own once more
    at its end.
    """
    wanted = of_store([found])
    body = blobs.get(ROOT) if any(wanted.values()) else None
    if body is None:
        return
    root = json.loads(body)
    attrs = root["attributes"]
    grown = {name: merged(attrs.get(name, ()), texts) for name, texts in wanted.items() if texts}
    if any(attrs.get(name) != texts for name, texts in grown.items()):
        root["attributes"] = {**attrs, **grown}
        blobs.put(ROOT, json.dumps(root, indent=1, allow_nan=False).encode())
