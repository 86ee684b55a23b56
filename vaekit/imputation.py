"""Missing values of data: what they were, given the values that are known.

    importance   E[x_missing | x_known] ≈ Σ_i w_i E[x_missing | z_i],   z_i ~ q(z|x̃),
                 w_i ∝ p(x_known | z_i) p(z_i) / q(z_i | x̃), which sum to 1
    gibbs        z ~ q(z|x̃), then x̃_missing ~ p(x|z), over and over

x̃ is the data with something put in the place of missing values. The weights make the first right for any q as draws
are added; the second has no weights, and is right where q(z|x) is the model's own posterior.
"""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from vaekit.bounds import levels
from vaekit.checking import check, positive
from vaekit.modes import drawing, evaluating


def impute(
    vae: Any,
    x: Tensor,
    known: Tensor,
    kind: Literal["importance", "gibbs"],
    n: int,
    cond: Any,
    sample: bool,
    generator: torch.Generator | None,
) -> Tensor:
    """`vae.impute`: x with its missing values filled in, `(b, *input_shape)`."""
    if kind not in ("importance", "gibbs"):
        raise ValueError(f"kind: expected 'importance' or 'gibbs', got {kind!r}.")
    if known.dtype != torch.bool:
        raise ValueError(f"mask: expected truth values, True where x is known; got {known.dtype}. Use mask.bool().")
    try:
        known = known.expand(x.shape)
    except RuntimeError:
        raise ValueError(
            f"mask: expected a shape that expands to x's {tuple(x.shape)}, got {tuple(known.shape)}."
        ) from None
    middle = 0.0 if vae.data_range is None else sum(vae.data_range) / 2
    # what is known is looked at as any data; NaN elsewhere is only a way to say that it is not known
    start = check(vae, torch.where(~known & ~torch.isfinite(x), middle, x))
    with evaluating(vae), drawing(generator, vae.device):
        tokens = vae._embed(cond, len(x))
        found = (_weighed if kind == "importance" else _alternating)(vae, start, known, tokens, positive(n=n), sample)
    return torch.where(known, start, found.to(start))


def _weighed(vae: Any, x: Tensor, known: Tensor, tokens: Tensor | None, n: int, sample: bool) -> Tensor:
    """Self-normalised importance sampling; with `sample` one draw, taken with its weight as its probability."""
    most = x.new_full((len(x),), -torch.inf)
    total, found = torch.zeros_like(most), torch.zeros_like(x)
    for level in levels(vae, x, tokens, n, None):
        p = vae.likelihood(vae._decode(level.z, tokens, size=x.shape[2:]))
        log_w = (_log_known(p, x, known) + level.log_prior() - level.log_posterior()).to(x)  # (n, b)
        if sample:  # the largest of log w + Gumbel noise is a draw with probabilities w, also chunk by chunk
            log_w = log_w - torch.empty_like(log_w).exponential_().log()
            best, at = log_w.max(0)
            drawn = p.sample().to(x)[at, torch.arange(len(x), device=x.device)]
            found = torch.where(_over(best > most, x), drawn, found)
            most = torch.maximum(most, best)
            continue
        higher = torch.maximum(most, log_w.amax(0))
        before, w = (most - higher).exp(), (log_w - higher).exp()
        total = total * before + w.sum(0)
        found = found * _over(before, x) + torch.einsum("nb,nb...->b...", w, p.mean.to(x))
        most = higher
    return found if sample else found / _over(total, x)


def _alternating(vae: Any, x: Tensor, known: Tensor, tokens: Tensor | None, n: int, sample: bool) -> Tensor:
    """Pseudo-Gibbs sampling: the mean over the second half of n rounds; with `sample` the last draw."""
    total, counted, drawn = torch.zeros_like(x), 0, x
    for i in range(n):
        level = vae._posterior(drawn, tokens, ())
        p = vae.likelihood(vae._decode(level.z, tokens, size=x.shape[2:]))
        drawn = torch.where(known, x, p.sample().to(x))
        if not sample and i >= n // 2:
            total, counted = total + p.mean.to(x), counted + 1
    return drawn if sample else total / counted


def _log_known(p: Distribution, x: Tensor, known: Tensor) -> Tensor:
    """log p(x_known | z), `(*n, b)` nats."""
    while isinstance(p, Independent):
        p = p.base_dist
    each = p.log_prob(x)
    if tuple(each.shape[-x.ndim + 1 :]) != tuple(x.shape[1:]):
        raise ValueError(
            f"impute: {type(p).__name__} judges several values together, so that known ones have no likelihood of "
            "their own. Use kind='gibbs', or a likelihood of single values, such as 'gaussian'."
        )
    return torch.where(known, each, 0.0).flatten(1 - x.ndim).sum(-1)


def _over(each: Tensor, x: Tensor) -> Tensor:
    """One number per example, for all its values."""
    return each.reshape(-1, *[1] * (x.ndim - 1))
