"""An error of eocube in a task on a worker arrives as itself, and is said once."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from distributed import Client

from eocube.errors import MAX_MESSAGE, AssetReadError, DamagedStoreError, EocubeError, StalePlanError, StoreWriteError, alone
from eocube.exec.executors import DaskExecutor, connect
from eocube.jobs.convert import convert
from eocube.jobs.open import load_stac, open_corpus
from eocube.testing.stac import make_grid, make_series, write_catalog

SERIES = make_series(2, grid=make_grid((16, 16)), zooms={"B04": 1, "SCL": 1})


@pytest.fixture(scope="module")
def cluster() -> Iterator[DaskExecutor]:
    executor = connect("processes:1")
    assert isinstance(executor, DaskExecutor)
    yield executor
    executor.close()


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    return write_catalog(SERIES, tmp_path / "files")


def lose_a_file(catalog: Path) -> str:
    lost = min(catalog.parent.rglob("*B04.tif"))
    lost.unlink()
    return str(lost)


def test_a_missing_file_is_an_asset_read_error(cluster: DaskExecutor, catalog: Path, tmp_path: Path) -> None:
    lost = lose_a_file(catalog)
    with pytest.raises(AssetReadError, match=r"could not be read from .*B04") as caught:
        convert(open_corpus("stac", catalog), str(tmp_path / "store"), executor=cluster)
    assert (caught.value.href, caught.value.asset, caught.value.item_id) == (lost, "B04", SERIES[0].item_id)


def test_a_missing_file_of_a_lazy_cube_is_an_asset_read_error(cluster: DaskExecutor, catalog: Path) -> None:
    lost = lose_a_file(catalog)
    cube = load_stac(catalog)
    client: Client = cluster.client
    with client.as_current(), pytest.raises(AssetReadError) as caught:
        cube["data"].data.compute(scheduler=client.get)
    assert caught.value.href == lost


def test_a_target_that_cannot_be_written_is_a_store_write_error(cluster: DaskExecutor, catalog: Path, tmp_path: Path) -> None:
    corpus = open_corpus("stac", catalog)
    in_the_way = tmp_path / "store" / "cubes" / corpus.corpus.sites[0].name / corpus.products[0] / "data" / "c"
    in_the_way.parent.mkdir(parents=True)
    in_the_way.write_text("a file where a folder should be")
    with pytest.raises(StoreWriteError, match="could not be written"):
        convert(corpus, str(tmp_path / "store"), executor=cluster)


class NotToBeUnpickledError(Exception):
    def __init__(self, a: int, b: int):
        super().__init__(a)

    def __reduce__(self) -> tuple[type, tuple[int]]:
        return type(self), (1,)


def stop(shared: object, kind: str) -> None:
    try:
        raise NotToBeUnpickledError(1, 2)  # noqa: TRY301 - it is handled here
    except NotToBeUnpickledError as e:
        if kind == "cause":
            error: EocubeError = AssetReadError("a.tif", "item", "B04", "gone")
            error.add_note("a note")
            raise error from e
        if kind == "damage":
            raise DamagedStoreError("a shard is not what its marker says") from e
        if kind == "context":
            raise StalePlanError("while another was handled")  # noqa: B904 - that is the point
        raise AssetReadError("a.tif", "item", "B04", "long " * 10_000) from e


@pytest.mark.parametrize("kind", ["cause", "damage", "context", "long"])
def test_what_it_was_raised_from_does_not_keep_it(cluster: DaskExecutor, kind: str) -> None:
    token = cluster.share(None)
    with pytest.raises(EocubeError) as caught:
        list(cluster.run(stop, [(token, kind)]))
    assert type(caught.value) is {"context": StalePlanError, "damage": DamagedStoreError}.get(kind, AssetReadError)
    if kind == "cause":
        assert caught.value.__notes__ == ["a note"]
    assert len(str(caught.value)) <= MAX_MESSAGE + 2


def test_alone_gives_the_same_error() -> None:
    error = StalePlanError("short")
    error.__cause__ = ValueError("x")
    assert alone(error) is error
    assert (str(error), error.__cause__, error.__context__) == ("short", None, None)


def test_the_command_line_says_it_in_one_line_and_in_one_object(catalog: Path, tmp_path: Path) -> None:
    lost = lose_a_file(catalog)
    command = [sys.executable, "-m", "eocube", "convert", "stac", str(catalog), str(tmp_path / "store")]
    ended = subprocess.run(
        [*command, "--cluster", "processes:1", "--json"], capture_output=True, text=True, timeout=100, check=False
    )
    assert ended.returncode == 1, ended.stderr
    (line,) = [x for x in ended.stderr.splitlines() if x and not x.startswith("convert:")]
    assert line.startswith("Error: Asset 'B04'")
    said = json.loads(ended.stdout)["error"]
    assert said["type"] == "AssetReadError"
    assert lost in said["message"]
