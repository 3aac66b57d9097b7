"""A cube's metadata and coordinates as objects, made in memory before any pixel is written.

The bytes of array metadata come from zarr-python; the group's ``zarr.json`` holds them all inline (consolidated metadata), the
axes and the recipe, so that opening a cube is one request.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from eocube.io.geozarr import group_attrs, spatial_attrs, spatial_ref_attrs
from eocube.io.shards import blosc_config
from eocube.model.bands import Band
from eocube.model.frame import Frame, PerTime, Variable
from eocube.model.hashing import canonical_json, digest
from eocube.model.recipe import RECIPE_ATTR
from eocube.model.spec import FORMAT, SUMMARY, CubeSpec

ROOT = "zarr.json"
AXIS_CHUNK = 65_536
EOCUBE_ATTR = "eocube"

Template = dict[str, bytes]


def cube_template(spec: CubeSpec, *, cube: str, product: str, recipe: str, sid: str, licence: Mapping[str, Any]) -> Template:
    """Every object of a cube but its shards: key below the cube → bytes. Equal arguments give equal bytes.

    ``licence`` holds ``licenses`` and ``attributions`` of the sources; both land in the group's attributes.
    """
    import zarr
    from zarr.codecs import BloscCodec

    frame = spec.frame
    memory = zarr.storage.MemoryStore()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr 3.1: "string" dtype and similar notes; the format is pinned by the tests
        group = zarr.create_group(memory, zarr_format=3)
        listed = " ".join(["spatial_ref", *(p.name for p in frame.per_time)])
        for v in frame.variables:
            group.create_array(
                v.name,
                shape=frame.shape(v.name),
                dtype=v.dtype,
                chunks=spec.chunk_shape(v),
                shards=spec.shard_shape(v),
                fill_value=v.fill,
                dimension_names=v.dims,
                compressors=BloscCodec(**blosc_config(v.dtype, spec.chunk_shape(v))),
                attributes={**v.cf_attrs(), "grid_mapping": "spatial_ref", "coordinates": listed},
            )
        group.create_array(
            SUMMARY,
            shape=spec.summary_shape,
            dtype="uint8",
            chunks=spec.summary_chunk,
            fill_value=0,
            dimension_names=("time", "y_cell", "x_cell"),
            attributes=_summary_attrs(spec),
        )
        for name, values, dims, attrs in _axes(frame):
            _put_axis(group, name, values, dims, attrs)
    objects = {k: bytes(v.to_bytes()) for k, v in memory._store_dict.items()}  # noqa: SLF001 - the only way to its bytes
    return _with_root(objects, spec, cube=cube, product=product, recipe=recipe, sid=sid, licence=licence)


def _with_root(
    objects: Template, spec: CubeSpec, *, cube: str, product: str, recipe: str, sid: str, licence: Mapping[str, Any]
) -> Template:
    arrays = {k.removesuffix("/zarr.json"): json.loads(v) for k, v in objects.items() if k.endswith("/zarr.json")}
    root = {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": {
            "Conventions": "CF-1.11",
            **group_attrs(spec.frame.geobox),
            EOCUBE_ATTR: {
                "format": FORMAT,
                "cube": cube,
                "product": product,
                "settings_id": sid,
                "layout": spec.layout,
                "chunk_tyx": list(spec.chunk_tyx),
                "shard_tyx": list(spec.shard_tyx),
                "cell_px": spec.cell_px,
                **frame_json(spec.frame),
            },
            RECIPE_ATTR: str(recipe),
            **{k: v for k, v in licence.items() if v},
        },
        "consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": dict(sorted(arrays.items()))},
    }
    return {**objects, ROOT: json.dumps(root, indent=1, allow_nan=False).encode()}


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


def _put_axis(group: Any, name: str, values: npt.NDArray[Any], dims: tuple[str, ...], attrs: dict[str, Any]) -> None:
    text = values.dtype == object
    array = group.create_array(
        name,
        shape=values.shape,
        dtype=str if text else values.dtype,
        chunks=tuple(
            min(AXIS_CHUNK, 2) if d == "bnds" else AXIS_CHUNK if d == "time" else max(1, n)
            for d, n in zip(dims, values.shape, strict=True)
        ),
        dimension_names=dims or None,
        attributes=attrs,
        fill_value="" if text else 0,
    )
    array[...] = values


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
