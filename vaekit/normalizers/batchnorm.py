"""Patches of the latent as channels, each with its running mean and variance."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from vaekit.kinds import Normalizer, normalizer
from vaekit.layers.fitting import mark_fitted, start_unfitted
from vaekit.layers.moments import batches_of, columns, moments, require_scale


@normalizer("batchnorm", cite=("flux2025", "ioffe2015", "leng2025"))
class BatchNormNormalizer(Normalizer):
    """z → (P z - mean) / √(var + ε), P the values of a patch as channels, and back.

    As FLUX.2 has it: batch normalisation without weights, in evaluation mode, of 2×2 patches; its `bn.running_mean`
    and `bn.running_var` fit the buffers here. Channel c of a patch's row i and column j becomes channel (c, i, j).

    `fit` takes mean and variance over all latents at once, as one pass of torch's batch norm does over a single batch;
    how the data are split into batches does not matter.

    Shapes: z `(*n, b, c, *t)` → `(*n, b, c · patch^rank, *t/patch)`, for maps of any size.

    Args:
        latent_shape: the latent's shape, wired.
        patch: side of a patch; 1 leaves the size as it is.
        eps: ε.

    Raises:
        ValueError: where the patch is below 1 or does not divide the latent's sides, ε is negative, or, on use, before
            it was fitted.

    References:
        FLUX.2 (Black Forest Labs, 2025), https://github.com/black-forest-labs/flux2; Batch Normalization: Accelerating
        Deep Network Training by Reducing Internal Covariate Shift (Ioffe & Szegedy, 2015),
        https://arxiv.org/abs/1502.03167; REPA-E: Unlocking VAE for End-to-End Tuning with Latent Diffusion Transformers
        (Leng et al., 2025), https://arxiv.org/abs/2504.10483

    Example:
        >>> import torch, vaekit
        >>> normalizer = vaekit.normalizer["batchnorm"]((4, 8, 8))
        >>> normalizer.fit(torch.randn(10, 4, 8, 8) for _ in range(5))
        >>> normalizer(torch.randn(2, 4, 8, 8)).shape
        torch.Size([2, 16, 4, 4])
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, latent_shape: Sequence[int], *, patch: int = 2, eps: float = 1e-4) -> None:
        super().__init__()
        if patch < 1 or any(t % patch for t in latent_shape[1:]) or (patch > 1 and len(latent_shape) < 2):
            raise ValueError(
                f"patch: expected a divisor of the sides of the latent {tuple(latent_shape)}, got {patch}. Set patch=1."
            )
        if not 0 <= eps < float("inf"):
            raise ValueError(f"eps: expected a number of at least 0, got {eps}.")
        self.dims, self.patch, self.eps = len(latent_shape), patch, eps
        channels = latent_shape[0] * patch ** (self.dims - 1)
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        start_unfitted(self)

    def forward(self, z: Tensor) -> Tensor:
        require_scale(self, "batchnorm")
        mean, std = self._numbers()
        return ((self._patched(z) - mean) / std).to(z.dtype)

    def inverse(self, z: Tensor) -> Tensor:
        require_scale(self, "batchnorm")
        mean, std = self._numbers()
        return self._whole((z * std + mean).to(z.dtype))

    def fit(self, z: Iterable[Tensor]) -> None:
        """Find mean and variance of each place in a patch from latents `(*n, b, c, *t)`, batch by batch.

        Raises:
            ValueError: where a batch has other channels or sides that are no multiple of the patch, there are fewer
                than two patches, or a value is NaN or infinite.
        """
        channels = len(self.running_mean)
        rows = (columns(self._patched(each), self.dims, channels, "batchnorm") for each in batches_of(z))
        mean, variance = moments(rows, "batchnorm")
        self.running_mean.copy_(mean)
        self.running_var.copy_(variance)
        mark_fitted(self)

    def _numbers(self) -> tuple[Tensor, Tensor]:
        each = (-1, *(1,) * (self.dims - 1))
        return self.running_mean.reshape(each), (self.running_var + self.eps).sqrt().reshape(each)

    def _patched(self, z: Tensor) -> Tensor:
        """`(…, c, *t)` → `(…, c · patch^rank, *t/patch)`."""
        rank, patch = self.dims - 1, self.patch
        axis = z.ndim - rank
        if any(t % patch for t in z.shape[axis:]):
            raise ValueError(f"batchnorm: expected sides that are multiples of {patch}, got {tuple(z.shape[axis:])}.")
        apart = z.reshape(*z.shape[:axis], *(n for t in z.shape[axis:] for n in (t // patch, patch)))
        patches, places = range(axis, apart.ndim, 2), range(axis + 1, apart.ndim, 2)
        return apart.permute(*range(axis), *places, *patches).flatten(axis - 1, axis + rank - 1)

    def _whole(self, z: Tensor) -> Tensor:
        """`(…, c · patch^rank, *t/patch)` → `(…, c, *t)`."""
        rank, patch = self.dims - 1, self.patch
        axis = z.ndim - rank
        apart = z.unflatten(axis - 1, (-1, *(patch,) * rank))
        order = (n for d in range(axis, axis + rank) for n in (d + rank, d))
        return apart.permute(*range(axis), *order).reshape(*apart.shape[:axis], *(t * patch for t in z.shape[axis:]))
