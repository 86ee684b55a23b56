"""Shapes in signatures are checked in every test but those of torch.compile, which the check would break."""

import os

import pytest
import torch

import tests.shapes  # noqa: F401 — the hook below names it

if not os.environ.get("VAEKIT_UNCHECKED_SHAPES"):
    from jaxtyping import install_import_hook

    install_import_hook("vaekit", "tests.shapes.check")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
