"""Total correlation, estimated over the batch."""

from jaxtyping import Float
from torch import Tensor

from vaekit.kinds import Loss, loss
from vaekit.layers.aggregate import Aggregate, Estimator, factorises, log_pairs_by_dimension, require_density
from vaekit.layers.draws import average_draws
from vaekit.records import Output


@loss("tc", tags=("disentangling",), cite="chen2018")
class TCLoss(Loss):
    """TC = E[log q(z) - Σ_d log q(z_d)] = KL(q(z) ‖ Π_d q(z_d)), q(z) the mean of q(z|x) over the data.

    Beside the terms nll and kl of weight 1, a weight of β - 1 makes the β-TCVAE: the KL is the mutual information of x
    and z, the total correlation and the KL of each dimension, and β weighs the second alone.

        "mws"   q(z) ≈ 1/(N b) Σ_j q(z|x_j): N adds (d-1) log N to the value, and nothing to the gradient
        "mss"   q(z) ≈ 1/N q(z|x_i) + (N-1)/(N (b-1)) Σ_{j≠i} q(z|x_j): q(z) is right on average over batches

    Memory: n · b² · d numbers for n draws of b examples with d latent dimensions.

    Shapes: Output → (b,). Unit: nats.

    Args:
        estimator: "mws" or "mss", how q(z) is estimated.
        dataset_size: N, the number of training examples. None counts the batch as all data: q(z) ≈ 1/b Σ_j q(z|x_j)
            with both estimators.

    Raises:
        ValueError: where the estimator is unknown or N is below 2; at build, where q(z|x) is no product over latent
            dimensions; at a call, for a batch of one example.

    References:
        Isolating Sources of Disentanglement in Variational Autoencoders (Chen et al., 2018),
        https://arxiv.org/abs/1802.04942

    Example:
        >>> import torch, vaekit
        >>> loss = [vaekit.term("nll"), vaekit.term("kl"), vaekit.term("tc", weight=5.0, dataset_size=60_000)]
        >>> vae = vaekit.build("mlp", latent=2, input_shape=(1, 4, 4), loss=loss)
        >>> list(vae.loss(torch.rand(8, 1, 4, 4)).terms)
        ['nll', 'kl', 'tc']
    """

    batchwise = True
    smallest_batch = 2

    def __init__(self, *, estimator: Estimator = "mws", dataset_size: int | None = None) -> None:
        super().__init__()
        self.aggregate = Aggregate("tc", estimator, dataset_size)

    def check(self, out: Output) -> None:
        """q(z|x) has to be a product over latent dimensions, whose marginals are then known."""
        for level in out.levels:
            require_density("tc", level)
            if not factorises(level):
                raise ValueError(
                    "tc needs a q(z|x) that is a product over latent dimensions, and this sampler's is not. Use a "
                    "sampler such as 'gaussian', or the loss 'factor_tc'."
                )

    def forward(self, out: Output) -> Float[Tensor, " b"]:
        (level,) = out.levels
        pairs = log_pairs_by_dimension(level)  # (d, *n, i, j)
        log_joint, log_marginals = self.aggregate(pairs.sum(0)), self.aggregate(pairs)
        return average_draws(log_joint - log_marginals.sum(0))
