"""What priors that are fitted to latents share: checks of the points, their scale, and a training loop."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


def flat_points(z: Tensor, least: int, name: str) -> Tensor:
    """Latents `(n, *latent)` as vectors (n, d).

    Raises:
        ValueError: where there are fewer than `least`, or one holds NaN.
    """
    if len(z) < least:
        raise ValueError(f"{name}: expected at least {least} latents to fit to, got {len(z)}. Give more data.")
    if not torch.isfinite(z).all():
        raise ValueError(f"{name}: the latents hold NaN or infinite values. Look at what the encoder gives.")
    return z.detach().flatten(1)


def location_and_scale(z: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each column of z (n, d); a column of one value keeps its unit."""
    scale = z.std(0)
    return z.mean(0), torch.where(scale > 1e-6, scale, torch.ones_like(scale))


def minimise(
    loss: Callable[[Tensor], Tensor],
    parameters: Iterable[nn.Parameter],
    z: Tensor,
    *,
    epochs: int,
    lr: float,
    batch_size: int,
    seed: int,
) -> None:
    """Adam on the mean of `loss` over minibatches of z; gradients are on, also under a caller's `torch.no_grad()`.

    Raises:
        ValueError: where training went astray, and left NaN behind.
    """
    parameters = list(parameters)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(parameters, lr=lr)
    with torch.enable_grad():
        for _ in range(epochs):
            for index in torch.randperm(len(z), generator=generator).split(batch_size):
                optimizer.zero_grad()
                loss(z[index.to(z.device)]).mean().backward()
                optimizer.step()
    optimizer.zero_grad()
    if not all(torch.isfinite(p).all() for p in parameters):
        raise ValueError(f"fit: training gave NaN or infinite weights. Lower lr, which is {lr}.")


def check_training(epochs: int, lr: float, batch_size: int) -> None:
    """Refuse numbers with which nothing is trained.

    Raises:
        ValueError: naming the number.
    """
    for name, value in (("epochs", epochs), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name}: expected at least 1, got {value}.")
    if not lr > 0:
        raise ValueError(f"lr: expected a positive number, got {lr}.")


def start_unfitted(prior: nn.Module) -> None:
    """Give a prior the buffer `fitted`, false, which is saved with the model.

    `is_fitted` says the same without waiting for the device: `fit` sets both, and loading a state sets it.
    """
    prior.register_buffer("fitted", torch.zeros((), dtype=torch.bool))
    prior.is_fitted = False  # type: ignore[assignment]
    prior.register_load_state_dict_post_hook(_read_fitted)


def mark_fitted(prior: Any) -> None:
    """Say that a prior holds a fitted density."""
    prior.fitted.fill_(True)
    prior.is_fitted = True


def require_fitted(prior: Any, name: str) -> None:
    """Refuse a prior that was not fitted, unless `build` only looks at its shapes.

    Raises:
        ValueError: saying what to call.
    """
    if not (prior.is_fitted or prior.probing):
        raise ValueError(f"{name} is not fitted yet: call vae.fit_prior('{name}', data), which fits and saves it.")


def _read_fitted(prior: Any, _: object) -> None:
    prior.is_fitted = bool(prior.fitted)
