"""Losses in classification networks under torch.compile: whole, from the first call on, and with shared passes."""

import copy

import pytest
import torch
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd

from vaekit import build, term
from vaekit.objective import TrainStep

SMALL = {
    "perceptual": {"layers": ("relu1_2", "relu2_1")},
    "style": {"layers": ("relu2_1", "relu1_2")},
    "lpips": {"net": "squeeze"},
    "dists": {"calibration": "equal"},
}


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()


def model(*names, **args):
    terms = [term(name, **{"weights": "random", **SMALL[name], **args}) for name in names]
    return build("mlp", latent=2, input_shape=(1, 17, 17), loss=["nll", *terms])


def compiled(vae, counts):
    def count(graph, example):
        counts.append(sum("convolution" in str(node.target) for node in graph.graph.nodes))
        return make_boxed_func(graph.forward)

    return torch.compile(TrainStep(vae), fullgraph=True, backend=aot_autograd(fw_compiler=count, bw_compiler=count))


@pytest.mark.parametrize(
    ("names", "convolutions"),
    # forward: x and x̂; backward: x̂ alone. The second of two losses in one network costs none.
    [(("perceptual",), [6, 3]), (("perceptual", "style"), [6, 3]), (("lpips",), None)],
)
def test_they_compile_whole_on_the_first_call_and_share_passes(names, convolutions):
    vae, counts, x = model(*names), [], torch.rand(3, 1, 17, 17)
    twin = copy.deepcopy(vae)
    step = compiled(vae, counts)
    for _ in range(2):
        torch.manual_seed(0)
        total = step(x, None).total
        total.backward()
        torch.manual_seed(0)
        expected = twin.loss(x).total
        expected.backward()
        torch.testing.assert_close(total, expected, rtol=1e-4, atol=1e-4)
        for p, q in zip(vae.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-3)
    if convolutions:
        assert counts == convolutions
    assert len(counts) == 2, "it was traced again"


def test_missing_weights_are_told_while_a_graph_is_traced():
    with pytest.raises(Exception, match=r"there is no file nowhere\.pth"):
        compiled(model("perceptual", weights="nowhere.pth"), [])(torch.rand(2, 1, 17, 17), None)
