"""How much examples of a batch differ, as one more channel, so that a critic sees a lack of variety."""

import torch
from jaxtyping import Float
from torch import Tensor

from vaekit.layers.precision import at_least_float32


def minibatch_std(x: Float[Tensor, "b c *s"], group: int = 4) -> Float[Tensor, "b c1 *s"]:
    """x with a channel more: the standard deviation over a group of examples, averaged over channels and places.

    Groups have the most examples, up to `group`, that divide the batch. Of m groups, the i-th example belongs to the
    one of number i mod m.

    References:
        Progressive Growing of GANs for Improved Quality, Stability, and Variation (Karras et al., 2018),
        https://arxiv.org/abs/1710.10196

    Example:
        >>> x = torch.tensor([[-1.0], [1.0]])
        >>> minibatch_std(x)
        tensor([[-1.,  1.],
                [ 1.,  1.]])
    """
    b = len(x)
    together = next((n for n in range(min(group, b), 0, -1) if b % n == 0), 1)
    groups = at_least_float32(x).reshape(together, b // together, -1)
    # 1e-8: the root has no gradient where all examples of a group are the same
    std = (groups.var(0, correction=0) + 1e-8).sqrt().mean(1)  # one number per group
    channel = std.to(x.dtype).repeat(together).reshape(b, *[1] * (x.ndim - 1)).expand(b, 1, *x.shape[2:])
    return torch.cat([x, channel], dim=1)
