"""The fully connected decoder."""

import math
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from vaekit.kinds import Decoder, decoder
from vaekit.layers.perceptron import Activation, Perceptron


@decoder("mlp", tags=("tabular", "signal", "image", "volume"), cite="kingma2014")
class MLPDecoder(Decoder):
    """y = W act(W … act(W z)): linear layers on the flattened latent, the last one without an activation.

    Shapes: z `(b, *latent)` → y `(b, *out_shape)` of any rank.

    Args:
        latent_shape: the latent's shape, wired.
        out_shape: y's shape, wired.
        cond_dim: width of the condition's tokens, whose mean joins the input; wired.
        hidden: widths of the hidden layers, from the latent to the data.
        act: activation after each hidden layer.
        dropout: part of the activations dropped in training.

    Raises:
        ValueError: where a width is not positive, or the activation unknown.

    References:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2014), https://arxiv.org/abs/1312.6114

    Example:
        >>> import torch, vaekit
        >>> vaekit.decoder["mlp"]((20,), (1, 28, 28))(torch.randn(5, 20)).shape
        torch.Size([5, 1, 28, 28])
    """

    def __init__(
        self,
        latent_shape: Sequence[int],
        out_shape: Sequence[int],
        cond_dim: int = 0,
        *,
        hidden: Sequence[int] = (400,),
        act: Activation = "relu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.out_shape = tuple(out_shape)
        self.body = Perceptron(math.prod(latent_shape), hidden, cond_dim, act, dropout)
        self.out = nn.Linear(self.body.out_features, math.prod(out_shape))

    def forward(
        self, z: Float[Tensor, "b *latent"], cond: Float[Tensor, "b t k"] | None = None
    ) -> Float[Tensor, "b c *s"]:
        return self.out(self.body(z.flatten(1), cond)).reshape(-1, *self.out_shape)
