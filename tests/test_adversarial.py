"""Games as functions of logits against their formulas and optima; what keeps critics smooth; augmentation."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from torch import nn

from vaekit.layers.adversarial import LeCam, critic_loss, generator_loss, r1
from vaekit.layers.augment import DiffAugment

FORMULAS = {  # critic (r, f) and model (f, r), in plain Python
    "hinge": (lambda r, f: (max(0, 1 - r) + max(0, 1 + f)) / 2, lambda f, r: -f),
    "vanilla": (lambda r, f: (math.log(1 + math.exp(-r)) + math.log(1 + math.exp(f))) / 2, lambda f, r: -f),
    "non_saturating": (
        lambda r, f: -math.log(1 / (1 + math.exp(-r))) - math.log(1 - 1 / (1 + math.exp(-f))),
        lambda f, r: -math.log(1 / (1 + math.exp(-f))),
    ),
    "lsgan": (lambda r, f: ((r - 1) ** 2 + f**2) / 2, lambda f, r: (f - 1) ** 2 / 2),
    "wgan": (lambda r, f: f - r, lambda f, r: -f),
    "relativistic": (
        lambda r, f: -math.log(1 / (1 + math.exp(f - r))),
        lambda f, r: -math.log(1 / (1 + math.exp(r - f))),
    ),
}
KINDS = pytest.mark.parametrize("kind", FORMULAS)
P, Q = np.array([0.4, 0.3, 0.15, 0.1, 0.05]), np.array([0.1, 0.2, 0.25, 0.15, 0.3])


# -- games -------------------------------------------------------------------------------------------------------------


@KINDS
def test_a_game_is_its_formula_averaged_over_places_and_then_scales(kind):
    real, fake = ([2 * torch.randn(3, 1), 2 * torch.randn(3, 1, 2, 5)] for _ in range(2))
    by_critic, by_model = FORMULAS[kind]
    for i in range(3):
        critic, model = [], []
        for r, f in zip(real, fake, strict=True):
            pairs = list(zip(r[i].flatten().tolist(), f[i].flatten().tolist(), strict=True))
            critic.append(np.mean([by_critic(a, b) for a, b in pairs]))
            model.append(np.mean([by_model(b, a) for a, b in pairs]))
        assert float(critic_loss(kind, real, fake)[i]) == pytest.approx(np.mean(critic), rel=1e-4, abs=1e-5)
        assert float(generator_loss(kind, fake, real)[i]) == pytest.approx(np.mean(model), rel=1e-4, abs=1e-5)
    if kind != "relativistic":
        torch.testing.assert_close(generator_loss(kind, fake), generator_loss(kind, fake, real))


@KINDS
def test_the_optimal_critic_of_known_densities_is_the_known_one(kind):
    # every pair of a datum x ~ p and a fake y ~ q, weighed by its chance; the critic is a table of five logits
    pairs = torch.tensor(list(itertools.product(range(5), range(5))))
    chance = torch.tensor(np.outer(P, Q).flatten())

    def loss(values):
        table = torch.tensor(values, dtype=torch.float64, requires_grad=True)
        total = (chance * critic_loss(kind, [table[pairs[:, :1]]], [table[pairs[:, 1:]]])).sum()
        (gradient,) = torch.autograd.grad(total, table)
        return total.item(), gradient.numpy()

    bounds = [(-1, 1)] * 5 if kind == "wgan" else None  # no optimum without a bound
    start = np.array([0.01, 0.02, -0.01, -0.02, 0.03])
    found = minimize(loss, start, jac=True, bounds=bounds, method="L-BFGS-B", options={"ftol": 1e-14, "gtol": 1e-10}).x
    if kind == "relativistic":
        found = found - (found - np.log(P / Q)).mean()
    expected = {
        "hinge": np.sign(P - Q),
        "wgan": np.sign(P - Q),
        "lsgan": P / (P + Q),
    }.get(kind, np.log(P / Q))
    np.testing.assert_allclose(found, expected, atol=2e-3)


@KINDS
def test_the_model_gains_by_fakes_that_look_real_and_the_critic_by_telling(kind):
    r, f = torch.tensor([[0.3]], requires_grad=True), torch.tensor([[-0.2]], requires_grad=True)
    up_r, up_f = torch.autograd.grad(critic_loss(kind, [r], [f]).sum(), (r, f))
    assert up_r < 0 and up_f != 0 and (up_f > 0 or kind == "lsgan")  # lsgan wants f at 0
    (model,) = torch.autograd.grad(generator_loss(kind, [f], [r.detach()]).sum(), f)
    assert model < 0


def test_target_and_input_are_not_swapped_as_in_a_published_non_saturating_loss():
    # binary_cross_entropy_with_logits(ones, logits) takes the ones for logits: unbounded below, -3.69 at logit 5
    logit, ones = torch.tensor([[5.0]]), torch.ones(1, 1)
    swapped = F.binary_cross_entropy_with_logits(ones, logit)
    assert float(swapped) == pytest.approx(-3.69, abs=0.01)
    surely_fake = [torch.full((1, 1), -100.0)]
    assert float(critic_loss("non_saturating", [logit], surely_fake)) == pytest.approx(0.0067, abs=1e-4)
    real = torch.linspace(-50, 50, 101)[:, None]
    for kind in ("hinge", "vanilla", "non_saturating", "lsgan", "relativistic"):
        assert (critic_loss(kind, [real], [real.flip(0)]) >= 0).all()
    right = F.binary_cross_entropy_with_logits(real, torch.ones_like(real), reduction="none")[:, 0]
    right = right + F.binary_cross_entropy_with_logits(-real, torch.zeros_like(real), reduction="none")[:, 0]
    torch.testing.assert_close(critic_loss("non_saturating", [real], [-real]), right)


@KINDS
def test_a_coarse_scale_counts_as_much_as_a_fine_one(kind):
    fine, coarse = torch.randn(4, 1, 8, 8), torch.randn(4, 1)
    both = critic_loss(kind, [fine, coarse], [fine + 1, coarse - 1])
    alone = critic_loss(kind, [fine], [fine + 1]), critic_loss(kind, [coarse], [coarse - 1])
    torch.testing.assert_close(both, (alone[0] + alone[1]) / 2)


@KINDS
def test_half_precision_logits_are_judged_in_single_precision(kind):
    real, fake = [torch.randn(2, 1, 40, 40).bfloat16()], [torch.randn(2, 1, 40, 40).bfloat16()]
    found = critic_loss(kind, real, fake)
    assert found.dtype == generator_loss(kind, fake, real).dtype == torch.float32
    torch.testing.assert_close(found, critic_loss(kind, [real[0].float()], [fake[0].float()]))
    assert critic_loss(kind, [real[0].double()], [fake[0].double()]).dtype == torch.float64


def test_huge_logits_give_finite_losses_and_gradients():
    for kind in FORMULAS:
        r, f = (torch.tensor([[1e4], [-1e4]], requires_grad=True) for _ in range(2))
        total = critic_loss(kind, [r], [f]).sum() + generator_loss(kind, [f], [r]).sum()
        assert all(torch.isfinite(g).all() for g in (total, *torch.autograd.grad(total, (r, f))))


# -- R1 ----------------------------------------------------------------------------------------------------------------


def test_r1_of_a_quadratic_critic_is_its_closed_form_and_so_is_its_gradient():
    a, b = torch.randn(6, 6, dtype=torch.float64, requires_grad=True), torch.randn(6, dtype=torch.float64)
    x = torch.randn(5, 6, dtype=torch.float64)
    found = r1(lambda x: [(torch.einsum("bi,ij,bj->b", x, a, x) + x @ b)[:, None]], x)
    slope = x @ (a + a.T) + b
    torch.testing.assert_close(found, 0.5 * slope.square().sum(1))
    torch.testing.assert_close(
        torch.autograd.grad(found.sum(), a, retain_graph=True)[0],
        torch.autograd.grad(0.5 * slope.square().sum(), a)[0],
    )


def test_r1_takes_the_mean_over_places_and_scales_as_the_games_do():
    x, w, v = torch.randn(3, 2, 4, dtype=torch.float64), torch.randn(2, 4), torch.randn(2, 4)
    w, v = w.double(), v.double()
    # eight places with logits w x, and one scale more with a single one
    found = r1(lambda x: [w * x, (v * x).sum((1, 2))[:, None]], x)
    slope = (w / 8 + v) / 2
    torch.testing.assert_close(found, 0.5 * slope.square().sum().expand(3))


def test_r1_has_a_right_second_derivative():
    layers = nn.Sequential(nn.Conv1d(2, 3, 3), nn.Tanh(), nn.Conv1d(3, 1, 2)).double()
    x, weights = torch.randn(2, 2, 6, dtype=torch.float64), list(layers.parameters())

    def penalty(*values):
        named = dict(zip(dict(layers.named_parameters()), values, strict=True))
        return r1(lambda x: [torch.func.functional_call(layers, named, (x,))], x)

    assert torch.autograd.gradcheck(penalty, weights, atol=1e-6)


def test_r1_passes_through_attention_whose_fast_kernels_have_no_second_derivative():
    weight = torch.randn(8, 8, requires_grad=True)
    r1(
        lambda x: [F.scaled_dot_product_attention(x @ weight, x, x).mean((1, 2))[:, None]], torch.randn(2, 5, 8)
    ).sum().backward()
    assert weight.grad.abs().max() > 0


def test_r1_without_gradients_is_a_number_and_leaves_x_alone():
    x = torch.randn(3, 4)
    with torch.no_grad():
        found = r1(lambda x: [x.square().sum(1, keepdim=True)], x)
    torch.testing.assert_close(found, 2 * x.square().sum(1))
    assert not found.requires_grad and not x.requires_grad and x.grad is None


# -- LeCam -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("one_sided", [False, True])
def test_lecam_is_the_papers_penalty_with_moving_averages_of_both_sides(one_sided):
    lecam, alpha_real, alpha_fake = LeCam(0.3, decay=0.9, one_sided=one_sided), 0.0, 0.0
    for _ in range(30):
        real, fake = ([torch.randn(4, 1) + m, torch.randn(4, 1, 3) + m] for m in (0.5, -0.2))
        high, low = [r - alpha_fake for r in real], [alpha_real - f for f in fake]
        if one_sided:
            high, low = [h.clamp(min=0) for h in high], [v.clamp(min=0) for v in low]
        expected = sum(
            (h[:, :, None] if h.ndim == 2 else h[:, None]).square().flatten(1).mean(1) / 2 for h in high + low
        )
        torch.testing.assert_close(lecam(real, fake), 0.3 * expected)
        mean_real, mean_fake = (sum(float(each.mean()) for each in side) / 2 for side in (real, fake))
        alpha_real, alpha_fake = 0.9 * alpha_real + 0.1 * mean_real, 0.9 * alpha_fake + 0.1 * mean_fake
        assert float(lecam.real) == pytest.approx(alpha_real, abs=1e-5)
        assert float(lecam.fake) == pytest.approx(alpha_fake, abs=1e-5)


def test_lecams_default_decay_is_0_999():
    lecam = LeCam()
    lecam([torch.full((2, 1), 3.0)], [torch.full((2, 1), -5.0)])
    assert float(lecam.real) == pytest.approx(0.003) and float(lecam.fake) == pytest.approx(-0.005)


def test_lecams_gradient_goes_to_the_logits_of_the_moment_and_survives_a_later_step():
    lecam = LeCam(decay=0.5)
    r, f = torch.tensor([[2.0]], requires_grad=True), torch.tensor([[1.0]], requires_grad=True)
    lecam([torch.tensor([[1.0]])], [torch.tensor([[-1.0]])])  # averages are ½ and -½ now
    first = lecam([r], [f])
    lecam([r.detach()], [f.detach()])
    first.sum().backward()
    assert (float(r.grad), float(f.grad)) == (5.0, 1.0)
    assert not lecam.real.requires_grad


def test_lecams_averages_rest_in_evaluation_and_are_saved():
    lecam = LeCam()
    lecam([torch.ones(2, 1)], [-torch.ones(2, 1)])
    state = {k: v.clone() for k, v in lecam.state_dict().items()}
    lecam.eval()([torch.ones(2, 1)], [-torch.ones(2, 1)])
    assert set(state) == {"real", "fake"} and all(torch.equal(v, lecam.state_dict()[k]) for k, v in state.items())


# -- augmentation ------------------------------------------------------------------------------------------------------

IMAGES = [(1, 9), (2, 3, 10), (3, 12, 9), (1, 6, 7, 8), (5, 16, 16)]


def by_hand(x, draws, policy):
    """Zhao et al.'s three changes of one example in (-1, 1), with loops."""
    c, size = x.shape[0], x.shape[1:]
    x, draws = x.double().numpy().copy(), draws.double().numpy()
    if "color" in policy:
        x = x + (draws[0] - 0.5)
        for place in np.ndindex(*size):
            pixel = x[(slice(None), *place)]
            x[(slice(None), *place)] = (pixel - pixel.sum() / c) * (2 * draws[1]) + pixel.sum() / c
        x = (x - x.mean()) * (draws[2] + 0.5) + x.mean()
    if "translation" in policy:
        most = [int(s * 0.125 + 0.5) for s in size]
        steps = [math.floor(u * (2 * m + 1)) - m for u, m in zip(draws[3:], most, strict=False)]
        moved = np.zeros_like(x)
        for place in np.ndindex(*size):
            source = [p + t for p, t in zip(place, steps, strict=True)]
            if all(0 <= p < s for p, s in zip(source, size, strict=True)):
                moved[(slice(None), *place)] = x[(slice(None), *source)]
        x = moved
    if "cutout" in policy:
        lengths = [int(s * 0.5 + 0.5) for s in size]
        offsets = [
            math.floor(u * (s + 1 - n % 2)) for u, s, n in zip(draws[3 + len(size) :], size, lengths, strict=True)
        ]
        for place in np.ndindex(*lengths):  # the box is pushed against the border, as by clamping its indices
            hidden = [
                min(max(p + o - n // 2, 0), s - 1) for p, o, n, s in zip(place, offsets, lengths, size, strict=True)
            ]
            x[(slice(None), *hidden)] = 0
    return torch.tensor(x)


@pytest.mark.parametrize("shape", IMAGES)
@pytest.mark.parametrize("policy", [("color",), ("translation",), ("cutout",), ("color", "translation", "cutout")])
def test_diffaugment_does_what_the_paper_does_example_by_example(shape, policy):
    augment, x = DiffAugment(policy, data_range=(-1, 1)), 2 * torch.rand(8, *shape, dtype=torch.float64) - 1
    draws = augment.draw(x)
    draws[0], draws[1] = 0.0, 1 - 2**-24  # as far as changes go
    found = augment(x, draws)
    for i in range(8):
        torch.testing.assert_close(found[i], by_hand(x[i], draws[i], policy), rtol=1e-6, atol=1e-6)


def test_diffaugment_of_data_in_another_range_is_the_same_change():
    policy = ("color", "translation", "cutout")
    x, zero_one, symmetric = torch.rand(6, 3, 12, 12), DiffAugment(policy), DiffAugment(policy, data_range=(-1, 1))
    draws = zero_one.draw(x)
    torch.testing.assert_close(zero_one(x, draws), (symmetric(2 * x - 1, draws) + 1) / 2, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(DiffAugment(data_range=None)(x, draws), symmetric(x, draws))


def test_diffaugment_gives_data_and_fakes_the_same_change_where_draws_are_given():
    augment, x, y = DiffAugment(), torch.rand(5, 3, 12, 12), torch.rand(5, 3, 12, 12)
    draws = augment.draw(x)
    torch.testing.assert_close(augment(x, draws), augment(x, draws))
    # all changes are affine in the image: halfway before is halfway after
    torch.testing.assert_close(augment((x + y) / 2, draws), (augment(x, draws) + augment(y, draws)) / 2)
    assert not torch.allclose(augment(x), augment(x))


def test_diffaugment_draws_from_the_global_generator_and_each_example_for_itself():
    augment, x = DiffAugment(), torch.rand(1, 3, 16, 16).repeat(6, 1, 1, 1)
    torch.manual_seed(3)
    first = augment(x)
    torch.manual_seed(3)
    torch.testing.assert_close(augment(x), first)
    assert all(not torch.allclose(first[i], first[j]) for i, j in itertools.combinations(range(6), 2))


@pytest.mark.parametrize("shape", [(1, 9), (2, 3, 5), (3, 5, 2), (1, 3, 4, 3)])
def test_diffaugments_gradients_are_those_of_finite_differences(shape):
    augment, x = DiffAugment(), torch.rand(2, *shape, dtype=torch.float64, requires_grad=True)
    draws = augment.draw(x)
    assert torch.autograd.gradcheck(lambda x: augment(x, draws), (x,))
    assert torch.autograd.gradgradcheck(lambda x: augment(x, draws).square().flatten(1).sum(1), (x,))


def test_diffaugment_leaves_alone_what_is_not_asked_for():
    x = torch.rand(4, 3, 9, 9)
    torch.testing.assert_close(DiffAugment(())(x), x)
    middle = torch.full((4, 7), 0.5)
    torch.testing.assert_close(DiffAugment(("color",))(x, middle), x)  # no brightness, saturation and contrast times 1
    torch.testing.assert_close(DiffAugment(("translation",))(x, middle), x)
    hidden = DiffAugment(("cutout",))(x, middle) != x
    assert hidden.flatten(1).sum(1).tolist() == [3 * 25] * 4  # half of nine, rounded upwards


def test_shifts_and_boxes_are_equally_likely_at_all_places():
    x = torch.zeros(8000, 1, 8)
    x[..., 4] = 1
    place = (
        DiffAugment(("translation",), translation=0.375, data_range=(-1, 1))(x)
        .argmax(2)
        .flatten()
        .bincount(minlength=8)
    )
    expected = 8000 / 7
    assert (place[1:] - expected).abs().max() < 5 * expected**0.5 and place[0] == 0
    start = (DiffAugment(("cutout",), data_range=(-1, 1))(torch.ones(9000, 1, 8)) == 0).sum(2).flatten().bincount()
    # of nine starts, those at the border hide 2, 3 and at the inner five all 4
    np.testing.assert_allclose(start[2:].numpy() / 9000, [2 / 9, 2 / 9, 5 / 9], atol=0.03)
