"""Output → one number per example. One idea a file; importing this package registers them."""

from vaekit.losses.adversarial_latent import AdversarialLatentLoss as AdversarialLatentLoss
from vaekit.losses.capacity import CapacityLoss as CapacityLoss
from vaekit.losses.code_entropy import CodeEntropyLoss as CodeEntropyLoss
from vaekit.losses.commitment import CodebookLoss as CodebookLoss
from vaekit.losses.commitment import CommitmentLoss as CommitmentLoss
from vaekit.losses.cross_entropy import CrossEntropyLoss as CrossEntropyLoss
from vaekit.losses.decoder_gradient_penalty import DecoderGradientPenaltyLoss as DecoderGradientPenaltyLoss
from vaekit.losses.dip import DIPLoss as DIPLoss
from vaekit.losses.factor_tc import FactorTCLoss as FactorTCLoss
from vaekit.losses.feature_matching import FeatureMatchingLoss as FeatureMatchingLoss
from vaekit.losses.kl import KLLoss as KLLoss
from vaekit.losses.latent_l2 import LatentL2Loss as LatentL2Loss
from vaekit.losses.mmd import MMDLoss as MMDLoss
from vaekit.losses.mutual_information import MutualInformationLoss as MutualInformationLoss
from vaekit.losses.nll import NLLLoss as NLLLoss
from vaekit.losses.pointwise import BCELoss as BCELoss
from vaekit.losses.pointwise import L1Loss as L1Loss
from vaekit.losses.pointwise import MSELoss as MSELoss
from vaekit.losses.robust import CharbonnierLoss as CharbonnierLoss
from vaekit.losses.robust import LogCoshLoss as LogCoshLoss
from vaekit.losses.sliced_wasserstein import SlicedWassersteinLoss as SlicedWassersteinLoss
from vaekit.losses.structural_similarity import MSSSIMLoss as MSSSIMLoss
from vaekit.losses.structural_similarity import SSIMLoss as SSIMLoss
from vaekit.losses.tc import TCLoss as TCLoss
from vaekit.losses.vgg import VGGLoss as VGGLoss
from vaekit.losses.weight_l2 import WeightL2Loss as WeightL2Loss
