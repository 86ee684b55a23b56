"""x → h: features of the data. One network a file; importing this package registers them."""

from vaekit.encoders.conv import ConvEncoder as ConvEncoder
from vaekit.encoders.mlp import MLPEncoder as MLPEncoder
from vaekit.encoders.resnet import ResNetEncoder as ResNetEncoder
from vaekit.encoders.timm_backbone import TimmEncoder as TimmEncoder
from vaekit.encoders.unet_attn import UNetAttnEncoder as UNetAttnEncoder
