"""The decoder of the tiny autoencoder."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from vaekit.kinds import Decoder, decoder
from vaekit.layers.head import Stem
from vaekit.layers.perceptron import activation
from vaekit.layers.recompute import recomputed
from vaekit.layers.strided import check_latent, cut, strided
from vaekit.layers.tiny_blocks import Bound, DataRange, TinyBlock, check_tiny, conv3, from_unit


@decoder("tiny", tags=("image",), cite="bohan2023")
class TinyDecoder(Decoder):
    """Blocks of three convolutions at every size, without norms: a fast stand-in for a large decoder (TAESD).

        z ─► 3 tanh(z/3) ─ conv ─ act ─► block × n ─► [↑2 conv ─ block × n] × levels ─► conv ─► y in [0, 1]

    The numbers are those of TAESD and of diffusers' `AutoencoderTiny`. Inside, images are in [0, 1]; y is in the data's
    own range.

    Shapes: z (b, k, h, w), other sizes at run time as well → y `(b, c, stride·h, stride·w)` with stride 2^(levels - 1),
    cut to `out_shape` where z has the size that belongs to it. A vector z becomes the first map by a linear layer.

    Args:
        latent_shape: the latent's shape, wired.
        out_shape: y's shape, wired.
        data_range: smallest and largest value of the data, wired; None leaves y as it is.
        widths: channels of each level, full size first, as in the encoder.
        blocks: blocks of each level, full size first, as in the encoder.
        pool: a branch that reads the whole map, in the blocks of the smallest level (TAEF2).
        act: activation inside the blocks: "relu", "silu", "gelu", …
        checkpoint: in training, recompute each block's maps for the gradient: slower, much less memory.

    Raises:
        ValueError: where settings make no network, or the latent is a map of another size.

    References:
        Tiny AutoEncoder for Stable Diffusion (Bohan, 2023), https://github.com/madebyollin/taesd

    Example:
        >>> import torch, vaekit
        >>> decoder = vaekit.decoder["tiny"]((4, 8, 8), (3, 32, 32), widths=(8, 8, 8), blocks=(1, 1, 1))
        >>> decoder(torch.randn(2, 4, 8, 8)).shape, decoder(torch.randn(2, 4, 5, 9)).shape
        (torch.Size([2, 3, 32, 32]), torch.Size([2, 3, 20, 36]))
    """

    ranks = (2,)
    any_size = True

    def __init__(
        self,
        latent_shape: Sequence[int],
        out_shape: Sequence[int],
        data_range: DataRange = (0.0, 1.0),
        *,
        widths: Sequence[int] = (64, 64, 64, 64),
        blocks: Sequence[int] = (1, 3, 3, 3),
        pool: bool = False,
        act: str = "relu",
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        check_tiny(widths, blocks, pool=pool, inmost="smallest")
        self.stride, self.out_shape = 2 ** (len(widths) - 1), tuple(out_shape)
        self.data_range, self.act, self.checkpoint = data_range, act, checkpoint
        check_latent(latent_shape, out_shape[1:], self.stride)
        self.bound = Bound()
        first: nn.Module = (
            conv3(latent_shape[0], widths[-1])
            if len(latent_shape) > 1
            else Stem(latent_shape, widths[-1], strided(out_shape[1:], self.stride))
        )
        layers = [first, activation(act)]
        for i in reversed(range(len(widths))):
            layers += [TinyBlock(widths[i], act, pool=pool and i == len(widths) - 1) for _ in range(blocks[i])]
            if i:
                layers += [nn.Upsample(scale_factor=2), conv3(widths[i], widths[i - 1], bias=False)]
        self.layers = nn.Sequential(*layers, conv3(widths[0], out_shape[0]))

    def forward(  # type: ignore[override]
        self, z: Float[Tensor, "b *latent"], *, size: Sequence[int] | None = None
    ) -> Float[Tensor, "b c h w"]:
        y = self.bound(z)
        for layer in self.layers:
            y = recomputed(layer, y) if self.checkpoint and isinstance(layer, TinyBlock) else layer(y)
        return cut(from_unit(y, self.data_range), z, self.out_shape, self.stride, size)
