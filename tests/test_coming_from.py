"""The page for those who come from elsewhere names what is there, and all of it."""

import re

import pytest
import torch

import vaekit
from tests.markdown import ROOT

PAGE = (ROOT / "docs" / "tutorials" / "coming-from.md").read_text(encoding="utf-8")
# pythae's `models` and `samplers`, without configs and base classes; HRQVAE is in its repository and in no release yet
PYTHAE = """AE VAE BetaVAE DisentangledBetaVAE FactorVAE BetaTCVAE IWAE MIWAE PIWAE CIWAE VAE_LinNF VAE_IAF MSSSIM_VAE
INFOVAE_MMD WAE_MMD VAMP SVAE PoincareVAE Adversarial_AE VAEGAN VQVAE HRQVAE HVAE RHVAE RAE_L2 RAE_GP NormalSampler
GaussianMixtureSampler TwoStageVAESampler MAFSampler IAFSampler HypersphereUniformSampler PoincareDiskSampler VAMPSampler
RHVAESampler PixelCNNSampler""".split()


def tables(section):
    """(head of the right column, [(left cell, right cell)]) of each table of a section."""
    text = re.split(r"^## ", PAGE, flags=re.MULTILINE)
    (chosen,) = [each for each in text if each.startswith(f"{section}\n")]
    for table in re.findall(r"(?:^\|.*\n)+", chosen, re.MULTILINE):
        head, _, *rows = [[cell.strip() for cell in line.strip("|\n ").split(" | ")] for line in table.splitlines()]
        yield head[1], rows


def named(cell):
    return re.findall(r"`([^`]+)`", cell)


@pytest.mark.parametrize("section", ["pythae", "PyTorch-VAE", "diffusers"])
def test_every_recipe_and_prior_of_the_tables_is_registered(section):
    seen = 0
    for head, rows in tables(section):
        if head in ("recipe", "prior"):
            for _, here in rows:
                names = named(here)
                assert names and all(name in getattr(vaekit, head) for name in names), here
                seen += 1
    assert seen >= 7


def test_every_model_and_sampler_of_pythae_has_its_row():
    left = [
        name for head, rows in tables("pythae") if head in ("recipe", "prior") for row in rows for name in named(row[0])
    ]
    assert sorted(left) == sorted(PYTHAE)
    pythae = pytest.importorskip("pythae.models", reason="pythae is not installed: its list stands in this file")
    assert {name for name in pythae.__all__ if not re.search(r"Config|Base|Auto", name)} <= set(left)


@pytest.mark.parametrize("section", ["pythae", "PyTorch-VAE"])
def test_every_call_of_the_tables_exists_with_its_arguments(section):
    import inspect

    calls = [code for head, rows in tables(section) if head == "here" for row in rows for code in named(row[1])]
    seen = 0
    for code in calls:
        for owner, name, given in re.findall(r"\b(vae|vaekit)\.(\w+)(?:\(([^()]*(?:\([^()]*\)[^()]*)*)\))?", code):
            thing = getattr(vaekit.VAE if owner == "vae" else vaekit, name)
            taken = inspect.signature(thing).parameters
            for argument in re.findall(r"(\w+)=", given):
                assert argument in taken or name in ("build", "fit_prior"), code
            seen += 1
        for name in re.findall(r'(?:likelihood=|use\()"(\w+)"', code):
            assert name in vaekit.likelihood, code
        for name in re.findall(r'term\("(\w+)"', code):
            assert name in vaekit.loss, code
        for name in re.findall(r'(?:fit_prior)\("(\w+)"', code):
            assert name in vaekit.prior, code
    assert seen >= 3


def test_the_calls_of_the_table_give_what_they_say():
    vae = vaekit.build("vae", input_shape=(1, 28, 28), latent=16).eval()
    x = torch.rand(4, 1, 28, 28)
    assert vae.interpolate(x[:2], x[2:], steps=10).shape == (10, 2, 1, 28, 28)
    assert not torch.equal(vae.encode(x).z, vae.encode(x).z) and torch.equal(vae.encode(x).mode, vae.encode(x).mode)
    assert vae.log_prob(x, n=10).mean().isfinite() and vae.sample(16).shape == (16, 1, 28, 28)
