"""The model of a run's folder."""

from pathlib import Path

import torch

from vaekit.build import load
from vaekit.saving import WEIGHTS, CheckpointError
from vaekit.vae import VAE


def saved_model(run: str | Path) -> Path:
    """Where the model of a run is: its best where there is one, the last otherwise; or a saved model's own folder.

    Raises:
        CheckpointError: where there is no folder, or no model in it.
    """
    folder = Path(run)
    if not folder.is_dir():
        raise CheckpointError(f"{run}: is no folder.")
    found = next((path for path in (folder / "best", folder / "last", folder) if (path / WEIGHTS).is_file()), None)
    if found is None:
        raise CheckpointError(f"{run}: holds no saved model, neither itself nor in best/ or last/.")
    return found


def trained(run: str | Path, device: str | torch.device = "cpu") -> VAE:
    """The model of a run, in evaluation mode.

    Args:
        run: the output_dir of a Trainer, or a saved model's folder.
        device: where the model goes.

    Raises:
        CheckpointError: where there is none, or it is damaged.
    """
    return load(saved_model(run), device=device).eval()
