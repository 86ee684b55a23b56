"""Masked networks whose i-th outputs see only the inputs before i."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class MaskedLinear(nn.Linear):
    """y = x (W ⊙ M)ᵀ + b, where `mask` M[i, j] says whether output i sees input j."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__(mask.shape[1], mask.shape[0])
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, input: Float[Tensor, "... f"]) -> Float[Tensor, "... g"]:
        return F.linear(input, self.weight * self.mask, self.bias)


class MADE(nn.Module):
    """(x, c) → `groups` numbers per feature; those of feature i depend on c and on the features before i.

    The first feature in the order sees c alone, so that one feature is enough.

    Args:
        features: d, the size of x.
        context: size of c.
        groups: numbers per feature.
        hidden: widths of the hidden layers, at least one.
        reverse: whether the order runs from the last feature to the first.

    Raises:
        ValueError: where there is no hidden layer, or an empty one.

    References:
        MADE: Masked Autoencoder for Distribution Estimation (Germain et al., 2015), https://arxiv.org/abs/1502.03509
    """

    order: Tensor

    def __init__(self, features: int, context: int, groups: int, hidden: Sequence[int], reverse: bool = False) -> None:
        super().__init__()
        if not hidden or any(width < 1 for width in hidden):
            raise ValueError(f"hidden: expected at least one positive width, got {tuple(hidden)}.")
        place = torch.arange(features)
        place = place.flip(0) if reverse else place
        # a unit of degree k has seen the k features that come first, and may be seen by the one of place k and later
        degrees = [torch.linspace(0, features - 1, width).round().long() for width in hidden]
        masks = [degrees[0][:, None] > place]
        masks += [after[:, None] >= before for before, after in zip(degrees, degrees[1:], strict=False)]
        masks.append((place[:, None] >= degrees[-1]).repeat(groups, 1))
        self.layers = nn.ModuleList(MaskedLinear(mask) for mask in masks)
        self.context = nn.Linear(context, hidden[0], bias=False)
        self.register_buffer("order", place, persistent=False)
        self.groups = groups

    def forward(self, x: Float[Tensor, "... d"], context: Float[Tensor, "... c"]) -> Float[Tensor, "... g d"]:
        first, *others = self.layers
        y = first(x) + self.context(context)
        for layer in others:
            y = layer(F.elu(y))
        return y.unflatten(-1, (self.groups, x.shape[-1]))
