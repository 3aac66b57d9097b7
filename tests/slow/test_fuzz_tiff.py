"""Damaged TIFFs: thousands of files, each refused by name or read as if nothing had happened to it, in a process that may die."""

from __future__ import annotations

import hashlib
import itertools
import multiprocessing
import os
import random
import resource
import threading
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import imagecodecs
import numpy as np
import pytest
import rasterio

from eocube.errors import AssetReadError, GridError
from eocube.io.geotiff import GeoTiffReader
from eocube.io.rasters import RasterioReader, Reader
from eocube.io.tiff import TiffDamageError
from eocube.jobs.convert import convert
from eocube.jobs.open import open_corpus
from eocube.testing.stac import make_series, write_catalog
from eocube.testing.stores import counting_server, cubes_of, index_rows, same_store
from tests.slow.mutations import (
    BLOCK,
    CHECKED,
    EDGE,
    GRID,
    OTHER_GRID,
    TRANSFORM,
    Base,
    Mutation,
    Tag,
    flipped,
    make_bases,
    make_mutations,
    patched,
    texture,
)
from tests.slow.mutations import write as write_tiff
from tests.slow.telling import Tell

pytestmark = pytest.mark.slow

TIME_LIMIT_S = 10
MORE_BYTES = 1 << 30
"""Address space that a read may take beyond what the process has after its first reads."""

# ------------------------------------------------------------------------------------------------ a process that reads


WINDOWS = {"aligned": (GRID, "nearest"), "part": (GRID[100:230, 20:140], "nearest"), "warped": (OTHER_GRID, "bilinear")}


class Task(NamedTuple):
    """A file to read: a path or a URL."""

    base: int
    path: str
    windows: tuple[str, ...] = tuple(WINDOWS)


class Answer(NamedTuple):
    """What became of it."""

    outcome: str
    """equal, wrong, or refused by whom; anything else is no way to end."""

    text: str = ""


def serve(pipe: Any, bases: Sequence[Base]) -> None:
    """Read what is asked for until nothing is; every whole file is read first, then memory is bounded."""
    expected = [{name: read(base, str(base.path), name) for name in WINDOWS} for base in bases]
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MORE_BYTES, used + MORE_BYTES))
    pipe.send("ready")
    warnings.simplefilter("ignore")  # rasterio says where a file has no place on earth
    while (task := pipe.recv()) is not None:
        pipe.send({name: answer(bases[task.base], task.path, name, expected[task.base][name]) for name in task.windows})


def read(base: Base, path: str, name: str, reader: Reader | None = None) -> np.ndarray:
    """A window of the file under another name, by a reader that has seen nothing and waits for nobody between its tries."""
    box, resampling = WINDOWS[name]
    assets = [replace(a, href=path) for a in base.assets]
    return (reader or GeoTiffReader(RasterioReader(backoff_s=0))).read(assets, box, item_id="item-1", resampling=resampling)


def answer(base: Base, path: str, name: str, expected: np.ndarray) -> Answer:
    """Pixels compared with those of the whole file, or who refused it."""
    try:
        found = read(base, path, name)
    except AssetReadError as e:
        sensible = path in str(e) and "item-1" in str(e) and len(e.reason) > 10
        return Answer(refused_by(e) if sensible else "refused without a reason", str(e))
    except BaseException as e:  # noqa: BLE001 - whatever it is must be seen
        return Answer(f"raised {type(e).__name__}", f"{e}")
    if _equal(found, expected):
        return Answer("equal")
    if path.startswith("http"):
        return Answer("wrong")
    return Answer(
        "wrong" if _equal(found, read(base, path, name, RasterioReader(backoff_s=0))) else "wrong, and not what GDAL reads"
    )


def _equal(one: np.ndarray, other: np.ndarray) -> bool:
    return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=True)


def refused_by(error: BaseException) -> str:
    """Who found the damage: our look at the structure or at a block, a comparison with the item, or GDAL."""
    chain = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    ours = next((e for e in chain if isinstance(e, TiffDamageError)), None)
    if ours is None:
        return "refused: metadata" if isinstance(chain[-1], (AssetReadError, GridError)) else "refused: GDAL"
    if "its metadata says" in str(ours):
        return "refused: metadata"
    return f"refused: {'block' if ' does not decode' in str(ours) or ' is not framed' in str(ours) else 'structure'}"


class Child:
    """The process, started anew when it died."""

    def __init__(self, bases: Sequence[Base]):
        self._bases = bases
        self._context = multiprocessing.get_context("spawn")
        self._start()

    def _start(self) -> None:
        self._pipe, other = self._context.Pipe()
        self._process = self._context.Process(target=serve, args=(other, self._bases), daemon=True)
        self._process.start()
        other.close()
        assert self._pipe.poll(120)
        assert self._pipe.recv() == "ready"

    def ask(self, task: Task) -> dict[str, Answer]:
        """Its answers; a death or too long a silence is an answer too."""
        self._pipe.send(task)
        try:
            if self._pipe.poll(TIME_LIMIT_S):
                found: dict[str, Answer] = self._pipe.recv()
                return found
            said = "hung"
        except EOFError:
            said = "died"
        self.close()
        code = self._process.exitcode
        self._start()
        return {"aligned": Answer(said, f"exit code {code}")}

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.join()


# ------------------------------------------------------------------------------------------------ what nobody could know

UNCHECKED = "pixels of a coding without checksum"
PREDICTOR = "predictor that no overview repeats"
SWAPPED = "entries of an index swapped: no frame says whose block it is, and their order stays or is free"
REPEATED = "an empty entry that repeats another: as where equal blocks are kept once"
MOVED = "a place less than a thousandth of a pixel away"


def limit_of(mutation: Mutation, window: str, path: Path) -> str | None:
    """Why no reader could know that a file was changed; None where one could."""
    base, body = mutation.base, mutation.body
    n = min(len(body), len(base.body))
    changed = np.flatnonzero(np.frombuffer(body, "u1", n) != np.frombuffer(base.body, "u1", n)).tolist()
    page = base.pages[0]
    index = np.array([any(_within(at, page.tags.get(code)) for code in (324, 325, 273, 279)) for at in changed])
    unchecked = base.coding not in CHECKED and len(body) >= len(base.body) and base.pixel_bytes[changed].all()
    if unchecked and not base.repeated_bytes[changed].any():
        return UNCHECKED
    if not base.has_overviews and all(_within(at, page.tags.get(317)) for at in changed):
        return PREDICTOR
    if index.all() and mutation.what.endswith("swapped") and (not base.framed or 0 in page.counts):
        return SWAPPED
    if index.all() and not base.framed and 0 in page.counts and f" {page.counts.index(0)} of" in mutation.what:
        return REPEATED
    if window == "warped" and all(any(_within(at, page.tags.get(c)) for c in (33550, 33922)) for at in changed):
        return MOVED if _moved_px(path) < 1e-3 else None
    return None


def _within(at: int, tag: Tag | None) -> bool:
    """Whether a byte belongs to the values of a tag."""
    return tag is not None and tag.value_at <= at < tag.value_at + tag.n_bytes


def _moved_px(path: Path) -> float:
    """How far the corners of a file are from where they should be."""
    with rasterio.open(path) as file:
        corners = [~TRANSFORM @ (file.transform @ (x, y)) for x in (0, file.width) for y in (0, file.height)]
    return max(abs(v - round(v / EDGE) * EDGE) for corner in corners for v in corner)


MOST: dict[str, dict[str, int]] = {
    "bands": {SWAPPED: 12, PREDICTOR: 6, MOVED: 1},
    "cog one block": {PREDICTOR: 3, MOVED: 1},
    "cog sparse": {SWAPPED: 6, MOVED: 1},
    "cog zstd": {UNCHECKED: 53, MOVED: 1},
    "strips": {SWAPPED: 13, PREDICTOR: 6, MOVED: 1},
    "strips big-endian": {SWAPPED: 12, PREDICTOR: 3, MOVED: 2},
    "tiles": {SWAPPED: 12, PREDICTOR: 6, MOVED: 1},
    "tiles bigtiff": {SWAPPED: 12, PREDICTOR: 3},
    "tiles float32": {SWAPPED: 12, PREDICTOR: 6},
    "tiles float32 plain": {SWAPPED: 12, PREDICTOR: 9, MOVED: 1},
    "tiles int16": {SWAPPED: 12, PREDICTOR: 6, MOVED: 1},
    "tiles lzw": {UNCHECKED: 146, SWAPPED: 12, PREDICTOR: 6, MOVED: 2},
    "tiles lzw sparse": {UNCHECKED: 108, SWAPPED: 12, PREDICTOR: 6, REPEATED: 3},
    "tiles scl": {SWAPPED: 12, PREDICTOR: 6},
    "tiles sparse": {SWAPPED: 12, PREDICTOR: 3, REPEATED: 6},
    "tiles tifffile": {SWAPPED: 12, PREDICTOR: 3, MOVED: 1},
    "tiles uncompressed": {UNCHECKED: 109, SWAPPED: 24},
    "tiles zstd": {UNCHECKED: 67, SWAPPED: 12, PREDICTOR: 3, MOVED: 1},
}
"""Reads of each base file that are excused, as measured: a check that is lost shows in more of them.

Seeds are fixed, so that other figures come of other versions of GDAL's coders or of other mutations: look at what is new among
them, then measure anew. A COG with overviews and a checksum repeats everything but a place moved by less than we compare.
"""


def most(measured: int) -> int:
    """A little more than was measured; nothing where there was nothing."""
    return measured + (measured > 0) + measured // 20


def excused(outcomes: Counter[tuple[str, str, str]]) -> Counter[tuple[str, str]]:
    """(base file, reason) → reads whose wrong pixels nobody could know."""
    found: Counter[tuple[str, str]] = Counter()
    for (name, _, outcome), value in outcomes.items():
        if outcome.startswith("not to be known: "):
            found[name, outcome.removeprefix("not to be known: ")] += value
    return found


# ------------------------------------------------------------------------------------------------ one file after the other


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> list[Base]:
    return make_bases(tmp_path_factory.mktemp("bases"))


@pytest.fixture(scope="module")
def child(bases: list[Base]) -> Iterator[Child]:
    running = Child(bases)
    yield running
    running.close()


def test_every_base_file_is_read_whole(bases: list[Base]) -> None:
    for base in bases:
        plain = RasterioReader().read(base.assets, GRID, item_id="i", resampling="nearest")
        assert np.array_equal(read(base, str(base.path), "aligned"), plain), base.name


def test_a_mutated_file_is_refused_or_read_as_if_nothing_had_happened(
    bases: list[Base], child: Child, tmp_path: Path, tell: Tell
) -> None:
    outcomes: Counter[tuple[str, str, str]] = Counter()
    bad: list[str] = []
    slowest = (0.0, "")
    for n, mutation in enumerate(make_mutations(bases)):
        path = tmp_path / f"{n}.tif"
        path.write_bytes(mutation.body)
        began = time.monotonic()
        answers = child.ask(Task(bases.index(mutation.base), str(path)))
        slowest = max(slowest, (time.monotonic() - began, f"{mutation.base.name}: {mutation.what}"))
        for window, found in answers.items():
            limit = limit_of(mutation, window, path) if found.outcome == "wrong" else None
            outcome = found.outcome if limit is None else f"not to be known: {limit}"
            outcomes[mutation.base.name, mutation.kind, outcome] += 1
            if not outcome.startswith(("equal", "refused: ", "not to be known: ")):
                bad.append(f"{mutation.base.name} / {mutation.kind} / {mutation.what} / {window}: {outcome} {found.text[:300]}")
        path.unlink()
    tell(f"{n + 1} mutated files, {sum(outcomes.values())} reads; the slowest file took {slowest[0]:.1f} s ({slowest[1]})")
    _tell_outcomes(outcomes, tell)
    assert n >= 1000
    assert not bad, "\n".join(bad[:40])
    assert {key: value for key, value in excused(outcomes).items() if value > most(MOST.get(key[0], {}).get(key[1], 0))} == {}


REMOTE_MANY = ("bits of pixels", "cuts", "replacements")
REMOTE_MOST = {
    "bits anywhere": 15,
    "bits of first codes": 4,
    "bits of last codes": 1,
    "bits of pixels": 55,
    "index entries": 16,
    "last bytes": 5,
    "predictors": 31,
    "shifts": 5,
    "splices": 1,
    "tag heads": 1,
    "zeros": 21,
}
"""Wrong images by kind of mutation, as measured, of a sample of files behind HTTP, which GDAL alone looks at; other kinds: none.

So a file that was cut off, or for which something else stands, is told behind HTTP too; bytes changed in their places may not be.
"""


def remote_sample(bases: Sequence[Base]) -> list[Mutation]:
    """A few of each kind and base file; more of what disks and transfers do."""
    by_kind: dict[tuple[str, str], list[Mutation]] = {}
    for mutation in make_mutations(bases):
        by_kind.setdefault((mutation.base.name, mutation.kind), []).append(mutation)
    drawn = {key: min(len(found), 8 if key[1] in REMOTE_MANY else 2) for key, found in by_kind.items()}
    return [m for key, found in by_kind.items() for m in random.Random(" ".join(key)).sample(found, drawn[key])]  # noqa: S311


def test_a_mutated_file_behind_http_ends_no_process_and_passes_only_where_gdal_reads_on(
    bases: list[Base], child: Child, tmp_path: Path, tell: Tell
) -> None:
    """The server is no part of the process that reads: GDAL holds Python's lock while it waits for some answers."""
    outcomes: Counter[tuple[str, str, str]] = Counter()
    bad, slowest = [], (0.0, "")
    with counting_server(tmp_path) as server:
        for n, mutation in enumerate(remote_sample(bases)):
            path = tmp_path / f"{n}.tif"
            path.write_bytes(mutation.body)
            began = time.monotonic()
            found = child.ask(Task(bases.index(mutation.base), f"{server.url}/{path.name}", ("aligned",)))["aligned"]
            slowest = max(slowest, (time.monotonic() - began, f"{mutation.base.name}: {mutation.what}"))
            outcomes[mutation.base.name, mutation.kind, found.outcome] += 1
            if not found.outcome.startswith(("equal", "refused: ", "wrong")):
                bad.append(f"{mutation.base.name} / {mutation.kind} / {mutation.what}: {found.outcome} {found.text[:300]}")
            path.unlink()
        requests = len(server.requests)
    tell(f"{n + 1} mutated files over HTTP, {requests} requests; the slowest took {slowest[0]:.1f} s ({slowest[1]})")
    _tell_outcomes(outcomes, tell)
    assert not bad, "\n".join(bad[:40])
    wrong: Counter[str] = Counter()
    for (_, kind, outcome), value in outcomes.items():
        wrong[kind] += value if outcome == "wrong" else 0
    assert {kind: value for kind, value in wrong.items() if value > most(REMOTE_MOST.get(kind, 0))} == {}


def _tell_outcomes(outcomes: Counter[tuple[str, str, str]], tell: Tell) -> None:
    """The counts by outcome, and by outcome for each base file and each kind of mutation."""
    for outcome in sorted({key[2] for key in outcomes}):
        tell(f"  {sum(v for key, v in outcomes.items() if key[2] == outcome):6d} {outcome}")
    for (name, limit), value in sorted(excused(outcomes).items()):
        tell(f"  {name:20} {value:4d} not to be known: {limit}")
    for of in (0, 1):
        for name in sorted({key[of] for key in outcomes}):
            found: Counter[str] = Counter()
            for key, value in outcomes.items():
                found[key[2].partition(":")[0] if key[2].startswith("not") else key[2]] += value if key[of] == name else 0
            tell(f"  {name:20} " + ", ".join(f"{value} {key}" for key, value in sorted(found.items()) if value))


# ------------------------------------------------------------------------------------------------ the decoders alone


def coded_inputs(coding: str, rng: random.Random) -> Iterator[bytes]:
    """Noise, noise behind a right start, and coded bytes that were cut, flipped or overwritten."""
    sizes = [(high, n) for high in (2, 9, 256) for n in (1, 50, 500, 4096, 40_000)]
    encode = getattr(imagecodecs, f"{coding}_encode")
    whole = [bytes(encode(bytes(rng.choices(range(high), k=n)), level=level)) for high, n in sizes for level in (1, 6, 9)]
    while True:
        body = rng.choice(whole)
        at = rng.randrange(len(body))
        yield rng.randbytes(rng.randrange(200))
        yield body[:6] + rng.randbytes(rng.randrange(200))
        yield body[:at]
        yield flipped(body, min(at, rng.randrange(8)), rng.randrange(8))
        yield flipped(flipped(body, at, rng.randrange(8)), rng.randrange(len(body)), rng.randrange(8))
        yield patched(body, at, rng.randbytes(rng.randrange(1, 40)))


def decode_all(coding: str, n: int, pipe: Any) -> None:
    """Decode arbitrary bytes into arrays that are too short, too long and of the right length; a digest of what came out."""
    decode, rng, digest = getattr(imagecodecs, f"{coding}_decode"), random.Random(coding), hashlib.sha256()  # noqa: S311
    counts: Counter[str] = Counter()
    for body in itertools.islice(coded_inputs(coding, rng), n):
        size = rng.choice((1, 50, 500, 4096, 40_000, 65_536))
        try:
            found = decode(body, out=size if rng.random() < 0.5 else np.zeros(size, "u1"))
        except (RuntimeError, ValueError):
            counts["refused"] += 1
            continue
        counts["decoded"] += 1
        digest.update(bytes(found))
    pipe.send((digest.hexdigest(), dict(counts)))


@pytest.mark.parametrize("coding", ["deflate", "zstd"])
def test_decoders_bear_arbitrary_bytes_and_give_nothing_of_other_memory(
    coding: str, tell: Tell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice, in processes whose fresh memory is filled with different bytes: the results are the same."""
    said = []
    for fill in ("85", "170"):
        monkeypatch.setenv("MALLOC_PERTURB_", fill)
        ours, other = multiprocessing.get_context("spawn").Pipe()
        process = multiprocessing.get_context("spawn").Process(target=decode_all, args=(coding, 30_000, other))
        process.start()
        process.join(240)
        assert process.exitcode == 0
        said.append(ours.recv())
    assert said[0] == said[1]
    assert min(said[0][1].values()) > 100
    tell(f"{coding}: {said[0][1]}")


# ------------------------------------------------------------------------------------------------ through convert


def whole_catalog(folder: Path) -> tuple[Path, Base]:
    """A small catalogue, and one of its files made a COG with overviews."""
    scenes = make_series(3, grid=GRID, zooms={"B04": 1, "SCL": 1}, block=BLOCK)
    catalog = write_catalog(scenes, folder)
    (path,) = folder.rglob(f"{scenes[1].file_name('B04')}")
    write_tiff(path.with_suffix(".new"), scenes[1].file_pixels("B04"), driver="COG", compress="deflate", predictor=2, nodata=0)
    path.with_suffix(".new").replace(path)
    return catalog, Base(name="of a catalogue", path=path, coding="deflate", assets=())


def test_convert_lists_a_mutated_file_or_is_not_touched_by_it_and_retry_heals(tmp_path: Path, tell: Tell) -> None:
    catalog, base = whole_catalog(tmp_path / "catalog")
    corpus = open_corpus("stac", catalog)
    convert(corpus, str(tmp_path / "whole"), layout="map", executor="serial")
    by_kind: dict[str, list[Mutation]] = {}
    for mutation in make_mutations([base, *make_bases(tmp_path)[:3]]):
        if mutation.base is base:
            by_kind.setdefault(mutation.kind, []).append(mutation)
    drawn = [m for kind, found in by_kind.items() for m in random.Random(kind).sample(found, min(2, len(found)))]  # noqa: S311
    counts: Counter[str] = Counter()
    for n, mutation in enumerate(drawn):
        store = tmp_path / f"store{n}"
        base.path.write_bytes(mutation.body)
        try:
            report = convert(corpus, str(store), layout="map", executor="serial", errors="skip")
            unfinished = sum(row["unfinished_regions"] for row in index_rows(store))
        finally:
            base.path.write_bytes(base.body)
        assert report.ok == (not report.failed) == (unfinished == 0), mutation.what
        assert report.ok == (cubes_of(store) == cubes_of(tmp_path / "whole")), mutation.what
        assert {(f["asset"], f["href"]) for f in report.failed} <= {("B04", str(base.path))}, mutation.what
        healed = convert(corpus, str(store), layout="map", executor="serial", retry=True)
        assert (healed.ok, healed.regions_done) == (True, unfinished), mutation.what
        assert same_store(store, tmp_path / "whole"), mutation.what
        counts["equal" if report.ok else "listed, then healed"] += 1
    assert len(drawn) >= 30
    assert counts["listed, then healed"] >= 15
    tell(f"{len(drawn)} mutated files through convert: {dict(counts)}")


# ------------------------------------------------------------------------------------------------ replaced while it is read


@pytest.mark.parametrize("window", ["aligned", "warped"])
def test_a_file_that_is_replaced_while_it_is_read_is_never_half_of_each(
    bases: list[Base], tmp_path: Path, window: str, tell: Tell
) -> None:
    """A read gives one of the two files, or refuses; the next read gives the one that is there then."""
    path, old = tmp_path / "a.tif", bases[0]
    for name, pixels in (("old", texture()), ("new", texture()[::-1])):
        write_tiff(tmp_path / name, pixels, driver="COG", compress="deflate", predictor=2, nodata=0)
    whole = [read(old, str(tmp_path / name), window) for name in ("old", "new")]
    assert not np.array_equal(whole[0], whole[1])
    (tmp_path / "old").rename(path)
    stop, counts, reader = threading.Event(), Counter[str](), GeoTiffReader()
    swapping = threading.Thread(target=_swap, args=(path, tmp_path / "new", stop))
    swapping.start()
    try:
        for _ in range(300):
            try:
                found = read(old, str(path), window, reader)
            except AssetReadError as e:
                assert "changed while it was read" in str(e)  # noqa: PT017
                counts["refused"] += 1
                continue
            counts["old" if np.array_equal(found, whole[0]) else "new" if np.array_equal(found, whole[1]) else "mixed"] += 1
    finally:
        stop.set()
        swapping.join()
    tell(f"replaced while it was read, {window}: {dict(counts)}")
    assert counts["mixed"] == 0
    assert min(counts["old"], counts["new"]) > 0


def _swap(path: Path, other: Path, stop: threading.Event) -> None:
    """Put the other file in a file's place in one step, again and again; what was there is the next other."""
    kept = path.with_suffix(".kept")
    while not stop.is_set():
        os.link(path, kept)
        other.replace(path)
        kept.rename(other)
        time.sleep(0.002)
