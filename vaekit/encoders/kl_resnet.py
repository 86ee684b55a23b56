"""The encoder of latent diffusion's autoencoders."""

from collections.abc import Sequence
from typing import Literal, cast

from jaxtyping import Float
from torch import Tensor, nn

from vaekit.kinds import Encoder, encoder
from vaekit.layers.kl_blocks import (
    Down,
    Level,
    Middle,
    Odd,
    activated,
    check_settings,
    laid_out,
    norm_layer,
    patched,
)
from vaekit.layers.strided import check_image, check_latent


@encoder("kl_resnet", tags=("image", "attention"), cite=("rombach2022", "esser2021"))
class KLResNetEncoder(Encoder):
    """Residual blocks at every size, attention where maps are small: what latent diffusion's autoencoders are made of.

        x ─► (patches) ─ conv ─► [(residual ─ (attention)) × layers ─ conv ↓2] × levels
          ─► residual ─ attention ─ residual ─► norm ─ silu ─ (conv_out ─ (quant_conv)) ─► h

    The numbers are those of LDM's and diffusers' `AutoencoderKL`; `vaekit.interop.diffusers` loads their weights. With
    `out_channels` of twice the latent's, h is (μ, log σ²) as it stands, for samplers with `head="none"`.

    Shapes: x (b, c, h, w), a side at least the stride patch·2^(levels - 1), other sizes at run time as well → h
    `(b, k, ⌈h/stride⌉, ⌈w/stride⌉)`.

    Args:
        in_shape: the data's shape, wired.
        latent_shape: the latent's shape, which has to be the size of h where it is a map; wired.
        widths: channels of each level; all levels but the last halve the map.
        layers: residual blocks of each level.
        attention: levels, counted from 0 at full size, whose residual blocks are each followed by attention.
        mid_attention: attention between the last two residual blocks.
        norm: "group"; "rms", over the channels of a place; "batch".
        groups: of the group norm.
        out_channels: channels of h; None leaves out conv_out, and h are features of `widths[-1]` channels for a head.
        quant_conv: a 1-convolution after conv_out; a number says how many channels conv_out has, where not as many.
        patch: side of the Haar patches that the first convolution sees in place of pixels, a power of 2.
        odd: odd sides halve upwards, so that the decoder covers the image; "down" is what LDM and diffusers do.
        checkpoint: in training, recompute each block's maps for the gradient: slower, much less memory.

    Raises:
        ValueError: where settings make no network, the latent is a map of another size, or an image is smaller than
            the stride.

    References:
        High-Resolution Image Synthesis with Latent Diffusion Models (Rombach et al., 2022),
        https://arxiv.org/abs/2112.10752; Taming Transformers for High-Resolution Image Synthesis (Esser et al., 2021),
        https://arxiv.org/abs/2012.09841; Cosmos World Foundation Model Platform for Physical AI (NVIDIA, 2025; the
        patches), https://arxiv.org/abs/2501.03575

    Example:
        >>> import torch, vaekit
        >>> encoder = vaekit.encoder["kl_resnet"]((3, 32, 32), (4, 8, 8), widths=(8, 16, 16), groups=4, out_channels=8)
        >>> encoder(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 8, 8, 8])
    """

    ranks = (2,)
    any_size = True

    def __init__(
        self,
        in_shape: Sequence[int],
        latent_shape: Sequence[int],
        *,
        widths: Sequence[int] = (128, 256, 512, 512),
        layers: int = 2,
        attention: Sequence[int] = (),
        mid_attention: bool = True,
        norm: Literal["group", "rms", "batch"] = "group",
        groups: int = 32,
        out_channels: int | None = None,
        quant_conv: bool | int = False,
        patch: int = 1,
        odd: Odd = "up",
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        check_settings(widths, layers, attention, groups, norm, ("group", "rms", "batch"), patch)
        _check_ends(out_channels, quant_conv, odd)
        self.stride, self.patch, self.checkpoint = patch * 2 ** (len(widths) - 1), patch, checkpoint
        self.odd: Odd = odd
        check_image(in_shape[1:], self.stride)
        if odd == "down" and len(latent_shape) > 1 and any(side % self.stride for side in in_shape[1:]):
            raise ValueError(
                f"odd: 'down' leaves a rest of images of {in_shape[1]}×{in_shape[2]}, which no decoder covers. Give "
                f"input_shape sides that are multiples of {self.stride}, or set odd='up'."
            )
        check_latent(latent_shape, in_shape[1:], self.stride)
        last = widths[-1]
        self.conv_in = nn.Conv2d(in_shape[0] * patch**2, widths[0], 3, padding=1)
        self.levels = nn.ModuleList(
            Level(
                widths[max(i - 1, 0)],
                width,
                layers,
                norm,
                groups,
                attention=i in attention,
                resample=Down(width, odd) if i < len(widths) - 1 else None,
            )
            for i, width in enumerate(widths)
        )
        self.middle = Middle(last, norm, groups, attention=mid_attention)
        self.norm = norm_layer(norm, last, groups)
        inner = out_channels if quant_conv is True or not quant_conv else quant_conv
        self.conv_out = None if inner is None else nn.Conv2d(last, inner, 3, padding=1)
        self.quant_conv = nn.Conv2d(inner, out_channels, 1) if quant_conv and inner and out_channels else None

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k i j"]:  # type: ignore[override]
        check_image(x.shape[2:], self.stride)
        h, spare = self.conv_in(laid_out(patched(x, self.patch, self.odd))), self.checkpoint
        for level in self.levels:
            h = cast(Level, level)(h, spare=spare)
        h = activated(self.norm, self.middle(h, spare=spare))
        for last in (self.conv_out, self.quant_conv):
            h = h if last is None else last(h)
        return h.contiguous()


def _check_ends(out_channels: int | None, quant_conv: bool | int, odd: Odd) -> None:
    if out_channels is not None and out_channels < 1:
        raise ValueError(f"out_channels: expected at least 1, or None for features; got {out_channels}.")
    if quant_conv and out_channels is None:
        raise ValueError("quant_conv: follows conv_out, which is not there without out_channels. Set out_channels.")
    if odd not in ("up", "down"):
        raise ValueError(f"odd: expected 'up' or 'down', got {odd!r}.")
