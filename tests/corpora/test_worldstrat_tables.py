"""The tables of both releases; what the published split leaks, on the real file; a split that leaks nothing."""

from __future__ import annotations

import json
import os
from collections import Counter
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eocube.corpora.worldstrat_files import order_of
from eocube.corpora.worldstrat_tables import (
    AreaFacts,
    RevisitFacts,
    SplitRow,
    leak_safe_split,
    merge_revisit,
    published_split,
    read_bounds,
    read_metadata,
    read_revisit_json,
    read_split,
)
from eocube.errors import ArgumentError, CatalogError

HEAD = "n,lowres_date,highres_date,cloud_cover,delta,area,bounds,lon,lat,LCCS,SMOD,IPCC Class,LCCS class,SMOD Class,source"
ROWS = (
    '1,2019-07-20,2019-07-21,0.5,-1,2.5,"[1.0, 2.0, 1.1, 2.1]",1.05,2.05,190,30,Settlement,Urban areas,Urban: Centre,UNHCR',
    '2,2019-08-01,2019-07-21,12.25,11,2.5,"[1.0, 2.0, 1.1, 2.1]",1.05,2.05,190,30,Settlement,Urban areas,Urban: Centre,UNHCR',
)
V1 = "\n".join(["," + HEAD, *(f"UNHCR-GRCs035302,{row}" for row in ROWS)]).encode()
V11 = "\n".join(["tile," + HEAD, *(f"UNHCR-GRCs035302,{row}" for row in ROWS)]).encode()
WITH_INDEX = "\n".join([",tile," + HEAD, *(f"{k},UNHCR-GRCs035302,{row}" for k, row in enumerate(ROWS))]).encode()


@pytest.fixture(scope="module")
def real():
    folder = os.environ.get("EOCUBE_TEST_DATA")
    if not folder or not (Path(folder) / "worldstrat").is_dir():
        pytest.skip("EOCUBE_TEST_DATA names no folder with worldstrat/")
    return Path(folder) / "worldstrat"


@pytest.fixture(scope="module")
def published(real):
    return read_split((real / "stratified_train_val_test_split.csv").read_bytes())


@pytest.mark.parametrize("content", [V1, V11, WITH_INDEX], ids=["v1", "v1.1", "v1.1 with a row number"])
def test_metadata_of_every_release_gives_the_same_facts(content):
    areas, odd = read_metadata(content)
    area = areas["UNHCR-GRCs035302"]
    assert odd == ()
    assert (area.source, area.ipcc, area.smod, area.hr_date) == ("UNHCR", "Settlement", 30, date(2019, 7, 21))
    assert area.bounds == (1.0, 2.0, 1.1, 2.1)
    assert area.joint_class == "UNHCR/Settlement/30"
    assert area.revisits[2] == RevisitFacts(
        n=2, acquired=datetime(2019, 8, 1, tzinfo=UTC), cloud_cover=12.25, delta_days=11.0, area_km2=2.5
    )


def test_only_area_and_revisit_are_needed():
    areas, odd = read_metadata(b"tile,n\nLandcover-1,3\n")
    assert areas == {"Landcover-1": AreaFacts(name="Landcover-1", source="Landcover", revisits={3: RevisitFacts(n=3)})}
    assert odd == ()


def test_cells_that_cannot_be_read_are_unknown_and_named():
    areas, (note,) = read_metadata(b"tile,n,cloud_cover,bounds,lowres_date\nLandcover-1,1,much,everywhere,2019-02-30\n")
    assert areas["Landcover-1"].revisits[1] == RevisitFacts(n=1)
    assert note.kind == "unreadable-cell"
    assert len(note.names) == 3
    assert "row 2, cloud_cover: 'much'" in note.names[1]


def test_rows_that_contradict_each_other_are_named_and_the_first_counts():
    areas, (note,) = read_metadata(b"tile,n,SMOD,delta\nLandcover-1,1,11,2\nLandcover-1,2,30,5\nLandcover-2,1,11,1\n")
    assert areas["Landcover-1"].smod == 11
    assert set(areas["Landcover-1"].revisits) == {1, 2}
    assert (note.kind, note.names) == ("conflicting-row", ("Landcover-1",))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "cannot be read"),
        (b"a,b\n1,2\n", "has no column"),
        (b",n\n0,1\n16,2\n", "name of the area"),
        (b"tile,n\nx\n", "cannot"),
    ],
    ids=["empty", "another table", "numbers for names", "ragged"],
)
def test_another_file_is_refused_with_what_it_has(content, says):
    with pytest.raises(CatalogError, match=says):
        read_metadata(content)


@pytest.mark.parametrize(
    "text",
    [
        "[1.0, 2.0, 1.1, 2.1]",
        "(1.0, 2.0, 1.1, 2.1)",
        "1 2 1.1 2.1",
        "POLYGON ((1 2, 1 2.1, 1.1 2.1, 1.1 2, 1 2))",
        "1e0,2,11e-1,2.1",
    ],
)
def test_bounds_in_any_writing(text):
    assert read_bounds(text) == (1.0, 2.0, 1.1, 2.1)


@pytest.mark.parametrize("text", ["", "1 2 3", "[2, 2, 1, 3]", "[0, -91, 1, 2]", "1 2 3 4 5"])
def test_what_is_no_box_is_refused(text):
    with pytest.raises(ValueError, match="no box"):
        read_bounds(text)


@pytest.mark.parametrize("stamp", ["2019-07-20 10:31:02", "2019-07-20T10:31:02Z", "2019-07-20T12:31:02+02:00"])
def test_the_json_of_a_revisit_gives_its_time_in_utc(stamp):
    content = json.dumps({"cloud_cover": 0.5, "target_date": "2019-07-21", "delta": "-1 days", "area": 2.5, "datetime": stamp})
    facts = read_revisit_json(content.encode(), 4, where="x.metadata")
    assert facts == RevisitFacts(
        n=4, acquired=datetime(2019, 7, 20, 10, 31, 2, tzinfo=UTC), is_day=False, cloud_cover=0.5, delta_days=-1.0, area_km2=2.5
    )


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"datetime": "soon"}', b"\xff", b"[" * 100_000])
def test_json_that_is_none_is_refused_by_place(content):
    with pytest.raises(CatalogError, match=r"x\.metadata"):
        read_revisit_json(content, 1, where="x.metadata")


def test_the_json_counts_before_the_table_and_days_apart_are_said():
    day = RevisitFacts(n=1, acquired=datetime(2019, 7, 20, tzinfo=UTC), cloud_cover=3.0, delta_days=-1.0)
    second = RevisitFacts(n=1, acquired=datetime(2019, 7, 20, 23, 59, tzinfo=UTC), is_day=False, cloud_cover=4.0)
    merged, differs = merge_revisit(day, second)
    assert merged is not None
    assert (merged.acquired, merged.is_day, merged.cloud_cover, merged.delta_days) == (second.acquired, False, 4.0, -1.0)
    assert not differs
    assert merge_revisit(day, RevisitFacts(n=1, acquired=datetime(2019, 7, 21, tzinfo=UTC)))[1]
    assert merge_revisit(day, None) == (day, False)
    assert merge_revisit(None, None) == (None, False)


def test_the_published_split_repeats_38_tiles_and_leaks_11(published):
    chosen, report = published_split(published)
    assert (report.n_rows, len(chosen)) == (3928, 3890)
    assert len(report.repeated) == 38
    assert set(report.repeated.values()) == {2}
    assert report.leaking == {
        "Amnesty POI-8-2-1": ("train", "val"),
        "Landcover-1372406": ("train", "val"),
        "Amnesty POI-17-2-1": ("test", "train"),
        "Amnesty POI-10-1-2": ("test", "train"),
        "Amnesty POI-17-1-1": ("test", "train"),
        "UNHCR-NGAs037482": ("train", "val"),
        "UNHCR-BFAs004554": ("train", "val"),
        "Amnesty POI-5-2-2": ("test", "train"),
        "UNHCR-GMBs003273": ("train", "val"),
        "Landcover-775706": ("train", "val"),
        "Amnesty POI-18-3-3": ("train", "val"),
    }
    assert chosen["Amnesty POI-17-2-1"] == "test", "what is tested on is not trained on"
    assert chosen["Landcover-775706"] == "val"
    assert report.sizes == {"train": 3103, "test": 394, "val": 393}
    assert len(report.split_orders) == 54
    assert [note.kind for note in report.notes] == ["repeated-tile", "leaking-tile", "split-order"]
    assert "11 in several splits" in str(report)


def test_of_the_real_tiles_none_leaks_and_every_source_has_its_shares(published):
    chosen, report = leak_safe_split(published)
    assert len(chosen) == 3890
    assert (report.repeated, report.leaking, report.split_orders, report.notes) == ({}, {}, {}, ())
    sources = {row.tile: row.source for row in published}
    for source, within in (("Landcover", 0.002), ("UNHCR", 0.002), ("Amnesty", 0.03), ("ASMSpotter", 0.03)):
        counts = Counter(chosen[tile] for tile, its in sources.items() if its == source)
        for split, share in (("train", 0.8), ("val", 0.1), ("test", 0.1)):
            assert abs(counts[split] / counts.total() - share) < within, (source, split)
    classes = Counter((row.source, row.ipcc, row.smod, chosen[row.tile]) for row in {row.tile: row for row in published}.values())
    most = ("Landcover", "Settlement", 30)
    total = sum(classes[*most, split] for split in report.sizes)
    assert all(abs(classes[*most, split] - share * total) < 2 for split, share in (("train", 0.8), ("val", 0.1), ("test", 0.1)))


def test_the_published_split_would_fail_the_same_test(published):
    chosen, _ = published_split(published)
    assert len({(order_of(tile), split) for tile, split in chosen.items()}) > len({order_of(tile) for tile in chosen})


def test_orders_that_overlap_stay_together(real):
    areas, odd = read_metadata((real / "dataset.csv").read_bytes())
    assert odd == ()
    assert len(areas) == 3449
    chain = [f"ASMSpotter-{poi}" for poi in range(20, 28)]
    for salt in "abcde":
        chosen, _ = leak_safe_split(areas.values(), salt=salt)
        assert len({chosen[name] for name in chain}) == 1


def test_shares_that_are_none_are_refused():
    with pytest.raises(ArgumentError, match="sum to 1"):
        leak_safe_split([], shares={"train": 0.8, "val": 0.1})


@st.composite
def tiles(draw):
    """Landcover areas of a few classes, some repeated, and orders with some of their tiles."""
    own = draw(
        st.lists(st.tuples(st.integers(0, 400), st.sampled_from(["Forest", "Other"]), st.sampled_from([11, 30])), max_size=80)
    )
    orders = draw(st.lists(st.tuples(st.integers(1, 12), st.integers(1, 3), st.integers(1, 3)), max_size=60))
    rows = [SplitRow(tile=f"Landcover-{k}", split="train", source="Landcover", ipcc=ipcc, smod=smod) for k, ipcc, smod in own]
    rows += [
        SplitRow(tile=f"ASMSpotter-{p}-{i}-{j}", split="val", source="ASMSpotter", ipcc="Other", smod=11) for p, i, j in orders
    ]
    return draw(st.permutations(list({row.tile: row for row in rows}.values())))


@settings(max_examples=80, deadline=None)
@given(tiles(), st.sampled_from(["", "x"]), st.sampled_from([(0.8, 0.1, 0.1), (0.5, 0.25, 0.25)]))
def test_a_leak_safe_split_covers_each_tile_once_by_order_and_by_class(rows, salt, numbers):
    shares = dict(zip(("train", "val", "test"), numbers, strict=True))
    chosen, report = leak_safe_split([*rows, *rows[:3]], shares=shares, salt=salt)
    assert set(chosen) == {row.tile for row in rows}
    orders = {}
    for tile, split in chosen.items():
        assert orders.setdefault(order_of(tile), split) == split
    assert report.split_orders == {}
    ordered: list[SplitRow] = sorted(rows, key=lambda row: row.tile)
    again, _ = leak_safe_split(ordered, shares=shares, salt=salt)
    assert list(again.items()) == list(chosen.items()), "the order of the rows does not matter"
    for kind in {(row.ipcc, row.smod) for row in rows if row.source == "Landcover"}:
        members = [row.tile for row in rows if row.source == "Landcover" and (row.ipcc, row.smod) == kind]
        for split, share in shares.items():
            assert abs(sum(chosen[tile] == split for tile in members) - share * len(members)) < 2


def test_another_salt_is_another_split():
    rows = [SplitRow(tile=f"Landcover-{k}", split="", source="Landcover", ipcc="Forest", smod=11) for k in range(100)]
    assert leak_safe_split(rows)[0] != leak_safe_split(rows, salt="2")[0]
