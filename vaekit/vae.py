"""The graph: parts in, everything that one does with a VAE out.

    x ─► encoder ─► h ─► sampler ─► z ─► decoder ─► y ─► likelihood ─► p(x|z)
                          └► q(z|x) ── kl ── p(z) ◄─ prior

One class serves every flat variant. `vaekit.build` makes it from names; it can be made from modules as well.
"""

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, MixtureSameFamily, Normal

from vaekit.draw import draw
from vaekit.kinds import CriticLoss, FittedPrior
from vaekit.layers.frozen import frozen
from vaekit.layers.precision import at_least_float32
from vaekit.records import Level, Output, Report, fold, unfold
from vaekit.saving import push, write_model
from vaekit.spec import Spec
from vaekit.wiring import as_spec, check_space, latent_wiring, make, refuse_passing_names, written

DataRange = tuple[float, float] | None


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
        z, target = self._transformed(level.z, x)
        y = self._decode(z, tokens, freeze=freeze)
        return Output(target, y, _pick(self.likelihood, freeze)(y), (level,), cond, tokens, self, x)

    def _transformed(self, z: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """What is decoded in training, and what it should decode to."""
        if self.training and not x.is_meta:  # shapes are looked at as they are
            for transform in self.transforms:
                if not getattr(transform, "always", False):
                    z, x = transform(z, x)
        return z, x

    def likelihood_of(self, z: Tensor, tokens: Tensor | None = None) -> Distribution:
        """p(x|z) for latents `(*n, b, *latent_shape)` and the condition's tokens."""
        return self.likelihood(self._decode(z, tokens))

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
        self, x: Tensor, tokens: Tensor | None, sample_shape: tuple[int, ...], *, freeze: bool = False
    ) -> Level:
        h = self._call("encoder", x, tokens)
        return self.sampler(h, sample_shape, log_joint=partial(self._log_joint, x, tokens, freeze=freeze))

    def _decode(self, z: Tensor, tokens: Tensor | None, *, freeze: bool = False) -> Tensor:
        for transform in self.transforms:
            if getattr(transform, "always", False):
                z, _ = transform(z, None)
        if tuple(z.shape[z.ndim - len(self.latent_shape) :]) != self.latent_shape and not self.any_size:
            raise ValueError(
                f"vae.decode: {type(self.decoder).__name__} decodes latents of shape {self.latent_shape}, and one of "
                f"the transforms made them {tuple(z.shape[z.ndim - len(self.latent_shape) :])}. Use networks that take "
                "any size, such as 'kl_resnet', or a transform that keeps it: use('equivariance', least=1)."
            )
        folded, lead = fold(z, len(self.latent_shape))
        if tokens is not None and len(lead) > 1:
            tokens = tokens.expand(*lead, *tokens.shape[1:]).reshape(len(folded), *tokens.shape[1:])
        y = self._call("decoder", folded, tokens, freeze=freeze)
        return unfold(at_least_float32(y), lead)

    def _call(self, stage: str, x: Tensor, tokens: Tensor | None, *, freeze: bool = False) -> Any:
        network = getattr(self, stage)
        weight = first_parameter(network)
        if weight is not None and weight.dtype != x.dtype:
            x = x.to(weight.dtype)
        given = (x, tokens) if tokens is not None and self._conditional[stage] else (x,)
        return _pick(network, freeze)(*given)

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
        log_p_x = _pick(self.likelihood, freeze)(self._decode(z, tokens, freeze=freeze)).log_prob(x)
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
        if tile is not None:
            from vaekit.tiling import encode_tiled  # knows the networks

            return encode_tiled(self, x, tile, _positive(n=n), exact=exact, cond=cond, memory=memory)
        x = self.check(x)
        tokens = self._embed(cond, len(x))
        level = self._posterior(x, tokens, () if _positive(n=n) == 1 else (n,))
        return replace(level, p=self._prior_of(level, tokens))

    def decode(
        self,
        z: Tensor,
        cond: Any = None,
        *,
        tile: int | None = None,
        exact: bool = True,
        memory: int | None = None,
    ) -> Tensor:
        """The mean of p(x|z), `(*n, b, *input_shape)`, for z `(*n, b, *latent_shape)`.

        Args:
            z: latents.
            cond: what the condition takes.
            tile: latent pixels on a side that are decoded at a time, for large images, without a gradient; None for
                all.
            exact: whether tiles give what the whole latent does; otherwise they overlap and are blended.
            memory: bytes that exact tiles may hold; None takes 35 % of what the whole latent would.

        Raises:
            ValueError: where z does not fit the model, or its network can't be tiled.
        """
        if tile is not None:
            from vaekit.tiling import decode_tiled  # knows the networks

            return decode_tiled(self, z, tile, exact=exact, cond=cond, memory=memory)
        return self.predict(z, cond).mean

    def predict(self, z: Tensor, cond: Any = None) -> Distribution:
        """p(x|z), event shape `(*input_shape)`, batch shape `(*n, b)`."""
        self._check_latent(z)
        batch = z.shape[-len(self.latent_shape) - 1]
        return self.likelihood_of(z, self._embed(cond, batch))

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
    def decode_latents(self, z: Tensor, cond: Any = None) -> Tensor:
        """The data of what `latents` gives, or of what a model of them made: the mean of p(x|z)."""
        with evaluating(self):
            normalizer: Any = self.normalizer
            return self.decode(z if normalizer is None else normalizer.inverse(z), cond)

    @torch.no_grad()
    def reconstruct(self, x: Tensor, cond: Any = None, *, sample: bool = False) -> Tensor:
        """Data → latent → mean of p(x|z), `(b, *input_shape)`; through the mode of q(z|x) unless `sample`."""
        with evaluating(self):
            level = self.encode(x, cond=cond)
            return self.decode(level.z if sample else level.mode, cond)

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
        with evaluating(self), _seeded(generator, self._device):
            tokens = self._embed(cond, _positive(n=n))
            p = _tempered(self._prior(tokens), temperature)
            z = p.sample() if p.batch_shape == (n,) else p.sample((n,))
            sampler: Any = self.sampler
            return self.likelihood_of(sampler.lookup(z) if self.space == "codes" else z, tokens).mean

    @property
    def any_size(self) -> bool:
        """Whether data of other sizes than `input_shape` pass through: a map latent between networks that take them."""
        parts = (self.encoder, self.decoder)
        return len(self.latent_shape) > 1 and all(getattr(part, "any_size", False) for part in parts)

    def _check_latent(self, z: Tensor) -> None:
        dims, told = len(self.latent_shape), 1 if self.any_size else None
        if z.ndim <= dims or tuple(z.shape[z.ndim - dims :])[:told] != self.latent_shape[:told]:
            raise ValueError(
                f"vae.decode: expected z of shape (…, b, {_shape(self.latent_shape)}), got {tuple(z.shape)}."
            )

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
        path = path if path is not None else "slerp" if self.space == "sphere" else "linear"
        if path not in ("linear", "slerp"):
            raise ValueError(f"path: expected 'linear' or 'slerp', got {path!r}.")
        if a.shape != b.shape:
            raise ValueError(f"interpolate: expected a and b of one shape, got {tuple(a.shape)} and {tuple(b.shape)}.")
        with evaluating(self):
            start, end = self.encode(a, cond=cond).mode, self.encode(b, cond=cond).mode
            t = torch.linspace(0, 1, _positive(steps=steps), device=start.device, dtype=start.dtype)
            t = t.reshape(-1, *[1] * start.ndim)
            z = torch.lerp(start, end, t) if path == "linear" else _slerp(start, end, t)
            return self.decode(z, cond)

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
        size = math.prod(self.latent_shape)
        dims = range(min(10, size)) if dims is None else dims
        if isinstance(dims, int):
            raise ValueError(f"traverse: dims should be a sequence, such as [{dims}], got {dims!r}.")
        if any(not 0 <= d < size for d in dims):
            raise ValueError(f"traverse: dims {list(dims)} are not all in [0, {size}).")
        with evaluating(self):
            z = self.encode(x, cond=cond).mode
            values = torch.linspace(-span, span, _positive(steps=steps), device=z.device, dtype=z.dtype)
            moved = z.flatten(1).expand(len(dims), steps, len(z), size).clone()
            moved.scatter_(
                3,
                torch.as_tensor(dims, device=z.device).reshape(-1, 1, 1, 1).expand(-1, steps, len(z), 1),
                values.reshape(1, -1, 1, 1).expand(len(dims), -1, len(z), 1),
            )
            return self.decode(moved.reshape(len(dims), steps, *z.shape), cond)

    # -- bounds --------------------------------------------------------------------------------------------------

    def elbo(self, x: Tensor, n: int = 1, cond: Any = None) -> Tensor:
        """E_q[log p(x|z) + log p(z) - log q(z|x)] over n draws, (b,) nats: a lower bound on log p(x)."""
        return self(x, cond, (_positive(n=n),)).log_weight().mean(0)

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
        x = self.check(x)
        tokens = self._embed(cond, len(x))
        prior = self._prior(tokens)
        h = self._call("encoder", x, tokens)
        chunk = max(1, 4096 // max(len(x), 1)) if chunk is None else _positive(chunk=chunk)
        total = None
        for start in range(0, _positive(n=n), chunk):
            draws = min(chunk, n - start)
            level = self.sampler(h, (draws,), log_joint=partial(self._log_joint, x, tokens))
            y = self._decode(level.z, tokens)
            out = Output(x, y, self.likelihood(y), (replace(level, p=prior),), cond, tokens, self)
            part = out.log_weight().logsumexp(0)
            total = part if total is None else torch.logaddexp(total, part)
        assert total is not None
        return total - math.log(n)

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
        spec = as_spec("prior", name, "fit_prior")
        spec = spec.replace(**args) if isinstance(spec, Spec) else spec
        check_space(self.sampler, spec, "fit_prior")
        prior = make("prior", spec, self._prior_wiring(), "fit_prior")
        if not isinstance(prior, FittedPrior):
            raise TypeError(f"prior {name!r} has no `fit`: give it to vaekit.build, as prior=.")
        with evaluating(self):
            latents = [level.value for level in self._levels(data, batch_size)]
        if not latents:
            raise ValueError("fit_prior: data is empty.")
        values, weight = torch.cat(latents), first_parameter(self)
        if values.is_floating_point() and not torch.isfinite(values).all():
            raise ValueError("fit_prior: the latents hold NaN or infinite values. Look at what the encoder gives.")
        (prior if weight is None else prior.to(weight)).fit(values)
        self.prior = prior
        self.spec = self.spec.replace(prior=spec) if self.spec is not None else None
        return self

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
        normalizer: Any = self.normalizer
        if normalizer is None:
            raise TypeError("fit_normalizer: the model has none. Build it with normalizer='channel_stats'.")
        with evaluating(self), torch.no_grad():
            normalizer.fit(level.mode for level in self._levels(data, batch_size))
        return self

    def _levels(self, data: Any, batch_size: int) -> Iterator[Level]:
        """q(z|x) of all data, batch by batch."""
        for x, label in _batches(data, batch_size, self._device, self.condition is not None, self.input_shape):
            yield self._posterior(self.check(x), self._embed(label, len(x)), ())

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
        args = dict(self.spec.args)
        for slot, part in args.items():
            if isinstance(part, Spec):
                refuse_passing_names(slot, part.name, f"vae.{slot}")
            elif isinstance(part, nn.Module):
                args[slot] = written(slot, part, self.wired.get(slot, {}), f"vae.{slot}")
        if "transforms" in args:
            args["transforms"] = tuple(
                written("transform", each, self.wired.get("loss", {}), f"vae.transforms[{i}]")
                if isinstance(each, nn.Module)
                else each
                for i, each in enumerate(args["transforms"])
            )
        args["loss"] = tuple(self._written_term(i, each) for i, each in enumerate(args["loss"]))
        return Spec(self.spec.kind, self.spec.name, args)

    def _written_term(self, i: int, each: Spec) -> Spec:
        args = dict(each.args)
        module, weight = args.pop("module", None), args.get("weight")
        refuse_passing_names("loss", each.name, f"vae.loss[{i}]")
        if isinstance(weight, nn.Module):
            args["weight"] = written("weight", weight, {}, f"vae.loss[{i}].weight")
        if module is None:
            return Spec(each.kind, each.name, args)
        loss = written("loss", module, self.wired.get("loss", {}), f"vae.loss[{i}]")
        return Spec(each.kind, loss.name, {**args, **loss.args})

    def _prior_wiring(self) -> dict[str, Any]:
        cond_dim = getattr(self.condition, "dim", 0)
        shapes = {"latent_shape": self.latent_shape, "input_shape": self.input_shape, "data_range": self.data_range}
        return {**shapes, "cond_dim": cond_dim, "in_channels": self.latent_shape[0], **latent_wiring(self.sampler)}

    # -- looking at a model --------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return draw(self)

    @property
    def _device(self) -> torch.device:
        weight = first_parameter(self)
        return weight.device if weight is not None else torch.device("cpu")

    # -- bad input -----------------------------------------------------------------------------------------------

    def check(self, x: Tensor) -> Tensor:
        """x in the model's precision, or an error that says what is wrong with it.

        Shape, type and device are looked at on every pass, values on every pass on the CPU and on the first one
        elsewhere, since reading them waits for the device.

        Raises:
            ValueError: where x does not fit the model.
        """
        if not isinstance(x, Tensor):
            hint = "Use torch.as_tensor(x)." if hasattr(x, "__array__") else "Give the data alone, as torch.Tensor."
            raise ValueError(f"vae: expected a tensor, got {type(x).__name__}. {hint}")
        if tuple(x.shape[1:]) != self.input_shape and not (
            self.any_size and x.ndim == len(self.input_shape) + 1 and x.shape[1] == self.input_shape[0]
        ):
            raise ValueError(self._wrong_shape(x))
        if len(x) == 0:
            raise ValueError("vae: the batch is empty.")
        if not x.is_floating_point():
            hint = "x.float() / 255" if x.dtype == torch.uint8 and self.data_range == (0.0, 1.0) else "x.float()"
            raise ValueError(f"vae: expected floating-point data in {self._range}, got {x.dtype}. Use {hint}.")
        weight = first_parameter(self)
        if weight is not None:
            if weight.device != x.device:
                raise ValueError(
                    f"vae: x is on {x.device} and the model on {weight.device}. Use x.to('{weight.device}')."
                )
            x = x.to(torch.float64 if weight.dtype == torch.float64 else torch.float32)
        self._check_values(x)
        return x

    def _check_values(self, x: Tensor) -> None:
        # every batch on the CPU, where looking is cheap; elsewhere the first one, since looking waits for the device
        if torch.compiler.is_compiling() or x.device.type == "meta" or x.numel() == 0:
            return
        if x.device.type != "cpu":
            if x.device.type in self._checked_on:
                return
            self._checked_on.add(x.device.type)
        low, high = (float(v) for v in torch.aminmax(x.detach()))
        if not (math.isfinite(low) and math.isfinite(high)):
            bad = (~torch.isfinite(x)).flatten(1).any(1).nonzero().flatten().tolist()
            shown = ", ".join(map(str, bad[:5])) + (", …" if len(bad) > 5 else "")
            raise ValueError(f"vae: x holds NaN or infinite values, in example {shown} of the batch. Clean the data.")
        smallest = getattr(self.likelihood, "least", None)
        if smallest is not None and low < smallest:
            raise ValueError(
                f"vae: x has values down to {low:.4g}, and {type(self.likelihood).__name__} is for data of at least "
                f"{smallest:g}. Give counts, or use another likelihood."
            )
        if self.data_range is not None:
            least, most = self.data_range
            slack = 1e-3 * (most - least)  # rounding of a resize, or of half precision
            if low < least - slack or high > most + slack:
                raise ValueError(
                    f"vae: x has values from {low:.4g} to {high:.4g}, and the model was built for data in "
                    f"{self._range}. Scale x, or build with the data_range that the data have, None for "
                    "unbounded data."
                )

    def _wrong_shape(self, x: Tensor) -> str:
        expected = f"vae: expected x of shape (b, {_shape(self.input_shape)}), got {tuple(x.shape)}."
        if tuple(x.shape) == self.input_shape:
            return f"{expected} The batch dimension is missing: use x[None]."
        if self.input_shape[0] == 1 and tuple(x.shape[1:]) == self.input_shape[1:]:
            return f"{expected} The channel dimension is missing: use x[:, None]."
        if x.ndim == len(self.input_shape) + 1 and x.shape[2:] == self.input_shape[1:]:
            return (
                f"{expected} It has {x.shape[1]} channels in place of {self.input_shape[0]}: build with "
                f"input_shape=({x.shape[1]}, …) or convert the data."
            )
        if x.ndim == len(self.input_shape) + 1 and (x.shape[-1], *x.shape[1:-1]) == self.input_shape:
            return f"{expected} The channels come last: use x.movedim(-1, 1)."
        return f"{expected} Resize the data, or build with input_shape={tuple(x.shape[1:])}."

    @property
    def _range(self) -> str:
        return "any range" if self.data_range is None else f"[{self.data_range[0]:g}, {self.data_range[1]:g}]"


def _batches(
    data: Any, size: int, device: torch.device, labelled: bool, shape: tuple[int, ...]
) -> Iterator[tuple[Tensor, Any]]:
    """(x, label) on the device, labels only where they are wanted; empty batches are left out."""
    if isinstance(data, Tensor):
        data = data.split(size)
    elif (
        isinstance(data, tuple)
        and len(data) == 2
        and all(isinstance(each, Tensor) for each in data)
        and tuple(data[1].shape[1:]) != shape  # else two batches of data
    ):
        data = zip(*(each.split(size) for each in data), strict=True)
    for batch in data:
        x, *rest = (batch,) if isinstance(batch, Tensor) else batch
        if len(x):
            label = rest[0] if labelled and rest else None
            yield x.to(device), label.to(device) if isinstance(label, Tensor) else label


def _pick(module: nn.Module, freeze: bool) -> Callable[..., Any]:
    """The module, or its forward pass with its weights frozen."""
    return partial(frozen, module) if freeze else module


def first_parameter(module: nn.Module) -> Tensor | None:
    """The first parameter that a module holds: its device and precision stand for the module's.

    `next(module.parameters())` walks and remembers the whole tree first, which shows in a small model's step.
    """
    for parameter in module._parameters.values():
        if parameter is not None:
            return parameter
    for child in module._modules.values():
        if child is not None and (found := first_parameter(child)) is not None:
            return found
    return None


def takes_tokens(network: nn.Module) -> bool:
    """Whether a network's forward has room for the condition's tokens beside x or z."""
    parameters = inspect.signature(network.forward).parameters.values()
    return sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters) >= 2


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block, and each submodule's own mode again after it."""
    modes = [(m, m.training) for m in module.modules() if m.training]
    module.eval()
    try:
        yield
    finally:
        for m, mode in modes:
            m.training = mode


@contextmanager
def _seeded(generator: torch.Generator | None, device: torch.device) -> Iterator[None]:
    """Draw from a seed of `generator`, and leave the global random state as it was.

    torch.distributions take no generator, so its state is put under the global one for a moment.
    """
    if generator is None:
        yield
        return
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


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


def _slerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Spherical interpolation of whole latents; nearly parallel ones are interpolated straight."""
    dims = tuple(range(1, a.ndim))
    norm_a, norm_b = (torch.linalg.vector_norm(v, dim=dims, keepdim=True).clamp_min(1e-12) for v in (a, b))
    angle = ((a / norm_a) * (b / norm_b)).sum(dims, keepdim=True).clamp(-1, 1).acos()
    sine = angle.sin()
    curved = ((1 - t) * angle).sin() / sine * a + (t * angle).sin() / sine * b
    return torch.where(sine < 1e-4, torch.lerp(a, b, t), curved)


def _positive(**given: int) -> int:
    ((name, value),) = given.items()
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}: expected a whole number of at least 1, got {value!r}.")
    return value


def _shape(shape: Sequence[int]) -> str:
    return ", ".join(map(str, shape))
