"""The Haar transform of patches against matrices, pooling and another library's layer."""

import math

import pytest
import scipy.linalg
import torch
import torch.nn.functional as F

from vaekit.layers.haar import haar, inverse_haar

SHAPES = [(2, 3, 8), (2, 3, 8, 12), (2, 1, 4, 8, 12)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("patch", [1, 2, 4])
def test_the_sum_of_squares_is_kept_and_the_inverse_is_exact(shape, patch):
    x = torch.randn(shape).double()
    y = haar(x, patch)
    assert y.shape == (shape[0], shape[1] * patch ** (len(shape) - 2), *(s // patch for s in shape[2:]))
    torch.testing.assert_close(y.square().sum(), x.square().sum())
    torch.testing.assert_close(inverse_haar(y, patch), x)
    torch.testing.assert_close(inverse_haar(haar(x, patch, means=True), patch, means=True), x)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_inverse_is_the_transpose(shape):
    x, y = torch.randn(shape).double(), torch.randn(haar(torch.zeros(shape), 4).shape).double()
    torch.testing.assert_close((haar(x, 4) * y).sum(), (x * inverse_haar(y, 4)).sum())


def test_each_patch_meets_the_rows_of_a_hadamard_matrix():
    """All bands split again makes Walsh's functions, whose matrix scipy has; only their order is ours."""
    got = haar(torch.eye(16).reshape(16, 1, 4, 4), 4).flatten(1).T.double()
    rows = {tuple(row) for row in torch.from_numpy(scipy.linalg.hadamard(16)).double().div(4).tolist()}
    assert {tuple(row) for row in got.tolist()} == rows


@pytest.mark.parametrize(("shape", "pool"), [*zip(SHAPES, (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d), strict=True)])
def test_the_low_band_holds_means(shape, pool):
    x = torch.rand(shape)
    torch.testing.assert_close(haar(x, 4, means=True)[:, : shape[1]], pool(x, 4))
    scale = 4 ** ((len(shape) - 2) / 2)
    torch.testing.assert_close(haar(x, 4), scale * haar(x, 4, means=True))


@pytest.mark.parametrize("patch", [2, 4])
def test_channels_stand_in_the_order_of_cosmos(patch):
    autoencoder = pytest.importorskip("diffusers.models.autoencoders.autoencoder_kl_cosmos")
    x = torch.randn(1, 3, 8, 4, 12)
    theirs, own = autoencoder.CosmosPatchEmbed3d(patch, "haar"), x
    for _ in range(int(math.log2(patch))):
        own = theirs._dwt(own, rescale=True)
    torch.testing.assert_close(haar(x, patch, means=True), own)


def test_bad_patches_and_sizes_are_refused():
    with pytest.raises(ValueError, match=r"patch: expected a power of 2, got 3"):
        haar(torch.zeros(1, 1, 6, 6), 3)
    with pytest.raises(ValueError, match=r"haar: expected sides that are multiples of 4, got \(8, 6\)"):
        haar(torch.zeros(1, 1, 8, 6), 4)
    with pytest.raises(ValueError, match=r"inverse_haar: expected a multiple of 4 channels, got 6"):
        inverse_haar(torch.zeros(1, 6, 2, 2))
    with pytest.raises(ValueError, match=r"haar: expected data with spatial dimensions"):
        haar(torch.zeros(1, 6))
