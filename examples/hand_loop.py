"""A training loop of one's own: nothing of the Trainer, and no more than torch and `vae.loss(x)`.

    python examples/hand_loop.py               # scikit-learn's digits, in about ten seconds
    python examples/hand_loop.py --gan         # the same with a critic: two players, one backward pass

The report's total is for `backward`; its terms are detached, in nats per example, and stay on the device until somebody
reads them. Schedules inside the model (KL ramps, the start of a game) count the calls of `vae.loss` in training mode.
"""

import argparse

import torch

import vaekit
from vaekit.train import digits


def build(*, gan: bool) -> vaekit.VAE:
    """The model: with a critic on request, whose term comes after a while."""
    kl = vaekit.term("kl", weight=vaekit.ramp(0, 1, steps=100))
    loss = ["nll", kl]
    if gan:
        loss.append(vaekit.term("adversarial", weight=1.0, critic=vaekit.use("mlp", hidden=(64,)), start=50))
    return vaekit.build("mlp", latent=4, input_shape=(1, 8, 8), hidden=(64,), loss=loss)


def train(vae: vaekit.VAE, x: torch.Tensor, *, epochs: int, batch_size: int = 100) -> None:
    """Each player has an optimizer; one backward pass gives all of them their gradients, each its own alone."""
    optimizers = [torch.optim.Adam(weights, 1e-3) for weights in vae.players().values()]
    vae.train()
    for _ in range(epochs):
        for index in torch.randperm(len(x)).split(batch_size):
            for optimizer in optimizers:
                optimizer.zero_grad()
            report = vae.loss(x[index])
            report.total.backward()
            for optimizer in optimizers:
                optimizer.step()
        told = ", ".join(f"{name} {value:.2f}" for name, value in report.terms.items())
    print(f"last batch: {told}")


def main() -> None:
    """Train, and look at the bound on unseen digits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--gan", action="store_true", help="with a critic")
    parser.add_argument("--tiny", action="store_true", help="a quick look")
    given = parser.parse_args()
    torch.manual_seed(0)
    (x, _), (unseen, _) = digits()
    vae = build(gan=given.gan)
    with torch.no_grad():
        before = float(vae.elbo(unseen).mean())
    train(vae, x, epochs=2 if given.tiny else given.epochs)
    vae.eval()
    with torch.no_grad():
        after = float(vae.elbo(unseen).mean())
    print(f"ELBO of unseen digits: {before:.1f} nats before, {after:.1f} after")


if __name__ == "__main__":
    main()
