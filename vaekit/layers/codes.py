"""What quantizers share: how a latent falls into codes, gradients through rounding, and the level of a point."""

import math
from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from vaekit.records import Level


class Layout:
    """How a latent falls into codes of k channels: g of them in a vector, or at each of the m positions of a map.

    An example's index has the shape `(g, *t)`; `(*t)` for a map with one code per position, unless `grouped`. Maps may
    come in other sizes than the one given: `place` reads the size off a tensor.

    Raises:
        ValueError: where k does not divide the channels; `name` says which argument asked for it.
    """

    def __init__(self, latent_shape: Sequence[int], size: int, name: str, *, grouped: bool = False) -> None:
        channels, self.spatial = latent_shape[0], tuple(latent_shape[1:])
        if size < 1 or channels % size:
            fit = ", ".join(str(d) for d in range(1, channels + 1) if channels % d == 0)
            raise ValueError(
                f"{name}: expected codes of a size that divides the latent's {channels} channels ({fit}), got {size}. "
                f"Change {name} or the latent's channels."
            )
        self.size, self.groups = size, channels // size
        lone = self.groups == 1 and self.spatial and not grouped
        self.index_shape = self.spatial if lone else (self.groups, *self.spatial)

    def place(self, x: Tensor) -> tuple[int, ...]:
        """The spatial size of a latent, or of an index."""
        return tuple(x.shape[x.ndim - len(self.spatial) :])

    def split(self, z: Tensor) -> Float[Tensor, "*n g m k"]:
        """A latent's codes: `(*n, g·k, *t)` → `(*n, g, m, k)`."""
        lead, size = z.shape[: z.ndim - 1 - len(self.spatial)], math.prod(self.place(z))
        return z.reshape(*lead, self.groups, self.size, size).movedim(-2, -1)

    def join(self, codes: Float[Tensor, "*n g m k"], place: tuple[int, ...]) -> Tensor:
        """Undo `split`, for a map of the size `place`."""
        return codes.movedim(-1, -2).reshape(*codes.shape[:-3], self.groups * self.size, *place)

    def flat(self, index: Tensor) -> Int[Tensor, "*n g m"]:
        """`(*n, *index_shape)` → `(*n, g, m)`."""
        lead, size = index.shape[: index.ndim - len(self.index_shape)], math.prod(self.place(index))
        return index.reshape(*lead, self.groups, size)

    def shaped(self, index: Shaped[Tensor, "*n g m"], place: tuple[int, ...]) -> Tensor:
        """Undo `flat`, for a map of the size `place`."""
        groups = self.index_shape[: len(self.index_shape) - len(self.spatial)]
        return index.reshape(*index.shape[:-2], *groups, *place)


def straight_through(x: Tensor, value: Tensor) -> Tensor:
    """`value` to the bit, with the gradient of x beside its own (Bengio et al., 2013)."""
    return value + (x - x.detach())  # not x + (value - x), which rounds


def rotated(x: Float[Tensor, "*n k"], value: Float[Tensor, "*n k"]) -> Float[Tensor, "*n k"]:
    """`value` to the bit, with the gradient of λRx: R turns x onto `value`, λ = |value| / |x|, both held fixed.

    R = I - 2rrᵀ + 2v̂x̂ᵀ with r = (x̂ + v̂) / |x̂ + v̂|, of the rotation trick (Fifty et al., 2024).
    """
    unit, target = F.normalize(x.detach(), dim=-1), F.normalize(value.detach(), dim=-1)
    r = F.normalize(unit + target, dim=-1)
    scale = value.detach().norm(dim=-1, keepdim=True) / x.detach().norm(dim=-1, keepdim=True).clamp_min(1e-6)
    turned = x - 2 * (x * r).sum(-1, keepdim=True) * r + 2 * (x * unit).sum(-1, keepdim=True) * target
    return straight_through(scale * turned, value.detach())


def squared_distance(a: Tensor, b: Tensor) -> Float[Tensor, " b"]:
    """‖a - b‖² per example."""
    return (a - b).square().flatten(1).sum(1)


def point(
    z: Float[Tensor, "b *latent"], index: Tensor, penalties: Mapping[str, Tensor], sample_shape: tuple[int, ...]
) -> Level:
    """The level of a deterministic quantizer: q(index|x) has all its mass on one code, so that log q = 0."""

    def draws(value: Tensor) -> Tensor:
        return value.expand(*sample_shape, *value.shape)

    return Level(
        draws(z),
        log_q=draws(z.new_zeros(len(z))),
        index=draws(index),
        penalties={name: draws(value) for name, value in penalties.items()},
        center=lambda: z,
    )
