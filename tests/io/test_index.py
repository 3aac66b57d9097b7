"""The index: no row is lost whoever writes when, and a row says where a cube lies and how big its pixels are."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox

from eocube.errors import DamagedStoreError
from eocube.io.blobs import Blobs, LocalBlobs, open_blobs
from eocube.io.index import (
    INDEX,
    PARTS,
    SCHEMA,
    compact,
    gsd_m,
    has_evidence,
    index_row,
    join_parts,
    list_parts,
    part_path,
    put_part,
    read_index,
)
from eocube.model.bands import Band
from eocube.model.frame import Frame, Variable
from eocube.model.spec import Place
from eocube.testing.stac import make_grid


def make_row(
    cube: str = "c", product: str = "p", *, dates: int = 3, unfinished: int = 0, grid: GeoBox | None = None
) -> dict[str, Any]:
    frame = Frame(
        geobox=grid or make_grid(),
        time_ms=tuple(range(dates)),
        bands=(Band(name="red"),),
        variables=(Variable(name="data", dtype="uint16", banded=True, nodata=0),),
    )
    place = Place(cube, (0, frame.shape_yx[0]), (0, frame.shape_yx[1]))
    return index_row(frame, place=place, cube=cube, product=product, counts=(1, 2), unfinished=unfinished, licence="CC0-1.0")


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return open_blobs(str(tmp_path))


def names(blobs: Blobs) -> list[tuple[str, str, int]]:
    return [(r["cube"], r["product"], r["n_dates"]) for r in read_index(blobs).to_pylist()]


def test_an_empty_store_has_an_empty_index(blobs: Blobs) -> None:
    assert read_index(blobs).num_rows == 0
    compact(blobs)
    assert read_index(blobs).num_rows == 0


def test_rows_are_sorted_and_a_newer_part_takes_the_place_of_an_older(blobs: Blobs) -> None:
    for row in (make_row("b"), make_row("a", "20m"), make_row("a", "10m"), make_row("a", "10m", dates=5)):
        put_part(blobs, [row])
    compact(blobs)
    assert names(blobs) == [("a", "10m", 5), ("a", "20m", 3), ("b", "p", 3)]
    assert len(list(blobs.list("index"))) == 3


def test_a_part_that_knows_less_does_not_take_the_place_of_one_that_knows_more(blobs: Blobs) -> None:
    """A run that began before an append may come to its end after it."""
    put_part(blobs, [make_row(dates=5)])
    for less in (make_row(dates=3), make_row(dates=5, unfinished=1)):
        put_part(blobs, [less])
        compact(blobs)
        assert names(blobs) == [("c", "p", 5)]
        assert len(list(blobs.list("index"))) == 1
    assert read_index(blobs)["unfinished_regions"].to_pylist() == [0]


def test_equal_rows_leave_one_part_and_a_damaged_one_is_mended(blobs: Blobs, tmp_path: Path) -> None:
    put_part(blobs, [make_row()], evidence="a" * 32)
    (part,) = (tmp_path / "index/c").iterdir()
    whole = part.read_bytes()
    part.write_bytes(b"damaged")
    put_part(blobs, [make_row()], evidence="a" * 32)
    assert [p.read_bytes() for p in (tmp_path / "index/c").iterdir()] == [whole]


def test_a_part_is_named_by_all_that_its_row_says(blobs: Blobs) -> None:
    row = make_row()
    others = [row | changed for changed in ({"clear_fraction": 0.25}, {"license": None}, {"geometry": b"\0"}, {"n_dates": 4})]
    assert len({part_path([r], "a" * 32) for r in [row, *others]}) == 5
    assert part_path([row], "a" * 32) == part_path([dict(reversed(row.items()))], "a" * 16)


@pytest.mark.parametrize("known", [False, True], ids=["unknown", "known from before"])
def test_of_rows_that_differ_in_their_counts_that_stays_which_replaces_the_other(blobs: Blobs, *, known: bool) -> None:
    """Whichever name is the higher: only what was there before is known to be older."""
    rows = [make_row() | {"clear_fraction": c} for c in (0.1, 0.2)]
    for old, new in (rows, rows[::-1]):
        for part in [k for keys in list_parts(blobs).values() for k in keys]:
            blobs.delete(part)
        put_part(blobs, [old], evidence="a" * 32)
        put_part(blobs, [new], evidence="a" * 32, replaces=list_parts(blobs)["index/c/p"] if known else [])
        last = new if known else max(rows, key=lambda r: part_path([r], "a" * 32))
        assert compact(blobs)["clear_fraction"].to_pylist() == [last["clear_fraction"]]
        assert len(list(blobs.list(PARTS))) == 1
        assert compact(blobs, trust_index=True)["clear_fraction"].to_pylist() == [last["clear_fraction"]]


def test_a_part_known_from_before_goes_also_where_it_says_more(blobs: Blobs) -> None:
    """A region of a whole cube that is redone and lacks a file now."""
    put_part(blobs, [make_row()], evidence="a" * 32)
    put_part(blobs, [make_row(unfinished=1)], replaces=list_parts(blobs)["index/c/p"])
    assert compact(blobs)["unfinished_regions"].to_pylist() == [1]


@pytest.mark.parametrize("evidence", [("a" * 32, "b" * 32), ("a" * 32, None), ("a" * 32, "a" * 32)], ids=str)
def test_of_two_that_put_parts_of_equal_rank_at_once_one_part_stays(tmp_path: Path, evidence: tuple[str | None, ...]) -> None:
    together = threading.Barrier(2, timeout=30)

    class Together(LocalBlobs):
        def list(self, prefix: str) -> Iterator[tuple[str, int]]:
            together.wait()
            found = list(super().list(prefix))
            together.wait()
            return iter(found)

    def put(row: dict[str, Any], named: str | None) -> None:
        put_part(Together(str(tmp_path)), [row], evidence=named)

    rows = [make_row(), make_row() | {"clear_fraction": 0.25}]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(put, rows, evidence))
    assert compact(open_blobs(str(tmp_path))).num_rows == 1
    assert len(list(open_blobs(str(tmp_path)).list(PARTS))) == 1


def test_a_part_that_another_run_has_replaced_takes_none_away(tmp_path: Path) -> None:
    """Between its put and its listing another run finds it, redoes the cube, and puts a part of a lower name in its place."""
    low, high = sorted((make_row() | {"clear_fraction": c} for c in (0.1, 0.2)), key=lambda r: part_path([r], None))

    class Meanwhile(LocalBlobs):
        def list(self, prefix: str) -> Iterator[tuple[str, int]]:
            put_part(LocalBlobs(self.url), [low], replaces=[part_path([high], None)])
            return super().list(prefix)

    put_part(Meanwhile(str(tmp_path)), [high])
    assert [key for key, _ in open_blobs(str(tmp_path)).list(PARTS)] == [part_path([low], None)]


@pytest.mark.parametrize("other", ["10m", "1", "10m.x", "10"], ids=str)
def test_products_whose_names_begin_alike_keep_their_parts(blobs: Blobs, other: str) -> None:
    for product in ("10m", other, "1.5m", "10m"):
        put_part(blobs, [make_row(product=product)])
    compact(blobs)
    assert [n[1] for n in names(blobs)] == sorted({"10m", other, "1.5m"})


def join_plainly(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The plain twin of joining parts: of each site and product the row with most dates, then fewest holes; the first wins."""
    best: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        key = row["site"], row["product"]
        rank = row["n_dates"], -row["unfinished_regions"]
        if key not in best or rank > (best[key]["n_dates"], -best[key]["unfinished_regions"]):
            best[key] = row
    return [best[k] for k in sorted(best)]


ROWS = st.builds(
    lambda site, product, dates, unfinished, licence: (
        make_row(site, product, dates=dates, unfinished=unfinished) | {"license": licence}
    ),
    *(st.sampled_from(["a", "A", "ä", "a-1", "\U0001f30d"]), st.sampled_from(["p", "10m"])),
    *(st.integers(1, 3), st.integers(0, 2), st.sampled_from([None, "CC0-1.0", "MIT"])),
)


@settings(deadline=None, max_examples=50)
@given(rows=st.lists(ROWS, max_size=8))
def test_of_rows_of_one_cube_the_one_with_most_dates_then_fewest_holes_counts(rows: list[dict[str, Any]]) -> None:
    parts = {f"part-{i}": pa.Table.from_pylist([row], schema=SCHEMA) for i, row in enumerate(rows)}
    table, made_of = join_parts(parts)
    assert table.schema == SCHEMA
    assert table.to_pylist() == pa.Table.from_pylist(join_plainly(rows), schema=SCHEMA).to_pylist()
    assert [parts[name].to_pylist()[0] for name in made_of] == table.to_pylist()


class Reading(LocalBlobs):
    """Notes which objects are read."""

    def __init__(self, folder: str):
        super().__init__(folder)
        self.read: list[str] = []

    def get(self, key: str) -> bytes | None:
        self.read.append(key)
        return super().get(key)


def compacted(tmp_path: Path, *, trust_index: bool) -> tuple[list[str], Any]:
    """What compaction reads, and the table that it then makes."""
    blobs = Reading(str(tmp_path))
    made = compact(blobs, trust_index=trust_index)
    assert read_index(blobs).equals(made)
    return [key for key in blobs.read[:-1] if key.startswith(f"{PARTS}/")], made


def test_a_run_reads_new_parts_only_and_makes_the_index_of_all(blobs: Blobs, tmp_path: Path) -> None:
    for i in range(5):
        put_part(blobs, [make_row(f"c{i}")])
    assert len(compacted(tmp_path, trust_index=True)[0]) == 5, "there was no index"
    assert compacted(tmp_path, trust_index=True)[0] == []
    put_part(blobs, [make_row("c2", dates=5)])
    put_part(blobs, [make_row("c9")])
    for key, _ in list(blobs.list(f"{PARTS}/c3")):
        blobs.delete(key)
    read, made = compacted(tmp_path, trust_index=True)
    assert sorted(key.split("/")[1] for key in read) == ["c2", "c9"]
    again, anew = compacted(tmp_path, trust_index=False)
    assert len(again) == 5
    assert made.equals(anew)
    assert made["cube"].to_pylist() == ["c0", "c1", "c2", "c4", "c9"]


def test_an_index_that_is_damaged_or_of_another_form_is_made_anew_of_all_parts(blobs: Blobs, tmp_path: Path) -> None:
    for i in range(3):
        put_part(blobs, [make_row(f"c{i}")])
    right = compact(blobs)
    whole = (tmp_path / INDEX).read_bytes()
    older = pa.BufferOutputStream()
    pq.write_table(right, older)
    flipped = [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(4, len(whole), 97)]
    for body in (b"", b"PAR1 but no more", older.getvalue().to_pybytes(), whole[:-9], *flipped):
        (tmp_path / INDEX).write_bytes(body)
        assert compact(blobs, trust_index=True).equals(right)
        assert read_index(blobs).equals(right)


def test_a_damaged_part_is_named_with_what_mends_it(blobs: Blobs, tmp_path: Path) -> None:
    put_part(blobs, [make_row()])
    (part,) = (tmp_path / "index/c").iterdir()
    whole = part.read_bytes()
    for body in (b"", whole[:-9], whole[: len(whole) // 2]):
        part.write_bytes(body)
        with pytest.raises(DamagedStoreError, match=rf"{part.name} in .* cannot be read .*`eocube index {tmp_path}`"):
            compact(blobs)


def test_a_part_may_be_named_by_what_its_row_follows_from(blobs: Blobs) -> None:
    put_part(blobs, [make_row()])
    (plain,) = (key for key, _ in blobs.list(PARTS))
    assert not has_evidence(plain)
    put_part(blobs, [make_row()], evidence="0123456789abcdef0123")
    (named,) = (key for key, _ in blobs.list(PARTS))
    assert named.startswith("index/c/p.0123456789abcdef")
    assert has_evidence(named)
    assert has_evidence(named, "0123456789abcdef45")
    assert not has_evidence(named, "f" * 32)
    put_part(blobs, [make_row(dates=2)], evidence="f" * 32)
    assert [key for key, _ in blobs.list(PARTS)] == [named], "a part that knows less"


@pytest.mark.parametrize("key", ["index/part", "index/c/p", "index/c/p.parquet", f"index/c/p.{'a' * 16}.parquet", ""], ids=str)
def test_other_names_than_those_of_parts_are_evidence_of_nothing(key: str) -> None:
    assert not has_evidence(key)
    assert not has_evidence(key, "a" * 32)


def test_writers_at_once_lose_no_row(tmp_path: Path) -> None:
    def write(n: int) -> None:
        blobs = open_blobs(str(tmp_path))
        for i in range(4):
            put_part(blobs, [make_row(f"cube-{n}-{i}")])
            compact(blobs)

    for _ in range(3):
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(write, range(4)))
        assert len(names(open_blobs(str(tmp_path)))) == 16


def test_a_part_that_comes_while_parts_are_read_is_in_the_index(tmp_path: Path) -> None:
    """The listing is taken again until nothing has changed: here a part appears between the listing and the put."""
    late = make_row("late")

    class Meanwhile(LocalBlobs):
        waiting = threading.Event()

        def put(self, key: str, body: bytes) -> None:
            if key == INDEX and not self.waiting.is_set():
                self.waiting.set()
                put_part(LocalBlobs(self.url), [late])
            super().put(key, body)

    blobs = Meanwhile(str(tmp_path))
    put_part(blobs, [make_row("early")])
    compact(blobs)
    assert [n[0] for n in names(blobs)] == ["early", "late"]


def test_a_row_says_nothing_of_where_files_come_from() -> None:
    row = make_row()
    assert not any("http" in str(v) or "/" in str(v) for k, v in row.items() if k != "geometry")
    assert (row["window"], row["shape"], row["clear_fraction"], row["license"]) == ([0, 48, 0, 64], [48, 64], 0.5, "CC0-1.0")


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        (make_grid(resolution=10.0), (10, 10)),
        (make_grid((10, 10), resolution=1.0, crs="EPSG:2263"), (0.3048, 0.3048)),
        (make_grid((2, 2), resolution=0.001, corner_xy=(24.0, 60.001), crs="EPSG:4326"), (111.41, 55.80)),
        (make_grid((2, 2), resolution=0.001, corner_xy=(24.0, 0.001), crs="EPSG:4326"), (110.57, 111.32)),
    ],
    ids=["metres", "feet", "degrees at 60 north", "degrees at the equator"],
)
def test_pixel_sizes_are_in_metres_on_the_ground(box: GeoBox, expected: tuple[float, float]) -> None:
    """A degree of latitude is 110.57 km at the equator and 111.41 km at 60 north, of longitude 111.32 and 55.80 (WGS 84)."""
    assert gsd_m(box) == pytest.approx(expected, rel=2e-4)


def test_the_index_prunes_by_its_bbox_column(blobs: Blobs, tmp_path: Path) -> None:
    put_part(blobs, [make_row()])
    compact(blobs)
    schema = pq.read_schema(tmp_path / INDEX)
    assert b"1.1.0" in schema.metadata[b"geo"]
    assert b"covering" in schema.metadata[b"geo"]
    box = read_index(blobs).to_pylist()[0]["bbox"]
    assert 28.27 < box["xmin"] < box["xmax"] < 28.29
