"""`kl_resnet` beside diffusers' AutoencoderKL, and a step against a critic beside LDM's formula for it.

The same weights, the same numbers, what a pass costs. Both get the same images, in blocks that take turns in one
process; what is shown are medians over the turns of ours over theirs, so that a machine that slows down slows both. On
one thread the clock is the process's own, which leaves out what others do on the machine.

The step with a critic is |x - x̂| + LPIPS + 1e-6 KL + w g, with LDM's balanced weight w, and the critic's own loss, with
both optimizers. "LDM's formula" does it in one function: encode, decode, LPIPS, the critic on x̂, the gradients of both
at the last layer for w, backward, the critic on x and x̂. "LDM's training_step" is as that repository runs it, once for
each optimizer: encoding, decoding and LPIPS twice. Networks are the same modules in all three.

    pip install diffusers lpips
    python examples/benchmarks/images.py                 # 10.6 M parameters, 4 images of 128×128
    python examples/benchmarks/images.py --only game     # the step with a critic alone
    python examples/benchmarks/images.py --tiny          # seconds, to see that it runs
"""

import argparse
import copy
import os
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import vaekit
from vaekit import term
from vaekit.decoders.kl_resnet import KLResNetDecoder
from vaekit.encoders.kl_resnet import KLResNetEncoder
from vaekit.interop import kl
from vaekit.layers.torchvision_weights import filled
from vaekit.weights import gradient_balanced

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


class Game:
    """A model, its critic and their optimizers, and three ways to take the same step with them."""

    def __init__(self, vae: Any, lpips: nn.Module) -> None:
        self.vae, self.lpips = vae, lpips
        self.critic: Any = vae.objective.terms["adversarial"].critic
        self.optimizers = [torch.optim.Adam(p, lr=4.5e-6, betas=(0.5, 0.9)) for p in vae.players().values()]

    def ours(self, x: Tensor) -> dict[str, Tensor]:
        """One backward pass for both players."""
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        report = self.vae.loss(x)
        report.total.backward()
        for optimizer in self.optimizers:
            optimizer.step()
        return {**report.terms, "weight": report.weights["adversarial"]}

    def formula(self, x: Tensor, *, calls: int = 1) -> dict[str, Tensor]:
        """LDM's loss as it is written: a backward pass for each gradient that it names."""
        of_vae, of_critic = self.optimizers
        y, kl_term, l1, perceptual = self._passes(x)
        nll = (l1 + perceptual).sum() / len(x)  # LPIPS is added to the error of every value
        self.critic.requires_grad_(False)
        g = -self.critic(y)[0].mean()
        last = self.vae.decoder.conv_out.weight
        pulls = [torch.autograd.grad(loss, last, retain_graph=True)[0].norm() for loss in (nll, g)]
        weight = 0.5 * (pulls[0] / (pulls[1] + 1e-4)).clamp(0, 1e4).detach()
        of_vae.zero_grad()
        (nll + 1e-6 * kl_term + weight * g).backward()
        of_vae.step()
        self.critic.requires_grad_(True)
        if calls == 2:  # the critic's turn begins with the whole loss again
            y, _, again, more = self._passes(x)
            (again + more).sum()
        real, fake = self.critic(x)[0], self.critic(y.detach())[0]
        told = 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())
        of_critic.zero_grad()
        told.backward()
        of_critic.step()
        terms = {"l1": l1.sum() / len(x), "lpips": perceptual.mean(), "kl": kl_term, "adversarial": g}
        return {**terms, "adversarial_critic": told, "weight": weight}

    def _passes(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mean, log_variance = self.vae.encoder(x).chunk(2, 1)
        z = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        kl_term = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum() / len(x)
        y = self.vae.decoder(z)
        return y, kl_term, (x - y).abs(), self.lpips(x, y)


def games(widths: tuple[int, ...], size: int, weights: str) -> tuple[Game, Game, Game]:
    """The same model three times: AutoencoderKL's networks, LPIPS and a patch critic of balanced weight."""
    vae = vaekit.build(
        "ldm_kl_f8",
        input_shape=(3, size, size),
        widths=widths,
        loss=[
            term("l1"),
            term("lpips", weight=3 * size * size, weights=weights),
            term("kl", weight=1e-6),
            term("adversarial", critic="patchgan", weight=gradient_balanced(0.5)),
        ],
    )
    critic: Any = vae.objective.terms["adversarial"].critic
    with torch.no_grad():
        critic.main[-1].weight.mul_(1e3)  # an untrained critic pulls so little that the weight would be at its bound
    lpips = the_package(weights)
    return Game(vae, lpips), Game(copy.deepcopy(vae), lpips), Game(copy.deepcopy(vae), lpips)


def the_package(weights: str) -> nn.Module:
    """LPIPS of the package lpips, VGG16 filled as ours is."""
    import lpips

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision on the package's way to ask for a network
        model = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)
    state = filled("vgg16", weights).state_dict()
    model.net.load_state_dict({key: state[key.partition(".")[2]] for key in model.net.state_dict()})
    return model.eval().requires_grad_(False)


def multiplied(run: Callable[[], object]) -> float:
    """Products in a run, in billions: what a machine's mood does not change."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / 2e9


def difference(a: list[nn.Parameter], b: list[nn.Parameter]) -> float:
    """Of the gradients of two players: the norm of the difference over the norm."""
    ours, theirs = (torch.cat([p.grad.flatten() for p in player if p.grad is not None]) for player in (a, b))
    return float((ours - theirs).norm() / theirs.norm())


def play(args: argparse.Namespace, widths: tuple[int, ...], x: Tensor, turns: int, clock: Callable[[], float]) -> None:
    """The step with a critic: the same numbers first, then the times."""
    own, formula, published = games(widths, x.shape[-1], args.weights)
    torch.manual_seed(1)
    a = own.ours(x)
    torch.manual_seed(1)
    b = formula.formula(x)
    apart = max(float(((a[name] - b[name]).abs() / b[name].abs()).detach()) for name in b)
    off = max(map(difference, own.vae.players().values(), formula.vae.players().values()))
    print(f"step with a critic: largest relative difference of terms {apart:.1e}, of gradients {off:.1e}; "
          f"LPIPS {float(b['lpips'].detach()):.3f}, balanced weight {float(b['weight']):.1f}")  # fmt: skip
    if not (apart < 1e-3 and off < 1e-3):
        raise SystemExit("the two do not compute the same")
    ways = {"LDM's formula": lambda: formula.formula(x), "LDM's training_step": lambda: published.formula(x, calls=2)}
    products = {name: multiplied(way) for name, way in {"ours": lambda: own.ours(x), **ways}.items()}
    print("  10⁹ products of convolutions and matrices: " +
          ", ".join(f"{name} {n:.0f} ({products['ours'] / n:.2f})" for name, n in products.items()))  # fmt: skip
    for name, way in ways.items():
        show(name, timed({"ours": lambda: own.ours(x), "theirs": way}, turns, clock))


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


def found() -> str:
    """VGG16's weights in the folder that VAEKIT_WEIGHTS names; "random" where there are none."""
    files = sorted(Path(os.environ.get("VAEKIT_WEIGHTS", ".")).glob("*vgg16*.safetensors"))
    return str(files[0]) if files else "random"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="a small network and few turns, to see that it runs")
    parser.add_argument("--turns", type=int, default=11)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=["networks", "game"], help="one of the two parts")
    parser.add_argument("--weights", default=found(), help="VGG16's weights, a file; random ones cost the same")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    widths, size, batch = ((32, 64), 32, 2) if args.tiny else ((64, 128, 128, 192), 128, 4)
    turns = 3 if args.tiny else args.turns
    clock = time.process_time if args.threads == 1 else time.perf_counter
    if args.only != "networks":
        play(args, widths, 2 * torch.rand(batch, 3, size, size) - 1, turns, clock)
    if args.only == "game":
        return
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
    print(f"  {name:20} {ratio:5.2f} × theirs   ({a:7.1f} ms, {b:7.1f} ms)", flush=True)


if __name__ == "__main__":
    main()
