"""Items that mean harm, through the command line: refused by name, and nothing is written outside the store."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from eocube.jobs.audit import audit
from eocube.testing.stores import cubes_of, index_rows, tree
from tests.cli.conftest import Catalog, Invoke, parsed
from tests.cli.test_bad_input import RUN, check_nothing_is_taken_for_complete, edit, items_of, refused


def everything_below(folder: Path) -> Iterator[str]:
    return (str(p.relative_to(folder)) for p in folder.rglob("*"))


def put(path: Path, name: str, value: Any) -> None:
    """Set an item's id, or one of its properties."""
    edit(path, lambda item: (item if name == "id" else item["properties"]).update({name: value}))


def file(**fields: Any) -> Callable[[dict[str, Any]], Any]:
    """Change fields of the asset B08."""
    return lambda item: item["assets"]["B08"].update({k.replace("__", ":"): v for k, v in fields.items()})


NAMES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "an id with an escape": (lambda i: i.update({"id": "a\x1b[2J\nError: fine"}), r"has id 'a\x1b[2J\nError: fine'"),
    "an id with NUL": (lambda i: i.update({"id": "a\x00"}), r"has id 'a\x00'"),
    "an id of 10,000": (lambda i: i.update({"id": "x" * 10_000}), "(10,000 characters)"),
    "an id that is a number": (lambda i: i.update({"id": 7}), "has id 7"),
    "half a character": (lambda i: i.update({"id": "\ud800"}), r"has id '\ud800'"),
    "an asset with a line": (lambda i: i["assets"].update({"a\nb": {"href": "x.tif"}}), r"an asset named 'a\nb'"),
    "an asset that is a text": (lambda i: i["assets"].update({"B08": "x.tif"}), "asset 'B08' is 'x.tif'"),
    "an asset without a file": (lambda i: i["assets"]["B08"].pop("href"), "asset 'B08': href is None"),
    "a script": (file(href="javascript:alert(1)"), "Asset 'B08'"),
    "inline data": (file(href="data:image/tiff;base64,AA"), "files behind 'data:' are not read"),
    "a GDAL description": (file(href="<VRTDataset/>"), "no path or URL"),
    "a GDAL service": (file(href="WMTS:http://x"), "files behind 'WMTS:' are not read"),
    "standard input": (file(href="/vsistdin/"), "standard input"),
    "NUL in an href": (file(href="/x\x00.tif"), r"href is '/x\x00.tif'"),
    "a shape of 10^18": (file(proj__shape=[10**9, 10**9]), "declares a grid that makes no sense"),
    "10^400 rows": (file(proj__shape=[10**400, 4]), "proj:shape is [an integer of 1,329 bits, 4]"),
    "NaN in a transform": (file(proj__transform=[float("nan")] * 6), "proj:transform is [nan"),
    "1e308 metres": (file(proj__transform=[10, 0, 1e308, 0, -10, 5e6]), "lie on 2 grids"),
    "no CRS at all": (file(proj__code="../../etc/passwd"), "declares a grid that makes no sense"),
    "a tile of 5,000": (lambda i: i["properties"].update({"grid:code": "x" * 1_000}), "a name of 1,000 characters"),
    "cloud cover": (lambda i: i["properties"].update({"eo:cloud_cover": 10**400}), "eo:cloud_cover is an integer of 1,329 bits"),
    "a list of bands": (file(bands={"0": {}}), "bands is an object of 1 fields, expected a list"),
    "scale 0": (lambda i: i["assets"]["B08"]["bands"][0].update({"raster:scale": 0}), "asset 'B08': scale is 0"),
    "properties": (lambda i: i.update({"properties": [1]}), "no properties object: found [1]"),
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_an_item_that_means_harm_is_refused_by_name_and_writes_nothing(
    eocube: Invoke, catalog: Catalog, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, said = NAMES[name]
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    edit(items_of(catalog.folder)[1], change)
    before = sorted(everything_below(tmp_path))
    line = refused(eocube("convert", "stac", catalog.path, tmp_path / "store", *RUN), said)
    assert len(line) < 1_500
    assert name.startswith(("an id", "half")) or catalog.scenes[1].item_id in line
    assert sorted(p for p in everything_below(tmp_path) if not p.startswith("store")) == before
    check_nothing_is_taken_for_complete(tmp_path / "store")


@pytest.mark.parametrize("code", ["../../../outside", "/outside", "..", ".", "a/../../b", "C:\\x", "x\u2215y", "-.-"])
def test_a_tile_named_like_a_path_stays_below_the_store(
    eocube: Invoke, catalog: Catalog, tmp_path: Path, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for path in items_of(catalog.folder):
        edit(path, lambda item: item["properties"].update({"grid:code": code}))
    before = {p for p in everything_below(tmp_path) if not p.startswith("store")}
    assert eocube("convert", "stac", catalog.path, tmp_path / "store", *RUN).exit_code == 0
    assert {p for p in everything_below(tmp_path) if not p.startswith("store")} == before
    (row,) = index_rows(tmp_path / "store")
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", row["cube"])
    assert audit(str(tmp_path / "store"), deep=True, executor="serial").ok


@pytest.mark.parametrize(("one", "other"), [("35TLL", "35tll"), ("a/b", "a-b"), ("a b", "a/b")])
def test_tiles_whose_names_would_fold_into_one_are_refused(
    eocube: Invoke, catalog: Catalog, store: Path, one: str, other: str
) -> None:
    for path, code in zip(items_of(catalog.folder), (one, one, other, other), strict=True):
        put(path, "grid:code", code)
    refused(eocube("convert", "stac", catalog.path, store), repr(one), repr(other), "would be one cube", "grid:code")
    assert not store.exists()


def test_two_items_of_one_id_are_refused_unless_they_are_one(eocube: Invoke, catalog: Catalog, store: Path) -> None:
    first, second, *_ = items_of(catalog.folder)
    edit(second, lambda item: item.update({"id": catalog.scenes[0].item_id}))
    refused(eocube("convert", "stac", catalog.path, store), catalog.scenes[0].item_id, "comes twice, with different datetime")
    edit(second, lambda item: item["properties"].update(json.loads(first.read_text())["properties"]))
    refused(eocube("convert", "stac", catalog.path, store), catalog.scenes[0].item_id, "comes twice, with different hrefs")
    second.write_text(first.read_text().replace('"./', f'"{first.parent}/'))
    assert eocube("convert", "stac", catalog.path, store).exit_code == 0
    assert index_rows(store)[0]["n_dates"] == 3


def test_ids_that_differ_by_case_or_by_signs_are_two_items(eocube: Invoke, catalog: Catalog, store: Path) -> None:
    for path, name in zip(items_of(catalog.folder), ("a/b", "A/B", "a-b", "../b"), strict=True):
        put(path, "id", name)
    assert eocube("convert", "stac", catalog.path, store, *RUN).exit_code == 0
    assert index_rows(store)[0]["n_dates"] == 4
    assert audit(str(store), deep=True, executor="serial").ok


def test_a_link_out_of_the_catalogue_is_followed_as_any_path_and_read_only(
    eocube: Invoke, catalog: Catalog, tmp_path: Path
) -> None:
    """What the documentation says: addresses are opened as they stand, with the rights of who runs the command."""
    eocube("convert", "stac", catalog.path, tmp_path / "a", *RUN)
    (file,) = catalog.folder.rglob(f"{catalog.scenes[1].item_id}_B08.tif")
    outside = tmp_path / "outside.tif"
    file.rename(outside)
    file.symlink_to(outside)
    body = outside.read_bytes()
    (other,) = catalog.folder.rglob(f"{catalog.scenes[2].item_id}_B04.tif")
    edit(items_of(catalog.folder)[2], lambda i: i["assets"]["B04"].update({"href": f"file://{other}"}))
    assert eocube("convert", "stac", catalog.path, tmp_path / "b", *RUN).exit_code == 0
    assert cubes_of(tmp_path / "a") == cubes_of(tmp_path / "b")
    assert outside.read_bytes() == body


@pytest.fixture
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict[str, Any]]:
    """Everything round the stores, with times and digests; the run's own folder lies in it, beside a note that is no TIFF."""
    home = tmp_path / "home" / "of" / "the" / "run"
    home.mkdir(parents=True)
    monkeypatch.chdir(home)
    (tmp_path / "note.txt").write_text("not for you\n")

    def look() -> dict[str, Any]:
        files = {k: (v, (tmp_path / k).stat().st_mtime_ns) for k, v in tree(tmp_path).items()}
        return {k: files.get(k) for k in everything_below(tmp_path) if not k.startswith("store")}

    return look


def up(catalog: Catalog) -> str:
    """From the folder of an item to the one that its catalogue lies in."""
    return "../" * len(items_of(catalog.folder)[1].parent.relative_to(catalog.folder.parent).parts)


WAYS: dict[str, Callable[[Catalog], str]] = {
    "up from the item": lambda c: f"{up(c)}outside.tif",
    "up, down and up": lambda c: f"./x/../{up(c)}files/../outside.tif",
    "beyond the root and down again": lambda c: f"{'../' * 40}{c.folder.parent}/outside.tif",
    "an absolute path": lambda c: f"{c.folder.parent}/outside.tif",
    "an absolute path with ..": lambda c: f"{c.folder}/../outside.tif",
    "a file URL": lambda c: f"file://{c.folder.parent}/outside.tif",
    "a file URL with ..": lambda c: f"file://{c.folder}/../outside.tif",
}


@pytest.mark.parametrize("way", WAYS)
def test_an_href_with_two_dots_leads_where_stac_says_and_is_only_read(
    eocube: Invoke, catalog: Catalog, tmp_path: Path, way: str, surroundings: Callable[[], dict[str, Any]]
) -> None:
    eocube("convert", "stac", catalog.path, tmp_path / "store_of_whole", *RUN)
    (inside,) = catalog.folder.rglob(f"{catalog.scenes[1].item_id}_B08.tif")
    inside.rename(tmp_path / "outside.tif")
    edit(items_of(catalog.folder)[1], file(href=WAYS[way](catalog)))
    before = surroundings()
    assert eocube("convert", "stac", catalog.path, tmp_path / "store", *RUN).exit_code == 0
    assert surroundings() == before
    assert cubes_of(tmp_path / "store") == cubes_of(tmp_path / "store_of_whole")


ELSEWHERE: dict[str, tuple[Callable[[Catalog], str], str]] = {
    "a text above the catalogue": (lambda c: f"{up(c)}note.txt", "{above}/note.txt"),
    "a file of the system": (lambda _: "/etc/passwd", "/etc/passwd"),
    "a file of the system by dots": (lambda _: "../" * 40 + "etc/passwd", "/etc/passwd"),
    "a file of the system by URL": (lambda _: "file:///etc/passwd", "file:///etc/passwd"),
    "a URL of two dots": (lambda _: "file://../..", "file://../.."),
    "a URL up from where the run is": (lambda _: "file://../../../../note.txt", "file://../../../../note.txt"),
    "a folder": (up, "{above}"),
    "the store itself": (lambda c: f"{up(c)}store/zarr.json", "{above}/store/zarr.json"),
    "nothing above the root": (lambda _: "../" * 40 + "no/such/file.tif", "/no/such/file.tif"),
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_an_href_that_leads_to_no_tiff_is_an_error_of_its_asset_and_nothing_is_written_there(
    eocube: Invoke, catalog: Catalog, tmp_path: Path, name: str, surroundings: Callable[[], dict[str, Any]]
) -> None:
    make, said = ELSEWHERE[name]
    edit(items_of(catalog.folder)[1], file(href=make(catalog)))
    before, item_id, href = surroundings(), catalog.scenes[1].item_id, said.format(above=tmp_path)
    command = ("convert", "stac", catalog.path, tmp_path / "store", *RUN)
    refused(eocube(*command), "Asset 'B08'", item_id, f"could not be read from {href}", "Mend the file")
    check_nothing_is_taken_for_complete(tmp_path / "store")
    listed = eocube(*command, "--errors", "skip", "--json")
    assert listed.exit_code == 3
    assert [(f["item_id"], f["asset"], f["href"]) for f in parsed(listed)["failed"]] == [(item_id, "B08", href)]
    assert surroundings() == before
    catalog.write()
    assert eocube(*command, "--retry").exit_code == 0
    assert audit(str(tmp_path / "store"), deep=True, executor="serial").ok


@pytest.mark.parametrize(
    "text", ["{" * 100_000, '{"a":' * 100_000, "[" * 100_000, "NaN", '{"type": "Feature", "id": 1e999}', "\x00", "{\ud800"]
)
def test_documents_that_are_no_json_or_nested_without_end_are_told(eocube: Invoke, tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    refused(eocube("convert", "stac", path, tmp_path / "store"), str(path))


def test_a_link_to_a_chain_of_file_systems_is_refused(eocube: Invoke, tmp_path: Path) -> None:
    """Such a chain (simplecache::…) would put a copy where nobody asked for one."""
    links = [{"rel": "item", "href": f"filecache::file://{tmp_path}/item.json"}]
    (tmp_path / "c.json").write_text(json.dumps({"type": "Catalog", "id": "c", "links": links}))
    refused(eocube("convert", "stac", tmp_path / "c.json", tmp_path / "store"), "filecache::", "one path or URL")
