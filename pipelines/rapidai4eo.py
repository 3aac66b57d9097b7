"""RapidAI4EO, from its files to cubes that are whole: files → sparse cubes of 24 km tiles → seasonal medians → audit.

usage: rapidai4eo.py ROOT OUT [--cluster SPEC] [--time FIRST/LAST] [--bbox W,S,E,N]

ROOT is a folder, URLs of copies in the order to try them (by commas), or `public`; `eocube sample rapidai4eo ROOT` writes a small
SYNTHETIC one. Every stage is restartable: run the same command again after anything.
"""

from __future__ import annotations

import argparse

import eocube as eo


def main() -> None:
    """Run the stages one after the other."""
    args = arguments()
    roots = args.root.split(",")
    asked = {"time": args.time, "bbox": tuple(map(float, args.bbox.split(","))) if args.bbox else None}
    corpus = eo.open_corpus(
        "rapidai4eo", roots if len(roots) > 1 else args.root, **{k: v for k, v in asked.items() if v is not None}
    )
    store, seasons = f"{args.out}/store", f"{args.out}/seasons"

    print(eo.convert(corpus, store, products=["pf_sr", "s2_sr"], executor=args.cluster))
    print(eo.compose(store, seasons, products=["pf_sr"], mask=None, freq="QS-DEC", method="median", executor=args.cluster))
    for made in (store, seasons):
        report = eo.audit(made, executor=args.cluster)
        print(f"{made}: {report.cubes} cubes, {report.regions} regions, {'whole' if report.ok else dict(report.counts)}")
    print(eo.open_store(seasons).index.select(["site", "cube", "window", "n_dates", "license"]).to_pandas().to_string())


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", help="folder or URLs of RapidAI4EO")
    parser.add_argument("out", help="folder or URL for everything that is made")
    parser.add_argument("--cluster", help="see eocube.connect")
    parser.add_argument("--time", help="FIRST/LAST, ISO dates")
    parser.add_argument("--bbox", help="W,S,E,N in degrees")
    return parser.parse_args()


if __name__ == "__main__":
    main()
