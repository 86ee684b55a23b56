"""Codes of signs: k channels, each rounded to ±1, are one of 2^k codes without a codebook."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from vaekit.layers.codes import Layout

MOST_BITS = 16
"""Of one code: priors over codes keep 2^bits numbers."""


def bits_layout(latent_shape: Sequence[int], bits: int | None) -> Layout:
    """Codes of `bits` channels each, of all channels where `bits` is None.

    Raises:
        ValueError: where `bits` does not divide the channels, or is more than 16.
    """
    layout = Layout(latent_shape, latent_shape[0] if bits is None else bits, "bits")
    if layout.size > MOST_BITS:
        raise ValueError(
            f"bits: expected at most {MOST_BITS} channels in one code of 2^bits, got {layout.size}. Set bits to a "
            f"smaller divisor of the latent's {latent_shape[0]} channels, which makes several codes of them."
        )
    return layout


def to_index(x: Float[Tensor, "*n k"]) -> Int[Tensor, "*n"]:
    """Signs as the digits of a number, the first channel's the highest; 0 counts as negative."""
    place = 2 ** torch.arange(x.shape[-1] - 1, -1, -1, device=x.device)
    return ((x > 0) * place).sum(-1)


def to_signs(index: Int[Tensor, "*n"], bits: int) -> Int[Tensor, "*n k"]:
    """Undo `to_index`: ±1."""
    place = torch.arange(bits - 1, -1, -1, device=index.device)
    return (index[..., None] >> place & 1) * 2 - 1


def information(
    logits: Float[Tensor, "b g m k"], diversity: Literal["exact", "bits"]
) -> dict[str, Float[Tensor, " b"]]:
    """Terms per example, summed over its codes; bits are independent, with p(+1) = σ(logits).

    "entropy" is that of the codes. "diversity" is minus the entropy of the mean over batch and positions, times the
    positions: of whole codes (exact), or its bound by the sum over bits, which needs no 2^k numbers.
    """
    b, _, m, k = logits.shape
    entropy = F.softplus(logits) - logits * logits.sigmoid()
    if diversity == "exact":
        on = to_signs(torch.arange(2**k, device=logits.device), k).mT > 0  # (k, 2^k)
        rows = logits.transpose(0, 1).flatten(1, 2)  # (g, n, k)
        log_p = F.logsigmoid(rows) @ on.to(rows.dtype) + F.logsigmoid(-rows) @ (~on).to(rows.dtype)
        mean = log_p.exp().mean(1)
    else:
        mean = torch.stack([logits.sigmoid(), (-logits).sigmoid()]).mean((1, 3))
    negative = (mean * mean.clamp_min(1e-30).log()).sum() * m
    return {"entropy": entropy.flatten(1).sum(1), "diversity": negative.expand(b)}
