"""Properties of masks and digital numbers."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from eocube.kernels.masking import clear_percent
from eocube.kernels.radiometry import dn_to_reflectance, reflectance_to_dn, shift_dn

masks = arrays(bool, st.tuples(st.integers(0, 3), st.integers(1, 20), st.integers(1, 20)))
numbers = arrays("uint16", st.integers(0, 40), elements=st.integers(0, 65535))


@given(masks, st.integers(1, 25))
def test_each_cell_is_the_percentage_of_its_own_pixels(clear, cell_px):
    out = clear_percent(clear, cell_px)
    for t, y, x in np.ndindex(out.shape):
        cell = clear[t, y * cell_px : (y + 1) * cell_px, x * cell_px : (x + 1) * cell_px]
        assert out[t, y, x] == 100 * int(cell.sum()) // cell.size


@given(masks, st.integers(1, 6), st.integers(0, 4), st.integers(0, 4))
def test_a_window_that_starts_on_a_cell_gives_the_cells_of_the_whole(clear, cell_px, y, x):
    whole = clear_percent(clear, cell_px)
    part = clear_percent(clear[:, y * cell_px :, x * cell_px :], cell_px)
    assert np.array_equal(part, whole[:, y:, x:])


@given(numbers, st.sampled_from([(0.0001, -0.1), (0.0001, 0.0), (2.75e-05, -0.2), (1.0, 0.0)]), st.sampled_from([0, 65535]))
def test_encoding_undoes_decoding(dn, coding, nodata):
    scale, offset = coding
    back = reflectance_to_dn(
        dn_to_reflectance(dn, scale=scale, offset=offset, nodata=nodata),
        scale=scale,
        offset=offset,
        dtype="uint16",
        nodata=nodata,
    )
    assert np.array_equal(back, dn)


@given(numbers.map(lambda dn: np.minimum(dn, np.uint16(64535))), st.sampled_from([0, None]))
def test_shifting_loses_nothing(dn, nodata):
    shifted = shift_dn(dn, shift=1000, nodata=nodata)
    assert np.array_equal(shift_dn(shifted, shift=-1000, nodata=nodata), dn)
    assert ((shifted == 0) == (dn == nodata)).all() if nodata == 0 else (shifted >= 1000).all()


@given(numbers, st.integers(0, 40), st.integers(0, 40))
def test_a_slice_decodes_to_the_slice_of_the_whole(dn, start, stop):
    coding = {"scale": 0.0001, "offset": -0.1, "nodata": 0}
    assert np.array_equal(
        dn_to_reflectance(dn[start:stop], **coding), dn_to_reflectance(dn, **coding)[start:stop], equal_nan=True
    )
