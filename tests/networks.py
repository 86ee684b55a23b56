"""Networks of a user, for tests of what any importable module can do."""

import torch
from torch import nn
from torch.distributions import Independent, Normal

from vaekit.kinds import Encoder, FittedPrior


class PlainEncoder(nn.Module):
    """A module that knows nothing of vaekit, with one argument."""

    def __init__(self, width: int = 8):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.LazyLinear(width), nn.ReLU())

    def forward(self, x):
        return self.layers(x)


class FixedEncoder(nn.Module):
    """The same without lazy layers."""

    def __init__(self, width: int = 8):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(36, width), nn.ReLU())

    def forward(self, x):
        return self.layers(x)


class WiredEncoder(Encoder):
    """A part that nobody registered."""

    def __init__(self, in_channels: int, *, width: int = 4):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, width, 3, stride=2)

    def forward(self, x, cond=None):
        return self.conv(x)


class DiagonalFit(FittedPrior):
    """A diagonal normal with the latents' mean and spread."""

    def __init__(self, latent_shape, *, smallest: float = 1e-3):
        super().__init__()
        self.smallest = smallest
        self.register_buffer("loc", torch.zeros(*latent_shape))
        self.register_buffer("scale", torch.ones(*latent_shape))

    def fit(self, z):
        self.loc.copy_(z.mean(0))
        self.scale.copy_(z.std(0).clamp_min(self.smallest))

    def forward(self, cond=None, *, posterior=None):
        return Independent(Normal(self.loc, self.scale), self.loc.ndim)
