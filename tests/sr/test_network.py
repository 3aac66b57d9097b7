"""The residual network: bicubic at the start, blind to what is not valid, no farther-sighted than its halo says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eocube.kernels.resample import upsample_bicubic
from eocube.sr.network import MaskedBicubic, ResidualSr


def fresh(scale: int = 2, *, blocks: int = 2, seed: int = 0, trained: bool = False) -> ResidualSr:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = ResidualSr(n_in=3, out_index=[0, 2], scale=scale, channels=6, blocks=blocks)
        if trained:
            torch.nn.init.normal_(module.up.weight, std=0.1)
    return module.eval()


def image(shape_yx: tuple[int, int], *, holes: float = 0.0, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """(lr, valid) of one sample; 0 where not valid."""
    rng = np.random.default_rng(seed)
    valid = rng.random((1, 1, *shape_yx)) >= holes
    lr = rng.random((1, 1, 3, *shape_yx), dtype=np.float32) * valid[:, :, None]
    return torch.from_numpy(lr), torch.from_numpy(valid)


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("holes", [0.0, 0.3], ids=["whole", "with holes"])
def test_the_torch_bicubic_is_the_kernel(scale: int, holes: float) -> None:
    """Where the pixel is valid; a margin of NaN stands for the end of the image in both."""
    lr, valid = image((9, 7), holes=holes)
    with torch.inference_mode():
        found = MaskedBicubic(scale)(lr[:, 0], valid.float()).numpy()
    known = np.where(valid.numpy(), lr[:, 0].numpy(), np.nan).astype(np.float32)
    edge = 2 * scale
    expected = upsample_bicubic(np.pad(known, ((0, 0), (0, 0), (2, 2), (2, 2)), constant_values=np.nan), scale)
    expected = expected[..., edge:-edge, edge:-edge]
    present = np.isfinite(expected)
    np.testing.assert_array_equal(present[0, 0], np.kron(valid[0, 0].numpy(), np.ones((scale, scale))) == 1)
    np.testing.assert_allclose(found[present], expected[present], atol=1e-6)


def test_it_starts_as_bicubic() -> None:
    lr, valid = image((10, 8), holes=0.2)
    module = fresh()
    with torch.inference_mode():
        np.testing.assert_array_equal(module(lr, valid, None), module.base(lr[:, 0, [0, 2]], valid.float()))


def test_an_invalid_margin_is_the_end_of_the_image() -> None:
    lr, valid = image((7, 9), holes=0.1)
    framed, known = torch.zeros((1, 1, 3, 20, 21)), torch.zeros((1, 1, 20, 21), dtype=torch.bool)
    framed[..., 5:12, 6:15], known[..., 5:12, 6:15] = lr, valid
    module = fresh(trained=True)
    with torch.inference_mode():
        alone, inside = module(lr, valid, None), module(framed, known, None)[..., 10:24, 12:30]
    np.testing.assert_allclose(inside, alone, atol=1e-6)


def test_invalid_pixels_have_no_influence_whatever_surrounds_them() -> None:
    lr, valid = image((8, 8), holes=0.3)
    other, without = lr.clone(), valid.clone()
    without[..., 3:5, 3:5] = False
    other[..., 3:5, 3:5] = 0
    module = fresh(trained=True)
    with torch.inference_mode():
        module.mean.fill_(0.3)
        a = module(other, without, None)
        b = module(torch.where(without[:, :, None], lr, torch.zeros(())), without, None)
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("blocks", [0, 1, 3])
def test_its_halo_is_exact(blocks: int) -> None:
    """A pixel just inside the halo counts, one just outside does not."""
    module = fresh(blocks=blocks, trained=True)
    halo, middle = module.halo_px, 12
    lr, valid = image((25, 25))
    with torch.inference_mode():
        before = module(lr, valid, None)[..., 2 * middle, 2 * middle]
        near, far = lr.clone(), lr.clone()
        near[..., middle, middle + halo] += 1
        far[..., middle, middle + halo + 1] += 1
        near[..., middle - halo, middle] += 1
        assert not torch.equal(module(near, valid, None)[..., 2 * middle, 2 * middle], before)
        np.testing.assert_allclose(module(far, valid, None)[..., 2 * middle, 2 * middle], before, atol=1e-6)
