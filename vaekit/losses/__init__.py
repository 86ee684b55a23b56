"""Output → one number per example. One idea a file; importing this package registers them."""

from vaekit.losses.kl import KLLoss as KLLoss
from vaekit.losses.nll import NLLLoss as NLLLoss
from vaekit.losses.pointwise import BCELoss as BCELoss
from vaekit.losses.pointwise import L1Loss as L1Loss
from vaekit.losses.pointwise import MSELoss as MSELoss
