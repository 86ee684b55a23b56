"""Deep image structure and texture similarity."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vaekit.kinds import Loss, loss
from vaekit.layers.conv_stack import IMAGE, ConvStack
from vaekit.layers.fixed import Fixed
from vaekit.layers.torchvision_weights import package_file, read
from vaekit.records import Output

_LAYERS = {IMAGE: 3, "relu1_2": 64, "relu2_2": 128, "relu3_3": 256, "relu4_3": 512, "relu5_3": 512}


@loss("dists", tags=("image", "perceptual"), cite="ding2020")
class DISTSLoss(Loss):
    """Σ_l α_l · (1 - t_l) + β_l · (1 - s_l) over the layers and channels of VGG16, x̂ the mean of p(x|z).

        t = (2 μ_x μ_x̂ + c) / (μ_x² + μ_x̂² + c)            texture
        s = (2 σ_xx̂ + c) / (σ_x² + σ_x̂² + c)               structure

    Moments are over a map's places, c = 10⁻⁶; the image itself is the first map. The network pools by the root of a
    smoothed square. α and β add up to 1. Since textures are compared by their means alone, one piece of grass is as
    good as another. The network is fixed, made on first use, and not saved with the model; channels and ranges are as
    in the loss `perceptual`.

    Shapes: Output → (b,). No unit: 0 for x̂ = x, at most 2; a mean, not a sum, over places.

    Args:
        input_shape: the data's shape, wired.
        data_range: of the images, wired.
        calibration: α and β. "learned" takes the authors' numbers, from what people find similar, out of their package
            DISTS-pytorch, which has to be installed; a file (safetensors or a torch checkpoint) has 1475 numbers each
            under "alpha" and "beta"; "equal" gives every channel the same, which is not the published measure.
        weights: of the network: "pretrained" (torchvision's cache, or its download), a file (safetensors or a torch
            checkpoint) of tensors named `features.*`, or "random".
        size: side to which images are brought; None keeps theirs. The measure was learned at 256.

    Raises:
        ValueError: where the data are no images or have no range, or a file of α and β is something else.
        FileNotFoundError: where a file of α and β is not there; on first use, where the weights can't be had; it says
            which file to put where.
        MissingPackage: where torchvision is missing, or DISTS-pytorch, and its numbers are wanted.

    References:
        Image Quality Assessment: Unifying Structure and Texture Similarity (Ding et al., 2020),
        https://arxiv.org/abs/2004.07728

    Example:
        >>> import torch, vaekit
        >>> term = vaekit.term("dists", calibration="equal", weights="random")
        >>> vae = vaekit.build("mlp", latent=2, input_shape=(1, 16, 16), loss=["nll", term, "kl"])
        >>> list(vae.loss(torch.rand(2, 1, 16, 16)).terms)
        ['nll', 'dists', 'kl']
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        data_range: tuple[float, float] | None = (0.0, 1.0),
        *,
        calibration: str = "learned",
        weights: str = "pretrained",
        size: int | None = None,
    ) -> None:
        super().__init__()
        self.features = ConvStack(
            "vgg16",
            weights,
            in_shape=input_shape,
            data_range=data_range,
            layers=tuple(_LAYERS),
            size=size,
            pooling="l2",
        )
        self.source = str(calibration)
        self.calibration = Fixed(_Calibration, self.source)

    def check(self, out: Output) -> None:
        """α and β are there: a model that was saved is loaded without them, and one that is built needs them."""
        _read(self.source)

    def forward(self, out: Output) -> Float[Tensor, " b"]:
        return self.features.compare(out, self._apart)

    def _apart(self, i: int, f: Float[Tensor, "n b k h w"], g: Float[Tensor, "b k h w"]) -> Float[Tensor, "n b"]:
        of = self.calibration.at(f)
        f, g = f.flatten(3), g.flatten(2)
        mean_f, mean_g = f.mean(-1), g.mean(-1)
        f, g = f - mean_f[..., None], g - mean_g[..., None]
        texture = _similarity(mean_f * mean_g, mean_f.square() + mean_g.square())
        structure = _similarity((f * g).mean(-1), f.square().mean(-1) + g.square().mean(-1))
        return (1 - texture) @ of.get_buffer(f"alpha_{i}") + (1 - structure) @ of.get_buffer(f"beta_{i}")


class _Calibration(nn.Module):
    """α and β of each layer's channels, scaled so that all of them add up to 1."""

    def __init__(self, source: str) -> None:
        super().__init__()
        found = _read(source)
        total = found["alpha"].sum() + found["beta"].sum()
        for name in ("alpha", "beta"):
            for i, values in enumerate((found[name].flatten().float() / total).split(list(_LAYERS.values()))):
                self.register_buffer(f"{name}_{i}", values)


def _read(source: str) -> Mapping[str, Tensor]:
    count = sum(_LAYERS.values())
    if source == "equal":
        return {"alpha": torch.ones(count), "beta": torch.ones(count)}
    path = Path(source)
    if source == "learned":
        path = package_file("DISTS_pytorch", "weights.pt", user="the loss 'dists', for its learned α and β,")
    if not path.is_file():
        raise FileNotFoundError(
            f"calibration: there is no file {path}. Give one with 'alpha' and 'beta', or 'learned', or 'equal'."
        )
    found = read(path)
    if any(name not in found or found[name].numel() != count for name in ("alpha", "beta")):
        got = {name: tuple(values.shape) for name, values in found.items()}
        raise ValueError(f"calibration: expected {count} numbers for each of alpha and beta in {path}, got {got}.")
    return found


def _similarity(product: Tensor, squares: Tensor) -> Tensor:
    return (2 * product + 1e-6) / (squares + 1e-6)
