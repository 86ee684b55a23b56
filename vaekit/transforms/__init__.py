"""What is done to the latent before it is decoded. One idea a file; importing this package registers them."""

from vaekit.transforms.bound import BoundTransform as BoundTransform
from vaekit.transforms.channel_dropout import ChannelDropoutTransform as ChannelDropoutTransform
from vaekit.transforms.equivariance import EquivarianceTransform as EquivarianceTransform
from vaekit.transforms.latent_noise import LatentNoiseTransform as LatentNoiseTransform
