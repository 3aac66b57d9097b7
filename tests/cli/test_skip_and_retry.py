"""``--errors skip`` and ``--retry``: what failed is listed, stays unfinished, and is healed alone."""

from __future__ import annotations

import json
from pathlib import Path

from eocube.jobs.audit import audit
from eocube.testing.stores import index_rows, same_store
from tests.cli.conftest import SITE, Catalog, Invoke, parsed
from tests.cli.test_bad_input import RUN, refused


def regions_written(store: Path, before: dict[str, tuple[int, int]]) -> set[str]:
    """Regions (t.y.x) whose marker was put since."""
    now = stamps(store)
    return {name for name, stamp in now.items() if before.get(name) != stamp}


def stamps(store: Path) -> dict[str, tuple[int, int]]:
    """For each region its marker's inode and time of writing: put anew whenever the region is written, whatever is in it."""
    return {p.parent.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in (store / "markers").rglob("*.json")}


def test_skipped_assets_are_rows_of_the_report_and_retry_writes_just_their_regions(
    eocube: Invoke, catalog: Catalog, tmp_path: Path
) -> None:
    store = tmp_path / "a"
    catalog.write("missing", {1: ("B08",), 3: ("B04", "B08")})
    command = ("convert", "stac", catalog.path, store, *RUN)
    failed = [("1.0.0", 1, "B08"), ("3.0.0", 3, "B04"), ("3.0.0", 3, "B08")]
    for n in range(3):  # every later run takes those regions for unfinished
        before = stamps(store)
        result = eocube(*command, "--errors", "skip", "--json")
        report = parsed(result)
        assert (result.exit_code, report["ok"], report["regions_done"]) == (3, False, 2 if n else 4)
        assert [(r["region"], r["item_id"], r["asset"]) for r in report["failed"]] == [
            (region, catalog.scenes[i].item_id, asset) for region, i, asset in failed
        ]
        for row in report["failed"]:
            assert (row["cube"], row["product"]) == (SITE, "10m")
            assert row["error"]
            assert row["href"].endswith(f"_{row['asset']}.tif")
        assert regions_written(store, before) == ({"1.0.0", "3.0.0"} if n else {"0.0.0", "1.0.0", "2.0.0", "3.0.0"})
        kept = json.loads(max((store / "runs").glob("*.json"), key=lambda p: p.stat().st_mtime_ns).read_text())
        assert kept["failed"] == report["failed"]
        assert audit(str(store), executor="serial").counts == {"failed_asset": len(failed)}

    refused(eocube(*command), "Asset 'B08'", catalog.scenes[1].item_id)
    refused(eocube("compose", store, tmp_path / "out"), "silent holes", "--retry")
    still = eocube(*command, "--errors", "skip", "--retry", "--json")
    assert (still.exit_code, parsed(still)["regions_done"]) == (3, 2)

    catalog.write("missing", {3: ("B08",)})  # one of them is mended, and of the other one asset
    before = stamps(store)
    half = eocube(*command, "--errors", "skip", "--retry", "--json")
    assert (half.exit_code, [r["region"] for r in parsed(half)["failed"]]) == (3, ["3.0.0"])
    assert regions_written(store, before) == {"1.0.0", "3.0.0"}

    catalog.write()
    before = stamps(store)
    healed = eocube(*command, "--retry", "--json")
    assert (healed.exit_code, parsed(healed)["regions_done"], parsed(healed)["cubes"]) == (0, 1, [f"{SITE}/10m"])
    assert regions_written(store, before) == {"3.0.0"}
    eocube("convert", "stac", catalog.path, tmp_path / "b", *RUN)
    assert same_store(store, tmp_path / "b")
    assert audit(str(store), deep=True, executor="serial").ok


def test_retry_leaves_regions_alone_that_no_run_has_written(eocube: Invoke, catalog: Catalog, tmp_path: Path) -> None:
    store = tmp_path / "a"
    catalog.write("missing", {0: ("B08",)})
    command = ("convert", "stac", catalog.path, store, *RUN)
    assert eocube(*command, "--errors", "skip", "--limit", 2).exit_code == 3
    catalog.write()
    before = stamps(store)
    assert parsed(eocube(*command, "--retry", "--json"))["regions_done"] == 1
    assert regions_written(store, before) == {"0.0.0"}
    assert index_rows(store) == []
    assert parsed(eocube(*command, "--json"))["regions_done"] == 2
    eocube("convert", "stac", catalog.path, tmp_path / "b", *RUN)
    assert same_store(store, tmp_path / "b")
