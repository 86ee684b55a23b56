"""The discriminator of latents, place by place."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from vaekit.kinds import Discriminator, discriminator
from vaekit.layers.perceptron import Activation, activation
from vaekit.layers.spectral import spectral


@discriminator("latent_mlp", tags=("latent",), cite=("makhzani2016", "miyato2018"))
class LatentMLPDiscriminator(Discriminator):
    """logits = W h_L, h_{l+1} = act(A h_l + B mean(h_l)): one network for every place of a latent map, and their mean.

    For vectors it is a perceptron, without B. For maps it judges the channels at each place beside the mean over all
    places, so that it takes maps of any size and has no weights for places; it is blind to how places are arranged,
    which `patchgan` sees. `mlp`, in contrast, reads a whole map through one layer, of its one size. All weights have
    spectral norm 1, which keeps games on latents steady.

    Shapes: z (b, c) → [(b, 1)]; z `(b, c, *s)` of any size → [`(b, 1, *s)`]. Features: the activations of each layer.

    Args:
        in_shape: the shape of what is judged, wired.
        hidden: widths of the layers.
        act: activation after each layer.
        spectral_norm: whether weights are divided by their largest singular value.

    Raises:
        ValueError: where there is no layer, a width is not positive or the activation unknown.

    References:
        Adversarial Autoencoders (Makhzani et al., 2016), https://arxiv.org/abs/1511.05644; Spectral Normalization for
        Generative Adversarial Networks (Miyato et al., 2018), https://arxiv.org/abs/1802.05957

    Example:
        >>> import torch, vaekit
        >>> critic = vaekit.discriminator["latent_mlp"]((4, 8, 8))
        >>> critic(torch.randn(5, 4, 8, 8))[0].shape, critic(torch.randn(5, 4, 6, 9))[0].shape
        (torch.Size([5, 1, 8, 8]), torch.Size([5, 1, 6, 9]))
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        *,
        hidden: Sequence[int] = (256, 256),
        act: Activation = "leaky_relu",
        spectral_norm: bool = True,
    ) -> None:
        super().__init__()
        if not hidden or min(hidden) < 1:
            raise ValueError(f"hidden: expected one positive width or more, got {tuple(hidden)}.")

        def layer(a: int, b: int, *, bias: bool = True) -> nn.Module:
            return spectral(nn.Linear(a, b, bias)) if spectral_norm else nn.Linear(a, b, bias)

        pairs = list(zip((in_shape[0], *hidden), hidden, strict=False))
        self.each = nn.ModuleList([layer(a, b) for a, b in pairs])
        self.mean = nn.ModuleList([layer(a, b, bias=False) for a, b in pairs] if len(in_shape) > 1 else [])
        self.out = layer(hidden[-1], 1)
        self.act = activation(act)

    def forward(self, x: Float[Tensor, "b c *s"]) -> list[Tensor]:
        return [self.out(self.features(x)[-1].movedim(1, -1)).movedim(-1, 1)]

    def features(self, x: Float[Tensor, "b c *s"]) -> list[Tensor]:
        """The activations of each layer, `(b, width, *s)`."""
        found, h = [], x.movedim(1, -1)  # linear layers want channels last
        for i, each in enumerate(self.each):
            made = each(h)
            if len(self.mean):
                made = made + self.mean[i](h.mean(tuple(range(1, h.ndim - 1)), keepdim=True))
            h = self.act(made)
            found.append(h.movedim(-1, 1))
        return found
