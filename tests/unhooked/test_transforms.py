"""Transforms and losses of structure under torch.compile, and words that name no kind."""

import pytest
import torch

import vaekit
from vaekit import term
from vaekit.objective import TrainStep


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()


def make(name, **args):
    wired = {"equivariance": ((4, 8, 8), (1, 16, 16)), "bound": ()}.get(name, ((4, 8, 8),))
    return vaekit.transform[name](*wired, **args)


@pytest.mark.parametrize("name", vaekit.transform.names())
def test_a_transform_compiles_whole_or_says_that_it_does_not(name):
    if name not in ("equivariance", "latent_noise", "channel_dropout", "bound"):
        pytest.skip("not one of these")
    transform = make(name)
    compiled = torch.compile(transform, fullgraph=True, backend="aot_eager")
    z, x = torch.randn(2, 4, 8, 8), torch.rand(2, 1, 16, 16)

    def run(module):
        torch.manual_seed(0)
        return module(z, x)

    if not transform.compiles:
        with pytest.raises(Exception, match="."):  # Dynamo has many exceptions
            run(compiled)
        return
    torch.testing.assert_close(run(compiled), run(transform))


@pytest.mark.parametrize("name", ["focal_frequency", "wavelet", "gradient"])
def test_a_loss_of_structure_compiles_whole(name):
    vae = vaekit.build("mlp", latent=2, input_shape=(1, 12, 13), hidden=(8,), sampler="dirac", loss=[term(name)])
    x = torch.rand(3, 1, 12, 13)
    total = torch.compile(TrainStep(vae), fullgraph=True, backend="aot_eager")(x).total
    torch.testing.assert_close(total, vae.loss(x).total)
    total.backward()


@pytest.mark.parametrize(
    ("name", "args", "match"),
    [
        ("latent_noise", {"kind": "laplace"}, r"kind: expected 'gaussian' or 'uniform', got 'laplace'"),
        ("latent_noise", {"strength": "any"}, r"strength: expected 'random' or 'fixed', got 'any'"),
        ("bound", {"kind": "sigmoid"}, r"kind: expected 'tanh' or 'clip', got 'sigmoid'"),
    ],
)
def test_words_that_name_no_kind_are_refused(name, args, match):
    with pytest.raises(ValueError, match=match):
        make(name, **args)
