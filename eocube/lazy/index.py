"""Spectral indices by the formulas of the Awesome Spectral Indices catalogue (package spyndex)."""

from __future__ import annotations

import difflib
import itertools
import math
import re
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import xarray as xr

from eocube.errors import MissingDependencyError, RadiometryError, UnknownNameError
from eocube.kernels.index import evaluate
from eocube.kernels.radiometry import dn_to_reflectance
from eocube.lazy.lift import band_names, data_variable, lift, with_data
from eocube.model.bands import Band
from eocube.model.frame import BANDED_DIMS, Frame, Variable
from eocube.model.recipe import step

_ROWS_PX = 1 << 16
"""Pixels computed at a time: a handful of float32 bands of them stay in a second-level cache."""

SYMBOLS: dict[str, tuple[str, ...]] = {
    "A": ("coastal",),
    "B": ("blue",),
    "G": ("green",),
    "R": ("red",),
    "RE1": ("rededge071",),
    "RE2": ("rededge075",),
    "RE3": ("rededge078",),
    "N": ("nir", "nir08"),
    "N2": ("nir08",),
    "WV": ("nir09",),
    "S1": ("swir16",),
    "S2": ("swir22",),
}
"""Symbols of the catalogue's formulas → common names, the first that the cube has."""


def spectral_index(cube: xr.Dataset, name: str) -> xr.Dataset:
    """A spectral index as a one-band cube.

    Parameters
    ----------
    cube
        ``data`` (time, band, y, x): reflectance, or digital numbers with a scale (decoded on the way).
    name
        Short name in the Awesome Spectral Indices catalogue, any case: ``ndvi``, ``evi``, ``ndwi``, ``nbr`` … Its formula, bands
        and constants (the catalogue's defaults) are recorded, so a store says what was computed.

    Returns
    -------
    ``data`` (time, 1, y, x) float32, unitless, band named as the index in lower case; NaN where a band has no data or the
    formula divides by zero. Masks come along.

    Raises
    ------
    UnknownNameError
        For an index that is not in the catalogue, or a band that the cube lacks.
    RadiometryError
        If the cube holds integers without a scale.
    """
    index = _from_catalogue(name)
    have = band_names(cube)
    bands = {s: _band_for(s, have, index.short_name) for s in index.symbols}
    computed: xr.Dataset = _spectral_index(
        cube, name=index.short_name.lower(), formula=index.formula, bands=bands, constants=index.constants
    )
    return computed


class _Index(NamedTuple):
    """An index of the catalogue."""

    short_name: str
    formula: str
    symbols: list[str]
    """Bands in the formula, keys of ``SYMBOLS``."""

    constants: dict[str, float]


def _from_catalogue(name: str) -> _Index:
    try:
        import spyndex
    except ImportError as e:
        raise MissingDependencyError("The catalogue of spectral indices", "spyndex", "build") from e
    short_name = _short_name(name, [str(k) for k in spyndex.indices])
    entry = spyndex.indices[short_name]
    symbols = [b for b in entry.bands if b in SYMBOLS]
    defaults = {k: spyndex.constants[k].default for k in entry.bands if k in spyndex.constants}
    constants = {k: float(v) for k, v in defaults.items() if v is not None}
    beyond = [b for b in entry.bands if b not in SYMBOLS and b not in constants]
    if beyond:
        where = f"{short_name} = {entry.formula}: eocube finds reflectance in cubes, and takes defaults from the catalogue"
        raise UnknownNameError("symbol", beyond[0], [*SYMBOLS, *constants], where)
    return _Index(short_name, str(entry.formula), symbols, constants)


def _short_name(name: str, known: list[str]) -> str:
    """The catalogue's spelling: exact, or in another case where that leaves one."""
    alike = [k for k in known if k.lower() == str(name).lower()]
    if name in alike or len(alike) == 1:
        return name if name in alike else alike[0]
    by_lower = {k.lower(): k for k in known}
    near = [by_lower[k] for k in difflib.get_close_matches(str(name).lower(), by_lower, n=8, cutoff=0.5)]
    near = alike or near or ["NDVI", "EVI", "NDWI", "NBR"]
    raise UnknownNameError("spectral index", name, near, "the catalogue of spyndex")


def _band_for(symbol: str, have: list[str], index: str) -> str:
    for band in SYMBOLS[symbol]:
        if band in have:
            return band
    raise UnknownNameError("band", SYMBOLS[symbol][0], have, f"this cube; {index} needs it")


def _variable(v: Variable, name: str) -> Variable:
    if v.scale is None and np.dtype(v.dtype).kind != "f":
        raise RadiometryError(f"The cube's data is {v.dtype} without a scale; an index needs reflectance.")
    return replace(v, dtype="float32", nodata=math.nan, scale=None, offset=None, attrs=(("units", "1"), ("long_name", name)))


def _frame(frame: Frame, name: str, formula: str, bands: dict[str, str], constants: dict[str, float]) -> Frame:  # noqa: ARG001
    for band in bands.values():
        if band not in frame.band_names:
            raise UnknownNameError("band", band, frame.band_names, f"this cube; {name} needs it")
    out = _variable(frame.data, name)
    return frame.with_(bands=(Band(name=name),), variables=tuple(out if v.name == "data" else v for v in frame.variables))


@step(frame=_frame)
def _spectral_index(cube: xr.Dataset, name: str, formula: str, bands: dict[str, str], constants: dict[str, float]) -> xr.Dataset:
    v = data_variable(cube)
    have = band_names(cube)
    kernel = partial(
        _index_block,
        formula=re.sub(r"\s+", "", formula),
        rows={symbol: have.index(band) for symbol, band in bands.items()},
        constants=constants,
        decode=None if v.scale is None else {"scale": v.scale, "offset": v.offset or 0.0, "nodata": v.nodata},
    )
    values = lift(kernel, cube["data"], dims=BANDED_DIMS, dtype="float32", sizes={"band": 1}, whole=("band",))
    label = ("band", np.array([name], np.dtypes.StringDType()), {"standard_name": "band"})
    per_band = [k for k, c in cube.coords.items() if "band" in c.dims]
    return with_data(cube.drop_vars(per_band).isel(band=slice(0, 1)).assign_coords(band=label), values, _variable(v, name))


def _index_block(
    block: npt.NDArray, *, formula: str, rows: dict[str, int], constants: dict[str, float], decode: dict[str, Any] | None
) -> npt.NDArray:
    """A few rows at a time: what a formula holds on its way is many times its result."""

    def layer(bands: npt.NDArray, row: int) -> npt.NDArray:
        return bands[row] if decode is None else dn_to_reflectance(bands[row], **decode)

    out = np.empty((len(block), 1, *block.shape[2:]), np.float32)
    step = max(1, _ROWS_PX // max(1, block.shape[-1]))
    for t, start in itertools.product(range(len(block)), range(0, block.shape[-2], step)):
        rows_yx = slice(start, start + step)
        bands = block[t, :, rows_yx]
        values: dict[str, Any] = {symbol: layer(bands, row) for symbol, row in rows.items()}
        out[t, 0, rows_yx] = evaluate(formula, {**values, **constants})
    return out
