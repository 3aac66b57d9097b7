"""Bands of products that are documented nowhere come from a file of theirs; where none can be read, the product is named."""

from __future__ import annotations

from pathlib import Path

import pytest

import eocube
from eocube.corpora.rapidai4eo import RapidAI4EOCorpus, RapidAI4EOOptions
from eocube.corpora.rapidai4eo_sample import write_rapidai4eo
from eocube.errors import CatalogError, UnknownNameError
from eocube.testing.stores import counting_server

FOLDERS = {"pf_qa": "PF-QA", "s2_sr": "S2-SR"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_rapidai4eo(tmp_path / "c", sites=2, dates=2, months=2)


def files(root: Path, product: str) -> list[Path]:
    return sorted(root.glob(f"imagery/*/*/*/{FOLDERS[product]}/*.tif"))


@pytest.mark.parametrize("product", FOLDERS)
def test_a_broken_first_file_does_not_hide_what_the_second_says(root: Path, product: str) -> None:
    whole = RapidAI4EOCorpus.open(str(root)).layers(product)
    files(root, product)[0].write_bytes(b"II*\0 and nothing else")
    assert RapidAI4EOCorpus.open(str(root)).layers(product) == whole


@pytest.mark.parametrize("product", FOLDERS)
def test_where_no_file_can_be_read_the_product_and_the_files_are_named(root: Path, product: str) -> None:
    for path in files(root, product):
        path.write_bytes(b"II*\0 and nothing else")
    with pytest.raises(CatalogError, match=f"(?s)Product '{product}'.*{FOLDERS[product]}.*None of 3.*--products") as caught:
        eocube.convert(eocube.open_corpus("rapidai4eo", str(root)), str(root / "s"), executor="serial", products=[product])
    assert str(files(root, product)[0]) in str(caught.value)
    assert not (root / "s" / "cubes").exists()


def test_a_product_of_which_no_site_has_a_file_is_no_product_of_a_local_tree(tmp_path: Path) -> None:
    corpus = RapidAI4EOCorpus.open(str(write_rapidai4eo(tmp_path / "c", sites=1, dates=1, products=["pf_sr"])))
    assert corpus.products == ("pf_sr",)
    with pytest.raises(UnknownNameError, match=r"'pf_qa' in .*no site has a file of it.*'pf_sr'"):
        corpus.source(corpus.columns.site[0].as_py(), "pf_qa")


def test_a_remote_example_is_of_a_date_that_is_asked_for_and_of_the_first_site_that_has_it(root: Path) -> None:
    first, second = files(root, "pf_qa")[:2]
    with counting_server(root) as server:
        first.unlink()
        options = RapidAI4EOOptions(sites=[p.name for p in sorted(root.glob("imagery/*/*/*"))])
        corpus = RapidAI4EOCorpus.open(server.url, options=options)
        assert len(corpus.layers("pf_qa").bands) == 9
        assert server.paths[0].endswith(f"{first.parent.parent.name}/PF-QA/{first.name}")
        assert len(server.paths) == 2
        server.clear()
        later = RapidAI4EOOptions(sites=options.sites, time_ms=(1515300000000.0, 1e15))
        assert len(RapidAI4EOCorpus.open(server.url, options=later).layers("pf_qa").bands) == 9
        assert [Path(p).name for p in server.paths] == [second.name]


def test_at_an_address_that_has_nothing_only_products_without_an_example_are_planned(root: Path) -> None:
    from eocube.jobs.convert import plan_convert
    from eocube.jobs.plan import sum_up

    with counting_server(root / "nothing-here") as server:
        corpus = eocube.open_corpus("rapidai4eo", server.url, sites=["33N_15E-200N_01_09"])
        with pytest.raises(CatalogError, match=r"Product 'pf_qa'.*None of 1 .*PF-QA/2018-01-03\.tif"):
            sum_up(plan_convert(corpus, str(root / "s")))
        assert sum_up(plan_convert(corpus, str(root / "s"), products=["pf_sr"])).summary.requests == 146
