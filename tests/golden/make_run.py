"""The run that `run_0.1.0` holds, stopped in the middle of an epoch: `python -m tests.golden.make_run FOLDER [STEP]`.

With another version of vaekit the folder is named for that version, and test_train_faults goes on from all of them.
"""

import sys

import torch

import vaekit
from vaekit.train import Callback


class StopAt(Callback):
    """Stops after a step."""

    def __init__(self, step):
        self.step = step

    def logged(self, trainer, values):
        if trainer.step == self.step:
            trainer.stop()


def trainer(folder, step=None):
    torch.manual_seed(0)
    vae = vaekit.build("mlp", latent=1, input_shape=(3,), hidden=(4,))
    x = (torch.arange(60).reshape(20, 3) % 7) / 7
    return vaekit.Trainer(
        vae, x, x[:5], epochs=4, batch_size=8, ema=0.9, schedule="cosine", device="cpu", output_dir=folder, keep=1,
        log_every=1, callbacks=[StopAt(step)],
    )  # fmt: skip


if __name__ == "__main__":
    trainer(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 5).fit()
