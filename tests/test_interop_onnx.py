"""The slow half of `unhooked/test_onnx.py`: every recipe, in a process without the shape checks."""

import os
import subprocess
import sys

import pytest

from tests.markdown import ROOT


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_every_recipe_is_exported_or_refuses():
    file = str(ROOT / "tests" / "unhooked" / "test_onnx.py")
    command = [sys.executable, "-m", "pytest", file, "-q", "-p", "no:cacheprovider", "-m", "slow"]
    done = subprocess.run(command, env={**os.environ, "VAEKIT_UNHOOKED": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
