"""Decision 0005: one Blosc block a chunk and one thread give one output, no bigger than a slower setting does."""

from __future__ import annotations

import numpy as np
import pytest
from numcodecs import blosc

from benchmarks import codec


@pytest.fixture(scope="module")
def chunks() -> list[np.ndarray]:
    return codec.sample_chunks()


def test_blosc_with_several_threads_gives_several_outputs_for_one_array_and_the_writer_gives_one(chunks) -> None:
    row = codec.repeat_row(chunks)
    (threaded,) = row["peers"].values()
    assert threaded > 1
    assert row["ours"] == 1


def test_the_codec_makes_no_more_bytes_than_level_3_with_automatic_blocks(chunks) -> None:
    chosen = codec.codecs(chunks[0].shape)
    blosc.use_threads = False
    ours, level_3 = (sum(len(chosen[name].encode(c)) for c in chunks) for name in ("ours", codec.LEVEL_3))
    assert ours <= level_3
