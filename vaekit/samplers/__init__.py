"""h → q(z|x) and a draw z: the latent samplers. One idea a file; importing this package registers them."""

from vaekit.samplers.dirac import DiracSampler as DiracSampler
from vaekit.samplers.gaussian import GaussianSampler as GaussianSampler
