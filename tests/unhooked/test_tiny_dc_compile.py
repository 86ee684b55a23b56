"""The tiny and the deep compression autoencoder under torch.compile, whole."""

import copy
from typing import Any

import pytest
import torch

import vaekit
from vaekit.objective import TrainStep
from vaekit.spec import use

TINY: dict[str, Any] = {"widths": (8, 8), "blocks": (1, 1)}
DC: dict[str, Any] = {
    "widths": (8, 16),
    "blocks": (1, 1),
    "block_types": ("resnet", "efficientvit"),
    "qkv_multiscales": ((), (3,)),
    "head_dim": 4,
}


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()


@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize(
    ("name", "args", "up"),
    [
        ("tiny", TINY, {}),
        ("tiny", {**TINY, "pool": True}, {}),
        ("dc", DC, {}),
        ("dc", {**DC, "blocks": (0, 1)}, {"norms": "batch", "acts": "relu"}),
    ],
)
def test_tiny_and_dc_compile_whole(name, args, up, checkpoint):
    vae = vaekit.build(
        input_shape=(3, 10, 12),
        latent=(4, 5, 6),
        encoder=use(name, **args, out_channels=4, checkpoint=checkpoint),
        decoder=use(name, **args, **up, checkpoint=checkpoint),
        sampler=use("dirac", head="none"),
        likelihood=use("laplace", scale=1.0),
        loss={"l1": 1.0},
    )
    twin, x = copy.deepcopy(vae), torch.rand(2, 3, 10, 12)
    total = torch.compile(TrainStep(vae), fullgraph=True, backend="aot_eager")(x).total
    total.backward()
    plain = twin.loss(x).total
    plain.backward()
    torch.testing.assert_close(total, plain)
    for a, b in zip(vae.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5)
    for (key, a), b in zip(vae.named_buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(a, b, msg=key)  # batch norms count a batch once
