"""Picking a device, on machines with and without accelerators."""

import os
import re

import pytest
import torch

import vaekit
from vaekit import device


@pytest.fixture
def two_cards(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


def test_auto_takes_the_first_that_works(two_cards):
    assert device.available()[:2] == ["cuda:0", "cuda:1"] and device.available()[-1] == "cpu"
    assert device.pick() == torch.device("cuda:0")
    assert device.pick("cuda") == torch.device("cuda") and device.pick("cuda:1") == torch.device("cuda:1")


def test_a_card_that_is_not_there_is_refused_with_those_that_are(two_cards):
    with pytest.raises(ValueError, match=r"'cuda:2' is not available here\. Available: cuda:0, cuda:1, .*or 'auto'"):
        device.pick("cuda:2")
    with pytest.raises(ValueError, match=r"'gpu' is no device\. Available here: cuda:0"):
        device.pick("gpu")


def test_without_accelerators_there_is_the_cpu(monkeypatch):
    for module in (torch.cuda, torch.xpu, torch.backends.mps):
        monkeypatch.setattr(module, "is_available", lambda: False)
    assert device.available() == ["cpu"] and device.pick() == torch.device("cpu")
    with pytest.raises(ValueError, match="'cuda' is not available here"):
        device.pick("cuda")
    assert "no CUDA device" in device.describe()


def test_the_same_bits_inside_and_the_settings_of_before_outside(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    state = torch.get_rng_state()
    with device.deterministic(seed=3):
        assert torch.are_deterministic_algorithms_enabled() and os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        assert torch.backends.cudnn.deterministic and not torch.backends.cudnn.benchmark
        inside = torch.rand(3)
    assert torch.equal(inside, torch.rand(3, generator=torch.Generator().manual_seed(3)))
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.are_deterministic_algorithms_enabled() and "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    with pytest.raises(ZeroDivisionError), device.deterministic():
        raise ZeroDivisionError
    assert not torch.are_deterministic_algorithms_enabled()


def test_what_is_not_deterministic_is_refused():
    with device.deterministic(), pytest.raises(RuntimeError, match="deterministic"):
        torch.nn.functional.max_unpool2d(torch.rand(1, 1, 2, 2), torch.zeros(1, 1, 2, 2, dtype=torch.long), 2)


@pytest.mark.parametrize("fits", [1, 2, 7, 50, 63, 64, 100, 999])
@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("full"), RuntimeError("CUDA error: out of memory"), MemoryError()]
)
def test_the_largest_batch_that_fits_is_found(fits, error):
    tried = []

    def run(size):
        tried.append(size)
        if size > fits:
            raise error

    found = device.auto_batch_size(run, 1000)
    assert found.batch_size <= fits and fits - found.batch_size <= max(1, fits // 64) - (fits < 64)
    assert found.batch_size * found.accumulate >= 1000 > found.batch_size * (found.accumulate - 1)
    assert len(tried) <= 13


def test_a_batch_that_fits_whole_is_tried_once():
    assert device.auto_batch_size(lambda size: None, 64) == device.BatchSize(64, 1)


def test_other_errors_of_a_step_are_not_taken_for_memory():
    def run(size):
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        device.auto_batch_size(run, 8)


def test_no_batch_that_fits_and_no_range_are_errors():
    def run(size):
        raise torch.OutOfMemoryError("full")

    with pytest.raises(torch.OutOfMemoryError, match="not even a batch of 2 fits"):
        device.auto_batch_size(run, 8, least=2)
    with pytest.raises(ValueError, match="expected 1 ≤ least ≤ wanted, got least=9, wanted=8"):
        device.auto_batch_size(run, 8, least=9)


def compiling(monkeypatch, factor, *, fails=False, offset=0.0):
    """A compiler that is simulated: what it makes takes `factor` of the time, by a clock that is simulated too."""
    clock = [0.0]
    monkeypatch.setattr(device.time, "perf_counter", lambda: clock[0])

    def compiled(self, mode=None):
        def call(x):
            if fails:
                raise NotImplementedError("no such kernel\nand more")
            clock[0] += factor - 1.0  # the hook below counts 1 too much
            return self._call_impl(x) + offset

        self._compiled_call_impl = call

    monkeypatch.setattr(torch.nn.Module, "compile", compiled)
    vae = vaekit.build("mlp", latent=2, input_shape=(1, 4, 4), hidden=(4,)).eval()
    for network in (vae.encoder, vae.decoder):
        network.register_forward_pre_hook(lambda *_: clock.__setitem__(0, clock[0] + 1.0))
    return vae


def test_faster_networks_are_taken_and_share_their_weights(monkeypatch):
    vae = compiling(monkeypatch, 0.5)
    found = device.optimize(vae)
    assert found.compiled == ("encode", "decode") and found.seconds == {"encode": (1.0, 0.5), "decode": (1.0, 0.5)}
    assert all(a is b for a, b in zip(found.vae.parameters(), vae.parameters(), strict=True))
    assert vae.encoder._compiled_call_impl is None and found.vae.state_dict().keys() == vae.state_dict().keys()
    x = torch.rand(3, 1, 4, 4)
    assert torch.equal(found.vae.reconstruct(x), vae.reconstruct(x))


@pytest.mark.parametrize(
    "how, why",
    [
        ({"factor": 1.5}, "is not faster when compiled"),
        ({"factor": 0.5, "offset": 0.1}, "gives other numbers when compiled"),
        ({"factor": 0.5, "fails": True}, r"does not compile \(NotImplementedError: no such kernel\)"),
    ],
)
def test_where_compiling_does_not_help_networks_stay_as_they_are(monkeypatch, how, why):
    found = device.optimize(compiling(monkeypatch, **how))
    assert found.compiled == () and all(re.match(why, found.why[stage]) for stage in ("encode", "decode"))
    assert found.vae.encoder._compiled_call_impl is None


def test_a_model_with_a_condition_is_left_as_it_is():
    vae = vaekit.build("mlp", latent=2, input_shape=(4,), condition=vaekit.use("class", classes=3), hidden=(4,))
    assert "condition" in device.optimize(vae).why["encode"]
