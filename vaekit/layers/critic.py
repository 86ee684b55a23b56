"""What losses with a critic share: making it from its name, judging, and its own loss."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vaekit.kinds import discriminator
from vaekit.layers.frozen import frozen
from vaekit.registry import UnknownName, parameters
from vaekit.spec import Spec


def make_critic(critic: "str | Spec | nn.Module", in_shape: Sequence[int], **args: Any) -> nn.Module:
    """A registered discriminator by name or `use(...)`, for what has `in_shape`; a module stays what it is.

    `args` are for those that take them, and give way to the user's own.

    Messages begin with "critic: ", which `wiring.make` joins to the loss's own path.

    Raises:
        UnknownName: where no discriminator has the name.
        UnknownArgument: where it does not take an argument of the user's, or lacks one.
        ValueError: where it refuses its arguments.
    """
    if isinstance(critic, nn.Module):
        return critic
    spec = Spec("discriminator", critic) if isinstance(critic, str) else critic
    try:
        target: Any = discriminator[spec.name]
    except UnknownName as error:
        raise UnknownName(f"critic: {error}") from None
    wired = {"in_shape": tuple(in_shape), "in_channels": in_shape[0], "cond_dim": 0, **args}
    wired = {name: value for name, value in wired.items() if name in parameters(target) and name not in spec.args}
    discriminator.check_arguments(target, spec.args, "critic", wired=wired)
    try:
        return target(**wired, **spec.args)
    except (ValueError, TypeError) as error:
        raise ValueError(f"critic: {error}") from error


def judge(critic: nn.Module, x: Tensor, *, freeze: bool = False) -> Tensor:
    """The critic's logits for each example, averaged over scales and places: (b,)."""
    scales = frozen(critic, x) if freeze else critic(x)
    return torch.stack([each.flatten(1).mean(1) for each in scales]).mean(0)


class Features(nn.Module):
    """A critic's hidden activations as a forward pass, so that it can be frozen."""

    def __init__(self, critic: nn.Module) -> None:
        super().__init__()
        self.critic = critic

    def forward(self, x: Tensor, *cond: Tensor) -> list[Tensor]:
        return self.critic.features(x, *cond)  # type: ignore[operator]


def told_apart(real: Tensor, made: Tensor) -> Tensor:
    """-log σ(real) - log(1 - σ(made)): what a critic minimises to tell the two apart, (b,) nats."""
    return F.softplus(-real) + F.softplus(made)
