"""The prior over maps of codes that predicts each code from those before it."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from vaekit.kinds import FittedPrior, prior
from vaekit.layers.autoregressive import CausalTransformer, PixelCNN
from vaekit.layers.fitting import check_training, minimise
from vaekit.modes import seeded


@prior("autoregressive", tags=("discrete", "learned"), cite=("oord2016", "oord2017", "esser2021"))
class AutoregressivePrior(FittedPrior):
    """p(k) = Π_i p(k_i | k_1 … k_{i-1}): a transformer or a gated PixelCNN over the codes.

    It may be trained with the model, by the `kl` term, or be fitted to the codes of a trained one, as is customary:
    `vae.fit_prior("autoregressive", data)`. A model's condition steers it, where it is trained with the model. Drawing
    takes one pass for each code.

    Shapes: event shape `(*index_shape)`, batch shape (), or (b,) with a condition. Unit of log p: nats.

    Args:
        codebook_size: number of codes, wired.
        index_shape: the codes' shape, wired.
        cond_dim: width of the condition's tokens, wired.
        network: "transformer" reads the codes in rows, any number of dimensions; "pixelcnn" needs a plane of codes.
        width: channels.
        depth: number of blocks.
        heads: of the transformer's attentions.
        dropout: in training.
        epochs: passes over the codes in `fit`.
        lr: learning rate in `fit`.
        batch_size: maps of codes in a step of `fit`.
        seed: of the order and the dropout in `fit`.

    Raises:
        ValueError: where the network does not fit the codes, or a size is not positive; at `fit`, where there are no
            codes.

    References:
        Conditional Image Generation with PixelCNN Decoders (van den Oord et al., 2016),
        https://arxiv.org/abs/1606.05328; Neural Discrete Representation Learning (van den Oord et al., 2017),
        https://arxiv.org/abs/1711.00937; Taming Transformers for High-Resolution Image Synthesis (Esser et al., 2021),
        https://arxiv.org/abs/2012.09841

    Example:
        >>> import vaekit
        >>> p = vaekit.prior["autoregressive"](16, (2, 3), width=8, depth=1, heads=2)()
        >>> p.log_prob(p.sample((5,))).shape
        torch.Size([5])
    """

    spaces = ("codes",)

    def __init__(
        self,
        codebook_size: int,
        index_shape: Sequence[int],
        cond_dim: int = 0,
        *,
        network: Literal["transformer", "pixelcnn"] = "transformer",
        width: int = 128,
        depth: int = 4,
        heads: int = 4,
        dropout: float = 0.1,
        epochs: int = 20,
        lr: float = 1e-3,
        batch_size: int = 128,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_training(epochs, lr, batch_size)
        for name, value in {"width": width, "depth": depth}.items():
            if value < 1:
                raise ValueError(f"{name}: expected at least 1, got {value}.")
        self.index_shape, self.codebook_size = tuple(index_shape), codebook_size
        self.epochs, self.lr, self.batch_size, self.seed = epochs, lr, batch_size, seed
        self.network: nn.Module
        if network == "pixelcnn":
            if len(self.index_shape) != 2:
                raise ValueError(
                    f"network: 'pixelcnn' needs a plane of codes, and they have the shape {self.index_shape}. Use "
                    "'transformer'."
                )
            self.network = PixelCNN(codebook_size, cond_dim, width=width, depth=depth, dropout=dropout)
        elif network == "transformer":
            length = math.prod(self.index_shape)
            self.network = CausalTransformer(
                codebook_size, length, cond_dim, width=width, depth=depth, heads=heads, dropout=dropout
            )
        else:
            raise ValueError(f"network: expected 'transformer' or 'pixelcnn', got {network!r}.")

    def fit(self, z: Tensor) -> None:
        """Train on codes (n, *index_shape), by the mean of -log p(k)."""
        if not len(z):
            raise ValueError("autoregressive: there are no codes to fit to.")
        training = {"epochs": self.epochs, "lr": self.lr, "batch_size": self.batch_size, "seed": self.seed}
        with seeded(self.seed, z.device):  # dropout
            self.train()
            minimise(lambda codes: -self().log_prob(codes), self.parameters(), z, **training)
        self.eval()

    def forward(
        self,
        cond: Float[Tensor, "b t k"] | None = None,
        *,
        posterior: Callable[..., Distribution] | None = None,
    ) -> Distribution:
        return Autoregressive(self.network, self.index_shape, self.codebook_size, cond)


class Autoregressive(Distribution):
    """Codes whose logits a causal network gives, place after place in rows.

    Args:
        network: (b, t) or, for a PixelCNN, `(b, *index_shape)` codes, with the condition's tokens → logits.
        index_shape: the codes' shape.
        categories: number of codes.
        cond: the condition's tokens (b, t, k), or None.
    """

    arg_constraints = {}  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]

    def __init__(self, network: nn.Module, index_shape: Sequence[int], categories: int, cond: Tensor | None) -> None:
        self.network, self.categories, self.cond = network, categories, cond
        self.flat = not isinstance(network, PixelCNN)
        batch = torch.Size([]) if cond is None else torch.Size([len(cond)])
        super().__init__(batch, torch.Size(index_shape), validate_args=False)

    @property
    def support(self) -> Any:
        """Codes."""
        return constraints.independent(constraints.nonnegative_integer, len(self.event_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """Σ_i log p(k_i | k_1 … k_{i-1}), nats."""
        lead = value.shape[: value.ndim - len(self.event_shape)]
        index = value.reshape(-1, *self.event_shape)
        log_p = -F.cross_entropy(self._logits(index).flatten(0, -2), index.flatten(), reduction="none")
        return log_p.reshape(len(index), -1).sum(1).reshape(lead)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Codes, drawn one place at a time."""
        shape = torch.Size(sample_shape) + self.batch_shape
        like = next(self.network.parameters())
        index = torch.zeros(math.prod(shape), *self.event_shape, dtype=torch.long, device=like.device)
        flat = index.view(len(index), -1)
        for place in range(flat.shape[1]):
            logits = self._logits(index, place + 1)
            flat[:, place] = torch.distributions.Categorical(logits=logits[:, place], validate_args=False).sample()
        return index.reshape(*shape, *self.event_shape)

    def _logits(self, index: Tensor, upto: int | None = None) -> Tensor:
        """(b, t, codes); a transformer reads the first `upto` codes only."""
        cond = self.cond
        if cond is not None and len(cond) != len(index):
            cond = cond.expand(len(index) // len(cond), *cond.shape).flatten(0, 1)
        if self.flat:
            return self.network(index.flatten(1)[:, :upto], cond)
        return self.network(index, cond).flatten(1, -2)
