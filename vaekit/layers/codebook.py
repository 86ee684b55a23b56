"""Learned codebooks: the nearest code, and how codes follow what is assigned to them."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from vaekit.layers.codes import squared_distance
from vaekit.layers.precision import at_least_float32


@dataclass(frozen=True)
class Match:
    """Vectors x, their nearest codes e with gradients, the codes' numbers, and -‖x - e_k‖² up to a constant per row."""

    x: Float[Tensor, "b g m k"]
    code: Float[Tensor, "b g m k"]
    index: Int[Tensor, "b g m"]
    scores: Float[Tensor, "g n size"]


class Codebook(nn.Module):
    """g codebooks of `size` codes with k dimensions, each for its own part of x: `(b, g, m, k)` → the nearest codes.

    Learned by gradient, codes move through the "codebook" penalty alone. As moving averages (EMA) they follow the
    vectors assigned to them, in training mode only: N ← γN + (1-γ)n, m ← γm + (1-γ)Σx, e = m/N. There n is a code's
    share of the batch's vectors, in units of the even share, so that neither γ nor `restart` depends on the batch's
    size. Codes in use are those of before the update. In a process group all processes keep the same codes.

    `restart`: a code whose N falls below this is replaced by a random vector of the batch; its N is then the threshold
    itself, so that it is replaced again until it is used. `init="data"`: codes start as random vectors of the first
    training batch.

    Raises:
        ValueError: for fewer than two codes, or numbers out of their range.
    """

    weight: Tensor
    count: Tensor
    sums: Tensor
    started: Tensor

    def __init__(
        self,
        size: int,
        dim: int,
        *,
        books: int = 1,
        learn: Literal["ema", "gradient"] = "ema",
        decay: float = 0.99,
        restart: float = 0.01,
        normalize: bool = False,
        init: Literal["normal", "data"] = "data",
    ) -> None:
        super().__init__()
        if size < 2:
            raise ValueError(f"codebook_size: expected at least 2 codes to choose from, got {size}.")
        if learn not in ("ema", "gradient"):
            raise ValueError(f"learn: expected 'ema' or 'gradient', got {learn!r}.")
        if not 0 <= decay < 1:
            raise ValueError(f"decay: expected a number in [0, 1), got {decay}.")
        if not 0 <= restart < 1:
            raise ValueError(f"restart: expected a share of the even usage in [0, 1), 0 for never; got {restart}.")
        if init not in ("normal", "data"):
            raise ValueError(f"init: expected 'normal' or 'data', got {init!r}.")
        self.size, self.learn, self.init, self.normalize = size, learn, init, normalize
        self.decay, self.restart = decay, restart
        #: whether the batch at hand counts: a process that has no example left goes on with one that does not
        self.counts = True
        weight = torch.randn(books, size, dim)
        if learn == "gradient":
            self.weight = nn.Parameter(weight)
        else:
            self.register_buffer("weight", weight)
            self.register_buffer("sums", weight.clone())
        self.register_buffer("count", torch.ones(books, size))
        self.register_buffer("started", torch.tensor(init == "normal"))

    def codes(self) -> Float[Tensor, "g size k"]:
        """All codes."""
        # a copy, since the update of this very pass changes the weights in place, and backward still needs them
        codes = at_least_float32(self.weight.clone() if self.training else self.weight)
        return F.normalize(codes, dim=-1) if self.normalize else codes

    def lookup(self, index: Int[Tensor, "*n g m"]) -> Float[Tensor, "*n g m k"]:
        """The codes of these numbers."""
        return _pick(self.codes(), index)

    def forward(self, x: Float[Tensor, "b g m k"]) -> Match:
        """The nearest codes; in training, then moves the codes."""
        self.start(x)
        match = self.match(x)
        self.update(match.x, match.index)
        return match

    @torch.no_grad()
    def start(self, x: Float[Tensor, "b g m k"]) -> None:
        """Before the first training batch: codes from the data."""
        if self.training and self.init == "data":
            self._replace(~self.started.expand_as(self.count), x)
            self.started.fill_(True)

    def match(self, x: Float[Tensor, "b g m k"]) -> Match:
        """The nearest codes."""
        x = F.normalize(x, dim=-1) if self.normalize else x
        codes, rows = self.codes(), x.transpose(0, 1).flatten(1, 2)
        with _full_precision(x):  # ‖x‖² is the same for all codes; a matrix product needs no (n, size, k) differences
            scores = torch.baddbmm(-codes.square().sum(-1)[:, None], rows, codes.mT, alpha=2)
        index = scores.detach().argmax(-1).unflatten(1, (len(x), -1)).transpose(0, 1)
        return Match(x, _pick(codes, index), index, scores)

    @torch.no_grad()
    def update(self, x: Float[Tensor, "b g m k"], index: Int[Tensor, "b g m"]) -> None:
        """Count the codes' use; EMA codes follow x; dead codes start anew. In training only."""
        if not self.training:
            return
        rows, index = x.transpose(0, 1).flatten(1, 2), index.transpose(0, 1).flatten(1)
        n = torch.zeros_like(self.count, dtype=x.dtype).scatter_add_(1, index, torch.ones_like(rows[..., 0]))
        n = _over_processes(n * self.counts)
        even = n.sum(1, keepdim=True) / self.size
        self.count.lerp_((n / even).to(self.count.dtype), 1 - self.decay)
        if self.learn == "ema":
            total = torch.zeros_like(self.sums, dtype=x.dtype)
            total = _over_processes(total.scatter_add_(1, index[..., None].expand_as(rows), rows) * self.counts)
            self.sums.lerp_((total / even[..., None]).to(self.sums.dtype), 1 - self.decay)
            count = self.count[..., None]
            # what was unused for thousands of steps has underflown, and stays where it is
            self.weight.copy_(torch.where(count > 1e-20, self.sums / count, self.weight))
        if self.restart:
            self._replace(self.count < self.restart, x)

    def _replace(self, which: Bool[Tensor, "g size"], x: Float[Tensor, "b g m k"]) -> None:
        """Random vectors of the batch in place of some codes."""
        rows = F.normalize(x, dim=-1) if self.normalize else x
        rows = rows.transpose(0, 1).flatten(1, 2)
        rounds = -(-self.size // rows.shape[1])  # no vector comes twice unless there are fewer than codes
        order = torch.cat([torch.randperm(rows.shape[1], device=x.device) for _ in range(rounds)])[: self.size]
        rows = rows[:, order].to(self.weight.dtype)
        if _distributed():  # the first process's, for all
            rows = _over_processes(rows if dist.get_rank() == 0 else torch.zeros_like(rows))
        self.weight.copy_(torch.where(which[..., None], rows, self.weight))
        self.count.copy_(torch.where(which, self.restart, self.count))
        if self.learn == "ema":
            self.sums.copy_(torch.where(which[..., None], rows * self.restart, self.sums))

    def penalties(self, match: Match, temperature: float | None = None) -> dict[str, Float[Tensor, " b"]]:
        """Terms per example, summed over codes: "commitment", "codebook", and at a temperature "entropy", "diversity".

        The assignment is softmax(-‖x - e_k‖² / temperature). "entropy" is its entropy; "diversity" is minus that of
        its mean over the batch, times the number of codes of an example. So their sum is minus the information that
        the codes have on x, and at most 0.
        """
        terms = {"commitment": squared_distance(match.x, match.code.detach())}
        if self.learn == "gradient":
            terms["codebook"] = squared_distance(match.x.detach(), match.code)
        if temperature is not None:
            b, _, m, _ = match.x.shape
            log_p = (match.scores / temperature).log_softmax(-1)
            entropy = -(log_p.exp() * log_p).sum(-1)
            mean = log_p.exp().mean(1)
            diversity = (mean * mean.clamp_min(1e-30).log()).sum() * m
            terms["entropy"] = entropy.unflatten(1, (b, m)).sum((0, 2))
            terms["diversity"] = diversity.expand(b)
        return terms


def positive(**numbers: float) -> None:
    """Refuse numbers that are not above 0.

    Raises:
        ValueError: naming the number.
    """
    for name, value in numbers.items():
        if not 0 < value < float("inf"):
            raise ValueError(f"{name}: expected a positive number, got {value}.")


def _pick(codes: Float[Tensor, "g size k"], index: Int[Tensor, "*n g m"]) -> Float[Tensor, "*n g m k"]:
    books, size, _ = codes.shape
    first = torch.arange(0, books * size, size, device=index.device)
    return F.embedding(index + first[:, None], codes.flatten(0, 1))


def _full_precision(x: Tensor) -> AbstractContextManager[object]:
    """No autocast, which would take distances in half precision and find other codes."""
    return nullcontext() if x.device.type == "meta" else torch.autocast(x.device.type, enabled=False)


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def _over_processes(value: Tensor) -> Tensor:
    """Summed over the processes of a distributed run."""
    if _distributed():
        dist.all_reduce(value)
    return value
