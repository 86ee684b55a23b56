"""The fully connected encoder."""

import math
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from vaekit.kinds import Encoder, encoder
from vaekit.layers.perceptron import Activation, Perceptron


@encoder("mlp", tags=("tabular", "signal", "image", "volume"), cite="kingma2014")
class MLPEncoder(Encoder):
    """h = act(W … act(W x)): linear layers on the flattened data.

    Shapes: x `(b, c, *s)` of any rank → h (b, hidden[-1]).

    Args:
        in_shape: the data's shape, wired.
        cond_dim: width of the condition's tokens, whose mean joins the input; wired.
        hidden: widths of the layers.
        act: activation after each layer.
        dropout: part of the activations dropped in training.

    Raises:
        ValueError: where a width is not positive, or the activation unknown.

    References:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2014), https://arxiv.org/abs/1312.6114

    Example:
        >>> import torch, vaekit
        >>> vaekit.encoder["mlp"]((1, 28, 28), hidden=(400,))(torch.rand(5, 1, 28, 28)).shape
        torch.Size([5, 400])
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        cond_dim: int = 0,
        *,
        hidden: Sequence[int] = (400,),
        act: Activation = "relu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.body = Perceptron(math.prod(in_shape), hidden, cond_dim, act, dropout)

    def forward(self, x: Float[Tensor, "b c *s"], cond: Float[Tensor, "b t k"] | None = None) -> Float[Tensor, "b h"]:
        return self.body(x.flatten(1), cond)
