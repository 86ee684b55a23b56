"""Structural similarity of pairs of signals, images or volumes."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vaekit.layers.precision import at_least_float32

_CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


class Similarity(nn.Module):
    """x, x̂ `(m, c, *s)` in [0, 1] → SSIM and its factor of contrast and structure, (m,) each.

    Args:
        name: the loss's name, for messages.
        input_shape: the data's shape, `(c, *s)`.
        data_range: of the data.
        window: side of the Gaussian window; the largest odd number that fits the smallest side, where that is less.
        sigma: the window's standard deviation.

    Raises:
        ValueError: where the data have no spatial dimensions, no range or a side below 3, or the window is none.
    """

    weights: Tensor

    def __init__(
        self,
        name: str,
        input_shape: Sequence[int],
        data_range: tuple[float, float] | None,
        window: int,
        sigma: float,
    ) -> None:
        super().__init__()
        if window < 3 or window % 2 == 0:
            raise ValueError(f"window: expected an odd side of at least 3, got {window}.")
        if not 0 < sigma < math.inf:
            raise ValueError(f"sigma: expected a positive number, got {sigma}.")
        if len(input_shape) < 2:
            raise ValueError(
                f"{name}: compares windows of signals, images or volumes, and the data {tuple(input_shape)} have no "
                "spatial dimensions. Use the loss 'nll', 'mse' or 'l1'."
            )
        if min(input_shape[1:]) < 3:
            raise ValueError(f"{name}: expected at least 3 positions a side, got data of shape {tuple(input_shape)}.")
        if data_range is None:
            raise ValueError(f"{name}: needs a data_range, to know what a large difference is. Build with one.")
        self.low, self.high = data_range
        self.window = min(window, (min(input_shape[1:]) - 1) // 2 * 2 + 1)
        place = torch.arange(self.window) - self.window // 2
        weights = torch.exp(-0.5 * (place / sigma).square())
        self.register_buffer("weights", weights / weights.sum(), persistent=False)

    def images(self, x: Tensor, made: Tensor) -> tuple[Tensor, Tensor]:
        """Data `(b, *data)` and means `(*n, b, *data)` as pairs `(n·b, *data)`, from the data range to [0, 1]."""
        event = x.shape[1:]
        pair = torch.broadcast_tensors(at_least_float32(x), at_least_float32(made))
        x, made = ((t.reshape(-1, *event) - self.low) / (self.high - self.low) for t in pair)
        return x, made

    def forward(self, x: Tensor, made: Tensor) -> tuple[Tensor, Tensor]:
        with _full_precision(x):
            moments = self._blurred(torch.stack([x, made, x * x, made * made, x * made]))
        mean_x, mean_made, square_x, square_made, product = moments
        # variances are of rounded numbers, and may come out below 0
        spread = (square_x - mean_x.square()).clamp_min(0) + (square_made - mean_made.square()).clamp_min(0)
        contrast = (2 * (product - mean_x * mean_made) + 0.03**2) / (spread + 0.03**2)
        brightness = (2 * mean_x * mean_made + 0.01**2) / (mean_x.square() + mean_made.square() + 0.01**2)
        return (brightness * contrast).flatten(1).mean(1), contrast.flatten(1).mean(1)

    def _blurred(self, x: Tensor) -> Tensor:
        """Means inside the window, one dimension after the other; edges are mirrored."""
        rank = x.ndim - 3
        convolve, half = _CONVOLVE[rank], self.window // 2
        y = F.pad(x.reshape(-1, 1, *x.shape[3:]), (half,) * (2 * rank), mode="reflect")
        for d in range(rank):
            y = convolve(
                y, self.weights.to(y.dtype).reshape([1, 1, *(self.window if i == d else 1 for i in range(rank))])
            )
        return y.reshape(x.shape)


def halved(x: Tensor) -> Tensor:
    """Means of neighbours, `(m, c, *s)` to half the size."""
    return _POOL[x.ndim - 2](x, 2)


def _full_precision(x: Tensor) -> AbstractContextManager[object]:
    """No autocast, in which small variances vanish beside squared means."""
    return nullcontext() if x.device.type == "meta" else torch.autocast(x.device.type, enabled=False)
