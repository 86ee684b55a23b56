"""p(z). One density a file; importing this package registers them."""

from vaekit.priors.autoregressive import AutoregressivePrior as AutoregressivePrior
from vaekit.priors.bernoulli import BernoulliPrior as BernoulliPrior
from vaekit.priors.categorical import CategoricalPrior as CategoricalPrior
from vaekit.priors.conditional_normal import ConditionalNormalPrior as ConditionalNormalPrior
from vaekit.priors.empirical import EmpiricalPrior as EmpiricalPrior
from vaekit.priors.flow import FlowPrior as FlowPrior
from vaekit.priors.full_gaussian import FullGaussianPrior as FullGaussianPrior
from vaekit.priors.gamma import GammaPrior as GammaPrior
from vaekit.priors.gmm import GaussianMixturePrior as GaussianMixturePrior
from vaekit.priors.joint import JointPrior as JointPrior
from vaekit.priors.kde import KernelDensityPrior as KernelDensityPrior
from vaekit.priors.mixture import MixturePrior as MixturePrior
from vaekit.priors.normal import NormalPrior as NormalPrior
from vaekit.priors.riemannian import RiemannianPrior as RiemannianPrior
from vaekit.priors.riemannian_normal import RiemannianNormalPrior as RiemannianNormalPrior
from vaekit.priors.standard import StandardPrior as StandardPrior
from vaekit.priors.two_stage import TwoStagePrior as TwoStagePrior
from vaekit.priors.uniform import UniformPrior as UniformPrior
from vaekit.priors.uniform_sphere import UniformSpherePrior as UniformSpherePrior
from vaekit.priors.vamp import VampPrior as VampPrior
from vaekit.priors.wrapped_normal import WrappedNormalPrior as WrappedNormalPrior
