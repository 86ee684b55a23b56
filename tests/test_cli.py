"""The command line, called as a function."""

import json
import subprocess
import sys

import pytest
import torch

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
        "best", "last", "history.json", "reconstructions.png", "samples.png", "latent.png", "checkpoints",
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


def test_the_help_of_a_command_says_defaults_and_nothing_of_its_inside(capsys):
    with pytest.raises(SystemExit):
        main(["demo", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "which digits (default: digits)" in shown and "size of the latent vector (default: 8)" in shown
    assert "type:" not in shown and "function" not in shown and "(default: )" not in shown


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


# -- runs from a file ------------------------------------------------------------------------------------------------

CONFIG = """
model: {recipe: mlp, latent: 3, input_shape: [1, 8, 8], hidden: [8]}
data: {train: digits}
train: {epochs: 2, batch_size: 500, lr: 1e-3, device: cpu, progress: false, output_dir: run, log_every: 1}
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "c.yaml"
    path.write_text(CONFIG)
    return str(path)


def test_a_file_says_what_python_says(file, tmp_path, capsys):
    from vaekit.train import Trainer, digits

    assert main(["train", file]) == 0
    told = capsys.readouterr().out
    torch.manual_seed(0)
    vae = vaekit.build("mlp", latent=3, input_shape=(1, 8, 8), hidden=(8,))
    history = Trainer(vae, *digits(), epochs=2, batch_size=500, lr=1e-3, device="cpu").fit()
    ran = json.loads((tmp_path / "run" / "history.json").read_text())
    assert [row["val/total"] for row in ran] == history["val/total"]
    assert "done after step 6: train/total" in told and f"active_units {ran[-1]['active_units']:g}" in told


def test_a_run_goes_on_as_if_it_had_not_stopped(file, tmp_path, capsys):
    assert main(["train", file, "epochs=3", "output_dir=whole"]) == 0
    assert main(["train", file, "epochs=1"]) == 0
    assert main(["resume", "run", "epochs=3"]) == 0
    whole, pieces = (vaekit.load(tmp_path / name / "last").state_dict() for name in ("whole", "run"))
    assert all(torch.equal(whole[key], pieces[key]) for key in whole)
    assert main(["resume", "run"]) == 0, "the file says three epochs now, which are done"
    capsys.readouterr()
    assert main(["resume", "nowhere"]) == 2 and "config.yaml: not found" in capsys.readouterr().err
    assert main(["train", file, "lr=1e-2"]) == 2 and "lr was 0.001, and is 0.01" in capsys.readouterr().err
    assert main(["train", file, "lr=1e-2", "--force"]) == 0
    assert main(["train", file, "--force", "lrr=1e-2"]) == 2 and "Did you mean 'lr'" in capsys.readouterr().err


def test_ctrl_c_saves_and_says_how_to_go_on(file, capsys, monkeypatch):
    from vaekit.train import Trainer

    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "fit", interrupted)
    assert main(["train", file]) == 130 and "go on: vaekit resume run" in capsys.readouterr().out


def test_samples_and_reconstructions_of_a_run(file, tmp_path, capsys):
    from PIL import Image

    main(["train", file, "callbacks=[samples, {early_stop: {patience: 5}}]", "trackers=[csv]", "epochs=1"])
    assert {"samples-0001.png", "samples.gif"} == {p.name for p in (tmp_path / "run" / "pictures").iterdir()}
    assert (tmp_path / "run" / "metrics.csv").is_file()
    assert main(["sample", "run", "--number", "5"]) == 0 and main(["sample", "run/best", "--number", "5"]) == 0
    first, second = (tmp_path / "run" / name for name in ("samples.png", "best/samples.png"))
    assert first.read_bytes() == second.read_bytes(), "the same seed draws the same"
    with Image.open(first) as image:
        assert image.size == (5 * 60, 60)
    Image.new("RGB", (30, 20), "white").save(tmp_path / "a.png")
    capsys.readouterr()
    assert main(["reconstruct", "run", "a.png", "a.png", "--out", "b.png"]) == 0
    x = torch.ones(1, 1, 8, 8)
    error = (vaekit.load("run/best").reconstruct(x) - x).square().mean().item()
    assert f"b.png: 2 images, mean squared error {error:.5g}" in capsys.readouterr().out
    with Image.open(tmp_path / "b.png") as image:
        assert image.size == (2 * 60, 2 * 60)
    for words, told in [
        (["sample", "nowhere"], "is no folder"),
        (["sample", "."], "holds no saved model"),
        (["sample", "run", "--label", "1"], "has no condition"),
        (["sample", "run", "--number", "0"], "at least 1"),
        (["reconstruct", "run", "c.yaml"], "an image can't be read"),
        (["reconstruct", "run", "gone.png"], "an image can't be read"),
    ]:
        assert main(words) == 2 and told in capsys.readouterr().err, words


def test_a_wrong_key_is_told_with_a_near_one(file, tmp_path, capsys):
    for change, told in [
        ("epoch=3", "epoch=3: there is no 'epoch'. Did you mean 'epochs'"),
        ("train.epoch=3", "train: there is no 'epoch'. Did you mean 'epochs'"),
        ("model.hiden=3", "model: there is no 'hiden'. Did you mean 'hidden'"),
        ("model.recipe=mpl", "no recipe named 'mpl'. Did you mean 'mlp'"),
        ("data.trian=x", "data: there is no 'trian'. Did you mean 'train'"),
        ("data.train=gone", "data.train: 'gone' is neither digits, mnist"),
        ("lr=fast", "train.lr: expected a number or a mapping, got 'fast'"),
        ("batch_size=8.5", "train.batch_size: expected a whole number, got 8.5"),
        ("epochs=true", "train.epochs: expected a whole number or null, got True"),
        ("prior=standrd", "Did you mean 'standard'"),
        ("callbacks=[sampels]", "train.callbacks[0]: there is no 'sampels'. Did you mean 'samples'"),
        ("callbacks=[{samples: {cuont: 3}}]", "train.callbacks[0].samples: there is no 'cuont'. Did you mean 'count'"),
        ("callbacks=samples", "train.callbacks: expected a list, such as [samples]"),
        ("trackers=[tensorbord]", "Did you mean 'tensorboard'"),
        ("trackers=[{csv: {foldr: a}}]", "there is no 'foldr'. Did you mean 'folder'"),
        ("optimizer={weight_decay: 1}", "a mapping with 'name' and arguments"),
        ("nonsense", "expected key=value"),
        ("lr=[", "lr: is no YAML"),
    ]:
        assert main(["train", file, change]) == 2, change
        assert told in (error := capsys.readouterr().err), (change, error)
        assert not (tmp_path / "run").exists(), change
    for text, told in [
        ("[]", "expected sections model, data, train, search"),
        ("modle: {}", "config: there is no 'modle'. Did you mean 'model'"),
        ("model: {recipe: mlp}\ndata: {train: digits}", "the section 'train' is missing"),
        ("model: {latent: 3}\ndata: {train: digits}\ntrain: {}", "model: name a recipe"),
        ("model: 3", "model: expected a mapping, got 3"),
        ("model: !!python/object/apply:os.system [ls]", "is no YAML"),
    ]:
        (tmp_path / "bad.yaml").write_text(text)
        assert main(["train", "bad.yaml"]) == 2 and told in (error := capsys.readouterr().err), (text, error)
    assert main(["train", "gone.yaml"]) == 2 and "vaekit init RECIPE > gone.yaml" in capsys.readouterr().err


def test_a_file_can_t_import(file, tmp_path, capsys, monkeypatch):
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')\nclass Part: pass")
    monkeypatch.syspath_prepend(str(tmp_path))
    for change in (
        "prior=evil:Part",
        'prior={"@prior": "evil:Part"}',
        "loss={nll: 1, evil:Part: 1}",
        'loss=[nll, "evil:Part"]',
        "optimizer=evil:Part",
        "optimizer={name: evil:Part}",
        'players={vae: {optimizer: "evil:Part"}}',
        "callbacks=[evil:Part]",
        'model={"@vae": flat, encoder: {"@encoder": "evil:Part"}}',
    ):
        assert main(["train", file, change]) == 2, change
        assert "names something to import" in (error := capsys.readouterr().err) or "is no YAML" in error, (
            change,
            error,
        )
    assert "evil" not in sys.modules


def test_parts_optimizers_and_saved_specs_from_a_file(file, tmp_path):
    changes = ['prior={"@prior": mixture, components: 3}', "optimizer={name: adamw, weight_decay: 0.1}"]
    assert main(["train", file, *changes, "epochs=1", "loss={nll: 1.0, kl: 4.0}"]) == 0
    vae = vaekit.load(tmp_path / "run" / "best")
    assert type(vae.prior).__name__ == "MixturePrior"
    spec = json.loads((tmp_path / "run" / "best" / "spec.json").read_text())
    assert main(["train", file, f"model={json.dumps(spec)}", "output_dir=again", "epochs=1"]) == 0
    assert json.loads((tmp_path / "again" / "best" / "spec.json").read_text()) == spec


def test_init_writes_a_file_that_trains_for_every_recipe(tmp_path, capsys, monkeypatch):
    from vaekit.train import config

    monkeypatch.chdir(tmp_path)
    for name in vaekit.recipe.names():
        assert main(["init", name]) == 0
        text = capsys.readouterr().out
        read = config.parse(text, name)
        config.check(read)
        everything = "\n".join(line.replace("  # ", "  ", 1) if line.startswith("  # ") else line for line in text.splitlines() if "parts can be" not in line and "# val:" not in line)  # fmt: skip
        config.check(config.parse(everything, name))
    (tmp_path / "c.yaml").write_text(_init("vae", capsys))
    small = ["data.train=digits", "model.input_shape=[1,8,8]", "latent=2", "epochs=1", "progress=false", "device=cpu"]
    assert main(["train", "c.yaml", *small]) == 0
    made = {path.name for path in (tmp_path / "runs" / "vae").iterdir()}
    assert {"best", "last", "pictures", "tensorboard", "config.yaml", "history.json"} <= made
    assert main(["init", "unet_atn"]) == 2 and "Did you mean 'unet_attn'" in capsys.readouterr().err


def _init(name, capsys):
    capsys.readouterr()
    assert main(["init", name]) == 0
    return capsys.readouterr().out


def test_a_file_names_uploads_and_holds_no_token(file, capsys):
    from vaekit.train import PushToHub, config

    text = "callbacks: [{hub: {repo_id: me/digits, every: 2, private: true}}]"
    (made,) = config.trainer_arguments(config.parse(text, "text"))["callbacks"]
    assert isinstance(made, PushToHub) and (made.repo_id, made.every, made.private) == ("me/digits", 2, True)
    for change, told in [
        ("callbacks=[hub]", "train.callbacks[0].hub: needs 'repo_id': {hub: {repo_id: …}}"),
        ("callbacks=[{hub: {repo_id: me/x, token: secret}}]", "train.callbacks[0].hub: there is no 'token'"),
        ("callbacks=[{hub: {repo_id: me/x, gif: true}}]", "train.callbacks[0].hub: there is no 'gif'"),
    ]:
        assert main(["train", file, change]) == 2 and told in (error := capsys.readouterr().err), (change, error)


def test_wrong_data_are_told_before_a_large_model_is_made(file, capsys, monkeypatch):
    from vaekit.train import config

    monkeypatch.setattr(config, "model_of", lambda given: pytest.fail("the model was made first"))
    assert main(["train", file, "data.train=gone"]) == 2 and "data.train: 'gone' is neither" in capsys.readouterr().err


def test_a_search_from_a_file(file, tmp_path, capsys):
    pytest.importorskip("optuna")
    words = ["search", file, "search.space={lr: [1e-3, 1e-2], latent: [2, 3]}", "search.resume_runs=false", "epochs=1"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "4 runs (grid over lr, latent), 0 done" in out and "best: " in out and "vaekit.load('run/best')" in out
    assert vaekit.load(tmp_path / "run" / "best").latent_shape[0] in (2, 3)
    assert main(["search", file]) == 2 and "'space' is missing" in capsys.readouterr().err
    assert main(["search", file, "search.spcae={}"]) == 2 and "Did you mean 'space'" in capsys.readouterr().err


def test_a_run_is_evaluated_on_what_it_was_validated_on_or_on_what_is_named(file, tmp_path, capsys):
    import numpy as np

    from vaekit.evaluate import EvaluationReport, evaluate
    from vaekit.train import digits

    assert main(["train", file, "epochs=1"]) == 0
    words = ["--metrics", "bounds", "reconstruction", "--draws", "2", "--device", "cpu"]
    _, (x, y) = digits()
    wanted = evaluate(vaekit.load("run/best"), x, metrics=("bounds", "reconstruction"), draws=2)
    capsys.readouterr()
    assert main(["evaluate", "run", *words, "--plot", "report.png"]) == 0
    out = capsys.readouterr().out
    assert "examples 297" in out and "elbo" in out and "run/evaluation.json: the report" in out
    assert EvaluationReport.load("run/evaluation.json")["elbo"] == pytest.approx(wanted["elbo"])
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
    assert main(["evaluate", "run", "digits", "--split", "train", *words, "--out", "train.json"]) == 0
    assert "examples 1500" in capsys.readouterr().out and (tmp_path / "train.json").is_file()
    np.save("x.npy", x.numpy())
    np.save("y.npy", y.numpy())
    words = ["--metrics", "labels", "reconstruction", "--device", "cpu"]
    assert main(["evaluate", "run/best", "x.npy", "--labels", "y.npy", *words]) == 0
    report = EvaluationReport.load("run/best/evaluation.json")
    assert report["mse"] == pytest.approx(wanted["mse"]) and 0 < report["probe_accuracy"] < 1
    for bad, told in (
        (["evaluate", "run/best"], "has no config.yaml that says its data. Name some: digits, mnist"),
        (["evaluate", "run", "digits", "--metrics", "fid"], "metrics: expected some of"),
        (["evaluate", "nowhere", "digits"], "is no folder"),
        (["evaluate", "run", "gone.npy"], "neither digits, mnist, a folder of images nor an .npy file"),
    ):
        assert main(bad) == 2 and told in capsys.readouterr().err, bad
