"""The two seams of the latent: features → parameters of q(z|x), and z → the first map of a decoder."""

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

from jaxtyping import Float
from torch import Tensor, nn

from vaekit.layers.resample import convolution

HeadKind: TypeAlias = Literal["linear", "none"]


class Head(nn.Module):
    """h → `groups` tensors of the latent's shape, stacked: `(b, groups, *latent)`.

    A vector latent reads all of h through one linear layer, and so does a map latent that meets a vector h. A map
    latent that meets a map h of its size reads it position by position, through a 1-convolution. With kind "none" h is
    taken as it is, for encoders that end in the parameters of q themselves.

    Raises:
        ValueError: where h and the latent are maps of different sizes, or h as it is has the wrong size.
    """

    def __init__(
        self, in_shape: Sequence[int], latent_shape: Sequence[int], groups: int, kind: HeadKind = "linear"
    ) -> None:
        super().__init__()
        self.latent_shape, self.groups = tuple(latent_shape), groups
        self.project: nn.Module
        if kind == "none":
            wanted = (groups * latent_shape[0], *latent_shape[1:])
            if tuple(in_shape) != wanted:
                raise ValueError(
                    f"head: 'none' takes features of shape {wanted} as they are, and the encoder gives "
                    f"{tuple(in_shape)}. Set the encoder's output channels to {wanted[0]}, or head='linear'."
                )
            self.project = nn.Identity()
            return
        if kind != "linear":
            raise ValueError(f"head: expected 'linear' or 'none', got {kind!r}.")
        maps = len(in_shape) > 1 and len(latent_shape) > 1
        if maps and tuple(in_shape[1:]) != self.latent_shape[1:]:
            raise ValueError(
                f"expects a map of size {self.latent_shape[1:]} from the encoder, which gives {tuple(in_shape[1:])}. "
                f"Set latent=({self.latent_shape[0]}, {', '.join(map(str, in_shape[1:]))}), or use an encoder that "
                "picks its depth from the latent: 'conv', 'resnet', 'unet_attn'."
            )
        if maps:
            self.project = convolution(len(in_shape) - 1, in_shape[0], groups * latent_shape[0], kernel=1)
        else:
            self.project = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(in_shape), groups * math.prod(latent_shape)))

    def forward(self, h: Float[Tensor, "b k *t"]) -> Float[Tensor, "b g *latent"]:
        projected = self.project(h)
        if len(self.latent_shape) == projected.ndim - 1:  # a map, of the latent's size or, at run time, of another
            return projected.unflatten(1, (self.groups, self.latent_shape[0]))
        return projected.reshape(-1, self.groups, *self.latent_shape)


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
