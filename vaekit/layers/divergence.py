"""KL(q ‖ p) of a level, however it can be had."""

import torch
from torch import Tensor
from torch.distributions import Uniform, kl_divergence

from vaekit.layers.draws import average_draws
from vaekit.layers.implicit import Implicit
from vaekit.records import Level


def divergence(level: Level) -> Tensor:
    """KL(q ‖ p) of a level, (b,) nats: closed form where torch has the pair, the mean over the draws otherwise."""
    if level.log_q is None and level.q is not None and level.p is not None:
        try:
            return kl_divergence(level.q, level.p)
        except NotImplementedError:
            pass
    return average_draws(level.log_posterior() - level.log_prior())


def check_densities(level: Level, name: str) -> None:
    """Refuse a level whose divergence does not exist, or is infinite; `name` is what asks for it.

    Raises:
        ValueError: saying which of q and p is at fault, and what fits.
    """
    if not level.has_density:
        raise ValueError(
            f"{name} needs a posterior with a density, and this sampler gives a point. Leave {name} out, or use a "
            "sampler such as 'gaussian'."
        )
    if isinstance(level.p, Implicit):
        raise ValueError(
            f"{name} needs a prior with a density, and {level.p.name} can only be drawn from. Leave {name} out, or fit "
            "that prior after training: vae.fit_prior(…)."
        )
    if isinstance(getattr(level.p, "base_dist", None), Uniform):
        raise ValueError(
            f"{name} is infinite for a posterior that leaves the uniform prior's box. Use a loss that only draws from "
            "the prior, such as 'adversarial_latent' or 'mmd', or a prior such as 'standard'."
        )


def sum_of(values: list[Tensor]) -> Tensor:
    """The sum of tensors, without a kernel for a single one."""
    return values[0] if len(values) == 1 else torch.stack(values).sum(0)
