"""Modules that are constants: made on first use, shared, and never trained, moved or saved with the model."""

import copy
import os
from collections.abc import Callable, Hashable
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

# so that losses in the same network hold its weights once, for as long as one of them lives
_SHARED: WeakValueDictionary[Hashable, nn.Module] = WeakValueDictionary()


class Fixed:
    """make(`*args`) as a constant that follows the data: to their device, in at least single precision.

    No module: its weights are no parameters of the model. They are looked for on first use, so that a saved model is
    built again without them; a copy of the model shares them. One process has one such module for the same arguments,
    device and precision.

    Args:
        make: gives the module, on the CPU and in single precision.
        args: what it is called with; the name of a file stands for what is in the file.
    """

    def __init__(self, make: Callable[..., nn.Module], *args: Hashable) -> None:
        self.make, self.args = make, args
        self._made: nn.Module | None = None
        self._place: tuple[torch.device, torch.dtype] | None = None
        self._source: Hashable = None  # what it was made of

    def at(self, x: Tensor) -> Any:
        """The module where x is."""
        self._follow(x.device, torch.float64 if x.dtype == torch.float64 else torch.float32)
        return self._made

    @torch.compiler.assume_constant_result  # run while a graph is traced, before it looks at what was made
    def _follow(self, device: torch.device, dtype: torch.dtype) -> None:
        if self._place == (device, dtype):
            return
        real = self._made is not None and self._place is not None and self._place[0].type != "meta"
        source = self._source if real else (self.make, *((arg, _contents(arg)) for arg in self.args))
        made = _SHARED.get((source, device, dtype))
        if made is None:
            # tensors made in inference mode could never be part of a graph
            with torch.inference_mode(False), torch.device("cpu"):
                made = copy.deepcopy(self._made) if real else self.make(*self.args)
                assert made is not None
                made = made.to(device, dtype).eval().requires_grad_(False)
                _SHARED[source, device, dtype] = made
        self._made, self._place, self._source = made, (device, dtype), source

    def __deepcopy__(self, memo: dict[int, Any]) -> "Fixed":
        twin = Fixed(self.make, *self.args)
        twin._made, twin._place, twin._source = self._made, self._place, self._source
        return twin

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_made": None, "_place": None, "_source": None}


def _contents(arg: Hashable) -> Hashable:
    """What tells whether the file that `arg` names is still the same; None where it names none."""
    if isinstance(arg, str) and os.path.isfile(arg):
        found = os.stat(arg)
        return found.st_mtime_ns, found.st_size
    return None
