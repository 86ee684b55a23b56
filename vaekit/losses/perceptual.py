"""Reconstruction error in the features of a trained VGG network."""

from collections.abc import Sequence
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from vaekit.kinds import Loss, loss
from vaekit.layers.conv_stack import ConvStack
from vaekit.records import Output


@loss("perceptual", tags=("image", "perceptual"), cite=("johnson2016", "simonyan2015"))
class PerceptualLoss(Loss):
    """Σ_l w_l mean d(f_l(x), f_l(x̂)), f_l the features of VGG16 at layer l, x̂ the mean of p(x|z).

    d is the squared or the absolute difference. The network is fixed, made on first use, and not saved with the model.
    Images are brought from the data range to the network's; grey ones are given as three equal channels; of two, or
    more than three channels each is taken as a grey image, and the loss is the mean over them.

    Shapes: Output → (b,). Unit: that of d, averaged over each layer's channels and places, so that it does not grow
    with the image.

    Args:
        input_shape: the data's shape, wired.
        data_range: of the images, wired.
        layers: names out of relu1_1, relu1_2, relu2_1, …, relu5_3 (two to a block, three from the third block on), or
            "image". The third block needs 4 pixels a side, the fourth 8, the fifth 16.
        layer_weights: w_l, as many as layers; None: ones.
        distance: d, "l2" (squared) or "l1".
        weights: "pretrained" (torchvision's cache, or its download), a file (safetensors or a torch checkpoint) of
            tensors named `features.*`, or "random".
        size: side to which images are brought, as 64 for small ones; None keeps theirs.

    Raises:
        ValueError: where the data are no images, have no range or are smaller than a layer needs, a layer is unknown,
            or weights are negative or not as many as layers.
        FileNotFoundError: on first use, where the weights can't be had; it says which file to put where.
        MissingPackage: where torchvision can't be imported.

    References:
        Perceptual Losses for Real-Time Style Transfer and Super-Resolution (Johnson et al., 2016),
        https://arxiv.org/abs/1603.08155; Very Deep Convolutional Networks for Large-Scale Image Recognition
        (Simonyan & Zisserman, 2015), https://arxiv.org/abs/1409.1556

    Example:
        >>> import torch, vaekit
        >>> features = vaekit.term("perceptual", layers=("relu1_2", "relu2_2"), weights="random")
        >>> vae = vaekit.build("mlp", latent=2, input_shape=(1, 8, 8), loss=["nll", features, "kl"])
        >>> list(vae.loss(torch.rand(2, 1, 8, 8)).terms)
        ['nll', 'perceptual', 'kl']
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        data_range: tuple[float, float] | None = (0.0, 1.0),
        *,
        layers: Sequence[str] = ("relu1_2", "relu2_2", "relu3_3"),
        layer_weights: Sequence[float] | None = None,
        distance: Literal["l1", "l2"] = "l2",
        weights: str = "pretrained",
        size: int | None = None,
    ) -> None:
        super().__init__()
        if distance not in ("l1", "l2"):
            raise ValueError(f"distance: expected 'l1' or 'l2', got {distance!r}.")
        self.squared = distance == "l2"
        self.features = ConvStack(
            "vgg16", weights, in_shape=input_shape, data_range=data_range, layers=layers, size=size
        )
        self.layer_weights = self.features.weighed(layer_weights)

    def forward(self, out: Output) -> Float[Tensor, " b"]:
        return self.features.compare(out, self._apart)

    def _apart(self, i: int, f: Float[Tensor, "n b k h w"], g: Float[Tensor, "b k h w"]) -> Float[Tensor, "n b"]:
        gap = f - g
        return self.layer_weights[i] * (gap.square() if self.squared else gap.abs()).flatten(2).mean(2)
