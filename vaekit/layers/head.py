"""The two seams of the latent: features → parameters of q(z|x), and z → the first map of a decoder."""

import math
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from vaekit.layers.resample import convolution


class Head(nn.Module):
    """h → `groups` tensors of the latent's shape, stacked: `(b, groups, *latent)`.

    A vector latent reads all of h through one linear layer, and so does a map latent that meets a vector h. A map
    latent that meets a map h of its size reads it position by position, through a 1-convolution.

    Raises:
        ValueError: where h and the latent are maps of different sizes.
    """

    def __init__(self, in_shape: Sequence[int], latent_shape: Sequence[int], groups: int) -> None:
        super().__init__()
        self.latent_shape, self.groups = tuple(latent_shape), groups
        maps = len(in_shape) > 1 and len(latent_shape) > 1
        if maps and tuple(in_shape[1:]) != self.latent_shape[1:]:
            raise ValueError(
                f"expects a map of size {self.latent_shape[1:]} from the encoder, which gives {tuple(in_shape[1:])}. "
                f"Set latent=({self.latent_shape[0]}, {', '.join(map(str, in_shape[1:]))}), or use an encoder that "
                "picks its depth from the latent: 'conv', 'resnet', 'unet_attn'."
            )
        self.project: nn.Module
        if maps:
            self.project = convolution(len(in_shape) - 1, in_shape[0], groups * latent_shape[0], kernel=1)
        else:
            self.project = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(in_shape), groups * math.prod(latent_shape)))

    def forward(self, h: Float[Tensor, "b k *t"]) -> Float[Tensor, "b g *latent"]:
        return self.project(h).reshape(-1, self.groups, *self.latent_shape)


class Stem(nn.Module):
    """z → the first map of a decoder, `(b, channels, *size)`."""

    def __init__(self, latent_shape: Sequence[int], channels: int, size: Sequence[int]) -> None:
        super().__init__()
        self.shape = (channels, *size)
        self.project: nn.Module
        if len(latent_shape) > 1:
            self.project = convolution(len(size), latent_shape[0], channels)
        else:
            self.project = nn.Linear(latent_shape[0], math.prod(self.shape))

    def forward(self, z: Float[Tensor, "b *latent"]) -> Float[Tensor, "b c *s"]:
        return self.project(z).reshape(-1, *self.shape)


class Tokens(nn.Module):
    """z → tokens (b, t, token_dim): a vector becomes `count` of them, a map one per position, told apart by place."""

    def __init__(self, latent_shape: Sequence[int], token_dim: int, count: int) -> None:
        super().__init__()
        self.is_map = len(latent_shape) > 1
        self.count = math.prod(latent_shape[1:]) if self.is_map else count
        self.project = nn.Linear(latent_shape[0], token_dim if self.is_map else count * token_dim)
        self.place = nn.Embedding(self.count, token_dim)
        nn.init.normal_(self.place.weight, std=0.02)

    def forward(self, z: Float[Tensor, "b *latent"]) -> Float[Tensor, "b t k"]:
        tokens = self.project(z.flatten(2).transpose(1, 2) if self.is_map else z)
        return tokens.reshape(len(z), self.count, -1) + self.place.weight
