"""The discriminator that judges the image and each of its pixels."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vaekit.kinds import Discriminator, discriminator
from vaekit.layers.patch_critic import critic_convolution
from vaekit.layers.resample import widths
from vaekit.layers.spectral import spectral

_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


@discriminator("unet", tags=("signal", "image", "volume"), cite=("schonfeld2020", "wang2021"))
class UNetDiscriminator(Discriminator):
    """logits = [w · mean(h_L), C g_0]: one for the whole from the smallest map h_L, one for each pixel from g_0.

        x ─ conv ─ h_0 ─ ↓ ─ h_1 … ↓ ─ h_L ─► one logit
                    │         │         │
        pixels ◄── g_0 ── ↑ ─ g_1 … ↑ ──┘     g_l = act(C [↑ g_{l+1}, h_l]), g_L = h_L

    All weights have spectral norm 1, and nothing is normalised over places or examples.

    Shapes: x `(b, c, *s)`, one to three spatial dimensions of any size that halves `depth` times →
    [(b, 1), `(b, 1, *s)`]. Features: h_0 … h_L, g_{L-1} … g_0.

    Args:
        in_shape: the data's shape, wired.
        depth: L, the halvings.
        width: channels of h_0, doubled at each level, up to 8 times as many.
        spectral_norm: whether weights are divided by their largest singular value.

    Raises:
        ValueError: where the data have no spatial dimension or are too small for `depth`, or an argument is.

    References:
        A U-Net Based Discriminator for Generative Adversarial Networks (Schönfeld et al., 2020),
        https://arxiv.org/abs/2002.12655; Real-ESRGAN (Wang et al., 2021), https://arxiv.org/abs/2107.10833

    Example:
        >>> import torch, vaekit
        >>> critic = vaekit.discriminator["unet"]((3, 32, 27), width=8)
        >>> [tuple(logits.shape) for logits in critic(torch.rand(5, 3, 32, 27))]
        [(5, 1), (5, 1, 32, 27)]
    """

    def __init__(self, in_shape: Sequence[int], *, depth: int = 3, width: int = 64, spectral_norm: bool = True) -> None:
        super().__init__()
        if not 2 <= len(in_shape) <= 4:
            raise ValueError(f"unet: expected maps to judge, got data of shape {tuple(in_shape)}. Use 'mlp'.")
        if depth < 1 or width < 1:
            raise ValueError(f"unet: expected a depth and a width of at least 1, got {depth} and {width}.")
        if min(in_shape[1:]) < 2**depth:
            shown = "×".join(map(str, in_shape[1:]))
            raise ValueError(f"depth: {depth} halvings need sides of at least {2**depth}, got {shown}. Set it lower.")
        rank, wide = len(in_shape) - 1, widths(width, depth, most=8)

        def layer(c_in: int, c_out: int, kernel: int = 3, stride: int = 1) -> nn.Module:
            made = critic_convolution(rank, c_in, c_out, kernel, stride)
            return spectral(made) if spectral_norm else made

        self.stem = layer(in_shape[0], width)
        self.down = nn.ModuleList([layer(a, b, 4, 2) for a, b in zip(wide, wide[1:], strict=False)])
        self.up = nn.ModuleList([layer(a + b, a) for a, b in zip(wide, wide[1:], strict=False)][::-1])
        whole = nn.Linear(wide[-1], 1)
        self.whole = spectral(whole) if spectral_norm else whole
        self.pixels = layer(width, 1)
        self.mode = _MODES[rank]

    def forward(self, x: Float[Tensor, "b c *s"]) -> list[Tensor]:
        found = self.features(x)
        return [self.whole(found[len(self.down)].flatten(2).mean(2)), self.pixels(found[-1])]

    def features(self, x: Float[Tensor, "b c *s"]) -> list[Tensor]:
        """The maps on the way down and up, `(b, width, *t)`."""
        found = [F.leaky_relu(self.stem(x), 0.2)]
        for down in self.down:
            found.append(F.leaky_relu(down(found[-1]), 0.2))
        for up, skip in zip(self.up, found[-2::-1], strict=True):
            above = F.interpolate(found[-1], size=skip.shape[2:], mode=self.mode, align_corners=False)
            found.append(F.leaky_relu(up(torch.cat([above, skip], dim=1)), 0.2))
        return found
