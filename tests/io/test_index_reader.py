"""The index of many sites: what is chosen is what filtering gives, and only groups with a chosen row are decoded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eocube.io import index as module
from eocube.io.blobs import open_blobs
from eocube.io.index import INDEX, SCHEMA, index_row, put_part, write_index
from eocube.io.index_reader import IndexReader
from eocube.jobs.open import open_store
from eocube.model.bands import Band
from eocube.model.frame import Frame, Variable
from eocube.model.spec import Place
from eocube.testing.stac import make_grid

N = 200


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("store"))
    rows = [make_row(i) for i in range(N)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ROWS_OF_GROUP", 16)
        open_blobs(folder).put(INDEX, write_index(pa.Table.from_pylist(rows, schema=SCHEMA)))
    return folder


def make_row(i: int) -> dict[str, Any]:
    frame = Frame(
        geobox=make_grid((8, 8 * N)),
        time_ms=(0,),
        bands=(Band(name="red"),),
        variables=(Variable(name="data", dtype="uint16", banded=True),),
    )
    place = Place(f"s{i:03d}", (0, 8), (8 * i, 8 * i + 8))
    counts, split = (1, 2), ("train", "val", None)[i % 3]
    return index_row(frame, place=place, cube="c", product="pq"[i % 2], counts=counts, unfinished=0, licence=None, split=split)


@given(low=st.integers(0, N - 1), n=st.integers(0, 40), split=st.sampled_from(["train", "val", "none"]))
@settings(max_examples=30)
def test_rows_are_those_of_the_filtered_table(store: str, low: int, n: int, split: str) -> None:
    reader = IndexReader(open_blobs(store))
    boxes = [row["bbox"] for row in reader.table().to_pylist()]
    one, other = boxes[low], boxes[min(low + n, N - 1)]
    bbox = (one["xmin"] + 1e-7, one["ymin"] + 1e-7, other["xmax"] - 1e-7, other["ymax"] - 1e-7)
    found = reader.rows(reader.meeting(bbox) & reader.equal("split", split)).to_pylist()
    meets = [b["xmin"] <= bbox[2] and b["xmax"] >= bbox[0] and b["ymin"] <= bbox[3] and b["ymax"] >= bbox[1] for b in boxes]
    assert found == [row for row, met in zip(reader.table().to_pylist(), meets, strict=True) if met and row["split"] == split]


def test_only_groups_with_a_chosen_row_are_decoded(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = IndexReader(open_blobs(store))
    asked: list[Any] = []
    read = reader._file.read_row_groups

    def counted(_: object, groups: Any, **how: Any) -> Any:
        asked.append(groups)
        return read(groups, **how)

    monkeypatch.setattr(type(reader._file), "read_row_groups", counted)
    chosen = np.zeros(N, bool)
    chosen[[3, 17, 18, 199]] = True
    assert reader.rows(chosen)["site"].to_pylist() == ["s003", "s017", "s018", "s199"]
    assert asked == [[0, 1, 12]]


def test_a_store_that_is_open_sees_what_runs_put_into_the_index(tmp_path: Path) -> None:
    blobs = open_blobs(str(tmp_path))
    blobs.put("zarr.json", b'{"zarr_format": 3, "node_type": "group", "attributes": {"eocube": {"format": 2}}}')
    opened = open_store(str(tmp_path))
    assert opened.index.num_rows == 0
    for n in (1, 2):
        put_part(blobs, [make_row(i) for i in range(n)])
        module.compact(blobs)
        assert opened.index.num_rows == opened.sites().num_rows == n


def test_rows_as_a_geodataframe_have_footprints_and_their_columns(store: str, tmp_path: Path) -> None:
    blobs = open_blobs(str(tmp_path))
    blobs.put("zarr.json", b'{"zarr_format": 3, "node_type": "group", "attributes": {"eocube": {"format": 2}}}')
    blobs.put(INDEX, (Path(store) / INDEX).read_bytes())
    frame = open_store(str(tmp_path)).sites_frame(split="val")
    assert len(frame) == 67
    assert set(frame["split"]) == {"val"}
    assert frame.crs == "OGC:CRS84"
    assert frame.geometry.is_valid.all()
    assert {"site", "product", "cube", "window", "n_dates"} <= set(frame.columns)
