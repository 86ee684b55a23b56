"""Adversarial models: each player's gradient against the same loss computed apart, with nothing detached."""

import pytest
import torch
import torch.nn.functional as F

import vaekit
from vaekit import term, use
from vaekit.records import Output

X = torch.rand(6, 1, 8, 8)


def sides(vae, label):
    critic = list(vae.objective.terms[label].critic.parameters())
    encoder = [*vae.encoder.parameters(), *vae.sampler.parameters()]
    return {"encoder": encoder, "decoder": list(vae.decoder.parameters()), "critic": critic}


def found(vae, label, seed=0):
    """What one backward pass of the objective's total leaves in `.grad`, by player."""
    vae.zero_grad()
    torch.manual_seed(seed)
    vae.loss(X).total.backward()
    return {name: [p.grad for p in parameters] for name, parameters in sides(vae, label).items()}


def compare(vae, label, losses, seed=0):
    """`losses(out)` gives each player's loss, live through everything; only that player's gradient is taken."""
    got = found(vae, label, seed)
    torch.manual_seed(seed)
    wanted = losses(vae(X))
    for name, parameters in sides(vae, label).items():
        gradients = torch.autograd.grad(wanted[name], parameters, retain_graph=True, allow_unused=True)
        assert any(g is not None and g.any() for g in gradients), name
        for a, b in zip(got[name], gradients, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_factor_vae():
    vae = vaekit.build("factor_vae", latent=3, input_shape=(1, 8, 8), encoder="mlp", decoder="mlp", gamma=5.0)
    critic = vae.objective.terms["factor_tc"].critic

    def losses(out: Output):
        z = out.z
        permuted = z.gather(0, torch.rand_like(z).argsort(0))
        a, b = critic(z)[0], critic(permuted)[0]
        nll, kl = vaekit.loss["nll"]()(out), vaekit.loss["kl"]()(out)
        model = (nll + kl + 5.0 * (a[:, 0] - a[:, 1])).mean()
        return {
            "encoder": model,
            "decoder": model,
            "critic": -0.5 * (F.log_softmax(a, 1)[:, 0] + F.log_softmax(b, 1)[:, 1]).mean(),
        }

    compare(vae, "factor_tc", losses)


@pytest.mark.parametrize("sampler", ["dirac", "gaussian"])
def test_adversarial_autoencoder(sampler):
    vae = vaekit.build("adversarial_ae", latent=3, input_shape=(1, 8, 8), encoder="mlp", decoder="mlp", sampler=sampler)
    critic = vae.objective.terms["adversarial_latent"].critic

    def losses(out: Output):
        real = torch.randn(len(X), 3)
        d = torch.sigmoid(critic(out.z)[0])[:, 0]
        model = (vaekit.loss["nll"]()(out) - d.log()).mean()
        d_real = torch.sigmoid(critic(real)[0])[:, 0]
        return {"encoder": model, "decoder": model, "critic": -(d_real.log() + (1 - d).log()).mean()}

    compare(vae, "adversarial_latent", losses)


def test_vae_gan_trains_three_players():
    # in pythae the decoder's gradient holds the critic's loss as well, so that the generator helps the critic
    loss = [term("kl"), term("feature_matching", weight=2.0, adversarial=0.5, critic=use("conv", width=8), layer=0)]
    vae = vaekit.build("mlp", latent=3, input_shape=(1, 8, 8), loss=loss)
    critic = vae.objective.terms["feature_matching"].critic

    def losses(out: Output):
        made = out.p_x.mean
        error = 0.5 * (critic.features(made)[0] - critic.features(X)[0]).square().flatten(1).sum(1).mean()
        drawn = vae.decode(torch.randn(2, 3)[:0].new_tensor(PRIOR[0]))
        again = vae.decode(torch.tensor(PRIOR[1]))
        real, fake = critic(X)[0][:, 0], critic(made)[0][:, 0]
        fooled = 0.5 * (F.softplus(-fake) + F.softplus(-critic(drawn)[0][:, 0])).mean()
        kl = vaekit.loss["kl"]()(out).mean()
        judged = F.softplus(-real) + 0.5 * (F.softplus(fake) + F.softplus(critic(again)[0][:, 0]))
        return {"encoder": kl + 2 * error, "decoder": 2 * (error + 0.5 * fooled), "critic": judged.mean()}

    # the prior's draws of the two players, as the loss itself draws them after the pass
    torch.manual_seed(0)
    vae(X)
    PRIOR = [torch.randn(6, 3).tolist() for _ in range(2)]
    compare(vae, "feature_matching", losses)


@pytest.mark.parametrize("recipe", ["factor_vae", "adversarial_ae", "vae_gan"])
def test_players_name_every_parameter_once(recipe):
    vae = vaekit.build(recipe, latent=3, input_shape=(1, 8, 8))
    players = vae.players()
    assert list(players)[0] == "vae" and len(players) == 2
    ids = [id(p) for held in players.values() for p in held]
    assert sorted(ids) == sorted(id(p) for p in vae.parameters())
    assert {id(p) for p in players["vae"]}.isdisjoint(id(p) for p in list(players.values())[1])


def test_the_critic_learns_to_tell_and_then_the_model_to_fool_it():
    torch.manual_seed(0)
    vae = vaekit.build("adversarial_ae", latent=2, input_shape=(8,), encoder=use("mlp", hidden=(32,)))
    x = torch.rand(256, 8)
    players = vae.players()
    critic = torch.optim.Adam(players["adversarial_latent"], lr=1e-2)
    first = vae.loss(x).terms["adversarial_latent_critic"]
    for _ in range(100):
        critic.zero_grad()
        vae.loss(x).total.backward()
        critic.step()
    told = vae.loss(x).terms
    assert told["adversarial_latent_critic"] < 0.7 * first
    model = torch.optim.Adam(players["vae"], lr=1e-2)
    for _ in range(100):
        model.zero_grad()
        vae.loss(x).total.backward()
        model.step()
    assert vae.loss(x).terms["adversarial_latent"] < told["adversarial_latent"]
