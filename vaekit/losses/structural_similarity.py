"""Structural similarity of x and the mean of p(x|z), at one scale and over several."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from vaekit.kinds import Loss, loss
from vaekit.layers.draws import average_draws
from vaekit.layers.similarity import Similarity, halved
from vaekit.records import Output

WANG = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


@loss("ssim", tags=("image", "perceptual"), cite="wang2004")
class SSIMLoss(Loss):
    """1 - SSIM(x, x̂), the mean over positions of l · cs, x̂ the mean of p(x|z).

        l  = (2 μ_x μ_x̂ + c₁) / (μ_x² + μ_x̂² + c₁)        brightness
        cs = (2 σ_xx̂ + c₂) / (σ_x² + σ_x̂² + c₂)           contrast and structure

    Moments are those inside a Gaussian window, c₁ = 0.01² and c₂ = 0.03² for values brought from the data range to
    [0, 1]. Edges are mirrored, so that they count as much as the middle. For signals, images and volumes.

    Shapes: Output → (b,). No unit: between 0, for x̂ = x, and 2; a mean, not a sum, over values.

    Args:
        input_shape: the data's shape, wired.
        data_range: of the data, wired.
        window: side of the window, odd; smaller where the data are: the largest odd number that fits the smallest side.
        sigma: the window's standard deviation, in positions.

    Raises:
        ValueError: where the data have no spatial dimensions, no range or a side below 3, the window is even or below
            3, or σ is not positive.

    References:
        Image Quality Assessment: From Error Visibility to Structural Similarity (Wang et al., 2004),
        https://doi.org/10.1109/TIP.2003.819861

    Example:
        >>> import torch, vaekit
        >>> vae = vaekit.build("mlp", latent=2, input_shape=(1, 12, 12), loss={"ssim": 1.0, "kl": 1e-2})
        >>> list(vae.loss(torch.rand(3, 1, 12, 12)).terms)
        ['ssim', 'kl']
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        data_range: tuple[float, float] | None = (0.0, 1.0),
        *,
        window: int = 11,
        sigma: float = 1.5,
    ) -> None:
        super().__init__()
        self.similarity = Similarity("ssim", input_shape, data_range, window, sigma)

    def forward(self, out: Output) -> Float[Tensor, " b"]:
        x, made = self.similarity.images(out.x, out.p_x.mean)
        similar, _ = self.similarity(x, made)
        return average_draws(1 - similar.reshape(out.y.shape[: out.y.ndim - out.x.ndim + 1]))


@loss("ms_ssim", tags=("image", "perceptual"), cite=("wang2003", "snell2017"))
class MSSSIMLoss(Loss):
    """1 - SSIM_M(x, x̂)^w_M Π_{m<M} CS_m(x, x̂)^w_m, x̂ the mean of p(x|z); scale m halves the image m - 1 times.

    SSIM and CS (contrast and structure, without brightness) are as in the loss `ssim`, averaged over an image's
    positions and channels before the product, each image by itself. There are as many scales as the window fits into,
    and as there are weights: 2 for 28 pixels a side, 5 from 176 on. Their weights are made to add up to 1. One scale
    is `ssim`. With several, means below 10⁻⁴ count as 10⁻⁴, since powers need positive numbers.

    Shapes: Output → (b,). No unit: 0 for x̂ = x; below 1 with several scales.

    Args:
        input_shape: the data's shape, wired.
        data_range: of the data, wired.
        window: side of the window, odd; smaller where the data are: the largest odd number that fits the smallest side.
        sigma: the window's standard deviation, in positions.
        weights: w_m, fine to coarse; the paper's five.

    Raises:
        ValueError: where the data have no spatial dimensions, no range or a side below 3, the window is even or below
            3, or σ or a weight is not positive.

    References:
        Multi-Scale Structural Similarity for Image Quality Assessment (Wang et al., 2003),
        https://doi.org/10.1109/ACSSC.2003.1292216; Learning to Generate Images with Perceptual Similarity Metrics
        (Snell et al., 2017), https://arxiv.org/abs/1511.06409

    Example:
        >>> import torch, vaekit
        >>> vae = vaekit.build("mlp", latent=2, input_shape=(1, 28, 28), loss={"ms_ssim": 1.0, "kl": 1e-2})
        >>> list(vae.loss(torch.rand(3, 1, 28, 28)).terms)
        ['ms_ssim', 'kl']
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        data_range: tuple[float, float] | None = (0.0, 1.0),
        *,
        window: int = 11,
        sigma: float = 1.5,
        weights: Sequence[float] = WANG,
    ) -> None:
        super().__init__()
        if not weights or not all(0 < w < float("inf") for w in weights):
            raise ValueError(f"weights: expected positive numbers, at least one, got {tuple(weights)}.")
        self.similarity = Similarity("ms_ssim", input_shape, data_range, window, sigma)
        side = min(input_shape[1:])
        scales = sum(side // 2**m >= self.similarity.window for m in range(len(weights)))
        self.weights = [w / sum(weights[:scales]) for w in weights[:scales]]

    def forward(self, out: Output) -> Float[Tensor, " b"]:
        x, made = self.similarity.images(out.x, out.p_x.mean)
        factors = []
        for scale in range(len(self.weights)):
            if scale:
                x, made = halved(x), halved(made)
            similar, contrast = self.similarity(x, made)
            factors.append(similar if scale == len(self.weights) - 1 else contrast)
        if len(factors) > 1:  # one scale has the power 1
            factors = [f.clamp_min(1e-4) ** w for f, w in zip(factors, self.weights, strict=True)]
        whole = torch.stack(factors).prod(0)
        return average_draws(1 - whole.reshape(out.y.shape[: out.y.ndim - out.x.ndim + 1]))
