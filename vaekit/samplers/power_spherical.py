"""The power spherical posterior on the sphere."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from vaekit.kinds import LogJoint, Sampler, sampler
from vaekit.layers.sphere import PowerSpherical, SphereHead
from vaekit.records import Level


@sampler("power_spherical", tags=("sphere",), cite="decao2020")
class PowerSphericalSampler(Sampler):
    """q(z|x) ∝ (1 + μ(h)·z)^κ(h) on the unit sphere: a direction μ and how sure it is, κ.

    Like von Mises-Fisher, with elementary functions for its constant. Draws have exact gradients in μ and κ. The KL to
    a uniform prior is in closed form, finite in any dimension.

    Shapes: h `(b, k, *t)` → z `(*n, b, d)`, a vector latent of d ≥ 2. Unit of log q: nats, over the sphere's area.

    Args:
        in_shape: h's shape, wired.
        latent_shape: the latent's shape (d,), wired; the sphere has d - 1 dimensions.
        smallest: κ stays above this value; 1 keeps q from becoming uniform.
        largest: κ stays below this value, at most 1e6. The angle is then near √(2d/κ).

    Raises:
        ValueError: where the bounds are not in order, or the latent is a map or has one dimension.

    References:
        The Power Spherical distribution (De Cao & Aziz, 2020), https://arxiv.org/abs/2006.04437

    Example:
        >>> import torch, vaekit
        >>> level = vaekit.sampler["power_spherical"]((400,), (20,))(torch.randn(5, 400))
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
        q = PowerSpherical(*self.head(h), validate_args=False)
        return Level(q.rsample(sample_shape), q)
