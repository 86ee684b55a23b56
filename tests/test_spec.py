"""Parts by name: exact round trips, and what can't be written down."""

import pytest
import torch

import vaekit
from vaekit import Spec, ramp, term, use
from vaekit.spec import NotSerializable


def test_a_spec_goes_through_json_and_yaml_unchanged():
    spec = Spec("vae", "flat", {
        "latent": [4, 8, 8], "data_range": None, "encoder": Spec("encoder", "mlp", {"hidden": (400, 20), "act": "relu"}),
        "loss": [term("nll"), term("kl", weight=ramp(0, 1e-6, steps=10), free_bits=0.25)], "flags": {"a": True, "b": [1.5]},
    })  # fmt: skip
    assert Spec.from_json(spec.to_json()) == spec
    assert Spec.from_yaml(spec.to_yaml()) == spec
    assert Spec.from_dict(spec.to_dict()).to_json() == spec.to_json()


def test_the_saved_form_is_the_kind_the_name_and_the_arguments():
    assert Spec("encoder", "unet_attn", {"width": 96}).to_dict() == {"@encoder": "unet_attn", "width": 96}


def test_sequences_are_tuples_whatever_they_were():
    assert use("mlp", hidden=[1, [2]]) == use("mlp", hidden=(1, (2,)))


def test_a_spec_does_not_change_with_what_it_was_made_from():
    hidden = {"hidden": [400]}
    spec = Spec("encoder", "mlp", hidden)
    hidden["hidden"].append(3)
    hidden["act"] = "tanh"
    assert spec.args == {"hidden": (400,)}


def test_a_module_can_not_be_written_and_the_message_says_where():
    spec = Spec("vae", "flat", {"encoder": torch.nn.Linear(2, 2)})
    with pytest.raises(NotSerializable, match=r"vae\.encoder: Linear can't be written down"):
        spec.to_dict()


def test_a_saved_form_needs_one_kind():
    with pytest.raises(ValueError, match="expected a mapping with one '@kind' key"):
        Spec.from_dict({"width": 3})
    with pytest.raises(ValueError, match="expected one '@kind' key, got"):
        Spec.from_dict({"@encoder": "mlp", "@decoder": "mlp"})


def test_a_spec_of_one_kind_fits_no_other_slot():
    with pytest.raises(vaekit.BuildError, match="vae.encoder: 'mlp' is a decoder, and an encoder is expected here"):
        vaekit.build("vae", encoder=Spec("decoder", "mlp"))


def test_use_takes_a_registered_class_by_its_name_and_another_by_its_path():
    assert use(vaekit.encoder["mlp"], act="tanh") == use("mlp", act="tanh")
    assert use(torch.nn.Linear).name == "torch.nn.modules.linear:Linear"


def test_a_class_of_a_function_works_here_and_is_not_written_down(tmp_path):
    class Local(torch.nn.Module):
        def __init__(self, width: int = 4):
            super().__init__()
            self.layer = torch.nn.Linear(16, width)

        def forward(self, x):
            return self.layer(x.flatten(1))

    for encoder in (Local, use(Local, width=7)):
        vae = vaekit.build("vae", latent=2, input_shape=(1, 4, 4), encoder=encoder)
        assert isinstance(vae.encoder, Local) and vaekit.build(vae.spec).spec == vae.spec
        with pytest.raises(vaekit.BuildError, match=r"vae\.encoder: .*Local can't be written down, since it lives in"):
            vae.save_pretrained(tmp_path)
    assert vae.shapes["h"] == (7,)
