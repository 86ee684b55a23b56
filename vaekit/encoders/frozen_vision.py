"""A frozen vision model as the encoder."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from vaekit.kinds import Encoder, encoder
from vaekit.layers.timm_backbone import Backbone


@encoder("frozen_vision", tags=("image", "pretrained"), cite=("zheng2025", "wightman2019"))
class FrozenVisionEncoder(Encoder):
    """h = f(x), the patch tokens of a vision model that stays as it is, laid out as a map.

    The image is brought to the size at which the model's grid is the latent's map. A representation autoencoder takes
    h itself for the latent, with the model's width as its channels and `head="none"` in a sampler without a spread, and
    trains the decoder alone. A vector latent reads the model's pooled features, at the model's own size. The model has
    no parameters in the VAE, is made on first use and not saved.

    Shapes: x (b, c, h, w) of any size and channel count → h (b, k, *t), t the latent's map; (b, k) for vectors.

    Args:
        in_shape: the data's shape, wired.
        latent_shape: the latent's shape, wired.
        data_range: of the images, wired.
        backbone: a name that `timm.list_models()` shows.
        weights: "pretrained" (timm's, from its cache or a download), a file, or "random".
        layer: which map, counted as timm does.
        norm_affine: keep the learned scale and shift of the model's last norm; without them, tokens have zero mean and
            unit variance.
        pooled: whether vector latents read pooled features, or the whole map at the model's own size.

    Raises:
        ValueError: where the data are no images or have no range, timm knows no such network or layer, or a model of
            one size does not have the latent's grid.
        FileNotFoundError: on first use, where the weights can't be had; it says which file to put where.
        MissingPackage: where timm can't be imported.

    References:
        Diffusion Transformers with Representation Autoencoders (Zheng et al., 2025), https://arxiv.org/abs/2510.11690;
        PyTorch Image Models (Wightman, 2019), https://github.com/huggingface/pytorch-image-models

    Example:
        >>> import torch, vaekit
        >>> encoder = vaekit.encoder["frozen_vision"]((3, 32, 32), (8, 4, 4), backbone="test_vit", weights="random")
        >>> encoder(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 64, 4, 4])
    """

    ranks = (2,)
    any_size = True
    overcomplete = True  # the features of large models are wider than their images

    def __init__(
        self,
        in_shape: Sequence[int],
        latent_shape: Sequence[int],
        data_range: tuple[float, float] | None = (0.0, 1.0),
        *,
        backbone: str = "vit_base_patch14_reg4_dinov2.lvd142m",
        weights: str = "pretrained",
        layer: int = -1,
        norm_affine: bool = False,
        pooled: bool = True,
    ) -> None:
        super().__init__()
        self.features = Backbone(
            backbone,
            weights,
            in_shape=in_shape,
            data_range=data_range,
            layers=(layer,),
            norm="learned" if norm_affine else "plain",
        )
        self.sides, self.grid, self.pooled = tuple(in_shape[1:]), tuple(latent_shape[1:]), pooled
        if self.grid:
            shape = self.features.shapes(in_shape[1:], self._seen(in_shape[1:]))[0]
            if shape[1:] != self.grid:
                raise ValueError(
                    f"frozen_vision: {backbone!r} gives maps of {shape[1:]}, and the latent's is {self.grid}. Take a "
                    "vision transformer, or set latent to that size."
                )

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k *t"]:  # type: ignore[override]
        if self.grid:
            return self.features(x, self._seen(x.shape[2:]))[0].to(x.dtype)
        size = self.features.own_size
        return (self.features.pooled(x, size) if self.pooled else self.features(x, size)[0]).to(x.dtype)

    def _seen(self, place: Sequence[int]) -> tuple[int, int]:
        """The image size at which the grid has the latent's share of images of size `place`."""
        (stride,) = self.features.strides
        rows, columns = (max(1, side * t // s) for side, t, s in zip(place, self.grid, self.sides, strict=True))
        return rows * stride, columns * stride
