"""The moving average of a model's weights, with warm-up, on torch's own AveragedModel."""

from typing import Any

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from vaekit.train.shards import local


class Ema:
    """θ̄ ← θ̄ + (1 - d_t)(θ - θ̄) with d_t = min(decay, (1 + t) / (10 + t)) after t updates; the first one copies θ.

    The warm-up forgets the first, bad weights quickly. Buffers are copied, not averaged.

    Args:
        model: whose weights are averaged.
        decay: what d_t rises to.

    Raises:
        ValueError: where `decay` is outside (0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"Trainer: ema is the decay of the average, in (0, 1), such as 0.999; got {decay}.")
        self.decay, self.updates = decay, 0
        # n_averaged stays on the CPU, so that reading it waits for no device
        self.averaged = AveragedModel(model, multi_avg_fn=self._average)

    @property
    def module(self) -> nn.Module:
        """The model with the averaged weights."""
        return self.averaged.module

    def averages(self, module: nn.Module) -> None:
        """Keep the average in another module of the same weights: a copy that is shared out."""
        self.averaged.module = module

    def update(self, model: nn.Module) -> None:
        """Take in the weights after a step."""
        self.averaged.update_parameters(model)
        self.updates += 1

    def follow(self, model: nn.Module) -> None:
        """Take over what is neither weight nor buffer, such as the steps that a game counts; before it is looked at."""
        for own, current in zip(self.module.modules(), model.modules(), strict=True):
            if type(current).get_extra_state is not nn.Module.get_extra_state:
                own.set_extra_state(current.get_extra_state())

    def _average(self, averaged: Any, current: Any, _: Any) -> None:
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        get_ema_multi_avg_fn(decay)([local(p) for p in averaged], [local(p) for p in current], self.updates)

    def state_dict(self) -> dict[str, object]:
        """The number of updates; the averaged weights are written as the model of the checkpoint."""
        return {"updates": self.updates}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Go on from `state`."""
        self.updates = int(state["updates"])  # type: ignore[call-overload]
        self.averaged.n_averaged.fill_(self.updates)
