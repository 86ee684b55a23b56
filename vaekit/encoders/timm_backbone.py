"""Any timm backbone as an encoder."""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vaekit.kinds import Encoder, encoder
from vaekit.layers.modulation import Modulation
from vaekit.layers.timm_weights import pretrained_file
from vaekit.optional import require


@encoder("timm", tags=("image", "backbone"), cite="wightman2019")
class TimmEncoder(Encoder):
    """h = a feature map of a timm backbone, of images padded to the backbone's stride.

    A vector latent reads the coarsest map; a map latent `(c, *t)` picks the map of its own size. A backbone that has no
    feature maps gives its pooled features, for vector latents only.

    Shapes: x (b, c, h, w) of any size and channel count → h (b, k, ⌈h/r⌉, ⌈w/r⌉), r the map's stride.

    Args:
        in_shape: the data's shape, wired.
        latent_shape: the latent's shape, wired.
        cond_dim: width of the condition's tokens, which modulate h; wired.
        backbone: a name that `timm.list_models()` shows.
        pretrained: load timm's weights, which downloads them once.
        level: which feature map, as timm counts them, for vector latents.

    Raises:
        ValueError: where timm has no such backbone, or none of its maps has the latent's size.
        FileNotFoundError: with `pretrained`, where the weights can't be had; it says which file to put where.
        MissingPackage: where timm can't be imported.

    References:
        PyTorch Image Models (Wightman, 2019), https://github.com/huggingface/pytorch-image-models

    Example:
        >>> import torch, vaekit
        >>> encoder = vaekit.encoder["timm"]((1, 28, 28), (16,), backbone="resnet10t")
        >>> encoder(torch.rand(2, 1, 28, 28)).shape
        torch.Size([2, 512, 1, 1])
    """

    ranks = (2,)

    def __init__(
        self,
        in_shape: Sequence[int],
        latent_shape: Sequence[int],
        cond_dim: int = 0,
        *,
        backbone: str = "resnet18",
        pretrained: bool = False,
        level: int = -1,
    ) -> None:
        super().__init__()
        timm = require("timm", user="encoder 'timm'")
        if not timm.is_model(backbone.split(".")[0]):
            near = ", ".join(timm.list_models(f"*{backbone.split('_')[0].rstrip('0123456789')}*")[:5])
            raise ValueError(f"timm has no backbone {backbone!r}.{f' Near: {near}.' if near else ''}")
        self.stride, self.channels_last = 1, False
        size = tuple(in_shape[1:])
        options: dict[str, Any] = {"pretrained": pretrained, "in_chans": in_shape[0]}
        if pretrained:  # by its path, since timm by itself tries for most of a minute where there is no network
            options["pretrained_cfg_overlay"] = {"file": pretrained_file(backbone, by_path=False)}
        try:
            info = timm.create_model(backbone, features_only=True, in_chans=in_shape[0]).feature_info
        except (RuntimeError, AttributeError, NotImplementedError, AssertionError):
            if len(latent_shape) > 1:
                raise ValueError(f"timm's {backbone!r} has no feature maps: use a vector latent.") from None
            self.body, channels = timm.create_model(backbone, num_classes=0, **options), None
        else:
            index = self._level(backbone, size, latent_shape, info.reduction(), level)
            self.stride, channels = info.reduction()[index], info.channels()[index]
            padded = tuple(-(-s // self.stride) * self.stride for s in size)
            options |= {"features_only": True, "out_indices": (index,)}
            try:  # transformers want to know the size
                self.body = timm.create_model(backbone, img_size=padded, **options)
            except TypeError:
                self.body = timm.create_model(backbone, **options)
            self.channels_last = str(getattr(self.body, "output_fmt", "")).endswith("NHWC")
        channels = channels or self.body.num_features
        self.modulation = Modulation(cond_dim, channels) if cond_dim else None

    @staticmethod
    def _level(
        backbone: str, size: tuple[int, ...], latent_shape: Sequence[int], strides: Sequence[int], level: int
    ) -> int:
        if len(latent_shape) == 1:
            return range(len(strides))[level]
        maps = [tuple(-(-s // stride) for s in size) for stride in strides]
        target = tuple(latent_shape[1:])
        if target not in maps:
            shown = ", ".join("×".join(map(str, m)) for m in dict.fromkeys(maps))
            raise ValueError(
                f"timm's {backbone!r} gives maps of {shown} for {'×'.join(map(str, size))} data; the latent asks for "
                f"{'×'.join(map(str, target))}."
            )
        return len(maps) - 1 - maps[::-1].index(target)

    def forward(
        self, x: Float[Tensor, "b c h w"], cond: Float[Tensor, "b t k"] | None = None
    ) -> Float[Tensor, "b f *u"]:
        bottom, right = (-size % self.stride for size in x.shape[2:])
        h = self.body(F.pad(x, (0, right, 0, bottom)))
        if isinstance(h, (list, tuple)):
            h = h[-1].movedim(-1, 1) if self.channels_last else h[-1]
        return h if self.modulation is None or cond is None else self.modulation(h, cond)
