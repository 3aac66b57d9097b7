"""Codecs on real Sentinel-2 pixels: how fast chunks are encoded and decoded, and how many bytes they become.

Prints one JSON line a row. Ours is the store's codec through the writer's own functions; the peers are other settings of the
same libraries, on the same chunks, one thread each, in interleaved repeats. The last row counts how many different outputs
Blosc with several threads gives for one array: it must be one, or equal pixels do not give equal stores.
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numcodecs import blosc, zstd

import eocube
from eocube.io.shards import decode_chunk, encode_chunk
from eocube.model.frame import Variable

DATES_A_CHUNK = 4
REPEATS = 7
THREADED_ENCODES = 40
LEVEL_3 = "blosc zstd 3 bitshuffle, automatic blocks"
VARIABLE = Variable(name="data", dtype="uint16", banded=True, nodata=0)

Chunk = npt.NDArray[Any]
Row = dict[str, Any]


class Codec(NamedTuple):
    """One way to turn a chunk into bytes and back."""

    encode: Callable[[Chunk], bytes]
    decode: Callable[[bytes], Any]


def blosc_codec(name: bytes, level: int, shuffle: int, *, one_block: bool) -> Codec:
    """Blosc with ``one_block`` a chunk, or with blocks of the size it chooses itself."""
    return Codec(lambda c: blosc.compress(c, name, level, shuffle, c.nbytes if one_block else 0), blosc.decompress)


def codecs(shape: tuple[int, ...]) -> dict[str, Codec]:
    """Every codec compared, ours first, for chunks of ``shape``."""
    return {
        "ours": Codec(lambda c: encode_chunk(c, shape, VARIABLE) or b"", lambda b: decode_chunk(b, shape, VARIABLE.dtype)),
        LEVEL_3: blosc_codec(b"zstd", 3, blosc.BITSHUFFLE, one_block=False),
        "blosc zstd 1 bitshuffle, automatic blocks": blosc_codec(b"zstd", 1, blosc.BITSHUFFLE, one_block=False),
        "blosc zstd 1 shuffle, one block": blosc_codec(b"zstd", 1, blosc.SHUFFLE, one_block=True),
        "blosc lz4 5 bitshuffle, automatic blocks": blosc_codec(b"lz4", 5, blosc.BITSHUFFLE, one_block=False),
        "zstd without shuffle": Codec(lambda c: zstd.compress(c, 0), zstd.decompress),
    }


def sample_chunks() -> list[Chunk]:
    """The 10 m bands of the sample that ships, a few dates a chunk, (time, band, y, x) uint16."""
    with tempfile.TemporaryDirectory() as folder:
        corpus = eocube.open_corpus("stac", eocube.sample_corpus("sentinel2", folder))
        data = corpus.cube(corpus.corpus.sites[0].name, "10m")["data"].to_numpy()
    return [np.ascontiguousarray(data[i : i + DATES_A_CHUNK]) for i in range(0, len(data), DATES_A_CHUNK)]


def each(work: Callable[[Any], object], values: Sequence[Any]) -> None:
    """``work`` on one value after the other."""
    for value in values:
        work(value)


def seconds(work: Callable[[], object]) -> float:
    """CPU time of one call: everything here runs in one thread, and a busy machine then disturbs less."""
    start = time.process_time()
    work()
    return time.process_time() - start


def median_speeds(works: dict[str, Callable[[], object]], n_bytes: int) -> dict[str, float]:
    """Median MB/s of each of ``works``, run in turns."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(REPEATS):
        for name, work in works.items():
            taken[name].append(seconds(work))
    return {name: round(n_bytes / 1e6 / statistics.median(t), 1) for name, t in taken.items()}


def row(bench: str, speeds: dict[str, float], goal: str, *, met: bool, **more: Any) -> Row:
    """One line of results. There is no floor: no bytes can be stored without a codec of some kind."""
    ours, peers = speeds["ours"], {k: v for k, v in speeds.items() if k != "ours"}
    peak_mb = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3, 1)
    to_peer = {k: round(ours / v, 3) for k, v in peers.items()}
    head = {"bench": bench, "unit": "MB/s", "ours": ours, "floor": None, "peers": peers, "to_floor": None}
    compared = {"to_best_peer": min(to_peer.values()), "to_peer": to_peer}
    return {**head, **compared, "goal": goal, "met": met, "peak_mb": peak_mb, **more}


def speed_rows(chunks: list[Chunk]) -> Iterator[Row]:
    """Encoding and decoding, after a check that every codec gives the pixels back; bytes as shares of the raw size."""
    raw, chosen = sum(c.nbytes for c in chunks), codecs(chunks[0].shape)
    bodies = {name: [codec.encode(c) for c in chunks] for name, codec in chosen.items()}
    for name, codec in chosen.items():
        for chunk, body in zip(chunks, bodies[name], strict=True):
            if not np.array_equal(np.frombuffer(codec.decode(body), "uint16").reshape(chunk.shape), chunk):
                sys.exit(f"{name} gives other pixels back than it was given")
    shares = {name: round(sum(map(len, b)) / raw, 4) for name, b in bodies.items()}
    encoding = median_speeds({n: partial(each, c.encode, chunks) for n, c in chosen.items()}, raw)
    decoding = median_speeds({n: partial(each, c.decode, bodies[n]) for n, c in chosen.items()}, raw)
    faster, smaller = encoding["ours"] / encoding[LEVEL_3], shares["ours"] <= shares[LEVEL_3]
    goal = f'to_peer["{LEVEL_3}"] >= 1.5 and its bytes not exceeded'
    yield row("codec.encode", encoding, goal, met=faster >= 1.5 and smaller, share_of_raw_bytes=shares)
    goal = f'to_peer["{LEVEL_3}"] >= 0.9'
    yield row("codec.decode", decoding, goal, met=decoding["ours"] / decoding[LEVEL_3] >= 0.9)


def repeat_row(chunks: list[Chunk]) -> Row:
    """Different outputs of one array: ours, and Blosc with four threads and automatic blocks."""
    array = np.concatenate(chunks[:8])
    ours = {encode_chunk(array, array.shape, VARIABLE) for _ in range(THREADED_ENCODES)}
    blosc.use_threads = True
    blosc.set_nthreads(4)
    threaded = {blosc.compress(array, b"zstd", 1, blosc.BITSHUFFLE, 0) for _ in range(THREADED_ENCODES)}
    blosc.use_threads = False
    return {
        "bench": "codec.repeat",
        "unit": f"different outputs in {THREADED_ENCODES}",
        "ours": len(ours),
        "floor": 1,
        "peers": {"blosc zstd 1 bitshuffle, automatic blocks, 4 threads": len(threaded)},
        "goal": "ours == 1",
        "met": len(ours) == 1,
    }


def main() -> None:
    """Print the rows."""
    blosc.use_threads = False
    chunks = sample_chunks()
    for line in speed_rows(chunks):
        print(json.dumps(line))
    print(json.dumps(repeat_row(chunks)))


if __name__ == "__main__":
    main()
