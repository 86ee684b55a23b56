"""Student's t posterior."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Independent, Normal, StudentT
from torch.distributions.kl import register_kl

from vaekit.kinds import LogJoint, Sampler, sampler
from vaekit.layers.head import Head
from vaekit.layers.precision import at_least_float32
from vaekit.records import Level


@sampler("student_t")
class StudentTSampler(Sampler):
    """q(z|x) = Π_i t_ν(z_i; μ_i(h), s_i(h)): independent, with tails as heavy as the degrees of freedom ν say.

    ν stays above 2, where the variance exists, and with it the closed form of the KL to a normal prior.

    Shapes: h `(b, k, *t)` → z `(*n, b, *latent)`. Unit of log q: nats.

    Args:
        in_shape: h's shape, wired.
        latent_shape: the latent's shape, wired.
        df: ν. A number above 2; "learned", one trained scalar, 5 at first.

    Raises:
        ValueError: where ν is not above 2, or h is a map of another size than the latent's.

    References:
        Student-t Variational Autoencoder for Robust Density Estimation (Takahashi et al., 2018),
        https://www.ijcai.org/proceedings/2018/374

    Example:
        >>> import torch, vaekit
        >>> vaekit.sampler["student_t"]((400,), (20,), df=4.0)(torch.randn(5, 400)).z.shape
        torch.Size([5, 20])
    """

    def __init__(
        self, in_shape: Sequence[int], latent_shape: Sequence[int], *, df: float | Literal["learned"] = "learned"
    ) -> None:
        super().__init__()
        if isinstance(df, str):
            if df != "learned":
                raise ValueError(f"df: expected a number above 2 or 'learned', got {df!r}.")
            self.free = nn.Parameter(torch.tensor(math.log(math.expm1(3.0))))  # softplus gives 3
        elif not 2 < df < math.inf:
            raise ValueError(f"df: expected a number above 2 or 'learned', got {df}.")
        self.df = df
        self.head = Head(in_shape, latent_shape, 2)

    def forward(
        self, h: Float[Tensor, "b k *t"], sample_shape: tuple[int, ...] = (), *, log_joint: LogJoint | None = None
    ) -> Level:
        mean, log_scale = at_least_float32(self.head(h)).unbind(1)
        if isinstance(self.df, str):
            df = (2.01 + F.softplus(self.free)).to(mean.dtype).expand_as(mean)
        else:
            df = torch.full_like(mean, self.df)
        base = StudentT(df, mean, log_scale.clamp(-15.0, 10.0).exp(), validate_args=False)
        q = Independent(base, mean.ndim - 1, validate_args=False)
        return Level(q.rsample(sample_shape), q)


@register_kl(StudentT, Normal)
def _kl_student_t_normal(q: StudentT, p: Normal) -> Tensor:
    """E_q[-log p] - H(q), infinite where q has no variance."""
    spread = (q.variance + (q.mean - p.loc).square()) / p.variance
    return 0.5 * (spread + p.variance.log() + math.log(2 * math.pi)) - q.entropy()
