"""Plain VAEs named for their network: `mlp`, `conv`, `resnet`, `unet_attn`."""

from collections.abc import Sequence
from typing import Any

from vaekit.kinds import recipe
from vaekit.spec import Spec, term, use

Latent = int | Sequence[int]


@recipe("mlp", tags=("tabular", "signal", "image", "volume"), cite="kingma2014")
def mlp(
    *, latent: Latent = 20, input_shape: Sequence[int] = (1, 28, 28), hidden: Sequence[int] = (400,), act: str = "relu"
) -> Spec:
    """The first VAE of every course: 784-400-20 on MNIST, cross-entropy + KL.

    Args:
        latent: the latent's size.
        input_shape: the data's shape, of any rank.
        hidden: widths of the encoder's hidden layers; the decoder has them the other way round.
        act: activation after each hidden layer.

    References:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2014), https://arxiv.org/abs/1312.6114
    """
    return Spec(
        "vae",
        "flat",
        {
            "input_shape": input_shape,
            "latent": latent,
            "encoder": use("mlp", hidden=hidden, act=act),
            "decoder": use("mlp", hidden=tuple(reversed(hidden)), act=act),
            "likelihood": "bernoulli",
            "loss": (term("nll"), term("kl")),
        },
    )


@recipe("conv", tags=("signal", "image", "volume"))
def conv(
    *,
    latent: Latent = 16,
    input_shape: Sequence[int] = (3, 64, 64),
    width: int = 32,
    depth: int | None = None,
) -> Spec:
    """Strided convolutions down, upsampling convolutions up, a Gaussian likelihood with a learned scale.

    Args:
        latent: a size, or a map `(c, *t)` that fixes the depth.
        input_shape: the data's shape, with one to three spatial dimensions of any size.
        width: channels at full size.
        depth: halvings for a vector latent; None halves until the longest side is at most 4.
    """
    return _symmetric("conv", latent, input_shape, width=width, depth=depth)


@recipe("resnet", tags=("signal", "image", "volume"), cite="he2016")
def resnet(
    *,
    latent: Latent = 16,
    input_shape: Sequence[int] = (3, 64, 64),
    width: int = 32,
    depth: int | None = None,
    blocks: int = 1,
) -> Spec:
    """Residual blocks at every size, down and up, a Gaussian likelihood with a learned scale.

    Args:
        latent: a size, or a map `(c, *t)` that fixes the depth.
        input_shape: the data's shape, with one to three spatial dimensions of any size.
        width: channels at full size.
        depth: halvings for a vector latent; None halves until the longest side is at most 4.
        blocks: residual blocks at each size.

    References:
        Identity Mappings in Deep Residual Networks (He et al., 2016), https://arxiv.org/abs/1603.05027
    """
    return _symmetric("resnet", latent, input_shape, width=width, depth=depth, blocks=blocks)


@recipe("unet_attn", tags=("signal", "image", "volume", "attention"), cite="rombach2022")
def unet_attn(
    *,
    latent: Latent = 16,
    input_shape: Sequence[int] = (3, 64, 64),
    width: int = 64,
    depth: int | None = None,
    blocks: int = 2,
    attention: int | Sequence[int] = 16,
    heads: int = 4,
) -> Spec:
    """A U-Net-like VAE: down, mid and up blocks with attention; the up blocks cross-attend to tokens of z.

    Args:
        latent: a size, or a map `(c, *t)` that fixes the depth.
        input_shape: the data's shape, with one to three spatial dimensions of any size.
        width: channels at full size; doubled at each halving, up to 4 times.
        depth: halvings for a vector latent; None halves until the longest side is at most 4.
        blocks: residual blocks in each down and up block.
        attention: longest side up to which maps attend to themselves, or the sides at which they do.
        heads: heads of every attention.

    References:
        High-Resolution Image Synthesis with Latent Diffusion Models (Rombach et al., 2022),
        https://arxiv.org/abs/2112.10752
    """
    args: dict[str, Any] = {"width": width, "depth": depth, "blocks": blocks, "attention": attention, "heads": heads}
    return _symmetric("unet_attn", latent, input_shape, **args)


def _symmetric(network: str, latent: Latent, input_shape: Sequence[int], **args: Any) -> Spec:
    args = {key: value for key, value in args.items() if value is not None}
    return Spec(
        "vae",
        "flat",
        {
            "input_shape": input_shape,
            "latent": latent,
            "encoder": use(network, **args),
            "decoder": use(network, **args),
            "likelihood": use("gaussian", scale="learned"),
            "loss": (term("nll"), term("kl")),
        },
    )
