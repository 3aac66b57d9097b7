"""eocube convert: a corpus into a store."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eocube.cli import common
from eocube.cli.common import RunFlags, bbox_of, carry_out, names, option, options_of, verb
from eocube.cli.text import printable

if TYPE_CHECKING:
    from eocube.jobs.open import OpenedCorpus

_ONLY, _GRID, _PIXELS = "What to take", "One area instead of the tiles of the files (stac)", "Pixels"
_CORPUS = "Of worldstrat and rapidai4eo"
_OF = {
    "stac": ("bands", "bbox", "time", "geobox", "crs", "resolution", "area", "resampling", "mosaic", "dn_offset"),
    "worldstrat": ("bbox", "time", "split", "float32"),
    "rapidai4eo": ("bbox", "time", "site_list", "s2_bands"),
}
"""Options that a corpus knows, of those that not every corpus does."""


@verb
def convert(
    corpus: Annotated[str, typer.Argument(metavar="CORPUS", help="Kind of the files: see `eocube corpora`.")],
    source: Annotated[
        str,
        typer.Argument(metavar="SOURCE", help="Path or URL of the catalogue, ItemCollection, folder or .zip; several by commas."),
    ],
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
    bbox: Annotated[
        str | None,
        typer.Option(metavar="W,S,E,N", help="stac: the area in degrees; else only sites that meet it.", rich_help_panel=_ONLY),
    ] = None,
    geobox: Annotated[
        str | None,
        typer.Option(
            metavar="GRID", help="The exact grid: an eocube cube, or a file of JSON with proj: fields.", rich_help_panel=_GRID
        ),
    ] = None,
    crs: Annotated[str | None, typer.Option(help="CRS of --bbox's grid. Default: the files'.", rich_help_panel=_GRID)] = None,
    resolution: Annotated[
        float | None, typer.Option(help="Its pixel size in CRS units. Default: the files'.", rich_help_panel=_GRID)
    ] = None,
    area: Annotated[str | None, typer.Option(help="Name of the area's site.", show_default="area", rich_help_panel=_GRID)] = None,
    resampling: Annotated[
        str | None,
        typer.Option(help="For files off the grid; classes: nearest.", show_default="nearest", rich_help_panel=_PIXELS),
    ] = None,
    mosaic: Annotated[
        str | None,
        typer.Option(
            help="solar_day: one date a local day; none: every item is a date.",
            show_default="solar_day",
            rich_help_panel=_PIXELS,
        ),
    ] = None,
    dn_offset: Annotated[
        int | None,
        typer.Option(help="Sentinel-2 whose metadata does not tell: 0 or -1000.", rich_help_panel=_PIXELS),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="worldstrat: published or leak_safe, kept in the index.", rich_help_panel=_CORPUS)
    ] = None,
    float32: Annotated[
        bool, typer.Option("--float32", help="worldstrat: reflectance as it is, not in whole 0.0001.", rich_help_panel=_CORPUS)
    ] = False,
    site_list: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="rapidai4eo: path or URL of a list of site ids.", rich_help_panel=_CORPUS),
    ] = None,
    s2_bands: Annotated[
        list[str] | None,
        typer.Option(metavar="NAMES", help="rapidai4eo: B01 to B12 as they lie in the S2-SR files.", rich_help_panel=_CORPUS),
    ] = None,
    layout: common.CorpusLayout = None,
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
        rebuild=tuple(names(rebuild, "--rebuild") or ()),
        cluster=cluster,
        as_json=as_json,
        storage_options=options_of(storage_option),
    )
    from eocube.jobs.convert import plan_convert, store_attrs
    from eocube.jobs.period import parse_period
    from eocube.jobs.write import WriteSettings

    if time is not None:
        with option("--time"):
            parse_period(time)
    given = {
        "bands": names(bands, "--bands"),
        "bbox": box,
        "time": time,
        "geobox": geobox,
        "crs": crs,
        "resolution": resolution,
        "area": area,
        "resampling": resampling,
        "mosaic": mosaic,
        "dn_offset": dn_offset,
        "split": split,
        "float32": float32 or None,
        "site_list": site_list,
        "s2_bands": names(s2_bands, "--s2-bands"),
    }
    given = {k: v for k, v in given.items() if v is not None}
    _check_options(corpus, given)
    if any(_is_same_folder(root, store) for root in _roots(source)):
        raise typer.BadParameter(
            f"STORE is SOURCE ({store}): cubes would be written among the original files. Name another folder."
        )
    opened = _open_stac(source, given, bbox=bbox) if corpus == "stac" else _open_other(corpus, source, given)
    settings = WriteSettings(
        layout=None if layout is None else layout.value, errors=errors.value, storage_options=flags.storage_options
    )
    plans = plan_convert(opened, store, sites=names(sites, "--sites"), products=names(products, "--products"), settings=settings)
    try:
        carry_out("convert", store, plans, flags, store_attrs=store_attrs(opened))
    finally:
        _tell_notes(opened)


MOST_NOTES = 3
"""Of one kind that are printed."""


def _tell_notes(corpus: OpenedCorpus) -> None:
    """What is odd about a copy of the corpus and did not end the run, on stderr; of each kind the first few."""
    from eocube.jobs.convert import notes_of

    for kind, texts in notes_of(corpus).items():
        for text in texts[:MOST_NOTES]:
            typer.echo(f"Note: {printable(text)}", err=True)
        if len(texts) > MOST_NOTES:
            typer.echo(f"Note: {kind}: {len(texts) - MOST_NOTES:,} more; open_corpus(…).corpus.notes has them all.", err=True)


def _check_options(corpus: str, given: Mapping[str, Any]) -> None:
    """Refuse what another corpus knows, rather than pass it by."""
    strange = [f"--{k.replace('_', '-')}" for k in given if corpus in _OF and k not in _OF[corpus]]
    if strange:
        known = [f"--{k.replace('_', '-')}" for k in _OF[corpus]]
        raise typer.BadParameter(
            f"{', '.join(strange)} means nothing for {corpus}; it knows {', '.join(known)}, and --sites, --products and --layout "
            "as every corpus."
        )


def _roots(source: str) -> list[str]:
    """One place, or several with commas between them."""
    return [source] if os.path.exists(source) else [s.strip() for s in source.split(",")]  # noqa: PTH110 - False where it may not look


def _is_same_folder(one: str, other: str) -> bool:
    try:
        return Path(one).samefile(other)
    except (OSError, ValueError):
        return False


def _open_other(corpus: str, source: str, given: dict[str, Any]) -> OpenedCorpus:
    from eocube.jobs.open import open_corpus

    roots = _roots(source)
    if "site_list" in given:
        given["sites"] = given.pop("site_list")
    if "s2_bands" in given:
        given["s2_bands"] = tuple(given["s2_bands"])
    with option("--split") if given.get("split") not in (None, "published", "leak_safe") else nullcontext():
        return open_corpus(corpus, roots[0] if len(roots) == 1 else roots, **given)


def _open_stac(source: str, given: Mapping[str, Any], *, bbox: str | None) -> OpenedCorpus:
    from eocube.jobs.open import norm_crs, stac_options
    from eocube.jobs.stac import is_grid_file, open_stac, parse_geobox

    geobox, crs, resolution, dn_offset = (given.get(k) for k in ("geobox", "crs", "resolution", "dn_offset"))
    resampling, mosaic = given.get("resampling", "nearest"), given.get("mosaic", "solar_day")
    _check_area(bbox=bbox, geobox=geobox, crs=crs, resolution=resolution)
    if crs is not None:
        with option("--crs"):
            norm_crs(crs)
    with option("--dn-offset" if dn_offset not in (None, 0, -1000) else "--resampling, --mosaic"):
        stac_options(resampling=resampling, mosaic=mosaic, dn_offset=dn_offset)
    text = (geobox or "").lstrip()
    with option("--geobox") if text.startswith("{") or is_grid_file(text) else nullcontext():
        grid = None if geobox is None else parse_geobox(geobox)
    return open_stac(
        source,
        bands=given.get("bands"),
        bbox=given.get("bbox"),
        geobox=grid,
        crs=crs,
        resolution=resolution,
        area=given.get("area", "area"),
        time=given.get("time"),
        resampling=resampling,
        mosaic=mosaic,
        dn_offset=dn_offset,
    )


def _check_area(*, bbox: str | None, geobox: str | None, crs: str | None, resolution: float | None) -> None:
    """Refuse a grid that is asked for twice or by halves."""
    if resolution is not None and not 0 < resolution < math.inf:
        raise typer.BadParameter(f"--resolution {resolution} is not a positive number.")
    given = [n for n, value in (("--bbox", bbox), ("--crs", crs), ("--resolution", resolution)) if value is not None]
    if geobox is not None and given:
        raise typer.BadParameter(f"--geobox is the whole grid, and {' and '.join(given)} came beside it; give one or the other.")
    if geobox is None and given and bbox is None:
        raise typer.BadParameter(
            f"{' and '.join(given)} alone has no area: they are of the grid of --bbox W,S,E,N; --geobox gives the whole grid."
        )
