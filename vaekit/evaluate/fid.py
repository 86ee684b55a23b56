"""Distances between two sets of images, in the features of a network: FID, KID, precision and recall."""

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from vaekit.evaluate.examples import Examples, Unavailable, reconstructed
from vaekit.evaluate.extractors import Extractor
from vaekit.vae import VAE


class Moments:
    """Mean and covariance of features that come in batches, in double precision.

    Batches are merged by their own means (Chan et al., 1983), so that no large squares are subtracted, and the result
    does not depend on how the features are cut.

    Example:
        >>> import torch
        >>> x, moments = torch.randn(100, 3), Moments()
        >>> for part in x.split(7):
        ...     moments.add(part)
        >>> torch.allclose(moments.covariance, x.double().T.cov())
        True
    """

    def __init__(self) -> None:
        self.count = 0
        self._mean, self._scatter = torch.zeros(0), torch.zeros(0)

    def add(self, features: Tensor) -> None:
        """Take in features `(b, d)`."""
        if len(features) == 0:
            return
        x = features.detach().double()
        mean = x.mean(0)
        centred = x - mean
        scatter = centred.T @ centred
        if self.count == 0:
            self.count, self._mean, self._scatter = len(x), mean, scatter
            return
        total, step = self.count + len(x), mean - self._mean
        self._scatter = self._scatter + scatter + torch.outer(step, step) * (self.count * len(x) / total)
        self._mean, self.count = self._mean + step * (len(x) / total), total

    @property
    def mean(self) -> Tensor:
        """(d,)."""
        return self._mean

    @property
    def covariance(self) -> Tensor:
        """`(d, d)`, over count - 1.

        Raises:
            ValueError: for fewer than two features.
        """
        if self.count < 2:
            raise Unavailable(f"covariance: needs at least 2 examples, got {self.count}.")
        return self._scatter / (self.count - 1)


def frechet(a: Moments, b: Moments) -> float:
    """‖μ_a - μ_b‖² + Tr(Σ_a + Σ_b - 2 (Σ_a Σ_b)^½): the squared 2-Wasserstein distance of two Gaussians.

    Tr (Σ_a Σ_b)^½ is the sum of the singular values of Σ_a^½ Σ_b^½. With fewer examples than features Σ_a Σ_b is
    singular, where a matrix root of it may fail or turn complex; the two roots are of symmetric matrices, always there.

    Computed from samples it is biased upwards, the more the fewer there are: compare numbers from equally many.

    References:
        GANs Trained by a Two Time-Scale Update Rule (Heusel et al., 2017; FID), https://arxiv.org/abs/1706.08500
    """
    covariance_a, covariance_b = a.covariance, b.covariance
    cross = torch.linalg.svdvals(_root(covariance_a) @ _root(covariance_b)).sum()
    spread = covariance_a.trace() + covariance_b.trace() - 2 * cross
    return max(0.0, float((a.mean - b.mean).square().sum() + spread))


def kernel_distance(a: Tensor, b: Tensor, *, block: int = 1024) -> tuple[float, float]:
    """KID: the unbiased squared MMD of features under k(u, v) = (u·v/d + 1)³, and its standard error.

    The U-statistic over all pairs, not a mean over random subsets: no seed, and the least variance of the unbiased
    estimates. The error is that of its linear part, 4 Var(h_a)/n + 4 Var(h_b)/m, h the mean of each example's own
    pairs; for two sets from one distribution it is too large, by about √2. The estimate may be negative.

    Args:
        a: features `(n, d)`.
        b: features `(m, d)`.
        block: examples compared with all others at a time.

    Raises:
        ValueError: for fewer than two examples, or features of two sizes.

    References:
        Demystifying MMD GANs (Bińkowski et al., 2018), https://arxiv.org/abs/1801.01401
    """
    _comparable("kernel_distance", a, b, 2)
    a, b = a.double(), b.double()
    within_a, within_b = _row_means(a, a, block, own=True), _row_means(b, b, block, own=True)
    across_a, across_b = _row_means(a, b, block), _row_means(b, a, block)
    distance = within_a.mean() + within_b.mean() - 2 * across_a.mean()
    variance = 4 * ((within_a - across_a).var() / len(a) + (within_b - across_b).var() / len(b))
    return float(distance), float(variance.sqrt())


def precision_recall(real: Tensor, made: Tensor, *, neighbours: int = 3, block: int = 1024) -> tuple[float, float]:
    """Share of made examples that lie among the real ones, and of real ones that lie among the made.

    A set's manifold is the union of balls around its features, each reaching to the k-th nearest other one.

    Args:
        real: features `(n, d)`.
        made: features `(m, d)`; as many as `real`, since more give larger manifolds.
        neighbours: k.
        block: examples compared with all others at a time.

    Raises:
        ValueError: where a set has no k others, or features are of two sizes.

    References:
        Improved Precision and Recall Metric for Assessing Generative Models (Kynkäänniemi et al., 2019),
        https://arxiv.org/abs/1904.06991
    """
    if neighbours < 1:
        raise ValueError(f"neighbours: expected at least 1, got {neighbours}.")
    _comparable("precision_recall", real, made, neighbours + 1)
    real, made = real.double(), made.double()
    shift = real.mean(0)  # smaller numbers to square
    real, made = real - shift, made - shift
    return _inside(made, real, neighbours, block), _inside(real, made, neighbours, block)


@torch.no_grad()
def features_of(extract: Extractor, images: Iterable[Tensor]) -> Tensor:
    """Features `(n, d)` of batches of images, in single precision."""
    return torch.cat([extract(x).float() for x in images])


@torch.no_grad()
def moments_of(extract: Extractor, images: Iterable[Tensor]) -> Moments:
    """Mean and covariance of the features of batches of images: nothing but them is kept."""
    found = Moments()
    for x in images:
        found.add(extract(x))
    return found


def originals(data: Examples) -> Iterable[Tensor]:
    """The data, batch by batch."""
    return (data.vae.check(x) for x, _ in data)


def reconstructions(vae: VAE, data: Examples) -> Iterable[Tensor]:
    """Means of p(x|z) at the modes of q(z|x), batch by batch."""
    return (reconstructed(vae, x, cond) for x, cond in data.conditioned())


def samples(vae: VAE, data: Examples, *, seed: int = 0) -> Iterator[Tensor]:
    """As many new examples as there are data, batch by batch; a model with a condition takes the data's labels."""
    generator = torch.Generator(vae.device).manual_seed(seed)
    for x, cond in data.conditioned():
        try:
            made = vae.sample(len(x), cond, generator=generator)
        except (ValueError, NotImplementedError) as error:  # a prior that is not fitted, or that can't be drawn from
            raise Unavailable(f"samples: {error}") from error
        yield made


def _root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T


def _row_means(a: Tensor, b: Tensor, block: int, *, own: bool = False) -> Tensor:
    """mean_j k(a_i, b_j), (n,); without j = i where both are one set."""
    sums = torch.cat([(part @ b.T / a.shape[1] + 1).pow(3).sum(1) for part in a.split(block)])
    if not own:
        return sums / len(b)
    return (sums - (a.square().sum(1) / a.shape[1] + 1).pow(3)) / (len(b) - 1)


def _inside(points: Tensor, manifold: Tensor, neighbours: int, block: int) -> float:
    """Share of the points that lie in a ball of the manifold."""
    radii = []
    for start in range(0, len(manifold), block):
        squares = _squared_distances(manifold[start : start + block], manifold)
        rows = torch.arange(len(squares), device=squares.device)
        squares[rows, start + rows] = math.inf  # itself is no neighbour
        radii.append(squares.kthvalue(neighbours, 1).values)
    radius = torch.cat(radii)
    # a distance to the point that fixes the radius is rounded twice
    radius = radius + 1e-10 * (radius + manifold.square().sum(1))
    return float(
        torch.cat([(_squared_distances(p, manifold) <= radius).any(1) for p in points.split(block)]).double().mean()
    )


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    return (a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T).clamp_min_(0)


def _comparable(name: str, a: Tensor, b: Tensor, least: int) -> None:
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"{name}: expected features (n, d) and (m, d), got {tuple(a.shape)} and {tuple(b.shape)}.")
    if min(len(a), len(b)) < least:
        raise Unavailable(f"{name}: needs at least {least} examples in each set, got {len(a)} and {len(b)}.")
