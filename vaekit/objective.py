"""Output → Report: how terms become the number to minimise.

A loss gives one number per example; an objective averages over the batch, weighs and adds. Weights are numbers, or the
schedules of `vaekit.weights`.
"""

import copy
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Transform

from vaekit.kinds import CriticLoss, Objective, Weight, objective
from vaekit.layers.divergence import check_densities
from vaekit.losses.kl import KLLoss
from vaekit.losses.nll import NLLLoss
from vaekit.records import Output, Report
from vaekit.weights import Balance, GradientBalanced


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
        terms = Terms(self.terms, self.weights, self.numbers)
        total = terms.add(out, self.terms)
        if self.training:
            tick(self)
        assert isinstance(total, Tensor)
        return Report(total, _noted(terms.values, total), terms.applied)


class Terms:
    """The weighted sum of some terms, with each one's mean and weight noted for the report."""

    def __init__(self, losses: nn.ModuleDict, weights: nn.ModuleDict, numbers: Mapping[str, float]) -> None:
        self.losses, self.weights, self.numbers = losses, weights, numbers
        self.values: dict[str, Tensor] = {}
        self.applied: dict[str, Any] = {}

    def add(self, out: Output, labels: Iterable[str]) -> Tensor | float:
        """Σ of the terms called `labels`; a loss with a critic brings what the critic minimises."""
        total: Tensor | float = 0.0
        out, views = self._balanced(out)
        for label in labels:
            loss: Any = self.losses[label]
            fade = loss.fade if isinstance(loss, CriticLoss) else 1.0
            value = loss(views.get(label, out)).mean()
            scale = fade * self.weigh(label, value) if fade != 1 else self.weigh(label, value)
            if label in views:  # its weight acts in the backward pass
                total = scale * value.detach() + (value - value.detach()) + total
            else:
                total = scale * value + total
            self.values[label] = value.detach()
            if isinstance(loss, CriticLoss):
                value = loss.critic_loss(out).mean()
                total = total + value
                self.values[f"{label}_critic"] = value.detach()
        return total

    def _balanced(self, out: Output) -> tuple[Output, dict[str, Output]]:
        """The output for most terms, and for each term of balanced weight its own, whose gradient is weighed."""
        fades = {label: getattr(self.losses[label], "fade", 1.0) for label in self.weights}
        labels = [n for n, w in self.weights.items() if isinstance(w, GradientBalanced) and fades[n]]
        if not labels or not out.y.requires_grad:
            return out, {}
        weights: dict[str, Any] = {label: self.weights[label] for label in labels}
        parts = [(weights[label], weights[label].last_layer(out.model.decoder), fades[label]) for label in labels]
        rest, *own = Balance.apply(out.y, parts)  # pyright: ignore[reportGeneralTypeIssues]
        outs = [replace(out, y=y, p_x=out.model.likelihood(y)) for y in (rest, *own)]
        return outs[0], dict(zip(labels, outs[1:], strict=True))

    def weigh(self, label: str, value: Tensor) -> Tensor | float:
        """The weight of a term whose batch mean is `value`."""
        scale = self.weights[label](value) if label in self.weights else self.numbers[label]
        self.applied[label] = scale.detach() if isinstance(scale, Tensor) else scale
        return scale


@objective("importance_weighted", cite=("burda2016", "rainforth2018", "roeder2017", "tucker2019", "mnih2016"))
class ImportanceWeighted(Objective):
    """-1/M Σ_m log 1/K Σ_k w_mk with w = p(x, z) / q(z|x), z ~ q(z|x): a bound on -log p(x), tighter as K grows.

        IWAE    k=K                              MIWAE   m=M, k=K: M bounds of K draws, averaged
        CIWAE   k=K, elbo=β: β ELBO + (1-β) IWAE
        PIWAE   m=M, k=K, partial=True: the encoder learns from MIWAE (M, K), decoder and prior from IWAE (M·K)

    Weights of the terms nll and kl make it log w = w_nll log p(x|z) + w_kl (log p(z) - log q(z|x)), for annealing;
    other terms are added as in `weighted_sum`. The estimator says how the gradient reaches the encoder; the value, and
    the decoder's gradient, are the same for all.

        "pathwise"   through z and through q's density
        "stl"        sticking the landing: through z alone; biased for K > 1
        "dreg"       doubly reparameterised: through z alone, with squared weights; unbiased, sharper as K grows
        "score"      by the score of q with leave-one-out baselines (VIMCO; with k=1 over the m draws), for discrete z

    Args:
        terms: label → loss; nll and kl among them.
        weights: label → number or `Weight`.
        k: draws in a bound.
        m: bounds that are averaged.
        elbo: β, the part of the ELBO in the mixture.
        partial: whether encoder and decoder learn from different bounds.
        estimator: see above.

    Raises:
        ValueError: where k or m < 1, β is outside [0, 1], nll or kl is missing or changed, or the estimator does not
            fit; at build, where q(z|x) has no density or the estimator can't do with it.

    References:
        Importance Weighted Autoencoders (Burda et al., 2016), https://arxiv.org/abs/1509.00519; Tighter Variational
        Bounds are Not Necessarily Better (Rainforth et al., 2018; MIWAE, CIWAE, PIWAE),
        https://arxiv.org/abs/1802.04537; Sticking the Landing (Roeder et al., 2017),
        https://arxiv.org/abs/1703.09194; Doubly Reparameterized Gradient Estimators (Tucker et al., 2019),
        https://arxiv.org/abs/1810.04152; Variational Inference for Monte Carlo Objectives (Mnih & Rezende, 2016),
        https://arxiv.org/abs/1602.06725

    Example:
        >>> import torch, vaekit
        >>> objective = vaekit.use("importance_weighted", k=5, estimator="dreg")
        >>> vae = vaekit.build("mlp", latent=2, input_shape=(1, 4, 4), objective=objective)
        >>> list(vae.loss(torch.rand(3, 1, 4, 4)).terms)
        ['bound', 'nll', 'kl']
    """

    def __init__(
        self,
        terms: Mapping[str, nn.Module],
        weights: Mapping[str, float | nn.Module],
        *,
        k: int = 5,
        m: int = 1,
        elbo: float = 0.0,
        partial: bool = False,
        estimator: Literal["pathwise", "stl", "dreg", "score"] = "pathwise",
    ) -> None:
        super().__init__()
        _at_least(1, k=k, m=m)
        if not 0 <= elbo <= 1:
            raise ValueError(f"elbo: expected a part in [0, 1], got {elbo}.")
        if estimator not in ("pathwise", "stl", "dreg", "score"):
            raise ValueError(f"estimator: expected 'pathwise', 'stl', 'dreg' or 'score', got {estimator!r}.")
        if (elbo or partial) and estimator in ("dreg", "score"):
            raise ValueError(f"estimator: {estimator!r} goes neither with elbo nor with partial. Use 'pathwise'.")
        if elbo and partial:
            raise ValueError("partial: goes with elbo=0, since encoder and decoder have bounds of their own.")
        if estimator == "score" and k * m < 2:
            raise ValueError("estimator: 'score' needs baselines from other draws. Set k or m to 2 or more.")
        self.k, self.m, self.elbo, self.estimator = k, m, elbo, estimator
        self.sample_shape, self.freezes_decoder, self.reparameterized = (m, k), partial, estimator != "score"
        self.terms = nn.ModuleDict(dict(terms))
        self.weights = nn.ModuleDict({name: w for name, w in weights.items() if isinstance(w, nn.Module)})
        self.numbers = {name: float(w) for name, w in weights.items() if not isinstance(w, nn.Module)}
        self._nll, self._kl = (self._own(kind) for kind in (NLLLoss, KLLoss))
        if any(isinstance(w, GradientBalanced) for w in self.weights.values()):
            raise ValueError("importance_weighted: takes no balanced weights. Give the term a number or a schedule.")
        kl: Any = self.terms[self._kl]
        if kl.free_bits or kl.capacity is not None or kl.reduction != "sum":
            raise ValueError("importance_weighted: the bound needs the plain KL. Leave out free_bits and capacity.")

    def check(self, out: Output) -> None:
        """q(z|x) needs a density, and one that can be evaluated apart from its draw for all but "pathwise"."""
        if any(not getattr(transform, "always", False) for transform in getattr(out.model, "transforms", ())):
            raise ValueError("the bound is of the data and z as they are. Leave the transforms out.")
        for level in out.levels:
            check_densities(level, "the bound")
            if self.estimator != "pathwise" and (level.q is None or level.log_q is not None):
                raise ValueError(
                    f"the estimator {self.estimator!r} evaluates q(z|x) at its draws, which this sampler's q does not "
                    "allow. Use 'pathwise', or a sampler such as 'gaussian'."
                )
        if self.estimator == "score" and not getattr(out.model.sampler, "hard", True):
            raise ValueError("the estimator 'score' needs draws that are codes, not relaxed ones. Set hard=True.")

    def forward(self, out: Output) -> Report:
        terms = Terms(self.terms, self.weights, self.numbers)
        log_p_x, log_ratio = self._log_weights(out)
        nll, kl = -log_p_x.mean(), -log_ratio.mean()
        w_nll, w_kl = terms.weigh(self._nll, nll), terms.weigh(self._kl, kl)
        log_w = w_nll * log_p_x + w_kl * log_ratio  # (m, k, b)
        bound = _log_mean_exp(log_w, 1).mean(0)
        total = -(self.elbo * log_w.mean((0, 1)) + (1 - self.elbo) * bound).mean()
        if self.estimator == "score":
            total = total - self._score_term(out, log_w.detach())
        elif self.estimator == "dreg":
            self._square_weights(out, log_w.detach())
        if self.freezes_decoder:
            (level,) = out.levels
            log_joint = out.model.log_joint(out)  # moves decoder and prior alone; the weights above, the encoder alone
            whole = -_log_mean_exp((log_joint - level.log_posterior().detach()).flatten(0, 1), 0).mean()
            total = whole + (total - total.detach())
        values = {"bound": total.detach(), self._nll: nll.detach(), self._kl: kl.detach()}
        total = total + terms.add(out, [name for name in self.terms if name not in (self._nll, self._kl)])
        if self.training:
            tick(self)
        return Report(total, _noted({**values, **terms.values}, total), terms.applied)

    def _own(self, kind: type[nn.Module]) -> str:
        found = [label for label, loss in self.terms.items() if isinstance(loss, kind)]
        if len(found) != 1:
            raise ValueError(
                f"importance_weighted: the bound is made of the terms nll and kl, once each; got {list(self.terms)}."
            )
        return found[0]

    def _log_weights(self, out: Output) -> tuple[Tensor, Tensor]:
        """log p(x|z) and log p(z) - log q(z|x), each (m, k, b)."""
        log_ratio: Any = 0.0
        for level in out.levels:
            q = level.q if self.estimator in ("pathwise", "score") or level.q is None else detached(level.q)
            log_ratio = log_ratio + level.log_prior() - replace(level, q=q).log_posterior()
        return out.p_x.log_prob(out.x), log_ratio

    def _square_weights(self, out: Output, log_w: Tensor) -> None:
        """Multiply what reaches z by its normalised weight, so that the encoder feels the squares."""
        for level in out.levels:
            if level.z.requires_grad:
                share = log_w.softmax(1)  # the bound's own gradient brought one factor already
                level.z.register_hook(lambda g, share=share: g * share.reshape(share.shape + (1,) * (g.ndim - 3)))

    def _score_term(self, out: Output, log_w: Tensor) -> Tensor:
        """Σ_k (L - L_{-k}) log q(z_k|x), whose gradient is the score function's; its value is taken off again."""
        log_q = torch.stack([level.log_posterior() for level in out.levels]).sum(0)
        gain = _leave_one_out(log_w, 1) if self.k > 1 else _leave_one_out(log_w, 0)
        each = (gain * (log_q - log_q.detach())).sum((0, 1)) / self.m
        return each.mean()


def _noted(values: Mapping[str, Tensor], total: Tensor) -> dict[str, Tensor]:
    """The terms' means for the report, in memory of their own.

    Where a term is the total itself, inductor would return one tensor for both, and that without a gradient.
    """
    *means, _ = torch.stack([*values.values(), total.detach()]).unbind()
    return dict(zip(values, means, strict=True))


def _log_mean_exp(x: Tensor, dim: int) -> Tensor:
    return x.logsumexp(dim) - math.log(x.shape[dim])


def _leave_one_out(log_w: Tensor, dim: int) -> Tensor:
    """What each draw adds: the bound with it, less the bound with the others' mean in its place.

    Over the draws inside a bound (dim 1) that is VIMCO's signal; over single draws (dim 0) log w less the others' mean.
    """
    n = log_w.shape[dim]
    others = (log_w.sum(dim, keepdim=True) - log_w) / (n - 1)
    if dim == 0:
        return log_w - others
    eye = torch.eye(n, dtype=torch.bool, device=log_w.device)[:, :, None]  # (left out, draw, 1)
    without = torch.where(eye, others[:, :, None], log_w[:, None])  # (m, left out, draw, b)
    return _log_mean_exp(log_w, 1)[:, None] - _log_mean_exp(without, 2)


def detached(q: Any) -> Any:
    """A distribution with the same values, through whose parameters no gradient flows."""
    if isinstance(q, Tensor):
        return q.detach()
    if isinstance(q, (list, tuple)):
        return type(q)(map(detached, q))
    if not isinstance(q, (Distribution, Transform)):
        return q
    twin = copy.copy(q)
    for name, value in vars(q).items():
        object.__setattr__(twin, name, detached(value))
    return twin


def tick(module: nn.Module) -> None:
    """Tell every schedule and every game inside `module` that a training step is over."""
    for part in module.modules():
        if isinstance(part, (Weight, CriticLoss)):
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


__all__ = ["ImportanceWeighted", "Terms", "TrainStep", "WeightedSum", "detached", "tick"]
