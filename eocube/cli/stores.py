"""eocube info, audit, index: look at a store, compare it with its markers, rebuild its index."""

from __future__ import annotations

from typing import Annotated

import typer

from eocube.cli import common
from eocube.cli.common import WITH_FAILURES, options_of, print_json, verb


@verb
def info(
    url: Annotated[
        str, typer.Argument(metavar="STORE_OR_CUBE", help="A store, a patch set, or one cube: STORE/cubes/<cube>/<product>.")
    ],
    *,
    storage_option: common.StorageOption = None,
    as_json: common.AsJson = False,
) -> None:
    """Show a store's cubes, one cube (axes, bands, dates, layout, recipe), or a patch set."""
    from eocube.cli.show import show_cube, show_patches, show_store
    from eocube.jobs.info import describe

    found = describe(url, storage_options=options_of(storage_option))
    if as_json:
        print_json(found)
    else:
        {"cube": show_cube, "patches": show_patches, "store": show_store}[found["kind"]](found)


@verb
def audit(
    store: common.Store,
    *,
    deep: Annotated[bool, typer.Option("--deep", help="Decode every chunk and count its pixels again.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Compare sizes only; no shard is read.")] = False,
    cluster: common.Cluster = None,
    storage_option: common.StorageOption = None,
    as_json: common.AsJson = False,
) -> None:
    """Compare every shard of a store with its marker, and the rest with each other. Exit code 3 if anything is wrong."""
    if deep and quick:
        raise typer.BadParameter("--deep and --quick contradict each other; give one.")
    from eocube.cli.progress import meter
    from eocube.cli.show import show_audit
    from eocube.jobs.audit import audit as run_audit

    options = options_of(storage_option)
    with meter("audit") as shown:
        report = run_audit(
            store, deep=deep, quick=quick, storage_options=options, executor=cluster, on_checked=lambda: shown.advance("")
        )
    if as_json:
        print_json(report.as_json())
    else:
        show_audit(report)
    if not report.ok:
        raise typer.Exit(WITH_FAILURES)


@verb
def index(store: common.Store, *, storage_option: common.StorageOption = None, as_json: common.AsJson = False) -> None:
    """Rebuild index.parquet from the cubes and their markers."""
    from eocube.cli.show import many
    from eocube.jobs.audit import index as run_index

    table = run_index(store, storage_options=options_of(storage_option))
    if as_json:
        print_json({"ok": True, "store": store, "cubes": table.num_rows})
    else:
        typer.echo(f"{many(table.num_rows, 'cube')} in the index of {store}")
