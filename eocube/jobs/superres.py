"""superresolve and superres: a model over one cube, and over a store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import xarray as xr

from eocube.errors import CatalogError, ModelError, UnknownNameError
from eocube.exec.drive import CubePlan, Progress, RunReport
from eocube.exec.evaluate import Evaluation
from eocube.exec.region import Errors
from eocube.jobs.compose import store_attrs
from eocube.jobs.open import Store, open_store, some_or_all
from eocube.jobs.roots import address
from eocube.jobs.write import MAX_BYTES, WriteSettings, plan_node, require_limit, run_plans
from eocube.lazy.cube import lazy_cube
from eocube.lazy.graph_source import node_of
from eocube.lazy.node_source import NodeSource
from eocube.model.licences import of_cubes
from eocube.model.recipe import Arrays, Binding, OnError, frame_of, with_recipe
from eocube.model.spec import Layout
from eocube.model.window import Window
from eocube.sr.models import SrModel
from eocube.sr.pool import REGIONS_A_TASK, run_superres
from eocube.sr.step import SrPiece, sr_node
from eocube.sr.tiles import check_model

# ------------------------------------------------------------------------------------------------ one cube, lazily


def superresolve(cube: xr.Dataset | xr.DataArray, model: SrModel) -> Any:
    """A model over a cube, lazily and recorded.

    Parameters
    ----------
    cube
        A cube of eocube, or a small one of your own: ``data`` (time, band, y, x) as float32 reflectance, or as integers with
        CF ``scale_factor`` and ``add_offset``; masks (time, y, x).
    model
        As :func:`eocube.load_model` gives it.

    Returns
    -------
    The cube on a grid ``model.scale`` times as fine: ``data`` uint16 with scale 0.0001, offset -0.1 and nodata 0, in the model's
    output bands; a pixel whose input lacks data in any band that the model takes has none. Masks are enlarged without change.
    Its licences and attributions are the cube's, and those of what the model was trained on.
    A DataArray gives a DataArray.

    Raises
    ------
    ModelError
        If the model does not fit the cube: bands, scale, revisits, undecodable numbers. Before any pixel is read.

    Notes
    -----
    The model runs on tiles with its halo, on one grid from the cube's first pixel: there are no seams, and any block or window
    holds the bits that :func:`eocube.superres` writes.
    """
    if isinstance(cube, xr.DataArray):
        return superresolve(cube.to_dataset(name="data"), model)["data"]
    inner, bound = node_of(cube)
    check_model(frame_of(inner, bound), model)
    node, binding = sr_node(inner, bound, model)
    source = _SrSource(node, binding)
    chunks = dict(zip(("time", "y", "x"), _chunks(cube, int(model.scale)), strict=True))
    attrs = {k: v for k, v in cube.attrs.items() if not str(k).startswith("eocube_")}
    attrs |= of_cubes([attrs, model.training])
    lazy = lazy_cube(source, {"source": "node", "kind": "node"}, chunks=chunks, attrs=attrs)
    return with_recipe(lazy, node, binding)


def _chunks(cube: xr.Dataset, scale: int) -> tuple[int, int, int]:
    """Lengths of the result's chunks along time, y, x: those of the input, enlarged."""
    data = cube["data"].transpose("time", "band", "y", "x")
    if not data.chunks:
        return 1, -1, -1
    t, _, y, x = (c[0] for c in data.chunks)
    return int(t), int(y) * scale, int(x) * scale


class _SrSource(NodeSource):
    """Windows of a super-resolved cube, without a core too much; a mask alone does not run the network."""

    def read(self, window: Window, *, names: tuple[str, ...] | None = None, on_error: OnError | None = None) -> Arrays:
        """See :class:`eocube.model.recipe.Source`."""
        piece = SrPiece(self._node, Evaluation(self._binding, {}, on_error))
        arrays = piece.evaluate(window) if names is None or "data" in names else piece.evaluate_masks(window)
        return {k: v for k, v in arrays.items() if names is None or k in names}


# ------------------------------------------------------------------------------------------------ store to store


def superres(
    store: str,
    out: str,
    model: SrModel,
    *,
    product: str | None = None,
    out_product: str = "sr",
    sites: Sequence[str] | None = None,
    layout: Layout = "balanced",
    executor: Any = None,
    errors: Errors = "raise",
    limit: int | None = None,
    retry: bool = False,
    max_bytes: int = MAX_BYTES,
    storage_options: Mapping[str, Any] | None = None,
    on_done: Progress | None = None,
) -> RunReport:
    """Run a model over every cube of a product, store to store; run again after anything, and it goes on.

    Tasks run on workers that carry the resource ``GPU`` (a machine without a GPU may carry it too:
    ``connect("processes:1", gpu_workers=1)``). A task takes up to eight regions, loads the model once, and reads, computes and
    writes at the same time.

    Parameters
    ----------
    store, out
        Stores; they may be the same.
    model
        As :func:`eocube.load_model` gives it; its folder must be readable by every worker.
    product
        Product to run over; None: the only one that has the model's bands.
    out_product
        What the result is called.
    sites
        Only those; None: all.
    layout, executor, errors, limit, retry, storage_options, on_done
        As in :func:`eocube.write_cube`.
    max_bytes
        Bound of the tiles that a task holds in flight, before and after the network.

    Returns
    -------
    The run's report. The cubes hold what :func:`superresolve` describes, the same bytes whatever the executor.

    Raises
    ------
    ModelError
        If the model does not fit; nothing was written.
    PlacementError
        If no worker of the cluster carries ``GPU``.
    ArgumentError, UnknownNameError, CatalogError, SettingsError, StalePlanError
        As in :func:`eocube.compose`.
    """
    store, out = address("store", store), address("out", out)
    require_limit(limit)
    settings = WriteSettings(layout=layout, errors=errors, max_bytes=max_bytes, storage_options=dict(storage_options or {}))
    plans = plan_superres(store, out, model, product=product, out_product=out_product, sites=sites, settings=settings)
    return run_plans(
        out,
        plans,
        executor=executor,
        limit=limit,
        retry=retry,
        storage_options=storage_options,
        store_attrs=store_attrs(store, storage_options),
        resource="GPU",
        run=run_superres,
        group=REGIONS_A_TASK,
        on_done=on_done,
    )


def plan_superres(
    store: str,
    out: str,
    model: SrModel,
    *,
    product: str | None = None,
    out_product: str = "sr",
    sites: Sequence[str] | None = None,
    settings: WriteSettings | None = None,
) -> Iterator[CubePlan]:
    """A plan for each cube, made as it is drawn. Parameters and errors as in :func:`superres`."""
    settings = settings or WriteSettings()
    sites = some_or_all("sites", sites)
    opened = open_store(store, storage_options=settings.storage_options)
    chosen = _product_for(opened, model) if product is None else product
    rows = [r for r in opened.index.select(["site", "product"]).to_pylist() if r["product"] == chosen]
    if not rows:
        raise UnknownNameError("product", chosen, sorted(set(opened.index["product"].to_pylist())), f"the index of {store}")
    known = [r["site"] for r in rows]
    for site in sites or ():
        if site not in known:
            raise UnknownNameError("site", site, known[:20], f"product {chosen!r} of {store}")
    return (_plan_one(opened, out, site, chosen, out_product, model, settings) for site in dict.fromkeys(sites or known))


def _product_for(store: Store, model: SrModel) -> str:
    """The only product whose bands hold the model's; ModelError where there is none or several."""
    bands: dict[str, set[str]] = {}
    for row in store.index.select(["product", "bands"]).to_pylist():
        bands[row["product"]] = bands.get(row["product"], set(row["bands"])) & set(row["bands"])
    if not bands:
        raise CatalogError(f"The index of {store.url} is empty; finish a run that writes cubes there first.")
    fit = [p for p, has in bands.items() if set(model.bands_in) <= has]
    if len(fit) != 1:
        listed = "; ".join(f"{p}: {', '.join(sorted(has))}" for p, has in sorted(bands.items()))
        raise ModelError(
            f"The model takes {', '.join(model.bands_in)}, which {len(fit)} products of {store.url} have ({listed}). "
            "Name one with product=."
        )
    return fit[0]


def _plan_one(
    store: Store, out: str, site: str, product: str, out_product: str, model: SrModel, settings: WriteSettings
) -> CubePlan:
    source = store.source(site, product)
    node, binding = sr_node(source.node, Binding(sources={source.node["source"]: source}), model)
    licence = of_cubes([source.attrs, model.training])
    name = site if source.spec.places is not None else source.cube
    return plan_node(node, binding, out, site=site, product=out_product, settings=settings, licence=licence, name=name)
