"""The contracts of every kind of part, and their registries, in the order in which data flow. Read this first.

    x ─► encoder ─► h ─► sampler ─► z ─► decoder ─► y ─► likelihood ─► p(x|z)
                          └► q(z|x) ── kl ── p(z) ◄─ prior
    Output(x, y, p(x|z), levels, cond) ─► losses ─► objective ─► Report(total, terms)

Every stage is a module and every probability a `torch.distributions.Distribution`. A part is one final class under one
of the abstract classes below; its constructor takes what `vaekit.build` wires first (only the names that it wants),
then the user's choices by keyword.

Shapes: b batch, n sample dimensions, c channels, s spatial dimensions (none for tabular data, one for signals, two for
images, three for volumes), t tokens, k features.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from vaekit.records import Level, Output, Report
from vaekit.registry import Registry

LogJoint: TypeAlias = Callable[[Tensor], Tensor]
"""z (*n, b, *latent) → log p(x, z), (*n, b) nats."""


class Part(nn.Module, ABC):
    """A module that remembers the arguments it was made with, so that a model can be written down by names."""

    #: whether torch.compile(fullgraph=True) takes the part; the laws assert it both ways
    compiles: ClassVar[bool] = True
    #: whether torch.export can trace the part, for ONNX files; tests assert it both ways
    exports: ClassVar[bool] = True

    arguments: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        self = super().__new__(cls)
        object.__setattr__(self, "arguments", (args, kwargs))  # nn.Module refuses attributes before its __init__
        return self

    def __init__(self) -> None:
        super().__init__()


class Encoder(Part):
    """x → h: features of the data. Knows nothing of the posterior.

    A flat encoder returns one tensor, a vector (b, k) or a map `(b, k, *t)`. An encoder for ladders returns a list of
    maps, fine to coarse. With a condition it takes the condition's tokens as its second argument.

    Wired by name: `in_shape` `(c, *s)`, `latent_shape`, `cond_dim` (0 without a condition), `in_channels`.
    """

    #: numbers of spatial dimensions that the part takes
    ranks: ClassVar[tuple[int, ...]] = (0, 1, 2, 3)
    #: whether a model with a map latent takes data of other sizes than `in_shape` at run time
    any_size: ClassVar[bool] = False
    #: whether h is a row of tokens (b, k, t), whatever the data's spatial dimensions
    sequence: ClassVar[bool] = False
    #: whether a latent may be larger than the data, as representations of a large network are
    overcomplete: ClassVar[bool] = False

    @abstractmethod
    def forward(
        self, x: Float[Tensor, "b c *s"], cond: Float[Tensor, "b t k"] | None = None
    ) -> Float[Tensor, "b k *t"] | list[Tensor]: ...


class Sampler(Part):
    """h → q(z|x) and a draw z: the latent sampler. Owns the head h → parameters of q.

    (Drawing from a density that was fitted after training is `vae.fit_prior` here.)

    `forward(h, sample_shape)` draws z of shape `(*sample_shape, b, *latent_shape)`. `log_joint` is there for samplers
    that look at the model itself, such as Hamiltonian ones.

    A sampler of codes (`space = "codes"`) gives their integers as the level's `index`, says how many there are in
    `codebook_size` and `index_shape`, and turns them into z with `lookup`. Its q, where it has one, and the prior are
    distributions over the integers.

    Wired by name: `in_shape` (h's shape), `latent_shape`, `in_channels`, `out_channels`.
    """

    #: where z lives: "real", "positive", "sphere", "ball", "codes", "mixed"; the prior has to cover it
    space: ClassVar[str] = "real"
    #: whether a latent may be larger than the data; that of a KL term would be a mistake of the user's
    overcomplete: ClassVar[bool] = False
    #: terms, with weights, that a model gets with this sampler where its user names no loss
    terms: ClassVar[Mapping[str, float]] = {}
    #: codes to choose from; 0 where the latent is continuous
    codebook_size: int = 0
    #: shape of an example's codes
    index_shape: tuple[int, ...] = ()
    #: of the space, where that is a ball (negative by convention: this is its size)
    curvature: float = 0.0

    @abstractmethod
    def forward(
        self, h: Float[Tensor, "b k *t"], sample_shape: tuple[int, ...] = (), *, log_joint: LogJoint | None = None
    ) -> Level: ...

    def lookup(self, index: Tensor) -> Tensor:
        """Codes `(*n, b, *index_shape)` → z `(*n, b, *latent_shape)`, for samplers of codes."""
        raise NotImplementedError(f"{type(self).__name__} has no codes to look up.")


class Prior(Part):
    """p(z), given the condition's tokens where it wants them.

    `posterior` maps data x, and tokens where the model has a condition, to q(z|x) with the model's own encoder and
    sampler, for priors made of posteriors (VAMP).

    A prior over codes is a distribution over integers of shape `index_shape`, each in [0, `codebook_size`).

    Wired by name: `latent_shape`, `input_shape`, `data_range`, `cond_dim`; from the sampler `codebook_size` (0 where
    the latent is continuous), `index_shape`, `curvature`.
    """

    #: the spaces that the prior covers
    spaces: ClassVar[tuple[str, ...]] = ("real",)
    #: whether `log_prob` exists; a prior without it can be sampled, and gives no KL and no bound
    has_density: ClassVar[bool] = True

    def at(self, shape: tuple[int, ...]) -> Distribution | None:
        """p(z) for latents of another size, `shape` without the batch; None where there is none."""
        return None

    @abstractmethod
    def forward(
        self,
        cond: Float[Tensor, "b t k"] | None = None,
        *,
        posterior: Callable[..., Distribution] | None = None,
    ) -> Distribution: ...


class FittedPrior(Prior):
    """A density that is fitted to the latents of a trained model: `vae.fit_prior(name, data)`.

    What `fit` finds is kept in parameters or buffers whose shapes the constructor's arguments fix, so that the fitted
    density is saved and loaded with the model.
    """

    #: set while `build` looks at shapes, so that a density that is not fitted yet does not refuse
    probing: bool = False

    @abstractmethod
    def fit(self, z: Float[Tensor, "n *latent"]) -> None:
        """Fit the density to draws of the aggregate posterior (to their codes, where the latent has codes), in place.

        Raises:
            ValueError: where there are too few points.
        """


class Decoder(Part):
    """z → y: natural parameters of the likelihood. Never sees the encoder's features, so that prior samples decode.

    Wired by name: `latent_shape`, `out_shape` `(y's channels, *s)`, `cond_dim`, `out_channels`.
    """

    ranks: ClassVar[tuple[int, ...]] = (0, 1, 2, 3)
    #: whether map latents of other sizes than `latent_shape` can be decoded; y has then at least the data's size, to
    #: which the graph cuts it. Where `forward` has a keyword `size`, it is told that size, (*s) or None
    any_size: ClassVar[bool] = False

    @abstractmethod
    def forward(
        self, z: Float[Tensor, "b *latent"], cond: Float[Tensor, "b t k"] | None = None
    ) -> Float[Tensor, "b c *s"]: ...


class Transform(Part):
    """(z, x) → (z, x): what is done to the latent before it is decoded, and to the data that it should decode to.

    Noise, dropped channels, or a turn of both, which makes the latent space follow the data. It happens in training
    alone, after z was drawn and judged by KL; with `always` it belongs to the decoder, and happens whenever z is
    decoded, with None for x.

    Shapes: z `(*n, b, *latent)`, x `(b, *data)`; both may come back in another size, together.

    Wired by name: `latent_shape`, `input_shape`.
    """

    #: whether sampling and reconstruction see it as well
    always: ClassVar[bool] = False

    @abstractmethod
    def forward(self, z: Tensor, x: Tensor | None = None) -> tuple[Tensor, Tensor | None]: ...


class Normalizer(Part):
    """z ↔ the scale in which other models take the latent: about zero mean and unit variance.

    Not part of encoding and decoding: `vae.latents(x)` gives normalised latents, `vae.decode_latents` takes them.

    Shapes: z `(*n, b, *latent)`; maps may come in other sizes.

    Wired by name: `latent_shape`.
    """

    @abstractmethod
    def forward(self, z: Tensor) -> Tensor: ...

    @abstractmethod
    def inverse(self, z: Tensor) -> Tensor:
        """What `forward` made, made undone."""

    def fit(self, z: Iterable[Tensor]) -> None:
        """Find the scale from latents, batch by batch, in one pass.

        Raises:
            TypeError: where there is nothing to find.
        """
        raise TypeError(f"{type(self).__name__} has nothing to fit: its numbers are arguments.")


class Likelihood(Part):
    """y → p(x|z), with the data's shape as event shape.

    Wired by name: `input_shape` `(c, *s)`, `data_range`.
    """

    #: the data range that the distribution's support needs; None where any will do
    support: ClassVar[tuple[float, float] | None] = None
    #: the smallest value that data may have, as 0 for counts; None where any will do
    least: ClassVar[float | None] = None

    def channels(self, c: int) -> int:
        """How many channels y needs for c channels of data."""
        return c

    @abstractmethod
    def forward(self, y: Float[Tensor, "*n_b_c_s"]) -> Distribution: ...


class Loss(Part):
    """Output → one number per example, (b,): nats unless the docstring names another unit.

    Sums over event dimensions and averages over sample dimensions; weight and batch reduction belong to the objective.

    Wired by name: `input_shape`, `latent_shape`, `data_range`.
    """

    #: whether an example's number depends on the rest of the batch, as statistics of the batch do
    batchwise: ClassVar[bool] = False
    #: whether it draws random numbers of its own, beside those of z
    stochastic: ClassVar[bool] = False
    #: the fewest examples that a batch may have
    smallest_batch: ClassVar[int] = 1

    def check(self, out: Output) -> None:  # noqa: B027 — a loss that fits every model has nothing to check
        """Refuse a model that the loss does not fit, on one probing pass when the model is built.

        Raises:
            ValueError: saying why, and what fits.
        """

    @abstractmethod
    def forward(self, out: Output) -> Float[Tensor, " b"]: ...


class CriticLoss(Loss):
    """A loss that a network is trained against: the model minimises `forward`, the network `critic_loss`.

    The two are players with isolated gradients: `forward` runs the network with its weights frozen, so that they feel
    nothing of it, and `critic_loss` detaches what the model made, so that only the network feels it. One backward pass
    of the sum of both is then right for both.
    """

    critic: nn.Module

    @property
    def fade(self) -> float:
        """How much of its weight the term has at this step: 0 before the game starts."""
        return 1.0

    def tick(self) -> None:  # noqa: B027 — most games do not count
        """Go one training step on."""

    @abstractmethod
    def critic_loss(self, out: Output) -> Float[Tensor, " b"]:
        """What the network minimises, per example."""


class Discriminator(Part):
    """x or z → a list of logits, one tensor per scale. Critics for adversarial terms.

    Wired by name: `in_shape`, `in_channels`, `cond_dim`.
    """

    @abstractmethod
    def forward(self, x: Tensor) -> list[Tensor]: ...

    @abstractmethod
    def features(self, x: Tensor) -> list[Tensor]:
        """Hidden activations, for feature matching."""


class Condition(Part):
    """What is known beside x → tokens (b, t, dim) for encoder, decoder and prior. `None` means: not given.

    A condition that only losses read has `dim = 0` and gives None in place of tokens.
    """

    dim: int

    @abstractmethod
    def example(self, batch: int) -> Tensor:
        """A condition that may be given, for `batch` examples: what a first pass through the model is tried with."""

    @abstractmethod
    def forward(self, given: Tensor | None, batch: int) -> Float[Tensor, "b t k"] | None: ...


class Weight(Part):
    """The weight of one term: a number that changes over training.

    `forward(value)` gives the weight for a term whose batch mean is `value`; `tick()` is called once a training step.
    """

    step: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    def tick(self) -> None:
        """Go one training step on."""
        self.step += 1

    @abstractmethod
    def forward(self, value: Tensor) -> Tensor: ...


class Objective(Part):
    """Output → Report: weighs the terms and reduces them to the number to minimise.

    `terms` maps a label to a `Loss`, `weights` the same labels to numbers or `Weight`s.
    """

    #: shape of the draws of z that one pass needs: () for one, (k,) for k importance samples
    sample_shape: tuple[int, ...] = ()
    #: whether gradients reach the encoder through z; where not, the draws are taken as given
    reparameterized: bool = True
    #: whether the decoder's side is frozen in the pass, since the objective scores it by itself
    freezes_decoder: bool = False

    def check(self, out: Output) -> None:  # noqa: B027 — most objectives fit every model
        """Refuse a model that the objective does not fit, on one probing pass when the model is built.

        Raises:
            ValueError: saying why, and what fits.
        """

    @abstractmethod
    def forward(self, out: Output) -> Report: ...


_SHAPES = (
    "in_shape",
    "in_channels",
    "out_shape",
    "out_channels",
    "latent_shape",
    "input_shape",
    "data_range",
    "cond_dim",
    "codebook_size",
    "index_shape",
    "curvature",
)

encoder = Registry[Encoder]("encoder", Encoder, "vaekit.encoders", wiring=_SHAPES)
sampler = Registry[Sampler]("sampler", Sampler, "vaekit.samplers", wiring=_SHAPES)
prior = Registry[Prior]("prior", Prior, "vaekit.priors", wiring=_SHAPES)
decoder = Registry[Decoder]("decoder", Decoder, "vaekit.decoders", wiring=_SHAPES)
likelihood = Registry[Likelihood]("likelihood", Likelihood, "vaekit.likelihoods", wiring=_SHAPES)
loss = Registry[Loss]("loss", Loss, "vaekit.losses", wiring=_SHAPES, reserved=("weight", "label", "module"))
discriminator = Registry[Discriminator]("discriminator", Discriminator, "vaekit.discriminators", wiring=_SHAPES)
condition = Registry[Condition]("condition", Condition, "vaekit.conditions")
transform = Registry[Transform]("transform", Transform, "vaekit.transforms", wiring=_SHAPES)
normalizer = Registry[Normalizer]("normalizer", Normalizer, "vaekit.normalizers", wiring=_SHAPES)
recipe = Registry[Any]("recipe", None, "vaekit.recipes")
# Two more, for what turns terms into a number: most users meet them as `ramp(…)` and as the default objective.
weight = Registry[Weight]("weight", Weight, "vaekit.weights")
objective = Registry[Objective]("objective", Objective, "vaekit.objective", wiring=("terms", "weights"))
