"""The aggregate posterior q(z) = E_x q(z|x), estimated from one batch."""

import math
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from vaekit.records import Level

Estimator: TypeAlias = Literal["mws", "mss"]


class Aggregate:
    """log q(z_i) from log q(z_i|x_j), where z_i was drawn from q(z|x_i) and j runs over the batch.

        "mws"   minibatch weighted sampling:   log 1/(N b) Σ_j q(z_i|x_j)
        "mss"   minibatch stratified sampling: log (1/N q(z_i|x_i) + (N-1)/(N (b-1)) Σ_{j≠i} q(z_i|x_j))

    N is the number of training examples. Inside the logarithm, the second one is right on average over batches.
    Without N the batch counts as all data, and both are log 1/b Σ_j q(z_i|x_j). The paper gives one of the other
    examples another weight than the rest, which adds noise; here it is spread over all of them, with the same mean.

    Args:
        name: the loss's name, for messages.
        estimator: see above.
        dataset_size: N, or None.

    Raises:
        ValueError: where the estimator is unknown or N is below 2; at a call, for a batch of one example.
    """

    def __init__(self, name: str, estimator: Estimator, dataset_size: int | None) -> None:
        if estimator not in ("mws", "mss"):
            raise ValueError(f"estimator: expected 'mws' or 'mss', got {estimator!r}.")
        if dataset_size is not None and dataset_size < 2:
            raise ValueError(
                f"dataset_size: expected the number of training examples, at least 2, or None; got {dataset_size}."
            )
        self.name, self.estimator, self.dataset_size = name, estimator, dataset_size

    def __call__(self, pairs: Tensor) -> Tensor:
        """`(…, i, j)` values of log q(z_i|x_j) → `(…, i)` values of log q(z_i), nats."""
        batch = pairs.shape[-1]
        if batch < 2:
            raise ValueError(
                f"{self.name}: needs a batch of at least 2 examples to know q(z), got {batch}. Drop the last batch."
            )
        size = self.dataset_size
        if size is None or self.estimator == "mws":
            return pairs.logsumexp(-1) - math.log(batch if size is None else size * batch)
        own = torch.eye(batch, dtype=torch.bool, device=pairs.device)
        others = math.log((size - 1) / (size * (batch - 1)))
        return torch.where(own, pairs - math.log(size), pairs + others).logsumexp(-1)


def log_pairs(level: Level) -> Tensor:
    """log q(z_i|x_j), `(*n, i, j)` nats."""
    assert level.q is not None
    return level.q.log_prob(_against_all(level.z, level.q))


def log_pairs_by_dimension(level: Level) -> Tensor:
    """log q(z_id|x_j) of each latent dimension d, `(d, *n, i, j)` nats."""
    q = level.q
    assert isinstance(q, Independent)
    each = q.base_dist.log_prob(_against_all(level.z, q))
    return each.flatten(-len(q.event_shape)).movedim(-1, 0)


def _against_all(z: Tensor, q: Distribution) -> Tensor:
    """`(*n, i, *latent)` → `(*n, i, 1, *latent)`, which meets q's own batch in the place of the 1."""
    return z.unsqueeze(-1 - len(q.event_shape))


def require_density(name: str, level: Level) -> None:
    """Refuse a level whose q(z|x) can't be evaluated at the draws of other examples.

    Raises:
        ValueError: saying what fits.
    """
    if level.q is None or level.log_q is not None or level.index is not None:
        raise ValueError(
            f"{name} needs a density q(z|x) of continuous z that can be evaluated anywhere, and this sampler has none. "
            "Use a sampler such as 'gaussian'."
        )


def factorises(level: Level) -> bool:
    """Whether q(z|x) is known to be a product over latent dimensions."""
    return isinstance(level.q, Independent) and not level.q.base_dist.event_shape
