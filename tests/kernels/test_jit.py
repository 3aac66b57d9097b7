"""Kernels compile also where nothing can be kept for the next process."""

from __future__ import annotations

import numba.core.caching
import pytest

from eocube.kernels.jit import compiled


def doubled(n: int) -> int:
    return 2 * n


def test_a_kernel_compiles_where_no_folder_for_its_cache_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba.core.caching.CacheImpl, "_locator_classes", [])
    with pytest.raises(RuntimeError, match="no locator"):
        numba.njit(cache=True)(doubled)
    assert compiled(doubled)(21) == 42
