"""evaluate: how near models come to what is true, on dates and ground that were held out of training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from eocube.errors import GridError, ModelError, PatchError, UnknownNameError
from eocube.exec.evaluate import Evaluation
from eocube.io.cubes import CubeSource, cube_path
from eocube.jobs.open import Store, open_store
from eocube.jobs.patches import plan_patches
from eocube.kernels.arrays import BoolArray, Float32Array
from eocube.kernels.metrics import rmse, ssim
from eocube.kernels.radiometry import dn_to_reflectance
from eocube.kernels.resample import upsample_nearest
from eocube.model.patch_spec import PatchSpec
from eocube.model.recipe import Binding
from eocube.model.window import Span, Window
from eocube.patches.extract import read_side
from eocube.patches.plan import PatchPair
from eocube.patches.split import EITHER, TEST, Blocks
from eocube.sr.models import SrModel
from eocube.sr.step import SrPiece, sr_node
from eocube.sr.tiles import NODATA, OFFSET, SCALE

DATES_AT_ONCE = 16

Estimate = Callable[[tuple[int, ...], Span, Span], Float32Array]
"""(LR dates, LR rows, LR columns) → reflectance (date, band, y, x) at HR pixels, in the bands that are compared."""


def evaluate(
    store: str,
    models: Mapping[str, SrModel],
    spec: PatchSpec,
    *,
    written: Mapping[str, tuple[str, str]] | None = None,
    sites: Sequence[str] | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """How near models come to the HR cube, on dates and ground that ``spec`` held out of training.

    Parameters
    ----------
    store
        The store with the LR and the HR product of ``spec``.
    models
        Name → model, to run here and now over the LR cubes (``{"bicubic": load_model("bicubic", …), …}``).
    spec
        The spec of the patch set that was trained on: which blocks and periods are for testing, which HR bands are compared
        (all of them if it names none), and how clear a date must be.
    written
        Name → (store, product) of cubes that :func:`eocube.superres` wrote, to be measured as they are.
    sites
        Only those; None: every site with both products.
    storage_options
        For all stores.

    Returns
    -------
    ``psnr`` and ``ssim``: name → mean over dates (PSNR in dB over all bands of a date together, reflectance 1 as the peak; SSIM
    over windows without a missing pixel); ``test_pixels``: HR pixels compared, summed over dates; ``test_dates``; ``bands``;
    ``rows``: the same for each site and date. A pixel counts where HR and the LR pixel below it have data and are clear, in a
    test block, on a test date on which at least ``spec.min_clear`` of the site's test blocks is clear. Every method is measured
    on the same pixels.

    Raises
    ------
    PatchError
        If ``spec`` holds nothing out, or nothing of it is clear.
    ModelError, GridError
        If a model or a written cube does not fit: its bands, its scale, its grid, its dates.
    """
    if spec.split is None:
        raise PatchError("The spec has no split rule, so nothing was held out of training and there is nothing to test on.")
    names = [*models, *(written or {})]
    if not names or len(set(names)) != len(names):
        raise PatchError(f"evaluate was given the names {names}, in models and written; it takes one or more, each once.")
    opened = open_store(store, storage_options=storage_options)
    plan = plan_patches(opened, spec, sites=sites, storage_options=storage_options)
    cubes = {n: (open_store(url, storage_options=storage_options), product) for n, (url, product) in (written or {}).items()}
    rows = [row for pair in plan.pairs for row in _Judge(opened.url, pair, models, cubes, storage_options).rows()]
    if not rows:
        raise PatchError(
            f"On no test date of {opened.url} are the test blocks {spec.min_clear:.0%} clear ({plan}). Draw others with the "
            "spec's seed, or make blocks and periods smaller."
        )
    return {
        "psnr": {n: _mean([r["psnr"][n] for r in rows]) for n in names},
        "ssim": {n: _mean([r["ssim"][n] for r in rows]) for n in names},
        "test_pixels": sum(r["pixels"] for r in rows),
        "test_dates": len(rows),
        "bands": list(plan.hr_bands),
        "rows": rows,
    }


def _mean(values: Sequence[float]) -> float:
    known = [v for v in values if not math.isnan(v)]
    return sum(known) / len(known) if known else math.nan


@dataclass(kw_only=True)
class _Scores:
    """Errors of one method on one date, over several pieces of ground."""

    pixels: int = 0
    squared: float = 0.0
    similarity: float = 0.0
    similar_pixels: int = 0
    """Pixels of the pieces in which an SSIM window was whole."""

    def add(self, truth: Float32Array, estimate: Float32Array, valid: BoolArray) -> None:
        """Count one piece, (band, y, x) and (y, x)."""
        n = int(valid.sum())
        if not n:
            return
        self.pixels += n
        self.squared += n * rmse(truth, estimate, valid=valid[None]) ** 2
        similar = ssim(truth, estimate, valid=valid[None])
        if not math.isnan(similar):
            self.similarity += n * similar
            self.similar_pixels += n

    @property
    def psnr(self) -> float:
        """Decibels; reflectance 1 is the peak."""
        return -10 * math.log10(self.squared / self.pixels) if self.squared else math.inf

    @property
    def ssim(self) -> float:
        """Mean structural similarity; NaN where no window was whole."""
        return self.similarity / self.similar_pixels if self.similar_pixels else math.nan


@dataclass(kw_only=True)
class _Date:
    """One test date of one site."""

    scores: dict[str, _Scores] = field(default_factory=dict)
    pixels: int = 0
    """HR pixels of all test blocks."""

    compared: int = 0


class _Judge:
    """Measures every method on one site."""

    def __init__(
        self,
        store_url: str,
        pair: PatchPair,
        models: Mapping[str, SrModel],
        cubes: Mapping[str, tuple[Store, str]],
        options: Mapping[str, Any] | None,
    ):
        self._store_url, self._pair, self._options, self._scale = store_url, pair, dict(options or {}), pair.spec.scale
        self._bands = tuple(pair.hr.frame.band_names[i] for i in pair.hr_bands)
        self._estimates: dict[str, Estimate] = {n: self._model(m) for n, m in models.items()}
        self._estimates |= {n: self._cube(opened, product) for n, (opened, product) in cubes.items()}

    def rows(self) -> Iterator[dict[str, Any]]:
        """A row a test date that is clear enough."""
        hr_t, lr_t = self._pair.dates
        wanted = np.flatnonzero(np.isin(self._pair.date_codes, (TEST, EITHER)))
        for first in range(0, len(wanted), DATES_AT_ONCE):
            chosen = wanted[first : first + DATES_AT_ONCE]
            dates = self._measured(hr_t[chosen], lr_t[chosen])
            for t, date in zip(hr_t[chosen], dates, strict=True):
                if date.compared and date.compared >= self._pair.spec.min_clear * date.pixels:
                    yield {
                        "site": self._pair.site,
                        "date": str(np.datetime64(self._pair.hr.frame.time_ms[t], "ms").astype("M8[s]")),
                        "pixels": date.compared,
                        "clear": date.compared / date.pixels,
                        "psnr": {n: s.psnr for n, s in date.scores.items()},
                        "ssim": {n: s.ssim for n, s in date.scores.items()},
                    }

    def _measured(self, hr_t: npt.NDArray[np.int64], lr_t: npt.NDArray[np.int64]) -> list[_Date]:
        dates = [_Date(scores={n: _Scores() for n in self._estimates}) for _ in hr_t]
        rule = self._pair.spec.split
        assert rule is not None  # noqa: S101 - evaluate refuses a spec without
        blocks = Blocks(self._pair.lr.frame.geobox, rule, self._pair.spec.seed)
        lr_unique = np.unique(lr_t)
        for y, x in blocks.test_areas(*self._pair.cover):
            truth, valid = self._truth(hr_t, lr_t, y, x)
            for date, usable in zip(dates, valid, strict=True):
                date.pixels += usable.size
                date.compared += int(usable.sum())
            for name, estimate in self._estimates.items():
                shown = estimate(tuple(lr_unique.tolist()), y, x)[np.searchsorted(lr_unique, lr_t)]
                for i, date in enumerate(dates):
                    date.scores[name].add(truth[i], shown[i], valid[i])
        return dates

    def _truth(
        self, hr_t: npt.NDArray[np.int64], lr_t: npt.NDArray[np.int64], y: Span, x: Span
    ) -> tuple[Float32Array, BoolArray]:
        """HR reflectance of LR pixels (y, x), and where it and the LR pixel below are clear."""
        spec, s = self._pair.spec, self._scale
        hr_y, hr_x = self._pair.hr_span(y[0], x[0])
        at = Window(tuple(hr_t.tolist()), (hr_y, hr_y + (y[1] - y[0]) * s), (hr_x, hr_x + (x[1] - x[0]) * s))
        hr = read_side(self._source(self._pair.hr_cube, spec.hr_product), at, self._pair.hr_bands)
        unique = np.unique(lr_t)
        below = Window(tuple(unique.tolist()), y, x)
        lr = read_side(self._source(self._pair.lr_cube, spec.lr_product), below, self._pair.lr_bands)
        valid: BoolArray = hr.clear & upsample_nearest(lr.clear[np.searchsorted(unique, lr_t)], (s, s))
        return hr.data, valid

    def _source(self, cube: str, product: str) -> CubeSource:
        return CubeSource.open(f"{self._store_url}/{cube_path(cube, product)}", decode="reflectance", options=self._options)

    @cached_property
    def _lr(self) -> CubeSource:
        url = f"{self._store_url}/{cube_path(self._pair.lr_cube, self._pair.spec.lr_product)}"
        return CubeSource.open(url, options=self._options)

    def _model(self, model: SrModel) -> Estimate:
        """A model that runs here, over the stored numbers, through the numbers that a store would hold."""
        if model.scale != self._scale:
            raise ModelError(f"The model's scale is {model.scale}, the spec's {self._scale}; evaluate compares pixel by pixel.")
        chosen = self._among(model.bands_out, "the model")
        source = self._lr
        node, binding = sr_node(source.node, Binding(sources={source.node["source"]: source}), model)
        piece = SrPiece(node, Evaluation(binding, {}))

        def estimate(times: tuple[int, ...], y: Span, x: Span) -> Float32Array:
            window = Window(times, (y[0] * self._scale, y[1] * self._scale), (x[0] * self._scale, x[1] * self._scale))
            dn = piece.evaluate(window)["data"][:, chosen]
            return dn_to_reflectance(dn, scale=SCALE, offset=OFFSET, nodata=NODATA)

        return estimate

    def _cube(self, opened: Store, product: str) -> Estimate:
        """A cube that was written by :func:`eocube.superres`."""
        source = CubeSource.open(opened.cube_url(self._pair.site, product), decode="reflectance", options=self._options)
        frame, lr = source.frame(), self._lr.frame()
        expected = tuple(n * self._scale for n in lr.shape_yx)
        if frame.shape_yx != expected or not frame.geobox.extent.boundingbox.bbox == lr.geobox.extent.boundingbox.bbox:
            raise GridError(
                f"Product {product!r} of {opened.url} has {frame.shape_yx} pixels in {frame.geobox.boundingbox}; "
                f"{self._pair.spec.lr_product!r} at scale {self._scale} has {expected} in {lr.geobox.boundingbox}."
            )
        chosen = self._among(frame.band_names, f"product {product!r}")
        place = {ms: i for i, ms in enumerate(frame.time_ms)}

        def estimate(times: tuple[int, ...], y: Span, x: Span) -> Float32Array:
            missing = [lr.time_ms[t] for t in times if lr.time_ms[t] not in place]
            if missing:
                raise ModelError(f"Product {product!r} of {opened.url} lacks {len(missing)} test dates; finish the run first.")
            at = Window(
                tuple(place[lr.time_ms[t]] for t in times),
                (y[0] * self._scale, y[1] * self._scale),
                (x[0] * self._scale, x[1] * self._scale),
            )
            shown: Float32Array = source.read(at, names=("data",))["data"][:, chosen]
            return shown

        return estimate

    def _among(self, bands: Sequence[str], where: str) -> list[int]:
        for band in self._bands:
            if band not in bands:
                raise UnknownNameError("band", band, bands, where)
        return [list(bands).index(b) for b in self._bands]
