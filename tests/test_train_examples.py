"""The examples of training run, small."""

import importlib.util
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def said(monkeypatch, capsys, name, *args):
    path = EXAMPLES / name
    monkeypatch.setattr(sys, "argv", [str(path), "--tiny", *args])
    monkeypatch.syspath_prepend(str(path.parent))
    runpy.run_path(str(path), run_name="__main__")
    return capsys.readouterr().out


@pytest.mark.parametrize("gan", [False, True])
def test_a_loop_written_by_hand(monkeypatch, capsys, gan):
    out = said(monkeypatch, capsys, "hand_loop.py", *(["--gan"] if gan else []))
    before, after = (float(word) for word in out.split() if word.startswith("-"))
    assert after > before and ("adversarial_critic" in out) == gan


@pytest.mark.skipif(
    importlib.util.find_spec("lightning") is not None, reason="Lightning's own loop is not ours to test"
)
def test_a_lightning_module_with_one_player_and_with_two(monkeypatch, capsys):
    out = said(monkeypatch, capsys, "lightning_style.py")
    assert "mlp: train/kl" in out and "val/nll" in out and "train/adversarial_latent_critic" in out


def test_the_benchmarks_run():
    """In a process of its own: torch.compile does not go with the checks of shapes that tests run under."""
    command = [sys.executable, str(EXAMPLES / "benchmarks" / "trainer.py"), "--tiny"]
    done = subprocess.run(command, text=True, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "768 to train, 640 to validate, 512 to look for symptoms" in done.stdout
    assert "Trainer / tensor loop: " in done.stdout and "Trainer(compile=True) / tensor loop: " in done.stdout
