"""The laws that parts obey, for vaekit's own tests and for those of plugins.

    from vaekit.testing import check

    def test_swin() -> None:
        check("encoder", "swin", window=4)

A law is a function that takes a `Subject` and raises `AssertionError` where the part breaks it. `laws(kind)` lists
them, `check` runs them all.
"""

import contextlib
import copy
import json
import math
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from vaekit.build import build, load
from vaekit.kinds import CriticLoss, FittedPrior
from vaekit.layers.resample import pyramid
from vaekit.records import Output
from vaekit.registry import Registry, UnknownArgument, parameters, registries
from vaekit.spec import Spec, term, use
from vaekit.vae import VAE
from vaekit.wiring import BuildError, make

FAILURE_RATE = 1e-4
"""Chance that `goodness_of_fit` calls right samples wrong."""

SHAPES: Mapping[int, tuple[int, ...]] = {0: (6,), 1: (2, 11), 2: (3, 9, 14), 3: (1, 5, 6, 7)}
"""Data shapes, odd sizes among them, that parts are tried on, by number of spatial dimensions."""

_TINY = {"hidden": (16,)}


@dataclass(frozen=True)
class Subject:
    """A part under test: its kind, name and arguments."""

    kind: str
    name: str
    args: Mapping[str, Any] = field(default_factory=dict)

    @property
    def target(self) -> Any:
        """The registered class or function."""
        return registries()[self.kind][self.name]

    @property
    def spec(self) -> Spec:
        """The part as one writes it into a slot."""
        return use(self.name, **self.args)

    def make(self, **wired: Any) -> Any:
        """The part alone, wired with `wired`."""
        return make(self.kind, self.spec.of_kind(self.kind), wired, self.name)

    def model(self, input_shape: Sequence[int] = SHAPES[0], latent: Any = None, **slots: Any) -> VAE:
        """The part inside a small model, with linear layers in the other slots, and others only where it asks for them.

        Args:
            input_shape: the data's shape.
            latent: the latent's shape; None takes 2, or the first small size that the part takes.
            slots: what other slots should have.

        Raises:
            BuildError: the first one, where the part fits into none of the small models that are tried.
        """
        slots = {"encoder": use("mlp", **_TINY), "decoder": use("mlp", **_TINY), **slots}
        if self.kind == "loss":
            slots.setdefault("loss", [term("nll"), term(self.spec)])
        else:
            slots[self.kind] = self.spec
        chosen = "loss" in slots
        if self.kind == "sampler" or (self.kind == "prior" and not self.target.has_density):
            slots.setdefault("loss", [term("nll")])
        if self.kind == "condition" or "condition" in slots:
            slots.setdefault("condition", use("class", classes=3, dim=5))
        first = None
        for shape, size, extra in self._surroundings(input_shape, latent):
            try:
                vae = build(input_shape=shape, latent=size, **{**extra, **slots})
            except BuildError as error:
                first = first or error
            else:
                return vae if chosen or self.kind != "sampler" else self._with_terms(vae)
        assert first is not None
        raise first

    def _surroundings(self, shape: Sequence[int], latent: Any) -> Iterator[tuple[Sequence[int], Any, dict[str, Any]]]:
        """Models to try, the plainest first."""
        sizes = (2, 3, 4, 6) if latent is None else (latent,)
        learned, binary = {"likelihood": use("gaussian", scale="learned")}, {"likelihood": "bernoulli"}
        fixed = {"likelihood": use("gaussian", scale=1.0)} if self.kind == "loss" else learned
        space = self.target.spaces[0] if self.kind == "prior" else "real"
        for size in sizes:
            if space == "real":
                yield shape, size, fixed
                yield shape, size, binary
                yield shape, size, {**fixed, "condition": use("class", classes=3, dim=5)}
            for sampler in _SAMPLERS.get(space, ()):
                yield shape, size, {**learned, "sampler": sampler}
        if self.kind == "loss":
            for other in ((1, 12, 13), (3, 32, 32)) if tuple(shape) == SHAPES[0] else ():
                yield other, sizes[0], binary
            yield (3, 16, 16), (2, 3, 3), fixed
            for sampler in (each for samplers in _SAMPLERS.values() for each in samplers):
                for condition in ({}, {"condition": use("target", classes=2)}):
                    yield shape, 4 if latent is None else latent, {**fixed, **condition, "sampler": sampler}

    def _with_terms(self, vae: VAE) -> VAE:
        """The model with the terms that its latent calls for."""
        assert vae.spec is not None
        level = vae.encode(_data(vae, 2))
        terms = [term("nll"), *(term(name) for name in level.penalties if name in registries()["loss"])]
        if level.q is not None or (level.has_density and level.index is None):
            terms.append(term("kl"))
        return build(vae.spec, loss=terms)


# samplers that stand for their spaces
_SAMPLERS: Mapping[str, tuple[Any, ...]] = {
    "codes": (
        use("gumbel_softmax", categories=2),
        "relaxed_bernoulli",
        use("vq", codebook_size=8),
        use("vq", codebook_size=8, learn="gradient"),
        "lfq",
    ),
    "sphere": ("power_spherical",),
    "ball": ("wrapped_normal", "riemannian_normal"),
    "positive": ("gamma",),
    "mixed": (use("joint", categories=2),),
}


Law: TypeAlias = Callable[[Subject], None]


def check(kind: str, name: str, /, **args: Any) -> None:
    """Run every law of a kind on a registered part.

    Args:
        kind: "encoder", "prior", …
        name: the registered name.
        args: the part's own arguments; choose a small network.

    Raises:
        AssertionError: naming the law that the part breaks, and how.

    Example:
        >>> check("encoder", "mlp", hidden=(8,))
    """
    subject = Subject(kind, name, args)
    for law in laws(kind):
        try:
            with _seed(0):  # the same every time: what passes once passes always
                law(subject)
        except Exception as error:
            raise AssertionError(f"{kind} {name!r} breaks the law '{law.__name__}': {error}") from error


def laws(kind: str) -> tuple[Law, ...]:
    """The laws of a kind, each to be called with a `Subject`.

    Raises:
        ValueError: where there is no such kind.
    """
    if kind not in _LAWS:
        raise ValueError(f"kind: expected one of {', '.join(_LAWS)}; got {kind!r}.")
    return (documents_its_arguments, refuses_an_unknown_argument, *_LAWS[kind])


# -- every kind --------------------------------------------------------------------------------------------------------


def documents_its_arguments(subject: Subject) -> None:
    """The docstring has a first line, and says something of every argument that the user may give."""
    document = subject.target.__doc__ or ""
    assert document.strip(), "it has no docstring"
    wiring = registries()[subject.kind].wiring
    for name in parameters(subject.target):
        assert name in wiring or re.search(rf"^\s+{name}: \S", document, re.MULTILINE), f"'{name}' is not documented"


def refuses_an_unknown_argument(subject: Subject) -> None:
    """A misspelt argument is an error, not silence."""
    registry: Registry[Any] = registries()[subject.kind]
    try:
        registry.check_arguments(subject.target, {"no_such_argument"}, "here")
    except UnknownArgument:
        return
    raise AssertionError("it takes an argument that it does not have")


# -- encoders and decoders ---------------------------------------------------------------------------------------------


def works_at_every_rank_that_it_claims(subject: Subject) -> None:
    """In a model, with a vector latent: the loss is finite, y has the data's exact size, every parameter learns."""
    for shape in _shapes(subject):
        _trains(subject.model(shape))


def takes_or_explains_a_map_latent(subject: Subject) -> None:
    """A map latent works, or is refused by an error that speaks of the latent."""
    for shape in _shapes(subject):
        if len(shape) == 1:
            continue
        try:
            vae = subject.model(shape, (1, *pyramid(shape[1:], 1)[1]))
        except BuildError as error:
            assert "latent" in str(error), f"the error does not speak of the latent: {error}"
        else:
            _trains(vae)


def treats_examples_alone(subject: Subject) -> None:
    """In evaluation mode, what comes of an example does not depend on the rest of its batch."""
    for shape in _shapes(subject):
        vae = _perturbed(subject.model(shape)).eval()
        x = _data(vae, 4)
        with torch.no_grad():
            _close(vae.reconstruct(x)[:2], vae.reconstruct(x[:2]), "one example's result and the same in a batch")
            _close(vae.reconstruct(x), vae.reconstruct(x), "two results for the same data", exact=True)


def uses_a_condition_where_it_takes_one(subject: Subject) -> None:
    """A part that is wired with `cond_dim` gives something else for another class, and learns through it."""
    if "cond_dim" not in parameters(subject.target):
        return
    vae = subject.model(_shapes(subject)[-1], condition=use("class", classes=3, dim=5))
    _trains(vae)
    x, cond = _data(vae, 2), torch.tensor([0, 0])
    part = getattr(vae.eval(), subject.kind)
    given = x if subject.kind == "encoder" else torch.randn(2, *vae.latent_shape)
    assert vae.condition is not None
    a, b = (part(given, vae.condition(c, 2)) for c in (cond, cond + 1))
    assert not torch.allclose(a, b), "two classes give the same"


def decodes_without_seeing_x(subject: Subject) -> None:
    """Given a prior sample, the gradient of y with respect to x is exactly zero, also just after x was encoded."""
    for shape in _shapes(subject):
        vae = subject.model(shape)
        x = _data(vae, 2).requires_grad_()
        out = vae(x)
        p = out.levels[0].p
        assert p is not None
        y = vae.predict(p.sample((2,))).mean
        (gradient,) = torch.autograd.grad(y.sum(), x, allow_unused=True)
        assert gradient is None or not gradient.any(), "y changes with x although z does not"


# -- samplers ----------------------------------------------------------------------------------------------------------


def draws_of_every_shape(subject: Subject) -> None:
    """z is `(*sample_shape, b, *latent)` for vector and map latents, and log q is `(*sample_shape, b)`.

    A sampler may refuse maps, or sizes that it can't split, by an error that speaks of the latent.
    """
    taken = []
    for in_shape, tail in (((7,), ()), ((4, 2, 3), ()), ((4, 2, 3), (2, 3)), ((7,), (2, 3))):
        for channels in (3, 2, 4, 6):
            latent = (channels, *tail)
            try:
                sampler = _alone(subject, in_shape, latent)
            except BuildError as error:
                assert "latent" in str(error), f"the error does not speak of the latent: {error}"
                continue
            taken.append(latent)
            for lead in ((), (5,), (2, 3)):
                level = sampler(torch.randn(4, *in_shape), lead)
                assert level.z.shape == (*lead, 4, *latent), f"z is {tuple(level.z.shape)} for sample_shape {lead}"
                assert level.mode.shape == (4, *latent) or level.q is None, f"the mode is {tuple(level.mode.shape)}"
                if level.has_density:
                    assert level.log_posterior().shape == (*lead, 4), "log q has another shape"
                if level.index is not None:
                    assert level.index.shape == (*lead, 4, *sampler.index_shape), "the codes have another shape"
                    assert int(level.index.max()) < sampler.codebook_size, "a code outside the codebook"
            break
    assert any(len(latent) == 1 for latent in taken), "it takes no vector latent"


def draws_follow_their_density(subject: Subject) -> None:
    """Draws of z are distributed as q says, where q can be evaluated, and as log q says in any case."""
    sampler = _alone(subject, (4,), (2,)) if subject.target.space == "real" else _smallest(subject, (4,))
    level = sampler(torch.randn(1, 4), (10_000,))
    if level.q is None or not level.has_density:
        return
    q, value = level.q, level.value[:, 0].detach()
    if level.index is not None:
        _fits(value.flatten(1)[:, :2].float(), lambda k: _marginal(q, k))
    elif subject.target.space == "real":
        if level.log_q is None:
            _fits(value, lambda z: q.log_prob(z[:, None])[:, 0])
        _normalised(value, level.log_posterior()[:, 0].detach())


def looks_up_its_codes(subject: Subject) -> None:
    """z is what `lookup` makes of the codes, in evaluation mode; another choice of codes gives another z."""
    if subject.target.space != "codes":
        return
    sampler = _smallest(subject, (4,)).eval()
    level = sampler(torch.randn(6, 4), (3,))
    _close(sampler.lookup(level.index), level.z, "the looked-up codes and z")
    assert not torch.equal(sampler.lookup((level.index + 1) % sampler.codebook_size), level.z), "all codes are one"


def survives_extreme_features(subject: Subject) -> None:
    """Features of ±10⁴ give finite draws and a finite density, and a finite gradient."""
    sampler = _smallest(subject, (4,))
    h = torch.tensor([[1e4] * 4, [-1e4] * 4], requires_grad=True)
    level = sampler(h)
    total = level.z.sum() * 1e-6
    if level.has_density:
        assert torch.isfinite(level.log_posterior()).all(), "log q is not finite"
        total = total + level.log_posterior().sum()
    (gradient,) = torch.autograd.grad(total, h, allow_unused=True)
    assert torch.isfinite(level.z).all(), "z is not finite"
    assert gradient is None or torch.isfinite(gradient).all(), "the gradient is not finite"


# -- priors ------------------------------------------------------------------------------------------------------------


def samples_follow_log_prob(subject: Subject) -> None:
    """Samples of p(z) are distributed as its log_prob says, which is normalised."""
    vae = subject.model()
    if vae.space in ("sphere", "ball") or not getattr(subject.target, "has_density", True):
        return  # densities over curved spaces, which no grid of cells covers; or no density
    p = _prior(vae, lambda z: z @ torch.tensor([[1.0, 0.5], [0.0, 0.7]]) + 1)
    draws = p.sample((10_000,)).reshape(10_000, -1, *p.event_shape)[:, 0]
    if vae.space == "codes":
        _fits(draws.flatten(1)[:, :2].float(), lambda k: _marginal(p, k))
    elif vae.space != "mixed":
        batched = p.batch_shape != ()
        _fits(draws, (lambda z: p.log_prob(z[:, None])[:, 0]) if batched else p.log_prob)


def follows_the_model(subject: Subject) -> None:
    """The density has the model's precision, and keeps it in a saved and loaded model."""
    vae = subject.model().double()
    drawn = _prior(vae, lambda z: z).sample((2,))
    assert drawn.dtype == torch.float64 or vae.space == "codes", "the density stays in single precision"
    vae = subject.model()
    _prior(vae, lambda z: z)
    _round_trips(vae, perturb=not isinstance(vae.prior, FittedPrior))


def fits_better_after_fit(subject: Subject) -> None:
    """A prior with `fit` gives what it was fitted to a higher density than a standard normal or uniform codes do."""
    if not issubclass(subject.target, FittedPrior) or not subject.target.has_density:
        return
    vae = subject.model()
    prior: Any = vae.prior
    if vae.space == "codes":
        sampler: Any = vae.sampler
        shape, size = sampler.index_shape, sampler.codebook_size
        z = torch.randint(max(size // 2, 1), (500, *shape))
        prior.fit(z)
        assert prior().log_prob(z).mean() > -math.prod(shape) * math.log(size), "it fits no better than uniform codes"
        return
    z = torch.randn(2000, *vae.latent_shape) * 0.2 + torch.tensor([3.0, -2.0])[: vae.latent_shape[0]]
    prior.fit(z)
    standard = torch.distributions.Normal(0.0, 1.0).log_prob(z).flatten(1).sum(1).mean()
    assert prior().log_prob(z).mean() > standard, "it fits no better than a standard normal"


# -- likelihoods -------------------------------------------------------------------------------------------------------


def normalises(subject: Subject) -> None:
    """Samples of p(x|z) are distributed as its log_prob says."""
    likelihood = subject.make(input_shape=(2,), data_range=_range(subject)).eval()
    y = torch.randn(1, likelihood.channels(2))
    p = likelihood(y)
    _fits(p.sample((10_000,))[:, 0], lambda x: p.log_prob(x[:, None])[:, 0])


def treats_draws_alone(subject: Subject) -> None:
    """log p(x|z) over sample dimensions equals that of each draw alone, and is summed over the data's shape."""
    likelihood = subject.make(input_shape=(2, 3, 4), data_range=_range(subject)).eval()
    y, x = torch.randn(5, 3, likelihood.channels(2), 3, 4), torch.rand(3, 2, 3, 4)
    whole = likelihood(y).log_prob(x)
    assert whole.shape == (5, 3), f"log p(x|z) is {tuple(whole.shape)}, expected (n, b)"
    _close(whole, torch.stack([likelihood(each).log_prob(x) for each in y]), "draws together and alone")


def survives_extreme_outputs(subject: Subject) -> None:
    """y of ±10⁴ gives a finite log p(x|z) with a finite gradient."""
    likelihood = subject.make(input_shape=(2,), data_range=_range(subject))
    y = torch.tensor([[1e4] * likelihood.channels(2), [-1e4] * likelihood.channels(2)], requires_grad=True)
    log_p = likelihood(y).log_prob(torch.tensor([[0.0, 1.0], [0.3, 0.6]]))
    (gradient,) = torch.autograd.grad(log_p.sum(), y)
    assert torch.isfinite(log_p).all() and torch.isfinite(gradient).all(), "log p(x|z) or its gradient is not finite"


def has_the_gradient_of_its_values(subject: Subject) -> None:
    """Autograd's gradient of log p(x|z) in y is that of finite differences, in double precision."""
    likelihood = subject.make(input_shape=(2,), data_range=_range(subject)).double().eval()
    y = torch.randn(3, likelihood.channels(2), dtype=torch.float64, requires_grad=True)
    x = torch.rand(3, 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda y: likelihood(y).log_prob(x), (y,))


# -- losses ------------------------------------------------------------------------------------------------------------


def gives_a_number_per_example(subject: Subject) -> None:
    """The loss is (b,) and finite, and an example's number does not depend on the others, unless it says so."""
    vae = subject.model().eval()
    loss, x = _the_loss(vae), _data(vae, 4)
    value = loss(_still(vae, x))
    assert value.shape == (4,), f"the loss is {tuple(value.shape)}, expected (b,)"
    assert torch.isfinite(value).all(), "the loss is not finite"
    if not (subject.target.batchwise or subject.target.stochastic):
        _close(value[:2], loss(_still(vae, x[:2])), "an example's loss in two batches")


def averages_over_draws(subject: Subject) -> None:
    """Several equal draws of z give the loss of one."""
    vae = subject.model().eval()
    loss, x = _the_loss(vae), _data(vae, 3)
    if not subject.target.stochastic:
        _close(loss(_still(vae, x)), loss(_still(vae, x, (4,))), "one draw and four equal ones")


def says_how_small_a_batch_may_be(subject: Subject) -> None:
    """A batch of one has a finite loss, or is refused by a ValueError where `smallest_batch` says so."""
    vae = subject.model()
    x, cond = _data(vae, 1), _cond(vae, 1)
    try:
        report = vae.loss(x, cond)
    except ValueError as error:
        assert subject.target.smallest_batch > 1, f"it refuses one example, and its smallest_batch is 1: {error}"
    else:
        assert subject.target.smallest_batch == 1, "smallest_batch says more than 1, and one example is taken"
        assert torch.isfinite(report.total), "the loss of one example is not finite"


def keeps_its_critic_apart(subject: Subject) -> None:
    """What the model minimises moves nothing of the critic, and what the critic minimises nothing of the model."""
    if not issubclass(subject.target, CriticLoss):
        return
    vae = _perturbed(subject.model())
    loss: Any = _the_loss(vae)
    out = vae(_data(vae, 4), _cond(vae, 4))
    critic = {id(p) for p in loss.critic.parameters()}
    for value, own in ((loss(out), False), (loss.critic_loss(out), True)):
        vae.zero_grad()
        value.mean().backward(retain_graph=True)
        moved = {name for name, p in vae.named_parameters() if p.grad is not None and p.grad.any()}
        wrong = {name for name, p in vae.named_parameters() if name in moved and (id(p) in critic) != own}
        assert moved, "neither player learns anything"
        assert not wrong, f"{'the critic' if own else 'the model'} moves {sorted(wrong)[0]}"


# -- conditions, discriminators, schedules -----------------------------------------------------------------------------


def gives_tokens(subject: Subject) -> None:
    """A condition gives (b, t, dim) for its own example, and every parameter learns; with dim 0 it gives None."""
    condition = subject.make()
    tokens = condition(condition.example(4), 4)
    if not condition.dim:
        assert tokens is None, "a condition without tokens gives some"
        return
    assert tokens.ndim == 3 and tokens.shape[0] == 4 and tokens.shape[2] == condition.dim, f"{tuple(tokens.shape)}"
    assert tokens.is_floating_point()
    _every_parameter_learns(condition, lambda: condition(condition.example(4), 4).square().sum())


def trains_in_a_model(subject: Subject) -> None:
    """A model with the part has a finite loss, every parameter learns, and it samples and reconstructs."""
    if not (subject.kind == "prior" and issubclass(subject.target, FittedPrior)):  # that one is fitted, not trained
        _trains(subject.model())


def gives_logits_and_features(subject: Subject) -> None:
    """A discriminator gives lists of finite tensors with the batch first, and every parameter learns."""
    discriminator = subject.make(in_shape=(3, 32, 32), in_channels=3, cond_dim=0)
    x = torch.rand(2, 3, 32, 32)
    _close(discriminator(x)[0][:1], discriminator(x[:1])[0], "the logits of an example in two batches")
    for given in (discriminator(x), discriminator.features(x)):
        assert isinstance(given, list) and given and all(len(t) == 2 and torch.isfinite(t).all() for t in given)
    _every_parameter_learns(discriminator, lambda: torch.stack([t.square().sum() for t in discriminator(x)]).sum())


def is_a_finite_weight(subject: Subject) -> None:
    """A schedule gives finite scalars at all times, counts steps only when told, and resumes from its state."""
    weight, twin = subject.make(), subject.make()
    values = []
    for _ in range(7):
        values.append(weight(torch.tensor(3.0)))
        weight.tick()
    assert all(v.ndim == 0 and math.isfinite(v) for v in values), "a weight is no finite scalar"
    twin.load_state_dict(weight.state_dict())
    _close(weight.eval()(torch.tensor(3.0)), twin.eval()(torch.tensor(3.0)), "a schedule and its copy", exact=True)


# -- transforms and normalizers ----------------------------------------------------------------------------------------

_MAP = {"input_shape": (1, 16, 16), "latent": (4, 4, 4)}


def changes_z_and_x_together(subject: Subject) -> None:
    """Draws, batch and channels stay; a transform of the decoder's own does without x, and the state goes to disk."""
    part = subject.make(input_shape=_MAP["input_shape"], latent_shape=_MAP["latent"])
    z, x = torch.randn(2, 3, 4, 4, 4), torch.rand(3, 1, 16, 16)
    for _ in range(10):
        moved, target = part(z, None if part.always else x)
        assert moved.shape[:3] == z.shape[:3] and moved.dtype == z.dtype, "draws, batch or channels change"
        assert part.always or target.shape[:2] == x.shape[:2], "batch or channels of the data change"
    vae = _with_map(transforms=[subject.spec])
    _trains(vae)
    _round_trips(vae)


def undoes_itself(subject: Subject) -> None:
    """`inverse` undoes `forward`, for draws too; what was fitted goes to disk."""
    part = subject.make(latent_shape=_MAP["latent"])
    z = 3 * torch.randn(40, 4, 4, 4) + 5
    with contextlib.suppress(TypeError):
        part.fit([z[:13], z[13:]])
    for given in (z, z.reshape(5, 8, 4, 4, 4)):
        _close(part.inverse(part(given)), given, "the inverse of what was normalised")
    vae = _with_map(normalizer=subject.spec)
    with contextlib.suppress(TypeError):
        vae.fit_normalizer(torch.rand(40, *_MAP["input_shape"]))
    x = torch.rand(3, *_MAP["input_shape"])
    expected = vae.eval().latents(x)
    _close(vae.decode_latents(expected), vae.reconstruct(x), "data decoded from normalised latents")
    with tempfile.TemporaryDirectory() as folder:
        vae.save_pretrained(folder)
        _close(load(folder, trust=True).latents(x), expected, "latents of a saved and loaded model", exact=True)


def _with_map(**slots: Any) -> VAE:
    """A small model with a map latent, whose networks take any size."""
    network = use("kl_resnet", widths=(8, 8, 8), layers=1, groups=4)
    return build(encoder=network, decoder=network, **_MAP, **slots)


# -- recipes and whole models ------------------------------------------------------------------------------------------


def builds_from_shape_alone(subject: Subject) -> None:
    """`build(recipe, latent=…, input_shape=…)` gives a model that trains, samples, reconstructs and round-trips."""
    given = {"latent": 3, "input_shape": (1, 16, 17), **subject.args}  # the least that a whole VGG16 takes
    _trains(build(subject.name, **given))
    _round_trips(build(subject.name, **given))


def round_trips(subject: Subject) -> None:
    """A model with the part goes through JSON, YAML, deepcopy and disk and comes back the same."""
    shape = _shapes(subject)[-1]
    _round_trips(subject.model(shape))


_LAWS: Mapping[str, tuple[Law, ...]] = {
    "encoder": (
        works_at_every_rank_that_it_claims,
        takes_or_explains_a_map_latent,
        treats_examples_alone,
        uses_a_condition_where_it_takes_one,
        round_trips,
    ),
    "sampler": (
        draws_of_every_shape,
        draws_follow_their_density,
        looks_up_its_codes,
        survives_extreme_features,
        trains_in_a_model,
        round_trips,
    ),
    "prior": (
        samples_follow_log_prob,
        follows_the_model,
        fits_better_after_fit,
        trains_in_a_model,
    ),
    "decoder": (
        works_at_every_rank_that_it_claims,
        takes_or_explains_a_map_latent,
        treats_examples_alone,
        uses_a_condition_where_it_takes_one,
        decodes_without_seeing_x,
        round_trips,
    ),
    "likelihood": (
        normalises,
        treats_draws_alone,
        survives_extreme_outputs,
        has_the_gradient_of_its_values,
        trains_in_a_model,
        round_trips,
    ),
    "loss": (
        gives_a_number_per_example,
        averages_over_draws,
        says_how_small_a_batch_may_be,
        keeps_its_critic_apart,
        trains_in_a_model,
        round_trips,
    ),
    "discriminator": (gives_logits_and_features,),
    "condition": (gives_tokens, trains_in_a_model, round_trips),
    "transform": (changes_z_and_x_together,),
    "normalizer": (undoes_itself,),
    "weight": (is_a_finite_weight,),
    "objective": (trains_in_a_model,),
    "recipe": (builds_from_shape_alone,),
}


def trains(vae: VAE) -> None:
    """One pass and one backward pass of a model: the loss is finite, shapes are exact, every parameter learns.

    Raises:
        AssertionError: saying which of these fails.
    """
    _trains(vae)


def goodness_of_fit(samples: Tensor, log_prob: Callable[[Tensor], Tensor]) -> float:
    """The chance of samples that fit a density this badly or worse, were they drawn from it.

    Values that repeat are taken as discrete and counted. Over continuous ones a grid of cells is laid, and the density
    is integrated over each; what lies outside is one cell more. Counts and masses are compared by a χ² test, so that
    a density that is not normalised does not fit either.

    Args:
        samples: (n, d) with d = 1 or 2, some ten thousand.
        log_prob: values (m, d) → (m,) nats.

    Raises:
        ValueError: where d is neither 1 nor 2.

    Example:
        >>> p = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(2), torch.ones(2)), 1)
        >>> goodness_of_fit(p.sample((10_000,)), p.log_prob) > FAILURE_RATE
        True
        >>> goodness_of_fit(p.sample((10_000,)) + 0.2, p.log_prob) > FAILURE_RATE
        False
    """
    n, d = samples.shape
    if d not in (1, 2):
        raise ValueError(f"samples: expected one or two dimensions, got {d}.")
    discrete = len(samples.unique(dim=0)) < n // 4
    if discrete:
        # cells that are chosen for what fell into them would be too full: the first samples give the values, the others
        # are counted
        values, counts = _over_values(samples[: n // 10], samples[n // 10 :])
        n, masses = n - n // 10, log_prob(values).double().exp()
    else:
        counts, masses = _over_cells(samples.double(), log_prob, per_side=40 if d == 1 else 9)
    outside = (1 - masses.sum()).clamp_min(0)
    if masses.sum() > 1.02:
        return 0.0  # masses that add up to more than one
    seen = torch.cat([counts.double(), (n - counts.sum()).double()[None]])
    expected = n * torch.cat([masses, outside[None]])
    rare = expected < 5  # cells of few are counted together, as the test's approximation needs
    pooled = torch.stack([seen[rare].sum(), expected[rare].sum()])
    kept = [seen[~rare], expected[~rare]]
    if pooled[1] >= 5:
        kept = [torch.cat([cells, total[None]]) for cells, total in zip(kept, pooled, strict=True)]
    return _chi_square(*kept)


def _over_values(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """The values of the first samples, and how often each is among the second."""
    values = first.unique(dim=0)
    every, place = torch.cat([values, second]).unique(dim=0, return_inverse=True)
    counts = torch.bincount(place[len(values) :], minlength=len(every))
    return values, counts[place[: len(values)]]


def _over_cells(samples: Tensor, log_prob: Callable[[Tensor], Tensor], per_side: int) -> tuple[Tensor, Tensor]:
    """Counts of samples in the cells of a grid over the bulk of them, and the density's mass in each cell."""
    n, d = samples.shape
    fine = 50  # points per cell and side, at which the density is summed
    low, high = samples.quantile(torch.tensor([0.005, 0.995], dtype=samples.dtype), dim=0)
    width = (high - low) / per_side
    place = ((samples - low) / width).floor().long()
    inside = ((place >= 0) & (place < per_side)).all(1)
    index = place[inside] @ torch.tensor([per_side**i for i in range(d)])
    counts = torch.bincount(index, minlength=per_side**d)
    steps = (torch.arange(per_side * fine, dtype=samples.dtype) + 0.5) / fine
    points = torch.cartesian_prod(*[steps] * d).reshape(-1, d)
    density = log_prob((low + points * width).float()).double().exp() * (width / fine).prod()
    cell = points.floor().long() @ torch.tensor([per_side**i for i in range(d)])
    return counts, torch.zeros(per_side**d, dtype=torch.float64).index_add_(0, cell, density)


def _chi_square(seen: Tensor, expected: Tensor) -> float:
    statistic = ((seen - expected).square() / expected).sum()
    freedom = torch.tensor(max(len(seen) - 1, 1), dtype=torch.float64)
    return float(torch.special.gammaincc(freedom / 2, statistic.double() / 2))


# -- what the laws are made of -----------------------------------------------------------------------------------------


def _shapes(subject: Subject) -> list[tuple[int, ...]]:
    return [SHAPES[rank] for rank in getattr(subject.target, "ranks", (0,))]


def _range(subject: Subject) -> tuple[float, float] | None:
    return getattr(subject.target, "support", None)


def _the_loss(vae: VAE) -> nn.Module:
    terms: Any = vae.objective.terms
    return list(terms.values())[-1]


def _data(vae: VAE, n: int) -> Tensor:
    least = getattr(vae.likelihood, "least", None)
    low, high = vae.data_range or ((-1.0, 1.0) if least is None else (least, least + 3.0))
    with _seed(0):
        return torch.rand(n, *vae.input_shape) * (high - low) + low


def _cond(vae: VAE, n: int) -> Any:
    condition: Any = vae.condition
    return None if condition is None else condition.example(n)


def _still(vae: VAE, x: Tensor, lead: tuple[int, ...] = ()) -> Output:
    """An Output without chance: z is the mode of q(z|x), repeated along `lead`."""
    cond = _cond(vae, len(x))
    level = vae.encode(x, cond=cond)

    def repeated(value: Tensor | None) -> Tensor | None:
        return None if value is None else value.expand(*lead, *value.shape)

    z = level.mode.expand(*lead, *level.mode.shape)
    y = vae.decoder(z.reshape(-1, *vae.latent_shape)).unflatten(0, (*lead, len(x)))
    penalties = {name: value.expand(*lead, *value.shape) for name, value in level.penalties.items()}
    index, log_q = repeated(level.index), repeated(level.log_q)
    level = replace(level, z=z, penalties=penalties, index=index, log_q=log_q)
    return Output(x, y, vae.likelihood(y), (level,), cond, None, vae)


def _trains(vae: VAE) -> None:
    x, cond = _data(vae, 4), _cond(vae, 4)
    out = vae(x, cond)
    assert out.p_x.event_shape == out.x.shape[1:], f"x̂ has the shape {tuple(out.p_x.event_shape)}"
    _every_parameter_learns(vae, lambda: vae.loss(x, cond).total)
    with torch.no_grad():
        assert vae.reconstruct(x, cond).shape == x.shape, "a reconstruction has another shape than the data"
        drawn = vae.sample(4, cond)
    assert drawn.shape == x.shape and torch.isfinite(drawn).all(), "a sample has another shape, or is not finite"


def _every_parameter_learns(module: nn.Module, loss: Callable[[], Tensor]) -> None:
    """The loss is finite, and its gradient is finite and non-zero in every parameter that is not frozen."""
    _perturbed(module).zero_grad()
    value = loss()
    assert torch.isfinite(value), f"the loss is {float(value.detach())}"
    value.backward()
    for name, p in module.named_parameters():
        if p.requires_grad:
            assert p.grad is not None, f"no gradient reaches {name}"
            assert torch.isfinite(p.grad).all(), f"the gradient of {name} is not finite"
            assert p.grad.any(), f"the gradient of {name} is zero"


def _perturbed(module: Any) -> Any:
    """Parameters moved a little, so that layers that start at zero pass something on."""
    with torch.no_grad(), _seed(1):
        for p in module.parameters():
            p += 0.05 * torch.randn_like(p)
    return module


def _alone(subject: Subject, in_shape: tuple[int, ...], latent: tuple[int, ...]) -> Any:
    return subject.make(in_shape=in_shape, latent_shape=latent, in_channels=in_shape[0], out_channels=latent[0])


def _smallest(subject: Subject, in_shape: tuple[int, ...]) -> Any:
    """A sampler with the first small vector latent that it takes."""
    first = None
    for size in (2, 3, 4, 6):
        try:
            return _alone(subject, in_shape, (size,))
        except BuildError as error:
            first = first or error
    assert first is not None
    raise first


def _prior(vae: VAE, move: Callable[[Tensor], Tensor]) -> Any:
    """The model's p(z), fitted to moved normal draws where it is one to be fitted."""
    prior: Any = vae.prior
    if isinstance(prior, FittedPrior):
        if vae.space == "codes":
            sampler: Any = vae.sampler
            prior.fit(torch.randint(sampler.codebook_size, (500, *sampler.index_shape)))
        else:
            z = torch.randn(2000, vae.latent_shape[0])
            prior.fit(move(z).to(next(vae.parameters()).dtype))
    with torch.no_grad():
        return vae.eval().encode(_data(vae, 1).to(next(vae.parameters()).dtype), cond=_cond(vae, 1)).p


def _marginal(density: Any, index: Tensor) -> Tensor:
    """log-probabilities of the first two of an event's codes, summed over all values of the others."""
    shape = density.event_shape
    size = _categories(density)
    rest = math.prod(shape) - index.shape[1]
    others = torch.cartesian_prod(*[torch.arange(size)] * rest).reshape(-1, rest) if rest else torch.zeros(1, 0)
    whole = torch.cat([index.long().repeat_interleave(len(others), 0), others.long().repeat(len(index), 1)], 1)
    log_p = density.log_prob(whole.reshape(-1, *(1,) * len(density.batch_shape), *shape))
    return log_p.reshape(len(index), len(others)).logsumexp(1)


def _categories(density: Any) -> int:
    base = getattr(density, "base_dist", density)
    return base.logits.shape[-1] if hasattr(base, "logits") else density.categories


def _normalised(z: Tensor, log_q: Tensor) -> None:
    """E_q[g / q] = 1 for a density g inside of q's bulk: it holds log q to its draws also where q has no inverse."""
    z = z.flatten(1).double()
    mean, spread = z.mean(0), 0.6 * z.std(0)
    log_g = torch.distributions.Normal(mean, spread).log_prob(z).sum(1)
    ratio = (log_g - log_q.double()).exp()
    error = ratio.std() / math.sqrt(len(ratio))
    found = f"{float(ratio.mean()):.3f} ± {float(error):.3f}"
    assert abs(ratio.mean() - 1) < 5 * error + 1e-3, f"log q is not normalised: E_q[g / q] is {found}, not 1"


def _round_trips(vae: VAE, *, perturb: bool = True) -> None:
    (_perturbed(vae) if perturb else vae).eval()
    spec = vae.spec
    assert spec is not None
    assert Spec.from_json(spec.to_json()) == spec, "the spec changes through JSON"
    assert Spec.from_yaml(spec.to_yaml()) == spec, "the spec changes through YAML"
    assert build(json.loads(spec.to_json())).spec == spec, "a model built from the spec has another spec"
    x, cond = _data(vae, 2), _cond(vae, 2)
    expected = vae.reconstruct(x, cond)
    _close(copy.deepcopy(vae).reconstruct(x, cond), expected, "a copy", exact=True)
    with tempfile.TemporaryDirectory() as folder:
        vae.save_pretrained(folder)
        _close(load(folder, trust=True).reconstruct(x, cond), expected, "a saved and loaded model", exact=True)


def _fits(samples: Tensor, log_prob: Callable[[Tensor], Tensor]) -> None:
    with torch.no_grad():
        chance = goodness_of_fit(samples.flatten(1), log_prob)
    assert chance > FAILURE_RATE, f"draws do not follow the density (p = {chance:.2g})"


def _close(a: Tensor, b: Tensor, what: str, *, exact: bool = False) -> None:
    assert a.shape == b.shape, f"{what} have the shapes {tuple(a.shape)} and {tuple(b.shape)}"
    tolerance = 0.0 if exact else 1e-4
    assert torch.allclose(a, b, rtol=tolerance, atol=tolerance), (
        f"{what} differ by up to {float((a - b).detach().abs().max()):.3g}"
    )


@contextmanager
def _seed(seed: int) -> Iterator[None]:
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        yield
