"""eocube as a program of its own: quick to start, exit codes, a live bar on a terminal, clean stdout in a pipe."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import eocube
from eocube.cli import app, common, progress
from eocube.cli.common import bbox_of, names, options_of, verb
from eocube.errors import CubeError
from tests.cli.conftest import Catalog, Invoke

HEAVY = ("torch", "distributed", "dask", "rasterio", "zarr", "xarray", "pandas", "pyarrow", "numba", "numpy", "odc")


def run(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "eocube", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def command_named(name: str) -> Any:
    group: Any = typer.main.get_command(app)
    return group.commands[name]


def test_help_answers_without_loading_anything_heavy() -> None:
    code = f"""
import sys
from eocube.cli import main
sys.argv = ["eocube", "convert", "--help"]
try:
    main()
except SystemExit as end:
    assert end.code == 0
print([n for n in {HEAVY!r} if n in sys.modules], file=sys.stderr)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "--errors" in done.stdout


@pytest.mark.parametrize("name", ["demo", "sample", "corpora", "convert", "info", "audit", "index", "compose"])
def test_every_verb_has_help_with_a_sentence_on_each_option(eocube: Invoke, name: str) -> None:
    shown = eocube(name, "--help")
    assert shown.exit_code == 0
    command = command_named(name)
    assert command.help
    assert all(p.help for p in command.params), [p.name for p in command.params if not p.help]


@pytest.mark.parametrize("name", ["convert", "compose"])
def test_every_long_verb_has_the_common_flags(name: str) -> None:
    command = command_named(name)
    flags = {o for p in command.params for o in p.opts}
    assert flags >= {"--plan", "--limit", "--errors", "--retry", "--rebuild", "--cluster", "--json", "--storage-option"}


def test_exit_codes_and_streams_of_the_program(catalog: Catalog, tmp_path: Path) -> None:
    store = tmp_path / "store"
    assert run("--version").stdout.strip() == f"eocube {eocube.__version__}"
    assert run().returncode == 2
    assert run("nope").returncode == 2
    done = run("convert", "stac", catalog.path, store, "--json", "--layout", "map")
    assert (done.returncode, json.loads(done.stdout)["regions_done"]) == (0, 4)
    failed = run("info", tmp_path / "elsewhere")
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr.startswith("Error: No eocube store")
    assert "Traceback" not in failed.stderr
    next(store.glob("cubes/*/*/data/c/*/0/0/0")).unlink()
    assert run("audit", store).returncode == 3


def test_the_console_script_is_the_same_program() -> None:
    script = Path(sys.executable).with_name("eocube")
    if not script.exists():
        pytest.skip("eocube is not installed beside this interpreter.")
    done = subprocess.run([script, "corpora", "--json"], capture_output=True, text=True, check=True)
    assert "stac" in json.loads(done.stdout)["corpora"]


def test_on_a_terminal_a_live_bar_goes_to_stderr_and_the_result_to_stdout(catalog: Catalog, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    words = ["convert", "stac", catalog.path, tmp_path / "store", "--layout", "map", "--json"]
    command = [sys.executable, "-m", "eocube", *map(str, words)]
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, text=True, env=env) as process:
        os.close(theirs)
        shown = read_all(ours)
        assert process.stdout is not None
        out = process.stdout.read()
    assert process.returncode == 0
    assert json.loads(out)["regions_done"] == 4
    assert "━" in shown
    assert "4/4" in shown
    assert "\x1b" in shown


def read_all(descriptor: int) -> str:
    parts = []
    while True:
        try:
            part = os.read(descriptor, 65_536)
        except OSError:  # Linux: the other end is closed
            part = b""
        if not part:
            os.close(descriptor)
            return b"".join(parts).decode(errors="replace")
        parts.append(part)


def test_processes_give_the_same_store_as_threads(catalog: Catalog, tmp_path: Path) -> None:
    from eocube.testing.stores import same_store

    for name, spec in (("a", "threads:2"), ("b", "processes:1")):
        done = run("convert", "stac", catalog.path, tmp_path / name, "--layout", "map", "--cluster", spec)
        assert done.returncode == 0, done.stderr
    assert same_store(tmp_path / "a", tmp_path / "b")


# ------------------------------------------------------------------------------------------------ pieces


def small_app(error: BaseException) -> typer.Typer:
    small = typer.Typer()

    @small.command()
    @verb
    def fails(*, as_json: common.AsJson = False) -> None:
        raise error

    return small


def test_an_interrupt_says_how_to_go_on_and_leaves_with_the_shells_code() -> None:
    result = CliRunner().invoke(small_app(KeyboardInterrupt()))
    assert result.exit_code == 130
    assert "same command" in result.stderr


def test_an_error_of_ours_is_a_message_and_any_other_one_is_not_hidden() -> None:
    ours = CliRunner().invoke(small_app(CubeError("asked, found, where, what to do")), ["--json"])
    assert ours.exit_code == 1
    assert json.loads(ours.stdout) == {"ok": False, "error": {"type": "CubeError", "message": "asked, found, where, what to do"}}
    noted = CubeError("what")
    noted.add_note("(where)")
    assert CliRunner().invoke(small_app(noted)).stderr == "Error: what (where)\n"
    system = CliRunner().invoke(small_app(PermissionError(13, "Permission denied", "/there")))
    assert (system.exit_code, "/there" in system.stderr) == (1, True)
    other = CliRunner().invoke(small_app(ZeroDivisionError("a defect")))
    assert isinstance(other.exception, ZeroDivisionError)


def test_storage_options_stay_text_unless_they_are_json() -> None:
    pairs = ["region=eu-1", "anon=true", "key=0123", 'client_options={"allow_http": true}', "endpoint=http://a?b=c", "odd={"]
    assert options_of(pairs) == {
        "region": "eu-1",
        "anon": True,
        "key": "0123",
        "client_options": {"allow_http": True},
        "endpoint": "http://a?b=c",
        "odd": "{",
    }


def test_names_come_by_commas_or_repeated() -> None:
    assert names(["a,b", " c "]) == ["a", "b", "c"]
    assert names([]) is None
    assert names(None) is None


def test_a_box_in_degrees_is_checked() -> None:
    assert bbox_of("-1,2,3.5,4") == (-1.0, 2.0, 3.5, 4.0)
    for wrong in ("1,2,3", "a,b,c,d", "3,1,2,4", "1,4,2,3", "0,0,200,1"):
        with pytest.raises(typer.BadParameter):
            bbox_of(wrong)


def test_plain_lines_come_now_and_then_and_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    seldom = progress.LineMeter("work", every_s=1e9)
    seldom.expect(3)
    seldom.advance("a")
    assert capsys.readouterr().err == ""
    seldom.close()
    assert capsys.readouterr().err.startswith("work: 1 of 3, ")
    always = progress.LineMeter("work", every_s=0)
    always.expect(2)
    always.advance("5 MB/s")
    line = capsys.readouterr().err
    assert "1 of 2" in line
    assert "s left, 5 MB/s" in line
    progress.LineMeter("idle").close()
    assert capsys.readouterr().err == ""


def test_stages_follow_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.stages() as shown:
        shown("convert", 1, 2)
        shown("convert", 2, 2)
        shown("train", 200, 200, "loss 0.1")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == ["convert: 2 of 2", "train: 200 of 200"]
