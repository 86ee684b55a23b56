"""Posteriors made of flows: log-determinants against autograd, inverses, and zuko as an independent flow."""

import copy
import math
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.distributions import Distribution, Independent, Normal
from torch.distributions.transforms import AffineTransform

import vaekit
import vaekit.priors.flow
import vaekit.samplers.flow
import vaekit.samplers.iaf
import vaekit.samplers.planar
from vaekit import use
from vaekit.layers.made import MADE
from vaekit.layers.pushforward import Pushforward
from vaekit.layers.zuko_flow import ZukoFlow, import_zuko
from vaekit.optional import MissingPackage
from vaekit.samplers.iaf import gated, gated_inverse, moments
from vaekit.samplers.planar import invertible, planar, planar_inverse
from vaekit.samplers.radial import positive, radial, radial_inverse
from vaekit.testing import FAILURE_RATE, check, goodness_of_fit, trains

SMALL = {
    "planar": {"flows": 3},
    "radial": {"flows": 3},
    "iaf": {"flows": 3, "hidden": (12,), "context": 4},
    "maf": {"flow": "maf", "transforms": 2, "hidden": (12,), "context": 4},
    "nsf": {"flow": "nsf", "transforms": 2, "hidden": (12,), "context": 4},
    "nice": {"flow": "nice", "transforms": 3, "hidden": (12,), "context": 4},
}
ZUKO = ("maf", "nsf", "nice")


def make(name, latent=(3,), scale=0.0, **args):
    """A sampler in double precision, with parameters moved by `scale`."""
    scale = scale / 4 if name == "nsf" else scale  # its splines get slopes of 10⁶, that no quadrature sees
    part = vaekit.sampler["flow" if name in ZUKO else name]((5,), latent, **SMALL[name], **args).double()
    with torch.no_grad():
        for p in part.parameters():
            p += scale * torch.randn_like(p)
    return part


def features(b=4):
    return torch.randn(b, 5, dtype=torch.float64)


@pytest.mark.parametrize("name", SMALL)
def test_flow_posteriors_obey_the_laws(name):
    check("sampler", "flow" if name in ZUKO else name, **SMALL[name])


@pytest.mark.parametrize("name", ["planar", "radial"])
def test_shared_steps_obey_the_laws(name):
    check("sampler", name, flows=2, amortised=False)


# -- log-determinants and inverses -----------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [1, 3])
@pytest.mark.parametrize("scale", [0.0, 1.0])
@pytest.mark.parametrize("name", SMALL)
def test_log_q_has_autograds_jacobian_and_the_inverse_inverts(name, scale, d):
    q = make(name, (d,), scale)(features(1)).q
    for noise in q.base.sample((5,)):
        jacobian = torch.autograd.functional.jacobian(lambda e: q.push(e)[0][0], noise)[:, 0]
        z, log_det = q.push(noise)
        torch.testing.assert_close(log_det[0], torch.linalg.slogdet(jacobian).logabsdet, rtol=1e-6, atol=1e-6)
        back, inverse_log_det = q.pull(z)
        torch.testing.assert_close(back, noise, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(inverse_log_det, -log_det, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("latent", [(3,), (2, 2, 1)])
def test_log_q_at_draws_is_the_density_there(name, latent):
    level = make(name, latent, 0.3)(features(), (2, 5))
    assert level.z.shape == (2, 5, 4, *latent) and level.q.event_shape == latent
    torch.testing.assert_close(level.q.log_prob(level.z), level.log_q, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", SMALL)
def test_draws_of_a_bent_flow_follow_its_density(name):
    torch.manual_seed(3)
    q = make(name, (2,), 0.6).float()(torch.randn(1, 5)).q
    with torch.no_grad():
        z = q.sample((20_000,))[:, 0]
        assert goodness_of_fit(z, lambda z: q.log_prob(z[:, None])[:, 0]) > FAILURE_RATE
        gauss = torch.distributions.MultivariateNormal(z.mean(0), z.T.cov())
        assert goodness_of_fit(z, gauss.log_prob) < FAILURE_RATE, "the flow bends nothing, so that the test says little"


def test_the_mode_of_a_flow_is_its_base_mean_pushed():
    level = make("planar", (2, 2), 0.5)(features())
    torch.testing.assert_close(level.mode.flatten(1), level.q.push(level.q.base.mean)[0])
    torch.testing.assert_close(level.mode, level.q.mean)


def test_gradients_of_log_q_are_those_of_finite_differences():
    steps = {
        planar_inverse: [torch.randn(4, 3), torch.randn(4, 3), torch.randn(4, 3), torch.randn(4, 1)],
        planar: [torch.randn(4, 3), torch.randn(4, 3), torch.randn(4, 3), torch.randn(4, 1)],
        radial_inverse: [torch.randn(4, 3), torch.randn(4, 3), torch.rand(4, 1) + 0.1, torch.rand(4, 1) + 0.1],
        radial: [torch.randn(4, 3), torch.randn(4, 3), torch.rand(4, 1) + 0.1, torch.rand(4, 1) + 0.1],
    }
    for step, given in steps.items():
        assert torch.autograd.gradcheck(step, [t.double().requires_grad_() for t in given]), step


# -- planar and radial -----------------------------------------------------------------------------------------------


def test_planar_steps_can_be_inverted_at_a_thousand_parameters():
    size = 10 ** torch.empty(1000, 1, dtype=torch.float64).uniform_(-2, 2)
    w, u = size * torch.randn(1000, 10, dtype=torch.float64), size.flip(0) * torch.randn(1000, 10, dtype=torch.float64)
    u_hat, above = invertible(w, u)
    assert ((w * u).sum(1) < -1).float().mean() > 0.2, "nothing to enforce here"
    assert ((w * u_hat).sum(1) > -1).all()
    torch.testing.assert_close((w * u_hat).sum(1, keepdim=True) + 1, above, rtol=1e-6, atol=1e-8)
    across = (u_hat - u) - ((u_hat - u) * w).sum(1, keepdim=True) * w / w.square().sum(1, keepdim=True)
    torch.testing.assert_close(across, torch.zeros_like(across), rtol=0, atol=1e-6)


def test_planar_steps_are_tanh_of_the_paper():
    w, u, z = torch.randn(3, 7, 4, dtype=torch.float64)
    b = torch.randn(7, 1, dtype=torch.float64)
    u_hat, _ = invertible(w, u)
    moved, log_det = planar(z, w, u, b)
    a = (w * z).sum(1, keepdim=True) + b
    torch.testing.assert_close(moved, z + u_hat * a.tanh())
    psi = (1 - a.tanh().square()) * w
    torch.testing.assert_close(log_det, (1 + (u_hat * psi).sum(1)).abs().log())


def test_planar_steps_stay_bounded_for_small_w_and_leave_orthogonal_u_alone():
    u = torch.randn(100, 3, dtype=torch.float64)
    for size in (1e-3, 1e-6, 1e-9, 0.0):
        w = size * torch.randn(100, 3, dtype=torch.float64)
        u_hat, _ = invertible(w, u)
        assert (u_hat.norm(dim=1) <= 1.01 * u.norm(dim=1)).all()
    w, u = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 5.0]])
    torch.testing.assert_close(invertible(w, u)[0], u)


def test_radial_steps_are_the_papers_and_rise_along_every_ray():
    z, center = torch.randn(2, 1000, 4, dtype=torch.float64)
    alpha, total = positive(5 * torch.randn(2, 1000, 1, dtype=torch.float64))
    beta = total - alpha
    assert (alpha > 0).all() and (beta > -alpha).all() and (beta < 0).any()
    r = (z - center).norm(dim=1, keepdim=True)
    moved, log_det = radial(z, center, alpha, total)
    h = 1 / (alpha + r)
    torch.testing.assert_close(moved, z + beta * h * (z - center))
    paper = (1 + beta * h) ** 3 * (1 + beta * h - beta * h**2 * r)
    torch.testing.assert_close(log_det, paper[:, 0].log(), rtol=1e-5, atol=1e-5)
    farther, _ = radial(center + 1.01 * (z - center), center, alpha, total)
    assert ((farther - center).norm(dim=1) > (moved - center).norm(dim=1)).all()


@pytest.mark.parametrize("name", ["planar", "radial"])
def test_shared_steps_do_not_depend_on_h_and_read_ones_do(name):
    for amortised in (True, False):
        part = make(name, amortised=amortised)
        a, b = part.numbers(features(1)), part.numbers(features(1))
        assert torch.equal(a, b) != amortised


# -- inverse autoregressive --------------------------------------------------------------------------------------------


def jacobian_of(blocks, context, d):
    def run(z):
        for block in blocks:
            z, _ = gated(z, block, context)
        return z

    return torch.autograd.functional.jacobian(run, torch.randn(d, dtype=torch.float64))


@pytest.mark.parametrize("hidden", [(20,), (20, 30)])
def test_iaf_steps_are_triangular_and_reversal_reverses(hidden):
    d, context = 5, torch.randn(4, dtype=torch.float64)
    forwards, backwards = (MADE(d, 4, 2, hidden, reverse=r).double() for r in (False, True))
    lower, upper = jacobian_of([forwards], context, d), jacobian_of([backwards], context, d)
    assert not lower.triu(1).any() and not upper.tril(-1).any()
    assert (lower.tril() != 0).sum() == 15 and (upper.triu() != 0).sum() == 15, "a number sees all that come before it"
    assert (jacobian_of([forwards, backwards], context, d) != 0).all()
    assert (jacobian_of([forwards, forwards], context, d) != 0).sum() == 15
    blocks = make("iaf", (d,)).blocks
    assert [block.order.tolist() for block in blocks] == [list(range(d)), list(range(d))[::-1], list(range(d))]


def test_iaf_steps_and_their_inverse_are_zukos():
    import_zuko("test")
    from zuko.transforms import AutoregressiveTransform, DependentTransform

    block = MADE(4, 3, 2, (16, 16), reverse=True).double()
    z, context = torch.randn(6, 4, dtype=torch.float64), torch.randn(6, 3, dtype=torch.float64)

    def step(z):
        mean, log_gate = moments(z, block, context)
        gate = log_gate.exp()
        return DependentTransform(AffineTransform((1 - gate) * mean, gate), 1)

    theirs = AutoregressiveTransform(step, passes=4)
    y, log_det = gated(z, block, context)
    expected, expected_log_det = theirs.call_and_ladj(z)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(log_det, expected_log_det)
    torch.testing.assert_close(gated_inverse(y, block, context)[0], theirs.inv(y))
    torch.testing.assert_close(theirs.inv(y), z)


def test_iaf_starts_close_to_the_identity_and_every_number_reads_h():
    part = make("iaf")
    _, log_gate = moments(torch.randn(4, 3).double(), part.blocks[0], part.context(features()))
    assert (log_gate.exp() > 0.6).all()
    h = features(1).requires_grad_()
    noise = torch.randn(1, 3, dtype=torch.float64)
    for i in range(3):
        (gradient,) = torch.autograd.grad(part(h).q.push(noise)[0][0, i], h)
        assert gradient.any()


def test_made_refuses_a_network_without_hidden_layers():
    for hidden in ((), (0,)):
        with pytest.raises(ValueError, match="hidden: expected"):
            MADE(3, 2, 2, hidden)


# -- zuko ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flow", ["maf", "nsf", "nice", "realnvp", "naf", "unaf", "sospf", "bpf", "gf", "cnf"])
def test_every_flow_of_zuko_has_autograds_jacobian_as_a_posterior(flow):
    part = vaekit.sampler["flow"]((5,), (2,), flow=flow, transforms=2, hidden=(8,), context=3).double()
    level = part(features(1))
    noise = torch.randn(1, 2, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda e: level.q.push(e)[0][0], noise)[:, 0]
    torch.testing.assert_close(
        level.q.push(noise)[1][0], torch.linalg.slogdet(jacobian).logabsdet, rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(level.q.log_prob(level.z), level.log_q, rtol=1e-3, atol=1e-3)


def test_the_flow_prior_is_zukos_own_density():
    zuko = import_zuko("test")
    prior = vaekit.prior["flow"]((3,), flow="maf", transforms=2, hidden=(8,))
    theirs = zuko.flows.MAF(3, 0, transforms=2, hidden_features=(8,))
    theirs.transform.load_state_dict(prior.flow.transform.state_dict())
    z = torch.randn(10, 3)
    torch.testing.assert_close(prior().log_prob(z), theirs().log_prob(z))


def test_torchs_checks_of_distributions_are_as_before_the_import():
    code = """
import torch
from torch.distributions import Distribution, Normal
assert Distribution._validate_args
import vaekit, vaekit.samplers.flow, vaekit.priors.flow, sys
assert "zuko" not in sys.modules, "an import of vaekit imports zuko"
vaekit.sampler["flow"]((4,), (2,))(torch.randn(3, 4))
vaekit.prior["flow"]((2,))()
assert "zuko" in sys.modules and Distribution._validate_args
try:
    Normal(0.0, -1.0)
except ValueError:
    print("checked")
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert told.stdout == "checked\n", told.stderr
    before = Distribution._validate_args
    try:
        Distribution.set_default_validate_args(False)
        import_zuko("test")
        assert not Distribution._validate_args, "a choice of the user's stays, too"
    finally:
        Distribution.set_default_validate_args(before)


def test_an_absent_zuko_and_an_unknown_flow_are_explained(monkeypatch):
    with pytest.raises(ValueError, match="flow: expected one of maf, nsf.*got 'glow'"):
        vaekit.sampler["flow"]((5,), (2,), flow="glow")
    monkeypatch.setitem(sys.modules, "zuko", None)
    with pytest.raises(MissingPackage, match=r"vaekit\[flows\]"):
        vaekit.sampler["flow"]((5,), (2,))


# -- in models -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SMALL)
def test_a_mixture_of_flow_posteriors_is_a_prior(name):
    sampler = use("flow" if name in ZUKO else name, **SMALL[name])
    vae = vaekit.build(
        input_shape=(6,),
        latent=2,
        encoder=use("mlp", hidden=(8,)),
        decoder=use("mlp", hidden=(8,)),
        likelihood=use("gaussian", scale=1.0),
        sampler=sampler,
        prior=use("vamp", components=4),
        data_range=None,
    )
    trains(vae)
    vae.double()
    p = vae.encode(torch.randn(3, 6, dtype=torch.float64)).p
    z = torch.randn(5, 3, 2, dtype=torch.float64)
    each = torch.stack([p.component_distribution.log_prob(z[..., None, :])[..., k] for k in range(4)])
    torch.testing.assert_close(p.log_prob(z), each.logsumexp(0) - math.log(4))


def test_a_frozen_flow_prior_passes_gradients_to_z_alone():
    from vaekit.layers.frozen import frozen

    prior = vaekit.prior["flow"]((2,), flow="maf", transforms=1, hidden=(4,))
    z = torch.randn(3, 2, requires_grad=True)
    frozen(prior).log_prob(z).sum().backward()
    assert z.grad.any() and all(p.grad is None for p in prior.parameters())
    prior().log_prob(z).sum().backward()
    assert all(p.grad is not None for p in prior.parameters())


def test_a_flow_prior_trains_with_the_model():
    trains(
        vaekit.build(
            input_shape=(2, 4, 4),
            latent=(1, 2, 2),
            encoder=use("conv", width=4),
            decoder=use("conv", width=4),
            prior=use("flow", flow="maf", transforms=2, hidden=(8,)),
        )
    )


def reached(name, **args):
    """The KL of a sampler's density to a banana, after some training."""
    torch.manual_seed(0)
    part = vaekit.sampler[name]((1,), (2,), **args)
    optimizer = torch.optim.Adam(part.parameters(), lr=0.02)
    h, last = torch.ones(1, 1), []
    for _ in range(200):
        level = part(h, (128,))
        first, second = level.z.unbind(-1)
        log_p = Normal(0.0, 1.0).log_prob(first) + Normal(first.square(), 0.5).log_prob(second)
        kl = (level.log_posterior() - log_p).mean()
        optimizer.zero_grad()
        kl.backward()
        optimizer.step()
        last.append(float(kl.detach()))
    return sum(last[-50:]) / 50


def test_flows_come_closer_than_a_normal_to_a_bent_density_and_not_below_zero():
    plain = reached("gaussian")
    for name, args in (
        ("planar", {"flows": 6}),
        ("radial", {"flows": 6}),
        ("iaf", {"flows": 2, "hidden": (16,)}),
        ("flow", {"flow": "nice", "hidden": (32,)}),
    ):
        assert -0.02 < reached(name, **args) < plain - 0.1, name


# -- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("planar", {"flows": 0}),
        ("radial", {"flows": 0}),
        ("iaf", {"flows": 0}),
        ("iaf", {"context": 0}),
        ("iaf", {"hidden": ()}),
        ("flow", {"transforms": 0}),
        ("flow", {"context": 0}),
        ("flow", {"hidden": (0,)}),
    ],
)
def test_bad_arguments_are_named(name, args):
    with pytest.raises(ValueError, match=f"{next(iter(args))}: expected"):
        vaekit.sampler[name]((5,), (2,), **args)


def test_a_flow_without_an_inverse_says_so():
    base = Independent(Normal(torch.zeros(2), torch.ones(2)), 1)
    q = Pushforward(base, lambda e: (2 * e, e.new_full(e.shape[:-1], 2 * math.log(2))), (2,))
    z, log_q = q.draw((5,))
    exact = Independent(Normal(torch.zeros(2), 2 * torch.ones(2)), 1)
    torch.testing.assert_close(log_q, exact.log_prob(z))
    with pytest.raises(NotImplementedError, match="no inverse"):
        q.log_prob(z)


def test_a_copy_of_a_flow_is_the_same_flow():
    part = ZukoFlow("nsf", 2, 0, 2, (8,), "test")
    x = torch.randn(4, 2)
    assert torch.equal(copy.deepcopy(part)(x)[0], part(x)[0])
    assert isinstance(part.transform, nn.Module)
