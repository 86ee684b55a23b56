"""Every law of a kind, over every registered part of the kind."""

import pytest

from vaekit.registry import registries
from vaekit.testing import Subject, laws

# arguments that make a part small, or that it can't do without
SMALL = {
    ("encoder", "mlp"): {"hidden": (16,)},
    ("encoder", "conv"): {"width": 8},
    ("encoder", "resnet"): {"width": 8},
    ("encoder", "unet_attn"): {"width": 8, "blocks": 1, "heads": 2, "attention": 8},
    ("encoder", "timm"): {"backbone": "test_resnet"},
    ("decoder", "mlp"): {"hidden": (16,)},
    ("decoder", "conv"): {"width": 8},
    ("decoder", "resnet"): {"width": 8},
    ("decoder", "unet_attn"): {"width": 8, "blocks": 1, "heads": 2, "attention": 8},
    ("sampler", "gumbel_softmax"): {"categories": 2},
    ("sampler", "joint"): {"categories": 2},
    ("sampler", "vq"): {"codebook_size": 8},
    ("sampler", "gumbel_vq"): {"codebook_size": 8},
    ("sampler", "residual_vq"): {"codebook_size": 8, "depth": 2},
    ("sampler", "grouped_vq"): {"codebook_size": 8, "groups": 1},
    ("sampler", "fsq"): {"levels": (15,)},
    ("sampler", "flow"): {"hidden": (8,), "transforms": 2, "context": 4},
    ("sampler", "iaf"): {"hidden": (8,), "flows": 2},
    ("prior", "autoregressive"): {"width": 16, "depth": 1, "heads": 2, "epochs": 3},
    ("prior", "flow"): {"hidden": (16,), "transforms": 2, "epochs": 5},
    ("prior", "two_stage"): {"hidden": (16,), "epochs": 5},
    ("prior", "gmm"): {"components": 3},
    ("prior", "kde"): {"points": 100},
    ("prior", "empirical"): {"points": 50},
    ("loss", "vgg"): {"weights": None, "layers": ("relu1_2",)},
    ("discriminator", "conv"): {"width": 8},
    ("likelihood", "categorical"): {"levels": 5},
    ("likelihood", "discretized_logistic"): {"bins": 5},
    ("likelihood", "discretized_logistic_mixture"): {"bins": 5, "components": 2},
    ("condition", "target"): {"classes": 3},
    ("recipe", "dfc_vae"): {"weights": None},
    ("recipe", "miwae"): {"m": 2, "k": 2},
    ("recipe", "piwae"): {"m": 2, "k": 2},
    ("prior", "mixture"): {"components": 3},
    ("prior", "vamp"): {"components": 4},
    ("condition", "class"): {"classes": 3, "dim": 4},
    ("recipe", "unet_attn"): {"width": 8, "heads": 2},
    ("recipe", "resnet"): {"width": 8},
    ("weight", "constant"): {"value": 2.0},
    ("weight", "ramp"): {"start": 0.0, "end": 1.0, "steps": 3},
    ("weight", "cyclical"): {"start": 0.0, "end": 1.0, "period": 4},
    ("weight", "geco"): {"target": 2.0},
}
SUBJECTS = [
    Subject(kind, name, SMALL.get((kind, name), {})) for kind, registry in registries().items() for name in registry
]


@pytest.mark.parametrize(
    ("law", "subject"),
    [pytest.param(law, s, id=f"{s.kind}-{s.name}-{law.__name__}") for s in SUBJECTS for law in laws(s.kind)],
)
def test_a_part_obeys(law, subject):
    law(subject)
