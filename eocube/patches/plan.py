"""Plan patches from grids, dates and a spec alone: slots, their order and their split. No pixel is touched.

A *slot* is one LR/HR pair of the set. The pieces of work are the regions (shards) of the HR cube: a patch belongs to the region
in which its upper left HR pixel lies, and the slots of one region fill output shards of their own, so that one task decodes
the region's shards once and writes whole output shards.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from eocube.errors import GridError, PatchError, UnknownNameError
from eocube.model.frame import Frame
from eocube.model.patch_spec import PatchSpec
from eocube.model.spec import CubeSpec, Region
from eocube.model.window import Span, back_window, offset_yx
from eocube.patches.split import DAY_MS, EITHER, NAMES, NEITHER, TEST, Blocks, Codes, Ints, date_codes, join

MAX_SHARD_BYTES = 64 * 1024 * 1024
CHUNK_BYTES = 256 * 1024
"""Raw bytes of ``hr`` in an inner chunk of a patch set."""


class Slots(NamedTuple):
    """The slots of one region, in order: date by date, then row by row."""

    hr_t: Ints
    """Index of the date in the HR cube."""
    lr_t: Ints
    y: Ints
    """First row of the LR patch in the LR cube."""
    x: Ints
    split: Codes
    """``TRAIN`` or ``TEST``."""

    def cut(self, start: int, stop: int) -> Slots:
        """Some of them."""
        s = slice(start, stop)
        return Slots(self.hr_t[s], self.lr_t[s], self.y[s], self.x[s], self.split[s])

    def head(self, n: int) -> Slots:
        """The first ``n``."""
        return self.cut(0, n)


@dataclass(frozen=True, kw_only=True)
class PatchPair:
    """The LR and the HR cube of one site. GridError, PatchError or UnknownNameError where they do not fit the spec."""

    site: str
    lr_cube: str
    """Name of the LR cube in the store; its product is the spec's."""

    hr_cube: str

    lr: CubeSpec
    hr: CubeSpec
    spec: PatchSpec

    def __post_init__(self) -> None:
        spec, lr, hr = self.spec, self.lr.frame.geobox, self.hr.frame.geobox
        coarse, fine = (abs(lr.affine.a), abs(lr.affine.e)), (abs(hr.affine.a), abs(hr.affine.e))
        if any(abs(c / f - spec.scale) > 1e-6 * spec.scale for c, f in zip(coarse, fine, strict=True)):
            raise GridError(
                f"Site {self.site!r}: pixels of {spec.lr_product!r} measure {coarse}, those of {spec.hr_product!r} {fine}, which "
                f"is not {spec.scale} to 1. Pass the scale that these two have; grids that do not nest are not paired yet."
            )
        self.hr_span(0, 0)
        self.lr_bands, self.hr_bands  # noqa: B018 - an unknown band is told here, not in a task

    @property
    def lr_bands(self) -> tuple[int, ...]:
        """Indices of the spec's LR bands."""
        return _indices(self.spec.lr_bands, self.lr.frame, f"product {self.spec.lr_product!r}")

    @property
    def hr_bands(self) -> tuple[int, ...]:
        """Indices of the spec's HR bands."""
        return _indices(self.spec.hr_bands, self.hr.frame, f"product {self.spec.hr_product!r}")

    def hr_span(self, y: int, x: int) -> tuple[int, int]:
        """HR pixel on whose corner LR corner (y, x) lies, by world coordinates; GridError where it lies on none."""
        return offset_yx(self.lr.frame.geobox, self.hr.frame.geobox, y, x)

    @cached_property
    def dates(self) -> tuple[Ints, Ints]:
        """Indices of the HR and LR dates that are pairs, in order of time."""
        return pair_dates(self.hr.frame.time_ms, self.lr.frame.time_ms, self.spec.time_tolerance_days)

    @cached_property
    def date_codes(self) -> Codes:
        """Code of each pair of dates."""
        return date_codes(tuple(self.hr.frame.time_ms[i] for i in self.dates[0]), self.spec.split, self.spec.seed)

    @cached_property
    def cover(self) -> tuple[Span, Span]:
        """Rows and columns of LR pixels that lie inside both cubes, whole."""
        lr, hr = self.lr.frame, self.hr.frame
        (height, width), origin, scale = hr.shape_yx, self.hr_span(0, 0), self.spec.scale
        spans = back_window(lr.geobox, hr.geobox, (0, height), (0, width), halo_px=0)
        y, x = (
            (max(s[0], -(o // scale)), min(s[1], (n - o) // scale))
            for s, o, n in zip(spans, origin, (height, width), strict=True)
        )
        return y, x

    @cached_property
    def corners(self) -> tuple[Ints, Ints]:
        """LR rows and columns at which patches start: on the stride, and inside both cubes."""
        size, stride = self.spec.lr_px, self.spec.stride_px
        y, x = (np.arange(-(-a // stride) * stride, b - size + 1, stride, dtype=np.int64) for a, b in self.cover)
        return y, x

    @cached_property
    def place_codes(self) -> Codes:
        """Code of each patch corner, (rows, columns)."""
        y, x = self.corners
        rule = self.spec.split
        if rule is None:
            return np.full((len(y), len(x)), EITHER, np.uint8)
        return Blocks(self.lr.frame.geobox, rule, self.spec.seed).codes(y, x, self.spec.lr_px)

    def regions(self) -> Iterator[tuple[Region, int]]:
        """(region of the HR cube, number of its slots) for each that has some."""
        counted = self._counts()
        for at in zip(*np.nonzero(counted), strict=True):
            t, y, x = (int(i) for i in at)
            yield Region(t, y, x), int(counted[t, y, x])

    def count(self) -> dict[str, int]:
        """Patches of each split, ``buffer`` among them: those that belong to neither and are no slots."""
        places, dates = (np.bincount(codes.ravel(), minlength=4) for codes in (self.place_codes, self.date_codes))
        out = dict.fromkeys(NAMES, 0)
        for p in range(4):
            for d in range(4):
                out[NAMES[int(join(np.array(p), np.array(d)))]] += int(places[p] * dates[d])
        return out

    def _counts(self) -> npt.NDArray[np.int64]:
        """Slots of each region of the HR cube."""
        nt, ny, nx = self.hr.grid
        st = self.hr.shard_tyx[0]
        rows, columns = self._shards
        dates, places = np.zeros((4, nt), np.int64), np.zeros((4, ny, nx), np.int64)
        np.add.at(dates, (self.date_codes, self.dates[0] // st), 1)
        np.add.at(places, (self.place_codes, rows[:, None], columns[None, :]), 1)
        total = np.zeros((nt, ny, nx), np.int64)
        for p in range(4):
            for d in range(4):
                if join(np.array(p), np.array(d)) != NEITHER:
                    total += dates[d][:, None, None] * places[p]
        return total

    @cached_property
    def _shards(self) -> tuple[Ints, Ints]:
        """Row and column of the HR shard in which each patch corner lies."""
        _, sy, sx = self.hr.shard_tyx
        (y0, x0), scale, (y, x) = self.hr_span(0, 0), self.spec.scale, self.corners
        return (y0 + y * scale) // sy, (x0 + x * scale) // sx

    def slots(self, region: Region) -> Slots:
        """The slots of one region of the HR cube."""
        hr_t, lr_t = self.dates
        when = np.flatnonzero(hr_t // self.hr.shard_tyx[0] == region.t)
        rows, columns = (np.flatnonzero(s == i) for s, i in zip(self._shards, (region.y, region.x), strict=True))
        places = self.place_codes[np.ix_(rows, columns)]
        codes = join(places[None], self.date_codes[when][:, None, None])
        t, i, j = np.nonzero(codes != NEITHER)
        y, x = self.corners
        return Slots(hr_t[when][t], lr_t[when][t], y[rows][i], x[columns][j], codes[t, i, j])


def pair_dates(hr_ms: tuple[int, ...], lr_ms: tuple[int, ...], tolerance_days: float) -> tuple[Ints, Ints]:
    """Indices of HR dates and of the nearest LR date of each (the earlier of two), where it is at most that many days away."""
    hr, lr = np.array(hr_ms, np.int64), np.array(lr_ms, np.int64)
    if not len(hr) or not len(lr):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    after = np.minimum(np.searchsorted(lr, hr), len(lr) - 1)
    before = np.maximum(after - 1, 0)
    nearest = np.where(np.abs(lr[before] - hr) <= np.abs(lr[after] - hr), before, after)
    near = np.abs(lr[nearest] - hr) <= tolerance_days * DAY_MS
    return np.flatnonzero(near), nearest[near]


def _indices(bands: tuple[str, ...], frame: Frame, where: str) -> tuple[int, ...]:
    for band in bands:
        if band not in frame.band_names:
            raise UnknownNameError("band", band, frame.band_names, where)
    return tuple(frame.band_names.index(b) for b in bands or frame.band_names)


@dataclass(frozen=True, kw_only=True)
class PatchTask:
    """One region's patches."""

    region: Region
    first_shard: int
    """Index of its first output shard."""

    n_slots: int


@dataclass(frozen=True, kw_only=True)
class PatchPlan:
    """The patches that a store holds by a spec: a stream of rows with a known count. No pixel was touched."""

    spec: PatchSpec
    pairs: tuple[PatchPair, ...]
    first: int | None = None
    """Only so many slots."""

    def __post_init__(self) -> None:
        bands = {(self._names(p, "lr"), self._names(p, "hr")) for p in self.pairs}
        if len(bands) > 1:
            raise PatchError(f"The sites have different bands {sorted(bands)}; name lr_bands and hr_bands that all of them have.")

    def _names(self, pair: PatchPair, side: str) -> tuple[str, ...]:
        frame, at = (pair.lr.frame, pair.lr_bands) if side == "lr" else (pair.hr.frame, pair.hr_bands)
        return tuple(frame.band_names[i] for i in at)

    @property
    def lr_bands(self) -> tuple[str, ...]:
        """Names of the bands of ``lr``."""
        return self._names(self.pairs[0], "lr") if self.pairs else self.spec.lr_bands

    @property
    def hr_bands(self) -> tuple[str, ...]:
        """Names of the bands of ``hr``."""
        return self._names(self.pairs[0], "hr") if self.pairs else self.spec.hr_bands

    def __len__(self) -> int:
        return sum(n for _, _, n in self._regions())

    def _regions(self) -> Iterator[tuple[PatchPair, Region, int]]:
        """(pair, region, slots), cut at ``first``."""
        left = math.inf if self.first is None else self.first
        for pair in self.pairs:
            for region, n in pair.regions():
                if left <= 0:
                    return
                yield pair, region, int(min(n, left))
                left -= n

    @cached_property
    def chunk_patches(self) -> int:
        """Patches of an inner chunk of the set."""
        return 1 << max(0, (CHUNK_BYTES // self._patch_bytes).bit_length() - 1)

    @property
    def _patch_bytes(self) -> int:
        return 4 * len(self.hr_bands or ("",)) * self.spec.hr_px**2

    @cached_property
    def shard_patches(self) -> int:
        """Patches of a shard: whole chunks, room for a whole region where 64 MiB allow."""
        most = max((n for _, _, n in self._regions()), default=1)
        room = max(1, MAX_SHARD_BYTES // (self._patch_bytes * self.chunk_patches))
        return self.chunk_patches * min(room, -(-most // self.chunk_patches))

    def tasks(self) -> Iterator[tuple[PatchPair, PatchTask]]:
        """A task a region, in the order of the slots."""
        shard = 0
        for pair, region, n in self._regions():
            yield pair, PatchTask(region=region, first_shard=shard, n_slots=n)
            shard += -(-n // self.shard_patches)

    @cached_property
    def n_places(self) -> int:
        """Length of the patch axis: whole shards, so more than there are slots."""
        return self.shard_patches * sum(-(-n // self.shard_patches) for _, _, n in self._regions())

    def head(self, n: int) -> PatchPlan:
        """The first ``n`` slots as a plan of its own."""
        return replace(self, first=n if self.first is None else min(n, self.first))

    def rows(self) -> Iterator[dict[str, Any]]:
        """A row a slot: id, place on the patch axis, split, site, dates, corner in LR pixels."""
        for pair, task in self.tasks():
            yield from slot_rows(pair, task, pair.slots(task.region).head(task.n_slots), self.shard_patches)

    def summary(self) -> dict[str, Any]:
        """Patches of each split (``buffer``: of neither, not extracted), sites, tasks and raw bytes of the set."""
        counts = dict.fromkeys(NAMES, 0)
        if self.first is None:
            for pair in self.pairs:
                counts = {k: counts[k] + n for k, n in pair.count().items()}
        else:
            for row in islice(self.rows(), self.first):
                counts[row["split"]] += 1
        bytes_each = 4 * (len(self.lr_bands) * self.spec.lr_px**2 + len(self.hr_bands) * self.spec.hr_px**2)
        bytes_each += self.spec.lr_px**2 + self.spec.hr_px**2
        tasks = sum(1 for _ in self._regions())
        return {**counts, "patches": len(self), "sites": len(self.pairs), "tasks": tasks, "bytes": bytes_each * len(self)}

    def __str__(self) -> str:
        s = self.summary()
        return (
            f"{s['patches']} patches ({s['train']} train, {s['test']} test; {s['buffer']} left out between them) of {s['sites']} "
            f"sites in {s['tasks']} tasks, {s['bytes'] / 1e6:,.1f} MB raw"
        )


def slot_rows(pair: PatchPair, task: PatchTask, slots: Slots, shard_patches: int) -> list[dict[str, Any]]:
    """What is known of a task's slots before any pixel."""
    hr_ms, lr_ms = pair.hr.frame.time_ms, pair.lr.frame.time_ms
    rows = []
    for i, (hr_t, lr_t, y, x, split) in enumerate(zip(*(v.tolist() for v in slots), strict=True)):
        date = hr_ms[hr_t]
        rows.append(
            {
                "patch_id": f"{pair.site}_{_stamp(date)}_{y}_{x}",
                "patch": task.first_shard * shard_patches + i,
                "split": "test" if split == TEST else "train",
                "site": pair.site,
                "date": date,
                "lr_date": lr_ms[lr_t],
                "days": (lr_ms[lr_t] - date) / DAY_MS,
                "lr_yx": [y, x],
                "hr_yx": list(pair.hr_span(y, x)),
            }
        )
    return rows


def _stamp(ms: int) -> str:
    """A date as text, as short as it is exact."""
    when = np.datetime64(ms, "ms")
    units = [u for u, length in (("D", DAY_MS), ("s", 1000), ("ms", 1)) if ms % length == 0]
    return str(when.astype(f"M8[{units[0]}]"))
