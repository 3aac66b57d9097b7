"""WorldStrat, from its files to cubes that are whole: files or archives → cubes with a leak-safe split → yearly medians → audit.

usage: worldstrat.py ROOT OUT [--cluster SPEC] [--sites N] [--split published|leak_safe]

ROOT is a folder (Zenodo v1, v1.1, Kaggle), a .zip of it, or several by commas; `eocube sample worldstrat ROOT` writes a small
SYNTHETIC one. Every stage is restartable: run the same command again after anything.
"""

from __future__ import annotations

import argparse

import eocube as eo


def main() -> None:
    """Run the stages one after the other."""
    args = arguments()
    roots = args.root.split(",")
    corpus = eo.open_corpus("worldstrat", roots if len(roots) > 1 else args.root, split=args.split)
    for note in corpus.corpus.notes:
        print(note)
    print(corpus.corpus.split_report)
    names = [site.name for site in corpus.corpus.sites][: args.sites]
    store, yearly = f"{args.out}/store", f"{args.out}/yearly"

    print(eo.convert(corpus, store, sites=names, executor=args.cluster))
    print(eo.compose(store, yearly, products=["l2a"], mask=None, freq="1YS", method="median", executor=args.cluster))
    for made in (store, yearly):
        report = eo.audit(made, executor=args.cluster)
        print(f"{made}: {report.cubes} cubes, {'whole' if report.ok else dict(report.counts)}")
    print(eo.open_store(store).index.select(["site", "product", "split", "group", "clear_fraction"]).to_pandas().to_string())


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", help="folder or .zip of WorldStrat, several by commas")
    parser.add_argument("out", help="folder or URL for everything that is made")
    parser.add_argument("--cluster", help="see eocube.connect")
    parser.add_argument("--sites", type=int, help="only the first N areas")
    parser.add_argument("--split", default="leak_safe", choices=["published", "leak_safe"])
    return parser.parse_args()


if __name__ == "__main__":
    main()
