"""A stored cube that is damaged is never taken for data: not by what is made of it, not by a lazy read, and it can be healed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import xarray as xr

import eocube
from eocube.errors import DamagedStoreError
from eocube.testing.stac import make_grid, make_series, write_catalog
from eocube.testing.stores import cubes_of, index_rows, same_store

PRODUCT = "10m"
STEPS = {"freq": "1MS", "products": [PRODUCT], "executor": "serial"}


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve dates of synthetic scenes."""
    return write_catalog(make_series(12, grid=make_grid((40, 40))), tmp_path_factory.mktemp("catalog"))


def convert(catalog: Path, store: Path) -> None:
    """The command that writes the input."""
    eocube.convert(eocube.open_corpus("stac", catalog), str(store), layout="patch", executor="serial")


@pytest.fixture(scope="module")
def whole(catalog: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undamaged store."""
    store = tmp_path_factory.mktemp("whole") / "store"
    convert(catalog, store)
    return store


@pytest.fixture
def store(whole: Path, tmp_path: Path) -> Path:
    """A store to damage."""
    shutil.copytree(whole, tmp_path / "store")
    return tmp_path / "store"


@pytest.fixture(scope="module")
def composed(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is made of the undamaged one."""
    out = tmp_path_factory.mktemp("composed") / "out"
    eocube.compose(str(whole), str(out), **STEPS)
    return out


def shard_of(store: Path) -> Path:
    """The data of the second region."""
    (found,) = store.glob(f"cubes/*/{PRODUCT}/data/c/1/0/0/0")
    return found


def flip(shard: Path, at: int) -> None:
    """One bit."""
    body = bytearray(shard.read_bytes())
    body[at] ^= 1
    shard.write_bytes(body)


SEEN_BEFORE: dict[str, Callable[[Path], object]] = {
    "gone": Path.unlink,
    "empty": lambda shard: shard.write_bytes(b""),
    "a byte short": lambda shard: shard.write_bytes(shard.read_bytes()[:-1]),
}
SEEN_WHEN_READ: dict[str, Callable[[Path], object]] = {
    "a bit of the pixels": lambda shard: flip(shard, 40),
    "a bit of a checksum": lambda shard: flip(shard, -22),  # behind it the index of the one chunk: 16 bytes, and its checksum
    "a bit of the index": lambda shard: flip(shard, -9),
}
DAMAGE = SEEN_BEFORE | SEEN_WHEN_READ


@pytest.mark.parametrize("damage", DAMAGE)
def test_nothing_is_made_of_a_damaged_cube_and_the_advice_heals_it(
    damage: str, store: Path, catalog: Path, composed: Path, tmp_path: Path
) -> None:
    shard, out = shard_of(store), tmp_path / "out"
    DAMAGE[damage](shard)
    with pytest.raises(DamagedStoreError) as caught:
        eocube.compose(str(store), str(out), **STEPS)
    assert "eocube audit" in str(caught.value)
    assert not index_rows(out)
    assert not eocube.audit(str(store)).ok
    for marker in store.glob(f"markers/*/{PRODUCT}/1.0.0/*.json"):
        marker.unlink()
    convert(catalog, store)
    eocube.compose(str(store), str(out), **STEPS)
    assert cubes_of(out) == cubes_of(composed)


@pytest.mark.parametrize("damage", SEEN_BEFORE)
def test_a_shard_that_is_not_what_its_marker_says_is_named_with_both_sizes(damage: str, store: Path, tmp_path: Path) -> None:
    shard = shard_of(store)
    size = shard.stat().st_size
    SEEN_BEFORE[damage](shard)
    with pytest.raises(DamagedStoreError) as caught:
        eocube.compose(str(store), str(tmp_path / "out"), **STEPS)
    assert f"{shard.relative_to(store)} of {store} has {size} bytes by its marker" in str(caught.value)


@pytest.mark.parametrize("damage", SEEN_WHEN_READ)
def test_one_wrong_bit_is_found_by_every_reader(damage: str, store: Path) -> None:
    SEEN_WHEN_READ[damage](shard_of(store))
    (site,) = {row["site"] for row in index_rows(store)}
    with pytest.raises(DamagedStoreError, match=f"'data' of cube {site}/{PRODUCT} .* cannot be read in regions 1.0.0"):
        eocube.open_store(str(store)).cube(site, PRODUCT)["data"].isel(time=slice(4, 8)).compute()
    with xr.open_zarr(f"{store}/cubes/{site}/{PRODUCT}", zarr_format=3, consolidated=True) as plain:
        with pytest.raises(ValueError, match="checksum"):
            plain["data"].isel(time=slice(4, 8)).compute()
        plain["data"].isel(time=slice(0, 4)).compute()


def test_an_empty_marker_finishes_nothing(store: Path, whole: Path, catalog: Path) -> None:
    """As a machine that lost power may leave one."""
    (marker,) = store.glob(f"markers/*/{PRODUCT}/1.0.0/*.json")
    marker.write_bytes(b"")
    assert not eocube.audit(str(store)).ok
    convert(catalog, store)
    assert marker.stat().st_size
    assert same_store(store, whole)
    assert eocube.audit(str(store)).ok
