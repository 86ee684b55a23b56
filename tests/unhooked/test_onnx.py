"""ONNX and torch.export: files that say what the model says, at other batches and sizes too, or a refusal.

Without the shape checks: dynamo traces the parts that keep a batch open by asking for its length.
"""

import json
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch

import vaekit
from tests.test_recipes import IMAGES, OWN
from vaekit import use
from vaekit.interop.onnx import ExportError, example, export, quantize, refuses, torch_export
from vaekit.samplers.hamiltonian import HamiltonianSampler
from vaekit.samplers.riemannian_hamiltonian import RiemannianHamiltonianSampler
from vaekit.train.datasets import digits

PASSES = ("encode", "decode", "reconstruct")
SAMPLE = ("mlp", "conv", "conditional_vae", "lfq_vae", "student_vae", "taesd")


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()


def build(name):
    size = 32 if name in IMAGES else 8
    args = {**OWN.get(name, {}), **IMAGES.get(name, {})}
    vae = vaekit.build(name, latent=4, input_shape=(3 if name in IMAGES else 1, size, size), **args).eval()
    torch.manual_seed(1)
    for weight in vae.parameters():  # what a condition does, and some residuals, are nothing at first
        if weight.is_floating_point() and not weight.detach().any():
            weight.data += 0.1 * torch.randn_like(weight)
    for module in vae.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
    return vae


def run(path, *given):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    feed = {put.name: each.numpy() for put, each in zip(session.get_inputs(), given, strict=True)}
    return torch.from_numpy(session.run(None, feed)[0])


def expected(vae, what, given):
    x, cond = given[0], given[1] if len(given) > 1 else None
    with torch.no_grad():
        if what == "encode":
            return vae.encode(x, cond=cond).mode
        return vae.decode(x, cond) if what == "decode" else vae.reconstruct(x, cond)


def agrees_or_refuses(name, what, path):
    vae = build(name)
    if refuses(vae, what):
        with pytest.raises(ExportError, match="can't be exported"):
            export(vae, path, what)
        assert not path.exists()
        return
    export(vae, path, what, tolerance=None)
    strides = [a // b for a, b in zip(vae.input_shape[1:], vae.latent_shape[1:], strict=False)]
    other = [3, 4] if what == "decode" else [3 * strides[0], 4 * strides[-1]] if vae.any_size else None
    for batch in (1, 5):
        for size in (None, other) if vae.any_size else (None,):
            given = example(vae, what, batch, size)
            ours, theirs = run(path, *given), expected(vae, what, given)
            assert ours.shape == theirs.shape
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", SAMPLE)
def test_a_file_says_what_the_model_says(name, tmp_path):
    agrees_or_refuses(name, "reconstruct", tmp_path / "model.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in vaekit.recipe.names() if n not in SAMPLE])
@pytest.mark.parametrize("what", PASSES)
def test_every_recipe_is_exported_or_refuses(name, what, tmp_path):
    agrees_or_refuses(name, what, tmp_path / "model.onnx")


@pytest.mark.parametrize("what", ["encode", "decode"])
def test_halves_of_a_conditional_model_take_the_labels_as_their_second_input(what, tmp_path):
    agrees_or_refuses("conditional_vae", what, tmp_path / "model.onnx")
    names = [each.name for each in onnx.load(tmp_path / "model.onnx").graph.input]
    assert names == ["z" if what == "decode" else "x", "cond"]


def test_a_model_that_follows_gradients_refuses_to_encode_and_its_decoder_is_exported(tmp_path):
    for what in PASSES:
        agrees_or_refuses("hvae", what, tmp_path / f"{what}.onnx")
    assert (tmp_path / "decode.onnx").exists() and not (tmp_path / "encode.onnx").exists()


@pytest.mark.parametrize(("name", "sampler"), [("hvae", HamiltonianSampler), ("rhvae", RiemannianHamiltonianSampler)])
@pytest.mark.parametrize("what", ["encode", "reconstruct"])
def test_a_sampler_that_follows_gradients_rightly_says_that_it_cannot_be_exported(
    name, sampler, what, monkeypatch, tmp_path
):
    """Should torch learn to trace it, this fails, and the refusal can go."""
    assert not sampler.exports
    monkeypatch.setattr(sampler, "exports", True)
    with pytest.raises(ExportError, match="can't trace"):
        export(build(name), tmp_path / "model.onnx", what)


def test_the_file_draws_nothing(tmp_path):
    export(build("vae"), path := tmp_path / "model.onnx")
    assert not {"RandomNormal", "RandomNormalLike", "RandomUniform"} & {n.op_type for n in onnx.load(path).graph.node}
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(run(path, x), run(path, x))


def test_batch_and_size_are_open_only_where_asked(tmp_path):
    vae = build("taesd")
    export(vae, tmp_path / "fixed.onnx", dynamic_batch=False, dynamic_size=False)
    shape = onnx.load(tmp_path / "fixed.onnx").graph.input[0].type.tensor_type.shape
    assert [d.dim_value for d in shape.dim] == [3, 3, 32, 32]
    export(vae, tmp_path / "open.onnx")
    shape = onnx.load(tmp_path / "open.onnx").graph.input[0].type.tensor_type.shape
    assert [bool(d.dim_value) for d in shape.dim] == [False, True, False, False]
    with pytest.raises(ValueError, match="takes data of one size"):
        export(build("mlp"), tmp_path / "model.onnx", dynamic_size=True)


def test_the_file_tells_what_it_holds_and_the_opset_is_the_one_asked_for(tmp_path):
    model = onnx.load(export(build("mlp"), tmp_path / "folder" / "model.onnx", "encode", opset=20))
    (told,) = [json.loads(each.value) for each in model.metadata_props if each.key == "vaekit"]
    assert told == {"what": "encode", "input_shape": [1, 8, 8], "latent_shape": [4], "data_range": [0.0, 1.0]}
    assert [each.version for each in model.opset_import if each.domain == ""] == [20]
    assert [each.name for each in model.graph.output] == ["z"]


def test_a_file_that_says_something_else_is_not_left_behind(tmp_path, monkeypatch):
    vae, path = build("mlp"), tmp_path / "model.onnx"
    run_as_ever = vaekit.interop.onnx.run
    monkeypatch.setattr("vaekit.interop.onnx.run", lambda *given: run_as_ever(*given) + 1e-3)
    with pytest.raises(ExportError, match="differ by 0.001"):
        export(vae, path)
    assert not path.exists()


def test_an_export_that_fails_leaves_the_file_that_was_there(tmp_path, monkeypatch):
    """Cut short in writing, or found to say something else: the old file is whole, and nothing lies beside it."""
    path = export(build("mlp"), tmp_path / "model.onnx")
    before = path.read_bytes()

    def half(self, place):
        Path(place).write_bytes(before[: len(before) // 2])
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch.onnx.ONNXProgram, "save", half)
        with pytest.raises(OSError, match="no space left"):
            export(build("conv"), path)
    run_as_ever = vaekit.interop.onnx.run
    with monkeypatch.context() as patch:
        patch.setattr("vaekit.interop.onnx.run", lambda *given: run_as_ever(*given) + 1e-3)
        with pytest.raises(ExportError, match=r"model\.onnx: onnxruntime and torch differ"):
            export(build("conv"), path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_a_quantization_that_fails_leaves_the_file_that_was_there(tmp_path, monkeypatch):
    from onnxruntime import quantization

    path = export(build("mlp"), tmp_path / "model.onnx")
    before = path.read_bytes()

    def half(model, place, **_):
        Path(place).write_bytes(b"half")
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(quantization, "quantize_dynamic", half)
        with pytest.raises(OSError, match="no space left"):
            quantize(path, path, repeats=1)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    report = quantize(path, path, repeats=1)
    assert report.size_before == len(before) and report.size == len(path.read_bytes()) != len(before)


def test_weights_in_a_file_of_their_own_move_with_the_model_and_go_when_it_needs_none(tmp_path, monkeypatch):
    vae, path, x = build("mlp"), tmp_path / "model.onnx", torch.rand(2, 1, 8, 8)
    save = torch.onnx.ONNXProgram.save
    with monkeypatch.context() as patch:  # as for a model above 2 GB
        patch.setattr(torch.onnx.ONNXProgram, "save", lambda self, place: save(self, place, external_data=True))
        export(vae, path)
    assert {each.name for each in tmp_path.iterdir()} == {"model.onnx", "model.onnx.data"}
    torch.testing.assert_close(run(path, x), vae.reconstruct(x), rtol=1e-4, atol=1e-4)
    export(vae, path)
    assert [each.name for each in tmp_path.iterdir()] == ["model.onnx"]
    torch.testing.assert_close(run(path, x), vae.reconstruct(x), rtol=1e-4, atol=1e-4)


def test_the_model_is_left_in_the_mode_it_was_in(tmp_path):
    vae = build("conv").train()
    export(vae, tmp_path / "model.onnx")
    assert all(module.training for module in vae.modules())


@pytest.mark.parametrize("name", ["conv", "vq_vae", "sd1", "taesd"])
def test_the_exported_program_says_what_the_model_says_for_any_batch_and_its_own_size(name, tmp_path):
    vae = build(name)
    torch.export.save(torch_export(vae), tmp_path / "model.pt2")
    program = torch.export.load(tmp_path / "model.pt2").module()
    for batch in (1, 2, 7):
        x = torch.rand(batch, *vae.input_shape)
        torch.testing.assert_close(program(x), vae.reconstruct(x))
    if vae.any_size:
        x = torch.rand(2, 3, 48, 16)
        torch.testing.assert_close(program(x), vae.reconstruct(x))


def test_int8_weights_take_a_quarter_of_the_room_and_cost_what_the_report_says(tmp_path):
    (x, _), (x_test, _) = digits()
    vae = vaekit.build("mlp", latent=8, input_shape=(1, 8, 8))
    optimizer = torch.optim.Adam(vae.parameters(), 2e-3)
    for step in range(300):
        optimizer.zero_grad()
        vae.loss(x[torch.arange(64 * step, 64 * (step + 1)) % len(x)]).total.backward()
        optimizer.step()
    path = export(vae, tmp_path / "model.onnx")
    report = quantize(path, tmp_path / "int8.onnx", x_test)

    def psnr(a, b):
        return float(-10 * (a - b).square().mean().log10())

    before, after = run(path, x_test), run(tmp_path / "int8.onnx", x_test)
    assert report.psnr == pytest.approx(psnr(after, before), abs=1e-3)
    assert report.lost == pytest.approx(psnr(before, x_test) - psnr(after, x_test), abs=1e-3)
    assert report.size < 0.35 * report.size_before and report.size == (tmp_path / "int8.onnx").stat().st_size
    assert report.psnr > 25 and report.lost < 1 and report.speed > 0
    assert "dB" in str(report)


def test_convolutions_are_quantized_too(tmp_path):
    path = export(build("conv"), tmp_path / "model.onnx")
    assert quantize(path, tmp_path / "int8.onnx", repeats=1).psnr > 25
    assert {"ConvInteger"} <= {n.op_type for n in onnx.load(tmp_path / "int8.onnx").graph.node}


def test_quantize_refuses_other_files_and_a_missing_condition(tmp_path):
    with pytest.raises(ValueError, match="takes a condition"):
        quantize(export(build("conditional_vae"), tmp_path / "model.onnx"), tmp_path / "int8.onnx")
    model = onnx.load(tmp_path / "model.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(ExportError, match="was not written by"):
        quantize(tmp_path / "other.onnx", tmp_path / "int8.onnx")


def test_an_unknown_pass_is_refused():
    with pytest.raises(ValueError, match="what: expected 'reconstruct'"):
        torch_export(build("mlp"), "dream")


def test_parts_say_for_themselves_that_they_cannot_be_exported(monkeypatch):
    vae = vaekit.build("mlp", latent=2, input_shape=(4,), data_range=None, likelihood=use("gaussian", scale=1.0))
    assert refuses(vae) == []
    monkeypatch.setattr(type(vae.decoder), "exports", False)
    assert refuses(vae) == ["decoder: MLPDecoder"] and refuses(vae, "encode") == []
