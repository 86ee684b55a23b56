"""Validation: means over data of what the model minimises, in evaluation mode, with noise of its own."""

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from vaekit.device import networks_in
from vaekit.kinds import CriticLoss
from vaekit.modes import evaluating
from vaekit.train.data import Batches
from vaekit.train.feed import Feed, alone, grouped
from vaekit.train.history import Meter
from vaekit.train.processes import Agreement
from vaekit.train.rng import own_noise
from vaekit.vae import VAE

FEW = 512  # examples to look at for symptoms


@torch.no_grad()
def validate(
    model: VAE,
    data: Batches,
    feed: Feed,
    *,
    dtype: torch.dtype | None,
    seed: int | None,
    agreement: Agreement | None = None,
    first: list[tuple[Tensor, Any]] | None = None,
) -> dict[str, float]:
    """Means of the objective and its terms over the data; nothing where the run is asked to stop on the way.

    Args:
        model: on the device.
        data: all of them, or this process's part.
        feed: brings them to the device.
        dtype: that networks compute in.
        seed: of the noise.
        agreement: where all processes are here, each with its part, and may stop; None: this process alone.
        first: is given the first few examples.

    Raises:
        ValueError: where the data give no batch.
    """
    meter, first = Meter(), [] if first is None else first
    with own_noise(seed, feed.device), evaluating(model), precision_of(model, dtype, feed.device):
        groups = grouped(feed.pieces(data, 0), 1)
        for group, _ in alone(groups) if agreement is None else feed.shared(groups, data, 0, agreement):
            if agreement is not None and agreement.asked:
                return {}
            ((_, x, cond, n),) = group
            report = model.loss(x, cond)
            meter.add({"total": report.total, **report.terms}, n)
            if sum(len(each) for each, _ in first) < FEW:
                first.append((x, cond))
    means = meter.read(finite=False)
    if not means:
        raise ValueError("val: gives no batch. A stream has to be one that can restart.")
    if agreement is None or feed.processes.count == 1:
        return means
    parts = feed.processes.each(meter.state_dict())
    return {
        name: sum(part["sums"][name] for part in parts) / sum(part["sizes"][name] for part in parts) for name in means
    }


def precision_of(model: VAE, dtype: torch.dtype | None, device: torch.device) -> AbstractContextManager[None]:
    """Encoder, decoder and critics of a model compute in `dtype` inside the block."""
    losses = getattr(model.objective, "terms", {}).values()
    critics = [loss.critic for loss in losses if isinstance(loss, CriticLoss)]
    return networks_in(dtype, device, model.encoder, model.decoder, *critics)
