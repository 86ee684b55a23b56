"""Spec → a wired VAE, and back from disk.

`build` takes a recipe's name, parts by name, or both, settles them in one `Spec`, makes the parts in the order in which
data flow, finds shapes by passes on the meta device, and refuses what does not fit together.
"""

import inspect
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributions import Distribution

from vaekit.kinds import FittedPrior, Loss, Objective, decoder, encoder, likelihood, recipe, weight
from vaekit.records import Output
from vaekit.registry import Registry, parameters
from vaekit.saving import CheckpointError, fetch, read_spec, read_weights
from vaekit.spec import Spec, term
from vaekit.vae import VAE
from vaekit.wiring import (
    BuildError,
    as_spec,
    check_space,
    latent_wiring,
    make,
    probe,
    resolve,
    run_for_real,
    takes_tokens,
)

SLOTS = ("encoder", "sampler", "prior", "decoder", "likelihood", "condition", "normalizer", "objective")
_DEFAULTS = {"sampler": "gaussian", "likelihood": "gaussian", "objective": "weighted_sum"}
# the prior of a model that names none, by the space that the sampler draws from
_PRIORS = {
    "real": "standard",
    "positive": "gamma",
    "sphere": "uniform_sphere",
    "ball": "wrapped_normal",
    "codes": "uniform",
    "mixed": "joint",
}
_ORDER = ("recipe", "input_shape", "latent", "data_range", *SLOTS, "transforms", "loss")  # of a spec, as one reads it
_UNSET: Any = object()
_BATCH = 2  # of the probing passes; batch norm wants more than one example


def build(
    recipe: "str | Spec | Mapping[str, Any] | None" = None,
    /,
    *,
    latent: "int | Sequence[int]" = _UNSET,
    input_shape: Sequence[int] = _UNSET,
    data_range: "tuple[float, float] | None" = _UNSET,
    encoder: Any = None,
    sampler: Any = None,
    prior: Any = None,
    decoder: Any = None,
    likelihood: Any = None,
    condition: Any = None,
    normalizer: Any = None,
    transforms: Any = None,
    loss: Any = None,
    objective: Any = None,
    **recipe_args: Any,
) -> VAE:
    """A VAE from a recipe, from parts, or from a recipe with some parts swapped.

    A part is a registered name, `use(name, …)`, a class, a dict of changed arguments of the recipe's part, or a built
    module. `loss` is a list of names and `term(...)`s, or a mapping from names to weights.

    Args:
        recipe: a name of `vaekit.recipe`, or a `Spec` (or its saved form) of a whole model.
        latent: an int for a vector latent, `(c, *t)` for a map. 16 where neither this nor a recipe says.
        input_shape: the data's shape `(c, *s)` without the batch. (3, 64, 64) where neither this nor a recipe says.
        data_range: smallest and largest value of the data, (0, 1) by default; None for unbounded data.
        encoder: x → h.
        sampler: h → q(z|x) and z.
        prior: p(z).
        decoder: z → y.
        likelihood: y → p(x|z).
        condition: what is known beside x.
        normalizer: z ↔ the scale in which other models take it.
        transforms: what is done to z before it is decoded: a list of parts, in this order.
        loss: the terms and their weights.
        objective: how terms become one number.
        recipe_args: the recipe's own arguments.

    Returns:
        The wired model, in training mode.

    Raises:
        UnknownName: where a name is registered nowhere.
        UnknownArgument: where a part or the recipe has no such argument.
        BuildError: where parts, latent and data do not fit together.

    Example:
        >>> import torch, vaekit
        >>> vae = vaekit.build("mlp", latent=2, input_shape=(1, 28, 28), prior="standard", loss={"nll": 1.0, "kl": 4.0})
        >>> vae.sample(3).shape
        torch.Size([3, 1, 28, 28])
    """
    shape_args = {"latent": latent, "input_shape": input_shape, "data_range": data_range}
    given = {key: value for key, value in shape_args.items() if value is not _UNSET}
    slots = {
        "encoder": encoder,
        "sampler": sampler,
        "prior": prior,
        "decoder": decoder,
        "likelihood": likelihood,
        "condition": condition,
        "normalizer": normalizer,
        "objective": objective,
    }
    if transforms is not None:
        given["transforms"] = [transforms] if isinstance(transforms, (str, Spec, nn.Module)) else transforms
    base, left = _base(recipe, given, recipe_args)
    return _assemble(_settle(base, left, {k: v for k, v in slots.items() if v is not None}, loss))


def settled(recipe: str, /, **args: Any) -> Spec:
    """The spec of the model that `build(recipe, **args)` makes, without making it; args are the recipe's.

    Example:
        >>> settled("mlp", latent=2).args["decoder"]
        mlp(hidden=(400,), act='relu')
    """
    base, left = _base(recipe, {}, args)
    return _settle(base, left, {}, None)


# -- what was asked → one Spec -------------------------------------------------------------------------------------


def _base(name: Any, given: dict[str, Any], recipe_args: dict[str, Any]) -> tuple[Spec, dict[str, Any]]:
    """The recipe's spec, or an empty one, and what it did not make use of."""
    if isinstance(name, Mapping):
        name = Spec.from_dict(name)
    if isinstance(name, str):
        function = recipe[name]
        takes = inspect.signature(function).parameters
        shared = {k: v for k, v in given.items() if k in takes}
        recipe.check_arguments(function, recipe_args, f"vaekit.build({name!r})")
        try:
            spec = function(**shared, **recipe_args)
        except ValueError as error:
            raise BuildError(f"recipe {name!r}: {error}") from error
        return spec.replace(recipe=name), {k: v for k, v in given.items() if k not in shared}
    if recipe_args:
        raise TypeError(
            f"vaekit.build has no argument {next(iter(recipe_args))!r}. It takes latent, input_shape, data_range, "
            f"loss, {', '.join(SLOTS)}; a recipe's own arguments need the recipe's name first."
        )
    if name is None:
        return Spec("vae", "flat"), given
    if not isinstance(name, Spec) or name.kind != "vae":
        raise BuildError(f"vaekit.build: expected a recipe's name or the Spec of a whole model, got {name!r}.")
    return name, given


def _settle(base: Spec, given: Mapping[str, Any], slots: Mapping[str, Any], loss: Any) -> Spec:
    """The base with the user's choices put in, every slot filled."""
    if base.name != "flat":
        raise BuildError(f"vae: there is no graph named {base.name!r}. Known: flat.")
    args: dict[str, Any] = {"latent": 16, "input_shape": (3, 64, 64), "data_range": (0.0, 1.0), **base.args, **given}
    for slot, name in _DEFAULTS.items():
        args.setdefault(slot, name)
    for slot in SLOTS:
        if slot in slots:
            default = args.get(slot)
            args[slot] = as_spec(
                slot, slots[slot], f"vae.{slot}", default if default is None else as_spec(slot, default, slot)
            )
        elif args.get(slot) is not None:
            args[slot] = as_spec(slot, args[slot], f"vae.{slot}")
        elif slot in ("encoder", "decoder"):
            raise BuildError(
                f"vae.{slot}: is missing. Name a recipe ({', '.join(recipe.names()[:6])}, …) or give {slot}=, one of "
                f"{', '.join((encoder if slot == 'encoder' else decoder).names())}."
            )
        elif slot == "prior":
            args[slot] = Spec("prior", _PRIORS[_space(args["sampler"])])
        else:
            args.pop(slot, None)
    terms = loss if loss is not None else args.get("loss", ("nll", "kl"))
    unknown = set(args) - set(_ORDER)
    if unknown:
        raise BuildError(f"vae: a model has no {sorted(unknown)[0]!r}. Its slots: {', '.join(SLOTS)}, loss.")
    if "transforms" in args:
        args["transforms"] = tuple(
            as_spec("transform", each, f"vae.transforms[{i}]") for i, each in enumerate(args["transforms"])
        )
    args["loss"] = _terms(terms)
    if loss is None and "sampler" in slots:
        args["loss"] += _brought(args["sampler"], {each.name for each in args["loss"]})
    return Spec("vae", "flat", {key: args[key] for key in _ORDER if key in args})


def _terms(loss: Any) -> tuple[Spec, ...]:
    """Names, weights and terms as a tuple of terms."""
    if isinstance(loss, (str, nn.Module)) or (isinstance(loss, Spec) and loss.kind in ("", "loss", "term")):
        loss = [loss]
    if isinstance(loss, Mapping):
        return tuple(term(name, weight=value) for name, value in loss.items())
    if not isinstance(loss, Iterable):
        raise BuildError(f"loss: expected a list of terms, or a mapping from names to weights; got {loss!r}.")
    return tuple(_with_critic(t if isinstance(t, Spec) and t.kind == "term" else term(t)) for t in loss)


def _brought(sampler: "Spec | nn.Module", there: set[str]) -> tuple[Spec, ...]:
    """The terms that a sampler calls for, where the user names it and no loss."""
    target = _class_of(sampler)
    wanted = dict(getattr(target, "terms", {}))
    if isinstance(sampler, Spec) and sampler.args.get("learn") == "gradient":
        wanted["codebook"] = 1.0  # nothing else moves the codes
    return tuple(term(name, weight=weight) for name, weight in wanted.items() if name not in there)


def _with_critic(each: Spec) -> Spec:
    """A term whose critic, where it names one, is a discriminator."""
    given = each.args.get("critic")
    return each if given is None else each.replace(critic=as_spec("discriminator", given, f"loss {each.name}.critic"))


# -- one Spec → the parts --------------------------------------------------------------------------------------------


def _assemble(spec: Spec, *, check_losses: bool = True) -> VAE:
    args = dict(spec.args)
    input_shape = _check_shape(args["input_shape"])
    for kind in ("encoder", "decoder"):
        _check_rank(kind, args[kind], input_shape)
    latent_shape = _check_latent(args["latent"], input_shape, sequence=_gives_sequence(args["encoder"]))
    data_range = _check_range(args["data_range"])
    shapes = {"in_channels": input_shape[0], "latent_shape": latent_shape, "input_shape": input_shape}
    shapes |= {"data_range": data_range, "cond_dim": 0}

    wiring: dict[str, dict[str, Any]] = {"loss": shapes}

    def part(kind: str, **wired: Any) -> nn.Module:
        wiring[kind] = {**shapes, **wired}
        return make(kind, args[kind], wiring[kind], f"vae.{kind}")

    condition: Any = part("condition") if "condition" in args else None
    if condition is not None:
        shapes["cond_dim"] = condition.dim
    p_x: Any = part("likelihood")
    _check_support(p_x, args["likelihood"], data_range)
    out_shape = (p_x.channels(input_shape[0]) if hasattr(p_x, "channels") else input_shape[0], *input_shape[1:])
    features = part("encoder", in_shape=input_shape)
    h = _features(features, input_shape, shapes["cond_dim"])
    _check_size(args, latent_shape, input_shape)
    sampler: Any = part("sampler", in_shape=h, in_channels=h[0], out_channels=latent_shape[0])
    check_space(sampler, args["prior"], "vae.prior")
    modules = {
        "encoder": features,
        "sampler": sampler,
        "prior": part("prior", **latent_wiring(sampler)),
        "decoder": part("decoder", out_shape=out_shape, out_channels=out_shape[0], in_channels=latent_shape[0]),
        "likelihood": p_x,
        "condition": condition,
        "transforms": [
            make("transform", each, shapes, f"vae.transforms[{i}]") for i, each in enumerate(args.get("transforms", ()))
        ],
        "normalizer": part("normalizer") if "normalizer" in args else None,
    }
    losses, weights = _make_terms(args["loss"], shapes)
    objective = make("objective", args["objective"], {"terms": losses, "weights": weights}, "vae.objective")
    vae = VAE(
        **modules,
        objective=objective,
        input_shape=input_shape,
        latent_shape=latent_shape,
        data_range=data_range,
        spec=Spec("vae", spec.name, args),
    )
    vae.wired = wiring
    _check_condition(vae)
    out = _check_flow(vae, h, out_shape)
    if check_losses:
        _check_losses(vae, out)
    return vae


def _make_terms(terms: Sequence[Spec], shapes: Mapping[str, Any]) -> tuple[dict[str, nn.Module], dict[str, Any]]:
    losses: dict[str, nn.Module] = {}
    weights: dict[str, Any] = {}
    for i, each in enumerate(terms):
        args = dict(each.args)
        value, label, module = args.pop("weight", 1.0), args.pop("label", None), args.pop("module", None)
        path = f"vae.loss[{i}]"
        label = label or each.name.rpartition(":")[2].rpartition(".")[2]
        if label in losses:
            label = next(f"{label}_{n}" for n in range(2, len(terms) + 2) if f"{label}_{n}" not in losses)
        losses[label] = module if module is not None else make("loss", Spec("loss", each.name, args), shapes, path)
        weights[label] = _make_weight(value, f"{path}.weight")
        if each.name in ("nll", "kl") and isinstance(weights[label], float) and weights[label] < 0:
            raise BuildError(
                f"{path}.weight: expected at least 0 for {label!r}, got {weights[label]:g}: less than nothing would be "
                "made as large as it can."
            )
    return losses, weights


def _make_weight(value: Any, path: str) -> Any:
    if isinstance(value, (Spec, nn.Module)):
        return make("weight", value.of_kind("weight") if isinstance(value, Spec) else value, {}, path)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        schedules = ", ".join(f"{name}(…)" for name in weight.names())
        raise BuildError(f"{path}: expected a finite number or a schedule ({schedules}), got {value!r}.")
    return float(value)


# -- does it fit? ------------------------------------------------------------------------------------------------------


def _check_shape(shape: Any) -> tuple[int, ...]:
    if not isinstance(shape, Sequence) or not shape or any(not isinstance(s, int) or s < 1 for s in shape):
        raise BuildError(
            f"input_shape: expected positive sizes (channels, *spatial), such as (3, 64, 64); got {shape!r}."
        )
    return tuple(shape)


def _gives_sequence(spec: Any) -> bool:
    return getattr(_class_of(spec, "encoder"), "sequence", False)


def _check_latent(latent: Any, input_shape: tuple[int, ...], *, sequence: bool) -> tuple[int, ...]:
    shape = (latent,) if isinstance(latent, int) else latent
    if not isinstance(shape, Sequence) or not shape or any(not isinstance(s, int) or s < 1 for s in shape):
        raise BuildError(f"latent: expected a size of at least 1, or a map (c, *spatial); got {latent!r}.")
    if len(shape) > 1 and len(shape) != (2 if sequence else len(input_shape)):
        raise BuildError(
            f"latent: {tuple(shape)} is a map with {len(shape) - 1} spatial dimensions, and the encoder's features of "
            f"data {input_shape} have {1 if sequence else len(input_shape) - 1}. Give as many, or an int for a vector."
        )
    return tuple(shape)


def _space(sampler: "Spec | nn.Module") -> str:
    """Where a sampler's z lives, as its class says."""
    return getattr(_class_of(sampler), "space", "real")


def _class_of(part: "Spec | nn.Module", kind: str = "sampler") -> Any:
    return part if isinstance(part, nn.Module) else resolve(kind, part.name, f"vae.{kind}")


def _check_size(args: Mapping[str, Any], shape: tuple[int, ...], input_shape: tuple[int, ...]) -> None:
    # a code's number of values says nothing of its size: that is the logarithm of the codebook's
    if math.prod(shape) <= math.prod(input_shape) or _space(args["sampler"]) in ("codes", "mixed"):
        return
    parts = [_class_of(args[kind], kind) for kind in ("sampler", "encoder")]
    if not any(getattr(part, "overcomplete", False) for part in parts):
        raise BuildError(
            f"latent: {args['latent']} is too large: {math.prod(shape)} numbers for data of {math.prod(input_shape)}. "
            "A code larger than the data has nothing to compress; choose a smaller one. Where a wide one is meant, use "
            "sampler='dirac', or an encoder whose class says overcomplete = True."
        )


def _check_range(data_range: Any) -> tuple[float, float] | None:
    if data_range is None:
        return None
    if not isinstance(data_range, Sequence) or len(data_range) != 2 or not data_range[0] < data_range[1]:
        raise BuildError(f"data_range: expected (smallest, largest) or None for unbounded data, got {data_range!r}.")
    return float(data_range[0]), float(data_range[1])


def _check_rank(kind: str, spec: Any, input_shape: tuple[int, ...]) -> None:
    registry: Registry[Any] = encoder if kind == "encoder" else decoder
    target = type(spec) if isinstance(spec, nn.Module) else resolve(kind, spec.name, f"vae.{kind}")
    ranks, rank = getattr(target, "ranks", None), len(input_shape) - 1
    if ranks is not None and rank not in ranks:
        fitting = [n for n in registry.names() if rank in getattr(registry[n], "ranks", ())]
        raise BuildError(
            f"vae.{kind}: {target.__name__} takes {' or '.join(map(str, ranks))} spatial dimensions, and input_shape="
            f"{input_shape} has {rank}. Fitting: {', '.join(fitting)}."
        )


def _check_support(module: nn.Module, spec: Any, data_range: tuple[float, float] | None) -> None:
    support = getattr(module, "support", None)
    if support is not None and data_range != support:
        fitting = [n for n in likelihood.names() if likelihood[n].support is None]
        raise BuildError(
            f"vae.likelihood: {_called(spec)} needs data in {support}, and data_range is {data_range}. Scale the "
            f"data, or use {' or '.join(map(repr, fitting))}."
        )
    least = getattr(module, "least", None)
    if least is not None and data_range is not None and data_range[0] < least:
        raise BuildError(
            f"vae.likelihood: {_called(spec)} needs data of at least {least:g}, and data_range is {data_range}. Give "
            "the range of the data as they were counted, or None."
        )


def _features(module: nn.Module, input_shape: tuple[int, ...], cond_dim: int) -> tuple[int, ...]:
    """The encoder's output shape, without the batch."""
    h = _run("vae.encoder", module, torch.empty(_BATCH, *input_shape, device="meta"), cond_dim)
    if h.ndim < 2 or len(h) != _BATCH:
        raise BuildError(f"vae.encoder: expected features (b, k) or (b, k, *t), got shape {tuple(h.shape)}.")
    return tuple(h.shape[1:])


def _run(path: str, network: nn.Module, given: torch.Tensor, cond_dim: int) -> torch.Tensor:
    """What one network gives on a probing pass."""
    tokens = (torch.empty(len(given), 1, cond_dim, device="meta"),) if cond_dim and takes_tokens(network) else ()
    shape = f"(b, {', '.join(map(str, given.shape[1:]))})"
    try:
        result = probe(network, given, *tokens)
    except Exception as error:
        raise BuildError(f"{path}: {type(network).__name__} fails on a tensor of shape {shape}: {error}") from error
    if not isinstance(result, torch.Tensor):
        raise BuildError(f"{path}: expected one tensor from {type(network).__name__}, got {type(result).__name__}.")
    return result


def _check_flow(vae: VAE, h: tuple[int, ...], out_shape: tuple[int, ...]) -> Output:
    """One probing pass through the whole model: every seam has the shape that the next stage expects."""
    x = torch.empty(_BATCH, *vae.input_shape, device="meta")
    shapes: dict[str, Any] = {"h": h}
    condition: Any = vae.condition
    cond = condition.example(_BATCH).to("meta") if condition is not None else None
    z = torch.empty(_BATCH, *vae.latent_shape, device="meta")
    y = _run("vae.decoder", vae.decoder, z, vae.wired["decoder"]["cond_dim"])
    _same("vae.decoder", "y", tuple(y.shape), (_BATCH, *out_shape))
    fitted_later = isinstance(vae.prior, FittedPrior)
    if fitted_later:
        vae.prior.probing = True  # type: ignore[assignment]
    try:
        out = probe(vae, x, cond)
    except BuildError:
        raise
    except Exception as error:
        raise BuildError(f"vae: the parts do not fit together: {error}") from error
    finally:
        if fitted_later:
            del vae.prior.probing
    if not isinstance(out, Output):
        raise BuildError(f"vae: expected an Output, got {type(out).__name__}.")
    (level,) = out.levels
    _same("vae.sampler", "z", tuple(level.z.shape), (_BATCH, *vae.latent_shape))
    value = vae.latent_shape if level.index is None else tuple(vae.sampler.index_shape)  # type: ignore[arg-type]
    for path, density, event in (
        ("vae.sampler", level.q, value),
        ("vae.prior", level.p, value),
        ("vae.likelihood", out.p_x, vae.input_shape),
    ):
        if density is not None:
            _same(path, "the event", tuple(density.event_shape), event)
    if vae.condition is not None and (tokens := probe(vae.condition, cond, _BATCH)) is not None:
        shapes["cond"] = tuple(tokens.shape[1:])
    vae.shapes = {
        **shapes,
        "z": vae.latent_shape,
        "y": out_shape,
        **{key: _family(d) for key, d in (("q", level.q), ("p", level.p), ("p_x", out.p_x)) if d is not None},
    }
    return out


def _check_condition(vae: VAE) -> None:
    """Refuse a condition that no part would look at."""
    readers = (takes_tokens(vae.encoder), takes_tokens(vae.decoder), "cond_dim" in parameters(type(vae.prior)))
    if getattr(vae.condition, "dim", 0) and not any(readers):
        fitting = [name for name in decoder.names() if "cond_dim" in parameters(decoder[name])]
        raise BuildError(
            "vae.condition: neither the encoder, the decoder nor the prior takes a condition. Decoders that do: "
            f"{', '.join(fitting)}."
        )


def _check_losses(vae: VAE, out: Output) -> None:
    try:
        _ask_losses(vae, out)
    except RuntimeError:  # a part made real tensors on the probing pass, which do not mix with meta ones
        condition: Any = vae.condition
        cond = None if condition is None else condition.example(_BATCH)
        _ask_losses(vae, run_for_real(vae, (torch.empty(_BATCH, *vae.input_shape, device="meta"), cond)))


def _ask_losses(vae: VAE, out: Output) -> None:
    if isinstance(vae.objective, Objective):
        try:
            vae.objective.check(out)
        except ValueError as error:
            raise BuildError(f"vae.objective: {error}") from error
    for label, module in getattr(vae.objective, "terms", {}).items():
        if isinstance(module, Loss):
            try:
                module.check(out)
            except ValueError as error:
                raise BuildError(f"vae.loss.{label}: {error}") from error


def _called(part: Any) -> str:
    """A part in a message: its name, or its class."""
    return repr(part.name) if isinstance(part, Spec) else type(part).__name__


def _same(path: str, what: str, got: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if got != expected:
        raise BuildError(f"{path}: {what} should have the shape {expected}, and has {got}.")


def _family(density: Distribution) -> str:
    while hasattr(density, "base_dist") and type(density).__name__ == "Independent":
        density = density.base_dist  # type: ignore[attr-defined]
    return type(density).__name__


# -- the fluent form ---------------------------------------------------------------------------------------------------


class Builder:
    """The same model as `build` makes, named slot by slot.

    Args:
        recipe: what to start from; None for nothing.
        args: as for `build`: latent, input_shape, data_range, a recipe's own arguments.

    Example:
        >>> import vaekit
        >>> builder = vaekit.Builder(input_shape=(1, 28, 28), latent=16).encoder("resnet", width=8).decoder("mlp")
        >>> builder.loss("nll").loss("kl", weight=4.0).build().latent_shape
        (16,)
    """

    def __init__(self, recipe: "str | Spec | None" = None, /, **args: Any) -> None:
        self._recipe, self._args = recipe, args
        self._terms: tuple[Spec, ...] = ()

    def _with(self, slot: str, part: Any, args: dict[str, Any]) -> "Builder":
        if args:
            if not isinstance(part, (str, type)):
                raise BuildError(f"vae.{slot}: arguments go with a name or a class, not with {part!r}.")
            part = as_spec(slot, part, f"vae.{slot}").replace(**args)  # type: ignore[union-attr]
        self._args = {**self._args, slot: part}
        return self

    def encoder(self, part: Any, /, **args: Any) -> "Builder":
        """Choose x → h."""
        return self._with("encoder", part, args)

    def sampler(self, part: Any, /, **args: Any) -> "Builder":
        """Choose h → q(z|x) and z."""
        return self._with("sampler", part, args)

    def prior(self, part: Any, /, **args: Any) -> "Builder":
        """Choose p(z)."""
        return self._with("prior", part, args)

    def decoder(self, part: Any, /, **args: Any) -> "Builder":
        """Choose z → y."""
        return self._with("decoder", part, args)

    def likelihood(self, part: Any, /, **args: Any) -> "Builder":
        """Choose y → p(x|z)."""
        return self._with("likelihood", part, args)

    def condition(self, part: Any, /, **args: Any) -> "Builder":
        """Choose what is known beside x."""
        return self._with("condition", part, args)

    def normalizer(self, part: Any, /, **args: Any) -> "Builder":
        """Choose z ↔ the scale in which other models take it."""
        return self._with("normalizer", part, args)

    def transform(self, part: Any, /, **args: Any) -> "Builder":
        """Add something done to z before it is decoded; the first one replaces the recipe's."""
        made = as_spec("transform", part, "vae.transforms")
        added = made.replace(**args) if isinstance(made, Spec) else made
        self._args = {**self._args, "transforms": (*self._args.get("transforms", ()), added)}
        return self

    def objective(self, part: Any, /, **args: Any) -> "Builder":
        """Choose how terms become one number."""
        return self._with("objective", part, args)

    def loss(self, name: Any, weight: Any = 1.0, *, label: str | None = None, **args: Any) -> "Builder":
        """Add a term; the first one replaces the recipe's terms."""
        self._terms = (*self._terms, term(name, weight, label=label, **args))
        return self

    def build(self) -> VAE:
        """The wired model."""
        terms: dict[str, Any] = {"loss": self._terms} if self._terms else {}
        return build(self._recipe, **self._args, **terms)


# -- from disk ---------------------------------------------------------------------------------------------------------


def load(folder: str | Path, *, trust: bool = False, device: str | torch.device = "cpu") -> VAE:
    """A saved model, in evaluation mode.

    Args:
        folder: what `vae.save_pretrained` wrote, or a repository's name on the Hugging Face hub.
        trust: import classes that the spec gives as "package.module:Class". That runs the package's code.
        device: where the model goes.

    Raises:
        CheckpointError: where a file is missing, damaged or edited, or weights and spec do not fit.
        UnknownName: where the spec names a part that is not installed.

    Example:
        >>> import tempfile, vaekit
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     vaekit.build("mlp", latent=2, input_shape=(1, 4, 4)).save_pretrained(folder)
        ...     vaekit.load(folder).latent_shape
        (2,)
    """
    path = Path(folder)
    if not path.exists() and re.fullmatch(r"[\w-]+/[\w.-]+", str(folder)) and not path.parent.exists():
        path = fetch(str(folder))
    spec = read_spec(path)
    foreign = sorted(_foreign(spec))
    if foreign and not trust:
        raise CheckpointError(
            f"{folder}: the model needs code from {', '.join(foreign)}, which loading would run. If you trust it, call "
            "vaekit.load(…, trust=True)."
        )
    # a loss may refuse a prior that was fitted after training; the model is loaded all the same
    vae = _assemble(_settle(_offline(spec), {}, {}, None), check_losses=False)
    read_weights(vae, path)
    return vae.to(device).eval()


def _foreign(value: Any) -> set[str]:
    """Dotted names in a spec: code to import."""
    if isinstance(value, Spec):
        own = {value.name} if ":" in value.name else set()
        return own.union(*map(_foreign, value.args.values()))
    if isinstance(value, Mapping):
        return set().union(*map(_foreign, value.values()))
    return set().union(*map(_foreign, value)) if isinstance(value, tuple) else set()


def _offline(value: Any) -> Any:
    """A spec whose parts do not fetch pretrained weights, since the saved ones follow."""
    if isinstance(value, Spec):
        return Spec(
            value.kind, value.name, {k: False if k == "pretrained" else _offline(v) for k, v in value.args.items()}
        )
    if isinstance(value, tuple):
        return tuple(map(_offline, value))
    return value
