"""x or z → logits: critics for adversarial terms. One idea a file; importing this package registers them."""

from vaekit.discriminators.conditional_patchgan import (
    ConditionalPatchGANDiscriminator as ConditionalPatchGANDiscriminator,
)
from vaekit.discriminators.conv import ConvDiscriminator as ConvDiscriminator
from vaekit.discriminators.dino import DINODiscriminator as DINODiscriminator
from vaekit.discriminators.latent_mlp import LatentMLPDiscriminator as LatentMLPDiscriminator
from vaekit.discriminators.mlp import MLPDiscriminator as MLPDiscriminator
from vaekit.discriminators.multiscale_patchgan import MultiscalePatchGANDiscriminator as MultiscalePatchGANDiscriminator
from vaekit.discriminators.patchgan import PatchGANDiscriminator as PatchGANDiscriminator
from vaekit.discriminators.projected import ProjectedDiscriminator as ProjectedDiscriminator
from vaekit.discriminators.stylegan2 import StyleGAN2Discriminator as StyleGAN2Discriminator
from vaekit.discriminators.unet import UNetDiscriminator as UNetDiscriminator
from vaekit.discriminators.vqgan_plus import VQGANPlusDiscriminator as VQGANPlusDiscriminator
