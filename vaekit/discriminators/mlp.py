"""The fully connected discriminator."""

import math
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from vaekit.kinds import Discriminator, discriminator
from vaekit.layers.perceptron import Activation, Perceptron


@discriminator("mlp", tags=("latent", "tabular"), cite="makhzani2016")
class MLPDiscriminator(Discriminator):
    """logits = W act(… act(W x)): linear layers on flattened data or latents, without batch statistics.

    Shapes: x `(b, *in_shape)` → [(b, outputs)]. Features: the activations of each layer.

    Args:
        in_shape: the shape of what is judged, wired.
        hidden: widths of the layers.
        act: activation after each layer.
        outputs: logits for each example.

    Raises:
        ValueError: where there is no layer, a width or the number of outputs is not positive, or the activation
            unknown.

    References:
        Adversarial Autoencoders (Makhzani et al., 2016), https://arxiv.org/abs/1511.05644

    Example:
        >>> import torch, vaekit
        >>> vaekit.discriminator["mlp"]((8,))(torch.randn(5, 8))[0].shape
        torch.Size([5, 1])
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        *,
        hidden: Sequence[int] = (256, 256),
        act: Activation = "leaky_relu",
        outputs: int = 1,
    ) -> None:
        super().__init__()
        if outputs < 1 or not hidden:
            raise ValueError(f"mlp: expected a hidden layer and an output, got hidden={hidden}, outputs={outputs}.")
        sizes = [math.prod(in_shape), *hidden]
        self.layers = nn.ModuleList(
            Perceptron(before, (after,), 0, act) for before, after in zip(sizes, sizes[1:], strict=False)
        )
        self.out = nn.Linear(sizes[-1], outputs)

    def forward(self, x: Float[Tensor, "b *s"]) -> list[Tensor]:
        return [self.out(self.features(x)[-1])]

    def features(self, x: Float[Tensor, "b *s"]) -> list[Tensor]:
        """Activations of each layer, (b, width)."""
        found, h = [], x.flatten(1)
        for layer in self.layers:
            h = layer(h)
            found.append(h)
        return found
