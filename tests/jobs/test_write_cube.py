"""write_cube: recorded cubes are replayed, changed ones are written as changed or refused; nothing is written wrongly."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import dask.array as da
import numpy as np
import pytest
import rioxarray  # noqa: F401 - registers .rio
import xarray as xr

import eocube
from eocube.errors import CubeError, GridError, SettingsError, StepContractError, UnknownNameError, UnrecordedError
from eocube.jobs.open import load_stac, open_cube
from eocube.jobs.write import WriteSettings, explain, plan_cube, write_cube
from eocube.model.recipe import RECIPE_ATTR, Recipe, recipe_of
from eocube.testing.stac import expected_cube, make_series, write_items

SERIES = make_series(6)
CHUNKS = {"time": 2, "y": 20, "x": 32}


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return write_items(SERIES, tmp_path_factory.mktemp("items"))


@pytest.fixture
def cube(items: list[dict[str, Any]]) -> xr.Dataset:
    return load_stac(items, chunks=CHUNKS)


def stored(store: Path) -> xr.Dataset:
    """The cube as plain xarray reads it, undecoded."""
    return xr.open_zarr(str(store / "cubes/cube/data"), zarr_format=3, consolidated=True, mask_and_scale=False).load()


def write(cube: Any, store: Path, **options: Any) -> xr.Dataset:
    write_cube(cube, str(store), executor="serial", **options)
    return stored(store)


# ------------------------------------------------------------------------------------------------ recorded


def test_a_recorded_cube_is_replayed_and_says_how_it_was_made(cube: xr.Dataset, tmp_path: Path) -> None:
    made = write(cube, tmp_path)
    np.testing.assert_array_equal(made["data"].values, expected_cube(SERIES, ["B04", "B08"]), strict=True)
    assert made.attrs[RECIPE_ATTR] == str(recipe_of(cube))
    assert '"kind":"stac"' in made.attrs[RECIPE_ATTR]


def test_nothing_in_the_cube_names_where_its_files_lie(cube: xr.Dataset, items: Any, tmp_path: Path) -> None:
    write(cube, tmp_path)
    folder = items[0]["assets"]["B04"]["href"].rpartition("/")[0]
    for path in (tmp_path / "cubes").rglob("*"):
        assert not path.is_file() or folder.encode() not in path.read_bytes(), path


def test_a_data_array_is_taken_as_data(cube: xr.Dataset, tmp_path: Path) -> None:
    made = write(cube["data"], tmp_path)
    np.testing.assert_array_equal(made["data"].values, expected_cube(SERIES, ["B04", "B08"]))
    assert "scl" not in made


def test_a_pickled_cube_is_still_recorded(cube: xr.Dataset, tmp_path: Path) -> None:
    again = pickle.loads(pickle.dumps(cube))
    assert isinstance(again.attrs[RECIPE_ATTR], Recipe)
    made = write(again, tmp_path)
    assert made.attrs[RECIPE_ATTR] == str(recipe_of(cube))
    np.testing.assert_array_equal(made["data"].values, expected_cube(SERIES, ["B04", "B08"]))


def test_persist_and_copy_leave_a_cube_recorded(cube: xr.Dataset) -> None:
    for kept in (cube.persist(), cube.copy(), cube.copy(deep=True), cube[["data", "scl"]]):
        assert recipe_of(kept) == recipe_of(cube)


# ------------------------------------------------------------------------------------------------ changed by xarray


def _block_times_two(block: xr.Dataset) -> xr.Dataset:
    return block * 2


def _reversed_bands(values: np.ndarray) -> np.ndarray:
    return values[..., ::-1, :, :]


PICKLED = ("arithmetic", "isel time", "where", "map_blocks", "concat", "apply_ufunc", "another grid mapping")

CHANGES: dict[str, Callable[[xr.Dataset], xr.Dataset]] = {
    "arithmetic": lambda c: c * 2,
    "arithmetic on one variable": lambda c: c.assign(data=c["data"] + 1),
    "isel time": lambda c: c.isel(time=[0, 2, 5]),
    "isel space": lambda c: c.isel(y=slice(3, 30), x=slice(5, 40)),
    "isel band": lambda c: c.isel(band=[1, 0]),
    "sel": lambda c: c.sel(time=slice("2021-01-05", "2021-01-20")),
    "where": lambda c: c.where(c["scl"] == 4),
    "map_blocks": lambda c: c.map_blocks(_block_times_two, template=c * 2),
    "concat": lambda c: xr.concat(
        [c.isel(time=slice(0, 2)), c.isel(time=slice(4, 6))], "time", data_vars="all", coords="different", compat="equals"
    ),
    "load": lambda c: (c * 3).load(),
    "load alone": lambda c: c.copy().load(),
    "apply_ufunc": lambda c: xr.apply_ufunc(np.invert, c[["data"]], dask="parallelized", output_dtypes=["u2"], keep_attrs=True),
    "apply_ufunc on blocks": lambda c: c.assign(
        data=xr.apply_ufunc(_reversed_bands, c["data"].chunk(band=-1), dask="allowed", keep_attrs=True, input_core_dims=[[]])
    ),
    "chunk": lambda c: c.chunk(time=6, y=48, x=16),
    "shift": lambda c: c.shift(x=1, fill_value=0),
    "sortby": lambda c: c.sortby("time", ascending=True).isel(time=slice(1, None)),
    "assign_coords": lambda c: c.assign_coords(x=c["x"] + 1_000),
    "rio.write_crs": lambda c: c.rio.write_crs("EPSG:32636"),
    "another grid mapping": lambda c: c.assign_coords(
        spatial_ref=c["spatial_ref"].assign_attrs(c.rio.write_crs("EPSG:32636")["spatial_ref"].attrs)
    ),
    "astype": lambda c: c.assign(data=c["data"].astype("uint32", keep_attrs=True)),
    "drop a mask": lambda c: c.drop_vars("scl"),
    "another offset": lambda c: c.assign(data=c["data"].assign_attrs(add_offset=-0.5)),
    "another nodata": lambda c: c.assign(data=c["data"].assign_attrs(_FillValue=7)),
    "fillna": lambda c: c.where(c["scl"] == 4).fillna(7),
    "transpose": lambda c: c.transpose("y", "x", "band", "time"),
    "dask.array": lambda c: c.assign(data=(c["data"].dims, da.flip(c["data"].data, 3), c["data"].attrs)),
}


@pytest.mark.parametrize(
    ("change", "pickled"),
    [(c, False) for c in CHANGES] + [(c, True) for c in PICKLED],
    ids=lambda v: v if v in CHANGES else str(v),
)
def test_a_cube_that_xarray_changed_is_noticed_and_written_as_it_is(
    cube: xr.Dataset, tmp_path: Path, change: str, *, pickled: bool
) -> None:
    changed = CHANGES[change](cube)
    if pickled:
        changed = cloudpickle.loads(cloudpickle.dumps(changed))
    with pytest.raises(UnrecordedError):
        recipe_of(changed)
    made, asked = write(changed, tmp_path), changed.compute()
    for name in changed.data_vars:
        np.testing.assert_array_equal(made[name].values, asked[name].transpose(*made[name].dims).values, err_msg=str(name))
        assert made[name].dtype == asked[name].dtype
    for name in ("time", "band", "y", "x"):
        np.testing.assert_array_equal(made[name].values, asked[name].values, err_msg=name)
    assert made.rio.crs == changed.rio.crs
    assert '"kind":"graph"' in made.attrs[RECIPE_ATTR]


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        pytest.param(lambda c: c.sortby("time", ascending=False), CubeError, "do not increase", id="time backwards"),
        pytest.param(lambda c: c.isel(x=[0, 1, 3]), GridError, "not evenly spaced", id="a hole along x"),
        pytest.param(lambda c: c.isel(time=0), CubeError, "time, band, y, x", id="no time"),
        pytest.param(lambda c: c.rename(data="red"), CubeError, "Dataset with data", id="no data"),
        pytest.param(lambda c: c.drop_vars("spatial_ref"), GridError, "no spatial_ref", id="no CRS"),
        pytest.param(lambda c: c.isel(time=[]), CubeError, r"nothing along \['time'\]", id="no date"),
        pytest.param(lambda c: c.isel(band=[0, 0]), CubeError, "names repeat", id="a band twice"),
        pytest.param(lambda c: c.assign(mean=c["data"].mean("time")), CubeError, "neither data", id="another dimension"),
        pytest.param(lambda c: 3, CubeError, "Dataset or DataArray, got int", id="no cube at all"),
    ],
)
def test_what_is_no_cube_is_refused_before_anything_is_written(
    cube: xr.Dataset, tmp_path: Path, change: Callable[[Any], Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        write_cube(change(cube), str(tmp_path / "store"), executor="serial")
    assert not (tmp_path / "store").exists()


def test_a_graph_that_says_one_dtype_and_computes_another_is_refused(cube: xr.Dataset, tmp_path: Path) -> None:
    """65,000 would become 64,998 - 65,536 without a word."""
    lying = xr.apply_ufunc(lambda a: a * 3.0, cube[["data"]], dask="parallelized", output_dtypes=["u2"], keep_attrs=True)
    assert lying["data"].dtype == "u2"
    with pytest.raises(StepContractError, match=r"was to be uint16 .* and came as float64"):
        write_cube(lying, str(tmp_path), executor="serial")
    assert not list((tmp_path / "cubes").rglob("data/c/*"))


def test_two_changes_of_one_cube_are_not_taken_for_each_other(cube: xr.Dataset, tmp_path: Path) -> None:
    write(cube * 2, tmp_path)
    with pytest.raises(SettingsError):
        write(cube * 3, tmp_path)
    with pytest.raises(SettingsError):
        write(cube, tmp_path)
    np.testing.assert_array_equal(stored(tmp_path)["data"].values, expected_cube(SERIES, ["B04", "B08"]) * 2)


def test_a_cube_in_memory_is_named_by_its_pixels(cube: xr.Dataset, tmp_path: Path) -> None:
    loaded = cube.load()
    write(loaded, tmp_path)
    write(loaded.copy(deep=True), tmp_path)
    other = loaded.copy(deep=True)
    other["data"].values[0, 0, 0, 0] += 1
    with pytest.raises(SettingsError):
        write(other, tmp_path)


def test_a_step_id_lets_a_later_session_go_on(cube: xr.Dataset, tmp_path: Path) -> None:
    """The names in a graph are other ones in every session; the caller's own name is not."""
    made = write(cube * 2, tmp_path, step_id="doubled-v1")
    report = write_cube(cube.chunk(time=3) * 2, str(tmp_path), executor="serial", step_id="doubled-v1")
    assert report.regions_done == 0
    xr.testing.assert_identical(stored(tmp_path), made)


def test_a_big_unrecorded_cube_is_refused_naming_apply(items: list[dict[str, Any]], tmp_path: Path) -> None:
    small = load_stac(items, chunks={"time": 1, "y": 4, "x": 2})
    assert small["data"].data.npartitions == 6 * 12 * 32 > 2_000
    with pytest.raises(UnrecordedError, match=r"2304 chunks.* 2000.*eocube\.apply"):
        write_cube(small * 2, str(tmp_path / "store"), executor="serial")
    assert not (tmp_path / "store").exists()
    write(small, tmp_path)


def test_a_lone_data_array_of_a_big_cube_is_refused_too(items: list[dict[str, Any]], tmp_path: Path) -> None:
    small = load_stac(items, chunks={"time": 1, "y": 4, "x": 2})
    with pytest.raises(UnrecordedError, match=r"eocube\.apply"):
        write_cube(small["data"] + 1, str(tmp_path), executor="serial")


def test_a_cube_of_ones_own_needs_only_dims_and_a_crs(tmp_path: Path) -> None:
    values = np.arange(2 * 3 * 5 * 7, dtype="f4").reshape(2, 3, 5, 7)
    values[0, 0, 0, 0] = np.nan
    mine = xr.DataArray(
        values,
        dims=("time", "band", "y", "x"),
        coords={
            "time": np.array(["2020-01-01", "2020-02-01T12:30"], "M8[ns]"),
            "band": ["a", "b", "c"],
            "y": 50.0 - np.arange(5) * 2,
            "x": 10.0 + np.arange(7) * 2,
        },
    ).rio.write_crs("EPSG:32633")
    made = write(mine, tmp_path)
    np.testing.assert_array_equal(made["data"].values, values)
    assert made.rio.crs == mine.rio.crs
    assert made.rio.transform() == mine.rio.transform()
    assert list(made["time"].values) == list(mine["time"].values)


# ------------------------------------------------------------------------------------------------ names, limits, options


@pytest.mark.parametrize("name", ["", "a/b", "a b", ".hidden", "..", "é", "a\\b"])
def test_a_name_that_is_no_slug_is_refused(cube: xr.Dataset, tmp_path: Path, name: str) -> None:
    for names in ({"site": name}, {"product": name}):
        with pytest.raises(CubeError, match="cannot name a cube"):
            write_cube(cube, str(tmp_path / "store"), executor="serial", **names)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"layout": "spiral"}, "layout 'spiral'"),
        ({"errors": "ignore"}, "errors 'ignore'"),
        ({"executor": "gpu"}, "executor 'gpu'"),
    ],
    ids=str,
)
def test_an_unknown_option_is_refused_with_those_that_are_known(
    cube: xr.Dataset, tmp_path: Path, options: Any, says: str
) -> None:
    with pytest.raises(UnknownNameError, match=f"Unknown {says}; known: "):
        write_cube(cube, str(tmp_path / "store"), **{"executor": "serial", **options})


def test_a_limit_writes_that_many_regions_and_finishes_nothing(cube: xr.Dataset, tmp_path: Path) -> None:
    def run(limit: int | None) -> Any:
        return write_cube(cube, str(tmp_path), layout="map", executor="serial", limit=limit)

    first = run(4)
    assert (first.regions_done, first.stopped_at_limit, first.cubes) == (4, True, [])
    assert eocube.open_store(str(tmp_path)).index.num_rows == 0
    second = run(2)
    assert (second.regions_done, second.regions_skipped, second.stopped_at_limit) == (2, 4, False)
    assert second.cubes == ["cube/data"]
    assert run(1).cubes == ["cube/data"]
    np.testing.assert_array_equal(stored(tmp_path)["data"].values, expected_cube(SERIES, ["B04", "B08"]))


def test_progress_hears_of_every_region(cube: xr.Dataset, tmp_path: Path) -> None:
    heard = []
    report = write_cube(cube, str(tmp_path), layout="map", executor="threads:2", on_done=heard.append)
    assert sorted(str(d.region) for d in heard) == [f"{t}.0.0" for t in range(6)]
    assert sum(d.bytes_written for d in heard) == report.bytes_written
    assert report.bytes_evaluated == cube.nbytes - sum(c.nbytes for c in cube.coords.values())


# ------------------------------------------------------------------------------------------------ plans


def test_a_plan_says_what_will_be_read_and_shrinks(cube: xr.Dataset) -> None:
    plan = explain(cube, layout="map")
    table = plan.table()
    assert len(plan) == table.num_rows == 6
    assert table.column_names[:3] == ["cube", "product", "region"]
    assert table["region"].to_pylist() == [f"{t}.0.0" for t in range(6)]
    head = plan.head(2)
    assert (len(head), head.table().num_rows, len(head.head(5)), len(plan.head(99))) == (2, 2, 2, 6)
    pixels = 48 * 64
    assert table["bytes_out"].to_pylist() == [pixels * (2 * 2 + 1)] * 6
    assert table["bytes_used"].to_pylist() == [pixels * (2 * 2 + 1)] * 6
    assert all(a >= b for a, b in zip(table["bytes_fetched"].to_pylist(), table["bytes_used"].to_pylist(), strict=True))
    assert "6 tasks" in str(plan)


def test_a_plan_of_nothing_but_memory_needs_no_store(cube: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    str(explain(cube))
    str(explain(cube * 2))
    plan_cube(cube, str(tmp_path / "never"), site="a", product="b", settings=WriteSettings())
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------ elsewhere than folders


def test_a_store_in_memory_holds_the_same_objects_as_a_folder(cube: xr.Dataset, tmp_path: Path) -> None:
    import fsspec

    write(cube, tmp_path)
    url = f"memory://{tmp_path.name}"
    write_cube(cube, url, executor="threads:2")
    fs = fsspec.filesystem("memory")
    try:
        there = {k.removeprefix(f"/{tmp_path.name}/"): fs.cat_file(k) for k in fs.find(f"/{tmp_path.name}")}
        here = {p.relative_to(tmp_path).as_posix(): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
        assert {k: v for k, v in there.items() if k.startswith(("cubes/", "markers/"))} == {
            k: v for k, v in here.items() if k.startswith(("cubes/", "markers/"))
        }
        again = open_cube(f"{url}/cubes/cube/data")
        np.testing.assert_array_equal(again["data"].values, expected_cube(SERIES, ["B04", "B08"]))
        assert eocube.open_store(url).index.num_rows == 1
    finally:
        fs.rm(f"/{tmp_path.name}", recursive=True)
