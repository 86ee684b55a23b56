"""Halving without aliases: a blur before values are left out."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

_CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


class Blur(nn.Module):
    """y = (k ⊗ … ⊗ k) * x, each channel by itself, with the binomial kernel k of `taps` numbers: (1, 3, 3, 1) / 8.

    Borders are padded with zeros as little as `⌈s / stride⌉` values need, and on the right where that is odd.

    Shapes: x `(b, c, *s)` → `(b, c, *⌈s / stride⌉)`, with `rank` spatial dimensions.

    References:
        Making Convolutional Networks Shift-Invariant Again (Zhang, 2019), https://arxiv.org/abs/1904.11486
    """

    kernel: Tensor

    def __init__(self, rank: int, *, taps: int = 4, stride: int = 2) -> None:
        super().__init__()
        self.rank, self.taps, self.stride = rank, taps, stride
        line = torch.tensor([math.comb(taps - 1, i) for i in range(taps)], dtype=torch.float32) / 2 ** (taps - 1)
        kernel = line
        for _ in range(rank - 1):
            kernel = kernel[..., None] * line
        self.register_buffer("kernel", kernel[None, None], persistent=False)

    def forward(self, x: Float[Tensor, "b c *s"]) -> Float[Tensor, "b c *t"]:
        padding: list[int] = []
        for side in reversed(x.shape[2:]):  # F.pad counts dimensions from the last
            whole = max(0, (-(-side // self.stride) - 1) * self.stride + self.taps - side)
            padding += [whole // 2, whole - whole // 2]
        kernel = self.kernel.to(x.dtype).expand(x.shape[1], *self.kernel.shape[1:])
        return _CONVOLVE[self.rank](F.pad(x, padding), kernel, stride=self.stride, groups=x.shape[1])
