"""Output → Report: how terms become the number to minimise, and how their weights change over training.

A loss gives one number per example; an objective averages over the batch, weighs and adds. Weights are numbers or
schedules; a schedule counts the training steps in a buffer, so it is saved with the model and resumes exactly.
"""

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from vaekit.kinds import Objective, Weight, objective, weight
from vaekit.records import Output, Report
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

    def forward(self, value: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                gap = (value.detach() - self.target).to(self.constraint) / max(abs(self.target), 1e-12)
                first = self.step == 0
                self.constraint.copy_(torch.where(first, gap, self.constraint.lerp(gap, 1 - self.momentum)))
                grown = self.multiplier * torch.exp((self.rate * self.constraint).clamp(-1, 1))
                self.multiplier.copy_(grown.clamp(self.low, self.high))
        return self.multiplier.clone()  # the buffer changes in place at the next step, before a late backward


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


@objective("weighted_sum")
class WeightedSum(Objective):
    """total = Σ_i w_i · mean_b(loss_i): with the terms nll and kl of weight 1, the negative ELBO in nats per example.

    Args:
        terms: label → loss.
        weights: label → number or `Weight`.
        samples: draws of z per example that the terms average over.

    Raises:
        ValueError: where there is no term, or `samples` < 1.
    """

    def __init__(
        self, terms: Mapping[str, nn.Module], weights: Mapping[str, float | nn.Module], *, samples: int = 1
    ) -> None:
        super().__init__()
        _at_least(1, samples=samples)
        if not terms:
            raise ValueError("objective: no loss terms. Give loss=['nll', 'kl'], or terms with weights.")
        self.sample_shape = () if samples == 1 else (samples,)
        self.terms = nn.ModuleDict(dict(terms))
        self.weights = nn.ModuleDict({k: w for k, w in weights.items() if isinstance(w, nn.Module)})
        self.numbers = {k: float(w) for k, w in weights.items() if not isinstance(w, nn.Module)}

    def forward(self, out: Output) -> Report:
        total: Tensor | float = 0.0
        values, weights = {}, {}
        for label, loss in self.terms.items():
            value = loss(out).mean()
            scale = self.weights[label](value) if label in self.weights else self.numbers[label]
            total = total + scale * value
            values[label] = value.detach()
            weights[label] = scale.detach() if isinstance(scale, Tensor) else scale
        if self.training:
            tick(self)
        assert isinstance(total, Tensor)
        return Report(total, values, weights)


def tick(module: nn.Module) -> None:
    """Tell every schedule inside `module` that a training step is over."""
    for part in module.modules():
        if isinstance(part, Weight):
            part.tick()


class TrainStep(nn.Module):
    """data → Report of tensors only: the module to compile, or to wrap in DDP or FSDP.

    Args:
        model: a `vaekit.VAE`.

    Example:
        >>> import torch, vaekit
        >>> step = TrainStep(vaekit.build("mlp", latent=2, input_shape=(1, 4, 4)))
        >>> step(torch.rand(3, 1, 4, 4)).total.shape
        torch.Size([])
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, cond: Tensor | None = None) -> Report:
        return self.model.loss(x, cond)  # type: ignore[operator]


def _at_least(low: int, **given: int) -> None:
    for name, value in given.items():
        if value < low:
            raise ValueError(f"{name.replace('_', ' ')}: expected at least {low}, got {value}.")


__all__ = [
    "Constant",
    "Cyclical",
    "Geco",
    "Ramp",
    "TrainStep",
    "WeightedSum",
    "constant",
    "cyclical",
    "geco",
    "ramp",
    "tick",
]
