"""Parts with a frozen timm network compile whole, also where it is made while the graph is traced."""

import copy

import pytest
import torch

from tests.test_timm_parts import image, parts
from vaekit.objective import TrainStep


@pytest.mark.parametrize(("name", "vae"), list(parts()), ids=lambda given: given if isinstance(given, str) else "")
def test_a_part_compiles_whole_and_gives_the_same(name, vae):
    torch._dynamo.reset()
    x = image(2, 3, 8, 8)
    twin = copy.deepcopy(vae.eval())  # evaluation, so that estimates of singular values stay
    torch.manual_seed(0)
    compiled = torch.compile(TrainStep(vae), fullgraph=True, backend="aot_eager")(x).total
    torch.manual_seed(0)
    torch.testing.assert_close(compiled, twin.loss(x).total, rtol=1e-4, atol=1e-4)
