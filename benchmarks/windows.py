"""One region of a chain by its traced-back window, against culling the whole cube's Dask graph for it.

Prints one JSON line for each chain and size: regions a second, read and evaluated one after the other. The source makes its
pixels out of their positions, so only the bookkeeping is timed. Ours evaluates the recorded chain on the region's window; the
peer slices the same lazy cube and computes the slice. Results are compared before times are.
The goal: the rate does not fall with the size of the cube.
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox

from eocube.exec.evaluate import Evaluation, evaluate
from eocube.lazy.composite import composite
from eocube.lazy.cube import lazy_cube
from eocube.lazy.masks import mask_clouds
from eocube.lazy.radiometry import to_reflectance
from eocube.model.bands import Band
from eocube.model.frame import Frame, Variable
from eocube.model.recipe import Arrays, Cost, OnError, recipe_of, step, trace
from eocube.model.window import Window

EDGE_PX = 16
DATES, DAYS_APART = 10, 3
REPEATS = 5
SIZES = (10, 32, 100)
"""Chunks along y and along x."""

DATA = Variable(name="data", dtype="uint16", banded=True, nodata=0, scale=1e-4, offset=-0.1)
SCL = Variable(name="scl", dtype="uint8")
REGION = Window((0,), (EDGE_PX, 2 * EDGE_PX), (EDGE_PX, 2 * EDGE_PX))


class PositionSource:
    """Pixels that are the sum of their date, row and column, at no cost. See :class:`eocube.model.recipe.Source`."""

    block_yx = (EDGE_PX, EDGE_PX)

    def __init__(self, frame: Frame):
        self._frame = frame

    def frame(self) -> Frame:
        """See :class:`eocube.model.recipe.Source`."""
        return self._frame

    def read(self, window: Window, *, names: tuple[str, ...] | None = None, on_error: OnError | None = None) -> Arrays:
        """See :class:`eocube.model.recipe.Source`."""
        t, y, x = np.array(window.times)[:, None, None], np.arange(*window.y)[:, None], np.arange(*window.x)
        layer = (t + y + x) % 12
        both = {"data": np.repeat(layer[:, None], len(self._frame.bands), axis=1).astype("uint16"), "scl": layer.astype("uint8")}
        return {name: values for name, values in both.items() if names is None or name in names}

    def ids(self, window: Window) -> list[list[Any]]:
        """See :class:`eocube.model.recipe.Source`."""
        return [[t] for t in window.times]

    def cost(self, window: Window) -> Cost:
        """See :class:`eocube.model.recipe.Source`."""
        return Cost(0, 0, 0)

    def assets(self) -> list[dict[str, Any]]:
        """See :class:`eocube.model.recipe.Source`."""
        return []

    def token(self) -> str:
        """See :class:`eocube.model.recipe.Source`."""
        return f"positions-{self._frame.shape()}"


def source_cube(n: int) -> xr.Dataset:
    """A lazy cube of ``DATES`` × n × n chunks."""
    frame = Frame(
        geobox=GeoBox((n * EDGE_PX, n * EDGE_PX), Affine(10, 0, 500_000, 0, -10, 5_000_000), "EPSG:32633"),
        time_ms=tuple(i * DAYS_APART * 86_400_000 for i in range(DATES)),
        bands=(Band(name="red"), Band(name="nir")),
        variables=(DATA, SCL),
    )
    return lazy_cube(PositionSource(frame), {"source": "s", "kind": "positions"}, chunks={"time": 1, "y": EDGE_PX, "x": EDGE_PX})


def mean_3x3(block: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Mean of the pixel and its eight neighbours; the edge pixels of the array repeat themselves."""
    padded = np.pad(block, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    rows, columns = block.shape[-2:]
    shifted = [padded[..., dy : dy + rows, dx : dx + columns] for dy in range(3) for dx in range(3)]
    total: np.ndarray[Any, Any] = sum(shifted[1:], start=shifted[0]) / np.float32(9)
    return total


@step(halo_px=1)
def smooth(cube: xr.Dataset) -> xr.Dataset:
    """The 3 × 3 mean of ``data``."""
    data = cube["data"]
    depth = {2: 1, 3: 1}
    values = data.data.map_overlap(mean_3x3, depth=depth, boundary="nearest") if data.chunks else mean_3x3(data.values)
    return cube.assign(data=(data.dims, values, data.attrs))


def composite_chain(cube: xr.Dataset) -> xr.Dataset:
    """Mask, decode, monthly median."""
    monthly: xr.Dataset = composite(to_reflectance(mask_clouds(cube)), freq="1MS")
    return monthly


def halo_chain(cube: xr.Dataset) -> xr.Dataset:
    """Mask, decode, 3 × 3 mean."""
    smoothed: xr.Dataset = smooth(to_reflectance(mask_clouds(cube)))
    return smoothed


def by_window(cube: xr.Dataset) -> np.ndarray[Any, Any]:
    """The region through its recipe."""
    recipe = recipe_of(cube)
    return evaluate(recipe.node, REGION, Evaluation(recipe.binding, {}))["data"].to_numpy()


def by_cull(cube: xr.Dataset) -> np.ndarray[Any, Any]:
    """The region by slicing the lazy cube."""
    part = cube["data"].isel(time=list(REGION.times), y=slice(*REGION.y), x=slice(*REGION.x))
    return part.compute(scheduler="synchronous").to_numpy()


def reads(cube: xr.Dataset) -> list[Window]:
    """What the region needs of the source."""
    recipe = recipe_of(cube)
    return [window for _, window in trace(recipe.node, REGION, recipe.binding)]


def per_second(works: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median rate of each of ``works``, run in turns; CPU time, for one thread does it all."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(REPEATS):
        for name, work in works.items():
            start = time.process_time()
            work()
            taken[name].append(time.process_time() - start)
    return {name: round(1 / statistics.median(t), 2) for name, t in taken.items()}


def main() -> None:
    """Print a row for each chain and size."""
    for name, chain in (("composite", composite_chain), ("halo", halo_chain)):
        smallest = None
        for n in SIZES:
            cube = chain(source_cube(n))
            if not np.array_equal(by_window(cube), by_cull(cube), equal_nan=True):
                sys.exit(f"{name}: the window and the culled graph give other pixels")
            rates = per_second({"ours": partial(by_window, cube), "cull": partial(by_cull, cube)})
            smallest = smallest or rates["ours"]
            row = {"bench": f"windows.{name}", "chunks": DATES * n * n, "unit": "regions/s", "ours": rates["ours"], "floor": None}
            row |= {"peers": {"slice and cull the graph": rates["cull"]}, "to_floor": None}
            row |= {"to_best_peer": round(rates["ours"] / rates["cull"], 2), "goal": f"ours >= 0.7 * {smallest}"}
            row |= {"met": rates["ours"] >= 0.7 * smallest}
            print(json.dumps({**row, "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3, 1)}))


if __name__ == "__main__":
    main()
