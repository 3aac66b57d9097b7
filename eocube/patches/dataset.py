"""Patches out of a set: one by one for a PyTorch DataLoader, or in shuffled batches. Needs no torch."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from eocube.errors import PatchError, UnknownNameError
from eocube.io.blobs import open_blobs
from eocube.model.patch_spec import PatchSpec
from eocube.patches.augment import symmetry_of, turned
from eocube.patches.index import read_index
from eocube.patches.layout import PatchLayout, read_layout, read_licence

Patch = dict[str, npt.NDArray[Any]]

POOL_BYTES = 256 * 1024 * 1024
_SQUARE = ("lr", "hr", "lr_valid", "hr_valid")


class PatchDataset:
    """The patches of a set that were not dropped.

    Map-style, so that ``torch.utils.data.DataLoader(dataset, batch_size=…)`` takes it as it is (with ``num_workers`` pass
    ``multiprocessing_context="forkserver"``: a forked process hangs on locks of threads it does not have). :meth:`batches` is
    faster: it reads each shard once an epoch.

    A patch is a dictionary of arrays: ``lr`` (revisit, band, y, x) and ``hr`` (band, y, x) float32 reflectance, 0 where not
    valid; ``lr_valid`` (revisit, y, x) and ``hr_valid`` (y, x), True where a pixel has data and is clear; ``days`` (revisit)
    from the HR date; ``patch``, its place in the set.

    Parameters
    ----------
    url
        Folder or URL that :func:`eocube.extract_patches` wrote.
    split
        ``train`` or ``test``; None: both.
    augment
        Show each patch in one of the eight symmetries of the square, LR, HR and masks alike, drawn from ``seed``, the epoch and
        the patch.
    seed
        For ``augment``, and for ``batches``.
    storage_options
        For the set's URL.

    Raises
    ------
    PatchError
        If no finished patch set is there.
    UnknownNameError
        For another split.
    """

    def __init__(
        self,
        url: str,
        *,
        split: str | None = None,
        augment: bool = False,
        seed: int = 0,
        storage_options: Mapping[str, Any] | None = None,
    ):
        if split not in (None, "train", "test"):
            raise UnknownNameError("split", split, ["train", "test", None], "PatchDataset")
        self._options = dict(storage_options or {})
        blobs = open_blobs(url, self._options)
        self.url, self.split, self.augment, self.seed, self.epoch = blobs.url, split, augment, seed, 0
        self.layout: PatchLayout = read_layout(blobs)
        self.licence: dict[str, Any] = read_licence(blobs)
        """``licenses`` and ``attributions`` of the sources."""
        table = read_index(blobs)
        if not table.num_rows and self.layout.n_places:
            raise PatchError(f"The patch set at {self.url} is unfinished: it has no index yet. Run extract_patches again.")
        keep = pc.invert(table["dropped"])
        self.index: pa.Table = table.filter(keep if split is None else pc.and_(keep, pc.equal(table["split"], split)))
        """Rows of the patches, in the order of the dataset."""
        self._places: npt.NDArray[np.int64] = self.index["patch"].to_numpy()

    @property
    def spec(self) -> PatchSpec:
        """What the set was made by."""
        return self.layout.spec

    @property
    def lr_bands(self) -> tuple[str, ...]:
        """Names along the band axis of ``lr``."""
        return self.layout.lr_bands

    @property
    def hr_bands(self) -> tuple[str, ...]:
        """Names along the band axis of ``hr``."""
        return self.layout.hr_bands

    def set_epoch(self, epoch: int) -> None:
        """Draw other symmetries from here on."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, i: int) -> Patch:
        if not -len(self) <= i < len(self):
            raise IndexError(f"Patch {i} was asked for; this dataset has {len(self)}.")
        place = int(self._places[i])
        batch = {name: array[place : place + 1] for name, array in self._arrays.items()}
        shown = self._shown({**batch, "patch": np.array([place])}, self.epoch if self.augment else None)
        return {name: values[0] for name, values in shown.items()}

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_arrays"}

    @cached_property
    def _arrays(self) -> dict[str, Any]:
        import zarr

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # notes on unfinished parts of the Zarr specification
            store = open_blobs(self.url, self._options).zarr_store()
            group = zarr.open_group(store, mode="r", zarr_format=3, use_consolidated=True)
            return {name: group[name] for name in self.layout.arrays}

    def _shown(self, batch: Patch, epoch: int | None) -> Patch:
        """Pixels that are not valid set to 0, and each patch in its symmetry."""
        lr, hr = batch["lr"], batch["hr"]
        out = {
            **batch,
            "lr": np.where(batch["lr_valid"][:, :, None], lr, np.float32(0)),
            "hr": np.where(batch["hr_valid"][:, None], hr, np.float32(0)),
        }
        if epoch is None:
            return out
        drawn = symmetry_of(self.seed, epoch, batch["patch"])
        return out | {name: np.stack([turned(v, int(k)) for v, k in zip(out[name], drawn, strict=True)]) for name in _SQUARE}

    def batches(
        self,
        batch_size: int,
        *,
        shuffle: bool = False,
        epoch: int = 0,
        drop_last: bool = False,
        pool_bytes: int = POOL_BYTES,
    ) -> Iterator[Patch]:
        """Every patch once, in batches; each array has the batch as its first axis.

        Parameters
        ----------
        batch_size
            Patches of a batch; the last one may have fewer.
        shuffle
            Shards in an order drawn from seed and epoch; those that fit into ``pool_bytes`` together are decoded once, and
            their patches mixed. Else in the order of the index.
        epoch
            Which pass this is: draws order and symmetries.
        drop_last
            Leave out a last batch that is not full.
        pool_bytes
            Most decoded bytes that are mixed at once.
        """
        if batch_size < 1:
            raise PatchError(f"Batches of {batch_size} patches were asked for; they have at least 1.")
        rng = np.random.default_rng([self.seed, epoch])
        left: Patch | None = None
        for pool in self._pools(rng if shuffle else None, pool_bytes):
            joined = pool if left is None else {k: np.concatenate([left[k], pool[k]]) for k in pool}
            n = len(joined["patch"])
            stop = n // batch_size * batch_size
            for start in range(0, stop, batch_size):
                part = {k: v[start : start + batch_size] for k, v in joined.items()}
                yield self._shown(part, epoch if self.augment else None)
            left = {k: v[stop:] for k, v in joined.items()}
        if left is not None and len(left["patch"]) and not drop_last:
            yield self._shown(left, epoch if self.augment else None)

    def _pools(self, rng: np.random.Generator | None, pool_bytes: int) -> Iterator[Patch]:
        """Decoded patches of a few shards at a time, mixed if there is an ``rng``."""
        size = self.layout.shard_patches
        places = np.sort(self._places)
        shards = np.unique(places // size)
        each = sum(size * int(np.prod(shape)) * np.dtype(v.dtype).itemsize for v, shape, _ in self.layout.arrays.values())
        n = max(1, pool_bytes // max(1, each))
        if rng is not None:
            rng.shuffle(shards)
        for first in range(0, len(shards), n):
            parts = [self._shard(int(s), places[places // size == s]) for s in shards[first : first + n]]
            pool = {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}
            if rng is not None:
                order = rng.permutation(len(pool["patch"]))
                pool = {k: v[order] for k, v in pool.items()}
            yield pool

    def _shard(self, shard: int, places: npt.NDArray[np.int64]) -> Patch:
        """The patches of one shard that are wanted; the shard is read and decoded once."""
        first = shard * self.layout.shard_patches
        whole = {name: array[first : first + self.layout.shard_patches] for name, array in self._arrays.items()}
        return {**{name: values[places - first] for name, values in whole.items()}, "patch": places}
