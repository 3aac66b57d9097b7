"""Tables for people, on stdout."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from eocube.cli.text import printable

if TYPE_CHECKING:
    from rich.console import Console

    from eocube.exec.drive import RunReport
    from eocube.jobs.audit import AuditReport, AuditRow

MAX_ROWS = 50
APPEND_BEGUN = "; an append has begun and is not finished (run its command again)"
MAX_ALIKE = 5
"""Rows of an audit that say the same of regions of one cube."""

WIDE = 200
"""Columns where stdout is no terminal, so that a pipe gets whole lines."""


def console() -> Console:
    """Rich's console on today's stdout."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else WIDE, highlight=False, soft_wrap=False, emoji=False, markup=False)


def show_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A plain table; longer than 50 rows is cut, and says so."""
    from rich.table import Table

    listed = [[printable(str(v)) for v in row] for row in rows]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name, overflow="fold")
    for row in listed[:MAX_ROWS]:
        table.add_row(*row)
    out = console()
    if title:
        out.print(title, style="italic", soft_wrap=True)
    out.print(table)
    if len(listed) > MAX_ROWS:
        out.print(f"… and {len(listed) - MAX_ROWS} more (--json lists them)")


def show_pairs(pairs: Mapping[str, Any]) -> None:
    """Name and value, a line each."""
    from rich.table import Table

    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in pairs.items():
        table.add_row(name, printable(str(value)))
    console().print(table)


def many(n: int, what: str) -> str:
    """``1 cube``, ``2 cubes``."""
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def megabytes(n: int) -> str:
    """``12.3 MB``."""
    return f"{n / 1e6:,.1f} MB"


# ------------------------------------------------------------------------------------------------ runs and audits


def show_run(report: RunReport) -> None:
    """What a run did, then what failed."""
    out = console()
    before = f", {report.regions_skipped} were finished before" if report.regions_skipped else ""
    written = f"{megabytes(report.bytes_written)} in {report.seconds:.1f} s to {report.store}"
    out.print(f"{many(report.regions_done, 'region')} written{before}; {written}")
    if report.cubes:
        show_table("", ["complete cube"], [[c] for c in report.cubes])
    if report.stopped_at_limit:
        out.print("Stopped at --limit; the same command without it goes on.")
    if report.failed:
        rows = [(*key, len(regions), _some(regions)) for key, regions in failures(report).items()]
        show_table(f"{many(len(rows), 'file')} could not be read", ["site", "item", "asset", "error", "regions", "which"], rows)
        out.print("Their regions stay unfinished; mend the files and run the same command with --retry.")


def failures(report: RunReport) -> dict[tuple[str, str, str, str], list[str]]:
    """(site and product, item, asset, error) → regions touched."""
    found: dict[tuple[str, str, str, str], list[str]] = {}
    for row in report.failed:
        key = f"{row['cube']}/{row['product']}", row["item_id"], row["asset"], row["error"]
        found.setdefault(key, []).append(row["region"])
    return found


def _some(regions: Sequence[str]) -> str:
    return ", ".join(regions[:4]) + (" …" if len(regions) > 4 else "")


def show_audit(report: AuditReport) -> None:
    """What an audit found."""
    out = console()
    read = f", {megabytes(report.bytes_read)} read" if report.bytes_read else ""
    n = f"{many(report.cubes, 'cube')}, {many(report.regions, 'region')}, {many(report.objects, 'shard')}"
    out.print(f"{n} compared{read}: {report.store}")
    if not report.rows:
        out.print("Everything is as its markers say.")
        return
    show_table("", ["problem", "times"], report.counts.items())
    rows = [
        (f"{r.cube}/{r.product}" if r.cube else "", r.region, r.problem, r.key, r.detail) for r in _first_of_each(report.rows)
    ]
    show_table("", ["cube", "region", "problem", "object", "what"], rows)
    if len(rows) < min(len(report.rows), MAX_ROWS):
        out.print(f"The first {MAX_ALIKE} of each problem of a cube are shown; --json lists them all.")
    if report.ok:
        out.print("Everything else is as its markers say.")
    for told in report.advice:
        out.print(printable(told), soft_wrap=True)


def _first_of_each(rows: Iterable[AuditRow]) -> Iterator[AuditRow]:
    """At most five rows of one problem of one cube: an unfinished cube has a row a region."""
    seen: Counter[tuple[str, str, str]] = Counter()
    for row in rows:
        kind = row.cube, row.product, row.problem
        seen[kind] += 1
        if seen[kind] <= MAX_ALIKE:
            yield row


# ------------------------------------------------------------------------------------------------ stores and cubes


def show_store(store: Mapping[str, Any]) -> None:
    """The rows of the index, a site of a cube each, then cubes that are under way."""
    out = console()
    lost = {(r["cube"], r["product"]): r["regions"] - r["regions_done"] for r in store["under_way"] or ()}
    rows = [_index_row(r, lost.get((r["cube"], r["product"]), 0)) for r in store["cubes"]]
    if any(r["cube"] != r["site"] for r in store["cubes"]):
        rows = [{"site": row["site"], "cube": r["cube"], **row} for row, r in zip(rows, store["cubes"], strict=True)]
    title = f"{_held(store)} in {store['url']}"
    if not rows or fits(rows, out.width):
        show_table(title, list(rows[0]) if rows else [], (list(r.values()) for r in rows))
    else:
        out.print(title, style="italic", soft_wrap=True)
        _show_blocks(rows)
    whole = [r for r in store["under_way"] or () if r["regions_done"] == r["regions"]]
    begun = [r for r in store["under_way"] or () if r["regions_done"] < r["regions"]]
    if begun:
        _show_under_way(begun)
    if unlisted := [*whole, *(store["not_indexed"] or ())]:
        title = f"cubes/ has {many(len(unlisted), 'cube')} that the index does not have; `eocube index {store['url']}` makes it:"
        _show_names(title, unlisted)
    if store["appends_under_way"]:
        _show_appends(store["appends_under_way"])


def _held(store: Mapping[str, Any]) -> str:
    """How many cubes there are, and sites where several lie in one: ``2 cubes with 5 sites``."""
    cubes, sites = store["n_cubes"], store["n_sites"]
    lying = "" if cubes == len(store["cubes"]) else f" with {many(sites, 'site')}"
    return f"{many(cubes, 'cube')}{lying}"


def fits(rows: Sequence[Mapping[str, Any]], width: int) -> bool:
    """Whether a table of these rows needs no word broken in so many columns."""
    listed = [{k: str(v) for k, v in row.items()} for row in rows[:MAX_ROWS]]
    return sum(max(len(name), *(len(row[name]) for row in listed)) + 2 for name in listed[0]) - 2 <= width


def _show_blocks(rows: Sequence[Mapping[str, Any]]) -> None:
    """A few lines for each site of a cube."""
    out = console()
    for r in rows[:MAX_ROWS]:
        lies_in = f" in cube {r['cube']}" if r.get("cube", r["site"]) != r["site"] else ""
        out.print(f"{r['site']}/{r['product']}{lies_in}", style="bold", soft_wrap=True)
        out.print(f"  {r['dates']} dates, {r['first']} to {r['last']}; {r['bands']}")
        clear = f", {r['clear']} clear" if r["clear"] else ""
        out.print(f"  {r['size']} px of {r['pixel']}, {r['CRS']}, {r['dtype']}{clear}")
        if r["unfinished"]:
            out.print(f"  {many(r['unfinished'], 'region')} unfinished (where files could not be read: --retry)")
    if len(rows) > MAX_ROWS:
        out.print(f"… and {len(rows) - MAX_ROWS} more (--json lists them)")


def _show_under_way(rows: Sequence[Mapping[str, Any]]) -> None:
    out = console()
    out.print(f"{many(len(rows), 'cube')} under way; the command that writes them, run again, goes on:", style="italic")
    for r in rows[:MAX_ROWS]:
        done = f"{r['regions_done']} of {many(r['regions'], 'region')} written"
        out.print(f"{r['cube']}/{r['product']}  {done}", soft_wrap=True)
    if len(rows) > MAX_ROWS:
        out.print(f"… and {len(rows) - MAX_ROWS} more (--json lists them)")


def _show_appends(rows: Sequence[Mapping[str, Any]]) -> None:
    """Cubes that are whole as they are, and are to have more dates."""
    _show_names(
        f"An append to {many(len(rows), 'cube')} has begun and is not finished; the same command, run again, goes on:", rows
    )


def _show_names(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Cubes, a line each."""
    out = console()
    out.print(title, style="italic", soft_wrap=True)
    for r in rows[:MAX_ROWS]:
        out.print(f"{r['cube']}/{r['product']}", soft_wrap=True)
    if len(rows) > MAX_ROWS:
        out.print(f"… and {len(rows) - MAX_ROWS} more (--json lists them)")


def _index_row(r: Mapping[str, Any], lost: int) -> dict[str, Any]:
    """A row of the index; ``lost``: regions whose markers are gone since."""
    return {
        "site": r["site"],
        "product": r["product"],
        "dates": r["n_dates"],
        "first": (r["first_date"] or "")[:10],
        "last": (r["last_date"] or "")[:10],
        "size": f"{r['shape'][0]} × {r['shape'][1]}",
        "pixel": f"{r['gsd_m'][0]:g} m",
        "bands": " ".join(r["bands"]),
        "dtype": r["dtype"],
        "clear": "" if r["clear_fraction"] is None else f"{r['clear_fraction']:.0%}",
        "CRS": r["crs"],
        "unfinished": r["unfinished_regions"] + lost,
    }


def show_patches(found: Mapping[str, Any]) -> None:
    """A patch set, field by field."""
    spec = found["spec"]
    kept = ", ".join(f"{n:,} {split}" for split, n in found["patches"].items())
    sides = {"LR": (spec["lr_product"], "lr"), "HR": (spec["hr_product"], "hr")}
    show_pairs(
        {
            "patch set": found["url"],
            "patches": kept or ("none" if found["finished"] else "unfinished; extract_patches, called again, goes on"),
            "dropped": f"{found['dropped']:,}, less clear than {spec['min_clear']:.0%}",
            **{
                name: f"{product}: {found[f'{side}_px']} × {found[f'{side}_px']} px, {' '.join(found[f'{side}_bands'])}"
                for name, (product, side) in sides.items()
            },
            "split": _arguments(spec["split"]) if spec["split"] else "none, all for training",
            "spec": f"stride {spec['stride_px']} px, seed {spec['seed']}, dates within {spec['time_tolerance_days']:g} days",
            "license": ", ".join(found.get("licenses", ())) or "not stated",
            "open it": "eocube.PatchDataset(url, split=…)",
        }
    )


def show_cube(cube: Mapping[str, Any]) -> None:
    """One cube, field by field."""
    dates, n = cube["dates"], cube["regions"]
    between = f"{dates[0]} to {dates[-1]}" if dates else "none"
    show_pairs(
        {
            "cube": cube["url"],
            "dims": ", ".join(f"{k} {v}" for k, v in cube["dims"].items()),
            "dates": f"{len(dates)}, {between}",
            "bands": ", ".join(b["name"] + (f" ({b['eo_name']})" if b["eo_name"] else "") for b in cube["bands"]),
            **{v["name"]: _variable(v) for v in cube["variables"]},
            "per date": ", ".join(cube["per_time"]),
            "grid": f"{cube['crs']}, pixel {cube['gsd_m'][0]:g} × {cube['gsd_m'][1]:g} m, {cube['bounds']}",
            "layout": f"{cube['layout']}: chunks {cube['chunk_tyx']}, shards {cube['shard_tyx']} (time, y, x)",
            "regions": _regions(n) + (APPEND_BEGUN if cube["append_under_way"] else ""),
            **{f"input {k}": _arguments(v) for k, v in cube["recipe"]["inputs"].items()},
            **{f"step {s['id']}": f"{s['step']}({s['in']}, {_arguments(s['args'])})" for s in cube["recipe"]["steps"]},
            "license": cube["license"] or "not stated",
            "attribution": cube["attribution"] or "not stated",
        }
    )


def _regions(n: Mapping[str, int]) -> str:
    if "finished" not in n:
        return f"{n['all']}"
    return f"{n['finished']} of {n['all']} finished" + (
        f", {n['failed']} with files that could not be read" if n["failed"] else ""
    )


def _variable(v: Mapping[str, Any]) -> str:
    decoded = "" if v["scale"] is None else f", value × {v['scale']:g} {v['offset']:+g}"
    empty = "" if v["nodata"] is None else f", nodata {v['nodata']}"
    return f"({', '.join(v['dims'])}) {v['dtype']}{empty}{decoded}"


def _arguments(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{k}={v}" for k, v in values.items())
