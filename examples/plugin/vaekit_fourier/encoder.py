"""Random Fourier features, then linear layers."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vaekit.kinds import Encoder, encoder

RAHIMI2007 = """@article{rahimi2007,
  title = {Random Features for Large-Scale Kernel Machines},
  author = {Rahimi, Ali and Recht, Benjamin},
  journal = {Advances in Neural Information Processing Systems},
  year = {2007},
}"""


@encoder("fourier", tags=("tabular",), cite=RAHIMI2007)
class FourierEncoder(Encoder):
    """h = act(W [cos Bx, sin Bx]) with a random B that stays: smooth inputs, sharp functions of them.

    Shapes: x (b, c, *s) of any rank → h (b, width). The mean token of a condition joins the features.

    Args:
        in_shape: the data's shape, wired.
        cond_dim: width of the condition's tokens, wired.
        features: random frequencies; each gives a cosine and a sine.
        scale: standard deviation of the frequencies: larger ones resolve finer detail.
        width: width of the linear layer.

    Raises:
        ValueError: where there are no features, or the scale is not positive.

    References:
        Random Features for Large-Scale Kernel Machines (Rahimi & Recht, 2007),
        https://papers.nips.cc/paper/3182
    """

    frequencies: Tensor

    def __init__(
        self, in_shape: Sequence[int], cond_dim: int = 0, *, features: int = 64, scale: float = 1.0, width: int = 128
    ) -> None:
        super().__init__()
        if features < 1 or not scale > 0:
            raise ValueError(f"expected features of at least 1 and a positive scale; got {features} and {scale}.")
        # a buffer: it is saved with the model, and no optimizer moves it
        self.register_buffer("frequencies", scale * torch.randn(math.prod(in_shape), features))
        self.layers = nn.Sequential(nn.Linear(2 * features + cond_dim, width), nn.SiLU())

    def forward(self, x: Float[Tensor, "b c *s"], cond: Float[Tensor, "b t k"] | None = None) -> Float[Tensor, "b h"]:
        """Features of x."""
        angles = x.flatten(1) @ self.frequencies
        parts = [angles.cos(), angles.sin()] + ([] if cond is None else [cond.mean(1)])
        return self.layers(torch.cat(parts, dim=1))
