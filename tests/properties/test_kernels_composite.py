"""Properties of statistics over time."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from eocube.kernels.composite import count_valid, mean_over_time, median_over_time

NODATA = {"uint8": 0, "uint16": 0, "int16": -32768, "float32": np.nan, "float64": np.nan}


@st.composite
def stacks(draw):
    """Data of any dtype and small size, a mask with one band, and the dtype's nodata."""
    dtype = draw(st.sampled_from(sorted(NODATA)))
    dates, bands, ny, nx = (draw(st.integers(low, high)) for low, high in ((0, 9), (1, 2), (1, 3), (1, 5)))
    # A few values only, so that ties are common.
    ints = st.sampled_from([*range(5), 200, 255])
    values = st.floats(-1e6, 1e6, width=32) | st.just(np.nan) if dtype.startswith("f") else ints
    data = draw(arrays(dtype, (dates, bands, ny, nx), elements=values))
    return data, draw(arrays(bool, (dates, 1, ny, nx))), NODATA[dtype]


def clear_values(data, valid, nodata, pixel):
    """The values one pixel's statistic may use, as a sorted Python list of Python numbers."""
    band, y, x = pixel
    column = [v.item() for v, ok in zip(data[:, band, y, x], valid[:, 0, y, x], strict=True) if ok]
    return sorted(v for v in column if not np.isnan(v) and v != nodata)


@given(stacks())
def test_the_median_is_the_middle_of_the_sorted_clear_values(stack):
    data, valid, nodata = stack
    out = median_over_time(data, valid, nodata=nodata)
    for pixel in np.ndindex(out.shape):
        values = clear_values(data, valid, nodata, pixel)
        if not values:
            expected = nodata
        elif data.dtype.kind == "f":
            a, b = (data.dtype.type(values[i]) for i in ((len(values) - 1) // 2, len(values) // 2))
            expected = (a + b) * data.dtype.type(0.5)
        else:
            expected = round((values[(len(values) - 1) // 2] + values[len(values) // 2]) / 2)  # round() goes half to even
        assert np.array_equal(out[pixel], expected, equal_nan=True)


@given(stacks(), st.randoms(use_true_random=False))
def test_the_order_of_dates_does_not_matter_to_the_median(stack, random):
    data, valid, nodata = stack
    order = list(range(len(data)))
    random.shuffle(order)
    a, b = median_over_time(data, valid, nodata=nodata), median_over_time(data[order], valid[order], nodata=nodata)
    assert a.tobytes() == b.tobytes()


@given(stacks(), st.data())
def test_a_window_gives_the_bits_of_the_whole(stack, draw):
    data, valid, nodata = stack
    y, x = draw.draw(st.integers(0, data.shape[2] - 1)), draw.draw(st.integers(0, data.shape[3] - 1))
    for statistic in (median_over_time, mean_over_time, count_valid):
        whole = statistic(data, valid, nodata=nodata)
        part = statistic(data[:, :, y:, x:], valid[:, :, y:, x:], nodata=nodata)
        assert part.tobytes() == np.ascontiguousarray(whole[..., y:, x:]).tobytes()


@given(stacks())
def test_dropping_masked_dates_by_hand_changes_nothing(stack):
    data, valid, nodata = stack
    blanked = np.where(valid, data, np.array(nodata, data.dtype))
    for statistic in (median_over_time, mean_over_time, count_valid):
        assert statistic(data, valid, nodata=nodata).tobytes() == statistic(blanked, nodata=nodata).tobytes()


@given(stacks())
def test_mean_and_median_lie_between_the_extremes(stack):
    data, valid, nodata = stack
    for statistic in (median_over_time, mean_over_time):
        out = statistic(data, valid, nodata=nodata)
        for pixel in np.ndindex(out.shape):
            values = clear_values(data, valid, nodata, pixel)
            assert not values or values[0] <= out[pixel] <= values[-1]
