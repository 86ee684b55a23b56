"""What goes wrong in a run, noticed: numbers that are not finite, latents that say nothing, codes that nobody uses.

Every step leaves its loss, its terms and its gradients' norms on the device. They are read every `log_every` steps;
until then a flag on the device keeps a step that is not finite from moving the weights.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vaekit.kinds import CriticLoss
from vaekit.modes import evaluating
from vaekit.vae import VAE


class Guard:
    """Keeps losses and gradients that are not finite from the weights, and stops a run that gives nothing else.

    Args:
        limit: how many steps in a row may be skipped.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.skipped, self._row = limit, 0, 0
        self._waiting: list[tuple[int, Tensor, Mapping[str, Tensor], Sequence[Gradients]]] = []

    def watch(self, step: int, terms: Mapping[str, Tensor], gradients: Sequence["Gradients"]) -> Tensor:
        """Remember a step; returns the flag that says whether it is finite, on the device.

        Args:
            step: its number.
            terms: "total" and the terms of its batch, detached.
            gradients: of each player.
        """
        together = terms["total"]
        for each in gradients:
            together = together + each.norm
        whole = together.isfinite()  # a sum is finite where its parts are
        self._waiting.append((step, whole, terms, gradients))
        return whole

    def refuse(self, step: int, why: str) -> None:
        """Remember a step that was not even tried."""
        self._waiting.append((step, torch.tensor(False), {why: torch.tensor(math.nan)}, ()))

    def forget(self) -> None:
        """Do not count the last step that was watched."""
        self._waiting.pop()

    def read(self) -> list[str]:
        """What was not finite since the last reading, a line a step; waits for the device once.

        Raises:
            FloatingPointError: where more steps in a row than the limit were not finite.
        """
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return []
        told: list[str] = []
        for good, (step, _, terms, gradients) in zip(
            torch.stack([whole for _, whole, _, _ in waiting]).tolist(), waiting, strict=True
        ):
            if good:
                self._row = 0
                continue
            self._row, self.skipped = self._row + 1, self.skipped + 1
            told.append(f"{_named(terms, gradients)} at step {step}")
            if self._row > self.limit:
                many = f", the {_ordinal(self._row)} in a row" if self._row > 1 else ""
                raise FloatingPointError(f"{told[-1]}{many}")
        return told

    def state_dict(self) -> dict[str, int]:
        """Counts."""
        return {"skipped": self.skipped, "row": self._row}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on from `state`."""
        self.skipped, self._row = state["skipped"], state["row"]


@dataclass(frozen=True)
class Gradients:
    """Norms of a player's gradients at a step.

    Args:
        names: of the parameters that have one.
        each: the norm of each, (p,).
        norm: of all together.
    """

    names: Sequence[str]
    each: Tensor
    norm: Tensor


def _ordinal(n: int) -> str:
    return f"{n}{'th' if 10 <= n % 100 <= 20 else {1: 'st', 2: 'nd', 3: 'rd'}.get(n % 10, 'th')}"


def _named(terms: Mapping[str, Tensor], gradients: Sequence[Gradients]) -> str:
    """Terms and gradients that are not finite: "total, mse, the gradient of decoder.body.0.weight"."""
    bad = [name for name, value in terms.items() if not math.isfinite(float(value))]
    if len(bad) == 1 and " " in bad[0]:  # a batch that was refused says why
        return bad[0]
    broken = [
        name
        for player in gradients
        for name, value in zip(player.names, player.each.tolist(), strict=True)
        if not math.isfinite(value)
    ]
    if broken:
        more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
        bad.append(f"the gradient of {', '.join(broken[:3])}{more}")
    many = len(bad) > 1 or len(broken) > 1
    return f"{', '.join(bad) or 'the norm of the gradients'} {'are' if many else 'is'} not finite"


def broken_weights(vae: nn.Module) -> list[str]:
    """Names of the trained weights that are not finite; waits for the device once."""
    trained = {name: p for name, p in vae.named_parameters() if p.requires_grad}
    whole = torch.stack([p.detach().isfinite().all() for p in trained.values()]).tolist()
    return [name for name, good in zip(trained, whole, strict=True) if not good]


class Symptoms:
    """Warns, once each, of a latent that says nothing, of codes that nobody uses, of critics that teach nothing.

    One look proves little, and early ones nothing, so a symptom has to show in two epochs in a row, after `patience`
    steps.

    Args:
        vae: the model.
    """

    #: steps after which symptoms count
    patience = 500
    #: a latent dimension is active where the variance of its means over the data is above this (Burda et al., 2016)
    active = 0.01
    #: codes in use, as a part of the codebook, below which they are called dead
    used = 0.1
    #: a critic whose loss is below this tells real from made without effort
    silent = 1e-3

    def __init__(self, vae: VAE) -> None:
        self.vae = vae
        self._seen: dict[str, int] = {}
        self._early = True

    @torch.no_grad()
    def look(self, batches: Sequence[tuple[Tensor, Any]], row: Mapping[str, float], step: int) -> dict[str, float]:
        """Numbers for the history from a few batches, and warnings where they are bad.

        Args:
            batches: (x, label), on the device.
            row: the epoch's means.
            step: steps done.
        """
        self._early = step < self.patience
        found: dict[str, float] = {}
        with evaluating(self.vae):
            levels = [self.vae.encode(x, cond=label) for x, label in batches if len(x)]
        if levels and levels[0].index is not None:
            found |= self._codes([level.index for level in levels if level.index is not None])
        elif levels and levels[0].q is not None:
            found |= self._units(torch.cat([level.mode.flatten(1) for level in levels]), row)
        self._critics(row)
        return found

    def _units(self, means: Tensor, row: Mapping[str, float]) -> dict[str, float]:
        if len(means) < 2:
            return {}
        count, size = int((means.float().var(0) > self.active).sum()), means.shape[1]
        kl = row.get("train/kl")
        self._tell(
            "collapse",
            count == 0,
            f"Trainer: posterior collapse: 0 of {size} latent dimensions are active (variance of the posteriors' "
            f"means over {len(means)} examples above {self.active})"
            + ("" if kl is None else f", and KL is {kl:.3g} nats")
            + ". Raise the KL's weight slowly (weight=ramp(0, 1, steps=…)), use free_bits, or check the learning rate.",
        )
        return {"active_units": float(count)}

    def _codes(self, index: list[Tensor]) -> dict[str, float]:
        size = int(getattr(self.vae.sampler, "codebook_size", 0))
        codes = torch.cat([each.flatten() for each in index]).cpu()
        if size < 1:
            return {}
        share = torch.bincount(codes.long(), minlength=size).double() / len(codes)
        perplexity = float(torch.exp(torch.special.entr(share).sum()))
        count, most = int((share > 0).sum()), min(size, len(codes))
        self._tell(
            "codes",
            count < max(2, self.used * most),
            f"Trainer: dead codes: {count} of {size} codes are used by {len(codes)} latents, with perplexity "
            f"{perplexity:.3g}. Use the quantizer's EMA or restarts of dead codes, a smaller codebook, or a lower lr.",
        )
        return {"codes_used": float(count), "perplexity": perplexity}

    def _critics(self, row: Mapping[str, float]) -> None:
        losses = getattr(self.vae.objective, "terms", {}).items()
        for label in [label for label, loss in losses if isinstance(loss, CriticLoss)]:
            loss, norm = row.get(f"train/{label}_critic"), row.get(f"grad_norm/{label}")
            if norm == 0 or norm is None:
                continue  # not yet started: before its start a critic costs nothing
            if loss is not None:
                self._tell(
                    f"critic {label}",
                    loss < self.silent,
                    f"Trainer: silent discriminator: the loss of {label}'s critic is {loss:.3g} (gradient norm "
                    f"{norm:.3g}): it tells real from made without effort, and the model learns nothing from it. Lower "
                    "critic_lr, or regularise the critic.",
                )

    def _tell(self, name: str, ill: bool, text: str) -> None:
        seen = self._seen.get(name, 0)
        if self._early or seen == 2:  # told once is enough
            return
        self._seen[name] = seen + 1 if ill else 0
        if self._seen[name] == 2:
            warnings.warn(text, stacklevel=2)

    def state_dict(self) -> dict[str, int]:
        """What has been seen."""
        return dict(self._seen)

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on from `state`."""
        self._seen = dict(state)
