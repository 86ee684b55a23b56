"""The encoder of the deep compression autoencoder."""

from collections.abc import Sequence
from typing import cast

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vaekit.kinds import Encoder, encoder
from vaekit.layers.dc_blocks import BlockType, Down, DownType, averaged, check_dc, make_block, per_level
from vaekit.layers.recompute import recomputed
from vaekit.layers.strided import check_image, check_latent


@encoder("dc", tags=("image", "attention"), cite="chen2025")
class DCEncoder(Encoder):
    """Residual blocks, then linear attention where maps are small, with shortcuts that skip every ↓2 (DC-AE).

        x ─► conv ─► [block × n ─┬─ conv ↓2 ──────────────────────────── + ─] × levels ─► block × n ─► (tail) ─► h
                                 └─ pixels into channels, averaged ───┘

    The shortcuts have no weights and pass all pixels on, so that a network of stride 32, 64 or 128 still trains. The
    numbers are those of diffusers' `AutoencoderDC`.

    Shapes: x (b, c, h, w), a side at least the stride 2^(levels - 1), other sizes at run time as well → h
    `(b, k, ⌈h/stride⌉, ⌈w/stride⌉)`; the last row and column are repeated until the stride divides the sides.

    Args:
        in_shape: the data's shape, wired.
        latent_shape: the latent's shape, which has to be the size of h where it is a map; wired.
        widths: channels of each level, full size first; all levels but the last halve the map.
        blocks: blocks of each level; without any in the first, the first convolution halves the map at once.
        block_types: "resnet" or "efficientvit", one name for all levels or one for each.
        qkv_multiscales: for each level, sizes of kernels that give attention more heads, as (5,).
        head_dim: channels of a head, or all of a level's where these are fewer.
        down_type: "pixel_unshuffle", a convolution whose 2×2 pixels become channels; "conv", a strided one.
        out_channels: channels of h, a divisor of the last width with out_shortcut; None leaves out the last
            convolution, and h are features of `widths[-1]` channels for a head.
        out_shortcut: averages of the last level's channels are added to h.
        checkpoint: in training, recompute each block's maps for the gradient: slower, much less memory.

    Raises:
        ValueError: where settings make no network, the latent is a map of another size, or an image is smaller than
            the stride.

    References:
        Deep Compression Autoencoder for Efficient High-Resolution Diffusion Models (Chen et al., 2025),
        https://arxiv.org/abs/2410.10733

    Example:
        >>> import torch, vaekit
        >>> args = {"widths": (8, 16), "blocks": (1, 1), "block_types": "resnet", "qkv_multiscales": ((), ())}
        >>> encoder = vaekit.encoder["dc"]((3, 32, 32), (4, 16, 16), **args, out_channels=4)
        >>> encoder(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 4, 16, 16])
    """

    ranks = (2,)
    any_size = True

    def __init__(
        self,
        in_shape: Sequence[int],
        latent_shape: Sequence[int],
        *,
        widths: Sequence[int] = (128, 256, 512, 512, 1024, 1024),
        blocks: Sequence[int] = (2, 2, 2, 3, 3, 3),
        block_types: BlockType | Sequence[BlockType] = ("resnet",) * 3 + ("efficientvit",) * 3,
        qkv_multiscales: Sequence[Sequence[int]] = ((), (), (), (5,), (5,), (5,)),
        head_dim: int = 32,
        down_type: DownType = "pixel_unshuffle",
        out_channels: int | None = None,
        out_shortcut: bool = True,
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        check_dc(widths, blocks, qkv_multiscales, head_dim)
        if down_type not in ("pixel_unshuffle", "conv"):
            raise ValueError(f"down_type: expected 'pixel_unshuffle' or 'conv', got {down_type!r}.")
        if out_channels is not None and (out_channels < 1 or (out_shortcut and widths[-1] % out_channels)):
            raise ValueError(
                f"out_channels: out_shortcut averages the last {widths[-1]} channels to h's, which must divide them; "
                f"got {out_channels}. Change the latent's channels or the width, or set out_shortcut=False."
            )
        kinds = per_level(block_types, len(widths), ("resnet", "efficientvit"), "block_types")
        self.stride, self.checkpoint, self.out_shortcut = 2 ** (len(widths) - 1), checkpoint, out_shortcut
        self.down_type: DownType = down_type
        check_image(in_shape[1:], self.stride)
        check_latent(latent_shape, in_shape[1:], self.stride)
        self.conv_in: nn.Module
        if blocks[0]:
            self.conv_in = nn.Conv2d(in_shape[0], widths[0], 3, padding=1)
        else:
            self.conv_in = Down(in_shape[0], widths[1], down_type, shortcut=False)
        self.levels = nn.ModuleList()
        for i, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            kind, scales = cast(BlockType, kinds[i]), qkv_multiscales[i]
            level = [
                make_block(kind, width, head_dim=head_dim, scales=scales, norm="rms", act="silu") for _ in range(count)
            ]
            if count and i < len(widths) - 1:
                level.append(Down(width, widths[i + 1], down_type))
            self.levels.append(nn.ModuleList(level))
        self.conv_out = None if out_channels is None else nn.Conv2d(widths[-1], out_channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k i j"]:  # type: ignore[override]
        check_image(x.shape[2:], self.stride)
        missing = [-side % self.stride for side in x.shape[2:]]
        h = F.pad(x, (0, missing[1], 0, missing[0]), mode="replicate") if any(missing) else x
        h = self.conv_in(h)
        for level in self.levels:
            for block in cast(nn.ModuleList, level):
                h = recomputed(block, h) if self.checkpoint else block(h)
        if self.conv_out is None:
            return h
        last = self.conv_out(h)
        return last + averaged(h, last.shape[1]) if self.out_shortcut else last
