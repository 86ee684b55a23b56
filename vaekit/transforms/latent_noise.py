"""Noise on the latent, so that the decoder learns to do with inexact ones."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from vaekit.kinds import Transform, transform


@transform("latent_noise", cite=("zheng2025", "yang2025"))
class LatentNoiseTransform(Transform):
    """z → z + σ τ ε, or (1 - σ) z + σ τ ε; σ is 1, or for each draw uniform between 0 and 1.

    What samples a latent in place of the encoder, such as a diffusion model, never hits it exactly. A decoder of
    deterministic latents that saw noise in training forgives that.

    Shapes: z `(*n, b, *latent)` → the same; x stays as it is.

    Args:
        latent_shape: the latent's shape, wired.
        scale: τ, in the latent's unit. The noise of representation autoencoders is 0.8 on normalised latents.
        kind: "gaussian" for ε normal, "uniform" for ε between -1 and 1.
        strength: "random" for σ uniform, one number per example and draw; "fixed" for σ = 1.
        interpolate: shrink z as the noise grows, so that it can drown altogether.

    Raises:
        ValueError: where the scale is not positive, kind or strength is unknown, or z would be replaced by noise
            always.

    References:
        Diffusion Transformers with Representation Autoencoders (Zheng et al., 2025), https://arxiv.org/abs/2510.11690;
        Latent Denoising Makes Good Visual Tokenizers (Yang et al., 2025), https://arxiv.org/abs/2507.15856

    Example:
        >>> import torch, vaekit
        >>> noise = vaekit.transform["latent_noise"]((4, 8, 8), scale=0.8)
        >>> z, x = noise(torch.zeros(2, 4, 8, 8))
        >>> z.shape, x
        (torch.Size([2, 4, 8, 8]), None)
    """

    def __init__(
        self,
        latent_shape: Sequence[int],
        *,
        scale: float = 0.8,
        kind: Literal["gaussian", "uniform"] = "gaussian",
        strength: Literal["random", "fixed"] = "random",
        interpolate: bool = False,
    ) -> None:
        super().__init__()
        if not 0 < scale < math.inf:
            raise ValueError(f"scale: expected a positive number, got {scale}.")
        if kind not in ("gaussian", "uniform"):
            raise ValueError(f"kind: expected 'gaussian' or 'uniform', got {kind!r}.")
        if strength not in ("random", "fixed"):
            raise ValueError(f"strength: expected 'random' or 'fixed', got {strength!r}.")
        if interpolate and strength == "fixed":
            raise ValueError("interpolate: with strength='fixed' nothing is left of z. Use strength='random'.")
        self.dims, self.scale, self.kind, self.interpolate = len(latent_shape), scale, kind, interpolate
        self.random = strength == "random"

    def forward(self, z: Tensor, x: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        noise = torch.randn_like(z) if self.kind == "gaussian" else 2 * torch.rand_like(z) - 1
        noise = self.scale * noise
        if self.random:
            lead = z.shape[: z.ndim - self.dims]
            sigma = torch.rand(*lead, *(1,) * self.dims, dtype=z.dtype, device=z.device)
            noise = sigma * noise
            z = (1 - sigma) * z if self.interpolate else z
        return z + noise, x
