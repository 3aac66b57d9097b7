"""How a patch set lies in its folder: sharded Zarr v3 arrays along one axis of patches, and a GeoParquet index.

::

    SET/zarr.json      group; attrs: format, spec, bands, sizes, licences of the sources
        lr             (patch, revisit, band, y, x) float32 reflectance, NaN without data
        hr             (patch, band, y, x) float32
        lr_valid       (patch, revisit, y, x) bool: data in every band and clear
        hr_valid       (patch, y, x) bool
        days           (patch, revisit) float32: days of the revisit from the HR date
        index.parquet  a row a patch
        index/…  markers/…   what tasks leave behind
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from eocube.errors import DamagedStoreError, PatchError
from eocube.io.blobs import Blobs
from eocube.io.shards import chunk_codecs
from eocube.model.frame import Variable
from eocube.model.hashing import digest
from eocube.model.patch_spec import PatchSpec

FORMAT = 1
ATTR = "eocube_patches"
ROOT = "zarr.json"


@dataclass(frozen=True, kw_only=True)
class PatchLayout:
    """Arrays of one patch set."""

    spec: PatchSpec
    lr_bands: tuple[str, ...]
    hr_bands: tuple[str, ...]
    n_places: int
    """Length of the patch axis; not every place holds a patch."""

    shard_patches: int
    chunk_patches: int

    @cached_property
    def arrays(self) -> dict[str, tuple[Variable, tuple[int, ...], tuple[str, ...]]]:
        """Name → (dtype and fill, shape of one patch, names of its dimensions)."""
        lr, hr = self.spec.lr_px, self.spec.hr_px
        nan = float("nan")
        lr_dims, hr_dims = ("y_lr", "x_lr"), ("y_hr", "x_hr")
        return {
            "lr": (_variable("lr", "float32", nan), (1, len(self.lr_bands), lr, lr), ("revisit", "band_lr", *lr_dims)),
            "hr": (_variable("hr", "float32", nan), (len(self.hr_bands), hr, hr), ("band_hr", *hr_dims)),
            "lr_valid": (_variable("lr_valid", "bool", None), (1, lr, lr), ("revisit", *lr_dims)),
            "hr_valid": (_variable("hr_valid", "bool", None), (hr, hr), hr_dims),
            "days": (_variable("days", "float32", nan), (1,), ("revisit",)),
        }

    @property
    def chunks_per_shard(self) -> int:
        """Inner chunks of a shard, along the patch axis."""
        return self.shard_patches // self.chunk_patches

    @property
    def layout_id(self) -> str:
        """Digest of everything that a later run must agree on."""
        return digest(self._json())

    def differences(self, other: PatchLayout) -> dict[str, tuple[object, object]]:
        """What differs: name → (ours, theirs)."""
        return {k: (v, other._json()[k]) for k, v in self._json().items() if other._json()[k] != v}

    def _json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "spec": json.loads(self.spec.to_json()),
            "lr_bands": list(self.lr_bands),
            "hr_bands": list(self.hr_bands),
            "n_places": self.n_places,
            "shard_patches": self.shard_patches,
            "chunk_patches": self.chunk_patches,
        }

    def objects(self, licence: Mapping[str, Any]) -> dict[str, bytes]:
        """Every object of the set but its shards and index: key → bytes; the group's own metadata is under ``ROOT``."""
        import zarr

        memory = zarr.storage.MemoryStore()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # notes on unfinished parts of the Zarr specification
            group = zarr.create_group(memory, zarr_format=3)
            for name, (variable, shape, dims) in self.arrays.items():
                chunk = (self.chunk_patches, *shape)
                group.create_array(
                    name,
                    shape=(self.n_places, *shape),
                    dtype=variable.dtype,
                    chunks=chunk,
                    shards=(self.shard_patches, *shape),
                    fill_value=variable.fill,
                    dimension_names=("patch", *dims),
                    compressors=chunk_codecs(variable.dtype, chunk),
                    attributes=_DESCRIBED[name],
                )
        objects = {k: bytes(v.to_bytes()) for k, v in memory._store_dict.items()}  # noqa: SLF001 - the only way to its bytes
        arrays = {k.removesuffix("/zarr.json"): json.loads(v) for k, v in sorted(objects.items()) if k.endswith("/zarr.json")}
        root = {
            "zarr_format": 3,
            "node_type": "group",
            "attributes": {ATTR: self._json(), **{k: v for k, v in licence.items() if v}},
            "consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": arrays},
        }
        return {**objects, ROOT: json.dumps(root, indent=1, allow_nan=False).encode()}


def read_layout(blobs: Blobs) -> PatchLayout:
    """The layout of the set at ``blobs``; PatchError where none is there, DamagedStoreError where it is not one of ours."""
    body = blobs.get(ROOT)
    if body is None:
        raise PatchError(
            f"No patch set is at {blobs.url}: no zarr.json was found there. Check the address, or make it with extract_patches."
        )
    return layout_of(body, blobs.url)


def read_licence(blobs: Blobs) -> dict[str, Any]:
    """``licenses`` and ``attributions`` of the sources, as far as the set states them."""
    attrs = json.loads(blobs.get(ROOT) or b"{}").get("attributes", {})
    return {k: attrs[k] for k in ("licenses", "attributions") if attrs.get(k)}


def layout_of(body: bytes, where: str) -> PatchLayout:
    """The layout that a group's metadata states."""
    try:
        stated = json.loads(body)["attributes"][ATTR]
        return PatchLayout(
            spec=PatchSpec.from_json(json.dumps(stated["spec"])),
            lr_bands=tuple(stated["lr_bands"]),
            hr_bands=tuple(stated["hr_bands"]),
            n_places=stated["n_places"],
            shard_patches=stated["shard_patches"],
            chunk_patches=stated["chunk_patches"],
        )
    except (ValueError, KeyError, TypeError) as e:
        raise DamagedStoreError(f"{where} is a Zarr group but not a patch set written by eocube ({e!r}).") from e


def _variable(name: str, dtype: str, nodata: float | None) -> Variable:
    return Variable(name=name, dtype=dtype, nodata=nodata)


_DESCRIBED: dict[str, dict[str, Any]] = {
    "lr": {"long_name": "reflectance, low resolution", "units": "1"},
    "hr": {"long_name": "reflectance, high resolution", "units": "1"},
    "lr_valid": {"long_name": "low-resolution pixel has data in every band and is clear"},
    "hr_valid": {"long_name": "high-resolution pixel has data in every band and is clear"},
    "days": {"long_name": "days from the high-resolution date to the revisit", "units": "days"},
}
