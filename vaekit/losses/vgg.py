"""The perceptual term in a trained VGG network."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from vaekit.kinds import Loss, loss
from vaekit.layers.vgg import VGG16
from vaekit.records import Output


@loss("vgg", tags=("image", "perceptual"), cite=("johnson2016", "simonyan2015"))
class VGGLoss(Loss):
    """Σ_l mean (f_l(x) - f_l(x̂))², f_l the features of VGG16 at layer l, x̂ the mean of p(x|z).

    The network is made on first use, kept fixed, and not saved with the model. Images are brought from the data range
    to the network's; grey ones are given as three equal channels.

    Shapes: Output → (b,), for images of one or three channels. Unit: squared features, averaged over each layer.

    Args:
        input_shape: the data's shape, wired.
        data_range: of the images, wired.
        layers: names out of relu1_2, relu2_2, relu3_3, relu4_3, relu5_3.
        weights: "imagenet" (torchvision fetches them), a file of tensors named `features.*`, or None for fixed random
            ones.

    Raises:
        ValueError: where the data are no images of one or three channels, have no range, are smaller than the last
            layer needs, or a layer is unknown.
        MissingPackage: on first use, where torchvision is missing.

    References:
        Perceptual Losses for Real-Time Style Transfer and Super-Resolution (Johnson et al., 2016),
        https://arxiv.org/abs/1603.08155; Very Deep Convolutional Networks for Large-Scale Image Recognition
        (Simonyan & Zisserman, 2015), https://arxiv.org/abs/1409.1556

    Example:
        >>> import torch, vaekit
        >>> loss = [vaekit.term("nll"), vaekit.term("vgg", layers=("relu1_2",), weights=None), vaekit.term("kl")]
        >>> vae = vaekit.build("mlp", latent=2, input_shape=(1, 8, 8), loss=loss)
        >>> list(vae.loss(torch.rand(2, 1, 8, 8)).terms)
        ['nll', 'vgg', 'kl']
    """

    compiles = False  # the network is made on first use

    def __init__(
        self,
        input_shape: Sequence[int],
        data_range: tuple[float, float] | None = (0.0, 1.0),
        *,
        layers: Sequence[str] = ("relu1_2", "relu2_2", "relu3_3"),
        weights: str | None = "imagenet",
    ) -> None:
        super().__init__()
        if len(input_shape) != 3 or input_shape[0] not in (1, 3):
            raise ValueError(f"vgg: expected images of 1 or 3 channels, got data of shape {tuple(input_shape)}.")
        if data_range is None:
            raise ValueError("vgg: needs a data_range, to bring images to the network's. Build with one.")
        self.low, self.high = data_range
        self.features = VGG16(tuple(layers), weights)
        pools = sum(place > at for at in (4, 9, 16, 23) for place in self.features.places[-1:])
        if min(input_shape[1:]) < 2**pools:
            raise ValueError(
                f"vgg: {layers[-1]} needs images of at least {2**pools} pixels a side, got {tuple(input_shape[1:])}. "
                "Choose earlier layers."
            )

    def forward(self, out: Output) -> Float[Tensor, " b"]:
        made = self._prepared(out.p_x.mean.reshape(-1, *out.x.shape[1:]))
        with torch.no_grad():
            wanted = self.features(self._prepared(out.x))
        each = [
            (a.reshape(-1, *b.shape) - b).square().flatten(2).mean(2)
            for a, b in zip(self.features(made), wanted, strict=True)
        ]
        return torch.stack(each).sum(0).mean(0)

    def _prepared(self, x: Tensor) -> Tensor:
        return ((x - self.low) / (self.high - self.low)).expand(-1, 3, -1, -1)
