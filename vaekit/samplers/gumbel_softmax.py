"""The categorical posterior, relaxed."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from vaekit.kinds import LogJoint, Sampler, sampler
from vaekit.layers.categories import CodeHead, Temperature, codes, relaxed
from vaekit.records import Level


@sampler("gumbel_softmax", tags=("discrete",), cite=("jang2017", "maddison2017"))
class GumbelSoftmaxSampler(Sampler):
    """q(k|x) = Categorical(softmax(h)), drawn by z = softmax((h + g) / τ), g ~ Gumbel(0, 1).

    The latent's channels are one-hot vectors side by side, each of `categories`. In training z is relaxed, or one-hot
    with the relaxed gradient where `hard`; in evaluation it is one-hot. The KL is that of the categoricals, in closed
    form; with relaxed draws the objective is therefore no exact bound on log p(x).

    Shapes: h `(b, k, *t)` → z `(*n, b, v·categories, *t)` and codes `(*n, b, v, *t)`. Unit of log q: nats per example.

    Args:
        in_shape: h's shape, wired.
        latent_shape: the latent's shape, wired.
        categories: length of each one-hot vector; it divides the latent's channels.
        hard: whether draws are one-hot in training too.
        temperature: τ at the first step.
        smallest: τ never falls below this.
        anneal: τ falls as exp(-anneal · step).

    Raises:
        ValueError: where there are fewer than 2 categories, they do not divide the channels, or τ is not positive.

    References:
        Categorical Reparameterization with Gumbel-Softmax (Jang et al., 2017), https://arxiv.org/abs/1611.01144;
        The Concrete Distribution (Maddison et al., 2017), https://arxiv.org/abs/1611.00712

    Example:
        >>> import torch, vaekit
        >>> level = vaekit.sampler["gumbel_softmax"]((400,), (20,), categories=10)(torch.randn(5, 400), (3,))
        >>> level.z.shape, level.index.shape
        (torch.Size([3, 5, 20]), torch.Size([3, 5, 2]))
    """

    space = "codes"

    def __init__(
        self,
        in_shape: Sequence[int],
        latent_shape: Sequence[int],
        *,
        categories: int = 10,
        hard: bool = False,
        temperature: float = 1.0,
        smallest: float = 0.5,
        anneal: float = 0.0,
    ) -> None:
        super().__init__()
        self.head = CodeHead(in_shape, latent_shape, categories)
        self.codebook_size, self.index_shape, self.hard = categories, self.head.index_shape, hard
        self.temperature = Temperature(temperature, smallest, anneal)

    def lookup(self, index: Tensor) -> Tensor:
        """Codes → one-hot vectors."""
        return self.head.lookup(index)

    def forward(
        self, h: Float[Tensor, "b k *t"], sample_shape: tuple[int, ...] = (), *, log_joint: LogJoint | None = None
    ) -> Level:
        logits = self.head(h)
        y, index = relaxed(logits, sample_shape, self.temperature(), self.hard or not self.training)
        q = codes(logits, len(self.index_shape))
        return Level(self.head.spread(y), q, index=index, center=lambda: self.lookup(logits.argmax(-1)))
