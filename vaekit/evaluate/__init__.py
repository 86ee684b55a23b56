"""What a trained model is worth, in numbers: `evaluate(vae, data)`, and each of its parts.

>>> import torch, vaekit
>>> from vaekit.evaluate import evaluate
>>> vae = vaekit.build("mlp", latent=2, input_shape=(1, 28, 28))
>>> report = evaluate(vae, torch.rand(10, 1, 28, 28), draws=4)
>>> report["mse"] > 0
True
"""

from vaekit.evaluate.bounds import Bounds as Bounds
from vaekit.evaluate.bounds import bounds as bounds
from vaekit.evaluate.compression import CodeLength as CodeLength
from vaekit.evaluate.compression import code_length as code_length
from vaekit.evaluate.disentanglement import DCI as DCI
from vaekit.evaluate.disentanglement import dci as dci
from vaekit.evaluate.disentanglement import explicitness as explicitness
from vaekit.evaluate.disentanglement import factor_vae_score as factor_vae_score
from vaekit.evaluate.disentanglement import mig as mig
from vaekit.evaluate.disentanglement import modularity as modularity
from vaekit.evaluate.disentanglement import mutual_informations as mutual_informations
from vaekit.evaluate.disentanglement import sap as sap
from vaekit.evaluate.examples import Examples as Examples
from vaekit.evaluate.extractors import Extractor as Extractor
from vaekit.evaluate.extractors import extractor as extractor
from vaekit.evaluate.fid import Moments as Moments
from vaekit.evaluate.fid import features_of as features_of
from vaekit.evaluate.fid import frechet as frechet
from vaekit.evaluate.fid import kernel_distance as kernel_distance
from vaekit.evaluate.fid import moments_of as moments_of
from vaekit.evaluate.fid import originals as originals
from vaekit.evaluate.fid import precision_recall as precision_recall
from vaekit.evaluate.fid import reconstructions as reconstructions
from vaekit.evaluate.fid import samples as samples
from vaekit.evaluate.images import reconstruction as reconstruction
from vaekit.evaluate.latents import CodeUsage as CodeUsage
from vaekit.evaluate.latents import Information as Information
from vaekit.evaluate.latents import Latents as Latents
from vaekit.evaluate.latents import active_units as active_units
from vaekit.evaluate.latents import clustering as clustering
from vaekit.evaluate.latents import code_usage as code_usage
from vaekit.evaluate.latents import information as information
from vaekit.evaluate.latents import latents as latents
from vaekit.evaluate.latents import linear_probe as linear_probe
from vaekit.evaluate.report import EvaluationReport as EvaluationReport
from vaekit.evaluate.report import Metric as Metric
from vaekit.evaluate.report import evaluate as evaluate
from vaekit.evaluate.report import main as main
from vaekit.evaluate.sprites import FACTORS as FACTORS
from vaekit.evaluate.sprites import sprites as sprites
