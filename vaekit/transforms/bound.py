"""Latents that can't leave a box."""

import math
from typing import Literal

from torch import Tensor

from vaekit.kinds import Transform, transform


@transform("bound")
class BoundTransform(Transform):
    """z → L tanh(z / L), or z clipped to [-L, L], whenever z is decoded.

    Other models then know between which numbers the latents lie that the decoder tells apart. It belongs to the
    decoder: KL and the prior see z itself.

    Shapes: z of any shape → the same; x stays as it is.

    Args:
        limit: L.
        kind: "tanh", whose gradient 1 - tanh²(z / L) fades towards the limit, or "clip", whose gradient is 1 inside
            and 0 outside.

    Raises:
        ValueError: where the limit is not positive, or the kind unknown.

    Example:
        >>> import torch, vaekit
        >>> vaekit.transform["bound"](limit=2.0, kind="clip")(torch.tensor([-5.0, 0.5, 3.0]))[0]
        tensor([-2.0000,  0.5000,  2.0000])
    """

    always = True

    def __init__(self, *, limit: float = 3.0, kind: Literal["tanh", "clip"] = "tanh") -> None:
        super().__init__()
        if not 0 < limit < math.inf:
            raise ValueError(f"limit: expected a positive number, got {limit}.")
        if kind not in ("tanh", "clip"):
            raise ValueError(f"kind: expected 'tanh' or 'clip', got {kind!r}.")
        self.limit, self.kind = limit, kind

    def forward(self, z: Tensor, x: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        if self.kind == "clip":
            return z.clamp(-self.limit, self.limit), x
        return self.limit * (z / self.limit).tanh(), x
