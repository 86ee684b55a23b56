"""Labels that only losses read."""

import torch
from torch import Tensor

from vaekit.kinds import Condition, condition


@condition("target", cite="kingma2014b")
class TargetCondition(Condition):
    """Labels for a loss such as `cross_entropy`, -1 where there is none; no network sees them.

    Shapes: labels (b,) of integers in [-1, classes) → None.

    Args:
        classes: number of classes.

    Raises:
        ValueError: where `classes` < 1; at a call, where labels have another shape or type, or are out of range
            (checked on the CPU).

    References:
        Semi-Supervised Learning with Deep Generative Models (Kingma et al., 2014), https://arxiv.org/abs/1406.5298

    Example:
        >>> import torch, vaekit
        >>> vaekit.condition["target"](classes=10)(torch.tensor([3, -1]), 2) is None
        True
    """

    def __init__(self, *, classes: int) -> None:
        super().__init__()
        if classes < 1:
            raise ValueError(f"classes: expected at least 1, got {classes}.")
        self.classes, self.dim = classes, 0

    def example(self, batch: int) -> Tensor:
        """Labels -1, 0, 1, …, around again."""
        return torch.arange(batch) % (self.classes + 1) - 1

    def forward(self, given: Tensor | None, batch: int) -> None:
        if given is None:
            return
        if not isinstance(given, Tensor) or given.shape != (batch,) or given.is_floating_point():
            got = f"{tuple(given.shape)} of {given.dtype}" if isinstance(given, Tensor) else type(given).__name__
            raise ValueError(f"vae.condition: expected a tensor of {batch} integer labels, got {got}.")
        if given.device.type == "cpu" and not torch.compiler.is_compiling() and batch:
            low, high = (int(v) for v in given.aminmax())
            if low < -1 or high >= self.classes:
                raise ValueError(
                    f"vae.condition: labels from {low} to {high} are outside [-1, {self.classes}); -1 means none. Set "
                    f"classes={high + 1} or map the labels."
                )
