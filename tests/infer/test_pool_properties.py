"""Whatever the items, sizes, bounds and timing: each item once, with its tiles in order, in the batches that the items imply."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eocube.testing.models import NearestModel
from tests.infer.pool_fakes import MODEL, TILE_BYTES, Ledger, Shard, Writer, assert_written, read, run

pytestmark = pytest.mark.timeout(120)


def batches_twin(counts, planned, batch_size, room):
    """The plain twin of the filling: which tiles share a batch, worked out without threads. ``room`` and sizes in tiles."""
    batches, batch = [], []
    for item, count in enumerate(counts):
        owners = {owner for owner, _ in batch}
        if batch and sum(planned[owner] for owner in owners) + planned[item] > room:
            batches.append(batch)
            batch = []
        for tile in range(count):
            batch.append((item, tile))
            if len(batch) == batch_size:
                batches.append(batch)
                batch = []
    return [*batches, batch] if batch else batches


class JitteryRecorder(NearestModel):
    def __init__(self, nap):
        super().__init__(2, bands=MODEL.bands_in, revisits=2)
        self.nap, self.batches = nap, []

    def __call__(self, lr, *, valid, days):
        self.nap()
        used = valid[:, 0, 1, 0]  # False only in padding
        self.batches.append([(int(v // 1000), int(v % 1000 - 4) // 12) for v in lr[:, 0, 0, 1, 0][used]])
        return super().__call__(lr, valid=valid, days=days)


def naps(seed, most_s):
    """Sleep a random time: mostly none, seldom long, so that threads overtake each other in many ways."""
    rng = random.Random(seed)  # noqa: S311 - timing, not secrets

    def nap():
        if rng.random() < 0.5:
            time.sleep(rng.random() ** 3 * most_s)

    return nap


@settings(max_examples=120, deadline=None)
@given(
    items=st.lists(st.tuples(st.integers(0, 7), st.integers(0, 3)), max_size=12),
    batch_size=st.integers(1, 9),
    room=st.integers(0, 25),
    n_readers=st.integers(1, 3),
    n_writers=st.integers(1, 3),
    seed=st.integers(0, 2**32),
    most_s=st.sampled_from([0.0, 0.001, 0.004]),
)
def test_every_item_is_written_once_with_its_tiles_in_order_for_any_interleaving(
    items, batch_size, room, n_readers, n_writers, seed, most_s
):
    nap, ledger, writer = naps(seed, most_s), Ledger(), Writer()
    shards = [Shard(number, n_read, planned=n_read + spare) for number, (n_read, spare) in enumerate(items)]
    model = JitteryRecorder(nap)

    def jittery_read(shard):
        for tile in read(shard):
            nap()
            ledger.add(TILE_BYTES)
            yield tile

    def jittery_write(shard, outputs):
        nap()
        writer(shard, outputs)
        ledger.add(-TILE_BYTES * len(outputs))

    report = run(
        shards,
        read=jittery_read,
        model=model,
        write=jittery_write,
        batch_size=batch_size,
        max_bytes_in_flight=room * TILE_BYTES,
        n_readers=n_readers,
        n_writers=n_writers,
    )
    assert_written(writer, shards)
    assert model.batches == batches_twin([s.n_read for s in shards], [s.n_tiles for s in shards], batch_size, room)
    assert (report.n_items, report.n_tiles) == (len(shards), sum(s.n_read for s in shards))
    bound = max([room, *(s.n_tiles for s in shards)]) * TILE_BYTES
    assert ledger.peak <= report.peak_bytes_in_flight <= bound


@settings(max_examples=60, deadline=None)
@given(
    n_items=st.integers(1, 8),
    fail=st.sampled_from(["read", "model", "write"]),
    at=st.integers(0, 7),
    room=st.integers(0, 12),
    threads=st.integers(1, 3),
    seed=st.integers(0, 2**32),
)
def test_an_error_anywhere_ends_the_run_and_no_item_is_written_wrongly(n_items, fail, at, room, threads, seed):
    nap, writer = naps(seed, 0.001), Writer()
    shards = [Shard(number, 3) for number in range(n_items)]

    def maybe_fail(stage, number):
        nap()
        if stage == fail and number == at:
            raise LookupError(stage)

    class Model(NearestModel):
        def __call__(self, lr, *, valid, days):
            for value in lr[:, 0, 0, 1, 0]:
                maybe_fail("model", int(value // 1000) if value else -1)
            return super().__call__(lr, valid=valid, days=days)

    def failing_read(shard):
        maybe_fail("read", shard.number)
        return read(shard)

    def failing_write(shard, outputs):
        maybe_fail("write", shard.number)
        writer(shard, outputs)

    def attempt():
        return run(
            shards,
            read=failing_read,
            model=Model(2, bands=MODEL.bands_in, revisits=2),
            write=failing_write,
            batch_size=4,
            max_bytes_in_flight=room * TILE_BYTES,
            n_readers=threads,
            n_writers=threads,
        )

    if at < n_items:
        with pytest.raises(LookupError, match=fail):
            attempt()
    else:
        attempt()
    assert_written(writer, [shard for shard in shards if shard.name in writer.written])
    assert f"shard-{at}" not in writer.written
    assert at < n_items or len(writer.written) == n_items
