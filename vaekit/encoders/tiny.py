"""The encoder of the tiny autoencoder."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from vaekit.kinds import Encoder, encoder
from vaekit.layers.perceptron import activation
from vaekit.layers.recompute import recomputed
from vaekit.layers.strided import check_image, check_latent
from vaekit.layers.tiny_blocks import DataRange, TinyBlock, check_tiny, conv3, to_unit


@encoder("tiny", tags=("image",), cite="bohan2023")
class TinyEncoder(Encoder):
    """Blocks of three convolutions at every size, without norms: a fast stand-in for a large encoder (TAESD).

        x in [0, 1] ─► conv ─► [block × n ─ conv ↓2] × levels ─► block × n ─ (conv_out) ─► h

    The numbers are those of TAESD and of diffusers' `AutoencoderTiny`. Inside, images are in [0, 1]; x comes in the
    data's own range.

    Shapes: x (b, c, h, w), a side at least the stride, other sizes at run time as well → h
    `(b, k, ⌈h/stride⌉, ⌈w/stride⌉)`. The stride is 2^(levels - 1), and twice that for each width in `stem`.

    Args:
        in_shape: the data's shape, wired.
        latent_shape: the latent's shape, which has to be the size of h where it is a map; wired.
        data_range: smallest and largest value of the data, wired; None takes them as they are.
        widths: channels of each level, full size first; all levels but the last halve the map.
        blocks: blocks of each level.
        stem: channels of strided convolutions, each with an activation, in place of the first convolution (TAESANA).
        pool: a branch that reads the whole map, in the blocks of the last level (TAEF2).
        act: activation inside the blocks: "relu", "silu", "gelu", …
        out_channels: channels of h; None leaves out conv_out, and h are features of `widths[-1]` channels for a head.
        checkpoint: in training, recompute each block's maps for the gradient: slower, much less memory.

    Raises:
        ValueError: where settings make no network, the latent is a map of another size, or an image is smaller than
            the stride.

    References:
        Tiny AutoEncoder for Stable Diffusion (Bohan, 2023), https://github.com/madebyollin/taesd

    Example:
        >>> import torch, vaekit
        >>> encoder = vaekit.encoder["tiny"]((3, 32, 32), (4, 8, 8), widths=(8, 8, 8), blocks=(1, 1, 1), out_channels=4)
        >>> encoder(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 4, 8, 8])
    """

    ranks = (2,)
    any_size = True

    def __init__(
        self,
        in_shape: Sequence[int],
        latent_shape: Sequence[int],
        data_range: DataRange = (0.0, 1.0),
        *,
        widths: Sequence[int] = (64, 64, 64, 64),
        blocks: Sequence[int] = (1, 3, 3, 3),
        stem: Sequence[int] = (),
        pool: bool = False,
        act: str = "relu",
        out_channels: int | None = None,
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        check_tiny(widths, blocks, pool=pool, inmost="last")
        if stem and stem[-1] != widths[0]:
            raise ValueError(f"stem: expected to end in widths[0] = {widths[0]} channels, got {tuple(stem)}.")
        if out_channels is not None and out_channels < 1:
            raise ValueError(f"out_channels: expected at least 1, or None for features; got {out_channels}.")
        self.stride = 2 ** (len(widths) - 1 + len(stem))
        self.data_range, self.act, self.checkpoint = data_range, act, checkpoint
        check_image(in_shape[1:], self.stride)
        check_latent(latent_shape, in_shape[1:], self.stride)
        layers: list[nn.Module] = []
        for c_in, c_out in zip((in_shape[0], *stem), stem, strict=False):
            layers += [conv3(c_in, c_out, stride=2), activation(act)]
        if not stem:
            layers.append(conv3(in_shape[0], widths[0]))
        for i, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            if i:
                layers.append(conv3(widths[i - 1], width, stride=2, bias=False))
            layers += [TinyBlock(width, act, pool=pool and i == len(widths) - 1) for _ in range(count)]
        if out_channels is not None:
            layers.append(conv3(widths[-1], out_channels))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k i j"]:  # type: ignore[override]
        check_image(x.shape[2:], self.stride)
        h = to_unit(x, self.data_range)
        for layer in self.layers:
            h = recomputed(layer, h) if self.checkpoint and isinstance(layer, TinyBlock) else layer(h)
        return h
