"""What cutting means: for any cube the regions partition it, the pieces partition a region, and no cell lies in two regions."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from eocube.model.bands import Band
from eocube.model.frame import Frame, Variable
from eocube.model.spec import (
    CELL_PX,
    CHUNK_DATES,
    MAX_CHUNK_BYTES,
    MAX_SHARD_BYTES,
    MIN_CHUNK_BYTES,
    SHARD_DATES,
    CubeSpec,
    Layout,
    choose_spec,
    region_key,
    settings_id,
)
from eocube.model.window import Window
from eocube.testing.stac import make_grid

LAYOUTS: list[Layout] = ["map", "patch", "balanced", "series"]


def make_frame(nt: int, nb: int, shape_yx: tuple[int, int], dtype: str = "uint16", **changes: Any) -> Frame:
    variables = (Variable(name="data", dtype=dtype, banded=True, nodata=0), Variable(name="scl", dtype="uint8"))
    bands = tuple(Band(name=f"b{i}") for i in range(nb))
    frame = Frame(geobox=make_grid(shape_yx), time_ms=tuple(range(nt)), bands=bands, variables=variables)
    return frame.with_(**changes)


@st.composite
def small_specs(draw: st.DrawFn) -> CubeSpec:
    """Tiny cubes cut anyhow, so long as shards are whole chunks."""
    nt, ny, nx = (draw(st.integers(1, n)) for n in (7, 19, 19))
    chunk = tuple(draw(st.integers(1, n)) for n in (3, 5, 5))
    shard = tuple(c * draw(st.integers(1, 3)) for c in chunk)
    cell_px = draw(st.sampled_from([d for d in range(1, 6) if chunk[1] % d == 0 and chunk[2] % d == 0]))
    frame = make_frame(nt, draw(st.integers(1, 2)), (ny, nx))
    return CubeSpec(frame=frame, layout="map", chunk_tyx=chunk, shard_tyx=shard, cell_px=cell_px)  # type: ignore[arg-type]


def marked(shape: tuple[int, ...], windows: Iterator[Window]) -> np.ndarray:
    """How often each pixel is in one of the windows."""
    counts = np.zeros(shape, int)
    for w in windows:
        assert w.times == tuple(range(w.times[0], w.times[-1] + 1))
        counts[w.times[0] : w.times[-1] + 1, slice(*w.y), slice(*w.x)] += 1
    return counts


@given(small_specs())
def test_regions_partition_the_cube(spec: CubeSpec) -> None:
    shape = (len(spec.frame.time_ms), *spec.frame.shape_yx)
    assert (marked(shape, (spec.window(r) for r in spec.regions())) == 1).all()
    assert len(list(spec.regions())) == math.prod(spec.grid)


@given(small_specs(), st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4)))
def test_pieces_partition_a_region_in_whole_chunks(spec: CubeSpec, chunks_tyx: tuple[int, int, int]) -> None:
    shape = (len(spec.frame.time_ms), *spec.frame.shape_yx)
    for region in spec.regions():
        whole, pieces = spec.window(region), list(spec.pieces(region, chunks_tyx))
        np.testing.assert_array_equal(marked(shape, (p.window for p in pieces)), marked(shape, iter([whole])))
        for p in pieces:
            starts = p.window.times[0] - whole.times[0], p.window.y[0] - whole.y[0], p.window.x[0] - whole.x[0]
            assert starts == tuple(i * c for i, c in zip(p.chunk, spec.chunk_tyx, strict=True))
            sizes = (len(p.window.times), *p.window.shape_yx)
            assert all(0 < n <= k * c for n, k, c in zip(sizes, chunks_tyx, spec.chunk_tyx, strict=True))


@given(small_specs())
def test_no_cell_lies_in_two_regions(spec: CubeSpec) -> None:
    """Each region's chunk of the summary holds all its cells, from its first on."""
    owner: dict[tuple[int, int], tuple[int, int]] = {}
    (_, cy, cx), cell = spec.summary_chunk, spec.cell_px
    for region in spec.regions():
        window = spec.window(region)
        for y in range(window.y[0] // cell, -(-window.y[1] // cell)):
            for x in range(window.x[0] // cell, -(-window.x[1] // cell)):
                assert owner.setdefault((y, x), (region.y, region.x)) == (region.y, region.x)
                assert (y // cy, x // cx) == (region.y, region.x), "and zarr looks for it in that region's chunk"
    assert len(owner) == math.prod(spec.summary_shape[1:])


# ------------------------------------------------------------------------------------------------ the cut that is chosen


@st.composite
def chosen(draw: st.DrawFn) -> tuple[CubeSpec, tuple[int, int]]:
    shape = draw(st.tuples(st.integers(1, 12_000), st.integers(1, 12_000)))
    block = draw(st.tuples(st.sampled_from([1, 100, 256, 512, 1024, 10_980]), st.sampled_from([1, 256, 512, 1024, 10_980])))
    frame = make_frame(
        draw(st.integers(1, 300)),
        draw(st.integers(1, 13)),
        shape,
        draw(st.sampled_from(["uint8", "uint16", "float32", "float64"])),
    )
    return choose_spec(frame, layout=draw(st.sampled_from(LAYOUTS)), block_yx=block), block


@given(chosen())
@settings(max_examples=200)
def test_the_chosen_cut_keeps_its_rules(case: tuple[CubeSpec, tuple[int, int]]) -> None:
    spec, block = case
    data = spec.frame.data
    itemsize, nb = np.dtype(data.dtype).itemsize, len(spec.frame.bands)
    (ct, cy, cx), (st_, sy, sx), (ny, nx) = spec.chunk_tyx, spec.shard_tyx, spec.frame.shape_yx
    assert st_ == SHARD_DATES[spec.layout]
    assert (st_ % ct, sy % cy, sx % cx) == (0, 0, 0)
    assert spec.chunks_per_shard == (st_ // ct, sy // cy, sx // cx)
    chunk_bytes = ct * nb * cy * cx * itemsize
    assert chunk_bytes <= MAX_CHUNK_BYTES or (cy <= 64 and cx <= 64)
    assert chunk_bytes >= MIN_CHUNK_BYTES or ct == st_ or 2 * ct > st_ or (cy >= 64 and cx >= 64)
    shard_bytes = st_ * nb * sy * sx * itemsize
    asked = min(max(block), 1024)
    assert shard_bytes <= MAX_SHARD_BYTES or max(sy, sx) < 2 * max(asked, 256)
    for size, shard, chunk in ((ny, sy, cy), (nx, sx, cx)):
        assert chunk == min(chunk, size)
        assert shard >= min(asked, size), "a shard covers a block"
        assert shard < size + chunk, "and does not stick out by a whole chunk"
        assert chunk % spec.cell_px == 0 or chunk == size
    assert spec.cell_px == CELL_PX


@given(chosen(), st.integers(1, 300))
def test_the_cut_does_not_depend_on_the_number_of_dates(case: tuple[CubeSpec, tuple[int, int]], nt: int) -> None:
    spec, block = case
    other = choose_spec(spec.frame.with_(time_ms=tuple(range(nt))), layout=cast("Layout", spec.layout), block_yx=block)
    assert (other.chunk_tyx, other.shard_tyx, other.cell_px) == (spec.chunk_tyx, spec.shard_tyx, spec.cell_px)
    assert settings_id("r", other) == settings_id("r", spec)


def test_layouts_have_the_dates_of_the_design() -> None:
    assert SHARD_DATES == {"map": 1, "patch": 4, "balanced": 16, "series": 64}
    assert all(SHARD_DATES[k] % n == 0 for k, n in CHUNK_DATES.items())


# ------------------------------------------------------------------------------------------------ names


FRAME = make_frame(6, 2, (10, 12))
SPEC = CubeSpec(frame=FRAME, layout="patch", chunk_tyx=(1, 4, 4), shard_tyx=(4, 8, 8), cell_px=4)
REGIONS = list(SPEC.regions())
LEAVES = {"in0": [["a", 0, 0], ["b", 1, 1000]], "in1": [["1.0.0", "key"]]}


def key(spec: CubeSpec = SPEC, **changes: Any) -> str:
    given: dict[str, Any] = {"sid": "s", "cube": "c", "product": "p", "region": REGIONS[0], "leaves": LEAVES}
    return region_key(**{**given, **changes}, spec=spec)


def with_frame(**changes: Any) -> CubeSpec:
    return dataclasses.replace(SPEC, frame=FRAME.with_(**changes))


def test_a_regions_name_changes_with_everything_that_its_pixels_depend_on() -> None:
    names = {
        "as it is": key(),
        "settings": key(sid="t"),
        "cube": key(cube="d"),
        "product": key(product="q"),
        "region": key(region=REGIONS[1]),
        "CRS": key(with_frame(geobox=make_grid((10, 12), crs="EPSG:32634"))),
        "corner": key(with_frame(geobox=make_grid((10, 12), corner_xy=(600_010.0, 5_000_040.0)))),
        "pixel size": key(with_frame(geobox=make_grid((10, 12), resolution=20.0))),
        "clipped rows": key(with_frame(geobox=make_grid((7, 12)))),
        "clipped columns": key(with_frame(geobox=make_grid((10, 7)))),
        "one of its dates": key(with_frame(time_ms=(0, 1, 2, 30, 40, 50))),
        "fewer dates in it": key(with_frame(time_ms=(0, 1, 2))),
        "an item": key(leaves={**LEAVES, "in0": [["a", 0, 0], ["c", 1, 1000]]}),
        "an item less": key(leaves={**LEAVES, "in0": [["a", 0, 0]]}),
        "an item's time": key(leaves={**LEAVES, "in0": [["a", 0, 0], ["b", 2, 1000]]}),
        "an item's shift": key(leaves={**LEAVES, "in0": [["a", 0, 0], ["b", 1, 0]]}),
        "an input's region": key(leaves={**LEAVES, "in1": [["1.0.0", "other"]]}),
        "inputs exchanged": key(leaves={"in0": LEAVES["in1"], "in1": LEAVES["in0"]}),
    }
    assert len(set(names.values())) == len(names), names


def test_a_regions_name_does_not_change_with_anything_else() -> None:
    later = with_frame(time_ms=(0, 1, 2, 3, 100, 200, 300, 400))
    assert key(later) == key(), "dates of other shards"
    assert key(with_frame(geobox=make_grid((40, 50)))) == key(), "rows and columns of other shards"
    assert key(with_frame(per_time=())) == key()
    assert key(leaves=dict(reversed(LEAVES.items()))) == key(), "the order in which inputs are named"


def test_a_settings_name_changes_with_what_makes_a_cube_another() -> None:
    def sid(spec: CubeSpec = SPEC, recipe: str = "r") -> str:
        return settings_id(recipe, spec)

    data, scl = FRAME.variables
    names = {
        "as it is": sid(),
        "recipe": sid(recipe="q"),
        "bands": sid(with_frame(bands=(Band(name="b0"), Band(name="b9")))),
        "dtype": sid(with_frame(variables=(dataclasses.replace(data, dtype="int16"), scl))),
        "nodata": sid(with_frame(variables=(dataclasses.replace(data, nodata=1), scl))),
        "scale": sid(with_frame(variables=(dataclasses.replace(data, scale=0.5), scl))),
        "masks": sid(with_frame(variables=(data,))),
        "layout": sid(dataclasses.replace(SPEC, layout="map")),
        "dates a chunk": sid(dataclasses.replace(SPEC, chunk_tyx=(2, 4, 4))),
        "cells": sid(dataclasses.replace(SPEC, cell_px=2)),
    }
    assert len(set(names.values())) == len(names), names
    for other in (with_frame(time_ms=(9,)), with_frame(geobox=make_grid((99, 99), crs="EPSG:32634")), with_frame(per_time=())):
        assert sid(other) == sid(), "not with place, extent, dates or labels"
