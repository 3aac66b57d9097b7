"""eocube corpora, sample, demo: what there is to begin with."""

from __future__ import annotations

from typing import Annotated

import typer

from eocube.cli import common
from eocube.cli.common import print_json, verb


@verb
def corpora(*, as_json: common.AsJson = False) -> None:
    """List the kinds of original files that eocube reads, and the samples that ship with it."""
    from eocube.cli.show import show_table
    from eocube.jobs.info import describe_corpora

    known = describe_corpora()
    if as_json:
        print_json(known)
    else:
        show_table("Corpora: eocube convert NAME SOURCE STORE", ["name", "source"], known["corpora"].items())
        show_table("Samples: eocube sample NAME FOLDER", ["name"], [[name] for name in known["samples"]])


@verb
def sample(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the sample: see `eocube corpora`.")],
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="Where samples are kept.")] = ".",
    *,
    as_json: common.AsJson = False,
) -> None:
    """Unpack real files that ship with eocube, and print the path of the one to open."""
    from eocube import sample_corpus

    path = sample_corpus(name, folder)
    if as_json:
        print_json({"ok": True, "path": str(path)})
    else:
        typer.echo(str(path))


@verb
def demo(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="Where stores, pictures and numbers go.")] = "demo",
    *,
    as_json: common.AsJson = False,
) -> None:
    """Run the whole chain on the sample that ships: files → cubes → composites → patches → super-resolution → pictures."""
    from eocube import demo as run_demo
    from eocube.cli.progress import stages

    with stages() as progress:
        result = run_demo(folder, progress=progress)
    if as_json:
        print_json(result.as_json())
    else:
        typer.echo(str(result))
