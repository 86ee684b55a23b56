"""y → p(x|z). One family a file; importing this package registers them."""

from vaekit.likelihoods.bernoulli import BernoulliLikelihood as BernoulliLikelihood
from vaekit.likelihoods.beta import BetaLikelihood as BetaLikelihood
from vaekit.likelihoods.categorical import CategoricalLikelihood as CategoricalLikelihood
from vaekit.likelihoods.continuous_bernoulli import ContinuousBernoulliLikelihood as ContinuousBernoulliLikelihood
from vaekit.likelihoods.discretized_logistic import DiscretizedLogisticLikelihood as DiscretizedLogisticLikelihood
from vaekit.likelihoods.discretized_logistic_mixture import (
    DiscretizedLogisticMixtureLikelihood as DiscretizedLogisticMixtureLikelihood,
)
from vaekit.likelihoods.gaussian import GaussianLikelihood as GaussianLikelihood
from vaekit.likelihoods.laplace import LaplaceLikelihood as LaplaceLikelihood
from vaekit.likelihoods.negative_binomial import NegativeBinomialLikelihood as NegativeBinomialLikelihood
from vaekit.likelihoods.poisson import PoissonLikelihood as PoissonLikelihood
from vaekit.likelihoods.student_t import StudentTLikelihood as StudentTLikelihood
from vaekit.likelihoods.von_mises import VonMisesLikelihood as VonMisesLikelihood
from vaekit.likelihoods.zero_inflated_negative_binomial import (
    ZeroInflatedNegativeBinomialLikelihood as ZeroInflatedNegativeBinomialLikelihood,
)
