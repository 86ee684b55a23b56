"""Reconstruction error in the features of any timm network."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vaekit.kinds import Loss, loss
from vaekit.layers.draws import average_draws
from vaekit.layers.timm_backbone import Backbone
from vaekit.records import Output


@loss("timm_features", tags=("image", "perceptual"), cite=("wightman2019", "johnson2016"))
class TimmFeaturesLoss(Loss):
    """Σ_l mean d(f_l(x), f_l(x̂)), f_l the maps of a frozen timm network, x̂ the mean of p(x|z).

    d is |f - g|, (f - g)², or at each place 1 - cos(f, g). Maps are stages of a convolutional network, outputs of
    blocks of a transformer. The network is made on first use, kept fixed, and not saved with the model.

    Shapes: Output → (b,), for images of any size and number of channels. Unit: that of d, averaged over each map.

    Args:
        input_shape: the data's shape, wired.
        data_range: of the images, wired.
        backbone: a name that `timm.list_models()` shows.
        weights: "pretrained" (timm's, from its cache or a download), a file, or "random".
        layers: which maps, counted as timm does; None takes all of different sizes, or of a transformer's blocks
            the last of each quarter.
        distance: "l1", "l2" or "cosine".
        size: side to which images are brought; None keeps theirs, continued to a multiple of the network's stride.

    Raises:
        ValueError: where the data are no images or have no range, or timm knows no such network or layer.
        FileNotFoundError: on first use, where the weights can't be had; it says which file to put where.
        MissingPackage: where timm can't be imported.

    References:
        Perceptual Losses for Real-Time Style Transfer and Super-Resolution (Johnson et al., 2016),
        https://arxiv.org/abs/1603.08155; PyTorch Image Models (Wightman, 2019),
        https://github.com/huggingface/pytorch-image-models

    Example:
        >>> import torch, vaekit
        >>> features = vaekit.term("timm_features", backbone="test_resnet", weights="random", layers=(0, 1))
        >>> vae = vaekit.build("mlp", latent=2, input_shape=(1, 8, 8), loss=["nll", "kl", features])
        >>> list(vae.loss(torch.rand(2, 1, 8, 8)).terms)
        ['nll', 'kl', 'timm_features']
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        data_range: tuple[float, float] | None = (0.0, 1.0),
        *,
        backbone: str = "vgg16.tv_in1k",
        weights: str = "pretrained",
        layers: Sequence[int] | None = None,
        distance: Literal["l1", "l2", "cosine"] = "l2",
        size: int | None = None,
    ) -> None:
        super().__init__()
        if distance not in ("l1", "l2", "cosine"):
            raise ValueError(f"distance: expected 'l1', 'l2' or 'cosine', got {distance!r}.")
        self.distance = distance
        self.size = None if size is None else (size, size)
        self.features = Backbone(backbone, weights, in_shape=input_shape, data_range=data_range, layers=layers)
        self.features.shapes(input_shape[1:], self.size)  # refuses sizes that do not fit

    def forward(self, out: Output) -> Float[Tensor, " b"]:
        made = self.features(out.p_x.mean.reshape(-1, *out.x.shape[1:]), self.size)
        with torch.no_grad():
            wanted = self.features(out.x, self.size)
        each = [self._apart(f.reshape(-1, *g.shape), g) for f, g in zip(made, wanted, strict=True)]
        return average_draws(torch.stack(each).sum(0))

    def _apart(self, f: Float[Tensor, "n b k *t"], g: Float[Tensor, "b k *t"]) -> Float[Tensor, "n b"]:
        if self.distance == "cosine":
            return 1 - F.cosine_similarity(f, g[None], dim=2).flatten(2).mean(2)
        gap = f - g
        return (gap.abs() if self.distance == "l1" else gap.square()).flatten(2).mean(2)
