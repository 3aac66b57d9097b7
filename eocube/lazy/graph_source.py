"""A cube that eocube did not record, as a source: its windows come from its own Dask graph (or memory).

Culling a graph for one window costs with the number of its chunks, so this is for small cubes; a big one is refused naming
``apply``.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox

from eocube.errors import CubeError, GridError, UnrecordedError
from eocube.lazy.lift import band_names, times_ms
from eocube.model.bands import Band
from eocube.model.frame import BANDED_DIMS, MASK_DIMS, Frame, PerTime, Variable
from eocube.model.hashing import digest
from eocube.model.memory import frame_bytes
from eocube.model.recipe import Arrays, Binding, Cost, Node, OnError, fingerprint_of, recipe_of
from eocube.model.spec import SUMMARY
from eocube.model.window import Window

MAX_CHUNKS = 2_000


class GraphSource:
    """A Dataset by windows. See :class:`eocube.model.recipe.Source`."""

    def __init__(self, cube: xr.Dataset, *, step_id: str | None):
        self._cube = as_cube(cube)
        self._frame = frame_of_dataset(self._cube)
        self._name = step_id or _content_name(self._cube)

    @property
    def node(self) -> Node:
        """Its entry in a recipe: the caller's ``step_id``, else a digest of the graph's names."""
        return {"source": digest(["graph", self._name]), "kind": "graph", "step_id": self._name}

    def frame(self) -> Frame:
        """See :class:`eocube.model.recipe.Source`."""
        return self._frame

    @property
    def block_yx(self) -> tuple[int, int]:
        """See :class:`eocube.model.recipe.Source`."""
        chunks = self._cube["data"].chunks
        return (chunks[-2][0], chunks[-1][0]) if chunks else self._frame.shape_yx

    def read(self, window: Window, *, names: tuple[str, ...] | None = None, on_error: OnError | None = None) -> Arrays:
        """See :class:`eocube.model.recipe.Source`."""
        wanted = [v.name for v in self._frame.variables if names is None or v.name in names]
        part = self._cube[wanted].isel(time=list(window.times), y=slice(*window.y), x=slice(*window.x))
        done = part.compute(scheduler="synchronous")
        return {n: done[n].transpose(*self._frame.variable(n).dims).values for n in wanted}

    def ids(self, window: Window) -> list[list[Any]]:
        """See :class:`eocube.model.recipe.Source`."""
        return [[self._name, self._frame.time_ms[t]] for t in window.times]

    def assets(self) -> list[dict[str, Any]]:
        """See :class:`eocube.model.recipe.Source`."""
        return []

    def token(self) -> str:
        """See :class:`eocube.model.recipe.Source`."""
        return digest(["graph", self._name])

    def cost(self, window: Window) -> Cost:
        """See :class:`eocube.model.recipe.Source`: what the graph reads is not known; its own pixels are counted."""
        n = frame_bytes(self._frame, window)
        return Cost(0, n, n)


def graph_source(cube: xr.Dataset, *, step_id: str | None, why: str) -> GraphSource:
    """The cube as a source, or UnrecordedError where its graph has too many chunks."""
    n = max((int(np.prod([len(c) for c in v.chunks])) for v in cube.data_vars.values() if v.chunks), default=1)
    if n > MAX_CHUNKS:
        raise UnrecordedError(
            f"{why} It has {n} chunks; writing it from its own graph is refused above {MAX_CHUNKS}, because every region "
            "would cull the whole graph. Make the change with eocube.apply(cube, func, halo_px=…, step_id=…), which scales."
        )
    return GraphSource(cube, step_id=step_id)


def node_of(cube: xr.Dataset, *, step_id: str | None = None) -> tuple[Node, Binding]:
    """What a cube is made from: its recipe, or where there is none that fits, its own Dask graph or memory as a source."""
    try:
        recipe = recipe_of(cube)
    except UnrecordedError as e:
        source = graph_source(cube, step_id=step_id, why=str(e))
        return source.node, Binding(sources={source.node["source"]: source})
    return recipe.node, recipe.binding


def _content_name(cube: xr.Dataset) -> str:
    name = fingerprint_of(cube)
    if name is not None:
        return f"graph-{name}"
    parts = [
        [str(k), list(map(str, v.dims)), hashlib.sha256(np.ascontiguousarray(v.values).tobytes()).hexdigest()]
        for k, v in cube.data_vars.items()
    ]
    labels = [[str(k), repr(c.values.tolist())] for k, c in cube.coords.items()]
    return f"memory-{digest([parts, labels])}"


def as_cube(cube: xr.Dataset) -> xr.Dataset:
    """The part of a Dataset that is a cube: without ``clear_summary``, which writing makes anew, and bounds as a coordinate.

    So that what plain ``xr.open_zarr`` gives of a stored cube is one.
    """
    bounds = [k for k in ("time_bnds",) if k in cube.data_vars]
    return cube.drop_vars(SUMMARY, errors="ignore").set_coords(bounds)


def frame_of_dataset(cube: xr.Dataset) -> Frame:
    """The frame that a Dataset with ``data`` (time, band, y, x) and masks (time, y, x) amounts to.

    CubeError or GridError where dims, coordinates or the CRS are missing or uneven.
    """
    if "data" not in cube or set(cube["data"].dims) != set(BANDED_DIMS):
        found = {str(k): v.dims for k, v in cube.data_vars.items()}
        raise CubeError(
            f"A cube is a Dataset with data (time, band, y, x), and masks (time, y, x); found {found}. A variable a band becomes "
            "one with cube.to_dataarray('band').to_dataset(name='data')."
        )
    odd = {str(k): v.dims for k, v in cube.data_vars.items() if k != "data" and set(v.dims) != set(MASK_DIMS)}
    if odd:
        raise CubeError(f"Variables {odd} are neither data (time, band, y, x) nor on (time, y, x); drop them before writing.")
    empty = [str(d) for d, n in cube["data"].sizes.items() if n == 0]
    if empty:
        raise CubeError(f"The cube has nothing along {empty}: its sizes are {dict(cube['data'].sizes)}.")
    return Frame(
        geobox=geobox_of(cube),
        time_ms=times_ms(cube),
        bands=_bands(cube),
        variables=tuple(_variable(cube, n) for n in ("data", *(str(k) for k in cube.data_vars if k != "data"))),
        per_time=_per_time(cube),
        time_bnds_ms=_bounds(cube),
    )


def geobox_of(cube: xr.Dataset) -> GeoBox:
    """The grid of a Dataset from its x and y and its ``spatial_ref``."""
    ref = cube.coords.get("spatial_ref")
    attrs = {} if ref is None else ref.attrs
    crs = attrs.get("crs_wkt") or attrs.get("spatial_ref")
    if crs is None:
        raise GridError(
            "The cube has no spatial_ref coordinate with a CRS; cube.rio.write_crs(…) or odc.geo's assign_crs adds one."
        )
    if missing := [d for d in ("y", "x") if d not in cube.coords or not cube.sizes[d]]:
        raise GridError(f"The cube has no coordinates along {missing}, so where its pixels lie cannot be known.")
    y, x = cube["y"].values, cube["x"].values
    transform = attrs.get("GeoTransform")
    old = Affine.from_gdal(*(float(v) for v in str(transform).split())) if transform else None
    dy, dx = _spacing(y, "y", None if old is None else old.e), _spacing(x, "x", None if old is None else old.a)
    return GeoBox((len(y), len(x)), Affine(dx, 0, float(x[0]) - dx / 2, 0, dy, float(y[0]) - dy / 2), crs)


def _spacing(values: np.ndarray[Any, Any], dim: str, declared: float | None) -> float:
    if len(values) < 2:
        if declared is None:
            raise GridError(f"The cube has one pixel along {dim} and no GeoTransform, so its size cannot be known.")
        return declared
    steps = np.diff(values)
    step = float((values[-1] - values[0]) / (len(values) - 1))
    if step == 0 or np.abs(steps - step).max() > abs(step) * 1e-4:
        raise GridError(f"The coordinates along {dim} are not evenly spaced ({steps.min()} to {steps.max()}).")
    return step


def _bands(cube: xr.Dataset) -> tuple[Band, ...]:
    names = band_names(cube)
    eo, waves = cube["band"].attrs.get("eo_name"), cube["band"].attrs.get("center_wavelength_um")
    n = len(names)
    eo = eo if isinstance(eo, list) and len(eo) == n else [None] * n
    waves = waves if isinstance(waves, list) and len(waves) == n else [None] * n
    return tuple(Band(name=b, eo_name=e or None, wavelength_um=w) for b, e, w in zip(names, eo, waves, strict=True))


_OWN = {"scale_factor", "add_offset", "_FillValue", "flag_values", "flag_meanings", "grid_mapping", "coordinates"}


def _variable(cube: xr.Dataset, name: str) -> Variable:
    v = cube[name]
    dtype = np.dtype(v.dtype)
    a = v.attrs
    nodata: int | float | None = a.get("_FillValue")
    if dtype.kind == "f":
        nodata = float("nan")
    scale = a.get("scale_factor") if dtype.kind in "iu" else None
    return Variable(
        name=name,
        dtype=str(dtype),
        banded=name == "data",
        nodata=None if nodata is None else int(nodata) if dtype.kind in "iu" else float(nodata),
        scale=None if scale is None else float(scale),
        offset=None if scale is None else float(a.get("add_offset", 0.0)),
        flags=tuple(zip((int(f) for f in a.get("flag_values", [])), str(a.get("flag_meanings", "")).split(), strict=False)),
        attrs=tuple((str(k), w) for k, w in a.items() if k not in _OWN and isinstance(w, str | int | float)),
    )


def _per_time(cube: xr.Dataset) -> tuple[PerTime, ...]:
    out = []
    for name, c in cube.coords.items():
        if c.dims == ("time",) and name != "time" and c.dtype.kind in "iufbTUOS":
            text = c.dtype.kind in "TUOS"
            values = tuple(str(v) if text else v.item() for v in c.values)
            attrs = tuple((str(k), w) for k, w in c.attrs.items() if isinstance(w, str | int | float))
            out.append(PerTime(name=str(name), dtype="str" if text else str(c.dtype), values=values, attrs=attrs))
    return tuple(out[:6])


def _bounds(cube: xr.Dataset) -> tuple[tuple[int, int], ...] | None:
    if "time_bnds" not in cube.coords or cube["time_bnds"].dims[0] != "time":
        return None
    return tuple((int(a), int(b)) for a, b in cube["time_bnds"].values.astype("M8[ms]").astype("i8"))
