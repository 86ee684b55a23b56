"""Games between a model and a critic, as functions of logits, and what keeps the critic smooth."""

from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from vaekit.layers.precision import at_least_float32

Game: TypeAlias = Literal["hinge", "vanilla", "non_saturating", "lsgan", "wgan", "relativistic"]

_GAMES = ("hinge", "vanilla", "non_saturating", "lsgan", "wgan", "relativistic")


def critic_loss(kind: Game, real: Sequence[Tensor], fake: Sequence[Tensor]) -> Float[Tensor, " b"]:
    """What the critic minimises, given its logits r of data and f of what the model made, (b,).

    | kind | critic | optimal critic, p data and q model | model |
    |---|---|---|---|
    | hinge | ½ [max(0, 1 - r) + max(0, 1 + f)] | sign(p - q) | -f |
    | vanilla | ½ [softplus(-r) + softplus(f)] | log p/q | -f |
    | non_saturating | softplus(-r) + softplus(f) | log p/q | softplus(-f) |
    | lsgan | ½ [(r - 1)² + f²] | p / (p + q) | ½ (f - 1)² |
    | wgan | f - r | sign(p - q), where bounded by 1 | -f |
    | relativistic | softplus(f - r) | log p/q + any constant | softplus(r - f) |

    "hinge" and "vanilla" have latent diffusion's halves. "vanilla" is that repository's too: with an optimal critic its
    model minimises KL(q‖p). "relativistic" compares a datum with what the model made of it, place by place, which is
    R3GAN's form, in place of the older comparison with the batch's mean; it wants `r1` on data and fakes.

    Shapes: lists of logits, one tensor `(b, …)` per scale, of the same shapes for data and fakes → (b,): the mean over
    places, then over scales.

    Raises:
        ValueError: where the game is unknown.

    References:
        Geometric GAN (Lim & Ye, 2017; hinge), https://arxiv.org/abs/1705.02894; Generative Adversarial Nets
        (Goodfellow et al., 2014), https://arxiv.org/abs/1406.2661; Least Squares Generative Adversarial Networks
        (Mao et al., 2017), https://arxiv.org/abs/1611.04076; Wasserstein GAN (Arjovsky et al., 2017),
        https://arxiv.org/abs/1701.07875; The relativistic discriminator (Jolicoeur-Martineau, 2019),
        https://arxiv.org/abs/1807.00734; The GAN is dead; long live the GAN! A Modern GAN Baseline
        (Huang et al., 2024), https://arxiv.org/abs/2501.05441

    Example:
        >>> critic_loss("hinge", [torch.tensor([[3.0]])], [torch.tensor([[0.0]])])
        tensor([0.5000])
    """
    check_game(kind)
    return _mean([_judge(kind, at_least_float32(r), at_least_float32(f)) for r, f in zip(real, fake, strict=True)])


def generator_loss(kind: Game, fake: Sequence[Tensor], real: Sequence[Tensor] | None = None) -> Float[Tensor, " b"]:
    """What the model minimises, given the critic's logits, (b,); "relativistic" needs those of data as well.

    The table is in `critic_loss`.

    Raises:
        ValueError: where the game is unknown, or lacks the logits of data.

    Example:
        >>> generator_loss("non_saturating", [torch.tensor([[0.0]])])
        tensor([0.6931])
    """
    check_game(kind)
    if kind == "relativistic":
        if real is None:
            raise ValueError(
                "real: expected the logits of data, which the game 'relativistic' compares with; got None."
            )
        return critic_loss(kind, fake, real)  # the same game with the sides exchanged
    return _mean([_fool(kind, at_least_float32(f)) for f in fake])


def r1(critic: Callable[[Tensor], Sequence[Tensor]], x: Tensor) -> Float[Tensor, " b"]:
    """½ ‖∇_x D(x)‖², with D the mean of an example's logits over places and scales, as games take it; (b,).

    Its gradient reaches the critic's weights. On what the model made it is R2. Batch normalisation mixes examples, and
    with them their gradients: use group normalisation.

    References:
        Which Training Methods for GANs do actually Converge? (Mescheder et al., 2018),
        https://arxiv.org/abs/1801.04406

    Example:
        >>> r1(lambda x: [x.square().sum(1, keepdim=True)], torch.tensor([[1.0, 2.0]]))
        tensor([10.], grad_fn=<MulBackward0>)
    """
    keep = torch.is_grad_enabled()
    # the other kernels of attention have no second derivative
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        x = x.detach().requires_grad_()
        total = _mean([at_least_float32(each) for each in critic(x)]).sum()
        (gradient,) = torch.autograd.grad(total, x, create_graph=keep)
    return 0.5 * at_least_float32(gradient).square().flatten(1).sum(1)


class LeCam(nn.Module):
    """weight · [(D(x) - α_F)² + (D(x̂) - α_R)²]: pulls each side's logits to the running mean of the other's.

    α_R and α_F are moving averages of the critic's mean logits of data and of what the model made: they start at 0, and
    follow in training only, after the loss was computed. Critics of few data stay calm with it.

    Shapes: lists of logits `(b, …)` → (b,): the mean over places, then over scales.

    Args:
        weight: times the penalty.
        decay: of the moving averages.
        one_sided: whether logits are pulled only inwards: D(x) down to α_F and D(x̂) up to α_R. The paper pulls both
            ways, its published code, MaskBit's and TiTok's one way.

    Raises:
        ValueError: where the weight is negative or the decay outside [0, 1).

    References:
        Regularizing Generative Adversarial Networks under Limited Data (Tseng et al., 2021),
        https://arxiv.org/abs/2104.03310

    Example:
        >>> LeCam(0.1)([torch.full((2, 1), 3.0)], [torch.full((2, 1), -1.0)])
        tensor([1., 1.])
    """

    real: Tensor
    fake: Tensor

    def __init__(self, weight: float = 1.0, *, decay: float = 0.999, one_sided: bool = False) -> None:
        super().__init__()
        if weight < 0:
            raise ValueError(f"weight: expected at least 0, got {weight}.")
        if not 0 <= decay < 1:
            raise ValueError(f"decay: expected a number from 0 to below 1, got {decay}.")
        self.weight, self.decay, self.one_sided = weight, decay, one_sided
        self.register_buffer("real", torch.zeros(()))
        self.register_buffer("fake", torch.zeros(()))

    def forward(self, real: Sequence[Tensor], fake: Sequence[Tensor]) -> Float[Tensor, " b"]:
        real, fake = [at_least_float32(each) for each in real], [at_least_float32(each) for each in fake]
        # copies, since the averages move on before a backward pass
        anchor_real, anchor_fake = self.real.clone(), self.fake.clone()
        too_high = [r - anchor_fake for r in real]
        too_low = [anchor_real - f for f in fake]
        if self.one_sided:
            too_high, too_low = map(_positive, (too_high, too_low))
        value = _mean([a.square() for a in too_high]) + _mean([a.square() for a in too_low])
        if self.training:
            with torch.no_grad():
                self.real.lerp_(_mean(real).mean().to(self.real.dtype), 1 - self.decay)
                self.fake.lerp_(_mean(fake).mean().to(self.fake.dtype), 1 - self.decay)
        return self.weight * value


def _judge(kind: Game, r: Tensor, f: Tensor) -> Tensor:
    if kind == "hinge":
        return 0.5 * (F.relu(1 - r) + F.relu(1 + f))
    if kind == "lsgan":
        return 0.5 * ((r - 1).square() + f.square())
    if kind == "wgan":
        return f - r
    if kind == "relativistic":
        return F.softplus(f - r)
    told = F.softplus(-r) + F.softplus(f)
    return 0.5 * told if kind == "vanilla" else told


def _fool(kind: Game, f: Tensor) -> Tensor:
    if kind == "non_saturating":
        return F.softplus(-f)
    return 0.5 * (f - 1).square() if kind == "lsgan" else -f


def _mean(scales: Sequence[Tensor]) -> Float[Tensor, " b"]:
    """The mean over places, then over scales, so that a scale of many places has no more weight than one of few."""
    return torch.stack([each.flatten(1).mean(1) for each in scales]).mean(0)


def _positive(values: list[Tensor]) -> list[Tensor]:
    return [F.relu(each) for each in values]


def check_game(kind: str) -> None:
    """Refuse a game that is not known.

    Raises:
        ValueError: with those that are.
    """
    if kind not in _GAMES:
        raise ValueError(f"kind: expected one of {', '.join(_GAMES)}; got {kind!r}.")
