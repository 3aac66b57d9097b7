"""Pairs of cubes without pixels, and a small store whose pixels say where on the ground they lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from affine import Affine
from odc.geo.geobox import GeoBox

from eocube.jobs.write import WriteSettings, plan_cube, run_plans
from eocube.lazy.cube import lazy_cube
from eocube.model.bands import SCL_CLASSES
from eocube.model.frame import Frame, Variable
from eocube.model.patch_spec import PatchSpec, SplitRule
from eocube.model.spec import CubeSpec
from eocube.patches.plan import PatchPair
from eocube.testing.sources import ArraySource, make_bands
from eocube.testing.stores import cut_plan

DAY_MS = 86_400_000
BAND_ORDER = ("green", "red", "nir")
CORNER_XY = (600_000.0, 5_000_000.0)
DAYS = (100.0, 110.0, 250.0, 400.0, 410.5, 480.0, 485.0)
"""Dates of the store, in days since 1970-01-01. With ``SPEC``: some for training, some for testing, one in the gap."""

SPEC = PatchSpec(
    lr_product="20m",
    hr_product="10m",
    hr_bands=("green", "red"),
    lr_px=6,
    stride_px=3,
    min_clear=0.6,
    split=SplitRule(block_px=12, blocks_yx=(2, 2), buffer_px=1, period_days=60, periods=3, gap_days=5),
)


def geobox(shape_yx: tuple[int, int], pixel_m: float, corner_xy: tuple[float, float] = CORNER_XY) -> GeoBox:
    """A north-up grid in UTM 35N."""
    return GeoBox(shape_yx, Affine(pixel_m, 0, corner_xy[0], 0, -pixel_m, corner_xy[1]), "EPSG:32635")


def frame_of(grid: GeoBox, days: tuple[float, ...], bands: tuple[str, ...]) -> Frame:
    """A Sentinel-2-like cube with scene classes."""
    return Frame(
        geobox=grid,
        time_ms=tuple(int(d * DAY_MS) for d in days),
        bands=make_bands(bands),
        variables=(
            Variable(name="data", dtype="uint16", banded=True, nodata=0, scale=1e-4, offset=-0.1),
            Variable(name="scl", dtype="uint8", flags=SCL_CLASSES),
        ),
    )


def cube_spec(frame: Frame, *, shard_tyx: tuple[int, int, int] = (4, 32, 32)) -> CubeSpec:
    """A cube of that frame in small shards."""
    return CubeSpec(frame=frame, layout="patch", chunk_tyx=(1, *shard_tyx[1:]), shard_tyx=shard_tyx, cell_px=1)


def nested_pair(
    spec: PatchSpec,
    *,
    lr_shape: tuple[int, int] = (40, 56),
    days: tuple[float, ...] = DAYS,
    corner_xy: tuple[float, float] = CORNER_XY,
    shard_tyx: tuple[int, int, int] = (4, 32, 32),
    site: str = "site",
) -> PatchPair:
    """LR pixels of 20 m, HR pixels ``spec.scale`` times as fine, on the same ground and dates."""
    lr = geobox(lr_shape, 20.0, corner_xy)
    hr = geobox((lr_shape[0] * spec.scale, lr_shape[1] * spec.scale), 20.0 / spec.scale, corner_xy)
    bands = ("green", "red")
    return PatchPair(
        site=site,
        lr_cube=site,
        hr_cube=site,
        lr=cube_spec(frame_of(lr, days, bands), shard_tyx=shard_tyx),
        hr=cube_spec(frame_of(hr, days, bands), shard_tyx=shard_tyx),
        spec=spec,
    )


def ground_dn(grid: GeoBox, days: tuple[float, ...], bands: tuple[str, ...]) -> npt.NDArray[np.uint16]:
    """(time, band, y, x): a number that only the place of the pixel's centre, the date and the band decide.

    Linear on the ground, so that an LR pixel is exactly the mean of the HR pixels in it.
    """
    ny, nx = grid.shape
    a = grid.affine
    east = (a.c + a.a * (np.arange(nx) + 0.5) - CORNER_XY[0]) / 5
    south = (CORNER_XY[1] - (a.f + a.e * (np.arange(ny) + 0.5))) / 5
    place = 3000 + east[None, :] + 61 * south[:, None]
    date, band = (
        7 * np.arange(len(days))[:, None, None, None],
        2000 * np.array([BAND_ORDER.index(b) for b in bands])[:, None, None],
    )
    dn = place + date + band
    assert (dn == np.rint(dn)).all()
    assert dn.min() > 0
    assert dn.max() < 65_000
    return dn.astype(np.uint16)


def clouds(grid: GeoBox, days: tuple[float, ...]) -> npt.NDArray[np.uint8]:
    """Scene classes: vegetation, but for a cloud of 160 m by 200 m on the first date, thin shadows that only fine pixels show on
    the third, and all cloud on the last.
    """
    ny, nx = grid.shape
    metre = abs(grid.affine.a)
    scl = np.full((len(days), ny, nx), 4, np.uint8)
    south = CORNER_XY[1] - grid.affine.f + metre * (np.arange(ny) + 0.5)
    east = grid.affine.c - CORNER_XY[0] + metre * (np.arange(nx) + 0.5)
    scl[0][((south > 260) & (south < 420))[:, None] & ((east > 300) & (east < 500))[None]] = 9
    if metre < 15:
        scl[2][np.isin(south // 10, [10, 50, 90])] = 3
    scl[-1] = 9
    return scl


def ground_source(name: str, grid: GeoBox, bands: tuple[str, ...], days: tuple[float, ...] = DAYS) -> ArraySource:
    """A source of such pixels, with a strip of nodata at the left edge of the second date."""
    dn = ground_dn(grid, days, bands)
    dn[1, :, :, : round(60 / abs(grid.affine.a))] = 0
    return ArraySource(frame_of(grid, days, bands), {"data": dn, "scl": clouds(grid, days)}, name=name, block_yx=(8, 8))


def make_store(
    folder: Path | str,
    *,
    lr_shape: tuple[int, int] = (30, 36),
    hr_margin_px: int = 0,
    sites: tuple[str, ...] = ("a",),
    days: tuple[float, ...] = DAYS,
) -> str:
    """A store with products ``20m`` (green, red, nir) and ``10m`` (green, red) of each site, in several shards each.

    ``hr_margin_px``: the HR cube begins so many HR pixels before the LR cube, up and to the left, and ends as many behind.
    """
    store = f"{folder}/store"
    m = hr_margin_px
    coarse = geobox(lr_shape, 20.0)
    fine = geobox((2 * lr_shape[0] + 2 * m, 2 * lr_shape[1] + 2 * m), 10.0, (CORNER_XY[0] - 10 * m, CORNER_XY[1] + 10 * m))
    plans = []
    for site in sites:
        for product, grid, bands, shard in (
            ("20m", coarse, ("nir", "red", "green"), (4, 16, 16)),
            ("10m", fine, ("green", "red"), (4, 32, 32)),
        ):
            source = ground_source(f"{site}-{product}", grid, bands, days)
            cube = lazy_cube(source, source.node, chunks={"time": 2, "y": 16, "x": 16}, attrs={"license": "CC0-1.0"})
            plan = plan_cube(cube, store, site=site, product=product, settings=WriteSettings(layout="patch"))
            plans.append(cut_plan(plan, chunk_tyx=(2, shard[1] // 2, shard[2] // 2), shard_tyx=shard))
    run_plans(store, plans, executor="serial", store_attrs={"licenses": ["CC0-1.0"], "attributions": ["nobody"]})
    return store


def values_of(dn: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Reflectance of such numbers, as a patch set holds it."""
    out: npt.NDArray[np.float32] = dn.astype(np.float32) * np.float32(1e-4) + np.float32(-0.1)
    return out
