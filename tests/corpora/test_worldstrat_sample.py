"""The synthetic WorldStrat has the true layout to the letter, says that it is synthetic, and has the defects it was asked for."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import warnings
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

rasterio = pytest.importorskip("rasterio")

from rasterio.transform import from_bounds  # noqa: E402

from eocube.corpora.worldstrat_areas import lr_shape_yx, read_sample_areas  # noqa: E402
from eocube.corpora.worldstrat_files import ORPHAN, SIDE_KINDS, compare_with_tables, find_files  # noqa: E402
from eocube.corpora.worldstrat_sample import DEFECTS, L1C_BANDS, PRODUCTS, planted_defects, write_worldstrat  # noqa: E402
from eocube.corpora.worldstrat_tables import (  # noqa: E402
    merge_revisit,
    published_split,
    read_metadata,
    read_revisit_json,
    read_split,
)
from eocube.errors import ArgumentError, StoreWriteError, UnknownNameError  # noqa: E402


class Found(NamedTuple):
    path: str
    size: int


def files_of(folder):
    return [Found(p.relative_to(folder).as_posix(), p.stat().st_size) for p in folder.rglob("*") if p.is_file()]


def sorted_files(folder):
    return find_files(files_of(folder))


def notes_of(folder):
    return {(note.kind, note.area): note.names for note in sorted_files(folder).notes}


def read(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path) as file:
            return file.read(), file.profile


def digest_of(folder):
    whole = hashlib.sha256()
    for file in sorted(files_of(folder)):
        whole.update(file.path.encode() + (folder / file.path).read_bytes())
    return whole.hexdigest()


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Four areas, two revisits, all products of Zenodo v1.1."""
    return write_worldstrat(tmp_path_factory.mktemp("plain") / "ws", sites=4, revisits=2)


LIGHT: dict[str, Any] = {"products": ("l2a", "hr_rgbn"), "side_files": ("CLM", "CLP", "dataMask")}


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory):
    """All defects at once, on ten areas and three revisits."""
    folder = tmp_path_factory.mktemp("spoilt") / "ws"
    return write_worldstrat(folder, sites=10, revisits=3, release="zenodo-v1", products=set(PRODUCTS) - {"l1c"}, defects=DEFECTS)


def test_the_readme_says_first_of_all_that_it_is_synthetic(plain):
    text = (plain / "README.txt").read_text()
    assert text.startswith("SYNTHETIC. This is not WorldStrat")
    assert "Contains modified Copernicus Sentinel data 2015-2021" in text
    assert "CC BY 4.0" in text


def test_four_areas_hold_all_sources_and_nothing_is_odd(plain):
    files = sorted_files(plain)
    areas, odd = read_metadata((plain / "metadata.csv").read_bytes())
    assert {areas[name].source for name in files.areas} == {"Landcover", "UNHCR", "Amnesty", "ASMSpotter"}
    assert (files.notes, odd, compare_with_tables(files.areas, areas)) == ((), (), ())
    assert files.unknown == ("README.txt",)
    for area in files.areas.values():
        assert list(area.hr) == ["hr_ps", "hr_pan", "hr_rgbn", "hr_rgb"]
        assert {product: len(revisits) for product, revisits in area.lr.items()} == {"l2a": 2, "l1c": 2}
        assert set(area.lr["l1c"][1].sides) == set(SIDE_KINDS)


@pytest.mark.filterwarnings("error")
def test_high_resolution_has_the_true_shapes_and_no_geotransform(plain):
    area = next(iter(sorted_files(plain).areas.values()))
    shapes = {"hr_ps": (4, 1054, 1054), "hr_pan": (1, 1054, 1054), "hr_rgbn": (4, 263, 263), "hr_rgb": (3, 1054, 1054)}
    for product, shape in shapes.items():
        data, profile = read(plain / area.hr[product].path)
        assert data.shape == shape
        assert data.dtype == ("uint8" if product == "hr_rgb" else "uint16")
        assert profile["nodata"] is None
        if product != "hr_rgb":
            assert profile["crs"] == "EPSG:4326"
            assert profile["transform"].is_identity
            with pytest.warns(rasterio.errors.NotGeoreferencedWarning):
                rasterio.open(plain / area.hr[product].path).close()
            assert data.min() > 0


def test_low_resolution_lies_on_the_bounds_in_float32_multiples_of_a_ten_thousandth(plain):
    areas, _ = read_metadata((plain / "metadata.csv").read_bytes())
    for area in sorted_files(plain).areas.values():
        bounds = areas[area.name].bounds
        assert bounds is not None
        height, width = lr_shape_yx(bounds)
        for product, count in (("l2a", 12), ("l1c", 13)):
            data, profile = read(plain / area.lr[product][0].data.path)
            assert (data.shape, data.dtype) == ((count, height, width), np.float32)
            assert profile["crs"] == "EPSG:4326"
            assert profile["transform"].almost_equals(from_bounds(*bounds, width, height), precision=1e-12)
            assert profile["nodata"] is None
            dn = np.rint(data.astype(np.float64) * 10_000)
            assert np.array_equal((dn / 10_000).astype(np.float32), data)
            assert dn.min() > 0
            assert dn.max() < 20_000


def test_masks_are_float32_with_the_numbers_that_they_have_on_disk(plain):
    for area in sorted_files(plain).areas.values():
        for revisit in area.lr["l2a"]:
            shape = read(plain / revisit.data.path)[0].shape[1:]
            sides = {kind: read(plain / file.path)[0] for kind, file in revisit.sides.items()}
            assert {data.dtype for data in sides.values()} == {np.dtype("float32")}
            assert {data.shape for data in sides.values()} == {(1, *shape)}
            assert set(np.unique(sides["CLM"])) <= {0, 1}
            assert sides["CLP"].max() <= 252
            assert np.array_equal(sides["CLP"], sides["CLP"].round())
            assert (sides["dataMask"] == 1).all()
            assert 0 < sides["sunZenithAngles"].mean() < 90


def test_high_and_low_resolution_show_the_same_ground(plain):
    area = sorted_files(plain).areas["Landcover-572052"]
    hr, lr = read(plain / area.hr["hr_ps"].path)[0][0].astype(float), read(plain / area.lr["l2a"][0].data.path)[0][3]
    index = [(np.linspace(0, 1054, n + 1)).round().astype(int) for n in lr.shape]
    mean = np.add.reduceat(np.add.reduceat(hr, index[0][:-1], axis=0), index[1][:-1], axis=1)
    clear = read(plain / area.lr["l2a"][0].sides["CLP"].path)[0][0] < 50
    assert clear.mean() > 0.5
    assert np.corrcoef(mean[clear], lr[clear])[0, 1] > 0.9


def test_the_tables_and_the_json_agree(plain):
    areas, _ = read_metadata((plain / "metadata.csv").read_bytes())
    for area in sorted_files(plain).areas.values():
        facts = areas[area.name]
        assert list(facts.revisits) == list(range(1, 17))
        for revisit in area.lr["l2a"]:
            assert revisit.metadata is not None
            own = read_revisit_json((plain / revisit.metadata.path).read_bytes(), revisit.n, where="x")
            merged, differs = merge_revisit(facts.revisits[revisit.n], own)
            assert merged is not None
            assert not differs
            assert not merged.is_day
            assert facts.hr_date is not None
            assert merged.acquired is not None
            assert merged.delta_days == (merged.acquired.date() - facts.hr_date).days


def test_the_rank_of_a_revisit_is_not_its_order_in_time(plain):
    areas, _ = read_metadata((plain / "metadata.csv").read_bytes())
    dates = [facts.acquired for facts in next(iter(areas.values())).revisits.values() if facts.acquired]
    assert len(set(dates)) == 16
    assert dates != sorted(dates)


def test_releases_differ_where_the_real_ones_do(tmp_path):
    v1 = write_worldstrat(tmp_path / "v1", sites=1, revisits=1, release="zenodo-v1", **LIGHT)
    kaggle = write_worldstrat(tmp_path / "kaggle", sites=1, revisits=16, release="kaggle", products=("l2a", "l1c", "hr_rgbn"))
    assert (v1 / "metadata.csv").read_text().startswith(",n,")
    area = sorted_files(kaggle).areas["Landcover-572052"]
    assert area.hr["hr_rgbn"].path == "hr_dataset/12bit/Landcover-572052/Landcover-572052_rgbn.tiff"
    assert list(area.lr) == ["l2a"]
    assert len(area.lr["l2a"]) == 8
    counts = Counter(kind for revisit in area.lr["l2a"] for kind in revisit.sides)
    assert counts["CLM"] == counts["viewZenithMean"] == 8
    assert 0 < counts["viewAzimuthMean"] < 8
    assert "sunZenithAngles" not in counts


def test_tiles_of_one_order_adjoin_on_one_ground(tmp_path):
    folder = write_worldstrat(tmp_path / "ws", sites=8, revisits=1, products=("hr_rgbn",), side_files=())
    south, north = (read(folder / sorted_files(folder).areas[f"ASMSpotter-1-1-{j}"].hr["hr_rgbn"].path)[0][0] for j in (2, 3))
    step = np.abs(np.diff(north.astype(int), axis=0)).mean()
    seam = np.abs(south[0].astype(int) - north[-1]).mean()
    assert seam < 2 * step
    assert np.abs(south[0].astype(int) - north[0]).mean() > 2 * step


def test_equal_arguments_write_equal_bytes_and_a_seed_is_another_corpus(tmp_path):
    folders = [write_worldstrat(tmp_path / f"{k}", sites=1, revisits=1, seed=seed, **LIGHT) for k, seed in enumerate((0, 0, 1))]
    digests = [digest_of(folder) for folder in folders]
    assert digests[0] == digests[1] != digests[2]


def test_archives_hold_the_same_files(tmp_path):
    settings: dict[str, Any] = {"sites": 1, "revisits": 1, "products": ("l2a", "l1c", "hr_rgbn"), "side_files": ("CLM",)}
    loose, zipped = write_worldstrat(tmp_path / "a", **settings), write_worldstrat(tmp_path / "b", zipped=True, **settings)
    assert {p.name for p in zipped.iterdir()} == {
        *("hr_dataset.zip", "lr_dataset_l1c.zip", "lr_dataset_l2a.zip", "metadata.csv", "README.txt"),
        "stratified_train_val_test_split.csv",
    }
    members = {}
    for path in zipped.glob("*.zip"):
        with zipfile.ZipFile(path) as archive:
            members |= {name: archive.read(name) for name in archive.namelist()}
    assert members == {f.path: (loose / f.path).read_bytes() for f in files_of(loose) if "_dataset/" in f.path}
    kaggle = write_worldstrat(tmp_path / "c", zipped=True, release="kaggle", **settings)
    with zipfile.ZipFile(kaggle / "archive.zip") as archive:
        assert "metadata.csv" in archive.namelist()
    with pytest.raises(ArgumentError, match=r"tar\.gz"):
        write_worldstrat(tmp_path / "d", zipped=True, release="zenodo-v1", **settings)


def test_the_folder_one_stands_in_can_become_the_sample(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_worldstrat(".", sites=1, revisits=1, **LIGHT)
    assert (tmp_path / "README.txt").is_file()
    assert not [p.name for p in tmp_path.iterdir() if p.name.startswith(".")]
    write_worldstrat(".", sites=1, revisits=1, **LIGHT)


def test_a_sample_that_stands_is_left_and_anything_else_is_not_touched(tmp_path):
    first = write_worldstrat(tmp_path / "ws", sites=1, revisits=1, **LIGHT)
    before = digest_of(first)
    (first / "mine").write_text("kept")
    write_worldstrat(tmp_path / "ws", sites=1, revisits=1, **LIGHT)
    assert (first / "mine").read_text() == "kept"
    with pytest.raises(StoreWriteError, match="something else"):
        write_worldstrat(tmp_path / "ws", sites=1, revisits=2, **LIGHT)
    (first / "mine").unlink()
    assert digest_of(first) == before
    assert [p.name for p in tmp_path.iterdir()] == ["ws"], "no staging folder stays"


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"products": ["l3"]}, UnknownNameError),
        ({"defects": ["rust"]}, UnknownNameError),
        ({"side_files": ["SCL"]}, UnknownNameError),
        ({"release": "v2"}, UnknownNameError),
        ({"sites": 0}, ArgumentError),
        ({"sites": 5000}, ArgumentError),
        ({"revisits": 17}, ArgumentError),
        ({"defects": ["hr-without-lr"]}, ArgumentError),
        ({"defects": ["missing-hr-file"]}, ArgumentError),
        ({"defects": ["empty-file", "missing-revisit"], "revisits": 1}, ArgumentError),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_nothing(tmp_path, changes, error):
    with pytest.raises(error):
        write_worldstrat(tmp_path / "ws", **({"sites": 1, "revisits": 2, **LIGHT} | changes))
    assert list(tmp_path.iterdir()) == []


def test_every_defect_is_planted_and_said(spoilt):
    assert set(planted_defects(spoilt)) == set(DEFECTS)


def test_defects_of_whole_areas_are_found_by_name(spoilt):
    planted, notes = planted_defects(spoilt), notes_of(spoilt)
    assert notes["hr-without-lr", ""] == ("ASMSpotter-1-1-1",) == tuple(planted["hr-without-lr"])
    assert notes["lr-without-hr", ""] == tuple(planted["lr-without-hr"])
    assert notes["orphan-folder", ""] == (ORPHAN,)
    areas, _ = read_metadata((spoilt / "metadata.csv").read_bytes())
    (missing,) = compare_with_tables(sorted_files(spoilt).areas, areas)
    assert (missing.kind, list(missing.names)) == ("missing-tile", planted["missing-tile"])
    assert " " in planted["names-with-spaces"][0]
    assert planted["names-with-spaces"][0] in sorted_files(spoilt).areas


def test_defects_of_files_are_found_by_name(spoilt):
    planted, files, notes = planted_defects(spoilt), sorted_files(spoilt), notes_of(spoilt)
    assert notes["empty-file", ""] == tuple(planted["empty-file"])
    assert set(notes["duplicate-file", ""]) == set(planted["duplicate-file"])
    assert len(planted["duplicate-file"]) == 4
    assert {Path(path).parent.name for path in planted["missing-hr-file"]} == {
        area for kind, area in notes if kind == "missing-hr-file"
    }
    for kind, defect in (("missing-revisit", "missing-revisit"), ("revisit-without-data", "revisit-without-data")):
        ((label, names),) = [(area, names) for (found, area), names in notes.items() if found == kind]
        assert all(f"{label.removesuffix(' L2A')}-{names[0]}" in path for path in planted[defect])
    assert {name for (kind, _), names in notes.items() if kind == "missing-side-file" for name in names} >= {
        Path(path).stem for path in planted["missing-side-files"]
    }
    assert set(planted["unknown-file"]) <= set(files.unknown)


def test_a_truncated_file_cannot_be_read(spoilt):
    (path,) = planted_defects(spoilt)["truncated-file"]
    with pytest.raises(rasterio.errors.RasterioError):
        read(spoilt / path)


def test_defects_of_pixels_are_where_they_are_said(spoilt):
    planted = planted_defects(spoilt)
    assert {Path(path).name.rsplit("_", 1)[1] for path in planted["black-bars"]} == {
        "ps.tiff",
        "pan.tiff",
        "rgbn.tiff",
        "rgb.png",
    }
    for path in planted["black-bars"]:
        data, width = read(spoilt / path)[0], 1 if "rgbn" in path else 4
        assert (data[:, :width] == 0).all()
        assert (data[:, :, :width] == 0).all()
        assert (data[0, width:, width:] > 0).all()
    (off,) = planted["off-grid-value"]
    scaled = read(spoilt / f"{off}-L2A_data.tiff")[0].astype(np.float64) * 10_000
    assert list(zip(*np.nonzero(np.abs(scaled - scaled.round()) > 0.02), strict=True)) == [(3, 5, 7)]
    (clm,) = planted["clm-255"]
    assert (read(spoilt / f"{clm}-CLM.tiff")[0] == 255).sum() == 256
    (gap,) = planted["no-data-pixels"]
    data, valid = read(spoilt / f"{gap}-L2A_data.tiff")[0], read(spoilt / f"{gap}-dataMask.tiff")[0][0] == 1
    assert np.array_equal(valid, (data != 0).all(axis=0))
    assert (~valid).sum() == 10 * valid.shape[0]


def test_defects_of_json_and_tables_are_found(spoilt):
    planted = planted_defects(spoilt)
    with pytest.raises(json.JSONDecodeError):
        json.loads((spoilt / planted["bad-json"][0]).read_bytes())
    areas, _ = read_metadata((spoilt / "metadata.csv").read_bytes())
    assert {facts.bounds for facts in areas.values()} == {None}
    name, n = Path(planted["date-conflict"][0]).name.rsplit("-", 1)
    own = read_revisit_json((spoilt / f"{planted['date-conflict'][0]}.metadata").read_bytes(), int(n), where="x")
    assert merge_revisit(areas[name].revisits[int(n)], own)[1]
    _, report = published_split(read_split((spoilt / "stratified_train_val_test_split.csv").read_bytes()))
    assert set(report.repeated) == set(planted["split-repeats"])
    assert len(report.leaking) == len(report.repeated) - 1 > 0


def test_bounds_that_are_off_contradict_the_files(tmp_path):
    folder = write_worldstrat(tmp_path / "ws", sites=2, revisits=1, products=["l2a"], side_files=[], defects=["bounds-off"])
    areas, _ = read_metadata((folder / "metadata.csv").read_bytes())
    found = {}
    for area in sorted_files(folder).areas.values():
        bounds = areas[area.name].bounds
        assert bounds is not None
        found[area.name] = round(bounds[0] - read(folder / area.lr["l2a"][0].data.path)[1]["transform"].c, 6)
    assert {name for name, off in found.items() if off} == set(planted_defects(folder)["bounds-off"])
    assert sorted(found.values()) == [0, 0.001]


def test_one_defect_alone_spoils_nothing_else(tmp_path):
    folder = write_worldstrat(tmp_path / "ws", sites=2, revisits=2, defects=["missing-revisit"], **LIGHT)
    assert [note.kind for note in sorted_files(folder).notes] == ["missing-revisit"]
    assert set(planted_defects(folder)) == {"missing-revisit"}


def test_areas_that_ship_are_real_and_in_the_true_patterns():
    areas = read_sample_areas()
    assert len(areas) == len({area.name for area in areas}) == 262
    assert Counter(area.source for area in areas) == {"Landcover": 90, "UNHCR": 90, "Amnesty": 46, "ASMSpotter": 36}
    assert areas[-1].name == ORPHAN
    assert sum(len(area.published) > 1 for area in areas) >= 11
    assert sum(len(set(area.published)) > 1 for area in areas) == 11
    shapes = [lr_shape_yx(area.bounds) for area in areas[:-1]]
    assert {150 <= side <= 166 for shape in shapes for side in shape} == {True}


def test_the_size_of_low_resolution_files_is_that_of_the_real_areas():
    folder = os.environ.get("EOCUBE_TEST_DATA")
    if not folder or not (Path(folder) / "worldstrat").is_dir():
        pytest.skip("EOCUBE_TEST_DATA names no folder with worldstrat/")
    with (Path(folder) / "worldstrat" / "dataset.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["area"] == "2.5"]
    counts = Counter(lr_shape_yx(tuple(json.loads(row["bounds"]))) for row in rows)
    assert len(rows) == 3389
    assert len(counts) == 34
    # counted on the same bounds by somebody else's program
    expected = [(158, 158), (157, 159), (159, 157), (156, 160), (160, 156), (161, 155), (155, 161)]
    assert [counts[shape] for shape in expected] == [546, 457, 394, 239, 224, 178, 165]


def test_low_resolution_has_thirteen_bands_with_the_cirrus_band_before_the_last_two():
    assert L1C_BANDS[9:] == ("B09", "B10", "B11", "B12")
    assert len(L1C_BANDS) == 13
