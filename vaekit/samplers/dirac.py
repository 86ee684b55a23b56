"""The deterministic latent."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from vaekit.kinds import LogJoint, Sampler, sampler
from vaekit.layers.head import Head, HeadKind
from vaekit.records import Level


@sampler("dirac")
class DiracSampler(Sampler):
    """q(z|x) = δ(z - f(h)): a point without a density, the latent of plain and Wasserstein autoencoders.

    There is no KL term and no bound on log p(x). To generate, fit a density to the latents: `vae.fit_prior`.

    Shapes: h `(b, k, *t)` → z `(*n, b, *latent)`; all draws are the same point.

    Args:
        in_shape: h's shape, wired.
        latent_shape: the latent's shape, wired.
        head: how h becomes these numbers: "linear", or "none" where the encoder already gives them.

    Raises:
        ValueError: where h is a map of another size than the latent's.

    References:
        Wasserstein Auto-Encoders (Tolstikhin et al., 2018), https://arxiv.org/abs/1711.01558

    Example:
        >>> import torch, vaekit
        >>> vaekit.sampler["dirac"]((400,), (20,))(torch.randn(5, 400)).q is None
        True
    """

    overcomplete = True  # without a KL term nothing asks that z be smaller than the data

    def __init__(self, in_shape: Sequence[int], latent_shape: Sequence[int], *, head: HeadKind = "linear") -> None:
        super().__init__()
        self.head = Head(in_shape, latent_shape, 1, head)

    def forward(
        self, h: Float[Tensor, "b k *t"], sample_shape: tuple[int, ...] = (), *, log_joint: LogJoint | None = None
    ) -> Level:
        z = self.head(h).squeeze(1)
        return Level(z.expand(*sample_shape, *z.shape))
