"""One number for the scale of all latents, and one for where they lie."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from vaekit.kinds import Normalizer, normalizer
from vaekit.layers.fitting import mark_fitted, start_unfitted
from vaekit.layers.moments import batches_of, moments, require_scale


@normalizer("scale_shift", cite="rombach2022")
class ScaleShiftNormalizer(Normalizer):
    """z → (z - shift) · scale, and back: z → z / scale + shift.

    The convention of diffusers: its `scaling_factor` and `shift_factor` are the arguments here. Without either, `fit`
    finds the mean of all values, and 1 over their standard deviation.

    Shapes: z of any shape → the same.

    Args:
        scale: about 1 over the latents' standard deviation, such as 0.18215 for Stable Diffusion 1; None: 1 where
            there is a shift.
        shift: about their mean; None: 0 where there is a scale.

    Raises:
        ValueError: where the scale is not positive, a number is not finite, or, on use, where there are no numbers yet.
        TypeError: on `fit`, where the numbers are arguments.

    References:
        High-Resolution Image Synthesis with Latent Diffusion Models (Rombach et al., 2022),
        https://arxiv.org/abs/2112.10752

    Example:
        >>> import torch, vaekit
        >>> normalizer = vaekit.normalizer["scale_shift"](scale=0.5, shift=1.0)
        >>> normalizer(torch.tensor([3.0])), normalizer.inverse(torch.tensor([1.0]))
        (tensor([1.]), tensor([3.]))
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, *, scale: float | None = None, shift: float | None = None) -> None:
        super().__init__()
        self.given = scale is not None or shift is not None
        scale, shift = (1.0 if scale is None else scale), (0.0 if shift is None else shift)
        if not 0 < scale < math.inf:
            raise ValueError(f"scale: expected a positive number, got {scale}.")
        if not math.isfinite(shift):
            raise ValueError(f"shift: expected a finite number, got {shift}.")
        # numbers that are arguments stand in the spec, and are not saved a second time
        self.register_buffer("scale", torch.tensor(scale), persistent=not self.given)
        self.register_buffer("shift", torch.tensor(shift), persistent=not self.given)
        if self.given:
            self.is_fitted = True
        else:
            start_unfitted(self)

    def forward(self, z: Tensor) -> Tensor:
        require_scale(self, "scale_shift")
        return (z - self.shift) * self.scale

    def inverse(self, z: Tensor) -> Tensor:
        require_scale(self, "scale_shift")
        return z / self.scale + self.shift

    def fit(self, z: Iterable[Tensor]) -> None:
        """Find the mean and 1 over the standard deviation of all values of latents, batch by batch.

        Raises:
            TypeError: where the numbers are arguments.
            ValueError: where there are fewer than two values, all are equal, or one is NaN or infinite.
        """
        if self.given:
            super().fit(z)
        mean, variance = moments((each.reshape(-1, 1) for each in batches_of(z)), "scale_shift")
        if not variance > 0:
            raise ValueError("scale_shift: the latents are all equal. Look at what the encoder gives.")
        self.shift.copy_(mean[0])
        self.scale.copy_(variance[0].rsqrt())
        mark_fitted(self)
