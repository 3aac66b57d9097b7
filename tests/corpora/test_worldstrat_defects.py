"""Defect by defect, what a user of WorldStrat sees: a note that names it, an error that names the file, or the right cube.

The list is in ``docs/corpora/worldstrat.md``. What has a test of its own beside this is not repeated: layouts and notes of file
names (``test_worldstrat_files``), tables and splits (``test_worldstrat_tables``), pixels (``test_worldstrat``).
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rioxarray  # noqa: F401 - .rio
from typer.testing import CliRunner

import eocube
from eocube.cli import app
from eocube.corpora.worldstrat import BANDS, WorldStratCorpus
from eocube.corpora.worldstrat_files import NOTE_MEANINGS, ORPHAN, NoteKind
from eocube.corpora.worldstrat_sample import planted_defects, write_worldstrat
from eocube.corpora.worldstrat_source import CLM_NONE, FILL
from eocube.errors import AssetReadError, CatalogError
from eocube.testing.stores import index_rows, same_store

Made = Callable[..., Path]

NOTED: dict[str, NoteKind] = {
    "hr-without-lr": "hr-without-lr",
    "lr-without-hr": "lr-without-hr",
    "missing-tile": "missing-tile",
    "orphan-folder": "orphan-folder",
    "missing-hr-file": "missing-hr-file",
    "duplicate-file": "duplicate-file",
    "misnamed-file": "misnamed-file",
    "missing-side-files": "missing-side-file",
    "missing-revisit": "missing-revisit",
    "revisit-without-data": "revisit-without-data",
    "bad-json": "unreadable-metadata",
    "date-conflict": "date-conflict",
    "not-in-split": "tile-without-split",
    "split-repeats": "repeated-tile",
}
"""Defect of the sample → kind of the note that names it. None of them ends a run."""

LIGHT: dict[str, Any] = {"products": ("l2a", "hr_pan", "hr_rgbn"), "side_files": ("CLM", "viewZenithMean")}


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything at once that is noted."""
    return write_worldstrat(tmp_path_factory.mktemp("odd") / "c", sites=9, revisits=3, defects=tuple(NOTED), **LIGHT)


@pytest.fixture
def made(tmp_path: Path) -> Made:
    def make(**asked: Any) -> Path:
        return write_worldstrat(tmp_path / "c", **{"sites": 1, "revisits": 2, **LIGHT, **asked})

    return make


def areas_in(root: Path, places: list[str]) -> set[str]:
    """The areas that places of planted defects are about."""
    with (root / "metadata.csv").open() as file:
        known = {row[0] for row in csv.reader(file)} | {ORPHAN}
    return {max((a for a in known if a and a in place), key=len) for place in places}


def rewrite(path: Path, change: Callable[[Any], Any], **profile: Any) -> None:
    """A raster with other pixels, on its grid."""
    with rasterio.open(path) as src:
        pixels, old = change(src.read()), src.profile
    with rasterio.open(path, "w", **{**old, "dtype": pixels.dtype, "count": len(pixels), **profile}) as out:
        out.write(pixels)


def lr_file(root: Path, kind: str, n: int = 1) -> Path:
    """One low-resolution file of the first area."""
    return min(root.glob(f"lr_dataset/*/L2A/*-{n}-{kind}.tiff"))


def convert(root: Path | str, store: Path, **how: Any) -> Any:
    return eocube.convert(eocube.open_corpus("worldstrat", str(root), **how), str(store), executor="serial")


def opened(root: Path, **how: Any) -> Any:
    """The corpus itself."""
    return eocube.open_corpus("worldstrat", str(root), **how).corpus


def stored(store: Path, product: str) -> Any:
    """The one cube of a product."""
    (row,) = [r for r in index_rows(store) if r["product"] == product]
    return eocube.open_store(str(store)).cube(row["site"], product, chunks=None)


# ------------------------------------------------------------------------------------------------ noted by name


@pytest.mark.parametrize("defect", NOTED)
def test_a_defect_is_noted_by_the_name_of_what_has_it(odd: Path, defect: str) -> None:
    corpus = opened(odd, split="published")
    for site in corpus.sites:
        for product in site.products:
            corpus.source(site.name, product)
    notes = [note for note in corpus.notes if note.kind == NOTED[defect]]
    named = " ".join(" ".join([*note.names, note.area]) for note in notes)
    places = planted_defects(odd)[defect]
    assert notes
    assert NOTE_MEANINGS[NOTED[defect]] in str(notes[0])
    assert [area for area in areas_in(odd, places) if area not in named] == []


def test_the_command_line_tells_all_of_them_and_is_done(odd: Path, tmp_path: Path) -> None:
    words = ["convert", "worldstrat", str(odd), str(tmp_path / "s"), "--split", "published", "--cluster", "serial"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("Note: ")]
    kinds = {line.split(": ")[1] for line in lines}
    assert set(NOTED.values()) <= kinds
    assert "Note: " not in result.stdout
    for defect, kind in NOTED.items():
        told = " ".join(line for line in lines if line.startswith(f"Note: {kind}: "))
        assert any(area in told for area in areas_in(odd, planted_defects(odd)[defect]))
    rows = index_rows(tmp_path / "s")
    assert ORPHAN not in {r["site"] for r in rows}
    assert {r["site"] for r in rows}.isdisjoint(planted_defects(odd)["missing-tile"])


def test_of_many_notes_of_a_kind_the_first_are_told_and_the_rest_counted(tmp_path: Path) -> None:
    """On Kaggle every area lacks other angles: 3,900 lines would hide the rest."""
    root = write_worldstrat(tmp_path / "c", sites=9, revisits=4, release="kaggle", products=("l2a",))
    corpus = WorldStratCorpus.open(str(root))
    many = [n for n in corpus.notes if n.kind == "missing-side-file"]
    assert len(many) > 4
    result = CliRunner().invoke(app, ["convert", "worldstrat", str(root), str(tmp_path / "s"), "--plan"])
    lines = [line for line in result.stderr.splitlines() if "missing-side-file" in line]
    assert len(lines) == 4
    assert f": {len(many) - 3} more" in lines[-1]


def test_a_clean_copy_has_no_note(made: Made, tmp_path: Path) -> None:
    """Kaggle's tables have 16 revisits and its folders 8: that is how it is, and no defect."""
    for release in ("zenodo-v1", "zenodo-v1.1"):
        root = write_worldstrat(tmp_path / release, sites=2, revisits=2, release=release, **LIGHT)
        assert WorldStratCorpus.open(str(root)).notes == ()
    kaggle = write_worldstrat(tmp_path / "kaggle", sites=2, revisits=8, release="kaggle", products=("l2a",), side_files=("CLM",))
    assert WorldStratCorpus.open(str(kaggle)).notes == ()


def test_a_broken_table_of_splits_is_told_and_ends_nothing_where_none_is_asked(made: Made, tmp_path: Path) -> None:
    root = made()
    (root / "stratified_train_val_test_split.csv").write_text("a,b\n1,2\n")
    words = ["convert", "worldstrat", str(root), str(tmp_path / "s"), "--cluster", "serial"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "Note: " in result.stderr
    assert "stratified_train_val_test_split.csv has no column" in result.stderr
    assert CliRunner().invoke(app, [*words, "--split", "published"]).exit_code == 1


def test_other_deliveries_and_foreign_files_are_no_products_and_no_defects(made: Made) -> None:
    corpus = WorldStratCorpus.open(str(made(defects=("other-deliveries", "unknown-file"))))
    assert corpus.notes == ()
    assert {"8bit": 1, "raw": 1}.items() <= dict(corpus.files.counts).items()
    assert any("Thumbs.db" in path for path in corpus.files.unknown)
    assert set(corpus.sites[0].products) == {"l2a", "hr_pan", "hr_rgbn"}


# ------------------------------------------------------------------------------------------------ layouts, archives


@pytest.mark.parametrize(
    "moved",
    [
        pytest.param({"lr_dataset": "lr_dataset_l2a"}, id="L2A in a folder of its own"),
        pytest.param({"hr_dataset": "hr_dataset/12bit"}, id="12bit"),
        pytest.param({"lr_dataset": "dataset/lr_dataset", "hr_dataset": "dataset/hr_dataset"}, id="a level deeper"),
    ],
)
def test_every_layout_gives_the_same_store(made: Made, tmp_path: Path, moved: dict[str, str]) -> None:
    root = made(products=("l2a", "hr_rgbn"))
    convert(root, tmp_path / "plain")
    for old, new in moved.items():
        (root / old).rename(root / "moving")
        (root / new).parent.mkdir(exist_ok=True, parents=True)
        (root / "moving").rename(root / new)
    convert(root, tmp_path / "moved")
    assert same_store(tmp_path / "plain", tmp_path / "moved")


def test_the_archives_of_v1_are_to_be_unpacked_and_the_error_says_so(tmp_path: Path) -> None:
    (tmp_path / "hr_dataset.tar.gz").write_bytes(b"\x1f\x8b")
    with pytest.raises(CatalogError, match=r"unpack other archives into a folder first"):
        eocube.open_corpus("worldstrat", str(tmp_path / "hr_dataset.tar.gz"))
    with pytest.raises(CatalogError, match=r"No WorldStrat area .*hr_dataset\.tar\.gz"):
        eocube.open_corpus("worldstrat", str(tmp_path))


def test_metadata_of_v1_whose_first_column_has_no_name_tells_the_same(tmp_path: Path) -> None:
    found = []
    for release in ("zenodo-v1", "zenodo-v1.1"):
        root = write_worldstrat(tmp_path / release, sites=2, revisits=2, release=release, **LIGHT)
        convert(root, tmp_path / f"s-{release}", split="leak_safe")
        found.append((root / "metadata.csv").read_text().split(",")[0])
    assert found == ["", "tile"]
    assert same_store(tmp_path / "s-zenodo-v1", tmp_path / "s-zenodo-v1.1")


# ------------------------------------------------------------------------------------------------ numbers and masks


def test_masks_that_lie_on_disk_as_floats_become_bytes_with_flags(made: Made, tmp_path: Path) -> None:
    root = made(side_files=("CLM", "CLP", "dataMask"), products=("l2a",))
    for kind in ("CLM", "CLP", "dataMask"):
        with rasterio.open(lr_file(root, kind)) as file:
            assert file.dtypes == ("float32",)
    convert(root, tmp_path / "s")
    cube = stored(tmp_path / "s", "l2a")
    assert {str(cube[name].dtype) for name in ("clm", "valid")} == {"uint8"}
    assert str(cube["clp"].dtype) == "uint16"
    assert cube["clm"].attrs["flag_meanings"] == "clear cloud no_data"
    assert "_FillValue" not in cube["clm"].attrs


def test_a_cloud_mask_of_255_stays_no_decision(made: Made, tmp_path: Path) -> None:
    root = made(defects=("clm-255",), products=("l2a",))
    convert(root, tmp_path / "s")
    cube = stored(tmp_path / "s", "l2a")
    n = int(planted_defects(root)["clm-255"][0].rsplit("-", 1)[1])
    (t,) = np.flatnonzero(cube["n"].values == n)
    assert (cube["clm"].values[t, :16, :16] == CLM_NONE).all()
    assert (cube["clm"].values[t, 16:] <= 1).all()


def test_pixels_that_the_data_mask_denies_are_not_valid(made: Made, tmp_path: Path) -> None:
    root = made(defects=("no-data-pixels",), products=("l2a",), side_files=("dataMask",))
    convert(root, tmp_path / "s")
    cube = stored(tmp_path / "s", "l2a")
    n = int(planted_defects(root)["no-data-pixels"][0].rsplit("-", 1)[1])
    (t,) = np.flatnonzero(cube["n"].values == n)
    assert not cube["valid"].values[t, :, -10:].any()
    assert cube["valid"].values[t, :, :-10].all()
    assert cube["valid"].values[1 - t].all()


def test_a_float_that_is_no_number_is_no_data(made: Made, tmp_path: Path) -> None:
    root = made(products=("l2a",), side_files=())

    def holed(pixels: Any) -> Any:
        pixels[:, 3, 4] = np.nan
        return pixels

    rewrite(lr_file(root, "L2A_data"), holed)
    convert(root, tmp_path / "s")
    cube = stored(tmp_path / "s", "l2a")
    (t,) = np.flatnonzero(cube["n"].values == 1)
    assert (cube["data"].values[t, :, 3, 4] == FILL).all()
    assert (cube["data"].values == FILL).sum() == 12
    assert np.isnan(eocube.to_reflectance(cube)["data"].values[t, :, 3, 4]).all()


def test_numbers_above_twelve_bits_and_above_one_are_kept(made: Made, tmp_path: Path) -> None:
    """The folder is called 12bit, and the corpus's own package cuts at 10,000."""
    root = made(defects=("bright-values",), products=("hr_ps", "hr_pan", "hr_rgbn", "l2a"))
    convert(root, tmp_path / "s")
    for product, most in (("hr_ps", 20_877), ("hr_pan", 17_090), ("hr_rgbn", 13_836)):
        cube = stored(tmp_path / "s", product)
        assert int(cube["data"].values.max()) == most
        assert float(eocube.to_reflectance(cube)["data"].max()) == pytest.approx(most / 10_000)


def test_images_without_a_geotransform_lie_on_the_areas_bounds(made: Made, tmp_path: Path) -> None:
    root = made()
    convert(root, tmp_path / "s")
    low, high = (stored(tmp_path / "s", p) for p in ("l2a", "hr_rgbn"))
    np.testing.assert_allclose(high.rio.bounds(), low.rio.bounds(), atol=1e-9)
    assert high.rio.crs == low.rio.crs == "EPSG:4326"
    assert high.rio.shape == (263, 263)
    assert 150 <= min(low.rio.shape) <= max(low.rio.shape) <= 166


def test_bands_are_asked_for_by_name_and_are_the_files_own(made: Made, tmp_path: Path) -> None:
    """Others' code takes B05, B04, B03 for red, green, blue."""
    root = made(products=("l2a", "l1c", "hr_rgbn"), revisits=1, side_files=())
    convert(root, tmp_path / "s")
    with rasterio.open(lr_file(root, "L2A_data")) as file:
        bands = np.rint(file.read().astype("f8") * 10_000)
    cube = stored(tmp_path / "s", "l2a")
    for name, number in (("blue", 2), ("green", 3), ("red", 4), ("nir", 8), ("nir08", 9), ("swir16", 11), ("swir22", 12)):
        np.testing.assert_array_equal(cube["data"].sel(band=name).values[0], bands[number - 1])
    assert [b.eo_name for b in BANDS["l1c"]][9:12] == ["B09", "B10", "B11"]
    assert stored(tmp_path / "s", "hr_rgbn")["band"].values.tolist() == ["red", "green", "blue", "nir"]


def test_cloud_cover_says_that_it_is_of_the_whole_product(made: Made, tmp_path: Path) -> None:
    convert(made(), tmp_path / "s")
    assert "whole Sentinel-2 product" in stored(tmp_path / "s", "l2a")["cloud_cover"].attrs["long_name"]


@pytest.mark.parametrize(
    ("kind", "change", "says"),
    [
        pytest.param("L2A_data", lambda p: (p * 1e4).astype("uint16"), "its pixels are uint16, expected float32", id="integers"),
        pytest.param("L2A_data", lambda p: p[:11], "it has 11 bands, l2a has 12", id="a band less"),
        pytest.param("L2A_data", lambda p: p - np.float32(1), "no whole number of 1/10000", id="below zero"),
        pytest.param("CLM", lambda p: p + np.float32(0.5), "no whole numbers from 0 to 255", id="half a class"),
        pytest.param("CLM", lambda p: p * np.float32(np.nan), "no whole numbers from 0 to 255", id="a class that is no number"),
    ],
)
def test_a_file_with_other_numbers_than_the_corpus_has_is_refused_by_name(
    made: Made, tmp_path: Path, kind: str, change: Callable[[Any], Any], says: str
) -> None:
    root = made(products=("l2a",), side_files=("CLM",))
    rewrite(lr_file(root, kind), change)
    with pytest.raises(AssetReadError, match=says) as caught:
        convert(root, tmp_path / "s")
    assert lr_file(root, kind).name in str(caught.value)


# ------------------------------------------------------------------------------------------------ places and dates


def test_bounds_that_contradict_the_files_are_refused_with_both_places(made: Made, tmp_path: Path) -> None:
    root = made(defects=("bounds-off",), products=("l2a",))
    with pytest.raises(AssetReadError, match=r"L2A_data\.tiff.*it lies at .* the area at") as caught:
        convert(root, tmp_path / "s")
    west = opened(root).sites[0].geobox.boundingbox.left
    assert f"{west}" in str(caught.value)


def test_without_bounds_in_the_table_the_files_say_where_areas_lie(made: Made, tmp_path: Path) -> None:
    convert(made(), tmp_path / "with")
    shutil.rmtree(tmp_path / "c")
    convert(made(defects=("no-bounds",)), tmp_path / "without")
    for product in ("l2a", "hr_rgbn"):
        told, found = (stored(tmp_path / s, product).rio.bounds() for s in ("with", "without"))
        np.testing.assert_allclose(found, told, atol=1e-9)


def test_a_revisit_without_json_has_the_day_of_the_table(made: Made, tmp_path: Path) -> None:
    root = made(defects=("no-json",), products=("l2a",))
    convert(root, tmp_path / "s")
    cube = stored(tmp_path / "s", "l2a")
    n = int(Path(planted_defects(root)["no-json"][0]).stem.rsplit("-", 1)[1])
    with (root / "metadata.csv").open() as file:
        (day,) = [row["lowres_date"] for row in csv.DictReader(file) if row["n"] == str(n)]
    (t,) = np.flatnonzero(cube["n"].values == n)
    assert cube["time"].values[t] == np.datetime64(day)
    assert cube["time"].values[1 - t] != cube["time"].values[1 - t].astype("M8[D]"), "the other one has its second"


def test_two_revisits_of_one_day_are_two_dates(made: Made, tmp_path: Path) -> None:
    root = made(products=("l2a",), revisits=3)
    for path in root.rglob("*.metadata"):
        path.unlink()
    rows = list(csv.reader((root / "metadata.csv").read_text().splitlines()))
    at = rows[0].index("lowres_date")
    for row in rows[1:]:
        row[at] = "2019-07-20"
    with (root / "metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    convert(root, tmp_path / "s")
    times = stored(tmp_path / "s", "l2a")["time"].values
    assert len(np.unique(times)) == 3
    assert set(times.astype("M8[D]")) == {np.datetime64("2019-07-20")}


def test_a_broken_json_without_a_table_ends_in_its_name(made: Made, tmp_path: Path) -> None:
    root = made(defects=("bad-json",), products=("l2a",))
    (root / "metadata.csv").unlink()
    with pytest.raises(CatalogError, match=Path(planted_defects(root)["bad-json"][0]).name.replace(".", r"\.")):
        convert(root, tmp_path / "s")


def test_a_conflicting_json_counts_and_the_note_says_so(made: Made, tmp_path: Path) -> None:
    root = made(defects=("date-conflict",), products=("l2a",))
    assert "date-conflict" not in {n.kind for n in opened(root).notes}, "nothing was opened yet"
    convert(root, tmp_path / "s")
    n = int(planted_defects(root)["date-conflict"][0].rsplit("-", 1)[1])
    with (root / "metadata.csv").open() as file:
        (day,) = [row["lowres_date"] for row in csv.DictReader(file) if row["n"] == str(n)]
    cube = stored(tmp_path / "s", "l2a")
    (t,) = np.flatnonzero(cube["n"].values == n)
    assert cube["time"].values[t].astype("M8[D]") == np.datetime64(day) + 2


# ------------------------------------------------------------------------------------------------ splits


def test_a_tile_in_two_published_splits_is_held_out_and_one_in_none_has_none(tmp_path: Path) -> None:
    root = write_worldstrat(tmp_path / "c", sites=6, revisits=1, defects=("split-repeats", "not-in-split"), **LIGHT)
    corpus = opened(root, split="published")
    planted = planted_defects(root)
    report = corpus.split_report
    assert set(report.repeated) == set(planted["split-repeats"])
    assert report.leaking
    splits = {s.name: s.split for s in corpus.sites}
    for tile, several in report.leaking.items():
        assert "train" in several
        assert splits[tile] in {"val", "test"}
        assert any(tile in name for n in corpus.notes if n.kind == "leaking-tile" for name in n.names)
    assert [splits[t] for t in planted["not-in-split"]] == [None]
    safe = opened(root, split="leak_safe")
    assert None not in {s.split for s in safe.sites}
    assert safe.split_report.leaking == {}
