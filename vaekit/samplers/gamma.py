"""The gamma posterior over positive latents."""

from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Gamma, Independent

from vaekit.kinds import LogJoint, Sampler, sampler
from vaekit.layers.head import Head
from vaekit.layers.precision import at_least_float32
from vaekit.records import Level


@sampler("gamma", tags=("positive",), cite="figurnov2018")
class GammaSampler(Sampler):
    """q(z|x) = Π_i Gamma(z_i; α_i(h), β_i(h)), z > 0: shape α and rate β, with mean α/β.

    Gradients pass through draws by implicit reparameterization. The KL to a gamma prior is in closed form. The mean
    stands for q(z|x) as a point, since the mode is at 0 where α ≤ 1.

    Shapes: h `(b, k, *t)` → z `(*n, b, *latent)`. Unit of log q: nats.

    Args:
        in_shape: h's shape, wired.
        latent_shape: the latent's shape, wired.
        smallest: α and β stay above this value. Draws for α far below 0.1 are too small for single precision.

    Raises:
        ValueError: where `smallest` is not positive, or h is a map of another size than the latent's.

    References:
        Implicit Reparameterization Gradients (Figurnov et al., 2018), https://arxiv.org/abs/1805.08498

    Example:
        >>> import torch, vaekit
        >>> bool((vaekit.sampler["gamma"]((400,), (20,))(torch.randn(5, 400)).z > 0).all())
        True
    """

    space = "positive"

    def __init__(self, in_shape: Sequence[int], latent_shape: Sequence[int], *, smallest: float = 0.1) -> None:
        super().__init__()
        if not smallest > 0:
            raise ValueError(f"smallest: expected a positive number, got {smallest}.")
        self.smallest = smallest
        self.head = Head(in_shape, latent_shape, 2)

    def forward(
        self, h: Float[Tensor, "b k *t"], sample_shape: tuple[int, ...] = (), *, log_joint: LogJoint | None = None
    ) -> Level:
        shape, rate = (F.softplus(at_least_float32(self.head(h))) + self.smallest).unbind(1)
        q = Independent(Gamma(shape, rate, validate_args=False), shape.ndim - 1, validate_args=False)
        return Level(q.rsample(sample_shape), q, center=lambda: q.mean)
