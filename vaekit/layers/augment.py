"""Augmentation of all that a critic sees, so that it can't learn few data by heart."""

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

Augmentation: TypeAlias = Literal["color", "translation", "cutout"]

_POLICIES = ("color", "translation", "cutout")


class DiffAugment(nn.Module):
    """x → T(x), a random change of each example that gradients pass through: colour, then translation, then cutout.

    Colour adds up to a quarter of the data's range to an example, takes each place's channels apart or together by up
    to twofold (nothing for one channel), and scales the contrast by ½ to 3⁄2. Translation shifts by up to an eighth of
    each side. Cutout hides a box of half of each side around a random place, which may reach over the border. What is
    shifted in or cut out has the middle of the range.

    Data and what the model made are given the same kind of change, and each its own draws; for the very same change
    give the draws: `draws = augment.draw(x); augment(x, draws), augment(made, draws)`.

    Shapes: x `(b, c, *s)`, one spatial dimension or more, any channels → the same; draws (b, 3 + 2 s).

    Args:
        policy: what is done, of "color", "translation", "cutout".
        data_range: of x; None takes (-1, 1).
        translation: share of a side that shifts may reach.
        cutout: share of a side that the box hides.

    Raises:
        ValueError: where an augmentation is unknown, a share is outside [0, 1], or x has no spatial dimension.

    References:
        Differentiable Augmentation for Data-Efficient GAN Training (Zhao et al., 2020),
        https://arxiv.org/abs/2006.10738

    Example:
        >>> DiffAugment(("color", "cutout"))(torch.rand(5, 3, 16, 16)).shape
        torch.Size([5, 3, 16, 16])
    """

    def __init__(
        self,
        policy: Sequence[Augmentation] = _POLICIES,
        *,
        data_range: tuple[float, float] | None = (0.0, 1.0),
        translation: float = 0.125,
        cutout: float = 0.5,
    ) -> None:
        super().__init__()
        if unknown := [name for name in policy if name not in _POLICIES]:
            raise ValueError(f"augment: expected names of {', '.join(_POLICIES)}; got {unknown[0]!r}.")
        for name, share in (("translation", translation), ("cutout", cutout)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name}: expected a share of a side from 0 to 1, got {share}.")
        self.policy, (self.low, self.high) = tuple(policy), data_range or (-1.0, 1.0)
        self.translation, self.cutout = translation, cutout

    def draw(self, x: Float[Tensor, "b c *s"]) -> Float[Tensor, "b k"]:
        """Random numbers in [0, 1) that say what is done to each example."""
        return torch.rand(len(x), 3 + 2 * (x.ndim - 2), device=x.device)

    def forward(self, x: Float[Tensor, "b c *s"], draws: Float[Tensor, "b k"] | None = None) -> Float[Tensor, "b c *s"]:
        if x.ndim < 3:
            raise ValueError(f"augment: expected maps, got data of shape {tuple(x.shape[1:])}. Leave augment out.")
        draws = self.draw(x) if draws is None else draws
        color, shift, box = draws.split([3, x.ndim - 2, x.ndim - 2], dim=1)
        if "color" in self.policy:
            x = self._color(x, color.to(x.dtype))
        if "translation" in self.policy:
            x = self._translate(x, shift)
        return self._cut(x, box) if "cutout" in self.policy else x

    def _color(self, x: Tensor, draws: Tensor) -> Tensor:
        brightness, saturation, contrast = (each.reshape(-1, *[1] * (x.ndim - 1)) for each in draws.unbind(1))
        x = x + (brightness - 0.5) * (self.high - self.low) / 2
        gray = x.mean(1, keepdim=True)
        x = gray + (x - gray) * 2 * saturation
        mean = x.mean(tuple(range(1, x.ndim)), keepdim=True)
        return mean + (x - mean) * (contrast + 0.5)

    def _translate(self, x: Tensor, draws: Tensor) -> Tensor:
        middle = (self.low + self.high) / 2
        for axis, side in enumerate(x.shape[2:]):
            most = int(side * self.translation + 0.5)
            steps = _whole(draws[:, axis], 2 * most + 1) - most
            source = torch.arange(side, device=x.device) + steps[:, None]  # (b, side)
            outside = _along(axis, (source < 0) | (source >= side), x.ndim)
            places = _along(axis, source.clamp(0, side - 1), x.ndim).expand(x.shape)
            x = x.gather(axis + 2, places).masked_fill(outside, middle)
        return x

    def _cut(self, x: Tensor, draws: Tensor) -> Tensor:
        inside = torch.ones((), dtype=torch.bool, device=x.device)
        for axis, side in enumerate(x.shape[2:]):
            length = int(side * self.cutout + 0.5)
            start = _whole(draws[:, axis], side + 1 - length % 2) - length // 2
            place = torch.arange(side, device=x.device) - start[:, None]  # (b, side)
            inside = inside & _along(axis, (place >= 0) & (place < length), x.ndim)
        return x.masked_fill(inside, (self.low + self.high) / 2)


def _whole(draws: Tensor, values: int) -> Tensor:
    """Numbers in [0, 1) → 0 … values - 1, each as likely."""
    return (draws * values).long()


def _along(axis: int, values: Tensor, ndim: int) -> Tensor:
    """(b, side) laid along a spatial axis: (b, 1, …, side, …, 1)."""
    shape = [1] * ndim
    shape[0], shape[axis + 2] = values.shape
    return values.reshape(shape)
