"""Our shard writer against zarr-python: the same objects, byte for byte; and zarr-python, zarrs and tensorstore read both back
equal."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import zarr
from numcodecs import blosc

from eocube.exec.claim import CubeMeta
from eocube.exec.drive import CubePlan, drive
from eocube.exec.executors import SerialExecutor
from eocube.exec.region import CubeJob
from eocube.io.shards import assemble_shard, decode_chunk, encode_chunk, morton_order, split_shard
from eocube.io.template import cube_template
from eocube.kernels.masking import clear_percent
from eocube.model.bands import SCL_CLEAR, Band
from eocube.model.frame import Frame, Variable
from eocube.model.recipe import Binding
from eocube.model.spec import SUMMARY, CubeSpec
from eocube.testing.sources import ArraySource
from eocube.testing.stac import make_grid
from eocube.testing.stores import tree

DAY_MS = 86_400_000


class Case(NamedTuple):
    """A cube and how it is cut; ``hollow`` says which part of it is fill."""

    shape: tuple[int, int, int, int]
    chunk_tyx: tuple[int, int, int]
    shard_tyx: tuple[int, int, int]
    dtype: str = "uint16"
    nodata: float | None = 0
    scl: bool = True
    hollow: str = "none"
    cell_px: int = 4


CASES = {
    "one chunk, one shard": Case((1, 1, 8, 8), (1, 8, 8), (1, 8, 8)),
    "one pixel": Case((1, 1, 1, 1), (1, 1, 1), (1, 1, 1), cell_px=16),
    "partial last shard along every axis": Case((5, 2, 21, 29), (1, 8, 8), (4, 16, 16)),
    "chunks of several dates, partial in time": Case((11, 1, 16, 16), (4, 8, 8), (8, 16, 16)),
    "shard that is no power of two of chunks": Case((3, 3, 24, 40), (1, 8, 8), (3, 24, 40)),
    "signed with another nodata": Case((2, 2, 16, 16), (1, 8, 8), (2, 16, 16), dtype="int16", nodata=-9999),
    "no nodata: fill is zero and a value": Case((2, 1, 16, 16), (1, 8, 8), (2, 16, 16), dtype="uint8", nodata=None),
    "float, NaN is fill": Case((2, 2, 16, 16), (1, 8, 8), (2, 16, 16), dtype="float32", nodata=float("nan"), scl=False),
    "float without nodata, minus zero is no fill": Case(
        (2, 1, 16, 16), (1, 8, 8), (2, 16, 16), dtype="float32", nodata=None, scl=False, hollow="minus zero"
    ),
    "wide integers": Case((1, 1, 16, 16), (1, 8, 8), (1, 16, 16), dtype="int32", nodata=-1),
    "some chunks empty": Case((4, 2, 32, 32), (1, 8, 8), (4, 16, 16), hollow="some chunks"),
    "some shards empty": Case((4, 2, 32, 32), (1, 8, 8), (2, 16, 16), hollow="some shards"),
    "all empty": Case((2, 1, 16, 16), (1, 8, 8), (2, 16, 16), hollow="all"),
}


def frame_of(case: Case) -> Frame:
    nt, nb, ny, nx = case.shape
    data = Variable(name="data", dtype=case.dtype, banded=True, nodata=case.nodata)
    scl = (Variable(name="scl", dtype="uint8"),) if case.scl else ()
    return Frame(
        geobox=make_grid((ny, nx)),
        time_ms=tuple(i * 5 * DAY_MS for i in range(nt)),
        bands=tuple(Band(name=f"b{i}") for i in range(nb)),
        variables=(data, *scl),
    )


def arrays_of(case: Case) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    frame = frame_of(case)
    smooth = np.arange(int(np.prod(case.shape))).reshape(case.shape)
    data = (smooth % 251 + rng.integers(0, 3, case.shape) + 1).astype(case.dtype)
    scl = rng.integers(0, 12, (case.shape[0], *case.shape[2:])).astype("u1")
    cuts: dict[str, Any] = {
        "none": np.s_[:0],
        "some chunks": np.s_[1:3, ..., 8:24, :16],
        "some shards": np.s_[2:, ..., 16:, :16],
        "all": np.s_[:],
        "minus zero": np.s_[0, ..., :8, :8],
    }
    cut = cuts[case.hollow]
    data[cut] = -0.0 if case.hollow == "minus zero" else frame.data.fill
    if case.nodata is not None and case.nodata != case.nodata:
        data[:, :, 3:5, 2:9] = np.nan
    scl[cut] = 0
    return {"data": data, "scl": scl} if case.scl else {"data": data}


def plan_of(case: Case, store: Path, *, max_bytes: int = 1 << 28) -> CubePlan:
    """The plan of a case, cut as the case says."""
    frame = frame_of(case)
    spec = CubeSpec(frame=frame, layout="map", chunk_tyx=case.chunk_tyx, shard_tyx=case.shard_tyx, cell_px=case.cell_px)
    source = ArraySource(frame, arrays_of(case), name="case")
    template = cube_template(spec, cube="c", product="p", recipe="{}", sid="sid", licence={})
    job = CubeJob(
        store_url=str(store),
        storage_options={},
        cube="c",
        product="p",
        node=source.node,
        binding=Binding(sources={source.node["source"]: source}),
        spec=spec,
        sid="sid",
        input_names={source.node["source"]: "in0"},
        errors="raise",
        max_bytes=max_bytes,
    )
    return CubePlan(job=job, meta=CubeMeta(cube="c", product="p", template=template), site="c")


def write_ours(case: Case, store: Path, **settings: Any) -> Path:
    drive(str(store), [plan_of(case, store, **settings)], SerialExecutor())
    return store / "cubes/c/p"


def write_with_zarr(case: Case, folder: Path) -> Path:
    """The plain twin: the template's objects, and every array assigned whole by zarr-python."""
    for key, body in plan_of(case, folder).meta.template.items():
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / key).write_bytes(body)
    arrays, frame = arrays_of(case), frame_of(case)
    group: Any = zarr.open_group(folder, mode="r+", zarr_format=3)
    blosc.use_threads = False
    for name, values in arrays.items():
        group[name][...] = values
    valid = frame.data.valid(arrays["data"]).all(axis=1)
    clear = np.asarray(valid & np.isin(arrays["scl"], SCL_CLEAR)) if case.scl else np.asarray(valid)
    group[SUMMARY][...] = clear_percent(clear, case.cell_px)
    return folder


@pytest.fixture(params=CASES, ids=list(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def test_every_object_is_the_one_that_zarr_python_writes(case: Case, tmp_path: Path) -> None:
    ours, twin = tree(write_ours(case, tmp_path / "store")), tree(write_with_zarr(case, tmp_path / "twin"))
    assert ours == twin
    shards = [k for k in ours if k.startswith(("data/c", "scl/c", SUMMARY + "/c"))]
    assert bool(shards) == (case.hollow != "all")


def test_the_memory_bound_does_not_change_a_byte(case: Case, tmp_path: Path) -> None:
    assert tree(write_ours(case, tmp_path / "a")) == tree(write_ours(case, tmp_path / "b", max_bytes=1))


def read_with_zarr(folder: Path, name: str) -> Any:
    group: Any = zarr.open_group(folder, mode="r", zarr_format=3)
    return group[name][...]


def read_with_zarrs(folder: Path, name: str) -> Any:
    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        array: Any = zarr.open_group(folder, mode="r", zarr_format=3)[name]
        assert type(array._async_array.codec_pipeline).__module__.startswith("zarrs")
        return array[...]


def read_with_tensorstore(folder: Path, name: str) -> Any:
    import tensorstore

    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{folder}/{name}/"}}
    return tensorstore.open(spec, open=True, read=True).result().read().result()


READERS = {"zarr-python": read_with_zarr, "zarrs": read_with_zarrs, "tensorstore": read_with_tensorstore}


@pytest.mark.parametrize("reader", READERS)
def test_others_read_our_shards_and_zarr_pythons_the_same(case: Case, tmp_path: Path, reader: str) -> None:
    for folder in (write_ours(case, tmp_path / "store"), write_with_zarr(case, tmp_path / "twin")):
        for name, values in arrays_of(case).items():
            np.testing.assert_array_equal(READERS[reader](folder, name), values, strict=True)


@pytest.mark.parametrize("shape", [(1,), (7,), (2, 2, 2), (3, 1, 5, 2), (4, 1, 4, 4), (1, 1, 6, 9), (16, 1, 3, 3)], ids=str)
def test_chunks_lie_in_zarr_pythons_morton_order(shape: tuple[int, ...]) -> None:
    from zarr.core.indexing import morton_order_iter

    assert [tuple(map(int, at)) for at in morton_order_iter(shape)] == list(morton_order(shape))


def test_a_shard_comes_apart_into_the_chunks_it_was_made_of() -> None:
    v = Variable(name="data", dtype="uint16", nodata=0)
    values = {at: np.full((4, 4), 1 + n, "u2") for n, at in enumerate(np.ndindex(2, 3)) if n != 4}
    chunks = {at: encode_chunk(a, (4, 4), v) or b"" for at, a in values.items()}
    found = split_shard(assemble_shard(chunks, (2, 3)) or b"", (2, 3))
    assert found == chunks
    for at, body in found.items():
        np.testing.assert_array_equal(decode_chunk(body, (4, 4), "uint16"), values[at], strict=True)
