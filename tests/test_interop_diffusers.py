"""AutoencoderKL and VQModel in and out: diffusers' and LDM's files, against diffusers itself, with random weights."""

import json
import re
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file

import vaekit
from vaekit import use
from vaekit.interop import diffusers as interop
from vaekit.saving import CheckpointError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    peer = pytest.importorskip("diffusers")

PLAIN, INNER = "DownEncoderBlock2D", "AttnDownEncoderBlock2D"
WIDTHS = (32, 64)
KINDS = {
    "kl": ("AutoencoderKL", {}),
    "sd3-like": ("AutoencoderKL", {"use_quant_conv": False, "use_post_quant_conv": False, "latent_channels": 8}),
    "one quant conv": ("AutoencoderKL", {"use_post_quant_conv": False}),
    "attention inside": ("AutoencoderKL", {"attention": (0, 1), "block_out_channels": (32, 32, 64)}),
    "attention nowhere": ("AutoencoderKL", {"mid_block_add_attention": False, "layers_per_block": 1}),
    "few groups": ("AutoencoderKL", {"norm_num_groups": 4, "block_out_channels": (8, 24)}),
    "vq": ("VQModel", {"num_vq_embeddings": 16}),
    "vq, narrow codes": ("VQModel", {"num_vq_embeddings": 16, "vq_embed_dim": 2, "attention": (1,)}),
    "movq": ("VQModel", {"num_vq_embeddings": 16, "norm_type": "spatial", "attention": (1,)}),
}


def theirs(kind):
    name, args = KINDS[kind]
    args = {"block_out_channels": WIDTHS, "layers_per_block": 2, "latent_channels": 4, "sample_size": 32, **args}
    depth, attention = len(args["block_out_channels"]), args.pop("attention", ())
    blocks = [INNER if i in attention else PLAIN for i in range(depth)]
    torch.manual_seed(1)
    model = getattr(peer, name)(
        down_block_types=tuple(blocks),
        up_block_types=tuple(b.replace("Down", "Up").replace("Encoder", "Decoder") for b in reversed(blocks)),
        **args,
    )
    with torch.no_grad():  # norms and biases that say something, and codes that lie where encodings do
        for key, p in model.named_parameters():
            p += 0.1 * torch.randn_like(p) if p.ndim == 1 else 0
            if "embedding" in key:
                p.normal_()
    return model.eval()


def ldm_of(model):
    """The weights under LDM's names: the published table, line by line."""
    last = len(model.config.block_out_channels) - 1
    renamed = {}
    for key, value in model.state_dict().items():
        attention = ".attentions." in key
        for pattern, name in (
            (r"down_blocks\.(\d+)\.resnets\.(\d+)", r"down.\1.block.\2"),
            (r"down_blocks\.(\d+)\.attentions\.(\d+)", r"down.\1.attn.\2"),
            (r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample"),
            (r"up_blocks\.(\d+)\.resnets\.(\d+)", lambda m: f"up.{last - int(m[1])}.block.{m[2]}"),
            (r"up_blocks\.(\d+)\.attentions\.(\d+)", lambda m: f"up.{last - int(m[1])}.attn.{m[2]}"),
            (r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{last - int(m[1])}.upsample"),
            (r"mid_block\.attentions\.0", "mid.attn_1"),
            (r"mid_block\.resnets\.0", "mid.block_1"),
            (r"mid_block\.resnets\.1", "mid.block_2"),
            (r"conv_shortcut", "nin_shortcut"),
            (r"conv_norm_out", "norm_out"),
            (r"(group|spatial)_norm\.", "norm."),
            (r"to_out\.0", "proj_out"),
            (r"\.to_([qkv])\.", r".\1."),
        ):
            key = re.sub(pattern, name, key)
        matrix = attention and value.ndim == 2
        renamed[key] = value[..., None, None] if matrix else value
    return renamed


def near(ours, wanted):
    assert ours.shape == wanted.shape
    assert float((ours - wanted).abs().max()) <= 1e-5 * float(wanted.abs().max())


def same_numbers(vae, model, size=(32, 32)):
    x = torch.rand(2, 3, *size) * 2 - 1
    with torch.no_grad():
        level = vae.encode(x)
        z = torch.randn_like(level.z)
        if isinstance(model, peer.VQModel):
            near(vae.encoder(x), model.encode(x).latents)
            near(vae.decode(z), model.decode(z, force_not_quantize=True).sample)
        else:
            told = model.encode(x).latent_dist
            near(level.q.mean, told.mean)
            near(2 * level.q.stddev.log(), told.logvar)
            near(vae.decode(z), model.decode(z).sample)


def equal(a, b):
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) and a[key].dtype == b[key].dtype for key in a)


@pytest.fixture
def folder(tmp_path):
    def write(kind):
        model = theirs(kind)
        model.save_pretrained(tmp_path / "theirs")
        return model, tmp_path / "theirs"

    return write


# -- the same numbers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(20, 52), (33, 27)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_loaded_folder_encodes_and_decodes_as_diffusers_does(folder, kind, size):
    model, path = folder(kind)
    same_numbers(interop.load(path), model, size)


@pytest.mark.parametrize("kind", ["vq", "vq, narrow codes", "movq"])
def test_codes_are_the_nearest_ones(folder, kind):
    model, path = folder(kind)
    x = torch.rand(3, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        level, z_e = interop.load(path).encode(x), model.encode(x).latents
        book = model.quantize.embedding.weight
        apart = (z_e.movedim(1, -1)[..., None, :] - book).square().sum(-1)
        torch.testing.assert_close(level.index, apart.argmin(-1))
        assert torch.equal(level.mode, book[level.index].movedim(-1, 1))
        near(interop.load(path).reconstruct(x), model.decode(z_e).sample)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_is_what_was_loaded(folder, tmp_path, kind):
    model, path = folder(kind)
    vae = interop.load(path)
    interop.save(vae, tmp_path / "ours")
    back = type(model).from_pretrained(tmp_path / "ours")
    equal(back.state_dict(), model.state_dict())
    for key, value in model.config.items():
        if not key.startswith("_") and value is not None and key != "force_upcast":
            got = back.config[key]
            assert got == value or list(got) == list(value), key
    equal(interop.load(tmp_path / "ours").state_dict(), vae.state_dict())


@pytest.mark.parametrize(
    ("kind", "name"),
    [("kl", "vae.safetensors")]
    + [(kind, "vae.ckpt") for kind in KINDS if kind != "few groups"],  # no file tells groups
)
def test_ldms_names_are_the_published_ones_and_come_back(folder, tmp_path, kind, name):
    model, path = folder(kind)
    vae = interop.load(path)
    interop.save_ldm(vae, tmp_path / name)
    file = tmp_path / name
    found = load_file(file) if file.suffix == ".safetensors" else torch.load(file, weights_only=True)["state_dict"]
    equal(found, ldm_of(model))
    with pytest.warns(UserWarning, match="does not say in which scale"):
        again = interop.load(file, input_shape=(3, 32, 32))
    equal(again.state_dict(), {k: v for k, v in vae.state_dict().items() if not k.startswith("normalizer")})
    same_numbers(again, model)


def test_a_loaded_model_trains(folder):
    _, path = folder("attention inside")
    vae = interop.load(path).train()
    vae.loss(torch.rand(2, 3, 32, 32) * 2 - 1).total.backward()
    assert all(p.grad is not None and p.grad.any() for p in vae.parameters())


def test_a_loaded_model_is_saved_and_loaded_as_any_other(folder, tmp_path):
    _, path = folder("movq")
    vae = interop.load(path)
    vae.save_pretrained(tmp_path / "own")
    equal(vaekit.load(tmp_path / "own").state_dict(), vae.state_dict())


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["first_stage_model.", "vae.", "model.", "module.", "module.first_stage_model."])
def test_prefixes_and_what_belongs_to_training_are_left_out(tmp_path, prefix):
    model = theirs("kl")
    extra = {"loss.logvar": torch.zeros(()), "model_ema.decay": torch.ones(()), "foundation_model.x": torch.ones(1)}
    state = {prefix + key: value for key, value in {**ldm_of(model), **extra}.items()}
    state["cond_stage_model.x"] = torch.ones(1)
    torch.save({"state_dict": state, "global_step": 3, "epoch": 1}, tmp_path / "a.ckpt")
    report = interop.examine(tmp_path / "a.ckpt")
    assert report.fits
    assert sorted(report.ignored) == sorted([*(prefix + key for key in extra), "cond_stage_model.x"])
    same_numbers(interop.load(tmp_path / "a.ckpt", preset="sd1", input_shape=(3, 32, 32)), model)


def test_old_names_of_attentions_are_known(tmp_path, folder):
    model, path = folder("attention inside")
    new = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = model.state_dict()
    for a, b in new.items():
        state = {key.replace(f".{a}.", f".{b}."): value for key, value in state.items()}
    assert any("proj_attn" in key for key in state)
    save_file(state, path / "diffusion_pytorch_model.safetensors")
    same_numbers(interop.load(path), model)


def test_bin_files_shards_and_pipelines_are_found(tmp_path):
    model = theirs("kl")
    model.save_pretrained(tmp_path / "bin", safe_serialization=False)
    model.save_pretrained(tmp_path / "pipeline" / "vae")
    model.save_pretrained(tmp_path / "shards", max_shard_size="300KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    for path in ("bin", "pipeline", "shards"):
        same_numbers(interop.load(tmp_path / path), model)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_type_of_the_weights_is_kept(folder, tmp_path, dtype):
    model, path = folder("kl")
    model.to(dtype).save_pretrained(path)
    vae = interop.load(path)
    assert {p.dtype for p in vae.parameters()} == {dtype}
    interop.save(vae, tmp_path / "ours")
    equal(load_file(tmp_path / "ours" / "diffusion_pytorch_model.safetensors"), model.state_dict())


class Mischief:
    def __reduce__(self):
        return (open, ("ran.txt", "w"))


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": ldm_of(theirs("kl")), "callbacks": Mischief()}, "a.ckpt")
    with pytest.raises(CheckpointError, match="only running code.*Where you trust its source"):
        interop.load("a.ckpt")
    assert not (tmp_path / "ran.txt").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.update({"encoder.down.0.block.0.mystery": torch.ones(1)}), "encoder.down.0.block.0.mystery"),
        (lambda s: s.update({"stranger.weight": torch.ones(1)}), "unexpected 1: stranger.weight"),
        (lambda s: s.pop("encoder.down.1.block.0.norm2.weight"), "missing 1: encoder.levels.1.blocks.0.norm2.weight"),
        (lambda s: s.pop("decoder.mid.attn_1.k.bias"), "missing 1: decoder.middle.attention.to_qkv.bias"),
        (
            lambda s: s.update({"encoder.norm_out.bias": torch.ones(3)}),
            r"another shape 1: .*\(3,\) in place of \(64,\)",
        ),
        (lambda s: s.clear() or s.update({"unet.weight": torch.ones(1)}), "keys of no autoencoder.*unet.weight"),
        (lambda s: [s.pop(k) for k in list(s) if k.startswith("decoder.up")], "the decoder is not there"),
    ],
)
def test_weights_that_do_not_fit_are_named(tmp_path, change, said):
    state = ldm_of(theirs("kl"))
    change(state)
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=said):
        interop.load(tmp_path / "a.safetensors", preset="sd1", input_shape=(3, 32, 32))


@pytest.mark.parametrize("name", ["none.ckpt", "empty", "a.safetensors", "a.ckpt"])
def test_files_that_hold_no_weights_are_refused(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.safetensors").write_bytes(b"nothing")
    torch.save([1, 2], tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match="no such file|no weights|damaged"):
        interop.load(tmp_path / name)


@pytest.mark.parametrize(
    ("text", "said"), [('{"_class_name": "Auto', "no JSON"), ("[1]", "settings by name, got list")]
)
def test_a_damaged_config_is_refused(folder, text, said):
    _, path = folder("kl")
    (path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=rf"config\.json: .*{said}"):
        interop.load(path)


def test_a_save_that_fails_leaves_the_old_files(folder, tmp_path, monkeypatch):
    _, path = folder("kl")
    vae = interop.load(path)
    interop.save_ldm(vae, tmp_path / "a.safetensors")
    before = {file: file.read_bytes() for file in [*path.iterdir(), tmp_path / "a.safetensors"]}

    def half(state, file, metadata=None):
        with open(file, "wb") as opened:
            opened.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(interop, "save_file", half)
    with pytest.raises(OSError, match="no space left"):
        interop.save(vae, path)
    with pytest.raises(OSError, match="no space left"):
        interop.save_ldm(vae, tmp_path / "a.safetensors")
    assert {file: file.read_bytes() for file in [*path.iterdir(), tmp_path / "a.safetensors"]} == before


def test_a_scale_that_diffusers_has_not_writes_nothing(folder, tmp_path):
    vae = interop.load(folder("kl")[1])

    class PerPlace(torch.nn.Module):
        def forward(self, z):
            return z * torch.arange(z.shape[-1])

    vae.normalizer = PerPlace()
    vae.spec = None
    with pytest.raises(ValueError, match="one scale a channel"):
        interop.save(vae, tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_an_input_shape_that_the_strides_do_not_divide_is_refused(folder):
    _, path = folder("kl")
    with pytest.raises(ValueError, match="multiples of 2"):
        interop.load(path, input_shape=(3, 33, 32))


# -- the scale of latents ----------------------------------------------------------------------------------------------


def test_the_scale_is_what_the_config_says(folder, tmp_path):
    model, path = folder("kl")
    config = json.loads((path / "config.json").read_text())
    x = torch.rand(1, 3, 32, 32) * 2 - 1
    mean = interop.load(path).encode(x).q.mean.detach()
    m, s = [0.1, 0.2, -0.3, 0.4], [1.0, 2.0, 3.0, 4.0]
    for change, wanted in (
        ({"scaling_factor": 0.3, "shift_factor": 0.25}, (mean - 0.25) * 0.3),
        ({"scaling_factor": 0.3}, mean * 0.3),
        (
            {"scaling_factor": 0.5, "latents_mean": m, "latents_std": s},
            (mean - torch.tensor(m)[:, None, None]) * 0.5 / torch.tensor(s)[:, None, None],
        ),
    ):
        (path / "config.json").write_text(json.dumps({**config, **change}))
        vae = interop.load(path)
        torch.testing.assert_close(vae.latents(x), wanted)
        interop.save(vae, tmp_path / "ours")  # and it says it again
        torch.testing.assert_close(interop.load(tmp_path / "ours").latents(x), wanted)


def test_a_scale_that_nothing_says_is_not_guessed(folder, tmp_path):
    _, path = folder("kl")
    config = json.loads((path / "config.json").read_text())
    del config["scaling_factor"]
    (path / "config.json").write_text(json.dumps(config))
    with pytest.warns(UserWarning, match="no normalizer.*preset= one of.*sd1"):
        vae = interop.load(path)
    assert vae.normalizer is None
    interop.save(vae, tmp_path / "ours")
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["scaling_factor"] is None
    assert peer.AutoencoderKL.from_pretrained(tmp_path / "ours").config.scaling_factor is None


def test_a_preset_says_the_scale_of_a_single_file(tmp_path):
    save_file(ldm_of(theirs("kl")), tmp_path / "a.safetensors")
    vae = interop.load(tmp_path / "a.safetensors", preset="sdxl", input_shape=(3, 32, 32))
    x = torch.rand(1, 3, 32, 32) * 2 - 1
    torch.testing.assert_close(vae.latents(x), vae.encode(x).q.mean.detach() * 0.13025)


@pytest.mark.parametrize(
    ("kind", "preset", "said"),
    [
        ("kl", "sd3", "latent channels 16, and the weights have 4"),
        ("sd3-like", "sd1", "latent channels 4, and the weights have 8"),
        ("kl", "sd1", None),
        ("kl", "sdxl", "'sdxl' normalizes by.*0.13025.*config.json.*0.18215"),
        ("kl", "sd9", "expected one of .*sd1.*sdxl.*got 'sd9'"),
        ("kl", "ldm_kl_f8", "expected one of"),
    ],
)
def test_a_wrong_preset_is_refused(folder, kind, preset, said):
    _, path = folder(kind)
    if said is None:
        assert interop.load(path, preset=preset).normalizer is not None
        return
    with pytest.raises(ValueError, match=said):
        interop.load(path, preset=preset)


def test_a_preset_with_other_quant_convs_is_refused(folder):
    path = folder("sd3-like")[1]
    config = json.loads((path / "config.json").read_text())
    model = peer.AutoencoderKL(**{**KINDS["kl"][1], "latent_channels": 16, "block_out_channels": (32,)})
    model.save_pretrained(path)
    assert config["use_quant_conv"] is False
    with pytest.raises(ValueError, match="'flux1' has quant conv False, and the weights have True"):
        interop.load(path, preset="flux1")


# -- models that others do not know ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoder", "decoder", "said"),
    [
        ({}, {"norm": "rms"}, "norm='group'"),
        ({}, {"norm": "spatial"}, "with codes alone"),
        ({}, {"layers": 3}, "the same widths, layers"),
        ({"quant_conv": 6}, {}, "keep the number of channels"),
        ({"patch": 2, "widths": (8,)}, {"patch": 2, "widths": (8,)}, "Haar"),
        ({"out_channels": None}, {}, "no head after the encoder"),
    ],
)
def test_what_diffusers_has_not_is_not_saved(tmp_path, encoder, decoder, said):
    common = {"widths": (8, 16), "layers": 1, "groups": 4}
    vae = vaekit.build(
        input_shape=(3, 16, 16),
        latent=(4, 8, 8),
        data_range=(-1.0, 1.0),
        encoder=use("kl_resnet", **{**common, "out_channels": 8, **encoder}),
        sampler=use("gaussian", head="linear" if "out_channels" in encoder else "none"),
        decoder=use("kl_resnet", **{**common, **decoder}),
    )
    with pytest.raises(ValueError, match=said):
        interop.save(vae, tmp_path)
    with pytest.raises(ValueError, match="expected an encoder of"):
        interop.save(vaekit.build("mlp", latent=2, input_shape=(1, 4, 4)), tmp_path)
