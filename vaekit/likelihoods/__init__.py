"""y → p(x|z). One family a file; importing this package registers them."""

from vaekit.likelihoods.bernoulli import BernoulliLikelihood as BernoulliLikelihood
from vaekit.likelihoods.gaussian import GaussianLikelihood as GaussianLikelihood
from vaekit.likelihoods.laplace import LaplaceLikelihood as LaplaceLikelihood
