"""Sentinel-2, from a STAC catalogue to super-resolved cubes: files → cubes → clear seasons → patches → training → SR.

usage: sentinel2_stac.py CATALOG OUT [--cluster SPEC] [--dates N] [--steps N]

Every stage is restartable: run the same command again after anything. Needs products 10m and 20m that share two bands, green
and red, as the sample has (`eocube sample sentinel2 data` → data/sentinel2/catalog.json).
"""

from __future__ import annotations

import argparse
import json

import pystac

import eocube as eo

SPEC = eo.PatchSpec(
    lr_product="20m",
    hr_product="10m",
    hr_bands=("green", "red"),
    lr_px=12,
    stride_px=4,
    split=eo.SplitRule(block_px=24, buffer_px=2, period_days=90, gap_days=5),
)


def main() -> None:
    """Run the stages one after the other."""
    args = arguments()
    catalog = pystac.Catalog.from_file(args.catalog)
    items = sorted(catalog.get_items(recursive=True), key=lambda item: item.datetime)[: args.dates]
    store, patches, model, sr = (f"{args.out}/{name}" for name in ("store", "patches", "model", "sr"))

    print(eo.convert(eo.open_corpus("stac", items), store, executor=args.cluster))
    print(eo.compose(store, store, products=["10m"], mask="scl", freq="QS-DEC", method="median", executor=args.cluster))
    print(eo.extract_patches(store, patches, SPEC, executor=args.cluster))
    network = eo.train(patches, model, steps=args.steps)
    print(eo.superres(store, sr, network, product="20m", out_product=f"sr_{network.model_id[:8]}", executor=args.cluster))

    bicubic = eo.load_model("bicubic", scale=2, bands=SPEC.hr_bands)
    scores = eo.evaluate(store, {"bicubic": bicubic, "network": network}, SPEC)
    print(json.dumps({k: scores[k] for k in ("psnr", "ssim", "test_pixels")}))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("catalog", help="path or URL of a STAC catalogue")
    parser.add_argument("out", help="folder or URL for everything that is made")
    parser.add_argument("--cluster", help="see eocube.connect; superres needs a worker with the resource GPU on a Dask cluster")
    parser.add_argument("--dates", type=int, help="only the first N items")
    parser.add_argument("--steps", type=int, default=1500, help="training steps")
    return parser.parse_args()


if __name__ == "__main__":
    main()
