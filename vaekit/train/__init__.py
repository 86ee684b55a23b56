"""The optional Trainer; needs the extra `train`. A loop of one's own over `vae.loss(x)` does as well."""

from vaekit.train.callbacks import Callback as Callback
from vaekit.train.callbacks import EarlyStop as EarlyStop
from vaekit.train.callbacks import Metrics as Metrics
from vaekit.train.datasets import digits as digits
from vaekit.train.datasets import mnist as mnist
from vaekit.train.frames import LatentScatter as LatentScatter
from vaekit.train.frames import LatentTraversal as LatentTraversal
from vaekit.train.frames import ReconstructionGrid as ReconstructionGrid
from vaekit.train.frames import Samples as Samples
from vaekit.train.history import History as History
from vaekit.train.hub import PushToHub as PushToHub
from vaekit.train.rates import find_lr as find_lr
from vaekit.train.trackers import tracker as tracker
from vaekit.train.trainer import Trainer as Trainer
