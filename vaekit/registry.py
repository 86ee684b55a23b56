"""Names to classes, one registry per kind. Standard library only.

A name stands at its class, once::

    @encoder("unet_attn", tags=("image",), cite="rombach2022")
    class UNetAttnEncoder(Encoder): ...

Importing a kind's package registers its own parts; third-party parts come by entry points, one group per kind
(``vaekit.encoder``, ``vaekit.prior``, …). They are listed without being imported and loaded when named.
"""

import difflib
import importlib
import inspect
import re
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

T = TypeVar("T")
Target = TypeVar("Target", bound=Callable[..., Any])

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_registries: dict[str, "Registry[Any]"] = {}


class UnknownName(KeyError):
    """A name that no registered part of the kind has."""

    def __str__(self) -> str:  # KeyError shows the repr of its argument, which hides line breaks
        return str(self.args[0])


class UnknownArgument(TypeError):
    """An argument that the named part does not take, or one that it needs and was not given."""


@dataclass(frozen=True)
class Entry(Generic[T]):
    """One registered part: the class (or recipe function) and what its decorator said of it."""

    name: str
    target: T
    tags: tuple[str, ...] = ()
    cite: tuple[str, ...] = ()


@dataclass(frozen=True)
class About:
    """What `Registry.about` tells of a part; `print` shows it as a short page."""

    kind: str
    name: str
    signature: str
    summary: str
    tags: tuple[str, ...]
    cite: tuple[str, ...]
    source: str

    def __str__(self) -> str:
        lines = [f"{self.kind} '{self.name}'", f"  {self.summary}", f"  {self.name}{self.signature}"]
        if self.tags:
            lines.append(f"  tags: {', '.join(self.tags)}")
        if self.cite:
            lines.append(f"  cite: {', '.join(self.cite)}")
        lines.append(f"  from: {self.source}")
        return "\n".join(lines)


class Registry(Generic[T]):
    """Names to the classes (or functions) of one kind.

    Args:
        kind: what the parts are, in one word: "encoder".
        contract: the abstract class that every part of the kind extends; None for a registry of functions.
        home: the package whose import registers vaekit's own parts.
        wiring: names of the constructor arguments that `vaekit.build` fills from the neighbouring parts.
        reserved: names that no constructor may use, since the saved form needs them.

    Example:
        >>> import vaekit
        >>> vaekit.encoder["mlp"].__name__
        'MLPEncoder'
        >>> vaekit.encoder.names("unet*")
        ['unet_attn']
    """

    def __init__(
        self,
        kind: str,
        contract: type | None,
        home: str,
        *,
        wiring: tuple[str, ...] = (),
        reserved: tuple[str, ...] = (),
    ) -> None:
        self.kind, self.contract, self.home, self.wiring, self.reserved = kind, contract, home, wiring, reserved
        self._entries: dict[str, Entry[T]] = {}
        self._plugins: dict[str, list[EntryPoint]] | None = None
        self._broken: dict[str, BaseException] = {}
        self._lock = threading.RLock()
        _registries[kind] = self

    # -- registering ---------------------------------------------------------------------------------------------

    def __call__(
        self, name: str, *, tags: Iterable[str] = (), cite: str | Iterable[str] = ()
    ) -> Callable[[Target], Target]:
        """Decorator that registers a class (or a recipe function) under `name`.

        Args:
            name: lower-case letters, digits and underscores.
            tags: words to filter listings by, such as "image".
            cite: keys of `vaekit/references.bib`, or whole BibTeX entries, that `vaekit.cite` prints.

        Raises:
            TypeError: where the class does not extend the kind's contract, or its constructor takes `*args` or
                `**kwargs` (its arguments could not be checked).
            ValueError: where another class holds the name, or the name is not lower_snake.
        """

        def register(target: Target) -> Target:
            self._register(name, target, tuple(tags), (cite,) if isinstance(cite, str) else tuple(cite))
            return target

        return register

    def _register(self, name: str, target: Any, tags: tuple[str, ...], cite: tuple[str, ...]) -> None:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{self.kind} name {name!r}: use lower-case letters, digits and underscores.")
        self._check_contract(name, target)
        for parameter in parameters(target).values():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                raise TypeError(
                    f"{self.kind} '{name}': {target.__name__} takes '{parameter}'. Spell its arguments out, so that a "
                    "wrong one can be told."
                )
            if parameter.name in self.reserved:
                raise TypeError(f"{self.kind} '{name}': the argument name '{parameter.name}' is reserved; rename it.")
        with self._lock:
            taken = self._entries.get(name)
            if taken is not None and _path(taken.target) != _path(target):
                raise ValueError(
                    f"{self.kind} '{name}' is taken by {_path(taken.target)}; {_path(target)} can't have it too. "
                    "Register it under another name."
                )
            self._entries[name] = Entry(name, target, tags, cite)

    def _check_contract(self, name: str, target: Any) -> None:
        if self.contract is None:
            if not inspect.isfunction(target):
                raise TypeError(f"{self.kind} '{name}': expected a function, got {target!r}.")
        elif not (isinstance(target, type) and issubclass(target, self.contract)):
            raise TypeError(
                f"{self.kind} '{name}': {getattr(target, '__name__', target)!r} does not extend "
                f"vaekit.kinds.{self.contract.__name__}. Write `class {getattr(target, '__name__', 'MyPart')}"
                f"({self.contract.__name__})`."
            )

    # -- looking up ----------------------------------------------------------------------------------------------

    def __getitem__(self, name: str) -> T:
        return self.entry(name).target

    def entry(self, name: str) -> Entry[T]:
        """The `Entry` of a name; loads the plugin that provides it.

        Raises:
            UnknownName: where no part has the name; the message gives near names.
            ImportError: where the plugin that provides the name fails to load (chained).
        """
        self._import_home()
        if name not in self._entries:
            if name not in self._plugin_points():
                raise UnknownName(self._unknown(name))
            self._load_plugin(name)
        return self._entries[name]

    def names(self, pattern: str = "*", tags: str | Iterable[str] = ()) -> list[str]:
        """Sorted names that match a shell-style pattern and have every tag.

        Without `tags` no plugin is imported. With them plugins are loaded, since the tags stand at the class; one
        that fails to load warns and is left out.
        """
        self._import_home()
        wanted = {tags} if isinstance(tags, str) else set(tags)
        found = sorted(n for n in {*self._entries, *self._plugin_points()} if fnmatchcase(n, pattern))
        if wanted:
            found = [n for n in found if self._try_load(n) and wanted <= set(self._entries[n].tags)]
        for name in found:
            self._warn(name)
        return found

    def about(self, name: str) -> About:
        """Signature, first line of the docstring, tags, papers and origin of a part."""
        entry = self.entry(name)
        point = self._plugin_points().get(name)
        source = f"{entry.target.__module__}:{entry.target.__qualname__}"  # type: ignore[attr-defined]
        if point and point[0].dist is not None:
            source += f" (package {point[0].dist.name} {point[0].dist.version})"
        document = inspect.getdoc(entry.target) or ""
        return About(
            self.kind, name, self.signature(entry.target), document.split("\n")[0], entry.tags, entry.cite, source
        )

    def name_of(self, target: Any) -> str | None:
        """The name that a class is registered under, or None."""
        return next((e.name for e in self._entries.values() if e.target is target), None)

    def __contains__(self, name: object) -> bool:
        self._import_home()
        return name in self._entries or name in self._plugin_points()

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self.names())

    def __repr__(self) -> str:
        return f"Registry({self.kind!r}: {', '.join(self.names())})"

    def _import_home(self) -> None:
        importlib.import_module(self.home)

    def _unknown(self, name: str) -> str:
        known = self.names()
        message = f"no {self.kind} named {name!r}."
        near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.6)
        elsewhere = [r.kind for r in _registries.values() if r is not self and name in r]
        if near:
            message += f" Did you mean {' or '.join(map(repr, near))}?"
        if elsewhere:
            message += f" There is {' and '.join(map(_article, elsewhere))} of that name."
        message += f" Known: {', '.join(known)}." if len(known) <= 40 else f" See vaekit.{self.kind}.names()."
        return f"{message} A part of another package is found once that package is installed, or imported."

    # -- plugins -------------------------------------------------------------------------------------------------

    def _plugin_points(self) -> dict[str, list[EntryPoint]]:
        if self._plugins is None:
            with self._lock:
                plugins: dict[str, list[EntryPoint]] = {}
                for point in entry_points(group=f"vaekit.{self.kind}"):
                    plugins.setdefault(point.name, []).append(point)
                self._plugins = plugins
        return self._plugins

    def refresh(self) -> None:
        """Look for entry points again, after a plugin was installed in the running process."""
        self._plugins = None
        self._broken.clear()

    def plugins(self) -> dict[str, str]:
        """Names that other packages offer, each with the package and whether it loads."""
        told = {}
        for name, points in self._plugin_points().items():
            broken = "" if self._try_load(name) else f", broken: {self._broken.get(name, 'offered twice')}"
            told[name] = " and ".join(map(_origin, points)) + broken
        return told

    def _load_plugin(self, name: str) -> None:
        points = self._plugin_points()[name]
        if len({p.value for p in points}) > 1:
            raise ImportError(
                f"{self.kind} '{name}' is offered by {' and '.join(map(_origin, points))}. Uninstall one."
            )
        point = points[0]
        try:
            target = point.load()
            if name not in self._entries:  # the decorator in the plugin's module may have done it
                self._register(name, target, (), ())
        except Exception as error:
            self._broken[name] = error
            raise ImportError(f"{self.kind} '{name}' from {_origin(point)} failed to load: {error}") from error

    def _try_load(self, name: str) -> bool:
        try:
            self.entry(name)
        except ImportError:
            return False
        return True

    def _warn(self, name: str) -> None:
        """Say in a listing that a plugin is broken, or offers a name that vaekit has itself."""
        origin = " and ".join(map(_origin, self._plugin_points().get(name, ())))
        if name in self._broken:
            told = f"{self.kind} '{name}' from {origin} is broken: {self._broken[name]}"
        elif origin and name in self._entries and self._entries[name].target.__module__.startswith(self.home):
            told = f"{self.kind} '{name}' from {origin} is not used: vaekit has its own {self.kind} of that name"
        else:
            return
        warnings.warn(told, RuntimeWarning, stacklevel=3)

    # -- arguments -----------------------------------------------------------------------------------------------

    def signature(self, target: Any) -> str:
        """The user's part of a constructor's signature: without what `vaekit.build` wires."""
        shown = [p for name, p in parameters(target).items() if name not in self.wiring]
        return str(inspect.Signature(shown)).replace("typing.", "").replace("collections.abc.", "")

    def check_arguments(self, target: Any, given: Iterable[str], path: str, *, wired: Iterable[str] = ()) -> None:
        """Tell a wrong or a missing argument with its path, the nearest name and the signature.

        Raises:
            UnknownArgument: where `given` holds a name that the constructor does not take, or a required one is
                neither given nor wired.
        """
        takes = parameters(target)
        name = self.name_of(target)
        called = f"{target.__name__} ('{name}')" if name and isinstance(target, type) else target.__name__
        shown = f"It takes {self.signature(target)}."
        given, filled = set(given), set(given) | set(wired)
        if any(p.kind is p.VAR_KEYWORD for p in takes.values()):  # only what is not registered may have them
            return
        for argument in sorted(given - set(takes)):
            near = difflib.get_close_matches(argument, takes, n=1, cutoff=0.5)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise UnknownArgument(f"{path}: {called} has no argument '{argument}'.{hint} {shown}")
        for p in takes.values():
            if p.default is p.empty and p.name not in filled and p.kind is not p.VAR_POSITIONAL:
                raise UnknownArgument(f"{path}: {called} needs the argument '{p.name}'. {shown}")


def parameters(target: Any) -> dict[str, inspect.Parameter]:
    """The arguments of a function, or of a class's `__init__` without self."""
    if not isinstance(target, type):
        return dict(inspect.signature(target).parameters)
    return dict(list(inspect.signature(target.__init__).parameters.items())[1:])


def _article(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def _path(target: Any) -> str:
    return f"{target.__module__}:{target.__qualname__}"


def _origin(point: EntryPoint) -> str:
    package = f"package {point.dist.name} {point.dist.version}" if point.dist is not None else "an unknown package"
    return f"{package} ({point.value})"


def registries() -> Mapping[str, "Registry[Any]"]:
    """Every registry by its kind."""
    return dict(_registries)
