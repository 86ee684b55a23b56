"""One step: gradients of a group of batches, looked at, clipped, and taken where everything is finite."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, TypeAlias

import torch
from torch import Tensor

from vaekit.kinds import CriticLoss, Weight
from vaekit.layers.codebook import Codebook
from vaekit.train.guards import Gradients, Guard
from vaekit.train.pieces import Pieces
from vaekit.train.players import Player
from vaekit.train.processes import Processes
from vaekit.train.shards import is_part
from vaekit.vae import VAE
from vaekit.weights import Geco

Group: TypeAlias = Sequence[tuple[Tensor, Any, int]]
"""Batches (x, label, how many examples count) whose gradients make one step."""


class Updates:
    """Makes the steps of a model.

    Args:
        vae: the model that is trained.
        processes: over which gradients are averaged.
        guard: is shown every step.
        dtype: that networks compute in; float16 brings a loss scaler.
        players: of all phases; their optimizers decide whether a step has to be looked at before it is made.
        pieces: cuts batches that do not fit into memory.
    """

    def __init__(
        self,
        vae: VAE,
        processes: Processes,
        guard: Guard,
        dtype: torch.dtype | None,
        players: Sequence[Player],
        pieces: Pieces,
    ) -> None:
        self.processes, self.guard, self.pieces = processes, guard, pieces
        device = next(vae.parameters()).device
        # without a fused kernel, whether a step is finite has to be known before it is made
        self.gated = (
            device.type != "cpu"
            and not processes.sharded
            and all(group.get("fused") for player in players for group in player.optimizer.param_groups)
        )
        self.scaler = torch.amp.GradScaler(device.type) if dtype == torch.float16 else None
        parts = list(getattr(vae.objective, "modules", list)())
        self._counting: list[Any] = [m for m in parts if isinstance(m, (Weight, CriticLoss)) and hasattr(m, "step")]
        self._codebooks = [m for m in vae.modules() if isinstance(m, Codebook)]
        self._following = [part for part in parts if isinstance(part, Geco)]
        self._buffers = list(vae.buffers()) if processes.sharded else []
        self._uncut = [p for p in vae.parameters() if not is_part(p)] if processes.sharded else []

    def make(
        self, step: Any, number: int, players: Sequence[Player], group: Group, size: int
    ) -> tuple[dict[str, Tensor], bool]:
        """Means of the total, its terms and the gradients' norms; and whether the weights moved, as far as is known.

        Args:
            step: x, label → Report.
            number: of the step, from 1.
            players: of the phase.
            group: this process's batches.
            size: examples in the step, over all processes.
        """
        terms = self.pieces.fitting(group, lambda cut: self._backward(step, players, cut, size))
        playing = [player for player in players if player.plays(number)]
        if self.scaler is not None:
            for player in playing:
                self.scaler.unscale_(player.optimizer)
        gradients = [(player, found) for player in playing if (found := player.gradients()) is not None]
        whole = self.guard.watch(number, terms, [found for _, found in gradients])
        moved = self.move(gradients, whole)
        if moved:
            for player in playing:
                player.schedule.step()
        return {**terms, **{f"grad_norm/{player.name}": found.norm for player, found in gradients}}, moved

    def _backward(self, step: Any, players: Sequence[Player], group: Group, size: int) -> dict[str, Tensor]:
        """Gradients of the group's mean loss; returns the means of total and terms, detached.

        Each batch weighs as many examples as it has, of the `size` that all processes have in this step.
        """
        for player in players:
            player.optimizer.zero_grad(set_to_none=True)
        self.processes.copy(self._buffers)  # as DDP does where the weights are whole
        scale = (lambda total: total) if self.scaler is None else self.scaler.scale
        if len(group) == 1 and self.processes.count == 1:
            report = step(*group[0][:2])
            scale(report.total).backward()
            return {"total": report.total.detach(), **report.terms}
        terms: dict[str, Tensor] = {}
        for i, (x, label, n) in enumerate(group):
            last = i == len(group) - 1
            for codebook in self._codebooks:
                codebook.counts = n > 0
            for weight in self._following:
                weight.examples, weight.partial = float(n), not last
            with nullcontext() if last else self.processes.apart(step):
                report, share = step(x, label), n / size
                # DDP takes the mean over the processes, and this is a part of a sum
                scale(report.total * (share * self.processes.count)).backward()
            for name, value in {"total": report.total.detach(), **report.terms}.items():
                terms[name] = value * share + terms[name] if name in terms else value * share
            if not last:
                for part in self._counting:  # they count steps, and this was a part of one
                    part.step -= 1
        for codebook in self._codebooks:
            codebook.counts = True
        for weight in self._following:
            weight.examples = 1.0
        self.processes.mean(p.grad for p in self._uncut if p.grad is not None)
        return self.processes.sum(terms)

    def move(self, gradients: Sequence[tuple[Player, Gradients]], whole: Tensor) -> bool:
        """Update the weights where everything is finite; returns whether that was so, as far as is known."""
        if self.scaler is not None:
            return self._scaled(self.scaler, gradients)
        if not self.gated and not whole:
            return False
        for player, found in gradients:
            player.clip(found.norm)
            if self.gated:
                player.optimizer.grad_scale = None  # type: ignore[attr-defined]
                player.optimizer.found_inf = (~whole).float()  # type: ignore[attr-defined]
            player.optimizer.step()
        return True

    def _scaled(self, scaler: torch.amp.GradScaler, gradients: Sequence[tuple[Player, Gradients]]) -> bool:
        scale = scaler.get_scale()
        for player, found in gradients:
            player.clip(found.norm)
            scaler.step(player.optimizer)
        scaler.update()
        if scaler.get_scale() >= scale:
            return True
        if scale >= 1:  # an overflow, which is the scaler's everyday business
            self.guard.forget()
        return False
