"""A region's task: what it holds in memory changes nothing of what it writes."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import eocube
from eocube.exec import region
from eocube.io.blobs import LocalBlobs, open_blobs, uploading_bytes
from eocube.io.shards import HELD_BYTES, Shelf
from eocube.jobs.convert import convert
from eocube.jobs.open import open_corpus
from eocube.jobs.write import WriteSettings, plan_cube
from eocube.model.spec import SHARD_DATES, Layout, Region
from eocube.model.window import Window
from eocube.testing.sources import make_cube
from eocube.testing.stac import make_grid, make_series, write_catalog
from eocube.testing.stores import tree


@pytest.mark.parametrize("most_bytes", [0, 3000], ids=["all laid by on disk", "some"])
def test_chunks_laid_by_on_disk_and_chunks_held_give_one_store(
    most_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenes = make_series(6, grid=make_grid((96, 96)), zooms={"B04": 1, "B08": 1, "SCL": 2}, block=32)
    corpus = open_corpus("stac", str(write_catalog(scenes, tmp_path / "catalog")))
    convert(corpus, str(tmp_path / "held"), executor="serial")
    monkeypatch.setattr(region, "Shelf", partial(Shelf, most_bytes=most_bytes))
    convert(corpus, str(tmp_path / "laid_by"), executor="serial")
    for part in ("cubes", "markers"):
        assert tree(tmp_path / "held" / part) == tree(tmp_path / "laid_by" / part) != {}
    assert tree(tmp_path / "laid_by" / "tmp") == {}


def test_a_shelf_gives_back_what_it_was_given_and_holds_no_more_than_it_may(tmp_path: Path) -> None:
    shelf = Shelf(LocalBlobs(str(tmp_path)), most_bytes=10)
    bodies = [bytes([i]) * n for i, n in enumerate((4, 7, 6, 1))]
    kept = [shelf.keep(body) for body in bodies]
    assert [shelf.body(k) for k in kept] == bodies
    assert sum(len(k.body or b"") for k in kept) <= 10
    assert kept[1].body is None
    shelf.close()


def test_where_the_store_is_no_folder_what_is_not_held_waits_in_the_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    shelf = Shelf(open_blobs("memory://nowhere"), most_bytes=2)
    held, laid_by = shelf.keep(b"12"), shelf.keep(b"345")
    assert (held.body, laid_by.body) == (b"12", None)
    assert (shelf.body(held), shelf.body(laid_by)) == (b"12", b"345")
    assert tree(tmp_path / "scratch") == {}, "it has no name"
    shelf.close()


def _widest(cube: xr.Dataset) -> xr.Dataset:
    return cube.assign(data=cube["data"].astype("float32"))


STEPS: dict[str, Callable[[xr.Dataset], xr.Dataset]] = {
    "source": lambda cube: cube,
    "chain": lambda cube: eocube.to_reflectance(eocube.mask_clouds(cube)),
    "halo": lambda cube: eocube.apply(cube, _widest, halo_px=9, step_id="widest"),
    "composite": lambda cube: eocube.composite(eocube.mask_clouds(cube), "1MS"),
}


@given(max_bytes=st.integers(1, 1 << 24), name=st.sampled_from(sorted(STEPS)), layout=st.sampled_from(sorted(SHARD_DATES)))
@settings(deadline=None, max_examples=25)
def test_a_piece_fits_under_max_bytes_or_is_one_chunk_and_the_pieces_are_the_region(
    max_bytes: int, name: str, layout: Layout
) -> None:
    cube = STEPS[name](make_cube(shape_yx=(800, 300)))
    how = WriteSettings(layout=layout, max_bytes=max_bytes)
    job = plan_cube(cube, "nowhere", site="c", product="p", settings=how).job
    for place in job.spec.regions():
        n = region.piece_chunks(job, place)
        pieces = list(job.spec.pieces(place, n))
        most = max(n_bytes for piece in pieces for n_bytes in region.piece_bytes(job, piece))
        assert most <= max_bytes or n == (1, 1, 1)
        assert most < region.peak_bytes(job, place)
        assert sum(map(n_pixels, (p.window for p in pieces))) == n_pixels(job.spec.window(place))


def n_pixels(window: Window) -> int:
    return len(window.times) * math.prod(window.shape_yx)


def test_a_piece_gives_up_dates_before_pixels() -> None:
    """Other dates are other files; side by side, pieces decode the blocks between them twice."""
    cube = eocube.to_reflectance(make_cube(shape_yx=(800, 300)))
    job = plan_cube(cube, "nowhere", site="c", product="p", settings=WriteSettings(max_bytes=1 << 23)).job
    n_dates, n_rows, n_columns = region.piece_chunks(job, Region(0, 0, 0))
    assert (n_rows, n_columns) == job.spec.chunks_per_shard[1:]
    assert 1 <= n_dates < job.spec.chunks_per_shard[0]


def test_where_the_store_is_no_folder_what_is_on_its_way_counts() -> None:
    cube = make_cube(shape_yx=(1024, 1024))
    peaks = {}
    for url in ("/folder", "s3://bucket/store"):
        job = plan_cube(cube, url, site="c", product="p", settings=WriteSettings(max_bytes=1 << 23)).job
        peaks[url] = region.peak_bytes(job, Region(0, 0, 0))
    assert peaks["s3://bucket/store"] == uploading_bytes("s3://bucket/store") + HELD_BYTES + region.OTHER_BYTES > peaks["/folder"]
