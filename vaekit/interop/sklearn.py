"""A VAE in scikit-learn's own terms: a transformer, and a detector of outliers.

Both train a model of their own on a matrix (n, features), by a small loop over `vae.loss`, and keep it as `vae_`. They
compute in the data's precision: float64 in, float64 out, as scikit-learn does; give float32 for speed.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from vaekit import scoring
from vaekit.build import build
from vaekit.device import pick
from vaekit.modes import forked, seeded
from vaekit.optional import require
from vaekit.vae import VAE

require("sklearn", user="vaekit.interop.sklearn", extra="train")

from sklearn.base import (  # noqa: E402
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    OutlierMixin,
    TransformerMixin,
)
from sklearn.utils import check_array, check_random_state  # noqa: E402
from sklearn.utils.validation import check_is_fitted, validate_data  # noqa: E402

__all__ = ["VAEAnomalyDetector", "VAETransformer"]

DataRange = tuple[float, float] | None


class _Scaled:
    """The settings of both, and the way between the matrix that scikit-learn hands over and a model's tensor."""

    def __init__(
        self,
        recipe: Any = "vae",
        *,
        latent: int | Sequence[int] = 2,
        input_shape: Sequence[int] | None = None,
        data_range: DataRange = None,
        epochs: int = 20,
        batch_size: int = 64,
        lr: float = 1e-3,
        draws: int = 16,
        device: str | torch.device = "cpu",
        model_args: Mapping[str, Any] | None = None,
        random_state: Any = None,
    ) -> None:
        self.recipe = recipe
        self.latent = latent
        self.input_shape = input_shape
        self.data_range = data_range
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.draws = draws
        self.device = device
        self.model_args = model_args
        self.random_state = random_state

    def _fit_scale(self, X: np.ndarray) -> None:
        """Mean and scale of each feature; where the data have a range, they stay as they are."""
        features = X.shape[1]
        self.mean_, self.scale_ = np.zeros(features), np.ones(features)
        if self.data_range is None:
            self.mean_, scale = X.mean(0, dtype=np.float64), X.std(0, dtype=np.float64)
            # a constant feature carries nothing, and the rounding of its mean should not be blown up
            constant = scale <= 10 * np.finfo(X.dtype).eps * np.abs(self.mean_)
            self.scale_ = np.where(constant | (scale == 0), 1.0, scale)

    def _tensor(self, X: np.ndarray) -> Tensor:
        scaled = (X - self.mean_) / self.scale_
        return torch.tensor(scaled, dtype=self._dtype(X)).reshape(len(X), *self._shape(X.shape[1]))

    def _dtype(self, X: np.ndarray) -> torch.dtype:
        # MPS has no float64
        return torch.float64 if X.dtype == np.float64 and pick(self.device).type != "mps" else torch.float32

    def _shape(self, features: int) -> tuple[int, ...]:
        if self.input_shape is None:
            return (features,)
        shape = tuple(self.input_shape)
        if int(np.prod(shape)) != features:
            raise ValueError(f"input_shape: {shape} holds {int(np.prod(shape))} values, and X has {features} features.")
        return shape

    def _train(self, x: Tensor, seed: int) -> VAE:
        """A model fitted to x; the global random state is left as it was."""
        for name in ("epochs", "batch_size"):
            if not isinstance(value := getattr(self, name), (int, np.integer)) or value < 1:
                raise ValueError(f"{name}: expected a whole number of at least 1, got {value!r}.")
        features = x[0].numel()
        latent = int(self.latent) if isinstance(self.latent, np.integer) else self.latent
        if isinstance(latent, int) and latent > features:
            raise ValueError(f"latent: {latent} is more than the data have, n_features = {features}. Lower it.")
        device = pick(self.device)
        with seeded(seed, device):
            vae = build(
                self.recipe,
                latent=latent,
                input_shape=tuple(x.shape[1:]),
                data_range=self.data_range,
                **(self.model_args or {}),
            ).to(device, x.dtype)
            optimizer = torch.optim.Adam([{"params": each} for each in vae.players().values() if each], lr=self.lr)
            for _ in range(self.epochs):
                for rows in _batches(len(x), self.batch_size):
                    optimizer.zero_grad()
                    vae.loss(x[rows].to(device)).total.backward()
                    optimizer.step()
        return vae.eval().requires_grad_(False)

    def _scored(self, vae: VAE, x: Tensor, kind: Any, reference: Any, draws: int) -> np.ndarray:
        x = x.to(next(vae.parameters()).device)
        found = scoring.score(vae, x, kind, reference=reference, n=draws)
        return found.double().cpu().numpy()


class VAETransformer(_Scaled, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Features → the mode of q(z|x), and back: dimensionality reduction by a VAE.

    Args:
        recipe: what `vaekit.build` makes the model from: a recipe's name, or a `Spec`.
        latent: the latent's size, or the shape of a map `(c, *t)`, which comes out flattened.
        input_shape: the shape that a row has as an image or signal, `(c, *s)`; None: a row is a vector.
        data_range: smallest and largest value of the data, which are then taken as they are. None for unbounded data:
            each feature is standardised inside.
        epochs: passes over the data.
        batch_size: examples per step.
        lr: Adam's learning rate.
        draws: draws of z per example in `score`.
        device: where to compute: "cpu", "auto", "cuda:1", …
        model_args: more arguments of `vaekit.build`: parts, losses, a recipe's own.
        random_state: seed of weights, batches and draws; an int makes `fit` repeatable.

    Attributes:
        vae_: the fitted model, in evaluation mode.
        mean_: what is subtracted from each feature.
        scale_: what it is divided by then.
        n_features_in_: number of features.

    Raises:
        ValueError: in `fit`, where the shape does not hold the features, or the model can't be built.

    Example:
        >>> import numpy as np
        >>> X = np.random.default_rng(0).normal(size=(200, 6))
        >>> VAETransformer(latent=2, epochs=2, random_state=0).fit_transform(X).shape
        (200, 2)
    """

    def fit(self, X: Any, y: Any = None) -> "VAETransformer":
        """Train a model on X (n, features); y is not looked at."""
        X = validate_data(self, X, dtype=[np.float64, np.float32])
        self._fit_scale(X)
        self.vae_ = self._train(self._tensor(X), _seed(self.random_state))
        return self

    @torch.no_grad()
    def transform(self, X: Any) -> np.ndarray:
        """The mode of q(z|x) of each row, (n, latent)."""
        x, dtype = self._given(X)
        with forked(pick(self.device)):  # the sampler draws, though the mode is wanted
            found = [self.vae_.encode(part).mode.flatten(1).cpu() for part in self._parts(x)]
        return torch.cat(found).numpy().astype(dtype, copy=False)

    @torch.no_grad()
    def inverse_transform(self, X: Any) -> np.ndarray:
        """The mean of p(x|z) for latents (n, latent), (n, features) in the data's own units."""
        check_is_fitted(self)
        floats: Any = [np.float64, np.float32]
        Z = check_array(X, dtype=floats)
        if Z.shape[1] != self._n_features_out:
            raise ValueError(f"X has {Z.shape[1]} features, but the latent has {self._n_features_out}.")
        weight = next(self.vae_.parameters())
        z = torch.tensor(Z, dtype=weight.dtype).reshape(len(Z), *self.vae_.latent_shape)
        found = torch.cat([self.vae_.decode(part).flatten(1).cpu() for part in self._parts(z)]).numpy()
        return (found * self.scale_ + self.mean_).astype(Z.dtype, copy=False)

    def score(self, X: Any, y: Any = None) -> float:
        """The mean ELBO of the rows, nats, as a density of the data in their own units: higher is better."""
        x, _ = self._given(X)
        elbo = self._scored(self.vae_, x, "elbo", None, self.draws)
        return float(elbo.mean() - np.log(self.scale_).sum())

    def sample(self, n_samples: int = 1, random_state: Any = None) -> np.ndarray:
        """New rows, (n_samples, features), in the data's own units: z ~ p(z), then the mean of p(x|z)."""
        check_is_fitted(self)
        generator = torch.Generator().manual_seed(_seed(random_state))
        found = self.vae_.sample(n_samples, generator=generator).flatten(1).double().cpu().numpy()
        return found * self.scale_ + self.mean_

    @property
    def _n_features_out(self) -> int:
        return int(np.prod(self.vae_.latent_shape))

    def _given(self, X: Any) -> tuple[Tensor, Any]:
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=[np.float64, np.float32])
        return self._tensor(X), X.dtype

    def _parts(self, x: Tensor) -> Iterator[Tensor]:
        device = next(self.vae_.parameters()).device
        for part in x.split(512):
            yield part.to(device)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


class VAEAnomalyDetector(_Scaled, OutlierMixin, BaseEstimator):
    """Outliers: rows that a VAE fitted to the data finds unusual.

    Args:
        kind: what is looked at, as in `vaekit.scoring`: "elbo", "reconstruction", "likelihood_ratio" (a second model is
            trained on perturbed data), or "mahalanobis" (distance of the latent from the mean).
        contamination: part of the training data that `predict` calls outliers, in (0, 0.5].
        recipe: what `vaekit.build` makes the model from: a recipe's name, or a `Spec`.
        latent: the latent's size, or the shape of a map `(c, *t)`.
        input_shape: the shape that a row has as an image or signal, `(c, *s)`; None: a row is a vector.
        data_range: smallest and largest value of the data, which are then taken as they are. None for unbounded data:
            each feature is standardised inside.
        epochs: passes over the data.
        batch_size: examples per step.
        lr: Adam's learning rate.
        draws: draws of z per example for "elbo" and "likelihood_ratio"; the same ones for every row.
        rate: part of the values that is perturbed for the second model.
        device: where to compute.
        model_args: more arguments of `vaekit.build`.
        random_state: seed of weights, batches and draws; an int makes `fit` repeatable.

    Attributes:
        vae_: the fitted model, in evaluation mode.
        reference_: what `kind` compares with: a model, or statistics of the latents; None where nothing is.
        offset_: `decision_function` is `score_samples` less this: the contamination's quantile of the training scores.
        mean_: what is subtracted from each feature.
        scale_: what it is divided by then.
        n_features_in_: number of features.

    Raises:
        ValueError: in `fit`, where an argument is out of its range, or the model can't be built.

    Example:
        >>> import numpy as np
        >>> X = np.random.default_rng(0).normal(size=(200, 3))
        >>> detector = VAEAnomalyDetector("elbo", contamination=0.05, epochs=2, random_state=0).fit(X)
        >>> int((detector.predict(X) == -1).sum()), detector.predict([[99.0, -99.0, 99.0]])
        (10, array([-1]))
    """

    def __init__(
        self,
        kind: Literal["elbo", "reconstruction", "likelihood_ratio", "mahalanobis"] = "elbo",
        *,
        contamination: float = 0.1,
        recipe: Any = "vae",
        latent: int | Sequence[int] = 2,
        input_shape: Sequence[int] | None = None,
        data_range: DataRange = None,
        epochs: int = 20,
        batch_size: int = 64,
        lr: float = 1e-3,
        draws: int = 16,
        rate: float = 0.2,
        device: str | torch.device = "cpu",
        model_args: Mapping[str, Any] | None = None,
        random_state: Any = None,
    ) -> None:
        super().__init__(
            recipe,
            latent=latent,
            input_shape=input_shape,
            data_range=data_range,
            epochs=epochs,
            batch_size=batch_size,
            lr=lr,
            draws=draws,
            device=device,
            model_args=model_args,
            random_state=random_state,
        )
        self.kind = kind
        self.contamination = contamination
        self.rate = rate

    def fit(self, X: Any, y: Any = None) -> "VAEAnomalyDetector":
        """Train on X (n, features), in which outliers should be few; y is not looked at."""
        X = validate_data(self, X, dtype=[np.float64, np.float32])
        if self.kind not in scoring.KINDS:
            raise ValueError(f"kind: expected {', '.join(map(repr, scoring.KINDS))}, got {self.kind!r}.")
        if not 0 < self.contamination <= 0.5:
            raise ValueError(f"contamination: expected a number in (0, 0.5], got {self.contamination!r}.")
        seed = _seed(self.random_state)
        self._fit_scale(X)
        x = self._tensor(X)
        self.vae_ = self._train(x, seed)
        self.reference_ = None
        if self.kind == "mahalanobis":
            self.reference_ = scoring.statistics(self.vae_, x.to(next(self.vae_.parameters()).device))
        elif self.kind == "likelihood_ratio":
            generator = torch.Generator().manual_seed(seed)
            self.reference_ = self._train(scoring.perturb(x, self.rate, self.data_range, generator), seed)
        self.offset_ = float(np.percentile(self._scores(x), 100 * self.contamination))
        return self

    def score_samples(self, X: Any) -> np.ndarray:
        """How usual each row is, (n,): larger for the more usual."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=[np.float64, np.float32])
        return self._scores(self._tensor(X))

    def decision_function(self, X: Any) -> np.ndarray:
        """`score_samples` less `offset_`, (n,): negative for outliers."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> np.ndarray:
        """-1 for outliers and 1 for the others, (n,)."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def _scores(self, x: Tensor) -> np.ndarray:
        return self._scored(self.vae_, x, self.kind, self.reference_, self.draws)


def _seed(random_state: Any) -> int:
    return int(check_random_state(random_state).randint(np.iinfo(np.int32).max))


def _batches(n: int, size: int) -> Iterator[Tensor]:
    """Rows in random order; a last batch of one row, which batch statistics can't use, is left out."""
    for rows in torch.randperm(n).split(size):
        if len(rows) > 1 or n == 1:
            yield rows
