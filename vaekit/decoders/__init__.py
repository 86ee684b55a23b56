"""z → y: natural parameters of the likelihood. One network a file; importing this package registers them."""

from vaekit.decoders.conv import ConvDecoder as ConvDecoder
from vaekit.decoders.mlp import MLPDecoder as MLPDecoder
from vaekit.decoders.resnet import ResNetDecoder as ResNetDecoder
from vaekit.decoders.unet_attn import UNetAttnDecoder as UNetAttnDecoder
