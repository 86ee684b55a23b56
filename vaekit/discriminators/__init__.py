"""x or z → logits: critics for adversarial terms. One idea a file; importing this package registers them."""

from vaekit.discriminators.conv import ConvDiscriminator as ConvDiscriminator
from vaekit.discriminators.mlp import MLPDiscriminator as MLPDiscriminator
