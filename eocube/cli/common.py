"""What the verbs share: options, exit codes, and how a run is planned, shown and ended."""

from __future__ import annotations

import functools
import json
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer

from eocube.cli.text import printable
from eocube.errors import ArgumentError, EocubeError, UnknownNameError

if TYPE_CHECKING:
    from eocube.exec.drive import CubePlan, RunReport

DONE, FAILED, WRONG_USAGE, WITH_FAILURES, INTERRUPTED, TERMINATED = 0, 1, 2, 3, 130, 143
"""Exit codes; the last two are the shell's own for Ctrl-C and for SIGTERM."""

MAX_COUNTED = 1_000
"""Cubes that are planned ahead to know how much there is to do; in a longer run the total grows as it goes."""


class OnError(StrEnum):
    """What to do when a file cannot be read."""

    RAISE = "raise"
    SKIP = "skip"


class LayoutName(StrEnum):
    """Declared use of a cube."""

    MAP = "map"
    PATCH = "patch"
    BALANCED = "balanced"
    SERIES = "series"


_RUN, _ONLY = "How to run", "What to take"
Store = Annotated[str, typer.Argument(metavar="STORE", help="Folder or URL of the store.")]
PlanFlag = Annotated[bool, typer.Option("--plan", help="Print what it would read and cost; write nothing.", rich_help_panel=_RUN)]
Limit = Annotated[int | None, typer.Option(min=1, help="Write at most that many regions.", rich_help_panel=_RUN)]
Errors = Annotated[
    OnError,
    typer.Option(help="skip: a file that cannot be read is listed, its region stays unfinished.", rich_help_panel=_RUN),
]
Retry = Annotated[bool, typer.Option("--retry", help="Only regions in which a file could not be read.", rich_help_panel=_RUN)]
Cluster = Annotated[
    str | None,
    typer.Option(
        metavar="SPEC",
        help="serial, threads\\[:n], processes\\[:n], tcp://host:port, tls://…, module:function. Default: threads.",
        rich_help_panel=_RUN,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, and nothing else there.", rich_help_panel=_RUN)]
StorageOption = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="For the object store of the cubes; may be repeated.", rich_help_panel=_RUN),
]
Sites = Annotated[
    list[str] | None, typer.Option(metavar="NAMES", help="Only these sites, by commas or repeated.", rich_help_panel=_ONLY)
]
Products = Annotated[
    list[str] | None, typer.Option(metavar="NAMES", help="Only these products, by commas or repeated.", rich_help_panel=_ONLY)
]
Rebuild = Annotated[
    list[str] | None,
    typer.Option(
        metavar="CUBE", help="Delete this cube (site or site/product) and write it anew; may be repeated.", rich_help_panel=_RUN
    ),
]
Layout = Annotated[LayoutName, typer.Option(help="Declared use: dates in a shard are 1, 4, 16 or 64.")]
CorpusLayout = Annotated[
    LayoutName | None,
    typer.Option(help="Declared use: dates in a shard are 1, 4, 16 or 64.", show_default="as the corpus has it, else balanced"),
]


@dataclass(frozen=True, kw_only=True)
class RunFlags:
    """The common flags of every long verb."""

    plan: bool = False
    limit: int | None = None
    errors: OnError = OnError.RAISE
    retry: bool = False
    rebuild: tuple[str, ...] = ()
    cluster: str | None = None
    as_json: bool = False
    storage_options: Mapping[str, Any] = field(default_factory=dict)


def names(given: Iterable[str] | None, option: str = "The list") -> list[str] | None:
    """``--bands red,nir --bands scl`` → [red, nir, scl]; None where the option was not given.

    ArgumentError where it was given without a name: a shell's variable that is not set must not mean all.
    """
    found = []
    for text in given or ():
        listed = [n.strip() for n in text.split(",") if n.strip()]
        if not listed:
            raise ArgumentError(f"{option} {text!r} has no name in it. Give names by commas, or leave the option out for all.")
        found += listed
    return found or None


def bbox_of(text: str) -> tuple[float, float, float, float]:
    """``W,S,E,N`` in degrees; wrong usage for anything else."""
    try:
        west, south, east, north = (float(v) for v in text.split(","))
    except ValueError as e:
        raise typer.BadParameter(f"--bbox {text!r} is not W,S,E,N: four numbers in degrees, by commas.") from e
    if not (-180 <= west < east <= 180 and -90 <= south < north <= 90):
        raise typer.BadParameter(f"--bbox {text!r} is no area: west < east and south < north in degrees are expected.")
    return west, south, east, north


def options_of(pairs: Iterable[str] | None) -> dict[str, Any]:
    """``key=value`` → a mapping; true, false, null and JSON objects or lists become that, all else stays text."""
    out: dict[str, Any] = {}
    for pair in pairs or ():
        key, sign, value = pair.partition("=")
        if not sign or not key:
            raise typer.BadParameter(f"--storage-option {pair!r} is not KEY=VALUE.")
        out[key] = _loose(value)
    return out


def _loose(value: str) -> Any:
    if value in {"true", "false", "null"} or value[:1] in {"{", "["}:
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


# ------------------------------------------------------------------------------------------------ ends


class WrongValueError(Exception):
    """An option's value is none that it may have: exit code 2, before anything is read or written."""


@contextmanager
def option(name: str) -> Iterator[None]:
    """Errors of eocube inside are about the value of an option."""
    try:
        yield
    except EocubeError as e:
        raise WrongValueError(f"{name}: {e}") from e


_OPTION_KINDS = (
    *("executor", "freq", "composite method", "resampling", "mosaic", "spectral index", "cloud mask method"),
    *("corpus", "sample", "site", "product", "band", "cube to rebuild"),
)
"""Kinds of UnknownNameError whose names are the values of an argument or option."""


class TerminatedError(KeyboardInterrupt):
    """SIGTERM, as batch systems and containers end a process: taken as Ctrl-C is."""


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """SIGTERM raises inside what Ctrl-C would, in the main thread of a process that does nothing else about it."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    process = os.getpid()

    def stop(number: int, _: object) -> None:
        if os.getpid() != process:  # a fork of it ends as it would have
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        raise TerminatedError("SIGTERM")

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


Function = TypeVar("Function", bound=Callable[..., None])


def verb(function: Function) -> Function:
    """A command whose errors end in a line on stderr and exit code 1, or 2 for a wrong value; with ``--json`` also in an object.

    Those are errors of eocube and of the system (permissions, network); anything else is a defect and keeps its traceback. Ctrl-C
    and SIGTERM end it in the shell's codes for them, after what it does about them (a report of the run).
    """

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            with _sigterm_interrupts():
                function(*args, **kwargs)
        except BrokenPipeError:
            raise  # `eocube info STORE | head`: typer leaves quietly
        except WrongValueError as e:
            fail(e, as_json=bool(kwargs.get("as_json")), code=WRONG_USAGE)
        except (EocubeError, OSError) as e:
            wrong = isinstance(e, ArgumentError) or (isinstance(e, UnknownNameError) and e.kind in _OPTION_KINDS)
            fail(e, as_json=bool(kwargs.get("as_json")), code=WRONG_USAGE if wrong else FAILED)
        except KeyboardInterrupt as e:
            ended, code = ("Terminated", TERMINATED) if isinstance(e, TerminatedError) else ("Interrupted", INTERRUPTED)
            how = " ".join(getattr(e, "__notes__", [])) or "The same command again goes on where this one was."
            typer.echo(f"{ended}. {how}", err=True)
            raise typer.Exit(code) from None

    return run  # type: ignore[return-value]


def fail(error: Exception, *, as_json: bool, code: int = FAILED) -> NoReturn:
    """Say in one line what is the matter and leave with the exit code."""
    message = printable("\n".join([str(error), *getattr(error, "__notes__", [])]))
    typer.echo(f"Error: {message}", err=True)
    if as_json:
        meant = error.__cause__ if isinstance(error, WrongValueError) else error
        print_json({"ok": False, "error": {"type": type(meant).__name__, "message": message}})
    raise typer.Exit(code)


def print_json(value: Any) -> None:
    """One JSON object on stdout."""
    typer.echo(json.dumps(value, indent=1, default=str))


def _print_version(asked: bool) -> None:  # noqa: FBT001 - typer's signature of a callback
    if asked:
        from eocube import __version__

        typer.echo(f"eocube {__version__}")
        raise typer.Exit


def root(
    *,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Options of eocube itself."""


# ------------------------------------------------------------------------------------------------ runs


def carry_out(what: str, store: str, plans: Iterable[CubePlan], flags: RunFlags, **run: Any) -> None:
    """Plan or run cubes into a store, with a progress display, a report and an exit code.

    ``run`` goes to :func:`eocube.jobs.write.run_plans` (``store_attrs``, ``resource``, ``run``, ``group``).
    """
    from eocube.jobs.rebuild import delete_for_rebuild, rebuilding, refuse_retry_with_rebuild

    refuse_retry_with_rebuild(retry=flags.retry, rebuild=flags.rebuild)
    if flags.plan:
        _show_plan(store, plans, flags)
        return
    from eocube.cli.progress import region_progress
    from eocube.exec.executors import as_executor, settle_own_process
    from eocube.jobs.write import run_plans

    settle_own_process()
    # The executor first: where there is none, nothing is deleted.
    with closing(as_executor(flags.cluster)) as executor, region_progress(what) as progress:
        if flags.rebuild:
            plans = delete_for_rebuild(store, plans, flags.rebuild, storage_options=flags.storage_options)
        with rebuilding(flags.rebuild):
            report = run_plans(
                store,
                _counted(plans, progress.expect, flags),
                executor=executor,
                limit=flags.limit,
                retry=flags.retry,
                storage_options=flags.storage_options,
                on_done=progress.done,
                **run,
            )
    end(report, flags)


def _show_plan(store: str, plans: Iterable[CubePlan], flags: RunFlags) -> None:
    """What a run would do; an error where it would be refused."""
    from dataclasses import asdict

    from eocube.jobs.plan import sum_up
    from eocube.jobs.rebuild import choose_cubes, stored_cubes
    from eocube.jobs.roots import require_target, require_writable

    require_target(store, flags.storage_options, retry=flags.retry)
    require_writable(store)
    rebuild = []
    if flags.rebuild:  # its names are looked for among all cubes first
        plans = list(plans)
        rebuild = choose_cubes(flags.rebuild, plans)
    found = sum_up(plans, retry=flags.retry, rebuild=rebuild, limit=flags.limit)
    deleted = ["/".join(c) for c in stored_cubes(store, rebuild, storage_options=flags.storage_options)]
    if flags.as_json:
        print_json({"ok": True, "plan": asdict(found.summary), "deleted_first": deleted, "regions_left_out": found.left_out})
        return
    from eocube.cli.show import many

    typer.echo(f"{many(found.cubes, 'cube')}: {found.summary}")
    _tell_left_out(found.left_out)
    if flags.rebuild:
        typer.echo(
            f"Deleted first: {', '.join(deleted)}" if deleted else "Nothing to delete first: none of them is in the store."
        )


def _counted(plans: Iterable[CubePlan], expect: Callable[[int], None], flags: RunFlags) -> Iterator[CubePlan]:
    """The same plans; says how many regions there are to write, of the first 1,000 cubes beforehand, then as they come."""
    from eocube.jobs.remaining import regions_left

    left = flags.limit

    def count(plan: CubePlan) -> None:
        nonlocal left
        n = regions_left(plan, retry=flags.retry)
        if left is not None:
            n = min(n, left)
            left -= n
        expect(n)

    waiting = iter(plans)
    first = list(islice(waiting, MAX_COUNTED))
    for plan in first:
        count(plan)
    yield from first
    for plan in waiting:
        count(plan)
        yield plan


def end(report: RunReport, flags: RunFlags) -> None:
    """Print what a run did and leave with its exit code."""
    if flags.as_json:
        from dataclasses import asdict

        print_json({"ok": report.ok, **asdict(report)})
    else:
        from eocube.cli.show import show_run

        show_run(report)
        _tell_left_out(report.regions_left_out, at_least=report.stopped_at_limit)
        if flags.rebuild and (report.failed or report.stopped_at_limit):
            from eocube.jobs.rebuild import AFTER_REBUILD

            typer.echo(AFTER_REBUILD)
    if not report.ok:
        raise typer.Exit(WITH_FAILURES)


def _tell_left_out(n: int, *, at_least: bool = False) -> None:
    """What ``--retry`` passes by that is not finished."""
    if n:
        from eocube.cli.show import many

        some = f"{'At least ' if at_least else ''}{many(n, 'region')} more {'is' if n == 1 else 'are'} not written"
        typer.echo(
            f"{some}, and no file of theirs failed, so --retry leaves them out: the same command without --retry writes them."
        )
