"""The discriminator of patches."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from vaekit.kinds import Discriminator, discriminator
from vaekit.layers.patch_critic import PatchNorm, patch_critic, patch_features, patch_layers


@discriminator("patchgan", tags=("signal", "image", "volume"), cite=("isola2017", "esser2021"))
class PatchGANDiscriminator(Discriminator):
    """logits = W act(N C … act(N C act(C x))): a map of logits, each of which judges one patch of x.

    Strided convolutions C that end before the patch is the whole image: 70 pixels wide with 3 layers. There is no
    sigmoid: losses take logits. In two dimensions with batch or activation normalisation, names and shapes of its
    state are those of latent diffusion's and taming transformers' `NLayerDiscriminator`, whose weights load strictly.

    Batch normalisation mixes the examples of a batch in training: give data and reconstructions one after the other,
    never joined. "group" judges examples alone, and is what R1 wants.

    Shapes: x `(b, c, *s)`, one to three spatial dimensions of any size → [`(b, 1, *t)`]; with 3 layers 256 pixels give
    30 logits. Features: the map after each activation.

    Args:
        in_shape: the data's shape, wired.
        layers: halvings of the map; None takes 3, or fewer where the data are small.
        width: channels at the first level, doubled at each, up to 8 times as many.
        kernel: side of the convolutions.
        norm: "batch", "group", "instance", "actnorm" (set by the first batch) or "none".
        spectral_norm: whether weights are divided by their largest singular value; this changes their names.

    Raises:
        ValueError: where the data have no spatial dimension or are too small for one logit, or an argument is.

    References:
        Image-to-Image Translation with Conditional Adversarial Networks (Isola et al., 2017),
        https://arxiv.org/abs/1611.07004; Taming Transformers for High-Resolution Image Synthesis (Esser et al., 2021),
        https://arxiv.org/abs/2012.09841

    Example:
        >>> import torch, vaekit
        >>> vaekit.discriminator["patchgan"]((3, 64, 48), width=8)(torch.rand(5, 3, 64, 48))[0].shape
        torch.Size([5, 1, 6, 4])
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        *,
        layers: int | None = None,
        width: int = 64,
        kernel: int = 4,
        norm: PatchNorm = "batch",
        spectral_norm: bool = False,
    ) -> None:
        super().__init__()
        layers = patch_layers(in_shape, layers, kernel)
        self.main = patch_critic(
            in_shape[0],
            len(in_shape) - 1,
            layers=layers,
            width=width,
            kernel=kernel,
            norm=norm,
            spectral_norm=spectral_norm,
        )

    def forward(self, x: Float[Tensor, "b c *s"]) -> list[Tensor]:
        return [self.main(x)]

    def features(self, x: Float[Tensor, "b c *s"]) -> list[Tensor]:
        """The map after each activation, `(b, width, *t)`."""
        return patch_features(self.main, x)
