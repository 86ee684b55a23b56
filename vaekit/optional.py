"""Packages that only some parts need, imported when such a part is made. Standard library only."""

import importlib
from types import ModuleType


class MissingPackage(ImportError):
    """A package that a part needs is absent or broken; the message says what to install."""


def require(module: str, *, user: str, extra: str | None = None) -> ModuleType:
    """Import `module` for `user`, or say what to install.

    Args:
        module: dotted name of the module.
        user: what needs it, for the message.
        extra: vaekit's extra that brings it; None where vaekit itself depends on it.

    Raises:
        MissingPackage: where the import fails. A torchvision that does not match torch raises RuntimeError or
            OSError, and takes timm and lpips with it: both are told apart from an absent package.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        install = f'pip install "vaekit[{extra}]"' if extra else f"pip install {module.split('.')[0]}"
        raise MissingPackage(f"{user} needs {module}, which can't be imported ({error}). Run: {install}") from error
    except (RuntimeError, OSError) as error:
        raise MissingPackage(
            f"{user} needs {module}, whose import fails ({error}). Often torch and torchvision do not match. Run: "
            "pip install --upgrade --force-reinstall torch torchvision"
        ) from error
