"""Models on disk: bit-equal in a fresh process, whole or not at all, and honest about damage."""

import json
import os
import subprocess
import sys

import pytest
import torch

import vaekit
from tests.networks import FixedEncoder, WiredEncoder
from vaekit import BuildError, CheckpointError, UnknownName, ramp, term, use
from vaekit.saving import read_weights


@pytest.fixture
def vae():
    return vaekit.build("conv", latent=3, input_shape=(1, 6, 6), width=8).eval()


def in_a_fresh_process(folder, x, *, trust=False):
    torch.save(x, folder / "x.pt")
    code = (
        "import sys, torch, vaekit\n"
        f"vae = vaekit.load({str(folder)!r}, trust={trust})\n"
        f"torch.save(vae.reconstruct(torch.load({str(folder / 'x.pt')!r})), {str(folder / 'y.pt')!r})"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=os.getcwd(), env={**os.environ, "PYTHONPATH": "."})
    return torch.load(folder / "y.pt")


def test_a_fresh_process_gives_bit_equal_outputs(vae, tmp_path):
    x = torch.rand(5, 1, 6, 6)
    vae.save_pretrained(tmp_path)
    assert torch.equal(in_a_fresh_process(tmp_path, x), vae.reconstruct(x))
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix != ".pt") == ["model.safetensors", "spec.json"]


def test_spec_json_is_the_spec(vae, tmp_path):
    vae.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "spec.json").read_text()) == vae.spec.to_dict()


@pytest.mark.parametrize(
    "make", [lambda: WiredEncoder(1, width=3), FixedEncoder, lambda: "tests.networks:PlainEncoder"]
)
def test_a_users_own_class_round_trips_with_trust_only(make, tmp_path):
    vae = vaekit.build("vae", latent=4, input_shape=(1, 6, 6), encoder=make())
    vae.save_pretrained(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"needs code from tests\.networks:\w+, which loading would run\. .*trust=True"
    ):
        vaekit.load(tmp_path)
    x = torch.rand(3, 1, 6, 6)
    assert torch.equal(in_a_fresh_process(tmp_path, x, trust=True), vae.reconstruct(x))


def test_a_module_that_can_not_be_written_down_says_which_slot_and_what_to_do(tmp_path):
    class Local(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, 4))

        def forward(self, x):
            return self.layers(x)

    build = lambda encoder: vaekit.build("vae", latent=4, input_shape=(1, 6, 6), encoder=encoder)  # noqa: E731
    with pytest.raises(
        BuildError, match=r"vae\.encoder: .*Local can't be written down, since it lives in .*Move it into a module"
    ):
        build(Local()).save_pretrained(tmp_path)
    with pytest.raises(
        BuildError, match=r"vae\.encoder: FixedEncoder can't be .*another network\. Give it by name: use\('tests"
    ):
        build(FixedEncoder(width=5)).save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir()), "nothing was written"


def test_built_losses_and_weights_are_written_down_too(tmp_path):
    loss = [
        term(vaekit.loss["nll"](), label="rec"),
        term(vaekit.loss["kl"](free_bits=0.5), weight=vaekit.weight["ramp"](0, 1, steps=3)),
    ]
    vae = vaekit.build("vae", latent=2, input_shape=(1, 4, 4), loss=loss)
    vae.save_pretrained(tmp_path)
    again = vaekit.load(tmp_path)
    assert again.spec.args["loss"][1].args == {
        "weight": vaekit.Spec("weight", "ramp", {"start": 0, "end": 1, "steps": 3}),
        "free_bits": 0.5,
    }
    assert list(again.objective.terms) == ["rec", "kl"]


def test_schedules_resume_where_they_were(tmp_path):
    vae = vaekit.build("vae", latent=2, input_shape=(1, 4, 4), loss={"nll": 1.0, "kl": ramp(0, 1, steps=10)})
    for _ in range(4):
        vae.loss(torch.rand(2, 1, 4, 4))
    vae.save_pretrained(tmp_path)
    report = vaekit.load(tmp_path).train().loss(torch.rand(2, 1, 4, 4))
    assert float(report.weights["kl"]) == pytest.approx(0.4)


def test_a_truncated_file_is_a_clear_error(vae, tmp_path):
    vae.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    whole = path.read_bytes()
    for part in (whole[:-7], whole[:100], b"", b"garbage" * 100, b"\xff" * 16):
        path.write_bytes(part)
        with pytest.raises(CheckpointError, match=r"model\.safetensors: is damaged or no safetensors file"):
            vaekit.load(tmp_path)


def test_a_flipped_bit_is_noticed(vae, tmp_path):
    vae.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="its tensors were changed since they were saved"):
        vaekit.load(tmp_path)


def test_an_edited_spec_is_noticed_and_can_be_given_up(vae, tmp_path):
    vae.save_pretrained(tmp_path)
    path = tmp_path / "spec.json"
    path.write_text(path.read_text().replace('"latent": 3', '"latent": 4'))
    with pytest.raises(
        CheckpointError, match=r"spec\.json: differs from the spec inside model\.safetensors.*Delete it"
    ):
        vaekit.load(tmp_path)
    path.unlink()
    assert vaekit.load(tmp_path).latent_shape == (3,)


def test_weights_of_another_model_name_the_tensors(vae, tmp_path):
    vae.save_pretrained(tmp_path)
    other = vaekit.build("conv", latent=4, input_shape=(1, 6, 6), width=8)
    before = [p.clone() for p in other.parameters()]
    with pytest.raises(
        CheckpointError, match=r"3 of another shape \(.*\(6, 72\) in place of \(8, 72\).*Nothing was loaded"
    ):
        read_weights(other, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(before, other.parameters(), strict=True))


def test_missing_and_foreign_tensors_are_named_with_both_shapes_and_nothing_is_loaded(vae, tmp_path):
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    vae.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    state = load_file(path)
    (first, second, third), shape = list(state)[:3], {key: tuple(t.shape) for key, t in state.items()}
    state["foreign.weight"] = state.pop(first)
    state[second] = torch.zeros(7, 1)
    save_file(state, path, metadata)
    other = vaekit.build(vae.spec)
    before = {key: t.clone() for key, t in other.state_dict().items()}
    assert not torch.equal(before[third], state[third]), "the rest of the file would have changed it"
    for load in (lambda: vaekit.load(tmp_path), lambda: read_weights(other, tmp_path)):
        with pytest.raises(CheckpointError) as caught:
            load()
        for told in (
            f"1 missing ({first})",
            "1 not in the network (foreign.weight)",
            f"1 of another shape ({second}: (7, 1) in place of {shape[second]})",
            "Nothing was loaded",
        ):
            assert told in str(caught.value)
    assert all(torch.equal(before[key], t) for key, t in other.state_dict().items())


def test_a_missing_folder_and_a_foreign_file(vae, tmp_path):
    from safetensors.torch import save_file

    with pytest.raises(CheckpointError, match=r"nowhere/model\.safetensors: not found"):
        vaekit.load(tmp_path / "nowhere")
    save_file({"a": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="holds no vaekit spec"):
        vaekit.load(tmp_path)


def test_a_spec_that_names_a_plugin_that_is_not_there(vae, tmp_path):
    from vaekit.kinds import encoder

    class Passing(vaekit.kinds.Encoder):
        """x → x."""

        def forward(self, x, cond=None):
            return x.flatten(1)

    encoder("passing_through")(Passing)
    try:
        vaekit.build("vae", latent=2, input_shape=(1, 6, 6), encoder="passing_through").save_pretrained(tmp_path)
    finally:
        del encoder._entries["passing_through"]
    with pytest.raises(
        UnknownName, match=r"vae\.encoder: no encoder named 'passing_through'.*once that package is installed"
    ):
        vaekit.load(tmp_path)


def test_a_save_that_fails_leaves_the_old_model(vae, tmp_path, monkeypatch):
    vae.save_pretrained(tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    other = vaekit.build("conv", latent=5, input_shape=(1, 6, 6), width=8)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vaekit.saving.os.fsync", full)
    with pytest.raises(CheckpointError, match="can't be written .*No space left.*untouched"):
        other.save_pretrained(tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_saving_over_a_model_replaces_it(vae, tmp_path):
    vae.save_pretrained(tmp_path)
    other = vaekit.build("conv", latent=5, input_shape=(1, 6, 6), width=8)
    other.save_pretrained(tmp_path)
    assert vaekit.load(tmp_path).latent_shape == (5,)


def test_tied_weights_and_other_layouts_are_saved(tmp_path):
    vae = vaekit.build("mlp", latent=4, input_shape=(1, 4, 4), hidden=(8,))
    vae.decoder.out.weight = torch.nn.Parameter(torch.randn(16, 8))
    vae.encoder.body.layers[0].weight = torch.nn.Parameter(vae.decoder.out.weight.detach().t())
    vae.save_pretrained(tmp_path / "layout")
    x = torch.rand(2, 1, 4, 4)
    torch.testing.assert_close(vaekit.load(tmp_path / "layout").reconstruct(x), vae.reconstruct(x))
    tied = vaekit.build("mlp", latent=4, input_shape=(1, 2, 2), hidden=(4, 4))
    tied.encoder.body.layers[0].weight = tied.encoder.body.layers[2].weight
    tied.save_pretrained(tmp_path / "tied")
    x = torch.rand(2, 1, 2, 2)
    assert torch.equal(vaekit.load(tmp_path / "tied").reconstruct(x), tied.reconstruct(x))


def test_loading_does_not_fetch_pretrained_weights(tmp_path, monkeypatch):
    import timm

    from vaekit.encoders import timm_backbone

    real = timm.create_model
    monkeypatch.setattr(timm_backbone, "pretrained_file", lambda *_, **__: "not read")
    monkeypatch.setattr(
        timm, "create_model", lambda name, pretrained=False, **args: real(name, pretrained=False, **args)
    )
    encoder = use("timm", backbone="test_resnet", pretrained=True)
    vaekit.build("conv", latent=2, input_shape=(1, 8, 8), encoder=encoder).save_pretrained(tmp_path)
    asked = []
    monkeypatch.setattr(
        timm, "create_model", lambda name, pretrained=False, **args: asked.append(pretrained) or real(name, **args)
    )
    monkeypatch.setattr(timm_backbone, "pretrained_file", lambda *_, **__: pytest.fail("weights were looked for"))
    vaekit.load(tmp_path)
    assert asked and not any(asked)


@pytest.mark.parametrize(
    ("slot", "path"),
    [("encoder", r"vae\.encoder"), ("transforms", r"vae\.transforms\[1\]"), ("weight", r"vae\.loss\[1\]\.weight")],
)
def test_a_class_of_the_running_script_is_refused_in_every_slot_also_by_name(vae, slot, path, tmp_path):
    """Named "__main__:Mine", it is written into the spec, and no other process finds it there."""
    spec = vae.spec
    passing = vaekit.Spec("", "__main__:Mine")
    if slot == "transforms":
        spec = spec.replace(transforms=(use("bound"), passing))
    elif slot == "weight":
        spec = spec.replace(loss=(spec.args["loss"][0], spec.args["loss"][1].replace(weight=passing)))
    else:
        spec = spec.replace(**{slot: passing})
    vae.spec = spec
    with pytest.raises(BuildError, match=rf"^{path}: Mine can't be written down, since it lives in __main__"):
        vae.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


def test_built_transforms_are_written_down_by_name(tmp_path):
    bound = vaekit.transform["bound"](limit=2.0)
    vae = vaekit.build("vae", latent=2, input_shape=(1, 4, 4), transforms=[bound, use("latent_noise", scale=0.1)])
    vae.save_pretrained(tmp_path)
    assert vaekit.load(tmp_path).spec.args["transforms"] == (
        vaekit.Spec("transform", "bound", {"limit": 2.0}),
        vaekit.Spec("transform", "latent_noise", {"scale": 0.1}),
    )
