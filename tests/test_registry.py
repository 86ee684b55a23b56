"""Names to classes: what is refused, and what the messages say."""

import pytest
import torch

import vaekit
from vaekit.kinds import Encoder, Prior
from vaekit.registry import Registry, UnknownArgument, UnknownName, registries


@pytest.fixture
def registry():
    """A registry of its own, so that tests leave nothing behind."""
    kept = registries()
    yield Registry("gadget", Encoder, "vaekit.encoders", wiring=("in_shape",))
    import vaekit.registry as module

    module._registries.clear()
    module._registries.update(kept)


def gadget(module="here"):
    class Gadget(Encoder):
        """x → x."""

        def __init__(self, in_shape, *, width: int = 3, strength: float = 0.5):
            super().__init__()

        def forward(self, x, cond=None):
            return x

    Gadget.__module__ = module
    return Gadget


def test_there_are_eleven_kinds_of_parts_and_two_for_the_objective():
    kinds = "encoder sampler prior decoder likelihood loss discriminator condition transform normalizer recipe".split()
    assert set(registries()) == {*kinds, "weight", "objective"}
    assert all(isinstance(getattr(vaekit, kind), Registry) for kind in kinds)


def test_a_name_leads_to_its_class_and_back(registry):
    cls = registry("plain", tags=("image",), cite="x2020")(gadget())
    assert registry["plain"] is cls and "plain" in registry and list(registry) == ["plain"] and len(registry) == 1
    assert registry.name_of(cls) == "plain" and registry.entry("plain").cite == ("x2020",)


def test_listing_filters_by_pattern_and_tags(registry):
    registry("red_one", tags=("red", "image"))(gadget("a"))
    registry("blue_one", tags=("blue", "image"))(gadget("b"))
    assert registry.names("*_one") == ["blue_one", "red_one"]
    assert registry.names("red*") == ["red_one"]
    assert registry.names(tags="image") == ["blue_one", "red_one"]
    assert registry.names(tags=("image", "blue")) == ["blue_one"]


def test_about_tells_signature_summary_tags_paper_and_origin():
    about = vaekit.encoder.about("mlp")
    shown = str(about)
    assert about.signature.startswith("(*, hidden: ") and "in_shape" not in about.signature
    for part in ("encoder 'mlp'", about.summary, "kingma2014", "vaekit.encoders.mlp:MLPEncoder", "tabular"):
        assert part in shown


def test_an_unknown_name_gives_near_names():
    with pytest.raises(UnknownName, match=r"no encoder named 'unet_atn'\. Did you mean 'unet_attn'\?"):
        vaekit.encoder["unet_atn"]


def test_an_unknown_name_says_that_another_kind_has_it():
    with pytest.raises(UnknownName, match="There is a prior of that name"):
        vaekit.sampler["standard"]
    with pytest.raises(
        UnknownName, match="There is an encoder and a decoder and a discriminator and a recipe of that name"
    ):
        vaekit.sampler["mlp"]


def test_an_unknown_name_in_capitals_gives_near_names():
    with pytest.raises(UnknownName, match="Did you mean 'mlp'"):
        vaekit.encoder["MLP"]


def test_a_wrong_base_class_is_refused_at_once(registry):
    class NotOne(torch.nn.Module):
        pass

    with pytest.raises(TypeError, match=r"gadget 'bad': 'NotOne' does not extend vaekit\.kinds\.Encoder"):
        registry("bad")(NotOne)
    with pytest.raises(TypeError, match="does not extend"):
        vaekit.encoder("bad")(vaekit.prior["standard"])
    assert issubclass(vaekit.prior["standard"], Prior) and "bad" not in registry


def test_the_same_class_again_replaces_as_in_a_notebook_and_another_one_is_refused(registry):
    registry("plain")(gadget("cell"))
    again = registry("plain")(gadget("cell"))
    assert registry["plain"] is again
    with pytest.raises(ValueError, match=r"gadget 'plain' is taken by cell:.*other:.* can't have it too"):
        registry("plain")(gadget("other"))
    assert registry["plain"] is again


def test_open_ended_arguments_are_refused(registry):
    class Loose(Encoder):
        def __init__(self, **kwargs):
            super().__init__()

        def forward(self, x, cond=None):
            return x

    with pytest.raises(TypeError, match=r"Loose takes '\*\*kwargs'"):
        registry("loose")(Loose)


def test_reserved_arguments_and_odd_names_are_refused(registry):
    class Heavy(vaekit.kinds.Loss):
        def __init__(self, *, weight: float = 1.0):
            super().__init__()

        def forward(self, out):
            return out.x.flatten(1).sum(1)

    with pytest.raises(TypeError, match="argument name 'weight' is reserved"):
        vaekit.loss("heavy")(Heavy)
    with pytest.raises(ValueError, match="use lower-case letters"):
        registry("Bad Name")(gadget())


def test_a_wrong_argument_is_told_with_path_near_name_and_signature():
    with pytest.raises(UnknownArgument) as error:
        vaekit.build("unet_attn", encoder=vaekit.use("unet_attn", widht=9))
    message = str(error.value)
    assert message.startswith("vae.encoder: UNetAttnEncoder ('unet_attn') has no argument 'widht'.")
    assert "Did you mean 'width'?" in message and "It takes (*, width: int = 64" in message


def test_a_missing_argument_is_told():
    with pytest.raises(UnknownArgument, match="vae.condition: ClassCondition .* needs the argument 'classes'"):
        vaekit.build("vae", condition="class")


def test_recipes_are_functions_with_checked_arguments():
    with pytest.raises(UnknownArgument, match=r"has no argument 'bta'\. Did you mean 'beta'\?"):
        vaekit.build("beta_vae", bta=3)
    with pytest.raises(TypeError, match="expected a function"):
        vaekit.recipe("thing")(gadget())
