"""The command line: thin, every verb a job. A verb is one function in a file of this folder, and one line below.

Nothing heavy is imported before a verb runs, so that ``eocube --help`` answers at once.
"""

from __future__ import annotations

import sys

import typer

from eocube.cli.common import root
from eocube.cli.compose import compose
from eocube.cli.convert import convert
from eocube.cli.leakage import leakage
from eocube.cli.samples import corpora, demo, sample
from eocube.cli.stores import audit, index, info

app = typer.Typer(
    name="eocube",
    help="Earth-observation corpora into Zarr datacubes, and everything you do next on them.",
    epilog="Exit codes: 0 done, 1 failed, 2 wrong usage, 3 done with failures listed, 130 Ctrl-C, 143 SIGTERM.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.callback()(root)

for verb in (demo, sample, corpora, convert, info, audit, index, compose, leakage):
    app.command()(verb)


def main() -> None:
    """The console script."""
    app(prog_name="eocube" if sys.argv[0].endswith("__main__.py") else None)
