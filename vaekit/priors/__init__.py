"""p(z). One density a file; importing this package registers them."""

from vaekit.priors.standard import StandardPrior as StandardPrior
