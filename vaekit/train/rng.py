"""The random states that a run draws from, as they are now, and put back."""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def states(device: torch.device) -> dict[str, Any]:
    """The states of torch's generators (the CPU's and the device's), Python's and NumPy's."""
    kind, keys, position, has_gauss, cached = np.random.get_state()
    found = {
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": {"kind": kind, "keys": keys, "position": position, "has_gauss": has_gauss, "cached": cached},
    }
    if device.type != "cpu":
        found[device.type] = torch.get_device_module(device).get_rng_state(*_index(device))
    return found


def restore(found: Mapping[str, Any], device: torch.device) -> None:
    """Put back what `states` gave; a device's state is left out on another kind of device."""
    torch.set_rng_state(found["torch"])
    random.setstate(found["python"])
    n = found["numpy"]
    np.random.set_state((n["kind"], n["keys"], n["position"], n["has_gauss"], n["cached"]))
    if device.type in found:
        torch.get_device_module(device).set_rng_state(found[device.type], *_index(device))


def seed_all(seed: int, device: torch.device) -> None:
    """Seed torch's generators, the CPU's and the device's, Python's and NumPy's."""
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would reach every accelerator too
    if device.type in ("cuda", "xpu"):
        with torch.get_device_module(device).device(device):
            torch.get_device_module(device).manual_seed(seed)
    elif device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def _index(device: torch.device) -> tuple[torch.device, ...]:
    return (device,) if device.type in ("cuda", "xpu") else ()  # there is but one MPS


@contextmanager
def own_noise(seed: int | None, device: torch.device) -> Iterator[None]:
    """Global generators seeded inside the block, and as they were again after it; None leaves them alone."""
    if seed is None:
        yield
        return
    before = states(device)
    try:
        seed_all(seed, device)
        yield
    finally:
        restore(before, device)


class Stream:
    """Global random states of one's own: what is drawn inside `drawing()` does not show outside, and goes on there.

    Loading data draws from the global generators (shuffles, base seeds of workers, augmentation); the model's noise
    does so as well. Apart, the one may be done again without the other.

    Args:
        seed: where the stream starts.
    """

    _cpu = torch.device("cpu")

    def __init__(self, seed: int) -> None:
        with own_noise(seed, self._cpu):
            self._state = states(self._cpu)

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Draw from this stream inside the block."""
        before = states(self._cpu)
        restore(self._state, self._cpu)
        try:
            yield
        finally:
            self._state = states(self._cpu)
            restore(before, self._cpu)


def mix(seed: int, *numbers: int) -> int:
    """One seed out of several numbers, another for each of them that a run can meet."""
    for number in numbers:
        seed = (seed * 1_000_003 + number) % 2**63
    return seed
