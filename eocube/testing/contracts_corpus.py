"""What every corpus must do: subclass, give one small copy of it, and pytest runs the rest."""

# ruff: noqa: D102 - the name of a test is its claim
from __future__ import annotations

import json
import pickle
import re
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eocube.corpora.protocol import Corpus, TiledCorpus
from eocube.errors import UnknownNameError
from eocube.io.blobs import open_blobs
from eocube.io.template import ROOT
from eocube.jobs.audit import audit
from eocube.jobs.convert import convert
from eocube.jobs.open import OpenedCorpus, open_store
from eocube.model.recipe import Arrays, Scratching, Sited, Source, public_json, whole
from eocube.model.spec import choose_spec
from eocube.model.window import Window
from eocube.testing.stores import same_store


class CorpusContract(ABC):
    """Give :meth:`make_corpus`: a small copy with at least two sites, all of whose files can be read."""

    @classmethod
    @abstractmethod
    def make_corpus(cls, folder: Path) -> Corpus:
        """The corpus, opened; its files in an empty folder. Nothing writes into them."""

    @pytest.fixture(scope="class")
    @classmethod
    def corpus(cls, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
        return cls.make_corpus(tmp_path_factory.mktemp("corpus"))

    @pytest.fixture(scope="class")
    @classmethod
    def store(cls, corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> str:
        """All of it converted."""
        folder = str(tmp_path_factory.mktemp("converted") / "store")
        report = convert(corpus, folder, executor="serial")
        assert report.ok
        return folder

    @staticmethod
    def sources(corpus: Corpus) -> list[tuple[str, str, Source]]:
        """(site, product, source) of every site by itself."""
        return [(s.name, p, corpus.source(s.name, p)[0]) for s in corpus.sites for p in s.products]

    def test_sites_have_names_of_their_own_and_cubes_that_can_be_folders(self, corpus: Corpus) -> None:
        names = [s.name for s in corpus.sites]
        assert len(set(names)) == len(names) >= 2
        for site in corpus.sites:
            assert re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*", site.cube or site.name)
            assert site.products
            assert not site.geobox.is_empty()

    def test_unknown_sites_and_products_are_refused(self, corpus: Corpus) -> None:
        site = corpus.sites[0]
        with pytest.raises(UnknownNameError):
            corpus.source(site.name, "no-such-product")
        with pytest.raises((UnknownNameError, ValueError)):
            corpus.source("no such site", site.products[0])

    def test_pixels_are_as_the_frame_says(self, corpus: Corpus) -> None:
        for _, _, source in self.sources(corpus):
            frame, window = source.frame(), _part(source)
            arrays = source.read(window)
            assert list(arrays) == [v.name for v in frame.variables]
            for v in frame.variables:
                assert arrays[v.name].dtype == v.dtype
                assert arrays[v.name].shape == (len(window.times), *frame.depth(v), *window.shape_yx)

    def test_a_window_is_that_part_of_the_whole(self, corpus: Corpus) -> None:
        for _, _, source in self.sources(corpus):
            everything, window = _site_window(source), _part(source)
            at = [everything.times.index(t) for t in window.times]
            (y0, x0), (y, x) = (everything.y[0], everything.x[0]), (window.y, window.x)
            large, small = source.read(everything), source.read(window)
            for name, values in small.items():
                part = large[name][at][..., y[0] - y0 : y[1] - y0, x[0] - x0 : x[1] - x0]
                np.testing.assert_array_equal(values, part)

    def test_variables_can_be_read_by_themselves(self, corpus: Corpus) -> None:
        for _, _, source in self.sources(corpus):
            window = _part(source)
            together = source.read(window)
            for name, values in together.items():
                (alone,) = source.read(window, names=(name,)).values()
                np.testing.assert_array_equal(alone, values)

    def test_a_source_survives_pickling_and_is_small(self, corpus: Corpus) -> None:
        for _, _, source in self.sources(corpus):
            body = pickle.dumps(source)
            assert len(body) < 200_000
            copy = pickle.loads(body)  # noqa: S301 - our own bytes
            assert copy.token() == source.token()
            _same(copy.read(_part(source)), source.read(_part(source)))

    def test_ids_are_json_rows_without_addresses(self, corpus: Corpus) -> None:
        for _, _, source in self.sources(corpus):
            rows = source.ids(_site_window(source))
            assert rows
            assert json.loads(json.dumps(rows)) == rows
            places = {a["href"] for a in source.assets()}
            assert not [row for row in rows if set(map(str, row)) & places]

    def test_every_row_of_sources_is_a_file_of_a_date(self, corpus: Corpus) -> None:
        for _, _, source in self.sources(corpus):
            times = set(source.frame().time_ms)
            for row in source.assets():
                assert {"item_id", "time", "asset", "href", "dn_shift"} == set(row)
                assert row["time"] in times

    def test_costs_are_those_of_all_files(self, corpus: Corpus) -> None:
        for _, _, source in self.sources(corpus):
            cost = source.cost(_site_window(source))
            assert cost.requests >= 1
            assert cost.bytes_fetched >= cost.bytes_used > 0
            assert isinstance(source, Scratching)
            assert source.scratch_bytes(_site_window(source)) > 0

    def test_recipes_name_no_address(self, corpus: Corpus) -> None:
        for site in corpus.sites:
            for product in site.products:
                source, node = corpus.source(site.name, product)
                assert node["kind"] == corpus.name
                text = public_json(node)
                assert not [a["href"] for a in source.assets() if a["href"] in text]

    def test_what_is_stored_is_what_was_read(self, corpus: Corpus, store: str) -> None:
        opened = open_store(store)
        for name, product, source in self.sources(corpus):
            window = _site_window(source)
            stored = opened.cube(name, product, chunks=None)
            for variable, values in source.read(window).items():
                np.testing.assert_array_equal(stored[variable].values, values)

    def test_the_store_is_whole_and_says_where_everything_came_from(self, corpus: Corpus, store: str) -> None:
        report = audit(store, deep=True, executor="serial")
        assert report.ok, report.counts
        root: dict[str, Any] = json.loads(open_blobs(store).get(ROOT) or b"{}")["attributes"]
        assert root["corpus"] == corpus.name
        assert root["attributions"] == list(corpus.attributions)
        assert corpus.license is None or root["licenses"]
        for row in open_store(store).index.to_pylist():
            cube = open_store(store).cube(row["site"], row["product"])
            assert row["license"] == cube.attrs.get("license")

    def test_a_store_made_site_by_site_is_the_store_made_at_once(self, corpus: Corpus, store: str, tmp_path: Path) -> None:
        for site in corpus.sites:
            convert(corpus, str(tmp_path), sites=[site.name], executor="serial")
        assert same_store(tmp_path, store)

    def test_small_cubes_are_few_objects(self, corpus: Corpus) -> None:
        for _, _, source in self.sources(corpus):
            frame = source.frame()
            assert len(frame.variables) + len(frame.per_time) + len(frame.axes) + 5 <= 16
            spec = choose_spec(frame, cut=source.cut if isinstance(source, Sited) else None)
            window = _site_window(source)
            shards = [-(-(b - a) // n) for (a, b), n in zip((window.y, window.x), spec.shard_tyx[1:], strict=True)]
            assert isinstance(corpus, TiledCorpus) or max(shards) == 1

    def test_an_opened_corpus_shows_its_sites(self, corpus: Corpus) -> None:
        opened = OpenedCorpus(corpus)
        assert list(opened.sites["site"]) == [s.name for s in corpus.sites]
        assert opened.sites.geometry.is_valid.all()
        assert set(opened.products) == {p for s in corpus.sites for p in s.products}
        site = corpus.sites[0]
        for product in site.products:
            lazily = opened.cube(site.name, product)
            assert lazily["data"].chunks is not None
            source = corpus.source(site.name, product)[0]
            window = _site_window(source)
            assert lazily["data"].shape[-2:] == window.shape_yx
            date = Window(window.times[:1], window.y, window.x)
            np.testing.assert_array_equal(lazily["data"][:1].values, source.read(date)["data"])


def _site_window(source: Source) -> Window:
    """All of the source's one site."""
    places = source.places if isinstance(source, Sited) else None
    return Window(whole(source.frame()).times, *places[0][1:]) if places else whole(source.frame())


def _part(source: Source) -> Window:
    """Some dates and pixels of it, off every edge."""
    window = _site_window(source)
    (y0, y1), (x0, x1) = window.y, window.x
    return Window(window.times[-2:], (y0 + (y1 - y0) // 3, y1 - 1), (x0 + 1, x0 + (x1 - x0) // 2))


def _same(a: Arrays, b: Arrays) -> None:
    for name, values in a.items():
        np.testing.assert_array_equal(values, b[name])
