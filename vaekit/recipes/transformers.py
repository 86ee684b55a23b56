"""Autoencoders made of transformers: `vit_vae` with a map of patches, `titok` with a row of tokens."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from vaekit.kinds import recipe
from vaekit.recipes.plain import DataRange, Latent
from vaekit.spec import Spec, term, use


class _Size(NamedTuple):
    width: int
    depth: int
    heads: int
    tokens: int


# the larger the network, the fewer tokens it needs
_TITOK: Mapping[str, _Size] = {
    "S": _Size(512, 8, 8, tokens=128),
    "B": _Size(768, 12, 12, tokens=64),
    "L": _Size(1024, 24, 16, tokens=32),
}


@recipe("titok", tags=("signal", "image", "volume", "attention", "codes"), cite=("yu2024b", "yu2022"))
def titok(
    *,
    size: Literal["S", "B", "L"] = "S",
    latent: Latent = 12,
    input_shape: Sequence[int] = (3, 256, 256),
    data_range: DataRange = (0.0, 1.0),
    tokens: int | None = None,
    patch: int | Sequence[int] | None = None,
    width: int | None = None,
    depth: int | None = None,
    heads: int | None = None,
    codebook_size: int = 4096,
    commitment: float = 0.25,
    checkpoint: bool = False,
) -> Spec:
    """TiTok: an image is a row of 32 to 128 codes, none of which belongs to a place in it.

    Codes and the encoder's outputs have length 1, and codes learn by gradient. Encoder and decoder have the same size:
    S has 8 blocks of width 512 and 128 tokens, B 12 of 768 and 64, L 24 of 1024 and 32.

    It trains in one stage, on the pixels themselves. The paper's models first learn to predict the codes of another
    tokenizer, whose decoder they then train further with perceptual and adversarial terms; such terms go in `loss`. To
    generate, fit a prior over the codes after training: `vae.fit_prior("autoregressive", data)`.

    Args:
        size: "S", "B" or "L".
        latent: channels of a code, or the whole row (c, K).
        input_shape: the data's shape, of any size.
        data_range: smallest and largest value of the data; None for unbounded data.
        tokens: K, where latent is an int; None takes the size's.
        patch: side of a patch; None takes the power of 2 that leaves at most 16 along the longest side, the paper's
            16 for images of 256.
        width: features of a token; None takes the size's.
        depth: blocks of the encoder, and of the decoder; None takes the size's.
        heads: of each attention; None takes the size's.
        codebook_size: number of codes.
        commitment: weight of the encoder's distance from its codes.
        checkpoint: in training, recompute each block for the gradient: slower, much less memory.

    Raises:
        ValueError: for another size, or tokens that contradict the latent.

    References:
        An Image is Worth 32 Tokens for Reconstruction and Generation (Yu et al., 2024),
        https://arxiv.org/abs/2406.07550; Vector-quantized Image Modeling with Improved VQGAN (Yu et al., 2022),
        https://arxiv.org/abs/2110.04627
    """
    if size not in _TITOK:
        raise ValueError(f"size: expected 'S', 'B' or 'L', got {size!r}.")
    preset = _TITOK[size]
    if isinstance(latent, int):
        latent = (latent, preset.tokens if tokens is None else tokens)
    elif tokens is not None and tuple(latent[1:]) != (tokens,):
        raise ValueError(f"tokens: {tokens} contradicts latent={tuple(latent)}. Leave one of them out.")
    network = {
        "width": preset.width if width is None else width,
        "depth": preset.depth if depth is None else depth,
        "heads": preset.heads if heads is None else heads,
        "positions": "learned",
        "checkpoint": checkpoint,
        **({} if patch is None else {"patch": patch}),
    }
    return Spec(
        "vae",
        "flat",
        {
            "input_shape": input_shape,
            "latent": latent,
            "data_range": data_range,
            "encoder": use("latent_query_vit", **network),
            "sampler": use("vq", codebook_size=codebook_size, learn="gradient", normalize=True),
            "prior": use("uniform"),
            "decoder": use("latent_query_vit", smooth=True, **network),
            "likelihood": use("gaussian", scale="learned"),
            "loss": (term("nll"), term("codebook"), term("commitment", weight=commitment)),
        },
    )


@recipe("vit_vae", tags=("signal", "image", "volume", "attention"), cite=("dosovitskiy2021", "yu2022"))
def vit_vae(
    *,
    latent: Latent = 16,
    input_shape: Sequence[int] = (3, 64, 64),
    width: int = 256,
    depth: int = 6,
    heads: int = 4,
    patch: int | Sequence[int] | None = None,
    checkpoint: bool = False,
) -> Spec:
    """A transformer over patches down, another one up, a Gaussian likelihood with a learned scale.

    Args:
        latent: a size, or a map `(c, *t)` of as many positions as there are patches.
        input_shape: the data's shape, with one to three spatial dimensions of any size.
        width: features of a token.
        depth: blocks of the encoder, and of the decoder.
        heads: of each attention.
        patch: side of a patch; None takes what makes the map, or for a vector the power of 2 that leaves at most 16
            along the longest side.
        checkpoint: in training, recompute each block for the gradient: slower, much less memory.

    References:
        An Image is Worth 16x16 Words (Dosovitskiy et al., 2021), https://arxiv.org/abs/2010.11929;
        Vector-quantized Image Modeling with Improved VQGAN (Yu et al., 2022), https://arxiv.org/abs/2110.04627
    """
    network = {
        "width": width,
        "depth": depth,
        "heads": heads,
        "norm": "rms",
        "qk_norm": True,
        "mlp": "swiglu",
        "checkpoint": checkpoint,
        **({} if patch is None else {"patch": patch}),
    }
    return Spec(
        "vae",
        "flat",
        {
            "input_shape": input_shape,
            "latent": latent,
            "encoder": use("vit", **network),
            "decoder": use("vit", smooth=True, **network),
            "likelihood": use("gaussian", scale="learned"),
            "loss": (term("nll"), term("kl")),
        },
    )
