"""Parts for variational autoencoders, and a builder that wires them.

    >>> import vaekit
    >>> vae = vaekit.build("mlp", latent=20, input_shape=(1, 28, 28))

Registries of parts: `encoder`, `sampler`, `prior`, `decoder`, `likelihood`, `loss`, `discriminator`, `condition`,
`transform`, `normalizer`, and `recipe` for named models. `vaekit.Trainer` needs the extra `train`.
"""

from typing import TYPE_CHECKING, Any

from vaekit.build import Builder as Builder
from vaekit.build import build as build
from vaekit.build import load as load
from vaekit.cite import cite as cite
from vaekit.kinds import condition as condition
from vaekit.kinds import decoder as decoder
from vaekit.kinds import discriminator as discriminator
from vaekit.kinds import encoder as encoder
from vaekit.kinds import likelihood as likelihood
from vaekit.kinds import loss as loss
from vaekit.kinds import normalizer as normalizer
from vaekit.kinds import prior as prior
from vaekit.kinds import recipe as recipe
from vaekit.kinds import sampler as sampler
from vaekit.kinds import transform as transform
from vaekit.kinds import weight as weight
from vaekit.records import Level as Level
from vaekit.records import Output as Output
from vaekit.records import Report as Report
from vaekit.registry import UnknownArgument as UnknownArgument
from vaekit.registry import UnknownName as UnknownName
from vaekit.saving import CheckpointError as CheckpointError
from vaekit.spec import Spec as Spec
from vaekit.spec import term as term
from vaekit.spec import use as use
from vaekit.vae import VAE as VAE
from vaekit.version import __version__ as __version__
from vaekit.weights import constant as constant
from vaekit.weights import cyclical as cyclical
from vaekit.weights import geco as geco
from vaekit.weights import gradient_balanced as gradient_balanced
from vaekit.weights import ramp as ramp
from vaekit.wiring import BuildError as BuildError

if TYPE_CHECKING:
    from vaekit.train import Trainer as Trainer
    from vaekit.train.search import search as search


def __getattr__(name: str) -> Any:
    if name == "Trainer":  # brings accelerate, which `import vaekit` must not
        from vaekit.train import Trainer

        return Trainer
    if name == "search":
        from vaekit.train.search import search

        return search
    raise AttributeError(f"module 'vaekit' has no attribute {name!r}")
