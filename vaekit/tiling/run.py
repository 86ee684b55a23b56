"""Networks and models on maps too large to be computed at once."""

from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from vaekit.kinds import Encoder
from vaekit.layers.precision import at_least_float32
from vaekit.layers.strided import check_image
from vaekit.records import Level, fold, unfold
from vaekit.tiling.blended import run_blended
from vaekit.tiling.exact import run_exact
from vaekit.tiling.plan import least_tile, make_plan, sizes
from vaekit.tiling.stages import chain, check_modes


def run_tiled(network: nn.Module, x: Tensor, tile: int, *, exact: bool = True, memory: int | None = None) -> Tensor:
    """network(x) for an encoder or a decoder, in tiles, without gradients.

    Args:
        network: "kl_resnet", "tiny", "dc", or one whose stages are registered with `vaekit.tiling.chain`.
        x: data, or latents, `(b, c, h, w)` of any size that the network takes.
        tile: side of a tile in pixels of x; an image's is rounded down to a multiple of the network's stride. A map
            no larger than a tile is computed as a whole.
        exact: the numbers of network(x), but for rounding. Else tiles that overlap by a quarter are blended: each is
            computed once, with norms and attention of its own, so that colours differ from tile to tile.
        memory: bytes to stay within, beside x and the weights; with more of them more maps are held, and less is
            computed again. None for about a third of what the untiled pass holds, or the least that the tile allows.

    Raises:
        ValueError: where gradients are on, tiles are smaller than what layers read around them, the network's stages
            are not known, or the memory is not enough.

    Example:
        >>> import torch, vaekit
        >>> decoder = vaekit.decoder["kl_resnet"]((4, 8, 8), (3, 32, 32), widths=(8, 16, 16), groups=4)
        >>> z = torch.randn(1, 4, 21, 30)
        >>> with torch.inference_mode():
        ...     torch.allclose(run_tiled(decoder, z, tile=8), decoder(z), atol=1e-5)
        True
    """
    if not isinstance(tile, int) or isinstance(tile, bool) or tile < 1:
        raise ValueError(f"tile: expected a whole number of pixels, at least 1; got {tile!r}.")
    chain(network)  # a network that has no stages is refused whatever the size
    check_modes(network)
    if max(x.shape[2:]) <= tile:
        return network(x)
    if isinstance(network, Encoder):
        check_image(x.shape[2:], getattr(network, "stride", 1))
    of = sizes(network, x)
    small, least = tile // of.factors[0], least_tile(of)
    if small < (least if exact else max(least, 4)):
        raise ValueError(
            f"tile: expected at least {(least if exact else max(least, 4)) * of.factors[0]} for this network, whose "
            f"layers read that far around a tile; got {tile}. Use a larger tile."
        )
    if not exact:
        return run_blended(network, x, of, small, memory)
    return run_exact(network, x, of, make_plan(of, small, memory), small)


def decode_tiled(
    vae: Any, z: Tensor, tile: int, *, exact: bool = True, cond: Any = None, memory: int | None = None
) -> Tensor:
    """`vae.decode(z, cond)` in tiles: the mean of p(x|z), `(*n, b, *input_shape)`.

    Args:
        vae: a model whose decoder can be tiled.
        z: latents, `(*n, b, *latent_shape)`.
        tile: side of a tile in pixels of the latent.
        exact: the numbers of `vae.decode`, but for rounding; else blended, see `run_tiled`.
        cond: what the condition takes.
        memory: bytes to stay within, see `run_tiled`.

    Raises:
        ValueError: where the decoder can't be tiled, or the tile or the memory is too small.
    """
    vae._check_latent(z)
    vae._embed(cond, z.shape[-len(vae.latent_shape) - 1])
    for transform in vae.transforms:
        if getattr(transform, "always", False):
            z, _ = transform(z, None)
    folded, lead = fold(z, len(vae.latent_shape))
    y = run_tiled(vae.decoder, _like_weights(vae.decoder, folded), tile, exact=exact, memory=memory)
    return vae.likelihood(unfold(at_least_float32(y), lead)).mean


def encode_tiled(
    vae: Any, x: Tensor, tile: int, n: int = 1, *, exact: bool = True, cond: Any = None, memory: int | None = None
) -> Level:
    """`vae.encode(x, n, cond)` in tiles: q(z|x), p(z) and n draws.

    Args:
        vae: a model whose encoder can be tiled.
        x: data, `(b, *input_shape)`.
        tile: side of a tile in pixels of x.
        n: draws per example; z is `(b, *latent)` for one and `(n, b, *latent)` for more.
        exact: the numbers of `vae.encode`, but for rounding; else blended, see `run_tiled`.
        cond: what the condition takes.
        memory: bytes to stay within, see `run_tiled`.

    Raises:
        ValueError: where the encoder can't be tiled, or the tile or the memory is too small.
    """
    x = vae.check(x)
    tokens = vae._embed(cond, len(x))
    h = run_tiled(vae.encoder, _like_weights(vae.encoder, x), tile, exact=exact, memory=memory)
    level = vae.sampler(h, () if n == 1 else (n,), log_joint=partial(vae._log_joint, x, tokens))
    return replace(level, p=vae._prior_of(level, tokens))


def _like_weights(network: nn.Module, x: Tensor) -> Tensor:
    weight = next(network.parameters(), None)
    return x if weight is None else x.to(weight.dtype)
