"""The error of the reconstruction's spectrum, weighted towards the frequencies that are worst."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from vaekit.kinds import Loss, loss
from vaekit.layers.draws import average_draws
from vaekit.layers.precision import at_least_float32
from vaekit.records import Output


@loss("focal_frequency", tags=("image",), cite="jiang2021")
class FocalFrequencyLoss(Loss):
    """Σ_k w_k |F_k(x - x̂)|², w_k = |F_k(x - x̂)|^α / max_k |F_k(x - x̂)|^α, F the orthonormal Fourier transform.

    x̂ is the mean of p(x|z). The weights are between 0 and 1 in each channel of each image, and no gradient flows
    through them. With α = 0 they are 1, and the loss is `mse`. For signals, images and volumes.

    Summed over frequencies and channels, not averaged: the weight for the paper's mean is that weight divided by the
    number of values.

    Shapes: Output → (b,). Unit: the data's unit, squared.

    Args:
        input_shape: the data's shape, wired.
        alpha: α, how much more the worst frequencies count.
        log: log(1 + |F|^α) in place of |F|^α, for spectra that span many orders.
        patches: along each dimension, each with a spectrum and a maximum of its own; 1 for the whole.

    Raises:
        ValueError: where the data have no spatial dimensions or a side is no multiple of `patches`, or α is negative.

    References:
        Focal Frequency Loss for Image Reconstruction and Synthesis (Jiang et al., 2021),
        https://arxiv.org/abs/2012.12821

    Example:
        >>> import torch, vaekit
        >>> vae = vaekit.build("mlp", latent=2, input_shape=(1, 8, 8), loss={"l1": 1.0, "focal_frequency": 1.0})
        >>> list(vae.loss(torch.rand(3, 1, 8, 8)).terms)
        ['l1', 'focal_frequency']
    """

    def __init__(self, input_shape: Sequence[int], *, alpha: float = 1.0, log: bool = False, patches: int = 1) -> None:
        super().__init__()
        if len(input_shape) < 2:
            raise ValueError(
                f"focal_frequency: needs signals, images or volumes, and the data {tuple(input_shape)} have no spatial "
                "dimensions. Use the loss 'nll', 'mse' or 'l1'."
            )
        if not 0 <= alpha < math.inf:
            raise ValueError(f"alpha: expected a power of at least 0, got {alpha}.")
        if patches < 1 or any(s % patches for s in input_shape[1:]):
            raise ValueError(f"patches: expected a divisor of the sides {tuple(input_shape[1:])}, got {patches}.")
        self.alpha, self.log, self.patches = alpha, log, patches

    def forward(self, out: Output) -> Float[Tensor, " b"]:
        error = at_least_float32(out.x) - at_least_float32(out.p_x.mean)
        lead, rank = error.ndim - out.x.ndim + 1, out.x.ndim - 2
        for d in range(error.ndim - 1, error.ndim - 1 - rank, -1):
            error = error.unflatten(d, (self.patches, -1))
        places = tuple(range(1 - 2 * rank, 0, 2))  # (*n, b, c, patches, s, patches, s, …)
        spectrum = torch.fft.rfftn(error, dim=places, norm="ortho")
        power = spectrum.real.square() + spectrum.imag.square()
        weighted = self._weights(power.detach(), places) * power * self._counts(error)
        return average_draws(weighted.flatten(lead).sum(-1))

    def _weights(self, power: Tensor, places: tuple[int, ...]) -> Tensor:
        size = power.pow(self.alpha / 2)
        size = size.log1p() if self.log else size
        return size / size.amax(places, keepdim=True).clamp_min(torch.finfo(size.dtype).tiny)

    def _counts(self, error: Tensor) -> Tensor:
        """How often each frequency of half a spectrum stands in the whole one, whose halves mirror each other."""
        n = error.shape[-1]
        place = torch.arange(n // 2 + 1, device=error.device)
        return torch.where((place == 0) | (2 * place == n), 1, 2)
