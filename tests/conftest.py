"""Shapes in signatures are checked in every test but those under `unhooked`: what users see has no such checks."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # as many processes as cores: threads of their own would wait for each other
    os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch

import tests.shapes  # noqa: F401 — the hook below names it

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # where torch was here first
UNHOOKED = bool(os.environ.get("VAEKIT_UNHOOKED"))

if UNHOOKED:
    collect_ignore_glob = []
else:
    from jaxtyping import install_import_hook

    install_import_hook("vaekit", "tests.shapes.check")
    collect_ignore_glob = ["unhooked/*"]  # test_unhooked.py runs them in a process of their own


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first: at the end one process would have them, and the others nothing to do."""
    items.sort(key=lambda item: not item.path.name.startswith("test_unhooked"))
