"""Where half precision is not enough."""

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """Half-precision values in single precision, others as they are: log-densities sum over many thousands of terms."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def wide(x: Tensor) -> Tensor:
    """x in double precision, in single precision where the device has no other."""
    return x.float() if x.device.type == "mps" else x.double()
