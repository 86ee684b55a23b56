"""The vector quantizer."""

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


@sampler("vq", tags=("codes",), cite=("oord2017", "fifty2024"))
class VQSampler(Sampler):
    """z = e_k with k = argmin_j ‖z_e(h) - e_j‖: the nearest of K learned codes.

    A map latent `(c, *t)` has one code of c dimensions per position, index `(*t)`. A vector latent `(d,)` falls into
    d / code_dim codes from the same codebook, index `(d/code_dim,)`.

    The decoder's gradient goes to z_e as if nothing had been rounded, or turned as the code is turned from z_e
    (`rotation`). It does not reach the codes: those follow the encoder, as moving averages (EMA) in training mode, or
    by the loss `codebook`. The loss `commitment` draws z_e to its code. In training mode z is of the codes before the
    update.

    Penalties per example, summed over positions and channels: "commitment" ‖z_e - sg(e)‖²; "codebook" ‖sg(z_e) - e‖²
    with learn="gradient"; with `entropy` also "entropy" and "diversity", nats, for the loss `code_entropy`.

    Shapes: h `(b, k, *t)` → z `(*n, b, *latent)`, index `(*n, b, *index_shape)`; all draws are the same point.

    Args:
        in_shape: h's shape, wired.
        latent_shape: the latent's shape, wired.
        codebook_size: K, how many codes there are.
        learn: how codes learn: "ema" follows the mean of what is assigned to them, "gradient" needs the loss
            `codebook`.
        decay: γ of the moving averages, per training step.
        restart: a code used less than this share of the even usage (a moving average) is replaced by a random output
            of the encoder; 0 for never.
        normalize: compare directions: codes and z_e have length 1.
        rotation: the rotation trick in place of the straight-through gradient.
        code_dim: dimensions of a code of a vector latent; None: the whole vector is one code.
        entropy: compute the penalties "entropy" and "diversity", which need a (b, codes, K) tensor.
        temperature: of the soft assignment softmax(-‖z_e - e‖² / temperature) in those two.
        init: codes before training: "normal", N(0, 1), or "data", random outputs of the encoder on the first training
            batch.
        head: how h becomes these numbers: "linear", or "none" where the encoder already gives them.

    Raises:
        ValueError: for fewer than two codes, numbers out of their range, a `code_dim` that does not divide the vector
            or is given for a map, or where h is a map of another size than the latent's.

    References:
        Neural Discrete Representation Learning (van den Oord et al., 2017), https://arxiv.org/abs/1711.00937;
        Restructuring Vector Quantization with the Rotation Trick (Fifty et al., 2024),
        https://arxiv.org/abs/2410.06424; Vector-quantized Image Modeling with Improved VQGAN (Yu et al., 2022;
        normalised codes), https://arxiv.org/abs/2110.04627; Jukebox (Dhariwal et al., 2020; restarts),
        https://arxiv.org/abs/2005.00341

    Example:
        >>> import torch, vaekit
        >>> quantizer = vaekit.sampler["vq"]((8, 4, 4), (3, 4, 4), codebook_size=16).eval()
        >>> level = quantizer(torch.randn(5, 8, 4, 4))
        >>> level.index.shape, torch.equal(quantizer.lookup(level.index), level.z)
        (torch.Size([5, 4, 4]), True)
    """

    space = "codes"
    terms = {"commitment": 0.25}

    def __init__(
        self,
        in_shape: Sequence[int],
        latent_shape: Sequence[int],
        *,
        codebook_size: int = 512,
        learn: Literal["ema", "gradient"] = "ema",
        decay: float = 0.99,
        restart: float = 0.01,
        normalize: bool = False,
        rotation: bool = False,
        code_dim: int | None = None,
        entropy: bool = False,
        temperature: float = 1.0,
        init: Literal["normal", "data"] = "data",
        head: HeadKind = "linear",
    ) -> None:
        super().__init__()
        if code_dim is not None and len(latent_shape) > 1:
            raise ValueError(
                f"code_dim: expected None, since a map latent has one code per position, of its {latent_shape[0]} "
                f"channels; got {code_dim}. Leave code_dim out, or use 'grouped_vq' for several codes per position."
            )
        positive(temperature=temperature)
        self.layout = Layout(latent_shape, latent_shape[0] if code_dim is None else code_dim, "code_dim")
        self.codebook_size, self.index_shape = codebook_size, self.layout.index_shape
        self.rotation, self.temperature = rotation, temperature if entropy else None
        self.head = Head(in_shape, latent_shape, 1, head)
        self.codebook = Codebook(
            codebook_size, self.layout.size, learn=learn, decay=decay, restart=restart, normalize=normalize, init=init
        )

    def forward(
        self, h: Float[Tensor, "b k *t"], sample_shape: tuple[int, ...] = (), *, log_joint: LogJoint | None = None
    ) -> Level:
        latent = at_least_float32(self.head(h)).squeeze(1)
        z_e, place = self.layout.split(latent), self.layout.place(latent)  # (b, g, m, k)
        found = self.codebook(z_e.flatten(1, 2)[:, None])  # all from one book: (b, 1, g·m, k)
        gradient = rotated if self.rotation else straight_through
        z = gradient(found.x, found.code.detach()).reshape(z_e.shape)
        index = self.layout.shaped(found.index.reshape(z_e.shape[:-1]), place)
        penalties = self.codebook.penalties(found, self.temperature)
        return point(self.layout.join(z, place), index, penalties, sample_shape)

    def lookup(self, index: Tensor) -> Tensor:
        flat = self.layout.flat(index)
        codes = self.codebook.lookup(flat.flatten(-2)[..., None, :])
        return self.layout.join(codes.reshape(*flat.shape, -1), self.layout.place(index))
