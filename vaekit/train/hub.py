"""Checkpoints on the Hugging Face hub."""

import warnings
from typing import Any

from vaekit.train.callbacks import Callback


class PushToHub(Callback):
    """Uploads the model every few epochs, and at the end of the run, with a card that says how to load it.

    The moving average, where there is one. An upload that fails warns, and training goes on; the next one tries again.

    Args:
        repo_id: "user/name"; made where it does not exist.
        every: epochs between two uploads; None: only at the end.
        private: whether a new repository is private.
        token: access token; None takes the one that `hf auth login` stored.

    Raises:
        ValueError: where `every` < 1.
    """

    def __init__(
        self, repo_id: str, *, every: int | None = None, private: bool = False, token: str | None = None
    ) -> None:
        if every is not None and every < 1:
            raise ValueError(f"PushToHub: every should be at least 1, got {every}.")
        self.repo_id, self.every, self.private, self.token = repo_id, every, private, token
        self._epoch, self._pushed = 0, -1

    def begin(self, trainer: Any) -> None:
        """Look whether the model can be written down at all.

        Raises:
            BuildError: naming the slot that can't.
        """
        trainer.model._written()

    def epoch(self, trainer: Any, row: dict[str, float]) -> None:
        """Upload, if it is time to."""
        self._epoch = int(row["epoch"])
        if self.every is not None and self._epoch % self.every == 0:
            self._push(trainer)

    def end(self, trainer: Any) -> None:
        """Upload what was not."""
        if self._epoch > 0 and trainer.step != self._pushed:
            self._push(trainer)

    def _push(self, trainer: Any) -> None:
        try:
            trainer.model.push_to_hub(self.repo_id, private=self.private, token=self.token)
            self._pushed = trainer.step
        except Exception as error:  # the hub's client has many; whatever it is, a run is worth more than an upload
            told = str(error).split("\n")[0]
            warnings.warn(
                f"PushToHub: {self.repo_id}: the upload failed, and training goes on: {type(error).__name__}: {told}",
                stacklevel=2,
            )
