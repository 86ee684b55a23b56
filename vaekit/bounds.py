"""Estimates of log p(x), and of what x was where it is not known: both weigh draws of q(z|x)."""

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vaekit.checking import positive
from vaekit.records import Level, Output


def log_prob(vae: Any, x: Tensor, n: int, cond: Any, chunk: int | None) -> Tensor:
    """`vae.log_prob`: log 1/n Σ_i p(x, z_i)/q(z_i|x), (b,) nats."""
    x = vae.check(x)
    tokens = vae._embed(cond, len(x))
    total = None
    for level in levels(vae, x, tokens, n, chunk):
        y = vae._decode(level.z, tokens, size=x.shape[2:])
        part = Output(x, y, vae.likelihood(y), (level,), cond, tokens, vae).log_weight().logsumexp(0)
        total = part if total is None else torch.logaddexp(total, part)
    assert total is not None
    return total - math.log(n)


def levels(vae: Any, x: Tensor, tokens: Tensor | None, n: int, chunk: int | None) -> Iterator[Level]:
    """n draws of q(z|x) with p(z), `chunk` at a time; None: as many as make 4,096 examples with the batch."""
    h = vae._call("encoder", x, tokens)
    chunk = max(1, 4096 // max(len(x), 1)) if chunk is None else positive(chunk=chunk)
    prior = None  # one for all, since it may be costly
    for start in range(0, positive(n=n), chunk):
        level = vae.sampler(h, (min(chunk, n - start),), log_joint=partial(vae._log_joint, x, tokens))
        prior = vae._prior_of(level, tokens) if prior is None else prior
        yield replace(level, p=prior)
