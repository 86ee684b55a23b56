"""`kl_resnet` beside diffusers' AutoencoderKL: the same weights, the same numbers, what a pass costs.

Both get the same images, in blocks that take turns in one process; what is shown are medians over the turns of ours
over theirs, so that a machine that slows down slows both. On one thread the clock is the process's own, which leaves
out what others do on the machine.

    pip install diffusers
    python examples/benchmarks/images.py          # 10.6 M parameters, 4 images of 128×128
    python examples/benchmarks/images.py --tiny   # seconds, to see that it runs
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vaekit.decoders.kl_resnet import KLResNetDecoder
from vaekit.encoders.kl_resnet import KLResNetEncoder
from vaekit.interop import kl

Z = 4


def theirs(widths: tuple[int, ...], size: int) -> nn.Module:
    """AutoencoderKL with two residual blocks a level."""
    from diffusers import AutoencoderKL

    depth = len(widths)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * depth,
        up_block_types=("UpDecoderBlock2D",) * depth,
        block_out_channels=widths,
        layers_per_block=2,
        latent_channels=Z,
        sample_size=size,
    )


def ours(model: Any, widths: tuple[int, ...], size: int) -> tuple[nn.Module, nn.Module]:
    """The same network, with the same weights."""
    latent, data = (Z, *[size >> (len(widths) - 1)] * 2), (3, size, size)
    encoder = KLResNetEncoder(data, latent, widths=widths, out_channels=2 * Z, quant_conv=True)
    decoder = KLResNetDecoder(latent, data, widths=widths, post_quant_conv=True)
    weights = kl.to_ours(model.state_dict())
    for name, network in (("encoder.", encoder), ("decoder.", decoder)):
        network.load_state_dict({k.removeprefix(name): v for k, v in weights.items() if k.startswith(name)})
    return encoder, decoder


def step(encode: Callable[[Tensor], Tensor], decode: Callable[[Tensor], Tensor], x: Tensor, of: list[Tensor]) -> None:
    """A training step's passes: encode, draw, decode, absolute error and KL, backward."""
    for parameter in of:
        parameter.grad = None
    mean, log_variance = encode(x).chunk(2, 1)
    z = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
    kl_term = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum()
    ((decode(z) - x).abs().sum() + 1e-6 * kl_term).backward()


def timed(
    pair: Mapping[str, Callable[[], object]], turns: int, clock: Callable[[], float]
) -> tuple[float, list[float]]:
    """Median over the turns of the first's time over the second's, and both medians in milliseconds."""
    seconds: dict[str, list[float]] = {name: [] for name in pair}
    for run in pair.values():
        run()
    for turn in range(turns):
        for name in list(pair)[:: 1 if turn % 2 else -1]:  # who goes first takes turns as well
            start = clock()
            pair[name]()
            seconds[name].append(clock() - start)
    a, b = seconds.values()
    return statistics.median(x / y for x, y in zip(a, b, strict=True)), [1e3 * statistics.median(s) for s in (a, b)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="a small network and few turns, to see that it runs")
    parser.add_argument("--turns", type=int, default=11)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    widths, size, batch = ((32, 64), 32, 2) if args.tiny else ((64, 128, 128, 192), 128, 4)
    turns = 3 if args.tiny else args.turns
    clock = time.process_time if args.threads == 1 else time.perf_counter
    model: Any = theirs(widths, size)
    encoder, decoder = ours(model, widths, size)
    parameters = [*encoder.parameters(), *decoder.parameters()]
    print(f"{sum(p.numel() for p in parameters) / 1e6:.1f} M parameters, {batch} images of {size}×{size}, "
          f"{args.threads} thread(s), torch {torch.__version__}")  # fmt: skip
    for layout in (torch.contiguous_format, torch.channels_last):
        model = model.to(memory_format=layout)
        x = (2 * torch.rand(batch, 3, size, size) - 1).contiguous(memory_format=layout)
        with torch.no_grad():
            h, y = model._encode(x), model.decode(z := torch.randn_like(encoder(x)[:, :Z])).sample
            apart = [float((a - b).abs().max() / b.abs().max()) for a, b in ((encoder(x), h), (decoder(z), y))]
        print(f"diffusers in {str(layout).removeprefix('torch.')}: largest difference {apart[0]:.1e}, {apart[1]:.1e}")

        def both(step_of: Callable[..., object], x: Tensor = x, z: Tensor = z, model: Any = model) -> dict[str, Any]:
            return {
                "ours": lambda: step_of(encoder, decoder, x, z, parameters),
                "theirs": lambda: step_of(
                    model._encode, lambda z: model.decode(z).sample, x, z, list(model.parameters())
                ),
            }

        with torch.inference_mode():
            show("encode", timed(both(lambda e, d, x, z, ps: e(x)), turns, clock))
            show("decode", timed(both(lambda e, d, x, z, ps: d(z)), turns, clock))
            show("forward", timed(both(lambda e, d, x, z, ps: d(e(x)[:, :Z])), turns, clock))
        show("train step", timed(both(lambda e, d, x, z, ps: step(e, d, x, ps)), turns, clock))


def show(name: str, result: tuple[float, list[float]]) -> None:
    """One line of the table."""
    ratio, (a, b) = result
    print(f"  {name:12} {ratio:5.2f} × theirs   ({a:7.1f} ms, {b:7.1f} ms)", flush=True)


if __name__ == "__main__":
    main()
