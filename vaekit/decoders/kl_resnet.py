"""The decoder of latent diffusion's autoencoders."""

from collections.abc import Sequence
from typing import cast

from jaxtyping import Float
from torch import Tensor, nn

from vaekit.kinds import Decoder, decoder
from vaekit.layers.haar import inverse_haar
from vaekit.layers.head import Stem
from vaekit.layers.kl_blocks import Level, Middle, NormKind, Up, activated, check_settings, laid_out, norm_layer
from vaekit.layers.strided import check_image, check_latent, cut, strided


@decoder("kl_resnet", tags=("image", "attention"), cite=("rombach2022", "esser2021", "zheng2022"))
class KLResNetDecoder(Decoder):
    """Residual blocks at every size, one more a level than in the encoder, and ↑2 between the sizes.

        z ─► (post_quant_conv) ─ conv ─► residual ─ attention ─ residual
          ─► [(residual ─ (attention)) × (layers + 1) ─ conv ↑2] × levels ─► norm ─ silu ─ conv ─ (pixels) ─► y

    The numbers are those of LDM's and diffusers' `AutoencoderKL`; `vaekit.interop.diffusers` loads their weights. With
    norm="spatial" (MoVQ) every norm reads z as well.

    Shapes: z (b, k, h, w), at run time of any size → y `(b, c, stride·h, stride·w)` with stride patch·2^(levels - 1),
    cut to `out_shape` where z has the size that belongs to it. A vector z becomes the first map by a linear layer.

    Args:
        latent_shape: the latent's shape, wired.
        out_shape: y's shape, wired.
        widths: channels of each level, full size first, as in the encoder.
        layers: residual blocks of each level, less one.
        attention: levels, counted from 0 at full size, whose residual blocks are each followed by attention.
        mid_attention: attention between the first two residual blocks.
        norm: "group"; "rms", over the channels of a place; "batch"; "spatial", a group norm scaled and shifted by z.
        groups: of the group norm.
        post_quant_conv: a 1-convolution of z; a number says how many channels it gives, where not as many as it takes.
        patch: side of the Haar patches that the last convolution gives in place of pixels, a power of 2.
        checkpoint: in training, recompute each block's maps for the gradient: slower, much less memory.

    Raises:
        ValueError: where settings make no network, or the latent is a map of another size.

    References:
        High-Resolution Image Synthesis with Latent Diffusion Models (Rombach et al., 2022),
        https://arxiv.org/abs/2112.10752; Taming Transformers for High-Resolution Image Synthesis (Esser et al., 2021),
        https://arxiv.org/abs/2012.09841; MoVQ: Modulating Quantized Vectors for High-Fidelity Image Generation (Zheng
        et al., 2022; norm="spatial"), https://arxiv.org/abs/2209.09002; Cosmos World Foundation Model Platform for
        Physical AI (NVIDIA, 2025; the patches), https://arxiv.org/abs/2501.03575

    Example:
        >>> import torch, vaekit
        >>> decoder = vaekit.decoder["kl_resnet"]((4, 8, 8), (3, 32, 32), widths=(8, 16, 16), groups=4)
        >>> decoder(torch.randn(2, 4, 8, 8)).shape, decoder(torch.randn(2, 4, 5, 9)).shape
        (torch.Size([2, 3, 32, 32]), torch.Size([2, 3, 20, 36]))
    """

    ranks = (2,)
    any_size = True

    def __init__(
        self,
        latent_shape: Sequence[int],
        out_shape: Sequence[int],
        *,
        widths: Sequence[int] = (128, 256, 512, 512),
        layers: int = 2,
        attention: Sequence[int] = (),
        mid_attention: bool = True,
        norm: NormKind = "group",
        groups: int = 32,
        post_quant_conv: bool | int = False,
        patch: int = 1,
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        check_settings(widths, layers, attention, groups, norm, ("group", "rms", "batch", "spatial"), patch)
        self.patch, stride = patch, patch * 2 ** (len(widths) - 1)
        self.out_shape, self.stride = tuple(out_shape), stride
        check_image(out_shape[1:], stride)
        check_latent(latent_shape, out_shape[1:], stride)
        if len(latent_shape) == 1 and (norm == "spatial" or post_quant_conv):
            raise ValueError(
                f"latent: norm='spatial' and post_quant_conv read a map, and latent={latent_shape[0]} is a vector. Set "
                f"latent=({latent_shape[0]}, {', '.join(map(str, strided(out_shape[1:], stride)))})."
            )
        z_channels = latent_shape[0] if norm == "spatial" else 0
        inner = latent_shape[0] if post_quant_conv is True or not post_quant_conv else post_quant_conv
        self.spatial, self.checkpoint = norm == "spatial", checkpoint
        self.post_quant_conv = nn.Conv2d(latent_shape[0], inner, 1) if post_quant_conv else None
        self.conv_in: nn.Module
        if len(latent_shape) > 1:
            self.conv_in = nn.Conv2d(inner, widths[-1], 3, padding=1)
        else:
            self.conv_in = Stem(latent_shape, widths[-1], strided(out_shape[1:], stride))
        self.middle = Middle(widths[-1], norm, groups, attention=mid_attention, z_channels=z_channels)
        self.levels = nn.ModuleList(
            Level(
                widths[min(i + 1, len(widths) - 1)],
                widths[i],
                layers + 1,
                norm,
                groups,
                attention=i in attention,
                resample=Up(widths[i]) if i else None,
                z_channels=z_channels,
            )
            for i in reversed(range(len(widths)))
        )
        self.norm = norm_layer(norm, widths[0], groups, z_channels)
        self.conv_out = nn.Conv2d(widths[0], out_shape[0] * patch**2, 3, padding=1)

    def forward(  # type: ignore[override]
        self, z: Float[Tensor, "b *latent"], *, size: Sequence[int] | None = None
    ) -> Float[Tensor, "b c h w"]:
        seen, spare = z if self.spatial else None, self.checkpoint
        y = z if self.post_quant_conv is None else self.post_quant_conv(z)
        y = self.middle(laid_out(self.conv_in(y)), seen, spare=spare)
        for level in self.levels:
            y = cast(Level, level)(y, seen, spare=spare)
        y = inverse_haar(self.conv_out(activated(self.norm, y, seen)), self.patch, means=True)
        return cut(y, z, self.out_shape, self.stride, size).contiguous()
