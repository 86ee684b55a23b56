"""A VAE from scratch, where the code reads as the maths, and then the same one made of vaekit's parts.

    python examples/from_scratch.py --root DIR     # the folder with MNIST's IDX files

784-400-20 on MNIST: cross-entropy and KL, summed over an image and averaged over the batch; Adam with rate 1e-3. The
two models get the same weights and the same noise, and have to give the same loss and the same gradients. Then each is
trained, the first in a loop written out here, the second by the Trainer. Without `--root` it takes the small digits
that come with scikit-learn.
"""

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vaekit
from vaekit import plot
from vaekit.plot.figures import draw_rows
from vaekit.train import digits, mnist

# -- from scratch: torch, and nothing else -----------------------------------------------------------------------------


# --8<-- [start:model]
class ScratchVAE(nn.Module):
    """A latent z behind each image x, and two networks that go back and forth between them.

    p(z)   = N(0, I)
    p(x|z) = Π_i Bernoulli(x_i; sigmoid(y_i)),  y = decode(z)
    q(z|x) = N(μ, diag σ²),                     μ, log σ² = encode(x)
    """

    def __init__(self, pixels: int = 784, hidden: int = 400, latent: int = 20) -> None:
        super().__init__()
        self.to_hidden = nn.Linear(pixels, hidden)
        self.to_mean = nn.Linear(hidden, latent)
        self.to_log_variance = nn.Linear(hidden, latent)
        self.from_latent = nn.Linear(latent, hidden)
        self.to_logits = nn.Linear(hidden, pixels)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x → μ(x), log σ²(x)."""
        h = F.relu(self.to_hidden(x))
        return self.to_mean(h), self.to_log_variance(h)

    def decode(self, z: Tensor) -> Tensor:
        """z → y(z), the logits of the pixels."""
        return self.to_logits(F.relu(self.from_latent(z)))

    # --8<-- [end:model]
    # --8<-- [start:loss]
    def loss(self, x: Tensor) -> Tensor:
        """-ELBO = E_q[-log p(x|z)] + KL(q(z|x) ‖ p(z)), nats an image; one draw of z for E."""
        mean, log_variance = self.encode(x)
        # z = μ + σ ε with ε ~ N(0, I) is a draw of q(z|x) that μ and σ have a gradient through
        noise = torch.randn_like(mean)
        z = mean + (log_variance / 2).exp() * noise

        # -log p(x|z) = -Σ_i [x_i log sigmoid(y_i) + (1 - x_i) log(1 - sigmoid(y_i))]
        y = self.decode(z)
        cross_entropy = F.binary_cross_entropy_with_logits(y, x, reduction="none").sum(1)
        # KL = ½ Σ_d (μ_d² + σ_d² - 1 - log σ_d²)
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
        return (cross_entropy + kl).mean()

    # --8<-- [end:loss]
    @torch.no_grad()
    def sample(self, n: int) -> Tensor:
        """z ~ p(z), then the mean of p(x|z)."""
        return self.decode(torch.randn(n, self.to_mean.out_features)).sigmoid()


# --8<-- [start:train]
def train(model: ScratchVAE, x: Tensor, x_test: Tensor, epochs: int) -> None:
    """Adam on -ELBO, over all images in a new order each epoch; x: rows of pixels in [0, 1]."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for epoch in range(1, epochs + 1):
        for batch in torch.randperm(len(x)).split(128):
            loss = model.loss(x[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            bound = model.loss(x_test)
        print(f"from scratch, epoch {epoch:>2}: test -ELBO {bound:.2f} nats", flush=True)


# --8<-- [end:train]

# -- the same from parts -----------------------------------------------------------------------------------------------


# --8<-- [start:same]
def by_vaekits_names(scratch: ScratchVAE, of: Callable[[Any], Tensor]) -> dict[str, Tensor]:
    """What `of` gives for each parameter, its values or its gradient, by vaekit's names."""
    found = {}
    for key in ("weight", "bias"):
        found[f"encoder.body.layers.0.{key}"] = of(getattr(scratch.to_hidden, key))
        mean, log_variance = getattr(scratch.to_mean, key), getattr(scratch.to_log_variance, key)
        found[f"sampler.head.project.1.{key}"] = torch.cat([of(mean), of(log_variance)])
        found[f"decoder.body.layers.0.{key}"] = of(getattr(scratch.from_latent, key))
        found[f"decoder.out.{key}"] = of(getattr(scratch.to_logits, key))
    return found


def same_from_parts(scratch: ScratchVAE, shape: tuple[int, ...]) -> vaekit.VAE:
    """vaekit's MLP VAE with the weights of `scratch`."""
    hidden, latent = scratch.to_hidden.out_features, scratch.to_mean.out_features
    vae = vaekit.build("mlp", input_shape=shape, hidden=(hidden,), latent=latent)
    vae.load_state_dict(by_vaekits_names(scratch, lambda parameter: parameter.detach()))
    return vae


def assert_same(scratch: ScratchVAE, vae: vaekit.VAE, x: Tensor) -> None:
    """One loss and the same gradients, on a batch of images with the same noise."""
    torch.manual_seed(1)
    ours = scratch.loss(x.flatten(1))
    torch.manual_seed(1)  # the same ε
    theirs = vae.loss(x).total
    torch.testing.assert_close(theirs, ours)
    ours.backward()
    theirs.backward()
    gradients = by_vaekits_names(scratch, lambda parameter: parameter.grad)
    for name, gradient in gradients.items():
        torch.testing.assert_close(vae.get_parameter(name).grad, gradient)
    print(f"-ELBO of {len(x)} images: {ours:.4f} nats from scratch, {theirs:.4f} by vaekit")


# --8<-- [end:same]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default=os.environ.get("VAEKIT_DATA"), help="folder with MNIST's IDX files")
    parser.add_argument("--epochs", type=int, default=None, help="5 where left out")
    parser.add_argument("--output", default="from_scratch", help="folder for the pictures")
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--tiny", action="store_true", help="two epochs on a few small digits")
    sizes.add_argument("--full", action="store_true", help="100 epochs")
    given = parser.parse_args()
    given.epochs = given.epochs or (2 if given.tiny else 100 if given.full else 5)
    return given


def main() -> None:
    """Write it, compare it, train both, and draw what both make."""
    given = arguments()
    (x, _), (x_test, _) = mnist(given.root) if given.root and not given.tiny else digits()
    x, x_test = (each.float() / 255 if each.dtype == torch.uint8 else each for each in (x, x_test))
    x = x[:300] if given.tiny else x

    torch.manual_seed(0)
    scratch = ScratchVAE(x[0].numel())
    vae = same_from_parts(scratch, tuple(x.shape[1:]))
    assert_same(scratch, vae, x[:128])

    began = time.perf_counter()
    train(scratch, x.flatten(1), x_test.flatten(1), given.epochs)
    between = time.perf_counter()
    history = vaekit.Trainer(vae, x, x_test, epochs=given.epochs, batch_size=128, lr=1e-3, device="cpu").fit()
    for row in history.rows:
        print(f"vaekit, epoch {row['epoch']:>2}: test -ELBO {row['val/total']:.2f} nats")
    print(f"{between - began:.0f} s from scratch, {time.perf_counter() - between:.0f} s by the Trainer")

    output = Path(given.output)
    output.mkdir(parents=True, exist_ok=True)
    plot.reconstructions(vae, x_test[:12], columns=12, path=output / "reconstructions.png")
    made = torch.cat([scratch.sample(24).reshape(-1, *x.shape[1:]), vae.sample(24)])
    draw_rows(made.split(12), vae, names=["scratch", "", "vaekit", ""], path=output / "samples.png")
    print(f"pictures: {output}/")


if __name__ == "__main__":
    main()
