"""Networks on maps too large to be computed at once."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from vaekit.kinds import Encoder
from vaekit.layers.strided import check_image
from vaekit.tiling.blended import run_blended
from vaekit.tiling.exact import run_exact
from vaekit.tiling.plan import least_tile, make_plan, sizes
from vaekit.tiling.stages import chain, check_modes


def run_tiled(
    network: nn.Module,
    x: Tensor,
    tile: int,
    *,
    size: Sequence[int] | None = None,
    exact: bool = True,
    memory: int | None = None,
) -> Tensor:
    """network(x) for an encoder or a decoder, in tiles, without gradients.

    Args:
        network: "kl_resnet", "tiny", "dc", or one whose stages are registered with `vaekit.tiling.chain`.
        x: data, or latents, `(b, c, h, w)` of any size that the network takes.
        tile: side of a tile in pixels of x; an image's is rounded down to a multiple of the network's stride. A map
            no larger than a tile is computed as a whole.
        size: of a decoder's image, as its forward takes it.
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
        return network(x) if size is None else network(x, size=size)
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
        return run_blended(network, x, of, small, memory, size)
    return run_exact(network, x, of, make_plan(of, small, memory), small, size)


def in_tiles(tile: int, *, exact: bool = True, memory: int | None = None) -> Callable[..., Tensor]:
    """(network, x) → `run_tiled(network, x, tile)`: what `vae.encode` and `vae.decode` run their network by."""

    def run(
        network: nn.Module, x: Tensor, tokens: Tensor | None = None, *, size: Sequence[int] | None = None
    ) -> Tensor:
        if tokens is not None:
            raise ValueError(
                f"tile: {type(network).__name__} reads a condition, which tiles are not given. Leave out tile, or use "
                "'kl_resnet', 'tiny' or 'dc'."
            )
        return run_tiled(network, x, tile, size=size, exact=exact, memory=memory)

    return run
