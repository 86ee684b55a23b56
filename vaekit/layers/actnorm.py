"""Activation normalisation: a scale and a shift per channel that the first batch sets."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vaekit.layers.precision import at_least_float32


class ActNorm(nn.Module):
    """y = scale · (x + loc): of the first batch in training, each channel of y has mean 0 and variance 1.

    From then on both are weights like others, so that examples are judged alone. Names and shapes of the state are
    those of latent diffusion's. Each process of a distributed run sets its own: broadcast them after a first pass.

    Shapes: x `(b, c, *s)` → the same, with `rank` spatial dimensions.

    References:
        Glow: Generative Flow with Invertible 1×1 Convolutions (Kingma & Dhariwal, 2018),
        https://arxiv.org/abs/1807.03039
    """

    initialized: Tensor

    def __init__(self, channels: int, rank: int = 2) -> None:
        super().__init__()
        shape = (1, channels, *[1] * rank)
        self.loc, self.scale = nn.Parameter(torch.zeros(shape)), nn.Parameter(torch.ones(shape))
        self.register_buffer("initialized", torch.zeros((), dtype=torch.uint8))
        self._set = False  # the buffer's value on the host, so that no pass has to ask the device for it

    def forward(self, x: Float[Tensor, "b c *s"]) -> Float[Tensor, "b c *s"]:
        if self.training and not self._set and not x.is_meta:
            self._start(x)
        return self.scale * (x + self.loc)

    @torch.no_grad()
    def _start(self, x: Tensor) -> None:
        std, mean = torch.std_mean(at_least_float32(x), (0, *range(2, x.ndim)), keepdim=True)
        self.loc.copy_(-mean)
        self.scale.copy_(1 / (std + 1e-6))
        self._set = True

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        # here and not in the pass, which may see a copy of the buffer that is thrown away
        self.initialized.fill_(self._set)
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        if (saved := state_dict.get(f"{prefix}initialized")) is not None:
            self._set = bool(saved)
