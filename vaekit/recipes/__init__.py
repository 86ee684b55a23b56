"""Named models as short functions that return a `Spec`: presets that one can read."""

from vaekit.recipes import adversarial as adversarial
from vaekit.recipes import bounds as bounds
from vaekit.recipes import classic as classic
from vaekit.recipes import densities as densities
from vaekit.recipes import deterministic as deterministic
from vaekit.recipes import disentangling as disentangling
from vaekit.recipes import images as images
from vaekit.recipes import latent_diffusion as latent_diffusion
from vaekit.recipes import networks as networks
from vaekit.recipes import posteriors as posteriors
from vaekit.recipes import quantized as quantized
from vaekit.recipes import reconstruction as reconstruction
from vaekit.recipes import tokenizers as tokenizers
from vaekit.recipes import transformers as transformers
