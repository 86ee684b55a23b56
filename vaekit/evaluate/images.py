"""How near reconstructions are to their data, per example, streamed over a data set."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from vaekit.evaluate.examples import Examples, reconstructed
from vaekit.kinds import loss
from vaekit.optional import MissingPackage, require
from vaekit.records import Output
from vaekit.vae import VAE

WANG = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Weights of MS-SSIM's scales, fine to coarse (Wang et al., 2003)."""

Score = Callable[[Tensor, Tensor], Tensor]
"""x̂, x `(b, *data)` → (b,)."""


def reconstruction(vae: VAE, data: Examples, *, lpips: str | None = None) -> dict[str, Tensor]:
    """Scores of each example's reconstruction, the mean of p(x|z) at the mode of q(z|x): name → (n,).

    What the data have no room for is left out: `scores` says why.

    Args:
        vae: the model.
        data: the examples.
        lpips: weights for LPIPS, see `scores`.

    Example:
        >>> import torch, vaekit
        >>> vae = vaekit.build("mlp", latent=2, input_shape=(1, 28, 28))
        >>> {name: len(each) for name, each in reconstruction(vae, Examples(vae, torch.rand(5, 1, 28, 28))).items()}
        {'mse': 5, 'psnr': 5, 'ssim': 5, 'ms_ssim[2]': 5}
    """
    found, _ = scores(vae.input_shape, vae.data_range, lpips=lpips)
    return score(vae, data, found)


@torch.no_grad()
def score(vae: VAE, data: Examples, wanted: Mapping[str, Score]) -> dict[str, Tensor]:
    """Scores `wanted` of each example's reconstruction: name → (n,), in double precision on the CPU."""
    parts: dict[str, list[Tensor]] = {name: [] for name in wanted}
    for x, cond in data.conditioned():
        made, x = reconstructed(vae, x, cond), vae.check(x)
        for name, of in wanted.items():
            parts[name].append(of(made, x).double().cpu())
    return {name: torch.cat(each) for name, each in parts.items()}


def scores(
    input_shape: Sequence[int], data_range: tuple[float, float] | None, *, lpips: str | None = None
) -> tuple[dict[str, Score], dict[str, str]]:
    """The scores that data of a shape and a range have, by name, and why the others can't be had.

        mse          (x - x̂)², mean over values, in the data's scale
        psnr         10 log₁₀(range² / mse), dB, of each image by itself; infinite for an exact copy
        ssim         structural similarity, window 11 with σ = 1.5, for images and volumes; 1 for an exact copy
        ms_ssim      the same over 5 scales, from 176 pixels a side on; of smaller images over as many scales as fit,
                     whose number is part of the name: ms_ssim[2]
        lpips[alex]  distance of features of AlexNet, 0 for an exact copy

    SSIM is of values brought to [0, 1], and cut there; PSNR and MSE are of values as they are.

    Args:
        input_shape: the data's shape, `(c, *s)`, with any number of channels.
        data_range: smallest and largest value.
        lpips: weights of AlexNet: a file, "pretrained" (torchvision's cache, or its download) or "random"; None leaves
            LPIPS out.
    """
    found: dict[str, Score] = {"mse": lambda made, x: (made - x).square().flatten(1).mean(1)}
    why: dict[str, str] = {}
    if data_range is None:
        told = "the data have no data_range, so that no difference is large or small"
        return found, {"psnr": told, "ssim": told, "ms_ssim": told, "lpips[alex]": told}
    spread = data_range[1] - data_range[0]
    try:
        metrics: Any = require("torchmetrics.functional.image", user="vaekit.evaluate", extra="train")
    except MissingPackage as error:
        return found, dict.fromkeys(("psnr", "ssim", "ms_ssim"), str(error))

    def psnr(made: Tensor, x: Tensor) -> Tensor:
        dims = tuple(range(1, x.ndim))
        return metrics.peak_signal_noise_ratio(made, x, data_range=spread, reduction="none", dim=dims)

    def unit(*images: Tensor) -> list[Tensor]:
        # brightness counts from black: SSIM of [-1, 1] would be another number
        return [(each - data_range[0]) / spread for each in images]

    def ssim(made: Tensor, x: Tensor) -> Tensor:
        of = metrics.structural_similarity_index_measure
        return of(*unit(made, x), data_range=(0.0, 1.0), reduction="none").reshape(-1)

    found["psnr"] = psnr
    place = tuple(input_shape[1:])
    if len(place) not in (2, 3):
        why["ssim"] = why["ms_ssim"] = (
            f"it compares windows of images or volumes, and the data are {tuple(input_shape)}"
        )
    elif min(place) < 11:
        why["ssim"] = why["ms_ssim"] = f"its window has 11 positions a side, and the data have {min(place)}"
    else:
        found["ssim"] = ssim
        scales = _scales(min(place))
        weights = tuple(w / sum(WANG[:scales]) for w in WANG[:scales])

        def ms_ssim(made: Tensor, x: Tensor) -> Tensor:
            of = metrics.multiscale_structural_similarity_index_measure
            betas = WANG if scales == len(WANG) else weights
            return of(*unit(made, x), data_range=(0.0, 1.0), reduction="none", betas=betas).reshape(-1)

        if scales > 1:
            found["ms_ssim" if scales == len(WANG) else f"ms_ssim[{scales}]"] = ms_ssim
        else:
            why["ms_ssim"] = f"two scales need 12 positions a side, and the data have {min(place)}"
    if lpips is None:
        why["lpips[alex]"] = "it needs weights of AlexNet: give lpips='pretrained', or their file"
    else:
        try:
            found["lpips[alex]"] = LPIPS(input_shape, data_range, lpips)
        except (ValueError, ImportError) as error:
            why["lpips[alex]"] = str(error)
    return found, why


class LPIPS(nn.Module):
    """x̂, x `(b, c, h, w)` → (b,): the loss 'lpips' with AlexNet, the one to report.

    Args:
        input_shape: the images' shape.
        data_range: of the images.
        weights: of AlexNet, see the loss.
    """

    def __init__(self, input_shape: Sequence[int], data_range: tuple[float, float], weights: str) -> None:
        super().__init__()
        make: Any = loss["lpips"]
        self.loss = make(input_shape, data_range, net="alex", weights=weights)

    def forward(self, made: Tensor, x: Tensor) -> Tensor:  # noqa: D102 — the class says
        p_x = Independent(Normal(made, torch.ones_like(made), validate_args=False), made.ndim - 1)
        return self.loss(Output(x, made, p_x, ()))


def _scales(side: int) -> int:
    """How many scales of MS-SSIM fit: a window of 11, and mirrored edges of 5 at the coarsest one."""
    fits = [m for m in range(1, 6) if side // max(1, m - 1) ** 2 > 10 and side // 2 ** (m - 1) > 5 and side >= 2**m]
    return max(fits)
