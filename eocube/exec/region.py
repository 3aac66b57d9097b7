"""One region's task: evaluate, encode, check that no newer plan was here, put the shards, put the marker."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from eocube.errors import AssetReadError, StalePlanError, StepContractError
from eocube.exec.evaluate import Evaluation, evaluate
from eocube.io.blobs import Blobs, open_blobs, uploading_bytes
from eocube.io.cubes import cube_path
from eocube.io.markers import Marker, MarkerName, ObjectDigest, delete_markers, get_marker, list_markers, put_marker
from eocube.io.shards import HELD_BYTES, ChunkIndex, Kept, Shelf, encode_chunk, shard_order
from eocube.kernels.masking import clear_percent, is_class
from eocube.model.frame import Variable
from eocube.model.hooks import kill_hook
from eocube.model.memory import frame_bytes, window_bytes
from eocube.model.recipe import Arrays, Binding, Frames, Node, same_times, trace
from eocube.model.spec import SUMMARY, CubeSpec, Piece, Place, Region, region_key
from eocube.model.window import Window

HEAP_BYTES = 16 * 1024 * 1024
"""Most that stays unused between blocks and chunks of many lengths."""

OTHER_BYTES = 7 * 512 * 1024
"""What does not grow with the pixels: open files, their structure, objects of the interpreter."""

Errors = Literal["raise", "skip"]


@dataclass(frozen=True, kw_only=True)
class CubeJob:
    """Everything that the tasks of one cube share. Sent to a worker once."""

    store_url: str
    storage_options: Mapping[str, Any]
    cube: str
    product: str
    node: Node
    binding: Binding
    spec: CubeSpec
    sid: str
    input_names: Mapping[str, str]
    """Source key → public input name."""

    errors: Errors
    max_bytes: int
    """Most bytes of arrays that a task evaluates at once; a bigger region is worked through in pieces."""

    frames: Frames = field(default_factory=dict, compare=False)
    """Frames of the nodes, filled as they are needed."""

    def leaves(self, window: Window) -> dict[str, list[Any]]:
        """Input name → sorted rows of what the pixels of ``window`` come from."""
        out: dict[str, list[Any]] = {}
        for key, inner in trace(self.node, window, self.binding, self.frames):
            out.setdefault(self.input_names[key], []).extend(self.binding.sources[key].ids(inner))
        return {k: sorted(map(list, {tuple(row) for row in rows})) for k, rows in out.items()}

    def region_key(self, region: Region, leaves: Mapping[str, list[Any]]) -> str:
        """Name of a region's content."""
        return region_key(self.sid, self.cube, self.product, self.spec, region, leaves)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "frames": {}}


@dataclass(frozen=True, kw_only=True)
class RegionTask:
    """One region to write."""

    region: Region
    key: str
    leaves: Mapping[str, list[Any]]
    replaces: tuple[MarkerName, ...] = ()
    """Markers of this region that the plan knows and that the new one replaces."""


@dataclass(frozen=True, kw_only=True)
class RegionDone:
    """What a task reports."""

    cube: str
    product: str
    region: Region
    marker: MarkerName
    bytes_evaluated: int
    """Raw bytes of the pixels that the task made."""

    bytes_written: int
    seconds: float
    valid: int
    clear: int
    pixels: int
    failed: list[dict[str, str]]
    place: Place | None
    """The site that the region belongs to; None where the whole cube is one."""


def run_regions(job: CubeJob, tasks: tuple[RegionTask, ...]) -> list[RegionDone]:
    """Write regions one after the other. Equal tasks give equal bytes whenever and wherever they run."""
    return [_run_region(job, task) for task in tasks]


def _run_region(job: CubeJob, task: RegionTask) -> RegionDone:
    with RegionWriter(job, task) as writer:
        run = Evaluation(job.binding, job.frames, writer.on_error if job.errors == "skip" else None)
        for piece in job.spec.pieces(task.region, piece_chunks(job, task.region)):
            writer.add(piece, _evaluate_arrays(job, piece.window, run))
        return writer.finish()


def _evaluate_arrays(job: CubeJob, window: Window, run: Evaluation) -> Arrays:
    if "source" in job.node:
        return job.binding.sources[job.node["source"]].read(window, on_error=run.on_error)
    cube = evaluate(job.node, window, run)
    return {v.name: cube[v.name].values for v in job.spec.frame.variables}


def piece_chunks(job: CubeJob, region: Region) -> tuple[int, int, int]:
    """Inner chunks along time, y, x that one piece of a region may have under ``job.max_bytes``: halved in time, then y, x.

    Dates first: pieces of other dates come from other files, while pieces side by side decode the blocks between them twice.
    Files are gone through chunk of dates by chunk of dates: what is read is encoded while it is still in the processor's cache.
    """
    n = list(job.spec.chunks_per_shard)
    if "source" in job.node:
        n[0] = 1
    while True:
        cut = (n[0], n[1], n[2])
        if n == [1, 1, 1] or all(max(piece_bytes(job, piece)) <= job.max_bytes for piece in _biggest(job, region, cut)):
            return cut
        axis = 0 if n[0] > 1 else max((1, 2), key=lambda i: n[i])
        n[axis] = math.ceil(n[axis] / 2)


def _biggest(job: CubeJob, region: Region, chunks_tyx: tuple[int, int, int]) -> Iterator[Piece]:
    """Pieces of a region among which the biggest is: one at the corner is whole, its neighbours may have more halo.

    Dates differ only where a step reads other dates than it writes: periods are of unequal length.
    """
    unequal = any(step.times is not same_times for step in job.binding.steps.values())
    for piece in job.spec.pieces(region, chunks_tyx):
        t, y, x = (at // n for at, n in zip(piece.chunk, chunks_tyx, strict=True))
        if y < 2 and x < 2:
            yield piece
        if t and not unequal:
            return


class PieceBytes(NamedTuple):
    """Most bytes of arrays that a task holds for one piece, by what goes on then."""

    reading: int
    working: int
    encoding: int


def piece_bytes(job: CubeJob, piece: Piece) -> PieceBytes:
    """What a task holds while a piece is read, while steps work on it, and while it is encoded."""
    found = window_bytes(job.node, piece.window, job.binding, job.frames)
    return PieceBytes(found.reading, found.working and found.working + found.room, _encoding_bytes(job.spec, piece))


def _encoding_bytes(spec: CubeSpec, piece: Piece) -> int:
    """A chunk is cut out, encoded into room for all of it, and copied to its size; or flags of one date are made and counted."""
    flags = 2 if spec.clear_rule["variable"] == "data" else 4
    chunk = max(math.prod(spec.chunk_shape(v)) * np.dtype(v.dtype).itemsize for v in spec.frame.variables)
    return frame_bytes(spec.frame, piece.window) + max(3 * chunk, flags * math.prod(piece.window.shape_yx))


def peak_bytes(job: CubeJob, region: Region) -> int:
    """Most bytes by which the task of one region makes its process grow.

    Its biggest piece, with what stays unused between what is used: a sixth among blocks and chunks of many lengths, a sixteenth
    among the arrays of steps. Encoded chunks, as many as are held; none are while the first piece is read. Or what
    is on its way to an object store in the end. And what does not grow with the pixels.
    """
    cut = piece_chunks(job, region)
    pieces = [piece_bytes(job, piece) for piece in _biggest(job, region, cut)]
    written = frame_bytes(job.spec.frame, job.spec.window(region))
    held = min(written, HELD_BYTES)
    waiting = held if len(list(islice(job.spec.pieces(region, cut), 2))) > 1 else 0
    reading = max(_with_gaps(p.reading) for p in pieces) + waiting
    working = max(p.working + p.working // 16 for p in pieces) + waiting
    encoding = max(_with_gaps(p.encoding) for p in pieces) + held
    uploading = min(written, uploading_bytes(job.store_url)) + held
    return max(reading, working, encoding, uploading) + OTHER_BYTES


def _with_gaps(n_bytes: int) -> int:
    return n_bytes + min(n_bytes // 6, HEAP_BYTES)


class RegionWriter:
    """Encoded chunks and counts of one region, piece by piece; at the end its shards and marker."""

    def __init__(self, job: CubeJob, task: RegionTask):
        self._job, self._spec, self._task = job, job.spec, task
        self._started = time.perf_counter()
        self._blobs = open_blobs(job.store_url, job.storage_options)
        self._shelf = Shelf(self._blobs)
        self._chunks: dict[str, dict[ChunkIndex, Kept]] = {v.name: {} for v in job.spec.frame.variables}
        self._summary = np.zeros(job.spec.summary_chunk, np.uint8)
        self._failed: list[dict[str, str]] = []
        self._pixels = self._valid = self._clear = self._bytes_evaluated = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._shelf.close()

    def on_error(self, error: AssetReadError) -> None:
        """Note an asset that could not be read: the region becomes partial."""
        row = {"item_id": error.item_id, "asset": error.asset, "href": error.href, "error": error.reason}
        if row not in self._failed:
            self._failed.append(row)

    def add(self, piece: Piece, arrays: Arrays) -> None:
        """Encode the chunks of one piece, count its valid and clear pixels."""
        for v in self._spec.frame.variables:
            self._check(v, piece, arrays[v.name])
            for at, values in self._cut(piece, v, arrays[v.name]):
                body = encode_chunk(values, self._spec.chunk_shape(v), v)
                if body is not None:
                    self._chunks[v.name][at] = self._shelf.keep(body)
        self._bytes_evaluated += sum(a.nbytes for a in arrays.values())
        self._count(piece, arrays)

    def _check(self, v: Variable, piece: Piece, values: npt.NDArray[Any]) -> None:
        """Refuse pixels of another dtype or shape than promised: encoding would cast or cut them without a word."""
        shape = (len(piece.window.times), *self._spec.frame.depth(v), *piece.window.shape_yx)
        if values.dtype != np.dtype(v.dtype) or values.shape != shape:
            raise StepContractError(
                f"Variable {v.name!r} of {self._job.cube}/{self._job.product} was to be {v.dtype} {shape} in {piece.window} and "
                f"came as {values.dtype} {values.shape}. A graph or step that says one dtype and computes another must be mended "
                "(astype, or the right output_dtypes=)."
            )

    def finish(self) -> RegionDone:
        """Put the shards, then the marker; StalePlanError where a newer plan was here meanwhile."""
        job, task, blobs = self._job, self._task, self._blobs
        _refuse_stale(blobs, job, task)
        kept = _finished_before(blobs, job, task) if self._failed else None
        if kept is not None:
            # Writing now would put holes over pixels that an earlier run could read; say only what failed.
            name = put_marker(blobs, job.cube, job.product, task.region, replace(kept, key=task.key, failed=self._failed))
            self._pixels, self._valid, self._clear = kept.pixels, kept.valid, kept.clear
            return self._done(name, bytes_written=0)
        shards = {key: _put(blobs, key, body) for key, body in self._shards()}
        self._shelf.close()  # here too: super-resolution has many writers at once and no block that ends with one
        kill_hook("after_shard")
        marker = Marker(
            key=task.key,
            shards=shards,
            pixels=self._pixels,
            valid=self._valid,
            clear=self._clear,
            sources=dict(task.leaves),
            failed=self._failed,
            place=self._spec.place_of(task.region),
        )
        name = put_marker(blobs, job.cube, job.product, task.region, marker)
        delete_markers(blobs, job.cube, job.product, [m for m in task.replaces if m != name])
        return self._done(name, bytes_written=sum(int(s[0]) for s in shards.values() if s is not None))

    def _done(self, name: MarkerName, *, bytes_written: int) -> RegionDone:
        return RegionDone(
            cube=self._job.cube,
            product=self._job.product,
            region=self._task.region,
            marker=name,
            bytes_evaluated=self._bytes_evaluated,
            bytes_written=bytes_written,
            seconds=time.perf_counter() - self._started,
            valid=self._valid,
            clear=self._clear,
            pixels=self._pixels,
            failed=self._failed,
            place=self._spec.place_of(self._task.region),
        )

    def _cut(self, piece: Piece, variable: Variable, values: npt.NDArray[Any]) -> Iterator[tuple[ChunkIndex, npt.NDArray[Any]]]:
        ct, cy, cx = self._spec.chunk_tyx
        nt, ny, nx = values.shape[0], *values.shape[-2:]
        for t, y, x in np.ndindex(math.ceil(nt / ct), math.ceil(ny / cy), math.ceil(nx / cx)):
            part = values[t * ct : (t + 1) * ct, ..., y * cy : (y + 1) * cy, x * cx : (x + 1) * cx]
            where = self._spec.deep(variable, (piece.chunk[0] + t, piece.chunk[1] + y, piece.chunk[2] + x))
            yield from zip(where, np.split(part, len(where), axis=1) if len(where) > 1 else [part], strict=True)

    def _count(self, piece: Piece, arrays: Arrays) -> None:
        """Valid and clear pixels, date by date and band by band: flags of a whole piece take as much as its pixels."""
        data, cell = self._spec.frame.data, self._spec.cell_px
        rule = self._spec.clear_rule
        t0, y0, x0 = (c * n for c, n in zip(piece.chunk, self._spec.chunk_tyx, strict=True))
        for i, pixels in enumerate(arrays["data"]):
            valid = data.valid(pixels[0])
            for band in pixels[1:]:
                valid &= data.valid(band)
            mask = None if rule["variable"] == "data" else arrays[rule["variable"]][i]
            clear = valid if mask is None else np.asarray(valid & is_class(mask, rule["clear_values"]))
            n_valid = int(np.count_nonzero(valid))
            self._pixels += valid.size
            self._valid += n_valid
            self._clear += n_valid if clear is valid else int(np.count_nonzero(clear))
            (share,) = clear_percent(clear[None], cell)
            self._summary[t0 + i, y0 // cell : y0 // cell + share.shape[0], x0 // cell : x0 // cell + share.shape[1]] = share

    def _shards(self) -> Iterator[tuple[str, _Object | None]]:
        """(key below the store, what comes there or None if empty) of every object of the region."""
        base = cube_path(self._job.cube, self._job.product)
        t, y, x = self._task.region
        for v in self._spec.frame.variables:
            yield f"{base}/{self._spec.shard_key(v, self._task.region)}", self._shard(v.name, self._spec.chunks_of(v))
        summary = encode_summary(self._summary)
        yield f"{base}/{SUMMARY}/c/{t}/{y}/{x}", None if summary is None else _Object(len(summary), iter([summary]))

    def _shard(self, name: str, grid: tuple[int, ...]) -> _Object | None:
        chunks = self._chunks[name]
        if not chunks:
            return None
        sizes = {at: kept.n_bytes for at, kept in chunks.items()}
        order, tail = shard_order(sizes, grid)
        # Popped: a chunk is let go of as soon as it is put.
        bodies = (self._shelf.body(chunks.pop(at)) for at in order)
        return _Object(sum(sizes.values()) + len(tail), itertools.chain(bodies, [tail]))


class _Object(NamedTuple):
    """What is to be put: its size, and its bytes piece by piece."""

    n_bytes: int
    parts: Iterator[bytes]


def _put(blobs: Blobs, key: str, body: _Object | None) -> list[Any] | None:
    """Put an object, or delete what a killed run of another plan may have left; [bytes, digest], None where there is none."""
    if body is None:
        blobs.delete(key)
        return None
    digest = ObjectDigest()

    def digested() -> Iterator[bytes]:
        for part in body.parts:
            digest.update(part)
            yield part

    blobs.put_parts(key, digested(), n_bytes=body.n_bytes)
    return [body.n_bytes, digest.hexdigest()]


def encode_summary(summary: npt.NDArray[np.uint8]) -> bytes | None:
    """The one chunk of ``clear_summary`` as zarr-python writes it (its default codec); None where all is zero."""
    from numcodecs.zstd import compress

    if not summary.any():
        return None
    body: bytes = compress(summary.tobytes(), 0)
    return body


def _finished_before(blobs: Blobs, job: CubeJob, task: RegionTask) -> Marker | None:
    """The marker of an earlier, shorter state of this region that was whole."""
    whole = next((m for m in task.replaces if not m.partial), None)
    return None if whole is None else get_marker(blobs, job.cube, job.product, whole)


def _refuse_stale(blobs: Blobs, job: CubeJob, task: RegionTask) -> None:
    known = {task.key, *(m.key for m in task.replaces)}
    for other in list_markers(blobs, job.cube, job.product, task.region):
        if other.key not in known:
            raise StalePlanError(
                f"Region {task.region} of {job.cube}/{job.product} in {job.store_url} was meanwhile finished by a newer plan "
                f"({other.key[:12]}). This run knows less than the store holds and stops; run the newer command."
            )
