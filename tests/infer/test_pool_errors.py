"""A pool task in which something goes wrong: memory that runs out, errors in any stage, tiles that do not fit."""

from __future__ import annotations

import contextlib
import gc
import signal
import threading
import time
import weakref

import numpy as np
import pytest

from eocube.errors import ModelError
from eocube.infer.pool import TileInput
from eocube.infer.report import BatchHalved
from eocube.testing.models import NearestModel, SmallMemoryModel
from tests.infer.pool_fakes import MODEL, TILE_BYTES, Shard, Writer, assert_written, read, run

pytestmark = pytest.mark.timeout(30)


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


# --- out of memory ----------------------------------------------------------------------------------------------------


def test_out_of_memory_halves_the_batch_and_goes_on():
    shards = [Shard(0, 7), Shard(1, 9), Shard(2, 8)]
    model, writer, events = SmallMemoryModel(MODEL, max_batch=3), Writer(), []
    report = run(shards, model=model, write=writer, batch_size=10, on_event=events.append)
    assert_written(writer, shards)
    assert model.batch_sizes[:3] == [10, 5, 2]
    assert set(model.batch_sizes[3:]) == {2}, "one shape from then on, and never the large one again"
    assert len(model.batch_sizes) == 2 + 5 + 5 + 2, "only parts with tiles in them"
    assert [event.batch_size for event in events if isinstance(event, BatchHalved)] == [5, 2]
    assert (report.batch_size, report.n_batches, report.n_tiles) == (2, 3, 24)


def test_a_last_part_that_does_not_divide_the_batch_slides_back():
    """7 → 3: rows 0-2, 3-5 and 4-6, all of one shape."""
    shards, writer, model = [Shard(0, 7), Shard(1, 7)], Writer(), SmallMemoryModel(MODEL, max_batch=3)
    run(shards, model=model, write=writer, batch_size=7)
    assert model.batch_sizes == [7, 3, 3, 3, 3, 3, 3]
    assert_written(writer, shards)


def test_memory_that_runs_out_in_the_middle_of_a_batch_keeps_what_was_done():
    class Tightening(NearestModel):
        calls = 0

        def __call__(self, lr, *, valid, days):
            self.calls += 1
            if lr.shape[0] > 4 or (self.calls == 3 and lr.shape[0] > 2):
                raise MemoryError("less and less")
            return super().__call__(lr, valid=valid, days=days)

    shards, writer = [Shard(0, 8), Shard(1, 8)], Writer()
    run(shards, model=Tightening(2, revisits=2), write=writer, batch_size=8)
    assert_written(writer, shards)


def test_torchs_own_out_of_memory_is_known_without_importing_torch():
    torch = pytest.importorskip("torch")

    class OnADevice(NearestModel):
        def __call__(self, lr, *, valid, days):
            if lr.shape[0] > 1:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().__call__(lr, valid=valid, days=days)

    writer = Writer()
    report = run([Shard(0, 4)], model=OnADevice(2, revisits=2), write=writer)
    assert report.batch_size == 1
    assert_written(writer, [Shard(0, 4)])


def test_a_single_tile_that_does_not_fit_is_an_error():
    with pytest.raises(MemoryError, match="1 samples are more than 0") as caught:
        run([Shard(0, 4)], model=SmallMemoryModel(MODEL, max_batch=0), write=Writer())
    assert "'shard-0'" in caught.value.__notes__[0]


def test_other_errors_do_not_halve():
    calls = []

    class Wrong(NearestModel):
        def __call__(self, lr, *, valid, days):
            calls.append(lr.shape[0])
            raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="multiplied"):
        run([Shard(0, 4)], model=Wrong(2, revisits=2), write=Writer())
    assert calls == [4]


# --- errors -----------------------------------------------------------------------------------------------------------


class PlantedError(Exception):
    pass


def failing(stage, error):
    """``run``'s arguments with an error planted at shard 5 in one stage."""

    def fail_if(here, number):
        if here == stage and number == 5:
            raise error

    def bad_items():
        for number in range(1000):
            fail_if("items", number)
            yield Shard(number, 4)

    def bad_read(shard):
        fail_if("read at once", shard.number)
        for index, tile in enumerate(read(shard)):
            fail_if("read between tiles", shard.number if index == 2 else None)
            yield tile

    class BadModel(NearestModel):
        def __call__(self, lr, *, valid, days):
            fail_if("model", lr.max() // 1000)
            return super().__call__(lr, valid=valid, days=days)

    def bad_write(shard, outputs):
        fail_if("write", shard.number)

    def bad_listener(event):
        fail_if("listener", 5 if getattr(event, "name", "") == "shard-5" else None)

    return {
        "shards": bad_items(),
        "read": bad_read,
        "model": BadModel(2, revisits=2),
        "write": bad_write,
        "on_event": bad_listener,
    }


@pytest.mark.parametrize(
    "error", [PlantedError("planted"), KeyboardInterrupt(), SystemExit(3)], ids=["error", "interrupt", "exit"]
)
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("room", [4, 12, 10**6], ids=["one shard", "three shards", "all"])
@pytest.mark.parametrize("stage", ["items", "read at once", "read between tiles", "model", "write", "listener"])
def test_an_error_in_any_stage_stops_all_and_comes_out_as_it_is(stage, room, threads, error):
    error.__dict__.pop("__notes__", None)
    with pytest.raises(type(error)) as caught:
        run(**failing(stage, error), n_readers=threads, n_writers=threads, max_bytes_in_flight=room * TILE_BYTES)
    assert caught.value is error
    if stage not in {"items", "listener"}:
        assert any("'shard-5'" in note for note in caught.value.__notes__)


def test_an_error_says_what_was_being_done():
    for stage, doing in (("read at once", "reading"), ("model", "running the model over tiles of"), ("write", "writing")):
        with pytest.raises(PlantedError) as caught:
            run(**failing(stage, PlantedError()))
        assert caught.value.__notes__ == [f"While {doing} 'shard-5'."]


def test_an_error_stops_the_others_promptly():
    """What is under way ends; nothing further is begun, though a thousand items wait."""
    begun: list[str] = []

    def slow_read(shard):
        begun.append(shard.name)
        time.sleep(0.01)
        if shard.number == 3:
            raise PlantedError
        return read(shard)

    start = time.perf_counter()
    with pytest.raises(PlantedError):
        run([Shard(n, 4) for n in range(1000)], read=slow_read, write=Writer(0.01), n_readers=2)
    assert time.perf_counter() - start < 2
    assert len(begun) <= 6


@pytest.mark.parametrize("blocked", ["reader", "writer", "model"])
def test_an_error_wakes_stages_that_wait_for_each_other(blocked):
    """Every stage but one is blocked (no room, nothing to do) when the error comes."""
    go = threading.Event()

    def wait_then(fail):
        go.wait(10)
        if fail:
            raise PlantedError

    class Model(NearestModel):
        def __call__(self, lr, *, valid, days):
            wait_then(blocked == "model")
            return super().__call__(lr, valid=valid, days=days)

    def waiting_read(shard):
        if blocked == "reader":
            wait_then(fail=True)
        return read(shard)

    def waiting_write(shard, outputs):
        wait_then(blocked == "writer")

    threading.Timer(0.1, go.set).start()
    with pytest.raises(PlantedError):
        run(
            [Shard(n, 4) for n in range(100)],
            read=waiting_read,
            model=Model(2, revisits=2),
            write=waiting_write,
            max_bytes_in_flight=30 * TILE_BYTES,
        )


def test_the_first_of_two_errors_comes_out():
    def bad_read(shard):
        raise PlantedError(shard.name)

    with pytest.raises(PlantedError, match=r"shard-0|shard-1"):
        run([Shard(n, 4) for n in range(100)], read=bad_read, write=Writer(), n_readers=2)


@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="only the main thread gets signals")
def test_an_interrupt_while_the_caller_waits_stops_the_run():
    main = threading.get_ident()

    def interrupting_write(shard, outputs):
        if shard.number == 5:
            signal.pthread_kill(main, signal.SIGINT)
            time.sleep(0.05)
        written.append(shard.name)

    written: list[str] = []
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background starts with it ignored
    try:
        with pytest.raises(KeyboardInterrupt):
            run([Shard(n, 4) for n in range(60)], write=interrupting_write)
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(written) < 60


def test_a_failed_run_leaves_no_cycle_that_keeps_its_batches_alive():
    gc.collect()
    gc.disable()
    try:
        model = NearestModel(2, revisits=2)
        ref = weakref.ref(model)
        with contextlib.suppress(PlantedError):
            run([Shard(0, 4)], model=model, write=_raise_planted)
        del model
        assert ref() is None
    finally:
        gc.enable()


def _raise_planted(shard, outputs):
    raise PlantedError


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda t: t._replace(lr=t.lr[:, :, :2]),
            r"'shard-0' has lr, valid, days of shapes \(\(2, 2, 2, 4\).*\(2, 2, 3, 4\)",
        ),
        (lambda t: t._replace(lr=t.lr[:, :1]), r"\(\(2, 1, 3, 4\)"),
        (lambda t: t._replace(valid=t.valid[:1]), r"\(1, 3, 4\)"),
        (lambda t: t._replace(days=t.days[:1]), r"\(1,\)\)"),
        (lambda t: t._replace(lr=t.lr[0], valid=t.valid[0]), "tiles_for"),
        (lambda t: TileInput(t.key, *(np.concatenate([v, v]) for v in t[1:])), r"\(\(4, 2, 3, 4\)"),
        (lambda t: t._replace(lr=t.lr.repeat(2, axis=2), valid=t.valid.repeat(2, axis=1)), r"\(\(2, 2, 6, 4\)"),
    ],
    ids=["cut", "a band too few", "a mask too few", "a day too few", "no revisit axis", "too many revisits", "too many rows"],
)
def test_a_tile_of_another_shape_is_refused_by_name(spoil, message):
    with pytest.raises(ModelError, match=message):
        run([Shard(0, 2)], read=lambda shard: [spoil(tile) for tile in read(shard)], write=Writer())


def test_more_tiles_than_planned_are_refused():
    with pytest.raises(ModelError, match="at most 2 tiles"):
        run([Shard(0, 3, planned=2)], write=Writer())


def test_a_model_that_gives_another_shape_than_promised_is_refused():
    class Wrong(NearestModel):
        def __call__(self, lr, *, valid, days):
            return super().__call__(lr, valid=valid, days=days)[:, :1]

    with pytest.raises(ModelError, match=r"promised \(4, 2, 6, 8\).*gave \(4, 1, 6, 8\)"):
        run([Shard(0, 3)], model=Wrong(2, revisits=2), write=Writer())


@pytest.mark.parametrize("threads", [{"n_readers": 0}, {"n_writers": 0}])
def test_a_run_without_readers_or_writers_is_refused_instead_of_hanging(threads):
    with pytest.raises(ValueError, match="at least 1"):
        run([Shard(0, 1)], write=Writer(), **threads)
