"""RapidAI4EO, site by site: pixels are rasterio's, places follow from ids, what is not there is absent, every defect is named."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import odc.geo.xr  # noqa: F401 - registers .odc
import pytest
import rasterio
import rioxarray  # noqa: F401 - .rio
import xarray as xr

import eocube
from eocube.corpora.protocol import Corpus
from eocube.corpora.rapidai4eo import S2_ORDER, RapidAI4EOCorpus, RapidAI4EOOptions
from eocube.corpora.rapidai4eo_ids import PF_TIMES_MS, S2_BOUNDS_MS, parse_site, site_window
from eocube.corpora.rapidai4eo_sample import S2_BANDS_PERMUTED, write_rapidai4eo
from eocube.corpora.rapidai4eo_source import PF_FILL
from eocube.errors import AssetReadError, CatalogError, RadiometryError, UnknownNameError
from eocube.jobs.convert import plan_convert
from eocube.jobs.plan import Plan
from eocube.model.window import Window
from eocube.testing.contracts_corpus import CorpusContract
from eocube.testing.stores import counting_server, index_rows, same_store

Made = Callable[..., Path]
REAL = "33N_15E-200N_01_09"


class TestRapidAI4EOIsACorpus(CorpusContract):
    @classmethod
    def make_corpus(cls, folder: Path) -> Corpus:
        return RapidAI4EOCorpus.open(str(write_rapidai4eo(folder / "c", sites=3, tiles=2, dates=13, months=12)))


@pytest.fixture
def made(tmp_path: Path) -> Made:
    def make(**asked: Any) -> Path:
        given = {"sites": 3, "dates": 3, "months": 12, "products": ("pf_sr", "s2_sr"), **asked}
        return write_rapidai4eo(tmp_path / "c", **given)

    return make


def site_arrays(corpus: RapidAI4EOCorpus, site: str, product: str) -> Any:
    source, _ = corpus.source(site, product)
    window = Window(tuple(range(len(source.frame().time_ms))), *site_window(parse_site(site), product))
    return source.read(window)["data"]


def read_file(path: Path) -> Any:
    with rasterio.open(path) as file:
        return file.read()


def folder_of(root: Path, site: str) -> Path:
    (found,) = root.glob(f"imagery/*/*/{site}")
    return found


def planted(root: Path, defect: str) -> list[str]:
    found: list[str] = json.loads((root / "synthetic.json").read_text())["defects"][defect]
    return found


def test_files_are_read_at_their_dates_and_bands_and_other_dates_are_absent(made: Made) -> None:
    root = made(products=("pf_sr", "pf_qa", "s2_sr"))
    corpus = RapidAI4EOCorpus.open(str(root))
    for site in corpus.columns.site.to_pylist():
        for product, folder, steps in (("pf_sr", "PF-SR", 146), ("pf_qa", "PF-QA", 146), ("s2_sr", "S2-SR", 12)):
            found = site_arrays(corpus, site, product)
            assert found.shape[0] == steps
            files = sorted((folder_of(root, site) / folder).glob("*.tif"))
            for t, path in enumerate(files):
                np.testing.assert_array_equal(found[t], read_file(path))
            if product == "pf_sr":
                assert (found[len(files) :] == PF_FILL).all()


def test_axes_are_closed_and_months_are_composites_with_bounds(made: Made) -> None:
    corpus = RapidAI4EOCorpus.open(str(made()))
    site = corpus.columns.site[0].as_py()
    assert corpus.source(site, "pf_sr")[0].frame().time_ms == PF_TIMES_MS
    frame = corpus.source(site, "s2_sr")[0].frame()
    assert frame.time_bnds_ms == S2_BOUNDS_MS
    assert [b.eo_name for b in frame.bands] == list(S2_ORDER)
    assert [b.name for b in corpus.source(site, "pf_sr")[0].frame().bands] == ["blue", "green", "red", "nir08"]


def test_a_site_is_one_shard_and_a_store_holds_what_the_files_hold(made: Made, tmp_path: Path) -> None:
    root = made(products=("pf_sr", "s2_sr"))
    eocube.convert(eocube.open_corpus("rapidai4eo", str(root)), str(tmp_path / "s"), executor="serial")
    store = eocube.open_store(str(tmp_path / "s"))
    for site in sorted({r["site"] for r in index_rows(tmp_path / "s")}):
        cube = store.cube(site, "pf_sr")
        files = sorted((folder_of(root, site) / "PF-SR").glob("*.tif"))
        np.testing.assert_array_equal(cube["data"][: len(files)].values, [read_file(p) for p in files])
        with rasterio.open(files[0]) as file:
            assert tuple(cube.rio.transform())[:6] == tuple(file.transform)[:6]
    shards = list((tmp_path / "s").glob("cubes/*/pf_sr/data/c/**/*"))
    assert len([p for p in shards if p.is_file()]) == 3
    meta = json.loads(next((tmp_path / "s").glob("cubes/*/pf_sr/data/zarr.json")).read_text())
    assert meta["chunk_grid"]["configuration"]["chunk_shape"] == [156, 4, 200, 200]
    assert meta["codecs"][0]["configuration"]["chunk_shape"] == [12, 1, 200, 200]


def test_a_site_is_a_lazy_cube_of_its_own_as_the_store_has_it(made: Made, tmp_path: Path) -> None:
    root = made(products=("pf_sr", "s2_sr"))
    corpus = eocube.open_corpus("rapidai4eo", str(root))
    eocube.convert(corpus, str(tmp_path / "s"), executor="serial")
    store = eocube.open_store(str(tmp_path / "s"))
    for site in corpus.sites["site"]:
        for product in corpus.products:
            lazily, stored = corpus.cube(site, product), store.cube(site, product)
            assert lazily.odc.geobox == stored.odc.geobox
            xr.testing.assert_equal(
                lazily.compute()[["data"]].drop_vars("spatial_ref"), stored.compute()[["data"]].drop_vars("spatial_ref")
            )
    eocube.write_cube(eocube.spectral_index(corpus.cube(site, "pf_sr"), "ndvi"), str(tmp_path / "ndvi"), executor="serial")
    assert eocube.open_cube(str(tmp_path / "ndvi" / "cubes" / "cube" / "data")).sizes["x"] == 200


def test_a_product_that_a_site_has_not_is_named(made: Made) -> None:
    corpus = eocube.open_corpus("rapidai4eo", str(made(products=("pf_sr",))))
    with pytest.raises(UnknownNameError, match=r"s2_sr.*site"):
        corpus.cube(corpus.sites["site"][0], "s2_sr")


def test_three_of_sixteen_hundred_cells_are_three_tasks(made: Made, tmp_path: Path) -> None:
    corpus = eocube.open_corpus("rapidai4eo", str(made(sites=3, tiles=1)))
    plans = list(plan_convert(corpus, str(tmp_path / "s"), products=["pf_sr"]))
    assert [p.n_regions for p in plans] == [3]
    assert Plan(plans).summary().requests == 3 * 3
    assert eocube.convert(corpus, str(tmp_path / "s"), executor="serial", products=["pf_sr"]).regions_done == 3
    assert eocube.audit(str(tmp_path / "s"), executor="serial").regions == 3
    composed = eocube.compose(
        str(tmp_path / "s"), str(tmp_path / "out"), mask=None, freq="1YS", method="median", executor="serial"
    )
    assert composed.regions_done == 3 * 2, "two years, and a shard a site"


def test_a_plan_that_counts_equal_sites_once_says_what_counting_each_says(made: Made, tmp_path: Path) -> None:
    root = made(defects=("missing_date", "missing_month"), sites=6, tiles=2, dates=4, products=("pf_sr", "s2_sr"))
    corpus = eocube.open_corpus("rapidai4eo", str(root))
    quick = Plan(list(plan_convert(corpus, str(tmp_path / "s")))).table()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("eocube.jobs.plan.Classed", type("Never", (), {}))
        each = Plan(list(plan_convert(corpus, str(tmp_path / "s")))).table()
    assert quick.equals(each)
    assert len(set(quick["requests"].to_pylist())) > 2, "sites differ"


@pytest.mark.parametrize(
    ("defect", "said"),
    [("truncated", "cut off|ends|lacks|beyond|of its"), ("wrong_size", "199"), ("wrong_transform", "transform")],
)
def test_a_broken_file_is_refused_by_name_or_listed_and_healed(made: Made, tmp_path: Path, defect: str, said: str) -> None:
    root = made(defects=(defect,), sites=3, dates=3, products=("pf_sr",))
    (path,) = planted(root, defect)
    corpus = eocube.open_corpus("rapidai4eo", str(root))
    with pytest.raises(AssetReadError, match=f"(?s){Path(path).name}.*({said})"):
        eocube.convert(corpus, str(tmp_path / "a"), executor="serial")
    report = eocube.convert(corpus, str(tmp_path / "b"), executor="serial", errors="skip")
    assert [row["href"].endswith(path) for row in report.failed] == [True]
    whole = write_rapidai4eo(tmp_path / "whole", sites=3, dates=3, products=("pf_sr",))
    shutil.copy(whole / path, root / path)
    assert eocube.convert(corpus, str(tmp_path / "b"), executor="serial", retry=True).regions_done == 1
    eocube.convert(eocube.open_corpus("rapidai4eo", str(whole)), str(tmp_path / "once"), executor="serial")
    assert same_store(tmp_path / "b", tmp_path / "once")


def test_what_a_site_lacks_is_absent_and_its_other_files_are_there(made: Made) -> None:
    root = made(defects=("missing_date", "missing_month", "missing_qa"), sites=4, dates=4, products=("pf_sr", "pf_qa", "s2_sr"))
    corpus = RapidAI4EOCorpus.open(str(root))
    for product, folder, defect in (("pf_sr", "PF-SR", "missing_date"), ("s2_sr", "S2-SR", "missing_month")):
        path = Path(next(p for p in planted(root, defect) if folder in p))
        source, _ = corpus.source(path.parts[3], product)
        (site,) = source.sites
        assert source.present is not None
        assert len(source.present[site]) == (4 if product == "pf_sr" else 12) - 1
    lacking = {Path(p).parts[3] for p in planted(root, "missing_qa")}
    (cube, names), *_ = corpus.tiles()
    source, _ = corpus.tile_source(cube, names, "pf_qa")
    assert {str(s) for s in source.sites} == set(names) - lacking


def test_pixels_without_data_are_fill_whether_they_were_fill_or_zero(made: Made) -> None:
    root = made(defects=("fill_pixels", "zero_pixels"), sites=3, dates=4, products=("pf_sr",))
    corpus = RapidAI4EOCorpus.open(str(root))
    for defect, value in (("fill_pixels", PF_FILL), ("zero_pixels", 0)):
        (path,) = planted(root, defect)
        kept = read_file(root / path)
        bad = (kept == value).all(axis=0)
        assert 0 < bad.sum() < bad.size
        t = sorted(p.name for p in (root / path).parent.glob("*.tif")).index(Path(path).name)
        found = site_arrays(corpus, Path(path).parts[3], "pf_sr")[t]
        assert (found[:, bad] == PF_FILL).all()
        np.testing.assert_array_equal(found[:, ~bad], kept[:, ~bad])


def test_another_order_of_bands_is_seen_in_their_means_and_can_be_said(made: Made) -> None:
    root = made(defects=("band_order",), products=("s2_sr",), dates=1)
    corpus = RapidAI4EOCorpus.open(str(root))
    site = corpus.columns.site[0].as_py()
    with pytest.raises(RadiometryError, match="s2_bands="):
        corpus.source(site, "s2_sr")
    told = RapidAI4EOCorpus.open(str(root), options=RapidAI4EOOptions(s2_bands=S2_BANDS_PERMUTED))
    assert [b.eo_name for b in told.source(site, "s2_sr")[0].frame().bands] == list(S2_BANDS_PERMUTED)


def test_listed_sites_without_a_folder_are_absent_and_named(made: Made) -> None:
    root = made(defects=("site_without_images", "duplicate_id"), sites=4, products=("pf_sr",))
    corpus = RapidAI4EOCorpus.open(str(root))
    assert list(corpus.absent) == planted(root, "site_without_images")
    names = corpus.columns.site.to_pylist()
    assert len(names) == len(set(names)) == 3


def test_mirrors_are_tried_in_order_and_one_request_a_file_is_made(made: Made, tmp_path: Path) -> None:
    root = made(sites=1, dates=2, products=("pf_sr",))
    site = next(iter(RapidAI4EOCorpus.open(str(root)).columns.site.to_pylist()))
    with counting_server(tmp_path / "nothing-here") as empty, counting_server(root) as full:
        corpus = eocube.open_corpus("rapidai4eo", [empty.url, full.url], sites=[site], time="2018-01-03/2018-01-08")
        eocube.convert(corpus, str(tmp_path / "s"), executor="serial", products=["pf_sr"])
        assert len([r for r in full.requests if r[1].endswith(".tif")]) == 2
    stored = eocube.open_store(str(tmp_path / "s")).cube(site, "pf_sr")
    files = sorted((folder_of(root, site) / "PF-SR").glob("*.tif"))
    np.testing.assert_array_equal(stored["data"][:2].values, [read_file(p) for p in files])


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda body: body[: len(body) // 2], id="cut off"),
        pytest.param(lambda _: b"<html>Service unavailable</html>", id="an error page with status 200"),
    ],
)
def test_a_mirror_whose_body_is_no_image_is_passed_over_too(made: Made, tmp_path: Path, spoil: Callable[[bytes], bytes]) -> None:
    root = made(sites=1, dates=1, products=("pf_sr", "pf_qa"))
    whole = RapidAI4EOCorpus.open(str(root))
    site = whole.columns.site[0].as_py()
    shutil.copytree(root, tmp_path / "spoilt")
    for path in (tmp_path / "spoilt").rglob("*.tif"):
        path.write_bytes(spoil(path.read_bytes()))
    with counting_server(tmp_path / "spoilt") as bad, counting_server(root) as good:
        options = RapidAI4EOOptions(sites=[site], time_ms=(0, PF_TIMES_MS[1]))
        corpus = RapidAI4EOCorpus.open([bad.url, good.url], options=options)
        for product in ("pf_sr", "pf_qa"):
            np.testing.assert_array_equal(site_arrays(corpus, site, product), site_arrays(whole, site, product))


def test_where_no_mirror_has_a_file_each_ones_reason_is_told(made: Made, tmp_path: Path) -> None:
    root = made(sites=1, dates=1, products=("pf_sr",), defects=("wrong_transform",))
    site = RapidAI4EOCorpus.open(str(root)).columns.site[0].as_py()
    with counting_server(root) as moved, counting_server(tmp_path / "nothing-here") as empty:
        options = RapidAI4EOOptions(sites=[site], time_ms=(0, PF_TIMES_MS[1]))
        corpus = RapidAI4EOCorpus.open([moved.url, empty.url], options=options)
        with pytest.raises(AssetReadError) as caught:
            site_arrays(corpus, site, "pf_sr")
    said, path = str(caught.value), planted(root, "wrong_transform")[0]
    assert caught.value.href == f"{moved.url}/{path}"
    assert "does not lie where its id" in said
    assert f"{empty.url}/{path}: the server has nothing" in said


def test_an_absent_date_of_quality_bands_is_0_and_told_by_the_ids_and_by_planet_fusion(made: Made) -> None:
    root = made(sites=1, dates=2, products=("pf_sr", "pf_qa"))
    corpus = RapidAI4EOCorpus.open(str(root))
    site = corpus.columns.site[0].as_py()
    source, _ = corpus.source(site, "pf_qa")
    window = Window((0, 1, 2), *site_window(parse_site(site), "pf_qa"))
    assert (source.read(window)["data"][2] == 0).all()
    assert source.ids(window) == [[f"{site}/PF-QA/2018-01-03"], [f"{site}/PF-QA/2018-01-08"]]
    assert (site_arrays(corpus, site, "pf_sr")[2] == PF_FILL).all()


def test_products_of_a_local_tree_are_looked_for_once_and_not_by_every_site(made: Made) -> None:
    corpus = RapidAI4EOCorpus.open(str(made(sites=3, products=("pf_sr",))))
    assert corpus.products == ("pf_sr",)
    assert [site.products is corpus.products for site in list(corpus.sites)] == [True] * 3


def test_later_dates_renew_the_sites_that_have_them(made: Made, tmp_path: Path) -> None:
    root = str(made(sites=2, dates=3, products=("pf_sr",)))
    first = eocube.open_corpus("rapidai4eo", root, time="2018-01-03/2018-01-09")
    eocube.convert(first, str(tmp_path / "grown"), executor="serial")
    everything = eocube.open_corpus("rapidai4eo", root)
    assert eocube.convert(everything, str(tmp_path / "grown"), executor="serial").regions_done == 2
    eocube.convert(everything, str(tmp_path / "once"), executor="serial")
    assert same_store(tmp_path / "grown", tmp_path / "once")


def test_a_box_chooses_sites(made: Made) -> None:
    root = str(made(sites=4, tiles=2, products=("pf_sr",), dates=1))
    corpus = eocube.open_corpus("rapidai4eo", root)
    frame = corpus.sites
    some = eocube.open_corpus("rapidai4eo", root, bbox=tuple(frame.geometry[2].buffer(-1e-4).bounds))
    assert [s.name for s in some.corpus.sites] == [frame["site"][2]]
    with pytest.raises(CatalogError, match="None of 4 sites"):
        eocube.open_corpus("rapidai4eo", root, bbox=(100, 10, 101, 11))


def test_a_tile_is_in_one_split(made: Made, tmp_path: Path) -> None:
    corpus = eocube.open_corpus("rapidai4eo", str(made(sites=4, tiles=2, products=("pf_sr",), dates=1)))
    eocube.convert(corpus, str(tmp_path / "s"), executor="serial")
    rows = index_rows(tmp_path / "s")
    assert all(r["group"] == r["cube"] for r in rows)
    assert len({(r["cube"], r["split"]) for r in rows}) == 2
    assert {r["license"] for r in rows} == {"CC-BY-NC-SA-3.0"}


def test_the_real_chip_lies_and_reads_as_rasterio_has_it(tmp_path: Path) -> None:
    data = os.environ.get("EOCUBE_TEST_DATA")
    if data is None:
        pytest.skip("EOCUBE_TEST_DATA is not set: the real chip is not here")
    root = Path(data) / "rapidai4eo"
    corpus = eocube.open_corpus("rapidai4eo", str(root))
    assert [s.name for s in corpus.corpus.sites] == [REAL]
    assert corpus.products == ("pf_sr",)
    eocube.convert(corpus, str(tmp_path / "s"), executor="serial")
    cube = eocube.open_store(str(tmp_path / "s")).cube(REAL, "pf_sr")
    (path,) = root.rglob("*.tif")
    with rasterio.open(path) as file:
        np.testing.assert_array_equal(cube["data"][0].values, file.read())
        assert tuple(cube.rio.transform())[:6] == tuple(file.transform)[:6]
        assert cube.rio.crs == file.crs
    assert (cube["data"][1:] == PF_FILL).all()
