"""The size of one stage's weights."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from vaekit.kinds import Loss, loss
from vaekit.records import Output


@loss("weight_l2", cite="ghosh2020")
class WeightL2Loss(Loss):
    """½ Σ w² over the trained parameters of one stage, biases among them: weight decay as a term.

    The same number stands for each example, so that the batch's mean is the term itself, whatever the batch's size.

    Shapes: Output → (b,). Unit: the weights' own, squared.

    Args:
        stage: the stage whose weights these are.

    Raises:
        ValueError: where the stage is unknown; at build, where it has no trained parameters.

    References:
        From Variational to Deterministic Autoencoders (Ghosh et al., 2020), https://arxiv.org/abs/1903.12436

    Example:
        >>> import torch, vaekit
        >>> loss = {"mse": 1.0, "latent_l2": 1e-2, "weight_l2": 1e-4}
        >>> vae = vaekit.build("mlp", latent=2, input_shape=(1, 4, 4), sampler="dirac", loss=loss)
        >>> list(vae.loss(torch.rand(3, 1, 4, 4)).terms)
        ['mse', 'latent_l2', 'weight_l2']
    """

    def __init__(self, *, stage: Literal["encoder", "sampler", "prior", "decoder", "likelihood"] = "decoder") -> None:
        super().__init__()
        stages = ("encoder", "sampler", "prior", "decoder", "likelihood")
        if stage not in stages:
            raise ValueError(f"stage: expected one of {', '.join(stages)}; got {stage!r}.")
        self.stage = stage

    def check(self, out: Output) -> None:
        """The stage needs parameters."""
        if not any(p.requires_grad for p in getattr(out.model, self.stage).parameters()):
            raise ValueError(f"weight_l2: the model's {self.stage} has no trained parameters. Choose another stage.")

    def forward(self, out: Output) -> Float[Tensor, " b"]:
        weights = [p for p in getattr(out.model, self.stage).parameters() if p.requires_grad]
        return torch.stack([0.5 * w.square().sum() for w in weights]).sum().expand(len(out.x))
