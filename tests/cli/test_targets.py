"""The command line refuses what no store can be written to or chosen from, and says how an ended run goes on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from eocube.cli import common
from eocube.cli.common import TerminatedError, verb
from eocube.corpora.rapidai4eo_sample import write_rapidai4eo
from eocube.jobs.audit import audit
from eocube.jobs.open import open_cube
from eocube.jobs.rebuild import AFTER_REBUILD, rebuilding
from eocube.testing.stores import cubes_of, same_store, tree
from tests.cli.conftest import SITE, Catalog, Invoke, parsed

RUN = ("--layout", "map", "--cluster", "serial")
FOREIGN = '{"zarr_format":3,"node_type":"group","attributes":{"mine":1}}'


@pytest.fixture
def good(eocube: Invoke, catalog: Catalog, store: Path) -> Path:
    """Four dates in four regions."""
    assert eocube("convert", "stac", catalog.path, store, *RUN).exit_code == 0
    return store


def said_by(result: Any, code: int) -> str:
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    line: str = result.stderr.strip().splitlines()[-1]
    return line


# ------------------------------------------------------------------------------------------------ targets


@pytest.mark.parametrize("plan", [[], ["--plan"]], ids=["run", "plan"])
def test_a_group_that_is_no_store_is_refused_by_every_command_in_the_same_words(
    eocube: Invoke, catalog: Catalog, good: Path, tmp_path: Path, plan: list[str]
) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "zarr.json").write_text(FOREIGN)
    told = said_by(eocube("info", full), 1)
    assert "holds a zarr.json, but not an eocube store's" in told
    for words in (("convert", "stac", catalog.path, full), ("compose", good, full, "--mask", "none")):
        assert said_by(eocube(*words, *plan, "--cluster", "serial"), 1) == told
    assert [p.name for p in full.iterdir()] == ["zarr.json"]


@pytest.mark.parametrize("plan", [[], ["--plan"]], ids=["run", "plan"])
def test_no_store_is_written_inside_another(eocube: Invoke, catalog: Catalog, good: Path, plan: list[str]) -> None:
    before = tree(good)
    for place in ("cubes", f"cubes/{SITE}", f"cubes/{SITE}/10m", "markers"):
        for words in (("convert", "stac", catalog.path), ("compose", good)):
            assert "Nothing was changed." in said_by(eocube(*words, good / place, *plan, "--cluster", "serial"), 1)
    assert tree(good) == before
    told = said_by(eocube("convert", "stac", catalog.path, good / "cubes", *plan), 1)
    assert "is the folder of the cubes of a store" in told


def test_a_plan_refuses_a_file_in_the_words_of_the_run(eocube: Invoke, catalog: Catalog, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        said = [said_by(eocube("convert", "stac", catalog.path, place, *RUN, *more), 1) for more in ([], ["--plan"])]
        assert said[0] == said[1]
        assert "Not a directory" in said[0]
    assert (tmp_path / "file").read_text() == "mine"


def test_a_plan_refuses_a_folder_that_this_user_may_not_write(catalog: Catalog, tmp_path: Path) -> None:
    as_any_user = []
    if not os.geteuid():
        found = shutil.which("setpriv")
        if found is None:
            pytest.skip("needs setpriv: nothing is closed to root.")
        as_any_user = [found, "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"]
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    words = ["convert", "stac", str(catalog.path), str(closed / "store"), "--plan"]
    done = subprocess.run([*as_any_user, sys.executable, "-m", "eocube", *words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert f"could not be written below {closed}/store: Permission denied. It is read-only for this user" in done.stderr
    assert not list(closed.iterdir())


def test_a_plan_where_a_store_may_be_made_makes_nothing(eocube: Invoke, catalog: Catalog, store: Path) -> None:
    assert eocube("convert", "stac", catalog.path, store, "--plan").exit_code == 0
    assert not store.exists()


# ------------------------------------------------------------------------------------------------ retry, empty names


def test_retry_tells_what_it_leaves_out(eocube: Invoke, catalog: Catalog, store: Path) -> None:
    command = ("convert", "stac", catalog.path, store, *RUN)
    for more in ([], ["--plan"]):
        assert "leave it out to begin" in said_by(eocube(*command, "--retry", *more), 1)
    assert not store.exists()
    eocube(*command, "--limit", 1)
    for more in ([], ["--plan"]):
        told = eocube(*command, "--retry", *more)
        assert told.exit_code == 0
        assert "3 regions more are not written" in told.stdout
        assert "the same command without --retry writes them" in told.stdout
        assert parsed(eocube(*command, "--retry", "--json", *more))["regions_left_out"] == 3
    eocube(*command, "--limit", 2)
    assert "1 region more is not written" in eocube(*command, "--retry").stdout
    assert "more" not in eocube(*command).stdout
    assert "more" not in eocube(*command, "--retry").stdout
    assert audit(str(store), deep=True, executor="serial").ok


@pytest.mark.parametrize("given", ["", ",", " , "])
@pytest.mark.parametrize("flag", ["--bands", "--sites", "--products", "--rebuild"])
def test_an_option_of_names_without_a_name_is_wrong_usage(
    eocube: Invoke, catalog: Catalog, good: Path, tmp_path: Path, flag: str, given: str
) -> None:
    before, out = tree(good), tmp_path / "out"
    commands: list[tuple[Any, ...]] = [("convert", "stac", catalog.path, good), ("convert", "stac", catalog.path, out)]
    commands += [] if flag == "--bands" else [("compose", good, out, "--mask", "none")]
    for words in commands:
        assert f"{flag} {given!r} has no name in it" in said_by(eocube(*words, *RUN, flag, given), 2)
        assert parsed(eocube(*words, *RUN, flag, given, "--json"))["error"]["type"] == "ArgumentError"
    assert tree(good) == before
    assert not out.exists()


def test_a_grid_in_a_file_is_taken_and_a_missing_one_is_told(
    eocube: Invoke, catalog: Catalog, store: Path, tmp_path: Path
) -> None:
    grid = tmp_path / "grid.json"
    words = ("convert", "stac", catalog.path, store, *RUN, "--geobox", grid)
    assert f"No file was found at {grid}" in said_by(eocube(*words), 2)
    grid.write_text("{}")
    assert "is no grid" in said_by(eocube(*words), 2)
    grid.write_text(
        json.dumps({"proj:code": "EPSG:32635", "proj:transform": [10, 0, 600000, 0, -10, 5000040], "proj:shape": [8, 6]})
    )
    assert eocube(*words).exit_code == 0
    assert dict(open_cube(f"{store}/cubes/area/10m").sizes) == {"time": 4, "band": 2, "y": 8, "x": 6}


# ------------------------------------------------------------------------------------------------ ended runs


def small_app(error: BaseException, *, rebuild: tuple[str, ...] = ()) -> typer.Typer:
    small = typer.Typer()

    @small.command()
    @verb
    def fails(*, as_json: common.AsJson = False) -> None:
        with rebuilding(rebuild):
            raise error

    return small


@pytest.mark.parametrize(
    ("error", "word", "code"), [(KeyboardInterrupt(), "Interrupted", 130), (TerminatedError("SIGTERM"), "Terminated", 143)]
)
def test_after_a_rebuild_the_way_on_is_without_it(error: BaseException, word: str, code: int) -> None:
    plain = CliRunner().invoke(small_app(type(error)()))
    assert (plain.exit_code, plain.stderr) == (code, f"{word}. The same command again goes on where this one was.\n")
    rebuilt = CliRunner().invoke(small_app(error, rebuild=("a",)))
    assert (rebuilt.exit_code, rebuilt.stderr) == (code, f"{word}. {AFTER_REBUILD}\n")


def test_a_limited_rebuild_goes_on_without_it(eocube: Invoke, catalog: Catalog, good: Path) -> None:
    command = ("convert", "stac", catalog.path, good, *RUN)
    before = cubes_of(good)
    assert AFTER_REBUILD in eocube(*command, "--rebuild", SITE, "--limit", 1).stdout
    done = eocube(*command)
    assert "3 regions written, 1 were finished before" in done.stdout
    assert AFTER_REBUILD not in done.stdout
    assert cubes_of(good) == before
    assert AFTER_REBUILD not in eocube(*command, "--rebuild", SITE).stdout


@pytest.mark.parametrize(("number", "code", "word"), [(signal.SIGTERM, 143, "Terminated"), (signal.SIGINT, 130, "Interrupted")])
def test_a_run_that_is_told_to_end_leaves_its_report_and_says_how_to_go_on(
    eocube: Invoke, catalog: Catalog, tmp_path: Path, number: signal.Signals, code: int, word: str
) -> None:
    store, words = tmp_path / "store", ["convert", "stac", str(catalog.path), "--layout", "map", "--cluster"]
    command = [sys.executable, "-m", "eocube", *words, "tests.cli.test_targets:slow_executor", str(store)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        begun = time.monotonic()
        while not list(store.glob("markers/*/*/*/*.json")):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() - begun < 60
            time.sleep(0.01)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (code, "")
    assert err.splitlines()[-1] == f"{word}. The same command again goes on where this one was."
    assert "Traceback" not in err
    (report,) = (json.loads(p.read_text()) for p in (store / "runs").glob("*.json"))
    assert report["error"].startswith({"Terminated": "TerminatedError: SIGTERM", "Interrupted": "KeyboardInterrupt"}[word])
    assert 1 <= report["regions_done"] < 4
    for place in (store, tmp_path / "other"):
        assert eocube(*words, "serial", place).exit_code == 0
    assert same_store(store, tmp_path / "other")


def slow_executor() -> Any:
    """Serial, with a pause after each task, so that a signal comes between two."""
    from eocube.exec.executors import SerialExecutor

    class Slow(SerialExecutor):
        def run(self, *args: Any, **kwargs: Any) -> Any:
            for done in super().run(*args, **kwargs):
                yield done
                time.sleep(0.5)

    return Slow()


def test_sigterm_is_left_alone_where_somebody_else_sees_to_it_and_after_a_command() -> None:
    seen: list[int] = []
    mine = signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
    try:
        with common._sigterm_interrupts():
            os.kill(os.getpid(), signal.SIGTERM)
        assert seen == [signal.SIGTERM]
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with pytest.raises(TerminatedError), common._sigterm_interrupts():
            signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, mine)


def test_a_store_is_not_put_among_the_original_files(eocube: Invoke, tmp_path: Path) -> None:
    root = write_rapidai4eo(tmp_path / "a, b", sites=1, dates=1, products=("s2_sr",))
    before = tree(root)
    for more in ([], ["--plan"]):
        done = eocube("convert", "rapidai4eo", root, f"{root}/../{root.name}", *more)
        assert (done.exit_code, done.stdout) == (2, "")
        assert "STORE is SOURCE" in done.stderr
    assert tree(root) == before
    assert eocube("convert", "rapidai4eo", root, tmp_path / "store", "--cluster", "serial").exit_code == 0, (
        "with a comma in its name"
    )
