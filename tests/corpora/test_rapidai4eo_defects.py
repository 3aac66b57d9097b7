"""Defect by defect, what a user of RapidAI4EO sees: a note that names it, an error that names the file, or the right cube.

The list is in ``docs/corpora/rapidai4eo.md``. What has a test of its own beside this is not repeated: ids and grids
(``test_rapidai4eo_ids``), lists and labels (``test_rapidai4eo_tables``, ``test_rapidai4eo_land_cover``), pixels, absent dates,
mirrors and broken PF-SR files (``test_rapidai4eo``).
"""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio
import rioxarray  # noqa: F401 - .rio
from typer.testing import CliRunner

import eocube
from eocube.cli import app
from eocube.corpora.rapidai4eo_ids import GEOMETRIES
from eocube.corpora.rapidai4eo_sample import write_rapidai4eo
from eocube.corpora.rapidai4eo_source import PF_FILL
from eocube.corpora.sample_files import raster_bytes
from eocube.errors import AssetReadError, CatalogError, RadiometryError
from eocube.testing.stores import counting_server, index_rows, same_store

Made = Callable[..., Path]


@pytest.fixture
def made(tmp_path: Path) -> Made:
    def make(**asked: Any) -> Path:
        given = {"sites": 2, "dates": 3, "months": 2, "products": ("pf_sr", "s2_sr"), **asked}
        return write_rapidai4eo(tmp_path / "c", **given)

    return make


def opened(root: Path | str | list[str], **how: Any) -> Any:
    """The corpus itself."""
    return eocube.open_corpus("rapidai4eo", root if isinstance(root, list) else str(root), **how).corpus


def convert(root: Path, store: Path, *, products: list[str] | None = None, **how: Any) -> Any:
    return eocube.convert(opened(root, **how), str(store), products=products, executor="serial")


def planted(root: Path, defect: str) -> list[str]:
    found: list[str] = json.loads((root / "synthetic.json").read_text())["defects"][defect]
    return found


def pixels_of(path: Path) -> Any:
    with rasterio.open(path) as file:
        return file.read()


def rewrite(path: Path, change: Callable[[Any], Any]) -> None:
    """A raster with other pixels, on its grid."""
    with rasterio.open(path) as src:
        pixels, old = change(src.read()), src.profile
    old = {k: v for k, v in old.items() if k not in ("predictor", "compress")}
    with rasterio.open(path, "w", **{**old, "dtype": pixels.dtype, "count": len(pixels)}) as out:
        out.write(pixels)


def files_of(root: Path, folder: str) -> list[Path]:
    return sorted(root.glob(f"imagery/*/*/*/{folder}/*.tif"))


def told(root: Path, store: Path, *words: str, code: int = 0) -> str:
    """What the command line says on stderr, as one text."""
    result = CliRunner().invoke(app, ["convert", "rapidai4eo", str(root), str(store), "--cluster", "serial", *words])
    assert result.exit_code == code, result.output
    return result.stderr


# ------------------------------------------------------------------------------------------------ noted by name


@pytest.mark.parametrize(
    ("defect", "says"),
    [
        ("site_without_images", "Sites: 1 are listed and have no folder"),
        ("duplicate_id", "Sites: 1 are listed more than once, and taken once"),
        ("stray_files", "Files: 2 names belong to no site, product or date, and are left out"),
    ],
)
def test_a_defect_is_noted_by_the_name_of_what_has_it_and_ends_nothing(
    made: Made, tmp_path: Path, defect: str, says: str
) -> None:
    root = made(defects=(defect,), sites=3, products=("pf_sr",))
    said = told(root, tmp_path / "s")
    (line,) = [x for x in said.splitlines() if x.startswith("Note: ")]
    assert says in line
    assert [place for place in planted(root, defect) if place not in line] == []
    assert len(index_rows(tmp_path / "s")) == (2 if defect == "site_without_images" else 3)


def test_a_clean_copy_has_no_note(made: Made, tmp_path: Path) -> None:
    root = made()
    assert "Note: " not in told(root, tmp_path / "s")
    assert opened(root).notes == ()


def test_what_is_absent_is_no_defect_and_shows_in_the_sources(made: Made, tmp_path: Path) -> None:
    """A part of 17 TB is a copy, too: nothing is said of dates, months and products that are not there."""
    root = made(defects=("missing_date", "missing_month", "missing_qa"), sites=3, products=("pf_sr", "pf_qa", "s2_sr"))
    assert "Note: " not in told(root, tmp_path / "s")
    (cube,) = {r["cube"] for r in index_rows(tmp_path / "s")}
    rows = [r for p in (tmp_path / "s").glob(f"sources/{cube}/**/*.parquet") for r in pq.read_table(p).to_pylist()]
    rows += [r for p in (tmp_path / "s").glob(f"sources/{cube}*.parquet") for r in pq.read_table(p).to_pylist()]
    hrefs = {r["href"] for r in rows}
    assert hrefs == {str(p) for folder in ("PF-SR", "PF-QA", "S2-SR") for p in files_of(root, folder)}
    site = Path(planted(root, "missing_date")[0]).parts[3]
    stamp = Path(planted(root, "missing_date")[0]).stem
    found = eocube.open_store(str(tmp_path / "s")).cube(site, "pf_sr").sel(time=stamp)["data"].values
    assert (found == PF_FILL).all()
    lacking = Path(planted(root, "missing_qa")[0]).parts[3]
    assert {(r["site"], r["product"]) for r in index_rows(tmp_path / "s")} == {
        (s, p) for s in opened(root).columns.site.to_pylist() for p in ("pf_sr", "pf_qa", "s2_sr") if (s, p) != (lacking, "pf_qa")
    }


# ------------------------------------------------------------------------------------------------ Planet Fusion


def test_files_without_a_nodata_tag_and_a_scale_get_both(made: Made, tmp_path: Path) -> None:
    root = made(defects=("fill_pixels", "zero_pixels"), products=("pf_sr",))
    with rasterio.open(files_of(root, "PF-SR")[0]) as file:
        assert (file.nodata, file.scales, file.descriptions) == (None, (1.0,) * 4, (None,) * 4)
    convert(root, tmp_path / "s")
    for defect in ("fill_pixels", "zero_pixels"):
        (path,) = planted(root, defect)
        cube = eocube.open_store(str(tmp_path / "s")).cube(Path(path).parts[3], "pf_sr")
        assert cube["data"].attrs["_FillValue"] == PF_FILL
        decoded = eocube.to_reflectance(cube).sel(time=Path(path).stem)["data"].values[0]
        whole = pixels_of(root / path)
        bad = (whole == (PF_FILL if defect == "fill_pixels" else 0)).all(axis=0)
        assert np.isnan(decoded[:, bad]).all()
        np.testing.assert_allclose(decoded[:, ~bad], whole[:, ~bad] * 1e-4, rtol=1e-6)


def test_bands_are_blue_green_red_and_the_narrow_near_infrared_by_position(made: Made, tmp_path: Path) -> None:
    """Others' settings call them red, green, blue; and B08 for the fourth."""
    root = made(products=("pf_sr", "s2_sr"))
    convert(root, tmp_path / "s")
    site = opened(root).columns.site[0].as_py()
    store = eocube.open_store(str(tmp_path / "s"))
    fusion, mosaics = store.cube(site, "pf_sr"), store.cube(site, "s2_sr")
    whole = pixels_of(min(p for p in files_of(root, "PF-SR") if site in str(p)))
    for name, number in (("blue", 1), ("green", 2), ("red", 3), ("nir08", 4)):
        np.testing.assert_array_equal(fusion["data"].sel(band=name).values[0], whole[number - 1])
    assert "nir" not in fusion["band"].values
    assert {"nir", "nir08"} <= set(mosaics["band"].values.tolist())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        pytest.param(lambda p: p[:3], "it has 3 bands of int16; pf_sr has 4 of int16", id="a band less"),
        pytest.param(lambda p: p.astype("float32"), "it has 4 bands of float32; pf_sr has 4 of int16", id="floats"),
    ],
)
def test_an_image_with_other_numbers_than_the_corpus_has_is_refused_by_name(
    made: Made, tmp_path: Path, change: Callable[[Any], Any], says: str
) -> None:
    root = made(products=("pf_sr",))
    rewrite(files_of(root, "PF-SR")[1], change)
    with pytest.raises(AssetReadError, match=says) as caught:
        convert(root, tmp_path / "s")
    assert str(files_of(root, "PF-SR")[1].relative_to(root)) in str(caught.value)


def test_an_image_that_says_no_place_is_refused_by_name(made: Made, tmp_path: Path) -> None:
    root = made(products=("pf_sr",))
    path = files_of(root, "PF-SR")[0]
    path.write_bytes(raster_bytes(pixels_of(path), crs="EPSG:32633"))
    with pytest.raises(AssetReadError, match="says no grid, so that its place cannot be compared with its id's"):
        convert(root, tmp_path / "s")


# ------------------------------------------------------------------------------------------------ quality bands


@pytest.mark.parametrize(("defects", "n", "dtype"), [((), 9, "uint8"), (("qa_two_bands",), 2, "uint16")])
def test_quality_bands_are_as_many_and_of_the_type_that_the_files_have(
    made: Made, tmp_path: Path, defects: tuple[str, ...], n: int, dtype: str
) -> None:
    root = made(defects=defects, products=("pf_sr", "pf_qa"))
    convert(root, tmp_path / "s")
    site = opened(root).columns.site[0].as_py()
    cube = eocube.open_store(str(tmp_path / "s")).cube(site, "pf_qa")
    assert cube["band"].values.tolist() == [f"qa{i + 1}" for i in range(n)]
    assert str(cube["data"].dtype) == dtype
    assert "scale_factor" not in cube["data"].attrs
    path = min(p for p in files_of(root, "PF-QA") if site in str(p))
    np.testing.assert_array_equal(cube["data"].values[0], pixels_of(path))
    assert set(cube.data_vars) == {"data"}, "no cloud mask is made of it"


def test_quality_bands_of_two_kinds_in_one_copy_are_refused_by_name(made: Made, tmp_path: Path) -> None:
    root = made(products=("pf_qa",))
    other = files_of(root, "PF-QA")[-1]
    rewrite(other, lambda p: p[:2])
    with pytest.raises(AssetReadError, match="it has 2 bands of uint8; pf_qa has 9 of uint8") as caught:
        convert(root, tmp_path / "s")
    assert other.name in str(caught.value)


def test_a_rule_of_the_users_own_reads_the_quality_bands(made: Made) -> None:
    """Which pixels were observed is documented nowhere: the user says it, as a step."""
    root = made(products=("pf_sr", "pf_qa"), sites=1)
    site = opened(root).columns.site[0].as_py()
    qa = eocube.open_corpus("rapidai4eo", str(root)).cube(site, "pf_qa")

    def observed(cube: Any) -> Any:
        return cube[["data"]].isel(band=[0]).assign(data=(cube["data"].isel(band=[0]) % 10 == 0).astype("uint8"))

    made_of = eocube.apply(qa, observed, step_id="observed-1")
    found = made_of["data"].isel(time=0, band=0).values
    np.testing.assert_array_equal(found, pixels_of(files_of(root, "PF-QA")[0])[0] % 10 == 0)


# ------------------------------------------------------------------------------------------------ Sentinel-2


def test_other_band_orders_and_counts_are_refused_with_the_option_that_says_them(made: Made, tmp_path: Path) -> None:
    root = made(defects=("band_order",), products=("s2_sr",))
    assert "s2_bands=" in told(root, tmp_path / "a", code=1)
    order = "B01,B02,B03,B04,B05,B06,B07,B08,B8A,B09,B11,B12"
    told(root, tmp_path / "b", "--s2-bands", order)
    site = opened(root).columns.site[0].as_py()
    cube = eocube.open_store(str(tmp_path / "b")).cube(site, "s2_sr")
    path = min(p for p in files_of(root, "S2-SR") if site in str(p))
    np.testing.assert_array_equal(cube["data"].sel(band="red").values[0], pixels_of(path)[3])
    for path in files_of(root, "S2-SR"):
        rewrite(path, lambda p: p[:11])
    with pytest.raises(RadiometryError, match=r"has 11 bands.*Give 11 different names of B01 to B12"):
        convert(root, tmp_path / "c")


def test_an_order_that_a_dark_band_hides_is_told_by_another_site_or_noted_as_not_checked(made: Made) -> None:
    def darken(pixels: Any) -> Any:
        return np.concatenate([pixels[:2], 0 * pixels[2:3], pixels[3:]])

    root = made(defects=("band_order",), products=("s2_sr",), sites=2, months=1)
    first, second = files_of(root, "S2-SR")
    rewrite(first, darken)
    with pytest.raises(RadiometryError, match=r"and 1 more files have the means.*s2_bands="):
        opened(root).layers("s2_sr")
    rewrite(second, darken)
    corpus = opened(root)
    corpus.layers("s2_sr")
    (note,) = corpus.file_notes
    assert "order of s2_sr was not checked, as band 3 has no pixel over 0 in 2 files" in note
    assert str(first) in note


def test_a_month_is_a_composite_and_every_fusion_date_of_2018_lies_in_one(made: Made, tmp_path: Path) -> None:
    root = made(dates=74, months=12, sites=1)
    convert(root, tmp_path / "s")
    site = opened(root).columns.site[0].as_py()
    store = eocube.open_store(str(tmp_path / "s"))
    low, high = store.cube(site, "s2_sr"), store.cube(site, "pf_sr")
    bounds = low["time_bnds"].values
    inside = (bounds[:, :1] <= high["time"].values) & (high["time"].values < bounds[:, 1:])
    year = high["time"].dt.year.values
    assert (inside.sum(axis=0) == (year == 2018)).all(), "none of 2019 has a partner"
    assert inside.sum(axis=1).min() >= 6
    np.testing.assert_allclose(low.rio.bounds(), high.rio.bounds())
    assert low.rio.shape == (60, 60)
    assert high.rio.shape == (200, 200)


@pytest.mark.parametrize("product", ["pf_qa", "s2_sr"])
def test_a_broken_first_example_is_passed_over_and_then_refused_by_name_or_listed(
    made: Made, tmp_path: Path, product: str
) -> None:
    """Bands and type are taken from a file; which one must not decide whether the others can be read."""
    folder = "PF-QA" if product == "pf_qa" else "S2-SR"
    root = made(products=(product,))
    first = files_of(root, folder)[0]
    whole = first.read_bytes()
    first.write_bytes(whole[: len(whole) // 2])
    assert first.name in told(root, tmp_path / "a", code=1)
    told(root, tmp_path / "b", "--errors", "skip", code=3)
    first.write_bytes(whole)
    told(root, tmp_path / "b", "--retry")
    convert(root, tmp_path / "once")
    assert same_store(tmp_path / "b", tmp_path / "once")


def test_a_product_of_which_nothing_can_be_read_is_refused_with_what_was_tried(made: Made, tmp_path: Path) -> None:
    root = made(products=("s2_sr",))
    for path in files_of(root, "S2-SR"):
        path.write_bytes(b"II*\0")
    said = told(root, tmp_path / "s", code=1)
    assert "needs an example" in said
    assert files_of(root, "S2-SR")[0].name in said


# ------------------------------------------------------------------------------------------------ hosts and lists


def test_a_mirror_that_is_out_of_order_is_passed_over(made: Made, tmp_path: Path) -> None:
    """The proxy was seen to answer that keys do not exist, and not at all."""
    root = made(sites=1, dates=2, products=("pf_sr",))
    site = opened(root).columns.site[0].as_py()
    (tmp_path / "nothing").mkdir()
    with counting_server(root, fault=lambda _: 503) as broken, counting_server(root) as whole:
        roots = [broken.url, whole.url]
        corpus = opened(roots, sites=[site], time="2018-01-03/2018-01-08")
        eocube.convert(corpus, str(tmp_path / "s"), products=["pf_sr"], executor="serial")
        gone = opened([broken.url], sites=[site], time="2018-01-03/2018-01-08")
        with pytest.raises(AssetReadError, match="2018-01-03"):
            eocube.convert(gone, str(tmp_path / "t"), products=["pf_sr"], executor="serial")
    cube = eocube.open_store(str(tmp_path / "s")).cube(site, "pf_sr")
    np.testing.assert_array_equal(cube["data"].values[0], pixels_of(files_of(root, "PF-SR")[0]))


def test_a_list_of_items_or_ids_does_without_a_catalogue(made: Made, tmp_path: Path) -> None:
    root = made(sites=3, products=("pf_sr",))
    shutil.rmtree(root / "resources")
    names = opened(root).columns.site.to_pylist()
    assert len(names) == 3, "the folders tell"
    items = {
        "type": "FeatureCollection",
        "features": [{"id": f"item-{n}", "properties": {}, "geometry": None} for n in names[:2]],
    }
    (tmp_path / "items.json").write_text(json.dumps(items))
    (tmp_path / "ids.txt").write_text("\n".join(names[:2]))
    for name in ("items.json", "ids.txt"):
        told(root, tmp_path / name[:3], "--site-list", str(tmp_path / name))
        assert [r["site"] for r in index_rows(tmp_path / name[:3])] == names[:2]


def test_a_list_whose_geometries_lie_elsewhere_is_refused(made: Made, tmp_path: Path) -> None:
    root = made(products=("pf_sr",))
    text = json.loads(gzip.decompress((root / GEOMETRIES).read_bytes()))
    for feature in text["features"]:
        feature["geometry"]["coordinates"][0] = [[x + 0.5, y] for x, y in feature["geometry"]["coordinates"][0]]
    (root / GEOMETRIES).write_text(json.dumps(text))
    with pytest.raises(CatalogError, match=r"do not lie where their ids say"):
        opened(root)
