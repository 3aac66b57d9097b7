"""The lists of RapidAI4EO: every form gives the same ids, what is damaged is refused by name, what is not there is absent."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from eocube.corpora import rapidai4eo_tables as tables
from eocube.corpora.rapidai4eo_ids import parse_site, parse_sites
from eocube.corpora.rapidai4eo_labels import CLC_CLASSES, CLC_NAMES, read_label_mappings, read_labels, read_site_labels
from eocube.corpora.rapidai4eo_sample import write_geometries
from eocube.errors import ArgumentError, CatalogError, UnknownNameError

IDS = ("33N_15E-200N_01_09", "33N_15E-200N_40_40", "29N_20E-190N_17_03")


def feature(sample_id: str, **properties: Any) -> dict[str, Any]:
    corners = parse_sites([sample_id]).corners_lonlat()[0][[0, 3, 2, 1, 0]]
    geometry = {"type": "Polygon", "coordinates": [corners.tolist()]}
    return {"type": "Feature", "properties": {"sample_id": sample_id, **properties}, "geometry": geometry}


def collection(features: list[dict[str, Any]], **members: Any) -> str:
    return json.dumps({"type": "FeatureCollection", **members, "features": features})


def written(path: Path, text: str) -> Path:
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def stac_item(sample_id: str) -> dict[str, Any]:
    item = feature(sample_id)
    properties = {"datetime": None, "start_datetime": "2018-01-03T10:30:00Z"}
    return item | {"id": f"rapidai4eo_v1_source_pf_{sample_id}", "properties": properties, "assets": {}, "links": []}


TEXTS = {
    "geometries.geojson": collection([feature(i) for i in IDS]),
    "geometries.geojson.gz": collection([feature(i) for i in IDS], name="geometries"),
    "indented.json": json.dumps(json.loads(collection([feature(i) for i in IDS])), indent=2),
    "geometry first.geojson": collection([dict(reversed(feature(i).items())) for i in IDS]),
    "no geometry.geojson": collection([feature(i) | {"geometry": None} for i in IDS]),
    "lines.geojsonl": "\n".join(json.dumps(feature(i)) for i in IDS),
    "sequence.geojsons": "".join(f"\x1e{json.dumps(feature(i))}\n" for i in IDS),
    "marked.geojson": "\ufeff" + collection([feature(i) for i in IDS]),
    "items.json": collection([stac_item(i) for i in IDS]),
    "labels.csv": "sample_id,clc_111\n" + "".join(f"{i},0.5\n" for i in IDS),
    "index.csv.gz": ",clc_111\n" + "".join(f"{i},0.5\n" for i in IDS),
    "one column.csv": "sample_id\n" + "\n".join(IDS),
    "ids.txt": "# my sites, all of them\n\n" + "".join(f"  {i}  # near the coast\r\n" for i in IDS),
    "ids.txt.gz": "\n".join(IDS),
}


@pytest.mark.parametrize("name", TEXTS)
def test_every_form_of_list_gives_the_same_ids(tmp_path: Path, name: str) -> None:
    found = tables.read_site_ids(written(tmp_path / name, TEXTS[name]))
    assert found.type == pa.string()
    assert found.to_pylist() == list(IDS)


@pytest.mark.parametrize("column", ["sample_id", "id", "location"])
def test_geoparquet_gives_the_same_ids_whatever_the_column_is_called(tmp_path: Path, column: str) -> None:
    frame = geopandas.GeoDataFrame.from_features([feature(i) for i in IDS], crs="EPSG:4326")
    frame.insert(0, "collection", "rapidai4eo")
    frame.rename(columns={"sample_id": column}).to_parquet(tmp_path / "items.parquet")
    assert tables.read_site_ids(tmp_path / "items.parquet").to_pylist() == list(IDS)


def test_a_parquet_list_of_stac_items_gives_the_ids_within_its_items_ids(tmp_path: Path) -> None:
    table = pa.table({"id": [stac_item(i)["id"] for i in IDS], "n_assets": [146, 146, 146]})
    parquet.write_table(table, tmp_path / "items.parquet")
    assert tables.read_site_ids(tmp_path / "items.parquet").to_pylist() == list(IDS)


def test_a_list_is_read_from_a_url(tmp_path: Path) -> None:
    path = written(tmp_path / "g.geojson.gz", TEXTS["geometries.geojson.gz"])
    assert tables.read_site_ids(path.as_uri()).to_pylist() == list(IDS)
    import fsspec

    with fsspec.open("memory://rapidai4eo-tables/g.geojson.gz", "wb") as file:
        file.write(path.read_bytes())
    assert tables.read_site_ids("memory://rapidai4eo-tables/g.geojson.gz").to_pylist() == list(IDS)
    with pytest.raises(CatalogError, match="No table is at memory://rapidai4eo-tables/none"):
        tables.read_site_ids("memory://rapidai4eo-tables/none")


@given(st.integers(1, 400), st.integers(1, 64))
def test_where_the_text_is_cut_into_chunks_changes_nothing(n_bytes: int, n: int) -> None:
    ids = [f"33N_15E-200N_{1 + i // 40:02d}_{1 + i % 40:02d}" for i in range(n)]
    text = collection([feature(i, name="Côte d'Azur é ☃") for i in ids], name="x")

    class InMemory(tables.Table):
        def __init__(self) -> None:
            self.path, self._body = "memory", json.dumps(json.loads(text), ensure_ascii=False).encode()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "_CHUNK_BYTES", 200 + n_bytes)  # the head holds "features"
        assert [f["properties"]["sample_id"] for f in tables.iter_features(InMemory())] == ids


def test_ids_of_a_drawn_table_are_distinct_uneven_and_lie_where_gdal_reads_them(tmp_path: Path) -> None:
    path = write_geometries(tmp_path / "g.geojson.gz", 3000)
    ids = tables.read_site_ids(path)
    distinct, repeated = tables.distinct_sites(ids)
    assert len(ids) == len(distinct) == 3000
    assert repeated == ()
    columns = parse_sites(ids)
    counts = np.bincount(columns.cube_index)
    assert len(counts) > 20
    assert counts.max() > 3 * np.median(counts)
    frame = geopandas.read_file(f"/vsigzip/{path}")
    assert frame["sample_id"].tolist() == ids.to_pylist()
    row = frame.iloc[[1234]].to_crs(int(columns.epsg[1234]))
    np.testing.assert_allclose(row.total_bounds, columns.bounds_m[1234], atol=1e-3)


def test_repeated_ids_stay_in_the_list_and_are_named() -> None:
    distinct, repeated = tables.distinct_sites(pa.array([IDS[0], IDS[1], IDS[0], IDS[2], IDS[0]]))
    assert distinct.to_pylist() == list(IDS)
    assert repeated == (IDS[0],)


BROKEN = {
    "empty": ("", "lists no site"),
    "no features": (collection([]), "lists no site"),
    "cut off": (TEXTS["geometries.geojson"][:-40], "ends or breaks within a feature"),
    "cut between": (TEXTS["geometries.geojson"].rsplit("]", 1)[0], "ends or breaks within a feature"),
    "no id": (collection([feature(IDS[0]), feature(IDS[0]) | {"properties": {"name": "x"}}]), "feature 1 has no sample_id"),
    "another id": (collection([feature(IDS[0]) | {"properties": {"sample_id": "33N_15E-200N_41_01"}}]), "33N_15E-200N_41_01"),
    "numbers": (collection([])[:-2] + "[1, 2]}", "one of its features is '[1, 2]'"),
    "another CSV": ("a,b\n1,2\n", "no column sample_id"),
    "ragged CSV": ("sample_id,clc_111\n33N_15E-200N_01_09\n", "a row has 1 cells, the first one 2"),
    "another text": ("hello\nworld\n", "'hello' is no sample id"),
    "deep": ('{"features": [' + "[" * 100_000, "recursion"),
    "not UTF-8": ("", ""),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_list_that_cannot_be_used_is_refused_with_its_name_and_why(tmp_path: Path, name: str) -> None:
    text, says = BROKEN[name]
    path = written(tmp_path / "table", text)
    if name == "not UTF-8":
        path.write_bytes(collection([feature(IDS[0], name="é")]).encode("utf-8").replace(b"\\u00e9", b"\xe9"))
        says = "utf-8"
    with pytest.raises(CatalogError, match=str(path)) as caught:
        tables.read_site_ids(path)
    assert says in str(caught.value)


def test_a_packed_list_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    path = write_geometries(tmp_path / "g.geojson.gz", 200)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(CatalogError, match=r"ended before the end-of-stream|breaks within"):
        tables.read_site_ids(path)
    with pytest.raises(CatalogError, match="cannot be opened"):
        tables.read_site_ids(tmp_path / "none.geojson.gz")
    (tmp_path / "x.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(CatalogError, match=r"x\.parquet"):
        tables.read_site_ids(tmp_path / "x.parquet")


def test_geometries_that_lie_a_cell_away_from_their_ids_are_refused(tmp_path: Path) -> None:
    moved = feature("33N_15E-200N_01_10")
    moved["properties"]["sample_id"] = IDS[0]
    path = written(tmp_path / "g.geojson", collection([feature(i) for i in IDS[1:]] + [moved]))
    with pytest.raises(CatalogError, match=rf"1 of 3 geometries .* that of {IDS[0]} .* (59|60). m away"):
        tables.read_site_ids(path)
    assert len(tables.read_site_ids(path, check_geometry=False)) == 3


def test_geometries_in_metres_of_their_zone_are_understood(tmp_path: Path) -> None:
    features = []
    for sample_id in IDS:
        left, bottom, right, top = parse_sites([sample_id]).bounds_m[0].tolist()
        ring = [[left, top], [left, bottom], [right, bottom], [right, top], [left, top]]
        features.append(feature(sample_id) | {"geometry": {"type": "MultiPolygon", "coordinates": [[ring]]}})
    assert len(tables.read_site_ids(written(tmp_path / "g.geojson", collection(features)))) == 3
    features[0]["geometry"]["coordinates"][0][0] = [[x + 600, y] for x, y in features[0]["geometry"]["coordinates"][0][0]]
    with pytest.raises(CatalogError, match="600 m away"):
        tables.read_site_ids(written(tmp_path / "g.geojson", collection(features)))


# --------------------------------------------------------------------------------------------------------------------- labels


def label_csv(rows: dict[str, dict[str, float]], classes: tuple[str, ...] = CLC_CLASSES) -> str:
    lines = [",".join(["sample_id", *classes])]
    lines += [",".join([i, *(str(row.get(c, 0)) for c in classes)]) for i, row in rows.items()]
    return "\n".join(lines) + "\n"


ROWS = {
    IDS[0]: {"clc_211": 0.625, "clc_112": 0.375},
    IDS[1]: {"clc_523": 1.0},
    IDS[2]: {"clc_311": 0.5, "clc_312": 0.25, "clc_324": 0.25},
}
PERCENT = {i: {c: 100 * v for c, v in row.items()} for i, row in ROWS.items()}


def test_there_are_44_classes_and_the_first_digits_group_them_as_corine_does() -> None:
    assert len(CLC_NAMES) == len(set(CLC_NAMES.values())) == 44
    assert Counter(name[4] for name in CLC_CLASSES) == {"1": 11, "2": 11, "3": 12, "4": 5, "5": 5}


@pytest.mark.parametrize(("rows", "unit"), [(ROWS, "fraction"), (PERCENT, "percent")], ids=["0-1", "0-100"])
def test_the_unit_of_labels_shows_in_their_sums_and_fractions_are_the_same(tmp_path: Path, rows, unit: str) -> None:
    labels = read_labels(written(tmp_path / "labels.csv.gz", label_csv(rows)))
    assert labels.unit == unit
    assert "sum to" in labels.stated
    assert labels.sites.to_pylist() == list(IDS)
    assert labels.fractions.dtype == np.float32
    assert labels.of(IDS[0]) == {"clc_211": 0.625, "clc_112": 0.375}
    assert list(labels.of(IDS[2])) == ["clc_311", "clc_312", "clc_324"]
    assert labels.of("33N_15E-200N_05_05") == {}
    assert labels.having("clc_312").to_pylist() == [IDS[2]]
    assert labels.having("311", 0.6).to_pylist() == []
    assert (labels.uneven, labels.repeated, labels.missing_classes) == ((), (), ())


def test_the_caller_may_say_the_unit(tmp_path: Path) -> None:
    labels = read_labels(written(tmp_path / "l.csv", label_csv(ROWS)), unit="percent")
    assert labels.of(IDS[1]) == {"clc_523": pytest.approx(0.01)}
    assert labels.stated == "given by the caller"
    assert labels.uneven == IDS


def test_sums_that_are_near_neither_unit_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "l.csv", label_csv({i: {c: 360_000 * v for c, v in row.items()} for i, row in ROWS.items()}))
    with pytest.raises(CatalogError, match=r"sum to 3.6e\+05 in the median .* unit='fraction'"):
        read_labels(path)


def test_columns_in_another_order_without_prefix_or_missing_are_found(tmp_path: Path) -> None:
    classes = ("CLC_523", "312", "clc_311", "clc_324", "clc_112", "clc_211")
    rows = {i: {c: row.get(f"clc_{c[-3:]}", 0.0) for c in classes} for i, row in ROWS.items()}
    text = label_csv(rows, classes).replace("sample_id", "geometry,sample_id").replace("\n3", "\nPOINT,3").replace("\n2", "\n,2")
    labels = read_labels(written(tmp_path / "l.csv", text))
    assert [labels.of(i) for i in IDS] == [dict(sorted(ROWS[i].items(), key=lambda kv: (-kv[1], kv[0]))) for i in IDS]
    assert len(labels.missing_classes) == 38


def test_a_site_that_is_listed_twice_counts_once_by_its_first_row_and_is_named(tmp_path: Path) -> None:
    head, first, *others = label_csv(ROWS).splitlines(keepends=True)
    again = label_csv({IDS[0]: {"clc_111": 1.0}}).splitlines(keepends=True)[1]
    labels = read_labels(written(tmp_path / "l.csv", "".join([head, first, again, *others])))
    assert labels.repeated == (IDS[0],)
    assert labels.sites.to_pylist() == list(IDS)
    assert [labels.of(i) for i in IDS[1:]] == [ROWS[i] for i in IDS[1:]]
    assert labels.of(IDS[0]) == ROWS[IDS[0]]


def test_empty_cells_are_nothing_and_uneven_sums_are_named(tmp_path: Path) -> None:
    text = label_csv(ROWS, ("clc_211", "clc_112", "clc_523", "clc_311", "clc_312", "clc_324")).replace("0.375", "")
    labels = read_labels(written(tmp_path / "l.csv", text))
    assert labels.uneven == (IDS[0],)
    assert labels.of(IDS[0]) == {"clc_211": 0.625}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("0.625", "-0.625"), "is negative or no number"),
        (("0.625", "inf"), "is negative or no number"),
        (("0.625", "much"), "invalid value 'much'"),
        ((IDS[0], "33N_15E-200N_00_09"), "33N_15E-200N_00_09"),
        (("sample_id", "name"), "no column sample_id"),
        (("clc_", "class_"), "no column clc_111"),
    ],
    ids=["negative", "infinite", "word", "bad id", "no id column", "no class column"],
)
def test_labels_that_cannot_be_used_are_refused(tmp_path: Path, change: tuple[str, str], says: str) -> None:
    path = written(tmp_path / "l.csv", label_csv(ROWS).replace(*change))
    with pytest.raises(CatalogError, match=r"l\.csv") as caught:
        read_labels(path)
    assert says in str(caught.value)


def write_site_files(root: Path, rows: dict[str, dict[str, float]]) -> None:
    for sample_id, row in rows.items():
        zone, tile, _ = sample_id.split("_", 2)
        path = root / "labels" / zone / tile / f"labels_{sample_id}.geojson"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(feature(sample_id, **dict.fromkeys(CLC_CLASSES, 0) | row)))


@pytest.mark.parametrize(("rows", "unit"), [(ROWS, "fraction"), (PERCENT, "percent")], ids=["0-1", "0-100"])
def test_a_sites_own_files_say_the_same_and_a_missing_one_is_absent(tmp_path: Path, rows, unit: str) -> None:
    write_site_files(tmp_path, {i: rows[i] for i in IDS[:2]})
    labels = read_site_labels(tmp_path, [parse_site(i) for i in IDS])
    assert labels.sites.to_pylist() == list(IDS[:2])
    assert labels.unit == unit
    bulk = read_labels(written(tmp_path / "l.csv", label_csv(rows)))
    assert [labels.of(i) for i in IDS[:2]] == [bulk.of(i) for i in IDS[:2]]
    nothing = read_site_labels(tmp_path / "none", [parse_site(IDS[0])])
    assert (len(nothing), nothing.stated) == (0, "no site has a label")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "holds no feature"),
        ("{", "breaks within a feature"),
        (json.dumps(feature(IDS[0])), "no property clc_111"),
        (json.dumps(feature(IDS[0], clc_211="all")), "'all', no share"),
        (json.dumps(feature(IDS[0], clc_211=-1)), "negative"),
    ],
)
def test_a_damaged_label_file_is_refused_by_name(tmp_path: Path, text: str, says: str) -> None:
    write_site_files(tmp_path, ROWS)
    (tmp_path / f"labels/33N/15E-200N/labels_{IDS[0]}.geojson").write_text(text)
    with pytest.raises(CatalogError, match="labels") as caught:
        read_site_labels(tmp_path, [parse_site(i) for i in IDS])
    assert says in str(caught.value)
    assert IDS[0] in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "code,name,group\n311,Broad-leaved forest,forest\n523,Sea and ocean,water\n",
        "name,clc,group\nx,clc_311,forest\ny,clc_523,water\n",
    ],
    ids=["bare codes first", "prefixed, second"],
)
def test_the_column_of_classes_in_the_mappings_is_found_by_what_it_holds(tmp_path: Path, text: str) -> None:
    mappings = read_label_mappings(written(tmp_path / "m.csv", text))
    assert {clc: row["group"] for clc, row in mappings.items()} == {"clc_311": "forest", "clc_523": "water"}
    assert all(set(row) == {"name", "group"} for row in mappings.values())


def test_mappings_without_classes_and_unknown_classes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="CORINE"):
        read_label_mappings(written(tmp_path / "m.csv", "a,b\n1,2\n"))
    with pytest.raises(CatalogError, match="CORINE"):
        read_label_mappings(written(tmp_path / "m.csv", ""))
    with pytest.raises(UnknownNameError, match="clc_523"):
        read_labels(written(tmp_path / "l.csv", label_csv(ROWS))).having("clc_999")


# ---------------------------------------------------------------------------------------------------------------------- split


def test_a_tile_has_one_split_whatever_else_there_is_and_about_the_asked_shares() -> None:
    cubes = [f"{z}N_{e}E-{n}N" for z in range(29, 37) for e in range(14, 27) for n in range(166, 186)]
    splits = [tables.split_of(cube) for cube in cubes]
    assert splits == [tables.split_of(cube) for cube in cubes]
    shares = {name: count / len(cubes) for name, count in Counter(splits).items()}
    assert shares == {
        "train": pytest.approx(0.8, abs=0.03),
        "val": pytest.approx(0.1, abs=0.03),
        "test": pytest.approx(0.1, abs=0.03),
    }
    assert {tables.split_of(c, val=0, test=0) for c in cubes} == {"train"}
    assert {tables.split_of(c, val=0.5, test=0.5) for c in cubes} == {"val", "test"}
    assert splits != [tables.split_of(cube, seed=1) for cube in cubes]


def test_the_split_of_known_tiles_never_changes() -> None:
    """A store that was split with an older version must not leak into a newer one's test set."""
    known = {"33N_15E-200N": "train", "33N_16E-243N": "train", "34N_16E-210N": "test", "29N_21E-188N": "val"}
    assert {cube: tables.split_of(cube) for cube in known} == known


def test_what_is_no_tile_or_no_share_is_refused() -> None:
    with pytest.raises(ArgumentError, match="no tile"):
        tables.split_of(IDS[0])
    with pytest.raises(ArgumentError, match=r"val=0\.6 and test=0\.6"):
        tables.split_of("33N_15E-200N", val=0.6, test=0.6)


# ----------------------------------------------------------------------------------------------------------------- local tree


def test_sites_of_a_tree_are_its_folders_and_everything_else_is_named(tmp_path: Path) -> None:
    for sample_id in IDS:
        zone, tile, _ = sample_id.split("_", 2)
        (tmp_path / "imagery" / zone / tile / sample_id).mkdir(parents=True)
    here = tmp_path / "imagery/33N/15E-200N"
    (here / "33N_15E-200N_41_01").mkdir()
    (here / "33N_16E-200N_01_01").mkdir()
    (here / "33N_15E-200N_02_02").write_text("a file")
    (tmp_path / "imagery/list.txt").write_text("")
    found = tables.present_sites(tmp_path)
    assert found.sites.to_pylist() == sorted(IDS)
    assert sorted(found.strangers) == [
        "imagery/33N/15E-200N/33N_15E-200N_02_02",
        "imagery/33N/15E-200N/33N_15E-200N_41_01",
        "imagery/33N/15E-200N/33N_16E-200N_01_01",
        "imagery/list.txt",
    ]
    with pytest.raises(CatalogError, match="No folder 'imagery'"):
        tables.present_sites(here)


def test_dates_of_a_site_are_its_files_and_a_missing_folder_is_no_date(tmp_path: Path) -> None:
    site = parse_site(IDS[0])
    folder = tmp_path / f"imagery/33N/15E-200N/{IDS[0]}/PF-SR"
    folder.mkdir(parents=True)
    for name in ("2019-12-29.tif", "2018-01-03.tif", "2018-01-04.tif", "2018-01-08.tif.part", "2018-01-13.TIF"):
        (folder / name).write_text("")
    (folder / "2018-01-18.tif").mkdir()
    assert tables.present_dates(tmp_path, site, "PF-SR").steps == (0, 145)
    assert tables.present_dates(tmp_path, site, "pf_sr").strangers == ("2018-01-04.tif", "2018-01-08.tif.part", "2018-01-13.TIF")
    assert tables.present_dates(tmp_path, site, "s2_sr") == ((), ())
