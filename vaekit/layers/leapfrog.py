"""Hamiltonian dynamics that follow log p(x, z): steps of known volume, their sizes, and tempering."""

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel


def gradient(log_density: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """∇_z log p(z), of z's shape: with a graph where gradients are on, found and detached where they are off.

    Raises:
        ValueError: under `torch.inference_mode`, where no gradient can be had.
    """
    if not torch.compiler.is_compiling() and torch.is_inference_mode_enabled():
        raise ValueError("Hamiltonian steps need a gradient, which torch.inference_mode forbids. Use torch.no_grad.")
    train = torch.is_grad_enabled()
    # fused attention has no second derivative, which the decoder's own learning through the steps takes
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        z = z if train and z.requires_grad else z.detach().requires_grad_()
        (found,) = torch.autograd.grad(log_density(z).sum(), z, create_graph=train)
    return found


class Pace(nn.Module):
    """How Hamiltonian steps go: a learned size for each latent dimension, and quadratic tempering.

    A size is max_step sigmoid(s). Before the steps the momentum has the precision β0 ≤ 1, so that it is wide, and
    after step k it is multiplied by √(β_{k-1} / β_k), with 1/√β_k = (1 - 1/√β0) (k/K)² + 1/√β0: β rises to 1. The
    factors multiply to √β0, and so |det| of all steps is β0^(d/2).

    Args:
        latent_shape: the latent's shape.
        steps: K.
        step_size: where sizes start.
        max_step: what they stay below.
        beta: β0, or where it starts.
        learn_beta: whether it is trained.

    Raises:
        ValueError: where a number is out of range.
    """

    fixed_beta: Tensor

    def __init__(
        self, latent_shape: Sequence[int], steps: int, step_size: float, max_step: float, beta: float, learn_beta: bool
    ) -> None:
        super().__init__()
        if steps < 1:
            raise ValueError(f"steps: expected at least 1, got {steps}.")
        if not 0 < max_step < math.inf:
            raise ValueError(f"max_step: expected a positive number, got {max_step}.")
        if not 0 < step_size < max_step:
            raise ValueError(f"step_size: expected a number between 0 and max_step {max_step}, got {step_size}.")
        if not (0 < beta < 1 or (beta == 1 and not learn_beta)):
            hint = " Set learn_beta=False to do without tempering." if beta == 1 else ""
            raise ValueError(f"beta: expected a number above 0 and below 1, got {beta}.{hint}")
        self.steps, self.max_step, self.learn_beta = steps, max_step, learn_beta
        self.free_step = nn.Parameter(torch.full(tuple(latent_shape), _logit(step_size / max_step)))
        if learn_beta:
            self.free_beta = nn.Parameter(torch.tensor(_logit(beta)))
        else:
            self.register_buffer("fixed_beta", torch.tensor(float(beta)), persistent=False)

    def step(self) -> Float[Tensor, "*latent"]:
        """The step sizes."""
        return self.max_step * self.free_step.sigmoid()

    def beta(self) -> Float[Tensor, ""]:
        """β0."""
        return self.free_beta.sigmoid() if self.learn_beta else self.fixed_beta

    def tempering(self) -> Float[Tensor, " k"]:
        """√(β_{k-1} / β_k) of each step."""
        start = self.beta().rsqrt()
        place = torch.arange(self.steps + 1, device=start.device, dtype=start.dtype) / self.steps
        inverse_root = (1 - start) * place.square() + start
        return inverse_root[1:] / inverse_root[:-1]


class Place(Protocol):
    """What a metric says at some points z `(*n, b, d)`."""

    def velocity(self, momentum: Tensor) -> Tensor:
        """G⁻¹(z) ρ."""
        ...

    def slope(self, momentum: Tensor) -> Tensor:
        """∂_z of the kinetic energy ½ ρᵀ G⁻¹(z) ρ + ½ log det G(z)."""
        ...


def leapfrog(
    z: Tensor, momentum: Tensor, step: Tensor, force: Callable[[Tensor], Tensor], tempering: Tensor
) -> tuple[Tensor, Tensor]:
    """One leapfrog step for each factor in `tempering`: half a kick, a drift by the new momentum, half a kick.

    Each of the three is a shear, so that |det| is that of the tempering alone, whatever the force is.

    Args:
        z: position `(*n, b, *latent)`.
        momentum: ρ, of z's shape.
        step: sizes `(*latent)`.
        force: z → -∇U(z), of z's shape.
        tempering: what the momentum is multiplied by after each step.
    """
    pull = force(z)
    for factor in tempering.unbind():
        half = momentum + 0.5 * step * pull
        z = z + step * half
        pull = force(z)
        momentum = factor * (half + 0.5 * step * pull)
    return z, momentum


def generalized_leapfrog(
    z: Tensor,
    momentum: Tensor,
    step: Tensor,
    force: Callable[[Tensor], Tensor],
    at: Callable[[Tensor], Place],
    tempering: Tensor,
    fixed_point: int,
) -> tuple[Tensor, Tensor]:
    """Leapfrog steps under a metric, whose first two equations are implicit and solved by fixed-point iterations.

    Solved exactly, each step keeps volume and is reversible, as the plain one. The force is asked once per step.

    Args:
        z: position `(*n, b, d)`.
        momentum: ρ, of z's shape.
        step: sizes (d,).
        force: z → -∇U(z), of z's shape.
        at: z → the metric there.
        tempering: what the momentum is multiplied by after each step.
        fixed_point: iterations per equation.
    """
    pull, here = force(z), at(z)
    for factor in tempering.unbind():
        half = momentum
        for _ in range(fixed_point):
            half = momentum + 0.5 * step * (pull - here.slope(half))
        start = z + 0.5 * step * here.velocity(half)
        z = start + 0.5 * step * here.velocity(half)
        for _ in range(fixed_point):
            z = start + 0.5 * step * at(z).velocity(half)
        pull, here = force(z), at(z)
        momentum = factor * (half + 0.5 * step * (pull - here.slope(half)))
    return z, momentum


def inverse_of_square(root: Float[Tensor, "*n d d"]) -> Float[Tensor, "*n d d"]:
    """(R Rᵀ)⁻¹ for R lower triangular; where R is singular it is not finite, in place of the error that torch has."""
    eye = torch.eye(root.shape[-1], device=root.device, dtype=root.dtype)
    inverse = torch.linalg.solve_triangular(root, eye, upper=False)
    return inverse.mT @ inverse


def _logit(value: float) -> float:
    return math.log(value) - math.log1p(-value)
