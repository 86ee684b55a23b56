"""The latents of a whole data set, and what they say of x: information, gaps, use of dimensions and codes."""

import math
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.distributions import Independent, Normal

from vaekit.evaluate.examples import Examples, Unavailable
from vaekit.layers.aggregate import Aggregate, require_density
from vaekit.layers.divergence import check_densities
from vaekit.modes import evaluating, seeded
from vaekit.optional import require
from vaekit.records import Level
from vaekit.vae import VAE

Estimator: TypeAlias = Literal["exact", "mws", "mss"]


@dataclass(frozen=True)
class Latents:
    """q(z|x) of n examples, and one draw of each.

    Args:
        center: what stands for each example, `(n, d)`: the mean of q(z|x), its mode where it has no mean, z where there
            is no q.
        z: a draw of q(z|x), `(n, d)`.
        levels: what the sampler gave, a batch each.
        starts: the number of each batch's first example.
        gaussian: mean and scale of q(z|x), `(n, d)` each, where it is a product of normals.
        index: codes `(n, *index_shape)` of a discrete latent, or None.
        groups: whether the first dimension of an example's codes counts groups, not positions.
    """

    center: Tensor
    z: Tensor
    levels: list[Level]
    starts: list[int]
    gaussian: tuple[Tensor, Tensor] | None
    index: Tensor | None
    groups: bool

    def __len__(self) -> int:
        return len(self.z)


@torch.no_grad()
def latents(vae: VAE, data: Examples, *, seed: int = 0) -> Latents:
    """Encode a data set, and draw one z per example.

    Of a product of normals, z does not depend on the size of the batches; other posteriors draw batch after batch.
    Memory: q(z|x) of all examples stays on the model's device.

    Args:
        vae: the model.
        data: the examples.
        seed: what z is drawn from.

    Example:
        >>> import torch, vaekit
        >>> vae = vaekit.build("mlp", latent=2, input_shape=(1, 4, 4))
        >>> found = latents(vae, Examples(vae, torch.rand(5, 1, 4, 4)))
        >>> found.center.shape, found.z.shape
        (torch.Size([5, 2]), torch.Size([5, 2]))
    """
    levels, starts, count = [], [], 0
    with evaluating(vae), seeded(seed, vae.device):
        for x, cond in data.conditioned():
            levels.append(vae.encode(x, cond=cond))
            starts.append(count)
            count += len(x)
    if len({level.z.shape[1:] for level in levels}) > 1:
        raise Unavailable("latents: examples of several sizes have latents of several sizes. Bring them to one.")
    center = torch.cat([_center(level).flatten(1) for level in levels])
    gaussian = _gaussian(levels)
    if gaussian is None:
        z = torch.cat([level.z.flatten(1) for level in levels])
    else:
        mean, scale = gaussian
        noise = torch.randn(mean.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        z = mean + scale * noise.to(mean.device)
    index = None if levels[0].index is None else torch.cat([_of(level.index) for level in levels])
    # a map of codes has one at each position of the map, after the groups where there are several
    groups = index is not None and index.ndim - 1 >= len(vae.latent_shape)
    return Latents(center, z, levels, starts, gaussian, index, groups)


def active_units(found: Latents, threshold: float = 0.01) -> Tensor:
    """Whether Var_x E[z_d|x] > threshold, for each dimension d of the latent, (d,).

    References:
        Importance Weighted Autoencoders (Burda et al., 2016), https://arxiv.org/abs/1509.00519
    """
    if len(found) < 2:
        raise Unavailable("active_units: a variance over the data needs at least 2 examples.")
    return found.center.double().var(0) > threshold


@dataclass(frozen=True)
class Information:
    """E_x KL(q(z|x) ‖ p(z)) = I(x; z) + KL(q(z) ‖ p(z)), from one draw per example; nats.

    Args:
        mutual: log q(z_i|x_i) - log q(z_i), (n,); its mean is I(x; z).
        gap: log q(z_i) - log p(z_i), (n,); its mean is KL(q(z) ‖ p(z)).
    """

    mutual: Tensor
    gap: Tensor


@torch.no_grad()
def information(
    found: Latents, *, estimator: Estimator = "exact", batch: int = 256, block: int = 256, seed: int = 0
) -> Information:
    """Mutual information of x and z under q, and the gap of the aggregate posterior q(z) = 1/n Σ_j q(z|x_j).

        "exact"   the sum over all n examples: q(z) of the empirical distribution of the data, time in n²
        "mws"     1/(n b) Σ_j q(z_i|x_j) over a random batch of b that holds i (minibatch weighted sampling)
        "mss"     1/n q(z_i|x_i) + (n-1)/(n (b-1)) Σ_{j≠i} q(z_i|x_j) over it (minibatch stratified sampling)

    I(x; z) of n examples is at most log n, and so is "exact": where it comes near, more examples would give more. "mss"
    has the right q(z) on average, hence by Jensen's inequality too large an I(x; z) and too small a gap. "mws" has
    1/(n b) where 1/b would be due to the others, and is off by up to log n: it is there to be compared with what
    papers report. Prefer "exact".

    Args:
        found: the latents.
        estimator: see above.
        batch: b, for "mws" and "mss".
        block: draws compared with all examples at a time.
        seed: what the batches are made from.

    Raises:
        Unavailable: where q(z|x) can't be evaluated at another example's draw, or p(z) has no density.

    References:
        ELBO Surgery (Hoffman & Johnson, 2016), https://approximateinference.org/2016/accepted/HoffmanJohnson2016.pdf;
        Isolating Sources of Disentanglement in Variational Autoencoders (Chen et al., 2018; the estimators over
        batches), https://arxiv.org/abs/1802.04942
    """
    if estimator not in ("exact", "mws", "mss"):
        raise ValueError(f"estimator: expected 'exact', 'mws' or 'mss', got {estimator!r}.")
    n = len(found)
    if n < 2:
        raise Unavailable("information: q(z) over the data needs at least 2 examples.")
    try:
        require_density("information", found.levels[0])
        check_densities(found.levels[0], "information")
    except ValueError as error:
        raise Unavailable(str(error)) from error
    pairs = _Pairs(found.levels) if found.gaussian is None else _GaussianPairs(found.z, *found.gaussian)
    every = torch.arange(n, device=found.z.device)
    if estimator == "exact":
        aggregate = torch.cat([pairs(i, every).logsumexp(1) for i in every.split(block)]) - math.log(n)
    else:
        joint = Aggregate("information", estimator, n)
        aggregate = torch.empty(n, dtype=torch.float64, device=every.device)
        for part in _batches(n, batch, seed, every.device):
            aggregate[part] = joint(pairs(part, part))
    return Information((pairs.own() - aggregate).cpu(), (aggregate - _log_prior(found)).cpu())


@dataclass(frozen=True)
class CodeUsage:
    """How a codebook is used by a whole data set; per group where an example has groups of codes.

    Args:
        used: share of the codes that occur, (g,).
        perplexity: exp of the entropy of the codes' frequencies, (g,): 1 to `size`.
        counts: how often each code that occurs does, a tensor per group, most frequent first.
        size: codes to choose from.
    """

    used: Tensor
    perplexity: Tensor
    counts: list[Tensor]
    size: int


def code_usage(found: Latents, size: int) -> CodeUsage:
    """Share of codes that occur and their perplexity, over all examples and positions.

    A mean of perplexities over batches would be too small: a batch shows few codes. Groups are counted apart, also
    where they choose from one book.

    Args:
        found: the latents.
        size: `vae.sampler.codebook_size`.

    Raises:
        Unavailable: where the latent has no codes.
    """
    if found.index is None:
        raise Unavailable("the latent is continuous. Use a sampler of codes, such as 'vq' or 'fsq'.")
    rows = found.index.movedim(1, 0).flatten(1) if found.groups else found.index[None]
    counts = [row.flatten().unique(return_counts=True)[1].sort(descending=True).values.cpu() for row in rows]
    shares = [count.double() / count.sum() for count in counts]
    used = torch.tensor([len(count) / size for count in counts], dtype=torch.float64)
    perplexity = torch.stack([torch.special.entr(share).sum().exp() for share in shares])
    return CodeUsage(used, perplexity, counts, size)


def linear_probe(z: Tensor, labels: Tensor, *, held_out: float = 0.25, seed: int = 0) -> float:
    """Accuracy of a logistic regression from latents to labels, on latents that it was not fitted to.

    Args:
        z: latents `(n, d)`; each dimension is brought to unit variance.
        labels: classes (n,).
        held_out: share of the examples that the accuracy is taken on, the same of each class.
        seed: what the split is drawn from.

    Raises:
        Unavailable: where labels are no classes, there is one class, or a class has one example.
    """
    z_, y = _labelled("linear_probe", z, labels)
    model = _sklearn("pipeline").make_pipeline(
        _sklearn("preprocessing").StandardScaler(), _sklearn("linear_model").LogisticRegression(max_iter=2000)
    )
    classes = len(labels.unique())
    if not classes <= round(held_out * len(z)) <= len(z) - classes:
        raise Unavailable(f"linear_probe: {len(z)} examples are too few to hold out some of each of {classes} classes.")
    split = _sklearn("model_selection").train_test_split
    fit, test, fit_y, test_y = split(z_, y, test_size=round(held_out * len(z)), random_state=seed, stratify=y)
    return float(model.fit(fit, fit_y).score(test, test_y))


def clustering(z: Tensor, labels: Tensor, *, seed: int = 0) -> tuple[float, float]:
    """Normalised mutual information, and adjusted Rand index, of k-means of the latents with the labels.

    k is the number of classes; the best of 10 starts counts. Both are 1 for the classes themselves; the second one is 0
    on average for clusters at random.

    Args:
        z: latents `(n, d)`, in their own scale.
        labels: classes (n,).
        seed: what the starts are drawn from.

    Raises:
        Unavailable: where labels are no classes, there is one class, or a class has one example.
    """
    z_, y = _labelled("clustering", z, labels)
    k = min(len(set(y.tolist())), len(torch.as_tensor(z_).unique(dim=0)))  # a collapsed model has one latent
    clusters = _sklearn("cluster").KMeans(k, n_init=10, random_state=seed).fit_predict(z_)
    metrics = _sklearn("metrics")
    return float(metrics.normalized_mutual_info_score(y, clusters)), float(metrics.adjusted_rand_score(y, clusters))


def _labelled(name: str, z: Tensor, labels: Tensor) -> tuple[Any, Any]:
    if labels.ndim != 1 or labels.is_floating_point() or len(labels) != len(z):
        raise Unavailable(
            f"{name}: expected whole numbers of shape ({len(z)},) as labels, got {labels.dtype} of shape "
            f"{tuple(labels.shape)}. Give the class of each example."
        )
    counts = labels.unique(return_counts=True)[1]
    if len(counts) < 2 or int(counts.min()) < 2:
        raise Unavailable(f"{name}: needs at least 2 classes with at least 2 examples each.")
    return z.flatten(1).double().cpu().numpy(), labels.cpu().numpy()


def _sklearn(module: str) -> Any:
    return require(f"sklearn.{module}", user="vaekit.evaluate", extra="train")


def _center(level: Level) -> Tensor:
    if level.q is None or level.index is not None:
        return level.mode
    try:
        return level.q.mean
    except NotImplementedError:
        return level.mode


def _gaussian(levels: list[Level]) -> tuple[Tensor, Tensor] | None:
    """Mean and scale `(n, d)` in double precision, where every q is a product of normals that z was drawn from."""
    bases = [level.q.base_dist if isinstance(level.q, Independent) else None for level in levels]
    if any(level.log_q is not None or level.index is not None for level in levels):
        return None
    if not all(type(base) is Normal for base in bases):
        return None
    mean, scale = (torch.cat([getattr(base, k).flatten(1).double() for base in bases]) for k in ("loc", "scale"))
    return mean, scale


def _of(index: Tensor | None) -> Tensor:
    assert index is not None
    return index


class _GaussianPairs:
    """(i, j) → log q(z_i|x_j), `(len(i), len(j))`: sums over dimensions are products of matrices."""

    def __init__(self, z: Tensor, mean: Tensor, scale: Tensor) -> None:
        self.shift = mean.mean(0)  # smaller numbers to square
        self.z, self.mean, self.scale = z.double() - self.shift, mean - self.shift, scale
        self.precision = scale**-2
        self.constant = (self.mean.square() * self.precision + 2 * scale.log() + math.log(2 * math.pi)).sum(1)

    def own(self) -> Tensor:
        """log q(z_i|x_i), (n,)."""
        return Normal(self.mean, self.scale, validate_args=False).log_prob(self.z).sum(1)

    def __call__(self, i: Tensor, j: Tensor) -> Tensor:
        z, precision = self.z[i], self.precision[j]
        return z @ (self.mean[j] * precision).T - 0.5 * (z.square() @ precision.T + self.constant[j])


class _Pairs:
    """The same for whatever q(z|x) is, asked batch by batch."""

    def __init__(self, levels: list[Level]) -> None:
        self.levels, self.z = levels, torch.cat([level.z for level in levels])

    def own(self) -> Tensor:
        return torch.cat([level.log_posterior().double() for level in self.levels])

    def __call__(self, i: Tensor, j: Tensor) -> Tensor:
        return torch.cat([self._against(self.z[i], level) for level in self.levels], 1)[:, j]

    def _against(self, z: Tensor, level: Level) -> Tensor:
        assert level.q is not None
        return level.q.log_prob(z.unsqueeze(-1 - len(level.q.event_shape))).double()


def _log_prior(found: Latents) -> Tensor:
    """log p(z_i), (n,) nats."""
    parts = []
    for start, level in zip(found.starts, found.levels, strict=True):
        z = found.z[start : start + len(level.z)].reshape(level.z.shape).to(level.z.dtype)
        assert level.p is not None
        parts.append(level.p.log_prob(z).double())
    return torch.cat(parts)


def _batches(n: int, size: int, seed: int, device: torch.device) -> list[Tensor]:
    """A random partition into about equal batches of at most `size`, and at least 2."""
    if size < 2:
        raise ValueError(f"batch: expected at least 2 examples, got {size}.")
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).to(device)
    return list(order.tensor_split(min(-(-n // size), n // 2)))
