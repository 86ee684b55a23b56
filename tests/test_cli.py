"""The command line, called as a function."""

import json
import subprocess
import sys

import pytest

import vaekit
from vaekit.cli import main


def test_the_demo_trains_draws_and_refuses_to_overwrite(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--epochs", "3"]) == 0
    out = capsys.readouterr().out
    before, after = (float(line.split(":")[1].split()[0]) for line in out.splitlines() if line.startswith("ELBO"))
    assert after > before and "x ─► encoder" in out
    folder = tmp_path / "runs" / "demo"
    assert {p.name for p in folder.iterdir()} == {
        "best", "last", "history.json", "reconstructions.png", "samples.png", "latent.png",
    }  # fmt: skip
    assert len(json.loads((folder / "history.json").read_text())) == 3
    assert vaekit.load(folder / "best").input_shape == (1, 8, 8)
    pictures = {p.name: p.read_bytes() for p in folder.glob("*.png")}
    assert all(data.startswith(b"\x89PNG") and len(data) > 2000 for data in pictures.values())

    assert main(["demo", "--epochs", "1"]) == 2
    assert "already holds a run" in (error := capsys.readouterr().err) and "--force" in error
    assert {p.name: p.read_bytes() for p in folder.glob("*.png")} == pictures, "nothing was touched"
    assert main(["demo", "--epochs", "1", "--force", "--recipe", "mlp"]) == 0
    assert len(json.loads((folder / "history.json").read_text())) == 1


def test_the_demo_on_mnist_reads_its_files(tmp_path, capsys, monkeypatch):
    from tests.test_train import np, write_idx

    monkeypatch.chdir(tmp_path)
    for part in ("train", "t10k"):
        write_idx(tmp_path / f"{part}-images-idx3-ubyte.gz", np.random.default_rng(0).integers(0, 256, (80, 28, 28)))
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte.gz", np.arange(80) % 10)
    assert main(["demo", "--data", "mnist", "--root", str(tmp_path), "--epochs", "1", "--out", "run"]) == 0
    assert "80 mnist to train on" in capsys.readouterr().out
    assert main(["demo", "--data", "mnist", "--root", str(tmp_path / "nowhere"), "--out", "other"]) == 2
    assert "has no train-images-idx3-ubyte.gz" in capsys.readouterr().err


def test_list_shows_names_and_first_lines(capsys):
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert all(kind in out for kind in ("encoder", "prior", "recipe", "unet_attn", "The first VAE"))
    assert main(["list", "encoder", "unet*"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 and lines[0].startswith("encoder  unet_attn  The way down of a U-Net")
    assert main(["list", "encodr"]) == 2 and "there is no kind 'encodr'" in capsys.readouterr().err
    assert main(["list", "encoder", "zzz*"]) == 2 and "no encoder matches 'zzz*'" in capsys.readouterr().err


def test_info_shows_every_part_of_a_name(capsys):
    assert main(["info", "unet_attn"]) == 0
    out = capsys.readouterr().out
    assert "encoder 'unet_attn'" in out and "decoder 'unet_attn'" in out and "recipe 'unet_attn'" in out
    assert main(["info", "unet_atn"]) == 2
    assert "nothing is named 'unet_atn'. Near: unet_attn" in capsys.readouterr().err


def test_env_tells_versions_and_devices(capsys):
    assert main(["env"]) == 0
    out = capsys.readouterr().out
    assert f"vaekit {vaekit.__version__}" in out and "devices: " in out and "torch 2" in out


def test_help_and_version(capsys):
    assert main([]) == 0 and "demo" in capsys.readouterr().out
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0 and vaekit.__version__ in capsys.readouterr().out
    with pytest.raises(SystemExit) as end:
        main(["dmo"])
    assert end.value.code == 2


def test_without_its_library_the_command_names_the_extra(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "jsonargparse", None)
    assert main(["list"]) == 2
    assert (
        "the command vaekit needs jsonargparse" in (error := capsys.readouterr().err)
        and 'pip install "vaekit[cli]"' in error
    )


def test_the_command_is_installed():
    done = subprocess.run(
        [sys.executable, "-m", "vaekit.cli", "list", "prior", "stand*"], capture_output=True, text=True
    )
    assert done.returncode == 0 and "standard" in done.stdout
