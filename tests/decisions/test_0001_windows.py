"""Decision 0001: what a window needs does not grow with the cube; a Dask graph does."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import windows


@pytest.mark.parametrize("chain", [windows.composite_chain, windows.halo_chain])
def test_a_region_needs_the_same_reads_in_a_cube_of_any_size_while_its_graph_grows(chain) -> None:
    small, large = chain(windows.source_cube(3)), chain(windows.source_cube(12))
    assert windows.reads(small) == windows.reads(large)
    assert len(dict(large.__dask_graph__())) > 10 * len(dict(small.__dask_graph__()))


@pytest.mark.parametrize("chain", [windows.composite_chain, windows.halo_chain])
def test_a_window_and_the_culled_graph_give_equal_pixels(chain) -> None:
    cube = chain(windows.source_cube(3))
    np.testing.assert_array_equal(windows.by_window(cube), windows.by_cull(cube))
