"""Quantizers: codes are the nearest, lookup undoes encoding, gradients and moving averages follow their equations."""

import copy
import os
import pathlib
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import vaekit
from vaekit.layers.bits import information
from vaekit.layers.codebook import Codebook
from vaekit.testing import FAILURE_RATE, check, goodness_of_fit

LEARNED = ("vq", "grouped_vq", "residual_vq")
SMALL = {
    "vq": {"codebook_size": 8},
    "grouped_vq": {"codebook_size": 8, "groups": 1},
    "residual_vq": {"codebook_size": 8, "depth": 2},
    "fsq": {"levels": (5,)},
    "lfq": {},
    "bsq": {},
    "gumbel_vq": {"codebook_size": 8},
}
VARIANTS = [
    ("vq", {"codebook_size": 8}), ("vq", {"codebook_size": 8, "normalize": True, "rotation": True, "entropy": True}),
    ("vq", {"codebook_size": 8, "learn": "gradient", "rotation": True}), ("vq", {"codebook_size": 8, "init": "normal"}),
    ("grouped_vq", {"codebook_size": 8}), ("grouped_vq", {"codebook_size": 8, "groups": 4, "normalize": True}),
    ("residual_vq", {"codebook_size": 8}), ("residual_vq", {"codebook_size": 8, "shared": True, "rotation": True}),
    ("fsq", {"levels": (5, 2)}), ("fsq", {"levels": (4, 3, 2, 8)}), ("lfq", {}), ("lfq", {"bits": 2}),
    ("bsq", {}), ("bsq", {"bits": 2, "diversity": "exact"}), ("gumbel_vq", {"codebook_size": 8}),
]  # fmt: skip


class Given(nn.Module):
    """In a head's place: the features are z_e themselves."""

    def forward(self, h):
        return h[:, None]


def quantizer(name, latent, **args):
    """A sampler whose z_e is its input."""
    made = vaekit.sampler[name](latent, latent, **args)
    made.head = Given()
    return made


# -- all of them ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SMALL)
def test_the_laws_of_samplers_hold(name):
    check("sampler", name, **SMALL[name])


@pytest.mark.parametrize(("name", "args"), VARIANTS)
@pytest.mark.parametrize(
    ("inside", "latent"), [((7,), (8,)), ((4, 2, 3), (8, 2, 3)), ((7,), (4, 5)), ((7,), (8, 1, 2, 2))]
)
def test_lookup_of_the_index_is_z_to_the_bit(name, args, inside, latent):
    for dtype in (torch.float32, torch.float64):
        sampler = vaekit.sampler[name](inside, latent, **args).to(dtype).eval()
        for lead in ((), (2, 3)):
            level = sampler(10 * torch.randn(6, *inside, dtype=dtype), lead)
            assert level.z.shape == (*lead, 6, *latent) and level.z.dtype == dtype
            assert level.index.shape == (*lead, 6, *sampler.index_shape)
            assert 0 <= level.index.min() and level.index.max() < sampler.codebook_size
            assert level.index.flatten().unique().numel() > 1
            assert torch.equal(sampler.lookup(level.index), level.z)
            assert level.mode.shape == (6, *latent) and level.log_posterior().shape == (*lead, 6)
            assert all(p.shape == (*lead, 6) for p in level.penalties.values())


@pytest.mark.parametrize(("name", "args"), [v for v in VARIANTS if v[0] not in ("gumbel_vq", "residual_vq")])
def test_codes_are_coded_as_themselves(name, args):
    sampler = quantizer(name, (8, 3), **args).eval()
    index = torch.randint(sampler.codebook_size, (50, *sampler.index_shape))
    z = sampler.lookup(index)
    if name == "fsq":  # what the bound leads to the middle of each cell
        levels = torch.tensor(args["levels"] * (8 // len(args["levels"])))[:, None].double()
        inner = (z * (levels / 2).floor() + (levels % 2 == 0) / 2) / ((levels - 1) * 1.001 / 2)
        z = (
            inner.atanh() - torch.where(levels % 2 == 0, 0.5 / ((levels - 1) * 1.001 / 2), 0.0).atanh() * (levels > 2)
        ).float()
    assert torch.equal(sampler(z).index, index)


@pytest.mark.parametrize("name", [n for n in SMALL if n != "gumbel_vq"])
def test_a_quantizer_is_a_point_mass_and_all_its_draws_are_the_same(name):
    level = vaekit.sampler[name]((7,), (4,), **SMALL[name]).eval()(torch.randn(5, 7), (3,))
    assert level.q is None and not level.log_posterior().any()
    assert (level.z == level.mode).all() and (level.index == level.index[0]).all()


@pytest.mark.parametrize("name", [n for n in SMALL if n != "gumbel_vq"])
def test_evaluation_changes_nothing_and_training_moves_codes(name):
    sampler, h = vaekit.sampler[name]((7,), (4,), **SMALL[name]), torch.randn(9, 7)
    before = copy.deepcopy(sampler.state_dict())
    first, second = (sampler.eval()(h).z for _ in range(2))
    assert torch.equal(first, second)
    assert all(torch.equal(v, before[k]) for k, v in sampler.state_dict().items())
    sampler.train()(h)
    assert all(torch.equal(v, before[k]) for k, v in sampler.state_dict().items()) == (name not in LEARNED)


@pytest.mark.parametrize(("name", "args"), VARIANTS)
def test_penalties_of_an_example_do_not_depend_on_its_batch(name, args):
    sampler, h = vaekit.sampler[name]((7,), (8, 3), **args).eval(), torch.randn(6, 7)
    whole, part = sampler(h).penalties, sampler(h[:2]).penalties
    for term in whole.keys() - {"diversity"}:
        torch.testing.assert_close(whole[term][:2], part[term])


@pytest.mark.parametrize("name", [*LEARNED, "lfq", "bsq"])
def test_the_loss_of_two_batches_is_the_mean_of_theirs(name):
    args = {**SMALL[name], **({"learn": "gradient"} if name in LEARNED else {})}
    terms = {"nll": 1.0, "commitment": 0.25, **({"codebook": 1.0} if name in LEARNED else {})}
    vae = vaekit.build("mlp", latent=4, input_shape=(1, 3, 3), sampler=vaekit.use(name, **args), loss=terms).eval()
    x = torch.rand(8, 1, 3, 3)
    torch.testing.assert_close(vae.loss(x).total, (vae.loss(x[:4]).total + vae.loss(x[4:]).total) / 2)


def test_a_trained_codebook_is_saved(tmp_path):
    vae = vaekit.build("mlp", latent=4, input_shape=(1, 3, 3), sampler=vaekit.use("residual_vq", codebook_size=8))
    for _ in range(3):
        vae(torch.rand(20, 1, 3, 3))
    vae.eval().save_pretrained(tmp_path)
    loaded, x = vaekit.load(tmp_path), torch.rand(20, 1, 3, 3)
    assert torch.equal(loaded.encode(x).z, vae.encode(x).z)
    assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in vae.state_dict().items())


@pytest.mark.parametrize("name", LEARNED)
def test_half_precision_of_the_surroundings_finds_the_same_codes(name):
    sampler = quantizer(name, (16, 4), **{**SMALL[name], "codebook_size": 256}).eval()
    z_e = torch.randn(64, 16, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(sampler(z_e).index, quantizer_like(sampler)(z_e).index)
    assert torch.equal(sampler.bfloat16()(z_e.bfloat16()).index, quantizer_like(sampler)(z_e.bfloat16().float()).index)
    sampler.train()(z_e.bfloat16())
    assert torch.isfinite(sampler.eval()(z_e.bfloat16()).z).all()


def quantizer_like(sampler):
    twin = copy.deepcopy(sampler).float()
    return lambda h: torch.autocast("cpu", enabled=False)(twin)(h)


# -- codebooks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalize", [False, True])
def test_vq_takes_the_nearest_code(normalize):
    sampler, z_e = (
        quantizer("vq", (3, 4, 5), codebook_size=20, normalize=normalize).double().eval(),
        _normal(6, 3, 4, 5),
    )
    book = sampler.codebook.weight[0]
    x = z_e
    if normalize:
        book, x = book / book.norm(dim=1, keepdim=True), z_e / z_e.norm(dim=1, keepdim=True)
    differences = x[:, None] - book[None, :, :, None, None]  # (b, K, c, *t)
    nearest = differences.square().sum(2).argmin(1)
    level = sampler(z_e)
    assert torch.equal(level.index, nearest)
    torch.testing.assert_close(level.z, book[nearest].movedim(-1, 1))


def test_a_vector_falls_into_codes_of_one_codebook():
    sampler, z_e = quantizer("vq", (6,), codebook_size=20, code_dim=2).double().eval(), _normal(7, 6)
    expected = torch.cdist(z_e.reshape(21, 2), sampler.codebook.weight[0]).argmin(1).reshape(7, 3)
    assert torch.equal(sampler(z_e).index, expected)
    whole = quantizer("vq", (6,), codebook_size=20)
    assert whole.index_shape == (1,) and whole(torch.randn(2, 6)).index.shape == (2, 1)


def test_groups_have_codebooks_of_their_own():
    sampler, z_e = quantizer("grouped_vq", (6, 5), codebook_size=20, groups=3).double().eval(), _normal(7, 6, 5)
    level = sampler(z_e)
    for g in range(3):
        rows = z_e[:, 2 * g : 2 * g + 2].mT  # (b, t, 2)
        assert torch.equal(level.index[:, g], torch.cdist(rows, sampler.codebook.weight[g]).argmin(-1))


@pytest.mark.parametrize("shared", [False, True])
def test_each_stage_takes_the_nearest_code_to_what_is_left(shared):
    sampler = quantizer("residual_vq", (3, 5), depth=4, codebook_size=20, shared=shared).double().eval()
    residual = z_e = _normal(7, 3, 5)
    level = sampler(z_e)
    for stage in range(4):
        book = sampler.codebooks[0 if shared else stage].weight[0]
        index = torch.cdist(residual.mT, book).argmin(-1)
        assert torch.equal(level.index[:, stage], index)
        residual = residual - book[index].mT
    torch.testing.assert_close(level.z, z_e - residual)
    assert len(sampler.codebooks) == (1 if shared else 4)


@pytest.mark.parametrize("shared", [False, True])
def test_each_stage_starts_and_learns_from_what_is_left_to_it(shared):
    sampler = quantizer("residual_vq", (3, 5), depth=3, codebook_size=6, shared=shared, restart=0.0).double()
    books, z_e = copy.deepcopy(sampler.codebooks), _normal(7, 3, 5)
    for seed in range(2):
        torch.manual_seed(seed)
        sampler(z_e)
        torch.manual_seed(seed)
        residual, seen = z_e.mT[:, None], []
        for stage in range(3):
            book = books[0 if shared else stage]
            book.start(residual)
            found = book.match(residual)
            seen.append((residual, found.index))
            residual = residual - found.code
        if shared:
            books[0].update(torch.cat([x for x, _ in seen], 2), torch.cat([index for _, index in seen], 2))
        else:
            for book, (x, index) in zip(books, seen, strict=True):
                book.update(x, index)
        torch.testing.assert_close(sampler.codebooks.state_dict(), books.state_dict())
        assert all(book.started for book in sampler.codebooks)


def test_moving_averages_follow_their_equations():
    k, gamma = 4, 0.9
    book = Codebook(k, 2, decay=gamma, restart=0.0, init="normal").double()
    e, n = book.weight[0].clone(), torch.ones(k, dtype=torch.float64)
    m = e.clone()
    for rows in (12, 12, 5):
        x = _normal(rows, 2)
        used = torch.cdist(x, e).argmin(1)
        found = book(x[:, None, None])
        assert torch.equal(found.index.flatten(), used), "codes in use are not those of before the update"
        for j in range(k):
            even = rows / k
            n[j] = gamma * n[j] + (1 - gamma) * (used == j).sum() / even
            m[j] = gamma * m[j] + (1 - gamma) * x[used == j].sum(0) / even
            e[j] = m[j] / n[j]
        torch.testing.assert_close(book.count[0], n)
        torch.testing.assert_close(book.weight[0], e)


def test_a_larger_batch_of_the_same_data_updates_the_same():
    book = Codebook(4, 2, init="normal", restart=0.0)
    twin, x = copy.deepcopy(book), torch.randn(10, 1, 1, 2)
    book(x), twin(torch.cat([x, x, x]))
    torch.testing.assert_close(book.state_dict(), twin.state_dict())


def test_moving_averages_find_the_means_of_clusters():
    centers = torch.tensor([[5.0, 5.0], [-5.0, 5.0], [5.0, -5.0], [-5.0, -5.0]])
    book = Codebook(4, 2, decay=0.9, init="normal")
    book.weight.copy_(0.1 * centers)
    book.sums.copy_(0.1 * centers)
    for _ in range(200):
        book((centers + 0.1 * torch.randn(16, 4, 2)).reshape(64, 1, 1, 2))
    assert torch.cdist(centers, book.weight[0]).amin(1).max() < 0.1


def test_codes_that_are_long_unused_stay_finite():
    book = Codebook(4, 1, restart=0.0, init="normal", decay=0.01)
    book.weight.copy_(torch.tensor([0.0, 1.0, 2.0, 1e3])[None, :, None])
    book.sums.copy_(book.weight)
    for _ in range(60):
        book(torch.randn(8, 1, 1, 1))
    assert torch.isfinite(book.weight).all() and book.weight[0, 3] == pytest.approx(1e3, rel=1e-3)


@pytest.mark.parametrize("learn", ["ema", "gradient"])
def test_dead_codes_are_replaced_by_vectors_of_the_batch_and_used_ones_are_not(learn):
    book = Codebook(5, 2, books=2, decay=0.5, restart=0.1, init="normal", learn=learn)
    with torch.no_grad():
        book.weight[:, 2:] += 1e3  # three codes that nothing is near to
        if learn == "ema":
            book.sums.copy_(book.weight)
    near, x = book.weight[:, :2].detach().clone(), torch.randn(30, 2, 1, 2)
    for step in range(4):
        assert (book.weight[:, 2:] > 500).all(), f"replaced after {step} steps: 0.5 ** 4 is the first below 0.1"
        book(x)
    fresh = book.weight[:, 2:].detach()
    for g in range(2):
        distances = (fresh[g][:, None] - x[:, g, 0]).abs().sum(-1)
        assert (distances.amin(1) == 0).all(), "a dead code is no vector of the batch"
        assert distances.argmin(1).unique().numel() == 3, "two codes are the same vector"
    assert (near[0][:, None] - x[:, 0, 0]).abs().sum(-1).min() > 0
    if learn == "gradient":
        assert torch.equal(book.weight[:, :2].detach(), near)
    torch.testing.assert_close(book.count[:, 2:], torch.full((2, 3), 0.1))
    book(x)
    assert (book.count > 0.1).any(1).all()


def test_without_restart_dead_codes_stay():
    book = Codebook(5, 2, decay=0.1, restart=0.0, init="normal", learn="gradient")
    before = book.weight.detach().clone()
    for _ in range(20):
        book(torch.randn(3, 1, 1, 2))
    assert torch.equal(book.weight, before)


@pytest.mark.parametrize("learn", ["ema", "gradient"])
def test_codes_start_as_vectors_of_the_first_training_batch_and_only_of_the_first(learn):
    book, x = Codebook(5, 2, learn=learn, restart=0.0), 100 + torch.randn(7, 1, 1, 2)
    before = book.weight.detach().clone()
    book.eval()(x)
    assert torch.equal(book.weight, before)
    found = book.train()(x)
    assert ((found.code.detach().reshape(7, 1, 2) - x.reshape(7, 2)).abs().sum(-1).amin(1) == 0).all()
    assert (found.code - found.x).square().sum((1, 2, 3)).eq(0).sum() == 5, "five codes are five vectors"
    again = book(x + 1000)
    assert (again.code < 500).all()


def test_more_codes_than_vectors_start_too():
    book, x = Codebook(8, 2), torch.randn(3, 1, 1, 2)
    assert torch.equal(book(x).code, x)


def test_normalised_codes_have_length_one_and_follow_directions():
    sampler = quantizer("vq", (3, 4), codebook_size=6, normalize=True)
    z = sampler(7 * torch.randn(9, 3, 4)).z
    torch.testing.assert_close(z.norm(dim=1), torch.ones(9, 4))
    torch.testing.assert_close(sampler.codebook.codes().norm(dim=-1), torch.ones(1, 6))


# -- gradients of vector quantizers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LEARNED)
def test_the_decoders_gradient_goes_to_the_encoder_and_not_to_the_codes(name):
    sampler = quantizer(name, (4, 3), **SMALL[name], learn="gradient", init="normal")
    z_e, weight = torch.randn(5, 4, 3, requires_grad=True), torch.randn(5, 4, 3)
    (sampler(z_e).z * weight).sum().backward()
    assert torch.equal(z_e.grad, weight)
    assert all(p.grad is None or not p.grad.any() for p in sampler.parameters())


def test_commitment_and_codebook_are_squared_distances_with_one_sided_gradients():
    sampler = quantizer("vq", (3, 4), codebook_size=6, learn="gradient", init="normal").double()
    z_e = _normal(5, 3, 4).requires_grad_()
    level, e = sampler(z_e), sampler.codebook.weight
    difference = z_e.detach() - level.z.detach()
    expected = difference.square().sum((1, 2))
    torch.testing.assert_close(level.penalties["commitment"], expected)
    torch.testing.assert_close(level.penalties["codebook"], expected)
    to_z, to_e = torch.autograd.grad(
        level.penalties["commitment"].sum(), (z_e, e), allow_unused=True, retain_graph=True
    )
    torch.testing.assert_close(to_z, 2 * difference)
    assert to_e is None
    to_z, to_e = torch.autograd.grad(level.penalties["codebook"].sum(), (z_e, e), allow_unused=True)
    assert to_z is None
    rows, index = difference.mT.reshape(-1, 3), level.index.flatten()
    torch.testing.assert_close(to_e[0], torch.zeros(6, 3, dtype=torch.float64).index_add_(0, index, -2 * rows))


def test_residual_penalties_compare_partial_sums_to_the_encoders_output():
    sampler = quantizer("residual_vq", (3, 4), codebook_size=6, depth=3, learn="gradient").double().eval()
    z_e = _normal(5, 3, 4).requires_grad_()
    level = sampler(z_e)
    books = [sampler.codebooks[i].lookup(level.index[:, i, None]).squeeze(1).mT for i in range(3)]
    partial = [sum(books[: i + 1]) for i in range(3)]
    torch.testing.assert_close(level.penalties["commitment"], sum((z_e - p).square().sum((1, 2)) for p in partial))
    books = [book.weight for book in sampler.codebooks]
    gradient, *none = torch.autograd.grad(level.penalties["commitment"].sum(), (z_e, *books), allow_unused=True)
    torch.testing.assert_close(gradient, sum(2 * (z_e - p) for p in partial))
    assert none == [None] * 3, "commitment moves codes"


def test_codes_that_are_averages_have_no_codebook_penalty_and_no_parameters():
    sampler = quantizer("vq", (4,), codebook_size=6)
    assert "codebook" not in sampler(torch.randn(5, 4)).penalties and not list(sampler.parameters())


@pytest.mark.parametrize("normalize", [False, True])
def test_the_rotation_trick_has_the_gradient_of_the_rotation_that_takes_x_to_its_code(normalize):
    sampler = quantizer("vq", (5,), codebook_size=6, rotation=True, init="normal", normalize=normalize).double().eval()
    z_e, weight = _normal(7, 5).requires_grad_(), _normal(7, 5)
    level = sampler(z_e)
    (level.z * weight).sum().backward()
    for i in range(7):
        given = z_e.detach()[i].clone().requires_grad_()
        x = given / given.norm() if normalize else given
        a, b = x.detach() / x.detach().norm(), level.z[i].detach() / level.z[i].detach().norm()
        # another way to the rotation in the plane of a and b: its generator's exponential
        orthogonal = (b - (a @ b) * a) / (b - (a @ b) * a).norm()
        angle = torch.acos((a @ b).clamp(-1, 1))
        rotation = torch.linalg.matrix_exp(angle * (torch.outer(orthogonal, a) - torch.outer(a, orthogonal)))
        matrix = level.z[i].detach().norm() / x.detach().norm() * rotation
        torch.testing.assert_close(matrix @ x.detach(), level.z[i].detach())
        (gradient,) = torch.autograd.grad((matrix @ x) @ weight[i], given)
        torch.testing.assert_close(z_e.grad[i], gradient)


def test_the_rotation_trick_survives_zero_and_opposite_vectors():
    sampler = quantizer("vq", (2,), codebook_size=2, rotation=True, restart=0.0, init="normal").eval()
    sampler.codebook.weight.copy_(torch.tensor([[[1.0, 0.0], [9.0, 9.0]]]))
    z_e = torch.tensor([[0.0, 0.0], [-1.0, 0.0], [1.0, 0.0]], requires_grad=True)
    sampler(z_e).z.sum().backward()
    assert torch.isfinite(z_e.grad).all()


# -- residual dropout ----------------------------------------------------------------------------------------------------


def test_quantizer_dropout_keeps_a_first_part_of_the_stages_as_often_as_it_says():
    n = 4000
    sampler = quantizer("residual_vq", (2,), depth=4, codebook_size=5, dropout=0.6, restart=0.0, init="normal").double()
    z_e = _normal(1, 2).expand(n, 2)
    codes = [copy.deepcopy(sampler.codebooks[i]) for i in range(4)]
    level = sampler(z_e)
    steps = torch.stack([codes[i].eval().lookup(level.index[:1, i, None, None])[0, 0, 0] for i in range(4)])
    partial = steps.cumsum(0)
    which = torch.cdist(level.z.detach(), partial)
    assert which.amin(1).max() < 1e-12
    seen = torch.bincount(which.argmin(1), minlength=4)
    chance = torch.tensor([0.15, 0.15, 0.15, 0.55]).double()
    assert (
        goodness_of_fit(which.argmin(1)[:, None].double(), lambda v: chance[v.long().squeeze(1)].log()) > FAILURE_RATE
    )
    left = (z_e[0] - partial).square().sum(1).cumsum(0)
    torch.testing.assert_close(level.penalties["commitment"], left[which.argmin(1)])
    assert (seen > 0).all()
    assert torch.equal(sampler.eval()(z_e[:50]).z, sampler.lookup(sampler(z_e[:50]).index)), (
        "it drops in evaluation mode"
    )


# -- entropies -----------------------------------------------------------------------------------------------------------


def test_entropies_are_those_of_the_softmax_of_minus_squared_distances():
    sampler = quantizer("grouped_vq", (4, 5), codebook_size=6, entropy=True, temperature=0.7).double().eval()
    z_e = _normal(8, 4, 5)
    level = sampler(z_e)
    entropy, diversity = torch.zeros(8).double(), 0.0
    for g in range(2):
        distances = torch.cdist(z_e[:, 2 * g : 2 * g + 2].mT, sampler.codebook.weight[g]).square()  # (b, t, K)
        p = torch.distributions.Categorical(logits=-distances / 0.7)
        entropy += p.entropy().sum(1)
        diversity -= 5 * torch.distributions.Categorical(probs=p.probs.mean((0, 1))).entropy()
    torch.testing.assert_close(level.penalties["entropy"], entropy)
    torch.testing.assert_close(level.penalties["diversity"], diversity.expand(8))


@pytest.mark.parametrize("diversity", ["bits", "exact"])
def test_entropies_of_bits_are_those_of_the_softmax_over_all_corners(diversity):
    sampler = quantizer("lfq", (6, 3), bits=3, temperature=0.9, diversity=diversity).double()
    z_e = _normal(8, 6, 3)
    level = sampler(z_e)
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0]).double()] * 3)
    rows = z_e.unflatten(1, (2, 3)).movedim(2, -1)  # (b, g, t, k)
    p = (-(rows[..., None, :] - corners).square().sum(-1) / 0.9).softmax(-1)
    torch.testing.assert_close(level.penalties["entropy"], torch.special.entr(p).sum((1, 2, 3)))
    mean = p.mean((0, 2))  # (g, 8)
    if diversity == "bits":
        on = mean @ (corners > 0).double()
        expected = torch.special.entr(torch.stack([on, 1 - on])).sum() * 3
    else:
        expected = torch.special.entr(mean).sum() * 3
    torch.testing.assert_close(level.penalties["diversity"], -expected.expand(8))


def test_bsq_assigns_by_the_distance_on_the_sphere():
    sampler, z_e = quantizer("bsq", (4, 3), temperature=0.2, diversity="exact").double(), _normal(8, 4, 3)
    level = sampler(z_e)
    u = z_e / z_e.norm(dim=1, keepdim=True)
    corners = torch.cartesian_prod(*[torch.tensor([-0.5, 0.5]).double()] * 4)
    distances = torch.cdist(u.mT, corners)
    assert torch.equal(level.index, distances.argmin(-1)), (
        "the code is not the nearest corner, or the numbering is not binary"
    )
    torch.testing.assert_close(level.z.norm(dim=1), torch.ones(8, 3).double())
    p = (-distances.square() / 0.2).softmax(-1)
    torch.testing.assert_close(level.penalties["entropy"], torch.special.entr(p).sum((1, 2)))
    torch.testing.assert_close(level.penalties["diversity"], -3 * torch.special.entr(p.mean((0, 1))).sum().expand(8))
    torch.testing.assert_close(level.penalties["commitment"], (u - level.z).square().sum((1, 2)))


def test_entropies_of_extreme_features_have_finite_gradients():
    for diversity in ("bits", "exact"):
        logits = torch.tensor([1e5, -1e5, 0.0]).reshape(1, 1, 1, 3).repeat(2, 1, 1, 1).requires_grad_()
        terms = information(logits, diversity)
        (terms["entropy"] + terms["diversity"]).sum().backward()
        assert torch.isfinite(logits.grad).all()
    sampler = quantizer("vq", (2,), codebook_size=4, entropy=True, init="normal")
    z_e = torch.tensor([[1e4, 0.0], [-1e4, 3.0]], requires_grad=True)
    penalties = sampler(z_e).penalties
    (penalties["entropy"] + penalties["diversity"]).sum().backward()
    assert torch.isfinite(z_e.grad).all()


@pytest.mark.parametrize(("name", "args"), [("lfq", {"diversity": "exact"}), ("bsq", {"diversity": "exact", "temperature": 0.1}),
                                            *((n, {**SMALL[n], "entropy": True}) for n in LEARNED)])  # fmt: skip
def test_code_entropy_is_minus_an_information_between_zero_and_the_codes_logarithm(name, args):
    sampler = vaekit.use(name, **args)
    vae = vaekit.build("mlp", latent=4, input_shape=(1, 3, 3), sampler=sampler, loss={"code_entropy": 1.0})
    loss, x = vae.objective.terms["code_entropy"], torch.rand(16, 1, 3, 3)
    vae.sampler.head.project[1].weight.data *= 30  # sure assignments, so that there is information
    value = float(loss(vae(x)).detach().mean())
    assert -len(vae.sampler.index_shape) * 2 * torch.tensor(float(vae.sampler.codebook_size)).log() <= value < -0.1
    same = float(loss(vae(x[:1].expand(16, 1, 3, 3))).detach().mean())
    assert same == pytest.approx(0, abs=1e-4), "equal examples have no information"


# -- finite scalars and signs --------------------------------------------------------------------------------------------


def test_fsq_reaches_every_code_and_no_other():
    sampler = quantizer("fsq", (4,), levels=(4, 3, 2, 5))
    index = sampler(2 * torch.randn(20_000, 4)).index
    assert torch.equal(index.unique(), torch.arange(120)) and sampler.codebook_size == 120
    z = sampler.lookup(torch.arange(120)[:, None])
    assert len(z.unique(dim=0)) == 120 and z.abs().max() <= 1
    for channel, levels in enumerate((4, 3, 2, 5)):
        assert len(z[:, channel].unique()) == levels


@pytest.mark.parametrize("levels", [2, 3, 4, 5, 8])
def test_fsq_cells_are_in_order_and_reached_near_zero(levels):
    sampler = quantizer("fsq", (1,), levels=(levels,))
    index = sampler(torch.linspace(-4, 4, 801)[:, None]).index.squeeze(1)
    assert (index.diff() >= 0).all() and index[0] == 0 and index[-1] == levels - 1
    counts = torch.bincount(sampler(torch.randn(20_000, 1)).index.flatten(), minlength=levels)
    assert counts.min() > 0.2 * 20_000 / levels


def test_fsq_passes_the_gradient_of_the_bound():
    sampler = quantizer("fsq", (4, 3), levels=(5, 2)).double()
    z_e, weight = _normal(6, 4, 3).requires_grad_(), _normal(6, 4, 3)
    (sampler(z_e).z * weight).sum().backward()
    count = torch.tensor([5.0, 2, 5, 2]).double()[:, None]
    half_width = (count - 1) * 1.001 / 2
    slope = (1 - z_e.detach().tanh() ** 2) * half_width / (count / 2).floor()
    torch.testing.assert_close(z_e.grad, weight * slope, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["lfq", "bsq"])
def test_signs_pass_the_gradient_on(name):
    sampler, z_e, weight = quantizer(name, (4, 3)).double(), _normal(6, 4, 3).requires_grad_(), _normal(6, 4, 3)
    level = sampler(z_e)
    (level.z * weight).sum().backward()
    given = z_e.detach().clone().requires_grad_()
    ((F.normalize(given, dim=1) if name == "bsq" else given) * weight).sum().backward()
    torch.testing.assert_close(z_e.grad, given.grad)
    assert torch.equal(level.z.sign(), z_e.sign())


def test_fsq_lfq_bsq_and_residual_codes_are_those_of_an_independent_library():
    import vector_quantize_pytorch as other

    z_e = 2 * torch.randn(5, 8, 3, 4)
    theirs = other.FSQ([8, 5, 4, 3], num_codebooks=2)
    sampler = quantizer("fsq", (8, 3, 4), levels=(8, 5, 4, 3))
    codes, index = theirs(z_e)
    level = sampler(z_e)
    assert torch.equal(level.z, codes) and torch.equal(level.index, index.movedim(-1, 1).long())
    everything = torch.arange(480)[:, None].expand(480, 2)
    assert torch.equal(
        quantizer("fsq", (8,), levels=(8, 5, 4, 3)).lookup(everything), theirs.indices_to_codes(everything)
    )

    for name, spherical in (("lfq", False), ("bsq", True)):
        flat = z_e[..., 0].mT.contiguous()  # (b, t, c)
        flat = F.normalize(flat, dim=-1) if spherical else flat  # theirs normalises what it has split
        theirs = other.LFQ(codebook_size=2**8, dim=8, spherical=spherical)
        (codes, index, _), parts = theirs(flat, inv_temperature=5.0, return_loss_breakdown=True)
        level = quantizer(name, (8, 3), temperature=0.2, diversity="exact")(flat.mT)
        torch.testing.assert_close(level.z, codes.mT)
        assert torch.equal(level.index, index.long())
        torch.testing.assert_close(
            level.penalties["entropy"].mean(), 3 * parts.per_sample_entropy, rtol=2e-3, atol=1e-4
        )
        torch.testing.assert_close(-level.penalties["diversity"][0], 3 * parts.batch_entropy, rtol=2e-3, atol=1e-4)

    theirs = other.ResidualVQ(dim=8, codebook_size=16, num_quantizers=3).eval()
    sampler = quantizer("residual_vq", (8, 12), depth=3, codebook_size=16).eval()
    for ours, layer in zip(sampler.codebooks, theirs.layers, strict=True):
        layer._codebook.embed.data.copy_(ours.weight)
    codes, index, _ = theirs(z_e.flatten(2).mT)
    level = sampler(z_e.flatten(2))
    torch.testing.assert_close(level.z, codes.mT)
    assert torch.equal(level.index, index.mT)


# -- Gumbel --------------------------------------------------------------------------------------------------------------


def test_gumbel_draws_follow_their_categorical():
    sampler = vaekit.sampler["gumbel_vq"]((3,), (4,), codebook_size=5, temperature=0.3, code_dim=2).eval()
    with torch.no_grad():
        level = sampler(3 * torch.randn(1, 3), (10_000,))
    assert level.index.shape == (10_000, 1, 2) and level.q.event_shape == (2,)
    assert (
        goodness_of_fit(level.index[:, 0].double(), lambda k: level.q.log_prob(k.long()[:, None])[:, 0]) > FAILURE_RATE
    )
    torch.testing.assert_close(level.log_posterior(), level.q.log_prob(level.index))


def test_gumbel_codes_have_straight_through_gradients_of_the_relaxation():
    hard = vaekit.sampler["gumbel_vq"]((3,), (4, 2), codebook_size=5, temperature=0.7).double()
    soft = vaekit.sampler["gumbel_vq"]((3,), (4, 2), codebook_size=5, temperature=0.7, hard=False).double()
    soft.load_state_dict(hard.state_dict())
    h, weight, gradients = _normal(6, 3), _normal(6, 4, 2), []
    for sampler in (hard, soft):
        torch.manual_seed(3)
        level = sampler(h)
        (level.z * weight).sum().backward()
        gradients.append(sampler.head.project[1].weight.grad)
        assert torch.equal(sampler.lookup(level.index), level.z) == (sampler is hard)
    torch.testing.assert_close(*gradients)
    torch.manual_seed(3)
    level = hard(h)
    one_hot = F.one_hot(level.index, 5).double()  # (b, t, K)
    torch.testing.assert_close(hard.codebook.grad, torch.einsum("btk,bct->kc", one_hot, weight))
    assert torch.equal(soft.eval()(h).z, soft.lookup(soft(h).index)) is False  # two draws
    level = soft(h)
    assert torch.equal(soft.lookup(level.index), level.z), "z is no code in evaluation mode"


def test_gumbel_relaxation_is_the_softmax_mixture():
    sampler = quantizer("gumbel_vq", (2,), codebook_size=3, hard=False, temperature=1e-3).double()
    logits = _normal(200, 3)
    level = sampler(logits)
    nearest = torch.cdist(level.z.detach(), sampler.codebook.detach()).argmin(1, keepdim=True)
    assert (nearest == level.index).double().mean() > 0.97, "a small temperature gives no codes"
    sampler.temperature.fill_(1e6)
    torch.testing.assert_close(sampler(logits).z, sampler.codebook.mean(0).expand(200, 2), rtol=1e-3, atol=1e-3)


def test_gumbels_center_is_the_likeliest_code():
    sampler = quantizer("gumbel_vq", (2, 4), codebook_size=3)
    logits = torch.randn(7, 3, 4)
    torch.testing.assert_close(sampler(logits).mode, sampler.codebook[logits.argmax(1)].mT)
    torch.testing.assert_close(sampler(logits).q.mode, logits.argmax(1))


def test_the_kl_of_gumbel_to_an_even_prior_is_what_the_entropy_lacks_to_log_k():
    vae = vaekit.build(
        "mlp", latent=4, input_shape=(1, 3, 3), sampler=vaekit.use("gumbel_vq", codebook_size=7, code_dim=2)
    )
    out = vae(torch.rand(5, 1, 3, 3))
    expected = 2 * torch.tensor(7.0).log() - out.levels[0].q.entropy()
    torch.testing.assert_close(vae.objective.terms["kl"](out), expected)


# -- losses --------------------------------------------------------------------------------------------------------------


def test_the_losses_hand_on_penalties_averaged_over_draws():
    sampler = vaekit.use("vq", codebook_size=8, learn="gradient", entropy=True)
    terms = {"commitment": 0.25, "codebook": 1.0, "code_entropy": 1.0}
    vae = vaekit.build("mlp", latent=4, input_shape=(1, 3, 3), sampler=sampler, loss=terms).eval()
    x = torch.rand(5, 1, 3, 3)
    one, several = vae(x), vae(x, sample_shape=(3,))
    penalties = one.levels[0].penalties
    for name in ("commitment", "codebook"):
        torch.testing.assert_close(vae.objective.terms[name](several), penalties[name])
    weighed = vaekit.loss["code_entropy"](diversity=2.5)(several)
    torch.testing.assert_close(weighed, penalties["entropy"] + 2.5 * penalties["diversity"])
    report = vae.loss(x)
    expected = sum(weight * report.terms[name] for name, weight in terms.items())
    torch.testing.assert_close(report.total.detach(), expected)


@pytest.mark.parametrize(
    ("loss", "sampler", "match"),
    [
        ("commitment", "gaussian", "commitment: commitment needs .*'vq', 'residual_vq'"),
        ("commitment", vaekit.use("fsq", levels=(5, 5)), "commitment needs"),
        ("codebook", "vq", r"codebook needs codes that learn by gradient.*use\('vq', learn='gradient'\)"),
        ("code_entropy", "vq", "code_entropy needs a soft assignment.*'lfq' or 'bsq'.*entropy=True"),
    ],
)
def test_losses_refuse_samplers_without_their_penalty_and_name_those_that_fit(loss, sampler, match):
    with pytest.raises(vaekit.BuildError, match=match):
        vaekit.build("mlp", latent=4, input_shape=(1, 3, 3), sampler=sampler, loss={"nll": 1.0, loss: 1.0})


# -- bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "args", "match"),
    [
        *((n, {"codebook_size": 1}, "codebook_size: expected at least 2") for n in (*LEARNED, "gumbel_vq")),
        *((n, {"decay": 1.0}, r"decay: expected a number in \[0, 1\)") for n in LEARNED),
        *((n, {"restart": 1.0}, "restart: expected a share") for n in LEARNED),
        *((n, {"temperature": 0.0}, "temperature: expected a positive") for n in (*LEARNED, "lfq", "bsq", "gumbel_vq")),
        *((n, {"code_dim": 4}, r"code_dim: expected codes of a size that divides the latent's 6 channels \(1, 2, 3, 6\)") for n in ("vq", "gumbel_vq")),
        *((n, {"code_dim": 0}, "code_dim: expected codes of a size") for n in ("vq", "gumbel_vq")),
        ("grouped_vq", {"groups": 4}, "groups: expected a divisor of the latent's 6 channels, got 4"),
        ("grouped_vq", {"groups": 0}, "groups: expected a divisor"),
        ("residual_vq", {"depth": 0}, "depth: expected at least 1 stage"),
        ("residual_vq", {"dropout": 1.5}, r"dropout: expected a probability in \[0, 1\]"),
        ("fsq", {"levels": (5, 1)}, "levels: expected at least 2 values"),
        ("fsq", {"levels": ()}, "levels: expected at least 2 values"),
        ("fsq", {"levels": (5, 5, 5, 5)}, "levels: expected a length that divides the latent's 6 channels, got 4"),
        ("lfq", {"bits": 4}, "bits: expected codes of a size that divides"),
        ("bsq", {"bits": 0}, "bits: expected codes of a size that divides"),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(name, args, match):
    with pytest.raises(ValueError, match=match):
        vaekit.sampler[name]((7,), (6,), **args)


def test_too_many_bits_and_a_code_size_for_a_map_are_refused():
    for name in ("lfq", "bsq"):
        with pytest.raises(ValueError, match="bits: expected at most 16 channels .* got 18.*smaller divisor"):
            vaekit.sampler[name]((7,), (18,))
    for name in ("vq", "gumbel_vq"):
        with pytest.raises(ValueError, match="code_dim: expected None, since a map latent has one code per position"):
            vaekit.sampler[name]((7,), (6, 2), code_dim=3)
    with pytest.raises(ValueError, match="diversity: expected a weight of at least 0"):
        vaekit.loss["code_entropy"](diversity=-1.0)


# -- apart: torch.compile, which the shape checks are in the way of, and several processes ---------------------------------

COMPILED = """
import copy, torch, vaekit
from vaekit.objective import TrainStep
import tests.test_quantizers as t
for name, args in [t.VARIANTS[i] for i in (1, 2, 4, 7, 8, 10, 13, 14)]:
    torch._dynamo.reset()
    kinds = {"commitment": 1.0} if name in (*t.LEARNED, "lfq", "bsq") else {}
    kinds |= {"code_entropy": 0.1} if name in ("lfq", "bsq") or args.get("entropy") else {}
    kinds |= {"codebook": 1.0} if args.get("learn") == "gradient" else {}
    vae = vaekit.build("mlp", latent=4, input_shape=(1, 3, 3), sampler=vaekit.use(name, **args), loss={"nll": 1.0, **kinds})
    twin, step = copy.deepcopy(vae), torch.compile(TrainStep(vae), fullgraph=True, backend="eager")
    for seed in range(2):
        x = torch.rand(9, 1, 3, 3)
        torch.manual_seed(seed)
        a = step(x).total
        torch.manual_seed(seed)
        b = twin.loss(x).total
        torch.testing.assert_close(a, b)
        a.backward(), b.backward()
    torch.testing.assert_close(vae.state_dict(), twin.state_dict())
"""

TWO_PROCESSES = """
import copy, sys, torch, torch.distributed as dist
from vaekit.layers.codebook import Codebook
rank, address = int(sys.argv[1]), sys.argv[2]
torch.manual_seed(0)
book, data = Codebook(6, 2, restart=0.3, decay=0.5).double(), torch.randn(20, 1, 1, 2).double()
plain = copy.deepcopy(book)
dist.init_process_group("gloo", init_method="file://" + address, rank=rank, world_size=2)
torch.manual_seed(rank)
for _ in range(4):
    book(data[10 * rank : 10 * rank + 10])
    other = [torch.empty_like(book.weight) for _ in range(2)]
    dist.all_gather(other, book.weight)
    assert torch.equal(*other), "two processes have two codebooks"
start = Codebook(6, 2, restart=0.0, learn="gradient").double()
start(data[10 * rank : 10 * rank + 10])
assert (start.weight[0][:, None] == data[:10, 0, 0]).all(-1).any(1).all(), "codes do not start as the first process's vectors"
book.restart = 0.0
alone = copy.deepcopy(book)
book(data[10 * rank : 10 * rank + 10])
dist.destroy_process_group()
alone(data)
torch.testing.assert_close(book.state_dict(), alone.state_dict())
"""


def _script(code, *args):
    env = {**os.environ, "VAEKIT_UNHOOKED": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", code, *args],
        env=env,
        cwd=pathlib.Path(__file__).parents[1],
        stderr=subprocess.PIPE,
        text=True,
    )


def test_quantizers_compile_whole_and_train_as_they_do_without():
    process = _script(COMPILED)
    _, errors = process.communicate()
    assert process.returncode == 0, errors[-4000:]


def test_two_processes_keep_one_codebook_and_learn_from_both_halves_of_the_batch(tmp_path):
    processes = [_script(TWO_PROCESSES, str(rank), str(tmp_path / "meeting")) for rank in range(2)]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors[-4000:]


def _normal(*shape):
    return torch.randn(*shape, dtype=torch.float64)
