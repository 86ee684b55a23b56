"""What is fitted to the latents of a trained model: a prior, and the scale of a normalizer."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from vaekit.kinds import FittedPrior
from vaekit.modes import evaluating
from vaekit.records import Level
from vaekit.spec import Spec
from vaekit.wiring import as_spec, check_space, first_parameter, latent_wiring, make


def fit_prior(
    vae: Any, name: "str | type | Spec | nn.Module", data: Any, batch_size: int, args: dict[str, Any]
) -> None:
    """`vae.fit_prior`: fit a density to the latents of `data` and put it in the prior's place."""
    spec = as_spec("prior", name, "fit_prior")
    spec = spec.replace(**args) if isinstance(spec, Spec) else spec
    check_space(vae.sampler, spec, "fit_prior")
    shapes = {"latent_shape": vae.latent_shape, "input_shape": vae.input_shape, "data_range": vae.data_range}
    shapes |= {"cond_dim": getattr(vae.condition, "dim", 0), "in_channels": vae.latent_shape[0]}
    prior = make("prior", spec, {**shapes, **latent_wiring(vae.sampler)}, "fit_prior")
    if not isinstance(prior, FittedPrior):
        raise TypeError(f"prior {name!r} has no `fit`: give it to vaekit.build, as prior=.")
    with evaluating(vae):
        latents = [level.value for level in levels_of(vae, data, batch_size)]
    if not latents:
        raise ValueError("fit_prior: data is empty.")
    values, weight = torch.cat(latents), first_parameter(vae)
    if values.is_floating_point() and not torch.isfinite(values).all():
        raise ValueError("fit_prior: the latents hold NaN or infinite values. Look at what the encoder gives.")
    (prior if weight is None else prior.to(weight)).fit(values)
    vae.prior = prior
    vae.spec = vae.spec.replace(prior=spec) if vae.spec is not None else None


def fit_normalizer(vae: Any, data: Any, batch_size: int) -> None:
    """`vae.fit_normalizer`: fit the normalizer to the latents of `data`."""
    if vae.normalizer is None:
        raise TypeError("fit_normalizer: the model has none. Build it with normalizer='channel_stats'.")
    with evaluating(vae):
        vae.normalizer.fit(level.mode for level in levels_of(vae, data, batch_size))


def levels_of(vae: Any, data: Any, batch_size: int) -> Iterator[Level]:
    """q(z|x) of all data, batch by batch."""
    for x, label in _batches(data, batch_size, vae.device, vae.condition is not None, vae.input_shape):
        yield vae._posterior(vae.check(x), vae._embed(label, len(x)), ())


def _batches(
    data: Any, size: int, device: torch.device, labelled: bool, shape: tuple[int, ...]
) -> Iterator[tuple[Tensor, Any]]:
    """(x, label) on the device, labels only where they are wanted; empty batches are left out."""
    if isinstance(data, Tensor):
        data = data.split(size)
    elif (
        isinstance(data, tuple)
        and len(data) == 2
        and all(isinstance(each, Tensor) for each in data)
        and tuple(data[1].shape[1:]) != shape  # else two batches of data
    ):
        data = zip(*(each.split(size) for each in data), strict=True)
    for batch in data:
        x, *rest = (batch,) if isinstance(batch, Tensor) else batch
        if len(x):
            label = rest[0] if labelled and rest else None
            yield x.to(device), label.to(device) if isinstance(label, Tensor) else label
