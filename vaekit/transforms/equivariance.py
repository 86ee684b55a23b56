"""Turned and shrunk latents, which should decode to turned and shrunk data."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vaekit.kinds import Transform, transform

_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


@transform("equivariance", tags=("image",), cite="kouzelis2025")
class EquivarianceTransform(Transform):
    """(z, x) → (τ z, τ x), τ one scale and turn for the whole batch, with probability p; (z, x) otherwise.

    A latent space that follows the data through τ is smoother, and easier for diffusion models. Encoder and decoder
    have to take other sizes than those they were built for, unless `least` and `turns` leave the size as it is.

    The longest side t of z becomes one of ⌈least · t⌉, …, t - 1, each as likely as another, and the other sides follow
    at the same scale, rounded; for t = 32 these are the paper's scales 8/32 to 31/32. x keeps its multiple of z's
    size. Both are resized linearly, and then turned in the plane of the last two dimensions. Resized data are averages:
    binary or counted data want `least=1`.

    The choice comes from torch's generator on the CPU, so that no device is waited for.

    Shapes: z `(*n, b, c, *t)`, x `(b, c, *s)` with s a multiple of t → the same with other sizes. For signals, images
    and volumes.

    Args:
        latent_shape: the latent's shape, wired.
        input_shape: the data's shape, wired.
        p: the probability.
        least: the smallest scale; 1 for turns alone.
        turns: quarter turns to choose from, 0 for none; None: 1, 2 and 3, as in the paper, and for signals, which
            can't be turned, 0.

    Raises:
        ValueError: where z is no map of the data's rank, the data's size is no multiple of z's, p or `least` is no
            probability or scale, or signals should be turned.

    References:
        EQ-VAE: Equivariance Regularized Latent Space for Improved Generative Image Modeling (Kouzelis et al., 2025),
        https://arxiv.org/abs/2502.09509

    Example:
        >>> import torch, vaekit
        >>> turn = vaekit.transform["equivariance"]((4, 8, 8), (3, 64, 64), p=1.0, least=0.5)
        >>> z, x = turn(torch.randn(2, 4, 8, 8), torch.rand(2, 3, 64, 64))
        >>> [s // t for s, t in zip(x.shape[2:], z.shape[2:])], 4 <= z.shape[2] < 8
        ([8, 8], True)
    """

    compiles = False  # the sizes of one pass are chosen in Python

    def __init__(
        self,
        latent_shape: Sequence[int],
        input_shape: Sequence[int],
        *,
        p: float = 0.5,
        least: float = 0.25,
        turns: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.rank = len(input_shape) - 1
        if len(latent_shape) < 2 or len(latent_shape) != len(input_shape):
            raise ValueError(
                f"equivariance: turns and shrinks a latent that is a map like the data, and {tuple(latent_shape)} has "
                f"no such dimensions for data of shape {tuple(input_shape)}. Set latent to a map, (c, *t)."
            )
        if not 0 <= p <= 1:
            raise ValueError(f"p: expected a probability between 0 and 1, got {p}.")
        if not 0 < least <= 1:
            raise ValueError(f"least: expected a scale above 0 and up to 1, got {least}.")
        self.p, self.least = p, least
        self.turns = ((0,) if self.rank == 1 else (1, 2, 3)) if turns is None else tuple(turns)
        if not self.turns or (self.rank == 1 and any(k % 4 for k in self.turns)):
            raise ValueError(
                f"turns: expected {'0, since signals have no plane to turn in' if self.rank == 1 else 'one or more'}; "
                f"got {self.turns}."
            )
        self._stride(tuple(input_shape[1:]), tuple(latent_shape[1:]))

    def forward(self, z: Tensor, x: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        # three numbers each time, so that a seed's later draws do not depend on these
        chance, place, turn = torch.rand(3, dtype=torch.float64, device="cpu").tolist()
        if chance >= self.p:
            return z, x
        size = tuple(z.shape[z.ndim - self.rank :])
        small, k = self._shrunk(size, place), self.turns[int(turn * len(self.turns))]
        if x is not None:
            stride = self._stride(tuple(x.shape[x.ndim - self.rank :]), size)
            x = self._moved(x, tuple(t * s for t, s in zip(small, stride, strict=True)), k)
        return self._moved(z, small, k), x

    def _shrunk(self, size: tuple[int, ...], place: float) -> tuple[int, ...]:
        """Another size of z, `place` in [0, 1) saying which."""
        longest = max(size)
        first = math.ceil(self.least * longest - 1e-9)  # 0.28 · 25 is a little more than 7
        chosen = first + int(place * max(1, longest - first))
        return tuple(max(1, round(t * chosen / longest)) for t in size)

    def _stride(self, data: tuple[int, ...], latent: tuple[int, ...]) -> tuple[int, ...]:
        if any(s % t for s, t in zip(data, latent, strict=True)):
            raise ValueError(
                f"equivariance: expected data whose sides are multiples of the latent's {latent}, got {data}. Crop or "
                "pad the data to such a size."
            )
        return tuple(s // t for s, t in zip(data, latent, strict=True))

    def _moved(self, map: Tensor, size: tuple[int, ...], k: int) -> Tensor:
        """Resized to `size` and turned k times."""
        lead = map.ndim - self.rank - 1
        if tuple(map.shape[lead + 1 :]) != size:
            folded = map.reshape(-1, *map.shape[lead:])
            folded = F.interpolate(folded, size=size, mode=_MODES[self.rank], align_corners=False)
            map = folded.reshape(*map.shape[:lead], *folded.shape[1:])
        return map.rot90(k, (-2, -1)) if k % 4 else map
