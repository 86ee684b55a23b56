"""The walk-through in CONTRIBUTING.md, typed in as it stands."""

import subprocess
import sys

from tests.markdown import ROOT, blocks


def test_the_encoder_of_the_walk_through_passes_its_own_tests(tmp_path):
    titled = {
        b.options.split('"')[1]: b.text for b in blocks(ROOT / "CONTRIBUTING.md") if b.options.startswith("title=")
    }
    assert set(titled) == {"vaekit/encoders/pooled.py", "tests/test_pooled.py"}
    (tmp_path / "pooled.py").write_text(titled["vaekit/encoders/pooled.py"])
    (tmp_path / "test_pooled.py").write_text("import pooled\n" + titled["tests/test_pooled.py"])
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--doctest-modules",
        "-W",
        "error",
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout, "two tests and the docstring's example"


def test_the_walk_through_keeps_the_projects_style():
    (code,) = [b.text for b in blocks(ROOT / "CONTRIBUTING.md") if "pooled.py" in b.options and "test" not in b.options]
    name = ["--stdin-filename", "vaekit/encoders/pooled.py", "-"]
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(["ruff", *command, *name], input=code, capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0, done.stdout + done.stderr
