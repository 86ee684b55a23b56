"""The graph: parts in, everything that one does with a VAE out.

    x ─► encoder ─► h ─► sampler ─► z ─► decoder ─► y ─► likelihood ─► p(x|z)
                          └► q(z|x) ── kl ── p(z) ◄─ prior

One class serves every flat variant. `vaekit.build` makes it from names; it can be made from modules as well. What is
done with the graph stands beside it: `checking`, `walks`, `bounds`, `imputation`, `latent_fits`, `scoring`.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, MixtureSameFamily, Normal

from vaekit import bounds, checking, imputation, latent_fits, walks
from vaekit.checking import positive
from vaekit.draw import draw
from vaekit.kinds import CriticLoss
from vaekit.layers.frozen import frozen
from vaekit.layers.precision import at_least_float32
from vaekit.modes import drawing, evaluating
from vaekit.records import Level, Output, Report, fold, unfold
from vaekit.saving import push, write_model
from vaekit.spec import Spec
from vaekit.wiring import first_parameter as first_parameter
from vaekit.wiring import takes, takes_tokens, write_down

DataRange = tuple[float, float] | None
Tiles = Callable[..., Tensor]
"""How a network runs on a map that is too large: `vaekit.tiling.in_tiles`."""


class VAE(nn.Module):
    """A variational autoencoder made of parts.

    Args:
        encoder: x → h.
        sampler: h → `Level(z, q)`.
        prior: () → p(z).
        decoder: z → y.
        likelihood: y → p(x|z).
        objective: Output → Report.
        condition: what is known beside x → tokens; None for an unconditional model.
        transforms: what is done to z before it is decoded, in this order.
        normalizer: z ↔ the scale in which other models take it; None leaves it as it is.
        input_shape: the data's shape without the batch, `(c, *s)`.
        latent_shape: z's shape without the batch.
        data_range: smallest and largest value of the data; None for unbounded data.
        spec: what the model was built from, for printing and saving.

    Shapes: x `(b, *input_shape)`, z `(*n, b, *latent_shape)`, y `(*n, b, channels, *s)`.
    """

    def __init__(
        self,
        *,
        encoder: nn.Module,
        sampler: nn.Module,
        prior: nn.Module,
        decoder: nn.Module,
        likelihood: nn.Module,
        objective: nn.Module,
        condition: nn.Module | None = None,
        transforms: Sequence[nn.Module] = (),
        normalizer: nn.Module | None = None,
        input_shape: Sequence[int],
        latent_shape: Sequence[int],
        data_range: DataRange = (0.0, 1.0),
        spec: Spec | None = None,
    ) -> None:
        super().__init__()
        self.encoder, self.sampler, self.prior = encoder, sampler, prior
        self.decoder, self.likelihood, self.objective, self.condition = decoder, likelihood, objective, condition
        self.transforms, self.normalizer = nn.ModuleList(transforms), normalizer
        self.input_shape, self.latent_shape = tuple(input_shape), tuple(latent_shape)
        self.data_range, self.spec = data_range, spec
        # filled in by `build`: what each stage gives, for printing, and what its constructor was wired with
        self.shapes: dict[str, Any] = {}
        self.wired: dict[str, dict[str, Any]] = {}
        self._conditional = {"encoder": takes_tokens(encoder), "decoder": takes_tokens(decoder)}
        self._sized = takes(decoder, "size")
        self._checked_on: set[str] = set()

    # -- the graph -----------------------------------------------------------------------------------------------

    def forward(self, x: Tensor, cond: Any = None, sample_shape: tuple[int, ...] = ()) -> Output:
        """One pass: encode, draw z, decode.

        Args:
            x: data, `(b, *input_shape)`, inside the data range.
            cond: labels, vectors or tokens for the condition; None without one.
            sample_shape: draws of z per example, leading.

        Raises:
            ValueError: where x has another shape, type, device or range than the model was built for, or holds NaN.
        """
        return self._pass(x, cond, sample_shape)

    def loss(self, x: Tensor, cond: Any = None) -> Report:
        """The objective on a batch: `report.total` is what to minimise, a scalar with its graph.

        A loss with a critic trains it by the same backward pass: each side's loss reaches that side's parameters only.
        """
        wants: Any = self.objective
        through_z, freeze = getattr(wants, "reparameterized", True), getattr(wants, "freezes_decoder", False)
        return wants(self._pass(x, cond, wants.sample_shape, through_z=through_z, freeze=freeze))

    def _pass(
        self, x: Tensor, cond: Any, sample_shape: tuple[int, ...], *, through_z: bool = True, freeze: bool = False
    ) -> Output:
        x = self.check(x)
        tokens = self._embed(cond, len(x))
        level = self._posterior(x, tokens, sample_shape, freeze=freeze)
        if not through_z:
            level = replace(level, z=level.z.detach())
        level = replace(level, p=self._prior_of(level, tokens, freeze=freeze))
        # what is decoded in training, and what it should decode to; shapes are looked at as they are
        z, target = self._transformed(level.z, x, always=False) if self.training and not x.is_meta else (level.z, x)
        y = self._decode(z, tokens, size=target.shape[2:], freeze=freeze)
        return Output(target, y, _pick(self.likelihood, freeze)(y), (level,), cond, tokens, self, x)

    def _transformed(self, z: Tensor, x: Any, *, always: bool) -> tuple[Tensor, Any]:
        """(z, x) as the transforms leave them that belong to the decoder (`always`), or to training alone."""
        chosen = [each for each in self.transforms if getattr(each, "always", False) == always]
        for transform in chosen:
            z, x = transform(z, x)
        if chosen:
            checking.check_transformed(self, z)
        return z, x

    def likelihood_of(
        self, z: Tensor, tokens: Tensor | None = None, *, size: Sequence[int] | None = None
    ) -> Distribution:
        """p(x|z) for latents `(*n, b, *latent_shape)` and the condition's tokens; `size` as in `decode`."""
        return self.likelihood(self._decode(z, tokens, size=size))

    def log_joint(self, out: Output) -> Tensor:
        """log p(x, z) at the draws of `out`, `(*n, b)` nats, as a function of decoder, likelihood and prior alone."""
        (level,) = out.levels
        tokens = None if out.tokens is None else out.tokens.detach()
        return self._log_joint(out.x, tokens, level.z.detach(), level.value.detach())

    def players(self) -> dict[str, list[nn.Parameter]]:
        """Who minimises what: the parameters of the model, and of the critic of each loss that has one, by its label.

        The objective's total trains them all at once; apart they are wanted for learning rates or optimizers of their
        own.
        """
        losses = getattr(self.objective, "terms", {}).items()
        critics = {label: list(loss.critic.parameters()) for label, loss in losses if isinstance(loss, CriticLoss)}
        others = {id(p) for held in critics.values() for p in held}
        return {"vae": [p for p in self.parameters() if id(p) not in others], **critics}

    def _posterior(
        self,
        x: Tensor,
        tokens: Tensor | None,
        sample_shape: tuple[int, ...],
        *,
        freeze: bool = False,
        tiles: Tiles | None = None,
    ) -> Level:
        h = self._call("encoder", x, tokens, tiles=tiles)
        return self.sampler(h, sample_shape, log_joint=partial(self._log_joint, x, tokens, freeze=freeze))

    def _decode(
        self,
        z: Tensor,
        tokens: Tensor | None,
        *,
        size: Sequence[int] | None = None,
        freeze: bool = False,
        tiles: Tiles | None = None,
    ) -> Tensor:
        """y, in the data's `size` where that is given: what the encoder rounded a side up by is cut off."""
        z, _ = self._transformed(z, None, always=True)
        folded, lead = fold(z, len(self.latent_shape))
        if tokens is not None and len(lead) > 1:
            tokens = tokens.expand(*lead, *tokens.shape[1:]).reshape(len(folded), *tokens.shape[1:])
        size = tuple(size) if size is not None and self.any_size else None  # others have one size
        y = self._call("decoder", folded, tokens, size=size, freeze=freeze, tiles=tiles)
        y = y if size is None else checking.cut(self, y, size)
        return unfold(at_least_float32(y), lead)

    def _call(
        self,
        stage: str,
        x: Tensor,
        tokens: Tensor | None,
        *,
        size: Sequence[int] | None = None,
        freeze: bool = False,
        tiles: Tiles | None = None,
    ) -> Any:
        network = getattr(self, stage)
        weight = first_parameter(network)
        if weight is not None and weight.dtype != x.dtype:
            x = x.to(weight.dtype)
        given = (x, tokens) if tokens is not None and self._conditional[stage] else (x,)
        sized = {"size": size} if size is not None and self._sized else {}
        return (_pick(network, freeze) if tiles is None else partial(tiles, network))(*given, **sized)

    def _prior_of(self, level: Level, tokens: Tensor | None, *, freeze: bool = False) -> Distribution | None:
        """p(z) for latents of this level's size, which is another than the model's where the data's is."""
        place = tuple(level.z.shape[level.z.ndim - len(self.latent_shape) :])
        if place == self.latent_shape:
            return self._prior(tokens, freeze=freeze)
        prior: Any = self.prior
        return prior.at(place) if hasattr(prior, "at") else None

    def _prior(self, tokens: Tensor | None, *, freeze: bool = False) -> Distribution:
        def posterior(u: Tensor, tokens: Tensor | None = None) -> Distribution | None:
            return self.sampler(self._call("encoder", u, tokens)).q  # without log_joint, which would ask for this prior

        return _pick(self.prior, freeze)(tokens, posterior=posterior)

    def _embed(self, cond: Any, batch: int) -> Tensor | None:
        if self.condition is not None:
            return self.condition(cond, batch)
        if cond is not None:
            raise ValueError(
                "vae: cond was given, but the model has no condition. Build with condition=use('class', …)."
            )
        return None

    def _log_joint(
        self, x: Tensor, tokens: Tensor | None, z: Tensor, value: Tensor | None = None, *, freeze: bool = False
    ) -> Tensor:
        """log p(x, z), `(*n, b)` nats; `value` is what the prior is a density of, where that is not z."""
        y = self._decode(z, tokens, size=x.shape[2:], freeze=freeze)
        log_p_x = _pick(self.likelihood, freeze)(y).log_prob(x)
        return log_p_x + self._prior(tokens, freeze=freeze).log_prob(z if value is None else value)

    # -- using a model -------------------------------------------------------------------------------------------

    def encode(
        self,
        x: Tensor,
        n: int = 1,
        cond: Any = None,
        *,
        tile: int | None = None,
        exact: bool = True,
        memory: int | None = None,
    ) -> Level:
        """q(z|x), p(z) and n draws: `level.q.mean` and `level.mode` are deterministic, `level.z` is drawn.

        Args:
            x: data, `(b, *input_shape)`.
            n: draws per example; z is `(b, *latent)` for one and `(n, b, *latent)` for more.
            cond: what the condition takes.
            tile: pixels on a side that are encoded at a time, for large images, without a gradient; None for all.
            exact: whether tiles give what the whole image does; otherwise they overlap and are blended.
            memory: bytes that exact tiles may hold; None takes 35 % of what the whole image would.

        Raises:
            ValueError: where x does not fit the model, or its network can't be tiled.
        """
        x = self.check(x)
        tokens = self._embed(cond, len(x))
        level = self._posterior(x, tokens, () if positive(n=n) == 1 else (n,), tiles=_tiles(tile, exact, memory))
        return replace(level, p=self._prior_of(level, tokens))

    def decode(
        self,
        z: Tensor,
        cond: Any = None,
        *,
        size: Sequence[int] | None = None,
        tile: int | None = None,
        exact: bool = True,
        memory: int | None = None,
    ) -> Tensor:
        """The mean of p(x|z), `(*n, b, *input_shape)`, for z `(*n, b, *latent_shape)`.

        Args:
            z: latents.
            cond: what the condition takes.
            size: the data's spatial size, for models that take any (`any_size`) and data whose sides are no multiples
                of the latent's; None for that of `input_shape` where z has the size that belongs to it, and for
                multiples elsewhere.
            tile: latent pixels on a side that are decoded at a time, for large images, without a gradient; None for
                all.
            exact: whether tiles give what the whole latent does; otherwise they overlap and are blended.
            memory: bytes that exact tiles may hold; None takes 35 % of what the whole latent would.

        Raises:
            ValueError: where z does not fit the model, or its network can't be tiled.
        """
        return self._predict(z, cond, size, _tiles(tile, exact, memory)).mean

    def predict(self, z: Tensor, cond: Any = None, *, size: Sequence[int] | None = None) -> Distribution:
        """p(x|z), event shape `(*input_shape)`, batch shape `(*n, b)`; `size` as in `decode`."""
        return self._predict(z, cond, size, None)

    def _predict(self, z: Tensor, cond: Any, size: Sequence[int] | None, tiles: Tiles | None) -> Distribution:
        checking.check_latent(self, z)
        tokens = self._embed(cond, z.shape[-len(self.latent_shape) - 1])
        return self.likelihood(self._decode(z, tokens, size=size, tiles=tiles))

    @torch.no_grad()
    def latents(self, x: Tensor, cond: Any = None, *, sample: bool = False) -> Tensor:
        """z `(b, *latent)` as other models take it, such as a diffusion model: normalised, where there is a normalizer.

        Args:
            x: data, `(b, *input_shape)`.
            cond: what the condition takes.
            sample: a draw of q(z|x) in place of its mode.
        """
        with evaluating(self):
            level = self.encode(x, cond=cond)
            z = level.z if sample else level.mode
            return z if self.normalizer is None else self.normalizer(z)

    @torch.no_grad()
    def decode_latents(self, z: Tensor, cond: Any = None, *, size: Sequence[int] | None = None) -> Tensor:
        """The data of what `latents` gives, or of what a model of them made: the mean of p(x|z).

        Args:
            z: normalised latents, `(b, *latent_shape)`.
            cond: what the condition takes.
            size: as in `decode`.
        """
        with evaluating(self):
            normalizer: Any = self.normalizer
            return self.decode(z if normalizer is None else normalizer.inverse(z), cond, size=size)

    @torch.no_grad()
    def reconstruct(self, x: Tensor, cond: Any = None, *, sample: bool = False) -> Tensor:
        """Data → latent → mean of p(x|z), `(b, *input_shape)`; through the mode of q(z|x) unless `sample`."""
        with evaluating(self):
            level = self.encode(x, cond=cond)
            return self.decode(level.z if sample else level.mode, cond, size=x.shape[2:])

    @torch.no_grad()
    def sample(
        self, n: int, cond: Any = None, temperature: float = 1.0, generator: torch.Generator | None = None
    ) -> Tensor:
        """n new examples, `(n, *input_shape)`: z ~ p(z), then the mean of p(x|z).

        Args:
            n: how many.
            cond: n labels (or vectors, tokens) for a conditional model.
            temperature: scales the spread of p(z); below 1 for typical, above 1 for unusual examples.
            generator: draws the seed, so that the global random state is left alone.
        """
        with evaluating(self), drawing(generator, self.device):
            tokens = self._embed(cond, positive(n=n))
            return self.likelihood_of(self._drawn(n, tokens, temperature), tokens).mean

    def _drawn(self, n: int, tokens: Any = None, temperature: float = 1.0) -> Tensor:
        """n draws z ~ p(z), `(n, *latent_shape)`."""
        p = _tempered(self._prior(tokens), temperature)
        z = p.sample() if p.batch_shape == (n,) else p.sample((n,))
        sampler: Any = self.sampler
        return sampler.lookup(z) if self.space == "codes" else z

    @property
    def any_size(self) -> bool:
        """Whether data of other sizes than `input_shape` pass through: a map latent between networks that take them."""
        parts = (self.encoder, self.decoder)
        return len(self.latent_shape) > 1 and all(getattr(part, "any_size", False) for part in parts)

    @property
    def space(self) -> str:
        """Where z lives: "real", "sphere", "codes", …, as the sampler says."""
        return getattr(self.sampler, "space", "real")

    @torch.no_grad()
    def interpolate(
        self, a: Tensor, b: Tensor, steps: int = 8, cond: Any = None, *, path: Literal["linear", "slerp"] | None = None
    ) -> Tensor:
        """From a to b through the latent, `(steps, b, *input_shape)`; the ends are the reconstructions.

        Args:
            a: data, `(b, *input_shape)`.
            b: data of the same shape.
            steps: points on the way, both ends counted.
            cond: what the condition takes, the same for all steps.
            path: "linear" is straight, "slerp" goes along the sphere that keeps the distance to 0 (Shoemake, 1985);
                None takes what fits the latent's space.
        """
        return walks.interpolate(self, a, b, steps, cond, path)

    @torch.no_grad()
    def traverse(
        self, x: Tensor, dims: Sequence[int] | None = None, steps: int = 8, span: float = 3.0, cond: Any = None
    ) -> Tensor:
        """What each latent dimension does: (len(dims), steps, b, *input_shape).

        Args:
            x: data, `(b, *input_shape)`, whose latents are changed in one dimension at a time.
            dims: latent dimensions, counted over the flattened latent; None: the first 10.
            steps: values of each dimension, evenly from -span to span.
            span: how far to go.
            cond: what the condition takes.
        """
        return walks.traverse(self, x, dims, steps, span, cond)

    @torch.no_grad()
    def augment(
        self,
        x: Tensor,
        n: int = 1,
        strength: float = 1.0,
        cond: Any = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """New variants of given examples, `(b, *input_shape)` for one each and `(n, b, *input_shape)` for more.

        The mean of p(x|z) at z = mode + strength (draw - mode), for draws of q(z|x): on the sphere and in the ball
        along the shortest way, codes one by one.

        Args:
            x: data, `(b, *input_shape)`.
            n: variants of each example.
            strength: 0 for reconstructions, 1 for draws of q(z|x), more for wider variants; of codes 1 at most.
            cond: what the condition takes; variants keep it.
            generator: draws the seed, so that the global random state is left alone.

        Raises:
            ValueError: where the model's sampler gives a point, which has no variants, or the strength is out of range.

        Example:
            >>> import torch, vaekit
            >>> vae = vaekit.build("mlp", latent=2, input_shape=(1, 8, 8))
            >>> vae.augment(torch.rand(5, 1, 8, 8), n=3, strength=2.0).shape
            torch.Size([3, 5, 1, 8, 8])
        """
        return walks.augment(self, x, n, strength, cond, generator)

    @torch.no_grad()
    def impute(
        self,
        x: Tensor,
        mask: Tensor,
        kind: Literal["importance", "gibbs"] = "importance",
        *,
        n: int = 1000,
        cond: Any = None,
        sample: bool = False,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """x with its missing values filled in by the model, given the known ones: `(b, *input_shape)`.

        "importance" estimates E[x_missing | x_known] by n draws of q(z|x), weighed by p(x_known|z) p(z) / q(z|x), and
        becomes exact as n grows. "gibbs" draws z and the missing values in turn, n times, and is right where q(z|x) is
        the model's own posterior; it needs no densities, and comes far where little is known.

        Args:
            x: data, `(b, *input_shape)`. What stands at missing places is where the encoder starts; NaN becomes the
                middle of the data range.
            mask: True where x is known; its shape expands to x's.
            kind: "importance" or "gibbs".
            n: draws, or rounds.
            cond: what the condition takes.
            sample: one draw of p(x_missing | x_known) in place of its mean.
            generator: draws the seed, so that the global random state is left alone.

        Raises:
            ValueError: where x does not fit the model, the mask does not fit x, or the model lacks a density.

        References:
            MIWAE: Deep Generative Modelling and Imputation of Incomplete Data Sets (Mattei & Frellsen, 2019),
            https://arxiv.org/abs/1812.02633; Stochastic Backpropagation and Approximate Inference in Deep Generative
            Models (Rezende et al., 2014; "gibbs"), https://arxiv.org/abs/1401.4082

        Example:
            >>> import torch, vaekit
            >>> vae = vaekit.build("mlp", latent=2, input_shape=(1, 8, 8))
            >>> x, mask = torch.rand(5, 1, 8, 8), torch.rand(5, 1, 8, 8) < 0.7
            >>> filled = vae.impute(x.where(mask, torch.nan), mask, n=100)
            >>> bool((filled == x)[mask].all() and filled.isfinite().all())
            True
        """
        return imputation.impute(self, x, mask, kind, n, cond, sample, generator)

    # -- bounds --------------------------------------------------------------------------------------------------

    def elbo(self, x: Tensor, n: int = 1, cond: Any = None) -> Tensor:
        """E_q[log p(x|z) + log p(z) - log q(z|x)] over n draws, (b,) nats: a lower bound on log p(x)."""
        return self(x, cond, (positive(n=n),)).log_weight().mean(0)

    @torch.no_grad()
    def log_prob(self, x: Tensor, n: int = 1000, cond: Any = None, *, chunk: int | None = None) -> Tensor:
        """log 1/n Σ_i p(x, z_i)/q(z_i|x), z_i ~ q(z|x): the importance-weighted estimate of log p(x), (b,) nats.

        A lower bound in expectation, which rises to log p(x) with n. The model's mode is left as it is found: call
        `vae.eval()` first.

        Args:
            x: data, `(b, *input_shape)`.
            n: draws per example.
            cond: what the condition takes.
            chunk: draws decoded at a time; None: as many as make 4,096 examples with the batch.

        References:
            Importance Weighted Autoencoders (Burda et al., 2016), https://arxiv.org/abs/1509.00519
        """
        return bounds.log_prob(self, x, n, cond, chunk)

    def score(
        self,
        x: Tensor,
        kind: Literal["elbo", "reconstruction", "likelihood_ratio", "mahalanobis"] = "elbo",
        *,
        reference: nn.Module | None = None,
        n: int = 16,
        cond: Any = None,
        seed: int = 0,
        chunk: int = 4096,
    ) -> Tensor:
        """How usual each example is, (b,): small numbers tell anomalies. See `vaekit.scoring`.

        Args:
            x: data, `(b, *input_shape)`.
            kind: "elbo", "reconstruction" (log p(x|z) at the mode), "likelihood_ratio" (the ELBO less that of a
                background model) or "mahalanobis" (distance in z from usual data).
            reference: what the last two compare with: a `VAE` trained on `scoring.perturb(x)`, or
                `scoring.statistics(vae, usual)`.
            n: draws of z per example, for "elbo" and "likelihood_ratio".
            cond: what the condition takes.
            seed: of these draws, the same ones for every example.
            chunk: examples times draws that are decoded at a time.

        Raises:
            ValueError: where there is no such kind, its reference is missing, or the model has no density for it.

        Example:
            >>> import torch, vaekit
            >>> vae = vaekit.build("mlp", latent=2, input_shape=(1, 8, 8))
            >>> vae.score(torch.rand(5, 1, 8, 8)).shape
            torch.Size([5])
        """
        from vaekit import scoring  # knows the class VAE

        return scoring.score(self, x, kind, reference=reference, n=n, cond=cond, seed=seed, chunk=chunk)

    # -- after training ------------------------------------------------------------------------------------------

    @torch.no_grad()
    def fit_prior(
        self, name: "str | type | Spec | nn.Module", data: Any, *, batch_size: int = 512, **args: Any
    ) -> "VAE":
        """Fit a density to the latents of `data` and put it in the prior's place; it is saved with the model.

        Args:
            name: a prior that can be fitted, by name, as `use(...)`, as a class or as a module.
            data: a tensor `(n, *input_shape)`, a pair (tensor, labels), or an iterable of batches: tensors, or tuples
                that start with one. A model with a condition takes the labels that come second. Two tensors of data
                are two batches.
            batch_size: examples encoded at a time where `data` is a tensor.
            args: the prior's own arguments.

        Raises:
            TypeError: where the prior can't be fitted.
            ValueError: where `data` is empty or too few for the prior, or the encoder gives NaN.

        Returns:
            The model itself.
        """
        latent_fits.fit_prior(self, name, data, batch_size, args)
        return self

    @torch.no_grad()
    def fit_normalizer(self, data: Any, *, batch_size: int = 512) -> "VAE":
        """Fit the normalizer to the latents of `data`, in one pass; it is saved with the model.

        Args:
            data: as for `fit_prior`.
            batch_size: examples encoded at a time where `data` is a tensor.

        Raises:
            TypeError: where there is no normalizer, or none that can be fitted.
            ValueError: where `data` is empty.

        Returns:
            The model itself.
        """
        latent_fits.fit_normalizer(self, data, batch_size)
        return self

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `spec.json` and `model.safetensors` into `folder`, each whole or not at all; `vaekit.load` reads them.

        Raises:
            BuildError: where a slot holds a module that names can't say; the message says which and what to do.
            CheckpointError: where the folder can't be written.
        """
        write_model(self, self._written(), folder)

    def push_to_hub(self, repo_id: str, *, private: bool = False, token: str | None = None) -> str:
        """Upload the saved model, with a model card, to the Hugging Face hub, and return the commit's address.

        Args:
            repo_id: "user/name"; made where it does not exist.
            private: whether a new repository is private.
            token: access token; None takes the one that `hf auth login` stored.
        """
        return push(self, self._written(), repo_id, private=private, token=token)

    def _written(self) -> Spec:
        """The spec with every built module written down by name."""
        if self.spec is None:
            raise ValueError(
                "vae: was made from modules without a spec, so it can't be written down. Use vaekit.build."
            )
        return write_down(self.spec, self.wired)

    # -- looking at a model --------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return draw(self)

    @property
    def device(self) -> torch.device:
        """Where the model's weights are."""
        weight = first_parameter(self)
        return weight.device if weight is not None else torch.device("cpu")

    def check(self, x: Tensor) -> Tensor:
        """x in the model's precision, or an error that says what is wrong with it.

        Shape, type and device are looked at on every pass, values on every pass on the CPU and on the first one
        elsewhere, since reading them waits for the device.

        Raises:
            ValueError: where x does not fit the model.
        """
        return checking.check(self, x)

    def _check_values(self, x: Tensor) -> None:
        checking.check_values(self, x)


def _pick(module: nn.Module, freeze: bool) -> Callable[..., Any]:
    """The module, or its forward pass with its weights frozen."""
    return partial(frozen, module) if freeze else module


def _tiles(tile: int | None, exact: bool, memory: int | None) -> Tiles | None:
    if tile is None:
        return None
    from vaekit.tiling import in_tiles  # knows the networks

    return in_tiles(tile, exact=exact, memory=memory)


def _tempered(p: Distribution, temperature: float) -> Distribution:
    """p with its spread around the mean scaled by `temperature`; of a mixture, that of each component."""
    if temperature == 1.0:
        return p
    if not temperature > 0:
        raise ValueError(f"temperature: expected a positive number, got {temperature}.")
    if isinstance(p, MixtureSameFamily):
        parts = _tempered(p.component_distribution, temperature)
        return MixtureSameFamily(p.mixture_distribution, parts, validate_args=False)
    if isinstance(p, Independent) and isinstance(p.base_dist, Normal):
        base = Normal(p.base_dist.loc, p.base_dist.scale * temperature, validate_args=False)
        return Independent(base, p.reinterpreted_batch_ndims, validate_args=False)
    raise ValueError(f"temperature: {type(p).__name__} has no scale to change. Leave temperature=1.")
