"""Group norms whose statistics are those of the whole map, while only tiles of it are there."""

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from vaekit.layers.group_statistics import Moments, group_norm, merged, moments, normalised

_GLOBAL = (
    F.scaled_dot_product_attention,
    F.instance_norm,
    F.adaptive_avg_pool2d,
    F.adaptive_max_pool2d,
)


class Reached(Exception):  # noqa: N818 — it ends a tile's pass, and is no error
    """A norm was reached whose statistics are not known yet."""


class Synchronised(TorchFunctionMode):
    """Inside its block, group norms take the statistics that are known; the first one without ends the pass.

    Norms are told apart by their order. The pass that reaches an unknown one leaves its input's moments in `gathered`
    and raises `Reached`; `learn` makes the statistics known that all tiles have gathered.

    Args:
        batch: examples; a batch of tiles has all examples of a tile next to each other.
    """

    def __init__(self, batch: int) -> None:
        super().__init__()
        self.batch = batch
        self.known: list[Moments] = []
        self.gathered: list[Moments] = []
        self._at = 0
        self._stage, self._cores = "", []

    def begin(self) -> None:
        """A pass over a new batch of tiles."""
        self._at = 0

    def enter(self, stage: str, cores: list[tuple[slice, slice]]) -> None:
        """A stage of the pass, and where the tiles' cores lie in its input."""
        self._stage, self._cores = stage, cores

    def learn(self) -> bool:
        """Make statistics of what a pass over all tiles has gathered; false where it met no unknown norm."""
        if self.gathered:
            self.known.append(merged(self.gathered))
            self.gathered = []
            return True
        return False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is F.group_norm or func is group_norm:
            return self._norm(*args, **(kwargs or {}))
        if func in _GLOBAL:
            raise ValueError(
                f"tile: the stage {self._stage} reads the whole map by {func.__name__}. Register it with whole=True."
            )
        return func(*args, **(kwargs or {}))

    def _norm(
        self, x: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
    ) -> Tensor:
        if self._at == len(self.known):
            tiles = x.unflatten(0, (len(self._cores), self.batch))
            for tile, (rows, columns) in zip(tiles, self._cores, strict=True):
                self.gathered.append(moments(tile[..., rows, columns], num_groups))
            raise Reached
        self._at += 1
        return normalised(x, self.known[self._at - 1], weight, bias, eps)
