"""evaluate: held-out pixels only, the same for every method, measured as the definitions say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import eocube
from eocube.errors import GridError, ModelError, PatchError, UnknownNameError
from eocube.jobs.evaluate import evaluate
from eocube.jobs.patches import plan_patches
from eocube.jobs.superres import superres
from eocube.kernels.metrics import psnr, ssim
from eocube.model.patch_spec import PatchSpec, SplitRule
from eocube.patches.split import EITHER, TEST, Blocks, date_codes
from eocube.sr import SrModel, load_model
from tests.patches.makers import DAYS, SPEC, geobox, make_store
from tests.sr.makers import make_counting

SHAPE = (48, 60)
RULE = SPEC.split or SplitRule()
WIDE = replace(SPEC, min_clear=0.8, split=replace(RULE, block_px=20))

EVERY_DATE = replace(SPEC, min_clear=0.3, split=replace(RULE, block_px=20, period_days=None))
MS = tuple(int(d * 86_400_000) for d in DAYS)
NO_TEST_DATE = next(seed for seed in range(100) if TEST not in date_codes(MS, WIDE.split, seed))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_store(tmp_path_factory.mktemp("evaluate"), lr_shape=SHAPE)


@pytest.fixture(scope="module")
def models() -> dict[str, SrModel]:
    return {n: load_model(n, scale=2, bands=["red", "green"]) for n in ("nearest", "bicubic")}


def by_hand(store: str, model: SrModel, spec: PatchSpec = WIDE) -> dict[int, tuple[float, float, int]]:
    """Date → (PSNR, SSIM, pixels) from whole arrays in memory."""
    hr = eocube.open_cube(f"{store}/cubes/a/10m", decode="reflectance", chunks=None)
    lr = eocube.open_cube(f"{store}/cubes/a/20m", decode="reflectance", chunks=None)
    sr = eocube.superresolve(eocube.open_cube(f"{store}/cubes/a/20m"), model)["data"].sel(band=["green", "red"]).values
    estimate = np.where(sr == 0, np.nan, sr.astype(np.float32) * np.float32(1e-4) + np.float32(-0.1))
    clear_lr = np.isfinite(lr["data"].values).all(axis=1) & (lr["scl"].values == 4)
    clear = np.isfinite(hr["data"].values).all(axis=1) & (hr["scl"].values == 4) & clear_lr.repeat(2, 1).repeat(2, 2)
    areas = Blocks(geobox(SHAPE, 20.0), spec.split or RULE, spec.seed).test_areas((0, SHAPE[0]), (0, SHAPE[1]))
    codes = date_codes(MS, spec.split, spec.seed)
    out = {}
    for t in np.flatnonzero(np.isin(codes, (TEST, EITHER))):
        usable = np.zeros(clear.shape[1:], bool)
        similar, n = 0.0, 0
        for y, x in areas:
            at = slice(2 * y[0], 2 * y[1]), slice(2 * x[0], 2 * x[1])
            usable[at] = clear[t][at]
            s = ssim(hr["data"].values[t][:, *at], estimate[t][:, *at], valid=clear[t][at][None])
            if not np.isnan(s):
                similar, n = similar + s * clear[t][at].sum(), n + clear[t][at].sum()
        whole = sum((y[1] - y[0]) * (x[1] - x[0]) for y, x in areas) * 4
        if usable.sum() >= spec.min_clear * whole:
            out[int(t)] = (
                psnr(hr["data"].values[t], estimate[t], valid=usable[None]),
                similar / n if n else float("nan"),
                int(usable.sum()),
            )
    return out


@pytest.mark.parametrize("spec", [WIDE, EVERY_DATE], ids=["a test period", "every date, clouds and nodata"])
def test_the_numbers_are_those_worked_out_by_hand(store: str, models: dict[str, SrModel], spec: PatchSpec) -> None:
    found = evaluate(store, models, spec)
    for name, model in models.items():
        expected = by_hand(store, model, spec)
        assert found["psnr"][name] == pytest.approx(np.mean([e[0] for e in expected.values()]), abs=1e-9)
        assert found["ssim"][name] == pytest.approx(np.mean([e[1] for e in expected.values()]), abs=1e-9)
        assert found["test_pixels"] == sum(e[2] for e in expected.values()) > 0
        assert found["test_dates"] == len(expected) == len(found["rows"])
    assert found["bands"] == ["green", "red"]
    assert found["psnr"]["bicubic"] > found["psnr"]["nearest"] + 3, "the ground is linear"


def test_only_test_dates_that_are_clear_enough_count(store: str, models: dict[str, SrModel]) -> None:
    found = evaluate(store, models, WIDE)
    assert [r["date"] for r in found["rows"]] == ["1971-04-26T00:00:00"], "day 480; day 485 is all cloud"
    every = evaluate(store, models, EVERY_DATE)
    assert every["test_dates"] == len(DAYS) - 1
    assert min(r["clear"] for r in every["rows"]) < 1


def test_every_method_is_measured_on_the_same_pixels_whatever_bands_it_takes(store: str, models: dict[str, SrModel]) -> None:
    """A model that lacks no data, and one whose input has holes where nir has none to give."""
    together = evaluate(store, {**models, "other": make_counting(("red", "nir", "green"))}, WIDE)
    alone = evaluate(store, {"nearest": models["nearest"]}, WIDE)
    assert together["test_pixels"] == alone["test_pixels"]
    assert together["psnr"]["other"] == together["psnr"]["nearest"] == alone["psnr"]["nearest"]


def test_no_compared_pixel_was_trained_on(store: str, models: dict[str, SrModel]) -> None:
    rows = list(plan_patches(store, WIDE).rows())
    trained_days = {r["date"] for r in rows if r["split"] == "train"}
    ground = {(r["lr_yx"][0] + i, r["lr_yx"][1] + j) for r in rows if r["split"] == "train" for i in range(6) for j in range(6)}
    areas = Blocks(geobox(SHAPE, 20.0), WIDE.split, WIDE.seed).test_areas((0, SHAPE[0]), (0, SHAPE[1]))  # type: ignore[arg-type]
    compared = {(i, j) for y, x in areas for i in range(*y) for j in range(*x)}
    assert ground
    assert compared
    assert not ground & compared
    dates = {int(np.datetime64(r["date"], "ms").astype(int)) for r in evaluate(store, models, WIDE)["rows"]}
    assert not dates & trained_days


def test_a_written_cube_measures_as_its_model(store: str, models: dict[str, SrModel], tmp_path: Path) -> None:
    superres(store, str(tmp_path), models["bicubic"], product="20m", executor="serial")
    found = evaluate(store, models, WIDE, written={"stored": (str(tmp_path), "sr")})
    assert found["psnr"]["stored"] == found["psnr"]["bicubic"]
    assert found["ssim"]["stored"] == found["ssim"]["bicubic"]


def test_a_date_of_many_pieces_is_measured_as_one(store: str, models: dict[str, SrModel]) -> None:
    """Small blocks: many test areas, of which the small ones hold no whole SSIM window."""
    spec = replace(WIDE, lr_px=6, split=replace(RULE, block_px=6), min_clear=0.5)
    found, expected = evaluate(store, {"bicubic": models["bicubic"]}, spec), by_hand(store, models["bicubic"], spec)
    assert found["psnr"]["bicubic"] == pytest.approx(np.mean([e[0] for e in expected.values()]), abs=1e-9)
    assert found["test_pixels"] == sum(e[2] for e in expected.values())


@pytest.mark.parametrize(
    ("kwargs", "error", "said"),
    [
        ({"spec": replace(WIDE, split=None)}, PatchError, "nothing was held out"),
        ({"models": {}}, PatchError, "one or more"),
        ({"spec": replace(WIDE, seed=NO_TEST_DATE)}, PatchError, "On no test date"),
        ({"models": {"x3": load_model("nearest", scale=3, bands=["green", "red"])}}, ModelError, "scale is 3"),
        ({"models": {"red": load_model("nearest", scale=2, bands=["red"])}}, UnknownNameError, "band 'green' in the model"),
    ],
    ids=["no split", "no model", "no clear date", "scale", "bands"],
)
def test_what_cannot_be_compared_is_refused(
    store: str, models: dict[str, SrModel], kwargs: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        evaluate(store, **{"models": models, "spec": WIDE, **kwargs})


def test_written_cubes_that_do_not_fit_are_refused(store: str, models: dict[str, SrModel], tmp_path: Path) -> None:
    with pytest.raises(GridError, match="at scale 2 has"):
        evaluate(store, models, WIDE, written={"lr": (store, "20m")})
    with pytest.raises(PatchError, match="each once"):
        evaluate(store, models, WIDE, written={"nearest": (store, "20m")})
    early = make_store(tmp_path, lr_shape=SHAPE, days=DAYS[:4])
    superres(early, str(tmp_path / "sr"), models["bicubic"], product="20m", executor="serial")
    with pytest.raises(ModelError, match="lacks 2 test dates"):
        evaluate(store, models, WIDE, written={"early": (str(tmp_path / "sr"), "sr")})
