"""What the sources' licences ask to be said is in every store, whatever it was made from, word for word; none is computed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import eocube
from eocube.corpora.rapidai4eo_sample import write_rapidai4eo
from eocube.corpora.worldstrat_sample import write_worldstrat
from eocube.jobs.write import WriteSettings, plan_cube, run_plans
from eocube.lazy.cube import lazy_cube
from eocube.model.licences import merged, of_cubes, of_store
from eocube.patches import PatchDataset
from eocube.testing.sources import BANDS, DATES, ArraySource, make_source
from eocube.testing.steps import subtract_reference
from eocube.testing.stores import cut_plan, index_rows, tree
from tests.patches.makers import DAYS, SPEC, geobox, ground_source

SENTINEL = "CC-BY-4.0"
SPOT = "CC-BY-NC-4.0"
PLANET = "CC-BY-NC-SA-3.0"
COPERNICUS = "Copernicus Sentinel data terms"
SPOT_SAID = "SPOT imagery: Airbus DS, through the WorldStrat dataset (Cornebise, Oršolić, Kalaitzis, NeurIPS 2022)"
WORLDSTRAT_SAID = "Contains modified Copernicus Sentinel data; WorldStrat"
PLANET_SAID = "RapidAI4EO, Planet Fusion: Planet Labs PBC, doi:10.34911/rdnt.gcydkj"
RAPID_SAID = "Contains modified Copernicus Sentinel data 2018; RapidAI4EO, doi:10.34911/rdnt.gcydkj"
CORINE_SAID = "CORINE Land Cover 2018: European Union, Copernicus Land Monitoring Service (Regulation (EU) No 1159/2013)"
WORLDSTRAT = ([SENTINEL, SPOT], [WORLDSTRAT_SAID, SPOT_SAID])
RAPID = ([PLANET, COPERNICUS], [PLANET_SAID, RAPID_SAID, CORINE_SAID])
"""Written out once more: a store must say it in these very words."""


def listed(place: Path | str) -> tuple[list[str], list[str]]:
    """What the root of a store or a patch set lists."""
    attrs = json.loads((Path(place) / "zarr.json").read_text())["attributes"]
    return attrs.get("licenses", []), attrs.get("attributions", [])


def of_cube(store: Path | str, cube: str, product: str) -> tuple[str, str]:
    """What a cube says, to any reader of Zarr."""
    attrs = json.loads((Path(store) / "cubes" / cube / product / "zarr.json").read_text())["attributes"]
    return attrs["license"], attrs["attribution"]


@pytest.fixture(scope="module")
def worldstrat(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("ws") / "c"
    write_worldstrat(root, sites=1, revisits=2, products=("l2a", "hr_rgbn"), side_files=("CLM",))
    return eocube.open_corpus("worldstrat", str(root))


@pytest.fixture(scope="module")
def rapid(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = write_rapidai4eo(tmp_path_factory.mktemp("rapid") / "c", sites=1, dates=2, months=2, products=("pf_sr", "s2_sr"))
    return eocube.open_corpus("rapidai4eo", str(root))


@pytest.fixture(scope="module")
def stores(worldstrat: Any, rapid: Any, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    top = tmp_path_factory.mktemp("stores")
    for name, corpus in (("worldstrat", worldstrat), ("rapid", rapid), ("both", worldstrat), ("both", rapid)):
        eocube.convert(corpus, str(top / name), executor="serial")
    return {name: str(top / name) for name in ("worldstrat", "rapid", "both")}


# ------------------------------------------------------------------------------------------------ converted


def test_a_converted_store_lists_every_licence_and_attribution_by_itself(stores: Mapping[str, str]) -> None:
    assert listed(stores["worldstrat"]) == WORLDSTRAT
    assert listed(stores["rapid"]) == RAPID


def test_a_cube_says_its_own_products(stores: Mapping[str, str]) -> None:
    known = {"l2a": (SENTINEL, WORLDSTRAT_SAID), "hr_rgbn": (SPOT, SPOT_SAID)}
    known |= {"pf_sr": (PLANET, PLANET_SAID), "s2_sr": (COPERNICUS, RAPID_SAID)}
    rows = [(store, row) for store in stores.values() for row in index_rows(store)]
    assert {row["product"] for _, row in rows} == set(known)
    for store, row in rows:
        assert of_cube(store, row["cube"], row["product"]) == known[row["product"]]
        assert row["license"] == known[row["product"]][0]
        cube = eocube.open_store(store).cube(row["site"], row["product"])
        assert (cube.attrs["license"], cube.attrs["attribution"]) == known[row["product"]]


def test_a_store_of_two_corpora_lists_both_whichever_came_first(
    stores: Mapping[str, str], worldstrat: Any, rapid: Any, tmp_path: Path
) -> None:
    assert listed(stores["both"]) == (WORLDSTRAT[0] + RAPID[0], WORLDSTRAT[1] + RAPID[1])
    for corpus in (rapid, worldstrat):
        eocube.convert(corpus, str(tmp_path / "s"), executor="serial")
    assert [sorted(x) for x in listed(tmp_path / "s")] == [sorted(x) for x in listed(stores["both"])]


def test_the_same_run_again_changes_nothing_of_the_root(stores: Mapping[str, str], rapid: Any, worldstrat: Any) -> None:
    before = (Path(stores["both"]) / "zarr.json").read_bytes()
    for corpus in (rapid, worldstrat):
        eocube.convert(corpus, stores["both"], executor="serial")
    assert (Path(stores["both"]) / "zarr.json").read_bytes() == before


def test_a_part_of_a_corpus_says_all_of_it(rapid: Any, tmp_path: Path) -> None:
    eocube.convert(rapid, str(tmp_path / "s"), products=["s2_sr"], executor="serial")
    assert set(RAPID[0]) <= set(listed(tmp_path / "s")[0])


# ------------------------------------------------------------------------------------------------ made of cubes


@pytest.mark.parametrize("name", ["worldstrat", "rapid", "both"])
def test_a_composed_store_lists_what_its_store_lists(stores: Mapping[str, str], name: str, tmp_path: Path) -> None:
    product = "l2a" if name == "worldstrat" else "pf_sr"
    eocube.compose(stores[name], str(tmp_path / "out"), products=[product], mask=None, freq="1YS", executor="serial")
    assert listed(tmp_path / "out") == listed(stores[name])
    (row,) = index_rows(tmp_path / "out")
    assert row["license"] == (SENTINEL if product == "l2a" else PLANET)
    assert of_cube(tmp_path / "out", row["cube"], row["product"])[1] == (WORLDSTRAT_SAID if product == "l2a" else PLANET_SAID)


def test_a_written_chain_lists_its_source_from_the_files_or_from_a_store(
    stores: Mapping[str, str], worldstrat: Any, tmp_path: Path
) -> None:
    (site,) = [s.name for s in worldstrat.corpus.sites]
    for k, cube in enumerate((worldstrat.cube(site, "hr_rgbn"), eocube.open_store(stores["both"]).cube(site, "hr_rgbn"))):
        chain = eocube.to_reflectance(cube)
        eocube.write_cube(chain, str(tmp_path / f"{k}"), site="a", product="refl", executor="serial")
        assert listed(tmp_path / f"{k}") == ([SPOT], [SPOT_SAID])
        assert of_cube(tmp_path / f"{k}", "a", "refl") == (SPOT, SPOT_SAID)


def test_a_users_own_step_keeps_them(worldstrat: Any, tmp_path: Path) -> None:
    (site,) = [s.name for s in worldstrat.corpus.sites]
    halved = eocube.apply(worldstrat.cube(site, "hr_rgbn"), _halved, step_id="halved-1")
    eocube.write_cube(halved, str(tmp_path), site="a", product="half", executor="serial")
    assert listed(tmp_path) == ([SPOT], [SPOT_SAID])


def _halved(cube: Any) -> Any:
    out = cube.assign(data=(cube["data"] // 2).astype(cube["data"].dtype).assign_attrs(cube["data"].attrs))
    out.attrs = {}
    return out


def of_source(name: str, **attrs: str) -> Any:
    source: ArraySource = make_source(dates=DATES[:3], shape_yx=(32, 32), bands=BANDS[:2], name=name)
    return lazy_cube(source, source.node, chunks={"time": 1}, attrs=attrs)


def test_a_step_on_two_cubes_lists_both(tmp_path: Path) -> None:
    one = of_source("one", license=SENTINEL, attribution=WORLDSTRAT_SAID)
    other = of_source("other", license=PLANET, attribution=PLANET_SAID)
    made = subtract_reference(one, reference=other)
    assert made.attrs["license"] == f"{SENTINEL}; {PLANET}"
    eocube.write_cube(made, str(tmp_path / "s"), site="a", product="less", executor="serial")
    assert of_cube(tmp_path / "s", "a", "less") == (f"{SENTINEL}; {PLANET}", f"{WORLDSTRAT_SAID}; {PLANET_SAID}")
    assert listed(tmp_path / "s") == ([SENTINEL, PLANET], [WORLDSTRAT_SAID, PLANET_SAID])
    again = eocube.composite(eocube.open_store(str(tmp_path / "s")).cube("a", "less"), freq="1YS")
    eocube.write_cube(again, str(tmp_path / "t"), site="a", product="again", executor="serial")
    assert listed(tmp_path / "t") == listed(tmp_path / "s")


def test_a_cube_changed_by_xarray_keeps_them(worldstrat: Any, tmp_path: Path) -> None:
    (site,) = [s.name for s in worldstrat.corpus.sites]
    cube = worldstrat.cube(site, "hr_rgbn")
    some = cube.isel(x=slice(0, 64), y=slice(0, 64))
    eocube.write_cube(some, str(tmp_path), site="a", product="part", executor="serial")
    assert listed(tmp_path) == ([SPOT], [SPOT_SAID])


# ------------------------------------------------------------------------------------------------ patches, super-resolution


def mixed_store(folder: Path) -> str:
    """LR and HR of two licences, with pixels that a patch set can be cut from."""
    told = (
        (
            "20m",
            geobox((30, 36), 20.0),
            ("nir", "red", "green"),
            (4, 16, 16),
            {"license": SENTINEL, "attribution": WORLDSTRAT_SAID},
        ),
        ("10m", geobox((60, 72), 10.0), ("green", "red"), (4, 32, 32), {"license": PLANET, "attribution": PLANET_SAID}),
    )
    plans = []
    for product, grid, bands, shard, attrs in told:
        source = ground_source(product, grid, bands, DAYS)
        cube = lazy_cube(source, source.node, chunks={"time": 2, "y": 16, "x": 16}, attrs=attrs)
        plan = plan_cube(cube, f"{folder}/store", site="a", product=product, settings=WriteSettings(layout="patch"))
        plans.append(cut_plan(plan, chunk_tyx=(2, shard[1] // 2, shard[2] // 2), shard_tyx=shard))
    run_plans(f"{folder}/store", plans, executor="serial")
    return f"{folder}/store"


def test_a_patch_set_of_two_products_lists_the_licences_of_both_and_of_what_the_store_gets_later(
    rapid: Any, tmp_path: Path
) -> None:
    store, out = mixed_store(tmp_path), str(tmp_path / "set")
    assert listed(store) == ([SENTINEL, PLANET], [WORLDSTRAT_SAID, PLANET_SAID])
    eocube.extract_patches(store, out, SPEC, executor="serial")
    assert listed(out) == listed(store)
    assert PatchDataset(out).licence == {"licenses": [SENTINEL, PLANET], "attributions": [WORLDSTRAT_SAID, PLANET_SAID]}
    before = {k: v for k, v in tree(out).items() if k != "zarr.json"}
    eocube.convert(rapid, store, executor="serial")
    eocube.extract_patches(store, out, SPEC, executor="serial")
    assert (
        listed(out) == listed(store) == ([SENTINEL, PLANET, COPERNICUS], [WORLDSTRAT_SAID, PLANET_SAID, RAPID_SAID, CORINE_SAID])
    )
    assert {k: v for k, v in tree(out).items() if k != "zarr.json"} == before
    assert len(PatchDataset(out)), "it is still a patch set"


def test_a_model_carries_them_and_what_it_makes_lists_them_too(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="networks need torch")
    store = mixed_store(tmp_path)
    eocube.extract_patches(store, str(tmp_path / "set"), SPEC, executor="serial")
    model = eocube.train(str(tmp_path / "set"), str(tmp_path / "model"), steps=1, channels=4, blocks=1)
    assert model.training["licenses"] == [SENTINEL, PLANET]
    other = str(tmp_path / "other")
    cube = lazy_cube(
        source := ground_source("lr", geobox((30, 36), 20.0), ("nir", "red", "green")),
        source.node,
        chunks={"time": 2},
        attrs={"license": COPERNICUS, "attribution": RAPID_SAID},
    )
    eocube.write_cube(cube, other, site="a", product="20m", executor="serial")
    eocube.superres(other, str(tmp_path / "sr"), model, executor="serial")
    lazily = eocube.superresolve(eocube.open_store(other).cube("a", "20m"), model)
    eocube.write_cube(lazily, str(tmp_path / "lazily"), site="a", product="sr", executor="serial")
    for made in ("sr", "lazily"):
        assert listed(tmp_path / made) == ([COPERNICUS, SENTINEL, PLANET], [RAPID_SAID, WORLDSTRAT_SAID, PLANET_SAID])
        assert of_cube(tmp_path / made, "a", "sr")[0] == f"{COPERNICUS}; {SENTINEL}; {PLANET}"


# ------------------------------------------------------------------------------------------------ texts


def test_texts_are_listed_once_each_as_they_are() -> None:
    assert merged(["a"], ["b", "a", None, "", "b"]) == ["a", "b"]
    assert merged(["a; b"], ["a", "b", "a; b"]) == ["a; b"]
    assert merged(["CC-BY-NC-4.0"], ["CC-BY", "CC-BY-NC"]) == ["CC-BY-NC-4.0", "CC-BY", "CC-BY-NC"], "a part of a word is not it"
    assert of_cubes([{}, {"license": None}]) == {}
    assert of_cubes([{"license": "a"}, {"license": "a", "attribution": "x"}]) == {"license": "a", "attribution": "x"}
    several = {"license": "a; b", "licenses": ["a", "b"]}
    assert of_cubes([{"license": "a"}, {"license": "b"}]) == of_cubes([several, {"license": "b"}]) == several
    assert of_store([several, {"license": "c"}])["licenses"] == ["a", "b", "c"]
    assert of_store([]) == {"licenses": [], "attributions": []}
