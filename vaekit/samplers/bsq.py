"""The binary spherical quantizer."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vaekit.kinds import LogJoint, Sampler, sampler
from vaekit.layers.bits import bits_layout, information, to_index, to_signs
from vaekit.layers.codebook import positive
from vaekit.layers.codes import point, squared_distance, straight_through
from vaekit.layers.head import Head, HeadKind
from vaekit.layers.precision import at_least_float32
from vaekit.records import Level


@sampler("bsq", tags=("codes",), cite="zhao2024")
class BSQSampler(Sampler):
    """z = sign(u) / √c with u = z_e(h) / |z_e(h)|: codes are the corners of a cube inside the unit sphere.

    c counts the channels of the vector, or of a position of the map, and |z| = 1. As in the sampler `lfq` nothing is
    learned; here the error |u - z| is bounded. Each run of `bits` channels is one code: index `(*t)` for a map with as
    many channels, `(groups, *t)` for one with more, `(d/bits,)` for a vector. The first channel's bit is the highest.
    The sign passes the gradient on to u.

    Penalties per example, summed over codes: "commitment" ‖u - sg(z)‖²; "entropy" of the soft assignment
    p(+1) = σ(4u / (√c · temperature)), nats, and "diversity", minus the entropy of its mean over batch and positions,
    times the positions, for the loss `code_entropy`.

    Shapes: h `(b, k, *t)` → z `(*n, b, *latent)`, index `(*n, b, *index_shape)`; all draws are the same point.

    Args:
        in_shape: h's shape, wired.
        latent_shape: the latent's shape, wired.
        bits: channels of one code, at most 16; None: all.
        temperature: of the soft assignment softmax(-‖u - z‖² / temperature) to the corners.
        diversity: "bits" bounds the entropy of the mean by its sum over bits; "exact" counts whole codes, and needs
            a (b, codes, 2^bits) tensor.
        head: how h becomes these numbers: "linear", or "none" where the encoder already gives them.

    Raises:
        ValueError: where `bits` does not divide the channels or is more than 16, for a temperature that is not
            positive, or where h is a map of another size than the latent's.

    References:
        Image and Video Tokenization with Binary Spherical Quantization (Zhao et al., 2024),
        https://arxiv.org/abs/2406.07548

    Example:
        >>> import torch, vaekit
        >>> quantizer = vaekit.sampler["bsq"]((8, 4, 4), (18, 4, 4), bits=9)
        >>> quantizer.codebook_size, quantizer(torch.randn(5, 8, 4, 4)).index.shape
        (512, torch.Size([5, 2, 4, 4]))
    """

    space = "codes"
    terms = {"commitment": 0.25, "code_entropy": 0.1}
    scale: Tensor

    def __init__(
        self,
        in_shape: Sequence[int],
        latent_shape: Sequence[int],
        *,
        bits: int | None = None,
        temperature: float = 1.0,
        diversity: Literal["bits", "exact"] = "bits",
        head: HeadKind = "linear",
    ) -> None:
        super().__init__()
        if diversity not in ("bits", "exact"):
            raise ValueError(f"diversity: expected 'bits' or 'exact', got {diversity!r}.")
        positive(temperature=temperature)
        self.layout = bits_layout(latent_shape, bits)
        self.codebook_size, self.index_shape = 2**self.layout.size, self.layout.index_shape
        self.temperature: float = temperature
        self.diversity: Literal["bits", "exact"] = diversity
        self.head = Head(in_shape, latent_shape, 1, head)
        self.register_buffer("scale", torch.tensor(latent_shape[0] ** -0.5), persistent=False)

    def forward(
        self, h: Float[Tensor, "b k *t"], sample_shape: tuple[int, ...] = (), *, log_joint: LogJoint | None = None
    ) -> Level:
        u = F.normalize(at_least_float32(self.head(h)).squeeze(1), dim=1)
        codes = self.layout.split(u)
        index = self.layout.shaped(to_index(codes), self.layout.place(u))
        z = straight_through(u, self.lookup(index))
        penalties = information(4 / self.temperature * self.scale * codes, self.diversity)  # (v+s)² - (v-s)² = 4sv
        return point(z, index, {"commitment": squared_distance(u, z.detach()), **penalties}, sample_shape)

    def lookup(self, index: Tensor) -> Tensor:
        signs = to_signs(self.layout.flat(index), self.layout.size)
        return self.layout.join(signs * at_least_float32(self.scale), self.layout.place(index))
