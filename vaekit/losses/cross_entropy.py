"""Cross-entropy of the latent's codes with labels, where there are any."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Categorical, Independent

from vaekit.kinds import Loss, loss
from vaekit.layers.joint import Joint
from vaekit.records import Output


@loss("cross_entropy", tags=("supervised",), cite="kingma2014b")
class CrossEntropyLoss(Loss):
    """-log q(k = label | x) of the latent's first code, 0 for examples without a label (-1).

    With a `joint` latent and the condition `target`, the code becomes the class, and its q(k|x) a classifier that also
    learns from examples without labels.

    Shapes: Output → (b,). Unit: nats.

    Raises:
        ValueError: at build, where the latent has no codes with probabilities, the model no condition, or
            they are not as many.

    References:
        Semi-Supervised Learning with Deep Generative Models (Kingma et al., 2014), https://arxiv.org/abs/1406.5298

    Example:
        >>> import torch, vaekit
        >>> vae = vaekit.build("semi_supervised_vae", latent=4, input_shape=(1, 4, 4), classes=3)
        >>> list(vae.loss(torch.rand(3, 1, 4, 4), torch.tensor([0, 2, -1])).terms)
        ['nll', 'kl', 'cross_entropy']
    """

    def check(self, out: Output) -> None:
        """The latent needs codes with probabilities, and the model labels."""
        logits = _logits(out)
        if logits is None:
            raise ValueError("cross_entropy needs codes with probabilities. Use the sampler 'joint', 'gumbel_softmax'.")
        if out.model.condition is None:
            raise ValueError("cross_entropy needs labels. Build with condition=use('target', classes=…).")
        classes = getattr(out.model.condition, "classes", logits.shape[-1])
        if classes != logits.shape[-1]:
            raise ValueError(
                f"cross_entropy: a code has {logits.shape[-1]} categories and there are {classes} classes. Set the "
                f"sampler's categories={classes}."
            )

    def forward(self, out: Output) -> Float[Tensor, " b"]:
        logits = _logits(out)
        assert logits is not None
        label = out.cond if out.cond is not None else torch.full((len(out.x),), -1, device=logits.device)
        return F.cross_entropy(logits, label.long(), ignore_index=-1, reduction="none")


def _logits(out: Output) -> Tensor | None:
    """Logits of the first code, (b, classes)."""
    q = out.levels[0].q
    index = q.index if isinstance(q, Joint) else q
    if isinstance(index, Independent) and isinstance(index.base_dist, Categorical):
        logits = index.base_dist.logits
        return logits.flatten(1, -2)[:, 0]
    return None
