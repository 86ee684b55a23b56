"""Transformers under torch.compile, and settings of a wrong kind."""

import pytest
import torch

import vaekit
from vaekit.objective import TrainStep

TINY = {"width": 16, "depth": 1, "heads": 2}
NAMES = ("vit", "latent_query_vit", "perceiver")
MODERN = {"norm": "rms", "qk_norm": True, "mlp": "swiglu", "checkpoint": True}  # test_compile has the plain ones


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
@pytest.mark.parametrize("name", NAMES)
def test_a_part_compiles_whole_and_gives_the_same(name, kind):
    shapes = ((3, 9, 14), (5,)) if kind == "encoder" else ((5,), (3, 9, 14))
    part = getattr(vaekit, kind)[name](*shapes, 6, **TINY, **MODERN)
    given, cond = torch.rand(2, *shapes[0]), torch.randn(2, 3, 6)
    compiled = torch.compile(part, fullgraph=True, backend="aot_eager")
    found = []
    for call in (compiled, part):
        part.zero_grad()
        y = call(given, cond)
        y.square().sum().backward()
        found.append([y, *(p.grad for p in part.parameters())])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("positions", ["sincos", "learned"])
def test_other_sizes_compile_too(positions):
    part = vaekit.encoder["vit"]((3, 8, 12), (4, 4, 6), **TINY, positions=positions)
    compiled = torch.compile(part, fullgraph=True, backend="aot_eager", dynamic=False)
    for size in ((8, 12), (9, 20)):
        x = torch.rand(2, 3, *size)
        torch.testing.assert_close(compiled(x), part(x), rtol=1e-4, atol=1e-4)


def test_a_training_step_of_titok_compiles_whole():
    vae = vaekit.build("titok", input_shape=(3, 16, 16), tokens=4, codebook_size=8, **TINY)
    step = torch.compile(TrainStep(vae), fullgraph=True, backend="aot_eager")
    step(torch.rand(2, 3, 16, 16)).total.backward()
    assert all(p.grad is not None for p in vae.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("match", "args"),
    [
        (r"norm: expected 'layer' or 'rms', got 'batch'", {"norm": "batch"}),
        (r"mlp: expected 'gelu' or 'swiglu', got 'relu'", {"mlp": "relu"}),
        (r"positions: expected 'sincos' or 'learned', got 'rotary'", {"positions": "rotary"}),
        (r"pool: expected 'none', 'mean' or 'token', got 'max'", {"pool": "max"}),
    ],
)
def test_a_kind_that_is_none_is_refused(match, args):
    with pytest.raises(vaekit.BuildError, match=r"vae\.encoder: " + match):
        vaekit.build(input_shape=(3, 8, 8), latent=4, encoder=vaekit.use("vit", **TINY, **args), decoder="mlp")


def test_titok_knows_its_sizes():
    with pytest.raises(vaekit.BuildError, match=r"recipe 'titok': size: expected 'S', 'B' or 'L', got 'XL'"):
        vaekit.build("titok", size="XL")
