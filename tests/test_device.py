"""Picking a device, on machines with and without accelerators."""

import pytest
import torch

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
