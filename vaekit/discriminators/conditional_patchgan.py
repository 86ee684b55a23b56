"""The discriminator of patches together with what is known of them."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from vaekit.kinds import Discriminator, discriminator
from vaekit.layers.patch_critic import PatchNorm, patch_critic, patch_features, patch_layers


@discriminator(
    "conditional_patchgan", tags=("signal", "image", "volume", "conditional"), cite=("isola2017", "mirza2014")
)
class ConditionalPatchGANDiscriminator(Discriminator):
    """logits = D([x, c]): `patchgan` on the data with the condition's mean token c in further channels, at every place.

    It judges whether x fits c, beside whether it looks real. Without a condition c is 0, and without `cond_dim` this is
    `patchgan`.

    Shapes: x `(b, c, *s)`, one to three spatial dimensions of any size, cond (b, t, cond_dim) → [`(b, 1, *t)`].
    Features: the map after each activation.

    Args:
        in_shape: the data's shape, wired.
        cond_dim: width of the condition's tokens, 0 without a condition; wired.
        layers: halvings of the map; None takes 3, or fewer where the data are small.
        width: channels at the first level, doubled at each, up to 8 times as many.
        kernel: side of the convolutions.
        norm: "batch", "group", "instance", "actnorm" or "none", as in `patchgan`.
        spectral_norm: whether weights are divided by their largest singular value.

    Raises:
        ValueError: where the data have no spatial dimension or are too small for one logit, an argument is, or the
            tokens given have another width than `cond_dim`.

    References:
        Image-to-Image Translation with Conditional Adversarial Networks (Isola et al., 2017),
        https://arxiv.org/abs/1611.07004; Conditional Generative Adversarial Nets (Mirza & Osindero, 2014),
        https://arxiv.org/abs/1411.1784

    Example:
        >>> import torch, vaekit
        >>> critic = vaekit.discriminator["conditional_patchgan"]((3, 32, 32), cond_dim=4, width=8)
        >>> critic(torch.rand(5, 3, 32, 32), torch.randn(5, 1, 4))[0].shape
        torch.Size([5, 1, 2, 2])
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        cond_dim: int = 0,
        *,
        layers: int | None = None,
        width: int = 64,
        kernel: int = 4,
        norm: PatchNorm = "batch",
        spectral_norm: bool = False,
    ) -> None:
        super().__init__()
        if cond_dim < 0:
            raise ValueError(f"cond_dim: expected at least 0, got {cond_dim}.")
        self.cond_dim = cond_dim
        layers = patch_layers(in_shape, layers, kernel)
        self.main = patch_critic(
            in_shape[0] + cond_dim,
            len(in_shape) - 1,
            layers=layers,
            width=width,
            kernel=kernel,
            norm=norm,
            spectral_norm=spectral_norm,
        )

    def forward(self, x: Float[Tensor, "b c *s"], cond: Float[Tensor, "b t k"] | None = None) -> list[Tensor]:
        return [self.main(self._joined(x, cond))]

    def features(self, x: Float[Tensor, "b c *s"], cond: Float[Tensor, "b t k"] | None = None) -> list[Tensor]:
        """The map after each activation, `(b, width, *t)`."""
        return patch_features(self.main, self._joined(x, cond))

    def _joined(self, x: Tensor, cond: Tensor | None) -> Tensor:
        if not self.cond_dim:
            return x
        token = x.new_zeros(len(x), self.cond_dim) if cond is None else cond.mean(1)
        if token.shape[1] != self.cond_dim:
            raise ValueError(f"cond: expected tokens of width {self.cond_dim}, got {token.shape[1]}. Set cond_dim.")
        places = token.reshape(*token.shape, *[1] * (x.ndim - 2)).expand(-1, -1, *x.shape[2:])
        return torch.cat([x, places.to(x.dtype)], dim=1)
