"""Latents of which only the first channels are left, so that the first ones learn what matters most."""

from collections.abc import Sequence

import torch
from torch import Tensor

from vaekit.kinds import Transform, transform


@transform("channel_dropout", cite=("rippel2014", "chen2025b"))
class ChannelDropoutTransform(Transform):
    """z → (z_1, …, z_k, 0, …, 0), k drawn for each example with probability p; z otherwise.

    k is one of least, least + step, …, c, each as likely as another. A channel can count on those before it and on none
    behind it, so that channels come to be ordered by importance. In a vector latent every number is a channel.

    Shapes: z `(*n, b, c, *t)` → the same; x stays as it is.

    Args:
        latent_shape: the latent's shape, wired.
        p: the probability.
        least: the fewest channels that are left.
        step: between one k and the next.

    Raises:
        ValueError: where p is no probability, `least` is not between 1 and c, or steps from it do not reach c.

    References:
        Learning Ordered Representations with Nested Dropout (Rippel et al., 2014), https://arxiv.org/abs/1402.0915;
        DC-AE 1.5: Accelerating Diffusion Model Convergence with Structured Latent Space (Chen et al., 2025),
        https://arxiv.org/abs/2508.00413

    Example:
        >>> import torch, vaekit
        >>> dropout = vaekit.transform["channel_dropout"]((8, 4, 4), least=4, step=4)
        >>> z, _ = dropout(torch.ones(100, 8, 4, 4))
        >>> z.mean((2, 3)).sum(1).unique()
        tensor([4., 8.])
    """

    def __init__(self, latent_shape: Sequence[int], *, p: float = 1.0, least: int = 1, step: int = 1) -> None:
        super().__init__()
        channels = latent_shape[0]
        if not 0 <= p <= 1:
            raise ValueError(f"p: expected a probability between 0 and 1, got {p}.")
        if not 1 <= least <= channels:
            raise ValueError(f"least: expected between 1 and the latent's {channels} channels, got {least}.")
        if step < 1 or (channels - least) % step:
            raise ValueError(
                f"step: expected at least 1, and to reach {channels} channels from {least}; got {step}. Set it to a "
                f"divisor of {channels - least}."
            )
        self.dims, self.p, self.least, self.step = len(latent_shape), p, least, step

    def forward(self, z: Tensor, x: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        lead, channels = z.shape[: z.ndim - self.dims], z.shape[z.ndim - self.dims]
        choices = (channels - self.least) // self.step + 1
        k = self.least + self.step * torch.randint(choices, lead, device=z.device)
        whole = torch.rand(lead, device=z.device) >= self.p
        place = torch.arange(channels, device=z.device)
        kept = (place < k[..., None]) | whole[..., None]  # (*n, b, c)
        return torch.where(kept.reshape(*kept.shape, *(1,) * (self.dims - 1)), z, 0), x
