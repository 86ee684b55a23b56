"""The product quantizer."""

from collections.abc import Sequence
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from vaekit.kinds import LogJoint, Sampler, sampler
from vaekit.layers.codebook import Codebook, positive
from vaekit.layers.codes import Layout, point, rotated, straight_through
from vaekit.layers.head import Head, HeadKind
from vaekit.layers.precision import at_least_float32
from vaekit.records import Level


@sampler("grouped_vq", tags=("codes",), cite=("jegou2011", "oord2017"))
class GroupedVQSampler(Sampler):
    """z = (e¹_k₁, …, e^g_k_g) with k_i = argmin_j ‖z_e,i - e^i_j‖: channels in g groups, a codebook for each.

    Product quantization: K codes in each of g books stand for K^g vectors. For gradients, learning and penalties see
    the sampler `vq`, which this is for one group.

    Shapes: h `(b, k, *t)` → z `(*n, b, *latent)`, index `(*n, b, groups, *t)`; all draws are the same point.

    Args:
        in_shape: h's shape, wired.
        latent_shape: the latent's shape, wired.
        groups: g, how many codes a vector or a position of a map has.
        codebook_size: K, how many codes there are in each book.
        learn: "ema", codes follow the mean of what is assigned to them; "gradient", which needs the loss `codebook`.
        decay: of the moving averages, per training step.
        restart: a code used less than this share of the even usage (a moving average) is replaced by a random output
            of the encoder; 0 for never.
        normalize: compare directions: codes and groups of z_e have length 1.
        rotation: the rotation trick in place of the straight-through gradient.
        entropy: compute the penalties "entropy" and "diversity", which need a (b, codes, K) tensor.
        temperature: of the soft assignment softmax(-‖z_e - e‖² / temperature) in those two.
        init: codes before training: "normal", N(0, 1), or "data", random outputs of the encoder on the first training
            batch.
        head: how h becomes these numbers: "linear", or "none" where the encoder already gives them.

    Raises:
        ValueError: where the groups do not divide the channels, for fewer than two codes, numbers out of their range,
            or where h is a map of another size than the latent's.

    References:
        Product Quantization for Nearest Neighbor Search (Jégou et al., 2011), https://doi.org/10.1109/TPAMI.2010.57;
        Neural Discrete Representation Learning (van den Oord et al., 2017), https://arxiv.org/abs/1711.00937

    Example:
        >>> import torch, vaekit
        >>> quantizer = vaekit.sampler["grouped_vq"]((8, 4, 4), (6, 4, 4), groups=3, codebook_size=16)
        >>> quantizer(torch.randn(5, 8, 4, 4)).index.shape
        torch.Size([5, 3, 4, 4])
    """

    space = "codes"
    terms = {"commitment": 0.25}

    def __init__(
        self,
        in_shape: Sequence[int],
        latent_shape: Sequence[int],
        *,
        groups: int = 2,
        codebook_size: int = 512,
        learn: Literal["ema", "gradient"] = "ema",
        decay: float = 0.99,
        restart: float = 0.01,
        normalize: bool = False,
        rotation: bool = False,
        entropy: bool = False,
        temperature: float = 1.0,
        init: Literal["normal", "data"] = "data",
        head: HeadKind = "linear",
    ) -> None:
        super().__init__()
        if groups < 1 or latent_shape[0] % groups:
            raise ValueError(
                f"groups: expected a divisor of the latent's {latent_shape[0]} channels, got {groups}. Change groups, "
                f"or set latent to a multiple of {max(groups, 1)} channels."
            )
        positive(temperature=temperature)
        self.layout = Layout(latent_shape, latent_shape[0] // groups, "groups", grouped=True)
        self.codebook_size, self.index_shape = codebook_size, self.layout.index_shape
        self.rotation, self.temperature = rotation, temperature if entropy else None
        self.head = Head(in_shape, latent_shape, 1, head)
        self.codebook = Codebook(
            codebook_size, self.layout.size, books=groups,
            learn=learn, decay=decay, restart=restart, normalize=normalize, init=init,
        )  # fmt: skip

    def forward(
        self, h: Float[Tensor, "b k *t"], sample_shape: tuple[int, ...] = (), *, log_joint: LogJoint | None = None
    ) -> Level:
        z_e = at_least_float32(self.head(h)).squeeze(1)
        found = self.codebook(self.layout.split(z_e))
        gradient = rotated if self.rotation else straight_through
        z = self.layout.join(gradient(found.x, found.code.detach()), self.layout.place(z_e))
        penalties = self.codebook.penalties(found, self.temperature)
        return point(z, self.layout.shaped(found.index, self.layout.place(z_e)), penalties, sample_shape)

    def lookup(self, index: Tensor) -> Tensor:
        return self.layout.join(self.codebook.lookup(self.layout.flat(index)), self.layout.place(index))
