"""A cube's metadata and coordinates as objects, made in memory before any pixel is written.

Array metadata and coordinates are made by hand, byte for byte as zarr-python makes them (tests/parity), in a thirtieth of the
time: a store of small sites is made of little else. The group's ``zarr.json`` holds all metadata inline (consolidated), the axes
and the recipe, so that opening a cube is one request.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from eocube.io.geozarr import group_attrs, spatial_attrs, spatial_ref_attrs
from eocube.io.shards import chunk_codecs
from eocube.model.bands import Band
from eocube.model.frame import Axis, Frame, PerTime, Variable
from eocube.model.hashing import canonical_json, digest
from eocube.model.recipe import RECIPE_ATTR
from eocube.model.spec import FORMAT, SUMMARY, CubeSpec

ROOT = "zarr.json"
AXIS_CHUNK = 65_536
EOCUBE_ATTR = "eocube"


class Template(Mapping[str, bytes]):
    """Every object of a cube but its shards: key below the cube → bytes, made when asked for.

    A run that finds the cube finished needs to know what its root says, and no bytes at all.
    """

    def __init__(self, make: Callable[[], tuple[dict[str, Any], Mapping[str, _Array]]]):
        self._make = make

    @cached_property
    def _made(self) -> tuple[dict[str, Any], Mapping[str, _Array]]:
        """Not before it is asked for: a plan of half a million sites asks for none."""
        return self._make()

    @property
    def root_json(self) -> dict[str, Any]:
        """The group's ``zarr.json`` as an object."""
        return self._made[0]

    @cached_property
    def root(self) -> bytes:
        """The group's ``zarr.json``."""
        return json.dumps(self.root_json, indent=1, allow_nan=False).encode()

    @cached_property
    def _objects(self) -> dict[str, bytes]:
        made = {ROOT: self.root}
        for name, array in self._made[1].items():
            made[f"{name}/{ROOT}"] = json.dumps(array.metadata, indent=2, allow_nan=False).encode()
            made |= {f"{name}/{key}": body for key, body in array.chunks()}
        return made

    def __getitem__(self, key: str) -> bytes:
        return self.root if key == ROOT else self._objects[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._objects)

    def __len__(self) -> int:
        return len(self._objects)


def cube_template(
    spec: CubeSpec,
    *,
    cube: str,
    product: str,
    recipe: str,
    sid: str,
    licence: Mapping[str, Any],
    site: str | None = None,
    labels: Mapping[str, str] | None = None,
) -> Template:
    """The metadata and coordinates of a cube, made when they are asked for. Equal arguments give equal bytes.

    ``licence`` holds ``license`` and ``attribution`` of the sources; both land in the group's attributes. ``site``: its name
    where the cube's is another; ``labels``: ``split`` and ``group``, where the corpus has them.
    """
    named = {"cube": cube, "product": product, **({} if site is None or site == cube else {"site": site}), **(labels or {})}
    return Template(partial(_all_of, spec, named=named, recipe=recipe, sid=sid, licence=licence))


def _all_of(
    spec: CubeSpec, *, named: Mapping[str, str], recipe: str, sid: str, licence: Mapping[str, Any]
) -> tuple[dict[str, Any], Mapping[str, _Array]]:
    """The root and every array."""
    frame = spec.frame
    listed = " ".join(["spatial_ref", *(p.name for p in frame.per_time)])
    arrays = {
        v.name: _pixels(spec, v, {**v.cf_attrs(), "grid_mapping": "spatial_ref", "coordinates": listed}) for v in frame.variables
    }
    arrays[SUMMARY] = _Array(
        array_json(
            spec.summary_shape,
            "uint8",
            chunks=spec.summary_chunk,
            codecs=[_BYTES, _ZSTD],
            fill=0,
            dims=("time", "y_cell", "x_cell"),
            attrs=_summary_attrs(spec),
        )
    )
    arrays |= {name: _axis(values, dims, attrs) for name, values, dims, attrs in _axes(frame)}
    return _root(arrays, spec, named=named, recipe=recipe, sid=sid, licence=licence), arrays


def _root(
    arrays: Mapping[str, _Array], spec: CubeSpec, *, named: Mapping[str, str], recipe: str, sid: str, licence: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": {
            "Conventions": "CF-1.11",
            **group_attrs(spec.frame.geobox),
            EOCUBE_ATTR: {
                "format": FORMAT,
                **named,
                "settings_id": sid,
                "layout": spec.layout,
                "chunk_tyx": list(spec.chunk_tyx),
                "shard_tyx": list(spec.shard_tyx),
                "cell_px": spec.cell_px,
                **({"bands_apart": True} if spec.bands_apart else {}),
                **({"sited": True} if spec.places is not None else {}),
                **frame_json(spec.frame),
            },
            RECIPE_ATTR: str(recipe),
            **{k: v for k, v in licence.items() if v},
        },
        "consolidated_metadata": {
            "kind": "inline",
            "must_understand": False,
            "metadata": {name: arrays[name].metadata for name in sorted(arrays)},
        },
    }


# ------------------------------------------------------------------------------------------------ arrays, as zarr-python has them


_LITTLE: dict[str, Any] = {"name": "bytes", "configuration": {"endian": "little"}}
_BYTES: dict[str, Any] = {"name": "bytes"}
_VLEN: dict[str, Any] = {"name": "vlen-utf8", "configuration": {}}
_ZSTD: dict[str, Any] = {"name": "zstd", "configuration": {"level": 0, "checksum": False}}


@dataclass(frozen=True)
class _Array:
    """One array: its metadata, and its values where it is a coordinate."""

    metadata: dict[str, Any]
    values: npt.NDArray[Any] | None = None

    def chunks(self) -> Iterator[tuple[str, bytes]]:
        """(key below the array, bytes) of each chunk that is not fill throughout."""
        if self.values is None:
            return
        cut, fill = self.metadata["chunk_grid"]["configuration"]["chunk_shape"], self.metadata["fill_value"]
        for at in np.ndindex(*(math.ceil(n / c) for n, c in zip(self.values.shape, cut, strict=True))):
            part = self.values[tuple(slice(i * c, (i + 1) * c) for i, c in zip(at, cut, strict=True))]
            if not _is_fill(part, fill):
                yield "/".join(["c", *map(str, at)]), _encode_axis(part, tuple(cut), fill)


def array_json(
    shape: Sequence[int],
    dtype: str,
    *,
    chunks: Sequence[int],
    codecs: list[dict[str, Any]],
    fill: float | str,
    dims: Sequence[str],
    attrs: Mapping[str, Any],
) -> dict[str, Any]:
    """The ``zarr.json`` of an array, key for key as zarr-python writes it (its plain twin in tests/parity)."""
    return {
        "shape": list(shape),
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunks)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": _fill_json(fill, dtype),
        "codecs": codecs,
        "attributes": dict(attrs),
        **({"dimension_names": list(dims)} if dims else {}),
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }


def _fill_json(fill: float | str, dtype: str) -> Any:
    if isinstance(fill, str):
        return fill
    value = np.dtype(dtype).type(fill).item()
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"
    return value


def _pixels(spec: CubeSpec, v: Variable, attrs: Mapping[str, Any]) -> _Array:
    chunk = spec.chunk_shape(v)
    sharding = {
        "name": "sharding_indexed",
        "configuration": {
            "chunk_shape": list(chunk),
            "codecs": [_bytes_codec(v.dtype), *chunk_codecs(v.dtype, chunk)],
            "index_codecs": [_LITTLE, {"name": "crc32c"}],
            "index_location": "end",
        },
    }
    shape, shard = spec.frame.shape(v.name), spec.shard_shape(v)
    return _Array(array_json(shape, v.dtype, chunks=shard, codecs=[sharding], fill=v.fill, dims=v.dims, attrs=attrs))


def _bytes_codec(dtype: str) -> dict[str, Any]:
    return _BYTES if np.dtype(dtype).itemsize == 1 else _LITTLE


def _axis(values: npt.NDArray[Any], dims: tuple[str, ...], attrs: dict[str, Any]) -> _Array:
    text = values.dtype == object
    chunks = [2 if d == "bnds" else AXIS_CHUNK if d == "time" else max(1, n) for d, n in zip(dims, values.shape, strict=True)]
    dtype = "string" if text else str(values.dtype)
    codecs = [_VLEN if text else _bytes_codec(dtype), _ZSTD]
    metadata = array_json(values.shape, dtype, chunks=chunks, codecs=codecs, fill="" if text else 0, dims=dims, attrs=attrs)
    return _Array(metadata, values)


def _is_fill(part: npt.NDArray[Any], fill: float | str) -> bool:
    """Whether an absent chunk reads the same, bit for bit: minus zero is not zero."""
    return not (part != fill).any() and not (part.dtype.kind == "f" and np.signbit(part).any())


def _encode_axis(part: npt.NDArray[Any], shape: tuple[int, ...], fill: float | str) -> bytes:
    """One chunk of a coordinate, padded with fill to its full shape."""
    from numcodecs.vlen import VLenUTF8
    from numcodecs.zstd import compress

    whole = np.full(shape, fill, part.dtype)
    whole[tuple(slice(0, n) for n in part.shape)] = part
    raw = VLenUTF8().encode(whole.ravel()) if whole.dtype == object else whole.astype(whole.dtype.newbyteorder("<")).tobytes()
    body: bytes = compress(raw, 0)
    return body


def _summary_attrs(spec: CubeSpec) -> dict[str, Any]:
    cells = spec.frame.geobox.zoom_out(spec.cell_px)
    ny, nx = spec.summary_shape[1:]
    return {
        "long_name": "share of clear pixels, floored",
        "units": "percent",
        "cell_px": spec.cell_px,
        "rule": canonical_json(spec.clear_rule),
        **spatial_attrs(type(cells)((ny, nx), cells.affine, cells.crs), dims=("y_cell", "x_cell")),
    }


def _axes(frame: Frame) -> list[tuple[str, npt.NDArray[Any], tuple[str, ...], dict[str, Any]]]:
    """(name, values, dims, attributes) of every coordinate."""
    y, x = frame.yx
    ms = {"units": "milliseconds since 1970-01-01", "calendar": "proleptic_gregorian"}
    axis = axis_attrs(frame)
    bounds = {"bounds": "time_bnds"} if frame.time_bnds_ms is not None else {}
    out: list[tuple[str, npt.NDArray[Any], tuple[str, ...], dict[str, Any]]] = [
        ("time", np.array(frame.time_ms, "i8"), ("time",), {**ms, "standard_name": "time", **bounds}),
        ("band", np.array(frame.band_names, object), ("band",), band_attrs(frame.bands)),
        ("y", y, ("y",), axis["y"]),
        ("x", x, ("x",), axis["x"]),
        ("spatial_ref", np.array(0, "i4"), (), spatial_ref_attrs(frame.geobox)),
    ]
    if frame.time_bnds_ms is not None:
        out.append(("time_bnds", np.array(frame.time_bnds_ms, "i8").reshape(-1, 2), ("time", "bnds"), ms))
    out += [(a.name, np.array(a.labels, object), (a.name,), dict(a.attrs)) for a in frame.axes]
    scalars = [(p, np.array(p.values, object if p.dtype == "str" else p.dtype)) for p in frame.per_time]
    return [*out, *((p.name, values, ("time",), dict(p.attrs)) for p, values in scalars)]


def band_attrs(bands: tuple[Band, ...]) -> dict[str, Any]:
    """The sensor's own band names and wavelengths, as attributes of ``band``."""
    out: dict[str, Any] = {"standard_name": "band"}
    if any(b.eo_name for b in bands):
        out["eo_name"] = [b.eo_name or "" for b in bands]
    if all(b.wavelength_um is not None for b in bands):
        out["center_wavelength_um"] = [b.wavelength_um for b in bands]
    return out


def axis_attrs(frame: Frame) -> dict[str, dict[str, Any]]:
    """CF attributes of ``y`` and ``x``."""
    crs = frame.geobox.crs
    if crs is not None and crs.geographic:
        return {
            "y": {"standard_name": "latitude", "units": "degrees_north"},
            "x": {"standard_name": "longitude", "units": "degrees_east"},
        }
    unit = "metre" if crs is None else crs.proj.axis_info[0].unit_name.replace(" ", "_")
    return {axis: {"standard_name": f"projection_{axis}_coordinate", "units": unit} for axis in ("y", "x")}


# ------------------------------------------------------------------------------------------------ frames in attributes


def frame_json(frame: Frame) -> dict[str, Any]:
    """What ``open_cube`` needs to know of a frame without reading an array."""
    return {
        "time_ms": list(frame.time_ms),
        "time_bnds_ms": None if frame.time_bnds_ms is None else [list(b) for b in frame.time_bnds_ms],
        "bands": [[b.name, b.eo_name, b.wavelength_um] for b in frame.bands],
        "variables": [
            {
                "name": v.name,
                "dtype": v.dtype,
                "banded": v.banded,
                **({} if v.axis is None else {"axis": [v.axis.name, list(v.axis.labels), [list(a) for a in v.axis.attrs]]}),
                "nodata": "nan" if v.nodata is not None and v.nodata != v.nodata else v.nodata,
                "scale": v.scale,
                "offset": v.offset,
                "flags": [list(f) for f in v.flags],
                "attrs": [list(a) for a in v.attrs],
            }
            for v in frame.variables
        ],
        "per_time": [
            {"name": p.name, "dtype": p.dtype, "values": list(p.values), "attrs": [list(a) for a in p.attrs]}
            for p in frame.per_time
        ],
        "frame_digest": digest([list(frame.time_ms), [list(p.values) for p in frame.per_time], list(frame.geobox.affine)[:6]]),
    }


def _axis_from_json(said: Sequence[Any] | None) -> Axis | None:
    return None if said is None else Axis(name=said[0], labels=tuple(said[1]), attrs=tuple((a, b) for a, b in said[2]))


def frame_from_attrs(attrs: Mapping[str, Any]) -> Frame:
    """The frame of a stored cube from its group's attributes."""
    from affine import Affine
    from odc.geo.geobox import GeoBox

    e = attrs[EOCUBE_ATTR]
    ny, nx = attrs["spatial:shape"]
    crs = attrs.get("proj:code") or attrs.get("proj:wkt2")
    return Frame(
        geobox=GeoBox((ny, nx), Affine(*attrs["spatial:transform"]), crs),
        time_ms=tuple(e["time_ms"]),
        time_bnds_ms=None if e["time_bnds_ms"] is None else tuple((a, b) for a, b in e["time_bnds_ms"]),
        bands=tuple(Band(name=n, eo_name=o, wavelength_um=w) for n, o, w in e["bands"]),
        variables=tuple(
            Variable(
                name=v["name"],
                dtype=v["dtype"],
                banded=v["banded"],
                axis=_axis_from_json(v.get("axis")),
                nodata=float("nan") if v["nodata"] == "nan" else v["nodata"],
                scale=v["scale"],
                offset=v["offset"],
                flags=tuple((a, b) for a, b in v["flags"]),
                attrs=tuple((a, b) for a, b in v["attrs"]),
            )
            for v in e["variables"]
        ),
        per_time=tuple(
            PerTime(name=p["name"], dtype=p["dtype"], values=tuple(p["values"]), attrs=tuple((a, b) for a, b in p["attrs"]))
            for p in e["per_time"]
        ),
    )
