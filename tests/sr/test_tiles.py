"""Tiles are invisible: what they give together is what the whole image gives, whatever its size."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eocube.errors import ModelError
from eocube.infer.model import Model
from eocube.kernels.arrays import BoolArray, Float32Array
from eocube.kernels.radiometry import dn_to_reflectance
from eocube.model.frame import Frame
from eocube.sr import load_model
from eocube.sr.folder import load_network
from eocube.sr.tiles import BATCH_TILES, CORE_PX, Inputs, check_model, context, cores, iter_tiles, predict, sr_frame, tile_edge
from eocube.testing.models import NearestModel
from tests.patches.makers import frame_of, geobox
from tests.sr.makers import make_network

DN = 1e-4


class BoxModel(NearestModel):
    """Mean of the 7 × 7 neighbours, where beyond the image is 0: every pixel of its halo counts by hundreds of numbers."""

    halo_px = 3

    def __call__(self, lr: Float32Array, *, valid: BoolArray, days: Float32Array) -> Float32Array:
        ny, nx = lr.shape[-2:]
        padded = np.pad(lr, ((0, 0), (0, 0), (0, 0), (3, 3), (3, 3)))
        mean = sum(padded[..., i : i + ny, j : j + nx] for i in range(7) for j in range(7)) / np.float32(49)
        return super().__call__(np.asarray(mean, np.float32), valid=np.ones_like(valid), days=days)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("network") / "m"
    make_network(folder, bands_in=("green", "red"), channels=4)
    return load_network(str(folder))


def make_inputs(n: int, shape_yx: tuple[int, int], *, holes: float, seed: int = 0) -> Inputs:
    rng = np.random.default_rng(seed)
    valid = rng.random((n, *shape_yx)) >= holes
    lr = (rng.random((n, 2, *shape_yx), dtype=np.float32) * np.float32(0.8)) * valid[:, None]
    return Inputs(lr, valid, (0, 0))


def whole_image(model: Model, inputs: Inputs) -> Float32Array:
    """One forward over the whole image, date by date; NaN where the input is not valid."""
    n = len(inputs.lr)
    out = model(inputs.lr[:, None], valid=inputs.valid[:, None], days=np.zeros((n, 1), np.float32))
    scale = int(model.scale)
    known = np.repeat(np.repeat(inputs.valid, scale, axis=1), scale, axis=2)
    return np.where(known[:, None], out, np.nan)


SIZES = st.one_of(st.integers(1, 12), st.sampled_from([63, 64, 65, 127, 128, 129]), st.integers(1, 150))


@pytest.fixture(scope="module", params=["network", "box"])
def model(request: pytest.FixtureRequest, network: Model) -> Model:
    return network if request.param == "network" else BoxModel(2, ("green", "red"))


@settings(deadline=None, max_examples=20)
@given(height=SIZES, width=SIZES, holes=st.sampled_from([0.0, 0.1]), seed=st.integers(0, 9))
def test_tiles_give_what_the_whole_image_gives(model: Model, height: int, width: int, holes: float, seed: int) -> None:
    """Not square, not a multiple of the core, a single pixel; half a digital number is what rounding alone may change."""
    inputs = make_inputs(1, (height, width), holes=holes, seed=seed)
    found = dn_to_reflectance(predict(model, inputs, (0, height), (0, width)), scale=DN, offset=-0.1, nodata=0)
    expected = np.clip(whole_image(model, inputs), -0.0999, 6.4535)
    np.testing.assert_allclose(found, expected, atol=0.5 * DN + 1e-5)


def spans(size: int) -> st.SearchStrategy[tuple[int, int]]:
    """Two ends inside an image, often on the edge of a core, where a pixel too little of context shows."""
    ends = st.one_of(st.sampled_from([e for e in (0, 64, 128, size) if e <= size]), st.integers(0, size))
    return st.tuples(ends, ends).filter(lambda s: s[0] != s[1]).map(lambda s: (min(s), max(s)))


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_any_piece_holds_the_bits_of_the_whole(model: Model, data: st.DataObject) -> None:
    height, width = data.draw(SIZES), data.draw(st.sampled_from([3, 70, 130, 150]))
    inputs = make_inputs(1, (height, width), holes=0.05)
    y, x = (data.draw(spans(n)) for n in (height, width))
    everything = predict(model, inputs, (0, height), (0, width))
    rows, columns = (slice(*context(s, n, model)) for s, n in ((y, height), (x, width)))
    part = Inputs(inputs.lr[..., rows, columns], inputs.valid[..., rows, columns], (rows.start, columns.start))
    piece = everything[:, :, 2 * y[0] : 2 * y[1], 2 * x[0] : 2 * x[1]]
    np.testing.assert_array_equal(predict(model, part, y, x), piece, strict=True)


@pytest.mark.parametrize("name", ["nearest", "bicubic"])
def test_baselines_have_no_seams_either(name: str) -> None:
    model = load_model(name, scale=3, bands=["green", "red"])
    inputs = make_inputs(1, (70, 131), holes=0.02)
    found = dn_to_reflectance(predict(model, inputs, (0, 70), (0, 131)), scale=DN, offset=-0.1, nodata=0)
    np.testing.assert_allclose(found, np.clip(whole_image(model, inputs), -0.0999, 6.4535), atol=0.5 * DN + 1e-6)


class Watched(NearestModel):
    """Remembers the shapes it was called with."""

    def __init__(self) -> None:
        super().__init__(2, ("green", "red"))
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, lr: Float32Array, *, valid: BoolArray, days: Float32Array) -> Float32Array:
        self.shapes.append(lr.shape)
        return super().__call__(lr, valid=valid, days=days)


def test_every_batch_has_the_one_shape() -> None:
    model = Watched()
    for shape in ((1, 1), (64, 64), (100, 300)):
        predict(model, make_inputs(3, shape, holes=0.0), (0, shape[0]), (0, shape[1]))
    assert set(model.shapes) == {(BATCH_TILES, 1, 2, CORE_PX, CORE_PX)}


def test_tiles_without_a_valid_pixel_are_left_out_and_stay_nodata() -> None:
    model, inputs = Watched(), make_inputs(2, (128, 128), holes=0.0)
    inputs.valid[0] = False
    inputs.valid[1, :64] = False
    inputs.lr[~np.broadcast_to(inputs.valid[:, None], inputs.lr.shape)] = 0
    assert [t.key for t in iter_tiles(inputs, (0, 128), (0, 128), model)] == [(1, 64, 0), (1, 64, 64)]
    dn = predict(model, inputs, (0, 128), (0, 128))
    assert (dn[0] == 0).all()
    assert (dn[1, :, :128] == 0).all()
    assert (dn[1, :, 128:] > 0).all()
    inputs.valid[...] = False
    model.shapes.clear()
    assert not predict(model, inputs, (0, 128), (0, 128)).any()
    assert model.shapes == []


def test_a_pixel_with_data_is_never_nodata_and_never_wraps_round() -> None:
    """Reflectance outside the range of the numbers is set to its ends."""
    model = NearestModel(1, ("green", "red"))
    lr = np.array([-5.0, -0.1, -0.0999, 0.0, 6.4535, 9.0], np.float32).reshape(1, 1, 1, 6).repeat(2, axis=1)
    dn = predict(model, Inputs(lr, np.ones((1, 1, 6), bool), (0, 0)), (0, 1), (0, 6))
    assert dn[0, 0, 0].tolist() == [1, 1, 1, 1000, 65535, 65535]


@given(start=st.integers(0, 500), length=st.integers(1, 300))
def test_cores_are_the_worlds_and_cover_the_span(start: int, length: int) -> None:
    starts = cores((start, start + length))
    assert all(s % CORE_PX == 0 for s in starts)
    assert starts[0] <= start < starts[0] + CORE_PX
    assert starts[-1] < start + length <= starts[-1] + CORE_PX


# ------------------------------------------------------------------------------------------------ frames


def cube_frame(**changes: Any) -> Frame:
    return frame_of(geobox((10, 12), 20.0), (1.0, 2.0), ("nir", "red", "green")).with_(**changes)


def test_the_frame_is_the_same_ground_in_finer_pixels(network: Model) -> None:
    frame = cube_frame()
    fine = sr_frame(frame, network)
    assert fine.geobox == geobox((20, 24), 10.0) == frame.geobox.zoom_out(1 / 2)
    assert fine.band_names == ("green", "red")
    assert fine.bands[0].eo_name == "B03"
    assert (fine.data.dtype, fine.data.scale, fine.data.offset, fine.data.nodata) == ("uint16", 1e-4, -0.1, 0)
    assert [v.name for v in fine.variables] == ["data", "scl"]
    assert fine.time_ms == frame.time_ms


@pytest.mark.parametrize(
    ("model", "said"),
    [
        pytest.param(NearestModel("10/3", ("red",)), "10/3 output pixels", id="a scale that is not whole"),
        pytest.param(NearestModel("1/2", ("red",)), "1/2 output pixels", id="a model that shrinks"),
        pytest.param(NearestModel(2, ("red", "swir16")), "swir16 is missing", id="a band too many"),
        pytest.param(NearestModel(2, ("red",), revisits=8), "8 revisits", id="a multi-frame model"),
        pytest.param("bicubic", "load_model", id="a name"),
        pytest.param(Fraction(2), "load_model", id="a number"),
    ],
)
def test_a_model_that_does_not_fit_is_told_so(model: Any, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        check_model(cube_frame(), model)


def test_numbers_without_a_scale_are_not_reflectance(network: Model) -> None:
    with pytest.raises(ModelError, match="without a scale"):
        check_model(cube_frame().with_variable("data", scale=None, offset=None), network)


def test_the_tile_is_core_and_halo(network: Model) -> None:
    assert tile_edge(network) == CORE_PX + 2 * network.halo_px == 64 + 10
