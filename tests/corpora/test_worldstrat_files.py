"""Which file is what, from names alone; whatever is odd is a note by kind and name."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eocube.corpora.worldstrat_files import (
    NOTE_MEANINGS,
    ORPHAN,
    SIDE_KINDS,
    Note,
    NoteKind,
    compare_with_tables,
    find_files,
    name_of,
    natural,
    order_of,
    slug_of,
    tile_place,
)


@dataclass(frozen=True)
class Named:
    path: str
    size: int = 100


def hr(area, folder="hr_dataset", kinds=("ps.tiff", "pan.tiff", "rgbn.tiff", "rgb.png")):
    return [f"{folder}/{area}/{area}_{kind}" for kind in kinds]


def lr(area, level="L2A", folder="lr_dataset", revisits=range(1, 4), sides=SIDE_KINDS):
    place = f"{folder}/{area}/{level}/{area}"
    for n in revisits:
        yield f"{place}-{n}-{level}_data.tiff"
        yield f"{place}-{n}.metadata"
        yield from (f"{place}-{n}-{kind}.tiff" for kind in sides)


def found(*paths, empty=()):
    return find_files(Named(path, 0 if path in empty else 100) for path in paths)


def notes(files):
    return {(note.kind, note.area): note.names for note in files.notes}


A, B = "Landcover-770572", "UNHCR-GRCs035302"


@pytest.mark.parametrize(
    ("hr_folder", "lr_folder"),
    [
        ("hr_dataset", "lr_dataset"),  # Zenodo
        ("hr_dataset/12bit", "lr_dataset"),  # Kaggle
        ("dataset/hr_dataset", "dataset/lr_dataset"),  # root is the parent
        ("hr_dataset/hr_dataset", "lr_dataset/lr_dataset"),  # each archive unpacked into a folder of its name
        ("hr_dataset", "lr_dataset_l2a"),  # a copy that keeps levels apart
        ("hr_dataset.zip/hr_dataset", "lr_dataset_l2a.zip/lr_dataset"),  # members of archives
        ("", ""),
    ],
)
def test_every_known_layout_gives_the_same_areas(hr_folder, lr_folder):
    files = find_files(Named(path.lstrip("/")) for path in [*hr(A, hr_folder), *lr(A, folder=lr_folder)])
    (area,) = files.areas.values()
    assert area.name == A
    assert list(area.hr) == ["hr_ps", "hr_pan", "hr_rgbn", "hr_rgb"]
    assert [revisit.n for revisit in area.lr["l2a"]] == [1, 2, 3]
    assert set(area.lr["l2a"][0].sides) == set(SIDE_KINDS)
    json = area.lr["l2a"][0].metadata
    assert json is not None
    assert json.path.endswith(f"{A}-1.metadata")
    assert files.notes == ()


def test_revisits_are_in_natural_order_and_levels_apart():
    files = found(
        *hr(A), *lr(A, revisits=range(1, 17)), *lr(A, "L1C", revisits=range(1, 12)), *lr(B, revisits=range(1, 17)), *hr(B)
    )
    assert [revisit.n for revisit in files.areas[A].lr["l2a"]] == list(range(1, 17))
    assert [revisit.n for revisit in files.areas[A].lr["l1c"]] == list(range(1, 12))
    assert files.areas[A].lr["l1c"][9].data.path.endswith(f"{A}-10-L1C_data.tiff")
    assert files.counts["l2a"] == 32
    assert files.counts["l2a CLM"] == 32


def test_a_name_with_spaces_and_dashes_is_taken_whole():
    name = "Amnesty POI-8-2-1"
    files = found(*hr(name), *lr(name, revisits=[1]))
    assert list(files.areas) == [name]
    assert files.areas[name].slug == "Amnesty_20POI-8-2-1"
    assert files.areas[name].order == "Amnesty POI-8"
    assert files.notes == ()


def test_side_files_may_all_be_absent_and_are_then_no_defect():
    files = found(*hr(A), *lr(A, sides=()))
    assert files.areas[A].lr["l2a"][0].sides == {}
    assert files.notes == ()


def test_the_orphan_folder_is_left_out_by_name():
    files = found(*hr(A), *lr(A), *hr(ORPHAN))
    assert list(files.areas) == [A]
    assert notes(files) == {("orphan-folder", ""): (ORPHAN,)}


def test_areas_with_one_resolution_only_are_named_and_kept():
    files = found(*hr(A), *lr(A), *hr("ASMSpotter-1-1-1"), *lr(B))
    assert notes(files) == {("hr-without-lr", ""): ("ASMSpotter-1-1-1",), ("lr-without-hr", ""): (B,)}
    assert set(files.areas) == {A, B, "ASMSpotter-1-1-1"}


def test_a_root_with_one_resolution_only_is_no_defect():
    assert found(*lr(A), *lr(B)).notes == ()
    assert found(*hr(A), *hr(B)).notes == ()


def test_a_tile_of_the_tables_that_is_not_on_disk_is_named_and_the_other_way_round():
    assert compare_with_tables([A, B], [A, "ASMSpotter-1-1-1"]) == (
        Note(kind="missing-tile", names=("ASMSpotter-1-1-1",)),
        Note(kind="tile-not-in-tables", names=(B,)),
    )
    assert compare_with_tables([A], [A, A]) == ()


def test_of_two_places_the_shorter_path_is_used_and_the_other_named():
    files = found(*hr(A, "hr_dataset/12bit"), *hr(A), *lr(A))
    assert files.areas[A].hr["hr_ps"].path == f"hr_dataset/{A}/{A}_ps.tiff"
    assert f"hr_dataset/12bit/{A}/{A}_ps.tiff" in notes(files)["duplicate-file", ""]
    assert len(notes(files)["duplicate-file", ""]) == 4


@pytest.mark.parametrize(("used", "other"), [("z", "a/b"), ("a", "z"), ("hr_dataset", "hr_dataset/12bit")])
def test_shorter_counts_before_the_alphabet(used, other):
    files = found(*hr(A, other), *hr(A, used))
    assert {file.path.split(f"/{A}/")[0] for file in files.areas[A].hr.values()} == {used}


def test_missing_revisits_side_files_bands_and_rasters_are_named():
    gone = {
        *lr(A, revisits=[2]),
        f"lr_dataset/{B}/L2A/{B}-3-L2A_data.tiff",
        f"lr_dataset/{A}/L2A/{A}-3-CLP.tiff",
        f"hr_dataset/{B}/{B}_pan.tiff",
    }
    files = found(*(path for path in [*hr(A), *hr(B), *lr(A), *lr(B)] if path not in gone))
    assert notes(files) == {
        ("missing-revisit", f"{A} L2A"): ("2",),
        ("revisit-without-data", f"{B} L2A"): ("3",),
        ("missing-side-file", f"{A} L2A"): (f"{A}-3-CLP",),
        ("missing-hr-file", B): ("hr_pan",),
    }
    assert [revisit.n for revisit in files.areas[B].lr["l2a"]] == [1, 2]


def test_the_last_revisit_is_missed_too_where_another_area_has_it():
    files = found(*hr(A), *hr(B), *lr(A, revisits=range(1, 17)), *lr(B, revisits=range(1, 16)))
    assert notes(files) == {("missing-revisit", f"{B} L2A"): ("16",)}


def test_empty_and_misnamed_files_are_named():
    empty = f"lr_dataset/{A}/L2A/{A}-1-CLM.tiff"
    files = found(*hr(A), *lr(A), f"hr_dataset/{A}/{B}_ps.tiff", f"lr_dataset/{A}/L2A/{B}-1-CLM.tiff", empty=[empty])
    assert notes(files)["empty-file", ""] == (empty,)
    assert len(notes(files)["misnamed-file", ""]) == 2
    assert "CLM" in files.areas[A].lr["l2a"][0].sides, "an empty file stays, so that reading it says which"


def test_what_is_not_released_or_not_known_is_counted():
    files = found(
        *hr(A),
        *lr(A),
        f"hr_dataset/8bit/{A}/{A}_ps_8bit.tiff",
        f"hr_dataset_raw/{A}/PROD_SPOT7_001/VOL_SPOT7_001_A/IMG_SPOT7_P_002_A/IMG_R1C1.JP2",
        f"__MACOSX/lr_dataset/{A}/L2A/._{A}-1-CLM.tiff",
        f"lr_dataset/{A}/L2A/{A}-1-shadow.tiff",
        "LICENSE.txt",
        "metadata.csv",
        "stratified_train_val_test_split.csv",
    )
    assert (files.counts["8bit"], files.counts["raw"], files.counts["unknown"]) == (1, 1, 3)
    assert f"lr_dataset/{A}/L2A/{A}-1-shadow.tiff" in files.unknown
    assert set(files.tables) == {"metadata.csv", "stratified_train_val_test_split.csv"}
    assert files.notes == ()


def test_the_table_nearest_to_the_root_is_used():
    assert found("old/metadata.csv", "metadata.csv").tables["metadata.csv"].path == "metadata.csv"


def test_a_foreign_name_is_used_and_said():
    files = found(*hr("Somewhere_1"), *lr("Somewhere_1"))
    assert list(files.areas) == ["Somewhere_1"]
    assert notes(files) == {("unknown-name", ""): ("Somewhere_1",)}


def test_the_order_of_the_files_does_not_matter():
    paths = [*hr(A), *hr(A, "hr_dataset/12bit"), *hr(A, "copy/hr_dataset"), *lr(A), *lr(B, revisits=[3]), *hr(ORPHAN), "x", "a/x"]
    shuffled = random.Random(3).sample(paths, len(paths))  # noqa: S311
    assert found(*paths) == found(*shuffled)


def test_notes_say_kind_names_and_meaning_in_a_line():
    note = Note(kind="missing-revisit", names=tuple(map(str, range(1, 9))), area=A)
    assert str(note).startswith(f"missing-revisit: {A}: 1, 2, 3, 4, 5 and 3 more (")
    assert set(NOTE_MEANINGS) == set(get_args(NoteKind))


@given(st.text(min_size=1).filter(lambda text: text.isprintable()))
def test_a_slug_is_a_plain_name_from_which_the_name_comes_back(name):
    slug = slug_of(name)
    assert name_of(slug) == name
    assert slug.isascii()
    assert not set(slug) - set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-")
    assert not slug.startswith(".")


def test_orders_and_places_of_tiles():
    assert order_of("ASMSpotter-12-3-1") == "ASMSpotter-12"
    assert tile_place("ASMSpotter-12-3-1") == (3, 1)
    assert order_of(A) == A
    assert tile_place("ASMSpotter-12-4-1") is None


def test_natural_order_counts_numbers():
    names = ["Amnesty POI-10-1-1", "ASMSpotter-2-1-1", "ASMSpotter-10-1-1", "Amnesty POI-8-2-1"]
    assert sorted(names, key=natural) == ["ASMSpotter-2-1-1", "ASMSpotter-10-1-1", "Amnesty POI-8-2-1", "Amnesty POI-10-1-1"]
