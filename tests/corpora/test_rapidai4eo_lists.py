"""A list of sites in any form that others write chooses the sites of a run; one without ids is refused with its name and why."""

from __future__ import annotations

import datetime as dt
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas
import pyarrow as pa
import pystac
import pytest
import shapely
from pyarrow import parquet
from typer.testing import CliRunner

import eocube
from eocube.cli import app
from eocube.corpora.rapidai4eo_ids import parse_sites
from eocube.corpora.rapidai4eo_tables import read_site_ids
from eocube.errors import CatalogError

IDS = ["33N_15E-200N_01_09", "33N_15E-200N_40_40", "29N_20E-190N_17_03"]
ADDRESS = "https://127.0.0.1:9/rapidai4eo"


def cells() -> list[Any]:
    return list(shapely.polygons(parse_sites(IDS).corners_lonlat()))


def item(sample_id: str, cell: Any) -> pystac.Item:
    """As the corpus has them: one a site, an asset a date."""
    when = dt.datetime(2018, 1, 3, 10, 30, tzinfo=dt.UTC)
    name = f"rapidai4eo_v1_source_pf_{sample_id}"
    properties = {"start_datetime": "2018-01-03T10:30:00Z", "end_datetime": "2019-12-29T10:30:00Z"}
    found = pystac.Item(name, json.loads(shapely.to_geojson(cell)), list(cell.bounds), when, properties)
    found.add_asset("2018-01-03", pystac.Asset(f"https://x/{sample_id}/PF-SR/2018-01-03.tif", media_type=pystac.MediaType.COG))
    return found


def items() -> list[pystac.Item]:
    return [item(i, cell) for i, cell in zip(IDS, cells(), strict=True)]


def item_collection(path: Path) -> None:
    pystac.ItemCollection(items()).save_object(str(path))


def item_table(path: Path) -> None:
    """Columns as stac-geoparquet writes them: the members of an item, its properties beside them, geometry as WKB."""
    rows = [
        {
            **{k: i.to_dict()[k] for k in ("type", "stac_version", "id", "links")},
            "assets": {k: v.to_dict() for k, v in i.assets.items()},
            "bbox": dict(zip(("xmin", "ymin", "xmax", "ymax"), i.bbox or (), strict=True)),
            "geometry": shapely.to_wkb(shapely.geometry.shape(i.geometry)),
            "datetime": i.datetime,
            "collection": "rapidai4eo_v1_source_pf",
        }
        for i in items()
    ]
    schema = pa.Table.from_pylist(rows).drop_columns("links")
    geo = {"version": "1.0.0", "primary_column": "geometry", "columns": {"geometry": {"encoding": "WKB"}}}
    parquet.write_table(schema.replace_schema_metadata({"geo": json.dumps(geo)}), path)


def column_of(kind: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        column = pa.array(IDS)
        column = column.dictionary_encode() if kind == "dictionary" else column.cast(kind)
        parquet.write_table(pa.table({"n": [1, 2, 3], "id": column}), path)

    return write


def frame() -> Any:
    return geopandas.GeoDataFrame({"sample_id": IDS}, geometry=cells(), crs="OGC:CRS84")


def geojson(path: Path) -> None:
    frame().to_file(path, driver="GeoJSON")


def geojson_gz(path: Path) -> None:
    path.write_bytes(gzip.compress(frame().to_json().encode()))


def own_sites() -> Any:
    """Of an address without labels, which takes no network."""
    return eocube.open_corpus("rapidai4eo", "memory://rapidai4eo-lists", sites=IDS).sites


FORMS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "STAC ItemCollection": ("items.json", item_collection),
    "GeoParquet list of STAC items": ("items.parquet", item_table),
    "GeoParquet": ("sites.parquet", lambda p: frame().to_parquet(p)),
    "Parquet, dictionary": ("sites.parquet", column_of("dictionary")),
    "Parquet, string view": ("sites.parquet", column_of(pa.string_view())),
    "Parquet, large string": ("sites.parquet", column_of(pa.large_string())),
    "GeoJSON": ("sites.geojson", geojson),
    "GeoJSON.gz": ("sites.geojson.gz", geojson_gz),
    "CSV": ("sites.csv", lambda p: p.write_text("n,sample_id\n" + "".join(f"1,{i}\n" for i in IDS))),
    "CSV of pandas": ("sites.csv", lambda p: own_sites()[["site", "crs"]].rename(columns={"site": "id"}).to_csv(p)),
    "text": ("sites.txt", lambda p: p.write_text("# mine\n" + "\n".join(IDS))),
    "eocube's own sites as CSV": ("sites.csv", lambda p: own_sites().drop(columns="geometry").to_csv(p)),
    "eocube's own sites as GeoParquet": ("sites.parquet", lambda p: own_sites().to_parquet(p)),
}


@pytest.fixture
def make(tmp_path: Path) -> Callable[[str], Path]:
    def made(form: str) -> Path:
        name, write = FORMS[form]
        write(tmp_path / name)
        return tmp_path / name

    return made


@pytest.mark.parametrize("form", FORMS)
def test_a_list_in_this_form_chooses_the_sites(make: Callable[[str], Path], form: str) -> None:
    path = make(form)
    assert read_site_ids(path).to_pylist() == IDS
    for given in (path, str(path)):
        opened = eocube.open_corpus("rapidai4eo", ADDRESS, sites=given)
        assert [s.name for s in opened.corpus.sites] == IDS


@pytest.mark.parametrize("form", ["STAC ItemCollection", "GeoParquet list of STAC items"])
def test_the_command_line_takes_it(make: Callable[[str], Path], tmp_path: Path, form: str) -> None:
    words = ["convert", "rapidai4eo", ADDRESS, str(tmp_path / "s"), "--site-list", str(make(form)), "--products", "pf_sr"]
    told = CliRunner().invoke(app, [*words, "--plan"])
    assert told.exit_code == 0, told.output
    assert told.stdout.startswith("2 cubes: 3 tasks, 438 requests"), "two tiles, 146 dates of three sites"


def moved(path: Path) -> Path:
    """Items whose geometries are each other's."""
    there = json.loads(path.read_text())
    for feature, other in zip(there["features"], items()[::-1], strict=True):
        feature["geometry"] = other.geometry
    path.write_text(json.dumps(there))
    return path


def test_items_that_lie_elsewhere_than_their_ids_are_refused(make: Callable[[str], Path]) -> None:
    with pytest.raises(CatalogError, match=r"2 of 3 geometries .* do not lie"):
        read_site_ids(moved(make("STAC ItemCollection")))


def foreign_items(path: Path) -> None:
    there = pystac.ItemCollection(items()).to_dict()
    for n, feature in enumerate(there["features"]):
        feature["id"] = f"S2A_{n}"
        feature["properties"] = {"datetime": "2018-01-03T10:30:00Z"}
    path.write_text(json.dumps(there))


WITHOUT: dict[str, tuple[Callable[[Path], Any], str]] = {
    "ItemCollection": (foreign_items, r"feature 0 \('S2A_0'\) has no sample_id.*\['datetime'\]"),
    "GeoJSON": (
        lambda p: frame().drop(columns="sample_id").assign(n=1).to_file(p, driver="GeoJSON"),
        r"feature 0 .*no sample_id.*\['n'\]",
    ),
    "GeoParquet": (
        lambda p: frame().drop(columns="sample_id").assign(name="x").to_parquet(p),
        r"none of its columns .*'name'.* sample ids",
    ),
    "Parquet of numbers": (lambda p: parquet.write_table(pa.table({"id": [1, 2]}), p), r"none of its columns \['id'\]"),
    "CSV": (lambda p: p.write_text("name,n\nx,1\n"), r"no column sample_id; its columns are \['name', 'n'\]"),
    "text": (lambda p: p.write_text("one\ntwo\n"), "'one' is no sample id"),
    "array": (lambda p: p.write_text(json.dumps(IDS)), "JSON array; expected a FeatureCollection"),
    "catalogue": (
        lambda p: pystac.Catalog("rapidai4eo", "x").save_object(dest_href=str(p)),
        "STAC Catalog.* expected an ItemCollection",
    ),
}


@pytest.mark.parametrize("form", WITHOUT)
def test_a_list_without_ids_is_refused_by_name_with_what_it_has(tmp_path: Path, form: str) -> None:
    write, says = WITHOUT[form]
    path = tmp_path / "list"
    write(path)
    with pytest.raises(CatalogError, match=says) as caught:
        eocube.open_corpus("rapidai4eo", ADDRESS, sites=str(path))
    assert str(path) in str(caught.value)
