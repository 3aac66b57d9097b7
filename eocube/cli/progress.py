"""Progress on stderr: a live bar on a terminal, a plain line now and then elsewhere. stdout stays free for results."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from eocube.exec.region import RegionDone

LINE_EVERY_S = 10.0
"""Seconds between plain lines."""


class Meter(Protocol):
    """Shows how far one stage is."""

    def expect(self, n: int) -> None:
        """There are ``n`` more units to do."""

    def advance(self, note: str) -> None:
        """One unit is done; ``note`` is shown beside the count."""


class BarMeter:
    """One line of a live display."""

    def __init__(self, progress: Progress, task: TaskID):
        self._progress, self._task = progress, task
        self._total = 0

    def expect(self, n: int) -> None:
        """See :class:`Meter`."""
        self._total += n
        self._progress.update(self._task, total=self._total)

    def advance(self, note: str) -> None:
        """See :class:`Meter`."""
        self._progress.update(self._task, advance=1, note=note)


class LineMeter:
    """A line every ten seconds, and one at the end."""

    def __init__(self, what: str, *, every_s: float = LINE_EVERY_S):
        self._what, self._every_s = what, every_s
        self._started = self._last = time.monotonic()
        self._done = self._total = 0
        self._note = ""

    def expect(self, n: int) -> None:
        """See :class:`Meter`."""
        self._total += n

    def advance(self, note: str) -> None:
        """See :class:`Meter`."""
        self._done, self._note = self._done + 1, note
        if time.monotonic() - self._last >= self._every_s:
            self._last = time.monotonic()
            self.say()

    def close(self) -> None:
        """Say how it ended, unless nothing was to do."""
        if self._done:
            self.say()

    def say(self) -> None:
        """Print where we are."""
        seconds = max(time.monotonic() - self._started, 1e-3)
        rate = self._done / seconds
        left = f", about {(self._total - self._done) / rate:.0f} s left" if rate and self._done < self._total else ""
        of = f" of {self._total}" if self._total else ""
        line = f"{self._what}: {self._done}{of}, {rate:.1f}/s{left}{f', {self._note}' if self._note else ''}"
        print(line, file=sys.stderr, flush=True)  # noqa: T201 - the display itself


@contextmanager
def meter(what: str) -> Iterator[Meter]:
    """A display for one stage, gone from a terminal when the stage ends."""
    if not sys.stderr.isatty():
        lines = LineMeter(what)
        yield lines
        lines.close()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield BarMeter(progress, progress.add_task(what, total=None, note=""))


class RegionProgress:
    """Regions of a run: rate in pixels made, remaining time, failures."""

    def __init__(self, shown: Meter):
        self._meter = shown
        self._started = time.monotonic()
        self._bytes = self._failed = 0

    def expect(self, n: int) -> None:
        """There are ``n`` more regions to write."""
        self._meter.expect(n)

    def done(self, region: RegionDone) -> None:
        """One region is written."""
        self._bytes += region.bytes_evaluated
        self._failed += len(region.failed)
        rate = self._bytes / 1e6 / max(time.monotonic() - self._started, 1e-3)
        self._meter.advance(f"{rate:.0f} MB/s, {self._failed} failed reads")


@contextmanager
def region_progress(what: str) -> Iterator[RegionProgress]:
    """A display for a run over regions."""
    with meter(what) as shown:
        yield RegionProgress(shown)


@contextmanager
def stages() -> Iterator[Stages]:
    """Displays for a job of several stages, each called with (stage, done, total)."""
    shown = Stages()
    try:
        yield shown
    finally:
        shown.close()


class Stages:
    """``stages("train", 3, 200)``: unit 3 of 200 of the stage named so is done; a new name ends the stage before."""

    def __init__(self) -> None:
        self._open: tuple[str, object, Meter] | None = None
        self._done = 0

    def __call__(self, stage: str, done: int, total: int | None = None, note: str = "") -> None:
        """Show it."""
        if self._open is None or self._open[0] != stage:
            self.close()
            held = meter(stage)
            shown = held.__enter__()
            self._open, self._done = (stage, held, shown), 0
            shown.expect(total or 0)
        for _ in range(done - self._done):
            self._open[2].advance(note)
        self._done = max(done, self._done)

    def close(self) -> None:
        """End the stage that is shown."""
        if self._open is not None:
            _, held, _ = self._open
            self._open = None
            held.__exit__(None, None, None)  # type: ignore[attr-defined]
