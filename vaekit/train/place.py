"""Where a run is."""

import math
from dataclasses import dataclass


@dataclass
class Place:
    """What a run has done, and where in the data it goes on."""

    step: int = 0
    phase: int = 0
    phase_epochs: int = 0  # epochs of the phase that are over
    phase_steps: int = 0
    epoch: int = 1  # the one in progress, over all phases
    batch: int = 0  # batches of it that are over
    seen: int = 0  # examples of it
    seconds: float = 0.0
    best: float = math.inf
