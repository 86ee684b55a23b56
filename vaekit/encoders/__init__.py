"""x → h: features of the data. One network a file; importing this package registers them."""

from vaekit.encoders.conv import ConvEncoder as ConvEncoder
from vaekit.encoders.dc import DCEncoder as DCEncoder
from vaekit.encoders.frozen_vision import FrozenVisionEncoder as FrozenVisionEncoder
from vaekit.encoders.kl_resnet import KLResNetEncoder as KLResNetEncoder
from vaekit.encoders.latent_query_vit import LatentQueryViTEncoder as LatentQueryViTEncoder
from vaekit.encoders.mlp import MLPEncoder as MLPEncoder
from vaekit.encoders.perceiver import PerceiverEncoder as PerceiverEncoder
from vaekit.encoders.resnet import ResNetEncoder as ResNetEncoder
from vaekit.encoders.timm_backbone import TimmEncoder as TimmEncoder
from vaekit.encoders.tiny import TinyEncoder as TinyEncoder
from vaekit.encoders.unet_attn import UNetAttnEncoder as UNetAttnEncoder
from vaekit.encoders.vit import ViTEncoder as ViTEncoder
