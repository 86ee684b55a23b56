"""Weights of terms that change over training: by the step, by the term's own size, or by its gradient.

A schedule counts the training steps in a buffer, so it is saved with the model and resumes exactly.
"""

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd import Function

from vaekit.kinds import Weight, weight
from vaekit.spec import Spec


@weight("constant")
class Constant(Weight):
    """w = value.

    Args:
        value: the weight.
    """

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = float(value)

    def forward(self, value: Tensor) -> Tensor:
        return value.new_tensor(self.value)


@weight("ramp")
class Ramp(Weight):
    """w goes from `start` to `end` over `steps` training steps, then stays: KL annealing, GAN warm-up.

    Args:
        start: the weight until step `begin`.
        end: the weight from step `begin + steps` on.
        steps: length of the ramp in training steps.
        begin: the step at which the ramp begins.
        shape: "linear" or "cosine".

    Raises:
        ValueError: where `steps` < 1 or `begin` < 0.

    References:
        Generating Sentences from a Continuous Space (Bowman et al., 2016), https://arxiv.org/abs/1511.06349
    """

    def __init__(
        self, start: float, end: float, *, steps: int, begin: int = 0, shape: Literal["linear", "cosine"] = "linear"
    ) -> None:
        super().__init__()
        _at_least(1, ramp_steps=steps)
        _at_least(0, ramp_begin=begin)
        self.start, self.end, self.steps, self.begin, self.shape = float(start), float(end), steps, begin, shape

    def forward(self, value: Tensor) -> Tensor:
        part = ((self.step - self.begin) / self.steps).clamp(0, 1)
        if self.shape == "cosine":
            part = (1 - torch.cos(part * math.pi)) / 2
        return self.start + (self.end - self.start) * part


@weight("cyclical")
class Cyclical(Weight):
    """w climbs from `start` to `end` over the first part of each cycle and stays there for the rest.

    Args:
        start: the weight at the start of each cycle.
        end: the weight after the climb, and for good after the last cycle.
        period: length of a cycle in training steps.
        climb: part of the cycle that climbs, in (0, 1].
        cycles: how many cycles; None for ever.

    Raises:
        ValueError: where `period` < 1 or `climb` is outside (0, 1].

    References:
        Cyclical Annealing Schedule: A Simple Approach to Mitigating KL Vanishing (Fu et al., 2019),
        https://arxiv.org/abs/1903.10145
    """

    def __init__(self, start: float, end: float, *, period: int, climb: float = 0.5, cycles: int | None = None) -> None:
        super().__init__()
        _at_least(1, cyclical_period=period)
        if not 0 < climb <= 1:
            raise ValueError(f"cyclical climb: expected a part of the cycle in (0, 1], got {climb}.")
        self.start, self.end, self.period, self.climb, self.cycles = float(start), float(end), period, climb, cycles

    def forward(self, value: Tensor) -> Tensor:
        part = ((self.step % self.period) / (self.climb * self.period)).clamp(0, 1)
        if self.cycles is not None:
            part = torch.where(self.step >= self.period * self.cycles, torch.ones_like(part), part)
        return self.start + (self.end - self.start) * part


@weight("geco", cite="rezende2018")
class Geco(Weight):
    """w is the Lagrange multiplier λ that holds a term's mean at `target`: λ ← λ exp(rate · C̄), C̄ a running mean.

    With this weight on the reconstruction term, the objective is min KL subject to E[reconstruction] ≤ target.

    λ moves at the end of every training step, by the mean over all examples of the step, whether these come in one
    batch, in several that the Trainer accumulates, or in several processes. A mean that is not finite moves nothing.

    Args:
        target: what the term's batch mean may be at most, in the term's own unit.
        rate: how fast λ moves; the constraint is divided by `target`'s size first, so that the unit does not matter.
        momentum: of the running mean of the constraint. The paper's 0.99 oscillates at this rate; 0.9 settles.
        start: λ at the first step.
        low: smallest λ.
        high: largest λ.

    Raises:
        ValueError: where `momentum` is outside [0, 1) or the bounds are not 0 < low ≤ start ≤ high.

    References:
        Taming VAEs (Rezende & Viola, 2018), https://arxiv.org/abs/1810.00597
    """

    multiplier: Tensor
    constraint: Tensor
    seen: Tensor
    #: how many examples a batch counts for, beside the step's others
    examples: float = 1.0
    #: whether more batches of the step are to come
    partial: bool = False

    def __init__(
        self,
        target: float,
        *,
        rate: float = 0.01,
        momentum: float = 0.9,
        start: float = 1.0,
        low: float = 1e-6,
        high: float = 1e6,
    ) -> None:
        super().__init__()
        if not 0 <= momentum < 1:
            raise ValueError(f"geco momentum: expected a number in [0, 1), got {momentum}.")
        if not 0 < low <= start <= high:
            raise ValueError(f"geco: expected 0 < low ≤ start ≤ high, got low={low}, start={start}, high={high}.")
        self.target, self.rate, self.momentum, self.low, self.high = float(target), rate, momentum, low, high
        self.register_buffer("multiplier", torch.tensor(float(start)))
        self.register_buffer("constraint", torch.zeros(()))
        # of the step that is under way: the sum of the constraint over its examples, and their number
        self.register_buffer("seen", torch.zeros(2), persistent=False)

    def forward(self, value: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                gap = (value.detach() - self.target).to(self.seen) / max(abs(self.target), 1e-12)
                self.seen.add_(torch.stack([gap, torch.ones_like(gap)]) * self.examples)
        return self.multiplier.clone()  # the buffer changes in place at the end of the step, before a late backward

    @torch.no_grad()
    def tick(self) -> None:
        if not self.partial:
            gap, examples = _sum_over_processes(self.seen)
            gap = gap / examples
            mean = torch.where(self.step == 0, gap, self.constraint.lerp(gap, 1 - self.momentum))
            grown = self.multiplier * torch.exp((self.rate * mean).clamp(-1, 1))
            whole = gap.isfinite()  # one bad batch would stay in the running mean for good
            self.constraint.copy_(torch.where(whole, mean, self.constraint))
            self.multiplier.copy_(torch.where(whole, grown.clamp(self.low, self.high), self.multiplier))
            self.seen.zero_()
        super().tick()


@weight("gradient_balanced", cite="esser2021")
class GradientBalanced(Weight):
    """w = weight · ‖∂R/∂W‖ / (‖∂G/∂W‖ + eps), at most `most`: a term G that pulls on the decoder as hard as the rest R.

    W is the decoder's last layer. R is all other terms, with their weights, as far as they act through the decoder's
    output y, and G the term itself; both gradients are had at y in the one backward pass, so that neither a perceptual
    network nor a critic is gone through twice. The weight is therefore known once the backward pass has run: a report
    shows it after that, and the total is reckoned with the one before.

    With several processes W's gradients are averaged over them first.

    Args:
        weight: what the balance is multiplied with.
        most: the ratio's upper bound.
        eps: keeps the ratio finite.
        last: name of W among the decoder's parameters; None takes the weight of the decoder's last layer.

    Raises:
        ValueError: where a number is not positive, or the decoder has no such parameter.

    References:
        Taming Transformers for High-Resolution Image Synthesis (Esser et al., 2021), https://arxiv.org/abs/2012.09841
    """

    value: Tensor

    def __init__(self, weight: float = 1.0, *, most: float = 1e4, eps: float = 1e-4, last: str | None = None) -> None:
        super().__init__()
        for name, number in (("weight", weight), ("most", most), ("eps", eps)):
            if not 0 < number < math.inf:
                raise ValueError(f"gradient_balanced {name}: expected a positive number, got {number}.")
        self.weight, self.most, self.eps, self.last = float(weight), float(most), float(eps), last
        self.register_buffer("value", torch.tensor(float(weight)))

    def forward(self, value: Tensor) -> Tensor:
        return self.value  # not a copy: the backward pass fills it in

    def ratio(self, rest: Tensor, own: Tensor) -> Tensor:
        """The weight for these gradients in W, kept for the report."""
        ratio = torch.linalg.vector_norm(rest) / (torch.linalg.vector_norm(own) + self.eps)
        self.value.copy_(self.weight * ratio.clamp(max=self.most))
        return self.value

    def last_layer(self, decoder: nn.Module) -> nn.Parameter:
        """W: the parameter named, or the weight of the last layer."""
        named = dict(decoder.named_parameters())
        name = self.last or next((n for n in reversed(named) if named[n].ndim > 1), None)
        if name not in named:
            raise ValueError(
                f"gradient_balanced last: expected one of the decoder's parameters, such as "
                f"{next(reversed(named), None)!r}; got {name!r}."
            )
        return named[name]


class Balance(Function):
    """y → y for the other terms, and once more for each balanced one; backward, their gradients with the weights.

    Args:
        y: the decoder's output, with its graph.
        parts: (weight, W, fade) for each balanced term.
    """

    @staticmethod
    def forward(ctx: Any, y: Tensor, parts: list[tuple[GradientBalanced, nn.Parameter, float]]) -> tuple[Tensor, ...]:
        ctx.y, ctx.parts = y, parts
        ctx.set_materialize_grads(False)
        return tuple(y.view_as(y) for _ in range(len(parts) + 1))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        total, *own = gradients
        rest = total
        for gradient, (balanced, last, fade) in zip(own, ctx.parts, strict=True):
            if gradient is None:
                continue
            if rest is not None:
                at_last = [_mean_over_processes(_gradient(ctx.y, last, g)) for g in (rest, gradient)]
                gradient = balanced.ratio(*at_last) * gradient
            gradient = fade * gradient
            total = gradient if total is None else total + gradient
        return total, None


def _gradient(y: Tensor, last: nn.Parameter, gradient: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(y, last, gradient, retain_graph=True)
    return found


def _several() -> bool:
    """Whether other processes train with this one."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _sum_over_processes(x: Tensor) -> Tensor:
    """The sum of all processes' x."""
    if _several():
        x = x.clone()
        torch.distributed.all_reduce(x)
    return x


def _mean_over_processes(x: Tensor) -> Tensor:
    """The mean of all processes' x."""
    return _sum_over_processes(x) / torch.distributed.get_world_size() if _several() else x


def constant(value: float) -> Spec:
    """A weight that stays; a plain number says the same."""
    return Spec("weight", "constant", {"value": value})


def ramp(
    start: float, end: float, *, steps: int, begin: int = 0, shape: Literal["linear", "cosine"] = "linear"
) -> Spec:
    """A weight that goes from `start` to `end` over `steps` training steps: see `Ramp`.

    Example:
        >>> ramp(0, 1, steps=10_000)
        ramp(start=0, end=1, steps=10000, begin=0, shape='linear')
    """
    return Spec("weight", "ramp", {"start": start, "end": end, "steps": steps, "begin": begin, "shape": shape})


def cyclical(start: float, end: float, *, period: int, climb: float = 0.5, cycles: int | None = None) -> Spec:
    """A weight that climbs again in every cycle: see `Cyclical`."""
    args = {"start": start, "end": end, "period": period, "climb": climb, "cycles": cycles}
    return Spec("weight", "cyclical", args)


def geco(target: float, *, rate: float = 0.01, momentum: float = 0.9, start: float = 1.0) -> Spec:
    """A weight that holds its term at `target`: see `Geco`."""
    return Spec("weight", "geco", {"target": target, "rate": rate, "momentum": momentum, "start": start})


def gradient_balanced(weight: float = 1.0, *, most: float = 1e4, eps: float = 1e-4, last: str | None = None) -> Spec:
    """A weight that makes its term pull on the decoder as hard as the others: see `GradientBalanced`."""
    args = {"weight": weight, "most": most, "eps": eps, "last": last}
    return Spec("weight", "gradient_balanced", args)


def _at_least(low: int, **given: int) -> None:
    for name, value in given.items():
        if value < low:
            raise ValueError(f"{name.replace('_', ' ')}: expected at least {low}, got {value}.")
