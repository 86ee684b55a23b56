"""A decoder of 1024² images in tiles: error, memory and time beside the untiled pass, and diffusers' tiles beside ours.

Memory is the most bytes of tensors alive at once, counted from the operations, beside weights and the latent. Time is
the process's own. Weights are random, and the same for both. Errors are relative to each library's own untiled pass;
`off` is ours to the untiled pass in double precision.

    pip install diffusers
    python examples/benchmarks/tiling.py          # widths 64-128-256-256, latent 128×128×4: minutes
    python examples/benchmarks/tiling.py --tiny   # seconds, to see that it runs
"""

import argparse
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from vaekit.decoders.kl_resnet import KLResNetDecoder
from vaekit.interop import kl
from vaekit.tiling import Meter, run_tiled


def theirs(widths: tuple[int, ...], size: int) -> Any:
    """AutoencoderKL with one residual block a level, two in the decoder."""
    from diffusers import AutoencoderKL

    depth = len(widths)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * depth,
        up_block_types=("UpDecoderBlock2D",) * depth,
        block_out_channels=widths,
        layers_per_block=1,
        latent_channels=4,
        sample_size=size // 2,  # the side of its tiles
    ).eval()


def ours(model: nn.Module | None, widths: tuple[int, ...], latent: int) -> KLResNetDecoder:
    """The same decoder, with the same weights where there are some."""
    size = latent << (len(widths) - 1)
    shapes = (4, latent, latent), (3, size, size)
    decoder = KLResNetDecoder(*shapes, widths=widths, layers=1, post_quant_conv=True)
    if model is not None:
        weights = kl.to_ours(model.state_dict())
        decoder.load_state_dict({k.removeprefix("decoder."): v for k, v in weights.items() if k.startswith("decoder.")})
    return decoder.eval()


def measured(run: Callable[[], Tensor]) -> tuple[Tensor, int, float]:
    """A run's result, its peak of bytes and its seconds."""
    with Meter() as meter:
        start = time.process_time()
        y = run()
        seconds = time.process_time() - start
    return y, meter.peak, seconds


def error(y: Tensor, wanted: Tensor) -> float:
    """Norm of the difference over the norm."""
    return float((y.double() - wanted.double()).norm() / wanted.double().norm())


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a small network and map")
    parser.add_argument("--tiles", type=int, nargs="+", default=None, help="sides of tiles, in pixels of the latent")
    parser.add_argument("--double", action="store_true", help="compare with double precision as well")
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    widths, latent = ((32, 32, 64), 32) if args.tiny else ((64, 128, 256, 256), 128)
    tiles = args.tiles or ([8] if args.tiny else [16, 32])
    z = torch.randn(1, 4, latent, latent)
    model = theirs(widths, latent << (len(widths) - 1)) if find_spec("diffusers") else None
    decoder = ours(model, widths, latent)

    true = decoder.double()(z.double()) if args.double else None
    decoder.float()
    print(f"{'':30}{'error':>10}{'MB':>9}{'memory':>8}{'time':>7}" + ("       off" if args.double else ""))

    def show(name: str, found: tuple[Tensor, int, float], whole: tuple[Tensor, int, float]) -> None:
        line = f"{name:30}{error(found[0], whole[0]):10.1e}{found[1] / 1e6:9,.0f}{found[1] / whole[1]:8.0%}"
        line += f"{found[2] / whole[2]:7.2f}"
        print(line + ("" if true is None else f"{error(found[0], true):10.1e}"), flush=True)

    whole = measured(lambda: decoder(z))
    show("vaekit, untiled", whole, whole)
    for tile in tiles:
        show(f"vaekit, exact, {tile}", measured(lambda tile=tile: run_tiled(decoder, z, tile)), whole)
    fast = latent // 2
    show(f"vaekit, blended, {fast}", measured(lambda: run_tiled(decoder, z, fast, exact=False)), whole)
    if model is not None:
        whole = measured(lambda: model.decode(z).sample)
        show("diffusers, untiled", whole, whole)
        model.enable_tiling()
        show(f"diffusers, tiled, {fast}", measured(lambda: model.decode(z).sample), whole)


if __name__ == "__main__":
    main()
