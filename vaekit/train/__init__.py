"""The optional Trainer; needs the extra `train`. A loop of one's own over `vae.loss(x)` does as well."""

from vaekit.train.datasets import digits as digits
from vaekit.train.datasets import mnist as mnist
from vaekit.train.history import History as History
from vaekit.train.trainer import Trainer as Trainer
