"""compose: the chain mask → reflectance or index → composite over every cube of a store, into a store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import xarray as xr

from eocube.errors import CatalogError
from eocube.exec.drive import CubePlan, Progress, RunReport
from eocube.exec.region import Errors
from eocube.jobs.open import Store, open_store
from eocube.jobs.write import MAX_BYTES, WriteSettings, plan_cube, run_plans
from eocube.lazy.composite import composite
from eocube.lazy.index import spectral_index
from eocube.lazy.masks import mask_clouds
from eocube.lazy.radiometry import to_reflectance
from eocube.model.spec import Layout


def chain(
    cube: xr.Dataset,
    *,
    mask: str | None = "scl",
    reflectance: bool = False,
    index: str | None = None,
    freq: str | None = "1MS",
    method: str = "median",
) -> xr.Dataset:
    """The steps of :func:`compose` on one lazy cube: mask, decode or index, composite; what is None is left out."""
    if mask is not None:
        cube = mask_clouds(cube, method=mask)
    if reflectance:
        cube = to_reflectance(cube)
    if index is not None:
        cube = spectral_index(cube, index)
    if freq is not None:
        cube = composite(cube, freq=freq, method=method)
    return cube


def compose(
    store: str,
    out: str,
    *,
    sites: Sequence[str] | None = None,
    products: Sequence[str] | None = None,
    mask: str | None = "scl",
    reflectance: bool = False,
    index: str | None = None,
    freq: str | None = "1MS",
    method: str = "median",
    suffix: str | None = None,
    layout: Layout = "map",
    executor: Any = None,
    errors: Errors = "raise",
    limit: int | None = None,
    retry: bool = False,
    max_bytes: int = MAX_BYTES,
    storage_options: Mapping[str, Any] | None = None,
    on_done: Progress | None = None,
) -> RunReport:
    """Mask, decode and composite every cube of a store; run again after anything, and it goes on.

    Parameters
    ----------
    store, out
        Stores; they may be the same.
    sites, products
        Only those; None: all in the index.
    mask, reflectance, index, freq, method
        As in :func:`eocube.mask_clouds`, :func:`eocube.to_reflectance`, :func:`eocube.spectral_index` and
        :func:`eocube.composite`; None leaves the step out. Without ``reflectance`` or ``index`` the numbers stay integers.
    suffix
        A cube goes to product ``<product>_<suffix>``; default: the steps' names, ``10m_median_1MS``.
    layout, executor, errors, limit, retry, max_bytes, storage_options, on_done
        As in :func:`eocube.write_cube`.

    Raises
    ------
    StoreNotFoundError, UnknownNameError, CatalogError
        Before any pixel is read.
    """
    settings = WriteSettings(layout=layout, errors=errors, max_bytes=max_bytes, storage_options=dict(storage_options or {}))
    steps = {"mask": mask, "reflectance": reflectance, "index": index, "freq": freq, "method": method}
    plans = plan_compose(store, out, sites=sites, products=products, suffix=suffix, settings=settings, steps=steps)
    return run_plans(out, plans, executor=executor, limit=limit, retry=retry, storage_options=storage_options, on_done=on_done)


def plan_compose(
    store: str,
    out: str,
    *,
    steps: Mapping[str, Any],
    sites: Sequence[str] | None = None,
    products: Sequence[str] | None = None,
    suffix: str | None = None,
    settings: WriteSettings | None = None,
) -> Iterator[CubePlan]:
    """A plan for each cube. ``steps`` are the arguments of :func:`chain`; CatalogError where no cube is chosen."""
    settings = settings or WriteSettings(layout="map")
    opened = open_store(store, storage_options=settings.storage_options)
    rows = opened.index.select(["site", "product"]).to_pylist()
    chosen = [(r["site"], r["product"]) for r in rows if _among(r["site"], sites) and _among(r["product"], products)]
    if not chosen:
        raise CatalogError(
            f"No cube of {store} is chosen by sites={sites} and products={products}; it has "
            f"{[(r['site'], r['product']) for r in rows[:10]]}."
        )
    return (
        _plan_one(opened, out, site, product, f"{product}_{suffix or _suffix(steps)}", settings, steps)
        for site, product in chosen
    )


def _among(name: str, wanted: Sequence[str] | None) -> bool:
    return wanted is None or name in wanted


def _plan_one(
    opened: Store, out: str, site: str, product: str, target: str, settings: WriteSettings, steps: Mapping[str, Any]
) -> CubePlan:
    return plan_cube(chain(opened.cube(site, product), **steps), out, site=site, product=target, settings=settings)


def _suffix(steps: Mapping[str, Any]) -> str:
    names = [steps.get("index"), "refl" if steps.get("reflectance") else None]
    names += [steps.get("method"), steps.get("freq")] if steps.get("freq") else [steps.get("mask")]
    return "_".join(str(n) for n in names if n)
