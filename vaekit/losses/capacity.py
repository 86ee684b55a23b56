"""The KL held at a capacity that grows."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import kl_divergence

from vaekit.kinds import Loss, loss
from vaekit.layers.divergence import check_densities, divergence, sum_of
from vaekit.layers.joint import Joint
from vaekit.records import Level, Output


@loss("capacity", tags=("disentangling",), cite=("burgess2018", "dupont2018"))
class CapacityLoss(Loss):
    """|KL(q(z|x) ‖ p(z)) - C(t)|, where C grows from `start` to `end` nats over `steps` training steps.

    The code is given room little by little, so that one factor after the other moves into it. With a `joint` latent the
    numbers and the codes can have capacities of their own. The step is counted in training and saved with the model.

    Shapes: Output → (b,). Unit: nats per example.

    Args:
        end: the last capacity, nats per example.
        start: the first capacity.
        steps: training steps from first to last.
        part: of a joint latent, "numbers" or "codes"; "all" is the whole KL.

    Raises:
        ValueError: where a capacity is negative, steps < 1 or the part unknown; at build, where q(z|x) has no density,
            or no such part.

    References:
        Understanding disentangling in β-VAE (Burgess et al., 2018), https://arxiv.org/abs/1804.03599; Learning
        Disentangled Joint Continuous and Discrete Representations (Dupont, 2018), https://arxiv.org/abs/1804.00104

    Example:
        >>> import torch, vaekit
        >>> loss = [vaekit.term("nll"), vaekit.term("capacity", weight=30.0, end=25.0, steps=10_000)]
        >>> vae = vaekit.build("mlp", latent=2, input_shape=(1, 4, 4), loss=loss)
        >>> list(vae.loss(torch.rand(3, 1, 4, 4)).terms)
        ['nll', 'capacity']
    """

    step: Tensor

    def __init__(
        self,
        *,
        end: float = 25.0,
        start: float = 0.0,
        steps: int = 10_000,
        part: Literal["all", "numbers", "codes"] = "all",
    ) -> None:
        super().__init__()
        if start < 0 or end < 0:
            raise ValueError(f"capacity: expected nats of at least 0, got start={start}, end={end}.")
        if steps < 1:
            raise ValueError(f"steps: expected at least 1, got {steps}.")
        if part not in ("all", "numbers", "codes"):
            raise ValueError(f"part: expected 'all', 'numbers' or 'codes', got {part!r}.")
        self.start, self.end, self.steps, self.part = float(start), float(end), steps, part
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    def check(self, out: Output) -> None:
        """q(z|x) needs a density, and a joint one for capacities of its parts."""
        for level in out.levels:
            check_densities(level, "capacity")
            if self.part != "all" and not (isinstance(level.q, Joint) and isinstance(level.p, Joint)):
                raise ValueError(f"the latent has no {self.part} of its own. Use the sampler 'joint'.")
            self._divergence(level)

    def forward(self, out: Output) -> Float[Tensor, " b"]:
        room = (self.step / self.steps).clamp(0, 1)
        capacity = self.start + (self.end - self.start) * room
        if self.training:
            self.step += 1
        kl = sum_of([self._divergence(level) for level in out.levels])
        return (kl - capacity.to(kl.dtype)).abs()

    def _divergence(self, level: Level) -> Tensor:
        if self.part == "all":
            return divergence(level)
        q, p = level.q, level.p
        assert isinstance(q, Joint) and isinstance(p, Joint)
        return kl_divergence(q.numbers, p.numbers) if self.part == "numbers" else kl_divergence(q.index, p.index)
