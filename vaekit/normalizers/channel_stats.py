"""A mean and a standard deviation for each channel of the latent."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from vaekit.kinds import Normalizer, normalizer
from vaekit.layers.fitting import mark_fitted, start_unfitted
from vaekit.layers.moments import batches_of, columns, moments, require_scale


@normalizer("channel_stats", cite="chan1983")
class ChannelStatsNormalizer(Normalizer):
    """z_c → (z_c - mean_c) / std_c for each channel c, and back.

    `fit` takes both over examples and positions, in one pass and in double precision; how the data are split into
    batches does not matter. A channel that never changes keeps its unit. In a vector latent every number is a channel.

    Shapes: z `(*n, b, c, *t)` → the same, for maps of any size.

    Args:
        latent_shape: the latent's shape, wired.

    Raises:
        ValueError: on use, before it was fitted.

    References:
        Algorithms for Computing the Sample Variance (Chan, Golub & LeVeque, 1983),
        https://doi.org/10.1080/00031305.1983.10483115

    Example:
        >>> import torch, vaekit
        >>> normalizer = vaekit.normalizer["channel_stats"]((4, 8, 8))
        >>> normalizer.fit(3 + 2 * torch.randn(10, 4, 8, 8) for _ in range(5))
        >>> normalizer.mean.shape
        torch.Size([4])
    """

    mean: Tensor
    std: Tensor

    def __init__(self, latent_shape: Sequence[int]) -> None:
        super().__init__()
        self.dims, channels = len(latent_shape), latent_shape[0]
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))
        start_unfitted(self)

    def forward(self, z: Tensor) -> Tensor:
        require_scale(self, "channel_stats")
        return ((z - self._each(self.mean)) / self._each(self.std)).to(z.dtype)

    def inverse(self, z: Tensor) -> Tensor:
        require_scale(self, "channel_stats")
        return (z * self._each(self.std) + self._each(self.mean)).to(z.dtype)

    def fit(self, z: Iterable[Tensor]) -> None:
        """Find each channel's mean and standard deviation from latents `(*n, b, c, *t)`, batch by batch.

        Raises:
            ValueError: where a batch has other channels, there are fewer than two positions, or a value is NaN or
                infinite.
        """
        rows = (columns(each, self.dims, len(self.mean), "channel_stats") for each in batches_of(z))
        mean, variance = moments(rows, "channel_stats")
        std = variance.sqrt()
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std > 1e-6, std, 1.0))
        mark_fitted(self)

    def _each(self, numbers: Tensor) -> Tensor:
        return numbers.reshape(-1, *(1,) * (self.dims - 1))
