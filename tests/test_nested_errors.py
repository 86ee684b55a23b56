"""Where a mistake lies, also when it is one inside a part's own arguments; and which latents are too large."""

import pytest
import torch

import vaekit
from vaekit import BuildError, UnknownName, term, use
from vaekit.layers import download
from vaekit.registry import UnknownArgument

LOSSES = ("adversarial", "adversarial_latent", "factor_tc", "feature_matching")


@pytest.mark.parametrize("name", LOSSES)
def test_a_critics_mistake_is_told_at_its_own_path(name):
    def build(critic):
        return vaekit.build("mlp", latent=2, input_shape=(1, 8, 8), loss=["nll", term(name, critic=critic)])

    with pytest.raises(
        UnknownArgument, match=r"^vae\.loss\[1\]\.critic: MLPDiscriminator \('mlp'\) has no argument 'bad'"
    ):
        build(use("mlp", bad=1))
    with pytest.raises(UnknownName, match=r"^vae\.loss\[1\]\.critic: no discriminator named 'patchgam'.*patchgan"):
        build("patchgam")
    with pytest.raises(BuildError, match=r"^vae\.loss\[1\]\.critic: hidden"):
        build(use("mlp", hidden=(-3,)))


def test_a_mistake_of_the_loss_itself_stays_at_the_loss():
    with pytest.raises(BuildError, match=r"^vae\.loss\[1\]: r1: expected"):
        vaekit.build("mlp", latent=2, input_shape=(1, 8, 8), loss=["nll", term("adversarial", critic="mlp", r1=-1.0)])


def test_a_latent_wider_than_the_data_is_for_those_who_mean_it():
    shape = {"input_shape": (1, 4, 4), "latent": 40}
    with pytest.raises(BuildError, match=r"latent: 40 is too large: 40 numbers for data of 16.*sampler='dirac'"):
        vaekit.build("mlp", **shape)
    x = torch.rand(2, 1, 4, 4)
    assert vaekit.build("mlp", sampler="dirac", loss=["nll"], **shape).reconstruct(x).shape == x.shape

    class Wide(torch.nn.Module):
        overcomplete = True

        def forward(self, x):
            return x.flatten(1)

    vae = vaekit.build("mlp", encoder=Wide(), **shape)
    assert vae.encode(x).z.shape == (2, 40) and vae.loss(x).total.isfinite()


def test_a_host_that_says_no_is_there(monkeypatch):
    """The download then says what is wrong: of some hosts a file can be had where its head can't."""

    def refuse(*_, **__):
        raise download.HTTPError("https://host/file", 403, "Forbidden", {}, None)  # type: ignore[arg-type]

    monkeypatch.setattr(download, "urlopen", refuse)
    assert download.unanswered("https://host/file") is None

    def unknown(*_, **__):
        raise OSError("no such host")

    monkeypatch.setattr(download, "urlopen", unknown)
    assert download.unanswered("https://host/file") == "https://host/file: no such host"
