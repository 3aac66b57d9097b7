"""compose: the chain mask → reflectance or index → composite over every cube of a store, into a store."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import xarray as xr

from eocube.errors import CatalogError, CubeError, EocubeError, UnknownNameError
from eocube.exec.drive import CubePlan, Progress, RunReport
from eocube.exec.executors import executing
from eocube.exec.region import Errors
from eocube.io.blobs import open_blobs
from eocube.io.cubes import cube_path, read_root
from eocube.io.template import ROOT
from eocube.jobs.open import Store, one_or_many, open_places, open_store, place_of_row, some_or_all
from eocube.jobs.rebuild import delete_for_rebuild, rebuilding, refuse_retry_with_rebuild
from eocube.jobs.roots import address
from eocube.jobs.write import MAX_BYTES, WriteSettings, plan_cube, require_limit, run_plans
from eocube.lazy.composite import composite
from eocube.lazy.index import spectral_index
from eocube.lazy.masks import mask_clouds
from eocube.lazy.radiometry import to_reflectance
from eocube.model.recipe import RECIPE_ATTR
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
    rebuild: Sequence[str] = (),
    storage_options: Mapping[str, Any] | None = None,
    on_done: Progress | None = None,
) -> RunReport:
    """Mask, decode and composite every cube of a store; run again after anything, and it goes on.

    Parameters
    ----------
    store, out
        Stores; they may be the same.
    sites, products
        Only those. None: all sites in the index; all products that were converted from original files, or in a store without
        any such product those it has. A site whose conversion was never finished is in no index.
    mask, reflectance, index, freq, method
        As in :func:`eocube.mask_clouds`, :func:`eocube.to_reflectance`, :func:`eocube.spectral_index` and
        :func:`eocube.composite`; None (for ``reflectance`` False) leaves the step out. Without ``reflectance`` or ``index``
        integers stay integers.
    suffix
        A cube goes to product ``<product>_<suffix>``; default: the steps' names, ``10m_median_1MS``.
    rebuild
        Cubes of ``out`` (``site`` or ``site/product``) to delete first and to make anew: the way to put in a period that is older
        than the last one, after ``convert`` put in its dates the same way. The same call again would delete what it wrote of
        them: leave it out to go on.
    layout, executor, errors, limit, retry, max_bytes, storage_options, on_done
        As in :func:`eocube.write_cube`, as are the errors of the place.

    Raises
    ------
    StoreNotFoundError, ArgumentError, UnknownNameError, CatalogError, CubeError
        Before any pixel is read: no store, site, product, mask or band of that name, or a chosen cube with regions whose files
        could not be read.
    """
    rebuild, store, out = one_or_many(rebuild) or (), address("store", store), address("out", out)
    require_limit(limit)
    refuse_retry_with_rebuild(retry=retry, rebuild=rebuild)
    settings = WriteSettings(layout=layout, errors=errors, max_bytes=max_bytes, storage_options=dict(storage_options or {}))
    steps = {"mask": mask, "reflectance": reflectance, "index": index, "freq": freq, "method": method}
    plans = plan_compose(store, out, sites=sites, products=products, suffix=suffix, settings=settings, steps=steps)
    with executing(executor) as running:  # before anything is deleted: an executor may not be there
        if rebuild:
            plans = iter(delete_for_rebuild(out, plans, rebuild, storage_options=storage_options))
        with rebuilding(rebuild):
            return run_plans(
                out,
                plans,
                executor=running,
                limit=limit,
                retry=retry,
                storage_options=storage_options,
                store_attrs=store_attrs(store, storage_options),
                on_done=on_done,
            )


def store_attrs(store: str, storage_options: Mapping[str, Any] | None = None) -> dict[str, object]:
    """What the root of a new store says of the sources: the licences and attributions of the store they come from."""
    found = json.loads(open_blobs(store, dict(storage_options or {})).get(ROOT) or b"{}").get("attributes", {})
    return {k: found[k] for k in ("licenses", "attributions") if k in found}


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
    """A plan for each cube, made as it is drawn. ``steps`` are the arguments of :func:`chain`; errors as in :func:`compose`.

    One cube of each product is planned at once, so that what is wrong with the steps shows before anything is written.
    """
    settings = settings or WriteSettings(layout="map")
    ending = suffix or _suffix(steps)
    if not ending:
        raise CubeError("compose was asked for no step: mask, reflectance, index and freq are all left out.")
    sites, products = some_or_all("sites", sites), some_or_all("products", products)
    opened = open_store(store, storage_options=settings.storage_options)
    composing = _Composing(opened, out, ending, settings, steps)
    rows = opened.index.select(["site", "product", "cube", "window", "unfinished_regions"]).to_pylist()
    rows = _chosen(rows, sites, "site", store)
    same = opened.url == open_blobs(out, settings.storage_options).url
    rows = _chosen(rows, products, "product", store) if products is not None else _observed(rows, composing, same_store=same)
    if not rows:
        raise CatalogError(
            f"No cube of {store} is chosen by sites={sites} and products={products}; its index has {opened.index.num_rows} "
            "cubes. A cube is in it as soon as all its regions are written: finish convert (the same command again)."
        )
    _refuse_unfinished(rows, store)
    cubes: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        cubes.setdefault((row["cube"], row["product"]), []).append(row)
    for found in {product: found for (_, product), found in reversed(cubes.items())}.values():
        composing.plan(found)
    return map(composing.plan, cubes.values())


Row = dict[str, Any]


@dataclass(frozen=True)
class _Composing:
    """What the plans of one call share."""

    opened: Store
    out: str
    suffix: str
    settings: WriteSettings
    steps: Mapping[str, Any]

    def target(self, product: str) -> str:
        """The product that ``product`` is made into."""
        return f"{product}_{self.suffix}"

    def cube(self, rows: Sequence[Row]) -> xr.Dataset:
        """The lazy cube of the index rows of its sites."""
        url = f"{self.opened.url}/{cube_path(rows[0]['cube'], rows[0]['product'])}"
        return open_places(url, list(map(place_of_row, rows)), storage_options=self.settings.storage_options)

    def recipe(self, row: Row) -> dict[str, Any]:
        """The recipe with which an index row's cube was made."""
        blobs = open_blobs(self.opened.url, self.settings.storage_options)
        found: dict[str, Any] = json.loads(read_root(blobs, row["cube"], row["product"])[RECIPE_ATTR])
        return found

    def plan(self, rows: Sequence[Row]) -> CubePlan:
        """The plan of one cube, of those of its sites that have these index rows; its errors say which cube they are about."""
        site, cube, product = (rows[0][k] for k in ("site", "cube", "product"))
        try:
            made = chain(self.cube(rows), **self.steps)
            return plan_cube(made, self.out, site=site, product=self.target(product), settings=self.settings, name=cube)
        except EocubeError as e:
            if isinstance(e, UnknownNameError) and e.kind == "mask":
                e.add_note("Clouds are masked unless told otherwise: --mask none (mask=None) leaves that step out.")
            e.add_note(f"(composing {site}/{product} of {self.opened.url})")
            raise


def _chosen(rows: list[Row], names: Sequence[str] | None, kind: str, store: str) -> list[Row]:
    """Rows whose ``kind`` is among the names; UnknownNameError for a name that no row has."""
    if names is None:
        return rows
    known = list(dict.fromkeys(r[kind] for r in rows))
    for name in names:
        if name not in known:
            raise UnknownNameError(kind, name, known[:20], f"the index of {store}")
    return [r for r in rows if r[kind] in names]


def _observed(rows: list[Row], composing: _Composing, *, same_store: bool) -> list[Row]:
    """Rows of products that no step made, or all where there is none such; never what this very command made before."""
    first = {r["product"]: r for r in reversed(rows)}
    plain = {p for p, r in first.items() if not composing.recipe(r)["steps"]}
    chosen = plain or set(first)
    made = {composing.target(p) for p in chosen} if same_store else set()
    return [r for r in rows if r["product"] in chosen - made]


def _refuse_unfinished(rows: list[Row], store: str) -> None:
    holes = [f"{r['site']}/{r['product']} ({r['unfinished_regions']} regions)" for r in rows if r["unfinished_regions"]]
    if holes:
        shown = ", ".join(holes[:5]) + (f" and {len(holes) - 5} more" if len(holes) > 5 else "")
        raise CubeError(
            f"Of {len(rows)} chosen cubes of {store}, {len(holes)} have regions in which a file could not be read, and their "
            f"pixels would be silent holes: {shown}. Finish them (the command that wrote them, with --retry), or leave them out."
        )


def _suffix(steps: Mapping[str, Any]) -> str:
    names = [steps.get("index"), "refl" if steps.get("reflectance") else None]
    names += [steps.get("method"), steps.get("freq")] if steps.get("freq") else [steps.get("mask")]
    return "_".join(str(n) for n in names if n)
