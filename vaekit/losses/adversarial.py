"""The game with a discriminator of data."""

import inspect
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vaekit.kinds import CriticLoss, loss
from vaekit.layers.adversarial import Game, LeCam, check_game, critic_loss, generator_loss, r1
from vaekit.layers.augment import Augmentation, DiffAugment
from vaekit.layers.critic import Features, make_critic
from vaekit.layers.draws import average_draws
from vaekit.layers.frozen import frozen
from vaekit.records import Output
from vaekit.spec import Spec


@loss("adversarial", tags=("image", "adversarial"), cite=("goodfellow2014", "isola2017", "esser2021"))
class AdversarialLoss(CriticLoss):
    """-D(x̂) against a discriminator D that tells data x from reconstructions x̂: sharp detail where errors blur.

    The model and the critic are players with isolated gradients, in one backward pass. Before `start` the model feels
    nothing, and before `critic_start` the critic is not run at all. A weight `gradient_balanced()` keeps the game as
    strong as the other terms.

    Steps are counted in training mode, on the host, and saved with the model.

    Shapes: Output → (b,). Unit: that of the game, see
    `layers.adversarial.critic_loss`, averaged over a critic's scales and places.

    Args:
        input_shape: the data's shape, wired.
        cond_dim: width of the condition's tokens, for critics that take them; wired.
        data_range: of the data, for critics that ask for it; wired.
        critic: a discriminator by name, `use(...)` or a module; None takes "patchgan" for maps and "mlp" for vectors.
        kind: the game; "relativistic" compares pairs of data and reconstruction.
        start: the training step at which the model begins to feel the critic.
        critic_start: the one at which the critic begins to learn; None: `start`.
        ramp: steps over which the model's share rises from 0 to its whole weight.
        r1: γ of the gradient penalty γ/2 ‖∇_x D(x)‖² on data.
        r2: γ of the same penalty on reconstructions; the relativistic game wants both.
        r1_every: the penalties are had in one step of so many, and weigh as many times more there.
        lecam: weight of LeCam's pull of the logits to the running means of the other side.
        augment: what is done to all that the critic sees, of "color", "translation", "cutout".
        feature_matching: weight of the mean absolute difference of the critic's features of x and x̂.

    Raises:
        ValueError: where a number is negative, or the game or an augmentation is unknown.

    References:
        Generative Adversarial Nets (Goodfellow et al., 2014), https://arxiv.org/abs/1406.2661; Image-to-Image
        Translation with Conditional Adversarial Networks (Isola et al., 2017; patches),
        https://arxiv.org/abs/1611.07004; Taming Transformers (Esser et al., 2021; start and balanced weight),
        https://arxiv.org/abs/2012.09841; Which Training Methods for GANs do actually Converge? (Mescheder et al.,
        2018; R1), https://arxiv.org/abs/1801.04406; Regularizing Generative Adversarial Networks under Limited Data
        (Tseng et al., 2021; LeCam), https://arxiv.org/abs/2104.03310; Differentiable Augmentation for Data-Efficient
        GAN Training (Zhao et al., 2020), https://arxiv.org/abs/2006.10738

    Example:
        >>> import torch, vaekit
        >>> game = vaekit.term("adversarial", weight=0.1, critic=vaekit.use("patchgan", width=8), start=1000)
        >>> vae = vaekit.build("conv", latent=2, input_shape=(1, 32, 32), loss=["nll", "kl", game])
        >>> list(vae.loss(torch.rand(4, 1, 32, 32)).terms)
        ['nll', 'kl', 'adversarial', 'adversarial_critic']
    """

    stochastic = True  # augmentations
    compiles = False  # the step says which players are on, so that each one is compiled anew, up to dynamo's limit

    def __init__(
        self,
        input_shape: Sequence[int],
        cond_dim: int = 0,
        data_range: tuple[float, float] | None = (0.0, 1.0),
        *,
        critic: "str | Spec | nn.Module | None" = None,
        kind: Game = "hinge",
        start: int = 0,
        critic_start: int | None = None,
        ramp: int = 0,
        r1: float = 0.0,
        r2: float = 0.0,
        r1_every: int = 16,
        lecam: float = 0.0,
        augment: Sequence[Augmentation] = (),
        feature_matching: float = 0.0,
    ) -> None:
        super().__init__()
        check_game(kind)
        critic_start = start if critic_start is None else critic_start
        numbers = {"start": start, "critic_start": critic_start, "ramp": ramp, "r1": r1, "r2": r2, "lecam": lecam}
        for name, value in {**numbers, "feature_matching": feature_matching}.items():
            if value < 0:
                raise ValueError(f"{name}: expected a number of at least 0, got {value}.")
        if r1_every < 1:
            raise ValueError(f"r1_every: expected at least 1, got {r1_every}.")
        self.kind: Game = kind
        self.start, self.critic_start, self.ramp = start, critic_start, ramp
        self.r1, self.r2, self.r1_every, self.feature_matching = r1, r2, r1_every, feature_matching
        if critic is None:
            critic = "patchgan" if len(input_shape) > 1 else "mlp"
        self.critic = make_critic(critic, input_shape, cond_dim=cond_dim, data_range=data_range)
        self._features = (Features(self.critic),)  # in a tuple, so that its weights are not counted twice
        self._takes_tokens = "cond" in inspect.signature(self.critic.forward).parameters
        self.lecam = LeCam(lecam) if lecam else None
        self.augment = DiffAugment(augment, data_range=data_range) if augment else None
        self.step = 0

    @property
    def fade(self) -> float:
        """How much of its weight the term has at this step."""
        if self.step < self.start:
            return 0.0
        return min(1.0, (self.step - self.start + 1) / (self.ramp + 1))

    def tick(self) -> None:
        """Go one training step on."""
        self.step += 1

    def get_extra_state(self) -> Tensor:
        """The step, as a tensor, to be saved with the model."""
        return torch.tensor(self.step)

    def set_extra_state(self, state: Tensor) -> None:
        """Take up the saved step."""
        self.step = int(state)

    def forward(self, out: Output) -> Float[Tensor, " b"]:
        if not self.fade:
            return out.y.new_zeros(len(out.x))
        fake, real = out.p_x.mean.reshape(-1, *out.x.shape[1:]), None
        if self.kind == "relativistic":
            with torch.no_grad():
                real = self._logits(out.x, out, freeze=True)
                real = [each.repeat(len(fake) // len(out.x), *[1] * (each.ndim - 1)) for each in real]
        value = average_draws(
            generator_loss(self.kind, self._logits(fake, out, freeze=True), real).reshape(-1, len(out.x))
        )
        if self.feature_matching:
            value = value + self.feature_matching * self._feature_error(fake, out)
        return value

    def critic_loss(self, out: Output) -> Float[Tensor, " b"]:
        """What the critic minimises: the game's own loss, R1 on data and LeCam."""
        if self.step < self.critic_start:
            return out.y.new_zeros(len(out.x))
        x, draws = out.x.detach(), out.y.ndim - out.x.ndim
        fake = out.p_x.mean.detach().reshape(-1, *x.shape[1:])
        real, made = self._logits(x, out), self._logits(fake, out)
        if draws:
            real = [each.repeat(len(fake) // len(x), *[1] * (each.ndim - 1)) for each in real]
        value = average_draws(critic_loss(self.kind, real, made).reshape(-1, len(x)))
        if self.lecam is not None:
            value = value + average_draws(self.lecam(real, made).reshape(-1, len(x)))
        if self.training and self.step % self.r1_every == 0:
            for weight, images in ((self.r1, x), (self.r2, fake)):
                if weight:
                    penalty = r1(lambda image: self._logits(image, out), images)
                    value = value + weight * self.r1_every * average_draws(penalty.reshape(-1, len(x)))
        return value

    def _logits(self, x: Tensor, out: Output, *, freeze: bool = False) -> list[Tensor]:
        given = self._given(x if self.augment is None else self.augment(x), out)
        return frozen(self.critic, *given) if freeze else self.critic(*given)

    def _given(self, x: Tensor, out: Output) -> tuple[Tensor, ...]:
        """What the critic takes: x, and the condition's tokens where it reads them."""
        if not self._takes_tokens or out.tokens is None:
            return (x,)
        tokens = out.tokens.detach()
        return x, tokens.repeat(len(x) // len(tokens), 1, 1)

    def _feature_error(self, fake: Tensor, out: Output) -> Float[Tensor, " b"]:
        (features,) = self._features
        with torch.no_grad():
            wanted = frozen(features, *self._given(out.x, out))
        made = frozen(features, *self._given(fake, out))
        each = [
            (a.reshape(-1, *b.shape) - b).abs().flatten(2).mean(2).mean(0) for a, b in zip(made, wanted, strict=True)
        ]
        return torch.stack(each).mean(0)
