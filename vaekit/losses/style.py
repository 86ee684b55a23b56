"""Reconstruction error in the textures that a trained VGG network sees."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from vaekit.kinds import Loss, loss
from vaekit.layers.conv_stack import ConvStack
from vaekit.records import Output


@loss("style", tags=("image", "perceptual"), cite=("gatys2016", "johnson2016", "simonyan2015"))
class StyleLoss(Loss):
    """Σ_l w_l ‖G_l(x) - G_l(x̂)‖², G_l = 1/(k h w) Σ_place f f', f the k features of VGG16 at layer l, x̂ = E[x|z].

    Gram matrices know which features come together, and not where: textures are compared, not places. The network is
    fixed, made on first use, and not saved with the model; channels and ranges are as in the loss `perceptual`, with
    which it shares the passes through the network where both are terms of a model.

    Shapes: Output → (b,). Unit: squared Gram entries, summed over each matrix: four times what Gatys et al. write, for
    equal features. Values are small (10⁻⁴ and less), and want weights of thousands.

    Args:
        input_shape: the data's shape, wired.
        data_range: of the images, wired.
        layers: names as in `perceptual`. The third block needs 4 pixels a side, the fourth 8, the fifth 16.
        layer_weights: w_l, as many as layers; None: ones.
        weights: "pretrained" (torchvision's cache, or its download), a file (safetensors or a torch checkpoint) of
            tensors named `features.*`, or "random".
        size: side to which images are brought, as 64 for small ones; None keeps theirs.

    Raises:
        ValueError: where the data are no images, have no range or are smaller than a layer needs, a layer is unknown,
            or weights are negative or not as many as layers.
        FileNotFoundError: on first use, where the weights can't be had; it says which file to put where.
        MissingPackage: where torchvision can't be imported.

    References:
        Image Style Transfer Using Convolutional Neural Networks (Gatys et al., 2016),
        https://doi.org/10.1109/CVPR.2016.265; Perceptual Losses for Real-Time Style Transfer and Super-Resolution
        (Johnson et al., 2016), https://arxiv.org/abs/1603.08155; Very Deep Convolutional Networks for Large-Scale
        Image Recognition (Simonyan & Zisserman, 2015), https://arxiv.org/abs/1409.1556

    Example:
        >>> import torch, vaekit
        >>> style = vaekit.term("style", weight=1e3, layers=("relu1_2", "relu2_2"), weights="random")
        >>> vae = vaekit.build("mlp", latent=2, input_shape=(1, 8, 8), loss=["nll", style, "kl"])
        >>> list(vae.loss(torch.rand(2, 1, 8, 8)).terms)
        ['nll', 'style', 'kl']
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        data_range: tuple[float, float] | None = (0.0, 1.0),
        *,
        layers: Sequence[str] = ("relu1_2", "relu2_2", "relu3_3", "relu4_3"),
        layer_weights: Sequence[float] | None = None,
        weights: str = "pretrained",
        size: int | None = None,
    ) -> None:
        super().__init__()
        self.features = ConvStack(
            "vgg16", weights, in_shape=input_shape, data_range=data_range, layers=layers, size=size
        )
        self.layer_weights = self.features.weighed(layer_weights)

    def forward(self, out: Output) -> Float[Tensor, " b"]:
        return self.features.compare(out, self._apart)

    def _apart(self, i: int, f: Float[Tensor, "n b k h w"], g: Float[Tensor, "b k h w"]) -> Float[Tensor, "n b"]:
        return self.layer_weights[i] * (_gram(f) - _gram(g)).square().sum((-2, -1))


def _gram(f: Float[Tensor, "*b k h w"]) -> Float[Tensor, "*b k k"]:
    f = f.flatten(-2)
    f = f * (f.shape[-2] * f.shape[-1]) ** -0.5  # before the product, whose sums stay small
    return f @ f.mT
