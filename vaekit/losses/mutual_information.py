"""The mutual information of data and latent, estimated over the batch."""

from jaxtyping import Float
from torch import Tensor

from vaekit.kinds import Loss, loss
from vaekit.layers.aggregate import Aggregate, Estimator, log_pairs, require_density
from vaekit.layers.draws import average_draws
from vaekit.records import Output


@loss("mutual_information", cite=("hoffman2016", "chen2018"))
class MutualInformationLoss(Loss):
    """I(x; z) = E[log q(z|x) - log q(z)], q(z) the mean of q(z|x) over the data.

    A positive weight lowers the information that z holds on x, a negative one raises it. Beside nll and kl of weight 1,
    a weight of -1 takes the information out of the KL, which leaves KL(q(z) ‖ p(z)).

        "mws"   q(z) ≈ 1/(N b) Σ_j q(z|x_j): N adds log N to the value, and nothing to the gradient
        "mss"   q(z) ≈ 1/N q(z|x_i) + (N-1)/(N (b-1)) Σ_{j≠i} q(z|x_j): q(z) is right on average over batches

    Without N the estimate is at most log b, however much z holds.

    Memory: n · b² · d numbers for n draws of b examples with d latent dimensions.

    Shapes: Output → (b,). Unit: nats.

    Args:
        estimator: "mws" or "mss", how q(z) is estimated.
        dataset_size: N, the number of training examples. None counts the batch as all data: q(z) ≈ 1/b Σ_j q(z|x_j)
            with both estimators.

    Raises:
        ValueError: where the estimator is unknown or N is below 2; at build, where q(z|x) has no density that can be
            evaluated anywhere; at a call, for a batch of one example.

    References:
        ELBO surgery: yet another way to carve up the variational evidence lower bound (Hoffman & Johnson, 2016),
        https://approximateinference.org/2016/accepted/HoffmanJohnson2016.pdf; Isolating Sources of Disentanglement in
        Variational Autoencoders (Chen et al., 2018; the estimators), https://arxiv.org/abs/1802.04942

    Example:
        >>> import torch, vaekit
        >>> loss = {"nll": 1.0, "kl": 1.0, "mutual_information": -1.0}
        >>> vae = vaekit.build("mlp", latent=2, input_shape=(1, 4, 4), loss=loss)
        >>> list(vae.loss(torch.rand(8, 1, 4, 4)).terms)
        ['nll', 'kl', 'mutual_information']
    """

    batchwise = True
    smallest_batch = 2

    def __init__(self, *, estimator: Estimator = "mws", dataset_size: int | None = None) -> None:
        super().__init__()
        self.aggregate = Aggregate("mutual_information", estimator, dataset_size)

    def check(self, out: Output) -> None:
        """q(z|x) has to be known at the draws of other examples."""
        for level in out.levels:
            require_density("mutual_information", level)

    def forward(self, out: Output) -> Float[Tensor, " b"]:
        (level,) = out.levels
        return average_draws(level.log_posterior() - self.aggregate(log_pairs(level)))
