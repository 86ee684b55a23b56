"""The von Mises-Fisher posterior on the sphere."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from vaekit.kinds import LogJoint, Sampler, sampler
from vaekit.layers.sphere import SphereHead, VonMisesFisher
from vaekit.records import Level


@sampler("von_mises_fisher", tags=("sphere",), cite="davidson2018")
class VonMisesFisherSampler(Sampler):
    """q(z|x) ∝ exp(κ(h) μ(h)·z) on the unit sphere: a direction μ and how sure it is, κ.

    The angle between z and μ is drawn by inverting its CDF, with exact gradients in μ and κ and no rejection. The KL to
    a uniform prior is in closed form, finite in any dimension.

    Shapes: h `(b, k, *t)` → z `(*n, b, d)`, a vector latent of d ≥ 2. Unit of log q: nats, over the sphere's area.

    Args:
        in_shape: h's shape, wired.
        latent_shape: the latent's shape (d,), wired; the sphere has d - 1 dimensions.
        smallest: κ stays above this value; 1, as the authors have it, keeps q from becoming uniform.
        largest: κ stays below this value, at most 1e6. The angle is then near √(d/κ).

    Raises:
        ValueError: where the bounds are not in order, or the latent is a map or has one dimension.

    References:
        Hyperspherical Variational Auto-Encoders (Davidson et al., 2018), https://arxiv.org/abs/1804.00891

    Example:
        >>> import torch, vaekit
        >>> level = vaekit.sampler["von_mises_fisher"]((400,), (20,))(torch.randn(5, 400))
        >>> torch.allclose(level.z.norm(dim=-1), torch.ones(5))
        True
    """

    space = "sphere"

    def __init__(
        self, in_shape: Sequence[int], latent_shape: Sequence[int], *, smallest: float = 1.0, largest: float = 1e5
    ) -> None:
        super().__init__()
        self.head = SphereHead(in_shape, latent_shape, smallest, largest)

    def forward(
        self, h: Float[Tensor, "b k *t"], sample_shape: tuple[int, ...] = (), *, log_joint: LogJoint | None = None
    ) -> Level:
        q = VonMisesFisher(*self.head(h), validate_args=False)
        return Level(q.rsample(sample_shape), q)
