"""Labels of a window: put on from the frame, and left alone where a step kept the very ones it got."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import xarray as xr

from eocube.exec.evaluate import Evaluation, evaluate
from eocube.exec.labels import crop, keeps_labels, labelled
from eocube.lazy.masks import mask_clouds
from eocube.lazy.radiometry import to_reflectance
from eocube.model.bands import Band
from eocube.model.frame import Frame, PerTime, Variable
from eocube.model.recipe import recipe_of, step
from eocube.model.window import Window
from eocube.testing.sources import make_cube
from eocube.testing.stac import make_grid

WINDOW = Window((0, 2), (3, 7), (1, 9))
DATA = Variable(name="data", dtype="uint16", banded=True, nodata=0)
FRAME = Frame(
    geobox=make_grid((10, 12)),
    time_ms=(0, 86_400_000, 172_800_000),
    bands=(Band(name="red"), Band(name="nir")),
    variables=(DATA,),
    per_time=(PerTime(name="item_id", dtype="str", values=("a", "b", "c")),),
)


def given() -> xr.Dataset:
    return labelled(FRAME, WINDOW, {"data": np.arange(2 * 2 * 4 * 8, dtype="uint16").reshape(2, 2, 4, 8)})


Change = Callable[[xr.Dataset], xr.Dataset]
KEPT: dict[str, Change] = {
    "the same": lambda c: c,
    "a copy": lambda c: c.copy(),
    "other pixels": lambda c: c.assign(data=c["data"].variable + np.uint16(1)),
    "other attributes of the cube": lambda c: c.assign_attrs(note="x"),
}
CHANGED: dict[str, Change] = {
    "moved": lambda c: c.assign_coords(x=c["x"] + 10),
    "equal labels made anew": lambda c: c.assign_coords(y=c["y"].values.copy()),
    "another scalar": lambda c: c.assign_coords(item_id=("time", np.array(["a", "z"], np.dtypes.StringDType()))),
    "a scalar fewer": lambda c: c.drop_vars("item_id"),
    "a scalar more": lambda c: c.assign_coords(seen=("time", [1, 2])),
    "another grid mapping": lambda c: c.assign_coords(spatial_ref=c["spatial_ref"].assign_attrs(crs_wkt="other")),
    "another dtype": lambda c: c.assign(data=c["data"].astype("float32")),
    "another order": lambda c: c.transpose("band", "time", "y", "x"),
    "another variable": lambda c: c.assign(more=c["data"]),
    "no index": lambda c: c.drop_indexes("x"),
}


@pytest.mark.parametrize("name", KEPT)
def test_labels_that_a_step_kept_are_known_and_equal_those_put_on_anew(name: str) -> None:
    """The plain twin is to label every result."""
    before = given()
    result = KEPT[name](before)
    assert keeps_labels(before, result, FRAME, FRAME)
    anew = crop(result, FRAME, WINDOW, origin_yx=(WINDOW.y[0], WINDOW.x[0]), step="s")
    xr.testing.assert_identical(anew, result.drop_attrs(deep=False))


@pytest.mark.parametrize("name", CHANGED)
def test_labels_that_a_step_changed_are_not_taken_for_kept(name: str) -> None:
    before = given()
    assert not keeps_labels(before, CHANGED[name](before), FRAME, FRAME)


def test_labels_of_another_frame_are_not_taken_for_kept() -> None:
    before = given()
    relabelled = FRAME.with_(per_time=(PerTime(name="item_id", dtype="str", values=("a", "b", "z")),))
    assert not keeps_labels(before, before.copy(), FRAME, relabelled)
    assert not keeps_labels(before, before.copy(), FRAME, FRAME.with_(time_bnds_ms=((0, 1), (1, 2), (2, 3))))


SEEN: list[xr.Dataset] = []


@step()
def seen_first(cube: xr.Dataset) -> xr.Dataset:
    SEEN.append(cube)
    return cube


@step()
def seen_last(cube: xr.Dataset) -> xr.Dataset:
    SEEN.append(cube)
    return cube


def test_steps_on_pixels_alone_are_labelled_once_for_all() -> None:
    """xarray copies its index objects with every assign; what they stand on is what tells that nothing changed."""
    recipe = recipe_of(seen_last(to_reflectance(mask_clouds(seen_first(make_cube())))))
    SEEN.clear()
    evaluate(recipe.node, Window((0, 1), (2, 10), (3, 12)), Evaluation(recipe.binding, {}))
    first, last = SEEN
    assert first["data"].dtype != last["data"].dtype
    for axis in ("time", "band", "y", "x"):
        assert first.xindexes[axis].to_pandas_index() is last.xindexes[axis].to_pandas_index(), axis
