"""Frame: what a cube is, without its pixels.

One grid, one time axis, some bands, some variables. A frame is 1-D sized (no pixel is in it), hashable and pickles small;
steps map frames forward, and labels are always put on from the whole frame, never recomputed inside a window, because the
last bits of coordinates differ when they are.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox

from eocube.errors import CubeError, UnknownNameError
from eocube.model.bands import Band

BANDED_DIMS = ("time", "band", "y", "x")
MASK_DIMS = ("time", "y", "x")
_TAKEN = {*BANDED_DIMS, "bnds", "spatial_ref", "time_bnds"}
_CODE = re.compile(r"[A-Z][A-Z0-9_]*:[A-Za-z0-9_]+")


def norm_geobox(box: GeoBox) -> GeoBox:
    """The same grid with its CRS by its authority's code, where it is exactly that one, however it was made.

    One CRS then has one text, in names and keys as in metadata. A CRS that only resembles a coded one (an ellipsoid without a
    datum, say) stays as it is: its neighbours may lie a hundred metres off.
    """
    code = None if box.crs is None else crs_code(str(box.crs))
    return box if code is None or code == str(box.crs) else GeoBox(box.shape, box.affine, code)


@lru_cache(maxsize=256)
def crs_code(text: str) -> str | None:
    """``EPSG:32635`` for a CRS given as code, WKT or PROJ text; None where no authority has exactly that one."""
    if _CODE.fullmatch(text):
        return text
    found = CRS(text).proj.to_authority(min_confidence=100)
    return None if found is None else f"{found[0]}:{found[1]}"


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A dimension between time and y that is not the bands': angles, quality layers."""

    name: str
    """Dimension, and name of its coordinate."""

    labels: tuple[str, ...]
    """One a layer."""

    attrs: tuple[tuple[str, Any], ...] = ()
    """CF attributes of the coordinate, JSON scalars."""


@dataclass(frozen=True, kw_only=True)
class Variable:
    """One array of a cube that has pixels."""

    name: str
    """``data``, or a mask's name (``scl``, ``qa`` …)."""

    dtype: str
    """NumPy dtype in native byte order, e.g. ``uint16``."""

    banded: bool = False
    """True: dims are time, band, y, x; False: time, y, x, or with a dimension of its own in between."""

    axis: Axis | None = None
    """That dimension, of a variable that is not banded."""

    nodata: int | float | None = None
    """Value of a pixel without data; NaN for floats; None where every value is data (class masks)."""

    scale: float | None = None
    """Physical value = stored value × scale + offset; None where the stored value is the physical one."""

    offset: float | None = None
    """See ``scale``."""

    flags: tuple[tuple[int, str], ...] = ()
    """CF ``flag_values`` and ``flag_meanings`` of a class mask."""

    attrs: tuple[tuple[str, Any], ...] = ()
    """Further CF attributes (``long_name``, ``units``), JSON scalars."""

    @property
    def dims(self) -> tuple[str, ...]:
        """Names of the dimensions, in order."""
        if self.axis is not None:
            return ("time", self.axis.name, "y", "x")
        return BANDED_DIMS if self.banded else MASK_DIMS

    @property
    def fill(self) -> int | float:
        """What an absent chunk reads as: nodata where there is one, else 0."""
        return 0 if self.nodata is None else self.nodata

    def cf_attrs(self) -> dict[str, Any]:
        """CF attributes: scale, offset, flags and ``_FillValue`` (never on class masks: it would turn them into floats)."""
        out: dict[str, Any] = dict(self.attrs)
        if self.scale is not None:
            out |= {"scale_factor": self.scale, "add_offset": self.offset or 0.0}
        if self.nodata is not None and np.dtype(self.dtype).kind in "iu":
            out["_FillValue"] = int(self.nodata)
        if self.flags:
            out["flag_values"] = [v for v, _ in self.flags]
            out["flag_meanings"] = " ".join(m for _, m in self.flags)
        return out

    def valid(self, values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """True where ``values`` of this variable are data (any shape); NaN never is."""
        if self.nodata is None or self.nodata != self.nodata:
            return ~np.isnan(values) if values.dtype.kind == "f" else np.ones(values.shape, bool)
        valid = np.asarray(values != self.nodata)
        if values.dtype.kind == "f":
            valid &= ~np.isnan(values)
        return valid


@dataclass(frozen=True, kw_only=True)
class PerTime:
    """One scalar a date, such as the item's id or its cloud cover."""

    name: str
    dtype: str
    """NumPy dtype, or ``str`` for variable-length UTF-8."""

    values: tuple[Any, ...]
    """One value a date, plain Python scalars."""

    attrs: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Frame:
    """What a cube looks like without its pixels."""

    geobox: GeoBox
    """The one grid of the cube: CRS (by code where it has one), affine of the pixel edge, shape (y, x)."""

    time_ms: tuple[int, ...]
    """Dates, milliseconds since 1970-01-01 UTC, strictly increasing."""

    bands: tuple[Band, ...]
    """Bands of ``data`` in order; names are unique."""

    variables: tuple[Variable, ...]
    """``data`` first, then masks and other arrays on the same grid."""

    per_time: tuple[PerTime, ...] = ()
    """At most six scalars a date."""

    time_bnds_ms: tuple[tuple[int, int], ...] | None = None
    """For composites: the half-open period [start, end) of each date."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "geobox", norm_geobox(self.geobox))
        names = [b.name for b in self.bands]
        if len(set(names)) != len(names):
            raise CubeError(f"Band names repeat: {names}. Every band of a cube needs a name of its own.")
        if list(self.time_ms) != sorted(set(self.time_ms)):
            raise CubeError("Dates of a cube must be strictly increasing; mosaic or drop the repeated ones first.")
        named = [a.name for a in self.axes]
        if any(v.banded for v in self.variables if v.axis) or len(set(named)) != len(named) or _TAKEN & set(named):
            raise CubeError(f"The own dimensions {named} of a cube's variables repeat, or have names that are taken.")
        if len(self.per_time) > 6:
            raise CubeError(f"A cube carries at most six per-date scalars, got {[p.name for p in self.per_time]}.")

    @property
    def shape_yx(self) -> tuple[int, int]:
        """Height and width in pixels."""
        y, x = self.geobox.shape
        return int(y), int(x)

    @property
    def data(self) -> Variable:
        """The banded main variable."""
        return self.variable("data")

    @property
    def masks(self) -> tuple[Variable, ...]:
        """Every variable but ``data``."""
        return tuple(v for v in self.variables if v.name != "data")

    @property
    def band_names(self) -> tuple[str, ...]:
        """Names of the bands in order."""
        return tuple(b.name for b in self.bands)

    def variable(self, name: str) -> Variable:
        """The variable of that name; UnknownNameError if there is none."""
        for v in self.variables:
            if v.name == name:
                return v
        raise UnknownNameError("variable", name, [v.name for v in self.variables], "this cube")

    @property
    def axes(self) -> tuple[Axis, ...]:
        """Dimensions that single variables have between time and y."""
        return tuple(dict.fromkeys(v.axis for v in self.variables if v.axis is not None))

    def depth(self, variable: Variable) -> tuple[int, ...]:
        """Length of the dimension between time and y; empty where the variable has none."""
        if variable.axis is not None:
            return (len(variable.axis.labels),)
        return (len(self.bands),) if variable.banded else ()

    def pixel_bytes(self, variable: Variable) -> int:
        """Raw bytes of one pixel on one date: all bands or layers."""
        return np.dtype(variable.dtype).itemsize * math.prod(self.depth(variable))

    def shape(self, name: str = "data") -> tuple[int, ...]:
        """Shape of a variable."""
        return (len(self.time_ms), *self.depth(self.variable(name)), *self.shape_yx)

    @cached_property
    def yx(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Pixel-centre coordinates along y (descending for north-up grids) and x, in CRS units."""
        ny, nx = self.shape_yx
        a = self.geobox.affine
        if a.b or a.d:
            raise CubeError(f"The grid is rotated or sheared ({tuple(a)[:6]}); cubes need axis-aligned pixels: reproject first.")
        rows, columns = np.arange(ny, dtype=np.float64) + 0.5, np.arange(nx, dtype=np.float64) + 0.5
        return np.asarray(a.f + a.e * rows, np.float64), np.asarray(a.c + a.a * columns, np.float64)

    @property
    def time(self) -> npt.NDArray[np.datetime64]:
        """Dates as datetime64[ns], the resolution that plain xarray decodes to."""
        return np.array(self.time_ms, "M8[ms]").astype("M8[ns]")

    def with_(self, **changes: Any) -> Self:
        """A copy with some fields changed."""
        return replace(self, **changes)

    def with_variable(self, name: str, **changes: Any) -> Self:
        """A copy with some fields of one variable changed."""
        return replace(self, variables=tuple(replace(v, **changes) if v.name == name else v for v in self.variables))
