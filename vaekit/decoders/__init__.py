"""z → y: natural parameters of the likelihood. One network a file; importing this package registers them."""

from vaekit.decoders.conv import ConvDecoder as ConvDecoder
from vaekit.decoders.dc import DCDecoder as DCDecoder
from vaekit.decoders.kl_resnet import KLResNetDecoder as KLResNetDecoder
from vaekit.decoders.latent_query_vit import LatentQueryViTDecoder as LatentQueryViTDecoder
from vaekit.decoders.mlp import MLPDecoder as MLPDecoder
from vaekit.decoders.perceiver import PerceiverDecoder as PerceiverDecoder
from vaekit.decoders.resnet import ResNetDecoder as ResNetDecoder
from vaekit.decoders.tiny import TinyDecoder as TinyDecoder
from vaekit.decoders.unet_attn import UNetAttnDecoder as UNetAttnDecoder
from vaekit.decoders.vit import ViTDecoder as ViTDecoder
