"""Normalisation by groups of channels, for any width."""

from torch import nn


def group_norm(channels: int, *, groups: int = 32, at_least: int = 4) -> nn.GroupNorm:
    """GroupNorm with the most groups, up to `groups`, that divide `channels` and hold `at_least` channels each.

    A group of one channel on a 1×1 map would be normalised to a constant; four channels keep the signal.
    """
    most = max(1, min(groups, channels // at_least))
    return nn.GroupNorm(next(g for g in range(most, 0, -1) if channels % g == 0), channels, eps=1e-6)
