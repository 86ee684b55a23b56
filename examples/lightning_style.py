"""vaekit inside a LightningModule: `training_step` returns the loss, `configure_optimizers` the optimizers.

    python examples/lightning_style.py         # with Lightning where it is installed, and by the loop below elsewhere

A VAE is one `torch.nn.Module`, so a LightningModule holds it as it holds any. A model with critics has several players,
which Lightning calls manual optimization: one backward pass, and a step of each.
"""

import argparse
import importlib.util
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import vaekit
from vaekit.train import digits

LIGHTNING = importlib.util.find_spec("lightning") is not None
if LIGHTNING:
    from lightning.pytorch import LightningModule, Trainer
else:

    class LightningModule(torch.nn.Module):
        """The part of Lightning's class that is used here."""

        automatic_optimization = True

        def log_dict(self, values: dict[str, Tensor], **how: Any) -> None:
            """Keep the last numbers."""
            self.logged = {**getattr(self, "logged", {}), **values}

        def optimizers(self) -> list[torch.optim.Optimizer]:
            """Those that `configure_optimizers` gave."""
            return self.held

        def manual_backward(self, loss: Tensor) -> None:
            """Without precision plugins, just this."""
            loss.backward()


class LitVAE(LightningModule):
    """Any model of vaekit.

    Args:
        vae: the model.
        lr: of all players.
    """

    def __init__(self, vae: vaekit.VAE, lr: float = 1e-3) -> None:
        super().__init__()
        self.vae, self.lr = vae, lr
        self.automatic_optimization = len(vae.players()) == 1

    def training_step(self, batch: list[Tensor], batch_index: int) -> Tensor | None:
        """The loss; with several players, all of their steps."""
        report = self.vae.loss(*self._taken(batch))
        self.log_dict({f"train/{name}": value for name, value in report.terms.items()})
        if self.automatic_optimization:
            return report.total
        optimizers = self.optimizers()
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.manual_backward(report.total)
        for optimizer in optimizers:
            optimizer.step()
        return None

    def validation_step(self, batch: list[Tensor], batch_index: int) -> None:
        """The same numbers, in evaluation mode and without gradients, which is Lightning's part."""
        report = self.vae.loss(*self._taken(batch))
        self.log_dict({f"val/{name}": value for name, value in report.terms.items()})

    def configure_optimizers(self) -> Any:
        """An optimizer for each player."""
        made = [torch.optim.Adam(weights, self.lr) for weights in self.vae.players().values()]
        return made[0] if len(made) == 1 else made

    def _taken(self, batch: list[Tensor]) -> list[Tensor]:
        """x, and the label where the model has a condition."""
        return batch[:1] if self.vae.condition is None else batch


def fit(module: LitVAE, train: Iterable[Any], val: Iterable[Any], epochs: int) -> dict[str, float]:
    """Lightning's Trainer, or what it comes down to; returns the last numbers."""
    if LIGHTNING:
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        trainer = Trainer(max_epochs=epochs, accelerator="cpu", **quiet)
        trainer.fit(module, train, val)
        return {name: float(value) for name, value in trainer.callback_metrics.items()}
    made = module.configure_optimizers()
    module.held = made if isinstance(made, list) else [made]
    for _ in range(epochs):
        module.train()
        for i, batch in enumerate(train):
            if (loss := module.training_step(batch, i)) is not None:
                module.held[0].zero_grad()
                loss.backward()
                module.held[0].step()
        module.eval()
        with torch.no_grad():
            for i, batch in enumerate(val):
                module.validation_step(batch, i)
    return {name: float(value) for name, value in module.logged.items()}


def main() -> None:
    """Train a plain model and one with a critic."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--tiny", action="store_true", help="a quick look")
    given = parser.parse_args()
    torch.manual_seed(0)
    train, val = (TensorDataset(*each) for each in digits())
    print("by Lightning" if LIGHTNING else "Lightning is not installed: by a loop of the same calls")
    for recipe in ("mlp", "adversarial_ae"):
        options = {"hidden": (64,)} if recipe == "mlp" else {}
        vae = vaekit.build(recipe, latent=4, input_shape=(1, 8, 8), **options)
        loaders = DataLoader(train, 100, shuffle=True), DataLoader(val, 297)
        told = fit(LitVAE(vae), *loaders, epochs=1 if given.tiny else given.epochs)
        print(f"{recipe}: " + ", ".join(f"{name} {value:.3f}" for name, value in sorted(told.items())))


if __name__ == "__main__":
    main()
