"""Reading a set back: each patch once an epoch, LR and HR turned alike, nothing that is not valid."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eocube.errors import DamagedStoreError, PatchError, UnknownNameError
from eocube.io.blobs import open_blobs
from eocube.jobs.patches import extract_patches
from eocube.kernels.resample import block_mean
from eocube.patches import PatchDataset
from eocube.patches.augment import N_SYMMETRIES, symmetry_of, turned
from tests.patches.makers import SPEC, make_store


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("dataset")
    store = make_store(folder)
    extract_patches(store, str(folder / "set"), SPEC, executor="serial")
    return str(folder / "set")


def places(data: PatchDataset, *args: int, **kwargs: object) -> list[int]:
    return [int(p) for batch in data.batches(*args, **kwargs) for p in batch["patch"]]  # type: ignore[arg-type]


def test_the_splits_share_the_patches_among_them(url: str) -> None:
    train, test, both = (PatchDataset(url, split=s) for s in ("train", "test", None))
    assert len(train) + len(test) == len(both)
    assert set(train.index["split"].to_pylist()) == {"train"}
    assert sorted(places(train, 5) + places(test, 5)) == places(both, 5)
    assert both.spec == SPEC
    assert (both.lr_bands, both.hr_bands) == (("nir", "red", "green"), ("green", "red"))


@settings(deadline=None)
@given(
    batch_size=st.integers(1, 40),
    epoch=st.integers(0, 3),
    seed=st.integers(0, 3),
    pool_bytes=st.sampled_from([1, 30_000, 1 << 28]),
    shuffle=st.booleans(),
)
def test_an_epoch_shows_every_patch_once(
    url: str, batch_size: int, epoch: int, seed: int, pool_bytes: int, *, shuffle: bool
) -> None:
    data = PatchDataset(url, split="train", seed=seed)
    shown = places(data, batch_size, shuffle=shuffle, epoch=epoch, pool_bytes=pool_bytes)
    assert sorted(shown) == sorted(data.index["patch"].to_pylist())
    assert shown == places(data, batch_size, shuffle=shuffle, epoch=epoch, pool_bytes=pool_bytes)
    if not shuffle:
        assert shown == sorted(shown)
    sizes = [len(b["patch"]) for b in data.batches(batch_size, shuffle=shuffle, pool_bytes=pool_bytes)]
    assert set(sizes[:-1]) <= {batch_size}
    kept = [len(b["patch"]) for b in data.batches(batch_size, shuffle=shuffle, pool_bytes=pool_bytes, drop_last=True)]
    assert kept == [n for n in sizes if n == batch_size]


def test_epochs_and_seeds_shuffle_differently(url: str) -> None:
    orders = [tuple(places(PatchDataset(url, seed=s), 8, shuffle=True, epoch=e)) for s in (0, 1) for e in (0, 1)]
    assert len(set(orders)) == 4


@pytest.mark.parametrize("augment", [False, True])
def test_one_by_one_and_in_batches_the_patches_are_the_same(url: str, augment: bool) -> None:  # noqa: FBT001 - a parameter
    data = PatchDataset(url, augment=augment, seed=4)
    data.set_epoch(2)
    by_place = {int(p["patch"]): p for p in (data[i] for i in range(len(data)))}
    for batch in data.batches(7, shuffle=True, epoch=2):
        for i, place in enumerate(batch["patch"].tolist()):
            for name, values in batch.items():
                np.testing.assert_array_equal(values[i], by_place[place][name], strict=True)


def test_lr_hr_and_masks_are_turned_alike(url: str) -> None:
    """The pixels of these patches are linear on the ground: an LR pixel is the mean of its HR pixels, in any symmetry."""
    plain, turned_ = PatchDataset(url), PatchDataset(url, augment=True, seed=1)
    n_moved = 0
    for i in range(len(plain)):
        a, b = plain[i], turned_[i]
        hr_mean = block_mean(b["hr"], 2, valid=b["hr_valid"][None])
        whole = np.isfinite(hr_mean).all(axis=0) & b["lr_valid"][0] & (block_mean(b["hr_valid"].astype(float), 2) == 1)
        assert whole.any()
        np.testing.assert_allclose(hr_mean[:, whole], b["lr"][0, [2, 1]][:, whole], atol=1e-6)
        np.testing.assert_array_equal((b["hr"] != 0).all(axis=0), b["hr_valid"])
        np.testing.assert_array_equal((b["lr"] != 0).all(axis=1), b["lr_valid"])
        for name in ("lr", "hr", "lr_valid", "hr_valid"):
            np.testing.assert_array_equal(np.sort(a[name], axis=None), np.sort(b[name], axis=None))
        n_moved += not np.array_equal(a["hr"], b["hr"])
    assert n_moved > len(plain) / 2


def test_the_eight_symmetries_are_eight_and_all_are_drawn() -> None:
    square = np.arange(9).reshape(3, 3)
    seen = {turned(square, k).tobytes() for k in range(N_SYMMETRIES)}
    rotations = {np.rot90(m, k).tobytes() for m in (square, square[::-1]) for k in range(4)}
    assert seen == rotations
    np.testing.assert_array_equal(turned(square, 0), square)
    counts = np.bincount(symmetry_of(0, 0, np.arange(8000)).astype(int), minlength=8)
    assert counts.min() > 850
    assert (symmetry_of(0, 0, np.arange(50)) != symmetry_of(0, 1, np.arange(50))).any()
    assert symmetry_of(3, 1, 17) == symmetry_of(3, 1, np.array([5, 17]))[1]


def test_what_is_not_valid_is_zero(url: str) -> None:
    data = PatchDataset(url)
    n = 0
    for i in range(len(data)):
        patch = data[i]
        assert np.isfinite(patch["lr"]).all()
        assert np.isfinite(patch["hr"]).all()
        assert (patch["lr"][0][:, ~patch["lr_valid"][0]] == 0).all()
        assert (patch["hr"][:, ~patch["hr_valid"]] == 0).all()
        n += int((~patch["hr_valid"]).sum())
    assert n > 0


def test_a_dataloader_takes_it(url: str) -> None:
    torch = pytest.importorskip("torch")
    data = PatchDataset(url, split="train", augment=True)
    loaded = list(torch.utils.data.DataLoader(data, batch_size=8))
    assert sum(len(b["lr"]) for b in loaded) == len(data)
    assert loaded[0]["lr"].shape == (8, 1, 3, 6, 6)
    assert loaded[0]["hr"].dtype == torch.float32
    np.testing.assert_array_equal(loaded[0]["hr"][3].numpy(), data[3]["hr"])


def test_it_travels_without_its_arrays(url: str) -> None:
    data = PatchDataset(url, split="test", augment=True, seed=5)
    first = data[0]
    again = pickle.loads(pickle.dumps(data))
    assert len(again) == len(data)
    for name, values in again[0].items():
        np.testing.assert_array_equal(values, first[name])


def test_python_sequences_end(url: str) -> None:
    data = PatchDataset(url, split="test")
    assert len([data[i] for i in range(-len(data), 0)]) == len(data)
    with pytest.raises(IndexError, match=f"has {len(data)}"):
        data[len(data)]


def test_what_is_no_set_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(PatchError, match=r"no zarr\.json was found"):
        PatchDataset(str(tmp_path))
    with pytest.raises(UnknownNameError, match="split 'val'"):
        PatchDataset(url, split="val")
    with pytest.raises(PatchError, match="at least 1"):
        next(PatchDataset(url).batches(0))
    open_blobs(str(tmp_path)).put("zarr.json", b'{"attributes": {}}')
    with pytest.raises(DamagedStoreError, match="not a patch set"):
        PatchDataset(str(tmp_path))


def test_plain_xarray_opens_it_without_a_warning(url: str) -> None:
    import xarray as xr

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opened = xr.open_zarr(url, zarr_format=3, consolidated=True)
    assert opened["lr"].dims == ("patch", "revisit", "band_lr", "y_lr", "x_lr")
    assert opened["hr"].attrs["units"] == "1"
