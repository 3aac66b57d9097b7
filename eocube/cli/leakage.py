"""eocube leakage: what splits share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from eocube.cli import common
from eocube.cli.common import WITH_FAILURES, options_of, print_json, verb
from eocube.cli.text import printable

if TYPE_CHECKING:
    from eocube.jobs.leakage import LeakageReport


@verb
def leakage(
    url: Annotated[str, typer.Argument(metavar="STORE_OR_PATCHES", help="A store with splits, or a patch set.")],
    *,
    buffer_m: Annotated[float, typer.Option(min=0, help="Name footprints that are nearer than so many metres too.")] = 0.0,
    tolerance_m2: Annotated[
        float | None, typer.Option(min=0, help="Overlaps of at most so many square metres are none.", show_default="0.01")
    ] = None,
    same_day: Annotated[
        bool, typer.Option("--same-day", help="Patch sets: only patches of one day share ground. Default: whatever the dates.")
    ] = False,
    storage_option: common.StorageOption = None,
    as_json: common.AsJson = False,
) -> None:
    """Name ground that several splits share, and ids and groups that are in several. Exit code 3 if there is any."""
    from eocube.jobs.leakage import TOLERANCE_M2, leakage_report

    report = leakage_report(
        url,
        buffer_m=buffer_m,
        tolerance_m2=TOLERANCE_M2 if tolerance_m2 is None else tolerance_m2,
        ignore_time=not same_day,
        storage_options=options_of(storage_option),
    )
    if as_json:
        print_json(report.as_json())
    else:
        _show(report)
    if not report.ok:
        raise typer.Exit(WITH_FAILURES)


def _show(report: LeakageReport) -> None:
    """The summary, then the pairs that share most."""
    from eocube.cli.show import show_table

    for line in str(report).splitlines():
        typer.echo(printable(line))
    if report.pairs.empty:
        return
    rows = [
        (p.a, p.split_a, p.b, p.split_b, f"{p.shared_m2:,.0f}", f"{p.share:.1%}", f"{p.distance_m:,.1f}")
        for p in report.pairs.itertuples()
    ]
    show_table("", ["a", "split", "b", "split", "shared m²", "of the smaller", "apart m"], rows)
