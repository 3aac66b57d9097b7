"""How pixels of one grid are put onto another: HR images onto LR grids refined by a whole factor, by world coordinates."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal, NamedTuple

import numpy as np
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import Transformer

from eocube.errors import GridError
from eocube.io.index import gsd_m as gsd_yx_m
from eocube.kernels.arrays import AnyArray, BoolArray, Float32Array, Float64Array
from eocube.kernels.regrid import SNAP_PX, AxisMap, gaussian, mtf_variance, regrid
from eocube.kernels.regrid_warp import ControlGrid, Part, Sampling, needed, warp
from eocube.model.window import Span

Spans = tuple[Span, Span]
"""Rows and columns."""

CONTROL_PX = 2.5e-4
"""How far, in source pixels, interpolated positions may lie from exact ones where that is measured."""

MAX_CONTROL_STEP = 64
_PROBES = 9
"""Cells of the control grid measured along each axis."""


def refined(lr: GeoBox, factor: int) -> GeoBox:
    """The grid whose pixels divide those of ``lr`` into ``factor`` each way.

    odc-geo's ``zoom_out(1 / factor)`` rounds twice, and by 49 makes a row and a column too many.

    Raises
    ------
    GridError
        If ``factor`` is less than 1.
    """
    if factor < 1:
        raise GridError(f"A grid cannot be refined by {factor}; pass a whole number of pixels per pixel, 1 or more.")
    ny, nx = lr.shape
    a = lr.affine
    fine = Affine(a.a / factor, a.b / factor, a.c, a.d / factor, a.e / factor, a.f)
    return GeoBox((int(ny) * factor, int(nx) * factor), fine, lr.crs)


def factor_for(lr: GeoBox, hr: GeoBox, *, scale: int | None = None, gsd_m: float | None = None) -> int:
    """By how much to refine ``lr`` for pixels like those of ``hr``.

    Parameters
    ----------
    scale
        The factor, where it is known.
    gsd_m
        Wanted pixel size in metres. Of pixels that are not square the geometric mean counts.

    Returns
    -------
    ``scale``; else LR over wanted pixel size, or LR over HR pixel size in the middle of ``lr``, rounded (halves up).

    Raises
    ------
    GridError
        If that is less than 1, both are given, or the grids cannot be compared.
    """
    if scale is not None and gsd_m is not None:
        raise GridError(f"Both scale={scale} and gsd_m={gsd_m} were given; pass one of them.")
    if gsd_m is not None and not gsd_m > 0:
        raise GridError(f"gsd_m is {gsd_m}; it is a pixel size in metres, more than 0.")
    if scale is not None:
        ratio: float = scale
    elif gsd_m is not None:
        ratio = math.sqrt(math.prod(gsd_yx_m(lr))) / gsd_m
    else:
        ratio = math.sqrt(abs(float(np.linalg.det(_slopes(hr, lr)))))
    factor = math.floor(ratio + 0.5)
    if factor < 1:
        raise GridError(
            f"The edge of an LR pixel would hold {ratio:.4g} pixels, and a grid is refined by 1 or more. Exchange the products "
            "if LR and HR are mixed up; else pass scale=1 or a smaller gsd_m."
        )
    return factor


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """Pixels of one grid put onto another one, window by window.

    Along parallel axes target pixels of one source pixel or more are area means, smaller ones cubic convolution
    (``kernels.regrid``); between projections, or grids turned against each other, samples averaged (``kernels.regrid_warp``).
    Weights follow from the grids and a pixel's place, so windows give the bits of the whole image.
    """

    source: GeoBox
    target: GeoBox

    method: Literal["area", "nearest"] = "area"
    """``nearest``: the source pixel that holds the centre of the target pixel, for classes."""

    mtf: float | None = None
    """The sensor's modulation transfer at the Nyquist frequency of the target, for a target of bigger pixels; None = no blur."""

    def __post_init__(self) -> None:
        if self.method not in ("area", "nearest"):
            raise GridError(f"Method {self.method!r} is unknown; pass 'area' for measurements or 'nearest' for classes.")
        if self.mtf is not None and not (0 < self.mtf < 1 and self.method == "area"):
            raise GridError(f"mtf={self.mtf} was asked for with method {self.method!r}; it is a share between 0 and 1, of areas.")
        if (self.source.crs is None) != (self.target.crs is None):
            raise GridError(f"One grid is in {self.source.crs}, the other in {self.target.crs}; give both a CRS.")
        if not (min(self.source.shape) and min(self.target.shape)):
            raise GridError(f"Grids of {self.source.shape} and {self.target.shape} pixels were given; both must have some.")
        self._way  # noqa: B018 - what cannot be done is told here, not in a task

    @classmethod
    def between(
        cls, source: GeoBox, target: GeoBox, method: Literal["area", "nearest"] = "area", mtf: float | None = None
    ) -> Alignment:
        """From one grid to another; GridError where they cannot meet, or the options contradict each other."""
        return cls(source=source, target=target, method=method, mtf=mtf)

    @cached_property
    def _way(self) -> _Parallel | _Turned:
        if self.source.crs == self.target.crs:
            (ny, nx), (height, width) = self.source.shape, self.target.shape
            m = ~self.source.affine @ self.target.affine
            if max(abs(m.b) * height, abs(m.d) * width) <= SNAP_PX:
                nearest = self.method == "nearest"
                blur_y, blur_x = _blurs(self.mtf, (abs(m.e), abs(m.a)))
                return _Parallel(
                    AxisMap(size=int(ny), origin=m.f, step=m.e, nearest=nearest, blur=blur_y),
                    AxisMap(size=int(nx), origin=m.c, step=m.a, nearest=nearest, blur=blur_x),
                )
        return _turned(self)

    def source_window(self, target_y: Span, target_x: Span) -> Spans:
        """Rows and columns of the source that have a weight in a target window; empty where it lies outside.

        Raises
        ------
        GridError
            If the window does not lie in the target.
        """
        self._check(target_y, target_x)
        return self._way.window(target_y, target_x)

    def covers(self, target_y: Span, target_x: Span) -> bool:
        """Tell whether a target window lies wholly inside the source; GridError if it does not lie in the target."""
        self._check(target_y, target_x)
        return self._way.covers(target_y, target_x)

    def apply(
        self, values: AnyArray, valid: BoolArray | None, source_window: Spans, target_window: Spans
    ) -> tuple[Float32Array, BoolArray]:
        """Make a target window from a window of the source.

        Parameters
        ----------
        values
            ``(..., y, x)``, integers or floats, the pixels of ``source_window``.
        valid
            True = may be used, a shape that broadcasts to ``values``; None = every pixel. NaN is never used.
        source_window
            Rows and columns of the source, at least those of ``source_window()``.
        target_window
            Rows and columns to make.

        Returns
        -------
        float32 ``(..., Y, X)``, NaN where not valid, and bool of the same shape: True where the pixel lies wholly inside the
        source and every source pixel that has a weight is valid.

        Raises
        ------
        GridError
            If shapes and windows do not fit each other.
        """
        self._check(*target_window)
        shape = tuple(stop - start for start, stop in source_window)
        if values.shape[-2:] != shape:
            raise GridError(f"Pixels of shape {values.shape} were given for source rows and columns {source_window}, {shape} px.")
        return self._way.apply(values, valid, source_window, target_window)

    def _check(self, *window: Span) -> None:
        for (start, stop), size in zip(window, self.target.shape, strict=True):
            if not 0 <= start <= stop <= size:
                raise GridError(f"Window {window} does not lie in a target of {self.target.shape} rows and columns.")


class _Parallel(NamedTuple):
    """Axes that run along each other: each has its own map."""

    y: AxisMap
    x: AxisMap

    def window(self, y: Span, x: Span) -> Spans:
        return self.y.taps(y).span, self.x.taps(x).span

    def covers(self, y: Span, x: Span) -> bool:
        return self.y.covers(y) and self.x.covers(x)

    def apply(self, values: AnyArray, valid: BoolArray | None, source: Spans, target: Spans) -> tuple[Float32Array, BoolArray]:
        y, x = (axis.taps(span).inside(have) for axis, span, have in zip(self, target, source, strict=True))
        return regrid(values, valid, y, x)


class _Turned(NamedTuple):
    """Grids in different projections, or turned against each other."""

    source: GeoBox
    target: GeoBox
    step: int
    sampling: Sampling
    blur_yx: tuple[float, float]

    def window(self, y: Span, x: Span) -> Spans:
        rows, columns = needed(self._control(y, x), self._shape, (y, x))
        (ny, nx), (blur_y, blur_x) = self._shape, self.blur_yx
        return _wider(rows, blur_y, ny), _wider(columns, blur_x, nx)

    def covers(self, y: Span, x: Span) -> bool:
        inside = (
            np.all((at >= -SNAP_PX) & (at <= size + SNAP_PX))
            for at, size in zip(self._control(y, x).corners(y, x), self._shape, strict=True)
        )
        return all(inside)

    def apply(self, values: AnyArray, valid: BoolArray | None, source: Spans, target: Spans) -> tuple[Float32Array, BoolArray]:
        grid = self._control(*target)
        pixels: AnyArray = values
        if any(self.blur_yx):
            inner = needed(grid, self._shape, target)
            y, x = (
                AxisMap(size=size, origin=0, step=1, blur=blur).taps(span).inside(have)
                for size, blur, span, have in zip(self._shape, self.blur_yx, inner, source, strict=True)
            )
            pixels, valid = regrid(values, valid, y, x)
            source = inner
        return warp(pixels, valid, grid, self.sampling, Part(source, self._shape, target))

    @property
    def _shape(self) -> tuple[int, int]:
        ny, nx = self.source.shape
        return int(ny), int(nx)

    def _control(self, *window: Span) -> ControlGrid:
        """Nodes around a window, on whole steps of the whole target, so that each window has the same ones."""
        step = self.step
        first = [span[0] // step for span in window]
        stops = [max(-(-span[1] // step), at + 1) for span, at in zip(window, first, strict=True)]
        # A node and, to be sure that no seam runs between, the middle of each cell.
        at_y, at_x = (np.arange(2 * a, 2 * b + 1) * (step / 2) for a, b in zip(first, stops, strict=True))
        both = np.stack(_positions(self.source, self.target, *np.meshgrid(at_y, at_x, indexing="ij")))
        nodes = both[:, ::2, ::2]
        mean = (nodes[:, 1:, 1:] + nodes[:, 1:, :-1] + nodes[:, :-1, 1:] + nodes[:, :-1, :-1]) / 4
        if (error := _longest(mean - both[:, 1::2, 1::2])) > 4 * CONTROL_PX:
            raise _seam(self.source, self.target, error)
        y, x = np.ascontiguousarray(nodes)
        return ControlGrid(y, x, (first[0] * step, first[1] * step), step)


def _turned(alignment: Alignment) -> _Turned:
    """How grids that do not run along each other meet: sizes of pixels in the target's middle, nodes close enough."""
    source, target = alignment.source, alignment.target
    slopes = _slopes(source, target)
    sampling = Sampling.of(
        (math.hypot(slopes[0, 0], slopes[1, 0]), math.hypot(slopes[0, 1], slopes[1, 1])), nearest=alignment.method == "nearest"
    )
    blurs = _blurs(alignment.mtf, (math.hypot(*slopes[0]), math.hypot(*slopes[1])))
    step = MAX_CONTROL_STEP
    while (error := _control_error(source, target, step)) > CONTROL_PX:
        if step == 1:
            raise _seam(source, target, error)
        step //= 2
    return _Turned(source, target, step, sampling, blurs)


def _control_error(source: GeoBox, target: GeoBox, step: int) -> float:
    """Greatest distance, in source pixels, of the middles of some cells of nodes, and of their edges, from the exact ones."""
    at_y, at_x = (np.unique(np.linspace(0, (int(size) - 1) // step, _PROBES).astype(np.int64)) * step for size in target.shape)
    y, x = (a[..., None, None] for a in np.meshgrid(at_y, at_x, indexing="ij"))
    part = np.array([0.0, 0.5, 1.0]) * step
    exact = np.stack(_positions(source, target, *np.broadcast_arrays(y + part[:, None], x + part)))
    middle, low, left = exact[..., 1, 1], exact[..., 0, 1], exact[..., 1, 0]
    corners = exact[..., ::2, ::2]
    errors = (middle - corners.mean((-2, -1)), low - corners[..., 0, :].mean(-1), left - corners[..., 0].mean(-1))
    return max(_longest(e) for e in errors)


def _longest(error: Float64Array) -> float:
    """Greatest length of (y, x) errors where they are known."""
    lengths = np.hypot(*error)
    return float(np.max(lengths, where=np.isfinite(lengths), initial=0))


def _seam(source: GeoBox, target: GeoBox, error_px: float) -> GridError:
    """What to say of positions that no control grid follows."""
    return GridError(
        f"Positions of {target.crs} pixels in {source.crs} cannot be followed: they are {error_px:.3g} px off between nodes. "
        "A seam of a projection runs through the grid (longitude 180, say). Cut it there, or load both products in one CRS."
    )


def _positions(source: GeoBox, target: GeoBox, y: AnyArray, x: AnyArray) -> tuple[Float64Array, Float64Array]:
    """Source rows and columns of target pixel corners, exactly; NaN where the source's projection does not reach."""
    a = target.affine
    east, north = a.a * x + a.b * y + a.c, a.d * x + a.e * y + a.f
    if source.crs is not None and source.crs != target.crs:
        east, north = _transformer(str(target.crs), str(source.crs)).transform(east, north)
        reached = np.isfinite(east) & np.isfinite(north)
        east, north = np.where(reached, east, np.nan), np.where(reached, north, np.nan)
    b = ~source.affine
    return b.d * east + b.e * north + b.f, b.a * east + b.b * north + b.c


@lru_cache(maxsize=64)
def _transformer(target: str, source: str) -> Transformer:
    """From one CRS to another; odc-geo keeps its own by the place of a CRS in memory, which another may take over."""
    return Transformer.from_crs(target, source, always_xy=True)


def _slopes(source: GeoBox, target: GeoBox) -> Float64Array:
    """Source pixels, (along y, along x) by rows, per target pixel along (y, x) by columns, in the target's middle."""
    ny, nx = target.shape
    y, x = _positions(source, target, ny / 2 + np.array([-0.5, 0.5, 0, 0]), nx / 2 + np.array([0, 0, -0.5, 0.5]))
    slopes = np.array([[a[1] - a[0], a[3] - a[2]] for a in (y, x)])
    if not np.isfinite(slopes).all():
        raise GridError(f"The middle of a grid in {target.crs} has no place in {source.crs}; load both products in one CRS.")
    return slopes


def _blurs(mtf: float | None, ratio_yx: tuple[float, float]) -> tuple[float, float]:
    """Variance along y and x of the Gaussian of a modulation transfer."""
    if mtf is None:
        return 0.0, 0.0
    if min(ratio_yx) < 1 - SNAP_PX:
        raise GridError(
            f"mtf={mtf} was asked for target pixels of {ratio_yx[0]:.4g} × {ratio_yx[1]:.4g} source pixels; a sensor is imitated "
            "on pixels no smaller than the source's. Pass mtf=None, or a coarser target."
        )
    y, x = (mtf_variance(mtf, max(ratio, 1.0)) for ratio in ratio_yx)
    return y, x


def _wider(span: Span, blur: float, size: int) -> Span:
    """A span with what its Gaussian reaches, clipped at the source."""
    if not blur or span[0] == span[1]:
        return span
    reach = len(gaussian(blur)) // 2
    return max(0, span[0] - reach), min(size, span[1] + reach)
