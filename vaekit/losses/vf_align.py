"""The latent map, aligned with the features of a vision model."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vaekit.kinds import Loss, loss
from vaekit.layers.draws import average_draws
from vaekit.layers.precision import at_least_float32
from vaekit.layers.timm_backbone import Backbone
from vaekit.records import Output


@loss("vf_align", tags=("image", "latent", "alignment"), cite="yao2025")
class VFAlignLoss(Loss):
    """w₁ mean_i [1 - m₁ - cos(W z_i, f_i)]₊ + w₂ mean_ij [|cos(u_i, u_j) - cos(f_i, f_j)| - m₂]₊.

    z_i is the latent at place i, f_i the feature there of a frozen vision model that sees x in the size at which its
    grid is the latent's, and u_i = W z_i, or z_i itself. W, a matrix, learns with the model. The first sum brings each
    place close to its feature, the second the places to each other as the features are; the margins leave room.

    VA-VAE weighs the term by the ratio of the reconstruction's gradient to its own at the encoder's last layer, times
    0.5 at first and 0.1 later, and trains without margins before it sets them: weights are the objective's.

    Shapes: Output → (b,), for images and map latents `(c, h, w)`. Unit: cosines, averaged over places.

    Args:
        input_shape: the data's shape, wired.
        latent_shape: the latent's shape, wired.
        data_range: of the images, wired.
        backbone: a name that `timm.list_models()` shows.
        weights: "pretrained" (timm's, from its cache or a download), a file, or "random".
        layer: which map of the network, counted as timm does.
        cosine_margin: m₁.
        distance_margin: m₂.
        cosine_weight: w₁.
        distance_weight: w₂.
        project_distances: whether u = W z, as VA-VAE is trained; else u = z, as its paper writes.

    Raises:
        ValueError: where the data are no images or have no range, the latent is no map, a margin or weight is
            negative, or timm knows no such network or layer.
        FileNotFoundError: on first use, where the weights can't be had; it says which file to put where.
        MissingPackage: where timm can't be imported.

    References:
        Reconstruction vs. Generation: Taming Optimization Dilemma in Latent Diffusion Models (Yao et al., 2025),
        https://arxiv.org/abs/2501.01423

    Example:
        >>> import torch, vaekit
        >>> align = vaekit.term("vf_align", weight=0.1, backbone="test_vit", weights="random")
        >>> vae = vaekit.build("resnet", latent=(4, 2, 2), input_shape=(3, 8, 8), width=8, loss=["nll", "kl", align])
        >>> list(vae.loss(torch.rand(2, 3, 8, 8)).terms)
        ['nll', 'kl', 'vf_align']
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        latent_shape: Sequence[int],
        data_range: tuple[float, float] | None = (0.0, 1.0),
        *,
        backbone: str = "vit_large_patch14_dinov2.lvd142m",
        weights: str = "pretrained",
        layer: int = -1,
        cosine_margin: float = 0.5,
        distance_margin: float = 0.25,
        cosine_weight: float = 1.0,
        distance_weight: float = 1.0,
        project_distances: bool = True,
    ) -> None:
        super().__init__()
        if len(latent_shape) != 3:
            raise ValueError(f"vf_align: expected a map latent (c, h, w), got {tuple(latent_shape)}. Set latent=(…).")
        given = {
            "cosine_margin": cosine_margin,
            "distance_margin": distance_margin,
            "cosine_weight": cosine_weight,
            "distance_weight": distance_weight,
        }
        for name, value in given.items():
            if value < 0:
                raise ValueError(f"{name}: expected at least 0, got {value}.")
        self.margins, self.weights = (cosine_margin, distance_margin), (cosine_weight, distance_weight)
        self.project_distances = project_distances
        self.features = Backbone(
            backbone, weights, in_shape=input_shape, data_range=data_range, layers=(layer,), norm="learned"
        )
        ((channels, *_),) = self.features.shapes(input_shape[1:], self._seen(latent_shape[1:]))
        self.project = nn.Conv2d(latent_shape[0], channels, 1, bias=False)

    def forward(self, out: Output) -> Float[Tensor, " b"]:
        z = out.z.reshape(-1, *out.z.shape[-3:])
        with torch.no_grad():
            (f,) = self.features(out.source, self._seen(z.shape[2:]))
        up = self.project(z)
        up, z = (at_least_float32(each).reshape(-1, *f.shape[:1], *each.shape[1:]) for each in (up, z))
        cosine = F.cosine_similarity(up, f[None], dim=2).flatten(2)
        apart = _cosines(up if self.project_distances else z) - _cosines(f)
        near = F.relu(1 - self.margins[0] - cosine).mean(2)
        alike = F.relu(apart.abs() - self.margins[1]).flatten(2).mean(2)
        return average_draws(self.weights[0] * near + self.weights[1] * alike)

    def _seen(self, place: Sequence[int]) -> tuple[int, int]:
        """The image size at which the network's grid is `place`."""
        (stride,) = self.features.strides
        return place[0] * stride, place[1] * stride


def _cosines(u: Float[Tensor, "*n k h w"]) -> Float[Tensor, "*n i i"]:
    """cos(u_i, u_j) for all pairs of places."""
    unit = F.normalize(u.flatten(-2), dim=-2)
    return unit.transpose(-1, -2) @ unit
