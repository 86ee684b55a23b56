"""The convolutional discriminator."""

import math
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from vaekit.kinds import Discriminator, discriminator
from vaekit.layers.norm import group_norm
from vaekit.layers.resample import Downsample, depth_for, pyramid, widths


@discriminator("conv", tags=("signal", "image", "volume"), cite="radford2016")
class ConvDiscriminator(Discriminator):
    """logit = W flatten(act(C … act(C x))): strided convolutions that halve the map until its sides are small.

    Shapes: x `(b, c, *s)`, one to three spatial dimensions of any size → [(b, 1)]. Features: each level's map.

    Args:
        in_shape: the data's shape, wired.
        width: channels at the first level, doubled at each, up to 8 times as many.
        depth: halvings; None halves until the longest side is at most 4.
        slope: of leaky ReLU.

    Raises:
        ValueError: where the data have no spatial dimension, or the width is not positive.

    References:
        Unsupervised Representation Learning with Deep Convolutional Generative Adversarial Networks
        (Radford et al., 2016), https://arxiv.org/abs/1511.06434; with group in place of batch normalisation, so that
        examples are judged alone

    Example:
        >>> import torch, vaekit
        >>> vaekit.discriminator["conv"]((1, 28, 28), width=8)(torch.rand(5, 1, 28, 28))[0].shape
        torch.Size([5, 1])
    """

    def __init__(
        self, in_shape: Sequence[int], *, width: int = 32, depth: int | None = None, slope: float = 0.2
    ) -> None:
        super().__init__()
        if len(in_shape) < 2:
            raise ValueError(f"conv: expected maps to judge, got vectors of shape {tuple(in_shape)}. Use 'mlp'.")
        if width < 1:
            raise ValueError(f"width: expected at least 1, got {width}.")
        rank, depth = len(in_shape) - 1, max(1, depth_for(in_shape[1:], (), depth))
        channels = [in_shape[0], *widths(width, depth - 1, most=8)]
        self.levels = nn.ModuleList()
        for i, (a, b) in enumerate(zip(channels, channels[1:], strict=False)):
            # no normalisation at the first level, so that the data's contrast is seen
            steps = [Downsample(rank, a, b), *([group_norm(b)] if i else []), nn.LeakyReLU(slope)]
            self.levels.append(nn.Sequential(*steps))
        self.out = nn.Linear(channels[-1] * math.prod(pyramid(in_shape[1:], depth)[-1]), 1)

    def forward(self, x: Float[Tensor, "b c *s"]) -> list[Tensor]:
        return [self.out(self.features(x)[-1].flatten(1))]

    def features(self, x: Float[Tensor, "b c *s"]) -> list[Tensor]:
        """Each level's map `(b, width, *t)`."""
        found = []
        for level in self.levels:
            x = level(x)
            found.append(x)
        return found
