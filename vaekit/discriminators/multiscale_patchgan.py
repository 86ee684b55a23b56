"""Discriminators of patches at several sizes of the image."""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vaekit.kinds import Discriminator, discriminator
from vaekit.layers.patch_critic import PatchNorm, patch_critic, patch_features, patch_layers
from vaekit.layers.resample import pyramid

_POOLS: dict[int, Any] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


@discriminator("multiscale_patchgan", tags=("signal", "image", "volume"), cite="wang2018")
class MultiscalePatchGANDiscriminator(Discriminator):
    """logits_k = D_k(↓ᵏ x): a patch critic of its own for the image in full, half and quarter size.

    Coarse critics see wide patches and judge layout, fine ones texture. ↓ averages 3 values and drops every other.

    Shapes: x `(b, c, *s)`, one to three spatial dimensions of any size → one `(b, 1, *t)` per scale, fine to coarse.
    Features: the map after each activation, of the finest critic first.

    Args:
        in_shape: the data's shape, wired.
        scales: how many critics.
        layers: halvings by each critic; None takes 3, or fewer where the data are small at its scale.
        width: channels at each critic's first level, doubled at each, up to 8 times as many.
        kernel: side of the convolutions.
        norm: "batch", "group", "instance", "actnorm" or "none", as in `patchgan`.
        spectral_norm: whether weights are divided by their largest singular value.

    Raises:
        ValueError: where the data have no spatial dimension or are too small at the coarsest scale, or an argument is.

    References:
        High-Resolution Image Synthesis and Semantic Manipulation with Conditional GANs (Wang et al., 2018),
        https://arxiv.org/abs/1711.11585

    Example:
        >>> import torch, vaekit
        >>> critic = vaekit.discriminator["multiscale_patchgan"]((3, 64, 64), scales=2, width=8)
        >>> [tuple(logits.shape) for logits in critic(torch.rand(5, 3, 64, 64))]
        [(5, 1, 6, 6), (5, 1, 2, 2)]
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        *,
        scales: int = 3,
        layers: int | None = None,
        width: int = 64,
        kernel: int = 4,
        norm: PatchNorm = "instance",
        spectral_norm: bool = False,
    ) -> None:
        super().__init__()
        if scales < 1:
            raise ValueError(f"scales: expected at least 1, got {scales}.")
        self.rank = len(in_shape) - 1
        self.critics = nn.ModuleList()
        for k, size in enumerate(pyramid(in_shape[1:], scales - 1)):
            try:
                depth = patch_layers((in_shape[0], *size), layers, kernel)
            except ValueError as error:
                raise ValueError(f"scale {k}: {error} Or take fewer scales than {scales}.") from None
            self.critics.append(
                patch_critic(
                    in_shape[0],
                    self.rank,
                    layers=depth,
                    width=width,
                    kernel=kernel,
                    norm=norm,
                    spectral_norm=spectral_norm,
                )
            )

    def forward(self, x: Float[Tensor, "b c *s"]) -> list[Tensor]:
        return [critic(each) for critic, each in zip(self.critics, self._scales(x), strict=True)]

    def features(self, x: Float[Tensor, "b c *s"]) -> list[Tensor]:
        """The map after each activation of each critic, `(b, width, *t)`."""
        scales = zip(self.critics, self._scales(x), strict=True)
        return [f for critic, each in scales for f in patch_features(critic, each)]  # type: ignore[arg-type]

    def _scales(self, x: Tensor) -> list[Tensor]:
        found = [x]
        for _ in range(len(self.critics) - 1):
            found.append(_POOLS[self.rank](found[-1], 3, 2, 1, count_include_pad=False))
        return found
