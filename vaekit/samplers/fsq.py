"""The finite scalar quantizer."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from vaekit.kinds import LogJoint, Sampler, sampler
from vaekit.layers.codes import Layout, point, straight_through
from vaekit.layers.head import Head, HeadKind
from vaekit.layers.precision import at_least_float32
from vaekit.records import Level


@sampler("fsq", tags=("codes",), cite="mentzer2024")
class FSQSampler(Sampler):
    """z = round(f(z_e)) / ⌊L/2⌋, where f bounds each channel so that rounding gives L values; Π L codes, none learned.

    f(v) = (L-1)/2 · tanh(v + s) - o, a little wider, with o = ½ and s so that f(0) = 0 where L is even, o = s = 0 where
    it is odd. Values lie in [-1, 1]. Rounding passes the gradient on. There is no codebook to learn and no penalty, and
    few codes stay unused.

    Each run of len(levels) channels is one code: index `(*t)` for a map with as many channels, `(groups, *t)` for one
    with more, `(d/len(levels),)` for a vector. The first level's digit is the lowest.

    Shapes: h `(b, k, *t)` → z `(*n, b, *latent)`, index `(*n, b, *index_shape)`; all draws are the same point.

    Args:
        in_shape: h's shape, wired.
        latent_shape: the latent's shape, wired.
        levels: L for each channel of a code, at least 2.
        head: how h becomes these numbers: "linear", or "none" where the encoder already gives them.

    Raises:
        ValueError: for a level below 2, latent channels that are no multiple of len(levels), or where h is a map of
            another size than the latent's.

    References:
        Finite Scalar Quantization: VQ-VAE Made Simple (Mentzer et al., 2024), https://arxiv.org/abs/2309.15505

    Example:
        >>> import torch, vaekit
        >>> quantizer = vaekit.sampler["fsq"]((400,), (8,), levels=(8, 5, 5, 5))
        >>> quantizer.codebook_size, quantizer(torch.randn(3, 400)).index.shape
        (1000, torch.Size([3, 2]))
    """

    space = "codes"
    levels: Tensor
    base: Tensor
    middle: Tensor
    width: Tensor
    offset: Tensor
    shift: Tensor

    def __init__(
        self,
        in_shape: Sequence[int],
        latent_shape: Sequence[int],
        *,
        levels: Sequence[int] = (8, 5, 5, 5),
        head: HeadKind = "linear",
    ) -> None:
        super().__init__()
        if not levels or min(levels) < 2:
            raise ValueError(f"levels: expected at least 2 values for each channel of a code, got {tuple(levels)}.")
        if latent_shape[0] % len(levels):
            raise ValueError(
                f"levels: expected a length that divides the latent's {latent_shape[0]} channels, got {len(levels)} "
                f"levels, {tuple(levels)}. Set latent to a multiple of {len(levels)} channels, or give other levels."
            )
        self.layout = Layout(latent_shape, len(levels), "levels")
        self.codebook_size, self.index_shape = math.prod(levels), self.layout.index_shape
        self.head = Head(in_shape, latent_shape, 1, head)
        count = torch.tensor(levels)
        width = (count.double() - 1) * 1.001 / 2  # a little wider, so that tanh reaches the outer values
        offset = torch.where(count % 2 == 0, 0.5, 0.0).double()
        # two values part at f = -½, which f(0) = 0 would put at v = -3.8: they part at v = 0 instead
        shift = torch.where(count == 2, 0.0, (offset / width).atanh())
        for name, value in (
            ("levels", count), ("base", count.cumprod(0) // count), ("middle", count // 2),
            ("width", width.float()), ("offset", offset.float()), ("shift", shift.float()),
        ):  # fmt: skip
            self.register_buffer(name, value, persistent=False)

    def forward(
        self, h: Float[Tensor, "b k *t"], sample_shape: tuple[int, ...] = (), *, log_joint: LogJoint | None = None
    ) -> Level:
        latent = at_least_float32(self.head(h)).squeeze(1)
        z_e, place = self.layout.split(latent), self.layout.place(latent)  # (b, g, m, k)
        bounded = (z_e + self.shift).tanh() * self.width - self.offset
        digits = bounded.detach().round().long() + self.middle
        index = self.layout.shaped((digits * self.base).sum(-1), place)
        z = straight_through(self.layout.join(bounded / self.middle, place), self.lookup(index))
        return point(z, index, {}, sample_shape)

    def lookup(self, index: Tensor) -> Tensor:
        digits = self.layout.flat(index)[..., None] // self.base % self.levels
        return self.layout.join(
            (digits - self.middle).to(at_least_float32(self.width).dtype) / self.middle, self.layout.place(index)
        )
