"""Named models as short functions that return a `Spec`: presets that one can read."""

from vaekit.recipes import classic as classic
from vaekit.recipes import networks as networks
