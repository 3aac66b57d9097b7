"""eocube compose: mask, decode and composite every cube of a store."""

from __future__ import annotations

from typing import Annotated

import typer

from eocube.cli import common
from eocube.cli.common import RunFlags, carry_out, names, options_of, verb

_STEPS = "Steps"


@verb
def compose(
    store: common.Store,
    out: Annotated[str, typer.Argument(metavar="OUT", help="Store of the results; may be the same.")],
    *,
    mask: Annotated[str, typer.Option(help="Which mask blanks clouds: scl, or none.", rich_help_panel=_STEPS)] = "scl",
    reflectance: Annotated[
        bool, typer.Option("--reflectance", help="Decode to reflectance, float32.", rich_help_panel=_STEPS)
    ] = False,
    index: Annotated[str | None, typer.Option(help="A spectral index, ndvi for one.", rich_help_panel=_STEPS)] = None,
    freq: Annotated[
        str, typer.Option(help="Period of a composite, as in pandas: 1MS, QS, 10D; none.", rich_help_panel=_STEPS)
    ] = "1MS",
    method: Annotated[str, typer.Option(help="median or mean.", rich_help_panel=_STEPS)] = "median",
    sites: common.Sites = None,
    products: common.Products = None,
    suffix: Annotated[
        str | None, typer.Option(help="Results go to product <product>_<suffix>. Default: the steps' names.")
    ] = None,
    layout: common.Layout = common.LayoutName.MAP,
    plan: common.PlanFlag = False,
    limit: common.Limit = None,
    errors: common.Errors = common.OnError.RAISE,
    retry: common.Retry = False,
    rebuild: common.Rebuild = None,
    cluster: common.Cluster = None,
    storage_option: common.StorageOption = None,
    as_json: common.AsJson = False,
) -> None:
    """Mask clouds, decode or make an index, and composite over time, cube by cube. The same command again goes on."""
    flags = RunFlags(
        plan=plan,
        limit=limit,
        errors=errors,
        retry=retry,
        rebuild=tuple(names(rebuild, "--rebuild") or ()),
        cluster=cluster,
        as_json=as_json,
        storage_options=options_of(storage_option),
    )
    from eocube.jobs.compose import plan_compose, store_attrs
    from eocube.jobs.write import WriteSettings

    settings = WriteSettings(layout=layout.value, errors=errors.value, storage_options=flags.storage_options)
    steps = {
        "mask": None if mask == "none" else mask,
        "reflectance": reflectance,
        "index": index,
        "freq": None if freq == "none" else freq,
        "method": method,
    }
    plans = plan_compose(
        store,
        out,
        sites=names(sites, "--sites"),
        products=names(products, "--products"),
        suffix=suffix,
        settings=settings,
        steps=steps,
    )
    carry_out("compose", out, plans, flags, store_attrs=store_attrs(store, flags.storage_options))
