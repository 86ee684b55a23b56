"""The tiny and the deep compression autoencoder against diffusers, and their weights in and out of it."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vaekit
import vaekit.recipes.tokenizers
from vaekit.interop import dc, tiny
from vaekit.recipes.tokenizers import autoencoder
from vaekit.spec import Spec, use
from vaekit.vae import VAE
from vaekit.wiring import make

diffusers = pytest.importorskip("diffusers")

TINY: dict[str, Any] = {
    "encoder_block_out_channels": (8, 8, 8),
    "decoder_block_out_channels": (12, 12, 12),
    "num_encoder_blocks": (1, 2, 1),
    "num_decoder_blocks": (2, 1, 1),
    "latent_channels": 4,
}
MIXED = ("ResBlock", "EfficientViTBlock", "EfficientViTBlock")
DC: dict[str, Any] = {
    "latent_channels": 4,
    "attention_head_dim": 8,
    "encoder_block_types": MIXED,
    "decoder_block_types": MIXED,
    "encoder_block_out_channels": (8, 16, 16),
    "decoder_block_out_channels": (16, 16, 32),
    "encoder_layers_per_block": (1, 1, 2),
    "decoder_layers_per_block": (2, 1, 1),
    "encoder_qkv_multiscales": ((), (), (5,)),
    "decoder_qkv_multiscales": ((), (3, 5), ()),
}


def random_weights(module: nn.Module) -> nn.Module:
    """Norms moved from 1 and 0 and running statistics from theirs, so that none of them is silent."""
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 2)
            elif value.is_floating_point():
                value.add_(0.05 * torch.randn_like(value))
    return module.eval()


def peer_of(cls: Any, **config: Any) -> Any:
    return random_weights(cls(**config))


def ours_of(family: Any, peer: Any, input_shape: tuple[int, ...] = (3, 24, 16)) -> VAE:
    state = peer.state_dict()
    assert family.matches(state.keys())
    vae = vaekit.build(family.spec_from(state, dict(peer.config), input_shape)).eval()
    vae.load_state_dict(family.to_ours(state), strict=True)
    return vae


def near(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    assert (found - expected).norm() <= 1e-5 * expected.norm(), float((found - expected).norm() / expected.norm())


def agrees(vae: VAE, peer: Any, *sizes: tuple[int, int]) -> None:
    for size in sizes:
        x = torch.rand(2, peer.config.in_channels, *size) * 2 - 1
        with torch.no_grad():
            encoded = peer.encode(x, return_dict=False)[0]
            near(vae.encode(x).z, encoded)
            near(vae.decode(encoded), peer.decode(encoded, return_dict=False)[0])


def round_trips(family: Any, cls: Any, vae: VAE) -> None:
    """Ours → diffusers → ours is exact, and diffusers takes every weight and gives the same."""
    state, config = family.to_diffusers(vae)
    peer = cls.from_config(config).eval()
    peer.load_state_dict(state, strict=True)
    again = ours_of(family, peer, vae.input_shape)
    assert again.state_dict().keys() == vae.state_dict().keys()
    for key, value in vae.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key
    agrees(vae, peer, (16, 24))


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"act_fn": "silu"},
        {"latent_channels": 16},
        {"in_channels": 1, "out_channels": 1},
        {"num_encoder_blocks": (0, 2, 0), "num_decoder_blocks": (0, 1, 0)},
        {
            "encoder_block_out_channels": (8,),
            "decoder_block_out_channels": (8,),
            "num_encoder_blocks": (1,),
            "num_decoder_blocks": (1,),
            "latent_channels": 2,
        },
    ],
)
def test_tiny_equals_diffusers(change):
    peer = peer_of(diffusers.AutoencoderTiny, **{**TINY, **change})
    vae = ours_of(tiny, peer, (peer.config.in_channels, 24, 16))
    agrees(vae, peer, (24, 16), (32, 40), (4, 4))
    round_trips(tiny, diffusers.AutoencoderTiny, vae)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"encoder_block_types": "ResBlock", "decoder_block_types": "ResBlock"},
        {"encoder_block_types": "EfficientViTBlock", "decoder_block_types": "EfficientViTBlock"},
        {"encoder_qkv_multiscales": ((), (3,), (5, 3)), "decoder_qkv_multiscales": ((), (), ())},
        {"downsample_block_type": "Conv", "upsample_block_type": "interpolate"},
        {"encoder_layers_per_block": (0, 1, 1), "decoder_layers_per_block": (0, 1, 1)},
        {"encoder_layers_per_block": (0, 1, 1), "downsample_block_type": "Conv"},
        {"decoder_layers_per_block": (0, 1, 1), "upsample_block_type": "interpolate"},
        {"encoder_out_shortcut": False, "decoder_in_shortcut": False, "latent_channels": 3},
        {
            "decoder_norm_types": ("batch_norm", "batch_norm", "rms_norm"),
            "decoder_act_fns": ("relu", "silu", "silu"),
            "decoder_conv_act_fn": "silu",
        },
        {"decoder_norm_types": "batch_norm", "decoder_act_fns": "relu"},
        {"encoder_block_out_channels": (24, 24, 24), "attention_head_dim": 16},  # heads that leave channels over
        {"in_channels": 1},
    ],
)
def test_dc_equals_diffusers(change):
    peer = peer_of(diffusers.AutoencoderDC, **{**DC, **change})
    vae = ours_of(dc, peer, (peer.config.in_channels, 24, 16))
    agrees(vae, peer, (24, 16), (32, 40), (8, 4))  # at the last, diffusers' attention is the quadratic one
    round_trips(dc, diffusers.AutoencoderDC, vae)


@pytest.mark.parametrize(("family", "cls", "config"), [(tiny, "AutoencoderTiny", TINY), (dc, "AutoencoderDC", DC)])
def test_gradients_equal_those_of_diffusers(family, cls, config):
    peer = peer_of(getattr(diffusers, cls), **config)
    vae = ours_of(family, peer)
    x = torch.rand(2, 3, 24, 16) * 2 - 1
    vae(x).y.square().sum().backward()
    peer.decode(peer.encode(x, return_dict=False)[0], return_dict=False)[0].square().sum().backward()
    theirs = family.to_ours({name: p.grad for name, p in peer.named_parameters()})
    for name, p in vae.named_parameters():
        assert p.grad is not None
        assert (p.grad - theirs[name]).norm() <= 1e-4 * theirs[name].norm(), name


def networks_of(spec: Spec) -> nn.ModuleDict:
    """Encoder and decoder of a model."""
    args = spec.args
    wired = {"in_shape": args["input_shape"], "out_shape": args["input_shape"], "latent_shape": args["latent"]}
    wired["data_range"] = args["data_range"]
    return nn.ModuleDict({half: make(half, args[half], wired, half) for half in ("encoder", "decoder")})


def size_of(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("recipe", "args", "published", "count"),
    [
        ("taesd", {}, {}, 2_445_063),
        ("taesd3", {}, {"latent_channels": 16}, None),
        ("dc_ae_f32c32", {}, "sana", 312.25e6),
        ("dc_ae_f32c32", {"variant": "in"}, "in", 323.4e6),
        ("dc_ae_f32c32", {"variant": "mix"}, "in", 323.4e6),
    ],
)
def test_full_size_recipes_have_the_published_weights(recipe, args, published, count):
    kinds = ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3
    types = {"encoder_block_types": kinds, "decoder_block_types": kinds}
    none = ((),) * 6
    known: dict[str, dict[str, Any]] = {
        "sana": {**types, "downsample_block_type": "conv", "upsample_block_type": "interpolate"},
        "in": {
            **types,
            "encoder_layers_per_block": (0, 4, 8, 2, 2, 2),
            "decoder_layers_per_block": (0, 5, 10, 2, 2, 2),
            "encoder_qkv_multiscales": none,
            "decoder_qkv_multiscales": none,
            "decoder_norm_types": ("batch_norm",) * 3 + ("rms_norm",) * 3,
            "decoder_act_fns": ("relu",) * 3 + ("silu",) * 3,
        },
    }
    family, cls = (tiny, diffusers.AutoencoderTiny) if isinstance(published, dict) else (dc, diffusers.AutoencoderDC)
    config = published if isinstance(published, dict) else known[published]
    spec = vaekit.recipe[recipe](**args)
    with torch.device("meta"):
        ours, peer = networks_of(spec), cls(**config)
        theirs = family.to_ours(peer.state_dict())
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.items()}
    assert size_of(ours) == size_of(peer)
    if count is not None:
        assert size_of(ours) == pytest.approx(count, rel=2e-4 if count > 1e7 else 0)
    if recipe == "taesd":
        assert [size_of(half) for half in ours.values()] == [1_222_532, 1_222_531] and len(theirs) == 134
    with torch.device("meta"):
        read = networks_of(family.spec_from(peer.state_dict(), dict(peer.config), (3, 256, 256)))
    for a, b in zip(ours.modules(), read.modules(), strict=True):
        assert repr(a) == repr(b)


# -- the files of TAESD's author ---------------------------------------------------------------------------------------


def author_tiny(state: dict[str, Tensor], half: str, x: Tensor) -> Tensor:
    """TAESD's networks in [0, 1], layer by layer as its keys count them; a number without weights is an operation."""
    parts: dict[int, dict[str, Tensor]] = {}
    for key, value in state.items():
        name, _, rest = key.partition(".")
        if name == half:
            index, _, leaf = rest.partition(".")
            parts.setdefault(int(index), {})[leaf] = value
    for i in range(max(parts) + 1):
        p = parts.get(i)
        if p is None and half == "decoder" and i == 0:
            x = 3 * (x / 3).tanh()
        elif p is None and (half == "encoder" or i == 2):
            x = x.relu()
        elif p is None:
            x = F.interpolate(x, scale_factor=2)
        elif "weight" in p:
            # the encoder's convolutions halve the map unless they are its ends, or stand in a stem of several
            strided = half == "encoder" and ("bias" not in p or i + 1 not in parts) and i != max(parts)
            x = F.conv2d(x, p["weight"], p.get("bias"), padding=1, stride=2 if strided else 1)
        else:
            if "pool.0.weight" in p:
                g = F.group_norm(F.conv2d(x, p["pool.0.weight"]), 4, p["pool.1.weight"], p["pool.1.bias"])
                x = x + F.conv2d(g.relu(), p["pool.3.weight"])
            h = x
            for j in (0, 2, 4):
                h = F.conv2d(h if j == 0 else h.relu(), p[f"conv.{j}.weight"], p[f"conv.{j}.bias"], padding=1)
            x = (x + h).relu()
    return x


def author_keys(state: dict[str, Tensor]) -> dict[str, Tensor]:
    renamed = {}
    for key, value in state.items():
        half, _, index, leaf = key.split(".", 3)
        renamed[f"{half}.{int(index) + (half == 'decoder')}.{leaf}"] = value
    return renamed


@pytest.mark.parametrize(
    ("down", "up"),
    [
        ({"widths": (8, 8, 8), "blocks": (1, 2, 1)}, {"widths": (8, 8, 8), "blocks": (1, 1, 2)}),  # TAESD, small
        ({"widths": (8, 8), "blocks": (1, 2), "pool": True}, {"widths": (8, 8), "blocks": (1, 2), "pool": True}),
        (  # TAESANA, small
            {"widths": (8, 8), "blocks": (1, 1), "stem": (4, 8)},
            {"widths": (8, 8, 12, 16), "blocks": (1, 1, 1, 2)},
        ),
        (
            {"widths": (8,), "blocks": (0,), "stem": (8,)},
            {"widths": (8, 8), "blocks": (0, 0)},
        ),
    ],
)
def test_the_authors_files_of_tiny_are_read(down, up):
    stride = 2 ** (len(up["widths"]) - 1)
    made = vaekit.build(
        autoencoder(
            (5, 32 // stride, 48 // stride),
            (3, 32, 48),
            (0.0, 1.0),
            encoder=use("tiny", **down, out_channels=5),
            decoder=use("tiny", **up),
        )
    )
    state = author_keys(random_weights(made).state_dict())
    halves = [{k.partition(".")[2]: v for k, v in state.items() if k.startswith(half)} for half in ("enc", "dec")]
    assert tiny.join(*halves) == state
    assert tiny.matches(state.keys()) or not any(".conv." in key for key in state)
    vae = vaekit.build(tiny.spec_from(state, None, (3, 32, 48))).eval()
    vae.load_state_dict(tiny.to_ours(state), strict=True)
    assert vae.data_range == (0.0, 1.0) and vae.latent_shape == (5, 32 // stride, 48 // stride)
    x = torch.rand(2, 3, 32, 48)
    z = author_tiny(state, "encoder", x)
    near(vae.encode(x).z, z)
    near(vae.decode(z), author_tiny(state, "decoder", z))


# -- the files of DC-AE's authors --------------------------------------------------------------------------------------


def dc_author_keys(vae: VAE) -> dict[str, Tensor]:
    """The weights as the authors' modules are nested: a residual sum has `main`, a sequence `op_list`, a layer `conv`."""
    renamed: dict[str, Tensor] = {}
    inside = {
        "attention.qkv": "context_module.main.qkv.conv",
        "attention.out": "context_module.main.proj.conv",
        "attention.norm": "context_module.main.proj.norm",
        **{f"attention.scales.{i}.{j}": f"context_module.main.aggreg.{i}.{j}" for i in (0, 1) for j in (0, 1)},
        "gated.expand": "local_module.main.inverted_conv.conv",
        "gated.depth": "local_module.main.depth_conv.conv",
        "gated.project": "local_module.main.point_conv.conv",
        "gated.norm": "local_module.main.point_conv.norm",
        "conv1": "main.conv1.conv",
        "conv2": "main.conv2.conv",
        "norm": "main.conv2.norm",
        "conv": "main.conv.conv",
    }
    ends = {
        "encoder.conv_in": "encoder.project_in.conv",
        "encoder.conv_in.conv": "encoder.project_in.conv.conv",
        "encoder.conv_out": "encoder.project_out.main.op_list.0.conv",
        "decoder.conv_in": "decoder.project_in.main.conv",
        "decoder.norm": "decoder.project_out.op_list.0",
        "decoder.conv_out": "decoder.project_out.op_list.2.conv",
        "decoder.conv_out.conv": "decoder.project_out.op_list.2.conv.conv",
    }
    for key, value in vae.state_dict().items():
        stem, _, leaf = key.rpartition(".")
        if stem in ends:
            renamed[f"{ends[stem]}.{leaf}"] = value
        else:
            half, _, level, block, *rest = stem.split(".")
            renamed[f"{half}.stages.{level}.op_list.{block}.{inside['.'.join(rest)]}.{leaf}"] = value
    return renamed


@pytest.mark.parametrize(
    "change",
    [
        {"decoder_qkv_multiscales": ((), (5,), ())},
        {
            "encoder_layers_per_block": (0, 1, 1),
            "decoder_layers_per_block": (0, 1, 1),
            "decoder_qkv_multiscales": ((), (), (5,)),
            "decoder_norm_types": ("batch_norm", "batch_norm", "rms_norm"),
            "decoder_act_fns": ("relu", "relu", "silu"),
        },
    ],
)
def test_the_authors_files_of_dc_are_read(change):
    from diffusers.loaders.single_file_utils import convert_autoencoder_dc_checkpoint_to_diffusers as convert

    peer = peer_of(diffusers.AutoencoderDC, **{**DC, **change})
    vae = ours_of(dc, peer)
    state = dc_author_keys(vae)
    assert dc.matches(state.keys())
    theirs = convert(dict(state))
    # 1-convolutions over q, k and v that diffusers squeezes
    assert {k: v.shape for k, v in theirs.items()} == {k: v.shape for k, v in peer.state_dict().items()}
    for key, value in peer.state_dict().items():
        assert torch.equal(theirs[key], value), key
    read = vaekit.build(dc.spec_from(state, None, (3, 24, 16))).eval()
    read.load_state_dict(dc.to_ours(state), strict=True)
    agrees(read, peer, (24, 16))


def test_a_strided_first_convolution_of_dc_is_told_from_one_that_keeps_the_size():
    peer = peer_of(
        diffusers.AutoencoderDC,
        **{**DC, "encoder_layers_per_block": (0, 1, 1), "downsample_block_type": "Conv"},
    )
    vae = ours_of(dc, peer)
    named = {key.replace("project_in.conv.conv.", "project_in.conv."): v for key, v in dc_author_keys(vae).items()}
    plain = {key.replace(".main.conv.conv.", ".main.conv.") if "encoder" in key else key: v for key, v in named.items()}
    found = dc.to_ours(plain)
    assert {k for k in found if k.startswith("encoder.")} == {k for k in vae.state_dict() if k.startswith("encoder.")}


def test_the_heads_of_dc_are_told_by_its_wide_levels():
    """A level narrower than a head has one head of its own width."""
    args = {"widths": (8, 16), "blocks": (1, 1), "block_types": "efficientvit", "qkv_multiscales": ((3,), (3,))}
    made = networks_of(
        autoencoder(
            (4, 8, 8),
            (3, 16, 16),
            (-1.0, 1.0),
            encoder=use("dc", **args, head_dim=16, out_channels=4),
            decoder=use("dc", **args, head_dim=16),
        )
    )
    assert [dc.half_of(made.state_dict(), half).head_dim for half in ("encoder", "decoder")] == [16, 16]


# -- what can't be read or written -------------------------------------------------------------------------------------


def test_what_the_weights_of_dc_do_not_tell_is_asked_for():
    peer = peer_of(diffusers.AutoencoderDC, **DC)
    with pytest.raises(ValueError, match="decoder_in_shortcut.*config.json"):
        dc.spec_from(peer.state_dict(), None, (3, 24, 16))


@pytest.mark.parametrize(("family", "cls", "config"), [(tiny, "AutoencoderTiny", TINY), (dc, "AutoencoderDC", DC)])
@pytest.mark.parametrize("missing", ["encoder.", "decoder."])
def test_half_a_model_is_refused(family, cls, config, missing):
    state = peer_of(getattr(diffusers, cls), **config).state_dict()
    kept = {key: value for key, value in state.items() if not key.startswith(missing)}
    with pytest.raises(ValueError, match=f"the {missing[:-1]} is not there"):
        family.spec_from(kept, dict(config), (3, 24, 16))


def test_the_tiny_config_may_not_ask_for_another_upsampling():
    state = peer_of(diffusers.AutoencoderTiny, **TINY).state_dict()
    with pytest.raises(ValueError, match="upsampling_scaling_factor 2 alone"):
        tiny.spec_from(state, {"upsampling_scaling_factor": 3}, None)


def test_halves_of_two_models_are_refused():
    a = peer_of(diffusers.AutoencoderTiny, **TINY).state_dict()
    b = peer_of(diffusers.AutoencoderTiny, **{**TINY, "latent_channels": 8}).state_dict()
    mixed = {key: (a if key.startswith("encoder") else b)[key] for key in a}
    with pytest.raises(ValueError, match="two models"):
        tiny.spec_from(mixed, None, None)


@pytest.mark.parametrize("other", ["AutoencoderKL", "VQModel"])
def test_keys_of_other_models_do_not_match(other):
    keys = getattr(diffusers, other)().state_dict().keys()
    assert not tiny.matches(keys) and not dc.matches(keys)
    assert not tiny.matches(diffusers.AutoencoderDC(**DC).state_dict().keys())
    assert not dc.matches(diffusers.AutoencoderTiny(**TINY).state_dict().keys())


@pytest.mark.parametrize(
    ("family", "name", "down", "up", "match"),
    [
        (tiny, "tiny", {"pool": True}, {}, "no pool"),
        (tiny, "tiny", {}, {"act": "silu"}, "one activation"),
        (tiny, "tiny", {}, {"widths": (8, 12)}, "one width"),
        (dc, "dc", {"head_dim": 4}, {"head_dim": 8}, "one head_dim"),
    ],
)
def test_what_diffusers_has_not_is_not_written(family, name, down, up, match):
    args: dict[str, Any] = {"widths": (8, 8), "blocks": (1, 1)}
    if name == "dc":
        args |= {"block_types": "efficientvit", "qkv_multiscales": ((), ())}
    vae = vaekit.build(
        autoencoder(
            (4, 8, 8),
            (3, 16, 16),
            (-1.0, 1.0),
            encoder=use(name, **{**args, **down, "out_channels": 4}),
            decoder=use(name, **{**args, **up}),
        )
    )
    with pytest.raises(ValueError, match=match):
        family.to_diffusers(vae)


@pytest.mark.parametrize(("family", "name"), [(tiny, "tiny"), (dc, "dc")])
def test_models_with_a_head_of_their_own_are_not_written(family, name):
    args: dict[str, Any] = {"widths": (8, 8), "blocks": (1, 1)}
    if name == "dc":
        args |= {"block_types": "resnet", "qkv_multiscales": ((), ())}
    for latent in (4, (4, 8, 8)):
        vae = vaekit.build(encoder=use(name, **args), decoder=use(name, **args), latent=latent, input_shape=(3, 16, 16))
        with pytest.raises(ValueError, match="head='none'"):
            family.to_diffusers(vae)
    with pytest.raises(ValueError, match="expected the encoder and decoder"):
        family.to_diffusers(vaekit.build("mlp"))
