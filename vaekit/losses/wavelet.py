"""The error of the reconstruction in a pyramid of wavelet bands."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from vaekit.kinds import Loss, loss
from vaekit.layers.draws import average_draws
from vaekit.layers.precision import at_least_float32
from vaekit.layers.wavelets import FILTERS, split
from vaekit.records import Output


@loss("wavelet", tags=("image",), cite=("daubechies1992", "sadat2024"))
class WaveletLoss(Loss):
    """Σ_l w_l Σ_bands |D_l(x - x̂)| + w_L |A_L(x - x̂)|, the details D_l and what is left A_L; x̂ the mean of p(x|z).

        x - x̂ ─► D_0, A_0 ─► D_1, A_1 ─► …        each level halves the size

    A pixel-wise error hardly notices missing fine structure; here it has terms, and weights, of its own. The transform
    is orthonormal but for edges, which are mirrored. For signals, images and volumes.

    Shapes: Output → (b,). Unit: the data's unit, summed over coefficients, which are about as many as values.

    Args:
        input_shape: the data's shape, wired.
        wavelet: "haar", or Daubechies' "db2", "db3", "db4" with 2, 3, 4 vanishing moments.
        levels: L, how often the low band is split again; None: 3, or as often as the smallest side has as many values
            as the filter.
        weights: w, for the details of each level, fine to coarse, then for what is left: L + 1 numbers. None: 1 each;
            0 in the last place leaves the loss blind to the low band.

    Raises:
        ValueError: where the data have no spatial dimensions or are too small for the levels, the wavelet is unknown,
            or there are not as many weights as said, none of them negative.

    References:
        Ten Lectures on Wavelets (Daubechies, 1992), https://doi.org/10.1137/1.9781611970104; LiteVAE: Lightweight and
        Efficient Variational Autoencoders for Latent Diffusion Models (Sadat et al., 2024),
        https://arxiv.org/abs/2405.14477

    Example:
        >>> import torch, vaekit
        >>> loss = [vaekit.term("l1"), vaekit.term("wavelet", weight=0.1, levels=2, weights=(1, 1, 0))]
        >>> vae = vaekit.build("mlp", latent=2, input_shape=(1, 8, 8), loss=loss)
        >>> list(vae.loss(torch.rand(3, 1, 8, 8)).terms)
        ['l1', 'wavelet']
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        *,
        wavelet: str = "haar",
        levels: int | None = None,
        weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if wavelet not in FILTERS:
            raise ValueError(f"wavelet: expected one of {', '.join(FILTERS)}; got {wavelet!r}.")
        self.filter = FILTERS[wavelet]
        if len(input_shape) < 2:
            raise ValueError(
                f"wavelet: splits signals, images or volumes, and the data {tuple(input_shape)} have no spatial "
                "dimensions. Use the loss 'nll', 'mse' or 'l1'."
            )
        most = next(m for m in range(64) if min(input_shape[1:]) < len(self.filter) * 2**m)
        if most == 0:
            raise ValueError(
                f"wavelet: {wavelet!r} needs sides of at least {len(self.filter)}, got {tuple(input_shape[1:])}. "
                "Use 'haar', or another loss."
            )
        if levels is not None and not 1 <= levels <= most:
            raise ValueError(f"levels: expected 1 to {most} for {wavelet!r} and this size, got {levels}.")
        self.levels = min(3, most) if levels is None else levels
        self.weights = (1.0,) * (self.levels + 1) if weights is None else tuple(weights)
        if len(self.weights) != self.levels + 1 or not all(0 <= w < float("inf") for w in self.weights):
            raise ValueError(
                f"weights: expected {self.levels + 1} numbers of at least 0, for {self.levels} levels of details and "
                f"what is left, got {self.weights}."
            )

    def forward(self, out: Output) -> Float[Tensor, " b"]:
        error = at_least_float32(out.x) - at_least_float32(out.p_x.mean)
        lead, rank = error.shape[: error.ndim - out.x.ndim + 1], out.x.ndim - 2
        low = error.reshape(-1, *error.shape[error.ndim - rank :])  # (n·b·c, *s)
        sums = []
        for weight in self.weights[:-1]:
            low, details = split(low, self.filter)
            sums.append(weight * details.abs().flatten(1).sum(1))
        sums.append(self.weights[-1] * low.abs().flatten(1).sum(1))
        return average_draws(torch.stack(sums).sum(0).reshape(*lead, -1).sum(-1))
