"""The residual quantizer."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vaekit.kinds import LogJoint, Sampler, sampler
from vaekit.layers.codebook import Codebook, Match, positive
from vaekit.layers.codes import Layout, point, rotated, straight_through
from vaekit.layers.head import Head, HeadKind
from vaekit.layers.precision import at_least_float32
from vaekit.records import Level


@sampler("residual_vq", tags=("codes",), cite=("lee2022", "zeghidour2021"))
class ResidualVQSampler(Sampler):
    """z = Σ_i e^i_k_i with k_i = argmin_j ‖r_i - e^i_j‖ and r_{i+1} = r_i - e^i_k_i, r_1 = z_e(h).

    Each stage quantizes what the stages before it left over. A vector latent is quantized as a whole, a map position
    by position. For gradients, learning and penalties see the sampler `vq`, which this is at depth 1. The gradient to
    z_e is that of the sum. Penalties are summed over stages, with r_i in z_e's place.

    With quantizer dropout an example in training is made of its first stages only, so that few codes already give a
    coarse z. Penalties count these stages; the index still has all of them, and codes learn from all of them.

    Shapes: h `(b, k, *t)` → z `(*n, b, *latent)`, index `(*n, b, depth, *t)`; all draws are the same point.

    Args:
        in_shape: h's shape, wired.
        latent_shape: the latent's shape, wired.
        depth: how many stages.
        codebook_size: K, how many codes there are in each stage.
        shared: one codebook for all stages.
        dropout: the chance that an example in training is cut to its first 1 to `depth` stages, each as likely.
        learn: "ema", codes follow the mean of what is assigned to them; "gradient", which needs the loss `codebook`.
        decay: of the moving averages, per training step.
        restart: a code used less than this share of the even usage (a moving average) is replaced by a random residual
            of its stage; 0 for never.
        rotation: the rotation trick in place of the straight-through gradient.
        entropy: compute the penalties "entropy" and "diversity", which need a (b, codes, K) tensor per stage.
        temperature: of the soft assignment softmax(-‖r_i - e‖² / temperature) in those two.
        init: codes before training: "normal", N(0, 1), or "data", random residuals of the first training batch.
        head: how h becomes these numbers: "linear", or "none" where the encoder already gives them.

    Raises:
        ValueError: for a depth below 1, fewer than two codes, numbers out of their range, or where h is a map of
            another size than the latent's.

    References:
        Autoregressive Image Generation using Residual Quantization (Lee et al., 2022),
        https://arxiv.org/abs/2203.01941; SoundStream: An End-to-End Neural Audio Codec (Zeghidour et al., 2021;
        quantizer dropout), https://arxiv.org/abs/2107.03312

    Example:
        >>> import torch, vaekit
        >>> quantizer = vaekit.sampler["residual_vq"]((8, 4, 4), (3, 4, 4), depth=2, codebook_size=16)
        >>> quantizer(torch.randn(5, 8, 4, 4)).index.shape
        torch.Size([5, 2, 4, 4])
    """

    space = "codes"
    terms = {"commitment": 0.25}

    def __init__(
        self,
        in_shape: Sequence[int],
        latent_shape: Sequence[int],
        *,
        depth: int = 4,
        codebook_size: int = 512,
        shared: bool = False,
        dropout: float = 0.0,
        learn: Literal["ema", "gradient"] = "ema",
        decay: float = 0.99,
        restart: float = 0.01,
        rotation: bool = False,
        entropy: bool = False,
        temperature: float = 1.0,
        init: Literal["normal", "data"] = "data",
        head: HeadKind = "linear",
    ) -> None:
        super().__init__()
        if depth < 1:
            raise ValueError(f"depth: expected at least 1 stage, got {depth}.")
        if not 0 <= dropout <= 1:
            raise ValueError(f"dropout: expected a probability in [0, 1], got {dropout}.")
        positive(temperature=temperature)
        self.layout = Layout(latent_shape, latent_shape[0], "latent")
        self.codebook_size, self.index_shape = codebook_size, (depth, *self.layout.spatial)
        self.depth, self.dropout = depth, dropout
        self.rotation, self.temperature = rotation, temperature if entropy else None
        self.head = Head(in_shape, latent_shape, 1, head)
        self.codebooks = nn.ModuleList(
            Codebook(codebook_size, self.layout.size, learn=learn, decay=decay, restart=restart, init=init)
            for _ in range(1 if shared else depth)
        )

    def _book(self, stage: int) -> Codebook:
        book = self.codebooks[stage % len(self.codebooks)]
        assert isinstance(book, Codebook)
        return book

    def forward(
        self, h: Float[Tensor, "b k *t"], sample_shape: tuple[int, ...] = (), *, log_joint: LogJoint | None = None
    ) -> Level:
        latent = at_least_float32(self.head(h)).squeeze(1)
        z_e, place = self.layout.split(latent), self.layout.place(latent)  # (b, 1, m, k)
        residual = z_e
        found: list[Match] = []
        for stage in range(self.depth):
            self._book(stage).start(residual)
            found.append(self._book(stage).match(residual))
            residual = residual - found[-1].code.detach()
        self._update(found)
        kept = self._kept(z_e)  # (depth, b)
        value = sum(k[:, None, None, None] * match.code.detach() for k, match in zip(kept, found, strict=True))
        assert isinstance(value, Tensor)
        z = rotated(z_e, value) if self.rotation else straight_through(z_e, value)
        terms = [self._book(i).penalties(match, self.temperature) for i, match in enumerate(found)]
        penalties = {name: (kept * torch.stack([term[name] for term in terms])).sum(0) for name in terms[0]}
        index = torch.cat([match.index for match in found], 1).reshape(-1, self.depth, *place)
        return point(self.layout.join(z, place), index, penalties, sample_shape)

    def _update(self, found: list[Match]) -> None:
        """After all stages, since a shared codebook has to be the same for each of them."""
        books = len(self.codebooks)
        for i in range(books):
            stages = found[i::books]
            self._book(i).update(torch.cat([m.x for m in stages], 2), torch.cat([m.index for m in stages], 2))

    def _kept(self, z_e: Tensor) -> Float[Tensor, "depth b"]:
        """1 for the stages that an example keeps, 0 for those that it drops."""
        stage = torch.arange(self.depth, device=z_e.device)[:, None]
        if not (self.training and self.dropout):
            return z_e.new_ones(self.depth, len(z_e))
        last = torch.randint(self.depth, (len(z_e),), device=z_e.device)
        cut = torch.rand(len(z_e), device=z_e.device) < self.dropout
        return ((stage <= last) | ~cut).to(z_e.dtype)

    def lookup(self, index: Tensor) -> Tensor:
        lead = index.shape[: index.ndim - len(self.index_shape)]
        stages = index.reshape(*lead, self.depth, 1, -1).movedim(len(lead), 0)
        z = sum(self._book(i).lookup(stages[i]) for i in range(self.depth))  # in forward's order, to the bit
        assert isinstance(z, Tensor)
        return self.layout.join(z, self.layout.place(index))
