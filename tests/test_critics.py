"""Critics that need no pretrained network, against networks rebuilt from their papers, loops and closed forms."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import vaekit
from vaekit.layers.actnorm import ActNorm
from vaekit.layers.adversarial import r1
from vaekit.layers.blur import Blur
from vaekit.layers.equalized import equalized
from vaekit.layers.frozen import frozen
from vaekit.layers.minibatch_std import minibatch_std
from vaekit.layers.patch_critic import patch_layers
from vaekit.testing import check

SMALL = {
    "patchgan": {"width": 8, "norm": "group"},
    "multiscale_patchgan": {"width": 8, "scales": 2},
    "conditional_patchgan": {"width": 8, "norm": "group"},
    "unet": {"width": 4, "depth": 2},
    "vqgan_plus": {"width": 8, "stages": 2, "pool": 4},
    "stylegan2": {"width": 8, "group": None},
    "latent_mlp": {"hidden": (16, 16)},
}
SHAPES = [(2, 41), (3, 27, 30), (1, 20, 21, 22)]
NORMS = ["batch", "group", "instance", "actnorm", "none"]
EACH = pytest.mark.parametrize("name", SMALL)
EVERYWHERE = pytest.mark.parametrize(("name", "shape"), list(itertools.product(SMALL, SHAPES)))


def make(name, shape, **more):
    return vaekit.discriminator[name](shape, **{**SMALL[name], **more})


# -- what all of them do -----------------------------------------------------------------------------------------------


@EACH
def test_a_critic_obeys_the_laws_of_discriminators(name):
    check("discriminator", name, **SMALL[name])


@EVERYWHERE
def test_a_gradient_reaches_every_parameter_and_the_data_at_odd_sizes(name, shape):
    critic, x = make(name, shape), torch.rand(4, *shape, requires_grad=True)
    sum(logits.square().sum() for logits in critic(x)).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 1e-12 for p in critic.parameters())
    assert (x.grad.flatten(1).abs().sum(1) > 0).all()


@EVERYWHERE
def test_the_penalty_on_gradients_reaches_the_weights(name, shape):
    # second derivatives through convolutions, blurs, norms, maxima and interpolation
    critic = make(name, shape)
    r1(critic, torch.rand(2, *shape)).sum().backward()
    weights = [p for key, p in critic.named_parameters() if "bias" not in key]
    assert sum(p.grad is not None and p.grad.abs().max() > 0 for p in weights) > len(weights) / 2


LAST = {  # the layers that make logits, and which features they read
    "patchgan": lambda c, f: [c.main[-1](f[-1])],
    "conditional_patchgan": lambda c, f: [c.main[-1](f[-1])],
    "multiscale_patchgan": lambda c, f: [c.critics[0][-1](f[3]), c.critics[1][-1](f[-1])],
    "unet": lambda c, f: [c.whole(f[2].flatten(2).mean(2)), c.pixels(f[-1])],
    "vqgan_plus": lambda c, f: [c.out(f[-1])],
    "stylegan2": lambda c, f: [c.out(f[-1])],
    "latent_mlp": lambda c, f: [c.out(f[-1].movedim(1, -1)).movedim(-1, 1)],
}


@EACH
def test_logits_are_made_of_the_features(name):
    shape = (3, 44, 47)
    critic, x = make(name, shape).eval(), torch.rand(2, *shape)
    for made, logits in zip(LAST[name](critic, critic.features(x)), critic(x), strict=True):
        torch.testing.assert_close(made, logits)


@EACH
def test_double_and_half_precision(name):
    shape = (3, 27, 30)
    critic, x = make(name, shape).eval(), torch.rand(2, *shape)
    exact = copy.deepcopy(critic).double()(x.double())
    for a, b, c in zip(exact, critic(x), copy.deepcopy(critic).bfloat16()(x.bfloat16()), strict=True):
        assert a.dtype == torch.float64 and c.dtype == torch.bfloat16
        torch.testing.assert_close(b.double(), a, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(c.double(), a, rtol=0.2, atol=0.1)


@pytest.mark.parametrize("name", ["patchgan", "multiscale_patchgan", "conditional_patchgan", "unet", "vqgan_plus"])
def test_a_convolutional_critic_takes_other_sizes_than_it_was_wired_with(name):
    critic = make(name, (3, 32, 32)).eval()
    for logits in critic(torch.rand(2, 3, 44, 37)):
        assert len(logits) == 2 and torch.isfinite(logits).all()


@EACH
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("order", ["model first", "critic first"])
def test_a_frozen_critic_gives_the_data_its_gradient_and_keeps_none(name, order, training):
    # the two passes of one training step, in one backward pass, whichever comes first
    shape = (3, 27, 30)
    critic, x = make(name, shape).train(training), torch.rand(4, *shape)
    made = torch.rand(4, *shape, requires_grad=True)

    def model(run):
        return sum(each.mean() for each in run(made))

    def game():
        return sum((a - b).square().mean() for a, b in zip(critic(x), critic(made.detach()), strict=True))

    parts = [lambda: model(lambda made: frozen(critic, made)), game]
    first, second = parts if order == "model first" else parts[::-1]
    (first() + second()).backward()
    if training:
        return  # power iterations move the weights a little between passes
    felt, moved = [p.grad.clone() for p in critic.parameters()], made.grad.clone()
    critic.zero_grad()
    game().backward()
    for p, both in zip(critic.parameters(), felt, strict=True):
        torch.testing.assert_close(p.grad, both)
    made.grad = None
    model(critic).backward()
    torch.testing.assert_close(made.grad, moved)


@pytest.mark.parametrize(
    ("name", "more"),
    [("patchgan", {"norm": n}) for n in ("batch", "instance", "actnorm")] + [("stylegan2", {"group": 4})],
)
def test_norms_that_look_at_the_batch_break_no_pass_in_either_order(name, more):
    critic, x = make(name, (3, 27, 30), **more), torch.rand(4, 3, 27, 30)
    made = torch.rand(4, 3, 27, 30, requires_grad=True)
    for _ in range(2):
        loss = frozen(critic, made)[0].mean() + (critic(x)[0] - critic(made.detach())[0]).square().mean()
        (loss + frozen(critic, made)[0].mean()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in [made, *critic.parameters()])


# -- patches -----------------------------------------------------------------------------------------------------------


class _ActNorm(nn.Module):
    """As latent diffusion has it."""

    def __init__(self, channels):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.scale = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.register_buffer("initialized", torch.tensor(0, dtype=torch.uint8))

    def forward(self, x):
        if self.training and not self.initialized:
            flat = x.transpose(0, 1).flatten(1).detach()
            self.loc.data = -flat.mean(1).reshape(self.loc.shape)
            self.scale.data = 1 / (flat.std(1).reshape(self.loc.shape) + 1e-6)
            self.initialized.fill_(1)
        return self.scale * (x + self.loc)


class NLayerDiscriminator(nn.Module):
    """Latent diffusion's, in our own words."""

    def __init__(self, c_in=3, width=64, n=3, norm=nn.BatchNorm2d):
        super().__init__()
        bias = norm is not nn.BatchNorm2d
        wide = [width * min(2**i, 8) for i in range(n + 1)]
        steps = [nn.Conv2d(c_in, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for i in range(1, n + 1):
            stride = 1 if i == n else 2
            steps += [nn.Conv2d(wide[i - 1], wide[i], 4, stride, 1, bias=bias), norm(wide[i]), nn.LeakyReLU(0.2)]
        self.main = nn.Sequential(*steps, nn.Conv2d(wide[-1], 1, 4, 1, 1))

    def forward(self, x):
        return self.main(x)


@pytest.mark.parametrize(("n", "count", "side"), [(2, 663_361, 62), (3, 2_765_633, 30), (4, 6_960_961, 14)])
def test_patchgan_has_latent_diffusions_parameters_and_logits(n, count, side):
    with torch.device("meta"):
        critic, theirs, x = make_full(n), NLayerDiscriminator(n=n), torch.rand(1, 3, 256, 256)
    assert sum(p.numel() for p in critic.parameters()) == count == sum(p.numel() for p in theirs.parameters())
    assert critic(x)[0].shape == theirs(x).shape == (1, 1, side, side)
    assert {k: v.shape for k, v in critic.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}


def make_full(n):
    return vaekit.discriminator["patchgan"]((3, 256, 256), layers=n)


@pytest.mark.parametrize(("norm", "theirs"), [("batch", nn.BatchNorm2d), ("actnorm", _ActNorm)])
@pytest.mark.parametrize("seen", [False, True])
def test_latent_diffusions_weights_load_strictly_and_give_the_same_logits(norm, theirs, seen):
    reference, x = NLayerDiscriminator(width=8, norm=theirs), torch.rand(4, 3, 47, 52)
    if seen:  # running statistics, or those of the first batch, are in the state
        reference(3 * torch.rand_like(x))
    critic = make("patchgan", (3, 47, 52), norm=norm)
    critic.load_state_dict(reference.state_dict(), strict=True)
    for mode in (True, False, True):
        torch.testing.assert_close(critic.train(mode)(x)[0], reference.train(mode)(x), rtol=1e-4, atol=1e-5)
    reference.load_state_dict(critic.state_dict(), strict=True)
    assert norm != "actnorm" or all(v == 1 for k, v in critic.state_dict().items() if "initialized" in k)


def test_a_patch_is_seventy_pixels_wide():
    critic = make("patchgan", (1, 256, 256), width=1, layers=3, norm="none")
    x = torch.zeros(1, 1, 256, 256, requires_grad=True)
    (gradient,) = torch.autograd.grad(critic(x)[0][0, 0, 15, 15], x)
    seen = gradient[0, 0].abs().sum(0).nonzero()
    assert int(seen.max() - seen.min()) + 1 == 70


@torch.no_grad()
def test_weights_start_as_latent_diffusion_draws_them():
    critic = vaekit.discriminator["patchgan"]((3, 64, 64))
    for module in critic.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 10_000:
            assert float(module.weight.std()) == pytest.approx(0.02, rel=0.03)
            assert float(module.weight.mean()) == pytest.approx(0, abs=0.001)
        if isinstance(module, nn.BatchNorm2d):
            assert float(module.weight.mean()) == pytest.approx(1, abs=0.01)
            assert float(module.weight.std()) == pytest.approx(0.02, rel=0.25)
            assert not module.bias.any()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("spectral_norm", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_norm_of_patchgan_works_at_every_rank(norm, spectral_norm, shape):
    critic, x = make("patchgan", shape, norm=norm, spectral_norm=spectral_norm), torch.rand(3, *shape)
    (logits,) = critic(x)
    logits.square().sum().backward()
    # a logit fewer than eighths of the side, twice
    assert logits.shape == (3, 1, *(s // 2 ** patch_layers(shape, None, 4) - 2 for s in shape[1:]))
    assert all(p.grad.abs().max() > 1e-12 for p in critic.parameters())
    if norm not in ("batch",):
        torch.testing.assert_close(critic.eval()(x[:1])[0], critic(x)[0][:1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["unet", "latent_mlp", "patchgan", "multiscale_patchgan", "conditional_patchgan"])
def test_spectral_norm_makes_every_weight_of_norm_one(name):
    critic = make(name, (3, 24, 24), spectral_norm=True)
    for _ in range(30):
        critic(torch.rand(2, 3, 24, 24))
    weights = [m.weight.detach() for m in critic.eval().modules() if hasattr(m, "parametrizations")]
    assert len(weights) >= 4
    for weight in weights:
        assert float(torch.linalg.matrix_norm(weight.flatten(1), 2)) == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize("kernel", [2, 3, 4, 5])
def test_layers_left_out_are_three_or_as_many_as_fit(kernel):
    for side in range(4, 70):
        taken = []
        for n in range(1, 8):
            x = torch.zeros(1, 1, side)
            try:
                for stride in [2] * n + [1, 1]:
                    x = F.conv1d(x, torch.ones(1, 1, kernel), stride=stride, padding=(kernel - 1) // 2)
            except RuntimeError:
                break
            if not x.numel():
                break
            taken.append(n)
        if taken:
            assert patch_layers((1, side), None, kernel) == min(3, taken[-1])
            assert patch_layers((1, side, 200), taken[-1], kernel) == taken[-1]
        if taken and taken[-1] < 7:  # maps never vanish under odd kernels
            with pytest.raises(ValueError, match=f"Set layers to at most {taken[-1]}"):
                patch_layers((1, side), taken[-1] + 1, kernel)


def test_multiscale_patchgan_is_a_patchgan_for_each_size_of_the_image():
    x = torch.rand(2, 3, 53, 48)
    critic = make("multiscale_patchgan", x.shape[1:], scales=3)
    features = iter(critic.features(x))
    for k, logits in enumerate(critic(x)):
        if k:  # means over three values around every other one, fewer at the border
            h, w = x.shape[2:]
            rows = [x[:, :, max(0, i - 1) : i + 2].mean(2) for i in range(0, h, 2)]
            down = torch.stack(rows, 2)
            x = torch.stack([down[..., max(0, j - 1) : j + 2].mean(-1) for j in range(0, w, 2)], -1)
        alone = make("patchgan", x.shape[1:], norm="instance")
        alone.main.load_state_dict(critic.critics[k].state_dict())
        torch.testing.assert_close(logits, alone(x)[0], rtol=1e-4, atol=1e-5)
        for each in alone.features(x):
            torch.testing.assert_close(next(features), each, rtol=1e-4, atol=1e-5)
    assert next(features, None) is None


# -- conditions --------------------------------------------------------------------------------------------------------


def test_a_condition_stands_beside_the_channels_at_every_place():
    critic, plain = make("conditional_patchgan", (3, 27, 30), cond_dim=4), make("patchgan", (7, 27, 30))
    plain.load_state_dict(critic.state_dict())
    x, tokens = torch.rand(2, 3, 27, 30), torch.randn(2, 5, 4)
    token = tokens.sum(1) / 5
    joined = torch.stack([torch.cat([x[i], token[i][:, None, None].repeat(1, 27, 30)]) for i in range(2)])
    torch.testing.assert_close(critic(x, tokens), plain(joined))
    torch.testing.assert_close(critic.features(x, tokens), plain.features(joined))
    torch.testing.assert_close(critic(x), critic(x, torch.zeros(2, 1, 4)))
    assert not torch.allclose(critic(x, tokens)[0], critic(x, tokens.flip(0))[0])


def test_without_a_condition_it_is_patchgan():
    critic, plain = make("conditional_patchgan", (3, 27, 30)), make("patchgan", (3, 27, 30))
    plain.load_state_dict(critic.state_dict())
    x = torch.rand(2, 3, 27, 30)
    torch.testing.assert_close(critic(x, torch.randn(2, 1, 9)), plain(x))


# -- U-Net -------------------------------------------------------------------------------------------------------------


def test_the_unets_whole_logit_leaves_the_way_up_alone_and_the_pixels_use_both():
    critic = make("unet", (3, 16, 19))
    names = [name for name, _ in critic.named_parameters()]
    for logits, without in zip(critic(torch.rand(2, 3, 16, 19)), (("up", "pixels"), ("whole",)), strict=True):
        found = torch.autograd.grad(
            logits.square().sum(), list(critic.parameters()), allow_unused=True, retain_graph=True
        )
        for name, gradient in zip(names, found, strict=True):
            assert (gradient is None) == name.startswith(without), name


def test_the_unets_skips_carry_single_pixels_to_their_logits():
    # with the way up from below cut, a pixel's logit sees what its own skip sees: three 3-convolutions
    critic = make("unet", (1, 32, 32), spectral_norm=False)
    with torch.no_grad():
        critic.up[-1].weight[:, : critic.up[-1].weight.shape[1] - 4] = 0
    x = torch.rand(1, 1, 32, 32, requires_grad=True)
    (gradient,) = torch.autograd.grad(critic(x)[1][0, 0, 10, 20], x)
    rows, columns = gradient[0, 0].nonzero().unbind(1)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (7, 13, 17, 23)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_unet_judges_every_pixel(shape):
    whole, pixels = make("unet", shape)(torch.rand(2, *shape))
    assert whole.shape == (2, 1) and pixels.shape == (2, 1, *shape[1:])


# -- VQGAN+ and StyleGAN2 ----------------------------------------------------------------------------------------------


def binomial_conv(x, taps, stride):
    """A blur of images by one convolution per channel, padded as TensorFlow's SAME."""
    line = torch.tensor(np.poly1d([1, 1]).__pow__(taps - 1).coeffs, dtype=x.dtype)
    kernel = torch.outer(line, line) / line.sum() ** 2
    pads = [max(0, (math.ceil(s / stride) - 1) * stride + taps - s) for s in (x.shape[3], x.shape[2])]
    x = F.pad(x, [p for whole in pads for p in (whole // 2, whole - whole // 2)])
    return torch.cat([F.conv2d(x[:, i : i + 1], kernel[None, None], stride=stride) for i in range(x.shape[1])], 1)


@pytest.mark.parametrize("taps", [2, 3, 4, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_blur_is_a_convolution_with_the_binomial_kernel(taps, stride):
    x = torch.randn(2, 3, 13, 10)
    torch.testing.assert_close(Blur(2, taps=taps, stride=stride)(x), binomial_conv(x, taps, stride))


@pytest.mark.parametrize("shape", [(2, 3, 9), (2, 3, 9, 8), (1, 2, 5, 6, 7)])
def test_a_blur_halves_upwards_and_keeps_constants_inside(shape):
    x = Blur(len(shape) - 2)(torch.ones(shape))
    assert x.shape == (*shape[:2], *((s + 1) // 2 for s in shape[2:]))
    inside = x[(..., *[slice(1, -1)] * (len(shape) - 2))]
    torch.testing.assert_close(inside, torch.ones_like(inside))
    line = np.convolve(np.arange(1.0, 10.0), [0.125, 0.375, 0.375, 0.125])[2:12:2]  # by numpy, for signals
    found = Blur(1)(torch.arange(1.0, 10.0)[None, None])[0, 0]
    np.testing.assert_allclose(found.numpy(), line, rtol=1e-6)


def test_a_blur_takes_single_places_at_every_rank():
    for rank in (1, 2, 3):
        assert Blur(rank)(torch.ones(1, 1, *[1] * rank)).shape == (1, 1, *[1] * rank)


@pytest.mark.parametrize(("side", "wide"), [(64, 8), (47, 6), (256, 16)])
def test_vqgan_plus_is_the_network_of_titok_and_maskbit(side, wide):
    """Stem 5, three stages of conv 3, blur, norm and leaky ReLU 0.1, maximum to 16 places, 1-convolution, 5-head."""
    width = 4 if side < 256 else 2
    critic = vaekit.discriminator["vqgan_plus"]((3, side, side), width=width)
    stages = [(3, width, 5), (width, width, 3), (width, 2 * width, 3), (2 * width, 4 * width, 3)]
    parameters = iter(critic.parameters())

    def conv(h, kernel):
        return F.conv2d(h, next(parameters), next(parameters), padding=kernel // 2)

    x = torch.rand(2, 3, side, side)
    h = F.leaky_relu(conv(x, 5), 0.1)
    for _, c, _ in stages[1:]:
        h = binomial_conv(conv(h, 3), 4, 2)
        groups = next(g for g in range(max(1, min(32, c // 4)), 0, -1) if c % g == 0)
        h = F.leaky_relu(F.group_norm(h, groups, next(parameters), next(parameters), eps=1e-6), 0.1)
    h = F.adaptive_max_pool2d(h, min(16, h.shape[2]))
    logits = conv(F.leaky_relu(conv(h, 1), 0.1), 5)
    assert next(parameters, None) is None and logits.shape == (2, 1, wide, wide)
    torch.testing.assert_close(critic(x)[0], logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("group", [None, 4])
@pytest.mark.parametrize("size", [(16, 16), (13, 18)])
def test_stylegan2_is_the_network_of_the_paper(group, size):
    critic = make("stylegan2", (3, *size), group=group)
    raw = {k.replace("parametrizations.", "").replace(".original", ""): v for k, v in critic.state_dict().items()}

    def weight(name):
        w = raw[f"{name}.weight"]
        return w / w[0].numel() ** 0.5

    def act(h):
        return 2**0.5 * F.leaky_relu(h, 0.2)

    x = torch.rand(4, 3, *size)
    h = act(F.conv2d(x, weight("stem"), raw["stem.bias"]))
    for i in range(len(critic.blocks)):
        b = f"blocks.{i}"
        main = act(F.conv2d(h, weight(f"{b}.first"), raw[f"{b}.first.bias"], padding=1))
        main = F.conv2d(binomial_conv(main, 4, 1), weight(f"{b}.second"), raw[f"{b}.second.bias"], stride=2, padding=1)
        # the other way round: mix channels everywhere, and then leave places out
        skip = F.conv2d(binomial_conv(h, 4, 1), weight(f"{b}.skip"))[:, :, ::2, ::2]
        h = (act(main) + skip) / 2**0.5
    if group:
        h = torch.cat([h, h.std(0, correction=0).mean().expand(4, 1, *h.shape[2:])], 1)
    h = act(F.conv2d(h, weight("last"), raw["last.bias"], padding=1)).flatten(1)
    h = act(F.linear(h, weight("hidden"), raw["hidden.bias"]))
    logits = F.linear(h, weight("out"), raw["out.bias"])
    torch.testing.assert_close(critic(x)[0], logits, rtol=1e-3, atol=1e-4)


def test_equalised_layers_start_at_unit_variance_and_are_scaled_in_use():
    layer = equalized(nn.Conv2d(20, 50, 3))
    assert float(layer.parametrizations.weight.original.detach().std()) == pytest.approx(1, rel=0.05)
    torch.testing.assert_close(layer.weight, layer.parametrizations.weight.original / math.sqrt(180))
    assert not layer.bias.any()
    # so that a layer keeps the variance of its input
    assert float(layer(torch.randn(4, 20, 12, 12)).detach().var()) == pytest.approx(1, rel=0.15)


@pytest.mark.parametrize(("b", "group", "together"), [(8, 4, 4), (6, 4, 3), (5, 4, 1), (2, 4, 2), (4, 2, 2)])
def test_minibatch_std_is_that_of_a_loop(b, group, together):
    x = torch.randn(b, 3, 4, 5)
    found, m = minibatch_std(x, group), b // together
    torch.testing.assert_close(found[:, :3], x)
    for i in range(b):
        mates = x[i % m :: m]
        assert len(mates) == together
        spread = ((mates - mates.mean(0)).square().mean(0) + 1e-8).sqrt().mean()
        torch.testing.assert_close(found[i, 3], spread.expand(4, 5))


def test_minibatch_std_has_a_gradient_where_all_examples_are_the_same():
    x = torch.ones(4, 2, 3, requires_grad=True)
    minibatch_std(x).sum().backward()
    assert torch.isfinite(x.grad).all()


def test_stylegan2_sees_a_lack_of_variety():
    critic = make("stylegan2", (3, 16, 16), group=4)
    x = torch.rand(4, 3, 16, 16)
    assert not torch.allclose(critic(x)[0][:1], critic(x[:1].repeat(4, 1, 1, 1))[0][:1], rtol=1e-3)


# -- latents -----------------------------------------------------------------------------------------------------------


def test_on_vectors_latent_mlp_is_a_perceptron():
    critic, z = make("latent_mlp", (6,)).eval(), torch.randn(5, 6)
    h = z
    for layer in critic.each:
        h = F.leaky_relu(F.linear(h, layer.weight, layer.bias))
    torch.testing.assert_close(critic(z)[0], F.linear(h, critic.out.weight, critic.out.bias))
    assert not len(critic.mean)


def test_on_maps_latent_mlp_judges_places_and_their_mean_in_any_order_and_size():
    critic, z = make("latent_mlp", (4, 3, 5)).eval(), torch.randn(2, 4, 3, 5)
    order = torch.randperm(15)
    shuffled = z.flatten(2)[..., order].reshape(z.shape)
    torch.testing.assert_close(critic(shuffled)[0].flatten(2), critic(z)[0].flatten(2)[..., order])
    z.requires_grad_()
    (gradient,) = torch.autograd.grad(critic(z)[0][0, 0, 0, 0], z)
    assert gradient[0, :, 2, 4].all() and not gradient[1].any()  # through the mean of its own map
    assert critic(torch.randn(2, 4, 7, 2))[0].shape == (2, 1, 7, 2)
    # a map of one place is a vector that is its own mean
    one, by_hand = torch.randn(3, 4), None
    for each, mean in zip(critic.each, critic.mean, strict=True):
        by_hand = one if by_hand is None else by_hand
        by_hand = F.leaky_relu(F.linear(by_hand, each.weight + mean.weight, each.bias))
    torch.testing.assert_close(critic(one[..., None, None])[0][..., 0, 0], critic.out(by_hand))


# -- activation normalisation ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_actnorm_gives_the_first_batch_zero_mean_and_unit_variance_and_then_stays(rank):
    norm, x = ActNorm(3, rank), 5 + 2 * torch.randn(40, 3, *[6] * rank)
    for y in (norm(x), norm(x)):
        flat = y.transpose(0, 1).flatten(1)
        torch.testing.assert_close(flat.mean(1), torch.zeros(3), atol=1e-4, rtol=0)
        torch.testing.assert_close(flat.var(1), torch.ones(3), atol=1e-3, rtol=0)
    torch.testing.assert_close(norm(x + 7) - norm(x), 7 * norm.scale.expand(x.shape), rtol=1e-3, atol=1e-3)


def test_actnorm_is_set_in_training_alone_and_by_real_data():
    norm, x = ActNorm(3), 5 + torch.randn(4, 3, 2, 2)
    torch.testing.assert_close(norm.eval()(x), x)
    assert not norm.state_dict()["initialized"]
    norm.train()(x)
    assert norm.state_dict()["initialized"] == 1 and not torch.allclose(norm(x), x)


def test_actnorm_stays_set_when_saved_and_copied():
    norm, x = ActNorm(3), 5 + torch.randn(4, 3, 2, 2)
    norm(x)
    twin = ActNorm(3)
    twin.load_state_dict(norm.state_dict())
    for other in (twin, copy.deepcopy(norm)):
        torch.testing.assert_close(other.train()(x + 9), norm(x + 9))
    twin.load_state_dict(ActNorm(3).state_dict())  # one that was not set yet
    assert float(twin(x).detach().mean()) == pytest.approx(0, abs=1e-5)


def test_actnorm_is_set_by_a_frozen_pass_too():
    # the model's pass comes first in a training step: it may not be undone, nor done again
    norm, x = ActNorm(3), 5 + torch.randn(4, 3, 2, 2)
    y = frozen(norm, x)
    assert float(y.detach().mean()) == pytest.approx(0, abs=1e-5)
    torch.testing.assert_close(norm(x), y)
    assert norm.state_dict()["initialized"] == 1 and norm.loc.requires_grad
