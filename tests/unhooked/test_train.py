"""The Trainer's step, compiled, and arguments of wrong types."""

import pytest
import torch

import vaekit

X = torch.rand(40, 6, generator=torch.Generator().manual_seed(0))


def run(**args):
    torch.manual_seed(0)
    vae = vaekit.build("mlp", latent=2, input_shape=(6,), hidden=(8,))
    history = vaekit.Trainer(vae, X, X, epochs=2, batch_size=16, device="cpu", **args).fit()
    return torch.cat([p.detach().flatten() for p in vae.parameters()]), history["val/total"]


def test_a_compiled_step_trains_as_the_plain_one():
    (a, seen), (b, again) = run(), run(compile={"backend": "aot_eager"})
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(torch.tensor(seen), torch.tensor(again), rtol=1e-4, atol=1e-4)


def test_and_in_half_precision():
    (a, _), (b, _) = run(precision="bf16"), run(precision="bf16", compile={"backend": "aot_eager"})
    torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(
    ("args", "match"),
    [
        ({"optimizer": 3}, "optimizer should be a name, use.* got int"),
        ({"schedule": 3}, "schedule should be a name, use.* got int"),
        ({"precision": "half"}, "precision: expected 'auto', 'fp32', 'bf16', 'fp16', got 'half'"),
        ({"memory_format": "last"}, "memory_format: expected 'auto', 'contiguous' or 'channels_last', got 'last'"),
        ({"checkpoint_every": 1.5}, "checkpoint_every should be a whole number"),
    ],
)
def test_arguments_of_wrong_types(args, match):
    with pytest.raises(ValueError, match=match):
        run(**args)
