"""A finished cube is passed by without reading its markers, and only where its row in the index says what they do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import fsspec
import numpy as np
import pytest

from eocube.corpora.stac import build_source
from eocube.exec.drive import CubePlan, RunReport
from eocube.io.blobs import open_blobs
from eocube.io.index import has_evidence, list_parts, read_index
from eocube.io.markers import MarkerName
from eocube.io.tally import row_evidence, settled_key
from eocube.io.template import cube_template
from eocube.jobs.audit import audit, index
from eocube.jobs.rebuild import delete_cubes
from eocube.jobs.write import WriteSettings, plan_node, run_plans
from eocube.model.recipe import Binding, public_json
from eocube.model.spec import Region
from eocube.testing.stac import SyntheticReader, SyntheticScene, item_dict, make_grid, make_series
from eocube.testing.stores import MortalFileSystem, ProcessDiedError, cut_plan, register_mortal

STORE = "mortal://store"
SERIES = make_series(6, grid=make_grid((8, 12)), zooms={"B04": 1, "SCL": 1})
BROKEN = [replace(s, missing=("B04",)) if i == 2 else s for i, s in enumerate(SERIES)]
CLOUD = 9
"""Of SCL."""

Content = dict[str, bytes]


class Reading(MortalFileSystem):
    """``reading://``: the same objects, and a log of those that are read or written."""

    protocol = "reading"
    got: ClassVar[list[str]] = []
    put: ClassVar[list[str]] = []

    def cat_file(self, path: str, *args: Any, **kwargs: Any) -> Any:
        """As in memory, noted."""
        self.got.append(self._strip_protocol(path))
        return super().cat_file(path, *args, **kwargs)

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        """As in memory, noted."""
        self.put.append(self._strip_protocol(path))
        super().pipe_file(path, value, mode=mode, **kwargs)

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.replace("reading://", "mortal://"))


@pytest.fixture(autouse=True)
def _mortal() -> None:
    register_mortal()
    fsspec.register_implementation("reading", Reading, clobber=True)
    MortalFileSystem.begin()
    Reading.got.clear()
    Reading.put.clear()


class CloudyReader(SyntheticReader):
    """The same files, mended at their addresses: every pixel is a cloud."""

    def read(self, assets: Any, geobox: Any, *, item_id: str, resampling: Any) -> np.ndarray:
        """As they were, or clouds."""
        read = super().read(assets, geobox, item_id=item_id, resampling=resampling)
        return np.full_like(read, CLOUD) if assets[0].key.lower() == "scl" else read


def plan(
    scenes: list[SyntheticScene] = SERIES,
    *,
    store: str = STORE,
    reader: type[SyntheticReader] = SyntheticReader,
    errors: str = "raise",
    licence: dict[str, Any] | None = None,
) -> CubePlan:
    """Four dates a shard, two regions side by side: four regions."""
    source = build_source([item_dict(s) for s in scenes], reader=reader(scenes))
    binding = Binding(sources={source.node["source"]: source})
    settings = WriteSettings(layout="patch", errors=errors)  # type: ignore[arg-type]
    made = plan_node(source.node, binding, store, site="s", product="p", settings=settings, licence={})
    cut = cut_plan(made, chunk_tyx=(1, 8, 8), shard_tyx=(4, 8, 8))
    job, recipe = cut.job, public_json(cut.job.node)
    template = cube_template(job.spec, cube="s", product="p", recipe=recipe, sid=job.sid, licence=licence or {})
    return replace(cut, meta=replace(cut.meta, template=template))


def write(made: CubePlan, **options: Any) -> RunReport:
    return run_plans(made.job.store_url, [made], executor="serial", **options)


def parts() -> list[str]:
    return [key for keys in list_parts(open_blobs(STORE)).values() for key in keys]


def rows() -> list[dict[str, Any]]:
    return read_index(open_blobs(STORE)).to_pylist()


def result() -> tuple[Content, list[dict[str, Any]]]:
    """Every object but runs' reports and the index, of which the rows count."""
    kept = {k: v for k, v in MortalFileSystem.content().items() if not k.startswith(("/store/runs", "/store/index"))}
    return kept, rows()


def may_die_anywhere(command: Callable[[], object], start: Content) -> None:
    """After dying before any write, the same command gives what it gives undisturbed."""
    MortalFileSystem.begin(start)
    command()
    n_writes = MortalFileSystem.writes
    undisturbed = result()
    for n in range(n_writes):
        MortalFileSystem.begin(start, writes_left=n)
        with pytest.raises(ProcessDiedError):
            command()
        MortalFileSystem.writes_left = None
        command()
        assert result() == undisturbed, f"after dying before write {n}"
    assert index(STORE).to_pylist() == undisturbed[1]
    assert audit(STORE, deep=True, executor="serial").ok


# ------------------------------------------------------------------------------------------------ economy


def test_a_second_run_of_a_finished_cube_gets_no_marker_and_no_part_and_puts_only_its_report_and_the_index() -> None:
    made = plan(store="reading://store")
    write(made)
    Reading.got.clear()
    Reading.put.clear()
    assert write(made).cubes == ["s/p"]
    assert sorted(k for k in Reading.got if k.startswith(("/store/markers", "/store/index"))) == ["/store/index.parquet"]
    assert "/store/cubes/s/p/zarr.json" in Reading.got, "reads are counted"
    changed = [k for k in Reading.put if not k.endswith("/zarr.json")]
    assert sorted(k.rpartition("/")[0] for k in changed) == ["/store", "/store/runs"], changed


@pytest.mark.parametrize("lost", ["the part", "an older form of its name", "one more part"])
def test_a_cube_is_not_passed_by_on_another_word_than_that_of_its_one_part(lost: str) -> None:
    made = plan()
    write(made)
    whole, (key,) = rows(), parts()
    blobs = open_blobs(STORE)
    body = blobs.get(key) or b""
    if lost != "one more part":
        blobs.delete(key)
    if lost != "the part":
        blobs.put(key.replace(key[-24:], ".parquet"), body)
    assert write(made).cubes == ["s/p"]
    assert parts() == [key]
    assert rows() == whole


# ------------------------------------------------------------------------------------------------ evidence


def test_a_partial_marker_or_two_markers_give_no_evidence() -> None:
    at = Region(0, 0, 0)
    whole, partial, other = MarkerName(at, "k", False), MarkerName(at, "k", True), MarkerName(at, "l", False)
    assert settled_key([whole]) == "k"
    assert [settled_key(names) for names in ([], [partial], [whole, partial], [whole, other])] == [None] * 4
    assert row_evidence({}, ["k", settled_key([partial])], site="s") is None


def test_other_labels_other_keys_and_another_site_give_another_part() -> None:
    said = [
        row_evidence(attrs, keys, site=site)
        for attrs, keys, site in (({"a": 1}, "kl", "s"), ({"a": 2}, "kl", "s"), ({"a": 1}, "lk", "s"), ({"a": 1}, "kl", "t"))
    ]
    assert None not in said
    assert len(set(said)) == 4


def test_a_cube_with_unread_files_has_a_part_without_evidence() -> None:
    write(plan(BROKEN, errors="skip"))
    assert [has_evidence(key) for key in parts()] == [False]
    assert rows()[0]["unfinished_regions"] > 0
    write(plan())
    assert [has_evidence(key) for key in parts()] == [True]
    assert rows()[0]["unfinished_regions"] == 0


def test_another_licence_reaches_the_row_wherever_its_run_died() -> None:
    """No region is written for it: the cube's metadata alone says that its row is another."""
    old, new = plan(licence={"license": "MIT"}), plan(licence={"license": "CC0-1.0"})
    write(old)
    start, before = MortalFileSystem.content(), parts()
    assert (rows()[0]["license"], write(new).regions_done) == ("MIT", 0)
    assert rows()[0]["license"] == "CC0-1.0"
    assert parts() != before
    may_die_anywhere(lambda: write(new), start)


# ------------------------------------------------------------------------------------------------ redone under equal keys


@pytest.mark.parametrize("lost", ["0.0.0", "", "cube"], ids=["one marker", "every marker", "cube"])
def test_a_row_says_what_was_counted_last_wherever_the_run_that_redid_regions_died(lost: str) -> None:
    """What was deleted by hand is redone from files mended at their addresses: keys stay, counts do not."""
    clear, cloudy = plan(), plan(reader=CloudyReader)
    write(clear)
    gone = "/store/cubes/s/p/" if lost == "cube" else f"/store/markers/s/p/{lost}"
    start, before = {k: v for k, v in MortalFileSystem.content().items() if not k.startswith(gone)}, rows()
    write(clear)
    MortalFileSystem.begin(start)
    write(cloudy)
    assert rows()[0]["clear_fraction"] < before[0]["clear_fraction"]
    may_die_anywhere(lambda: write(cloudy), start)


def test_a_cube_with_an_unwritten_region_has_no_row() -> None:
    write(plan())
    blobs = open_blobs(STORE)
    for key in [k for k, _ in blobs.list("markers/s/p") if "/1.0." in k]:
        blobs.delete(key)
    write(plan(), limit=1)
    assert (rows(), parts()) == ([], [])
    write(plan())
    assert len(rows()) == 1


@pytest.mark.parametrize("first", [4, 5], ids=["into new shards", "into the last shards"])
def test_an_append_that_stops_keeps_the_row_of_the_older_cube(first: int) -> None:
    write(plan(SERIES[:first]))
    before = rows()
    write(plan(), limit=1)
    assert rows() == before


def test_a_rebuild_may_die_anywhere_though_the_files_were_mended_in_between() -> None:
    def rebuild() -> None:
        delete_cubes(STORE, [("s", "p")])
        write(plan(reader=CloudyReader))

    write(plan())
    may_die_anywhere(rebuild, MortalFileSystem.content())
