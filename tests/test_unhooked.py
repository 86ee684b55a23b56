"""Tests of bad input and of torch.compile, in a process without the shape checks: beartype would speak first there."""

import os
import pathlib
import subprocess
import sys

import pytest

FOLDER = pathlib.Path(__file__).parent / "unhooked"


@pytest.mark.parametrize("file", sorted(p.name for p in FOLDER.glob("test_*.py")))
def test_without_shape_checks(file):
    command = [sys.executable, "-m", "pytest", str(FOLDER / file), "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, env={**os.environ, "VAEKIT_UNHOOKED": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
