"""The overlapped pipeline of one pool task: overlap, bounds, routing, errors, memory."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from functools import partial

import pytest

from eocube.infer.channels import ByteGate, Channel, StoppedError, Switch
from eocube.infer.report import BatchDone, ItemRead, ItemWritten
from eocube.testing.models import NearestModel, SleepingModel
from tests.infer.pool_fakes import (
    MODEL,
    TILE_BYTES,
    Ledger,
    Shard,
    Writer,
    assert_written,
    expected_outputs,
    read,
    run,
    tile_of,
)

pytestmark = pytest.mark.timeout(30)


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def wait_until(ready):
    """Wait for another stage, but not for ever: it may have failed."""
    end = time.perf_counter() + 5
    while not ready() and time.perf_counter() < end:
        time.sleep(0.001)


# --- overlap and bound ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tiles_per_shard", "n_batches", "at_most"),
    [(4, 100, 1.25), (6, 60, 1.5)],
    ids=["a batch a shard", "batches across shards"],
)
def test_sleeping_reader_model_and_writer_overlap_within_the_bound(tiles_per_shard, n_batches, at_most):
    """100 batches of 50 ms in each of three stages: 15 s one after the other, 5 s overlapped. Filling and draining add to it."""
    seconds, n_tiles = 0.05, 4 * n_batches
    shards = [Shard(number, tiles_per_shard) for number in range(n_tiles // tiles_per_shard)]
    ledger, writer = Ledger(), Writer()
    bound = 5 * tiles_per_shard * TILE_BYTES

    def sleeping_read(shard):
        for index in range(shard.n_read):
            time.sleep(seconds / 4)
            ledger.add(TILE_BYTES)  # from now on its output may come, too
            yield tile_of(shard, index)

    def sleeping_write(shard, outputs):
        time.sleep(seconds * len(outputs) / 4)
        writer(shard, outputs)
        ledger.add(-TILE_BYTES * len(outputs))

    model = SleepingModel(MODEL, seconds=seconds)
    start = time.perf_counter()
    report = run(shards, read=sleeping_read, write=sleeping_write, model=model, max_bytes_in_flight=bound)
    assert time.perf_counter() - start <= at_most * n_batches * seconds
    assert (report.n_batches, report.n_tiles, report.n_padded, report.n_items) == (n_batches, n_tiles, 0, len(shards))
    assert model.batch_sizes == [4] * n_batches
    assert min(report.read_s, report.forward_s, report.write_s) >= n_batches * seconds
    assert ledger.peak <= bound
    assert ledger.held == 0
    assert report.peak_bytes_in_flight <= bound
    assert_written(writer, shards)


def test_without_overlap_the_same_work_would_take_the_sum():
    """The twin that shows the test above can fail: room for one shard only, so the stages take turns."""
    shards = [Shard(number, 4) for number in range(6)]

    def sleeping_read(shard):
        time.sleep(0.05)
        return read(shard)

    report = run(
        shards,
        read=sleeping_read,
        write=Writer(0.05),
        model=SleepingModel(MODEL, seconds=0.05),
        max_bytes_in_flight=4 * TILE_BYTES,
    )
    assert report.wall_s >= 6 * 3 * 0.05


@pytest.mark.parametrize("stage", ["read", "write"])
def test_more_threads_make_a_slow_stage_faster(stage):
    shards = [Shard(number, 1) for number in range(12)]

    def slow_read(shard):
        time.sleep(0.05)
        return read(shard)

    slow = {"read": slow_read, "write": Writer()} if stage == "read" else {"read": read, "write": Writer(0.05)}
    report = run(shards, batch_size=1, **slow, **{{"read": "n_readers", "write": "n_writers"}[stage]: 4})
    assert report.wall_s < 12 * 0.05 * 0.6


def test_a_slow_writer_holds_the_reader_back_by_the_bound():
    ledger, bound = Ledger(), 3 * TILE_BYTES

    def counted_read(shard):
        ledger.add(TILE_BYTES)
        return read(shard)

    def slow_write(shard, outputs):
        time.sleep(0.005)
        ledger.add(-TILE_BYTES)

    report = run([Shard(n, 1) for n in range(40)], read=counted_read, write=slow_write, batch_size=1, max_bytes_in_flight=bound)
    assert ledger.peak == bound == report.peak_bytes_in_flight


def test_an_item_larger_than_the_bound_runs_alone():
    working: list[str] = []
    beside: dict[str, set[str]] = {}

    def noting_read(shard):
        working.append(shard.name)
        for name in working:
            beside.setdefault(name, set()).update(working)
        time.sleep(0.005)
        return read(shard)

    def noting_write(shard, outputs):
        time.sleep(0.005)
        working.remove(shard.name)

    shards = [Shard(0, 1), Shard(1, 1), Shard(2, 9), Shard(3, 1), Shard(4, 1)]
    report = run(shards, read=noting_read, write=noting_write, n_readers=3, max_bytes_in_flight=4 * TILE_BYTES)
    assert beside["shard-2"] == {"shard-2"}
    assert beside["shard-0"] == {"shard-0", "shard-1"}
    assert report.peak_bytes_in_flight == 9 * TILE_BYTES


def test_items_are_counted_by_their_planned_tiles_though_fewer_are_read():
    shards = [Shard(number, 1, planned=10) for number in range(8)]
    report = run(shards, write=Writer(), max_bytes_in_flight=25 * TILE_BYTES)
    assert report.peak_bytes_in_flight == 20 * TILE_BYTES


def test_tiles_and_outputs_are_let_go_when_their_item_is_written():
    tiles: dict[str, list[weakref.ref]] = {}
    outputs_seen: list[weakref.ref] = []

    def watched_read(shard):
        for tile in read(shard):
            tiles.setdefault(shard.name, []).append(weakref.ref(tile.lr))
            yield tile

    def watched_write(shard, outputs):
        gc.collect()
        assert [ref() for ref in outputs_seen] == [None] * len(outputs_seen)
        assert [ref() for ref in tiles[shard.name]] == [None] * 6
        assert [out.base for _, out in outputs] == [None] * 6, "a view would keep its whole batch alive"
        outputs_seen.extend(weakref.ref(out) for _, out in outputs)

    def one_at_a_time():
        for number in range(6):
            wait_until(lambda: len(outputs_seen) == 6 * number)  # noqa: B023 - called at once
            yield Shard(number, 6)

    run(one_at_a_time(), read=watched_read, write=watched_write, batch_size=3)
    assert len(outputs_seen) == 36


def test_items_are_taken_as_room_comes_free_and_not_all_at_once():
    taken, written = [], []

    def endless():
        for number in range(200):
            taken.append(number)
            assert len(taken) - len(written) <= 4 + 1  # one more waits at the gate
            yield Shard(number, 1)

    run(endless(), write=lambda shard, outputs: written.append(shard), max_bytes_in_flight=4 * TILE_BYTES)
    assert len(written) == 200


# --- batches and routing ----------------------------------------------------------------------------------------------


class Recorder(NearestModel):
    """Remembers which (shard, tile) stood where in each batch; -1 is padding."""

    def __init__(self):
        super().__init__(2, bands=("red", "nir"), revisits=2)
        self.batches = []

    def __call__(self, lr, *, valid, days):
        first = (lr[:, 0, 0, 1, 0] - 4) * valid[:, 0, 1, 0]
        self.batches.append(
            [(int(v // 1000), int(v % 1000) // 12) if ok else -1 for v, ok in zip(first, valid[:, 0, 1, 0], strict=True)]
        )
        return super().__call__(lr, valid=valid, days=days)


def test_batches_are_filled_across_items_and_only_the_last_is_padded():
    model, writer = Recorder(), Writer()
    shards = [Shard(0, 3), Shard(1, 0), Shard(2, 6), Shard(3, 1)]
    report = run(shards, model=model, write=writer)
    assert model.batches == [[(0, 0), (0, 1), (0, 2), (2, 0)], [(2, 1), (2, 2), (2, 3), (2, 4)], [(2, 5), (3, 0), -1, -1]]
    assert (report.n_batches, report.n_tiles, report.n_padded, report.n_items) == (3, 10, 2, 4)
    assert_written(writer, shards)


def test_padding_is_empty_and_not_an_older_batch():
    model = Recorder()
    run([Shard(n, 4) for n in range(1, 6)] + [Shard(6, 1)], model=model, write=Writer())
    assert model.batches[-1] == [(6, 0), -1, -1, -1]


def test_a_batch_goes_out_early_only_if_the_next_item_does_not_fit_beside_it():
    """Without the early batch the first item would wait for a second that waits for the first to be written."""
    shards = [Shard(0, 3), Shard(1, 3), Shard(2, 1), Shard(3, 3)]
    model, writer = Recorder(), Writer()
    run(shards, model=model, write=writer, batch_size=8, max_bytes_in_flight=4 * TILE_BYTES)
    assert [[place for place in batch if place != -1] for batch in model.batches] == [
        [(0, 0), (0, 1), (0, 2)],
        [(1, 0), (1, 1), (1, 2), (2, 0)],
        [(3, 0), (3, 1), (3, 2)],
    ]
    assert_written(writer, shards)


def test_missing_revisits_are_masked():
    """One revisit where the model takes two: the row that only the second would show is 0, whatever was there before."""
    shards = [Shard(0, 4), Shard(1, 4), Shard(2, 4), Shard(3, 4, revisits=1)]
    writer = Writer()
    run(shards, write=writer)
    assert_written(writer, shards)
    last = writer.written["shard-3"][0][1]
    assert (last[:, :2] == 0).all()
    assert last[0, 2, 0] == 3004


def test_an_item_without_tiles_is_written_with_no_outputs():
    writer = Writer()
    report = run([Shard(number, 0) for number in range(300)], write=writer)
    assert writer.written == {f"shard-{number}": [] for number in range(300)}
    assert (report.n_batches, report.peak_bytes_in_flight) == (0, 0)


def test_no_items_is_no_work():
    report = run([], write=Writer())
    assert (report.n_items, report.n_batches) == (0, 0)


def test_an_item_is_written_before_later_items_are_read_if_it_is_done():
    """Done means written: an item does not wait for the end of the run."""
    written: list[str] = []

    def read_after(shard):
        if shard.number == 2:
            wait_until(lambda: "shard-0" in written)
        return read(shard)

    run([Shard(n, 4) for n in range(3)], read=read_after, write=lambda shard, outputs: written.append(shard.name))
    assert written == ["shard-0", "shard-1", "shard-2"]


def test_the_model_runs_in_one_thread_that_is_not_the_callers():
    model = SleepingModel(MODEL, seconds=0)
    run([Shard(n, 5) for n in range(5)], model=model, write=Writer())
    assert len(model.threads) == 1
    assert threading.current_thread().name not in model.threads


# --- report -----------------------------------------------------------------------------------------------------------


def test_events_tell_each_step_and_the_report_is_their_sum():
    events = []
    report = run([Shard(0, 3), Shard(1, 2)], write=Writer(), on_event=events.append)
    kinds: dict[type, list] = {
        kind: [event for event in events if isinstance(event, kind)] for kind in (ItemRead, BatchDone, ItemWritten)
    }
    assert [(e.name, e.n_tiles) for e in kinds[ItemRead]] == [("shard-0", 3), ("shard-1", 2)]
    assert [(e.n_tiles, e.n_padded) for e in kinds[BatchDone]] == [(4, 0), (1, 3)]
    assert [(e.name, e.n_tiles) for e in kinds[ItemWritten]] == [("shard-0", 3), ("shard-1", 2)]
    assert report.forward_s == pytest.approx(sum(e.seconds for e in kinds[BatchDone]))
    assert report.read_s == pytest.approx(sum(e.seconds for e in kinds[ItemRead]))
    assert report.write_s == pytest.approx(sum(e.seconds for e in kinds[ItemWritten]))
    assert report.wall_s > 0
    assert report.staging_bytes == 3 * 4 * TILE_BYTES


def test_the_listener_is_called_by_one_thread_at_a_time():
    inside, overlaps = [], []

    def listener(event):
        inside.append(event)
        time.sleep(0.0005)
        overlaps.append(len(inside) > 1)
        inside.remove(event)

    run([Shard(n, 3) for n in range(20)], write=Writer(), n_readers=3, n_writers=3, on_event=listener)
    assert len(overlaps) == 20 + 15 + 20
    assert not any(overlaps)


def test_the_twin_agrees_with_numbers_worked_by_hand():
    (key, out), *_ = expected_outputs(Shard(3, 1))
    assert key == ("tile", 0)
    assert out[0, ::2, ::2].tolist() == [[3000.25, 3001.25, 3002.25, 3003.25], [3004, 3005, 3006, 3007], [3008, 3009, 3010, 3011]]
    assert out[1, 2, 0] == 3004.5


# --- channels ---------------------------------------------------------------------------------------------------------


def test_a_channel_ends_when_it_is_closed_and_empty():
    channel: Channel[int] = Channel(Switch())
    channel.put(1)
    channel.put(2)
    channel.close()
    assert list(channel) == [1, 2]


def test_a_stopped_switch_stays_stopped_for_channels_made_later():
    switch = Switch()
    old: Channel[int] = Channel(switch)
    old.put(1)
    switch.stop()
    new: Channel[int] = Channel(switch)
    for act in (old.take, partial(old.put, 2), partial(new.put, 1), partial(ByteGate(switch, 1).admit, 1)):
        with pytest.raises(StoppedError):
            act()


def test_a_gate_lets_large_work_in_only_when_empty():
    gate = ByteGate(Switch(), 10)
    gate.admit(4)
    waiting = threading.Thread(target=gate.admit, args=(11,))
    waiting.start()
    waiting.join(0.05)
    assert waiting.is_alive()
    gate.release(4)
    waiting.join(5)
    assert gate.held_bytes == gate.peak_bytes == 11
