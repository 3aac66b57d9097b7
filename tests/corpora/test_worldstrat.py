"""WorldStrat, file by file: pixels are rasterio's, dates are in order, and every known defect is handled or named."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.errors import NotGeoreferencedWarning
from typer.testing import CliRunner

import eocube
from eocube.cli import app
from eocube.corpora.protocol import Corpus
from eocube.corpora.worldstrat import WorldStratCorpus, WorldStratOptions
from eocube.corpora.worldstrat_sample import planted_defects, write_worldstrat
from eocube.corpora.worldstrat_source import CLM_NONE, FILL
from eocube.errors import AssetReadError, CatalogError, GridError, UnknownNameError
from eocube.model.recipe import whole
from eocube.testing.contracts_corpus import CorpusContract
from eocube.testing.stores import counting_server, index_rows, same_store

Made = Callable[..., Path]


class TestWorldStratIsACorpus(CorpusContract):
    @classmethod
    def make_corpus(cls, folder: Path) -> Corpus:
        return WorldStratCorpus.open(str(write_worldstrat(folder / "c", sites=2, revisits=3)))


@pytest.fixture
def made(tmp_path: Path) -> Made:
    def make(**asked: Any) -> Path:
        return write_worldstrat(tmp_path / "c", **{"sites": 1, "revisits": 3, "products": ("l2a", "hr_ps"), **asked})

    return make


def read_file(path: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path) as file:
            return file.read()


def test_bands_masks_and_angles_are_the_files_own(made: Made) -> None:
    corpus = WorldStratCorpus.open(str(made(products=("l2a", "l1c"))))
    (area,) = corpus.files.areas.values()
    for product in ("l2a", "l1c"):
        source, _ = corpus.source(area.name, product)
        arrays = source.read(whole(source.frame()))
        for i, revisit in enumerate(source.images):
            bands = read_file(revisit.data.place)
            assert np.abs(arrays["data"][i] / 10_000 - bands).max() < 1e-6
            assert (arrays["data"][i] < FILL).all()
            np.testing.assert_array_equal(arrays["clm"][i], read_file(revisit.sides["CLM"].place)[0])
            np.testing.assert_array_equal(arrays["clp"][i], read_file(revisit.sides["CLP"].place)[0])
            np.testing.assert_array_equal(arrays["valid"][i], read_file(revisit.sides["dataMask"].place)[0])
            for layer, kind in enumerate(("viewZenithMean", "viewAzimuthMean", "sunAzimuthAngles", "sunZenithAngles")):
                np.testing.assert_array_equal(arrays["angles"][i, layer], read_file(revisit.sides[kind].place)[0])


@pytest.mark.parametrize(("product", "edge_px"), [("hr_ps", 1054), ("hr_pan", 1054), ("hr_rgbn", 263)])
def test_images_are_the_files_own_and_lie_on_the_bounds(made: Made, product: str, edge_px: int) -> None:
    corpus = WorldStratCorpus.open(str(made(products=("l2a", product))))
    (area,) = corpus.files.areas.values()
    source, _ = corpus.source(area.name, product)
    np.testing.assert_array_equal(source.read(whole(source.frame()))["data"][0], read_file(area.hr[product].place))
    with rasterio.open(area.lr["l2a"][0].data.place) as lr:
        np.testing.assert_allclose(source.frame().geobox.boundingbox.bbox, lr.bounds, atol=1e-9)
    assert source.frame().shape_yx == (edge_px, edge_px)


def test_the_low_resolution_grid_is_the_files(made: Made) -> None:
    corpus = WorldStratCorpus.open(str(made(products=("l2a",))))
    (area,) = corpus.files.areas.values()
    box = corpus.source(area.name, "l2a")[0].frame().geobox
    with rasterio.open(area.lr["l2a"][0].data.place) as file:
        assert tuple(box.shape) == file.shape
        np.testing.assert_allclose(list(box.affine)[:6], list(file.transform)[:6], rtol=1e-9)


def test_dates_are_in_order_and_n_says_the_rank(made: Made) -> None:
    corpus = WorldStratCorpus.open(str(made(revisits=12, products=("l2a",))))
    (site,) = corpus.sites
    frame = corpus.source(site.name, "l2a")[0].frame()
    ranks = next(p.values for p in frame.per_time if p.name == "n")
    assert list(frame.time_ms) == sorted(frame.time_ms)
    assert sorted(ranks) == list(range(1, 13))
    assert list(ranks) != sorted(ranks), "ranks are not in the order of time"


def test_off_grid_values_are_refused_by_name_and_kept_with_float32(made: Made) -> None:
    root = made(defects=("off-grid-value",), products=("l2a",))
    corpus = WorldStratCorpus.open(str(root))
    name = corpus.sites[0].name
    source, _ = corpus.source(name, "l2a")
    with pytest.raises(AssetReadError, match=r"no whole number of 1/10000.*--float32"):
        source.read(whole(source.frame()))
    kept, _ = WorldStratCorpus.open(str(root), options=WorldStratOptions(float32=True)).source(name, "l2a")
    arrays = kept.read(whole(kept.frame()))
    assert arrays["data"].dtype == np.float32
    np.testing.assert_array_equal(arrays["data"][0], read_file(kept.images[0].data.place))


def test_black_bars_are_not_valid(made: Made) -> None:
    root = made(defects=("black-bars",), products=("hr_ps", "hr_rgbn", "l2a"))
    corpus = WorldStratCorpus.open(str(root))
    for product, width in (("hr_ps", 4), ("hr_rgbn", 1)):
        source, _ = corpus.source(corpus.sites[0].name, product)
        valid = source.read(whole(source.frame()))["valid"][0]
        assert not valid[:width].any()
        assert not valid[:, :width].any()
        assert valid[width:, width:].all()


def test_side_files_that_are_not_there_are_absent_and_masks_say_so(made: Made) -> None:
    corpus = WorldStratCorpus.open(str(made(defects=("missing-side-files",), products=("l2a",))))
    source, _ = corpus.source(corpus.sites[0].name, "l2a")
    arrays = source.read(whole(source.frame()))
    (lacking,) = [i for i, revisit in enumerate(source.images) if "CLM" not in revisit.sides]
    assert (arrays["clm"][lacking] == CLM_NONE).all()
    assert np.isnan(arrays["angles"][lacking]).all()
    assert "missing-side-file" in {note.kind for note in corpus.notes}


def test_a_revisit_that_is_not_there_is_no_date(made: Made) -> None:
    corpus = WorldStratCorpus.open(str(made(sites=2, revisits=4, products=("l2a",), defects=("missing-revisit",))))
    dates = sorted(len(corpus.source(s.name, "l2a")[0].frame().time_ms) for s in corpus.sites)
    assert dates == [3, 4]
    assert "missing-revisit" in {note.kind for note in corpus.notes}


@pytest.mark.parametrize("defect", ["truncated-file", "empty-file"])
def test_a_broken_file_ends_the_run_by_name_or_is_listed_and_healed(made: Made, tmp_path: Path, defect: str) -> None:
    root = made(defects=(defect,), products=("l2a",))
    corpus = eocube.open_corpus("worldstrat", str(root))
    (path,) = planted_defects(root)[defect]
    with pytest.raises(AssetReadError, match=Path(path).name.replace(".", r"\.")):
        eocube.convert(corpus, str(tmp_path / "a"), executor="serial")
    report = eocube.convert(corpus, str(tmp_path / "b"), executor="serial", errors="skip")
    assert [Path(row["href"]).name for row in report.failed] == [Path(path).name]
    assert [r["unfinished_regions"] for r in index_rows(tmp_path / "b")] == [1]


def test_every_defect_is_handled_or_noted_by_name(tmp_path: Path) -> None:
    noted = {
        "hr-without-lr": "hr-without-lr",
        "lr-without-hr": "lr-without-hr",
        "missing-tile": "missing-tile",
        "orphan-folder": "orphan-folder",
        "missing-hr-file": "missing-hr-file",
        "duplicate-file": "duplicate-file",
        "empty-file": "empty-file",
        "missing-side-files": "missing-side-file",
        "missing-revisit": "missing-revisit",
        "revisit-without-data": "revisit-without-data",
    }
    root = write_worldstrat(tmp_path / "c", sites=8, revisits=3, defects=tuple(noted))
    corpus = WorldStratCorpus.open(str(root))
    kinds = {note.kind for note in corpus.notes}
    assert set(noted.values()) <= kinds
    assert "testing on one Amnesty POI" not in {s.name for s in corpus.sites}


def test_names_with_spaces_are_cubes_with_slugs_and_found_by_their_own_name(made: Made, tmp_path: Path) -> None:
    root = made(sites=1, defects=("names-with-spaces",), products=("l2a",))
    eocube.convert(eocube.open_corpus("worldstrat", str(root)), str(tmp_path / "s"), executor="serial")
    (row,) = index_rows(tmp_path / "s")
    assert " " in row["site"]
    assert row["cube"] == row["site"].replace(" ", "_20")
    assert eocube.open_store(str(tmp_path / "s")).cube(row["site"], "l2a").sizes["time"] == 3
    before = row
    (tmp_path / "s" / "index.parquet").unlink()
    eocube.index(str(tmp_path / "s"))
    assert index_rows(tmp_path / "s") == [before], "a rebuilt index knows the name too"


def test_splits_and_orders_are_in_the_index(made: Made, tmp_path: Path) -> None:
    root = made(sites=6, revisits=1, products=("hr_rgbn", "l2a"))
    for split in ("published", "leak_safe"):
        corpus = eocube.open_corpus("worldstrat", str(root), split=split)
        eocube.convert(corpus, str(tmp_path / split), executor="serial", products=["l2a"])
        rows = index_rows(tmp_path / split)
        assert {r["split"] for r in rows} <= {"train", "val", "test"}
        assert all(r["group"] for r in rows)
        by_order: dict[str, set[str]] = {}
        for r in rows:
            by_order.setdefault(r["group"], set()).add(r["split"])
        if split == "leak_safe":
            assert all(len(found) == 1 for found in by_order.values())
    with pytest.raises(UnknownNameError, match="split"):
        eocube.open_corpus("worldstrat", str(root), split="mine")


@pytest.mark.parametrize("release", ["zenodo-v1.1", "kaggle"])
def test_archives_convert_as_folders_do(tmp_path: Path, release: str) -> None:
    asked: dict[str, Any] = {"sites": 2, "revisits": 2, "release": release, "products": ("l2a", "hr_ps")}
    unpacked, packed = (write_worldstrat(tmp_path / f"c{z}", zipped=bool(z), **asked) for z in (0, 1))
    assert list(packed.rglob("*.zip"))
    for root, store in ((unpacked, "a"), (packed, "b")):
        eocube.convert(eocube.open_corpus("worldstrat", str(root)), str(tmp_path / store), executor="serial")
    assert same_store(tmp_path / "a", tmp_path / "b")


def test_an_archive_behind_http_is_read_by_ranges(tmp_path: Path) -> None:
    root = write_worldstrat(tmp_path / "c", sites=2, revisits=2, products=("l2a",), zipped=True)
    with counting_server(root) as server:
        urls = [f"{server.url}/{p.relative_to(root)}" for p in sorted(root.rglob("*.zip"))]
        corpus = eocube.open_corpus("worldstrat", [*urls, *map(str, [_tables(root, tmp_path)])])
        site = corpus.corpus.sites[0].name
        eocube.convert(corpus, str(tmp_path / "http"), sites=[site], executor="serial")
        sent = server.bytes_sent
    assert sent < sum(p.stat().st_size for p in root.rglob("*.zip"))
    eocube.convert(eocube.open_corpus("worldstrat", str(root)), str(tmp_path / "local"), sites=[site], executor="serial")
    assert same_store(tmp_path / "http", tmp_path / "local")


def _tables(root: Path, tmp_path: Path) -> Path:
    """A folder with the tables alone."""
    folder = tmp_path / "tables"
    folder.mkdir()
    for path in root.glob("*.csv"):
        shutil.copy(path, folder)
    return folder


def test_nothing_of_worldstrat_is_refused_by_what_was_found(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"1")
    with pytest.raises(CatalogError, match=r"No WorldStrat area.*holiday\.jpg"):
        eocube.open_corpus("worldstrat", str(tmp_path))


def test_an_area_without_place_says_what_is_missing(made: Made) -> None:
    corpus = WorldStratCorpus.open(str(made(products=("hr_ps",), defects=("no-bounds",))))
    with pytest.raises(ValueError, match=r"Where area .* lies is not known.*metadata\.csv"):
        _ = corpus.sites


def test_areas_without_place_are_noted_and_left_out(made: Made) -> None:
    root = made(sites=2, revisits=1, products=("l2a", "hr_ps"), defects=("no-bounds",))
    first, second = (site.name for site in WorldStratCorpus.open(str(root)).sites)
    for folder in root.rglob(first):
        if "lr_dataset" in folder.parts:
            shutil.rmtree(folder)
    for options in (None, WorldStratOptions(bbox=(-180.0, -90.0, 180.0, 90.0))):
        corpus = WorldStratCorpus.open(str(root), options=options)
        assert [site.name for site in corpus.sites] == [second]
        assert [note.names for note in corpus.notes if note.kind == "unplaced-area"] == [(first,)]
    with pytest.raises(GridError, match=f"Where area {first!r} lies is not known"):
        WorldStratCorpus.open(str(root)).source(first, "hr_ps")


def test_a_box_and_a_time_choose_areas_and_revisits(made: Made) -> None:
    root = str(made(sites=3, revisits=4, products=("l2a",)))
    everything = eocube.open_corpus("worldstrat", root)
    west, south, east, north = everything.corpus.sites[1].geobox.boundingbox.bbox
    some = eocube.open_corpus("worldstrat", root, bbox=(west, south, east, north))
    assert [s.name for s in some.corpus.sites] == [everything.corpus.sites[1].name]
    name = some.corpus.sites[0].name
    times = everything.cube(name, "l2a")["time"].values
    first = str(times[1].astype("M8[D]"))
    later = eocube.open_corpus("worldstrat", root, time=f"{first}/..")
    np.testing.assert_array_equal(later.cube(name, "l2a")["time"].values, times[times >= np.datetime64(first)])


def test_an_image_or_a_mask_that_cannot_be_read_is_not_valid(made: Made, tmp_path: Path) -> None:
    root = made(revisits=2, products=("l2a", "hr_rgbn"))
    broken = [*root.glob("hr_dataset/*/*_rgbn.tiff"), *root.glob("lr_dataset/*/L2A/*-1-dataMask.tiff")]
    assert len(broken) == 2
    for path in broken:
        path.write_bytes(path.read_bytes()[:300])
    corpus = eocube.open_corpus("worldstrat", str(root))
    eocube.convert(corpus, str(tmp_path / "s"), executor="serial", errors="skip")
    rows = {r["product"]: r for r in index_rows(tmp_path / "s")}
    store = eocube.open_store(str(tmp_path / "s"))
    with pytest.warns(UserWarning, match="could not be read"):
        high, low = (store.cube(rows[p]["site"], p, chunks=None) for p in ("hr_rgbn", "l2a"))
    assert not high["valid"].values.any()
    assert rows["hr_rgbn"]["clear_fraction"] == 0
    assert [bool(v.any()) for v in low["valid"].values] == [n != 1 for n in low["n"].values]


def test_valid_is_the_same_however_it_is_asked_for_and_1_without_a_data_mask(made: Made) -> None:
    root = made(revisits=2, products=("l2a",))
    for path in root.glob("lr_dataset/*/L2A/*-1-*.tiff"):
        if not path.name.endswith("_data.tiff"):
            path.unlink()
    (path,) = root.glob("lr_dataset/*/L2A/*-1-L2A_data.tiff")
    with rasterio.open(path) as src:
        pixels, profile = src.read(), src.profile
    pixels[:, :5] = 0
    with rasterio.open(path, "w", **profile) as out:
        out.write(pixels)
    corpus = WorldStratCorpus.open(str(root))
    source, _ = corpus.source(corpus.sites[0].name, "l2a")
    window = whole(source.frame())
    together, alone = source.read(window)["valid"], source.read(window, names=("valid",))["valid"]
    np.testing.assert_array_equal(together, alone)
    (bare,) = [i for i, revisit in enumerate(source.images) if not revisit.sides]
    assert together[bare].all()


def test_areas_and_images_outside_the_time_are_passed_by(made: Made, tmp_path: Path) -> None:
    root = made(sites=3, revisits=2, products=("l2a", "hr_rgbn"))
    corpus = WorldStratCorpus.open(str(root))
    times = {(s.name, p): corpus.source(s.name, p)[0].frame().time_ms for s in corpus.sites for p in s.products}
    ms = min(found[0] for (_, product), found in times.items() if product == "l2a")
    day = np.datetime64(ms, "ms").astype("M8[D]")
    first, last = (int(d.astype("M8[ms]").astype(int)) for d in (day, day + 1))
    expected = {key for key, found in times.items() if any(first <= one < last for one in found)}
    assert len({name for name, _ in expected}) < 3
    words = ["convert", "worldstrat", str(root), str(tmp_path / "s"), "--time", f"{day}/{day}", "--cluster", "serial"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert {(r["site"], r["product"]) for r in index_rows(tmp_path / "s")} == expected
    some = WorldStratCorpus.open(str(root), options=WorldStratOptions(time_ms=(first, last)))
    missing = next(key for key in times if key not in expected)
    with pytest.raises(UnknownNameError, match="within the time asked for"):
        some.source(*missing)


def test_a_cloud_probability_that_is_absent_or_broken_is_not_known(made: Made) -> None:
    root = made(revisits=3, products=("l2a",))
    next(root.glob("lr_dataset/*/L2A/*-1-CLP.tiff")).unlink()
    next(root.glob("lr_dataset/*/L2A/*-2-CLP.tiff")).write_bytes(b"II*")
    corpus = WorldStratCorpus.open(str(root))
    source, _ = corpus.source(corpus.sites[0].name, "l2a")
    failed: list[AssetReadError] = []
    arrays = source.read(whole(source.frame()), on_error=failed.append)
    assert len(failed) == 1
    for image, clp in zip(source.images, arrays["clp"], strict=True):
        assert (clp <= 255).all() if image.n == 3 else (clp == FILL).all()


def test_a_leak_safe_split_does_not_hang_on_what_is_chosen_or_there(tmp_path: Path) -> None:
    root = write_worldstrat(tmp_path / "ws", sites=6, revisits=1)
    box = (-180.0, -90.0, 0.0, 90.0)
    all_areas = WorldStratCorpus.open(str(root), options=WorldStratOptions(split="leak_safe"))
    in_box = WorldStratCorpus.open(str(root), options=WorldStratOptions(split="leak_safe", bbox=box))
    whole, chosen = ({s.name: s.split for s in one.sites} for one in (all_areas, in_box))
    assert 0 < len(chosen) < len(whole)
    assert chosen.items() <= whole.items()
    assert not [note for note in in_box.notes if note.kind == "missing-tile"], "outside the box is no missing file"
    gone = next(iter(chosen))
    for folder in root.rglob(gone):
        shutil.rmtree(folder, ignore_errors=True)
    fewer = {s.name: s.split for s in eocube.open_corpus("worldstrat", str(root), split="leak_safe").corpus.sites}
    assert fewer == {name: split for name, split in whole.items() if name != gone}
