"""The stochastic quantizer with Gumbel-softmax gradients."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Categorical, Independent

from vaekit.kinds import LogJoint, Sampler, sampler
from vaekit.layers.categories import relaxed
from vaekit.layers.codebook import positive
from vaekit.layers.codes import Layout
from vaekit.layers.head import Head
from vaekit.layers.precision import at_least_float32
from vaekit.records import Level


@sampler("gumbel_vq", tags=("codes",), cite=("ramesh2021", "jang2017", "maddison2017"))
class GumbelVQSampler(Sampler):
    """q(k|x) = Categorical(softmax l(h)) over K learned codes; k = argmax_j l_j + g_j with Gumbel noise g, and z = e_k.

    The gradient is that of the relaxed z = Σ_j softmax((l + g)/τ)_j e_j. In training with hard=False z is that mixture
    itself, as in DALL-E; `level.index` is k in any case, and in evaluation mode z = e_k. The KL term is that of the
    index, in closed form for priors that are categorical too.

    A map latent `(c, *t)` has one code of c dimensions per position, index `(*t)`. A vector latent `(d,)` falls into
    d / code_dim codes from the same codebook, index `(d/code_dim,)`.

    τ is the buffer `temperature`: `sampler.temperature.fill_(0.5)` changes it during training, and it is saved.

    Shapes: h `(b, k, *t)` → z `(*n, b, *latent)`, index `(*n, b, *index_shape)`. Unit of log q: nats.

    Args:
        in_shape: h's shape, wired.
        latent_shape: the latent's shape, wired.
        codebook_size: K, how many codes there are.
        temperature: τ of the relaxation; small is closer to the codes, with gradients of more variance.
        hard: z is a code in training too, with straight-through gradients.
        code_dim: dimensions of a code of a vector latent; None: the whole vector is one code.

    Raises:
        ValueError: for fewer than two codes, a temperature that is not positive, a `code_dim` that does not divide the
            vector or is given for a map, or where h is a map of another size than the latent's.

    References:
        Zero-Shot Text-to-Image Generation (Ramesh et al., 2021; DALL-E), https://arxiv.org/abs/2102.12092;
        Categorical Reparameterization with Gumbel-Softmax (Jang et al., 2017), https://arxiv.org/abs/1611.01144;
        The Concrete Distribution (Maddison et al., 2017), https://arxiv.org/abs/1611.00712

    Example:
        >>> import torch, vaekit
        >>> quantizer = vaekit.sampler["gumbel_vq"]((8, 4, 4), (3, 4, 4), codebook_size=16)
        >>> level = quantizer(torch.randn(5, 8, 4, 4), (2,))
        >>> level.z.shape, level.q.event_shape
        (torch.Size([2, 5, 3, 4, 4]), torch.Size([4, 4]))
    """

    space = "codes"
    temperature: Tensor

    def __init__(
        self,
        in_shape: Sequence[int],
        latent_shape: Sequence[int],
        *,
        codebook_size: int = 512,
        temperature: float = 1.0,
        hard: bool = True,
        code_dim: int | None = None,
    ) -> None:
        super().__init__()
        if codebook_size < 2:
            raise ValueError(f"codebook_size: expected at least 2 codes to choose from, got {codebook_size}.")
        if code_dim is not None and len(latent_shape) > 1:
            raise ValueError(
                f"code_dim: expected None, since a map latent has one code per position, of its {latent_shape[0]} "
                f"channels; got {code_dim}. Leave code_dim out."
            )
        positive(temperature=temperature)
        self.layout = Layout(latent_shape, latent_shape[0] if code_dim is None else code_dim, "code_dim")
        self.codebook_size, self.index_shape, self.hard = codebook_size, self.layout.index_shape, hard
        self.head = Head(in_shape, (self.layout.groups * codebook_size, *latent_shape[1:]), 1)
        self.codebook = nn.Parameter(torch.randn(codebook_size, self.layout.size))
        self.register_buffer("temperature", torch.tensor(float(temperature)))

    def forward(
        self, h: Float[Tensor, "b k *t"], sample_shape: tuple[int, ...] = (), *, log_joint: LogJoint | None = None
    ) -> Level:
        flat = at_least_float32(self.head(h)).squeeze(1)  # (b, g·K, *t)
        logits = flat.reshape(len(h), self.layout.groups, self.codebook_size, -1).movedim(2, -1)  # (b, g, m, K)
        place, codebook = self.layout.place(flat), at_least_float32(self.codebook)
        weights, index = relaxed(logits, sample_shape, self.temperature, self.hard or not self.training)
        q = Categorical(logits=self.layout.shaped(logits.movedim(-1, 0), place).movedim(0, -1), validate_args=False)
        return Level(
            self.layout.join(weights @ codebook, place),
            Independent(q, len(self.index_shape), validate_args=False),
            index=self.layout.shaped(index, place),
            center=lambda: self.layout.join(F.embedding(logits.argmax(-1), codebook), place),
        )

    def lookup(self, index: Tensor) -> Tensor:
        codes = F.embedding(self.layout.flat(index), at_least_float32(self.codebook))
        return self.layout.join(codes, self.layout.place(index))
