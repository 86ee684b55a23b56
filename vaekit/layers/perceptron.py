"""Fully connected layers with a condition joined to their input."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

Activation = Literal["relu", "tanh", "silu", "gelu", "softplus", "leaky_relu", "elu"]

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "softplus": nn.Softplus,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
}


def activation(name: str) -> nn.Module:
    """A fresh activation module by name.

    Raises:
        ValueError: where there is no activation of that name.
    """
    if name not in _ACTIVATIONS:
        raise ValueError(f"activation: expected one of {', '.join(_ACTIVATIONS)}; got {name!r}.")
    return _ACTIVATIONS[name]()


class Perceptron(nn.Module):
    """Linear layers with an activation after each: (b, features) and the condition's mean token → (b, hidden[-1])."""

    def __init__(self, features: int, hidden: Sequence[int], cond_dim: int, act: str, dropout: float = 0.0) -> None:
        super().__init__()
        if any(width < 1 for width in hidden):
            raise ValueError(f"hidden: expected positive widths, got {tuple(hidden)}.")
        sizes = [features + cond_dim, *hidden]
        layers: list[nn.Module] = []
        for before, after in zip(sizes, sizes[1:], strict=False):
            layers += [nn.Linear(before, after), activation(act)]
            if dropout:
                layers.append(nn.Dropout(dropout))
        self.layers = nn.Sequential(*layers)
        self.out_features = sizes[-1]

    def forward(self, x: Float[Tensor, "b f"], cond: Float[Tensor, "b t k"] | None = None) -> Float[Tensor, "b k2"]:
        return self.layers(x if cond is None else torch.cat([x, cond.mean(1)], dim=1))
