"""A Gaussian and categoricals side by side."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Independent, Normal

from vaekit.kinds import LogJoint, Sampler, sampler
from vaekit.layers.categories import CodeHead, Temperature, codes, relaxed
from vaekit.layers.head import Head
from vaekit.layers.joint import Joint
from vaekit.layers.precision import at_least_float32
from vaekit.records import Level


@sampler("joint", tags=("discrete",), cite="dupont2018")
class JointSampler(Sampler):
    """q(z, k|x) = N(z; μ(h), diag σ²(h)) Π_v Categorical(k_v; h): numbers and codes in one vector.

    Of the d latent values the last variables × categories are one-hot vectors, relaxed in training, the others
    Gaussian.

    Shapes: h `(b, k, *t)` → z `(*n, b, d)`. Unit of log q: nats per example.

    Args:
        in_shape: h's shape, wired.
        latent_shape: (d,), wired.
        categories: length of each one-hot vector.
        variables: number of one-hot vectors.
        hard: whether the codes are one-hot in training too.
        temperature: of the relaxation, at the first step.
        smallest: the temperature never falls below this.
        anneal: the temperature falls as exp(-anneal · step).

    Raises:
        ValueError: where the latent is a map, or has no room for a number beside the codes.

    References:
        Learning Disentangled Joint Continuous and Discrete Representations (Dupont, 2018),
        https://arxiv.org/abs/1804.00104

    Example:
        >>> import torch, vaekit
        >>> level = vaekit.sampler["joint"]((400,), (14,), categories=4)(torch.randn(5, 400))
        >>> level.q.numbers.event_shape, level.q.index.event_shape
        (torch.Size([10]), torch.Size([1]))
    """

    space = "mixed"

    def __init__(
        self,
        in_shape: Sequence[int],
        latent_shape: Sequence[int],
        *,
        categories: int = 10,
        variables: int = 1,
        hard: bool = False,
        temperature: float = 0.67,
        smallest: float = 0.3,
        anneal: float = 0.0,
    ) -> None:
        super().__init__()
        if len(latent_shape) != 1:
            raise ValueError(f"joint: expected a vector latent, got {tuple(latent_shape)}. Give latent as an int.")
        if variables < 1:
            raise ValueError(f"variables: expected at least 1, got {variables}.")
        numbers = latent_shape[0] - variables * categories
        if numbers < 1:
            raise ValueError(
                f"joint: latent={latent_shape[0]} has no room for {variables} × {categories} one-hot values and a "
                f"number beside them. Set latent to {variables * categories + 1} or more, or lower categories."
            )
        self.head = Head(in_shape, (numbers,), 2)
        self.code_head = CodeHead(in_shape, (variables * categories,), categories)
        self.codebook_size, self.index_shape, self.hard = categories, (variables,), hard
        self.temperature = Temperature(temperature, smallest, anneal)

    def forward(
        self, h: Float[Tensor, "b k *t"], sample_shape: tuple[int, ...] = (), *, log_joint: LogJoint | None = None
    ) -> Level:
        mean, log_variance = at_least_float32(self.head(h)).unbind(1)
        scale = (0.5 * log_variance.clamp(-30.0, 20.0)).exp()
        numbers = Independent(Normal(mean, scale, validate_args=False), 1, validate_args=False)
        logits = self.code_head(h)
        y, _ = relaxed(logits, sample_shape, self.temperature(), self.hard or not self.training)
        q = Joint(numbers, codes(logits, 1))  # type: ignore[arg-type]
        return Level(torch.cat([numbers.rsample(sample_shape), y.flatten(-2)], -1), q)
