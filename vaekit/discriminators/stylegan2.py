"""The discriminator of StyleGAN2."""

import math
from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vaekit.kinds import Discriminator, discriminator
from vaekit.layers.blur import Blur
from vaekit.layers.equalized import equalized
from vaekit.layers.minibatch_std import minibatch_std
from vaekit.layers.patch_critic import critic_convolution
from vaekit.layers.resample import convolution, depth_for, pyramid, widths


@discriminator("stylegan2", tags=("signal", "image", "volume"), cite=("karras2020", "karras2018"))
class StyleGAN2Discriminator(Discriminator):
    """logit = w · act(W [h_L, σ]), h_{l+1} = (F(h_l) + S(h_l)) / √2: residual halvings and one verdict on the image.

    F is two convolutions, the second blurred and strided; S a blur, halved, and a 1-convolution. σ is the standard
    deviation over some examples of the batch. All weights have an equalised learning rate.

    Shapes: x `(b, c, *s)` of the wired size, one to three spatial dimensions → [(b, 1)]. Features: h_0 … h_L, and the
    hidden vector.

    Args:
        in_shape: the data's shape, wired.
        width: channels at the first level, doubled at each.
        most: times that `width` may be doubled to.
        depth: L, the halvings, odd sides upwards; None halves until the longest side is at most 4.
        group: how many examples σ is taken over; None leaves it out, and judges examples alone.

    Raises:
        ValueError: where the data have no spatial dimension or another size than wired, or an argument is too small.

    References:
        Analyzing and Improving the Image Quality of StyleGAN (Karras et al., 2020), https://arxiv.org/abs/1912.04958;
        Progressive Growing of GANs for Improved Quality, Stability, and Variation (Karras et al., 2018),
        https://arxiv.org/abs/1710.10196

    Example:
        >>> import torch, vaekit
        >>> vaekit.discriminator["stylegan2"]((3, 28, 28), width=8)(torch.rand(6, 3, 28, 28))[0].shape
        torch.Size([6, 1])
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        *,
        width: int = 64,
        most: int = 8,
        depth: int | None = None,
        group: int | None = 4,
    ) -> None:
        super().__init__()
        if not 2 <= len(in_shape) <= 4:
            raise ValueError(f"stylegan2: expected maps to judge, got data of shape {tuple(in_shape)}. Use 'mlp'.")
        if min(width, most) < 1:
            raise ValueError(f"stylegan2: expected a width and most of at least 1, got {width} and {most}.")
        if group is not None and group < 2:
            raise ValueError(f"group: expected at least 2 examples, or None, got {group}.")
        self.size, self.group, rank = tuple(in_shape[1:]), group, len(in_shape) - 1
        depth = depth_for(self.size, (), depth)
        wide = widths(width, depth, most)
        self.stem = equalized(convolution(rank, in_shape[0], width, 1))
        self.blocks = nn.ModuleList([_Block(rank, a, b) for a, b in zip(wide, wide[1:], strict=False)])
        c, places = wide[-1], math.prod(pyramid(self.size, depth)[-1])
        self.last = equalized(convolution(rank, c + (group is not None), c))
        self.hidden = equalized(nn.Linear(c * places, c))
        self.out = equalized(nn.Linear(c, 1))

    def forward(self, x: Float[Tensor, "b c *s"]) -> list[Tensor]:
        return [self.out(self.features(x)[-1])]

    def features(self, x: Float[Tensor, "b c *s"]) -> list[Tensor]:
        """Each level's map `(b, width, *t)` and the vector (b, width) that the logit is made of."""
        if tuple(x.shape[2:]) != self.size:
            wanted, came = ("×".join(map(str, size)) for size in (self.size, x.shape[2:]))
            raise ValueError(f"stylegan2: expected a map of {wanted}, got {came}. Use 'patchgan' for other sizes.")
        found = [_act(self.stem(x))]
        for block in self.blocks:
            found.append(block(found[-1]))
        h = found[-1] if self.group is None else minibatch_std(found[-1], self.group)
        return [*found, _act(self.hidden(_act(self.last(h)).flatten(1)))]


class _Block(nn.Module):
    def __init__(self, rank: int, c_in: int, c_out: int) -> None:
        super().__init__()
        self.first = equalized(convolution(rank, c_in, c_in))
        self.blur = Blur(rank, stride=1)
        self.second = equalized(convolution(rank, c_in, c_out, stride=2))
        self.halve = Blur(rank, stride=2)
        self.skip = equalized(critic_convolution(rank, c_in, c_out, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        h = _act(self.second(self.blur(_act(self.first(x)))))
        return (h + self.skip(self.halve(x))) / math.sqrt(2)


def _act(h: Tensor) -> Tensor:
    """Leaky ReLU that keeps the variance of a weak slope."""
    return F.leaky_relu(h, 0.2) * math.sqrt(2)
