"""eocube convert: a corpus into a store."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Annotated

import typer

from eocube.cli import common
from eocube.cli.common import RunFlags, bbox_of, carry_out, names, option, options_of, verb

_ONLY, _GRID, _PIXELS = "What to take", "One area instead of the tiles of the files", "Pixels"


@verb
def convert(
    corpus: Annotated[str, typer.Argument(metavar="CORPUS", help="Kind of the files: see `eocube corpora`.")],
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Path or URL: for stac the catalogue or ItemCollection.")],
    store: common.Store,
    *,
    bands: Annotated[
        list[str] | None,
        typer.Option(metavar="NAMES", help="Common names (red), sensor names (B04) or asset keys.", rich_help_panel=_ONLY),
    ] = None,
    sites: common.Sites = None,
    products: common.Products = None,
    time: Annotated[
        str | None, typer.Option(metavar="FIRST/LAST", help="Dates, both included; .. is an open end.", rich_help_panel=_ONLY)
    ] = None,
    bbox: Annotated[str | None, typer.Option(metavar="W,S,E,N", help="The area in degrees.", rich_help_panel=_GRID)] = None,
    geobox: Annotated[
        str | None,
        typer.Option(metavar="GRID", help="The exact grid: an eocube cube, or JSON with proj: fields.", rich_help_panel=_GRID),
    ] = None,
    crs: Annotated[str | None, typer.Option(help="CRS of --bbox's grid. Default: the files'.", rich_help_panel=_GRID)] = None,
    resolution: Annotated[
        float | None, typer.Option(help="Its pixel size in CRS units. Default: the files'.", rich_help_panel=_GRID)
    ] = None,
    area: Annotated[str, typer.Option(help="Name of the area's site.", rich_help_panel=_GRID)] = "area",
    resampling: Annotated[
        str, typer.Option(help="For files off the grid; classes: nearest.", rich_help_panel=_PIXELS)
    ] = "nearest",
    mosaic: Annotated[
        str, typer.Option(help="solar_day: one date a local day; none: every item is a date.", rich_help_panel=_PIXELS)
    ] = "solar_day",
    dn_offset: Annotated[
        int | None,
        typer.Option(help="Sentinel-2 whose metadata does not tell: 0 or -1000.", rich_help_panel=_PIXELS),
    ] = None,
    layout: common.Layout = common.LayoutName.BALANCED,
    plan: common.PlanFlag = False,
    limit: common.Limit = None,
    errors: common.Errors = common.OnError.RAISE,
    retry: common.Retry = False,
    rebuild: common.Rebuild = None,
    cluster: common.Cluster = None,
    storage_option: common.StorageOption = None,
    as_json: common.AsJson = False,
) -> None:
    """Write original files as cubes into a store. The same command again goes on where it was, and adds new sites and dates."""
    box = None if bbox is None else bbox_of(bbox)
    flags = RunFlags(
        plan=plan,
        limit=limit,
        errors=errors,
        retry=retry,
        rebuild=tuple(names(rebuild) or ()),
        cluster=cluster,
        as_json=as_json,
        storage_options=options_of(storage_option),
    )
    from eocube.jobs.convert import plan_convert, store_attrs
    from eocube.jobs.open import norm_crs, open_corpus, stac_options
    from eocube.jobs.period import parse_period
    from eocube.jobs.stac import open_stac, parse_geobox
    from eocube.jobs.write import WriteSettings

    if resolution is not None and not 0 < resolution < math.inf:
        raise typer.BadParameter(f"--resolution {resolution} is not a positive number.")
    if bbox is None and geobox is None and (crs, resolution) != (None, None):
        given = " and ".join(name for name, value in (("--crs", crs), ("--resolution", resolution)) if value is not None)
        raise typer.BadParameter(
            f"{given} alone has no area: they are of the grid of --bbox W,S,E,N; --geobox gives the whole grid."
        )
    if time is not None:
        with option("--time"):
            parse_period(time)
    if crs is not None:
        with option("--crs"):
            norm_crs(crs)
    with option("--dn-offset" if dn_offset not in (None, 0, -1000) else "--resampling, --mosaic"):
        stac_options(resampling=resampling, mosaic=mosaic, dn_offset=dn_offset)
    with option("--geobox") if (geobox or "").lstrip().startswith("{") else nullcontext():
        grid = None if geobox is None else parse_geobox(geobox)
    if corpus == "stac":
        opened = open_stac(
            source,
            bands=names(bands),
            bbox=box,
            geobox=grid,
            crs=crs,
            resolution=resolution,
            area=area,
            time=time,
            resampling=resampling,
            mosaic=mosaic,
            dn_offset=dn_offset,
        )
    else:
        opened = open_corpus(corpus, source)
    settings = WriteSettings(layout=layout.value, errors=errors.value, storage_options=flags.storage_options)
    plans = plan_convert(opened, store, sites=names(sites), products=names(products), settings=settings)
    carry_out("convert", store, plans, flags, store_attrs=store_attrs(opened))
