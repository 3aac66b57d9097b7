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
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="Where samples are kept; of a synthetic one its own.")] = ".",
    *,
    sites: Annotated[int | None, typer.Option(min=1, help="worldstrat, rapidai4eo: how many sites.", show_default="4")] = None,
    dates: Annotated[
        int | None, typer.Option(min=1, help="worldstrat, rapidai4eo: dates of a site.", show_default="16, 146")
    ] = None,
    defects: Annotated[
        list[str] | None, typer.Option(metavar="NAMES", help="Known defects of the real corpus to write too.")
    ] = None,
    zipped: Annotated[bool, typer.Option("--zipped", help="worldstrat: .zip archives instead of folders.")] = False,
    as_json: common.AsJson = False,
) -> None:
    """Unpack real files that ship with eocube, or write a SYNTHETIC copy of a corpus, and print the path to open."""
    from eocube import sample_corpus

    path = sample_corpus(name, folder, sites=sites, dates=dates, defects=common.names(defects, "--defects") or (), zipped=zipped)
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
