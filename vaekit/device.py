"""Where to compute: picking a device by name, and saying what this machine has."""

import platform

import torch


def pick(name: str | torch.device = "auto") -> torch.device:
    """The device of that name; "auto" takes the first of CUDA, XPU, MPS and CPU that works here.

    Args:
        name: "auto", "cpu", "cuda", "cuda:1", "mps", "xpu", or a `torch.device`.

    Raises:
        ValueError: where the device is not available; the message lists those that are.

    Example:
        >>> pick("cpu")
        device(type='cpu')
    """
    found = available()
    if name == "auto":
        return torch.device(found[0])
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device: {name!r} is no device. Available here: {', '.join(found)}.") from None
    if device.type not in {f.partition(":")[0] for f in found} or (
        device.index is not None and str(device) not in found
    ):
        raise ValueError(f"device: '{device}' is not available here. Available: {', '.join(found)}, or 'auto'.")
    return device


def available() -> list[str]:
    """Names of the devices that work here, the preferred one first and "cpu" last."""
    found = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    found += [f"xpu:{i}" for i in range(torch.xpu.device_count())] if torch.xpu.is_available() else []
    found += ["mps", "mps:0"] if torch.backends.mps.is_available() else []
    return [*found, "cpu"]


def describe() -> str:
    """One line on the machine: processor, threads and accelerators."""
    cards = (
        [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    return f"{platform.machine()}, {torch.get_num_threads()} threads, {', '.join(cards) or 'no CUDA device'}"
