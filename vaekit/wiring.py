"""One part from what the user wrote for its slot: a name, `use(...)`, a dict, a class or a built module."""

import importlib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from vaekit.kinds import Part
from vaekit.registry import UnknownArgument, UnknownName, parameters, registries
from vaekit.spec import Spec, handed, use


class BuildError(ValueError):
    """A model that can't be built; the message says where, what came, what was expected and what to do."""


def as_spec(kind: str, value: Any, path: str, default: "Spec | nn.Module | None" = None) -> "Spec | nn.Module":
    """What the user wrote for a slot as a `Spec` of its kind; a built module stays what it is.

    Args:
        kind: the slot's kind.
        value: a name, a class, a `Spec`, a dict (with "name", or without: changed arguments of `default`) or a module.
        path: where the value stands, for messages.
        default: what the recipe has in the slot.

    Raises:
        BuildError: where the value is none of these.
    """
    if isinstance(value, nn.Module):
        return value
    if isinstance(value, Mapping):
        given = dict(value)
        if any(isinstance(key, str) and key.startswith("@") for key in given):
            value = Spec.from_dict(given)
        elif "name" in given:
            value = use(given.pop("name"), **given)
        elif isinstance(default, Spec):
            value = default.replace(**given)
        else:
            raise BuildError(f"{path}: {given} changes a part that is not there. Add 'name': …, or use('name', …).")
    if isinstance(value, (str, type)):
        value = use(value)
    if not isinstance(value, Spec):
        raise BuildError(f"{path}: expected a name, use(…), a dict, a class or a module; got {value!r}.")
    try:
        return value.of_kind(kind)
    except TypeError as error:
        raise BuildError(f"{path}: {error}") from None


def resolve(kind: str, name: str, path: str) -> Any:
    """The class behind a registered name or "package.module:Class".

    Raises:
        UnknownName: where the registry has no such name; the message starts with the path.
        BuildError: where a dotted name can't be imported.
    """
    if ":" not in name:
        try:
            return registries()[kind][name]
        except UnknownName as error:
            raise UnknownName(f"{path}: {error}") from None
    if (known := handed(name)) is not None:
        return known
    module, _, qualname = name.partition(":")
    try:
        target: Any = importlib.import_module(module)
        for attribute in qualname.split("."):
            target = getattr(target, attribute)
    except (ImportError, AttributeError) as error:
        raise BuildError(f"{path}: {name!r} can't be imported ({error}).") from error
    return target


def make(kind: str, spec: "Spec | nn.Module", wired: Mapping[str, Any], path: str) -> nn.Module:
    """The module that a spec describes, with the wiring arguments that its constructor names filled in.

    Raises:
        UnknownArgument: where an argument is wrong or missing.
        BuildError: where the constructor refuses its arguments, or gives no module.
    """
    if isinstance(spec, nn.Module):
        return spec
    target = resolve(kind, spec.name, path)
    named = set(parameters(target))
    wired = {key: value for key, value in wired.items() if key in named}
    registries()[kind].check_arguments(target, spec.args, path, wired=wired)
    try:
        module = target(**{**wired, **spec.args})
    except ImportError:
        raise
    except (UnknownName, UnknownArgument) as error:  # of a part inside the part
        raise type(error)(_joined(path, error, spec)) from None
    except (ValueError, TypeError) as error:
        raise BuildError(_joined(path, error, spec)) from error
    if not isinstance(module, nn.Module):
        raise BuildError(f"{path}: {spec.name!r} gives {type(module).__name__}, which is no torch.nn.Module.")
    return module


def _joined(path: str, error: Exception, spec: Spec) -> str:
    """A message with the path before it: "vae.loss[1].critic: …" where an argument that is a part of its own failed."""
    named = isinstance(spec.args.get(str(error).partition(":")[0]), Spec)
    return f"{path}{'.' if named else ': '}{error}"


def written(kind: str, module: nn.Module, wired: Mapping[str, Any], path: str) -> Spec:
    """A built module as a spec that makes it again.

    A `Part` remembers its arguments. Another module can be written down where its class can be imported and, made
    without arguments, looks the same and has the same tensors.

    Raises:
        BuildError: where neither holds; the message says what to write in place of the module.
    """
    cls = type(module)
    name = registries()[kind].name_of(cls) or f"{cls.__module__}:{cls.__qualname__}"
    remedy = f"Give it by name: use('{cls.__module__}:{cls.__qualname__}', …), or register the class."
    refuse_passing_names(kind, name, path)
    if isinstance(module, Part):
        args, kwargs = module.arguments
        given = inspect.signature(cls.__init__).bind(module, *args, **kwargs).arguments
        given.pop(next(iter(given)))  # self
        own = {k: v for k, v in given.items() if k not in wired or tuple_or(v) != tuple_or(wired[k])}
        return Spec(kind, name, own)
    try:
        twin = make(kind, Spec(kind, name), wired, path)
    except (TypeError, ValueError) as error:
        raise BuildError(f"{path}: {cls.__qualname__} can't be written down ({error}). {remedy}") from error
    if repr(twin) != repr(module) or tensors(twin) != tensors(module):
        raise BuildError(
            f"{path}: {cls.__qualname__} can't be written down: made without arguments it is another network. {remedy}"
        )
    return Spec(kind, name)


def refuse_passing_names(kind: str, name: str, path: str) -> None:
    """Refuse to write down a class of the running script, or of a function: no other process finds it by its name.

    Raises:
        BuildError: saying what to do.
    """
    module, _, qualname = name.partition(":")
    if qualname and (module == "__main__" or "<locals>" in qualname):
        raise BuildError(
            f"{path}: {qualname} can't be written down, since it lives in {module} where a saved model can't find it "
            f"again. Move it into a module, or register it with @vaekit.{kind}('name')."
        )


def write_down(spec: Spec, wired: Mapping[str, Mapping[str, Any]]) -> Spec:
    """A whole model's spec with every built module written down by name.

    Args:
        spec: what the model was built from.
        wired: what each slot's constructor was wired with; "loss" stands for losses and transforms.

    Raises:
        BuildError: where a slot holds what names can't say.
    """
    args = dict(spec.args)
    for slot, part in args.items():
        if isinstance(part, (Spec, nn.Module)):
            args[slot] = _named(slot, part, wired.get(slot, {}), f"vae.{slot}")
    shared = wired.get("loss", {})
    if "transforms" in args:
        args["transforms"] = tuple(
            _named("transform", each, shared, f"vae.transforms[{i}]") for i, each in enumerate(args["transforms"])
        )
    args["loss"] = tuple(_named_term(each, shared, f"vae.loss[{i}]") for i, each in enumerate(args["loss"]))
    return Spec(spec.kind, spec.name, args)


def _named(kind: str, part: "Spec | nn.Module", wired: Mapping[str, Any], path: str) -> Spec:
    """What stands in a slot, by name: a module is written down, and a class that would not be found again refused."""
    if isinstance(part, nn.Module):
        return written(kind, part, wired, path)
    refuse_passing_names(kind, part.name, path)
    return part


def _named_term(each: Spec, wired: Mapping[str, Any], path: str) -> Spec:
    args = dict(each.args)
    loss = args.pop("module", None)
    if isinstance(args.get("weight"), (Spec, nn.Module)):
        args["weight"] = _named("weight", args["weight"], {}, f"{path}.weight")
    if loss is None:
        refuse_passing_names("loss", each.name, path)
        return Spec(each.kind, each.name, args)
    loss = written("loss", loss, wired, path)
    return Spec(each.kind, loss.name, {**args, **loss.args})


def tensors(module: nn.Module) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Shape and type of every tensor in a module's state."""
    return {key: (tuple(value.shape), value.dtype) for key, value in module.state_dict().items()}


def latent_wiring(sampler: nn.Module) -> dict[str, Any]:
    """What a prior is wired with from the sampler: how many codes, in which shape, and how curved a ball."""
    return {
        "codebook_size": getattr(sampler, "codebook_size", 0),
        "index_shape": tuple(getattr(sampler, "index_shape", ())),
        "curvature": getattr(sampler, "curvature", 0.0),
    }


def check_space(sampler: nn.Module, density: "Spec | nn.Module", path: str) -> None:
    """Refuse a prior over another space than the one that the sampler draws from.

    Raises:
        BuildError: saying which spaces these are, and which priors fit.
    """
    target = density if isinstance(density, nn.Module) else resolve("prior", density.name, path)
    space, spaces = getattr(sampler, "space", None), getattr(target, "spaces", None)
    if space is None or spaces is None or space in spaces:
        return
    prior = registries()["prior"]
    fitting = ", ".join(n for n in prior.names() if space in prior[n].spaces) or "none is registered"
    called = repr(density.name) if isinstance(density, Spec) else type(density).__name__
    raise BuildError(
        f"{path}: {called} covers latents that are {' or '.join(str(_SPACES.get(s, s)) for s in spaces)}, and those of "
        f"{type(sampler).__name__} are {_SPACES.get(space, space)}. Fitting priors: {fitting}."
    )


_SPACES = {
    "real": "real vectors",
    "positive": "positive numbers",
    "sphere": "points on the unit sphere",
    "ball": "points in the Poincaré ball",
    "codes": "codes",
    "mixed": "numbers and codes together",
}


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


def takes(network: nn.Module, name: str) -> bool:
    """Whether a network's forward has an argument of this name."""
    return name in inspect.signature(network.forward).parameters


def takes_tokens(network: nn.Module) -> bool:
    """Whether a network's forward has room for the condition's tokens beside x or z."""
    parameters = inspect.signature(network.forward).parameters.values()
    return sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters) >= 2


def tuple_or(value: Any) -> Any:
    """Sequences as tuples, so that a list equals a tuple."""
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


def probe(module: nn.Module, *args: Any) -> Any:
    """What `module(*args)` gives for meta tensors in `args`: shapes without arithmetic, and without a trace.

    A module that can't run on the meta device (it reads a value, or is yet to see its input) runs once for real, in
    evaluation mode, on data of 0.5.
    """
    state = {key: value.to("meta") for key, value in _state(module)}
    if not any(isinstance(p, nn.UninitializedParameter) for p in module.parameters()):
        try:
            with torch.no_grad():
                return functional_call(module, state, args)
        except (NotImplementedError, RuntimeError):
            pass  # the error of the real pass below says more
    return run_for_real(module, args)


def _state(module: nn.Module) -> list[tuple[str, Tensor]]:
    named = [*module.named_parameters(), *module.named_buffers()]
    return [(k, v) for k, v in named if not isinstance(v, (nn.UninitializedParameter, nn.UninitializedBuffer))]


def run_for_real(module: nn.Module, args: tuple[Any, ...]) -> Any:
    """What `module(*args)` gives in evaluation mode, with 0.5 and 0 in place of meta tensors."""
    like = next((p for p in module.parameters() if not isinstance(p, nn.UninitializedParameter)), torch.zeros(()))

    def real(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return torch.full(value.shape, 0.5 if value.is_floating_point() else 0, device=like.device).to(value.dtype)

    modes = [m for m in module.modules() if m.training]
    module.eval()
    try:
        with torch.no_grad():
            return module(*map(real, args))
    finally:
        for m in modes:
            m.training = True
