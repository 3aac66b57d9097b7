"""eocube info on a store whose cubes hold many sites: cubes are counted as cubes, sites as sites."""

from __future__ import annotations

from pathlib import Path

import pytest

import eocube as eo
from eocube.io.blobs import open_blobs
from eocube.io.cubes import cube_path
from eocube.testing.stores import counting_server
from eocube.testing.tiles import TileCorpus
from tests.cli.conftest import Invoke, parsed


@pytest.fixture
def tiled(store: Path) -> Path:
    """Three sites in one cube."""
    eo.convert(TileCorpus("A_01_02", "A_01_03", "A_39_00"), str(store), executor="serial")
    return store


def test_cubes_and_sites_are_counted_apart_and_each_row_names_its_cube(eocube: Invoke, tiled: Path) -> None:
    shown = eocube("info", tiled).stdout
    assert shown.startswith(f"1 cube with 3 sites in {tiled}")
    assert shown.count("A_01_02") == shown.count("A_39_00") == 1
    found = parsed(eocube("info", tiled, "--json"))
    assert (found["n_cubes"], found["n_sites"], len(found["cubes"])) == (1, 3, 3)
    assert found["under_way"] == found["appends_under_way"] == found["not_indexed"] == []
    assert repr(eo.open_store(str(tiled))).endswith(": 1 cubes with 3 sites>")


def test_more_cubes_with_several_sites_are_counted(eocube: Invoke, tiled: Path) -> None:
    eo.convert(TileCorpus("B_05_05"), str(tiled), executor="serial")
    shown = eocube("info", tiled).stdout
    assert shown.startswith(f"2 cubes with 4 sites in {tiled}")
    lines = [line.split()[:3] for line in shown.splitlines()[1:]]
    assert ["A_39_00", "A", "pf"] in lines
    assert ["B_05_05", "B", "pf"] in lines


def test_narrow_terminals_name_the_cube_of_each_site(eocube: Invoke, tiled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eocube.cli.show.WIDE", 50)
    assert "A_39_00/pf in cube A" in eocube("info", tiled).stdout


def test_a_cube_of_many_sites_is_looked_at_once(eocube: Invoke, tiled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    blobs = type(open_blobs(str(tiled)))
    get = blobs.get

    def counted(self, key: str) -> bytes | None:
        looked.append(key)
        return get(self, key)

    monkeypatch.setattr(blobs, "get", counted)
    eocube("info", tiled, "--json")
    assert looked.count(f"{cube_path('A', 'pf')}/zarr.json") == 1


def test_a_store_without_such_cubes_is_counted_as_before(eocube: Invoke, catalog, store: Path) -> None:
    assert eocube("convert", "stac", catalog.path, store, "--layout", "map").exit_code == 0
    shown = eocube("info", store).stdout
    assert shown.startswith(f"1 cube in {store}")
    assert "cube" not in shown.splitlines()[1], "a column that says the site's name again"
    with counting_server(store) as server:
        found = parsed(eocube("info", server.url, "--json"))
    assert (found["n_cubes"], found["n_sites"]) == (1, 1)
