"""A cube's metadata and coordinates made by hand, against zarr-python making them: the plain twin."""

from __future__ import annotations

import json
import math
import warnings
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from eocube.io.shards import chunk_codecs
from eocube.io.template import ROOT, cube_template
from eocube.model.bands import Band
from eocube.model.frame import Frame, PerTime, Variable
from eocube.model.spec import SUMMARY, CubeSpec, Layout, choose_spec
from eocube.testing.stac import make_grid

DAY_MS = 86_400_000
TIME_CHUNK = 65_536


def by_zarr(spec: CubeSpec, made: dict[str, bytes]) -> dict[str, bytes]:
    """Every object but the root, from zarr-python; attributes and coordinates' values as the template under test states them."""
    memory = zarr.storage.MemoryStore()
    told = {k.removesuffix(f"/{ROOT}"): json.loads(v) for k, v in made.items() if k.endswith(f"/{ROOT}")}
    frame = spec.frame
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr 3.1 on strings
        group = zarr.create_group(memory, zarr_format=3)
        for v in frame.variables:
            group.create_array(
                v.name,
                shape=frame.shape(v.name),
                dtype=v.dtype,
                chunks=spec.chunk_shape(v),
                shards=spec.shard_shape(v),
                fill_value=v.fill,
                dimension_names=v.dims,
                compressors=chunk_codecs(v.dtype, spec.chunk_shape(v)),
                attributes=told[v.name]["attributes"],
            )
        group.create_array(
            SUMMARY,
            shape=spec.summary_shape,
            dtype="uint8",
            chunks=spec.summary_chunk,
            fill_value=0,
            dimension_names=("time", "y_cell", "x_cell"),
            attributes=told[SUMMARY]["attributes"],
        )
        for name, (values, dims) in axes(frame).items():
            text = values.dtype == object
            array = group.create_array(
                name,
                shape=values.shape,
                dtype=str if text else values.dtype,
                chunks=tuple(
                    2 if d == "bnds" else TIME_CHUNK if d == "time" else n for d, n in zip(dims, values.shape, strict=True)
                ),
                dimension_names=dims or None,
                attributes=told[name]["attributes"],
                fill_value="" if text else 0,
            )
            array[...] = values
    return {k: bytes(v.to_bytes()) for k, v in memory._store_dict.items() if k != ROOT}


def axes(frame: Frame) -> dict[str, tuple[np.ndarray[Any, Any], tuple[str, ...]]]:
    """Values and dims of every coordinate, by the frame alone."""
    y, x = frame.yx
    out: dict[str, tuple[np.ndarray[Any, Any], tuple[str, ...]]] = {
        "time": (np.array(frame.time_ms, "i8"), ("time",)),
        "band": (np.array(frame.band_names, object), ("band",)),
        "y": (y, ("y",)),
        "x": (x, ("x",)),
        "spatial_ref": (np.array(0, "i4"), ()),
    }
    if frame.time_bnds_ms is not None:
        out["time_bnds"] = np.array(frame.time_bnds_ms, "i8").reshape(-1, 2), ("time", "bnds")
    for p in frame.per_time:
        out[p.name] = np.array(p.values, object if p.dtype == "str" else p.dtype), ("time",)
    return out


DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")
SCALARS: dict[str, st.SearchStrategy[Any]] = {
    "str": st.text("aä-Z0€", max_size=5),
    "float32": st.sampled_from([0.0, -0.0, 1.5]),
    "float64": st.sampled_from([0.0, -0.0, 1e300]),
    "int16": st.sampled_from([0, -1000]),
    "bool": st.booleans(),
}


@st.composite
def frames(draw: st.DrawFn) -> Frame:
    n = draw(st.integers(1, 4))
    dtype = draw(st.sampled_from(DTYPES))
    float_nodata = st.sampled_from([None, math.nan, 0.0, -9999.0])
    int_nodata = st.sampled_from([None, 0, np.iinfo(dtype).max if "int" in dtype else 0])
    data = Variable(
        name="data",
        dtype=dtype,
        banded=True,
        nodata=draw(float_nodata if "float" in dtype else int_nodata),
        scale=draw(st.sampled_from([None, 1e-4])),
        attrs=(("long_name", "Zürich"),),
    )
    masks = tuple(Variable(name=m, dtype=t) for m, t in (("scl", "uint8"), ("angle", "float32")) if draw(st.booleans()))
    kinds = draw(st.lists(st.sampled_from(list(SCALARS)), max_size=3, unique=True))
    scalars = tuple(
        PerTime(name=f"of_{k}", dtype=k, values=tuple(draw(st.lists(SCALARS[k], min_size=n, max_size=n)))) for k in kinds
    )
    return Frame(
        geobox=make_grid(
            (draw(st.integers(1, 300)), draw(st.integers(1, 300))), corner_xy=(draw(st.sampled_from([-5.0, 3e5])), 5.0)
        ),
        time_ms=tuple(i * DAY_MS for i in range(n)),
        bands=tuple(Band(name=b, eo_name="B04") for b in ("red", "nir", "grün")[: draw(st.integers(1, 3))]),
        variables=(data, *masks),
        per_time=scalars,
        time_bnds_ms=draw(st.sampled_from([None, tuple((i * DAY_MS, (i + 1) * DAY_MS) for i in range(n))])),
    )


@settings(deadline=None, max_examples=40)
@given(frame=frames(), layout=st.sampled_from(["map", "patch", "balanced", "series"]))
def test_objects_are_those_of_zarr_python(frame: Frame, layout: Layout) -> None:
    spec = choose_spec(frame, layout=layout)
    template = cube_template(spec, cube="c", product="p", recipe="{}", sid="s", licence={})
    made = dict(template)
    root = json.loads(made.pop(ROOT))
    assert root == template.root_json, "a stored root is compared parsed"
    assert made == by_zarr(spec, made)
    of_arrays = {k.removesuffix(f"/{ROOT}"): json.loads(v) for k, v in made.items() if k.endswith(f"/{ROOT}")}
    assert root["consolidated_metadata"]["metadata"] == of_arrays
    assert list(root["consolidated_metadata"]["metadata"]) == sorted(of_arrays)


def test_an_axis_longer_than_its_chunk_is_cut_as_zarr_python_cuts_it() -> None:
    n = TIME_CHUNK + 2
    frame = Frame(
        geobox=make_grid((2, 3)),
        time_ms=tuple(range(n)),
        bands=(Band(name="red"),),
        variables=(Variable(name="data", dtype="uint16", banded=True, nodata=0),),
        per_time=(PerTime(name="late", dtype="int16", values=(*[0] * TIME_CHUNK, 1, 0)),),
    )
    spec = choose_spec(frame)
    made = dict(cube_template(spec, cube="c", product="p", recipe="{}", sid="s", licence={}))
    assert {"time/c/0", "time/c/1", "late/c/1"} <= made.keys()
    assert "late/c/0" not in made, "a chunk of nothing but fill"
    made.pop(ROOT)
    assert made == by_zarr(spec, made)


def test_a_value_that_json_lacks_is_refused() -> None:
    frame = Frame(
        geobox=make_grid((2, 3)),
        time_ms=(0,),
        bands=(Band(name="red"),),
        variables=(Variable(name="data", dtype="uint16", banded=True, nodata=0, attrs=(("note", math.nan),)),),
    )
    with pytest.raises(ValueError, match="not JSON compliant"):
        _ = cube_template(choose_spec(frame), cube="c", product="p", recipe="{}", sid="s", licence={}).root
