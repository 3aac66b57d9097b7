"""What every Executor, Reader and step must do: subclass, give the fixtures, and pytest runs the rest.

``ModelContract`` is in :mod:`eocube.testing.contracts_model`.
"""

# ruff: noqa: D102 - the name of a test is its claim
from __future__ import annotations

import os
import pickle
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pytest
from affine import Affine
from odc.geo.geobox import GeoBox

from eocube.errors import AssetReadError
from eocube.exec.executors import Executor, Resource
from eocube.io.rasters import Reader
from eocube.model.scene import Asset
from eocube.testing.stac import SyntheticScene, make_grid, write_files

# ------------------------------------------------------------------------------------------------ executors


class Luggage:
    """A shared value that knows how often it was unpacked in its process."""

    unpacked: ClassVar[dict[str, int]] = {}
    """Name of a value → how often this process unpacked it."""

    def __init__(self, value: int):
        self.value, self.name = value, uuid.uuid4().hex

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.unpacked[self.name] = self.unpacked.get(self.name, 0) + 1


def add(shared: Luggage, task: int) -> int:
    """A task: shared value plus its number."""
    return shared.value + task


def add_slowly(shared: Luggage, task: int) -> int:
    """As :func:`add`, after a few milliseconds."""
    time.sleep(0.004)
    return shared.value + task


def where_unpacked(shared: Luggage, task: int) -> tuple[int, int, int]:
    """(task, process, how often the shared value was unpacked there so far)."""
    time.sleep(0.002)
    return task, os.getpid(), shared.unpacked.get(shared.name, 0)


def fail_at_seven(shared: Luggage, task: int) -> int:  # noqa: ARG001 - every task gets what is shared
    """Raises one of our errors for task 7."""
    if task == 7:
        raise AssetReadError("s3://bucket/a.tif", "item-7", "red", "planted")
    return task


class ExecutorContract(ABC):
    """The promises of ``eocube.exec.executors.Executor`` as tests. ``executor`` is a fixture of the subclass."""

    most_in_flight: int
    """How many tasks may be drawn and not yet handed back."""

    resource: Resource = "CPU"

    @pytest.fixture
    @abstractmethod
    def executor(self) -> Iterator[Executor]:
        """The executor under test."""

    def _run(self, executor: Executor, func: Any, tasks: Any, shared: Any) -> Iterator[Any]:
        token = executor.share(shared, resource=self.resource)
        return executor.run(func, ((token, t) for t in tasks), resource=self.resource)

    def test_each_task_runs_once_with_what_is_shared(self, executor: Executor) -> None:
        assert sorted(self._run(executor, add, range(50), Luggage(1000))) == list(range(1000, 1050))

    def test_no_task_gives_no_result(self, executor: Executor) -> None:
        assert list(self._run(executor, add, [], Luggage(0))) == []

    def test_tasks_of_several_shared_values_run_in_one_stream(self, executor: Executor) -> None:
        def tasks() -> Iterator[tuple[Any, int]]:
            for value in (100, 200, 300):
                token = executor.share(Luggage(value), resource=self.resource)
                for task in range(5):
                    yield token, task

        assert sorted(executor.run(add, tasks(), resource=self.resource)) == [v + t for v in (100, 200, 300) for t in range(5)]

    def test_tasks_are_drawn_as_they_are_needed(self, executor: Executor) -> None:
        drawn = done = most = 0

        def tasks() -> Iterator[int]:
            nonlocal drawn
            for task in range(80):
                drawn += 1
                yield task

        for _ in self._run(executor, add_slowly, tasks(), Luggage(0)):
            done += 1
            most = max(most, drawn - done)
        assert done == drawn == 80
        assert most <= self.most_in_flight

    def test_nothing_runs_before_the_first_result_is_asked_for(self, executor: Executor) -> None:
        drawn: list[int] = []

        def tasks() -> Iterator[int]:
            for task in range(3):
                drawn.append(task)
                yield task

        results = self._run(executor, add, tasks(), Luggage(0))
        assert drawn == []
        assert sorted(results) == [0, 1, 2]

    def test_the_error_of_a_task_is_raised_with_its_values_and_ends_the_stream(self, executor: Executor) -> None:
        drawn = 0

        def tasks() -> Iterator[int]:
            nonlocal drawn
            for task in range(10_000):
                drawn += 1
                yield task

        with pytest.raises(AssetReadError, match="planted") as caught:
            list(self._run(executor, fail_at_seven, tasks(), Luggage(0)))
        assert (caught.value.item_id, caught.value.asset, caught.value.href) == ("item-7", "red", "s3://bucket/a.tif")
        assert drawn < 1_000

    def test_it_can_be_used_again_after_an_error_and_after_a_stream_was_left(self, executor: Executor) -> None:
        with pytest.raises(AssetReadError):
            list(self._run(executor, fail_at_seven, range(20), Luggage(0)))
        left = self._run(executor, add, range(100), Luggage(0))
        next(left)
        getattr(left, "close", list)()
        assert sorted(self._run(executor, add, range(3), Luggage(5))) == [5, 6, 7]

    def test_what_is_shared_is_unpacked_at_most_once_in_each_worker(self, executor: Executor) -> None:
        seen = {(pid, count) for _, pid, count in self._run(executor, where_unpacked, range(60), Luggage(1))}
        assert len(seen) == len({pid for pid, _ in seen})
        assert all(count <= 1 for _, count in seen)


# ------------------------------------------------------------------------------------------------ readers


class ReaderContract(ABC):
    """The promises of ``eocube.io.rasters.Reader`` as tests, on files that :mod:`eocube.testing.stac` writes."""

    resamples: tuple[str, ...] = ("nearest", "bilinear", "cubic", "average")
    """How files off the asked grid are resampled; in other ways they are refused."""

    scene = SyntheticScene(
        item_id="SYN_CONTRACT",
        when="2021-06-01T10:00:00",
        number=3,
        grid=make_grid((40, 56)),
        zooms={"B02": 1, "B04": 1, "B08": 1, "SCL": 2},
        footprint=((4, 40), (0, 48)),
        one_file=True,
        nodata=7,
    )

    @abstractmethod
    def make_reader(self) -> Reader:
        """A new reader."""

    @pytest.fixture
    def reader(self) -> Reader:
        return self.make_reader()

    @pytest.fixture(scope="class")
    @classmethod
    def folder(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """The folder with the scene's files."""
        top = tmp_path_factory.mktemp("scene")
        write_files(cls.scene, top)
        return top

    def asset(self, folder: Path, eo_name: str, **changes: Any) -> Asset:
        """One band as its metadata would describe it."""
        key, bidx = self.scene.asset_of(eo_name)
        dtype = "uint8" if eo_name == "SCL" else "uint16"
        href = str(folder / self.scene.file_name(key))
        stated = Asset(href=href, key=key, bidx=bidx, geobox=self.scene.grid_of(eo_name), dtype=dtype, nodata=7)
        return replace(stated, **changes)

    def read(self, reader: Reader, assets: list[Asset], box: GeoBox, resampling: str = "nearest") -> npt.NDArray[Any]:
        """Read for the scene's item."""
        return reader.read(assets, box, item_id=self.scene.item_id, resampling=resampling)

    def test_the_whole_grid_is_the_file(self, reader: Reader, folder: Path) -> None:
        got = self.read(reader, [self.asset(folder, "B04")], self.scene.grid)
        np.testing.assert_array_equal(got, self.scene.file_pixels("B04")[None], strict=True)

    def test_bands_come_in_the_order_asked_for(self, reader: Reader, folder: Path) -> None:
        got = self.read(reader, [self.asset(folder, b) for b in ("B08", "B02")], self.scene.grid)
        np.testing.assert_array_equal(got, np.stack([self.scene.file_pixels(b) for b in ("B08", "B02")]), strict=True)

    @pytest.mark.parametrize("window", [np.s_[0:7, 0:5], np.s_[11:40, 30:56], np.s_[39:40, 55:56]], ids=str)
    def test_a_part_is_that_part_of_the_whole(self, reader: Reader, folder: Path, window: Any) -> None:
        got = self.read(reader, [self.asset(folder, "B04")], self.scene.grid[window])
        np.testing.assert_array_equal(got[0], self.scene.file_pixels("B04")[window])

    def test_nodata_lies_around_the_file(self, reader: Reader, folder: Path) -> None:
        around = self.scene.grid.pad(3, 2)
        got = self.read(reader, [self.asset(folder, "B04")], around)[0]
        expected = np.full(tuple(map(int, around.shape)), 7, "u2")
        expected[2:-2, 3:-3] = self.scene.file_pixels("B04")
        np.testing.assert_array_equal(got, expected)

    def test_a_grid_beside_the_file_is_all_nodata(self, reader: Reader, folder: Path) -> None:
        beside = self.scene.grid.translate_pix(1000, 0)
        assert (self.read(reader, [self.asset(folder, "B04")], beside) == 7).all()

    def test_the_header_says_grid_dtypes_nodata_and_block(self, reader: Reader, folder: Path) -> None:
        info = reader.describe(self.asset(folder, "B04").href)
        assert info.geobox == self.scene.grid
        assert info.dtypes == ("uint16",) * 3
        assert info.nodata == 7
        assert info.block_yx == (self.scene.block, self.scene.block)

    def test_a_missing_file_is_named(self, reader: Reader, folder: Path) -> None:
        gone = self.asset(folder, "B04", href=str(folder / "gone.tif"))
        with pytest.raises(AssetReadError, match=r"gone\.tif") as caught:
            self.read(reader, [gone], self.scene.grid)
        assert (caught.value.item_id, caught.value.asset, caught.value.href) == (self.scene.item_id, gone.key, gone.href)
        with pytest.raises(AssetReadError, match=r"gone\.tif"):
            reader.describe(gone.href)

    def test_threads_read_at_once(self, reader: Reader, folder: Path) -> None:
        asset = self.asset(folder, "B04")
        with ThreadPoolExecutor(4) as pool:
            parts = list(pool.map(lambda y: self.read(reader, [asset], self.scene.grid[y : y + 4, :])[0], range(0, 40, 4)))
        np.testing.assert_array_equal(np.concatenate(parts), self.scene.file_pixels("B04"))

    def test_a_pickled_reader_reads_the_same(self, reader: Reader, folder: Path) -> None:
        again = pickle.loads(pickle.dumps(reader))  # noqa: S301 - our own bytes
        np.testing.assert_array_equal(
            self.read(again, [self.asset(folder, "SCL")], self.scene.grid_of("SCL"))[0], self.scene.file_pixels("SCL")
        )

    @pytest.mark.parametrize("resampling", ["nearest", "bilinear", "cubic", "average"])
    @pytest.mark.parametrize("resolution", [7.0, 10.0, 33.0], ids="{}m".format)
    def test_a_part_of_a_resampled_grid_is_that_part_of_the_whole(
        self, reader: Reader, folder: Path, resampling: str, resolution: float
    ) -> None:
        a, (ny, nx) = self.scene.grid.affine, map(int, self.scene.grid.shape)
        shape = int(ny * 10 / resolution), int(nx * 10 / resolution)
        box = GeoBox(shape, Affine(resolution, 0, a.c + 3.3, 0, -resolution, a.f - 4.4), self.scene.grid.crs)
        asset = self.asset(folder, "B04")
        if resampling not in self.resamples:
            with pytest.raises(AssetReadError):
                self.read(reader, [asset], box, resampling)
            return
        whole = self.read(reader, [asset], box, resampling)[0]
        (y, x) = (n // 3 for n in shape)
        for window in (np.s_[:y, :x], np.s_[y : 2 * y + 1, x:], np.s_[y : y + 1, x : x + 1], np.s_[2 * y :, : 2 * x]):
            np.testing.assert_array_equal(self.read(reader, [asset], box[window], resampling)[0], whole[window])


# ------------------------------------------------------------------------------------------------ steps
