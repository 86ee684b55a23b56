"""How much memory encoding and decoding take, whole and in tiles, from shapes alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vaekit.tiling.meter import measured, on_meta
from vaekit.tiling.plan import least_tile, make_plan, sizes
from vaekit.tiling.stages import chain


@dataclass(frozen=True)
class TileCost:
    """What a tile size costs.

    Args:
        tile: its side, as `encode` and `decode` take it.
        held: bytes held at most, beside inputs and weights.
        least: bytes that it can do with, given as `memory`, in more time.
        time: estimated computation, as a multiple of the untiled.
    """

    tile: int
    held: int
    least: int
    time: float


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes that encoding and decoding hold at most, beside inputs and weights, without gradients; printed as a table.

    Args:
        shape: of the data, with the batch.
        encode: bytes of the untiled encoder.
        decode: bytes of the untiled decoder.
        encode_tiles: tile sizes in pixels of the data, smallest first; empty where the encoder can't be tiled.
        decode_tiles: tile sizes in pixels of the latent.
    """

    shape: tuple[int, ...]
    encode: int
    decode: int
    encode_tiles: tuple[TileCost, ...] = ()
    decode_tiles: tuple[TileCost, ...] = ()

    def encode_tile(self, free: int) -> int | None:
        """The tile to encode with in `free` bytes; None where it needs none. Pass `memory=free` with it.

        Raises:
            ValueError: where no tile stays within them.
        """
        return _choose("encode", self.encode, self.encode_tiles, free)

    def decode_tile(self, free: int) -> int | None:
        """The tile to decode with in `free` bytes; None where it needs none. Pass `memory=free` with it.

        Raises:
            ValueError: where no tile stays within them.
        """
        return _choose("decode", self.decode, self.decode_tiles, free)

    def __str__(self) -> str:
        lines = [f"{'':8}{'tile':>8}{'held MB':>12}{'least MB':>12}{'time':>8}   for {tuple(self.shape)}"]
        for name, whole, tiles in (
            ("encode", self.encode, self.encode_tiles),
            ("decode", self.decode, self.decode_tiles),
        ):
            lines.append(f"{name:8}{'whole':>8}{whole / 1e6:12,.1f}{whole / 1e6:12,.1f}{1:8.1f}")
            lines += [f"{name:8}{t.tile:8}{t.held / 1e6:12,.1f}{t.least / 1e6:12,.1f}{t.time:8.1f}" for t in tiles]
        return "\n".join(lines)


def memory_plan(vae: Any, shape: Sequence[int]) -> MemoryPlan:
    """What encoding and decoding data of this shape will hold, whole and for tiles of several sizes.

    Nothing is computed: networks run on shapes. Attention is taken to run in a fused kernel.

    Args:
        vae: a model of images.
        shape: of the data, `(c, h, w)` or `(b, c, h, w)`; another size than the model's where its networks take any.

    Raises:
        ValueError: where the model does not take data of that shape.

    Example:
        >>> import vaekit
        >>> networks = {name: vaekit.use("kl_resnet", widths=(8, 16, 16), groups=4) for name in ("encoder", "decoder")}
        >>> vae = vaekit.build(latent=(4, 8, 8), input_shape=(3, 32, 32), **networks)
        >>> plan = memory_plan(vae, (3, 512, 512))
        >>> plan.decode_tile(free=10**9) is None, plan.decode_tile(free=plan.decode // 2) in (8, 16, 32, 64)
        (True, True)
    """
    shape = tuple(shape) if len(shape) > len(vae.input_shape) else (1, *shape)
    fits = shape[1:] == tuple(vae.input_shape) or (vae.any_size and shape[1] == vae.input_shape[0])
    if len(shape) != len(vae.input_shape) + 1 or not fits:
        raise ValueError(
            f"shape: expected data of shape (b, {', '.join(map(str, vae.input_shape))}), or of another size where the "
            f"model's networks take any; got {shape}."
        )
    encoder, decoder = vae.encoder, vae.decoder
    h, encode = measured(on_meta(encoder), _like(encoder, shape))
    place = h.shape[2:] if vae.any_size else vae.latent_shape[1:]
    latent = (shape[0], vae.latent_shape[0], *place)
    decode = measured(on_meta(decoder), _like(decoder, latent))[1]
    return MemoryPlan(
        shape, encode.peak, decode.peak, _tiles(encoder, _like(encoder, shape)), _tiles(decoder, _like(decoder, latent))
    )


def _like(network: nn.Module, shape: Sequence[int]) -> Tensor:
    weight = next(network.parameters(), None)
    return torch.empty(tuple(shape), dtype=None if weight is None else weight.dtype, device="meta")


def _tiles(network: nn.Module, x: Tensor) -> tuple[TileCost, ...]:
    try:
        chain(network)
    except ValueError:
        return ()
    of, found, tile = sizes(network, x), [], 8
    while tile < max(of.smallest):
        if tile >= least_tile(of):
            plan = make_plan(of, tile)
            found.append(TileCost(tile * of.factors[0], plan.peak, plan.least, plan.cost / of.cost))
        tile *= 2
    return tuple(found)


def _choose(name: str, whole: int, tiles: Sequence[TileCost], free: int) -> int | None:
    if whole <= free:
        return None
    if quick := [t for t in tiles if t.held <= free]:
        return min(quick, key=lambda t: t.time).tile
    if slow := [t for t in tiles if t.least <= free]:
        return max(slow, key=lambda t: t.tile).tile
    least = min([whole, *(t.least for t in tiles)])
    raise ValueError(
        f"free: {name} needs {least / 1e6:,.1f} MB at least, and {free / 1e6:,.1f} MB are free. Take a smaller batch, "
        "smaller images or half precision."
    )
