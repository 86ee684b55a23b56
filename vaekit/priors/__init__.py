"""p(z). One density a file; importing this package registers them."""

from vaekit.priors.mixture import MixturePrior as MixturePrior
from vaekit.priors.normal import NormalPrior as NormalPrior
from vaekit.priors.standard import StandardPrior as StandardPrior
from vaekit.priors.vamp import VampPrior as VampPrior
