"""Class labels as a condition."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vaekit.kinds import Condition, condition


@condition("class", cite="sohn2015")
class ClassCondition(Condition):
    """One learned token per class. With dropout, labels are hidden at random in training, and may be left out later.

    Shapes: labels (b,) of integers in [0, classes) → (b, 1, dim).

    Args:
        classes: number of classes.
        dim: width of the token.
        dropout: part of the labels replaced by the token of "no label" in training; above 0 the model also works
            without labels, as classifier-free guidance needs.

    Raises:
        ValueError: where `classes` < 1 or `dropout` is outside [0, 1); at a call, where labels are missing though
            `dropout` is 0, have another shape or type, or are out of range (checked on the CPU; an accelerator's own
            index check speaks there, since reading labels back would make every step wait).

    References:
        Learning Structured Output Representation using Deep Conditional Generative Models (Sohn et al., 2015),
        https://papers.nips.cc/paper/5775; Classifier-Free Diffusion Guidance (Ho & Salimans, 2022),
        https://arxiv.org/abs/2207.12598

    Example:
        >>> import torch, vaekit
        >>> vaekit.condition["class"](classes=10, dim=8)(torch.tensor([3, 7]), 2).shape
        torch.Size([2, 1, 8])
    """

    def __init__(self, *, classes: int, dim: int = 64, dropout: float = 0.0) -> None:
        super().__init__()
        if classes < 1:
            raise ValueError(f"classes: expected at least 1, got {classes}.")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout: expected a number in [0, 1), got {dropout}.")
        self.classes, self.dim, self.dropout = classes, dim, dropout
        self.tokens = nn.Embedding(classes + (dropout > 0), dim)  # the last one, with dropout, says "no label"

    def example(self, batch: int) -> Tensor:
        """Labels 0, 1, …, around again where there are more examples than classes."""
        return torch.arange(batch, device=self.tokens.weight.device) % self.classes

    def forward(self, given: Tensor | None, batch: int) -> Float[Tensor, "b t k"]:
        if given is None:
            if not self.dropout:
                raise ValueError(
                    f"vae.condition: labels are missing. Give cond=, {batch} integers in [0, {self.classes}), or build "
                    "with condition=use('class', …, dropout=0.1) to work without them too."
                )
            given = torch.full((batch,), self.classes, device=self.tokens.weight.device)
        elif not isinstance(given, Tensor) or given.shape != (batch,) or given.is_floating_point():
            got = f"{tuple(given.shape)} of {given.dtype}" if isinstance(given, Tensor) else type(given).__name__
            raise ValueError(f"vae.condition: expected a tensor of {batch} integer labels, got {got}.")
        elif given.device.type == "cpu" and not torch.compiler.is_compiling() and batch:
            low, high = (int(v) for v in given.aminmax())
            if low < 0 or high >= self.classes:
                raise ValueError(
                    f"vae.condition: labels from {low} to {high} are outside [0, {self.classes}). Set "
                    f"classes={high + 1} or map the labels."
                )
        if self.training and self.dropout:
            hidden = torch.rand(batch, device=given.device) < self.dropout
            given = given.masked_fill(hidden, self.classes)
        return self.tokens(given)[:, None]
