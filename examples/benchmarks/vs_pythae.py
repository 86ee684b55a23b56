"""vaekit beside pythae: the same losses step by step, where pythae is wrong, and what a training step costs.

1. Parity. Both start from pythae's weights (784-512-10, its default network) and see the same batches and noise. The
   loss of every step is compared, so that gradients and updates have to agree as well.
2. Oracles. What pythae's objectives return beside what their papers define, by torch.distributions and autograd.
3. Time of a training step, ours over theirs, in blocks that take turns in one process, on one thread.

    pip install pythae==0.1.2                           # brings a `dataclasses` of Python 3.6, which nothing here reads
    python examples/benchmarks/vs_pythae.py --root DIR  # the folder with MNIST's IDX files; random images without it
"""

import argparse
import contextlib
import importlib.util
import io
import logging
import math
import os
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from time import process_time as clock  # one thread and no waiting: what others do on the machine is left out
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Independent, Normal, kl_divergence
from torch.nn.utils import parametrize

import vaekit
from vaekit import term, use
from vaekit.layers.aggregate import Aggregate
from vaekit.objective import ImportanceWeighted, TrainStep
from vaekit.records import Level, Output
from vaekit.train import mnist
from vaekit.train.history import Meter

SHAPE, LATENT, RATE = (1, 28, 28), 10, 1e-3
COMPONENTS, BETA, MMD_WEIGHT = 50, 4.0, 100.0  # pythae's 0.03 for the MMD would not show in the sum
SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)  # both libraries' default


# -- the same model twice ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    """A model of pythae and the slots of the vaekit model with the same loss."""

    name: str
    settings: dict[str, Any]
    slots: dict[str, Any]

    def make(self, dtype: torch.dtype = torch.float32) -> tuple[Any, vaekit.VAE]:
        """Both, with pythae's initial weights."""
        theirs = pythae_model(self.name, **self.settings).to(dtype)
        ours = vaekit.build("mlp", latent=LATENT, input_shape=SHAPE, hidden=(512,), **self.slots).to(dtype)
        copy_weights(theirs, ours)
        return theirs, ours


# The arithmetic between the scales, per example. s is the sigmoid that ends pythae's decoder and the mean of our
# bernoulli, whose nll is computed from the logits.
#   VAE, "bce"       Σ bce(s, x) + KL                   =  nll + kl
#   BetaVAE, "mse"   ½ Σ (s - x)² + β KL                =  ½ mse + β kl    our mse is the sum without the ½
#   WAE_MMD          Σ (s - x)² + λ MMD²                =  mse + λ mmd     its sum has no ½ either
#   VAMP, "bce"      Σ bce(s, x) + log q(z|x) - log p(z)  =  nll + kl      by the drawn z in both; theirs leaves the
#                                                                          2π out of both densities, where it cancels
PAIRS = [
    Pair("VAE", {"reconstruction_loss": "bce"}, {}),
    Pair(
        "BetaVAE",
        {"reconstruction_loss": "mse", "beta": BETA},
        {"loss": [term("mse", weight=0.5), term("kl", weight=BETA)]},
    ),
    Pair(
        "WAE_MMD",
        {"kernel_choice": "imq", "reg_weight": MMD_WEIGHT},
        {"sampler": "dirac", "loss": [term("mse"), term("mmd", weight=MMD_WEIGHT, kernel="imq", scales=SCALES)]},
    ),
    Pair(
        "VAMP",
        {"reconstruction_loss": "bce", "number_components": COMPONENTS},
        {"prior": use("vamp", components=COMPONENTS)},
    ),
]


def pythae_model(name: str, **settings: Any) -> Any:
    """A model of pythae by the name of its class, on its default networks."""
    import pythae.models

    config = getattr(pythae.models, f"{name}_Config" if "_" in name else f"{name}Config")
    return getattr(pythae.models, name)(config(input_dim=SHAPE, latent_dim=LATENT, **settings))


@torch.no_grad()
def copy_weights(theirs: Any, ours: Any) -> None:
    """pythae's weights into the vaekit model; of its two heads, the mean's rows come first in our one."""
    for source, target in (
        (theirs.encoder.layers[0][0], ours.encoder.body.layers[0]),
        (theirs.decoder.layers[0][0], ours.decoder.body.layers[0]),
        (theirs.decoder.layers[1][0], ours.decoder.out),
    ):
        target.load_state_dict(source.state_dict())
    heads = [getattr(theirs.encoder, name) for name in ("embedding", "log_var") if hasattr(theirs.encoder, name)]
    head = ours.sampler.head.project[1]
    head.weight.copy_(torch.cat([layer.weight for layer in heads]))
    head.bias.copy_(torch.cat([layer.bias for layer in heads]))


class ClippedSum(nn.Module):
    """pythae's pseudo-inputs, Hardtanh(W e_k + b): here w_k + b, clipped to [0, 1]."""

    def __init__(self, bias: Tensor) -> None:
        super().__init__()
        self.bias = nn.Parameter(bias)

    def forward(self, free: Tensor) -> Tensor:
        """u_k."""
        return (free + self.bias).clamp(0, 1)


def same_pseudo_inputs(theirs: Any, ours: Any) -> None:
    """Train vaekit's pseudo-inputs by pythae's parameters.

    vaekit maps free numbers into the data range by a sigmoid, which does not reach the zeros and ones that Hardtanh
    clips to. `parametrize` puts pythae's map in the sigmoid's place, for parity only; times are those of the sigmoid.
    """
    theirs.idle_input = theirs.idle_input.to(theirs.pseudo_inputs[0].weight.dtype)  # an attribute that .to() misses
    linear, prior = theirs.pseudo_inputs[0], ours.prior
    prior.data_range = None
    prior.free.data = linear.weight.detach().T.reshape(-1, *SHAPE).clone()
    parametrize.register_parametrization(prior, "free", ClippedSum(linear.bias.detach().reshape(SHAPE).clone()))


# -- 1. parity ---------------------------------------------------------------------------------------------------------


def parity(pair: Pair, batches: Iterable[Tensor], dtype: torch.dtype) -> tuple[float, float, float]:
    """Largest relative difference of the losses over all steps, and pythae's first and last loss."""
    torch.manual_seed(0)
    theirs, ours = pair.make(dtype)
    if pair.name == "VAMP":
        same_pseudo_inputs(theirs, ours)
    optimizers = [torch.optim.Adam(model.parameters(), RATE) for model in (theirs, ours)]
    losses: list[list[float]] = []
    for seed, batch in enumerate(batches):
        x, row = batch.to(dtype), []
        for optimizer, loss in zip(
            optimizers, (lambda x: theirs({"data": x}).loss, lambda x: ours.loss(x).total), strict=True
        ):
            torch.manual_seed(seed)  # randn_like and Normal.rsample draw the same numbers
            value = loss(x)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            row.append(value.item())
        losses.append(row)
    return max(abs(b - a) / abs(a) for a, b in losses), losses[0][0], losses[-1][0]


# -- 2. oracles --------------------------------------------------------------------------------------------------------

Row = tuple[str, str, str, str]  # what, as it should be, pythae, vaekit


def warmed_up(name: str, batches: Iterable[Tensor], **settings: Any) -> Any:
    """A model of pythae in float64 with the weights of its VAE after a few steps: weights 1/K say nothing."""
    torch.manual_seed(0)
    vae = pythae_model("VAE", reconstruction_loss="bce")
    optimizer = torch.optim.Adam(vae.parameters(), RATE)
    for x in batches:
        optimizer.zero_grad()
        vae({"data": x}).loss.backward()
        optimizer.step()
    model = pythae_model(name, reconstruction_loss="bce", **settings)
    model.load_state_dict(vae.state_dict())
    return model.double()


def as_output(model: Any, x: Tensor) -> tuple[float, Output]:
    """pythae's loss, and its draws as our record: z (m, k, b, d)."""
    seen: list[Any] = []
    inner = model.loss_function
    model.loss_function = lambda *given: seen.append(given) or inner(*given)
    loss = model({"data": x}).loss.item()
    recon, _, mean, log_variance, z = (t if t.ndim != 3 else t[:, None] for t in seen[0])  # (b, m, k, …)
    q = Independent(Normal(mean[:, 0, 0], (0.5 * log_variance[:, 0, 0]).exp()), 1, validate_args=False)
    p = Independent(Normal(torch.zeros(z.shape[-1]).to(z), torch.ones(z.shape[-1]).to(z)), 1, validate_args=False)
    recon = recon.movedim(0, 2)
    p_x = Independent(Bernoulli(recon, validate_args=False), 1, validate_args=False)
    return loss, Output(x.flatten(1), recon, p_x, (Level(z.movedim(0, 2), q, p),))


def importance_weighted(name: str, batches: Iterable[Tensor], x: Tensor, **settings: int) -> Row:
    """MIWAE or IWAE with 64 draws in one bound, on pythae's own draws.

    MIWAE normalises the weights over the M bounds in place of the K draws, which makes M=1 the plain ELBO. IWAE returns
    Σ w log w, which has the gradient of log Σ w / K and another value: too good by log K less the weights' entropy.
    """
    model = warmed_up(name, batches, number_samples=64, **settings)
    torch.manual_seed(1)
    got, out = as_output(model, x.double())
    (level,) = out.levels
    assert level.q is not None and level.p is not None
    log_w = out.p_x.log_prob(out.x) + level.p.log_prob(level.z) - level.q.log_prob(level.z)  # (m, k, b)
    bound = (log_w.logsumexp(1) - math.log(log_w.shape[1])).mean()
    terms = {"nll": vaekit.loss["nll"](), "kl": vaekit.loss["kl"]()}
    ours = ImportanceWeighted(terms, dict.fromkeys(terms, 1.0), k=log_w.shape[1], m=log_w.shape[0])(out).total
    return (
        "MIWAE, M=1, K=64: the loss" if name == "MIWAE" else "IWAE, K=64: the loss",
        f"-bound {-bound:.4f} (-ELBO {-log_w.mean():.4f})",
        f"{got:.4f}",
        f"{ours:.4f}",
    )


def shares(gradient: Iterable[Tensor], parts: list[Iterable[Tensor]]) -> str:
    """The numbers a, b with gradient = a · first part + b · second, by least squares, and what that leaves."""
    y, columns = flat(gradient), torch.stack([flat(part) for part in parts], 1)
    found = torch.linalg.lstsq(columns, y[:, None]).solution[:, 0]
    left = (y - columns @ found).norm() / y.norm()
    a, b = (round(share, 3) + 0.0 for share in found.tolist())  # no -0.0
    return f"{a:g}, {b:g}" + (f" (leaves {left:.0e})" if left > 1e-6 else "")


def flat(tensors: Iterable[Tensor]) -> Tensor:
    """All numbers of all tensors, in one vector; float64, since two gradients may differ much in size."""
    return torch.cat([t.flatten() for t in tensors]).double()


def their_step(trainer: str, out: Any, players: dict[str, nn.Module]) -> None:
    """pythae's own update, which fills .grad; the rates are zero, so that nothing moves."""
    import pythae.trainers

    optimizers = {f"{name}_optimizer": torch.optim.SGD(net.parameters(), lr=0.0) for name, net in players.items()}
    getattr(pythae.trainers, trainer)._optimizers_step(SimpleNamespace(**optimizers), out)


def their_shares(trainer: str, out: Any, players: dict[str, nn.Module], looked_at: nn.Module, parts: list[str]) -> str:
    """The shares of two losses in a player's gradient at the moment when pythae's trainer steps."""
    weights = list(looked_at.parameters())
    each: list[Any] = [torch.autograd.grad(out[part], weights, retain_graph=True) for part in parts]
    their_step(trainer, out, players)
    return shares([w.grad for w in weights if w.grad is not None], each)


def our_shares(vae: Any, x: Tensor, parts: Callable[[], list[Tensor]]) -> str:
    """The same for the gradient that `vae.loss` gives the encoder; `parts` sees the same noise."""
    weights = list(vae.encoder.parameters())
    torch.manual_seed(1)
    gradient = torch.autograd.grad(vae.loss(x).total, weights)
    torch.manual_seed(1)
    each: list[Any] = [torch.autograd.grad(part, weights, retain_graph=True) for part in parts()]
    return shares(gradient, each)


def piwae(x: Tensor) -> Row:
    """Which bounds the encoder of PIWAE learns from: from MIWAE's, while the decoder learns from IWAE's."""
    model = pythae_model("PIWAE", reconstruction_loss="bce", number_gradient_estimates=4, number_samples=8).double()
    players = {"encoder": model.encoder, "decoder": model.decoder}
    out = model({"data": x})
    theirs = their_shares("CoupledOptimizerTrainer", out, players, model.encoder, ["encoder_loss", "decoder_loss"])

    objective = use("importance_weighted", m=4, k=8, partial=True)
    vae = vaekit.build("mlp", latent=LATENT, input_shape=SHAPE, hidden=(512,), objective=objective).double()

    def bounds() -> list[Tensor]:
        log_w = vae(x, sample_shape=(4, 8)).log_weight()
        return [-log_w.logsumexp(1).mean(), -log_w.flatten(0, 1).logsumexp(0).mean()]

    return "PIWAE: shares of MIWAE, IWAE in the encoder's gradient", "1, 0", theirs, our_shares(vae, x, bounds)


def factor_vae(x: Tensor) -> Row:
    """Whether the encoder of FactorVAE learns from what its critic minimises."""
    model = pythae_model("FactorVAE", reconstruction_loss="bce").double()
    players = {"autoencoder": nn.ModuleList([model.encoder, model.decoder]), "discriminator": model.discriminator}
    out, names = model({"data": x}), ["autoencoder_loss", "discriminator_loss"]
    theirs = their_shares("AdversarialTrainer", out, players, model.encoder, names)

    terms = {"nll": 1.0, "kl": 1.0, "factor_tc": 2.0}
    vae: Any = vaekit.build("mlp", latent=LATENT, input_shape=SHAPE, hidden=(512,), loss=terms).double()

    def losses() -> list[Tensor]:
        out = vae(x)
        (level,) = out.levels
        logits = vae.objective.terms["factor_tc"].critic(level.z)[0]
        model_loss = kl_divergence(level.q, level.p) - out.p_x.log_prob(x) + 2 * (logits[:, 0] - logits[:, 1])
        return [model_loss.mean(), -0.5 * logits.log_softmax(1)[:, 0].mean()]

    return "FactorVAE: shares of model, critic in the encoder's gradient", "1, 0", theirs, our_shares(vae, x, losses)


def vae_gan(x: Tensor) -> Row:
    """The sign with which the decoder of VAEGAN feels the discriminator's loss, which it should raise."""
    model = pythae_model("VAEGAN", adversarial_loss_scale=0.5)
    players = {"encoder": model.encoder, "decoder": model.decoder, "discriminator": model.discriminator}
    out = model({"data": x.float()})  # its labels are float32
    if not (out.update_decoder and out.update_discriminator):
        raise RuntimeError("one of the players rests on this batch; choose another")
    names = ["recon_loss", "discriminator_loss"]
    theirs = their_shares("CoupledOptimizerAdversarialTrainer", out, players, model.decoder, names)
    return "VAEGAN: shares of features, discriminator in the decoder's", "0.5, -0.5", theirs, "–"


def info_vae(x: Tensor) -> Row:
    """The weight of the MMD, read off what the default InfoVAE returns."""
    out = pythae_model("INFOVAE_MMD").double()({"data": x})
    weight = (out.loss - out.recon_loss - out.reg_loss) / out.mmd_loss
    return "InfoVAE, default arguments: weight of the MMD", "> 0", f"{weight:.3f}", "–"


def batch_of_one(name: str, x: Tensor, slots: dict[str, Any], **settings: Any) -> Row:
    """What becomes of the last batch where one example is left over."""
    ours = vaekit.build("mlp", latent=LATENT, input_shape=SHAPE, **slots).double()
    model = pythae_model(name, **settings).double()
    found = []
    for loss in (lambda: model({"data": x[:1]}, dataset_size=len(x)).loss, lambda: ours.loss(x[:1]).total):
        try:
            found.append(f"{loss().item():.4g}")
        except (ZeroDivisionError, ValueError) as error:
            found.append(f"{type(error).__name__}: {error}")
    return f"{name}, batch of one", "a number, or an error that says why", found[0], found[1]


def stratified(x: Tensor) -> Row:
    """For how many examples of a batch q(z) weighs their own posterior by 1/N, as stratified sampling asks."""
    n, b = 1000, len(x)
    theirs = pythae_model("BetaTCVAE", use_mss=True)._log_importance_weight_matrix(b, n).diagonal()
    ours = Aggregate("tc", "mss", n)(torch.eye(b).log())  # the other posteriors are 0
    right = [int((log_weight.exp() - 1 / n).abs().lt(1e-6).sum()) for log_weight in (theirs, ours)]
    return f"BetaTCVAE, N={n}, batch {b}: own weight is 1/N for", f"{b}", f"{right[0]}", f"{right[1]}"


def likelihood(x: Tensor) -> Row:
    """How many draws an estimate of log p(x) takes when one is asked for."""
    theirs, ours = PAIRS[0].make(torch.float64)
    rows: list[int] = []
    for decoder in (theirs.decoder, ours.decoder):
        decoder.register_forward_hook(lambda module, given, out: rows.append(len(given[0])))
    with torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):
        value = theirs.get_nll(x[:1], n_samples=1)
    ours.log_prob(x[:1], n=1)
    what = "likelihood of an image, n_samples=1: draws decoded"
    return what, "1", f"{rows[0]} (and `get_nll` is {value:.0f}, a log-likelihood)", f"{rows[1]}"


# -- 3. time -----------------------------------------------------------------------------------------------------------


def their_block(model: Any, batches: list[Tensor], optimizer: torch.optim.Optimizer) -> float:
    """Seconds per step of what BaseTrainer.train_step does with a batch."""
    began, total = clock(), 0.0
    for x in batches:
        loss = model({"data": x}, epoch=1, dataset_size=len(x) * len(batches), uses_ddp=False).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
        if total != total:
            raise ArithmeticError("NaN detected in train loss")
    return (clock() - began) / len(batches)


def our_block(model: vaekit.VAE, batches: list[Tensor], optimizer: torch.optim.Optimizer) -> float:
    """Seconds per step of what vaekit.Trainer does with a batch; it looks at the loss every 50 steps."""
    step, meter, began = TrainStep(model), Meter(), clock()
    for i, x in enumerate(batches, 1):
        optimizer.zero_grad()
        report = step(x)
        report.total.backward()
        optimizer.step()
        meter.add({"total": report.total.detach(), **report.terms}, len(x))
        if (i % 50 == 0 or i == len(batches)) and not all(map(math.isfinite, meter.read().values())):
            raise FloatingPointError("not finite")
    return (clock() - began) / len(batches)


def step_times(pair: Pair, batches: list[Tensor], rounds: int) -> list[list[float]]:
    """Rounds of seconds per step: pythae, vaekit with the same Adam, vaekit with the fused Adam of its Trainer."""
    torch.manual_seed(0)
    (theirs, same), (_, own) = pair.make(), pair.make()
    turns: list[Callable[[list[Tensor]], float]] = []
    for block, model, fused in ((their_block, theirs, False), (our_block, same, False), (our_block, own, True)):
        optimizer = torch.optim.Adam(model.parameters(), RATE, fused=fused)
        turns.append(partial(block, model, optimizer=optimizer))
    for turn in turns:
        turn(batches[:3])  # first steps allocate
    return [[turn(batches) for turn in turns] for _ in range(rounds)]


def trainer_times(x: Tensor, size: int, rounds: int) -> list[list[float]]:
    """The same by the libraries' own trainers on the MLP VAE: set-up, loading of data and one epoch."""
    from pythae.data.datasets import BaseDataset
    from pythae.trainers import BaseTrainer, BaseTrainerConfig
    from pythae.trainers.training_callbacks import CallbackHandler

    (theirs, ours), rows, steps = PAIRS[0].make(), [], math.ceil(len(x) / size)
    for _ in range(rounds):
        began = clock()
        settings = BaseTrainerConfig(per_device_train_batch_size=size, learning_rate=RATE, no_cuda=True)
        trainer = BaseTrainer(theirs, BaseDataset(x, torch.zeros(len(x))), training_config=settings)
        trainer.set_optimizer()
        trainer.callback_handler = CallbackHandler([], trainer.model)  # without its progress bars
        trainer.train_step(1)
        between = clock()
        vaekit.Trainer(ours, x, epochs=1, batch_size=size, lr=RATE, device="cpu", progress=False).fit()
        rows.append([(between - began) / steps, (clock() - between) / steps])
    return rows


# -- the tables --------------------------------------------------------------------------------------------------------


def table(*rows: Iterable[str]) -> None:
    """A Markdown table whose first row is the heading."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    print(lines[0], "|" + "---|" * (lines[0].count("|") - 1), *lines[1:], sep="\n", end="\n\n", flush=True)


def median(rows: list[list[float]], of: Callable[[list[float]], float]) -> float:
    """The median over rounds of a number of each."""
    return statistics.median(map(of, rows))


def main() -> None:
    """Print the three tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default=os.environ.get("VAEKIT_DATA"), help="folder with MNIST's IDX files")
    parser.add_argument("--steps", type=int, default=50, help="of the parity run, and of a block of the timed ones")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--tiny", action="store_true", help="a quick look that says nothing about speed")
    given = parser.parse_args()
    if importlib.util.find_spec("pythae") is None:
        print("pythae is not installed, so there is nothing to compare: pip install pythae==0.1.2")
        return
    if given.tiny:
        given.steps, given.rounds, given.batch = 3, 2, 16
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)  # pythae writes to the console through its own handlers

    torch.manual_seed(0)
    count = 4 * given.steps * given.batch
    images = mnist(given.root)[0][0] if given.root else torch.randint(256, (count, *SHAPE), dtype=torch.uint8)
    x = images[torch.randperm(len(images))[:count]].float() / 255
    batches = list(x.split(given.batch))[: given.steps]
    print(f"{'MNIST' if given.root else 'random images (no --root given)'}, batch {given.batch}, one thread\n")

    results = {pair.name: [parity(pair, batches, dtype) for dtype in (torch.float32, torch.float64)] for pair in PAIRS}
    table(
        ("model", "loss, first step", f"step {len(batches)}", "largest relative difference", "in float64"),
        *((name, f"{a[1]:.3f}", f"{a[2]:.3f}", f"{a[0]:.1e}", f"{b[0]:.1e}") for name, (a, b) in results.items()),
    )

    few = x[: min(given.batch, 32)].double()
    torch.manual_seed(0)
    rows = [
        importance_weighted("MIWAE", batches, few, number_gradient_estimates=1),
        importance_weighted("IWAE", batches, few),
        *(show(few) for show in (piwae, factor_vae, vae_gan, info_vae, stratified)),
        batch_of_one("BetaTCVAE", few, {"loss": ["nll", "kl", "tc"]}, use_mss=True),
        batch_of_one("WAE_MMD", few, {"sampler": "dirac", "loss": ["mse", "mmd"]}),
        likelihood(few),
    ]
    table(("what", "should be", f"pythae {version('pythae')}", "vaekit"), *rows)

    lines = []
    for pair in PAIRS:
        times = step_times(pair, batches, given.rounds)
        theirs, same, own = (f"{median(times, lambda row, i=i: row[i]) * 1e3:.2f}" for i in range(3))
        ratios = [f"{median(times, lambda row, i=i: row[i] / row[0]):.3f}" for i in (1, 2)]
        lines.append((pair.name, theirs, same, own, *ratios))
    whole = x if given.tiny else images.float() / 255  # an epoch proper, so that setting up weighs what it does in use
    times = trainer_times(whole, given.batch, max(given.rounds // 3, 1))
    theirs, own = (f"{median(times, lambda row, i=i: row[i]) * 1e3:.2f}" for i in range(2))
    lines.append(("VAE, by the trainers", theirs, "", own, "", f"{median(times, lambda row: row[1] / row[0]):.3f}"))
    heading = ("ms per step", "pythae", "vaekit, same Adam", "vaekit, its fused Adam", "ratio, same Adam", "ratio")
    table(heading, *lines)

    worst = max(run[0] for (run, _) in results.values())
    if worst > 1e-4:
        raise SystemExit(f"parity: a loss differs by {worst:.1e}, and 1e-4 is the limit")


if __name__ == "__main__":
    main()
