"""The demo: the whole chain on the sample that ships, offline, in a few minutes, with numbers and pictures."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import xarray as xr

from eocube.corpora.sample import sample_corpus
from eocube.errors import ModelError
from eocube.exec.executors import connect
from eocube.jobs.compose import compose, plan_compose
from eocube.jobs.convert import convert, plan_convert
from eocube.jobs.demo_pictures import clear_timeline, cloudy_and_composite, superres_panels
from eocube.jobs.evaluate import evaluate
from eocube.jobs.open import Store, open_corpus, open_store
from eocube.jobs.patches import extract_patches, plan_patches
from eocube.jobs.superres import plan_superres, superres
from eocube.kernels.resample import upsample_bicubic
from eocube.lazy.masks import clear_fraction
from eocube.lazy.radiometry import to_reflectance
from eocube.model.patch_spec import PatchSpec, SplitRule
from eocube.sr.models import SrModel, load_model
from eocube.sr.train import TrainProgress, train

CREDIT = "Contains modified Copernicus Sentinel data 2015-2021"
ONE_SENSOR = (
    "Both resolutions come from one sensor (Sentinel-2's 20 m and 10 m versions of green and red): this shows that the chain "
    "works, not that it super-resolves one sensor to another."
)
SPEC = PatchSpec(
    lr_product="20m",
    hr_product="10m",
    hr_bands=("green", "red"),
    lr_px=12,
    stride_px=4,
    split=SplitRule(block_px=24, buffer_px=2, period_days=90, periods=4, gap_days=5),
)
"""20 m → 10 m on the two shared bands. Test: one block of 24 LR pixels in four, in one quarter of a year in four."""


class Progress(Protocol):
    """Hears how far a stage is."""

    def __call__(self, stage: str, done: int, total: int | None = None, note: str = "") -> None:
        """Unit ``done`` of ``total`` of ``stage`` is done."""


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """What the demo found out."""

    folder: Path
    psnr: dict[str, float]
    """dB on held-out dates and places, reflectance range 1, by method: nearest, bicubic, network."""

    ssim: dict[str, float]
    """Structural similarity there, by method."""

    test_pixels: int
    """HR pixels compared, summed over dates."""

    seconds: float
    stages: dict[str, float] = field(default_factory=dict)
    """Seconds of each stage."""

    pictures: tuple[Path, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The numbers, as one object."""
        return {"psnr": self.psnr, "ssim": self.ssim, "test_pixels": self.test_pixels, "seconds": round(self.seconds, 1)}

    def __str__(self) -> str:
        rows = [f"{'':9}  {'PSNR, dB':>8}  {'SSIM':>6}"]
        rows += [f"{name:9}  {self.psnr[name]:8.2f}  {self.ssim[name]:6.4f}" for name in self.psnr]
        gain = self.psnr["network"] - self.psnr["bicubic"]
        return "\n".join(
            [
                f"20 m → 10 m on {self.test_pixels:,} pixels of dates and places that were held out of training:",
                "",
                *rows,
                "",
                f"The network is {gain:+.2f} dB against bicubic. {ONE_SENSOR}",
                "",
                f"Pictures: {', '.join(str(p) for p in self.pictures)}",
                f"Took {self.seconds:.0f} s: " + ", ".join(f"{k} {v:.0f}" for k, v in self.stages.items()) + ".",
                "",
                "Three commands to try next:",
                f"  eocube info {self.folder / 'store'}",
                f"  eocube compose {self.folder / 'store'} {self.folder / 'store'} --index ndvi --freq QS-DEC",
                f"  eocube audit {self.folder / 'store'} --deep",
            ]
        )


def demo(folder: str | Path = "demo", *, train_seconds: float = 60.0, progress: Progress | None = None) -> DemoResult:
    """Run the whole chain on seven years of real Sentinel-2 pixels.

    Sample → two Zarr cubes → clear fraction → monthly and seasonal clear medians → LR/HR patches, split by time and place →
    training → the network over the whole 20 m cube on a local Dask cluster → PSNR and SSIM on held-out dates and places →
    pictures. A second run in the same folder takes up what is finished, the trained network too.

    Parameters
    ----------
    folder
        Where everything goes; made if absent.
    train_seconds
        How long the network learns.
    progress
        Called with (stage, done, total, note).

    Returns
    -------
    The numbers; also in ``folder/result.json``.
    """
    run = _Demo(Path(folder), progress or _quiet, train_seconds)
    return run.run()


def _quiet(stage: str, done: int, total: int | None = None, note: str = "") -> None:
    """No display."""


class _Demo:
    def __init__(self, folder: Path, progress: Progress, train_seconds: float):
        self._folder, self._progress, self._train_seconds = folder, progress, train_seconds
        self._store = str(folder / "store")
        self._stages: dict[str, float] = {}
        self._shown: dict[str, Any] = {}

    def run(self) -> DemoResult:
        started = time.perf_counter()
        store, site = self._timed("convert", self._convert)
        self._timed("compose", self._compose)
        self._timed("patches", self._patches)
        model = self._timed("train", self._train)
        self._timed("superres", lambda: self._superres(model))
        scores = self._timed("compare", lambda: self._compare(model))
        pictures = self._timed("draw", lambda: self._draw(store, site, model))
        result = DemoResult(
            folder=self._folder,
            psnr=scores["psnr"],
            ssim=scores["ssim"],
            test_pixels=scores["test_pixels"],
            seconds=time.perf_counter() - started,
            stages=self._stages,
            pictures=pictures,
        )
        (self._folder / "result.json").write_text(json.dumps(result.as_json(), indent=1) + "\n")
        return result

    def _timed(self, stage: str, job: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        done = job()
        self._stages[stage] = time.perf_counter() - started
        return done

    def _counter(self, stage: str, total: int) -> Callable[[Any], None]:
        """An ``on_done`` that counts."""
        n = 0

        def count(_: Any) -> None:
            nonlocal n
            n += 1
            self._progress(stage, min(n, total), total)

        return count

    def _convert(self) -> tuple[Store, str]:
        corpus = open_corpus("stac", sample_corpus("sentinel2", self._folder / "sample"))
        total = sum(p.n_regions for p in plan_convert(corpus, self._store))
        convert(corpus, self._store, executor="threads", on_done=self._counter("convert", total))
        store = open_store(self._store)
        return store, str(store.index["site"][0].as_py())

    def _compose(self) -> None:
        for freq in ("1MS", "QS-DEC"):
            steps = {"mask": "scl", "freq": freq, "method": "median"}
            total = sum(p.n_regions for p in plan_compose(self._store, self._store, products=["10m", "20m"], steps=steps))
            count = self._counter(f"compose {freq}", total)
            compose(self._store, self._store, products=["10m", "20m"], freq=freq, executor="threads", on_done=count)

    def _patches(self) -> None:
        total = len(list(plan_patches(self._store, SPEC).tasks()))
        count = self._counter("patches", total)
        extract_patches(self._store, str(self._folder / "patches"), SPEC, executor="threads", on_done=count)

    def _train(self) -> SrModel:
        folder = str(self._folder / "model")
        with contextlib.suppress(ModelError):  # none there yet
            return load_model(folder)

        def heard(at: TrainProgress) -> None:
            self._progress("train", int(100 * at.share), 100, f"step {at.step}, loss {at.loss:.2e}")

        return train(str(self._folder / "patches"), folder, seconds=self._train_seconds, learning_rate=4e-3, on_step=heard)

    def _superres(self, model: SrModel) -> None:
        total = sum(p.n_regions for p in plan_superres(self._store, str(self._folder / "sr"), model, product="20m"))
        cluster = connect("processes:1", gpu_workers=1)
        try:
            superres(
                self._store,
                str(self._folder / "sr"),
                model,
                product="20m",
                out_product=model_product(model),
                executor=cluster,
                on_done=self._counter("superres", total),
            )
        finally:
            cluster.close()

    def _compare(self, model: SrModel) -> dict[str, Any]:
        bands = SPEC.hr_bands
        models = {name: load_model(name, scale=SPEC.scale, bands=bands) for name in ("nearest", "bicubic")}
        written = {"network": (str(self._folder / "sr"), model_product(model))}
        scores = evaluate(self._store, models, SPEC, written=written)
        by_gain = sorted(scores["rows"], key=lambda r: r["psnr"]["network"] - r["psnr"]["bicubic"])
        self._shown = by_gain[len(by_gain) // 2]
        self._progress("compare", 1, 1)
        return scores

    def _draw(self, store: Store, site: str, model: SrModel) -> tuple[Path, ...]:
        pictures = tuple(self._folder / name for name in ("clear_fraction.png", "composite.png", "superres.png"))
        share = clear_fraction(store.cube(site, "10m")).compute()
        clear_timeline(pictures[0], share["time"].values, share.values, credit=CREDIT)
        self._draw_composite(pictures[1], store, site, share)
        self._draw_superres(pictures[2], store, site, model)
        self._progress("pictures", 3, 3)
        return pictures

    def _draw_composite(self, path: Path, store: Store, site: str, share: xr.DataArray) -> None:
        """A partly cloudy date beside the composite of its month: of such dates one in a month that was seen most often."""
        months = to_reflectance(store.cube(site, "10m_median_1MS"))
        seen = months["n_clear"].min(("y", "x")).values
        month_of = np.searchsorted(months["time"].values, share["time"].values, side="right") - 1
        half = np.flatnonzero((share.values > 0.5) & (share.values < 0.85))
        date = max(half, key=lambda i: (seen[month_of[i]], -share.values[i]))
        dates = to_reflectance(store.cube(site, "10m"))
        day = np.datetime_as_string(share["time"].values[date], "D")
        month = np.datetime_as_string(months["time"].values[month_of[date]], "M")
        captions = (f"{day}, {share.values[date]:.0%} clear by its classification", f"clear median of {month}")
        cloudy_and_composite(path, _rgb(dates, date), _rgb(months, month_of[date]), captions=captions, credit=CREDIT)

    def _draw_superres(self, path: Path, store: Store, site: str, model: SrModel) -> None:
        """LR, bicubic, network and HR of the red band on the test date of the median gain."""
        when = np.datetime64(self._shown["date"][:19], "ns")
        made = open_store(str(self._folder / "sr")).cube(site, model_product(model))
        cubes = (store.cube(site, SPEC.lr_product), made, store.cube(site, SPEC.hr_product))
        lr, sr, hr = (to_reflectance(c).sel(time=when, method="nearest") for c in cubes)
        panels = {
            "20 m": lr["data"].sel(band="red").values,
            "20 m, bicubic": upsample_bicubic(lr["data"].sel(band="red").values, SPEC.scale),
            "20 m, network": sr["data"].sel(band="red").values,
            "10 m": hr["data"].sel(band="red").values,
        }
        day = np.datetime_as_string(when, "D")
        title = f"Red on {day} (the median gain of the dates not trained on); below, ground not trained on either"
        superres_panels(path, panels, zoom=_test_window(self._store), title=title, credit=CREDIT)


def model_product(model: SrModel) -> str:
    """Product name of a model's output: another training, another cube."""
    return f"sr_{model.model_id[:8]}"


def _rgb(cube: xr.Dataset, date: Any) -> npt.NDArray[np.float32]:
    """One date as (y, x, 3) reflectance."""
    picture = cube["data"].isel(time=int(date)).sel(band=["red", "green", "blue"]).transpose("y", "x", "band")
    return np.asarray(picture.values, np.float32)


def _test_window(store: str) -> tuple[slice, slice]:
    """A square of HR pixels on test ground: the box of the test patches of one date."""
    rows = [r for r in plan_patches(store, SPEC).rows() if r["split"] == "test"]
    y, x = (sorted({r["hr_yx"][axis] for r in rows if r["date"] == rows[0]["date"]}) for axis in (0, 1))
    return slice(y[0], y[-1] + SPEC.hr_px), slice(x[0], x[-1] + SPEC.hr_px)
