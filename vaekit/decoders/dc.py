"""The decoder of the deep compression autoencoder."""

from collections.abc import Sequence
from typing import cast

from jaxtyping import Float
from torch import Tensor, nn

from vaekit.kinds import Decoder, decoder
from vaekit.layers.dc_blocks import (
    BlockType,
    NormType,
    RMSNorm,
    Up,
    UpType,
    check_dc,
    make_block,
    per_level,
    repeated,
)
from vaekit.layers.head import Stem
from vaekit.layers.perceptron import activation
from vaekit.layers.recompute import recomputed
from vaekit.layers.strided import check_latent, cut, strided


@decoder("dc", tags=("image", "attention"), cite="chen2025")
class DCDecoder(Decoder):
    """Linear attention where maps are small, then residual blocks, with shortcuts that skip every ↑2 (DC-AE).

        z ─┬─ conv ──── + ─► block × n ─► [─┬─ conv ↑2 ───────────────────── + ─ block × n] × levels
           └─ repeated ─┘                   └─ repeated, channels into pixels ─┘
          ─► norm ─ act ─ conv ─► y

    The shortcuts have no weights. The numbers are those of diffusers' `AutoencoderDC`.

    Shapes: z (b, k, h, w), other sizes at run time as well → y `(b, c, stride·h, stride·w)` with stride 2^(levels - 1),
    cut to `out_shape` where z has the size that belongs to it. A vector z becomes the first map by a linear layer.

    Args:
        latent_shape: the latent's shape, wired.
        out_shape: y's shape, wired.
        widths: channels of each level, full size first, as in the encoder.
        blocks: blocks of each level; without any in the first, the last convolution doubles the map at once.
        block_types: "resnet" or "efficientvit", one name for all levels or one for each.
        qkv_multiscales: for each level, sizes of kernels that give attention more heads, as (5,).
        head_dim: channels of a head, or all of a level's where these are fewer.
        norms: "rms", over the channels of a place, or "batch"; one name for all levels or one for each.
        acts: activation inside residual blocks; one name for all levels or one for each.
        up_type: "pixel_shuffle", a convolution whose channels become 2×2 pixels; "interpolate", nearest ↑2 before it.
        in_shortcut: z's channels, repeated, are added to the first map; they have to divide the last width.
        out_act: activation before the last convolution.
        checkpoint: in training, recompute each block's maps for the gradient: slower, much less memory.

    Raises:
        ValueError: where settings make no network, or the latent is a map of another size.

    References:
        Deep Compression Autoencoder for Efficient High-Resolution Diffusion Models (Chen et al., 2025),
        https://arxiv.org/abs/2410.10733

    Example:
        >>> import torch, vaekit
        >>> args = {"widths": (8, 16), "blocks": (1, 1), "block_types": "resnet", "qkv_multiscales": ((), ())}
        >>> decoder = vaekit.decoder["dc"]((4, 16, 16), (3, 32, 32), **args)
        >>> decoder(torch.randn(2, 4, 16, 16)).shape, decoder(torch.randn(2, 4, 5, 9)).shape
        (torch.Size([2, 3, 32, 32]), torch.Size([2, 3, 10, 18]))
    """

    ranks = (2,)
    any_size = True

    def __init__(
        self,
        latent_shape: Sequence[int],
        out_shape: Sequence[int],
        *,
        widths: Sequence[int] = (128, 256, 512, 512, 1024, 1024),
        blocks: Sequence[int] = (3, 3, 3, 3, 3, 3),
        block_types: BlockType | Sequence[BlockType] = ("resnet",) * 3 + ("efficientvit",) * 3,
        qkv_multiscales: Sequence[Sequence[int]] = ((), (), (), (5,), (5,), (5,)),
        head_dim: int = 32,
        norms: NormType | Sequence[NormType] = "rms",
        acts: str | Sequence[str] = "silu",
        up_type: UpType = "pixel_shuffle",
        in_shortcut: bool = True,
        out_act: str = "relu",
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        check_dc(widths, blocks, qkv_multiscales, head_dim)
        if up_type not in ("pixel_shuffle", "interpolate"):
            raise ValueError(f"up_type: expected 'pixel_shuffle' or 'interpolate', got {up_type!r}.")
        kinds = per_level(block_types, len(widths), ("resnet", "efficientvit"), "block_types")
        norm_types = per_level(norms, len(widths), ("rms", "batch"), "norms")
        self.acts, self.out_act = per_level(acts, len(widths), None, "acts"), out_act
        self.stride, self.out_shape, self.checkpoint = 2 ** (len(widths) - 1), tuple(out_shape), checkpoint
        self.up_type: UpType = up_type
        check_latent(latent_shape, out_shape[1:], self.stride)
        is_map = len(latent_shape) > 1
        self.in_shortcut = in_shortcut and is_map
        if self.in_shortcut and widths[-1] % latent_shape[0]:
            raise ValueError(
                f"latent: in_shortcut repeats its channels to the last {widths[-1]}, which they have to divide; got "
                f"{latent_shape[0]} channels. Change the latent or the width, or set in_shortcut=False."
            )
        self.conv_in: nn.Module = (
            nn.Conv2d(latent_shape[0], widths[-1], 3, padding=1)
            if is_map
            else Stem(latent_shape, widths[-1], strided(out_shape[1:], self.stride))
        )
        self.levels = nn.ModuleList()  # full size first, as in the encoder; run from the last one
        for i, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            kind, norm = cast(BlockType, kinds[i]), cast(NormType, norm_types[i])
            level: list[nn.Module] = [Up(widths[i + 1], width, up_type)] if count and i < len(widths) - 1 else []
            level += [
                make_block(kind, width, head_dim=head_dim, scales=qkv_multiscales[i], norm=norm, act=self.acts[i])
                for _ in range(count)
            ]
            self.levels.append(nn.ModuleList(level))
        last = widths[0] if blocks[0] else widths[1]
        self.norm, self.act = RMSNorm(last), activation(out_act)
        self.conv_out: nn.Module = (
            nn.Conv2d(last, out_shape[0], 3, padding=1)
            if blocks[0]
            else Up(last, out_shape[0], up_type, shortcut=False)
        )

    def forward(  # type: ignore[override]
        self, z: Float[Tensor, "b *latent"], *, size: Sequence[int] | None = None
    ) -> Float[Tensor, "b c h w"]:
        y = self.conv_in(z)
        if self.in_shortcut:
            y = y + repeated(z, y.shape[1])
        for level in reversed(self.levels):
            for block in cast(nn.ModuleList, level):
                y = recomputed(block, y) if self.checkpoint else block(y)
        return cut(self.conv_out(self.act(self.norm(y))), z, self.out_shape, self.stride, size)
