"""How usual an example is, to a trained model: one number per example, larger for the more usual.

    elbo               E_q[log p(x|z) + log p(z) - log q(z|x)]       nats, a lower bound on log p(x)
    reconstruction     log p(x | mode of q(z|x))                     nats
    likelihood_ratio   elbo - the elbo of a background model         nats
    mahalanobis        -½ (z - m)ᵀ S⁻¹ (z - m), z the mode           nats, up to a constant

All are deterministic: an example's number depends neither on the rest of the batch nor on the global random state.
The last two compare with something that was fitted before: a background model, trained on what `perturb` gives, and
`statistics` of the latents of usual data.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from vaekit.modes import evaluating, forked
from vaekit.records import Level, Output
from vaekit.vae import VAE, first_parameter

Kind: TypeAlias = Literal["elbo", "reconstruction", "likelihood_ratio", "mahalanobis"]

KINDS: tuple[Kind, ...] = ("elbo", "reconstruction", "likelihood_ratio", "mahalanobis")


class LatentStatistics(nn.Module):
    """Mean m and covariance S of the latents of usual data, for `mahalanobis`; saved as buffers.

    S is shrunk towards a multiple of the identity: S = (1 - a) C + a tr(C)/d I, so that few data suffice.

    Args:
        size: d, the latent's size, all dimensions counted.
        shrinkage: a.

    Raises:
        ValueError: where the size is not positive or `shrinkage` is outside [0, 1].

    References:
        A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks (Lee et al.,
        2018), https://arxiv.org/abs/1807.03888

    Example:
        >>> import torch
        >>> statistics = LatentStatistics(2).fit([torch.randn(100, 2)])
        >>> statistics(torch.tensor([[0.0, 0.0], [9.0, 9.0]])).argmax()
        tensor(0)
    """

    mean: Tensor
    precision: Tensor

    def __init__(self, size: int, *, shrinkage: float = 1e-3) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"size: expected at least 1, got {size}.")
        if not 0 <= shrinkage <= 1:
            raise ValueError(f"shrinkage: expected a number in [0, 1], got {shrinkage}.")
        self.shrinkage = shrinkage
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("precision", torch.eye(size, dtype=torch.float64))

    def fit(self, latents: Any) -> "LatentStatistics":
        """Find m and S from batches of latents `(b, *latent)`, in one pass, and return self.

        Raises:
            ValueError: where there is no latent, or they hold NaN.
        """
        n, total, products = 0, torch.zeros_like(self.mean), torch.zeros_like(self.precision)
        for z in latents:
            flat = z.detach().flatten(1).to(self.mean)
            n, total, products = n + len(flat), total + flat.sum(0), products + flat.T @ flat
        if n == 0:
            raise ValueError("LatentStatistics.fit: there are no data.")
        mean = total / n
        covariance = products / n - torch.outer(mean, mean)
        if not torch.isfinite(covariance).all():
            raise ValueError("LatentStatistics.fit: the latents hold NaN or infinite values.")
        size = len(mean)
        # a latent that nothing is encoded in still has a distance
        spread = (covariance.trace() / size).clamp_min(1e-12)
        eye = torch.eye(size, dtype=mean.dtype, device=mean.device)
        shrunk = (1 - self.shrinkage) * covariance + max(self.shrinkage, 1e-6) * spread * eye
        self.mean.copy_(mean)
        self.precision.copy_(torch.cholesky_inverse(torch.linalg.cholesky(shrunk)))
        return self

    def forward(self, z: Tensor) -> Tensor:
        """-½ (z - m)ᵀ S⁻¹ (z - m), (b,), of latents `(b, *latent)`."""
        away = z.flatten(1).to(self.mean) - self.mean
        return -0.5 * torch.einsum("bi,ij,bj->b", away, self.precision, away)


def perturb(
    x: Tensor,
    rate: float = 0.2,
    data_range: tuple[float, float] | None = (0.0, 1.0),
    generator: torch.Generator | None = None,
) -> Tensor:
    """x with a part of its values replaced, to train the background model of "likelihood_ratio" on.

    What all data have in common, such as the black around a digit, both models know; the ratio keeps what only the
    model of the whole data knows.

    Args:
        x: data, `(b, *data)`.
        rate: the part.
        data_range: new values are uniform in it; where it is None, they are those of other examples at that place.
        generator: draws which and what, on x's device.

    Raises:
        ValueError: where `rate` is outside [0, 1].

    References:
        Likelihood Ratios for Out-of-Distribution Detection (Ren et al., 2019), https://arxiv.org/abs/1906.02845
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"rate: expected a number in [0, 1], got {rate}.")
    kind = {"generator": generator, "device": x.device}
    if data_range is None:
        other = x.flatten(1).gather(0, torch.randint(len(x), (len(x), x[0].numel()), **kind)).reshape(x.shape)
    else:
        low, high = data_range
        other = low + (high - low) * torch.rand(x.shape, dtype=x.dtype, **kind)
    return torch.where(torch.rand(x.shape, **kind) < rate, other, x)


@torch.no_grad()
def score(
    vae: VAE,
    x: Tensor,
    kind: Kind = "elbo",
    *,
    reference: nn.Module | None = None,
    n: int = 16,
    cond: Any = None,
    seed: int = 0,
    chunk: int = 4096,
) -> Tensor:
    """How usual each example is, (b,): larger for the more usual.

    Args:
        vae: the model.
        x: data, `(b, *input_shape)`.
        kind: "elbo", "reconstruction", "likelihood_ratio" or "mahalanobis"; see the module.
        reference: what "likelihood_ratio" (another `VAE`) and "mahalanobis" (`LatentStatistics`) compare with.
        n: draws of z per example, for "elbo" and "likelihood_ratio".
        cond: what the condition takes.
        seed: of these draws, the same ones for every example.
        chunk: examples times draws that are decoded at a time.

    Raises:
        ValueError: where there is no such kind, its reference is missing, or the model has no density for it.

    Example:
        >>> import torch, vaekit
        >>> vae = vaekit.build("mlp", latent=2, input_shape=(1, 8, 8))
        >>> score(vae, torch.rand(5, 1, 8, 8), "reconstruction").shape
        torch.Size([5])
    """
    if kind not in KINDS:
        raise ValueError(f"kind: expected {', '.join(map(repr, KINDS))}, got {kind!r}.")
    if n < 1 or chunk < 1:
        raise ValueError(f"n, chunk: expected whole numbers of at least 1, got {n} and {chunk}.")
    if kind == "mahalanobis" and not isinstance(reference, LatentStatistics):
        raise ValueError("score: 'mahalanobis' needs reference=, the LatentStatistics of usual data. See statistics().")
    if kind == "likelihood_ratio" and not isinstance(reference, VAE):
        raise ValueError("score: 'likelihood_ratio' needs reference=, a VAE trained on what perturb() gives.")
    draws = n if kind in ("elbo", "likelihood_ratio") else 1
    found = []
    with evaluating(vae), forked(x.device):  # samplers draw, also where the mode is wanted
        for part, given in _chunks(x, cond, max(1, chunk // draws)):
            if kind == "mahalanobis":
                assert isinstance(reference, LatentStatistics)
                found.append(reference(vae.encode(part, cond=given).mode))
            elif kind == "reconstruction":
                mode = vae.encode(part, cond=given).mode
                found.append(vae.predict(mode, given, size=part.shape[2:]).log_prob(vae.check(part)))
            else:
                found.append(_elbo(vae, part, given, n, seed))
    result = torch.cat(found)
    if kind == "likelihood_ratio":
        assert isinstance(reference, VAE)
        return result - score(reference, x, n=n, cond=cond, seed=seed, chunk=chunk)
    return result


@torch.no_grad()
def statistics(
    vae: VAE, x: Tensor, *, cond: Any = None, shrinkage: float = 1e-3, batch_size: int = 512
) -> LatentStatistics:
    """The statistics of the latents' modes over usual data, as the reference of "mahalanobis".

    Args:
        vae: the model.
        x: usual data, `(n, *input_shape)`.
        cond: what the condition takes.
        shrinkage: as in `LatentStatistics`.
        batch_size: examples encoded at a time.

    Example:
        >>> import torch, vaekit
        >>> vae = vaekit.build("mlp", latent=2, input_shape=(1, 8, 8))
        >>> x = torch.rand(50, 1, 8, 8)
        >>> score(vae, x, "mahalanobis", reference=statistics(vae, x)).shape
        torch.Size([50])
    """
    with evaluating(vae), forked(x.device):
        weight = first_parameter(vae)
        found = LatentStatistics(torch.Size(vae.latent_shape).numel(), shrinkage=shrinkage).to(
            x.device if weight is None else weight.device
        )
        return found.fit(vae.encode(part, cond=given).mode for part, given in _chunks(x, cond, batch_size))


def _elbo(vae: VAE, x: Tensor, cond: Any, n: int, seed: int) -> Tensor:
    """The ELBO over n draws, made from the same noise for every example, so that none depends on its neighbours."""
    level = vae.encode(x, cond=cond)
    if not level.has_density:
        raise ValueError(
            "score: the ELBO needs log q(z|x), and the model's sampler gives a point. Use kind='reconstruction' or "
            "'mahalanobis', or build with sampler='gaussian'."
        )
    normal = _normal(level.q)
    if level.log_q is None and level.index is None and normal is not None:
        torch.manual_seed(seed)
        noise = torch.randn(n, 1, *normal.loc.shape[1:], dtype=normal.loc.dtype, device=x.device)
        return _weights(vae, x, cond, replace(level, z=normal.loc + normal.scale * noise)).mean(0)
    each = []
    for one, given in _chunks(x, cond, 1):  # other posteriors draw as they please: one at a time, from the same seed
        torch.manual_seed(seed)
        each.append(vae(one, given, (n,)).log_weight().mean(0))
    return torch.cat(each)


def _weights(vae: VAE, x: Tensor, cond: Any, level: Level) -> Tensor:
    """log p(x|z) + log p(z) - log q(z|x) at the level's draws, (n, b)."""
    x = vae.check(x)
    p_x = vae.predict(level.z, cond, size=x.shape[2:])
    return Output(x, p_x.mean, p_x, (level,), cond, None, vae).log_weight()


def _normal(q: Distribution | None) -> Normal | None:
    base = q.base_dist if isinstance(q, Independent) else None
    return base if type(base) is Normal else None


def _chunks(x: Tensor, cond: Any, size: int) -> Iterator[tuple[Tensor, Any]]:
    for start in range(0, len(x), size):
        part = slice(start, start + size)
        yield x[part], cond[part] if isinstance(cond, Tensor) else cond
