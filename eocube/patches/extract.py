"""One region's patches: read its dates once, cut, check, encode, put whole shards, put the index part and the marker."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from eocube.io.blobs import Blobs, open_blobs
from eocube.io.cubes import CubeSource, cube_path
from eocube.io.markers import Marker, MarkerName, ObjectDigest, delete_markers, put_marker
from eocube.io.shards import assemble_shard, encode_chunk
from eocube.kernels.arrays import BoolArray, Float32Array
from eocube.kernels.masking import is_class
from eocube.model.bands import SCL_CLEAR
from eocube.model.hashing import digest
from eocube.model.hooks import kill_hook
from eocube.model.memory import frame_bytes
from eocube.model.spec import Region
from eocube.model.window import Window
from eocube.patches.index import PARTS, footprints, put_part
from eocube.patches.layout import PatchLayout
from eocube.patches.plan import PatchPair, PatchTask, Slots, slot_rows

PRODUCT = "patches"
"""What the markers of a patch set call their product."""

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class PatchJob:
    """What the tasks of one site share. Sent to a worker once."""

    store_url: str
    out_url: str
    storage_options: Mapping[str, Any]
    pair: PatchPair
    layout: PatchLayout
    max_bytes: int
    """Most bytes of decoded source pixels that a task holds at once."""

    @cached_property
    def sources(self) -> tuple[CubeSource, CubeSource]:
        """LR and HR cube, decoded to reflectance."""
        return self._source(self.pair.lr_cube, self.pair.spec.lr_product), self._source(
            self.pair.hr_cube, self.pair.spec.hr_product
        )

    def _source(self, cube: str, product: str) -> CubeSource:
        url = f"{self.store_url}/{cube_path(cube, product)}"
        return CubeSource.open(url, decode="reflectance", options=self.storage_options)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "sources"}

    def slots(self, task: PatchTask) -> Slots:
        """The slots of a task."""
        return self.pair.slots(task.region).head(task.n_slots)

    def windows(self, slots: Slots) -> tuple[Window, Window]:
        """The LR and the HR pixels and dates below the slots, each as one window."""
        spec = self.pair.spec
        y, x = ((int(v.min()), int(v.max()) + spec.lr_px) for v in (slots.y, slots.x))
        hr_y, hr_x = self.pair.hr_span(y[0], x[0])
        return (
            Window(_dates(slots.lr_t), y, x),
            Window(
                _dates(slots.hr_t),
                (hr_y, hr_y + (y[1] - y[0]) * spec.scale),
                (hr_x, hr_x + (x[1] - x[0]) * spec.scale),
            ),
        )

    def leaves(self, slots: Slots) -> dict[str, list[Any]]:
        """Region keys of the cubes below the slots; CubeError where a region is not finished."""
        windows = self.windows(slots)
        return {name: sorted(s.ids(w)) for name, s, w in zip(("lr", "hr"), self.sources, windows, strict=True)}

    def key(self, task: PatchTask, leaves: Mapping[str, list[Any]]) -> str:
        """Name of a task's content: the set, its slots, and what the pixels below them come from."""
        place = [self.pair.site, list(task.region), task.first_shard, task.n_slots]
        return digest([self.layout.layout_id, place, leaves])

    def part_key(self, region: Region) -> str:
        """Key of the index rows that a task leaves."""
        return f"{PARTS}/{self.pair.hr_cube}/{region}.parquet"


@dataclass(frozen=True, kw_only=True)
class ExtractTask:
    """One region to extract."""

    task: PatchTask
    key: str
    leaves: Mapping[str, list[Any]]
    replaces: tuple[MarkerName, ...] = ()
    """Markers of this region that the new one replaces."""


@dataclass(frozen=True, kw_only=True)
class PatchesDone:
    """What a task reports."""

    site: str
    region: Region
    n_kept: int
    n_dropped: int
    bytes_written: int


def run_extract(job: PatchJob, extract: ExtractTask) -> PatchesDone:
    """Extract one region's patches. Equal tasks give equal bytes whenever and wherever they run."""
    task, slots = extract.task, job.slots(extract.task)
    blobs = open_blobs(job.out_url, job.storage_options)
    writer = _ShardWriter(job.layout, blobs, first_shard=task.first_shard, delete_empty=bool(extract.replaces))
    rows = slot_rows(job.pair, task, slots, job.layout.shard_patches)
    counts = np.zeros(3, np.int64)
    done = 0
    for part in _runs(job, slots):
        cut = _read_and_cut(job, part)
        for row, checked in zip(rows[done : done + len(part.y)], cut.checked, strict=True):
            row.update(checked)
        done += len(part.y)
        counts += cut.counts
        writer.add(cut.arrays)
    writer.finish()
    kill_hook("after_shard")
    outlines = footprints(
        job.pair.lr.frame.geobox, list(zip(slots.y.tolist(), slots.x.tolist(), strict=True)), job.pair.spec.lr_px
    )
    put_part(blobs, job.part_key(task.region), [row | outline for row, outline in zip(rows, outlines, strict=True)])
    _put_marker(blobs, job, extract, writer.written, counts)
    n_dropped = sum(row["dropped"] for row in rows)
    return PatchesDone(
        site=job.pair.site,
        region=task.region,
        n_kept=len(rows) - n_dropped,
        n_dropped=n_dropped,
        bytes_written=sum(size for size, _ in filter(None, writer.written.values())),
    )


def _put_marker(
    blobs: Blobs, job: PatchJob, extract: ExtractTask, written: Mapping[str, list[Any] | None], counts: npt.NDArray[np.int64]
) -> None:
    pixels, valid, clear = (int(n) for n in counts)
    marker = Marker(
        key=extract.key,
        shards=dict(written),
        pixels=pixels,
        valid=valid,
        clear=clear,
        sources=dict(extract.leaves),
        failed=[],
    )
    name = put_marker(blobs, job.pair.hr_cube, PRODUCT, extract.task.region, marker)
    delete_markers(blobs, job.pair.hr_cube, PRODUCT, [m for m in extract.replaces if m != name])


# ------------------------------------------------------------------------------------------------ pixels


def _dates(indices: npt.NDArray[np.int64]) -> tuple[int, ...]:
    return tuple(int(t) for t in np.unique(indices))


def _runs(job: PatchJob, slots: Slots) -> Iterator[Slots]:
    """The slots by dates that are read together: whole inner chunks of the HR cube, under ``max_bytes``."""
    spec = job.pair.hr
    n_dates = spec.shard_tyx[0]
    sizes = [frame_bytes(s.frame(), w) / len(w.times) for s, w in zip(job.sources, job.windows(slots), strict=True)]
    while n_dates % 2 == 0 and n_dates // 2 % spec.chunk_tyx[0] == 0 and n_dates * sum(sizes) > job.max_bytes:
        n_dates //= 2
    run = slots.hr_t // n_dates
    for first, stop in zip(*_edges(run), strict=True):
        yield slots.cut(first, stop)


def _edges(values: npt.NDArray[np.int64]) -> tuple[list[int], list[int]]:
    """Starts and stops of the runs of equal numbers."""
    inner = (np.flatnonzero(np.diff(values)) + 1).tolist()
    return [0, *inner], [*inner, len(values)]


class Side(NamedTuple):
    """One cube's pixels of a run."""

    data: Float32Array
    """(date, band, y, x) reflectance."""
    valid: BoolArray
    """(date, y, x): data in every band."""
    clear: BoolArray
    """(date, y, x): valid, and clear."""


class _Cut(NamedTuple):
    """The patches of a run."""

    arrays: Arrays
    checked: list[dict[str, Any]]
    """Clear shares, ``dropped`` and ``why`` of each."""
    counts: npt.NDArray[np.int64]
    """HR pixels, those with data, those clear."""


def read_side(source: CubeSource, window: Window, bands: tuple[int, ...]) -> Side:
    """The chosen bands of a cube that is decoded to reflectance, and what of them can be used."""
    has_scl = any(v.name == "scl" for v in source.frame().masks)
    arrays = source.read(window, names=("data", "scl") if has_scl else ("data",))
    data = np.ascontiguousarray(arrays["data"][:, list(bands)], np.float32)
    valid = np.asarray(np.isfinite(data).all(axis=1))
    return Side(data, valid, valid & is_class(arrays["scl"], SCL_CLEAR) if has_scl else valid)


def _read_and_cut(job: PatchJob, slots: Slots) -> _Cut:
    pair, spec = job.pair, job.pair.spec
    windows = job.windows(slots)
    lr, hr = (read_side(s, w, b) for s, w, b in zip(job.sources, windows, (pair.lr_bands, pair.hr_bands), strict=True))
    n, p, q = len(slots.y), spec.lr_px, spec.hr_px
    out = {name: np.full((n, *shape), v.fill, v.dtype) for name, (v, shape, _) in job.layout.arrays.items()}
    days = (np.array(pair.lr.frame.time_ms)[slots.lr_t] - np.array(pair.hr.frame.time_ms)[slots.hr_t]) / 86_400_000
    lr_t, hr_t = (np.searchsorted(w.times, t) for w, t in zip(windows, (slots.lr_t, slots.hr_t), strict=True))
    checked, counts = [], np.zeros(3, np.int64)
    for i in range(n):
        y, x = int(slots.y[i]), int(slots.x[i])
        hy, hx = pair.hr_span(y, x)
        ly, lx = y - windows[0].y[0], x - windows[0].x[0]
        hy, hx = hy - windows[1].y[0], hx - windows[1].x[0]
        here = int(lr_t[i]), slice(ly, ly + p), slice(lx, lx + p)
        there = int(hr_t[i]), slice(hy, hy + q), slice(hx, hx + q)
        lr_clear, hr_clear = lr.clear[here], hr.clear[there]
        counts += (q * q, int(hr.valid[there].sum()), int(hr_clear.sum()))
        checked.append(_check(float(lr_clear.mean()), float(hr_clear.mean()), spec.min_clear))
        if not checked[-1]["dropped"]:
            out["lr"][i, 0] = lr.data[here[0], :, here[1], here[2]]
            out["hr"][i] = hr.data[there[0], :, there[1], there[2]]
            out["lr_valid"][i, 0], out["hr_valid"][i], out["days"][i] = lr_clear, hr_clear, days[i]
    return _Cut(out, checked, counts)


def _check(lr_clear: float, hr_clear: float, min_clear: float) -> dict[str, Any]:
    low = [f"{name} {share:.3f} clear" for name, share in (("lr", lr_clear), ("hr", hr_clear)) if share < min_clear]
    why = f"{', '.join(low)}; at least {min_clear:g} asked" if low else None
    return {"lr_clear": lr_clear, "hr_clear": hr_clear, "dropped": bool(low), "why": why}


# ------------------------------------------------------------------------------------------------ shards


class _ShardWriter:
    """Encodes patches chunk by chunk, and puts each shard as soon as it is full."""

    def __init__(self, layout: PatchLayout, blobs: Blobs, *, first_shard: int, delete_empty: bool):
        self._layout, self._blobs, self._shard, self._delete_empty = layout, blobs, first_shard, delete_empty
        self._waiting: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in layout.arrays}
        self._n_waiting = self._n_chunks = 0
        self._chunks: dict[str, dict[tuple[int, ...], bytes]] = {name: {} for name in layout.arrays}
        self.written: dict[str, list[Any] | None] = {}
        """Key → [bytes, digest], None where every place is fill and there is no object."""

    def add(self, arrays: Arrays) -> None:
        """Take the next patches."""
        for name, values in arrays.items():
            self._waiting[name].append(values)
        self._n_waiting += len(arrays["hr"])
        if self._n_waiting >= self._layout.chunk_patches:
            self._encode(whole_chunks=True)

    def finish(self) -> None:
        """Encode what is left over, and put the last shard."""
        self._encode(whole_chunks=False)
        if self._n_chunks:
            self._put()

    def _encode(self, *, whole_chunks: bool) -> None:
        size = self._layout.chunk_patches
        joined = {name: np.concatenate(parts) for name, parts in self._waiting.items() if parts}
        stop = self._n_waiting // size * size if whole_chunks else self._n_waiting
        for start in range(0, stop, size):
            self._encode_chunk({name: values[start : start + size] for name, values in joined.items()})
        self._waiting = {name: [values[stop:]] for name, values in joined.items()}
        self._n_waiting -= stop

    def _encode_chunk(self, arrays: Arrays) -> None:
        for name, (variable, shape, _) in self._layout.arrays.items():
            body = encode_chunk(arrays[name], (self._layout.chunk_patches, *shape), variable)
            if body is not None:
                self._chunks[name][(self._n_chunks, *(0,) * len(shape))] = body
        self._n_chunks += 1
        if self._n_chunks == self._layout.chunks_per_shard:
            self._put()

    def _put(self) -> None:
        for name, (_, shape, _) in self._layout.arrays.items():
            key = "/".join([name, "c", str(self._shard), *("0",) * len(shape)])
            body = assemble_shard(self._chunks[name], (self._layout.chunks_per_shard, *(1,) * len(shape)))
            if body is not None:
                self._blobs.put(key, body)
            elif self._delete_empty:
                self._blobs.delete(key)
            self.written[key] = None if body is None else [len(body), ObjectDigest(body).hexdigest()]
            self._chunks[name] = {}
        self._shard, self._n_chunks = self._shard + 1, 0
