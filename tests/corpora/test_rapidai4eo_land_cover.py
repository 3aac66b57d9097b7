"""Shares of CORINE classes are columns of the sites, whichever form the tree has them in; what is missing is absent and named."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely

import eocube
from eocube.corpora.rapidai4eo_ids import LABELS
from eocube.corpora.rapidai4eo_labels import CLC_CLASSES
from eocube.corpora.rapidai4eo_sample import write_rapidai4eo
from eocube.errors import CatalogError
from eocube.testing.stores import counting_server


def made(folder: Path, *defects: str) -> Path:
    return write_rapidai4eo(folder, sites=5, tiles=2, dates=1, products=("pf_sr",), defects=defects)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return made(tmp_path / "c")


def in_the_csv(root: Path) -> dict[str, list[float]]:
    """Site → shares, read without eocube."""
    head, *lines = gzip.decompress((root / LABELS).read_bytes()).decode().splitlines()
    assert head.split(",")[1:] == list(CLC_CLASSES)
    return {line.split(",")[0]: [float(v) for v in line.split(",")[1:]] for line in lines}


def opened(root: Any, **options: Any) -> Any:
    return eocube.open_corpus("rapidai4eo", str(root) if isinstance(root, Path) else root, **options)


def shares(corpus: Any) -> dict[str, np.ndarray]:
    frame = corpus.sites
    assert [c for c in frame.columns if c.startswith("clc_")] == list(CLC_CLASSES)
    assert {str(t) for t in frame[list(CLC_CLASSES)].dtypes} == {"float32"}
    return dict(zip(frame["site"], frame[list(CLC_CLASSES)].to_numpy(), strict=True))


def same(found: dict[str, np.ndarray], expected: dict[str, list[float]], whole: float = 1.0) -> None:
    assert sorted(found) == sorted(expected)
    for site, row in expected.items():
        np.testing.assert_allclose(found[site], np.array(row) / whole, rtol=1e-6)
        assert found[site].sum() == pytest.approx(1, abs=1e-5)


def test_shares_come_from_the_bulk_table(root: Path) -> None:
    shutil.rmtree(root / "labels")
    corpus = opened(root)
    same(shares(corpus), in_the_csv(root))
    assert corpus.corpus.notes == ()


def test_without_a_bulk_table_they_come_from_the_sites_own_files(root: Path) -> None:
    expected = in_the_csv(root)
    (root / LABELS).unlink()
    same(shares(opened(root)), expected)


def test_the_bulk_table_counts_where_both_are_there(root: Path) -> None:
    for path in (root / "labels").rglob("*.geojson"):
        path.write_text("{")
    same(shares(opened(root)), in_the_csv(root))


@pytest.mark.parametrize("form", ["table", "files"])
def test_shares_of_a_hundred_are_the_same_shares(tmp_path: Path, form: str) -> None:
    root = made(tmp_path / "c", "labels_percent")
    expected = in_the_csv(root)
    if form == "files":
        (root / LABELS).unlink()
    same(shares(opened(root)), expected, 100)


def test_the_unit_can_be_said(root: Path) -> None:
    corpus = opened(root, label_unit="percent")
    for site, row in in_the_csv(root).items():
        np.testing.assert_allclose(shares(corpus)[site], np.array(row) / 100, rtol=1e-6)
    assert any("do not sum to one" in note for note in corpus.corpus.notes)


@pytest.mark.parametrize("form", ["table", "files"])
def test_a_site_without_labels_has_nan_and_is_named(tmp_path: Path, form: str) -> None:
    root = made(tmp_path / "c", "site_without_labels")
    (lacking,) = json.loads((root / "synthetic.json").read_text())["defects"]["site_without_labels"]
    expected = in_the_csv(root)
    if form == "files":
        (root / LABELS).unlink()
    corpus = opened(root)
    found = shares(corpus)
    assert np.isnan(found.pop(lacking)).all()
    same(found, expected)
    (note,) = corpus.corpus.notes
    assert "no shares, NaN in the columns, of 1 site:" in note
    assert lacking in note


def test_a_tree_without_labels_has_no_such_columns_and_says_so(root: Path) -> None:
    shutil.rmtree(root / "labels")
    (root / LABELS).unlink()
    corpus = opened(root)
    assert not [c for c in corpus.sites.columns if c.startswith("clc_")]
    assert corpus.corpus.land_cover is None
    (note,) = corpus.corpus.notes
    for part in (LABELS, "labels_<site>.geojson", str(root)):
        assert part in note


@pytest.mark.parametrize("damage", ["cut off", "no classes", "no rows"])
def test_a_table_that_is_there_and_broken_is_no_absent_one(root: Path, damage: str) -> None:
    path, body = root / LABELS, gzip.decompress((root / LABELS).read_bytes())
    changed = {
        "cut off": path.read_bytes()[:-30],
        "no classes": body.replace(b"clc_", b"x"),
        "no rows": body.split(b"\n")[0] + b"\n",
    }
    path.write_bytes(changed[damage])
    corpus = opened(root)
    if damage == "no rows":
        assert np.isnan(np.array([*shares(corpus).values()])).all()
        assert "no shares, NaN in the columns, of 5 sites:" in corpus.corpus.notes[0]
    else:
        with pytest.raises(CatalogError, match="rapidai4eo_labels"):
            _ = corpus.sites


def test_the_table_of_a_remote_tree_is_one_request_made_when_it_is_asked_for(root: Path, tmp_path: Path) -> None:
    expected, names = in_the_csv(root), sorted(in_the_csv(root))
    with counting_server(tmp_path / "empty") as empty, counting_server(root) as full:
        corpus = opened([empty.url, full.url], sites=names)
        assert full.requests == empty.requests == []
        same(shares(corpus), expected)
        _ = corpus.sites
        assert (empty.paths, full.paths) == ([f"/{LABELS}"], [f"/{LABELS}"])
        full.clear()
        without = opened([empty.url], sites=names)
        assert not [c for c in without.sites.columns if c.startswith("clc_")]
        assert empty.url in without.corpus.notes[0]


def test_an_address_that_does_not_answer_leaves_sites_without_labels_and_is_named() -> None:
    corpus = opened("http://127.0.0.1:9/rapidai4eo", sites=["33N_15E-200N_01_09"])
    assert corpus.sites["site"].tolist() == ["33N_15E-200N_01_09"]
    assert "127.0.0.1:9" in corpus.corpus.notes[0]


def test_sites_at_once_are_as_sites_one_by_one(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = opened(root)
    quick = corpus.sites
    monkeypatch.setattr("eocube.jobs.open.TabledSites", type("Never", (), {}))
    plain = corpus.sites
    assert quick.crs == plain.crs
    for column in plain.columns.drop("geometry"):
        assert [_listed(v) for v in quick[column]] == [_listed(v) for v in plain[column]], column
    apart = shapely.area(shapely.symmetric_difference(quick.geometry.values, plain.geometry.values))
    assert (apart < 1.5e-9).all(), (
        "some 12 square metres of 360,000: sides that are straight in UTM bend by millimetres in degrees"
    )
    assert (shapely.area(plain.geometry.values) > 1e-5).all()


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
