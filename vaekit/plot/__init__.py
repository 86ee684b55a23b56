"""Pictures of a model, as figures of matplotlib: `pip install "vaekit[plot]"`.

Each function returns a `matplotlib.figure.Figure`, which a notebook shows, and writes it where `path=` says so, whole
or not at all. None touches pyplot, or any other global state.

>>> import torch, vaekit
>>> from vaekit import plot
>>> vae = vaekit.build("mlp", latent=2, input_shape=(1, 8, 8))
>>> figure = plot.reconstructions(vae, torch.rand(6, 1, 8, 8))
>>> figure.axes[0].images[0].get_array().shape  # two rows of six, with a pixel around each
(20, 60, 3)
"""

from vaekit.plot.codebook import codebook as codebook
from vaekit.plot.curves import curves as curves
from vaekit.plot.examples import interpolations as interpolations
from vaekit.plot.examples import manifold as manifold
from vaekit.plot.examples import reconstructions as reconstructions
from vaekit.plot.examples import samples as samples
from vaekit.plot.examples import traversals as traversals
from vaekit.plot.film import film as film
from vaekit.plot.scatter import latents as latents
